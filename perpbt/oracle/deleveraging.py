"""What a world does with deficits, phase by phase: fund, opposing winners, an outside counterparty, all (§7).

Inside a phase credits come first, then draws. What the fund may not or cannot pay of the draws is the shortfall;
each deficit has its part of it, and that part of the bankrupt quantity, shortfall / draws, is closed against winners.
The bankrupt accounts of a symbol and side in one phase stand together: one quantity, one price, the mean of their
bankruptcy prices by quantity. Closed at that price instead of where the bankrupt positions were filled, the
winners give up, per unit, the mean deficit per unit: together exactly the shortfall. Of inverse contracts all prices here are
readings 1/P, and `gains` is -1: who is long loses as they rise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from .fund import fund_name, paid_in
from .leaving import AFTER, bankruptcy, credit, leave, there
from .margin import in_force
from .position import NOTHING
from .shapes import Record

DUST = 1e-12  # of a quantity: what is less than that short is placed; of a notional: a deficit below is rounding and closes nobody
FLOWS = ("liquidation_fees", "surplus", "fee_share", "deficit", "top_up")
COVER = ("adl", "outside", "socialised", "uncovered")


def open_funds(m: Record) -> None:
    """A fund a world, or a world and symbol, with its seed."""
    worlds = sorted({one["world"] for one in m["people"]})
    names = {symbol: fund_name(m["venue"], symbol) for symbol in m["bars"]}
    for world in worlds:
        for name in sorted(set(names.values())):
            symbols = [symbol for symbol in m["bars"] if names[symbol] == name]
            start = min(m["bars"][symbol][0]["ts"] for symbol in symbols)
            m["funds"][world, name] = {
                "balance": m["venue"]["fund_seed"], "credits": [], "draws": [], "past": [], "tripped": False,
                "paid_in": paid_in(m["bars"], m["venue"], name),
                "rows": [{"time": start, "world": world, "symbol": name, **dict.fromkeys((*FLOWS, *COVER), 0.0),
                          "balance": m["venue"]["fund_seed"]}],
            }  # fmt: skip


def settle_funds(
    m: Record, time: int, step: str, now: Mapping[str, int], views: Mapping[tuple[str, str], Record]
) -> None:
    """One phase of one moment, for every fund."""
    for (world, name), fund in sorted(m["funds"].items()):
        if step == "B":
            fund["credits"] += [
                ("B", symbol, "top_up", money) for symbol, at, money in fund["paid_in"] if at == time
            ]
        credits = [flow for flow in fund["credits"] if flow[0] == step]
        draws = [flow for flow in fund["draws"] if flow["step"] == step]
        if not credits and not draws:
            continue
        fund["credits"] = [flow for flow in fund["credits"] if flow[0] != step]
        fund["draws"] = [flow for flow in fund["draws"] if flow["step"] != step]
        fund["balance"] = fund["balance"] + math.fsum(flow[3] for flow in credits)
        drawn = math.fsum(flow["deficit"] for flow in draws)
        paid = min(allowed(m, fund, time, drawn), drawn)
        fund["balance"] = fund["balance"] - paid
        covers = {flow["symbol"]: dict.fromkeys(COVER, 0.0) for flow in draws}
        if drawn > paid:
            cover(m, world, time, step, now, views, draws, drawn, drawn - paid, covers)
            fund["balance"] = lend_of_last_resort(fund["balance"], covers)
        fund["past"].append((time, fund["balance"]))
        m["steps"].append({
            "time": time, "world": world, "fund": name, "phase": step, "balance": fund["balance"],
            "covers": covers if drawn > paid else {},
        })  # fmt: skip
        note(fund, time, world, name, credits, draws, covers)


def allowed(m: Record, fund: Record, time: int, drawn: float) -> float:
    """What the fund may pay: all it has, or with a trigger, what keeps it above its floor."""
    trigger = m["options"].get("trigger")
    if trigger is None or drawn == 0:
        return float(fund["balance"])
    seed = m["venue"]["fund_seed"]
    before = [balance for at, balance in fund["past"] if at <= time - trigger["window"]]
    within = [balance for at, balance in fund["past"] if at > time - trigger["window"]]
    level = max([(before or [seed])[-1], *within, fund["balance"]])
    floor = level - max(trigger["drawdown"] * level, trigger["least"])
    if fund["tripped"] and fund["balance"] < level - trigger["resume"] * level:
        return 0.0
    room = max(fund["balance"] - floor, 0.0)
    fund["tripped"] = drawn > room
    return float(min(room, fund["balance"]))


def lend_of_last_resort(balance: float, covers: Mapping[str, Record]) -> float:
    """What nobody covered is the fund's after all, as far as it has something left that a trigger held back."""
    open_end = math.fsum(one["uncovered"] for one in covers.values())
    more = min(balance, open_end)
    if more > 0:
        for one in covers.values():
            one["uncovered"] = one["uncovered"] - more * (one["uncovered"] / open_end)
    return balance - more


