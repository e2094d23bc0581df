"""All that closes at once in a wallet, and what pays for it: liquidation and its waterfall, the end of the data, assets sold (§6).

Shapes: see `.cross`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from .shapes import Record
from .standing import (
    AT_CLOSE,
    gross,
    held,
    is_worse_low,
    leg_required,
    look,
    net,
    prices_at,
    symbol_required,
    symbols_of,
)


def moved(price: float, share: float, venue: Record) -> float:
    """A price higher by a share of it; of an inverse contract the reading of a price lower by it."""
    return price / (1 - share) if venue.get("inverse") else price * (1 + share)


def see_value(a: Record, value: float) -> None:
    """The running peak of the wallet's equity and the deepest fall below it."""
    a["peak"] = max(a["peak"], value)
    a["drawdown"] = max(a["drawdown"], (a["peak"] - value) / a["peak"])


# -------------------------------------------------------------------------------------------------------- legs
def close_leg(leg: Record, t: int, phase: str, reason: str, base: float, fill: float, cf: float) -> None:
    """PnL and funding of a leg closed at `fill`."""
    signed = leg["side"] * leg["quantity"]
    leg.update(
        status="closed", exit_reason=reason, exit_bar=t, phase=phase, base=base, exit_price=fill, cf_exit=cf,
        pnl=signed * (fill - leg["entry_price"]), funding=-(signed * (cf - leg["cf_entry"])),
    )  # fmt: skip


def settle_leg(a: Record, leg: Record, fee: float, penalty: float, surplus: float, deficit: float) -> None:
    """What a leg came to; negative where the rest of the wallet paid for it."""
    leg.update(close_fee=fee, liquidation_fee=penalty, surplus=surplus, deficit=deficit)
    brought = (leg["collateral"] + leg["reserve"]) - leg["entry_fee"]
    leg["back"] = ((((brought + leg["funding"]) + leg["pnl"]) - fee) - penalty) - surplus + deficit
    a["surplus"], a["deficit"] = a["surplus"] + surplus, a["deficit"] + deficit


# -------------------------------------------------------------------------------------------- liquidation (§6)
def shares(a: Record, t: int, prices: Mapping[str, float]) -> list[float]:
    """Of surplus and deficit by leg: pro rata to maintenance at the point tested (dYdX); portfolio margin: to notional."""
    return divided(weights(a, prices))


def summed(values: list[float]) -> float:
    """Added up in their order, as anybody would."""
    total = 0.0
    for value in values:
        total = total + value
    return total


def divided(values: list[float]) -> list[float]:
    """Parts of 1; equal ones where nothing weighs."""
    total = summed(values)
    return [value / total if total > 0 else 1.0 / len(values) for value in values]


def liquidate(a: Record, t: int, phase: str, names: tuple[str, str]) -> None:
    """Below what it must keep at a tested point: everything is closed, or symbols in turn until the account stands at that point."""
    a["liquidations"] = a["liquidations"] + 1
    a["liquidated_at"] = t if a["liquidated_at"] is None else a["liquidated_at"]
    while a["terms"].get("in_turn") and len(symbols_of(a)) > 1:
        close_heaviest(a, t, phase, names)
        left, kept = look(a, t, names)
        if left > kept:
            return
    close_all(a, t, phase, names)


def weights(a: Record, prices: Mapping[str, float]) -> list[float]:
    """Of open legs: maintenance at the point tested; portfolio margin: notional."""
    found = []
    for leg in held(a):
        symbol, price = leg["symbol"], prices[leg["symbol"]]
        if a["terms"]["mode"] == "portfolio":
            weight = leg["quantity"] * price
        elif a["terms"]["legs"] == "one_way":
            weight = symbol_required(a, symbol, price) * (leg["quantity"] / gross(a, symbol))
        else:
            weight = leg_required(leg["quantity"], leg["entry_price"], price, a["venues"][symbol])
        found.append(weight)
    return found


def close_heaviest(a: Record, t: int, phase: str, names: tuple[str, str]) -> None:
    """The positions on the symbol that must keep most are closed, the first of those that keep as much; fees are paid in full, for the
    account goes on.
    """
    heaviest, most = "", -math.inf
    of = list(zip(held(a), weights(a, prices_at(a, t, names)), strict=True))
    for symbol in symbols_of(a):
        weight = summed([one for leg, one in of if leg["symbol"] == symbol])
        if weight > most:
            heaviest, most = symbol, weight
    legs, fees, penalties = close_symbol(a, t, phase, names, heaviest)
    for leg, fee, penalty in zip(legs, fees, penalties, strict=True):
        a["cash"] = (((a["cash"] + leg["funding"]) + leg["pnl"]) - fee) - penalty
        settle_leg(a, leg, fee, penalty, 0.0, 0.0)


def close_symbol(
    a: Record, t: int, phase: str, names: tuple[str, str], symbol: str
) -> tuple[list[Record], list[float], list[float]]:
    """The open legs of a symbol closed at one price, the last price of the point tested, worsened by the impact of their net quantity:
    the legs, and what each owes in fees and penalties.
    """
    bar, quantity, venue = a["bars"][symbol][t], net(a, symbol), a["venues"][symbol]
    worse_low = is_worse_low(a, symbol, bar, *names)
    base = bar[(names[0] if worse_low else names[1]).removeprefix("mark_")]
    side = (quantity > 0) - (quantity < 0)
    slip = slip_of(bar, sold_with(a, (symbol, side, t, phase), abs(quantity) * base), venue)
    fill = moved(base, -(side * slip), venue)
    legs, whole = [leg for leg in held(a) if leg["symbol"] == symbol], gross(a, symbol)
    fees, penalties = [], []
    for leg in legs:
        turned = leg["quantity"] * fill
        if a["terms"]["legs"] == "one_way":
            turned = (abs(quantity) * fill) * (leg["quantity"] / whole)
        fees.append(venue["taker_fee"] * turned)
        penalties.append(venue["liquidation_fee"] * turned)
        close_leg(leg, t, phase, "liquidation", base, fill, bar["cf"])
    return legs, fees, penalties


