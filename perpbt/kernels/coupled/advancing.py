"""A world's positions in one symbol through all bars together, until somebody owes something.

Bars outside, positions inside. Whatever can end a position, or move its trailing stop, crosses a level of its own (`looping.py`). A window
of bars at a time all open positions are screened once, against the extremes of the whole window, and who enters in it against those of what
is left of it; in each of its bars only those that may cross something in it are looked at. So a bar costs what happens in it. Levels follow from
the row of a position as it was opened; the position itself is made only when one of them is crossed.
"""

from __future__ import annotations

import numpy as np

from perpbt.kernels.accounts import bare_market, bare_rates, term_of
from perpbt.kernels.compile import aside, bare, kernel, part
from perpbt.kernels.contracts import moved, on_tick
from perpbt.kernels.coupled.deleveraging import change
from perpbt.kernels.coupled.looping import CEILING, FACTOR, FLOOR, GUARD
from perpbt.kernels.epochs import epoch_at, rates_in, renewed
from perpbt.kernels.levels import level
from perpbt.kernels.margin import Position, make_position
from perpbt.kernels.noting import Trace, bare_trace, hold_trace, room_for_trace
from perpbt.kernels.opening import open_position, series_value
from perpbt.kernels.tables import (
    ACCEPTED,
    CLOSE,
    FUNDING,
    HIGH,
    LIQUIDATION,
    LOW,
    MARK_HIGH,
    MARK_LOW,
    NONE,
    OPEN,
    RANGE,
    TIME,
    Codes,
    Floats,
    Integers,
    Lane,
    Market,
    Plan,
    Rates,
    Row,
    Signals,
    Table,
)
from perpbt.kernels.tiles import AHEAD, keep, path_of, position_of
from perpbt.kernels.walking import at_open, in_range
from perpbt.kernels.watching import Path, start, watch_for

WINDOW = 32  # bars
NOWHERE = 1 << 62  # of `until`: still open
# entries of `state`: where all stand, and how many there are of what
BAR, PHASE, ENTERED, DUE, COUNT, CANDIDATES, SCREENED, LEFT, FIRST = range(9)
STATE = 9
# rows of what is left of a window from each of its bars on
LOWEST, HIGHEST, ADVERSE_LOW, ADVERSE_HIGH, LEAST_PAID, MOST_PAID = range(6)
REST = 6
# what `advance` returns when it is over, and when a row has ended at another moment than was found
DONE, WRONG = -1, -2


@part
def position_in(
    market: Market, rates: Rates, plan: Plan, signals: Signals, lane: Lane, one: Plan, row: Row, side: float
) -> Position:
    """A position as it stands under these rates: as it was kept, or, if it never was, as its row says it was opened."""
    if one["state"] != AHEAD:
        return renewed(market, rates, position_of(one))
    entry, before, terms, trail = row["entry"], lane["bar"] - 1, rates.terms, plan["trail"]
    stop = level(
        terms, plan["stop_kind"], plan["stop_value"], -side, entry, plan["leverage"],
        series_value(plan["stop_kind"], plan["stop_series"], signals, before),
    )  # fmt: skip
    target = level(
        terms, plan["target_kind"], plan["target_value"], side, entry, plan["leverage"],
        series_value(plan["target_kind"], plan["target_series"], signals, before),
    )  # fmt: skip
    return make_position(
        rates, side, row["quantity"], entry, row["margin"], row["entry_funding"], market.highest_mark,
        -np.inf if plan["stop_kind"] == NONE else side * on_tick(terms, side, stop),
        np.inf if plan["target_kind"] == NONE else side * on_tick(terms, side, target),
        0.0 if np.isnan(trail) else moved(terms, 1.0, -(side * trail)),
    )  # fmt: skip


@part
def write_levels(position: Position, extreme: float, levels: Floats, j: int) -> None:
    """The levels of member j."""
    stop, target = position.stop, position.target
    if position.trail != 0.0:
        stop, target = max(stop, extreme * position.trail), min(target, extreme)
    if position.side > 0.0:
        levels[j, FLOOR], levels[j, CEILING] = stop, target
    else:
        levels[j, FLOOR], levels[j, CEILING] = -target, -stop
    levels[j, FACTOR], levels[j, GUARD] = position.guard_factor, position.guard_level


