"""The coupled market: the engine against the naive coupled oracle with `==`, conservation, who is touched, faults.

Random books are those of `coupled_books`; the oracle's ADL policy is the library's, called one candidate at a time.
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
from test_engine_equals_oracle import NUMBERS, engine_bars, engine_rules, engine_venue, plain

import perpbt
from perpbt.errors import InputError
from perpbt.running.terms import terms_of
from perpbt.summary import render

MADE = settings(
    max_examples=int(os.environ.get("PERPBT_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
POLICIES = (
    "bitmex",
    "okx",
    "hyperliquid",
    "pro_rata:contracts",
    "pro_rata:profit",
    "capped_pro_rata",
    "water_filling",
)
FLOWS = (
    "liquidation_fees",
    "surplus",
    "fee_share",
    "deficit",
    "adl",
    "outside",
    "socialised",
    "uncovered",
    "balance",
)


@st.composite
def couplings(draw):
    """Options of a coupled run: (CouplingSpec's keys, AdlSpec's keys)."""
    adl = {
        "policy": draw(st.sampled_from(POLICIES)),
        "price": draw(st.sampled_from(("bankruptcy", "bankruptcy", "mark", "previous_mark"))),
        "lot": draw(st.sampled_from((None, None, 0.5))),
        "fee": draw(st.sampled_from((0.0, 0.001))),
        "outside": draw(st.sampled_from((0.0, 500.0))),
    }
    trigger = {"drawdown": 0.3, "least": draw(st.sampled_from((0.0, 10.0))), "window": "3h", "resume": 0.25}
    spec = {
        "kind": "adl",
        "socialised": draw(st.sampled_from(("none", "none", "profit", "size"))),
        "trigger": draw(st.sampled_from((None, None, trigger))),
    }
    return spec, adl


def oracle_options(spec, adl, crowding=False):
    """The same for the oracle."""
    trigger = spec["trigger"] and spec["trigger"] | {"window": 3 * made.HOUR}
    return {
        "adl": True, "price": adl["price"], "fee": adl["fee"], "outside": adl["outside"], "crowding": crowding,
        "socialised": None if spec["socialised"] == "none" else spec["socialised"], "trigger": trigger,
    }  # fmt: skip


def seeded(venue, seed):
    """A venue with a fund of this size, and fills that slip: deficits are frequent."""
    return venue | {"fund_seed": seed, "half_spread": 0.004, "impact": 0.5, "max_slippage": 0.5}


def same_rows(rows, expected):
    """Every field of every row, with `==`."""
    for row, wanted in zip(rows, expected, strict=True):
        for name in (*NUMBERS, "exit_reason", "rejection", "entry_time", "exit_time"):
            if wanted["exit_reason"] == "rejected" and name in ("entry_time", "exit_time"):
                continue
            assert row[name] == wanted[name], (
                row["account"],
                name,
                row[name],
                wanted[name],
                wanted["exit_reason"],
            )


def same_ledger(ledger, expected):
    """Sums over accounts to 1e-12 of the flows."""
    key = ("time", "world", "symbol")

    def moved(rows):  # not the opening rows
        some = [row for row in rows if any(row[name] for name in FLOWS[:-1])]
        return sorted(some, key=lambda row: (row["time"], row["world"], row["symbol"]))

    found, wanted = moved(ledger), moved(expected)
    assert [tuple(row[name] for name in key) for row in found] == [
        tuple(row[name] for name in key) for row in wanted
    ]
    gross = 1 + math.fsum(abs(row[name]) for row in wanted for name in FLOWS[:-1])
    for row, other in zip(found, wanted, strict=True):
        for name in FLOWS:
            assert row[name] == pytest.approx(other[name], abs=1e-11 * gross), (name, row, other)


def run(book, venue, rules, spec, adl, **options):
    return perpbt.simulate(
        engine_bars(book), book["accounts_frame"], venue=engine_venue(venue), rules=engine_rules(rules),
        coupling=spec, adl=adl, **options,
    )  # fmt: skip


@MADE
@given(
    coupled.books(),
    made.venues(),
    made.rules(),
    couplings(),
    st.sampled_from((0.0, 0.0, 200.0)),
    st.booleans(),
    st.sampled_from(("skip", "dense")),
)
def test_deleveraging_is_that_of_the_oracle(book, venue, rules, coupling, seed, crowding, engine):
    as_the_oracle(book, seeded(venue, seed), rules, coupling, crowding, engine)


def as_the_oracle(book, venue, rules, coupling, crowding=False, engine="skip"):
    """Rows, ledger and deleveragings of the engine are those of the oracle."""
    spec, adl = coupling
    expected = coupled.run_together(
        book, venue, rules, oracle_options(spec, adl, crowding), coupled.policy(adl["policy"], adl["lot"])
    )
    result = run(book, venue, rules, spec, adl, crowding=crowding, engine=engine)
    same_rows(plain(result.accounts), expected["rows"])
    same_ledger(plain(result.fund), expected["ledger"])
    told = plain(result.extra["adl"].filter(pl.col("kind") == "adl"))
    wanted = sorted(
        expected["adl"],
        key=lambda row: (row["time"], row["phase"], row["world"], row["symbol"], row["account"]),
    )
    assert len(told) == len(wanted)
    for row, other in zip(told, wanted, strict=True):
        for name in (
            "time",
            "world",
            "symbol",
            "account",
            "quantity",
            "fraction",
            "price",
            "given_up",
            "weight",
        ):
            assert row[name] == other[name], (name, row, other)


@st.composite
def pressures(draw):
    """PressureSpec's keys."""
    curve = draw(st.sampled_from((None, None, ((0.25, 0.25), (1.0, 0.5), (2.0, 3.0)), ((1.0, 0.25),))))
    return {
        "law": "curve" if curve else draw(st.sampled_from(("square_root", "linear"))),
        "curve": curve,
        "strength": draw(st.sampled_from((0.0, 0.3, 1.0))),
        "scale": draw(st.sampled_from(("volatility", "none"))),
        "depth": draw(st.sampled_from((None, 1e4, 1e5))),
        "most": draw(st.sampled_from((0.05, 0.3))),
        "mark_share": draw(st.sampled_from((1.0, 0.5, 0.0))),
        "decay": draw(st.sampled_from((0.25, 0.5, 1.0))),
    }


