"""How liquidations push the price of their world (§7, cascade mode): by how much, whom it meets, what is left of it.

A displacement is a fraction of the bar's unmoved last open and is added to its prices; the mark takes `share` of
it, the index and funding none. Each side is tested against its own pressure: longs against what their sales took
off, shorts against what their purchases added. After the bar the two are netted, and next bar (1 - decay) of it
is left. Volume counts at the bar's unmoved open, so that more falling never means less volume.
"""

from __future__ import annotations

import math

from .shapes import Record

LEAST = 0.01  # of a price is left whatever pushes it
NOTHING = 1e-9  # a displacement below this is none
LAST = ("open", "high", "low", "close")


def moved(price: float, by: float, reference: float) -> float:
    """A price displaced by a fraction of the reference."""
    return max(price + by * reference, price * LEAST)


def shown(bar: Record, share: float, at_open: float, adverse: float, closing: float, side: int) -> Record:
    """The bar as one side sees it."""
    by = {"open": at_open, "high": at_open, "low": at_open, "close": closing}
    by["low" if side > 0 else "high"] = adverse
    reference = bar["open"]
    last = {name: moved(bar[name], by[name], reference) for name in LAST}
    mark = {"mark_" + name: moved(bar["mark_" + name], share * by[name], reference) for name in LAST}
    # turnover, from which fills are priced, is the market's own, as the close it is reckoned with
    return {**bar, **last, **mark, "close": bar["close"]}


def quoted(m: Record, world: str, symbol: str, i: int) -> Record:
    """The bar before anybody moves: what earlier bars' pressure has left."""
    bar, options = m["bars"][symbol][i], m["options"].get("pressure")
    start = m["displaced"].get((world, symbol), 0.0)
    view = {"world": world, "symbol": symbol, "bar": bar, "start": start, "volume": {+1: 0.0, -1: 0.0}, "terms": {+1: [], -1: []},
            "at_open": {+1: start, -1: start}, "now": {+1: start, -1: start}}  # fmt: skip
    if options is None:
        return {**view, "quoted": bar, "sides": {+1: bar, -1: bar}}
    shape(m, view)
    return {**view, "quoted": view["sides"][+1]}


def shape(m: Record, view: Record) -> None:
    """Both sides' bars from the displacements."""
    share, bar, now = m["options"]["pressure"]["share"], view["bar"], view["now"]
    closing = net(view)
    view["sides"] = {s: shown(bar, share, view["at_open"][s], now[s], closing, s) for s in (+1, -1)}


def net(view: Record) -> float:
    """The displacement after the bar: both sides' pressure on top of what there was."""
    start, now = view["start"], view["now"]
    return float((start + (now[+1] - start)) + (now[-1] - start))


def impact(m: Record, view: Record, volume: float) -> float:
    """The fraction a volume (money) moves the price by."""
    options, bar, slippage = (
        m["options"]["pressure"],
        view["bar"],
        m["of"][view["symbol"]]["venue"]["slippage"],
    )
    depth = options["depth"]
    if depth is None:
        depth = bar["volume"] * bar["close"] if bar["volume"] is not None else 0.0
    if not depth > 0:
        return float(min(slippage, options["most"])) if volume > 0 else 0.0
    strength = options["strength"] * bar["sigma"] if options["scale"] == "volatility" else options["strength"]
    ratio = volume / depth
    if options["law"] == "curve":
        grown = on_curve(options["curve"], ratio)
    else:
        grown = math.sqrt(ratio) if options["law"] == "square_root" else ratio
    return float(min(strength * grown, options["most"]))


def on_curve(curve: list[tuple[float, float]], ratio: float) -> float:
    """A cumulative depth table read at a volume: straight between its points, from (0, 0) on, and beyond the last as in its last stretch."""
    points = [(0.0, 0.0), *curve]
    last = next((k for k in range(1, len(points)) if ratio <= points[k][0]), len(points))
    (v0, y0), (v1, y1) = points[min(last, len(points) - 1) - 1 : min(last, len(points) - 1) + 1]
    slope = (y1 - y0) / (v1 - v0)
    if last == len(points):
        return y1 + slope * (ratio - v1)
    return min(y0 + slope * (ratio - v0), y1)  # rounding takes nobody beyond the next point


def worth(m: Record, one: Record, view: Record) -> float:
    """What somebody sells, money at the bar's unmoved open."""
    read = m["of"][one["symbol"]]["counting"].read
    return float(one["weight"] * (one["p"]["quantity"] * read(view["bar"]["open"])))


def push(m: Record, view: Record, phase: str, new: list[Record]) -> bool:
    """Take in who fell; says whether the price may have moved."""
    if m["options"].get("pressure") is None:
        return False
    for one in new:
        view["terms"][one["p"]["side"]].append(worth(m, one, view))
    for side in (+1, -1):
        view["volume"][side] = math.fsum(view["terms"][side])
        view["now"][side] = view["start"] - side * impact(m, view, view["volume"][side])
        if phase == "B":
            view["at_open"][side] = view["now"][side]
    shape(m, view)
    return True


def remember(m: Record, world: str, symbol: str, view: Record) -> None:
    """What is left of the bar's pressure at the next."""
    options = m["options"].get("pressure")
    if options is not None:
        left = (1 - options["decay"]) * net(view)
        m["displaced"][world, symbol] = left if abs(left) >= NOTHING else 0.0
    m["mark_before"][world, symbol] = view["sides"][+1]["mark_close"]
    m["closes"].append(
        {
            "time": view["bar"]["ts"],
            "world": world,
            "symbol": symbol,
            "mark_close": m["mark_before"][world, symbol],
        }
    )


def record(
    m: Record, world: str, symbol: str, i: int, phase: str, view: Record, rounds: list[list[Record]]
) -> None:
    """Note the push of a phase, side by side: who fell at once, who after the price had moved, and how far it went."""
    if m["options"].get("pressure") is None:
        return
    for side in (+1, -1):
        by_round = [[one for one in new if one["p"]["side"] == side] for new in rounds]
        if not any(by_round):
            continue
        sold = [[worth(m, one, view) for one in new] for new in by_round]
        m["cascades"].append({
            "time": view["bar"]["ts"], "world": world, "symbol": symbol, "phase": phase, "side": side,
            "rounds": len(rounds), "liquidations": sum(len(new) for new in by_round), "first": len(by_round[0]),
            "volume": math.fsum(value for new in sold for value in new), "first_volume": math.fsum(sold[0]), "displacement": view["now"][side] - view["start"],
        })  # fmt: skip
