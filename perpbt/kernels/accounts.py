"""One position of an account from its order to its exit, and where the account stands afterwards (MODEL §2-§6).

`lanes.py` strings positions together: one fixed entry, or signals, re-entry, compounding and margin calls.
"""

from __future__ import annotations

from .ahead import fetch
from .closing import Closing, close, liquidation_slippage
from .compile import bare, kernel, part
from .epochs import epoch_at, rates_in, walk_epochs
from .margin import Position, liquidation_price_at_entry
from .noting import Trace
from .opening import Opening, levels_known, open_position
from .searching import first_not_below
from .tables import (
    ABOVE_LAST_TIER,
    ABOVE_MAXIMUM_LEVERAGE,
    ACCEPTED,
    CLOSE,
    ENTRY_SIDE,
    FUNDING,
    LIQUIDATION,
    NEXT_ENTRY,
    NEXT_LONG_EXIT,
    NEXT_SHORT_EXIT,
    NO_BAR,
    OPEN,
    REJECTED,
    RISK,
    SIGNAL,
    STOP_LOSS,
    TAKE_PROFIT,
    TIME,
    TRAILING_STOP,
    TURNOVER,
    VOLATILITY,
    Floats,
    Integers,
    Lane,
    Market,
    Plan,
    Pyramid,
    Rates,
    Row,
    Signals,
    Table,
)
from .walking import Exit, Term
from .watching import Care, Path, Watch, start, watch_for


@part
def first_at_or_after(times: Integers, moment: int, bar: int) -> int:
    """Index of the first bar that opens at or after `moment`; the number of bars if none does. Quick where bars are evenly spaced from
    `bar` on.
    """
    if bar + 1 < times.size and moment > times[bar]:
        step = times[bar + 1] - times[bar]
        guess = bar + (moment - times[bar] + step - 1) // step
        if guess < times.size and times[guess - 1] < moment <= times[guess]:
            return guess
    return first_not_below(times, moment)


@part
def next_entry(market: Market, plan: Plan, signals: Signals, close_bar: int, not_before: int) -> int:
    """The next bar at whose close an entry is decided that can be filled; the number of bars if there is
    none.
    """
    bars = market.time.size
    i = close_bar
    if plan["cool_down"] != 0 and i + 1 < bars and market.time[i + 1] < not_before:
        i = first_at_or_after(market.time, not_before, max(i, 0)) - 1
    while i < bars - 1:
        i = signals.marks[NEXT_ENTRY, i]
        if i >= bars - 1:
            return bars
        if levels_known(plan, signals, i):
            return i
        i += 1
    return bars


@part
def write_opening(rates: Rates, row: Row, lane: int, bar: int, side: float, opening: Opening) -> None:
    """What is known of a position when it is opened, or refused."""
    position = opening.position
    row["lane"] = lane
    row["entry_bar"] = bar
    row["exit_bar"] = bar
    row["side"] = 1 if side > 0.0 else -1
    row["rejection"] = opening.rejection
    row["reason"] = REJECTED
    row["collateral"] = opening.collateral
    if opening.rejection != ACCEPTED:
        return
    row["entry"] = position.entry
    row["quantity"] = position.quantity
    row["margin"] = position.margin
    row["notional"] = opening.notional
    row["open_fee"] = opening.fee
    row["entry_funding"] = position.funding
    row["liquidation_price"] = liquidation_price_at_entry(rates, position)


@part
def write_closing(row: Row, closing: Closing) -> None:
    """The money of a closing."""
    row["fill"] = closing.fill
    row["close_fee"] = closing.fee
    row["liquidation_fee"] = closing.liquidation_fee
    row["surplus"] = closing.surplus
    row["deficit"] = closing.deficit
    row["back"] = closing.back
    row["pnl"] = closing.pnl
    row["funding"] = closing.funding


