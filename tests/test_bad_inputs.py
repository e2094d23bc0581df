"""What is wrong is told with its place, its value and what is allowed, before anything is written.

One table for what comes by the command line, one for what comes by the Python doors. An expected text is the
whole message; "…" in it stands for words of a library, {d} for the folder of the test.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from made_bars import START, made_bars, two_symbols, with_value

import perpbt
from perpbt import cli

SPEC = """\
offsets = 3
[data]
path = "bars.parquet"
[venue]
name = "mine.toml"
[[strategy]]
name = "own.py"
[policy]
leverage = [2, 20]
stop_loss = ["none", 0.02]
"""
STRATEGY = '''\
"""Long after a rise."""
import polars as pl

def signals(*, bars: int = 1) -> dict[str, pl.Expr]:
    return {"long_entry": pl.col("close") > pl.col("close").shift(bars)}
'''
VENUE = """\
title = "Made"
taker_fee = 0.0005
maker_fee = 0.0002
slippage = 0.0001
liquidation_fee = 0.01
close_out_rate = 0
half_spread = 0.0001
impact = 1
max_slippage = 0.1
maintenance_on = "mark"
surplus_to_fund = 1
fund_seed = 1000
fund_fee_share = 0.1
fund_scope = "symbol"
[tiers.default]
brackets = [[0, 10000, 0.01, 50], [10000, 20000, 0.02, 25]]
"""
NAN = float("nan")


# ------------------------------------------------------------------------------- changes to a good folder
def bars(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], list[str]]:
    """Other bars in the file the specification names."""

    def edit(folder: Path) -> list[str]:
        change(made_bars(mark=True)).write_parquet(folder / "bars.parquet")
        return []

    return edit


def value(row: int, **values: object) -> Callable[[Path], list[str]]:
    """Another value in one row of the bars."""
    return bars(lambda frame: with_value(frame, row, **values))


def text(name: str, old: str, new: str) -> Callable[[Path], list[str]]:
    """Other words in one of the folder's files."""

    def edit(folder: Path) -> list[str]:
        path = folder / name
        assert old in path.read_text(), "a case that changes nothing tests nothing"
        path.write_text(path.read_text().replace(old, new))
        return []

    return edit


def spec(old: str, new: str) -> Callable[[Path], list[str]]:
    return text("spec.toml", old, new)


def own(expression: str) -> Callable[[Path], list[str]]:
    """Another entry signal."""
    return text("own.py", 'pl.col("close") > pl.col("close").shift(bars)', expression)


def venue(old: str, new: str) -> Callable[[Path], list[str]]:
    return text("mine.toml", old, new)


def option(*words: str) -> Callable[[Path], list[str]]:
    """More words on the command line; {d} in them is the folder."""
    return lambda folder: [word.replace("{d}", str(folder)) for word in words]


def written(name: str, content: str, *words: str) -> Callable[[Path], list[str]]:
    """Another file in the folder, and words on the command line."""

    def edit(folder: Path) -> list[str]:
        (folder / name).write_text(content)
        return [word.replace("{d}", str(folder)) for word in words]

    return edit


def events(*minutes: int) -> Callable[[Path], list[str]]:
    """A funding file of its own with events at these minutes."""

    def edit(folder: Path) -> list[str]:
        times = pl.Series(
            "ts", [START + timedelta(minutes=k) for k in minutes], dtype=pl.Datetime("ms", "UTC")
        )
        pl.DataFrame({"ts": times, "funding_rate": [0.0001] * len(minutes)}).write_parquet(
            folder / "funding.parquet"
        )
        return ["--set", "data.funding=funding.parquet"]

    return edit


