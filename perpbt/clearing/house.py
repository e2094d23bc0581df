"""A finished run seen by a clearing house: members stand behind accounts, layers behind members."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from perpbt.clearing.netting import Members, Netting, member_losses, with_members
from perpbt.clearing.waterfall import LAYERS, House, Layers, Settlement
from perpbt.errors import InputError

if TYPE_CHECKING:
    from perpbt.result import Result


COLUMNS = ("account", "world", "symbol", "exit_reason", "exit_time", "weight", "deficit", "cash_change")


@dataclass(frozen=True)
class Cleared:
    """How the deficits of a run were met.

    `layers`: a row a period with losses and layer: `time`, `layer`, `available` before it, `used`, `used_so_far`.
    `members`: a row a period and member that owed or paid: `time`, `member`, `loss`, what met it (a column a
    layer: margin contribution own_capital mutualised own_capital_second assessment unpaid), `paid_mutualised`,
    `paid_assessment` (for others), `defaulted`. `totals`: layer, used, share of all losses. Money.
    """

    layers: pl.DataFrame
    members: pl.DataFrame
    totals: pl.DataFrame


def clear(
    result: Result | pl.DataFrame,
    *,
    members: Members,
    layers: Layers | Mapping[str, Any],
    every: str = "1d",
    netting: Netting = "none",
    world: str | None = None,
) -> Cleared:
    """Send a run's deficits through a clearing house instead of its fund.

    `result`: a run or its accounts table. `members` says who stands behind each account (a mapping, a frame
    with account and member, or a number of members to deal accounts to in turn); `layers` what stands behind
    them (`perpbt.clearing.Layers` or its fields). Losses of a period of length `every` (a polars duration) fall
    due at its end, all members' together. `netting` as for `perpbt.clearing.member_losses`. `world` picks one
    of several.

    >>> perpbt.clear(result, members=20, layers={"contribution": 1e5, "own_capital": 5e5}).totals

    Conserves money: the layers of every period add up to its losses, to 1e-12, or RunError.
    Amounts are in the settlement currency of the accounts, which must be one.
    Raises InputError for unknown members, worlds, layers and amounts below 0.
    """
    accounts = result if isinstance(result, pl.DataFrame) else getattr(result, "accounts", None)
    if accounts is None:
        raise InputError(f"result is of type {type(result).__name__}; allowed: a run or its accounts table")
    for name in COLUMNS:
        if name not in accounts.columns:
            raise InputError(f"result: column {name!r} missing; found: {', '.join(accounts.columns)}")
    coins = accounts["settlement"].drop_nulls().unique().sort() if "settlement" in accounts.columns else ()
    if len(coins) > 1:
        raise InputError(
            f"result: accounts settled in {', '.join(coins)}; allowed: one currency, the layers'"
        )
    if not isinstance(layers, (Layers, Mapping)):
        raise InputError(
            f"layers is of type {type(layers).__name__}; allowed: Layers or a mapping of its fields"
        )
    worlds = accounts["world"].unique().sort().to_list()
    if world is not None and world not in worlds:
        raise InputError(f"world is {world!r}; allowed: {worlds[:5]}")
    if world is None and len(worlds) > 1:
        raise InputError(f"world is None and the run has {len(worlds)}; allowed: one of {worlds[:5]}")
    mine = accounts if world is None else accounts.filter(pl.col("world") == world)
    if isinstance(layers, Mapping):
        unknown = sorted(set(layers) - set(Layers.__dataclass_fields__))
        if unknown:
            raise InputError(f"layers: no {unknown[0]!r}; allowed: {', '.join(Layers.__dataclass_fields__)}")
        layers = Layers(**layers)
    names = with_members(mine.select("account").unique(), members)["member"].unique().sort().to_list()
    losses = member_losses(mine, members, every=every, netting=netting)
    return _cleared(losses, names, layers)


def _cleared(losses: pl.DataFrame, names: list[Any], layers: Layers) -> Cleared:
    house, place = House(names, layers), {name: i for i, name in enumerate(names)}
    uses: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    so_far: dict[str, list[float]] = {name: [] for name in LAYERS}
    for (time,), one in losses.filter(pl.col("loss") > 0.0).group_by("time", maintain_order=True):
        owed = [0.0] * len(names)
        for member, loss in one.select("member", "loss").iter_rows():
            owed[place[member]] = loss
        if layers.replenished:
            house.refill()
            house.alive[:] = True
        before = house.available()
        done = house.settle(owed)
        for name in LAYERS:
            used = math.fsum(done.met[name])
            so_far[name].append(used)
            uses.append(
                {
                    "time": time,
                    "layer": name,
                    "available": before[name],
                    "used": used,
                    "used_so_far": math.fsum(so_far[name]),
                }
            )
        rows += _members(time, names, done)
    return Cleared(*_tables(losses, uses, rows, {name: math.fsum(values) for name, values in so_far.items()}))


def _tables(
    losses: pl.DataFrame, uses: list[dict[str, Any]], rows: list[dict[str, Any]], sums: dict[str, float]
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    time = {"time": losses.schema["time"]}
    amounts = dict.fromkeys(("available", "used", "used_so_far"), pl.Float64)
    money = dict.fromkeys(("loss", *LAYERS, "paid_mutualised", "paid_assessment"), pl.Float64)
    member = {"member": losses.schema["member"]}
    whole = math.fsum(losses["loss"])
    shares = [value / whole if whole > 0.0 else 0.0 for value in sums.values()]
    return (
        pl.DataFrame(uses, schema={**time, "layer": pl.String, **amounts}),
        pl.DataFrame(rows, schema={**time, **member, **money, "defaulted": pl.Boolean}),
        pl.DataFrame({"layer": list(sums), "used": list(sums.values()), "share": shares}),
    )


def _members(time: Any, names: list[Any], done: Settlement) -> list[dict[str, Any]]:
    gifts = done.given["mutualised"] + done.given["assessment"]
    return [
        {
            "time": time,
            "member": name,
            "loss": float(done.losses[i]),
            **{layer: float(done.met[layer][i]) for layer in LAYERS},
            "paid_mutualised": float(done.given["mutualised"][i]),
            "paid_assessment": float(done.given["assessment"][i]),
            "defaulted": bool(done.defaulted[i]),
        }
        for i, name in enumerate(names)
        if done.losses[i] > 0.0 or gifts[i] > 0.0
    ]
