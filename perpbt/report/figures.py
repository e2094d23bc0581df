"""Figures: each takes a table of `perpbt.statistics` and a matplotlib axes, draws on it and returns it.

Draw inside `style()`, on axes of a `matplotlib.figure.Figure`: nothing here touches pyplot, its state or the
backend. Money is in quote currency throughout. An empty table draws a sentence instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.style
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import (
    Colormap,
    LinearSegmentedColormap,
    LogNorm,
    Normalize,
    PowerNorm,
    SymLogNorm,
)
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullLocator
from matplotlib.typing import ColorType
from numpy.typing import NDArray

from perpbt.report import words
from perpbt.report.drawing import (
    DEFICIT,
    HARM,
    LOSS_GAIN,
    SURPLUS,
    categories,
    date_axis,
    date_numbers,
    group_label,
    nothing,
    ramp,
    style,
)
from perpbt.report.flow_figures import flow_bars, flow_tail
from perpbt.report.fund_figures import (
    draw_severity,
    fund_balances,
    fund_draws,
    guide_lines,
    price_paths,
    severe_places,
    window_length,
)

__all__ = [
    "date_axis",
    "draw_severity",
    "exit_reason_bars",
    "flow_bars",
    "flow_tail",
    "fund_balances",
    "fund_draws",
    "group_label",
    "guide_lines",
    "heat_map",
    "liquidation_map",
    "price_paths",
    "ramp",
    "return_fan",
    "severe_places",
    "style",
    "survival_curves",
    "window_length",
]
REASON_COLOURS = {
    "liquidation": "#d55e00",
    "stop_loss": "#0072b2",
    "trailing_stop": "#56b4e9",
    "take_profit": "#009e73",
    "adl": "#6a3d9a",
    "signal": "#cc79a7",
    "time": "#9aa5b1",
    "end": "#c9d0d6",
    "rejected": "#e6c229",
}
ORDERED = ("leverage", "stop loss")
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_TIME_TICKS = (
    *((60_000, "1 min"), (600_000, "10 min"), (_HOUR_MS, "1 h"), (6 * _HOUR_MS, "6 h"), (_DAY_MS, "1 d")),
    *((7 * _DAY_MS, "1 week"), (30 * _DAY_MS, "30 d"), (182 * _DAY_MS, "½ year"), (730 * _DAY_MS, "2 years")),
)


def heat_map(
    table: pl.DataFrame,
    ax: Axes,
    *,
    title: str,
    unit: str = "share",
    rows: str = "stop loss",
    columns: str = "leverage",
) -> Axes:
    """`grid`'s table as annotated cells; `unit` "share" (light to dark), "return" or "money" (diverging).

    A null cell is hatched. Colours are stretched near 0, the numbers in the cells are exact to three digits.
    """
    values = table.drop(table.columns[0]).to_numpy().astype(np.float64)
    shown = values[np.isfinite(values)]
    largest = float(np.abs(shown).max(initial=0.0)) or 1.0
    text, cmap = words.money if unit == "money" else words.share, HARM if unit == "share" else LOSS_GAIN
    norm = (
        PowerNorm(0.5, 0.0, largest)
        if unit == "share"
        else SymLogNorm(largest * (1e-3 if unit == "money" else 0.1), vmin=-largest, vmax=largest)
    )
    for place, value in np.ndenumerate(values):
        _cell(ax, place[1], place[0], float(value), text, cmap, norm)
    ax.set(
        xlim=(-0.5, values.shape[1] - 0.5),
        ylim=(values.shape[0] - 0.5, -0.5),
        xlabel=columns,
        ylabel=rows,
        title=title,
    )
    ax.set_xticks(
        range(values.shape[1]), [f"{name}×" if columns == "leverage" else name for name in table.columns[1:]]
    )
    ax.set_yticks(range(values.shape[0]), [words.label(name) for name in table.to_series(0)])
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def _cell(
    ax: Axes, x: int, y: int, value: float, text: Callable[[float], str], cmap: Colormap, norm: Normalize
) -> None:
    """One cell with its number, black on light and white on dark."""
    corner, size = (x - 0.48, y - 0.46), (0.96, 0.92)
    if not np.isfinite(value):
        ax.add_patch(
            Rectangle(corner, *size, facecolor="none", edgecolor="#8a96a3", hatch="///", linewidth=0)
        )
        return
    colour = cmap(float(norm(value)))
    ax.add_patch(Rectangle(corner, *size, facecolor=colour, linewidth=0))
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 0.55
    number = text(value).removesuffix(" %")
    ax.text(x, y, number, ha="center", va="center", fontsize=8, color="#000000" if light else "#ffffff")


def survival_curves(table: pl.DataFrame, ax: Axes) -> Axes:
    """`survival`'s curves, a line a group, against time since entry (logarithmic)."""
    group = table.columns[0]
    keys = table[group].unique(maintain_order=True).to_list()
    milliseconds = table["time"].dt.total_milliseconds()
    positive = milliseconds.filter(milliseconds > 0)
    if positive.is_empty():
        return nothing(ax, "no position was held beyond its first bar")
    start, end = float(positive.min() or 1), float(positive.max() or 1)  # type: ignore[arg-type]
    for key, colour in zip(keys, ramp(len(keys)), strict=True):
        own = table.filter(pl.col(group).eq_missing(key))
        x = own["time"].dt.total_milliseconds().to_numpy().astype(np.float64)
        ax.step(
            np.maximum(x, start),
            own["survival"].to_numpy(),
            where="post",
            color=colour,
            label=group_label(group, key),
        )
    ax.set_xscale("log")
    ticks = [(at, name) for at, name in _TIME_TICKS if start <= at <= end]
    ax.set_xticks([at for at, _ in ticks], [name for _, name in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlim=(start, end), ylim=(0.0, 1.02), xlabel="time since entry", ylabel="not yet liquidated")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    ax.set_title(f"Survival until liquidation by {group}")
    ax.legend(title=group, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def return_fan(table: pl.DataFrame, ax: Axes) -> Axes:
    """`return_quantiles`: 5-95, 10-90 and 25-75 % bands, median and mean of each group.

    A fan over groups that have an order, leverage and stop loss; separate bars over others and a single one.
    """
    group = table.columns[0]
    x = np.arange(table.height)
    fan = table.height > 1 and group in ORDERED
    ax.use_sticky_edges = False  # else bars put put the median of -100 % on the frame
    for low, high, strength in ((5, 95, 0.16), (10, 90, 0.2), (25, 75, 0.3)):
        lower, upper = (table[f"quantile_{q:02d}"].to_numpy() for q in (low, high))
        shown: dict[str, Any] = {"color": SURPLUS, "alpha": strength, "linewidth": 0}
        shown["label"] = f"{low}–{high} %"
        if fan:
            ax.fill_between(x, lower, upper, **shown)
        else:
            ax.bar(x, upper - lower, 0.5, lower, **shown)
    middle, mean = table["quantile_50"].to_numpy(), table["mean"].to_numpy()
    lines = ("-", "--") if fan else ("none", "none")
    ax.plot(x, middle, color=SURPLUS, linestyle=lines[0], marker="o", markersize=3.5, label="median")
    ax.plot(x, mean, color=DEFICIT, linestyle=lines[1], marker="s", markersize=3, label="mean")
    ax.axhline(0.0, color="#8a96a3", linewidth=0.8)
    if table["quantile_95"].max() > 5.0:  # type: ignore[operator]
        ax.set_yscale("symlog", linthresh=1.0)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:,.0f} %".replace("-", "−")))
    categories(ax, "x", group, table[group].to_list())
    ax.set(ylabel="total return of a position", title=f"Returns by {group}")
    ax.set_xlim(-0.5, table.height - 0.5)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def exit_reason_bars(table: pl.DataFrame, ax: Axes) -> Axes:
    """`exit_reasons` as a stacked bar a group, shares of all positions of the group."""
    group = table.columns[0]
    keys = table[group].unique(maintain_order=True).to_list()
    filled = np.zeros(len(keys))
    for reason, colour in REASON_COLOURS.items():
        own = dict(table.filter(pl.col("exit_reason") == reason).select(group, "share").iter_rows())
        widths = np.array([own.get(key, 0.0) for key in keys])
        if widths.any():
            name = words.REASON_NAMES[reason]
            ax.barh(range(len(keys)), widths, left=filled, color=colour, height=0.78, linewidth=0, label=name)
            _name_bars(ax, filled, widths, colour)
            filled += widths
    categories(ax, "y", group, keys)
    ax.set(xlim=(0.0, 1.0), title=f"How positions ended, by {group}", xlabel="share of positions")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    ax.grid(False)
    ax.invert_yaxis()
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _name_bars(
    ax: Axes,
    left: NDArray[np.float64],
    widths: NDArray[np.float64],
    colour: ColorType,
) -> None:
    """Percentages inside the bars wide enough for them."""
    dark = colour in (SURPLUS, DEFICIT, REASON_COLOURS["take_profit"])
    for y, (start, width) in enumerate(zip(left, widths, strict=True)):
        if width >= 0.07:
            middle = start + width / 2
            text = f"{100 * width:.0f} %"
            ax.text(
                middle,
                y,
                text,
                ha="center",
                va="center",
                fontsize=7.5,
                color="#ffffff" if dark else "#000000",
            )


def liquidation_map(table: pl.DataFrame, ax: Axes, *, groups: Sequence[object] | None = None) -> Axes:
    """`liquidations_in_time` as time × group; colour: share of the group's positions (logarithmic).

    `groups` are the rows in order, default those that have a liquidation.
    """
    group = table.columns[0]
    if table.is_empty():
        return nothing(ax, "no position was liquidated")
    keys = table[group].unique(maintain_order=True).to_list() if groups is None else groups
    steps = np.diff(np.unique(date_numbers(table["time"])))
    width = float(steps.min()) if steps.size else 1.0
    norm = LogNorm(float(table["share"].min() or 1e-6), float(table["share"].max() or 1.0))  # type: ignore[arg-type]
    for row, key in enumerate(keys):
        own = table.filter(pl.col(group).eq_missing(key))
        colours = HARM(0.12 + 0.88 * np.asarray(norm(own["share"].to_numpy())))
        ax.bar(
            date_numbers(own["time"]),
            0.86,
            width,
            row - 0.43,
            align="edge",
            color=colours,
            linewidth=0,
        )
    categories(ax, "y", group, keys)
    ax.set_ylim(len(keys) - 0.45, -0.55)
    ax.grid(False)
    scale = matplotlib.cm.ScalarMappable(
        norm, LinearSegmentedColormap.from_list("h", HARM(np.linspace(0.12, 1.0, 64)))
    )
    bar = ax.figure.colorbar(scale, ax=ax, pad=0.01, aspect=14)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.axis_share(value)))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.outline.set_visible(False)
    bar.set_label("of positions, per window")
    ax.set_title(f"When positions were liquidated, by {group}")
    return date_axis(ax)
