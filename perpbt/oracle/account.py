"""One account of door b: signals, sizing, re-entry and the wallet (D11)."""

from __future__ import annotations

import math

from . import inverse, living
from .position import level
from .shapes import Bars, Record, Values
from .steps import placed

FOR_GOOD = ("notional_above_last_tier", "leverage_above_tier_maximum")


def run_account(
    bars: Bars, cf: Values, signals: Record, policy: Record, venue: Record, rules: Record, start_bar: int
) -> list[Record]:
    """The positions of one account: signals read at closes from `start_bar` on, filled at the next open.

    `signals`: "long_entry", "long_exit", "short_entry", "short_exit", each a bool per bar. `policy`: an
    order without side, collateral, exit_due, exit_signal and wallet, and besides capital, compounding,
    sizing ({"kind": "collateral", "amount"} | {"kind": "equity" | "risk", "fraction"}), max_holding (ms or
    None), after_stop and after_liquidation ("allowed" | "never"), cool_down (ms), max_trades (None or a
    number).
    """
    rows: list[Record] = []
    rulebook = inverse if venue.get("inverse") else living
    state = fresh(policy, bars, start_bar)
    while state["close"] + 1 < len(bars) and not state["out"]:
        fill_bar = state["close"] + 1
        order = decide(policy, signals, state, bars, bars[fill_bar], venue)
        if order is not None:
            row = rulebook.run_position(bars, cf, order, venue, rules, fill_bar)
            rows += [{**row, "position": len(rows) + 1}] if note(policy, state, row, fill_bar) else []
    return rows


def fresh(policy: Record, bars: Bars, start_bar: int) -> Record:
    """An account that has not traded yet: "close" is the next close it reads."""
    return {
        "wallet": policy["capital"], "not_before": bars[0]["ts"], "close": start_bar, "trades": 0, "refused": None,
        "out": policy.get("max_trades") == 0,
    }  # fmt: skip


def decide(
    policy: Record, signals: Record, state: Record, bars: Bars, quoted: Record, venue: Record
) -> Record | None:
    """What the next close says: an order for the bar after it, which is `quoted` (prices may have been pushed), or nothing; then it has
    been read.
    """
    i = state["close"]
    fill_bar = i + 1
    side = int(signals["long_entry"][i]) - int(signals["short_entry"][i])  # both at once: neither
    if side == 0 or bars[fill_bar]["ts"] < state["not_before"] or not levels_known(policy, i, venue):
        state["close"] = fill_bar
        return None
    if not policy.get("compounding", False):
        state["wallet"] = policy["capital"]
    if state["wallet"] <= 0:
        state["out"] = True
        return None
    holding = policy.get("max_holding")
    sized = inverse.size if venue.get("inverse") else size
    return {
        **policy, "side": side, "wallet": state["wallet"],
        "collateral": sized(policy, side, state["wallet"], quoted, venue, fill_bar),
        "exit_due": None if holding is None else bars[fill_bar]["ts"] + holding,
        "exit_signal": signals["long_exit"] if side > 0 else signals["short_exit"],
    }  # fmt: skip


def note(policy: Record, state: Record, row: Record, fill_bar: int) -> bool:
    """What follows from a finished position or a refused order; says whether it is a row: of refusals for one cause in a row, the first."""
    reason = row["exit_reason"]
    if reason == "rejected":
        again = row["rejection"] == state["refused"]
        state["refused"] = row["rejection"]
        state["out"] = row["rejection"] in FOR_GOOD and same_size(policy)
        state["close"] = fill_bar  # try again at the close of the bar that would not fill
        return not again
    state["trades"], state["refused"], state["wallet"] = state["trades"] + 1, None, row["wallet"]
    stopped, liquidated = reason in ("stop_loss", "trailing_stop"), reason == "liquidation"
    never = (stopped and policy.get("after_stop") == "never") or (
        liquidated and policy.get("after_liquidation") == "never"
    )
    state["out"] = never or reason == "end" or state["trades"] == policy.get("max_trades")
    if stopped or liquidated:
        state["not_before"] = row["exit_time"] + policy.get("cool_down", 0)
    state["close"] = row["exit_bar"]
    if reason in ("time", "signal"):
        state["close"] -= 1  # out at this open, so what the close before said can be filled at this same open
    return True


def same_size(policy: Record) -> bool:
    """Is every order of this account of one size, so that what refuses one by its size refuses all?"""
    return not policy.get("compounding", False) and policy["sizing"]["kind"] != "risk"


def levels_known(policy: Record, close: int, venue: Record) -> bool:
    """False while an ATR or a column that a stop or target needs is no finite number at the deciding close, or a price of an inverse
    contract not above 0.
    """
    specs = [spec for spec in (policy.get("stop"), policy.get("take_profit")) if spec and "series" in spec]
    for spec in specs:
        value = spec["series"][close]
        if value is None or not math.isfinite(value):
            return False
        if venue.get("inverse") and spec["kind"] == "column" and value <= 0:
            return False
    return True


def size(policy: Record, side: int, wallet: float, bar: Record, venue: Record, fill_bar: int) -> float:
    """D11: the collateral of the next trade."""
    sizing, leverage = policy["sizing"], policy["leverage"]
    if sizing["kind"] == "collateral":
        return min(sizing["amount"], wallet)
    if sizing["kind"] == "equity":
        return sizing["fraction"] * wallet
    entry = bar["open"] * (1 + side * venue["slippage"])
    stop = placed(level(policy["stop"], -side, entry, leverage, fill_bar), side, venue)
    distance = abs(entry - stop) / entry
    if distance == 0:
        return wallet
    notional = (sizing["fraction"] * wallet) / distance
    buffer = policy.get("margin_buffer") or 0.0
    return min((notional * ((1 + buffer) + venue["taker_fee"] * leverage)) / leverage, wallet)
