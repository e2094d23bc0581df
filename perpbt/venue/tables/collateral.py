"""[collateral]: what an asset other than cash counts for behind a shared wallet. `[collateral.ASSET]` is about one asset.

Of an amount, the part up to `caps[0]` counts at price less the first of `haircuts`, and so on. `price`: the symbol whose mark is the
asset's price; empty: the run is given a series of prices (a stablecoin that may leave its peg). Where cash runs out, assets are sold in
ascending `order` at price less `conversion_fee`. `nets`: in portfolio margin the asset is one more leg of the risk unit of its symbol.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import model_validator

from perpbt.config.fields import Range, Spec, Truth, fault


class CollateralTerms(Spec):
    """The keys of the table; `caps` in units of the asset."""

    haircuts: tuple[Annotated[float, Range(least=0, most=1)], ...] = (0.0,)
    caps: tuple[Annotated[float, Range(above=0)], ...] = ()
    order: Annotated[float, Range(least=0)] = 0.0
    conversion_fee: Annotated[float, Range(least=0, below=1)] = 0.0
    price: str = ""
    nets: Truth = False

    @model_validator(mode="after")
    def _agree(self) -> CollateralTerms:
        if len(self.haircuts) != len(self.caps) + 1:
            raise fault("haircuts: must be one more than caps, the last for all above")
        if any(low >= high for low, high in pairwise(self.caps)):
            raise fault("caps: must rise")
        if self.nets and not self.price:
            raise fault("nets: needs price, the symbol it is netted with")
        return self

    def counted(self, amount: float) -> float:
        """The amount after the haircut."""
        total, floor = 0.0, 0.0
        for haircut, cap in zip(self.haircuts, (*self.caps, float("inf")), strict=True):
            if amount > floor:
                total += (min(amount, cap) - floor) * (1.0 - haircut)
            floor = cap
        return total


def parse(values: Mapping[str, Any]) -> CollateralTerms:
    """Check [collateral]. Raises InputError."""
    return CollateralTerms(**values)
