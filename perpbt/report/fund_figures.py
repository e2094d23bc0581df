"""Figures of the insurance fund: balances, draws, and the price under them; they share a time axis."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from perpbt.report import words
from perpbt.report.drawing import DEFICIT, date_numbers, nothing

UNCOVERED = "#7c1508"


def fund_balances(
    path: pl.DataFrame,
    ax: Axes,
    *,
    labels: Mapping[str, str],
    colours: Mapping[str, str],
    dashed: Collection[str] = (),
) -> Axes:
    """Fund balance over time, a step line a world, from `fund_path`; `labels` in drawing order.

    `colours` and `dashed` are by world too. Logarithmic when balances span more than a factor 30, with 0 at
    the bottom if a fund ran dry.
    """
    if path.is_empty():
        return nothing(ax, "no fund was kept")
    end = path.select(pl.col("time").max()).to_series().to_numpy()
    for world, label in labels.items():
        own = _thinned(path.filter(pl.col("world") == world))
        dash = "--" if world in dashed else "-"
        times = np.append(own["time"].to_numpy(), end)  # a fund at rest keeps its balance
        balances = np.append(own["balance"].to_numpy(), own["balance"][-1])
        ax.step(times, balances, where="post", label=label, color=colours[world], linestyle=dash)
    _money_axis(ax, path["balance"].to_numpy())
    ax.set(ylabel="balance", title="Insurance fund balance")
    return ax


def _thinned(path: pl.DataFrame, windows: int = 350) -> pl.DataFrame:
    """At most four rows a window: its first, lowest, highest and last balance, so that no draw is lost."""
    if path.height <= 4 * windows:
        return path
    balance = path["balance"].to_numpy()
    edges = np.linspace(0, balance.size, windows + 1).round().astype(np.int64)
    kept = [
        start + offset
        for start, end in pairwise(edges)
        for offset in (0, balance[start:end].argmin(), balance[start:end].argmax(), end - start - 1)
    ]
    return path[np.unique(kept)]


def _money_axis(ax: Axes, values: NDArray[np.float64]) -> None:
    """Compact money labels, and a logarithmic axis when it is needed."""
    positive = values[values > 0]
    low, high = (np.quantile(positive, 0.05), positive.max()) if positive.size else (1.0, 1.0)
    if high <= 30 * low:
        ax.set_ylim(bottom=0.0 if values.min() < 0.5 * high else None)
    elif positive.size == values.size:
        ax.set_yscale("log")
    else:
        ax.set_yscale("symlog", linthresh=10.0 ** np.floor(np.log10(low)))
        ax.set_ylim(bottom=0.0)
    if high > 30 * low:
        ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.axis_money(value)))


def fund_draws(path: pl.DataFrame, ax: Axes, *, windows: int = 240, named: int = 3) -> Axes:
    """Deficits drawn from the funds of `path` in equal windows of time, and what of them stayed uncovered.

    Both are summed over the worlds of `path`. The `named` largest windows carry their date.
    """
    drawn = path.filter(pl.col("deficit") > 0)
    if drawn.is_empty():
        return nothing(ax, "no deficit was drawn from these funds")
    span = date_numbers(path["time"])
    first, last = span.min(), span.max()
    edges = np.linspace(first, max(last, first + 1e-3), windows + 1)
    stamps = date_numbers(drawn["time"])
    deficit = np.histogram(stamps, edges, weights=drawn["deficit"].to_numpy())[0]
    uncovered = np.histogram(stamps, edges, weights=drawn["uncovered"].to_numpy())[0]
    width = 1.15 * (edges[1] - edges[0])
    ax.bar(edges[:-1], deficit, width, align="edge", color=DEFICIT, linewidth=0, label="deficit")
    if uncovered.any():
        ax.bar(
            edges[:-1], uncovered, width, align="edge", color=UNCOVERED, linewidth=0, label="of it uncovered"
        )
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.axis_money(value)))
    _name_peaks(ax, edges, deficit, stamps, drawn, named)
    window = words.duration(timedelta(days=float(edges[1] - edges[0])))
    ax.set(ylabel=f"per {window}", title="Deficits drawn from the fund, summed over the funds above")
    return ax


def _name_peaks(
    ax: Axes,
    edges: NDArray[np.float64],
    heights: NDArray[np.float64],
    stamps: NDArray[np.float64],
    drawn: pl.DataFrame,
    named: int,
) -> None:
    """The dates of the largest bars, kept apart from each other."""
    apart = (edges[-1] - edges[0]) / 9
    chosen: list[int] = []
    for place in np.argsort(-heights, kind="stable"):
        if (
            heights[place] > 0
            and len(chosen) < named
            and all(abs(edges[place] - edges[c]) > apart for c in chosen)
        ):
            chosen.append(int(place))
    for place in chosen:
        inside = (stamps >= edges[place]) & (stamps <= edges[place + 1])
        worst = drawn.filter(pl.Series(inside)).sort("deficit", "time").row(-1, named=True)["time"]
        assert isinstance(worst, datetime)
        where = (edges[place], heights[place])
        ax.annotate(
            f"{worst.day} {worst:%b %Y}",
            where,
            (3, 2),
            textcoords="offset points",
            fontsize=8,
            annotation_clip=False,
        )
    ax.margins(y=0.2)


def price_paths(prices: pl.DataFrame, ax: Axes, *, symbols: Sequence[str] | None = None) -> Axes:
    """Closes of each symbol, first close = 100, logarithmic, a line a symbol."""
    for symbol in symbols if symbols is not None else prices["symbol"].unique().sort().to_list():
        own = prices.filter(pl.col("symbol") == symbol).sort("ts")
        own = own.gather_every(max(1, own.height // 700))
        if own.height:
            close = own["close"].to_numpy()
            ax.plot(own["ts"].to_numpy(), 100.0 * close / close[0], linewidth=1.0, label=symbol)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    ax.yaxis.set_minor_formatter(
        FuncFormatter(lambda value, _: f"{value:,.6g}" if _leads(value, 2, 5) else "")
    )
    ax.set(ylabel="first close = 100", title="Price")
    return ax


def _leads(value: float, *digits: int) -> bool:
    """Whether a positive number starts with one of `digits`."""
    return value > 0 and round(value / 10.0 ** np.floor(np.log10(value))) in digits
