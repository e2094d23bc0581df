"""Where a cascade comes to rest, by closed form: longs whose thresholds lie evenly below the price, with a notional `density` a unit of relative distance,
all closed as far as the price falls. Simulated: `perpbt.simulate(..., coupling={"kind": "cascade", "pressure": {...}})`.
"""

from __future__ import annotations

import math

from perpbt.errors import InputError


def branching_ratio(impact: float, density: float, closed: float = 1.0) -> float:
    """What one unit sold brings down: n = closed·impact·density, for an `impact` in relative price per notional and a fraction `closed` of each
    position. Tiers that stretch thresholds change it in proportion to the density near the price.
    """
    _at_least_zero(impact=impact, density=density, closed=closed)
    return closed * impact * density


def linear_cascade(shock: float, ratio: float) -> float:
    """The whole fall after a first one of `shock` under linear impact: shock / (1 - n); infinite from a branching ratio of 1 on, until nobody is left."""
    _at_least_zero(shock=shock, ratio=ratio)
    if shock == 0.0:
        return 0.0
    return shock / (1.0 - ratio) if ratio < 1.0 else math.inf


def square_root_cascade(shock: float, strength: float, density: float) -> float:
    """The whole fall under impact strength·sqrt(volume): ((k sqrt(ρ) + sqrt(k² ρ + 4 shock)) / 2)². As the shock vanishes it tends to k² ρ, not to 0."""
    _at_least_zero(shock=shock, strength=strength, density=density)
    slope = strength * math.sqrt(density)
    return ((slope + math.sqrt(slope * slope + 4.0 * shock)) / 2.0) ** 2


def _at_least_zero(**amounts: float) -> None:
    for name, amount in amounts.items():
        if not (math.isfinite(amount) and amount >= 0.0):
            raise InputError(f"{name} is {amount!r}; allowed: finite numbers of at least 0")
