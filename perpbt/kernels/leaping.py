"""Passing over quiet bars by leaps: what `quiet` finds by looking at every bar, from the extremes of blocks.

Two questions, each answered exactly. Which is the next bar in which something could happen? A block out of reach of every threshold
is skipped whole. And what did the bars passed over do to the path: the highest equity, the deepest drawdown, the worst margin ratio?
A first pass bounds the answer from blocks alone; a second evaluates, bar by bar and rounded as everywhere, the few blocks that could
hold it. Tolerances (1e-9) only widen what is looked at, never what is decided.
"""

from __future__ import annotations

import numpy as np

from .compile import kernel
from .margin import Position
from .pyramid import (
    CLOSE_HIGH,
    CLOSE_LOW,
    FUNDING_HIGH,
    FUNDING_LOW,
    HIGH,
    LOW,
    MARK_HIGH,
    MARK_LOW,
    SHIFT,
    widest,
)
from .tables import NO_CALL, Market, Rates
from .watching import Care, Path, Watch, marked

SLACK = 1e-9


@kernel
def ratio_falls_with_price(rates: Rates, position: Position, market: Market) -> bool:
    """Does every better mark mean a better margin ratio? Where not (more margin than notional), bars are looked at one by one.

    For a short always. For a long with line r, c: the ratio's slope has the sign of c - r (notional at entry - margin + funding).
    """
    if position.side < 0.0:
        return True
    paid = position.quantity * (market.lowest_funding - position.funding)
    spare = position.quantity * position.entry - position.margin + paid
    if rates.entry_maintenance:
        return rates.close_out_rate * spare > -position.kept
    for k in range(position.tiers):
        if not (rates.rate[k] + rates.close_out_rate) * spare > rates.deduction[k] * (1.0 + SLACK):
            return False
    return True


@kernel
def next_busy(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, i: int, until: int
) -> tuple[int, float]:
    """The first bar in [i, until) in whose range a threshold could be crossed, or at whose close a margin call be made.

    Also side * the best price for a trailing stop over the bars before it.
    """
    side, margin, entry = position.side, position.margin, position.entry
    signed, at_entry = side * position.quantity, position.funding
    nodes, starts, levels = market.pyramid.nodes, market.pyramid.starts, market.pyramid.levels
    rate, deduction, tiers = rates.rate, rates.deduction, position.tiers
    long = side > 0.0
    adverse_at, funding_at = (MARK_LOW, FUNDING_HIGH) if long else (MARK_HIGH, FUNDING_LOW)
    close_at = CLOSE_LOW if long else CLOSE_HIGH
    stop_at = (MARK_LOW if long else MARK_HIGH) if watch.stop_on_mark else (LOW if long else HIGH)
    target_at = (MARK_HIGH if long else MARK_LOW) if watch.target_on_mark else (HIGH if long else LOW)
    trail_at = (MARK_LOW if long else MARK_HIGH) if watch.trail_on_mark else (LOW if long else HIGH)
    best_at = (MARK_HIGH if long else MARK_LOW) if watch.trail_on_mark else (HIGH if long else LOW)
    watched = care.action != NO_CALL and path.calls < care.limit
    extreme = path.extreme
    while i < until:
        level = widest(i, until, levels)
        while True:
            if level > 0:
                node = starts[level - 1] + (i >> (SHIFT * level))
                adverse, funding = nodes[node, adverse_at], nodes[node, funding_at]
                stop, target = nodes[node, stop_at], nodes[node, target_at]
                trail, best, close = nodes[node, trail_at], nodes[node, best_at], nodes[node, close_at]
            else:
                adverse, funding = watch.adverse_mark[i], market.funding[i]
                stop, target = watch.stop_adverse[i], watch.target_favourable[i]
                trail, best, close = watch.trail_adverse[i], watch.trail_favourable[i], market.mark_close[i]
            busy = side * ((adverse * position.guard_factor) - funding) <= position.guard_level
            busy = busy or side * stop <= position.stop or side * target >= position.target
            if position.trail != 0.0 and not busy:
                busy = side * trail <= max(extreme, side * best) * position.trail
            if watched and not busy:
                notional = position.quantity * close
                needed = position.kept
                for k in range(tiers):
                    needed = max(needed, notional * rate[k] - deduction[k])
                needed = needed + rates.close_out_rate * notional
                left = (margin + signed * (close - entry)) - signed * (funding - at_entry)
                busy = not needed < care.threshold * left * (1.0 - SLACK)
            if not busy or level == 0:
                break
            level -= 1
        if busy:
            return i, extreme
        if position.trail != 0.0:
            extreme = max(extreme, side * best)
        i += 1 << (SHIFT * level)
    return until, extreme


