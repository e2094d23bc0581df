"""Liquidation in steps: three engines to the bit, the defining property of each procedure, money, order, closed forms and worked examples.

Examples by their number in the worked examples of `tests/test_worked_examples.py`: G41 dYdX's fund, G42 and G44 Drift's sizes and fees;
partial size and the bound beyond which it is self-defeating: Chitra, Autodeleveraging (arXiv 2512.01112).
"""

from __future__ import annotations

import math
from typing import Any

import made_markets
import numpy as np
import polars as pl
import pytest
import test_margin_rules
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_equals_oracle import (
    MADE,
    engine_bars,
    engine_policy,
    engine_rules,
    engine_strategy,
    engine_venue,
)
from test_engines_agree import LANES, population, same_tables, walk

import perpbt
from perpbt.config.liquidation import PROCEDURES, Liquidation
from perpbt.errors import InputError
from perpbt.procedures import sizes

TIERS = ((0.0, 1e3, 0.004, 125.0, 0.0), (1e3, 2e4, 0.01, 125.0, 6.0), (2e4, 1e6, 0.05, 125.0, 806.0))
VENUES = {
    "mark": perpbt.Venue(
        name="mark", tiers={"default": TIERS}, taker_fee=5e-4, slippage=1e-4, liquidation_fee=0.002, half_spread=1e-4, impact=0.3,
        surplus_to_fund=0.5, close_out_rate=1e-4,
    ),
    "entry": perpbt.Venue(
        name="entry", tiers={"default": TIERS}, maintenance_on="entry", close_out_rate=6e-4, slippage=1e-4, impact=1.0
    ),
    "free": perpbt.Venue(name="free", tiers={"default": TIERS}),
}  # fmt: skip
CURE = {"procedure": "cure", "initial": 0.2, "duration_slots": 3000, "fee": 0.001, "fee_max": 0.003}
SPECS: tuple[dict[str, Any], ...] = (
    {"procedure": "full", "close": "takeover"},
    {"procedure": "reduce_then_takeover"},
    {"procedure": "reduce_then_takeover", "target": 0.7, "close": "market"},
    {"procedure": "reduce_then_takeover", "fraction": 0.4},
    {"procedure": "ladder"},
    {"procedure": "ladder", "most_steps": 2, "close": "market"},
    {"procedure": "ladder", "lowest_tiers": 2},
    {"procedure": "slice", "above": 500.0},
    {"procedure": "slice", "above": 0.0, "cool_down": "5m", "fraction": 0.5, "backstop": 0.9},
    {"procedure": "portion", "fraction": 0.3},
    {"procedure": "portion", "fraction": 0.7, "spread": 0.5, "close": "takeover"},
    {**CURE, "grace_slots": 100, "whole_below": 1.0},
    {"procedure": "cure", "target": 0.8},
    {"procedure": "optimal", "slices": 6},
    {"procedure": "optimal", "slices": 6, "risk_aversion": 1e-2, "close": "market"},
)
NAMES = [" ".join(str(value) for value in spec.values()) for spec in SPECS]


def levered(frame: pl.DataFrame, count: int) -> pl.DataFrame:
    """Positions of every kind, most of them with little margin."""
    low = pl.col("leverage") < 10
    return population(frame, count, seed=7).with_columns(
        leverage=pl.when(low).then(pl.col("leverage") * 10).otherwise(pl.col("leverage"))
    )


def agreed(bars: Any, table: pl.DataFrame, engines: tuple[str, ...], **options: Any) -> perpbt.Result:
    """One run by several engines, whose tables are equal to the bit."""
    first, *others = (perpbt.simulate(bars, table, engine=engine, **options) for engine in engines)
    for other in others:
        same_tables(first, other)
        assert first.extra.keys() == other.extra.keys()
        for name, steps in first.extra.items():
            assert steps.equals(other.extra[name]), name
    return first


# ------------------------------------------------------------------------------------------- engines agree
@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize(("count", "tick"), [(4000, 0.0), (2500, 1.0)])
def test_engines_agree_on_walks(venue: str, count: int, tick: float) -> None:
    frame = walk(count, seed=count, tick=tick)
    bars, table = perpbt.load_bars(frame), levered(frame, LANES)
    for spec in SPECS:
        fund = {"seed": 1e3, "fee_share": 0.1}
        run = agreed(bars, table, ("dense", "skip"), venue=VENUES[venue], liquidation=spec, fund=fund)
        kinds = set(run.extra["liquidations"]["kind"])
        if spec["procedure"] not in ("cure", "reduce_then_takeover"):
            assert kinds & {"liquidated", "taken_over"}
        if spec["procedure"] != "full" and (spec["procedure"], venue) != ("optimal", "free"):
            assert "reduced" in kinds


