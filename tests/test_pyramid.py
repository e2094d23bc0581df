"""Block extremes: every number of every node against the bars it is over, looked at one by one."""

from __future__ import annotations

import numpy as np
import pytest

from perpbt.kernels.pyramid import (
    COLUMNS,
    FALL,
    FUNDING_HIGH,
    FUNDING_LOW,
    RISE,
    SHIFT,
    THIN_HIGH,
    THIN_LOW,
    WORTH_HIGH,
    WORTH_LOW,
    pyramid_over,
)
from perpbt.kernels.tables import FUNDING, MARK_CLOSE, MARK_HIGH, MARK_LOW, SERIES, Floats
from perpbt.mapped import MEMORY


def made_series(bars: int, seed: int, grid: float) -> Floats:
    """Rows as of a market, prices and CF on a grid so that many are equal."""
    random = np.random.default_rng(seed)
    series = np.round((100.0 + np.cumsum(random.normal(0.0, 1.0, (SERIES, bars)), axis=1)) / grid) * grid
    series[FUNDING] = np.repeat(np.round(random.normal(0.0, 1.0, bars // 5 + 1)) / 8.0, 5)[:bars]
    return series


def over(series: Floats, first: int, last: int) -> Floats:
    """What a node over bars [first, last) should hold."""
    held = np.empty(COLUMNS)
    part = series[:, first:last]
    for column in range(0, FUNDING_LOW, 2):
        held[column], held[column + 1] = part[column].min(), part[column + 1].max()
    held[FUNDING_LOW], held[FUNDING_HIGH] = part[FUNDING].min(), part[FUNDING].max()
    worth = part[MARK_CLOSE] - part[FUNDING]
    held[WORTH_LOW], held[WORTH_HIGH] = worth.min(), worth.max()
    held[THIN_LOW], held[THIN_HIGH] = (
        (part[MARK_LOW] - part[FUNDING]).min(),
        (part[MARK_HIGH] - part[FUNDING]).max(),
    )
    held[FALL] = (np.maximum.accumulate(worth) - worth).max()
    held[RISE] = (worth - np.minimum.accumulate(worth)).max()
    return held


def tops_over(series: Floats, first: int, last: int) -> list[float]:
    """For lowest and highest worth, and the worst marks less CF: price and CF of the first bar, and the next at bars with another price or CF."""
    part = series[:, first:last]
    found = []
    for row, sign in ((MARK_CLOSE, 1.0), (MARK_CLOSE, -1.0), (MARK_LOW, 1.0), (MARK_HIGH, -1.0)):
        worth = part[row] - part[FUNDING]
        at = int((sign * worth).argmin())
        others = (part[row] != part[row, at]) | (part[FUNDING] != part[FUNDING, at])
        following = (sign * worth[others]).min() if others.any() else np.inf
        found += [part[row, at], part[FUNDING, at], sign * following]
    return found


@pytest.mark.parametrize(("bars", "grid"), [(1, 1.0), (8, 1.0), (9, 0.5), (64, 0.01), (65, 2.0), (700, 1.0)])
def test_every_node_holds_what_its_bars_say(bars: int, grid: float) -> None:
    series = made_series(bars, bars, grid)
    pyramid = pyramid_over(series, 8)
    assert 8 * pyramid.nodes.shape[0] == pyramid.starts[-1] == pyramid.tops.shape[0]
    for level in range(1, pyramid.levels + 1):
        size = 1 << (SHIFT * level)
        assert pyramid.starts[level - 1] % 8 == 0
        for k in range(-(-bars // size)):
            node = int(pyramid.starts[level - 1]) + k
            first, last = k * size, min((k + 1) * size, bars)
            assert pyramid.nodes[node // 8, :, node % 8].tolist() == over(series, first, last).tolist()
            assert pyramid.tops[node].tolist() == tops_over(series, first, last)


def test_large_arrays_begin_where_a_line_of_the_cache_does() -> None:
    """Kernels read eight numbers at a time: across two lines that takes twice as long."""
    for shape, kind in (((3, 40), np.float64), ((700_001,), np.int64), ((9,), np.int8)):
        made = MEMORY.array(shape, kind)
        assert (made.shape, made.dtype) == (shape, np.dtype(kind))
        assert made.flags.c_contiguous
        assert made.flags.writeable
        assert made.ctypes.data % 64 == 0
        assert not made.any()
