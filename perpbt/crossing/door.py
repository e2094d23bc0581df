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
from perpbt.kernels.crossing.tables import (
    FUNDING_,
    HOLDING,
    MARK_CLOSE_,
    SIGMA_,
    TURNOVER_,
    WALLET,
    Charges,
    Grid,
)
from perpbt.kernels.crossing.walking import run_wallets
from perpbt.kernels.pyramid import no_pyramid
from perpbt.kernels.tables import (
    ACCEPTED,
    CALL,
    FUNDING,
    LIQUIDATION,
    MARK_CLOSE,
    ROW,
    SERIES,
    Floats,
    Market,
    Rates,
    Table,
)
from perpbt.load import Bars
from perpbt.prepare.arrays import floats, market_arrays
from perpbt.running.scheduled import scheduled_rates
from perpbt.running.setting import Setting, describe_symbol

CHUNK = 256  # accounts a thread takes at a time
LABEL = "wallets"


@dataclass(frozen=True)
class Shared:
    """A run of shared wallets, ready for settling."""

    book: Book
    order: GivenOrder
    wallets: pl.DataFrame
    bankruptcy: Floats  # the wallet's bankruptcy price by row of the table, as that row opens
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
    check_contracts(setting, order.symbols, margin, collateral)
    line, markets, closes, rates = load_symbols(setting, loaded, order.symbols)
    since = time.perf_counter()
    legs = make_legs(table, order.symbols, line, [one.terms.inverse for one in rates])
    for k, symbol in enumerate(order.symbols):
        early = int((order.wishes.entry[order.of_symbol(k)] < markets[k].time[0]).sum())
        if early:
            setting.notes.append(
                f"{symbol}: {early:,} entries lie before the first bar and are filled at its open"
            )
    prepared = prepare(setting, line, order.symbols, markets, closes, rates, margin, legs, collateral)
    if setting.equity_every is not None:
        setting.markets.update(grid_markets(prepared, len(order.symbols)))
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
    bankruptcy = np.zeros(table.height)
    bankruptcy[legs.legs["place"]] = legs.legs["bankruptcy"]
    return Shared(
        book,
        order,
        wallet_table(line, legs, wallets),
        bankruptcy,
        None if collateral is None else told.with_columns(pl.Series("left", left)),
    )


def load_symbols(
    setting: Setting, loaded: Bars, symbols: Sequence[str]
) -> tuple[Timeline, list[Market], list[np.ndarray], list[Rates]]:
    """Bars of all symbols as arrays, their last closes, and what the venue charges and requires while they last."""
    markets, closes, rates = [], [], []
    for symbol in symbols:
        contract = setting.contract(symbol)
        since = time.perf_counter()
        collected = loaded.collect(symbol)
        describe_symbol(setting, collected, loaded.provenance.get(symbol))
        since = setting.timed("load", since)
        markets.append(market_arrays(collected, setting.rules, "dense", contract))
        close = floats(collected.frame["close"])
        closes.append(1.0 / close if contract.kind == "inverse" else close)
        rates.append(scheduled_rates(setting, collected, markets[-1], contract))
        if setting.settlement is not None:
            setting.settlement.note(symbol, markets[-1].time, collected.frame)
        setting.timed("prepare", since)
    return timeline_of([market.time for market in markets]), markets, closes, rates


def grid_markets(prepared: Prepared, symbols: int) -> dict[int, Market]:
    """What equity curves read of each symbol, on the grid."""
    made = {}
    for k in range(symbols):
        series = np.zeros((SERIES, prepared.line.time.size))
        series[MARK_CLOSE], series[FUNDING] = prepared.grid.series[k, [MARK_CLOSE_, FUNDING_]]
        made[k] = Market(prepared.line.time, series, 0.0, 0.0, 0.0, no_pyramid())
    return made


def check_contracts(
    setting: Setting, symbols: Sequence[str], margin: Margin, collateral: Collateral | None
) -> None:
    """A wallet is in one currency. Raises InputError for what does not go into one, or with it."""
    contracts = {symbol: setting.contract(symbol) for symbol in symbols}
    mode = f"margin = {margin.mode!r}"
    if setting.rules.rounding in ("tick", "both"):
        raise InputError(
            f"{mode} with rules.rounding = {setting.rules.rounding!r}; allowed with a shared wallet: 'none' or 'lot'"
        )
    other = next((symbol for symbol, one in contracts.items() if one.kind != "linear"), None)
    if other is None:
        return
    told = f"{mode} with {other}, a contract of kind {contracts[other].kind!r}"
    for symbol, one in contracts.items():
        terms = setting.venue.terms("maintenance", symbol)
        if one.kind == "inverse" and terms is not None and terms.per_unit > 0.0:
            raise InputError(
                f"{mode} with {symbol}, whose rate grows with its size in coin at the mark; allowed there: margin = 'isolated'"
            )
    coins = sorted({one.settled_in(symbol) for symbol, one in contracts.items()})
    if len(coins) > 1:
        raise InputError(
            f"{told}: positions are settled in {', '.join(coins)}; allowed in a shared wallet: one settlement currency a run"
        )
    if collateral is not None:
        raise InputError(
            f"{told}, and collateral; allowed with assets besides cash: linear contracts, whose currency they are priced in"
        )
    inverse = [symbol for symbol, one in contracts.items() if one.kind == "inverse"]
    if inverse and margin.mode == "portfolio":
        raise InputError(
            f"{told} ({inverse[0]}): scenarios shift prices, of which its value is no multiple; allowed: margin = 'cross'"
        )


def prepare(
    setting: Setting, line: Timeline, symbols: Sequence[str], markets: Sequence[Market], closes: Sequence[np.ndarray],
    rates: Sequence[Rates], margin: Margin, legs: Legs, collateral: Collateral | None,
) -> Prepared:  # fmt: skip
    """Grid, charges and collateral."""
    series = {k: on_grid(line, k, markets[k], closes[k]) for k in range(len(symbols))}
    charges = make_charges(setting.venue, rates, symbols, margin, line)
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
