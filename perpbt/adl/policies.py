"""Deleveraging strategy by strategy and policy by policy: what a grid of them is compared by.

In: a run's accounts and its deleveragings (`Result.extra["adl"]`), each strategy and policy a world of its own, as
`perpbt.backtest` makes them. Out: one row for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import polars as pl

from perpbt.adl.rounds import round_measures, rounds
from perpbt.adl.tables import FIVE_SECONDS, counterfactual, deleveraged, deleveraging_waves, recoveries
from perpbt.contracts import Contract
from perpbt.statistics.fund import fund_path

BY = ("strategy", "policy")


def by_policy(
    accounts: pl.DataFrame,
    adl: pl.DataFrame,
    gap: timedelta = FIVE_SECONDS,
    contracts: Mapping[str, Contract] | None = None,
    spreads: pl.DataFrame | None = None,
    fund: pl.DataFrame | None = None,
    without: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """A row for each strategy and policy that opened positions, sorted by these.

    Columns: `strategy`, `policy`; `positions`, `deleveraged`, `fills`, `notional`, `given_up`, `profit`,
    `share_of_profit`, `largest` as in `deleveraged`; `rounds`, `ptsr`, `pmr`, `owed`, `share_given` as in
    `round_measures` (0 rounds and nulls where nobody was deleveraged); `waves`, closings with more than `gap`
    of quiet between them. `contracts` as in `rounds`. With `spreads` (`Result.extra["adl_rounds"]`) also `overshoot` and
    `fairness_regret`, sums over rounds, and `largest_share` of a winner's equity. With `fund`, the run's ledger, also
    `days_to_recover` of the deepest drawdown of the world's funds together, as in `adl.days_to_recover` (infinite: it did not). With
    `without`, the accounts of the same run without deleveraging, also `cost` and `spared` as in `counterfactual`.
    """
    worlds = accounts.select(*BY, "world").unique(maintain_order=True)
    table = deleveraged(accounts, adl, BY)
    by_round = round_measures(rounds(accounts, adl, contracts)).drop("given_up")
    in_waves = deleveraging_waves(adl, gap).group_by("world").agg(waves=pl.len().cast(pl.Int64))
    parts = [by_round, in_waves]
    if spreads is not None:
        worth = pl.col("conversion") if "conversion" in spreads.columns else 1.0
        parts.append(
            spreads.group_by("world").agg(
                overshoot=(pl.col("overshoot") * worth).sum(),
                fairness_regret=(pl.col("fairness_regret") * worth).sum(),
                largest_share=pl.col("largest_share").max(),
            )
        )
    if fund is not None:
        parts.append(_recovered(fund))
    for part in parts:
        named = part.join(worlds, on="world", nulls_equal=True).drop("world")
        table = table.join(named, on=BY, how="left", nulls_equal=True)
    if without is not None:
        passes = counterfactual(accounts, without, BY).select(*BY, "cost", "spared")
        table = table.join(passes, on=BY, how="left", nulls_equal=True)
    none = pl.col("rounds", "waves").fill_null(0)
    return table.with_columns(none, pl.col("owed").fill_null(0.0)).sort(BY)


def _recovered(fund: pl.DataFrame) -> pl.DataFrame:
    """`world`, `days_to_recover`."""
    paths = fund_path(fund)
    deepest = recoveries(paths, by=("world",)).group_by("world", maintain_order=True).first()
    days = pl.col("days").fill_null(float("inf")).alias("days_to_recover")
    everyone = paths.select("world").unique()
    return everyone.join(
        deepest.select("world", days), on="world", how="left", nulls_equal=True
    ).with_columns(pl.col("days_to_recover").fill_null(0.0))
