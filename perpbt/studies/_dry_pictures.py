"""Pictures of `when_the_fund_runs_dry`: the fund's path in its forms, and policies side by side."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure

from perpbt.report.drawing import DEFICIT, SURPLUS, date_axis, date_numbers, money_axis, ramp


def fund_picture(name: str, paths: pl.DataFrame, seed: float) -> Figure:
    """Balances over what the fund began with."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    ax = figure.add_subplot()
    runs = paths["run"].unique(maintain_order=True).to_list()
    for run, colour in zip(runs, ramp(len(runs)), strict=True):
        own = paths.filter(pl.col("run") == run)
        dash = "--" if "cascade" in run else "-"
        ax.step(
            date_numbers(own["time"]),
            own["balance"].to_numpy() / max(seed, 1e-300),
            where="post",
            label=run,
            color=colour,
            ls=dash,
        )
    ax.set(ylabel="balance / opening balance", title=f"Insurance fund, {name}")
    ax.legend()
    date_axis(ax)
    return figure


def policy_picture(name: str, rows: pl.DataFrame) -> Figure:
    """How many winners each policy closes, and the most one gives up."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    ordered = rows.sort("deleveraged", "policy", descending=True)
    names = ordered["policy"].to_list()
    left.barh(names, ordered["deleveraged"].to_numpy(), color=SURPLUS)
    left.set(xlabel="winners closed, in part or whole", title=f"Without a fund, {name}")
    right.barh(names, ordered["largest"].to_numpy(), color=DEFICIT)
    right.set(xlabel="most that one row of accounts gives up, quote currency")
    money_axis(right, "x")
    return figure
