"""The door: bars as `load_bars` reads them, with the series they lack made, and where each series is from.

In: bars, terms by name or as values, tables of other venues' prices or of premiums. Out: `DerivedBars`, which
`simulate` and `backtest` take like any other bars. Made in this order: index, mark where the premium is taken from
it, funding, mark.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ParamSpec

import polars as pl

from perpbt.errors import InputError
from perpbt.load import Bars, load_bars
from perpbt.load.columns import INDEX, MARK, PRICES, TIME
from perpbt.load.sources import Source
from perpbt.pricing.frames import require
from perpbt.pricing.funding import bar_premium, funding_events, impact_premium
from perpbt.pricing.index import composite_index
from perpbt.pricing.mark import OTHERS, mark_prices
from perpbt.pricing.terms import FundingTerms, IndexTerms, MarkTerms, load_terms

Inputs = ParamSpec("Inputs")
EXISTING = ("refuse", "fill", "replace")


@dataclass(frozen=True, eq=False)
class DerivedBars(Bars):
    """Bars with series made by a formula, held in memory.

    `funding_price`: what the funding terms charge on, for `rules={"funding_price": …}` ("mark" where funding was not made).
    """

    funding_price: str = "mark"


@dataclass(frozen=True)
class _Wanted:
    """What is to be made, and from what besides the bars."""

    index: IndexTerms | None
    mark: MarkTerms | None
    funding: FundingTerms | None
    constituents: pl.DataFrame | None
    others: pl.DataFrame | None
    premium: pl.DataFrame | None
    existing: str


def derive(
    bars: Bars | Source,
    *,
    index: str | IndexTerms | None = None,
    mark: str | MarkTerms | None = None,
    funding: str | FundingTerms | None = None,
    constituents: Source | None = None,
    others: Source | None = None,
    premium: Source | None = None,
    existing: str = "refuse",
) -> DerivedBars:
    """Bars with index, mark and funding made by a venue's rules where the file has none.

    Args:
        bars: what `load_bars` returns or reads.
        index, mark, funding: a venue's name (`perpbt.pricing.list_terms`) or terms; None leaves a series as it is.
        constituents: prices of the venues behind the index: ts, symbol, venue, open, high, low, close, with the
            bars' symbols and times. Needed for `index`, and only for it.
        others: other venues' perpetuals, for marks that read them: ts, symbol, others_open … others_close.
        premium: samples for funding, in place of the bars' close against their index close: ts (when known),
            symbol, and either premium, or impact_bid, impact_ask, index (mark too where the venue quotes about it).
        existing: what to do with a series the file has: "refuse" raises, "fill" keeps it and makes only what is
            missing (funding: before the first event and after the last), "replace" makes it anew.

    Nothing looks ahead: what stands on a row was known by the end of its bar, an open at its opening. A row whose
    index is null gets no mark (runs then take the last price and say so), an interval without premium no event.

    Raises:
        InputError: unknown terms, a series that is there already, a column that is missing or wrong.
    """
    loaded = bars if isinstance(bars, Bars) else load_bars(bars)
    if existing not in EXISTING:
        raise InputError(f"existing = {existing!r}; allowed: {', '.join(EXISTING)}")
    if (index is None) != (constituents is None):
        raise InputError(
            "index and constituents go together; allowed: both (prices by venue and a rule), or neither"
        )
    wanted = _Wanted(
        None if index is None else load_terms(IndexTerms, index),
        None if mark is None else load_terms(MarkTerms, mark),
        None if funding is None else load_terms(FundingTerms, funding),
        _table(constituents, "constituents", ("venue", *PRICES)),
        _table(others, "others", OTHERS),
        _table(premium, "premium", ()),
        existing,
    )
    made = [_one(loaded, symbol, wanted) for symbol in loaded.symbols]
    events = pl.concat([part for _, part, _ in made])
    frame = pl.concat([part for part, _, _ in made], how="diagonal")
    done = load_bars(frame, symbols=list(loaded.symbols), funding=events if events.height else None)
    values = {item.name: getattr(done, item.name) for item in fields(Bars)}
    values["source"] = f"{loaded.source} (derived)"
    values["provenance"] = {symbol: told for symbol, (_, _, told) in zip(loaded.symbols, made, strict=True)}
    return DerivedBars(
        **values,
        funding_price=wanted.funding.charged_on if wanted.funding else "mark",
    )


def _one(bars: Bars, symbol: str, wanted: _Wanted) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, str]]:
    """Bars, funding events and provenance of one symbol."""
    rows, events = bars.rows(symbol)
    frame = rows.filter(pl.col("open").is_not_null()).drop("funding_rate", strict=False)
    told = {"last": f"file: {bars.source}"}
    for series, columns in (("index", INDEX), ("mark", MARK)):
        told[series] = _file_says(frame, columns, bars.source)
    told["funding"] = f"file: {bars.source}, {events.height:,} events" if events.height else "none"
    where = f"{bars.source}: {symbol}"
    if wanted.index and wanted.constituents is not None:
        quotes = _of(wanted.constituents, symbol)
        if quotes.is_empty():
            raise InputError(f"{where}: constituents hold no rows of {symbol!r}; allowed: at least one venue")
        made = frame.select("ts", "symbol").join(
            composite_index(quotes, wanted.index).drop("symbol", "sources"),
            on="ts",
            how="left",
            maintain_order="left",
        )
        frame = _laid(frame, made, INDEX, wanted, where)
        venues = ", ".join(sorted(quotes["venue"].unique().to_list()))
        _tell(told, "index", f"composite of {venues} by {wanted.index.told()}", wanted)
    marked = False
    if wanted.mark and wanted.funding and wanted.funding.premium_from == "mark" and wanted.premium is None:
        if "fair" in wanted.mark.components:
            raise InputError(
                f"mark = {wanted.mark.name} reads the funding rate and funding = {wanted.funding.name} reads the mark; "
                "allowed: one of them from the file, a mark without the component 'fair', or funding from the last price"
            )
        frame, marked = _with_mark(frame, events, symbol, wanted.mark, wanted, told, where), True
    if wanted.funding:
        terms = wanted.funding.of(symbol)
        events = _with_funding(frame, events, symbol, terms, wanted, where)
        _tell(told, "funding", f"{terms.told()}, {events.height:,} events in all", wanted)
    if wanted.mark and not marked:
        frame = _with_mark(frame, events, symbol, wanted.mark, wanted, told, where)
    return frame, events.with_columns(symbol=pl.lit(symbol)), told


def _with_mark(
    frame: pl.DataFrame,
    events: pl.DataFrame,
    symbol: str,
    terms: MarkTerms,
    wanted: _Wanted,
    told: dict[str, str],
    where: str,
) -> pl.DataFrame:
    read = frame
    if wanted.others is not None:
        read = read.join(
            _of(wanted.others, symbol).select("ts", *OTHERS), on="ts", how="left", maintain_order="left"
        )
    with_mark = _located(where, mark_prices, read, terms, events)
    frame = _laid(frame, with_mark, MARK, wanted, where)
    _tell(told, "mark", terms.told(), wanted)
    return frame


def _with_funding(
    frame: pl.DataFrame, events: pl.DataFrame, symbol: str, terms: FundingTerms, wanted: _Wanted, where: str
) -> pl.DataFrame:
    if events.height and wanted.existing == "refuse":
        raise _there(where, "funding_rate")
    if wanted.premium is None:
        samples = _located(where, bar_premium, frame, terms.premium_from)
    else:
        samples = _of(wanted.premium, symbol)
        if "premium" not in samples.columns:
            samples = _located(f"premium: {symbol}", impact_premium, samples)
    made = _located(where, funding_events, samples, terms).select("ts", "funding_rate")
    if events.is_empty() or wanted.existing == "replace":
        return made
    first, last = events["ts"][0], events["ts"][-1]
    return pl.concat([made.filter(pl.col("ts") < first), events, made.filter(pl.col("ts") > last)])


def _laid(
    frame: pl.DataFrame, made: pl.DataFrame, columns: tuple[str, ...], wanted: _Wanted, where: str
) -> pl.DataFrame:
    """The made columns in place of none, of nulls, or of the file's."""
    has = columns[0] in frame.columns and frame[columns[0]].null_count() < frame.height
    if has and wanted.existing == "refuse":
        raise _there(where, columns[0])
    if has and wanted.existing == "fill":
        return frame.with_columns(frame[name].fill_null(made[name]) for name in columns)
    return frame.with_columns(made[name] for name in columns)


