"""The accounts table on the memory that pages were settled into: columns of many pieces, of which nothing is copied.

In: settled pages, and whose they are. Out: a frame in the columns of `perpbt.result.Result.accounts`. What all rows of a piece have in
common is there once for all pieces. Where pieces would be short, columns are made in one piece instead.
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
from perpbt.kernels.flowing import Block
from perpbt.kernels.tables import ACCEPTED, REJECTIONS, Codes
from perpbt.settling.flowing import VIEWS, Flow, SettledPage
from perpbt.settling.frames import ORDER, accounts_table

Array = npt.NDArray[Any]
PIECE = (
    1 << 17
)  # rows of a piece at most; it ends at each multiple, so that files do not tell in what pieces a table came
SHORT = 1 << 13  # rows of a piece on average, under which there are to be no pieces
SHORTEST = 1 << 7  # the same of a run before it is joined to others
SIDES = ("short", "long")


class Piece(NamedTuple):
    """Rows of one group that follow one another in memory and in the table."""

    group: int
    columns: Block
    first: int
    size: int

    def number(self, name: str) -> Array:
        """A column of numbers."""
        return self.columns.numbers[NUMBERS.index(name), self.first : self.first + self.size]

    def moment(self, name: str) -> Array:
        """A column of times, or of what tells accounts apart."""
        return self.columns.moments[MOMENTS.index(name), self.first : self.first + self.size]

    def word(self, name: str) -> Codes:
        """A column of codes."""
        return self.columns.words[WORDS.index(name), self.first : self.first + self.size]


def pieces(order: FollowingOrder) -> list[Piece]:
    """The table in pieces, as long as they can be."""
    found: list[Piece] = []
    done = 0
    for group, page, first, count in order.entries():
        assert isinstance(page, SettledPage)
        at = page.at + first
        while count:
            size = min(count, PIECE - done % PIECE)
            last = found[-1] if found else None
            if (
                last is not None
                and done % PIECE
                and last.columns is page.columns
                and (last.group, last.first + last.size) == (group, at)
            ):
                found[-1] = last._replace(size=last.size + size)
            else:
                found.append(Piece(group, page.columns, at, size))
            at, count, done = at + size, count - size, done + size
    return found


class Alike:
    """Columns of which all rows of a piece have the same, each in memory once for all pieces."""

    def __init__(self, table: Sequence[Piece]) -> None:
        self._longest: dict[int, int] = {}
        for piece in table:
            self._longest[piece.group] = max(piece.size, self._longest.get(piece.group, 0))
        self._most = max(self._longest.values())
        self._views: dict[tuple[str, ...], tuple[Array, list[pa.Buffer]]] = {}
        self._made: dict[tuple[object, ...], Array] = {}

    def _values(self, size: int, key: tuple[object, ...], value: Array) -> Array:
        made = self._made.get(key)
        if made is None or made.size < size:
            made = self._made[key] = np.repeat(value, self._most if size == self._most else size)
        return made[:size]

    def word(self, names: tuple[str, ...], code: int, size: int, known: pa.Buffer | None = None) -> pa.Array:
        """One of `names`."""
        if names not in self._views:
            self._views[names] = views_of(names)
        views, letters = self._views[names]
        return viewed(self._values(size, (names, code), views[code : code + 1]), letters, size, known)

    def number(self, value: float, size: int) -> pa.Array:
        """A number."""
        return array_of(self._values(size, ("number", value), np.array([value])), pa.float64())

    def nothing(self, size: int) -> pa.Array:
        """No word."""
        unknown = self._values(size, ("unknown",), np.zeros(1, dtype=np.uint8))
        return self.word(("",), 0, size, pa.py_buffer(unknown))


def whose(order: FollowingOrder, piece: Piece, alike: Alike) -> dict[str, pa.Array]:
    """The columns that say whose the rows of a piece are."""
    strategy, policy, symbol, account = order.owner(piece.group)
    named = {
        "strategy": (order.strategies, strategy), "policy": (order.policies, policy), "symbol": (order.symbols, symbol),
        "world": (order.worlds, strategy * len(order.policies) + policy),
    }  # fmt: skip
    accounts = piece.moment("lane")
    if account:  # so far they were counted within their group
        accounts += account
    return {
        "account": array_of(accounts, pa.int64()),
        "position": array_of(piece.columns.position[piece.first : piece.first + piece.size], pa.uint32()),
        **{key: alike.word((names[code],), 0, piece.size) for key, (names, code) in named.items()},
        "weight": alike.number(1.0 / order.starts[symbol], piece.size),
        "leverage": alike.number(float(order.plans["leverage"][policy]), piece.size),
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
    table = pieces(order) if order.size >= SHORTEST * order.runs_of_rows else []
    if not table or order.size < SHORT * len(table):
        table.clear()  # pieces keep what pages were settled into
        columns = flow.columns()
        return accounts_table(columns, order.labels(0, columns.size, columns.moment("lane")))
    alike = Alike(table)
    made = [{**whose(order, piece, alike), **what(piece, alike)} for piece in table]
    return pl.DataFrame([chunked([one[name] for one in made]).alias(name) for name in ORDER])