@kernel
def highest_value(
    market: Market, position: Position, released: float, i: int, until: int, least: float
) -> float:
    """The greatest value of the equity path at the closes of [i, until), exactly as marked bar by bar; at least `least`."""
    side, margin, entry = position.side, position.margin, position.entry
    signed, at_entry = side * position.quantity, position.funding
    nodes, starts, levels = market.pyramid.nodes, market.pyramid.starts, market.pyramid.levels
    long = side > 0.0
    close_at = CLOSE_HIGH if long else CLOSE_LOW
    best_at, worst_at = (FUNDING_LOW, FUNDING_HIGH) if long else (FUNDING_HIGH, FUNDING_LOW)
    # a bound from below that some bar attains
    bound, at = least, i
    while at < until:
        level = widest(at, until, levels)
        if level > 0:
            node = starts[level - 1] + (at >> (SHIFT * level))
            price, funding = nodes[node, close_at], nodes[node, worst_at]
        else:
            price, funding = market.mark_close[at], market.funding[at]
        bound = max(bound, ((margin + signed * (price - entry)) - signed * (funding - at_entry)) + released)
        at += 1 << (SHIFT * level)
    bound = bound - SLACK * abs(bound)
    highest, at = least, i
    while at < until:
        level = widest(at, until, levels)
        while level > 0:
            node = starts[level - 1] + (at >> (SHIFT * level))
            price, funding = nodes[node, close_at], nodes[node, best_at]
            if ((margin + signed * (price - entry)) - signed * (funding - at_entry)) + released < bound:
                break
            level -= 1
        if level == 0:
            left = (margin + signed * (market.mark_close[at] - entry)) - signed * (
                market.funding[at] - at_entry
            )
            highest = max(highest, left + released)
        at += 1 << (SHIFT * level)
    return highest


@kernel
def least_marks(
    market: Market, rates: Rates, position: Position, path: Path, watch: Watch, i: int, until: int
) -> tuple[float, float]:
    """Bounds from below, which the bars of [i, until) attain, on the deepest drawdown and the worst margin ratio."""
    side, margin, entry = position.side, position.margin, position.entry
    signed, at_entry = side * position.quantity, position.funding
    nodes, starts, levels = market.pyramid.nodes, market.pyramid.starts, market.pyramid.levels
    rate, deduction = rates.rate, rates.deduction
    long = side > 0.0
    adverse_at = MARK_LOW if long else MARK_HIGH
    down_at, up_at = (CLOSE_LOW, CLOSE_HIGH) if long else (CLOSE_HIGH, CLOSE_LOW)
    best_at, worst_at = (FUNDING_LOW, FUNDING_HIGH) if long else (FUNDING_HIGH, FUNDING_LOW)
    peak, drawdown, worst = path.peak, path.drawdown, path.worst_ratio
    while i < until:
        level = widest(i, until, levels)
        if level > 0:
            node = starts[level - 1] + (i >> (SHIFT * level))
            adverse, down, up = nodes[node, adverse_at], nodes[node, down_at], nodes[node, up_at]
            kind, unkind = nodes[node, best_at], nodes[node, worst_at]
        else:
            adverse, down, up = watch.adverse_mark[i], market.mark_close[i], market.mark_close[i]
            kind, unkind = market.funding[i], market.funding[i]
        low = ((margin + signed * (down - entry)) - signed * (kind - at_entry)) + path.released
        drawdown = max(drawdown, (peak - low) / peak)
        high = ((margin + signed * (up - entry)) - signed * (unkind - at_entry)) + path.released
        peak = max(peak, high)
        notional = position.quantity * adverse
        needed = position.kept
        for k in range(position.tiers):
            needed = max(needed, notional * rate[k] - deduction[k])
        needed = needed + rates.close_out_rate * notional
        thin = (margin + signed * (adverse - entry)) - signed * (kind - at_entry)
        if needed >= worst * thin:
            worst = max(worst, needed / thin if thin > 0.0 else np.inf)
        i += 1 << (SHIFT * level)
    return drawdown, worst


