"""Epochs of margin rates: a venue's tiers change on a date, or are scaled anew from day to day.

Inside an epoch a position's maintenance lines are constants, so it is walked as under one set of tiers; at the first bar of the next it
meets the new ones (MODEL §4). With a single epoch this is `walk`.
"""

from __future__ import annotations

from .compile import part
from .margin import Position, make_position
from .noting import Trace
from .searching import first_not_below
from .tables import Market, Rates, Table
from .walking import PAUSED, Exit, Term, walk
from .watching import Care, Path, Watch


@part
def epoch_at(rates: Rates, bar: int) -> int:
    """The epoch that bar `bar` is in."""
    if rates.since.size == 1:
        return 0
    return first_not_below(rates.since, bar + 1) - 1


@part
def rates_in(rates: Rates, epoch: int) -> Rates:
    """The rates with the tiers of an epoch."""
    return Rates(
        rates.taker_fee, rates.maker_fee, rates.slippage, rates.liquidation_fee, rates.close_out_rate,
        rates.half_spread, rates.impact, rates.max_slippage, rates.surplus_to_fund, rates.protected,
        rates.entry_maintenance, rates.optimistic, rates.target_at_open, rates.clip, rates.whole, rates.per_unit,
        rates.ladders[epoch], rates.ladders, rates.since, rates.terms,
    )  # fmt: skip


@part
def renewed(market: Market, rates: Rates, position: Position) -> Position:
    """The position under other tiers."""
    return make_position(
        rates, position.side, position.quantity, position.entry, position.margin, position.funding,
        market.highest_mark, position.stop, position.target, position.trail,
    )  # fmt: skip


@part
def walk_epochs(
    market: Market, rates: Rates, watch: Watch, care: Care, calls: Table, position: Position, path: Path,
    term: Term, i: int, pause: int, trace: Trace,
) -> Exit:  # fmt: skip
    """`walk` from epoch to epoch. `position` was made, or paused, under the tiers of the epoch of bar `i`, or of the bar before."""
    epochs, epoch = rates.since.size, epoch_at(rates, i)
    while True:
        now, until = rates_in(rates, epoch), pause
        if epoch > 0 and rates.since[epoch] == i:  # made before, or opened here, which changes nothing
            position = renewed(market, now, position)
        if epoch + 1 < epochs:
            until = min(pause, rates.since[epoch + 1])
        end = walk(market, now, watch, care, calls, position, path, term, i, until, trace)
        if end.reason != PAUSED or until == pause:
            return end
        i, position, path, epoch = end.bar, end.position, end.path, epoch + 1
