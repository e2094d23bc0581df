"""Margin of one position: equity, what it must keep, the liquidation test and price: §4 and D3, D9."""

from __future__ import annotations

import math

from .shapes import Record
from .steps import on_tick


def in_force(venue: Record, i: int) -> Record:
    """The venue as it is in bar i: with the tiers of the last of its `epochs`, (first bar, tiers), begun by then."""
    begun = [tiers for first, tiers in venue.get("epochs") or () if first <= i]
    return {**venue, "tiers": begun[-1]} if begun else venue


def band(notional: float, venue: Record) -> Record:
    """The tier that holds a notional; the last one above its cap."""
    tiers: list[Record] = venue["tiers"]
    return next((tier for tier in tiers if notional <= tier["cap"]), tiers[-1])


def maintenance(notional: float, venue: Record) -> float:
    """MM(N) = max_k (N mmr_k - cum_k); of risk-limit steps ("whole") N mmr_k with k the band that holds N."""
    if venue.get("rule") == "whole":
        rate: float = band(notional, venue)["rate"]
        return notional * rate
    return max(notional * tier["rate"] - tier["deduction"] for tier in venue["tiers"])


def grown(quantity: float, venue: Record) -> float:
    """What a rate linear in size adds for `quantity` base units."""
    added: float = venue.get("per_unit", 0.0) * quantity
    return added


def equity(p: Record, price: float, cf: float) -> float:
    """E_i(P) = m + q (P - entry) - q (CF_i - CF_e)."""
    q = p["side"] * p["quantity"]
    return (p["margin"] + q * (price - p["entry"])) - q * (cf - p["cf_entry"])


def terms(p: Record, venue: Record) -> tuple[float, float | None]:
    """What is asked for on top of the tiers, on mark notional; and the maintenance fixed at entry, if it is (D3)."""
    extra, added = venue["close_out_rate"], grown(p["quantity"], venue)
    if venue["maintenance_on"] == "entry":
        at_entry = p["quantity"] * p["entry"]
        return extra, maintenance(at_entry, venue) + added * at_entry
    return extra + added, None


def required(p: Record, price: float, venue: Record) -> float:
    """What E must stay above: maintenance on mark (or entry) notional, plus the close-out rate (D9)."""
    extra, kept = terms(p, venue)
    notional = p["quantity"] * price
    return (maintenance(notional, venue) if kept is None else kept) + extra * notional


def margin_ratio(p: Record, price: float, cf: float, venue: Record) -> float:
    """D9: required over equity; liquidation is at 1, infinite once the equity is gone."""
    left = equity(p, price, cf)
    return required(p, price, venue) / left if left > 0 else math.inf


def liquidation_lines(p: Record, venue: Record) -> list[tuple[float, float]]:
    """§4: the constants (r_k, K_k) of the position; one line if maintenance is on the entry notional (D3)."""
    extra, kept = terms(p, venue)
    if kept is not None:
        tiers = [(extra, -kept)]
    else:
        whole = venue.get("rule") == "whole"
        tiers = [(tier["rate"] + extra, 0.0 if whole else tier["deduction"]) for tier in venue["tiers"]]
    start = p["entry"] - p["cf_entry"]
    if p["side"] > 0:
        return [(r, start - (p["margin"] + cum) / p["quantity"]) for r, cum in tiers]
    return [(r, start + (p["margin"] + cum) / p["quantity"]) for r, cum in tiers]


def stretches(p: Record, low: float, high: float, venue: Record) -> list[tuple[float, float, float, float]]:
    """Of risk-limit steps, band by band: (r, K, lowest, highest price in [low, high] at which the band holds)."""
    found = []
    for (r, k), tier in zip(liquidation_lines(p, venue), venue["tiers"], strict=True):
        last = tier is venue["tiers"][-1]
        bottom = max(low, tier["floor"] / p["quantity"])
        top = high if last else min(high, tier["cap"] / p["quantity"])
        if bottom <= top:
            found.append((r, k, bottom, top))
    return found