@kernel
def passed(
    market: Market, rates: Rates, watch: Watch, position: Position, path: Path, i: int, until: int
) -> Path:
    """The path after the quiet bars [i, until), as if each had been marked; the trailing extreme aside."""
    side, margin, entry = position.side, position.margin, position.entry
    signed, at_entry = side * position.quantity, position.funding
    nodes, starts, levels = market.pyramid.nodes, market.pyramid.starts, market.pyramid.levels
    rate, deduction = rates.rate, rates.deduction
    long = side > 0.0
    adverse_at = MARK_LOW if long else MARK_HIGH
    down_at, up_at = (CLOSE_LOW, CLOSE_HIGH) if long else (CLOSE_HIGH, CLOSE_LOW)
    best_at, worst_at = (FUNDING_LOW, FUNDING_HIGH) if long else (FUNDING_HIGH, FUNDING_LOW)
    sure_drawdown, sure_worst = least_marks(market, rates, position, path, watch, i, until)
    sure_drawdown, sure_worst = sure_drawdown - SLACK, sure_worst * (1.0 - SLACK)
    drawdown, worst = path.drawdown, path.worst_ratio
    most = path.peak  # no less than the peak so far
    peak, known = path.peak, i  # the exact peak over the bars before `known`
    at = i
    while at < until:
        level = widest(at, until, levels)
        while True:
            if level > 0:
                node = starts[level - 1] + (at >> (SHIFT * level))
                adverse, down, up = nodes[node, adverse_at], nodes[node, down_at], nodes[node, up_at]
                kind, unkind = nodes[node, best_at], nodes[node, worst_at]
            else:
                adverse, down, up = watch.adverse_mark[at], market.mark_close[at], market.mark_close[at]
                kind, unkind = market.funding[at], market.funding[at]
            high = ((margin + signed * (up - entry)) - signed * (kind - at_entry)) + path.released
            low = ((margin + signed * (down - entry)) - signed * (unkind - at_entry)) + path.released
            top = max(most, high + SLACK * abs(high))
            falls = (top - low) / top >= sure_drawdown
            notional = position.quantity * adverse
            needed = position.kept
            for k in range(position.tiers):
                needed = max(needed, notional * rate[k] - deduction[k])
            needed = needed + rates.close_out_rate * notional
            thin = (margin + signed * (adverse - entry)) - signed * (unkind - at_entry)
            thins = needed >= sure_worst * thin * (1.0 - SLACK)
            if level == 0 or not (falls or thins):
                break
            level -= 1
        if level == 0:
            if thins and needed >= worst * thin * (1.0 - SLACK):
                worst = max(worst, needed / thin if thin > 0.0 else np.inf)
            if falls:
                peak = highest_value(market, position, path.released, known, at, peak)
                known = at
                value = ((margin + signed * (down - entry)) - signed * (unkind - at_entry)) + path.released
                peak, _, drawdown = marked(value, peak, peak, drawdown)
                known = at + 1
        most = top
        at += 1 << (SHIFT * level)
    peak = highest_value(market, position, path.released, known, until, peak)
    return Path(
        path.extreme,
        peak,
        peak,
        drawdown,
        worst,
        path.released,
        path.added,
        path.wallet,
        path.calls,
        NO_CALL,
        0.0,
    )


@kernel
def leap(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, i: int, until: int
) -> tuple[int, Path]:
    """Pass over quiet bars from `i`; the next bar to look at, and the path up to it."""
    busy, extreme = next_busy(market, rates, watch, care, position, path, i, until)
    if busy > i:
        path = passed(market, rates, watch, position, path, i, busy)
    return busy, Path(
        extreme, path.peak, path.trough, path.drawdown, path.worst_ratio, path.released, path.added, path.wallet,
        path.calls, NO_CALL, 0.0,
    )  # fmt: skip
