"""The mark price from index, last price and funding, by the venue's rule.

In: bars of one symbol with an index, `MarkTerms`, funding events. Out: the bars with `mark_*`. The open reads
what is known at the open, the close what is known at the close; high and low are bounds: the median of the
components' highs and lows, which need not have been reached at one moment. Bars carry no book, so the last price
stands for the middle of bid and ask, and a window shorter than a bar holds one sample, the close itself.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from perpbt.load.columns import INDEX, MARK, PRICES
from perpbt.pricing.frames import (
    HOUR_MS,
    Floats,
    Integers,
    bar_length,
    moments,
    nullable,
    numbers,
    prices,
    require,
    symbol_of,
)
from perpbt.pricing.terms import MarkTerms

Points = tuple[Floats, Floats, Floats, Floats]  # at open, high, low, close
OTHERS = tuple(f"others_{name}" for name in PRICES)


def mark_by_funding(index: float, rate: float, hours_left: float, interval_hours: float = 8.0) -> float:
    """index * (1 + rate * hours_left / interval): the funding basis. Sources: BitMEX, Fair price marking; Binance FAQ of 2020 (P1)."""
    return index * (1.0 + rate * (hours_left / interval_hours))


def mark_by_basis(index: float, mean_basis: float) -> float:
    """index + mean of (middle - index) over the venue's window. Sources: Binance (P2), OKX, Deribit (there an exponential mean)."""
    return index + mean_basis


def median_mark(first: float, second: float, third: float) -> float:
    """The middle of three. Sources: Binance and Bybit (P1, P2 and the last price), Hyperliquid."""
    return max(min(first, second), min(max(first, second), third))


def mark_prices(bars: pl.DataFrame, terms: MarkTerms, events: pl.DataFrame | None = None) -> pl.DataFrame:
    """The bars with `mark_open mark_high mark_low mark_close`, replacing those they have.

    `bars`: ts, symbol, last prices, index_*, and others_* (a composite of other venues' prices) where terms name
    it. `events`: ts and funding_rate, for the fair price index * (1 + rate * time left / interval): the last
    event at or before an open, before a close; the interval is the time between the last two, the terms' until
    there are two; before the first event the fair price is the index. The mark is null where the index is.
    """
    purpose = f"the mark of {terms.name}"
    require(bars, ["ts", "symbol", *PRICES, *INDEX], purpose)
    symbol_of(bars)
    times = moments(bars)
    bar_ms = bar_length(times)
    last = _points(bars, PRICES, purpose)
    index = _points(bars, INDEX, purpose)
    made: dict[str, Points] = {}
    for name in {*terms.components, *([terms.instead] if terms.instead else [])}:
        if name == "index":
            made[name] = index
        elif name == "last":
            made[name] = last
        elif name == "others":
            made[name] = _others(bars, times.size, purpose)
        elif name == "fair":
            made[name] = _scaled(index, *_basis_by_funding(times, bar_ms, terms, events))
        elif name == "basis_mean":
            window = round((terms.basis_seconds or 0.0) * 1000)
            basis = _trailing_mean(times, bar_ms, last[0] - index[0], last[3] - index[3], window)
            made[name] = _shifted(index, *basis)
        elif name == "basis_ema":
            basis = _trailing_ema(
                times, bar_ms, last[0] - index[0], last[3] - index[3], terms.ema_seconds or 0.0
            )
            made[name] = _shifted(index, *basis)
        else:
            level = _trailing_ema(times, bar_ms, last[0], last[3], terms.last_ema_seconds or 0.0)
            zero = np.zeros(times.size)
            made[name] = _shifted((zero, zero, zero, zero), *level)
    marked = [_median([_component(made, name, terms, k) for name in terms.components]) for k in range(4)]
    marked = [np.where(np.isnan(index[k]), np.nan, values) for k, values in enumerate(marked)]
    first, high, low, close = marked
    # monotone components keep this order by themselves; other venues' prices need not
    high, low = np.maximum(high, np.maximum(first, close)), np.minimum(low, np.minimum(first, close))
    return bars.with_columns(nullable(n, v) for n, v in zip(MARK, (first, high, low, close), strict=True))


def _points(bars: pl.DataFrame, names: tuple[str, ...], purpose: str) -> Points:
    first, high, low, close = (prices(bars, name, purpose) for name in names)
    return first, high, low, close


def _others(bars: pl.DataFrame, rows: int, purpose: str) -> Points:
    if not set(OTHERS) & set(bars.columns):
        unknown = np.full(rows, np.nan)
        return unknown, unknown, unknown, unknown
    return _points(bars, OTHERS, purpose)


