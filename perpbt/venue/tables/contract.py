"""[contract]: what one contract is, and the steps its prices and quantities come in.

`kind`: "linear", settled in the quote currency; "inverse", `multiplier` units of the quote currency settled in the coin (tiers, fees
and funds of such a venue are then in coin); "quanto", settled in a coin at a fixed `multiplier`. `tick` and `lot`, in contracts, round
only where the rules of a run say `rounding`: what is opened is whole lots, and stops, take-profits and liquidation prices
stand on ticks, up for a long, down for a short. Trailing stops, which venues take as a rate, and the fraction a margin call closes
are not rounded. `settlement` names the currency of the money, where the symbol does not. `volume` says
what the bars of this venue count a volume in, "base" or "contracts".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import model_validator

from perpbt.config.fields import Range, Spec, fault
from perpbt.contracts import Contract


class ContractTerms(Spec):
    """The keys of the table."""

    kind: Literal["linear", "inverse", "quanto"] = "linear"
    multiplier: Annotated[float, Range(above=0)] = 1.0
    tick: Annotated[float, Range(above=0)] | None = None
    lot: Annotated[float, Range(above=0)] | None = None
    settlement: str = ""
    volume: Literal["", "base", "contracts"] = ""

    @model_validator(mode="after")
    def _agree(self) -> ContractTerms:
        if self.kind == "quanto" and self.volume == "base":
            raise fault('volume: must be "contracts" with kind = "quanto"')
        if self.kind == "quanto" and not self.settlement:
            raise fault(
                "settlement: missing; a quanto contract is settled in a coin its symbol does not tell"
            )
        return self


def parse(values: Mapping[str, Any]) -> Contract:
    """Check [contract]. Raises InputError."""
    return Contract(**dict(ContractTerms(**values)))
