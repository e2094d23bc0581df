"""Accounts that meet: the plain coupled loop over every bar, and leaps from shortfall to shortfall.

In: sizes. Out: a table of what meeting costs, without what the positions cost alone. In every population both engines gave the same accounts,
ledger and deleveragings.
"""

from __future__ import annotations

import statistics
from datetime import timedelta

import perpbt
from perpbt.bench.made import Population, bars_held, made_bars, made_venue
from perpbt.bench.measures import same
from perpbt.bench.sizes import Sizes
from perpbt.bench.tables import Column, Table

POPULATIONS = (
    ("stay", "3x, entered at once, to the end", Population(3.0, until=0.01), 0.0001),
    ("along", "10x, entered all along, to the end", Population(10.0), 0.0001),
    ("short", "10x, entered all along, 12 hours", Population(10.0, hold=timedelta(hours=12)), 0.0001),
    ("dry", "40x, all along, each liquidation short", Population(40.0), 0.006),
)


def compared(sizes: Sizes) -> Table:
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
