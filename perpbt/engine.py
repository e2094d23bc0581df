"""Driving the kernels: lanes in chunks, pages of rows, threads.

In: one symbol's arrays and lanes. Out: the rows of all positions, in the order of lanes, and the margin
orders carried out.
Every lane writes its own rows, so the result does not depend on chunks or threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from perpbt.errors import InputError
from perpbt.kernels.accounts import Lanes, run
from perpbt.kernels.tables import Calls, Integers, Market, Plans, Rates, Rows, Signals, Table, empty_table

Progress = Callable[[str, int, int], None]
ENGINES = ("auto", "skip", "dense")

CHUNK = 4096  # lanes; with PAGE rows each a buffer of some 10 MB
PAGE = 8  # rows a lane may write before it has to wait for the next page
SERIAL_BELOW = 10_000_000  # account-bars under which threads cost more than they bring


def choose_engine(wanted: str) -> tuple[str, str]:
    """The engine that will run, and why. "skip" and "dense" give the same result to the bit."""
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


@dataclass(frozen=True)
class Outcome:
    """Rows of all positions in lane order, and executed margin orders with `calls.row` an index into them."""

    rows: Rows
    calls: Calls


def take(table: Rows | Calls, picked: Integers) -> list[np.ndarray]:
    """The entries `picked` of each column."""
    return [column[picked] for column in table]


def join(table: type[Table], parts: list[Table]) -> Table:
    """Tables one after the other. Empties `parts`, column by column, so that rows are held about once at a time."""
    columns: list[list[Any]] = [list(part) for part in parts]
    parts.clear()
    if len(columns) == 1:
        return table(*columns[0])
    made = []
    for k in range(len(table._fields)):
        made.append(np.concatenate([part[k] for part in columns]))
        for part in columns:
            part[k] = None
    return table(*made)


def run_chunk(
    market: Market,
    rates: Rates,
    plans: Plans,
    signals: Signals,
    lanes: Lanes,
    first: int,
    last: int,
    slots: int,
) -> Outcome:
    """Lanes [first, last) to their end."""
    single = bool(
        np.all((lanes.fixed_side[first:last] != 0) | (plans.max_trades[lanes.plan[first:last]] == 1))
    )
    page = 1 if single else PAGE
    row_parts: list[Rows] = []
    call_parts: list[Calls] = []
    written = 0
    while not np.all(lanes.done[first:last]) or not row_parts:
        rows = empty_table(Rows, (last - first) * page)
        calls = empty_table(Calls, (last - first) * page * slots)
        run(market, rates, plans, signals, lanes, rows, calls, first, last, page, slots)
        used = np.flatnonzero(rows.lane >= 0)
        place = np.full(rows.lane.size + 1, -1)
        place[used] = np.arange(written, written + used.size)
        executed = np.flatnonzero(calls.row >= 0)
        kept_calls = Calls(*take(calls, executed))
        row_parts.append(Rows(*take(rows, used)))
        call_parts.append(kept_calls._replace(row=place[kept_calls.row]))
        written += used.size
    pages = len(row_parts)
    rows, calls = join(Rows, row_parts), join(Calls, call_parts)
    if pages == 1 and page == 1:  # already in the order of lanes
        return Outcome(rows, calls)
    order = np.argsort(rows.lane, kind="stable")
    moved = np.empty(order.size, dtype=np.int64)
    moved[order] = np.arange(order.size)
    calls = calls._replace(row=moved[calls.row])
    by_row = np.argsort(calls.row, kind="stable")
    return Outcome(Rows(*take(rows, order)), Calls(*take(calls, by_row)))


def run_lanes(
    market: Market,
    rates: Rates,
    plans: Plans,
    signals: Signals,
    lanes: Lanes,
    *,
    threads: int,
    progress: Progress | None = None,
    label: str = "",
) -> Outcome:
    """All lanes of one symbol to their end."""
    count = lanes.plan.size
    slots = int(plans.call_count.max()) if plans.call_count.size else 0
    size = max(256, CHUNK // max(1, slots))
    starts = range(0, count, size)

    def work(first: int) -> Outcome:
        return run_chunk(market, rates, plans, signals, lanes, first, min(first + size, count), slots)

    rows: list[Rows] = []
    calls: list[Calls] = []
    written = 0
    with ThreadPoolExecutor(threads) as pool:
        done = map(work, starts) if threads == 1 else pool.map(work, starts)
        for number, outcome in enumerate(done, start=1):
            rows.append(outcome.rows)
            calls.append(outcome.calls._replace(row=outcome.calls.row + written))
            written += outcome.rows.lane.size
            if progress is not None:
                progress(label, min(number * size, count), count)
    if not rows:
        return Outcome(empty_table(Rows, 0), empty_table(Calls, 0))
    return Outcome(join(Rows, rows), join(Calls, calls))
