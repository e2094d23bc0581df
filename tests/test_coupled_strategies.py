"""Strategies, policies and re-entry where accounts meet: `perpbt.backtest(coupling=...)` against the naive coupled oracle with `==`.

Made markets of `made_markets`, random signals of both sides, two policies side by side, several start offsets; the oracle's accounts
follow the same signals through time together.
"""

from __future__ import annotations

import math
import os
import random

import coupled_books as coupled
import made_markets as made
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_coupling import (
    FREE,
    bars_of,
    check_rows,
    couplings,
    oracle_options,
    pressures,
    same_ledger,
    seeded,
)
from test_engine_equals_oracle import (
    differences,
    engine_atr,
    engine_bars,
    engine_policy,
    engine_rules,
    engine_starts,
    engine_strategy,
    engine_venue,
    plain,
)

import perpbt
from perpbt import oracle
from perpbt.config import load_spec
from perpbt.doors.specification import run_spec
from perpbt.errors import InputError

MADE = settings(
    max_examples=int(os.environ.get("PERPBT_EXAMPLES", "40")), deadline=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip


@st.composite
def strategies(draw):
    """(market of one symbol, signals of both sides, two policies of one sizing each)."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    rows = made.made_history(
        rng, draw(st.integers(20, 60)), gaps=rng.random() < 0.3, mark=draw(st.sampled_from(("apart", "equal"))),
        volume=draw(st.booleans()), jumpiness=1,
    )  # fmt: skip
    funding = made.made_funding(rng, rows, draw(st.sampled_from(("column", "none"))))
    volume = rows[0]["volume"] is not None
    market = {
        "bars": {"AAA": made.oracle_bars(rows)},
        "frame": made.bars_frame({"AAA": rows}, {"AAA": funding}, mark=True, volume=volume),
        "funding": {"AAA": funding},
        "funding_frame": None,
    }
    policies = []
    for _ in range(draw(st.integers(1, 2))):
        policy = draw(made.policies()) | {"margin_call": None}
        policy["leverage"] = draw(st.sampled_from((20.0, 10.0, 20.0, 50.0, 5.0)))
        if draw(st.sampled_from((True, True, True, False))):
            policy |= {"stop": None, "take_profit": None, "trailing_stop": None}
            policy["sizing"] = draw(
                st.sampled_from(({"kind": "equity", "fraction": 0.5}, {"kind": "collateral", "amount": 50.0}))
            )
            policy |= {"max_holding": None, "max_trades": None}
        policies.append(policy)
    signals = draw(made.signals(market["bars"]["AAA"]))
    if draw(
        st.sampled_from((True, True, True, False))
    ):  # both sides, and whoever is free enters: winners of the other side
        signals["long_entry"] = [rng.random() < 0.5 for _ in rows]
        signals["short_entry"] = [not long for long in signals["long_entry"]]
    return market, signals, policies


def expected_of(market, signals, policies, venue, rules, options, allocation, starts):
    """The oracle's coupled run: accounts by policy and start, each policy a world of its own."""
    bars, people = market["bars"]["AAA"], []
    begins = engine_starts(bars, starts)
    for number, policy in enumerate(policies):
        for k, start in enumerate(begins):
            people.append(
                {
                    "account": number * len(begins) + k, "identifier": k, "world": f"made | {number}", "symbol": "AAA",
                    "weight": 1.0 / len(begins), "follow": {"signals": signals, "policy": policy, "start_bar": start},
                }
            )  # fmt: skip
    cf = {"AAA": oracle.cumulative_funding(bars, market["funding"]["AAA"])}
    return oracle.run_market(market["bars"], cf, people, venue, rules, options, allocation)


def with_series(market, signals, policy):
    """The policy with what its levels read, for the oracle."""

    def filled(level):
        if level and level["kind"] == "atr":
            return level | {"series": engine_atr(market, "AAA", level["window"])}
        return level | {"series": signals[level["name"]]} if level and level["kind"] == "column" else level

    return policy | {name: filled(policy[name]) for name in ("stop", "take_profit")}


@MADE
@given(
    strategies(),
    made.venues(),
    made.rules(),
    couplings(),
    st.sampled_from((0.0, 0.0, 50.0)),
    st.sampled_from((20, 8, 40)),
    st.booleans(),
    st.sampled_from(("skip", "dense")),
)
def test_strategies_that_meet_are_those_of_the_oracle(
    made_up, venue, rules, coupling, seed, starts, crowding, engine
):
    (market, signals, policies), (spec, adl) = made_up, coupling
    venue = seeded(venue, seed)
    if any(policy["compounding"] for policy in policies):
        crowding = crowding and venue["surplus_to_fund"] == 1.0
    told = [with_series(market, signals, policy) for policy in policies]
    allocation = coupled.policy(adl["policy"], lot=adl["lot"])
    options = oracle_options(spec, adl, crowding)
    expected = expected_of(market, signals, told, venue, rules, options, allocation, starts)
    named = [engine_policy(policy).model_copy(update={"label": str(k)}) for k, policy in enumerate(policies)]
    result = perpbt.backtest(
        engine_bars(market, ["AAA"]), engine_strategy(market["bars"]["AAA"], signals), named, offsets=starts,
        venue=engine_venue(venue), rules=engine_rules(rules), coupling=spec, adl=adl, crowding=crowding, engine=engine,
    )  # fmt: skip
    found = sorted(plain(result.accounts), key=lambda row: (row["account"], row["position"]))
    wanted = sorted(expected["rows"], key=lambda row: (row["account"], row["position"]))
    assert [(row["account"], row["position"]) for row in found] == [
        (row["account"], row["position"]) for row in wanted
    ]
    for row, other in zip(found, wanted, strict=True):
        assert differences(row, {k: v for k, v in other.items() if k != "world"}) == {}
    renamed = {
        world: f"made | {k}" for k, world in enumerate(sorted({row["world"] for row in plain(result.fund)}))
    }
    same_ledger([row | {"world": renamed[row["world"]]} for row in plain(result.fund)], expected["ledger"])
    check_rows(result)
    closed = plain(result.extra["adl"].filter(pl.col("kind") == "adl"))
    assert math.fsum(row["given_up"] for row in closed) == math.fsum(
        row["given_up"] for row in expected["adl"]
    )
    assert len(closed) == len(expected["adl"])


@MADE
@given(
    strategies(),
    made.venues(),
    made.rules(),
    couplings(),
    pressures(),
    st.sampled_from((0.0, 50.0)),
    st.sampled_from((20, 8, 40)),
    st.booleans(),
    st.booleans(),
)
def test_cascades_of_strategies_are_those_of_the_oracle(
    made_up, venue, rules, coupling, pressure, seed, starts, crowding, deleverages
):
    (market, signals, policies), (spec, adl) = made_up, coupling
    venue = seeded(venue, seed)
    if any(policy["compounding"] for policy in policies):
        crowding = crowding and venue["surplus_to_fund"] == 1.0
    adl, spec = (adl, spec) if deleverages else (None, spec | {"trigger": None})
    spec = spec | {"kind": "cascade", "pressure": pressure}
    known = oracle_options(spec, adl or {"price": "bankruptcy", "fee": 0.0, "outside": 0.0}, crowding)
    options = known | {"adl": deleverages, "pressure": pressure | {"share": pressure["mark_share"]}}
    allocation = coupled.policy(adl["policy"], lot=adl["lot"]) if adl else coupled.policy("bitmex")
    told = [with_series(market, signals, policy) for policy in policies]
    expected = expected_of(market, signals, told, venue, rules, options, allocation, starts)
    named = [engine_policy(policy).model_copy(update={"label": str(k)}) for k, policy in enumerate(policies)]
    result = perpbt.backtest(
        engine_bars(market, ["AAA"]), engine_strategy(market["bars"]["AAA"], signals), named, offsets=starts,
        venue=engine_venue(venue), rules=engine_rules(rules), coupling=spec, adl=adl, crowding=crowding,
    )  # fmt: skip
    found = sorted(plain(result.accounts), key=lambda row: (row["account"], row["position"]))
    wanted = sorted(expected["rows"], key=lambda row: (row["account"], row["position"]))
    assert [(row["account"], row["position"]) for row in found] == [
        (row["account"], row["position"]) for row in wanted
    ]
    for row, other in zip(found, wanted, strict=True):
        assert differences(row, {k: v for k, v in other.items() if k != "world"}) == {}
    renamed = {
        world: f"made | {k}" for k, world in enumerate(sorted({row["world"] for row in plain(result.fund)}))
    }
    same_ledger([row | {"world": renamed[row["world"]]} for row in plain(result.fund)], expected["ledger"])
    check_rows(result)
    assert sorted(result.extra["cascades"]["displacement"]) == sorted(
        row["displacement"] for row in expected["cascades"]
    )
    assert result.extra["cascades"]["liquidations"].sum() == sum(
        row["liquidations"] for row in expected["cascades"]
    )


# ------------------------------------------------------------------------------------------ small, by hand
LONG_AT, SHORT_AT = (0, 6), (4,)  # closes


def alternating():
    """Long at the closes 0 and 6, short at close 4."""
    at = pl.int_range(pl.len())
    return {"long_entry": at.is_in(list(LONG_AT)), "short_entry": at.is_in(list(SHORT_AT))}


def traded(coupling="adl", **options):
    """Eight hours at 100 that fall to 80 at the open of the seventh; accounts that start at bars 0 and 4."""
    prices = [(100.0,) * 4] * 6 + [(80.0,) * 4] * 2
    policy = {
        "leverage": 10,
        "capital": 1000.0,
        "compounding": True,
        "sizing": {"kind": "equity", "fraction": 1.0},
    } | options
    return perpbt.backtest(
        bars_of(prices), alternating, policy, offsets=2, venue=engine_venue({**FREE, "fund_seed": 0.0}), coupling=coupling
    )  # fmt: skip


def test_a_top_up_spares_the_winners():
    """Half of 1,000 at 10x is long 50 at 100, a requirement of 50 on an equity of 500: at 0.1 it tops up, to 0.05, by 500. What 80 takes of it,
    1,000, it then has; without, 500 are lacking, and a winner is closed.
    """
    half = {"sizing": {"kind": "equity", "fraction": 0.5}}
    call = {"action": "top_up", "threshold": 0.1, "target": 0.05, "max_calls": 1}
    without, with_it = traded(**half), traded(**half, margin_call=call)
    assert without.accounts["deficit"].max() == pytest.approx(500.0)
    assert without.extra["adl"]["given_up"].to_list() == pytest.approx([500.0])
    assert with_it.accounts["top_up"].to_list()[0] == pytest.approx(500.0)
    assert with_it.accounts["deficit"].max() == pytest.approx(0.0, abs=1e-9)
    assert with_it.extra["adl"].is_empty()


def test_whoever_is_closed_by_adl_trades_on_at_the_next_close():
    """The long of bar 1 is bankrupt at 90 and filled at 80; the short of bar 5 is closed at 90 with 1,000 gained, and what close 6 says
    is filled with 2,000 at bar 7. Alone it would have stayed short to the end.
    """
    result = traded()
    rows = plain(
        result.accounts.select(
            "account", "position", "side", "exit_reason", "exit_price", "collateral", "deficit"
        )
    )
    assert [tuple(row.values()) for row in rows] == [
        (0, 1, "long", "liquidation", 80.0, 1000.0, 1000.0),
        (1, 1, "short", "adl", 90.0, 1000.0, 0.0),
        (1, 2, "long", "end", 80.0, 2000.0, 0.0),
    ]  # fmt: skip
    (told,) = plain(result.extra["adl"])
    assert (told["account"], told["position"], told["side"], told["given_up"]) == (1, 1, "short", 1000.0)
    (measured,) = plain(result.extra["measures"])
    assert (measured["positions"], measured["deleveraged"], measured["rounds"], measured["waves"]) == (
        3,
        1,
        1,
        1,
    )
    assert (measured["overshoot"], measured["fairness_regret"], measured["largest_share"]) == (
        0.0,
        0.0,
        1000.0 / 3000.0,
    )
    assert (measured["given_up"], measured["owed"], measured["ptsr"], measured["pmr"]) == (
        500.0,
        500.0,
        0.0,
        0.0,
    )
    assert measured["days_to_recover"] == 0.0  # there is no fund to fall
    check_rows(result)
    alone = traded(None)
    assert alone.accounts["exit_reason"].to_list() == ["liquidation", "end"]
    assert traded("fund").accounts.equals(alone.accounts)


def test_what_becomes_of_many_accounts_does_not_depend_on_engines_or_threads():
    """A long random walk of both sides: enough is closed by ADL that accounts trade otherwise than alone."""
    rng = random.Random(5)
    rows = made.made_history(rng, 300, gaps=False, mark="equal", volume=False, jumpiness=1)
    frame = made.bars_frame({"AAA": rows}, {"AAA": []}, mark=False, volume=False)
    long_at = [row["ts"] for row in rows if rng.random() < 0.5]

    def coin():
        long = pl.col("ts").dt.epoch("ms").is_in(long_at)
        return {"long_entry": long, "short_entry": ~long}

    policies = {"leverage": [10, 20], "compounding": True, "sizing": {"kind": "equity", "fraction": 0.5}}

    def run(**options):
        return perpbt.backtest(frame, coin, policies, offsets=60, fund={"seed": 0.0}, **options)

    first = run(coupling="adl")
    assert first.extra["adl"]["world"].n_unique() == 2
    assert first.extra["measures"]["rounds"].min() > 0
    assert not first.accounts.equals(run().accounts)
    for options in ({"engine": "dense"}, {"threads": 1}):
        again = run(coupling="adl", **options)
        assert again.accounts.equals(first.accounts)
        assert again.fund.equals(first.fund)
        assert again.extra["adl"].equals(first.extra["adl"])
    curves = run(coupling="adl", equity_every="4h")
    last = curves.equity.group_by("account").agg(pl.col("equity").sort_by("time").last())
    kept = (
        first.accounts.group_by("account").agg(ended=10_000.0 + pl.col("cash_change").sum()).sort("account")
    )
    both_ends = last.join(kept, on="account")
    assert both_ends["equity"].to_list() == pytest.approx(both_ends["ended"].to_list(), abs=1e-6)


@pytest.mark.parametrize(
    ("coupling", "policy", "told"),
    [
        ({"kind": "adl", "adl": {"policy": "nobody"}}, {}, "policy is 'nobody'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(coupling, policy, told):
    with pytest.raises(InputError, match=told):
        traded(coupling, **policy)


RUN = """
data.path = "bars.parquet"
offsets = 2
fund.seed = 0.0
[coupling]
kind = "adl"
[coupling.adl]
policy = "pro_rata:equity"
fee = 0.001
[[strategy]]
name = "always.py"
[policy]
leverage = [10, 20]
sizing = { kind = "equity", fraction = 1.0 }
"""
ALWAYS = """
import polars as pl
def signals():
    at = pl.int_range(pl.len())
    return {"long_entry": at.is_in([0, 6]), "short_entry": at.is_in([4])}
"""


def test_a_run_file_says_how_accounts_meet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prices = [(100.0,) * 4] * 6 + [(80.0,) * 4] * 2
    bars_of(prices).write_parquet("bars.parquet")
    (tmp_path / "run.toml").write_text(RUN)
    (tmp_path / "always.py").write_text(ALWAYS)
    result = run_spec(load_spec("run.toml"))
    assert result.metadata["coupling"]["adl"]["policy"] == "pro_rata:equity"
    assert result.extra["measures"]["deleveraged"].to_list() == [1, 1]
    assert pl.read_parquet(result.write(tmp_path / "out") / "measures.parquet").height == 2
    plain_run = run_spec(load_spec("run.toml", ["coupling=none"]))
    assert "coupling" not in plain_run.metadata
    assert plain_run.metadata["run_sha256"] != result.metadata["run_sha256"]
    assert (
        run_spec(load_spec("run.toml", ["coupling=adl"])).metadata["coupling"]["adl"]["policy"] == "binance"
    )
    unprotected = run_spec(load_spec("run.toml", ["fund.protection=false"]))
    assert unprotected.extra["adl"].is_empty()
    assert unprotected.fund["deficit"].sum() == 0.0 < unprotected.accounts["owed"].sum()
    with pytest.raises(InputError, match=r"coupling\.adl\.polic: unknown key"):
        load_spec("run.toml", ["coupling.adl.polic=okx"])
