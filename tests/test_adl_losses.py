"""Funds, losses and measures around deleveraging: worked examples of venues and papers, and what must hold."""

from __future__ import annotations

import itertools
import math
import os
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from adl_books import book, books
from hypothesis import given, settings
from hypothesis import strategies as st

import perpbt
from perpbt import adl
from perpbt.venue import tables as venue_tables

SOME = settings(max_examples=40, deadline=None)
START = datetime(2024, 1, 1)
DATA = Path(os.environ.get("PERPBT_DATA", Path(__file__).parents[2] / "shared" / "data"))


def ledger(*balances: float, hours: float = 1.0, **columns: list[float]) -> pl.DataFrame:
    times = [START + timedelta(hours=hours * i) for i in range(len(balances))]
    return pl.DataFrame({"time": times, "balance": list(balances), **columns})


# --------------------------------------------------------------------------------------------- one fill, one fund
def test_a_fund_gains_from_one_fill_and_loses_by_the_next() -> None:
    """BitMEX, System gain and losses: bankruptcy 99, A filled at 99.25, then B at 98.75: +.25, then 0."""
    fund = adl.fund_flow(1, 1.0, 99.0, 99.25)
    assert fund == 0.25
    assert fund + adl.fund_flow(1, 1.0, 99.0, 98.75) == 0.0


def test_bybit_surplus_and_deficit() -> None:
    """Bybit, Insurance fund: a long bankrupt at 6,950; one at 8,730 draws and one at 8,680 adds at 8,700."""
    assert adl.fund_flow(1, 1.0, 6950.0, 6980.0) == 30.0
    assert adl.fund_flow(1, 1.0, 6950.0, 6930.0) == -20.0
    assert adl.fund_flow(1, 1.0, 8730.0, 8700.0) < 0.0 < adl.fund_flow(1, 1.0, 8680.0, 8700.0)


@pytest.mark.parametrize(
    ("side", "worth", "fill", "cap", "flow"),
    [
        (1, 5100, 56100, 0.005, 28.05),
        (1, 5100, 56100, 0.025, 140.25),
        (1, 5100, 56100, 1.0, 510),
        (1, 5100, 51051, 0.005, 5.10),
        (1, 5100, 51000, 0.005, 0),
        (1, 5100, 50490, 0.005, -51),
        (-1, 4900, 44100, 0.005, 22.05),
        (-1, 4900, 44100, 0.025, 110.25),
        (-1, 4900, 44100, 1.0, 490),
        (-1, 4900, 48951, 0.005, 4.90),
        (-1, 4900, 49490, 0.005, -49),
    ],
)
def test_dydx_fund_deltas(side: int, worth: float, fill: float, cap: float, flow: float) -> None:
    """dYdX v4, liquidations_test.go: .1 BTC against what the account owes or holds; fees of .5, 2.5 and 100 %."""
    assert adl.fund_flow(side, 0.1, worth / 0.1, fill, fee_cap=cap) == pytest.approx(flow, abs=1e-9)


def test_negative_balances_are_the_funds_or_the_traders() -> None:
    assert adl.settle_balance(-50.0) == (0.0, 50.0, 0.0)
    assert adl.settle_balance(-50.0, protected=False) == (0.0, 0.0, 50.0)
    assert adl.settle_balance(7.0) == adl.settle_balance(7.0, protected=False) == (7.0, 0.0, 0.0)


# ---------------------------------------------------------------------------------------------- socialised losses
def test_okex_clawback_toy() -> None:
    """10 contracts of 1 at 10x, the index falls to .10: the winner is due 9, the loser covers 1, 8 are missing."""
    due = 10 * (1.0 - 0.1)
    missing = due - 10 * 1.0 / 10
    assert missing == 8.0
    paid = adl.clawback(missing, 0.0, [due])
    assert paid.paid[0] == pytest.approx(8.0)
    assert adl.clawback(missing, 8.0, [due]).rate == 0.0


