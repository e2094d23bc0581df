"""A clearing house: waterfall, netting and sizing against closed forms and matrices by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bars import START, made_bars

import perpbt
from perpbt import clearing

SOME = settings(max_examples=60, deadline=None)
MONEY = st.one_of(st.just(0.0), st.floats(0.01, 1e7))


# -------------------------------------------------------------------------------------------------------- waterfall
def test_layers_are_used_in_their_order() -> None:
    """A owes 100: 10 margin, 20 own contribution, 15 own capital, 40 of B and C, 5 second tranche, 10 unpaid."""
    layers = clearing.Layers(
        margin={"A": 10.0, "B": 500.0},
        contribution=20.0,
        own_capital=15.0,
        own_capital_second=5.0,
        assessment=0.0,
    )
    met = clearing.settle({"A": 100.0, "B": 0.0, "C": 0.0}, layers)
    assert [met[name]["A"] for name in clearing.LAYERS] == [10, 20, 15, 40, 5, 0, 10]
    called = clearing.settle(
        {"A": 100.0, "B": 0.0, "C": 0.0}, clearing.Layers(contribution=20.0, assessment=0.75)
    )
    assert [called[name]["A"] for name in clearing.LAYERS] == [0, 20, 0, 40, 0, 30, 10]


def test_margin_of_others_is_never_touched() -> None:
    met = clearing.settle({"A": 100.0, "B": 0.0}, clearing.Layers(margin={"B": 1e9}))
    assert met["unpaid"]["A"] == 100.0
    covered = clearing.settle({"A": 5.0, "B": 0.0}, clearing.Layers(margin=10.0, contribution=7.0))
    assert covered["margin"]["A"] == 5.0  # who pays from margin has not defaulted
    assert not clearing.House(["A"], clearing.Layers(margin=10.0)).settle([5.0]).defaulted.any()


def test_a_settlement_that_loses_money_is_refused() -> None:
    done = clearing.House(["A", "B"], clearing.Layers(contribution=10.0)).settle([15.0, 0.0])
    done.check()
    done.met["unpaid"][0] += 1.0
    with pytest.raises(perpbt.RunError, match="layers sum to 16"):
        done.check()
    done.given["mutualised"][1] = 3.0
    with pytest.raises(perpbt.RunError, match="mutualised of 3"):
        done.check()
    with pytest.raises(perpbt.InputError, match="allowed: 2 finite numbers"):
        clearing.House(["A", "B"], clearing.Layers()).settle([-1.0, 0.0])


def test_two_that_default_together_share_what_is_left_by_what_they_lack() -> None:
    house = clearing.House(
        ["A", "B", "C"], clearing.Layers(contribution=10.0, own_capital=6.0, assessment=0.0)
    )
    done = house.settle([40.0, 20.0, 0.0])
    assert done.met["own_capital"].tolist() == [4.5, 1.5, 0.0]  # 30 and 10 are lacking
    assert done.met["mutualised"].tolist() == [7.5, 2.5, 0.0]
    assert done.given["mutualised"].tolist() == [0, 0, 10]
    assert math.fsum(done.met["unpaid"]) == 24.0


@SOME
@given(
    losses=st.lists(MONEY, min_size=1, max_size=8),
    amounts=st.tuples(MONEY, MONEY, MONEY, MONEY, st.floats(0, 4)),
    replenished=st.booleans(),
)
def test_every_period_conserves_money(
    losses: list[float], amounts: tuple[float, ...], replenished: bool
) -> None:
    margin, contribution, own, second, assessment = amounts
    layers = clearing.Layers(margin, contribution, own, second, assessment, replenished)
    house = clearing.House(list(range(len(losses))), layers)
    spent = 0.0
    for _ in range(3):
        done = house.settle(losses)
        used = {name: math.fsum(met) for name, met in done.met.items()}
        assert math.fsum(used.values()) == pytest.approx(math.fsum(losses), rel=1e-12)
        assert all((met >= 0.0).all() for met in done.met.values())
        assert used["own_capital"] <= own * (1 + 1e-12)
        assert (done.given["mutualised"] <= contribution * (1 + 1e-12)).all()
        assert (done.given["assessment"] <= assessment * contribution * (1 + 1e-12)).all()
        assert (done.given["mutualised"][done.defaulted] == 0.0).all()
        spent += used["own_capital"]
    if not replenished:
        assert spent <= own * (1 + 1e-12)


@SOME
@given(losses=st.lists(MONEY, min_size=2, max_size=6), more=st.floats(0, 1e6), contribution=MONEY)
def test_more_in_any_layer_leaves_no_more_unpaid(
    losses: list[float], more: float, contribution: float
) -> None:
    owed = dict(enumerate(losses))
    base = {"margin": 100.0, "contribution": contribution, "own_capital": 50.0, "assessment": 1.0}

    def unpaid(**layers: float) -> float:
        return math.fsum(clearing.settle(owed, clearing.Layers(**layers))["unpaid"].values())

    for name in ("contribution", "own_capital", "margin"):
        larger = unpaid(**{**base, name: base[name] + more})
        assert larger <= unpaid(**base) + 1e-9 * math.fsum(losses)


# ---------------------------------------------------------------------------------------------------------- netting
def test_duffie_and_zhu() -> None:
    """Twelve dealers, four classes: netting pairwise beats clearing one class, 8.77673 against 8.92401."""
    assert clearing.expected_bilateral(12, 4) == pytest.approx(8.77673, abs=5e-6)
    assert clearing.expected_cleared(12, 4) == pytest.approx(8.92401, abs=5e-6)
    assert not clearing.clearing_reduces_exposure(12, 4)
    for members, classes in itertools.product(range(3, 40), range(1, 12)):
        lower = clearing.expected_cleared(members, classes) < clearing.expected_bilateral(members, classes)
        assert clearing.clearing_reduces_exposure(members, classes) == lower


def test_exposures_of_random_claims_have_the_expected_mean() -> None:
    random = np.random.default_rng(3)
    members, classes, draws = 12, 4, 1500
    both = np.zeros((draws, 2))
    for draw in range(draws):
        above = np.triu(random.standard_normal((classes, members, members)), 1)
        claims = above - above.transpose(0, 2, 1)
        both[draw] = (
            clearing.bilateral_exposure(claims).mean(),
            clearing.cleared_exposure(claims, [0]).mean(),
        )
    error = both.std(axis=0) / math.sqrt(draws)
    for i, expected in enumerate((clearing.expected_bilateral(12, 4), clearing.expected_cleared(12, 4))):
        assert abs(both[:, i].mean() - expected) < 4 * error[i]


def test_exposures_by_hand() -> None:
    """A is owed 10 by B, B 10 by C, C 10 by A: a clearing house owes nobody anything."""
    ring = np.zeros((1, 3, 3))
    for owed, owing in ((0, 1), (1, 2), (2, 0)):
        ring[0, owed, owing], ring[0, owing, owed] = 10.0, -10.0
    assert clearing.bilateral_exposure(ring).tolist() == [10, 10, 10]
    assert clearing.cleared_exposure(ring).tolist() == [0, 0, 0]
    offset = np.concatenate([ring, -ring])  # two classes that cancel pairwise: clearing one undoes that
    assert clearing.bilateral_exposure(offset).tolist() == [0, 0, 0]
    assert clearing.cleared_exposure(offset, [0]).tolist() == [10, 10, 10]
    with pytest.raises(perpbt.InputError, match="antisymmetric"):
        clearing.bilateral_exposure(np.ones((1, 2, 2)))
    with pytest.raises(perpbt.InputError, match=r"shape \(2, 2\)"):
        clearing.bilateral_exposure(np.ones((2, 2)))


def positions(**changed: list[object]) -> pl.DataFrame:
    day = datetime(2024, 3, 1)
    columns: dict[str, list[object]] = {
        "account": [1, 2, 3, 4],
        "world": ["w"] * 4,
        "symbol": ["A", "A", "B", "B"],
        "side": ["long", "short", "long", "short"],
        "quantity": [10.0, 4.0, 2.0, 2.0],
        "entry_price": [100.0, 100.0, 50.0, 50.0],
        "margin": [100.0, 40.0, 10.0, 10.0],
        "weight": [1.0, 1.0, 2.0, 1.0],
        "exit_reason": ["liquidation", "time", "liquidation", "end"],
        "exit_time": [
            day + timedelta(hours=5),
            day + timedelta(hours=9),
            day + timedelta(days=1, hours=1),
            day,
        ],
        "deficit": [60.0, 0.0, 5.0, 0.0],
        "cash_change": [-100.0, 25.0, -10.0, 8.0],
    }
    return pl.DataFrame({**columns, **changed})


def test_positions_are_netted_within_a_member() -> None:
    table = clearing.netted_positions(positions(), {1: "X", 2: "X", 3: "X", 4: "Y"})
    assert table.rows() == [("X", 1600.0, 800.0, 800.0), ("Y", 100.0, 100.0, 100.0)]
    hedged = clearing.netted_positions(
        positions(symbol=["A", "B", "A", "B"], entry_price=[50.0] * 4), dict.fromkeys(range(1, 5), "X")
    )
    assert hedged.rows() == [("X", 500 + 200 + 200 + 100.0, 700 + 300.0, 400.0)]
    priced = clearing.netted_positions(positions(), 1, prices={"A": 10.0, "B": 1.0})
    assert priced.rows() == [("member 1", 146.0, 62.0, 62.0)]
    with pytest.raises(perpbt.InputError, match="none for B"):
        clearing.netted_positions(positions(), 1, prices={"A": 10.0})


def test_losses_of_members_by_netting() -> None:
    both = {1: "X", 2: "X", 3: "Y", 4: "Y"}
    for netting, first in (("none", 60.0), ("symbol", 35.0), ("member", 35.0)):
        table = clearing.member_losses(positions(), both, netting=netting)
        assert table["loss"].to_list() == [first, 10.0]  # Y's gain is of another day
        assert table["time"].to_list() == [datetime(2024, 3, 1), datetime(2024, 3, 2)]
    crossed = positions(symbol=["A", "B", "A", "B"])
    assert clearing.member_losses(crossed, both, netting="symbol")["loss"][0] == 60.0
    assert clearing.member_losses(crossed, both, netting="member")["loss"][0] == 35.0


# ----------------------------------------------------------------------------------------------------------- sizing
def test_cover_two_of_a_matrix_by_hand() -> None:
    losses = [[10.0, 50.0, 30.0, 0.0], [90.0, 5.0, 0.0, 8.0], [40.0, 40.0, 40.0, 40.0]]
    two = clearing.cover(losses, 20.0)
    assert (two.size, two.scenario, two.members) == (70.0, 1, (0,))
    assert two.uncovered.tolist() == [40, 70, 40]
    assert clearing.cover(losses, [60.0, 20, 20, 0]).members == (3, 1)
    one = clearing.cover(losses, 20.0, failing=1)
    assert (one.size, one.scenario) == (70.0, 1)
    assert clearing.cover(losses, 20.0, failing=3).size == 70.0
    assert clearing.cover(losses, failing=2).size == 98.0
    with pytest.raises(perpbt.InputError, match=r"losses\[0, 1\] is nan"):
        clearing.cover([[1.0, math.nan]])
    with pytest.raises(perpbt.InputError, match=r"margin has shape \(3,\); allowed: one amount, or \(2,\)"):
        clearing.cover([[1.0, 2.0]], [1.0, 2.0, 3.0])
    with pytest.raises(perpbt.InputError, match="failing is 5"):
        clearing.cover(losses, failing=5)
    with pytest.raises(perpbt.InputError, match="losses have shape"):
        clearing.cover([1.0, 2.0])


@SOME
@given(
    st.integers(2, 6).flatmap(
        lambda width: st.lists(
            st.lists(st.floats(0, 100), min_size=width, max_size=width), min_size=1, max_size=6
        )
    ),
    st.floats(0, 40),
)
def test_cover_grows_with_scenarios_and_members_and_falls_with_margin(
    losses: list[list[float]], margin: float
) -> None:
    one, two = (clearing.cover(losses, margin, failing=failing).size for failing in (1, 2))
    assert one <= two <= 2 * one + 1e-9
    assert clearing.cover(losses[:1], margin).size <= two
    assert two <= clearing.cover(losses, 0.0).size
    shuffled = [row[::-1] for row in losses]
    assert clearing.cover(shuffled, margin).size == two


def test_emir_concentration() -> None:
    assert clearing.concentration_factor([10.0, 40.0, 30.0, 20.0]) == 0.7
    assert clearing.concentration_factor([5.0]) == 1.0
    assert math.isnan(clearing.concentration_factor([0.0]))
    with pytest.raises(perpbt.InputError, match=r"exposures hold -1\.0"):
        clearing.concentration_factor([3.0, -1.0])


def test_scenarios_on_open_positions() -> None:
    """A falls by 30 %: the long of 10 loses 300 of 100 margin; the member's short in it has gained 120."""
    both = {1: "X", 2: "X", 3: "Y", 4: "Y"}
    moves = {"A down": {"A": -0.3}, "all down": {"A": -0.3, "B": -0.3}, "B up": {"B": 0.5}}
    gross, names, who = clearing.stressed_losses(positions(), moves, both)
    assert names == list(moves)
    assert who == ["X", "Y"]
    # B: the long of 2, twice, loses 30 each of 10 margin; the short of 2 at +50 % loses 50 of 10
    assert gross.tolist() == [[200, 0], [200, 40], [0, 40]]
    netted, _, _ = clearing.stressed_losses(positions(), moves, both, netting="symbol")
    assert netted.tolist() == [[40, 0], [40, 0], [0, 0]]
    priced, _, _ = clearing.stressed_losses(positions(), [{"A": -0.3}], both, prices={"A": 110.0, "B": 50.0})
    assert priced[0, 0] == pytest.approx(130.0)
    assert clearing.cover(gross).size == 240.0
    for wrong, message in (
        ({"prices": {"A": 1.0}}, "none for B"),
        ({"netting": "all"}, "netting is 'all'"),
    ):
        with pytest.raises(perpbt.InputError, match=message):
            clearing.stressed_losses(positions(), moves, both, **wrong)  # type: ignore[arg-type]
    with pytest.raises(perpbt.InputError, match="moves A by 'down'; allowed: numbers of at least -1"):
        clearing.stressed_losses(positions(), [{"A": "down"}], both)  # type: ignore[dict-item]
    with pytest.raises(perpbt.InputError, match="moves A by -2"):
        clearing.stressed_losses(positions(), [{"A": -2.0}], both)
    with pytest.raises(perpbt.InputError, match="moves C"):
        clearing.stressed_losses(positions(), [{"C": -0.1}], both)