@aside
def renew_levels(
    market: Market, rates: Rates, plan: Plan, signals: Signals, lane: Lane, one: Plan, row: Row, side: float, extreme: float, levels: Floats,
    j: int,
) -> None:  # fmt: skip
    """The levels of member j under these rates."""
    write_levels(position_in(market, rates, plan, signals, lane, one, row, side), extreme, levels, j)


@part
def crosses(
    levels: Floats, j: int, lowest: float, highest: float, adverse: float, paid: float, side: float
) -> bool:
    """Whether member j has a level crossed at such prices."""
    return (
        lowest <= levels[j, FLOOR]
        or highest >= levels[j, CEILING]
        or side * ((adverse * levels[j, FACTOR]) - paid) <= levels[j, GUARD]
    )


@part
def crosses_in(market: Market, levels: Floats, j: int, side: float, bar: int) -> bool:
    """Whether member j has a level crossed in a bar."""
    series = market.series
    adverse = series[MARK_LOW, bar] if side > 0.0 else series[MARK_HIGH, bar]
    return crosses(
        levels, j, min(series[LOW, bar], series[MARK_LOW, bar]), max(series[HIGH, bar], series[MARK_HIGH, bar]), adverse,
        series[FUNDING, bar], side,
    )  # fmt: skip


@part
def look_over(market: Market, first: int, last: int, rest: Floats) -> None:
    """Write to `rest` the extremes of the bars from each of [first, last) on to `last`."""
    series = market.series
    lowest, highest, adverse_low, adverse_high = np.inf, -np.inf, np.inf, -np.inf
    least, most = np.inf, -np.inf
    for back in range(last - first):
        i = last - 1 - back
        lowest = min(lowest, min(series[LOW, i], series[MARK_LOW, i]))
        highest = max(highest, max(series[HIGH, i], series[MARK_HIGH, i]))
        adverse_low, adverse_high = (
            min(adverse_low, series[MARK_LOW, i]),
            max(adverse_high, series[MARK_HIGH, i]),
        )
        least, most = min(least, series[FUNDING, i]), max(most, series[FUNDING, i])
        rest[i - first, LOWEST], rest[i - first, HIGHEST] = lowest, highest
        rest[i - first, ADVERSE_LOW], rest[i - first, ADVERSE_HIGH] = adverse_low, adverse_high
        rest[i - first, LEAST_PAID], rest[i - first, MOST_PAID] = least, most


@part
def near(levels: Floats, side: Floats, j: int, rest: Floats, k: int) -> bool:
    """Whether member j may cross a level in what is left of a window from its bar k on."""
    if side[j] > 0.0:
        return crosses(
            levels, j, rest[k, LOWEST], rest[k, HIGHEST], rest[k, ADVERSE_LOW], rest[k, MOST_PAID], 1.0
        )
    return crosses(
        levels, j, rest[k, LOWEST], rest[k, HIGHEST], rest[k, ADVERSE_HIGH], rest[k, LEAST_PAID], -1.0
    )


@part
def screen(
    levels: Floats,
    side: Floats,
    open_: Integers,
    count: int,
    candidates: Integers,
    chosen: Codes,
    rest: Floats,
) -> int:
    """Write to `candidates` which of the open members may cross a level in a window; returns how many."""
    found = 0
    for k in range(count):
        j = open_[k]
        chosen[j] = 0
        if near(levels, side, j, rest, 0):
            chosen[j] = 1
            candidates[found] = j
            found += 1
    return found


@aside
def why(market: Market, rates: Rates, plan: Plan, one: Plan, extreme: float, bar: int, phase: int) -> int:
    """The reason to leave in this phase of a bar, -1 to stay."""
    position, path = renewed(market, rates, position_of(one)), path_of(one)
    path = Path(
        extreme, path.peak, path.drawdown, path.worst_ratio, path.released, path.added, path.wallet, path.calls, path.order, path.amount
    )  # fmt: skip
    watch = watch_for(position.side, plan["stop_on_mark"], plan["target_on_mark"], plan["trail_on_mark"])
    if phase != OPEN:
        reason, _ = in_range(market, rates, watch, position, path, bar)
        return reason
    reason = -1
    if one["entry_bar"] < bar:
        reason = at_open(market, rates, watch, position, path, bar)
        if reason == -1 and one["time_bar"] <= bar:
            reason = TIME
    return reason


