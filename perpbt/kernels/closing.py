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
    back: float  # to the trader; below 0: what the trader owes
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
def outcome(position: Position, fill: float, funding: float) -> tuple[float, float, float]:
    """Of a position closed at `fill`: PnL of the price, funding paid since the entry, and what is left of the margin."""
    signed = position.side * position.quantity
    paid = signed * (funding - position.funding)
    pnl = signed * (fill - position.entry)
    return pnl, paid, (position.margin - paid) + pnl


@part
def lost(rates: Rates, fill: float, pnl: float, paid: float, left: float) -> Closing:
    """Nothing is left of the margin: what was lost beyond it is a deficit of the fund, or without protection the trader's debt."""
    if rates.protected:
        return Closing(fill, 0.0, 0.0, 0.0, 0.0 - left, 0.0, pnl, -paid)
    return Closing(fill, 0.0, 0.0, 0.0, 0.0, left, pnl, -paid)


@part
def shared_out(
    rates: Rates,
    fill: float,
    pnl: float,
    paid: float,
    left: float,
    turned: float,
    charge: float,
    penalty_rate: float,
    share: float,
) -> Closing:
    """The waterfall of a liquidation: fees on what was `turned` over, then the fund's `share` of the rest; or a deficit."""
    if not left > 0.0:
        return lost(rates, fill, pnl, paid, left)
    fee = min(charge * turned, left)
    rest = left - fee
    penalty = min(penalty_rate * turned, rest)
    rest = rest - penalty
    surplus = share * rest
    return Closing(fill, fee, penalty, surplus, 0.0, rest - surplus, pnl, -paid)


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
    fill = base
    if reason != END and not (reason == TAKE_PROFIT and limit_fill):
        fill = moved(rates.terms, base, -(position.side * slippage))
    pnl, paid, left = outcome(position, fill, funding)
    turned = position.quantity * fill
    if reason == LIQUIDATION:
        return shared_out(
            rates,
            fill,
            pnl,
            paid,
            left,
            turned,
            rates.taker_fee,
            rates.liquidation_fee,
            rates.surplus_to_fund,
        )
    if not left > 0.0:
        return lost(rates, fill, pnl, paid, left)
    if reason == END:
        return Closing(fill, 0.0, 0.0, 0.0, 0.0, left, pnl, -paid)
    charge = rates.maker_fee if limit_fill else rates.taker_fee
    fee = min(charge * turned, left)
    return Closing(fill, fee, 0.0, 0.0, 0.0, left - fee, pnl, -paid)
