"""Series a file lacks, made by the venues' own rules: the index, the funding rate, the mark price.

In: bars, and terms by a venue's name or as values. Out: `derive` gives bars with the missing series and says
where each is from; the functions it calls stand on their own, each from a frame to a frame, none looking
ahead.
"""

from perpbt.pricing.deriving import DerivedBars, derive
from perpbt.pricing.funding import (
    bar_premium,
    funding_events,
    funding_rate,
    funding_rates,
    impact_premium,
    interest_rate,
    maintenance_cap,
    margin_gap_cap,
    schedule,
)
from perpbt.pricing.index import composite_index
from perpbt.pricing.mark import mark_prices
from perpbt.pricing.terms import FundingTerms, IndexTerms, MarkTerms, list_terms, load_terms

__all__ = [
    "DerivedBars",
    "FundingTerms",
    "IndexTerms",
    "MarkTerms",
    "bar_premium",
    "composite_index",
    "derive",
    "funding_events",
    "funding_rate",
    "funding_rates",
    "impact_premium",
    "interest_rate",
    "list_terms",
    "load_terms",
    "maintenance_cap",
    "margin_gap_cap",
    "mark_prices",
    "schedule",
]
