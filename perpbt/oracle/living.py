"""A position bar by bar, from its opening to its exit and the row that tells of it: §2, §5, §6 and D7-D9."""

from __future__ import annotations

from .liquidating import Counting, by_procedure, final, next_slice
from .margin import equity, in_force, liquidation_price, margin_ratio, required
from .position import (
    NOTHING,
    execute,
    exit_at_open,
    exit_in_range,
    margin_order,
    on,
    open_position,
    owed,
    rejected,
    see_value,
    slippage_of,
    stretch,
    total,
    turnover_of,
    waterfall,
    worst_at_exit,
)
from .shapes import Bars, Leaving, Record, Values


def shared(
    p: Record, margin: float, quantity: float, cf: float, fill: float, reason: str, fee_rate: float, venue: Record
) -> dict[str, float]:  # fmt: skip
    """The waterfall of so much of a position."""
    return waterfall(
        p["side"], margin, quantity, p["entry"], cf - p["cf_entry"], fill, reason, fee_rate, venue
    )


LINEAR = Counting(
    read=lambda price: price, gains=1, equity=equity, required=required, margin_ratio=margin_ratio,
    liquidation=liquidation_price, moved=lambda price, share: price * (1 + share), turnover=turnover_of, slippage_of=slippage_of, waterfall=shared,
)  # fmt: skip


def run_position(
    bars: Bars, cf: Values, order: Record, venue: Record, rules: Record, entry_bar: int | None,
    crowd_notional: float | None = None,
) -> Record:  # fmt: skip
    """One position from its opening at `bars[entry_bar]` (None: no such bar) to its exit, §2-§6.

    `crowd_notional` is what its world liquidates beside it (§6 `crowding`); None: its own Q x base.
    """
    if entry_bar is None:
        return rejected(order, "no_bar", None)
    rule_book, venue = venue, in_force(venue, entry_bar)
    p, why = open_position(bars[entry_bar], cf[entry_bar], order, venue, rules, entry_bar)
    if p is None:
        return rejected(order, why, entry_bar)
    p["counting"] = LINEAR
    at_entry = told_at_entry(p, cf[entry_bar], venue)
    p["worst_ratio"] = margin_ratio(p, bars[entry_bar]["mark_open"], cf[entry_bar], venue)
    pending, left, phase, i = None, None, "C", entry_bar
    for i in range(entry_bar, len(bars)):
        bar, venue, phase = bars[i], in_force(rule_book, i), "B"
        if p["schedule"]:  # an orderly exit goes on: nothing else matters any more
            left = next_slice(p, i, bars, cf, venue)
        else:
            p["spared"] = False
            # A: cf[i] already holds the funding charged at this open.
            stretch(p, on(bar, p["trailing_trigger"], "open"))
            if i > entry_bar:  # B: only for a position carried in
                p["ratio_at_open"] = margin_ratio(p, bar["mark_open"], cf[i], venue)
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
    return {
        "entry_price": p["entry"], "quantity": p["quantity"], "margin": p["margin"],
        "liquidation_price": liquidation_price(p, cf, venue),
        "bankruptcy_price": p["entry"] - p["side"] * (p["margin"] / p["quantity"]),
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


def taken_over(p: Record, moved: float) -> tuple[float, Record]:
    """§7: the fund takes the position at its bankruptcy price; nothing is left, and nothing is owed."""
    paid = (p["side"] * p["quantity"]) * moved
    price = (p["entry"] - p["side"] * (p["margin"] / p["quantity"])) + moved
    return price, {**NOTHING, "pnl": -(p["margin"] - paid), "funding": -paid}


def at_close(
    p: Record, order: Record, i: int, bar: Record, cf: float, venue: Record
) -> tuple[str, float] | None:
    """§2 D: what is remembered of a bar the position has survived, and the margin order decided at its close."""
    adverse_extreme = "mark_low" if p["side"] > 0 else "mark_high"
    p["worst_ratio"] = max(p["worst_ratio"], margin_ratio(p, bar[adverse_extreme], cf, venue))
    stretch(p, on(bar, p["trailing_trigger"], "high" if p["side"] > 0 else "low"))
    see_value(p, p["released"] + equity(p, bar["mark_close"], cf))
    return margin_order(p, order.get("margin_call"), bar, cf, venue)


def closed(
    p: Record, at_entry: Record, bars: Bars, cf: Values, venue: Record, span: tuple[int, int], left: Leaving | None,
    phase: str, crowd_notional: float | None,
) -> Record:  # fmt: skip
    """§5, §6: the fill of the last closing, its waterfall, and the row of the whole position."""
    entry_bar, i = span
    bar = bars[i]
    reason, base, is_limit = left or ("end", bar["mark_close"], False)
    fill = base
    if reason != "end" and not is_limit:
        volume = p["quantity"] * base if crowd_notional is None else crowd_notional
        fill = base * (1 - p["side"] * slippage_of(reason, bar, volume, venue))
    fee_rate = venue["maker_fee"] if is_limit else venue["taker_fee"]
    moved, before = cf[i] - p["cf_entry"], {"peak": p["peak"], "drawdown": p["drawdown"]}
    last = waterfall(p["side"], p["margin"], p["quantity"], p["entry"], moved, fill, reason, fee_rate, venue)
    if p["final"]:
        base, fill, last = final(p, bar, cf[i], venue)
    if reason == "liquidation" and venue.get("fund_hold") is not None:
        fill, last = taken_over(p, moved)
    see_value(p, p["released"] + last["back"])
    parts, invested = p["margin_orders"], p["collateral"] + p["top_up"]
    cash_change = (p["released"] + last["back"]) - invested
    return {
        "side": p["side"], "leverage": p["leverage"], "collateral": p["collateral"], **at_entry,
        "entry_time": bars[entry_bar]["ts"], "exit_time": bar["ts"], "entry_bar": entry_bar, "exit_bar": i,
        "phase": phase, "exit_price": fill, "exit_reason": reason, "rejection": None,
        "pnl": total(0.0, parts, last, "pnl"), "funding": total(0.0, parts, last, "funding"),
        "fees": total(p["entry_fee"], parts, last, "fee"),
        "liquidation_fee": total(0.0, parts, last, "liquidation_fee"),
        "surplus": total(0.0, parts, last, "surplus"), "deficit": total(0.0, parts, last, "deficit"), "top_up": p["top_up"],
        "owed": owed(parts, last),
        "cash_change": cash_change, "total_return": cash_change / invested, "max_drawdown": p["drawdown"],
        "notional": p["notional"], "entry_fee": p["entry_fee"], "exit_quantity": p["quantity"],
        "exit_margin": p["margin"], "base": base, "margin_orders": parts, "released": p["released"],
        "closing": last, "last_step": p.get("last_step"), "before_exit": before, "wallet": p["wallet"] + last["back"],
    }  # fmt: skip
