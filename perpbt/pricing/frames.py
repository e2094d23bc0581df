"""What the rooms of pricing share: checked columns as arrays, and times.

In: a frame of one symbol. Out: float64 arrays (null as NaN), milliseconds, or an `InputError` naming column,
row and value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from perpbt.errors import InputError
from perpbt.load.columns import TIME, stamp

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
HOUR_MS = 3_600_000


def require(frame: pl.DataFrame, columns: Sequence[str], purpose: str) -> None:
    """Raise `InputError` for the first column that is missing."""
    for name in columns:
        if name not in frame.columns:
            raise InputError(
                f"column {name!r} missing, needed for {purpose}; found: {', '.join(frame.columns)}"
            )


def prices(frame: pl.DataFrame, name: str, purpose: str) -> Floats:
    """A column of prices; null is NaN, anything else must be finite and > 0."""
    require(frame, [name], purpose)
    values = numbers(frame, name)
    bad = np.flatnonzero(~np.isnan(values) & (values <= 0.0))
    if bad.size:
        raise _fault(frame, name, int(bad[0]), "a finite price > 0, or null")
    return values


def numbers(frame: pl.DataFrame, name: str) -> Floats:
    """A column of numbers; null is NaN, anything else must be finite."""
    if not (frame.schema[name].is_numeric() or frame.schema[name] == pl.Null):
        raise InputError(f"column {name!r} has type {frame.schema[name]}; allowed: numbers")
    column = frame[name].cast(pl.Float64)
    broken = (~column.is_finite()).fill_null(False).arg_true()
    if len(broken):
        raise _fault(frame, name, int(broken[0]), "a finite number, or null")
    return np.array(column.fill_null(float("nan")).to_numpy(), dtype=np.float64)


def moments(frame: pl.DataFrame) -> Integers:
    """`ts` in milliseconds; rising, without nulls."""
    require(frame, ["ts"], "a series in time")
    if frame.schema["ts"] != TIME:
        raise InputError(f"column 'ts' has type {frame.schema['ts']}; allowed: {TIME}")
    if frame["ts"].null_count():
        raise _fault(frame, "ts", int(frame["ts"].is_null().arg_true()[0]), "a time on every row")
    times = np.array(frame["ts"].dt.epoch("ms").to_numpy(), dtype=np.int64)
    unsorted = np.flatnonzero(np.diff(times) <= 0)
    if unsorted.size:
        raise _fault(frame, "ts", int(unsorted[0]) + 1, "times that rise from row to row, one symbol a frame")
    return times


def symbol_of(frame: pl.DataFrame) -> str:
    """The one symbol of a frame."""
    require(frame, ["symbol"], "a series of one symbol")
    found = frame["symbol"].unique().to_list()
    if len(found) != 1 or found[0] is None:
        raise InputError(f"column 'symbol' holds {len(found):,} symbols; allowed: rows of exactly one")
    return str(found[0])


def bar_length(times: Integers) -> int:
    """The commonest spacing in milliseconds (the shorter of equals); 0 for a single bar."""
    if times.size < 2:
        return 0
    found, counts = np.unique(np.diff(times), return_counts=True)
    return int(found[np.argmax(counts)])


def as_time(milliseconds: Integers, name: str = "ts") -> pl.Series:
    """Milliseconds as the canonical datetimes."""
    return pl.Series(name, milliseconds).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def nullable(name: str, values: Floats) -> pl.Series:
    """An array as a column, NaN as null."""
    return pl.Series(name, values).fill_nan(None)


def _fault(frame: pl.DataFrame, name: str, row: int, allowed: str) -> InputError:
    value = frame[name][row]
    when = f", {stamp(frame['ts'][row])} UTC" if name != "ts" and "ts" in frame.columns else ""
    shown = stamp(value) if name == "ts" else repr(value)
    return InputError(f"column {name!r}, row {row}{when}: {shown}; allowed: {allowed}")
