"""Frames to arrays: the one place where prices, venues and rules become what kernels read.

In: checked bars of one symbol, a venue, rules. Out: contiguous float64 arrays on that symbol's bars. Every
logarithm, rolling window and indicator is computed here, so that kernels use only + - * /, sqrt, min, max
and comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import polars as pl

from perpbt.config import Rules
from perpbt.contracts import Contract, ratio
from perpbt.errors import InputError
from perpbt.kernels.coarse import coarse_over, no_coarse
from perpbt.kernels.pyramid import no_pyramid, pyramid_over
from perpbt.kernels.tables import (
    ENTRY_SIDE,
    FUNDING,
    HIGH,
    LAST_OPEN,
    LOW,
    MARK_CLOSE,
    MARK_HIGH,
    MARK_LOW,
    MARK_OPEN,
    NEXT_ENTRY,
    NEXT_LONG_EXIT,
    NEXT_SHORT_EXIT,
    SERIES,
    TURNOVER,
    VOLATILITY,
    Floats,
    Integers,
    Market,
    Rates,
    Signals,
    Terms,
)
from perpbt.load import SymbolBars
from perpbt.mapped import MEMORY, Shelf
from perpbt.prepare.margining.epochs import Epochs, one_epoch
from perpbt.prepare.mirror import reciprocal_bars
from perpbt.venue import Venue
from perpbt.venue.tables.maintenance import MaintenanceTerms

PLAIN = Contract()
NEAR = 1  # up to a multiple of this, bars are looked at one by one before a leap: many positions end in the bar they begin in


def seen(column: pl.Series) -> Floats:
    """The one cast from a frame's column to an array: contiguous float64, null as NaN. To be read only: it may be the frame's own memory."""
    values = column.cast(pl.Float64).fill_null(float("nan")).rechunk().to_numpy()
    return np.ascontiguousarray(values, dtype=np.float64)


def floats(column: pl.Series) -> Floats:
    """The same as an array of its own: kernels are compiled for such."""
    return seen(column).copy()


def milliseconds(column: pl.Series) -> Integers:
    """Datetimes as int64 milliseconds since 1970, UTC."""
    return np.ascontiguousarray(column.dt.epoch("ms").to_numpy(), dtype=np.int64).copy()


def funding_sums(times: Integers, price: Floats, events: pl.DataFrame) -> tuple[Integers, Floats]:
    """CF of MODEL §1: the bars at which events are charged, and the sum of price * rate before the first of them and after each.

    An event is charged at the first bar that opens at or after it; one after the last bar is never charged.
    `np.cumsum` adds in order, event by event, so the sum depends on nothing but the events.
    """
    when = milliseconds(events["ts"])
    charged_at = np.searchsorted(times, when)
    inside = charged_at < times.size
    charged_at = charged_at[inside]
    unknown = np.flatnonzero(np.isnan(price[charged_at]))
    if unknown.size:
        raise InputError(
            f"funding at {events['ts'][int(unknown[0])]} is due on a bar without the price it is charged on; "
            "allowed: rules.funding_price = 'mark', or an index on every bar with funding"
        )
    amounts = price[charged_at] * floats(events["funding_rate"])[inside]
    return charged_at, np.concatenate([np.zeros(1), np.cumsum(amounts)])


def turnover_of(column: Mapping[str, Floats], contract: Contract) -> Floats:
    """What was traded in each bar, in settlement currency; NaN without volume. Prices of an inverse contract are in the mirror."""
    if "volume" not in column:
        return np.full(column["close"].size, np.nan)
    if contract.counts_contracts():
        return (column["volume"] * contract.multiplier) * column["close"]
    return column["volume"] if contract.kind == "inverse" else column["volume"] * column["close"]


def market_arrays(
    bars: SymbolBars, rules: Rules, engine: str, contract: Contract = PLAIN, shelf: Shelf = MEMORY
) -> Market:
    """Everything of one symbol a kernel may read; with a pyramid for the engine that skips, and coarse bars for the other.

    Of an inverse contract all prices are in the mirror (`perpbt.prepare.mirror`). Money is in settlement currency. The arrays are the shelf's.
    """
    size = bars.frame.height
    times, series = shelf.array((size,), np.int64), shelf.array((SERIES, size), np.float64)
    highest_mark = highest = -np.inf
    for first, last in shelf.windows(size):
        frame = bars.frame.slice(first, last - first)
        shelf.write(times, (first,), milliseconds(frame["ts"]))
        made = series_of(frame, bars.symbol, rules, contract)
        for row, values in made.items():
            shelf.write(series, (row, first), values)
        highest_mark = max(highest_mark, float(made[MARK_HIGH].max()))
        highest = max(highest, float(made[HIGH].max()))
    charged_at, sums = funding_sums(times, series[FUNDING], bars.funding)
    if contract.kind == "inverse":
        sums = 0.0 - sums
    lowest_funding, highest_funding = np.inf, -np.inf
    for first, last in shelf.windows(size):
        funding = sums[np.searchsorted(charged_at, np.arange(first, last), side="right")]
        shelf.write(series, (FUNDING, first), funding)
        lowest_funding = min(lowest_funding, float(funding.min()))
        highest_funding = max(highest_funding, float(funding.max()))
    return Market(
        time=times,
        series=series,
        highest_mark=highest_mark,
        lowest_funding=lowest_funding,
        greatest=max(highest_mark, highest, highest_funding, -lowest_funding),
        pyramid=pyramid_over(series, NEAR, shelf.array) if engine == "skip" else no_pyramid(),
        coarse=coarse_over(series, shelf.array) if engine == "dense" else no_coarse(),
    )


def series_of(frame: pl.DataFrame, symbol: str, rules: Rules, contract: Contract) -> dict[int, Floats]:
    """The rows of Market.series over some bars, each from its own bar; in place of FUNDING the price that funding is charged on.

    To be read only.
    """
    column = {name: seen(frame[name]) for name in frame.columns if name not in ("ts", "symbol")}
    # range-based volatility of the bar (Parkinson 1980), used as sigma_i of the square-root law
    volatility = np.log(column["high"] / column["low"]) / (2.0 * np.sqrt(np.log(2.0)))
    if contract.kind == "inverse":
        column = reciprocal_bars(column)
    paid_on = "index_open" if rules.funding_price == "index" else "mark_open"
    if paid_on not in column:
        raise InputError(
            f"rules.funding_price = 'index' needs index_open in the bars of {symbol}; columns: {frame.columns}"
        )
    names = {
        LOW: "low", HIGH: "high", MARK_LOW: "mark_low", MARK_HIGH: "mark_high", FUNDING: paid_on,
        MARK_CLOSE: "mark_close", LAST_OPEN: "open", MARK_OPEN: "mark_open",
    }  # fmt: skip
    made = {row: column[name] for row, name in names.items()}
    return {**made, VOLATILITY: volatility, TURNOVER: turnover_of(column, contract)}


def contract_for(venue: Venue, symbol: str) -> Contract:
    """What a venue says a symbol is: its table [contract], else a plain linear contract."""
    found: Contract | None = venue.terms("contract", symbol)
    return PLAIN if found is None else found


def terms_of(contract: Contract, rules: Rules) -> Terms:
    """A contract as kernels read it; steps only where the rules ask for them."""
    lots, ticks = (rules.rounding in (one, "both") for one in ("lot", "tick"))
    return Terms(
        contract.kind == "inverse",
        *(ratio(contract.lot, contract.multiplier) if lots else (0.0, 0.0)),
        *(ratio(contract.tick) if ticks else (0.0, 0.0)),
    )


def rates_for(
    venue: Venue, symbol: str, rules: Rules, contract: Contract | None = None, epochs: Epochs | None = None
) -> Rates:
    """A venue's numbers for one symbol, its tiers as they follow one another in `epochs`; None: the venue's last.

    Raises InputError where the symbol is no plain linear contract, or rounding is asked for, unless the caller says by `contract`
    that it knows.
    """
    if contract is None and not (contract_for(venue, symbol).plain and rules.rounding == "none"):
        raise InputError(
            f"{symbol}: a {contract_for(venue, symbol).kind} contract on venue {venue.name}, rules.rounding = {rules.rounding!r}; "
            "allowed in this mode: plain linear contracts without rounding"
        )
    terms = venue.terms("maintenance", symbol) or MaintenanceTerms()
    check_rule(venue, terms, symbol)
    check_steps(venue, symbol, contract or PLAIN, rules)
    ladders, since = epochs or one_epoch(venue, symbol)
    return Rates(
        taker_fee=float(venue.taker_fee),
        maker_fee=float(venue.maker_fee),
        slippage=float(venue.slippage),
        liquidation_fee=float(venue.liquidation_fee),
        close_out_rate=float(venue.close_out_rate),
        half_spread=float(venue.half_spread),
        impact=float(venue.impact),
        max_slippage=float(venue.max_slippage),
        surplus_to_fund=float(venue.surplus_to_fund),
        protected=True,
        entry_maintenance=venue.maintenance_on == "entry",
        optimistic=rules.intrabar == "optimistic",
        target_at_open=rules.take_profit_fill == "open",
        clip=rules.oversize == "clip",
        whole=terms.rule == "whole",
        per_unit=per_unit_of(terms, contract or PLAIN),
        tiers=ladders[0].copy(),
        ladders=ladders,
        since=since,
        terms=terms_of(contract or PLAIN, rules),
    )


def check_steps(venue: Venue, symbol: str, contract: Contract, rules: Rules) -> None:
    """Refuse to round to steps that are not stated."""
    for name, step in (("lot", contract.lot), ("tick", contract.tick)):
        if rules.rounding in (name, "both") and step is None:
            raise InputError(
                f"rules.rounding = {rules.rounding!r}: venue {venue.name} states no contract.{symbol}.{name}; allowed: a venue with it "
                "(Venue.replace(contract = {...}), or [contract] in its file)"
            )


def check_rule(venue: Venue, terms: MaintenanceTerms, symbol: str) -> None:
    """Refuse what engines do not combine."""
    bands = max(len(one.tiers) for one in venue.schedule(symbol))
    if terms.per_unit > 0.0 and bands > 1:
        raise InputError(
            f"{symbol}: maintenance.per_unit = {terms.per_unit:g} with {bands} tiers; allowed: one tier, to whose rate the size adds"
        )


def per_unit_of(terms: MaintenanceTerms, contract: Contract) -> float:
    """The rate added for each unit of size as kernels count it: base units, coin of value (inverse), contracts (quanto)."""
    return float(terms.per_unit) / (contract.multiplier if contract.kind == "quanto" else 1.0)


def average_true_range(frame: pl.DataFrame, window: int) -> Floats:
    """Wilder's average true range at each close; NaN until `window` bars are seen.

    True range is the largest of high - low and the distances of high and low from the close before; it is
    smoothed with weight 1/window. Source: J. Welles Wilder, New Concepts in Technical Trading Systems
    (1978).
    """
    before = pl.col("close").shift(1)
    true_range = pl.max_horizontal(
        pl.col("high") - pl.col("low"), (pl.col("high") - before).abs(), (pl.col("low") - before).abs()
    )
    smoothed = true_range.ewm_mean(alpha=1.0 / window, adjust=False, min_samples=window)
    return floats(frame.select(smoothed.alias("atr"))["atr"])


def next_true(mask: npt.NDArray[np.bool_], first: int, none: int) -> Integers:
    """For each bar, of which `first` is the number of the first, the next at or after it where `mask` holds; `none` where none does."""
    at = np.where(mask, np.arange(first, first + mask.size), none)
    return np.ascontiguousarray(np.minimum.accumulate(at[::-1])[::-1], dtype=np.int64)


def no_signals(bars: int, shelf: Shelf = MEMORY) -> Signals:
    """Signals that never come: for positions whose entry and exit are given."""
    marks, series = shelf.array((4, bars), np.int64), shelf.array((1, bars), np.float64)
    for first, last in shelf.windows(bars):
        for row in range(4):
            shelf.write(marks, (row, first), np.full(last - first, bars))
    return Signals(marks, series)


def signal_arrays(
    frame: pl.DataFrame,
    signals: Mapping[str, npt.NDArray[np.bool_]],
    windows: Sequence[int],
    columns: Sequence[Floats],
    shelf: Shelf = MEMORY,
) -> Signals:
    """A strategy's signals on one symbol, with what its policies' levels read: average true ranges, then columns.

    Long and short entry at the same close contradict each other: neither is taken. The arrays are the shelf's.
    """
    bars = frame.height
    never = np.zeros(bars, dtype=bool)
    marks = shelf.array((4, bars), np.int64)
    after = [bars] * 3
    for first, last in reversed(list(shelf.windows(bars))):
        wanted = {key: values[first:last] for key, values in signals.items()}
        long_entry, short_entry, long_exit, short_exit = (
            wanted.get(key, never[first:last])
            for key in ("long_entry", "short_entry", "long_exit", "short_exit")
        )
        side = (long_entry & ~short_entry).astype(np.int64) - (short_entry & ~long_entry)
        shelf.write(marks, (ENTRY_SIDE, first), side)
        rows = (NEXT_ENTRY, NEXT_LONG_EXIT, NEXT_SHORT_EXIT)
        for k, (row, mask) in enumerate(zip(rows, (side != 0, long_exit, short_exit), strict=True)):
            found = next_true(mask, first, after[k])
            shelf.write(marks, (row, first), found)
            after[k] = int(found[0])
    series = shelf.array((max(1, len(windows) + len(columns)), bars), np.float64)
    ranges = (average_true_range(frame, window) for window in windows)
    for row, values in enumerate(chain(ranges, columns)):
        shelf.write(series, (row, 0), values)
    return Signals(marks, series)
