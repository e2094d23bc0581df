"""The coupled market read aloud: time outside, accounts inside, one fund, opposing winners, one price (§2, §7).

In time order, inside a bar by phase: B the open, C the range, D the close; after B and C the funds are settled
(`deleveraging.py`), and what they cannot pay is taken from opposing winners, who live on with what is left. Before
a phase is settled its liquidations push the price (`pressure.py`) and everybody is looked at again, until nobody
more falls.

What comes in beside the room's usual shapes:
  person   {"account", "identifier" (a whole number, for ties), "world", "symbol", "weight"} and what it does: "order" and
           "entry_bar", one position; or "follow", {"signals", "policy", "start_bar"} of `account.py`: one after the other
  options  {"adl": bool, "price": "bankruptcy" | "mark" | "previous_mark", "fee": rate, "outside": money,
           "socialised": None | "profit" | "size", "trigger": None or {"drawdown", "least", "window", "resume"},
           "pressure": None or {"law": "square_root" | "linear" | "curve", "curve", "strength", "scale": "volatility" | "none",
           "depth": None (turnover) or money, "most", "share", "decay"}, "crowding": bool}
  venue    may have "own", the venue of each symbol: its tiers, its contract; what is said of funds holds for all.
  allocate a function (candidates, quantity) -> the quantity closed of each: the ADL policy. A candidate is a dict of
           side, quantity, entry, margin, funding_paid, mark, maintenance, bankruptcy, identifier.
What goes out: {"rows", one a position, persons in their order, "ledger", "adl", one a deleveraging, "socialised", one a taking, "rounds", one an asking of
`allocate`, "cascades", one a push of the price, "steps", one a settled phase of a fund, "closes", one a bar and world: the mark it closed at}; "who" and "position" tell the place of the person and of the row among its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from . import account, deleveraging, inverse, living, pressure
from .leaving import HELD, credit, draw, finished, leave, put_down, there
from .liquidating import next_slice
from .margin import in_force
from .position import rejected, see_value
from .shapes import Bars, Leaving, Record, Values

Allocate = Callable[[list[Record], float], list[float]]
NOWHERE: Leaving = ("", 0.0, False)


def run_market(
    bars: Mapping[str, Bars], cf: Mapping[str, Values], people: list[Record], venue: Record, rules: Record,
    options: Record, allocate: Allocate,
) -> Record:  # fmt: skip
    """Everybody from the first bar to the last, together."""
    m: Record = {
        "bars": bars, "cf": cf, "venue": venue, "of": {symbol: rulebook(venue, symbol) for symbol in bars},
        "rules": rules, "options": options, "allocate": allocate,
        "people": [person(one, bars) | {"who": who} for who, one in enumerate(people)],
        "displaced": {}, "mark_before": {}, "funds": {}, "adl": [], "socialised": [], "rounds": [], "cascades": [], "steps": [], "closes": [], "outside": {},
    }  # fmt: skip
    for one in m["people"]:
        if one["entry_bar"] is None and not one["follow"]:
            one["row"] = rejected(one["order"], "no_bar", None)
    deleveraging.open_funds(m)
    index = {symbol: {bar["ts"]: i for i, bar in enumerate(bars[symbol])} for symbol in bars}
    paid = {at for fund in m["funds"].values() for _, at, _ in fund["paid_in"]}
    for time in sorted(paid | {bar["ts"] for symbol in bars for bar in bars[symbol]}):
        now = {symbol: index[symbol][time] for symbol in sorted(bars) if time in index[symbol]}
        at_time(m, time, now)
    return {
        "rows": [row for one in m["people"] for row in (one["rows"] if one["follow"] else [finished(one)])],
        "ledger": deleveraging.ledger(m),
        **{name: m[name] for name in ("adl", "socialised", "rounds", "cascades", "steps", "closes")},
    }


def rulebook(venue: Record, symbol: str) -> Record:
    """What holds on a symbol: its venue, how its positions live, and how its money is counted."""
    own = venue.get("own", {}).get(symbol, venue)
    turned = own.get("inverse")
    return {
        "venue": own, "book": inverse if turned else living, "counting": inverse.INVERSE if turned else living.LINEAR,
    }  # fmt: skip


def person(one: Record, bars: Mapping[str, Bars]) -> Record:
    """Somebody before the first bar."""
    follow = one.get("follow")
    state = follow and account.fresh(follow["policy"], bars[one["symbol"]], follow["start_bar"])
    return {"follow": None, "entry_bar": None, **one, "p": None, "row": None, "pending": None, "given_up": 0.0, "socialised": 0.0, "rows": [],
            "state": state}  # fmt: skip


def at_time(m: Record, time: int, now: Mapping[str, int]) -> None:
    """One moment: every symbol that has a bar, phase by phase."""
    views = {
        (world, symbol): pressure.quoted(m, world, symbol, i)
        for symbol, i in now.items()
        for world in sorted({one["world"] for one in m["people"]})
    }
    for one in m["people"]:
        here = not one["follow"] and one["symbol"] in now
        if here and one["entry_bar"] == now[one["symbol"]] and one["row"] is None:
            enter(m, one, views[one["world"], one["symbol"]])
    for phase in ("B", "C"):
        for (world, symbol), view in views.items():
            run_phase(m, world, symbol, now[symbol], phase, view)
            if phase == "B":
                follow(m, world, symbol, now[symbol], view)
        deleveraging.settle_funds(m, time, phase, now, views)
    for (world, symbol), view in views.items():
        pressure.remember(m, world, symbol, view)
        for one in there(m, world, symbol):
            at_close(m, one, now[symbol], view)
    deleveraging.settle_funds(m, time, "end", now, views)


def follow(m: Record, world: str, symbol: str, i: int, view: Record) -> None:
    """D11: who is free at this open, those that have just left it included, does what the close before said."""
    for one in m["people"]:
        if (one["world"], one["symbol"]) != (world, symbol) or not one["follow"] or one["p"] is not None:
            continue
        state, policy = one["state"], one["follow"]["policy"]
        if state["out"] or state["close"] + 1 != i:
            continue
        order = account.decide(
            policy,
            one["follow"]["signals"],
            state,
            m["bars"][symbol],
            view["quoted"],
            in_force(m["of"][symbol]["venue"], i),
        )
        if order is not None:
            one["order"], one["entry_bar"] = order, i
            if one["follow"].get("weigh"):
                one["weight"] = one["follow"]["weigh"](i)
            enter(m, one, view)
            if one["p"] is None:
                put_down(one, one["row"])


def enter(m: Record, one: Record, view: Record) -> None:
    """§3, at the price the last bars' pressure has left."""
    e, own = one["entry_bar"], m["of"][one["symbol"]]
    venue = in_force(own["venue"], e)
    bar, cf = view["quoted"], m["cf"][one["symbol"]][e]
    p, why = own["book"].open_position(bar, cf, one["order"], venue, m["rules"], e)
    if p is None:
        one["row"] = rejected(one["order"], why, e)
        return
    one["p"] = p
    one["at_entry"] = own["book"].told_at_entry(p, cf, venue)
    p["worst_ratio"], p["counting"] = ratio(own, p, bar["mark_open"], cf, venue), own["counting"]
    credit(m, one, "B", bar["ts"], "fee_share", p["entry_fee"])


