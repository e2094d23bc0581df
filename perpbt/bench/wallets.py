"""Accounts on three symbols that share one wallet: the engine that skips on all of them, the dense one on a sample.

In: sizes. Out: a table of what a wallet and a wallet-bar cost in each. A dense run of all of them would take hours; so the sample is every
so-manieth wallet, both engines have returned the same rows for it, to the bit, before anything is timed, and costs are compared by
wallet-bar: a wallet seeing one bar of all its symbols, from its first opening to its last exit.
"""

from __future__ import annotations

import numpy as np
import polars as pl

import perpbt
from perpbt.bench.made import MINUTE, START, bar_of, made_bars, made_venue, utc
from perpbt.bench.measures import cost, same
from perpbt.bench.sizes import Sizes
from perpbt.bench.tables import Column, Table

SYMBOLS = ("AAA", "BBB", "CCC")
DENSE = 12  # wallets of the sample
# name, label, leverages that go round, how margined
POPULATIONS = (
    ("1x", "cross, 1x: none is liquidated", (1.0,), "cross"),
    ("3x", "cross, 3x", (3.0,), "cross"),
    ("10x", "cross, 10x", (10.0,), "cross"),
    ("mixed", "cross, 1x, 3x, 10x in turn", (1.0, 3.0, 10.0), "cross"),
    ("portfolio", "portfolio, 1x, 3x, 10x in turn", (1.0, 3.0, 10.0), "portfolio"),
)


def wallets(count: int, bars: int, leverages: tuple[float, ...], seed: int = 2) -> pl.DataFrame:
    """`count` accounts that open a position on each symbol, long or short, at one moment in the first half of the bars."""
    random, per = np.random.default_rng(seed), len(SYMBOLS)
    entry = random.integers(1, max(2, bars // 2), count)
    return pl.DataFrame(
        {
            "account": np.repeat(np.arange(count), per),
            "strategy": pl.repeat("bench", count * per, eager=True),
            "symbol": pl.Series(SYMBOLS).gather(np.tile(np.arange(per), count)),
            "side": np.where(random.random(count * per) < 0.5, "long", "short"),
            "entry_time": utc(START + MINUTE * np.repeat(entry, per)),
            "collateral": np.full(count * per, 1000.0),
            "leverage": np.repeat(np.resize(np.array(leverages), count), per),
        }
    )


def wallet_bars(accounts: pl.DataFrame) -> int:
    """Bars from the first opening to the last exit, over all accounts."""
    lives = (
        accounts.filter(pl.col("exit_time").is_not_null())
        .group_by("account")
        .agg(pl.col("entry_time").min(), pl.col("exit_time").max())
    )
    return int((bar_of(lives["exit_time"]) - bar_of(lives["entry_time"]) + 1).sum())


def venue() -> perpbt.Venue:
    """The made venue, with scenarios like those that OKX publishes."""
    scan = {"shocks": [0.025, 0.05, 0.1, 0.15], "extreme": 0.3, "extreme_weight": 0.5, "minimum": 0.004}
    return made_venue().replace(portfolio=scan)


def compared(sizes: Sizes) -> Table:
    """Skip against dense, on one thread each."""
    columns = (
        Column("wallets", "wallets"), Column("liquidated", "liquidated, %", "", 1),
        Column("skip_us", "skip: us/wallet", "us", 1), Column("skip_ns_bar", "ns/wallet-bar", "ns", 4),
        Column("sample", "sample"), Column("dense_us", "dense: us/wallet", "us", 0),
        Column("dense_ns_bar", "ns/wallet-bar", "ns", 1), Column("ratio", "skip x dense", "x", 1),
    )  # fmt: skip
    table = Table(
        "wallets", f"Shared wallets on three symbols, {sizes.bars:,} bars, kernels only, one thread", columns
    )
    bars = perpbt.load_bars(
        pl.concat(
            made_bars(sizes.bars, seed=k + 1).with_columns(symbol=pl.lit(name))
            for k, name in enumerate(SYMBOLS)
        )
    )
    for key, label, leverages, margin in POPULATIONS:
        accounts = wallets(sizes.wallets, sizes.bars, leverages)
        step = max(1, sizes.wallets // DENSE) | 1  # odd, so that every leverage is met
        picked = accounts.filter(pl.col("account") % step == 0)

        def run(of: pl.DataFrame, engine: str, kept: str = margin) -> perpbt.Result:
            return perpbt.simulate(bars, of, venue=venue(), margin=kept, engine=engine, threads=1)

        whole, sample = run(accounts, "skip").accounts, run(picked, "dense").accounts
        number = pl.Series(range(sample.height))
        own = whole.filter(pl.col("account") % step == 0)
        same(
            label, ("skip", "dense"), own.with_columns(position=number), sample.with_columns(position=number)
        )
        skip, dense = (
            cost(lambda: run(accounts, "skip"), sizes.repeat).kernels,  # noqa: B023
            cost(lambda: run(picked, "dense"), sizes.repeat).kernels,  # noqa: B023
        )
        few, held, seen = picked["account"].n_unique(), wallet_bars(whole), wallet_bars(sample)
        table.add(
            key, label, wallets=sizes.wallets, sample=few,
            liquidated=float((whole["exit_reason"] == "liquidation").sum() / whole.height * 100),
            skip_us=skip / sizes.wallets * 1e6, skip_ns_bar=skip / held * 1e9, dense_us=dense / few * 1e6,
            dense_ns_bar=dense / seen * 1e9, ratio=(dense / seen) / (skip / held) if skip else None,
        )  # fmt: skip
    table.notes = [
        "  Dense goes through the sample only; its wallets were equal in every figure to the same ones among all that skip went through.",
        "  Funding, liquidation at every open and close, equity peak, drawdown and worst margin ratio are all on.",
    ]
    return table
