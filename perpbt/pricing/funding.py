"""Funding rates from the premium: samples, their average over an interval, the venue's formula, the schedule.

In: bars of one symbol with an index, or samples of the premium or of impact prices, and `FundingTerms`. Out: a
row an event. A sample is known at its `ts`; an event reads samples known at or before it, and no others.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from perpbt.errors import InputError
from perpbt.load.columns import to_ms
from perpbt.pricing.frames import (
    HOUR_MS,
    Floats,
    Integers,
    as_time,
    bar_length,
    moments,
    nullable,
    numbers,
    prices,
    require,
    symbol_of,
)
from perpbt.pricing.terms import FundingTerms


# ------------------------------------------------------------------------------------------------ arithmetic
def interest_rate(quote_daily: float, base_daily: float, interval_hours: float = 8.0) -> float:
    """I = (quote - base) * interval / 24, both a day's lending rates. Source: BitMEX, Perpetual Contracts
    Guide, where 8 hours make it a third.
    """
    return (quote_daily - base_daily) * interval_hours / 24.0


def maintenance_cap(maintenance_rate: float, share: float = 0.75) -> float:
    """The largest rate of an interval: a share of the first bracket's maintenance rate. Source: Binance."""
    return share * maintenance_rate


def margin_gap_cap(initial_rate: float, maintenance_rate: float, multiple: float = 6.0) -> float:
    """The largest eight-hour rate: a multiple of initial less maintenance rate. Source: dYdX v4."""
    return multiple * (initial_rate - maintenance_rate)


def premium(impact_bid: float, impact_ask: float, index: float, mark: float | None = None) -> float:
    """One sample of `impact_premium`: (max(0, bid - fair) - max(0, fair - ask)) / index, plus mark / index - 1 where fair is a mark."""
    fair = index if mark is None else mark
    return (max(0.0, impact_bid - fair) - max(0.0, fair - impact_ask)) / index + (fair / index - 1.0)


def funding_rate(premium: float, terms: FundingTerms, hours: float | None = None) -> float:
    """The rate charged at the end of an interval over which the premium averaged `premium` (a fraction).

    `hours` is the interval's length, by default the terms' own. NaN gives NaN. See `FundingTerms` for the rules.
    """
    length = terms.interval_hours or terms.base_hours if hours is None else hours
    return float(funding_rates(np.array([premium], dtype=np.float64), terms, np.array([length]))[0])


def funding_rates(premium: Floats, terms: FundingTerms, hours: Floats) -> Floats:
    """`funding_rate` of many intervals at once: averages of the premium and lengths in hours."""
    share = hours / terms.base_hours
    interest = terms.interest * (share if terms.scaling == "interest" else np.ones_like(share))
    if terms.rule == "clamped":
        rate = premium + np.clip(interest - premium, -terms.band, terms.band)
        # inside the band the sum is the interest by definition; adding and taking away P would round it
        rate = np.where(np.abs(interest - premium) <= terms.band, interest, rate)
    elif terms.rule == "sum":
        rate = premium + interest
    else:
        rate = np.maximum(terms.band, premium) + np.minimum(-terms.band, premium)
    if terms.cap_on == "base":
        rate = _bounded(rate, terms)
    if terms.scaling == "rate":
        rate = rate * share
    return _bounded(rate, terms) if terms.cap_on == "interval" else rate


def _bounded(rate: Floats, terms: FundingTerms) -> Floats:
    high = np.inf if terms.cap is None else terms.cap
    return np.clip(rate, -high if terms.floor is None else terms.floor, high)


# --------------------------------------------------------------------------------------------------- samples
def bar_premium(bars: pl.DataFrame, price: str = "last") -> pl.DataFrame:
    """Samples of the premium from bars of one symbol: (close - index close) / index close, known at the close.

    `price`: "last" or "mark". Out: `ts` (the bar's end), `symbol`, `index`, `premium`; both null where either
    price is.
    """
    close = prices(bars, {"last": "close", "mark": "mark_close"}[price], "a premium")
    index = prices(bars, "index_close", "a premium")
    times = moments(bars)
    index = np.where(np.isnan(close), np.nan, index)
    return pl.DataFrame(
        [
            as_time(times + bar_length(times)),
            pl.Series("symbol", [symbol_of(bars)] * times.size, dtype=pl.String),
            nullable("index", index),
            nullable("premium", (close - index) / index),
        ]
    )


def impact_premium(samples: pl.DataFrame) -> pl.DataFrame:
    """Samples of the premium from impact prices: (max(0, bid - fair) - max(0, fair - ask)) / index + basis.

    `samples`: ts (when known), symbol, impact_bid, impact_ask, index. Without a column `mark` fair is the
    index and the basis 0 (Binance, Hyperliquid); with one, fair is the mark and the basis mark / index - 1, the
    form that quotes about the mark and adds the funding basis back (BitMEX, Bybit). Null where a price is.
    """
    bid, ask = prices(samples, "impact_bid", "a premium"), prices(samples, "impact_ask", "a premium")
    crossed = np.flatnonzero(bid > ask)
    if crossed.size:
        row = int(crossed[0])
        raise InputError(
            f"column 'impact_bid', row {row}: {bid[row]:g} is above impact_ask = {ask[row]:g}; allowed: bid <= ask"
        )
    index = prices(samples, "index", "a premium")
    fair = prices(samples, "mark", "a premium") if "mark" in samples.columns else index
    premium = (np.maximum(0.0, bid - fair) - np.maximum(0.0, fair - ask)) / index + (fair / index - 1.0)
    return samples.select("ts", "symbol", "index").with_columns(nullable("premium", premium))


