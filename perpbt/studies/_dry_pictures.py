"""Pictures of `when_the_fund_runs_dry`: the fund's path in its forms, policies side by side, a clearing house's layers over time."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure

from perpbt.report.drawing import DEFICIT, SURPLUS, date_axis, date_numbers, money_axis, nothing, ramp


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


def clearing_picture(name: str, days: pl.DataFrame) -> Figure:
    """What each layer has paid so far, one on the other, where every account is its own and where a member's are netted."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    titles = {
        "none": f"Clearing house, {name}: every account its own",
        "member": "accounts of a member netted",
    }
    for ax, (netting, title) in zip(figure.subplots(1, 2, sharex=True), titles.items(), strict=True):
        own = days.filter(pl.col("netting") == netting)
        ax.set(title=title, ylabel="paid so far, quote currency")
        used = own.group_by("layer", maintain_order=True).agg(pl.col("used_so_far").last())
        layers = used.filter(pl.col("used_so_far") > 0)["layer"].to_list()
        if not layers:
            nothing(ax, "no deficits")
            continue
        paid = [own.filter(pl.col("layer") == layer) for layer in layers]
        ax.stackplot(
            date_numbers(paid[0]["time"]),
            *(one["used_so_far"].to_numpy() for one in paid),
            step="post",
            labels=[layer.replace("_", " ") for layer in layers],
            colors=ramp(len(layers)),
        )
        ax.legend(loc="upper left")
        date_axis(ax)
        money_axis(ax, "y")
    return figure
