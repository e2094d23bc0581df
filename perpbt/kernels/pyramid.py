"""Block extremes of one symbol's bars, level upon level: what lets a walk pass over bars without looking at each.

Level l has a node for every 16**l bars. A node holds the extremes of its bars, so that a threshold out of reach of a node is out
of reach of every bar in it: rounding is monotone, so this needs no tolerance.
"""

from __future__ import annotations

import numpy as np

from .compile import kernel
from .tables import Floats, Pyramid

SHIFT = 4  # a node has 2**SHIFT children
# columns of Pyramid.nodes
LOW, HIGH, MARK_LOW, MARK_HIGH, FUNDING_LOW, FUNDING_HIGH, CLOSE_LOW, CLOSE_HIGH = 0, 1, 2, 3, 4, 5, 6, 7


@kernel
def build(
    low: Floats,
    high: Floats,
    mark_low: Floats,
    mark_high: Floats,
    funding: Floats,
    close: Floats,
    near: int,
) -> Pyramid:
    """The pyramid over a symbol's bars; `close` is the mark close."""
    count, levels, total = low.size, 0, 0
    while count > 1:
        count = (count + (1 << SHIFT) - 1) >> SHIFT
        levels += 1
        total += count
    nodes = np.empty((total, 8))
    starts = np.zeros(levels + 1, dtype=np.int64)
    count, below = low.size, 0
    for level in range(levels):
        made = (count + (1 << SHIFT) - 1) >> SHIFT
        at = starts[level]
        starts[level + 1] = at + made
        for k in range(made):
            first, last = k << SHIFT, min((k + 1) << SHIFT, count)
            for column in range(8):
                best = np.inf if column % 2 == 0 else -np.inf
                for child in range(first, last):
                    if level > 0:
                        value = nodes[below + child, column]
                    elif column == LOW:
                        value = low[child]
                    elif column == HIGH:
                        value = high[child]
                    elif column == MARK_LOW:
                        value = mark_low[child]
                    elif column == MARK_HIGH:
                        value = mark_high[child]
                    elif column <= FUNDING_HIGH:
                        value = funding[child]
                    else:
                        value = close[child]
                    best = min(best, value) if column % 2 == 0 else max(best, value)
                nodes[at + k, column] = best
        count, below = made, at
    return Pyramid(nodes, starts, levels, near)


@kernel
def no_pyramid() -> Pyramid:
    """Stands for: look at every bar."""
    return Pyramid(np.empty((0, 8)), np.zeros(1, dtype=np.int64), 0, 0)


@kernel
def widest(at: int, end: int, levels: int) -> int:
    """The highest level at which a node starts at bar `at` and ends by `end`; 0 for the bar itself."""
    level = 0
    while level < levels:
        size = 1 << (SHIFT * (level + 1))
        if at & (size - 1) != 0 or at + size > end:
            break
        level += 1
    return level
