"""The book of a run: every position the engine has finished, block by block, and handed out in the order of the accounts table.

In: what the engine returned for each symbol. Out: chunks of rows, ready to be settled. A block is the rows of one symbol in that order
with others left out; what the order is, the door knows by which the run came in.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from perpbt.errors import RunError
from perpbt.kernels.lanes import note_fills
from perpbt.kernels.tables import CALL, ROW, TURNOVER, VOLATILITY, Floats, Integers, Market, Rates, Table
from perpbt.mapped import MEMORY, Shelf, pieces

SLICE = 1 << 18  # bars whose times are compared at a time
CHUNK = 16_384  # rows settled at a time: some 4 MB


class Stored:
    """Records in a file; a slice of them reads."""

    def __init__(self, spool: Spool, start: int, records: Table) -> None:
        self._spool, self._start = spool, start
        self._kind, self.size = records.dtype, records.size

    def __getitem__(self, span: slice) -> Table:
        first, last, _ = span.indices(self.size)
        records = np.empty(last - first, dtype=self._kind)
        self._spool.read(self._start + first * self._kind.itemsize, records.view(np.uint8).data)
        return records


Records = Table | Stored


class Spool:
    """Keeps finished records: in memory while they take less than `room` bytes, the others in a file. Any thread may call it."""

    def __init__(self, room: float = np.inf, folder: Path | None = None) -> None:
        self._room, self._folder = room, folder
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._end = 0

    def keep(self, records: Table) -> Records:
        """The records, or where they are now."""
        with self._lock:
            self._room -= records.nbytes
            if self._room >= 0 or not records.size:
                return records
            try:
                if self._file is None:  # it has no name: it is gone with the process
                    self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
                self._file.seek(self._end)
                self._file.write(np.ascontiguousarray(records).view(np.uint8).data)
            except OSError as error:
                raise RunError(f"{self._folder}: no room for what memory has no room for: {error}") from error
            stored = Stored(self, self._end, records)
            self._end += records.nbytes
            return stored

    def read(self, start: int, into: memoryview) -> None:
        """Fill `into` from the file."""
        with self._lock:
            if self._file is None:
                raise RunError("rows are asked for that are let go of already")
            self._file.seek(start)
            self._file.readinto(into)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Forget all."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None


@dataclass(frozen=True)
class Block:
    """Finished rows of one symbol, and their margin orders with `row` of `calls` an index into them, ascending."""

    symbol: int
    rows: Records
    calls: Records


@dataclass
class SymbolPart:
    """What is kept of a symbol when its bars are let go."""

    time: Integers
    rates: Rates
    liquidated_bars: Integers  # bars in which anybody was liquidated, and their
    volatility: Floats
    turnover: Floats
    liquidated: int = 0
    flat: int = 0  # of these, in bars of unknown turnover


@dataclass
class Fills:
    """Bars of a symbol in which anybody was liquidated, noted on the way by any thread."""

    market: Market
    at: np.ndarray = field(init=False)
    liquidated: int = 0
    flat: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.at = np.zeros(self.market.time.size, dtype=np.int8)

    def note(self, rows: Table) -> None:
        """Note the liquidations among finished rows."""
        self.add(*note_fills(rows, self.market.series[TURNOVER], self.at))

    def add(self, liquidated: int, flat: int) -> None:
        """So many more, and so many of them in bars of unknown turnover; the bars are noted."""
        with self._lock:
            self.liquidated += liquidated
            self.flat += flat

    def part(self, rates: Rates) -> SymbolPart:
        """What is kept of the symbol."""
        bars = np.flatnonzero(self.at)
        series = self.market.series
        volatility, turnover = series[VOLATILITY, bars], series[TURNOVER, bars]
        return SymbolPart(self.market.time, rates, bars, volatility, turnover, self.liquidated, self.flat)


@dataclass(frozen=True)
class Piece:
    """Rows [first, last) of a block and where they go in a chunk: from entry `to` on, or to the entries `to`."""

    block: Block
    first: int
    last: int
    to: int | Integers


@dataclass(frozen=True)
class Belongings:
    """What rows belong to; one entry a row."""

    symbol: Integers
    world: Integers
    group: Integers  # of strategy, policy and symbol
    weight: Floats  # before scaling to open interest
    requested: Integers  # when a row that found no bar was asked for, ms
    account: Integers | None  # codes to count accounts by; None where their number is known


@dataclass(frozen=True)
class Chunk:
    """Rows, the rows of the accounts table they are, ascending, and what each belongs to."""

    to: Integers
    rows: Table
    calls: Table
    of: Belongings

    @property
    def symbol(self) -> Integers:
        """Index into the run's symbols, a row."""
        return self.of.symbol

    @property
    def world(self) -> Integers:
        """Index into the run's worlds, a row."""
        return self.of.world


@dataclass(frozen=True)
class Task:
    """Rows [first, last) of a block, or of the accounts table, as a chunk."""

    first: int
    last: int
    block: int | None = None


