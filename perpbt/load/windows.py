"""One symbol's bars read window by window into arrays on files, where its history does not fit into memory.

In: `Bars`, a symbol, a shelf of files. Out: the `SymbolBars` that `Bars.collect` gives, with its columns in those files; or the same
error. What a rule compares with the row before is compared across windows too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]

from perpbt.errors import InputError
from perpbt.load import funding as events
from perpbt.load.bars import Bars, SymbolBars, lost_bars, no_bars, with_marks
from perpbt.load.checks import Faults, bar_rules
from perpbt.load.columns import BAR_COLUMNS, INDEX, MARK, PRICES, TIME
from perpbt.load.sources import ROW, Part, collect, gather, unreadable
from perpbt.mapped import Array, Files, pieces

Read = Callable[[int, int], None]  # rows read so far, and all
AN_EVENT = 100  # bytes a funding event takes while it is snapped and laid on its bar
A_GAP = 50


def collect_in_windows(
    bars: Bars, symbol: str, shelf: Files, hold: Callable[[int], None], read: Read | None = None
) -> SymbolBars:
    """As `bars.collect(symbol)`. `hold` is asked for the bytes of what has to be held as a whole: funding events and gaps."""
    parts = [part for part in bars.parts if part.may_hold([symbol])]
    present = {"symbol", *(name for part in parts for name in part.held([symbol]))}
    names = [name for name in BAR_COLUMNS if name in present]
    rows, priced = _counts(bars, symbol, parts)
    columns = Columns(shelf, symbol, priced, names)
    faults = Faults(bar_rules(names))
    charged = Charged()
    tail, done = None, 0
    for frame in _windows(bars, symbol, parts, names, shelf):
        faults.meet(frame if tail is None else pl.concat([tail, frame]), 0 if tail is None else 1)
        if not faults:
            if bars.funding_parts is None and "funding_rate" in names:
                charged.append(events.charged_rows(frame, done))
                hold(charged.size * AN_EVENT)
            columns.append(frame)
        tail, done = frame.tail(1), done + frame.height
        if read is not None:
            read(done, rows)
    faults.tell(symbol, bars.place(symbol))
    if bars.funding_parts is None:
        found = events.events_of(charged.frame(), symbol, bars.place(symbol))
    else:
        found = events.events_in_table(bars.funding_parts, symbol, bars.start, bars.end)
        hold(found.height * AN_EVENT)
    if not priced:
        raise no_bars(bars.source, symbol)
    if (done, columns.end) != (rows, priced):
        raise InputError(f"{bars.source}: {symbol} changed while it was read")
    return columns.bars(found, rows - priced, hold)


@dataclass
class Charged:
    """The rows that have a rate, so far: as arrays of their own, because a few rows of a frame can hold on to all of it."""

    rows: list[Array] = field(default_factory=list)
    size: int = 0

    def append(self, some: pl.DataFrame) -> None:
        """Some more."""
        kind = [("row", np.int64), ("ts", np.int64), ("funding_rate", np.float64)]
        made = np.empty(some.height, dtype=kind)
        made["row"], made["ts"] = some["row"].to_numpy(), some["ts"].dt.epoch("ms").to_numpy()
        made["funding_rate"] = some["funding_rate"].to_numpy()
        self.rows.append(made)
        self.size += made.size

    def frame(self) -> pl.DataFrame:
        """All of them, as `charged_rows` of all bars gives them."""
        if not self.rows:
            return pl.DataFrame(schema={"row": pl.Int64, "ts": TIME, "funding_rate": pl.Float64})
        all_rows = np.concatenate(self.rows)
        return pl.DataFrame(
            {
                "row": all_rows["row"].copy(),
                "ts": moments(all_rows["ts"].copy()),
                "funding_rate": all_rows["funding_rate"].copy(),
            }
        )


def _counts(bars: Bars, symbol: str, parts: Sequence[Part]) -> tuple[int, int]:
    """Rows of a symbol, and how many are bars."""
    lazy = gather(parts, [symbol], bars.start, bars.end, exact=False)
    counted = lazy.select(rows=pl.len(), priced=pl.col("open").is_not_null().sum())
    rows, priced = collect(counted, parts, streaming=True).row(0)
    return int(rows), int(priced)


def _windows(
    bars: Bars, symbol: str, parts: Sequence[Part], names: Sequence[str], shelf: Files
) -> Iterator[pl.DataFrame]:
    """The rows of a symbol, a window at a time: of rows of a file, of which some may be others'."""
    for part in parts:
        with _Sliced(part, shelf.folder) as own:
            numbers = own.rows([symbol], bars.start, bars.end, numbered=True, exact=False).select(
                first=pl.col(ROW).min(), last=pl.col(ROW).max()
            )
            first, last = collect(numbers, parts, streaming=True).row(0)
            for low, high in pieces(0 if first is None else last + 1 - first, shelf.step):
                window = replace(own, raw=own.raw.slice(first + low, high - low))
                lazy = window.rows([symbol], bars.start, bars.end)
                absent = set(names) - {"symbol", *window.held([symbol])}
                nulls = [pl.lit(None, dtype=pl.Float64).alias(name) for name in absent]
                frame = collect(lazy.with_columns(nulls).select(names), parts)
                if frame.height:
                    yield frame


class _Sliced:
    """A part of which a slice reads no more than its rows; text, and what a plan makes, is written to a file first."""

    def __init__(self, part: Part, folder: Path | None) -> None:
        self.part, self.folder = part, folder
        self._path: Path | None = None

    def __enter__(self) -> Part:
        if self.part.sliced:
            return self.part
        with NamedTemporaryFile(dir=self.folder, suffix=".parquet", delete=False) as file:
            self._path = Path(file.name)
        try:
            self.part.raw.sink_parquet(self._path)
        except (pl.exceptions.PolarsError, OSError) as error:
            self.__exit__()
            raise unreadable(self.part.name, error) from error
        return replace(self.part, raw=pl.scan_parquet(self._path, hive_partitioning=False))

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