def _component(made: dict[str, Points], name: str, terms: MarkTerms, point: int) -> Floats:
    values = made[name][point]
    if terms.instead is None:
        return values
    instead: Floats = np.where(np.isnan(values), made[terms.instead][point], values)
    return instead


def _median(values: list[Floats]) -> Floats:
    """Of those that are known on a row; NaN where none is."""
    if len(values) == 1:
        return values[0]
    stacked = np.sort(np.stack(values), axis=0)  # NaN last
    known = (~np.isnan(stacked)).sum(axis=0)
    rows = np.arange(stacked.shape[1])
    low, high = (
        stacked[np.maximum(known - 1, 0) // 2, rows],
        stacked[np.minimum(known // 2, len(values) - 1), rows],
    )
    # two equal middles are taken as they are: their mean could round
    middle: Floats = np.where(low == high, low, (low + high) / 2.0)
    return middle


def _scaled(index: Points, at_open: Floats, at_close: Floats) -> Points:
    first, high, low, close = index
    most, least = np.maximum(at_open, at_close), np.minimum(at_open, at_close)
    return first * (1.0 + at_open), high * (1.0 + most), low * (1.0 + least), close * (1.0 + at_close)


def _shifted(index: Points, at_open: Floats, at_close: Floats) -> Points:
    first, high, low, close = index
    most, least = np.fmax(at_open, at_close), np.fmin(at_open, at_close)
    return first + at_open, high + most, low + least, close + at_close


def _basis_by_funding(
    times: Integers, bar_ms: int, terms: MarkTerms, events: pl.DataFrame | None
) -> tuple[Floats, Floats]:
    """Rate * time left / interval at open and close."""
    if events is None or events.is_empty():
        return np.zeros(times.size), np.zeros(times.size)
    due, rate = moments(events), numbers(events, "funding_rate")
    usual = round(terms.interval_hours * HOUR_MS)
    interval = np.concatenate([[usual], np.diff(due)]).astype(np.float64)

    def at(when: Integers, side: str) -> Floats:
        event = np.searchsorted(due, when, side=side) - 1  # type: ignore[call-overload]
        left = np.clip(interval[event] - (when - due[event]), 0.0, None)
        return np.where(event >= 0, rate[event] * (left / interval[event]), 0.0)

    # an event at the very end of a bar belongs to the next one: this bar's close has not seen it
    return at(times, "right"), at(times + bar_ms, "left")


def _trailing_mean(
    times: Integers, bar_ms: int, at_open: Floats, at_close: Floats, window: int
) -> tuple[Floats, Floats]:
    """Means of the samples at closes within the window, at open (its own sample if there is none) and close."""
    closes = times + bar_ms
    known = ~np.isnan(at_close)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, at_close, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])

    def until(moments_: Integers, stop: Integers, own: Floats) -> Floats:
        start = np.minimum(np.searchsorted(closes, moments_ - window, side="right"), stop)
        number = counts[stop] - counts[start]
        mean = (sums[stop] - sums[start]) / np.maximum(number, 1)
        return np.where(number > 0, mean, own)

    rows = np.arange(times.size)
    opened = until(times, rows, at_open)
    closed = until(closes, rows + 1, at_close)
    alone = (
        np.searchsorted(closes, closes - window, side="right") >= rows
    )  # of one sample no difference of sums
    return opened, np.where(alone, at_close, closed)


def _trailing_ema(
    times: Integers, bar_ms: int, at_open: Floats, at_close: Floats, seconds: float
) -> tuple[Floats, Floats]:
    """Averages in which a sample that held for t weighs t and fades with exp(-t / seconds), at open and close.

    num = num * exp(-t/T) + x * t, den = den * exp(-t/T) + t, their ratio (Hyperliquid, Robust price indices).
    Each open counts for the time since the close before (nothing, unless bars are missing), each close for the bar.
    """
    fade_ms = seconds * 1000.0
    gaps = np.diff(times, prepend=times[:1] - 2 * bar_ms) - bar_ms
    opened, closed = np.full(times.size, np.nan), np.full(times.size, np.nan)
    top = bottom = 0.0
    fade, fades = float(np.exp(-bar_ms / fade_ms)), np.exp(-gaps / fade_ms).tolist()
    steps = zip(gaps.tolist(), fades, at_open.tolist(), at_close.tolist(), strict=True)
    for row, (gap, faded, first, last) in enumerate(steps):
        if gap > 0 and first == first:
            top, bottom = top * faded + first * gap, bottom * faded + gap
        if bottom > 0.0:
            opened[row] = top / bottom
        if last == last:
            top, bottom = top * fade + last * bar_ms, bottom * fade + bar_ms
        if bottom > 0.0:
            closed[row] = top / bottom
    return opened, closed
