"""Liquidation procedures of a run: which holds where, its numbers as kernels read them, its sizes as formulas, its steps as records.

In: what a run was asked for, and what its venue says; books of finished runs. Out: a `perpbt.config.Liquidation` a symbol (`choosing`),
kernels' `Procedure` (`numbers`), formulas of plain numbers (`sizes`), the steps of a book (`steps`). What a procedure does to a position
is in `perpbt.kernels.stepsizes`, and once more, naively, in `perpbt.oracle.liquidating`.
"""

from perpbt.procedures.choosing import Asked, Procedures, chosen, refuse_coupling
from perpbt.procedures.numbers import procedure_for

__all__ = ["Asked", "Procedures", "chosen", "procedure_for", "refuse_coupling"]
