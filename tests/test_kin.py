"""Accounts that compound and enter where others did begin where those leapt to: the engine that looks at every bar, which takes over
nothing, and the oracle give the same tables to the bit.
"""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import made_markets
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from test_engine_equals_oracle import DATA, MADE, engine_bars, engine_policy, engine_strategy, engine_venue
from test_engines_agree import START, TIERS, all_agree, same_tables, walk

import perpbt
import perpbt.engines.chunks
import perpbt.prepare.arrays
from perpbt.kernels import kin, noting
from perpbt.kernels.lanes import Known
from perpbt.kernels.margin import Position

OFFSETS = int(os.environ.get("PERPBT_LANES", "60"))
ONE_TIER = ((0.0, 1e9, 0.004, 125.0, 0.0),)
WIDE = ((0.0, 6e4, 0.004, 125.0, 0.0), (6e4, 4e5, 0.01, 125.0, 360.0), (4e5, 1e9, 0.05, 125.0, 16_360.0))
COSTS = {"taker_fee": 5e-4, "maker_fee": 2e-4, "slippage": 1e-4, "liquidation_fee": 0.002, "impact": 1.0}


def moment(minutes: float) -> str:
    """So long after the first bar, as a venue file states it."""
    return (datetime.fromtimestamp(START / 1000, UTC) + timedelta(minutes=minutes)).isoformat()


VENUES = {
    "one tier": {"tiers": {"default": ONE_TIER}, **COSTS},
    "free": {"tiers": {"default": ONE_TIER}},
    "small tiers": {"tiers": {"default": TIERS}, **COSTS},
    "tiers to grow through": {"tiers": {"default": WIDE}, **COSTS, "close_out_rate": 6e-4},
    "on entry": {"tiers": {"default": WIDE}, **COSTS, "maintenance_on": "entry"},
    "dated": {
        "tiers": {},
        "dated": {"AAA": [(moment(60 * k), WIDE if k % 2 else ONE_TIER) for k in range(0, 40, 5)]},
        **COSTS,
    },
    "whole": {"tiers": {"default": [row[:4] for row in WIDE]}, **COSTS, "maintenance": {"rule": "whole"}},
    "lots": {
        "tiers": {"default": WIDE}, **COSTS, "contract": {"lot": 0.001, "tick": 0.01, "kind": "linear"},
    },
    "inverse": {
        "tiers": {"default": [(floor / 100, cap / 100, *rest[:2]) for floor, cap, *rest in WIDE]},
        **COSTS,
        "contract": {"kind": "inverse", "multiplier": 1.0, "settlement": "AAA"},
    },
}  # fmt: skip
HALF = {"kind": "equity", "fraction": 0.5}
POLICIES = (
    {"leverage": [1, 5, 20], "stop_loss": 0.02, "take_profit": 0.03, "sizing": HALF},
    {
        "leverage": 10,
        "stop_loss": [{"margin": 0.3}, {"atr": 3, "window": 30}],
        "take_profit": {"margin": 0.5},
    },
    {"leverage": [1, 8], "trailing_stop": 0.02, "trailing_trigger": "mark", "stop_trigger": "mark"},
    {"leverage": 4, "max_holding": "5h", "sizing": {"kind": "risk", "fraction": 0.02}, "stop_loss": 0.03},
    {"leverage": [30, 100], "take_profit": 0.05, "reentry": {"cool_down": "20m"}, "sizing": HALF},
    {"leverage": 125, "take_profit": 0.5, "margin_buffer": 0.1},
    {
        "leverage": 6,
        "stop_loss": 0.02,
        "sizing": {"kind": "collateral", "amount": 4000},
        "margin_buffer": 0.5,
    },
)


def both() -> dict[str, pl.Expr]:
    """In and out on both sides, often."""
    up = pl.col("close") > pl.col("close").shift(20)
    return {"long_entry": up, "short_entry": ~up, "long_exit": pl.col("close") < pl.col("low").shift(300)}


def down() -> dict[str, pl.Expr]:
    """Wants to be short at every close."""
    return {"short_entry": pl.lit(True)}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Known]:
    """What every chunk has remembered, and is going to."""
    held: list[Known] = []
    room = perpbt.engines.chunks.shared_rows

    def watched(*given: Any) -> Known:
        known = room(*given)
        if known.kin.size and not any(one.kin is known.kin for one in held):
            held.append(known)
        return known

    monkeypatch.setattr(perpbt.engines.chunks, "shared_rows", watched)
    return held


