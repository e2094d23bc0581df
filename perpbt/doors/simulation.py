"""Door one: a table of positions against price history.

In: bars, accounts, a venue. Out: a `Result`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from perpbt.accounts import read_accounts, read_in_slices, size_of
from perpbt.config import AdlSpec, CouplingSpec, Duration, DynamicMargin, FundSpec, Rules, TurnoverInterest
from perpbt.coupling.refusing import check_contract, check_holding
from perpbt.crossing import Collateral, Margin, read_collateral, read_margin, run_shared
from perpbt.engines import chunks as engine
from perpbt.engines.book import Book, Chunk, Fills, SymbolPart
from perpbt.engines.chunks import (
    Counted,
    Outcome,
    Progress,
    by_row,
    choose_threads,
    first_alone,
    given_rows,
    in_threads,
    stepping_rows,
)
from perpbt.engines.given import GivenOrder, Wishes, by_time
from perpbt.errors import InputError
from perpbt.kernels.tables import CALL, ROW, Integers, Market, Rates, Signals, Table
from perpbt.load import Bars
from perpbt.mapped import MEMORY
from perpbt.prepare.arrays import market_arrays, no_signals
from perpbt.procedures import Asked, procedure_for
from perpbt.result import Result
from perpbt.running.budget import A_SHARED, A_WALLET, A_WISH, A_WORD, cleared
from perpbt.running.conclude import Coupled, Walleted, conclude, equity_table
from perpbt.running.scheduled import scheduled_rates
from perpbt.running.setting import (
    Setting,
    bar_counts,
    collect_bars,
    describe_symbol,
    make_setting,
    open_bars,
    plan_memory,
)
from perpbt.running.terms import terms_of
from perpbt.running.warming import GIVEN, warm
from perpbt.settling.currency import CoinPrice
from perpbt.settling.weights import OpenInterest
from perpbt.venue import Venue

BLOCK = 1 << 18  # rows put in order and kept together
FEW = 256  # lanes at a time where bars are in files: near each other in time, they ask for the same pages
NO_END = 1 << 62


def run_given(setting: Setting, loaded: Bars, order: GivenOrder, index: int) -> SymbolPart:
    """The positions of one symbol through the engine."""
    since = time.perf_counter()
    symbol = order.symbols[index]
    collected = collect_bars(setting, loaded, symbol)
    describe_symbol(setting, collected, loaded.provenance.get(collected.symbol))
    since = setting.timed("load", since)
    contract = setting.contract(symbol)
    check_contract(setting, contract, symbol)
    market = market_arrays(collected, setting.rules, setting.engine, contract, setting.shelf)
    rates = scheduled_rates(setting, collected, market, contract)
    signals = no_signals(market.time.size, setting.shelf)
    if setting.settlement is not None:
        setting.settlement.note(symbol, market.time, collected.frame)
    rows = order.of_symbol(index)
    note_early_entries(setting, order.wishes.entry[rows], market, symbol, collected.bar_ms)
    since = setting.timed("prepare", since)
    fills, counted = Fills(market), Counted(setting.progress, symbol, rows.size)
    size = rows.size if setting.engine == "oracle" else block_rows(setting)
    for first in range(0, rows.size, size):
        picked = rows[first : first + size]
        outcome = given_block(setting, market, rates, signals, order.wishes, picked, counted)
        fills.note(outcome.rows)
        order.put(index, outcome, picked)
    if setting.keeps_markets:
        setting.markets[index] = market
    setting.timed("kernels", since)
    return fills.part(rates)


def block_rows(setting: Setting) -> int:
    """Rows put in order and kept together; all of a symbol where accounts are going to meet."""
    if setting.coupling is not None:
        return NO_END
    return BLOCK if setting.budget is None else setting.budget.rows(BLOCK, 2)


def given_block(
    setting: Setting, market: Market, rates: Rates, signals: Signals, wishes: Wishes, picked: Integers,
    counted: Counted,
) -> Outcome:  # fmt: skip
    """Some rows of the table through the engine."""
    procedure = procedure_for(setting.procedures.of(counted.label))
    if setting.engine == "oracle":
        from perpbt.engines.witness import run_naively

        plans, lanes = wishes.plans(picked), wishes.lanes(picked, market, rates.terms.inverse)
        progress, label = setting.progress, counted.label
        return run_naively(
            market, rates, plans, signals, lanes, procedure=procedure, progress=progress, label=label
        )
    rows = np.zeros(picked.size, dtype=ROW)
    order = by_time(wishes.entry[picked])

    threads = choose_threads(setting.threads, picked.size, market.time.size)
    step = engine.CHUNK if setting.shelf is MEMORY else min(engine.CHUNK, FEW)
    dense = setting.engine == "dense" and threads > 1
    if dense:  # some positions are much work already: few enough that threads end together
        step = min(step, max(256, -(-picked.size // (2 * threads))))

    def work(span: tuple[int, int]) -> tuple[int, Table]:
        setting.shelf.relieve()
        places = order[slice(*span)]
        if procedure is None:  # else what is written step by step has its order from here
            places = places[by_time(wishes.entry[picked[places]])]
        own = picked[places]
        lanes = wishes.lanes(own, market, rates.terms.inverse)
        given = (wishes.plans(own), signals, lanes, places, rows)
        if procedure is not None:
            return places.size, stepping_rows(market, rates, procedure, *given)
        given_rows(market, rates, *given)
        return places.size, np.empty(0, dtype=CALL)

    if dense and setting.shelf is MEMORY and 0 < picked.size < engine.CHUNK:
        parts = first_alone(work, picked.size, step, threads)
    else:
        spans = ((first, min(first + step, picked.size)) for first in range(0, picked.size, step))
        parts = in_threads(work, spans, threads)
    calls = [np.empty(0, dtype=CALL)]
    for size, made in parts:
        counted.add(size)
        calls.append(made)
    return Outcome(rows, by_row(calls))


def simulate(
    bars: Bars | pl.DataFrame | pl.LazyFrame | str | Path,
    accounts: pl.DataFrame | pl.LazyFrame | str | Path,
    *,
    venue: str | Path | Venue = "binance_um",
    tiers_as: Mapping[str, str] | None = None,
    tiers: str | Path | None = None,
    dynamic: DynamicMargin | Mapping[str, Any] | None = None,
    fund: FundSpec | Mapping[str, Any] | None = None,
    open_interest: OpenInterest | TurnoverInterest | None = None,
    crowding: bool = False,
    liquidation: Asked = None,
    rules: Rules | Mapping[str, Any] | None = None,
    engine: str = "auto",
    threads: int | None = None,
    equity_every: str | timedelta | Duration | None = None,
    progress: Progress | None = None,
    memory: int | str | None = None,
    scratch: str | Path | None = None,
    margin: str | Mapping[str, Any] | Margin = "isolated",
    coupling: str | CouplingSpec | Mapping[str, Any] | None = None,
    adl: AdlSpec | Mapping[str, Any] | None = None,
    collateral: pl.DataFrame | Mapping[str, pl.DataFrame] | Collateral | None = None,
    conversion: Mapping[str, CoinPrice] | None = None,
) -> Result:
    """Run a table of positions against price history.

    What a symbol's contract is says the venue's table [contract] (`perpbt.venue.tables.contract`); without one it is linear. Of an
    inverse or quanto contract all money (collateral, tiers, fund, open interest, results) is in its settlement coin.

    Args:
        bars: what `load_bars` returns or reads.
        accounts: a frame or Parquet file, a row a position, filled at the open of the first bar at or after
            `entry_time`. Required columns: account strategy symbol side entry_time collateral leverage.
            Optional, null for none: stop_loss take_profit trailing_stop (fractions of the entry price),
            exit_time, stop_trigger trailing_trigger take_profit_trigger ("last" or "mark"), margin_buffer,
            world, weight, policy.
        venue: a name, a TOML path, or a `Venue`. `tiers_as` gives a symbol the tiers of another; `tiers` is a Parquet
            file of tier tables, each from its date (`perpbt.venue.tier_files`), in place of the venue's.
        dynamic: margin rates that follow the market: a `DynamicMargin` or its keys, such as {"model": "ewma"}; the
            result's extra table "margins" then holds the margins and scales. None: the venue's rates as they are.
        fund: seed (quote currency), scope ("symbol" or "pooled") or groups (name -> symbols that share one), fee_share,
            top_ups (money put in from outside: {"at": time, "amount": money, "fund": name or left out for each}, told in the ledger's
            column top_up), hold (how long it takes to sell what it takes over, see `perpbt.coupling.holding`),
            protection (False: what a position loses beyond its margin is the trader's debt, told in the column owed of the accounts, and
            the fund pays nothing: nobody is deleveraged for it); what is left out is the venue's.
        open_interest: mean total notional (quote currency) to which each world's weights are scaled: a
            number, a number per symbol, a frame with ts, open_interest and optionally symbol, or
            {"days_of_turnover": x}, which goes with the market.
        crowding: fill liquidations of the same world, symbol, side and moment against their total.
        liquidation: how positions below maintenance are closed: None or "full" (the whole at once), "venue" (as
            the venue's file says), another name or the numbers of a `perpbt.Liquidation`. Whose steps close
            less than all are in `result.extra["liquidations"]`; not with crowding.
        rules: intrabar, take_profit_fill, oversize, funding_price, rounding ("lot", "tick" or "both": to the
            steps of the venue's contracts).
        engine: "auto", "skip", "dense" or "oracle" (plain Python, for small runs). threads: default all cores.
            Neither changes a result.
        equity_every: also return equity curves, sampled at this duration, such as "1d".
        progress: called with a label, the accounts done and their number.
        memory: bytes, or text such as "4GiB", that the process may hold; None: as many as it takes. What does
            not fit is written to files in the folder `scratch` (default: the system's for temporary files),
            the accounts table among them. Where the bars of one symbol do not fit, they are read window by
            window and their arrays are mapped from such files: about 250 bytes a bar on disk, 2 in memory.
            Changes no result; see `Result.scan`.
        conversion: what coins are worth in quote currency, for the columns and statistics that convert: by coin a
            number, a symbol of the run, or a frame with ts and price. Default: the price of an inverse symbol
            settled in it.
        margin: "isolated": each row has its own margin. "cross": rows of one `account` (and world) share a wallet, to which each
            brings its collateral as it opens. "portfolio": the same against the worst of the venue's scenarios. A table with mode,
            legs ("hedge" or "one_way"), test ("close" or "extremes") and close ("at_once" or "in_turn") says more. See `perpbt.crossing` for the rules; `result.extra["wallets"]` has a row an account.
        collateral: assets that back shared wallets besides cash: a frame with account, asset, amount, or {"holdings": that, "prices":
            a frame with ts, asset, price}. See `perpbt.crossing.collateral`; `result.extra["collateral"]` tells what is left.
        coupling: None: nobody's deficit changes anybody else's position. "fund": the same, said so. "adl": what the fund
            cannot pay is closed against opposing winners of the same world and symbol, who live on with what
            is left. "cascade": liquidations push the price of their world and symbol for everyone, until nobody
            more falls. Inverse and quanto contracts meet too, in coin. With a `liquidation` in steps (not in a cascade),
            and with inverse contracts in a cascade, accounts meet in plain Python, as by engine = "oracle": to the bit the same rules, for some
            50 million accounts x bars. A `CouplingSpec` or a mapping of its keys says more: socialised losses, a fund that stops before it is empty. See `result.extra["adl"]`,
            `["adl_rounds"]` (overshoot, largest share, fairness regret of each round), `["cascades"]`, and the columns adl, outside and socialised of `result.fund`.
        adl: how: an `AdlSpec` or a mapping of its keys: policy (a name of `perpbt.adl`), price, lot, fee, outside.

    Raises:
        InputError: bars, accounts or options are wrong. RunError: money was not conserved.
    """
    started = since = time.perf_counter()
    kept = read_margin(margin)
    if kept.mode == "isolated":
        warm(GIVEN, engine)
    setting = make_setting(
        venue=venue, tiers_as=tiers_as, fund=fund, open_interest=open_interest, crowding=crowding, rules=rules,
        liquidation=liquidation,
        engine=engine, threads=threads, equity_every=equity_every, progress=progress,
        memory=memory, scratch=scratch, tiers=tiers, dynamic=dynamic, coupling=terms_of(coupling, adl),
        conversion=conversion,
    )  # fmt: skip
    check_holding(setting)
    loaded = open_bars(bars)
    if kept.mode != "isolated":
        with cleared(setting.budget):
            return simulate_shared(setting, loaded, accounts, kept, read_collateral(collateral), started)
    if collateral is not None:
        raise InputError("collateral; allowed: with margin = 'cross' or 'portfolio'")
    with cleared(setting.budget):
        table = given_table(setting, loaded, accounts)
        refuse_reserve(table)
        order = GivenOrder(table, Wishes(table), setting.spool)
        settle_in(setting, order.symbols)
        setting.timed("accounts", since)
        parts = [run_given(setting, loaded, order, index) for index in range(len(order.symbols))]
        book = Book(order.symbols, order.worlds, parts, order, setting.shelf)
        coupled = together(setting, book, order)
        return conclude(
            setting,
            book,
            groups=order.groups,
            population=order.population,
            labels=order.labels,
            policies=pl.DataFrame(schema={"policy": pl.String, "leverage": pl.Float64}),
            equity=lambda chunk: given_equity(setting, chunk, table),
            started=started,
            coupled=coupled,
        )


def settle_in(setting: Setting, symbols: Sequence[str]) -> None:
    """Find out what currency money is in, and refuse what would add one coin to another or does not know of coins."""
    setting.settle_in(symbols)
    settlement = setting.settlement
    if settlement is not None and settlement.mixed and setting.equity_every is not None:
        raise InputError(
            "equity_every adds up an account's symbols, which are settled in different currencies here; allowed: symbols of one "
            "settlement currency, or no equity curves"
        )


def simulate_shared(
    setting: Setting,
    loaded: Bars,
    accounts: pl.DataFrame | pl.LazyFrame | str | Path,
    margin: Margin,
    collateral: Collateral | None,
    started: float,
) -> Result:
    """The same for accounts whose positions share a wallet."""
    since = time.perf_counter()
    table = given_table(setting, loaded, accounts, shared=True)
    symbols = table["symbol"].cast(pl.String).unique().sort().to_list()
    refuse(setting, margin, symbols, collateral is not None)
    settle_in(setting, symbols)
    setting.timed("accounts", since)
    shared = run_shared(setting, loaded, table, margin, collateral)
    order = shared.order
    result = conclude(
        setting,
        shared.book,
        groups=order.groups,
        population=order.population,
        labels=order.labels,
        policies=pl.DataFrame(schema={"policy": pl.String, "leverage": pl.Float64}),
        equity=lambda chunk: given_equity(setting, chunk, table),
        started=started,
        walleted=Walleted(shared.bankruptcy, shared.largest_crowd),
    )
    result.extra["wallets"] = shared.wallets
    if shared.collateral is not None:
        result.extra["collateral"] = shared.collateral
    result.metadata["margin"] = asdict(margin)
    return result


def refuse(setting: Setting, margin: Margin, symbols: list[str], holds: bool) -> None:
    """What a run of shared wallets cannot do yet; `holds`: whether wallets hold anything but cash."""
    given = {
        "coupling": setting.coupling is not None,
        "fund.hold": setting.terms.hold is not None,
        "fund.protection = false": not setting.terms.protection,
        "crowding with an open_interest that changes": setting.crowding
        and isinstance(setting.open_interest, pl.DataFrame | TurnoverInterest),
        "equity_every with collateral": setting.equity_every is not None and holds,
        "crowding with margin.close = 'in_turn'": setting.crowding and margin.close == "in_turn",
        "crowding with memory": setting.crowding and setting.budget is not None,
        "dynamic": setting.dynamic is not None and margin.mode == "portfolio",  # scenarios read no tiers
        "liquidation": any(not setting.procedures.of(symbol).plain for symbol in symbols),
    }
    others = {
        "fund.protection = false": "margin = 'isolated', or protection",
        "equity_every with collateral": "one of the two",
        "crowding with margin.close = 'in_turn'": "margin.close = 'at_once', or no crowding",
        "dynamic": "margin = 'isolated' or 'cross', or no dynamic",
    }
    for name, wanted in given.items():
        if wanted:
            allowed = others.get(name, f"margin = 'isolated', or no {name}")
            raise InputError(f"{name} does not go with margin = {margin.mode!r}; allowed: {allowed}")


def refuse_reserve(table: pl.DataFrame) -> None:
    """An isolated position has no wallet to keep a reserve in."""
    if "reserve" in table.columns and (table["reserve"].fill_null(0.0) > 0.0).any():
        raise InputError("accounts: column 'reserve'; allowed: with margin = 'cross' or 'portfolio'")


def together(setting: Setting, book: Book, order: GivenOrder) -> Coupled | None:
    """What becomes of the positions where accounts meet; None where nothing can change for anybody."""
    if setting.terms.hold is not None:
        from perpbt.coupling.holding import hold

        return hold(setting, book, setting.markets)
    if setting.coupling is None or not setting.coupling.changes_lives:
        return None
    from perpbt.coupling.couple import couple
    from perpbt.coupling.doors import GivenDoor

    since = time.perf_counter()
    coupled = couple(setting, book, GivenDoor(order), setting.coupling, setting.markets)
    setting.timed("coupling", since)
    return coupled


def given_table(
    setting: Setting,
    loaded: Bars,
    accounts: pl.DataFrame | pl.LazyFrame | str | Path,
    *,
    shared: bool = False,
) -> pl.DataFrame:
    """The checked table of accounts, read in slices where memory is bounded; `shared`: its rows share wallets, for which the bars of all
    symbols are held at once.
    """
    budget = setting.budget
    if budget is None:
        return read_accounts(accounts, loaded.symbols)
    bars, every = bar_counts(loaded)

    def plan(rows: int, wallets: int = 0, held: int = 0) -> None:
        kept = rows * A_WISH + (rows * A_SHARED + wallets * A_WALLET) * shared
        plan_memory(setting, every if shared else bars, every, kept + held, whole=shared)

    if not isinstance(accounts, pl.LazyFrame) and not (
        isinstance(accounts, (str, Path)) and Path(accounts).is_file()
    ):
        table = read_accounts(accounts, loaded.symbols)
        plan(table.height, table["account"].n_unique() * shared)
        return table
    if isinstance(accounts, pl.LazyFrame):
        plan(0)  # how many there are is known once they are in a file
        path, source = budget.stored(accounts), "accounts"
    else:
        path, source = Path(accounts), str(accounts)
    rows, columns = size_of(path)
    plan(rows, held=rows * columns * A_WORD)  # before they are read: what is told is then enough
    table = read_in_slices(path, source, loaded.symbols)
    plan(table.height, table["account"].n_unique() * shared)
    return table


def note_early_entries(setting: Setting, entry: Integers, market: Market, symbol: str, bar_ms: int) -> None:
    """Say so when entries lie before the data: they are filled at its first bar, perhaps much later."""
    early = int((entry <= market.time[0] - max(bar_ms, 1)).sum())
    if early:
        setting.notes.append(
            f"{symbol}: {early:,} entries lie before the first bar and are filled at its open"
        )


def given_equity(setting: Setting, chunk: Chunk, table: pl.DataFrame) -> pl.DataFrame | None:
    """Equity curves of given positions: each starts from its collateral and reserve; an account's positions are added up.

    Where an account's positions are on symbols with different bars, each counts with its last known equity.
    """
    row = pl.Series("row", range(table.height), dtype=pl.UInt32)
    brought = pl.col("collateral")
    if "reserve" in table.columns:
        brought = brought + pl.col("reserve").fill_null(0.0)
    owners = table.select(row, "account", brought)
    curves = equity_table(setting, chunk, np.arange(table.height), owners["collateral"].to_numpy())
    if curves is None:
        return None
    curves = curves.rename({"account": "row"}).with_columns(pl.col("row").cast(pl.UInt32))
    asked = curves.join(owners, on="row").select("time", "account").unique()
    known = (
        asked.join(owners, on="account")
        .sort("time", "row")
        .join_asof(curves.sort("time", "row"), on="time", by="row", check_sortedness=False)
        .sort("account", "time", "row")
        .with_columns(pl.coalesce("equity", "collateral").alias("equity"))
    )
    return known.group_by("time", "account", maintain_order=True).agg(pl.col("equity").sum())