@settings(MADE, max_examples=MADE.max_examples // 2)
@given(made_markets.markets(), made_markets.venues(), made_markets.rules(), st.sampled_from(SPECS))
def test_engines_are_the_oracle_on_made_bars(
    market: Any, venue: Any, rules: Any, spec: dict[str, Any]
) -> None:
    """Prices on a coarse grid, so that thresholds are met exactly; gaps; mark and last apart."""
    options = {"venue": engine_venue(venue), "rules": engine_rules(rules), "liquidation": spec}
    agreed(engine_bars(market), market["accounts_frame"], ("oracle", "dense", "skip"), **options)


@settings(MADE, max_examples=MADE.max_examples // 2)
@given(st.data())
def test_engines_are_the_oracle_under_policies(data: Any) -> None:
    """Re-entry, compounding, margin calls and levels that follow series, behind the other door."""
    market = data.draw(made_markets.markets(max_accounts=1))
    bars = market["bars"]["AAA"]
    signals = data.draw(made_markets.signals(bars))
    options = {
        "venue": engine_venue(data.draw(made_markets.venues())),
        "rules": engine_rules(data.draw(made_markets.rules())),
        "liquidation": data.draw(st.sampled_from(SPECS)),
        "offsets": 2,
    }
    policy = engine_policy(data.draw(made_markets.policies()))
    runs = [
        perpbt.backtest(
            engine_bars(market, ["AAA"]), engine_strategy(bars, signals), policy, engine=engine, **options
        )
        for engine in ("oracle", "dense", "skip")
    ]
    for other in runs[1:]:
        same_tables(runs[0], other)
        assert runs[0].extra["liquidations"].equals(other.extra["liquidations"])


@pytest.mark.parametrize("name", ["whole", "whole on entry", "size", "dated", "dated steps"])
def test_engines_agree_under_other_maintenance_rules(name: str) -> None:
    """Risk-limit steps, rates that grow with size, tiers that change while positions are open."""
    venue = perpbt.Venue(
        name="made", **test_margin_rules.COSTS, **(test_margin_rules.RULES | test_margin_rules.CHANGES)[name]
    )
    frame = walk(3000, seed=7)
    bars, table = perpbt.load_bars(frame), levered(frame, 400)
    for spec in SPECS:
        run = agreed(bars, table, ("dense", "skip"), venue=venue, liquidation=spec)
        assert run.extra["liquidations"].height > 10
        agreed(bars, table.head(15), ("oracle", "skip"), venue=venue, liquidation=spec)


def test_full_is_the_rule_of_the_book() -> None:
    """To the bit what a run does that is not asked, whichever way it is said."""
    frame = walk(1500, seed=3)
    bars, table = perpbt.load_bars(frame), levered(frame, 300)
    rule = perpbt.simulate(bars, table, venue=VENUES["mark"])
    assert rule.extra == {}
    for said in ("full", {"procedure": "full"}, Liquidation(), {"most_steps": 7}):
        same_tables(rule, perpbt.simulate(bars, table, venue=VENUES["mark"], liquidation=said))
    # one step at most is the whole at once, by the kernels that know steps
    stepped = perpbt.simulate(
        bars,
        table,
        venue=VENUES["mark"],
        liquidation={"procedure": "ladder", "most_steps": 1, "close": "market"},
    )
    same_tables(rule, stepped)
    assert set(stepped.extra["liquidations"]["kind"]) == {"liquidated"}


# -------------------------------------------------------------------------------- what each procedure is
def jumpy(count: int) -> pl.DataFrame:
    """A walk that also leaps from a close to the next open, without funding."""
    frame = walk(count, seed=5, step=0.004).drop("funding_rate")
    rng = np.random.default_rng(5)
    level = pl.Series(np.cumprod(np.exp((rng.random(count) < 0.04) * rng.normal(0.0, 0.01, count))))
    prices = ("open", "high", "low", "close", "mark_open", "mark_high", "mark_low", "mark_close")
    return frame.with_columns(pl.col(prices) * level)


def stepped(
    spec: dict[str, Any], venue: perpbt.Venue, count: int = 3000
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Steps with what is known of their position and bar, and the accounts; no funding, so that equity is plain."""
    frame = jumpy(count)
    run = perpbt.simulate(perpbt.load_bars(frame), levered(frame, 2000), venue=venue, liquidation=spec)
    owners = run.accounts.select(
        "account", "side", "entry_price", "entry_time", pl.col("quantity").alias("opened"), pl.col("margin").alias("put_in")
    )  # fmt: skip
    steps = run.extra["liquidations"].join(owners, on="account", maintain_order="left")
    steps = steps.join(frame.rename({"ts": "time"}).drop("symbol"), on="time", maintain_order="left")
    sign = pl.when(pl.col("side") == "long").then(1.0).otherwise(-1.0)
    adverse = pl.when(pl.col("side") == "long").then("mark_low").otherwise("mark_high")
    worst = pl.when(pl.col("phase") == "open").then("mark_open").otherwise(adverse)
    steps = steps.with_columns(sign=sign, worst=worst).with_columns(
        before=pl.col("quantity_after").shift(1).over("account").fill_null(pl.col("opened")),
        margin_before=pl.col("margin_after").shift(1).over("account").fill_null(pl.col("put_in")),
        equity_after=pl.col("margin_after")
        + pl.col("sign") * pl.col("quantity_after") * (pl.col("worst") - pl.col("entry_price")),
    )
    assert steps.height > 300
    return steps, run.accounts


def needed(notional: float) -> float:
    return max(notional * rate - deduction for _, _, rate, _, deduction in TIERS)


def parts(steps: pl.DataFrame) -> pl.DataFrame:
    found = steps.filter(pl.col("kind") == "reduced")
    assert found.height > 50
    return found


@pytest.mark.parametrize("target", [1.0, 0.75])
@pytest.mark.parametrize("venue", ["free", "entry"])
def test_a_reducing_order_restores_maintenance_at_the_worst_mark(target: float, venue: str) -> None:
    """Also where the order has an impact of its own, of which its size depends."""
    spec = {"procedure": "reduce_then_takeover", "target": target}
    for row in parts(stepped(spec, VENUES[venue])[0]).iter_rows(named=True):
        price = row["entry_price"] if venue == "entry" else row["worst"]
        need = needed(row["quantity_after"] * price)
        need += VENUES[venue].close_out_rate * row["quantity_after"] * row["worst"]
        assert need / row["equity_after"] == pytest.approx(target, rel=1e-6)
        if target == 1.0 and venue == "free" and row["before"] * row["worst"] <= 1e3:  # the lowest tier
            have = row["margin_before"] + row["sign"] * row["before"] * (row["worst"] - row["entry_price"])
            size = sizes.reduction_size(
                equity=have,
                quantity=row["before"],
                side=row["side"],
                price=row["worst"],
                fill=row["price"],
                rate=0.004,
            )
            assert row["quantity"] == pytest.approx(size, rel=1e-6)


@pytest.mark.parametrize("fee", [0.0, 0.001])
def test_a_cure_makes_up_for_the_shortage(fee: float) -> None:
    venue = VENUES["free"].replace(liquidation_fee=0.0005)
    steps = parts(stepped({"procedure": "cure", "fee": fee, "whole_below": 0.0}, venue)[0])
    for row in steps.iter_rows(named=True):
        assert needed(row["quantity_after"] * row["worst"]) / row["equity_after"] == pytest.approx(
            1.0, rel=1e-6
        )
        if row["phase"] == "open":
            assert row["price"] == row["mark_open"] * (1 - row["sign"] * fee)
            have = row["margin_before"] + row["sign"] * row["before"] * (
                row["mark_open"] - row["entry_price"]
            )
            notional = row["before"] * row["mark_open"]
            short = needed(notional) - have
            due = sizes.insurance_fee(
                most=0.0005, margin_ratio=needed(notional) / notional, liquidator_fee=fee, shortage=short, notional=notional
            )  # fmt: skip
            assert row["liquidation_fee"] == pytest.approx(
                due * row["quantity"] * row["mark_open"], rel=1e-6, abs=1e-9
            )
            if notional <= 1e3:  # the lowest tier: one rate, as Drift has it
                size = sizes.size_to_cover(
                    shortage=short,
                    margin_ratio=0.004,
                    price=row["mark_open"],
                    liquidator_fee=fee,
                    insurance_fee=due,
                )
                assert row["quantity"] == pytest.approx(size, rel=1e-6)


def test_a_cure_ripens_over_time() -> None:
    """A step's share of the shortage follows the slots since the first of its spell, and small shortages go at once."""
    spec = {**CURE, "initial": 0.25, "duration_slots": 600, "fee": 0.0, "whole_below": 0.0, "slot_ms": 400}
    steps = parts(stepped(spec, VENUES["free"])[0])
    first = steps.filter(pl.col("step") == 1)
    for row in first.iter_rows(named=True):
        have = row["margin_before"] + row["sign"] * row["before"] * (row["worst"] - row["entry_price"])
        short = needed(row["before"] * row["worst"]) - have
        left = needed(row["quantity_after"] * row["worst"]) - row["equity_after"]
        if row["before"] * row["worst"] <= 1e3 and row["phase"] == "open":
            assert left == pytest.approx(0.75 * short, rel=1e-5)
    small = parts(stepped({**spec, "whole_below": 1e12}, VENUES["free"])[0]).filter(pl.col("step") == 1)
    assert small.height
    for row in small.iter_rows(named=True):
        kept = needed(row["quantity_after"] * row["worst"])
        assert kept / row["equity_after"] == pytest.approx(1.0, rel=1e-6)


def test_a_ladder_step_ends_in_the_next_lower_tier() -> None:
    caps = [cap for _, cap, *_ in TIERS]
    for row in parts(stepped({"procedure": "ladder"}, VENUES["entry"])[0]).iter_rows(named=True):
        before, after = (row[name] * row["entry_price"] for name in ("before", "quantity_after"))
        tier = next(k for k, cap in enumerate(caps) if before <= cap)
        assert tier > 0
        assert after <= caps[tier - 1]
        assert after == pytest.approx(caps[tier - 1], rel=1e-12)
    steps, _ = stepped({"procedure": "ladder"}, VENUES["free"])
    at_open = parts(steps).filter(pl.col("phase") == "open")
    for row in at_open.iter_rows(named=True):
        after = row["quantity_after"] * row["mark_open"]
        assert any(after == pytest.approx(cap, rel=1e-12) for cap in caps)
    whole = steps.filter(pl.col("kind") == "taken_over", pl.col("phase") == "open")
    assert (
        whole["before"] * whole["mark_open"] <= caps[0]
    ).sum() > 0.5 * whole.height  # others fell past bankruptcy


def test_a_slice_is_a_fifth_and_a_cool_down_the_whole() -> None:
    spec = {"procedure": "slice", "above": 1000.0}
    steps, _ = stepped(spec, VENUES["free"])
    for row in parts(steps).iter_rows(named=True):
        assert row["quantity"] == row["before"] * 0.2
        assert row["quantity_after"] == row["before"] * 0.8
        if row["phase"] == "open":
            assert row["before"] * row["mark_open"] > 1000.0
    assert parts(steps).group_by("account", "time").len()["len"].max() == 1  # bars of a minute: cooling down
    whole = steps.filter(pl.col("kind") == "taken_over", pl.col("ratio") > 1.5).height
    assert whole == steps.filter(pl.col("kind") == "taken_over").height > 0
    assert steps.filter(pl.col("kind") == "liquidated")["ratio"].max() <= 1.5
    slow = parts(stepped({**spec, "cool_down": "2h"}, VENUES["free"])[0])
    apart = slow.with_columns(since=pl.col("time").diff().over("account"))["since"].drop_nulls()
    assert apart.min() >= pl.Series([7_200_000]).cast(pl.Duration("ms"))[0] if len(apart) else True
    assert slow.height < parts(steps).height


def test_a_portion_is_capped_and_fills_at_the_fillable_price_or_better() -> None:
    steps, _ = stepped({"procedure": "portion", "fraction": 0.3}, VENUES["free"].replace(slippage=5e-5))
    assert steps.group_by("account", "time").len()["len"].max() == 1
    for row in parts(steps).iter_rows(named=True):
        assert row["quantity"] == row["before"] * 0.3
        have = row["margin_before"] + row["sign"] * row["before"] * (row["worst"] - row["entry_price"])
        assert have > 0
        limit = sizes.fillable_price(
            side=row["side"], price=row["worst"], quantity=row["before"], equity=have,
            maintenance=needed(row["before"] * row["worst"]),
        )  # fmt: skip
        assert row["sign"] * (row["price"] - limit) >= -1e-9 * limit
    assert {"taken_over", "reduced"} <= set(steps["kind"])


def test_an_optimal_exit_sells_equal_slices_unless_risk_is_shunned() -> None:
    venue = VENUES["mark"]
    even = stepped({"procedure": "optimal", "slices": 5}, venue)[0]
    sold = even.group_by("account", maintain_order=True).agg("quantity", pl.col("opened").first(), pl.len())
    for row in sold.filter(pl.col("len") == 5).iter_rows(named=True):
        assert row["quantity"] == pytest.approx([row["opened"] / 5] * 5, rel=1e-9)
    assert even.filter(pl.col("kind") == "reduced")["fee"].max() == 0.0
    wary = stepped({"procedure": "optimal", "slices": 5, "risk_aversion": 0.1}, venue)[0]
    first = wary.filter(pl.col("step") == 1, pl.col("kind") == "reduced")
    assert (first["quantity"] / first["opened"]).min() > 0.2
    falling = wary.with_columns(was=pl.col("quantity").shift(1).over("account")).drop_nulls("was")
    assert (falling["quantity"] <= falling["was"] * (1 + 1e-9)).all()


# ------------------------------------------------------------------------------------- money and order
@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_money_is_conserved_step_by_step(spec: dict[str, Any]) -> None:
    steps, accounts = stepped(spec, VENUES["mark"])
    rows = accounts.filter(pl.col("exit_reason") != "rejected")
    came = rows["cash_change"] + rows["fees"] + rows["liquidation_fee"] + rows["surplus"] - rows["deficit"]
    gross = rows["collateral"] + rows["pnl"].abs() + rows["fees"]
    assert ((came - rows["pnl"] - rows["funding"]).abs() <= 1e-11 * gross).all()
    assert (steps["step"] == steps.select(pl.int_range(1, pl.len() + 1).over("account")).to_series()).all()
    of = steps.group_by("account").agg(
        pl.col("quantity", "liquidation_fee", "surplus", "deficit", "fee").sum(), pl.col("kind").last(), pl.col("opened").first()
    )  # fmt: skip
    both = of.join(accounts, on="account", suffix="_row")
    for name in ("liquidation_fee", "surplus"):
        assert (both[name] - both[f"{name}_row"]).abs().max() <= 1e-9
    assert (both["fee"] <= both["fees"]).all()
    gone = both.filter(pl.col("kind") != "reduced")
    assert set(gone["exit_reason"]) == {"liquidation"}
    assert (gone["quantity"] / gone["opened"] - 1).abs().max() <= 1e-9
    assert (gone["deficit"] - gone["deficit_row"]).abs().max() == 0
    lived = both.filter(pl.col("kind") == "reduced")
    assert "liquidation" not in set(lived["exit_reason"])
    assert steps.filter(pl.col("kind") == "reduced")["deficit"].max() in (0.0, None)
    only = steps.filter(pl.col("kind") == "taken_over")
    assert only.height == 0 or only["fee"].max() == only["liquidation_fee"].max() == 0.0


def test_takeover_gives_the_fund_all_that_is_left() -> None:
    venue = VENUES["mark"]
    frame = walk(2000, seed=4)
    bars, table = perpbt.load_bars(frame), levered(frame, 500)
    taken = perpbt.simulate(bars, table, venue=venue, liquidation={"close": "takeover"}).accounts
    plain = perpbt.simulate(bars, table, venue=venue).accounts
    over = taken.filter(pl.col("exit_reason") == "liquidation")
    own = plain.filter(pl.col("exit_reason") == "liquidation")
    for name in (
        "account",
        "exit_price",
        "exit_time",
        "deficit",
        "pnl",
        "max_drawdown",
        "worst_margin_ratio",
    ):
        if name != "max_drawdown":
            assert over[name].equals(own[name]), name
    assert (over["liquidation_fee"] == 0).all()
    assert (over["surplus"] >= own["surplus"]).all()
    left = over["cash_change"] + over["collateral"] + over["top_up"]
    assert left.max() == 0.0


def test_neither_order_nor_threads_nor_memory_leave_a_trace() -> None:
    frame = walk(2000, seed=9)
    table = levered(frame, 600)
    mixed = table.sample(fraction=1.0, shuffle=True, seed=1)
    options: dict[str, Any] = {"venue": VENUES["mark"], "fund": {"seed": 50.0}}
    for spec in (SPECS[1], SPECS[6], SPECS[12]):
        first = perpbt.simulate(perpbt.load_bars(frame), table, liquidation=spec, threads=1, **options)
        other = perpbt.simulate(perpbt.load_bars(frame), mixed, liquidation=spec, threads=2, **options)
        assert first.accounts.equals(other.accounts.sort("account"))
        assert first.fund.equals(other.fund)
        steps = other.extra["liquidations"].sort("account", "step")
        assert first.extra["liquidations"].equals(steps)
        bounded = perpbt.simulate(perpbt.load_bars(frame), table, liquidation=spec, memory="16GiB", **options)
        assert bounded.accounts.equals(first.accounts)
        assert bounded.extra["liquidations"].equals(first.extra["liquidations"])


def test_statistics_count_whoever_had_a_step() -> None:
    frame = walk(3000, seed=5, step=0.004)
    run = perpbt.simulate(
        perpbt.load_bars(frame),
        levered(frame, 2000),
        venue=VENUES["free"],
        liquidation="reduce_then_takeover",
    )
    steps, accounts = run.extra["liquidations"], run.accounts
    total = run.statistics.filter(pl.all_horizontal(pl.col("strategy", "policy", "symbol") == "all"))
    met = steps.filter(pl.col("step") == 1).join(accounts, on=("account", "position"))
    assert met.filter(pl.col("exit_reason") != "liquidation").height > 50  # survivors of a step
    assert total["liquidated"].item() == met.height
    assert total["defaulted"].item() == (accounts["deficit"] > 0).sum()
    assert total["time_to_liquidation"].item() == (met["time"] - met["entry_time"]).median()
    assert total["surplus"].item() == pytest.approx(accounts["surplus"].sum(), rel=1e-12)


def test_equity_curves_know_steps() -> None:
    """Between a step and the exit equity is that of what is left."""
    frame = walk(600, seed=5, step=0.004)
    table = levered(frame, 60)
    for spec in SPECS:
        runs = [
            perpbt.simulate(
                perpbt.load_bars(frame),
                table,
                venue=VENUES["mark"],
                engine=engine,
                liquidation=spec,
                equity_every="10m",
            )
            for engine in ("skip", "oracle")
        ]
        same_tables(*runs)
        last = runs[0].equity.sort("time").group_by("account", maintain_order=True).last()  # type: ignore[union-attr]
        both = last.join(runs[0].accounts.filter(pl.col("exit_reason") != "rejected"), on="account")
        assert (
            (both["equity"] - both["collateral"] - both["cash_change"]).abs() <= 1e-9 * both["collateral"]
        ).all()


# ------------------------------------------------------------------------------------------ descriptions
@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"procedure": "laddder"}, "procedure = 'laddder': must be 'full'"),
        ({"procedure": "ladder", "fraction": 0.2}, "fraction: not read by procedure 'ladder'"),
        ({"procedure": "slice", "fracton": 0.2}, "did you mean 'fraction'"),
        ({"procedure": "slice", "fraction": 1.5}, "above 0 and at most 1"),
        ({"procedure": "reduce_then_takeover", "fraction": 1}, "must be below 1"),
        ({"procedure": "cure", "fee": 0.06}, "fee_max = 0.05: must be at least"),
        ({"procedure": "optimal", "slices": 200}, "most_steps = 100: must be at least slices"),
        ("ladders", "liquidation = 'ladders'; allowed"),
        ("venue", "venue 'free' states no"),
        ({"procedure": "venue", "close": "market"}, "it reads nothing else"),
    ],
)
def test_a_wrong_description_is_refused(given: Any, match: str) -> None:
    frame = walk(50, seed=1)
    with pytest.raises(InputError, match=match):
        perpbt.simulate(perpbt.load_bars(frame), levered(frame, 3), venue=VENUES["free"], liquidation=given)


