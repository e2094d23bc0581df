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
from .tables import CAP, DEDUCTION, FLOOR, RATE, Rates

SLACK = 1e-9  # far above rounding


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
    extra: float  # asked for beyond the tiers, of mark notional: to close out, and what grows with size (at most: see `growing`)
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
def band_rate(rates: Rates, notional: float) -> float:
    """Of risk-limit steps, the rate for a whole position of this notional; the last one above the last cap."""
    return rates.tiers[min(tier_of(rates, notional), rates.tiers.shape[0] - 1), RATE]


@part
def growing(rates: Rates) -> bool:
    """Does the rate grow with a size that the mark moves, the value in coin of an inverse contract?

    Then what must be kept is no line but a parabola, N (r + g N). `Position.extra` bounds its rate over the whole run, so that lines and
    guard ask for too much, never for too little; what is decided is decided by `outgrown`.
    """
    return rates.per_unit > 0.0 and rates.terms.inverse and not rates.entry_maintenance


@part
def line(rates: Rates, k: int, position: Position) -> tuple[float, float]:
    """Rate r_k of maintenance line k, and the level K at which it liquidates: when (P(1 -/+ r_k)) - CF is
    beyond K.
    """
    if rates.entry_maintenance:  # one line, which the mark does not tilt
        rate, deduction = position.extra, -position.kept
    else:
        rate, deduction = rates.tiers[k, RATE] + position.extra, rates.tiers[k, DEDUCTION]
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
    extra, size = rates.close_out_rate, quantity
    if rates.terms.inverse and rates.per_unit > 0.0:
        size = quantity * entry if rates.entry_maintenance else quantity * max(entry, highest_mark)
    grown = rates.per_unit * size
    if rates.entry_maintenance:
        at_entry = quantity * entry
        tiers, kept = 0, maintenance(rates, at_entry, rates.tiers.shape[0])
        if rates.whole:
            kept = at_entry * band_rate(rates, at_entry)
        kept = kept + grown * at_entry
    else:
        extra = extra + grown
    bare = Position(
        side, quantity, entry, margin, funding, lines, tiers, kept, extra, 0.0, 0.0, stop, target, trail
    )
    steepest, nearest = -np.inf, -np.inf
    for k in range(lines):
        rate, level = line(rates, k, bare)
        steepest, nearest = max(steepest, rate), max(nearest, side * level)
    nearest += tick_room(rates.terms, highest_mark)
    factor = 1.0 - side * steepest
    if growing(rates):
        nearest += SLACK * (((entry + highest_mark) + margin / quantity) + abs(funding))
        if not factor > 0.0:  # no line that is above the parabola is of use: look at every bar
            factor, nearest = 0.0, np.inf
    return Position(
        side,
        quantity,
        entry,
        margin,
        funding,
        lines,
        tiers,
        kept,
        extra,
        factor,
        nearest,
        stop,
        target,
        trail,
    )


@part
def crosses(rates: Rates, k: int, position: Position, price: float, funding: float) -> bool:
    """Is line k crossed at this mark price? Exactly A <= K (long) or A >= K (short); with ticks at or beyond its price on one."""
    if rates.terms.tick_per != 0.0:
        return position.side * price <= position.side * line_price(rates, k, position, funding)
    rate, level = line(rates, k, position)
    return position.side * ((price * (1.0 - position.side * rate)) - funding) <= position.side * level


@part
def line_price(rates: Rates, k: int, position: Position, funding: float) -> float:
    """The mark at which line k is met, on a tick if there are any."""
    rate, level = line(rates, k, position)
    return on_tick(rates.terms, position.side, (level + funding) / (1.0 - position.side * rate))


@part
def banded(rates: Rates, position: Position) -> bool:
    """Does one line hold at a time, that of the band the mark puts the position in?"""
    return rates.whole and position.tiers > 0


@part
def liquidated(rates: Rates, position: Position, price: float, funding: float) -> bool:
    """Is the position liquidated at this mark price? With ticks: at or beyond its liquidation price."""
    if growing(rates) and position.tiers > 0:
        return outgrown(rates, position, price, funding)
    if banded(rates, position):
        k = min(tier_of(rates, position.quantity * price), rates.tiers.shape[0] - 1)
        return crosses(rates, k, position, price, funding)
    if rates.terms.tick_per != 0.0:
        return position.side * price <= position.side * liquidation_price(
            rates, position, funding, position.lines, 0.0, np.inf
        )
    for k in range(position.lines):
        rate, level = line(rates, k, position)
        if position.side * ((price * (1.0 - position.side * rate)) - funding) <= position.side * level:
            return True
    return False


@part
def stretch(rates: Rates, k: int, quantity: float, low: float, high: float) -> tuple[float, float]:
    """The prices in [low, high] at which a position is in band k: the lowest and the highest."""
    bottom, top = max(low, rates.tiers[k, FLOOR] / quantity), high
    if k + 1 < rates.tiers.shape[0]:
        top = min(high, rates.tiers[k, CAP] / quantity)
    return bottom, top


