"""Values that cannot be summed up: kept by group, chunk after chunk, until medians are taken or accounts
counted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from perpbt.kernels.tallying import count_distinct, deal
from perpbt.statistics.common import Floats, Integers

Values = npt.NDArray[Any]


class Shelf(NamedTuple):
    """Values of a chunk: those of groups[k] are values[starts[k]:starts[k + 1]]."""

    values: Values
    groups: Integers
    starts: Integers


class Shelves:
    """Values of `groups` groups, as many bytes as they have and little more."""

    def __init__(self, groups: int, dtype: npt.DTypeLike) -> None:
        self.sizes = np.zeros(groups, dtype=np.int64)
        self._dtype = dtype
        self._shelves: list[Shelf] = []

    def room(self, sizes: Integers) -> tuple[Values, Integers]:
        """A place for so many values more of each group, to be filled by the caller, and where the first of
        each group belongs.
        """
        groups = np.flatnonzero(sizes)
        starts = np.append(0, np.cumsum(sizes[groups]))
        places = np.zeros(sizes.size, dtype=np.int64)
        places[groups] = starts[:-1]
        values = np.empty(starts[-1], dtype=self._dtype)
        self._shelves.append(Shelf(values, groups, starts))
        self.sizes += sizes
        return values, places

    def put(self, values: Values, groups: Integers, sizes: Integers) -> None:
        """Keep values as they are, without a copy: those of groups[0], sizes[0] of them, then those of groups[1]."""
        self._shelves.append(Shelf(values, groups, np.append(0, np.cumsum(sizes))))
        np.add.at(self.sizes, groups, sizes)

    def take(self, other: Shelves) -> None:
        """Add all values of `other`, without a copy."""
        self._shelves += other._shelves
        self.sizes += other.sizes

    def sorted(self) -> Values:
        """A copy of all values, by group."""
        values = np.empty(int(self.sizes.sum()), dtype=self._dtype)
        places = np.cumsum(self.sizes) - self.sizes
        for shelf in self._shelves:
            deal(shelf.values, shelf.groups, shelf.starts, places, values)
        return values


def medians(values: Floats, sizes: Integers) -> pl.Series:
    """Median of each run of so many values, null of an empty one; moves values within their runs."""
    found: list[float | None] = []
    for size, end in zip(sizes.tolist(), np.cumsum(sizes).tolist(), strict=True):
        own, half = values[end - size : end], size // 2
        if size == 0:
            found.append(None)
            continue
        own.partition(half)
        upper = float(own[half])
        lower = upper if size % 2 else float(own[:half].max())
        found.append(lower + 0.5 * (upper - lower))
    return pl.Series(found, dtype=pl.Float64)


def distinct(values: Integers, sizes: Integers) -> Integers:
    """How many different values each run of so many has; whole numbers from 0 on, best without gaps."""
    counts = np.zeros(sizes.size, dtype=np.int64)
    seen = np.full(int(values.max(initial=-1)) + 1, -1, dtype=np.int64)
    count_distinct(values, np.append(0, np.cumsum(sizes)), seen, counts)
    return counts