def test_crowds_need_a_coupled_run() -> None:
    frame = walk(50, seed=1)
    with pytest.raises(InputError, match="crowding with liquidation"):
        perpbt.simulate(
            perpbt.load_bars(frame),
            levered(frame, 3),
            venue=VENUES["free"],
            liquidation="ladder",
            crowding=True,
        )
    perpbt.simulate(
        perpbt.load_bars(frame), levered(frame, 3), venue=VENUES["free"], liquidation="full", crowding=True
    )


def test_a_venue_says_how_it_liquidates() -> None:
    venue = VENUES["free"].replace(
        liquidation={"procedure": "slice", "above": 500.0, "BBB": {"above": 700.0}}
    )
    assert venue.terms("liquidation").above == 500.0
    assert venue.terms("liquidation", "BBB").above == 700.0
    frame = walk(1500, seed=3)
    both = pl.concat([frame, frame.with_columns(symbol=pl.lit("BBB"))])
    table = levered(frame, 200)
    table = pl.concat([table, table.with_columns(symbol=pl.lit("BBB"), account=pl.col("account") + 1000)])
    bars = perpbt.load_bars(both)
    run = perpbt.simulate(bars, table, venue=venue, liquidation="venue")
    said = perpbt.simulate(bars, table, venue=venue, liquidation={"procedure": "slice", "above": 500.0})
    steps, others = (one.extra["liquidations"] for one in (run, said))
    here = pl.col("symbol") == "AAA"
    assert steps.filter(here).equals(others.filter(here))
    assert not steps.filter(~here).equals(others.filter(~here))
    assert run.metadata["liquidation"]["BBB"]["above"] == 700.0
    assert perpbt.simulate(bars, table, venue=venue).extra == {}, "a run does so when asked to"
    with pytest.raises(InputError, match=r"liquidation\.procedure"):
        VENUES["free"].replace(liquidation={"procedure": "x"})


