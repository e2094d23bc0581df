"""Margin rates in time: tiers that follow one another by date, and rates that follow the market.

In: a venue, a symbol, its bars. Out: epochs, each a first bar and the tiers that hold from it on, as kernels
read them. Everything is computed from bars before the epoch.
"""

from __future__ import annotations

from perpbt.prepare.margining.dynamic import (
    Scales,
    boundaries,
    initial_epochs,
    interest_scales,
    interest_share,
    scaled_epochs,
    volatility_scales,
)
from perpbt.prepare.margining.epochs import Epochs, dated_epochs, one_epoch

__all__ = [
    "Epochs",
    "Scales",
    "boundaries",
    "dated_epochs",
    "initial_epochs",
    "interest_scales",
    "interest_share",
    "one_epoch",
    "scaled_epochs",
    "volatility_scales",
]
