"""The picture of several rules side by side: who is liquidated under each, and what moved through the fund."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from perpbt.report.drawing import DEFICIT, SURPLUS, money_axis


def drawn_outcomes(found: pl.DataFrame, rule: str) -> Figure:
    """Liquidations, and money that moved through the fund; a bar for each row, named by its column `rule`.

    `found` has liquidated, defaulted, deficit and net_fund_flow, which is income less deficits.
    """
    figure = Figure(figsize=(9, 1.5 + found.height / 2.4))
    left, right = figure.subplots(1, 2, sharey=True)
    at = np.arange(found.height)
    left.barh(at, found["liquidated"].to_numpy(), color=SURPLUS)
    left.barh(at, found["defaulted"].to_numpy(), color=DEFICIT, height=0.4)
    left.set_yticks(at, found[rule].to_list())
    left.set_xlabel("positions liquidated, of these in default (narrow)")
    income = found["net_fund_flow"] + found["deficit"]
    right.barh(at, income.to_numpy(), color=SURPLUS)
    right.barh(at, -found["deficit"].to_numpy(), color=DEFICIT)
    left.xaxis.set_major_formatter("{x:,.0f}")
    right.set_xlabel("to the fund (surplus and liquidation fees),\nfrom it (deficits); quote currency")
    money_axis(right, "x")
    left.invert_yaxis()
    return figure