def cover(
    m: Record, world: str, time: int, step: str, now: Mapping[str, int],
    views: Mapping[tuple[str, str], Record], draws: list[Record], drawn: float, short: float,
    covers: Mapping[str, Record],
) -> None:  # fmt: skip
    """Whom a shortfall meets, symbol by symbol."""
    for symbol in sorted(covers):
        of_symbol, left = covers[symbol], []
        for side in (+1, -1):
            here = [flow for flow in draws if flow["symbol"] == symbol and flow["side"] == side]
            if not here:
                continue
            owed = math.fsum(flow["deficit"] for flow in here)
            part = short * (owed / drawn)
            adl, outside = 0.0, 0.0
            real = [flow for flow in here if flow["deficit"] > DUST * (flow["quantity"] * flow["price"])]
            if m["options"].get("adl") and step != "end" and real:
                where = (world, symbol, now[symbol], step, time, views[world, symbol])
                missing = math.fsum(flow["deficit"] for flow in real)
                adl, outside = deleverage(
                    m, where, side, real, missing, short / drawn, short * (missing / drawn)
                )
            of_symbol["adl"] = of_symbol["adl"] + adl
            of_symbol["outside"] = of_symbol["outside"] + outside
            left.append((part - adl) - outside)
        rest = math.fsum(left)
        taken = 0.0
        if m["options"].get("socialised") and step != "end" and rest > 0:
            taken = socialise(m, world, symbol, now[symbol], step, views[world, symbol], rest)
        of_symbol["socialised"] = taken
        of_symbol["uncovered"] = rest - taken


def candidates(m: Record, world: str, symbol: str, i: int, step: str) -> list[Record]:
    """Who holds a position at this moment; who enters at an open is no part of what happens at it."""
    present = there(m, world, symbol)
    return sorted(
        (one for one in present if step == "C" or one["entry_bar"] < i), key=lambda one: one["identifier"]
    )


def marks(m: Record, symbol: str, i: int, step: str, side: int, view: Record) -> tuple[float, float]:
    """The mark of the moment and the one before it: in the range, the extreme the bankrupt side was tested at."""
    bar = view["sides"][side]
    if step == "C":
        return bar["mark_low" if side > 0 else "mark_high"], bar["mark_open"]
    return bar["mark_open"], m["mark_before"].get((view["world"], symbol), bar["mark_open"])


