"""What the rules say of a position at each of eight bars, and the most that some bars of a block say."""

from __future__ import annotations

from typing import Any

import numpy as np

from .coarse import BLOCK, SHIFT
from .compile import aside, part
from .eights import (
    WIDTH,
    at_most,
    before,
    chosen,
    eight,
    larger,
    lowest_lane,
    minus,
    most_of,
    one_of,
    over,
    plus,
    spread,
    times,
)
from .margin import Position
from .tables import DEDUCTION, FUNDING, MARK_CLOSE, RATE, Market, Rates
from .watching import Path, Watch, seen

SLACK = 1e-12  # what is compared so is widened by this share
ALL = (1 << WIDTH) - 1


@part
def bars_of(market: Market, row: int, at: int) -> Any:
    """A row of the series at eight bars."""
    return eight(market.series, row * market.series.shape[1] + at)


@part
def lanes_in(at: int, first: int, last: int) -> int:
    """Of eight bars from `at` on, those in [first, last)."""
    lanes = ALL
    if at < first:
        lanes &= ALL << (first - at)
    if at + WIDTH > last:
        lanes &= (1 << (last - at)) - 1
    return lanes


@part
def equities(market: Market, position: Position, prices: Any, at: int) -> Any:
    """`margin.equity` at a price in each of eight bars."""
    signed = spread(position.side * position.quantity)
    gained = times(signed, minus(prices, spread(position.entry)))
    paid = times(signed, minus(bars_of(market, FUNDING, at), spread(position.funding)))
    return minus(plus(spread(position.margin), gained), paid)


@part
def needs(rates: Rates, position: Position, prices: Any) -> Any:
    """What all maintenance lines together ask for at eight prices: `margin.requirement`, or more where that goes not by lines."""
    notional, needed = times(spread(position.quantity), prices), spread(position.kept)
    for k in range(position.tiers):
        asked = minus(times(notional, spread(rates.tiers[k, RATE])), spread(rates.tiers[k, DEDUCTION]))
        needed = larger(needed, asked)
    return plus(needed, times(spread(position.extra), notional))


@part
def up_to_each(values: Any) -> Any:
    """The largest of each number and those before it."""
    reached = larger(values, before(values, -np.inf, 1))
    reached = larger(reached, before(reached, -np.inf, 2))
    return larger(reached, before(reached, -np.inf, 4))


@part
def bars_in(block: int, first: int, last: int) -> int:
    """Of the bars of a block, those in [first, last): bit k for the k-th."""
    bars = -1 << int(max(first - (block << SHIFT), 0))
    ahead = int(last - (block << SHIFT))
    return bars & ((1 << ahead) - 1) if ahead < BLOCK else bars


@aside
def worst_of(
    market: Market, rates: Rates, position: Position, worst: float, row: int, at: int, lanes: int
) -> float:
    """The worst margin ratio after some of eight bars, where maintenance goes not by lines."""
    while lanes:
        i = at + lowest_lane(lanes)
        worst = seen(rates, position, worst, market.series[row, i], market.series[FUNDING, i])
        lanes &= lanes - 1
    return worst


@part
def worst_over(
    market: Market, rates: Rates, watch: Watch, position: Position, worst: float, block: int, bars: int
) -> float:
    """The worst margin ratio after these bars of a block: `margin.margin_ratio` at every adverse price."""
    none, ratios = spread(0.0), spread(worst)
    while bars:
        away = lowest_lane(bars) & -WIDTH
        at, lanes = (block << SHIFT) + away, bars >> away & ALL
        bars &= ~(ALL << away)
        prices = bars_of(market, watch.adverse, at)
        left, needed = equities(market, position, prices, at), needs(rates, position, prices)
        if rates.whole or rates.per_unit > 0.0:
            worse = at_most(times(left, spread(worst * (1.0 - SLACK))), needed) & lanes
            if worse:
                worst = worst_of(market, rates, position, worst, watch.adverse, at, worse)
                ratios = spread(worst)
        else:
            here = chosen(at_most(left, none), spread(np.inf), over(needed, left))
            ratios = larger(chosen(lanes, here, ratios), ratios)
    return most_of(ratios)


@part
def values_at(market: Market, position: Position, path: Path, at: int) -> Any:
    """The equity path at the closes of eight bars."""
    held = equities(market, position, bars_of(market, MARK_CLOSE, at), at)
    return plus(held, spread(path.released))


@part
def marked_in_turn(
    market: Market, position: Position, path: Path, peak: float, drawdown: float, first: int, last: int
) -> tuple[float, float]:
    """Peak and drawdown after these bars, close by close as `watching.marked` has it, for a new peak is 0 below itself."""
    drawdowns = spread(drawdown)
    for at in range(first & -WIDTH, last, WIDTH):
        lanes, values = lanes_in(at, first, last), values_at(market, position, path, at)
        reached = larger(up_to_each(chosen(lanes, values, spread(-np.inf))), spread(peak))
        here = over(minus(reached, values), reached)
        drawdowns = larger(chosen(lanes, here, drawdowns), drawdowns)
        peak = one_of(reached, WIDTH - 1)
    return peak, most_of(drawdowns)


@part
def extreme_value(
    market: Market, position: Position, path: Path, value: float, sign: float, block: int, bars: int
) -> float:
    """The largest (sign 1) or smallest (-1) of a value and the equity path at the closes of these bars."""
    values, way = spread(sign * value), spread(sign)
    while bars:
        away = lowest_lane(bars) & -WIDTH
        at, lanes = (block << SHIFT) + away, bars >> away & ALL
        bars &= ~(ALL << away)
        here = times(way, values_at(market, position, path, at))
        values = larger(chosen(lanes, here, values), values)
    return sign * most_of(values)
