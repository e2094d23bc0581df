"""Bars rewritten into one compact Parquet file that gives back the same prices, bit for bit.

In: any source of bars. Out: a file sorted by symbol and time, a row group of one symbol only, prices as whole
ticks (`open_ticks` …), integers delta-packed, all under zstd, with statistics; its metadata says how many
ticks make 1. `load_bars` reads it like any other source. It is written aside, read back, compared with the
source, and only then put in place.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

from perpbt.errors import InputError, RunError
from perpbt.load.bars import Bars, load_bars
from perpbt.load.columns import BAR_COLUMNS, INDEX, MARK, PRICES, stamp
from perpbt.load.render import text_table
from perpbt.load.sources import Source
from perpbt.load.ticks import (
    DECIMALS,
    LARGEST,
    SUFFIX,
    OffTick,
    Packing,
    in_ticks,
    read_packing,
    tick_text,
    ticks_per_unit,
)

# Columns that share a tick. Prices must be whole ticks; what is in `KEPT` stays float64 where it is not.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "last": PRICES,
    "mark": MARK,
    "index": INDEX,
    "volume": ("volume",),
    "funding": ("funding_rate",),
}
KEPT = ("volume", "funding")
FLOATS = {"volume": "BYTE_STREAM_SPLIT", "funding_rate": "PLAIN"}  # encodings that came out smallest
ROW_GROUP = 131_072  # rows at most: small enough to skip by time and to decode side by side
SUFFIXES = (".parquet", ".pq")


@dataclass(frozen=True)
class PackedSymbol:
    """One symbol of a packed file: its rows (those without prices too), the tick of each group of columns
    ("float64" where they are kept as such, no entry where the symbol has none), and its bytes in the file.
    """

    symbol: str
    rows: int
    ticks: Mapping[str, str]
    bytes: int


@dataclass(frozen=True)
class Packed:
    """A file that was written and read back equal.

    `bytes_before` counts the columns packed in the source's files (of CSV files, all), and is None for
    frames and where only some symbols or a part of the time were packed. `left_out` are columns of the
    source that bars do not have.
    """

    path: Path
    symbols: tuple[PackedSymbol, ...]
    bytes_before: int | None
    bytes_after: int
    left_out: tuple[str, ...]

    def render(self) -> str:
        """The ticks of each symbol as a table, and what became smaller by how much."""
        groups = [group for group in GROUPS if any(group in one.ticks for one in self.symbols)]
        rows = [
            (one.symbol, f"{one.rows:,}", *(one.ticks.get(name, "-") for name in groups), f"{one.bytes:,}")
            for one in self.symbols
        ]
        told = f"{self.path}: {self.bytes_after:,} bytes, read back equal to the source, bit for bit"
        if self.bytes_before is not None:
            ratio = self.bytes_before / self.bytes_after
            told += f"\n{self.bytes_before:,} bytes before, {ratio:.2f} times as many"
        if self.left_out:
            told += f"\nNot packed, for bars have no such column: {', '.join(self.left_out)}"
        header = ("symbol", "rows", *groups, "bytes")
        return text_table("Ticks", header, "l" + "r" * (len(header) - 1), rows) + "\n\n" + told


def pack(
    source: Source,
    out: str | Path,
    *,
    symbols: Sequence[str] | None = None,
    start: str | date | datetime | None = None,
    end: str | date | datetime | None = None,
    funding: Source | None = None,
) -> Packed:
    """Write the bars that `load_bars` finds with the same arguments into one compact Parquet file `out`.

    Read with `load_bars`, the file has the same frames and the same fingerprint. A funding table goes into
    the column `funding_rate`. Replaces an earlier packed file, nothing else. Raises `InputError` if the bars
    break a rule, a price is not a whole number of ticks of at most 12 decimals, or a funding event falls on
    no bar; `RunError` if the file cannot be written or does not come back equal. Then `out` is as it was.
    """
    target = Path(out)
    _check_target(target, source)
    bars = load_bars(source, symbols=symbols, start=start, end=end, funding=funding)
    packing = _packing(bars)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            written = aside / target.name
            _write(bars, packing, written)
            _compare(bars, load_bars(written))
            files = all(isinstance(one, (str, Path)) for one in (source, funding) if one is not None)
            whole = files and symbols is None and start is None and end is None
            packed = _told(bars, packing, written, target, _bytes_before(bars) if whole else None)
            os.replace(written, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise RunError(f"{out}: the packed file could not be written: {error}") from error
    return packed


def _check_target(target: Path, source: Source) -> None:
    """`InputError` if `target` is not a place for a packed file."""
    if target.suffix.lower() not in SUFFIXES:
        raise InputError(f"{target}: does not end in {' or '.join(SUFFIXES)}; allowed: a Parquet file")
    if isinstance(source, (str, Path)) and not target.exists() and _would_hold(source, target):
        raise InputError(
            f"{target}: is inside the source {source}, which would then hold the bars twice; "
            "allowed: a place outside it"
        )
    if target.exists() or target.is_symlink():
        try:
            known = target.is_file() and read_packing(target) is not None
        except (pl.exceptions.PolarsError, OSError):  # not Parquet
            known = False
        if not known:
            raise InputError(
                f"{target}: exists and is not a packed file; allowed: a new file, or one that pack wrote"
            )


def _would_hold(source: str | Path, target: Path) -> bool:
    """Whether a folder or a glob would find the target, once it is there."""
    if Path(source).is_dir():
        return target.resolve().is_relative_to(Path(source).resolve())
    if Path(source).exists() or not glob.has_magic(str(source)):
        return False
    return _fits(Path(os.path.abspath(target)).parts, Path(os.path.abspath(source)).parts)


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path fits a glob, both in parts; ** stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[k:], pattern[1:]) for k in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


# -- what is packed


def _rows(bars: Bars, symbol: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows to pack, with funding of its own laid on them, and the events that must come back."""
    rows, events = bars.rows(symbol)
    if bars.funding_parts is None:
        return rows, events
    off = events.join(rows, on="ts", how="anti", maintain_order="left")
    if off.height:
        raise InputError(
            f"{bars.funding_parts[0].name}: {off.height:,} of {events.height:,} funding events of {symbol} "
            f"fall on no bar, the first at {stamp(off['ts'][0])} UTC; allowed in a packed file: events at the "
            "open of a bar. Bound the period to that of the bars, or pack the bars alone and keep the "
            "funding a table of its own"
        )
    rows = rows.drop("funding_rate", strict=False).join(events, on="ts", how="left", maintain_order="left")
    return rows.select(name for name in BAR_COLUMNS if name in rows.columns), events


