"""What a venue's risk desk watches: the fund's balance, its drawdown, the open interest it stands behind, lights.

In: a run's ledger and, for the open interest, its accounts. Out: a row for every moment of the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import polars as pl

from perpbt.adl.triggers import EIGHT_HOURS, highest_within
from perpbt.contracts import Contract
from perpbt.errors import InputError


def open_interest(accounts: pl.DataFrame, contracts: Mapping[str, Contract] | None = None) -> pl.DataFrame:
    """Notional of all open positions at their entry prices, one side counted once with the other: `world`,
    `symbol`, `time`, `long`, `short` and `open_interest` = (long + short) / 2, quote currency times weight.

    A row for every moment at which it changes; a position counts from entry until exit, parts closed before
    included. `contracts`: those of symbols that are not one base unit settled in quote currency; notional is then in their settlement
    currency. A simulated book need not be balanced: the half sum is what a venue of both sides would print.
    """
    held = accounts.filter(pl.col("exit_reason") != "rejected").with_columns(
        notional=pl.col("weight") * _worth(contracts or {})
    )
    moves = pl.concat(
        [
            held.select("world", "symbol", "side", "notional", time="entry_time"),
            held.select("world", "symbol", "side", -pl.col("notional"), time="exit_time"),
        ]
    )
    sides = {side: pl.col("notional").filter(pl.col("side") == side).sum() for side in ("long", "short")}
    keys = ("world", "symbol")
    return (
        moves.group_by(*keys, "time")
        .agg(**sides)
        .sort(*keys, "time")
        .with_columns(pl.col("long", "short").cum_sum().over(keys).clip(lower_bound=0.0))
        .with_columns(open_interest=(pl.col("long") + pl.col("short")) / 2)
    )


def _worth(contracts: Mapping[str, Contract]) -> pl.Expr:
    """Notional of a position at its entry."""
    worth = pl.col("quantity") * pl.col("entry_price")
    for symbol, contract in contracts.items():
        size = pl.col("quantity") * contract.multiplier
        own = size / pl.col("entry_price") if contract.kind == "inverse" else size * pl.col("entry_price")
        worth = pl.when(pl.col("symbol") == symbol).then(own).otherwise(worth)
    return worth


def monitor(
    fund: pl.DataFrame,
    accounts: pl.DataFrame | None = None,
    *,
    window: timedelta = EIGHT_HOURS,
    drawdown: float = 0.30,
    contracts: Mapping[str, Contract] | None = None,
) -> pl.DataFrame:
    """The series of every fund of a ledger (`Result.fund`), a row a moment.

    Columns: `world`, `fund` (its symbol, its group, or "all" for a pool), `time`, `balance`, `peak` (highest so far),
    `drawdown` (1 - balance / peak), `recent_drawdown` (against the highest of the `window`), `lights` (0 calm
    to 5: fifths of the trigger's `drawdown` that are used up, 5 when it is reached) and, with `accounts`,
    `open_interest` (with `contracts` as there) and `balance_over_open_interest` (null without any). Money in quote currency. Every row
    knows only what was before it.
    """
    if not 0.0 < drawdown <= 1.0:
        raise InputError(f"drawdown is {drawdown!r}; allowed: more than 0, at most 1")
    parts = []
    groups = _groups(fund)
    if groups is not None:  # every row tells the balance of its fund
        fund = fund.with_columns(symbol=pl.col("fund"))
    for (world,), ledger in fund.group_by("world", maintain_order=True):
        names = ["all"] if "all" in ledger["symbol"] else ledger["symbol"].unique().sort().to_list()
        for name in names:
            own = ledger if name == "all" else ledger.filter(pl.col("symbol") == name)
            parts.append(_watched(own, world, name, window, drawdown))
    table = pl.concat(parts).sort("world", "fund", "time")
    return (
        table if accounts is None else _with_open_interest(table, open_interest(accounts, contracts), groups)
    )


def _watched(own: pl.DataFrame, world: object, name: str, window: timedelta, drawdown: float) -> pl.DataFrame:
    path = (
        own.sort("time", maintain_order=True)
        .group_by("time", maintain_order=True)
        .agg(pl.col("balance").last())
    )
    recent = highest_within(path, "balance", window)
    fell = pl.when(pl.col("recent") > 0).then(1 - pl.col("balance") / pl.col("recent")).otherwise(0.0)
    lost = pl.when(pl.col("peak") > 0).then(1 - pl.col("balance") / pl.col("peak")).otherwise(0.0)
    return path.with_columns(recent=recent, peak=pl.col("balance").cum_max()).select(
        pl.lit(world, dtype=own.schema["world"]).alias("world"),
        pl.lit(name).alias("fund"),
        "time",
        "balance",
        "peak",
        lost.alias("drawdown"),
        fell.alias("recent_drawdown"),
        (fell / drawdown * 5 + 1e-9).floor().clip(0, 5).cast(pl.Int64).alias("lights"),
    )


def _groups(fund: pl.DataFrame) -> dict[str, str] | None:
    """The fund of each symbol, where groups of symbols share one."""
    if "fund" not in fund.columns:
        return None
    return dict(fund.select("symbol", "fund").unique().iter_rows())


def _with_open_interest(
    table: pl.DataFrame, held: pl.DataFrame, groups: dict[str, str] | None
) -> pl.DataFrame:
    """Open interest as it stood at each moment: of the fund's symbol, or of all that share it."""
    times = table.select("world", "fund", "time")
    sums = []
    for (world, symbol), one in held.group_by("world", "symbol", maintain_order=True):
        here = times.filter(
            pl.col("world").eq_missing(pl.lit(world, dtype=table.schema["world"]))
            & pl.col("fund").is_in([symbol, "all"] if groups is None else [groups.get(symbol, symbol)])
        ).sort("time")
        series = one.select(pl.col("time").cast(table.schema["time"]), "open_interest").sort("time")
        sums.append(here.join_asof(series, on="time", strategy="backward"))
    whole = (
        pl.concat([*sums, times.head(0).with_columns(open_interest=pl.lit(0.0))])
        .group_by("world", "fund", "time")
        .agg(pl.col("open_interest").sum())
    )
    joined = table.join(whole, on=["world", "fund", "time"], how="left", nulls_equal=True)
    share = pl.col("balance") / pl.col("open_interest")
    return joined.with_columns(
        balance_over_open_interest=pl.when(pl.col("open_interest") > 0).then(share)
    ).sort("world", "fund", "time")
