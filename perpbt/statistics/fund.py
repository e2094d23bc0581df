"""The insurance fund in time: balance paths and the windows that drew most from it."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from perpbt.errors import InputError
from perpbt.statistics.common import IS_DEFAULTED, IS_LIQUIDATED, exact_sums, exit_notional, ratio, require

FLOWS = ("liquidation_fees", "surplus", "fee_share", "deficit", "uncovered")


def fund_path(fund: pl.DataFrame, worlds: Sequence[str] | None = None) -> pl.DataFrame:
    """Each world's fund over time: `world`, `time`, the ledger's flows and `balance`, quote currency, sorted.

    Flows are summed over symbols. Where every symbol has a fund of its own the balance is the sum of the last
    known balances (a fund that has not opened yet counts with its seed); a pooled fund's is the pool's, and of
    groups (column `fund`) every fund counts once.
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
    if "fund" in fund.columns:  # of groups: every row tells the balance of its fund
        fund = fund.with_columns(symbol=pl.col("fund"))
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


def draws_in_time(
    fund: pl.DataFrame,
    accounts: pl.DataFrame | None = None,
    *,
    every: str = "1d",
    worlds: Sequence[str] | None = None,
) -> pl.DataFrame:
    """What each world's fund lost in equal windows of time; a row per world and window with a ledger entry.

    Columns: `world`, `time` (start of a window of length `every`, a polars duration string), `deficit`,
    `uncovered` (quote currency), `opening` (its balance as the window began, all symbols together) and
    `notional`: what its positions were worth, quantity·exit_price times weight, that ended in the window by
    liquidation or in default; 0 where none did, null without `accounts`. Sorted by world and time. A deficit
    of a part closed by deleveraging is in the window of that close, its notional with the position's.
    `worlds` picks some, default all.

    Raises InputError for a world the ledger does not have.
    """
    path, window = fund_path(fund, worlds), pl.col("time").dt.truncate(every)
    gains = pl.col("liquidation_fees") + pl.col("surplus") + pl.col("fee_share")
    seed = pl.col("balance") - gains + (pl.col("deficit") - pl.col("uncovered"))
    opening = pl.coalesce(pl.col("balance").shift(1).over("world"), seed)
    path = path.with_columns(window, opening=opening)
    first = path.group_by("world", "time", maintain_order=True).agg(pl.col("opening").first())
    table = exact_sums(path, ("world", "time"), ("deficit", "uncovered"))
    table = table.join(first, on=("world", "time"), nulls_equal=True, maintain_order="left")
    if accounts is None:
        return table.with_columns(notional=pl.lit(None, pl.Float64))
    ended = accounts.filter(IS_LIQUIDATED | IS_DEFAULTED).select(
        "world",
        time=pl.col("exit_time").cast(fund.schema["time"]).dt.truncate(every),
        notional=pl.col("weight") * exit_notional(accounts),
    )
    closed = exact_sums(ended, ("world", "time"), ("notional",))
    joined = table.join(closed, on=("world", "time"), how="left", nulls_equal=True, maintain_order="left")
    return joined.with_columns(pl.col("notional").fill_null(0.0))


def worst_draws(
    fund: pl.DataFrame,
    accounts: pl.DataFrame | None = None,
    *,
    every: str = "1d",
    limit: int = 10,
    per: str | None = None,
    rank: str = "deficit",
) -> pl.DataFrame:
    """The windows of time in which deficits were largest by `rank`, at most `limit` of every stretch `per`.

    Columns: `time` (start of a window of length `every`), `symbol` (the one with the largest deficit),
    `worlds` (how many had a deficit), `deficit`, `uncovered` (quote currency, summed over worlds:
    alternatives laid side by side, so read a sum as a ranking); and of the world hit hardest `worst_world`,
    `worst_deficit`, `worst_uncovered`, `of_fund` (its deficit over its balance as the window began; above 1 a
    fund cannot pay from what it had; null for an empty one) and `of_notional` (its deficit over the notional
    it closed in liquidation or default; null without `accounts`). Largest first; empty without deficits.
    `every` and `per` are polars duration strings ("1d", "1y"); `per` None is the whole run. `rank` is
    "deficit" or "worst_deficit".
    """
    require(fund, ("time", "world", "symbol", "deficit", "uncovered"), "fund")
    if rank not in ("deficit", "worst_deficit"):
        raise InputError(f"rank is {rank!r}; it has to be 'deficit' or 'worst_deficit'")
    drawn = fund.filter(pl.col("deficit") > 0).with_columns(pl.col("time").dt.truncate(every))
    by_symbol = exact_sums(drawn, ("time", "symbol"), ("deficit",))
    symbol = by_symbol.group_by("time").agg(pl.col("symbol").get(pl.col("deficit").arg_max()))
    by_world = draws_in_time(fund, accounts, every=every).filter(pl.col("deficit") > 0)
    worst = (
        by_world.sort("deficit", "world", descending=[True, False])
        .with_columns(of_fund=ratio("deficit", "opening"), of_notional=ratio("deficit", "notional"))
        .group_by("time")
        .agg(
            worlds=pl.len().cast(pl.Int64),
            worst_world=pl.col("world").first(),
            worst_deficit=pl.col("deficit").first(),
            worst_uncovered=pl.col("uncovered").first(),
            of_fund=pl.col("of_fund").first(),
            of_notional=pl.col("of_notional").first(),
        )
    )
    table = exact_sums(by_world, ("time",), ("deficit", "uncovered")).join(worst, on="time")
    table = table.join(symbol, on="time").sort(rank, "time", descending=[True, False])
    if per is None:
        table = table.head(limit)
    else:
        table = table.filter(pl.int_range(pl.len()).over(pl.col("time").dt.truncate(per)) < limit)
    return table.select(
        *("time", "symbol", "worlds", "deficit", "uncovered", "worst_world"),
        *("worst_deficit", "worst_uncovered", "of_fund", "of_notional"),
    )
