"""`perpbt.adl.filling` by hand: any sequences of numbers, checked. Runs, whose numbers are checked already, go past this."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perpbt.adl import filling, rankings
from perpbt.adl.candidates import Floats, Integers
from perpbt.errors import InputError


def fill_in_order(
    capacity: npt.ArrayLike, score: npt.ArrayLike, amount: float, identifier: npt.ArrayLike
) -> Floats:
    """Give `amount` to positions one after another, highest score first, ties by identifier, each up to its
    `capacity`. Returns what each gets; what exceeds all capacities is given to none.

    Raises InputError for columns of different lengths, a capacity or amount that is not finite or below 0, a score that is no number.
    """
    room = _column("capacity", capacity)
    ranks = _column("score", score, room.size, least=-np.inf, most=np.inf)
    return filling.fill_in_order(room, ranks, _amount(amount), _identifiers(identifier, room.size))


def fill_by_weight(capacity: npt.ArrayLike, weight: npt.ArrayLike, amount: float) -> Floats:
    """Give `amount` in proportion to `weight` >= 0, each up to its `capacity`: min(capacity, t·weight) with
    the one t at which all is given.

    It is the unique minimiser of the sum of weight·f(given/weight) for every strictly convex f. Positions of
    infinite weight come before all others, those of weight 0 after, both in proportion to capacity. What
    exceeds all capacities is given to none. Raises InputError as `fill_in_order`, and for a weight below 0.
    """
    room = _column("capacity", capacity)
    return filling.fill_by_weight(room, _column("weight", weight, room.size, most=np.inf), _amount(amount))


def level(quantity: npt.ArrayLike, equity: npt.ArrayLike, price: npt.ArrayLike, amount: float) -> float:
    """The highest leverage that is left when `amount` is taken off the most leveraged positions:
    sum of (quantity - L·equity/price)+ = amount. 0 if `amount` is all there is; infinite if positions without
    equity alone exceed it. `price` is one for all, or one each. Raises InputError as `fill_in_order`.
    """
    return filling.level(*_book(quantity, equity, price), _amount(amount))


def fill_to_level(
    quantity: npt.ArrayLike, equity: npt.ArrayLike, price: npt.ArrayLike, amount: float
) -> Floats:
    """Take `amount` off the most leveraged until all touched have the same leverage L = quantity·price/equity:
    quantity - min(quantity, L·equity/price). Positions without equity go first, in proportion to quantity.

    It makes the highest leverage as low as it can be (Campbell, Hey, Moallemi, Nutz, Risk-Based
    Auto-Deleveraging, arXiv 2603.15963), for equities that the closing price leaves as they are: closing at
    mark. `price` is one for all, or one each. Raises InputError as `fill_in_order`.
    """
    return filling.fill_to_level(*_book(quantity, equity, price), _amount(amount))


def in_lots(
    given: npt.ArrayLike, capacity: npt.ArrayLike, amount: float, lot: float, identifier: npt.ArrayLike
) -> Floats:
    """Round what is given to whole lots and hand out what rounding down left over, so that all of `amount` is
    still collected.

    The lots that are left go one each to the largest remainders (ties by identifier) where there is room.
    A part of `amount` below one lot, and quantities that are no whole lots, come last, from the largest
    remainders too. Raises InputError as `fill_in_order`, and for a lot that is not above 0.
    """
    room = _column("capacity", capacity)
    if not (_amount(lot, "lot") > 0.0):
        raise InputError(f"lot is {lot!r}; allowed: finite numbers above 0")
    return filling.in_lots(
        _column("given", given, room.size), room, _amount(amount), lot, _identifiers(identifier, room.size)
    )


def in_order(score: npt.ArrayLike, identifier: npt.ArrayLike) -> Integers:
    """Row numbers, the highest score first, of equal ones the lowest identifier."""
    ranks = _column("score", score, least=-np.inf, most=np.inf)
    return rankings.in_order(ranks, _identifiers(identifier, ranks.size))


def lights(
    score: npt.ArrayLike, identifier: npt.ArrayLike, quantity: npt.ArrayLike | None = None
) -> Integers:
    """Lights of BitMEX's indicator, 5 for who is in the first fifth of the queue down to 1.

    A fifth of the `quantity` ranked, each position by where it ends in the queue; without `quantity` a fifth
    of the positions (Binance's quantile, rank over users). The share of the queue in which one is, rounded
    up to 20 %, is (6 - lights) · 20 %. Source: BitMEX, Auto-Deleveraging, where six longs of 10 10 20 30 20
    10 with scores 3 6 1 4 5 2 stand at 80 20 100 60 40 80 %.
    """
    ranks = _column("score", score, least=-np.inf, most=np.inf)
    held = None if quantity is None else _column("quantity", quantity, ranks.size)
    return rankings.lights(ranks, _identifiers(identifier, ranks.size), held)


def _column(
    name: str, given: npt.ArrayLike, size: int | None = None, least: float = 0.0, most: float | None = None
) -> Floats:
    """The numbers as an array; `most` None: finite ones."""
    try:
        values = np.atleast_1d(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is {given!r}; allowed: numbers") from error
    if values.ndim != 1 or (size is not None and values.size != size):
        raise InputError(
            f"{name} has shape {values.shape}; allowed: {'one number a position' if size is None else (size,)}"
        )
    wrong = np.isnan(values) | (values < least) | (np.isinf(values) if most is None else False)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        sort = "finite numbers" if most is None else "numbers"
        floor = f" of at least {least:g}" if np.isfinite(least) else ""
        raise InputError(f"{name}[{row}] is {float(values[row])!r}; allowed: {sort}{floor}")
    return values


def _amount(amount: float, name: str = "amount") -> float:
    return float(_column(name, amount, 1)[0])


def _identifiers(given: npt.ArrayLike, size: int) -> Integers:
    values = np.atleast_1d(np.asarray(given))
    if values.shape != (size,) or values.dtype.kind not in "iu":
        if size == 0 and values.size == 0:
            return np.zeros(0, dtype=np.int64)
        raise InputError(f"identifier is {given!r}; allowed: {size} whole numbers")
    return values.astype(np.int64)


def _book(
    quantity: npt.ArrayLike, equity: npt.ArrayLike, price: npt.ArrayLike
) -> tuple[Floats, Floats, Floats]:
    held = _column("quantity", quantity)
    worth = _column("equity", equity, held.size, least=-np.inf)
    at = np.broadcast_to(_column("price", price, None if np.size(price) == 1 else held.size), held.shape)
    if (at <= 0.0).any():
        raise InputError(f"price is {float(at[at <= 0.0][0])!r}; allowed: above 0")
    return held, worth, np.ascontiguousarray(at)
