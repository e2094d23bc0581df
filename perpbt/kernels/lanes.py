"""Lanes through the engine, a chunk at a time: given positions, and accounts that follow signals.

In: a symbol's arrays, plans and the lanes of one chunk. Out: finished rows. A given position is one row in a place of its own; an
account that follows signals writes its rows one after the other, and where the page is full the chunk stops, every lane with its state
in `lanes`, and goes on in the next page. Chunks share nothing they write to, so any number of threads gives the same rows.

Accounts that do not compound and enter by one plan at one bar hold the same position: their order does not depend on who gives it. So a
chunk remembers its latest positions, and whoever enters where somebody has entered before takes over that row. That is the more
frequent, the more often accounts trade: those that leave at one bar trade alike from then on. Those of accounts that compound differ in
their size, and begin where `kin` says.
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
    fixed_entry,
    leave,
    next_entry,
    walk_on,
    write_opening,
)
from .ahead import LINE, claim, fetch
from .blocks import node_at
from .compile import bare, kernel, part
from .eights import WIDTH
from .epochs import epoch_at, rates_in
from .kin import found_in, has_kin, keep, left_alike, told, wary
from .noting import Trace, bare_trace, hold_trace, room_for_trace, want
from .opening import open_position
from .pyramid import COLUMNS, FALL, FUNDING_HIGH, FUNDING_LOW, SHIFT, THIN_LOW, TOPS, WORTH_HIGH, WORTH_LOW
from .tables import (
    ACCEPTED,
    ENTRY_SIDE,
    FUNDING,
    HIGH,
    LAST_OPEN,
    LIQUIDATION,
    LOW,
    MARK_CLOSE,
    MARK_LOW,
    MARK_OPEN,
    NEXT_LONG_EXIT,
    NO_CALL,
    REJECTED,
    ROW,
    VOLATILITY,
    Codes,
    Floats,
    Integers,
    Lane,
    Market,
    Places,
    Plan,
    Rates,
    Row,
    Signals,
    Table,
)
from .watching import start, watch_for

AHEAD = 8  # positions; with many more than that on the way, lines wait for each other
FRONT = 1024  # bars beyond the next entry that are asked for
DENSE = 64  # bars between entries up to which that pays
ENTRY_LEVELS = 2  # of the pyramid, whose groups at the entry are asked for ahead; others are as a rule there
ROW_WORDS = ROW.itemsize // 8


class Known(NamedTuple):
    """What a chunk remembers for others: rows, and of positions of other sizes `kin.KIN`; with no room for them nothing.

    `places`, one a bar and one more, begins as zeros and says where in the one or the other that is which was opened there: 1 for the
    first. The last says where the next goes.
    """

    rows: Table
    kin: Table
    places: Places


@part
def expect(market: Market, signals: Signals, rows: Table, lane: Lane, place: int) -> None:
    """Ask for what a given position is going to read at its entry, and for its row, before its turn comes."""
    bars, bar, short = market.time.size, lane["bar"], 1 if lane["fixed_side"] < 0 else 0
    if bar < bars:
        for row in (LAST_OPEN, FUNDING, MARK_OPEN, MARK_LOW + short, MARK_CLOSE, LOW, HIGH):
            fetch(market.series, row * bars + bar)
        fetch(signals.marks, (NEXT_LONG_EXIT + short) * bars + bar)
        for level in range(1, min(market.pyramid.levels, ENTRY_LEVELS) + 1):
            group = node_at(market, level, bar) >> SHIFT
            for column in (
                LOW, HIGH, MARK_LOW + short, FUNDING_LOW, FUNDING_HIGH, WORTH_LOW, WORTH_HIGH, THIN_LOW + short, FALL + short,
            ):  # fmt: skip
                fetch(market.pyramid.nodes, (group * COLUMNS + column) * WIDTH)
    for word in range(0, ROW_WORDS, LINE):
        claim(rows, place * ROW_WORDS + word)
    claim(rows, (place + 1) * ROW_WORDS - 1)


@part
def go_before(market: Market, front: int, until: int) -> int:
    """Ask for the bars from `front` to `until`, in which positions that enter soon may leave; for none where entries are so far apart that
    few of these bars would be read. Returns where to go on.
    """
    bars = market.time.size
    if until - front > DENSE:
        return until
    front &= -WIDTH
    while front < until and front < bars:
        for row in range(VOLATILITY):  # all prices and CF
            fetch(market.series, row * bars + front)
        if market.pyramid.levels > 0:
            node = node_at(market, 1, front)
            fetch(market.pyramid.tops, node * TOPS)
            fetch(market.pyramid.tops, node * TOPS + TOPS - 1)
            if node & (WIDTH - 1) == 0:
                for column in range(COLUMNS):
                    fetch(market.pyramid.nodes, ((node >> SHIFT) * COLUMNS + column) * WIDTH)
        front += WIDTH
    return front


@part
def each_given(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, places: Integers, rows: Table, calls: Table,
    trace: Trace,
) -> None:  # fmt: skip
    """`run_given`, with bare arrays."""
    front = 0
    for k in range(lanes.size):
        if k + AHEAD < lanes.size:
            expect(market, signals, rows, lanes[k + AHEAD], places[k + AHEAD])
            front = go_before(market, front, lanes[k + AHEAD]["bar"] + FRONT)
        fixed_entry(market, rates, plans[k], signals, lanes[k], rows, calls, trace, places[k], places[k])


@kernel
def run_given(
    market: Market,
    rates: Rates,
    plans: Table,
    signals: Signals,
    lanes: Table,
    places: Integers,
    rows: Table,
    calls: Table,
) -> None:
    """Lane k holds one position, by plan k, and writes row places[k]. `calls` is not written to: there are no margin orders."""
    trace = room_for_trace(False)
    each_given(
        bare_market(market), bare_rates(rates), bare(plans), Signals(bare(signals.marks), bare(signals.series)),
        bare(lanes), bare(places), bare(rows), bare(calls), bare_trace(trace),
    )  # fmt: skip
    hold_trace(trace)


@part
def alike(plan: Plan, known: Known) -> bool:
    """Is a position of this plan the same for all who open it in one bar, and is there room to keep it?"""
    return known.rows.size > 0 and plan["compounding"] == 0 and plan["call_action"] == NO_CALL


@part
def remembered(plan: Plan, lane: Lane, known: Known, bar: int) -> int:
    """Where among the rows known the position is that a lane opens in `bar`; -1 if it is not there, or is no other's."""
    if not alike(plan, known):
        return -1
    at = known.places[np.uint64(bar)] - 1
    if at < 0 or known.rows[at]["entry_bar"] != bar or known.rows[at]["lane"] != lane["plan"]:
        return -1
    return int(at)


