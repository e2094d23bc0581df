"""Every published formula in one place, as functions of plain numbers; history is not needed for any of them.

| question | call |
|---|---|
| a position worked out step by step, on any venue | `perpbt.explain({...})`, `perpbt liquidation ...` |
| value, PnL, initial margin, order margin (linear, inverse, quanto) | `Contract(kind, multiplier).value / pnl / initial_margin / order_margin` |
| liquidation and bankruptcy price | `liquidation_price(Position(...), rule)`, `bankruptcy_price(Position(...), fee)` |
| the same by a venue's file, isolated linear | `load_venue(NAME).liquidation_price(side=..., ...)`, `.bankruptcy_price(...)` |
| maintenance rules | `Maintenance.flat / brackets / risk_limits / growing`, `load_venue(NAME).maintenance(symbol)` |
| what a venue asks for | `load_venue(NAME).maintenance_margin(...)`, `.initial_margin_rate(...)`, `.max_leverage(...)` |
| one wallet, several positions | `cross_liquidation_price`, `cross_required`, `cross_equity`, `margin_left`; `explain` with `wallet` and `others` |
| both legs of hedge mode | `hedged_liquidation_prices` |
| dYdX: bankruptcy, fillable price, the fund's share | `cross_bankruptcy_price`, `fillable_price`, `fund_delta` |
| OKX: margin ratio, portfolio margin | `cross_margin_ratio`, `portfolio_margin`, `portfolio_requirement`, `tiered_minimum` |
| Drift: what cures a shortage, and its fees | `size_to_cover`, `liquidator_fee`, `insurance_fee`, `share_to_cure` |
| the smallest sale that restores maintenance | `reduction_size`, `reduction_size_with_impact`, `is_self_defeating` |
| exits that cost least | `best_slices`, `cost_of`, `best_path` |
| mark price | `mark_by_funding`, `mark_by_basis`, `median_mark`; series: `perpbt.pricing.mark_prices` |
| premium and funding rate | `premium`, `funding_rate(premium, load_terms(FundingTerms, NAME), hours)`, `interest_rate`, `maintenance_cap`, `margin_gap_cap` |
| who is deleveraged, clawback, socialised loss, fund triggers | `perpbt.adl` |
| where a cascade comes to rest | `linear_cascade`, `square_root_cascade`, `branching_ratio` |
| a clearing house; one venue or several | `perpbt.clearing` |

Sources stand in each function's own text. Money is in settlement currency, rates are fractions.
"""

from perpbt.contracts import (
    Band,
    Contract,
    Maintenance,
    Position,
    bankruptcy_price,
    is_liquidated,
    liquidation_price,
)
from perpbt.explaining.cross import (
    Held,
    before_liquidation,
    cross_bankruptcy_price,
    cross_equity,
    cross_liquidation_price,
    cross_margin_ratio,
    cross_required,
    hedged_liquidation_prices,
    margin_left,
)
from perpbt.explaining.portfolio import (
    PortfolioMargin,
    portfolio_margin,
    portfolio_requirement,
    tiered_minimum,
)
from perpbt.pricing.funding import (
    funding_rate,
    interest_rate,
    maintenance_cap,
    margin_gap_cap,
    premium,
)
from perpbt.pricing.mark import mark_by_basis, mark_by_funding, median_mark
from perpbt.pricing.terms import FundingTerms, IndexTerms, MarkTerms, load_terms
from perpbt.procedures.cascades import branching_ratio, linear_cascade, square_root_cascade
from perpbt.procedures.sizes import (
    best_path,
    best_slices,
    cost_of,
    fillable_price,
    fund_delta,
    insurance_fee,
    is_self_defeating,
    liquidator_fee,
    reduction_size,
    reduction_size_with_impact,
    share_to_cure,
    size_to_cover,
)
from perpbt.venue import load_venue

__all__ = [
    "Band",
    "Contract",
    "FundingTerms",
    "Held",
    "IndexTerms",
    "Maintenance",
    "MarkTerms",
    "PortfolioMargin",
    "Position",
    "bankruptcy_price",
    "before_liquidation",
    "best_path",
    "best_slices",
    "branching_ratio",
    "cost_of",
    "cross_bankruptcy_price",
    "cross_equity",
    "cross_liquidation_price",
    "cross_margin_ratio",
    "cross_required",
    "fillable_price",
    "fund_delta",
    "funding_rate",
    "hedged_liquidation_prices",
    "insurance_fee",
    "interest_rate",
    "is_liquidated",
    "is_self_defeating",
    "linear_cascade",
    "liquidation_price",
    "liquidator_fee",
    "load_terms",
    "load_venue",
    "maintenance_cap",
    "margin_gap_cap",
    "margin_left",
    "mark_by_basis",
    "mark_by_funding",
    "median_mark",
    "portfolio_margin",
    "portfolio_requirement",
    "premium",
    "reduction_size",
    "reduction_size_with_impact",
    "share_to_cure",
    "size_to_cover",
    "square_root_cascade",
    "tiered_minimum",
]
