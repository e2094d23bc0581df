"""A position from bar to bar, from its opening to its exit: MODEL §2 read in its order.

`walk` goes over the bars in which nothing can happen in one tight loop (`quiet`), and looks at the others
phase by phase:
B the open, then margin orders, C the range, D the close. A and the funding sums are in `Market.funding`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .closing import close
from .compile import kernel
from .leaping import leap, ratio_falls_with_price
from .margin import (
    Position,
    equity,
    liquidated,
    liquidation_price,
    make_position,
    margin_ratio,
    requirement,
)
from .tables import (
    CLOSE,
    END,
    LIQUIDATION,
    NO_CALL,
    OPEN,
    RANGE,
    SIGNAL,
    STOP_LOSS,
    TAKE_PROFIT,
    TIME,
    TOP_UP,
    TRAILING_STOP,
    Calls,
    Market,
    Rates,
)
from .watching import Care, Path, Watch, marked


class Exit(NamedTuple):
    """How a position ended."""

    bar: int
    phase: int
    reason: int
    base: float
    position: Position
    path: Path


@kernel
def trailing_level(watch: Watch, position: Position, path: Path, i: int) -> float:
    """side * trailing stop in bar i: from the best of entry, earlier bars and this open. -inf without one."""
    if position.trail == 0.0:
        return -np.inf
    best = max(path.extreme, position.side * watch.trail_open[i])
    return best * position.trail


@kernel
def seen(rates: Rates, position: Position, worst: float, price: float, funding: float) -> float:
    """The worst margin ratio, this mark price included."""
    return max(worst, margin_ratio(rates, position, price, funding))


@kernel
def after_close(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, i: int
) -> Path:
    """Phase D of a bar the position has survived: trailing extreme, path statistics, and the margin call
    decided here.
    """
    side, funding = position.side, market.funding[i]
    extreme = path.extreme
    if position.trail != 0.0:
        extreme = max(extreme, side * watch.trail_favourable[i])
    worst = seen(rates, position, path.worst_ratio, watch.adverse_mark[i], funding)
    mark = market.mark_close[i]
    value = equity(position, mark, funding) + path.released
    peak, trough, drawdown = marked(value, path.peak, path.trough, path.drawdown)
    order, amount = NO_CALL, 0.0
    if care.action != NO_CALL and path.calls < care.limit:
        left = equity(position, mark, funding)
        if left > 0.0 and margin_ratio(rates, position, mark, funding) >= care.threshold:
            amount = care.value
            if care.action == TOP_UP:
                amount = min(requirement(rates, position, mark) / care.value - left, path.wallet)
            order = care.action if amount > 0.0 else NO_CALL
    return Path(
        extreme, peak, trough, drawdown, worst, path.released, path.added, path.wallet,
        path.calls, order, amount,
    )  # fmt: skip


@kernel
def quiet(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, i: int, until: int
) -> tuple[int, Path]:
    """Go over bars in which no threshold can be crossed and no margin call made; stop at the first other
    one.

    What `at_open`, `in_range` and `after_close` do, for bars in which they find nothing to do. It is
    written out on plain local numbers because this is where the time goes: handing tables of arrays to a
    function costs more than a bar.
    """
    if path.order != NO_CALL:
        return i, path
    side, entry, margin = position.side, position.entry, position.margin
    signed, at_entry = side * position.quantity, position.funding
    extreme, peak, trough, drawdown, worst = (
        path.extreme,
        path.peak,
        path.trough,
        path.drawdown,
        path.worst_ratio,
    )
    watched = care.action != NO_CALL and path.calls < care.limit
    while i < until:
        funding, adverse = market.funding[i], watch.adverse_mark[i]
        if side * ((adverse * position.guard_factor) - funding) <= position.guard_level:
            break
        if (
            side * watch.stop_adverse[i] <= position.stop
            or side * watch.target_favourable[i] >= position.target
        ):
            break
        if position.trail != 0.0:
            best = max(extreme, side * watch.trail_open[i])
            if side * watch.trail_adverse[i] <= best * position.trail:
                break
        paid = signed * (funding - at_entry)
        mark = market.mark_close[i]
        left = (margin + signed * (mark - entry)) - paid
        if watched:
            needed = position.kept
            for k in range(position.tiers):
                needed = max(needed, (position.quantity * mark) * rates.rate[k] - rates.deduction[k])
            needed = needed + rates.close_out_rate * (position.quantity * mark)
            if not needed < care.threshold * left * (1.0 - 1e-9):
                break
        needed = position.kept
        for k in range(position.tiers):
            needed = max(needed, (position.quantity * adverse) * rates.rate[k] - rates.deduction[k])
        needed = needed + rates.close_out_rate * (position.quantity * adverse)
        thin = (margin + signed * (adverse - entry)) - paid
        if needed >= worst * thin * (1.0 - 1e-9):  # divide only for a candidate; 1e-9 is far above rounding
            worst = max(worst, needed / thin if thin > 0.0 else np.inf)
        if position.trail != 0.0:
            extreme = max(extreme, side * watch.trail_favourable[i])
        peak, trough, drawdown = marked(left + path.released, peak, trough, drawdown)
        i += 1
    return i, Path(
        extreme,
        peak,
        trough,
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
def at_open(market: Market, rates: Rates, watch: Watch, position: Position, path: Path, i: int) -> int:
    """Phase B: the reason to leave at the open of bar i, in the order of the rules, or -1."""
    side = position.side
    if liquidated(rates, position, market.mark_open[i], market.funding[i]):
        return LIQUIDATION
    if side * watch.stop_open[i] <= position.stop:
        return STOP_LOSS
    if position.trail != 0.0 and side * watch.trail_open[i] <= trailing_level(watch, position, path, i):
        return TRAILING_STOP
    if side * watch.target_open[i] >= position.target:
        return TAKE_PROFIT
    return -1


@kernel
def in_range(
    market: Market, rates: Rates, watch: Watch, position: Position, path: Path, i: int
) -> tuple[int, float]:
    """Phase C: reason and threshold of the first crossing in the range of bar i, or -1.

    Of several adverse thresholds the nearest goes first: in sided terms the greatest; at equality
    liquidation, stop, trailing.
    """
    side = position.side
    reason, nearest = -1, -np.inf
    if liquidated(rates, position, watch.adverse_mark[i], market.funding[i]):
        reason = LIQUIDATION
        nearest = side * liquidation_price(rates, position, market.funding[i], position.lines)
    if side * watch.stop_adverse[i] <= position.stop and position.stop > nearest:
        reason, nearest = STOP_LOSS, position.stop
    if position.trail != 0.0:
        trailing = trailing_level(watch, position, path, i)
        if side * watch.trail_adverse[i] <= trailing and trailing > nearest:
            reason, nearest = TRAILING_STOP, trailing
    if side * watch.target_favourable[i] >= position.target and (reason == -1 or rates.optimistic):
        return TAKE_PROFIT, side * position.target
    return reason, side * nearest


@kernel
def range_price(market: Market, watch: Watch, reason: int, side: float, threshold: float, i: int) -> float:
    """Price of a fill in the range, before slippage: one that traded, and no better than the last open for
    a stop.
    """
    if reason == TAKE_PROFIT:
        if watch.target_limit:
            return threshold
        return min(max(threshold, market.low[i]), market.high[i])
    worse = min(threshold, market.open[i]) if side > 0.0 else max(threshold, market.open[i])
    return min(max(worse, market.low[i]), market.high[i])


@kernel
def resize(market: Market, rates: Rates, position: Position, quantity: float, margin: float) -> Position:
    """The position with another quantity and margin; entry and funding index stay."""
    return make_position(
        rates, position.side, quantity, position.entry, margin, position.funding, market.highest_mark,
        position.stop, position.target, position.trail,
    )  # fmt: skip


@kernel
def carry_out(
    market: Market, rates: Rates, care: Care, calls: Calls, position: Position, path: Path, i: int
) -> tuple[Position, Path]:
    """Execute at the open of bar i the margin order decided at the last close, and write it down."""
    at = care.slot + path.calls
    released, added, wallet, peak = path.released, path.added, path.wallet, path.peak
    calls.row[at] = care.row
    calls.bar[at] = i
    calls.action[at] = path.order
    if path.order == TOP_UP:
        calls.back[at] = -path.amount
        added, wallet, peak = added + path.amount, wallet - path.amount, peak + path.amount
        changed = resize(market, rates, position, position.quantity, position.margin + path.amount)
    else:
        share = path.amount
        part = resize(market, rates, position, position.quantity * share, position.margin * share)
        sold = close(rates, part, SIGNAL, False, market.open[i], rates.slippage, market.funding[i])
        calls.fee[at] = sold.fee
        calls.deficit[at] = sold.deficit
        calls.back[at] = sold.back
        calls.pnl[at] = sold.pnl
        calls.funding[at] = sold.funding
        released, wallet = released + sold.back, wallet + sold.back
        changed = resize(
            market, rates, position, position.quantity * (1.0 - share), position.margin * (1.0 - share)
        )
    calls.margin_after[at] = changed.margin
    calls.quantity_after[at] = changed.quantity
    # The lowest value seen was one without the money added: the next value is the lowest since.
    return changed, Path(
        path.extreme, peak, peak, path.drawdown, path.worst_ratio, released, added, wallet,
        path.calls + 1, NO_CALL, 0.0,
    )  # fmt: skip


@kernel
def to_next_stop(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, i: int, until: int,
    leaps: bool,
) -> tuple[int, Path]:  # fmt: skip
    """The next bar to look at: nearby by looking at each, further on by leaps. Both give the same bar and path."""
    near = min(until, i + market.pyramid.near) if leaps else until
    i, path = quiet(market, rates, watch, care, position, path, i, near)
    if i == near and i < until and path.order == NO_CALL:
        i, path = leap(market, rates, watch, care, position, path, i, until)
    return i, path


@kernel
def walk(
    market: Market,
    rates: Rates,
    watch: Watch,
    care: Care,
    calls: Calls,
    position: Position,
    path: Path,
    entry_bar: int,
    time_bar: int,
    signal_bar: int,
) -> Exit:
    """From the entry bar to the exit. `time_bar` and `signal_bar` are the opens at which an exit is due
    (number of bars: never).
    """
    bars = market.open.size
    due = min(time_bar, signal_bar)
    i = entry_bar
    leaps = market.pyramid.levels > 0 and ratio_falls_with_price(rates, position, market)
    while True:
        i, path = to_next_stop(market, rates, watch, care, position, path, i, min(due, bars), leaps)
        carried = position
        if i == bars:
            return Exit(bars - 1, CLOSE, END, market.mark_close[bars - 1], position, path)
        if i > entry_bar:
            reason = at_open(market, rates, watch, position, path, i)
            if reason == -1 and i == due:
                reason = TIME if time_bar <= signal_bar else SIGNAL
            if reason != -1:
                base = market.open[i]
                if reason == TAKE_PROFIT and watch.target_limit and not rates.target_at_open:
                    base = position.side * position.target
                worst = seen(rates, position, path.worst_ratio, market.mark_open[i], market.funding[i])
                return Exit(i, OPEN, reason, base, position, with_worst(path, worst))
            if path.order != NO_CALL:
                position, path = carry_out(market, rates, care, calls, position, path, i)
                leaps = leaps and ratio_falls_with_price(rates, position, market)
        reason, threshold = in_range(market, rates, watch, position, path, i)
        if reason != -1:
            base = range_price(market, watch, reason, position.side, threshold, i)
            worst = path.worst_ratio
            if i > entry_bar:
                worst = seen(rates, carried, worst, market.mark_open[i], market.funding[i])
            if reason == LIQUIDATION:
                worst = max(worst, 1.0)
            return Exit(i, RANGE, reason, base, position, with_worst(path, worst))
        path = after_close(market, rates, watch, care, position, path, i)
        i += 1


@kernel
def with_worst(path: Path, worst: float) -> Path:
    """The path with another worst margin ratio."""
    return Path(
        path.extreme, path.peak, path.trough, path.drawdown, worst, path.released, path.added, path.wallet,
        path.calls, path.order, path.amount,
    )  # fmt: skip