def _packing(bars: Bars) -> Packing:
    """The ticks of every symbol. A column kept as float64 for one symbol is kept so for all."""
    found: dict[str, dict[str, int | None]] = {}
    height = 0
    for symbol in bars.symbols:
        rows, _ = _rows(bars, symbol)
        found[symbol] = _units(bars, symbol, rows)
        height += rows.height
    kept = {column for units in found.values() for column, per_unit in units.items() if per_unit is None}
    return Packing(
        {
            symbol: {column: None if column in kept else per_unit for column, per_unit in units.items()}
            for symbol, units in found.items()
        },
        height,
    )


def _units(bars: Bars, symbol: str, rows: pl.DataFrame) -> dict[str, int | None]:
    units: dict[str, int | None] = {}
    for group, columns in GROUPS.items():
        if columns[0] not in rows.columns:
            continue
        per_unit = ticks_per_unit({name: rows[name] for name in columns})
        if isinstance(per_unit, int):
            units |= dict.fromkeys(columns, per_unit)
        elif group in KEPT:
            units |= dict.fromkeys(columns, None)
        else:
            raise InputError(_refusal(bars, symbol, rows, per_unit))
    return units


def _refusal(bars: Bars, symbol: str, rows: pl.DataFrame, off: OffTick) -> str:
    """Where the price is that cannot be whole ticks, and why."""
    file, row, _ = bars.place(symbol)(off.row, off.column)
    value = rows[off.column][off.row]
    if off.tick is None and abs(value) > LARGEST:
        why = f"is more than 2^53 = {LARGEST:,}; allowed in a packed file: at most that many ticks"
    elif off.tick is None:
        why = f"has more than {DECIMALS} decimals; allowed in a packed file: at most {DECIMALS}"
    else:
        why = f"is more than 2^53 = {LARGEST:,} ticks of {off.tick}, the tick of the prices beside it"
        why += "; allowed in a packed file: at most that many"
    at = f"{symbol}, {stamp(rows['ts'][off.row])} UTC"
    return f"{file}: row {row}, column {off.column!r} ({at}): {off.column} = {value!r} {why}"


# -- writing


def _fields(packing: Packing) -> dict[str, str]:
    """The names in the file of its number columns, and the canonical column each stands for."""
    every = {column: per_unit for units in packing.symbols.values() for column, per_unit in units.items()}
    return {name if every[name] is None else f"{name}{SUFFIX}": name for name in BAR_COLUMNS if name in every}


