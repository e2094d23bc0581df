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
from perpbt.report.grouping import Grouping
from perpbt.statistics.common import IS_LIQUIDATED, exact_sums

HALF, WIDE, CALM = (5.6, 3.5), (11.4, 8.2), (11.4, 5.0)
HEIGHTS = {True: [2.0, 1.1, 1.0, 1.2], False: [2.0, 1.3]}
"""Of the panels of a fund's picture, by whether a deficit was drawn."""
RELATIVE = (
    " A deficit relative to the notional liquidated in its window compares crashes whatever the size of the "
    "market was; dotted lines lead from the worst of them to balance and price."
)
MOST_FUNDS, MOST_SYMBOLS, MOST_STRATEGIES = 10, 7, 2
OUTSIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}


@dataclass(frozen=True)
class FundView:
    """The worlds of one picture of funds, with labels and colours; legend title; note for the caption."""

    labels: dict[str, str]
    colours: dict[str, str]
    title: str
    note: str
    dashed: tuple[str, ...] = ()


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
            f"Net flow into the fund, {words.CURRENCY.get()}",
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
    return [_fund_picture(result, view, f"fund-{k}") for k, view in enumerate(fund_views(result))]


def _fund_picture(result: Any, view: FundView, name: str) -> Picture:
    worlds = list(view.labels)
    path = statistics.fund_path(result.fund, worlds)
    first, last = path.select(pl.col("time").min(), pl.col("time").max().alias("last")).row(0)
    every = figures.window_length(first, last)
    losses = statistics.draws_in_time(result.fund, result.accounts, every=every, worlds=worlds)
    drawn = bool((losses["deficit"] > 0).any())
    figure = _figure(WIDE if drawn else CALM)
    axes = figure.subplots(*((4, 1) if drawn else (2, 1)), sharex=True, height_ratios=HEIGHTS[drawn])
    balance, *between, price = axes
    figures.fund_balances(path, balance, labels=view.labels, colours=view.colours, dashed=view.dashed)
    balance.legend(title=view.title, **OUTSIDE)
    figures.price_paths(result.prices, price, symbols=drawn_symbols(result))
    figures.date_axis(price).margins(x=0.005)
    balance.margins(x=0.005)
    price.set_xlim(price.get_xlim())  # bars and labels to come shall not widen it
    caption = view.note
    if drawn:
        draws, severity = between
        figures.fund_draws(losses, draws, every=every)
        figures.draw_severity(losses, severity, every=every)
        draws.legend(**OUTSIDE)
        for ax in (balance, price):
            figures.guide_lines(ax, figures.severe_places(losses, every))
        caption += RELATIVE
    if price.get_legend_handles_labels()[0]:
        price.legend(**OUTSIDE)
    alt = f"Insurance fund balance over time with its draws, and the price under it. {view.note}"
    return picture(figure, name, caption, alt, wide=True)


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
    note = (
        f"Funds of {words.listing(worlds)}." if len(worlds) > 1 else "The fund of the one world of this run."
    )
    if ranked.height > len(worlds):
        note = f"The {len(worlds)} funds with the largest deficits, of {ranked.height:,}."
    labels = {world: _short(world) for world in worlds}
    return FundView(labels, dict(zip(worlds, figures.ramp(len(worlds)), strict=True)), "world", note)


def _strategy_view(worlds: pl.DataFrame, strategy: str, left_out: str) -> FundView:
    """A line a leverage for its widest stop (none, if there is one); of a single leverage a line a stop.

    And, dashed, the worst of the other worlds.
    """
    by = "leverage" if worlds["leverage"].n_unique() > 1 else "stop"
    widest = worlds.with_columns(
        width=pl.when(pl.col("stop_kind") == "none").then(np.inf).otherwise("stop_value")
    )
    widest = widest.sort("leverage", "width", "policy", descending=[False, True, False])
    lines = widest.unique(by, keep="first", maintain_order=True)
    lines = lines if by == "leverage" else lines.reverse()
    if lines.height > MOST_FUNDS:
        lines = lines[np.linspace(0, lines.height - 1, MOST_FUNDS).round().astype(int).tolist()]
    labels = {world: figures.group_label(by, value) for world, value in lines.select("world", by).iter_rows()}
    colours = dict(zip(labels, figures.ramp(len(labels)), strict=True))
    others = worlds.filter(~pl.col("world").is_in(list(labels)) & (pl.col("deficit") > 0))
    worst = others.sort("deficit", "policy", descending=[True, False]).head(1)
    for world, leverage, stop in worst.select("world", "leverage", "stop").iter_rows():
        labels[world], colours[world] = f"{leverage:g}×, stop {stop}", "#009e73"
    if by == "leverage":
        stops = lines["stop"].unique(maintain_order=True).to_list()
        kept = "without stop loss" if stops == ["none"] else f"stop loss {words.listing(stops)}"
    else:
        kept = f"leverage {lines['leverage'][0]:g}×"
    title = {"stop": "stop loss"}.get(by, by)
    note = f"Strategy {_short(strategy, 60)}: one fund per {title}, {kept}"
    note += "; dashed, the fund with the largest deficits of its other policies." if worst.height else "."
    return FundView(labels, colours, title, note + left_out, tuple(worst["world"]))