@aside
def open_again(market: Market, rates: Rates, plan: Plan, signals: Signals, lane: Plan, kept: Plan) -> None:
    """The position of a lane as it is opened; its row is written already."""
    side, bar = float(lane["fixed_side"]), lane["bar"]
    opening = open_position(market, rates, plan, signals, side, bar, plan["capital"])
    path = start(
        market, rates, opening.position, bar, opening.collateral, plan["capital"] - opening.collateral
    )
    keep(kept, opening.position, path, term_of(market, plan, signals, side, bar, lane["exit_due"]), bar)


@part
def put_in(open_: Integers, slot: Integers, count: int, j: int) -> int:
    """Member j is open from now on; returns how many are."""
    open_[count], slot[j] = j, count
    return count + 1


@part
def take_out(open_: Integers, slot: Integers, count: int, j: int) -> int:
    """Member j is open no longer; returns how many are."""
    last = open_[count - 1]
    open_[slot[j]], slot[last] = last, slot[j]
    return count - 1


@part
def look_ahead(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, kept: Table, rows: Table, at: Integers, extreme: Floats,
    levels: Floats, side: Floats, open_: Integers, candidates: Integers, chosen: Codes, rest: Floats, state: Integers,
) -> None:  # fmt: skip
    """Meet the tiers of a new epoch, and find who may cross a level in the next window."""
    bar, count, epochs = state[BAR], state[COUNT], rates.since
    epoch = epoch_at(rates, bar)
    renewing = bar > 0 and epochs[epoch] == bar
    if renewing:
        now = rates_in(rates, epoch)
        for k in range(count):
            j = open_[k]
            renew_levels(
                market, now, plans[j], signals, lanes[j], kept[j], rows[at[j]], side[j], extreme[j], levels, j
            )  # fmt: skip
    if renewing or bar >= state[SCREENED]:
        until = min(bar + WINDOW, market.time.size)
        if epoch + 1 < epochs.size:
            until = min(until, epochs[epoch + 1])
        look_over(market, bar, until, rest)
        state[CANDIDATES] = screen(levels, side, open_, count, candidates, chosen, rest)
        state[SCREENED], state[FIRST] = until, bar


@part
def let_in(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, kept: Table, rows: Table, at: Integers, entering: Integers,
    entry_bars: Integers, moments: Integers, money: Floats, side: Floats, extreme: Floats, levels: Floats, open_: Integers, slot: Integers,
    candidates: Integers, chosen: Codes, rest: Floats, state: Integers,
) -> None:  # fmt: skip
    """Open whose bar has come."""
    bar, count, found = state[BAR], state[COUNT], state[CANDIDATES]
    while state[ENTERED] < entering.size and entry_bars[state[ENTERED]] <= bar:
        j = entering[state[ENTERED]]
        state[ENTERED] += 1
        row = rows[at[j]]
        if row["rejection"] != ACCEPTED:
            continue
        extreme[j] = side[j] * row["entry"]
        moments[0, j], moments[1, j] = 3 * bar + 1, NOWHERE
        money[0, j], money[1, j] = row["entry"], row["entry_funding"]
        money[2, j], money[3, j] = row["quantity"], row["margin"]
        position = position_in(market, rates, plans[j], signals, lanes[j], kept[j], row, side[j])
        write_levels(position, extreme[j], levels, j)
        count = put_in(open_, slot, count, j)
        chosen[j] = 0
        if near(levels, side, j, rest, bar - state[FIRST]):
            candidates[found], chosen[j] = j, 1
            found += 1
    state[COUNT], state[CANDIDATES] = count, found


@part
def call_due(
    dues: Integers, due_bars: Integers, moments: Integers, candidates: Integers, chosen: Codes, over: Codes, state: Integers
) -> None:  # fmt: skip
    """Look at whose time is up in this bar, whatever the prices are."""
    while state[DUE] < dues.size and due_bars[state[DUE]] <= state[BAR]:
        j = dues[state[DUE]]
        state[DUE] += 1
        if moments[1, j] != NOWHERE:
            continue
        over[j] = 1
        if chosen[j] == 0:
            candidates[state[CANDIDATES]], chosen[j] = j, 1
            state[CANDIDATES] += 1


