"""Statistics: worked numbers, conventions at the edges, and no dependence on order."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from scipy import stats
from synthetic import DAY, ledger, policy_table, row, synthetic_result, table

from perpbt import statistics
from perpbt.errors import InputError, RunError
from perpbt.statistics import TOTAL, summarise

HOUR = timedelta(hours=1)


def hours(number: float) -> datetime:
    return DAY + number * HOUR


def one(frame: pl.DataFrame, **keys: object) -> dict[str, object]:
    """The single row with these values."""
    found = frame.filter(*(pl.col(name).eq_missing(pl.lit(value)) for name, value in keys.items()))
    assert found.height == 1
    return found.row(0, named=True)


@pytest.fixture(scope="module")
def result():
    return synthetic_result(accounts=4_000, hours=6_000)


# --- summarise


def four_positions() -> pl.DataFrame:
    """A profit, a liquidation with surplus, a default of weight 3 (8 × 90 = 720), a rejected order."""
    return table(
        [
            row(account="a", total_return=0.5, fees=2.0),
            row(account="b", exit_reason="liquidation", exit_time=hours(2), liquidation_fee=4.0, surplus=6.0,
                total_return=-1.0, max_drawdown=1.0, weight=2.0),
            row(account="c", exit_reason="liquidation", exit_time=hours(5), quantity=8.0, exit_price=90.0,
                deficit=36.0, total_return=-1.0, max_drawdown=1.0, weight=3.0),
            row(account="c", exit_reason="rejected"),
        ]
    )  # fmt: skip


def test_a_worked_example():
    fund = ledger([{"fee_share": 0.2}, {"time": hours(5), "deficit": 108.0, "uncovered": 30.0}])
    found = one(summarise(four_positions(), fund), strategy="s", policy="p", symbol="X")
    assert found == {
        "strategy": "s", "policy": "p", "symbol": "X",
        "accounts": 3, "positions": 3, "rejected": 1, "liquidated": 2, "defaulted": 1,
        "pd": 0.5, "ead": 720.0, "lgd": 0.05, "expected_loss": 18.0,
        "surplus": 12.0, "deficit": 108.0, "net_fund_flow": 8.0 + 12.0 + 0.2 - 108.0, "uncovered": 30.0,
        "median_return": -1.0, "mean_return": -0.5, "max_drawdown": 1.0,
        "time_to_liquidation": timedelta(hours=3.5),
    }  # fmt: skip


def test_levels_and_their_order():
    rows = [
        row(account=str(k), strategy=s, policy=p, symbol=x)
        for k, (s, p, x) in enumerate(["apX", "aqX", "bpY"])
    ]
    found = summarise(table(rows), ledger()).select("strategy", "policy", "symbol", "positions").rows()
    assert found == [
        ("a", "p", "X", 1), ("a", "q", "X", 1), ("b", "p", "Y", 1),
        ("a", "p", TOTAL, 1), ("a", "q", TOTAL, 1), ("b", "p", TOTAL, 1),
        ("a", TOTAL, TOTAL, 2), ("b", TOTAL, TOTAL, 1),
        (TOTAL, TOTAL, TOTAL, 3),
    ]  # fmt: skip


def test_without_defaults_the_loss_is_zero_and_its_factors_unknown():
    found = one(summarise(table([row()]), ledger()), symbol="X")
    assert (found["pd"], found["expected_loss"], found["deficit"]) == (0.0, 0.0, 0.0)
    assert found["ead"] is found["lgd"] is found["time_to_liquidation"] is None


def test_without_positions_rates_are_null_and_sums_zero():
    found = one(summarise(table([row(exit_reason="rejected")]), ledger()), symbol="X")
    assert [found[name] for name in ("positions", "rejected", "surplus", "net_fund_flow")] == [0, 1, 0.0, 0.0]
    for name in ("pd", "ead", "lgd", "expected_loss", "median_return", "mean_return", "max_drawdown"):
        assert found[name] is None


def test_no_rows_give_an_empty_table_with_its_columns():
    found = summarise(table([]), ledger())
    assert found.height == 0
    assert found.schema == summarise(table([row()]), ledger()).schema


def test_accounts_given_one_by_one_have_no_policy():
    found = summarise(table([row(policy=None), row(policy=None, account="b")]), ledger())
    assert one(found, policy=None, symbol="X")["accounts"] == 2
    assert one(found, strategy=TOTAL)["accounts"] == 2


def test_a_stop_beyond_bankruptcy_is_a_default_but_no_liquidation():
    found = one(summarise(table([row(exit_reason="stop_loss", deficit=1.0)]), ledger()), symbol="X")
    assert (found["defaulted"], found["liquidated"]) == (1, 0)


def test_strategies_in_one_world_share_fees_and_uncovered_deficits():
    rows = [
        row(account="a", strategy="a", fees=3.0, deficit=10.0, exit_time=hours(1)),
        row(account="b", strategy="b", fees=1.0, deficit=30.0, exit_time=hours(1)),
        row(account="c", strategy="b", deficit=50.0, exit_time=hours(2)),
    ]
    fund = ledger(
        [
            {"fee_share": 0.4},
            {"time": hours(1), "deficit": 40.0, "uncovered": 8.0},
            {"time": hours(2), "deficit": 50.0, "uncovered": 5.0},
        ]
    )
    found = summarise(table(rows), fund)
    first, second = (one(found, strategy=name, policy="p", symbol="X") for name in "ab")
    assert (first["uncovered"], second["uncovered"]) == (2.0, 11.0)
    assert first["net_fund_flow"] == pytest.approx(0.3 - 10.0, rel=1e-15)
    assert second["net_fund_flow"] == pytest.approx(0.1 - 80.0, rel=1e-15)


def test_uncovered_at_a_partial_closing_goes_to_the_deficits_of_that_place():
    fund = ledger([{"time": hours(1), "deficit": 4.0, "uncovered": 4.0}])
    found = summarise(table([row(deficit=4.0, exit_time=hours(9))]), fund)
    assert one(found, symbol="X")["uncovered"] == 4.0


@pytest.mark.parametrize("flow", ["uncovered", "fee_share"])
def test_a_ledger_that_no_position_explains_is_an_error(flow):
    with pytest.raises(RunError, match=r"no position explains world w, symbol Y"):
        summarise(table([row(deficit=1.0, fees=1.0)]), ledger([{"symbol": "Y", flow: 1.0}]))


def test_lacking_columns_are_named():
    with pytest.raises(InputError, match=r"accounts lacks column fees, deficit"):
        summarise(table([row()]).drop("fees", "deficit"), ledger())
    with pytest.raises(InputError, match=r"fund lacks column uncovered"):
        summarise(table([row()]), ledger().drop("uncovered"))


def test_expected_loss_is_the_product_of_its_factors(result):
    found = result.statistics.filter(pl.col("defaulted") > 0)
    product = found["pd"] * found["ead"] * found["lgd"]
    assert found.height > 20
    np.testing.assert_allclose(found["expected_loss"], product, rtol=1e-12)


def test_sums_do_not_depend_on_row_order_or_chunks(result):
    shuffled = result.accounts.sample(fraction=1.0, shuffle=True, seed=3)
    pieces = pl.concat(
        [shuffled[start : start + 977] for start in range(0, shuffled.height, 977)], rechunk=False
    )
    again = summarise(pieces, result.fund.sample(fraction=1.0, shuffle=True, seed=4))
    assert again.equals(result.statistics)


def test_flows_agree_with_the_ledger(result):
    everything = one(result.statistics, strategy=TOTAL)
    fund = result.fund
    gains = (fund["liquidation_fees"] + fund["surplus"] + fund["fee_share"]).sum()
    assert everything["uncovered"] == pytest.approx(fund["uncovered"].sum(), rel=1e-12)
    assert everything["net_fund_flow"] == pytest.approx(gains - fund["deficit"].sum(), rel=1e-9)


# --- combine and grid


def test_combining_keeps_the_identity_and_the_counts(result):
    rows = result.statistics.filter((pl.col("symbol") != TOTAL) & (pl.col("policy") != TOTAL))
    found = statistics.combine(rows, "symbol")
    np.testing.assert_allclose(found["expected_loss"], found["pd"] * found["ead"] * found["lgd"], rtol=1e-12)
    assert found["positions"].sum() == result.accounts.height
    assert found["median_return"].null_count() == found.height


def test_combining_with_a_row_of_which_all_was_rejected():
    rows = [row(**{"exit_reason": "liquidation"}), row(symbol="Y", exit_reason="rejected")]
    found = statistics.combine(summarise(table(rows), ledger())[:2], "strategy").row(0, named=True)
    assert (found["positions"], found["rejected"], found["liquidated_share"], found["pd"]) == (1, 1, 1.0, 0.0)
    assert found["mean_return"] == 0.0
    nobody = statistics.combine(summarise(table(rows[1:]), ledger())[:1], "strategy").row(0, named=True)
    assert nobody["liquidated_share"] is nobody["pd"] is nobody["mean_return"] is None


def test_grid_runs_from_tight_stops_to_none(result):
    found = statistics.grid(result.statistics, result.policies, "liquidated_share")
    assert found["stop"].to_list() == ["0.5%", "1%", "2%", "5%", "10%", "none"]
    assert found.columns == ["stop", "2", "3", "5", "10", "20", "50", "100"]
    picked = result.accounts.filter(pl.col("policy") == "L20 stop none")
    share = (picked["exit_reason"] == "liquidation").mean()
    assert one(found, stop="none")["20"] == pytest.approx(share, rel=1e-12)


def test_grid_sums_money_over_strategies_and_picks_one(result):
    both = statistics.grid(result.statistics, result.policies, "net_fund_flow")
    single = [
        statistics.grid(result.statistics, result.policies, "net_fund_flow", strategy=name)
        for name in ("hold_long", "hold_short")
    ]
    np.testing.assert_allclose(both["50"], single[0]["50"] + single[1]["50"], rtol=1e-12)
    hours_held = statistics.grid(
        result.statistics, result.policies, "time_to_liquidation", strategy="hold_long", symbol="BTCUSDT"
    )
    assert hours_held.schema["100"] == pl.Float64


def test_grid_leaves_missing_cells_null(result):
    policies = result.policies.filter(~((pl.col("leverage") == 20) & (pl.col("stop") == "none")))
    found = statistics.grid(result.statistics, policies, "pd")
    assert one(found, stop="none")["20"] is None


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        ("nonsense", {}, "'nonsense' is not a statistic"),
        ("median_return", {}, "median"),
        ("pd", {"rows": "colour"}, "policies lacks column colour"),
        ("pd", {"strategy": "nobody"}, "no statistics for strategy nobody"),
    ],
)
def test_grid_refuses(result, value, options, message):
    with pytest.raises(InputError, match=message):
        statistics.grid(result.statistics, result.policies, value, **options)


def test_grid_needs_policies(result):
    with pytest.raises(InputError, match="no policies"):
        statistics.grid(result.statistics, policy_table().clear(), "pd")


# --- survival


def lives(times: list[float], events: list[bool], **more: object) -> pl.DataFrame:
    return table(
        [
            row(account=str(k), exit_time=hours(time), exit_reason="liquidation" if event else "end", **more)
            for k, (time, event) in enumerate(zip(times, events, strict=True))
        ]
    )


def test_survival_of_a_published_trial():
    """Freireich et al. (1963), Blood 21: weeks of remission under 6-MP, estimates as in textbooks."""
    weeks = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
    relapse = [True, True, True, False, True, False, True, False, False, True, True]
    relapse += [False, False, False, True, True, False, False, False, False, False]
    found = statistics.survival(lives(list(map(float, weeks)), relapse)).filter(pl.col("liquidated") > 0)
    assert found["time"].to_list() == [k * HOUR for k in (6, 7, 10, 13, 16, 22, 23)]
    assert found["at_risk"].to_list() == [21, 17, 15, 12, 11, 7, 6]
    np.testing.assert_allclose(
        found["survival"], [0.8571, 0.8067, 0.7529, 0.6902, 0.6275, 0.5378, 0.4482], atol=5e-5
    )
    np.testing.assert_allclose(
        found["standard_error"], [0.0764, 0.0869, 0.0963, 0.1068, 0.1141, 0.1282, 0.1346], atol=5e-5
    )


def test_survival_equals_scipy(result):
    found = statistics.survival(result.accounts, points=100_000)
    for leverage in (5.0, 50.0):
        own = result.accounts.filter(pl.col("leverage") == leverage)
        held = (own["exit_time"] - own["entry_time"]).dt.total_hours().to_numpy()
        dead = (own["exit_reason"] == "liquidation").to_numpy()
        curve = stats.ecdf(stats.CensoredData(uncensored=held[dead], right=held[~dead])).sf
        mine = found.filter((pl.col("leverage") == leverage) & (pl.col("liquidated") > 0))
        at = mine["time"].dt.total_hours().to_numpy()
        np.testing.assert_allclose(mine["survival"], curve.evaluate(at), rtol=1e-12)


def test_survival_is_thinned_without_changing_values(result):
    full = statistics.survival(result.accounts, points=100_000)
    thin = statistics.survival(result.accounts, points=50)
    assert thin.group_by("leverage").len()["len"].max() <= 51
    assert thin.join(full, on=thin.columns, how="anti", nulls_equal=True).height == 0
    last = thin.group_by("leverage", maintain_order=True).last()
    assert last.equals(full.group_by("leverage", maintain_order=True).last())


def test_survival_at_its_edges():
    alone = statistics.survival(lives([0.0], [True]))
    assert alone["survival"].to_list() == [1.0, 0.0]
    assert alone["standard_error"].to_list() == [0.0, None]
    nobody = statistics.survival(table([row(exit_reason="rejected")]))
    assert nobody.height == 0
    assert nobody.schema == alone.schema
    with pytest.raises(InputError, match="points is 2"):
        statistics.survival(alone, points=2)


# --- positions


def test_return_quantiles_equal_numpy(result):
    found = one(statistics.return_quantiles(result.accounts), leverage=10.0)
    returns = result.accounts.filter(pl.col("leverage") == 10)["total_return"].to_numpy()
    assert found["positions"] == returns.size
    assert found["mean"] == pytest.approx(returns.mean(), rel=1e-12)
    for quantile in (5, 50, 95):
        assert found[f"quantile_{quantile:02d}"] == pytest.approx(
            np.quantile(returns, quantile / 100), rel=1e-12
        )


def test_exit_reasons_count_every_row():
    found = statistics.exit_reasons(four_positions())
    assert found["exit_reason"].to_list() == ["liquidation", "time", "rejected"]
    assert found["positions"].to_list() == [2, 1, 1]
    assert found["share"].to_list() == [0.5, 0.25, 0.25]


def test_money_flows_add_up(result):
    found = statistics.money_flows(result.accounts)
    paid = found["fees"] + found["liquidation_fee"] + found["surplus"] - found["deficit"]
    np.testing.assert_allclose(found["cash_change"], found["pnl"] + found["funding"] - paid, rtol=1e-9)


def test_flow_histogram_holds_every_liquidation(result):
    found = statistics.flow_histogram(result.accounts)
    ended = result.accounts.filter((pl.col("exit_reason") == "liquidation") | (pl.col("deficit") > 0))
    for (flow, measure), own in found.group_by(["flow", "measure"]):
        assert own.sort("lower")["positions"].sum() == ended.height, (flow, measure)
        assert own["lower"].min() == 0.0
    money = found.filter((pl.col("flow") == "deficit") & (pl.col("measure") == "money"))
    assert money["upper"].max() == pytest.approx(ended["deficit"].max(), rel=1e-12)
    edge, tail = money.select("lower", "exceeding").row(20)
    assert tail == pytest.approx((ended["deficit"] >= edge).mean(), rel=1e-12)


def test_flow_histogram_puts_fee_and_surplus_together():
    left = {"exit_reason": "liquidation", "quantity": 1.0, "exit_price": 100.0}
    accounts = table([row(liquidation_fee=2.0, surplus=1.0, **left), row(liquidation_fee=5.0, **left)])
    found = statistics.flow_histogram(accounts)
    tops = found.group_by("flow", "measure").agg(pl.col("upper").max()).sort("flow", "measure")
    assert tops["flow"].to_list() == ["income", "income", "surplus", "surplus"]
    assert tops["upper"].to_list() == pytest.approx([0.05, 5.0, 0.01, 1.0])


def test_flow_histogram_without_flows_is_empty():
    assert statistics.flow_histogram(table([row()])).height == 0
    with pytest.raises(InputError, match="bins is 0"):
        statistics.flow_histogram(table([row()]), bins=0)


def test_liquidations_in_time_count_all(result):
    found = statistics.liquidations_in_time(result.accounts, windows=40)
    assert found["liquidated"].sum() == (result.accounts["exit_reason"] == "liquidation").sum()
    assert found.group_by("leverage").len()["len"].max() <= 40
    assert statistics.liquidations_in_time(table([])).height == 0
    with pytest.raises(InputError, match="windows is 0"):
        statistics.liquidations_in_time(result.accounts, windows=0)


# --- fund


def test_fund_path_adds_the_funds_of_a_world():
    fund = ledger(
        [
            {"symbol": "X", "balance": 100.0},
            {"symbol": "Y", "balance": 100.0},
            {"symbol": "X", "time": hours(1), "deficit": 30.0, "balance": 70.0},
            {"symbol": "Y", "time": hours(2), "surplus": 5.0, "balance": 105.0},
            {"symbol": "X", "time": hours(2), "surplus": 1.0, "balance": 71.0},
        ]
    )
    found = statistics.fund_path(fund)
    assert found["balance"].to_list() == [200.0, 170.0, 176.0]
    assert found["surplus"].to_list() == [0.0, 0.0, 6.0]


def test_fund_path_of_a_pool():
    fund = ledger(
        [
            {"symbol": "all", "balance": 100.0},
            {"symbol": "X", "fee_share": 1.0, "balance": 101.0},
            {"symbol": "X", "time": hours(1), "deficit": 30.0, "balance": 66.0},
            {"symbol": "Y", "time": hours(1), "deficit": 5.0, "balance": 66.0},
        ]
    )
    found = statistics.fund_path(fund)
    assert found["balance"].to_list() == [101.0, 66.0]
    assert found["deficit"].to_list() == [0.0, 35.0]


def test_fund_path_of_chosen_worlds():
    fund = ledger([{"world": "v", "balance": 1.0}, {"world": "w", "balance": 2.0}])
    assert statistics.fund_path(fund, ["w"])["balance"].to_list() == [2.0]
    with pytest.raises(InputError, match="fund has no world u"):
        statistics.fund_path(fund, ["u"])
    assert statistics.fund_path(ledger()).height == 0


def draws() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Three deficits on two days in two worlds, and the positions that left them."""
    fund = ledger(
        [
            {"world": "v", "balance": 50.0},
            {"world": "w", "balance": 20.0},
            {"time": hours(1), "world": "v", "deficit": 5.0, "uncovered": 1.0, "balance": 46.0},
            {"time": hours(20), "world": "w", "symbol": "Y", "deficit": 7.0, "balance": 13.0},
            {"time": hours(21), "world": "w", "symbol": "Y", "surplus": 2.0, "balance": 15.0},
            {"time": hours(30), "world": "w", "deficit": 9.0, "balance": 6.0},
        ]
    )
    left = {"exit_reason": "liquidation", "quantity": 1.0, "exit_price": 50.0, "weight": 2.0}
    accounts = table(
        [
            row(world="v", exit_time=hours(1), deficit=2.5, **left),
            row(world="w", exit_time=hours(20), deficit=3.5, **left),
            row(world="w", exit_time=hours(30), deficit=4.5, **left),
            row(world="w", exit_time=hours(31), deficit=0.0, **left),
            row(world="w", exit_time=hours(31)),
        ]
    )
    return fund, accounts


