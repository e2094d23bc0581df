"""The report's tables: numbers of `perpbt.statistics` as rows of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from perpbt import statistics
from perpbt.report import words
from perpbt.report.fund_figures import LONG
from perpbt.report.prose import part
from perpbt.statistics import TOTAL

MOST_ROWS, OPEN_ROWS = 80, 12
Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], str]]


@dataclass(frozen=True)
class Table:
    """A table to print: the first `texts` columns are words (left), the others numbers (right).

    `folded`: behind its caption, for a reader to open.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1
    folded: bool = False


def _column(title: str, name: str, text: Callable[[Any], str]) -> Column:
    return title, lambda row: text(row[name])


def _table(
    caption: str, columns: Sequence[Column], rows: Iterable[Row], texts: int = 1, *, folded: bool = False
) -> Table:
    body = tuple(tuple(text(row) for _, text in columns) for row in rows)
    return Table(caption, tuple(title for title, _ in columns), body, texts, folded)


DEFAULTS: tuple[Column, ...] = (
    _column("positions", "positions", words.count),
    _column("liquidated", "liquidated_share", words.share),
    _column("PD", "pd", words.share),
    _column("EAD", "ead", words.money),
    _column("LGD", "lgd", words.share),
    _column("expected loss", "expected_loss", words.money),
    ("income", lambda row: words.money(row["net_fund_flow"] + row["deficit"])),
    _column("surplus", "surplus", words.money),
    _column("deficit", "deficit", words.money),
    _column("uncovered", "uncovered", words.money),
    _column("net flow", "net_fund_flow", words.money),
)


def policy_table(result: Any) -> Table | None:
    """Default statistics by stop × leverage, with the median return; None without policies."""
    if result.policies.is_empty():
        return None
    rows = result.statistics.filter((pl.col("symbol") == TOTAL) & (pl.col("policy") != TOTAL))
    labels = result.policies.select("policy", "leverage", "stop")
    cells = statistics.combine(rows.join(labels, on="policy"), ("leverage", "stop")).drop("median_return")
    order = statistics.grid(result.statistics, result.policies, "positions").select("stop").with_row_index()
    returns = statistics.return_quantiles(
        result.accounts.select("exit_reason", "policy", "total_return").join(labels, on="policy"),
        ("leverage", "stop"),
    ).select("leverage", "stop", median_return="quantile_50")
    cells = (
        cells.join(order, on="stop")
        .join(returns, on=("leverage", "stop"), how="left")
        .sort("leverage", "index")
    )
    caption = f"By leverage and stop loss, over all strategies and symbols: {cells.height:,} rows."
    if cells.height > MOST_ROWS:
        caption = (
            f"By leverage and stop loss: the {MOST_ROWS} largest deficits of {cells.height:,} rows; "
            "statistics.parquet has all."
        )
        cells = cells.sort("deficit", "leverage", "index", descending=[True, False, False]).head(MOST_ROWS)
    columns = (
        _column("leverage", "leverage", lambda value: f"{words.label(value)}×"),
        _column("stop loss", "stop", words.label),
        *DEFAULTS,
        _column("median return", "median_return", words.share),
    )
    return _table(caption, columns, cells.iter_rows(named=True), texts=2, folded=cells.height > OPEN_ROWS)


def group_table(result: Any, by: str) -> Table:
    """Default statistics by strategy or by symbol."""
    rows = result.statistics.filter((pl.col("symbol") != TOTAL) & (pl.col("strategy") != TOTAL))
    cells = statistics.combine(rows, by)
    caption = f"By {by}."
    if cells.height > MOST_ROWS:
        caption = (
            f"By {by}: the {MOST_ROWS} largest deficits of {cells.height:,}; statistics.parquet has all."
        )
        cells = cells.sort("deficit", by, descending=[True, False]).head(MOST_ROWS)
    return _table(caption, (_column(by, by, words.label), *DEFAULTS), cells.sort(by).iter_rows(named=True))


def draw_tables(result: Any) -> list[Table]:
    """The days of the largest deficit of one world, and in a long run the worst day of every year.

    No table when nothing was drawn.
    """
    days = statistics.worst_draws(result.fund, result.accounts, rank="worst_deficit")
    if days.is_empty():
        return []
    worlds = result.fund["world"].n_unique()
    told = (
        " The deficit also as a share of the fund's balance that morning, and of the notional that ended in "
        "liquidation or default that day."
    )
    if worlds > 1:
        told = f" Numbers are of the world hit hardest; worlds: how many had a deficit.{told}"
    found = [_draws(f"The days of the largest deficits.{told}", days, worlds)]
    begin, end = result.fund.select(pl.col("time").min(), pl.col("time").max().alias("end")).row(0)
    if end - begin > LONG:
        years = statistics.worst_draws(
            result.fund, result.accounts, rank="worst_deficit", per="1y", limit=1
        ).sort("time")
        found.append(_draws("The worst day of each year.", years, worlds))
    return found


