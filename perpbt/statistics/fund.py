"""The insurance fund in time: balance paths and the windows that drew most from it."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from perpbt.errors import InputError
from perpbt.statistics.common import exact_sums, require

FLOWS = ("liquidation_fees", "surplus", "fee_share", "deficit", "uncovered")


def fund_path(fund: pl.DataFrame, worlds: Sequence[str] | None = None) -> pl.DataFrame:
    """Each world's fund over time: `world`, `time`, the ledger's flows and `balance`, quote currency, sorted.

    Flows are summed over symbols. Where every symbol has a fund of its own the balance is the sum of the last
    known balances (a fund that has not opened yet counts with its seed); a pooled fund's is the pool's.
    `worlds` picks some, default all.

    Raises InputError for a world the ledger does not have.
    """
    require(fund, ("time", "world", "symbol", *FLOWS, "balance"), "fund")
    if worlds is not None:
        unknown = sorted(set(worlds) - set(fund["world"].to_list()))
        if unknown:
            raise InputError(
                f"fund has no world {', '.join(unknown)}; it has {fund['world'].n_unique()} others"
            )
        fund = fund.filter(pl.col("world").is_in(list(worlds)))
    flows = exact_sums(fund, ("world", "time"), FLOWS)
    return flows.join(_balances(fund), on=("world", "time"), nulls_equal=True).sort("world", "time")


def _balances(fund: pl.DataFrame) -> pl.DataFrame:
    """Total balance of each world after each of its times."""
    moved = pl.sum_horizontal(pl.col(FLOWS).abs()) > 0
    ledger = fund.with_columns(moved=moved).sort("world", "symbol", "time", "moved")
    # A fund opens with a row without flows: a symbol whose ledger starts with a flow has no fund of its own.
    starts = ledger.group_by("world", "symbol", maintain_order=True).agg(pl.col("moved", "balance").first())
    pooled = starts.group_by("world").agg(pooled=pl.col("moved").any())
    ledger = ledger.join(pooled, on="world", nulls_equal=True, maintain_order="left")
    whole = (
        ledger.filter("pooled")
        .sort("world", "time", "moved")
        .group_by("world", "time")
        .agg(pl.col("balance").last())
    )
    own = ledger.filter(~pl.col("pooled"))
    times = own.select("world", "time").unique().sort("world", "time")
    totals = [whole]
    if own.height:
        seeds = starts.rename({"balance": "seed"})
        parts = [
            _last_known(
                times, own.filter(pl.col("symbol") == symbol), seeds.filter(pl.col("symbol") == symbol)
            )
            for symbol in own["symbol"].unique().sort()
        ]
        totals.append(exact_sums(pl.concat(parts), ("world", "time"), ("balance",)))
    return pl.concat(totals)


def _last_known(times: pl.DataFrame, own: pl.DataFrame, seeds: pl.DataFrame) -> pl.DataFrame:
    """One symbol's balance at each of `times` of the worlds that have a fund for it."""
    last = own.group_by("world", "time", maintain_order=True).agg(pl.col("balance").last())
    asked = times.join(seeds.select("world", "seed"), on="world").sort("time")
    known = asked.join_asof(last.sort("time"), on="time", by="world", check_sortedness=False)
    return known.select("world", "time", pl.coalesce("balance", "seed").alias("balance"))


def worst_draws(fund: pl.DataFrame, *, every: str = "1d", limit: int = 10) -> pl.DataFrame:
    """The windows of time in which deficits were largest, largest first, at most `limit`.

    Columns: `time` (start of a window of length `every`, a polars duration string), `symbol` (the one with
    the largest deficit), `worlds` (how many had a deficit), `deficit`, `uncovered` (quote currency, summed
    over worlds: alternatives laid side by side, so read the sum as a ranking), `worst_world` and
    `worst_deficit` (the world hit hardest). Empty without deficits.
    """
    require(fund, ("time", "world", "symbol", "deficit", "uncovered"), "fund")
    drawn = fund.filter(pl.col("deficit") > 0).with_columns(pl.col("time").dt.truncate(every))
    total = exact_sums(drawn, ("time",), ("deficit", "uncovered"))
    by_world = exact_sums(drawn, ("time", "world"), ("deficit",))
    worst = by_world.group_by("time").agg(
        worlds=pl.len().cast(pl.Int64),
        worst_world=pl.col("world").get(pl.col("deficit").arg_max()),
        worst_deficit=pl.col("deficit").max(),
    )
    by_symbol = exact_sums(drawn, ("time", "symbol"), ("deficit",))
    symbol = by_symbol.group_by("time").agg(pl.col("symbol").get(pl.col("deficit").arg_max()))
    table = (
        total.join(worst, on="time").join(symbol, on="time").sort("deficit", "time", descending=[True, False])
    )
    return table.head(limit).select(
        "time", "symbol", "worlds", "deficit", "uncovered", "worst_world", "worst_deficit"
    )
