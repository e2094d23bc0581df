"""Every bar once more in half the digits, 64 bars side by side: what the engine that looks at every bar looks at.

Rounding keeps order: a price beyond a level is not before it coarsely, and what is before it coarsely needs no second look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .compile import kernel
from .sixteens import WIDE
from .tables import FUNDING, HIGH, LOW, MARK_CLOSE, MARK_HIGH, MARK_LOW, Coarse, Floats

SHIFT = 6
BLOCK = 1 << SHIFT  # bars of a row of the table
STRETCH = 32  # rows that tell the same highest CF
# What a row has of each of its bars, 64 numbers each: worth is mark close - CF; thin is the worth of the worst mark, so that less is
# worse: mark low - CF, and CF - mark high. Longs look at the last four of the first five, shorts at the first four. Then the highest CF
# of a stretch, not rounded down.
THIN_HIGH, LOW_AT, HIGH_AT, WORTH, THIN_LOW, MARK_LOW_AT, MARK_HIGH_AT, MOST = (k * BLOCK for k in range(8))
ROW = MOST + WIDE


@kernel
def coarsen(series: Floats, coarse: Coarse) -> None:
    """Fill the table over the bars of `series`; what is beyond the last bar is 0."""
    bars = series.shape[1]
    for number in range(coarse.shape[0]):
        row, base = coarse[number], np.uint64(number * BLOCK)
        row[:] = np.float32(0.0)
        for j in range(np.uint64(min(BLOCK, bars - number * BLOCK))):
            funding = series[FUNDING, base + j]
            row[LOW_AT + j], row[HIGH_AT + j] = series[LOW, base + j], series[HIGH, base + j]
            row[MARK_LOW_AT + j], row[MARK_HIGH_AT + j] = (
                series[MARK_LOW, base + j],
                series[MARK_HIGH, base + j],
            )
            row[WORTH + j] = series[MARK_CLOSE, base + j] - funding
            row[THIN_LOW + j], row[THIN_HIGH + j] = (
                series[MARK_LOW, base + j] - funding,
                funding - series[MARK_HIGH, base + j],
            )
    for first in range(0, coarse.shape[0], STRETCH):
        most, last = -np.inf, min(first + STRETCH, coarse.shape[0])
        for bar in range(first * BLOCK, min(last * BLOCK, bars)):
            most = max(most, series[FUNDING, bar])
        rounded = np.float32(most)
        if (
            rounded < most
        ):  # a share of it that is more than half a step of such numbers, of the small ones too
            rounded = np.float32(most + (abs(most) * 2e-7 + 1e-37))
        for number in range(first, last):
            coarse[number, MOST] = rounded


def coarse_over(series: Floats, empty: Callable[[tuple[int, ...], Any], Any]) -> Coarse:
    """The table over a symbol's bars, in an array that `empty` makes: a row to each 64, and each begins where 16 numbers are read at once."""
    rows = -(-series.shape[1] // BLOCK)
    held = empty((rows * ROW + WIDE,), np.float32)
    skipped = -held.ctypes.data % (4 * WIDE) // 4
    coarse: Coarse = held[skipped : skipped + rows * ROW].reshape(rows, ROW)
    coarsen(series, coarse)
    return coarse


def no_coarse() -> Coarse:
    """Stands for: nobody looks at it."""
    return np.empty((0, ROW), dtype=np.float32)
