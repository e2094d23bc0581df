"""What a contract makes of liquidations: steps of inverse and quanto contracts, in whole lots and on ticks; risk-limit steps with ticks;
a rate that grows with the size in coin (Deribit). Three engines to the bit, then by hand.
"""

from __future__ import annotations

from typing import Any

import made_markets
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_equals_oracle import MADE, engine_bars, engine_policy, engine_rules, engine_strategy
from test_engines_agree import same_tables, walk
from test_inverse import COIN, STEPS, in_coin
from test_procedures import SPECS, agreed, levered

import perpbt
from perpbt.contracts import Contract, Maintenance, Position, liquidation_price

FEW = settings(MADE, max_examples=MADE.max_examples // 2)
ENGINES = ("oracle", "dense", "skip")
CONTRACTS: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear"},
    "inverse": {"kind": "inverse", "multiplier": 10.0, "volume": "contracts"},
    "quanto": {"kind": "quanto", "multiplier": 0.25, "settlement": "BTC"},
}
ROUNDINGS = {(False, False): "none", (True, False): "lot", (False, True): "tick", (True, True): "both"}


def scaled(spec: dict[str, Any], kind: str) -> dict[str, Any]:
    """A procedure whose sums of money are coin where the contract's are."""
    if kind != "inverse":
        return spec
    return spec | {name: spec[name] / COIN for name in ("above", "whole_below") if name in spec}


@st.composite
def cases(draw: st.DrawFn, *, max_accounts: int = 12) -> tuple[dict[str, Any], dict[str, Any]]:
    """A made market, and options of a run of it: a contract, steps of it that are rounded to, a rule, a procedure."""
    kind = draw(st.sampled_from(sorted(CONTRACTS)))
    market = draw(made_markets.markets(max_accounts=max_accounts))
    fields = draw(made_markets.venues()) | {"fund_scope": "symbol"}
    rule = draw(st.sampled_from(("brackets", "whole", "size")))
    if kind == "inverse":
        market, fields = in_coin(market, fields)
    names = ("floor", "cap", "rate", "max_leverage")
    rows = tuple(tuple(tier[name] for name in names) for tier in fields.pop("tiers"))
    if rule == "size":
        grown = draw(st.sampled_from((1 / 4096, 1 / 64, 1 / 8))) * (COIN if kind == "inverse" else 1.0)
        fields["maintenance"] = {"rule": rule, "per_unit": grown}
        rows = rows[:1]
    elif rule == "whole":
        fields["maintenance"] = {"rule": rule}
    lot, tick = draw(STEPS)
    table = CONTRACTS[kind] | {name: step for name, step in (("lot", lot), ("tick", tick)) if step}
    spec = draw(st.sampled_from((None, *SPECS)))
    venue = perpbt.Venue(name="made", tiers={"default": rows}, contract=table, **fields)
    return market, {
        "venue": venue,
        "rules": draw(made_markets.rules()) | {"rounding": ROUNDINGS[bool(lot), bool(tick)]},
        "liquidation": None if spec is None else scaled(spec, kind),
    }