def run_phase(m: Record, world: str, symbol: str, i: int, phase: str, view: Record) -> None:
    """Who leaves in this phase: with pressure, looked at again until nobody more falls. Then all fills at once; who is left at the open
    carries out what was decided at the last close.
    """
    bar_before = {one["identifier"]: one for one in there(m, world, symbol)}
    alive = [one for one in bar_before.values() if phase == "C" or one["entry_bar"] < i]
    if m["of"][symbol]["venue"].get("liquidation") is not None:
        decided = step_by_step(m, symbol, i, phase, view, bar_before.values())
    else:
        decided = at_once(m, world, symbol, i, phase, view, alive)
    leavers = [one for one in alive if decided[one["identifier"]]]
    crowds = [crowd_of(m, one, leavers, decided) for one in leavers]
    for one, crowd in zip(leavers, crowds, strict=True):
        leave(m, one, i, phase, view["sides"][one["p"]["side"]], decided[one["identifier"]], crowd)
    if phase == "B":
        for one in alive:
            if one["p"] is not None and one["pending"] is not None:
                called(m, one, i, view["sides"][one["p"]["side"]])


def at_once(
    m: Record, world: str, symbol: str, i: int, phase: str, view: Record, alive: list[Record]
) -> dict[int, Leaving | None]:
    """Why each leaves, None: not; who is liquidated goes as a whole."""
    fallen: set[int] = set()
    rounds: list[list[Record]] = []
    while True:
        decided = {
            one["identifier"]: decide(m, one, i, phase, view["sides"][one["p"]["side"]]) for one in alive
        }
        falling = [one for one in alive if is_liquidation(decided[one["identifier"]])]
        new = [one for one in falling if one["identifier"] not in fallen]
        if not new:
            break
        rounds.append(new)
        fallen |= {one["identifier"] for one in new}
        if not pressure.push(m, view, phase, new):
            break
    pressure.record(m, world, symbol, i, phase, view, rounds)
    own = m["of"][symbol]
    book = own["book"]
    for one in alive:
        bar = view["sides"][one["p"]["side"]]
        book.stretch(one["p"], book.on(bar, one["p"]["trailing_trigger"], "open"))
        if phase == "B":
            one["p"]["ratio_at_open"] = ratio(
                own, one["p"], bar["mark_open"], m["cf"][symbol][i], in_force(own["venue"], i)
            )
    return decided