def leaps(kept: list[Known]) -> int:
    """How many leaps were kept."""
    return sum(int((known.kin["bar"] > 0).sum()) for known in kept)


@pytest.mark.parametrize("tick", [0.0, 0.5])
@pytest.mark.parametrize("venue", VENUES)
def test_compounding_accounts_that_meet(venue: str, tick: float, kept: list[Known]) -> None:
    bars = perpbt.load_bars(walk(1800, seed=3, tick=tick, step=0.003))
    result = all_agree(
        perpbt.backtest(
            bars, ["hold", both, down], [{**one, "compounding": True} for one in POLICIES],
            offsets=OFFSETS, venue=perpbt.Venue(name=venue, **VENUES[venue]), engine=engine, threads=1,
        )
        for engine in ("dense", "skip")
    )  # fmt: skip
    opened = result.accounts.filter(pl.col("entry_time").is_not_null())
    assert {"liquidation", "stop_loss", "trailing_stop", "take_profit", "time", "signal", "end"} <= set(
        opened["exit_reason"]
    )
    same = opened.select("strategy", "policy", "entry_time").unique().height
    assert opened.height > 2 * same
    share = {"whole": 0.0, "small tiers": 0.005, "inverse": 0.005}.get(venue, 0.4)
    assert leaps(kept) >= share * same
    assert leaps(kept) > 0 or venue == "whole"


@pytest.mark.parametrize(("seed", "leverage"), [(3, 5), (4, 8)])
def test_wallets_on_both_sides_of_a_steep_tier(seed: int, leverage: int, kept: list[Known]) -> None:
    """Beyond the first tier maintenance is twenty times as much: who has more is liquidated where who has less is not."""
    steep = ((0.0, 2e4, 0.004, 125.0, 0.0), (2e4, 1e9, 0.09, 125.0, 2e4 * 0.086))
    bars = perpbt.load_bars(walk(1500, seed=seed, step=0.004))
    policy = {
        "leverage": leverage, "take_profit": 0.04, "compounding": True, "capital": 2e4 / leverage,
        "sizing": {"kind": "equity", "fraction": 0.9},
    }  # fmt: skip
    trades = all_agree(
        perpbt.backtest(
            bars, ["hold", down], policy, offsets=60,
            venue=perpbt.Venue(name="steep", tiers={"default": steep}, **COSTS), engine=engine, threads=1,
        )
        for engine in ("dense", "skip")
    ).accounts  # fmt: skip
    fates = trades.group_by("strategy", "entry_time").agg(pl.col("exit_reason").n_unique())
    assert fates["exit_reason"].max() > 1
    assert leaps(kept) > 0


def every_hundredth() -> dict[str, pl.Expr]:
    """In at the same few bars, whoever it is."""
    return {"long_entry": pl.int_range(pl.len()) % 100 == 99}


def test_who_leaves_as_margin_rates_change(kept: list[Known]) -> None:
    """The bar one is due in is the first of other rates, which its open is seen with."""
    heavy = ((0.0, 1e9, 0.05, 20.0, 0.0),)
    dated = [(moment(0), ONE_TIER), (moment(300), heavy), (moment(400), ONE_TIER), (moment(700), heavy)]
    trades = all_agree(
        perpbt.backtest(
            perpbt.load_bars(walk(1000, seed=2, step=0.001)), every_hundredth,
            {"leverage": 4, "max_holding": "100m", "compounding": True, "sizing": HALF}, offsets=60,
            venue=perpbt.Venue(name="dated", tiers={}, dated={"AAA": dated}, **COSTS), engine=engine, threads=1,
        )
        for engine in ("dense", "skip")
    ).accounts  # fmt: skip
    at_change = trades.filter(pl.col("exit_time").dt.epoch("ms") == START + 300 * 60_000)
    assert at_change.height > 10
    assert set(at_change["exit_reason"]) == {"time"}
    assert at_change["quantity"].n_unique() > 1
    assert at_change["worst_margin_ratio"].min() > 0.1  # by the new rates
    assert leaps(kept) > 0


COMMON = {"leverage": 5, "stop_loss": 0.02, "take_profit": 0.02, "compounding": True, "sizing": HALF}


