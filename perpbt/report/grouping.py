"""By what the report tells positions apart: leverage where it differs, else the first thing that does.

In comes a result; out go its accounts with a column to group by, few enough groups to draw, and a sentence
where values were put together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from perpbt.statistics.grids import stop_order

MOST_GROUPS = 12
STEPS = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 125.0)


@dataclass(frozen=True)
class Grouping:
    """`accounts` with the column `by`; `note` says what was put together, "" if nothing."""

    accounts: pl.DataFrame
    by: str
    note: str = ""


def grouping(result: Any) -> Grouping:
    """Leverage if there are two or more, else stop loss, strategy or symbol if there are two to twelve."""
    accounts: pl.DataFrame = result.accounts
    if accounts["leverage"].n_unique() > 1:
        return _by_leverage(accounts)
    accounts = _with_stop(accounts, result.policies)
    for by in ("stop loss", "strategy", "symbol"):
        if by in accounts.columns and 1 < accounts[by].n_unique() <= MOST_GROUPS:
            return Grouping(accounts, by)
    return Grouping(accounts, "leverage")


def _by_leverage(accounts: pl.DataFrame) -> Grouping:
    if accounts["leverage"].n_unique() <= MOST_GROUPS:
        return Grouping(accounts, "leverage")
    place = np.searchsorted(STEPS, accounts["leverage"].to_numpy(), side="right") - 1
    step = pl.Series("leverage", np.array(STEPS)[np.maximum(place, 0)])
    note = " Leverages are rounded down to the step shown."
    return Grouping(accounts.with_columns(step), "leverage", note)


def _with_stop(accounts: pl.DataFrame, policies: pl.DataFrame) -> pl.DataFrame:
    """A column of stop labels, ordered from tight to none; unchanged without policies."""
    if policies.is_empty():
        return accounts
    order = pl.Enum(stop_order(policies))
    labels = policies.select("policy", pl.col("stop").cast(order).alias("stop loss"))
    return accounts.join(labels, on="policy", how="left", maintain_order="left")
