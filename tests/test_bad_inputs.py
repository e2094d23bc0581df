"""What is wrong is told with its place, its value and what is allowed, before anything is written.

One table for what comes by the command line, one for what comes by the Python doors. An expected text is the
whole message; "…" in it stands for words of a library, {d} for the folder of the test.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
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
        times = pl.Series("ts", [START + timedelta(minutes=k) for k in minutes], dtype=pl.Datetime("ms", "UTC"))
        pl.DataFrame({"ts": times, "funding_rate": [0.0001] * len(minutes)}).write_parquet(
            folder / "funding.parquet"
        )
        return ["--set", "data.funding=funding.parquet"]

    return edit


SHIPPED = "binance_um, bybit_linear"
COMMAND_LINE: dict[str, tuple[Callable[[Path], list[str]], str]] = {}
