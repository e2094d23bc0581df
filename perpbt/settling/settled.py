"""Positions settled: chunk after chunk of a book made into columns of the accounts table, checked and counted on the way.

In: a book, the weights and crowds of its worlds. Out: the columns as arrays, the fund's ledger, the totals of the run and its
statistics. Chunks are settled on any number of threads, in any order.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from perpbt.engines.book import Book, Chunk, Task
from perpbt.errors import RunError
from perpbt.kernels.adding import EVENT, MOMENTS, NUMBERS, TOTALS, WORDS, fund_events, settle_rows
from perpbt.kernels.sums import merge_sums, no_sums, rounded_sums
from perpbt.kernels.tables import REASONS, REJECTIONS, TOP_UP, Codes, Floats, Integers, Table
from perpbt.procedures.steps import as_counted, placed, steps_of
from perpbt.settling.currency import Settlement
from perpbt.settling.settle import Crowds, FundTerms, condensed
from perpbt.settling.weights import Weights
from perpbt.statistics.tally import Tally

MOST_EVENTS = 1 << 20  # a thread keeps before it condenses them


@dataclass(frozen=True)
class Columns:
    """Columns of the accounts table, a row of each array a column; 0 where a refused order has none."""

    size: int
    numbers: Floats  # NUMBERS
    moments: Integers  # MOMENTS: times in ms, and what tells accounts apart within their group
    words: Codes  # WORDS: 1 for long, then REASONS and REJECTIONS
    weight: Floats
    owed: Floats | None = None  # what traders owe, where nothing protects them

    @classmethod
    def of(cls, size: int, protected: bool = True) -> Columns:
        """Room for so many rows."""
        width = (
            size // 8 | 1
        ) * 8 + 16  # columns an odd number of cache lines apart, or they would push each other out
        return cls(
            size, np.empty((len(NUMBERS), width)), np.empty((len(MOMENTS), width), dtype=np.int64),
            np.empty((len(WORDS), width), dtype=np.int8), np.empty(size), None if protected else np.zeros(size),
        )  # fmt: skip

    def number(self, name: str) -> Floats:
        """One column of numbers."""
        return self.numbers[NUMBERS.index(name), : self.size]

    def moment(self, name: str) -> Integers:
        """One column of times."""
        return self.moments[MOMENTS.index(name), : self.size]

    def word(self, name: str) -> Codes:
        """One column of codes."""
        return self.words[WORDS.index(name), : self.size]


@dataclass(frozen=True)
class Transfers:
    """What rows of the accounts table gave up for others, a row an entry, rows ascending: money of one account each."""

    row: Integers
    given_up: Floats  # by being closed at another price than the market's
    socialised: Floats  # out of the margin
    own_deficit: Floats  # what remains of the deficit column without them

    def apply(self, columns: Columns, rows: Integers, base: int) -> None:
        """Into the columns of ascending `rows`; entry 0 is row `base` of the table."""
        if not rows.size or not self.row.size:
            return
        mine = np.flatnonzero(rows[np.minimum(np.searchsorted(rows, self.row), rows.size - 1)] == self.row)
        at = self.row[mine] - base
        columns.number("pnl")[at] += self.given_up[mine]
        columns.number("surplus")[at] += self.given_up[mine] + self.socialised[mine]
        columns.number("deficit")[at] = self.own_deficit[mine]


def owed_by(chunk: Chunk) -> Floats:
    """What each row's trader owes: lost beyond the margin of the position, by parts closed before the exit and by the rest."""
    parts = chunk.calls[(chunk.calls["action"] != TOP_UP) & (chunk.calls["back"] < 0.0)]
    owed = np.zeros(chunk.rows.size)
    np.add.at(owed, parts["row"], -parts["back"])
    made: Floats = owed + np.maximum(0.0 - chunk.rows["back"], 0.0)
    return made


class Settled:
    """What settling has found so far; each thread has its own, and they are merged."""

    def __init__(self, tally: Tally, symbols: int, converted: Tally | None = None) -> None:
        self.tally = tally
        self.converted = converted  # the same in quote currency, of a run whose money is not
        self.sums = no_sums(len(TOTALS))
        self.gross = 0.0
        self.refused = np.zeros((len(REJECTIONS), symbols), dtype=np.int64)
        self.broken = 0
        self.first_broken = (-1, 0.0, 0.0)
        self.steps: list[tuple[Table, Integers]] = []  # of liquidations, and when
        self.events: list[Table] = []
        self.waiting: list[Table] = []  # events that came since they were condensed
        self.alike = True  # whether it pays to condense what has been condensed

    def merge(self, other: Settled) -> None:
        """Take in what another thread has found."""
        self.tally.merge(other.tally)
        if self.converted is not None and other.converted is not None:
            self.converted.merge(other.converted)
        merge_sums(self.sums, other.sums, np.arange(len(TOTALS)))
        self.gross += other.gross
        self.refused += other.refused
        if other.broken:
            self.first_broken = (
                min(self.first_broken, other.first_broken) if self.broken else other.first_broken
            )
        self.broken += other.broken
        self.steps += other.steps
        self.events += other.events
        self.waiting += other.waiting

    def put(self, events: Table) -> None:
        """Keep events, condensed whenever they have become many."""
        self.waiting.append(events.copy())
        if sum(one.size for one in self.waiting) < MOST_EVENTS:
            return
        self.events.append(condensed(np.concatenate(self.waiting)))
        self.waiting.clear()
        while self.alike and len(self.events) > 1 and self.events[-2].size < 2 * self.events[-1].size:
            pair = np.concatenate([self.events.pop(), self.events.pop()])
            self.events.append(condensed(pair))
            self.alike = 4 * self.events[-1].size < 3 * pair.size

    def all_events(self) -> Table:
        """Everything that was put in, handed over."""
        parts = self.events + self.waiting
        self.events, self.waiting = [], []
        made = np.empty(sum(part.size for part in parts), dtype=EVENT)
        at = made.size
        while parts:  # held about once at a time
            part = parts.pop()
            at -= part.size
            made[at : at + part.size] = part
        return made

    @property
    def totals(self) -> dict[str, float]:
        """Weighted sums over all positions, by their column's name."""
        return dict(zip(TOTALS, rounded_sums(self.sums).tolist(), strict=True))