def deleverage(
    m: Record, where: tuple[str, str, int, str, int, Record], side: int, here: list[Record], owed: float,
    fraction: float, part: float,
) -> tuple[float, float]:  # fmt: skip
    """Close the uncovered part of the bankrupt quantity of one side; returns what winners and outsiders gave up."""
    world, symbol, i, step, time, view = where
    counting = m["of"][symbol]["counting"]
    bankrupt_side, side = side, counting.gains * side
    quantity = math.fsum(flow["quantity"] for flow in here)
    bankrupt_at = math.fsum(flow["quantity"] * flow["price"] for flow in here) / quantity
    each = owed / quantity
    mark, previous = (counting.read(price) for price in marks(m, symbol, i, step, bankrupt_side, view))
    price = bankrupt_at
    if m["options"]["price"] != "bankruptcy":
        price = mark if m["options"]["price"] == "mark" else previous
        filled = bankrupt_at - side * each  # nobody gives up more than the loss, nor gains by it
        price = side * min(max(side * price, side * filled), side * bankrupt_at)
        each = side * (price - filled)
    wanted = fraction * quantity
    cf, venue = m["cf"][symbol][i], in_force(m["of"][symbol]["venue"], i)
    winners = [
        one
        for one in candidates(m, world, symbol, i, step)
        if one["p"]["side"] == -bankrupt_side
        and -side * (price - one["p"]["entry"]) > 0
        and counting.equity(one["p"], price, cf) > 0
    ]
    told = [candidate(m, one, mark, cf, venue) for one in winners]
    closed = m["allocate"](told, wanted) if told else []
    if told:
        m["rounds"].append({
            "time": time, "world": world, "symbol": symbol, "phase": step, "side": side, "candidates": told, "closed": closed,
            "wanted": wanted, "price": price,
        })  # fmt: skip
    given = []
    for one, was, x in zip(winners, told, closed, strict=True):
        if x > 0:
            share = 1.0 if x >= was["quantity"] else x / was["quantity"]
            mine = (x / one["weight"]) * each
            given.append(x * each)
            m["adl"].append({
                "time": time, "world": world, "symbol": symbol, "phase": step, "bankrupt_side": bankrupt_side,
                "account": one["account"], "quantity": x / one["weight"], "fraction": share, "price": counting.read(price),
                "given_up": mine, "weight": one["weight"], "reading": price, **place(one),
            })  # fmt: skip
            one["given_up"] = one["given_up"] + mine
            shrink(m, one, i, step, share, price, view["sides"][one["p"]["side"]])
    placed = math.fsum(closed)
    adl = min(math.fsum(given), part)
    if m["options"]["price"] == "bankruptcy" and placed >= wanted * (1 - DUST):
        return part, 0.0
    return adl, outsider(m, world, symbol, wanted - placed, wanted, price, each, part - adl)


def outsider(
    m: Record, world: str, symbol: str, quantity: float, wanted: float, price: float, each: float, left: float
) -> float:
    """What a counterparty outside the simulation takes of what winners were too few for, up to its size (money)."""
    if not quantity > wanted * DUST:
        return 0.0
    before = m["outside"].get((world, symbol), 0.0)
    taken = min(quantity, max(m["options"].get("outside", 0.0) - before, 0.0) / price)
    m["outside"][world, symbol] = before + taken * price
    return min(taken * each, left)


def candidate(m: Record, one: Record, mark: float, cf: float, venue: Record) -> Record:
    """What a ranking may know, of all the accounts the row stands for together: who is long of an inverse contract is short of its reading."""
    p, w, own = one["p"], one["weight"], m["of"][one["symbol"]]
    counting = own["counting"]
    moved = cf - p["cf_entry"]
    return {
        "side": float(counting.gains * p["side"]), "quantity": w * p["quantity"], "entry": p["entry"], "margin": w * p["margin"],
        "funding_paid": w * ((p["side"] * p["quantity"]) * moved), "mark": mark,
        "maintenance": w * counting.required(p, mark, venue), "bankruptcy": bankruptcy(own, p, moved),
        "identifier": one["identifier"],
    }  # fmt: skip


def place(one: Record) -> Record:
    """Where a row will stand: whose it is, and after how many of its own."""
    return {"who": one["who"], "position": len(one["rows"])}


def shrink(m: Record, one: Record, i: int, step: str, share: float, price: float, bar: Record) -> None:
    """Close a fraction of a winner at this price; what is left lives on with the same entry."""
    p, cf = one["p"], m["cf"][one["symbol"]][i]
    if share == 1.0:
        leave(m, one, i, step, bar, ("adl", price, True))
        return
    see(m, one, i, step, bar)
    margin, quantity = p["margin"] * share, p["quantity"] * share
    fee = m["options"].get("fee", 0.0)
    own = m["of"][one["symbol"]]
    part = own["counting"].waterfall(p, margin, quantity, cf, price, "adl", fee, own["venue"])
    p["released"] = p["released"] + part["back"]
    p["wallet"] = p["wallet"] + part["back"]
    p["margin"] = p["margin"] * (1 - share)
    p["quantity"] = p["quantity"] * (1 - share)
    p["margin_orders"].append(
        {**part, "bar": i, "action": "adl", "margin": p["margin"], "quantity": p["quantity"]}
    )
    credit(m, one, AFTER[step], bar["ts"], "fee_share", part["fee"])


