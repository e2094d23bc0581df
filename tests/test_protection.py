"""Runs without negative-balance protection: traders owe what their positions lost beyond their margins, and money still balances."""

from __future__ import annotations

import math
import os

import made_markets as made
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_coupling import GAP, accounts_of, seeded, simulate
from test_engine_equals_oracle import engine_bars, engine_venue

import perpbt
from perpbt import adl
from perpbt.contracts import Contract
from perpbt.errors import InputError

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
