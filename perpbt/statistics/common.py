"""What all statistics share: which rows count, exact sums per group, and the words for exits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from perpbt.errors import InputError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

EXIT_REASONS = (
    "liquidation",
    "stop_loss",
    "trailing_stop",
    "take_profit",
    "adl",
    "signal",
    "time",
    "end",
    "rejected",
)

IS_REJECTED = pl.col("exit_reason") == "rejected"
IS_LIQUIDATED = pl.col("exit_reason") == "liquidation"
IS_DEFAULTED = pl.col("deficit") > 0
HELD = pl.col("exit_time") - pl.col("entry_time")


def exit_notional(accounts: pl.DataFrame) -> pl.Expr:
    """What each position was worth at its exit fill: quantity·exit_price, unless the table says it, as it does of inverse contracts."""
    if "exit_notional" in accounts.columns:
        return pl.col("exit_notional")
    return pl.col("quantity") * pl.col("exit_price")


def opened(accounts: pl.DataFrame) -> pl.DataFrame:
    """The positions at risk: all rows but the rejected ones."""
    return accounts.filter(~IS_REJECTED)


def names(by: str | Sequence[str], frame: pl.DataFrame) -> list[str]:
    """`by` as a list of columns that `frame` has; InputError for a column it lacks."""
    columns = [by] if isinstance(by, str) else list(by)
    require(frame, columns, "the table to group")
    return columns


def require(frame: pl.DataFrame, columns: Sequence[str], table: str) -> None:
    """InputError naming every column of `columns` that `frame` lacks."""
    lacking = [column for column in columns if column not in frame.columns]
    if lacking:
        raise InputError(
            f"{table} lacks column {', '.join(lacking)}; it has {', '.join(frame.columns) or 'none'}"
        )


def exact_sums(frame: pl.DataFrame, by: Sequence[str], values: Sequence[str]) -> pl.DataFrame:
    """Sum of each of `values` per group of `by`, correctly rounded (math.fsum), sorted by `by`.

    A floating sum depends on the order of its terms; the exact one does not, so row order, chunks and threads
    leave no trace. Nulls are left out. Groups are those of `frame`; no row, no group.
    """
    grouped = frame.group_by(by).agg(pl.col(values).cast(pl.Float64).drop_nulls())
    return grouped.with_columns(_sums(grouped[value]) for value in values).sort(by)


def _sums(groups: pl.Series) -> pl.Series:
    """The exact sum of each list, in one pass: a list of Python floats, not a series a group."""
    ends = groups.list.len().cum_sum().to_list()
    terms = groups.explode().drop_nulls().to_list()  # an empty list explodes to a null
    slices = pairwise([0, *ends])
    return pl.Series(groups.name, [math.fsum(terms[a:b]) for a, b in slices], dtype=pl.Float64)


def codes_in(names: pl.Series, column: pl.Series) -> Integers:
    """Where each value of `column` stands in `names`, distinct words of which one may be null; -1 where it
    does not.
    """
    words = pl.Enum(names.drop_nulls())
    places = np.append(np.flatnonzero(names.is_not_null()), -1)
    codes = column.cast(pl.String).cast(words, strict=False).to_physical().cast(pl.Int64).fill_null(-1)
    found: Integers = places[codes.to_numpy()]
    if names.null_count():
        found[column.is_null().to_numpy()] = np.flatnonzero(names.is_null())[0]
    return found


def ratio(numerator: str, denominator: str) -> pl.Expr:
    """numerator / denominator, null where the denominator is 0."""
    return pl.when(pl.col(denominator) != 0).then(pl.col(numerator) / pl.col(denominator))
