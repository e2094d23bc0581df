"""One position from its opening to its exit: §1-§6 and D1-D10. The arguments' shapes: see the room's front page."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .margin import (
    against,
    equity,
    grown,
    is_liquidated,
    is_liquidated_between,
    liquidation_price,
    required,
)
from .shapes import Bars, Leaving, Record
from .steps import placed, whole_lots

NUMBERS = (
    "entry_price", "quantity", "margin", "liquidation_price", "bankruptcy_price", "exit_price", "pnl",
    "funding", "fees", "liquidation_fee", "surplus", "deficit", "top_up", "cash_change", "total_return",
    "max_drawdown", "worst_margin_ratio",
)  # fmt: skip
NOTHING = dict.fromkeys(("pnl", "funding", "fee", "liquidation_fee", "surplus", "deficit", "back"), 0.0)


# ---------------------------------------------------------------------------------------------- funding (§1)
def snapped(stamp: int) -> int:
    """§1: a stamp that misses a whole minute by less than 5 s is that minute."""
    minute = (stamp + 30_000) // 60_000 * 60_000
    return minute if abs(stamp - minute) < 5_000 else stamp


def first_bar(bars: Bars, time: int) -> int | None:
    """The first bar with ts >= time, or None."""
    return next((i for i, bar in enumerate(bars) if bar["ts"] >= time), None)


def cumulative_funding(
    bars: Bars, events: Iterable[tuple[int, float]], price: str = "mark_open"
) -> list[float]:
    """§1: CF at each bar. `events`: (time, rate) pairs; one with no bar at or after it is never charged."""
    rates: list[list[float]] = [[] for _ in bars]
    for time, rate in sorted(((snapped(u), f) for u, f in events), key=lambda event: event[0]):
        i = first_bar(bars, time)
        if i is not None:
            rates[i].append(rate)
    total = 0.0
    result = []
    for bar, due in zip(bars, rates, strict=True):
        for rate in due:
            total = total + bar[price] * rate
        result.append(total)
    return result


# ---------------------------------------------------------------------------------------------- opening (§3)
def level(spec: Record | None, direction: int, entry: float, leverage: float, entry_bar: int) -> float | None:
    """§5, D2: the price of a stop (direction -s) or of a take-profit (direction +s), or None."""
    if spec is None:
        return None
    if spec["kind"] == "price":
        return entry * (1 + direction * spec["value"])
    if spec["kind"] == "margin":
        return entry * (1 + direction * (spec["value"] / leverage))
    known = spec["series"][entry_bar - 1]  # what the close before the fill showed
    return entry + direction * (spec["value"] * known) if spec["kind"] == "atr" else known


def open_position(
    bar: Record, cf: float, order: Record, venue: Record, rules: Record, entry_bar: int
) -> tuple[Record | None, str]:
    """§3, D1: (position, ""), or (None, why it is rejected)."""
    s, leverage, fee_rate = order["side"], order["leverage"], venue["taker_fee"]
    buffer = order.get("margin_buffer") or 0.0
    entry = bar["open"] * (1 + s * venue["slippage"])
    collateral = order["collateral"]
    notional = (collateral * leverage) / ((1 + buffer) + fee_rate * leverage)
    last_cap = venue["tiers"][-1]["cap"]
    oversized = notional > last_cap
    if oversized and rules.get("oversize", "reject") == "reject":
        return None, "notional_above_last_tier"
    if oversized:
        notional = last_cap
    quantity = notional / entry
    if venue.get("lot"):
        quantity, oversized = whole_lots(quantity, venue), True
        notional = min(quantity * entry, notional)  # lots round down; the product may round up
    if not quantity > 0:
        return None, "below_one_lot"
    margin = ((1 + buffer) * notional) / leverage
    fee = fee_rate * notional
    if oversized:
        collateral = margin + fee  # the rest was never needed
    tier = next(tier for tier in venue["tiers"] if tier["floor"] < notional <= tier["cap"])
    added = grown(quantity, venue)
    if added > 0 and (tier["rate"] + venue["close_out_rate"]) + added >= 1:
        return None, "notional_above_last_tier"  # no equity is enough
    allowed = 1 / (1 / tier["max_leverage"] + added) if added > 0 else tier["max_leverage"]
    if leverage > allowed:
        return None, "leverage_above_tier_maximum"
    stop = placed(level(order.get("stop"), -s, entry, leverage, entry_bar), s, venue)
    target = placed(level(order.get("take_profit"), +s, entry, leverage, entry_bar), s, venue)
    if (stop is not None and s * (entry - stop) <= 0) or (target is not None and s * (target - entry) <= 0):
        return None, "stop_beyond_entry"
    stop_trigger = order.get("stop_trigger") or "last"
    p = {
        "side": s, "leverage": leverage, "collateral": collateral, "entry": entry, "cf_entry": cf,
        "notional": notional, "margin": margin, "quantity": quantity, "entry_fee": fee,
        "stop": stop, "target": target, "trailing": order.get("trailing_stop"), "extreme": entry,
        "stop_trigger": stop_trigger,
        "trailing_trigger": order.get("trailing_trigger") or stop_trigger,
        "target_trigger": order.get("take_profit_trigger") or "last",
        "wallet": order.get("wallet", collateral) - collateral, "top_up": 0.0, "released": 0.0,
        "margin_orders": [], "peak": collateral, "drawdown": 0.0,
        "entry_bar": entry_bar, "worst_ratio": 0.0, "ratio_at_open": 0.0, "spared": False,
        "schedule": [], "final": None, "reduced_at": -1, "cool_until": -1, "cured_at": -1,
    }  # fmt: skip
    if is_liquidated(p, bar["mark_open"], cf, venue):
        return None, "liquidated_at_entry"
    return p, ""


# ------------------------------------------------------------------------ inside one bar (§2) and fills (§5)
def on(bar: Record, trigger: str, name: str) -> float:
    """A price of the bar on its trigger series."""
    return bar[name] if trigger == "last" else bar["mark_" + name]


def trailing_stop(p: Record) -> float:
    """§5: extreme (1 - s x)."""
    return p["extreme"] * (1 - p["side"] * p["trailing"])


def stretch(p: Record, price: float) -> None:
    """The trailing extreme takes in a price: the best so far for the position's side."""
    p["extreme"] = max(p["extreme"], price) if p["side"] > 0 else min(p["extreme"], price)