@MADE
@given(
    coupled.books(),
    made.venues(),
    made.rules(),
    couplings(),
    pressures(),
    st.sampled_from((0.0, 200.0)),
    st.booleans(),
    st.booleans(),
)
def test_cascades_are_those_of_the_oracle(
    book, venue, rules, coupling, pressure, seed, crowding, deleverages
):
    spec, adl = coupling
    venue = seeded(venue, seed)
    adl, spec = (adl, spec) if deleverages else (None, spec | {"trigger": None})
    spec = spec | {"kind": "cascade", "pressure": pressure}
    known = oracle_options(spec, adl or {"price": "bankruptcy", "fee": 0.0, "outside": 0.0}, crowding)
    options = known | {"adl": deleverages, "pressure": pressure | {"share": pressure["mark_share"]}}
    policy = coupled.policy(adl["policy"], lot=adl["lot"]) if adl else coupled.policy("bitmex")
    expected = coupled.run_together(book, venue, rules, options, policy)
    result = run(book, venue, rules, spec, adl, crowding=crowding)
    same_rows(plain(result.accounts), expected["rows"])
    same_ledger(plain(result.fund), expected["ledger"])
    told = plain(result.extra["cascades"])
    wanted = sorted(
        expected["cascades"],
        key=lambda row: (row["time"], row["world"], row["symbol"], "BC".index(row["phase"]), -row["side"]),
    )
    assert len(told) == len(wanted)
    for row, other in zip(told, wanted, strict=True):
        for name in (
            "time",
            "world",
            "symbol",
            "rounds",
            "liquidations",
            "first",
            "volume",
            "first_volume",
            "displacement",
        ):
            assert row[name] == other[name], (name, row, other)


# ------------------------------------------------------------------------------------------ small, by hand
HOURS = [made.START + made.HOUR * k for k in range(8)]


def bars_of(prices):
    """Bars of one symbol from (open, high, low, close)."""
    rows = [dict(zip(("open", "high", "low", "close"), price, strict=True)) for price in prices]
    frame = pl.DataFrame([{"ts": ts, "symbol": "AAA", **row} for ts, row in zip(HOURS, rows, strict=False)])
    return frame.with_columns(
        pl.col("ts").cast(made.TIME), pl.col("open", "high", "low", "close").cast(pl.Float64)
    )


def accounts_of(rows, **more):
    """Accounts from (name, side, collateral, leverage), entered at the first bar."""
    table = pl.DataFrame(
        [
            {"account": name, "side": side, "collateral": float(money), "leverage": float(leverage)}
            for name, side, money, leverage in rows
        ]
    )
    start = pl.lit(HOURS[0]).cast(made.TIME).alias("entry_time")
    return table.with_columns(start, strategy=pl.lit("given"), symbol=pl.lit("AAA"), **more)


