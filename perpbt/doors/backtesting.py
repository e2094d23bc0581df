"""Door two: a strategy's signals traded under a grid of policies.

In: bars, strategies, policies, start offsets, a venue. Every strategy x policy x symbol x start is an
account. Out: a `Result`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from perpbt.adl import by_policy
from perpbt.config import (
    AdlSpec,
    AtrDistance,
    ColumnLevel,
    CouplingSpec,
    Deleverage,
    Duration,
    DynamicMargin,
    FundSpec,
    Offsets,
    Policy,
    Rules,
    TopUp,
    TurnoverInterest,
    as_policies,
)
from perpbt.coupling.refusing import check_contract, check_holding, check_policies
from perpbt.engines.book import Book, Chunk, Fills, SymbolPart
from perpbt.engines.chunks import (
    CHUNK,
    GROUND,
    Counted,
    Ground,
    Outcome,
    Progress,
    choose_threads,
    following_pages,
    in_threads,
    stepping_pages,
    tile_size,
)
from perpbt.engines.followers import FollowingOrder, Page, Tile, tiles
from perpbt.errors import InputError
from perpbt.kernels.tables import (
    CALLS,
    LEVEL_KINDS,
    PLAN,
    SIZINGS,
    Integers,
    Market,
    Rates,
    Signals,
    Table,
    table,
)
from perpbt.load import Bars
from perpbt.prepare.arrays import market_arrays, signal_arrays
from perpbt.prepare.mirror import mirror_signals
from perpbt.procedures import Asked, procedure_for
from perpbt.result import Result
from perpbt.running.budget import A_POSITION, cleared
from perpbt.running.conclude import Coupled, Flowed, conclude, equity_table
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
from perpbt.running.warming import FOLLOWING, warm
from perpbt.settling.currency import CoinPrice
from perpbt.settling.flowed import flowed_table
from perpbt.settling.flowing import Flow
from perpbt.settling.weights import OpenInterest
from perpbt.strategy import as_strategies, check_look_ahead, evaluate, evaluate_columns
from perpbt.venue import Venue

POLICY_NUMBERS = {"trailing_stop": pl.Float64, "max_trades": pl.Int64, "stop_value": pl.Float64}


def series_names(policies: Sequence[Policy]) -> tuple[list[int], list[str]]:
    """Windows of average true range, and columns, that any policy's levels read."""
    levels = [level for policy in policies for level in (policy.stop_loss, policy.take_profit)]
    windows = sorted({level.window for level in levels if isinstance(level, AtrDistance)})
    columns = sorted({level.column for level in levels if isinstance(level, ColumnLevel)})
    return windows, columns


def policy_plans(policies: Sequence[Policy]) -> Table:
    """Policies as the kernels read them, one entry each."""
    windows, columns = series_names(policies)

    def level_kind(level: Any) -> int:
        return LEVEL_KINDS.index(level.kind if level else "none")

    def level_value(level: Any) -> float:
        return float(level.value) if level and level.value is not None else float("nan")

    def level_series(level: Any) -> int:
        if isinstance(level, AtrDistance):
            return windows.index(level.window)
        return len(windows) + columns.index(level.column) if isinstance(level, ColumnLevel) else 0

    def sizing_value(sizing: Any) -> float:
        return float(sizing.amount if sizing.kind == "collateral" else sizing.fraction)

    def call_value(call: TopUp | Deleverage | None) -> float:
        if call is None:
            return 0.0
        return call.target if isinstance(call, TopUp) else call.fraction

    calls = [policy.margin_call for policy in policies]
    return table(
        PLAN,
        len(policies),
        leverage=[policy.leverage for policy in policies],
        margin_buffer=[policy.margin_buffer for policy in policies],
        sizing_kind=[SIZINGS.index(policy.sizing.kind) for policy in policies],
        sizing_value=[sizing_value(policy.sizing) for policy in policies],
        capital=[policy.capital for policy in policies],
        compounding=[policy.compounding for policy in policies],
        stop_kind=[level_kind(policy.stop_loss) for policy in policies],
        stop_value=[level_value(policy.stop_loss) for policy in policies],
        stop_series=[level_series(policy.stop_loss) for policy in policies],
        stop_on_mark=[policy.stop_trigger == "mark" for policy in policies],
        target_kind=[level_kind(policy.take_profit) for policy in policies],
        target_value=[level_value(policy.take_profit) for policy in policies],
        target_series=[level_series(policy.take_profit) for policy in policies],
        target_on_mark=[policy.take_profit_trigger == "mark" for policy in policies],
        trail=[float("nan") if policy.trailing_stop is None else policy.trailing_stop for policy in policies],
        trail_on_mark=[policy.trailing_trigger == "mark" for policy in policies],
        max_holding=[-1 if policy.max_holding is None else int(policy.max_holding) for policy in policies],
        call_action=[CALLS.index(call.action if call else "none") for call in calls],
        call_threshold=[call.threshold if call else 0.0 for call in calls],
        call_value=[call_value(call) for call in calls],
        call_count=[call.max_calls if call else 0 for call in calls],
        never_after_stop=[policy.reentry.after_stop == "never" for policy in policies],
        never_after_liquidation=[policy.reentry.after_liquidation == "never" for policy in policies],
        cool_down=[int(policy.reentry.cool_down) for policy in policies],
        max_trades=[-1 if policy.max_trades is None else policy.max_trades for policy in policies],
    )  # fmt: skip


