"""Funds that some symbols share: the ledger against the oracle's, alone and where accounts meet, and what reads a ledger."""

from __future__ import annotations

from datetime import timedelta

import coupled_books as coupled
import made_markets as made
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_coupling import MADE, check_rows, couplings, oracle_options, same_ledger, same_rows, seeded
from test_engine_equals_oracle import compare_ledgers, engine_bars, engine_rules, engine_venue, plain

import perpbt
from perpbt import adl, oracle, statistics
from perpbt.errors import InputError

GROUPS = (
    {"majors": ("AAA", "BBB")},
    {"rest": ("BBB", "CCC"), "elsewhere": ("DDD",)},
    {"everything": ("AAA", "BBB", "CCC")},
    {"AAA": ("AAA", "CCC")},
)


def grouped(ledger):
    """Engine and oracle call opening rows by the fund; flows by the symbol."""
    return [{name: value for name, value in row.items() if name != "fund"} for row in ledger]


@MADE
@given(made.markets(), made.venues(), made.rules(), st.sampled_from(GROUPS))
def test_groups_of_symbols_share_a_fund(market, venue, rules, groups):
    expected = oracle.settle(
        made.run_accounts(market, venue, rules), market["bars"], venue | {"fund_groups": groups}
    )[1]
    result = perpbt.simulate(
        engine_bars(market), market["accounts_frame"], venue=engine_venue(venue), rules=engine_rules(rules),
        fund={"groups": groups},
    )  # fmt: skip
    compare_ledgers(grouped(plain(result.fund)), expected)
    path = statistics.fund_path(result.fund)
    owner = {symbol: name for name, symbols in groups.items() for symbol in symbols}
    used = {owner.get(symbol, symbol) for symbol in result.fund["symbol"] if symbol in market["bars"]}
    assert used <= set(result.fund["fund"])
    for world, rows in result.fund.group_by("world"):
        last = rows.sort("time", maintain_order=True).group_by("fund").agg(pl.col("balance").last())
        whole = path.filter(pl.col("world") == world[0]).sort("time")["balance"].to_list()[-1]
        assert whole == pytest.approx(last["balance"].sum())


@MADE
@given(
    coupled.books(symbols=3),
    made.venues(),
    couplings(),
    st.sampled_from((0.0, 200.0)),
    st.sampled_from(GROUPS),
    st.sampled_from(("skip", "dense")),
)
def test_groups_where_accounts_meet(book, venue, coupling, seed, groups, engine):  # fmt: skip
    spec, options = coupling
    venue = seeded(venue, seed)
    expected = coupled.run_together(
        book, venue | {"fund_groups": groups}, {}, oracle_options(spec, options), coupled.policy(options["policy"], lot=options["lot"])
    )  # fmt: skip
    result = perpbt.simulate(
        engine_bars(book), book["accounts_frame"], venue=engine_venue(venue), coupling=spec, adl=options, engine=engine,
        fund={"groups": groups},
    )  # fmt: skip
    same_rows(plain(result.accounts), expected["rows"])
    same_ledger(grouped(plain(result.fund)), expected["ledger"])
    check_rows(result)


def two_symbols():
    """A long of A that is 100 short in the second hour; one of B that leaves 50."""
    rows = []
    for symbol, prices in (
        ("A", (100.0, 70.0, 70.0)),
        ("B", (100.0, 94.0, 94.0)),
        ("C", (100.0, 100.0, 100.0)),
    ):
        for k, price in enumerate(prices):
            rows.append(
                {"ts": made.START + k * made.HOUR, "symbol": symbol, **dict.fromkeys(made.LAST, price)}
            )
    bars = pl.DataFrame(rows).with_columns(pl.col("ts").cast(made.TIME)).sort("symbol", "ts")
    start = pl.lit(made.START).cast(made.TIME)
    accounts = pl.DataFrame(
        {
            "account": ["a", "b"],
            "symbol": ["A", "B"],
            "side": "long",
            "collateral": [100.0, 100.0],
            "leverage": [10.0, 10.0],
        }
    )
    return bars, accounts.with_columns(start.alias("entry_time"), strategy=pl.lit("given"))  # fmt: skip


FREE = {
    "taker_fee": 0.0,
    "maker_fee": 0.0,
    "slippage": 0.0,
    "liquidation_fee": 0.0,
    "half_spread": 0.0,
    "impact": 0.0,
}
TIERS = {"default": ((0.0, 1e9, 0.05, 125.0, 0.0),)}


def run(groups, **options):
    bars, accounts = two_symbols()
    venue = perpbt.load_venue("binance_um").replace(**FREE, tiers=TIERS)
    return perpbt.simulate(bars, accounts, venue=venue, fund={"seed": 100.0, "groups": groups}, **options)


def test_a_group_pays_for_its_members_only():
    """A owes 200, B leaves 40 and C does nothing, each fund begins with 100: A with B pay 140 of the 200, A with C 100."""
    together = run({"both": ["A", "B"]})
    drawn = together.fund.filter(pl.col("deficit") > 0).row(0, named=True)
    assert (drawn["fund"], drawn["deficit"], drawn["uncovered"]) == (
        "both",
        pytest.approx(200.0),
        pytest.approx(60.0),
    )
    apart = run({"odd": ["A", "C"]})
    assert apart.fund["uncovered"].sum() == pytest.approx(100.0)
    assert together.metadata["fund"] == {
        "seed": 100.0,
        "fee_share": 0.0,
        "scope": "grouped",
        "groups": {"both": ["A", "B"]},
    }
    watched = adl.monitor(together.fund, together.accounts, window=timedelta(hours=1))
    assert set(watched["fund"]) == {"both"}  # nobody trades C
    last = watched.filter(pl.col("fund") == "both").row(-1, named=True)
    assert (last["balance"], last["open_interest"]) == (pytest.approx(0.0), 0.0)
    assert adl.contract_ledger(together.fund, "A")["balance"].to_list()[-1] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("fund", "told"),
    [
        ({"groups": {"x": ["A"], "y": ["A"]}}, "A is in group 'x' already"),
        ({"groups": {"x": ["A"]}, "scope": "pooled"}, "one of the two"),
        ({"groups": {"all": ["A"]}}, "another name"),
        ({"groups": {"B": ["A"]}}, "B is a symbol that is not in it"),
        ({"groups": {"x": 3}}, "groups"),
    ],
)
def test_what_cannot_be_is_refused(fund, told):
    bars, accounts = two_symbols()
    with pytest.raises(InputError, match=told):
        perpbt.simulate(bars, accounts, fund=fund)
