"""A liquidation procedure as kernels read it.

In: what was chosen for a symbol, and its rates. Out: the kernels' `Procedure`.
"""

from __future__ import annotations

from typing import Any

from perpbt.config import Liquidation
from perpbt.errors import InputError
from perpbt.kernels.tables import PROCEDURES, Procedure, Rates


def procedure_for(wanted: Liquidation, rates: Rates, symbol: str) -> Procedure | None:
    """A liquidation procedure in numbers; None for the whole at once on the market, which every kernel knows.

    Raises InputError for what engines do not combine: steps sized by a shortage where maintenance is no sum of bands.
    """
    if wanted.plain:
        return None
    by_shortage = wanted.procedure == "cure" or (
        wanted.procedure == "reduce_then_takeover" and wanted.fraction is None
    )
    if by_shortage and (rates.whole or rates.per_unit > 0.0):
        raise InputError(
            f"liquidation = {wanted.procedure!r} sized by the shortage, with maintenance.rule = "
            f"{'whole' if rates.whole else 'size'!r} ({symbol}); allowed there: a fraction, or another procedure"
        )
    given = wanted.numbers()
    whole = {"most_steps", "cool_down", "lowest_tiers", "slices"}
    numbers: dict[str, Any] = {
        name: int(given[name]) if name in whole else float(given[name])
        for name in Procedure._fields
        if name in given
    }
    return Procedure(kind=PROCEDURES.index(wanted.procedure), takeover=wanted.close == "takeover", **numbers)
