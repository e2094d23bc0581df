"""Default statistics: a row per strategy × policy × symbol, and the totals above (`result.statistics`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perpbt.errors import InputError, RunError
from perpbt.statistics.common import IS_REJECTED, codes_in, ratio, require

TOTAL = "all"
"""Stands for the strategy, policy or symbol in a row that sums over them."""

KEYS = ("strategy", "policy", "symbol")
LEVELS = (KEYS, ("strategy", "policy"), ("strategy",), ())
TOTALLED = (
    *("weight", "defaulted_weight", "defaulted_notional", "liquidation_fees"),
    *("surplus", "deficit", "return_sum"),
)
SUMS = (*TOTALLED, "fee_share", "uncovered")
ACCOUNT_COLUMNS = (
    *(
        "account",
        *KEYS,
        "world",
        "weight",
        "exit_reason",
        "entry_time",
        "exit_time",
        "quantity",
        "exit_price",
    ),
    *("fees", "liquidation_fee", "surplus", "deficit", "total_return", "max_drawdown"),
)
NUMBERS = ("weight", *ACCOUNT_COLUMNS[7:])
FUND_COLUMNS = ("time", "world", "symbol", "fee_share", "uncovered")
TOLD_APART = ("liquidation", "rejected")
COUNTS = ("accounts", "positions", "rejected", "liquidated", "defaulted")
IDENTITY_TOLERANCE = 1e-12


def summarise(
    accounts: pl.DataFrame, fund: pl.DataFrame, population: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Default and fund statistics of a run.

    `population` (strategy, policy, symbol, accounts) says how many accounts there were, those included that
    never gave an order: every row of it has a row here. Without it the accounts are those of `accounts`.

    Rows: every strategy × policy × symbol, then strategy × policy, strategy, and everything, with "all" in
    place of what was summed over; within a level sorted by name.

    Columns. Counts, every row of `accounts` once whatever its weight: `accounts` (distinct account values),
    `positions` (opened), `rejected`, `liquidated`, `defaulted` (deficit > 0, after any kind of exit).
    Weighted: `pd` = Σw over defaults / Σw over opened positions; `ead` = weighted mean of
    quantity·exit_price at default, in quote currency; `lgd` = Σw·deficit / Σw·quantity·exit_price at
    default; `expected_loss` = Σw·deficit / Σw, quote currency a position, equal to pd·ead·lgd; `surplus`,
    `deficit`, `net_fund_flow` = liquidation fees + surplus + fee share - deficit, and `uncovered`, sums in
    quote currency. Fee share and uncovered are the ledger's, given to strategies that share a world in
    proportion to their fees, and to their deficits of that time. Each position once: `median_return`,
    `mean_return` (fraction of collateral and top-ups), `max_drawdown` (the largest, fraction of peak
    equity), `time_to_liquidation` (median Duration over liquidated positions).

    Nulls: without a default pd and expected_loss are 0, ead and lgd null; without an opened position all
    but counts and sums are null, and sums are 0. No NaN is made; a NaN in a summed column is an error of
    the run that wrote it.

    Raises InputError for lacking columns and numbers that an opened position lacks; RunError if pd·ead·lgd
    and the mean deficit differ by more than 1e-12 of either, or the ledger holds an uncovered deficit or a
    fee share in a world and symbol without such a position.
    """
    # compiled code, which whoever only reads tables need not load
    from perpbt.kernels.numbering import no_index, numbered
    from perpbt.statistics.tally import Tally

    require(accounts, ACCOUNT_COLUMNS, "accounts")
    require(fund, FUND_COLUMNS, "fund")
    _check_nulls(accounts)
    names = {key: accounts[key].unique().sort() for key in (*KEYS, "world")}
    codes = {key: codes_in(words, accounts[key]) for key, words in names.items()}
    sizes = [max(names[key].len(), 1) for key in KEYS]
    index, group = numbered(no_index(), np.ravel_multi_index([codes[key] for key in KEYS], sizes))
    places = zip(KEYS, np.unravel_index(index.known, sizes), strict=True)
    groups = pl.DataFrame([names[key].gather(place) for key, place in places])
    tally = Tally(groups, names["world"], ["another", *TOLD_APART])
    counted = None if population is not None else accounts["account"].rank("dense").fill_null(0).to_numpy()
    reason = codes_in(pl.Series(TOLD_APART), accounts["exit_reason"]) + 1
    numbers = {name: _numbers(accounts[name]) for name in NUMBERS}
    if "exit_notional" in accounts.columns:  # of contracts whose value is not quantity·exit_price
        numbers |= {"quantity": _numbers(accounts["exit_notional"]), "exit_price": np.ones(accounts.height)}
    tally.add(group=group, world=codes["world"], reason=reason, account=counted, **numbers)
    return tally.table(fund, population)