LISTED = {
    "binance_cm": "reduce_then_takeover", "binance_um": "reduce_then_takeover", "bitmex": "ladder", "bybit_inverse": "ladder",
    "bybit_linear": "ladder", "deribit": "slice", "deribit_inverse": "slice", "drift": "cure", "dydx": "portion", "gate": "ladder", "hyperliquid": "slice",
    "kraken": "full", "okx": "ladder",
}  # fmt: skip


@pytest.mark.parametrize("name", LISTED)
def test_a_shipped_venue_liquidates_its_way(name: str) -> None:
    venue = perpbt.load_venue(name)
    assert venue.terms("liquidation").procedure == LISTED[name]
    assert venue.provenance[
        "liquidation.procedure" if "liquidation.procedure" in venue.provenance else "liquidation"
    ].source
    symbol = next((one for one in venue.tiers if one != "default"), "BTCUSDT")
    frame = walk(1500, seed=3).with_columns(symbol=pl.lit(symbol))
    most = min(tier.max_leverage for tier in venue.brackets(symbol)[:1])
    contract = venue.terms("contract", symbol)
    money = 0.01 if contract is not None and contract.kind == "inverse" else 100.0
    table = levered(walk(1500, seed=3), 150).with_columns(
        symbol=pl.lit(symbol), collateral=pl.lit(money), leverage=pl.col("leverage").clip(upper_bound=most)
    )
    bars = perpbt.load_bars(frame)
    run = perpbt.simulate(bars, table, venue=venue, liquidation="venue")
    assert (run.accounts["exit_reason"] == "liquidation").any() or run.extra["liquidations"].height
    assert run.metadata["liquidation"]["procedure"] == LISTED[name]