@SOME
@given(loss=st.floats(0, 1e6), fund=st.floats(0, 1e6), profits=st.lists(st.floats(-1e5, 1e5), max_size=20))
def test_clawback_raises_what_the_fund_lacks(loss: float, fund: float, profits: list[float]) -> None:
    rate, paid, uncovered = adl.clawback(loss, fund, profits)
    assert 0.0 <= rate <= 1.0
    assert (paid <= np.maximum(profits, 0.0)).all()
    assert math.fsum(paid) + uncovered == pytest.approx(max(loss - fund, 0.0), rel=1e-12, abs=1e-300)


def test_clawback_of_july_2018() -> None:
    """OKEx, 31 July 2018: about 18 % of profits clawed back, some 9 million USD; so profits were some 50 million."""
    assert adl.clawback(9e6 + 18.5e6, 18.5e6, [30e6, 20e6, -60e6]).rate == pytest.approx(0.18)


def test_drift_spreads_what_is_left_over_both_sides() -> None:
    spread = adl.socialise_by_size(100.0, fund=41.0, fee_pool=10.0, long_quantity=30.0, short_quantity=20.0)
    assert (spread.insurance, spread.fee_pool, spread.socialised, spread.per_unit) == (40, 10, 50, 1.0)
    capped = adl.socialise_by_size(
        100.0, fund=500.0, market_cap=25.0, long_quantity=30.0, short_quantity=20.0
    )
    assert (capped.insurance, capped.per_unit) == (25.0, 1.5)
    odd = adl.socialise_by_size(1.0, fund=0.0, long_quantity=2.0, short_quantity=1.0, step=0.01)
    assert odd.per_unit == pytest.approx(0.34)  # rounded up: 3 units bring 1.02
    assert adl.socialise_by_size(5.0, fund=9.0, long_quantity=0.0, short_quantity=0.0).insurance == 5.0
    with pytest.raises(perpbt.InputError, match="somebody who bears"):
        adl.socialise_by_size(5.0, fund=0.0, long_quantity=0.0, short_quantity=0.0)


# --------------------------------------------------------------------------------------------------------- triggers
def test_bybit_drawdown() -> None:
    """A pool of 1M, a symbol that loses 350,000: -35 % is below -30 %, 50,000 are deleveraged; above -25 % it ends."""
    table = adl.drawdown_trigger(
        ledger(1e6, 8e5, 6.5e5, 7.2e5, 7.6e5, 7.2e5, result=[0.0, -2e5, -3.5e5, -2.8e5, -2.4e5, -2.8e5])
    )
    assert table["ratio"].to_list() == pytest.approx([0, -0.2, -0.35, -0.28, -0.24, -0.28])
    assert table["triggered"].to_list() == [False, False, True, True, False, False]
    assert table["amount"].to_list() == pytest.approx([0, 0, 50_000, 0, 0, 0])


def test_a_drawdown_is_forgotten_after_the_window() -> None:
    table = adl.drawdown_trigger(ledger(100.0, 60.0, 60.0, 60.0, hours=4))
    assert table["triggered"].to_list() == [
        False,
        True,
        True,
        False,
    ]  # 8 h later the 100 still held as it began
    assert table["ratio"].to_list() == pytest.approx([0, -0.4, -0.4, 0])
    assert adl.drawdown_trigger(ledger(0.0, 0.0))["triggered"].all()
    thin = adl.drawdown_trigger(ledger(100.0, 60.0), least_balance=70.0)
    assert not thin["triggered"].any()


def test_okx_threshold() -> None:
    """Fund 200,000, level of 8 hours 400,000: threshold 280,000, deleveraging."""
    table = adl.level_trigger(ledger(4e5, 2e5))
    assert table["threshold"].to_list() == [280_000, 280_000]
    assert table["triggered"].to_list() == [False, True]
    assert table["amount"].to_list() == [0, 80_000]
    began = adl.level_trigger(ledger(4e5, 9e5, 2e5, hours=4), level="began")
    assert began["level"].to_list() == [4e5, 4e5, 4e5]
    small = adl.level_trigger(ledger(1e5, 6e4))  # of a small fund the floor counts: 100,000 - 50,000
    assert small["threshold"].to_list() == [50_000, 50_000]


def test_an_empty_fund_triggers() -> None:
    table = adl.empty_trigger(ledger(5.0, 0.0, -3.0))
    assert table["triggered"].to_list() == [False, True, True]
    assert table["amount"].to_list() == [0, 0, 3]


