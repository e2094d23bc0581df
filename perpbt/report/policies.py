"""Policies in words: how many, what varies between them, and what all have in common.

In comes `result.policies`: a row a policy, numbers as they are, everything else as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import polars as pl

from perpbt.report import words

NEITHER = (None, "none", False, "", 0.0)
"""Values that mean the thing is not there."""


def policies_in_words(policies: pl.DataFrame) -> str:
    """One or two sentences. A field that no policy uses is not mentioned."""
    if policies.is_empty():
        return "Accounts were given one by one, without a grid of policies: there are no heat maps."
    varying, common = [], []
    for name in policies.columns:
        if name in ("policy", "stop_kind", "stop_value") or _moot(name, policies):
            continue
        values = policies[name].unique(maintain_order=True).to_list()
        if len(values) > 1:
            varying.append(_alternatives(name, values))
        elif phrase := _phrase(name, values[0]):
            common.append(phrase)
    number = "One policy" if policies.height == 1 else f"{policies.height:,} policies"
    grid = f"{number}: {'; '.join(varying)}." if varying else f"{number}."
    everywhere = "In all of them" if policies.height > 1 else "It has"
    return f"{grid} {everywhere}: {', '.join(common)}." if common else grid


def _moot(name: str, policies: pl.DataFrame) -> bool:
    """Whether a field has nothing to act on: a trigger without its order, what follows an only trade."""

    def all_are(column: str, *values: object) -> bool:
        return column in policies.columns and all(value in values for value in policies[column])

    single = all_are("max_trades", 1)
    return {
        "stop_trigger": all_are("stop", "none"),
        "take_profit_trigger": all_are("take_profit", "none"),
        "trailing_trigger": all_are("trailing_stop", None),
        "reentry": single,
        "compounding": single,
    }.get(name, False)


def _alternatives(name: str, values: list[Any]) -> str:
    """leverage 2, 3 and 5."""
    if name in PHRASES:
        return words.alternatives(_phrase(name, value) or f"no {_title(name)}" for value in values)
    return f"{_title(name)} {words.listing([words.label(value) for value in values], 12)}"


def _phrase(name: str, value: Any) -> str:
    """One field of a policy in words; "" for what is not there."""
    if name == "stop" and value == "none":
        return "no stop loss"
    if value in NEITHER:
        return ""
    return PHRASES[name](value) if name in PHRASES else f"{_title(name)} {words.label(value)}"


def _title(name: str) -> str:
    return {"stop": "stop loss"}.get(name, name.replace("_", " "))


def _sizing(value: str) -> str:
    kind, _, amount = value.partition(" ")
    if kind == "equity":
        return "all equity in a position" if amount == "100%" else f"{amount} of equity in a position"
    return f"{amount} of equity at risk to the stop" if kind == "risk" else f"collateral {amount} a position"


def _reentry(value: str) -> str:
    """ "stop never, liquidation allowed, cool_down 4h" → no re-entry after a stop, else after 4h."""
    barred = [f"a {event}" for event, may in re.findall(r"(stop|liquidation) (\w+)", value) if may == "never"]
    found = re.search(r"cool_down (\S+)", value)
    wait = found[1] if found and found[1] != "0s" else ""
    if len(barred) == 2:
        return "no re-entry after a stop or a liquidation"
    if barred:
        return f"no re-entry after {barred[0]}" + (f", otherwise after {wait}" if wait else "")
    return f"re-entry {wait} after a stop or a liquidation" if wait else "re-entry at the next signal"


PHRASES: dict[str, Callable[[Any], str]] = {
    "margin_buffer": lambda value: f"margin {words.share(value)} above the initial margin",
    "capital": lambda value: f"capital {words.plain(value)} an account",
    "compounding": lambda value: "results carried into the next position",
    "sizing": _sizing,
    "trailing_stop": lambda value: f"trailing stop {words.share(value)}",
    "stop_trigger": lambda value: f"stops watch the {value} price",
    "trailing_trigger": lambda value: f"trailing stops watch the {value} price",
    "take_profit_trigger": lambda value: f"take-profits watch the {value} price",
    "max_holding": lambda value: f"held for at most {value}",
    "max_trades": lambda value: f"at most {words.plural(value, 'position')} an account",
    "margin_call": lambda value: f"on a margin call {value.replace('_', ' ')}",
    "reentry": _reentry,
}
"""Fields whose text says more than their name and value would."""
