"""Shared wallets settled in a coin: inverse and quanto contracts, multipliers and lots. Engines against the oracle with `==`."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import made_markets
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_bars import START, made_bars
from test_cross import MADE, MODES, TERMS, engine_venue, many, ruled, same, shared, table_of

import perpbt
from perpbt.errors import InputError

CONTRACTS: dict[str, dict[str, Any]] = {
    "inverse": {"kind": "inverse", "settlement": "BTC", "multiplier": 100.0, "tick": 0.5},
    "quanto": {"kind": "quanto", "settlement": "BTC", "multiplier": 0.001, "lot": 1.0},
    "linear, multiplied": {
        "kind": "linear",
        "settlement": "BTC",
        "multiplier": 0.01,
        "lot": 1.0,
        "tick": 0.25,
    },
}


@MADE
@given(
    made_markets.markets(max_accounts=9),
    made_markets.venues(),
    made_markets.rules(),
    MODES,
    TERMS,
    st.integers(0, 999),
)
def test_engines_equal_the_oracle(
    market: Any, venue: Any, rules: Any, margin: Any, kind: str, seed: int
) -> None:
    """One wallet in BTC behind an inverse contract, a quanto and a linear one, in whole lots and on ticks or not."""
    rows = shared(market, seed)
    symbols = sorted({row["symbol"] for row in rows})
    kinds = list(CONTRACTS.values())
    contract = {name: {"lot": 1.0, "tick": 0.125, **kinds[(k + seed) % 3]} for k, name in enumerate(symbols)}
    made = engine_venue(ruled(venue, kind)).replace(contract=contract)
    bars = perpbt.load_bars(market["frame"], funding=market["funding_frame"])
    done = [
        perpbt.simulate(
            bars, table_of(rows), venue=made, margin=margin, engine=engine, fund={"scope": "symbol"},
            rules={**rules, "rounding": ("none", "lot", "tick", "both")[seed % 4]}, conversion={"BTC": 30_000.0},
        )
        for engine in ("oracle", "dense", "skip")
    ]  # fmt: skip
    same(done[0], done[1])
    same(done[0], done[2])


def coin_venue(**changes: Any) -> perpbt.Venue:
    names = ("AAA", "BBB", "CCC")
    return perpbt.Venue(
        name="made", taker_fee=5e-4, slippage=1e-4, tiers={"default": ((0.0, 1e9, 0.005, 125.0),)},
        contract={name: {"kind": "inverse", "settlement": "BTC", "multiplier": 100.0} for name in names},
    ).replace(**changes)  # fmt: skip


def test_one_inverse_position_behind_a_wallet_is_an_isolated_one() -> None:
    """But for a liquidation inside the range, which fills at the extreme tested."""
    bars, table = many(1200, 80)
    table = table.with_columns(account=pl.int_range(pl.len()), collateral=pl.lit(0.5))
    table = table.with_columns(trailing_stop=pl.when(pl.col("account") % 5 == 0).then(0.1))
    alone = perpbt.simulate(bars, table, venue=coin_venue(), equity_every="1h")
    wallet = perpbt.simulate(bars, table, venue=coin_venue(), margin="cross", equity_every="1h")
    for name in ("exit_reason", "rejection", "entry_time", "exit_time", "side", "settlement"):
        assert alone.accounts[name].equals(wallet.accounts[name]), name
    assert set(alone.accounts["exit_reason"]) >= {"trailing_stop", "stop_loss", "liquidation", "end"}
    mine = alone.accounts["exit_reason"] != "liquidation"
    for name in (
        "entry_price",
        "exit_price",
        "quantity",
        "pnl",
        "funding",
        "fees",
        "cash_change",
        "liquidation_price",
    ):
        pairs = zip(alone.accounts.filter(mine)[name], wallet.accounts.filter(mine)[name], strict=True)
        wrong = [
            (a, b) for a, b in pairs if a is not None and not math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
            and not min(a, b) > 1e12  # of a short in the coin it is backed by: none
        ]  # fmt: skip
        assert not wrong, name
    assert alone.equity is not None
    assert wallet.equity is not None
    own = alone.accounts.filter(mine)["account"].unique()
    curves = [
        one.equity.filter(pl.col("account").is_in(own.implode())).sort("account", "time")
        for one in (alone, wallet)
    ]
    spread = (curves[0]["equity"] - curves[1]["equity"]).abs().max()
    assert spread < 1e-12


def test_a_coin_wallet_hedged_in_dollars() -> None:
    """A short of as many dollars as the coin in the wallet is worth keeps its dollar value: worth in coin times price stays what it was."""
    frame = made_bars(400, "AAA", seed=3)
    price = frame["open"][0]
    row = {
        "account": 1,
        "strategy": "hedge",
        "symbol": "AAA",
        "side": "short",
        "entry_time": START,
        "collateral": 2.0,
        "leverage": 1.0,
    }
    venue = coin_venue(taker_fee=0.0, slippage=0.0)
    done = perpbt.simulate(frame, pl.DataFrame([row]), venue=venue, margin="cross", equity_every="1h")
    assert done.equity is not None
    closes = frame.select((pl.col("ts") + timedelta(minutes=1)).alias("time"), "close")
    both = done.equity.with_columns(pl.col("time").cast(closes.schema["time"])).join(closes, on="time")
    assert both.height > 4
    worth = both["equity"] * both["close"]
    assert worth.to_list() == pytest.approx([2.0 * price] * both.height, rel=1e-9)
    assert both["equity"].n_unique() > 4
    assert done.accounts["settlement"].to_list() == ["BTC"]


def test_a_bitcoin_wallet_on_bitmex() -> None:
    """The packaged venue: an inverse contract in whole lots and a quanto, risk-limit steps, one wallet in bitcoin."""
    frames = []
    for symbol, start, seed in (("XBTUSD", 40_000.0, 1), ("ETHUSD", 2_000.0, 2)):
        frame = made_bars(400, symbol, seed=seed, mark=True)
        prices = [name for name in frame.columns if name.endswith(("open", "high", "low", "close"))]
        first = frame["open"][0]
        frames.append(
            frame.with_columns((start * (pl.col(name) / first) ** 0.3).alias(name) for name in prices)
        )
    rows = pl.DataFrame(
        [
            {"account": account, "strategy": "made", "symbol": symbol, "side": side, "entry_time": START + timedelta(minutes=account),
             "collateral": 0.2, "leverage": 5.0 + account % 3 * 4.0}
            for account in range(24)
            for symbol, side in (("XBTUSD", "long"), ("ETHUSD", ("long", "short")[account % 2]))
        ]
    )  # fmt: skip
    done = [
        perpbt.simulate(
            pl.concat(frames), rows, venue="bitmex", margin={"mode": "cross", "legs": "one_way"}, engine=engine, equity_every="1h"
        )
        for engine in ("oracle", "dense", "skip")
    ]  # fmt: skip
    for other in done[1:]:
        same(done[0], other)
        assert done[0].equity is not None
        assert done[0].equity.equals(other.equity)
    accounts = done[0].accounts
    assert accounts["settlement"].unique().to_list() == ["XBT"]
    opened = accounts.filter(pl.col("rejection").is_null())
    assert opened["symbol"].n_unique() == 2
    assert {"liquidation", "end"} <= set(opened["exit_reason"])


COINS = {"AAA": "BTC", "BBB": "ETH", "CCC": "BTC"}
KINDS = {"AAA": "inverse", "BBB": "quanto", "CCC": "inverse"}
HELD = pl.DataFrame({"account": [0], "asset": ["X"], "amount": [1.0]})


SCAN = {
    "shocks": [0.0625, 0.125], "extreme": 0.25, "extreme_weight": 0.5, "basis": 0.03125, "minimum": 0.0078125,
    "minimum_caps": [1.0, 7.0], "minimum_multipliers": [1.0, 2.0, 4.0],
}  # fmt: skip


@MADE
@given(
    made_markets.markets(max_accounts=9), made_markets.venues(), made_markets.rules(), st.booleans(), st.booleans(),
    st.integers(0, 999),
)  # fmt: skip
def test_engines_equal_the_oracle_in_portfolio_margin(
    market: Any, venue: Any, rules: Any, extremes: bool, one_unit: bool, seed: int
) -> None:
    """Coin-margined accounts of inverse contracts, in one risk unit or each its own, with an asset priced in coin."""
    rows = shared(market, seed)
    symbols = sorted({row["symbol"] for row in rows})
    kinds = ("inverse", "inverse") if one_unit else ("inverse", "quanto")
    made = engine_venue(venue).replace(
        contract={name: {"kind": kinds[k % 2], "settlement": "BTC", "multiplier": 100.0 if kinds[k % 2] == "inverse" else 0.001}
                  for k, name in enumerate(symbols)},
        portfolio={**SCAN, **({"unit": "ALL"} if one_unit else {})},
        collateral={"ETH": {"haircuts": [0.125], "conversion_fee": 0.015625}},
    )  # fmt: skip
    held = pl.DataFrame(
        [
            {"world": row["world"], "account": row["account"], "asset": "ETH", "amount": 4.0}
            for row in rows[:2]
        ]
    )
    start = min(row["ts"] for bars in market["bars"].values() for row in bars)
    prices = pl.DataFrame({"ts": [start], "asset": ["ETH"], "price": [0.0625]}).with_columns(
        pl.col("ts").cast(made_markets.TIME)
    )
    bars = perpbt.load_bars(market["frame"], funding=market["funding_frame"])
    done = [
        perpbt.simulate(
            bars, table_of(rows), venue=made, margin={"mode": "portfolio", "test": "extremes" if extremes else "close"},
            engine=engine, fund={"scope": "symbol"}, rules=rules, conversion={"BTC": 30_000.0},
            collateral={"holdings": held.unique(), "prices": prices},
        )
        for engine in ("oracle", "dense", "skip")
    ]  # fmt: skip
    same(done[0], done[1])
    same(done[0], done[2])


@pytest.mark.parametrize("side", ["long", "short"])
def test_scenarios_of_an_inverse_contract_are_moves_of_its_price(side: str) -> None:
    """What must be kept is the worst loss in coin over prices 10 % up and down, as the contract itself is worth then."""
    venue = coin_venue(portfolio={"shocks": [0.1], "extreme": 0.4}, taker_fee=0.0, slippage=0.0)
    price = {name: [50_000.0] * 2 for name in ("open", "high", "low", "close")}
    bars = pl.DataFrame({"ts": [START, START + timedelta(hours=1)], "symbol": ["AAA"] * 2, **price})
    row = {
        "account": 1,
        "strategy": "s",
        "symbol": "AAA",
        "side": side,
        "entry_time": START,
        "collateral": 1.0,
        "leverage": 2.0,
    }
    done = perpbt.simulate(bars, pl.DataFrame([row]), venue=venue, margin="portfolio")
    sign = 1.0 if side == "long" else -1.0

    def loss(at: float, to: float) -> float:
        return -sign * 2.0 * 50_000.0 * (1.0 / at - 1.0 / to)

    def kept(at: float) -> float:
        shocks = max(loss(at, at * 1.1), loss(at, at * 0.9))
        return max(shocks, 0.5 * max(loss(at, at * 1.4), loss(at, at * 0.6)))

    assert done.extra["wallets"]["worst_margin_ratio"][0] == pytest.approx(kept(50_000.0) / 1.0, rel=1e-12)
    at = done.accounts["liquidation_price"][0]
    if side == "long":
        assert 1.0 - loss(50_000.0, at) == pytest.approx(kept(at), rel=1e-9)
    else:
        assert at > 50_000.0


def test_wallets_of_different_coins_stand_side_by_side() -> None:
    """What each wallet comes to is what it comes to in a run of its own, and its money is converted."""
    bars, table = many(300, 60)
    venue = coin_venue(
        contract={
            name: {"kind": "inverse", "settlement": coin, "multiplier": 100.0} for name, coin in COINS.items()
        }
    )
    table = table.with_columns(
        symbol=pl.when(pl.col("account") % 2 == 1)
        .then(pl.lit("BBB"))
        .otherwise(pl.col("symbol").replace({"BBB": "CCC"})),
        collateral=pl.lit(0.5),
    )
    asked = {"venue": venue, "fund": {"scope": "symbol"}, "margin": "cross"}
    both = perpbt.simulate(bars, table, **asked)
    told = both.extra["wallets"].select("account", "settlement").rows()
    assert told == [(account, ("BTC", "ETH")[account % 2]) for account in range(60)]
    changes = []
    for odd in (0, 1):
        alone = perpbt.simulate(bars, table.filter(pl.col("account") % 2 == odd), **asked)
        mine = pl.col("account") % 2 == odd
        for name in (
            "entry_price",
            "exit_time",
            "exit_price",
            "cash_change",
            "deficit",
            "liquidation_price",
            "settlement",
        ):
            assert both.accounts.filter(mine)[name].equals(alone.accounts[name]), name
        own = both.extra["wallets"].filter(mine)
        assert own["wallet"].equals(alone.extra["wallets"]["wallet"])
        changes.append(both.accounts.filter(mine).drop_nulls("cash_change"))
    assert (changes[1]["cash_change_quote"] / changes[1]["cash_change"]).n_unique() > 3
    assert both.extra["converted"].height
    assert both.statistics.filter(pl.col("symbol") == "all")["surplus"].null_count()


def test_a_rate_that_grows_in_coin_asks_more_as_the_coin_falls() -> None:
    """Deribit, BTC: 1 % and 0.005 % a BTC of size: 100 BTC long at 50,000 keep 1.5 % of what they are worth at each mark."""
    venue = perpbt.load_venue("deribit_inverse").replace(taker_fee=0.0, slippage=0.0)
    price = {name: [50_000.0] * 2 for name in ("open", "high", "low", "close")}
    bars = pl.DataFrame({"ts": [START, START + timedelta(hours=1)], "symbol": ["BTC-PERPETUAL"] * 2, **price})
    row = {
        "account": 1,
        "strategy": "s",
        "symbol": "BTC-PERPETUAL",
        "side": "long",
        "entry_time": START,
        "collateral": 10.0,
        "leverage": 10.0,
    }
    for engine in ("oracle", "dense", "skip"):
        done = perpbt.simulate(bars, pl.DataFrame([row]), venue=venue, margin="cross", engine=engine)
        assert done.extra["wallets"]["worst_margin_ratio"][0] == pytest.approx(1.5 / 10.0, rel=1e-12)
        at = done.accounts["liquidation_price"][0]
        coins = 5e6 / at
        assert 10.0 + 5e6 * (1 / 50_000.0 - 1 / at) == pytest.approx(coins * (0.01 + 5e-5 * coins), rel=1e-9)
        alone = perpbt.simulate(bars, pl.DataFrame([row]), venue=venue).accounts
        assert at == pytest.approx(alone["liquidation_price"][0], rel=1e-9)


def test_what_does_not_go_into_one_wallet_is_told() -> None:
    bars, table = many(50, 3)
    scan = {"shocks": [0.1], "unit": "ALL"}
    for venue, options, told in (
        (
            coin_venue(contract={name: {"kind": kind, "settlement": "BTC"} for name, kind in KINDS.items()}),
            {"margin": "portfolio", "conversion": {"BTC": 1.0}}, "AAA and BBB are in one risk unit",
        ),
        (
            coin_venue(contract={name: {"kind": "inverse", "settlement": coin, "multiplier": 1.0} for name, coin in COINS.items()}),
            {"fund": {"scope": "symbol"}}, "is settled in .*one settlement currency, that of the account's first row",
        ),
        (coin_venue(collateral={"X": {"price": "AAA"}}), {"collateral": HELD}, "allowed there: no such symbol, but prices in BTC"),
        (
            coin_venue(contract={name: {"kind": "inverse", "settlement": name} for name in COINS}, collateral={"X": {}}),
            {"fund": {"scope": "symbol"}, "collateral": HELD, "table": table.with_columns(account=pl.int_range(pl.len()))},
            "wallets are in AAA, BBB, CCC; allowed: one settlement currency a run",
        ),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            perpbt.simulate(
                bars,
                options.pop("table", table),
                venue=venue.replace(portfolio=scan),
                **{"margin": "cross", **options},
            )
