"""Deleveraging strategy by strategy and policy by policy: what a grid of them is compared by.

In: a run's accounts and its deleveragings (`Result.extra["adl"]`), each strategy and policy a world of its own, as
`perpbt.backtest` makes them. Out: one row for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import polars as pl

from perpbt.adl.rounds import round_measures, rounds
from perpbt.adl.tables import FIVE_SECONDS, deleveraged, deleveraging_waves
from perpbt.contracts import Contract

BY = ("strategy", "policy")


def by_policy(
    accounts: pl.DataFrame,
    adl: pl.DataFrame,
    gap: timedelta = FIVE_SECONDS,
    contracts: Mapping[str, Contract] | None = None,
    spreads: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """A row for each strategy and policy that opened positions, sorted by these.

    Columns: `strategy`, `policy`; `positions`, `deleveraged`, `fills`, `notional`, `given_up`, `profit`,
    `share_of_profit`, `largest` as in `deleveraged`; `rounds`, `ptsr`, `pmr`, `owed`, `share_given` as in
    `round_measures` (0 rounds and nulls where nobody was deleveraged); `waves`, closings with more than `gap`
    of quiet between them. `contracts` as in `rounds`. With `spreads` (`Result.extra["adl_rounds"]`) also `overshoot` and
    `fairness_regret`, sums over rounds, and `largest_share` of a winner's equity.
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
    for part in parts:
        named = part.join(worlds, on="world", nulls_equal=True).drop("world")
        table = table.join(named, on=BY, how="left", nulls_equal=True)
    none = pl.col("rounds", "waves").fill_null(0)
    return table.with_columns(none, pl.col("owed").fill_null(0.0)).sort(BY)
