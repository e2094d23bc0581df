"""Going over bars for one position, 64 at a time, where an opening, an exit or a change of rates is not due.

Every bar is compared with the position. First coarsely (`screening`): is any price of the block beyond a level that could end the
position, or that the path would remember? A block with news is then gone through in full, for the kind of news it has, eight bars at a
time: what the path remembers are largest and smallest values, which need no order, save that a drawdown is from the peak before it; and
of those, a bound says when there can be no deeper one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .coarse import BLOCK, MOST, ROW, SHIFT, STRETCH, WORTH
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
from .screening import (
    FALLEN,
    PRICES,
    RISEN,
    THIN,
    Levels,
    bounds_for,
    down_to,
    fall_at,
    levels_for,
    meets,
    news,
    strikes,
    thin_at,
    up_to,
)
from .tables import DEDUCTION, FUNDING, MARK_CLOSE, NO_CALL, RATE, Market, Rates
from .watching import Care, Path, Watch, seen, seen_on

SLACK = 1e-12
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
def best_over(
    market: Market, watch: Watch, position: Position, extreme: float, first: int, last: int
) -> float:
    """The extreme of a trailing stop after these bars."""
    best, side = spread(extreme), spread(position.side)
    for at in range(first & -WIDTH, last, WIDTH):
        best = larger(
            chosen(lanes_in(at, first, last), times(side, bars_of(market, watch.best, at)), best), best
        )
    return most_of(best)


@part
def first_struck(
    market: Market, rates: Rates, watch: Watch, position: Position, called: float, extreme: float, first: int, last: int
) -> tuple[int, float]:  # fmt: skip
    """The first of these bars in which something could happen, or `last`, and the extreme of a trailing stop before it."""
    side, factor = spread(position.side), spread(position.guard_factor)
    for at in range(first & -WIDTH, last, WIDTH):
        lanes = lanes_in(at, first, last)
        guarded = minus(times(bars_of(market, watch.adverse, at), factor), bars_of(market, FUNDING, at))
        struck = at_most(times(side, guarded), spread(position.guard_level))
        struck |= at_most(times(side, bars_of(market, watch.stop, at)), spread(position.stop))
        struck |= at_most(spread(position.target), times(side, bars_of(market, watch.target, at)))
        if called < np.inf:
            prices = bars_of(market, MARK_CLOSE, at)
            allowed = times(equities(market, position, prices, at), spread(called * (1.0 - SLACK)))
            struck |= at_most(allowed, needs(rates, position, prices))
        if position.trail != 0.0:
            own = chosen(lanes, times(side, bars_of(market, watch.best, at)), spread(-np.inf))
            reached = larger(up_to_each(own), spread(extreme))
            earlier = before(reached, extreme, 1)
            stands = times(
                larger(earlier, times(side, bars_of(market, watch.trail_open, at))), spread(position.trail)
            )
            struck |= at_most(times(side, bars_of(market, watch.trail, at)), stands)
            if struck & lanes:
                lane = lowest_lane(struck & lanes)
                return at + lane, one_of(earlier, lane)
            extreme = one_of(reached, WIDTH - 1)
        elif struck & lanes:
            return at + lowest_lane(struck & lanes), extreme
    return last, extreme


@part
def bars_in(block: int, first: int, last: int) -> int:
    """Of the bars of a block, those in [first, last): bit k for the k-th."""
    bars = -1 << int(first - (block << SHIFT))
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
    market: Market, position: Position, path: Path, first: int, last: int
) -> tuple[float, float]:
    """Peak and drawdown after these bars, close by close as `watching.marked` has it, for a new peak is 0 below itself."""
    peak, drawdowns = path.peak, spread(path.drawdown)
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


@part
def marked_over(
    market: Market, position: Position, path: Path, levels: Levels, unit: float, block: int, first: int, last: int
) -> tuple[float, float]:  # fmt: skip
    """Peak and drawdown of the equity path after bars [first, last) of a block.

    Closes inside the levels are no news. Where there is no new peak the deepest drawdown is at the lowest value; where there is one, a
    bound says when no fall from it can be deeper.
    """
    low, high = (
        down_to(market.coarse, block * ROW + WORTH, levels.fallen),
        up_to(market.coarse, block * ROW + WORTH, levels.risen),
    )
    if position.side < 0.0:
        low, high = high, low
    bars, peak = bars_in(block, first, last), path.peak
    low, high = low & bars, high & bars
    if high:
        if low:
            return marked_in_turn(market, position, path, first, last)
        peak = extreme_value(market, position, path, peak, 1.0, block, high)
        if meets(market.coarse, block, WORTH, position.side, fall_at(market, position, path, unit, peak)):
            return marked_in_turn(market, position, path, first, last)
    if low:
        bottom = extreme_value(market, position, path, np.inf, -1.0, block, low)
        return peak, max(path.drawdown, (peak - bottom) / peak)
    return peak, path.drawdown


@part
def sweep(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, i: int, until: int
) -> tuple[int, Path]:  # fmt: skip
    """Mark bars from `i` on; stop at the first in which something could happen, or at `until`."""
    coarse, unit, called = market.coarse, 1.0 / position.quantity, np.inf
    if care.action != NO_CALL and path.calls < care.limit:
        called = care.threshold
    while i < until:
        stretch = i >> SHIFT & -STRETCH
        edge = min(until, (stretch + STRETCH) << SHIFT)
        bounds = bounds_for(market, rates, position, unit, np.float64(coarse[stretch, MOST]), called)
        thinnest = thin_at(market, rates, position, unit, bounds.most, min(path.worst_ratio, 1.0))
        levels = levels_for(market, watch, position, path, bounds, thinnest)
        for block in range(i >> SHIFT, (edge + BLOCK - 1) >> SHIFT):
            found = news(coarse, levels, block)
            if found == 0:
                continue
            first, end = max(i, block << SHIFT), min((block + 1) << SHIFT, edge)
            stop, extreme, worst = end, path.extreme, path.worst_ratio
            peak, drawdown = path.peak, path.drawdown
            if position.trail != 0.0 and found & PRICES:
                extreme = best_over(market, watch, position, path.extreme, first, end)
            if (found & (PRICES | THIN) or called < np.inf) and strikes(
                coarse, watch, position, bounds, levels.thin, extreme, block
            ):
                stop, extreme = first_struck(market, rates, watch, position, called, path.extreme, first, end)
            if found & THIN:
                thin = down_to(coarse, block * ROW + levels.thin, levels.thinnest) & bars_in(
                    block, first, stop
                )
                worst = worst_over(market, rates, watch, position, worst, block, thin)
                if worst != path.worst_ratio:
                    thinnest = thin_at(market, rates, position, unit, bounds.most, min(worst, 1.0))
            if found & (FALLEN | RISEN):
                peak, drawdown = marked_over(market, position, path, levels, unit, block, first, stop)
            path = seen_on(path, extreme, peak, drawdown, worst)
            if stop < end:
                return stop, path
            levels = levels_for(market, watch, position, path, bounds, thinnest)
        i = edge
    return i, path
