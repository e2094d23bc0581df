"""One wallet behind several positions, bar after bar in plain Python (§4 cross and portfolio margin).

A leg: {"symbol", "side" (+1 | -1), "entry" (index of the bar it opens at, None: no such bar), "due" (index of the bar of its time
exit or None), "collateral", "reserve", "leverage", "margin_buffer", "stop", "trailing", "take_profit" (fractions of the entry price, of
the best price or None), "stop_trigger", "trailing_trigger", "take_profit_trigger"}. `bars` maps a symbol to its bars on the common grid
(`.grid`), each with its CF as "cf", its "turnover" (None: not known) and its "sigma" (NaN where the symbol has no bar of its own).
`venues` maps a symbol to what the venue charges and requires there, as in the rest of this room, its "epochs" in bars of the grid. `terms`: {"mode" ("cross" |
"portfolio"), "legs" ("hedge" | "one_way"), "extremes" (test all adverse extremes at once instead of the close), "portfolio" (see
`.scenarios`), "assets": a list of {"name" (a key of `bars`), "amount", "counted" (amount after the haircut), "unit" (the risk unit it
is netted in or None), "conversion_fee"} in the order of conversion}; "crowds" and "world": see `.crowds`.

An inverse contract ("inverse" of its venue) is worked out in readings 1 / P, as in `.inverse`, each price read once: there a long is
a short, and its CF has the other sign. Its legs are told so in the result.

Money of the wallet: equity = base + sum of q_s (P_s - CF_s) + sum of counted amount * price, with q_s the net quantity on a symbol and
base = cash - sum of q (entry - CF_e), legs in their order: symbol, entry, side, then size and levels. Nothing depends on the order in
which legs are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from .margin import grown, in_force
from .orders import adverse_exit, exit_at_open, favourable_exit, stopped, stretch
from .readings import ticked
from .shapes import Bars, Record
from .standing import (
    AT_CLOSE,
    AT_EXTREMES,
    AT_OPEN,
    bankruptcy_price,
    equity,
    gross,
    held,
    is_worse_low,
    leg_required,
    liquidation_price,
    look,
    net,
    prices_at,
    ratio,
    symbol_required,
    symbols_of,
)
from .steps import placed, whole_lots


# ------------------------------------------------------------------------------------------------- a wallet
def order_of(leg: Record) -> tuple[object, ...]:
    """By what legs are put in order; legs that agree in all of it are the same."""

    def number(name: str, absent: float = -1.0) -> float:
        return absent if leg[name] is None else leg[name]

    return (
        leg["symbol"], number("entry", math.inf), leg["side"], leg["leverage"], leg["collateral"], leg["reserve"],
        leg["margin_buffer"], number("stop"), number("trailing"), number("take_profit"), number("due"),
        leg["stop_trigger"], leg["trailing_trigger"], leg["take_profit_trigger"],
    )  # fmt: skip


def run_wallet(
    bars: Mapping[str, Bars],
    legs: Iterable[Record],
    venues: Mapping[str, Record],
    rules: Record,
    terms: Record,
) -> Record:
    """All legs of one account to their end: {"legs": in their order, "wallet": what came of the wallet}."""
    inverse = {name for name, venue in venues.items() if venue.get("inverse")}
    bars = {name: [in_readings(bar) for bar in own] if name in inverse else own for name, own in bars.items()}
    legs = [
        {
            **leg,
            "status": "waiting",
            "number": k,
            "side": -leg["side"] if leg["symbol"] in inverse else leg["side"],
        }
        for k, leg in enumerate(legs)
    ]
    legs.sort(key=order_of)
    a: Record = {
        "bars": bars, "legs": legs, "venues": venues, "rule_books": venues, "rules": rules, "terms": terms, "cash": 0.0, "peak": 0.0, "drawdown": 0.0,
        "worst": 0.0, "brought": 0.0, "surplus": 0.0, "deficit": 0.0, "liquidations": 0, "liquidated_at": None,
        "sold": [], "assets": [], "asset_pnl": 0.0, "assets_worth": 0.0, "converted": 0.0, "carrier": None,
    }  # fmt: skip
    for leg in legs:
        if leg["entry"] is None:
            leg.update(status="rejected", rejection="no_bar")
    count = len(next(iter(bars.values())))
    first = min((leg["entry"] for leg in legs if leg["entry"] is not None), default=count)
    for t in range(first, count):
        run_bar(a, t)
    if held(a):
        mark_out(a, count - 1)
    book_assets(a, count - 1)
    return {"legs": sorted(legs, key=lambda leg: leg["number"]), "wallet": a}


def in_readings(bar: Record) -> Record:
    """A bar of an inverse contract with 1 / P for every price: what was low is high."""
    found = {**bar, "cf": 0.0 - bar["cf"]}
    for mark in ("", "mark_"):
        for name, source in (("open", "open"), ("high", "low"), ("low", "high"), ("close", "close")):
            found[mark + name] = 1 / bar[mark + source]
    return found


def moved(price: float, share: float, venue: Record) -> float:
    """A price higher by a share of it; of an inverse contract the reading of a price lower by it."""
    return price / (1 - share) if venue.get("inverse") else price * (1 + share)


def level(price: float | None, side: int, venue: Record) -> float | None:
    """A stop or take-profit on a tick, if the venue states any; in readings the trader's side is the other one."""
    if venue.get("inverse") and price is not None:
        return ticked(price, -side, venue)
    return placed(price, side, venue)


