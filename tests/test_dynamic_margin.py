"""Dynamic margin: models against their recursions, tools against their article, no look into the future, engines to the bit."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_equals_oracle import DATA
from test_engines_agree import agree, all_agree, population, walk
from test_margin_rules import BANDS, COSTS

import perpbt
from perpbt.config import DynamicMargin, load_spec
from perpbt.doors.specification import run_spec
from perpbt.errors import InputError
from perpbt.prepare.margining.dynamic import interest_share, scaled, volatility_scales
from perpbt.prepare.margining.tools import buffered, floored, stressed
from perpbt.prepare.margining.volatility import (
    ewma_variance,
    fitted_garch,
    floor_margin,
    garch_variance,
    horizon_variance,
    model_margin,
    quantile_margin,
    two_sided,
)
from perpbt.statistics.coverage import christoffersen, kupiec

DAY = 86_400_000
MODELS: dict[str, dict[str, Any]] = {
    "ewma": {"model": "ewma"},
    "garch": {"model": "garch", "alpha": 0.1, "beta": 0.85, "horizon": 2},
    "fitted garch": {"model": "garch", "warm_up": 150},
    "quantile": {"model": "quantile", "window": 40, "confidence": 0.95},
    "all tools": {"model": "ewma", "buffer": 0.25, "stressed_weight": 0.25, "floor": True},
}


def simulated(count: int, alpha: float, beta: float, sigma: float, seed: int) -> np.ndarray:
    """Returns of a GARCH(1,1) with normal innovations."""
    rng = np.random.default_rng(seed)
    returns, variance = np.empty(count), sigma * sigma
    for k, z in enumerate(rng.normal(size=count)):
        returns[k] = math.sqrt(variance) * z
        variance = (1 - alpha - beta) * sigma * sigma + alpha * returns[k] ** 2 + beta * variance
    return returns


# ------------------------------------------------------------------------------------------------- models
def test_the_models_are_their_recursions() -> None:
    returns = np.array([0.01, -0.02, 0.03])
    ewma = ewma_variance(returns, 0.9, 4e-4)
    assert ewma.tolist() == pytest.approx([4e-4, 3.7e-4, 3.73e-4, 4.257e-4], rel=1e-12)
    garch = garch_variance(returns, 0.1, 0.85, 4e-4)
    assert garch.tolist() == pytest.approx([4e-4, 3.7e-4, 3.745e-4, 4.28325e-4], rel=1e-12)
    # one step ahead it is the next variance; far ahead every step adds the long-run variance
    assert horizon_variance(garch, 1, 0.95, 4e-4).tolist() == garch.tolist()
    three = [4.28325e-4, 4e-4 + 0.95 * 0.28325e-4, 4e-4 + 0.9025 * 0.28325e-4]
    assert horizon_variance(garch, 3, 0.95, 4e-4)[3] == pytest.approx(sum(three), rel=1e-12)
    assert two_sided(0.99) == pytest.approx(2.5758293035489, rel=1e-12)


def test_the_fit_finds_what_made_the_returns() -> None:
    alpha, beta = fitted_garch(simulated(6000, 0.1, 0.85, 0.03, seed=2))
    assert alpha == pytest.approx(0.1, abs=0.03)
    assert beta == pytest.approx(0.85, abs=0.04)
    assert fitted_garch(np.zeros(100)) == (0.0, 0.0)


def test_a_garch_margin_covers_returns_of_the_same_model() -> None:
    """Exceedances come as often as they should and alone: both tests keep their hypothesis on 20 of 20 seeds at 0.1 %."""
    spec = DynamicMargin(model="garch", alpha=0.1, beta=0.85, long_run=0.03, confidence=0.95, warm_up=500)
    for seed in range(20):
        returns = simulated(2500, 0.1, 0.85, 0.03, seed)
        hits = np.abs(returns[500:]) > model_margin(returns, spec)[500:-1]
        assert kupiec(hits.tolist(), 0.05).exact > 1e-3
        assert christoffersen(hits.tolist(), 0.05).independence_p_value > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_nothing_sees_a_later_close(name: str) -> None:
    """Scales of an epoch stay what they are whatever comes later, and begin at 1."""
    spec = DynamicMargin(**{"warm_up": 40, **MODELS[name]})
    times = np.arange(0, 400 * DAY, DAY // 2, dtype=np.int64) + DAY // 2
    closes = 100 * np.exp(np.cumsum(simulated(times.size, 0.3, 0.69, 0.02, seed=9)))
    whole = volatility_scales(times, closes, spec)
    assert set(whole.scale[:41]) == {1.0}
    assert len(set(whole.scale)) > 5
    for bars in (100, 333, 502):
        other = closes.copy()
        other[bars:] *= 3
        part = volatility_scales(times[:bars], closes[:bars], spec)
        later = volatility_scales(times, other, spec)
        before = whole.since < bars
        assert part.scale.tolist() == whole.scale[before].tolist() == later.scale[before].tolist()
        at = whole.since <= bars  # an epoch that begins with the bar does not know its close
        assert later.scale[at].tolist() == whole.scale[at].tolist()
    assert 333 in whole.since
    assert (times[whole.since[1:]] // DAY > times[whole.since[1:] - 1] // DAY).all()


def test_a_quantile_is_one_of_the_moves_of_its_window() -> None:
    """Of the last 12 daily moves over two days, counted out by hand, the one that 90 % of them do not exceed, or the next above."""
    returns = simulated(40, 0.1, 0.85, 0.03, seed=3)
    spec = DynamicMargin(model="quantile", window=13, horizon=2, confidence=0.9, warm_up=10)
    found = quantile_margin(returns, spec)
    assert np.isnan(found[:10]).all()
    for k in range(10, 41):
        seen = sorted(abs(returns[i] + returns[i + 1]) for i in range(max(0, k - 13), k - 1))
        assert found[k] == pytest.approx(seen[math.ceil(0.9 * (len(seen) - 1))], rel=1e-12)


def test_a_floor_looks_back_ten_years_and_no_further() -> None:
    """In epochs of two weeks 260 returns make ten years: the first, wild ones are forgotten in the end."""
    returns = np.concatenate([np.full(40, 0.2), simulated(280, 0.1, 0.85, 0.03, seed=4)])
    spec = DynamicMargin(every="2w", floor=True, confidence=0.99)
    found = floor_margin(returns, spec)
    for k in (1, 39, 259, 260, 261, 299, 320):
        past = returns[max(0, k - 260) : k]
        assert found[k] == pytest.approx(2.5758293035489 * math.sqrt(np.mean(past * past)), rel=1e-9)
    assert found[320] < 0.6 * found[260]


def test_a_margin_needs_its_warm_up() -> None:
    spec = DynamicMargin(warm_up=50)
    assert np.isnan(model_margin(np.full(49, 0.01), spec)).all()
    assert np.isfinite(model_margin(np.full(50, 0.01), spec)).sum() == 1


# -------------------------------------------------------------------------------------------------- tools
margins = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=60).map(np.array)


@settings(deadline=None)
@given(margins, st.floats(0.0, 0.9), st.floats(0.0, 0.2))
def test_a_buffer_is_used_up_while_margins_rise_and_never_below_them(
    model: np.ndarray, buffer: float, rising: float
) -> None:
    asked = buffered(model, buffer, rising)
    assert (asked >= model).all()
    assert (asked <= (1.0 + buffer) * model).all()
    before = asked[:-1]
    rises = model[1:] > model[:-1] * (1.0 + rising)
    assert (asked[1:][rises] <= np.maximum(before, model[1:])[rises]).all(), (
        "no more than before, unless M is"
    )
    assert asked[1:][~rises].tolist() == ((1.0 + buffer) * model)[1:][~rises].tolist()


@settings(deadline=None)
@given(margins, st.floats(0.0, 1.0))
def test_a_stressed_weight_pulls_towards_the_highest_margin_so_far(model: np.ndarray, weight: float) -> None:
    asked = stressed(model, weight)
    worst = np.maximum.accumulate(model)
    assert (asked >= model).all()
    assert (asked <= worst * (1 + 1e-12)).all()
    assert asked == pytest.approx((1 - weight) * model + weight * worst)
    assert (stressed(model, weight, 0.5) >= model).all()


@settings(deadline=None)
@given(margins, st.floats(0.001, 1.0))
def test_a_floor_binds_where_the_margin_is_below_it(model: np.ndarray, floor: float) -> None:
    asked = floored(model, np.full(model.size, floor))
    assert ((asked == floor) == (model <= floor)).all()
    assert (asked >= model).all()


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 40.0), st.floats(0.0, 0.05))
def test_scaled_tiers_are_scaled_and_stay_a_schedule(scale: float, close_out: float) -> None:
    rows = np.array([[*row, 0.0] for row in BANDS])
    for k in range(1, len(rows)):
        rows[k, 4] = rows[k - 1, 4] + rows[k, 0] * (rows[k, 2] - rows[k - 1, 2])
    found = scaled(rows, scale, close_out, leverage=True)
    assert (found[:, 2] + close_out < 1.0).all()
    free = rows[:, 2] * scale <= 0.99 - close_out
    assert found[free, 2].tolist() == (rows[free, 2] * scale).tolist()
    assert found[free, 4].tolist() == (rows[free, 4] * scale).tolist()
    assert (found[:, 3] == rows[:, 3] / scale).all()
    for below, above in pairwise(found):
        left, right = below[1] * below[2] - below[4], above[0] * above[2] - above[4]
        assert left == pytest.approx(right, rel=1e-9, abs=1e-9), "continuous at every cap"
    assert scaled(rows, 1.0, close_out, leverage=True).tolist() == rows.tolist()


# ------------------------------------------------------------------------------------------------ engines
def made(**fields: Any) -> perpbt.Venue:
    return perpbt.Venue(name="made", **{"tiers": {"default": BANDS}, **COSTS, **fields})


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({"model": "ewma", "every": "1h", "warm_up": 5, "lowest": 0.1, "highest": 20}, {}),
        ({"model": "garch", "every": "2h", "warm_up": 10, "buffer": 0.25}, {"maintenance_on": "entry"}),
        (
            {"model": "quantile", "every": "30m", "warm_up": 12, "floor": True},
            {"maintenance": {"rule": "whole"}},
        ),
    ],
)
def test_engines_agree_where_rates_follow_the_market(spec: dict[str, Any], fields: dict[str, Any]) -> None:
    frame = walk(2500, seed=31, tick=0.5, step=0.003)
    options = {"venue": made(**fields), "dynamic": spec}
    rows = agree(perpbt.load_bars(frame), population(frame, 600, seed=2), **options)
    assert "liquidation" in set(rows["exit_reason"])
    fixed = perpbt.simulate(frame, population(frame, 600, seed=2), venue=made(**fields))
    assert fixed.accounts["exit_time"].ne_missing(rows["exit_time"]).any(), "rates make a difference"
    policy = {"leverage": [5, 20], "max_holding": "500m"}
    all_agree(
        perpbt.backtest(frame, "hold", policy, offsets=6, engine=engine, **options)
        for engine in ("skip", "dense", "oracle")
    )


def test_the_rates_of_a_run_are_in_its_tables() -> None:
    frame = walk(1500, seed=3)
    spec = DynamicMargin(model="ewma", every="1h", warm_up=5, buffer=0.25)
    result = perpbt.simulate(frame, population(frame, 20, seed=3), venue=made(), dynamic=spec)
    table = result.extra["margins"]
    assert table.columns == ["time", "symbol", "model_margin", "margin", "reference", "scale"]
    assert table["scale"][0] == 1.0
    assert (table["margin"] >= table["model_margin"]).all()
    free = table.drop_nulls().filter(pl.col("scale").is_between(spec.lowest, spec.highest, closed="none"))
    assert free.height > 10
    assert (free["scale"] == free["margin"] / free["reference"]).all()
    assert result.metadata["dynamic"]["model"] == "ewma"
    plain = perpbt.simulate(frame, population(frame, 20, seed=3), venue=made())
    assert "margins" not in plain.extra
    assert plain.metadata["dynamic"] is None


# ------------------------------------------------------------------------------------------ open interest
def test_open_interest_raises_the_initial_margin_as_dydx_does() -> None:
    """IMF = min(1, base + max(0, (OI - lower) / (upper - lower)) (1 - base)): at 35 of 20 to 50 million, 10 % becomes 55 %."""
    assert interest_share(np.array([0.0, 20.0, 35.0, 50.0, 90.0, np.nan]), 20.0, 50.0).tolist() == [
        0.0, 0.0, 0.5, 1.0, 1.0, 0.0,
    ]  # fmt: skip
    start = datetime(2024, 1, 1, tzinfo=UTC)
    times = [start + timedelta(hours=k) for k in range(49)]
    bars = pl.DataFrame(
        {"ts": times, "symbol": "X-USD"} | dict.fromkeys(("open", "high", "low", "close"), 100.0)
    )
    interest = pl.DataFrame({"ts": [times[0], times[12], times[36]], "open_interest": [10e6, 35e6, 60e6]})
    entries = [
        (2, 10.0),
        (26, 1.8),
        (26, 1.82),
        (47, 1.0),
    ]  # 10 %, 55 %, and the epoch of 24:00 sees no later interest
    accounts = pl.DataFrame(
        {
            "account": range(len(entries)),
            "strategy": "s",
            "symbol": "X-USD",
            "side": "long",
            "entry_time": [times[hour] for hour, _ in entries],
            "collateral": 100.0,
            "leverage": [leverage for _, leverage in entries],
        }
    )
    venue = perpbt.load_venue("dydx").replace(taker_fee=0.0, slippage=0.0)
    for engine in ("skip", "dense", "oracle"):
        rows = perpbt.simulate(bars, accounts, venue=venue, open_interest=interest, engine=engine).accounts
        assert rows["rejection"].to_list() == [None, None, "leverage_above_tier_maximum", None]
    without = perpbt.simulate(bars, accounts, venue=venue)
    assert without.accounts["rejection"].null_count() == len(entries)
    assert any("open interest" in note for note in without.metadata["notes"])


def test_rates_can_rise_with_open_interest_too() -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    times = [start + timedelta(hours=k) for k in range(49)]
    bars = pl.DataFrame(
        {"ts": times, "symbol": "AAA"} | dict.fromkeys(("open", "high", "low", "close"), 100.0)
    )
    accounts = pl.DataFrame(
        {
            "account": [0],
            "strategy": ["s"],
            "symbol": ["AAA"],
            "side": ["long"],
            "entry_time": [times[1]],
            "collateral": [100.0],
            "leverage": [20.0],
        }
    )
    spec = {"model": "open_interest", "lower": 1e6, "upper": 3e6, "highest": 6.0}
    venue = perpbt.Venue(name="made", tiers={"default": [(0, 1e6, 0.02, 50)]})
    interest = pl.DataFrame({"ts": [times[0], times[20]], "open_interest": [1e6, 2e6]})
    result = perpbt.simulate(bars, accounts, venue=venue, dynamic=spec, open_interest=interest)
    assert result.extra["margins"]["scale"].to_list() == [1.0, 3.5, 3.5]
    # 5 % of margin meets 2 % x 3.5 at the next midnight
    assert result.accounts["exit_reason"].to_list() == ["liquidation"]
    assert result.accounts["exit_time"].to_list() == [times[24]]
    with pytest.raises(InputError, match="needs open_interest"):
        perpbt.simulate(bars, accounts, venue=venue, dynamic=spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"model": "arch"}, "model = 'arch': must be 'ewma', 'garch', 'quantile' or 'open_interest'"),
        ({"alpha": 0.1}, "alpha, beta: give both or none"),
        ({"alpha": 0.5, "beta": 0.5}, "alpha [+] beta = 1: must be below 1"),
        ({"lowest": 2}, "1 must lie between them"),
        ({"lower": 5.0}, 'only with model = "open_interest"'),
        ({"model": "open_interest", "lower": 5.0, "upper": 2.0}, "needs both, lower below upper"),
        ({"bufer": 0.25}, "unknown key; did you mean 'buffer'"),
        ({"every": "0s"}, "every: must be longer than 0s"),
        (5, "dynamic = 5"),
    ],
)
def test_faults_of_a_specification_are_named(spec: Any, said: str) -> None:
    frame = walk(60, seed=1)
    with pytest.raises(InputError, match=said):
        perpbt.simulate(frame, population(frame, 3, seed=1), dynamic=spec)


# ---------------------------------------------------------------------------------------------- on real hours
HOURS = DATA / "binance_um_1h_2019_2023.parquet"


def test_tools_calm_margins_and_cover_more_on_real_hours() -> None:
    if not HOURS.exists():
        pytest.skip(f"no real hours: {HOURS} is absent (set PERPBT_DATA)")
    bars = perpbt.load_bars(HOURS, symbols=["BTCUSDT"], start="2020-01-01", end="2021-07-01")
    found = perpbt.run_study("dynamic_margin", bars, starts=8).tables["rules"]
    rule = {row["rule"]: row for row in found.iter_rows(named=True)}
    assert rule["fixed"]["peak_to_trough"] == 1.0
    assert rule["fixed"]["cost"] == pytest.approx(1.0)
    for name in ("buffer", "stressed", "floor", "all tools"):
        tool = rule[f"EWMA, {name}"]
        if name in (
            "stressed",
            "floor",
        ):  # a buffer is built again as soon as margins do not rise: a rise of its own
            assert tool["peak_to_trough"] <= rule["EWMA"]["peak_to_trough"]
            assert tool["worst_5_epoch_rise"] <= rule["EWMA"]["worst_5_epoch_rise"]
        assert tool["exceeded_share"] <= rule["EWMA"]["exceeded_share"]
        assert tool["cost"] >= rule["EWMA"]["cost"]


# ------------------------------------------------------------------------------------------- specifications
RUN = """
[data]
path = "bars.parquet"
[venue]
name = "binance_um"
tiers = "tiers.parquet"
[dynamic]
model = "ewma"
every = "1h"
warm_up = 5
[[strategy]]
name = "hold"
[policy]
leverage = [5, 20]
"""


def test_a_run_file_names_tier_tables_and_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame = walk(900, seed=3)
    frame.write_parquet("bars.parquet")
    tiers = pl.DataFrame(
        {
            "snapshot": ["2023-01-01", "2024-01-01"],
            "symbol": "AAA",
            "min_notional": 0.0,
            "max_notional": 1e9,
            "mmr": [0.01, 0.02],
            "max_leverage": [50.0, 25.0],
        }
    )
    tiers.write_parquet("tiers.parquet")
    Path("run.toml").write_text(RUN)
    result = run_spec(load_spec("run.toml"))
    assert result.metadata["dynamic"]["every"] == "1h"
    assert result.extra["margins"]["scale"].n_unique() > 3
    direct = perpbt.backtest(
        frame, "hold", {"leverage": [5, 20]}, tiers="tiers.parquet", dynamic={"every": "1h", "warm_up": 5}
    )
    assert direct.accounts.drop("account").equals(result.accounts.drop("account"))
    before = result.metadata["run_sha256"]
    tiers.with_columns(pl.col("mmr") / 2).write_parquet("tiers.parquet")
    changed = run_spec(load_spec("run.toml"))
    assert changed.metadata["run_sha256"] != before
    assert changed.metadata["tiers_sha256"] != result.metadata["tiers_sha256"]
    with pytest.raises(InputError, match=r"dynamic\.modl: unknown key"):
        load_spec("run.toml", ["dynamic.modl=ewma"])
