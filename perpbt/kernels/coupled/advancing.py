"""A world's positions in one symbol through all bars together, until somebody owes something.

Bars outside, positions inside. Whatever can end a position, or move its trailing stop, crosses a level of its own (`looping.py`). A window
of bars at a time all open positions are screened once, against the extremes of the whole window; in each of its bars only those that may
cross something in it, and who has entered since, are looked at. So a bar costs what happens in it.
"""

from __future__ import annotations

import numpy as np

from perpbt.kernels.accounts import bare_market, bare_rates, term_of
from perpbt.kernels.blocks import BLOCK, BLOCKS
from perpbt.kernels.compile import bare, hold, kernel, part
from perpbt.kernels.coupled.deleveraging import change
from perpbt.kernels.coupled.looping import CEILING, FACTOR, FLOOR, GUARD
from perpbt.kernels.epochs import epoch_at, rates_in, renewed
from perpbt.kernels.opening import open_position
from perpbt.kernels.tables import (
    ACCEPTED,
    CLOSE,
    FUNDING,
    HIGH,
    LIQUIDATION,
    LOW,
    MARK_HIGH,
    MARK_LOW,
    OPEN,
    RANGE,
    TIME,
    Codes,
    Floats,
    Integers,
    Market,
    Plan,
    Rates,
    Signals,
    Table,
)
from perpbt.kernels.tiles import keep, path_of, position_of
from perpbt.kernels.walking import at_open, in_range
from perpbt.kernels.watching import Path, start, watch_for

WINDOW = 32  # bars
NOWHERE = 1 << 62  # of `until`: still open
# entries of `state`: where all stand, and how many there are of what
BAR, PHASE, ENTERED, DUE, COUNT, CANDIDATES, SCREENED, LEFT = range(8)
STATE = 8
# what `advance` returns when it is over, and when a row has ended at another moment than was found
DONE, WRONG = -1, -2


@part
def write_levels(market: Market, rates: Rates, one: Plan, extreme: float, levels: Floats, j: int) -> None:
    """The levels of member j under the tiers in force."""
    position = renewed(market, rates, position_of(one))
    stop, target = position.stop, position.target
    if position.trail != 0.0:
        stop, target = max(stop, extreme * position.trail), min(target, extreme)
    if position.side > 0.0:
        levels[j, FLOOR], levels[j, CEILING] = stop, target
    else:
        levels[j, FLOOR], levels[j, CEILING] = -target, -stop
    levels[j, FACTOR], levels[j, GUARD] = position.guard_factor, position.guard_level


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
def screen(
    market: Market, levels: Floats, side: Floats, open_: Integers, count: int, candidates: Integers, chosen: Codes, first: int, last: int
) -> int:  # fmt: skip
    """Write to `candidates` which of the open members may cross a level in the bars [first, last); returns how many."""
    series = market.series
    lowest, highest, adverse_low, adverse_high = np.inf, -np.inf, np.inf, -np.inf
    least, most = np.inf, -np.inf
    for i in range(first, last):
        lowest = min(lowest, min(series[LOW, i], series[MARK_LOW, i]))
        highest = max(highest, max(series[HIGH, i], series[MARK_HIGH, i]))
        adverse_low, adverse_high = (
            min(adverse_low, series[MARK_LOW, i]),
            max(adverse_high, series[MARK_HIGH, i]),
        )
        least, most = min(least, series[FUNDING, i]), max(most, series[FUNDING, i])
    found = 0
    for k in range(count):
        j = open_[k]
        if side[j] > 0.0:
            near = crosses(levels, j, lowest, highest, adverse_low, most, 1.0)
        else:
            near = crosses(levels, j, lowest, highest, adverse_high, least, -1.0)
        chosen[j] = 1 if near else 0
        if near:
            candidates[found] = j
            found += 1
    return found


@part
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


