"""Margin of one position in an inverse contract: equity, what it must keep, the liquidation test and price, in readings 1/P (§4).

For a long readings rise as it loses. A rate that grows with size reads the value in coin at the mark: what must be kept is then no line
but a parabola in the reading, E is compared with it as it stands, and a short, whose coin grows worth less faster than its rate grows
while the price rises, meets it again where the price has fallen far.
"""

from __future__ import annotations

import math

from .margin import band, banded, maintenance
from .shapes import Record
from .steps import on_tick

Reading = float  # 1 / price


def reading(price: float) -> Reading:
    """Coin per unit of quote currency."""
    return 1 / price


def price_of(at: Reading) -> float:
    """The price of a reading; infinite where no price reaches it."""
    return 1 / at if at > 0 else math.inf


def ticked(at: Reading, side: int, venue: Record) -> Reading:
    """A level's reading with its price on a tick; one that no price reaches stays."""
    if not venue.get("tick") or not 0 < at < math.inf:
        return at
    price = on_tick(1 / at, side, venue)
    return 1 / price if price > 0 else math.inf


def equity(p: Record, at: Reading, cf: float) -> float:
    """E = m + q (1/entry - 1/P) - q (CF_i - CF_e), in coin."""
    q = p["side"] * p["quantity"]
    return (p["margin"] + q * (p["entry"] - at)) - q * (cf - p["cf_entry"])


def required(p: Record, at: Reading, venue: Record) -> float:
    """Maintenance on the coin value at mark or at entry, plus the close-out rate."""
    notional, per_coin = p["quantity"] * at, venue.get("per_unit", 0.0)
    if venue["maintenance_on"] == "entry":
        return kept_at_entry(p, venue) + venue["close_out_rate"] * notional
    return (maintenance(notional, venue) + venue["close_out_rate"] * notional) + (
        per_coin * notional
    ) * notional


def kept_at_entry(p: Record, venue: Record) -> float:
    """Maintenance on the coin value at entry; a rate that grows with size reads that value too."""
    value = p["quantity"] * p["entry"]
    return maintenance(value, venue) + (venue.get("per_unit", 0.0) * value) * value


def growing(venue: Record) -> bool:
    """Does the rate grow with the value in coin at the mark?"""
    return venue.get("per_unit", 0.0) > 0 and venue["maintenance_on"] == "mark"


def margin_ratio(p: Record, at: Reading, cf: float, venue: Record) -> float:
    """Required over equity, infinite once the equity is gone."""
    left = equity(p, at, cf)
    return required(p, at, venue) / left if left > 0 else math.inf


def lines(p: Record, venue: Record) -> list[tuple[float, float]]:
    """(r, K) of each tier: a long is liquidated when (1/P)(1 + r) + CF >= K, a short when (1/P)(1 - r) + CF <= K."""
    extra, whole = venue["close_out_rate"], venue.get("rule") == "whole"
    tiers = [(tier["rate"] + extra, 0.0 if whole else tier["deduction"]) for tier in venue["tiers"]]
    if venue["maintenance_on"] == "entry":
        tiers = [(extra, -kept_at_entry(p, venue))]
    start = p["entry"] + p["cf_entry"]
    if p["side"] > 0:
        return [(r, start + (p["margin"] + cum) / p["quantity"]) for r, cum in tiers]
    return [(r, start - (p["margin"] + cum) / p["quantity"]) for r, cum in tiers]


def liquidation_reading(
    p: Record, cf: float, venue: Record, least: Reading = 0.0, greatest: Reading | None = None
) -> Reading:
    """The first reading at which it is liquidated: the least over tiers for a long, the greatest for a short.

    With risk-limit steps a short's is the greatest in [least, greatest], by default up to its entry. Where the rate grows it is the first
    on the losing side; of a short that a range met on the winning side alone, where that begins.
    """
    if growing(venue):
        return parabola_reading(p, cf, venue, least)
    if banded(venue):
        return banded_reading(p, cf, venue, least, p["entry"] if greatest is None else greatest)
    if p["side"] > 0:
        return ticked(min((k - cf) / (1 + r) for r, k in lines(p, venue)), 1, venue)
    return ticked(max((k - cf) / (1 - r) for r, k in lines(p, venue)), -1, venue)