FREE = {
    "taker_fee": 0.0, "maker_fee": 0.0, "slippage": 0.0, "liquidation_fee": 0.0, "close_out_rate": 0.0,
    "half_spread": 0.0, "impact": 0.0, "max_slippage": 0.5, "maintenance_on": "mark", "surplus_to_fund": 1.0,
    "fund_seed": 0.0, "fund_fee_share": 0.0, "fund_scope": "symbol",
    "tiers": [{"floor": 0.0, "cap": 1e9, "rate": 0.01, "max_leverage": 125.0, "deduction": 0.0}],
}  # fmt: skip


def simulate(prices, accounts, coupling="adl", seed=0.0, **options):
    venue = engine_venue({**FREE, "fund_seed": seed})
    return perpbt.simulate(bars_of(prices), accounts, venue=venue, coupling=coupling, **options)


GAP = [(100.0, 100.0, 100.0, 100.0), (80.0, 80.0, 80.0, 80.0), (85.0, 85.0, 85.0, 85.0)]


def test_a_gap_against_one_long_is_taken_from_the_short_at_the_bankruptcy_price():
    """Long 10x on 100, gone to 80: bankrupt at 90, filled at 80, 10 lost; the short is closed at 90, not 80, and gives up 10."""
    result = simulate(GAP, accounts_of([("long", "long", 10, 10), ("short", "short", 100, 1)]))
    (row,) = result.extra["adl"].to_dicts()
    assert (row["account"], row["phase"], row["bankrupt_side"], row["kind"]) == (
        "short",
        "open",
        "long",
        "adl",
    )
    assert (row["quantity"], row["fraction"], row["price"], row["given_up"]) == (1.0, 1.0, 90.0, 10.0)
    short = result.accounts.row(1, named=True)
    assert (short["exit_reason"], short["exit_price"], short["cash_change"]) == ("adl", 90.0, 10.0)
    assert (short["pnl"], short["surplus"]) == (
        20.0,
        10.0,
    )  # at the market's 80, of which 10 went to the fund
    drawn = result.fund.filter(pl.col("deficit") > 0).row(0, named=True)
    assert (drawn["deficit"], drawn["adl"], drawn["uncovered"], drawn["balance"]) == (10.0, 10.0, 0.0, 0.0)
    assert result.metadata["money"]["adl"] == 10.0


def test_how_well_a_round_was_spread():
    """A short of 100 at 1x is the one winner: of the 10 dollars between mark and bankruptcy price it gives 10 of its equity of 120."""
    run = simulate(GAP, accounts_of([("long", "long", 10, 10), ("short", "short", 100, 1)]))
    (told,) = plain(run.extra["adl_rounds"])
    assert (told["symbol"], told["phase"], told["bankrupt_side"], told["winners"]) == (
        "AAA",
        "open",
        "long",
        1,
    )
    assert told["needed"] == told["taken"] == pytest.approx(10.0)
    assert (told["overshoot"], told["fairness_regret"]) == (
        pytest.approx(0.0, abs=1e-12),
        pytest.approx(0.0, abs=1e-12),
    )
    assert told["largest_share"] == pytest.approx(10.0 / 120.0)
    two = [("long", "long", 10, 10), ("five", "short", 20, 5), ("one", "short", 100, 1)]
    (queued,) = plain(simulate(GAP, accounts_of(two)).extra["adl_rounds"])
    # the first in the queue has 20 + 20 of equity and gives 10; 10 of all 160 would have done
    assert queued["fairness_regret"] == pytest.approx(10.0 * (10.0 / 40.0 - 10.0 / 160.0))


def test_whole_fund_first():
    """With 4 in the fund 6 of 10 are left: 0.6 of the quantity is closed, and the short lives on with 0.4."""
    result = simulate(GAP, accounts_of([("long", "long", 10, 10), ("short", "short", 100, 1)]), seed=4.0)
    (row,) = result.extra["adl"].to_dicts()
    assert row["quantity"] == pytest.approx(0.6, rel=1e-15)
    assert row["given_up"] == pytest.approx(6.0, rel=1e-15)
    short = result.accounts.row(1, named=True)
    assert short["exit_reason"] == "end"
    assert short["cash_change"] == pytest.approx(0.6 * 10 + 0.4 * 15, rel=1e-14)
    assert result.fund["balance"].to_list()[-1] == 0.0


