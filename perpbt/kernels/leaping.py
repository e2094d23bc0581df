"""Passing over quiet bars by leaps: what `quiet` finds by looking at every bar, from the extremes of blocks.

Two questions, each answered exactly. Which is the next bar in which something could happen? A block out of reach of every threshold
is skipped whole; the eight blocks of a group are asked at a time, so that a walk up and down the levels is a few questions each way.
And what did the bars passed over do to the path? Their blocks are noted on the way, and `recalling` answers from that.
"""

from __future__ import annotations

import numpy as np

from .ahead import fetch
from .blocks import Group, Sides, group_at, held, lanes_of, node_at, note, sides_of, thin_lanes
from .compile import aside, part
from .eights import WIDTH, at_most, lowest_lane, minus, spread, times
from .margin import Position, requirement
from .noting import Trace
from .pyramid import COLUMNS, SHIFT, widest
from .recalling import passed_over
from .tables import FUNDING, LAST_OPEN, MARK_CLOSE, MARK_HIGH, MARK_OPEN, NO_CALL, Market, Rates, Table
from .watching import Care, Path, Watch


@part
def in_reach(market: Market, watch: Watch, position: Position, x: Group, level: int, i: int) -> int:
    """The lanes of a group in which a threshold could be crossed that does not move."""
    side = spread(position.side)
    nearest = minus(times(x.adverse, spread(position.guard_factor)), x.unkind)
    stop, target = (
        lanes_of(market, watch.stop, watch.stop, level, i),
        lanes_of(market, watch.target, watch.target, level, i),
    )
    return int(
        at_most(times(side, nearest), spread(position.guard_level))
        | at_most(times(side, stop), spread(position.stop))
        | at_most(spread(position.target), times(side, target))
    )


@aside
def in_reach_of_moving(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, sides: Sides,
    level: int, i: int, first: int, last: int, extreme: float,
) -> tuple[int, float]:  # fmt: skip
    """The first block in lanes [first, last) of a group in which a trailing stop could be crossed or a margin call be made, or `last`;
    and side * the best price before it.
    """
    side, own, start = position.side, sides.base - path.released, i & -(WIDTH << (SHIFT * level))
    watched = care.action != NO_CALL and path.calls < care.limit
    for lane in range(first, last):
        at = start + (lane << (SHIFT * level))
        if level > 0:
            node = node_at(market, level, at)
            dearest, down = held(market, node, MARK_HIGH), held(market, node, sides.down)
            trail, best = held(market, node, watch.trail), held(market, node, watch.best)
        else:
            series, bar = market.series, np.uint64(at)
            dearest, down = series[MARK_CLOSE, bar], series[MARK_CLOSE, bar] - series[FUNDING, bar]
            trail, best = series[np.uint64(watch.trail), bar], series[np.uint64(watch.best), bar]
        if watched:
            left = own + sides.signed * down - sides.room
            if not requirement(rates, position, dearest) < care.threshold * left:
                return lane, extreme
        if position.trail != 0.0:
            if side * trail <= max(extreme, side * best) * position.trail:
                return lane, extreme
            extreme = max(extreme, side * best)
    return last, extreme


@part
def expect_blocks(market: Market, watch: Watch, sides: Sides, level: int, i: int) -> None:
    """A group is going to be asked for: its place is known before what is found in the one above is written down."""
    if level == 0:
        for row in (watch.adverse, FUNDING, MARK_CLOSE, watch.stop, watch.target):
            fetch(market.series, row * market.time.size + i)
    else:
        start = (node_at(market, level, i) >> SHIFT) * COLUMNS
        for column in (
            watch.adverse,
            sides.kind,
            sides.unkind,
            sides.down,
            sides.up,
            sides.thin,
            sides.fall,
            watch.stop,
            watch.target,
        ):
            fetch(market.pyramid.nodes, (start + column) * WIDTH)


@part
def next_busy(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, sides: Sides,
    i: int, until: int, trace: Table,
) -> tuple[int, int, float]:  # fmt: skip
    """The first bar in [i, until) in whose range a threshold could be crossed, or at whose close a margin call be made; or before it
    the bar at which `trace` is full.

    Blocks passed on the way go to `trace`. Also the number of their groups, and side * the best price for a trailing stop.
    """
    own, levels = sides.base - path.released, market.pyramid.levels
    moving = position.trail != 0.0 or (care.action != NO_CALL and path.calls < care.limit)
    extreme, highest, passed = path.extreme, path.peak, 0
    level = widest(i, until, levels)
    while i < until and passed < trace.size:
        shift = SHIFT * level
        node = i >> shift
        first = node & (WIDTH - 1)
        last = min(WIDTH, (until >> shift) - node + first)
        if last <= first:  # the block ends beyond
            level -= 1
            continue
        x = group_at(market, watch, sides, level, i)
        met = in_reach(market, watch, position, x, level, i) >> first
        end = min(first + lowest_lane(met | 1 << WIDTH), last)
        if end < last and 1 <= level <= 2:
            expect_blocks(market, watch, sides, level - 1, (node - first + end) << shift)
        if moving:
            end, extreme = in_reach_of_moving(
                market, rates, watch, care, position, path, sides, level, i, first, end, extreme
            )
        if end > first:
            need, left = thin_lanes(market, rates, watch, position, sides, own, x, level, i)
            trace[np.uint64(passed)]["at"] = (node - first) << shift
            trace[np.uint64(passed)]["level"] = level
            highest = note(trace, passed, sides, position, x, need, left, (1 << end) - (1 << first), highest)
            passed += 1
        i = (node - first + end) << shift
        if end < last and level == 0:
            break
        if end < WIDTH:
            level = max(level - 1, 0)
        while end == WIDTH and level < levels and i & ((1 << (shift + SHIFT)) - 1) == 0:
            level, shift = level + 1, shift + SHIFT
    return i, passed, extreme


@part
def leap(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, i: int, until: int,
    trace: Trace,
) -> tuple[int, Path]:  # fmt: skip
    """Pass over quiet bars from `i`; the next bar to look at, and the path up to it."""
    sides = sides_of(market, rates, watch, position, path.released)
    busy, passed, extreme = next_busy(
        market, rates, watch, care, position, path, sides, i, until, trace.blocks
    )
    if busy < until:  # read there if something does happen
        for row in (LAST_OPEN, MARK_OPEN, watch.favourable):
            fetch(market.series, row * market.time.size + busy)
    if passed > 0:
        path = passed_over(market, rates, watch, position, path, sides, i, busy, trace, passed, extreme)
    return busy, path
