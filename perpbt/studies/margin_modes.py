"""Isolated against cross against portfolio margin: who is liquidated, who defaults, and what the fund sees of it.

The same accounts on the same history, each of two positions of one size opened together: both long on two coins (unhedged), long on one
coin and short on another (hedged across coins), long and short on one (hedged in one coin). Every account is kept by each way of
margining: each position by its own margin; one wallet against the sum of what the positions keep, tested at closes or at all adverse
extremes of a bar at once; one wallet against the worst of a set of scenarios on net positions. A wallet lets the gain of one leg carry the loss of the other, so hedges live; and it
lets the loss of one leg take the margin of the other, so what falls together falls whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

import perpbt
from perpbt.config import Duration
from perpbt.config.settings import Above, Amounts, Number, SpanText
from perpbt.engines.chunks import Progress
from perpbt.errors import InputError
from perpbt.load import Bars
from perpbt.studies import Findings
from perpbt.studies._population import spans, with_tiers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGINS: Mapping[str, Any] = {
    "isolated": "isolated",
    "cross": "cross",
    "cross, extremes": {"mode": "cross", "test": "extremes"},
    "portfolio": "portfolio",
}
UNHEDGED, ACROSS, WITHIN = POPULATIONS = ("unhedged", "hedged across coins", "hedged in one coin")


def study(
    bars: Bars,
    progress: Progress | None,
    *,
    venue: str = "binance_um",
    scenarios: str = "okx",
    leverages: Amounts = (2.0, 3.0, 5.0),
    starts: Number = 200,
    holding: SpanText = "30d",
    collateral: Above = 10_000.0,
) -> Findings:
    """Every way of margining on the same accounts. `scenarios` is the venue whose table [portfolio] is used; `holding` is a duration;
    `collateral` (quote currency) is that of a position.
    """
    table = paired_positions(
        bars, leverages, starts, timedelta(milliseconds=int(Duration.parse(holding))), collateral
    )
    scan = perpbt.load_venue(scenarios).tables.get("portfolio")
    if scan is None:
        raise InputError(f"scenarios = {scenarios!r}; allowed: a venue with a table [portfolio]")
    terms, rows = with_tiers(venue, bars).replace(portfolio=scan), []
    for name, margin in MARGINS.items():
        result = perpbt.simulate(bars, table, venue=terms, margin=margin, progress=progress)
        rows.append(judged(result.accounts).select(pl.lit(name).alias("margin"), pl.all()))
    found = pl.concat(rows)
    totals = (
        found.group_by("margin", "population", maintain_order=True)
        .agg(pl.col(pl.UInt32, pl.Float64).exclude("leverage", "liquidated_share").sum())
        .with_columns(
            (pl.col("liquidated") / (pl.col("accounts") - pl.col("refused"))).alias("liquidated_share")
        )
    )
    return Findings(
        {"margins": totals, "margins_by_leverage": found},
        {"liquidated_accounts": drawn_liquidations(found), "fund_flow": drawn_flows(totals)},
        words(totals),
    )


def paired_positions(
    bars: Bars, leverages: tuple[float, ...], starts: int, holding: timedelta, collateral: float
) -> pl.DataFrame:
    """A table for `simulate`: two rows an account, opened at `starts` times evenly over the history all symbols share; the pair of coins
    goes round from one account to the next. `strategy` is the population, `policy` the leverage ("3x").
    """
    known = spans(bars)
    symbols = known["symbol"].to_list()
    first, last = known["first"].max(), known["last"].min()
    if len(symbols) < 2 or first is None or last is None or first >= last:  # type: ignore[operator]
        raise InputError(
            f"symbols = {', '.join(symbols)}; allowed: at least two, with some history in common"
        )
    rows = []
    for start in range(starts):
        when = first + (last - first) * (start / starts)  # type: ignore[operator]
        one = symbols[start % len(symbols)]
        other = symbols[(start + 1 + start // len(symbols) % (len(symbols) - 1)) % len(symbols)]
        for leverage in leverages:
            for population, legs in (
                (UNHEDGED, ((one, "long"), (other, "long"))),
                (ACROSS, ((one, "long"), (other, "short"))),
                (WITHIN, ((one, "long"), (one, "short"))),
            ):
                account = f"{population} {leverage:g}x {start}"
                rows += [
                    (account, population, f"{leverage:g}x", symbol, side, when, leverage)
                    for symbol, side in legs
                ]
    names = ["account", "strategy", "policy", "symbol", "side", "entry_time", "leverage"]
    return pl.DataFrame(rows, schema=names, orient="row").with_columns(
        (pl.col("entry_time") + holding).alias("exit_time"), pl.lit(collateral).alias("collateral")
    )


def judged(accounts: pl.DataFrame) -> pl.DataFrame:
    """By population and leverage: accounts, what became of them, and money of the fund."""
    fell, owed = pl.col("exit_reason") == "liquidation", pl.col("deficit").fill_null(0.0) > 0.0
    by_account = accounts.group_by("strategy", "leverage", "account").agg(
        pl.col("rejection").is_not_null().any().alias("refused"),
        fell.any().alias("liquidated"),
        owed.any().alias("defaulted"),
        pl.col("liquidation_fee", "surplus", "deficit", "cash_change").sum(),
    )
    own = (
        by_account.group_by("strategy", "leverage")
        .agg(
            pl.len().alias("accounts"),
            *(pl.col(name).sum().cast(pl.UInt32) for name in ("refused", "liquidated", "defaulted")),
            *(pl.col(name).sum() for name in ("liquidation_fee", "surplus", "deficit", "cash_change")),
        )
        .with_columns((pl.col("liquidation_fee") + pl.col("surplus") - pl.col("deficit")).alias("fund_flow"))
        .with_columns(
            (pl.col("liquidated") / (pl.col("accounts") - pl.col("refused"))).alias("liquidated_share")
        )
    )
    order = pl.col("strategy").replace_strict(
        {name: k for k, name in enumerate(POPULATIONS)}, return_dtype=pl.Int64
    )
    return own.sort(order, "leverage").rename({"strategy": "population"})


def drawn_liquidations(found: pl.DataFrame) -> Figure:
    """Share of accounts liquidated, by leverage; a panel a population."""
    from matplotlib.figure import Figure

    from perpbt.report.drawing import ramp

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for ax, population in zip(figure.subplots(1, 3, sharey=True), POPULATIONS, strict=True):
        own = found.filter(pl.col("population") == population)
        for number, (colour, name) in enumerate(zip(ramp(len(MARGINS)), MARGINS, strict=True)):
            line = own.filter(pl.col("margin") == name).sort("leverage")
            ax.plot(
                line["leverage"],
                100 * line["liquidated_share"].to_numpy(),
                marker="o",
                markersize=9 - 2 * number,  # lines may lie on each other
                color=colour,
                label=name,
            )
        ax.set(title=population, xlabel="leverage")
    figure.axes[0].set_ylabel("accounts liquidated, %")
    figure.axes[0].legend(fontsize="small")
    return figure


def drawn_flows(totals: pl.DataFrame) -> Figure:
    """Money to the fund and from it, by margin and population."""
    from matplotlib.figure import Figure

    from perpbt.report.drawing import DEFICIT, SURPLUS, money_axis

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    ax = figure.add_subplot()
    at = np.arange(totals.height)
    ax.barh(at, (totals["surplus"] + totals["liquidation_fee"]).to_numpy(), color=SURPLUS)
    ax.barh(at, -totals["deficit"].to_numpy(), color=DEFICIT)
    ax.set_yticks(
        at, [f"{margin}: {population}" for margin, population in totals.select("margin", "population").rows()]
    )
    ax.set_xlabel("to the fund (surplus and liquidation fees), from it (deficits); quote currency")
    money_axis(ax, "x")
    ax.invert_yaxis()
    return figure


def words(totals: pl.DataFrame) -> str:
    """What the table says."""
    told = {(row["margin"], row["population"]): row for row in totals.iter_rows(named=True)}

    def share(margin: str, population: str) -> str:
        value = told[margin, population]["liquidated_share"]
        return "none" if value is None or np.isnan(value) else f"{value:.1%}"

    lines = [
        f"{population}: " + ", ".join(f"{share(margin, population)} under {margin}" for margin in MARGINS)
        for population in POPULATIONS
    ]
    deficits = {name: sum(told[name, one]["deficit"] for one in POPULATIONS) for name in MARGINS}
    surplus = {name: sum(told[name, one]["surplus"] for one in POPULATIONS) for name in MARGINS}
    refused = sum(told["portfolio", one]["refused"] for one in POPULATIONS)
    shut = " (its scenarios ask for more than they bring)" if refused else ""
    return (
        "Of the accounts that opened, so many are liquidated. " + "; ".join(lines) + ".\n\n"
        "Deficits: " + ", ".join(f"{money:,.0f} under {name}" for name, money in deficits.items()) + ". "
        f"Portfolio margin refuses {refused:,} accounts in whole or part{shut}. Where net positions stay large its scenarios ask for far "
        "more than the venue's tiers, so it closes sooner and with much left, all of which goes to the fund where the venue keeps the "
        f"surplus: {surplus['portfolio']:,.0f} of it, against {surplus['cross']:,.0f} under cross. Under isolated margin an account counts "
        "as liquidated when any of its positions is; a wallet that falls takes all of them.\n\n"
        "Within a bar nobody knows how two coins moved together. A wallet on two is tested at opens and closes, and filled there, after "
        "what may have been a long way: its deficits grow with the length of the bar. With all adverse extremes at once more are "
        "liquidated than can have been. The truth lies between; shorter bars bring the two together."
    )
