"""What all figures share: the style, colours with a meaning, and axes of times and groups."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.resources import files

import matplotlib.style
import numpy as np
import polars as pl
from matplotlib import dates, ticker
from matplotlib.axes import Axes
from matplotlib.colors import (
    LinearSegmentedColormap,
    to_hex,
)
from numpy.typing import NDArray

from perpbt.report import words

RAMP = LinearSegmentedColormap.from_list("leverage", ["#3d5fd0", "#8b4fd6", "#cf4591", "#ee7338", "#dca00b"])
HARM = LinearSegmentedColormap.from_list("harm", ["#f4f1ea", "#f9cfa4", "#f08a4b", "#c9411f", "#7c1508"])
LOSS_GAIN = LinearSegmentedColormap.from_list(
    "loss_gain", ["#a63a0b", "#f0a873", "#f4f1ea", "#86b8dc", "#125a93"]
)
SURPLUS, DEFICIT = "#0072b2", "#d55e00"


def style() -> AbstractContextManager[None]:
    """The package's matplotlib style, for a `with` block; the caller's settings come back after it."""
    return matplotlib.style.context(str(files("perpbt.report") / "perpbt.mplstyle"))


def ramp(number: int) -> list[str]:
    """`number` colours in order (blue to amber), for values that have one; readable on light and dark."""
    return [to_hex(RAMP(place)) for place in np.linspace(0.0, 1.0, max(number, 2))][:number]


def nothing(ax: Axes, sentence: str) -> Axes:
    """A picture of nothing to show."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, sentence, ha="center", va="center", transform=ax.transAxes, style="italic")
    return ax


def date_numbers(times: pl.Series) -> NDArray[np.float64]:
    """Matplotlib's numbers for times; the zone is taken off first, since numpy's times have none."""
    naive = times.dt.replace_time_zone(None).to_numpy()
    return np.asarray(dates.date2num(naive), np.float64)  # type: ignore[no-untyped-call]


def date_axis(ax: Axes) -> Axes:
    """Short dates along the time axis."""
    locator = dates.AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    return ax


def money_axis(ax: Axes, axis: str) -> Axes:
    """Money along the axis "x" or "y", as 1.5 M or 200 k instead of a power of ten in a corner."""
    (ax.xaxis if axis == "x" else ax.yaxis).set_major_formatter(
        ticker.FuncFormatter(lambda value, _: words.axis_money(value))
    )
    return ax


def categories(ax: Axes, axis: str, group: str, values: Sequence[object]) -> None:
    """Group values as equally spaced ticks of one axis."""
    ticks, names = range(len(values)), [group_label(group, value) for value in values]
    if axis == "x":
        ax.set_xticks(ticks, names)
        ax.set_xlabel(group)
    else:
        ax.set_yticks(ticks, names)
        ax.set_ylabel(group)


def group_label(name: str, value: object) -> str:
    """A value of a group as a figure names it: leverage 10.0 → 10×."""
    return f"{words.label(value)}×" if name == "leverage" else words.label(value)


def leads(value: float, *digits: int) -> bool:
    """Whether a positive number starts with one of `digits`."""
    return value > 0 and round(value / 10.0 ** np.floor(np.log10(value))) in digits
