"""Whole lots and ticks: quantities and prices that come in steps of units / per, two whole numbers."""

from __future__ import annotations

import math

from .shapes import Record

ROOM = 1e-9  # this share of a step from a whole number of steps is on it


def whole_lots(quantity: float, venue: Record) -> float:
    """The quantity rounded down to whole lots; as it is where the venue states none."""
    if not venue.get("lot"):
        return quantity
    units, per = venue["lot"]
    return (float(math.floor((quantity * per) / units + ROOM)) * units) / per


def placed(price: float | None, side: int, venue: Record) -> float | None:
    """The same of a level there may not be."""
    return None if price is None else on_tick(price, side, venue)


def on_tick(price: float, side: int, venue: Record) -> float:
    """A price on a tick: up for a long, down for a short; as it is where the venue states none."""
    if not venue.get("tick"):
        return price
    units, per = venue["tick"]
    steps = (price * per) / units
    whole = float(math.ceil(steps - ROOM) if side > 0 else math.floor(steps + ROOM))
    return (whole * units) / per
