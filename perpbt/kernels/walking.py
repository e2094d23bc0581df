"""A position from bar to bar, from its opening to its exit: MODEL §2 read in its order.

`walk` goes over the bars in which nothing can happen by looking at each (`quiet`) or by leaps, and looks at the others phase by phase:
B the open, then margin orders, C the range, D the close. A and the funding sums are in Market.series.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .closing import close
from .compile import part
from .leaping import leap
from .looking import look, quiet
from .margin import (
    Position,
    equity,
    liquidated,
    liquidated_between,
    liquidation_price,
    make_position,
    margin_ratio,
    requirement,
)
from .noting import Trace
from .tables import (
    CLOSE,
    END,
    FUNDING,
    HIGH,
    LAST_OPEN,
    LIQUIDATION,
    LOW,
    MARK_CLOSE,
    MARK_HIGH,
    MARK_LOW,
    MARK_OPEN,
    NO_CALL,
    OPEN,
    RANGE,
    SIGNAL,
    STOP_LOSS,
    TAKE_PROFIT,
    TIME,
    TOP_UP,
    TRAILING_STOP,
    Market,
    Rates,
    Table,
)
from .watching import Care, Path, Watch, marked, seen

PAUSED = -1


class Term(NamedTuple):
    """When a position was opened, and the opens at which a time and a signal exit are due (number of bars: never)."""

    entry_bar: int
    time_bar: int
    signal_bar: int


class Exit(NamedTuple):
    """How a position ended."""

    bar: int
    phase: int
    reason: int
    base: float
    position: Position
    path: Path


@part
def trailing_level(market: Market, watch: Watch, position: Position, path: Path, i: int) -> float:
    """side * trailing stop in bar i: from the best of entry, earlier bars and this open. -inf without one."""
    if position.trail == 0.0:
        return -np.inf
    best = max(path.extreme, position.side * market.series[watch.trail_open, i])
    return best * position.trail


@part
def after_close(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, i: int
) -> Path:
    """Phase D of a bar the position has survived: trailing extreme, path statistics, and the margin call
    decided here.
    """
    series = market.series
    side, funding = position.side, series[FUNDING, i]
    extreme = path.extreme
    if position.trail != 0.0:
        extreme = max(extreme, side * series[watch.best, i])
    worst = seen(rates, position, path.worst_ratio, series[watch.adverse, i], funding)
    mark = series[MARK_CLOSE, i]
    left = equity(position, mark, funding)
    peak, drawdown = marked(left + path.released, path.peak, path.drawdown)
    order, amount = NO_CALL, 0.0
    watched = care.action != NO_CALL and path.calls < care.limit and left > 0.0
    if watched and margin_ratio(rates, position, mark, funding) >= care.threshold:
        amount = care.value
        if care.action == TOP_UP:
            amount = min(requirement(rates, position, mark) / care.value - left, path.wallet)
        order = care.action if amount > 0.0 else NO_CALL
    return Path(
        extreme, peak, drawdown, worst, path.released, path.added, path.wallet, path.calls, order, amount
    )


@part
def at_open(market: Market, rates: Rates, watch: Watch, position: Position, path: Path, i: int) -> int:
    """Phase B: the reason to leave at the open of bar i, in the order of the rules, or -1."""
    side = position.side
    if liquidated(rates, position, market.series[MARK_OPEN, i], market.series[FUNDING, i]):
        return LIQUIDATION
    if side * market.series[watch.stop_open, i] <= position.stop:
        return STOP_LOSS
    if position.trail != 0.0 and side * market.series[watch.trail_open, i] <= trailing_level(
        market, watch, position, path, i
    ):
        return TRAILING_STOP
    if side * market.series[watch.target_open, i] >= position.target:
        return TAKE_PROFIT
    return -1


@part
def in_range(
    market: Market, rates: Rates, watch: Watch, position: Position, path: Path, i: int
) -> tuple[int, float]:
    """Phase C: reason and threshold of the first crossing in the range of bar i, or -1.

    Of several adverse thresholds the nearest goes first: in sided terms the greatest; at equality
    liquidation, stop, trailing.
    """
    side = position.side
    reason, nearest = -1, -np.inf
    funding = market.series[FUNDING, i]
    if liquidated_between(rates, position, market.series[MARK_LOW, i], market.series[MARK_HIGH, i], funding):
        reason = LIQUIDATION
        nearest = side * liquidation_price(
            rates, position, funding, position.lines, market.series[MARK_LOW, i], market.series[MARK_HIGH, i]
        )
    if side * market.series[watch.stop, i] <= position.stop and position.stop > nearest:
        reason, nearest = STOP_LOSS, position.stop
    if position.trail != 0.0:
        trailing = trailing_level(market, watch, position, path, i)
        if side * market.series[watch.trail, i] <= trailing and trailing > nearest:
            reason, nearest = TRAILING_STOP, trailing
    if side * market.series[watch.target, i] >= position.target and (reason == -1 or rates.optimistic):
        return TAKE_PROFIT, side * position.target
    return reason, side * nearest


@part
def range_price(market: Market, watch: Watch, reason: int, side: float, threshold: float, i: int) -> float:
    """Price of a fill in the range, before slippage: one that traded, and no better than the last open for
    a stop.
    """
    if reason == TAKE_PROFIT:
        if watch.target_limit:
            return threshold
        return min(max(threshold, market.series[LOW, i]), market.series[HIGH, i])
    worse = (
        min(threshold, market.series[LAST_OPEN, i])
        if side > 0.0
        else max(threshold, market.series[LAST_OPEN, i])
    )
    return min(max(worse, market.series[LOW, i]), market.series[HIGH, i])


@part
def resize(market: Market, rates: Rates, position: Position, quantity: float, margin: float) -> Position:
    """The position with another quantity and margin; entry and funding index stay."""
    return make_position(
        rates, position.side, quantity, position.entry, margin, position.funding, market.highest_mark,
        position.stop, position.target, position.trail,
    )  # fmt: skip


@part
def carry_out(
    market: Market, rates: Rates, care: Care, calls: Table, position: Position, path: Path, i: int
) -> tuple[Position, Path]:
    """Execute at the open of bar i the margin order decided at the last close, and write it down."""
    call = calls[care.slot + path.calls]
    released, added, wallet, peak = path.released, path.added, path.wallet, path.peak
    call["row"] = care.row
    call["bar"] = i
    call["action"] = path.order
    if path.order == TOP_UP:
        call["back"] = -path.amount
        added, wallet, peak = added + path.amount, wallet - path.amount, peak + path.amount
        changed = resize(market, rates, position, position.quantity, position.margin + path.amount)
    else:
        share = path.amount
        part = resize(market, rates, position, position.quantity * share, position.margin * share)
        sold = close(
            rates, part, SIGNAL, False, market.series[LAST_OPEN, i], rates.slippage, market.series[FUNDING, i]
        )
        call["fee"] = sold.fee
        call["deficit"] = sold.deficit
        call["back"] = sold.back
        call["pnl"] = sold.pnl
        call["funding"] = sold.funding
        released, wallet = released + sold.back, wallet + sold.back
        changed = resize(
            market, rates, position, position.quantity * (1.0 - share), position.margin * (1.0 - share)
        )
    call["margin_after"] = changed.margin
    call["quantity_after"] = changed.quantity
    return changed, Path(
        path.extreme, peak, path.drawdown, path.worst_ratio, released, added, wallet,
        path.calls + 1, NO_CALL, 0.0,
    )  # fmt: skip


@part
def to_next_stop(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, i: int, until: int,
    trace: Trace,
) -> tuple[int, Path]:  # fmt: skip
    """The next bar to look at: nearby by looking at each, further on by leaps. Both give the same bar and path."""
    if market.pyramid.levels == 0:
        return quiet(market, rates, watch, care, position, path, i, until)
    if path.order == NO_CALL:
        near = i
        if market.pyramid.near > 0:  # to where a block begins
            near = min(until, (i // market.pyramid.near + 1) * market.pyramid.near)
            i, path = look(market, rates, watch, care, position, path, i, near)
        if i == near and i < until:
            i, path = leap(market, rates, watch, care, position, path, i, until, trace)
    return i, path


@part
def walk(
    market: Market,
    rates: Rates,
    watch: Watch,
    care: Care,
    calls: Table,
    position: Position,
    path: Path,
    term: Term,
    i: int,
    pause: int,
    trace: Trace,
) -> Exit:
    """From bar `i` to the exit, or to bar `pause` if the position is still open there: then the reason is PAUSED, the bar that one."""
    bars, entry_bar = market.time.size, term.entry_bar
    due = min(term.time_bar, term.signal_bar)
    while True:
        i, path = to_next_stop(market, rates, watch, care, position, path, i, min(due, bars, pause), trace)
        carried = position
        if i >= pause and i < bars:
            return Exit(i, OPEN, PAUSED, 0.0, position, path)
        if i == bars:
            return Exit(bars - 1, CLOSE, END, market.series[MARK_CLOSE, bars - 1], position, path)
        if i > entry_bar:
            reason = at_open(market, rates, watch, position, path, i)
            if reason == -1 and i == due:
                reason = TIME if term.time_bar <= term.signal_bar else SIGNAL
            if reason != -1:
                base = market.series[LAST_OPEN, i]
                if reason == TAKE_PROFIT and watch.target_limit and not rates.target_at_open:
                    base = position.side * position.target
                worst = seen(
                    rates, position, path.worst_ratio, market.series[MARK_OPEN, i], market.series[FUNDING, i]
                )
                return Exit(i, OPEN, reason, base, position, with_worst(path, worst))
            if path.order != NO_CALL:
                position, path = carry_out(market, rates, care, calls, position, path, i)
        reason, threshold = in_range(market, rates, watch, position, path, i)
        if reason != -1:
            base = range_price(market, watch, reason, position.side, threshold, i)
            worst = path.worst_ratio
            if i > entry_bar:
                worst = seen(rates, carried, worst, market.series[MARK_OPEN, i], market.series[FUNDING, i])
            if reason == LIQUIDATION:
                worst = max(worst, 1.0)
            return Exit(i, RANGE, reason, base, position, with_worst(path, worst))
        path = after_close(market, rates, watch, care, position, path, i)
        i += 1


@part
def with_worst(path: Path, worst: float) -> Path:
    """The path with another worst margin ratio."""
    return Path(
        path.extreme, path.peak, path.drawdown, worst, path.released, path.added, path.wallet,
        path.calls, path.order, path.amount,
    )  # fmt: skip