def test_a_fund_that_can_pay_changes_nobody():
    """G29 of a venue's documentation: bankrupt at 99, one filled at 99.25, one at 98.75: the fund goes to .25 and back to 0."""
    prices = [
        (100.0, 100.0, 100.0, 100.0),
        (99.25, 99.25, 99.25, 99.25),
        (100.0, 100.0, 100.0, 100.0),
        (98.75, 98.75, 98.75, 98.75),
    ]
    accounts = accounts_of([("a", "long", 1, 100), ("b", "long", 1, 100), ("w", "short", 100, 1)])
    entries = pl.Series([HOURS[0], HOURS[2], HOURS[0]]).cast(made.TIME)
    venue = engine_venue({**FREE, "tiers": [{**FREE["tiers"][0], "rate": 0.008}]})
    result = perpbt.simulate(
        bars_of(prices), accounts.with_columns(entry_time=entries), venue=venue, coupling="adl"
    )
    assert result.extra["adl"].height == 0
    assert result.fund.filter(pl.col("surplus") + pl.col("deficit") > 0)["balance"].to_list() == [0.25, 0.0]


@pytest.mark.parametrize("engine", ["skip", "dense"])
def test_a_deficit_that_is_rounding_closes_nobody(engine):
    """Slippage equal to the maintenance rate sells a long at its bankruptcy price: what is left is 0, or a rounding below it."""
    rows = [(f"l{k:02d}", "long", 7.0 + k / 3, 9 + k) for k in range(40)]
    slide = [(100.0, 100.0, 100.0, 100.0), (100.0, 100.0, 80.0, 80.0), (80.0, 80.0, 80.0, 80.0)]
    exact = engine_venue({**FREE, "slippage": 0.01})
    people = accounts_of([*rows, ("short", "short", 9_000, 1)])
    result = perpbt.simulate(bars_of(slide), people, venue=exact, coupling="adl", engine=engine)
    deficit = result.accounts["deficit"]
    assert 0.0 < deficit.sum() < 1e-9
    assert result.extra["adl"].height == 0
    assert result.accounts.filter(pl.col("account") == "short")["exit_reason"].to_list() == ["end"]


@MADE
@given(coupled.books(), made.venues(), couplings(), st.sampled_from(("skip", "dense")))
def test_rounding_deficits_are_those_of_the_oracle(book, venue, coupling, engine):
    """The same with fills at the bankruptcy price but for rounding, of any book."""
    rate = venue["tiers"][0]["rate"] + venue["close_out_rate"]
    exact = {"half_spread": rate, "impact": 0.0, "slippage": rate, "taker_fee": 0.0, "liquidation_fee": 0.0}
    as_the_oracle(book, seeded(venue, 0.0) | exact, {}, coupling, engine=engine)


def test_the_queue_of_the_documented_example():
    """G28: longs of 10, 10, 20, 30, 20, 10 ranked 2, 5, 4, 1, 6, 3; of a short of 20 the first two give 10 each, at its bankruptcy price."""
    prices = [(600.0, 600.0, 600.0, 600.0), (700.0, 700.0, 700.0, 700.0)]
    leverage = {"1": 3.0, "2": 6.0, "3": 1.0, "4": 4.0, "5": 5.0, "6": 2.0}
    quantity = {"1": 10, "2": 10, "3": 20, "4": 30, "5": 20, "6": 10}
    rows = [(name, "long", quantity[name] * 600 / leverage[name], leverage[name]) for name in quantity]
    result = simulate(prices, accounts_of([*rows, ("short", "short", 1000, 12)]))  # bankrupt at 650
    told = result.extra["adl"].sort("account")
    assert told["account"].to_list() == ["2", "5"]
    assert told["quantity"].to_list() == pytest.approx([10.0, 10.0])
    assert told["price"].to_list() == pytest.approx([650.0, 650.0])


def test_only_opposing_winners_of_the_same_world_are_touched():
    rows = [
        ("bankrupt", "long", 10, 10),
        ("loser", "short", 100, 1),
        ("long", "long", 100, 1),
        ("elsewhere", "short", 100, 1),
    ]
    world = pl.Series("world", ["a", "a", "a", "b"])
    late = pl.Series("entry_time", [HOURS[0], HOURS[1], HOURS[0], HOURS[0]]).cast(made.TIME)
    result = simulate(GAP, accounts_of(rows).with_columns(world, late))
    assert (
        result.extra["adl"].height == 0
    )  # one entered at this open, one is long, one lives in another world
    assert result.fund["uncovered"].sum() == 10.0


