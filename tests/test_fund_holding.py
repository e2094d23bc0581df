"""A fund that holds what it takes over until it is sold: rows, sales and ledger against the naive oracle, both doors, and by hand."""

from __future__ import annotations

import math
from datetime import timedelta

import made_markets as made
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_coupled_strategies import alternating
from test_coupling import FREE, MADE, accounts_of, bars_of
from test_engine_equals_oracle import (
    compare_ledgers,
    differences,
    engine_bars,
    engine_rules,
    engine_venue,
    plain,
)

import perpbt
from perpbt import oracle
from perpbt.errors import InputError
from perpbt.oracle import holding

HOLDS = (1_000, made.HOUR, 3 * made.HOUR, 100 * made.HOUR)


@MADE
@given(
    made.markets(max_bars=30, max_accounts=8),
    made.venues(),
    made.rules(),
    st.sampled_from(HOLDS),
    st.sampled_from((None, 5_000.0)),
    st.sampled_from(("skip", "dense", "oracle")),
)
def test_what_funds_hold_is_that_of_the_oracle(market, venue, rules, hold, interest, engine):  # fmt: skip
    held = venue | {"fund_hold": hold}
    cf = {s: oracle.cumulative_funding(bars, market["funding"][s]) for s, bars in market["bars"].items()}
    rows, expected = oracle.settle(
        made.run_accounts(market, held, rules), market["bars"], held, open_interest=interest, cf=cf
    )
    result = perpbt.simulate(
        engine_bars(market), market["accounts_frame"], venue=engine_venue(venue), rules=engine_rules(rules), engine=engine,
        fund={"hold": timedelta(milliseconds=hold)}, open_interest=interest,
    )  # fmt: skip
    by_account = {row["account"]: row for row in plain(result.accounts)}
    for row in rows:
        weight = row.pop("weight")
        assert by_account[row["account"]]["weight"] == pytest.approx(weight, rel=1e-12)
        assert differences(by_account[row["account"]], row) == {}
    compare_ledgers(plain(result.fund), expected)
    sales = plain(result.extra["inventory"].filter(pl.col("kind") != "taken_over"))
    rows = [{**row, "weight": by_account[row["account"]]["weight"]} for row in rows]
    wanted = sorted(
        holding.sales(rows, market["bars"], cf, held),
        key=lambda one: (one["time"], one["world"], one["symbol"], -one["side"], one["phase"]),
    )
    assert len(sales) == len(wanted)
    for sale, other in zip(sales, wanted, strict=True):
        side = {"long": 1, "short": -1}[sale["side"]]
        found = (sale["time"], sale["world"], sale["symbol"], side, sale["quantity"], sale["price"])
        assert found == tuple(
            other[name] for name in ("time", "world", "symbol", "side", "quantity", "price")
        )
        assert sale["pnl"] == other["pnl"]
    last = result.extra["inventory"].group_by("world", "symbol", "side").agg(pl.col("held").last())["held"]
    assert all(abs(held) < 1e-9 * (1 + sum(sale["quantity"] for sale in sales)) for held in last)


@MADE
@given(made.markets(max_accounts=30), made.venues())
def test_all_that_prices_bring_is_somebodys(market, venue):
    """Whatever is held how long: traders, venue and fund have together what prices and funding gave."""
    result = perpbt.simulate(
        engine_bars(market), market["accounts_frame"], venue=engine_venue(venue), fund={"hold": "4h"}
    )
    rows = result.accounts.filter(pl.col("rejection").is_null())
    share, weight = result.metadata["fund"]["fee_share"], rows["weight"]
    fund = result.fund
    change = (
        fund["liquidation_fees"] + fund["surplus"] + fund["fee_share"] - fund["deficit"] + fund["uncovered"]
    ).sum()
    came = (weight * rows["cash_change"]).sum() + (1 - share) * (weight * rows["fees"]).sum() + change
    gave = (
        (weight * (rows["pnl"] + rows["funding"])).sum() + fund["inventory"].sum() + fund["uncovered"].sum()
    )
    assert came == pytest.approx(gave, abs=1e-9 * (1 + (weight * rows["collateral"]).sum()))
    assert fund["inventory"].sum() == pytest.approx(result.extra["inventory"]["pnl"].sum(), abs=1e-9)
    taken = rows.filter(pl.col("exit_reason") == "liquidation")
    assert not any((taken[name] != 0.0).any() for name in ("deficit", "surplus", "liquidation_fee"))


