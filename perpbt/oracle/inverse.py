"""One position in an inverse contract: quantity Q in quote currency, everything it pays and earns in coin (§4, "Inverse").

A long has q = +Q, a short q = -Q, and its profit is q (1/entry - 1/P). The rule's rounding: every price is read once as its
reading 1/P, every figure is worked out in readings, left to right as written here, and a price of the row is 1 / its reading. Levels
and fills are shares of the price: a stop x below the entry is entry (1 - x), so its reading is (1/entry) / (1 - x). A stop stated as
a share x of the margin is where the loss is x of notional / leverage, in coin. CF = sum of rate / mark open. `volume` is in coin.

For a long readings rise as it loses: a low is the greatest reading of its bar.
"""

from __future__ import annotations

import math

from .liquidating import Counting, by_procedure, final, next_slice
from .margin import in_force
from .position import NOTHING, owed, rejected, see_value, total, worst_at_exit
from .readings import (
    Reading,
    against,
    equity,
    is_liquidated,
    is_liquidated_between,
    liquidation_reading,
    margin_ratio,
    price_of,
    reading,
    required,
    ticked,
)
from .shapes import Bars, Leaving, Record, Values
from .steps import whole_lots


# ---------------------------------------------------------------------------------------------- opening (§3)
def fill_reading(at: Reading, share: float) -> Reading:
    """Of the price P (1 + share)."""
    return at / (1 + share)


def level(
    spec: Record | None, direction: int, entry: Reading, leverage: float, entry_bar: int, venue: Record, side: int
) -> Reading | None:  # fmt: skip
    """The reading of a stop (direction -s) or take-profit (direction +s), or None."""
    if spec is None:
        return None
    if spec["kind"] == "margin":
        at = entry * (1 - direction * (spec["value"] / leverage))
    elif spec["kind"] == "price":
        at = fill_reading(entry, direction * spec["value"])
    elif spec["kind"] == "atr":
        price = 1 / entry + direction * (spec["value"] * spec["series"][entry_bar - 1])
        at = 1 / price if price > 0 else math.inf
    else:
        at = reading(spec["series"][entry_bar - 1])
    return ticked(at, side, venue)


def size(policy: Record, side: int, wallet: float, bar: Record, venue: Record, fill_bar: int) -> float:
    """D11: the collateral of the next trade, in coin; a risked fraction is of the wallet's coin."""
    sizing, leverage = policy["sizing"], policy["leverage"]
    if sizing["kind"] == "collateral":
        return min(sizing["amount"], wallet)
    if sizing["kind"] == "equity":
        return sizing["fraction"] * wallet
    entry = fill_reading(reading(bar["open"]), side * venue["slippage"])
    stop = level(policy["stop"], -side, entry, leverage, fill_bar, venue, side)
    distance = abs(entry - stop) / entry if stop is not None else 0.0
    if distance == 0:
        return wallet
    notional = (sizing["fraction"] * wallet) / distance
    buffer = policy.get("margin_buffer") or 0.0
    return min((notional * ((1 + buffer) + venue["taker_fee"] * leverage)) / leverage, wallet)


