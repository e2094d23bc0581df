"""Settling: open interest, crowds, the insurance fund, and the conservation of money (MODEL §6-§8).

In: the book of a run. Out: the same book with liquidations filled against their crowd, and the fund's
ledger. Sums over accounts are exact, so nothing depends on their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from perpbt.book import Book
from perpbt.errors import InputError, RunError
from perpbt.kernels.accounts import refill
from perpbt.kernels.sums import exact_sums, fund_balances
from perpbt.kernels.tables import CLOSE, DELEVERAGE, OPEN, RANGE, Floats, Integers

OpenInterest = float | Mapping[str, float] | pl.DataFrame
TOLERANCE = 1e-12  # of gross flows


@dataclass(frozen=True)
class FundTerms:
    """The fund of every world: opening balance in quote currency, share of trading fees, and whether
    symbols share one.
    """

    seed: float
    fee_share: float
    pooled: bool


def grouped(keys: list[Integers]) -> tuple[Integers, Integers]:
    """A stable order that sorts by `keys`, first key first, and where each group of equal keys starts in it
    (plus the end).
    """
    order = np.lexsort(keys[::-1]).astype(np.int64)
    changed = np.zeros(order.size, dtype=bool)
    changed[:1] = True
    for key in keys:
        ordered = key[order]
        changed[1:] |= ordered[1:] != ordered[:-1]
    return order, np.append(np.flatnonzero(changed), order.size).astype(np.int64)


def group_sums(keys: list[Integers], values: Floats) -> tuple[Integers, Floats, Integers]:
    """For each group of equal keys: index of its first member, exact sum of values; and each member's
    group.
    """
    order, starts = grouped(keys)
    sums = exact_sums(np.ascontiguousarray(values[order]), starts)
    member = np.empty(order.size, dtype=np.int64)
    member[order] = np.repeat(np.arange(sums.size), np.diff(starts))
    return order[starts[:-1]], sums, member


def interest_at(series: pl.DataFrame, times: Integers) -> Floats:
    """Open interest known at each time: the last value at or before it, else the first."""
    ordered = series.sort("ts")
    stamps = ordered["ts"].dt.epoch("ms").to_numpy()
    values = ordered["open_interest"].cast(pl.Float64).to_numpy()
    at = np.searchsorted(stamps, times, side="right") - 1
    return np.asarray(values[np.maximum(at, 0)], dtype=np.float64)


@dataclass(frozen=True)
class Scaling:
    """What scaling to open interest met: how many positions carry it at a time, on average, where they are fewest; and the
    worlds it could not scale, whose positions were never open at a close.
    """

    fewest: float
    unscaled: tuple[str, ...]


def scale_to_open_interest(book: Book, wanted: OpenInterest) -> Scaling:
    """Scale weights so that each world's mean total notional is the stated open interest (MODEL §7).

    The mean is over bar closes. A number is for the whole world and over all times at which any symbol has a bar; a mapping states it
    per symbol, over that symbol's bars; a frame (`ts`, optional `symbol`, `open_interest`) also scales each position by open interest
    at its entry relative to the series' mean.
    """
    per_symbol = isinstance(wanted, Mapping) or (
        isinstance(wanted, pl.DataFrame) and "symbol" in wanted.columns
    )
    target = np.zeros(book.weight.size)
    if isinstance(wanted, pl.DataFrame):
        for index, symbol in enumerate(book.symbols):
            here = book.symbol == index
            series = wanted.filter(pl.col("symbol") == symbol) if per_symbol else wanted
            if series.height == 0:
                raise InputError(f"open_interest has no rows for symbol {symbol}")
            mean = float(series["open_interest"].cast(pl.Float64).to_numpy().mean())
            target[here] = mean
            book.weight[here] *= interest_at(series, book.entry_time[here]) / mean
    elif isinstance(wanted, Mapping):
        lacking = [symbol for symbol in book.symbols if symbol not in wanted]
        if lacking:
            raise InputError(
                f"open_interest has no value for symbol {lacking[0]}; it has {', '.join(wanted)}"
            )
        target = np.array([float(wanted[symbol]) for symbol in book.symbols])[book.symbol]
    else:
        target[:] = float(wanted)
    bars = book.bars[book.symbol] if per_symbol else np.full(book.weight.size, book.moments)
    held = np.where(book.opened, book.weight * book.rows.notional * book.closes / bars, 0.0)
    keys = [book.world, book.symbol] if per_symbol else [book.world]
    _, sums, member = group_sums(keys, held)
    mean_notional = sums[member]
    factor = np.ones(target.size)
    np.divide(target, mean_notional, out=factor, where=mean_notional > 0)
    book.weight *= factor
    never_open = book.opened & ~(mean_notional > 0)
    open_at_a_time = group_sums(keys, np.where(book.opened, book.closes / bars, 0.0))[1]
    return Scaling(
        fewest=float(open_at_a_time[open_at_a_time > 0].min(initial=np.inf)),
        unscaled=tuple(book.worlds[k] for k in np.unique(book.world[never_open])),
    )


def fill_with_crowd(book: Book) -> int:
    """Fill every liquidation against all its world liquidates in that symbol, side, bar and phase. Returns
    the largest crowd.
    """
    rows, picked = book.rows, book.liquidated
    if picked.size == 0:
        return 0
    sold = book.weight[picked] * (rows.exit_quantity[picked] * rows.base[picked])
    keys = [
        book.world[picked],
        book.symbol[picked],
        rows.side[picked].astype(np.int64),
        rows.exit_bar[picked],
        rows.phase[picked].astype(np.int64),
    ]
    _, sums, member = group_sums(keys, sold)
    for index, rates in enumerate(book.rates):
        here = np.flatnonzero(book.symbol[picked] == index)
        at = picked[here]
        refill(rates, rows, at, sums[member][here], book.exit_volatility[at], book.exit_turnover[at])
    return int(np.bincount(member).max())


def with_calls(book: Book, start: Floats, column: Floats, final: Floats) -> Floats:
    """A total per position in the order money moved: at the opening, at each deleveraging, at the exit."""
    total = start.copy()
    sold = book.calls.action == DELEVERAGE
    np.add.at(total, book.calls.row[sold], column[sold])
    return total + final


@dataclass(frozen=True)
class Money:
    """What each position came to, in quote currency; partial closings by margin calls included."""

    pnl: Floats
    funding: Floats
    fees: Floats
    liquidation_fee: Floats
    surplus: Floats
    deficit: Floats
    cash_change: Floats
    drawdown: Floats


def add_up(book: Book) -> Money:
    """Totals per position, checked: what traders, venue and fund got is what the price and funding gave
    (MODEL §8).
    """
    rows, calls = book.rows, book.calls
    none = np.zeros(rows.lane.size)
    back = rows.released + rows.back
    money = Money(
        pnl=with_calls(book, none, calls.pnl, rows.pnl),
        funding=with_calls(book, none, calls.funding, rows.funding),
        fees=with_calls(book, rows.open_fee, calls.fee, rows.close_fee),
        liquidation_fee=rows.liquidation_fee,
        surplus=rows.surplus,
        deficit=with_calls(book, none, calls.deficit, rows.deficit),
        cash_change=back - (rows.collateral + rows.top_up),
        drawdown=final_drawdown(book, back),
    )
    opened = book.opened
    came = ((money.cash_change + money.fees) + money.liquidation_fee) + money.surplus - money.deficit
    gave = money.pnl + money.funding
    gross = sum(
        np.abs(part) for part in (back, rows.collateral, rows.top_up, money.pnl, money.funding, money.fees)
    )
    broken = np.flatnonzero(opened & ~(np.abs(came - gave) <= TOLERANCE * (gross + money.deficit)))
    if broken.size:
        k = broken[0]
        raise RunError(
            f"money is not conserved in {broken.size} positions, first in position {k} ({book.symbols[book.symbol[k]]}): "
            f"traders, venue and fund got {came[k]!r}, price and funding gave {gave[k]!r}"
        )
    return money


def final_drawdown(book: Book, back: Floats) -> Floats:
    """Largest fall from the peak of equity, as a fraction of it, the cash that came back included."""
    peak = book.rows.peak
    fall = np.zeros(peak.size)
    np.divide(peak - back, peak, out=fall, where=book.opened)
    return np.maximum(book.rows.drawdown, fall)


LEDGER = ("liquidation_fees", "surplus", "fee_share", "deficit")


def flows(book: Book, terms: FundTerms) -> dict[str, np.ndarray]:
    """Every payment to or from a fund, one entry each: when (time, phase), whose (world, symbol), and the
    amounts.
    """
    rows, calls, opened = book.rows, book.calls, book.opened
    none = np.zeros(rows.lane.size)
    share = terms.fee_share * book.weight
    sold = np.flatnonzero(calls.action == DELEVERAGE)
    of = calls.row[sold]
    nothing = np.zeros(sold.size)
    openings = np.flatnonzero(opened & (rows.open_fee > 0.0) & (terms.fee_share > 0.0))
    closings = np.flatnonzero(
        opened
        & ((rows.close_fee * terms.fee_share + rows.liquidation_fee + rows.surplus + rows.deficit) > 0.0)
    )
    at_exit = np.where(rows.phase[closings] == CLOSE, RANGE, rows.phase[closings])
    return {
        "time": np.concatenate([book.entry_time[openings], book.exit_time[closings], book.call_time[sold]]),
        "phase": np.concatenate([np.full(openings.size, OPEN), at_exit, np.full(sold.size, OPEN)]),
        "world": np.concatenate([book.world[openings], book.world[closings], book.world[of]]),
        "symbol": np.concatenate([book.symbol[openings], book.symbol[closings], book.symbol[of]]),
        "liquidation_fees": np.concatenate(
            [none[openings], (book.weight * rows.liquidation_fee)[closings], nothing]
        ),
        "surplus": np.concatenate([none[openings], (book.weight * rows.surplus)[closings], nothing]),
        "fee_share": np.concatenate(
            [
                (share * rows.open_fee)[openings],
                (share * rows.close_fee)[closings],
                share[of] * calls.fee[sold],
            ]
        ),
        "deficit": np.concatenate(
            [none[openings], (book.weight * rows.deficit)[closings], book.weight[of] * calls.deficit[sold]]
        ),
    }


def ledger(book: Book, terms: FundTerms) -> pl.DataFrame:
    """The funds over time (MODEL §7): a row per time, world and symbol with flows, and an opening row for
    every fund.

    Columns: time, world, symbol, liquidation_fees, surplus, fee_share, deficit, uncovered, balance; money
    in quote currency, scaled by weights. Inside a bar the open comes before the range, and in each credits
    before draws; `balance` is the fund's after that bar.
    """
    events = flows(book, terms)
    symbols = len(book.symbols)
    # a fund per world, or per world and symbol
    fund = events["world"] if terms.pooled else events["world"] * symbols + events["symbol"]
    steps = [fund, events["time"], events["phase"]]
    first, draws, step_of = group_sums(steps, events["deficit"])
    credits = np.concatenate([events["liquidation_fees"], events["surplus"], events["fee_share"]])
    _, credited, _ = group_sums([np.tile(key, 3) for key in steps], credits)
    seeds = np.full(len(book.worlds) * (1 if terms.pooled else symbols), float(terms.seed))
    balances, short = fund_balances(fund[first], credited, draws, seeds)
    part = np.zeros(events["deficit"].size)
    np.divide(events["deficit"], draws[step_of], out=part, where=draws[step_of] > 0.0)
    events["uncovered"] = part * short[step_of]
    rows, columns = ledger_rows(events)
    # the last step of a bar in its fund gives the balance after that bar
    keys = [fund[first], events["time"][first]]
    _, ends = grouped(keys)  # steps are sorted already
    after = balances[ends[1:] - 1]
    bar_of_step = np.repeat(np.arange(after.size), np.diff(ends))
    columns["balance"] = after[bar_of_step[step_of[rows]]]
    return with_openings(book, terms, columns)


def ledger_rows(events: dict[str, np.ndarray]) -> tuple[Integers, dict[str, np.ndarray]]:
    """Flows summed per time, world and symbol; also an index of one event of each row."""
    keys = [events["time"], events["world"], events["symbol"]]
    columns: dict[str, np.ndarray] = {}
    rows = np.zeros(0, dtype=np.int64)
    for name in (*LEDGER, "uncovered"):
        rows, columns[name], _ = group_sums(keys, events[name])
    for name in ("time", "world", "symbol"):
        columns[name] = events[name][rows]
    return rows, columns


def with_openings(book: Book, terms: FundTerms, columns: dict[str, np.ndarray]) -> pl.DataFrame:
    """The ledger as a frame, with a row at the first bar for each fund; a pool's opening row has the symbol
    "all".
    """
    worlds, symbols = pl.Series(book.worlds, dtype=pl.String), pl.Series(book.symbols, dtype=pl.String)
    body = pl.DataFrame(
        {
            "time": pl.Series(columns["time"], dtype=pl.Int64),
            "world": worlds.gather(pl.Series(columns["world"], dtype=pl.UInt32)),
            "symbol": symbols.gather(pl.Series(columns["symbol"], dtype=pl.UInt32)),
            **{
                name: pl.Series(columns[name], dtype=pl.Float64) for name in (*LEDGER, "uncovered", "balance")
            },
        }
    )
    names = ["all"] if terms.pooled else list(book.symbols)
    openings = [(book.first_time, world, name) for world in book.worlds for name in names]
    head = pl.DataFrame(
        openings, schema={"time": pl.Int64, "world": pl.String, "symbol": pl.String}, orient="row"
    ).with_columns(
        *[pl.lit(0.0).alias(name) for name in (*LEDGER, "uncovered")],
        pl.lit(float(terms.seed)).alias("balance"),
    )
    return pl.concat([head, body]).sort("time", "world", maintain_order=True).with_columns(
        pl.col("time").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    )  # fmt: skip


def check_run(book: Book, money: Money, fund: pl.DataFrame, terms: FundTerms) -> dict[str, float]:
    """Money of the whole run balances (MODEL §8); returns the totals. Raises `RunError` if it does not."""
    opened = book.opened
    weight = np.where(opened, book.weight, 0.0)

    def total(values: Floats) -> float:
        return float(exact_sums(weight * values, np.array([0, values.size]))[0])

    def booked(name: str) -> float:
        column = (
            fund[name].to_numpy().copy()
        )  # polars hands out read-only arrays: another type to compile for
        return float(exact_sums(column, np.array([0, column.size]))[0])

    totals = {
        "traders": total(money.cash_change),
        "venue_fees": total(money.fees) * (1.0 - terms.fee_share),
        "fund_change": booked("liquidation_fees") + booked("surplus") + booked("fee_share")
        - (booked("deficit") - booked("uncovered")),
        "uncovered": booked("uncovered"),
        "price_pnl": total(money.pnl),
        "funding": total(money.funding),
    }  # fmt: skip
    came = totals["traders"] + totals["venue_fees"] + totals["fund_change"] - totals["uncovered"]
    gave = totals["price_pnl"] + totals["funding"]
    gross = sum(total(np.abs(part)) for part in (money.cash_change, money.pnl, money.funding, money.fees))
    gross += total(book.rows.collateral)
    if not abs(came - gave) <= TOLERANCE * gross:
        raise RunError(
            f"money of the run does not balance: traders + venue + fund - uncovered = {came!r}, "
            f"price PnL + funding = {gave!r} (gross flows {gross!r})"
        )
    return totals
