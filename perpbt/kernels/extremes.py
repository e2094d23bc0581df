"""What a path remembers of many bars in which nothing happens: peak, deepest drawdown, worst margin ratio.

They are largest and smallest values, so most bars say nothing once the one is known that says most. Of each block of 64 bars it is known
how far coarse numbers went; the bars that the furthest of all point to are computed as the rules say, eight at a time (`marking`); and
then those that are not safe from what has been found: few, for found is nearly what there is.
"""

from __future__ import annotations

import numpy as np

from .coarse import BLOCK, ROW, SHIFT, STRETCH, WORTH
from .compile import aside, part
from .eights import lowest_lane
from .margin import Position
from .marking import bars_in, extreme_value, marked_in_turn, worst_over
from .screening import (
    FALLEN,
    HIGH_OF,
    LOW_OF,
    RISEN,
    THIN,
    THIN_OF,
    TOLD_HIGH,
    TOLD_LOW,
    TOLD_THIN,
    Bounds,
    Levels,
    down_to,
    fall_at,
    rise_at,
    thin_at,
    up_to,
)
from .sixteens import (
    WIDE,
    everywhere,
    highest_of,
    highest_of_each,
    lower,
    lowest_of,
    lowest_of_each,
    only,
    put_sixteen,
    risen,
    sixteen,
    sunk,
    upper,
)
from .tables import Coarse, Market, Rates
from .watching import Path, Watch, seen_on


@part
def least_of(coarse: Coarse, at: int, bars: int, told: Coarse, to: int) -> None:
    """Of some of 64 numbers from the `at`-th on, put down sixteen of which one is the smallest."""
    none = np.float32(np.inf)
    one = lower(only(bars, sixteen(coarse, at), none), only(bars >> WIDE, sixteen(coarse, at + WIDE), none))
    at, bars = at + 2 * WIDE, bars >> (2 * WIDE)
    other = lower(only(bars, sixteen(coarse, at), none), only(bars >> WIDE, sixteen(coarse, at + WIDE), none))
    put_sixteen(told, to, lower(one, other))


@part
def most_of_bars(coarse: Coarse, at: int, bars: int, told: Coarse, to: int) -> None:
    """Put down sixteen of which one is the largest."""
    none = np.float32(-np.inf)
    one = upper(only(bars, sixteen(coarse, at), none), only(bars >> WIDE, sixteen(coarse, at + WIDE), none))
    at, bars = at + 2 * WIDE, bars >> (2 * WIDE)
    other = upper(only(bars, sixteen(coarse, at), none), only(bars >> WIDE, sixteen(coarse, at + WIDE), none))
    put_sixteen(told, to, upper(one, other))


@part
def trim(coarse: Coarse, thin: int, block: int, first: int, last: int, told: Coarse) -> None:
    """What a block tells, of its bars in [first, last) only."""
    bars, at, to = bars_in(block, first, last), block * ROW, (block - (first >> SHIFT)) * WIDE
    if bars != -1:
        least_of(coarse, at + thin, bars, told, TOLD_THIN + to)
        least_of(coarse, at + WORTH, bars, told, TOLD_LOW + to)
        most_of_bars(coarse, at + WORTH, bars, told, TOLD_HIGH + to)


@part
def sum_up(coarse: Coarse, thin: int, first: int, last: int, told: Coarse) -> None:
    """One number for the sixteen that each block of bars [first, last) tells; others tell nothing."""
    base, end = first >> SHIFT, (last - 1) >> SHIFT
    trim(coarse, thin, base, first, last, told)
    if end > base:
        trim(coarse, thin, end, first, last, told)
    there, none = (1 << (end - base + 1)) - 1, np.float32(np.inf)
    for k in range(0, STRETCH, WIDE):
        at = k * WIDE
        if there:
            put_sixteen(told, THIN_OF + k, only(there, lowest_of_each(told, TOLD_THIN + at), none))
            put_sixteen(told, LOW_OF + k, only(there, lowest_of_each(told, TOLD_LOW + at), none))
            put_sixteen(told, HIGH_OF + k, only(there, highest_of_each(told, TOLD_HIGH + at), -none))
        else:
            put_sixteen(told, THIN_OF + k, everywhere(none))
            put_sixteen(told, LOW_OF + k, everywhere(none))
            put_sixteen(told, HIGH_OF + k, everywhere(-none))
        there >>= WIDE


