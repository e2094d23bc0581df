"""Driving the kernels of shared wallets: symbols on one grid, accounts in chunks, chunks on threads.

In: what door one has checked. Out: a book ready for settling, and a table of wallets. Every account writes its own rows, so nothing
depends on chunks, threads, or on how many accounts are worked on at a time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl

from perpbt.crossing.charges import make_charges
from perpbt.crossing.collateral import Collateral, held_by, make_holdings
from perpbt.crossing.crowds import Members, run_with_crowds, scaled_weights
from perpbt.crossing.grid import Timeline, on_grid, stacked, timeline_of
from perpbt.crossing.legs import Legs, Owners, Part, make_legs, owners_of, parts_of
from perpbt.crossing.terms import Margin
from perpbt.crossing.witness import run_wallets_naively
from perpbt.engines.book import Book, SymbolPart
from perpbt.engines.chunks import Counted, Outcome, choose_threads, in_threads
from perpbt.engines.given import GivenOrder, Wishes
from perpbt.errors import InputError
from perpbt.kernels.coarse import no_coarse
from perpbt.kernels.crossing.blocks import grid_over
from perpbt.kernels.crossing.tables import (
    FUNDING_,
    HOLDING,
    MARK_CLOSE_,
    SIGMA_,
    TURNOVER_,
    WALLET,
    Assets,
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
    Integers,
    Market,
    Rates,
    Table,
)
from perpbt.load import Bars
from perpbt.prepare.arrays import floats, market_arrays
from perpbt.running.scheduled import scheduled_rates
from perpbt.running.setting import Setting, describe_symbol
from perpbt.venue import Venue

CHUNK = 256  # accounts a thread takes at a time
BLOCK = 1 << 18  # rows worked on together where memory is bounded
A_GRID_BAR = 115  # bytes a bar of the grid takes, a symbol
LABEL = "wallets"


@dataclass(frozen=True)
class Shared:
    """A run of shared wallets, ready for settling."""

    book: Book
    order: GivenOrder
    wallets: pl.DataFrame
    bankruptcy: Floats  # the wallet's bankruptcy price by row of the table, as that row opens
    largest_crowd: int  # wallets; 0 without crowding
    collateral: pl.DataFrame | None  # None: nobody holds anything but cash


class Prepared(NamedTuple):
    """Everything the kernels read."""

    line: Timeline
    grid: Grid
    charges: Charges
    assets: Assets
    held: pl.DataFrame  # the table of what all hold besides cash
    rates: Sequence[Rates]
    names: Sequence[str]  # of the grid: symbols, then assets with a price of their own
    venue: Venue


def run_shared(
    setting: Setting, loaded: Bars, table: pl.DataFrame, margin: Margin, collateral: Collateral | None
) -> Shared:
    """All accounts to their end; where memory is bounded some whole accounts at a time."""
    order = GivenOrder(table, Wishes(table), setting.spool)
    check_contracts(setting, table, order.symbols, margin, collateral)
    line, markets, closes, rates = load_symbols(setting, loaded, order.symbols)
    since = time.perf_counter()
    for k, symbol in enumerate(order.symbols):
        early = int((order.wishes.entry[order.of_symbol(k)] < markets[k].time[0]).sum())
        if early:
            setting.notes.append(
                f"{symbol}: {early:,} entries lie before the first bar and are filled at its open"
            )
    if setting.budget is not None:
        setting.budget.check(line.time.size * len(order.symbols) * A_GRID_BAR)
    owners = owners_of(table)
    prepared = prepare(setting, line, order.symbols, markets, closes, rates, margin, owners, collateral)
    del markets, closes
    if setting.equity_every is not None:
        setting.markets.update(grid_markets(prepared, len(order.symbols)))
    since = setting.timed("prepare", since)
    counted = Counted(setting.progress, LABEL, owners.size)
    bankruptcy, fills = (
        np.zeros(table.height),
        [Fills(prepared.grid.series[k]) for k in range(len(order.symbols))],
    )
    told, largest = [], 0
    most = None if setting.budget is None else setting.budget.rows(BLOCK, 2)
    for part in parts_of(owners, most):
        legs = make_legs(table, owners, part, order.symbols, line, [one.terms.inverse for one in rates])
        rows, wallets = np.zeros(part.rows.size, dtype=ROW), np.zeros(legs.size, dtype=WALLET)
        mine = prepared._replace(assets=held_by(prepared.assets, part))
        largest = max(largest, run_accounts(setting, mine, order, margin, part, legs, rows, wallets, counted))
        of = np.empty(rows.size, dtype=np.int64)
        of[legs.legs["place"]] = legs.legs["symbol"]
        for k in np.unique(of):
            here = np.flatnonzero(of == k)
            fills[k].note(rows[here])
            order.put(int(k), Outcome(rows[here], np.empty(0, dtype=CALL)), part.rows[here])
        bankruptcy[part.rows[legs.legs["place"]]] = legs.legs["bankruptcy"]
        told.append(in_coins(setting, order.symbols, legs, wallet_table(line, owners, part, legs, wallets)))
    setting.timed("kernels", since)
    parts = [fills[k].part(line, rates[k]) for k in range(len(order.symbols))]
    return Shared(
        Book(order.symbols, order.worlds, parts, order),
        order,
        pl.concat(told),
        bankruptcy,
        largest,
        None if collateral is None else prepared.held.with_columns(pl.Series("left", prepared.assets.amount)),
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
        markets.append(market_arrays(collected, setting.rules, "oracle", contract))  # with nothing but bars
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
        made[k] = Market(prepared.line.time, series, 0.0, 0.0, 0.0, no_pyramid(), no_coarse())
    return made


def check_contracts(
    setting: Setting,
    table: pl.DataFrame,
    symbols: Sequence[str],
    margin: Margin,
    collateral: Collateral | None,
) -> None:
    """A wallet is in one currency. Raises InputError for what does not go into one, or with it."""
    contracts = {symbol: setting.contract(symbol) for symbol in symbols}
    other = next((symbol for symbol, one in contracts.items() if one.kind != "linear"), None)
    if other is None:
        return
    coins = {symbol: one.settled_in(symbol) for symbol, one in contracts.items()}
    one_coin_each(table, coins)
    if collateral is None:
        return
    told = (
        f"margin = {margin.mode!r} with {other}, a contract of kind {contracts[other].kind!r}, and collateral"
    )
    if len(set(coins.values())) > 1:
        raise InputError(
            f"{told}: wallets are in {', '.join(sorted(set(coins.values())))}; allowed: one settlement currency a run, in which assets are priced"
        )
    for asset in collateral.assets:
        terms = setting.venue.terms("collateral", asset)
        if terms is not None and terms.price:
            raise InputError(
                f"{told}: venue {setting.venue.name}: collateral.{asset}.price = {terms.price!r}; allowed there: no such symbol, but prices "
                f"in {coins[other]}"
            )


def one_coin_each(table: pl.DataFrame, coins: Mapping[str, str]) -> None:
    """Wallets of different coins stand side by side; each is in one."""
    if len(set(coins.values())) == 1:
        return
    keys = [name for name in ("world", "account") if name in table.columns]
    coin = pl.col("symbol").cast(pl.String).replace_strict(coins)
    own = table.select(
        pl.int_range(pl.len()).alias("row"), "symbol", coin.alias("coin"), first=coin.first().over(keys)
    )
    mixed = own.filter(pl.col("coin") != pl.col("first"))
    if mixed.height:
        row, symbol, other, first = mixed.row(0)
        raise InputError(
            f"accounts: row {row}, column 'symbol': {symbol!r} is settled in {other}; allowed in one shared wallet: one settlement "
            f"currency, that of the account's first row, {first}"
        )


def prepare(
    setting: Setting, line: Timeline, symbols: Sequence[str], markets: Sequence[Market], closes: Sequence[np.ndarray],
    rates: Sequence[Rates], margin: Margin, owners: Owners, collateral: Collateral | None,
) -> Prepared:  # fmt: skip
    """Grid, charges and collateral."""
    series = {k: on_grid(line, k, markets[k], closes[k]) for k in range(len(symbols))}
    charges = make_charges(setting.venue, rates, symbols, margin, line)
    holdings = make_holdings(collateral, setting.venue, owners, line, symbols, charges.unit.tolist())
    series |= {len(symbols) + k: one for k, one in enumerate(holdings.series)}
    grid = grid_over(stacked(series), setting.engine == "skip")
    return Prepared(
        line,
        grid,
        charges,
        holdings.assets,
        holdings.table,
        rates,
        (*symbols, *holdings.names),
        setting.venue,
    )


def run_accounts(
    setting: Setting, prepared: Prepared, order: GivenOrder, margin: Margin, part: Part, legs: Legs, rows: Table, wallets: Table,
    counted: Counted,
) -> int:  # fmt: skip
    """Accounts of a part to their end; returns how many wallets the largest crowd has, 0 without crowding."""
    members = members_of(setting, prepared, order, part, legs)
    wallets["world"] = members.world
    if setting.engine == "oracle":
        crowded = members if setting.crowding else None
        return run_wallets_naively(prepared, order.symbols, margin, legs, rows, wallets, counted, crowded)

    def run(charges: Charges, which: Integers) -> None:
        told = counted if charges is prepared.charges else Counted(None, LABEL, which.size)
        run_in_chunks(setting, prepared._replace(charges=charges), legs, which, rows, wallets, told)

    if not setting.crowding:
        run(prepared.charges, np.arange(legs.size))
        return 0
    bars = prepared.line.time.size
    return run_with_crowds(run, prepared.charges, prepared.assets, members, bars, legs, rows, wallets)


def run_in_chunks(
    setting: Setting,
    prepared: Prepared,
    legs: Legs,
    which: Integers,
    rows: Table,
    wallets: Table,
    counted: Counted,
) -> None:
    """Accounts of these numbers through the compiled engines."""

    most = int(np.diff(prepared.assets.first).max(initial=0))

    def work(begin: int) -> int:
        end = min(begin + CHUNK, which.size)
        held = np.zeros(prepared.grid.series.shape[0] + most, dtype=HOLDING)
        run_wallets(
            prepared.grid,
            prepared.charges,
            prepared.assets,
            legs.legs,
            legs.first,
            which,
            begin,
            end,
            wallets,
            rows,
            held,
        )
        return end - begin

    threads = choose_threads(setting.threads, legs.legs.size, prepared.line.time.size)
    for size in in_threads(work, range(0, which.size, CHUNK), threads):
        counted.add(size)


def members_of(setting: Setting, prepared: Prepared, order: GivenOrder, part: Part, legs: Legs) -> Members:
    """The world and weight of each account; with an open interest, scaled to it by the lives of all."""
    row = part.rows[legs.legs["place"][legs.first[:-1]]]
    given = order.accounts["weight"].to_numpy() if "weight" in order.accounts.columns else np.ones(order.size)
    wanted = setting.open_interest if isinstance(setting.open_interest, int | float | Mapping) else None

    def weigh(rows: Table) -> Floats:
        if wanted is None:
            return given
        again = GivenOrder(order.accounts, order.wishes)
        for k in range(len(order.symbols)):
            mine = again.of_symbol(k)
            again.put(k, Outcome(rows[mine], np.empty(0, dtype=CALL)), mine)
        parts = [
            Fills(prepared.grid.series[k]).part(prepared.line, rates)
            for k, rates in enumerate(prepared.rates)
        ]
        return scaled_weights(Book(order.symbols, order.worlds, parts, again), wanted)

    return Members(order.world_of(row), given[row], wanted, weigh)


@dataclass
class Fills:
    """Bars of the grid in which a symbol was liquidated, noted part after part."""

    series: Floats
    bars: list[Integers] = field(default_factory=list)
    liquidated: int = 0
    flat: int = 0

    def note(self, rows: Table) -> None:
        """Note the liquidations among finished rows."""
        bars = rows["exit_bar"][(rows["rejection"] == ACCEPTED) & (rows["reason"] == LIQUIDATION)]
        self.bars.append(np.unique(bars))
        self.liquidated += bars.size
        self.flat += int((~(self.series[TURNOVER_, bars] > 0.0)).sum())

    def part(self, line: Timeline, rates: Rates) -> SymbolPart:
        """What settling needs to know of the symbol."""
        at = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *self.bars]))
        return SymbolPart(
            line.time,
            rates,
            at,
            self.series[SIGMA_, at],
            self.series[TURNOVER_, at],
            self.liquidated,
            self.flat,
        )


def in_coins(setting: Setting, symbols: Sequence[str], legs: Legs, wallets: pl.DataFrame) -> pl.DataFrame:
    """The wallets with the currency of each, where it is not quote currency."""
    if setting.settlement is None:
        return wallets
    coins = np.array([setting.settlement.currencies[symbol] for symbol in symbols], dtype=object)
    own = coins[legs.legs["symbol"][legs.first[:-1]]]
    return wallets.with_columns(pl.Series("settlement", own.tolist(), dtype=pl.String))


def wallet_table(line: Timeline, owners: Owners, part: Part, legs: Legs, wallets: Table) -> pl.DataFrame:
    """A row per account, sorted by world and name."""
    liquidated = wallets["liquidated_at"]
    moments = pl.Series(np.where(liquidated >= 0, line.time[liquidated], 0)).set(
        pl.Series(liquidated < 0), None
    )
    positions = np.diff(legs.first)
    return owners.accounts[part.first : part.last].with_columns(
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