def twice(
    monkeypatch: pytest.MonkeyPatch, kept: list[Known], changes: dict[str, float]
) -> tuple[perpbt.Result, perpbt.Result]:
    """The common case, and once more with what was kept then, but for `changes` to it."""
    bars = perpbt.load_bars(walk(4000, seed=9, step=0.002))
    options = {"offsets": 200, "venue": perpbt.Venue(name="v", **VENUES["one tier"]), "threads": 1}
    first = perpbt.backtest(bars, "hold", COMMON, **options)
    (known,) = kept
    same = first.accounts["entry_time"].n_unique()
    assert first.accounts.height > 10 * same
    assert leaps(kept) > 0.95 * same
    for name, value in changes.items():
        known.kin[name] = value
    with monkeypatch.context() as patch:
        patch.setattr(perpbt.engines.chunks, "shared_rows", lambda *_: known)
        return first, perpbt.backtest(bars, "hold", COMMON, **options)


LOST = {"thin": 1e-6, "thin_funding": 0.0}  # at some bar the mark was next to nothing: all equity was gone


def test_in_the_common_case_nearly_all_begin_where_others_leapt(
    monkeypatch: pytest.MonkeyPatch, kept: list[Known]
) -> None:
    told = twice(monkeypatch, kept, LOST)[1].accounts
    assert (told["worst_margin_ratio"] == math.inf).sum() > 0.95 * told.height


def test_what_was_kept_holds_from_page_to_page(monkeypatch: pytest.MonkeyPatch, kept: list[Known]) -> None:
    monkeypatch.setattr(perpbt.engines.chunks, "PAGE", 7)
    monkeypatch.setattr(perpbt.engines.chunks, "SHARED", 50)
    with pytest.raises(AssertionError):  # there is no room for all
        twice(monkeypatch, kept, {})
    kept.clear()
    monkeypatch.setattr(perpbt.engines.chunks, "SHARED", 5000)
    same_tables(*twice(monkeypatch, kept, {}))


@pytest.mark.parametrize(
    "changes",
    [{"margin_per": 1.0}, {"collateral_per": 1.0}, {"guard": -1e9, "thinnest": 0.0}, {"plan": 1}, {"bar": 0}],
)
def test_who_is_not_alike_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch, kept: list[Known], changes: dict[str, float]
) -> None:
    """Leaps of positions of another shape, past a guard that may have been reached, of other plans and bars."""
    same_tables(*twice(monkeypatch, kept, {**LOST, **changes}))


NEAR = {
    "": (),
    "a tie of peaks": (noting.PEAK, noting.PRICE, noting.TIE),
    "a tie of peaks before a trough": (noting.DEEP, noting.TOP, noting.TIE),
    "no leap": (noting.LEAP, noting.FIRST, noting.WANTED),
    "a drawdown as deep": (noting.DEEP, noting.RIVAL, 0.2 - 1e-10),
    "no drawdown but rounding": (noting.DEEP, noting.VALUE, 1e-10),
    "a margin as thin": (noting.THIN, noting.RIVAL, 0.3 - 1e-10),
    "no equity": (noting.THIN, noting.PRICE, 1.0),
}