def refuse_coupled(setting: Setting, policies: Sequence[Policy]) -> None:
    """A crowd's fill decides what a liquidated trader gets back; where that sizes a later trade, accounts
    would have to meet in time.
    """
    if setting.crowding and not setting.terms.protection and any(policy.compounding for policy in policies):
        raise InputError(
            "crowding with compounding policies and fund.protection = false, under which a wallet bears what a fill loses beyond a "
            "margin: allowed with protection, without crowding, or without compounding"
        )
    if (
        setting.crowding
        and setting.venue.surplus_to_fund < 1.0
        and any(policy.compounding for policy in policies)
    ):
        raise InputError(
            f"crowding with compounding policies on venue {setting.venue.name}, which gives back "
            f"{1 - setting.venue.surplus_to_fund:.0%} of a surplus: allowed with surplus_to_fund = 1, without crowding, "
            "or without compounding"
        )


def read_offsets(offsets: int | str | Offsets | Mapping[str, Any]) -> Offsets:
    """Start offsets given as a count, a duration such as "1d", or their table."""
    if isinstance(offsets, Offsets):
        return offsets
    if isinstance(offsets, Mapping):
        return Offsets(**offsets)
    return Offsets(every=offsets) if isinstance(offsets, str) else Offsets(count=offsets)


