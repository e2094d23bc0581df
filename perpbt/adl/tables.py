"""What deleveraging did in finished runs: tables of accounts, funds and deleveragings → small tables.

A deleveraging table has a row a winner closed: `time`, `world`, `symbol`, `account`, `position` (without it
accounts have one each), `quantity`, `price`, `given_up` (money), and `weight`, the accounts a row stands for (`Result.extra["adl"]`; rows of socialised losses
have no price and count with what was given up). Its `notional`, where it has one, is what was closed in money; without it quantity·price is. Where it tells
a `conversion`, money is in coins: tables made of it are in quote currency, at the conversion of each moment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from perpbt.adl.candidates import Integers
from perpbt.errors import InputError
from perpbt.statistics.common import exact_sums

FIVE_SECONDS = timedelta(seconds=5)


def waves(times: pl.Series | Sequence[Any], gap: timedelta = FIVE_SECONDS) -> Integers:
    """The wave each of sorted `times` belongs to, from 1: a new one begins after more than `gap` of quiet.

    Five seconds is what the studies of 10 October 2025 use; for bars take more than their length.
    """
    series = pl.Series("time", times)
    if series.is_empty():
        return np.zeros(0, dtype=np.int64)
    if not series.is_sorted():
        raise InputError("times are not sorted; allowed: times that rise")
    number = (series.diff() > gap).fill_null(False).cast(pl.Int64).cum_sum() + 1
    found: Integers = number.to_numpy()
    return found


def deleveraging_waves(adl: pl.DataFrame, gap: timedelta = FIVE_SECONDS) -> pl.DataFrame:
    """Waves of a run: `world`, `wave`, `start`, `end`, `fills`, `accounts`, `notional` (quantity·price),
    `given_up`; money times weight.
    """
    parts = []
    for _, one in adl.sort("world", "time", maintain_order=True).group_by("world", maintain_order=True):
        parts.append(one.with_columns(wave=pl.Series(waves(one["time"], gap), dtype=pl.Int64)))
    rows = pl.concat(parts) if parts else adl.with_columns(wave=pl.lit(0, pl.Int64))
    rows = _scaled(rows)
    keys = ("world", "wave")
    counted = rows.group_by(keys).agg(
        start=pl.col("time").min(),
        end=pl.col("time").max(),
        fills=pl.len().cast(pl.Int64),
        accounts=pl.col("account").n_unique().cast(pl.Int64),
    )
    sums = exact_sums(rows, keys, ("notional", "given_up"))
    return counted.join(sums, on=keys, nulls_equal=True).sort(keys)


def _scaled(adl: pl.DataFrame) -> pl.DataFrame:
    each = pl.col("notional") if "notional" in adl.columns else pl.col("quantity") * pl.col("price")
    worth = pl.col("weight") * (pl.col("conversion") if "conversion" in adl.columns else 1.0)
    return adl.with_columns(
        notional=(worth * each).fill_nan(0.0).fill_null(0.0),
        given_up=worth * pl.col("given_up"),
    )


def deleveraged(
    accounts: pl.DataFrame, adl: pl.DataFrame, by: Sequence[str] = ("strategy", "policy")
) -> pl.DataFrame:
    """Who was deleveraged, by group of positions: `by` columns, `positions` opened, `deleveraged` (of them, how
    many lost some), `fills`, `notional`, `given_up` (profit taken, money times weight), `profit` (what the
    deleveraged made in the end, cash changes times weight), `share_of_profit` (given_up / (given_up + profit),
    null unless positive) and `largest` (most that one row gave up).
    """
    opened = accounts.filter(pl.col("exit_reason") != "rejected")
    # an account may hold several positions, in several groups: those that were touched are meant
    keys = ["account", "position"] if "position" in adl.columns else ["account"]
    groups = opened.select(*dict.fromkeys([*keys, *by])).unique(keys, keep="first", maintain_order=True)
    rows = _scaled(adl).drop([name for name in by if name not in keys], strict=False)
    rows = rows.join(groups, on=keys, how="left")
    hit = opened.join(adl.select(keys).unique(), on=keys, how="semi")
    sums = exact_sums(rows, by, ("notional", "given_up"))
    cash = "cash_change_quote" if "cash_change_quote" in hit.columns else "cash_change"
    made = exact_sums(hit.with_columns(profit=pl.col("weight") * pl.col(cash)), by, ("profit",)).join(
        hit.group_by(by).agg(deleveraged=pl.len().cast(pl.Int64)), on=by, nulls_equal=True
    )
    counted = rows.group_by(by).agg(fills=pl.len().cast(pl.Int64), largest=pl.col("given_up").max())
    everyone = opened.group_by(by).agg(positions=pl.len().cast(pl.Int64))
    table = everyone
    for part in (made, counted, sums):
        table = table.join(part, on=by, how="left", nulls_equal=True)
    before = pl.col("given_up") + pl.col("profit")
    return (
        table.with_columns(
            pl.col("deleveraged", "fills").fill_null(0),
            pl.col("notional", "given_up", "profit", "largest").fill_null(0.0),
        )
        .with_columns(share_of_profit=pl.when(before > 0.0).then(pl.col("given_up") / before))
        .select(
            *by,
            *("positions", "deleveraged", "fills", "notional", "given_up"),
            *("profit", "share_of_profit", "largest"),
        )
        .sort(by)
    )


def counterfactual(
    accounts: pl.DataFrame, without: pl.DataFrame, by: Sequence[str] = ("strategy", "policy")
) -> pl.DataFrame:
    """Two passes over the same prices, with deleveraging and without: what it cost and what it spared.

    Both are accounts tables of the same positions. Columns: `by`, `positions`; `cost` = sum of (cash change
    without - with)+, the two-pass haircut H; `spared` = sum of (with - without)+; `worse`, `better` (how many
    positions); money times weight. A position that ADL closed early is spared what the price did later.

    Raises InputError where the two hold different positions.
    """
    keys = ["account", "position"]
    first = accounts.filter(pl.col("exit_reason") != "rejected")
    second = without.filter(pl.col("exit_reason") != "rejected").select(*keys, other="cash_change")
    joined = first.join(second, on=keys, how="full", coalesce=True)
    alone = joined.filter(pl.col("other").is_null() | pl.col("cash_change").is_null())
    if alone.height:
        raise InputError(
            f"accounts: position {alone['position'][0]} of {alone['account'][0]!r} is in one run only; allowed: two runs "
            "of the same positions"
        )
    lost = pl.col("weight") * (pl.col("other") - pl.col("cash_change"))
    joined = joined.with_columns(
        cost=lost.clip(lower_bound=0.0),
        spared=(-lost).clip(lower_bound=0.0),
        total=pl.lit("all"),
    )
    groups = list(by) or ["total"]
    counted = joined.group_by(groups).agg(
        positions=pl.len().cast(pl.Int64),
        worse=(pl.col("cost") > 0).sum().cast(pl.Int64),
        better=(pl.col("spared") > 0).sum().cast(pl.Int64),
    )
    sums = exact_sums(joined, groups, ("cost", "spared"))
    table = counted.join(sums, on=groups, nulls_equal=True).sort(groups)
    return table.select(*by, "positions", "worse", "better", "cost", "spared")


def recoveries(path: pl.DataFrame, by: Sequence[str] = ()) -> pl.DataFrame:
    """Every drawdown of a balance: `start` (its peak), `peak`, `low_time`, `low`, `depth` (1 - low / peak), `end`
    (first time the peak is reached again, null if never) and `days` from start to end.

    `path`: `time`, `balance` of one fund, sorted; of several, told apart by the columns `by`, each sorted. Deepest first.
    """
    keys = list(by)

    def own(what: pl.Expr) -> pl.Expr:
        return what.over(keys) if keys else what

    rows = path.select(*keys, "time", "balance").with_columns(peak=own(pl.col("balance").cum_max()))
    rows = rows.with_columns(down=pl.col("balance") < pl.col("peak")).with_columns(
        # a stretch begins where the balance leaves its peak; the row before it is the peak
        part=own((pl.col("down") & ~pl.col("down").shift(1, fill_value=False)).cast(pl.Int64).cum_sum()),
        before=own(pl.col("time").shift(1)),
        after=own(pl.when(~pl.col("down")).then(pl.col("time")).backward_fill()),
    )
    return (
        rows.filter("down")
        .group_by(*keys, "part", maintain_order=True)
        .agg(
            start=pl.col("before").first(),
            peak=pl.col("peak").first(),
            low_time=pl.col("time").get(pl.col("balance").arg_min()),
            low=pl.col("balance").min(),
            end=pl.col("after").last(),
        )
        .with_columns(
            depth=1.0 - pl.col("low") / pl.col("peak"),
            days=(pl.col("end") - pl.col("start")).dt.total_microseconds() / 86_400e6,
        )
        .sort(*keys, "depth", "start", descending=[*([False] * len(keys)), True, False])
        .select(*keys, "start", "peak", "low_time", "low", "depth", "end", "days")
    )


def days_to_recover(path: pl.DataFrame) -> float:
    """Days from the peak before the deepest drawdown until it is reached again; infinite if it is not, 0 without
    a drawdown.
    """
    table = recoveries(path)
    if table.is_empty():
        return 0.0
    days = table["days"][0]
    return math.inf if days is None else float(days)
