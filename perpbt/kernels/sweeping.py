"""Going over a tile's bars for one position, block by block, where an opening, an exit or a change of rates is not due.

Every bar is compared with the position, in loops the machine runs over many bars at once. First coarsely: is any price of the block
beyond a level that could end the position, or that the path would remember? The coarse prices are the tile's in half the digits.
Rounding keeps order, so a price beyond a level is not before it coarsely, and what is before it coarsely needs no second look. A block
with news is then gone through in full: what the path remembers are largest and smallest values, which need no order, save that a
drawdown is from the peak before it; and of those, a bound says when there can be no deeper one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .compile import part
from .margin import Position
from .tables import (
    DEDUCTION,
    FUNDING,
    HIGH,
    LOW,
    MARK_CLOSE,
    MARK_HIGH,
    MARK_LOW,
    NO_CALL,
    RATE,
    Floats,
    Market,
    Plan,
    Rates,
)
from .watching import Path, Watch, seen_on

Coarse = npt.NDArray[np.float32]

BLOCK = 64  # bars
# A level is widened by this share of what it is computed from, far above rounding; what is remembered is computed as the rules say.
SLACK = 1e-12
# Rows of the coarse table: LOW to MARK_HIGH of Market.series, then worth = mark close - CF, mark low - CF, and CF - mark high.
WORTH, THIN_LOW, THIN_HIGH = 4, 5, 6
COARSE = 7
# Numbers as whole numbers, by their bits, have their own order, of which largest and smallest are found many at once; with these bits
# turned below 0, numbers of any sign have.
BELOW_SIGN = 0x7FFF_FFFF_FFFF_FFFF


class Levels(NamedTuple):
    """What bars without news stay inside of: coarse levels and the rows they are for."""

    low: int  # this row at or below its floor: stop, or take-profit of a short
    floor: np.float32
    high: int
    ceiling: np.float32
    fallen: np.float32  # worth at or below, or at or above: a new peak of equity, or a new deepest drawdown
    risen: np.float32
    thin: int  # this row at or below `thinnest`: the worst margin ratio so far, or 1
    thinnest: np.float32
    apart: bool  # the rows of a trailing stop are others
    trail_low: int
    trail_floor: np.float32
    trail_high: int
    trail_ceiling: np.float32


@part
def sweeps(market: Market, rates: Rates, plan: Plan) -> bool:
    """Are margin ratios told by the lines of tiers, and no margin orders given? Other positions are walked."""
    by_lines = rates.terms.tick_per == 0.0 and not rates.whole and rates.per_unit == 0.0
    return by_lines and plan["call_action"] == NO_CALL and market.greatest < 1e30


@part
def coarsen(series: Floats, coarse: Coarse, first: int, last: int) -> float:
    """Fill the coarse table with bars [first, last); returns the highest CF among them."""
    base, size = np.uint64(first), np.uint64(last - first)
    for row in (LOW, HIGH):
        for j in range(size):
            coarse[row, j] = series[row, base + j]
    most = np.int64(np.float64(series[FUNDING, first]).view(np.int64))
    most = most ^ ((most >> 63) & BELOW_SIGN)
    for j in range(size):
        funding = series[FUNDING, base + j]
        coarse[WORTH, j] = series[MARK_CLOSE, base + j] - funding
        bits = np.float64(funding).view(np.int64)
        most = max(most, bits ^ ((bits >> 63) & BELOW_SIGN))
    for j in range(size):
        price = series[MARK_LOW, base + j]
        coarse[MARK_LOW, j], coarse[THIN_LOW, j] = price, price - series[FUNDING, base + j]
    for j in range(size):
        price = series[MARK_HIGH, base + j]
        coarse[MARK_HIGH, j], coarse[THIN_HIGH, j] = price, series[FUNDING, base + j] - price
    return np.int64(most ^ ((most >> 63) & BELOW_SIGN)).view(np.float64)


@part
def thin_at(
    market: Market, rates: Rates, position: Position, unit: float, most: float, ratio: float
) -> float:
    """side * (mark - CF) down to which no maintenance line asks for `ratio` of equity; inf where that cannot be told so.

    Line k asks for it where (ratio - side * rate) * side * (mark - CF) <= rate * CF - level; CF is at most `most`, `unit` is 1 / quantity.
    """
    side, nearest = position.side, -np.inf
    held = ratio * (position.margin * unit - side * (position.entry - position.funding))
    for k in range(max(position.tiers, 1)):
        rate, deduction = position.extra, -position.kept
        if position.tiers > 0:
            rate, deduction = rate + rates.tiers[k, RATE], rates.tiers[k, DEDUCTION]
        room = SLACK * (8.0 * market.greatest + (position.margin + abs(deduction)) * unit)
        level, steepness = (deduction * unit + held) - room, ratio - side * rate
        if not steepness > 0.0:
            return np.inf
        nearest = max(nearest, (rate * most - level) / steepness)
    return nearest


@part
def levels_for(
    market: Market, watch: Watch, position: Position, path: Path, unit: float, thinnest: float
) -> Levels:
    """The levels that hold until the path changes."""
    start = position.side * (position.entry - position.funding)
    money = path.released + position.margin
    room = SLACK * (4.0 * market.greatest + (path.peak + money) * unit)
    up = (start + (path.peak - money) * unit) - room
    down = (start + (path.peak * (1.0 - path.drawdown) - money) * unit) + room
    stop, target, trailing, best = position.stop, position.target, -np.inf, np.inf
    apart = False
    if position.trail != 0.0:  # stands still until there is a new best price
        trailing, best = path.extreme * position.trail, path.extreme
        apart = watch.trail != watch.stop or watch.best != watch.target
        if not apart:
            stop, target = max(stop, trailing), min(target, best)
    if position.side > 0.0:
        return Levels(
            watch.stop, np.float32(stop), watch.target, np.float32(target), np.float32(down), np.float32(up),
            THIN_LOW, np.float32(thinnest), apart,
            watch.trail, np.float32(trailing), watch.best, np.float32(best),
        )  # fmt: skip
    return Levels(
        watch.target, np.float32(-target), watch.stop, np.float32(-stop), np.float32(-up), np.float32(-down),
        THIN_HIGH, np.float32(thinnest), apart,
        watch.best, np.float32(-best), watch.trail, np.float32(-trailing),
    )  # fmt: skip


@part
def still(coarse: Coarse, levels: Levels, at: int) -> bool:
    """Does a block stay inside the levels? Compared by differences, of which the machine takes the least of many at once."""
    base, moved, none = np.uint64(at), False, np.float32(0.0)
    low, high, thin = np.uint64(levels.low), np.uint64(levels.high), np.uint64(levels.thin)
    for j in range(np.uint64(BLOCK)):
        worth = coarse[WORTH, base + j]
        least, other = coarse[low, base + j] - levels.floor, levels.ceiling - coarse[high, base + j]
        third, fourth = worth - levels.fallen, levels.risen - worth
        fifth = coarse[thin, base + j] - levels.thinnest
        least = other if other < least else least
        third = fourth if fourth < third else third
        least = third if third < least else least
        least = fifth if fifth < least else least
        moved |= least <= none
    return not moved


@part
def within(coarse: Coarse, low: int, floor: np.float32, high: int, ceiling: np.float32, at: int) -> bool:
    """Does one row of a block stay above its floor, and another below its ceiling?"""
    base, moved = np.uint64(at), False
    below, above = np.uint64(low), np.uint64(high)
    for j in range(np.uint64(BLOCK)):
        moved |= (coarse[below, base + j] <= floor) | (coarse[above, base + j] >= ceiling)
    return not moved


@part
def beyond(coarse: Coarse, row: int, side: float, level: float, at: int) -> bool:
    """Is side * the row anywhere at or below the level?"""
    base, sign, bound, found = np.uint64(at), np.float32(side), np.float32(level), False
    read = np.uint64(row)
    for j in range(np.uint64(BLOCK)):
        found |= sign * coarse[read, base + j] <= bound
    return found


@part
def quiet_over(coarse: Coarse, levels: Levels, at: int) -> bool:
    """Is there nothing to do, and nothing to remember, in the block?"""
    if not still(coarse, levels, at):
        return False
    return not levels.apart or within(
        coarse, levels.trail_low, levels.trail_floor, levels.trail_high, levels.trail_ceiling, at
    )


@part
def best_over(market: Market, watch: Watch, position: Position, extreme: float, i: int, size: int) -> float:
    """The extreme of a trailing stop after these bars. Prices are positive: as whole numbers their bits have the same order."""
    base, row = np.uint64(i), np.uint64(watch.best)
    highest = lowest = np.float64(market.series[row, base]).view(np.int64)
    for j in range(np.uint64(size)):
        bits = np.float64(market.series[row, base + j]).view(np.int64)
        highest, lowest = max(highest, bits), min(lowest, bits)
    chosen = highest if position.side > 0.0 else lowest
    return max(extreme, position.side * np.int64(chosen).view(np.float64))


@part
def strikes(
    coarse: Coarse,
    watch: Watch,
    position: Position,
    thin: int,
    ruin: float,
    extreme: float,
    at: int,
) -> bool:
    """Could something happen in the block, if the extreme of a trailing stop were `extreme` from the first on?"""
    side, stop, found = position.side, position.stop, beyond(coarse, thin, 1.0, ruin, at)
    if position.trail != 0.0:
        if watch.trail == watch.stop:
            stop = max(stop, extreme * position.trail)
        else:
            found |= beyond(coarse, watch.trail, side, extreme * position.trail, at)
    if stop > -np.inf:
        found |= beyond(coarse, watch.stop, side, stop, at)
    if position.target < np.inf:
        found |= beyond(coarse, watch.target, -side, -position.target, at)
    return found


@part
def first_struck(
    market: Market, watch: Watch, position: Position, extreme: float, i: int, until: int
) -> tuple[int, float]:
    """The first bar from `i` on in which something could happen, or `until`, and the extreme of a trailing stop before it.

    The conditions are those of `looking.look`.
    """
    side, series = position.side, market.series
    while i < until:
        adverse = series[watch.adverse, i]
        if side * ((adverse * position.guard_factor) - series[FUNDING, i]) <= position.guard_level:
            break
        if side * series[watch.stop, i] <= position.stop or side * series[watch.target, i] >= position.target:
            break
        if position.trail != 0.0:
            best = max(extreme, side * series[watch.trail_open, i])
            if side * series[watch.trail, i] <= best * position.trail:
                break
            extreme = max(extreme, side * series[watch.best, i])
        i += 1
    return i, extreme


@part
def worst_over(
    market: Market, rates: Rates, watch: Watch, position: Position, worst: float, i: int, size: int
) -> float:
    """The worst margin ratio after these bars: `margin.margin_ratio` at every adverse price.

    Line by line: the largest of quotients is the quotient of the largest, also rounded. Ratios so far are positive, so that the bits
    of any that is worse, as whole numbers, are above theirs.
    """
    series, base, row = market.series, np.uint64(i), np.uint64(watch.adverse)
    entry, margin, quantity = position.entry, position.margin, position.quantity
    signed, at_entry, extra = position.side * quantity, position.funding, position.extra
    highest = np.float64(worst).view(np.int64)
    for k in range(max(position.tiers, 1)):
        rate, deduction = 0.0, -position.kept
        if position.tiers > 0:
            rate, deduction = rates.tiers[k, RATE], rates.tiers[k, DEDUCTION]
        for j in range(np.uint64(size)):
            price = series[row, base + j]
            left = (margin + signed * (price - entry)) - signed * (series[FUNDING, base + j] - at_entry)
            notional = quantity * price
            ratio = ((notional * rate - deduction) + extra * notional) / left
            ratio = ratio if left > 0.0 else np.inf
            highest = max(highest, np.float64(ratio).view(np.int64))
    return np.int64(highest).view(np.float64)


@part
def marked_in_turn(
    market: Market, position: Position, path: Path, peak: float, drawdown: float, i: int, until: int
) -> tuple[float, float]:
    """Peak and drawdown after bars [i, until), close by close: `watching.marked` without its branch, for a new peak is 0 below itself."""
    series, signed = market.series, position.side * position.quantity
    deepest = np.float64(drawdown).view(np.int64)
    while i < until:
        paid = signed * (series[FUNDING, i] - position.funding)
        value = ((position.margin + signed * (series[MARK_CLOSE, i] - position.entry)) - paid) + path.released
        peak = value if value > peak else peak
        deepest = max(deepest, np.float64((peak - value) / peak).view(np.int64))
        i += 1
    return peak, np.int64(deepest).view(np.float64)


@part
def marked_over(market: Market, position: Position, path: Path, i: int, size: int) -> tuple[float, float]:
    """Peak and drawdown of the equity path after these bars.

    No drawdown in them is deeper than the fall from their highest value, or the peak before, to their lowest, against that peak.
    """
    series, base = market.series, np.uint64(i)
    entry, margin, released = position.entry, position.margin, path.released
    signed, at_entry = position.side * position.quantity, position.funding
    highest, lowest = np.float64(path.peak).view(np.int64), np.float64(np.inf).view(np.int64)
    for j in range(np.uint64(size)):
        paid = signed * (series[FUNDING, base + j] - at_entry)
        value = ((margin + signed * (series[MARK_CLOSE, base + j] - entry)) - paid) + released
        bits = np.float64(value).view(np.int64)
        highest, lowest = max(highest, bits), min(lowest, bits)
    if lowest > 0:  # values are positive: their bits have their order
        top, bottom = np.int64(highest).view(np.float64), np.int64(lowest).view(np.float64)
        if top == path.peak:
            return top, max(path.drawdown, (top - bottom) / top)
        if (top - bottom) / path.peak <= path.drawdown:
            return top, path.drawdown
    return marked_in_turn(market, position, path, path.peak, path.drawdown, i, i + size)


@part
def sweep(
    market: Market,
    rates: Rates,
    watch: Watch,
    position: Position,
    path: Path,
    coarse: Coarse,
    origin: int,
    most: float,
    i: int,
    until: int,
) -> tuple[int, Path]:
    """Mark bars from `i` on; stop at the first in which something could happen, or at `until`.

    `coarse` has the bars from `origin` on, none with a higher CF than `most`.
    """
    unit, known = 1.0 / position.quantity, False
    ruin = thin_at(market, rates, position, unit, most, 1.0)
    none = np.float32(0.0)
    thinnest, levels = ruin, Levels(0, none, 0, none, none, none, 0, none, False, 0, none, 0, none)
    while i < until:
        if not known:
            thinnest = thin_at(market, rates, position, unit, most, min(path.worst_ratio, 1.0))
            levels = levels_for(market, watch, position, path, unit, thinnest)
            known = True
        at = i - origin
        if quiet_over(coarse, levels, at):
            i += BLOCK
            continue
        end, extreme, worst = min(i + BLOCK, until), path.extreme, path.worst_ratio
        stop = end
        if position.trail != 0.0:
            extreme = best_over(market, watch, position, path.extreme, i, end - i)
        if strikes(coarse, watch, position, levels.thin, ruin, extreme, at):
            stop, extreme = first_struck(market, watch, position, path.extreme, i, end)
        if beyond(coarse, levels.thin, 1.0, thinnest, at):
            worst = worst_over(market, rates, watch, position, worst, i, stop - i)
        peak, drawdown = marked_over(market, position, path, i, stop - i)
        path, known = seen_on(path, extreme, peak, drawdown, worst), False
        if stop < end:
            return stop, path
        i = end
    return min(i, until), path