def in_favour(p: Record, price: float, threshold: float) -> bool:
    """Has `price` reached the target (rising for a long)?"""
    return price >= threshold if p["side"] > 0 else price <= threshold


def exit_at_open(
    p: Record, bar: Record, cf: float, venue: Record, rules: Record, time_due: bool, signal_due: bool
) -> Leaving | None:
    """§2 B: (reason, base, is it a limit fill) or None, in the order of the page."""
    opened = bar["open"]
    if is_liquidated(p, bar["mark_open"], cf, venue):
        return "liquidation", opened, False
    if p["stop"] is not None and against(p, on(bar, p["stop_trigger"], "open"), p["stop"]):
        return "stop_loss", opened, False
    if p["trailing"] is not None and against(p, on(bar, p["trailing_trigger"], "open"), trailing_stop(p)):
        return "trailing_stop", opened, False
    if p["target"] is not None and in_favour(p, on(bar, p["target_trigger"], "open"), p["target"]):
        if p["target_trigger"] == "mark":
            return "take_profit", opened, False
        jump = rules.get("take_profit_fill", "limit") == "open"
        return "take_profit", opened if jump else p["target"], True
    if time_due:
        return "time", opened, False
    if signal_due:
        return "signal", opened, False
    return None


def adverse_exit(p: Record, bar: Record, cf: float, venue: Record) -> Leaving | None:
    """§2 C: of the adverse thresholds crossed the one met first; ties: liquidation, stop, trailing."""
    s = p["side"]
    worst = "low" if s > 0 else "high"
    crossed = []
    if is_liquidated_between(p, bar["mark_low"], bar["mark_high"], cf, venue):
        threshold = liquidation_price(p, cf, venue, bar["mark_low"], bar["mark_high"])
        crossed.append((threshold, "liquidation"))
    if p["stop"] is not None and against(p, on(bar, p["stop_trigger"], worst), p["stop"]):
        crossed.append((p["stop"], "stop_loss"))
    if p["trailing"] is not None and against(p, on(bar, p["trailing_trigger"], worst), trailing_stop(p)):
        crossed.append((trailing_stop(p), "trailing_stop"))
    if not crossed:
        return None
    threshold, reason = crossed[0]
    for price, name in crossed[1:]:
        if (s > 0 and price > threshold) or (s < 0 and price < threshold):
            threshold, reason = price, name
    base = min(threshold, bar["open"]) if s > 0 else max(threshold, bar["open"])  # never better than the open
    return reason, clipped(base, bar), False