@pytest.mark.parametrize("outside", [0.0, 45.0, 1e6])
def test_an_outside_counterparty_takes_what_winners_are_too_few_for(outside):
    result = simulate(
        GAP, accounts_of([("long", "long", 10, 10), ("short", "short", 25, 1)]), adl={"outside": outside}
    )
    drawn = result.fund.filter(pl.col("deficit") > 0).row(0, named=True)
    taken = min(0.75, outside / 90.0) * 10.0
    assert drawn["adl"] == pytest.approx(2.5)
    assert drawn["outside"] == pytest.approx(taken)
    assert drawn["uncovered"] == pytest.approx(7.5 - taken)


@pytest.mark.parametrize(("kind", "shares"), [("profit", (5.0, 5.0, 0.0)), ("size", (2.5, 2.5, 5.0))])
def test_a_loss_is_socialised(kind, shares):
    """Without deleveraging: 10 lost, pro rata to profit over two shorts, or to size over all three who are left."""
    rows = [
        ("bankrupt", "long", 10, 10),
        ("s1", "short", 50, 1),
        ("s2", "short", 50, 1),
        ("l", "long", 100, 1),
    ]
    result = simulate(GAP, accounts_of(rows), coupling={"kind": "fund", "socialised": kind})
    told = dict(zip(result.extra["adl"]["account"], result.extra["adl"]["given_up"], strict=True))
    assert [told.get(name, 0.0) for name in ("s1", "s2", "l")] == pytest.approx(shares)
    drawn = result.fund.filter(pl.col("deficit") > 0).row(0, named=True)
    assert (drawn["socialised"], drawn["uncovered"]) == pytest.approx((10.0, 0.0))
    check_rows(result)


def check_rows(result):
    """MODEL §8 by position and by run, from the tables alone."""
    rows = result.accounts.filter(pl.col("rejection").is_null())
    came = rows["cash_change"] + rows["fees"] + rows["liquidation_fee"] + rows["surplus"] - rows["deficit"]
    assert all((came - rows["pnl"] - rows["funding"]).abs() <= 1e-9 * (1 + rows["collateral"]))
    weight, share = rows["weight"], result.metadata["fund"]["fee_share"]
    fund = result.fund
    paid = fund["deficit"] - fund["adl"] - fund["outside"] - fund["socialised"] - fund["uncovered"]
    change = (fund["liquidation_fees"] + fund["surplus"] + fund["fee_share"] - paid).sum()
    total = (weight * rows["cash_change"]).sum() + (1 - share) * (weight * rows["fees"]).sum() + change
    gave = (weight * (rows["pnl"] + rows["funding"])).sum() + fund["outside"].sum() + fund["uncovered"].sum()
    assert total == pytest.approx(gave, abs=1e-9 * (1 + (weight * rows["collateral"]).sum()))


HALVED = [(100.0, 100.0, 100.0, 100.0), (50.0, 50.0, 50.0, 50.0), (50.0, 100.0, 50.0, 100.0)]
FAULTS = {
    "an empty side": [(f"l{k}", "long", 10, 10) for k in range(5)],
    "everyone on one side but one": [*((f"l{k}", "long", 10, 10) for k in range(5)), ("s", "short", 1, 1)],
    "all fall": [
        *((f"l{k}", "long", 10, 50) for k in range(5)),
        *((f"s{k}", "short", 10, 100) for k in range(5)),
    ],
    "enough winners": [
        *((f"l{k}", "long", 10, 10) for k in range(5)),
        *((f"s{k}", "short", 500, 1) for k in range(3)),
    ],
}


