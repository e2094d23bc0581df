"""Old against new tiers: what a venue's maintenance tables of another year do to the same positions.

A backtest that applies today's tiers to all history answers another question than one that applies those of the day. Three ways on
the same positions: the earliest tables throughout, the latest throughout, and each from its date. `tiers` is a Parquet file of
dated tables (a row a bracket: snapshot symbol min_notional max_notional mmr max_leverage cum); without one, BTCUSDT's table of March
2021 stands for every symbol against the venue's file.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

import perpbt
from perpbt.config import Duration
from perpbt.config.settings import Above, Amounts, Number, SpanText
from perpbt.engines.chunks import Progress
from perpbt.load import Bars
from perpbt.studies import Findings
from perpbt.studies._population import sized_positions, spans, with_tiers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Binance USD-M, BTCUSDT as of March 2021: cap, rate, maximum leverage; the leverages are those of the venue at the time
OLDER = (
    (50_000, 0.004, 125),
    (250_000, 0.005, 100),
    (1_000_000, 0.01, 50),
    (10_000_000, 0.025, 20),
    (20_000_000, 0.05, 10),
    (50_000_000, 0.1, 5),
    (100_000_000, 0.125, 4),
    (200_000_000, 0.15, 3),
    (300_000_000, 0.25, 2),
    (500_000_000, 0.5, 1),
)
OLDER_FROM, NEWER_FROM = datetime(2021, 3, 1, tzinfo=UTC), datetime(2024, 10, 24, tzinfo=UTC)
COUNTS = (
    "positions",
    "rejected",
    "liquidated",
    "defaulted",
    "surplus",
    "deficit",
    "net_fund_flow",
    "uncovered",
)
OF_ONE_SYMBOL = (
    "\n\nThe earliest table is BTCUSDT's, taken for every symbol for want of others: for smaller coins the difference is one of coins as much "
    "as of years."
)
NOTIONALS = np.geomspace(1e3, 1e8, 200)


def study(
    bars: Bars,
    progress: Progress | None,
    *,
    venue: str = "binance_um",
    tiers: str = "",
    leverages: Amounts = (3.0, 10.0, 25.0),
    collaterals: Amounts = (10_000.0, 100_000.0, 1_000_000.0),
    starts: Number = 60,
    holding: SpanText = "7d",
    days_of_turnover: Above = 0.02,
) -> Findings:
    """Three sets of tables on the same population; `collaterals` spreads it over the tiers."""
    from perpbt.studies._outcomes import drawn_outcomes

    span = timedelta(milliseconds=int(Duration.parse(holding)))
    population = sized_positions(
        bars, leverages=leverages, collaterals=collaterals, starts=starts, holding=span
    )
    rows: list[dict[str, Any]] = []
    by_policy: list[dict[str, Any]] = []
    venues = venues_of(bars, venue, tiers)
    for name, one in venues.items():
        result = perpbt.simulate(
            bars,
            population,
            venue=one,
            crowding=True,
            open_interest={"days_of_turnover": days_of_turnover},
            progress=progress,
        )
        everything = result.statistics.filter((pl.col("strategy") == "all") & (pl.col("symbol") == "all"))
        for row in everything.iter_rows(named=True):
            told = {"tiers": name, "policy": row["policy"], **{key: row[key] for key in COUNTS}}
            (rows if row["policy"] == "all" else by_policy).append(told)
    total = pl.DataFrame(rows, infer_schema_length=None).drop("policy")
    each = pl.DataFrame(by_policy, infer_schema_length=None) if by_policy else total
    return Findings(
        {"tiers": total, "tiers_by_policy": each},
        {"rates": drawn_rates(venues, bars), "outcomes": drawn_outcomes(total, "tiers")},
        words(total)
        + (OF_ONE_SYMBOL if not tiers else "")
        + spoken_dates(bars, venues["each from its date"]),
    )


def venues_of(bars: Bars, venue: str, tiers: str) -> dict[str, perpbt.Venue]:
    """The venue with its earliest tables, with its latest, and with each from its date."""
    known = with_tiers(perpbt.load_venue(venue, tiers=tiers or None), bars)
    if not tiers:
        floors = (0, *(cap for cap, _, _ in OLDER[:-1]))
        older = tuple((floor, *row) for floor, row in zip(floors, OLDER, strict=True))
        sets = {
            symbol: ((OLDER_FROM, older), (NEWER_FROM, known.brackets(symbol))) for symbol in bars.symbols
        }
        known = known.replace(tiers=known.tiers, dated=sets)
    schedules = {symbol: known.schedule(symbol) for symbol in bars.symbols}

    def throughout(place: int) -> perpbt.Venue:
        return known.replace(tiers={symbol: sets[place].tiers for symbol, sets in schedules.items()})

    years = [
        sorted({f"{sets[place].since:%Y}" for sets in schedules.values() if sets[place].since})
        for place in (0, -1)
    ]
    first, last = ("-".join((own[0], own[-1]) if len(own) > 1 else own) or "undated" for own in years)
    return {
        f"earliest ({first})": throughout(0),
        f"latest ({last})": throughout(-1),
        "each from its date": known,
    }


def drawn_rates(venues: dict[str, perpbt.Venue], bars: Bars) -> Figure:
    """Maintenance over notional, earliest and latest, of the first symbol."""
    from matplotlib.figure import Figure

    from perpbt.report.drawing import ramp

    figure = Figure(figsize=(8, 4.5))
    ax, symbol = figure.add_subplot(), bars.symbols[0]
    for color, (name, venue) in zip(ramp(2), list(venues.items())[:2], strict=True):
        rate = [venue.maintenance_margin(one, symbol) / one for one in NOTIONALS.tolist()]
        ax.plot(NOTIONALS, 100 * np.array(rate), color=color, label=name)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("notional, quote currency")
    ax.set_ylabel("maintenance margin, % of the notional")
    ax.set_title(symbol)
    ax.legend()
    return figure


def spoken_dates(bars: Bars, dated: perpbt.Venue) -> str:
    """What to say where the history sees no change of tables."""
    known = spans(bars)
    first, last = known["first"].min(), known["last"].max()
    changes = [one.since for symbol in bars.symbols for one in dated.schedule(symbol)[1:] if one.since]
    if any(first < change <= last for change in changes):  # type: ignore[operator]
        return ""
    return (
        "\n\nNo table changes inside this history: each from its date is one and the same throughout here. Give a file of dated tables "
        "(`--set tiers=FILE`) or later prices to see positions meet a change."
    )


def words(found: pl.DataFrame) -> str:
    """What the table says."""
    told: list[dict[str, Any]] = list(found.iter_rows(named=True))
    sentences = [
        f"With {row['tiers']} tables {row['liquidated']:,} of {row['positions']:,} positions opened are liquidated, "
        f"{row['defaulted']:,} default and {row['rejected']:,} orders are refused; deficits come to {row['deficit']:,.0f}."
        for row in told
    ]
    return (
        " ".join(sentences)
        + "\n\nTables known from a date on also stand for the time before it. Refusals are part of the answer: a table that allows less "
        "leverage keeps out the positions it would have liquidated first."
    )