@SOME
@given(
    st.lists(st.floats(0, 100).map(lambda x: round(x, 2)), min_size=2, max_size=30),
    st.lists(st.integers(1, 300), min_size=30, max_size=30),
    st.integers(1, 29),
)
def test_triggers_look_back_only_and_no_further(balances: list[float], minutes: list[int], cut: int) -> None:
    times = [START]
    for step in minutes[: len(balances) - 1]:
        times.append(times[-1] + timedelta(minutes=step))
    whole = pl.DataFrame({"time": times, "balance": balances})
    window = timedelta(hours=8)
    plain = []
    for i, now in enumerate(times):
        seen = [balances[j] for j in range(i + 1) if times[j] > now - window]
        before = [balances[j] for j in range(i + 1) if times[j] <= now - window]
        plain.append(max(seen + before[-1:]))
    assert adl.highest_within(whole, "balance", window).to_list() == plain
    for rule in (adl.drawdown_trigger, adl.level_trigger, adl.empty_trigger):
        assert rule(whole).head(cut).equals(rule(whole.head(cut)))


def test_triggers_say_what_is_wrong() -> None:
    falling = ledger(1.0, 2.0).reverse()
    for call, message in (
        (lambda: adl.drawdown_trigger(falling), "time does not rise"),
        (lambda: adl.drawdown_trigger(ledger(1.0).drop("balance")), "no column 'balance'"),
        (lambda: adl.drawdown_trigger(ledger(1.0), resume=0.4), "resume is 0.4"),
        (lambda: adl.level_trigger(ledger(1.0), level="mean"), "level is 'mean'"),
        (lambda: adl.level_trigger(ledger(1.0), floor=-1.0), "floor -1.0"),
        (lambda: adl.level_trigger(ledger(1.0), window=timedelta(0)), "window is"),
        (lambda: adl.clawback(-1.0, 0.0, []), "loss is -1.0"),
        (lambda: adl.clawback(1.0, 0.0, [2.0, math.nan]), r"profits\[1\] is nan"),
        (
            lambda: adl.socialise_by_size(1.0, fund=0.0, long_quantity=1.0, short_quantity=0.0, step=0.0),
            "step is 0.0",
        ),
        (lambda: adl.bad_debt(pl.DataFrame({"account": [1]})), "column 'time' missing; found: account"),
        (lambda: adl.monitor(pl.DataFrame(), drawdown=0.0), "drawdown is 0.0"),
        (lambda: adl.fund_flow(0, 1.0, 1.0, 1.0), "side is 0"),
        (lambda: adl.haircut_gap([1.0], 2.0), "taken is 2.0"),
    ):
        with pytest.raises(perpbt.InputError, match=message):
            call()


# --------------------------------------------------------------------------------------------------------- measures
def test_top_winner_keeps_more_under_pro_rata_by_the_closed_form() -> None:
    """The gap is the original top winner's; for the largest surviving profit the paper's statement fails."""
    profit, taken = np.array([10.0, 5.0, 1.0]), 7.2
    queued = adl.fill_in_order(profit, profit, taken, np.arange(3))
    spread = adl.fill_by_weight(profit, profit, taken)
    assert (profit - spread)[0] - (profit - queued)[0] == pytest.approx(2.7)
    assert adl.haircut_gap(profit, taken) == pytest.approx(2.7)
    assert adl.profit_left(profit, queued) == 5.0  # not the one who was first
    assert adl.profit_left(profit, spread) - adl.profit_left(profit, queued) == pytest.approx(0.5)


def test_measures_of_one_round() -> None:
    profit, equity = np.array([8.0, 4.0, 0.5]), np.array([10.0, 5.0, 1.0])
    queued, spread = np.array([3.5, 4.0, 0.0]), np.array([4.8, 2.4, 0.3])
    assert adl.largest_share(queued, equity) == 0.8
    assert adl.least_largest_share(7.5, profit, equity) == pytest.approx(7.5 / 16)
    assert adl.least_largest_share(12.0, profit, equity) == pytest.approx(
        11.5 / 15
    )  # the third stops at his .5
    assert adl.fairness_regret(queued, equity, profit, 7.5) == pytest.approx(7.5 * (0.8 - 7.5 / 16))
    assert adl.fairness_regret(spread, equity, profit, 7.5) == pytest.approx(7.5 * (0.48 - 7.5 / 16))
    assert adl.overshoot(queued, 7.0) == 0.5
    assert adl.needed_budget([2.0, 3.0], [100.0, 100.0], [99.0, 102.0]) == 8.0
    assert adl.ptsr([4.5, 3.2], [15.0, 0.0]) == 0.3
    assert adl.pmr([4.5], [12.0]) == 0.375
    assert math.isnan(adl.ptsr([1.0], [0.0]))