def test_worst_draws_rank_days():
    fund, accounts = draws()
    found = statistics.worst_draws(fund, accounts)
    assert found["deficit"].to_list() == [12.0, 9.0]
    assert found.row(0) == (DAY, "Y", 2, 12.0, 1.0, "w", 7.0, 0.0, 7.0 / 20.0, 7.0 / 100.0)
    assert found.row(1)[-2:] == (9.0 / 15.0, 9.0 / 200.0)
    assert statistics.worst_draws(fund, limit=1).height == 1
    assert statistics.worst_draws(fund)["of_notional"].to_list() == [None, None]
    assert statistics.worst_draws(ledger()).height == 0


def test_worst_draws_by_the_world_hit_hardest_and_by_stretch():
    fund, accounts = draws()
    found = statistics.worst_draws(fund, accounts, rank="worst_deficit")
    assert found["worst_deficit"].to_list() == [9.0, 7.0]
    found = statistics.worst_draws(fund, accounts, every="1h", limit=1, per="1d")
    assert found["time"].to_list() == [hours(30), hours(20)]
    with pytest.raises(InputError, match="rank is 'size'"):
        statistics.worst_draws(fund, rank="size")


def test_worst_draw_of_an_empty_fund_has_no_share_of_it():
    fund = ledger([{"balance": 0.0}, {"time": hours(30), "deficit": 4.0, "uncovered": 4.0}])
    assert statistics.worst_draws(fund)["of_fund"].to_list() == [None]


def test_draws_in_time_lose_nothing(result):
    found = statistics.draws_in_time(result.fund, result.accounts, every="1w")
    for flow in ("deficit", "uncovered"):
        assert found[flow].sum() == pytest.approx(result.fund[flow].sum(), rel=1e-12)
    ended = result.accounts.filter((pl.col("exit_reason") == "liquidation") | (pl.col("deficit") > 0))
    closed = ended["weight"] * ended["quantity"] * ended["exit_price"]
    assert found["notional"].sum() == pytest.approx(closed.sum(), rel=1e-12)
    path = statistics.fund_path(result.fund)
    world = path["world"][0]
    ends = (
        path.filter(pl.col("world") == world).group_by(pl.col("time").dt.truncate("1w")).last().sort("time")
    )
    own = found.filter(pl.col("world") == world)
    assert own["opening"].to_list()[1:] == ends["balance"].to_list()[:-1]
    one = statistics.draws_in_time(result.fund, result.accounts, every="1w", worlds=[world])
    assert one.equals(own)


def test_grouping_by_an_unknown_column_is_an_error(result):
    with pytest.raises(InputError, match="lacks column colour"):
        statistics.exit_reasons(result.accounts, by="colour")