# ------------------------------------------------------------------------------------------------ inside a bar
def run_bar(a: Record, t: int) -> None:
    """§2: the open, openings, the range, the close."""
    a["venues"] = {name: in_force(venue, t) for name, venue in a["rule_books"].items()}
    carried = held(a)
    for leg in carried:
        stretch(a, leg, t, "open")
    if carried:
        left, kept = look(a, t, AT_OPEN)
        a["worst"] = max(a["worst"], ratio(kept, left))
        if left <= kept:
            liquidate(a, t, "B", AT_OPEN)
        else:
            for leg in carried:
                leave(a, leg, t, "B", exit_at_open(a, leg, t))
    for leg in a["legs"]:
        if leg["entry"] == t and leg["status"] == "waiting":
            open_leg(a, leg, t)
    fresh = [leg for leg in held(a) if leg["entry"] == t]
    if fresh:
        left, kept = look(a, t, AT_OPEN)
        a["worst"] = max(a["worst"], ratio(kept, left))
    for leg in fresh:
        inside = a["bars"][leg["symbol"]][t]["mark_open"]
        leg["liquidation_price"] = liquidation_price(a, t, leg["symbol"], inside, None)
        leg["bankruptcy_price"] = bankruptcy_price(a, t, leg["symbol"])
    if held(a):
        run_range(a, t)
    for leg in held(a):
        stretch(a, leg, t, "high" if leg["side"] > 0 else "low")
    if held(a):
        see_value(a, close_value(a, t))


def run_range(a: Record, t: int) -> None:
    """§2 C."""
    one, optimistic = len(symbols_of(a)) == 1, a["rules"].get("intrabar", "pessimistic") == "optimistic"
    at_extremes = one or a["terms"]["extremes"]
    if optimistic and at_extremes:
        for leg in held(a):
            leave(a, leg, t, "C", favourable_exit(leg, a["bars"][leg["symbol"]][t]))
    if at_extremes and held(a) and not survives_extremes(a, t, one):
        return
    for leg in held(a):
        bar = a["bars"][leg["symbol"]][t]
        first, second = stopped(leg, bar), favourable_exit(leg, bar)
        leave(a, leg, t, "C", (second or first) if optimistic else (first or second))
    if not held(a):
        return
    left, kept = look(a, t, AT_EXTREMES if at_extremes else AT_CLOSE)
    if at_extremes:
        a["worst"] = max(a["worst"], ratio(kept, left))
        return
    a["worst"] = max(a["worst"], ratio(kept, left))
    if left <= kept:
        liquidate(a, t, "C", AT_CLOSE)


def survives_extremes(a: Record, t: int, one: bool) -> bool:
    """Test the adverse extremes; on one symbol stops that are nearer than the liquidation price go first."""
    while held(a):
        left, kept = look(a, t, AT_EXTREMES)
        if left > kept:
            return True
        leg = nearest_stop(a, t) if one else None
        if leg is None:
            a["worst"] = max(a["worst"], 1.0)
            liquidate(a, t, "C", AT_EXTREMES)
            return False
        leave(a, leg, t, "C", stopped(leg, a["bars"][leg["symbol"]][t]))
    return True