# ---------------------------------------------------------------------------------------------------- events
def schedule(first_ms: int, last_ms: int, terms: FundingTerms) -> Integers:
    """When funding is due, in ms since 1970: from the last time at or before `first_ms` to `last_ms`."""
    if terms.interval_hours is None:
        raise InputError(f"{terms.name}: continuous funding has no schedule; allowed: interval_hours > 0")
    regimes = [(-(1 << 62), terms.interval_hours), *((to_ms(since), hours) for since, hours in terms.changes)]
    ends = [since for since, _ in regimes[1:]] + [1 << 62]
    offset, found = round(terms.offset_hours * HOUR_MS), []
    for (since, hours), until in zip(regimes, ends, strict=True):
        step = round(hours * HOUR_MS)
        low, high = max(since + 1, first_ms - step + 1), min(until, last_ms)
        start = offset + -((offset - low) // step) * step  # the first multiple at or after low
        found.append(np.arange(start, high + 1, step, dtype=np.int64))
    stamps = np.concatenate(found)
    # under a longer interval than the one before, the step back may have gone further than needed
    before = np.flatnonzero(stamps <= first_ms)
    return stamps[before[-1] :] if before.size else stamps


def funding_events(
    samples: pl.DataFrame, terms: FundingTerms, stamps: Integers | None = None
) -> pl.DataFrame:
    """Funding events from samples of one symbol: `ts`, `symbol`, `funding_rate`, and what it was made of.

    `samples`: ts (when known), symbol, premium, and index where terms.average is "prices"; nulls are left out.
    `stamps`: times of events (ms, rising) to use in place of the schedule, such as those a venue published; the
    first only opens the first interval. An event's `premium` is the weighted mean of the `samples` (their number)
    known in the interval before it, its end included; an interval without any takes the last one known, if that is
    no older than an interval or the samples' own spacing (bars longer than the interval), else it has no event.
    `hours` is the interval's length. The first interval may have begun before the samples: it takes those there
    are.
    """
    require(samples, ["premium"], "funding")
    symbol, known = symbol_of(samples), moments(samples)
    premium = numbers(samples, "premium")
    weight = (
        prices(samples, "index", "an average of prices") if terms.average == "prices" else np.ones(known.size)
    )
    seen = ~(np.isnan(premium) | np.isnan(weight))
    known, premium, weight = known[seen], premium[seen], weight[seen]
    if not known.size:
        return _events(symbol, known, premium, np.zeros(0), known, terms)
    if stamps is None:
        stamps = _due(known, terms)
    # sample k belongs to the interval that ends at stamps[into[k]]
    into = np.searchsorted(stamps, known)
    inside = (into > 0) & (into < stamps.size)
    at, opened = into[inside], stamps[into[inside] - 1]
    if terms.weights == "rising":
        weight[inside] *= (known[inside] - opened) / HOUR_MS
    count = np.bincount(at, minlength=stamps.size)
    total = np.bincount(at, weights=weight[inside], minlength=stamps.size)
    summed = np.bincount(at, weights=(weight * premium)[inside], minlength=stamps.size)
    average = np.where(count > 0, summed / np.where(count > 0, total, 1.0), _carried(known, premium, stamps))
    hours = np.diff(stamps, prepend=stamps[:1]) / HOUR_MS
    return _events(symbol, stamps[1:], average[1:], hours[1:], count[1:], terms)


def _due(known: Integers, terms: FundingTerms) -> Integers:
    if terms.interval_hours is not None:
        return schedule(int(known[0]) - 1, int(known[-1]), terms)
    # continuous: what has accrued since the sample before is charged at each
    first = known[0] - (known[1] - known[0] if known.size > 1 else 0)
    return np.concatenate([np.array([first], dtype=np.int64), known])


def _carried(known: Integers, premium: Floats, stamps: Integers) -> Floats:
    """The last premium known at each stamp, NaN where it is older than the interval and its own spacing."""
    last = np.searchsorted(known, stamps, side="right") - 1
    spacing = np.diff(known, prepend=known[:1])
    interval = np.diff(stamps, prepend=stamps[:1])
    fresh = (last >= 0) & (stamps - known[last] <= np.maximum(interval, spacing[last]))
    return np.where(fresh, premium[last], np.nan)


def _events(
    symbol: str, stamps: Integers, average: Floats, hours: Floats, count: Integers, terms: FundingTerms
) -> pl.DataFrame:
    rate = funding_rates(average, terms, hours)
    return pl.DataFrame(
        [
            as_time(stamps),
            pl.Series("symbol", [symbol] * stamps.size, dtype=pl.String),
            pl.Series("funding_rate", rate),
            pl.Series("premium", average),
            pl.Series("hours", hours),
            pl.Series("samples", count.astype(np.int64)),
        ]
    ).filter(pl.col("funding_rate").is_not_nan())
