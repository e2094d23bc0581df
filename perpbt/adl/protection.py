"""Negative balances with protection and without: a finished run, seen as if traders owed what their positions lost beyond their margins.

In: a run's accounts and ledger, in which the fund was charged. Out: the same tables, in which the traders are. Prices, exits and fees are the
same with and without as long as nobody's deficit touches anybody else.
"""

from __future__ import annotations

import polars as pl

from perpbt.errors import InputError

COUPLED = (
    "adl",
    "outside",
    "socialised",
    "inventory",
)  # of ledgers in which others' lives or sales depend on deficits
IN = ("liquidation_fees", "surplus", "fee_share", "top_up")


def without_protection(accounts: pl.DataFrame, fund: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(accounts, fund) of a run whose venue lets balances go below zero and never pays for them.

    In accounts `owed` is what a position lost beyond its margin, which the trader owes the venue: it is taken off `cash_change` (also
    `cash_change_quote`) and `total_return`, and `deficit` is 0. In the ledger nothing is drawn and nothing is uncovered, so that
    balances only grow; `perpbt.simulate(..., fund={"protection": False})` is a run that is so from the start. Whether traders pay what they owe is not asked: accounts that trade on do so with the wallets they had. A default is then a row with owed > 0.

    >>> run = perpbt.simulate(bars, accounts, fund={"seed": 1e6})
    >>> accounts, fund = perpbt.adl.without_protection(run.accounts, run.fund)

    Raises InputError for a coupled run, whose winners were closed for deficits, and for a fund that held positions.
    """
    found = [name for name in COUPLED if name in fund.columns]
    if found:
        raise InputError(
            f"fund has a column {found[0]!r}: deficits have touched others; allowed: runs without coupling = 'adl' or 'cascade', without "
            "socialised losses and without fund.hold"
        )
    owed = pl.col("deficit")
    changes = {"cash_change": pl.col("cash_change") - owed}
    if "cash_change_quote" in accounts.columns:
        changes["cash_change_quote"] = pl.col("cash_change_quote") - owed * pl.col("conversion")
    invested = pl.col("collateral") + pl.col("top_up")
    lost = pl.when(owed > 0.0).then((pl.col("cash_change") - owed) / invested)
    charged = accounts.with_columns(
        owed=owed, deficit=owed * 0.0, total_return=lost.otherwise("total_return"), **changes
    )
    return charged, _undrawn(fund)


def _undrawn(fund: pl.DataFrame) -> pl.DataFrame:
    """A ledger in which nothing was ever drawn."""
    pooled = (pl.col("symbol") == "all").any().over("world")
    name = (
        pl.col("fund") if "fund" in fund.columns else pl.when(pooled).then(pl.lit("all")).otherwise("symbol")
    )
    received = pl.sum_horizontal(name for name in IN if name in fund.columns)
    rows = fund.with_row_index("_row").with_columns(_fund=name, _in=received)
    keys = ("world", "_fund")
    seeds = rows.group_by(keys).agg(_seed=pl.col("balance").sort_by("_row").first())
    moments = rows.group_by(*keys, "time").agg(pl.col("_in").sum()).sort(*keys, "time")
    moments = moments.with_columns(_so_far=pl.col("_in").cum_sum().over(keys)).drop("_in")
    told = rows.join(moments, on=[*keys, "time"], how="left", nulls_equal=True).join(
        seeds, on=keys, how="left", nulls_equal=True
    )
    opening = pl.col("_row") == pl.col("_row").min().over(keys)
    balance = pl.when(opening).then("balance").otherwise(pl.col("_seed") + pl.col("_so_far"))
    made = told.sort("_row").with_columns(balance=balance, deficit=0.0, uncovered=0.0)
    return made.select(fund.columns)