def nearest_stop(a: Record, t: int) -> Record | None:
    """The leg whose stop is met before the liquidation price on the way to the adverse extreme."""
    symbol = symbols_of(a)[0]
    bar = a["bars"][symbol][t]
    end = prices_at(a, t, AT_EXTREMES)[symbol]
    down = 1 if is_worse_low(a, symbol, bar, *AT_EXTREMES) else -1
    limit = liquidation_price(a, t, symbol, bar["mark_open"], end)
    nearest, first = None, -math.inf
    for leg in held(a):
        met = adverse_exit(leg, bar)
        if leg["side"] != down or not met or down * met[1] <= down * limit:
            continue
        if nearest is None or down * met[1] > first:
            nearest, first = leg, down * met[1]
    return nearest


def close_value(a: Record, t: int) -> float:
    """Equity at the mark close."""
    return equity(a, t, prices_at(a, t, AT_CLOSE))


def see_value(a: Record, value: float) -> None:
    """The running peak of the wallet's equity and the deepest fall below it."""
    a["peak"] = max(a["peak"], value)
    a["drawdown"] = max(a["drawdown"], (a["peak"] - value) / a["peak"])


# ------------------------------------------------------------------------------------------------------ opening
def open_leg(a: Record, leg: Record, t: int) -> None:
    """§3: size and checks as for an isolated position; then the whole account must stand at mark open."""
    bar, venue, s = a["bars"][leg["symbol"]][t], a["venues"][leg["symbol"]], leg["side"]
    entry = moved(bar["open"], s * venue["slippage"], venue)
    collateral, leverage, buffered = leg["collateral"], leg["leverage"], 1 + leg["margin_buffer"]
    notional = (collateral * leverage) / (buffered + venue["taker_fee"] * leverage)
    last_cap, clip = venue["tiers"][-1]["cap"], a["rules"].get("oversize", "reject") == "clip"
    oversized = notional > last_cap
    if oversized and not clip:
        return leg.update(status="rejected", rejection="notional_above_last_tier")
    if oversized:
        notional = last_cap
    quantity = notional / entry
    if venue.get("lot"):
        quantity, oversized = whole_lots(quantity, venue), True
        notional = min(quantity * entry, notional)
    if not quantity > 0:
        return leg.update(status="rejected", rejection="below_one_lot")
    margin, fee = (buffered * notional) / leverage, venue["taker_fee"] * notional
    tier, added = (
        next(tier for tier in venue["tiers"] if notional <= tier["cap"]),
        grown(notional if venue.get("inverse") else quantity, venue),  # by its size in coin
    )
    if added > 0 and (tier["rate"] + venue["close_out_rate"]) + added >= 1:
        return leg.update(status="rejected", rejection="notional_above_last_tier")  # no equity is enough
    allowed = 1 / (1 / tier["max_leverage"] + added) if added > 0 else tier["max_leverage"]
    if leverage > allowed:
        return leg.update(status="rejected", rejection="leverage_above_tier_maximum")
    stop = level(None if leg["stop"] is None else moved(entry, -(s * leg["stop"]), venue), s, venue)
    target = None if leg["take_profit"] is None else moved(entry, s * leg["take_profit"], venue)
    target = level(target, s, venue)
    factor = None if leg["trailing"] is None else moved(1.0, -(s * leg["trailing"]), venue)
    if (stop is not None and s * stop >= s * entry) or (target is not None and s * target <= s * entry):
        return leg.update(status="rejected", rejection="stop_beyond_entry")
    if oversized:
        collateral = margin + fee
    fresh = bring_assets(a, t)
    before = a["cash"]
    leg.update(
        status="open", entry_price=entry, quantity=quantity, notional=notional, factor=factor, margin=margin, entry_fee=fee,
        cf_entry=bar["cf"], stop_price=stop, target_price=target, extreme=entry,
    )  # fmt: skip
    a["cash"] = (a["cash"] + (collateral + leg["reserve"])) - fee
    stretch(a, leg, t, "open")
    left, kept = look(a, t, AT_OPEN)
    if left <= kept:
        a["cash"] = before
        if fresh:
            a["assets"] = []
        return leg.update(status="rejected", rejection="liquidated_at_entry")
    brought = collateral + leg["reserve"]
    leg.update(collateral=collateral, top_up=leg["reserve"])
    if fresh:
        worth = asset_value(a, t, "B")
        a["carrier"], a["assets_from"] = leg, worth
        brought = brought + worth
        leg["top_up"] = leg["top_up"] + worth
    a["brought"], a["peak"] = a["brought"] + brought, a["peak"] + brought
    return None


