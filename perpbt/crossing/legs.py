"""From a checked table of accounts to legs in the kernels' order.

In: the table, its symbols and the timeline. Out: legs account after account, all at once or some accounts at a time.
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
class Owners:
    """Whose the rows of a table are: accounts by world and name, and which of them each row is of."""

    accounts: pl.DataFrame  # account, world
    number: Integers

    @property
    def size(self) -> int:
        """Accounts."""
        return self.accounts.height


@dataclass(frozen=True)
class Part:
    """Accounts [first, last) and their rows in the table, ascending."""

    first: int
    last: int
    rows: Integers


@dataclass(frozen=True)
class Legs:
    """Legs, those of account a at [first[a], first[a + 1])."""

    legs: Table
    first: Integers

    @property
    def size(self) -> int:
        """Accounts."""
        return self.first.size - 1


def owners_of(accounts: pl.DataFrame) -> Owners:
    """The accounts of a table. Raises InputError where rows of one account differ in weight."""
    whose = pl.DataFrame(
        {
            "account": accounts["account"],
            "world": accounts["world"].cast(pl.String)
            if "world" in accounts.columns
            else pl.repeat(EVERYONE, accounts.height, eager=True),
        }
    )
    names = whose.unique().sort("world", "account").with_row_index("number")
    number = (
        whose.join(names, on=["account", "world"], how="left", maintain_order="left")["number"]
        .to_numpy()
        .astype(np.int64)
    )
    check_weights(accounts, number)
    return Owners(names.select("account", "world"), number)


def parts_of(owners: Owners, most: int | None) -> list[Part]:
    """Whole accounts, in their order, in parts of about `most` rows; None: all at once."""
    if most is None:
        return [Part(0, owners.size, np.arange(owners.number.size))]
    order = np.argsort(owners.number, kind="stable")
    ends = np.cumsum(np.bincount(owners.number, minlength=owners.size))
    parts, first, begin = [], 0, 0
    while first < owners.size:
        last = max(first + 1, int(np.searchsorted(ends, begin + most, side="right")))
        parts.append(Part(first, last, np.sort(order[begin : ends[last - 1]])))
        first, begin = last, int(ends[last - 1])
    return parts


def numbers(accounts: pl.DataFrame, name: str, default: float) -> Floats:
    """A column of numbers, what is left out by default."""
    if name not in accounts.columns:
        return np.full(accounts.height, default)
    return np.array(accounts[name].fill_null(default).to_numpy(), dtype=np.float64)


def make_legs(
    given: pl.DataFrame,
    owners: Owners,
    part: Part,
    symbols: Sequence[str],
    line: Timeline,
    inverse: Sequence[bool],
) -> Legs:
    """Legs of a part of the table, placed by where their rows are in it; those on an `inverse` symbol on the other side, as kernels see
    them.
    """
    accounts = given if part.rows.size == given.height else given[part.rows]
    accounts = accounts.with_columns(pl.col(pl.Categorical).cast(pl.String))
    owner = owners.number[part.rows] - part.first
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
    return Legs(legs[order], np.searchsorted(owner[order], np.arange(part.last - part.first + 1)))


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
