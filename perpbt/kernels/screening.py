"""Is there nothing to do, and nothing to remember, in 64 bars? The levels a position compares coarse bars with.

Levels are widened by far more than rounding: they only say where to look. What is decided or remembered is computed as the rules say.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .coarse import HIGH_AT, LOW_AT, MARK_HIGH_AT, MARK_LOW_AT, ROW, THIN_HIGH, THIN_LOW, WORTH
from .compile import part
from .contracts import tick_room
from .margin import Position, growing
from .sixteens import WIDE, lower, risen, rises, sinks, sixteen, sunk, upper
from .tables import DEDUCTION, HIGH, LOW, MARK_LOW, RATE, Coarse, Market, Rates
from .watching import Path, Watch

SLACK = 1e-12  # a level is widened by this share of what it is computed from
# News of a block, as bits: which levels are met.
DOWN, UP, FALLEN, RISEN, THIN, TRAIL_DOWN, TRAIL_UP = 1, 2, 4, 8, 16, 32, 64
PRICES = DOWN | UP | TRAIL_DOWN | TRAIL_UP


class Levels(NamedTuple):
    """What bars without news stay inside of: coarse levels, and where in a row of the table stand the numbers they are for."""

    low: int  # these at or below their floor: stop, or take-profit of a short
    floor: np.float32
    high: int
    ceiling: np.float32
    fallen: (
        np.float32
    )  # worth at or below, or at or above: a new peak of equity, a new deepest drawdown, or a margin call
    risen: np.float32
    thin: int  # these at or below `thinnest`: the worst margin ratio so far, or 1
    thinnest: np.float32
    apart: bool  # those of a trailing stop are others
    trail_low: int
    trail_floor: np.float32
    trail_high: int
    trail_ceiling: np.float32


class Bounds(NamedTuple):
    """Of a position in bars none of which has a higher CF than `most`: side * (mark - CF), down to which ..."""

    unit: float  # 1 / quantity
    most: float
    ruin: float  # it could be liquidated
    call: float  # its margin could be called; -inf where nobody watches it


@part
def place_of(row: int) -> int:
    """Where in a row of the coarse table a row of Market.series stands."""
    if row == LOW:
        return LOW_AT
    if row == HIGH:
        return HIGH_AT
    return MARK_LOW_AT if row == MARK_LOW else MARK_HIGH_AT


@part
def thin_at(
    market: Market, rates: Rates, position: Position, unit: float, most: float, ratio: float
) -> float:
    """side * (mark - CF) down to which no maintenance line asks for `ratio` of equity; inf where that cannot be told so.

    Line k asks for it where (ratio - side * rate) * side * (mark - CF) <= rate * CF - level; CF is at most `most`. No rule asks for more
    than the lines.
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
def guarded_at(market: Market, rates: Rates, position: Position, most: float) -> float:
    """side * (mark - CF) down to which the guard holds, whatever a liquidation goes by: side * (mark * factor - CF) > level."""
    factor, level = position.guard_factor, position.guard_level
    if not factor > 0.0:
        return np.inf
    room = SLACK * (8.0 * market.greatest + abs(level)) + tick_room(rates.terms, market.highest_mark)
    return ((level + position.side * (1.0 - factor) * most) + room) / factor


@part
def bounds_for(
    market: Market, rates: Rates, position: Position, unit: float, most: float, called: float
) -> Bounds:
    """The bounds that hold while the position and the highest CF stay; `called` is the ratio of a margin call, inf for none."""
    plain = rates.terms.tick_per == 0.0 and not rates.whole and not growing(rates)
    if plain:
        ruin = thin_at(market, rates, position, unit, most, 1.0)
    else:
        ruin = guarded_at(market, rates, position, most)
    call = -np.inf if called == np.inf else thin_at(market, rates, position, unit, most, called)
    return Bounds(unit, most, ruin, call)


@part
def fall_at(market: Market, position: Position, path: Path, unit: float, peak: float) -> float:
    """side * (mark close - CF) down to which no drawdown from this peak is deeper than the deepest so far."""
    start = position.side * (position.entry - position.funding)
    money = path.released + position.margin
    room = SLACK * (4.0 * market.greatest + (peak + money) * unit)
    return (start + (peak * (1.0 - path.drawdown) - money) * unit) + room


