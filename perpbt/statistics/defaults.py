"""Default statistics: a row per strategy × policy × symbol, and the totals above (`result.statistics`)."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from perpbt.errors import RunError
from perpbt.statistics.common import (
    EXIT_NOTIONAL,
    HELD,
    IS_DEFAULTED,
    IS_LIQUIDATED,
    IS_REJECTED,
    exact_sums,
    opened,
    ratio,
    require,
)

TOTAL = "all"
"""Stands for the strategy, policy or symbol in a row that sums over them."""

KEYS = ("strategy", "policy", "symbol")
LEVELS = (KEYS, ("strategy", "policy"), ("strategy",), ())
SUMS = (
    *("weight", "defaulted_weight", "defaulted_notional", "liquidation_fees", "surplus"),
    *("deficit", "fee_share", "uncovered", "return_sum"),
)
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
FUND_COLUMNS = ("time", "world", "symbol", "fee_share", "uncovered")
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

    Raises InputError for lacking columns; RunError if pd·ead·lgd and the mean deficit differ by more than
    1e-12 of either, or the ledger holds an uncovered deficit or a fee share in a world and symbol without
    such a position.
    """
    require(accounts, ACCOUNT_COLUMNS, "accounts")
    require(fund, FUND_COLUMNS, "fund")
    accounts = accounts.select(ACCOUNT_COLUMNS)
    parts = _base_sums(opened(accounts), fund)
    table = pl.concat([_level(accounts, parts, kept, population) for kept in LEVELS])
    _check_identity(table)
    return table.drop("_by_factors")


def _base_sums(positions: pl.DataFrame, fund: pl.DataFrame) -> pl.DataFrame:
    """SUMS of every strategy × policy × symbol; the totals are exact sums of these."""
    weight = pl.col("weight")
    weighted = positions.with_columns(
        defaulted_weight=pl.when(IS_DEFAULTED).then(weight).otherwise(0.0),
        defaulted_notional=pl.when(IS_DEFAULTED).then(weight * EXIT_NOTIONAL).otherwise(0.0),
        liquidation_fees=weight * pl.col("liquidation_fee"),
        surplus=weight * pl.col("surplus"),
        deficit=weight * pl.col("deficit"),
        fees=weight * pl.col("fees"),
        return_sum=pl.col("total_return"),
    )
    own = [name for name in SUMS if name not in ("fee_share", "uncovered")]
    parts = exact_sums(weighted, KEYS, own)
    for flow in (_fee_shares(weighted, fund), _uncovered(weighted, fund)):
        parts = parts.join(flow, on=KEYS, how="left", nulls_equal=True)
    return parts.with_columns(pl.col("fee_share", "uncovered").fill_null(0.0))


def _fee_shares(weighted: pl.DataFrame, fund: pl.DataFrame) -> pl.DataFrame:
    """The ledger's trading-fee share by KEYS: a constant share of fees, so pro rata to the fees paid."""
    flow = exact_sums(fund.filter(pl.col("fee_share") != 0), ("world", "symbol"), ("fee_share",))
    claims = weighted.select(*KEYS, "world", claim="fees").filter(pl.col("claim") != 0)
    return exact_sums(_attribute(flow, claims, "fee_share", ("world", "symbol")), KEYS, ("fee_share",))


def _uncovered(weighted: pl.DataFrame, fund: pl.DataFrame) -> pl.DataFrame:
    """The ledger's uncovered deficits by KEYS, pro rata to the deficits of the same time, world and symbol.

    A deficit of a part closed by deleveraging stands in the row of its position, whose exit time is another:
    such an amount is given to the deficits of that world and symbol whenever they were.
    """
    place, moment = ("world", "symbol"), ("world", "symbol", "time")
    flow = exact_sums(fund.filter(pl.col("uncovered") != 0), moment, ("uncovered",))
    claims = weighted.select(*KEYS, "world", time="exit_time", claim="deficit").filter(pl.col("claim") > 0)
    claims = claims.with_columns(pl.col("time").cast(flow.schema["time"]))
    dated = flow.join(claims, on=moment, how="semi", nulls_equal=True)
    undated = flow.join(claims, on=moment, how="anti", nulls_equal=True)
    shares = [_attribute(dated, claims, "uncovered", moment), _attribute(undated, claims, "uncovered", place)]
    return exact_sums(pl.concat(shares), KEYS, ("uncovered",))


def _attribute(flow: pl.DataFrame, claims: pl.DataFrame, amount: str, on: Sequence[str]) -> pl.DataFrame:
    """Each row of `flow` split over the KEYS that have a claim on it; columns KEYS and `amount`."""
    lost = flow.join(claims, on=on, how="anti", nulls_equal=True)
    if lost.height:
        first = ", ".join(f"{name} {value}" for name, value in lost.row(0, named=True).items())
        raise RunError(
            f"fund and accounts disagree: no position explains {first}, nor {lost.height - 1} other rows"
        )
    own = exact_sums(claims, list(dict.fromkeys((*on, *KEYS))), ("claim",))
    whole = exact_sums(own, on, ("claim",)).rename({"claim": "whole"})
    split = flow.join(whole, on=on, nulls_equal=True).join(own, on=on, nulls_equal=True)
    return split.select(*KEYS, pl.col(amount) * (pl.col("claim") / pl.col("whole")))


def _level(
    accounts: pl.DataFrame, parts: pl.DataFrame, kept: Sequence[str], population: pl.DataFrame | None
) -> pl.DataFrame:
    """The rows that keep the keys `kept` and sum over the others."""
    blank = [pl.lit(TOTAL).alias(key) for key in KEYS if key not in kept]
    sums = exact_sums(parts.with_columns(blank), KEYS, SUMS)
    at_risk, liquidated = ~IS_REJECTED, IS_LIQUIDATED
    counts = (
        accounts.with_columns(blank)
        .group_by(KEYS)
        .agg(
            accounts=pl.col("account").n_unique(),
            positions=at_risk.sum(),
            rejected=IS_REJECTED.sum(),
            liquidated=liquidated.sum(),
            defaulted=IS_DEFAULTED.sum(),
            median_return=pl.col("total_return").filter(at_risk).median(),
            max_drawdown=pl.col("max_drawdown").filter(at_risk).max(),
            time_to_liquidation=HELD.filter(liquidated).dt.total_milliseconds().median(),
        )
    )
    if population is not None:
        everyone = population.with_columns(blank).group_by(KEYS).agg(pl.col("accounts").sum().cast(pl.UInt32))
        counts = everyone.join(counts.drop("accounts"), on=KEYS, how="left", nulls_equal=True)
        counts = counts.with_columns(pl.col(COUNTS).fill_null(0))
    joined = counts.join(sums, on=KEYS, how="left", nulls_equal=True).sort(KEYS)
    return joined.with_columns(pl.col(SUMS).fill_null(0.0)).select(_columns())


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
        pl.col("max_drawdown"),
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
