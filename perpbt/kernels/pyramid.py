"""Block extremes of one symbol's bars, level upon level: what lets a walk pass over bars without looking at each.

Level l has a node for every 8**l bars. A node holds the extremes of its bars, so that a threshold out of reach of a node is out
of reach of every bar in it: rounding is monotone, so this needs no tolerance.

Nodes that have one parent make a group, and each column of a group stands side by side, to be tested at a time (`eights`). Every level
begins with a group; what is missing of its last one is never asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .compile import kernel, part
from .tables import FUNDING, MARK_CLOSE, MARK_HIGH, MARK_LOW, Floats, Integers, Pyramid

SHIFT = 3  # a node has 2**SHIFT children
COLUMNS = 12  # of a group of Pyramid.nodes
# The first four are those of the same name in Market.series: low, high, mark low, mark high. Then of CF; of worth = mark close - CF,
# which is what a position gains by; the lowest mark low - CF and the highest mark high - CF; and the largest fall and rise from the
# worth of one bar to that of a later one.
FUNDING_LOW, FUNDING_HIGH, WORTH_LOW, WORTH_HIGH, THIN_LOW, THIN_HIGH, FALL, RISE = 4, 5, 6, 7, 8, 9, 10, 11
# Pyramid.tops has three columns for each of WORTH_LOW to THIN_HIGH: price and CF of the first bar with that extreme, and the next to it, of
# bars with another price or CF. Where that is far off, the one bar answers for the node, and nobody has to look for it.
TOP = 3
TOPS = 4 * TOP


@part
def priced(top: int) -> tuple[int, float]:
    """Of the columns of tops for an extreme: the row of Market.series that stands less CF, and 1 for the highest, -1 for the lowest."""
    row = MARK_CLOSE
    if top == THIN_LOW - WORTH_LOW:
        row = MARK_LOW
    elif top == THIN_HIGH - WORTH_LOW:
        row = MARK_HIGH
    return row, 2.0 * (top & 1) - 1.0


@part
def build_tops(held: Floats, tops: Floats, node: int, first: int, last: int) -> None:
    """The tops of a node over those of nodes [first, last), whose group is `held`."""
    for top in range(TOPS // TOP):
        sign, at = priced(top)[1], TOP * top
        price, paid, next_to = tops[first, at], tops[first, at + 1], sign * tops[first, at + 2]
        ahead = sign * held[WORTH_LOW + top, 0]
        for child in range(first + 1, last):
            worth = sign * held[WORTH_LOW + top, child - first]
            next_to = max(next_to, sign * tops[child, at + 2])
            if worth > ahead:
                price, paid, ahead, next_to = (
                    tops[child, at], tops[child, at + 1], worth, max(next_to, ahead),
                )  # fmt: skip
            elif worth < ahead or price != tops[child, at] or paid != tops[child, at + 1]:
                next_to = max(next_to, worth)
        tops[node, at], tops[node, at + 1], tops[node, at + 2] = price, paid, sign * next_to


@part
def build_lowest_tops(series: Floats, tops: Floats, node: int, first: int, last: int) -> None:
    """The tops of a node over bars [first, last)."""
    for top in range(TOPS // TOP):
        row, sign = priced(top)
        price, paid, next_to = series[row, first], series[FUNDING, first], -np.inf
        ahead = sign * (price - paid)
        for bar in range(first + 1, last):
            other, charged = series[row, bar], series[FUNDING, bar]
            worth = sign * (other - charged)
            if worth > ahead:
                price, paid, ahead, next_to = other, charged, worth, ahead
            elif worth < ahead or price != other or paid != charged:
                next_to = max(next_to, worth)
        at = TOP * top
        tops[node, at], tops[node, at + 1], tops[node, at + 2] = price, paid, sign * next_to


@part
def build_level(nodes: Floats, tops: Floats, at: int, below: int, count: int) -> None:
    """Nodes from number `at` on, over the `count` nodes from number `below` on."""
    for k in range((count + (1 << SHIFT) - 1) >> SHIFT):
        first, children = below + (k << SHIFT), min(1 << SHIFT, count - (k << SHIFT))
        held, node, lane = nodes[first >> SHIFT], nodes[(at + k) >> SHIFT], (at + k) & ((1 << SHIFT) - 1)
        for column in range(0, FALL, 2):
            low, high = held[column, 0], held[column + 1, 0]
            for child in range(1, children):
                low, high = min(low, held[column, child]), max(high, held[column + 1, child])
            node[column, lane], node[column + 1, lane] = low, high
        low, high, fall, rise = np.inf, -np.inf, 0.0, 0.0
        for child in range(children):
            fall = max(fall, held[FALL, child], high - held[WORTH_LOW, child])
            rise = max(rise, held[RISE, child], held[WORTH_HIGH, child] - low)
            low, high = min(low, held[WORTH_LOW, child]), max(high, held[WORTH_HIGH, child])
        node[FALL, lane], node[RISE, lane] = fall, rise
        build_tops(held, tops, at + k, first, first + children)


@part
def build_lowest(series: Floats, nodes: Floats, tops: Floats) -> None:
    """The nodes over bars."""
    count = series.shape[1]
    for k in range((count + (1 << SHIFT) - 1) >> SHIFT):
        first, last = k << SHIFT, min((k + 1) << SHIFT, count)
        node, lane = nodes[k >> SHIFT], k & ((1 << SHIFT) - 1)
        for column in range(0, WORTH_LOW, 2):
            low_row, high_row = column, column + 1
            if column == FUNDING_LOW:
                low_row, high_row = FUNDING, FUNDING
            low, high = series[low_row, first], series[high_row, first]
            for bar in range(first + 1, last):
                low, high = min(low, series[low_row, bar]), max(high, series[high_row, bar])
            node[column, lane], node[column + 1, lane] = low, high
        low, high, fall, rise, lowest, highest = np.inf, -np.inf, 0.0, 0.0, np.inf, -np.inf
        for bar in range(first, last):
            funding = series[FUNDING, bar]
            worth = series[MARK_CLOSE, bar] - funding
            fall, rise = max(fall, high - worth), max(rise, worth - low)
            low, high = min(low, worth), max(high, worth)
            lowest = min(lowest, series[MARK_LOW, bar] - funding)
            highest = max(highest, series[MARK_HIGH, bar] - funding)
        node[WORTH_LOW, lane], node[WORTH_HIGH, lane] = low, high
        node[FALL, lane], node[RISE, lane] = fall, rise
        node[THIN_LOW, lane], node[THIN_HIGH, lane] = lowest, highest
        build_lowest_tops(series, tops, k, first, last)


@kernel
def build(series: Floats, nodes: Floats, tops: Floats, starts: Integers) -> None:
    """Fill the nodes over the bars of `series`, laid out by `in_groups`, and their tops."""
    count = series.shape[1]
    if starts.size > 1:
        build_lowest(series, nodes, tops)
    for level in range(1, starts.size - 1):
        count = (count + (1 << SHIFT) - 1) >> SHIFT
        build_level(nodes, tops, starts[level], starts[level - 1], count)


def layout(bars: int) -> Integers:
    """Where each level starts among the nodes over `bars` bars, lowest first, and after the last their number."""
    starts, count = [0], bars
    while count > 1:
        count = (count + (1 << SHIFT) - 1) >> SHIFT
        starts.append(starts[-1] + count)
    return np.array(starts, dtype=np.int64)


def in_groups(bars: int) -> Integers:
    """`layout` with each level in whole groups."""
    groups = (np.diff(layout(bars)) + (1 << SHIFT) - 1) >> SHIFT
    return np.append(0, np.cumsum(groups << SHIFT))


def pyramid_over(
    series: Floats, near: int, empty: Callable[[tuple[int, ...], type], Floats] = np.empty
) -> Pyramid:
    """The pyramid over a symbol's bars; `empty` makes the arrays of its nodes."""
    starts = in_groups(series.shape[1])
    count = int(starts[-1])
    nodes = empty((count >> SHIFT, COLUMNS, 1 << SHIFT), np.float64)
    tops = empty((count, TOPS), np.float64)
    build(series, nodes, tops, starts)
    return Pyramid(nodes, tops, starts, starts.size - 1, near)


def no_pyramid() -> Pyramid:
    """Stands for: look at every bar."""
    return Pyramid(np.empty((0, COLUMNS, 1 << SHIFT)), np.empty((0, TOPS)), np.zeros(1, dtype=np.int64), 0, 0)


@part
def widest(at: int, end: int, levels: int) -> int:
    """The highest level at which a node starts at bar `at` and ends by `end`; 0 for the bar itself."""
    level, size = 0, 1 << SHIFT
    while level < levels and at & (size - 1) == 0 and at + size <= end:
        level += 1
        size <<= SHIFT
    return level