@part
def remember(plan: Plan, lane: Lane, known: Known, row: Row) -> None:
    """Keep a position for others, in the place of the oldest."""
    if alike(plan, known):
        at = known.places[known.places.size - 1]
        known.rows[at] = row
        known.rows[at]["lane"] = lane["plan"]
        known.places[np.uint64(row["entry_bar"])] = at + 1
        known.places[known.places.size - 1] = (at + 1) % known.rows.size


@part
def follow(
    market: Market, rates: Rates, plan: Plan, signals: Signals, rows: Table, calls: Table, known: Known, trace: Trace,
    at: int, slot: int, number: int, lane: Lane, side: float, bar: int,
) -> float:  # fmt: skip
    """`accounts.live` for a lane that follows signals, which may take over from others the beginning of a position."""
    row, now, wallet = rows[at], rates_in(rates, epoch_at(rates, bar)), lane["wallet"]
    opening = open_position(market, now, plan, signals, side, bar, wallet)
    write_opening(now, row, number, bar, side, opening)
    if opening.rejection != ACCEPTED:
        return float(wallet)
    watch = watch_for(side, plan["stop_on_mark"], plan["target_on_mark"], plan["trail_on_mark"])
    position, i = opening.position, bar
    path = start(market, now, position, bar, opening.collateral, wallet - opening.collateral)
    kin, noting, over = known.kin, has_kin(rates, plan, known.kin), False
    before = found_in(kin, known.places, lane["plan"], bar) if noting else -1
    if before >= 0:
        care = care_of(plan, at, slot)
        i, path = told(market, now, watch, care, kin[before], position, path, opening.collateral, bar)
        over = i == kin[before]["until"] and kin[before]["reason"] >= 0
    noting &= i == bar
    if over:
        end = left_alike(market, now, kin[before], position, path)
    else:
        if noting:
            position = wary(market, position)
            want(trace.notes)
        end = walk_on(market, rates, plan, signals, calls, trace, at, slot, bar, -1, watch, position, path, i)
    wallet = leave(market, rates, plan, signals, row, watch, end)
    if noting:
        keep(
            market,
            now,
            trace.notes,
            watch,
            position,
            opening.collateral,
            lane["plan"],
            row,
            kin,
            known.places,
        )
    return wallet


