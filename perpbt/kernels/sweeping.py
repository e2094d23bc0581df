"""Going over bars for one position, where an opening, an exit or a change of rates is not due.

Every bar is compared with the position, 64 at a time: coarsely (`screening`), for whether something could happen in it, and whether there
is anything to remember of it. Up to the first in which something could, `extremes` says what is remembered.
"""

from __future__ import annotations

import numpy as np

from .coarse import BLOCK, MOST, ROW, SHIFT, STRETCH
from .compile import part
from .eights import (
    WIDTH,
    at_most,
    before,
    chosen,
    larger,
    lowest_lane,
    minus,
    most_of,
    one_of,
    spread,
    times,
)
from .extremes import remembered
from .margin import Position
from .marking import bars_in, bars_of, equities, lanes_in, needs, up_to_each
from .screening import (
    SLACK,
    Levels,
    bounds_for,
    is_better,
    levels_for,
    next_struck,
    struck_bars,
    thin_at,
)
from .tables import FUNDING, MARK_CLOSE, NO_CALL, Coarse, Market, Rates
from .watching import Care, Path, Watch


@part
def best_over(
    market: Market, watch: Watch, position: Position, place: int, extreme: float, first: int, last: int
) -> float:
    """The extreme of a trailing stop after these bars, whose coarse best prices stand at `place`."""
    side = position.side
    for block in range(first >> SHIFT, (last + BLOCK - 1) >> SHIFT):
        if is_better(market.coarse, side, block * ROW + place, extreme):
            best, start, end = spread(extreme), max(first, block << SHIFT), min(last, (block + 1) << SHIFT)
            for at in range(start & -WIDTH, end, WIDTH):
                here = times(spread(side), bars_of(market, watch.best, at))
                best = larger(chosen(lanes_in(at, start, end), here, best), best)
            extreme = most_of(best)
    return extreme


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
def quiet_until(
    market: Market, rates: Rates, watch: Watch, position: Position, levels: Levels, called: float, extreme: float, first: int,
    last: int, told: Coarse,
) -> tuple[int, float, int]:  # fmt: skip
    """The first of bars [first, last) in which something could happen, or `last`; a trailing stop's extreme before it; the news up to there."""
    coarse, end = market.coarse, (last + BLOCK - 1) >> SHIFT
    base, known, bound, news = first >> SHIFT, first, extreme, 0
    block = base
    while True:
        block, bound, found = next_struck(coarse, position, levels, base, block, end, bound, told)
        news |= found
        if block == end:
            break
        bars, start = bars_in(block, first, last), block << SHIFT
        if position.trail != 0.0 or called < np.inf:
            # the extreme of the bars before it, and then bar by bar as the rules say
            start, stop = max(first, start), min(last, start + BLOCK)
            if position.trail != 0.0:
                extreme = best_over(market, watch, position, levels.best, extreme, known, start)
            known, extreme = first_struck(market, rates, watch, position, called, extreme, start, stop)
            if known < stop:
                return known, extreme, news
        else:
            bars &= struck_bars(coarse, levels, block)
            if bars:
                return start + lowest_lane(bars), extreme, news
        block += 1
    if bound > extreme:
        extreme = best_over(market, watch, position, levels.best, extreme, known, last)
    return last, extreme, news


@part
def sweep(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, i: int, until: int, told: Coarse, far: bool
) -> tuple[int, Path]:  # fmt: skip
    """Mark bars from `i` on; stop at the first in which something could happen, or at `until`. `told` has room for what blocks tell.

    `far`: the coarse bars are not near the processor.
    """
    coarse, unit, called = market.coarse, 1.0 / position.quantity, np.inf
    if care.action != NO_CALL and path.calls < care.limit:
        called = care.threshold
    while i < until:
        block = i >> SHIFT
        edge = min(until, (block + STRETCH) << SHIFT)
        most = np.float64(max(coarse[block, MOST], coarse[(edge - 1) >> SHIFT, MOST]))
        bounds = bounds_for(market, rates, position, unit, most, called)
        thinnest = thin_at(market, rates, position, unit, bounds.most, min(path.worst_ratio, 1.0))
        levels = levels_for(market, watch, position, path, bounds, thinnest, far)
        stop, extreme, news = quiet_until(
            market, rates, watch, position, levels, called, path.extreme, i, edge, told
        )
        path = remembered(market, rates, watch, position, path, bounds, levels, news, extreme, i, stop, told)
        i = stop
        if stop < edge:
            break
    return i, path