def open_position(
    bar: Record, cf: float, order: Record, venue: Record, rules: Record, entry_bar: int
) -> tuple[Record | None, str]:
    """§3: (position, ""), or (None, why it is rejected). Q = N entry: the face value that N coin is worth."""
    s, leverage, fee_rate = order["side"], order["leverage"], venue["taker_fee"]
    buffer = order.get("margin_buffer") or 0.0
    entry = fill_reading(reading(bar["open"]), s * venue["slippage"])
    collateral = order["collateral"]
    notional = (collateral * leverage) / ((1 + buffer) + fee_rate * leverage)
    last_cap = venue["tiers"][-1]["cap"]
    cut = notional > last_cap
    if cut and rules.get("oversize", "reject") == "reject":
        return None, "notional_above_last_tier"
    if cut:
        notional = last_cap
    quantity = notional / entry
    if venue.get("lot"):
        quantity, cut = whole_lots(quantity, venue), True
        notional = min(quantity * entry, notional)  # lots round down; the product may round up
    if not quantity > 0:
        return None, "below_one_lot"
    margin = ((1 + buffer) * notional) / leverage
    fee = fee_rate * notional
    tier = next(tier for tier in venue["tiers"] if tier["floor"] < notional <= tier["cap"])
    added = venue.get("per_unit", 0.0) * notional
    if added > 0 and (tier["rate"] + venue["close_out_rate"]) + added >= 1:
        return None, "notional_above_last_tier"  # no equity is enough
    allowed = 1 / (1 / tier["max_leverage"] + added) if added > 0 else tier["max_leverage"]
    if leverage > allowed:
        return None, "leverage_above_tier_maximum"
    stop = level(order.get("stop"), -s, entry, leverage, entry_bar, venue, s)
    target = level(order.get("take_profit"), +s, entry, leverage, entry_bar, venue, s)
    if (stop is not None and s * (stop - entry) <= 0) or (target is not None and s * (entry - target) <= 0):
        return None, "stop_beyond_entry"
    collateral = margin + fee if cut else collateral
    stop_trigger = order.get("stop_trigger") or "last"
    p = {
        "side": s, "leverage": leverage, "collateral": collateral, "entry": entry, "cf_entry": cf,
        "notional": notional, "margin": margin, "quantity": quantity, "entry_fee": fee,
        "stop": stop, "target": target, "trailing": order.get("trailing_stop"), "extreme": entry,
        "stop_trigger": stop_trigger,
        "trailing_trigger": order.get("trailing_trigger") or stop_trigger,
        "target_trigger": order.get("take_profit_trigger") or "last",
        "wallet": order.get("wallet", collateral) - collateral, "top_up": 0.0, "released": 0.0,
        "margin_orders": [], "peak": collateral, "drawdown": 0.0, "counting": INVERSE,
        "entry_bar": entry_bar, "worst_ratio": 0.0, "ratio_at_open": 0.0, "spared": False,
        "schedule": [], "final": None, "reduced_at": -1, "cool_until": -1, "cured_at": -1,
    }  # fmt: skip
    if is_liquidated(p, reading(bar["mark_open"]), cf, venue):
        return None, "liquidated_at_entry"
    return p, ""


# ------------------------------------------------------------------------ inside one bar (§2) and fills (§5)
def on(bar: Record, trigger: str, name: str) -> Reading:
    """A price of the bar on its trigger series, read."""
    return reading(bar[name] if trigger == "last" else bar["mark_" + name])


def trailing_stop(p: Record) -> Reading:
    """Of the price extreme (1 - s x)."""
    best: Reading = p["extreme"]
    return best * (1 / (1 - p["side"] * p["trailing"]))


def stretch(p: Record, at: Reading) -> None:
    """The best price so far: the least reading for a long."""
    p["extreme"] = min(p["extreme"], at) if p["side"] > 0 else max(p["extreme"], at)


def in_favour(p: Record, at: Reading, threshold: Reading) -> bool:
    """Has a winning price reached the target?"""
    return at <= threshold if p["side"] > 0 else at >= threshold


def exit_at_open(
    p: Record, bar: Record, cf: float, venue: Record, rules: Record, time_due: bool, signal_due: bool
) -> Leaving | None:
    """§2 B, in the order of the page."""
    opened = reading(bar["open"])
    if is_liquidated(p, reading(bar["mark_open"]), cf, venue):
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
    return ("signal", opened, False) if signal_due else None