@part
def lowest_told(told: Coarse, row: int, among: int) -> float:
    """The smallest number that some of the blocks tell, bit k for the k-th; inf if there are none."""
    none = np.float32(np.inf)
    found = only(among, sixteen(told, row), none)
    for k in range(WIDE, STRETCH, WIDE):
        found = lower(only(among >> k, sixteen(told, row + k), none), found)
    return np.float64(lowest_of(found))


@part
def highest_told(told: Coarse, row: int, among: int) -> float:
    """The largest; -inf if there are none."""
    none = np.float32(-np.inf)
    found = only(among, sixteen(told, row), none)
    for k in range(WIDE, STRETCH, WIDE):
        found = upper(only(among >> k, sixteen(told, row + k), none), found)
    return np.float64(highest_of(found))


@part
def sunk_blocks(told: Coarse, row: int, level: float) -> int:
    """Which blocks tell of a number at or below the level: bit k for the k-th."""
    found, coarse = 0, np.float32(level)
    for k in range(0, STRETCH, WIDE):
        found |= sunk(sixteen(told, row + k), coarse) << k
    return found


@part
def risen_blocks(told: Coarse, row: int, level: float) -> int:
    """Which tell of one at or above the level."""
    found, coarse = 0, np.float32(level)
    for k in range(0, STRETCH, WIDE):
        found |= risen(sixteen(told, row + k), coarse) << k
    return found


@part
def top_told(told: Coarse, side: float, among: int) -> float:
    """The highest side * worth that some blocks tell of."""
    return highest_told(told, HIGH_OF, among) if side > 0.0 else -lowest_told(told, LOW_OF, among)


@part
def blocks_from(told: Coarse, side: float, level: float) -> int:
    """Which blocks tell of side * worth at or above the level."""
    return risen_blocks(told, HIGH_OF, level) if side > 0.0 else sunk_blocks(told, LOW_OF, -level)


@part
def bars_from(coarse: Coarse, side: float, block: int, level: float) -> int:
    """Which bars of a block have a side * worth at or above the level."""
    if side > 0.0:
        return up_to(coarse, block * ROW + WORTH, np.float32(level))
    return down_to(coarse, block * ROW + WORTH, np.float32(-level))


@part
def as_told(level: float) -> float:
    """A level as coarse numbers are compared with it."""
    return np.float64(np.float32(level))


@part
def worst_told(
    market: Market, rates: Rates, watch: Watch, position: Position, bounds: Bounds, levels: Levels, worst: float, first: int,
    last: int, told: Coarse,
) -> float:  # fmt: skip
    """The worst margin ratio after these bars: of the thinnest, and then of all that are not safe from what they have come to."""
    coarse, base = market.coarse, first >> SHIFT
    among = (1 << (((last - 1) >> SHIFT) - base + 1)) - 1
    level, done = lowest_told(told, THIN_OF, among), -np.inf
    if level > levels.thinnest:
        return worst
    while True:
        blocks = sunk_blocks(told, THIN_OF, level) & among
        while blocks:
            block = base + lowest_lane(blocks)
            blocks &= blocks - 1
            at = block * ROW + levels.thin
            bars = down_to(coarse, at, np.float32(level)) & bars_in(block, first, last)
            if done > -np.inf:
                bars &= ~down_to(coarse, at, np.float32(done))
            worst = worst_over(market, rates, watch, position, worst, block, bars)
        further = as_told(thin_at(market, rates, position, bounds.unit, bounds.most, min(worst, 1.0)))
        if further <= level:
            return worst
        done, level = level, further


@part
def peak_told(
    market: Market,
    position: Position,
    path: Path,
    unit: float,
    among: int,
    first: int,
    last: int,
    told: Coarse,
) -> float:
    """The peak after those of these bars that are in some blocks: after the highest, and then after all that could be above it."""
    coarse, base, side, peak, done = market.coarse, first >> SHIFT, position.side, path.peak, np.inf
    level = top_told(told, side, among)
    if level < as_told(rise_at(market, position, path, unit, peak)):
        return peak
    while True:
        blocks = blocks_from(told, side, level) & among
        while blocks:
            block = base + lowest_lane(blocks)
            blocks &= blocks - 1
            bars = bars_from(coarse, side, block, level) & bars_in(block, first, last)
            if done < np.inf:
                bars &= ~bars_from(coarse, side, block, done)
            peak = extreme_value(market, position, path, peak, 1.0, block, bars)
        further = as_told(rise_at(market, position, path, unit, peak))
        if further >= level:
            return peak
        done, level = level, further