@SOME
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from((0.5, 1.0, 2.0, 3.0, 7.0))), min_size=1, max_size=4
    ),
    st.integers(0, 16),
)
def test_the_best_in_whole_lots_is_that_of_all_ways_to_give_them(winners, lots) -> None:
    """Against every allocation of whole lots there is: the integer programme of the source."""
    rooms, equity = [room for room, _ in winners], [worth for _, worth in winners]
    wanted = min(lots, sum(rooms))
    ways = [way for way in itertools.product(*(range(room + 1) for room in rooms)) if sum(way) == wanted]
    best = min(adl.largest_share(0.25 * np.array(way, dtype=float), equity) for way in ways)
    found = adl.least_largest_share(0.25 * lots, 0.25 * np.array(rooms, dtype=float), equity, 0.25)
    assert found == pytest.approx(best, abs=1e-12)
    assert (
        adl.least_largest_share(0.25 * wanted, 0.25 * np.array(rooms, dtype=float), equity) <= found + 1e-12
    )


@SOME
@given(candidates=books(winners=True), share=st.floats(0.05, 0.95))
def test_no_policy_takes_a_smaller_largest_share_than_by_equity(
    candidates: adl.Candidates, share: float
) -> None:
    table = adl.compare(candidates, share * math.fsum(candidates.quantity), 99.0, deficits=[3.0, 1.0])
    best = table.filter(pl.col("policy") == "pro_rata:equity")
    if (candidates.equity() > 1.0).all():
        assert best["fairness_regret"].item() <= 1e-6 * table["taken"].max() + 1e-9
        assert table["largest_share"].min() >= best["largest_share"].item() * (1 - 1e-9) - 1e-12
    assert table["overshoot"].max() <= 1e-9 * max(1.0, table["taken"].max())
    assert table["policy"].to_list() == adl.list_policies()


def test_policies_side_by_side_on_one_book() -> None:
    table = adl.compare(
        book([10.0, 10, 20], entry=[50.0, 80, 90], margin=[100.0, 40, 300]), 12.0, 90.0, deficits=[90.0, 30.0]
    )
    rows = {row["policy"]: row for row in table.to_dicts()}
    queued = rows["queue:bitmex"]
    assert (queued["touched"], queued["closed_out"], queued["taken"]) == (2, 1, 120.0)
    assert queued["top_winner_left"] == pytest.approx(500 - 20.0 if queued["profit_left"] > 400 else 400.0)
    assert queued["ptsr"] == pytest.approx(queued["profit_left"] / 120)
    assert queued["pmr"] == pytest.approx(queued["profit_left"] / 90)
    assert rows["pro_rata:contracts"]["touched"] == 3
    assert table["overshoot"].max() == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(perpbt.InputError, match="one symbol at one moment"):
        adl.compare(book([1.0, 1.0], mark=[100.0, 101.0]), 1.0, 99.0)


def test_bad_debt_is_counted_once_per_default() -> None:
    """One account at -10.9 million was the largest loser of 9 of 16 waves: adding up looks counted it 9 times."""
    looks = pl.DataFrame(
        {
            "account": ["a"] * 6 + ["b"] * 2,
            "time": [*range(6), 0, 1],
            "equity": [5.0, -10.0, -10.0, -12.0, 3.0, -1.0, -2.0, -2.0],
        }
    )
    table = adl.bad_debt(looks)
    assert table.to_dicts() == [
        {"account": "a", "default": 1, "time": 1, "debt": 12.0},
        {"account": "a", "default": 2, "time": 5, "debt": 1.0},
        {"account": "b", "default": 1, "time": 0, "debt": 2.0},
    ]
    assert adl.bad_debt(looks.vstack(looks.tail(1).with_columns(time=pl.lit(2, pl.Int64)))).equals(table)


