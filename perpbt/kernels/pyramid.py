"""Block extremes of one symbol's bars, level upon level: what lets a walk pass over bars without looking at each.

Level l has a node for every 8**l bars. A node holds the extremes of its bars, so that a threshold out of reach of a node is out
of reach of every bar in it: rounding is monotone, so this needs no tolerance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .compile import kernel, part
from .tables import FUNDING, MARK_CLOSE, Floats, Integers, Pyramid

SHIFT = 3  # a node has 2**SHIFT children
COLUMNS = 10  # of Pyramid.nodes
# The first four are those of the same name in Market.series: low, high, mark low, mark high. Then of CF; of worth = mark close - CF,
# which is what a position gains by; and the largest fall and rise from the worth of one bar to that of a later one.
FUNDING_LOW, FUNDING_HIGH, WORTH_LOW, WORTH_HIGH, FALL, RISE = 4, 5, 6, 7, 8, 9


@part
def build_level(nodes: Floats, at: int, below: int) -> None:
    """Nodes from row `at` on, over those of rows [below, at)."""
    count = at - below
    for k in range((count + (1 << SHIFT) - 1) >> SHIFT):
        first, last = below + (k << SHIFT), below + min((k + 1) << SHIFT, count)
        for column in range(0, FALL, 2):
            low, high = nodes[first, column], nodes[first, column + 1]
            for child in range(first + 1, last):
                low, high = min(low, nodes[child, column]), max(high, nodes[child, column + 1])
            nodes[at + k, column], nodes[at + k, column + 1] = low, high
        low, high, fall, rise = np.inf, -np.inf, 0.0, 0.0
        for child in range(first, last):
            fall = max(fall, nodes[child, FALL], high - nodes[child, WORTH_LOW])
            rise = max(rise, nodes[child, RISE], nodes[child, WORTH_HIGH] - low)
            low, high = min(low, nodes[child, WORTH_LOW]), max(high, nodes[child, WORTH_HIGH])
        nodes[at + k, FALL], nodes[at + k, RISE] = fall, rise


@part
def build_lowest(series: Floats, nodes: Floats) -> None:
    """The nodes over bars."""
    count = series.shape[1]
    for k in range((count + (1 << SHIFT) - 1) >> SHIFT):
        first, last = k << SHIFT, min((k + 1) << SHIFT, count)
        for column in range(0, WORTH_LOW, 2):
            low_row, high_row = column, column + 1
            if column == FUNDING_LOW:
                low_row, high_row = FUNDING, FUNDING
            low, high = series[low_row, first], series[high_row, first]
            for bar in range(first + 1, last):
                low, high = min(low, series[low_row, bar]), max(high, series[high_row, bar])
            nodes[k, column], nodes[k, column + 1] = low, high
        low, high, fall, rise = np.inf, -np.inf, 0.0, 0.0
        for bar in range(first, last):
            worth = series[MARK_CLOSE, bar] - series[FUNDING, bar]
            fall, rise = max(fall, high - worth), max(rise, worth - low)
            low, high = min(low, worth), max(high, worth)
        nodes[k, WORTH_LOW], nodes[k, WORTH_HIGH], nodes[k, FALL], nodes[k, RISE] = low, high, fall, rise


@kernel
def build(series: Floats, nodes: Floats, starts: Integers) -> None:
    """Fill the nodes over the bars of `series`, laid out by `layout`."""
    if starts.size > 1:
        build_lowest(series, nodes)
    for level in range(1, starts.size - 1):
        build_level(nodes, starts[level], starts[level - 1])


def layout(bars: int) -> Integers:
    """Where each level starts among the nodes over `bars` bars, lowest first, and after the last their number."""
    starts, count = [0], bars
    while count > 1:
        count = (count + (1 << SHIFT) - 1) >> SHIFT
        starts.append(starts[-1] + count)
    return np.array(starts, dtype=np.int64)


def pyramid_over(
    series: Floats, near: int, empty: Callable[[tuple[int, int], type], Floats] = np.empty
) -> Pyramid:
    """The pyramid over a symbol's bars; `empty` makes the array of its nodes."""
    starts = layout(series.shape[1])
    nodes = empty((int(starts[-1]), COLUMNS), np.float64)
    build(series, nodes, starts)
    return Pyramid(nodes, starts, starts.size - 1, near)


def no_pyramid() -> Pyramid:
    """Stands for: look at every bar."""
    return Pyramid(np.empty((0, COLUMNS)), np.zeros(1, dtype=np.int64), 0, 0)


@part
def widest(at: int, end: int, levels: int) -> int:
    """The highest level at which a node starts at bar `at` and ends by `end`; 0 for the bar itself."""
    level, size = 0, 1 << SHIFT
    while level < levels and at & (size - 1) == 0 and at + size <= end:
        level += 1
        size <<= SHIFT
    return level
