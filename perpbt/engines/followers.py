"""Accounts that follow signals: tiles of lanes, and their rows put together by strategy, policy, symbol and start.

In: what each strategy on each symbol gave, tile by tile. Out: an `Order`. A tile is some policies from some starts on: few enough bars
to stay in the cache, and rows that are in order already within each policy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]

from perpbt.columns import held, words
from perpbt.engines.book import Belongings, Block, Piece, Spool, Task
from perpbt.engines.chunks import Outcome
from perpbt.kernels.tables import CALL, LANE, ROW, Floats, Integers, Signals, Table, table

# starts whose bars stay in the cache; fewer leave rows in runs too short to be put in order cheaply
NARROW = 256


@dataclass(frozen=True)
class Tile:
    """Lanes of the policies and starts [first, last), policies outermost."""

    first_policy: int
    last_policy: int
    first_start: int
    last_start: int

    @property
    def size(self) -> int:
        """Lanes."""
        return (self.last_policy - self.first_policy) * self.width

    @property
    def width(self) -> int:
        """Starts."""
        return self.last_start - self.first_start

    def lanes(self, plans: Table, starts: Integers) -> Table:
        """The lanes, ready to run."""
        plan = np.repeat(np.arange(self.first_policy, self.last_policy), self.width)
        return table(
            LANE,
            plan.size,
            plan=plan,
            exit_due=-1,
            bar=np.tile(starts[self.first_start : self.last_start], self.last_policy - self.first_policy),
            not_before=-1,
            wallet=plans["capital"][plan],
        )


def tiles(policies: int, starts: int, size: int, returning: bool = False) -> Iterator[Tile]:
    """All policies and starts in tiles of about `size` lanes.

    Accounts that trade a few times stay near their start: a NARROW stretch of starts under as many policies as it takes. Those that keep
    `returning` see all bars from there on, wherever they started: as many starts as there are under the same few policies, for they meet,
    and leave rows in the order of the table.
    """
    if returning:
        tall = min(policies, max(1, size // max(starts, 1)))
        wide = max(1, size // tall)
        corners = [(policy, start) for policy in range(0, policies, tall) for start in range(0, starts, wide)]
    else:
        tall = min(policies, max(1, size // min(starts, NARROW))) if starts else 1
        wide = max(1, size // tall)
        corners = [(policy, start) for start in range(0, starts, wide) for policy in range(0, policies, tall)]
    for policy, start in corners:
        yield Tile(policy, min(policy + tall, policies), start, min(start + wide, starts))


@dataclass(frozen=True)
class Page:
    """A block, and where in it the rows of each group are."""

    block: Block
    group: Integers
    first: Integers
    count: Integers


EMPTY = Page(
    Block(0, np.empty(0, dtype=ROW), np.empty(0, dtype=CALL)),
    *(np.zeros(0, dtype=np.int64) for _ in range(3)),
)


@dataclass
class FollowingOrder:
    """Rows by strategy, policy, symbol, start and position. A world is a strategy and a policy, a group a world and a symbol."""

    strategies: tuple[str, ...]
    policies: tuple[str, ...]
    symbols: tuple[str, ...]
    plans: Table
    spool: Spool = field(default_factory=Spool)
    starts: list[int] = field(default_factory=list)  # how many each symbol has
    pages: list[Page] = field(default_factory=list)
    signals: dict[tuple[int, int], Signals] = field(
        default_factory=dict
    )  # by strategy and symbol, where accounts meet
    begins: list[Integers] = field(default_factory=list)  # by symbol, the first close each start reads
    _last: tuple[int, int] = (-1, 0)  # account and position of the last row labelled

    def page(self, symbol: int, finished: Outcome, world: int, tile: Tile) -> Page:
        """A page of a tile, `world` being that of its first policy, kept; its rows' lanes become starts. From any thread."""
        rows = finished.rows
        runs = self.runs(symbol, rows, world, tile)
        rows["lane"] = tile.first_start + rows["lane"] % tile.width
        return Page(Block(symbol, self.spool.keep(rows), self.spool.keep(finished.calls)), *runs)

    def runs(self, symbol: int, rows: Table, world: int, tile: Tile) -> tuple[Integers, Integers, Integers]:
        """The group of each run of rows of a tile, where it begins and how long it is."""
        if tile.last_policy - tile.first_policy == 1 and rows.size:
            return tuple(
                np.array([one], dtype=np.int64) for one in (world * len(self.symbols) + symbol, 0, rows.size)
            )  # type: ignore[return-value]
        policies = np.arange(tile.last_policy - tile.first_policy + 1)
        splits = np.searchsorted(rows["lane"], policies * tile.width)
        counts = np.diff(splits)
        held = np.flatnonzero(counts)
        return (world + held) * len(self.symbols) + symbol, splits[held], counts[held]

    def close(self) -> None:
        """Order all pages, which stand in the order of their tiles."""
        none = [np.zeros(0, dtype=np.int64)]
        group = np.concatenate(none + [page.group for page in self.pages])
        first = np.concatenate(none + [page.first for page in self.pages])
        count = np.concatenate(none + [page.count for page in self.pages])
        sizes = [page.group.size for page in self.pages]
        block = np.repeat(np.arange(len(sizes)), sizes)
        order = np.argsort(group, kind="stable")
        self._group, self._from, self._count = group[order], first[order], count[order]
        self._block = block[order]
        self._at = np.append(0, np.cumsum(self._count))
        self._account = np.append(0, np.cumsum(np.tile(self.starts, len(self.worlds))))
        place = np.empty(order.size, dtype=np.int64)
        place[order] = self._at[:-1]
        self._places = (
            np.split(place, np.cumsum(sizes)[:-1]) if sizes else []
        )  # of each page, where its groups begin
        self._blocks: list[Block | None] = [page.block for page in self.pages]

    @property
    def size(self) -> int:
        """Rows of the table."""
        return int(self._at[-1])

    @property
    def worlds(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(f"{one} | {other}" for one in self.strategies for other in self.policies)

    @property
    def accounts(self) -> int:
        """How many there are, those included that never gave an order."""
        return int(self._account[-1])

    @property
    def groups(self) -> pl.DataFrame:
        """Strategy, policy and symbol of each group."""
        names = (
            pl.DataFrame({key: values}, schema={key: pl.String}) for key, values in self._names().items()
        )
        strategy, policy, symbol = names
        return strategy.join(policy, how="cross").join(symbol, how="cross")

    @property
    def population(self) -> pl.DataFrame:
        """How many accounts each group has."""
        return self.groups.with_columns(accounts=pl.Series(np.diff(self._account)))

    def _names(self) -> Mapping[str, tuple[str, ...]]:
        return {"strategy": self.strategies, "policy": self.policies, "symbol": self.symbols}

    def _spans(self, first: int, last: int) -> tuple[slice, Integers, Integers]:
        """Entries that hold rows [first, last), the first row each gives, and how many."""
        here = slice(
            int(np.searchsorted(self._at, first, side="right")) - 1, int(np.searchsorted(self._at, last))
        )
        at, count = self._at[here], self._count[here]
        low = np.maximum(first - at, 0)
        return here, low, np.minimum(last - at, count) - low

    def pieces(self, first: int, last: int) -> Sequence[Piece]:
        """Where rows [first, last) are."""
        here, low, count = self._spans(first, last)
        start, to = self._from[here] + low, self._at[here] + low - first
        block = self._block[here]
        order = np.argsort(block, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(block[order])) + 1, order.size)
        found, begin = [], 0
        for end in ends.tolist():
            own = order[begin:end]  # side by side in their block, apart in the table
            begin, k = end, own[0]
            size = int(count[own].sum())
            places = (
                int(to[k])
                if own.size == 1
                else np.arange(size) + np.repeat(to[own] - start[own] + start[k], count[own])
            )
            found.append(Piece(self._held(block[k]), int(start[k]), int(start[k]) + size, places))
        return found

    def belongings(self, first: int, last: int) -> Belongings:
        """What rows [first, last) belong to."""
        if first == last:
            none = np.zeros(0, dtype=np.int64)
            return Belongings(none, none, none, np.zeros(0), none, None)
        here, _, count = self._spans(first, last)
        return self._of(np.repeat(self._group[here], count))

    def _of(self, group: Integers) -> Belongings:
        symbol = group % len(self.symbols)
        weight: Floats = (1.0 / np.array(self.starts))[symbol]
        none = np.zeros(group.size, dtype=np.int64)
        return Belongings(symbol, group // len(self.symbols), group, weight, none, None)

    def _held(self, block: int) -> Block:
        held = self._blocks[block]
        assert held is not None
        return held

    def tasks(self) -> Iterator[Task]:
        """All pages."""
        for number, page in enumerate(self.pages):
            if page.block.rows.size:
                yield Task(0, page.block.rows.size, number)

    def part(self, task: Task) -> tuple[Block, Integers, Belongings]:
        """The block of a task, which rows of the table its rows are, and what they belong to."""
        assert task.block is not None
        page, places = self.pages[task.block], self._places[task.block]
        to = np.arange(task.last) + np.repeat(places - page.first, page.count)
        return page.block, to, self._of(np.repeat(page.group, page.count))

    def laid_out(self) -> tuple[Integers, Integers, Integers, Integers, Integers]:
        """Runs in the order of the table: group and page of each, its first row there, how many, and which row of the table the first is."""
        return self._group, self._block, self._from, self._count, self._at[:-1]

    def groups_within(self, first: int, last: int) -> tuple[Integers, Integers]:
        """The groups of the rows [first, last), one after the other, and how many rows each has there."""
        here, _, count = self._spans(first, last)
        return self._group[here], count

    @property
    def first_accounts(self) -> Integers:
        """The number of the first account of each group."""
        return self._account[:-1]

    def placed(self) -> Iterator[tuple[Page, Integers]]:
        """All pages, and which row of the table the first of each of its runs is."""
        return zip(self.pages, self._places, strict=True)

    def rows_by_group(self) -> list[Table]:
        """The rows of each strategy, policy and symbol, account after account; those of no margin orders."""
        ends = np.searchsorted(self._group, np.arange(len(self.worlds) * len(self.symbols) + 1))
        none = np.empty(0, dtype=ROW)
        return [
            np.concatenate(
                [none, *(self._held(self._block[k]).rows[self._from[k] : self._from[k] + self._count[k]] for k in range(a, b))]
            )
            for a, b in itertools.pairwise(ends.tolist())
        ]  # fmt: skip

    def of_groups(self, group: Integers) -> Belongings:
        """What rows of these groups belong to."""
        return self._of(group)

    def again(self, blocks: Sequence[Block]) -> FollowingOrder:
        """The same accounts with other rows: a block a group, account after account."""
        made = FollowingOrder(self.strategies, self.policies, self.symbols, self.plans, starts=self.starts)
        zero = np.zeros(1, dtype=np.int64)
        made.pages = [
            Page(block, zero + number, zero, zero + block.rows.size)
            for number, block in enumerate(blocks)
            if block.rows.size
        ]
        made.close()
        return made

    def places(self, page: int) -> Integers:
        """Which row of the table the first of each run of a page is."""
        return self._places[page]

    def release(self, task: Task) -> None:
        """Let go of the page of a task."""
        if task.block is not None:
            self.let_go(task.block)

    def let_go(self, page: int) -> None:
        """Keep nothing of a page."""
        self._blocks[page] = None
        self.pages[page] = EMPTY

    def numbers(self, group: Integers, lane: Integers) -> Integers:
        """The accounts' numbers, by strategy, policy, symbol and start."""
        return self._account[group] + lane

    def _positions(self, account: Integers) -> npt.NDArray[np.uint32]:
        """Of each row, which of its account's positions it is; accounts ascend, from one call to the next too."""
        begins = np.flatnonzero(np.append(True, account[1:] != account[:-1])[: account.size])
        if begins.size == account.size:
            position = np.ones(account.size, dtype=np.uint32)
        else:
            lengths = np.diff(np.append(begins, account.size))
            position = (np.arange(1, account.size + 1) - np.repeat(begins, lengths)).astype(np.uint32)
        if account.size:
            last, so_far = self._last
            position[account == last] += so_far
            self._last = int(account[-1]), int(position[-1])
        return position

    def labels(self, first: int, last: int, lane: Integers) -> Mapping[str, pl.Series]:
        """Whose rows [first, last) are; to be asked for in order, from 0 on."""
        if first == 0:
            self._last = -1, 0
        here, _, count = self._spans(first, last) if first < last else (slice(0, 0), 0, self._count[:0])
        world, symbol = np.divmod(self._group[here], len(self.symbols))
        strategy, policy = np.divmod(world, len(self.policies))
        codes = {"strategy": strategy, "policy": policy, "symbol": symbol}
        account = np.repeat(self._account[self._group[here]], count) + lane
        return {
            "account": held(account, pa.int64()),
            "position": held(self._positions(account), pa.uint32()),
            **{key: words(names, codes[key], count) for key, names in self._names().items()},
            "world": words(self.worlds, world, count),
            "leverage": held(np.repeat(self.plans["leverage"][policy], count), pa.float64()),
        }