# ------------------------------------------------------------------------------------------------- tables of a run
def test_waves_are_separated_by_quiet() -> None:
    seconds = [0, 1, 6, 12, 12, 30]
    times = [START + timedelta(seconds=one) for one in seconds]
    assert adl.waves(times).tolist() == [1, 1, 1, 2, 2, 3]
    rows = pl.DataFrame(
        {
            "time": times,
            "world": ["w"] * 6,
            "symbol": ["B"] * 6,
            "account": [1, 2, 1, 3, 3, 4],
            "quantity": [1.0] * 6,
            "price": [10.0] * 6,
            "given_up": [0.5] * 6,
            "weight": [2.0] * 6,
        }
    )
    table = adl.deleveraging_waves(rows)
    assert table["fills"].to_list() == [3, 2, 1]
    assert table["accounts"].to_list() == [2, 1, 1]
    assert table["notional"].to_list() == [60, 40, 20]
    assert adl.deleveraging_waves(rows.head(0)).is_empty()
    positions = pl.DataFrame(
        {
            "account": [1, 2, 3, 4, 5],
            "position": [1] * 5,
            "world": ["w"] * 5,
            "strategy": ["s", "s", "t", "t", "u"],
            "policy": ["10x"] * 5,
            "exit_reason": ["adl"] * 4 + ["end"],
            "weight": [2.0] * 5,
            "cash_change": [1.0, 2.0, 3.0, -1.0, 0.0],
        }
    )
    hit = adl.deleveraged(positions, rows)
    assert hit["deleveraged"].to_list() == [2, 2, 0]
    assert hit["given_up"].to_list() == [3, 3, 0]
    assert hit["profit"].to_list() == [6, 4, 0]
    assert hit["share_of_profit"].to_list() == [3 / 9, 3 / 7, None]
    without = positions.with_columns(
        cash_change=pl.col("cash_change") + pl.Series([1.0, -0.5, 0.0, 0.0, 0.0])
    )
    two = adl.counterfactual(positions, without, by=())
    assert two.row(0) == (5, 1, 1, 2.0, 1.0)
    with pytest.raises(perpbt.InputError, match="in one run only"):
        adl.counterfactual(positions, without.head(3))


def test_of_an_account_with_two_positions_only_the_one_touched_counts() -> None:
    """Account 1 holds two positions under two strategies; the second is closed in part."""
    positions = pl.DataFrame(
        {
            "account": [1, 1, 2],
            "position": [1, 2, 1],
            "world": ["w"] * 3,
            "strategy": ["s", "t", "s"],
            "policy": ["10x"] * 3,
            "exit_reason": ["end", "adl", "end"],
            "weight": [1.0] * 3,
            "cash_change": [5.0, 3.0, 7.0],
        }
    )
    rows = pl.DataFrame(
        {"account": [1], "position": [2], "world": ["w"], "quantity": [2.0], "price": [10.0], "given_up": [4.0], "weight": [1.0]}
    )  # fmt: skip
    hit = adl.deleveraged(positions, rows)
    assert hit.select("strategy", "deleveraged", "fills", "given_up", "profit").rows() == [
        ("s", 0, 0, 0.0, 0.0),
        ("t", 1, 1, 4.0, 3.0),
    ]
    by_world = adl.deleveraged(positions, rows, by=("world",))
    assert by_world.select("positions", "deleveraged", "profit").rows() == [(3, 1, 3.0)]


