"""How a position is opened (MODEL §3): size, fee, margin, levels, and the reasons to refuse it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compile import kernel
from .levels import level, needs_series
from .margin import Position, liquidated, make_position, tier_of
from .tables import (
    ABOVE_LAST_TIER,
    ABOVE_MAXIMUM_LEVERAGE,
    ACCEPTED,
    COLLATERAL,
    COLUMN,
    EQUITY,
    LIQUIDATED_AT_ENTRY,
    NONE,
    STOP_BEYOND_ENTRY,
    Floats,
    Market,
    Plans,
    Rates,
    Signals,
)


class Opening(NamedTuple):
    """An order as filled, or why it was not (`rejection`)."""

    rejection: int
    position: Position
    collateral: float
    notional: float
    fee: float


@kernel
def series_value(kind: int, row: int, signals: Signals, bar: int) -> float:
    """The per-bar series a level reads, at the close before the entry; NaN where it reads none."""
    if not needs_series(kind) or bar < 0:
        return np.nan
    series: Floats = signals.columns if kind == COLUMN else signals.atr
    return series[row, bar]


@kernel
def levels_known(plans: Plans, p: int, signals: Signals, bar: int) -> bool:
    """False while an indicator that places a stop or take-profit has no value yet: such a signal is not
    acted on.
    """
    for kind, row in (
        (plans.stop_kind[p], plans.stop_series[p]),
        (plans.target_kind[p], plans.target_series[p]),
    ):
        if needs_series(kind) and not np.isfinite(series_value(kind, row, signals, bar)):
            return False
    return True


@kernel
def collateral_for(rates: Rates, plans: Plans, p: int, wallet: float, entry: float, stop: float) -> float:
    """Collateral of the next position out of `wallet`, by the plan's sizing rule."""
    kind, value = plans.sizing_kind[p], plans.sizing_value[p]
    if kind == COLLATERAL:
        return min(value, wallet)
    if kind == EQUITY:
        return value * wallet
    distance = abs(entry - stop) / entry
    notional = (value * wallet) / distance
    leverage = plans.leverage[p]
    needed = (notional * ((1.0 + plans.margin_buffer[p]) + rates.taker_fee * leverage)) / leverage
    return min(needed, wallet)


@kernel
def open_position(
    market: Market, rates: Rates, plans: Plans, p: int, signals: Signals, side: float, bar: int, wallet: float
) -> Opening:
    """Fill plan `p` at the open of `bar`; levels read their series at the close of the bar before."""
    leverage, buffered = plans.leverage[p], 1.0 + plans.margin_buffer[p]
    entry = market.open[bar] * (1.0 + side * rates.slippage)
    funding = market.funding[bar]
    stop = level(
        plans.stop_kind[p], plans.stop_value[p], -side, entry, leverage,
        series_value(plans.stop_kind[p], plans.stop_series[p], signals, bar - 1),
    )  # fmt: skip
    target = level(
        plans.target_kind[p], plans.target_value[p], side, entry, leverage,
        series_value(plans.target_kind[p], plans.target_series[p], signals, bar - 1),
    )  # fmt: skip
    collateral = collateral_for(rates, plans, p, wallet, entry, stop)
    notional = (collateral * leverage) / (buffered + rates.taker_fee * leverage)
    rejection = ACCEPTED
    above = notional > rates.cap[-1]
    if above and rates.clip:
        notional = rates.cap[-1]
    elif above:
        rejection = ABOVE_LAST_TIER
    margin = (buffered * notional) / leverage
    fee = rates.taker_fee * notional
    quantity = notional / entry
    if rejection == ACCEPTED and leverage > rates.max_leverage[tier_of(rates, notional)]:
        rejection = ABOVE_MAXIMUM_LEVERAGE
    beyond_stop = plans.stop_kind[p] != NONE and side * stop >= side * entry
    beyond_target = plans.target_kind[p] != NONE and side * target <= side * entry
    if rejection == ACCEPTED and (beyond_stop or beyond_target):
        rejection = STOP_BEYOND_ENTRY
    trail = plans.trail[p]
    position = make_position(
        rates, side, quantity, entry, margin, funding, market.highest_mark,
        -np.inf if plans.stop_kind[p] == NONE else side * stop,
        np.inf if plans.target_kind[p] == NONE else side * target,
        0.0 if np.isnan(trail) else 1.0 - side * trail,
    )  # fmt: skip
    if rejection == ACCEPTED and liquidated(rates, position, market.mark_open[bar], funding):
        rejection = LIQUIDATED_AT_ENTRY
    if above and rejection == ACCEPTED:
        collateral = margin + fee  # what the cut order needs; the rest stays in the wallet
    return Opening(rejection, position, collateral, notional, fee)
