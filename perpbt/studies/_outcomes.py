"""The picture of several rules side by side: who is liquidated under each, and what moved through the fund."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from perpbt.report import words
from perpbt.report.drawing import DEFICIT, SURPLUS


def drawn_outcomes(found: pl.DataFrame, rule: str) -> Figure:
    """Liquidations, and money that moved through the fund; a bar for each row, named by its column `rule`.

    `found` has liquidated, defaulted, surplus and deficit.
    """
    figure = Figure(figsize=(9, 1.5 + found.height / 2.4))
    left, right = figure.subplots(1, 2, sharey=True)
    at = np.arange(found.height)
    left.barh(at, found["liquidated"].to_numpy(), color=SURPLUS)
    left.barh(at, found["defaulted"].to_numpy(), color=DEFICIT, height=0.4)
    left.set_yticks(at, found[rule].to_list())
    left.set_xlabel("positions liquidated, of these in default (narrow)")
    right.barh(at, found["surplus"].to_numpy(), color=SURPLUS)
    right.barh(at, -found["deficit"].to_numpy(), color=DEFICIT)
    right.set_xlabel("to the fund (surplus), from it (deficits)")
    left.xaxis.set_major_formatter("{x:,.0f}")
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.axis_money(value)))
    left.invert_yaxis()
    return figure