def backtest(
    bars: Bars | pl.DataFrame | pl.LazyFrame | str | Path,
    strategy: Any,
    policies: Any = None,
    *,
    offsets: int | str | Offsets | Mapping[str, Any] = 1,
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
    coupling: str | CouplingSpec | Mapping[str, Any] | None = None,
    adl: AdlSpec | Mapping[str, Any] | None = None,
    conversion: Mapping[str, CoinPrice] | None = None,
    strategy_folder: Path | None = None,
    on_accounts: Callable[[pl.DataFrame], object] | None = None,
) -> Result:
    """Trade strategies under a grid of policies.

    Every strategy x policy x symbol x start offset is an account. Each strategy x policy is a world of its
    own, with its own fund and crowd.

    Args:
        bars: what `load_bars` returns or reads.
        strategy: a name, a path, a function of keyword parameters that returns {"long_entry": expression,
            ...}, a mapping with name and params, or a list of these. Signals are read at a close and filled
            at the next open.
        policies: a `Policy`, a `PolicyGrid`, a mapping whose values may be lists of alternatives, or a list
            of these; default: one policy without leverage.
        offsets: accounts per strategy, policy and symbol: how many starts, spread evenly over the bars, or
            one every "1d". Each has the weight 1 / starts.
        strategy_folder: where strategies given by a relative path are also looked for.
        on_accounts: called with the table of accounts as soon as there is one, while the fund and the statistics are still being made, and
            before it is known that all money balances; not with a bound on memory.
        coupling, adl: as in `simulate`, within each strategy x policy: its accounts are opposing winners of one another where it has
            longs and shorts at once. Whoever auto-deleveraging touches lives on with what is left; once it is closed its account
            trades on from there, at the next close that says so. `result.extra["measures"]` has a row for each strategy and policy
            (`perpbt.adl.by_policy`). In a "cascade" accounts enter at prices that others' liquidations have left; signals, and the
            columns and average true ranges that levels use, read the market as it was recorded. With policies that have a
            margin_call accounts meet in plain Python, as by engine = "oracle": for small runs.
        The other options are those of `simulate`. With `memory`: signals are found from all bars of a symbol at
        once, so that they take about 100 bytes a bar where given positions take 2.

    An order that is refused is tried again at the next close that says so; of refusals for one cause in a
    row the first is a row of `accounts`. An account all of whose orders have one size that is refused for its
    size or leverage is out for good.

    Raises:
        InputError: data, strategy, policies or options are wrong, or a signal looks ahead. RunError: money
        was not conserved.
    """
    started = time.perf_counter()
    warm(FOLLOWING, engine)
    setting = make_setting(
        venue=venue, tiers_as=tiers_as, fund=fund, open_interest=open_interest, crowding=crowding, rules=rules,
        liquidation=liquidation,
        engine=engine, threads=threads, equity_every=equity_every, progress=progress,
        memory=memory, scratch=scratch, tiers=tiers, dynamic=dynamic, coupling=terms_of(coupling, adl), conversion=conversion,
    )  # fmt: skip
    setting.on_accounts = on_accounts
    chosen = as_policies(policies if policies is not None else Policy())
    bound = as_strategies(strategy, folder=strategy_folder)
    refuse_coupled(setting, chosen)
    check_policies(setting, chosen)
    check_holding(setting)
    loaded, starting = open_bars(bars), read_offsets(offsets)
    setting.settle_in(loaded.symbols)
    order = FollowingOrder(
        tuple(one.label for one in bound),
        tuple(policy.label for policy in chosen),
        loaded.symbols,
        policy_plans(chosen),
    )
    with cleared(setting.budget):
        if setting.budget is not None:
            rows, every = bar_counts(loaded)
            starts = len(order.symbols) * min(rows, starting.count or rows)
            kept = len(order.worlds) * starts * A_POSITION
            plan_memory(setting, rows, every, kept, signals=True)
        order.spool = setting.spool
        flow = Flow(order.groups, order, setting.terms.fee_share) if setting.settles_at_once else None
        parts = [
            follow_symbol(setting, loaded, order, flow, bound, chosen, starting, index)
            for index in range(len(order.symbols))
        ]
        order.close()
        book = Book(order.symbols, order.worlds, parts, order, setting.shelf)
        order, coupled = together(setting, book, order)
        return finish(setting, book, order, flow, bound, chosen, started, coupled)


def together(setting: Setting, book: Book, order: FollowingOrder) -> tuple[FollowingOrder, Coupled | None]:
    """What becomes of the positions where accounts meet, and the order they are in then; None where nothing can change for anybody."""
    if setting.terms.hold is not None:
        from perpbt.coupling.holding import hold

        return order, hold(setting, book, setting.markets)
    if setting.coupling is None or not setting.coupling.changes_lives:
        return order, None
    from perpbt.coupling.couple import couple
    from perpbt.coupling.doors import FollowingDoor

    since = time.perf_counter()
    door = FollowingDoor(order, order.signals)
    coupled = couple(setting, book, door, setting.coupling, setting.markets)
    setting.timed("coupling", since)
    return door.following, coupled


def follow_symbol(
    setting: Setting, loaded: Bars, order: FollowingOrder, flow: Flow | None, bound: Sequence[Any], policies: Sequence[Policy],
    starting: Offsets, index: int,
) -> SymbolPart:  # fmt: skip
    """All accounts on one symbol through the engine, into the order."""
    since = time.perf_counter()
    windows, columns = series_names(policies)
    collected = collect_bars(setting, loaded, order.symbols[index])
    describe_symbol(setting, collected, loaded.provenance.get(collected.symbol))
    since = setting.timed("load", since)
    contract = setting.contract(order.symbols[index])
    check_contract(setting, contract, collected.symbol)
    market = market_arrays(collected, setting.rules, setting.engine, contract, setting.shelf)
    starts = np.array(starting.starts(market.time), dtype=np.int64)  # type: ignore[arg-type]
    order.starts.append(starts.size)
    order.begins.append(starts)
    setting.timed("prepare", since)
    rates, fills = scheduled_rates(setting, collected, market, contract), Fills(market)
    for number, one in enumerate(bound):
        since = time.perf_counter()
        check_look_ahead(one, collected.frame)
        extra = evaluate_columns(one, collected.frame, columns)
        signals = signal_arrays(
            collected.frame,
            evaluate(one, collected.frame),
            windows,
            [extra[name] for name in columns],
            setting.shelf,
        )
        if rates.terms.inverse:
            mirror_signals(signals, len(windows))
        since = setting.timed("signals", since)
        follow(setting, market, rates, signals, order, flow, fills, (number, index), starts)
        if setting.coupling is not None:
            order.signals[number, index] = signals
        setting.timed("kernels", since)
    if setting.keeps_markets:
        setting.markets[index] = market
    if setting.settlement is not None:
        setting.settlement.note(collected.symbol, market.time, collected.frame)
    return fills.part(rates)


