"""How much a margin asks for when it is least welcome: measures of procyclicality.

In: margins of a constant position, oldest first, as fractions of its value. Out: one number each. After Murphy, Vasios and
Vause, Bank of England Financial Stability Paper 29 (2014) and Staff Working Paper 597 (2016). Read them beside the
coverage: a margin that never moves is easily had.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perpbt.errors import InputError

Floats = npt.NDArray[np.float64]


def peak_to_trough(margins: npt.ArrayLike) -> float:
    """The highest margin over the lowest."""
    found = _checked(margins)
    return float(found.max() / found.min())


def worst_rise(margins: npt.ArrayLike, steps: int = 5) -> float:
    """The greatest rise over `steps` epochs, as a share of the margin before it; 0 where it never rises or is too short."""
    found = _checked(margins)
    if steps < 1:
        raise InputError(f"steps = {steps}: must be at least 1")
    if found.size <= steps:
        return 0.0
    return max(0.0, float((found[steps:] / found[:-steps] - 1.0).max()))


def deviation_of_changes(margins: npt.ArrayLike) -> float:
    """Standard deviation of the relative changes from one epoch to the next; 0 for fewer than two changes."""
    found = _checked(margins)
    changes = found[1:] / found[:-1] - 1.0
    return float(changes.std(ddof=1)) if changes.size > 1 else 0.0


def cost(margins: npt.ArrayLike, benchmark: npt.ArrayLike) -> float:
    """The mean margin over the mean of a benchmark."""
    return float(_checked(margins).mean() / _checked(benchmark).mean())


def _checked(margins: npt.ArrayLike) -> Floats:
    found = np.asarray(margins, dtype=np.float64)
    wrong = np.flatnonzero(~(np.isfinite(found) & (found > 0.0)))
    if found.ndim != 1 or found.size == 0 or wrong.size:
        at = (
            f"[{wrong[0]}] = {float(found[wrong[0]])!r}"
            if wrong.size and found.ndim == 1
            else f": shape {found.shape}"
        )
        raise InputError(f"margins{at}: must be a row of finite numbers above 0, one at least")
    return found
