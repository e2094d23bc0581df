"""What is left when a position closes: the fill, then the waterfall of fees, surplus and deficit (MODEL
§5-§6).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compile import part
from .contracts import moved
from .margin import Position
from .tables import END, LIQUIDATION, TAKE_PROFIT, Rates


class Closing(NamedTuple):
    """Money of one closing, in quote currency, and its fill price."""

    fill: float
    fee: float
    liquidation_fee: float
    surplus: float  # to the fund
    deficit: float
    back: float  # to the trader
    pnl: float
    funding: float  # received > 0


@part
def liquidation_slippage(rates: Rates, volatility: float, turnover: float, volume: float) -> float:
    """Half-spread plus square-root impact of `volume` (money) against the bar's turnover.

    A bar whose turnover is not known, or in which nothing traded, cannot price impact: the venue's flat
    slippage.
    """
    if not turnover > 0.0:
        return rates.slippage
    return min(
        rates.half_spread + (rates.impact * volatility) * np.sqrt(volume / turnover), rates.max_slippage
    )


@part
def close(
    rates: Rates,
    position: Position,
    reason: int,
    limit_fill: bool,
    base: float,
    slippage: float,
    funding: float,
) -> Closing:
    """Close the whole of `position` at `base` worsened by `slippage`; `funding` is CF at the closing bar."""
    signed = position.side * position.quantity
    paid = signed * (funding - position.funding)
    fill = base
    if reason != END and not (reason == TAKE_PROFIT and limit_fill):
        fill = moved(rates.terms, base, -(position.side * slippage))
    pnl = signed * (fill - position.entry)
    left = (position.margin - paid) + pnl
    if not left > 0.0:
        return Closing(fill, 0.0, 0.0, 0.0, 0.0 - left, 0.0, pnl, -paid)
    if reason == END:
        return Closing(fill, 0.0, 0.0, 0.0, 0.0, left, pnl, -paid)
    turned = position.quantity * fill
    charge = rates.maker_fee if limit_fill else rates.taker_fee
    fee = min(charge * turned, left)
    rest = left - fee
    if reason != LIQUIDATION:
        return Closing(fill, fee, 0.0, 0.0, 0.0, rest, pnl, -paid)
    penalty = min(rates.liquidation_fee * turned, rest)
    rest = rest - penalty
    surplus = rates.surplus_to_fund * rest
    return Closing(fill, fee, penalty, surplus, 0.0, rest - surplus, pnl, -paid)