def follow(
    setting: Setting, market: Market, rates: Rates, signals: Signals, order: FollowingOrder, flow: Flow | None, fills: Fills,
    which: tuple[int, int], starts: Integers,
) -> None:  # fmt: skip
    """All accounts of one strategy on one symbol through the engine, into the order; with a `flow`, settled on the way."""
    (strategy, symbol), policies = which, len(order.policies)
    lanes = policies * starts.size
    threads = choose_threads(setting.threads, lanes, market.time.size)
    counted = Counted(setting.progress, order.symbols[symbol], lanes)
    procedure = procedure_for(setting.procedures.of(order.symbols[symbol]))
    ground = Ground(
        GROUND if setting.budget is None and flow is None and lanes >= CHUNK else 0, flow is not None
    )

    def finished(own: Table) -> Iterable[Outcome]:
        given = (order.plans, signals, own)
        if setting.engine == "oracle":
            from perpbt.engines.witness import run_naively

            progress, label = setting.progress, counted.label
            return [run_naively(market, rates, *given, procedure=procedure, progress=progress, label=label)]
        if procedure is not None:
            return stepping_pages(market, rates, procedure, *given)
        return following_pages(market, rates, *given, ground)

    def work(tile: Tile) -> tuple[int, list[Page]]:
        setting.shelf.relieve()
        world, outcomes = strategy * policies + tile.first_policy, finished(tile.lanes(order.plans, starts))
        if flow is not None:
            with flow.worker() as worker:
                return tile.size, list(
                    flow.pages(worker, symbol, fills, outcomes, world, tile, 1.0 / starts.size)
                )
        pages = []
        for outcome in outcomes:
            fills.note(outcome.rows)
            pages.append(order.page(symbol, outcome, world, tile))
        return tile.size, pages

    size = lanes if setting.engine == "oracle" else tile_size(lanes, threads, order.plans)
    returning = bool((order.plans["max_trades"] < 0).any())
    for done, pages in in_threads(work, tiles(policies, starts.size, size, returning), threads):
        order.pages += pages
        counted.add(done)


def finish(
    setting: Setting,
    book: Book,
    order: FollowingOrder,
    flow: Flow | None,
    bound: Sequence[Any],
    policies: Sequence[Policy],
    started: float,
    coupled: Coupled | None = None,
) -> Result:
    """Conclude the run, and say what was run."""

    def equity(chunk: Chunk) -> pl.DataFrame | None:
        policy = chunk.world % len(order.policies)
        owner = order.numbers(chunk.of.group, chunk.rows["lane"])
        curves = equity_table(setting, chunk, owner, order.plans["capital"][policy])
        return None if curves is None else curves.sort("account", "time")

    result = conclude(
        setting,
        book,
        groups=order.groups,
        population=order.population,
        labels=order.labels,
        policies=pl.DataFrame([policy.row() for policy in policies], schema_overrides=POLICY_NUMBERS),
        equity=equity,
        started=started,
        coupled=coupled,
        flowed=None if flow is None else Flowed(flow.found, lambda: flowed_table(flow, order), flow.seconds),
    )
    if coupled is not None and "adl" in result.extra:
        result.extra["measures"] = by_policy(
            result.accounts,
            result.extra["adl"],
            contracts=setting.contracts,
            spreads=result.extra["adl_rounds"],
            fund=result.fund,
        )
    result.metadata["strategies"] = [
        {
            "label": one.label,
            "name": one.strategy.name,
            "params": dict(one.params),
            "sha256": one.strategy.sha256,
        }
        for one in bound
    ]
    result.metadata["accounts"] = order.accounts
    return result