def adverse_exit(p: Record, bar: Record, cf: float, venue: Record) -> Leaving | None:
    """§2 C: of the adverse thresholds crossed the one met first; ties: liquidation, stop, trailing."""
    s = p["side"]
    worst = "low" if s > 0 else "high"
    crossed = []
    least, greatest = reading(bar["mark_high"]), reading(bar["mark_low"])
    if is_liquidated_between(p, least, greatest, cf, venue):
        crossed.append((liquidation_reading(p, cf, venue, least, greatest), "liquidation"))
    if p["stop"] is not None and against(p, on(bar, p["stop_trigger"], worst), p["stop"]):
        crossed.append((p["stop"], "stop_loss"))
    if p["trailing"] is not None and against(p, on(bar, p["trailing_trigger"], worst), trailing_stop(p)):
        crossed.append((trailing_stop(p), "trailing_stop"))
    if not crossed:
        return None
    threshold, reason = crossed[0]
    for at, name in crossed[1:]:
        if (s > 0 and at < threshold) or (s < 0 and at > threshold):  # a higher price for a long
            threshold, reason = at, name
    opened = reading(bar["open"])
    return reason, clipped(max(threshold, opened) if s > 0 else min(threshold, opened), bar), False


def favourable_exit(p: Record, bar: Record) -> Leaving | None:
    """§2 C, §5: the take-profit inside the range."""
    best = "high" if p["side"] > 0 else "low"
    if p["target"] is None or not in_favour(p, on(bar, p["target_trigger"], best), p["target"]):
        return None
    if p["target_trigger"] == "mark":
        return "take_profit", clipped(p["target"], bar), False
    return "take_profit", p["target"], True


def clipped(at: Reading, bar: Record) -> Reading:
    """A fill is a price that traded."""
    return min(max(at, reading(bar["high"])), reading(bar["low"]))


def exit_in_range(p: Record, bar: Record, cf: float, venue: Record, rules: Record) -> Leaving | None:
    """§2 C: adverse before favourable, unless the run is optimistic."""
    if rules.get("intrabar", "pessimistic") == "optimistic":
        return favourable_exit(p, bar) or adverse_exit(p, bar, cf, venue)
    return adverse_exit(p, bar, cf, venue) or favourable_exit(p, bar)


def turnover_of(bar: Record) -> float:
    """In coin, which volumes are in; 0 where it is not known."""
    volume: float = bar["volume"] if bar["volume"] is not None else 0.0
    return volume


def slippage_of(reason: str, bar: Record, closed_notional: float, venue: Record) -> float:
    """§6: V and the bar's turnover both in coin."""
    turnover = turnover_of(bar)
    if reason != "liquidation" or not turnover > 0:
        flat: float = venue["slippage"]
        return flat
    impact = (venue["impact"] * bar["sigma"]) * math.sqrt(closed_notional / turnover)
    return min(venue["half_spread"] + impact, venue["max_slippage"])


# ------------------------------------------------------------------------- waterfall (§6), margin calls (D10)
def waterfall(
    p: Record, margin: float, quantity: float, cf: float, fill: Reading, reason: str, fee_rate: float, venue: Record
) -> dict[str, float]:  # fmt: skip
    """Who gets what is left of `margin`, in coin, once `quantity` is closed at the price of `fill`."""
    q = p["side"] * quantity
    profit, paid = q * (p["entry"] - fill), q * (cf - p["cf_entry"])
    left = (margin - paid) + profit
    out = {**NOTHING, "pnl": profit, "funding": -paid}
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


def margin_order(
    p: Record, call: Record | None, bar: Record, cf: float, venue: Record
) -> tuple[str, float] | None:
    """Read at the close, done at the next open: ("top_up", coin), ("deleverage", fraction), None."""
    done = sum(part["action"] in ("top_up", "deleverage") for part in p["margin_orders"])
    if call is None or done >= call["max_calls"]:
        return None
    at = reading(bar["mark_close"])
    left, need = equity(p, at, cf), required(p, at, venue)
    if not (left > 0 and need / left >= call["threshold"]):
        return None
    if call["action"] == "deleverage":
        return "deleverage", call["fraction"]
    amount = min(need / call["target"] - left, p["wallet"])
    return ("top_up", amount) if amount > 0 else None


