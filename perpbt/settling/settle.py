"""Settling: open interest, crowds, the insurance fund, and the conservation of money (MODEL §6-§8).

In: chunks of a run's book. Out: weights, liquidations filled against their crowd, and the fund's ledger. Sums over accounts are exact,
so nothing depends on their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from perpbt.engines.book import Book, Chunk, Task
from perpbt.errors import InputError, RunError
from perpbt.kernels.accounts import refill
from perpbt.kernels.adding import EVENT, TOLERANCE, condense_events
from perpbt.kernels.sums import exact_sums, fund_balances
from perpbt.kernels.tables import ACCEPTED, LIQUIDATION, Floats, Integers, Table


@dataclass(frozen=True)
class TopUp:
    """Money put into funds from outside."""

    time: int  # ms
    amount: float
    fund: str | None  # its name; None: each


@dataclass(frozen=True)
class FundTerms:
    """The funds of every world: opening balance in quote currency, share of trading fees, and which symbols share one."""

    seed: float
    fee_share: float
    pooled: bool
    seeds: tuple[float, ...] = ()  # by symbol, where they differ
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()  # symbols that share a fund, by its name
    hold: int | None = None  # ms in which it sells what it takes over
    top_ups: tuple[TopUp, ...] = ()
    protection: bool = True  # what positions lose beyond their margins is the fund's, not the traders'

    @property
    def scope(self) -> str:
        """Who shares a fund, in a word."""
        return "pooled" if self.pooled else "grouped" if self.groups else "symbol"

    def names(self, symbols: Sequence[str]) -> list[str]:
        """The name of the fund of each symbol: "all", its group's, or its own."""
        of = {symbol: name for name, members in self.groups for symbol in members}
        return ["all" if self.pooled else of.get(symbol, symbol) for symbol in symbols]

    def funds(self, symbols: Sequence[str]) -> tuple[tuple[str, ...], Integers]:
        """The funds of a world by name, in the order of their first symbols, and the number of each symbol's.

        Raises InputError for a group that bears the name of a symbol outside it.
        """
        for name, members in self.groups:
            if name in symbols and name not in members:
                raise InputError(
                    f"fund.groups.{name}: {name} is a symbol that is not in it; allowed: another name"
                )
        whose = self.names(symbols)
        names = tuple(dict.fromkeys(whose))
        return names, np.array([names.index(name) for name in whose], dtype=np.int64)


@dataclass(frozen=True)
class Groups:
    """Entries with equal keys, put together: an order that sorts by the keys, first key first, and where each group starts in it
    (plus the end).
    """

    order: Integers
    starts: Integers

    @property
    def first(self) -> Integers:
        """A member of each group."""
        return self.order[self.starts[:-1]]

    @property
    def member(self) -> Integers:
        """The group of each entry."""
        member = np.empty(self.order.size, dtype=np.int64)
        member[self.order] = np.repeat(np.arange(self.starts.size - 1), np.diff(self.starts))
        return member

    def sums(self, values: Floats) -> Floats:
        """Exact sum of each group."""
        if not values.any():  # as of many a flow: nothing is drawn, no fees are shared
            return np.zeros(self.starts.size - 1)
        return exact_sums(values[self.order], self.starts)


def grouped(keys: list[Integers]) -> Groups:
    """Groups of equal keys. Keys that fit into one number together are sorted as one."""
    key, room = np.zeros(keys[0].size, dtype=np.int64), 1
    for one in keys if keys[0].size else []:
        low = int(one.min())
        span = int(one.max()) - low + 1
        room *= span
        key = key * span + (one - low) if room < 1 << 63 else key
    if room >= 1 << 63:
        order = np.lexsort(keys[::-1]).astype(np.int64)
        changed = np.any([one[order][1:] != one[order][:-1] for one in keys], axis=0)
    else:
        order = np.argsort(key)
        ordered = key[order]
        changed = ordered[1:] != ordered[:-1]
    starts = np.concatenate([np.zeros(min(key.size, 1), np.int64), np.flatnonzero(changed) + 1, [key.size]])
    return Groups(order, starts)


