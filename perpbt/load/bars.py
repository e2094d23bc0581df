"""Price bars: asked for lazily, read and checked symbol by symbol.

In: Parquet (or CSV) files, a folder, a frame or a shipped dataset. Out: `Bars`, which knows its symbols and
reads one symbol at a time into a checked `SymbolBars`. Missing bars are counted and listed, never filled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property, partial
from pathlib import Path

import polars as pl

from perpbt.errors import InputError
from perpbt.load import funding as events
from perpbt.load.checks import Place, bar_rules, check
from perpbt.load.columns import INDEX, MARK, PRICES, parse_time, stamp
from perpbt.load.datasets import find_dataset
from perpbt.load.sources import BARS, FUNDING, Part, Source, collect, gather, locate, open_source
from perpbt.mapped import pieces

SLICE = 1 << 20  # rows digested at a time


@dataclass(frozen=True, eq=False)
class SymbolBars:
    """The bars and funding of one symbol, checked.

    `frame`: a row a bar, sorted, one chunk: `ts` (bar open, ms UTC), `symbol`, `open high low close`,
    `volume` if the source has it (null where unknown), `mark_*` always (last where absent), `index_*` if the
    source has it (null where unknown), and `funding_rate`, the sum of the rates charged at this bar's open,
    null where none is. `funding`: a row an event: `ts` (snapped), `funding_rate` (positive: longs pay).
    `mark_missing` counts bars on which mark = last for want of a mark; `empty_rows` rows without any price,
    which are not bars. `bar_ms` is the commonest spacing (0 for a single bar); `missing` a row a gap:
    `after`, `before` (the bars around it) and `bars`, how many of `bar_ms` are missing between them.
    """

    symbol: str
    frame: pl.DataFrame
    funding: pl.DataFrame
    mark_missing: int
    empty_rows: int
    bar_ms: int
    missing: pl.DataFrame

    @property
    def has_mark(self) -> bool:
        """Whether any bar has a mark of its own."""
        return self.mark_missing < self.frame.height

    @property
    def has_funding(self) -> bool:
        return self.funding.height > 0

    @property
    def has_volume(self) -> bool:
        return "volume" in self.frame.columns and self.frame["volume"].null_count() < self.frame.height

    def digest(self) -> str:
        """sha256 of the values a run can see, independent of how files and row groups cut them."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(f"{self.symbol}\n{self.mark_missing}\n".encode())
        for table in (self.frame.drop("symbol", "funding_rate"), self.funding):
            for column in table.iter_columns():
                values = column.dt.epoch("ms") if column.name == "ts" else column
                digest.update(f"{column.name} {len(column)}\n".encode())
                # Null becomes NaN, which the checks keep out of the values themselves; fixed byte order for
                # any machine; slice by slice, so that no column is copied as a whole.
                for first, last in pieces(len(values), SLICE):
                    array = values[first:last].to_numpy()
                    digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Bars:
    """Bars asked for: `frame` is the lazy canonical table, unchecked; `collect` reads one symbol and checks
    it.
    """

    frame: pl.LazyFrame = field(repr=False)
    source: str
    symbols: tuple[str, ...]
    start: datetime | None = None
    end: datetime | None = None
    parts: tuple[Part, ...] = field(default=(), repr=False)
    funding_parts: tuple[Part, ...] | None = field(default=None, repr=False)
    kept: dict[str, SymbolBars] | None = field(default=None, repr=False)
    """What was checked already, of bars that are in memory anyway; None: they are read anew each time."""
    provenance: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    """Of each symbol whose series were made: where last, index, mark and funding are from."""
    begun: dict[str, Future[SymbolBars]] = field(default_factory=dict, repr=False)

    def begin(self, symbol: str) -> None:
        """Read a symbol in a thread of its own; the next `collect` of it waits for what is read, and raises what went wrong."""
        with_one = ThreadPoolExecutor(1)
        self.begun[symbol] = with_one.submit(self._collected, symbol)
        with_one.shutdown(wait=False)  # the thread ends with its work

    def collect(self, symbol: str) -> SymbolBars:
        """Read and check one symbol. Raises `InputError` naming file, row, column and value of the first
        fault.
        """
        if symbol in self.begun:
            return self.begun.pop(symbol).result()
        return self._collected(symbol)

    def _collected(self, symbol: str) -> SymbolBars:
        if self.kept is not None and symbol in self.kept:
            return self.kept[symbol]
        found = _symbol_bars(symbol, *self.rows(symbol), self.source)
        if self.kept is not None:
            self.kept[symbol] = found
        return found

    def rows(self, symbol: str) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The rows of one symbol as the source has them, nulls included, and its funding events; both
        checked, with the errors of `collect`.
        """
        if symbol not in self.symbols:
            raise InputError(
                f"{self.source}: symbol {symbol!r} is not loaded; allowed: {_listed(self.symbols)}"
            )
        parts = [part for part in self.parts if part.may_hold([symbol])]
        rows = collect(gather(parts, [symbol], self.start, self.end), parts)
        place = self.place(symbol)
        check(rows, bar_rules(rows.columns), symbol, place)
        if self.funding_parts is None:
            return rows, events.events_in_bars(rows, symbol, place)
        return rows, events.events_in_table(self.funding_parts, symbol, self.start, self.end)

    def place(self, symbol: str) -> Place:
        """Finds file, row in it and value as found behind a row and column of `rows`, to tell an error."""
        parts = [part for part in self.parts if part.may_hold([symbol])]
        return partial(events.cell, parts, symbol, self.start, self.end)

    def fingerprint(self) -> str:
        """sha256 of the canonical content in use, symbol by symbol; the cut into files and row groups does
        not matter.
        """
        return fingerprint(self.collect(symbol) for symbol in self.symbols)


def fingerprint(collected: Iterable[SymbolBars]) -> str:
    """`Bars.fingerprint` from symbols already collected, in the order of their names."""
    digests = sorted((bars.symbol, bars.digest()) for bars in collected)
    return hashlib.sha256("".join(f"{symbol} {digest}\n" for symbol, digest in digests).encode()).hexdigest()


def load_bars(
    source: Source,
    *,
    symbols: Sequence[str] | None = None,
    start: str | date | datetime | None = None,
    end: str | date | datetime | None = None,
    funding: Source | None = None,
) -> Bars:
    """Bars from a Parquet or CSV file, a glob, a (hive-partitioned) folder, a polars frame, or a shipped
    dataset by name.

    `start` is inclusive, `end` exclusive, both UTC where they carry no zone. `symbols` defaults to all that
    have a bar in the period; a source without a symbol column takes its name from a `symbol=NAME` folder or
    from `symbols` with one name. `funding` is a table of its own (`ts`, `symbol` unless there is only one,
    `funding_rate`) and then replaces the `funding_rate` column of the bars. Only the symbol and one price
    column are read here; values are checked by `Bars.collect`. Raises `InputError`.
    """
    asked = _asked(symbols)
    first, last = parse_time(start, "start"), parse_time(end, "end")
    if first is not None and last is not None and first >= last:
        raise InputError(f"start {stamp(first)} is not before end {stamp(last)} (UTC); allowed: start < end")
    only = asked[0] if asked is not None and len(asked) == 1 else None
    dataset = find_dataset(source) if isinstance(source, (str, Path)) else None
    if dataset is None:
        parts = open_source(source, BARS, only)
        label = str(source) if isinstance(source, (str, Path)) else parts[0].name
    else:
        parts = [part for file in dataset.files for part in open_source(file, BARS, only)]
        label = dataset.label
        funding = dataset.funding if funding is None else funding
    _require_symbols(parts)
    known = _discover(parts, asked, first, last, label)
    funding_parts = None
    if funding is not None:
        funding_parts = tuple(open_source(funding, FUNDING, known[0] if len(known) == 1 else None))
        _require_symbols(funding_parts)
    used = tuple(part for part in parts if part.may_hold(known))
    # Null symbols are looked for only when all are asked for, so the frame is filtered by name in any case.
    kept: dict[str, SymbolBars] | None = {} if isinstance(source, pl.DataFrame) else None
    return Bars(gather(used, known, first, last), label, known, first, last, used, funding_parts, kept)


def _asked(symbols: Sequence[str] | None) -> list[str] | None:
    if symbols is None:
        return None
    asked = [symbols] if isinstance(symbols, str) else list(symbols)
    if not asked or not all(isinstance(symbol, str) and symbol for symbol in asked):
        raise InputError(f"symbols = {symbols!r}; allowed: one or more names, or None for all")
    return asked


def _require_symbols(parts: Sequence[Part]) -> None:
    for part in parts:
        if part.symbol is None and "symbol" not in part.columns:
            raise InputError(
                f"{part.name}: required column 'symbol' missing; found: {', '.join(part.schema)}; allowed: "
                "a column 'symbol', a folder symbol=NAME above the file, or one name in symbols"
            )


def _discover(
    parts: Sequence[Part], asked: list[str] | None, start: datetime | None, end: datetime | None, label: str
) -> tuple[str, ...]:
    """Symbols that have at least one bar in the period, sorted; every one asked for must be among them."""
    holding = [part for part in parts if part.may_hold(asked)]
    found: dict[str | None, bool] = {}
    if holding:
        lazy = gather(holding, asked, start, end, exact=False)
        found = dict(_any_price(lazy, holding, ["open"]))
        doubtful = [symbol for symbol, priced in found.items() if not priced and symbol is not None]
        if (
            doubtful
        ):  # an open missing everywhere is a fault for `collect` to tell if there is any other price
            found |= dict(_any_price(lazy.filter(pl.col("symbol").is_in(doubtful)), holding, PRICES))
    if None in found:
        part, row = _null_symbol(holding, start, end)
        raise InputError(f"{part.name}: row {row}, column {part.columns['symbol']!r}: null; allowed: a name")
    known = tuple(sorted(symbol for symbol, priced in found.items() if priced and symbol is not None))
    lacking = [symbol for symbol in asked or () if symbol not in known]
    if lacking or not known:
        raise InputError(_nothing_found(parts, lacking, start, end, label))
    return known


def _any_price(
    lazy: pl.LazyFrame, parts: Sequence[Part], columns: Sequence[str]
) -> list[tuple[str | None, bool]]:
    priced = pl.any_horizontal(pl.col(name).is_not_null() for name in columns).any()
    counted = lazy.select("symbol", *columns).group_by("symbol").agg(priced=priced)
    return [(symbol, flag) for symbol, flag in collect(counted, parts, streaming=True).iter_rows()]


def _null_symbol(parts: Sequence[Part], start: datetime | None, end: datetime | None) -> tuple[Part, int]:
    symbols = collect(gather(parts, None, start, end).select("symbol"), parts)["symbol"]
    return locate(parts, None, start, end, int(symbols.is_null().arg_true()[0]))


def _nothing_found(
    parts: Sequence[Part], lacking: list[str], start: datetime | None, end: datetime | None, label: str
) -> str:
    """The sentence for symbols that are unknown, or known but without a bar in the period."""
    lazy = gather(parts, None, None, None, exact=False).filter(
        pl.any_horizontal(pl.col(name).is_not_null() for name in PRICES)
    )
    spans = lazy.group_by("symbol").agg(first=pl.col("ts").min(), last=pl.col("ts").max()).sort("symbol")
    table = {symbol: (low, high) for symbol, low, high in collect(spans, parts, streaming=True).iter_rows()}
    unknown = [symbol for symbol in lacking if symbol not in table]
    if unknown:
        plural = "s" * (len(unknown) > 1)
        return f"{label}: unknown symbol{plural} {_listed(unknown)}; available: {_listed(list(table))}"
    if not table:
        return f"{label}: no bars: no row has prices; allowed: at least one bar"
    bounds = (stamp(start) if start else "the beginning", stamp(end) if end else "the end")
    told = [
        f"{symbol} has bars from {stamp(low)} to {stamp(high)}"
        for symbol, (low, high) in table.items()
        if not lacking or symbol in lacking
    ]
    return f"{label}: no bars from {bounds[0]} to {bounds[1]} (UTC, end excluded); available: {_listed(told)}"


def _listed(names: Sequence[str], most: int = 20) -> str:
    told = ", ".join(map(str, names[:most]))
    return told if len(names) <= most else f"{told} and {len(names) - most:,} more"


def _symbol_bars(symbol: str, rows: pl.DataFrame, funding: pl.DataFrame, source: str) -> SymbolBars:
    frame = rows.filter(pl.col("open").is_not_null()) if rows["open"].null_count() else rows
    if frame.is_empty():
        raise no_bars(source, symbol)
    frame, mark_missing = with_marks(frame)
    frame = frame.with_columns(events.charged_rates(frame, funding).alias("funding_rate"))
    optional = (name for name in ("volume", *MARK, *INDEX, "funding_rate") if name in frame.columns)
    frame = frame.select("ts", "symbol", *PRICES, *optional).rechunk()
    bar_ms, missing = _gaps(frame["ts"])
    return SymbolBars(symbol, frame, funding, mark_missing, rows.height - frame.height, bar_ms, missing)


def no_bars(source: str, symbol: str) -> InputError:
    """The error for a symbol of which no row has prices."""
    return InputError(f"{source}: {symbol} has no bars in the period; allowed: at least one")


def with_marks(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Bars with a mark on each, and how many had none: mark = last there."""
    if MARK[0] not in frame.columns:
        return frame.with_columns(pl.col(p).alias(m) for m, p in zip(MARK, PRICES, strict=True)), frame.height
    missing = frame[MARK[0]].null_count()
    if missing:
        frame = frame.with_columns(pl.col(m).fill_null(pl.col(p)) for m, p in zip(MARK, PRICES, strict=True))
    return frame, missing


def _gaps(ts: pl.Series) -> tuple[int, pl.DataFrame]:
    """The commonest spacing (the shorter of equals), and the gaps wide enough to have lost whole bars."""
    spacing = ts.diff().dt.total_milliseconds()
    even = len(ts) > 1 and spacing.min() == spacing.max()  # then there is nothing to count
    commonest = spacing.min() if even else spacing.drop_nulls().mode().min()
    bar_ms = int(commonest or 0)  # type: ignore[arg-type]
    wide = (spacing >= 2 * bar_ms).fill_null(False)
    return bar_ms, lost_bars(ts.shift(1).filter(wide), ts.filter(wide), bar_ms)


def lost_bars(after: pl.Series, before: pl.Series, bar_ms: int) -> pl.DataFrame:
    """A row a gap, between the bars `after` and `before` it."""
    spacing = (before - after).dt.total_milliseconds()
    return pl.DataFrame({"after": after, "before": before, "bars": spacing // max(bar_ms, 1) - 1})
