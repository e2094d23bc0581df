"""One wallet behind several positions, bar after bar in plain Python (§4 cross and portfolio margin).

A leg: {"symbol", "side" (+1 | -1), "entry" (index of the bar it opens at, None: no such bar), "due" (index of the bar of its time
exit or None), "collateral", "reserve", "leverage", "margin_buffer", "stop", "trailing", "take_profit" (fractions of the entry price, of
the best price or None), "stop_trigger", "trailing_trigger", "take_profit_trigger"}. `bars` maps a symbol to its bars on the common grid
(`.grid`), each with its CF as "cf", its "turnover" (None: not known) and its "sigma" (NaN where the symbol has no bar of its own).
`venues` maps a symbol to what the venue charges and requires there, as in the rest of this room, its "epochs" in bars of the grid. `terms`: {"mode" ("cross" |
"portfolio"), "legs" ("hedge" | "one_way"), "extremes" (test all adverse extremes at once instead of the close), "in_turn" (liquidate symbol by symbol), "portfolio" (see
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

from .closing import (
    asset_value,
    book_assets,
    bring_assets,
    close_leg,
    convert,
    liquidate,
    mark_out,
    moved,
    see_value,
    settle_leg,
)
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
    held,
    is_worse_low,
    liquidation_price,
    look,
    prices_at,
    ratio,
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
        for leg in held(a):
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
    if at_extremes and held(a):
        meet_extremes(a, t)
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


def meet_extremes(a: Record, t: int) -> None:
    """Test the adverse extremes; on one symbol stops that are nearer than the liquidation price go first."""
    one = len(symbols_of(a)) == 1
    while held(a):
        left, kept = look(a, t, AT_EXTREMES)
        if left > kept:
            return
        leg = nearest_stop(a, t) if one else None
        if leg is None:
            a["worst"] = max(a["worst"], 1.0)
            liquidate(a, t, "C", AT_EXTREMES)
            return
        leave(a, leg, t, "C", stopped(leg, a["bars"][leg["symbol"]][t]))


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
