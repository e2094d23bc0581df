"""Numbers as whole ticks, and back to the very same float64.

In: float64 columns, or the metadata of a packed file. Out: how many ticks make 1 and the ticks as integers, or
polars expressions that give the float64 back.

value = ticks / ticks_per_unit: one division of two whole numbers that float64 holds exactly. IEEE 754 rounds
it to the float64 nearest to the decimal, which is what reading the decimal's text gives. Multiplying by the
tick (0.1 is no float64) would round twice and miss every eighth price or so by the last bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perpbt.errors import InputError
from perpbt.load.columns import PRICES

KEY = "perpbt.pack"
VERSION = 1
SUFFIX = "_ticks"
MARKER = f"open{SUFFIX}"  # a file without this column is not packed, and its metadata need not be read
DECIMALS = 12
LARGEST = 2**53  # whole numbers up to here are exact in float64

Numbers = NDArray[np.float64]


class OffTick(NamedTuple):
    """The first value that is not a whole number of ticks: on no tick of at most `DECIMALS` decimals where
    `tick` is None, else more than `LARGEST` of the `tick` that the values beside it need.
    """

    column: str
    row: int
    tick: str | None


@dataclass(frozen=True)
class Packing:
    """What the numbers of a packed file mean: by symbol, the columns it has and how many of their ticks make
    1; None for a column kept as float64. `rows` are those of the whole file.
    """

    symbols: Mapping[str, Mapping[str, int | None]]
    rows: int

    def of(self, symbols: Collection[str] | None) -> dict[str, Mapping[str, int | None]]:
        """The entries of these symbols, all for None."""
        return {name: units for name, units in self.symbols.items() if symbols is None or name in symbols}

    def columns(self, symbols: Collection[str] | None) -> set[str]:
        """The canonical columns that at least one of these symbols has."""
        return {column for units in self.of(symbols).values() for column in units}

    def value(self, column: str, found: str, symbols: Collection[str] | None) -> pl.Expr:
        """The canonical column from the ticks in `found`, exact, for rows of these symbols."""
        # A symbol without the column has only nulls in it, so what they are divided by does not matter.
        units = {name: float(units.get(column) or 1) for name, units in self.of(symbols).items()}
        per_unit = pl.lit(next(iter(units.values())))
        if len(set(units.values())) > 1:
            per_unit = pl.col("symbol").replace_strict(
                list(units), list(units.values()), return_dtype=pl.Float64
            )
        # numpy divides: polars turns division by a single number into multiplication by its reciprocal.
        inputs = [pl.col(found), per_unit]
        return pl.map_batches(inputs, _divided, return_dtype=pl.Float64, is_elementwise=True)

    def metadata(self) -> dict[str, str]:
        """The entry of the Parquet file's key-value metadata that `read_packing` reads."""
        meaning = f"value of x = x{SUFFIX} / ticks_per_unit, by float64 division; null: column x as it is"
        content = {
            "version": VERSION,
            "meaning": meaning,
            "rows": self.rows,
            "ticks_per_unit": self.symbols,
        }
        return {KEY: json.dumps(content)}


def _divided(inputs: Sequence[pl.Series]) -> pl.Series:
    ticks, per_unit = inputs
    quotient = ticks.to_numpy() / per_unit.to_numpy()  # null ticks are NaN here
    return pl.Series(ticks.name, quotient, dtype=pl.Float64, nan_to_null=ticks.null_count() > 0)


def read_packing(path: str | Path) -> Packing | None:
    """The packing of a Parquet file, None if `perpbt pack` did not write it.

    Raises `InputError` if it was written by a later version, its entry is damaged, or the file was rewritten
    with other rows under the same entry; polars' errors if the file is not Parquet.
    """
    entry = pl.read_parquet_metadata(path).get(KEY)
    if entry is None:
        return None
    try:
        content = json.loads(entry)
        version, rows, units = content["version"], int(content["rows"]), content["ticks_per_unit"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: metadata {KEY!r} cannot be read: {error!r}; pack the bars again"
        ) from error
    if version != VERSION:
        raise InputError(f"{path}: packed in version {version!r} of the format; allowed: {VERSION}")
    if not _sound(units):
        raise InputError(
            f"{path}: metadata {KEY!r} has ticks_per_unit = {str(units)[:80]}; allowed: for each symbol and "
            "column a whole number > 0 or null; pack the bars again"
        )
    # Tools that join tables keep the metadata of the first, whose ticks need not be those of the others.
    held = pl.scan_parquet(path, hive_partitioning=False).select(pl.len()).collect().item()
    if held != rows:
        raise InputError(
            f"{path}: has {held:,} rows, but was packed with {rows:,}: another tool changed it, and its ticks "
            "may not be what its metadata says; pack the bars again"
        )
    return Packing(units, rows)


def _sound(units: Any) -> bool:
    return (isinstance(units, dict) and bool(units)) and all(
        isinstance(columns, dict)
        and set(PRICES) <= set(columns)
        and all(unit is None or (type(unit) is int and unit > 0) for unit in columns.values())
        for columns in units.values()
    )


def ticks_per_unit(columns: Mapping[str, pl.Series]) -> int | OffTick:
    """How many ticks make 1, for the largest tick that divides 1 and has all values of these columns as exact
    multiples: 10 for a tick of 0.1, 2 for 0.5. Nulls are passed over.
    """
    values = {name: column.to_numpy() for name, column in columns.items()}  # null is NaN
    known = {name: np.flatnonzero(~np.isnan(column)) for name, column in values.items()}
    per_unit = 1
    for name, rows in known.items():
        for decimals in range(DECIMALS + 1):
            own, scale = values[name][rows], 10**decimals
            whole = _exact(own, scale)
            # counted at the fewest decimals a value has: at more, its last bit may not round to the right number
            ticks = np.rint(own[whole] * scale).astype(np.int64)
            per_unit = math.lcm(per_unit, scale // int(np.gcd.reduce(ticks, initial=scale)))
            rows = rows[~whole]
            if not rows.size:
                break
        else:
            return OffTick(name, int(rows[0]), None)
    for name, rows in known.items():
        off = rows[~_exact(values[name][rows], per_unit)]
        if off.size:
            return OffTick(name, int(off[0]), tick_text(per_unit))
    return per_unit


def _exact(values: Numbers, per_unit: int) -> NDArray[np.bool_]:
    """Which values come back with the same bits from whole ticks."""
    with np.errstate(over="ignore"):
        ticks = np.rint(values * per_unit) + 0.0  # -0.0, which has no whole number, becomes 0.0 and differs
    same: NDArray[np.bool_] = (ticks / per_unit).view(np.int64) == values.view(np.int64)
    return same & (np.abs(ticks) <= LARGEST)


def in_ticks(column: pl.Series, per_unit: int) -> pl.Series:
    """A column that `ticks_per_unit` found whole, as Int64 ticks; null stays null."""
    return pl.Series(column.name, np.rint(column.to_numpy() * per_unit), nan_to_null=True).cast(pl.Int64)


def tick_text(per_unit: int) -> str:
    """The tick as an exact decimal: 0.1 for 10."""
    return f"{Decimal(1) / per_unit:f}"