# ------------------------------------------------------------------------------------------------------------- a run
def test_a_run_is_cleared_day_by_day() -> None:
    cleared = perpbt.clear(
        positions(),
        members={1: "X", 2: "X", 3: "Y", 4: "Z"},
        layers={"contribution": 20.0, "own_capital": 5.0, "assessment": 0.0},
    )
    used = cleared.layers.filter(pl.col("time") == datetime(2024, 3, 1))
    assert dict(zip(used["layer"], used["used"], strict=True)) == {
        "margin": 0,
        "contribution": 20,
        "own_capital": 5,
        "mutualised": 35,
        "own_capital_second": 0,
        "assessment": 0,
        "unpaid": 0,
    }
    assert cleared.totals["used"].to_list() == [0, 30, 5, 35, 0, 0, 0]
    assert cleared.totals["share"].sum() == pytest.approx(1.0)
    first = cleared.members.filter(pl.col("time") == datetime(2024, 3, 1)).sort("member")
    assert first["paid_mutualised"].to_list() == [0, 17.5, 17.5]
    assert first["defaulted"].to_list() == [True, False, False]
    last = cleared.layers.group_by("layer").agg(pl.col("used_so_far").last(), pl.col("used").sum())
    assert (last["used_so_far"] == last["used"]).all()


