"""The plain coupled loop: bars outside, open positions inside, four numbers each.

Whatever can end a position, or move its trailing stop, crosses a level of its own: a floor, a ceiling, or the guard of its maintenance
lines. Bars in which none is crossed are passed over, blocks of positions at a time so that these stay in the processor's cache; in
others the positions touched are asked what they do. Levels lie a little on the safe side: they say whom to ask, not what happens.
"""

from __future__ import annotations

import numpy as np

from perpbt.kernels.accounts import bare_market, bare_rates
from perpbt.kernels.compile import bare, kernel, part
from perpbt.kernels.epochs import epoch_at, rates_in, renewed
from perpbt.kernels.tables import (
    ACCEPTED,
    OPEN,
    SIGNAL,
    TIME,
    Codes,
    Floats,
    Integers,
    Market,
    Rates,
    Signals,
    Table,
)
from perpbt.kernels.tiles import begin, path_of, position_of
from perpbt.kernels.walking import at_open, in_range
from perpbt.kernels.watching import Path, watch_for

# rows of levels, an open position a column
FLOOR, CEILING, FACTOR, GUARD = range(4)
LEVELS = 4
# rows of what a side sees of a bar
LOWEST, HIGHEST, ADVERSE, PAID = range(4)
SEEN = 4
POSITIONS = 256


@part
def crossed(
    levels: Floats,
    first: int,
    size: int,
    lowest: float,
    highest: float,
    adverse: float,
    paid: float,
    side: float,
) -> int:
    """How many positions of a block have a level crossed in a bar."""
    count, base = 0, np.uint64(first)
    floor, ceiling, factor, guard = np.uint64(FLOOR), np.uint64(CEILING), np.uint64(FACTOR), np.uint64(GUARD)
    for j in range(np.uint64(size)):
        k = base + j
        count += (
            (lowest <= levels[floor, k])
            | (highest >= levels[ceiling, k])
            | (side * ((adverse * levels[factor, k]) - paid) <= levels[guard, k])
        )
    return count


@kernel
def next_crossed(levels: Floats, count: int, seen: Floats, side: float, i: int, until: int) -> int:
    """The first bar in [i, until) in which any of the first `count` positions has a level crossed; `until` if there is none."""
    levels, seen = bare(levels), bare(seen)
    for first in range(0, count, POSITIONS):
        size = min(POSITIONS, count - first)
        bar = i
        while bar < until:
            if (
                crossed(
                    levels,
                    first,
                    size,
                    seen[LOWEST, bar],
                    seen[HIGHEST, bar],
                    seen[ADVERSE, bar],
                    seen[PAID, bar],
                    side,
                )
                > 0
            ):
                until = bar
            bar += 1
    return until


@kernel
def all_crossed(
    levels: Floats,
    count: int,
    lowest: float,
    highest: float,
    adverse: float,
    paid: float,
    side: float,
    found: Integers,
) -> int:
    """Write to `found` which of the first `count` positions have a level crossed at these prices; returns how many."""
    written = 0
    for first in range(0, count, POSITIONS):
        size = min(POSITIONS, count - first)
        if crossed(levels, first, size, lowest, highest, adverse, paid, side) == 0:
            continue
        for k in range(first, first + size):
            if (
                lowest <= levels[FLOOR, k]
                or highest >= levels[CEILING, k]
                or side * ((adverse * levels[FACTOR, k]) - paid) <= levels[GUARD, k]
            ):
                found[written] = k
                written += 1
    return written


@part
def open_each(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, kept: Table, rows: Table, at: Integers,
    members: Integers, extreme: Floats,
) -> None:  # fmt: skip
    """`open_positions`, with bare arrays."""
    for k in range(members.size):
        j = members[k]
        row = rows[at[j]]
        begin(market, rates, plans[j], signals, lanes[j], kept[j], rows, row["lane"], at[j])
        if row["rejection"] == ACCEPTED:
            extreme[j] = kept[j]["extreme"]


@kernel
def open_positions(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, kept: Table, rows: Table, at: Integers,
    members: Integers, extreme: Floats,
) -> None:  # fmt: skip
    """Open the positions of some members at the prices of their bar, or refuse them; member j is row at[j]."""
    open_each(
        bare_market(market), bare_rates(rates), bare(plans), Signals(bare(signals.marks), bare(signals.series)),
        bare(lanes), bare(kept), bare(rows), bare(at), bare(members), bare(extreme),
    )  # fmt: skip


@kernel
def decide(
    market: Market, rates: Rates, plans: Table, kept: Table, members: Integers, extreme: Floats, bar: int, phase: int,
    reasons: Codes,
) -> None:  # fmt: skip
    """Write to `reasons` why members[k] leaves in this phase of the bar, -1 if it stays; in the range who was liquidated at the marks of
    the bar, whatever it meets first, is not told apart.
    """
    now = rates_in(rates, epoch_at(rates, bar))
    for k in range(members.size):
        one, plan = kept[members[k]], plans[members[k]]
        position = renewed(market, now, position_of(one))
        path = path_of(one)
        path = Path(
            extreme[members[k]], path.peak, path.drawdown, path.worst_ratio, path.released, path.added, path.wallet,
            path.calls, path.order, path.amount,
        )  # fmt: skip
        watch = watch_for(position.side, plan["stop_on_mark"], plan["target_on_mark"], plan["trail_on_mark"])
        reason = -1
        if phase != OPEN:
            reason, _ = in_range(market, now, watch, position, path, bar)
        elif one["entry_bar"] < bar:
            reason = at_open(market, now, watch, position, path, bar)
            if reason == -1 and min(one["time_bar"], one["signal_bar"]) <= bar:
                reason = TIME if one["time_bar"] <= one["signal_bar"] else SIGNAL
        reasons[k] = reason


@kernel
def stretch(market: Market, plans: Table, kept: Table, members: Integers, bar: int, extreme: Floats) -> None:
    """The best prices that trailing stops of some members have seen, this bar included."""
    for k in range(members.size):
        j = members[k]
        if kept[j]["trail"] != 0.0:
            side, plan = kept[j]["side"], plans[j]
            watch = watch_for(side, plan["stop_on_mark"], plan["target_on_mark"], plan["trail_on_mark"])
            extreme[j] = max(extreme[j], side * market.series[watch.best, bar])


@kernel
def levels_of(
    market: Market, rates: Rates, kept: Table, members: Integers, extreme: Floats, bar: int, levels: Floats
) -> None:
    """Write the levels of some members from bar `bar` on to the columns of `levels`."""
    now = rates_in(rates, epoch_at(rates, bar))
    for k in range(members.size):
        j = members[k]
        one = kept[j]
        position = renewed(market, now, position_of(one))
        stop, target = position.stop, position.target
        if position.trail != 0.0:
            stop, target = max(stop, extreme[j] * position.trail), min(target, extreme[j])
        if position.side > 0.0:
            levels[FLOOR, k], levels[CEILING, k] = stop, target
        else:
            levels[FLOOR, k], levels[CEILING, k] = -target, -stop
        levels[FACTOR, k], levels[GUARD, k] = position.guard_factor, position.guard_level
