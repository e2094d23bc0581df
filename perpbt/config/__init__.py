"""Specifications: frozen, checked descriptions of policies and runs.

In: TOML files, tables or keyword arguments. Out: `Policy`, `PolicyGrid`, `RunSpec` and their parts; faults
are `InputError`. Nothing here imports numba, polars or any other room of perpbt.
"""

from perpbt.config.coupling import AdlSpec, CouplingSpec, PressureSpec, TriggerSpec
from perpbt.config.fields import Duration
from perpbt.config.forms import (
    AtrDistance,
    CollateralSizing,
    ColumnLevel,
    Deleverage,
    EquitySizing,
    MarginDistance,
    PriceDistance,
    Reentry,
    RiskSizing,
    TopUp,
)
from perpbt.config.liquidation import Liquidation
from perpbt.config.margin import DynamicMargin
from perpbt.config.policy import Policy, PolicyGrid, as_policies
from perpbt.config.run import (
    DataSpec,
    FundSpec,
    Offsets,
    OutputSpec,
    Rules,
    RunSpec,
    StrategySpec,
    TurnoverInterest,
    VenueSpec,
    WorldSpec,
    json_schema,
)
from perpbt.config.toml import find_file, load_spec, parse_spec, shipped_files, shipped_folders

__all__ = [
    "AdlSpec",
    "AtrDistance",
    "CollateralSizing",
    "ColumnLevel",
    "CouplingSpec",
    "DataSpec",
    "Deleverage",
    "Duration",
    "DynamicMargin",
    "EquitySizing",
    "FundSpec",
    "Liquidation",
    "MarginDistance",
    "Offsets",
    "OutputSpec",
    "Policy",
    "PolicyGrid",
    "PressureSpec",
    "PriceDistance",
    "Reentry",
    "RiskSizing",
    "Rules",
    "RunSpec",
    "StrategySpec",
    "TopUp",
    "TriggerSpec",
    "TurnoverInterest",
    "VenueSpec",
    "WorldSpec",
    "as_policies",
    "find_file",
    "json_schema",
    "load_spec",
    "parse_spec",
    "shipped_files",
    "shipped_folders",
]
