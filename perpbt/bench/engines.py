"""The engines beside each other: the one that skips, the dense one, and the naive oracle.

In: sizes. Out: a table of what an account and an account-bar cost in each. Every engine has returned the
same table, to the bit, before any is timed.
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

import perpbt
from perpbt.bench.made import Population, bars_held, made_bars, made_venue
from perpbt.bench.measures import cost, same
from perpbt.bench.sizes import Sizes
from perpbt.bench.tables import Column, Table

# name, label, share of the largest population, population
POPULATIONS = (
    ("1x", "1x, no stop", 0.025, Population(1.0)),
    ("5x_stop", "5x, stop 5 %", 0.15, Population(5.0, stop=0.05)),
    ("20x_stop", "20x, stop 1 %", 0.5, Population(20.0, stop=0.01)),
    ("2x_trailing", "2x, trailing stop 20 %", 0.05, Population(2.0, trail=0.2)),
    ("50x", "50x, no stop", 1.0, Population(50.0)),
    (
        "everything",
        "10x, stop 4 %, target 6 %, trailing 5 %, 7 days",
        0.5,
        Population(10.0, stop=0.04, target=0.06, trail=0.05, hold=timedelta(days=7)),
    ),
)


def compared(sizes: Sizes) -> list[Table]:
    """Skip against dense on the whole history, all three on a shorter one; one thread."""
    columns = (
        Column("accounts", "accounts"), Column("account_bars", "account-bars"),
        Column("dense_ns_bar", "dense: ns/account-bar", "ns", 2), Column("dense_us", "us/account", "us", 1),
        Column("skip_ns_bar", "skip: ns/account-bar", "ns", 4), Column("skip_us", "us/account", "us", 2),
        Column("ratio", "skip x dense", "x", 1),
    )  # fmt: skip
    table = Table("engines", f"Engines, {sizes.bars:,} bars, kernels only, one thread", columns)
    bars = perpbt.load_bars(made_bars(sizes.bars))
    for key, label, share, population in POPULATIONS:
        accounts = population.table(max(2, int(sizes.engines * share)), sizes.bars)
        held = held_equally(label, bars, accounts, ("skip", "dense"))
        dense, skip = (seconds(bars, accounts, engine, sizes.repeat) for engine in ("dense", "skip"))
        count = accounts.height
        table.add(
            key, label, accounts=count, account_bars=held, dense_ns_bar=dense / held * 1e9, dense_us=dense / count * 1e6,
            skip_ns_bar=skip / held * 1e9, skip_us=skip / count * 1e6, ratio=dense / skip if skip else None,
        )  # fmt: skip
    table.notes = [
        "  The tables of both engines were equal in every figure. Funding, liquidation, stops, equity peak, drawdown and "
        "worst margin ratio are all on.",
        "  An account-bar is one account seeing one bar; the engine that skips is charged for those it never looks at.",
    ]
    return [table, with_oracle(sizes)]


def run(bars: perpbt.Bars, accounts: pl.DataFrame, engine: str) -> perpbt.Result:
    """One engine, one thread."""
    return perpbt.simulate(bars, accounts, venue=made_venue(), threads=1, engine=engine)


def seconds(bars: perpbt.Bars, accounts: pl.DataFrame, engine: str, times: int) -> float:
    """Median seconds in the kernels."""
    return cost(lambda: run(bars, accounts, engine), times).kernels


def held_equally(label: str, bars: perpbt.Bars, accounts: pl.DataFrame, engines: tuple[str, ...]) -> int:
    """Refuse to go on if engines differ; returns account-bars."""
    first, *others = (run(bars, accounts, engine).accounts for engine in engines)
    for engine, other in zip(engines[1:], others, strict=True):
        same(label, (engines[0], engine), first, other)
    return bars_held(first)


def with_oracle(sizes: Sizes) -> Table:
    """A handful of accounts through all three."""
    columns = (
        Column("accounts", "accounts"), Column("account_bars", "account-bars"),
        Column("oracle_ns_bar", "oracle: ns/account-bar", "ns"), Column("oracle_us", "oracle: us/account", "us"),
        Column("many", "accounts"), Column("skip_us", "skip: us/account", "us", 2),
        Column("ratio", "skip x oracle", "x"),
    )  # fmt: skip
    table = Table("oracle", f"The naive oracle, {sizes.oracle_bars:,} bars", columns)
    bars = perpbt.load_bars(made_bars(sizes.oracle_bars))
    for key, label, share, population in POPULATIONS:
        accounts, many = (
            population.table(count, sizes.oracle_bars)
            for count in (sizes.oracle, max(2, int(sizes.engines * share)))
        )
        held = held_equally(label, bars, accounts, ("skip", "dense", "oracle"))
        naive = seconds(bars, accounts, "oracle", 1)
        naive_us = naive / accounts.height * 1e6
        skip_us = seconds(bars, many, "skip", sizes.repeat) / many.height * 1e6
        table.add(
            key, label, accounts=accounts.height, account_bars=held, oracle_ns_bar=naive / held * 1e9,
            oracle_us=naive_us, many=many.height, skip_us=skip_us, ratio=naive_us / skip_us if skip_us else None,
        )  # fmt: skip
    table.notes = [
        "  All three engines gave the few accounts the same table in every figure; skip is timed on many."
    ]
    return table
