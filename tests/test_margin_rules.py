"""Maintenance rules and rates in time: three engines agree to the bit, and each does what its venue's page says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from test_engines_agree import START, agree, all_agree, population, walk

import perpbt
import perpbt.prepare

BANDS = (
    (0.0, 1e3, 0.004, 125.0),
    (1e3, 5e3, 0.01, 125.0),
    (5e3, 1e4, 0.02, 125.0),
    (1e4, 1e5, 0.05, 125.0),
    (1e5, 1e6, 0.2, 125.0),
)
COSTS: dict[str, Any] = {"taker_fee": 5e-4, "slippage": 1e-4, "liquidation_fee": 0.002, "impact": 1.0}
RULES: dict[str, dict[str, Any]] = {
    "whole": {"maintenance": {"rule": "whole"}, "tiers": {"default": BANDS}},
    "whole with a rate to close": {
        "maintenance": {"rule": "whole"},
        "tiers": {"default": BANDS},
        "close_out_rate": 6e-4,
    },
    "whole on entry": {
        "maintenance": {"rule": "whole"},
        "tiers": {"default": BANDS},
        "maintenance_on": "entry",
    },
    "size": {
        "maintenance": {"rule": "size", "per_unit": 1e-3},
        "tiers": {"default": [(0, 1e6, 0.01, 50)]},
    },
    "size on entry": {
        "maintenance": {"rule": "size", "per_unit": 1e-3},
        "tiers": {"default": [(0, 1e6, 0.01, 50)]},
        "maintenance_on": "entry",
        "close_out_rate": 6e-4,
    },
}


def moment(minute: float) -> datetime:
    """So many minutes after the first bar."""
    return datetime.fromtimestamp(START / 1000 + 60 * minute, UTC)


def dated(*minutes: float, **fields: Any) -> dict[str, Any]:
    """Tiers that change at these minutes, to ladders of different lengths and rates."""
    ladders = [
        BANDS,
        [(0, 2e3, 0.02, 125), (2e3, 1e6, 0.1, 125)],
        [(0, 1e6, 0.003, 125)],
        [(0, 1e3, 0.03, 50), (1e3, 1e4, 0.06, 20), (1e4, 1e6, 0.3, 5)],
    ]
    sets = [(moment(minute), ladders[k % 4]) for k, minute in enumerate(minutes)]
    return {"tiers": {}, "dated": {"AAA": sets}, **fields}


COINS = tuple((floor / 100, cap / 100, rate, top) for floor, cap, rate, top in BANDS)
INVERSE: dict[str, dict[str, Any]] = {
    "inverse steps": {"maintenance": {"rule": "whole"}, "tiers": {"default": COINS}},
    "inverse, dated": {
        "tiers": {},
        "dated": {"AAA": [(moment(-5), COINS), (moment(700), [(0, 1e4, 0.02, 60)]), (moment(1500), COINS)]},
    },
}


CHANGES: dict[str, dict[str, Any]] = {
    "dated": dated(-5, 300, 1201.5, 2000, 2000.25, 2600),
    "dated, at the blocks": dated(0, 64, 512, 520, 521, 522, 1024),
    "dated on entry": dated(-5, 700, 1500, maintenance_on="entry"),
    "dated steps": dated(-5, 700, 1500, maintenance={"rule": "whole"}),
    "after all bars": dated(-5, 1e6),
}


def venue(fields: dict[str, Any]) -> perpbt.Venue:
    return perpbt.Venue(name="made", **COSTS, **fields)


# ------------------------------------------------------------------------------------------ engines agree
@pytest.mark.parametrize("near", [0, 8])
@pytest.mark.parametrize("rule", [*RULES, *CHANGES])
def test_engines_agree_on_given_positions(monkeypatch: pytest.MonkeyPatch, rule: str, near: int) -> None:
    monkeypatch.setattr(perpbt.prepare, "NEAR", near)
    frame = walk(2500, seed=21, tick=0.5 if near else 0.0, step=0.003)
    fields = {**RULES, **CHANGES}[rule]
    rows = agree(perpbt.load_bars(frame), population(frame, 1000, seed=9), venue=venue(fields))
    assert set(rows["exit_reason"]) >= {"liquidation", "stop_loss", "take_profit", "end"}


@pytest.mark.parametrize("rule", INVERSE)
def test_engines_agree_on_coin_margined_positions(rule: str) -> None:
    frame = walk(2500, seed=21, step=0.003)
    table = population(frame, 800, seed=9).with_columns(pl.col("collateral") / 100)
    inverse = venue({**INVERSE[rule], "contract": {"kind": "inverse"}})
    rows = agree(perpbt.load_bars(frame), table, venue=inverse)
    assert set(rows["exit_reason"]) >= {"liquidation", "stop_loss", "take_profit", "end"}


@pytest.mark.parametrize("rule", ["whole", "size", "dated", "dated steps"])
def test_engines_agree_on_followed_signals(rule: str) -> None:
    """Margin calls, compounding and re-entry: an order decided under one set of tiers is carried out under the next."""
    frame = walk(1500, seed=4, tick=0.5, step=0.004)
    policies = [
        {
            "leverage": [3, 10, 20],
            "sizing": {"kind": "equity", "fraction": 0.5},
            "compounding": True,
            "margin_call": [
                {"action": "top_up", "threshold": 0.3, "target": 0.15, "max_calls": 3},
                {"action": "deleverage", "threshold": 0.3, "fraction": 0.5, "max_calls": 3},
            ],
        },
        {"leverage": [5, 25], "stop_loss": ["none", 0.02], "max_holding": "300m", "capital": 2_000},
    ]
    fields = {**RULES, **CHANGES}[rule]
    result = all_agree(
        perpbt.backtest(
            perpbt.load_bars(frame), "hold", policies, offsets=12, venue=venue(fields), engine=engine
        )
        for engine in ("dense", "skip", "oracle")
    )
    assert (result.accounts["top_up"] > 0).any()
    assert "liquidation" in set(result.accounts["exit_reason"])


def test_tiers_that_change_nothing_change_no_bit() -> None:
    frame = walk(2500, seed=21, tick=0.5, step=0.003)
    table = population(frame, 600, seed=9)
    same = {"tiers": {}, "dated": {"AAA": [(moment(300 * k), BANDS) for k in range(8)]}}
    bars = perpbt.load_bars(frame)
    one, many = (
        perpbt.simulate(bars, table, venue=venue(fields)).accounts
        for fields in ({"tiers": {"AAA": BANDS}}, same)
    )
    assert one.equals(many)
