"""Portfolio margin: the worst of a set of scenarios on net values, and a minimum charge (§4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .shapes import Record


def portfolio_required(values: Sequence[Record], spec: Record) -> float:
    """MMR over all risk units: max(max(MR1, MR6) + MR4, MR7) of each, units by name.

    `values`: {"name", "value" (signed, at mark), "gross", and "unit" for an asset}. `spec`: "unit_of" a symbol, "units" by name,
    "minimum" (rate on gross value by symbol).
    """
    of = [value.get("unit", spec["unit_of"].get(value["name"])) for value in values]
    total = 0.0
    for unit in sorted(set(of)):
        mine = [value for value, name in zip(values, of, strict=True) if name == unit]
        total = total + unit_required(mine, spec["units"][unit], spec["minimum"])
    return total


def unit_required(values: Sequence[Record], unit: Record, minimum: Mapping[str, float]) -> float:
    """One risk unit: spot shock, extreme move, basis between opposite legs, minimum charge."""
    net = long = short = raw = 0.0
    for value in values:
        net = net + value["value"]
        long = long + max(value["value"], 0.0)
        short = short + max(0.0 - value["value"], 0.0)
        raw = raw + minimum.get(value["name"], 0.0) * value["gross"]
    shock = max([0.0, *(0.0 - shift(move, unit) * net for move in unit["shocks"])])
    extreme = unit["extreme_weight"] * max(
        0.0 - shift(move, unit) * net for move in (unit["extreme"], -unit["extreme"])
    )
    basis = unit["basis"] * min(long, short)
    return max(max(shock, extreme) + basis, charged(raw, unit["multipliers"]))


def shift(move: float, unit: Record) -> float:
    """What a value changes by as prices move by this share; in coin, where it is a multiple of 1 / P, by that of the reading."""
    return 1 / (1 + move) - 1 if unit.get("inverse") else move


def charged(raw: float, multipliers: Sequence[tuple[float, float]]) -> float:
    """A raw minimum charge step by step: each part of it times the multiplier of the tier (its upper end, multiplier) it is in."""
    total, floor = 0.0, 0.0
    for cap, multiplier in multipliers:
        if raw > floor:
            total = total + (min(raw, cap) - floor) * multiplier
        floor = cap
    return total
