"""When an order of its own closes a leg of a shared wallet (§2, §5): stop, trailing stop, take-profit, time. Shapes: see `.cross`."""

from __future__ import annotations

import math

from .shapes import Record


def on(bar: Record, trigger: str, name: str) -> float:
    """A price of the bar on its trigger series."""
    return bar[name] if trigger == "last" else bar["mark_" + name]


def stretch(a: Record, leg: Record, t: int, name: str) -> None:
    """The extreme behind a trailing stop takes in a price of bar t: the best so far for the leg's side."""
    best = max if leg["side"] > 0 else min
    leg["extreme"] = best(leg["extreme"], on(a["bars"][leg["symbol"]][t], leg["trailing_trigger"], name))


def trailing_level(leg: Record, bar: Record) -> float | None:
    """§5: extreme (1 - s x), x of the price; None without a trailing stop, and where the symbol has no bar of its own: nothing trades there."""
    if leg["trailing"] is None or math.isnan(bar["sigma"]):
        return None
    level: float = leg["extreme"] * leg["factor"]
    return level


def exit_at_open(a: Record, leg: Record, t: int) -> tuple[str, float, bool] | None:
    """§2 B: stop, trailing stop, take-profit, time: (reason, base, limit fill)."""
    bar, s = a["bars"][leg["symbol"]][t], leg["side"]
    opened = bar["open"]
    if leg["stop"] is not None and s * on(bar, leg["stop_trigger"], "open") <= s * leg["stop_price"]:
        return "stop_loss", opened, False
    trailing = trailing_level(leg, bar)
    if trailing is not None and s * on(bar, leg["trailing_trigger"], "open") <= s * trailing:
        return "trailing_stop", opened, False
    trigger = leg["take_profit_trigger"]
    if leg["take_profit"] is not None and s * on(bar, trigger, "open") >= s * leg["target_price"]:
        if trigger == "mark":
            return "take_profit", opened, False
        jump = a["rules"].get("take_profit_fill", "limit") == "open"
        return "take_profit", opened if jump else leg["target_price"], True
    if leg["due"] is not None and t >= leg["due"]:
        return "time", opened, False
    return None


def adverse_exit(leg: Record, bar: Record) -> tuple[str, float] | None:
    """§2 C: of stop and trailing stop the one met first inside the range, and its price; the stop if they are one."""
    s, worst = leg["side"], "low" if leg["side"] > 0 else "high"
    found = None
    if leg["stop"] is not None and s * on(bar, leg["stop_trigger"], worst) <= s * leg["stop_price"]:
        found = "stop_loss", leg["stop_price"]
    level = trailing_level(leg, bar)
    met = level is not None and s * on(bar, leg["trailing_trigger"], worst) <= s * level
    if level is not None and met and (found is None or s * level > s * found[1]):
        found = "trailing_stop", level
    return found


def stopped(leg: Record, bar: Record) -> tuple[str, float, bool] | None:
    """The same as a way to leave: (reason, base, limit fill)."""
    met = adverse_exit(leg, bar)
    if met is None:
        return None
    base = min(met[1], bar["open"]) if leg["side"] > 0 else max(met[1], bar["open"])
    return met[0], min(max(base, bar["low"]), bar["high"]), False


def favourable_exit(leg: Record, bar: Record) -> tuple[str, float, bool] | None:
    """§2 C: the take-profit inside the range."""
    s, best, trigger = leg["side"], "high" if leg["side"] > 0 else "low", leg["take_profit_trigger"]
    if leg["take_profit"] is None or s * on(bar, trigger, best) < s * leg["target_price"]:
        return None
    if trigger == "mark":
        return "take_profit", min(max(leg["target_price"], bar["low"]), bar["high"]), False
    return "take_profit", leg["target_price"], True