def favourable_exit(p: Record, bar: Record) -> Leaving | None:
    """§2 C, §5: the take-profit inside the range; on last a limit fill, on mark a market exit."""
    best = "high" if p["side"] > 0 else "low"
    if p["target"] is None or not in_favour(p, on(bar, p["target_trigger"], best), p["target"]):
        return None
    if p["target_trigger"] == "mark":
        return "take_profit", clipped(p["target"], bar), False
    return "take_profit", p["target"], True


def clipped(price: float, bar: Record) -> float:
    """A fill is a price that traded."""
    return min(max(price, bar["low"]), bar["high"])


def exit_in_range(p: Record, bar: Record, cf: float, venue: Record, rules: Record) -> Leaving | None:
    """§2 C: adverse before favourable, unless the run is optimistic."""
    if rules.get("intrabar", "pessimistic") == "optimistic":
        return favourable_exit(p, bar) or adverse_exit(p, bar, cf, venue)
    return adverse_exit(p, bar, cf, venue) or favourable_exit(p, bar)


def turnover_of(bar: Record) -> float:
    """What was traded in a bar; 0 where it is not known."""
    return bar["volume"] * bar["close"] if bar["volume"] is not None else 0.0


def slippage_of(reason: str, bar: Record, closed_notional: float, venue: Record) -> float:
    """§6, D6: flat for orders; half-spread + Y sigma sqrt(V / T) for a liquidation in a bar with turnover."""
    turnover = turnover_of(bar)
    if reason != "liquidation" or not turnover > 0:
        return venue["slippage"]
    impact = (venue["impact"] * bar["sigma"]) * math.sqrt(closed_notional / turnover)
    return min(venue["half_spread"] + impact, venue["max_slippage"])


# -------------------------------------------------------------------------------------------- waterfall (§6)
def waterfall(
    side: int, margin: float, quantity: float, entry: float, funding_per_unit: float, fill: float, reason: str,
    fee_rate: float, venue: Record,
) -> dict[str, float]:  # fmt: skip
    """§6, D7: who gets what is left of `margin` once `quantity` is closed at `fill`."""
    q = side * quantity
    left = (margin - q * funding_per_unit) + q * (fill - entry)
    out = {**NOTHING, "pnl": q * (fill - entry), "funding": -(q * funding_per_unit)}
    if left <= 0:
        return {**out, "deficit": abs(left)} if venue.get("protected", True) else {**out, "back": left}
    if reason == "end":
        return {**out, "back": left}
    out["fee"] = min(fee_rate * (quantity * fill), left)
    rest = left - out["fee"]
    if reason == "liquidation":
        out["liquidation_fee"] = min(venue["liquidation_fee"] * (quantity * fill), rest)
        rest = rest - out["liquidation_fee"]
        out["surplus"] = venue["surplus_to_fund"] * rest
        rest = rest - out["surplus"]
    out["back"] = rest
    return out