@dataclass
class Columns:
    """The columns of a symbol's bars in files, written window by window."""

    shelf: Files
    symbol: str
    bars_expected: int
    names: Sequence[str]
    end: int = 0
    mark_missing: int = 0
    times: Array = field(init=False)
    values: Array = field(init=False)
    own: list[str] = field(init=False)  # the rows of `values`

    def __post_init__(self) -> None:
        self.own = [name for name in (*PRICES, "volume", *MARK, *INDEX) if name in self.names]
        self.times = self.shelf.array((self.bars_expected,), np.int64)
        self.values = self.shelf.array((len(self.own), self.bars_expected), np.float64)

    def append(self, rows: pl.DataFrame) -> None:
        """Write the bars among some checked rows."""
        frame, missing = with_marks(rows.filter(pl.col("open").is_not_null()))
        if self.end + frame.height > self.bars_expected:
            raise InputError(f"{self.symbol}: the bars changed while they were read")
        self.shelf.write(self.times, (self.end,), frame["ts"].dt.epoch("ms").to_numpy())
        for row, name in enumerate(self.own):
            self.shelf.write(self.values, (row, self.end), frame[name].to_numpy())  # null is NaN
        self.end += frame.height
        self.mark_missing += missing

    def bars(self, found: pl.DataFrame, empty_rows: int, hold: Callable[[int], None]) -> SymbolBars:
        """What was written, as `Bars.collect` gives it."""
        series = {name: self._column(self.values[row], name) for row, name in enumerate(self.own)}
        for mark, price in zip(MARK, PRICES, strict=True):
            series.setdefault(mark, series[price].alias(mark))
        series["ts"] = on_memory(self.times, pa.timestamp("ms", "UTC")).alias("ts")
        series["funding_rate"] = self._rates(found)
        frame = pl.DataFrame(list(series.values())).with_columns(pl.lit(self.symbol).alias("symbol"))
        optional = (name for name in ("volume", *MARK, *INDEX, "funding_rate") if name in frame.columns)
        bar_ms, missing = self._gaps(hold)
        return SymbolBars(
            self.symbol, frame.select("ts", "symbol", *PRICES, *optional), found, self.mark_missing, empty_rows,
            bar_ms, missing,
        )  # fmt: skip

    def _column(self, values: Array, name: str) -> pl.Series:
        """A column, null where NaN is written."""
        known = np.empty(-(-values.size // 8), dtype=np.uint8)
        whole = True
        for first, last in pieces(values.size, max(8, self.shelf.step // 8 * 8)):
            here = ~np.isnan(values[first:last])
            whole &= bool(here.all())
            known[first // 8 : -(-last // 8)] = np.packbits(here, bitorder="little")
        return on_memory(values, pa.float64(), None if whole else known).alias(name)

    def _rates(self, found: pl.DataFrame) -> pl.Series:
        """The sums of rates charged at each bar: `charged_rates` of the bars at which any is, and of the first."""
        rates = self.shelf.array((self.end,), np.float64)
        known = np.zeros(-(-self.end // 8), dtype=np.uint8)
        at = np.searchsorted(self.times, found["ts"].dt.epoch("ms").to_numpy())
        at = np.unique(np.append(0, at[at < self.end]))
        few = pl.DataFrame({"ts": pl.Series(self.times[at]).cast(pl.Datetime("ms"))})
        charged = events.charged_rates(few.with_columns(pl.col("ts").dt.replace_time_zone("UTC")), found)
        there = charged.is_not_null().to_numpy()
        rates[at[there]] = charged.drop_nulls().to_numpy()
        np.bitwise_or.at(known, at[there] // 8, (1 << (at[there] % 8)).astype(np.uint8))
        return on_memory(rates, pa.float64(), known).alias("funding_rate")

    def _spacings(self) -> Iterator[tuple[int, Array]]:
        """Milliseconds from each bar to the next, with the number of the first bar."""
        for first, last in pieces(self.end - 1, self.shelf.step):
            yield first, np.diff(self.times[first : last + 1])

    def _gaps(self, hold: Callable[[int], None]) -> tuple[int, pl.DataFrame]:
        """The commonest spacing (the shorter of equals), and the gaps wide enough to have lost whole bars."""
        counts: Counter[int] = Counter()
        for _, spacing in self._spacings():
            lengths, often = np.unique(spacing, return_counts=True)
            counts.update(dict(zip(lengths.tolist(), often.tolist(), strict=True)))
        most = max(counts.values(), default=0)
        bar_ms = min((ms for ms, count in counts.items() if count == most), default=0)
        hold(sum(count for ms, count in counts.items() if ms >= 2 * bar_ms) * A_GAP)
        found: list[Any] = [np.zeros((0,), dtype=np.int64)]
        for first, spacing in self._spacings():
            found.append(first + np.flatnonzero(spacing >= 2 * bar_ms))
        after = np.concatenate(found)
        return bar_ms, lost_bars(moments(self.times[after]), moments(self.times[after + 1]), bar_ms)


def moments(values: Array) -> pl.Series:
    """Milliseconds as times."""
    return pl.Series(values, dtype=pl.Int64).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def on_memory(values: Array, kind: pa.DataType, known: Array | None = None) -> pl.Series:
    """A column on an array as it lies there, null where the bits of `known` are 0."""
    mask = None if known is None else pa.py_buffer(known)
    made = pl.from_arrow(pa.Array.from_buffers(kind, values.size, [mask, pa.py_buffer(values)]))
    assert isinstance(made, pl.Series)
    return made
