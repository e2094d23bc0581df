"""Prices in: checked bars of perpetual futures, read lazily from files, folders, frames and shipped datasets.

In: whatever holds the user's prices. Out: `Bars`, `SymbolBars`, and a `DataReport` on what is in them.
"""

from perpbt.load.bars import Bars, SymbolBars, fingerprint, load_bars
from perpbt.load.describe import DataReport, SymbolReport, describe

__all__ = ["Bars", "DataReport", "SymbolBars", "SymbolReport", "describe", "fingerprint", "load_bars"]