def _draws(caption: str, draws: pl.DataFrame, worlds: int) -> Table:
    hardest = _column("world hit hardest", "worst_world", str)
    columns = (
        _column("day (UTC)", "time", words.moment),
        _column("symbol", "symbol", str),
        *([hardest] if worlds > 1 else []),
        _column("deficit", "worst_deficit", words.money),
        _column("of its fund", "of_fund", words.share),
        _column("of notional liquidated", "of_notional", words.share),
        _column("uncovered", "worst_uncovered", words.money),
        *([_column("worlds", "worlds", words.count)] if worlds > 1 else []),
    )
    return _table(caption, columns, draws.iter_rows(named=True), texts=3 if worlds > 1 else 2)


def money_table(result: Any) -> Table:
    """Where the money went, by strategy."""
    flows = statistics.money_flows(result.accounts)
    columns = (
        _column("strategy", "strategy", words.label),
        _column("positions", "positions", words.count),
        _column("price PnL", "pnl", words.money),
        _column("funding", "funding", words.money),
        _column("trading fees", "fees", lambda value: words.money(-value)),
        _column("liquidation fees", "liquidation_fee", lambda value: words.money(-value)),
        _column("surplus to fund", "surplus", lambda value: words.money(-value)),
        _column("deficit not paid", "deficit", words.money),
        _column("traders' result", "cash_change", words.money),
    )
    caption = "Traders' result = price PnL + funding − fees − liquidation fees − surplus + deficit not paid."
    return _table(caption, columns, flows.iter_rows(named=True))


def venue_table(metadata: Mapping[str, Any]) -> Table | None:
    """Parameters of the venue with source and date where stated; None where only its name is known."""
    venue = part(metadata, "venue")
    sources = venue.get("provenance") or {}
    apart = ("name", "title", "tiers", "dated", "tables", "provenance")
    values = {name: value for name, value in venue.items() if name not in apart}
    for table, entries in (venue.get("tables") or {}).items():
        for name, value in entries.items():
            own = value.items() if isinstance(value, Mapping) else ()
            values |= {f"{table}.{name}.{key}": one for key, one in own} or {f"{table}.{name}": value}
    rows = []
    for name in dict.fromkeys((*values, *sources)):
        source = sources.get(name) or {}
        told = "; ".join(str(source[key]) for key in ("source", "note") if source.get(key))
        value = words.plain(values[name]) if name in values else "table"
        rows.append(
            {"name": name.replace("_", " "), "value": value, "as_of": source.get("as_of"), "source": told}
        )
    columns = (
        _column("parameter", "name", str),
        _column("value", "value", str),
        _column("as of", "as_of", words.plain),
        _column("source", "source", str),
    )
    caption = "Venue parameters, with their sources and the dates they held."
    return _table(caption, columns, rows, texts=4, folded=True) if rows else None


def symbol_table(metadata: Mapping[str, Any]) -> Table | None:
    """What is known of each symbol's data, a row a symbol; None where nothing is."""
    symbols = part(metadata, "symbols")
    known = {str(symbol): entry for symbol, entry in symbols.items() if isinstance(entry, Mapping)}
    names = list(dict.fromkeys(name for entry in known.values() for name in entry))
    if not names:
        return None
    columns = [_column(name.replace("_", " "), name, words.plain) for name in names]
    rows = ({"symbol": symbol} | {name: entry.get(name) for name in names} for symbol, entry in known.items())
    return _table("Data of each symbol.", (_column("symbol", "symbol", str), *columns), rows, folded=True)


def facts_table(caption: str, facts: Mapping[str, Any]) -> Table | None:
    """Any JSON-like mapping as name and value, nested mappings flattened; None when empty."""
    rows = [{"name": name, "value": words.plain(value)} for name, value in _flat(facts)]
    columns = (_column("name", "name", str), _column("value", "value", str))
    return _table(caption, columns, rows, texts=2, folded=True) if rows else None


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in facts.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}: ")
        else:
            yield name, value
