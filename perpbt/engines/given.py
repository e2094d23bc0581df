"""Positions given one by one: from a checked accounts table to lanes, and their rows back into its order.

In: the table `read_accounts` returns. Out: plans and lanes of any of its rows, and an `Order` that puts finished blocks together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from perpbt.accounts import EVERYONE
from perpbt.engines.book import CHUNK, Belongings, Block, Piece, Spool, Task
from perpbt.engines.chunks import Outcome
from perpbt.kernels.tables import COLLATERAL, LANE, NONE, PLAN, PRICE, Floats, Integers, Market, Table, table
from perpbt.prepare.arrays import milliseconds

Codes32 = npt.NDArray[np.int32]


def coded(accounts: pl.DataFrame, name: str, default: str | None = None) -> tuple[pl.Series, Codes32 | None]:
    """The different values of a column of words, sorted, and where each value stands among them; None for one value."""
    if name not in accounts.columns:
        return pl.Series(name, [default], dtype=pl.String), None
    column = accounts[name]
    if column.eq_missing(column[0]).all():
        return column.head(1).cast(pl.String), None
    column = column.cast(pl.Categorical)
    names = column.unique().cast(pl.String).sort()
    physical = column.to_physical()
    unknown = int(physical.max() or 0) + 1  # type: ignore[arg-type]
    places = np.zeros(unknown + 1, dtype=np.int32)
    places[names.cast(pl.Categorical).to_physical().fill_null(unknown).to_numpy()] = np.arange(names.len())
    return names, places[physical.fill_null(unknown).to_numpy()]


class Wishes:
    """What the rows of an accounts table ask for, as arrays; what all ask for alike, or nobody does, is one number for all."""

    def __init__(self, accounts: pl.DataFrame) -> None:
        def column(name: str, default: float = np.nan) -> Floats:
            if name not in accounts.columns or accounts[name].null_count() == accounts.height:
                return np.array(default)
            values = accounts[name].fill_null(default).to_numpy()
            return values if np.any(values != values[:1]) else np.array(values[0])

        def on_mark(name: str) -> np.ndarray:
            wanted = (accounts[name] == "mark").to_numpy() if name in accounts.columns else np.array(False)
            return wanted if wanted.any() else np.array(False)

        self.plan: dict[str, np.ndarray] = {
            "leverage": column("leverage"),
            "margin_buffer": column("margin_buffer", 0.0),
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
        self.due = np.array(-1)
        if "exit_time" in accounts.columns:
            self.due = accounts["exit_time"].dt.epoch("ms").fill_null(-1).to_numpy()

    def plans(self, rows: Integers | slice) -> Table:
        """A plan per row: collateral and levels as given, one trade, no margin calls."""
        wanted = {name: values[rows] if values.ndim else values for name, values in self.plan.items()}
        return table(
            PLAN,
            self.entry[rows].size,
            **wanted,
            capital=wanted["sizing_value"],
            sizing_kind=COLLATERAL,
            stop_kind=np.where(np.isnan(wanted["stop_value"]), NONE, PRICE),
            target_kind=np.where(np.isnan(wanted["target_value"]), NONE, PRICE),
            max_holding=-1,
            max_trades=1,
        )

    def lanes(self, rows: Integers | slice, market: Market, inverse: bool = False) -> Table:
        """A lane per row: enter at the first bar at or after the time asked for, leave when due. Of an inverse contract on the other
        side, as kernels see it.
        """
        entry = self.entry[rows]
        return table(
            LANE,
            entry.size,
            plan=np.arange(entry.size),
            fixed_side=-self.side[rows] if inverse else self.side[rows],
            exit_due=self.due[rows] if self.due.ndim else self.due,
            bar=first_bars(market.time, entry),
            not_before=-1,
        )


def first_bars(times: Integers, moments: Integers) -> Integers:
    """The first of ascending `times` at or after each moment; their number where there is none.

    Where bars are evenly spaced between the first and the last moment, each is where it has to be, and only that is looked at.
    """
    if not moments.size:
        return np.zeros(0, dtype=np.int64)
    first, last = np.searchsorted(times, [moments.min(), moments.max()])
    near = times[first : last + 1]
    if near.size > 1:
        step = (near[-1] - near[0]) // (near.size - 1)
        found: Integers = np.clip(-((near[0] - moments) // step), 0, near.size)
        late = near[np.minimum(found, near.size - 1)] < moments
        soon = near[np.maximum(found - 1, 0)] < moments
        if np.all(np.where(found < near.size, ~late, soon) & (soon | (found == 0))):
            return found + int(first)
    return np.searchsorted(near, moments) + int(first)


def by_time(moments: Integers) -> Integers:
    """An order in which moments ascend, to a 2^16th of their span: entries near each other in time look at the same bars."""
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
    spool: Spool = field(default_factory=Spool)
    worlds: tuple[str, ...] = field(init=False)
    symbols: tuple[str, ...] = field(init=False)
    placed: list[Placed] = field(default_factory=list)

    def __post_init__(self) -> None:
        accounts = self.accounts
        worlds, self._world = coded(accounts, "world", EVERYONE)
        symbols, self._symbol = coded(accounts, "symbol")
        self.worlds, self.symbols = tuple(worlds), tuple(symbols)
        self.groups, self._group = self._grouped(symbols)
        self._weight = np.array(accounts["weight"].to_numpy()) if "weight" in accounts.columns else None
        account = accounts["account"]
        self.alone = account.n_unique() == self.size  # no account has two positions
        self.population, self._code, self._position = None, None, None
        if self.alone:
            counts = (
                np.bincount(self._group, minlength=self.groups.height)
                if self._group is not None
                else [self.size]
            )
            self.population = self.groups.with_columns(accounts=pl.Series(counts))
        else:
            self._code = account.rank("dense").to_numpy().astype(np.int32)
            position = pl.col("account").cum_count().over("account").cast(pl.UInt32)
            self._position = accounts.select(position).to_series()

    def _grouped(self, symbols: pl.Series) -> tuple[pl.DataFrame, Codes32 | None]:
        """Strategies, policies and symbols that occur together, and which of these each row is of."""
        codes = {name: coded(self.accounts, name) for name in ("strategy", "policy")} | {
            "symbol": (symbols, self._symbol)
        }
        sizes = [names.len() for names, _ in codes.values()]
        found, group = np.zeros(1, dtype=np.int64), None
        if max(sizes) > 1:
            number = np.zeros(self.size, dtype=np.int64)
            for size, (_, code) in zip(sizes, codes.values(), strict=True):
                number = number * size + (0 if code is None else code)
            found = np.flatnonzero(np.bincount(number))
            group = np.searchsorted(found, number).astype(np.int32)
        parts = np.unravel_index(found, sizes)
        return pl.DataFrame(
            [
                names.gather(part).alias(name)
                for part, (name, (names, _)) in zip(parts, codes.items(), strict=True)
            ]
        ), group

    @property
    def size(self) -> int:
        """Rows of the table."""
        return self.accounts.height

    def of_symbol(self, symbol: int) -> Integers:
        """The rows that are positions on a symbol."""
        return np.arange(self.size) if self._symbol is None else np.flatnonzero(self._symbol == symbol)

    def world_of(self, rows: Integers) -> Integers:
        """The world of some rows."""
        return (
            np.zeros(rows.size, dtype=np.int64) if self._world is None else self._world[rows].astype(np.int64)
        )

    def put(self, symbol: int, finished: Outcome, rows: Integers) -> None:
        """Take in finished rows, the k-th of which is row rows[k] of the table."""
        block = Block(symbol, self.spool.keep(finished.rows), self.spool.keep(finished.calls))
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
        return self._of(slice(first, last), last - first)

    def _of(self, rows: slice | Integers, size: int) -> Belongings:
        def here(codes: Codes32 | None) -> Integers:
            return np.zeros(size, dtype=np.int64) if codes is None else codes[rows].astype(np.int64)

        weight = np.ones(size) if self._weight is None else self._weight[rows]
        return Belongings(
            here(self._symbol), here(self._world), here(self._group), weight, self.wishes.entry[rows],
            None if self._code is None else here(self._code),
        )  # fmt: skip

    def tasks(self) -> Iterator[Task]:
        """All blocks in pieces of about CHUNK rows."""
        for number, one in enumerate(self.placed):
            for first in range(0, one.rows.size, CHUNK):
                yield Task(first, min(first + CHUNK, one.rows.size), number)

    def part(self, task: Task) -> tuple[Block, Integers, Belongings]:
        """The block of a task, which rows of the table its rows are, and what they belong to."""
        assert task.block is not None
        one = self.placed[task.block]
        assert one.block is not None
        to = one.rows[task.first : task.last]
        side_by_side = to[-1] - to[0] == to.size - 1
        return one.block, to, self._of(slice(to[0], to[-1] + 1) if side_by_side else to, to.size)

    def release(self, task: Task) -> None:
        """Let go of a block with its last task."""
        if task.block is not None and task.last == self.placed[task.block].rows.size:
            self.placed[task.block].block = None

    def labels(self, first: int, last: int, lane: Integers) -> Mapping[str, pl.Series]:
        """Whose rows [first, last) are."""
        frame, size = self.accounts[first:last], last - first
        absent: dict[str, str | None] = {"policy": None, "world": EVERYONE}
        words = {
            name: frame[name].cast(pl.String)
            if name in frame.columns
            else pl.repeat(absent[name], size, dtype=pl.String, eager=True)
            for name in ("strategy", "policy", "symbol", "world", "side")
        }
        position = self._position
        return {
            "account": frame["account"],
            "leverage": frame["leverage"],
            "position": pl.repeat(1, size, dtype=pl.UInt32, eager=True)
            if position is None
            else position[first:last],
            **words,
        }
