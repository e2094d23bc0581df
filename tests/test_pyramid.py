"""Block extremes: every number of every node against the bars it is over, looked at one by one."""

from __future__ import annotations

import numpy as np
import pytest

from perpbt.kernels.pyramid import (
    COLUMNS,
    FALL,
    FUNDING_HIGH,
    FUNDING_LOW,
    HIGHEST_AT,
    LOWEST_AT,
    NEXT_HIGHEST,
    NEXT_LOWEST,
    RISE,
    SHIFT,
    WORTH_HIGH,
    WORTH_LOW,
    pyramid_over,
)
from perpbt.kernels.tables import FUNDING, MARK_CLOSE, SERIES, Floats


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
    held[FALL] = (np.maximum.accumulate(worth) - worth).max()
    held[RISE] = (worth - np.minimum.accumulate(worth)).max()
    return held


def tops_over(series: Floats, first: int, last: int) -> list[float]:
    """The first bars of lowest and highest worth, and the next worths at bars with another mark close or CF."""
    part = series[:, first:last]
    worth = part[MARK_CLOSE] - part[FUNDING]
    found = []
    for sign in (1.0, -1.0):
        at = int((sign * worth).argmin())
        others = (part[MARK_CLOSE] != part[MARK_CLOSE, at]) | (part[FUNDING] != part[FUNDING, at])
        following = (sign * worth[others]).min() if others.any() else np.inf
        found += [float(first + at), sign * following]
    return found


@pytest.mark.parametrize(("bars", "grid"), [(1, 1.0), (8, 1.0), (9, 0.5), (64, 0.01), (65, 2.0), (700, 1.0)])
def test_every_node_holds_what_its_bars_say(bars: int, grid: float) -> None:
    series = made_series(bars, bars, grid)
    pyramid = pyramid_over(series, 8)
    assert (LOWEST_AT, NEXT_LOWEST, HIGHEST_AT, NEXT_HIGHEST) == (0, 1, 2, 3)
    assert pyramid.nodes.shape[0] == pyramid.starts[-1]
    for level in range(1, pyramid.levels + 1):
        size = 1 << (SHIFT * level)
        for k, node in enumerate(range(pyramid.starts[level - 1], pyramid.starts[level])):
            first, last = k * size, min((k + 1) * size, bars)
            assert pyramid.nodes[node].tolist() == over(series, first, last).tolist()
            assert pyramid.tops[node].tolist() == tops_over(series, first, last)