def close_all(a: Record, t: int, phase: str, names: tuple[str, str]) -> None:
    """All open legs closed at once; then the waterfall of the account."""
    share = shares(a, t, prices_at(a, t, names))
    legs: list[Record] = []
    fees: list[float] = []
    penalties: list[float] = []
    for symbol in symbols_of(a):
        closed, dues, fines = close_symbol(a, t, phase, names, symbol)
        legs, fees, penalties = legs + closed, fees + dues, penalties + fines
    left = a["cash"]
    for leg in legs:
        left = (left + leg["funding"]) + leg["pnl"]
    a["cash"] = left
    convert(a, t, phase, summed(fees) + summed(penalties))
    left = a["cash"]
    fees, left = paid(fees, left)
    penalties, left = paid(penalties, left)
    surplus = deficit = 0.0
    if left > 0:
        surplus = a["venues"][legs[0]["symbol"]]["surplus_to_fund"] * left
        left = left - surplus
    else:
        deficit, left = 0.0 - left, 0.0
    for leg, part, fee, penalty in zip(legs, share, fees, penalties, strict=True):
        settle_leg(a, leg, fee, penalty, surplus * part, deficit * part)
    a["cash"] = left
    see_value(a, a["cash"] + asset_value(a, t, phase))


def sold_with(a: Record, what: tuple[str, int, int, str], own: float) -> float:
    """What the world of the wallet sells in this symbol, on this side, at this moment, as `.crowds` knows; without crowds its own."""
    crowds: Mapping[object, float] | None = a["terms"].get("crowds")
    if crowds is None or not own > 0:
        return own
    who = (a["terms"]["world"], *what)
    a["sold"].append((who, own))
    return crowds.get(who, own)


def slip_of(bar: Record, volume: float, venue: Record) -> float:
    """Half-spread plus the square-root law against the bar's turnover; flat where that is not known."""
    if bar["turnover"] is None or not bar["turnover"] > 0:
        return venue["slippage"]
    impact = (venue["impact"] * bar["sigma"]) * math.sqrt(volume / bar["turnover"])
    return min(venue["half_spread"] + impact, venue["max_slippage"])


def paid(dues: list[float], left: float) -> tuple[list[float], float]:
    """What is due out of what is left, all in full or each the same part of it."""
    if not left > 0:
        return [0.0 for _ in dues], left
    total = summed(dues)
    if total <= left:
        return dues, left - total
    return [left * (due / total) for due in dues], 0.0


def mark_out(a: Record, t: int) -> None:
    """The end of the data: marked at the last mark close, without fee or slippage."""
    legs, prices = held(a), prices_at(a, t, AT_CLOSE)
    share = shares(a, t, prices)
    left = a["cash"]
    for leg in legs:
        price = prices[leg["symbol"]]
        close_leg(leg, t, "C", "end", price, price, a["bars"][leg["symbol"]][t]["cf"])
        left = (left + leg["funding"]) + leg["pnl"]
    a["cash"] = left
    convert(a, t, "C", 0.0)
    deficit = 0.0
    if a["cash"] < 0.0:
        deficit, a["cash"] = 0.0 - a["cash"], 0.0
    for leg, part in zip(legs, share, strict=True):
        settle_leg(a, leg, 0.0, 0.0, 0.0, deficit * part)
    see_value(a, a["cash"] + asset_value(a, t, "C"))


# --------------------------------------------------------------------------------------- assets held as collateral
def bring_assets(a: Record, t: int) -> bool:
    """The account brings its assets with the first position it opens."""
    if a["assets"] or a["carrier"] is not None or not a["terms"]["assets"]:
        return False
    a["assets"] = [dict(asset) for asset in a["terms"]["assets"]]
    return True


def asset_value(a: Record, t: int, phase: str) -> float:
    """Of all assets at their price, without haircut: at the open of the bar in phase B, else at its close."""
    total = 0.0
    for asset in a["assets"]:
        bar = a["bars"][asset["name"]][t]
        total = total + asset["amount"] * bar["mark_open" if phase == "B" else "mark_close"]
    return total


def convert(a: Record, t: int, phase: str, needed: float) -> None:
    """Sell assets in their order, at the open of the bar in phase B or else at its close, less the conversion fee, until there is as much
    cash as needed.
    """
    for asset in a["assets"]:
        if not (a["cash"] < needed and asset["amount"] > 0.0):
            continue
        price = a["bars"][asset["name"]][t]["mark_open" if phase == "B" else "mark_close"]
        worth = price * (1.0 - asset["conversion_fee"])
        amount = min(asset["amount"], (needed - a["cash"]) / worth)
        rest = asset["amount"] - amount
        proceeds = amount * worth
        a["cash"] = needed if rest > 0.0 else a["cash"] + proceeds
        a["converted"] = a["converted"] + proceeds
        asset["counted"] = asset["counted"] * (rest / asset["amount"])
        asset["amount"] = rest


def book_assets(a: Record, t: int) -> None:
    """Profit and loss of the assets, into the leg with which they came."""
    leg = a["carrier"]
    if leg is None:
        return
    a["assets_worth"] = asset_value(a, t, "C")
    a["asset_pnl"] = (a["converted"] + a["assets_worth"]) - a["assets_from"]
    leg["pnl"] = leg["pnl"] + a["asset_pnl"]
    leg["back"] = (leg["back"] + a["assets_from"]) + a["asset_pnl"]
