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
from perpbt.report.drawing import DEFICIT, date_numbers, leads, nothing
from perpbt.statistics.common import exact_sums

UNCOVERED = "#7c1508"
WINDOWS = {
    "1m": timedelta(minutes=1),
    "10m": timedelta(minutes=10),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "1d": timedelta(days=1),
    "1w": timedelta(weeks=1),
    "4w": timedelta(weeks=4),
}
MOST_WINDOWS = 300
LONG = timedelta(days=548)
"""A run of more than a year and a half: its years are told apart."""
LEAST_SHARE = 0.01
CHARACTER = 0.0075
"""Width of a label's character, as a share of a wide axis."""


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
    end = date_numbers(path["time"]).max()
    for world, label in labels.items():
        own = _thinned(path.filter(pl.col("world") == world))
        dash = "--" if world in dashed else "-"
        times = np.append(date_numbers(own["time"]), end)  # a fund at rest keeps its balance
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


def window_length(first: datetime, last: datetime) -> str:
    """A round length, as polars writes it, of which no more than MOST_WINDOWS fit between two times."""
    fitting = (name for name, size in WINDOWS.items() if last - first <= MOST_WINDOWS * size)
    return next(fitting, list(WINDOWS)[-1])


def largest_draws(draws: pl.DataFrame) -> pl.DataFrame:
    """Of every window of `draws_in_time` the row of the world with the largest deficit, in order of time."""
    ranked = draws.sort("deficit", "world", descending=[True, False])
    return ranked.unique("time", keep="first", maintain_order=True).sort("time")


def fund_draws(draws: pl.DataFrame, ax: Axes, *, every: str) -> Axes:
    """The largest deficit that one world's fund had in each window of `draws_in_time`, logarithmic.

    What of it stayed uncovered is drawn in front; the largest windows carry their date. `every` is the
    length of the windows.
    """
    worst = largest_draws(draws.filter(pl.col("deficit") > 0))
    if worst.is_empty():
        return nothing(ax, "no deficit was drawn from these funds")
    times, width = date_numbers(worst["time"]), WINDOWS[every] / timedelta(days=1)
    heights, uncovered = worst["deficit"].to_numpy(), worst["uncovered"].to_numpy()
    floor = max(heights.min(), heights.max() * 1e-4) / 2
    for values, colour, label in ((heights, DEFICIT, "deficit"), (uncovered, UNCOVERED, "of it uncovered")):
        seen = values > floor
        if seen.any():
            bars = values[seen] - floor
            ax.bar(times[seen], bars, width, floor, align="edge", color=colour, linewidth=0, label=label)
    ax.set(yscale="log", ylim=(floor, 6 * heights.max()), ylabel=f"per {spell(every)}")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.axis_money(value)))
    ax.set_title("Largest deficit of one fund, logarithmic")
    _name_peaks(ax, worst["time"], heights, every)
    return ax


def draw_severity(draws: pl.DataFrame, ax: Axes, *, every: str) -> Axes:
    """`severity` of every window, the largest with their date."""
    found = severity(draws)
    if found.is_empty():
        return nothing(ax, "no liquidation left a deficit")
    heights, width = found["severity"].to_numpy(), WINDOWS[every] / timedelta(days=1)
    ax.bar(date_numbers(found["time"]), heights, width, align="edge", color=DEFICIT, linewidth=0)
    ax.set(ylim=(0.0, 1.3 * heights.max()), ylabel=f"per {spell(every)}")
    ax.set_title("Deficits as a share of the notional liquidated, all funds above")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.axis_share(value)))
    _name_peaks(ax, found["time"], heights, every)
    return ax


def severity(draws: pl.DataFrame) -> pl.DataFrame:
    """`time`, `severity`: deficits of all worlds of `draws_in_time` over the notional they closed there.

    A measure without size: it compares crashes of a small market with those of a large one. Windows that
    closed less than LEAST_SHARE of the mean are left out, for a ratio of next to nothing means nothing.
    Empty without deficits.
    """
    sums = exact_sums(draws, ("time",), ("deficit", "notional")).filter(pl.col("notional") > 0)
    sums = sums.filter(pl.col("notional") >= LEAST_SHARE * pl.col("notional").mean())
    table = sums.select("time", severity=pl.col("deficit") / pl.col("notional"))
    return table if (table["severity"] > 0).any() else table.clear()


