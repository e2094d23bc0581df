"""How cost grows: with accounts, with bars, with how long positions live.

In: sizes. Out: three tables. Where the dense engine is affordable it is run too, and its table must be the
same.
"""

from __future__ import annotations

import polars as pl

import perpbt
from perpbt.bench.made import Population, bars_held, made_bars, made_venue
from perpbt.bench.measures import cost, same, short_of
from perpbt.bench.sizes import Sizes
from perpbt.bench.tables import Column, Table

COMMON = Population(20.0, stop=0.01)
BRACKETED = Population(20.0, stop=0.01, target=0.01)  # lives as long in a short history as in a long one
# Between two levels at +-x a walk lives (x / step)^2 bars on average: ten times as far, a hundred times as long.
SHORT, LONG = (Population(5.0, stop=x, target=x, until=0.75) for x in (0.004, 0.04))
BYTES_A_BAR = 1500  # while bars are made, loaded and prepared; several copies of a dozen numbers
NOTE = (
    '  "skip" and "dense" are kernels only, "x first row" is skip\'s ns/account. Where dense ran, its table was equal. On several threads '
    "it begins with one, and stays with it where the first positions say that there is too little work for more."
)
COLUMNS = (
    Column("accounts", "accounts"), Column("bars", "bars"), Column("held", "bars held, mean"),
    Column("skip_s", "skip: s", "s", 4), Column("skip_ns", "ns/account", "ns"), Column("growth", "x first row", "x", 2),
    Column("whole_s", "simulate: s", "s", 3), Column("whole_ns", "simulate: ns/account", "ns"),
    Column("dense_s", "dense: s", "s", 3), Column("dense_rate", "dense: M account-bars/s", "M/s"),
    Column("dense_one_s", "one thread: s", "s", 4), Column("dense_one_rate", "one thread: M account-bars/s", "M/s"),
)  # fmt: skip


def compared(sizes: Sizes, threads: int | None) -> list[Table]:
    """Accounts, bars, holding time."""
    frame = made_bars(sizes.bars)
    bars = perpbt.load_bars(frame)
    return [
        over_accounts(bars, sizes, threads),
        over_holding(bars, sizes, threads),
        over_bars(sizes, threads),
    ]


def measure(
    table: Table, key: str, label: str, bars: perpbt.Bars, count: int, accounts: pl.DataFrame, sizes: Sizes,
    threads: int | None,
) -> None:  # fmt: skip
    """One row: compared with the dense engine if that is affordable, then timed.

    `growth` is the kernels' time per account against that of the first row.
    """

    def run(engine: str, threads: int | None = threads) -> perpbt.Result:
        return perpbt.simulate(bars, accounts, venue=made_venue(), threads=threads, engine=engine)

    found = run("skip").accounts
    held = bars_held(found)
    affordable = held <= sizes.dense
    if affordable:
        same(label, ("skip", "dense"), found, run("dense").accounts)
    del found
    number = accounts.height
    skip = cost(lambda: run("skip"), sizes.repeat)
    dense = cost(lambda: run("dense"), sizes.repeat).kernels if affordable else None
    alone = cost(lambda: run("dense", 1), sizes.repeat).kernels if affordable else None
    each = skip.kernels / number * 1e9
    first = table.rows[0].values["skip_ns"] if table.rows else each
    table.add(
        key, label, accounts=number, bars=count, held=held / number, skip_s=skip.kernels, skip_ns=each, whole_s=skip.whole,
        whole_ns=skip.whole / number * 1e9, growth=each / first if first else None, dense_s=dense,
        dense_rate=held / dense / 1e6 if dense else None, dense_one_s=alone,
        dense_one_rate=held / alone / 1e6 if alone else None,
    )  # fmt: skip


def over_accounts(bars: perpbt.Bars, sizes: Sizes, threads: int | None) -> Table:
    """More of the same accounts."""
    table = Table("accounts", "More accounts (20x, stop 1 %)", COLUMNS)
    for count in sizes.accounts:
        accounts = COMMON.table(count, sizes.bars)
        measure(table, str(count), f"{count:,} accounts", bars, sizes.bars, accounts, sizes, threads)
    table.notes = [NOTE]
    return table


def over_holding(bars: perpbt.Bars, sizes: Sizes, threads: int | None) -> Table:
    """As many accounts that live some hundred times longer."""
    table = Table("holding", "Longer lives (5x, stop and take-profit at the same distance)", COLUMNS)
    for key, label, population in (("short", "0.4 % away", SHORT), ("long", "4 % away", LONG)):
        accounts = population.table(sizes.history_accounts, sizes.bars)
        measure(table, key, label, bars, sizes.bars, accounts, sizes, threads)
    table.notes = [NOTE]
    return table


def over_bars(sizes: Sizes, threads: int | None) -> Table:
    """As many accounts over a longer history."""
    table = Table("bars", "More bars (20x, stop and take-profit 1 % away)", COLUMNS)
    for count in sizes.histories:
        if (note := short_of(f"{count:,} bars", count * BYTES_A_BAR)) is not None:
            table.notes.append(note)
            continue
        bars = perpbt.load_bars(made_bars(count))
        accounts = BRACKETED.table(sizes.history_accounts, count)
        measure(table, str(count), f"{count:,} bars", bars, count, accounts, sizes, threads)
    table.notes.append(NOTE)
    return table
