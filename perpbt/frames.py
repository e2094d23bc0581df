"""The accounts table from arrays, without copying what need not be copied.

In: settled columns, and labels that say whose each row is. Out: a frame in the columns of `perpbt.result.Result.accounts`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]

from perpbt.kernels.adding import NUMBERS
from perpbt.kernels.tables import ACCEPTED, REASONS, REJECTIONS, Integers
from perpbt.settled import Columns

ORDER = [
    "account",
    "position",
    "strategy",
    "policy",
    "symbol",
    "world",
    "weight",
    "side",
    "leverage",
    "collateral",
    "entry_time",
    "entry_price",
    "quantity",
    "margin",
    "liquidation_price",
    "bankruptcy_price",
    "exit_time",
    "exit_price",
    "exit_reason",
    "rejection",
    "pnl",
    "funding",
    "fees",
    "liquidation_fee",
    "surplus",
    "deficit",
    "top_up",
    "cash_change",
    "total_return",
    "max_drawdown",
    "worst_margin_ratio",
]
MOMENT = pa.timestamp("ms", "UTC")


def words(names: tuple[str, ...], codes: np.ndarray) -> pl.Series:
    """Names by code, sharing one copy of each."""
    return pl.Series(names, dtype=pl.String).gather(pl.Series(codes.astype(np.uint32)))


def held(values: np.ndarray, kind: pa.DataType, known: pa.Buffer | None = None) -> pl.Series:
    """A column on the memory of an array, null where the bits of `known` are 0."""
    values = np.ascontiguousarray(values)
    series = pl.from_arrow(pa.Array.from_buffers(kind, values.size, [known, pa.py_buffer(values)]))
    assert isinstance(series, pl.Series)
    return series


def bits(known: np.ndarray) -> pa.Buffer | None:
    """A validity bitmap; None if all are known."""
    return None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))


def times(values: Integers) -> pl.Series:
    """Milliseconds as UTC datetimes."""
    return held(values, MOMENT)


def accounts_table(columns: Columns, labels: Mapping[str, pl.Series]) -> pl.DataFrame:
    """The frame. `labels` are account, position, strategy, policy, symbol, world and leverage, a row each; side where it is at hand."""
    rejection = columns.word("rejection")
    opened = rejection == ACCEPTED
    known = bits(opened)
    made = {name: held(columns.number(name), pa.float64(), known) for name in NUMBERS[1:]}
    reasons = words((*REJECTIONS[1:],), np.maximum(rejection, 1) - 1) if known is not None else None
    made |= {
        "weight": held(columns.weight, pa.float64()),
        "collateral": held(columns.number("collateral"), pa.float64()),
        "entry_time": held(columns.moment("entry_time"), MOMENT),
        "exit_time": held(columns.moment("exit_time"), MOMENT, known),
        "exit_reason": words(REASONS, columns.word("exit_reason")),
        "rejection": pl.repeat(None, columns.size, dtype=pl.String, eager=True)
        if reasons is None
        else pl.select(pl.when(pl.Series(~opened)).then(reasons)).to_series(),
    }
    if "side" not in labels:
        made["side"] = words(("short", "long"), columns.word("side"))
    return pl.DataFrame([{**made, **labels}[name].alias(name) for name in ORDER])