@part
def each_following(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, first: int, rows: Table, calls: Table,
    slots: int, known: Known, trace: Trace,
) -> tuple[int, int, int]:  # fmt: skip
    """`run_following`, with bare arrays."""
    bars, at, called = market.time.size, 0, 0
    for number in range(first, lanes.size):
        lane = lanes[number]
        plan = plans[lane["plan"]]
        while lane["done"] == 0:
            if at == rows.size or called + slots > calls.size:
                return number, at, called
            if plan["compounding"] == 0:
                lane["wallet"] = plan["capital"]
            decided = next_entry(market, plan, signals, lane["bar"], lane["not_before"])
            if decided >= bars or not lane["wallet"] > 0.0:
                lane["done"] = 1
                break
            before = remembered(plan, lane, known, decided + 1)
            if before >= 0:
                rows[at] = known.rows[before]
                rows[at]["lane"] = number
                after_exit(market, plan, lane, rows[at])
                at += 1
                continue
            for slot in range(called, called + slots):
                calls[slot]["row"] = -1
            side = float(signals.marks[ENTRY_SIDE, decided])
            lane["wallet"] = follow(
                market, rates, plan, signals, rows, calls, known, trace,
                at, called, number, lane, side, decided + 1,
            )  # fmt: skip
            row = rows[at]
            if row["reason"] == REJECTED:
                at += after_refusal(plan, lane, row)
                continue
            room = called + slots
            while called < room and calls[called]["row"] == at:
                called += 1
            remember(plan, lane, known, row)
            after_exit(market, plan, lane, row)
            at += 1
    return lanes.size, at, called


@kernel
def run_following(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, first: int, rows: Table, calls: Table,
    slots: int, known: Known,
) -> tuple[int, int, int]:  # fmt: skip
    """Lanes from `first` on, each until it is done, while there is room for a row more and the `slots` margin orders it may give.

    `known` is kept from page to page.

    Returns the lane to go on with (the number of lanes when all are done), and how many rows and calls are written.
    """
    trace = room_for_trace(True)
    found = each_following(
        bare_market(market), bare_rates(rates), bare(plans), Signals(bare(signals.marks), bare(signals.series)),
        bare(lanes), first, bare(rows), bare(calls), slots,
        Known(bare(known.rows), bare(known.kin), bare(known.places)), bare_trace(trace),
    )  # fmt: skip
    hold_trace(trace)
    return found


@kernel
def note_fills(rows: Table, turnover: Floats, liquidated_at: Codes) -> tuple[int, int]:
    """Mark the bars at which a row was liquidated; returns how many were, and how many in a bar of unknown turnover."""
    liquidated, flat = 0, 0
    for at in range(rows.size):
        row = rows[at]
        if row["rejection"] == ACCEPTED and row["reason"] == LIQUIDATION:
            liquidated_at[row["exit_bar"]] = 1
            liquidated += 1
            if not turnover[row["exit_bar"]] > 0.0:
                flat += 1
    return liquidated, flat
