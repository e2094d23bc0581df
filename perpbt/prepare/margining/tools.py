"""Tools against procyclical margin: what is asked for, given what a model says (Regulation (EU) 153/2013, Article 28(1)).

Every function takes margins oldest first, NaN where there is none yet, and returns as many; none looks ahead.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def buffered(margin: Floats, buffer: float, rising: float = 0.0) -> Floats:
    """(a) A buffer on top of the margin, used up while the margin rises and built again when it does not.

    (1 + buffer) * M, but while M rises by more than the share `rising` no more than was asked for before, if
    that still covers M: max(M, min((1 + buffer) * M, before)).
    """
    asked = np.full(margin.size, np.nan)
    before, last = np.nan, np.nan
    for k, now in enumerate(margin.tolist()):
        full = (1.0 + buffer) * now
        rises = now > last * (1.0 + rising)  # False where there is no last
        asked[k] = max(now, min(full, before)) if rises else full
        if now == now:
            before, last = asked[k], now
    return asked


def stressed(margin: Floats, weight: float, stress: float | None = None) -> Floats:
    """(b) (1 - weight) * M + weight * stressed margin: the one given, or the highest M so far.

    Never below M, which a stressed margin given may be.
    """
    worst = np.fmax.accumulate(margin) if stress is None else np.full(margin.size, stress)
    return np.maximum(margin, (1.0 - weight) * margin + weight * worst)


def floored(margin: Floats, floor: Floats) -> Floats:
    """(c) Never below the margin by long-run volatility."""
    return np.maximum(margin, floor)
