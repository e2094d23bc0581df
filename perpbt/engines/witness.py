"""The naive oracle as an engine: plain Python behind the same doors, to the bit what the kernels give.

In: what the kernels are given: a symbol's arrays, rates, plans, signals and lanes. Out: the same rows and margin orders. This room only
translates, from arrays to the oracle's dicts and back; every rule of a position and of an account is followed by `perpbt.oracle`, which
shares no code with the kernels. What comes before (checking and preparing bars, evaluating signals) and after (crowds, which fill
liquidations anew, open interest, the fund, statistics) is the run's own, whichever engine ran.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from perpbt import oracle
from perpbt.engines.chunks import Outcome, Progress
from perpbt.errors import InputError
from perpbt.kernels.tables import (
    ATR,
    CALL,
    CALLS,
    CLOSE,
    COLUMN,
    ENTRY_SIDE,
    FUNDING,
    HIGH,
    LAST_OPEN,
    LEVEL_KINDS,
    LOW,
    MARK_CLOSE,
    MARK_HIGH,
    MARK_LOW,
    MARK_OPEN,
    NEXT_LONG_EXIT,
    NEXT_SHORT_EXIT,
    OPEN,
    PROCEDURES,
    RANGE,
    REASONS,
    REJECTIONS,
    ROW,
    SIZINGS,
    TURNOVER,
    VOLATILITY,
    Lane,
    Market,
    Plan,
    Procedure,
    Rates,
    Signals,
    Table,
    table,
)
from perpbt.oracle.shapes import Record
from perpbt.prepare.mirror import prices_behind

MOST_BARS = 2_000_000  # of a symbol: as dicts they take some 700 bytes each
MOST_ACCOUNT_BARS = 50_000_000  # accounts x bars, if all live from end to end: ten minutes with a dozen tiers
PRICES = {
    "open": LAST_OPEN,
    "high": HIGH,
    "low": LOW,
    "mark_open": MARK_OPEN,
    "mark_high": MARK_HIGH,
    "mark_low": MARK_LOW,
    "mark_close": MARK_CLOSE,
    "sigma": VOLATILITY,
}
TIER = ("floor", "cap", "rate", "max_leverage", "deduction")
SAME = (
    "quantity", "margin", "notional", "liquidation_price", "exit_quantity", "exit_margin", "top_up", "released", "base",
)  # fmt: skip
PRICED = {row for name, row in PRICES.items() if name != "sigma"}  # rows of Market.series
SWAPPED = {"low": "high", "high": "low", "mark_low": "mark_high", "mark_high": "mark_low"}
RENAMED = {
    "entry": "entry_price",
    "fill": "exit_price",
    "open_fee": "entry_fee",
    "worst_ratio": "worst_margin_ratio",
}
CLOSING = ("liquidation_fee", "surplus", "deficit", "back", "pnl", "funding")
Given: TypeAlias = tuple[list[Record], list[float], dict[str, list[bool]], Record, dict[str, str]]


# ----------------------------------------------------------------------------------- what the oracle reads
def bars_of(market: Market, inverse: bool) -> list[Record]:
    """A dict a bar. Turnover is all that is known of volume and close: the volume at a close of 1. Of an inverse contract, whose prices
    kernels see in the mirror, the prices they are of.
    """
    names = {SWAPPED.get(name, name): row for name, row in PRICES.items()} if inverse else PRICES
    series = {
        row: prices_behind(values) if inverse and row in PRICED else values
        for row, values in enumerate(market.series)
    }
    columns = {name: series[row].tolist() for name, row in names.items()}
    columns["ts"] = market.time.tolist()
    columns["volume"] = [None if value != value else value for value in market.series[TURNOVER].tolist()]
    columns["close"] = [1.0] * market.time.size
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def procedure_of(procedure: Procedure | None) -> Record | None:
    """How a venue liquidates, by name; None: the whole at once."""
    if procedure is None:
        return None
    return {
        **procedure._asdict(),
        "procedure": PROCEDURES[procedure.kind],
        "close": "takeover" if procedure.takeover else "market",
    }


def venue_of(rates: Rates, procedure: Procedure | None) -> Record:
    """What a venue charges and requires, by name."""
    return {
        **rates._asdict(),
        "liquidation": procedure_of(procedure),
        "maintenance_on": "entry" if rates.entry_maintenance else "mark",
        "rule": "whole" if rates.whole else "brackets",
        "tiers": tiers_of(rates.tiers),
        "epochs": [
            (int(first), tiers_of(tiers)) for first, tiers in zip(rates.since, rates.ladders, strict=True)
        ],
        "inverse": rates.terms.inverse,
        "lot": step_of(rates.terms.lot_units, rates.terms.lot_per),
        "tick": step_of(rates.terms.tick_units, rates.terms.tick_per),
    }


def tiers_of(table: npt.NDArray[np.float64]) -> list[Record]:
    """A dict a tier."""
    return [dict(zip(TIER, tier, strict=True)) for tier in table.tolist()]


def step_of(units: float, per: float) -> tuple[int, int] | None:
    """A step as two whole numbers, if there is one."""
    return (int(units), int(per)) if per else None


def rules_of(rates: Rates) -> dict[str, str]:
    """How bars are read, by name."""
    return {
        "intrabar": "optimistic" if rates.optimistic else "pessimistic",
        "take_profit_fill": "open" if rates.target_at_open else "limit",
        "oversize": "clip" if rates.clip else "reject",
    }


def signals_of(signals: Signals, inverse: bool) -> dict[str, list[bool]]:
    """A bool a bar for each signal: an exit is at the bar where the next one is that very bar."""
    here = np.arange(signals.marks.shape[1])
    up, down = ("short", "long") if inverse else ("long", "short")
    return {
        f"{up}_entry": (signals.marks[ENTRY_SIDE] > 0).tolist(),
        f"{down}_entry": (signals.marks[ENTRY_SIDE] < 0).tolist(),
        f"{up}_exit": (signals.marks[NEXT_LONG_EXIT] == here).tolist(),
        f"{down}_exit": (signals.marks[NEXT_SHORT_EXIT] == here).tolist(),
    }


def series_of(signals: Signals, plans: Table, inverse: bool) -> list[list[float]]:
    """What levels read. Of an inverse contract prices stand in the mirror; an average true range does not."""
    series = signals.series.copy()
    if inverse:
        for name in ("stop", "target"):
            for row in np.unique(plans[f"{name}_series"][plans[f"{name}_kind"] == COLUMN]):
                series[row] = prices_behind(signals.series[row])
    listed: list[list[float]] = series.tolist()
    return listed


def level_of(plan: Plan, name: str, series: list[list[float]]) -> Record | None:
    """Where the plan's stop or target stands."""
    kind = int(plan[f"{name}_kind"])
    if LEVEL_KINDS[kind] == "none":
        return None
    level = {"kind": LEVEL_KINDS[kind], "value": float(plan[f"{name}_value"])}
    return {**level, "series": series[int(plan[f"{name}_series"])]} if kind in (ATR, COLUMN) else level


