"""Stops and take-profits: where they stand at entry (MODEL §5). A new kind of level is one more branch of
`level`.
"""

from __future__ import annotations

import numpy as np

from .compile import part
from .contracts import moved
from .tables import ATR, COLUMN, MARGIN, NONE, PRICE, Terms


@part
def level(
    terms: Terms, kind: int, value: float, side: float, entry: float, leverage: float, series: float
) -> float:
    """Price of a level on the `side` (+1 above, -1 below) of entry; NaN if there is none.

    `value` is a fraction of price, a fraction of margin, or a multiple of `series` (the average true range
    at the last close); for a level taken from a column, `series` is the price itself. Of an inverse contract
    a fraction and the average true range are of the price, the fraction of margin is of money, as everywhere.
    """
    if kind == PRICE:
        return moved(terms, entry, side * value)
    if kind == MARGIN:
        return entry * (1.0 + side * (value / leverage))
    if kind == ATR and terms.inverse:
        price = 1.0 / entry - side * (value * series)
        return 1.0 / price if price > 0.0 else np.inf
    if kind == ATR:
        return entry + side * (value * series)
    if kind == COLUMN:
        return series
    return np.nan


@part
def needs_series(kind: int) -> bool:
    """Does this kind of level read a per-bar series?"""
    return kind not in (NONE, PRICE, MARGIN)
