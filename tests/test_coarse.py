"""Bars in half the digits: each number of the table against the bar it is of, and what a block is asked against all its bars."""

from __future__ import annotations

import numpy as np
import pytest
from test_pyramid import made_series

from perpbt.kernels import coarse as rows
from perpbt.kernels.coarse import BLOCK, MOST, ROW, STRETCH, coarse_over
from perpbt.kernels.compile import kernel
from perpbt.kernels.sixteens import WIDE, highest_of_each, lowest_of_each, only, put_sixteen, sixteen
from perpbt.kernels.tables import FUNDING, HIGH, LOW, MARK_CLOSE, MARK_HIGH, MARK_LOW, Coarse, Floats


def expected(series: Floats) -> dict[int, Floats]:
    """What stands where, before it is rounded."""
    funding = series[FUNDING]
    return {
        rows.LOW_AT: series[LOW],
        rows.HIGH_AT: series[HIGH],
        rows.MARK_LOW_AT: series[MARK_LOW],
        rows.MARK_HIGH_AT: series[MARK_HIGH],
        rows.WORTH: series[MARK_CLOSE] - funding,
        rows.THIN_LOW: series[MARK_LOW] - funding,
        rows.THIN_HIGH: funding - series[MARK_HIGH],
    }


@pytest.mark.parametrize("bars", [1, 63, 64, 65, 2047, 2048, 2049, 5000])
def test_every_number_of_every_bar(bars: int) -> None:
    series = made_series(bars, bars, 1e-7)
    table = coarse_over(series, np.empty)
    assert table.shape == (-(-bars // BLOCK), ROW)
    assert table.ctypes.data % 64 == 0, (
        "sixteen numbers are read at once from where a line of the cache begins"
    )
    for place, values in expected(series).items():
        found = table[:, place : place + BLOCK].reshape(-1)
        assert (found[:bars] == values.astype(np.float32)).all()
        assert (found[bars:] == 0.0).all()


@pytest.mark.parametrize("scale", [1.0, -1.0, 1e-30, -1e-42, 1e-44, 0.0, 3e30])
def test_the_highest_cf_of_a_stretch_is_not_rounded_down(scale: float) -> None:
    series = made_series(5000, 3, 0.25)
    series[FUNDING] = scale * (1.0 + 1e-9 * np.arange(5000))
    table = coarse_over(series, np.empty)
    for row in range(table.shape[0]):
        first = row // STRETCH * STRETCH
        most = series[FUNDING, first * BLOCK : (first + STRETCH) * BLOCK].max()
        assert float(table[row, MOST]) >= most
        assert float(table[row, MOST]) <= most + 1e-6 * abs(most) + 1e-36


@kernel
def extremes_of_each(numbers: Coarse, lanes: int, found: Coarse) -> None:
    """Of sixteen sixteens, the smallest and the largest of each; and of the first, some lanes."""
    put_sixteen(found, 0, lowest_of_each(numbers, 0))
    put_sixteen(found, WIDE, highest_of_each(numbers, 0))
    put_sixteen(found, 2 * WIDE, only(lanes, sixteen(numbers, 0), np.float32(-1.0)))


@pytest.mark.parametrize("seed", range(5))
def test_the_extremes_of_sixteen_blocks_at_once(seed: int) -> None:
    """Every number is in its place at least once, be it the smallest or the largest of its sixteen."""
    random = np.random.default_rng(seed)
    numbers, found = random.permutation(256).astype(np.float32), np.empty(3 * WIDE, dtype=np.float32)
    if seed == 0:
        numbers[:] = np.inf
    lanes = int(random.integers(0, 1 << WIDE))
    extremes_of_each(numbers, lanes, found)
    table = numbers.reshape(WIDE, WIDE)
    assert found[:WIDE].tolist() == table.min(axis=1).tolist()
    assert found[WIDE : 2 * WIDE].tolist() == table.max(axis=1).tolist()
    assert found[2 * WIDE :].tolist() == [table[0, k] if lanes >> k & 1 else -1.0 for k in range(WIDE)]
