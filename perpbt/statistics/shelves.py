"""Values that cannot be summed up: kept by group, chunk after chunk, until medians are taken or accounts
counted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from perpbt.kernels.tallying import KEYS, count_distinct, count_keys, deal, with_key
from perpbt.statistics.common import Floats, Integers

Values = npt.NDArray[Any]
FEW = 1 << 5  # values of a piece on average, under which all pieces are put together once, group by group
JOIN = 64  # pieces from which on those that follow one another are joined
MANY = 1 << 17  # values from which on they are counted where they are, and not copied
NOT_FINITE = 16  # keys at either end: infinities and what is no number


class Shelf(NamedTuple):
    """Values of a chunk: those of groups[k] are values[starts[k]:starts[k + 1]]."""

    values: Values
    groups: Integers
    starts: Integers


class Runs(NamedTuple):
    """Where values are, group by group: those of groups[k] are entries [starts[k], ends[k]) of the values of shelves[k]."""

    groups: Integers
    shelves: Integers
    starts: Integers
    ends: Integers


class Shelves:
    """Values of `groups` groups, as many bytes as they have and little more."""

    def __init__(self, groups: int, dtype: npt.DTypeLike) -> None:
        self.sizes = np.zeros(groups, dtype=np.int64)
        self._dtype = dtype
        self._shelves: list[Shelf] = []
        self._runs: Runs | None = None
        self._sorted: Values | None = None
        self._medians: dict[tuple[int, int], float] = {}

    def _changed(self) -> None:
        """What was found of the values so far no longer holds."""
        self._runs = self._sorted = None
        self._medians.clear()

    def room(self, sizes: Integers) -> tuple[Values, Integers]:
        """A place for so many values more of each group, to be filled by the caller, and where the first of
        each group belongs.
        """
        groups = np.flatnonzero(sizes)
        self._changed()
        starts = np.append(0, np.cumsum(sizes[groups]))
        places = np.zeros(sizes.size, dtype=np.int64)
        places[groups] = starts[:-1]
        values = np.empty(starts[-1], dtype=self._dtype)
        self._shelves.append(Shelf(values, groups, starts))
        self.sizes += sizes
        return values, places

    def put(self, values: Values, groups: Integers, sizes: Integers) -> None:
        """Keep values as they are, without a copy: those of groups[0], sizes[0] of them, then those of groups[1]."""
        self._changed()
        self._shelves.append(Shelf(values, groups, np.append(0, np.cumsum(sizes))))
        np.add.at(self.sizes, groups, sizes)

    def take(self, other: Shelves) -> None:
        """Add all values of `other`, without a copy."""
        self._changed()
        self._shelves += other._shelves
        self.sizes += other.sizes

    def sorted(self) -> Values:
        """A copy of all values, by group."""
        values = np.empty(int(self.sizes.sum()), dtype=self._dtype)
        places = np.cumsum(self.sizes) - self.sizes
        for shelf in self._shelves:
            deal(shelf.values, shelf.groups, shelf.starts, places, values)
        return values

    def medians(self, first: Integers, last: Integers) -> pl.Series:
        """Median of the values of groups first[k] to last[k], null of none; each is found once. A span may hold others that were asked for
        before: it moves values within.
        """
        filled = np.flatnonzero(self.sizes)
        low, high = np.searchsorted(filled, first), np.searchsorted(filled, last, side="right")
        return pl.Series(
            [
                self._median(int(filled[a]), int(filled[b - 1])) if a < b else None
                for a, b in zip(low.tolist(), high.tolist(), strict=True)
            ],
            dtype=pl.Float64,
        )

    def _median(self, first: int, last: int) -> float:
        key = first, last
        if key not in self._medians:
            self._medians[key] = middle(*self._of(first, last))
        return self._medians[key]

    def _where(self) -> Runs:
        """Where all values are."""
        if self._runs is None:
            none = [np.zeros(0, dtype=np.int64)]
            groups = np.concatenate(none + [shelf.groups for shelf in self._shelves])
            order = np.argsort(groups, kind="stable")
            shelves = np.repeat(np.arange(len(self._shelves)), [shelf.groups.size for shelf in self._shelves])
            starts, ends = (
                np.concatenate(none + [shelf.starts[part] for shelf in self._shelves])[order]
                for part in (slice(None, -1), slice(1, None))
            )
            self._runs = Runs(groups[order], shelves[order], starts, ends)
        return self._runs

    def _of(self, first: int, last: int) -> tuple[list[Values], bool]:
        """The values of groups first to last, in pieces or in one, and whether this is a copy."""
        runs = self._where()
        a, b = runs.groups.searchsorted((first, last + 1)).tolist()
        starts, ends = runs.starts[a:b], runs.ends[a:b]
        size = int(ends.sum() - starts.sum())
        if size < FEW * (b - a):
            if self._sorted is None:
                self._sorted = self.sorted()
            begin = int(self.sizes[:first].sum())
            return [self._sorted[begin : begin + size]], True
        shelves = runs.shelves[a:b]
        if b - a > JOIN:
            apart = (shelves[1:] != shelves[:-1]) | (starts[1:] != ends[:-1])
            begins, stops = np.flatnonzero(np.append(True, apart)), np.flatnonzero(np.append(apart, True))
            shelves, starts, ends = shelves[begins], starts[begins], ends[stops]
        places = zip(shelves.tolist(), starts.tolist(), ends.tolist(), strict=True)
        return [self._shelves[shelf].values[start:end] for shelf, start, end in places], False


def middle(pieces: list[Floats], copied: bool) -> float:
    """The median of all values of some arrays, of which there is one: looked for among those whose highest bits are its own. Values that are
    `copied` may be moved.
    """
    size = sum(piece.size for piece in pieces)
    ranked = None if size < MANY or copied else ranks_of(pieces)
    if ranked is None:
        own = pieces[0] if copied else np.concatenate(pieces)
        own.partition(size // 2)  # of two places it would look for each by itself
        upper = float(own[size // 2])
        lower = upper if size % 2 else float(own[: size // 2].max())
    else:
        lower, upper = at_ranks(pieces, ranked, (size - 1) // 2, size // 2)
    return lower + 0.5 * (upper - lower)


def ranks_of(pieces: list[Floats]) -> Integers | None:
    """How many values have each key, keys in the order of values; None if any is not finite."""
    counts = np.zeros(KEYS, dtype=np.int64)
    for piece in pieces:
        count_keys(piece, counts)
    ranked = np.roll(counts, KEYS // 2)
    return None if ranked[:NOT_FINITE].any() or ranked[-NOT_FINITE:].any() else ranked


def at_ranks(pieces: list[Floats], ranked: Integers, *ranks: int) -> list[float]:
    """The values that so many are below, counts of keys in order being `ranked`."""
    ends, found = np.cumsum(ranked), []
    held = (-1, np.empty(0))
    for rank in ranks:
        key = int(np.searchsorted(ends, rank, side="right"))
        if key != held[0]:
            held, at = (key, np.empty(ranked[key])), 0
            for piece in pieces:
                at = with_key(piece, key - KEYS // 2, held[1], at)
        own, place = held[1], rank - int(ends[key] - ranked[key])
        own.partition(place)
        found.append(float(own[place]))
    return found


def distinct(values: Integers, sizes: Integers) -> Integers:
    """How many different values each run of so many has; whole numbers from 0 on, best without gaps."""
    counts = np.zeros(sizes.size, dtype=np.int64)
    seen = np.full(int(values.max(initial=-1)) + 1, -1, dtype=np.int64)
    count_distinct(values, np.append(0, np.cumsum(sizes)), seen, counts)
    return counts