# -------------------------------------------------------------------------------------------- crowds
CROWD = np.dtype([("key", np.int64), ("weight", np.float64), ("sold", np.float64), ("cell", np.int64)])


def crowd_keys(book: Book, chunk: Chunk, at: Integers) -> Integers:
    """Who falls together: world, symbol, side, bar and phase of rows `at`, as one number."""
    rows = chunk.rows
    who = ((chunk.world[at] * len(book.symbols) + chunk.symbol[at]) * 2 + (rows["side"][at] > 0)) * 2 + rows[
        "phase"
    ][at]
    keys: Integers = who * (book.times.size + 1) + rows["exit_bar"][at]
    return keys


def liquidated(chunk: Chunk) -> Integers:
    """Indices of liquidated positions."""
    rows = chunk.rows
    return np.flatnonzero((rows["rejection"] == ACCEPTED) & (rows["reason"] == LIQUIDATION))


@dataclass(frozen=True)
class Crowds:
    """What each crowd sold together, in quote currency, and its bar's volatility and turnover."""

    volume: Floats
    volatility: Floats
    turnover: Floats
    member: Integers  # the crowd of each liquidation, task after task
    starts: Mapping[Task, int]  # where in `member` those of a task begin
    largest: int

    def fill(self, book: Book, task: Task, chunk: Chunk) -> None:
        """Fill every liquidation of a task's chunk against its crowd."""
        picked, start = liquidated(chunk), self.starts[task]
        crowd = self.member[start : start + picked.size]
        symbol = chunk.symbol[picked]
        for one in np.unique(symbol):
            here = symbol == one
            of, rates = crowd[here], book.parts[one].rates
            refill(rates, chunk.rows, picked[here], self.volume[of], self.volatility[of], self.turnover[of])


def sold_by(book: Book, chunk: Chunk, weight: Floats, cell: Integers) -> Table:
    """A chunk's liquidations, for `make_crowds`."""
    at = liquidated(chunk)
    sold = np.empty(at.size, dtype=CROWD)
    sold["key"], sold["weight"], sold["cell"] = crowd_keys(book, chunk, at), weight[at], cell[at]
    sold["sold"] = chunk.rows["exit_quantity"][at] * chunk.rows["base"][at]
    return sold


def make_crowds(book: Book, tasks: Sequence[Task], parts: list[Table], factor: Floats) -> Crowds:
    """Put together who is liquidated in the same world, symbol, side, bar and phase; `factor` scales the weights of a cell.

    `parts` are the liquidations of each task; they are used up.
    """
    ends = np.cumsum([part.size for part in parts])
    starts = {task: int(end) - part.size for task, part, end in zip(tasks, parts, ends, strict=True)}
    sold = np.concatenate([np.empty(0, dtype=CROWD), *parts])
    parts.clear()
    groups = grouped([sold["key"]])
    keys = sold["key"][groups.first]
    volume = groups.sums(sold["weight"] * factor[sold["cell"]] * sold["sold"])
    width = book.times.size + 1
    bar, symbol = keys % width, keys // width // 4 % len(book.symbols)
    volatility, turnover = np.empty(keys.size), np.empty(keys.size)
    for index, part in enumerate(book.parts):
        here = symbol == index
        at = np.searchsorted(part.liquidated_bars, bar[here])
        volatility[here], turnover[here] = part.volatility[at], part.turnover[at]
    largest = int(np.diff(groups.starts).max(initial=0))
    return Crowds(volume, volatility, turnover, groups.member, starts, largest)


# ---------------------------------------------------------------------------------------------- fund
LEDGER = ("liquidation_fees", "surplus", "fee_share", "deficit")
COVERS = ("adl", "outside", "socialised")  # who covered deficits beside the fund


