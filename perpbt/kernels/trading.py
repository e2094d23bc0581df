"""Accounts that follow signals through every bar of every position: what `lanes.run_following` finds by leaps, and its witness.

No position is taken over from an account that holds the same.
"""

from __future__ import annotations

import numpy as np

from .accounts import (
    after_exit,
    after_refusal,
    bare_market,
    bare_rates,
    care_of,
    next_entry,
    term_of,
    write_exit,
    write_opening,
)
from .compile import bare, hold, kernel, part
from .epochs import epoch_at, rates_in
from .opening import open_position
from .riding import ride
from .screening import TOLD
from .tables import (
    ACCEPTED,
    ENTRY_SIDE,
    REJECTED,
    Coarse,
    Market,
    Plan,
    Rates,
    Signals,
    Table,
)
from .watching import start, watch_for


@part
def hold_one(
    market: Market, rates: Rates, plan: Plan, signals: Signals, rows: Table, calls: Table, at: int, slot: int, lane: int,
    side: float, bar: int, wallet: float, told: Coarse,
) -> float:  # fmt: skip
    """As `accounts.live`, bar by bar."""
    row, now = rows[at], rates_in(rates, epoch_at(rates, bar))
    opening = open_position(market, now, plan, signals, side, bar, wallet)
    write_opening(now, row, lane, bar, side, opening)
    if opening.rejection != ACCEPTED:
        return wallet
    term = term_of(market, plan, signals, side, bar, -1)
    watch = watch_for(side, plan["stop_on_mark"], plan["target_on_mark"], plan["trail_on_mark"])
    path = start(market, now, opening.position, bar, opening.collateral, wallet - opening.collateral)
    end = ride(
        market,
        rates,
        watch,
        care_of(plan, at, slot),
        calls,
        opening.position,
        path,
        term,
        bar,
        market.time.size,
        told,
        True,
    )
    return end.path.wallet + write_exit(market, rates, row, watch.target_limit, end)


@part
def each_trading(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, first: int, rows: Table, calls: Table, slots: int,
    told: Coarse,
) -> tuple[int, int, int]:  # fmt: skip
    """`run_trading`, with bare arrays."""
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
            side, row = float(signals.marks[ENTRY_SIDE, decided]), rows[at]
            lane["wallet"] = hold_one(
                market,
                rates,
                plan,
                signals,
                rows,
                calls,
                at,
                called,
                number,
                side,
                decided + 1,
                lane["wallet"],
                told,
            )
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
def run_trading(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, first: int, rows: Table, calls: Table, slots: int
) -> tuple[int, int, int]:  # fmt: skip
    """As `lanes.run_following`, for markets with coarse bars."""
    told = np.empty(TOLD, dtype=np.float32)
    found = each_trading(
        bare_market(market), bare_rates(rates), bare(plans), Signals(bare(signals.marks), bare(signals.series)),
        bare(lanes), first, bare(rows), bare(calls), slots, bare(told),
    )  # fmt: skip
    hold(told)
    return found