@part
def ask(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, kept: Table, rows: Table, at: Integers, moments: Integers,
    side: Floats, extreme: Floats, levels: Floats, candidates: Integers, changed: Codes, over: Codes, leaving: Integers, state: Integers,
) -> int:  # fmt: skip
    """Ask all who may do something in this phase; writes to `leaving` who leaves and returns how many. After the close trailing stops move."""
    bar, phase, out = state[BAR], state[PHASE], 0
    now = rates_in(rates, epoch_at(rates, bar))
    for k in range(state[CANDIDATES]):
        j = candidates[k]
        if moments[1, j] != NOWHERE:
            continue
        asked = changed[j] != 0 or crosses_in(market, levels, j, side[j], bar)
        if asked and kept[j]["state"] == AHEAD:
            entry = rates_in(rates, epoch_at(rates, lanes[j]["bar"]))
            open_again(market, entry, plans[j], signals, lanes[j], kept[j])
        one, plan = kept[j], plans[j]
        if phase == CLOSE:
            if asked and one["trail"] != 0.0:
                watch = watch_for(
                    side[j], plan["stop_on_mark"], plan["target_on_mark"], plan["trail_on_mark"]
                )
                extreme[j] = max(extreme[j], side[j] * market.series[watch.best, bar])
                renew_levels(
                    market, now, plan, signals, lanes[j], one, rows[at[j]], side[j], extreme[j], levels, j
                )  # fmt: skip
            changed[j] = 0
        elif (asked and why(market, now, plan, one, extreme[j], bar, phase) >= 0) or (
            phase == OPEN and over[j] != 0
        ):  # who is due leaves at the open, at the latest because it is
            leaving[out] = j
            out += 1
    return out


@part
def let_go(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, kept: Table, rows: Table, at: Integers, moments: Integers,
    open_: Integers, slot: Integers, touched: Codes, left: Integers, leaving: Integers, out: int, calls: Table, trace: Trace,
    state: Integers, crowding: bool,
) -> int:  # fmt: skip
    """Close the first `out` of `leaving`; returns the moment if somebody then owes something, DONE if nobody does, or WRONG."""
    moment, pause = 3 * state[BAR] + state[PHASE], False
    for k in range(out):
        j = leaving[k]
        row = rows[at[j]]
        if touched[j] != 0:  # others' rows are what they are alone
            change(
                market, rates, plans[j], signals, lanes[j], kept[j], rows, at[j], calls[0], calls, trace, -1, OPEN, 0.0, 0.0, 0.0, 0.0,
                True,
            )  # fmt: skip
        if 3 * row["exit_bar"] + row["phase"] != moment:
            state[LEFT] = at[j]
            return WRONG
        moments[1, j] = moment
        state[COUNT] = take_out(open_, slot, state[COUNT], j)
        left[state[LEFT]] = j
        state[LEFT] += 1
        pause = pause or row["deficit"] > 0.0 or (crowding and row["reason"] == LIQUIDATION)
    return moment if pause else DONE


@part
def advance_each(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, kept: Table, rows: Table, at: Integers, entering: Integers,
    entry_bars: Integers, dues: Integers, due_bars: Integers, moments: Integers, money: Floats, side: Floats, extreme: Floats, levels: Floats,
    open_: Integers, slot: Integers, candidates: Integers, chosen: Codes, changed: Codes, touched: Codes, left: Integers, leaving: Integers,
    over: Codes, rest: Floats, calls: Table, trace: Trace, state: Integers, crowding: bool,
) -> int:  # fmt: skip
    """`advance`, with bare arrays."""
    bars = market.time.size
    while state[BAR] < bars:
        bar, phase = state[BAR], state[PHASE]
        now = rates_in(rates, epoch_at(rates, bar))
        if phase == OPEN:
            look_ahead(
                market, rates, plans, signals, lanes, kept, rows, at, extreme, levels, side, open_, candidates, chosen, rest, state
            )  # fmt: skip
            let_in(
                market, now, plans, signals, lanes, kept, rows, at, entering, entry_bars, moments, money, side, extreme, levels, open_, slot,
                candidates, chosen, rest, state,
            )  # fmt: skip
            call_due(dues, due_bars, moments, candidates, chosen, over, state)
        out = ask(
            market, rates, plans, signals, lanes, kept, rows, at, moments, side, extreme, levels, candidates, changed, over, leaving, state
        )  # fmt: skip
        if phase == CLOSE and bar == bars - 1:
            out = state[COUNT]
            leaving[:out] = open_[:out]
        found = let_go(
            market, rates, plans, signals, lanes, kept, rows, at, moments, open_, slot, touched, left, leaving, out, calls, trace,
            state, crowding,
        )  # fmt: skip
        if found == WRONG:
            return WRONG
        state[PHASE] = RANGE if phase == OPEN else CLOSE
        if phase == CLOSE:
            state[BAR], state[PHASE] = bar + 1, OPEN
        if found != DONE:
            return found
    return DONE


