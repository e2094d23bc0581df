"""What a fill brings the fund or costs it, and who bears a loss that the fund cannot: clawback, by size, nobody.

Plain numbers and arrays of money in quote (settlement) currency.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from perpbt.adl.candidates import Floats
from perpbt.adl.filling import total
from perpbt.errors import InputError


def _at_least_zero(**amounts: float) -> None:
    for name, amount in amounts.items():
        if not (isinstance(amount, Real) and math.isfinite(amount) and amount >= 0.0):
            raise InputError(f"{name} is {amount!r}; allowed: finite numbers of at least 0")


def fund_flow(
    side: int, quantity: float, bankruptcy: float, fill: float, *, fee_cap: float | None = None
) -> float:
    """What the fund gains (or loses, < 0) when a taken-over position is closed at `fill`: s·quantity·(fill -
    bankruptcy), prices in quote currency.

    With `fee_cap` the fund's gain is a liquidation fee of at most that fraction of the value closed, and the
    rest of the gain is the trader's (dYdX); without, all is the fund's (BitMEX, Bybit).
    """
    if side not in (1, -1):
        raise InputError(f"side is {side!r}; allowed: 1 (long), -1 (short)")
    _at_least_zero(quantity=quantity, fill=fill, fee_cap=0.0 if fee_cap is None else fee_cap)
    if not (isinstance(bankruptcy, Real) and math.isfinite(bankruptcy)):
        raise InputError(f"bankruptcy is {bankruptcy!r}; allowed: finite numbers")
    gain = side * (quantity * fill - quantity * bankruptcy)
    return gain if fee_cap is None or gain <= 0.0 else min(gain, fee_cap * (quantity * fill))


class Balance(NamedTuple):
    """How an equity below zero is settled; money."""

    kept: float  # what the trader has left
    charged: float  # to the fund
    owed: float  # by the trader


def settle_balance(equity: float, *, protected: bool = True) -> Balance:
    """What is left of an account whose position is gone.

    With negative-balance protection a negative balance is set to 0 and charged to the fund (Binance, Deribit,
    Kraken); without, the trader owes it and the fund is not touched.
    """
    if not (isinstance(equity, Real) and math.isfinite(equity)):
        raise InputError(f"equity is {equity!r}; allowed: finite numbers")
    loss = max(-equity, 0.0)
    return Balance(max(equity, 0.0), loss if protected else 0.0, 0.0 if protected else loss)


class Clawback(NamedTuple):
    """What winners pay back."""

    rate: float  # of every profit
    paid: Floats  # by each, money
    uncovered: float  # of the loss, if profits are too small


def clawback(loss: float, fund: float, profits: npt.ArrayLike) -> Clawback:
    """Every profit of a settlement period pays the same share of the loss the fund cannot pay.

    rate = max(0, loss - fund) / sum of (profit)+, at most 1. Source: OKEx futures rules of 2018-2020 (31 July
    2018: about 18 %); BitMEX's dynamic profit equalisation of 2015 and Deribit's socialised loss are the same
    with a day as the period.
    """
    _at_least_zero(loss=loss, fund=fund)
    gained = np.maximum(np.asarray(profits, dtype=np.float64), 0.0)
    if not np.isfinite(gained).all():
        row = int(np.flatnonzero(~np.isfinite(gained))[0])
        raise InputError(f"profits[{row}] is {float(gained[row])!r}; allowed: finite numbers")
    short, whole = max(0.0, loss - fund), total(gained)
    rate = min(short / whole, 1.0) if whole > 0.0 else 0.0
    return Clawback(rate, rate * gained, max(short - whole, 0.0))


class BySize(NamedTuple):
    """How a bankruptcy is resolved where all bear it by size."""

    insurance: float  # paid by the fund, money
    fee_pool: float  # paid by the market's fees, money
    socialised: float  # the rest, money
    per_unit: float  # taken for each base unit of every position, long or short, money


def socialise_by_size(
    loss: float,
    *,
    fund: float,
    market_cap: float = math.inf,
    fee_pool: float = 0.0,
    long_quantity: float,
    short_quantity: float,
    step: float = 1e-9,
    reserve: float = 1.0,
) -> BySize:
    """Loss of a bankruptcy spread over both sides in proportion to size.

    The fund pays min(loss, fund - reserve, market_cap left), then the market's fee pool, and the rest is
    rounded up to whole `step`s for each base unit held, long or short, as a charge on cumulative funding.
    `reserve` and `step` are one unit and one billionth of the currency. Source: Drift protocol v2,
    controller/liquidation.rs and math/liquidation.rs.

    Raises InputError where a loss is left and nobody holds anything.
    """
    _at_least_zero(
        loss=loss, fund=fund, fee_pool=fee_pool, long_quantity=long_quantity, short_quantity=short_quantity
    )
    if not (math.isfinite(step) and step > 0.0):
        raise InputError(f"step is {step!r}; allowed: finite numbers above 0")
    insurance = max(min(loss, fund - reserve, market_cap), 0.0)
    fees = min(loss - insurance, fee_pool)
    rest = loss - insurance - fees
    if rest <= 0.0:
        return BySize(insurance, fees, 0.0, 0.0)
    held = long_quantity + short_quantity
    if held == 0.0:
        raise InputError("long_quantity and short_quantity are 0; allowed: somebody who bears the rest")
    return BySize(insurance, fees, rest, math.ceil(rest / held / step) * step)


def haircut_gap(profits: npt.ArrayLike, taken: float) -> float:
    """How much more the winner with the largest profit keeps under pro-rata than under a queue he heads:
    taken·(1 - w/U), w his profit, U all profits; money.

    For `taken` up to his profit. Source: arXiv 2512.01112, which states it of the largest surviving profit;
    that holds only while the same winner stays the largest (taken <= w - the second largest).
    """
    gained = np.maximum(np.asarray(profits, dtype=np.float64), 0.0)
    top = float(gained.max(initial=0.0))
    if not 0.0 <= taken <= top:
        raise InputError(f"taken is {taken!r}; allowed: 0 to the largest profit, {top!r}")
    return taken * (1.0 - top / total(gained)) if top > 0.0 else 0.0
