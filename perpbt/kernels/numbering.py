"""Keys → numbers from 0 on, in order of first appearance, so that arrays can have an entry a key.

In: any whole numbers. Out: their numbers, and an index that goes on numbering in the next chunk. No sorting:
a table of twice as many entries as keys, each key at the first free one from where its hash points to.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compile import kernel
from .tables import Integers

FIRST = 1 << 10
LOW_HALF = (1 << 31) - 1
MIX, MIX_HIGH = 0x5BD1E995, 0x27D4EB2D  # odd and below 2^31: products with halves of a key stay below 2^63


class Index(NamedTuple):
    """The keys that have a number."""

    table: Integers  # a power of two of entries: a number, or -1
    keys: Integers  # of each number; as many as there is room for
    given: Integers  # (1,): how many numbers were

    @property
    def known(self) -> Integers:
        """The keys, by number."""
        return self.keys[: self.given[0]]


def no_index(room: int = FIRST) -> Index:
    """Nothing is numbered; `room` is a power of two."""
    table, keys = np.full(2 * room, -1, dtype=np.int64), np.zeros(room, dtype=np.int64)
    return Index(table, keys, np.zeros(1, dtype=np.int64))


def numbered(index: Index, keys: Integers) -> tuple[Index, Integers]:
    """The number of each key, new keys included, and an index that knows them all; the one given is not to be
    used again.
    """
    numbers = np.empty(keys.size, dtype=np.int64)
    done = find_numbers(index, keys, numbers)
    while done < keys.size:
        wider = no_index(4 * index.keys.size)
        find_numbers(wider, index.keys, np.empty(index.keys.size, dtype=np.int64))
        index = wider
        done += find_numbers(index, keys[done:], numbers[done:])
    return index, numbers


@kernel
def find_numbers(index: Index, keys: Integers, numbers: Integers) -> int:
    """Number keys until there is no room for a new one; returns how many were."""
    table, known = index.table, index.keys
    mask = table.size - 1
    for j in range(keys.size):
        key = keys[j]
        at = ((((key & LOW_HALF) * MIX) ^ ((key >> 31) * MIX_HIGH)) >> 15) & mask
        while table[at] >= 0 and known[table[at]] != key:
            at = (at + 1) & mask
        if table[at] < 0:
            new = index.given[0]
            if new == known.size:
                return j
            table[at], known[new] = new, key
            index.given[0] = new + 1
        numbers[j] = table[at]
    return keys.size
