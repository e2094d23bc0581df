"""The steps of liquidations among the records of a book, and positions that had some as statistics count them.

In: chunks of a book. Out: the steps, and when; columns for `perpbt.statistics`. As a table: `perpbt.settling.frames.step_table`.
"""

from __future__ import annotations

import numpy as np

from perpbt.engines.book import Book, Chunk
from perpbt.kernels.tables import LIQUIDATION, REDUCED, Codes, Floats, Integers, Table


def steps_of(chunk: Chunk) -> Table:
    """The records of steps among a chunk's margin orders."""
    return chunk.calls[chunk.calls["action"] >= REDUCED]


def moments(book: Book, chunk: Chunk, steps: Table) -> Integers:
    """When each step was taken, ms."""
    at: Integers = book.times[book.starts[chunk.symbol[steps["row"]]] + steps["bar"]]
    return at


def placed(book: Book, chunk: Chunk, steps: Table) -> tuple[Table, Integers]:
    """Steps with `row` a row of the accounts table, and their moments."""
    at = moments(book, chunk, steps)
    kept = steps.copy()
    kept["row"] = chunk.to[steps["row"]]
    return kept, at


def as_counted(
    book: Book, chunk: Chunk, reason: Codes, entry_time: Integers, exit_time: Integers, quantity: Floats
) -> tuple[Codes, Integers, Floats]:
    """Reason, entry time and quantity as statistics take them.

    A position that had a step is liquidated, however it ended; the time to it is that to its first step (entry times are moved
    for it: only the time between is looked at); at default as much was open as the last step closed.
    """
    steps = steps_of(chunk)
    if not steps.size:
        return reason, entry_time, quantity
    rows, first = np.unique(steps["row"], return_index=True)
    reason, entry_time, quantity = reason.copy(), entry_time.copy(), quantity.copy()
    reason[rows] = LIQUIDATION
    entry_time[rows] += exit_time[rows] - moments(book, chunk, steps)[first]
    quantity[rows] = chunk.rows["exit_quantity"][rows]
    return reason, entry_time, quantity