# -------------------------------------------------------------------------------------------------------- exits
def leave(a: Record, leg: Record, t: int, phase: str, leaving: tuple[str, float, bool] | None) -> None:
    """§5: one leg closed by an order of its own. Its fee is cut to what is left only where it leaves the account flat."""
    if leaving is None:
        return
    reason, base, limit = leaving
    bar, venue, s = a["bars"][leg["symbol"]][t], a["venues"][leg["symbol"]], leg["side"]
    fill = base if limit else moved(base, -(s * venue["slippage"]), venue)
    close_leg(leg, t, phase, reason, base, fill, bar["cf"])
    a["cash"] = (a["cash"] + leg["funding"]) + leg["pnl"]
    due = (venue["maker_fee"] if limit else venue["taker_fee"]) * (leg["quantity"] * fill)
    flat = not held(a)
    fee = min(due, max(a["cash"], 0.0)) if flat else due
    a["cash"] = a["cash"] - fee
    deficit = 0.0
    if flat and a["cash"] < 0.0:
        convert(a, t, phase, 0.0)
        if a["cash"] < 0.0:
            deficit, a["cash"] = 0.0 - a["cash"], 0.0
    settle_leg(a, leg, fee, 0.0, 0.0, deficit)
    if flat:
        see_value(a, a["cash"] + asset_value(a, t, phase))


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
    weights = []
    for leg in held(a):
        symbol, price = leg["symbol"], prices[leg["symbol"]]
        if a["terms"]["mode"] == "portfolio":
            weight = leg["quantity"] * price
        elif a["terms"]["legs"] == "one_way":
            weight = symbol_required(a, symbol, price) * (leg["quantity"] / gross(a, symbol))
        else:
            weight = leg_required(leg["quantity"], leg["entry_price"], price, a["venues"][symbol])
        weights.append(weight)
    return divided(weights)


def summed(values: list[float]) -> float:
    """Added up in their order, as anybody would."""
    total = 0.0
    for value in values:
        total = total + value
    return total


def divided(weights: list[float]) -> list[float]:
    """Parts of 1; equal ones where nothing weighs."""
    total = summed(weights)
    return [weight / total if total > 0 else 1.0 / len(weights) for weight in weights]


def liquidate(a: Record, t: int, phase: str, names: tuple[str, str]) -> None:
    """All open legs closed at once at the last price of the point tested; then the waterfall of the account."""
    legs, prices = held(a), prices_at(a, t, names)
    share, fills, nets, totals = shares(a, t, prices), {}, {}, {}
    for symbol in symbols_of(a):
        bar, quantity = a["bars"][symbol][t], net(a, symbol)
        worse_low = is_worse_low(a, symbol, bar, *names)
        base = bar[(names[0] if worse_low else names[1]).removeprefix("mark_")]
        side = (quantity > 0) - (quantity < 0)
        slip = slip_of(bar, sold_with(a, (symbol, side, t, phase), abs(quantity) * base), a["venues"][symbol])
        fills[symbol] = (base, moved(base, -(side * slip), a["venues"][symbol]))
        nets[symbol], totals[symbol] = abs(quantity), gross(a, symbol)
    fees, penalties, left = [], [], a["cash"]
    for leg in legs:
        symbol, venue = leg["symbol"], a["venues"][leg["symbol"]]
        base, fill = fills[symbol]
        close_leg(leg, t, phase, "liquidation", base, fill, a["bars"][symbol][t]["cf"])
        left = (left + leg["funding"]) + leg["pnl"]
        turned = leg["quantity"] * fill
        if a["terms"]["legs"] == "one_way":
            turned = (nets[symbol] * fill) * (leg["quantity"] / totals[symbol])
        fees.append(venue["taker_fee"] * turned)
        penalties.append(venue["liquidation_fee"] * turned)
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
    a["liquidations"] = a["liquidations"] + 1
    a["liquidated_at"] = t if a["liquidated_at"] is None else a["liquidated_at"]
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
