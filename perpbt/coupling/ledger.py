"""The ledger of coupled funds: that of independent ones, and who covered what they could not pay."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import polars as pl

from perpbt.coupling.groups import Group, SymbolRows
from perpbt.coupling.settlement import Fund
from perpbt.coupling.witness import Told
from perpbt.engines.book import Book
from perpbt.kernels.adding import EVENT, fund_events
from perpbt.kernels.tables import Floats, Integers, Table
from perpbt.settling.settle import COVERS, LEDGER, FundTerms, ledger_frame, seeds_of
from perpbt.settling.topping import payments


def coupled_ledger(
    book: Book, terms: FundTerms, symbols: Sequence[SymbolRows], groups: Sequence[Group], settlements: Sequence[Fund | Told],
    times: Integers,
) -> pl.DataFrame:  # fmt: skip
    """As `perpbt.settling.settle.ledger`, with the columns adl, outside and socialised: money that covered deficits beside the fund's.

    What the fund paid in a row is deficit - adl - outside - socialised - uncovered.
    """
    size = sum(of.table_rows.size for of in symbols)
    world, weight = np.zeros(size, dtype=np.int64), np.zeros(size)
    for group in groups:
        there = group.at >= 0  # some have never been, in the end
        own = group.of.table_rows[group.at[there]]
        world[own], weight[own] = group.world, group.weight[there]
    events = np.concatenate(
        [np.empty(0, dtype=EVENT), *(events_of(book, of, world, weight, terms) for of in symbols)]
    )
    _, whose = terms.funds(book.symbols)
    added, amounts = payments(book, terms)
    paid_in = np.concatenate([np.zeros(events.size), amounts]) if amounts.size else None
    events = np.concatenate([events, added])
    after = balances_after(events, whose, settlements, times, terms.seed)
    if paid_in is not None:
        fill_in_unused(book, terms, events, paid_in, whose, settlements, after)
    covers = covers_by_moment(settlements, times)
    uncovered = np.zeros(events.size)
    owing = np.flatnonzero(events["deficit"] > 0.0) if covers else np.zeros(0, dtype=np.int64)
    time, market, of = (events[name][owing] for name in ("time", "world", "symbol"))
    order = np.lexsort((of, market, time))  # stable: the first deficit of a moment tells it
    time, market, of = time[order], market[order], of[order]
    first = np.ones(order.size, dtype=np.bool_)
    first[1:] = (np.diff(time) != 0) | (np.diff(market) != 0) | (np.diff(of) != 0)
    moments = zip(time[first].tolist(), market[first].tolist(), of[first].tolist(), strict=True)
    for moment, at in zip(moments, owing[order[first]].tolist(), strict=True):
        if moment in covers:
            covers[moment]["at"] = at
    for cover in covers.values():
        uncovered[int(cover["at"])] = cover["uncovered"]
    frame = ledger_frame(book, terms, events, uncovered, after, np.arange(events.size), paid_in)
    return with_covers(frame, book, covers)


def events_of(book: Book, of: SymbolRows, world: Integers, weight: Floats, terms: FundTerms) -> Table:
    """What the positions of a symbol brought their funds and asked of them."""
    calls = of.all_calls()
    calls["deficit"] = np.maximum(calls["deficit"], 0.0)  # margins taken are no deficits
    events = np.empty(2 * of.rows.size + calls.size, dtype=EVENT)
    symbol = np.full(of.rows.size, of.index, dtype=np.int64)
    own = of.table_rows
    written = fund_events(
        of.rows, calls, world[own], symbol, weight[own], terms.fee_share, book.times, book.starts, events
    )
    return events[:written]


def balances_after(
    events: Table, whose: Integers, settlements: Sequence[Fund | Told], times: Integers, seed: float
) -> Floats:
    """The balance of each event's fund after the event's bar; `seed` before anything has moved it."""
    after = np.zeros(events.size)
    when = np.searchsorted(times, events["time"])
    for one in settlements:
        mine = events["world"] == one.groups[0].world
        mine &= whose[events["symbol"]] == whose[one.groups[0].of.index]
        keys, balances = np.concatenate([*one.keys, [0]]), np.concatenate([*one.balances, [seed]])
        after[mine] = balances[np.searchsorted(keys[:-1], 3 * when[mine] + 3) - 1]
    return after


def fill_in_unused(
    book: Book, terms: FundTerms, events: Table, paid_in: Floats, whose: Integers, settlements: Sequence[Fund | Told], after: Floats
) -> None:  # fmt: skip
    """Balances of funds that nobody has ever brought or asked anything: their seeds, and what was put in."""
    used = {(one.groups[0].world, int(whose[one.groups[0].of.index])) for one in settlements}
    balances: dict[tuple[int, int], float] = {}
    for at in np.flatnonzero(paid_in > 0.0).tolist():
        fund = int(events["world"][at]), int(whose[events["symbol"][at]])
        if fund not in used:
            before = balances.get(fund, float(seeds_of(terms, book.symbols)[fund[1]]))
            balances[fund] = after[at] = before + paid_in[at]


def covers_by_moment(
    settlements: Sequence[Fund | Told], times: Integers
) -> dict[tuple[int, int, int], dict[str, float]]:
    """Who covered what, by time, world and symbol; the phases of a bar together."""
    found: dict[tuple[int, int, int], dict[str, list[float]]] = {}
    for one in settlements:
        for covered in one.covered:
            moment = int(times[covered.key // 3]), covered.group.world, covered.group.of.index
            lists = found.setdefault(moment, {name: [] for name in (*COVERS, "uncovered")})
            for name in lists:
                lists[name].append(getattr(covered.cover, name))
    return {
        moment: {name: math.fsum(values) for name, values in lists.items()} | {"at": -1.0}
        for moment, lists in found.items()
    }


def with_covers(
    frame: pl.DataFrame, book: Book, covers: dict[tuple[int, int, int], dict[str, float]]
) -> pl.DataFrame:
    """The ledger with the columns of covers."""
    rows = [
        {"time": time, "world": book.worlds[world], "symbol": book.symbols[symbol]}
        | {name: one[name] for name in COVERS}
        for (time, world, symbol), one in covers.items()
    ]
    schema = {"time": pl.Int64, "world": pl.String, "symbol": pl.String} | dict.fromkeys(COVERS, pl.Float64)
    made = pl.DataFrame(rows, schema=schema).with_columns(
        pl.col("time").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    )
    joined = frame.join(made, on=("time", "world", "symbol"), how="left", maintain_order="left")
    asked = pl.col("deficit") > 0.0  # not the opening row of the same bar
    filled = joined.with_columns(
        pl.when(asked).then(pl.col(name)).otherwise(None).fill_null(0.0).alias(name) for name in COVERS
    )
    funds = [name for name in ("fund",) if name in frame.columns]
    paid_in = [name for name in ("top_up",) if name in frame.columns]
    return filled.select(
        "time", "world", "symbol", *funds, *LEDGER, *paid_in, *COVERS, "uncovered", "balance"
    )
