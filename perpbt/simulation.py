"""Door one: a table of positions against price history.

In: bars, accounts, a venue. Out: a `Result`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from perpbt.accounts import read_accounts
from perpbt.book import Book, SymbolPart, make_book, symbol_part
from perpbt.conclude import conclude, equity_table
from perpbt.config import Duration, FundSpec, Rules, TurnoverInterest
from perpbt.engine import Progress, choose_threads, run_lanes
from perpbt.kernels.accounts import Lanes
from perpbt.kernels.tables import COLLATERAL, NONE, PRICE, Floats, Integers, Market, Plans, Signals
from perpbt.load import Bars
from perpbt.prepare import market_arrays, milliseconds, no_signals, rates_for
from perpbt.result import Result
from perpbt.setting import Setting, describe_symbol, make_setting, open_bars
from perpbt.settle import OpenInterest
from perpbt.venue import Venue


def run_symbol(
    setting: Setting,
    market: Market,
    plans: Plans,
    signals: Signals,
    lanes: Lanes,
    symbol: int,
    name: str,
    *,
    account: Integers,
    plan: Integers,
    world: Integers,
    weight: Floats,
    requested_time: Integers,
) -> SymbolPart:
    """One symbol through the engine; per-lane arrays say what each lane belongs to."""
    since = time.perf_counter()
    rates = rates_for(setting.venue, name, setting.rules)
    threads = choose_threads(setting.threads, lanes.plan.size, market.time.size)
    outcome = run_lanes(
        market, rates, plans, signals, lanes, threads=threads, progress=setting.progress, label=name
    )
    if setting.equity_every is not None:
        setting.markets[symbol] = market
    setting.timed("kernels", since)
    return symbol_part(
        symbol,
        market,
        outcome,
        rates,
        account=account,
        plan=plan,
        world=world,
        weight=weight,
        requested_time=requested_time,
    )


def given_plans(table: pl.DataFrame) -> Plans:
    """A plan per row of an accounts table: collateral and levels as given, one trade, no margin calls."""
    count = table.height

    def column(name: str) -> Floats:
        return np.ascontiguousarray(table[name].fill_null(float("nan")).to_numpy(), dtype=np.float64).copy()

    def codes(value: np.ndarray | int) -> np.ndarray:
        return np.full(count, 0, dtype=np.int8) + np.asarray(value, dtype=np.int8)

    def on_mark(name: str) -> np.ndarray:
        return codes((table[name] == "mark").to_numpy())

    zeros, collateral = np.zeros(count), column("collateral")
    stop, target = column("stop_loss"), column("take_profit")
    never = np.full(count, -1, dtype=np.int64)
    return Plans(
        leverage=column("leverage"),
        margin_buffer=column("margin_buffer"),
        sizing_kind=codes(COLLATERAL),
        sizing_value=collateral,
        capital=collateral,
        compounding=codes(0),
        stop_kind=codes(np.where(np.isnan(stop), NONE, PRICE)),
        stop_value=stop,
        stop_series=codes(0),
        stop_on_mark=on_mark("stop_trigger"),
        target_kind=codes(np.where(np.isnan(target), NONE, PRICE)),
        target_value=target,
        target_series=codes(0),
        target_on_mark=on_mark("take_profit_trigger"),
        trail=column("trailing_stop"),
        trail_on_mark=on_mark("trailing_trigger"),
        max_holding=never,
        call_action=codes(0),
        call_threshold=zeros,
        call_value=zeros,
        call_count=np.zeros(count, dtype=np.int64),
        never_after_stop=codes(0),
        never_after_liquidation=codes(0),
        cool_down=np.zeros(count, dtype=np.int64),
        max_trades=np.ones(count, dtype=np.int64),
    )


def given_lanes(table: pl.DataFrame, market: Market) -> Lanes:
    """A lane per row: enter at the first bar at or after `entry_time`, leave when due."""
    count = table.height
    exit_due = table["exit_time"].dt.epoch("ms").fill_null(-1).to_numpy().astype(np.int64)
    return Lanes(
        plan=np.arange(count),
        fixed_side=np.where((table["side"] == "long").to_numpy(), 1, -1).astype(np.int8),
        exit_due=exit_due,
        bar=np.searchsorted(market.time, milliseconds(table["entry_time"])),
        not_before=np.full(count, -1, dtype=np.int64),
        wallet=np.zeros(count),
        trades=np.zeros(count, dtype=np.int64),
        refused=np.zeros(count, dtype=np.int8),
        done=np.zeros(count, dtype=np.int8),
    )


def run_given(
    setting: Setting, loaded: Bars, own: pl.DataFrame, worlds: tuple[str, ...], index: int, symbol: str
) -> SymbolPart:
    """The positions of one symbol through the engine."""
    since = time.perf_counter()
    collected = loaded.collect(symbol)
    describe_symbol(setting, collected)
    since = setting.timed("load", since)
    market = market_arrays(collected, setting.rules, setting.engine)
    note_early_entries(setting, own, market, symbol, collected.bar_ms)
    row = own["_row"].to_numpy().astype(np.int64)
    plans, signals, lanes = given_plans(own), no_signals(market.time.size), given_lanes(own, market)
    setting.timed("prepare", since)
    return run_symbol(
        setting, market, plans, signals, lanes, index, symbol,
        account=row,
        plan=row,
        world=np.searchsorted(np.array(worlds), own["world"].to_numpy()).astype(np.int64),
        weight=own["weight"].to_numpy().astype(np.float64),
        requested_time=milliseconds(own["entry_time"]),
    )  # fmt: skip


def simulate(
    bars: Bars | pl.DataFrame | pl.LazyFrame | str | Path,
    accounts: pl.DataFrame | pl.LazyFrame | str | Path,
    *,
    venue: str | Path | Venue = "binance_um",
    tiers_as: Mapping[str, str] | None = None,
    fund: FundSpec | Mapping[str, Any] | None = None,
    open_interest: OpenInterest | TurnoverInterest | None = None,
    crowding: bool = False,
    rules: Rules | Mapping[str, Any] | None = None,
    engine: str = "auto",
    threads: int | None = None,
    equity_every: str | timedelta | Duration | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run a table of isolated linear positions against price history.

    Args:
        bars: what `load_bars` returns or reads.
        accounts: a frame or Parquet file, a row a position, filled at the open of the first bar at or after
            `entry_time`. Required columns: account strategy symbol side entry_time collateral leverage.
            Optional, null for none: stop_loss take_profit trailing_stop (fractions of the entry price),
            exit_time, stop_trigger trailing_trigger take_profit_trigger ("last" or "mark"), margin_buffer,
            world, weight, policy.
        venue: a name, a TOML path, or a `Venue`. `tiers_as` gives a symbol the tiers of another.
        fund: seed (quote currency), scope ("symbol" or "pooled"), fee_share; what is left out is the venue's.
        open_interest: mean total notional (quote currency) to which each world's weights are scaled: a
            number, a number per symbol, a frame with ts, open_interest and optionally symbol, or
            {"days_of_turnover": x}, which goes with the market.
        crowding: fill liquidations of the same world, symbol, side and moment against their total.
        rules: intrabar, take_profit_fill, oversize, funding_price.
        engine: "auto", "skip" or "dense". threads: default all cores. Neither changes a result.
        equity_every: also return equity curves, sampled at this duration, such as "1d".
        progress: called with a label, the accounts done and their number.

    Raises:
        InputError: bars, accounts or options are wrong. RunError: money was not conserved.
    """
    started = since = time.perf_counter()
    setting = make_setting(
        venue=venue, tiers_as=tiers_as, fund=fund, open_interest=open_interest, crowding=crowding, rules=rules,
        engine=engine, threads=threads, equity_every=equity_every, progress=progress,
    )  # fmt: skip
    loaded = open_bars(bars)
    table = read_accounts(accounts, loaded.symbols).with_row_index("_row")
    worlds = tuple(sorted(table["world"].unique()))
    names = tuple(sorted(table["symbol"].unique()))
    setting.timed("accounts", since)
    parts = [
        run_given(setting, loaded, table.filter(pl.col("symbol") == symbol), worlds, index, symbol)
        for index, symbol in enumerate(names)
    ]
    table = table.select("account", "strategy", "policy", "leverage", "collateral")
    book = make_book(names, worlds, parts)
    picked = pl.Series(book.account, dtype=pl.UInt32)
    return in_order_given(
        conclude(
            setting,
            book,
            account=table["account"].gather(picked),
            strategy=table["strategy"].gather(picked),
            policy=table["policy"].gather(picked),
            leverage=table["leverage"].gather(picked).to_numpy(),
            policies=pl.DataFrame(schema={"policy": pl.String, "leverage": pl.Float64}),
            population=None,
            equity=lambda: given_equity(setting, book, table),
            started=started,
        ),
        book.account,
    )


