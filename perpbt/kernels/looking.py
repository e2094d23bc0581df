"""Looking at every bar: what a position does over bars in which no threshold is crossed and no margin call made.

`look` marks bar after bar. `quiet` first screens 64 bars at a time for one that could matter, in a loop the machine runs over several
bars at once; a block without any needs no more than that. A screen is a rule of thumb widened by 1e-9 of what it compares, far above
rounding: it only says where to look, and what is decided or remembered is computed by `look`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compile import part
from .margin import Position, growing, requirement
from .tables import DEDUCTION, FUNDING, MARK_CLOSE, NO_CALL, RATE, Floats, Market, Rates
from .watching import Care, Path, Watch, seen_on

SLACK = 1e-9
BLOCK, SMALL = 64, 16  # bars screened at a time; where there is news, more narrowly


class Line(NamedTuple):
    """A margin ratio, for one maintenance line, as price * on_price + CF * on_funding >= level."""

    on_price: float
    on_funding: float
    level: float


class Screen(NamedTuple):
    """Levels that bars without news stay inside of: rows of Market.series, and levels with which they are compared."""

    low: int  # this row at or below its floor: stop, or take-profit of a short
    floor: float
    high: int
    ceiling: float
    fallen: float  # close - CF at or below, or at or above: a new peak of equity, or a new deepest drawdown
    risen: float
    line: Line  # a position is liquidated at 1, so what stays below the worst ratio so far, or 1, is safe
    apart: bool  # the rows of a trailing stop are others
    trail_low: int  # as low and high
    trail_floor: float
    trail_high: int
    trail_ceiling: float


@part
def look(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, i: int, until: int
) -> tuple[int, Path]:
    """Mark bars one by one from `i`; stop at the first in which something could happen, or at `until`.

    What `at_open`, `in_range` and `after_close` do, for bars in which they find nothing to do.
    """
    side, entry, margin, quantity = position.side, position.entry, position.margin, position.quantity
    signed, at_entry = side * quantity, position.funding
    series, tiers = market.series, rates.tiers
    extreme, peak, drawdown, worst = path.extreme, path.peak, path.drawdown, path.worst_ratio
    watched = care.action != NO_CALL and path.calls < care.limit
    while i < until:
        funding, adverse = series[FUNDING, i], series[watch.adverse, i]
        if side * ((adverse * position.guard_factor) - funding) <= position.guard_level:
            break
        if side * series[watch.stop, i] <= position.stop or side * series[watch.target, i] >= position.target:
            break
        if position.trail != 0.0:
            best = max(extreme, side * series[watch.trail_open, i])
            if side * series[watch.trail, i] <= best * position.trail:
                break
        paid = signed * (funding - at_entry)
        mark = series[MARK_CLOSE, i]
        left = (margin + signed * (mark - entry)) - paid
        if watched:
            needed = position.kept
            for k in range(position.tiers):
                needed = max(needed, (quantity * mark) * tiers[k, RATE] - tiers[k, DEDUCTION])
            needed = needed + position.extra * (quantity * mark)
            if not needed < care.threshold * left * (1.0 - SLACK):
                break
        needed = position.kept
        for k in range(position.tiers):
            needed = max(needed, (quantity * adverse) * tiers[k, RATE] - tiers[k, DEDUCTION])
        needed = needed + position.extra * (quantity * adverse)
        thin = (margin + signed * (adverse - entry)) - paid
        if needed >= worst * thin * (1.0 - SLACK):  # divide only for a candidate
            if (
                rates.whole or rates.per_unit > 0.0
            ):  # lines are above what the band, or the parabola, asks for
                needed = requirement(rates, position, adverse)
            worst = max(worst, needed / thin if thin > 0.0 else np.inf)
        if position.trail != 0.0:
            extreme = max(extreme, side * series[watch.best, i])
        value = left + path.released
        if value > peak:
            peak = value
        elif peak - value >= peak * drawdown * (1.0 - SLACK):
            drawdown = max(drawdown, (peak - value) / peak)
        i += 1
    return i, seen_on(path, extreme, peak, drawdown, worst)


@part
def screen_for(market: Market, rates: Rates, watch: Watch, position: Position, path: Path) -> Screen:
    """The levels that hold until the path changes."""
    start = position.side * (position.entry - position.funding)
    money = path.released + position.margin
    room = SLACK * (4.0 * market.greatest + (path.peak + money) / position.quantity)
    up = (start + (path.peak - money) / position.quantity) - room
    down = (start + (path.peak * (1.0 - path.drawdown) - money) / position.quantity) + room
    line = line_for(market, rates, position, 0, min(path.worst_ratio, 1.0))
    # a trailing stop stands still until there is a new best price
    trailing, best = -np.inf, np.inf
    if position.trail != 0.0:
        trailing, best = path.extreme * position.trail, path.extreme
    stop, target = position.stop, position.target
    apart = watch.trail != watch.stop or watch.best != watch.target
    if not apart:
        stop, target = max(stop, trailing), min(target, best)
    if position.side > 0.0:
        return Screen(
            watch.stop, stop, watch.target, target, down, up, line, apart and position.trail != 0.0,
            watch.trail, trailing, watch.best, best,
        )  # fmt: skip
    return Screen(
        watch.target, -target, watch.stop, -stop, -up, -down, line, apart and position.trail != 0.0,
        watch.best, -best, watch.trail, -trailing,
    )  # fmt: skip


@part
def beyond(series: Floats, low: int, floor: float, high: int, ceiling: float, first: int, size: int) -> int:
    """In how many bars of the block one row is at or below its floor or another at or above its ceiling."""
    count, base = 0, np.uint64(first)
    below, above = np.uint64(low), np.uint64(high)
    for j in range(np.uint64(size)):
        count += (series[below, base + j] <= floor) | (series[above, base + j] >= ceiling)
    return count


@part
def line_for(market: Market, rates: Rates, position: Position, k: int, ratio: float) -> Line:
    """Where line k requires `ratio` of equity or more."""
    rate, deduction = position.extra, -position.kept
    if position.tiers > 0:
        rate, deduction = rate + rates.tiers[k, RATE], rates.tiers[k, DEDUCTION]
    on_funding = ratio * position.side
    held = ratio * (position.margin / position.quantity - position.side * (position.entry - position.funding))
    room = SLACK * (8.0 * market.greatest + (position.margin + abs(deduction)) / position.quantity)
    return Line(rate - on_funding, on_funding, (deduction / position.quantity + held) - room)


@part
def thinner(
    market: Market, rates: Rates, position: Position, row: int, ratio: float, first: int, size: int
) -> int:
    """In how many bars of the block the margin ratio at the prices of `row` may be `ratio` or more, on any line but the first."""
    series, count = market.series, 0
    at, funding, base = np.uint64(row), np.uint64(FUNDING), np.uint64(first)
    for k in range(max(position.tiers, 1)):
        on_price, on_funding, level = line_for(market, rates, position, k, ratio)
        for j in range(np.uint64(size)):
            count += series[at, base + j] * on_price + series[funding, base + j] * on_funding >= level
    return count


@part
def newsworthy(series: Floats, screen: Screen, adverse: int, first: int, size: int) -> int:
    """In how many bars of the block a level of the screen is reached."""
    count, base = 0, np.uint64(first)
    low, high, mark = np.uint64(screen.low), np.uint64(screen.high), np.uint64(adverse)
    close, funding = np.uint64(MARK_CLOSE), np.uint64(FUNDING)
    on_price, on_funding, level = screen.line
    for j in range(np.uint64(size)):
        k = base + j
        paid = series[funding, k]
        worth = series[close, k] - paid
        count += (
            (series[low, k] <= screen.floor)
            | (series[high, k] >= screen.ceiling)
            | (worth <= screen.fallen)
            | (worth >= screen.risen)
            | (series[mark, k] * on_price + paid * on_funding >= level)
        )
    return count


@part
def calm(
    market: Market,
    rates: Rates,
    watch: Watch,
    care: Care,
    position: Position,
    path: Path,
    screen: Screen,
    i: int,
    size: int,
) -> bool:
    """Is there nothing to do, and nothing to remember, in `size` bars from `i` on?"""
    series = market.series
    count = newsworthy(series, screen, watch.adverse, i, size)
    if position.tiers > 1:
        count += thinner(market, rates, position, watch.adverse, min(path.worst_ratio, 1.0), i, size)
    if screen.apart:
        count += beyond(
            series, screen.trail_low, screen.trail_floor, screen.trail_high, screen.trail_ceiling, i, size
        )
    if care.action != NO_CALL and path.calls < care.limit:
        count += thinner(market, rates, position, MARK_CLOSE, care.threshold, i, size)
    return count == 0


@part
def quiet(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, i: int, until: int
) -> tuple[int, Path]:
    """As `look`, block by block."""
    if path.order != NO_CALL:
        return i, path
    if rates.terms.tick_per != 0.0 or growing(
        rates
    ):  # liquidated before a ratio of 1, or by no line: screens go by these
        return look(market, rates, watch, care, position, path, i, until)
    screen = screen_for(market, rates, watch, position, path)
    while i < until:
        if i + BLOCK <= until and calm(market, rates, watch, care, position, path, screen, i, BLOCK):
            i += BLOCK
            continue
        end = min(i + BLOCK, until)
        while i < end:
            stop = min(i + SMALL, end)
            if stop - i < SMALL or not calm(market, rates, watch, care, position, path, screen, i, SMALL):
                at, path = look(market, rates, watch, care, position, path, i, stop)
                if at < stop:
                    return at, path
                screen = screen_for(market, rates, watch, position, path)
            i = stop
    return i, path
