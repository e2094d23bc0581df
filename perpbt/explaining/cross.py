"""One wallet behind several positions: the cross-margin formulas that venues publish.

In: a wallet balance and the positions it backs, all settled in the same currency. Out: equity, what must be
kept, and the prices at which they meet. A position's own `margin` is not read here: the wallet is the margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from perpbt.contracts import Found, Line, Maintenance, Position, liquidation_price, require
from perpbt.errors import InputError


class Held(NamedTuple):
    """A position, the rule it is kept by, and its mark price."""

    position: Position
    maintenance: Maintenance
    mark: float


def cross_equity(wallet: float, held: Sequence[Held]) -> float:
    """Wallet + profits at mark - funding paid."""
    return wallet + math.fsum(one.position.pnl(one.mark) - one.position.funding_paid for one in held)


def cross_required(held: Sequence[Held]) -> float:
    """Sum of what each position must keep at its mark.

    Raises InputError for a fee to close: it is charged at a bankruptcy price, which needs a margin of its own.
    """
    for one in held:
        fee = one.maintenance.fee_to_close
        require("fee_to_close", fee, "0 among several positions of a wallet", fee == 0.0)
    return math.fsum(one.maintenance.required(one.position, one.mark) for one in held)


def margin_left(wallet: float, others: Sequence[Held]) -> float:
    """What one position can lose of a wallet: the wallet, less what the others keep, plus their profit.

    The WB - TMM + UPNL of Binance's formula.
    """
    return cross_equity(wallet, others) - cross_required(others)


def cross_liquidation_price(wallet: float, held: Sequence[Held], index: int) -> Found:
    """Where the account is liquidated if only the price of position `index` moves (Binance, one-way mode).

    The others stay at their marks. Sources: Binance, How to calculate liquidation price of USD-M, and of
    COIN-M, futures contracts; Bybit's inverse cross formula is this with maintenance on entry and a fee to
    close.
    """
    if not 0 <= index < len(held):
        raise InputError(f"index = {index!r}: must be in [0, {len(held) - 1}]")
    others = [one for place, one in enumerate(held) if place != index]
    position, maintenance, mark = held[index]
    return liquidation_price(replace(position, margin=margin_left(wallet, others)), maintenance, mark)


def hedged_liquidation_prices(
    wallet: float, legs: Sequence[Held], others: Sequence[Held] = ()
) -> tuple[Found, Found]:
    """The prices below and above which legs on one contract are liquidated together (Binance, hedge mode).

    Both exist where legs nearly cancel: what must be kept grows with the price. Each is a root of Binance's
    shared formula in the brackets that hold the legs there. Raises InputError for legs of different
    contracts, and for stepped rules or rates that grow with an inverse size.
    """
    contract = legs[0].position.contract
    lines = [one.maintenance.lines(one.position) for one in legs]
    for one, parts in zip(legs, lines, strict=True):
        if one.position.contract != contract:
            raise InputError(f"contract = {one.position.contract!r}: must be {contract!r}, as the first leg")
        if one.maintenance.stepped or any(part.growth for part in parts):
            raise InputError("maintenance: must be a schedule of straight lines for legs that share a price")
    cross_required(legs)  # for its checks
    sizes = [one.position.quantity * contract.multiplier for one in legs]
    left = margin_left(wallet, others) - math.fsum(one.position.funding_paid for one in legs)
    edges = {part.cap / size for parts, size in zip(lines, sizes, strict=True) for part in parts[:-1]}
    low, high = 0.0, math.inf
    for inside in _between(sorted(edges)):
        slope, level = _balance(legs, lines, sizes, inside)
        level += left
        # What is left is concave in x, so it is above 0 exactly where all its straight pieces are.
        if slope > 0.0:
            low = max(low, -level / slope)
        elif slope < 0.0:
            high = min(high, -level / slope)
        elif level <= 0.0:
            low = math.inf
    if low >= high:
        nowhere = Found(None, None, "equity is at or below what it must keep at every price")
        return nowhere, nowhere
    if contract.kind == "inverse":
        low, high = 1.0 / high, 1.0 / low if low else math.inf
    never = "equity stays above what it must keep however far the price"
    return (
        Found(low) if low > 0.0 else Found(None, None, f"{never} falls"),
        Found(high) if high < math.inf else Found(None, None, f"{never} rises"),
    )


def _between(edges: Sequence[float]) -> list[float]:
    """A point inside each stretch that the edges cut (0, inf) into."""
    if not edges:
        return [1.0]
    return [(low + high) / 2.0 for low, high in pairwise([0.0, *edges])] + [2.0 * edges[-1]]


def _balance(
    legs: Sequence[Held], lines: Sequence[Sequence[Line]], sizes: Sequence[float], inside: float
) -> tuple[float, float]:
    """Profit less what must be kept, over legs, as slope * x + level around x = `inside`."""
    slopes, levels = [], []
    for one, parts, size in zip(legs, lines, sizes, strict=True):
        value = size * inside
        line = max(parts, key=lambda part: value * part.rate - part.deduction)
        direction, entry = one.position.direction, one.position.value(one.position.entry_price)
        slopes.append(size * (direction - line.rate))
        levels.append(line.deduction - direction * entry)
    return math.fsum(slopes), math.fsum(levels)


def cross_bankruptcy_price(wallet: float, held: Sequence[Held], index: int) -> float:
    """The price at which closing position `index` uses up its share of the account's equity (dYdX v4).

    Equity is split over positions in proportion to their maintenance margins at mark. For a linear contract;
    below 0 means that no price is low enough. Source: dYdX v4, bankruptcy price of a subaccount.
    """
    position, maintenance, mark = held[index]
    if position.contract.kind != "linear":
        raise InputError(f"contract = {position.contract.kind!r}: must be linear for a bankruptcy quote")
    kept, total = maintenance.required(position, mark), cross_required(held)
    require("maintenance margin of the account", total, "above 0", total > 0.0)
    share = cross_equity(wallet, held) * kept / total
    return mark - position.direction * share / (position.quantity * position.contract.multiplier)


def cross_margin_ratio(
    balance: float,
    realised: float,
    unrealised: float,
    value: float,
    order_margin: float = 0.0,
    leverage: float = 1.0,
) -> float:
    """(balance + realised + unrealised) / (value + order margin * leverage), as OKX publishes it.

    Here larger is safer: liquidated below the maintenance rate plus the liquidation fee rate. With the margin
    of one position in place of the balance it is the isolated ratio.
    """
    exposure = value + order_margin * leverage
    require("value", value, "such that value + order_margin * leverage is above 0", exposure > 0.0)
    return (balance + realised + unrealised) / exposure


def before_liquidation(price: float, entry_price: float, share: float) -> float:
    """A price that `share` of the way from a liquidation price back to entry: a safety margin (freqtrade)."""
    require("share", share, "in [0, 1]", 0.0 <= share <= 1.0)
    return price + share * (entry_price - price)
