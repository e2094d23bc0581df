"""The statistics table once more, row by row, with dictionaries and math.fsum: what tallies are compared to.

Slow and plain. Every number is defined here as `summarise` documents it, and nothing of perpbt is imported.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import polars as pl

Row = dict[str, Any]
Group = tuple[str | None, ...]
Claims = dict[Any, dict[Group, list[float]]]
KEYS = ("strategy", "policy", "symbol")
PLACE = ("world", "symbol")
MOMENT = ("world", "symbol", "time")
COUNTS = ("accounts", "positions", "rejected", "liquidated", "defaulted")
SUMS = ("liquidation_fees", "surplus", "fee_share", "deficit", "uncovered")


def naive_statistics(
    accounts: pl.DataFrame, fund: pl.DataFrame, population: pl.DataFrame | None = None
) -> pl.DataFrame:
    """What `summarise` returns, or raises ArithmeticError where no position explains the ledger."""
    rows, ledger = accounts.to_dicts(), fund.to_dicts()
    of: dict[Group, list[Row]] = defaultdict(list)
    for row in rows:
        of[tuple(row[key] for key in KEYS)].append(row)
    sums = {group: sums_of([row for row in own if not rejected(row)]) for group, own in of.items()}
    fees = claims_of(rows, PLACE, lambda row: row["weight"] * row["fees"])
    owing = [claims_of(rows, on, lambda row: row["weight"] * row["deficit"]) for on in (PLACE, MOMENT)]
    paid = shares(ledger, "fee_share", PLACE, fees)
    # of the same moment, or of the place where no deficit has that moment
    owed = shares(ledger, "uncovered", MOMENT, owing[0] | owing[1])
    for group, own in sums.items():
        own["fee_share"], own["uncovered"] = math.fsum(paid[group]), math.fsum(owed[group])
    there: dict[Group, int] = {}
    if population is not None:
        for row in population.to_dicts():
            group = tuple(row[key] for key in KEYS)
            there[group] = there.get(group, 0) + row["accounts"]
    table = []
    for kept in (3, 2, 1, 0):
        levels: dict[Group, list[Group]] = defaultdict(list)
        for group in of if population is None else {**there, **of}:
            levels[(*group[:kept], *["all"] * (3 - kept))].append(group)
        wanted = levels if population is None else {level(group, kept) for group in there}
        for name in sorted(wanted, key=lambda names: [(word is not None, word or "") for word in names]):
            members = [group for group in levels[name] if group in of]
            counted = None if population is None else sum(there.get(group, 0) for group in levels[name])
            table.append(
                line(
                    name, [row for group in members for row in of[group]], [sums[g] for g in members], counted
                )
            )
    schema: dict[str, Any] = dict.fromkeys(KEYS, pl.String) | dict.fromkeys(COUNTS, pl.Int64)
    names = ("pd", "ead", "lgd", "expected_loss", "surplus", "deficit", "net_fund_flow", "uncovered")
    schema |= dict.fromkeys((*names, "median_return", "mean_return", "max_drawdown"), pl.Float64)
    return pl.DataFrame(table, schema=schema | {"time_to_liquidation": pl.Duration("ms")}, orient="row")


def level(group: Group, kept: int) -> Group:
    """The group with "all" for what a level sums over."""
    return (*group[:kept], *["all"] * (3 - kept))


def rejected(row: Row) -> bool:
    """Whether the order was refused."""
    return bool(row["exit_reason"] == "rejected")


def sums_of(opened: list[Row]) -> dict[str, float]:
    """Sums over the opened positions of one group."""
    defaults = [row for row in opened if row["deficit"] > 0]
    weight = [(row["weight"], row) for row in opened]
    return {
        "weight": math.fsum(w for w, _ in weight),
        "liquidation_fees": math.fsum(w * row["liquidation_fee"] for w, row in weight),
        "surplus": math.fsum(w * row["surplus"] for w, row in weight),
        "deficit": math.fsum(w * row["deficit"] for w, row in weight),
        "returns": math.fsum(row["total_return"] for row in opened),
        "defaulted_weight": math.fsum(row["weight"] for row in defaults),
        "notional": math.fsum(row["weight"] * (row["quantity"] * row["exit_price"]) for row in defaults),
    }


def claims_of(rows: Iterable[Row], on: tuple[str, ...], claim: Callable[[Row], float]) -> Claims:
    """What is not 0 of each group, by `on`."""
    claims: Claims = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if not rejected(row) and claim(row) != 0:
            where = tuple(row["exit_time" if key == "time" else key] for key in on)
            claims[where][tuple(row[key] for key in KEYS)].append(claim(row))
    return claims


def shares(flows: Iterable[Row], name: str, on: tuple[str, ...], claims: Claims) -> dict[Group, list[float]]:
    """Each amount `name` of the ledger that is not 0, added up by `on`, split by the claims of the groups."""
    amounts = defaultdict(list)
    for flow in flows:
        if flow[name] != 0:
            amounts[tuple(flow[key] for key in on)].append(flow[name])
    found: dict[Group, list[float]] = defaultdict(list)
    for where, parts in amounts.items():
        found_there = claims[where] if where in claims else claims.get(where[: len(PLACE)], {})
        own = {group: math.fsum(part) for group, part in found_there.items()}
        if not own:
            raise ArithmeticError(where)
        whole = math.fsum(own.values())
        for group, part in own.items():
            found[group].append(math.fsum(parts) * (part / whole))
    return found


def median(values: Iterable[float]) -> float | None:
    """The middle one, or what is half-way between the two in the middle."""
    ordered = sorted(values)
    if not ordered:
        return None
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low + 0.5 * (high - low)


def line(name: Group, rows: list[Row], parts: list[dict[str, float]], counted: int | None) -> tuple[Any, ...]:
    """One row of the table, from the positions and the groups' sums in it."""
    total = {key: math.fsum(part[key] for part in parts) for key in (parts[0] if parts else ())}
    total = defaultdict(float, total)
    opened = [row for row in rows if not rejected(row)]
    dead = [row for row in opened if row["exit_reason"] == "liquidation"]
    waited = median((row["exit_time"] - row["entry_time"]).total_seconds() * 1000 for row in dead)
    weight, hurt, notional = total["weight"], total["defaulted_weight"], total["notional"]
    gains = total["liquidation_fees"] + total["surplus"] + total["fee_share"]
    return (
        *name,
        len({row["account"] for row in rows}) if counted is None else counted,
        len(opened),
        len(rows) - len(opened),
        len(dead),
        sum(row["deficit"] > 0 for row in opened),
        hurt / weight if weight else None,
        notional / hurt if hurt else None,
        total["deficit"] / notional if notional else None,
        total["deficit"] / weight if weight else None,
        total["surplus"],
        total["deficit"],
        gains - total["deficit"],
        total["uncovered"],
        median(row["total_return"] for row in opened),
        total["returns"] / len(opened) if opened else None,
        max((row["max_drawdown"] for row in opened), default=None),
        None if waited is None else round(waited),
    )
