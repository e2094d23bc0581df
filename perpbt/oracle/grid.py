"""Bars of several symbols on one grid of times: the union of theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .shapes import Bars, Record


def on_grid(
    bars: Mapping[str, Bars], funding: Mapping[str, list[float]]
) -> tuple[list[int], dict[str, list[Record]]]:
    """The union of all times, and each symbol's bars on it; where it has none it keeps its last mark and last price."""
    times = sorted({bar["ts"] for one in bars.values() for bar in one})
    grid: dict[str, list[Record]] = {}
    for symbol, own in bars.items():
        known = {
            bar["ts"]: {**bar, "cf": cf, "turnover": turnover_of(bar)}
            for bar, cf in zip(own, funding[symbol], strict=True)
        }
        last = still(known[own[0]["ts"]], "open")
        filled = []
        for time in times:
            if time in known:
                filled.append(known[time])
                last = still(known[time], "close")
            else:
                filled.append({**last, "ts": time})
        grid[symbol] = filled
    return times, grid


def turnover_of(bar: Record) -> float | None:
    """Volume at the close; None where it is not known."""
    return None if bar["volume"] is None else bar["volume"] * bar["close"]


def still(bar: Record, at: str) -> Record:
    """A bar in which nothing happens, at the prices another one has at its open or close."""
    names = ("open", "high", "low", "close")
    kept = dict.fromkeys(names, bar[at]) | {"mark_" + name: bar["mark_" + at] for name in names}
    return {**bar, **kept, "turnover": None, "sigma": math.nan}