# ---------------------------------------------------------------------------------------- margin calls (D10)
def margin_order(
    p: Record, call: Record | None, bar: Record, cf: float, venue: Record
) -> tuple[str, float] | None:
    """§2 D: read at the close, done at the next open: ("top_up", money), ("deleverage", fraction), None."""
    done = sum(part["action"] in ("top_up", "deleverage") for part in p["margin_orders"])
    if call is None or done >= call["max_calls"]:
        return None
    left = equity(p, bar["mark_close"], cf)
    need = required(p, bar["mark_close"], venue)
    if not (left > 0 and need / left >= call["threshold"]):
        return None
    if call["action"] == "deleverage":
        return "deleverage", call["fraction"]
    amount = min(need / call["target"] - left, p["wallet"])
    return ("top_up", amount) if amount > 0 else None


def execute(p: Record, action: str, size: float, i: int, bar: Record, cf: float, venue: Record) -> None:
    """§2 B, last sentence: a top-up adds to m; closing a fraction leaves m (1 - g) and Q (1 - g)."""
    part = {**NOTHING, "back": -size}
    if action == "top_up":
        p["margin"] = p["margin"] + size
        p["wallet"] = p["wallet"] - size
        p["top_up"] = p["top_up"] + size
        p["peak"] = p["peak"] + size  # own money added is not a gain (D8)
    else:
        fill = bar["open"] * (1 - p["side"] * venue["slippage"])
        margin, quantity, moved = p["margin"] * size, p["quantity"] * size, cf - p["cf_entry"]
        part = waterfall(
            p["side"], margin, quantity, p["entry"], moved, fill, action, venue["taker_fee"], venue
        )
        p["released"] = p["released"] + part["back"]
        p["wallet"] = p["wallet"] + part["back"]
        p["margin"] = p["margin"] * (1 - size)
        p["quantity"] = p["quantity"] * (1 - size)
    p["margin_orders"].append(
        {**part, "bar": i, "action": action, "margin": p["margin"], "quantity": p["quantity"]}
    )


def see_value(p: Record, value: float) -> None:
    """D8: the running peak and the deepest fall below it."""
    p["peak"] = max(p["peak"], value)
    p["drawdown"] = max(p["drawdown"], (p["peak"] - value) / p["peak"])


# ------------------------------------------------------------------------------------------------ the row
def worst_at_exit(worst: float, at_open: float, left: Leaving | None, phase: str) -> float:
    """D9: the exit bar shows the ratio at its open only, and 1 if it liquidated the position in its range."""
    if left is None:
        return worst
    return max(worst, at_open, 1.0 if left[0] == "liquidation" and phase == "C" else 0.0)


def total(start: float, parts: list[Record], last: Record, name: str) -> float:
    """Money of the margin orders in time order, then of the closing."""
    for part in [*parts, last]:
        start = start + part[name]
    return start


def owed(parts: list[Record], last: Record) -> float:
    """What the trader owes, where nothing protects him: lost beyond the margin, by parts and by the rest."""
    return total(0.0, [{"owed": max(-part["back"], 0.0)} for part in parts if part["action"] != "top_up"],
                 {"owed": max(-last["back"], 0.0)}, "owed")  # fmt: skip


def rejected(order: Record, why: str, entry_bar: int | None) -> Record:
    """A row that says why there is no position."""
    row: Record = dict.fromkeys(NUMBERS)
    row.update(side=order["side"], leverage=order["leverage"], collateral=order["collateral"])
    row.update(exit_reason="rejected", rejection=why, entry_bar=entry_bar, exit_bar=None, phase=None)
    row.update(entry_time=None, exit_time=None, wallet=order.get("wallet"))
    return row
