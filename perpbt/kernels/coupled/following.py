"""Accounts that follow signals, one of whose positions has ended otherwise than it would have alone: where they stand then."""

from __future__ import annotations

from perpbt.kernels.accounts import after_exit, after_refusal, next_entry
from perpbt.kernels.compile import kernel
from perpbt.kernels.tables import Codes, Integers, Market, Signals, Table


@kernel
def free_lanes(market: Market, plans: Table, lanes: Table, rows: Table, places: Integers) -> None:
    """Put each lane where it stands once the position in row places[k] is over: out for good, cooling down, or free at once."""
    for k in range(lanes.size):
        after_exit(market, plans[lanes[k]["plan"]], lanes[k], rows[places[k]])


@kernel
def next_orders(
    market: Market, plans: Table, signals: Signals, lanes: Table, numbers: Integers, bars: Integers
) -> None:
    """Write to `bars` the bar in which the next order of lane numbers[k] is filled: the number of bars if there is none, and then it is done."""
    for k in range(numbers.size):
        lane, none = lanes[numbers[k]], market.time.size
        plan = plans[lane["plan"]]
        bars[k] = none
        if lane["done"] != 0:
            continue
        if plan["compounding"] == 0:
            lane["wallet"] = plan["capital"]
        decided = next_entry(market, plan, signals, lane["bar"], lane["not_before"])
        if decided >= none or not lane["wallet"] > 0.0:
            lane["done"] = 1
        else:
            bars[k] = decided + 1


@kernel
def refuse_lanes(
    plans: Table, lanes: Table, numbers: Integers, rows: Table, places: Integers, kept: Codes
) -> None:
    """Put lane numbers[k] where it stands once the order in row places[k] was refused; `kept` says whether that leaves a row."""
    for k in range(numbers.size):
        lane = lanes[numbers[k]]
        kept[k] = after_refusal(plans[lane["plan"]], lane, rows[places[k]])