def condensed(events: Table) -> Table:
    """Fewer events that make the same ledger to the bit. Deficits stay one by one: each takes its own share of what is not covered."""
    owing = events["deficit"] > 0.0
    gains = events[~owing]
    groups = grouped([gains[name] for name in ("world", "symbol", "time", "phase")])
    made = np.empty(gains.size, dtype=EVENT)
    return np.concatenate([made[: condense_events(gains, groups.order, groups.starts, made)], events[owing]])


def ledger(
    book: Book, events: Table, terms: FundTerms, added: tuple[Table, Floats] | None = None
) -> pl.DataFrame:
    """The funds over time (MODEL §7): a row per time, world and symbol with flows, and an opening row for every fund.

    Columns: time, world, symbol, liquidation_fees, surplus, fee_share, deficit, uncovered, balance; money
    in quote currency, scaled by weights. Inside a bar the open comes before the range, and in each credits
    before draws; `balance` is the fund's after that bar. `added` is money put in from outside, see `topping`: column top_up.
    """
    paid_in = None
    if added is not None and added[1].size:
        paid_in = np.concatenate([np.zeros(events.size), added[1]])
        events = np.concatenate([events, added[0]])
    names, whose = terms.funds(book.symbols)
    fund = events["world"].astype(np.int64) * len(names) + whose[events["symbol"]]
    steps = grouped([fund, events["time"], events["phase"]])
    first = steps.first
    owner, moment = fund[first], events["time"][first]
    draws = steps.sums(events["deficit"])
    seeds = np.tile(seeds_of(terms, book.symbols), len(book.worlds))
    balances, short = fund_balances(owner, credits_of(events, steps, paid_in), draws, seeds)
    # the last step of a bar in its fund gives the balance after that bar
    last = np.append((np.diff(owner) != 0) | (np.diff(moment) != 0), True)[: first.size]
    after = balances[np.flatnonzero(last)][np.cumsum(last) - last]
    member = steps.member
    uncovered = np.zeros(events.size)
    if short.any():
        np.divide(events["deficit"], draws[member], out=uncovered, where=draws[member] > 0.0)
        uncovered *= short[member]
    return ledger_frame(book, terms, events, uncovered, after, member, paid_in)


def seeds_of(terms: FundTerms, symbols: Sequence[str]) -> Floats:
    """Opening balances of one world's funds."""
    names, whose = terms.funds(symbols)
    if terms.seeds and not terms.pooled:  # those who share a fund are settled in one currency
        return np.array(terms.seeds)[[int(np.argmax(whose == k)) for k in range(len(names))]]
    return np.full(len(names), float(terms.seed))


def credits_of(events: Table, steps: Groups, paid_in: Floats | None = None) -> Floats:
    """Exact sums of all that funds receive in each step."""
    received = [events[name] for name in LEDGER[:3]] + ([] if paid_in is None else [paid_in])
    values = np.empty(len(received) * events.size)
    for k, one in enumerate(received):  # those of an entry side by side, so that a group stays together
        values[k :: len(received)] = one[steps.order]
    return exact_sums(values, len(received) * steps.starts)