def guide_lines(ax: Axes, places: Sequence[float]) -> Axes:
    """Thin upright lines that lead the eye from panel to panel."""
    for place in places:
        ax.axvline(place, color="#8a96a3", linewidth=0.7, linestyle=":", zorder=0.5)
    return ax


def severe_places(draws: pl.DataFrame, every: str) -> list[float]:
    """Where along the time axis the windows are that `draw_severity` names."""
    found = severity(draws)
    if found.is_empty():
        return []
    middles = date_numbers(found["time"]) + WINDOWS[every] / timedelta(days=2)
    return [float(middles[place]) for place in peaks(found["time"], found["severity"].to_numpy(), every)]


def spell(every: str) -> str:
    """A window's length in words: 1d → day, 6h → 6 h."""
    known = {"1m": "minute", "1h": "hour", "1d": "day", "1w": "week", "4w": "four weeks"}
    return known.get(every, words.duration(WINDOWS[every]))


def _name_peaks(ax: Axes, times: pl.Series, heights: NDArray[np.float64], every: str) -> None:
    """A guide line at each bar that `peaks` picks; its date along the top, right or left, if it fits."""
    middles = date_numbers(times) + WINDOWS[every] / timedelta(days=2)
    low, high = ax.get_xlim()
    taken: list[tuple[float, float]] = []
    for place in peaks(times, heights, every):
        text, at = _date(times[place], every), float(middles[place])
        guide_lines(ax, [at])
        length = CHARACTER * len(text) * (high - low)
        for side, start in (("left", at), ("right", at - length)):
            end = start + length
            inside = low <= start and end <= high + 0.02 * (high - low)
            if inside and all(end <= first or last <= start for first, last in taken):
                taken.append((start, end))
                ax.annotate(
                    text,
                    (at, 1.0),
                    (3 if side == "left" else -3, -1),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    ha=side,
                    va="top",
                    fontsize=8,
                    annotation_clip=False,
                )
                break


def peaks(times: pl.Series, heights: NDArray[np.float64], every: str, most: int = 3) -> list[int]:
    """Which bars to name, highest first: over LONG that of every calendar year, else `most`, well apart."""
    moments = [moment + WINDOWS[every] / 2 for moment in times]
    span = moments[-1] - moments[0]
    chosen: list[int] = []
    for place in (int(place) for place in np.argsort(-heights, kind="stable") if heights[place] > 0):
        others = [moments[other] for other in chosen]
        if span > LONG:
            new = all(moments[place].year != other.year for other in others)
        else:
            new = len(chosen) < most and all(abs(moments[place] - other) > span / 9 for other in others)
        if new:
            chosen.append(place)
    return chosen


def _date(start: datetime, every: str) -> str:
    """A window in words: the month of its middle if it is long, else its day, and time if that is not 0:00.

    Shorter runs go without the year, which the axis tells.
    """
    if WINDOWS[every] >= timedelta(weeks=1):
        return f"{start + WINDOWS[every] / 2:%b %Y}"
    return f"{start.day} {start:%b}" + (f" {start:%H:%M}" if (start.hour, start.minute) != (0, 0) else "")


def price_paths(prices: pl.DataFrame, ax: Axes, *, symbols: Sequence[str] | None = None) -> Axes:
    """Closes of each symbol, first close = 100, a line a symbol; logarithmic if they span a factor 3."""
    for symbol in symbols if symbols is not None else prices["symbol"].unique().sort().to_list():
        own = prices.filter(pl.col("symbol") == symbol).sort("ts")
        own = own.gather_every(max(1, own.height // 700))
        if own.height:
            close = own["close"].to_numpy()
            ax.plot(date_numbers(own["ts"]), 100.0 * close / close[0], linewidth=1.0, label=symbol)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    low, high = ax.dataLim.intervaly
    if low > 0 and high > 3 * low:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        ax.yaxis.set_minor_formatter(
            FuncFormatter(lambda value, _: f"{value:,.6g}" if leads(value, 2, 5) else "")
        )
    ax.set(ylabel="first close = 100", title="Price")
    return ax