def test_a_run_without_a_loss_uses_nothing() -> None:
    calm = positions(deficit=[0.0] * 4)
    cleared = perpbt.clear(calm, members=2, layers={})
    assert cleared.layers.is_empty()
    assert cleared.members.is_empty()
    assert cleared.totals["used"].sum() == 0.0


def test_a_simulated_run_is_cleared_to_its_own_deficits() -> None:
    """Thirty longs at 5x to 120x into a fall by a third within one bar."""
    bars = made_bars(30).drop("volume")
    fall = pl.int_range(pl.len()) >= 20
    bars = bars.with_columns(
        pl.when(fall).then(pl.col(name) * 0.67).otherwise(pl.col(name))
        for name in ("open", "high", "low", "close")
    )
    table = pl.DataFrame(
        {
            "account": range(30),
            "strategy": ["long"] * 30,
            "symbol": ["AAA"] * 30,
            "side": ["long"] * 30,
            "entry_time": [START + timedelta(minutes=i % 10) for i in range(30)],
            "collateral": [1000.0] * 30,
            "leverage": [5.0 + i for i in range(30)],
        }
    )
    result = perpbt.simulate(bars, table, tiers_as={"AAA": "BTCUSDT"}, engine="oracle")
    deficit = math.fsum(result.accounts["deficit"])
    assert deficit > 0.0
    layers = {"contribution": 100.0, "own_capital": 50.0, "margin": 20.0}
    cleared = perpbt.clear(result, members=4, layers=layers)
    assert math.fsum(cleared.totals["used"]) == pytest.approx(deficit, rel=1e-12)
    assert perpbt.clear(result, members=4, layers=layers, every="1m").totals["used"].sum() == pytest.approx(
        deficit
    )