def ledger_frame(
    book: Book, terms: FundTerms, events: Table, uncovered: Floats, after: Floats, member: Integers, paid_in: Floats | None = None
) -> pl.DataFrame:  # fmt: skip
    """Events summed per time, world and symbol, sorted by these, with a row at the first bar for each fund, whose symbol is the fund's name: a
    pool's is "all". With groups a column `fund` names the fund of each row. `after` is the balance after each step, `member` the step of each event.
    """
    names = np.argsort(np.array(book.worlds, dtype=object), kind="stable")
    rank = np.empty(names.size, dtype=np.int64)
    rank[names] = np.arange(names.size)
    groups = grouped([events["time"], rank[events["world"]], events["symbol"]])
    first = groups.first
    labels, whose = terms.funds(book.symbols)
    shift = len(book.symbols)  # labels of opening rows come after those of symbols
    opened, worlds = len(labels), len(book.worlds)
    flows: tuple[str, ...] = LEDGER
    zeros = np.zeros(opened * worlds)
    amounts = {name: np.concatenate([zeros, groups.sums(events[name])]) for name in LEDGER}
    if paid_in is not None:
        flows, amounts["top_up"] = (*LEDGER, "top_up"), np.concatenate([zeros, groups.sums(paid_in)])
    columns = {
        "time": np.concatenate([np.full(zeros.size, book.first_time), events["time"][first]]),
        "rank": np.concatenate([np.repeat(np.arange(worlds), opened), rank[events["world"][first]]]),
        "label": np.concatenate([np.tile(np.arange(opened), worlds) + shift, events["symbol"][first]]),
        **amounts,
        "uncovered": np.concatenate([zeros, groups.sums(uncovered)]),
        "balance": np.concatenate([np.tile(seeds_of(terms, book.symbols), worlds), after[member[first]]]),
    }
    order = np.lexsort((columns["rank"], columns["time"]))  # stable: openings first
    code = {name: pl.Series(columns[name][order], dtype=pl.UInt32) for name in ("rank", "label")}
    frame = pl.DataFrame(
        {
            "time": pl.Series(columns["time"][order], dtype=pl.Int64),
            "world": pl.Series(book.worlds, dtype=pl.String)
            .gather(pl.Series(names, dtype=pl.UInt32))
            .gather(code["rank"]),
            "symbol": pl.Series((*book.symbols, *labels), dtype=pl.String).gather(code["label"]),
            **{
                name: pl.Series(columns[name][order], dtype=pl.Float64)
                for name in (*flows, "uncovered", "balance")
            },
        }
    ).with_columns(pl.col("time").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"))
    if not terms.groups:
        return frame
    fund = pl.Series((*(labels[k] for k in whose), *labels), dtype=pl.String).gather(code["label"])
    return frame.insert_column(3, fund.alias("fund"))


def check_run(
    sums: Mapping[str, float], gross: float, fund: pl.DataFrame, terms: FundTerms
) -> dict[str, float]:
    """Money of the whole run balances (MODEL §8); returns the totals. Raises `RunError` if it does not.

    `sums` are weighted sums over positions: cash_change, fees, pnl and funding.
    """

    def booked(name: str) -> float:
        column = (
            fund[name].to_numpy().copy()
        )  # polars hands out read-only arrays: another type to compile for
        return float(exact_sums(column, np.array([0, column.size]))[0])

    covered = {name: booked(name) for name in COVERS if name in fund.columns}  # in coupled runs
    totals = {
        "traders": sums["cash_change"],
        "venue_fees": sums["fees"] * (1.0 - terms.fee_share),
        "fund_change": booked("liquidation_fees") + booked("surplus") + booked("fee_share") + sum(covered.values())
        - (booked("deficit") - booked("uncovered")),
        **covered,
        "uncovered": booked("uncovered"),
        "price_pnl": sums["pnl"],
        "funding": sums["funding"],
    }  # fmt: skip
    came = totals["traders"] + totals["venue_fees"] + totals["fund_change"] - totals["uncovered"]
    gave = totals["price_pnl"] + totals["funding"] + covered.get("outside", 0.0)
    if "inventory" in fund.columns:  # a fund that holds what it takes over has a price PnL of its own
        totals["inventory"] = booked("inventory")
        gave, gross = gave + totals["inventory"], gross + float(fund["inventory"].abs().sum())
    if not abs(came - gave) <= TOLERANCE * gross:
        raise RunError(
            f"money of the run does not balance: traders + venue + fund - uncovered = {came!r}, "
            f"price PnL + funding = {gave!r} (gross flows {gross!r})"
        )
    return totals
