"""Margin of an isolated linear position: maintenance lines, the liquidation test, the liquidation price
(MODEL §4).

Maintenance is the highest of straight lines in the notional, one a tier: N * rate_k - deduction_k. So a
position is liquidated when it is below any of them, and every test compares a number of the market with a
number of the position. `side` is +1.0 or -1.0; multiplying by it is exact, so a short is a long seen in the
mirror, to the last bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compile import part
from .contracts import on_tick, tick_room
from .tables import CAP, DEDUCTION, RATE, Rates


class Position(NamedTuple):
    """What a position is between two margin orders. Levels are times side: an adverse one is reached from
    above.
    """

    side: float
    quantity: float  # base units, > 0
    entry: float  # fill price
    margin: float
    funding: float  # CF at entry
    lines: int  # maintenance lines the notional can reach
    tiers: int  # of these, lines that tilt with the mark: all, or none with maintenance on entry notional
    kept: float  # maintenance no mark can lower: that of the entry notional, or -inf
    guard_factor: float  # with guard_level: a test no line can fail without failing it
    guard_level: float
    stop: float  # side * stop price; -inf: none
    target: float  # side * take-profit price; +inf: none
    trail: float  # a trailing stop stands at extreme * trail; 0: none


@part
def tier_of(rates: Rates, notional: float) -> int:
    """The tier k with floor_k < notional <= cap_k; the number of tiers when above the last cap."""
    k = 0
    while k < rates.tiers.shape[0] and notional > rates.tiers[k, CAP]:
        k += 1
    return k


@part
def maintenance(rates: Rates, notional: float, tiers: int) -> float:
    """MM(N) = max_k(N * rate_k - deduction_k) over the first `tiers` tiers."""
    required = notional * rates.tiers[0, RATE] - rates.tiers[0, DEDUCTION]
    for k in range(1, tiers):
        required = max(required, notional * rates.tiers[k, RATE] - rates.tiers[k, DEDUCTION])
    return required


@part
def line(rates: Rates, k: int, position: Position) -> tuple[float, float]:
    """Rate r_k of maintenance line k, and the level K at which it liquidates: when (P(1 -/+ r_k)) - CF is
    beyond K.
    """
    if rates.entry_maintenance:  # one line, which the mark does not tilt
        rate, deduction = rates.close_out_rate, -position.kept
    else:
        rate, deduction = rates.tiers[k, RATE] + rates.close_out_rate, rates.tiers[k, DEDUCTION]
    level = (position.entry - position.funding) - position.side * (
        (position.margin + deduction) / position.quantity
    )
    return rate, level


@part
def lines_in_reach(rates: Rates, notional: float) -> int:
    """How many lines can bind while the notional stays at most `notional`.

    A line binds in its own tier only. The 1e-9 keeps lines within rounding distance of the bound in play.
    """
    if rates.entry_maintenance:
        return 1
    return min(tier_of(rates, notional * (1.0 + 1e-9)) + 1, rates.tiers.shape[0])


@part
def make_position(
    rates: Rates, side: float, quantity: float, entry: float, margin: float, funding: float,
    highest_mark: float, stop: float, target: float, trail: float,
) -> Position:  # fmt: skip
    """A position with its guard: the gentlest slope and the nearest level over its maintenance lines.

    Rounding is monotone, so a mark that passes the guard passes every line; only the others need the full
    test.
    """
    lines = lines_in_reach(rates, quantity * max(entry, highest_mark))
    tiers, kept = lines, -np.inf
    if rates.entry_maintenance:
        tiers, kept = 0, maintenance(rates, quantity * entry, rates.tiers.shape[0])
    bare = Position(side, quantity, entry, margin, funding, lines, tiers, kept, 0.0, 0.0, stop, target, trail)
    steepest, nearest = -np.inf, -np.inf
    for k in range(lines):
        rate, level = line(rates, k, bare)
        steepest, nearest = max(steepest, rate), max(nearest, side * level)
    nearest += tick_room(rates.terms, highest_mark)
    factor = 1.0 - side * steepest
    return Position(
        side, quantity, entry, margin, funding, lines, tiers, kept, factor, nearest, stop, target, trail
    )


@part
def liquidated(rates: Rates, position: Position, price: float, funding: float) -> bool:
    """Is the position liquidated at this mark price? Exactly A <= K (long) or A >= K (short) for some line.

    With ticks: at or beyond its liquidation price.
    """
    if rates.terms.tick_per != 0.0:
        return position.side * price <= position.side * liquidation_price(
            rates, position, funding, position.lines
        )
    for k in range(position.lines):
        rate, level = line(rates, k, position)
        if position.side * ((price * (1.0 - position.side * rate)) - funding) <= position.side * level:
            return True
    return False


@part
def liquidation_price(rates: Rates, position: Position, funding: float, lines: int) -> float:
    """The first mark price at which a position is liquidated: highest over lines for a long, lowest for a
    short.
    """
    nearest = -np.inf
    for k in range(lines):
        rate, level = line(rates, k, position)
        nearest = max(nearest, position.side * ((level + funding) / (1.0 - position.side * rate)))
    return on_tick(rates.terms, position.side, position.side * nearest)


@part
def equity(position: Position, price: float, funding: float) -> float:
    """E of MODEL §4: margin + price PnL - funding paid."""
    signed = position.side * position.quantity
    return (position.margin + signed * (price - position.entry)) - signed * (funding - position.funding)


@part
def requirement(rates: Rates, position: Position, price: float) -> float:
    """Maintenance plus close-out cost at a mark price."""
    notional = position.quantity * price
    needed = position.kept
    for k in range(position.tiers):
        needed = max(needed, notional * rates.tiers[k, RATE] - rates.tiers[k, DEDUCTION])
    return needed + rates.close_out_rate * notional


@part
def margin_ratio(rates: Rates, position: Position, price: float, funding: float) -> float:
    """Requirement over equity, as venues display it: 1 is liquidation. Infinite once nothing is left."""
    left = equity(position, price, funding)
    if left <= 0.0:
        return np.inf
    return requirement(rates, position, price) / left