def test_replenished_layers_are_whole_again_and_those_that_defaulted_are_back() -> None:
    """On both days the member of account 1 owes 50 and has 10: of the others' 10 each day all is there again, if replenished."""
    both = positions().filter(pl.col("account") <= 2).with_columns(
        account=pl.Series([1, 2]), deficit=pl.Series([50.0, 0.0]), cash_change=pl.lit(0.0)
    )  # fmt: skip
    again = both.with_columns(pl.col("exit_time") + pl.duration(days=1))
    for replenished, there in ((True, [20.0, 20.0]), (False, [20.0, 0.0])):
        layers = {"contribution": 10.0, "assessment": 0.0, "replenished": replenished}
        cleared = perpbt.clear(pl.concat([both, again]), members={1: "X", 2: "Y"}, layers=layers)
        held = cleared.layers.filter(pl.col("layer") == "mutualised")["available"].to_list()
        assert held == there


def test_clearing_says_what_is_wrong() -> None:
    for call, message in (
        (lambda: perpbt.clear(positions(), members={1: "X"}, layers={}), "none for account 2"),
        (lambda: perpbt.clear(positions(), members=0, layers={}), "members is 0"),
        (lambda: perpbt.clear(positions(), members=1, layers={"fund": 1.0}), "no 'fund'; allowed: margin"),
        (lambda: perpbt.clear(positions(), members=1, layers={"margin": -1.0}), "margin is -1.0"),
        (lambda: perpbt.clear(positions(), members=1, layers={}, world="v"), "world is 'v'"),
        (
            lambda: perpbt.clear(positions(world=["w", "w", "v", "v"]), members=1, layers={}),
            "the run has 2",
        ),
        (lambda: perpbt.clear(positions(), members=1, layers={"margin": {"Q": 1.0}}), "names 'Q'"),
        (lambda: clearing.member_losses(positions(), 1, netting="some"), "netting is 'some'"),  # type: ignore[arg-type]
        (
            lambda: clearing.member_losses(positions(), 1, every="day"),
            "every is 'day'; allowed: a polars duration",
        ),
        (lambda: clearing.member_losses(positions(), 1, every="0d"), "every is '0d'"),
        (lambda: perpbt.clear(positions(), members=1.5, layers={}), "members is 1.5; allowed: a mapping"),  # type: ignore[arg-type]
        (
            lambda: perpbt.clear(positions(), members={1: 1, 2: "X", 3: 1, 4: 1}, layers={}),
            "of different types",
        ),
        (
            lambda: perpbt.clear(positions(), members=1, layers={"own_capital": "much"}),
            "own_capital is 'much'",
        ),
        (lambda: perpbt.clear(positions(), members=1, layers={"own_capital": None}), "own_capital is None"),
        (lambda: perpbt.clear(positions(), members=1, layers={"replenished": "no"}), "replenished is 'no'"),
        (lambda: perpbt.clear(positions(), members=1, layers=None), "layers is of type NoneType"),  # type: ignore[arg-type]
        (lambda: perpbt.clear(3, members=1, layers={}), "result is of type int"),  # type: ignore[arg-type]
        (lambda: perpbt.clear(positions().drop("deficit"), members=1, layers={}), "column 'deficit' missing"),
        (lambda: clearing.clearing_reduces_exposure(1, 2), "members is 1; allowed: at least 2"),
        (
            lambda: perpbt.clear(
                positions(), members=pl.DataFrame({"account": [1, 1], "member": ["a", "b"]}), layers={}
            ),
            "twice",
        ),
    ):
        with pytest.raises(perpbt.InputError, match=message):
            call()


