"""perpbt against vectorbt: the same positions through both, exits compared first.

In: sizes. Out: a table of times per account and their ratio. vectorbt runs in a process of its own
(`vectorbt_side`), on as many accounts as fit into a memory limit; perpbt on the same accounts and on a
population of the size it is made for.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import perpbt
from perpbt.bench.made import RATE, Population, bar_of, made_bars, made_venue
from perpbt.bench.measures import cost
from perpbt.bench.sizes import Sizes
from perpbt.bench.tables import Column, Table

MIB_A_MILLION = 48.0  # MiB that vectorbt takes for a million account-bars: 25 MB an account-year of minutes
MISSING = "vectorbt is not installed, so it is not compared with: pip install 'perpbt[bench]'"
PLAIN = {"taker_fee": 0.0, "maker_fee": 0.0, "slippage": 0.0}
CASES = {
    "stop_only": ("stop only", Population(5.0, stop=0.02)),
    "same_physics": ("stop, liquidation, funding", Population(20.0, stop=0.045)),
}


def installed() -> bool:
    """Whether the extra is there."""
    return importlib.util.find_spec("vectorbt") is not None


def affordable(sizes: Sizes) -> int:
    """Accounts that vectorbt can hold in the memory limit."""
    return max(2, int(sizes.peer_gib * 2**10 / (MIB_A_MILLION * sizes.bars / 1e6)))


def compared(sizes: Sizes, threads: int | None) -> Table:
    """A row a case: exits equal, then both sides' time per account."""
    columns = (
        Column("accounts", "accounts"), Column("exits", "equal exits"),
        Column("liquidated", "liquidated"),
        Column("vectorbt_us", "vectorbt us/account", "us", 1), Column("vectorbt_mib", "MiB", "MiB"),
        Column("perpbt_same_us", "perpbt, same: us/account", "us", 2), Column("ratio_same", "ratio", "x"),
        Column("natural", "perpbt accounts"), Column("perpbt_us", "us/account", "us", 3),
        Column("ratio", "ratio", "x"),
    )  # fmt: skip
    table = Table(
        "vectorbt", "perpbt against vectorbt: the whole call, per account, and how many times faster", columns
    )
    for key in CASES:
        one_case(key, table, sizes, threads)
    table.notes = [
        f"  {sizes.bars:,} bars. Exit bars, fill prices and, where there is any, funding were equal (==) before "
        "anything was timed.",
        "  vectorbt goes through every bar of every account; its time per account does not depend on their number.",
        "  perpbt reports path statistics, fund and margin ratios besides, and has costs that do not depend on the "
        "number of accounts (checks, preparation),",
        "  which is why it is shown on the same few accounts and on the many it is made for.",
    ]
    return table


def one_case(key: str, table: Table, sizes: Sizes, threads: int | None) -> None:
    """Run both sides, compare, time."""
    label, population = CASES[key]
    full = key == "same_physics"
    frame = made_bars(sizes.bars, funding=full, volume=False)
    bars = perpbt.load_bars(frame)
    venue = made_venue(**({} if full else PLAIN))
    count = affordable(sizes)

    def run(accounts: pl.DataFrame) -> perpbt.Result:
        return perpbt.simulate(bars, accounts, venue=venue, threads=threads)

    few, many = (population.table(number, sizes.bars) for number in (count, sizes.natural))
    ours = run(few).accounts
    theirs = other_side(key, frame, few, ours, sizes, venue)
    equal = same_exits(label, ours, theirs, full)
    liquidated = ours.filter(pl.col("exit_reason") == "liquidation").height
    run(many)  # warm
    here = cost(lambda: run(few), sizes.repeat).whole / count * 1e6
    natural = cost(lambda: run(many), sizes.repeat).whole / sizes.natural * 1e6
    there = float(theirs["seconds"]) / count * 1e6
    way = f"{'from_order_func' if full else 'from_signals'}, {theirs['way']}, {theirs['version']}"
    table.add(
        key, f"{label} ({way})", accounts=count, exits=equal, liquidated=liquidated,
        vectorbt_us=there, vectorbt_mib=float(theirs["peak_mib"]),
        perpbt_same_us=here, ratio_same=there / here, natural=sizes.natural, perpbt_us=natural, ratio=there / natural,
    )  # fmt: skip


def other_side(
    key: str, frame: pl.DataFrame, few: pl.DataFrame, ours: pl.DataFrame, sizes: Sizes, venue: perpbt.Venue
) -> dict[str, Any]:
    """The same positions through vectorbt. Entry, quantity and margin are given; exits are its own work."""
    rate = frame["funding_rate"].fill_null(0.0).to_numpy() if "funding_rate" in frame.columns else 0.0
    given: dict[str, Any] = {
        "mode": key, "repeat": sizes.repeat, "rate": RATE, "fee": venue.taker_fee, "slippage": venue.slippage,
        "entry": bar_of(ours["entry_time"]), "side": np.where(ours["side"].to_numpy() == "long", 1.0, -1.0),
        "quantity": ours["quantity"].to_numpy(), "margin": ours["margin"].to_numpy(),
        "stop": few["stop_loss"].to_numpy(), "carried": np.cumsum(frame["mark_open"].to_numpy() * rate),
        **{name: frame[name].to_numpy() for name in ("open", "high", "low", "close")},
        **{name: frame[name].to_numpy() for name in ("mark_open", "mark_high", "mark_low")},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(source, **given)
        command = [sys.executable, "-m", "perpbt.bench.vectorbt_side", str(source), str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise perpbt.RunError(
                f"vectorbt failed with exit code {done.returncode}: {done.stderr[-2000:].strip()}"
            )
        with np.load(target) as found:
            return dict(found)


def same_exits(label: str, ours: pl.DataFrame, theirs: dict[str, Any], full: bool) -> int:
    """Refuse to go on unless every exit is the same on both sides; returns their number."""
    left = (ours["exit_reason"] != "end").to_numpy()
    pairs = {
        "exit bar": (np.where(left, bar_of(ours["exit_time"]), -1), theirs["exit_bar"]),
        "exit price": (np.where(left, ours["exit_price"].to_numpy(), np.nan), theirs["exit_price"]),
    }
    if full:
        liquidated = (ours["exit_reason"] == "liquidation").to_numpy()
        pairs["liquidated"] = (liquidated, theirs["liquidated"])
        pairs["funding"] = (np.where(left, ours["funding"].to_numpy(), np.nan), theirs["funding"])
    for what, (here, there) in pairs.items():
        wrong = np.flatnonzero(~((here == there) | ((here != here) & (there != there))))
        if wrong.size:
            row = int(wrong[0])
            raise perpbt.RunError(
                f"{label}: perpbt and vectorbt differ in the {what} of {wrong.size:,} of {len(left):,} accounts, the "
                f"first in row {row}: {here[row]!r} and {there[row]!r}; no timing is printed"
            )
    return int(left.sum())
