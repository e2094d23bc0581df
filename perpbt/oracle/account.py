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
    wallet, not_before, i, trades, refused = policy["capital"], bars[0]["ts"], start_bar, 0, None
    while i + 1 < len(bars) and trades != policy.get("max_trades"):
        side = int(signals["long_entry"][i]) - int(signals["short_entry"][i])  # both at once: neither
        fill_bar = i + 1
        if side == 0 or bars[fill_bar]["ts"] < not_before or not levels_known(policy, i, venue):
            i = i + 1
            continue
        if not policy.get("compounding", False):
            wallet = policy["capital"]
        if wallet <= 0:
            break
        holding = policy.get("max_holding")
        order = {
            **policy, "side": side, "wallet": wallet,
            "collateral": (inverse.size if venue.get("inverse") else size)(policy, side, wallet, bars[fill_bar], venue, fill_bar),
            "exit_due": None if holding is None else bars[fill_bar]["ts"] + holding,
            "exit_signal": signals["long_exit"] if side > 0 else signals["short_exit"],
        }  # fmt: skip
        row = rulebook.run_position(bars, cf, order, venue, rules, fill_bar)
        reason, i = row["exit_reason"], row["exit_bar"]
        again = reason == "rejected" and row["rejection"] == refused
        if not again:  # of refusals for one cause in a row, the first
            rows.append({**row, "position": len(rows) + 1})
        if reason == "rejected":
            refused = row["rejection"]
            if refused in FOR_GOOD and same_size(policy):
                break
            i = fill_bar  # try again at the close of the bar that would not fill
            continue
        trades, refused = trades + 1, None
        wallet = row["wallet"]
        stopped, liquidated = reason in ("stop_loss", "trailing_stop"), reason == "liquidation"
        if (stopped and policy.get("after_stop") == "never") or reason == "end":
            break
        if liquidated and policy.get("after_liquidation") == "never":
            break
        if stopped or liquidated:
            not_before = row["exit_time"] + policy.get("cool_down", 0)
        if reason in ("time", "signal"):
            i = i - 1  # out at this open, so what the close before said can be filled at this same open
    return rows


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
