"""Adding up: what finished positions came to, what they brought to their fund and crowd, and sums that lose nothing.

In: records of rows and margin orders in the order of the accounts table, orders sorted by row. Out: the columns of that table, and
what is summed over positions exactly, so that chunks and threads leave no trace.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compile import bare, kernel, part
from .sums import Sums, add_bits, grow, make_room
from .tables import (
    ACCEPTED,
    CLOSE,
    DELEVERAGE,
    NO_BAR,
    OPEN,
    RANGE,
    REDUCED,
    Codes,
    Floats,
    Integers,
    Row,
    Table,
)  # fmt: skip

TOLERANCE = 1e-12  # of gross flows
MOST_PARTIALS = 64  # doubles span 2098 bits; partials of 53 bits that do not overlap are at most 40

# columns of a settled table, in the order of `settle_rows`
NUMBERS = (
    "collateral", "entry_price", "quantity", "margin", "liquidation_price", "bankruptcy_price", "exit_price", "pnl", "funding",
    "fees", "liquidation_fee", "surplus", "deficit", "top_up", "cash_change", "total_return", "max_drawdown", "worst_margin_ratio",
)  # fmt: skip
COLLATERAL = 0  # the one of them a refused order has too
MOMENTS = ("entry_time", "exit_time", "lane")
WORDS = ("side", "exit_reason", "rejection")
TOTALS = ("cash_change", "fees", "pnl", "funding")

# What a position brings to a fund or takes from it at one moment, times its weight.
EVENT = np.dtype(
    [
        ("time", np.int64),
        ("world", np.int32),
        ("symbol", np.int16),
        ("phase", np.int8),
        ("liquidation_fees", np.float64),
        ("surplus", np.float64),
        ("fee_share", np.float64),
        ("deficit", np.float64),
    ],
    align=True,
)


class Settlement(NamedTuple):
    """What the money of a position came to."""

    call: int  # the next margin order
    cash: float
    fees: float
    pnl: float
    funding: float
    liquidation_fee: float
    surplus: float
    deficit: float
    came: float  # to traders, venue and fund
    gave: float  # price and funding
    broken: bool  # whether these differ
    moved: float  # gross flows


@part
def settle_row(
    row: Row, calls: Table, call: int, k: int, numbers: Floats, to: int, blank: bool
) -> Settlement:
    """Write the numbers of row k, which was not refused, to entry `to`; `call` is the first margin order that may be its own.

    `blank`: the entry holds zeros. What most positions do not have is not written then: pages that nobody writes to take no memory.
    """
    # in the order money moved: at the opening, at each deleveraging and liquidation of a part, at the exit
    pnl, funding, fees, deficit = 0.0, 0.0, row["open_fee"], 0.0
    penalty, surplus = 0.0, 0.0
    while call < calls.size and calls[call]["row"] <= k:
        if calls[call]["action"] == DELEVERAGE or calls[call]["action"] == REDUCED:
            penalty += calls[call]["liquidation_fee"]
            surplus += calls[call]["surplus"]
            pnl += calls[call]["pnl"]
            funding += calls[call]["funding"]
            fees += calls[call]["fee"]
            deficit += calls[call]["deficit"]
        call += 1
    pnl, funding = pnl + row["pnl"], funding + row["funding"]
    fees, deficit = fees + row["close_fee"], deficit + row["deficit"]
    penalty, surplus = penalty + row["liquidation_fee"], surplus + row["surplus"]
    back = row["released"] + row["back"]
    invested = row["collateral"] + row["top_up"]
    cash = back - invested
    numbers[1, to] = row["entry"]
    numbers[2, to] = row["quantity"]
    numbers[3, to] = row["margin"]
    numbers[4, to] = row["liquidation_price"]
    numbers[5, to] = row["entry"] - row["side"] * (row["margin"] / row["quantity"])
    numbers[6, to] = row["fill"]
    numbers[7, to] = pnl
    numbers[8, to] = funding
    numbers[9, to] = fees
    if not blank or penalty != 0.0:
        numbers[10, to] = penalty
    if not blank or surplus != 0.0:
        numbers[11, to] = surplus
    if not blank or deficit != 0.0:
        numbers[12, to] = deficit
    if not blank or row["top_up"] != 0.0:
        numbers[13, to] = row["top_up"]
    numbers[14, to] = cash
    numbers[15, to] = cash / invested
    numbers[16, to] = row["drawdown"]
    if row["peak"] > 0.0:  # 0: it is that of a shared wallet, whole as it is
        numbers[16, to] = max(row["drawdown"], (row["peak"] - back) / row["peak"])  # the exit included
    numbers[17, to] = row["worst_ratio"]
    came = ((cash + fees) + penalty) + surplus - deficit
    gave = pnl + funding
    gross = abs(pnl) + abs(funding) + abs(fees)
    size = (
        abs(back) + row["collateral"] + row["top_up"] + gross + abs(deficit)
    )  # of a shared wallet, back may be below 0
    broken = not abs(came - gave) <= TOLERANCE * size
    moved = abs(cash) + gross + row["collateral"]
    return Settlement(call, cash, fees, pnl, funding, penalty, surplus, deficit, came, gave, broken, moved)


@kernel
def settle_rows(
    rows: Table, calls: Table, symbol: Integers, weight: Floats, requested: Integers, times: Integers, starts: Integers,
    places: Integers, numbers: Floats, moments: Integers, words: Codes, totals: Sums,
) -> tuple[int, int, float, float, float]:  # fmt: skip
    """Write the columns of row k to entry places[k] of `numbers`, `moments` and `words`, and check that its money is conserved (MODEL §8).

    `times[starts[s] :]` are the bars of symbol s; `requested`, of rows that found no bar, when it was asked for. What is not known of a refused order is 0. To `totals` the weighted TOTALS are added. Returns how many rows are broken, the first of them, what its
    traders, venue and fund got and what price and funding gave, and the gross flows of all.
    """
    broken, first, got, given, everything = 0, -1, 0.0, 0.0, 0.0
    call = 0
    make_room(totals, 4 * rows.size)
    into = Sums(bare(totals.limbs), bare(totals.used))
    weighted = np.empty(4)
    bits = bare(weighted.view(np.int64))
    for k in range(rows.size):
        row = rows[k]
        to = places[k]
        base = starts[symbol[k]]
        moments[2, to] = row["lane"]
        words[0, to] = 1 if row["side"] > 0 else 0
        words[1, to] = row["reason"]
        words[2, to] = row["rejection"]
        numbers[COLLATERAL, to] = row["collateral"]
        moments[0, to] = requested[k] if row["rejection"] == NO_BAR else times[base + row["entry_bar"]]
        if row["rejection"] != ACCEPTED:
            moments[1, to] = 0
            for column in range(COLLATERAL + 1, len(NUMBERS)):
                numbers[column, to] = 0.0
            continue
        moments[1, to] = times[base + row["exit_bar"]]
        done = settle_row(row, calls, call, k, numbers, to, False)
        call = done.call
        if done.broken:
            if broken == 0:
                first, got, given = to, done.came, done.gave
            broken += 1
        w = weight[k]
        everything += w * done.moved
        weighted[0], weighted[1], weighted[2] = w * done.cash, w * done.fees, w * done.pnl
        weighted[3] = w * done.funding
        for slot in range(4):
            add_bits(into, slot, bits[slot])
    return broken, first, got, given, everything


@part
def write_events(
    events: Table, written: int, row: Row, calls: Table, call: int, k: int, times: Integers, base: int, world: int,
    symbol: int, w: float, fee_share: float,
) -> tuple[int, int]:  # fmt: skip
    """What row k brings to its fund, behind the events `written`; returns how many there are then, and the next margin order."""
    share = fee_share * w
    if row["open_fee"] > 0.0 and fee_share > 0.0:
        written = write_event(events, written, times[base + row["entry_bar"]], OPEN, world, symbol)
        events[written - 1]["fee_share"] = share * row["open_fee"]
    while call < calls.size and calls[call]["row"] <= k:
        one = calls[call]
        if one["action"] == DELEVERAGE or (
            one["action"] == REDUCED and one["fee"] * fee_share + one["liquidation_fee"] > 0.0
        ):
            moment = times[base + one["bar"]]
            written = write_event(events, written, moment, one["phase"], world, symbol)
            events[written - 1]["liquidation_fees"] = w * one["liquidation_fee"]
            events[written - 1]["fee_share"] = share * one["fee"]
            events[written - 1]["deficit"] = w * one["deficit"]
        call += 1
    if row["close_fee"] * fee_share + row["liquidation_fee"] + row["surplus"] + row["deficit"] > 0.0:
        phase = RANGE if row["phase"] == CLOSE else row["phase"]
        written = write_event(events, written, times[base + row["exit_bar"]], phase, world, symbol)
        event = events[written - 1]
        event["liquidation_fees"] = w * row["liquidation_fee"]
        event["surplus"] = w * row["surplus"]
        event["fee_share"] = share * row["close_fee"]
        event["deficit"] = w * row["deficit"]
    return written, call


@kernel
def fund_events(
    rows: Table, calls: Table, world: Integers, symbol: Integers, weight: Floats, fee_share: float, times: Integers,
    starts: Integers, events: Table,
) -> int:  # fmt: skip
    """Write every payment to or from a fund into `events`, which has room for two a row and one a call; returns how many."""
    written, call = 0, 0
    events, calls, times = bare(events), bare(calls), bare(times)
    for k in range(rows.size):
        row = rows[k]
        if row["rejection"] != ACCEPTED:
            continue
        base = starts[symbol[k]]
        written, call = write_events(
            events, written, row, calls, call, k, times, base, world[k], symbol[k], weight[k], fee_share
        )
    return written


@part
def write_event(events: Table, at: int, time: int, phase: int, world: int, symbol: int) -> int:
    """An event without money yet; returns the next free entry."""
    event = events[at]
    event["time"] = time
    event["phase"] = phase
    event["world"] = world
    event["symbol"] = symbol
    event["liquidation_fees"] = 0.0
    event["surplus"] = 0.0
    event["fee_share"] = 0.0
    event["deficit"] = 0.0
    return at + 1


@kernel
def notional_held(rows: Table, weight: Floats, bars: Floats, held: Floats, closes: Floats) -> int:
    """Weighted notional of each row times the share of its `bars` closes it was open at, and that share; 0 for refused orders.

    Returns how many orders were not refused.
    """
    opened = 0
    for k in range(rows.size):
        row = rows[k]
        held[k], closes[k] = 0.0, 0.0
        if row["rejection"] == ACCEPTED:
            number = row["exit_bar"] - row["entry_bar"] + (1 if row["phase"] == CLOSE else 0)
            held[k] = weight[k] * row["notional"] * number / bars[k]
            closes[k] = number / bars[k]
            opened += 1
    return opened


@kernel
def condense_events(events: Table, order: Integers, starts: Integers, condensed: Table) -> int:
    """Fewer events whose exact sums are the same: those in order[starts[g] : starts[g + 1]], of one moment and fund and without
    deficits, become as many as their sums have partials. Returns how many.
    """
    written = 0
    partials = np.zeros((3, MOST_PARTIALS))
    condensed = bare(condensed)
    for group in range(starts.size - 1):
        counts, most = np.zeros(3, dtype=np.int64), 0
        for j in range(starts[group], starts[group + 1]):
            event = events[order[j]]
            counts[0] = grow(partials[0], counts[0], event["liquidation_fees"])
            counts[1] = grow(partials[1], counts[1], event["surplus"])
            counts[2] = grow(partials[2], counts[2], event["fee_share"])
        for kind in range(3):
            most = max(most, counts[kind])
            partials[kind, counts[kind] :] = 0.0
        head = events[order[starts[group]]]
        for k in range(most):
            written = write_event(
                condensed, written, head["time"], head["phase"], head["world"], head["symbol"]
            )
            event = condensed[written - 1]
            event["liquidation_fees"] = partials[0, k]
            event["surplus"] = partials[1, k]
            event["fee_share"] = partials[2, k]
    return written
