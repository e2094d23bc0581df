"""How much of a position must be closed to be back above maintenance: closed forms, with fees and with impact."""

from __future__ import annotations

import math

from perpbt.errors import InputError


def partial_size(
    *,
    side: int,
    quantity: float,
    equity: float,
    mark: float,
    maintenance: float,
    fill: float,
    fee: float = 0.0,
) -> float:
    """The smallest quantity x with equity + s·x·(fill - mark) - fee·mark·x = maintenance·mark·(quantity - x).

    `side` +1 long, -1 short; `equity` at mark, money; `maintenance` a rate on value at mark; `fill` the price
    of what is closed, `fee` a rate on value closed at mark. Returns

        (maintenance·mark·quantity - equity) / (s·(fill - mark) - fee·mark + maintenance·mark),

    which may exceed `quantity` (all is closed and does not do); 0 for a position above maintenance; infinite
    where closing costs as much as it relieves. Source: arXiv 2512.01112.
    """
    _check(side, mark, quantity)
    lacking = maintenance * mark * quantity - equity
    relief = side * (fill - mark) - fee * mark + maintenance * mark
    if lacking <= 0.0:
        return 0.0
    return lacking / relief if relief > 0.0 else math.inf


def partial_size_with_impact(
    *, quantity: float, equity: float, mark: float, maintenance: float, impact: float, fee: float = 0.0
) -> float:
    """The same where closing x moves the fill by impact·x / 2 against the position and costs a fixed `fee`.

    The smaller root of (impact/2)·x² - maintenance·mark·x + (maintenance·mark·quantity - equity + fee) = 0;
    infinite where there is none, 2·impact·(maintenance·mark·quantity - equity + fee) > (maintenance·mark)²:
    then closing a part defeats itself, whatever the part. Works for either side; money and base units.
    """
    _check(1, mark, quantity)
    lacking = maintenance * mark * quantity - equity + fee
    if maintenance * mark * quantity <= equity:
        return 0.0
    slope = maintenance * mark
    if impact == 0.0:
        return lacking / slope if slope > 0.0 else math.inf
    inside = slope * slope - 2.0 * impact * lacking
    # the other form of the smaller root: no difference of nearly equal numbers
    return 2.0 * lacking / (slope + math.sqrt(inside)) if inside >= 0.0 else math.inf


def _check(side: int, mark: float, quantity: float) -> None:
    if side not in (1, -1):
        raise InputError(f"side is {side!r}; allowed: 1 (long), -1 (short)")
    for name, value in (("mark", mark), ("quantity", quantity)):
        if not (math.isfinite(value) and value > 0.0):
            raise InputError(f"{name} is {value!r}; allowed: finite numbers above 0")