@pytest.mark.parametrize("name", NEAR)
def test_what_may_go_otherwise_for_another_size_is_not_kept(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leap as noted, to be kept, and with a change that leaves open which bar answers for it."""
    taken: list[Any] = []
    monkeypatch.setattr(
        perpbt.engines.chunks, "run_following", lambda *given: taken.append(given) or (99, 0, 0)
    )
    bars = perpbt.load_bars(walk(20, seed=1))
    perpbt.backtest(bars, "hold", COMMON, venue=perpbt.Venue(name="v", **VENUES["one tier"]))
    market, rates = taken[0][:2]
    position = Position(1.0, 5.0, 100.0, 100.0, 0.0, 1, 1, -np.inf, 0.0, 0.996, 80.0, -np.inf, np.inf, 0.0)
    notes = np.zeros((4, noting.NOTES))
    notes[noting.LEAP, noting.FIRST], notes[noting.LEAP, noting.UNTIL] = 3.0, 19.0
    notes[noting.PEAK, : noting.TOP] = 120.0, 0.0, 104.0, 0.0
    notes[noting.DEEP, : noting.TOP + 1] = 0.2, 0.19, 99.0, 0.0, 0.0
    notes[noting.THIN, : noting.TOP] = 0.3, 0.29, 95.0, 0.0
    if NEAR[name]:
        answer, column, value = NEAR[name]
        notes[answer, column] = value
        if name == "no drawdown but rounding":
            notes[answer, noting.RIVAL] = 0.0
    assert kin.apart(market, rates, notes, position, 101.0) == (name == "")


@given(st.data())
@given_settings(MADE, max_examples=40)
def test_on_made_bars(data) -> None:
    """Policies of every kind, compounding, from every bar on."""
    market = data.draw(made_markets.markets(max_accounts=1))
    policies = data.draw(st.lists(made_markets.policies(), min_size=1, max_size=2, unique_by=str))
    signals = data.draw(made_markets.signals(market["bars"]["AAA"]))
    venue = engine_venue(data.draw(made_markets.venues()))
    strategy = engine_strategy(market["bars"]["AAA"], signals)
    wanted = [engine_policy(one | {"compounding": True, "margin_call": None}) for one in policies]
    offsets = min(12, len(market["bars"]["AAA"]) - 1)
    bars = engine_bars(market, ["AAA"])
    all_agree(
        perpbt.backtest(bars, strategy, wanted, engine=engine, offsets=offsets, venue=venue)
        for engine in ("dense", "skip", "oracle")
    )


@given(
    seed=st.integers(0, 2**32), tick=st.sampled_from((0.0, 0.25, 1.0)), funded=st.booleans(),
    venue=st.sampled_from(list(VENUES)), step=st.sampled_from((0.0005, 0.004)),
    exits=st.fixed_dictionaries({}, optional={
        "stop_loss": st.sampled_from((0.01, 0.05)), "take_profit": st.sampled_from((0.01, 0.05)),
        "trailing_stop": st.sampled_from((0.01, 0.05)), "max_holding": st.sampled_from(("1h", "12h")),
    }),
    leverage=st.sampled_from((1, 1.5, 4, 20, 100)), fraction=st.sampled_from((0.01, 0.5, 1.0)),
    strategy=st.sampled_from(("hold", both, down)), capital=st.sampled_from((100.0, 10_000.0, 1e6)),
    near=st.sampled_from((0, 1, 64)),
)  # fmt: skip
@given_settings(MADE, max_examples=40)
def test_on_walks(
    seed, tick, funded, venue, step, exits, leverage, fraction, strategy, capital, near
) -> None:
    frame = walk(700, seed=seed, tick=tick, step=step)
    if not funded:
        frame = frame.with_columns(funding_rate=pl.lit(None, pl.Float64))
    policy = {
        "leverage": leverage, "compounding": True, "capital": capital,
        "sizing": {"kind": "equity", "fraction": fraction}, **exits,
    }  # fmt: skip
    rules, few = perpbt.Venue(name=venue, **VENUES[venue]), frame.head(250)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perpbt.prepare.arrays, "NEAR", near)
        all_agree(
            perpbt.backtest(
                perpbt.load_bars(frame), strategy, policy, engine=engine, offsets=100, venue=rules
            )
            for engine in ("dense", "skip")
        )
        if seed % 8 == 0:
            all_agree(
                perpbt.backtest(
                    perpbt.load_bars(few), strategy, policy, engine=engine, offsets=12, venue=rules
                )
                for engine in ("skip", "oracle")
            )


@pytest.mark.parametrize("leverage", [1, 10])
def test_on_real_hours(leverage: float, kept: list[Known]) -> None:
    path = DATA / "binance_um_1h_2019_2023.parquet"
    if not path.exists():
        pytest.skip(f"no real data at {path}: set PERPBT_DATA to the folder that holds it")
    bars = perpbt.load_bars(path, symbols=["BTCUSDT"])
    policies = {
        "leverage": leverage, "compounding": True, "capital": 1000, "sizing": HALF,
        "stop_loss": [0.03, 0.1], "take_profit": [0.05, "none"], "trailing_stop": ["none", 0.06],
    }  # fmt: skip
    result = all_agree(
        perpbt.backtest(
            bars, ["hold", down], policies, engine=engine, offsets=80, venue="binance_um", threads=1
        )
        for engine in ("dense", "skip")
    )
    trades = result.accounts.select("strategy", "policy", "entry_time")
    assert trades.height > 3 * trades.unique().height
    assert leaps(kept) > 0.5 * trades.unique().height
