"""Three witnesses: the engine that skips, the one that looks at every bar, and the naive oracle behind the same doors.

The same tables to the bit, whatever the bars, the order of accounts and the threads. The oracle, some thousand times slower, is asked
about a few accounts of each population: without crowds they do not depend on each other.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import Any

import made_markets
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_equals_oracle import (
    DATA,
    MADE,
    engine_bars,
    engine_policy,
    engine_rules,
    engine_strategy,
    engine_venue,
)

import perpbt
import perpbt.engines.chunks
import perpbt.engines.witness
import perpbt.prepare.arrays
from perpbt.kernels.blocks import BLOCKS

START = 1_704_067_200_000
LANES = int(os.environ.get("PERPBT_LANES", "1000"))


def walk(count: int, seed: int, *, tick: float = 0.0, gaps: bool = True, step: float = 0.002) -> pl.DataFrame:
    """Bars of a random walk with jumps, outages, a mark that strays from last, and hourly to eight-hourly funding."""
    rng = np.random.default_rng(seed)
    moves = rng.normal(0.0, step, count) + (rng.random(count) < 0.002) * rng.normal(0.0, 0.03, count)
    close = 100.0 * np.exp(np.cumsum(moves))
    opened = np.concatenate([[100.0], close[:-1]]) * np.exp(rng.normal(0.0, step / 5, count))
    mark = np.exp(rng.normal(0.0, step, count))
    columns = {
        "open": opened,
        "close": close,
        "mark_open": opened * mark,
        "mark_close": close * np.roll(mark, -1),
    }
    if tick:
        columns = {name: np.maximum(np.round(values / tick), 1.0) * tick for name, values in columns.items()}
    for kind in ("", "mark_"):
        pair = (columns[f"{kind}open"], columns[f"{kind}close"])
        up, down = np.exp(np.abs(rng.normal(0.0, step, (2, count))))
        high, low = np.maximum(*pair) * up, np.minimum(*pair) / down
        if tick:
            high, low = np.ceil(high / tick) * tick, np.maximum(np.floor(low / tick), 1.0) * tick
        columns[f"{kind}high"], columns[f"{kind}low"] = (
            np.maximum(high, np.maximum(*pair)),
            np.minimum(low, np.minimum(*pair)),
        )
    times = START + 60_000 * (
        np.cumsum(1 + gaps * (rng.random(count) < 0.01) * rng.integers(0, 90, count)) - 1
    )
    rate = np.where(rng.random(count) < 1 / 97, rng.normal(0.0, 3e-4, count), np.nan)
    return pl.DataFrame(
        {
            "ts": pl.Series(times).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"),
            "symbol": ["AAA"] * count,
            **columns,
            "volume": rng.lognormal(5.0, 1.0, count),
            "funding_rate": pl.Series(rate).fill_nan(None),
        }
    )


def population(frame: pl.DataFrame, count: int, seed: int) -> pl.DataFrame:
    """Positions of every kind; a third of the thresholds lie exactly on prices that the bars attain."""
    rng = np.random.default_rng(seed)
    bar = rng.integers(0, frame.height, count)
    opened = frame["open"].to_numpy()[bar]
    levels = frame.select("low", "high", "mark_low", "close").to_numpy()
    other = levels[rng.integers(0, frame.height, count), rng.integers(0, 4, count)]
    attained = np.abs(other / opened - 1.0)
    side = np.where(rng.random(count) < 0.5, "long", "short")

    def wish(scale: float, share: float) -> pl.Series:
        values = np.where(rng.random(count) < 0.33, attained, rng.exponential(scale, count))
        given = (rng.random(count) < share) & (values > 0) & (values < 0.99)
        return pl.Series(np.where(given, values, np.nan)).fill_nan(None)

    word = np.array(["last", "mark"])
    leave = frame["ts"].to_numpy()[
        np.minimum(bar + rng.integers(1, max(2, frame.height), count), frame.height - 1)
    ]
    return pl.DataFrame(
        {
            "account": np.arange(count),
            "strategy": ["s"] * count,
            "symbol": frame["symbol"].gather(pl.Series(bar)),
            "side": side,
            "entry_time": frame["ts"].gather(pl.Series(bar)),
            "collateral": rng.choice([10.0, 100.0, 1000.0, 3000.0], count),
            "leverage": rng.choice([0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 25.0, 50.0, 100.0], count),
            "stop_loss": wish(0.05, 0.4),
            "take_profit": wish(0.2, 0.4),
            "trailing_stop": wish(0.1, 0.3),
            "exit_time": pl.Series(np.where(rng.random(count) < 0.2, leave, np.datetime64("NaT"))),
            "stop_trigger": word[rng.integers(0, 2, count)],
            "trailing_trigger": word[rng.integers(0, 2, count)],
            "take_profit_trigger": word[rng.integers(0, 2, count)],
            "margin_buffer": rng.choice([0.0, 0.0, 0.3], count),
        }
    ).with_columns(pl.col("exit_time").dt.replace_time_zone("UTC").cast(pl.Datetime("ms", "UTC")))


TIERS = ((0.0, 1e3, 0.004, 125.0, 0.0), (1e3, 2e4, 0.01, 125.0, 6.0), (2e4, 1e6, 0.05, 125.0, 806.0))
VENUES = {
    "mark": perpbt.Venue(
        name="mark",
        tiers={"default": TIERS},
        taker_fee=5e-4,
        slippage=1e-4,
        liquidation_fee=0.002,
        impact=1.0,
    ),
    "entry": perpbt.Venue(
        name="entry", tiers={"default": TIERS}, maintenance_on="entry", close_out_rate=6e-4
    ),
    "free": perpbt.Venue(name="free", tiers={"default": TIERS}),
}


TABLES = ("accounts", "fund", "statistics", "policies", "prices", "equity")


def content(frame: pl.DataFrame) -> bytes:
    """A table's values to the bit, which tells 0.0 from -0.0."""
    frame.rechunk().write_parquet(buffer := io.BytesIO())
    return buffer.getvalue()