def _there(where: str, column: str) -> InputError:
    return InputError(
        f"{where}: column {column!r} is in the file already; allowed: existing = 'fill' to make only what is missing, "
        "'replace' to make it anew"
    )


def _file_says(frame: pl.DataFrame, columns: tuple[str, ...], source: str) -> str:
    lacking = frame[columns[0]].null_count() if columns[0] in frame.columns else frame.height
    if lacking == frame.height:
        return "none"
    return f"file: {source}" + (f", none on {lacking:,} of {frame.height:,} bars" if lacking else "")


def _tell(told: dict[str, str], series: str, formula: str, wanted: _Wanted) -> None:
    kept = wanted.existing == "fill" and told[series] != "none"
    told[series] = f"{told[series]}; the rest made: {formula}" if kept else f"made: {formula}"


def _located(
    where: str, make: Callable[Inputs, pl.DataFrame], *inputs: Inputs.args, **named: Inputs.kwargs
) -> pl.DataFrame:
    """Call, and say of an error which source and symbol it concerns."""
    try:
        return make(*inputs, **named)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _of(table: pl.DataFrame, symbol: str) -> pl.DataFrame:
    return table.filter(pl.col("symbol") == symbol)


def _table(source: Source | None, name: str, columns: tuple[str, ...]) -> pl.DataFrame | None:
    """A table beside the bars, from a frame or a Parquet or CSV file, with its times as the bars have them."""
    if source is None:
        return None
    if isinstance(source, pl.LazyFrame | pl.DataFrame):
        table = source.lazy().collect()
    elif isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise InputError(f"{name} = {source}: no such file; allowed: a Parquet or CSV file, or a frame")
        table = pl.read_csv(path, try_parse_dates=True) if path.suffix == ".csv" else pl.read_parquet(path)
    else:
        raise InputError(f"{name} is of type {type(source).__name__}; allowed: a path or a polars frame")
    require(table, ["ts", "symbol", *columns], name)
    kind = table.schema["ts"]
    if not isinstance(kind, pl.Datetime):
        raise InputError(f"{name}: column 'ts' has type {kind}; allowed: a datetime")
    ts = pl.col("ts")
    aware = ts.dt.replace_time_zone("UTC") if kind.time_zone is None else ts.dt.convert_time_zone("UTC")
    return table.with_columns(aware.cast(TIME), pl.col("symbol").cast(pl.String))
