"""Inverse and quanto contracts, multipliers, lots and ticks through the engines: against the oracle with `==`, against each other,
against closed forms, and against worked examples that venues have printed.
"""

from __future__ import annotations

import itertools
import math
import os
from datetime import timedelta
from pathlib import Path

import made_markets
import polars as pl
import pytest
import test_engine_equals_oracle as linear
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import perpbt
from perpbt import oracle
from perpbt.contracts import Contract, Maintenance, Position, liquidation_price
from perpbt.errors import InputError
from perpbt.venue import Venue

DATA = Path(os.environ.get("PERPBT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
DAY = DATA / "lean_cryptofuture_1m_20221213.parquet"
MADE = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
COIN = 128.0  # what made money is divided by: prices are about 100 in quote currency
STEPS = st.tuples(st.sampled_from((None, 1.0, 0.3, 25.0)), st.sampled_from((None, 0.5, 0.3)))
HOUR = timedelta(hours=1)


# ---------------------------------------------------------------------------------------------- made markets
def in_coin(market, venue):
    """A made market whose accounts hold coin, and a venue whose tiers are in it."""
    accounts = [account | {"collateral": account["collateral"] / COIN} for account in market["accounts"]]
    frame = market["accounts_frame"].with_columns(pl.col("collateral") / COIN)
    money = ("floor", "cap", "deduction")
    tiers = [tier | {name: tier[name] / COIN for name in money} for tier in venue["tiers"]]
    return market | {"accounts": accounts, "accounts_frame": frame}, venue | {"tiers": tiers}


def whole_numbers(step, multiplier=1.0):
    """A step as the oracle takes it."""
    return step and {
        1.0: (int(multiplier), 1), 0.3: (3 * int(multiplier), 10), 0.5: (1, 2), 25.0: (25 * int(multiplier), 1),
    }[step]  # fmt: skip


def stated(kind, multiplier, lot, tick):
    """The venue's table, and what it means to the oracle."""
    table = {"kind": kind, "multiplier": multiplier, "settlement": "BTC", "volume": "contracts"}
    table |= {name: step for name, step in (("lot", lot), ("tick", tick)) if step}
    if kind == "inverse":
        table["volume"] = "base"
    told = {"inverse": kind == "inverse", "lot": whole_numbers(lot, multiplier), "tick": whole_numbers(tick)}
    return {"contract": table}, told


def rounding_of(told):
    """What to ask for: the steps that are stated."""
    return {(True, True): "both", (True, False): "lot", (False, True): "tick", (False, False): "none"}[
        bool(told["lot"]), bool(told["tick"])
    ]


def funding_of(bars, events, kind):
    """CF: the sum of rate * mark, or of rate / mark."""
    if kind != "inverse":
        return oracle.cumulative_funding(bars, events)
    return oracle.cumulative_funding(
        [{**bar, "turned": 1 / bar["mark_open"]} for bar in bars], events, "turned"
    )


def oracle_rows(market, venue, rules, kind, multiplier=1.0):
    """The oracle's row of every account, quantities in contracts."""
    rows = []
    for account in market["accounts"]:
        bars = market["bars"][account["symbol"]]
        cf = funding_of(bars, market["funding"][account["symbol"]], kind)
        start = oracle.first_bar(bars, account["entry_time"])
        row = oracle.run_position(bars, cf, made_markets.order(account), venue, rules, start)
        rows.append(row | {name: account[name] for name in ("account", "world", "symbol", "weight")})
    return rows


def counted(rows, multiplier):
    """Quantities in contracts."""
    return [
        row if row["quantity"] is None else row | {"quantity": row["quantity"] / multiplier} for row in rows
    ]


def compare(market, venue, rules, stated_table, told, *, kind, multiplier=1.0, engine="skip", crowding=False):
    """Rows with `==`, the ledger to 1e-12."""
    bars = market["bars"]
    if kind == "quanto":  # a volume in contracts, of `multiplier` coin each
        bars = {
            symbol: [bar | {"volume": bar["volume"] and bar["volume"] * multiplier} for bar in own]
            for symbol, own in bars.items()
        }
    rows = oracle_rows(market | {"bars": bars}, venue | told, rules, kind)
    rows, fund = oracle.settle(rows, bars, venue, crowding=crowding)
    rules = rules | {"rounding": rounding_of(told)}
    found, ledger = linear.engine_simulate(
        market, venue | stated_table, rules, engine=engine, crowding=crowding
    )
    if "world" not in market["accounts_frame"].columns:
        found, ledger = ([row | {"world": "all"} for row in lines] for lines in (found, ledger))
    linear.compare_rows(found, counted(rows, multiplier))
    linear.compare_ledgers(ledger, fund)


@pytest.mark.parametrize("engine", ["skip", "dense"])
@MADE
@given(made_markets.markets(), made_markets.venues(), made_markets.rules(), STEPS, st.booleans())
def test_inverse_positions_on_made_bars(engine, market, venue, rules, steps, crowding):
    market, venue = in_coin(market, venue | {"fund_scope": "symbol"})
    table, told = stated("inverse", 1.0, *steps)
    compare(market, venue, rules, table, told, kind="inverse", engine=engine, crowding=crowding)


@settings(MADE, max_examples=15)
@given(made_markets.markets(max_bars=25), made_markets.venues(), made_markets.rules(), STEPS)
def test_the_oracle_as_an_engine_gives_the_same_of_inverse_contracts(market, venue, rules, steps):
    market, venue = in_coin(market, venue | {"fund_scope": "symbol"})
    table, told = stated("inverse", 1.0, *steps)
    compare(market, venue, rules, table, told, kind="inverse", engine="oracle")


@pytest.mark.parametrize("engine", ["skip", "dense"])
@MADE
@given(made_markets.markets(), made_markets.venues(), made_markets.rules(), STEPS)
def test_lots_and_ticks_of_linear_contracts(engine, market, venue, rules, steps):
    table, told = stated("linear", 1.0, *steps)
    table["contract"]["volume"] = "base"
    compare(market, venue, rules, table, told, kind="linear", engine=engine)


@settings(MADE, max_examples=15)
@given(made_markets.markets(), made_markets.venues(), made_markets.rules(), STEPS, st.booleans())
def test_quanto_positions_on_made_bars(market, venue, rules, steps, crowding):
    """A multiplier of 4 coin to the unit of quote currency: a number whose products are exact."""
    table, told = stated("quanto", 4.0, *steps)
    venue = venue | {"fund_scope": "symbol"}
    compare(market, venue, rules, table, told, kind="quanto", multiplier=4.0, crowding=crowding)


@pytest.mark.parametrize("engine", ["skip", "dense"])
@MADE
@given(st.data())
def test_policies_on_inverse_contracts(engine, data):
    """Door b: stops by price, margin, average true range and column, trailing stops, margin calls, risk sizing."""
    market, venue = in_coin(data.draw(made_markets.markets(max_accounts=1)), data.draw(made_markets.venues()))
    rules, policy, symbol = data.draw(made_markets.rules()), data.draw(made_markets.policies()), "AAA"
    policy["capital"] /= COIN
    if policy["sizing"]["kind"] == "collateral":
        policy["sizing"] = policy["sizing"] | {"amount": policy["sizing"]["amount"] / COIN}
    table, told = stated("inverse", 1.0, *data.draw(STEPS))
    bars = market["bars"][symbol]
    signals = data.draw(made_markets.signals(bars))
    known = dict(policy)
    for name in ("stop", "take_profit"):
        if policy[name] and policy[name]["kind"] == "atr":
            known[name] = policy[name] | {"series": linear.engine_atr(market, symbol, policy[name]["window"])}
        if policy[name] and policy[name]["kind"] == "column":
            known[name] = policy[name] | {"series": signals[policy[name]["name"]]}
    cf = funding_of(bars, market["funding"][symbol], "inverse")
    starts = linear.engine_starts(bars, 2)
    wanted = [oracle.run_account(bars, cf, signals, known, venue | told, rules, start) for start in starts]
    result = perpbt.backtest(
        linear.engine_bars(market, [symbol]),
        linear.engine_strategy(bars, signals),
        linear.engine_policy(policy),
        venue=linear.engine_venue(venue | table),
        rules=linear.engine_rules(rules | {"rounding": rounding_of(told)}),
        offsets=2,
        engine=engine,
    )
    rows = linear.plain(result.accounts)
    wanted = [row for rows in wanted for row in rows]
    assert [row["exit_reason"] for row in rows] == [row["exit_reason"] for row in wanted]
    found = [linear.differences(row, want) for row, want in zip(rows, wanted, strict=True)]
    assert [fields for fields in found if fields] == []


# ------------------------------------------------------------------------------------------------- by hand
def history(*prices, symbol="BTCUSD", funding=()):
    """Bars an hour long, each from one price to the next; `funding` maps a bar's number to a rate."""
    rows = [
        {"ts": made_markets.START + i * made_markets.HOUR, "open": a, "high": max(a, b), "low": min(a, b), "close": b}
        for i, (a, b) in enumerate(itertools.pairwise(prices))
    ]  # fmt: skip
    return made_markets.timed(
        {
            "ts": [row["ts"] for row in rows],
            "symbol": [symbol] * len(rows),
            **{name: [row[name] for row in rows] for name in made_markets.LAST},
            "funding_rate": [dict(funding).get(i) for i in range(len(rows))],
        },
        {"ts": made_markets.TIME, "symbol": pl.String}
        | dict.fromkeys((*made_markets.LAST, "funding_rate"), pl.Float64),
    )


def position(**wishes):
    """A table of one account that enters at the first bar."""
    row = {
        "account": "a",
        "strategy": "s",
        "symbol": "BTCUSD",
        "side": "long",
        "leverage": 1.0,
        "collateral": 1.0,
    }
    row |= {"entry_time": made_markets.START} | wishes
    kinds = dict.fromkeys(("entry_time", "exit_time"), made_markets.TIME)
    kinds |= dict.fromkeys(("account", "strategy", "symbol", "side"), pl.String)
    return made_markets.timed(
        {name: [value] for name, value in row.items()}, {name: kinds.get(name, pl.Float64) for name in row}
    )


def venue_of(kind="inverse", *, rate=0.005, deduction=None, **fields):
    """A venue of one tier without costs but those given."""
    table = {"kind": kind, "settlement": "BTC"} | fields.pop("contract", {})
    tier = (0.0, 1e9, rate, 200.0) if deduction is None else None
    tiers = {"default": [tier]} if tier else fields.pop("tiers")
    return Venue(name="made", tiers=tiers, contract=table, **fields)


def run(bars, accounts, venue, **options):
    """The only row."""
    return perpbt.simulate(bars, accounts, venue=venue, **options).accounts.row(0, named=True)


def exit_at(number):
    """The open of a bar."""
    return made_markets.START + number * made_markets.HOUR


@pytest.mark.parametrize(
    ("source", "side", "face", "entry", "left", "expected"),
    [
        ("OKEx futures documentation of 2020", "long", 100.0, 500.0, 1_000.0, 0.1),
        ("OKEx futures documentation of 2020", "short", 800.0, 1_000.0, 500.0, 0.8),
        ("OKEx futures documentation of 2020, as printed", "short", 800.0, 500.0, 1_000.0, -0.8),
        ("bitmex.com/app/inversePerpetualsGuide", "long", 1_000.0, 1_000.0, 1_250.0, 0.2),
        ("bitmex.com/app/inversePerpetualsGuide", "long", 500.0, 1_000.0, 1_500.0, 0.16666666666666666),
        ("bitmex.com/app/inversePerpetualsGuide", "long", 500.0, 1_000.0, 1_250.0, 0.1),
    ],
)
def test_printed_profits_of_inverse_contracts(source, side, face, entry, left, expected):
    """Examples G20 and G21: the coin earned by so much face value."""
    accounts = position(side=side, collateral=face / entry, exit_time=exit_at(2))
    if side == "short" and expected < 0:  # at 1x short, coin worth its whole value is lost only at infinity
        accounts = accounts.with_columns(leverage=pl.lit(0.5), collateral=pl.lit(2 * face / entry))
    row = run(history(entry, entry, left, left), accounts, venue_of(rate=1e-12))
    assert row["exit_reason"] == "time", source
    assert row["quantity"] == pytest.approx(face, rel=1e-12)
    assert row["pnl"] == pytest.approx(expected, rel=1e-12)
    assert row["cash_change"] == pytest.approx(expected, rel=1e-12)


def test_printed_profit_of_linear_contracts():
    """G20: 100 contracts of 0.0001 BTC from 5,000 to 10,000 earn 50 USDT; 200 such are what 100 USDT opens at 1x."""
    venue = venue_of("linear", contract={"multiplier": 0.0001, "settlement": "USDT"})
    row = run(
        history(5_000.0, 5_000.0, 10_000.0, 10_000.0), position(collateral=50.0, exit_time=exit_at(2)), venue
    )
    assert row["quantity"] == pytest.approx(100.0, rel=1e-12)
    assert row["pnl"] == pytest.approx(50.0, rel=1e-12)


@pytest.mark.parametrize(("side", "sign"), [("long", 1.0), ("short", -1.0)])
def test_printed_funding_of_inverse_contracts(side, sign):
    """BitMEX, G22 and G23: 15,000 contracts at 750 are 20 XBT; at 0.25 % they pay 0.05, and earn 1.25 to 800: 1.20 in all."""
    bars = history(750.0, 750.0, 750.0, 800.0, 800.0, funding={2: 0.0025})
    row = run(bars, position(side=side, collateral=20.0, exit_time=exit_at(3)), venue_of(rate=1e-12))
    assert row["quantity"] == pytest.approx(15_000.0, rel=1e-12)
    assert row["funding"] == pytest.approx(-0.05 * sign, rel=1e-12)
    assert row["pnl"] == pytest.approx(1.25 * sign, rel=1e-12)
    assert row["cash_change"] == pytest.approx(1.2 * sign, rel=1e-12)


def test_printed_value_of_a_quanto_contract():
    """BitMEX, G25: 10,000 ETHUSD of 1e-6 XBT at 500 are worth 5 XBT, and take 0.1 XBT of margin at 2 %."""
    venue = venue_of("quanto", contract={"multiplier": 1e-6, "settlement": "XBT"})
    accounts = position(symbol="ETHUSD", collateral=0.1, leverage=50.0, exit_time=exit_at(2))
    row = run(history(500.0, 500.0, 501.0, 501.0, symbol="ETHUSD"), accounts, venue)
    assert row["quantity"] == pytest.approx(10_000.0, rel=1e-12)
    assert row["margin"] == pytest.approx(0.1, rel=1e-12)
    assert row["pnl"] == pytest.approx(10_000 * 1e-6 * 1.0, rel=1e-12)


def test_printed_bankruptcy_price_of_an_inverse_contract():
    """Bybit, G14: a 50x long from 7,890.08 is bankrupt at 7,735.372549, on the tick above 7,735.50; G13 at 5,718.57 without fee."""
    bars = history(7_890.08, 7_890.08, 7_890.08)
    row = run(bars, position(leverage=50.0), venue_of())
    assert row["bankruptcy_price"] == pytest.approx(7_735.372549, abs=5e-7)
    assert Contract("inverse", tick=0.5).round_threshold("long", row["bankruptcy_price"]) == 7_735.5


def test_printed_liquidation_price_of_coin_margined_contracts():
    """Binance, G18: 100,000 contracts of 100 USD long at 45,000 on 101 BTC, 12.5 % less 11.81: 33,578.859744834."""
    value = 100_000 * 100 / 45_000.0
    tiers = {"default": [(0.0, 94.48, 1e-12, 125.0, 0.0), (94.48, 1e6, 0.125, 125.0, 11.81)]}
    venue = venue_of(contract={"multiplier": 100.0}, deduction=True, tiers=tiers)
    row = run(history(45_000.0, 45_000.0), position(leverage=value / 101.0, collateral=101.0), venue)
    assert row["quantity"] == pytest.approx(100_000.0, rel=1e-12)
    assert row["liquidation_price"] == pytest.approx(33_578.859744834, rel=1e-12)


def test_an_inverse_long_at_1x_is_a_short_of_the_dollar():
    """Closed form: holding coin and a 1x short loses nothing in dollars whatever the price; a 1x long has half its coin at half price."""
    for left, side in itertools.product((5_000.0, 10_000.0, 40_000.0), ("long", "short")):
        accounts = position(side=side, leverage=0.5, collateral=2.0, exit_time=exit_at(2))
        row = run(history(10_000.0, 10_000.0, left, left), accounts, venue_of(rate=1e-12))
        sign = 1.0 if side == "long" else -1.0
        assert row["pnl"] == pytest.approx(sign * 10_000.0 * (1 / 10_000.0 - 1 / left), rel=1e-12)
    hedged = position(side="short", leverage=1.0, collateral=1.0, exit_time=exit_at(2))
    for left in (5_000.0, 20_000.0, 1e6):
        row = run(history(10_000.0, 10_000.0, left, left), hedged, venue_of(rate=1e-12))
        assert row["exit_reason"] == "time"
        assert row["liquidation_price"] == math.inf
        assert (1.0 + row["pnl"]) * left == pytest.approx(10_000.0, rel=1e-12)


def test_an_inverse_book_against_a_linear_one():
    """To first order alike in coin; a long loses more of it than a linear one on the way down, and is liquidated sooner."""
    inverse = position(leverage=10.0, collateral=1.0)
    straight = position(leverage=10.0, collateral=10_000.0, symbol="BTCUSD")
    bars = history(10_000.0, 10_000.0, 9_500.0, 9_500.0)
    coin, money = run(bars, inverse, venue_of()), run(bars, straight, venue_of("linear"))
    assert coin["pnl"] == pytest.approx(10 * (1 - 10_000 / 9_500), rel=1e-12)
    assert money["pnl"] == pytest.approx(-5_000.0, rel=1e-12)
    assert coin["pnl"] * 9_500.0 == pytest.approx(money["pnl"], rel=1e-12)
    assert coin["liquidation_price"] > money["liquidation_price"]


@pytest.mark.parametrize("kind", ["linear", "inverse", "quanto"])
@pytest.mark.parametrize("side", ["long", "short"])
@pytest.mark.parametrize("basis", ["mark", "entry"])
def test_liquidation_prices_solve_equity_against_maintenance(kind, side, basis):
    """As `perpbt.contracts` states it, to 1e-9; a mark just inside lives on, one just beyond does not."""
    multiplier = {"linear": 0.01, "inverse": 100.0, "quanto": 1e-6}[kind]
    rows = [(0.0, 1.0, 0.005, 100.0), (1.0, 5.0, 0.01, 100.0), (5.0, 1e9, 0.05, 100.0)]
    scale = 1.0 if kind != "linear" else 1e4
    tiers = {"default": [(a * scale, b * scale, rate, most) for a, b, rate, most in rows]}
    venue = venue_of(
        kind, contract={"multiplier": multiplier}, tiers=tiers, deduction=True, maintenance_on=basis,
        close_out_rate=0.0005, taker_fee=0.0004,
    )  # fmt: skip
    contract, rule = (
        venue.terms("contract"),
        Maintenance.brackets((a * scale, b * scale, r) for a, b, r, _ in rows),
    )
    rule = Maintenance(rule.bands, on=basis, close_out_rate=0.0005)
    for leverage, collateral in itertools.product((2.0, 8.0, 15.0), (0.03, 0.2, 1.1)):
        accounts = position(side=side, leverage=leverage, collateral=collateral * scale)
        row = run(history(7_000.0, 7_000.0), accounts, venue)
        held = Position(side, row["entry_price"], row["quantity"], row["margin"], contract)
        wanted = liquidation_price(held, rule).price
        assert wanted is not None
        assert row["liquidation_price"] == pytest.approx(wanted, rel=1e-9)
        kept = rule.required(held, row["liquidation_price"])
        assert held.equity(row["liquidation_price"]) == pytest.approx(
            kept, rel=1e-9, abs=1e-9 * row["margin"]
        )
        for beyond, reason in ((1e-9, "liquidation"), (-1e-9, "end")):
            way = -1.0 if side == "long" else 1.0
            mark = wanted * (1 + way * beyond)
            assert run(history(7_000.0, mark), accounts, venue)["exit_reason"] == reason


def test_long_and_short_mirror_each_other_in_reciprocals():
    """A long at P and a short at k / P earn the same coin, if their prices are one another's reciprocals, funding turned."""
    prices = (100.0, 90.0, 160.0, 80.0, 125.0)
    turned = tuple(12_800.0 / price for price in prices)
    funding = {2: 0.01, 3: -0.02}
    accounts = position(leverage=1.5, collateral=3.0, exit_time=exit_at(3))
    one = run(history(*prices, funding=funding), accounts, venue_of("inverse", rate=0.01))
    # in y = 1 / P a long is a short at linear prices; 12,800 / P only changes the unit
    other = run(
        history(*turned, funding={at: -rate for at, rate in funding.items()}),
        accounts.with_columns(side=pl.lit("short")), venue_of("linear", rate=0.01),
    )  # fmt: skip
    for name in ("pnl", "funding", "fees", "cash_change", "max_drawdown", "worst_margin_ratio"):
        assert one[name] == pytest.approx(other[name], rel=1e-9, abs=1e-12)


def test_rounding_needs_the_steps():
    """Asked for, but not stated: refused, for every door, and told where to state them."""
    bars, accounts = history(100.0, 100.0, symbol="ETHUSDT"), position(symbol="ETHUSDT", collateral=100.0)
    with pytest.raises(InputError, match=r"states no contract\.ETHUSDT\.tick"):
        run(bars, accounts, venue_of("linear", contract={"lot": 0.1}), rules={"rounding": "both"})
    assert run(bars, accounts, "binance_um", rules={"rounding": "lot"})["quantity"] == 0.999
    other, same = accounts.with_columns(symbol=pl.lit("SOLUSDT")), bars.with_columns(symbol=pl.lit("SOLUSDT"))
    with pytest.raises(InputError, match=r"states no contract\.SOLUSDT\.lot"):
        run(same, other, "binance_um", rules={"rounding": "lot"})


def test_lots_ticks_and_refusals():
    """Whole lots are bought and the rest of the money stays free; less than one lot is refused; a tick is met sooner."""
    venue = venue_of("linear", contract={"lot": 0.1, "tick": 0.5, "settlement": "USDT"}, taker_fee=0.001)
    bars = history(100.0, 100.0, 99.0)
    wide, both = run(bars, position(collateral=57.0), venue), {"rounding": "both"}
    assert wide["quantity"] == pytest.approx(57 / 1.001 / 100, rel=1e-12), "off by default"
    row = run(bars, position(collateral=57.0), venue, rules=both)
    assert (row["quantity"], row["margin"]) == (0.5, 50.0)
    assert row["collateral"] == 50.05
    assert run(bars, position(collateral=5.7), venue, rules=both)["rejection"] == "below_one_lot"
    stopped = run(bars, position(collateral=57.0, stop_loss=0.008), venue, rules=both)
    assert (stopped["exit_reason"], stopped["exit_price"]) == ("stop_loss", 99.5)
    assert run(bars, position(collateral=57.0, stop_loss=0.008), venue)["exit_price"] == pytest.approx(99.2)
    at_entry = run(bars, position(collateral=57.0, stop_loss=0.0012), venue, rules=both)
    assert at_entry["rejection"] == "stop_beyond_entry", "its tick is the entry price"


def test_a_liquidation_price_stands_on_the_tick_that_is_met_first():
    """Bybit: up for a long, down for a short; liquidated there, a little before the margin is gone."""
    for kind, side in itertools.product(("linear", "inverse"), ("long", "short")):
        contract = {"tick": 5.0, "settlement": "BTC"}
        venue, rules = venue_of(kind, contract=contract), {"rounding": "tick"}
        accounts = position(side=side, leverage=20.0, collateral=1.0 if kind == "inverse" else 8_000.0)
        exact = run(history(8_000.0, 8_000.0), accounts, venue)["liquidation_price"]
        row = run(history(8_000.0, 8_000.0), accounts, venue, rules=rules)
        up = side == "long"
        wanted = 5.0 * (math.ceil(exact / 5.0) if up else math.floor(exact / 5.0))
        assert row["liquidation_price"] == pytest.approx(wanted, rel=1e-14)
        between = (exact + wanted) / 2
        assert run(history(8_000.0, between), accounts, venue, rules=rules)["exit_reason"] == "liquidation"
        assert run(history(8_000.0, between), accounts, venue)["exit_reason"] == "end"


# --------------------------------------------------------------------------------------------- a real day
def test_a_real_day_of_an_inverse_contract():
    """BTCUSD of 13 December 2022 on two venues: engines alike, money conserved, profits as the formula says."""
    if not DAY.exists():
        pytest.skip(f"no real data at {DAY}: set PERPBT_DATA to the folder that holds it")
    bars = (
        pl.read_parquet(DAY).filter(pl.col("symbol") == "BTCUSD", pl.col("venue") == "binance").drop("venue")
    )
    begin = bars["ts"].min()
    accounts = pl.DataFrame(
        {
            "account": [str(k) for k in range(240)],
            "strategy": ["s"] * 240,
            "symbol": ["BTCUSD"] * 240,
            "side": ["long" if k % 2 else "short" for k in range(240)],
            "entry_time": [begin + timedelta(minutes=5 * k) for k in range(240)],
            "collateral": [0.1 + 0.01 * k for k in range(240)],
            "leverage": [(3.0, 25.0, 60.0, 100.0)[k % 4] for k in range(240)],
            "stop_loss": [None if k % 3 else 0.01 for k in range(240)],
            "trailing_stop": [None if k % 5 else 0.02 for k in range(240)],
        }
    )
    contract = {"multiplier": 100.0, "settlement": "BTC", "volume": "contracts"}
    venue = venue_of(
        contract=contract, rate=0.004, taker_fee=0.0005, slippage=0.0002, impact=1.0, half_spread=1e-4
    )
    results = [
        perpbt.simulate(bars, accounts, venue=venue, engine=engine) for engine in ("skip", "dense", "oracle")
    ]
    for other in results[1:]:
        assert results[0].accounts.equals(other.accounts)
        assert results[0].fund.equals(other.fund)
    rows = results[0].accounts
    assert {"liquidation", "stop_loss", "end"} <= set(rows["exit_reason"])
    side = pl.when(pl.col("side") == "long").then(1.0).otherwise(-1.0)
    profit = side * pl.col("quantity") * 100.0 * (1 / pl.col("entry_price") - 1 / pl.col("exit_price"))
    error = rows.select((profit - pl.col("pnl")).abs() / (pl.col("collateral") * pl.col("leverage")))
    assert float(error.to_series().max()) < 1e-12
    flows = (
        pl.col("cash_change")
        + pl.col("fees")
        + pl.col("liquidation_fee")
        + pl.col("surplus")
        - pl.col("deficit")
    )
    gap = rows.select((flows - pl.col("pnl") - pl.col("funding")).abs() / pl.col("collateral")).to_series()
    assert float(gap.max()) < 1e-12
