"""Funding events: snapped to the minute, checked, and laid on the bars.

In: the funding column of the bars, or a table of its own. Out: one row an event (`ts`, `funding_rate`),
times snapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import polars as pl

from perpbt.load.checks import Place, check, funding_rules, snapped_rules
from perpbt.load.columns import TIME
from perpbt.load.sources import Part, collect, gather, locate

MINUTE_MS = 60_000
JITTER_MS = 5_000
# A stamp just outside the period may be snapped into it.
MARGIN = timedelta(milliseconds=JITTER_MS)
EVENTS = {"ts": TIME, "funding_rate": pl.Float64()}


def snap(ts: pl.Expr) -> pl.Expr:
    """Stamps that miss a whole minute by less than 5 s, put on it: venues write them late or early."""
    milliseconds = ts.dt.epoch("ms")
    minute = (milliseconds + MINUTE_MS // 2) // MINUTE_MS * MINUTE_MS
    jitter = (milliseconds - minute).abs()
    snapped = pl.when(jitter < JITTER_MS).then(minute).otherwise(milliseconds)
    return snapped.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def events_in_bars(bars: pl.DataFrame, symbol: str, place: Place) -> pl.DataFrame:
    """Events from a checked bars frame: a rate that is not null is an event at that row's time."""
    if "funding_rate" not in bars.columns:
        return pl.DataFrame(schema=EVENTS)
    return events_of(charged_rows(bars), symbol, place)


def charged_rows(bars: pl.DataFrame, first: int = 0) -> pl.DataFrame:
    """The rows of bars that have a rate: `row` (the first row of `bars` is number `first`), `ts` and `funding_rate`."""
    rows = bars.select("ts", "funding_rate").with_row_index("row", offset=first)
    return rows.filter(pl.col("funding_rate").is_not_null())


def events_of(rows: pl.DataFrame, symbol: str, place: Place) -> pl.DataFrame:
    """Events from all `charged_rows` of a symbol."""
    return _snapped(rows, symbol, lambda position, column: place(int(rows["row"][position]), column))


def events_in_table(
    parts: Sequence[Part], symbol: str, start: datetime | None, end: datetime | None
) -> pl.DataFrame:
    """Events of one symbol from a funding table; none if it does not have the symbol."""
    holding = [part for part in parts if part.may_hold([symbol])]
    if not holding:
        return pl.DataFrame(schema=EVENTS)
    period = (start and start - MARGIN, end and end + MARGIN)
    rows = collect(gather(holding, [symbol], *period), holding)

    def place(position: int, column: str) -> tuple[str, int, object]:
        return cell(holding, symbol, *period, position, column)

    check(rows, funding_rules(), symbol, place)
    events = _snapped(rows, symbol, place)
    if start is not None:
        events = events.filter(pl.col("ts") >= start)
    return events if end is None else events.filter(pl.col("ts") < end)


def _snapped(rows: pl.DataFrame, symbol: str, place: Place) -> pl.DataFrame:
    events = rows.select("funding_rate", stamp=pl.col("ts"), ts=snap(pl.col("ts")))
    check(events, snapped_rules(), symbol, place)
    return events.select("ts", "funding_rate").rechunk()


def cell(
    parts: Sequence[Part],
    symbol: str,
    start: datetime | None,
    end: datetime | None,
    position: int,
    column: str,
) -> tuple[str, int, object]:
    """File, row and value as found behind a row of `gather(parts, [symbol], start, end)`."""
    part, row = locate(parts, [symbol], start, end, position)
    return part.name, row, part.raw.select(part.columns[column]).slice(row, 1).collect().item()


def charged_rates(bars: pl.DataFrame, events: pl.DataFrame) -> pl.Series:
    """For each bar the sum of the rates charged at its open: events at or before it, after the bar before;
    else null.

    An event before the first bar concerns no position, one after the last bar is charged at none.
    """
    charged = (
        events.filter(pl.col("ts") >= bars["ts"][0])
        .join_asof(bars.select("ts", bar="ts"), on="ts", strategy="forward")
        .filter(pl.col("bar").is_not_null())
        .group_by("bar")
        .agg(pl.col("funding_rate").sum())
    )
    rates = pl.repeat(None, bars.height, dtype=pl.Float64, eager=True)
    at = bars["ts"].to_physical().search_sorted(charged["bar"].to_physical())
    return rates.scatter(at, charged["funding_rate"].cast(pl.Float64))
