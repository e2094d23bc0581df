"""Driving the kernels: lanes in chunks, chunks on threads.

In: one symbol's arrays and lanes. Out: the rows of all positions in the order of lanes, page after page, and the margin orders
carried out. Every lane writes its own rows, so the result does not depend on chunks or threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from perpbt.errors import InputError
from perpbt.kernels.kin import KIN
from perpbt.kernels.lanes import Known, run_following, run_given
from perpbt.kernels.tables import (
    CALL,
    NEXT_ENTRY,
    ROW,
    Integers,
    Market,
    Procedure,
    Rates,
    Signals,
    Table,
)
from perpbt.kernels.tiles import run_in_tiles
from perpbt.kernels.trading import run_trading

Progress = Callable[[str, int, int], None]
ENGINES = ("auto", "skip", "dense", "oracle")

CHUNK = 8192  # lanes a thread takes at a time
PAGE = 16_384  # rows it writes before it hands them on: some 4 MB
SHARED = 32_768  # rows that a thread keeps for lanes which enter where others did: some 8 MB
GROUND = 32 << 20  # bytes of rows that are asked for at once
SERIAL_BELOW = 10_000_000  # account-bars under which threads cost more than they bring
WORTH_THREADS = 0.01  # seconds of work under which they do

Task = TypeVar("Task")
Done = TypeVar("Done")


def choose_engine(wanted: str) -> tuple[str, str]:
    """The engine that will run, and why. All give the same result to the bit; "oracle" is plain Python, for small runs."""
    if wanted not in ENGINES:
        raise InputError(f"engine = {wanted!r}: must be one of {', '.join(ENGINES)}")
    if wanted == "auto":
        return "skip", "cost follows events, not bars"
    return wanted, "asked for"


def choose_threads(wanted: int | None, lanes: int, bars: int) -> int:
    """Threads to use: those asked for (default all cores), one for small work."""
    if wanted is not None and wanted < 1:
        raise InputError(f"threads = {wanted}: must be at least 1")
    if lanes * bars < SERIAL_BELOW:
        return 1
    return wanted or os.cpu_count() or 1


@dataclass
class Counted:
    """Counts up to `total` for somebody who watches."""

    progress: Progress | None
    label: str
    total: int
    done: int = 0

    def add(self, number: int) -> None:
        """So many more are done."""
        self.done += number
        if self.progress is not None:
            self.progress(self.label, self.done, self.total)


@dataclass(frozen=True)
class Outcome:
    """Finished rows in lane order, and executed margin orders with `row` of `calls` an index into them."""

    rows: Table
    calls: Table


class Ground(threading.local):
    """Where rows of one strategy on one symbol are written: zeros, cut from blocks of `size` bytes, of which each thread has its own.

    The system clears a large block in pages of 2 MB (numpy asks it to, from 4 MB on), where it would clear the rows of one page in five
    hundred small ones: a tenth of a run's time. A block is held as long as any row of it; with a bound on memory, give size = 0.

    `again`: a page is done with when the next one is asked for, and written over: what a refused order has nothing to say about may then
    be left from another.
    """

    def __init__(self, size: int = 0, again: bool = False) -> None:
        self._size = size // ROW.itemsize
        self._again = again
        self._free = np.zeros(0, dtype=ROW)
        self._shared: Known | None = None

    def shared(self, market: Market) -> Known:
        """Room for positions that lanes take over from one another; of all tiles, for what is known stays true."""
        if self._shared is None:
            places = np.zeros(market.time.size + 1, dtype=np.int32)
            self._shared = Known(np.zeros(SHARED, dtype=ROW), np.zeros(SHARED, dtype=KIN), places)
        return self._shared

    def page(self, rows: int) -> Table:
        """Room for so many rows; what is not cut off stays free."""
        if self._free.size < rows:
            self._free = np.zeros(max(rows, self._size), dtype=ROW)
        return self._free[:rows]

    def cut(self, used: int) -> Table:
        """The first rows of the last page, which are in use from now on."""
        if self._again:
            return self._free[:used]
        if not self._size:
            rows, self._free = trimmed(self._free, used), self._free[:0]
            return rows
        rows, self._free = self._free[:used], self._free[used:]
        self._free[:1] = np.zeros(1, dtype=ROW)  # an order that left no row may have written here
        return rows


def in_threads(work: Callable[[Task], Done], tasks: Iterable[Task], threads: int) -> Iterator[Done]:
    """What `work` makes of each task, in the order of tasks; no more is begun than a few beyond what is taken."""
    if threads == 1:
        yield from map(work, tasks)
        return
    waiting = iter(tasks)
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[Future[Done]] = deque(pool.submit(work, task) for task in islice(waiting, 2 * threads))
        try:
            while begun:
                done = begun.popleft().result()
                begun.extend(pool.submit(work, task) for task in islice(waiting, 1))
                yield done
        finally:  # an error, or nobody asks any more
            for future in begun:
                future.cancel()


def first_alone(
    work: Callable[[tuple[int, int]], Done], size: int, step: int, threads: int
) -> Iterator[Done]:
    """What `work` makes of [0, size) in steps, where nobody can tell beforehand how much work that is: how long positions live.

    The first step is worked by itself. If by its measure the others take less than threads are worth, they are worked as one.
    """
    begun, first = time.perf_counter(), min(step, size)
    done = work((0, first))
    left = (time.perf_counter() - begun) * (size - first) / first
    yield done
    if left < WORTH_THREADS:
        step, threads = size, 1
    spans = ((at, min(at + step, size)) for at in range(first, size, step))
    yield from in_threads(work, spans, threads)


def meanwhile(work: Callable[[], Done], apart: bool = True) -> Future[Done]:
    """What `work` makes, made by a thread of its own while the caller goes on; unless `apart`, made before the caller goes on."""
    if apart:
        with_one = ThreadPoolExecutor(1)
        begun = with_one.submit(work)
        with_one.shutdown(wait=False)  # the thread ends with its work
        return begun
    made: Future[Done] = Future()
    made.set_result(work())
    return made


def tile_size(lanes: int, threads: int, plans: Table) -> int:
    """Lanes to a tile: few enough that threads end together, many enough that a tile is worth its while."""
    least = 256 if trades_once(plans) else 1
    return min(CHUNK, max(least, lanes // (8 * threads)))


def trades_once(plans: Table) -> bool:
    """Whether no account takes more than one position."""
    return bool((plans["max_trades"] == 1).all())


def given_rows(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, places: Integers, rows: Table
) -> None:
    """Lanes of one given position each: that of lane k, by plan k, goes to row places[k]. `rows` begin as zeros."""
    run = run_in_tiles if market.coarse.size else run_given  # a look at every bar, or leaps
    run(market, rates, plans, signals, lanes, places, rows, np.zeros(1, dtype=CALL))


def shared_rows(market: Market, plans: Table, signals: Signals, lanes: Table, ground: Ground) -> Known:
    """Room for the positions that lanes by one plan, one after the other, take over from each other.

    Only for the engine that skips: the other looks at every bar of every position, and is its witness. Who trades once has only his
    first entry to share.
    """
    alike = lanes["plan"][1:] == lanes["plan"][:-1]
    if trades_once(plans):
        entry = signals.marks[NEXT_ENTRY].take(lanes["bar"], mode="clip")
        alike &= entry[1:] == entry[:-1]
    if market.pyramid.levels and alike.any():
        return ground.shared(market)
    return Known(np.empty(0, dtype=ROW), np.empty(0, dtype=KIN), np.zeros(1, dtype=np.int32))


def following_pages(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, ground: Ground | None = None
) -> Iterator[Outcome]:
    """The rows of lanes that follow signals, in pages; the lanes are used up."""
    ground = ground or Ground()
    slots = int(plans["call_count"].max(initial=0))
    size = lanes.size if trades_once(plans) else PAGE
    known = shared_rows(market, plans, signals, lanes, ground)
    first = 0
    while first < lanes.size:
        rows = ground.page(size)
        calls = np.zeros(max(1, size * min(slots, 1) + slots), dtype=CALL)
        if market.coarse.size:  # a look at every bar
            first, used, called = run_trading(market, rates, plans, signals, lanes, first, rows, calls, slots)
        else:
            first, used, called = run_following(
                market, rates, plans, signals, lanes, first, rows, calls, slots, known
            )
        yield Outcome(ground.cut(used), trimmed(calls, called))


def stepping_pages(
    market: Market, rates: Rates, procedure: Procedure, plans: Table, signals: Signals, lanes: Table
) -> Iterator[Outcome]:
    """The rows of lanes whose venue liquidates in steps, given positions and others, in pages and the order of lanes; the lanes are
    used up.
    """
    from perpbt.kernels.stepping import run_stepping

    slots = int(plans["call_count"].max(initial=0)) + procedure.most_steps
    first = 0
    while first < lanes.size:
        size = lanes.size - first if trades_once(plans) else PAGE
        rows, calls = np.zeros(size, dtype=ROW), np.zeros(size + slots, dtype=CALL)
        first, used, called = run_stepping(
            market, rates, procedure, plans, signals, lanes, first, rows, calls, slots
        )
        yield Outcome(trimmed(rows, used), trimmed(calls, called))


def stepping_rows(
    market: Market, rates: Rates, procedure: Procedure, plans: Table, signals: Signals, lanes: Table, places: Integers,
    rows: Table,
) -> Table:  # fmt: skip
    """As `given_rows` where the venue liquidates in steps; returns the records of the steps, sorted by row."""
    done, written = 0, [np.empty(0, dtype=CALL)]
    for page in stepping_pages(market, rates, procedure, plans, signals, lanes):
        to = places[done : done + page.rows.size]
        rows[to] = page.rows
        rows["lane"][to] = to
        calls = page.calls.copy()
        calls["row"] = to[calls["row"]]
        written.append(calls)
        done += page.rows.size
    return by_row(written)


def by_row(parts: list[Table]) -> Table:
    """Records of margin orders and steps sorted by row; those of a row in time."""
    calls = np.concatenate(parts)
    return calls[np.argsort(calls["row"], kind="stable")]


def trimmed(records: Table, used: int) -> Table:
    """The records written, without holding on to much that is not."""
    return records[:used] if 2 * used >= records.size else records[:used].copy()
