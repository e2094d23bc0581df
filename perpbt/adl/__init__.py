"""Auto-deleveraging (ADL): who is closed when the insurance fund cannot pay, by venue and by theory.

Arithmetic on a book of positions at one moment, without any simulation. In come `Candidates`, columns of
positions; `allocate(policy, candidates, quantity)` says how much of each is closed:

- queues by the rankings of BitMEX, Binance (now and 2019-2023), OKX, Bybit, Hyperliquid (as published and as
  decompiled): `bitmex`, `binance`, `binance_2019`, `okx`, `bybit`, `hyperliquid`, `hyperliquid_decompiled`;
- `pro_rata` and `capped_pro_rata` by profit, equity or contracts, `risk_aware`, `water_filling`.

A run deleverages with the same policies: `perpbt.simulate(..., coupling="adl", adl={"policy": "pro_rata:equity"})`.

`fill_in_order`, `fill_by_weight` and `fill_to_level` do the same for any amounts, money for example. `compare`
lays the policies side by side on one book.

Around it: `clawback` and `socialise_by_size` (losses nobody else pays), `settle_balance`, `fund_flow`; `without_protection`, a run whose
traders owe what is missing;
`drawdown_trigger` (Bybit), `level_trigger` (OKX) and `empty_trigger` on a fund's ledger; `monitor` and
`open_interest`, series to watch; measures of one round (`overshoot`, `fairness_regret`, `ptsr`, `pmr`,
`bad_debt`) and of finished runs (`by_policy`, `deleveraged`, `deleveraging_waves`, `rounds`,
`counterfactual`, `recoveries`).
"""

from perpbt.adl.allocations import (
    ALLOCATIONS,
    allocate,
    find_policy,
    list_policies,
    risk_weights,
    weights,
)
from perpbt.adl.amounts import (
    fill_by_weight,
    fill_in_order,
    fill_to_level,
    in_lots,
    in_order,
    level,
    lights,
)
from perpbt.adl.candidates import PRICES, Candidates, closing_price, winners
from perpbt.adl.losses import (
    clawback,
    fund_flow,
    haircut_gap,
    settle_balance,
    socialise_by_size,
)
from perpbt.adl.measures import (
    bad_debt,
    compare,
    fairness_regret,
    largest_share,
    least_largest_share,
    needed_budget,
    overshoot,
    pmr,
    profit_left,
    ptsr,
    spread,
)
from perpbt.adl.monitoring import monitor, open_interest
from perpbt.adl.policies import by_policy
from perpbt.adl.protection import without_protection
from perpbt.adl.rankings import RANKINGS, find_ranking
from perpbt.adl.rounds import round_measures, rounds
from perpbt.adl.tables import (
    counterfactual,
    days_to_recover,
    deleveraged,
    deleveraging_waves,
    recoveries,
    waves,
)
from perpbt.adl.triggers import (
    contract_ledger,
    drawdown_trigger,
    empty_trigger,
    highest_within,
    level_trigger,
)

__all__ = [
    "ALLOCATIONS",
    "PRICES",
    "RANKINGS",
    "Candidates",
    "allocate",
    "bad_debt",
    "by_policy",
    "clawback",
    "closing_price",
    "compare",
    "contract_ledger",
    "counterfactual",
    "days_to_recover",
    "deleveraged",
    "deleveraging_waves",
    "drawdown_trigger",
    "empty_trigger",
    "fairness_regret",
    "fill_by_weight",
    "fill_in_order",
    "fill_to_level",
    "find_policy",
    "find_ranking",
    "fund_flow",
    "haircut_gap",
    "highest_within",
    "in_lots",
    "in_order",
    "largest_share",
    "least_largest_share",
    "level",
    "level_trigger",
    "lights",
    "list_policies",
    "monitor",
    "needed_budget",
    "open_interest",
    "overshoot",
    "pmr",
    "profit_left",
    "ptsr",
    "recoveries",
    "risk_weights",
    "round_measures",
    "rounds",
    "settle_balance",
    "socialise_by_size",
    "spread",
    "waves",
    "weights",
    "winners",
    "without_protection",
]
