"""One venue or several: what spreading over venues does to losses when venues fail, and what it costs when margins are apart.

Closed forms. Venues fail in a one-factor model: each with the same probability, their latent variables correlated by `correlation`;
what is held is split equally. Rates and losses are shares of what is held.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from perpbt.errors import InputError

NORMAL = NormalDist()
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


def share_lost_variance(probability: float, correlation: float, venues: int) -> float:
    """Variance of the share that is lost, whose mean is `probability` however many `venues` there are:
    (p (1 - p) + (N - 1)(Φ2(c, c; ρ) - p²)) / N with c = Φ⁻¹(p).
    """
    threshold = _threshold(probability, correlation, venues)
    joint = probability**2 + _beyond_independence(threshold, correlation)
    return (probability * (1.0 - probability) + (venues - 1) * (joint - probability * probability)) / venues


def all_fail(probability: float, correlation: float, venues: int) -> float:
    """Probability that every one of the `venues` fails, and all is lost: the mean over the factor z of Φ((c - sqrt(ρ) z) / sqrt(1 - ρ))^N."""
    threshold = _threshold(probability, correlation, venues)
    reach, spread = 10.0, math.sqrt(1.0 - correlation)
    factor = reach * _NODES
    given = [NORMAL.cdf((threshold - math.sqrt(correlation) * z) / spread) for z in factor.tolist()]
    density = np.exp(-factor * factor / 2.0) / math.sqrt(2.0 * math.pi)
    return float(reach * np.sum(_WEIGHTS * density * np.array(given) ** venues))


def share_lost_at_most(share: float, probability: float, correlation: float) -> float:
    """Probability that at most `share` is lost over very many venues: Φ((sqrt(1 - ρ) Φ⁻¹(x) - Φ⁻¹(p)) / sqrt(ρ)), Vasicek's law."""
    threshold = _threshold(probability, correlation, 1)
    if not 0.0 < share < 1.0:
        raise InputError(f"share is {share!r}; allowed: above 0, below 1")
    if correlation == 0.0:
        return float(share >= probability)
    return NORMAL.cdf(
        (math.sqrt(1.0 - correlation) * NORMAL.inv_cdf(share) - threshold) / math.sqrt(correlation)
    )


def leg_liquidated(leverage: float, maintenance: float, sigma: float, days: float) -> float:
    """Probability that a hedge held in two parts, long on one venue and short on another, loses a leg within `days`: netted on one venue it
    never would.

    Both legs isolated, of the same `leverage` (above 1) and `maintenance` (a fraction at mark), on a price without drift of volatility `sigma` a
    year of 365 days: the two-sided exit of its logarithm from ln((1 - 1/L)/(1 - m)) to ln((1 + 1/L)/(1 + m)), watched at all times.
    """
    for name, value, least in (("leverage", leverage, 1.0), ("sigma", sigma, 0.0), ("days", days, 0.0)):
        if not (math.isfinite(value) and value > least):
            raise InputError(f"{name} is {value!r}; allowed: finite numbers above {least:g}")
    if not 0.0 <= maintenance < 1.0 / leverage:
        raise InputError(
            f"maintenance is {maintenance!r}; allowed: 0 to below 1 / leverage, {1.0 / leverage!r}"
        )
    above = math.log((1.0 + 1.0 / leverage) / (1.0 + maintenance))
    below = -math.log((1.0 - 1.0 / leverage) / (1.0 - maintenance))
    return 1.0 - _stays(above, below, -sigma * sigma / 2.0, sigma, days / 365.0)


def _stays(above: float, below: float, drift: float, sigma: float, time: float) -> float:
    """Probability that a Brownian motion with drift stays between -below and above: the eigenfunction series, as long as its terms matter."""
    width, tilt, spread = above + below, drift / (sigma * sigma), sigma * sigma * time / 2.0
    terms = []
    for k in range(1, 100_000):
        wave = k * math.pi / width
        fade = math.exp(-wave * wave * spread)
        ends = 1.0 - (-1) ** k * math.exp(tilt * width)
        terms.append(math.sin(wave * below) * wave * ends / (tilt * tilt + wave * wave) * fade)
        if fade < 1e-18:
            break
    return (
        2.0
        / width
        * math.exp(-tilt * below - drift * drift * time / (2.0 * sigma * sigma))
        * math.fsum(terms)
    )


def _threshold(probability: float, correlation: float, venues: int) -> float:
    if not 0.0 < probability < 1.0:
        raise InputError(f"probability is {probability!r}; allowed: above 0, below 1")
    if not 0.0 <= correlation < 1.0:
        raise InputError(f"correlation is {correlation!r}; allowed: 0 to below 1")
    if not (isinstance(venues, int) and venues >= 1):
        raise InputError(f"venues is {venues!r}; allowed: whole numbers of at least 1")
    return NORMAL.inv_cdf(probability)


def _beyond_independence(threshold: float, correlation: float) -> float:
    """Φ2(c, c; ρ) - Φ(c)²: the integral of the density over the correlation, with t = sin of an angle."""
    most = math.asin(correlation)
    angle = most / 2.0 * (_NODES + 1.0)
    density = np.exp(-threshold * threshold / (1.0 + np.sin(angle))) / (2.0 * math.pi)
    return float(most / 2.0 * np.sum(_WEIGHTS * density))