def step_by_step(
    m: Record, symbol: str, i: int, phase: str, view: Record, everybody: Iterable[Record]
) -> dict[int, Leaving | None]:
    """The same where liquidations go by the venue's procedure (`liquidating.py`): parts of positions are closed, and pay their fees."""
    decided: dict[int, Leaving | None] = {}
    own, bars, cf = m["of"][symbol], m["bars"][symbol], m["cf"][symbol]
    for one in everybody:
        p, bar, venue = one["p"], view["bar"], in_force(own["venue"], i)
        before, decided[one["identifier"]] = len(p["margin_orders"]), None
        if phase == "B" and p["schedule"]:  # an orderly exit goes on: nothing else matters any more
            decided[one["identifier"]] = next_slice(p, i, bars, cf, venue)
        elif phase == "B":
            p["spared"] = False
            own["book"].stretch(p, own["book"].on(bar, p["trailing_trigger"], "open"))
            if one["entry_bar"] < i:
                p["ratio_at_open"] = ratio(own, p, bar["mark_open"], cf[i], venue)
                decided[one["identifier"]] = own["book"].leave_at_open(
                    p, one["order"], i, bars, cf, venue, m["rules"]
                )
        elif not p["schedule"]:
            own["book"].stretch(p, own["book"].on(bar, p["trailing_trigger"], "open"))
            decided[one["identifier"]] = own["book"].leave_in_range(p, i, bars, cf, venue, m["rules"])
        for part in p["margin_orders"][before:]:
            credit(m, one, phase, bar["ts"], "fee_share", part["fee"])
            credit(m, one, phase, bar["ts"], "liquidation_fees", part["liquidation_fee"])
    return decided


def called(m: Record, one: Record, i: int, bar: Record) -> None:
    """§2 B, the end of it: the margin order decided at the last close, at the prices that those who fell at this open have left."""
    p, own, cf = one["p"], m["of"][one["symbol"]], m["cf"][one["symbol"]][i]
    held = {name: p[name] for name in HELD}
    own["book"].execute(p, *one["pending"], i, bar, cf, in_force(own["venue"], i))
    part, one["pending"] = p["margin_orders"][-1], None
    credit(m, one, "B", bar["ts"], "fee_share", part["fee"])
    closed = held["quantity"] - p["quantity"]
    draw(
        m, one, "B", {**held, "quantity": closed, "margin": held["margin"] - p["margin"]}, i, part["deficit"]
    )


def ratio(own: Record, p: Record, price: float, cf: float, venue: Record) -> float:
    """The margin ratio at a price."""
    found: float = own["counting"].margin_ratio(p, own["counting"].read(price), cf, venue)
    return found


def is_liquidation(left: Leaving | None) -> bool:
    """Did it end that way?"""
    return left is not None and left[0] == "liquidation"


def decide(m: Record, one: Record, i: int, phase: str, bar: Record) -> Leaving | None:
    """§2 B or C of one position at these prices; nothing is changed."""
    p, cf, order = dict(one["p"]), m["cf"][one["symbol"]][i], one["order"]
    own = m["of"][one["symbol"]]
    venue, book = in_force(own["venue"], i), own["book"]
    book.stretch(p, book.on(bar, p["trailing_trigger"], "open"))
    left: Leaving | None
    if phase == "C":
        left = book.exit_in_range(p, bar, cf, venue, m["rules"])
        return left
    due = order.get("exit_due") is not None and bar["ts"] >= order["exit_due"]
    told = order.get("exit_signal") is not None and order["exit_signal"][i - 1]
    left = book.exit_at_open(p, bar, cf, venue, m["rules"], due, told)
    return left


def crowd_of(
    m: Record, one: Record, leavers: list[Record], decided: Mapping[int, Leaving | None]
) -> float | None:
    """§6 crowding: what its world liquidates beside it; None: its own."""
    if not m["options"].get("crowding") or not is_liquidation(decided[one["identifier"]]):
        return None
    return math.fsum(
        other["weight"] * (other["p"]["quantity"] * (decided[other["identifier"]] or NOWHERE)[1])
        for other in leavers
        if other["p"]["side"] == one["p"]["side"] and is_liquidation(decided[other["identifier"]])
    )


def at_close(m: Record, one: Record, i: int, view: Record) -> None:
    """§2 D, and the end of the data."""
    p, cf, bar = one["p"], m["cf"][one["symbol"]][i], view["sides"][one["p"]["side"]]
    own = m["of"][one["symbol"]]
    adverse, best = ("mark_low", "high") if p["side"] > 0 else ("mark_high", "low")
    if p["schedule"]:  # no longer the trader's
        if i == len(m["bars"][one["symbol"]]) - 1:
            leave(m, one, i, "B", bar, None)
        return
    p["worst_ratio"] = max(p["worst_ratio"], ratio(own, p, bar[adverse], cf, in_force(own["venue"], i)))
    own["book"].stretch(p, own["book"].on(bar, p["trailing_trigger"], best))
    counting = own["counting"]
    see_value(p, p["released"] + counting.equity(p, counting.read(bar["mark_close"]), cf))
    call = one["order"].get("margin_call")
    one["pending"] = own["book"].margin_order(p, call, bar, cf, in_force(own["venue"], i))
    if i == len(m["bars"][one["symbol"]]) - 1:
        leave(m, one, i, "C", bar, None)