@part
def write_exit(market: Market, rates: Rates, row: Row, limit: bool, end: Exit) -> float:
    """Close the position at its exit and write the row; returns the cash that goes back to the trader."""
    position, path = end.position, end.path
    limit_fill = end.reason == TAKE_PROFIT and limit
    slippage = rates.slippage
    if end.reason == LIQUIDATION:
        slippage = liquidation_slippage(
            rates,
            market.series[VOLATILITY, end.bar],
            market.series[TURNOVER, end.bar],
            position.quantity * end.base,
        )
    closing = close(
        rates, position, end.reason, limit_fill, end.base, slippage, market.series[FUNDING, end.bar]
    )
    row["exit_bar"] = end.bar
    row["phase"] = end.phase
    row["reason"] = end.reason
    row["exit_funding"] = market.series[FUNDING, end.bar]
    row["exit_quantity"] = position.quantity
    row["exit_margin"] = position.margin
    row["top_up"] = path.added
    row["released"] = path.released
    row["base"] = end.base
    write_closing(row, closing)
    row["peak"] = path.peak
    row["drawdown"] = path.drawdown
    row["worst_ratio"] = path.worst_ratio
    return closing.back


@part
def term_of(market: Market, plan: Plan, signals: Signals, side: float, bar: int, exit_due: int) -> Term:
    """When a position opened in `bar` is due to leave; `exit_due` is a moment in ms, or -1."""
    if plan["max_holding"] >= 0:
        exit_due = market.time[bar] + plan["max_holding"]
    time_bar = market.time.size
    if exit_due >= 0:
        time_bar = max(first_at_or_after(market.time, exit_due, bar), bar + 1)
    leave = NEXT_LONG_EXIT if side > 0.0 else NEXT_SHORT_EXIT
    return Term(bar, time_bar, signals.marks[leave, bar] + 1)


@part
def care_of(plan: Plan, at: int, slot: int) -> Care:
    """The owner's care of the position in row `at`."""
    return Care(plan["call_action"], plan["call_threshold"], plan["call_value"], plan["call_count"], at, slot)


@part
def expect_next(market: Market, signals: Signals, bar: int, side: float) -> None:
    """Ask for what an account that leaves in `bar` reads to enter again, which it would come to one by one; while its exit is written
    all of that is on the way.
    """
    bars = market.time.size
    fetch(market.time, bar)
    leave = NEXT_LONG_EXIT if side > 0.0 else NEXT_SHORT_EXIT
    for row in (NEXT_ENTRY, ENTRY_SIDE, leave):
        fetch(signals.marks, row * bars + bar)


@part
def live(
    market: Market, rates: Rates, plan: Plan, signals: Signals, rows: Table, calls: Table, trace: Trace,
    at: int, slot: int, lane: int, side: float, bar: int, wallet: float, exit_due: int,
) -> float:  # fmt: skip
    """One position from its order to its exit, written to row `at`; returns the wallet afterwards."""
    row, now = rows[at], rates_in(rates, epoch_at(rates, bar))
    opening = open_position(market, now, plan, signals, side, bar, wallet)
    write_opening(now, row, lane, bar, side, opening)
    if opening.rejection != ACCEPTED:
        return wallet
    watch = watch_for(side, plan["stop_on_mark"], plan["target_on_mark"], plan["trail_on_mark"])
    path = start(market, now, opening.position, bar, opening.collateral, wallet - opening.collateral)
    end = walk_on(
        market,
        rates,
        plan,
        signals,
        calls,
        trace,
        at,
        slot,
        bar,
        exit_due,
        watch,
        opening.position,
        path,
        bar,
    )
    return leave(market, rates, plan, signals, row, watch, end)


@part
def walk_on(
    market: Market, rates: Rates, plan: Plan, signals: Signals, calls: Table, trace: Trace,
    at: int, slot: int, bar: int, exit_due: int, watch: Watch, position: Position, path: Path, i: int,
) -> Exit:  # fmt: skip
    """A position opened in `bar`, that of row `at`, from bar `i` to its exit."""
    term = term_of(market, plan, signals, position.side, bar, exit_due)
    care = care_of(plan, at, slot)
    return walk_epochs(market, rates, watch, care, calls, position, path, term, i, market.time.size, trace)


@part
def leave(
    market: Market, rates: Rates, plan: Plan, signals: Signals, row: Row, watch: Watch, end: Exit
) -> float:
    """Write the exit of a position to its row; returns the wallet afterwards."""
    if plan["max_trades"] != 1:
        expect_next(market, signals, end.bar, end.position.side)
    back = write_exit(market, rates, row, watch.target_limit, end)
    return end.path.wallet + back


