"""How a position is opened (MODEL §3): size, fee, margin, levels, and the reasons to refuse it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compile import part
from .contracts import in_lots, moved, on_tick
from .levels import level, needs_series
from .margin import Position, liquidated, make_position, tier_of
from .tables import (
    ABOVE_LAST_TIER,
    ABOVE_MAXIMUM_LEVERAGE,
    ACCEPTED,
    BELOW_ONE_LOT,
    CAP,
    COLLATERAL,
    EQUITY,
    FUNDING,
    LAST_OPEN,
    LIQUIDATED_AT_ENTRY,
    MARK_OPEN,
    MAX_LEVERAGE,
    NONE,
    RATE,
    STOP_BEYOND_ENTRY,
    Market,
    Plan,
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


@part
def series_value(kind: int, row: int, signals: Signals, bar: int) -> float:
    """The per-bar series a level reads, at the close before the entry; NaN where it reads none."""
    if not needs_series(kind) or bar < 0:
        return np.nan
    return signals.series[row, bar]


@part
def levels_known(plan: Plan, signals: Signals, bar: int) -> bool:
    """False while an indicator that places a stop or take-profit has no value yet: such a signal is not
    acted on.
    """
    for kind, row in (
        (plan["stop_kind"], plan["stop_series"]),
        (plan["target_kind"], plan["target_series"]),
    ):
        if needs_series(kind) and not np.isfinite(series_value(kind, row, signals, bar)):
            return False
    return True


@part
def collateral_for(rates: Rates, plan: Plan, wallet: float, entry: float, stop: float) -> float:
    """Collateral of the next position out of `wallet`, by the plan's sizing rule."""
    kind, value = plan["sizing_kind"], plan["sizing_value"]
    if kind == COLLATERAL:
        return min(value, wallet)
    if kind == EQUITY:
        return value * wallet
    distance = abs(entry - stop) / entry
    notional = (value * wallet) / distance
    leverage = plan["leverage"]
    needed = (notional * ((1.0 + plan["margin_buffer"]) + rates.taker_fee * leverage)) / leverage
    return min(needed, wallet)


@part
def limits(rates: Rates, leverage: float, notional: float, quantity: float) -> int:
    """Whether the tier of a notional allows this leverage; a rate that grows with size adds to the initial margin too."""
    k = tier_of(rates, notional)
    size = notional if rates.terms.inverse else quantity  # in base units
    allowed, grown = rates.tiers[k, MAX_LEVERAGE], rates.per_unit * size
    if grown > 0.0:
        if (rates.tiers[k, RATE] + rates.close_out_rate) + grown >= 1.0:
            return ABOVE_LAST_TIER  # no equity is enough
        allowed = 1.0 / (1.0 / allowed + grown)
    return ABOVE_MAXIMUM_LEVERAGE if leverage > allowed else ACCEPTED


@part
def open_position(
    market: Market, rates: Rates, plan: Plan, signals: Signals, side: float, bar: int, wallet: float
) -> Opening:
    """Fill an order at the open of `bar`; levels read their series at the close of the bar before."""
    leverage, buffered = plan["leverage"], 1.0 + plan["margin_buffer"]
    entry = moved(rates.terms, market.series[LAST_OPEN, bar], side * rates.slippage)
    funding = market.series[FUNDING, bar]
    stop = level(
        rates.terms, plan["stop_kind"], plan["stop_value"], -side, entry, leverage,
        series_value(plan["stop_kind"], plan["stop_series"], signals, bar - 1),
    )  # fmt: skip
    target = level(
        rates.terms, plan["target_kind"], plan["target_value"], side, entry, leverage,
        series_value(plan["target_kind"], plan["target_series"], signals, bar - 1),
    )  # fmt: skip
    stop, target = on_tick(rates.terms, side, stop), on_tick(rates.terms, side, target)
    collateral = collateral_for(rates, plan, wallet, entry, stop)
    notional = (collateral * leverage) / (buffered + rates.taker_fee * leverage)
    rejection = ACCEPTED
    above = notional > rates.tiers[rates.tiers.shape[0] - 1, CAP]
    if above and rates.clip:
        notional = rates.tiers[rates.tiers.shape[0] - 1, CAP]
    elif above:
        rejection = ABOVE_LAST_TIER
    quantity = notional / entry
    whole = rates.terms.lot_per != 0.0
    if whole:
        quantity = in_lots(rates.terms, quantity)
        notional = min(quantity * entry, notional)  # lots round down; the product may round up
    if rejection == ACCEPTED and not quantity > 0.0:
        rejection, quantity = BELOW_ONE_LOT, 1.0  # of a position that is not opened
    margin = (buffered * notional) / leverage
    fee = rates.taker_fee * notional
    if rejection == ACCEPTED:
        rejection = limits(rates, leverage, notional, quantity)
    beyond_stop = plan["stop_kind"] != NONE and side * stop >= side * entry
    beyond_target = plan["target_kind"] != NONE and side * target <= side * entry
    if rejection == ACCEPTED and (beyond_stop or beyond_target):
        rejection = STOP_BEYOND_ENTRY
    trail = plan["trail"]
    position = make_position(
        rates, side, quantity, entry, margin, funding, market.highest_mark,
        -np.inf if plan["stop_kind"] == NONE else side * stop,
        np.inf if plan["target_kind"] == NONE else side * target,
        0.0 if np.isnan(trail) else moved(rates.terms, 1.0, -(side * trail)),
    )  # fmt: skip
    if rejection == ACCEPTED and liquidated(rates, position, market.series[MARK_OPEN, bar], funding):
        rejection = LIQUIDATED_AT_ENTRY
    if (above or whole) and rejection == ACCEPTED:
        collateral = margin + fee  # what the cut order needs; the rest stays in the wallet
    return Opening(rejection, position, collateral, notional, fee)
