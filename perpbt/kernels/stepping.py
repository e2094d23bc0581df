"""Positions whose venue liquidates in steps: as `lanes`, but at a liquidation the venue's procedure decides what becomes of them.

Apart from `lanes` so that runs that close at once, the rule, are compiled and run without any of this. Between liquidations a position
walks as every other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .accounts import (
    after_exit,
    after_refusal,
    bare_market,
    bare_rates,
    care_of,
    next_entry,
    term_of,
    write_closing,
    write_exit,
    write_opening,
)
from .closing import Closing, outcome, shared_out
from .compile import bare, hold, kernel, part
from .epochs import epoch_at, rates_in, renewed, walk_epochs
from .margin import Position, liquidation_price, margin_ratio
from .noting import Trace, bare_trace, hold_trace, room_for_trace
from .opening import open_position
from .stepsizes import Deal, Moment, Spell, at_last, fill_at, next_step
from .tables import (
    ACCEPTED,
    CURE,
    ENTRY_SIDE,
    FUNDING,
    LAST_OPEN,
    LIQUIDATION,
    MARK_HIGH,
    MARK_LOW,
    MARK_OPEN,
    NO_BAR,
    NO_CALL,
    OPEN,
    PORTION,
    RANGE,
    REDUCED,
    REJECTED,
    SIGNAL,
    TAKE_PROFIT,
    TIME,
    Floats,
    Market,
    Plan,
    Procedure,
    Rates,
    Row,
    Signals,
    Table,
)
from .walking import (
    PAUSED,
    Exit,
    Term,
    after_close,
    at_open,
    carry_out,
    in_range,
    range_price,
    resize,
    with_worst,
)
from .watching import Care, Watch, start, watch_for

MOST_SLICES = 1000


class Passage(NamedTuple):
    """What came of a liquidation: the exit, or (PAUSED) the position that lives on."""

    end: Exit
    care: Care
    spell: Spell
    deal: Deal
    closing: Closing  # of the last step


@part
def closed_by(market: Market, rates: Rates, part_of: Position, deal: Deal, at: Moment) -> Closing:
    """A part, or the whole, closed on these terms."""
    fill = fill_at(market, rates, part_of.side, part_of.quantity, deal, at.bar)
    pnl, paid, left = outcome(part_of, fill, at.funding)
    turned = part_of.quantity * fill
    return shared_out(rates, fill, pnl, paid, left, turned, deal.fee, deal.penalty, deal.share)


@part
def write_step(
    call: Row, row: int, at: Moment, action: int, number: int, quantity: float, ratio: float, closing: Closing
) -> None:
    """Write a step down: what was closed, at what price, and the money of it."""
    call["row"] = row
    call["bar"] = at.bar
    call["phase"] = at.phase
    call["action"] = action
    call["step"] = number
    call["quantity"] = quantity
    call["ratio"] = ratio
    call["price"] = closing.fill
    call["fee"] = closing.fee
    call["liquidation_fee"] = closing.liquidation_fee
    call["surplus"] = closing.surplus
    call["deficit"] = closing.deficit
    call["back"] = closing.back
    call["pnl"] = closing.pnl
    call["funding"] = closing.funding
    call["margin_after"] = 0.0
    call["quantity_after"] = 0.0


@part
def counted(spell: Spell) -> Spell:
    """One step more."""
    return Spell(
        spell.steps + 1, spell.reduced_at, spell.cool_until, spell.cured_at, spell.began, spell.freed,
        spell.slice, spell.slices,
    )  # fmt: skip


@part
def one_record_on(care: Care) -> Care:
    """The care of a position one more of whose records is taken."""
    return Care(care.action, care.threshold, care.value, care.limit, care.row, care.slot + 1)


@part
def unseen(position: Position) -> Position:
    """The position as a procedure sees it that has acted in this bar: not liquidated, whatever the mark."""
    return Position(
        position.side, position.quantity, position.entry, position.margin, position.funding, 0, 0,
        position.kept, position.extra, position.guard_factor, position.guard_level, position.stop, position.target, position.trail,
    )  # fmt: skip


@part
def moment_of(
    market: Market, rates: Rates, watch: Watch, position: Position, i: int, phase: int, base: float
) -> Moment:
    """Where a liquidation is met: the mark it is met at, and the worst of the phase."""
    funding, mark = market.series[FUNDING, i], market.series[MARK_OPEN, i]
    if phase == OPEN:
        return Moment(i, phase, funding, mark, mark, mark, base)
    low, high = market.series[MARK_LOW, i], market.series[MARK_HIGH, i]
    mark = liquidation_price(rates, position, funding, position.lines, low, high)
    return Moment(i, phase, funding, mark, market.series[watch.adverse, i], high, base)


@kernel
def pass_through(
    market: Market, rates: Rates, rule: Procedure, watch: Watch, care: Care, calls: Table, schedule: Floats, end: Exit, term: Term,
    spell: Spell,
) -> Passage:  # fmt: skip
    """From the liquidation `end` step by step to where the position is closed, or to the next bar if a part of it lives on.

    What comes after a step in its bar is read on what is left, in the order of MODEL §2. Not compiled into its caller: it runs at
    liquidations only.
    """
    i, phase, base, position, path = end.bar, end.phase, end.base, end.position, end.path
    now = rates_in(rates, epoch_at(rates, i))
    due = min(term.time_bar, term.signal_bar)
    nothing = Closing(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    while True:
        if phase == RANGE:
            path = with_worst(path, max(path.worst_ratio, 1.0))
        at = moment_of(market, now, watch, position, i, phase, base)
        wanted = next_step(market, now, rule, position, at, spell, schedule)
        spell, deal, spared = wanted.spell, wanted.deal, False
        ratio = margin_ratio(now, position, at.mark, at.funding)
        whole = wanted.sold > 0.0 and not (wanted.kept > 0.0 and spell.steps + 1 < rule.most_steps)
        if whole and wanted.kept > 0.0 and np.isnan(deal.slippage):
            deal = at_last(now, rule, base)
        if wanted.sold > 0.0 and not whole:
            own = position.margin * (wanted.sold / position.quantity)
            sale = closed_by(market, now, resize(market, now, position, wanted.sold, own), deal, at)
            left = (sale.surplus + sale.back) - sale.deficit
            if left > 0.0 or spell.slices > 0:
                position = resize(market, now, position, wanted.kept, (position.margin - own) + left)
                kept = Closing(
                    sale.fill, sale.fee, sale.liquidation_fee, 0.0, 0.0, 0.0, sale.pnl, sale.funding
                )
                call = calls[care.slot + path.calls]
                write_step(call, care.row, at, REDUCED, spell.steps + 1, wanted.sold, ratio, kept)
                call["margin_after"], call["quantity_after"] = position.margin, position.quantity
                spell, care = counted(spell), one_record_on(care)
                spared = rule.kind in (PORTION, CURE)
            else:  # beyond the bankruptcy price
                whole = True
                if np.isnan(deal.slippage):
                    deal = at_last(now, rule, base)
        elif not whole:
            spared = True
        if whole:
            closing = closed_by(market, now, position, deal, at)
            call = calls[care.slot + path.calls]
            write_step(call, care.row, at, deal.action, spell.steps + 1, position.quantity, ratio, closing)
            exit_ = Exit(i, phase, LIQUIDATION, deal.base, position, path)
            return Passage(exit_, one_record_on(care), spell, deal, closing)
        if spell.slices > 0:  # an orderly exit goes on at the next open: nothing else matters any more
            i, phase = i + 1, OPEN
            now = rates_in(rates, epoch_at(rates, i))
            position = renewed(market, now, position)
            base = market.series[LAST_OPEN, i]
            continue
        if phase == OPEN:
            reason = at_open(market, now, watch, unseen(position) if spared else position, path, i)
            if reason == LIQUIDATION:
                continue
            if reason == -1 and i == due:
                reason = TIME if term.time_bar <= term.signal_bar else SIGNAL
            if reason != -1:
                price = market.series[LAST_OPEN, i]
                if reason == TAKE_PROFIT and watch.target_limit and not now.target_at_open:
                    price = position.side * position.target
                return Passage(Exit(i, OPEN, reason, price, position, path), care, spell, deal, nothing)
            if path.order != NO_CALL:
                position, path = carry_out(market, now, care, calls, position, path, i)
        reason, threshold = in_range(market, now, watch, unseen(position) if spared else position, path, i)
        if reason != -1:
            phase = RANGE
            base = range_price(market, watch, reason, position.side, threshold, i)
            if reason == LIQUIDATION:
                continue
            return Passage(Exit(i, RANGE, reason, base, position, path), care, spell, deal, nothing)
        path = after_close(market, now, watch, care, position, path, i)
        return Passage(Exit(i + 1, OPEN, PAUSED, 0.0, position, path), care, spell, deal, nothing)


@part
def live_in_steps(
    market: Market, rates: Rates, rule: Procedure, plan: Plan, signals: Signals, rows: Table, calls: Table, trace: Trace,
    schedule: Floats, at: int, slot: int, lane: int, side: float, bar: int, wallet: float, exit_due: int,
) -> tuple[float, int]:  # fmt: skip
    """One position from its order to its exit, written to row `at`; returns the wallet afterwards, and how many records it made."""
    row, now = rows[at], rates_in(rates, epoch_at(rates, bar))
    opening = open_position(market, now, plan, signals, side, bar, wallet)
    write_opening(now, row, lane, bar, side, opening)
    if opening.rejection != ACCEPTED:
        return wallet, 0
    term = term_of(market, plan, signals, side, bar, exit_due)
    watch = watch_for(side, plan["stop_on_mark"], plan["target_on_mark"], plan["trail_on_mark"])
    care = care_of(plan, at, slot)
    position, i = opening.position, bar
    path = start(market, now, position, bar, opening.collateral, wallet - opening.collateral)
    spell = Spell(0, -1, -1, -2, 0, 0.0, 0, 0)
    while True:
        end = walk_epochs(market, rates, watch, care, calls, position, path, term, i, market.time.size, trace)
        if end.reason == LIQUIDATION:
            passage = pass_through(market, rates, rule, watch, care, calls, schedule, end, term, spell)
            end, care, spell = passage.end, passage.care, passage.spell
            if end.reason == LIQUIDATION:
                write_exit(market, rates, row, watch.target_limit, end)
                write_closing(row, passage.closing)
                return end.path.wallet + passage.closing.back, care.slot - slot + end.path.calls
        if end.reason != PAUSED:
            back = write_exit(market, rates, row, watch.target_limit, end)
            return end.path.wallet + back, care.slot - slot + end.path.calls
        position, path, i = end.position, end.path, end.bar


@part
def refuse_for_want_of_a_bar(row: Row, number: int, side: int, collateral: float) -> None:
    """The row of a given position after the last bar."""
    row["lane"] = number
    row["side"] = side
    row["rejection"] = NO_BAR
    row["reason"] = REJECTED
    row["collateral"] = collateral


@part
def each_stepping(
    market: Market, rates: Rates, rule: Procedure, plans: Table, signals: Signals, lanes: Table, first: int, rows: Table,
    calls: Table, slots: int, trace: Trace, schedule: Floats,
) -> tuple[int, int, int]:  # fmt: skip
    """`run_stepping`, with bare arrays."""
    bars, at, called = market.time.size, 0, 0
    for number in range(first, lanes.size):
        lane = lanes[number]
        plan = plans[lane["plan"]]
        while lane["done"] == 0:
            if at == rows.size or called + slots > calls.size:
                return number, at, called
            fixed = lane["fixed_side"] != 0
            if fixed:
                side, entered = float(lane["fixed_side"]), lane["bar"]
                wallet, exit_due = plan["capital"], lane["exit_due"]
                lane["done"] = 1
                if entered >= bars:
                    refuse_for_want_of_a_bar(rows[at], number, lane["fixed_side"], plan["sizing_value"])
                    at += 1
                    break
            else:
                if plan["compounding"] == 0:
                    lane["wallet"] = plan["capital"]
                decided = next_entry(market, plan, signals, lane["bar"], lane["not_before"])
                if decided >= bars or not lane["wallet"] > 0.0:
                    lane["done"] = 1
                    break
                side, entered = float(signals.marks[ENTRY_SIDE, decided]), decided + 1
                wallet, exit_due = lane["wallet"], -1
            wallet, used = live_in_steps(
                market, rates, rule, plan, signals, rows, calls, trace, schedule,
                at, called, number, side, entered, wallet, exit_due,
            )  # fmt: skip
            called += used
            if fixed:
                at += 1
                break
            lane["wallet"] = wallet
            if rows[at]["reason"] == REJECTED:
                at += after_refusal(plan, lane, rows[at])
                continue
            after_exit(market, plan, lane, rows[at])
            at += 1
    return lanes.size, at, called


@kernel
def run_stepping(
    market: Market, rates: Rates, rule: Procedure, plans: Table, signals: Signals, lanes: Table, first: int, rows: Table,
    calls: Table, slots: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Lanes from `first` on, of given positions or accounts that follow signals, while there is room for a row more and the `slots`
    records it may make. `rows` begin as zeros.

    Returns the lane to go on with (the number of lanes when all are done), and how many rows and records are written.
    """
    trace, schedule = room_for_trace(False), np.empty(MOST_SLICES)
    found = each_stepping(
        bare_market(market), bare_rates(rates), rule, bare(plans), Signals(bare(signals.marks), bare(signals.series)),
        bare(lanes), first, bare(rows), bare(calls), slots, bare_trace(trace), bare(schedule),
    )  # fmt: skip
    hold_trace(trace)
    hold(schedule)
    return found
