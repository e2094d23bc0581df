"""Portfolio margin as plain numbers: what one risk unit must keep, scenario by scenario, as OKX publishes it.

In: signed values at mark of the legs of a risk unit, and a venue's table [portfolio]. Out: each part of the requirement, and the whole.
Wallets over history are held against the same sums (`margin="portfolio"`, `perpbt.crossing`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from perpbt.contracts import require
from perpbt.errors import InputError
from perpbt.venue import Venue, load_venue


class PortfolioMargin(NamedTuple):
    """What one risk unit must keep, in settlement currency; MR2, MR3 and MR5 are those of options."""

    spot_shock: float  # MR1
    basis: float  # MR4
    extreme: float  # MR6
    minimum: float  # MR7
    required: float


def portfolio_requirement(
    *, mr1: float = 0.0, mr2: float = 0.0, mr3: float = 0.0, mr4: float = 0.0, mr5: float = 0.0, mr6: float = 0.0, mr7: float = 0.0
) -> float:  # fmt: skip
    """max(max(MR1, MR2, MR6) + MR3 + MR4 + MR5, MR7) of a risk unit. Source: OKX, portfolio margin parameters (2 Jan 2025)."""
    return max(max(mr1, mr2, mr6) + ((mr3 + mr4) + mr5), mr7)


def tiered_minimum(raw: float, tiers: Sequence[tuple[float, float]]) -> float:
    """A raw minimum charge, each part of it times the multiplier of the tier it is in; `tiers` are (upper end, multiplier), rising.

    Beyond the last upper end its multiplier goes on. Source: OKX, portfolio margin parameters. Raises InputError for a negative charge,
    or ends that do not rise.
    """
    require("raw", raw, "in [0, inf)", 0.0 <= raw < math.inf)
    total = floor = 0.0
    for number, (cap, multiplier) in enumerate(tiers):
        require(f"tiers[{number}]", cap, f"above {floor:g}, the end before", cap > floor)
        top = raw if number == len(tiers) - 1 else min(raw, cap)
        total += max(top - floor, 0.0) * multiplier
        floor = cap
    return total


def portfolio_margin(
    legs: Mapping[str, float] | Sequence[tuple[str, float]], venue: str | Venue = "okx", symbol: str | None = None
) -> PortfolioMargin:  # fmt: skip
    """What legs of one risk unit must keep together by a venue's table [portfolio].

    `legs`: symbol and signed value at mark, longs above 0; "" as a symbol is spot held as collateral, which nets and has no minimum
    charge. `symbol`: whose numbers are the unit's (default: the first leg that has a symbol). Raises InputError for a venue without the
    table, or no legs.
    """
    pairs = list(legs.items()) if isinstance(legs, Mapping) else list(legs)
    named = [name for name, _ in pairs if name]
    found = load_venue(venue)
    if not pairs or not (symbol or named):
        raise InputError(f"legs = {legs!r}: must be values by symbol, at least one of a contract")
    terms = found.terms("portfolio", symbol or named[0])
    if terms is None:
        raise InputError(f"venue {found.name!r}: states no [portfolio]")
    net = math.fsum(value for _, value in pairs)
    long = math.fsum(value for _, value in pairs if value > 0.0)
    short = math.fsum(-value for _, value in pairs if value < 0.0)
    raw = math.fsum(
        float(own.minimum if (own := found.terms("portfolio", name)) is not None else terms.minimum)
        * abs(value)
        for name, value in pairs
        if name
    )
    ends = [*terms.minimum_caps, math.inf]
    shock = max(abs(move * net) for move in terms.shocks)
    extreme = terms.extreme_weight * abs(terms.extreme * net)
    basis = terms.basis * min(long, short)
    least = tiered_minimum(raw, list(zip(ends, terms.minimum_multipliers, strict=True)))
    total = portfolio_requirement(mr1=shock, mr4=basis, mr6=extreme, mr7=least)
    return PortfolioMargin(shock, basis, extreme, least, total)