def _write(bars: Bars, packing: Packing, path: Path) -> None:
    fields = _fields(packing)
    ticked = [field for field, column in fields.items() if field != column]
    numbers = [(field, pa.int64() if field in ticked else pa.float64()) for field in fields]
    schema = pa.schema(
        [("symbol", pa.string()), ("ts", pa.timestamp("ms", "UTC")), *numbers], metadata=packing.metadata()
    )
    encodings = dict.fromkeys(["ts", *ticked], "DELTA_BINARY_PACKED")
    encodings |= {field: FLOATS[field] for field in fields if field not in ticked}
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=["symbol"],
        column_encoding=encodings,
        sorting_columns=[pq.SortingColumn(0), pq.SortingColumn(1)],
    ) as writer:
        for symbol in bars.symbols:
            rows, _ = _rows(bars, symbol)
            groups = -(-rows.height // ROW_GROUP)
            table = _table(symbol, rows, packing, fields, schema)
            writer.write_table(table, row_group_size=-(-rows.height // groups))


def _table(
    symbol: str, rows: pl.DataFrame, packing: Packing, fields: Mapping[str, str], schema: pa.Schema
) -> pa.Table:
    arrays = [pa.repeat(symbol, rows.height), rows["ts"].to_arrow()]
    for field, column in fields.items():
        if column not in packing.symbols[symbol]:
            arrays.append(pa.nulls(rows.height, schema.field(field).type))
            continue
        per_unit = packing.symbols[symbol][column]
        arrays.append((rows[column] if per_unit is None else in_ticks(rows[column], per_unit)).to_arrow())
    return pa.Table.from_arrays(arrays, schema=schema)


# -- reading back


def _compare(bars: Bars, again: Bars) -> None:
    """`RunError` unless the packed file holds the same symbols, rows and funding events, bit for bit."""
    if again.symbols != bars.symbols:
        raise RunError(
            f"{bars.source}: packed {bars.symbols}, read back {again.symbols}; nothing was written"
        )
    for symbol in bars.symbols:
        for name, packed, read in zip(("row", "event"), _rows(bars, symbol), again.rows(symbol), strict=True):
            difference = next(_differences(packed, read), None)
            if difference is not None:
                raise RunError(
                    f"{bars.source}: {symbol}, {name} {difference}: the packed file does not give it back; "
                    "nothing was written"
                )


def _differences(packed: pl.DataFrame, read: pl.DataFrame) -> Iterator[str]:
    if packed.schema != read.schema or packed.height != read.height:
        yield f"{min(packed.height, read.height)} and later, columns {packed.columns} against {read.columns}"
        return
    for before, after in zip(packed.iter_columns(), read.iter_columns(), strict=True):
        if before.dtype == pl.Float64:
            same = before.to_numpy().view(np.int64) == after.to_numpy().view(np.int64)
        else:
            same = (before == after).to_numpy()
        same &= before.is_null().to_numpy() == after.is_null().to_numpy()
        for row in np.flatnonzero(~same):
            yield f"{row}, column {before.name!r}: {before[int(row)]!r} against {after[int(row)]!r}"


def _told(bars: Bars, packing: Packing, written: Path, target: Path, before: int | None) -> Packed:
    """What the file holds, from its own metadata."""
    counts, sizes = dict.fromkeys(bars.symbols, 0), dict.fromkeys(bars.symbols, 0)
    metadata = pq.read_metadata(written)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        symbol = group.column(0).statistics.min
        counts[symbol] += group.num_rows
        sizes[symbol] += sum(group.column(i).total_compressed_size for i in range(group.num_columns))
    used = {found for part in bars.parts for found in part.columns.values()}
    left_out = sorted({found for part in bars.parts for found in part.schema} - used)
    return Packed(
        path=target,
        symbols=tuple(
            PackedSymbol(symbol, counts[symbol], _ticks(packing.symbols[symbol]), sizes[symbol])
            for symbol in bars.symbols
        ),
        bytes_before=before,
        bytes_after=written.stat().st_size,
        left_out=tuple(left_out),
    )


def _ticks(units: Mapping[str, int | None]) -> dict[str, str]:
    found = {group: units[columns[0]] for group, columns in GROUPS.items() if columns[0] in units}
    return {group: "float64" if unit is None else tick_text(unit) for group, unit in found.items()}


def _bytes_before(bars: Bars) -> int:
    """Bytes of the columns packed in the files they came from; of a CSV file all."""
    total = 0
    for part in (*bars.parts, *(bars.funding_parts or ())):
        if part.text:
            total += Path(part.name).stat().st_size
            continue
        used, metadata = set(part.columns.values()), pq.read_metadata(part.name)
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            columns = (group.column(i) for i in range(group.num_columns))
            total += sum(one.total_compressed_size for one in columns if one.path_in_schema in used)
    return total
