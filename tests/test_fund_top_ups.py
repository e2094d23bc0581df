"""Money put into funds from outside: alone, pooled, in groups and where accounts meet, against the naive oracle; and by hand."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import coupled_books as coupled
import made_markets as made
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_coupling import (
    FLOWS,
    GAP,
    HOURS,
    accounts_of,
    couplings,
    oracle_options,
    pressures,
    same_ledger,
    same_rows,
    seeded,
    simulate,
)
from test_engine_equals_oracle import engine_bars, engine_rules, engine_venue, plain

import perpbt
from perpbt import oracle, statistics
from perpbt.errors import InputError

MADE = settings(
    max_examples=int(os.environ.get("PERPBT_EXAMPLES", "30")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
PAYMENTS = st.lists(
    st.tuples(
        st.integers(-2, 30).map(lambda hours: made.START + hours * made.HOUR - 60_000 * (hours % 3)),
        st.sampled_from((0.5, 20.0, 300.0)),
        st.sampled_from((None, "AAA", "pair", "all")),
    ),
    max_size=4,
)
SHARING = st.sampled_from(("symbol", "pooled", "pair"))
ALL_FLOWS = (*FLOWS[:-1], "top_up", "balance")


def asked(payments, sharing):
    """(the fund's terms, the venue's as the oracle takes them)."""
    told = [
        {"at": datetime.fromtimestamp(time / 1000, UTC), "amount": amount, "fund": name} for time, amount, name in payments
    ]  # fmt: skip
    groups = {"pair": ["AAA", "BBB"]}
    terms = {"groups": groups} if sharing == "pair" else {"scope": sharing}
    known = {"fund_groups": groups} if sharing == "pair" else {"fund_scope": sharing}
    return terms | {"top_ups": told}, known | {"top_ups": payments}


def moved(rows):
    """Rows with flows or payments, opening rows apart."""
    some = [row for row in rows if any(row.get(name) for name in ALL_FLOWS[:-1])]
    return sorted(some, key=lambda row: (row["time"], row["world"], row["symbol"]))


def same_payments(result, expected, known):
    """The same rows, payments `==`, balances to rounding. The oracle has no funds that nobody stands behind."""
    there = {(row["world"], oracle.fund.fund_name(known, row["symbol"])) for row in expected}
    rows = [
        row for row in plain(result.fund) if (row["world"], oracle.fund.fund_name(known, row["symbol"])) in there
    ]  # fmt: skip
    found, wanted = moved(rows), moved(expected)
    if not any(row["top_up"] for row in wanted):
        return
    keys = ("time", "world", "symbol", "top_up")
    assert [[row[name] for name in keys] for row in found] == [[row[name] for name in keys] for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        assert row["balance"] == pytest.approx(other["balance"], rel=1e-12, abs=1e-9)


@MADE
@given(made.markets(), made.venues(), made.rules(), PAYMENTS, SHARING)
def test_payments_are_there_when_the_oracle_has_them(market, venue, rules, payments, sharing):
    terms, known = asked(payments, sharing)
    venue = seeded(venue, 5.0)
    expected = oracle.settle(made.run_accounts(market, venue, rules), market["bars"], venue | known)[1]
    result = perpbt.simulate(
        engine_bars(market), market["accounts_frame"], venue=engine_venue(venue), rules=engine_rules(rules), fund=terms
    )  # fmt: skip
    if "world" in market["accounts_frame"].columns:
        same_payments(result, expected, venue | known)
    path = statistics.fund_path(result.fund)
    assert path["balance"].min() >= 0.0


@MADE
@given(
    coupled.books(symbols=3), made.venues(), couplings(), pressures(), PAYMENTS, SHARING,
    st.sampled_from(("skip", "dense", "cascade")),
)  # fmt: skip
def test_payments_come_in_time_where_accounts_meet(book, venue, coupling, pressure, payments, sharing, way):
    spec, adl = coupling
    terms, known = asked(payments, sharing)
    venue = seeded(venue, 5.0)
    options = oracle_options(spec, adl)
    if way == "cascade":
        spec = spec | {"kind": "cascade", "pressure": pressure}
        options |= {"pressure": pressure | {"share": pressure["mark_share"]}}
    expected = coupled.run_together(
        book, venue | known, {}, options, coupled.policy(adl["policy"], lot=adl["lot"])
    )
    result = perpbt.simulate(
        engine_bars(book), book["accounts_frame"], venue=engine_venue(venue), coupling=spec, adl=adl, fund=terms,
        engine="skip" if way == "cascade" else way,
    )  # fmt: skip
    same_rows(plain(result.accounts), expected["rows"])
    same_ledger(
        [{name: value for name, value in row.items() if name != "fund"} for row in plain(result.fund)], expected["ledger"]
    )  # fmt: skip
    same_payments(result, expected["ledger"], venue | known)


def hour(number):
    return datetime.fromtimestamp(HOURS[number] / 1000, UTC)


def test_a_payment_at_the_open_of_a_default_pays_for_it():
    """One long of 10 at 10x whose price halves is owed 10; 4 that come at that very open pay 4 of it, an hour later they do not."""
    rows = accounts_of([("long", "long", 10, 10), ("short", "short", 100, 1)])
    early = simulate(GAP, rows, fund={"top_ups": [{"at": hour(1), "amount": 4.0}]})
    late = simulate(GAP, rows, fund={"top_ups": [{"at": hour(1) + timedelta(minutes=1), "amount": 4.0}]})
    assert early.extra["adl"]["given_up"].sum() == pytest.approx(6.0)
    assert late.extra["adl"]["given_up"].sum() == pytest.approx(10.0)
    assert early.fund["balance"].to_list()[-1] == 0.0
    assert late.fund["balance"].to_list()[-1] == 4.0
    assert late.fund.filter(pl.col("top_up") > 0)["time"].to_list() == [hour(2)]
    assert "4 at" in early.metadata["fund"]["top_ups"][0]


def test_without_payments_the_ledger_has_no_such_column():
    assert "top_up" not in simulate(GAP, accounts_of([("a", "long", 10, 10)])).fund.columns


@pytest.mark.parametrize(
    ("payment", "told"),
    [
        ({"at": "soon", "amount": 1.0}, "must be a date or a time"),
        ({"at": "2020-03-14", "amount": 0.0}, "amount = 0.0: must be a number above 0"),
        ({"amount": 1.0}, "at"),
    ],
)
def test_what_is_no_payment_is_refused(payment, told):
    with pytest.raises(InputError, match=told):
        simulate(GAP, accounts_of([("a", "long", 10, 10)]), fund={"top_ups": [payment]})