@pytest.mark.parametrize("name", PROCEDURES)
def test_a_procedure_says_what_it_reads(name: str) -> None:
    told = Liquidation(procedure=name).told()
    assert Liquidation(**told) == Liquidation(procedure=name)
    assert {"procedure", "close", "most_steps"} <= set(told)


# ---------------------------------------------------------------------------- closed forms, worked examples
def test_drift_size_to_cover_g42() -> None:
    ten = {"shortage": 10.0, "margin_ratio": 0.1, "price": 100.0}
    assert sizes.size_to_cover(**ten) == pytest.approx(1.0, rel=1e-15)
    assert sizes.size_to_cover(**ten, liquidator_fee=0.01) == pytest.approx(10 / 9, rel=1e-14)
    assert sizes.size_to_cover(**ten, liquidator_fee=0.01, insurance_fee=0.01) == pytest.approx(
        1.25, rel=1e-14
    )
    assert f"{sizes.size_to_cover(**ten, quote_price=0.99):.9f}" == "1.010101010"
    assert f"{sizes.size_to_cover(**ten, quote_price=1.01):.9f}" == "0.990099010"
    assert sizes.size_to_cover(**ten, liquidator_fee=0.1) == math.inf


@pytest.mark.parametrize(("slots", "fee"), [(10, 0.02), (10_000, 0.03), (100_000, 0.05)])
def test_drift_fee_grows_g44(slots: int, fee: float) -> None:
    assert sizes.liquidator_fee(slots=slots, fee=0.02, fee_max=0.05) == pytest.approx(fee, rel=1e-15)