def call_of(plan: Plan) -> Record | None:
    """What the plan does at a margin call."""
    action = CALLS[int(plan["call_action"])]
    if action == "none":
        return None
    wanted = {"top_up": "target", "deleverage": "fraction"}[action]
    return {
        "action": action,
        "threshold": float(plan["call_threshold"]),
        wanted: float(plan["call_value"]),
        "max_calls": int(plan["call_count"]),
    }


def policy_of(plan: Plan, series: list[list[float]]) -> Record:
    """A plan by name."""

    def trigger(name: str) -> str:
        return "mark" if plan[f"{name}_on_mark"] else "last"

    def unless_negative(name: str) -> int | None:
        return int(plan[name]) if plan[name] >= 0 else None

    sizing = SIZINGS[int(plan["sizing_kind"])]
    return {
        "leverage": float(plan["leverage"]),
        "margin_buffer": float(plan["margin_buffer"]),
        "capital": float(plan["capital"]),
        "compounding": bool(plan["compounding"]),
        "sizing": {
            "kind": sizing,
            "amount" if sizing == "collateral" else "fraction": float(plan["sizing_value"]),
        },
        "stop": level_of(plan, "stop", series),
        "take_profit": level_of(plan, "target", series),
        "trailing_stop": None if np.isnan(plan["trail"]) else float(plan["trail"]),
        "stop_trigger": trigger("stop"),
        "trailing_trigger": trigger("trail"),
        "take_profit_trigger": trigger("target"),
        "max_holding": unless_negative("max_holding"),
        "max_trades": unless_negative("max_trades"),
        "margin_call": call_of(plan),
        "after_stop": "never" if plan["never_after_stop"] else "allowed",
        "after_liquidation": "never" if plan["never_after_liquidation"] else "allowed",
        "cool_down": int(plan["cool_down"]),
    }


# ---------------------------------------------------------------------------------- what the oracle answers
def phase_of(row: Record) -> int:
    """When inside its last bar the position ended."""
    if row["exit_reason"] == "end":
        return CLOSE
    return OPEN if row["phase"] == "B" else RANGE