@pytest.mark.parametrize("rows", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("kind", ["adl", "cascade"])
@pytest.mark.parametrize("policy", ["bitmex", "pro_rata"])
@pytest.mark.parametrize("seed", [0.0, 30.0], ids=["a fund of zero", "a fund too small"])
def test_a_price_that_halves_in_one_bar_ends_and_balances(rows, kind, policy, seed):
    """It finishes, money is conserved by row and by run, and what nobody covers is said."""
    coupling = {"kind": kind, "pressure": {"depth": 1e4, "scale": "none"}} if kind == "cascade" else kind
    result = simulate(HALVED, accounts_of(rows), coupling=coupling, adl={"policy": policy}, seed=seed)
    check_rows(result)
    fund = result.fund
    covered = fund["adl"] + fund["outside"] + fund["socialised"] + fund["uncovered"]
    assert fund["deficit"].sum() > 0.0
    assert covered.sum() >= fund["deficit"].sum() - seed - fund["surplus"].sum() - 1e-9
    if seed == 0.0 and kind == "adl":
        assert covered.sum() == pytest.approx(fund["deficit"].sum())  # a fund of zero pays nothing
    assert fund["balance"].min() >= 0.0
    gone = result.accounts.filter(pl.col("side") == "long")
    assert set(gone["exit_reason"]) == {"liquidation"}
    if {side for _, side, *_ in rows} == {"long"}:  # nobody is there to be closed
        assert result.extra["adl"].height == 0
        assert fund["uncovered"].sum() > 0.0
    some = fund["uncovered"].sum() > 1e-9
    assert any("too few who could carry them" in note for note in result.metadata["notes"]) == some


@pytest.mark.parametrize("kind", ["adl", "cascade"])
@pytest.mark.parametrize("engine", ["skip", "dense"])
def test_a_bar_where_all_fall_in_its_range(kind, engine):
    """Both sides are liquidated in the range of one bar: there are no winners left, and the last bar finds nobody."""
    prices = [(100.0, 100.0, 100.0, 100.0), (100.0, 200.0, 50.0, 100.0), (100.0, 100.0, 100.0, 100.0)]
    rows = [
        *((f"l{k}", "long", 10, 5 + k) for k in range(5)),
        *((f"s{k}", "short", 10, 5 + k) for k in range(5)),
    ]
    result = simulate(prices, accounts_of(rows), coupling=kind, engine=engine)
    check_rows(result)
    assert set(result.accounts["exit_reason"]) == {"liquidation"}
    assert result.extra["adl"].height == 0


@pytest.mark.parametrize("kind", ["adl", "cascade"])
def test_everyone_on_one_side_and_everyone_refused(kind):
    one_side = [(f"l{k}", "long", 10, 20) for k in range(8)]
    result = simulate(HALVED, accounts_of(one_side), coupling=kind)
    check_rows(result)
    assert result.extra["adl"].height == 0
    nobody = simulate(HALVED, accounts_of([("l", "long", 10, 500)]), coupling=kind)  # above the venue's 125x
    assert nobody.accounts["exit_reason"].to_list() == ["rejected"]
    assert nobody.extra["adl"].height == 0


@MADE
@given(coupled.books(symbols=1), made.venues(), couplings(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(book, venue, coupling, random):
    spec, adl = coupling
    venue, rules = seeded(venue, 0.0), {}
    first = run(book, venue, rules, spec, adl)
    table = book["accounts_frame"]
    order = list(range(table.height))
    random.shuffle(order)
    second = run({**book, "accounts_frame": table[order]}, venue, rules, spec, adl)
    assert first.accounts.sort("account").equals(second.accounts.sort("account"))
    assert first.extra["adl"].equals(second.extra["adl"])
    assert first.fund.equals(second.fund)
    check_rows(first)


@MADE
@given(coupled.books(), made.venues(), st.booleans())
def test_a_fund_shared_and_said_so_is_the_default_run(book, venue, crowding):
    venue = seeded(venue, 100.0)
    alone = run(book, venue, {}, None, None, crowding=crowding)
    said = run(book, venue, {}, "fund", None, crowding=crowding)
    assert alone.accounts.equals(said.accounts)
    assert alone.fund.equals(said.fund)
    assert alone.statistics.equals(said.statistics)


@MADE
@given(coupled.books(), made.venues(), couplings())
def test_a_rich_fund_deleverages_nobody(book, venue, coupling):
    spec, adl = coupling
    venue = seeded(venue, 1e9)
    alone = run(book, venue, {}, None, None)
    together = run(book, venue, {}, spec | {"trigger": None}, adl)
    assert together.extra["adl"].height == 0
    assert alone.accounts.equals(together.accounts)
    assert alone.statistics.equals(together.statistics)
    kept = together.fund.select(alone.fund.columns)
    assert kept.equals(alone.fund)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"coupling": "all"}, "allowed: None, 'fund', 'adl', 'cascade'"),
        ({"coupling": 3}, "coupling is of type int"),
        ({"adl": {}}, "adl without coupling"),
        ({"coupling": "fund", "adl": {}}, "adl goes with kind"),
        ({"coupling": "adl", "adl": {"policy": "nobody"}}, "policy is 'nobody'"),
        ({"coupling": "adl", "adl": {"options": {"cap": 0.5}}}, "takes no 'cap'"),
        (
            {"coupling": "adl", "adl": {"policy": "capped_pro_rata", "options": {"cap": 2}}},
            "adl.options: cap is 2.0",
        ),
        ({"coupling": "adl", "adl": {"price": "last"}}, "price = 'last'"),
        ({"coupling": "adl", "adl": {"lot": 0}}, "lot = 0: must be a number above 0"),
        ({"coupling": {"kind": "adl", "socialised": "all"}}, "socialised = 'all'"),
        ({"coupling": {"kind": "fund", "trigger": {"drawdown": 0.3}}}, "trigger goes with"),
        (
            {"coupling": {"kind": "adl", "trigger": {"drawdown": 2}}},
            "CouplingSpec: trigger.drawdown = 2: must be a number above 0",
        ),
        (
            {"coupling": {"kind": "adl", "trigger": {"drawdown": 0.3, "resume": 0.5}}},
            "resume = 0.5: at most drawdown, 0.3",
        ),
        ({"coupling": {"kind": "adl", "trigger": "always"}}, "trigger = 'always': must be 'venue'"),
        ({"coupling": {"kind": "adl", "pressure": {"strength": 2}}}, "pressure goes with kind"),
        ({"coupling": "adl", "memory": "4GiB"}, "memory with coupling"),
        ({"coupling": {"kind": "cascade", "pressure": {"decay": 0}}}, "decay = 0: must be a number above 0"),
        ({"coupling": "adl", "margin": "cross"}, "coupling does not go with margin"),
    ],
)
def test_what_cannot_be_is_refused(options, told):
    with pytest.raises(InputError, match=told.replace("(", r"\(")):
        simulate(GAP, accounts_of([("a", "long", 10, 10)]), **{"coupling": None, **options})