@part
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
    market: Market, rates: Rates, kept: Table, extreme: Floats, levels: Floats, side: Floats, open_: Integers, candidates: Integers,
    chosen: Codes, state: Integers,
) -> None:  # fmt: skip
    """Meet the tiers of a new epoch, and find who may cross a level in the next window."""
    bar, count, epochs = state[BAR], state[COUNT], rates.since
    epoch = epoch_at(rates, bar)
    renewing = bar > 0 and epochs[epoch] == bar
    if renewing:
        now = rates_in(rates, epoch)
        for k in range(count):
            write_levels(market, now, kept[open_[k]], extreme[open_[k]], levels, open_[k])
    if renewing or bar >= state[SCREENED]:
        until = min(bar + WINDOW, market.time.size)
        if epoch + 1 < epochs.size:
            until = min(until, epochs[epoch + 1])
        state[CANDIDATES] = screen(market, levels, side, open_, count, candidates, chosen, bar, until)
        state[SCREENED] = until


@part
def let_in(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, kept: Table, rows: Table, at: Integers, entering: Integers,
    entry_bars: Integers, moments: Integers, money: Floats, extreme: Floats, levels: Floats, open_: Integers, slot: Integers,
    candidates: Integers, chosen: Codes, state: Integers,
) -> None:  # fmt: skip
    """Open whose bar has come."""
    bar, count, found = state[BAR], state[COUNT], state[CANDIDATES]
    while state[ENTERED] < entering.size and entry_bars[state[ENTERED]] <= bar:
        j = entering[state[ENTERED]]
        state[ENTERED] += 1
        row = rows[at[j]]
        if row["rejection"] != ACCEPTED:
            continue
        open_again(market, rates, plans[j], signals, lanes[j], kept[j])
        extreme[j] = kept[j]["extreme"]
        moments[0, j], moments[1, j] = 3 * bar + 1, NOWHERE
        money[0, j], money[1, j] = row["entry"], row["entry_funding"]
        money[2, j], money[3, j] = row["quantity"], row["margin"]
        write_levels(market, rates, kept[j], extreme[j], levels, j)
        count = put_in(open_, slot, count, j)
        candidates[found], chosen[j] = j, 1
        found += 1
    state[COUNT], state[CANDIDATES] = count, found


@part
def call_due(
    dues: Integers, due_bars: Integers, moments: Integers, candidates: Integers, chosen: Codes, state: Integers
) -> None:  # fmt: skip
    """Look at whose time is up in this bar, whatever the prices are."""
    while state[DUE] < dues.size and due_bars[state[DUE]] <= state[BAR]:
        j = dues[state[DUE]]
        state[DUE] += 1
        if moments[1, j] == NOWHERE and chosen[j] == 0:
            candidates[state[CANDIDATES]], chosen[j] = j, 1
            state[CANDIDATES] += 1


@part
def ask(
    market: Market, rates: Rates, plans: Table, kept: Table, moments: Integers, side: Floats, extreme: Floats, levels: Floats,
    candidates: Integers, changed: Codes, leaving: Integers, state: Integers,
) -> int:  # fmt: skip
    """Ask all who may do something in this phase; writes to `leaving` who leaves and returns how many. After the close trailing stops move."""
    bar, phase, out = state[BAR], state[PHASE], 0
    for k in range(state[CANDIDATES]):
        j = candidates[k]
        if moments[1, j] != NOWHERE:
            continue
        one, plan = kept[j], plans[j]
        asked = one["entry_bar"] == bar or changed[j] != 0 or crosses_in(market, levels, j, side[j], bar)
        if phase == CLOSE:
            if asked and one["trail"] != 0.0:
                watch = watch_for(
                    side[j], plan["stop_on_mark"], plan["target_on_mark"], plan["trail_on_mark"]
                )
                extreme[j] = max(extreme[j], side[j] * market.series[watch.best, bar])
                write_levels(market, rates, one, extreme[j], levels, j)
            changed[j] = 0
        else:
            asked = asked or (phase == OPEN and one["time_bar"] <= bar)
            if asked and why(market, rates, plan, one, extreme[j], bar, phase) >= 0:
                leaving[out] = j
                out += 1
    return out


