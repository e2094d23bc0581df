"""A liquidation procedure as kernels read it.

In: what was chosen for a symbol. Out: the kernels' `Procedure`.
"""

from __future__ import annotations

from typing import Any

from perpbt.config import Liquidation
from perpbt.kernels.tables import PROCEDURES, Procedure


def procedure_for(wanted: Liquidation) -> Procedure | None:
    """A liquidation procedure in numbers; None for the whole at once on the market, which every kernel knows."""
    if wanted.plain:
        return None
    given = wanted.numbers()
    whole = {"most_steps", "cool_down", "lowest_tiers", "slices"}
    numbers: dict[str, Any] = {
        name: int(given[name]) if name in whole else float(given[name])
        for name in Procedure._fields
        if name in given
    }
    return Procedure(kind=PROCEDURES.index(wanted.procedure), takeover=wanted.close == "takeover", **numbers)
