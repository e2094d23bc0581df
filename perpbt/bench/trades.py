"""Strategies that enter again and again, through `backtest`.

In: sizes. Out: a table of what a trade costs. On the smallest population both engines gave the same table.
"""

from __future__ import annotations

import polars as pl

import perpbt
from perpbt.bench.made import made_bars, made_venue
from perpbt.bench.measures import cost, same, short_of
from perpbt.bench.sizes import Sizes
from perpbt.bench.tables import Column, Table

BYTES_A_TRADE = 700  # of the tables of a result while they are made
TRADES_AN_ACCOUNT = 36
POLICIES = 400  # of the population in which few accounts share one


def always() -> dict[str, pl.Expr]:
    """Wants to be long at every close."""
    return {"long_entry": pl.lit(True)}


def compared(sizes: Sizes, threads: int | None) -> Table:
    """A row a number of accounts: nanoseconds a trade."""
    columns = (
        Column("accounts", "accounts"), Column("trades", "trades"), Column("each", "trades/account", digits=1),
        Column("kernels_s", "kernels: s", "s", 3), Column("kernels_ns", "kernels: ns/trade", "ns", 1),
        Column("whole_s", "backtest: s", "s", 2), Column("whole_ns", "backtest: ns/trade", "ns"),
    )  # fmt: skip
    away = 0.05 * (sizes.bars / 525_600) ** 0.5  # as many trades in a shorter history
    table = Table(
        "trades", f"Re-entering, 5x, stop and take-profit {away:.1%} away, {sizes.bars:,} bars", columns
    )
    bars = perpbt.load_bars(made_bars(sizes.bars))
    fixed = perpbt.Policy(leverage=5.0, stop_loss=away, take_profit=away)
    half = {"kind": "equity", "fraction": 0.5}
    compounding = perpbt.Policy(leverage=5.0, stop_loss=away, take_profit=away, sizing=half, compounding=True)

    grid = {
        "leverage": [2.0 + step / 4 for step in range(20)],
        "stop_loss": [away * (1.0 + step / 20) for step in range(POLICIES // 20)],
        "take_profit": away,
    }

    def run(policy: object, starts: int, engine: str = "auto") -> perpbt.Result:
        return perpbt.backtest(
            bars, always, policy, offsets=starts, venue=made_venue(), threads=threads, engine=engine
        )

    few = min(200, *sizes.trades)
    for one_policy in (fixed, compounding):
        same(
            "re-entering",
            ("skip", "dense"),
            *(run(one_policy, few, one).accounts for one in ("skip", "dense")),
        )
    wanted: list[tuple[str, str, object, int, int]]
    wanted = [(str(size), f"{size:,} accounts", fixed, size, size) for size in sizes.trades]
    for size in sizes.trades[:2]:
        wanted.append((f"compounding {size}", f"{size:,} accounts, compounding", compounding, size, size))
    starts = max(1, sizes.trades[1] // POLICIES)
    wanted.append(
        (f"{POLICIES} policies", f"{POLICIES} policies, {starts:,} starts", grid, starts, POLICIES * starts)
    )
    for key, label, policy, starts, accounts in wanted:
        note = short_of(label, accounts * TRADES_AN_ACCOUNT * BYTES_A_TRADE)
        if note is not None:
            table.notes.append(note)
            continue
        found = cost(lambda: run(policy, starts), sizes.repeat)  # noqa: B023
        number = found.positions
        table.add(
            key, label, accounts=accounts, trades=number, each=number / accounts,
            kernels_s=found.kernels, kernels_ns=found.kernels / number * 1e9, whole_s=found.whole,
            whole_ns=found.whole / number * 1e9,
        )  # fmt: skip
    table.notes.append(f"  Both engines gave {few:,} accounts of each kind the same trades in every figure.")
    return table