# --------------------------------------------------------------------------------------------- one venue or several
def test_spread_over_four_venues() -> None:
    """p = 5 %, correlation .3: variance .0153510 of the share lost; of very many at most a tenth with .852098 (one-factor model, Vasicek)."""
    assert clearing.share_lost_variance(0.05, 0.3, 4) == pytest.approx(0.0153510, abs=5e-8)
    assert clearing.share_lost_variance(0.05, 0.3, 1) == pytest.approx(0.05 * 0.95)
    assert clearing.share_lost_at_most(0.1, 0.05, 0.3) == pytest.approx(0.852098, abs=5e-7)
    assert clearing.share_lost_variance(0.05, 0.0, 4) == pytest.approx(0.05 * 0.95 / 4)
    assert clearing.all_fail(0.05, 0.0, 3) == pytest.approx(0.05**3)
    assert clearing.all_fail(0.05, 0.3, 1) == pytest.approx(0.05)


def test_failing_venues_by_drawing_them() -> None:
    random = np.random.default_rng(5)
    factor, own = random.normal(size=(400_000, 1)), random.normal(size=(400_000, 4))
    lost = (math.sqrt(0.3) * factor + math.sqrt(0.7) * own < -1.6448536269514722).mean(axis=1)
    assert lost.var() == pytest.approx(clearing.share_lost_variance(0.05, 0.3, 4), rel=0.02)
    assert (lost == 1.0).mean() == pytest.approx(clearing.all_fail(0.05, 0.3, 4), rel=0.25)