def execute(p: Record, action: str, amount: float, i: int, bar: Record, cf: float, venue: Record) -> None:
    """§2 B, last sentence."""
    part = {**NOTHING, "back": -amount}
    if action == "top_up":
        p["margin"], p["wallet"] = p["margin"] + amount, p["wallet"] - amount
        p["top_up"], p["peak"] = p["top_up"] + amount, p["peak"] + amount
    else:
        fill = fill_reading(reading(bar["open"]), -(p["side"] * venue["slippage"]))
        margin, quantity = p["margin"] * amount, p["quantity"] * amount
        part = waterfall(p, margin, quantity, cf, fill, action, venue["taker_fee"], venue)
        p["released"], p["wallet"] = p["released"] + part["back"], p["wallet"] + part["back"]
        p["margin"], p["quantity"] = p["margin"] * (1 - amount), p["quantity"] * (1 - amount)
    p["margin_orders"].append(
        {**part, "bar": i, "action": action, "margin": p["margin"], "quantity": p["quantity"]}
    )


# ---------------------------------------------------------------------------------------------- one position
def run_position(
    bars: Bars, cf: Values, order: Record, venue: Record, rules: Record, entry_bar: int | None,
    crowd_notional: float | None = None,
) -> Record:  # fmt: skip
    """As `position.run_position`. `cf` is the sum of rate / mark open; money of order and row is coin."""
    if entry_bar is None:
        return rejected(order, "no_bar", None)
    rule_book, venue = venue, in_force(venue, entry_bar)
    p, why = open_position(bars[entry_bar], cf[entry_bar], order, venue, rules, entry_bar)
    if p is None:
        return rejected(order, why, entry_bar)
    at_entry = told_at_entry(p, cf[entry_bar], venue)
    p["worst_ratio"] = margin_ratio(p, reading(bars[entry_bar]["mark_open"]), cf[entry_bar], venue)
    pending, left, phase, i = None, None, "C", entry_bar
    for i in range(entry_bar, len(bars)):
        bar, venue, phase = bars[i], in_force(rule_book, i), "B"
        if p["schedule"]:  # an orderly exit goes on: nothing else matters any more
            left = next_slice(p, i, bars, cf, venue)
        else:
            p["spared"] = False
            stretch(p, on(bar, p["trailing_trigger"], "open"))
            if i > entry_bar:
                p["ratio_at_open"] = margin_ratio(p, reading(bar["mark_open"]), cf[i], venue)
                left = leave_at_open(p, order, i, bars, cf, venue, rules)
        if left:
            break
        if p["schedule"]:
            continue
        if pending:
            execute(p, *pending, i, bar, cf[i], venue)
        left, phase = leave_in_range(p, i, bars, cf, venue, rules), "C"
        if left:
            break
        if not p["schedule"]:
            pending = at_close(p, order, i, bar, cf[i], venue)
    return closed(p, at_entry, bars, cf, venue, (entry_bar, i), left, phase, crowd_notional) | {
        "worst_margin_ratio": worst_at_exit(p["worst_ratio"], p["ratio_at_open"], left, phase),
        "refill": lambda crowd: run_position(bars, cf, order, rule_book, rules, entry_bar, crowd),
    }


def told_at_entry(p: Record, cf: float, venue: Record) -> Record:
    """What the row says of the opening."""
    bankrupt = p["entry"] + p["side"] * (p["margin"] / p["quantity"])
    liquidated = liquidation_reading(p, cf, venue)
    return {
        "entry_price": price_of(p["entry"]), "quantity": p["quantity"], "margin": p["margin"],
        "liquidation_price": price_of(liquidated), "bankruptcy_price": price_of(bankrupt),
        "readings": {"entry": p["entry"], "liquidation_price": liquidated},
    }  # fmt: skip


def leave_at_open(
    p: Record, order: Record, i: int, bars: Bars, cf: Values, venue: Record, rules: Record
) -> Leaving | None:
    """§2 B, liquidations by the venue's procedure."""
    bar = bars[i]
    time_due = order.get("exit_due") is not None and bar["ts"] >= order["exit_due"]
    signal_due = order.get("exit_signal") is not None and order["exit_signal"][i - 1]

    def find() -> Leaving | None:
        return exit_at_open(p, bar, cf[i], venue, rules, time_due, signal_due)

    return by_procedure(p, find, "B", i, bars, cf, venue)


