"""Crowding among shared wallets: liquidations filled against all their world sells with them (MODEL §6)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import made_markets
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_bars import START
from test_cross import MADE, engine_venue, many, same, shared, table_of
from test_cross_portfolio import SCAN

import perpbt

ENGINES = ("oracle", "dense", "skip")
MARGINS = ("cross", {"mode": "cross", "legs": "one_way", "test": "extremes"}, "portfolio")


@MADE
@given(
    made_markets.markets(max_accounts=12), made_markets.venues(), made_markets.rules(), st.sampled_from(MARGINS), st.booleans(),
    st.integers(0, 999),
)  # fmt: skip
def test_engines_equal_the_oracle(
    market: Any, venue: Any, rules: Any, margin: Any, crowded: bool, seed: int
) -> None:
    """Also where what a fill leaves decides what is opened later: wallets keep half of a surplus."""
    rows = shared(market, seed)
    venue = {
        **venue,
        "surplus_to_fund": (0.0, 0.5, 1.0)[seed % 3],
        "impact": (1.0, 8.0)[seed % 2],
        "max_slippage": 0.5,
    }
    made = engine_venue(venue).replace(portfolio=SCAN)
    bars = perpbt.load_bars(market["frame"], funding=market["funding_frame"])
    interest = (None, 1e5, dict.fromkeys({row["symbol"] for row in rows}, 3e4))[seed % 5 % 3]
    done = [
        perpbt.simulate(
            bars,
            table_of(rows),
            venue=made,
            rules=rules,
            margin=margin,
            crowding=crowded,
            engine=engine,
            open_interest=interest,
        )
        for engine in ENGINES
    ]
    for other in done[1:]:
        same(done[0], other)
        assert other.metadata["largest_crowd"] == done[0].metadata["largest_crowd"]


def gap(to: float, count: int = 40) -> pl.DataFrame:
    """Two symbols that stand at 100, open elsewhere at the fifth bar, and climb back over ten."""
    prices = [100.0] * 5 + [to + (100.0 - to) * min(k / 10, 1.0) for k in range(count - 5)]
    return pl.concat(
        pl.DataFrame(
            {
                "ts": [START + timedelta(hours=k) for k in range(count)], "symbol": [name] * count, "open": prices,
                "high": [price * 1.01 for price in prices], "low": [price * 0.99 for price in prices], "close": prices,
                "volume": [1_000.0] * count,
            }
        )
        for name in ("AAA", "BBB")
    )  # fmt: skip


VENUE = perpbt.Venue(
    name="made", impact=1.0, half_spread=1e-3, max_slippage=0.5, surplus_to_fund=0.0,
    tiers={"default": ((0.0, 1e9, 0.01, 125.0),)},
)  # fmt: skip


def row(account: object, symbol: str, side: str = "long", **more: Any) -> dict[str, Any]:
    return {
        "account": account, "strategy": "made", "symbol": symbol, "side": side, "entry_time": START, "collateral": 100.0,
        "leverage": 20.0, **more,
    }  # fmt: skip


def slippage(volume: float, price: float) -> float:
    """Half-spread and the square-root law: sigma of a bar of 2 % range, turnover of 1,000 at its close."""
    sigma = np.log(1.01 / 0.99) / (2.0 * np.sqrt(np.log(2.0)))
    return float(1e-3 + sigma * np.sqrt(volume / (1_000.0 * price)))


def test_wallets_that_fall_together_are_filled_together() -> None:
    """Three wallets in AAA, one of them hedged, and one in BBB: net notionals of a symbol and moment, times weight."""
    rows = [
        row(1, "AAA"),
        row(2, "AAA", weight=4.0),
        row(3, "AAA", leverage=40.0),
        row(3, "AAA", "short"),
        row(4, "BBB"),
    ]
    table = pl.DataFrame([{"weight": 1.0, **one} for one in rows])
    for margin in ("cross", {"mode": "cross", "legs": "one_way"}):
        done = perpbt.simulate(gap(90.0), table, venue=VENUE, margin=margin, crowding=True).accounts
        assert done["exit_reason"].unique().to_list() == ["liquidation"]
        size = dict(zip(range(5), done["quantity"], strict=True))
        sold = 90.0 * (size[0] + 4.0 * size[1] + (size[2] - size[3]))
        assert done["exit_price"][:4].to_list() == pytest.approx(
            [90.0 * (1 - slippage(sold, 90.0))] * 4, rel=1e-12
        )
        assert done["exit_price"][4] == pytest.approx(90.0 * (1 - slippage(90.0 * size[4], 90.0)), rel=1e-12)


def test_wallets_of_other_worlds_do_not_meet() -> None:
    table = pl.DataFrame([row(k, "AAA", world=world) for k, world in enumerate("aab")])
    done = perpbt.simulate(gap(90.0), table, venue=VENUE, margin="cross", crowding=True)
    fills = done.accounts["exit_price"].to_list()
    assert fills[0] == fills[1] < fills[2]
    assert done.metadata["largest_crowd"] == 2


def test_one_position_behind_a_wallet_meets_the_crowd_of_an_isolated_one() -> None:
    """At an open that jumps: there both are closed at the last open."""
    table = pl.DataFrame([row(k, "AB"[k % 2] * 3, collateral=100.0 + k, weight=1.0 + k) for k in range(20)])
    alone, shared_ = (
        perpbt.simulate(gap(93.0), table, venue=VENUE, margin=mode, crowding=True).accounts
        for mode in ("isolated", "cross")
    )
    assert alone["exit_reason"].equals(shared_["exit_reason"])
    assert alone["exit_time"].equals(shared_["exit_time"])
    for name in ("exit_price", "deficit", "surplus", "liquidation_fee"):
        assert alone[name].to_list() == pytest.approx(shared_[name].to_list(), rel=1e-12), name


def test_a_fill_decides_what_is_opened_later() -> None:
    """What a crowd leaves of a wallet carries a later position, or does not."""
    rows = [
        row(1, "AAA", reserve=60.0),
        row(1, "BBB", entry_time=START + timedelta(hours=8), collateral=1.0, leverage=100.0),
    ]
    rows[1]["reserve"] = 0.0
    crowd = [{**row(2 + k, "AAA"), "reserve": 60.0} for k in range(60)]
    bars = gap(92.6)
    made = {}
    for number in (0, 60):
        table = pl.DataFrame([*rows, *crowd[:number]])
        done = [
            perpbt.simulate(bars, table, venue=VENUE, margin="cross", crowding=True, engine=engine)
            for engine in ENGINES
        ]
        for other in done[1:]:
            same(done[0], other)
        made[number] = done[0].accounts.row(1, named=True)
    assert made[0]["rejection"] is None
    assert made[60]["rejection"] == "liquidated_at_entry"


def test_a_weight_is_so_many_wallets() -> None:
    """And nothing depends on the order of rows."""
    bars, table = many(900, 40)
    tall = table.with_columns(leverage=pl.col("leverage") * 3.0, weight=pl.lit(2.0))
    twice = pl.concat(
        [tall.with_columns(account=pl.col("account") + 1_000 * k, weight=pl.lit(1.0)) for k in (0, 1)]
    )
    venue = perpbt.Venue(
        name="made", impact=5.0, max_slippage=0.3, tiers={"default": ((0.0, 1e9, 0.01, 125.0),)}
    )
    asked = {"venue": venue, "margin": "cross", "crowding": True}
    one = perpbt.simulate(bars.with_columns(volume=pl.lit(5.0)), tall, **asked)
    two = perpbt.simulate(
        bars.with_columns(volume=pl.lit(5.0)), twice.sample(fraction=1.0, shuffle=True, seed=1), **asked
    )
    told = ("exit_price", "exit_time", "cash_change", "deficit")
    first = one.accounts.sort("account", "entry_time", "symbol", "side", "leverage", *told).select(told)
    other = two.accounts.filter(pl.col("account") < 1_000)
    assert first.equals(other.sort("account", "entry_time", "symbol", "side", "leverage", *told).select(told))
    alone = perpbt.simulate(bars.with_columns(volume=pl.lit(5.0)), tall, **{**asked, "crowding": False})
    assert alone.accounts["deficit"].sum() < one.accounts["deficit"].sum()
    assert one.metadata["largest_crowd"] > 1


def test_crowds_have_the_size_of_an_open_interest() -> None:
    """Weights of all rows times a number; where open interest is that of ten wallets, a wallet falls like ten."""
    rows = [row(1, "AAA"), row(2, "BBB", weight=3.0)]
    table = pl.DataFrame([{"weight": 1.0, **one} for one in rows])
    bars = gap(90.0)
    asked = {"venue": VENUE, "margin": "cross", "crowding": True}
    plain = perpbt.simulate(bars, table, **asked, open_interest=1.0)
    ten = perpbt.simulate(bars, table, **asked, open_interest=10.0 / plain.accounts["weight"][0])
    assert ten.accounts["weight"][0] == pytest.approx(10.0)
    for place in (0, 1):
        sold = ten.accounts["weight"][place] * ten.accounts["quantity"][place] * 90.0
        assert ten.accounts["exit_price"][place] == pytest.approx(
            90.0 * (1 - slippage(sold, 90.0)), rel=1e-12
        )
    each = perpbt.simulate(bars, table, **asked, open_interest={"AAA": 1e3, "BBB": 2e3})
    for place in (0, 1):
        sold = each.accounts["weight"][place] * each.accounts["quantity"][place] * 90.0
        assert each.accounts["exit_price"][place] == pytest.approx(
            90.0 * (1 - slippage(sold, 90.0)), rel=1e-12
        )
    assert each.accounts["weight"][0] != pytest.approx(each.accounts["weight"][1] / 3.0)
