"""Positions changed from outside in mid-life: part of them closed at a price (auto-deleveraging), part of their margin taken (a
socialised loss), and lived on from there to their new exits.

In: given positions as rows, and the moment: a bar and OPEN (after those who leave at the open have left) or RANGE (after those who leave
in the range have). Out: their new rows, the part of each that was closed as a margin order, and each position as kept, from which the
next change goes on.
"""

from __future__ import annotations

import numpy as np

from perpbt.kernels.accounts import bare_market, bare_rates, care_of, write_closing, write_exit
from perpbt.kernels.closing import Closing, lost
from perpbt.kernels.compile import aside, bare, kernel, part
from perpbt.kernels.epochs import epoch_at, rates_in, renewed, walk_epochs
from perpbt.kernels.margin import Position, make_position, requirement
from perpbt.kernels.noting import Trace, bare_trace, hold_trace, room_for_trace
from perpbt.kernels.tables import (
    ADL,
    DELEVERAGE,
    FUNDING,
    MARK_OPEN,
    OPEN,
    Floats,
    Integers,
    Lane,
    Market,
    Plan,
    Rates,
    Row,
    Signals,
    Table,
)
from perpbt.kernels.tiles import AHEAD, OVER, begin, keep, path_of, position_of
from perpbt.kernels.walking import Term, after_close, resize, with_worst
from perpbt.kernels.watching import Path, Watch, seen, watch_for


@part
def closed_at(
    rates: Rates, position: Position, quantity: float, margin: float, price: float, fee_rate: float, funding: float
) -> Closing:  # fmt: skip
    """The money of a part of a position that is closed at exactly `price`; `funding` is CF at the bar."""
    signed = position.side * quantity
    paid = signed * (funding - position.funding)
    pnl = signed * (price - position.entry)
    left = (margin - paid) + pnl
    if not left > 0.0:
        return lost(rates, price, pnl, paid, left)
    fee = min(fee_rate * (quantity * price), left)
    return Closing(price, fee, 0.0, 0.0, 0.0, left - fee, pnl, -paid)


@part
def note_part(call: Row, row: int, bar: int, part_closed: Closing, margin: float, quantity: float) -> None:
    """Write a part down as the margin order it resembles."""
    call["row"], call["bar"], call["action"] = row, bar, DELEVERAGE
    call["fee"], call["deficit"], call["back"] = part_closed.fee, part_closed.deficit, part_closed.back
    call["pnl"], call["funding"] = part_closed.pnl, part_closed.funding
    call["margin_after"], call["quantity_after"] = margin, quantity


@part
def end_here(
    market: Market,
    rates: Rates,
    row: Row,
    position: Position,
    path: Path,
    bar: int,
    phase: int,
    price: float,
    fee_rate: float,
) -> None:
    """Write the exit of a position that is closed as a whole."""
    funding = market.series[FUNDING, bar]
    row["exit_bar"], row["phase"], row["reason"] = bar, phase, ADL
    row["exit_funding"] = funding
    row["exit_quantity"], row["exit_margin"] = position.quantity, position.margin
    row["top_up"], row["released"], row["base"] = path.added, path.released, price
    write_closing(
        row, closed_at(rates, position, position.quantity, position.margin, price, fee_rate, funding)
    )
    row["peak"], row["drawdown"], row["worst_ratio"] = path.peak, path.drawdown, path.worst_ratio


@part
def alter(
    market: Market, rates: Rates, plan: Plan, watch: Watch, kept: Plan, row: Row, at: int, call: Row, bar: int, phase: int,
    share: float, taken: float, price: float, fee_rate: float,
) -> bool:  # fmt: skip
    """Change a position that has come to its moment in `bar`; says whether anything is left of it."""
    now, funding = rates_in(rates, epoch_at(rates, bar)), market.series[FUNDING, bar]
    position, path = renewed(market, now, position_of(kept)), path_of(kept)
    entry_bar, worst = kept["entry_bar"], path.worst_ratio
    if share == 1.0:
        if bar > entry_bar:
            worst = seen(now, position, worst, market.series[MARK_OPEN, bar], funding)
        end_here(market, now, row, position, with_worst(path, worst), bar, phase, price, fee_rate)
        kept["state"] = OVER
        return False
    price_seen = market.series[MARK_OPEN if phase == OPEN else watch.adverse, bar]
    released, wallet = path.released, path.wallet
    if share > 0.0:
        worst = seen(now, position, worst, price_seen, funding)
        margin, quantity = position.margin * share, position.quantity * share
        gone = closed_at(now, position, quantity, margin, price, fee_rate, funding)
        position = resize(
            market, now, position, position.quantity * (1.0 - share), position.margin * (1.0 - share)
        )
        note_part(call, at, bar, gone, position.margin, position.quantity)
        released, wallet = released + gone.back, wallet + gone.back
    if taken > 0.0:
        worst = seen(now, position, worst, price_seen, funding)
        position = resize(market, now, position, position.quantity, position.margin - taken)
        call["row"], call["bar"], call["action"] = at, bar, DELEVERAGE
        call["deficit"] -= taken  # gone without a return: as a debt that was paid
        call["margin_after"], call["quantity_after"] = position.margin, position.quantity
    path = Path(
        path.extreme, path.peak, path.drawdown, worst, released, path.added, wallet, path.calls, path.order, path.amount
    )  # fmt: skip
    if phase == OPEN:  # the open is over: a position "entered" in this bar is not asked about it again
        keep(kept, position, path, Term(bar, kept["time_bar"], kept["signal_bar"]), bar)
    else:
        path = after_close(market, now, watch, care_of(plan, 0, 0), position, path, bar)
        keep(kept, position, path, Term(entry_bar, kept["time_bar"], kept["signal_bar"]), bar + 1)
    return True


