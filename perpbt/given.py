"""Positions given one by one: from a checked accounts table to lanes, and their rows back into its order.

In: the table `read_accounts` returns. Out: plans and lanes of any of its rows, and an `Order` that puts finished blocks together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from perpbt.book import Belongings, Block, Piece
from perpbt.kernels.tables import COLLATERAL, LANE, NONE, PLAN, PRICE, Floats, Integers, Market, Table, table
from perpbt.prepare import milliseconds
from perpbt.statistics.common import codes_in

KEYS = ("strategy", "policy", "symbol")


def coded(column: pl.Series) -> tuple[pl.Series, Integers]:
    """The different values of a column of words, sorted, and where each value stands among them."""
    names = column.unique().sort()
    if names.len() == 1:
        return names, np.zeros(column.len(), dtype=np.int64)
    return names, codes_in(names, column)


class Wishes:
    """What the rows of an accounts table ask for, as arrays."""

    def __init__(self, accounts: pl.DataFrame) -> None:
        def column(name: str) -> Floats:
            if accounts[name].null_count() == accounts.height:
                return np.array(np.nan)
            return accounts[name].fill_null(float("nan")).to_numpy()

        def on_mark(name: str) -> np.ndarray:
            wanted = (accounts[name] == "mark").to_numpy()
            return wanted if wanted.any() else np.array(False)

        # what nobody asks for is one number for all
        self.plan: dict[str, np.ndarray] = {
            "leverage": column("leverage"),
            "margin_buffer": column("margin_buffer"),
            "sizing_value": column("collateral"),
            "stop_value": column("stop_loss"),
            "stop_on_mark": on_mark("stop_trigger"),
            "target_value": column("take_profit"),
            "target_on_mark": on_mark("take_profit_trigger"),
            "trail": column("trailing_stop"),
            "trail_on_mark": on_mark("trailing_trigger"),
        }
        self.side = (accounts["side"] == "long").to_numpy().astype(np.int8) * 2 - 1
        self.entry = milliseconds(accounts["entry_time"])
        self.due = accounts["exit_time"].dt.epoch("ms").fill_null(-1).to_numpy()

    def plans(self, rows: Integers | slice) -> Table:
        """A plan per row: collateral and levels as given, one trade, no margin calls."""
        wanted = {name: values[rows] if values.ndim else values for name, values in self.plan.items()}
        return table(
            PLAN,
            wanted["leverage"].size,
            **wanted,
            capital=wanted["sizing_value"],
            sizing_kind=COLLATERAL,
            stop_kind=np.where(np.isnan(wanted["stop_value"]), NONE, PRICE),
            target_kind=np.where(np.isnan(wanted["target_value"]), NONE, PRICE),
            max_holding=-1,
            max_trades=1,
        )

    def lanes(self, rows: Integers | slice, market: Market) -> Table:
        """A lane per row: enter at the first bar at or after the time asked for, leave when due."""
        entry = self.entry[rows]
        return table(
            LANE,
            entry.size,
            plan=np.arange(entry.size),
            fixed_side=self.side[rows],
            exit_due=self.due[rows],
            bar=np.searchsorted(market.time, entry),
            not_before=-1,
        )


def by_time(moments: Integers) -> Integers:
    """An order in which moments ascend, roughly: entries near each other in time look at the same bars."""
    if moments.size < 2 or np.all(moments[1:] >= moments[:-1]):
        return np.arange(moments.size)
    since = moments - moments.min()
    shift = max(0, int(since.max()).bit_length() - 16)
    return np.argsort((since >> shift).astype(np.uint16), kind="stable")  # sorts 16 bits in two passes


@dataclass
class Placed:
    """A block and the rows of the table its rows are."""

    block: Block | None
    rows: Integers  # ascending


@dataclass
class GivenOrder:
    """The order of the table given."""

    accounts: pl.DataFrame
    wishes: Wishes
    worlds: tuple[str, ...] = field(init=False)
    symbols: tuple[str, ...] = field(init=False)
    placed: list[Placed] = field(default_factory=list)

    def __post_init__(self) -> None:
        codes: dict[str, tuple[pl.Series, Integers]] = {
            name: coded(self.accounts[name]) for name in (*KEYS, "world")
        }
        self.worlds = tuple(codes["world"][0])
        self.symbols = tuple(codes["symbol"][0])
        number = np.zeros(self.size, dtype=np.int64)
        for key in KEYS:
            number = number * codes[key][0].len() + codes[key][1]
        room = int(np.prod([codes[key][0].len() for key in KEYS]))
        counts = np.bincount(number, minlength=room)
        found = np.flatnonzero(counts)
        group = np.searchsorted(found, number) if room > 1 else number
        parts = np.unravel_index(found, [codes[key][0].len() for key in KEYS])
        self.groups = pl.DataFrame(
            [codes[key][0].gather(part) for key, part in zip(KEYS, parts, strict=True)]
        )
        account = self.accounts["account"]
        self.alone = account.n_unique() == self.size  # no account has two positions
        self.population = self.groups.with_columns(accounts=pl.Series(counts[found])) if self.alone else None
        self.of = Belongings(
            symbol=codes["symbol"][1],
            world=codes["world"][1],
            group=group,
            weight=np.array(self.accounts["weight"].to_numpy()),
            requested=self.wishes.entry,
            account=None if self.alone else codes_in(account.unique().cast(pl.String), account),
        )

    @property
    def size(self) -> int:
        """Rows of the table."""
        return self.accounts.height

    def of_symbol(self, symbol: int) -> Integers:
        """The rows that are positions on a symbol."""
        return np.flatnonzero(self.of.symbol == symbol)

    def put(self, block: Block, rows: Integers) -> None:
        """Take in a finished block, the k-th row of which is row rows[k] of the table."""
        self.placed.append(Placed(block, rows))

    def pieces(self, first: int, last: int) -> Sequence[Piece]:
        """Where rows [first, last) are."""
        found = []
        for one in self.placed:
            if one.block is None or one.rows[0] >= last or one.rows[-1] < first:
                continue
            low, high = np.searchsorted(one.rows, (first, last))
            to = one.rows[low:high] - first
            if low < high:
                side_by_side = to[-1] - to[0] == high - low - 1
                found.append(Piece(one.block, int(low), int(high), int(to[0]) if side_by_side else to))
        return found

    def belongings(self, first: int, last: int) -> Belongings:
        """What rows [first, last) belong to."""
        here, of = slice(first, last), self.of
        account = None if of.account is None else of.account[here]
        return Belongings(
            of.symbol[here], of.world[here], of.group[here], of.weight[here], of.requested[here], account
        )

    def release(self, row: int) -> None:
        """Let go of blocks all rows of which come before `row`."""
        for one in self.placed:
            if one.rows[-1] < row:
                one.block = None

    def labels(self, first: int, last: int, lane: Integers) -> Mapping[str, pl.Series]:
        """Whose rows [first, last) are."""
        frame = self.accounts[first:last]
        if self.alone:
            position = pl.repeat(1, frame.height, dtype=pl.UInt32, eager=True)
        else:
            position = (
                frame["account"]
                .to_frame()
                .select(pl.col("account").cum_count().over("account").cast(pl.UInt32))
                .to_series()
            )
        names = ("account", "strategy", "policy", "symbol", "world", "side", "leverage")
        return {**{name: frame[name] for name in names}, "position": position}