def same_tables(left: perpbt.Result, right: perpbt.Result) -> None:
    """All that two runs return is equal."""
    for name in TABLES:
        one, other = getattr(left, name), getattr(right, name)
        if one is None or other is None:
            assert one is other, name
            continue
        assert (one.schema, one.height) == (other.schema, other.height), name
        for column in one.columns:
            differs = one[column].ne_missing(other[column]).arg_true()
            rows = [frame.row(int(differs[0]), named=True) for frame in (one, other)] if len(differs) else []
            assert not rows, (name, column, len(differs), *rows)
        assert content(one) == content(other), name


def agree(bars: perpbt.Bars, table: pl.DataFrame, few: int = 40, **options: object) -> pl.DataFrame:
    """Dense and skip on all positions, dense and the oracle on the first few; returns the rows they agree on."""
    dense, skip = (perpbt.simulate(bars, table, engine=engine, **options) for engine in ("dense", "skip"))
    same_tables(dense, skip)
    all_agree(
        perpbt.simulate(bars, table.head(few), engine=engine, **options) for engine in ("dense", "oracle")
    )
    return skip.accounts


def all_agree(results: Iterable[perpbt.Result]) -> perpbt.Result:
    """Runs of one thing by different engines; returns the first."""
    first, *others = results
    assert len({result.metadata["engine"] for result in (first, *others)}) == 1 + len(others)
    for other in others:
        same_tables(first, other)
    return first


@pytest.mark.parametrize("near", [0, 64])
@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize(("count", "tick"), [(5000, 0.0), (9000, 1.0), (2500, 5.0)])
def test_on_long_walks(
    monkeypatch: pytest.MonkeyPatch, near: int, venue: str, count: int, tick: float
) -> None:
    monkeypatch.setattr(perpbt.prepare.arrays, "NEAR", near)
    frame = walk(count, seed=count, tick=tick)
    accounts = agree(perpbt.load_bars(frame), population(frame, LANES, seed=7), venue=VENUES[venue])
    assert set(accounts["exit_reason"]) >= {
        "liquidation",
        "stop_loss",
        "take_profit",
        "trailing_stop",
        "time",
        "end",
    }