def leave_in_range(p: Record, i: int, bars: Bars, cf: Values, venue: Record, rules: Record) -> Leaving | None:
    """§2 C, liquidations by the venue's procedure."""

    def find() -> Leaving | None:
        return exit_in_range(p, bars[i], cf[i], venue, rules)

    return by_procedure(p, find, "C", i, bars, cf, venue)


def at_close(
    p: Record, order: Record, i: int, bar: Record, cf: float, venue: Record
) -> tuple[str, float] | None:
    """§2 D: what is remembered of a bar the position has survived, and the margin order decided at its close."""
    adverse_extreme = "mark_low" if p["side"] > 0 else "mark_high"
    p["worst_ratio"] = max(p["worst_ratio"], margin_ratio(p, reading(bar[adverse_extreme]), cf, venue))
    stretch(p, on(bar, p["trailing_trigger"], "high" if p["side"] > 0 else "low"))
    see_value(p, p["released"] + equity(p, reading(bar["mark_close"]), cf))
    return margin_order(p, order.get("margin_call"), bar, cf, venue)


def closed(
    p: Record, at_entry: Record, bars: Bars, cf: Values, venue: Record, span: tuple[int, int], left: Leaving | None,
    phase: str, crowd_notional: float | None,
) -> Record:  # fmt: skip
    """The fill of the last closing, its waterfall, and the row of the whole position; `base` is a reading."""
    entry_bar, i = span
    bar = bars[i]
    reason, base, is_limit = left or ("end", reading(bar["mark_close"]), False)
    fill = base
    if reason != "end" and not is_limit:
        volume = p["quantity"] * base if crowd_notional is None else crowd_notional
        fill = fill_reading(base, -(p["side"] * slippage_of(reason, bar, volume, venue)))
    fee_rate = venue["maker_fee"] if is_limit else venue["taker_fee"]
    before = {"peak": p["peak"], "drawdown": p["drawdown"]}
    last = waterfall(p, p["margin"], p["quantity"], cf[i], fill, reason, fee_rate, venue)
    if p["final"]:
        base, fill, last = final(p, bar, cf[i], venue)
    see_value(p, p["released"] + last["back"])
    parts, invested = p["margin_orders"], p["collateral"] + p["top_up"]
    cash_change = (p["released"] + last["back"]) - invested
    readings = {**at_entry["readings"], "fill": fill, "base": base}
    return {
        "side": p["side"], "leverage": p["leverage"], "collateral": p["collateral"], **at_entry,
        "entry_time": bars[entry_bar]["ts"], "exit_time": bar["ts"], "entry_bar": entry_bar, "exit_bar": i,
        "phase": phase, "exit_price": price_of(fill), "exit_reason": reason, "rejection": None,
        "pnl": total(0.0, parts, last, "pnl"), "funding": total(0.0, parts, last, "funding"),
        "fees": total(p["entry_fee"], parts, last, "fee"),
        "liquidation_fee": total(0.0, parts, last, "liquidation_fee"),
        "surplus": total(0.0, parts, last, "surplus"), "deficit": total(0.0, parts, last, "deficit"), "top_up": p["top_up"],
        "owed": owed(parts, last),
        "cash_change": cash_change, "total_return": cash_change / invested, "max_drawdown": p["drawdown"],
        "notional": p["notional"], "entry_fee": p["entry_fee"], "exit_quantity": p["quantity"],
        "exit_margin": p["margin"], "base": base, "margin_orders": parts, "released": p["released"],
        "closing": last, "last_step": p.get("last_step"), "before_exit": before, "wallet": p["wallet"] + last["back"], "readings": readings,
    }  # fmt: skip


INVERSE = Counting(
    read=reading, gains=-1, equity=equity, required=required, margin_ratio=margin_ratio, liquidation=liquidation_reading,
    moved=fill_reading, turnover=turnover_of, slippage_of=slippage_of, waterfall=waterfall,
)  # fmt: skip
