"""A position through every one of its bars: `sweep` goes over those in which nothing happens, and what happens in the others is read
phase by phase in the order of MODEL §2, under the rates of their epoch.
"""

from __future__ import annotations

from .compile import part
from .epochs import epoch_at, rates_in, renewed
from .margin import Position
from .sweeping import sweep
from .tables import (
    CLOSE,
    END,
    FUNDING,
    LAST_OPEN,
    LIQUIDATION,
    MARK_CLOSE,
    MARK_OPEN,
    NO_CALL,
    OPEN,
    RANGE,
    SIGNAL,
    TAKE_PROFIT,
    TIME,
    Coarse,
    Market,
    Rates,
    Table,
)
from .walking import PAUSED, Exit, Term, after_close, at_open, carry_out, in_range, range_price, with_worst
from .watching import Care, Path, Watch, seen


@part
def through_bar(
    market: Market, rates: Rates, watch: Watch, care: Care, calls: Table, position: Position, path: Path, term: Term, i: int
) -> Exit:  # fmt: skip
    """Bar `i`, phase by phase: the exit in it, or PAUSED and the bar after it."""
    carried, due = position, min(term.time_bar, term.signal_bar)
    if i > term.entry_bar:
        reason = at_open(market, rates, watch, position, path, i)
        if reason == -1 and i == due:
            reason = TIME if term.time_bar <= term.signal_bar else SIGNAL
        if reason != -1:
            base = market.series[LAST_OPEN, i]
            if reason == TAKE_PROFIT and watch.target_limit and not rates.target_at_open:
                base = position.side * position.target
            opened = seen(
                rates, position, path.worst_ratio, market.series[MARK_OPEN, i], market.series[FUNDING, i]
            )
            return Exit(i, OPEN, reason, base, position, with_worst(path, opened))
        if path.order != NO_CALL:
            position, path = carry_out(market, rates, care, calls, position, path, i)
    reason, threshold = in_range(market, rates, watch, position, path, i)
    if reason == -1:
        path = after_close(market, rates, watch, care, position, path, i)
        return Exit(i + 1, OPEN, PAUSED, 0.0, position, path)
    worst = path.worst_ratio
    if i > term.entry_bar:
        worst = seen(rates, carried, worst, market.series[MARK_OPEN, i], market.series[FUNDING, i])
    if reason == LIQUIDATION:
        worst = max(worst, 1.0)
    base = range_price(market, watch, reason, position.side, threshold, i)
    return Exit(i, RANGE, reason, base, position, with_worst(path, worst))


@part
def next_change(rates: Rates, epoch: int, bars: int) -> int:
    """The first bar of the epoch after this one; the number of bars if it is the last."""
    return int(rates.since[epoch + 1]) if epoch + 1 < rates.since.size else bars


@part
def ride(
    market: Market, rates: Rates, watch: Watch, care: Care, calls: Table, position: Position, path: Path, term: Term,
    i: int, pause: int, told: Coarse, far: bool,
) -> Exit:  # fmt: skip
    """From bar `i` to the exit, or to bar `pause` if the position is still open there: then the reason is PAUSED, the bar that one.

    `told` is room for `screening.TOLD` numbers. `position` was made, or paused, under the tiers of the epoch of bar `i`, or of the bar before.
    """
    bars, epoch = market.time.size, epoch_at(rates, i)
    now, change = rates_in(rates, epoch), next_change(rates, epoch, market.time.size)
    if epoch > 0 and rates.since[epoch] == i:  # made before, or opened here, which changes nothing
        position = renewed(market, now, position)
    until = min(min(term.time_bar, term.signal_bar), min(pause, bars))
    while True:
        if path.order == NO_CALL:
            i, path = sweep(market, now, watch, care, position, path, i, min(until, change), told, far)
        if i == bars:
            return Exit(bars - 1, CLOSE, END, market.series[MARK_CLOSE, bars - 1], position, path)
        if i >= pause:
            return Exit(i, OPEN, PAUSED, 0.0, position, path)
        if i == change:
            epoch = epoch + 1
            now, change = rates_in(rates, epoch), next_change(rates, epoch, bars)
            position = renewed(market, now, position)
            continue
        end = through_bar(market, now, watch, care, calls, position, path, term, i)
        if end.reason != PAUSED:
            return end
        i, position, path = end.bar, end.position, end.path
