"""A fund that holds what it takes over until it is sold.

In: the finished positions of a run. Out: the same, those liquidated taken over by their fund at the bankruptcy price: nothing is left to the
trader, nothing is owed, and nothing is sold on the market then. All of one world, symbol and side taken over in one bar is a lot; it is
sold in equal parts at the opens of the later bars within `fund.hold` of its bar (the next bar's if there is none), what is sold together
slipping together, and what is taken over in the last bar is worth the last mark close. Profit and loss of it, funding included, are the fund's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from perpbt.columns import times as moments_of
from perpbt.engines.book import Book, Chunk
from perpbt.kernels.adding import EVENT, fund_events
from perpbt.kernels.sums import exact_sums
from perpbt.kernels.tables import (
    FUNDING,
    LAST_OPEN,
    LIQUIDATION,
    MARK_CLOSE,
    OPEN,
    RANGE,
    TURNOVER,
    VOLATILITY,
    Floats,
    Integers,
    Market,
    Rates,
    Table,
)
from perpbt.running.conclude import Coupled, scaled
from perpbt.running.setting import Setting
from perpbt.settling.settle import FundTerms, ledger
from perpbt.settling.settled import Transfers
from perpbt.settling.topping import payments

NONE = np.zeros(0, dtype=np.int64)


@dataclass
class Lots:
    """What is taken over, or sold, by world and side; a lot an entry."""

    world: Integers
    side: Floats
    bar: Integers
    quantity: Floats
    price: Floats


@dataclass
class Sales(Lots):
    """What is sold at one price."""

    phase: Integers
    pnl: Floats


def hold(setting: Setting, book: Book, markets: Mapping[int, Market]) -> Coupled:
    """Let funds take over who is liquidated, and sell it; the rows of the book change."""
    tasks = list(book.order.tasks())
    weights, _ = scaled(setting, book, tasks, 1)
    parts: dict[int, list[Lots]] = {}
    events = [np.empty(0, dtype=EVENT)]
    for task in tasks:
        chunk = book.chunk(task)
        weight = weights.of(chunk)
        for index, lots in taken_over(chunk, weight).items():
            parts.setdefault(index, []).append(lots)
        events.append(brought(book, chunk, weight, setting.terms))
    terms, rows = setting.terms, []
    assert terms.hold is not None
    for index, taken in parts.items():
        market, rates = markets[index], book.parts[index].rates
        lots = together(taken)
        sales = sold(lots, market, rates, terms.hold)
        events.append(realised(sales, index, market))
        rows += [told(book, index, market, lots, None), told(book, index, market, sales, sales.pnl)]
    everything = np.concatenate(events)
    extra = inventory_frame(rows)
    fund = with_inventory(ledger(book, everything, terms, payments(book, terms)), extra)
    own = np.concatenate(events[: 1 + len(tasks)])
    return Coupled(
        weights=weights, transfers=Transfers(NONE, *(np.zeros(0) for _ in range(3))), fund=fund, given_up=0.0, of_positions=of_positions(book, fund, own),
        extra={"inventory": extra}, metadata={"inventory": summary(extra)},
    )  # fmt: skip


def taken_over(chunk: Chunk, weight: Floats) -> dict[int, Lots]:
    """Change the rows of who is liquidated; returns what that makes, by symbol, a lot a row."""
    rows = chunk.rows
    at = np.flatnonzero((rows["reason"] == LIQUIDATION) & (rows["rejection"] == 0))
    side, quantity, margin = (
        rows["side"][at].astype(np.float64),
        rows["exit_quantity"][at],
        rows["exit_margin"][at],
    )
    moved = rows["exit_funding"][at] - rows["entry_funding"][at]
    paid = (side * quantity) * moved
    price = (rows["entry"][at] - side * (margin / quantity)) + moved
    rows["fill"][at] = price
    for name in ("close_fee", "liquidation_fee", "surplus", "deficit", "back"):
        rows[name][at] = 0.0
    rows["pnl"][at], rows["funding"][at] = -(margin - paid), -paid
    symbol, world = chunk.symbol[at], chunk.world[at]
    found = {}
    for index in np.unique(symbol).tolist():
        own = symbol == index
        mine = at[own]
        found[index] = Lots(
            world[own],
            side[own],
            rows["exit_bar"][mine].astype(np.int64),
            weight[mine] * quantity[own],
            price[own],
        )
    return found


def brought(book: Book, chunk: Chunk, weight: Floats, terms: FundTerms) -> Table:
    """What positions themselves bring funds and ask of them: other exits, and fees."""
    events = np.empty(2 * chunk.rows.size + chunk.calls.size, dtype=EVENT)
    written = fund_events(
        chunk.rows,
        chunk.calls,
        chunk.world,
        chunk.symbol,
        weight,
        terms.fee_share,
        book.times,
        book.starts,
        events,
    )
    return events[:written]


def grouped(world: Integers, side: Floats, bar: Integers) -> tuple[Integers, Integers]:
    """An order that puts equal entries together, and where each group starts, the end included."""
    order = np.lexsort((bar, side, world))
    changed = np.zeros(order.size, dtype=np.bool_)
    changed[:1] = True
    for key in (world[order], side[order], bar[order]):
        changed[1:] |= key[1:] != key[:-1]
    return order, np.append(np.flatnonzero(changed), order.size)


def together(parts: Sequence[Lots]) -> Lots:
    """One lot for all that one world and side takes over in one bar, at its mean price."""
    whole = Lots(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in Lots.__dataclass_fields__)
    )
    order, starts = grouped(whole.world, whole.side, whole.bar)
    first = order[starts[:-1]]
    quantity = exact_sums(whole.quantity[order], starts)
    money = exact_sums((whole.quantity * whole.price)[order], starts)
    return Lots(whole.world[first], whole.side[first], whole.bar[first], quantity, money / quantity)


def sold(lots: Lots, market: Market, rates: Rates, hold_ms: int) -> Sales:
    """What is sold when and at what price, a row a world, side and bar."""
    time, series, bars = market.time, market.series, market.time.size
    last = np.searchsorted(time, time[lots.bar] + hold_ms, side="right") - 1
    count = np.maximum(last - lots.bar, np.minimum(bars - 1 - lots.bar, 1))
    keeps = np.flatnonzero(count == 0)  # taken over in the last bar
    lot = np.repeat(np.arange(count.size), count)
    begin = np.repeat(np.cumsum(count) - count, count)
    bar = lots.bar[lot] + 1 + (np.arange(lot.size) - begin)
    part = lots.quantity[lot] / count[lot]
    order, starts = grouped(lots.world[lot], lots.side[lot], bar)
    first = order[starts[:-1]]
    side, at = lots.side[lot][first], bar[first]
    volume = exact_sums((part * series[LAST_OPEN, bar])[order], starts)
    price = series[LAST_OPEN, at] * (
        1.0 - side * slippage(rates, series[VOLATILITY, at], series[TURNOVER, at], volume)
    )
    made = Sales(
        lots.world[lot][first],
        side,
        at,
        exact_sums(part[order], starts),
        price,
        np.full(at.size, OPEN),
        np.zeros(at.size),
    )
    which = np.repeat(np.arange(at.size), np.diff(starts))  # the sale of each part, in order
    made.pnl = exact_sums(gained(lots, lot[order], part[order], price[which], at[which], market), starts)
    closing = np.full(keeps.size, series[MARK_CLOSE, bars - 1])
    kept = Sales(
        lots.world[keeps], lots.side[keeps], lots.bar[keeps], lots.quantity[keeps], closing, np.full(keeps.size, RANGE),
        gained(lots, keeps, lots.quantity[keeps], closing, lots.bar[keeps], market),
    )  # fmt: skip
    return Sales(
        *(np.concatenate([getattr(made, name), getattr(kept, name)]) for name in Sales.__dataclass_fields__)
    )


def gained(
    lots: Lots, lot: Integers, quantity: Floats, price: Floats, bar: Integers, market: Market
) -> Floats:
    """Profit of the price, less the funding paid while it was held."""
    signed = lots.side[lot] * quantity
    paid = market.series[FUNDING, bar] - market.series[FUNDING, lots.bar[lot]]
    made: Floats = signed * (price - lots.price[lot]) - signed * paid
    return made


def slippage(rates: Rates, volatility: Floats, turnover: Floats, volume: Floats) -> Floats:
    """That of liquidations of this volume (MODEL §6)."""
    known = turnover > 0.0
    ratio = np.divide(volume, turnover, out=np.zeros(volume.size), where=known)
    grown = np.minimum(rates.half_spread + (rates.impact * volatility) * np.sqrt(ratio), rates.max_slippage)
    return np.where(known, grown, rates.slippage)


def realised(sales: Sales, index: int, market: Market) -> Table:
    """Sales as the fund's flows: profits as surplus, losses as deficits."""
    some = np.flatnonzero(sales.pnl != 0.0)
    events = np.zeros(some.size, dtype=EVENT)
    events["time"], events["phase"] = market.time[sales.bar[some]], sales.phase[some]
    events["world"], events["symbol"] = sales.world[some], index
    events["surplus"], events["deficit"] = np.maximum(sales.pnl[some], 0.0), np.maximum(-sales.pnl[some], 0.0)
    return events


