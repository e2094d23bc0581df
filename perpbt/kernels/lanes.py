"""Lanes through the engine, a chunk at a time: given positions, and accounts that follow signals.

In: a symbol's arrays, plans and the lanes of one chunk. Out: finished rows. A given position is one row in a place of its own; an
account that follows signals writes its rows one after the other, and where the page is full the chunk stops, every lane with its state
in `lanes`, and goes on in the next page. Chunks share nothing they write to, so any number of threads gives the same rows.
"""

from __future__ import annotations

import numpy as np

from .accounts import after_exit, after_refusal, bare_market, bare_rates, fixed_entry, live, next_entry
from .compile import bare, hold, kernel, part
from .leaping import BLOCK, BLOCKS
from .tables import (
    ACCEPTED,
    ENTRY_SIDE,
    LIQUIDATION,
    REJECTED,
    Codes,
    Floats,
    Integers,
    Market,
    Rates,
    Signals,
    Table,
)


@part
def each_given(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, places: Integers, rows: Table, calls: Table,
    trace: Table,
) -> None:  # fmt: skip
    """`run_given`, with bare arrays."""
    for k in range(lanes.size):
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
    held = np.empty(BLOCKS, dtype=BLOCK)
    each_given(
        bare_market(market), bare_rates(rates), bare(plans), Signals(bare(signals.marks), bare(signals.series)),
        bare(lanes), bare(places), bare(rows), bare(calls), bare(held),
    )  # fmt: skip
    hold(held)


@part
def each_following(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, first: int, rows: Table, calls: Table,
    slots: int, trace: Table,
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
            for slot in range(called, called + slots):
                calls[slot]["row"] = -1
            side = float(signals.marks[ENTRY_SIDE, decided])
            lane["wallet"] = live(
                market, rates, plan, signals, rows, calls, trace,
                at, called, number, side, decided + 1, lane["wallet"], -1,
            )  # fmt: skip
            row = rows[at]
            if row["reason"] == REJECTED:
                at += after_refusal(plan, lane, row)
                continue
            room = called + slots
            while called < room and calls[called]["row"] == at:
                called += 1
            after_exit(market, plan, lane, row)
            at += 1
    return lanes.size, at, called


@kernel
def run_following(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, first: int, rows: Table, calls: Table,
    slots: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Lanes from `first` on, each until it is done, while there is room for a row more and the `slots` margin orders it may give.

    Returns the lane to go on with (the number of lanes when all are done), and how many rows and calls are written.
    """
    held = np.empty(BLOCKS, dtype=BLOCK)
    found = each_following(
        bare_market(market), bare_rates(rates), bare(plans), Signals(bare(signals.marks), bare(signals.series)),
        bare(lanes), first, bare(rows), bare(calls), slots, bare(held),
    )  # fmt: skip
    hold(held)
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
