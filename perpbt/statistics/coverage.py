"""Does a margin cover what it says? Backtests of the times it was exceeded.

In: a truth value an observation, oldest first (exceeded or not), and the share that should be. Out: statistics with their
p-values. 0 ln 0 is 0 throughout. Observations of accounts that share a price path are one observation: feed margins of a
symbol, not accounts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from perpbt.errors import InputError

GREEN, YELLOW = 0.95, 0.9999  # cumulative probabilities at which the Basel zones end


class Kupiec(NamedTuple):
    """`ratio` is -2 ln of the likelihood ratio, `p_value` its by chi-squared with one degree of freedom; `exact` the two-sided
    binomial p-value: the chance of a count no likelier than the one seen. At 1 % of 1,000 the former's true size is 5.5 %, not 5 %.
    """

    observations: int
    exceeded: int
    ratio: float
    p_value: float
    exact: float


class Christoffersen(NamedTuple):
    """Likelihood ratios of independence, against a chain in which one exceedance changes the chance of the next, and of coverage
    and independence together.
    """

    independence: float
    independence_p_value: float
    conditional: float
    conditional_p_value: float


class TrafficLight(NamedTuple):
    """The Basel zone of a count, and the chance of at most so many."""

    zone: str
    cumulative: float


def kupiec(exceeded: Sequence[bool], share: float) -> Kupiec:
    """Proportion of failures (Kupiec, Techniques for verifying the accuracy of risk measurement models, 1995).

    Raises InputError for no observations, or a share outside (0, 1).
    """
    count, hits = _counted(exceeded, share)
    ratio = -2.0 * (_log_likelihood(hits, count, share) - _log_likelihood(hits, count, hits / count))
    return Kupiec(
        count,
        hits,
        max(ratio, 0.0),
        math.erfc(math.sqrt(max(ratio, 0.0) / 2.0)),
        exact_p_value(hits, count, share),
    )


def exact_p_value(hits: int, count: int, share: float) -> float:
    """Two-sided binomial: the total probability of counts no likelier than `hits`, to one part in ten million."""
    chances = [binomial(k, count, share) for k in range(count + 1)]
    return min(1.0, math.fsum(one for one in chances if one <= chances[hits] * (1.0 + 1e-7)))


def binomial(hits: int, count: int, share: float) -> float:
    """The chance of exactly `hits` exceedances of `count`."""
    ways = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return math.exp(ways + hits * math.log(share) + (count - hits) * math.log1p(-share))


def christoffersen(exceeded: Sequence[bool], share: float) -> Christoffersen:
    """Do exceedances come alone? (Christoffersen, Evaluating interval forecasts, International Economic Review 39, 1998.)

    Independence uses the pairs of neighbours, one fewer than the observations. Raises InputError as `kupiec`.
    """
    first = kupiec(exceeded, share)
    flags = [bool(one) for one in exceeded]
    pairs = list(pairwise(flags))
    seen = {key: pairs.count(key) for key in ((False, False), (False, True), (True, False), (True, True))}
    after_quiet = seen[False, False] + seen[False, True]
    after_hit = seen[True, False] + seen[True, True]
    hits = seen[False, True] + seen[True, True]
    alike = _log_likelihood(hits, len(pairs), hits / max(len(pairs), 1))
    apart = _log_likelihood(seen[False, True], after_quiet, seen[False, True] / max(after_quiet, 1))
    apart += _log_likelihood(seen[True, True], after_hit, seen[True, True] / max(after_hit, 1))
    ratio = max(-2.0 * (alike - apart), 0.0)
    both = first.ratio + ratio
    return Christoffersen(ratio, math.erfc(math.sqrt(ratio / 2.0)), both, math.exp(-both / 2.0))


def traffic_light(hits: int, count: int = 250, share: float = 0.01) -> TrafficLight:
    """The zone of the Basel Committee's backtesting framework (1996): green below a cumulative probability of 95 %, red from
    99.99 %. With 250 days at 1 %: green to 4, yellow to 9.
    """
    if not 0 <= hits <= count or count < 1:
        raise InputError(f"exceeded = {hits} of {count}: must be 0 to the number of observations, at least 1")
    if not 0.0 < share < 1.0:
        raise InputError(f"share = {share!r}: must be in (0, 1)")
    cumulative = min(1.0, math.fsum(binomial(k, count, share) for k in range(hits + 1)))
    zone = "green" if cumulative < GREEN else "yellow" if cumulative < YELLOW else "red"
    return TrafficLight(zone, cumulative)


def _counted(exceeded: Sequence[bool], share: float) -> tuple[int, int]:
    if not 0.0 < share < 1.0:
        raise InputError(f"share = {share!r}: must be in (0, 1)")
    if len(exceeded) == 0:
        raise InputError("exceeded: no observations; allowed: one at least")
    return len(exceeded), sum(bool(one) for one in exceeded)


def _log_likelihood(hits: int, count: int, share: float) -> float:
    """Of a count, but for the binomial coefficient."""
    hit = hits * math.log(share) if hits else 0.0
    return hit + ((count - hits) * math.log1p(-share) if hits < count else 0.0)