@part
def levels_for(
    market: Market, watch: Watch, position: Position, path: Path, bounds: Bounds, thinnest: float
) -> Levels:
    """The levels that hold until the path changes."""
    unit = bounds.unit
    start = position.side * (position.entry - position.funding)
    money = path.released + position.margin
    room = SLACK * (4.0 * market.greatest + (path.peak + money) * unit)
    up = (start + (path.peak - money) * unit) - room
    down = max(fall_at(market, position, path, unit, path.peak), bounds.call)
    stop, target, trailing, best = position.stop, position.target, -np.inf, np.inf
    apart = False
    if position.trail != 0.0:  # stands still until there is a new best price
        trailing, best = path.extreme * position.trail, path.extreme
        apart = watch.trail != watch.stop or watch.best != watch.target
        if not apart:
            stop, target = max(stop, trailing), min(target, best)
    thin = np.float32(max(thinnest, bounds.ruin))
    if position.side > 0.0:
        return Levels(
            place_of(watch.stop), np.float32(stop), place_of(watch.target), np.float32(target),
            np.float32(down), np.float32(up), THIN_LOW, thin, apart,
            place_of(watch.trail), np.float32(trailing), place_of(watch.best), np.float32(best),
        )  # fmt: skip
    return Levels(
        place_of(watch.target), np.float32(-target), place_of(watch.stop), np.float32(-stop),
        np.float32(-up), np.float32(-down), THIN_HIGH, thin, apart,
        place_of(watch.best), np.float32(-best), place_of(watch.trail), np.float32(-trailing),
    )  # fmt: skip


@part
def least(coarse: Coarse, at: int) -> Any:
    """Of 64 numbers from the `at`-th on, sixteen of which one is the smallest."""
    one = lower(sixteen(coarse, at), sixteen(coarse, at + WIDE))
    return lower(one, lower(sixteen(coarse, at + 2 * WIDE), sixteen(coarse, at + 3 * WIDE)))


@part
def most(coarse: Coarse, at: int) -> Any:
    """Of 64 numbers from the `at`-th on, sixteen of which one is the largest."""
    one = upper(sixteen(coarse, at), sixteen(coarse, at + WIDE))
    return upper(one, upper(sixteen(coarse, at + 2 * WIDE), sixteen(coarse, at + 3 * WIDE)))


@part
def news(coarse: Coarse, levels: Levels, block: int) -> int:
    """Which levels the bars of a block meet; 0: there is nothing to do, and nothing to remember."""
    at = block * ROW
    found = (
        sinks(least(coarse, at + levels.low), levels.floor) * DOWN
        | rises(most(coarse, at + levels.high), levels.ceiling) * UP
        | sinks(least(coarse, at + WORTH), levels.fallen) * FALLEN
        | rises(most(coarse, at + WORTH), levels.risen) * RISEN
        | sinks(least(coarse, at + levels.thin), levels.thinnest) * THIN
    )
    if levels.apart:
        found |= sinks(least(coarse, at + levels.trail_low), levels.trail_floor) * TRAIL_DOWN
        found |= rises(most(coarse, at + levels.trail_high), levels.trail_ceiling) * TRAIL_UP
    return found


@part
def down_to(coarse: Coarse, at: int, level: np.float32) -> int:
    """Which of 64 numbers from the `at`-th on are at or below the level: bit k for the k-th."""
    return (
        sunk(sixteen(coarse, at), level)
        | sunk(sixteen(coarse, at + WIDE), level) << WIDE
        | sunk(sixteen(coarse, at + 2 * WIDE), level) << (2 * WIDE)
        | sunk(sixteen(coarse, at + 3 * WIDE), level) << (3 * WIDE)
    )


@part
def up_to(coarse: Coarse, at: int, level: np.float32) -> int:
    """Which of 64 numbers from the `at`-th on are at or above the level."""
    return (
        risen(sixteen(coarse, at), level)
        | risen(sixteen(coarse, at + WIDE), level) << WIDE
        | risen(sixteen(coarse, at + 2 * WIDE), level) << (2 * WIDE)
        | risen(sixteen(coarse, at + 3 * WIDE), level) << (3 * WIDE)
    )


@part
def meets(coarse: Coarse, block: int, place: int, side: float, level: float) -> bool:
    """Does side * any of these numbers of a block go down to the level?"""
    at = block * ROW + place
    if side > 0.0:
        return sinks(least(coarse, at), np.float32(level)) != 0
    return rises(most(coarse, at), np.float32(-level)) != 0


@part
def strikes(
    coarse: Coarse, watch: Watch, position: Position, bounds: Bounds, thin: int, extreme: float, block: int
) -> bool:
    """Could something happen in the block, if the extreme of a trailing stop were `extreme` from the first on?"""
    side, stop = position.side, position.stop
    found = meets(coarse, block, thin, 1.0, bounds.ruin)
    if position.trail != 0.0:
        if watch.trail == watch.stop:
            stop = max(stop, extreme * position.trail)
        else:
            found |= meets(coarse, block, place_of(watch.trail), side, extreme * position.trail)
    if stop > -np.inf:
        found |= meets(coarse, block, place_of(watch.stop), side, stop)
    if position.target < np.inf:
        found |= meets(coarse, block, place_of(watch.target), -side, -position.target)
    if bounds.call > -np.inf:
        found |= meets(coarse, block, WORTH, side, bounds.call)
    return found
