"""The rates of one symbol over a run: the venue's, dated and dynamic.

In: a run's setting, a symbol's bars and arrays. Out: what kernels charge and require, epoch by epoch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from perpbt.config import DynamicMargin, TurnoverInterest
from perpbt.contracts import Contract
from perpbt.errors import InputError
from perpbt.kernels.tables import Floats, Market, Rates
from perpbt.load import SymbolBars
from perpbt.prepare.arrays import floats, milliseconds, rates_for
from perpbt.prepare.margining import (
    Epochs,
    Scales,
    boundaries,
    dated_epochs,
    initial_epochs,
    interest_scales,
    interest_share,
    scaled_epochs,
    volatility_scales,
)
from perpbt.running.setting import Setting, turnover_interest

DAY = 86_400_000


def scheduled_rates(setting: Setting, bars: SymbolBars, market: Market, contract: Contract) -> Rates:
    """What the venue charges and requires on a symbol while its bars last."""
    venue, symbol = setting.venue, bars.symbol
    since = venue.schedule(symbol)[0].since
    if since is not None and bars.frame["ts"][0] < since:
        setting.notes.append(
            f"{symbol}: tiers are known from {since:%Y-%m-%d} on; those of that day hold before it too"
        )
    epochs = with_interest(setting, bars, market, dated_epochs(venue, symbol, market.time))
    if setting.dynamic is not None:
        scales = scales_of(setting, setting.dynamic, bars, market)
        note_scales(setting, bars, market, scales)
        epochs = scaled_epochs(epochs, scales, float(venue.close_out_rate), setting.dynamic.leverage)
    rates = rates_for(venue, symbol, setting.rules, contract, epochs)
    return rates._replace(protected=setting.terms.protection)


def scales_of(setting: Setting, spec: DynamicMargin, bars: SymbolBars, market: Market) -> Scales:
    """By what rates are multiplied, by the model asked for."""
    if spec.model != "open_interest":
        return volatility_scales(market.time, floats(bars.frame["mark_close"]), spec)
    interest = interest_before(setting, bars, market)
    if interest is None:
        raise InputError(
            'dynamic.model = "open_interest" needs open_interest: a number, a frame, or days of turnover'
        )
    return interest_scales(market.time, interest, spec)


def with_interest(setting: Setting, bars: SymbolBars, market: Market, epochs: Epochs) -> Epochs:
    """The initial margin risen with open interest, day by day, where the venue says so and open interest is known."""
    terms = setting.venue.terms("maintenance", bars.symbol)
    if terms is None or not terms.open_interest_upper:
        return epochs
    interest = interest_before(setting, bars, market)
    if interest is None:
        setting.notes.append(
            f"{bars.symbol}: no open interest; the initial margin, which rises with it on this venue, stays as it is"
        )
        return epochs
    since = np.concatenate([np.zeros(1, dtype=np.int64), boundaries(market.time, DAY)])
    share = interest_share(interest[since], terms.open_interest_lower, terms.open_interest_upper)
    return initial_epochs(epochs, since, share)


def interest_before(setting: Setting, bars: SymbolBars, market: Market) -> Floats | None:
    """Open interest known before each bar, NaN where none is yet; None where the run states none."""
    wanted = setting.open_interest
    if isinstance(wanted, TurnoverInterest):
        wanted = turnover_interest(bars, wanted, setting.contract(bars.symbol))
    if isinstance(wanted, Mapping):
        wanted = wanted.get(bars.symbol)
    if wanted is None:
        return None
    if not isinstance(wanted, pl.DataFrame):
        return np.full(market.time.size, float(wanted))
    known = wanted.filter(pl.col("symbol") == bars.symbol) if "symbol" in wanted.columns else wanted
    known = known.sort("ts")
    values = np.concatenate([np.full(1, np.nan), floats(known["open_interest"])])
    at: Floats = values[np.searchsorted(milliseconds(known["ts"]), market.time)]
    return at


def note_scales(setting: Setting, bars: SymbolBars, market: Market, scales: Scales) -> None:
    """Keep the margins of a symbol for the result's table, and say where they never moved."""
    time = pl.Series("time", market.time[scales.since]).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    table = pl.DataFrame(
        {
            "time": time,
            "symbol": pl.Series([bars.symbol] * scales.since.size, dtype=pl.String),
            "model_margin": scales.model,
            "margin": scales.asked,
            "reference": pl.Series([scales.reference] * scales.since.size, dtype=pl.Float64),
            "scale": scales.scale,
        }
    )
    unknown = pl.col("model_margin", "margin", "reference").fill_nan(None)
    setting.margins.append(table.with_columns(unknown))
    if (scales.scale == 1.0).all():
        setting.notes.append(
            f"{bars.symbol}: margin rates never moved: too few bars, or nothing to move them"
        )
