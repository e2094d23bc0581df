"""A venue's numbers for several symbols at once, as kernels of shared wallets read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perpbt.crossing.terms import Margin
from perpbt.kernels.crossing.tables import Charges
from perpbt.kernels.tables import Rates


def make_charges(rates: Sequence[Rates], symbols: Sequence[str], margin: Margin) -> Charges:
    """Rates of each symbol side by side."""
    first, most = rates[0], max(one.tiers.shape[0] for one in rates)
    numbers = [
        (
            one.taker_fee, one.maker_fee, one.slippage, one.liquidation_fee, one.close_out_rate, one.half_spread, one.impact,
            one.max_slippage, one.surplus_to_fund,
        )
        for one in rates
    ]  # fmt: skip
    tiers = [np.vstack([one.tiers, *[one.tiers[-1:]] * (most - one.tiers.shape[0])]) for one in rates]
    count = len(symbols)
    return Charges(
        numbers=np.array(numbers, dtype=np.float64),
        tiers=np.ascontiguousarray(np.stack(tiers)),
        tier_count=np.array([one.tiers.shape[0] for one in rates], dtype=np.int64),
        unit=np.arange(count, dtype=np.int64),
        minimum=np.zeros(count),
        units=np.zeros((count, 4)),
        multipliers=np.full((count, 1, 2), np.inf),
        portfolio=margin.mode == "portfolio",
        one_way=margin.legs == "one_way",
        extremes=margin.test == "extremes",
        entry_maintenance=bool(first.entry_maintenance),
        optimistic=bool(first.optimistic),
        target_at_open=bool(first.target_at_open),
        clip=bool(first.clip),
    )