COMMAND_LINE: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    # files
    "no such file": (option("--data", "{d}/none.parquet"), "{d}/none.parquet: no such file or folder"),
    "no such dataset": (
        option("--data", "smaple"),
        "smaple: no such file or folder, and no dataset of that name; datasets: … (looked in …)",
    ),
    "not Parquet": (
        written("bars.parquet", "ts,open\n"),
        "bars.parquet: cannot be read: …; allowed: Parquet, or CSV with a header line",
    ),
    "folder without data": (
        option("--data", "{d}/empty"),
        "{d}/empty: folder holds no data; allowed: files ending in .parquet, .pq, .csv",
    ),
    "specification not TOML": (
        spec("offsets = 3", "offsets = "),
        "{d}/spec.toml: not a readable TOML file: …",
    ),
    "no such specification": (
        option("hlod"),
        "hlod: neither a .toml file nor the name of one in strategies, …; did you mean 'hold'? known: …",
    ),
    "venue not TOML": (venue("impact = 1", "impact = "), "mine.toml: not valid TOML: …"),
    # columns
    "column missing": (
        bars(lambda frame: frame.drop("close")),
        "bars.parquet: required column 'close' missing; found: ts, symbol, open, high, low, …; "
        "names are matched without case",
    ),
    "half a mark": (
        bars(lambda frame: frame.drop("mark_low")),
        "bars.parquet: column 'mark_low' missing beside 'mark_open', 'mark_high', 'mark_close'; "
        "allowed: all four or none",
    ),
    "price as text": (
        bars(lambda frame: frame.with_columns(pl.col("open").cast(pl.String))),
        "bars.parquet: column 'open' has type String; allowed: integer, float or decimal",
    ),
    # values
    "time repeated": (
        value(5, ts=START + timedelta(minutes=4)),
        "bars.parquet: row 5, column 'ts' (AAA, 2024-01-01 00:04 UTC): ts = 2024-01-01 00:04 "
        "repeats the row before of this symbol; allowed: each time once a symbol",
    ),
    "times not sorted": (
        value(5, ts=START),
        "bars.parquet: row 5, column 'ts' (AAA, 2024-01-01 00:00 UTC): ts = 2024-01-01 00:00 is "
        "earlier than 2024-01-01 00:04, the row before of this symbol; allowed: rising times, one"
        " series a symbol",
    ),
    "NaN": (
        value(7, close=NAN),
        "bars.parquet: row 7, column 'close' (AAA, 2024-01-01 00:07 UTC): close = nan is not "
        "finite; allowed: finite and > 0",
    ),
    "price of zero": (
        value(3, low=0.0),
        "bars.parquet: row 3, column 'low' (AAA, 2024-01-01 00:03 UTC): low = 0.0 is not "
        "positive; allowed: finite and > 0",
    ),
    "low above open": (
        value(9, low=1e6, high=2e6),
        "bars.parquet: row 9, column 'low' (AAA, 2024-01-01 00:09 UTC): low = 1000000.0, open = "
        "…, close = …: low is above the lesser of open and close; allowed: low <= min(open, "
        "close)",
    ),
    "high below close": (
        value(9, high=1.0),
        "bars.parquet: row 9, column 'high' (AAA, 2024-01-01 00:09 UTC): high = 1.0, open = …, "
        "close = …: high is below the greater of open and close; allowed: high >= max(open, "
        "close)",
    ),
    "mark partly null": (
        value(5, mark_close=None),
        "bars.parquet: row 5, column 'mark_close' (AAA, 2024-01-01 00:05 UTC): mark_open = …, "
        "mark_close = null: mark_close is null beside prices; allowed: all four or none of them "
        "null",
    ),
    "negative volume": (
        value(5, volume=-2.0),
        "bars.parquet: row 5, column 'volume' (AAA, 2024-01-01 00:05 UTC): volume = -2.0 is "
        "negative; allowed: finite and >= 0",
    ),
    "funding repeated": (
        events(8, 8),
        "funding.parquet: row 1, column 'ts' (AAA, 2024-01-01 00:08 UTC): ts = 2024-01-01 00:08 "
        "repeats the row before of this symbol; allowed: each time once a symbol",
    ),
    # the specification
    "unknown symbol": (
        option("--set", "data.symbols=BBB"),
        "bars.parquet: unknown symbol BBB; available: AAA",
    ),
    "end before start": (
        option("--set", "data.start=2024-01-02", "--set", "data.end=2024-01-01"),
        "{d}/spec.toml with data.start=2024-01-02, data.end=2024-01-01: data = …: start = 2024-01-02 00:00:00+00:00 must be before end = "
        "2024-01-01 00:00:00+00:00",
    ),
    "nothing in the period": (
        option("--set", "data.start=2025-01-01"),
        "bars.parquet: no bars from 2025-01-01 00:00 to the end (UTC, end excluded); available: "
        "AAA has bars from 2024-01-01 00:00 to 2024-01-01 00:59",
    ),
    "misspelt key": (
        spec("stop_loss", "stop_los"),
        "{d}/spec.toml: policy.stop_los: unknown key; did you mean 'stop_loss'? known: capital, …",
    ),
    "negative leverage": (
        spec("[2, 20]", "[2, -5]"),
        "{d}/spec.toml: policy.leverage.1 = -5: must be a number above 0",
    ),
    "leverage as text": (
        spec("[2, 20]", '["ten"]'),
        "{d}/spec.toml: policy.leverage.0 = 'ten': must be a number above 0",
    ),
    "stop beyond zero": (
        spec('["none", 0.02]', "1.5"),
        "{d}/spec.toml: policy.stop_loss = 1.5: must be a number above 0 and below 1: a long's "
        "stop would stand at or under 0",
    ),
    "stop of another form": (
        spec('["none", 0.02]', "{percent = 2}"),
        "{d}/spec.toml: policy.stop_loss = {'percent': 2}: must be \"none\", a number (a fraction"
        ' of the price), {margin = x}, {atr = k, window = n} or {column = "name"}',
    ),
    "risk without stop": (
        spec('stop_loss = ["none", 0.02]', 'sizing = {kind = "risk", fraction = 0.01}'),
        "{d}/spec.toml: policy = …: policy 'leverage=2': sizing = \"risk\" needs a stop_loss to "
        "measure the risk by (and 1 more policies)",
    ),
    "same policy twice": (
        spec("[2, 20]", "[2, 2]"),
        "{d}/spec.toml: policy = …: policies: 'stop_loss=none' occurs more than once; every "
        "policy of a run must differ",
    ),
    "same strategy twice": (
        option("--set", 'strategy=[{name="hold"}, {name="hold"}]'),
        '{d}/spec.toml with strategy=[{name="hold"}, {name="hold"}]: '
        "strategy: label 'hold' occurs 2 times; give each strategy its own",
    ),
    "column that is not there": (
        spec('["none", 0.02]', '{column = "clsoe"}'),
        "strategy 'own', clsoe, symbol AAA: no such column; did you mean 'close'? known: close, …",
    ),
    "no starts": (
        spec("offsets = 3", "offsets = 0"),
        "{d}/spec.toml: offsets = 0: must be a whole number at least 1",
    ),
    "engine": (option("--set", "engine=gpu"), "engine = 'gpu': must be one of auto, skip, dense, oracle"),
    "no threads": (
        option("--threads", "0"),
        "{d}/spec.toml with threads=0: threads = 0: must be a whole number at least 1",
    ),
    "open interest below zero": (
        option("--set", "world.open_interest=-5"),
        "{d}/spec.toml with world.open_interest=-5: world.open_interest = -5: must be a number above 0",
    ),
    "open interest in no file": (
        option("--set", "world.open_interest=none.parquet"),
        "world.open_interest = 'none.parquet': no readable Parquet file (…)",
    ),
    "turnover without volume": (
        lambda folder: [
            *bars(lambda frame: frame.drop("volume"))(folder),
            "--set",
            "world.open_interest.days_of_turnover=0.1",
        ],
        "open_interest.days_of_turnover needs volume; AAA has none. Allowed: bars with volume, a number, or none (--set world.open_interest=none)",
    ),
    "funding on an index that is not there": (
        option("--set", "rules.funding_price=index"),
        "rules.funding_price = 'index' needs index_open in the bars of AAA; columns: …",
    ),
    "sampling without a span": (
        option("--set", "output.equity_every=0d"),
        "{d}/spec.toml with output.equity_every=0d: output.equity_every = '0d': must be longer than 0s",
    ),
    "override without value": (
        option("--set", "offsets"),
        "--set offsets: must be key=value or key.sub=value",
    ),
    "override of no table": (
        option("--set", "offsets.count.x=1"),
        "--set offsets.count.x=1: offsets = 3 is not a table, so it has no key 'count'",
    ),
    # strategies
    "unknown strategy": (
        spec("own.py", "hlod"),
        "hlod: neither a .py file nor the name of one in strategies, …; did you mean 'hold'? known: …",
    ),
    "strategy that raises": (
        text("own.py", "return {", 'raise ValueError("bars = 1 is too few")\n    return {'),
        "strategy own: signals() failed: ValueError: bars = 1 is too few",
    ),
    "strategy that is not Python": (
        text("own.py", "def signals", "def signals signals"),
        "own.py, line 4: SyntaxError: …",
    ),
    "signal that is not boolean": (
        own('pl.col("close")'),
        "strategy 'own', long_entry, symbol AAA is Float64; a signal must be Boolean",
    ),
    "signal that looks ahead": (
        own('pl.col("close").shift(-1) > pl.col("close")'),
        "strategy 'own', long_entry, symbol AAA looks ahead: at bar 0 (2024-01-01 00:00:00+00:00)"
        " it is False with all 60 bars and None with only the first 1",
    ),
    "signal on a column that is not there": (
        own('pl.col("open_interest") > 0'),
        "strategy 'own', long_entry, symbol AAA needs a column these bars do not have: …; they "
        "have: ts, symbol, open, …",
    ),
    "unknown signal": (
        text("own.py", "long_entry", "long_enter"),
        "strategy own: signals() returns 'long_enter'; did you mean 'long_entry'? known: "
        "long_entry, long_exit, short_entry, short_exit",
    ),
    "unknown parameter": (
        option("--set", "strategy.0.params.bras=3"),
        "strategy own: parameter bras = 3: unknown; did you mean 'bars'? known: bars",
    ),
    "parameter of another type": (
        option("--set", "strategy.0.params.bars=soon"),
        "strategy own: parameter bars = 'soon': must be a valid integer (it is int)",
    ),
    # venues
    "unknown venue": (
        spec("mine.toml", "binance"),
        "venue 'binance': unknown venue, did you mean 'binance_um'? known: …; or give the path of"
        " a .toml file",
    ),
    "gap between tiers": (
        venue("[10000, 20000", "[10001, 20000"),
        "mine.toml: tiers.default.brackets[1].floor = 10001: must be 10000, the cap below",
    ),
    "maintenance and close-out beyond one": (
        venue("close_out_rate = 0", "close_out_rate = 0.985"),
        "mine.toml: tiers.default.brackets[1].rate = 0.02: must stay below 1 together with "
        "close_out_rate = 0.985",
    ),
    "negative fee": (
        venue("taker_fee = 0.0005", "taker_fee = -0.0005"),
        "mine.toml: taker_fee = -0.0005: must be a number in [0, 0.1]",
    ),
    "fee out of range by the specification": (
        option("--set", "venue.taker_fee=0.5"),
        "venue 'mine': taker_fee = 0.5: must be a number in [0, 0.1]",
    ),
    "tiers of an unknown symbol": (
        option("--set", "venue.tiers_as={AAA = 'BTCUSDT'}"),
        "venue 'mine': tiers_as.AAA = 'BTCUSDT': unknown symbol; known: default",
    ),
    "no tiers for the symbol": (
        venue("tiers.default", "tiers.BTCUSDT"),
        "venue 'mine': tiers.AAA: unknown symbol; known: BTCUSDT",
    ),
}