def row_record(row: Record, lane: int, funding: list[float], inverse: bool) -> Record:
    """The columns of ROW; of an inverse contract with the side and the prices of the mirror. A refused order has no more than its
    lane, bar, side, collateral and cause.
    """
    bar = row["entry_bar"] or 0
    record = {
        "lane": lane,
        "entry_bar": bar,
        "exit_bar": bar,
        "side": -row["side"] if inverse else row["side"],
        "reason": REASONS.index(row["exit_reason"]),
        "rejection": REJECTIONS.index(row["rejection"] or ""),
        "collateral": row["collateral"],
    }
    if row["exit_reason"] == "rejected":
        return record
    return {
        **record,
        **{name: row[name] for name in SAME},
        **{name: row[other] for name, other in RENAMED.items()},
        **{name: row["closing"][name] for name in CLOSING},
        **row["before_exit"],
        "exit_bar": row["exit_bar"],
        "close_fee": row["closing"]["fee"],
        "phase": phase_of(row),
        "entry_funding": funding[bar],
        "exit_funding": funding[row["exit_bar"]],
        **row.get("readings", {}),
    }


def call_record(order: Record, row: int) -> Record:
    """The columns of CALL."""
    return {
        **order,
        "row": row,
        "action": CALLS.index(order["action"]),
        "phase": RANGE if order.get("phase") == "C" else OPEN,
        "margin_after": order["margin"],
        "quantity_after": order["quantity"],
        "quantity": order.get("sold", 0.0),
    }


def orders_of(row: Record) -> list[Record]:
    """Margin orders and steps of liquidation of a row, the last step included."""
    last = row.get("last_step")
    return [*row.get("margin_orders", ()), *([last] if last else [])]


def as_table(kind: np.dtype[np.void], records: list[Record]) -> Table:
    """Records as one table, 0 where a record is silent."""
    return table(
        kind, len(records), **{name: [one.get(name, 0) for one in records] for name in kind.names or ()}
    )


# ------------------------------------------------------------------------------------------------- driving
def run_lane(lane: Lane, policy: Record, given: Given) -> list[Record]:
    """The oracle's rows of one lane: a given position, or an account that follows signals."""
    bars, funding, signals, venue, rules = given
    start = int(lane["bar"])
    if lane["fixed_side"] == 0:
        return oracle.run_account(bars, funding, signals, policy, venue, rules, start)
    due = int(lane["exit_due"])
    order = {
        **policy,
        "side": int(-lane["fixed_side"] if venue["inverse"] else lane["fixed_side"]),
        "collateral": policy["sizing"]["amount"],
        "wallet": policy["capital"],
        "exit_due": due if due >= 0 else None,
    }
    found = start if start < len(bars) else None
    return [oracle.run_position(bars, funding, order, venue, rules, found)]


def run_naively(
    market: Market,
    rates: Rates,
    plans: Table,
    signals: Signals,
    lanes: Table,
    *,
    procedure: Procedure | None = None,
    progress: Progress | None = None,
    label: str = "",
) -> Outcome:
    """All lanes of one symbol to their end, on one thread. Raises `InputError` where there is too much to look at."""
    bars = market.time.size
    if bars > MOST_BARS or lanes.size * bars > MOST_ACCOUNT_BARS:
        raise InputError(
            f"engine = 'oracle': {lanes.size:,} accounts x {bars:,} bars of {label} = {lanes.size * bars:,}; allowed: at most "
            f"{MOST_BARS:,} bars and {MOST_ACCOUNT_BARS:,} accounts x bars, for plain Python looks at each; the engines skip "
            "and dense give the same result"
        )
    inverse = rates.terms.inverse
    funding, series = market.series[FUNDING].tolist(), series_of(signals, plans, inverse)
    paid = (0.0 - market.series[FUNDING]).tolist() if inverse else funding
    given = (
        bars_of(market, inverse),
        paid,
        signals_of(signals, inverse),
        venue_of(rates, procedure),
        rules_of(rates),
    )
    rows: list[Record] = []
    calls: list[Record] = []
    for number, lane in enumerate(lanes):
        for row in run_lane(lane, policy_of(plans[lane["plan"]], series), given):
            calls += [call_record(order, len(rows)) for order in orders_of(row)]
            rows.append(row_record(row, number, funding, inverse))
        if progress is not None:
            progress(label, number + 1, lanes.size)
    return Outcome(as_table(ROW, rows), as_table(CALL, calls))