@pytest.mark.parametrize(
    ("size", "fill", "bankruptcy", "most", "delta"),
    [
        (0.1, 56_100, 5_100, 0.005, 28.05), (0.1, 56_100, 5_100, 0.025, 140.25), (0.1, 56_100, 5_100, 1, 510),
        (0.1, 51_051, 5_100, 0.005, 5.10), (0.1, 51_000, 5_100, 0.005, 0), (0.1, 50_490, 5_100, 0.005, -51),
        (-0.1, 44_100, -4_900, 0.005, 22.05), (-0.1, 44_100, -4_900, 0.025, 110.25), (-0.1, 44_100, -4_900, 1, 490),
        (-0.1, 48_951, -4_900, 0.005, 4.90), (-0.1, 49_490, -4_900, 0.005, -49),
    ],
)  # fmt: skip
def test_dydx_fund_delta_g41(size: float, fill: float, bankruptcy: float, most: float, delta: float) -> None:
    found = sizes.fund_delta(
        received=size * fill, bankruptcy=bankruptcy, notional=abs(size) * fill, most=most
    )
    assert found == pytest.approx(delta, abs=1e-9)


def test_dydx_fund_delta_is_what_a_portion_pays_g41() -> None:
    """The waterfall of the engine: fee capped by what is beyond bankruptcy, here 1 BTC long opened at 51,000 + margin and filled."""
    from perpbt.oracle.position import waterfall

    venue = {"liquidation_fee": 0.005, "surplus_to_fund": 0.0}
    for fill, fee, deficit in (
        (56_100, 28.05, 0.0),
        (51_051, 5.10, 0.0),
        (51_000, 0.0, 0.0),
        (50_490, 0.0, 51.0),
    ):
        out = waterfall(1, 100.0, 0.1, 52_000.0, 0.0, fill, "liquidation", 0.0, venue)  # bankrupt at 51,000
        assert out["liquidation_fee"] == pytest.approx(fee, abs=1e-9)
        assert out["deficit"] == pytest.approx(deficit, abs=1e-9)