@kernel
def advance(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, kept: Table, rows: Table, at: Integers, entering: Integers,
    entry_bars: Integers, dues: Integers, due_bars: Integers, moments: Integers, money: Floats, side: Floats, extreme: Floats, levels: Floats,
    open_: Integers, slot: Integers, candidates: Integers, chosen: Codes, changed: Codes, touched: Codes, left: Integers, leaving: Integers,
    over: Codes, rest: Floats, calls: Table, state: Integers, crowding: bool,
) -> int:  # fmt: skip
    """Take all members from where `state` says on to the first phase of a bar after which somebody owes something, or, `crowding`, is
    liquidated; returns that moment (three times the bar plus the phase), DONE or WRONG.

    Member j is row at[j], by plans[j] and lanes[j]. `entering` are members by entry bar, `dues` those with a time exit by its bar. `moments` has
    two rows, since when a member may be met and when it has left; `money` four: entry, funding index, quantity, margin. `levels` has a
    row a member. `touched` are those who were changed: they are walked again from there, all others' rows are what they are alone. `over` are those whose time is up; `rest` has WINDOW rows. `left` lists who has left, in the order of time.
    """
    trace = room_for_trace(False)
    found = advance_each(
        bare_market(market), bare_rates(rates), bare(plans), Signals(bare(signals.marks), bare(signals.series)), bare(lanes), bare(kept),
        bare(rows), bare(at), bare(entering), bare(entry_bars), bare(dues), bare(due_bars), bare(moments), bare(money), bare(side),
        bare(extreme), bare(levels), bare(open_), bare(slot), bare(candidates), bare(chosen), bare(changed), bare(touched), bare(left), bare(leaving),
        bare(over), bare(rest), bare(calls), bare_trace(trace), bare(state), crowding,
    )  # fmt: skip
    hold_trace(trace)
    return found


@kernel
def among_open(
    open_: Integers, count: int, since: Integers, until: Integers, moment: int, found: Integers
) -> int:
    """Write to `found` who of the first `count` members in `open_` may be met at a moment, in no order; returns how many."""
    written = 0
    for k in range(count):
        j = open_[k]
        if since[j] <= moment < until[j]:
            found[written] = j
            written += 1
    return written


@kernel
def live_on(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, kept: Table, rows: Table, at: Integers, members: Integers,
    shares: Floats, extreme: Floats, levels: Floats, open_: Integers, slot: Integers, candidates: Integers, chosen: Codes, changed: Codes, touched: Codes, bar: int, phase: int, state: Integers,
) -> None:  # fmt: skip
    """After a change in a phase of a bar: who was closed as a whole is open no longer; all others are asked once more in it, and have
    the levels of what is left of them.
    """
    now = rates_in(rates, epoch_at(rates, bar))
    for k in range(members.size):
        j = members[k]
        if shares[k] == 1.0:
            state[COUNT] = take_out(open_, slot, state[COUNT], j)
            continue
        one, plan = kept[j], plans[j]
        changed[j], touched[j] = 1, 1
        if phase == RANGE and one["trail"] != 0.0:
            watch = watch_for(
                one["side"], plan["stop_on_mark"], plan["target_on_mark"], plan["trail_on_mark"]
            )
            extreme[j] = max(extreme[j], one["side"] * market.series[watch.best, bar])
        renew_levels(
            market, now, plan, signals, lanes[j], one, rows[at[j]], one["side"], extreme[j], levels, j
        )  # fmt: skip
        if chosen[j] == 0:
            candidates[state[CANDIDATES]], chosen[j] = j, 1
            state[CANDIDATES] += 1
