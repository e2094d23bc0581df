"""Margined in dollars and in coin: the same bets as linear and as inverse contracts.

The same positions on the same history, once settled in the quote currency and once in the coin they are of, at one maintenance rate and
with as much at stake at the entry. An inverse long loses coin as the coin loses value, so it is liquidated sooner than a linear one; an
inverse short is backed by what rises against it, so it holds out longer, at 1x for ever. What is left of the stake is told in its own
currency and in quote currency, where a stake in coin also moves by itself.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

import perpbt
from perpbt.config import Duration
from perpbt.config.settings import Above, Amounts, Number, SpanText
from perpbt.engines.chunks import Progress
from perpbt.load import Bars
from perpbt.studies import Findings
from perpbt.studies._population import spread_positions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("linear", "inverse")
CAP = 1e12  # one tier for every size


def study(
    bars: Bars,
    progress: Progress | None,
    *,
    venue: str = "binance_um",
    rate: Above = 0.005,
    leverages: Amounts = (1.0, 3.0, 10.0, 25.0, 50.0),
    starts: Number = 300,
    holding: SpanText = "7d",
) -> Findings:
    """Both contracts with the costs of `venue`, at the maintenance rate `rate`; positions live for `holding` at most."""
    span = timedelta(milliseconds=int(Duration.parse(holding)))
    table = spread_positions(bars, leverages=leverages, starts=starts, holding=span)
    costs = perpbt.load_venue(venue)
    frames = []
    for kind in KINDS:
        result = perpbt.simulate(
            bars,
            table,
            venue=contracts_of(costs, kind, rate),
            fund={"seed": 0.0, "scope": "symbol"},
            progress=progress,
        )
        rows = result.accounts.filter(pl.col("exit_reason") != "rejected")
        if kind == "linear":  # as much at stake in coin as in quote currency
            worth = rows.select("account", stake=pl.col("collateral"), at=pl.col("entry_price"))
            table = table.join(worth, on="account", maintain_order="left").with_columns(
                collateral=pl.col("stake") / pl.col("at")
            )
            table = table.drop("stake", "at")
            rows = rows.with_columns(conversion=pl.lit(1.0))
        frames.append(outcomes(rows, kind))
    every = pl.concat(frames)
    keys = ["contract", "side", "leverage"]
    found = summed(every, keys)
    return Findings(
        {"contracts": found, "contracts_by_symbol": summed(every, ["symbol", *keys])},
        {"liquidated": drawn(found)},
        words(found),
    )


def contracts_of(costs: perpbt.Venue, kind: str, rate: float) -> perpbt.Venue:
    """A venue of one maintenance rate whose symbols are of one kind."""
    tiers = {"default": [(0.0, CAP, rate, 1.0 / rate)]}
    return costs.replace(tiers=tiers, contract={"kind": kind, "volume": "base"}, maintenance=None)


def outcomes(rows: pl.DataFrame, kind: str) -> pl.DataFrame:
    """What became of each position: its return in its own currency, and of the stake in quote currency."""
    before = pl.col("entry_price") if kind == "inverse" else pl.lit(1.0)
    left = (pl.col("collateral") + pl.col("cash_change")) * pl.col("conversion")
    return rows.select(
        "symbol",
        "side",
        "leverage",
        pl.lit(kind).alias("contract"),
        liquidated=pl.col("exit_reason") == "liquidation",
        defaulted=pl.col("deficit") > 0.0,
        own=pl.col("total_return"),
        quoted=left / (pl.col("collateral") * before) - 1.0,
        distance=(pl.col("liquidation_price") / pl.col("entry_price") - 1.0).abs(),
        lost=pl.col("deficit") * pl.col("conversion"),
    )


def summed(every: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Shares and means of each group. `distance` is the median way to the liquidation price, a share of the entry price; infinite where
    no price liquidates. Deficits in quote currency.
    """
    return (
        every.group_by(keys)
        .agg(
            positions=pl.len(),
            liquidated_share=pl.col("liquidated").mean(),
            defaulted_share=pl.col("defaulted").mean(),
            distance=pl.col("distance").median(),
            return_in_own_currency=pl.col("own").mean(),
            return_in_quote_currency=pl.col("quoted").mean(),
            deficit_in_quote_currency=pl.col("lost").sum(),
        )
        .sort(keys, descending=[key == "contract" for key in keys])
    )


def drawn(found: pl.DataFrame) -> Figure:
    """Shares liquidated by leverage."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    for (contract, side), own in found.group_by("contract", "side", maintain_order=True):
        shares = 100.0 * own["liquidated_share"]
        marker, line = "o" if side == "long" else "s", "-" if contract == "linear" else "--"
        axes.plot(own["leverage"], shares, label=f"{contract}, {side}", marker=marker, linestyle=line)
    axes.set_xscale("log")
    leverages = found["leverage"].unique().sort().to_list()
    axes.set_xticks(leverages, [f"{one:g}x" for one in leverages], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("leverage")
    axes.set_ylabel("liquidated, % of positions")
    axes.legend()
    return figure


def words(found: pl.DataFrame) -> str:
    """What the table says."""
    sentences = []
    for side in ("long", "short"):
        both = found.filter(pl.col("side") == side).pivot(
            on="contract", index="leverage", values="liquidated_share"
        )
        gap = both.with_columns(gap=pl.col("inverse") - pl.col("linear")).sort(
            pl.col("gap").abs(), descending=True
        )
        row = gap.row(0, named=True)
        sentences.append(
            f"Of {side}s at {row['leverage']:g}x, where the two differ most, {row['inverse']:.1%} of inverse positions were "
            f"liquidated against {row['linear']:.1%} of linear ones."
        )
    return " ".join(sentences)
