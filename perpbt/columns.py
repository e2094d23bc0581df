"""Columns of tables on the memory of arrays: nothing is copied that need not be.

In: arrays, and for words their codes. Out: polars columns, handed over by Arrow's C interface.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]

from perpbt.mapped import Array

MOMENT = pa.timestamp("ms", "UTC")
VIEW = np.dtype("V16")  # what Arrow's view of a word takes


class Handed:
    """An arrow array handed to polars by the C interface; to take the array itself it imports a tenth of a second's worth."""

    def __init__(self, array: pa.Array) -> None:
        self._array = array

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]:
        """The array, as capsules."""
        made: tuple[object, object] = self._array.__arrow_c_array__(requested_schema)
        return made


def held(values: Array, kind: pa.DataType, known: pa.Buffer | None = None) -> pl.Series:
    """A column on the memory of an array, null where the bits of `known` are 0."""
    values = np.ascontiguousarray(values)
    return pl.Series(Handed(pa.Array.from_buffers(kind, values.size, [known, pa.py_buffer(values)])))


def bits(known: npt.NDArray[np.bool_]) -> pa.Buffer | None:
    """A validity bitmap; None if all are known."""
    return None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))


def times(values: Array) -> pl.Series:
    """Milliseconds as UTC datetimes."""
    return held(values, MOMENT)


def words(
    names: Sequence[str], codes: Array, counts: Array | None = None, known: pa.Buffer | None = None
) -> pl.Series:
    """Names by code, each counts[k] times (default once), sharing one copy of each; null where the bits of `known` are 0."""
    _, views, *letters = pa.array(names, pa.string_view()).buffers()
    every = np.frombuffer(views, VIEW)[codes]  # numpy's memory is cleared in larger pages than polars'
    if counts is not None:
        every = np.repeat(every, counts)
    column = pa.Array.from_buffers(pa.string_view(), every.size, [known, pa.py_buffer(every), *letters])
    return pl.Series(Handed(column))
