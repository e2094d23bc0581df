"""The engine that skips against the one that looks at every bar: the same result to the bit, whatever the bars."""

from __future__ import annotations

import os

import made_markets
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from test_engine_equals_oracle import MADE, engine_bars, engine_rules, engine_venue

import perpbt
import perpbt.prepare

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
            "symbol": ["AAA"] * count,
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


def agree(bars: perpbt.Bars, table: pl.DataFrame, **options: object) -> pl.DataFrame:
    """Run both engines; returns the rows they agree on."""
    dense = perpbt.simulate(bars, table, engine="dense", **options)
    skip = perpbt.simulate(bars, table, engine="skip", **options)
    for name in dense.accounts.columns:
        differs = dense.accounts[name].ne_missing(skip.accounts[name]).arg_true()
        assert len(differs) == 0, (name, table.row(int(differs[0]), named=True))
    assert dense.fund.equals(skip.fund)
    return skip.accounts


@pytest.mark.parametrize("near", [0, 64])
@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize(("count", "tick"), [(5000, 0.0), (9000, 1.0), (2500, 5.0)])
def test_on_long_walks(
    monkeypatch: pytest.MonkeyPatch, near: int, venue: str, count: int, tick: float
) -> None:
    monkeypatch.setattr(perpbt.prepare, "NEAR", near)
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


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 31, 33, 255, 256, 257, 271, 4095, 4096, 4097, 4113])
def test_at_the_edges_of_blocks(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(perpbt.prepare, "NEAR", 0)
    frame = walk(count, seed=count, tick=0.5, step=0.004)
    agree(perpbt.load_bars(frame), population(frame, 800, seed=count), venue=VENUES["mark"])


@pytest.mark.parametrize("rules", [{"intrabar": "optimistic"}, {"take_profit_fill": "open"}])
def test_under_other_rules(monkeypatch: pytest.MonkeyPatch, rules: dict[str, str]) -> None:
    monkeypatch.setattr(perpbt.prepare, "NEAR", 0)
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
def test_with_margin_calls_and_reentry(monkeypatch: pytest.MonkeyPatch, tick: float) -> None:
    monkeypatch.setattr(perpbt.prepare, "NEAR", 0)
    bars = perpbt.load_bars(walk(12_000, seed=11, tick=tick))
    venue = VENUES["mark"]
    both = [
        perpbt.backtest(
            bars, ["ma_cross", "hold"], POLICIES, offsets=12, venue=venue, engine=engine, equity_every="6h"
        )
        for engine in ("dense", "skip")
    ]
    assert both[0].accounts.equals(both[1].accounts)
    assert both[0].fund.equals(both[1].fund)
    assert both[0].equity is not None
    assert both[0].equity.equals(both[1].equity)
    assert both[0].accounts["top_up"].max() > 0
    assert both[0].accounts["position"].max() > 5


@given(market=made_markets.markets(), venue=made_markets.venues(), rules=made_markets.rules())
@settings(MADE)
def test_on_made_bars(market, venue, rules) -> None:
    before = perpbt.prepare.NEAR
    perpbt.prepare.NEAR = 0
    try:
        agree(
            engine_bars(market),
            market["accounts_frame"],
            venue=engine_venue(venue),
            rules=engine_rules(rules),
        )
    finally:
        perpbt.prepare.NEAR = before


@pytest.mark.slow
def test_a_million_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made bars of many shapes, a million positions in all."""
    for seed in range(20):
        monkeypatch.setattr(perpbt.prepare, "NEAR", (0, 16, 64)[seed % 3])
        frame = walk((4097, 20_000, 60_000)[seed % 3], seed=seed, tick=(0.0, 0.5, 2.0)[seed % 3], step=0.001)
        agree(
            perpbt.load_bars(frame),
            population(frame, 50_000, seed=seed),
            venue=list(VENUES.values())[seed % 3],
        )