def test_rounds_tell_what_was_owed_and_what_winners_kept() -> None:
    """Two shorts stand against a long that defaults by 30; the first gives half, later all the rest."""
    hours = [START + timedelta(hours=i) for i in range(6)]
    accounts = pl.DataFrame(
        {
            "account": [1, 2, 3, 4, 5],
            "position": [1] * 5,
            "world": ["w"] * 5,
            "symbol": ["A"] * 5,
            "side": ["long", "short", "short", "short", "long"],
            "entry_time": [hours[0]] * 4 + [hours[1]],
            "exit_time": [hours[2], hours[4], hours[5], hours[1], hours[4]],
            "exit_reason": ["liquidation", "adl", "end", "time", "liquidation"],
            "weight": [1.0, 2.0, 1.0, 1.0, 1.0],
            "quantity": [10.0, 4.0, 6.0, 9.0, 5.0],
            "entry_price": [100.0, 100.0, 90.0, 100.0, 95.0],
            "deficit": [30.0, 0.0, 0.0, 0.0, 10.0],
        }
    )
    closings = pl.DataFrame(
        {
            "time": [hours[2], hours[4], hours[4]],
            "world": ["w"] * 3,
            "symbol": ["A"] * 3,
            "phase": ["range"] * 3,
            "kind": ["adl"] * 3,
            "bankrupt_side": ["long"] * 3,
            "account": [2, 2, 3],
            "position": [1] * 3,
            "weight": [2.0, 2.0, 1.0],
            "quantity": [2.0, 2.0, 1.5],
            "fraction": [0.5, 1.0, 0.25],
            "price": [80.0, 70.0, 70.0],
            "given_up": [12.0, 3.0, 4.0],
        }
    )
    table = adl.rounds(accounts, closings)
    first, second = table.to_dicts()
    assert (first["winners"], first["closed"], first["owed"], first["largest_owed"]) == (2, 1, 30.0, 30.0)
    assert first["profit"] == 2 * 4 * 20 + 6 * 10
    assert (first["top_winner_left"], first["profit_left"]) == (80.0, 80.0)
    assert first["ptsr"] == first["pmr"] == pytest.approx(80 / 30)
    assert (second["profit"], second["owed"], second["given_up"]) == (2 * 2 * 30 + 6 * 20, 10.0, 10.0)
    assert second["profit_left"] == pytest.approx(0.75 * 120)
    assert second["notional"] == 2 * 2 * 70 + 1.5 * 70
    means = adl.round_measures(table)
    assert means["rounds"].to_list() == [2]
    assert means["ptsr"][0] == pytest.approx((80 / 30 + 9) / 2)
    assert means["share_given"][0] == pytest.approx(34 / 460)
    assert adl.rounds(accounts, closings.head(0)).is_empty()


def test_measures_of_a_policy_in_one_row() -> None:
    """A short that made 50 without deleveraging and 30 with; a fund of 10 that falls to 4 on its second day and is back on its fourth."""
    accounts = pl.DataFrame(
        {
            "account": [1, 2], "position": [1, 1], "strategy": ["s", "s"], "policy": ["p", "p"], "world": ["w", "w"], "symbol": ["A", "A"],
            "side": ["long", "short"], "entry_time": [START] * 2, "exit_time": [START + timedelta(days=1)] * 2,
            "exit_reason": ["liquidation", "adl"], "weight": [1.0, 1.0], "quantity": [10.0, 10.0], "entry_price": [100.0, 100.0],
            "deficit": [26.0, 0.0], "cash_change": [-100.0, 30.0],
        }
    )  # fmt: skip
    closings = pl.DataFrame(
        {
            "time": [START + timedelta(days=1)], "world": ["w"], "symbol": ["A"], "phase": ["range"], "kind": ["adl"],
            "bankrupt_side": ["long"], "account": [2], "position": [1], "weight": [1.0], "quantity": [10.0], "fraction": [1.0],
            "price": [97.0], "given_up": [20.0],
        }
    )  # fmt: skip
    fund = fund_rows("A", 10.0, 4.0, 7.0, 10.0).with_columns(
        time=pl.datetime_range(START, START + timedelta(days=3), "1d", eager=True)
    )
    without = accounts.with_columns(cash_change=pl.Series([-100.0, 50.0]))
    spreads = pl.DataFrame(
        {"world": ["w"], "overshoot": [1.0], "fairness_regret": [2.0], "largest_share": [0.5]}
    )
    (row,) = adl.by_policy(accounts, closings, spreads=spreads, fund=fund, without=without).to_dicts()
    wanted = {
        "positions": 2, "deleveraged": 1, "given_up": 20.0, "profit": 30.0, "rounds": 1, "waves": 1, "ptsr": 0.0, "pmr": 0.0,
        "owed": 26.0, "share_given": 20 / 30, "overshoot": 1.0, "fairness_regret": 2.0, "days_to_recover": 3.0, "cost": 20.0, "spared": 0.0,
    }  # fmt: skip
    assert {name: row[name] for name in wanted} == pytest.approx(wanted)