@part
def liquidated_between(rates: Rates, position: Position, low: float, high: float, funding: float) -> bool:
    """Is the position liquidated at a price of the mark's range?

    A loss is worst at the adverse end. With risk-limit steps a long's need also falls on the way there, from band to band: each is
    tested at the lowest price inside it.
    """
    if position.side < 0.0:
        return liquidated(rates, position, high, funding)
    if growing(rates) and position.tiers > 0 and outgrown(rates, position, high, funding):
        return True
    if not banded(rates, position):
        return liquidated(rates, position, low, funding)
    for k in range(rates.tiers.shape[0]):
        bottom, top = stretch(rates, k, position.quantity, low, high)
        if bottom <= top and crosses(rates, k, position, bottom, funding):
            return True
    return False


@part
def liquidation_price(
    rates: Rates, position: Position, funding: float, lines: int, low: float, high: float
) -> float:
    """The first mark price at which a position is liquidated: highest over lines for a long, lowest for a
    short. With risk-limit steps the range decides which bands a long is in.
    """
    if growing(rates) and position.tiers > 0:
        return outgrown_price(rates, position, funding, low)
    if banded(rates, position):
        return banded_price(rates, position, funding, low, high)
    nearest = -np.inf
    for k in range(lines):
        rate, level = line(rates, k, position)
        nearest = max(nearest, position.side * ((level + funding) / (1.0 - position.side * rate)))
    return on_tick(rates.terms, position.side, position.side * nearest)


@part
def banded_price(rates: Rates, position: Position, funding: float, low: float, high: float) -> float:
    """`liquidation_price` with risk-limit steps; of a long that no price in [low, high] liquidates, the root in the first band."""
    side, bands = position.side, rates.tiers.shape[0]
    nearest = -np.inf
    for k in range(bands):
        root = line_price(rates, k, position, funding)
        bottom, top = stretch(rates, k, position.quantity, 0.0, np.inf)
        if side < 0.0:
            if max(root, bottom) <= top:
                nearest = max(nearest, -max(root, bottom))
            continue
        bottom, top = max(low, bottom), min(high, top)
        if bottom <= top and crosses(rates, k, position, bottom, funding):
            nearest = max(nearest, min(root, top))
    if nearest == -np.inf:
        return line_price(rates, 0, position, funding)
    return side * nearest


@part
def outgrown(rates: Rates, position: Position, price: float, funding: float) -> bool:
    """`liquidated` where the rate grows with the mark: equity against what must be kept, as they stand."""
    if rates.terms.tick_per != 0.0 and position.side * price <= position.side * outgrown_price(
        rates, position, funding, 0.0
    ):
        return True
    return equity(position, price, funding) <= requirement(rates, position, price)


@part
def outgrown_price(rates: Rates, position: Position, funding: float, low: float) -> float:
    """`liquidation_price` where the rate grows with the mark: a root of s g Q P^2 - (1 - s r) P + K + CF = 0.

    The one on the losing side; of a position on the mirror's long side that a range from `low` met on the winning side alone, the other.
    """
    side, growth = position.side, rates.per_unit * position.quantity
    rate, level = rates.tiers[0, RATE] + rates.close_out_rate, line(rates, 0, position)[1] + funding
    slope = 1.0 - side * rate
    square = slope * slope - side * ((4.0 * growth) * level)
    if level <= 0.0:
        nearest = on_tick(rates.terms, side, level / slope)
    elif square < 0.0:
        nearest = np.inf  # at every price
    else:
        nearest = on_tick(rates.terms, side, (2.0 * level) / (slope + np.sqrt(square)))
    beyond = side > 0.0 and low > 0.0 and (rates.terms.tick_per == 0.0 or low > nearest)
    if beyond and equity(position, low, funding) > requirement(rates, position, low):
        return (slope + np.sqrt(max(square, 0.0))) / (2.0 * growth)
    return nearest


@part
def liquidation_price_at_entry(rates: Rates, position: Position) -> float:
    """The liquidation price when a position is opened, over all tiers; of risk-limit steps, below the entry price for a long."""
    lines = 1 if rates.entry_maintenance else rates.tiers.shape[0]
    return liquidation_price(rates, position, position.funding, lines, 0.0, position.entry)


@part
def equity(position: Position, price: float, funding: float) -> float:
    """E of MODEL §4: margin + price PnL - funding paid."""
    signed = position.side * position.quantity
    return (position.margin + signed * (price - position.entry)) - signed * (funding - position.funding)


@part
def requirement(rates: Rates, position: Position, price: float) -> float:
    """Maintenance plus close-out cost at a mark price."""
    notional = position.quantity * price
    if rates.whole or rates.per_unit > 0.0:  # not by lines
        if banded(rates, position):
            return notional * band_rate(rates, notional) + position.extra * notional
        if growing(rates):
            kept = notional * rates.tiers[0, RATE] - rates.tiers[0, DEDUCTION]
            return (kept + rates.close_out_rate * notional) + (rates.per_unit * notional) * notional
    needed = position.kept
    for k in range(position.tiers):
        needed = max(needed, notional * rates.tiers[k, RATE] - rates.tiers[k, DEDUCTION])
    return needed + position.extra * notional


@part
def margin_ratio(rates: Rates, position: Position, price: float, funding: float) -> float:
    """Requirement over equity, as venues display it: 1 is liquidation. Infinite once nothing is left."""
    left = equity(position, price, funding)
    if left <= 0.0:
        return np.inf
    return requirement(rates, position, price) / left
