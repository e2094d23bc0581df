"""Tier tables from a Parquet file, one row a bracket: a venue's history of them, or a snapshot.

In: a file with the columns `symbol`, `min_notional`, `max_notional`, `mmr`, `max_leverage`, optionally `cum`, a
`tier` number and a `source`, and optionally the day a table begins to hold, `snapshot` or `from` (a date, or text
such as "2024-10-24" or "2026-09"). Out: a symbol's tables in time, as `perpbt.venue.Venue` reads them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from perpbt.errors import InputError

NEEDED = ("symbol", "min_notional", "max_notional", "mmr", "max_leverage")
DAYS = ("snapshot", "from")
BEFORE_ALL = "1970-01-01"


class TierTable(NamedTuple):
    """One table of brackets: rows floor, cap, rate, maximum leverage[, deduction]."""

    since: str
    rows: list[list[float]]
    source: str


def plain_symbol(name: str) -> str:
    """BTCUSDT for "BTC/USDT" and "BTC/USDT:USDT"; BTCUSDT_240329 for "BTC/USDT:USDT-240329"."""
    found = re.fullmatch(r"([^/:]+)/([^/:-]+)(?::[^/:-]+)?(?:-(.+))?", name)
    if not found:
        return name
    base, quote, expiry = found.groups()
    return f"{base}{quote}" + (f"_{expiry}" if expiry else "")


def read_tier_tables(path: str | Path) -> dict[str, list[TierTable]]:
    """The tables of each symbol in the file. Raises InputError that names file, column or row."""
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        cause = str(error).splitlines()[0]
        raise InputError(f"tiers = {str(path)!r}: no readable Parquet file ({cause})") from error
    lacking = [name for name in NEEDED if name not in frame.columns]
    if lacking:
        found = ", ".join(frame.columns)
        raise InputError(f"{path}: column {lacking[0]!r} missing; found: {found}")
    day = next((name for name in DAYS if name in frame.columns), None)
    numbers = [*NEEDED[1:], *(["cum"] if "cum" in frame.columns else [])]
    columns = [
        pl.col("symbol").cast(pl.String),
        (pl.col(day).cast(pl.String) if day else pl.lit(BEFORE_ALL)).alias("since"),
        (pl.col("source").cast(pl.String) if "source" in frame.columns else pl.lit("")).alias("source"),
        *(pl.col(name).cast(pl.Float64) for name in numbers),
    ]
    known = frame.select(columns)
    empty = known.select(pl.any_horizontal(pl.all().is_null()).arg_true()).to_series()
    if len(empty):
        raise InputError(f"{path}: row {empty[0]}: null; allowed: a value in every column")
    tables: dict[str, list[TierTable]] = {}
    grouped = known.sort("symbol", "since", "min_notional", maintain_order=True).group_by(
        "symbol", "since", maintain_order=True
    )
    for key, rows in grouped:
        symbol, since = plain_symbol(str(key[0])), full_date(path, str(key[1]))
        own = tables.setdefault(symbol, [])
        if any(one.since == since for one in own):
            raise InputError(f"{path}: {symbol} has two tables from {since}; allowed: one")
        own.append(TierTable(since, [list(row) for row in rows.select(numbers).rows()], rows["source"][0]))
    return tables


def full_date(path: str | Path, text: str) -> str:
    """An ISO date or datetime; the first day of a month of which no day is said."""
    if re.fullmatch(r"\d{4}-\d{2}", text):
        return f"{text}-01"
    if re.match(r"\d{4}-\d{2}-\d{2}", text):
        return text
    raise InputError(f"{path}: {text!r} is no date; allowed: such as 2024-10-24 or 2026-09")


def venue_changes(path: str | Path) -> dict[str, Any]:
    """What the file changes of a venue: the arguments dated and provenance, the latter as plain values."""
    tables = read_tier_tables(path)
    name = Path(path).name
    return {
        "dated": {symbol: [(one.since, one.rows) for one in own] for symbol, own in tables.items()},
        "provenance": {
            f"tiers.{symbol}@{one.since}": {"source": f"{name}: {one.source}" if one.source else name}
            for symbol, own in tables.items()
            for one in own
        },
    }