EDGES = (
    *(1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 271),
    *(511, 512, 513, 519, 2047, 2048, 2049, 2111, 2112, 4095, 4096, 4097, 4104, 4113),
)


@pytest.mark.parametrize("count", EDGES)
def test_at_the_edges_of_blocks(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(perpbt.prepare.arrays, "NEAR", 0)
    frame = walk(count, seed=count, tick=0.5, step=0.004)
    table = population(frame, 800, seed=count)
    agree(perpbt.load_bars(frame), table, venue=VENUES["mark"], crowding=True, equity_every="1h")


def test_where_no_block_is_out_of_reach_and_no_bar_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices that rise 0.03 % a bar under a trailing stop of 0.1 %: any eight bars could have hit it, none does. More blocks are passed
    over than one leap has room for.
    """
    monkeypatch.setattr(perpbt.prepare.arrays, "NEAR", 0)
    frame = walk(16 * BLOCKS, seed=6, gaps=False)
    close = 100.0 * 1.0003 ** np.arange(1.0, frame.height + 1.0)
    opened = close / 1.0003
    prices = {"open": opened, "high": close, "low": opened, "close": close}
    prices |= {f"mark_{name}": values for name, values in prices.items()}
    table = population(frame, 40, seed=6).with_columns(side=pl.lit("long"), trailing_stop=pl.lit(0.001))
    table = table.with_columns(pl.lit(None, pl.Float64).alias(name) for name in ("stop_loss", "take_profit"))
    bars = perpbt.load_bars(frame.with_columns(**prices, funding_rate=pl.lit(None, pl.Float64)))
    accounts = agree(bars, table.with_columns(entry_time=pl.lit(frame["ts"][1])), venue=VENUES["mark"])
    assert (accounts["exit_reason"] == "end").sum() > 10


def test_margin_ratios_that_only_rounding_tells_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long with as much margin as notional has one and the same ratio at every price."""
    monkeypatch.setattr(perpbt.prepare.arrays, "NEAR", 0)
    frame = walk(40, seed=9, tick=0.5, step=0.03)
    bars = perpbt.load_bars(frame.select("ts", "symbol", "open", "high", "low", "close"))
    table = population(frame.head(6), 400, seed=9).select("account", "strategy", "symbol", "entry_time")
    table = table.with_columns(side=pl.lit("long"), leverage=1.0, collateral=pl.int_range(pl.len()) / 7 + 1)
    for rate in (0.004, 0.0078125):
        tiers = {"default": ((0.0, 1e6, rate, 125.0, 0.0),)}
        venue = perpbt.Venue(
            name="fees", tiers=tiers, taker_fee=0.001, slippage=0.0078125, close_out_rate=5e-4
        )
        agree(bars, table, venue=venue)


@pytest.mark.parametrize("step", [1e-9, 3e-8, 1e-6])
def test_prices_that_half_the_digits_do_not_tell_apart(step: float) -> None:
    """Bars on end are coarsely alike, and only now and then the market leaps."""
    frame = walk(2600, seed=3, step=step)
    agree(perpbt.load_bars(frame), population(frame, 700, seed=4), few=10, venue=VENUES["mark"])


def test_a_gap_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """One to three bars without prices, at every place of a short history; funding due in them is still charged."""
    monkeypatch.setattr(perpbt.prepare.arrays, "NEAR", 0)
    whole = walk(27, seed=5, tick=0.5, gaps=False, step=0.006)
    whole = whole.with_columns(funding_rate=pl.lit(0.003) * (pl.int_range(pl.len()) % 5 - 2))
    prices = [name for name in whole.columns if name not in ("ts", "symbol", "funding_rate")]
    table = population(whole, 60, seed=5)
    policy = {
        "leverage": [5, 40],
        "max_holding": "4m",
        "reentry": {"cool_down": "3m"},
        "stop_loss": [0.01, {"atr": 1, "window": 2}],
    }
    for place in range(1, whole.height):
        lost = pl.int_range(pl.len()).is_between(place, place + place % 3)
        bars = perpbt.load_bars(
            whole.with_columns(pl.when(~lost).then(pl.col(name)).alias(name) for name in prices)
        )
        agree(bars, table, venue=VENUES["mark"])
        all_agree(
            perpbt.backtest(bars, "hold", policy, offsets=5, venue=VENUES["mark"], engine=engine)
            for engine in ("dense", "skip", "oracle")
        )


@pytest.mark.parametrize("worth", [0.0, 1e9])
def test_few_positions_on_threads_if_they_are_worth_it(monkeypatch: pytest.MonkeyPatch, worth: float) -> None:
    """The first 256 by themselves; the others on two threads, or in one piece where that is less work than threads are worth."""
    monkeypatch.setattr(perpbt.engines.chunks, "SERIAL_BELOW", 0)
    monkeypatch.setattr(perpbt.engines.chunks, "WORTH_THREADS", worth)
    frame = walk(700, seed=21, step=0.004)
    bars, table = perpbt.load_bars(frame), population(frame, 1500, seed=21)
    told: list[int] = []
    options = {"venue": VENUES["mark"], "progress": lambda stage, done, total: told.append(done)}
    dense = perpbt.simulate(bars, table, engine="dense", threads=2, **options)
    assert [done for done in told if done <= 1500][:2] == ([375, 750] if worth == 0.0 else [375, 1500])
    same_tables(dense, perpbt.simulate(bars, table, engine="skip", threads=1, venue=VENUES["mark"]))


def test_order_threads_and_chunks_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perpbt.engines.chunks, "SERIAL_BELOW", 0)
    monkeypatch.setattr(perpbt.engines.chunks, "WORTH_THREADS", 0.0)
    monkeypatch.setattr(perpbt.engines.chunks, "CHUNK", 256)
    frame = walk(513, seed=8, tick=0.5, step=0.004)
    bars, table = perpbt.load_bars(frame), population(frame, 600, seed=8)
    options = {"venue": VENUES["mark"], "crowding": True, "open_interest": 1e7}
    first = perpbt.simulate(bars, table, engine="oracle", **options)
    for seed, engine in enumerate(("skip", "dense", "oracle")):
        mixed = table.sample(fraction=1.0, shuffle=True, seed=seed)
        for threads in (1, 2):
            other = perpbt.simulate(bars, mixed, engine=engine, threads=threads, **options)
            assert other.accounts["account"].equals(mixed["account"])
            other.accounts = other.accounts.sort("account")
            same_tables(first, other)


