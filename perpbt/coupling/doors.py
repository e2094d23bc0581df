"""The two doors of a coupled run: how finished positions come to meet, and how they go back into the accounts table.

In: a book and the order of its table. Out: positions by symbol and by world and symbol; and after they have met, new blocks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from perpbt.coupling.following import FollowedGroup, FollowedRows
from perpbt.coupling.groups import GivenRows, Group, SymbolRows
from perpbt.coupling.trading import Trading
from perpbt.engines.book import Block, Book, Chunk
from perpbt.engines.followers import FollowingOrder
from perpbt.engines.given import GivenOrder
from perpbt.kernels.tables import CALL, Floats, Integers, Market, Signals, Table
from perpbt.prepare.arrays import no_signals
from perpbt.running.conclude import Labels
from perpbt.settling.weights import Weights


class GivenDoor:
    """Positions given one by one: a table of them a symbol, whose rows stay what they are."""

    loops = True

    def __init__(self, order: GivenOrder) -> None:
        self.given = order

    @property
    def labels(self) -> Labels:
        """See `couple.Door`."""
        return self.given.labels

    def lanes(self) -> Integers:
        """See `couple.Door`."""
        return np.zeros(0, dtype=np.int64)

    def meet(
        self, book: Book, weights: Weights, weight: Floats, times: Integers, markets: Mapping[int, Market]
    ) -> tuple[list[SymbolRows], list[Group]]:
        """See `couple.Door`."""
        symbols = [self._rows(book, number, times, markets) for number in range(len(self.given.placed))]
        names = identifiers(self.given)
        groups = [
            group for of in symbols for group in self._worlds(of, weight[of.table_rows], names[of.table_rows])
        ]
        return symbols, groups

    def _rows(self, book: Book, number: int, times: Integers, markets: Mapping[int, Market]) -> SymbolRows:
        placed = self.given.placed[number]
        assert placed.block is not None
        assert isinstance(placed.block.rows, np.ndarray)  # no bound on memory
        index = placed.block.symbol
        market = markets[index]
        return GivenRows(
            index=index, market=market, rates=book.parts[index].rates, signals=no_signals(market.time.size),
            rows=placed.block.rows, table_rows=placed.rows, when=np.searchsorted(times, market.time), wishes=self.given.wishes,
        )  # fmt: skip

    def _worlds(self, of: SymbolRows, weight: Floats, names: Integers) -> list[Group]:
        """The positions of a symbol, world by world."""
        if len(self.given.worlds) == 1:
            return [Group(of, 0, np.arange(of.rows.size), weight, names)]
        world = self.given.world_of(of.table_rows)
        return [
            Group(of, int(number), at, weight[at], names[at])
            for number in np.flatnonzero(np.bincount(world))
            for at in [np.flatnonzero(world == number)]
        ]

    def put_back(self, book: Book, symbols: list[SymbolRows], groups: list[Group]) -> None:
        """See `couple.Door`."""
        for placed, of in zip(self.given.placed, symbols, strict=True):
            placed.block = Block(of.index, of.rows, of.all_calls())


def identifiers(order: GivenOrder) -> Integers:
    """A whole number for each row, ascending with the account and with the position among its own: ties go by it."""
    accounts = order.accounts
    name = accounts["account"]
    if bool((name.shift(1) < name).slice(1).all()):  # in order already, a position each
        return np.arange(1, name.len() + 1)
    position = pl.col("account").cum_count().over("account")
    ranks = accounts.select(pl.struct("account", position.alias("position")).rank("ordinal"))
    return ranks.to_series().to_numpy().astype(np.int64)


class FollowingDoor:
    """Accounts that follow signals: a table of positions a strategy, policy and symbol, whose rows come and go."""

    loops = False

    def __init__(self, order: FollowingOrder, signals: Mapping[tuple[int, int], Signals]) -> None:
        self.following, self.signals = order, signals  # by strategy and symbol

    @property
    def labels(self) -> Labels:
        """See `couple.Door`."""
        return self.following.labels

    def lanes(self) -> Integers:
        """See `couple.Door`."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *self._lanes])

    def meet(
        self, book: Book, weights: Weights, weight: Floats, times: Integers, markets: Mapping[int, Market]
    ) -> tuple[list[SymbolRows], list[Group]]:
        """See `couple.Door`."""
        order = self.following
        symbols: list[SymbolRows] = []
        groups: list[Group] = []
        first = 0
        for number, rows in enumerate(order.rows_by_group()):
            world, index = divmod(number, len(order.symbols))
            strategy, policy = divmod(world, len(order.policies))
            of = FollowedRows(
                index=index, market=markets[index], rates=book.parts[index].rates, signals=self.signals[strategy, index], rows=rows,
                table_rows=np.arange(first, first + rows.size), when=np.searchsorted(times, markets[index].time),
                plan=order.plans[policy : policy + 1], starts=order.begins[index],
            )  # fmt: skip

            def weigh(rows: Table, number: int = number) -> Floats:
                return weights.of(chunk_of(order, number, rows))

            symbols.append(of)
            groups.append(FollowedGroup(of, world, weight[of.table_rows], weigh))
            first += rows.size
        return symbols, groups

    def put_back(self, book: Book, symbols: list[SymbolRows], groups: list[Group]) -> None:
        """See `couple.Door`; the book's order is another one afterwards."""
        blocks, first = [], 0
        self._lanes = []
        owner = {id(group.of): group for group in groups}
        for of in symbols:
            group = owner[id(of)]
            assert isinstance(of, FollowedRows)
            assert isinstance(group, (FollowedGroup, Trading))
            rows, calls, group.at = of.in_order(~group.gone)
            of.rows, of.calls, of.table_rows = rows, [calls], np.arange(first, first + rows.size)
            first += rows.size
            blocks.append(Block(of.index, rows, calls))
            self._lanes.append(rows["lane"])
        book.order = self.following = self.following.again(blocks)


def chunk_of(order: FollowingOrder, number: int, rows: Table) -> Chunk:
    """Rows of one strategy, policy and symbol that are in no table yet."""
    group = np.full(rows.size, number, dtype=np.int64)
    return Chunk(np.arange(rows.size), rows, np.empty(0, dtype=CALL), order.of_groups(group))
