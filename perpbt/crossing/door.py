"""Driving the kernels of shared wallets: symbols on one grid, accounts in chunks, chunks on threads.

In: what door one has checked. Out: a book ready for settling, and a table of wallets. Every account writes its own rows, so nothing
depends on chunks or threads.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from perpbt.crossing.charges import make_charges
from perpbt.crossing.collateral import Collateral, Holdings, make_holdings
from perpbt.crossing.grid import Timeline, on_grid, stacked, timeline_of
from perpbt.crossing.legs import Legs, make_legs
from perpbt.crossing.terms import Margin
from perpbt.crossing.witness import run_wallets_naively
from perpbt.engines.book import Book, SymbolPart
from perpbt.engines.chunks import Counted, Outcome, choose_threads, in_threads
from perpbt.engines.given import GivenOrder, Wishes
from perpbt.errors import InputError
from perpbt.kernels.crossing.blocks import grid_over
from perpbt.kernels.crossing.tables import HOLDING, SIGMA_, TURNOVER_, WALLET, Charges, Grid
from perpbt.kernels.crossing.walking import run_wallets
from perpbt.kernels.tables import ACCEPTED, CALL, LIQUIDATION, ROW, Market, Rates, Table
from perpbt.load import Bars
from perpbt.prepare.arrays import floats, market_arrays, rates_for
from perpbt.running.setting import Setting, describe_symbol

CHUNK = 256  # accounts a thread takes at a time
LABEL = "wallets"


@dataclass(frozen=True)
class Shared:
    """A run of shared wallets, ready for settling."""

    book: Book
    order: GivenOrder
    wallets: pl.DataFrame
    collateral: pl.DataFrame | None  # None: nobody holds anything but cash


@dataclass(frozen=True)
class Prepared:
    """Everything the kernels read."""

    line: Timeline
    grid: Grid
    charges: Charges
    holdings: Holdings
    rates: Sequence[Rates]
    names: Sequence[str]  # of the grid: symbols, then assets with a price of their own


def run_shared(
    setting: Setting, loaded: Bars, table: pl.DataFrame, margin: Margin, collateral: Collateral | None
) -> Shared:
    """All accounts to their end."""
    order = GivenOrder(table, Wishes(table), setting.spool)
    line, markets, closes = load_symbols(setting, loaded, order.symbols)
    since = time.perf_counter()
    legs = make_legs(table, order.symbols, line)
    for k, symbol in enumerate(order.symbols):
        early = int((order.wishes.entry[order.of_symbol(k)] < markets[k].time[0]).sum())
        if early:
            setting.notes.append(
                f"{symbol}: {early:,} entries lie before the first bar and are filled at its open"
            )
    prepared = prepare(setting, line, order.symbols, markets, closes, margin, legs, collateral)
    since = setting.timed("prepare", since)
    rows, wallets = np.zeros(table.height, dtype=ROW), np.zeros(legs.size, dtype=WALLET)
    counted = Counted(setting.progress, LABEL, legs.size)
    if setting.engine == "oracle":
        run_wallets_naively(prepared, order.symbols, margin, legs, rows, wallets, counted)
    else:
        run_in_chunks(setting, prepared, legs, rows, wallets, counted)
    since = setting.timed("kernels", since)
    for k in range(len(order.symbols)):
        mine = order.of_symbol(k)
        order.put(k, Outcome(rows[mine], np.empty(0, dtype=CALL)), mine)
    parts = [symbol_part(prepared, k, rows[order.of_symbol(k)]) for k in range(len(order.symbols))]
    book = Book(order.symbols, order.worlds, parts, order)
    left = prepared.holdings.assets.amount
    told = prepared.holdings.table
    return Shared(
        book,
        order,
        wallet_table(line, legs, wallets),
        None if collateral is None else told.with_columns(pl.Series("left", left)),
    )


def load_symbols(
    setting: Setting, loaded: Bars, symbols: Sequence[str]
) -> tuple[Timeline, list[Market], list[np.ndarray]]:
    """Bars of all symbols, as arrays, and their last closes."""
    markets, closes = [], []
    for symbol in symbols:
        since = time.perf_counter()
        collected = loaded.collect(symbol)
        describe_symbol(setting, collected, loaded.provenance.get(symbol))
        since = setting.timed("load", since)
        markets.append(market_arrays(collected, setting.rules, "dense"))
        closes.append(floats(collected.frame["close"]))
        setting.timed("prepare", since)
    return timeline_of([market.time for market in markets]), markets, closes


def check_rule(setting: Setting, symbol: str) -> None:
    """Of the ways to read tiers, a shared wallet knows brackets that hold for all time."""
    rule = setting.venue.terms("maintenance", symbol)
    if rule is not None and rule.rule != "brackets":
        raise InputError(
            f"venue {setting.venue.name}: maintenance.rule = {rule.rule!r} for {symbol}; allowed with a shared wallet: 'brackets'"
        )
    if len(setting.venue.schedule(symbol)) > 1:
        raise InputError(
            f"venue {setting.venue.name}: tiers of {symbol} that change in time; allowed with a shared wallet: one set of tiers"
        )


def prepare(
    setting: Setting, line: Timeline, symbols: Sequence[str], markets: Sequence[Market], closes: Sequence[np.ndarray],
    margin: Margin, legs: Legs, collateral: Collateral | None,
) -> Prepared:  # fmt: skip
    """Grid, charges and collateral."""
    for symbol in symbols:
        check_rule(setting, symbol)
    series = {k: on_grid(line, k, markets[k], closes[k]) for k in range(len(symbols))}
    rates = [rates_for(setting.venue, symbol, setting.rules) for symbol in symbols]
    charges = make_charges(setting.venue, rates, symbols, margin)
    holdings = make_holdings(collateral, setting.venue, legs, line, symbols, charges.unit.tolist())
    series |= {len(symbols) + k: one for k, one in enumerate(holdings.series)}
    grid = grid_over(stacked(series), setting.engine == "skip")
    return Prepared(line, grid, charges, holdings, rates, (*symbols, *holdings.names))


def run_in_chunks(
    setting: Setting, prepared: Prepared, legs: Legs, rows: Table, wallets: Table, counted: Counted
) -> None:
    """The compiled engines."""

    most = int(np.diff(prepared.holdings.assets.first).max(initial=0))

    def work(begin: int) -> int:
        end = min(begin + CHUNK, legs.size)
        held = np.zeros(prepared.grid.series.shape[0] + most, dtype=HOLDING)
        run_wallets(
            prepared.grid,
            prepared.charges,
            prepared.holdings.assets,
            legs.legs,
            legs.first,
            begin,
            end,
            wallets,
            rows,
            held,
        )
        return end - begin

    threads = choose_threads(setting.threads, legs.legs.size, prepared.line.time.size)
    for size in in_threads(work, range(0, legs.size, CHUNK), threads):
        counted.add(size)


def symbol_part(prepared: Prepared, symbol: int, rows: Table) -> SymbolPart:
    """What settling needs to know of a symbol; bars are those of the grid."""
    series = prepared.grid.series[symbol]
    bars = rows["exit_bar"][(rows["rejection"] == ACCEPTED) & (rows["reason"] == LIQUIDATION)]
    flat = int((~(series[TURNOVER_, bars] > 0.0)).sum())
    at = np.unique(bars)
    return SymbolPart(
        prepared.line.time,
        prepared.rates[symbol],
        at,
        series[SIGMA_, at],
        series[TURNOVER_, at],
        bars.size,
        flat,
    )


def wallet_table(line: Timeline, legs: Legs, wallets: Table) -> pl.DataFrame:
    """A row per account, sorted by world and name."""
    liquidated = wallets["liquidated_at"]
    moments = pl.Series(np.where(liquidated >= 0, line.time[liquidated], 0)).set(
        pl.Series(liquidated < 0), None
    )
    positions = np.diff(legs.first)
    return legs.accounts.with_columns(
        pl.Series("positions", positions, dtype=pl.UInt32),
        pl.Series("brought", wallets["brought"]),
        pl.Series("wallet", wallets["cash"] + wallets["assets_worth"]),
        pl.Series("peak", wallets["peak"]),
        pl.Series("max_drawdown", wallets["drawdown"]),
        pl.Series("worst_margin_ratio", wallets["worst"]),
        pl.Series("liquidations", wallets["liquidations"], dtype=pl.UInt32),
        moments.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").alias("liquidation_time"),
        pl.Series("surplus", wallets["surplus"]),
        pl.Series("deficit", wallets["deficit"]),
        pl.Series("collateral_pnl", wallets["asset_pnl"]),
    )
