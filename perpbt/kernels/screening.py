"""Could something happen to a position in 64 bars, and is there anything to remember? The levels that coarse bars are compared with.

Levels are widened by far more than rounding: they only say where to look. What is decided or remembered is computed as the rules say.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .ahead import fetch
from .coarse import (
    BLOCK,
    HIGH_AT,
    LOW_AT,
    MARK_HIGH_AT,
    MARK_LOW_AT,
    ROW,
    STRETCH,
    THIN_HIGH,
    THIN_LOW,
    WORTH,
)
from .compile import part
from .contracts import tick_room
from .margin import Position, growing
from .sixteens import (
    WIDE,
    everywhere,
    highest_of,
    lower,
    lowest_of,
    put_sixteen,
    risen,
    rises,
    sinks,
    sixteen,
    sunk,
    upper,
)
from .tables import DEDUCTION, HIGH, LOW, MARK_LOW, RATE, Coarse, Market, Rates
from .watching import Path, Watch

SLACK = 1e-12  # a level is widened by this share of what it is computed from
# A coarse number is off by this share of itself, or this much, at most.
ROUGH, SMALLEST = 2e-7, 1e-44
# What blocks that are gone over together, STRETCH at most, tell: of each, sixteen numbers of which one is the smallest thin, the smallest
# worth, or the largest worth; and then that one of each.
TOLD_THIN, TOLD_LOW, TOLD_HIGH = (k * STRETCH * WIDE for k in range(3))
THIN_OF, LOW_OF, HIGH_OF = (3 * STRETCH * WIDE + k * STRETCH for k in range(3))
TOLD = HIGH_OF + STRETCH
SOON = 4  # blocks, that are asked for before they are looked at
FALLEN, RISEN, THIN = 1, 2, 4  # news of bars, as bits: which levels are met


class Levels(NamedTuple):
    """What bars stay inside of, as coarse levels, and where in a row of the table stand the numbers they are for."""

    low: (
        int  # something could happen where these are at or below their floor: stop, or take-profit of a short
    )
    floor: np.float32
    high: int
    ceiling: np.float32
    thin: int  # or these: it could be liquidated
    ruin: np.float32
    called: bool  # or worth, for somebody watches the margin
    low_call: np.float32
    high_call: np.float32
    fallen: (
        np.float32
    )  # there is news where worth is at or below, or at or above: a new peak of equity, or a deeper drawdown
    risen: np.float32
    thinnest: np.float32  # or `thin`: the worst margin ratio so far, or 1
    trail: int  # a trailing stop is tested on these, and moves on by those
    best: int
    far: bool  # the table is not near the processor: ask for what is to come


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
def worth_of_entry(position: Position) -> float:
    """side * (mark - CF) at which the equity is the margin."""
    return position.side * (position.entry - position.funding)


@part
def fall_at(
    market: Market, position: Position, path: Path, unit: float, peak: float, drawdown: float
) -> float:
    """side * (mark close - CF) down to which no drawdown from this peak is deeper than `drawdown`."""
    money = path.released + position.margin
    room = SLACK * (4.0 * market.greatest + (peak + money) * unit)
    return (worth_of_entry(position) + (peak * (1.0 - drawdown) - money) * unit) + room


@part
def rise_at(market: Market, position: Position, path: Path, unit: float, peak: float) -> float:
    """side * (mark close - CF) up to which there is no higher peak."""
    money = path.released + position.margin
    room = SLACK * (4.0 * market.greatest + (peak + money) * unit)
    return (worth_of_entry(position) + (peak - money) * unit) - room


@part
def levels_for(
    market: Market, watch: Watch, position: Position, path: Path, bounds: Bounds, thinnest: float, far: bool
) -> Levels:
    """The levels that hold until the path changes."""
    up = np.float32(rise_at(market, position, path, bounds.unit, path.peak))
    down = np.float32(fall_at(market, position, path, bounds.unit, path.peak, path.drawdown))
    stop, target, call = np.float32(position.stop), np.float32(position.target), np.float32(bounds.call)
    ruin, thin, none = np.float32(bounds.ruin), np.float32(thinnest), np.float32(np.inf)
    called, trail, best = bounds.call > -np.inf, place_of(watch.trail), place_of(watch.best)
    if position.side > 0.0:
        return Levels(
            place_of(watch.stop), stop, place_of(watch.target), target, THIN_LOW, ruin, called, call, none,
            down, up, thin, trail, best, far,
        )  # fmt: skip
    return Levels(
        place_of(watch.target), -target, place_of(watch.stop), -stop, THIN_HIGH, ruin, called, -none, -call,
        -up, -down, thin, trail, best, far,
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
def is_better(coarse: Coarse, side: float, at: int, extreme: float) -> bool:
    """Is the best price of a block, as side * price, this or more?"""
    if side > 0.0:
        return rises(most(coarse, at), np.float32(extreme)) != 0
    return sinks(least(coarse, at), np.float32(-extreme)) != 0


@part
def best_in(coarse: Coarse, side: float, at: int) -> float:
    """side * best price of a block, or a little more."""
    if side > 0.0:
        best = np.float64(highest_of(most(coarse, at)))
    else:
        best = -np.float64(lowest_of(least(coarse, at)))
    return best + (abs(best) * ROUGH + SMALLEST)


@part
def expect_block(coarse: Coarse, side: float, block: int) -> None:
    """Ask for what a position looks at in a block, if triggers are those of the last price."""
    if block < coarse.shape[0]:
        at = block * ROW + (LOW_AT if side > 0.0 else THIN_HIGH)
        for line in range(0, 4 * BLOCK, WIDE):
            fetch(coarse, (at + line) // 2)  # counted in numbers of all digits


@part
def next_struck(
    coarse: Coarse,
    position: Position,
    levels: Levels,
    base: int,
    block: int,
    last: int,
    extreme: float,
    told: Coarse,
) -> tuple[int, float, int]:
    """The first block from `block` on in which something could happen, or `last`; a bound of a trailing stop's extreme after it, given that
    before; and the news up to there. Every block tells what it has, `base` in the first place.
    """
    side, trail, struck = position.side, position.trail, 0
    lowest, highest = everywhere(np.float32(np.inf)), everywhere(np.float32(-np.inf))
    thinnest = lowest
    while block < last:
        at, to = block * ROW, (block - base) * WIDE
        if levels.far:
            expect_block(coarse, side, block + SOON)
        low, high, thin = least(coarse, at + WORTH), most(coarse, at + WORTH), least(coarse, at + levels.thin)
        put_sixteen(told, TOLD_LOW + to, low)
        put_sixteen(told, TOLD_HIGH + to, high)
        put_sixteen(told, TOLD_THIN + to, thin)
        lowest, highest, thinnest = lower(lowest, low), upper(highest, high), lower(thinnest, thin)
        struck = sunk(least(coarse, at + levels.low), levels.floor) | sunk(thin, levels.ruin)
        struck |= risen(most(coarse, at + levels.high), levels.ceiling)
        if levels.called:
            struck |= sunk(low, levels.low_call) | risen(high, levels.high_call)
        if trail != 0.0:
            if is_better(coarse, side, at + levels.best, extreme):
                extreme = max(extreme, best_in(coarse, side, at + levels.best))
            # a short's stop is met from below
            if is_better(coarse, -side, at + levels.trail, -(extreme * trail)):
                struck |= 1
        if struck:
            break
        block += 1
    news = sinks(lowest, levels.fallen) * FALLEN | rises(highest, levels.risen) * RISEN
    return block, extreme, news | sinks(thinnest, levels.thinnest) * THIN


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
def struck_bars(coarse: Coarse, levels: Levels, block: int) -> int:
    """The bars of a block in which something could happen but for a trailing stop."""
    at = block * ROW
    bars = down_to(coarse, at + levels.low, levels.floor) | up_to(coarse, at + levels.high, levels.ceiling)
    bars |= down_to(coarse, at + levels.thin, levels.ruin)
    if levels.called:
        bars |= down_to(coarse, at + WORTH, levels.low_call) | up_to(coarse, at + WORTH, levels.high_call)
    return bars
