"""Runs without negative-balance protection: traders owe what their positions lost beyond their margins, and money still balances."""

from __future__ import annotations

import math
import os

import coupled_books as coupled
import made_markets as made
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_coupled_strategies import expected_of, strategies, with_series
from test_coupling import GAP, accounts_of, pressures, same_ledger, same_rows, seeded, simulate
from test_engine_equals_oracle import (
    differences,
    engine_bars,
    engine_policy,
    engine_rules,
    engine_strategy,
    engine_venue,
    plain,
)

import perpbt
from perpbt import adl
from perpbt.contracts import Contract
from perpbt.errors import InputError
from perpbt.report.prose import assumptions

MADE = settings(
    max_examples=int(os.environ.get("PERPBT_EXAMPLES", "20")), deadline=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip


def test_a_trader_owes_what_the_fund_paid():
    """10 at 10x long from 100; at 80 20 are lost: 10 of it are the fund's, or the trader's."""
    run = simulate(
        GAP, accounts_of([("long", "long", 10, 10), ("idle", "long", 10, 1)]), coupling=None, seed=4.0
    )
    accounts, fund = adl.without_protection(run.accounts, run.fund)
    assert run.accounts["cash_change"].to_list() == pytest.approx([-10.0, -1.5])
    assert accounts["cash_change"].to_list() == pytest.approx([-20.0, -1.5])
    assert accounts["owed"].to_list() == pytest.approx([10.0, 0.0])
    assert accounts["total_return"].to_list() == pytest.approx([-2.0, -0.15])
    assert accounts["deficit"].sum() == 0.0
    assert run.fund["balance"].to_list()[-1] == 0.0
    assert fund["balance"].to_list()[-1] == 4.0
    assert fund.columns == run.fund.columns


@MADE
@given(made.markets(), made.venues(), st.sampled_from(("symbol", "pooled")), st.sampled_from((0.0, 50.0)))
def test_what_traders_owe_is_what_funds_and_nobody_paid(market, venue, scope, seed):
    run = perpbt.simulate(
        engine_bars(market), market["accounts_frame"], venue=engine_venue(seeded(venue, seed)), fund={"scope": scope}
    )  # fmt: skip
    accounts, fund = adl.without_protection(run.accounts, run.fund)
    weight = pl.col("weight")
    owed = accounts.select((weight * pl.col("owed")).sum()).item()
    assert owed == pytest.approx(math.fsum(run.fund["deficit"]), rel=1e-9, abs=1e-12)
    change = (weight * pl.col("cash_change")).sum()
    assert run.accounts.select(change).item() - accounts.select(change).item() == pytest.approx(
        owed, rel=1e-9, abs=1e-9
    )
    gained = fund.select(pl.sum_horizontal("liquidation_fees", "surplus", "fee_share").sum()).item()
    names = ["world"] if scope == "pooled" else ["world", "symbol"]
    ends = fund.group_by(names).agg(pl.col("balance").last(), seed=pl.col("balance").first())
    assert (ends["balance"] - ends["seed"]).sum() == pytest.approx(gained, rel=1e-9, abs=1e-9)
    for _, own in fund.group_by(names, maintain_order=True):
        assert own["balance"].is_sorted()


def test_a_run_whose_winners_paid_is_refused():
    run = simulate(GAP, accounts_of([("long", "long", 10, 10), ("short", "short", 100, 1)]))
    with pytest.raises(InputError, match="fund has a column 'adl'"):
        adl.without_protection(run.accounts, run.fund)


def test_open_interest_of_coin_contracts_is_in_coin():
    run = simulate(GAP, accounts_of([("long", "long", 10, 2), ("short", "short", 100, 1)]), coupling=None)
    plain = adl.open_interest(run.accounts)["open_interest"].max()
    coin = adl.open_interest(run.accounts, {"AAA": Contract(kind="inverse", multiplier=100.0)})[
        "open_interest"
    ].max()
    assert plain == pytest.approx(60.0)
    assert coin == pytest.approx(60.0 / 100.0)


# --------------------------------------------------------------------------------- a run that is so from the start
OFF = {"protection": False}
ALONE = {"adl": False, "price": "bankruptcy", "fee": 0.0, "outside": 0.0, "socialised": None, "trigger": None}


def same_debts(found, expected):
    """What is owed, with `==`; nothing is drawn."""
    for row, wanted in zip(found, expected, strict=True):
        assert row["owed"] == wanted.get("owed"), (row, wanted)
        assert not row["deficit"]


def test_a_debt_is_the_traders_own():
    """As above, in one run: 10 at 10x lose 20, of which 10 are owed; the short is not deleveraged, and keeps its 15."""
    people = accounts_of([("long", "long", 10, 10), ("short", "short", 100, 1)])
    for coupling in (None, "adl", "cascade"):
        run = simulate(GAP, people, coupling=coupling, seed=4.0, fund=OFF)
        assert run.accounts["cash_change"].to_list() == pytest.approx([-20.0, 15.0])
        assert run.accounts["owed"].to_list() == pytest.approx([10.0, 0.0])
        assert run.accounts["total_return"].to_list() == pytest.approx([-2.0, 0.15])
        assert run.accounts["max_drawdown"].to_list()[0] == pytest.approx(2.0)
        assert run.accounts["deficit"].sum() == run.fund["deficit"].sum() == 0.0
        assert run.fund["balance"].to_list()[-1] == 4.0
        assert run.metadata["fund"]["protection"] is False
    assert "Nothing protects a trader" in " ".join(assumptions(run))
    assert "protection" not in simulate(GAP, people).metadata["fund"]


@MADE
@given(made.markets(), made.venues(), st.sampled_from(("symbol", "pooled")))
def test_a_run_without_protection_is_one_with_it_seen_so(market, venue, scope):
    """Where nobody meets: what was charged to the fund is charged to the traders."""
    told = {"venue": engine_venue(seeded(venue, 50.0)), "fund": {"scope": scope}}
    with_it = perpbt.simulate(engine_bars(market), market["accounts_frame"], **told)
    run = perpbt.simulate(
        engine_bars(market), market["accounts_frame"], **told | {"fund": {"scope": scope, **OFF}}
    )
    accounts, fund = adl.without_protection(with_it.accounts, with_it.fund)
    assert run.accounts["owed"].equals(accounts["owed"])
    for name in ("cash_change", "total_return"):
        gaps = (run.accounts[name] - accounts[name]).drop_nulls().abs()
        assert (gaps <= 1e-12 * (1.0 + accounts[name].drop_nulls().abs())).all()
    flows = pl.any_horizontal(pl.col("liquidation_fees", "surplus", "fee_share") > 0.0)
    assert run.fund.filter(flows).drop("balance").equals(fund.filter(flows).drop("balance"))
    assert (run.fund.filter(flows)["balance"] - fund.filter(flows)["balance"]).abs().sum() <= 1e-9


@MADE
@given(
    coupled.books(),
    made.venues(),
    made.rules(),
    st.sampled_from((None, None, "pressed")),
    pressures(),
    st.booleans(),
    st.sampled_from(("skip", "dense", "oracle")),
)
def test_debts_are_those_of_the_oracle(book, venue, rules, pressed, pressure, crowding, engine):
    """Alone and in cascades: in which it is the traders who pay, and nobody is deleveraged."""
    venue = seeded(venue, 50.0)
    options = ALONE | {"crowding": crowding}
    spec = None
    if pressed:
        options |= {"pressure": pressure | {"share": pressure["mark_share"]}}
        spec = {"kind": "cascade", "pressure": pressure, "adl": {}}
        engine = "skip" if engine == "oracle" else engine
    expected = coupled.run_together(
        book, venue | {"protected": False}, rules, options, coupled.policy("bitmex")
    )
    result = perpbt.simulate(
        engine_bars(book), book["accounts_frame"], venue=engine_venue(venue), rules=engine_rules(rules), fund=OFF,
        coupling=spec, crowding=crowding, engine=engine,
    )  # fmt: skip
    rows = plain(result.accounts)
    same_rows(rows, expected["rows"])
    same_debts(rows, expected["rows"])
    ledger = result.fund.with_columns(adl=0.0, outside=0.0, socialised=0.0)
    same_ledger(plain(ledger), expected["ledger"])


@MADE
@given(
    strategies(),
    made.venues(),
    made.rules(),
    st.sampled_from((None, "adl", "cascade")),
    st.sampled_from((20, 8)),
    st.sampled_from(("skip", "dense", "oracle")),
)
def test_a_wallet_bears_what_a_position_lost(made_up, venue, rules, coupling, starts, engine):
    """An account that compounds trades on with what its debts have left of its wallet, or not at all."""
    market, signals, policies = made_up
    policies = [policy | {"compounding": True} for policy in policies]
    venue = seeded(venue, 50.0)
    told = [with_series(market, signals, policy) for policy in policies]
    pressure = {"law": "linear", "strength": 0.3, "scale": "none", "depth": 1e4, "most": 0.3, "decay": 0.5}
    options = ALONE | ({"pressure": pressure | {"share": 1.0}} if coupling == "cascade" else {})
    unprotected = venue | {"protected": False}
    expected = expected_of(
        market, signals, told, unprotected, rules, options, coupled.policy("bitmex"), starts
    )
    named = [engine_policy(policy).model_copy(update={"label": str(k)}) for k, policy in enumerate(policies)]
    spec = {"kind": "cascade", "pressure": pressure} if coupling == "cascade" else coupling
    result = perpbt.backtest(
        engine_bars(market, ["AAA"]), engine_strategy(market["bars"]["AAA"], signals), named, offsets=starts, fund=OFF,
        venue=engine_venue(venue), rules=engine_rules(rules), coupling=spec, engine="skip" if coupling else engine,
    )  # fmt: skip
    rows = sorted(plain(result.accounts), key=lambda row: (row["world"], row["account"], row["position"]))
    assert len(rows) == len(expected["rows"])
    wanted = sorted(expected["rows"], key=lambda row: (row["world"], row["account"], row["position"]))
    for row, other in zip(rows, wanted, strict=True):
        assert differences(row, other) == {}
    same_debts(rows, wanted)


@pytest.mark.parametrize("procedure", ["reduce_then_takeover", "ladder", "portion", "slice"])
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(market=made.markets(max_accounts=20), venue=made.venues())
def test_debts_of_what_is_liquidated_in_steps(procedure, market, venue):
    given = (engine_bars(market), market["accounts_frame"])
    told = {"venue": engine_venue(seeded(venue, 50.0)), "fund": OFF, "liquidation": procedure}
    one, other = (perpbt.simulate(*given, **told, engine=engine) for engine in ("skip", "oracle"))
    assert one.accounts.equals(other.accounts)
    assert one.fund["deficit"].sum() == 0.0


def test_what_protection_off_does_not_go_with():
    people = accounts_of([("long", "long", 10, 10)])
    with pytest.raises(InputError, match=r"fund\.protection = false does not go with margin = 'cross'"):
        simulate(GAP, people, coupling=None, margin="cross", fund=OFF)