def _check_nulls(accounts: pl.DataFrame) -> None:
    """InputError if an opened position lacks a number, or any its exit reason."""
    opened = ~IS_REJECTED.fill_null(False)
    lacking = accounts.select((pl.col(name).is_null() & opened).sum() for name in (*NUMBERS, "exit_reason"))
    for name, count in lacking.row(0, named=True).items():
        if count:
            raise InputError(
                f"accounts: {name} is null in {count} positions that were opened; allowed: only where an order was "
                "rejected"
            )


def _numbers(column: pl.Series) -> NDArray[np.float64] | NDArray[np.int64]:
    """Values of a column; times in ms, nulls (of rejected orders) 0."""
    plain = column.dt.epoch("ms") if column.dtype.is_temporal() else column.cast(pl.Float64)
    return plain.fill_null(0).to_numpy()


def finished(levels: Sequence[pl.DataFrame], population: pl.DataFrame | None) -> pl.DataFrame:
    """The statistics table from the counts and sums of each of LEVELS; checked.

    `population` as in `summarise`. Raises RunError if pd·ead·lgd and the mean deficit differ.
    """
    table = pl.concat(
        _with_population(level, kept, population) for level, kept in zip(levels, LEVELS, strict=True)
    ).select(_columns())
    _check_identity(table)
    return table.drop("_by_factors")


def _with_population(
    level: pl.DataFrame, kept: Sequence[str], population: pl.DataFrame | None
) -> pl.DataFrame:
    """The rows of a level, those of accounts that gave no order too, sorted by name."""
    if population is not None:
        blank = [pl.lit(TOTAL).alias(key) for key in KEYS if key not in kept]
        everyone = population.with_columns(blank).group_by(KEYS).agg(pl.col("accounts").sum().cast(pl.Int64))
        level = everyone.join(level.drop("accounts"), on=KEYS, how="left", nulls_equal=True)
        level = level.with_columns(pl.col(COUNTS).fill_null(0), pl.col(SUMS).fill_null(0.0))
    return level.sort(KEYS)


def _columns() -> list[pl.Expr]:
    """The columns of the statistics table, in order, from counts and sums."""
    mean_loss = ratio("deficit", "weight")
    factors = [ratio("defaulted_weight", "weight"), ratio("defaulted_notional", "defaulted_weight")]
    pd, ead, lgd = (*factors, ratio("deficit", "defaulted_notional"))
    gains = pl.col("liquidation_fees") + pl.col("surplus") + pl.col("fee_share")
    return [
        *(pl.col(key) for key in KEYS),
        *(pl.col(count).cast(pl.Int64) for count in COUNTS),
        pd.alias("pd"),
        ead.alias("ead"),
        lgd.alias("lgd"),
        mean_loss.alias("expected_loss"),
        pl.col("surplus"),
        pl.col("deficit"),
        (gains - pl.col("deficit")).alias("net_fund_flow"),
        pl.col("uncovered"),
        pl.col("median_return"),
        ratio("return_sum", "positions").alias("mean_return"),
        pl.when(pl.col("positions") > 0).then("max_drawdown"),
        pl.col("time_to_liquidation").round().cast(pl.Int64).cast(pl.Duration("ms")),
        (pd * ead * lgd).alias("_by_factors"),
    ]


def _check_identity(table: pl.DataFrame) -> None:
    """expected_loss = pd·ead·lgd, two ways to one number: unequal means a default miscounted."""
    product, direct = pl.col("_by_factors").fill_null(0.0), pl.col("expected_loss")
    broken = table.filter((product - direct).abs() > IDENTITY_TOLERANCE * pl.max_horizontal(product, direct))
    if broken.height:
        row = broken.row(0, named=True)
        where = " × ".join(str(row[key]) for key in KEYS)
        raise RunError(
            f"{where}: pd·ead·lgd = {row['_by_factors']!r} but mean deficit = {row['expected_loss']!r}"
        )
