"""Coin-margined and quanto contracts where accounts meet: the engine against the naive coupled oracle with `==`, and by hand.

Books are those of `coupled_books`, their money turned into coin as in `test_inverse`.
"""

from __future__ import annotations

import math
import os

import coupled_books as coupled
import made_markets as made
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_coupled_strategies import strategies, with_series
from test_coupling import (
    FREE,
    accounts_of,
    bars_of,
    couplings,
    oracle_options,
    same_ledger,
    same_rows,
    seeded,
)
from test_engine_equals_oracle import (
    differences,
    engine_bars,
    engine_policy,
    engine_rules,
    engine_starts,
    engine_strategy,
    engine_venue,
    plain,
)
from test_inverse import COIN, STEPS, counted, funding_of, in_coin, rounding_of, stated

import perpbt
from perpbt import oracle

MADE = settings(
    max_examples=int(os.environ.get("PERPBT_EXAMPLES", "30")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@MADE
@given(
    coupled.books(), made.venues(), made.rules(), couplings(), STEPS, st.sampled_from((0.0, 0.0, 2.0)), st.booleans(),
    st.sampled_from(("skip", "dense")), st.sampled_from((("inverse", 1.0), ("inverse", 128.0), ("quanto", 0.5))),
)  # fmt: skip
def test_deleveraging_of_coin_contracts_is_that_of_the_oracle(
    book, venue, rules, coupling, steps, seed, crowding, engine, contract
):
    spec, adl = coupling
    kind, multiplier = contract
    book, venue = in_coin(book, seeded(venue, seed) | {"fund_scope": "symbol"})
    adl = adl | {"outside": adl["outside"] / COIN, "lot": None}
    table, told = stated(kind, multiplier, None, steps[1])
    if kind == "quanto":
        book["bars"] = {
            symbol: [bar | {"volume": bar["volume"] and bar["volume"] * multiplier} for bar in own]
            for symbol, own in book["bars"].items()
        }
    cf = {symbol: funding_of(bars, book["funding"][symbol], kind) for symbol, bars in book["bars"].items()}
    expected = oracle.run_market(
        book["bars"], cf, coupled.people_of(book), venue | told, rules, oracle_options(spec, adl, crowding),
        coupled.policy(adl["policy"]),
    )  # fmt: skip
    result = perpbt.simulate(
        engine_bars(book), book["accounts_frame"], venue=engine_venue(venue | table),
        rules=engine_rules(rules | {"rounding": rounding_of(told)}), coupling=spec, adl=adl, crowding=crowding, engine=engine,
        conversion={"BTC": 100.0},
    )  # fmt: skip
    same_rows(plain(result.accounts), counted(expected["rows"], multiplier))
    same_ledger(plain(result.fund), expected["ledger"])
    closed = plain(result.extra["adl"].filter(pl.col("kind") == "adl"))
    wanted = sorted(
        expected["adl"],
        key=lambda row: (row["time"], row["phase"], row["world"], row["symbol"], row["account"]),
    )
    assert len(closed) == len(wanted)
    for row, other in zip(closed, counted(wanted, multiplier), strict=True):
        for name in (
            *("time", "world", "symbol", "account", "quantity", "fraction", "given_up", "weight"),
            *(("price",) if kind == "quanto" else ()),
        ):
            assert row[name] == other[name], (name, row, other)
        assert row["price"] == pytest.approx(other["price"], rel=1e-15)
        assert row["bankrupt_side"] == ("long" if other["bankrupt_side"] > 0 else "short")
        assert row["side"] != row["bankrupt_side"]


@settings(MADE, max_examples=MADE.max_examples // 2 + 1)
@given(
    strategies(), made.venues(), made.rules(), couplings(), st.sampled_from((0.0, 0.5)), st.sampled_from((20, 8)), st.booleans(),
    STEPS,
)  # fmt: skip
def test_strategies_that_meet_in_coin_are_those_of_the_oracle(
    made_up, venue, rules, coupling, seed, starts, crowding, steps
):
    (market, signals, policies), (spec, adl) = made_up, coupling
    adl = adl | {"outside": adl["outside"] / COIN, "lot": None}
    venue = seeded(venue, seed) | {"fund_scope": "symbol"}
    money = ("floor", "cap", "deduction")
    venue["tiers"] = [tier | {name: tier[name] / COIN for name in money} for tier in venue["tiers"]]
    if any(policy["compounding"] for policy in policies):
        crowding = crowding and venue["surplus_to_fund"] == 1.0
    for policy in policies:
        policy["capital"] /= COIN
        if policy["sizing"]["kind"] == "collateral":
            policy["sizing"] = policy["sizing"] | {"amount": policy["sizing"]["amount"] / COIN}
    table, known = stated("inverse", 1.0, *steps)
    told = [with_series(market, signals, policy) for policy in policies]
    bars = market["bars"]["AAA"]
    people = [
        {
            "account": number * starts + k, "identifier": k, "world": f"made | {number}", "symbol": "AAA",
            "weight": 1.0 / len(engine_starts(bars, starts)), "follow": {"signals": signals, "policy": policy, "start_bar": start},
        }
        for number, policy in enumerate(told)
        for k, start in enumerate(engine_starts(bars, starts))
    ]  # fmt: skip
    cf = {"AAA": funding_of(bars, market["funding"]["AAA"], "inverse")}
    expected = oracle.run_market(
        market["bars"], cf, people, venue | known, rules, oracle_options(spec, adl, crowding), coupled.policy(adl["policy"])
    )  # fmt: skip
    named = [engine_policy(policy).model_copy(update={"label": str(k)}) for k, policy in enumerate(policies)]
    result = perpbt.backtest(
        engine_bars(market, ["AAA"]), engine_strategy(bars, signals), named, offsets=starts,
        venue=engine_venue(venue | table), rules=engine_rules(rules | {"rounding": rounding_of(known)}), coupling=spec, adl=adl,
        crowding=crowding,
    )  # fmt: skip
    found = sorted(plain(result.accounts), key=lambda row: (row["world"], row["account"], row["position"]))
    wanted = sorted(expected["rows"], key=lambda row: (row["world"], row["account"], row["position"]))
    assert [row["position"] for row in found] == [row["position"] for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        assert differences(row, {k: v for k, v in other.items() if k not in ("world", "account")}) == {}
    assert sorted(result.extra["adl"].filter(pl.col("kind") == "adl")["given_up"]) == sorted(
        row["given_up"] for row in expected["adl"]
    )


def inverse_gap(**options):
    """One long of 10 coin at 10x and a short of 100 at 1x, face value in dollars; the price falls from 100 to 80 at an open."""
    table = {"contract": {"kind": "inverse", "settlement": "BTC"}}
    rows = [("long", "long", 10, 10), ("short", "short", 100, 1)]
    prices = [(100.0,) * 4, (80.0,) * 4, (85.0,) * 4]
    return perpbt.simulate(
        bars_of(prices), accounts_of(rows), venue=engine_venue({**FREE, **table}), coupling="adl", **options
    )  # fmt: skip


def test_a_coin_gap_is_taken_from_the_short_at_the_bankruptcy_price():
    """10,000 dollars long from 100 on 10 coin: nothing is left at 1/P = 0.01 + 10 / 10,000, P = 90.909; at 80 25 - 10 = 15 coin are missing."""
    run = inverse_gap()
    assert run.fund["deficit"].sum() == pytest.approx(15.0)
    (row,) = plain(run.extra["adl"])
    assert (row["account"], row["side"], row["bankrupt_side"]) == ("short", "short", "long")
    assert row["price"] == pytest.approx(1 / 0.011)
    assert row["quantity"] == pytest.approx(10_000.0)
    assert row["notional"] == pytest.approx(110.0)
    assert row["given_up"] == pytest.approx(15.0)
    assert run.fund["uncovered"].sum() == 0.0
    short = plain(run.accounts)[1]
    assert short["cash_change"] == pytest.approx(10_000 * (0.011 - 0.01))
    assert math.fsum(run.accounts["cash_change"]) == pytest.approx(0.0, abs=1e-12)
    table = perpbt.adl.rounds(
        run.accounts, run.extra["adl"], {"AAA": perpbt.contracts.Contract(kind="inverse", settlement="BTC")}
    )
    (told,) = plain(table)  # in dollars, of which a coin is worth the bar's close
    worth = row["conversion"]
    assert worth == pytest.approx(80.0)
    assert told["notional"] == pytest.approx(110.0 * worth)
    assert told["profit"] == pytest.approx(10.0 * worth)
    assert told["owed"] == pytest.approx(15.0 * worth)


def test_a_cascade_of_coin_contracts():
    """A long of 1 coin at 10x from 100, 1,000 USD, falls as the mark halves: at the open of 100 they are 10 coins, a tenth of the
    depth, which moves the price by 5 % of that open; a short of 10 coins at 1x, 1,000 USD, is marked at 45 in the end.
    """
    table = {"contract": {"kind": "inverse", "settlement": "BTC", "multiplier": 1.0}}
    pressure = {"law": "linear", "scale": "none", "strength": 0.5, "depth": 100.0, "decay": 1.0}
    run = perpbt.simulate(
        bars_of([(100.0,) * 4, (100.0, 100.0, 50.0, 50.0)]), accounts_of([("falls", "long", 1, 10), ("holds", "short", 10, 1)]),
        venue=engine_venue({**FREE, **table}), coupling={"kind": "cascade", "pressure": pressure}, conversion={"BTC": 100.0},
    )  # fmt: skip
    (pushed,) = run.extra["cascades"].to_dicts()
    assert (pushed["side"], pushed["liquidations"]) == ("long", 1)
    assert pushed["volume"] == pytest.approx(10.0)
    assert pushed["displacement"] == pytest.approx(-0.05)
    assert pushed["shock"] == pytest.approx(0.5)
    holds = run.accounts.row(1, named=True)
    assert holds["exit_price"] == pytest.approx(45.0)
    assert holds["pnl"] == pytest.approx(1000.0 * (1 / 45.0 - 1 / 100.0))
