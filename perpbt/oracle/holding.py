"""A fund that holds what it takes over until it is sold (§7).

Who is liquidated is taken over by its fund at its bankruptcy price. All of one world, symbol and side that is taken over in one bar is one lot.
It is sold in equal parts at the opens of the later bars within `hold` of its bar, at the next bar's if there is none; what the fund sells of a
world, symbol and side in a bar slips together, as a liquidation of that size does. A lot of the last bar is
worth the last mark close. Profits and losses, funding on what is held included, are the fund's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from .position import slippage_of
from .shapes import Bars, Record, Values

LotKey = tuple[str, str, int, int]  # world, symbol, side, bar


def lots_of(rows: list[Record], cf: Mapping[str, Values]) -> dict[LotKey, Record]:
    """What is taken over: quantity, its mean bankruptcy price, and CF when it was."""
    parts: dict[LotKey, list[tuple[float, float]]] = {}
    for row in rows:
        if row["exit_reason"] == "liquidation":
            key = row["world"], row["symbol"], row["side"], row["exit_bar"]
            parts.setdefault(key, []).append((row["weight"] * row["exit_quantity"], row["exit_price"]))
    lots = {}
    for key, mine in parts.items():
        whole = math.fsum(quantity for quantity, _ in mine)
        price = math.fsum(quantity * price for quantity, price in mine) / whole
        lots[key] = {"quantity": whole, "price": price, "cf": cf[key[1]][key[3]]}
    return lots


def schedule(bars: Bars, i: int, hold: int) -> list[int]:
    """The bars at whose open a lot of bar i is sold; none: it is the last."""
    due = [j for j in range(i + 1, len(bars)) if bars[j]["ts"] <= bars[i]["ts"] + hold]
    return due or list(range(i + 1, min(i + 2, len(bars))))


def sales(
    rows: list[Record], bars: Mapping[str, Bars], cf: Mapping[str, Values], venue: Record
) -> list[Record]:
    """All that funds sell, a row a world, symbol, side and bar: {"world", "symbol", "side", "bar", "time", "phase", "quantity", "price", "pnl"}.

    `pnl` is of price and funding.
    """
    by_bar: dict[LotKey, list[tuple[float, Record]]] = {}
    ends = []
    for (world, symbol, side, i), lot in lots_of(rows, cf).items():
        due = schedule(bars[symbol], i, venue["fund_hold"])
        for j in due:
            by_bar.setdefault((world, symbol, side, j), []).append((lot["quantity"] / len(due), lot))
        if not due:
            ends.append(
                sale(
                    (world, symbol, side, i),
                    "C",
                    bars[symbol][i]["mark_close"],
                    [(lot["quantity"], lot)],
                    bars,
                    cf,
                )
            )
    for key, parts in by_bar.items():
        _, symbol, side, j = key
        bar = bars[symbol][j]
        slip = slippage_of(
            "liquidation", bar, math.fsum(quantity * bar["open"] for quantity, _ in parts), venue
        )
        ends.append(sale(key, "B", bar["open"] * (1 - side * slip), parts, bars, cf))
    return sorted(ends, key=lambda one: (one["time"], one["phase"], one["world"], one["symbol"], one["side"]))


def sale(
    key: LotKey, phase: str, price: float, parts: list[tuple[float, Record]], bars: Mapping[str, Bars],
    cf: Mapping[str, Values],
) -> Record:  # fmt: skip
    """Parts of lots sold at one price."""
    world, symbol, side, j = key
    pnl = math.fsum(
        (side * quantity) * (price - lot["price"]) - (side * quantity) * (cf[symbol][j] - lot["cf"])
        for quantity, lot in parts
    )
    return {
        "world": world, "symbol": symbol, "side": side, "bar": j, "time": bars[symbol][j]["ts"], "phase": phase,
        "quantity": math.fsum(quantity for quantity, _ in parts), "price": price, "pnl": pnl,
    }  # fmt: skip