PRICES = [(100.0,) * 4, (80.0,) * 4, (84.0,) * 4, (95.0,) * 4, (95.0,) * 4]


def held(hold, seed=0.0, prices=PRICES, **options):
    rows = accounts_of([("long", "long", 10, 10)])
    venue = engine_venue({**FREE, "fund_seed": seed})
    return perpbt.simulate(bars_of(prices), rows, venue=venue, fund={"hold": hold}, **options)


def test_a_fund_that_waits_gets_the_price_of_later_bars():
    """A long of one at 100 with 10, gone to 80, is taken over at 90: sold an hour later at 84 it costs 6, in two parts at 84 and 95 it costs 3
    and then brings 2.5; sold at once, as without, it costs 10.
    """
    quick = held("1h", seed=20.0)
    assert [tuple(row.values())[4:] for row in plain(quick.extra["inventory"])] == [
        ("taken_over", 1.0, 90.0, 0.0, 1.0),
        ("sold", 1.0, 84.0, -6.0, 0.0),
    ]
    assert quick.fund["balance"].to_list() == [20.0, 14.0]
    slow = held("2h", seed=20.0)
    assert slow.extra["inventory"]["pnl"].to_list() == [0.0, -3.0, 2.5]
    assert slow.fund["balance"].to_list() == [20.0, 17.0, 19.5]
    assert slow.fund["inventory"].to_list() == [0.0, -3.0, 2.5]
    assert slow.metadata["inventory"] == {"lots": 1, "taken_over": 90.0, "pnl": -0.5}
    at_once = held(None, seed=20.0)
    assert at_once.fund["balance"].to_list() == [20.0, 10.0]
    row = slow.accounts.row(0, named=True)
    assert (row["exit_price"], row["pnl"], row["deficit"], row["cash_change"]) == (90.0, -10.0, 0.0, -10.0)


def test_a_loss_that_the_fund_cannot_bear_is_uncovered():
    assert held("1h", seed=2.0).fund["uncovered"].sum() == pytest.approx(4.0)


def test_what_is_taken_over_in_the_last_bar_is_worth_its_close():
    result = held("1h", prices=[(100.0,) * 4, (80.0, 85.0, 80.0, 85.0)], seed=20.0)
    assert result.extra["inventory"]["kind"].to_list() == ["taken_over", "valued"]
    assert result.extra["inventory"]["pnl"].to_list() == [0.0, -5.0]
    assert result.fund["balance"].to_list()[-1] == 15.0


def test_strategies_have_funds_that_hold_too(tmp_path):
    prices = [(100.0,) * 4] * 6 + [(80.0,) * 4, (85.0,) * 4]
    policy = {"leverage": 10, "capital": 1000.0, "sizing": {"kind": "equity", "fraction": 1.0}}
    venue = engine_venue({**FREE, "fund_seed": 0.0})
    result = perpbt.backtest(bars_of(prices), alternating, policy, venue=venue, fund={"hold": "1h"})
    (row,) = plain(result.extra["inventory"].filter(pl.col("kind") == "sold"))
    assert (row["quantity"], row["price"], row["pnl"]) == (100.0, 85.0, -500.0)
    assert result.fund["uncovered"].sum() == 500.0
    assert pl.read_parquet(result.write(tmp_path / "run") / "inventory.parquet").equals(
        result.extra["inventory"]
    )
    assert math.isclose(result.metadata["money"]["inventory"], -500.0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"coupling": "adl"}, "fund.hold with coupling"),
        ({"crowding": True}, "fund.hold with crowding"),
        ({"memory": "1GiB"}, "fund.hold with memory"),
        ({"liquidation": "slice"}, "fund.hold with AAA, which is liquidated in steps"),
        ({"margin": "cross"}, "fund.hold does not go with margin"),
        ({"fund": {"hold": "0s"}}, "hold"),
    ],
)
def test_what_cannot_be_is_refused(options, told):
    with pytest.raises(InputError, match=told):
        perpbt.simulate(
            bars_of(PRICES), accounts_of([("long", "long", 10, 10)]), **{"fund": {"hold": "1h"}, **options}
        )