class Settling:
    """Settles chunks into columns. `settle` may be called from many threads, `found` when they are done."""

    def __init__(
        self,
        book: Book,
        weights: Weights,
        crowds: Crowds | None,
        terms: FundTerms,
        groups: pl.DataFrame,
        in_steps: bool = False,
        settlement: Settlement | None = None,
    ) -> None:
        self.book, self.weights, self.crowds, self.terms = book, weights, crowds, terms
        self.groups, self.in_steps = groups, in_steps
        self.transfers: Transfers | None = None  # of a coupled run
        self.bankruptcy: Floats | None = None  # prices by row of the table, of shared wallets
        self.settlement = settlement if settlement is not None and settlement.known else None
        self._own = threading.local()
        self._all: list[Settled] = []

    def _here(self) -> Settled:
        """What this thread has found."""
        if not hasattr(self._own, "found"):
            tally, symbols = Tally(self.groups, self.book.worlds, REASONS), len(self.book.symbols)
            converted = None if self.settlement is None else Tally(self.groups, self.book.worlds, REASONS)
            self._own.found = Settled(tally, symbols, converted)
            self._all.append(self._own.found)
        own: Settled = self._own.found
        return own

    def settle(self, task: Task, columns: Columns, base: int = 0) -> Chunk:
        """Fill a task's liquidations against their crowd and write its columns; entry 0 is row `base` of the table."""
        book, found = self.book, self._here()
        chunk = book.chunk(task)
        if self.crowds is not None:
            self.crowds.fill(book, task, chunk)
        weight, size, to = self.weights.of(chunk), chunk.rows.size, chunk.to - base
        side_by_side = size == 0 or to[-1] - to[0] == size - 1
        here = slice(to[0], to[0] + size) if size and side_by_side else to
        columns.weight[here] = weight
        if columns.owed is not None:
            columns.owed[here] = owed_by(chunk)
        broken, first, got, given, gross = settle_rows(
            chunk.rows, chunk.calls, chunk.symbol, weight, chunk.of.requested, book.times, book.starts,
            to, columns.numbers, columns.moments, columns.words, found.sums,
        )  # fmt: skip
        if broken:
            worse = (base + first, got, given)
            found.first_broken = min(found.first_broken, worse) if found.broken else worse
            found.broken += broken
        found.gross += gross
        events = np.empty(2 * size + chunk.calls.size, dtype=EVENT)
        written = fund_events(
            chunk.rows, chunk.calls, chunk.world, chunk.symbol, weight, self.terms.fee_share, book.times, book.starts,
            events,
        )  # fmt: skip
        found.put(events[:written])
        if self.transfers is not None:
            self.transfers.apply(columns, chunk.to, base)
        if self.bankruptcy is not None:
            columns.number("bankruptcy_price")[here] = self.bankruptcy[chunk.to]
        self.count(chunk, columns, here, found)
        return chunk

    def count(self, chunk: Chunk, columns: Columns, here: slice | Integers, found: Settled) -> None:
        """Count a chunk's positions, and its refused orders by cause and symbol."""
        reason, rejection = columns.word("exit_reason")[here], columns.word("rejection")[here]
        refused = np.flatnonzero(rejection)
        np.add.at(found.refused, (rejection[refused], chunk.symbol[refused]), 1)
        names = (
            "exit_price",
            "fees",
            "liquidation_fee",
            "surplus",
            "deficit",
            "total_return",
            "max_drawdown",
        )
        entry_time, exit_time = columns.moment("entry_time")[here], columns.moment("exit_time")[here]
        quantity = columns.number("quantity")[here]
        if self.in_steps:
            reason, entry_time, quantity = as_counted(
                self.book, chunk, reason, entry_time, exit_time, quantity
            )
            found.steps.append(placed(self.book, chunk, steps_of(chunk)))
        whose: dict[str, Any] = {
            "group": chunk.of.group, "weight": columns.weight[here], "reason": reason, "world": chunk.world,
            "account": chunk.of.account, "entry_time": entry_time, "exit_time": exit_time, "quantity": quantity,
        }  # fmt: skip
        numbers = {name: columns.number(name)[here] for name in names}
        found.tally.add(**whose, **numbers)
        if self.settlement is not None and found.converted is not None:
            rates = self.settlement.of_rows(self.book.symbols, chunk.symbol, exit_time)
            turned = {name: numbers[name] * rates for name in names[:5]}  # a price is money too, in kernels
            found.converted.add(**whose, **numbers | turned)

    def found(self) -> Settled:
        """What all threads have found together. Raises `RunError` if the money of a position is not conserved."""
        whole = self._here()
        for other in self._all:
            if other is not whole:
                whole.merge(other)
        self._all = [whole]
        if whole.broken:
            k, came, gave = whole.first_broken
            symbol = self.book.symbols[self.book.order.belongings(k, k + 1).symbol[0]]
            raise RunError(
                f"money is not conserved in {whole.broken} positions, first in row {k} of the accounts ({symbol}): "
                f"traders, venue and fund got {came!r}, price and funding gave {gave!r}"
            )
        return whole
