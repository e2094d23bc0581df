"""Tiers as arrays, one table an epoch; an epoch begins at the first bar at or after its moment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from perpbt.venue import Venue
from perpbt.venue.brackets import Tier
from perpbt.venue.tables.maintenance import MaintenanceTerms

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
COLUMNS = ("floor", "cap", "rate", "max_leverage", "deduction")
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class Epochs(NamedTuple):
    """Tiers as they follow one another: (epochs, tiers, 5), shorter ladders filled up with their last row, which
    changes nothing; and the first bar of each, 0 for the first.
    """

    ladders: Floats
    since: Integers


def rows_of(tiers: Sequence[Tier], terms: MaintenanceTerms) -> Floats:
    """One ladder as (tiers, 5). Risk-limit steps have no deductions: a band's rate holds for the whole."""
    rows = np.array([[getattr(tier, name) for name in COLUMNS] for tier in tiers], dtype=np.float64)
    if terms.rule == "whole":
        rows[:, COLUMNS.index("deduction")] = 0.0
    return rows


def stacked(ladders: Sequence[Floats]) -> Floats:
    """Ladders of different lengths in one array."""
    longest = max(rows.shape[0] for rows in ladders)
    filled = [
        np.concatenate([rows, np.repeat(rows[-1:], longest - rows.shape[0], axis=0)]) for rows in ladders
    ]
    return np.ascontiguousarray(filled, dtype=np.float64)


def one_epoch(venue: Venue, symbol: str) -> Epochs:
    """The venue's tiers of a symbol, the last ones where they are dated, for all bars."""
    terms = venue.terms("maintenance", symbol) or MaintenanceTerms()
    return Epochs(stacked([rows_of(venue.brackets(symbol), terms)]), np.zeros(1, dtype=np.int64))


def milliseconds_of(since: datetime | None) -> int:
    """A moment in ms since 1970; of none, before all."""
    return -(1 << 62) if since is None else (since - BEGINNING) // timedelta(milliseconds=1)


def dated_epochs(venue: Venue, symbol: str, times: Integers) -> Epochs:
    """The tiers of a symbol over bars that open at `times` (ms UTC).

    A set holds from the first bar at or after its date. Before the first date the first set holds: the
    nearest that is known.
    """
    terms = venue.terms("maintenance", symbol) or MaintenanceTerms()
    sets = venue.schedule(symbol)
    first = [int(np.searchsorted(times, milliseconds_of(one.since))) for one in sets]
    first[0] = 0
    begun = [k for k in range(len(sets)) if first[k] < max(times.size, 1)]
    held = [k for k in begun if not any(first[k] == first[later] for later in begun if later > k)]
    # a set whose first bar is also that of a later one never holds
    since = np.array([first[k] for k in held], dtype=np.int64)
    since[0] = 0
    return Epochs(stacked([rows_of(sets[k].tiers, terms) for k in held]), since)