def banded(venue: Record) -> bool:
    """Is each band's rate for the whole position, and does the mark move it from band to band?"""
    return venue.get("rule") == "whole" and venue["maintenance_on"] == "mark"


def is_liquidated(p: Record, price: float, cf: float, venue: Record) -> bool:
    """§4: A_i <= K for some tier (long), A_i >= K (short), rounded in this very order; with ticks, by the price on one."""
    if p.get("spared"):  # a procedure that acts once a bar has acted
        return False
    lines = liquidation_lines(p, venue)
    if banded(venue):  # at one price one band holds
        r, k = lines[venue["tiers"].index(band(p["quantity"] * price, venue))]
        return crossed(p, price, r, k, cf, venue)
    if venue.get("tick"):
        return against(p, price, liquidation_price(p, cf, venue))
    if p["side"] > 0:
        return any((price * (1 - r)) - cf <= k for r, k in lines)
    return any((price * (1 + r)) - cf >= k for r, k in lines)


def is_liquidated_between(p: Record, low: float, high: float, cf: float, venue: Record) -> bool:
    """Is there a price of the mark's range at which it is liquidated?

    A loss is worst at the adverse end. With risk-limit steps a long's need also falls there, from band to band: each is tested at
    the lowest price of the range inside it.
    """
    if p.get("spared"):
        return False
    if p["side"] < 0:
        return is_liquidated(p, high, cf, venue)
    if banded(venue):
        return any(crossed(p, bottom, r, k, cf, venue) for r, k, bottom, _ in stretches(p, low, high, venue))
    return is_liquidated(p, low, cf, venue)


def crossed(p: Record, price: float, r: float, k: float, cf: float, venue: Record) -> bool:
    """Of risk-limit steps: is the line of a band crossed? With ticks: at the price on one."""
    if venue.get("tick"):
        return against(p, price, line_price(p, r, k, cf, venue))
    return (price * (1 - r)) - cf <= k if p["side"] > 0 else (price * (1 + r)) - cf >= k


def line_price(p: Record, r: float, k: float, cf: float, venue: Record) -> float:
    """Where one line is met, on a tick if the venue states any."""
    return on_tick((k + cf) / (1 - r if p["side"] > 0 else 1 + r), p["side"], venue)


def liquidation_price(
    p: Record, cf: float, venue: Record, low: float = 0.0, high: float | None = None
) -> float:
    """§4: (K + CF_i) / (1 -+ r_k), the highest over the tiers for a long, the lowest for a short.

    With risk-limit steps the highest price in [low, high] at which a long is liquidated, the lowest at which a short is; high is the
    entry price where it is not given.
    """
    if banded(venue):
        return banded_price(p, cf, venue, low, p["entry"] if high is None else high)
    if p["side"] > 0:
        found = max((k + cf) / (1 - r) for r, k in liquidation_lines(p, venue))
    else:
        found = min((k + cf) / (1 + r) for r, k in liquidation_lines(p, venue))
    return on_tick(found, p["side"], venue)


def banded_price(p: Record, cf: float, venue: Record, low: float, high: float) -> float:
    """`liquidation_price` of risk-limit steps; of a long that no price of the range liquidates, the root in the first band."""
    if p["side"] > 0:
        prices = [
            min(line_price(p, r, k, cf, venue), top)
            for r, k, bottom, top in stretches(p, low, high, venue)
            if crossed(p, bottom, r, k, cf, venue)
        ]
        return max(prices) if prices else line_price(p, *liquidation_lines(p, venue)[0], cf, venue)
    found = math.inf
    for (r, k), tier in zip(liquidation_lines(p, venue), venue["tiers"], strict=True):
        price = max(line_price(p, r, k, cf, venue), tier["floor"] / p["quantity"])
        if tier is venue["tiers"][-1] or price <= tier["cap"] / p["quantity"]:
            found = min(found, price)
    return found


def against(p: Record, price: float, threshold: float) -> bool:
    """Has `price` reached the threshold from the good side (falling for a long)?"""
    return price <= threshold if p["side"] > 0 else price >= threshold
