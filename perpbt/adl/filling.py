"""How an amount is spread: in order, in proportion to weights under caps, down to an equal leverage, in lots.

The amounts may be contracts or money. Sums over positions are rounded once, so that nothing depends on the
order of rows; what is full or touched is settled by them alone, so that a reader's loop finds the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from perpbt.adl.candidates import Flags, Floats, Integers, quotient

_MANY = 4096  # positions from which on whole columns at a time pay, and a rough search before the exact one
_SAMPLE = 256
_BRINK = 1e-9
_WHOLE = 1e-9  # of a lot: what is nearer to a whole number of lots is one


def total(values: Floats) -> float:
    """The sum, rounded once: what math.fsum returns, faster for many values.

    Leading bits are split off so coarse that their plain sum is exact, until nothing is left (ExtractVector
    of Rump, Ogita and Oishi 2008, Accurate floating-point summation I).
    """
    parts: list[float] = []
    rest = values
    while rest.size > _MANY:
        top = float(np.max(np.abs(rest)))
        if top == 0.0:
            return math.fsum(parts)
        exponent = math.frexp(top)[1] + rest.size.bit_length() + 1
        if not math.isfinite(top) or exponent > 1000:
            break
        unit = math.ldexp(1.0, exponent)
        leading = (rest + unit) - unit
        parts.append(float(leading.sum()))
        rest = rest - leading
    return math.fsum(parts + rest.tolist())


def fill_in_order(capacity: Floats, score: Floats, amount: float, identifier: Integers) -> Floats:
    """Give `amount` to positions one after another, highest score first, ties by identifier, each up to its
    `capacity`. Returns what each gets; what exceeds all capacities is given to none.
    """
    given = np.zeros(capacity.size)
    if amount <= 0.0 or capacity.size == 0:
        return given
    rows = head(capacity, score, amount)
    given[rows] = in_turn(capacity[rows], score[rows], amount, identifier[rows])
    return given


def in_turn(capacity: Floats, score: Floats, amount: float, identifier: Integers) -> Floats:
    """`fill_in_order` of those who stand at the head."""
    given = np.empty(capacity.size)
    order = np.lexsort((identifier, -score))
    room = capacity[order]
    left = np.subtract.accumulate(np.concatenate(([amount], room)))[:-1]
    given[order] = np.minimum(room, np.maximum(left, 0.0))
    return given


def head(capacity: Floats, score: Floats, amount: float) -> Integers:
    """Rows that stand before all others and suffice for `amount`, found without sorting all: scores of a
    sample guess from which score on, and among those who have it another sample from which on.
    """
    rows = np.arange(capacity.size)
    while rows.size >= 2 * _SAMPLE:
        sample = np.sort(score[:: score.size // _SAMPLE])[::-1]
        for place in (2, 8, 32, 100):
            ahead = np.flatnonzero(score >= sample[place])
            if capacity[ahead].sum() > amount * (1.0 + 1e-9):
                break
        else:
            return rows
        if 2 * ahead.size > rows.size:
            return rows[ahead]
        rows, capacity, score = rows[ahead], capacity[ahead], score[ahead]
    return rows


def fill_by_weight(capacity: Floats, weight: Floats, amount: float) -> Floats:
    """Give `amount` in proportion to `weight` >= 0, each up to its `capacity`: min(capacity, t·weight) with
    the one t at which all is given.

    It is the unique minimiser of the sum of weight·f(given/weight) for every strictly convex f. Positions of
    infinite weight come before all others, those of weight 0 after, both in proportion to capacity. What
    exceeds all capacities is given to none.
    """
    given = np.zeros(capacity.size)
    infinite, none = np.isinf(weight), weight == 0.0
    left = amount
    for group, pull in ((infinite, capacity), (~infinite & ~none, weight), (none, capacity)):
        if left <= 0.0 or not group.any():
            continue
        room = capacity[group]
        held = total(room)
        given[group] = room if held <= left else _proportional(room, pull[group], left)
        left = left - held
    return given


def _proportional(room: Floats, pull: Floats, amount: float) -> Floats:
    """min(room, t·pull) that sums to `amount`, which is less than all room."""
    full: Flags = np.zeros(room.size, dtype=np.bool_)
    if room.size > _MANY:  # quick sums find who is clearly full; those on the brink are left to exact ones
        full = _full(room, pull, amount, full, _quick)
        rest, among = amount - _quick(room[full]), _quick(pull[~full])
        full &= room <= (1.0 - _BRINK) * ((rest / among if among > 0.0 else np.inf) * pull)
    full = _full(room, pull, amount, full, total)
    among = total(pull[~full])
    if among <= 0.0:
        return room
    rate = max(amount - total(room[full]), 0.0) / among
    return np.minimum(room, rate * pull)


def _full(room: Floats, pull: Floats, amount: float, full: Flags, add: Callable[[Floats], float]) -> Flags:
    """Who gets all of his room: more at every pass, until none is added."""
    while True:
        among = add(pull[~full])
        if among <= 0.0:
            return full
        more = full | (room <= ((amount - add(room[full])) / among) * pull)
        if np.array_equal(more, full):
            return full
        full = more


def _quick(values: Floats) -> float:
    return float(values.sum())


def level(quantity: Floats, equity: Floats, price: Floats, amount: float) -> float:
    """The highest leverage that is left when `amount` is taken off the most leveraged positions:
    sum of (quantity - L·equity/price)+ = amount. 0 if `amount` is all there is; infinite if positions without
    equity alone exceed it.
    """
    worth = np.maximum(equity, 0.0) / price
    if amount >= total(quantity):
        return 0.0
    if amount <= 0.0:
        return float(np.max(quotient(quantity, worth), initial=0.0))
    if total(quantity[worth == 0.0]) >= amount:
        return math.inf
    touched: Flags = np.ones(quantity.size, dtype=np.bool_)
    if quantity.size > _MANY:
        touched = _touched(quantity, worth, amount, touched, _quick)
        height = (_quick(quantity[touched]) - amount) / _quick(worth[touched])
        touched |= quantity > (1.0 - _BRINK) * (height * worth)
    touched = _touched(quantity, worth, amount, touched, total)
    return (total(quantity[touched]) - amount) / total(worth[touched])


def _touched(
    quantity: Floats, worth: Floats, amount: float, touched: Flags, add: Callable[[Floats], float]
) -> Flags:
    """Who is above the common level: fewer at every pass, until none drops out."""
    while True:
        height = (add(quantity[touched]) - amount) / add(worth[touched])
        fewer = touched & (quantity > height * worth)
        if np.array_equal(fewer, touched) or not worth[fewer].any():
            return touched
        touched = fewer


def fill_to_level(quantity: Floats, equity: Floats, price: Floats, amount: float) -> Floats:
    """Take `amount` off the most leveraged until all touched have the same leverage L = quantity·price/equity:
    quantity - min(quantity, L·equity/price). Positions without equity go first, in proportion to quantity.

    It makes the highest leverage as low as it can be (Campbell, Hey, Moallemi, Nutz, Risk-Based
    Auto-Deleveraging, arXiv 2603.15963), for equities that the closing price leaves as they are: closing at
    mark.
    """
    if amount <= 0.0 or quantity.size == 0:
        return np.zeros(quantity.size)
    if amount >= total(quantity):
        return quantity.copy()
    height = level(quantity, equity, price, amount)
    if math.isinf(height):
        bare = np.maximum(equity, 0.0) / price == 0.0
        return fill_by_weight(np.where(bare, quantity, 0.0), np.where(bare, quantity, 0.0), amount)
    keep = height * (np.maximum(equity, 0.0) / price)
    return np.where(quantity > keep, quantity - keep, 0.0)


def in_lots(given: Floats, capacity: Floats, amount: float, lot: float, identifier: Integers) -> Floats:
    """Round what is given to whole lots and hand out what rounding down left over, so that all of `amount` is
    still collected.

    The lots that are left go one each to the largest remainders (ties by identifier) where there is room.
    A part of `amount` below one lot, and quantities that are no whole lots, come last, from the largest
    remainders too.
    """
    due = min(amount, total(capacity))
    most = np.floor(capacity / lot + _WHOLE)
    units = np.minimum(np.floor(given / lot + _WHOLE), most)
    short = math.floor(due / lot + _WHOLE) - int(total(units))
    ahead = np.lexsort((identifier, units - given / lot))
    while short > 0:
        room = ahead[(units < most)[ahead]]
        if room.size == 0:
            break
        units[room[:short]] += 1.0
        short -= int(min(short, room.size))
    whole = np.minimum(units * lot, capacity)
    rest = due - total(whole)
    if rest > _WHOLE * lot:
        ranks = np.empty(capacity.size)
        ranks[ahead] = np.arange(capacity.size, 0.0, -1.0)
        whole = np.minimum(whole + fill_in_order(capacity - whole, ranks, rest, identifier), capacity)
    return whole
