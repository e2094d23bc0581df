"""Accounts as a table: a row a position, checked before anything runs.

In: a frame or a Parquet file in the columns of `COLUMNS`. Out: the same rows, of one type a column and
without nulls where there is a default. Faults are told with the column, the row (0-based) and the value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import polars as pl

from perpbt.checks import unknown
from perpbt.errors import InputError
from perpbt.load.columns import TIME, TIMES_ALLOWED, stamp, time_expression

REQUIRED = ("account", "strategy", "symbol", "side", "entry_time", "collateral", "leverage")
OPTIONAL: Mapping[str, pl.DataType | type[pl.DataType]] = {
    "stop_loss": pl.Float64,
    "take_profit": pl.Float64,
    "trailing_stop": pl.Float64,
    "exit_time": pl.Datetime("ms", "UTC"),
    "stop_trigger": pl.String,
    "trailing_trigger": pl.String,
    "take_profit_trigger": pl.String,
    "margin_buffer": pl.Float64,
    "reserve": pl.Float64,
    "world": pl.String,
    "weight": pl.Float64,
    "policy": pl.String,
}
COLUMNS = (*REQUIRED, *OPTIONAL)
WORDS = {"side": ("long", "short"), **dict.fromkeys(
    ("stop_trigger", "trailing_trigger", "take_profit_trigger"), ("last", "mark")
)}  # fmt: skip
MOST = 1e15  # of money, leverage and weight: sums over many accounts stay finite
SLICE = 1 << 20  # rows read at a time where memory is bounded
EVERYONE = "all"  # the world of accounts that name none


def read_accounts(accounts: pl.DataFrame | pl.LazyFrame | str | Path, symbols: Sequence[str]) -> pl.DataFrame:
    """The checked table, optional columns only where it has them. `symbols` are those in the bars; `InputError` names the first fault."""
    source, frame = open_accounts(accounts)
    check_columns(frame.columns, source)
    return checked_rows(frame, symbols, source)


def size_of(path: Path) -> tuple[int, int]:
    """Rows and columns of a Parquet file; none of one that cannot be read, which is told when it is."""
    try:
        lazy = pl.scan_parquet(path)
        return int(lazy.select(pl.len()).collect().item()), len(lazy.collect_schema())
    except (OSError, pl.exceptions.PolarsError):
        return 0, 0


def read_in_slices(path: Path, source: str, symbols: Sequence[str]) -> pl.DataFrame:
    """The same of a Parquet file, a slice at a time and with words as categories: some third of the memory."""
    try:
        lazy = pl.scan_parquet(path)
        check_columns(lazy.collect_schema().names(), source)
        height = int(lazy.select(pl.len()).collect().item())
        words = pl.col(pl.String).exclude("account").cast(pl.Categorical)
        return pl.concat(
            checked_rows(lazy.slice(first, SLICE).collect(), symbols, source, first).with_columns(words)
            for first in range(0, max(height, 1), SLICE)
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{source}: not a readable Parquet file ({first_line(error)})") from error


def checked_rows(frame: pl.DataFrame, symbols: Sequence[str], source: str, first: int = 0) -> pl.DataFrame:
    """Rows from row `first` of the source on, checked, and what is left out filled in."""
    if frame.height == 0:
        raise InputError(f"{source}: no rows; allowed: at least one account")
    frame = cast_columns(frame, source, first)
    check_values(frame, symbols, source, first)
    if "trailing_trigger" in frame.columns or "stop_trigger" in frame.columns:
        given = [name for name in ("trailing_trigger", "stop_trigger") if name in frame.columns]
        frame = frame.with_columns(pl.coalesce(*given, pl.lit("last")).alias("trailing_trigger"))
    fills = {
        "stop_trigger": "last",
        "take_profit_trigger": "last",
        "margin_buffer": 0.0,
        "world": EVERYONE,
        "weight": 1.0,
    }
    return frame.with_columns(
        pl.col(name).fill_null(value) for name, value in fills.items() if name in frame.columns
    )


def open_accounts(accounts: pl.DataFrame | pl.LazyFrame | str | Path) -> tuple[str, pl.DataFrame]:
    """The table and a name for it in errors."""
    if isinstance(accounts, pl.DataFrame):
        return "accounts", accounts
    if isinstance(accounts, pl.LazyFrame):
        try:
            return "accounts", accounts.collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(f"accounts: the LazyFrame given cannot be read: {first_line(error)}") from error
    if not isinstance(accounts, (str, Path)):
        raise InputError(
            f"accounts is of type {type(accounts).__name__}; allowed: a polars frame or a Parquet file"
        )
    path = Path(accounts)
    if not path.is_file():
        raise InputError(f"accounts: no file {str(path)!r}; allowed: a frame or a Parquet file")
    try:
        return str(path), pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    """The first line of what a library says, which is as a rule all that helps."""
    return str(error).strip().partition("\n")[0]


def check_columns(names: Sequence[str], source: str) -> None:
    """Every required column is there and no other than the known ones."""
    lacking = [name for name in REQUIRED if name not in names]
    if lacking:
        raise InputError(
            f"{source}: required column {lacking[0]!r} missing; found: {', '.join(names)}; "
            f"required: {', '.join(REQUIRED)}"
        )
    for name in names:
        if name not in COLUMNS:
            raise InputError(unknown(f"{source}: column {name!r}", name, COLUMNS, "column"))


def cast_columns(frame: pl.DataFrame, source: str, first: int) -> pl.DataFrame:
    """Numbers as Float64, times as UTC milliseconds (naive ones are UTC), words as text."""
    out = []
    for name in frame.columns:
        column, kind = frame[name], frame[name].dtype
        wanted: pl.DataType | type[pl.DataType] = OPTIONAL.get(name, pl.String)
        if name in ("collateral", "leverage"):
            wanted = pl.Float64
        if name in ("entry_time", "exit_time"):
            column = cast_time(column, source, first)
        elif name == "account":
            if not (kind == pl.String or kind.is_integer()):
                raise InputError(f"{source}: column 'account' is {kind}; allowed: text or whole numbers")
        elif wanted == pl.Float64:
            if not (kind.is_numeric() or kind == pl.Null):
                raise InputError(f"{source}: column {name!r} is {kind}; allowed: numbers")
            column = column.cast(pl.Float64)
        elif kind in (pl.String, pl.Categorical, pl.Enum, pl.Null):
            column = column.cast(pl.String)
        else:
            raise InputError(f"{source}: column {name!r} is {kind}; allowed: text")
        out.append(column)
    return pl.DataFrame(out)


def cast_time(column: pl.Series, source: str, first: int) -> pl.Series:
    """A column of times as milliseconds UTC, in the forms bars may have."""
    if column.dtype == pl.Null:
        return column.cast(TIME)
    moments = column.to_frame().select(time_expression(column.name, column.dtype, source)).to_series()
    lost = (moments.is_null() & column.is_not_null()).arg_true()
    if len(lost):
        row = int(lost[0])
        raise InputError(
            f"{source}: row {first + row}, column {column.name!r}: {column[row]!r}; allowed: {TIMES_ALLOWED}"
        )
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_unit != "ms":
        within = (
            column.dt.nanosecond() % 1_000_000 != 0
        )  # bars open on whole ms: the first at or after this is later
        moments = (
            moments
            + pl.select(within.fill_null(False).cast(pl.Int64) * pl.duration(milliseconds=1)).to_series()
        )
    return moments.alias(column.name)


def check_values(frame: pl.DataFrame, symbols: Sequence[str], source: str, first: int) -> None:
    """Every value in its range; the first that is not, by column, is told."""
    rules: list[tuple[str, pl.Expr, str]] = [(name, pl.col(name).is_null(), "a value") for name in REQUIRED]
    rules.append(("symbol", ~pl.col("symbol").is_in(list(symbols)), f"one of {', '.join(symbols)}"))
    for name, words in WORDS.items():
        rules.append((name, ~pl.col(name).is_in(list(words)), " or ".join(words)))
    for name in ("collateral", "leverage", "weight"):
        rules.append(
            (name, ~pl.col(name).is_between(0, MOST, closed="right"), f"a number above 0, at most {MOST:g}")
        )
    rules.append(
        (
            "margin_buffer",
            ~((pl.col("margin_buffer") >= 0) & pl.col("margin_buffer").is_finite()),
            "0 or more",
        )
    )
    rules.append(("reserve", ~pl.col("reserve").is_between(0, MOST), f"0 or more, at most {MOST:g}"))
    for name in ("stop_loss", "take_profit", "trailing_stop"):
        below_zero_price = pl.col("side") == ("short" if name == "take_profit" else "long")
        limit = "above 0, and below 1 where the level lies under the entry"
        rules.append((name, ~((pl.col(name) > 0) & pl.col(name).is_finite()), limit))
        rules.append((name, below_zero_price & (pl.col(name) >= 1), limit))
    rules.append(("exit_time", pl.col("exit_time") < pl.col("entry_time"), "not before entry_time"))
    rules = [rule for rule in rules if rule[0] in frame.columns]
    faults = frame.select(
        wrong.fill_null(False).any().alias(str(k)) for k, (_, wrong, _) in enumerate(rules)
    ).row(0)
    for (name, wrong, allowed), found in zip(rules, faults, strict=True):
        if found:
            at = frame.select(wrong.fill_null(False).arg_true()).to_series()
            row = int(at[0])
            value = frame[name][row]
            told = f"{stamp(value)} UTC" if isinstance(value, datetime) else repr(value)
            raise InputError(
                f"{source}: row {first + row}, column {name!r}: {told}; allowed: {allowed}"
                + (f" ({len(at):,} rows)" if len(at) > 1 else "")
            )
