"""Auto-deleveraging (ADL): who is closed when the insurance fund cannot pay, by venue and by theory.

Arithmetic on a book of positions at one moment, without any simulation. In come `Candidates`, columns of
positions; `allocate(policy, candidates, quantity)` says how much of each is closed:

- queues by the rankings of BitMEX, Binance (now and 2019-2023), OKX, Bybit, Hyperliquid (as published and as
  decompiled): `bitmex`, `binance`, `binance_2019`, `okx`, `bybit`, `hyperliquid`, `hyperliquid_decompiled`;
- `pro_rata` and `capped_pro_rata` by profit, equity or contracts, `risk_aware`, `water_filling`.

`fill_in_order`, `fill_by_weight` and `fill_to_level` do the same for any amounts, money for example.
"""

from perpbt.adl.allocations import (
    ALLOCATIONS,
    allocate,
    find_policy,
    list_policies,
    risk_weights,
    weights,
)
from perpbt.adl.candidates import PRICES, Candidates, closing_price, winners
from perpbt.adl.filling import fill_by_weight, fill_in_order, fill_to_level, in_lots, level
from perpbt.adl.rankings import RANKINGS, find_ranking, in_order, lights

__all__ = [
    "ALLOCATIONS",
    "PRICES",
    "RANKINGS",
    "Candidates",
    "allocate",
    "closing_price",
    "fill_by_weight",
    "fill_in_order",
    "fill_to_level",
    "find_policy",
    "find_ranking",
    "in_lots",
    "in_order",
    "level",
    "lights",
    "list_policies",
    "risk_weights",
    "weights",
    "winners",
]
