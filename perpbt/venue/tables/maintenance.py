"""[maintenance]: how a venue reads its tiers as a maintenance margin.

`rule`: "brackets", a schedule like that of a tax, each band's rate for the notional inside it (Binance,
Bybit, Hyperliquid); "whole", risk-limit steps: the rate of the band for the whole position (BitMEX); "size":
the one band's rate plus `per_unit` for every base unit held, or coin of value of an inverse contract (Deribit). With `open_interest_lower` and
`open_interest_upper` the initial margin of a new position rises with the market's open interest (dYdX).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import model_validator

from perpbt.config.fields import Range, Spec, fault


class MaintenanceTerms(Spec):
    """A maintenance rule. The tiers it reads are the venue's."""

    rule: Literal["brackets", "whole", "size"] = "brackets"
    per_unit: Annotated[float, Range(least=0)] = 0.0
    """Rate added, to maintenance and initial margin alike, for each unit of the position's size; "size" only.

    Size is in base units; of an inverse contract its value in coin at the mark, of a quanto its number of contracts."""

    open_interest_lower: Annotated[float, Range(least=0)] = 0.0
    open_interest_upper: Annotated[float, Range(least=0)] = 0.0
    """Open interest between which the initial margin rises to all of the notional (dYdX v4); 0: it does not."""

    @model_validator(mode="after")
    def _agree(self) -> MaintenanceTerms:
        if (self.open_interest_lower or self.open_interest_upper) and not (
            self.open_interest_lower < self.open_interest_upper
        ):
            raise fault("open_interest_lower, open_interest_upper: the lower must be below the upper")
        if self.per_unit > 0.0 and self.rule != "size":
            raise fault('per_unit: only with rule = "size"')
        return self


def parse(values: Mapping[str, Any]) -> MaintenanceTerms:
    """Check [maintenance]. Raises InputError."""
    return MaintenanceTerms(**values)
