"""What a contract makes of a price: the fill that is worse by a share of it, and the steps of quantities and prices.

Kernels see an inverse contract in the mirror: 1 / P for every price P, and the other side. There a fill worse by a share x of the
price, P(1 - x) for who sells, is (1/P) / (1 - x).
"""

from __future__ import annotations

import numpy as np

from .compile import part
from .tables import Terms

WHOLE = 1e-9  # a number this share of a step from a whole number of steps is on it: binary fractions are not decimal


@part
def moved(terms: Terms, price: float, share: float) -> float:
    """A price higher by this share of it (below 0: lower); `share` is that of the kernel's side."""
    if terms.inverse:
        return price / (1.0 - share)
    return price * (1.0 + share)


@part
def in_lots(terms: Terms, quantity: float) -> float:
    """The whole lots in a quantity; all of it without a lot."""
    if terms.lot_per == 0.0:
        return quantity
    lots = np.floor((quantity * terms.lot_per) / terms.lot_units + WHOLE)
    return (lots * terms.lot_units) / terms.lot_per


@part
def on_tick(terms: Terms, side: float, price: float) -> float:
    """A level on the tick that a price which moves against the position meets first: up for a long, down for a short."""
    if terms.tick_per == 0.0:
        return price
    if terms.inverse and not 0.0 < price < np.inf:
        return price  # no price that could be met
    steps = ((1.0 / price if terms.inverse else price) * terms.tick_per) / terms.tick_units
    whole = np.ceil(steps - WHOLE) if (side > 0.0) != terms.inverse else np.floor(steps + WHOLE)
    stepped = (whole * terms.tick_units) / terms.tick_per + 0.0  # never -0.0
    if not terms.inverse:
        return stepped
    return 1.0 / stepped if stepped > 0.0 else np.inf


@part
def one_tick_beyond(terms: Terms, side: float, price: float) -> float:
    """The price a tick worse for a position; infinite where that of an inverse contract is no price."""
    if terms.tick_per == 0.0:
        return price
    tick = terms.tick_units / terms.tick_per
    if not terms.inverse:
        return price - side * tick
    worse = 1.0 / price + side * tick  # its other side is the mirror's
    return 1.0 / worse if worse > 0.0 else np.inf


@part
def tick_room(terms: Terms, highest: float) -> float:
    """How far a threshold on a tick can let a test of `margin.liquidated` pass sooner than one without; `highest` is of all marks.

    A tick moves a threshold P by less than a tick, and what is compared, P (1 -/+ rate), by less than two. A threshold 1 / P that a
    mark of at most `highest` can meet is below 2 * highest, and moves by less than twice its square of ticks.
    """
    if terms.tick_per == 0.0:
        return 0.0
    tick = terms.tick_units / terms.tick_per
    return 16.0 * tick * highest * highest if terms.inverse else 2.0 * tick * (1.0 + WHOLE)
