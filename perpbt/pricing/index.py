"""An index made of several venues' prices, with rules for outliers and stale sources.

In: rows of one symbol, one a venue and bar, and `IndexTerms`. Out: a row a bar with `index_*`. Venues are put in
order of their names first, so the order of rows across venues does not matter.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from perpbt.errors import InputError
from perpbt.load.columns import INDEX, PRICES
from perpbt.pricing.frames import (
    Floats,
    Integers,
    as_time,
    bar_length,
    moments,
    nullable,
    prices,
    require,
    symbol_of,
)
from perpbt.pricing.terms import IndexTerms


def composite_index(quotes: pl.DataFrame, terms: IndexTerms) -> pl.DataFrame:
    """The index of one symbol: `ts`, `symbol`, `index_open … index_close`, `sources` (live at the close).

    `quotes`: ts, symbol, venue, open, high, low, close; ts rising within a venue. A venue without a bar (or with
    null prices on it) keeps its last close for terms.stale_seconds, and then counts for nothing. The rules apply to
    the opens, highs, lows and closes each by themselves, so that nothing later is seen; high and low are then
    bounds, since venues need not have reached theirs at one moment, and are widened to hold open and close.
    Null where no source is live.
    """
    require(quotes, ["ts", "symbol", "venue", *PRICES], "an index")
    symbol = symbol_of(quotes)
    if quotes["venue"].null_count():
        row = int(quotes["venue"].is_null().arg_true()[0])
        raise InputError(f"column 'venue', row {row}: null; allowed: a name")
    venues = sorted(str(name) for name in quotes["venue"].unique())
    rows = {str(key[0]): part for key, part in quotes.partition_by("venue", as_dict=True).items()}
    times = np.unique(np.concatenate([moments(rows[venue]) for venue in venues]))
    bar_ms = bar_length(times)
    points = [np.full((times.size, len(venues)), np.nan) for _ in PRICES]
    for column, venue in enumerate(venues):
        found = _aligned(rows[venue], times, bar_ms, terms)
        for point, values in zip(points, found, strict=True):
            point[:, column] = values
    base = np.array([float(terms.weights.get(venue, 1.0)) for venue in venues])
    first, high, low, close = (composite(point, base, terms) for point in points)
    high, low = np.fmax(high, np.fmax(first, close)), np.fmin(low, np.fmin(first, close))
    # a bar is whole or absent: a source that turned stale between open and close must not leave half of one
    whole = ~(np.isnan(first) | np.isnan(close))
    made = [np.where(whole, values, np.nan) for values in (first, high, low, close)]
    return pl.DataFrame(
        [
            as_time(times),
            pl.Series("symbol", [symbol] * times.size, dtype=pl.String),
            *(nullable(name, values) for name, values in zip(INDEX, made, strict=True)),
            pl.Series("sources", ((~np.isnan(points[3])) & (base > 0)).sum(axis=1)),
        ]
    )


def _aligned(quotes: pl.DataFrame, times: Integers, bar_ms: int, terms: IndexTerms) -> list[Floats]:
    """One venue's open, high, low, close on the index's bars; the last close where one is missing and not old."""
    whole = quotes.filter(pl.all_horizontal(pl.col(name).is_not_null() for name in PRICES))
    own, found = moments(whole), [prices(whole, name, "an index") for name in PRICES]
    if not own.size:
        return [np.full(times.size, np.nan) for _ in PRICES]
    at = np.searchsorted(own, times, side="right") - 1
    seen = at >= 0
    present = seen & (own[at] == times)
    age_at_open = times - own[at] - bar_ms
    stale_ms = terms.stale_seconds * 1000.0
    carried = np.where(seen, found[3][at], np.nan)
    at_open = np.where(age_at_open <= stale_ms, carried, np.nan)
    at_close = np.where(age_at_open + bar_ms <= stale_ms, carried, np.nan)
    absent = (at_open, at_open, at_open, at_close)
    return [np.where(present, values[at], other) for values, other in zip(found, absent, strict=True)]


def source_weights(quoted: Floats, base: Floats, terms: IndexTerms) -> tuple[Floats, Floats]:
    """Weights and prices that count, moment by moment: two arrays like `quoted` (moments x sources, NaN = not live).

    Weights sum to one on each row (to zero where no source is live). Where more than one source is an outlier and
    the terms say so, every live source stands at the median.
    """
    counted = np.where(base > 0, quoted, np.nan)
    live = ~np.isnan(counted)
    if terms.max_deviation is not None:
        middle = weighted_median(counted, np.ones(base.size))[:, None]
        bound = terms.max_deviation
        with np.errstate(invalid="ignore"):
            outlier = live & (np.abs(counted / middle - 1.0) > bound)
        if terms.outlier == "clip":
            counted = np.clip(counted, middle * (1.0 - bound), middle * (1.0 + bound))
        else:
            several = (outlier.sum(axis=1) > 1)[:, None] & (terms.several_outliers == "median")
            live = live & (~outlier | several)
            counted = np.where(several, middle, counted)
    weights = np.where(live, base, 0.0)
    if terms.two_equal:
        weights = np.where((live.sum(axis=1) == 2)[:, None] & live, 1.0, weights)
    total = weights.sum(axis=1)[:, None]
    return weights / np.where(total > 0, total, 1.0), np.where(live, counted, np.nan)


def composite(quoted: Floats, base: Floats, terms: IndexTerms) -> Floats:
    """The index at each moment, from prices (moments x sources) and the sources' weights; NaN where none is live."""
    weights, counted = source_weights(quoted, base, terms)
    if terms.kind == "median":
        return weighted_median(counted, weights)
    # about one of the prices, so that equal prices give exactly that price
    anchor = np.where(np.isnan(counted), np.inf, counted).min(axis=1)
    spread = np.where(weights > 0, counted - anchor[:, None], 0.0)
    return np.where(np.isfinite(anchor), anchor + (weights * spread).sum(axis=1), np.nan)


def weighted_median(quoted: Floats, weights: Floats) -> Floats:
    """The price that half of the weight does not exceed, row by row; the middle of two where it is exactly half."""
    weights = np.where(np.isnan(quoted), 0.0, np.broadcast_to(weights, quoted.shape))
    order = np.argsort(np.where(np.isnan(quoted), np.inf, quoted), axis=1, kind="stable")
    ranked = np.take_along_axis(quoted, order, axis=1)
    reached = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
    half, slack = reached[:, -1:] / 2.0, reached[:, -1:] * 1e-12
    last = quoted.shape[1] - 1
    low = np.minimum((reached < half - slack).sum(axis=1), last)[:, None]
    high = np.minimum((reached <= half + slack).sum(axis=1), last)[:, None]
    lower, upper = (
        np.take_along_axis(ranked, low, axis=1)[:, 0],
        np.take_along_axis(ranked, high, axis=1)[:, 0],
    )
    middle = np.where(lower == upper, lower, (lower + upper) / 2.0)
    return np.where(reached[:, -1] > 0, middle, np.nan)
