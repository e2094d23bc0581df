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


class Streamed:
    """Arrow arrays that follow one another, handed over likewise."""

    def __init__(self, arrays: Sequence[pa.Array]) -> None:
        self._chunks = pa.chunked_array(arrays)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The arrays, as a capsule."""
        made: object = self._chunks.__arrow_c_stream__(requested_schema)
        return made


def chunked(arrays: Sequence[pa.Array]) -> pl.Series:
    """A column of several pieces of memory."""
    return pl.Series(Streamed(arrays))


def array_of(values: Array, kind: pa.DataType, known: pa.Buffer | None = None) -> pa.Array:
    """An arrow array on the memory of an array, null where the bits of `known` are 0."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(kind, values.size, [known, pa.py_buffer(values)])


def views_of(names: Sequence[str]) -> tuple[Array, list[pa.Buffer]]:
    """How Arrow views each name, and the letters that views refer to."""
    _, views, *letters = pa.array(names, pa.string_view()).buffers()
    return np.frombuffer(views, VIEW), letters


def viewed(views: Array, letters: list[pa.Buffer], size: int, known: pa.Buffer | None = None) -> pa.Array:
    """An arrow array of words by their views, which may be more than `size`; null where the bits of `known` are 0."""
    return pa.Array.from_buffers(pa.string_view(), size, [known, pa.py_buffer(views), *letters])


def held(values: Array, kind: pa.DataType, known: pa.Buffer | None = None) -> pl.Series:
    """A column on the memory of an array, null where the bits of `known` are 0."""
    return pl.Series(Handed(array_of(values, kind, known)))


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
    views, letters = views_of(names)
    every = views[codes]  # numpy's memory is cleared in larger pages than polars'
    if counts is not None:
        every = np.repeat(every, counts)
    return pl.Series(Handed(viewed(every, letters, every.size, known)))
