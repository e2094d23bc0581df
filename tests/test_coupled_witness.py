"""`engine = "oracle"` where accounts meet: plain Python behind the same doors, every table to the bit what the engines give."""

from __future__ import annotations

import os

import coupled_books as coupled
import made_markets as made
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_coupled_strategies import strategies
from test_coupling import FREE, GAP, HOURS, accounts_of, bars_of, couplings, pressures, seeded, simulate
from test_engine_equals_oracle import engine_bars, engine_policy, engine_rules, engine_strategy, engine_venue
from test_inverse import in_coin, stated

import perpbt

MADE = settings(
    max_examples=int(os.environ.get("PERPBT_EXAMPLES", "12")), deadline=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip


def same_tables(one, other):
    """Every table of two runs, to the bit."""
    tables = [
        {"accounts": run.accounts, "fund": run.fund, "statistics": run.statistics, **run.extra}
        for run in (one, other)
    ]
    assert sorted(tables[0]) == sorted(tables[1])
    for name, table in tables[0].items():
        again = tables[1][name]
        assert table.schema == again.schema, name
        for column in table.columns:
            differ = table[column].ne_missing(again[column]) if table.height == again.height else None
            assert differ is not None, (name, table, again)
            assert not differ.any(), (name, column, table.filter(differ), again.filter(differ))
    for key in ("coupling", "money"):
        assert one.metadata[key] == other.metadata[key]


def spec_of(coupling, pressure, kind):
    """Options of a run: (coupling, adl)."""
    spec, adl = coupling
    if kind == "adl":
        return spec, adl
    return spec | {"kind": "cascade", "pressure": pressure}, adl


@MADE
@given(
    coupled.books(), made.venues(), made.rules(), couplings(), pressures(), st.sampled_from((0.0, 0.0, 200.0)), st.booleans(),
    st.sampled_from(("adl", "cascade")), st.sampled_from(("symbol", "pooled")), st.sampled_from((None, None, 5e3)), st.booleans(),
)  # fmt: skip
def test_positions_that_meet(
    book, venue, rules, coupling, pressure, seed, crowding, kind, scope, interest, paid
):
    spec, adl = spec_of(coupling, pressure, kind)
    first = min(account["entry_time"] for account in book["accounts"])
    top_ups = [{"at": perpbt_time(first + made.HOUR), "amount": 20.0}] if paid else []
    one, other = (
        perpbt.simulate(
            engine_bars(book), book["accounts_frame"], venue=engine_venue(seeded(venue, seed)), rules=engine_rules(rules), coupling=spec,
            adl=adl, crowding=crowding, engine=engine, fund={"scope": scope, "top_ups": top_ups}, open_interest=interest,
            equity_every="2h",
        )
        for engine in ("skip", "oracle")
    )  # fmt: skip
    same_tables(one, other)
    assert one.equity.equals(other.equity)


@pytest.mark.parametrize("engine", ["skip", "dense", "oracle"])
def test_a_world_is_paid_at_bars_of_symbols_it_has_nobody_on(engine):
    """A pool of two symbols, of which this world is on the one that trades from the third hour to the fifth: money of the second, fourth and
    seventh hour is there when it is due, and what a default of that symbol asks for in between is paid out of it.
    """
    flat, gone = (100.0, 100.0, 100.0, 100.0), (80.0, 80.0, 80.0, 80.0)
    other = bars_of([flat] * 8).filter(pl.col("ts").dt.hour() != 3)
    own = bars_of([flat] * 3 + [gone] * 2).with_columns(symbol=pl.lit("BBB")).slice(2)
    rows = accounts_of(
        [("long", "long", 10, 10), ("else", "long", 10, 1)], world=pl.Series(["here", "there"])
    )
    rows = rows.with_columns(symbol=pl.Series(["BBB", "AAA"]), entry_time=own["ts"][0])
    paid = [{"at": HOURS[k], "amount": money} for k, money in ((1, 0.1), (1, 0.2), (3, 4.7), (6, 0.7))]
    paid = [one | {"at": perpbt_time(one["at"])} for one in paid]
    run = perpbt.simulate(
        pl.concat([other, own]), rows, venue=engine_venue(FREE | {"fund_seed": 0.0}), coupling="adl", engine=engine,
        fund={"scope": "pooled", "top_ups": paid},
    )  # fmt: skip
    here = run.fund.filter(world="here").select("time", "top_up", "deficit", "uncovered", "balance").rows()
    hours = [time.hour for time, *_ in here]
    moved = dict(zip(hours[1:], [row[1:] for row in here[1:]], strict=True))
    assert hours == [0, 1, 3, 6]
    assert moved[1] == (0.1 + 0.2, 0.0, 0.0, 0.1 + 0.2)
    assert moved[3] == pytest.approx((4.7, 10.0, 5.0, 0.0))
    assert moved[6] == (0.7, 0.0, 0.0, 0.7)


def perpbt_time(milliseconds):
    """A moment, as options state it."""
    return pl.Series([milliseconds]).cast(made.TIME)[0]


@MADE
@given(
    coupled.books(), made.venues(), made.rules(), couplings(), st.sampled_from((0.0, 2.0)), st.booleans(),
    st.sampled_from((("inverse", 1.0), ("inverse", 128.0), ("quanto", 0.5))),
)  # fmt: skip
def test_coin_contracts_that_meet(book, venue, rules, coupling, seed, crowding, contract):
    spec, adl = coupling
    book, venue = in_coin(book, seeded(venue, seed) | {"fund_scope": "symbol"})
    table, _ = stated(*contract, None, None)
    one, other = (
        perpbt.simulate(
            engine_bars(book), book["accounts_frame"], venue=engine_venue(venue | table), rules=engine_rules(rules), coupling=spec,
            adl=adl | {"lot": None}, crowding=crowding, engine=engine, conversion={"BTC": 100.0},
        )
        for engine in ("skip", "oracle")
    )  # fmt: skip
    same_tables(one, other)


@MADE
@given(
    strategies(), made.venues(), made.rules(), couplings(), pressures(), st.sampled_from((0.0, 50.0)), st.sampled_from((20, 8)),
    st.sampled_from(("adl", "cascade")), st.sampled_from((None, 1e3)),
)  # fmt: skip
def test_strategies_that_meet(made_up, venue, rules, coupling, pressure, seed, starts, kind, interest):
    (market, signals, policies), (spec, adl) = made_up, spec_of(coupling, pressure, kind)
    named = [engine_policy(policy).model_copy(update={"label": str(k)}) for k, policy in enumerate(policies)]
    one, other = (
        perpbt.backtest(
            engine_bars(market, ["AAA"]), engine_strategy(market["bars"]["AAA"], signals), named, offsets=starts, engine=engine,
            venue=engine_venue(seeded(venue, seed)), rules=engine_rules(rules), coupling=spec, adl=adl, open_interest=interest,
        )
        for engine in ("skip", "oracle")
    )  # fmt: skip
    same_tables(one, other)


@pytest.mark.parametrize("coupling", ["adl", "cascade", "fund"])
def test_by_hand(coupling):
    people = accounts_of([("long", "long", 10, 10), ("short", "short", 100, 1)])
    run = simulate(GAP, people, coupling=coupling, engine="oracle")
    assert run.metadata["engine"] == "oracle"
    assert run.accounts["cash_change"].to_list() == pytest.approx(
        [-10.0, 10.0 if coupling == "adl" else 15.0]
    )


def test_equity_is_marked_at_closes_as_they_were_pushed():
    """A long of 200 at 20x from 100 falls at 90 in the second bar: 10 % of the 10,000 it sells move last and mark by 2 %, half of it the
    bar after; a long at 1x is marked there, in the world of its own at the market's.
    """
    prices = [(100.0, 100.0, 100.0, 100.0), (100.0, 100.0, 90.0, 96.0), (96.0, 96.0, 96.0, 96.0)]
    people = accounts_of([("falls", "long", 500, 20), ("held", "long", 1000, 1), ("alone", "long", 1000, 1)])
    people = people.with_columns(world=pl.Series(["a", "a", "b"]))
    pressure = {"law": "linear", "scale": "none", "strength": 0.2, "depth": 1e5, "most": 0.3, "decay": 0.5}
    for engine in ("skip", "oracle"):
        run = simulate(
            prices,
            people,
            coupling={"kind": "cascade", "pressure": pressure},
            equity_every="1h",
            engine=engine,
        )
        curve = {name: own["equity"].to_list() for (name,), own in run.equity.group_by("account")}
        assert run.extra["cascades"]["displacement"].to_list() == pytest.approx([-0.02])
        assert curve["held"] == pytest.approx([1000.0, 1000.0 - 40.0 - 20.0, 1000.0 - 40.0 - 9.6])
        assert curve["alone"] == pytest.approx([1000.0, 960.0, 960.0])
        ends = dict(zip(run.accounts["account"], run.accounts["cash_change"], strict=True))
        assert curve["held"][-1] == pytest.approx(1000.0 + ends["held"])


# --------------------------------------------- what only plain Python knows: of a fund that can pay, the engines say the same
RICH = 1e15
WITHOUT = ("adl", "outside", "socialised")


def same_as_alone(met, alone, names=()):
    """Where nobody was short and nothing pushed, everybody lived as alone: rows, ledger and statistics to the bit."""
    for column in alone.accounts.columns:
        differ = met.accounts[column].ne_missing(alone.accounts[column])
        assert not differ.any(), (column, met.accounts.filter(differ), alone.accounts.filter(differ))
    assert met.fund.drop(*WITHOUT, "balance").equals(alone.fund.drop("balance"))
    # added up phase by phase, the end of the data one of its own
    assert ((met.fund["balance"] - alone.fund["balance"]).abs() <= 1e-12 * RICH).all()
    assert met.statistics.equals(alone.statistics)
    for name in names:
        assert met.extra[name].equals(alone.extra[name]), name
    assert any("plain Python" in note for note in met.metadata["notes"])
    assert not any("plain Python" in note for note in alone.metadata["notes"])


CALLS = st.sampled_from(
    (
        {"action": "top_up", "threshold": 0.5, "target": 0.25, "max_calls": 2},
        {"action": "deleverage", "threshold": 0.4, "fraction": 0.5, "max_calls": 3},
        {"action": "deleverage", "threshold": 0.8, "fraction": 0.25, "max_calls": 1},
    )
)


@MADE
@given(
    strategies(), made.venues(), made.rules(), CALLS, pressures(), st.sampled_from((20, 8)), st.sampled_from(("adl", "cascade")),
    st.sampled_from((True, False)),
)  # fmt: skip
def test_margin_calls_of_accounts_that_meet(made_up, venue, rules, call, pressure, starts, kind, rich):
    market, signals, policies = made_up
    policies = [policy | {"margin_call": call, "compounding": True} for policy in policies]
    named = [engine_policy(policy).model_copy(update={"label": str(k)}) for k, policy in enumerate(policies)]
    options = {
        "offsets": starts,
        "venue": engine_venue(seeded(venue, RICH if rich else 0.0)),
        "rules": engine_rules(rules),
    }
    given = (engine_bars(market, ["AAA"]), engine_strategy(market["bars"]["AAA"], signals), named)
    if kind == "cascade" and rich:
        pressure = pressure | {"strength": 0.0, "depth": 1e4}
    spec = {"kind": kind, "pressure": pressure} if kind == "cascade" else kind
    met = perpbt.backtest(*given, **options, coupling=spec)  # money is conserved, or it raises
    if rich:
        same_as_alone(met, perpbt.backtest(*given, **options))


@MADE
@given(
    coupled.books(), made.venues(), made.rules(), st.sampled_from(("reduce_then_takeover", "ladder", "slice", "portion", "cure")),
    st.booleans(), couplings(),
)  # fmt: skip
def test_steps_of_accounts_that_meet(book, venue, rules, procedure, rich, coupling):
    spec, adl = coupling if not rich else ({"kind": "adl"}, None)
    options = {
        "venue": engine_venue(seeded(venue, RICH if rich else 0.0)), "rules": engine_rules(rules), "liquidation": procedure,
    }  # fmt: skip
    met = perpbt.simulate(engine_bars(book), book["accounts_frame"], **options, coupling=spec, adl=adl)
    if rich:
        alone = perpbt.simulate(engine_bars(book), book["accounts_frame"], **options)
        same_as_alone(met, alone, ("liquidations",))


@MADE
@given(
    coupled.books(),
    made.venues(),
    made.rules(),
    couplings(),
    pressures(),
    st.sampled_from((1.0, 128.0)),
    st.booleans(),
)
def test_cascades_of_inverse_contracts(book, venue, rules, coupling, pressure, multiplier, rich):
    book, venue = in_coin(book, seeded(venue, RICH if rich else 0.0) | {"fund_scope": "symbol"})
    table, _ = stated("inverse", multiplier, None, None)
    options = {
        "venue": engine_venue(venue | table),
        "rules": engine_rules(rules),
        "conversion": {"BTC": 100.0},
    }
    spec, adl = coupling
    spec = spec | {
        "kind": "cascade",
        "pressure": pressure | ({"strength": 0.0, "depth": 1e4} if rich else {}),
    }
    met = perpbt.simulate(
        engine_bars(book),
        book["accounts_frame"],
        **options,
        coupling=spec,
        adl=adl | {"lot": None},
        equity_every="2h",
    )
    given = (
        book["accounts_frame"].group_by("account").agg(given=pl.col("collateral").sum())
    )  # what is cut off an order is kept
    gained = met.accounts.group_by("account").agg(gained=pl.col("cash_change").sum())
    last = (
        met.equity.group_by("account")
        .agg(pl.col("equity").last())
        .join(given, on="account")
        .join(gained, on="account")
    )
    assert ((last["equity"] - (last["given"] + last["gained"])).abs() <= 1e-9 * last["given"]).all()
    if rich:
        same_as_alone(met, perpbt.simulate(engine_bars(book), book["accounts_frame"], **options))


@MADE
@given(
    coupled.books(), made.venues(), made.rules(), couplings(), pressures(), st.sampled_from((0.0, 2.0)), st.booleans(),
)  # fmt: skip
def test_cascades_of_quanto_contracts(book, venue, rules, coupling, pressure, seed, crowding):
    """In the engine, as linear ones."""
    spec, adl = coupling
    book, venue = in_coin(book, seeded(venue, seed) | {"fund_scope": "symbol"})
    table, _ = stated("quanto", 0.5, None, None)
    one, other = (
        perpbt.simulate(
            engine_bars(book), book["accounts_frame"], venue=engine_venue(venue | table), rules=engine_rules(rules),
            coupling=spec | {"kind": "cascade", "pressure": pressure}, adl=adl | {"lot": None}, crowding=crowding, engine=engine,
            conversion={"BTC": 100.0},
        )
        for engine in ("skip", "oracle")
    )  # fmt: skip
    same_tables(one, other)