def test_recovery_is_counted_from_the_peak_to_its_return() -> None:
    path = ledger(10.0, 8.0, 4.0, 10.0, 12.0, 9.0, hours=24)
    table = adl.recoveries(path)
    assert table["depth"].to_list() == [0.6, 0.25]
    assert table["days"].to_list() == [3.0, None]
    assert table["low"].to_list() == [4.0, 9.0]
    assert adl.days_to_recover(path) == 3.0
    assert adl.days_to_recover(ledger(1.0, 2.0)) == 0.0
    assert adl.days_to_recover(ledger(2.0, 1.0)) == math.inf
    two = pl.concat(
        [path.with_columns(who=pl.lit("a")), ledger(2.0, 1.0, 2.0, hours=24).with_columns(who=pl.lit("b"))]
    )
    together = adl.recoveries(two, by=("who",))
    assert together.filter(pl.col("who") == "a").drop("who").equals(table)
    assert together.filter(pl.col("who") == "b")["days"].to_list() == [2.0]
    assert adl.waves([]).size == 0


def fund_rows(symbol: str, *balances: float) -> pl.DataFrame:
    flows = np.diff(balances, prepend=balances[0])
    return ledger(*balances).with_columns(
        world=pl.lit("w"),
        symbol=pl.lit(symbol),
        liquidation_fees=pl.lit(0.0),
        surplus=pl.Series(np.maximum(flows, 0.0)),
        fee_share=pl.lit(0.0),
        deficit=pl.Series(np.maximum(-flows, 0.0)),
        uncovered=pl.lit(0.0),
    )


def test_monitoring_series() -> None:
    fund = pl.concat([fund_rows("A", 100.0, 80.0, 70.0, 100.0), fund_rows("B", 10.0, 10.0, 20.0, 20.0)])
    times = fund["time"][:4]
    accounts = pl.DataFrame(
        {
            "world": ["w"] * 3,
            "symbol": ["A", "A", "B"],
            "side": ["long", "short", "long"],
            "exit_reason": ["end", "end", "rejected"],
            "weight": [1.0, 1.0, 1.0],
            "quantity": [10.0, 10.0, 1.0],
            "entry_price": [100.0, 100.0, 1.0],
            "entry_time": [times[1], times[1], times[0]],
            "exit_time": [times[3], times[2], times[1]],
        }
    )
    table = adl.monitor(fund, accounts)
    a = table.filter(pl.col("fund") == "A")
    assert a["lights"].to_list() == [0, 3, 5, 0]
    assert a["drawdown"].to_list() == pytest.approx([0, 0.2, 0.3, 0])
    assert a["open_interest"].to_list() == [0, 1000, 500, 0]
    assert a["balance_over_open_interest"].to_list() == [None, 0.08, 0.14, None]
    assert table.filter(pl.col("fund") == "B")["balance_over_open_interest"].null_count() == 4
    assert adl.contract_ledger(fund, "A")["result"].to_list() == [0, -20, -30, 0]
    triggered = adl.drawdown_trigger(adl.contract_ledger(fund, "A"), drawdown=0.29)["triggered"]
    assert triggered.to_list() == [False, False, True, False]
    start = times[0]
    later = fund_rows("A", 100.0, 80.0, 70.0, 75.0).with_columns(
        time=pl.Series(
            [start, start + timedelta(hours=1), start + timedelta(hours=2), start + timedelta(hours=11)]
        )
    )
    lit = adl.monitor(later)  # lights look back eight hours, the drawdown to the peak
    assert lit["lights"].to_list() == [0, 3, 5, 0]
    assert lit["drawdown"].to_list() == pytest.approx([0, 0.2, 0.3, 0.25])
    with pytest.raises(perpbt.InputError, match="symbol is 'C'"):
        adl.contract_ledger(fund, "C")
    with pytest.raises(perpbt.InputError, match="world is None"):
        adl.contract_ledger(pl.concat([fund, fund.with_columns(world=pl.lit("v"))]), "A")


