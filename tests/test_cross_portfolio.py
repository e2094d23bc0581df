"""Portfolio margin and collateral other than cash: engines against the oracle with `==`, published examples, hedges, a stablecoin."""

from __future__ import annotations

import math
import os
from datetime import timedelta
from typing import Any

import made_markets
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_bars import START, made_bars
from test_cross import engine_venue, many, same, shared, table_of

import perpbt
from perpbt.crossing.charges import RiskUnit, unit_multipliers, unit_numbers
from perpbt.errors import InputError
from perpbt.kernels.crossing.margin import charged
from perpbt.kernels.crossing.tables import Charges
from perpbt.oracle.scenarios import charged as charged_naively
from perpbt.oracle.scenarios import unit_required
from perpbt.venue.tables.collateral import CollateralTerms
from perpbt.venue.tables.portfolio import PortfolioTerms

MADE = settings(
    max_examples=int(os.environ.get("PERPBT_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
SCAN = {
    "shocks": [0.0625, 0.125], "extreme": 0.25, "extreme_weight": 0.5, "basis": 0.03125, "minimum": 0.0078125,
    "minimum_caps": [10.0, 70.0], "minimum_multipliers": [1.0, 2.0, 4.0],
}  # fmt: skip


# ------------------------------------------------------------------------------------------- published numbers
def test_okx_minimum_charge_in_tiers() -> None:
    """OKX, portfolio margin parameters (2 Jan 2025): MR 40,000 and a raw MR7 of 30,000, x1 to 10,000, x2 to 70,000."""
    assert charged_naively(30_000.0, [(10_000.0, 1.0), (70_000.0, 2.0), (math.inf, 4.0)]) == 50_000.0
    unit = {"shocks": [0.4, -0.4], "extreme": 0.0, "extreme_weight": 0.5, "basis": 0.0,
            "multipliers": [(10_000.0, 1.0), (70_000.0, 2.0), (math.inf, 4.0)]}  # fmt: skip
    value = {"name": "BTC", "value": 100_000.0, "gross": 100_000.0}
    assert unit_required([value], unit, {"BTC": 0.0}) == 40_000.0
    assert unit_required([value], unit, {"BTC": 0.3}) == 50_000.0


def test_okx_spot_against_perpetual() -> None:
    """OKX, new features in portfolio margin mode (31 May 2024): 10 BTC of spot against -1,000 contracts of 0.01 BTC.

    Before, nothing is charged for the basis between the two (MMR = MR7 = 3,020.87); after, MMR = MR4 = 8,053.32 with MR7 = 3,020.17.
    """
    unit: dict[str, Any] = {
        "shocks": [0.12, -0.12],
        "extreme": 0.24,
        "extreme_weight": 0.5,
        "multipliers": [(math.inf, 1.0)],
    }
    for basis, minimum, told in ((0.0, 3020.87, 3020.87), (8053.32, 3020.17, 8053.32)):
        price = 67_111.0
        legs = [
            {"name": "spot", "value": 10.0 * price, "gross": 0.0},
            {"name": "BTC", "value": -10.0 * price, "gross": 10.0 * price},
        ]
        rates = {"basis": basis / (10.0 * price)}
        found = unit_required(legs, {**unit, **rates}, {"BTC": minimum / (10.0 * price)})
        assert round(found, 2) == told


# ---------------------------------------------------------------------------------------------------- engines
@MADE
@given(
    made_markets.markets(max_accounts=9), made_markets.venues(), made_markets.rules(), st.booleans(), st.booleans(),
    st.integers(0, 999),
)  # fmt: skip
def test_engines_equal_the_oracle(
    market: Any, venue: Any, rules: Any, extremes: bool, one_unit: bool, seed: int
) -> None:
    """Scenarios, with symbols in one risk unit or each its own; and holdings of an asset priced by a symbol, of another by a series."""
    rows = shared(market, seed)
    rng = np.random.default_rng(seed)
    first = min(row["symbol"] for row in rows)
    owners = sorted({(row["world"], row["account"]) for row in rows})
    held = [
        {"world": world, "account": account, "asset": asset, "amount": float(rng.choice([0.25, 1.0, 8.0]))}
        for world, account in owners
        for asset in ("COIN", "USDX")
        if rng.random() < 0.6
    ]
    held = held or [{"world": owners[0][0], "account": owners[0][1], "asset": "COIN", "amount": 1.0}]
    times = [row["ts"] for bars in market["bars"].values() for row in bars]
    prices = pl.DataFrame(
        {
            "ts": [min(times), sorted(times)[len(times) // 2]],
            "asset": ["USDX", "USDX"],
            "price": [100.0, 62.5],
        }
    ).with_columns(pl.col("ts").cast(made_markets.TIME))
    made = engine_venue(venue).replace(
        portfolio={**SCAN, **({"unit": "ALL"} if one_unit else {})},
        collateral={
            "COIN": {"haircuts": [0.125, 0.5], "caps": [1.0], "order": 2, "price": first, "nets": True},
            "USDX": {"haircuts": [0.0625], "order": 1, "conversion_fee": 0.015625},
        },
    )
    bars = perpbt.load_bars(market["frame"], funding=market["funding_frame"])
    for mode in ("portfolio", "cross"):
        done = [
            perpbt.simulate(
                bars, table_of(rows), venue=made, rules=rules, engine=engine,
                margin={
                    "mode": mode, "test": "extremes" if extremes else "close", "close": ("at_once", "in_turn")[seed % 2],
                },
                collateral={"holdings": pl.DataFrame(held), "prices": prices},
            )
            for engine in ("oracle", "dense", "skip")
        ]  # fmt: skip
        for other in done[1:]:
            same(done[0], other)
            assert done[0].extra["collateral"].equals(other.extra["collateral"])


def test_skipping_equals_dense_over_many_blocks() -> None:
    bars, table = many(4000, 60)
    venue = perpbt.load_venue("binance_um", dict.fromkeys(("AAA", "BBB", "CCC"), "BTCUSDT"))
    for unit in ("", "ALL"):
        made = venue.replace(portfolio={**SCAN, "unit": unit})
        dense, skip = (
            perpbt.simulate(bars, table, venue=made, margin="portfolio", engine=name)
            for name in ("dense", "skip")
        )
        same(dense, skip)
        assert (skip.accounts["exit_reason"] == "liquidation").any()


def test_both_charge_a_raw_minimum_alike() -> None:
    terms = PortfolioTerms(**SCAN)
    multipliers = unit_multipliers([terms])
    empty = np.zeros((1, 1))
    whole = np.zeros(1, dtype=np.int64)
    charges = Charges(empty, np.zeros((1, 1, 5)), whole, whole, np.zeros((1, 1), dtype=np.int64), whole, np.zeros(1),
                      unit_numbers([RiskUnit(terms, False)]), multipliers,
                      True, False, False, False, False, False, False, False, False, False, whole, np.zeros(1))  # fmt: skip
    for raw in (0.0, 9.0, 10.0, 11.0, 70.0, 71.0, 1e6):
        assert charged(charges, 0, raw) == charged_naively(raw, [(10.0, 1.0), (70.0, 2.0), (math.inf, 4.0)])


# --------------------------------------------------------------------------------------------------- promises
def hedge(bars: pl.DataFrame, collateral: float, leverage: float) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"account": 1, "strategy": "hedge", "symbol": symbol, "side": side, "entry_time": START,
             "collateral": collateral, "leverage": leverage}
            for symbol, side in (("AAA", "long"), ("BBB", "short"))
        ]
    )  # fmt: skip


def test_opposite_legs_of_a_unit_offset() -> None:
    """Two quotes of one coin, long and short: hardly any risk in one unit, twice that of a leg in two."""
    one = made_bars(500, "AAA", mark=True)
    bars = pl.concat([one, one.with_columns(symbol=pl.lit("BBB"))])
    venue = perpbt.Venue(name="made", tiers={"default": ((0.0, 1e9, 0.005, 125.0),)})
    worst = {}
    for unit in ("", "COIN"):
        made = venue.replace(portfolio={"shocks": [0.12], "basis": 0.01, "unit": unit})
        done = perpbt.simulate(bars, hedge(bars, 100.0, 3.0), venue=made, margin="portfolio")
        worst[unit] = done.extra["wallets"]["worst_margin_ratio"][0]
    high = one["mark_open"].max(), one["mark_close"].max()
    quantity = 300.0 / 100.0
    assert worst["COIN"] == pytest.approx(0.01 * quantity * max(high) / 200.0, rel=1e-3)
    assert worst[""] == pytest.approx(24.0 * worst["COIN"], rel=1e-3)


def test_a_stablecoin_that_leaves_its_peg() -> None:
    """Backed by half its margin in a coin that falls to 0.7: the account that stands on cash lives, the other is liquidated."""
    calm = made_bars(200, "AAA").with_columns(
        pl.lit(100.0).alias(name) for name in ("open", "high", "low", "close")
    )
    rows = pl.DataFrame(
        [
            {"account": name, "strategy": "made", "symbol": "AAA", "side": "long", "entry_time": START,
             "collateral": 100.0, "leverage": 10.0, "reserve": cash}
            for name, cash in (("cash", 190.0), ("coin", None))
        ]
    )  # fmt: skip
    fall = START + timedelta(minutes=100)
    prices = pl.DataFrame({"ts": [START, fall], "asset": ["USDX"] * 2, "price": [1.0, 0.3]})
    venue = perpbt.Venue(
        name="made",
        taker_fee=0.0005,
        tiers={"default": ((0.0, 1e9, 0.2, 125.0),)},
        collateral={"USDX": {"haircuts": [0.05]}},
    )
    holdings = pl.DataFrame({"account": ["coin"], "asset": ["USDX"], "amount": [200.0]})
    done = perpbt.simulate(
        calm, rows, venue=venue, margin="cross", collateral={"holdings": holdings, "prices": prices}
    )
    wallets = done.extra["wallets"].sort("account")
    assert wallets["liquidations"].to_list() == [0, 1]
    assert wallets["liquidation_time"].to_list() == [None, fall]
    coin = done.accounts.filter(pl.col("account") == "coin").row(0, named=True)
    assert coin["top_up"] == 200.0
    assert wallets["collateral_pnl"][1] == pytest.approx(200.0 * (0.3 - 1.0))
    assert done.extra["collateral"]["left"].to_list() == [200.0]  # cash paid for everything


def test_assets_are_sold_in_their_order_when_cash_runs_out() -> None:
    fallen = made_bars(60, "AAA").with_columns(
        *(
            pl.when(pl.int_range(pl.len()) < 30).then(100.0).otherwise(80.0).alias(n)
            for n in ("open", "high", "low", "close")
        )
    )
    rows = pl.DataFrame(
        [{"account": 1, "strategy": "made", "symbol": "AAA", "side": "long", "entry_time": START, "collateral": 100.0,
          "leverage": 20.0}]
    )  # fmt: skip
    prices = pl.DataFrame({"ts": [START] * 2, "asset": ["FIRST", "THEN"], "price": [1.0, 2.0]})
    venue = perpbt.Venue(
        name="made", tiers={"default": ((0.0, 1e9, 0.01, 125.0),)},
        collateral={"FIRST": {"order": 1, "conversion_fee": 0.5}, "THEN": {"order": 2, "haircuts": [0.1]}},
    )  # fmt: skip
    holdings = pl.DataFrame({"account": [1, 1], "asset": ["THEN", "FIRST"], "amount": [150.0, 60.0]})
    done = perpbt.simulate(
        fallen, rows, venue=venue, margin="cross", collateral={"holdings": holdings, "prices": prices}
    )
    left = dict(done.extra["collateral"].select("asset", "left").rows())
    row = done.accounts.row(0, named=True)
    assert row["exit_reason"] == "end"
    assert row["deficit"] == 0.0
    assert left == {
        "FIRST": 0.0,
        "THEN": 15.0,
    }  # 100 of margin and 30 of the first, then 270 of the second, for a loss of 400
    wallet = done.extra["wallets"].row(0, named=True)
    assert wallet["wallet"] == 30.0
    assert wallet["brought"] == 100.0 + 60.0 + 300.0
    assert row["cash_change"] == pytest.approx(30.0 - 460.0)


def test_a_haircut_by_size() -> None:
    terms = CollateralTerms(haircuts=(0.05, 0.1, 1.0), caps=(10.0, 50.0))
    assert terms.counted(5.0) == 4.75
    assert terms.counted(30.0) == pytest.approx(9.5 + 18.0)
    assert terms.counted(90.0) == pytest.approx(9.5 + 36.0)


# ----------------------------------------------------------------------------------------------------- refusals
def refused(match: str, **options: Any) -> None:
    bars, table = many(50, 3)
    with pytest.raises(InputError, match=match):
        perpbt.simulate(bars, options.pop("table", table), **{"margin": "cross", **options})


def test_what_does_not_go_together_is_told() -> None:
    _, table = many(50, 3)
    refused("margin.mode", margin="crossed")
    refused("margin.test", margin={"mode": "cross", "test": "open"})
    refused("margin.tset", margin={"mode": "cross", "tset": "close"})
    refused("one_way", margin={"mode": "portfolio", "legs": "one_way"})
    refused(r"\[portfolio\]", margin="portfolio")
    refused(
        "crowding with an open_interest that changes", crowding=True, open_interest={"days_of_turnover": 0.1}
    )
    refused("crowding with margin.close", margin={"mode": "cross", "close": "in_turn"}, crowding=True)
    refused(
        "margin.close = 'at_once', or no crowding",
        margin={"mode": "cross", "close": "in_turn"},
        crowding=True,
    )
    for key, value in (("legs", "one_way"), ("test", "extremes"), ("close", "in_turn")):
        refused(f"margin.{key} = '{value}' with margin.mode", margin={key: value})
    refused("margin.close = 'first'", margin={"mode": "cross", "close": "first"})
    refused(
        "allowed: margin = 'isolated' or 'cross', or no dynamic",
        margin="portfolio",
        dynamic={"model": "ewma"},
    )
    refused("crowding with memory", memory="16GiB", crowding=True)
    refused("liquidation", liquidation="ladder")
    refused("weight", table=table.with_columns(weight=pl.int_range(1, pl.len() + 1).cast(pl.Float64)))
    refused("reserve", margin="isolated", table=table.with_columns(reserve=1.0))
    holdings = pl.DataFrame({"account": [0], "asset": ["USDX"], "amount": [1.0]})
    refused("collateral", margin="isolated", collateral=holdings)
    refused(r"\[collateral.USDX\]", collateral=holdings)
    refused("equity_every with collateral", collateral=holdings, equity_every="1h")
    venue = perpbt.Venue(
        name="made",
        tiers={"default": ((0.0, 1e9, 0.01, 125.0),)},
        collateral={"USDX": {}, "COIN": {"price": "ZZZ"}},
    )
    refused("no prices", venue=venue, collateral=holdings)
    refused("COIN.price", venue=venue, collateral=holdings.with_columns(asset=pl.lit("COIN")))
    refused("amount", venue=venue, collateral=holdings.with_columns(amount=-1.0))
    refused("column 'world' is Int", venue=venue, collateral=holdings.with_columns(world=1))
    refused("column 'amuont': unknown column", venue=venue, collateral=holdings.with_columns(amuont=1.0))
    refused("collateral: no rows", venue=venue, collateral=holdings.head(0))
    prices = pl.DataFrame({"ts": [0, 0], "asset": "USDX", "price": [1.0, 0.9]}).with_columns(
        pl.col("ts").cast(pl.Datetime("ms", "UTC"))
    )
    refused("row 1, column 'ts'", venue=venue, collateral={"holdings": holdings, "prices": prices})
    refused(
        "account",
        venue=venue,
        collateral=holdings.with_columns(account=99),
    )


def test_the_study_compares_the_same_accounts() -> None:
    bars, _ = many(900, 1)
    found = perpbt.run_study("margin_modes", bars, starts=4, leverages=[3.0, 5.0], holding="4h")
    rows = found.tables["margins_by_leverage"]
    assert rows["margin"].n_unique() == 4
    assert (rows["accounts"] == 4).all()
    assert rows.height == 4 * 3 * 2
    hedged = found.tables["margins"].filter(
        pl.col("population") == "hedged in one coin", pl.col("margin") != "isolated"
    )
    assert (hedged["liquidated"] == 0).all()
    assert set(found.figures) == {"liquidated_accounts", "fund_flow"}
    assert "hedged in one coin" in found.text