@part
def let_go(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, kept: Table, rows: Table, at: Integers, moments: Integers,
    open_: Integers, slot: Integers, touched: Codes, left: Integers, leaving: Integers, out: int, calls: Table, trace: Table,
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
    calls: Table, trace: Table, state: Integers, crowding: bool,
) -> int:  # fmt: skip
    """`advance`, with bare arrays."""
    bars = market.time.size
    while state[BAR] < bars:
        bar, phase = state[BAR], state[PHASE]
        now = rates_in(rates, epoch_at(rates, bar))
        if phase == OPEN:
            look_ahead(market, rates, kept, extreme, levels, side, open_, candidates, chosen, state)
            let_in(
                market, now, plans, signals, lanes, kept, rows, at, entering, entry_bars, moments, money, extreme, levels, open_, slot,
                candidates, chosen, state,
            )  # fmt: skip
            call_due(dues, due_bars, moments, candidates, chosen, state)
        out = ask(
            market, now, plans, kept, moments, side, extreme, levels, candidates, changed, leaving, state
        )
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
    open_: Integers, slot: Integers, candidates: Integers, chosen: Codes, changed: Codes, touched: Codes, left: Integers, leaving: Integers, calls: Table,
    state: Integers, crowding: bool,
) -> int:  # fmt: skip
    """Take all members from where `state` says on to the first phase of a bar after which somebody owes something, or, `crowding`, is
    liquidated; returns that moment (three times the bar plus the phase), DONE or WRONG.

    Member j is row at[j], by plans[j] and lanes[j]. `entering` are members by entry bar, `dues` those with a time exit by its bar. `moments` has
    two rows, since when a member may be met and when it has left; `money` four: entry, funding index, quantity, margin. `levels` has a
    row a member. `touched` are those who were changed: they are walked again from there, all others' rows are what they are alone. `left` lists who has left, in the order of time.
    """
    held = np.empty(BLOCKS, dtype=BLOCK)
    found = advance_each(
        bare_market(market), bare_rates(rates), bare(plans), Signals(bare(signals.marks), bare(signals.series)), bare(lanes), bare(kept),
        bare(rows), bare(at), bare(entering), bare(entry_bars), bare(dues), bare(due_bars), bare(moments), bare(money), bare(side),
        bare(extreme), bare(levels), bare(open_), bare(slot), bare(candidates), bare(chosen), bare(changed), bare(touched), bare(left), bare(leaving),
        bare(calls), bare(held), bare(state), crowding,
    )  # fmt: skip
    hold(held)
    return found


@kernel
def winners_among(
    open_: Integers, count: int, since: Integers, until: Integers, side: Floats, entry: Floats, moment: int, wanted: float,
    price: float, found: Integers,
) -> int:  # fmt: skip
    """As `deleveraging.find_winners`, of the first `count` members in `open_` only, in no order."""
    written = 0
    for k in range(count):
        j = open_[k]
        if since[j] <= moment < until[j] and (
            wanted == 0.0 or (side[j] == wanted and wanted * (price - entry[j]) > 0.0)
        ):
            found[written] = j
            written += 1
    return written


@kernel
def take_all_out(open_: Integers, slot: Integers, count: int, members: Integers) -> int:
    """These members are open no longer; returns how many are."""
    for k in range(members.size):
        count = take_out(open_, slot, count, members[k])
    return count


@kernel
def renew_levels(
    market: Market, rates: Rates, kept: Table, members: Integers, extreme: Floats, bar: int, levels: Floats
) -> None:
    """Write the levels of some members, changed in a bar, to their rows of `levels`."""
    now = rates_in(rates, epoch_at(rates, bar))
    for k in range(members.size):
        write_levels(market, now, kept[members[k]], extreme[members[k]], levels, members[k])
