"""Door two: a strategy's signals traded under a grid of policies.

In: bars, strategies, policies, start offsets, a venue. Every strategy x policy x symbol x start is an
account. Out: a `Result`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from perpbt.book import SymbolPart, make_book
from perpbt.conclude import conclude, equity_table
from perpbt.config import (
    AtrDistance,
    ColumnLevel,
    Deleverage,
    Duration,
    FundSpec,
    Offsets,
    Policy,
    Rules,
    TopUp,
    TurnoverInterest,
    as_policies,
)
from perpbt.engine import Progress
from perpbt.errors import InputError
from perpbt.kernels.accounts import Lanes
from perpbt.kernels.tables import CALLS, LEVEL_KINDS, SIZINGS, Floats, Integers, Plans
from perpbt.load import Bars
from perpbt.prepare import market_arrays, signal_arrays
from perpbt.result import Result
from perpbt.setting import Setting, describe_symbol, make_setting, open_bars
from perpbt.settle import OpenInterest
from perpbt.simulation import in_order_given, run_symbol
from perpbt.strategy import as_strategies, check_look_ahead, evaluate, evaluate_columns
from perpbt.venue import Venue

MOST_STARTS = 1 << 32  # of one strategy, policy and symbol
POLICY_NUMBERS = {"trailing_stop": pl.Float64, "max_trades": pl.Int64, "stop_value": pl.Float64}


def series_names(policies: Sequence[Policy]) -> tuple[list[int], list[str]]:
    """Windows of average true range, and columns, that any policy's levels read."""
    levels = [level for policy in policies for level in (policy.stop_loss, policy.take_profit)]
    windows = sorted({level.window for level in levels if isinstance(level, AtrDistance)})
    columns = sorted({level.column for level in levels if isinstance(level, ColumnLevel)})
    return windows, columns


def policy_plans(policies: Sequence[Policy]) -> Plans:
    """Policies as the kernels read them, one entry each."""
    windows, columns = series_names(policies)

    def code(values: list[int]) -> np.ndarray:
        return np.array(values, dtype=np.int8)

    def number(values: list[float]) -> Floats:
        return np.array(values, dtype=np.float64)

    def whole(values: list[int]) -> Integers:
        return np.array(values, dtype=np.int64)

    def level_kind(level: Any) -> int:
        return LEVEL_KINDS.index(level.kind if level else "none")

    def level_value(level: Any) -> float:
        return float(level.value) if level and level.value is not None else float("nan")

    def level_series(level: Any) -> int:
        if isinstance(level, AtrDistance):
            return windows.index(level.window)
        return columns.index(level.column) if isinstance(level, ColumnLevel) else 0

    def sizing_value(sizing: Any) -> float:
        return float(sizing.amount if sizing.kind == "collateral" else sizing.fraction)

    def call_value(call: TopUp | Deleverage | None) -> float:
        if call is None:
            return 0.0
        return call.target if isinstance(call, TopUp) else call.fraction

    calls = [policy.margin_call for policy in policies]
    return Plans(
        leverage=number([policy.leverage for policy in policies]),
        margin_buffer=number([policy.margin_buffer for policy in policies]),
        sizing_kind=code([SIZINGS.index(policy.sizing.kind) for policy in policies]),
        sizing_value=number([sizing_value(policy.sizing) for policy in policies]),
        capital=number([policy.capital for policy in policies]),
        compounding=code([policy.compounding for policy in policies]),
        stop_kind=code([level_kind(policy.stop_loss) for policy in policies]),
        stop_value=number([level_value(policy.stop_loss) for policy in policies]),
        stop_series=code([level_series(policy.stop_loss) for policy in policies]),
        stop_on_mark=code([policy.stop_trigger == "mark" for policy in policies]),
        target_kind=code([level_kind(policy.take_profit) for policy in policies]),
        target_value=number([level_value(policy.take_profit) for policy in policies]),
        target_series=code([level_series(policy.take_profit) for policy in policies]),
        target_on_mark=code([policy.take_profit_trigger == "mark" for policy in policies]),
        trail=number([float("nan") if policy.trailing_stop is None else policy.trailing_stop for policy in policies]),
        trail_on_mark=code([policy.trailing_trigger == "mark" for policy in policies]),
        max_holding=whole([-1 if policy.max_holding is None else int(policy.max_holding) for policy in policies]),
        call_action=code([CALLS.index(call.action if call else "none") for call in calls]),
        call_threshold=number([call.threshold if call else 0.0 for call in calls]),
        call_value=number([call_value(call) for call in calls]),
        call_count=whole([call.max_calls if call else 0 for call in calls]),
        never_after_stop=code([policy.reentry.after_stop == "never" for policy in policies]),
        never_after_liquidation=code([policy.reentry.after_liquidation == "never" for policy in policies]),
        cool_down=whole([int(policy.reentry.cool_down) for policy in policies]),
        max_trades=whole([-1 if policy.max_trades is None else policy.max_trades for policy in policies]),
    )  # fmt: skip


def signal_lanes(plans: Plans, policies: int, starts: Integers) -> Lanes:
    """A lane per policy and start bar, policies outermost."""
    count = policies * starts.size
    plan = np.repeat(np.arange(policies), starts.size)
    return Lanes(
        plan=plan,
        fixed_side=np.zeros(count, dtype=np.int8),
        exit_due=np.full(count, -1, dtype=np.int64),
        bar=np.tile(starts, policies),
        not_before=np.full(count, -1, dtype=np.int64),
        wallet=plans.capital[plan],
        trades=np.zeros(count, dtype=np.int64),
        refused=np.zeros(count, dtype=np.int8),
        done=np.zeros(count, dtype=np.int8),
    )


