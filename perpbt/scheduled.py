"""The rates of one symbol over a run: the venue's, dated and dynamic.

In: a run's setting, a symbol's bars and arrays. Out: what kernels charge and require, epoch by epoch.
"""

from __future__ import annotations

from perpbt.contracts import Contract
from perpbt.kernels.tables import Market, Rates
from perpbt.load import SymbolBars
from perpbt.margining import dated_epochs
from perpbt.prepare import rates_for
from perpbt.setting import Setting


def scheduled_rates(setting: Setting, bars: SymbolBars, market: Market, contract: Contract) -> Rates:
    """What the venue charges and requires on a symbol while its bars last."""
    venue = setting.venue
    since = venue.schedule(bars.symbol)[0].since
    if since is not None and bars.frame["ts"][0] < since:
        setting.notes.append(
            f"{bars.symbol}: tiers are known from {since:%Y-%m-%d} on; those of that day hold before it too"
        )
    epochs = dated_epochs(venue, bars.symbol, market.time)
    return rates_for(venue, bars.symbol, setting.rules, contract, epochs)
