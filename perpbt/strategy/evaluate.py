"""Reading a strategy's expressions on one symbol's bars, and catching those that look ahead.

In: a bound strategy and a frame of bars. Out: boolean signals and price columns as arrays, one value a bar.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perpbt.config.fields import nearest
from perpbt.errors import InputError
from perpbt.strategy.find import SIGNALS, BoundStrategy, first_line


def evaluate(bound: BoundStrategy, frame: pl.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """The four signals on one symbol's bars, one value a bar; null is False, a signal left out is never True.

    Raises `InputError` naming strategy, signal and symbol for an expression that fails, is not boolean or
    does not have one value a bar.
    """
    never = np.zeros(frame.height, dtype=np.bool_)
    found = {key: _signal(bound, key, frame).fill_null(False).to_numpy() for key in bound.signals}
    return {key: found.get(key, never) for key in SIGNALS}


def evaluate_columns(
    bound: BoundStrategy, frame: pl.DataFrame, names: Iterable[str] | None = None
) -> dict[str, NDArray[np.float64]]:
    """Columns of prices by name: the strategy's own, else the bars'; null is NaN. Default: all its own.

    Raises `InputError` for a name that neither has, and for a column that is not numeric.
    """
    out = {}
    for name in bound.columns if names is None else names:
        series = _column(bound, name, frame)
        out[name] = series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return out


def check_look_ahead(bound: BoundStrategy, frame: pl.DataFrame, cuts: int = 4) -> None:
    """Raise `InputError` if a signal or column changes when later bars are hidden.

    Everything is evaluated again on the first n bars, for a few n: `cuts` spread evenly, and as many just
    after bars where the value turns, which is where a look at the next bar shows. Values, nulls included,
    must be the same. A strategy that is not deterministic fails too.
    """
    for name in (*bound.signals, *bound.columns):
        read = _signal if name in bound.signals else _column
        full = read(bound, name, frame)
        for cut in _cut_points(full, cuts):
            part = read(bound, name, frame.head(cut))
            differs = full.head(cut).ne_missing(part).arg_true()
            if len(differs):
                bar = differs[0]
                raise InputError(
                    f"{_place(bound, name, frame)} looks ahead: at bar {bar} ({frame['ts'][bar]}) it is "
                    f"{full[bar]} with all {frame.height} bars and {part[bar]} with only the first {cut}"
                )


def _cut_points(full: pl.Series, cuts: int) -> list[int]:
    """Lengths of prefixes to compare, ascending; every one shorter than the whole."""
    length = len(full)
    points = {length * (k + 1) // (cuts + 1) for k in range(cuts)}
    turned = full.ne_missing(full.shift(1))
    kinds = [turned]
    if full.dtype == pl.Boolean:  # bars that became true and bars that ceased to be, each with their share
        kinds = [turned & full.fill_null(False), turned & ~full.fill_null(False)]
    for kind in kinds:
        bars = kind.arg_true()
        points |= {int(bars[len(bars) * k // cuts]) + 1 for k in range(cuts) if len(bars)}
    return sorted(point for point in points if 0 < point < length)


def _signal(bound: BoundStrategy, key: str, frame: pl.DataFrame) -> pl.Series:
    series = _series(bound, key, bound.signals[key], frame)
    if series.dtype != pl.Boolean:
        raise InputError(f"{_place(bound, key, frame)} is {series.dtype}; a signal must be Boolean")
    return series


def _column(bound: BoundStrategy, name: str, frame: pl.DataFrame) -> pl.Series:
    if name in bound.columns:
        series = _series(bound, name, bound.columns[name], frame)
    elif name in frame.columns:
        series = frame.get_column(name)
    else:
        known = {*bound.columns, *frame.columns}
        raise InputError(f"{_place(bound, name, frame)}: no such column{nearest(name, known)}")
    if not series.dtype.is_numeric():
        raise InputError(f"{_place(bound, name, frame)} is {series.dtype}; a price column must be numeric")
    return series


def _series(bound: BoundStrategy, name: str, expression: pl.Expr, frame: pl.DataFrame) -> pl.Series:
    """An expression's values, a constant spread over all bars."""
    try:
        result = frame.with_columns(expression.alias("_value"))
    except pl.exceptions.ColumnNotFoundError as error:
        raise InputError(
            f"{_place(bound, name, frame)} needs a column these bars do not have: {first_line(error)}; "
            f"they have: {', '.join(frame.columns)}"
        ) from error
    except pl.exceptions.ShapeError as error:
        raise InputError(
            f"{_place(bound, name, frame)} must have one value for each of {frame.height} bars: "
            f"{first_line(error)}"
        ) from error
    except Exception as error:  # whatever the user's code raises is told as a finding about it
        raise InputError(
            f"{_place(bound, name, frame)} failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    return result.get_column("_value")


def _place(bound: BoundStrategy, name: str, frame: pl.DataFrame) -> str:
    symbol = frame["symbol"][0] if "symbol" in frame.columns and frame.height else "?"
    return f"strategy {bound.label!r}, {name}, symbol {symbol}"