def drawn_symbols(result: Any) -> list[str]:
    """The symbols whose price to draw: all, or of many those whose funds lost most."""
    symbols: list[str] = result.prices["symbol"].unique().sort().to_list()
    if len(symbols) <= MOST_SYMBOLS:
        return symbols
    lost = exact_sums(result.fund, ("symbol",), ("deficit",))
    ranked = lost.sort("deficit", "symbol", descending=[True, False])["symbol"].to_list()
    return sorted([symbol for symbol in [*ranked, *symbols] if symbol in symbols][:MOST_SYMBOLS])


def exit_pictures(groups: Grouping) -> list[Picture]:
    """Exit reasons by group, and, if any were, when positions were liquidated."""
    accounts, by = groups.accounts, groups.by
    reasons = statistics.exit_reasons(accounts, by)
    when = statistics.liquidations_in_time(accounts, by)
    names = reasons[by].unique(maintain_order=True).to_list()
    size = (HALF[0], max(2.2, 1.2 + 0.3 * len(names)))
    figure = _figure(size)
    figures.exit_reason_bars(reasons, figure.subplots())
    caption = f"How positions ended, in shares of all orders, by {by}.{groups.note}"
    pictures = [picture(figure, "exits", caption, f"Stacked bars of exit reasons by {by}.")]
    if when.height:
        figure = _figure(size)
        figures.liquidation_map(when, figure.subplots(), groups=names)
        caption = (
            f"Liquidations in time; the darker, the larger a share of the positions in a row.{groups.note}"
        )
        alt = f"Heat map of liquidations over time by {by}."
        pictures.append(picture(figure, "liquidation-map", caption, alt))
    return pictures


def outcome_pictures(groups: Grouping) -> list[Picture]:
    """Survival until liquidation, if there was one, and the fan of returns, by group."""
    accounts, by = groups.accounts, groups.by
    pictures = []
    if accounts.filter(IS_LIQUIDATED).height:
        figure = _figure(HALF)
        figures.survival_curves(statistics.survival(accounts, by), figure.subplots())
        caption = (
            "Share of positions not yet liquidated, by time since entry (Kaplan-Meier); other exits censor."
        )
        alt = f"Survival curves until liquidation, by {by}."
        pictures.append(picture(figure, "survival", caption + groups.note, alt))
    figure = _figure(HALF)
    figures.return_fan(statistics.return_quantiles(accounts, by), figure.subplots())
    caption = f"Total return of positions after all costs, relative to their collateral.{groups.note}"
    alt = f"Fan of quantiles of the return by {by}, with median and mean."
    return [*pictures, picture(figure, "returns", caption, alt)]


def flow_pictures(accounts: pl.DataFrame) -> list[Picture]:
    """Histogram and tail of what liquidations bring and cost the fund, relative and in money, if any do."""
    table = statistics.flow_histogram(accounts)
    pictures = []
    for measure, of in (
        ("fraction", "as a share of the notional at the exit"),
        ("money", f"in {words.CURRENCY.get()}"),
    ):
        if table.is_empty():
            continue
        figure = _figure((2 * HALF[0], HALF[1]))
        left, right = figure.subplots(1, 2)
        figures.flow_bars(table, left, measure=measure)
        figures.flow_tail(table, right, measure=measure)
        caption = (
            f"Liquidation fee and surplus that a liquidation brings the fund, and the deficit it (or another "
            f"exit below zero) costs, {of}. Those at 0 are in the shares but not in the bars."
        )
        alt = f"Histogram and tail of fee and surplus, and of deficit, {of}."
        pictures.append(picture(figure, f"flows-{measure}", caption, alt, wide=True))
    return pictures


def _figure(size: Sequence[float]) -> Figure:
    """A figure of its own, unknown to pyplot."""
    return Figure(figsize=(size[0], size[1]), layout="constrained")


def _short(text: str, most: int = 28) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