def test_partial_size() -> None:
    size = sizes.reduction_size(
        equity=-4.399, quantity=1.0, side="short", price=5.5, fill=5.55, rate=0.1, fee=0.003
    )
    assert f"{size:.3f}" == "10.236"
    assert min(size, 1.0) == 1.0


@settings(max_examples=300, deadline=None)
@given(
    st.floats(-5, 9.9), st.floats(0.5, 50), st.sampled_from(("long", "short")), st.floats(0.9, 1.1), st.floats(0, 0.01), st.floats(0, 1)
)  # fmt: skip
def test_partial_size_solves_its_equation(
    equity: float, quantity: float, side: str, slip: float, fee: float, cost: float
) -> None:
    price, rate = 100.0, 0.1
    given = {"equity": equity * quantity, "quantity": quantity, "price": price, "rate": rate, "cost": cost}
    sold = sizes.reduction_size(**given, side=side, fill=price * slip, fee=fee)
    s = 1 if side == "long" else -1
    if math.isfinite(sold) and sold > 0:
        left = given["equity"] + s * sold * (price * slip - price) - fee * price * sold - cost
        assert left == pytest.approx(rate * price * (quantity - sold), abs=1e-8 * (1 + abs(sold) * price))


def test_beyond_a_bound_reducing_is_self_defeating() -> None:
    """2 a (rate p Q - e + cost) = (rate p)^2 divides the plane; at the bound the root is double."""
    given = {"quantity": 10.0, "price": 100.0, "rate": 0.05, "equity": 20.0}
    bound = 25.0 / (2 * 30.0)
    assert not sizes.is_self_defeating(**given, impact=bound)
    assert sizes.is_self_defeating(**given, impact=bound * (1 + 1e-12))
    assert sizes.reduction_size_with_impact(**given, impact=bound * 1.001) == math.inf
    at = sizes.reduction_size_with_impact(**given, impact=bound)
    assert at == pytest.approx(5.0 / bound, rel=1e-6)
    for impact in (1e-9, 0.1, 0.3, bound):
        sold = sizes.reduction_size_with_impact(**given, impact=impact)
        assert impact / 2 * sold * sold - 5.0 * sold + 30.0 == pytest.approx(0.0, abs=1e-9)
        assert sold <= 5.0 / impact * (1 + 1e-9)  # the smaller root
    tiny = sizes.reduction_size_with_impact(**given, impact=1e-12)
    assert tiny == pytest.approx(sizes.reduction_size(**given, side="long", fill=100.0), rel=1e-9)


