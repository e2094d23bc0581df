"""Which pictures a report has: from a result's tables to captioned pictures, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from perpbt import statistics
from perpbt.report import figures, words
from perpbt.report.embed import Picture, picture
from perpbt.statistics.common import IS_LIQUIDATED, exact_sums

HALF, WIDE = (5.6, 3.5), (11.4, 6.6)
MOST_LEVERAGES, MOST_FUNDS, MOST_SYMBOLS, MOST_STRATEGIES = 12, 10, 7, 2
STEPS = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 125.0)
OUTSIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}


@dataclass(frozen=True)
class FundView:
    """The worlds of one picture of funds, with labels and colours; legend title; note for the caption."""

    labels: dict[str, str]
    colours: dict[str, str]
    title: str
    note: str
    dashed: tuple[str, ...] = ()


def by_leverage(accounts: pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """The accounts with few enough leverages to draw, and a sentence where they were put together."""
    if accounts["leverage"].n_unique() <= MOST_LEVERAGES:
        return accounts, ""
    place = np.searchsorted(STEPS, accounts["leverage"].to_numpy(), side="right") - 1
    step = pl.Series("leverage", np.array(STEPS)[np.maximum(place, 0)])
    return accounts.with_columns(step), " Leverages are rounded down to the step shown."


def grid_pictures(result: Any) -> list[Picture]:
    """Heat maps over leverage × stop: liquidated, defaulted, net fund flow. None without policies."""
    if result.policies.is_empty():
        return []
    named = (
        (
            "liquidated_share",
            "share",
            "Liquidated, % of positions",
            "share of positions that were liquidated",
        ),
        ("defaulted_share", "share", "Defaulted, % of positions", "share of positions that ended below zero"),
        (
            "net_fund_flow",
            "money",
            "Net flow into the fund, quote currency",
            "fees and surplus less deficits",
        ),
        ("mean_return", "return", "Mean return, % of collateral", "mean total return of positions"),
    )
    pictures = []
    for value, unit, title, meaning in named:
        table = statistics.grid(result.statistics, result.policies, value)
        figure = _figure((HALF[0], max(2.4, 1.1 + 0.36 * table.height)))
        figures.heat_map(table, figure.subplots(), title=title, unit=unit)
        caption = f"{meaning.capitalize()}, by leverage and stop loss, over all strategies and symbols."
        alt = f"Heat map of leverage against stop loss: {meaning}."
        pictures.append(picture(figure, value.replace("_", "-"), caption, alt))
    return pictures


def fund_pictures(result: Any) -> list[Picture]:
    """Fund balance, draws and price on one time axis, for the strategies whose funds were drawn on most."""
    if result.fund.is_empty():
        return []
    pictures = []
    for number, view in enumerate(fund_views(result)):
        path = statistics.fund_path(result.fund, list(view.labels))
        figure = _figure(WIDE)
        balance, draws, price = figure.subplots(3, 1, sharex=True, height_ratios=[2.0, 1.1, 1.3])
        figures.fund_balances(path, balance, labels=view.labels, colours=view.colours, dashed=view.dashed)
        balance.legend(title=view.title, **OUTSIDE)
        figures.fund_draws(path, draws)
        figures.price_paths(result.prices, price, symbols=drawn_symbols(result))
        for ax in (draws, price):
            if ax.get_legend_handles_labels()[0]:
                ax.legend(**OUTSIDE)
        figures.date_axis(price).margins(x=0.005)
        alt = f"Insurance fund balance over time with its draws, and the price under it. {view.note}"
        pictures.append(picture(figure, f"fund-{number}", view.note, alt, wide=True))
    return pictures


def fund_views(result: Any) -> list[FundView]:
    """One view a strategy, largest deficits first; without policies one view of the worlds hit most."""
    ranked = exact_sums(result.fund, ("world",), ("deficit",)).sort(
        "deficit", "world", descending=[True, False]
    )
    if result.policies.is_empty() or ranked.height == 1:
        return [_plain_view(ranked)]
    worlds = result.accounts.select("world", "strategy", "policy").unique()
    worlds = worlds.join(result.policies, on="policy").join(ranked, on="world")
    totals = exact_sums(worlds, ("strategy",), ("deficit",))
    strategies = totals.sort("deficit", "strategy", descending=[True, False])["strategy"].to_list()
    more = len(strategies) - MOST_STRATEGIES
    left_out = (
        f" {more} more {'strategy is' if more == 1 else 'strategies are'} not drawn." if more > 0 else ""
    )
    return [
        _strategy_view(worlds.filter(pl.col("strategy") == strategy), strategy, left_out)
        for strategy in strategies[:MOST_STRATEGIES]
    ]


def _plain_view(ranked: pl.DataFrame) -> FundView:
    """The worlds with the largest deficits."""
    worlds = ranked["world"].head(MOST_FUNDS).to_list()
    note = f"Funds of {words.listing(worlds)}." if len(worlds) > 1 else f"The fund of world {worlds[0]}."
    if ranked.height > len(worlds):
        note = f"The {len(worlds)} funds with the largest deficits, of {ranked.height:,}."
    labels = {world: _short(world) for world in worlds}
    return FundView(labels, dict(zip(worlds, figures.ramp(len(worlds)), strict=True)), "world", note)


def _strategy_view(worlds: pl.DataFrame, strategy: str, left_out: str) -> FundView:
    """A line a leverage for its widest stop (none, if there is one), and the worst of the other worlds."""
    widest = worlds.with_columns(
        width=pl.when(pl.col("stop_kind") == "none").then(np.inf).otherwise("stop_value")
    )
    widest = widest.sort("leverage", "width", "policy", descending=[False, True, False])
    lines = widest.unique("leverage", keep="first", maintain_order=True).sort("leverage")
    if lines.height > MOST_FUNDS:
        lines = lines[np.linspace(0, lines.height - 1, MOST_FUNDS).round().astype(int).tolist()]
    labels = {world: f"{leverage:g}×" for world, leverage in lines.select("world", "leverage").iter_rows()}
    colours = dict(zip(labels, figures.ramp(len(labels)), strict=True))
    others = worlds.filter(~pl.col("world").is_in(list(labels)) & (pl.col("deficit") > 0))
    worst = others.sort("deficit", "policy", descending=[True, False]).head(1)
    for world, leverage, stop in worst.select("world", "leverage", "stop").iter_rows():
        labels[world], colours[world] = f"{leverage:g}×, stop {stop}", "#009e73"
    stops = lines["stop"].unique(maintain_order=True).to_list()
    stop = "without stop loss" if stops == ["none"] else f"stop loss {words.listing(stops)}"
    note = f"Strategy {_short(strategy, 60)}: one fund per leverage, {stop}"
    note += "; dashed, the fund with the largest deficits of its other policies." if worst.height else "."
    return FundView(labels, colours, "leverage", note + left_out, tuple(worst["world"]))


def drawn_symbols(result: Any) -> list[str]:
    """The symbols whose price to draw: all, or of many those whose funds lost most."""
    symbols: list[str] = result.prices["symbol"].unique().sort().to_list()
    if len(symbols) <= MOST_SYMBOLS:
        return symbols
    lost = exact_sums(result.fund, ("symbol",), ("deficit",))
    ranked = lost.sort("deficit", "symbol", descending=[True, False])["symbol"].to_list()
    return sorted([symbol for symbol in [*ranked, *symbols] if symbol in symbols][:MOST_SYMBOLS])


def exit_pictures(accounts: pl.DataFrame) -> list[Picture]:
    """Exit reasons by leverage, and, if any were, when positions were liquidated."""
    shown, grouped = by_leverage(accounts)
    reasons = statistics.exit_reasons(shown)
    when = statistics.liquidations_in_time(shown)
    size = (HALF[0], max(2.2, 1.2 + 0.3 * reasons["leverage"].n_unique()))
    figure = _figure(size)
    figures.exit_reason_bars(reasons, figure.subplots())
    caption = f"How positions ended, in shares of all of a leverage.{grouped}"
    pictures = [picture(figure, "exits", caption, "Stacked bars of exit reasons by leverage.")]
    if when.height:
        figure = _figure(size)
        figures.liquidation_map(when, figure.subplots())
        caption = f"Liquidations in time; the darker, the larger a share of a leverage's positions.{grouped}"
        alt = "Heat map of liquidations over time by leverage."
        pictures.append(picture(figure, "liquidation-map", caption, alt))
    return pictures


def outcome_pictures(accounts: pl.DataFrame) -> list[Picture]:
    """Survival until liquidation, if there was one, and the fan of returns, by leverage."""
    shown, grouped = by_leverage(accounts)
    pictures = []
    if accounts.filter(IS_LIQUIDATED).height:
        figure = _figure(HALF)
        figures.survival_curves(statistics.survival(shown), figure.subplots())
        caption = (
            "Share of positions not yet liquidated, by time since entry (Kaplan-Meier); other exits censor."
        )
        alt = "Survival curves until liquidation, one a leverage."
        pictures.append(picture(figure, "survival", caption + grouped, alt))
    figure = _figure(HALF)
    figures.return_fan(statistics.return_quantiles(shown), figure.subplots())
    caption = f"Total return of positions after all costs, relative to their collateral.{grouped}"
    alt = "Fan of quantiles of the return by leverage, with median and mean."
    return [*pictures, picture(figure, "returns", caption, alt)]


def flow_pictures(accounts: pl.DataFrame) -> list[Picture]:
    """Histogram and tail of surplus and deficit, relative to notional and in money; none without either."""
    table = statistics.flow_histogram(accounts)
    pictures = []
    for measure, of in (
        ("fraction", "as a share of the notional at the exit"),
        ("money", "in quote currency"),
    ):
        if table.is_empty():
            continue
        figure = _figure((2 * HALF[0], HALF[1]))
        left, right = figure.subplots(1, 2)
        figures.flow_bars(table, left, measure=measure)
        figures.flow_tail(table, right, measure=measure)
        caption = (
            f"Surplus left for the fund and deficit left by each liquidation and default, {of}. "
            "Liquidations that left nothing are in the shares but not in the bars."
        )
        alt = f"Histogram and tail of surplus and deficit {of}."
        pictures.append(picture(figure, f"flows-{measure}", caption, alt, wide=True))
    return pictures


def _figure(size: Sequence[float]) -> Figure:
    """A figure of its own, unknown to pyplot."""
    return Figure(figsize=(size[0], size[1]), layout="constrained")


def _short(text: str, most: int = 28) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
