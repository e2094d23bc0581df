"""[portfolio]: the scenarios a portfolio margin account is held against, and its minimum charge (OKX).

Symbols with one `unit` name are one risk unit (none: each its own), in which opposite legs net. With V the net value of a unit, and L and
S the values of its long and short legs, what it must keep is

    max(max(MR1, MR6) + MR4, MR7)   MR1 = max over shocks x of |x V|   MR6 = extreme_weight * |extreme V|   MR4 = basis * min(L, S)

and MR7 is the minimum charge: `minimum` times the gross value, each part of that sum times the multiplier of the tier it is in: up to
`minimum_caps[0]` the first of `minimum_multipliers`, and so on. MR2, MR3 and MR5 (decay, volatility and interest rates of options) are 0
for what is simulated. In a coin-margined account values and their changes are in coin: a move x of the price changes what an inverse
contract is worth by 1 / (1 + x) - 1 of it, which stands for x there; a unit is of inverse contracts alone, or of none. All of a unit's numbers but `minimum` must be the same for each of its symbols.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import model_validator

from perpbt.config.fields import Range, Spec, fault

Move = Annotated[float, Range(above=0, below=1)]
Rate = Annotated[float, Range(least=0, below=1)]


class PortfolioTerms(Spec):
    """The keys of the table; fractions of value, caps in settlement currency."""

    shocks: tuple[Move, ...]
    """Price moves, each up and down."""
    extreme: Rate = 0.0
    """The extreme price move, up and down."""
    extreme_weight: Annotated[float, Range(least=0, most=1)] = 0.5
    """Share of an extreme move's loss that counts."""
    basis: Rate = 0.0
    """Move of one leg's price against that of an opposite leg."""
    minimum: Rate = 0.0
    """Raw minimum charge on gross value."""
    minimum_caps: tuple[Annotated[float, Range(above=0)], ...] = ()
    minimum_multipliers: tuple[Annotated[float, Range(least=0)], ...] = (1.0,)
    unit: str = ""
    """Name of the risk unit; empty: the symbol by itself."""

    @model_validator(mode="after")
    def _agree(self) -> PortfolioTerms:
        if not self.shocks:
            raise fault("shocks: empty; must be price moves in (0, 1)")
        if len(self.minimum_multipliers) != len(self.minimum_caps) + 1:
            raise fault("minimum_multipliers: must be one more than minimum_caps, the last for all above")
        if any(low >= high for low, high in pairwise(self.minimum_caps)):
            raise fault("minimum_caps: must rise")
        return self

    def of_unit(self) -> tuple[object, ...]:
        """What all symbols of a unit have in common."""
        return (
            self.shocks,
            self.extreme,
            self.extreme_weight,
            self.basis,
            self.minimum_caps,
            self.minimum_multipliers,
        )


def parse(values: Mapping[str, Any]) -> PortfolioTerms:
    """Check [portfolio]. Raises InputError."""
    return PortfolioTerms(**values)