# ------------------------------------------------------------------------------------------------ what venues say
def test_venues_say_how_they_deleverage() -> None:
    """Every policy and price a venue names is one there is; of two the numbers of the pages."""
    told = {name: perpbt.load_venue(name).terms("adl") for name in perpbt.list_venues()}
    assert {name: (one.policy, one.price) for name, one in told.items() if one is not None} == {
        "binance_cm": ("binance", "bankruptcy"),
        "binance_um": ("binance", "bankruptcy"),
        "bitmex": ("bitmex", "bankruptcy"),
        "bybit_inverse": ("bybit", "bankruptcy"),
        "bybit_linear": ("bybit", "bankruptcy"),
        "hyperliquid": ("hyperliquid", "previous_mark"),
        "okx": ("okx", "mark"),
    }
    bybit, okx = (perpbt.load_venue(name).terms("fund_trigger") for name in ("bybit_linear", "okx"))
    assert (bybit.drawdown, bybit.resume, bybit.window) == (0.3, 0.25, 8 * 3_600_000)
    assert (okx.drawdown, okx.least, okx.resume) == (0.3, 50_000.0, None)


def test_venue_tables_of_deleveraging_are_checked() -> None:
    for table, values, message in (
        ("adl", {"policy": "fifo"}, "policy is 'fifo'"),
        ("adl", {"policy": "okx", "price": "last"}, "price"),
        ("fund_trigger", {"drawdown": 0.2, "resume": 0.3}, "at most drawdown"),
        ("fund_trigger", {"drawdown": 0.0}, "above 0"),
    ):
        assert message in "".join(venue_tables.faults(table, values))


# ------------------------------------------------------------------------------ Hyperliquid, 10 October 2025
def published(name: str) -> pl.DataFrame:
    path = DATA / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path.name} is not there: optional data")
    return pl.read_parquet(path)


def test_budgets_of_the_published_replay() -> None:
    """Sixteen waves: what was needed, what was taken, and that a floor of whole contracts falls short."""
    waves, gaps = published("adl_policy_per_wave_mit"), published("adl_wave_coin_gap_mit")
    assert waves.height == gaps["wave"].n_unique() == 16
    needed = adl.needed_budget(gaps["qty_contracts"], gaps["gap_per_contract_usd"], 0.0)
    assert needed == pytest.approx(15_079_670, abs=1)
    budgets = {
        "prod": 60_108_335,
        "pr": 15_079_670,
        "vector": 13_286_648,
        "contract_pr": 12_059_549,
        "fixed_point_ilp_integer": 15_171_857,
    }
    for name, budget in budgets.items():
        assert math.fsum(waves[f"budget_{name}"]) == pytest.approx(budget, abs=1)
    assert adl.overshoot(waves["budget_prod"], needed) == pytest.approx(45_028_666, abs=1)
    assert adl.overshoot(waves["budget_contract_pr"], needed) == pytest.approx(3_020_121, abs=1)
    largest = [waves[f"max_pct_{name}"].max() for name in ("eq_pr", "pr", "prod")]
    assert largest == sorted(largest)  # by equity nobody gives a larger share; production took whole accounts


def test_bad_debt_of_the_published_replay_counted_once() -> None:
    """One account is the largest loser of nine waves: 100 million added up are 12.66 million of debt."""
    waves = published("adl_policy_per_wave_mit")
    largest = waves["max_loss_usd"].max()
    same = waves.filter((pl.col("max_loss_usd") - largest).abs() < 1.0)
    assert same.height == 9
    assert math.fsum(waves["deficit_usd"]) == pytest.approx(100.06e6, abs=5e3)
    rest = pl.col("deficit_usd") - pl.when(pl.col("wave").is_in(same["wave"].to_list())).then(
        largest
    ).otherwise(0.0)
    others = waves.select(account=pl.format("others of {}", "wave"), time="wave", equity=-rest)
    one = same.select(account=pl.lit("one"), time="wave", equity=-pl.col("max_loss_usd"))
    debts = adl.bad_debt(pl.concat([others, one]).filter(pl.col("equity") < -1e-6))
    assert math.fsum(debts["debt"]) == pytest.approx(12.66e6, abs=5e3)
