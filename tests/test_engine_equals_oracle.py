"""The engine against the naive oracle, field by field with `==`, on made and on real bars.

Account tables go through `perpbt.simulate`, signals and policies through `perpbt.backtest`. Only the fund's
ledger, where many accounts are added up, is compared to 1e-12 of its gross flows.
"""

from __future__ import annotations

import math
import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import made_markets
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perpbt import oracle

DATA = Path(os.environ.get("PERPBT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
NUMBERS = (
    "leverage", "collateral", "entry_price", "quantity", "margin", "liquidation_price", "bankruptcy_price",
    "exit_price", "pnl", "funding", "fees", "liquidation_fee", "surplus", "deficit", "top_up", "cash_change",
    "total_return", "max_drawdown", "worst_margin_ratio",
)  # fmt: skip
WORDS = ("exit_reason", "rejection")
FLOWS = ("liquidation_fees", "surplus", "fee_share", "deficit", "uncovered")
MADE = settings(
    max_examples=int(os.environ.get("PERPBT_EXAMPLES", "80")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


# --------------------------------------------------------------- adapters: the only lines that know perpbt
def engine_venue(venue):
    from perpbt.venue import Venue

    names = ("floor", "cap", "rate", "max_leverage", "deduction")
    tiers = tuple(tuple(tier[name] for name in names) for tier in venue["tiers"])
    return Venue(**{**venue, "name": "made", "tiers": {"default": tiers}})


def engine_bars(market, symbols=None):
    import perpbt

    return perpbt.load_bars(market["frame"], funding=market["funding_frame"], symbols=symbols)


def engine_rules(rules):
    from perpbt.config import Rules

    return Rules(**rules)


def engine_simulate(market, venue, rules, **options):
    """Door a: (rows, ledger) as lists of dicts, times in ms."""
    import perpbt

    result = perpbt.simulate(
        engine_bars(market),
        market["accounts_frame"],
        venue=engine_venue(venue),
        rules=engine_rules(rules),
        **options,
    )
    return plain(result.accounts), plain(result.fund)


def engine_backtest(market, symbol, signals, policy, venue, rules, starts):
    """Door b: the rows of each account of one symbol, accounts in the order of their start bars."""
    import perpbt

    result = perpbt.backtest(
        engine_bars(market, [symbol]),
        engine_strategy(market["bars"][symbol], signals),
        engine_policy(policy),
        venue=engine_venue(venue),
        rules=engine_rules(rules),
        offsets=starts,
    )
    accounts = {}
    for row in plain(result.accounts):
        accounts.setdefault(row["account"], []).append(row)
    return [sorted(rows, key=lambda row: row["position"]) for _, rows in sorted(accounts.items())]


def engine_starts(bars, count):
    """The bars at which `count` start offsets begin."""
    from perpbt.config import Offsets

    return Offsets(count=count).starts([bar["ts"] for bar in bars])


def engine_strategy(bars, signals):
    """The signals, and the columns "floor" and "ceiling", as polars expressions of the bars' time."""
    from dataclasses import replace

    from perpbt.strategy import SIGNALS, find_strategy

    time, stamps = pl.col("ts").dt.epoch("ms"), [bar["ts"] for bar in bars]

    def looked_up(name, kind):
        return time.replace_strict(stamps, signals[name], default=None, return_dtype=kind)

    def made():
        return {name: looked_up(name, pl.Boolean) for name in SIGNALS}

    def columns():
        return {name: looked_up(name, pl.Float64) for name in ("floor", "ceiling")}

    return replace(find_strategy(made), columns=columns)


def engine_atr(market, symbol, window):
    """The engine's own average true range: how it is averaged is not the oracle's business."""
    from perpbt.prepare.arrays import average_true_range

    return average_true_range(engine_bars(market, [symbol]).collect(symbol).frame, window).tolist()


def engine_policy(policy):
    from perpbt.config import Policy

    def span(milliseconds):
        return None if milliseconds is None else timedelta(milliseconds=milliseconds)

    def level(spec):
        if spec is None or spec["kind"] == "price":
            return spec and spec["value"]
        if spec["kind"] == "atr":
            return {"atr": spec["value"], "window": spec["window"]}
        return {"column": spec["name"]} if spec["kind"] == "column" else {"margin": spec["value"]}

    same = (
        "leverage", "margin_buffer", "capital", "compounding", "sizing", "trailing_stop", "stop_trigger",
        "trailing_trigger", "take_profit_trigger", "max_trades", "margin_call",
    )  # fmt: skip
    return Policy(
        **{name: policy[name] for name in same},
        stop_loss=level(policy["stop"]),
        take_profit=level(policy["take_profit"]),
        max_holding=span(policy["max_holding"]),
        reentry={
            "after_stop": policy["after_stop"],
            "after_liquidation": policy["after_liquidation"],
            "cool_down": span(policy["cool_down"]),
        },
    )


# ----------------------------------------------------------------------------------------------- comparing
def plain(frame):
    """A frame as dicts, datetimes as ms."""
    times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
    return frame.with_columns(pl.col(name).dt.epoch("ms") for name in times).to_dicts()


def same(a, b):
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return a is b if a is None or b is None else a == b


def differences(engine, wanted):
    """{field: (engine, oracle)} for the fields of a row that are not equal."""
    side = {"long": 1, "short": -1}[engine["side"]]
    names = [*NUMBERS, *WORDS, *(name for name in ("weight", "world", "position") if name in wanted)]
    if wanted["exit_reason"] != "rejected":
        names += ["entry_time", "exit_time"]
    found = {name: (engine[name], wanted[name]) for name in names if not same(engine[name], wanted[name])}
    return found if side == wanted["side"] else {**found, "side": (side, wanted["side"])}


def compare_rows(engine, wanted):
    by_account = {row["account"]: row for row in engine}
    assert len(engine) == len(by_account) == len(wanted)
    found = {row["account"]: differences(by_account[row["account"]], row) for row in wanted}
    assert {account: fields for account, fields in found.items() if fields} == {}


def compare_ledgers(engine, wanted):
    """Rows with flows agree; the opening rows hold the seed; the money agrees to 1e-12 of what has flowed."""

    def keyed(lines):
        rows = {
            (line["world"], line["symbol"], line["time"]): line for line in lines if any(map(line.get, FLOWS))
        }
        assert len(rows) == sum(1 for line in lines if any(map(line.get, FLOWS)))
        return rows

    left, right = keyed(engine), keyed(wanted)
    assert sorted(left) == sorted(right)
    gross = math.fsum(abs(line[name]) for line in wanted for name in FLOWS)
    gross += max(line["balance"] for line in wanted)
    for key, line in right.items():
        for name in (*FLOWS, "balance"):
            assert abs(left[key][name] - line[name]) <= 1e-12 * gross, (key, name, left[key], line)
    opening = [line for line in engine if not any(map(line.get, FLOWS))]
    assert {line["balance"] for line in opening} == {line["balance"] for line in wanted[:1]}


def check(market, venue, rules, *, crowding=False, open_interest=None):
    rows = made_markets.run_accounts(market, venue, rules)
    rows, fund = oracle.settle(rows, market["bars"], venue, crowding=crowding, open_interest=open_interest)
    options = {"crowding": crowding} | ({} if open_interest is None else {"open_interest": open_interest})
    engine, engine_fund = engine_simulate(market, venue, rules, **options)
    if "world" not in market["accounts_frame"].columns:  # the name of the only world is the engine's
        engine, engine_fund = ([row | {"world": "all"} for row in lines] for lines in (engine, engine_fund))
    compare_rows(engine, rows)
    compare_ledgers(engine_fund, fund)


# --------------------------------------------------------------------------------------- door a, made bars
@MADE
@given(made_markets.markets(), made_markets.venues(), made_markets.rules())
def test_accounts_on_made_bars(market, venue, rules):
    check(market, venue, rules)


@MADE
@given(made_markets.markets(), made_markets.venues(), st.sampled_from((None, 1e4, 1e8)))
def test_crowds_and_funds_on_made_bars(market, venue, open_interest):
    check(market, venue, {}, crowding=True, open_interest=open_interest)


@settings(MADE, max_examples=20)
@given(made_markets.markets())
def test_funding_on_the_index_open(market):
    frame = market["frame"].with_columns(
        (pl.col(name) * 1.0625).alias(f"index_{name}") for name in made_markets.LAST
    )
    bars = {
        s: [bar | {"index_open": bar["open"] * 1.0625} for bar in bars] for s, bars in market["bars"].items()
    }
    check(market | {"frame": frame, "bars": bars}, REAL_VENUE, {"funding_price": "index"})


@pytest.mark.parametrize("side", ["long", "short"])
@pytest.mark.parametrize("stop", [None, 0.1171875, 0.125])
@pytest.mark.parametrize("trailing", [None, 0.1171875, 0.0625])
def test_exact_ties(side, stop, trailing):
    """N = 800 at 100, m = 100 and a fixed MM of 6.25: liquidated exactly 11.71875 from the entry."""
    s = 1 if side == "long" else -1
    venue = {
        "taker_fee": 0.0, "maker_fee": 0.0, "slippage": 0.0, "liquidation_fee": 0.0, "close_out_rate": 0.0,
        "half_spread": 0.0, "impact": 0.0, "max_slippage": 0.5, "maintenance_on": "entry",
        "surplus_to_fund": 0.5, "fund_seed": 0.0, "fund_fee_share": 0.0, "fund_scope": "symbol",
        "tiers": made_markets.ladder(made_markets.RATES[0], made_markets.LEVERAGES[0], 2, 1.0),
    }  # fmt: skip
    touch, next_to = 100 - s * 11.71875, 100 - s * 11.625
    histories, accounts = {}, []
    for symbol, reached, at_open in (("AT", touch, 0), ("OPEN", touch, 1), ("NEAR", next_to, 0)):
        turns = sorted((100.0, reached))
        opened = reached if at_open else 100.0
        calm = {"open": 100.0, "high": 100.0, "low": 100.0, "close": 100.0}
        fall = {"open": opened, "high": turns[1], "low": turns[0], "close": 100.0}
        histories[symbol] = [
            {"ts": made_markets.START + i * made_markets.HOUR, "volume": None, **prices}
            | dict.fromkeys(made_markets.MARK)
            for i, prices in enumerate((calm, fall, calm))
        ]
        wishes = dict.fromkeys(made_markets.WISHES) | {"stop_loss": stop, "trailing_stop": trailing}
        accounts.append(
            {"account": symbol, "strategy": "tie", "symbol": symbol, "side": side, "collateral": 100.0}
            | {"entry_time": made_markets.START, "leverage": 8.0, **wishes, "world": "all", "weight": 1.0}
        )
    market = {
        "bars": {symbol: made_markets.oracle_bars(rows) for symbol, rows in histories.items()},
        "frame": made_markets.bars_frame(histories, {}, mark=False, volume=False),
        "funding": dict.fromkeys(histories, ()),
        "funding_frame": None,
        "accounts": accounts,
        "accounts_frame": made_markets.accounts_frame(accounts, ["stop_loss", "trailing_stop"]),
    }
    reasons = {row["account"]: row["exit_reason"] for row in made_markets.run_accounts(market, venue, {})}
    closer = trailing == 0.0625  # met before the others, except at an open where liquidation is asked first
    assert reasons["AT"] == ("trailing_stop" if closer else "liquidation")
    assert reasons["OPEN"] == "liquidation"
    assert reasons["NEAR"] == ("trailing_stop" if closer else "end")
    check(market, venue, {})


# --------------------------------------------------------------------------------------- door b, made bars
@MADE
@given(st.data())
def test_policies_on_made_bars(data):
    market = data.draw(made_markets.markets(max_accounts=1))
    venue, rules = data.draw(made_markets.venues()), data.draw(made_markets.rules())
    policy, symbol = data.draw(made_markets.policies()), "AAA"
    bars = market["bars"][symbol]
    signals = data.draw(made_markets.signals(bars))
    known = dict(policy)
    for name in ("stop", "take_profit"):
        if policy[name] and policy[name]["kind"] == "atr":
            known[name] = policy[name] | {"series": engine_atr(market, symbol, policy[name]["window"])}
        if policy[name] and policy[name]["kind"] == "column":
            known[name] = policy[name] | {"series": signals[policy[name]["name"]]}
    cf = oracle.cumulative_funding(bars, market["funding"][symbol])
    count = data.draw(st.sampled_from((1, 3)))
    starts = engine_starts(bars, count)
    wanted = [oracle.run_account(bars, cf, signals, known, venue, rules, start) for start in starts]
    wanted = [rows for rows in wanted if rows]
    engine = engine_backtest(market, symbol, signals, policy, venue, rules, count)
    assert [[row["exit_reason"] for row in rows] for rows in engine] == [
        [row["exit_reason"] for row in rows] for rows in wanted
    ]
    found = [
        differences(row, want)
        for rows, wants in zip(engine, wanted, strict=True)
        for row, want in zip(rows, wants, strict=True)
    ]
    assert [fields for fields in found if fields] == []


# ----------------------------------------------------------------------------------------------- real bars
REAL_VENUE = {
    "taker_fee": 0.0005, "maker_fee": 0.0002, "slippage": 0.0002, "liquidation_fee": 0.0125,
    "close_out_rate": 0.0, "half_spread": 0.0002, "impact": 0.8, "max_slippage": 0.2,
    "maintenance_on": "mark", "surplus_to_fund": 1.0, "fund_seed": 1e5, "fund_fee_share": 0.1,
    "fund_scope": "pooled",
    "tiers": made_markets.ladder((0.004, 0.005, 0.025, 0.1), (125.0, 100.0, 50.0, 10.0), 4, 20.0),
}  # fmt: skip
WINDOWS = {  # bars that hold a crash each
    "ADAUSDT": datetime(2020, 2, 10, tzinfo=UTC),
    "BTCUSDT": datetime(2020, 2, 25, tzinfo=UTC),
    "ETHUSDT": datetime(2021, 4, 20, tzinfo=UTC),
    "LTCUSDT": datetime(2020, 3, 1, tzinfo=UTC),
    "XRPUSDT": datetime(2022, 11, 1, tzinfo=UTC),
}


def real_account(rng, bars, symbol, number):
    """A position of a kind people hold."""
    opened = rng.randrange(len(bars))

    def maybe(*values):
        return rng.choice((None, rng.choice(values)))

    return {
        "account": f"{symbol}-{number}",
        "strategy": "random",
        "symbol": symbol,
        "side": rng.choice(("long", "short")),
        "entry_time": bars[opened]["ts"] + rng.choice((0, 0, 60_000)),
        "collateral": rng.choice((100.0, 1_000.0, 30_000.0)),
        "leverage": float(rng.choice((2, 3, 5, 10, 20, 50, 100))),
        "stop_loss": maybe(0.005, 0.01, 0.02, 0.05, 0.1),
        "take_profit": maybe(0.01, 0.05, 0.2),
        "trailing_stop": rng.choice((None, maybe(0.01, 0.05, 0.15))),
        "exit_time": maybe(bars[opened]["ts"] + 3_600_000 * rng.randrange(1, 400)),
        "stop_trigger": maybe("last", "mark"),
        "trailing_trigger": maybe("last", "mark"),
        "take_profit_trigger": maybe("last", "mark"),
        "margin_buffer": maybe(0.0, 0.5),
        "world": rng.choice(("a", "b")),
        "weight": rng.choice((1.0, 10.0, 100.0)),
    }


def real_market(path, bars_each=1_200, accounts_each=30):
    rng = random.Random(20_200_312)
    names = [*made_markets.LAST, *made_markets.MARK, "volume", "funding_rate"]
    frames, histories, funding, accounts = [], {}, {}, []
    for symbol, start in WINDOWS.items():
        wanted = (pl.col("symbol") == symbol) & (pl.col("ts") >= start)
        frame = pl.scan_parquet(path).filter(wanted).sort("ts").head(bars_each)
        frame = frame.select("ts", "symbol", *names).collect()
        frames.append(frame)
        rows = frame.with_columns(pl.col("ts").dt.epoch("ms")).to_dicts()
        events = [(row["ts"], row["funding_rate"]) for row in rows if row["funding_rate"] is not None]
        histories[symbol] = made_markets.oracle_bars([row for row in rows if row["open"] is not None])
        funding[symbol] = events
        accounts += [real_account(rng, histories[symbol], symbol, j) for j in range(accounts_each)]
    return {
        "bars": histories,
        "frame": pl.concat(frames),
        "funding": funding,
        "funding_frame": None,
        "accounts": accounts,
        "accounts_frame": made_markets.accounts_frame(accounts, made_markets.WISHES),
    }


@pytest.mark.parametrize("crowding", [False, True])
def test_accounts_on_real_bars(crowding):
    path = DATA / "binance_um_1h_2019_2023.parquet"
    if not path.exists():
        pytest.skip(f"no real data at {path}: set PERPBT_DATA to the folder that holds it")
    market = real_market(path)
    reasons = {row["exit_reason"] for row in made_markets.run_accounts(market, REAL_VENUE, {})}
    assert reasons >= {"liquidation", "stop_loss", "trailing_stop", "take_profit", "time", "end"}
    check(market, REAL_VENUE, {}, crowding=crowding, open_interest=1e9 if crowding else None)