def test_best_slices_are_best_and_follow_the_closed_form() -> None:
    known = {"volatility": 0.01, "turnover": 1e6, "impact": 1.0}
    even = sizes.best_slices(notional=1e5, slices=7, **known)
    assert even == pytest.approx([1e5 / 7] * 7, rel=1e-12)
    for aversion in (1e-6, 1e-5, 1e-4):
        best = sizes.best_slices(notional=1e5, slices=6, risk_aversion=aversion, **known)
        assert sum(best) == pytest.approx(1e5, rel=1e-12)
        least = sizes.cost_of(best, risk_aversion=aversion, **known)
        random = np.random.default_rng(1)
        for _ in range(200):
            moved = np.maximum(np.array(best) * np.exp(random.normal(0, 0.05, 6)), 1e-9)
            moved *= 1e5 / moved.sum()
            assert sizes.cost_of(list(moved), risk_aversion=aversion, **known) >= least * (1 - 1e-12)
    fine = sizes.best_slices(notional=1e5, slices=1500, risk_aversion=1e-7, **known)
    left = 1e5 - np.cumsum(fine)
    for time in (1, 10, 50, 200):
        path = sizes.best_path(time, notional=1e5, risk_aversion=1e-7, **known)
        assert left[time - 1] == pytest.approx(path, rel=2e-3)
    with pytest.raises(InputError, match="turnover = 0"):
        sizes.best_slices(notional=1.0, slices=2, volatility=0.1, turnover=0, impact=1.0)


def test_an_optimal_exit_sells_the_best_slices() -> None:
    """What the engine sells is what the formula says, from what was known at the bar before."""
    venue = VENUES["mark"]
    spec = {"procedure": "optimal", "slices": 4, "risk_aversion": 0.05}
    steps, _ = stepped(spec, venue)
    frame = jumpy(3000)
    sigma = np.log(frame["high"] / frame["low"]) / (2 * math.sqrt(math.log(2)))
    turnover = (frame["volume"] * frame["close"]).to_numpy()
    at = {time: k for k, time in enumerate(frame["ts"])}
    checked = 0
    for (_,), own in steps.group_by("account", maintain_order=True):
        first = own.row(0, named=True)
        k = at[first["time"]]
        if first["phase"] != "open" or own.height < 4:
            continue
        notional = first["opened"] * frame["open"][k]
        wanted = sizes.best_slices(
            notional=notional, slices=4, volatility=float(sigma[k - 1]), turnover=float(turnover[k - 1]), impact=0.3, risk_aversion=0.05
        )  # fmt: skip
        assert own["quantity"].to_list() == pytest.approx(
            [size / frame["open"][k] for size in wanted], rel=1e-9
        )
        checked += 1
    assert checked > 10
