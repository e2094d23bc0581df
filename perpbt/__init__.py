"""perpbt: perpetual futures, many accounts at once, and the insurance fund behind them.

Names are imported on first use, so that `import perpbt` and the command line's help stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perpbt import adl, clearing, formulas
    from perpbt.clearing import clear
    from perpbt.config import (
        AdlSpec,
        CouplingSpec,
        DynamicMargin,
        FundSpec,
        Liquidation,
        Policy,
        PolicyGrid,
        Rules,
        load_spec,
    )
    from perpbt.doors.backtesting import backtest
    from perpbt.doors.simulation import simulate
    from perpbt.doors.specification import run_spec
    from perpbt.errors import InputError, PerpbtError, RunError
    from perpbt.explaining.explanation import Explanation, explain
    from perpbt.load import Bars, describe, load_bars
    from perpbt.load.pack import pack
    from perpbt.pricing import DerivedBars, derive
    from perpbt.result import Result
    from perpbt.strategy import check_look_ahead, find_strategy, list_strategies
    from perpbt.studies import Findings, list_studies, run_study
    from perpbt.venue import Venue, list_venues, load_venue

__version__ = "0.1.0"

_HOMES = {
    "AdlSpec": "config",
    "Bars": "load",
    "CouplingSpec": "config",
    "DerivedBars": "pricing",
    "DynamicMargin": "config",
    "Explanation": "explaining.explanation",
    "Findings": "studies",
    "FundSpec": "config",
    "InputError": "errors",
    "Liquidation": "config",
    "PerpbtError": "errors",
    "Policy": "config",
    "PolicyGrid": "config",
    "Result": "result",
    "Rules": "config",
    "RunError": "errors",
    "Venue": "venue",
    "backtest": "doors.backtesting",
    "check_look_ahead": "strategy",
    "clear": "clearing",
    "derive": "pricing",
    "describe": "load",
    "explain": "explaining.explanation",
    "find_strategy": "strategy",
    "list_strategies": "strategy",
    "list_studies": "studies",
    "list_venues": "venue",
    "load_bars": "load",
    "load_spec": "config",
    "load_venue": "venue",
    "pack": "load.pack",
    "run_spec": "doors.specification",
    "run_study": "studies",
    "simulate": "doors.simulation",
}

_ROOMS = ("adl", "clearing", "formulas")  # modules that are used by their own names

__all__ = [
    "AdlSpec",
    "Bars",
    "CouplingSpec",
    "DerivedBars",
    "DynamicMargin",
    "Explanation",
    "Findings",
    "FundSpec",
    "InputError",
    "Liquidation",
    "PerpbtError",
    "Policy",
    "PolicyGrid",
    "Result",
    "Rules",
    "RunError",
    "Venue",
    "adl",
    "backtest",
    "check_look_ahead",
    "clear",
    "clearing",
    "derive",
    "describe",
    "explain",
    "find_strategy",
    "formulas",
    "list_strategies",
    "list_studies",
    "list_venues",
    "load_bars",
    "load_spec",
    "load_venue",
    "pack",
    "run_spec",
    "run_study",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"perpbt.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"perpbt.{name}")
    raise AttributeError(f"module 'perpbt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
