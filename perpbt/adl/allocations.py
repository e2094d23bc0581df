"""Which winners are closed, and how much of each, when a bankrupt position finds no buyer.

One function each, found by its name; a variant of it is named after a colon ("pro_rata:equity"). In:
`Candidates` and a quantity. Out: the quantity closed of each, in contracts and not yet in lots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import numpy as np

from perpbt.adl.candidates import Candidates, Floats
from perpbt.adl.filling import fill_by_weight, fill_in_order, fill_to_level, in_lots, total
from perpbt.adl.rankings import RANKINGS, find_ranking
from perpbt.errors import InputError


@dataclass(frozen=True)
class Allocation:
    """A way to spread a quantity, and the variants it comes in, the first its default."""

    function: Callable[..., Floats]
    variants: tuple[str, ...]
    options: tuple[str, ...]


ALLOCATIONS: dict[str, Allocation] = {}


def allocation(
    *variants: str, options: tuple[str, ...] = ()
) -> Callable[[Callable[..., Floats]], Callable[..., Floats]]:
    """Make a function (candidates, quantity, variant, **options) known as an allocation under its name."""

    def register(function: Callable[..., Floats]) -> Callable[..., Floats]:
        ALLOCATIONS[function.__name__] = Allocation(function, variants, options)
        return function

    return register


@allocation(*RANKINGS)
def queue(candidates: Candidates, quantity: float, variant: str) -> Floats:
    """One after another, by a venue's ranking; ties by identifier."""
    score = find_ranking(variant)(candidates)
    return fill_in_order(candidates.quantity, score, quantity, candidates.identifier)


def weights(candidates: Candidates, space: str) -> Floats:
    """What each gives in proportion to: "profit" ((PnL)+ at mark), "equity" ((equity)+), both money, or
    "contracts" (quantity).
    """
    if space == "profit":
        return np.maximum(candidates.profit(), 0.0)
    return np.maximum(candidates.equity(), 0.0) if space == "equity" else candidates.quantity


@allocation("profit", "equity", "contracts")
def pro_rata(candidates: Candidates, quantity: float, variant: str) -> Floats:
    """In proportion to profit, equity or contracts, none more than he has; who has no weight comes last.

    Source: Chitra, Autodeleveraging: Impossibilities and Optimization, arXiv 2512.01112 v3.
    """
    return fill_by_weight(candidates.quantity, weights(candidates, variant), quantity)


@allocation("profit", "equity", "contracts", options=("cap",))
def capped_pro_rata(candidates: Candidates, quantity: float, variant: str, cap: float = 0.5) -> Floats:
    """In proportion, but of nobody more than the fraction `cap` of his position as long as others have room.

    min(cap·quantity, t·weight); only what all caps together do not let through is taken from above them, in
    the same proportion. Source as for `pro_rata`: of all ways within the caps the one that minimises the sum of
    weight·f(share) for every strictly convex f.
    """
    return _capped(candidates.quantity, weights(candidates, variant), quantity, cap)


@allocation("linear", "power", "cvar", options=("cap", "threshold"))
def risk_aware(
    candidates: Candidates, quantity: float, variant: str, cap: float = 1.0, threshold: float = 0.9
) -> Floats:
    """More of whom more leverage endangers: in proportion to equity·l·g(l), l = notional / equity.

    g(l) = l ("linear"), l² ("power") or (l - threshold)+ ("cvar"); `cap` as for `capped_pro_rata`. Whoever
    has no equity comes first. Source: RAP of arXiv 2512.01112 v3.
    """
    return _capped(candidates.quantity, risk_weights(candidates, variant, threshold), quantity, cap)


def risk_weights(candidates: Candidates, g: str, threshold: float = 0.9) -> Floats:
    """equity·l·g(l), which is notional·g(l), money; infinite without equity, 0 without a position."""
    leverage, notional = candidates.leverage(), candidates.notional()
    shapes = {"linear": leverage, "power": leverage * leverage, "cvar": np.maximum(leverage - threshold, 0.0)}
    shape = shapes[g]
    weight = np.zeros(len(candidates))
    np.multiply(notional, shape, out=weight, where=(notional > 0.0) & (shape > 0.0))
    return weight


def _capped(capacity: Floats, weight: Floats, quantity: float, cap: float) -> Floats:
    if not 0.0 < cap <= 1.0:
        raise InputError(f"cap is {cap!r}; allowed: more than 0, at most 1 (a fraction of the position)")
    limit = cap * capacity
    given = fill_by_weight(limit, weight, quantity)
    beyond = quantity - total(limit)
    return given if beyond <= 0.0 else limit + fill_by_weight(capacity - limit, weight, beyond)


@allocation()
def water_filling(candidates: Candidates, quantity: float, variant: str) -> Floats:
    """Down from the highest leverage until all that are touched have the same; closed at mark.

    Source: Campbell, Hey, Moallemi, Nutz, Risk-Based Auto-Deleveraging, arXiv 2603.15963.
    """
    return fill_to_level(candidates.quantity, candidates.equity(), candidates.mark, quantity)


def list_policies() -> list[str]:
    """All names `allocate` takes, variants spelled out."""
    names = []
    for name, one in ALLOCATIONS.items():
        names += [f"{name}:{variant}" for variant in one.variants] or [name]
    return names


def find_policy(policy: str) -> tuple[Allocation, str]:
    """The allocation of that name and its variant; InputError names those there are.

    A ranking's own name is the queue by it.
    """
    name, _, variant = (f"queue:{policy}" if policy in RANKINGS else policy).partition(":")
    if name not in ALLOCATIONS:
        raise InputError(f"policy is {policy!r}; allowed: {', '.join(list_policies())}")
    one = ALLOCATIONS[name]
    if variant and variant not in one.variants:
        known = ", ".join(f"{name}:{known}" for known in one.variants) or name
        raise InputError(f"policy is {policy!r}; allowed: {known}")
    return one, variant or (one.variants[0] if one.variants else "")


def allocate(
    policy: str, candidates: Candidates, quantity: float, *, lot: float | None = None, **options: float
) -> Floats:
    """How much of each candidate is closed, quantity in base units, in the order of `candidates`.

    Between 0 and the candidate's quantity, in sum `quantity` (to rounding) or all there is. `policy` is a name
    of `list_policies()`, without its variant ("pro_rata", the first one), or a ranking's ("okx" is
    "queue:okx"). With `lot` whole lots are closed and rounding down loses nothing: a part of `quantity` below
    a lot and odd parts of positions go last. `options` are the policy's own: `cap`, `threshold`.

    All candidates are meant to be winners (`winners` picks them); their order does not matter.

    >>> allocate("bitmex", candidates, 20.0)

    Raises InputError for an unknown policy or option and for a quantity or lot out of range.
    """
    one, variant = find_policy(policy)
    for key in options:
        if key not in one.options:
            raise InputError(f"{policy}: no option {key!r}; allowed: {', '.join(one.options) or 'none'}")
    if not (isinstance(quantity, Real) and 0.0 <= quantity < np.inf):
        raise InputError(f"quantity is {quantity!r}; allowed: finite numbers of at least 0")
    if lot is not None and not (isinstance(lot, Real) and 0.0 < lot < np.inf):
        raise InputError(f"lot is {lot!r}; allowed: finite numbers above 0")
    given = one.function(candidates, float(quantity), variant, **options)
    if lot is None:
        return given
    return in_lots(given, candidates.quantity, float(quantity), float(lot), candidates.identifier)