@part
def after_exit(market: Market, plan: Plan, lane: Lane, row: Row) -> None:
    """Where the lane stands once the position in `row` is over: out for good, cooling down, or free at once."""
    reason, bar = row["reason"], row["exit_bar"]
    stopped = reason in (STOP_LOSS, TRAILING_STOP)
    lane["bar"] = bar
    lane["refused"] = ACCEPTED
    if (
        row["phase"] == CLOSE
        or (stopped and plan["never_after_stop"] != 0)
        or (reason == LIQUIDATION and plan["never_after_liquidation"] != 0)
    ):
        lane["done"] = 1
    elif plan["cool_down"] != 0 and (stopped or reason == LIQUIDATION):
        lane["not_before"] = market.time[bar] + plan["cool_down"]
    elif row["phase"] == OPEN and reason in (TIME, SIGNAL):
        lane["bar"] = bar - 1  # flat at this very open: the last close may have decided the next entry
    lane["trades"] += 1
    if plan["max_trades"] >= 0 and lane["trades"] >= plan["max_trades"]:
        lane["done"] = 1


@part
def after_refusal(plan: Plan, lane: Lane, row: Row) -> int:
    """The lane after a refused order; returns how many rows that leaves: of refusals for one cause in a row, the first.

    It tries again at the next close that says so, unless every later order would be refused alike: one of the same size.
    """
    cause = row["rejection"]
    again = cause == lane["refused"]
    same_size = plan["compounding"] == 0 and plan["sizing_kind"] != RISK
    lane["bar"] = row["exit_bar"]
    lane["refused"] = cause
    if same_size and cause in (ABOVE_LAST_TIER, ABOVE_MAXIMUM_LEVERAGE):
        lane["done"] = 1
    if again:
        row["lane"] = -1
        return 0
    return 1


@part
def refuse_for_want_of_a_bar(row: Row, number: int, plan: Plan, lane: Lane) -> None:
    """The row of a given position after the last bar."""
    row["lane"] = number
    row["side"] = lane["fixed_side"]
    row["rejection"] = NO_BAR
    row["reason"] = REJECTED
    row["collateral"] = plan["sizing_value"]


@part
def fixed_entry(
    market: Market, rates: Rates, plan: Plan, signals: Signals, lane: Lane, rows: Table, calls: Table,
    trace: Trace, number: int, at: int,
) -> None:  # fmt: skip
    """A lane that holds one given position."""
    lane["done"] = 1
    if lane["bar"] >= market.time.size:
        refuse_for_want_of_a_bar(rows[at], number, plan, lane)
        return
    live(
        market, rates, plan, signals, rows, calls, trace,
        at, 0, number, float(lane["fixed_side"]), lane["bar"], plan["capital"], lane["exit_due"],
    )  # fmt: skip


@part
def bare_market(market: Market) -> Market:
    """The market with bare arrays."""
    pyramid = market.pyramid
    return Market(
        bare(market.time), bare(market.series), market.highest_mark, market.lowest_funding, market.greatest,
        Pyramid(bare(pyramid.nodes), bare(pyramid.tops), bare(pyramid.starts), pyramid.levels, pyramid.near),
        bare(market.coarse),
    )  # fmt: skip


@part
def bare_rates(rates: Rates) -> Rates:
    """The rates with bare arrays."""
    return Rates(
        rates.taker_fee, rates.maker_fee, rates.slippage, rates.liquidation_fee, rates.close_out_rate,
        rates.half_spread, rates.impact, rates.max_slippage, rates.surplus_to_fund, rates.protected,
        rates.entry_maintenance, rates.optimistic, rates.target_at_open, rates.clip, rates.whole, rates.per_unit,
        bare(rates.tiers), bare(rates.ladders), bare(rates.since), rates.terms,
    )  # fmt: skip


@kernel
def refill(
    rates: Rates, rows: Table, picked: Integers, volumes: Floats, volatility: Floats, turnover: Floats
) -> None:
    """Fill the liquidations in rows `picked` again, each against the notional `volumes` sold in its crowd
    (MODEL §6).
    """
    for k in range(picked.size):
        row = rows[picked[k]]
        position = Position(
            float(row["side"]), row["exit_quantity"], row["entry"], row["exit_margin"],
            row["entry_funding"], 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
        )  # fmt: skip
        slippage = liquidation_slippage(rates, volatility[k], turnover[k], volumes[k])
        closing = close(rates, position, LIQUIDATION, False, row["base"], slippage, row["exit_funding"])
        write_closing(row, closing)
