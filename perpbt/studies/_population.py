"""Who trades in a study: positions spread evenly over a history, the same for every rule that is compared."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import polars as pl

import perpbt
from perpbt.load import Bars


def spans(bars: Bars) -> pl.DataFrame:
    """First and last bar of every symbol: symbol first last."""
    return (
        bars.frame.filter(pl.col("open").is_not_null())
        .group_by("symbol")
        .agg(pl.col("ts").min().alias("first"), pl.col("ts").max().alias("last"))
        .sort("symbol")
        .collect()
    )


def with_tiers(venue: str | perpbt.Venue, bars: Bars, like: str = "BTCUSDT") -> perpbt.Venue:
    """The venue, with the tiers of `like` for every symbol of the bars it has none for."""
    loaded = perpbt.load_venue(venue)
    unknown = {symbol: like for symbol in bars.symbols if not loaded.has_symbol(symbol)}
    return perpbt.load_venue(loaded, unknown if not loaded.has_symbol("default") else None)


def spread_positions(
    bars: Bars,
    *,
    leverages: Sequence[float],
    starts: int,
    sides: Sequence[str] = ("long", "short"),
    holding: timedelta | None = timedelta(days=7),
    collateral: float = 10_000.0,
) -> pl.DataFrame:
    """A table for `simulate`: every leverage and side on every symbol, opened at `starts` times evenly spaced over its history, closed
    after `holding`.

    `strategy` is the side and `policy` the leverage ("10x"), so that statistics come by both.
    """
    when = pl.col("first") + (pl.col("last") - pl.col("first")) * (pl.col("start") / starts)
    table = (
        spans(bars)
        .join(pl.DataFrame({"start": range(starts)}), how="cross")
        .with_columns(when.dt.cast_time_unit("ms").alias("entry_time"))
        .join(pl.DataFrame({"leverage": [float(one) for one in leverages]}), how="cross")
        .join(pl.DataFrame({"side": list(sides)}), how="cross")
        .with_row_index("account")
        .with_columns(
            pl.col("side").alias("strategy"),
            pl.format("{}x", pl.col("leverage").cast(pl.Int64)).alias("policy"),
            pl.lit(collateral).alias("collateral"),
        )
    )
    if holding is not None:
        table = table.with_columns((pl.col("entry_time") + holding).alias("exit_time"))
    return table.drop("start", "first", "last")


def sized_positions(
    bars: Bars, *, leverages: Sequence[float], collaterals: Sequence[float], starts: int, holding: timedelta
) -> pl.DataFrame:
    """`spread_positions` once for every collateral; `policy` is collateral and leverage ("10,000 at 3x")."""
    return pl.concat(
        spread_positions(
            bars, leverages=leverages, starts=starts, holding=holding, collateral=money
        ).with_columns(
            pl.format("{} at {}x", pl.lit(f"{money:,.0f}"), pl.col("leverage").cast(pl.Int64)).alias("policy")
        )
        for money in collaterals
    ).with_columns(pl.int_range(pl.len()).alias("account"))
