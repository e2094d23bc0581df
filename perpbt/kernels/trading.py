"""Accounts that follow signals through every bar of every position: what `lanes.run_following` finds by leaps, and its witness.

No position is taken over from an account that holds the same. Many accounts are carried over a tile of bars before the next one is begun,
as in `tiles`; their rows are then put in order.
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
    LANE,
    ROW,
    Coarse,
    Integers,
    Lane,
    Market,
    Rates,
    Signals,
    Table,
)
from .tiles import HELD, KEPT, OVER, TILE, keep, path_of, position_of
from .walking import PAUSED, Term
from .watching import start, watch_for

GROUP = 64  # accounts that are carried over a tile together
ROOM = 0.8  # share of a page that rows of a group may be expected to take


@part
def go_on(
    market: Market, rates: Rates, plans: Table, signals: Signals, lane: Lane, number: int, kept: Table, written: Integers, k: int, rows: Table, calls: Table,
    slots: int, at: int, called: int, last: int, told: Coarse, far: bool,
) -> tuple[int, int, bool]:  # fmt: skip
    """Carry an account to bar `last`; returns how many rows and records are in use then, and whether there was room for them."""
    plan, own, bars = plans[lane["plan"]], kept[k], market.time.size
    while lane["done"] == 0:
        if own["state"] == HELD:
            here, i = written[k], own["bar"]
            side, position, path = own["side"], position_of(own), path_of(own)
            term = Term(own["entry_bar"], own["time_bar"], own["signal_bar"])
        else:
            if at == rows.size or called + slots > calls.size:
                return at, called, False
            if plan["compounding"] == 0:
                lane["wallet"] = plan["capital"]
            decided = next_entry(market, plan, signals, lane["bar"], lane["not_before"])
            if decided >= bars or not lane["wallet"] > 0.0:
                lane["done"] = 1
                break
            if decided + 1 >= last:
                break
            for slot in range(called, called + slots):
                calls[slot]["row"] = -1
            here, i, side = at, decided + 1, float(signals.marks[ENTRY_SIDE, decided])
            now = rates_in(rates, epoch_at(rates, i))
            opening = open_position(market, now, plan, signals, side, i, lane["wallet"])
            write_opening(now, rows[here], number, i, side, opening)
            if opening.rejection != ACCEPTED:
                at += after_refusal(plan, lane, rows[here])
                continue
            at += 1
            position, rest = opening.position, lane["wallet"] - opening.collateral
            path = start(market, now, position, i, opening.collateral, rest)
            term = term_of(market, plan, signals, side, i, -1)
        watch = watch_for(side, plan["stop_on_mark"], plan["target_on_mark"], plan["trail_on_mark"])
        care = care_of(plan, here, called)
        end = ride(market, rates, watch, care, calls, position, path, term, i, last, told, far)
        if end.reason == PAUSED:
            keep(own, end.position, end.path, term, end.bar)
            written[k] = here
            break
        own["state"] = OVER
        lane["wallet"] = end.path.wallet + write_exit(market, rates, rows[here], watch.target_limit, end)
        room = called + slots
        while called < room and calls[called]["row"] == here:
            called += 1
        after_exit(market, plan, lane, rows[here])
    return at, called, True


@part
def put_in_order(
    rows: Table, first: int, last: int, number: int, count: int, spare: Table, starts: Integers
) -> None:
    """Sort rows [first, last), which are of lanes from `number` on, by lane; those of a lane stay in their order."""
    starts[: count + 1] = 0
    for j in range(first, last):
        starts[rows[j]["lane"] - number + 1] += 1
    for k in range(count):
        starts[k + 1] += starts[k]
    for j in range(first, last):
        k = rows[j]["lane"] - number
        spare[starts[k]] = rows[j]
        starts[k] += 1
    rows[first:last] = spare[: last - first]


@part
def each_trading(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, first: int, rows: Table, calls: Table, slots: int,
    told: Coarse, kept: Table, written: Integers, before: Table, spare: Table, starts: Integers,
) -> tuple[int, int, int]:  # fmt: skip
    """`run_trading`, with bare arrays.

    The first account goes by itself: its rows say how many accounts may go together so that theirs have room. If they have none after
    all, it is as if these had not begun.
    """
    bars, at, called, number, count = market.time.size, 0, 0, first, 1
    while number < lanes.size:
        began, last, room = at, 0, True
        for k in range(count):
            before[k] = lanes[number + k]
            kept[k]["state"] = OVER
        while last < bars and room:
            last = min(last + (TILE if count > 1 else bars), bars)
            for k in range(count):
                at, called, room = go_on(
                    market, rates, plans, signals, lanes[number + k], number + k, kept, written, k, rows, calls, slots, at, called, last,
                    told, k < 2,
                )  # fmt: skip
                if not room:
                    break
        if not room:
            if count == 1:
                return number, at, called
            for k in range(count):
                lanes[number + k] = before[k]
            rows[began:] = np.zeros(1, dtype=ROW)[0]
            if began > 0:
                return number, began, called
            at, count = 0, max(1, count // 4)
            continue
        if count > 1:
            put_in_order(rows, began, at, number, count, spare, starts)
        number += count
        count = 1
        if slots == 0 and number < lanes.size:
            each = max(1.0, at / (number - first))
            count = max(1, min(int(ROOM * (rows.size - at) / each), min(GROUP, lanes.size - number)))
    return lanes.size, at, called


@kernel
def run_trading(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, first: int, rows: Table, calls: Table, slots: int
) -> tuple[int, int, int]:  # fmt: skip
    """As `lanes.run_following`, for markets with coarse bars."""
    told, kept, before = (
        np.empty(TOLD, dtype=np.float32),
        np.empty(GROUP, dtype=KEPT),
        np.empty(GROUP, dtype=LANE),
    )
    written = np.empty(GROUP, dtype=np.int64)
    spare, starts = np.empty(rows.size, dtype=ROW), np.empty(GROUP + 1, dtype=np.int64)
    found = each_trading(
        bare_market(market), bare_rates(rates), bare(plans), Signals(bare(signals.marks), bare(signals.series)),
        bare(lanes), first, bare(rows), bare(calls), slots, bare(told), bare(kept), bare(written), bare(before), bare(spare), bare(starts),
    )  # fmt: skip
    hold(told)
    hold(kept)
    hold(written)
    hold(before)
    hold(spare)
    hold(starts)
    return found
