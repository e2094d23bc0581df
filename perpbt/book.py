"""The book of a run: every position of every symbol, side by side, before money is settled and after.

In: what the engine returned for each symbol. Out: one set of arrays over all positions, ready for `settle`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from perpbt.engine import Outcome, join
from perpbt.kernels.tables import (
    ACCEPTED,
    CLOSE,
    LIQUIDATION,
    NO_BAR,
    Calls,
    Floats,
    Integers,
    Market,
    Rates,
    Rows,
)


@dataclass
class Book:
    """All positions of a run; arrays have one entry a position unless said otherwise."""

    rows: Rows
    calls: Calls
    symbols: tuple[str, ...]  # sorted
    worlds: tuple[str, ...]
    symbol: Integers  # index into symbols
    world: Integers  # index into worlds
    plan: Integers  # index into what the caller calls plans
    account: Integers  # index into the caller's accounts
    weight: Floats
    entry_time: Integers  # ms
    exit_time: Integers
    closes: Integers  # bar closes at which the position was open
    bars: Integers  # of each symbol
    moments: int  # different times at which any symbol has a bar
    rates: tuple[Rates, ...]  # of each symbol
    exit_volatility: Floats
    exit_turnover: Floats
    first_time: int
    call_time: Integers = field(
        default_factory=lambda: np.zeros(0, dtype=np.int64)
    )  # one entry a margin order

    @property
    def opened(self) -> npt.NDArray[np.bool_]:
        """Positions that were not refused."""
        return np.asarray(self.rows.rejection == ACCEPTED)

    @property
    def liquidated(self) -> Integers:
        """Indices of liquidated positions."""
        return np.flatnonzero(self.opened & (self.rows.reason == LIQUIDATION))


@dataclass(frozen=True)
class SymbolPart:
    """What the engine returned for (some accounts of) one symbol, with what is needed later of its bars."""

    symbol: int  # index into the run's symbols
    market_times: Integers
    outcome: Outcome
    rates: Rates
    account: Integers  # per row
    plan: Integers  # per row
    world: Integers  # per row
    weight: Floats  # per row
    exit_volatility: Floats
    exit_turnover: Floats
    requested_time: Integers  # per row: entry time asked for, for rows that found no bar


def symbol_part(
    symbol: int,
    market: Market,
    outcome: Outcome,
    rates: Rates,
    *,
    account: Integers,
    plan: Integers,
    world: Integers,
    weight: Floats,
    requested_time: Integers,
) -> SymbolPart:
    """Keep of a symbol what settling needs; per-lane arrays are spread over rows."""
    lane = outcome.rows.lane
    exits = np.minimum(outcome.rows.exit_bar, market.time.size - 1)
    return SymbolPart(
        symbol,
        market.time,
        outcome,
        rates,
        account[lane],
        plan[lane],
        world[lane],
        weight[lane],
        market.volatility[exits],
        market.turnover[exits],
        requested_time[lane],
    )


def part_times(part: SymbolPart) -> tuple[Integers, Integers, Integers]:
    """Entry time, exit time and closes held, of each row of a part."""
    rows, times = part.outcome.rows, part.market_times
    found = rows.rejection != NO_BAR  # which has no bar to take a time from
    entry = np.where(found, times[np.minimum(rows.entry_bar, times.size - 1)], part.requested_time)
    leave = np.where(found, times[np.minimum(rows.exit_bar, times.size - 1)], entry)
    closes = np.where(rows.phase == CLOSE, rows.exit_bar + 1, rows.exit_bar) - rows.entry_bar
    return entry, leave, closes


def make_book(symbols: tuple[str, ...], worlds: tuple[str, ...], parts: list[SymbolPart]) -> Book:
    """Put the parts together; empties `parts`."""
    sizes = [part.outcome.rows.lane.size for part in parts]
    offsets = np.cumsum([0, *sizes])
    moments = [part_times(part) for part in parts]
    call_parts = [
        part.outcome.calls._replace(row=part.outcome.calls.row + offset)
        for part, offset in zip(parts, offsets, strict=False)
    ]
    call_time = np.concatenate([part.market_times[part.outcome.calls.bar] for part in parts])
    by_symbol = {part.symbol: part for part in parts}

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    kept = {
        "world": joined("world"),
        "plan": joined("plan"),
        "account": joined("account"),
        "weight": joined("weight"),
        "exit_volatility": joined("exit_volatility"),
        "exit_turnover": joined("exit_turnover"),
    }
    bars = np.array([by_symbol[k].market_times.size for k in range(len(symbols))])
    moments_of = [by_symbol[k].market_times for k in range(len(symbols))]
    rates = tuple(by_symbol[k].rates for k in range(len(symbols)))
    first_time = min((int(part.market_times[0]) for part in parts), default=0)
    symbol = np.repeat([part.symbol for part in parts], sizes)
    row_parts = [part.outcome.rows for part in parts]
    by_symbol.clear()
    parts.clear()  # the rows are the bulk of a run's memory: nothing else may hold them while they are joined
    return Book(
        rows=join(Rows, row_parts),
        calls=join(Calls, call_parts),
        symbols=symbols,
        worlds=worlds,
        symbol=symbol,
        entry_time=np.concatenate([entry for entry, _, _ in moments]),
        exit_time=np.concatenate([leave for _, leave, _ in moments]),
        closes=np.concatenate([closes for _, _, closes in moments]),
        bars=bars,
        moments=int(np.unique(np.concatenate(moments_of)).size),
        rates=rates,
        first_time=first_time,
        call_time=call_time,
        **kept,
    )
