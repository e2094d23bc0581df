"""From what the user names to readable tables: a file, a glob, a folder (also hive-partitioned), a frame.

In: the source. Out: `Part`s in reading order, each one file (or the frame) with its columns resolved, and
from them lazy canonical rows; ticks of a packed file are decoded on the way. Files are put in natural order
(month=2 before month=10) because the order of rows across files is checked. Nothing but schemas is read until
a caller collects.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from perpbt.errors import InputError
from perpbt.load import columns as names
from perpbt.load.ticks import MARKER, SUFFIX, Packing, read_packing

Source = str | Path | pl.LazyFrame | pl.DataFrame
ROW = "__row__"
_SUFFIXES = (".parquet", ".pq", ".csv")


@dataclass(frozen=True)
class Kind:
    """What a table is expected to hold: `bars` or `funding`."""

    wanted: tuple[str, ...]
    required: tuple[str, ...]
    aliases: Mapping[str, Sequence[str]]


BARS = Kind(names.BAR_COLUMNS, names.BAR_REQUIRED, names.BAR_ALIASES)
FUNDING = Kind(names.FUNDING_COLUMNS, names.FUNDING_REQUIRED, names.FUNDING_ALIASES)


@dataclass(frozen=True, eq=False)
class Part:
    """One file or frame: raw rows plus how to read them. `symbol` is set where the rows carry none
    themselves, `packing` where the numbers are ticks; `sliced` if a slice of the rows reads no others.
    """

    name: str
    raw: pl.LazyFrame
    schema: Mapping[str, pl.DataType]
    columns: Mapping[str, str]
    symbol: str | None
    text: bool
    packing: Packing | None = None
    sliced: bool = True

    def may_hold(self, symbols: Collection[str] | None) -> bool:
        if self.packing is not None:
            return bool(self.packing.of(symbols))
        return symbols is None or self.symbol is None or self.symbol in symbols

    def held(self, symbols: Collection[str] | None) -> dict[str, str]:
        """The columns that these symbols have, canonical name to the name found."""
        if self.packing is None:
            return dict(self.columns)
        own = {"ts", "symbol", *self.packing.columns(symbols)}
        return {canonical: found for canonical, found in self.columns.items() if canonical in own}

    def expressions(
        self, symbols: Collection[str] | None = None, *, exact: bool = True
    ) -> dict[str, pl.Expr]:
        """Canonical columns, in canonical order, as expressions on rows of `raw` that are of these symbols.

        Not `exact`: of numbers only which are null is told right, which spares decoding ticks.
        """
        result: dict[str, pl.Expr] = {}
        held = self.held(symbols)
        for canonical in names.BAR_COLUMNS:
            found = held.get(canonical)
            if canonical == "symbol" and found is None:
                result[canonical] = pl.lit(self.symbol, dtype=pl.String)
            elif found is None:
                continue
            elif canonical == "ts":
                result[canonical] = names.time_expression(found, self.schema[found], self.name)
            elif canonical == "symbol":
                result[canonical] = names.symbol_expression(found, self.schema[found], self.name)
            elif exact and self.packing is not None and found != canonical:
                result[canonical] = self.packing.value(canonical, found, symbols)
            else:
                dtype = self.schema[found]
                result[canonical] = names.number_expression(found, dtype, self.name, text=self.text)
        return result

    def rows(
        self,
        symbols: Collection[str] | None,
        start: datetime | None,
        end: datetime | None,
        *,
        numbered: bool = False,
        exact: bool = True,
    ) -> pl.LazyFrame:
        """Canonical rows asked for, in file order; `numbered` adds `__row__`, the 0-based row in the file;
        `exact` as in `expressions`.
        """
        raw = self.raw.with_row_index(ROW) if numbered else self.raw
        expressions = self.expressions(symbols, exact=exact)
        if symbols is not None and self.symbol is None:
            raw = raw.filter(expressions["symbol"].is_in(list(symbols)))
        if start is not None or end is not None:
            found = self.columns["ts"]
            raw = raw.filter(names.within(found, self.schema[found], start, end, self.name))
        return raw.select(
            *([ROW] if numbered else []), *(value.alias(name) for name, value in expressions.items())
        )


def open_source(source: Source, kind: Kind, only_symbol: str | None = None) -> list[Part]:
    """The parts of `source` in reading order. `only_symbol` names the rows of files that have no symbol
    column.

    Raises `InputError` if nothing is there, a file cannot be read, or a column is missing or of a wrong type.
    """
    if isinstance(source, pl.DataFrame):
        return [_part("the DataFrame given", source.lazy(), kind, None, only_symbol)]
    if isinstance(source, pl.LazyFrame):
        return [_part("the LazyFrame given", source, kind, None, only_symbol, sliced=False)]
    if not isinstance(source, (str, Path)):
        raise InputError(
            f"source is of type {type(source).__name__}; "
            "allowed: a path, a glob, a folder, the name of a shipped dataset, a polars frame, lazy or not"
        )
    root = Path(source)
    return [_file_part(path, root, kind, only_symbol) for path in find_files(source)]


def find_files(source: str | Path) -> list[Path]:
    """The data files behind a path, a glob or a folder, in natural order."""
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = [
            file
            for file in path.rglob("*")
            if file.is_file() and not any(p.startswith((".", "_")) for p in file.relative_to(path).parts)
        ]
        # Parquet first: a CSV beside it is as a rule the same data exported, and must not be read twice.
        for suffixes in ((".parquet", ".pq"), (".csv",)):
            found = [file for file in inside if file.suffix.lower() in suffixes]
            if found:
                return sorted(found, key=_natural)
        raise InputError(f"{path}: folder holds no data; allowed: files ending in {', '.join(_SUFFIXES)}")
    if glob.has_magic(str(source)):
        found = [Path(name) for name in glob.glob(str(source), recursive=True) if Path(name).is_file()]
        if found:
            return sorted(found, key=_natural)
        raise InputError(f"{source}: the pattern matches no file")
    raise InputError(f"{path}: no such file or folder")


def _natural(path: Path) -> list[tuple[int, int, str]]:
    pieces = re.split(r"(\d+)", path.as_posix())
    return [(1, int(piece), piece) if piece.isdigit() else (0, 0, piece) for piece in pieces]


def _file_part(path: Path, root: Path, kind: Kind, only_symbol: str | None) -> Part:
    text = path.suffix.lower() == ".csv"
    # Text columns throughout: types guessed from the first rows would break on a later "1.5" after whole
    # numbers.
    raw = pl.scan_csv(path, infer_schema=False) if text else pl.scan_parquet(path, hive_partitioning=False)
    below = path.relative_to(root).parts[:-1] if root.is_dir() else path.parts[:-1]
    return _part(str(path), raw, kind, _hive_symbol(below, kind), only_symbol, text=text, stored=not text)


def _hive_symbol(folders: Sequence[str], kind: Kind) -> str | None:
    accepted = ("symbol", *kind.aliases["symbol"])
    for folder in folders:
        key, equals, value = folder.partition("=")
        if equals and key.lower() in accepted:
            return unquote(value)
    return None


def _part(
    name: str,
    raw: pl.LazyFrame,
    kind: Kind,
    hive: str | None,
    only_symbol: str | None,
    *,
    text: bool = False,
    stored: bool = False,
    sliced: bool = True,
) -> Part:
    """`text` for CSV; `stored` for a Parquet file, which may be packed; `sliced` as in `Part`."""
    try:
        schema = dict(raw.collect_schema())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(name, error) from error
    packing = read_packing(name) if stored and MARKER in schema else None
    meant = {found.removesuffix(SUFFIX) if packing else found: found for found in schema}
    resolved = names.resolve(meant, kind.wanted, kind.required, kind.aliases, name)
    columns = {canonical: meant[found] for canonical, found in resolved.items()}
    symbol = None if "symbol" in columns else hive or only_symbol
    part = Part(name, raw, schema, columns, symbol, text, packing, sliced and not text)
    part.expressions()  # a wrong type is told here, before anything is read
    return part


def unreadable(name: str, error: Exception) -> InputError:
    """The error for a file that polars cannot read, with the first line of what it says."""
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputError(f"{name}: cannot be read: {first_line}; allowed: Parquet, or CSV with a header line")


def gather(
    parts: Sequence[Part],
    symbols: Collection[str] | None,
    start: datetime | None,
    end: datetime | None,
    *,
    exact: bool = True,
) -> pl.LazyFrame:
    """All rows asked for as one lazy canonical frame; a column that only some files have is null in the
    others. `exact` as in `Part.expressions`.
    """
    frames = [part.rows(symbols, start, end, exact=exact) for part in parts if part.may_hold(symbols)]
    together = frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal")
    present = {"symbol", *(name for part in parts for name in part.held(symbols))}
    return together.select(name for name in names.BAR_COLUMNS if name in present)


def collect(lazy: pl.LazyFrame, parts: Sequence[Part], *, streaming: bool = False) -> pl.DataFrame:
    """Collect rows of `parts`; a polars error becomes an `InputError` that names the file, row and value at
    fault.
    """
    try:
        return lazy.collect(engine="streaming" if streaming else "auto")
    except (pl.exceptions.PolarsError, OSError) as error:
        for part in parts:
            _raise_unreadable_cell(part)
            try:
                part.rows(None, None, None).collect()
            except (pl.exceptions.PolarsError, OSError) as own:
                raise unreadable(part.name, own) from own
        raise InputError(f"the bars cannot be read: {error}") from error


def _raise_unreadable_cell(part: Part) -> None:
    if not part.text:
        return
    for canonical, found in part.columns.items():
        if canonical in ("ts", "symbol"):
            continue
        number = pl.col(found).str.strip_chars().cast(pl.Float64, strict=False)
        bad = part.raw.with_row_index(ROW).filter(pl.col(found).is_not_null() & number.is_null()).head(1)
        try:
            rows = bad.select(ROW, found).collect().rows()
        except pl.exceptions.PolarsError as error:
            raise unreadable(part.name, error) from error
        for row, value in rows:
            raise InputError(f"{part.name}: row {row}, column {found!r}: {value!r}; allowed: a number")


def locate(
    parts: Sequence[Part],
    symbols: Collection[str] | None,
    start: datetime | None,
    end: datetime | None,
    position: int,
) -> tuple[Part, int]:
    """The part and its 0-based row behind row `position` of `gather(...)`: a second pass, made only to tell
    an error.
    """
    before = 0
    for part in parts:
        if part.may_hold(symbols):
            rows = part.rows(symbols, start, end, numbered=True).select(ROW).collect()[ROW]
            if position < before + len(rows):
                return part, int(rows[position - before])
            before += len(rows)
    raise InputError(f"row {position} of the data changed while it was read")