# --- doors
LATER = START + timedelta(minutes=10)
GOOD = {
    "account": ["a", "b"],
    "strategy": ["one", "one"],
    "symbol": ["AAA", "BBB"],
    "side": ["long", "short"],
    "entry_time": [START, LATER],
    "collateral": [100.0, 200.0],
    "leverage": [10.0, 20.0],
}


def rows(**columns: list[Any]) -> Callable[[], object]:
    """Door one with these columns changed or added."""
    return lambda: perpbt.simulate(two_symbols(), pl.DataFrame({**GOOD, **columns}, strict=False))


def table(change: Callable[[pl.DataFrame], Any]) -> Callable[[], object]:
    """Door one with something else in the place of the good table."""
    return lambda: perpbt.simulate(two_symbols(), change(pl.DataFrame(GOOD)))


def with_option(**options: Any) -> Callable[[], object]:
    """Door one with a good table and these options."""
    return lambda: perpbt.simulate(two_symbols(), pl.DataFrame(GOOD), **options)


def traded(*given: Any, **options: Any) -> Callable[[], object]:
    """Door two with these strategies, policies and options."""
    return lambda: perpbt.backtest(two_symbols(), *given, **options)


def interest(**columns: list[Any]) -> pl.DataFrame:
    return pl.DataFrame({"ts": [START, LATER], "open_interest": [1e6, 2e6], **columns})