def told(book: Book, index: int, market: Market, lots: Lots, pnl: Floats | None) -> pl.DataFrame:
    """Lots or sales as rows of the table of inventory."""
    kind = "taken_over" if pnl is None else "sold"
    phase = lots.phase if isinstance(lots, Sales) else np.full(lots.bar.size, OPEN)
    words = [kind if pnl is None or k == OPEN else "valued" for k in phase.tolist()]
    columns = {
        "time": moments_of(market.time[lots.bar]),
        "world": pl.Series(book.worlds, dtype=pl.String).gather(pl.Series(lots.world.astype(np.uint32))),
        "symbol": pl.repeat(book.symbols[index], lots.bar.size, dtype=pl.String, eager=True),
        "side": pl.Series(["long" if side > 0.0 else "short" for side in lots.side.tolist()], dtype=pl.String),
        "kind": pl.Series(words, dtype=pl.String),
        "quantity": lots.quantity, "price": lots.price,
        "pnl": np.zeros(lots.bar.size) if pnl is None else pnl,
    }  # fmt: skip
    return pl.DataFrame(columns)


ROWS = {"kind": pl.String, "quantity": pl.Float64, "price": pl.Float64, "pnl": pl.Float64}


def inventory_frame(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """What funds took over and sold: `Result.extra["inventory"]`.

    Columns: time, world, symbol, side (of the positions), kind ("taken_over": price is the mean bankruptcy price, funding included; "sold"; "valued" at the
    last mark close), quantity (base units, times weight), price, pnl (price and funding, quote currency), held (quantity of this
    side left after the row). In the order of time; at one time sales come first.
    """
    none: dict[str, Any] = {
        "time": pl.Datetime("ms", "UTC"),
        "world": pl.String,
        "symbol": pl.String,
        "side": pl.String,
        **ROWS,
    }
    keys = ("world", "symbol", "side")
    change = pl.when(pl.col("kind") == "taken_over").then(pl.col("quantity")).otherwise(-pl.col("quantity"))
    frame = pl.concat([pl.DataFrame(schema=none), *tables]).sort("time", *keys, "kind", maintain_order=True)
    return frame.with_columns(held=change.cum_sum().over(keys).clip(lower_bound=0.0))


def with_inventory(fund: pl.DataFrame, inventory: pl.DataFrame) -> pl.DataFrame:
    """The ledger with the column inventory: profit and loss of what was sold, which is in surplus and deficit."""
    keys = ["time", "world", "symbol"]
    moved = inventory.filter(pl.col("pnl") != 0.0).group_by(keys).agg(inventory=pl.col("pnl").sum())
    joined = fund.join(moved, on=keys, how="left", maintain_order="left")
    flows = pl.col("surplus") + pl.col("deficit") > 0.0  # not the opening row of the same bar
    filled = pl.when(flows).then(pl.col("inventory")).otherwise(None).fill_null(0.0)
    others = [name for name in fund.columns if name not in ("uncovered", "balance")]
    return joined.with_columns(inventory=filled).select(*others, "inventory", "uncovered", "balance")


def of_positions(book: Book, fund: pl.DataFrame, own: Table) -> pl.DataFrame:
    """The ledger with the part of what is uncovered that positions' own deficits are, `own` being their flows: the rest is of sales."""
    owing = own[own["deficit"] > 0.0]
    claims = pl.DataFrame(
        {
            "time": moments_of(owing["time"].copy()),
            "world": pl.Series(book.worlds, dtype=pl.String).gather(
                pl.Series(owing["world"].astype(np.uint32))
            ),
            "symbol": pl.Series(book.symbols, dtype=pl.String).gather(
                pl.Series(owing["symbol"].astype(np.uint32))
            ),
            "claim": owing["deficit"].copy(),
        }
    )
    keys = ["time", "world", "symbol"]
    joined = fund.join(
        claims.group_by(keys).agg(pl.col("claim").sum()), on=keys, how="left", maintain_order="left"
    )
    share = (pl.col("claim").fill_null(0.0) / pl.col("deficit")).clip(upper_bound=1.0)
    part = pl.when(pl.col("deficit") > 0.0).then(pl.col("uncovered") * share).otherwise(0.0)
    return joined.with_columns(uncovered=part).drop("claim")


def summary(inventory: pl.DataFrame) -> dict[str, Any]:
    """What came of it, for metadata."""
    taken = inventory.filter(pl.col("kind") == "taken_over")
    return {
        "lots": taken.height,
        "taken_over": float((taken["quantity"] * taken["price"]).sum()),
        "pnl": float(inventory["pnl"].sum()),
    }
