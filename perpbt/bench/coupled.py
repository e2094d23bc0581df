"""Accounts that meet: the plain coupled loop over every bar, and leaps from shortfall to shortfall.

In: sizes. Out: a table of what meeting costs, without what the positions cost alone, and a table of whole runs of many accounts beside those
of accounts that never meet. In every population both engines gave the same accounts, ledger and deleveragings: of many accounts, as many of
them as the loop goes through in seconds.
"""

from __future__ import annotations

import statistics
from datetime import timedelta

import polars as pl

import perpbt
from perpbt.bench.made import Population, bars_held, made_bars, made_venue
from perpbt.bench.measures import repeated, same
from perpbt.bench.sizes import Sizes
from perpbt.bench.tables import Column, Table

POPULATIONS = (
    ("stay", "3x, entered at once, to the end", Population(3.0, until=0.01), 0.0001),
    ("along", "10x, entered all along, to the end", Population(10.0), 0.0001),
    ("short", "10x, entered all along, 12 hours", Population(10.0, hold=timedelta(hours=12)), 0.0001),
    ("dry", "40x, all along, each liquidation short", Population(40.0), 0.006),
)


# of many accounts: almost all hold on for ten days; one in so many is liquidated sooner or later, and each time the fund falls short
FEW = 400
HOLDING = Population(3.0, hold=timedelta(days=10))
FALLING = Population(40.0)
MEETINGS = (  # key, label, coupling, money in the fund
    ("apart", "10x, to the end, apart", None, 1e15),
    ("fund", "  one fund, never short", "fund", 1e15),
    ("adl", "  and ready to deleverage", "adl", 1e15),
)


def compared(sizes: Sizes) -> list[Table]:
    """Tables of both comparisons."""
    return [every_bar(sizes), many(sizes)]


def short_of_money(accounts: int, bars: int) -> pl.DataFrame:
    """A population of whom about one in FEW is liquidated, at a time of its own."""
    few = max(accounts // FEW, 1)
    others = HOLDING.table(accounts - few, bars)
    falling = FALLING.table(few, max(bars // 2, 2), seed=3)
    return pl.concat([others, falling.with_columns(pl.col("account") + (accounts - few))], how="diagonal")


def many(sizes: Sizes) -> Table:
    """A row a way to meet: seconds of a whole run of the natural size, and how often accounts apart take that."""
    count, venue = sizes.bars, made_venue(half_spread=0.006, impact=0.0)
    columns = (
        Column("accounts", "accounts"), Column("deleveraged", "deleveraged"), Column("moments", "moments"),
        Column("whole_s", "whole run: s", "s", 2), Column("ratio", "times apart", "x", 2),
    )  # fmt: skip
    table = Table("meeting", f"Many accounts that meet, {count:,} bars, one thread, whole runs", columns)
    bars = perpbt.load_bars(made_bars(count))

    def run(who: pl.DataFrame, coupling: str | None, money: float, engine: str = "skip") -> perpbt.Result:
        fund = {"seed": money}
        return perpbt.simulate(bars, who, venue=venue, fund=fund, coupling=coupling, engine=engine, threads=1)

    def both(label: str, who: pl.DataFrame, coupling: str, money: float) -> None:
        dense, skip = (run(who, coupling, money, engine) for engine in ("dense", "skip"))
        for what in ("accounts", "fund"):
            same(f"{label}: {what}", ("skip", "dense"), getattr(skip, what), getattr(dense, what))
        if coupling == "adl":
            same(f"{label}: deleveragings", ("skip", "dense"), skip.extra["adl"], dense.extra["adl"])

    apart = Population(10.0).table(sizes.natural, count)
    alone = 0.0
    for key, label, coupling, money in MEETINGS:
        if coupling is not None:
            both(label.strip(), Population(10.0).table(sizes.witnessed, count), coupling, money)
        whole, _ = repeated(lambda at=coupling, seed=money: run(apart, at, seed), sizes.repeat)  # type: ignore[misc]
        alone = alone or whole
        table.add(key, label, accounts=sizes.natural, whole_s=whole, ratio=whole / alone)
    both("short of money", short_of_money(sizes.witnessed, count), "adl", 0.0)
    who = short_of_money(sizes.natural, count)
    whole, dry = repeated(lambda: run(who, "adl", 0.0), sizes.repeat)
    told = dry.metadata["coupling"]
    table.add(
        "dry", f"3x, 10 days, one in {FEW:,} falls, deleveraging", accounts=sizes.natural, whole_s=whole,
        deleveraged=told["deleveraged"], moments=told["deleveraging_moments"],
    )  # fmt: skip
    table.notes.append(
        f"  Of {sizes.witnessed:,} accounts the loop over every bar gave the same accounts, ledger and deleveragings."
    )
    return table


def every_bar(sizes: Sizes) -> Table:
    """A row a population: account-bars a second of the loop, and the seconds of loop and leaps."""
    accounts, count = sizes.coupled
    columns = (
        Column("accounts", "accounts"), Column("account_bars", "account-bars"), Column("deleveraged", "deleveraged"),
        Column("dense_s", "dense: s", "s", 3), Column("dense_rate", "M account-bars/s", "", 0), Column("skip_s", "skip: s", "s", 3),
    )  # fmt: skip
    table = Table(
        "coupled", f"Accounts that meet, {count:,} bars, one thread, beside their lives alone", columns
    )
    bars = perpbt.load_bars(made_bars(count))

    def run(population: Population, spread: float, engine: str) -> perpbt.Result:
        venue = made_venue(half_spread=spread, impact=0.0, fund_seed=0.0)
        who = population.table(accounts, count)
        return perpbt.simulate(bars, who, venue=venue, coupling="adl", engine=engine, threads=1)

    for key, label, population, spread in POPULATIONS:
        dense, skip = (run(population, spread, engine) for engine in ("dense", "skip"))
        for what in ("accounts", "fund"):
            same(f"{label}: {what}", ("skip", "dense"), getattr(skip, what), getattr(dense, what))
        same(f"{label}: deleveragings", ("skip", "dense"), skip.extra["adl"], dense.extra["adl"])
        taken = {
            engine: statistics.median(
                run(population, spread, engine).metadata["timings_seconds"]["coupling"]
                for _ in range(sizes.repeat)
            )
            for engine in ("dense", "skip")
        }
        held = bars_held(dense.accounts)
        table.add(
            key, label, accounts=accounts, account_bars=held, deleveraged=dense.extra["adl"].height, dense_s=taken["dense"],
            dense_rate=held / taken["dense"] / 1e6, skip_s=taken["skip"],
        )  # fmt: skip
    table.notes.append("  Both engines gave the same accounts, ledger and deleveragings.")
    return table