@pytest.mark.parametrize("rules", [{"intrabar": "optimistic"}, {"take_profit_fill": "open"}])
def test_under_other_rules(monkeypatch: pytest.MonkeyPatch, rules: dict[str, str]) -> None:
    monkeypatch.setattr(perpbt.prepare.arrays, "NEAR", 0)
    frame = walk(3000, seed=3, tick=0.5)
    agree(perpbt.load_bars(frame), population(frame, 1000, seed=3), venue=VENUES["mark"], rules=rules)


POLICIES = {
    "leverage": [3, 20],
    "stop_loss": ["none", 0.03, {"atr": 4}],
    "trailing_stop": ["none", 0.08],
    "sizing": {"kind": "equity", "fraction": 0.5},
    "compounding": [False, True],
    "margin_call": [
        {"action": "top_up", "threshold": 0.5, "target": 0.3, "max_calls": 3},
        {"action": "deleverage", "threshold": 0.6, "fraction": 0.4, "max_calls": 2},
    ],
    "max_holding": "2d",
}


@pytest.mark.parametrize("tick", [0.0, 1.0])
@pytest.mark.parametrize(
    ("count", "offsets", "engines"), [(12_000, 12, ("dense", "skip")), (1500, 2, ("dense", "skip", "oracle"))]
)
def test_with_margin_calls_and_reentry(
    monkeypatch: pytest.MonkeyPatch, tick: float, count: int, offsets: int, engines: tuple[str, ...]
) -> None:
    monkeypatch.setattr(perpbt.prepare.arrays, "NEAR", 0)
    bars = perpbt.load_bars(walk(count, seed=11, tick=tick))
    options = {"offsets": offsets, "venue": VENUES["mark"], "equity_every": "6h"}
    result = all_agree(
        perpbt.backtest(bars, ["ma_cross", "hold"], POLICIES, engine=engine, **options) for engine in engines
    )
    assert result.equity is not None
    assert result.accounts["top_up"].max() > 0
    assert result.accounts["position"].max() >= 3