def see(m: Record, one: Record, i: int, step: str, bar: Record) -> None:
    """The margin ratio of a position before it is changed: at the open, or at the worst of the range."""
    p = one["p"]
    price = bar["mark_open"] if step == "B" else bar["mark_low" if p["side"] > 0 else "mark_high"]
    own = m["of"][one["symbol"]]
    now, counting = in_force(own["venue"], i), own["counting"]
    ratio = counting.margin_ratio(p, counting.read(price), m["cf"][one["symbol"]][i], now)
    p["worst_ratio"] = max(p["worst_ratio"], ratio)


def socialise(m: Record, world: str, symbol: str, i: int, step: str, view: Record, loss: float) -> float:
    """Take a loss from the margins of those in profit, pro rata to it, or of all, pro rata to size; returns how much.

    Nobody gives more than his profit, and never more than his equity.
    """
    cf, bases, limits = m["cf"][symbol][i], [], []
    people, counting = candidates(m, world, symbol, i, step), m["of"][symbol]["counting"]
    for one in people:
        p, bar = one["p"], view["sides"][one["p"]["side"]]
        mark = counting.read(bar["mark_open"] if step == "B" else bar["mark_close"])
        left = max(counting.equity(p, mark, cf), 0.0)
        profit = max(((counting.gains * p["side"]) * p["quantity"]) * (mark - p["entry"]), 0.0)
        if m["options"]["socialised"] == "profit":
            bases.append(one["weight"] * min(profit, left))
            limits.append(min(profit, left))
        else:
            bases.append(one["weight"] * p["quantity"] if left > 0 else 0.0)
            limits.append(left)
    whole, taken = math.fsum(bases), []
    if not whole > 0:
        return 0.0
    for one, base, limit in zip(people, bases, limits, strict=True):
        mine = min((loss * (base / whole)) / one["weight"], limit)
        if mine > 0:
            see(m, one, i, step, view["sides"][one["p"]["side"]])
            one["p"]["margin"] = one["p"]["margin"] - mine
            one["socialised"] = one["socialised"] + mine
            taken.append(one["weight"] * mine)
            one["p"]["margin_orders"].append({
                **NOTHING, "bar": i, "action": "socialised", "margin": one["p"]["margin"], "quantity": one["p"]["quantity"],
                "taken": mine,
            })  # fmt: skip
            m["socialised"].append(
                {
                    "time": m["bars"][symbol][i]["ts"],
                    "world": world,
                    "symbol": symbol,
                    "phase": step,
                    "taken": mine,
                    **place(one),
                }
            )
    return min(math.fsum(taken), loss)


def note(
    fund: Record, time: int, world: str, name: str, credits: list[tuple[str, str, str, float]],
    draws: list[Record], covers: Mapping[str, Record],
) -> None:  # fmt: skip
    """Add a phase to the fund's rows of the moment."""
    for symbol in sorted({flow[1] for flow in credits} | {flow["symbol"] for flow in draws}):
        row: Record = {"time": time, "world": world, "symbol": symbol, **dict.fromkeys((*FLOWS, *COVER), 0.0)}
        for flow in credits:
            if flow[1] == symbol:
                row[flow[2]] = row[flow[2]] + flow[3]
        row["deficit"] = math.fsum(flow["deficit"] for flow in draws if flow["symbol"] == symbol)
        fund["rows"].append({**row, **covers.get(symbol, {})})
    for row in fund["rows"]:
        if row["time"] == time and len(fund["rows"]) > 1:
            row["after"] = fund["balance"]


def ledger(m: Record) -> list[Record]:
    """A row a moment, world and symbol, its phases added up, and an opening row for each fund."""
    rows = []
    for _, fund in sorted(m["funds"].items()):
        rows.append(fund["rows"][0])
        merged: dict[tuple[int, str], Record] = {}
        for row in fund["rows"][1:]:
            one = merged.setdefault(
                (row["time"], row["symbol"]), {**row, **dict.fromkeys((*FLOWS, *COVER), 0.0)}
            )
            for flow in (*FLOWS, *COVER):
                one[flow] = one[flow] + row[flow]
            one["balance"] = row["after"]
        rows += [merged[key] for key in sorted(merged)]
    return rows
