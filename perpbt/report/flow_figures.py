"""Figures of what liquidations bring the fund, fee and surplus, and of the deficits they leave."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from perpbt.report import words
from perpbt.report.drawing import DEFICIT, SURPLUS, leads, nothing

FLOWS = {
    "income": ("brings: fee and surplus", SURPLUS, "-"),
    "surplus": ("of it the surplus", "#009e73", "--"),
    "deficit": ("costs: deficit", DEFICIT, "-"),
}
"""Flows of `flow_histogram`: words, colour, dash."""


def flow_bars(table: pl.DataFrame, ax: Axes, *, measure: str = "fraction") -> Axes:
    """`flow_histogram`'s income and deficit of liquidations, the surplus as an outline; logarithmic axes."""
    shown = table.filter((pl.col("measure") == measure) & (pl.col("lower") > 0))
    if shown["positions"].sum() == 0:
        return nothing(ax, "no liquidation brought or cost the fund anything")
    for flow, (label, colour, dash) in FLOWS.items():
        own = shown.filter(pl.col("flow") == flow)
        if own.height:
            edges = np.append(own["lower"].to_numpy(), own["upper"][-1])
            counts = own["positions"].to_numpy()
            if flow != "surplus":
                ax.stairs(counts, edges, fill=True, color=colour, alpha=0.3)
            ax.stairs(counts, edges, color=colour, linewidth=1.2, linestyle=dash, label=label)
    ax.set(
        xscale="log", yscale="log", ylabel="liquidations", title="What a liquidation brings or costs the fund"
    )
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else ""))
    ax.set_ylim(bottom=0.7)
    _flow_axis(ax, shown, measure)
    ax.legend(loc="upper left")
    return ax


def flow_tail(table: pl.DataFrame, ax: Axes, *, measure: str = "fraction") -> Axes:
    """The tails: the share of liquidations whose income, surplus or deficit is at least x."""
    shown = table.filter((pl.col("measure") == measure) & (pl.col("lower") > 0) & (pl.col("exceeding") > 0))
    if shown.is_empty():
        return nothing(ax, "no tail to show")
    for flow, (label, colour, dash) in FLOWS.items():
        own = shown.filter(pl.col("flow") == flow)
        if own.height:
            ax.plot(own["lower"], own["exceeding"], color=colour, linestyle=dash, label=label)
    ax.set(xscale="log", yscale="log", ylabel="share of liquidations", title="Tail: at least this large")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.axis_share(value)))
    _flow_axis(ax, shown, measure)
    ax.legend()
    return ax


def _flow_axis(ax: Axes, shown: pl.DataFrame, measure: str) -> None:
    """Names and labels of the axis of flows, from the first filled bin on."""
    full = shown.filter(pl.col("positions") > 0)
    ax.set_xlim(float(full["lower"].min() or 0.1) * 0.8, float(full["upper"].max() or 1.0) * 1.25)  # type: ignore[arg-type]
    text = words.axis_share if measure == "fraction" else words.axis_money
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    low, high = ax.get_xlim()
    between = (2, 5) if high < 100 * low else ()
    ax.xaxis.set_minor_formatter(
        FuncFormatter(lambda value, _: text(value) if leads(value, *between) else "")
    )
    ax.yaxis.set_minor_formatter(NullFormatter())
    money = f"{words.CURRENCY.get()}, of one position"
    ax.set_xlabel("of notional at the exit" if measure == "fraction" else money)