def often() -> dict[str, pl.Expr]:
    """In and out again and again, long and short."""
    bar = pl.int_range(pl.len())
    return {
        "long_entry": bar % 137 == 5,
        "short_entry": bar % 411 == 3,
        "long_exit": bar % 530 == 0,
        "short_exit": bar % 290 == 7,
    }


@pytest.mark.parametrize("page", [41, 400, 16_384])
def test_accounts_side_by_side_in_pages_of_any_size(monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """More bars than the dense engine takes accounts over together; pages with room for less than one of them, for a few, for all."""
    monkeypatch.setattr(perpbt.engines.chunks, "PAGE", page)
    bars = perpbt.load_bars(walk(18_000, seed=31))
    policies = [
        {"leverage": 130, "trailing_stop": 0.02},  # refused: where few rows are expected there are many
        {"leverage": [3, 30], "stop_loss": [0.03, "none"], "reentry": {"cool_down": "2h"}},
        {"leverage": 10, "sizing": {"kind": "equity", "fraction": 0.5}, "compounding": True},
    ]
    result = all_agree(
        perpbt.backtest(bars, often, policies, offsets=30, venue=VENUES["mark"], engine=engine, threads=1)
        for engine in ("dense", "skip")
    )
    assert (result.accounts["exit_reason"] == "rejected").any()
    assert result.accounts["position"].max() > 41


MEETING = (
    {"leverage": [5, 60], "stop_loss": [0.02, {"atr": 2, "window": 30}], "take_profit": 0.02},
    {"leverage": 20, "reentry": {"cool_down": "3h", "after_liquidation": "never"}, "max_trades": 9},
    {"leverage": 4, "max_holding": "5h", "sizing": {"kind": "risk", "fraction": 0.01}, "stop_loss": 0.03},
    {"leverage": 4, "max_holding": "5h", "compounding": True},
    {"leverage": 9, "max_holding": "5h", "margin_call": POLICIES["margin_call"][1]},
    {"leverage": 100, "take_profit": 0.01, "sizing": {"kind": "equity", "fraction": 0.5}},
)


@pytest.mark.parametrize(("shared", "page"), [(32_768, 16_384), (7, 3), (1, 16_384)])
def test_accounts_that_meet_share_their_positions(
    monkeypatch: pytest.MonkeyPatch, shared: int, page: int
) -> None:
    kept: list[int] = []
    room = perpbt.engines.chunks.shared_rows

    def watched(*given: Any) -> Any:
        known = room(*given)
        kept.append(known.rows.size)
        return known

    monkeypatch.setattr(perpbt.engines.chunks, "SHARED", shared)
    monkeypatch.setattr(perpbt.engines.chunks, "PAGE", page)
    monkeypatch.setattr(perpbt.engines.chunks, "shared_rows", watched)
    bars = perpbt.load_bars(walk(2000, seed=5))
    result = all_agree(
        perpbt.backtest(
            bars, ["ma_cross", "hold"], [*MEETING], offsets=90, venue=VENUES["mark"], engine=engine, threads=1
        )
        for engine in ("dense", "skip")
    )
    assert set(kept) == {0, shared}  # the dense engine shares nothing
    whose = result.accounts.filter(pl.col("entry_time").is_not_null()).select(
        "strategy", "policy", "entry_time"
    )
    assert whose.height > 3 * whose.unique().height


@given(market=made_markets.markets(), venue=made_markets.venues(), rules=made_markets.rules())
@settings(MADE)
def test_on_made_bars(market, venue, rules) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perpbt.prepare.arrays, "NEAR", 0)
        agree(
            engine_bars(market), market["accounts_frame"], few=100, venue=engine_venue(venue), rules=engine_rules(rules),
            crowding=True, open_interest=1e6, equity_every="6h",
        )  # fmt: skip