def note_early_entries(setting: Setting, own: pl.DataFrame, market: Market, symbol: str, bar_ms: int) -> None:
    """Say so when entries lie before the data: they are filled at its first bar, perhaps much later."""
    early = int((milliseconds(own["entry_time"]) <= market.time[0] - max(bar_ms, 1)).sum())
    if early:
        setting.notes.append(
            f"{symbol}: {early:,} entries lie before the first bar and are filled at its open"
        )


def given_equity(setting: Setting, book: Book, table: pl.DataFrame) -> pl.DataFrame | None:
    """Equity curves of given positions: each starts from its collateral; an account's positions are added up.

    Where an account's positions are on symbols with different bars, each counts with its last known equity.
    """
    row = pl.Series("row", range(table.height), dtype=pl.UInt32)
    curves = equity_table(setting, book, book.account, row, table["collateral"].to_numpy())
    if curves is None:
        return None
    curves = curves.rename({"account": "row"})
    owners = table.select(row, "account", "collateral")
    asked = curves.join(owners, on="row").select("time", "account").unique()
    known = (
        asked.join(owners, on="account")
        .sort("time", "row")
        .join_asof(curves.sort("time", "row"), on="time", by="row", check_sortedness=False)
        .sort("account", "time", "row")
        .with_columns(pl.coalesce("equity", "collateral").alias("equity"))
    )
    return known.group_by("time", "account", maintain_order=True).agg(pl.col("equity").sum())


def in_order_given(result: Result, row: Integers) -> Result:
    """Rows of `accounts` in the order of the table given."""
    if np.all(row[1:] >= row[:-1]):
        return result
    order = np.argsort(row, kind="stable")
    picked = pl.Series(order, dtype=pl.UInt32)
    accounts = result.accounts.select(pl.all().gather(picked))
    position = pl.col("account").cum_count().over("account").cast(pl.UInt32)
    result.accounts = accounts.with_columns(position.alias("position"))
    return result