@aside
def change(
    market: Market, rates: Rates, plan: Plan, signals: Signals, lane: Lane, kept: Plan, rows: Table, at: int, call: Row,
    calls: Table, trace: Trace, bar: int, phase: int, share: float, taken: float, price: float, fee_rate: float, to_the_end: bool,
) -> None:  # fmt: skip
    """Bring a position to `bar`, in which it is known not to end before the moment, change it there, and let what is left live on."""
    row = rows[at]
    if kept["state"] == AHEAD:
        begin(market, rates, plan, signals, lane, kept, rows, row["lane"], at)
    watch = watch_for(float(row["side"]), plan["stop_on_mark"], plan["target_on_mark"], plan["trail_on_mark"])
    for leg in range(2):  # one walk in the code: it is long, and compiled where it stands
        if leg == 0 and bar < 0:
            continue
        if leg == 1 and not to_the_end:
            return
        pause = bar if leg == 0 else market.time.size
        if leg == 1 or kept["bar"] < bar:
            term = Term(kept["entry_bar"], kept["time_bar"], kept["signal_bar"])
            end = walk_epochs(
                market, rates, watch, care_of(plan, 0, 0), calls, position_of(kept), path_of(kept), term, kept["bar"],
                pause, trace,
            )  # fmt: skip
            if leg == 0:
                keep(kept, end.position, end.path, term, bar)
            else:
                write_exit(market, rates, row, watch.target_limit, end)
        if leg == 0 and not alter(
            market, rates, plan, watch, kept, row, at, call, bar, phase, share, taken, price, fee_rate
        ):
            return


@part
def change_each(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, kept: Table, rows: Table, members: Integers, places: Integers,
    calls: Table, trace: Trace, bar: int, phase: int, shares: Floats, taken: Floats, prices: Floats, fee_rate: float, to_the_end: bool,
) -> None:  # fmt: skip
    """`change_positions`, with bare arrays."""
    for k in range(places.size):
        j = members[k]
        change(
            market, rates, plans[j], signals, lanes[j], kept[j], rows, places[k], calls[k], calls, trace, bar, phase,
            shares[k], taken[k], prices[k], fee_rate, to_the_end,
        )  # fmt: skip


@kernel
def change_positions(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, kept: Table, rows: Table, members: Integers, places: Integers,
    calls: Table, bar: int, phase: int, shares: Floats, taken: Floats, prices: Floats, fee_rate: float, to_the_end: bool,
) -> None:  # fmt: skip
    """Change the position of each row places[k], which is that of member members[k]: of that lane, by that plan; in a bar (below 0: not at
    all), and let it live on: `to_the_end`, or as kept.

    `shares` is the fraction closed at prices[k], 1 the whole; `taken` money taken from the margin of the rest. `kept` is how each was kept at its last change, state AHEAD for one that was never changed; it is brought up to date. calls[k], with
    row -1, becomes the part closed; money taken is a negative deficit in it.
    """
    trace = room_for_trace(False)
    change_each(
        bare_market(market), bare_rates(rates), bare(plans), Signals(bare(signals.marks), bare(signals.series)),
        bare(lanes), bare(kept), bare(rows), bare(members), bare(places), bare(calls), bare_trace(trace), bar, phase, bare(shares), bare(taken),
        bare(prices), fee_rate, to_the_end,
    )  # fmt: skip
    hold_trace(trace)


@kernel
def find_winners(
    since: Integers, until: Integers, side: Floats, entry: Floats, moment: int, wanted: float, price: float,
    found: Integers,
) -> int:  # fmt: skip
    """Write to `found` which positions on side `wanted` are open at a moment and in profit at `price`; returns how many.

    `since` and `until` are three times the bar plus the phase: of the first moment a position may be met at, and of its exit.
    A `wanted` of 0 is either side, and then profit is not asked for.
    """
    count = 0
    for k in range(since.size):
        if since[k] <= moment < until[k] and (
            wanted == 0.0 or (side[k] == wanted and wanted * (price - entry[k]) > 0.0)
        ):
            found[count] = k
            count += 1
    return count


@kernel
def requirements(
    market: Market, rates: Rates, side: Floats, quantity: Floats, entry: Floats, margin: Floats, funding: Floats, bar: int,
    price: float, needed: Floats,
) -> None:  # fmt: skip
    """Write to `needed` the maintenance margin, close-out cost included, of positions at a mark price in a bar."""
    now = rates_in(rates, epoch_at(rates, bar))
    for k in range(side.size):
        position = make_position(
            now,
            side[k],
            quantity[k],
            entry[k],
            margin[k],
            funding[k],
            market.highest_mark,
            -np.inf,
            np.inf,
            0.0,
        )
        needed[k] = requirement(now, position, price)
