"""Positions settled page by page as the engine finishes them, where nothing that comes later changes them.

In: pages of rows. Out: what `settled` finds of a whole book, to the bit, and the accounts table on the memory that pages were settled
into. Rows are never held: their memory is written anew page after page, and stays in the processor's cache.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import polars as pl

from perpbt.columns import views_of
from perpbt.engines.book import Block as Rows
from perpbt.engines.book import Fills
from perpbt.engines.chunks import Outcome, in_threads
from perpbt.engines.followers import FollowingOrder, Page, Tile
from perpbt.errors import RunError
from perpbt.kernels.adding import EVENT, MOMENTS, NUMBERS, WORDS
from perpbt.kernels.flowing import WAITING, Block, Counted, Owner, Spans, move_runs, settle_page
from perpbt.kernels.sums import merge_sums, no_sums, nothing_waits
from perpbt.kernels.tables import ACCEPTED, CALL, REASONS, ROW, TURNOVER, Codes, Integers
from perpbt.kernels.tallying import COUNTS, Deficits
from perpbt.settling.settled import Settled
from perpbt.statistics.tally import Tally

LEAST, MOST = 1 << 15, 1 << 18  # entries of a block; each is twice as large as the one before
TOTAL_RETURN, REJECTION = NUMBERS.index("total_return"), WORDS.index("rejection")
FEES = 1  # of adding.TOTALS
NO_ROWS, NO_CALLS = np.empty(0, dtype=ROW), np.empty(0, dtype=CALL)
VIEWS = views_of(REASONS)
REASON_VIEWS = VIEWS[0].view(np.int64).reshape(-1, 2).copy()


@dataclass(frozen=True)
class SettledPage(Page):
    """Where the columns of a page are: from entry `at` of `columns` on. Its rows are gone."""

    columns: Block
    at: int


def new_block(entries: int) -> Block:
    """Zeros that take no memory before they are written to."""
    width = (
        entries // 8 | 1
    ) * 8 + 16  # columns an odd number of cache lines apart, or they would push each other out
    sizes = (8 * len(NUMBERS), 8 * len(MOMENTS), 16, 4, len(WORDS))
    room = np.zeros(sum(sizes) * width, dtype=np.uint8)  # one piece: the system clears large pages
    parts = np.split(room, np.cumsum(sizes)[:-1] * width)
    numbers, moments, reasons, position, words = parts
    return Block(
        numbers.view(np.float64).reshape(len(NUMBERS), width), moments.view(np.int64).reshape(len(MOMENTS), width),
        words.view(np.int8).reshape(len(WORDS), width), position.view(np.uint32), reasons.view(np.int64).reshape(width, 2),
    )  # fmt: skip


def deficits(room: int) -> Deficits:
    """Room for so many."""
    group, world, time_of = (np.empty(room, dtype=np.int64) for _ in range(3))
    return Deficits(group, world, time_of, np.empty(room))


class Worker:
    """What one thread settles into. Not to be used by two at a time."""

    def __init__(self, tally: Tally, symbols: int) -> None:
        self.found, self._symbols = Settled(tally, symbols), symbols
        groups = tally.places.size
        self._counts, self._drawdown = np.zeros((groups, COUNTS), dtype=np.int64), np.full(groups, -np.inf)
        self._fees, self._paid = no_sums(groups), np.zeros(groups, dtype=np.int64)
        self.seconds = 0.0
        self.broken: list[tuple[SettledPage, int, float, float]] = []
        self._block, self._at, self._entries = new_block(0), 0, LEAST // 2
        self._events = np.empty(0, dtype=EVENT)
        self._held = np.empty(0)
        self._waiting = nothing_waits(WAITING)
        self._deficits = deficits(0)

    def room(self, rows: int) -> tuple[Block, int]:
        """A block with room for so many rows, and from where on."""
        if self._at + rows > self._block.position.size:
            self._entries = max(rows, min(2 * self._entries, MOST))
            self._block, self._at = new_block(self._entries), 0
        at, self._at = self._at, self._at + rows
        return self._block, at

    def counted(self, rows: int, calls: int, fallen: Codes) -> Counted:
        """Where a page is counted."""
        if self._events.size < 2 * rows + calls:
            self._events = np.empty(2 * rows + calls, dtype=EVENT)
        if self._held.size < rows:
            self._held = np.empty(rows)
            self._deficits = deficits(rows)
        return Counted(
            counts=self._counts, drawdown=self._drawdown, fees=self._fees, paid=self._paid, refused=self.found.refused, fallen=fallen,
            sums=self.found.tally.sums, totals=self.found.sums, held=self._held, deficits=self._deficits, events=self._events,
            waiting=self._waiting,
        )  # fmt: skip

    def settle(
        self, done: Outcome, runs: tuple[Integers, Integers, Integers], fills: Fills, fee_share: float, owner: Owner, latest: Integers,
    ) -> SettledPage:  # fmt: skip
        """Settle a page of runs: the group of each, where it begins and how long it is."""
        since = time.perf_counter()
        group, first, count = runs
        rows, tally, found, market = done.rows, self.found.tally, self.found, fills.market
        block, at = self.room(rows.size)
        page = SettledPage(Rows(owner.symbol, NO_ROWS, NO_CALLS), group, first, count, block, at)
        opened, liquidated = np.empty_like(group), np.empty_like(group)
        spans = Spans(first + count, group, tally.places[group], group // self._symbols, opened, liquidated)
        counted = self.counted(rows.size, done.calls.size, fills.at)
        of = settle_page(
            rows, done.calls, spans, owner, market.time, market.series[TURNOVER], fee_share, REASON_VIEWS, block, at, latest, counted
        )  # fmt: skip
        if of.broken:
            self.broken.append((page, of.first, of.came, of.gave))
            found.broken += of.broken
        found.gross += of.moved
        if of.events:
            found.put(counted.events[: of.events])
        returns = block.numbers[TOTAL_RETURN, at : at + rows.size]
        if int(opened.sum()) < rows.size:
            returns = returns[block.words[REJECTION, at : at + rows.size] == ACCEPTED]
        tally.keep(spans.place, returns, opened, counted.held[: of.liquidated].copy(), liquidated)
        if of.owing:
            tally.owe(counted.deficits, of.owing)
        if of.liquidated:
            fills.add(of.liquidated, of.flat)
        self.seconds += time.perf_counter() - since
        return page

    def let_go(self) -> None:
        """Keep nothing that a page was settled into."""
        self._block, self._at, self._entries = new_block(0), 0, LEAST // 2

    def all_found(self) -> Settled:
        """Everything, handed over."""
        groups = np.arange(self._paid.size)
        self.found.tally.add_counted(
            groups // self._symbols, self._counts, self._drawdown, self._fees, self._paid
        )
        merge_sums(self.found.sums, self._fees, np.full(groups.size, FEES))
        return self.found


class Flow:
    """All that is settled on the way, by any number of threads."""

    def __init__(self, groups: pl.DataFrame, order: FollowingOrder, fee_share: float) -> None:
        self._groups, self._order, self._fee_share = groups, order, fee_share
        self._all: list[Worker] = []
        self._idle: list[Worker] = []
        self._lock = threading.Lock()

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """One that nobody else uses meanwhile."""
        with self._lock:
            one = self._idle.pop() if self._idle else None
        if one is None:
            order = self._order
            one = Worker(Tally(self._groups, order.worlds, REASONS), len(order.symbols))
            with self._lock:
                self._all.append(one)
        yield one
        with self._lock:
            self._idle.append(one)

    def pages(
        self, worker: Worker, symbol: int, fills: Fills, outcomes: Iterable[Outcome], world: int, tile: Tile, weight: float
    ) -> Iterator[SettledPage]:  # fmt: skip
        """The pages of a tile, `world` being that of its first policy, settled one after the other."""
        order, latest = self._order, np.array([-1, 0], dtype=np.int64)
        owner = Owner(symbol, tile.first_start, tile.width, weight)
        for done in outcomes:
            runs = order.runs(symbol, done.rows, world, tile)
            yield worker.settle(done, runs, fills, self._fee_share, owner, latest)

    @property
    def seconds(self) -> float:
        """What settling took of each thread, on average."""
        return sum(one.seconds for one in self._all) / max(len(self._all), 1)

    def found(self) -> Settled:
        """What all threads have found together. Raises `RunError` if the money of a position is not conserved."""
        order = self._order
        with self.worker() as first:  # which there is even where nobody has traded
            whole = first.all_found()
            for other in self._all:
                if other is not first:
                    whole.merge(other.all_found())
        broken = [one for worker in self._all for one in worker.broken]
        if broken:
            rows = {id(page): places for page, places in order.placed()}
            row, came, gave, symbol = min(
                (row_of(page, rows[id(page)], k), came, gave, page.block.symbol)
                for page, k, came, gave in broken
            )
            raise RunError(
                f"money is not conserved in {whole.broken} positions, first in row {row} of the accounts ({order.symbols[symbol]}): "
                f"traders, venue and fund got {came!r}, price and funding gave {gave!r}"
            )
        return whole

    def columns(self) -> Block:
        """All columns, in the order of the table. Memory that pages were settled into is let go of as it is moved, or all would be there
        twice.
        """
        order = self._order
        made = new_block(order.size)
        for worker in self._all:
            worker.let_go()
        together: dict[int, list[int]] = {}  # pages by what they were settled into
        for number, page in enumerate(order.pages):
            assert isinstance(page, SettledPage)
            together.setdefault(id(page.columns), []).append(number)
        # `found` may be asked for at the same time, and tells of broken rows where they are
        kept = any(worker.broken for worker in self._all)

        def move(numbers: list[int]) -> None:
            for number in numbers:
                page = order.pages[number]
                assert isinstance(page, SettledPage)
                move_runs(page.columns, page.at, page.first, page.count, order.places(number), made)
                if not kept:
                    order.let_go(number)

        threads = len(self._all) if order.size >= MOST else 1
        for _ in in_threads(move, together.values(), threads):
            pass
        return made


def row_of(page: Page, places: Integers, k: int) -> int:
    """Which row of the table row k of a page is."""
    run = int(np.searchsorted(page.first, k, side="right")) - 1
    return int(places[run] + k - page.first[run])