def not_parquet(frame: pl.DataFrame) -> str:
    frame.write_csv("accounts.parquet")
    return "accounts.parquet"


DOORS: dict[str, tuple[Callable[[], object], str]] = {
    # accounts
    "accounts: no such file": (
        table(lambda frame: "none.parquet"),
        "accounts: no file 'none.parquet'; allowed: a frame or a Parquet file",
    ),
    "accounts: not Parquet": (table(not_parquet), "accounts.parquet: not a readable Parquet file (…)"),
    "accounts: not a table": (
        table(lambda frame: 7),
        "accounts is of type int; allowed: a polars frame or a Parquet file",
    ),
    "accounts: unreadable when collected": (
        table(lambda frame: pl.scan_parquet("none.parquet")),
        "accounts: the LazyFrame given cannot be read: …",
    ),
    "accounts: no rows": (
        table(lambda frame: frame.clear()),
        "accounts: no rows; allowed: at least one account",
    ),
    "accounts: column missing": (
        table(lambda frame: frame.drop("leverage")),
        "accounts: required column 'leverage' missing; found: account, strategy, …; required: "
        "account, strategy, …",
    ),
    "accounts: unknown column": (
        table(lambda frame: frame.with_columns(stoploss=0.1)),
        "accounts: column 'stoploss': unknown column, did you mean 'stop_loss'? known: account, "
        "collateral, …",
    ),
    "accounts: null side": (
        rows(side=["long", None]),
        "accounts: row 1, column 'side': None; allowed: a value",
    ),
    "accounts: unknown side": (
        rows(side=["long", "buy"]),
        "accounts: row 1, column 'side': 'buy'; allowed: long or short",
    ),
    "accounts: side as number": (rows(side=[1, -1]), "accounts: column 'side' is Int64; allowed: text"),
    "accounts: leverage of zero": (
        rows(leverage=[10, 0]),
        "accounts: row 1, column 'leverage': 0.0; allowed: a number above 0, at most 1e+15",
    ),
    "accounts: negative leverage": (
        rows(leverage=[-5.0, 2.0]),
        "accounts: row 0, column 'leverage': -5.0; allowed: a number above 0, at most 1e+15",
    ),
    "accounts: leverage NaN": (
        rows(leverage=[NAN, 10.0]),
        "accounts: row 0, column 'leverage': nan; allowed: a number above 0, at most 1e+15",
    ),
    "accounts: leverage as text": (
        rows(leverage=["10", "x"]),
        "accounts: column 'leverage' is String; allowed: numbers",
    ),
    "accounts: collateral infinite": (
        rows(collateral=[float("inf"), 10.0]),
        "accounts: row 0, column 'collateral': inf; allowed: a number above 0, at most 1e+15",
    ),
    "accounts: unknown symbol": (
        rows(symbol=["AAA", "CCC"]),
        "accounts: row 1, column 'symbol': 'CCC'; allowed: one of AAA, BBB",
    ),
    "accounts: entry as words": (
        rows(entry_time=["2024-01-01", "soon"]),
        "accounts: row 1, column 'entry_time': 'soon'; allowed: a datetime (without zone: UTC), a"
        " date, ISO 8601 text, or an integer epoch …",
    ),
    "accounts: no entry": (
        rows(entry_time=[START, None]),
        "accounts: row 1, column 'entry_time': None; allowed: a value",
    ),
    "accounts: exit before entry": (
        rows(exit_time=[None, START]),
        "accounts: row 1, column 'exit_time': 2024-01-01 00:00 UTC; allowed: not before entry_time",
    ),
    "accounts: long stop under zero": (
        rows(stop_loss=[1.5, None]),
        "accounts: row 0, column 'stop_loss': 1.5; allowed: above 0, and below 1 where the level "
        "lies under the entry",
    ),
    "accounts: short target under zero": (
        rows(take_profit=[1.5, 1.0]),
        "accounts: row 1, column 'take_profit': 1.0; allowed: above 0, and below 1 where the "
        "level lies under the entry",
    ),
    "accounts: trailing stop of zero": (
        rows(trailing_stop=[0.0, 0.1]),
        "accounts: row 0, column 'trailing_stop': 0.0; allowed: above 0, and below 1 where the "
        "level lies under the entry",
    ),
    "accounts: unknown trigger": (
        rows(stop_trigger=["last", "index"]),
        "accounts: row 1, column 'stop_trigger': 'index'; allowed: last or mark",
    ),
    "accounts: negative buffer": (
        rows(margin_buffer=[0.1, -0.1]),
        "accounts: row 1, column 'margin_buffer': -0.1; allowed: 0 or more",
    ),
    "accounts: weight of zero": (
        rows(weight=[0.0, 1.0]),
        "accounts: row 0, column 'weight': 0.0; allowed: a number above 0, at most 1e+15",
    ),
    "accounts: fractional account": (
        rows(account=[1.5, 2.5]),
        "accounts: column 'account' is Float64; allowed: text or whole numbers",
    ),
    # options of both doors
    "bars of no kind": (
        lambda: perpbt.simulate(7, pl.DataFrame(GOOD)),  # type: ignore[arg-type],
        "source is of type int; allowed: a path, a glob, a folder, the name of a shipped dataset,"
        " a polars frame, lazy or not",
    ),
    "venue of no kind": (
        with_option(venue=7),
        "venue = 7 is of type int; allowed: a name, a path or a Venue",
    ),
    "tiers_as as a list": (
        with_option(tiers_as=["AAA"]),
        "tiers_as = ['AAA'] is of type list; allowed: a mapping from symbol to symbol",
    ),
    "fund below zero": (with_option(fund={"seed": -1}), "FundSpec: seed = -1: must be a number at least 0"),
    "fund of no kind": (
        with_option(fund=5),
        "fund = 5; allowed: FundSpec or a mapping with keys seed, scope, fee_share, hold, groups, top_ups, protection",
    ),
    "rule misspelt": (
        with_option(rules={"intrabr": "optimistic"}),
        "Rules: intrabr: unknown key; did you mean 'intrabar'? known: funding_price, intrabar, "
        "oversize, rounding, take_profit_fill",
    ),
    "rule unknown": (
        with_option(rules={"oversize": "shrink"}),
        "Rules: oversize = 'shrink': must be 'reject' or 'clip'",
    ),
    "unknown engine": (with_option(engine="gpu"), "engine = 'gpu': must be one of auto, skip, dense, oracle"),
    "no threads": (with_option(threads=0), "threads = 0: must be at least 1"),
    "threads as text": (
        with_option(threads="all"),
        "threads = 'all' is of type str; allowed: a whole number, or None for all cores",
    ),
    "crowding as text": (
        with_option(crowding="yes"),
        "crowding = 'yes' is of type str; allowed: True or False",
    ),
    "sampling without a span": (
        with_option(equity_every="0h"),
        "equity_every = '0h': must be longer than 0s",
    ),
    "sampling without a unit": (
        with_option(equity_every=3600),
        'equity_every = 3600: must be a duration such as "90s", "15m", "4h", "7d", "2w" or "1d12h"',
    ),
    "open interest negative": (
        with_option(open_interest=-5),
        "open_interest = -5; allowed: a number above 0, in quote currency",
    ),
    "open interest as text": (
        with_option(open_interest="5e8"),
        "open_interest = '5e8'; allowed: a number above 0, in quote currency",
    ),
    "open interest of a symbol negative": (
        with_option(open_interest={"AAA": 1e6, "BBB": -1.0}),
        "open_interest['BBB'] = -1.0; allowed: a number above 0, in quote currency",
    ),
    "open interest of one symbol only": (
        with_option(open_interest={"AAA": 1e6}),
        "open_interest has no value for symbol BBB; it has AAA",
    ),
    "open interest without time": (
        with_option(open_interest=interest().drop("ts")),
        "open_interest: column 'ts' missing; found: open_interest",
    ),
    "open interest NaN": (
        with_option(open_interest=interest(open_interest=[1e6, NAN])),
        "open_interest: row 1, column 'open_interest': nan; allowed: finite numbers above 0",
    ),
    "open interest null": (
        with_option(open_interest=interest(open_interest=[None, 1e6])),
        "open_interest: row 0, column 'open_interest': None; allowed: finite numbers above 0",
    ),
    "open interest series as text": (
        with_option(open_interest=interest(open_interest=["1", "2"])),
        "open_interest: column 'open_interest' has type String; allowed: integer, float or decimal",
    ),
    "open interest at no time": (
        with_option(open_interest=interest(ts=["2024-01-01", "soon"])),
        "open_interest: row 1, column 'ts': 'soon'; allowed: a datetime (without zone: UTC), a "
        "date, ISO 8601 text, or an integer epoch …",
    ),
    "open interest series of one symbol": (
        with_option(open_interest=interest(symbol=["AAA", "AAA"])),
        "open_interest has no rows for symbol BBB",
    ),
    "turnover without days": (
        with_option(open_interest={"days_of_turnover": 0}),
        "TurnoverInterest: days_of_turnover = 0: must be a number above 0",
    ),
    # strategies and policies
    "strategy of no kind": (traded(7), "strategies: 7 must be a name, a path, a function or a strategy"),
    "no strategy": (traded([]), "strategies: at least one is needed"),
    "signals that are no mapping": (
        traded(lambda: pl.lit(True)),
        "strategy <lambda>: signals() returned <Expr …>, not a mapping",
    ),
    "leverage infinite": (
        traded("hold", {"leverage": float("inf")}),
        "policies[0]: leverage = inf: must be a number above 0",
    ),
    "margin stop beyond the margin": (
        traded("hold", {"leverage": 2, "stop_loss": {"margin": 3}}),
        "policies[0]: policy 'base': stop_loss.margin = 3 must be below leverage = 2: a long's "
        "stop would stand at or under a price of 0",
    ),
    "top-up with nothing left": (
        traded("hold", {"margin_call": {"action": "top_up", "threshold": 0.8, "target": 0.5}}),
        "policies[0]: policy 'base': margin_call.action = 'top_up' with sizing = 'equity 100%' "
        "leaves nothing in the wallet of 10000 to top up with; size with less of it",
    ),
    "top-up to a worse ratio": (
        traded(
            "hold",
            {
                "sizing": {"kind": "equity", "fraction": 0.5},
                "margin_call": {"action": "top_up", "threshold": 0.5, "target": 0.8},
            },
        ),
        "policies[0]: margin_call = {'action': 'top_up', 'threshold': 0.5, 'target': 0.8}: target"
        " = 0.8 must be below threshold = 0.5",
    ),
    "no policy": (traded("hold", []), "policies: at least one is needed"),
    "offsets of no kind": (
        traded("hold", offsets=1.5),
        "Offsets: count = 1.5: must be a whole number at least 1",
    ),
    "crowd and compounding where surplus returns": (
        traded(
            "hold",
            {"compounding": True},
            crowding=True,
            venue=perpbt.load_venue("binance_um").replace(surplus_to_fund=0.5),
        ),
        "crowding with compounding policies on venue binance_um, which gives back 50% of a "
        "surplus: allowed with surplus_to_fund = 1, without crowding, or without compounding",
    ),
}