class Order(Protocol):
    """Which rows of which blocks make up the accounts table: what a door knows."""

    @property
    def size(self) -> int:
        """Rows of the table."""

    def tasks(self) -> Iterable[Task]:
        """All blocks in pieces of about CHUNK rows."""

    def part(self, task: Task) -> tuple[Block, Integers, Belongings]:
        """The block of a task, which rows of the table its rows are, and what they belong to."""

    def release(self, task: Task) -> None:
        """Nobody will ask for the rows of a block's task again, nor for those before it."""

    def pieces(self, first: int, last: int) -> Sequence[Piece]:
        """Where rows [first, last) of the table are."""

    def belongings(self, first: int, last: int) -> Belongings:
        """What rows [first, last) of the table belong to."""


def spans(size: int, step: int) -> Iterator[Task]:
    """The table in chunks of `step` rows; one without rows if it has none."""
    for first in range(0, max(size, 1), step):
        yield Task(first, min(first + step, size))


def gathered(order: Order, task: Task) -> Chunk:
    """Rows of the table, from wherever they are."""
    rows = np.empty(task.last - task.first, dtype=ROW)
    calls = [np.empty(0, dtype=CALL)]
    for piece in order.pieces(task.first, task.last) if rows.size else ():
        to = piece.to
        here = slice(to, to + piece.last - piece.first) if isinstance(to, int) else to
        rows[here] = piece.block.rows[piece.first : piece.last]
        calls.append(moved_calls(piece))
    joined = np.concatenate(calls)
    joined = joined[np.argsort(joined["row"], kind="stable")]
    return Chunk(np.arange(task.first, task.last), rows, joined, order.belongings(task.first, task.last))


def moved_calls(piece: Piece) -> Table:
    """The margin orders of a piece, with `row` an index into the chunk."""
    calls = piece.block.calls[:]
    if not calls.size:
        return calls
    calls = calls[slice(*np.searchsorted(calls["row"], (piece.first, piece.last)))].copy()
    row = calls["row"] - piece.first
    calls["row"] = row + piece.to if isinstance(piece.to, int) else piece.to[row]
    return calls


def equal(one: Integers, other: Integers) -> bool:
    """Whether two arrays of times are the same."""
    size = one.size
    return size == other.size and all(np.array_equal(one[a:b], other[a:b]) for a, b in pieces(size, SLICE))


def joined(times: Sequence[Integers], shelf: Shelf) -> Integers:
    """Arrays of times one after the other."""
    made, at = shelf.array((sum(one.size for one in times),), np.int64), 0
    for one in times:
        for first, last in pieces(one.size, SLICE):
            shelf.write(made, (at + first,), one[first:last])
        at += one.size
    return made


def different(times: Sequence[Integers]) -> int:
    """How many different times there are in some arrays, each of which ascends; a stretch of time after the other."""
    edges = np.unique(np.concatenate([one[::SLICE] for one in times]))
    cuts = [np.append(np.searchsorted(one, edges), one.size) for one in times]
    count = 0
    for k in range(edges.size):
        count += np.unique(
            np.concatenate([one[cut[k] : cut[k + 1]] for one, cut in zip(times, cuts, strict=True)])
        ).size
    return count


@dataclass
class Book:
    """All positions of a run and what settling needs to know about them."""

    symbols: tuple[str, ...]  # sorted
    worlds: tuple[str, ...]
    parts: list[SymbolPart]  # one a symbol
    order: Order
    shelf: Shelf = MEMORY
    times: Integers = field(init=False)  # of all bars, symbol after symbol
    starts: Integers = field(init=False)  # where in `times` those of each symbol begin

    def __post_init__(self) -> None:
        kept: list[Integers] = []
        starts: list[int] = []
        for part in self.parts:  # symbols as a rule share their bars, and then keep them once
            same = next((k for k, time in enumerate(kept) if equal(time, part.time)), len(kept))
            kept += [part.time] if same == len(kept) else []
            part.time = kept[same]
            starts.append(sum(time.size for time in kept[:same]))
        self.times = kept[0] if len(kept) == 1 else joined(kept, self.shelf)
        self.starts = np.array(starts, dtype=np.int64)
        self.first_time = int(self.times.min()) if self.times.size else 0

    @cached_property
    def moments(self) -> int:
        """Different times at which any symbol has a bar."""
        one = all(part.time is self.parts[0].time for part in self.parts)  # its times ascend
        return int(self.times.size if one else different([part.time for part in self.parts]))

    @property
    def size(self) -> int:
        """Positions, refused orders included."""
        return self.order.size

    def chunk(self, task: Task) -> Chunk:
        """Rows ready to be settled. Those of a block are not copied."""
        if task.block is None:
            return gathered(self.order, task)
        block, to, of = self.order.part(task)
        piece = Piece(block, task.first, task.last, 0)
        return Chunk(to, block.rows[task.first : task.last], moved_calls(piece), of)