@given(st.data())
@settings(MADE)
def test_policies_on_made_bars(data) -> None:
    market = data.draw(made_markets.markets(max_accounts=1))
    policies = data.draw(st.lists(made_markets.policies(), min_size=1, max_size=3, unique_by=str))
    signals = data.draw(made_markets.signals(market["bars"]["AAA"]))
    options = {
        "venue": engine_venue(data.draw(made_markets.venues())),
        "rules": engine_rules(data.draw(made_markets.rules())),
        "offsets": data.draw(st.sampled_from((1, 3))),
        "equity_every": "6h",
    }
    strategy, wanted = (
        engine_strategy(market["bars"]["AAA"], signals),
        [engine_policy(one) for one in policies],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perpbt.prepare.arrays, "NEAR", 0)
        all_agree(
            perpbt.backtest(engine_bars(market, ["AAA"]), strategy, wanted, engine=engine, **options)
            for engine in ("dense", "skip", "oracle")
        )


def test_the_oracle_refuses_what_would_take_it_an_age(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = walk(50, seed=1)
    bars, table = perpbt.load_bars(frame), population(frame, 4, seed=1)
    assert perpbt.simulate(bars, table, engine="oracle").metadata["engine"] == "oracle"
    monkeypatch.setattr(perpbt.engines.witness, "MOST_ACCOUNT_BARS", 199)
    with pytest.raises(
        perpbt.InputError, match=r"4 accounts x 50 bars of AAA = 200; allowed: .* and 199 accounts x bars"
    ):
        perpbt.simulate(bars, table, engine="oracle")
    monkeypatch.setattr(perpbt.engines.witness, "MOST_ACCOUNT_BARS", 200)
    monkeypatch.setattr(perpbt.engines.witness, "MOST_BARS", 49)
    with pytest.raises(perpbt.InputError, match="at most 49 bars"):
        perpbt.simulate(bars, table, engine="oracle")


@pytest.mark.slow
def test_a_million_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made bars of many shapes, a million positions in all."""
    for seed in range(20):
        monkeypatch.setattr(perpbt.prepare.arrays, "NEAR", (0, 16, 64)[seed % 3])
        frame = walk((4097, 20_000, 60_000)[seed % 3], seed=seed, tick=(0.0, 0.5, 2.0)[seed % 3], step=0.001)
        agree(
            perpbt.load_bars(frame),
            population(frame, 50_000, seed=seed),
            venue=list(VENUES.values())[seed % 3],
        )


@pytest.mark.slow
def test_a_million_lanes_on_real_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads, accounts shuffled; the oracle on 300 of them."""
    path = DATA / "binance_um_1m_2025_05_06.parquet"
    if not path.exists():
        pytest.skip(f"no real data at {path}: set PERPBT_DATA to the folder that holds it")
    monkeypatch.setattr(perpbt.prepare.arrays, "NEAR", 16)
    bars = perpbt.load_bars(path)
    share = -(-1_000_000 // len(bars.symbols))
    parts = [population(bars.collect(symbol).frame, share, seed=k) for k, symbol in enumerate(bars.symbols)]
    table = pl.concat(parts).with_columns(account=pl.int_range(pl.len()))
    mixed = table.sample(fraction=1.0, shuffle=True, seed=1)
    skip = perpbt.simulate(bars, table, engine="skip", threads=2)
    dense = perpbt.simulate(bars, mixed, engine="dense", threads=2)
    dense.accounts = dense.accounts.sort("account")
    same_tables(dense, skip)
    few = mixed.head(300)
    some = all_agree(perpbt.simulate(bars, few, engine=engine) for engine in ("skip", "oracle"))
    assert skip.accounts["exit_reason"].n_unique() == some.accounts["exit_reason"].n_unique() == 7
