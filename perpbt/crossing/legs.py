"""From a checked table of accounts to legs in the kernels' order.

In: the table, its symbols and the timeline. Out: legs account after account, and whose they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from perpbt.accounts import EVERYONE
from perpbt.crossing.grid import Timeline
from perpbt.errors import InputError
from perpbt.kernels.crossing.tables import LEG
from perpbt.kernels.tables import Floats, Integers, Table, table
from perpbt.prepare.arrays import milliseconds

# In what order the legs of an account are worked through, first key first: nothing depends on the order of the table.
ORDER = (
    "symbol", "entry", "side", "leverage", "collateral", "reserve", "buffer", "stop_value", "trail", "target_value", "due",
    "stop_on_mark", "trail_on_mark", "target_on_mark",
)  # fmt: skip


@dataclass(frozen=True)
class Legs:
    """Legs, those of account a at [first[a], first[a + 1]); accounts by world and name."""

    legs: Table
    first: Integers
    accounts: pl.DataFrame  # account, world

    @property
    def size(self) -> int:
        """Accounts."""
        return self.first.size - 1


def numbers(accounts: pl.DataFrame, name: str, default: float) -> Floats:
    """A column of numbers, what is left out by default."""
    if name not in accounts.columns:
        return np.full(accounts.height, default)
    return np.array(accounts[name].fill_null(default).to_numpy(), dtype=np.float64)


def make_legs(
    accounts: pl.DataFrame, symbols: Sequence[str], line: Timeline, inverse: Sequence[bool]
) -> Legs:
    """Legs of all rows; those on an `inverse` symbol on the other side, as kernels see them. Raises InputError where rows of one account
    differ in weight.
    """
    whose = pl.DataFrame(
        {
            "account": accounts["account"],
            "world": accounts["world"]
            if "world" in accounts.columns
            else pl.repeat(EVERYONE, accounts.height, eager=True),
        }
    )
    names = whose.unique().sort("world", "account").with_row_index("number")
    owner = (
        whose.join(names, on=["account", "world"], how="left", maintain_order="left")["number"]
        .to_numpy()
        .astype(np.int64)
    )
    check_weights(accounts, owner)
    symbol = (
        accounts["symbol"]
        .replace_strict({name: k for k, name in enumerate(symbols)}, return_dtype=pl.Int64)
        .to_numpy()
    )
    wanted, due_at = milliseconds(accounts["entry_time"]), np.full(accounts.height, -1, dtype=np.int64)
    if "exit_time" in accounts.columns:
        due_at = accounts["exit_time"].dt.epoch("ms").fill_null(-1).to_numpy()
    entry, due = np.empty(accounts.height, dtype=np.int64), np.full(accounts.height, -1, dtype=np.int64)
    for k in range(len(symbols)):
        mine = np.flatnonzero(symbol == k)
        entry[mine] = line.bar_at(k, wanted[mine])
        timed = mine[due_at[mine] >= 0]
        due[timed] = np.maximum(line.bar_at(k, due_at[timed]), line.bar_after(k, entry[timed]))
    due[due == line.time.size] = -1

    def on_mark(name: str) -> np.ndarray:
        return (
            (accounts[name] == "mark").to_numpy()
            if name in accounts.columns
            else np.zeros(accounts.height, dtype=bool)
        )

    legs = table(
        LEG, accounts.height, place=np.arange(accounts.height), symbol=symbol, entry=entry, due=due,
        side=np.where((accounts["side"] == "long").to_numpy() != np.array(inverse)[symbol], 1.0, -1.0),
        leverage=numbers(accounts, "leverage", 1.0),
        buffer=numbers(accounts, "margin_buffer", 0.0), collateral=numbers(accounts, "collateral", 0.0),
        reserve=numbers(accounts, "reserve", 0.0), stop_value=numbers(accounts, "stop_loss", np.nan),
        target_value=numbers(accounts, "take_profit", np.nan), trail=numbers(accounts, "trailing_stop", np.nan),
        stop_on_mark=on_mark("stop_trigger"), target_on_mark=on_mark("take_profit_trigger"),
        trail_on_mark=on_mark("trailing_trigger"),
    )  # fmt: skip
    keys = [np.nan_to_num(legs[name], nan=-1.0) for name in reversed(ORDER)]
    order = np.lexsort([*keys, owner])
    first = np.searchsorted(owner[order], np.arange(names.height + 1))
    return Legs(legs[order], first, names.select("account", "world"))


def check_weights(accounts: pl.DataFrame, owner: Integers) -> None:
    """Money moves between the rows of an account, so they stand for one number of accounts."""
    if "weight" not in accounts.columns:
        return
    found = pl.DataFrame({"owner": owner, "weight": accounts["weight"]}).with_row_index("row")
    first = found.group_by("owner").agg(pl.col("weight").first().alias("first"))
    wrong = found.join(first, on="owner").filter(pl.col("weight") != pl.col("first")).sort("row")
    if wrong.height:
        row = int(wrong["row"][0])
        raise InputError(
            f"accounts: row {row}, column 'weight': {wrong['weight'][0]!r}; allowed with a shared wallet: the weight of the account's "
            f"first row, {wrong['first'][0]!r}"
        )