def refuse_coupled(setting: Setting, policies: Sequence[Policy]) -> None:
    """A crowd's fill decides what a liquidated trader gets back; where that sizes a later trade, accounts
    would have to meet in time.
    """
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
    fund: FundSpec | Mapping[str, Any] | None = None,
    open_interest: OpenInterest | TurnoverInterest | None = None,
    crowding: bool = False,
    rules: Rules | Mapping[str, Any] | None = None,
    engine: str = "auto",
    threads: int | None = None,
    equity_every: str | timedelta | Duration | None = None,
    progress: Progress | None = None,
    strategy_folder: Path | None = None,
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
        The other options are those of `simulate`.

    An order that is refused is tried again at the next close that says so; of refusals for one cause in a
    row the first is a row of `accounts`. An account all of whose orders have one size that is refused for its
    size or leverage is out for good.

    Raises:
        InputError: data, strategy, policies or options are wrong, or a signal looks ahead. RunError: money
        was not conserved.
    """
    started = time.perf_counter()
    setting = make_setting(
        venue=venue, tiers_as=tiers_as, fund=fund, open_interest=open_interest, crowding=crowding, rules=rules,
        engine=engine, threads=threads, equity_every=equity_every, progress=progress,
    )  # fmt: skip
    chosen = as_policies(policies if policies is not None else Policy())
    bound = as_strategies(strategy, folder=strategy_folder)
    refuse_coupled(setting, chosen)
    loaded, starting = open_bars(bars), read_offsets(offsets)
    plans, (windows, columns) = policy_plans(chosen), series_names(chosen)
    names, many = loaded.symbols, len(chosen)
    parts: list[SymbolPart] = []
    keys: list[Integers] = []
    for index, symbol in enumerate(names):
        since = time.perf_counter()
        collected = loaded.collect(symbol)
        describe_symbol(setting, collected)
        since = setting.timed("load", since)
        market = market_arrays(collected, setting.rules, setting.engine)
        starts = np.array(starting.starts(market.time), dtype=np.int64)  # type: ignore[arg-type]
        setting.timed("prepare", since)
        for number, one in enumerate(bound):
            since = time.perf_counter()
            check_look_ahead(one, collected.frame)
            extra = evaluate_columns(one, collected.frame, columns)
            signals = signal_arrays(
                collected.frame, evaluate(one, collected.frame), windows, [extra[name] for name in columns]
            )
            setting.timed("signals", since)
            lanes = signal_lanes(plans, many, starts)
            world = number * many + lanes.plan
            # sorts as strategy, policy, symbol, start
            key = (world * len(names) + index) * MOST_STARTS + np.tile(np.arange(starts.size), many)
            parts.append(
                run_symbol(
                    setting, market, plans, signals, lanes, index, symbol,
                    account=np.arange(lanes.plan.size) + sum(part.size for part in keys),
                    plan=lanes.plan,
                    world=world,
                    weight=np.full(lanes.plan.size, 1.0 / starts.size),
                    requested_time=np.zeros(lanes.plan.size, dtype=np.int64),
                )
            )  # fmt: skip
            keys.append(key)
    return finish(setting, parts, keys, names, bound, chosen, plans, started)


def everyone(
    code: Integers, strategies: pl.Series, labels: pl.Series, names: tuple[str, ...]
) -> pl.DataFrame:
    """How many accounts each strategy, policy and symbol has, from (world * symbols + symbol) of each account."""
    codes, counts = np.unique(code, return_counts=True)
    world, symbol = codes // len(names), codes % len(names)
    return pl.DataFrame(
        {
            "strategy": strategies.gather(pl.Series(world // len(labels), dtype=pl.UInt32)),
            "policy": labels.gather(pl.Series(world % len(labels), dtype=pl.UInt32)),
            "symbol": pl.Series(names).gather(pl.Series(symbol, dtype=pl.UInt32)),
            "accounts": counts,
        }
    )


def finish(
    setting: Setting, parts: list[SymbolPart], keys: list[Integers], names: tuple[str, ...], bound: Sequence[Any],
    policies: Sequence[Policy], plans: Plans, started: float,
) -> Result:  # fmt: skip
    """Number the accounts by strategy, policy, symbol and start, and conclude the run."""
    many = len(policies)
    worlds = tuple(f"{one.label} | {policy.label}" for one in bound for policy in policies)
    book = make_book(names, worlds, parts)
    parts.clear()
    lane_key = np.concatenate(keys)
    rank = np.empty(lane_key.size, dtype=np.int64)
    rank[np.argsort(lane_key, kind="stable")] = np.arange(lane_key.size)
    numbers = pl.Series(rank, dtype=pl.Int64)
    policy_of, strategy_of = book.world % many, book.world // many
    labels = pl.Series([policy.label for policy in policies], dtype=pl.String)
    strategies = pl.Series([one.label for one in bound], dtype=pl.String)
    capital = np.zeros(lane_key.size)
    capital[book.account] = plans.capital[policy_of]

    def equity() -> pl.DataFrame | None:
        curves = equity_table(setting, book, book.account, numbers, capital)
        return None if curves is None else curves.sort("account", "time")

    result = conclude(
        setting,
        book,
        account=numbers.gather(pl.Series(book.account, dtype=pl.UInt32)),
        strategy=strategies.gather(pl.Series(strategy_of, dtype=pl.UInt32)),
        policy=labels.gather(pl.Series(policy_of, dtype=pl.UInt32)),
        leverage=plans.leverage[policy_of],
        policies=pl.DataFrame([policy.row() for policy in policies], schema_overrides=POLICY_NUMBERS),
        population=everyone(lane_key // MOST_STARTS, strategies, labels, names),
        equity=equity,
        started=started,
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
    result.metadata["accounts"] = int(lane_key.size)
    return in_order_given(result, rank[book.account])