def test_tables_are_written_and_reported(tmp_path):
    result = simulate(
        GAP, accounts_of([("long", "long", 10, 10), ("short", "short", 100, 1)]), equity_every="1h"
    )
    folder = result.write(tmp_path / "run")
    assert pl.read_parquet(folder / "adl.parquet").equals(result.extra["adl"])
    shown = render(result)
    assert "Where accounts meet\n  closings of winners, of 1 accounts" in shown
    assert "auto-deleveraged" in (folder / "report.html").read_text(encoding="utf-8")
    short = result.equity.filter(pl.col("account") == "short")["equity"].to_list()
    assert short == [100.0, 110.0, 110.0]


# ---------------------------------------------------------------------------------------------- cascades
def ladder_of_longs(density, deepest=0.4, step=2e-4):
    """Longs liquidated at even distances below 1, notional `density` per unit of distance, no maintenance to speak of."""
    distances = [step * (k + 0.5) for k in range(int(deepest / step))]
    return accounts_of([(f"{k:05d}", "long", density * step * x, 1 / x) for k, x in enumerate(distances)])


def pushed(shock, density, pressure):
    """The push that a fall by `shock` inside a bar sets off."""
    venue = engine_venue({**FREE, "tiers": [{**FREE["tiers"][0], "rate": 1e-9, "max_leverage": 1e6}]})
    prices = [(1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0 - shock, 1.0)]
    coupling = {"kind": "cascade", "pressure": {"scale": "none", "depth": 1.0, "most": 0.9, **pressure}}
    result = perpbt.simulate(bars_of(prices), ladder_of_longs(density), venue=venue, coupling=coupling)
    (row,) = result.extra["cascades"].to_dicts()
    assert row["phase"] == "range"
    assert row["side"] == "long"
    return row, result


@pytest.mark.parametrize(("n", "reached"), [(0.3, 0.0714286), (0.7, 0.1666667)])
def test_linear_impact_amplifies_by_one_over_one_minus_n(n, reached):
    row, result = pushed(0.05, 1.0, {"law": "linear", "strength": n})
    assert 0.05 - row["displacement"] == pytest.approx(reached, abs=1e-3)
    assert row["amplification"] == pytest.approx(1 / (1 - n), rel=1e-2)
    assert row["branching_ratio"] == pytest.approx(n, abs=1e-2)
    shown = render(result)
    assert "liquidations that feedback caused, by weight" in shown
    assert max(len(line) for line in shown.splitlines()) < 130  # 2,000 leverages are told in bands
    assert result.metadata["coupling"]["share_caused_by_feedback"] == pytest.approx(n, abs=1e-2)


def test_square_root_impact_reaches_its_closed_form():
    row, _ = pushed(0.05, 1.0, {"law": "square_root", "strength": 0.15})
    assert 0.05 - row["displacement"] == pytest.approx(0.0966274292, abs=1e-3)


