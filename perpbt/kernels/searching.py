"""Finding a place in sorted numbers.

Numba's own `np.searchsorted` does it as well, but code that calls it brings, whenever it is loaded from disk, numba's whole array
mathematics along, and with it scipy's linear algebra and a thread of that on every core: a tenth of a second of each process.
"""

from __future__ import annotations

from .compile import part
from .tables import Integers


@part
def first_not_below(values: Integers, wanted: int) -> int:
    """Index of the first of ascending `values` that is at least `wanted`; their number if none is."""
    low, high = 0, values.size
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low
