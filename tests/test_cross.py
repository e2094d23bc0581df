"""Accounts whose positions share one wallet: engines against the oracle with `==`, and what the rules promise."""

from __future__ import annotations

import math
import os
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import made_markets
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_bars import START, made_bars

import perpbt
from perpbt.contracts import Maintenance, Position
from perpbt.explaining.cross import Held, cross_liquidation_price
from perpbt.oracle import cumulative_funding, first_bar
from perpbt.oracle.cross import run_wallet
from perpbt.oracle.grid import on_grid

ENGINES = ("oracle", "dense", "skip")
MADE = settings(
    max_examples=int(os.environ.get("PERPBT_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
MODES = st.fixed_dictionaries(
    {
        "mode": st.just("cross"),
        "legs": st.sampled_from(("hedge", "one_way")),
        "test": st.sampled_from(("close", "extremes")),
        "close": st.sampled_from(("at_once", "in_turn")),
    }
)


def engine_venue(venue: dict[str, Any]) -> perpbt.Venue:
    names = ("floor", "cap", "rate", "max_leverage", "deduction")
    names = names[:4] if venue.get("rule") == "whole" else names  # steps have no deductions
    tiers = tuple(tuple(tier[name] for name in names) for tier in venue["tiers"])
    known = {key: value for key, value in venue.items() if key not in ("rule", "per_unit", "epochs")}
    made = perpbt.Venue(**{**known, "name": "made", "tiers": {"default": tiers}})
    if "rule" in venue:
        made = made.replace(
            maintenance={
                "rule": "size" if venue["per_unit"] else venue["rule"],
                "per_unit": venue["per_unit"],
            }
        )
    return made


def ruled(venue: dict[str, Any], terms: str) -> dict[str, Any]:
    """The venue with another way to read its tiers, as the oracle is told of it."""
    if terms == "whole":
        steps = [{**tier, "deduction": 0.0} for tier in venue["tiers"]]
        return {**venue, "tiers": steps, "rule": "whole", "per_unit": 0.0}
    if terms == "size":
        one = {**venue["tiers"][0], "cap": 1e9}
        return {**venue, "tiers": [one], "rule": "brackets", "per_unit": 1 / 1024}
    return venue


TERMS = st.sampled_from(("brackets", "whole", "size"))


def shared(market: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """The accounts of a made market, some of them put together behind one wallet."""
    rng = random.Random(seed)
    owners = [f"w{k}" for k in range(max(1, len(market["accounts"]) // 3))]
    rows = []
    for row in market["accounts"]:
        owner = rng.choice(owners)
        rows.append(
            {
                **row,
                "account": owner,
                "weight": 1.0 + owners.index(owner) % 3,
                "reserve": rng.choice((None, None, 10.0, 250.0)),
            }
        )
    return rows


def table_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return made_markets.accounts_frame(rows, [*made_markets.WISHES, "reserve"])


def run(
    market: dict[str, Any], rows: list[dict[str, Any]], venue: Any, rules: Any, margin: Any, engine: str
) -> perpbt.Result:
    bars = perpbt.load_bars(market["frame"], funding=market["funding_frame"])
    return perpbt.simulate(
        bars, table_of(rows), venue=engine_venue(venue), rules=rules, margin=margin, engine=engine
    )


def same(first: perpbt.Result, second: perpbt.Result) -> None:
    """Every table to the bit."""
    for name in first.accounts.columns:
        a, b = first.accounts[name], second.accounts[name]
        assert a.equals(b), f"{name}: {a.to_list()} {b.to_list()}"
    assert first.extra["wallets"].equals(second.extra["wallets"])
    assert first.fund.equals(second.fund)
    assert first.statistics.equals(second.statistics)


# ---------------------------------------------------------------------------------------------------- engines
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
    market: Any, venue: Any, rules: Any, margin: Any, terms: str, seed: int
) -> None:
    rows, venue = shared(market, seed), ruled(venue, terms)
    results = [run(market, rows, venue, rules, margin, engine) for engine in ENGINES]
    same(results[0], results[1])
    same(results[0], results[2])


@MADE
@given(
    made_markets.markets(max_accounts=9),
    made_markets.venues(),
    made_markets.rules(),
    MODES,
    TERMS,
    st.integers(0, 999),
)
def test_the_run_equals_the_oracle_from_bars_on(
    market: Any, venue: Any, rules: Any, margin: Any, kind: str, seed: int
) -> None:
    """Grid, funding, entries and exits due as plain Python finds them, with nothing of the package's preparation."""
    rows, venue = shared(market, seed), ruled(venue, kind)
    result = run(market, rows, venue, rules, margin, "skip").accounts
    cf = {s: cumulative_funding(bars, market["funding"][s]) for s, bars in market["bars"].items()}
    held = {row["symbol"] for row in rows}
    times, grid = on_grid({s: market["bars"][s] for s in held}, cf)
    terms = {
        "mode": "cross", "legs": margin["legs"], "extremes": margin["test"] == "extremes", "assets": [],
        "in_turn": margin["close"] == "in_turn",
    }  # fmt: skip
    wallets: dict[Any, list[int]] = {}
    for k, row in enumerate(rows):
        wallets.setdefault((row["world"], row["account"]), []).append(k)
    for own in wallets.values():
        legs = [leg_of(rows[k], market["bars"][rows[k]["symbol"]], times) for k in own]
        done = run_wallet(grid, legs, dict.fromkeys(held, venue), rules, terms)
        for k, leg in zip(own, done["legs"], strict=True):
            told = result.row(k, named=True)
            assert told["exit_reason"] == ("rejected" if leg["status"] == "rejected" else leg["exit_reason"])
            if leg["status"] != "rejected":
                assert told["exit_time"] == datetime.fromtimestamp(times[leg["exit_bar"]] / 1000, UTC)
                assert [
                    told[name] for name in ("entry_price", "exit_price", "surplus", "deficit", "pnl")
                ] == [leg[name] for name in ("entry_price", "exit_price", "surplus", "deficit", "pnl")]
                assert told["worst_margin_ratio"] == done["wallet"]["worst"]
                assert told["max_drawdown"] == done["wallet"]["drawdown"]


def leg_of(row: dict[str, Any], bars: list[dict[str, Any]], times: list[int]) -> dict[str, Any]:
    entry = first_bar(bars, row["entry_time"])
    due = None
    if row["exit_time"] is not None and entry is not None:
        after = [bar["ts"] for bar in bars[entry + 1 :] if bar["ts"] >= row["exit_time"]]
        due = times.index(after[0]) if after else None
    return {
        "symbol": row["symbol"],
        "side": 1 if row["side"] == "long" else -1,
        "entry": None if entry is None else times.index(bars[entry]["ts"]),
        "due": due,
        "collateral": row["collateral"],
        "reserve": row["reserve"] or 0.0,
        "leverage": row["leverage"],
        "margin_buffer": row["margin_buffer"] or 0.0,
        "stop": row["stop_loss"],
        "trailing": row["trailing_stop"],
        "trailing_trigger": row["trailing_trigger"] or row["stop_trigger"] or "last",
        "take_profit": row["take_profit"],
        "stop_trigger": row["stop_trigger"] or "last",
        "take_profit_trigger": row["take_profit_trigger"] or "last",
    }


@pytest.mark.parametrize("legs", ["hedge", "one_way"])
def test_skipping_equals_dense_over_many_blocks(legs: str) -> None:
    """Thousands of bars, long lives, hedges that cancel to the last bit, and none."""
    bars, table = many(4000, 60)
    for test, close in (("close", "at_once"), ("extremes", "at_once"), ("close", "in_turn")):
        margin = {"mode": "cross", "legs": legs, "test": test, "close": close}
        dense, skip = (perpbt.simulate(bars, table, margin=margin, engine=name) for name in ENGINES[1:])
        same(dense, skip)
    reasons = {"liquidation", "stop_loss", "trailing_stop", "take_profit", "time", "end"}
    assert set(skip.accounts["exit_reason"]) >= reasons


@pytest.mark.parametrize("rule", ["brackets", "whole", "size"])
def test_skipping_equals_dense_under_tiers_that_change(rule: str) -> None:
    """Ladders of different lengths, each symbol's at moments of its own; the wallet meets them with what it holds."""
    bars, table = many(4000, 60)
    table = table.with_columns(pl.col("collateral") * 20)
    steps = [
        ((0.0, 2e3, 0.004, 125.0), (2e3, 1e4, 0.02, 125.0), (1e4, 1e9, 0.1, 125.0)),
        ((0.0, 1e9, 0.02, 50.0),),
    ]
    sets = steps[1:] if rule == "size" else steps
    dated = {
        name: [
            (START + timedelta(minutes=at + 7 * k), sets[n % len(sets)])
            for n, at in enumerate((0, 1503, 1504, 2600))
        ]
        for k, name in enumerate(("AAA", "BBB", "CCC"))
    }
    venue = perpbt.Venue(
        name="made", dated=dated, maintenance={"rule": rule, "per_unit": 1e-5 if rule == "size" else 0.0}
    )
    for legs in ("hedge", "one_way"):
        margin = {"mode": "cross", "legs": legs}
        dense, skip = (
            perpbt.simulate(bars, table, venue=venue, margin=margin, engine=name) for name in ENGINES[1:]
        )
        same(dense, skip)
        once = perpbt.simulate(
            bars,
            table,
            venue=venue.replace(dated={name: own[:1] for name, own in dated.items()}),
            margin=margin,
        )
        assert rule == "size" or not once.extra["wallets"].equals(skip.extra["wallets"])
    assert (skip.accounts["exit_reason"] == "liquidation").any()


def test_a_wallet_meets_new_tiers_with_what_it_holds() -> None:
    """10x at 5 % maintenance stands at a tenth; on the day maintenance is 12 % it is liquidated at that day's first open."""
    price = dict.fromkeys(("open", "high", "low", "close"), [100.0] * 72)
    frames = [
        pl.DataFrame({"ts": [START + timedelta(hours=k) for k in range(72)], "symbol": [name] * 72, **price})
        for name in ("AAA", "BBB")
    ]
    day = START + timedelta(hours=48)
    rates = [((0.0, 1e9, rate, 20.0),) for rate in (0.05, 0.12)]
    venue = perpbt.Venue(
        name="made",
        surplus_to_fund=1.0,
        dated={name: [(START, rates[0]), (day, rates[1])] for name in ("AAA", "BBB")},
    )
    rows = pl.DataFrame(
        [
            {"account": account, "strategy": "made", "symbol": name, "side": "long", "entry_time": START, "collateral": 10.0,
             "leverage": 10.0, "reserve": reserve}
            for account, reserve in ((1, 0.0), (2, 2.5)) for name in ("AAA", "BBB")
        ]
    )  # fmt: skip
    for engine in ENGINES:
        done = perpbt.simulate(pl.concat(frames), rows, venue=venue, margin="cross", engine=engine)
        assert done.accounts["exit_reason"].to_list() == ["liquidation", "liquidation", "end", "end"]
        assert done.accounts["exit_time"][0] == day.replace(tzinfo=UTC)
        assert done.extra["wallets"]["worst_margin_ratio"].to_list() == [1.2, pytest.approx(24.0 / 25.0)]


def test_a_trailing_stop_of_a_wallet_follows_the_best_price() -> None:
    """Up to 130, then down: a stop 10 % below the best is at 117, seen from the high of the bar before."""
    closes = [100.0, 110.0, 125.0, 120.0, 105.0, 100.0]
    opens = [100.0, *closes[:-1]]
    highs = [101.0, 112.0, 130.0, 125.0, 120.0, 106.0]
    frame = pl.DataFrame(
        {"ts": [START + timedelta(hours=k) for k in range(6)], "symbol": ["AAA"] * 6, "open": opens, "high": highs,
         "low": [min(pair) for pair in zip(opens, closes, strict=True)], "close": closes}
    )  # fmt: skip
    row = {"account": 1, "strategy": "made", "symbol": "AAA", "side": "long", "entry_time": START, "collateral": 50.0,
           "leverage": 2.0, "trailing_stop": 0.1}  # fmt: skip
    venue = perpbt.Venue(name="made", tiers={"default": ((0.0, 1e9, 0.01, 125.0),)})
    for engine in ENGINES:
        done = perpbt.simulate(
            frame, pl.DataFrame([row]), venue=venue, margin="cross", engine=engine
        ).accounts
        assert done.select("exit_reason", "exit_price").row(0) == ("trailing_stop", 117.0)
        assert done["exit_time"][0] == (START + timedelta(hours=4)).replace(tzinfo=UTC)


def many(count: int, accounts: int, seed: int = 4) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Three symbols that leave each other's hours now and then; accounts of one to four positions."""
    rng, tails = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    frames = []
    for k, symbol in enumerate(("AAA", "BBB", "CCC")):
        frame = made_bars(count, symbol, seed=k + 1, mark=True, funding=True)
        calm = [
            (100.0 * (pl.col(name) / 100.0) ** 0.2).alias(name)
            for name in frame.columns
            if name[-4:] in ("open", "high", "lose", "_low") or name == "low"
        ]
        frames.append(
            frame.with_columns(calm).filter(~(pl.int_range(pl.len()) % 1000).is_between(50 * k, 50 * k + 9))
        )
    rows = []
    for account in range(accounts):
        same_size = rng.random() < 0.4
        for leg in range(int(rng.integers(1, 5))):
            rows.append(
                {
                    "account": account,
                    "strategy": "made",
                    "symbol": "AAA" if same_size else ("AAA", "BBB", "CCC")[rng.integers(3)],
                    "side": ("long", "short")[(leg if same_size else rng.integers(2)) % 2],
                    "entry_time": START
                    + timedelta(minutes=0 if same_size else int(rng.integers(0, count // 2))),
                    "collateral": 100.0,
                    "leverage": float(rng.choice([1.0, 3.0, 10.0])),
                    "stop_loss": None if rng.random() < 0.7 else 0.1,
                    "take_profit": None if rng.random() < 0.7 else 0.2,
                    "trailing_stop": None if tails.random() < 0.9 else 0.15,
                    "exit_time": None if rng.random() < 0.8 else START + timedelta(minutes=count * 3 // 4),
                }
            )
    numbers = dict.fromkeys(("stop_loss", "take_profit", "trailing_stop"), pl.Float64)
    return pl.concat(frames), pl.DataFrame(rows, schema_overrides=numbers)


# -------------------------------------------------------------------------------------------------- promises
def test_nothing_depends_on_the_order_of_rows_threads_or_names() -> None:
    bars, table = many(600, 40)
    table = table.with_row_index("place")
    whole = perpbt.simulate(bars, table.drop("place"), margin="cross")
    mixed = table.sample(fraction=1.0, shuffle=True, seed=3)
    other = perpbt.simulate(bars, mixed.drop("place"), margin="cross", threads=2)
    back = other.accounts.with_columns(mixed["place"]).sort("place").drop("place")
    dull = ("account", "position")  # positions are numbered in the order of the table
    assert whole.accounts.drop(dull).equals(back.drop(dull))
    assert whole.extra["wallets"].equals(other.extra["wallets"])
    assert whole.fund.equals(other.fund)


def test_the_money_of_a_wallet_is_that_of_its_rows() -> None:
    bars, table = many(1500, 80)
    for share in (0.0, 0.5, 1.0):
        venue = perpbt.load_venue("binance_um", dict.fromkeys(("AAA", "BBB", "CCC"), "BTCUSDT")).replace(
            surplus_to_fund=share
        )
        margin = {"mode": "cross", "close": "in_turn" if share == 0.5 else "at_once"}
        result = perpbt.simulate(bars, table, venue=venue, margin=margin)
        rows = result.accounts.filter(pl.col("rejection").is_null())
        kept = rows.group_by("account").agg(
            (pl.col("cash_change").sum()).alias("change"),
            pl.col("surplus").sum().alias("to_fund"),
            pl.col("deficit").sum().alias("owed"),
            (pl.col("collateral") + pl.col("top_up")).sum().alias("invested"),
        )
        both = kept.join(result.extra["wallets"], on="account")
        assert both.height == rows["account"].n_unique()
        for one in both.rows(named=True):
            assert one["wallet"] - one["brought"] == pytest.approx(one["change"], abs=1e-9 * one["brought"])
            assert one["invested"] == pytest.approx(one["brought"], rel=1e-12)
            assert one["surplus"] == pytest.approx(one["to_fund"], abs=1e-9)
            assert one["deficit"] == pytest.approx(one["owed"], abs=1e-9)
            assert one["wallet"] >= 0.0
    assert (rows["deficit"] > 0).any()


EQUAL = ("exit_reason", "rejection", "entry_time", "exit_time", "side")
CLOSE = (
    "entry_price",
    "quantity",
    "margin",
    "pnl",
    "funding",
    "fees",
    "worst_margin_ratio",
    "max_drawdown",
    "cash_change",
    "liquidation_price",
)


def test_one_position_behind_a_wallet_is_an_isolated_one() -> None:
    """But for a liquidation inside the range, which is filled at the extreme tested and not at the liquidation price."""
    bars, table = many(1500, 150)
    table = table.with_columns(account=pl.int_range(pl.len()), leverage=pl.col("leverage") * 2.5)
    alone = perpbt.simulate(bars, table).accounts
    wallet = perpbt.simulate(bars, table, margin="cross").accounts
    for name in EQUAL:
        assert alone[name].equals(wallet[name]), name
    inside = (pl.col("exit_reason") == "liquidation") & (pl.col("exit_price") != wallet["exit_price"])
    apart = alone.select(inside).to_series()
    assert 0.2 < apart.mean() < 0.9
    for name in CLOSE:
        a, b = alone.filter(~apart)[name], wallet.filter(~apart)[name]
        wrong = [
            (x, y)
            for x, y in zip(a, b, strict=True)
            if x is not None
            and not math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-9)
            and not (name == "liquidation_price" and x <= 0.0 == y)
        ]
        assert not wrong, name
    worse = wallet.filter(apart)["pnl"] <= alone.filter(apart)["pnl"] + 1e-9
    assert worse.all(), "the extreme is no better than the liquidation price"


def test_a_long_is_a_short_in_the_mirror() -> None:
    """Prices reflected at the entry price, requirements fixed at entry: the same money, bar for bar."""
    rng = np.random.default_rng(8)
    frames = []
    for sign in (1.0, -1.0):
        for k in range(2):
            walk = np.random.default_rng(k).integers(-8, 9, 300).cumsum() / 8.0
            opened = 256.0 + sign * np.concatenate([[0.0], walk[:-1]])
            close = 256.0 + sign * walk
            frames.append(
                pl.DataFrame(
                    {
                        "ts": [START + timedelta(hours=i) for i in range(300)],
                        "symbol": [f"S{k}{'+' if sign > 0 else '-'}"] * 300,
                        "open": opened, "high": np.maximum(opened, close), "low": np.minimum(opened, close), "close": close,
                    }
                )
            )  # fmt: skip
    rows = []
    for account in range(60):
        for k in range(2):
            side, entry = rng.integers(2), int(rng.integers(0, 100))
            for sign in "+-":
                rows.append(
                    {
                        "account": f"{account}{sign}", "strategy": "made", "symbol": f"S{k}{sign}",
                        "side": ("long", "short")[side ^ (sign == "-")], "entry_time": START,
                        "collateral": 64.0, "leverage": (4.0, 16.0, 64.0)[entry % 3],
                    }
                )  # fmt: skip
    venue = perpbt.Venue(
        name="made", maintenance_on="entry", tiers={"default": ((0.0, 1e9, 1 / 128, 125.0),)}
    )
    for test in ("close", "extremes"):
        done = perpbt.simulate(
            pl.concat(frames), pl.DataFrame(rows), venue=venue, margin={"mode": "cross", "test": test}
        )
        wallets = done.extra["wallets"].with_columns(pl.col("account").str.head(-1).alias("who"))
        up, down = (
            wallets.filter(pl.col("account").str.ends_with(s)).sort("who").drop("account") for s in "+-"
        )
        assert up.equals(down)
        assert (up["liquidations"] > 0).any()
        assert (up["liquidations"] == 0).any()


def test_hedged_accounts_outlive_unhedged_ones() -> None:
    bars, _ = many(4000, 1)
    rng = np.random.default_rng(1)
    rows = []
    for account in range(100):
        entry = START + timedelta(minutes=int(rng.integers(0, 2000)))
        for symbol, side in (
            ("AAA", "long"),
            ("AAA" if account % 2 else "BBB", "short" if account % 2 else "long"),
        ):
            rows.append(
                {"account": account, "strategy": "hedged" if account % 2 else "bare", "symbol": symbol, "side": side,
                 "entry_time": entry, "collateral": 100.0, "leverage": 10.0}
            )  # fmt: skip
    done = perpbt.simulate(bars, pl.DataFrame(rows), margin="cross").accounts
    lost = done.group_by("strategy").agg((pl.col("exit_reason") == "liquidation").mean()).sort("strategy")
    bare, hedged = lost["exit_reason"]
    assert bare > 0.3
    assert hedged == 0.0


# --------------------------------------------------------------------------------------- liquidation prices
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(("hedge", "one_way")))
def test_the_liquidation_price_is_where_equity_meets_maintenance(seed: int, legs: str) -> None:
    """Against the closed form of the venues (`perpbt.explaining.cross`), the other positions at their marks."""
    rng = np.random.default_rng(seed)
    symbols = ("AAA", "BBB", "CCC")
    bars = pl.concat(made_bars(3, name, seed=k, mark=True) for k, name in enumerate(symbols))
    tiers = ((0.0, 400.0, 0.005, 125.0), (400.0, 3000.0, 0.01, 125.0), (3000.0, 1e9, 0.05, 125.0))
    venue = perpbt.Venue(
        name="made", close_out_rate=float(rng.choice([0.0, 0.001])), tiers={"default": tiers}
    )
    rows = [
        {"account": 1, "strategy": "made", "symbol": name, "side": ("long", "short")[rng.integers(2)], "entry_time": START,
         "collateral": float(rng.uniform(50, 200)), "leverage": float(rng.uniform(2, 40)), "reserve": 25.0}
        for name in symbols
    ]  # fmt: skip
    done = perpbt.simulate(
        bars, pl.DataFrame(rows), venue=venue, margin={"mode": "cross", "legs": legs}
    ).accounts
    if done["rejection"].is_not_null().any():
        return
    last = done.row(2, named=True)  # opened last: all three are open
    first = bars.filter(pl.col("ts") == START)
    held = [
        Held(
            Position(row["side"], row["entry_price"], row["quantity"], 0.0),
            replace(Maintenance.brackets(row[:3] for row in tiers), close_out_rate=venue.close_out_rate),
            first.filter(pl.col("symbol") == row["symbol"])["mark_open"][0],
        )
        for row in done.rows(named=True)
    ]
    found = cross_liquidation_price(sum(row["collateral"] + row["reserve"] for row in rows), held, 2)
    assert done["fees"].sum() == 0.0
    if found.price is None:
        assert last["liquidation_price"] in (0.0, math.inf)
    else:
        assert last["liquidation_price"] == pytest.approx(found.price, rel=1e-9)


# --------------------------------------------------------------------------------------------- worked examples
def at_entry(
    positions: list[dict[str, Any]], venue: perpbt.Venue, wallet: float, **margin: str
) -> pl.DataFrame:
    """Rows of one account opened together, without costs, out of a wallet of this size; `mark` of each is that of the first bar."""
    bars, rows, left = [], [], wallet
    for one in positions:
        price = dict.fromkeys(("open", "high", "low", "close"), one["price"])
        marks = {f"mark_{name}": one.get("mark", one["price"]) for name in price}
        bars += [
            {"ts": START + timedelta(hours=k), "symbol": one["symbol"], **price, **marks} for k in range(2)
        ]
        collateral = one["price"] * one["quantity"] / 50.0
        left -= collateral
        rows.append(
            {"account": 1, "strategy": "made", "symbol": one["symbol"], "side": one["side"], "entry_time": START,
             "collateral": collateral, "leverage": 50.0}
        )  # fmt: skip
    table = pl.DataFrame(rows).with_columns(reserve=pl.lit(left / len(rows)))
    return perpbt.simulate(
        pl.DataFrame(bars), table, venue=venue, margin={"mode": "cross", **margin}
    ).accounts


@pytest.mark.parametrize("legs", ["hedge", "one_way"])
def test_binance_liquidation_price_of_two_positions(legs: str) -> None:
    """Binance's own example of a cross ETH position beside one in BTC, as freqtrade's tests have it: 1,153.26."""
    tiers = {
        "ETHUSDT": ((0.0, 135_365 / 0.095, 0.005, 125.0), (135_365 / 0.095, 1e9, 0.1, 125.0, 135_365.0)),
        "BTCUSDT": ((0.0, 815_000.0, 0.005, 125.0), (815_000.0, 1e9, 0.025, 125.0, 16_300.0)),
    }
    positions = [
        {"symbol": "ETHUSDT", "side": "long", "price": 1456.84, "quantity": 3683.979},
        {"symbol": "BTCUSDT", "side": "long", "price": 32481.98, "quantity": 109.488, "mark": 31967.27},
    ]
    done = at_entry(positions, perpbt.Venue(name="made", tiers=tiers), 1_535_443.01, legs=legs)
    assert round(done["liquidation_price"][0], 2) == 1153.26


def test_binance_liquidation_price_of_a_short() -> None:
    """Binance (2020): wallet 10.72, maintenance 1.3 and profit 0.47 of other positions, 0.005 BTC short at 9,451.53, 0.4 %: 11,383.99."""
    venue = perpbt.Venue(name="made", tiers={"default": ((0.0, 1e9, 0.004, 125.0),)})
    short = [{"symbol": "BTCUSDT", "side": "short", "price": 9451.53, "quantity": 0.005}]
    assert round(at_entry(short, venue, 10.72 - 1.3 + 0.47)["liquidation_price"][0], 2) == 11_383.99


def test_bitmex_linear_cross() -> None:
    """BitMEX, isolated margin examples: 10,000 USDT behind 20 ETHUSDT at 1,000, maintenance 1 % at entry: liquidated at 510."""
    venue = perpbt.Venue(name="made", maintenance_on="entry", tiers={"default": ((0.0, 1e9, 0.01, 125.0),)})
    done = at_entry(
        [{"symbol": "ETHUSDT", "side": "long", "price": 1000.0, "quantity": 20.0}], venue, 10_000.0
    )
    assert done["liquidation_price"][0] == pytest.approx(510.0, rel=1e-12)


def test_bitmex_isolated_against_cross() -> None:
    """BitMEX, isolated margin examples: 100 XBT at 100 behind 4 XBT, liquidated at 97; at 94 the isolated position has lost its 4, the
    cross one, still open, is 6 down.
    """
    price = {
        "open": [100.0, 97.0, 94.0],
        "high": [100.0, 97.0, 94.0],
        "low": [97.0, 94.0, 94.0],
        "close": [97.0, 94.0, 94.0],
    }
    bars = pl.DataFrame(
        {"ts": [START + timedelta(hours=k) for k in range(3)], "symbol": ["XBT"] * 3, **price}
    )
    venue = perpbt.Venue(name="made", maintenance_on="entry", tiers={"default": ((0.0, 1e9, 0.01, 125.0),)})
    row = {
        "account": 1,
        "strategy": "made",
        "symbol": "XBT",
        "side": "long",
        "entry_time": START,
        "collateral": 4.0,
        "leverage": 25.0,
    }
    table = pl.DataFrame([row])
    for engine in ENGINES:
        alone = perpbt.simulate(bars, table, venue=venue, engine=engine).accounts.row(0, named=True)
        assert alone["liquidation_price"] == pytest.approx(97.0, rel=1e-12)
        assert (alone["exit_reason"], alone["cash_change"]) == ("liquidation", -4.0)
        both = perpbt.simulate(
            bars, table.with_columns(reserve=pl.lit(6.0)), venue=venue, margin="cross", engine=engine
        ).accounts.row(0, named=True)
        assert (both["exit_reason"], both["pnl"]) == ("end", -6.0)


@pytest.mark.parametrize(
    ("fall", "gone"), [(12.0, {"AAA"}), (15.0, {"AAA", "BBB"}), (45.0, {"AAA", "BBB", "CCC"})]
)
def test_symbols_are_liquidated_in_turn(fall: float, gone: set[str]) -> None:
    """Longs of 1,000, 500 and 250 behind 175 and a reserve of 125, maintenance a tenth: all fall, and that which must keep most goes first.

    A fall of 12 costs 210 and leaves 90 for 154; without AAA 66 need be kept. One of 15 leaves 37.5, less than the 63.75 without AAA, but
    not than the 21.25 of CCC alone. One of 45 leaves nothing.
    """
    bars = pl.concat(
        pl.DataFrame(
            {"ts": [START + timedelta(hours=k) for k in range(4)], "symbol": [name] * 4,
             **{column: [100.0, 100.0, 100.0 - fall, 100.0 - fall] for column in ("open", "high", "low", "close")}}
        )
        for name in ("AAA", "BBB", "CCC")
    )  # fmt: skip
    rows = pl.DataFrame(
        [
            {"account": 1, "strategy": "made", "symbol": name, "side": "long", "entry_time": START, "collateral": money,
             "leverage": 10.0, "reserve": reserve}
            for name, money, reserve in (("AAA", 100.0, 125.0), ("BBB", 50.0, 0.0), ("CCC", 25.0, 0.0))
        ]
    )  # fmt: skip
    venue = perpbt.Venue(
        name="made", tiers={"default": ((0.0, 1e9, 0.1, 125.0),)}, surplus_to_fund=1.0, liquidation_fee=0.001
    )
    for engine in ENGINES:
        margin = {"mode": "cross", "close": "in_turn"}
        done = perpbt.simulate(bars, rows, venue=venue, margin=margin, engine=engine)
        accounts, wallet = done.accounts, done.extra["wallets"].row(0, named=True)
        assert set(accounts.filter(pl.col("exit_reason") == "liquidation")["symbol"]) == gone
        assert wallet["liquidations"] == 1
        assert accounts["surplus"].sum() == 0.0
        turned = sum(
            row["quantity"] * row["exit_price"] for row in accounts.to_dicts() if row["symbol"] in gone
        )
        if len(gone) < 3:
            assert accounts["liquidation_fee"].sum() == pytest.approx(0.001 * turned)
            assert wallet["wallet"] == pytest.approx(300.0 - 17.5 * fall - 0.001 * turned)
        else:
            assert wallet["wallet"] == 0.0
            assert accounts.filter(pl.col("deficit") > 0.0)["symbol"].to_list() == ["CCC"]


def test_equity_goes_to_positions_by_their_maintenance() -> None:
    """dYdX v4 allocates an account's equity pro rata to maintenance margin: a deficit of 90 by 1 : 2 over notionals of 1 : 2."""
    bars = pl.concat(
        pl.DataFrame(
            {"ts": [START + timedelta(hours=k) for k in range(3)], "symbol": [name] * 3,
             **{column: [100.0, 100.0, 55.0] for column in ("open", "high", "low", "close")}}
        )
        for name in ("AAA", "BBB")
    )  # fmt: skip
    rows = pl.DataFrame(
        [
            {"account": 1, "strategy": "made", "symbol": name, "side": "long", "entry_time": START, "collateral": money,
             "leverage": 10.0}
            for name, money in (("AAA", 10.0), ("BBB", 20.0))
        ]
    )  # fmt: skip
    venue = perpbt.Venue(name="made", tiers={"default": ((0.0, 1e9, 0.1, 125.0),)})
    refused = perpbt.simulate(bars, rows, venue=venue, margin="cross").accounts
    assert (refused["rejection"] == "liquidated_at_entry").all(), (
        "margin of a tenth is maintenance of a tenth"
    )
    done = perpbt.simulate(bars, rows.with_columns(reserve=pl.lit(7.5)), venue=venue, margin="cross").accounts
    assert done["exit_reason"].to_list() == ["liquidation"] * 2
    assert done["deficit"].to_list() == pytest.approx([30.0, 60.0])
    assert done["pnl"].to_list() == pytest.approx([-45.0, -90.0])