@part
def falls_in(
    market: Market, position: Position, path: Path, unit: float, peak: float, drawdown: float, k: int, first: int, last: int,
    told: Coarse,
) -> float:  # fmt: skip
    """The deepest drawdown, those in the k-th block, before which the peak is `peak`, included."""
    side, block = position.side, (first >> SHIFT) + k
    if blocks_from(told, side, rise_at(market, position, path, unit, peak)) >> k & 1:
        start, end = max(first, block << SHIFT), min(last, (block << SHIFT) + BLOCK)
        return marked_in_turn(market, position, path, peak, drawdown, start, end)[1]
    level = fall_at(market, position, path, unit, peak, drawdown)
    bars = bars_from(market.coarse, -side, block, -level) & bars_in(block, first, last)
    bottom = extreme_value(market, position, path, np.inf, -1.0, block, bars)
    return max(drawdown, (peak - bottom) / peak)


@aside
def falls_in_others(
    market: Market, position: Position, path: Path, unit: float, drawdown: float, blocks: int, first: int, last: int, told: Coarse
) -> float:  # fmt: skip
    """The deepest drawdown, those in some blocks included."""
    while blocks:
        k = lowest_lane(blocks)
        blocks &= blocks - 1
        peak = peak_told(market, position, path, unit, (1 << k) - 1, first, last, told)
        drawdown = falls_in(market, position, path, unit, peak, drawdown, k, first, last, told)
    return drawdown


@part
def falls_told(
    market: Market, position: Position, path: Path, unit: float, peak: float, among: int, first: int, last: int, told: Coarse
) -> float:  # fmt: skip
    """The deepest drawdown after these bars, after which the peak is `peak`.

    The lowest close has the deepest of all before it, for the peak before it is no lower than theirs; what could have a deeper one comes
    after it, and of that again the lowest is looked at.
    """
    side, drawdown = position.side, path.drawdown
    while among:
        level = fall_at(market, position, path, unit, peak, drawdown)
        if blocks_from(told, -side, -level) & among == 0:
            break
        k = lowest_lane(blocks_from(told, -side, top_told(told, -side, among)) & among)
        here, before = peak, (1 << k) - 1
        if peak > path.peak:
            here = peak_told(market, position, path, unit, before, first, last, told)
        drawdown = falls_in(market, position, path, unit, here, drawdown, k, first, last, told)
        # before it there is none as low, but for what coarse numbers leave open
        level = fall_at(market, position, path, unit, here, drawdown)
        others = blocks_from(told, -side, -level) & among & before
        if others:
            drawdown = falls_in_others(market, position, path, unit, drawdown, others, first, last, told)
        among &= ~(before | 1 << k)
    return drawdown


@part
def remembered(
    market: Market, rates: Rates, watch: Watch, position: Position, path: Path, bounds: Bounds, levels: Levels, news: int,
    extreme: float, first: int, last: int, told: Coarse,
) -> Path:  # fmt: skip
    """The path after bars [first, last), the blocks of which have told of news, and after which a trailing stop's extreme is `extreme`."""
    peak, drawdown, worst = path.peak, path.drawdown, path.worst_ratio
    if news != 0 and first < last:
        sum_up(market.coarse, levels.thin, first, last, told)
        if news & THIN:
            worst = worst_told(market, rates, watch, position, bounds, levels, worst, first, last, told)
        if news & (FALLEN | RISEN):
            among = (1 << (((last - 1) >> SHIFT) - (first >> SHIFT) + 1)) - 1
            peak = peak_told(market, position, path, bounds.unit, among, first, last, told)
            drawdown = falls_told(market, position, path, bounds.unit, peak, among, first, last, told)
    return seen_on(path, extreme, peak, drawdown, worst)
