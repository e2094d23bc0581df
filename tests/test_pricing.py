"""Index, mark and funding made by the venues' rules: published examples, closed forms, nothing seen too early."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bars import made_bars

import perpbt
from perpbt.pricing import (
    FundingTerms,
    IndexTerms,
    MarkTerms,
    composite_index,
    funding_events,
    funding_rate,
    impact_premium,
    interest_rate,
    list_terms,
    load_terms,
    maintenance_cap,
    margin_gap_cap,
    mark_prices,
    schedule,
)
from perpbt.pricing.index import source_weights

DATA = Path(os.environ.get("PERPBT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
TIME = pl.Datetime("ms", "UTC")
START = datetime(2025, 1, 1, tzinfo=UTC)
PRICES = ("open", "high", "low", "close")


def real(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"no real data at {path}: set PERPBT_DATA to the folder that holds it")
    return path


def flat(hours: int, minutes: int = 60, price: float = 100.0, **columns: Any) -> pl.DataFrame:
    """Bars that never move; `columns` are (index, mark, others) levels."""
    rows = hours * 60 // minutes
    ts = [START + timedelta(minutes=minutes * row) for row in range(rows)]
    frame = pl.DataFrame({"ts": pl.Series(ts, dtype=TIME), "symbol": "AAA", **dict.fromkeys(PRICES, price)})
    levels = {f"{name}_{point}": pl.lit(level) for name, level in columns.items() for point in PRICES}
    return frame.with_columns(**levels)


def moving(rows: int, seed: int, minutes: int = 60, drop: tuple[int, ...] = ()) -> pl.DataFrame:
    """Bars on a walk, with an index of its own and some rows missing."""
    last = made_bars(rows, seed=seed, minutes=minutes, start=START).drop("volume")
    other = made_bars(rows, seed=seed + 1000, minutes=minutes, start=START)
    frame = last.with_columns(
        (pl.col(name) * 0.9 + other[name] * 0.1).alias(f"index_{name}") for name in PRICES
    )
    return frame.with_row_index().filter(~pl.col("index").is_in(list(drop))).drop("index")


def terms(name: str) -> FundingTerms:
    return load_terms(FundingTerms, name)


FREE = perpbt.Venue(name="free", tiers={"default": [(0, 1e12, 0.001, 1000)]})


def charged(
    bars: Any, side: str, entry: datetime, leave: datetime | None, notional: float = 100.0, **rules: Any
) -> float:
    """Funding that a position of this notional, at leverage 1 and without costs, receives."""
    account = {"account": "1", "strategy": "hold", "symbol": "AAA", "side": side, "entry_time": entry}
    table = pl.DataFrame([account | {"collateral": notional, "leverage": 1.0, "exit_time": leave}])
    row = perpbt.simulate(bars, table, venue=FREE, rules=rules).accounts
    return float(row["funding"][0])


# ------------------------------------------------------------------------------------- published examples
def paid(rate: float, side: str, notional: float) -> float:
    bars = flat(4).with_columns(funding_rate=pl.when(pl.int_range(pl.len()) == 2).then(rate))
    return charged(bars, side, START, None, notional)


def hyperliquid_impact(bid: float, ask: float, oracle: float) -> float:
    row = {"ts": START, "symbol": "AAA", "impact_bid": bid, "impact_ask": ask, "index": oracle}
    return float(impact_premium(pl.DataFrame([row], schema_overrides={"ts": TIME}))["premium"][0])


def fair_price(index: float, rate: float, left: float, interval: float) -> float:
    event = pl.DataFrame(
        {"ts": [START], "funding_rate": [rate]}, schema={"ts": TIME, "funding_rate": pl.Float64}
    )
    rule = load_terms(MarkTerms, "binance_um_2019")
    bars = flat(24, price=index, index=index)
    marked = mark_prices(bars, rule, event)
    row = marked.filter(pl.col("ts") == START + timedelta(hours=interval - left))
    return float(row["mark_open"][0])


class Example(NamedTuple):
    """A published figure, to the digits printed."""

    number: str
    source: str
    made: Callable[[], float]
    expected: float
    tolerance: float = 1e-12


BITMEX = "BitMEX, Perpetual Contracts Guide, examples"
HYPERLIQUID = "Hyperliquid documents, Funding"
CAPS = "Binance funding FAQ: 0.75 of the maintenance rate"
BAND = "Binance funding FAQ and notice of 16 Sep 2025, formula"

EXAMPLES = [
    Example("G22 rate", BITMEX, lambda: interest_rate(0.01, 0.0025), 0.0025),
    Example("G22 funding", BITMEX, lambda: -paid(interest_rate(0.01, 0.0025), "long", 20.0), 0.05),
    Example("G23 long", "BitMEX, PNL guide, funding fees", lambda: paid(0.01, "long", 100.0), -1.0),
    Example("G23 short", "BitMEX, PNL guide, funding fees", lambda: paid(0.01, "short", 100.0), 1.0),
    Example("G34 premium", HYPERLIQUID, lambda: hyperliquid_impact(10_100.0, 10_110.0, 10_000.0), 0.01),
    Example("G34 8 h", HYPERLIQUID, lambda: funding_rate(0.01, terms("hyperliquid"), 8.0), 0.0095),
    Example("G34 hourly", HYPERLIQUID, lambda: funding_rate(0.01, terms("hyperliquid")), 0.0011875),
    Example(
        "G35",
        "Hyperliquid, a settled hour, checked independently",
        lambda: funding_rate(-0.0005591732, terms("hyperliquid")),
        -7.3966e-06,
        1e-10,
    ),
    Example("G36 8 h", "Lighter documents", lambda: funding_rate(0.001, terms("lighter"), 8.0), 0.0005),
    Example("G36 hourly", "Lighter documents", lambda: funding_rate(0.001, terms("lighter")), 0.0000625),
    Example(
        "G38",
        "Binance FAQ of 2020, mark price",
        lambda: fair_price(10_000.0, 0.0003, 4.0, 8.0),
        10_001.5,
        1e-9,
    ),
    Example("G49 0.4 %", CAPS, lambda: maintenance_cap(0.004), 0.003),
    Example("G49 0.5 %", CAPS, lambda: maintenance_cap(0.005), 0.00375),
    Example("G49 0.65 %", CAPS, lambda: maintenance_cap(0.0065), 0.004875),
    Example("G50 -0.05 %", BAND, lambda: funding_rate(-0.0005, terms("binance_um")), 0.0, 1e-18),
    Example("G50 -0.04 %", BAND, lambda: funding_rate(-0.0004, terms("binance_um")), 0.0001),
    Example("G50 0", BAND, lambda: funding_rate(0.0, terms("binance_um")), 0.0001),
    Example("G50 0.06 %", BAND, lambda: funding_rate(0.0006, terms("binance_um")), 0.0001),
    Example("G50 0.10 %", BAND, lambda: funding_rate(0.001, terms("binance_um")), 0.0005),
    Example("G50 0.10 %, 4 h", BAND, lambda: funding_rate(0.001, terms("binance_um"), 4.0), 0.00025),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.number)
def test_published_examples(example: Example) -> None:
    assert example.made() == pytest.approx(example.expected, abs=example.tolerance, rel=0), example.source


# Worked by hand from the formulas as published; the figures are not printed by the venues.
@pytest.mark.parametrize(
    ("venue", "premium", "expected"),
    [
        ("bitmex", 0.02, 0.00375),  # capped
        ("bybit_linear", 0.001, 0.0005),
        ("okx", -0.0007, -0.0007),
        ("deribit", 0.0002, 0.0),  # inside the band
        ("deribit", 0.001, 0.00075),
        ("deribit", -0.001, -0.00075),
        ("dydx", 0.0007, 0.0001),
        ("dydx", 0.2, 0.006),  # 4.8 % in eight hours
        ("drift", 0.0046, 0.0002),
        ("drift", -0.9, -0.00125),  # 3 % a day
        ("gate", -0.0003, 0.0001),
        ("kraken", 0.008, 0.001),  # an eighth of the hour's premium
        ("kraken", -0.05, -0.0025),  # at most 0.25 % an hour
        ("binance_um_2020", -0.5, -0.03),
    ],
)
def test_formulas_of_venues(venue: str, premium: float, expected: float) -> None:
    assert funding_rate(premium, terms(venue)) == pytest.approx(expected, abs=1e-15)


def test_terms_of_a_symbol_of_dydx_tiers_and_of_changed_intervals() -> None:
    assert terms("binance_um").of("BTCUSDT").cap == maintenance_cap(0.004)
    assert terms("binance_um").of("BNBUSDT").interest == 0.0
    assert terms("binance_um").of("NEWUSDT").cap == 0.02
    assert terms("dydx").cap == pytest.approx(margin_gap_cap(0.02, 0.012))
    # only the interest goes with the interval
    assert funding_rate(0.0, terms("bybit_linear"), 4.0) == 0.00005
    assert funding_rate(0.001, terms("bybit_linear"), 4.0) == pytest.approx(0.0005)


def test_every_set_of_terms_names_its_source_and_date() -> None:
    assert len(list_terms(FundingTerms)) > 10
    for kind in (FundingTerms, MarkTerms, IndexTerms):
        for name in list_terms(kind):
            one = load_terms(kind, name)
            assert len(one.source) > 10
            assert one.as_of is not None
            assert name in one.told()
            if isinstance(one, FundingTerms):
                for symbol in one.symbols:
                    one.of(symbol)


# --------------------------------------------------------------------------------------------- the rate
rates = st.floats(-0.2, 0.2)
bands = st.floats(0.0, 0.01)


@given(premium=rates, interest=st.floats(-0.01, 0.01), band=bands, cap=st.floats(0.0, 0.05))
def test_clamp_and_cap_bound_the_rate(premium: float, interest: float, band: float, cap: float) -> None:
    free = FundingTerms(interest=interest, band=band)
    rate = funding_rate(premium, free)
    assert abs(rate - premium) <= band * (1 + 1e-12) + 1e-17
    assert (rate == interest) or abs(interest - premium) > band
    for on in ("interval", "base"):
        bound = FundingTerms(interest=interest, band=band, cap=cap, floor=-cap / 2, cap_on=on)
        assert funding_rate(premium, bound) == min(max(rate, -cap / 2), cap)


@given(premium=st.floats(-0.0004, 0.0006))
def test_inside_the_dead_band_the_rate_is_the_interest(premium: float) -> None:
    assert funding_rate(premium, terms("binance_um")) == 0.0001


@settings(max_examples=25, deadline=None)
@given(
    premium=st.floats(-0.01, 0.01),
    venue=st.sampled_from(
        [name for name in list_terms(FundingTerms) if terms(name).interval_hours is not None]
    ),
    minutes=st.sampled_from([5, 30, 60]),
)
def test_a_constant_premium_has_a_closed_form(premium: float, venue: str, minutes: int) -> None:
    bars = flat(26, minutes, price=100.0 * (1 + premium), index=100.0)
    funding = perpbt.derive(bars, funding=venue).collect("AAA").funding
    step = int(terms(venue).interval_hours or 0)
    assert funding.height == sum(1 for hour in range(1, 27) if (hour - terms(venue).offset_hours) % step == 0)
    whole = funding["funding_rate"][1:]  # the first interval of BitMEX is a half
    np.testing.assert_allclose(whole, funding_rate(premium, terms(venue)), rtol=0, atol=1e-12)


def test_later_minutes_weigh_more_where_the_venue_says_so() -> None:
    """The k-th of n samples weighs k: (1 * 1 + 2 * 2 + … + n * n) / (1 + … + n) = (2 n + 1) / 3."""
    size = 480
    rising = pl.DataFrame(
        {
            "ts": pl.Series([START + timedelta(minutes=k + 1) for k in range(size)], dtype=TIME),
            "symbol": "AAA",
            "premium": [1e-6 * (k + 1) for k in range(size)],
        }
    )
    made = {name: funding_events(rising, terms(name)) for name in ("bybit_linear", "gate")}
    assert made["bybit_linear"]["premium"].to_list() == pytest.approx([1e-6 * (2 * size + 1) / 3])
    assert made["gate"]["premium"].to_list() == pytest.approx([1e-6 * (size + 1) / 2])
    # a missing minute loses its own weight, and the others keep theirs
    holed = funding_events(rising.filter(pl.int_range(pl.len()) != 100), terms("bybit_linear"))
    kept = np.delete(np.arange(1.0, size + 1), 100)
    assert holed["premium"][0] == pytest.approx(1e-6 * (kept @ kept) / kept.sum())
    assert holed["samples"].to_list() == [size - 1]


def test_an_average_of_prices_is_not_one_of_ratios() -> None:
    samples = pl.DataFrame(
        {
            "ts": pl.Series([START + timedelta(minutes=30), START + timedelta(minutes=60)], dtype=TIME),
            "symbol": "AAA",
            "index": [100.0, 300.0],
            "premium": [0.02, 0.0],
        }
    )
    made = funding_events(samples, terms("drift"))
    assert made["premium"][0] == pytest.approx(2.0 / 400.0)
    assert made["funding_rate"][0] == pytest.approx((2.0 / 400.0 + 1 / 5000) / 24)


def test_continuous_funding_accrues_with_time_whatever_the_bars() -> None:
    """0.1 % above the index less the band is 0.075 % in eight hours, also across a gap."""
    for minutes in (1, 5, 60, 180):
        bars = flat(27, minutes, price=100.1, index=100.0, mark=100.1)
        if minutes == 60:
            bars = bars.filter(~pl.int_range(pl.len()).is_in([7, 8, 9]))
        derived = perpbt.derive(bars, funding="deribit")
        got = charged(derived, "long", START + timedelta(hours=3), START + timedelta(hours=24), 100.1)
        assert got == pytest.approx(-100.1 * 0.00075 * 21 / 8, rel=1e-9)


def test_a_premium_about_the_mark_adds_the_basis_back() -> None:
    """Inside the spread the premium is the mark's own basis; above it, the bid's distance from the index."""
    rows = [
        {"impact_bid": 99.0, "impact_ask": 102.0, "mark": 100.5},
        {"impact_bid": 101.0, "impact_ask": 102.0, "mark": 100.5},
        {"impact_bid": 97.0, "impact_ask": 99.0, "mark": 100.5},
    ]
    frame = pl.DataFrame(rows).with_columns(
        index=pl.lit(100.0), symbol=pl.lit("AAA"), ts=pl.int_range(pl.len()).cast(TIME)
    )
    assert impact_premium(frame)["premium"].to_list() == pytest.approx([0.005, 0.01, -0.01])
    assert impact_premium(frame.drop("mark"))["premium"].to_list() == pytest.approx([0.0, 0.01, -0.01])


# ------------------------------------------------------------------------------------------ the schedule
def hours_of(stamps: Any) -> list[float]:
    first = int(START.timestamp() * 1000)
    return [(int(one) - first) / 3_600_000 for one in stamps]


def test_schedules_offsets_and_changes() -> None:
    first = int(START.timestamp() * 1000)
    last = first + 24 * 3_600_000
    assert hours_of(schedule(first, last, terms("binance_um"))) == [0, 8, 16, 24]
    assert hours_of(schedule(first + 1, last, terms("bitmex"))) == [-4, 4, 12, 20]
    changed = FundingTerms(
        changes=((START + timedelta(hours=8), 4.0), (START + timedelta(hours=18, minutes=30), 1.0))
    )
    assert hours_of(schedule(first, last, changed)) == [0, 8, 12, 16, 19, 20, 21, 22, 23, 24]
    back = FundingTerms(interval_hours=1.0, changes=((START + timedelta(hours=5), 8.0),))
    assert hours_of(schedule(first + 1, last, back)) == [0, 1, 2, 3, 4, 5, 8, 16, 24]


# exit and entry on whole three hours, which all four bar sizes have
ENTRY, LEAVE = START + timedelta(hours=6), START + timedelta(hours=84)
CHANGES = ((START + timedelta(hours=48), 4.0),)


@pytest.mark.parametrize("minutes", [1, 5, 60, 180])
@pytest.mark.parametrize("kind", ["hyperliquid", "changing"])
def test_funding_is_charged_as_often_as_it_is_due_at_any_bar_size(minutes: int, kind: str) -> None:
    rule = (
        terms("hyperliquid") if kind == "hyperliquid" else FundingTerms(changes=CHANGES, scaling="interest")
    )
    # hours 7 … 84 every hour; or 8, 16, …, 48 every eight, then 52, …, 84 every four
    due = 78 if kind == "hyperliquid" else 6 + 9
    stamps = schedule(
        int(START.timestamp() * 1000), int((START + timedelta(hours=96)).timestamp() * 1000), rule
    )
    published = pl.DataFrame({"ts": pl.Series(stamps).cast(TIME), "symbol": "AAA", "funding_rate": 0.0001})
    given_to = perpbt.load_bars(flat(96, minutes), funding=published)
    assert charged(given_to, "short", ENTRY, LEAVE) / 0.01 == pytest.approx(due, abs=1e-9)
    # a premium of 0.5 % made into as many events of a known rate
    derived = perpbt.derive(flat(96, minutes, price=100.5, index=100.0), funding=rule)
    one = funding_rate(0.005, rule)
    assert charged(derived, "short", ENTRY, LEAVE, 100.5) / (100.5 * one) == pytest.approx(due, abs=1e-6)


@pytest.mark.parametrize("engine", ["skip", "dense", "oracle"])
@pytest.mark.parametrize("minutes", [1, 5, 60, 180])
def test_it_is_charged_as_often_in_every_engine_wallet_and_contract(minutes: int, engine: str) -> None:
    """Isolated and from a shared wallet, linear and inverse: hours 7 to 30 of an hourly series, and 8 h until hour 48, then 4 h."""
    first, last = (int((START + timedelta(hours=hour)).timestamp() * 1000) for hour in (0, 72))
    account = {
        "account": "1",
        "strategy": "hold",
        "symbol": "AAA",
        "side": "short",
        "collateral": 100.0,
        "leverage": 1.0,
    }
    inverse = FREE.replace(contract={"kind": "inverse"})
    for rule, leave, due in ((terms("hyperliquid"), 30, 24), (FundingTerms(changes=CHANGES), 60, 6 + 3)):
        events = pl.DataFrame(
            {"ts": pl.Series(schedule(first, last, rule)).cast(TIME), "symbol": "AAA", "funding_rate": 0.0001}
        )
        bars = perpbt.load_bars(flat(72, minutes), funding=events)
        times = {"entry_time": ENTRY, "exit_time": START + timedelta(hours=leave)}
        table = pl.DataFrame([account | times])
        for venue, mode in ((FREE, "isolated"), (FREE, "cross"), (inverse, "isolated")):
            money = table.with_columns(pl.col("collateral") / (100.0 if venue is inverse else 1.0))
            row = perpbt.simulate(bars, money, venue=venue, margin=mode, engine=engine).accounts
            notional = 1.0 if venue is inverse else 100.0
            assert float(row["funding"][0]) / (notional * 0.0001) == pytest.approx(due, abs=1e-9), (
                venue.name,
                mode,
            )


def test_an_interval_is_scaled_by_its_own_length() -> None:
    rule = FundingTerms(changes=CHANGES)
    made = perpbt.derive(flat(96, price=100.5, index=100.0), funding=rule).collect("AAA").funding
    ends = np.array(hours_of(made["ts"].dt.epoch("ms")))
    expected = np.where(ends <= 48, 0.005, 0.0025)
    np.testing.assert_allclose(made["funding_rate"], expected, atol=1e-12)


def test_hyperliquid_charges_every_published_hour() -> None:
    history = perpbt.load_bars(real("hyperliquid_1h_2024_2025.parquet"), symbols=["BTC"])
    bars = history.collect("BTC")
    window = bars.funding.slice(1000, 400)
    begin, end = window["ts"][0], window["ts"][-1]
    spans = end - begin
    assert spans == timedelta(hours=399)
    counted = window.with_columns(symbol=pl.lit("AAA"), funding_rate=pl.lit(0.0001))
    for minutes in (1, 5, 60, 180):
        rows = (spans // timedelta(minutes=minutes)) + 2
        ts = [begin + timedelta(minutes=minutes * row) for row in range(rows)]
        frame = pl.DataFrame(
            {"ts": pl.Series(ts, dtype=TIME), "symbol": "AAA", **dict.fromkeys(PRICES, 100.0)}
        )
        got = charged(perpbt.load_bars(frame, funding=counted), "short", begin, end)
        assert got / 0.01 == pytest.approx(399, abs=1e-9), minutes
    # the published rates themselves, on the prices of the hours they were charged
    frame = bars.frame.filter(pl.col("ts").is_between(begin, end)).with_columns(symbol=pl.lit("AAA"))
    quantity = 100.0 / frame["open"][0]
    owed = float((frame["open"] * frame["funding_rate"].fill_null(0.0))[1:].sum()) * quantity
    run = frame.select("ts", "symbol", *PRICES, "funding_rate")
    assert charged(run, "long", begin, None) == pytest.approx(-owed, rel=1e-9)


def test_funding_on_the_index() -> None:
    bars = flat(10, price=101.0, index=100.0)
    derived = perpbt.derive(bars, funding="hyperliquid")
    assert derived.funding_price == "index"
    on_index = charged(derived, "long", START, None, 101.0, funding_price=derived.funding_price)
    assert on_index / charged(derived, "long", START, None, 101.0) == pytest.approx(100.0 / 101.0)


# ------------------------------------------------------------------------------------------------ the mark
def last_mark(frame: pl.DataFrame) -> list[float]:
    return [frame[f"mark_{name}"][-1] for name in PRICES]


def test_a_constant_basis_is_in_every_mark_that_averages_it() -> None:
    bars = flat(6, 1, price=101.0, index=100.0)
    for venue in ("okx", "deribit", "bybit_linear", "gate", "kraken", "hyperliquid", "binance_um_2020"):
        marked = mark_prices(bars, load_terms(MarkTerms, venue))
        assert last_mark(marked) == pytest.approx([101.0] * 4, rel=1e-12)
    for venue in ("dydx", "drift", "bitmex"):  # no rate is known yet
        assert last_mark(mark_prices(bars, load_terms(MarkTerms, venue))) == [100.0] * 4


def test_the_fair_price_runs_down_to_the_index_and_takes_the_interval_from_the_events() -> None:
    events = pl.DataFrame(
        {
            "ts": pl.Series([START, START + timedelta(hours=8), START + timedelta(hours=12)], dtype=TIME),
            "funding_rate": [0.008, 0.008, 0.004],
        }
    )
    marked = mark_prices(flat(18, index=100.0), load_terms(MarkTerms, "bitmex"), events)
    opens, closes = marked["mark_open"], marked["mark_close"]
    assert opens[:9].to_list() == pytest.approx([100.8 - 0.1 * k for k in range(8)] + [100.8])
    assert closes[7] == pytest.approx(100.0)  # the event at that moment stands on the next row
    assert opens[12:18].to_list() == pytest.approx([100.4, 100.3, 100.2, 100.1, 100.0, 100.0])
    assert marked["mark_high"][3] == opens[3]
    assert marked["mark_low"][3] == closes[3]


def test_the_basis_is_a_mean_over_the_window() -> None:
    steps = flat(1, 1, index=100.0).with_columns(close=100.0 + pl.int_range(pl.len()) * 0.1)
    steps = steps.with_columns(high=pl.col("close"), open=pl.lit(100.0), low=pl.lit(100.0))
    marked = mark_prices(steps, MarkTerms(components=("basis_mean",), basis_seconds=300.0))
    assert marked["mark_close"][10] == pytest.approx(100.0 + 0.1 * (6 + 7 + 8 + 9 + 10) / 5)
    assert marked["mark_open"][10] == pytest.approx(100.0 + 0.1 * (5 + 6 + 7 + 8 + 9) / 5)
    assert marked["mark_open"][0] == 100.0


def test_high_and_low_are_bounds_over_the_bar() -> None:
    """The index at its extremes with the larger and the smaller basis the bar saw: 3 at its open, 1 at its close."""
    bars = flat(2, price=103.0, index=100.0)
    second = pl.int_range(pl.len()) == 1
    shapes = {"close": 101.0, "low": 99.0, "high": 104.0, "index_high": 102.0, "index_low": 98.5}
    bars = bars.with_columns(
        pl.when(second).then(level).otherwise(pl.col(name)).alias(name) for name, level in shapes.items()
    )
    marked = mark_prices(bars, MarkTerms(components=("basis_mean",), basis_seconds=3600.0))
    assert last_mark(marked) == [103.0, 105.0, 99.5, 101.0]


def test_the_exponential_average_is_the_published_recursion() -> None:
    bars = moving(50, seed=3, minutes=1, drop=(20, 21, 22))
    marked = mark_prices(bars, MarkTerms(components=("basis_ema",), ema_seconds=150.0))
    top = bottom = 0.0
    before: datetime | None = None
    for row in bars.iter_rows(named=True):
        gap = 60.0 if before is None else (row["ts"] - before).total_seconds() - 60.0
        for held, basis in (
            (gap, row["open"] - row["index_open"]),
            (60.0, row["close"] - row["index_close"]),
        ):
            fade = math.exp(-held / 150.0)
            top, bottom = top * fade + basis * held, bottom * fade + held
        expected = row["index_close"] + top / bottom
        got = marked.filter(pl.col("ts") == row["ts"])["mark_close"][0]
        assert got == pytest.approx(expected, rel=1e-12)
        before = row["ts"]


def test_a_wick_of_the_last_price_alone_does_not_reach_the_mark() -> None:
    low = pl.when(pl.int_range(pl.len()) == 5).then(50.0).otherwise(100.0)
    bars = flat(10, index=100.0).with_columns(low=low)
    for venue in ("binance_um", "bybit_linear", "gate", "hyperliquid"):
        assert mark_prices(bars, load_terms(MarkTerms, venue))["mark_low"].to_list() == [100.0] * 10


def test_other_venues_prices_are_one_of_three_and_a_stand_in_where_they_lack() -> None:
    bars = flat(4, price=103.0, index=100.0, others=101.0)
    jump = pl.when(pl.int_range(pl.len()) < 2).then(pl.col("others_close"))
    rule = MarkTerms(components=("index", "last", "others"), instead="last")
    assert mark_prices(bars, rule)["mark_close"].to_list() == [101.0] * 4
    partly = bars.with_columns(jump.alias("others_close"))
    assert mark_prices(partly, rule)["mark_close"].to_list() == [101.0, 101.0, 103.0, 103.0]


def test_no_index_no_mark() -> None:
    gap = pl.int_range(pl.len()).is_between(3, 4)
    bars = flat(10, price=101.0, index=100.0)
    holed = bars.with_columns(
        pl.when(gap).then(None).otherwise(pl.col(f"index_{name}")).alias(f"index_{name}") for name in PRICES
    )
    marked = mark_prices(holed, load_terms(MarkTerms, "binance_um_2020"))
    assert marked["mark_open"].is_null().to_list() == marked["mark_close"].is_null().to_list()
    assert marked["mark_open"].is_null().arg_true().to_list() == [3, 4]
    collected = perpbt.derive(holed, mark="binance_um_2020").collect("AAA")
    assert collected.mark_missing == 2


# ----------------------------------------------------------------------------------------------- the index
def quotes(levels: dict[str, list[float | None]], minutes: int = 1) -> pl.DataFrame:
    rows = [
        {"ts": START + timedelta(minutes=minutes * k), "symbol": "AAA", "venue": venue}
        | dict.fromkeys(PRICES, price)
        for venue, prices in levels.items()
        for k, price in enumerate(prices)
        if price != -1
    ]
    return pl.DataFrame(rows, schema_overrides={"ts": TIME, **dict.fromkeys(PRICES, pl.Float64)})


def closes_of(levels: dict[str, list[float | None]], rule: IndexTerms) -> list[float | None]:
    return composite_index(quotes(levels), rule)["index_close"].to_list()


def test_outliers_by_the_rules_of_venues() -> None:
    binance, okx = load_terms(IndexTerms, "binance_um"), load_terms(IndexTerms, "okx")
    assert closes_of({"a": [100], "b": [102], "c": [110]}, binance) == [101.0]  # 7.8 % off the median
    assert closes_of({"a": [100], "b": [102], "c": [104]}, binance) == [102.0]
    # of more than one outlier the median, not the mean of the others
    assert closes_of({"a": [80], "b": [100], "c": [101], "d": [103], "e": [130]}, binance) == [101.0]
    held = closes_of({"a": [100], "b": [100], "c": [110]}, okx)
    assert held == pytest.approx([(100 + 100 + 102) / 3])
    weighted = IndexTerms(weights={"a": 3, "b": 1}, two_equal=False)
    assert closes_of({"a": [100], "b": [104]}, weighted) == [101.0]
    assert closes_of({"a": [100], "b": [104]}, IndexTerms(weights={"a": 3, "b": 1}, two_equal=True)) == [
        102.0
    ]


def test_a_weighted_median() -> None:
    rule = load_terms(IndexTerms, "hyperliquid")
    assert rule.weights == {"binance": 3, "okx": 2, "bybit": 2, "gate": 1, "mexc": 1}
    five = {"binance": [100.0], "okx": [101.0], "bybit": [102.0], "gate": [103.0], "mexc": [90.0]}
    assert closes_of(five, rule) == [101.0]  # 90, 100, 101 hold 1, 4 and 6 of 9
    assert closes_of({"okx": [100.0], "bybit": [102.0]}, rule) == [101.0]


def test_a_source_is_stale_after_its_time() -> None:
    levels: dict[str, list[float | None]] = {"a": [100, 100, 100, 100], "b": [104, -1, -1, 104]}
    assert closes_of(levels, IndexTerms()) == [102.0, 100.0, 100.0, 102.0]
    assert closes_of(levels, IndexTerms(stale_seconds=60)) == [102.0, 102.0, 100.0, 102.0]
    assert closes_of({"a": [100, None, 100]}, IndexTerms()) == [100.0, None, 100.0]
    assert closes_of({"a": [100, 100], "b": [None, None]}, IndexTerms()) == [100.0, 100.0]


prices = st.one_of(st.floats(80.0, 120.0), st.just(math.nan))


@given(
    rows=st.lists(st.lists(prices, min_size=4, max_size=4), min_size=1, max_size=6),
    base=st.lists(st.one_of(st.just(0.0), st.floats(0.01, 5.0)), min_size=4, max_size=4),
    outlier=st.sampled_from(["drop", "clip"]),
    several=st.sampled_from(["drop", "median"]),
    bound=st.one_of(st.none(), st.floats(0.0, 0.2)),
)
def test_weights_sum_to_one_wherever_a_source_counts(
    rows: list[list[float]], base: list[float], outlier: str, several: str, bound: float | None
) -> None:
    rule = IndexTerms(max_deviation=bound, outlier=outlier, several_outliers=several)
    weights, counted = source_weights(np.array(rows), np.array(base), rule)
    assert (weights >= 0).all()
    total = weights.sum(axis=1)
    assert np.all(np.isclose(total, 1.0) | (total == 0.0))
    assert (np.isnan(counted) == (weights == 0.0)).all()
    some = (~np.isnan(np.array(rows)) & (np.array(base) > 0.0)).any(axis=1)
    assert (total[some & (bound is None)] > 0).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    order=st.permutations(["a", "b", "c", "d"]),
    kind=st.sampled_from(["mean", "median"]),
)
def test_the_order_of_venues_does_not_matter(seed: int, order: list[str], kind: str) -> None:
    parts = {
        venue: made_bars(12, seed=seed + k).drop("volume").with_columns(venue=pl.lit(venue))
        for k, venue in enumerate("abcd")
    }
    rule = IndexTerms(kind=kind, weights={"a": 3, "c": 0.5}, max_deviation=0.02, several_outliers="median")
    ordered = composite_index(pl.concat(parts.values()), rule)
    shuffled = composite_index(pl.concat(parts[venue] for venue in order), rule)
    assert ordered.equals(shuffled)
    assert (ordered["index_high"] >= ordered["index_close"]).all()
    assert (ordered["index_low"] <= ordered["index_open"]).all()


# ------------------------------------------------------------------------------------------ nothing ahead
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    cut=st.integers(5, 59),
    venue=st.sampled_from(
        ["binance_um_2020", "bybit_linear", "okx", "bitmex", "deribit", "hyperliquid", "drift"]
    ),
    minutes=st.sampled_from([1, 60, 180]),
    drop=st.lists(st.integers(6, 58), max_size=8, unique=True),
    cut_off=st.booleans(),
)
def test_what_comes_later_does_not_change_what_was(
    seed: int, cut: int, venue: str, minutes: int, drop: list[int], cut_off: bool
) -> None:
    bars = moving(60, seed, minutes, tuple(drop))
    venues = [made_bars(60, seed=seed + k, minutes=minutes, start=START) for k in range(3)]
    moment = bars["ts"][min(cut, bars.height - 1)]
    ahead = pl.col("ts") >= moment

    def made(change: bool) -> Any:
        def seen(frame: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
            if not change:
                return frame
            if cut_off:
                return frame.filter(~ahead)
            return frame.with_columns(
                pl.when(ahead).then(pl.col(name) * 1.7).otherwise(pl.col(name)).alias(name)
                for name in columns
            )

        named = [one.with_columns(venue=pl.lit(str(k))) for k, one in enumerate(venues)]
        table = seen(pl.concat(named), list(PRICES))
        last = seen(bars, [*PRICES, *(f"index_{name}" for name in PRICES)])
        return perpbt.derive(
            last, index="binance_um", constituents=table, funding=venue, mark=venue, existing="replace"
        ).collect("AAA")

    whole, changed = made(False), made(True)
    before = whole.frame.filter(~ahead)
    assert before.equals(changed.frame.filter(~ahead))
    assert whole.funding.filter(pl.col("ts") <= before["ts"][-1]).equals(
        changed.funding.filter(pl.col("ts") <= before["ts"][-1])
    )


# ------------------------------------------------------------------------------------------------ the door
def test_derive_says_where_each_series_is_from_and_runs() -> None:
    index = {"a": [100.0] * 30, "b": [102.0] * 30}
    derived = perpbt.derive(
        flat(30, price=101.5),
        index="binance_um",
        constituents=quotes(index, 60),
        funding="binance_um",
        mark="binance_um",
    )
    assert isinstance(derived, perpbt.Bars)
    told = derived.provenance["AAA"]
    assert told["last"].startswith("file: ")
    assert told["index"].startswith("made: composite of a, b by binance_um (")
    assert "interest = 0.0001" in told["funding"]
    assert "basis_seconds = 30" in told["mark"]
    frame = derived.collect("AAA").frame
    assert frame["index_close"].to_list() == [101.0] * 30
    assert charged(derived, "long", START, None) < 0
    run = perpbt.backtest(derived, "hold", tiers_as={"AAA": "BTCUSDT"})
    assert run.metadata["symbols"]["AAA"]["sources"] == told
    plain = perpbt.derive(flat(3)).provenance["AAA"]
    assert plain == {"last": "file: the DataFrame given", "index": "none", "mark": "none", "funding": "none"}


def test_a_series_of_the_file_is_left_alone_filled_or_replaced() -> None:
    half = pl.int_range(pl.len()) >= 12
    bars = flat(24, price=100.5, index=100.0, mark=99.0)
    bars = bars.with_columns(
        *(pl.when(half).then(pl.col(f"mark_{name}")).alias(f"mark_{name}") for name in PRICES),
        funding_rate=pl.when(pl.int_range(pl.len()).is_in([8, 16])).then(0.5),
    )
    with pytest.raises(perpbt.InputError, match="column 'mark_open' is in the file already"):
        perpbt.derive(bars, mark="dydx")
    with pytest.raises(perpbt.InputError, match="column 'funding_rate' is in the file already"):
        perpbt.derive(bars, funding="gate")
    filled = perpbt.derive(bars, mark="dydx", funding="hyperliquid", existing="fill")
    one = filled.collect("AAA")
    assert one.frame["mark_close"].to_list() == [100.0] * 12 + [99.0] * 12
    assert one.funding["funding_rate"].to_list() == pytest.approx(
        [0.0045 / 8] * 7 + [0.5, 0.5] + [0.0045 / 8] * 8
    )
    assert "the rest made" in filled.provenance["AAA"]["mark"]
    replaced = perpbt.derive(bars, mark="dydx", funding="hyperliquid", existing="replace").collect("AAA")
    assert replaced.frame["mark_close"].to_list() == [100.0] * 24
    assert replaced.funding.height == 24
    assert perpbt.derive(bars).collect("AAA").frame.equals(perpbt.load_bars(bars).collect("AAA").frame)


def test_funding_from_a_table_of_impact_prices() -> None:
    table = pl.DataFrame(
        {
            "ts": pl.Series([START + timedelta(minutes=20), START + timedelta(minutes=60)], dtype=TIME),
            "symbol": "AAA",
            "impact_bid": [101.0, 101.0],
            "impact_ask": [102.0, 102.0],
            "index": [100.0, 100.0],
        }
    )
    derived = perpbt.derive(flat(3), funding="hyperliquid", premium=table).collect("AAA")
    assert derived.funding["funding_rate"].to_list() == pytest.approx([0.0011875])


def wrong(frame: pl.DataFrame, name: str, value: object) -> pl.DataFrame:
    return frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 2)
        .then(pl.lit(value, dtype=frame.schema[name]))
        .otherwise(pl.col(name))
        .alias(name)
    )


INDEXED = flat(10, index=100.0)
IMPACT = {"ts": START, "symbol": "AAA", "impact_bid": 101.0, "impact_ask": 100.0, "index": 100.0}
REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: perpbt.derive(flat(10), funding="gate"), "AAA: column 'index_close' missing"),
    (lambda: perpbt.derive(flat(10), mark="binance_um"), "AAA: column 'index_open' missing"),
    (lambda: perpbt.derive(INDEXED, funding="deribit"), "column 'mark_close' missing"),
    (lambda: perpbt.derive(INDEXED, funding="gat"), "did you mean 'gate'"),
    (lambda: perpbt.derive(INDEXED, mark=3), "allowed: a venue's name, or MarkTerms"),  # type: ignore[arg-type]
    (lambda: perpbt.derive(INDEXED, existing="keep"), "allowed: refuse, fill, replace"),
    (lambda: perpbt.derive(flat(10), index="okx"), "index and constituents go together"),
    (lambda: perpbt.derive(INDEXED, mark="bitmex", funding="deribit"), "without the component 'fair'"),
    (lambda: perpbt.derive(wrong(INDEXED, "index_low", -1.0), mark="okx"), "index_low"),
    (
        lambda: mark_prices(wrong(INDEXED, "index_low", -1.0), MarkTerms()),
        "column 'index_low', row 2, 2025-01-01 02:00 UTC: -1.0; allowed: a finite price > 0",
    ),
    (
        lambda: mark_prices(wrong(INDEXED, "ts", START), MarkTerms()),
        "column 'ts', row 2: 2025-01-01 00:00; allowed: times that rise",
    ),
    (lambda: mark_prices(INDEXED.drop("symbol"), MarkTerms()), "column 'symbol' missing"),
    (
        lambda: impact_premium(pl.DataFrame([IMPACT], schema_overrides={"ts": TIME})),
        "column 'impact_bid', row 0: 101 is above impact_ask = 100",
    ),
    (lambda: composite_index(wrong(quotes({"a": [1, 2, 3]}), "venue", None), IndexTerms()), "row 2: null"),
    (lambda: FundingTerms(rule="sums"), "rule = 'sums'; allowed: clamped, sum, dead_band"),
    (lambda: FundingTerms(band=math.nan), "band = nan; allowed: a rate in"),
    (lambda: FundingTerms(cap=0.01, floor=0.02), "floor = 0.02; allowed"),
    (lambda: FundingTerms(interval_hours=0.0), "interval_hours = 0.0; allowed: hours > 0"),
    (lambda: FundingTerms(changes=((START, 4.0), (START, 8.0))), "is not after"),
    (lambda: MarkTerms(components=("fare",)), "did you mean 'fair'"),
    (lambda: MarkTerms(components=("basis_mean",)), "basis_seconds = None; allowed: seconds > 0"),
    (lambda: IndexTerms(weights={"a": -1.0}), "weights.a = -1.0; allowed: a number >= 0"),
    (
        lambda: terms("deribit").of("X") and schedule(0, 1, terms("deribit")),
        "continuous funding has no schedule",
    ),
]


@pytest.mark.parametrize(("call", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_refusals_name_the_place_and_what_is_allowed(call: Callable[[], object], said: str) -> None:
    with pytest.raises(perpbt.InputError) as caught:
        call()
    assert said in str(caught.value)


# ----------------------------------------------------------------------------------------------- real data
def test_made_funding_and_mark_follow_the_published_ones() -> None:
    """Binance, hourly closes with the spot price in place of the index: the shape is right, not every digit."""
    raw = pl.read_parquet(real("binance_um_1h_2019_2023.parquet")).filter(
        pl.col("symbol").is_in(["ADAUSDT", "BTCUSDT"])
    )
    raw = raw.rename({f"spot_{name}": f"index_{name}" for name in PRICES})
    made = perpbt.derive(raw, funding="binance_um_2020", mark="binance_um_2020", existing="replace")
    for symbol in made.symbols:
        published, got = perpbt.load_bars(raw).collect(symbol), made.collect(symbol)
        both = got.funding.join(published.funding, on="ts", suffix="_published")
        assert both.height > 4000
        assert both.select(pl.corr("funding_rate", "funding_rate_published")).item() > 0.8
    # 28 Feb 2020 17:00: the last price fell to 0.02286, the published mark no lower than 0.047685
    hour = pl.col("ts") == pl.lit(datetime(2020, 2, 28, 17, tzinfo=UTC)).cast(TIME)
    wick = made.collect("ADAUSDT").frame.filter(hour)
    assert wick["low"][0] == 0.02286
    assert wick["mark_low"][0] == pytest.approx(0.047685, rel=0.02)
