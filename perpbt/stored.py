"""A table of accounts in a file: written row group by row group, read a few columns at a time.

In: frames, one after the other. Out: one Parquet file, and a view of it that answers as a frame does without holding more than is
asked for.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from perpbt.errors import RunError


class Writer:
    """Appends frames of one schema to a Parquet file, each a row group."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: Any = None

    def append(self, frame: pl.DataFrame) -> None:
        """Write a frame. Raises `RunError` where there is no room."""
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]  # it brings file systems and their ciphers along

        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        try:
            if self._writer is None:
                words = [name for name, kind in frame.schema.items() if kind == pl.String]
                self._writer = parquet.ParquetWriter(
                    self.path, table.schema, compression="zstd", compression_level=1, use_dictionary=words
                )
            self._writer.write_table(table, row_group_size=max(frame.height, 1))
        except OSError as error:
            raise RunError(f"{self.path.parent}: accounts could not be written: {error}") from error

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


class AccountsFile:
    """Where the accounts of a result are; the folder goes with the last who holds this."""

    def __init__(self, path: Path, folder: TemporaryDirectory[str]) -> None:
        self.path, self._folder = path, folder

    def scan(self) -> pl.LazyFrame:
        """The table, to be read lazily."""
        return pl.scan_parquet(self.path)

    def copy_to(self, path: Path) -> None:
        """Put the file elsewhere too, without copying where that can be done."""
        try:
            os.link(self.path, path)
        except OSError:
            shutil.copyfile(self.path, path)

    def __repr__(self) -> str:
        return f"AccountsFile({str(self.path)!r})"


class LazyTable:
    """Answers as a frame does, and reads no more than the columns and rows that an answer takes.

    What narrows or adds to the table is remembered; everything else reads.
    """

    def __init__(self, frame: pl.LazyFrame) -> None:
        self._frame = frame

    def _collected(self) -> pl.DataFrame:
        return self._frame.collect()

    def filter(self, *conditions: Any) -> LazyTable:
        """Fewer rows."""
        return LazyTable(self._frame.filter(*conditions))

    def select(self, *columns: Any, **named: Any) -> LazyTable:
        """Other columns."""
        return LazyTable(self._frame.select(*columns, **named))

    def with_columns(self, *columns: Any, **named: Any) -> LazyTable:
        """More columns."""
        return LazyTable(self._frame.with_columns(*columns, **named))

    def join(self, other: pl.DataFrame, *args: Any, **options: Any) -> LazyTable:
        """Columns of another table."""
        return LazyTable(self._frame.join(other.lazy(), *args, **options))

    def group_by(self, *by: Any, **options: Any) -> LazyGroups:
        """Groups, to be put together with `agg`."""
        return LazyGroups(self._frame, by, options)

    def unique(self, *args: Any, **options: Any) -> pl.DataFrame:
        """Different rows."""
        return self._frame.unique(*args, **options).collect()

    def __getitem__(self, name: str) -> pl.Series:
        return self._frame.select(name).collect().to_series()

    @property
    def columns(self) -> list[str]:
        """Names of columns."""
        return self._frame.collect_schema().names()

    @property
    def schema(self) -> pl.Schema:
        """Names and types of columns."""
        return self._frame.collect_schema()

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self._frame.select(pl.len()).collect().item())

    def is_empty(self) -> bool:
        """Whether there are no rows."""
        return self.height == 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._collected(), name)


class LazyGroups:
    """Groups of a table that has not been read."""

    def __init__(self, frame: pl.LazyFrame, by: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._frame, self._by, self._options = frame, by, options

    def len(self) -> pl.DataFrame:
        """How many rows each has."""
        return self._frame.group_by(*self._by, **self._options).len().collect()

    def agg(self, *columns: Any, **named: Any) -> pl.DataFrame:
        """A row a group."""
        return self._frame.group_by(*self._by, **self._options).agg(*columns, **named).collect()