# ---------------------------------------------------------------------------------------------- the tests
@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which everything is right, as the working directory."""
    monkeypatch.chdir(tmp_path)
    made_bars(mark=True).write_parquet("bars.parquet")
    Path("spec.toml").write_text(SPEC)
    Path("own.py").write_text(STRATEGY)
    Path("mine.toml").write_text(VENUE)
    Path("runs").mkdir()
    Path("empty").mkdir()
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of the command line; anything but SystemExit is a traceback, and fails the test."""
    monkeypatch.setattr(sys, "argv", ["perpbt", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder, hidden things included."""
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


def assert_said(found: str, expected: str, folder: Path) -> None:
    pattern = ".+".join(re.escape(part) for part in expected.replace("{d}", str(folder)).split("…"))
    assert re.fullmatch(pattern, found), f"said: {found}\nexpected: {expected}"


def test_the_folder_the_cases_break_is_right(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "run", "spec.toml", "--out", "runs/one", "--quiet", "--no-report") == 0
    assert capsys.readouterr() == ("", "")
    assert perpbt.simulate(two_symbols(), pl.DataFrame(GOOD)).accounts.height == 2


@pytest.mark.parametrize("earlier", [False, True], ids=["fresh", "earlier result"])
@pytest.mark.parametrize("case", COMMAND_LINE)
def test_the_command_line_says_what_is_wrong_and_writes_nothing(
    case: str,
    earlier: bool,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit, expected = COMMAND_LINE[case]
    if earlier:
        (folder / "runs" / "one").mkdir()
        (folder / "runs" / "one" / "run.json").write_text("{}")
        (folder / "runs" / "one" / "accounts.parquet").write_bytes(b"earlier")
    words = edit(folder)
    study = [] if words and not words[0].startswith("-") else [str(folder / "spec.toml")]
    before = contents(folder)
    assert command(monkeypatch, "run", *study, *words, "--out", "runs/one") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert_said(err.removeprefix("error: ").removesuffix("\n"), expected, folder)
    assert contents(folder) == before


@pytest.mark.parametrize("case", DOORS)
def test_the_doors_say_what_is_wrong_and_write_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, expected = DOORS[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(perpbt.InputError) as caught:
        call()
    assert_said(str(caught.value), expected, tmp_path)
    assert caught.value.exit_code == 2
    assert set(contents(tmp_path)) <= {"accounts.parquet"}


BAD_PLACES = {
    "a folder of something else": (
        "bars",
        "bars: exists and is not the result of an earlier run; allowed: a new or empty directory",
    ),
    "a file": (
        "spec.toml",
        "spec.toml: exists and is not the result of an earlier run; allowed: a new or empty directory",
    ),
    "a link to nothing": (
        "link",
        "link: exists and is not the result of an earlier run; allowed: a new or empty directory",
    ),
    "under a file": (
        "spec.toml/deep/one",
        "spec.toml/deep/one: {d}/spec.toml is a file; allowed: a place in a folder that can be written to",
    ),
    "where one stands": (".", ".: is or holds the working directory; allowed: a directory beside or in it"),
    "above where one stands": (
        "..",
        "..: is or holds the working directory; allowed: a directory beside or in it",
    ),
}


@pytest.mark.parametrize("case", BAD_PLACES)
def test_a_result_never_replaces_what_is_not_one(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, expected = BAD_PLACES[case]
    (folder / "bars").mkdir()
    (folder / "bars" / "keep.txt").write_text("mine")
    (folder / "link").symlink_to("nowhere")
    before = contents(folder)
    monkeypatch.setattr("perpbt.doors.specification.run_spec", None)  # told before the work, not after
    assert command(monkeypatch, "run", "spec.toml", "--out", place) == 2
    assert_said(capsys.readouterr().err.removeprefix("error: ").removesuffix("\n"), expected, folder)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "Missing argument 'SPEC'"),
        (
            ["run", "spec.toml", "--treads", "2"],
            "No such option: --treads",
        ),  # quoted by newer versions of click
        (["run", "spec.toml", "--threads", "many"], "Invalid value for '--threads'"),
        (["walk", "spec.toml"], "No such command 'walk'"),
        (["venues", "binance"], "error: venue 'binance': unknown venue, did you mean 'binance_um'?"),
        (["strategies", "hlod"], "error: hlod: neither a .py file nor the name of one"),
        (["validate", "none.parquet"], "error: none.parquet: no such file or folder"),
        (["validate", "bars.parquet", "--symbol", "BBB"], "unknown symbol BBB; available: AAA"),
        (["validate", "bars.parquet", "--start", "soon"], "start = 'soon' is not a time; allowed: ISO 8601"),
        (["validate", "bars.parquet", "--funding", "spec.toml"], "error: spec.toml: cannot be read"),
    ],
)
def test_wrong_words(
    words: list[str],
    said: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = contents(folder)
    assert command(monkeypatch, *words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said.replace("'", "") in err.replace("option '", "option: ").replace("'", "")
    assert "Traceback" not in err
    assert contents(folder) == before
