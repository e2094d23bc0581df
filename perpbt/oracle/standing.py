"""How a wallet stands at a point of a bar: what is held, equity, and what must be kept (§4). Shapes: see `.cross`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .margin import required as required_alone
from .readings import required as required_in_coin
from .scenarios import portfolio_required
from .shapes import Record

AT_OPEN = ("mark_open", "mark_open")
AT_CLOSE = ("mark_close", "mark_close")
AT_EXTREMES = ("mark_low", "mark_high")
EVEN = 1e-12  # of what is held: legs whose net is no more cancel, but for rounding


def held(a: Record) -> list[Record]:
    """The open legs."""
    return [leg for leg in a["legs"] if leg["status"] == "open"]


def symbols_of(a: Record) -> list[str]:
    """The symbols of open legs."""
    return sorted({leg["symbol"] for leg in held(a)})


def net(a: Record, symbol: str) -> float:
    """Signed quantity over the open legs of a symbol."""
    total = 0.0
    for leg in held(a):
        if leg["symbol"] == symbol:
            total = total + leg["side"] * leg["quantity"]
    return total


def gross(a: Record, symbol: str) -> float:
    """Quantity over the open legs of a symbol, whatever their sides."""
    total = 0.0
    for leg in held(a):
        if leg["symbol"] == symbol:
            total = total + leg["quantity"]
    return total


# ------------------------------------------------------------------------------------- equity against requirement
def prices_at(a: Record, t: int, names: tuple[str, str]) -> dict[str, float]:
    """Marks of every held symbol and asset: the first name, or the second where that is the worse."""
    low, high = names
    prices = {}
    for symbol in symbols_of(a):
        bar = a["bars"][symbol][t]
        prices[symbol] = bar[low] if is_worse_low(a, symbol, bar, low, high) else bar[high]
    for asset in a["assets"]:
        prices.setdefault(asset["name"], a["bars"][asset["name"]][t][low])
    return prices


def is_worse_low(a: Record, symbol: str, bar: Record, low: str, high: str) -> bool:
    """Is the lower of two marks the one that leaves the account less above its requirement?"""
    quantity = net(a, symbol)
    if a["terms"]["mode"] == "portfolio":
        return quantity > 0.0
    spare = [quantity * bar[name] - symbol_required(a, symbol, bar[name]) for name in (low, high)]
    return spare[0] <= spare[1]


def equity(a: Record, t: int, prices: Mapping[str, float]) -> float:
    """E at these marks."""
    total = a["cash"]
    for leg in held(a):
        total = total - (leg["side"] * leg["quantity"]) * (leg["entry_price"] - leg["cf_entry"])
    for symbol in symbols_of(a):
        total = total + net(a, symbol) * (prices[symbol] - a["bars"][symbol][t]["cf"])
    for asset in a["assets"]:
        total = total + asset["counted"] * prices[asset["name"]]
    return total


def symbol_required(a: Record, symbol: str, price: float) -> float:
    """What the open legs of a symbol must keep at a mark price, hedge mode leg by leg, one-way mode for their net quantity."""
    venue, total = a["venues"][symbol], 0.0
    if a["terms"]["legs"] == "one_way":
        return leg_required(abs(net(a, symbol)), average_entry(a, symbol), price, venue)
    for leg in held(a):
        if leg["symbol"] == symbol:
            total = total + leg_required(leg["quantity"], leg["entry_price"], price, venue)
    return total


def average_entry(a: Record, symbol: str) -> float:
    """Entry price over the open legs of a symbol, by quantity."""
    value = 0.0
    for leg in held(a):
        if leg["symbol"] == symbol:
            value = value + leg["quantity"] * leg["entry_price"]
    return value / gross(a, symbol)


def leg_required(quantity: float, entry: float, price: float, venue: Record) -> float:
    """What a quantity on one symbol must keep, by the venue's rule, as an isolated position of that size must."""
    if venue.get("inverse"):
        return required_in_coin({"quantity": quantity, "entry": entry}, price, venue)
    return required_alone({"quantity": quantity, "entry": entry}, price, venue)


def required(a: Record, prices: Mapping[str, float]) -> float:
    """What the account must keep at these marks."""
    if a["terms"]["mode"] == "portfolio":
        return portfolio_required(net_values(a, prices), a["terms"]["portfolio"])
    total = 0.0
    for symbol in symbols_of(a):
        total = total + symbol_required(a, symbol, prices[symbol])
    return total


def net_values(a: Record, prices: Mapping[str, float]) -> list[Record]:
    """Net and gross value on each symbol, and of assets held as collateral that are netted with them."""
    values = [
        {"name": s, "value": net(a, s) * prices[s], "gross": gross(a, s) * prices[s]} for s in symbols_of(a)
    ]
    return values + [
        {"unit": asset["unit"], "name": asset["name"], "value": asset["amount"] * prices[asset["name"]], "gross": 0.0}
        for asset in a["assets"] if asset["unit"] is not None
    ]  # fmt: skip


def ratio(kept: float, left: float) -> float:
    """Requirement over equity: 1 is liquidation."""
    return kept / left if left > 0 else math.inf


def look(a: Record, t: int, names: tuple[str, str]) -> tuple[float, float]:
    """Equity and requirement at a point of the bar."""
    prices = prices_at(a, t, names)
    return equity(a, t, prices), required(a, prices)


def liquidation_price(a: Record, t: int, symbol: str, inside: float, beyond: float | None) -> float:
    """Where the account is liquidated if only this symbol's mark moves from `inside`, the others at mark open of bar t.

    Towards `beyond` if given; else down for a net long and up for the others. The nearest float that liquidates; 0 or infinity if
    none does.
    """

    def fails(price: float) -> bool:
        prices = {**prices_at(a, t, AT_OPEN), symbol: price}
        return equity(a, t, prices) <= required(a, prices)

    if beyond is None:
        beyond = 0.0 if net(a, symbol) > EVEN * gross(a, symbol) else inside
        for _ in range(60):
            if beyond == 0.0 or fails(beyond):
                break
            beyond = beyond * 2.0
        if not fails(beyond):
            return 0.0 if beyond == 0.0 else math.inf
    if fails(inside):
        return inside
    while True:
        middle = (inside + beyond) / 2.0
        if middle in (inside, beyond):
            return beyond
        if fails(middle):
            beyond = middle
        else:
            inside = middle


def bankruptcy_price(a: Record, t: int, symbol: str) -> float:
    """Where the account's equity is 0 if only this symbol's mark moves, the others at mark open of bar t; assets priced by the symbol
    move with it.

    Equity is a straight line in the mark. 0 or infinity where it is 0 at no price.
    """
    slope = net(a, symbol)
    for asset in a["assets"]:
        if asset["name"] == symbol:
            slope = slope + asset["counted"]
    rest = equity(a, t, {**prices_at(a, t, AT_OPEN), symbol: 0.0})
    price = (0.0 - rest) / slope if slope != 0.0 else 0.0
    if price > 0.0:
        return price
    return 0.0 if slope > 0.0 else math.inf