@pytest.mark.parametrize(("leverage", "lost"), [(3.0, 0.00312), (5.0, 0.0888), (10.0, 0.6451)])
def test_a_hedge_in_two_places_loses_a_leg(leverage: float, lost: float) -> None:
    """Volatility 70 % a year, 7 days, maintenance .5 %."""
    assert clearing.leg_liquidated(leverage, 0.005, 0.7, 7.0) == pytest.approx(
        lost, abs=5e-5 if leverage > 3 else 5e-6
    )


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: clearing.share_lost_variance(0.0, 0.3, 4), "probability is 0.0; allowed: above 0, below 1"),
        (lambda: clearing.all_fail(0.05, 1.0, 4), "correlation is 1.0; allowed: 0 to below 1"),
        (lambda: clearing.all_fail(0.05, 0.3, 0), "venues is 0"),
        (lambda: clearing.share_lost_at_most(1.0, 0.05, 0.3), "share is 1.0"),
        (lambda: clearing.leg_liquidated(1.0, 0.005, 0.7, 7.0), "leverage is 1.0; allowed: finite numbers above 1"),
        (lambda: clearing.leg_liquidated(10.0, 0.1, 0.7, 7.0), "maintenance is 0.1"),
    ],
)  # fmt: skip
def test_what_venues_cannot_be(call: Callable[[], float], told: str) -> None:
    with pytest.raises(perpbt.InputError, match=told):
        call()
