"""Accounts over one symbol's bars: lanes that open, walk and close one position after another (MODEL
§2-§6).

`run` serves both doors. A table of positions is lanes with one fixed entry each; a strategy is lanes that
wait for signals, re-enter, compound and answer margin calls. A lane that fills its page of rows stops with
its state saved, and goes on in the next page.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .closing import close, liquidation_slippage
from .compile import kernel
from .margin import Position, liquidation_price
from .opening import Opening, levels_known, open_position
from .tables import (
    ABOVE_LAST_TIER,
    ABOVE_MAXIMUM_LEVERAGE,
    ACCEPTED,
    CLOSE,
    LIQUIDATION,
    NO_BAR,
    OPEN,
    REJECTED,
    RISK,
    SIGNAL,
    STOP_LOSS,
    TAKE_PROFIT,
    TIME,
    TRAILING_STOP,
    Calls,
    Codes,
    Floats,
    Integers,
    Market,
    Plans,
    Rates,
    Rows,
    Signals,
)
from .walking import Exit, walk
from .watching import Care, start, watch_for


class Lanes(NamedTuple):
    """Accounts and their state, one entry a lane. `fixed_side` is 0 for a lane that follows signals."""

    plan: Integers
    fixed_side: Codes
    exit_due: Integers  # ms, -1: none
    bar: Integers  # next close at which an entry may be decided; for a fixed entry, the bar of the entry itself
    not_before: Integers  # ms: earliest open of the next entry (cool-down)
    wallet: Floats
    trades: Integers  # positions opened
    refused: Codes  # why the last order was refused, 0 once one is filled
    done: Codes


@kernel
def first_at_or_after(times: Integers, moment: int) -> int:
    """Index of the first bar that opens at or after `moment`; the number of bars if none does."""
    return int(np.searchsorted(times, moment))


@kernel
def next_entry(
    market: Market, plans: Plans, signals: Signals, p: int, close_bar: int, not_before: int
) -> int:
    """The next bar at whose close an entry is decided that can be filled; the number of bars if there is
    none.
    """
    bars = market.open.size
    i = max(close_bar, first_at_or_after(market.time, not_before) - 1)
    while i < bars - 1:
        i = signals.next_entry[i]
        if i >= bars - 1:
            return bars
        if levels_known(plans, p, signals, i):
            return i
        i += 1
    return bars


@kernel
def write_opening(
    rates: Rates, rows: Rows, at: int, lane: int, bar: int, side: float, opening: Opening
) -> None:
    """What is known of a position when it is opened, or refused."""
    position = opening.position
    rows.lane[at] = lane
    rows.entry_bar[at] = bar
    rows.exit_bar[at] = bar
    rows.side[at] = 1 if side > 0.0 else -1
    rows.rejection[at] = opening.rejection
    rows.reason[at] = REJECTED
    rows.collateral[at] = opening.collateral
    if opening.rejection != ACCEPTED:
        return
    rows.entry[at] = position.entry
    rows.quantity[at] = position.quantity
    rows.margin[at] = position.margin
    rows.notional[at] = opening.notional
    rows.open_fee[at] = opening.fee
    rows.entry_funding[at] = position.funding
    lines = 1 if rates.entry_maintenance else rates.rate.size
    rows.liquidation_price[at] = liquidation_price(rates, position, position.funding, lines)


@kernel
def write_exit(market: Market, rates: Rates, rows: Rows, at: int, limit: bool, end: Exit) -> float:
    """Close the position at its exit and write the row; returns the cash that goes back to the trader."""
    position, path = end.position, end.path
    limit_fill = end.reason == TAKE_PROFIT and limit
    slippage = rates.slippage
    if end.reason == LIQUIDATION:
        slippage = liquidation_slippage(
            rates, market.volatility[end.bar], market.turnover[end.bar], position.quantity * end.base
        )
    closing = close(rates, position, end.reason, limit_fill, end.base, slippage, market.funding[end.bar])
    rows.exit_bar[at] = end.bar
    rows.phase[at] = end.phase
    rows.reason[at] = end.reason
    rows.exit_funding[at] = market.funding[end.bar]
    rows.exit_quantity[at] = position.quantity
    rows.exit_margin[at] = position.margin
    rows.top_up[at] = path.added
    rows.released[at] = path.released
    rows.base[at] = end.base
    rows.fill[at] = closing.fill
    rows.close_fee[at] = closing.fee
    rows.liquidation_fee[at] = closing.liquidation_fee
    rows.surplus[at] = closing.surplus
    rows.deficit[at] = closing.deficit
    rows.back[at] = closing.back
    rows.pnl[at] = closing.pnl
    rows.funding[at] = closing.funding
    rows.peak[at] = path.peak
    rows.drawdown[at] = path.drawdown
    rows.worst_ratio[at] = path.worst_ratio
    return closing.back


@kernel
def live(
    market: Market, rates: Rates, plans: Plans, signals: Signals, rows: Rows, calls: Calls,
    at: int, slot: int, lane: int, p: int, side: float, bar: int, wallet: float, exit_due: int,
) -> float:  # fmt: skip
    """One position from its order to its exit, written to row `at`; returns the wallet afterwards."""
    opening = open_position(market, rates, plans, p, signals, side, bar, wallet)
    write_opening(rates, rows, at, lane, bar, side, opening)
    if opening.rejection != ACCEPTED:
        return wallet
    bars = market.open.size
    due = exit_due
    if plans.max_holding[p] >= 0:
        due = market.time[bar] + plans.max_holding[p]
    time_bar = bars
    if due >= 0:
        time_bar = max(first_at_or_after(market.time, due), bar + 1)
    leave = signals.next_long_exit if side > 0.0 else signals.next_short_exit
    signal_bar = leave[bar] + 1
    watch = watch_for(
        market, side, plans.stop_on_mark[p] != 0, plans.target_on_mark[p] != 0, plans.trail_on_mark[p] != 0
    )
    care = Care(
        plans.call_action[p], plans.call_threshold[p], plans.call_value[p], plans.call_count[p], at, slot
    )
    path = start(market, rates, opening.position, bar, opening.collateral, wallet - opening.collateral)
    end = walk(market, rates, watch, care, calls, opening.position, path, bar, time_bar, signal_bar)
    back = write_exit(market, rates, rows, at, watch.target_limit, end)
    return end.path.wallet + back


@kernel
def after_exit(market: Market, plans: Plans, lanes: Lanes, rows: Rows, at: int, lane: int) -> None:
    """Where the lane stands once the position in row `at` is over: out for good, cooling down, or free at
    once.
    """
    p, reason, bar = lanes.plan[lane], rows.reason[at], rows.exit_bar[at]
    stopped = reason in (STOP_LOSS, TRAILING_STOP)
    lanes.bar[lane] = bar
    lanes.refused[lane] = ACCEPTED
    if (
        rows.phase[at] == CLOSE
        or (stopped and plans.never_after_stop[p])
        or (reason == LIQUIDATION and plans.never_after_liquidation[p])
    ):
        lanes.done[lane] = 1
    elif stopped or reason == LIQUIDATION:
        lanes.not_before[lane] = market.time[bar] + plans.cool_down[p]
    elif rows.phase[at] == OPEN and (reason in (TIME, SIGNAL)):
        lanes.bar[lane] = bar - 1  # flat at this very open: the last close may have decided the next entry
    lanes.trades[lane] += 1
    if plans.max_trades[p] >= 0 and lanes.trades[lane] >= plans.max_trades[p]:
        lanes.done[lane] = 1


@kernel
def after_refusal(plans: Plans, lanes: Lanes, rows: Rows, at: int, lane: int) -> int:
    """The lane after a refused order; returns how many rows that leaves: of refusals for one cause in a row, the first.

    It tries again at the next close that says so, unless every later order would be refused alike: one of the same size.
    """
    p, cause = lanes.plan[lane], rows.rejection[at]
    again = cause == lanes.refused[lane]
    same_size = plans.compounding[p] == 0 and plans.sizing_kind[p] != RISK
    lanes.bar[lane] = rows.exit_bar[at]
    lanes.refused[lane] = cause
    lanes.done[lane] = same_size and cause in (ABOVE_LAST_TIER, ABOVE_MAXIMUM_LEVERAGE)
    if again:
        rows.lane[at] = -1
        return 0
    return 1


@kernel
def fixed_entry(
    market: Market,
    rates: Rates,
    plans: Plans,
    signals: Signals,
    lanes: Lanes,
    rows: Rows,
    calls: Calls,
    lane: int,
    at: int,
) -> None:
    """A lane that holds one given position."""
    p, bar, side = lanes.plan[lane], lanes.bar[lane], float(lanes.fixed_side[lane])
    lanes.done[lane] = 1
    if bar >= market.open.size:
        rows.lane[at] = lane
        rows.side[at] = lanes.fixed_side[lane]
        rows.rejection[at] = NO_BAR
        rows.reason[at] = REJECTED
        rows.collateral[at] = plans.sizing_value[p]
        return
    live(
        market,
        rates,
        plans,
        signals,
        rows,
        calls,
        at,
        0,
        lane,
        p,
        side,
        bar,
        plans.capital[p],
        lanes.exit_due[lane],
    )


@kernel
def run(
    market: Market, rates: Rates, plans: Plans, signals: Signals, lanes: Lanes, rows: Rows, calls: Calls,
    first: int, last: int, page: int, slots: int,
) -> None:  # fmt: skip
    """Run lanes [first, last), each until it is done or has written `page` rows.

    Lane k writes rows [(k - first) * page, (k - first + 1) * page); a position may use `slots` entries of
    `calls`.
    """
    bars = market.open.size
    for lane in range(first, last):
        at = (lane - first) * page
        end = at + page
        p = lanes.plan[lane]
        if lanes.fixed_side[lane] != 0:
            fixed_entry(market, rates, plans, signals, lanes, rows, calls, lane, at)
            continue
        while at < end and lanes.done[lane] == 0:
            if plans.compounding[p] == 0:
                lanes.wallet[lane] = plans.capital[p]
            decided = next_entry(market, plans, signals, p, lanes.bar[lane], lanes.not_before[lane])
            if decided >= bars or not lanes.wallet[lane] > 0.0:
                lanes.done[lane] = 1
                break
            side = float(signals.entry_side[decided])
            lanes.wallet[lane] = live(
                market, rates, plans, signals, rows, calls,
                at, at * slots, lane, p, side, decided + 1, lanes.wallet[lane], -1,
            )  # fmt: skip
            if rows.reason[at] == REJECTED:
                at += after_refusal(plans, lanes, rows, at, lane)
            else:
                after_exit(market, plans, lanes, rows, at, lane)
                at += 1


@kernel
def refill(
    rates: Rates, rows: Rows, picked: Integers, volumes: Floats, volatility: Floats, turnover: Floats
) -> None:
    """Fill the liquidations in rows `picked` again, each against the notional `volumes` sold in its crowd
    (MODEL §6).
    """
    for k in range(picked.size):
        at = picked[k]
        position = Position(
            float(rows.side[at]), rows.exit_quantity[at], rows.entry[at], rows.exit_margin[at],
            rows.entry_funding[at], 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
        )  # fmt: skip
        slippage = liquidation_slippage(rates, volatility[k], turnover[k], volumes[k])
        closing = close(rates, position, LIQUIDATION, False, rows.base[at], slippage, rows.exit_funding[at])
        rows.fill[at] = closing.fill
        rows.close_fee[at] = closing.fee
        rows.liquidation_fee[at] = closing.liquidation_fee
        rows.surplus[at] = closing.surplus
        rows.deficit[at] = closing.deficit
        rows.back[at] = closing.back
        rows.pnl[at] = closing.pnl
        rows.funding[at] = closing.funding
