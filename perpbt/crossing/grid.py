"""Bars of several symbols on one grid of times.

In: each symbol's bars as the engine reads them. Out: the union of their times, and each symbol's series on it. Where a symbol has no bar
it keeps its last mark and last price, and nothing trades; before its first bar it has that bar's open, which nobody can trade at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perpbt.kernels import tables
from perpbt.kernels.crossing import tables as shared
from perpbt.kernels.tables import Floats, Integers, Market

PRICES = {  # row of the grid: rows of Market.series for a bar of the symbol's own, and where it has none
    shared.OPEN_: tables.LAST_OPEN,
    shared.LOW_: tables.LOW,
    shared.HIGH_: tables.HIGH,
    shared.MARK_OPEN_: tables.MARK_OPEN,
    shared.MARK_LOW_: tables.MARK_LOW,
    shared.MARK_HIGH_: tables.MARK_HIGH,
    shared.MARK_CLOSE_: tables.MARK_CLOSE,
}
ON_LAST = (shared.OPEN_, shared.LOW_, shared.HIGH_, shared.CLOSE_)
ON_MARK = (shared.MARK_OPEN_, shared.MARK_LOW_, shared.MARK_HIGH_, shared.MARK_CLOSE_)


@dataclass(frozen=True)
class Timeline:
    """Times of the grid (ms UTC, ascending), and the bar of the grid that each bar of each symbol is."""

    time: Integers
    own: Sequence[Integers]

    def bar_at(self, symbol: int, moments: Integers) -> Integers:
        """The first bar of the symbol's own at or after each moment; the number of bars of the grid where there is none."""
        mine = np.append(self.own[symbol], self.time.size)
        return mine[np.searchsorted(self.time[self.own[symbol]], moments)]

    def bar_after(self, symbol: int, bars: Integers) -> Integers:
        """The symbol's next bar after each bar of the grid; the number of bars of the grid where there is none."""
        mine = np.append(self.own[symbol], self.time.size)
        return mine[np.searchsorted(self.own[symbol], bars, side="right")]


def timeline_of(times: Sequence[Integers]) -> Timeline:
    """The union of times."""
    first = times[0]
    time = first if all(np.array_equal(first, one) for one in times[1:]) else np.unique(np.concatenate(times))
    return Timeline(time, [np.searchsorted(time, one) for one in times])


def on_grid(line: Timeline, symbol: int, market: Market, close: Floats) -> Floats:
    """A symbol's series on the grid; `close` is its last close."""
    count, own = line.time.size, line.own[symbol]
    made = np.empty((shared.GRID_SERIES, count))
    before = (
        np.searchsorted(own, np.arange(count), side="right") - 1
    )  # the symbol's bar at or before each time
    at = np.maximum(before, 0)
    for row, source in PRICES.items():
        made[row] = market.series[source, at]
    made[shared.CLOSE_] = close[at]
    made[shared.FUNDING_] = market.series[tables.FUNDING, at]
    made[shared.SIGMA_], made[shared.TURNOVER_] = (
        market.series[tables.VOLATILITY, at],
        market.series[tables.TURNOVER, at],
    )
    absent = np.ones(count, dtype=bool)
    absent[own] = False
    still(made, np.flatnonzero(absent & (before >= 0)), shared.CLOSE_, shared.MARK_CLOSE_)
    still(made, np.flatnonzero(before < 0), shared.OPEN_, shared.MARK_OPEN_)
    return made


def still(made: Floats, at: Integers, last: int, mark: int) -> None:
    """Bars without trades, at one last price and one mark."""
    if not at.size:
        return
    for rows, source in ((ON_LAST, last), (ON_MARK, mark)):
        price = made[source, at]
        for row in rows:
            made[row, at] = price
    made[shared.SIGMA_, at], made[shared.TURNOVER_, at] = np.nan, np.nan


def asset_series(line: Timeline, moments: Integers, prices: Floats) -> Floats:
    """An asset's price on the grid: each bar opens at what the asset was worth then and keeps it; before its first price, that."""
    made = np.zeros((shared.GRID_SERIES, line.time.size))
    at = np.maximum(np.searchsorted(moments, line.time, side="right") - 1, 0)
    for row in (*ON_LAST, *ON_MARK):
        made[row] = prices[at]
    made[shared.SIGMA_], made[shared.TURNOVER_] = np.nan, np.nan
    return made


def stacked(series: Mapping[int, Floats]) -> Floats:
    """Series of all symbols as one array, in the order of their numbers."""
    return np.ascontiguousarray(np.stack([series[k] for k in sorted(series)]))
