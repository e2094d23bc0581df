"""Block extremes of the grid, level upon level, as those of one symbol's bars: what lets a walk pass over bars."""

from __future__ import annotations

import numpy as np

from perpbt.kernels.compile import kernel, part
from perpbt.kernels.crossing.tables import (
    BODY_MARK,
    BODY_WORTH,
    CHARGED,
    FUNDING_,
    HIGH_,
    LAST,
    LOW_,
    MARK_CLOSE_,
    MARK_HIGH_,
    MARK_LOW_,
    MARK_OPEN_,
    NODE,
    OPEN_,
    RANGE_MARK,
    RANGE_WORTH,
    Grid,
)
from perpbt.kernels.pyramid import SHIFT, layout
from perpbt.kernels.tables import Floats, Integers


@part
def stretch(node: Floats, column: int, low: float, high: float) -> None:
    """Let a node's extremes take in others."""
    node[column] = min(node[column], low)
    node[column + 1] = max(node[column + 1], high)


@kernel
def build_blocks(series: Floats, nodes: Floats, starts: Integers) -> None:
    """Fill the nodes over the bars of every symbol, laid out by `pyramid.layout`. `nodes` begin as (inf, -inf) in turn."""
    count = series.shape[2]
    for symbol in range(series.shape[0]):
        bars, mine = series[symbol], nodes[symbol]
        if starts.size > 1:
            for i in range(count):
                node, funding = mine[i >> SHIFT], bars[FUNDING_, i]
                opened, close = bars[MARK_OPEN_, i], bars[MARK_CLOSE_, i]
                low, high = min(opened, close), max(opened, close)
                stretch(node, BODY_WORTH, low - funding, high - funding)
                stretch(node, BODY_MARK, low, high)
                low, high = min(low, bars[MARK_LOW_, i]), max(high, bars[MARK_HIGH_, i])
                stretch(node, RANGE_WORTH, low - funding, high - funding)
                stretch(node, RANGE_MARK, low, high)
                opened = bars[OPEN_, i]
                stretch(node, CHARGED, funding, funding)
                stretch(node, LAST, min(opened, bars[LOW_, i]), max(opened, bars[HIGH_, i]))
        for level in range(1, starts.size - 1):
            below, at = starts[level - 1], starts[level]
            for k in range(at - below):
                child, node = mine[below + k], mine[at + (k >> SHIFT)]
                for column in range(0, NODE, 2):
                    stretch(node, column, child[column], child[column + 1])


def grid_over(series: Floats, skip: bool) -> Grid:
    """The grid of a run, with blocks for the engine that skips."""
    highest = np.ascontiguousarray(series[:, MARK_HIGH_].max(axis=1))
    if not skip:
        return Grid(series, highest, np.empty((series.shape[0], 0, NODE)), np.zeros(1, dtype=np.int64), 0)
    starts = layout(series.shape[2])
    nodes = np.empty((series.shape[0], int(starts[-1]), NODE))
    nodes[:, :, 0::2], nodes[:, :, 1::2] = np.inf, -np.inf
    build_blocks(series, nodes, starts)
    return Grid(series, highest, nodes, starts, starts.size - 1)