def parabola_reading(p: Record, cf: float, venue: Record, least: Reading) -> Reading:
    """`liquidation_reading` where g Q / P^2 is added: a root of s g Q y^2 + (1 + s r) y = K - CF."""
    s, (r, k) = p["side"], lines(p, venue)[0]
    growth, level, slope = venue["per_unit"] * p["quantity"], k - cf, 1 + s * r
    square = slope * slope + s * ((4 * growth) * level)
    if level <= 0:
        nearest = ticked(level / slope, s, venue)
    elif square < 0:
        nearest = math.inf  # at every price
    else:
        nearest = ticked((2 * level) / (slope + math.sqrt(square)), s, venue)
    if s < 0 and least > 0 and not is_liquidated(p, least, cf, venue):
        return (slope + math.sqrt(max(square, 0))) / (2 * growth)
    return nearest


def stretches(
    p: Record, least: Reading, greatest: Reading, venue: Record
) -> list[tuple[float, float, float, float]]:
    """Of risk-limit steps, band by band: (r, K, least, greatest reading in the range at which the band holds)."""
    found = []
    for (r, k), tier in zip(lines(p, venue), venue["tiers"], strict=True):
        top = greatest if tier is venue["tiers"][-1] else min(greatest, tier["cap"] / p["quantity"])
        bottom = max(least, tier["floor"] / p["quantity"])
        if bottom <= top:
            found.append((r, k, bottom, top))
    return found


def banded_reading(p: Record, cf: float, venue: Record, least: Reading, greatest: Reading) -> Reading:
    """`liquidation_reading` of risk-limit steps; of a short that no reading of the range liquidates, that of the first band."""
    if p["side"] < 0:
        found = [
            min(line_reading(p, r, k, cf, venue), top)
            for r, k, bottom, top in stretches(p, least, greatest, venue)
            if crossed(p, bottom, r, k, cf, venue)
        ]
        return max(found) if found else line_reading(p, *lines(p, venue)[0], cf, venue)
    first = math.inf
    for r, k, bottom, top in stretches(p, 0.0, math.inf, venue):
        at = max(line_reading(p, r, k, cf, venue), bottom)
        if at <= top:
            first = min(first, at)
    return first


def line_reading(p: Record, r: float, k: float, cf: float, venue: Record) -> Reading:
    """Where one line is met, its price on a tick if the venue states any."""
    return ticked((k - cf) / (1 + r if p["side"] > 0 else 1 - r), p["side"], venue)


def crossed(p: Record, at: Reading, r: float, k: float, cf: float, venue: Record) -> bool:
    """Of risk-limit steps: is the line of a band crossed? With ticks: at the price on one."""
    if venue.get("tick"):
        return against(p, at, line_reading(p, r, k, cf, venue))
    return (at * (1 + r)) + cf >= k if p["side"] > 0 else (at * (1 - r)) + cf <= k


def is_liquidated(p: Record, at: Reading, cf: float, venue: Record) -> bool:
    """By the lines; with ticks by the liquidation price that stands on one; with risk-limit steps by the line of the band."""
    if p.get("spared"):  # a procedure that acts once a bar has acted
        return False
    known = lines(p, venue)
    if growing(venue):
        on_the_tick = venue.get("tick") and against(p, at, liquidation_reading(p, cf, venue))
        return bool(on_the_tick) or equity(p, at, cf) <= required(p, at, venue)
    if banded(venue):
        r, k = known[venue["tiers"].index(band(p["quantity"] * at, venue))]
        return crossed(p, at, r, k, cf, venue)
    if venue.get("tick"):
        return against(p, at, liquidation_reading(p, cf, venue))
    if p["side"] > 0:
        return any((at * (1 + r)) + cf >= k for r, k in known)
    return any((at * (1 - r)) + cf <= k for r, k in known)


def is_liquidated_between(p: Record, least: Reading, greatest: Reading, cf: float, venue: Record) -> bool:
    """At a reading of the mark's range: at the worst, or, with risk-limit steps, at the least of a band for a short."""
    if p.get("spared"):
        return False
    if p["side"] > 0:
        return is_liquidated(p, greatest, cf, venue)
    if banded(venue):
        return any(
            crossed(p, bottom, r, k, cf, venue) for r, k, bottom, _ in stretches(p, least, greatest, venue)
        )
    if growing(venue) and is_liquidated(p, greatest, cf, venue):
        return True
    return is_liquidated(p, least, cf, venue)


def against(p: Record, at: Reading, threshold: Reading) -> bool:
    """Has a losing price reached the threshold?"""
    return at >= threshold if p["side"] > 0 else at <= threshold
