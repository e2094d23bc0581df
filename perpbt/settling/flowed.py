"""The accounts table on the memory that pages were settled into: columns of many pieces, of which nothing is copied.

In: settled pages, and whose they are. Out: a frame in the columns of `perpbt.result.Result.accounts`. What all rows of a piece have in
common is there once for all pieces. Where pieces would be short, what pages were settled into is moved to where the table has it first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]

from perpbt.columns import MOMENT, array_of, bits, chunked, viewed, views_of
from perpbt.engines.followers import FollowingOrder
from perpbt.kernels.adding import MOMENTS, NUMBERS, WORDS
from perpbt.kernels.flowing import Block, repeat_runs
from perpbt.kernels.tables import ACCEPTED, REJECTIONS, Codes, Integers
from perpbt.settling.flowing import VIEWS, Flow, SettledPage
from perpbt.settling.frames import ORDER, accounts_table
from perpbt.settling.settled import Columns

Array = npt.NDArray[Any]
PIECE = (
    1 << 17
)  # rows of a piece at most; it ends at each multiple, so that files do not tell in what pieces a table came
SHORT = 1 << 12  # rows of a piece on average, under which rows are moved
OWN = 1 << 13  # the same from which on each group has pieces of its own
ROOM = 1 << 25  # bytes asked for at once: the system clears them in large pages
SIDES = ("short", "long")


class Piece(NamedTuple):
    """Rows that follow one another in memory and in the table."""

    columns: Block
    first: int
    size: int
    group: Integers  # of its runs of rows, one after the other
    counts: Integers

    def number(self, name: str) -> Array:
        """A column of numbers."""
        return self.columns.numbers[NUMBERS.index(name), self.first : self.first + self.size]

    def moment(self, name: str) -> Array:
        """A column of times, or of what tells accounts apart."""
        return self.columns.moments[MOMENTS.index(name), self.first : self.first + self.size]

    def word(self, name: str) -> Codes:
        """A column of codes."""
        return self.columns.words[WORDS.index(name), self.first : self.first + self.size]


def cut(size: int, begins: Integers) -> tuple[Integers, Integers]:
    """First and last row of each piece of a table of so many rows, of which some have to begin at `begins`, the first at 0."""
    edges = np.unique(np.concatenate([begins, np.arange(0, size, PIECE), [size]]))
    return edges[:-1], edges[1:]


def pieces(order: FollowingOrder) -> list[Piece]:
    """The table in pieces: as long as they can be, unless those of one group are long too, in which more is alike."""
    settled = [page for page in order.pages if isinstance(page, SettledPage)]
    assert len(settled) == len(order.pages)
    rooms = {id(page.columns): page.columns for page in settled}
    number = {key: k for k, key in enumerate(rooms)}
    room = np.array([number[id(page.columns)] for page in settled], dtype=np.int64)
    at = np.array([page.at for page in settled], dtype=np.int64)
    group, page, first, count, row = order.laid_out()
    room, first = room[page], at[page] + first
    apart = np.append(True, (room[1:] != room[:-1]) | (first[1:] != first[:-1] + count[:-1]))
    others = np.append(True, group[1:] != group[:-1])
    edges = cut(order.size, row[apart | others])
    if order.size < OWN * edges[0].size:
        edges = cut(order.size, row[apart])
    held = list(rooms.values())
    made = []
    for a, b in zip(*(each.tolist() for each in edges), strict=True):
        k = int(np.searchsorted(row, a, side="right")) - 1
        made.append(Piece(held[room[k]], int(first[k] + a - row[k]), b - a, *order.groups_within(a, b)))
    return made


def moved(flow: Flow, order: FollowingOrder) -> list[Piece]:
    """The same on memory of its own, in the order of the table."""
    columns = flow.columns()
    return [
        Piece(columns, a, b - a, *order.groups_within(a, b))
        for a, b in zip(
            *(each.tolist() for each in cut(order.size, np.zeros(1, dtype=np.int64))), strict=True
        )
    ]


class Alike:
    """Columns that runs of rows have in common: where all rows of a piece do, each is in memory once for all pieces."""

    def __init__(self, table: Sequence[Piece]) -> None:
        self._most = max(piece.size for piece in table)
        self._views: dict[tuple[str, ...], tuple[Array, list[pa.Buffer]]] = {}
        self._made: dict[tuple[str, bytes], Array] = {}
        self._free = np.empty(0, dtype=np.int64)

    def _values(self, codes: Integers, count: Integers, values: Array) -> Array:
        """values[codes[k]] counts[k] times, one after the other."""
        size = int(count.sum())
        if codes.min() < codes.max():
            words = np.ascontiguousarray(values[codes]).view(np.int64).reshape(codes.size, -1)
            into = self._room(size * words.shape[1]).reshape(size, -1)
            repeat_runs(words, count, into)
            return into.reshape(-1).view(values.dtype)
        value = values[codes[0]]
        key = values.dtype.str, value.tobytes()
        made = self._made.get(key)
        if made is None or made.size < size:
            made = self._made[key] = np.repeat(values[codes[:1]], self._most)
        return made[:size]

    def _room(self, words: int) -> Integers:
        if self._free.size < words:
            self._free = np.empty(max(words, min(ROOM, 32 * self._most) // 8), dtype=np.int64)
        room, self._free = self._free[:words], self._free[words:]
        return room

    def words(
        self, names: tuple[str, ...], codes: Integers, count: Integers, known: pa.Buffer | None = None
    ) -> pa.Array:
        """Some of `names`."""
        if names not in self._views:
            self._views[names] = views_of(names)
        views, letters = self._views[names]
        return viewed(self._values(codes, count, views), letters, int(count.sum()), known)

    def word(self, names: tuple[str, ...], code: int, size: int, known: pa.Buffer | None = None) -> pa.Array:
        """One of `names`."""
        return self.words(names, np.array([code]), np.array([size]), known)

    def numbers(self, values: Array, codes: Integers, count: Integers) -> pa.Array:
        """Some of `values`."""
        return array_of(self._values(codes, count, values), pa.float64())

    def nothing(self, size: int) -> pa.Array:
        """No word."""
        unknown = self._values(np.zeros(1, dtype=np.int64), np.array([size]), np.zeros(1, dtype=np.uint8))
        return self.word(("",), 0, size, pa.py_buffer(unknown))


class Owners:
    """Whose the rows of each group are."""

    def __init__(self, order: FollowingOrder) -> None:
        self._strategies, self._policies, self._symbols = order.strategies, order.policies, order.symbols
        self._worlds, self._accounts = order.worlds, order.first_accounts
        self._weight = 1.0 / np.array(order.starts)
        self._leverage = np.ascontiguousarray(order.plans["leverage"])

    def whose(self, piece: Piece, alike: Alike) -> dict[str, pa.Array]:
        """The columns that say whose the rows of a piece are."""
        count = piece.counts
        world, symbol = np.divmod(piece.group, len(self._symbols))
        strategy, policy = np.divmod(world, len(self._policies))
        accounts, before = piece.moment("lane"), self._accounts[piece.group]
        if before.any():  # so far they were counted within their group
            accounts += np.repeat(before, count)
        return {
            "account": array_of(accounts, pa.int64()),
            "position": array_of(piece.columns.position[piece.first : piece.first + piece.size], pa.uint32()),
            "strategy": alike.words(self._strategies, strategy, count),
            "policy": alike.words(self._policies, policy, count),
            "symbol": alike.words(self._symbols, symbol, count),
            "world": alike.words(self._worlds, world, count),
            "weight": alike.numbers(self._weight, symbol, count),
            "leverage": alike.numbers(self._leverage, policy, count),
        }


def what(piece: Piece, alike: Alike) -> dict[str, pa.Array]:
    """The columns that say what came of the rows of a piece."""
    here = slice(piece.first, piece.first + piece.size)
    rejection, side = piece.word("rejection"), piece.word("side")
    opened = rejection == ACCEPTED
    known = bits(opened)
    if known is None:
        refused = alike.nothing(piece.size)
    else:
        views, letters = views_of(REJECTIONS)
        refused = viewed(views[rejection], letters, piece.size, bits(~opened))
    if side.min() == side.max():
        sides = alike.word(SIDES, int(side[0]), piece.size)
    else:
        views, letters = views_of(SIDES)
        sides = viewed(views[side], letters, piece.size)
    return {
        **{name: array_of(piece.number(name), pa.float64(), known) for name in NUMBERS[1:]},
        "collateral": array_of(piece.number("collateral"), pa.float64()),
        "entry_time": array_of(piece.moment("entry_time"), MOMENT),
        "exit_time": array_of(piece.moment("exit_time"), MOMENT, known),
        "exit_reason": viewed(piece.columns.reasons[here], VIEWS[1], piece.size),
        "rejection": refused,
        "side": sides,
    }


def flowed_table(flow: Flow, order: FollowingOrder) -> pl.DataFrame:
    """The frame."""
    if not order.size:
        none = Columns.of(0)
        return accounts_table(none, order.labels(0, 0, none.moment("lane")))
    table = pieces(order)
    if order.size < SHORT * len(table):
        table.clear()  # pieces keep what pages were settled into
        table = moved(flow, order)
    alike, owners = Alike(table), Owners(order)
    made = [{**owners.whose(piece, alike), **what(piece, alike)} for piece in table]
    return pl.DataFrame([chunked([one[name] for one in made]).alias(name) for name in ORDER])