@FEW
@given(cases())
def test_three_engines_on_made_bars(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Prices on a grid, so that they tie with ticks, bands and thresholds."""
    market, options = case
    agreed(engine_bars(market), market["accounts_frame"], ENGINES, **options)


@FEW
@given(cases(max_accounts=1), st.data())
def test_three_engines_under_policies(
    case: tuple[dict[str, Any], dict[str, Any]], data: st.DataObject
) -> None:
    """Re-entry, compounding, margin calls and levels that follow series, behind the other door."""
    market, options = case
    bars, policy = market["bars"]["AAA"], data.draw(made_markets.policies())
    signals = data.draw(made_markets.signals(bars))
    if options["venue"].terms("contract").kind == "inverse":
        policy["capital"] /= COIN
        if policy["sizing"]["kind"] == "collateral":
            policy["sizing"] = policy["sizing"] | {"amount": policy["sizing"]["amount"] / COIN}
    rules = engine_rules(options.pop("rules"))
    runs = [
        perpbt.backtest(
            engine_bars(market, ["AAA"]), engine_strategy(bars, signals), engine_policy(policy),
            engine=engine, rules=rules, offsets=2, **options,
        )
        for engine in ENGINES
    ]  # fmt: skip
    for other in runs[1:]:
        same_tables(runs[0], other)
        for name, found in runs[0].extra.items():
            assert found.equals(other.extra[name]), name


# ------------------------------------------------------------------------------------------ on longer walks
def made_run(kind: str, spec: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """Options of a run of one contract on a walk, whose prices are about 100."""
    coin = 100.0 if kind == "inverse" else 1.0
    caps = ((0.0, 1e3, 0.004, 125.0), (1e3, 2e4, 0.01, 125.0), (2e4, 1e6, 0.05, 125.0))
    tiers = [(floor / coin, cap / coin, rate, most) for floor, cap, rate, most in caps]
    fields = {
        "tiers": {"default": tiers},
        "taker_fee": 5e-4,
        "slippage": 1e-4,
        "liquidation_fee": 0.002,
        "half_spread": 1e-4,
        "impact": 0.3,
    }
    rounding = changes.pop("rounding", "none")
    contract = CONTRACTS[kind] | changes.pop("contract", {})
    venue = perpbt.Venue(name="made", contract=contract, **(fields | changes))
    return {"venue": venue, "rules": {"rounding": rounding}, "liquidation": spec and scaled(spec, kind)}  # fmt: skip


def made_walk(kind: str, count: int, accounts: int, seed: int) -> tuple[perpbt.Bars, pl.DataFrame]:
    """Bars and accounts with little margin, in the contract's money."""
    frame = walk(count, seed=seed, tick=0.5)
    coin = 100.0 if kind == "inverse" else 1.0
    return perpbt.load_bars(frame), levered(frame, accounts).with_columns(pl.col("collateral") / coin)


@pytest.mark.parametrize("rounding", ["none", "both"])
@pytest.mark.parametrize("kind", CONTRACTS)
def test_engines_agree_on_walks(kind: str, rounding: str) -> None:
    bars, table = made_walk(kind, 3000, 400, 4)
    steps = {"lot": 0.5 if kind == "linear" else 1.0, "tick": 0.25}
    for spec in SPECS:
        options = made_run(kind, spec, rounding=rounding, contract=steps)
        run = agreed(bars, table, ("dense", "skip"), **options)
        agreed(bars, table.head(12), ("oracle", "skip"), **options)
        made = run.extra["liquidations"]
        assert made.height > 10
        if spec["procedure"] != "full":
            assert "reduced" in set(made["kind"])
        assert made["price"].is_between(30.0, 300.0).all(), "a price, not its reading"
        left = made.filter(pl.col("kind") == "reduced")["quantity_after"].to_numpy() / steps["lot"]
        if rounding == "both" and left.size:
            assert np.abs(left - np.round(left)).max() < 1e-9


@pytest.mark.parametrize("kind", ["linear", "inverse"])
def test_a_reducing_order_on_ticks_is_sized_for_the_tick(kind: str) -> None:
    """What is left is not liquidated at the mark the order was sized for, though its price is rounded to the tick met first."""
    bars, table = made_walk(kind, 3000, 400, 9)
    table = table.drop("margin_call") if "margin_call" in table.columns else table
    spec = {"procedure": "reduce_then_takeover", "close": "market"}
    options = made_run(
        kind, spec, rounding="tick", contract={"tick": 0.25}, taker_fee=0.0, liquidation_fee=0.0
    )
    made = perpbt.simulate(bars, table, **options).extra["liquidations"]
    # Of a position reduced in a bar the rest is liquidated in the same bar only at another of its two marks.
    again = made.group_by("account", "position", "time", "phase").len()
    assert made.filter(pl.col("kind") == "reduced").height > 30
    assert (again["len"] == 1).mean() > 0.9


@pytest.mark.parametrize("kind", ["linear", "inverse", "quanto"])
def test_engines_agree_on_risk_limit_steps_with_ticks(kind: str) -> None:
    bars, table = made_walk(kind, 3000, 600, 13)
    for spec in (None, {"procedure": "ladder"}, {"procedure": "slice", "above": 500.0}):
        options = made_run(
            kind, spec, rounding="tick", contract={"tick": 0.25}, maintenance={"rule": "whole"}
        )
        run = agreed(bars, table, ("dense", "skip"), **options)
        agreed(bars, table.head(15), ("oracle", "skip"), **options)
        assert (run.accounts["exit_reason"] == "liquidation").sum() > 20


# ------------------------------------------------------------------- a rate that grows with the size in coin
@pytest.mark.parametrize("per_unit", [1e-4, 2e-3, 1e-2])
@pytest.mark.parametrize("side", ["long", "short"])
def test_a_position_whose_rate_grows_in_coin_is_liquidated_at_its_price(side: str, per_unit: float) -> None:
    """The price in the table is that of `perpbt.contracts`; a mark just inside leaves it open, one just beyond does not."""
    tier = (0.0, 1e6, 0.01, 50.0)
    fields = {"tiers": {"default": [tier]}, "maintenance": {"rule": "size", "per_unit": per_unit}}
    venue = perpbt.Venue(name="made", contract={"kind": "inverse", "multiplier": 10.0}, **fields)
    leverage = 5.0
    accounts = {
        "account": "a",
        "strategy": "s",
        "symbol": "BTCUSD",
        "side": side,
        "leverage": leverage,
        "collateral": 2.0,
    }

    def closing(mark: float, engine: str) -> dict[str, Any]:
        prices = [40_000.0, 40_000.0, mark, mark]
        bars = pl.DataFrame(
            {
                "ts": [made_markets.START + k * made_markets.HOUR for k in range(4)], "symbol": ["BTCUSD"] * 4,
                **dict.fromkeys(("open", "high", "low", "close"), prices),
            }
        ).with_columns(pl.from_epoch("ts", time_unit="ms"))  # fmt: skip
        table = pl.DataFrame([accounts]).with_columns(entry_time=pl.lit(bars["ts"][0]))
        return perpbt.simulate(bars, table, venue=venue, engine=engine).accounts.row(0, named=True)

    row = closing(40_000.0, "skip")
    assert row["exit_reason"] == "end"
    held = Position(side, 40_000.0, row["quantity"], row["margin"], Contract("inverse", 10.0))
    expected = liquidation_price(held, Maintenance.growing(0.01, per_unit)).price
    assert row["liquidation_price"] == pytest.approx(expected, rel=1e-12)
    worse = -1.0 if side == "long" else 1.0
    for engine in ENGINES:
        assert closing(expected * (1 - 1e-9 * worse), engine)["exit_reason"] == "end"
        assert closing(expected * (1 + 1e-9 * worse), engine)["exit_reason"] == "liquidation"


def test_a_short_in_coin_whose_rate_grows_is_liquidated_far_on_its_winning_side() -> None:
    """10 coin short at 40,000 with margin 10 (1x) and 0.5 % a coin: at 4,000 they are 100 coin, 51 % of which is more than is left."""
    rule, held = (
        Maintenance.growing(0.01, 0.005),
        Position("short", 40_000.0, 400_000.0, 10.0, Contract("inverse")),
    )
    edge = next(
        price
        for price in np.arange(39_999.0, 100.0, -1.0)
        if held.equity(price) <= rule.required(held, price)
    )
    fields = {
        "tiers": {"default": [(0.0, 1e6, 0.01, 10.0)]},
        "maintenance": {"rule": "size", "per_unit": 0.005},
    }
    venue = perpbt.Venue(name="made", contract={"kind": "inverse"}, **fields)
    for low, reason in ((edge + 2.0, "end"), (edge - 2.0, "liquidation")):
        bars = pl.DataFrame(
            {
                "ts": [made_markets.START + k * made_markets.HOUR for k in range(3)], "symbol": ["BTCUSD"] * 3,
                "open": [40_000.0, 40_000.0, 30_000.0], "high": [40_000.0, 40_000.0, 30_000.0],
                "low": [40_000.0, low, 30_000.0], "close": [40_000.0, 30_000.0, 30_000.0],
            }
        ).with_columns(pl.from_epoch("ts", time_unit="ms"))  # fmt: skip
        table = pl.DataFrame(
            {
                "account": ["a"], "strategy": ["s"], "symbol": ["BTCUSD"], "side": ["short"], "leverage": [1.0],
                "collateral": [10.0], "entry_time": [bars["ts"][0]],
            }
        )  # fmt: skip
        found = [
            perpbt.simulate(bars, table, venue=venue, engine=engine).accounts.row(0, named=True)
            for engine in ENGINES
        ]
        assert [row["exit_reason"] for row in found] == [reason] * 3
        if reason == "liquidation":  # never better than the open
            assert [row["exit_price"] for row in found] == pytest.approx([40_000.0] * 3)


def test_engines_agree_where_the_rate_grows_in_coin() -> None:
    bars, table = made_walk("inverse", 4000, 1500, 21)
    for per_unit, least in ((1e-4, 100), (1e-3, 50), (0.01, 5)):
        fields = {
            "maintenance": {"rule": "size", "per_unit": per_unit},
            "tiers": {"default": [(0.0, 1e4, 0.004, 125.0)]},
        }
        for spec, rounding in (
            (None, "none"),
            (None, "tick"),
            ({"procedure": "slice", "above": 1.0}, "both"),
        ):
            options = made_run(
                "inverse", spec, rounding=rounding, contract={"lot": 1.0, "tick": 0.25}, **fields
            )
            run = agreed(bars, table, ("dense", "skip"), **options)
            agreed(bars, table.head(25), ("oracle", "skip"), **options)
            assert (run.accounts["exit_reason"] == "liquidation").sum() > least


def test_deribits_perpetual_is_inverse_and_grows_with_size() -> None:
    """1 % of maintenance and 0.005 % a BTC, on the value in coin at the mark: 25 BTC ask for 0.28125, 350 for 9.625."""
    venue = perpbt.load_venue("deribit_inverse")
    for size, kept in ((25.0, 0.28125), (350.0, 9.625)):
        assert venue.maintenance_margin(size, "BTC-PERPETUAL", quantity=size) == pytest.approx(
            kept, rel=1e-12
        )
        told = perpbt.explain(
            {
                "venue": venue, "symbol": "BTC-PERPETUAL", "side": "long", "entry_price": 50_000.0,
                "quantity": size * 5_000.0, "leverage": 10,
            }
        )  # fmt: skip
        assert (told.notional, told.maintenance_margin) == pytest.approx((size, kept), rel=1e-12)
        assert told.currency == "BTC"
        price = told.liquidation_price
        assert price is not None
        held = Position("long", 50_000.0, size * 5_000.0, size / 10.0, Contract("inverse", 10.0))
        coin = held.value(price)
        assert held.equity(price) == pytest.approx(coin * (0.01 + 0.00005 * coin), rel=1e-9)


@pytest.mark.parametrize("kind", ["linear", "inverse"])
@pytest.mark.parametrize("rule", ["whole", "size"])
@pytest.mark.parametrize("on", ["mark", "entry"])
def test_what_a_shortage_asks_for_follows_the_rule(kind: str, rule: str, on: str) -> None:
    """A reducing order leaves just what the rule asks of the smaller position, at the worst mark of its phase; steps drop a band or stay."""
    coin = 100.0 if kind == "inverse" else 1.0
    if rule == "whole":
        fields = {"maintenance": {"rule": "whole"}}
    else:
        tiers = {"default": [(0.0, 1e6 / coin, 0.004, 125.0)]}
        fields = {
            "maintenance": {"rule": "size", "per_unit": 2e-4},
            "tiers": tiers,
        }
    free = {
        "taker_fee": 0.0,
        "slippage": 0.0,
        "liquidation_fee": 0.0,
        "half_spread": 0.0,
        "impact": 0.0,
        "maintenance_on": on,
    }
    spec = {"procedure": "reduce_then_takeover"}
    options = made_run(kind, spec, contract={"multiplier": 1.0, "volume": "base"}, **free, **fields)
    frame = walk(3000, seed=5, step=0.004).drop("funding_rate")
    bars, table = perpbt.load_bars(frame), levered(frame, 1500).with_columns(pl.col("collateral") / coin)
    run = agreed(bars, table, ("dense", "skip"), **options)
    agreed(bars, table.head(12), ("oracle", "skip"), **options)
    owners = run.accounts.select("account", "side", "entry_price")
    steps = run.extra["liquidations"].filter((pl.col("kind") == "reduced") & (pl.col("step") == 1))
    steps = steps.join(owners, on="account", maintain_order="left").join(
        frame.rename({"ts": "time"}).drop("symbol"), on="time", maintain_order="left"
    )
    assert steps.height > 40
    maintenance, stayed = options["venue"].maintenance("AAA"), 0
    for row in steps.iter_rows(named=True):
        adverse = row["mark_low"] if row["side"] == "long" else row["mark_high"]
        worst = row["mark_open"] if row["phase"] == "open" else adverse
        left = Position(
            row["side"], row["entry_price"], row["quantity_after"], row["margin_after"], Contract(kind)
        )
        have, need = left.equity(worst), maintenance.required(left, worst)
        assert have >= need * (1 - 1e-9)
        if rule == "whole" and on == "mark" and row["phase"] == "range":
            continue  # sized for the mark it is met at too, on the way to the worst
        if have == pytest.approx(need, rel=1e-6):
            stayed += 1
        else:  # down to the end of a band, whose rate asks for less than there is
            value = left.value(worst if on == "mark" else row["entry_price"])
            assert any(value == pytest.approx(band.cap, rel=1e-9) for band in maintenance.bands[:-1])
    assert stayed > (20 if rule == "size" or on == "entry" else 0)


def test_steps_say_what_coin_their_money_is_in() -> None:
    bars, table = made_walk("inverse", 1500, 60, 3)
    run = perpbt.simulate(bars, table, **made_run("inverse", {"procedure": "ladder"}))
    steps = run.extra["liquidations"]
    close = dict(bars.frame.select("ts", "close").collect().iter_rows())
    assert set(steps["settlement"]) == set(run.accounts["settlement"])
    assert steps["conversion"].to_list() == [close[time] for time in steps["time"]]
    linear = perpbt.simulate(*made_walk("linear", 1500, 60, 3), **made_run("linear", {"procedure": "ladder"}))
    assert "settlement" not in linear.extra["liquidations"].columns