def test_a_depth_curve_is_walked_to_its_least_fixed_point():
    """A book that gives way by 2 % for the first 0.06 sold and by 40 % for 0.02 more. From a fall of 0.03 it comes to rest at 0.045, where
    0.03 + x / 3 = x; from 0.05 it passes the knee, beyond which each sale pushes further than it stands, to the cap.
    """
    knee = [(0.06, 0.02), (0.08, 0.42)]
    row, _ = pushed(0.03, 1.0, {"law": "curve", "curve": knee})  # 0.03 + x / 3 = x at 0.045: before the knee
    assert 0.03 - row["displacement"] == pytest.approx(0.045, abs=1e-3)
    row, _ = pushed(0.05, 1.0, {"law": "curve", "curve": knee, "most": 0.3})
    assert -row["displacement"] == pytest.approx(0.3)
    straight, _ = pushed(
        0.05, 1.0, {"law": "curve", "curve": [(0.1, 0.03)]}
    )  # beyond its last point as before it
    linear, _ = pushed(0.05, 1.0, {"law": "linear", "strength": 0.3})
    assert straight["displacement"] == pytest.approx(linear["displacement"], rel=1e-9)


@pytest.mark.parametrize(
    ("pressure", "told"),
    [
        ({"law": "curve"}, "curve goes with law"),
        ({"curve": [[1.0, 0.1]]}, "curve goes with law"),
        ({"law": "curve", "curve": []}, "at least one pair"),
        ({"law": "curve", "curve": [[1.0, 0.2], [1.0, 0.3]]}, "must lie beyond"),
        ({"law": "curve", "curve": [[1.0, 0.2], [2.0, 0.1]]}, "must lie beyond"),
    ],
)
def test_a_curve_that_does_not_rise_is_refused(pressure, told):
    with pytest.raises(InputError, match=told):
        pushed(0.05, 1.0, pressure)


def test_beyond_a_branching_ratio_of_one_all_fall():
    row, _ = pushed(0.05, 1.0, {"law": "linear", "strength": 1.2})
    assert row["liquidations"] == 2000
    assert -row["displacement"] == pytest.approx(1.2 * 0.4)


@MADE
@given(coupled.books(), made.venues(), st.sampled_from(("skip", "dense")))
def test_without_strength_nothing_is_pushed(book, venue, engine):
    venue = seeded(venue, 1e9)  # what a fund cannot pay is told apart by range and end of the data here
    alone = run(book, venue, {}, None, None, engine=engine)
    together = run(
        book, venue, {}, {"kind": "cascade", "pressure": {"strength": 0.0, "depth": 1.0}}, None, engine=engine
    )
    assert alone.accounts.equals(together.accounts)
    assert alone.statistics.equals(together.statistics)


@MADE
@given(coupled.books(), made.venues(), couplings(), pressures(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_cascade(book, venue, coupling, pressure, random):
    spec, adl = coupling
    spec, venue = spec | {"kind": "cascade", "pressure": pressure}, seeded(venue, 0.0)
    first = run(book, venue, {}, spec, adl)
    table = book["accounts_frame"]
    order = list(range(table.height))
    random.shuffle(order)
    second = run({**book, "accounts_frame": table[order]}, venue, {}, spec, adl)
    assert first.accounts.sort("account").equals(second.accounts.sort("account"))
    for name in ("adl", "cascades"):
        assert first.extra[name].equals(second.extra[name])
    check_rows(first)


def test_what_is_left_open_is_as_the_venue_does_it():
    left = terms_of({"kind": "adl", "trigger": "venue"}, None).at(
        {"policy": "okx", "price": "mark"}, {"drawdown": 0.3, "least": 50_000.0}
    )
    assert (left.policy, left.price, left.trigger.least) == ("okx", "mark", 50_000.0)
    stated = terms_of("adl", {"policy": "pro_rata", "price": "bankruptcy"}).at(
        {"policy": "okx", "price": "mark"}, None
    )
    assert (stated.policy, stated.price, stated.trigger) == ("pro_rata", "bankruptcy", None)
    with pytest.raises(InputError, match="no table"):
        terms_of({"kind": "adl", "trigger": "venue"}, None).at(None, None)


def test_a_fund_that_stops_before_it_is_empty():
    """A fund of 1,000,000 that pays down to 70 % of its level: of 350,000 lost it pays 300,000, and winners the rest (G31)."""
    rows = [("long", "long", 350_000, 10), ("short", "short", 35_000_000, 1)]
    coupling = {"kind": "adl", "trigger": {"drawdown": 0.3, "resume": 0.25}}
    result = simulate(GAP, accounts_of(rows), coupling=coupling, seed=1_000_000.0)
    drawn = result.fund.filter(pl.col("deficit") > 0).row(0, named=True)
    assert (drawn["deficit"], drawn["adl"], drawn["balance"]) == pytest.approx(
        (350_000.0, 50_000.0, 700_000.0)
    )
