"""Money put into funds from outside, at stated moments: beside the seed, and like it no part of what flows between traders, venue and fund.

In: a run's book and the terms of its funds. Out: a payment for every world, fund and moment, as an event without flows and an amount. It is
there at the open of the first bar of any of the fund's symbols from its moment on, before anything is asked of the fund at that open.
"""

from __future__ import annotations

import numpy as np

from perpbt.engines.book import Book
from perpbt.kernels.adding import EVENT
from perpbt.kernels.tables import Floats, Table
from perpbt.settling.settle import FundTerms


def payments(book: Book, terms: FundTerms) -> tuple[Table, Floats]:
    """Payments in the order of time, worlds side by side. What falls due after a fund's last bar is never paid."""
    labels, whose = terms.funds(book.symbols)
    found: list[tuple[int, int, float]] = []
    for paid in terms.top_ups:
        for number, label in enumerate(labels):
            if paid.fund not in (None, label):
                continue
            opens = [
                (int(part.time[at]), index)
                for index, part in enumerate(book.parts)
                for at in [int(np.searchsorted(part.time, paid.time))]
                if whose[index] == number and at < part.time.size
            ]
            if opens:
                found.append((*min(opens), paid.amount))
    found.sort(key=lambda one: one[0])
    worlds = len(book.worlds)
    events = np.zeros(len(found) * worlds, dtype=EVENT)
    events["time"] = np.repeat([time for time, _, _ in found], worlds)
    events["symbol"] = np.repeat([symbol for _, symbol, _ in found], worlds)
    events["world"] = np.tile(np.arange(worlds), len(found))
    return events, np.repeat([amount for _, _, amount in found], worlds).astype(np.float64)
