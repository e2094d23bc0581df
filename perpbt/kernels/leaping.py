"""Passing over quiet bars by leaps: what `quiet` finds by looking at every bar, from the extremes of blocks.

Two questions, each answered exactly. Which is the next bar in which something could happen? A block out of reach of every threshold
is skipped whole. And what did the bars passed over do to the path: the highest equity, the deepest drawdown, the worst margin ratio?
While blocks are passed, values that some bar attains bound the answer from below; a second pass evaluates, bar by bar and rounded as
everywhere, the few blocks that could hold it. Tolerances only widen what is looked at, never what is decided.

Equity is, but for rounding, base + signed * worth with worth = mark close - CF, whose extremes and largest moves the nodes hold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compile import part
from .margin import Position, band_rate, equity, growing, requirement
from .pyramid import (
    FALL,
    FUNDING_HIGH,
    FUNDING_LOW,
    RISE,
    SHIFT,
    THIN_HIGH,
    THIN_LOW,
    WORTH_HIGH,
    WORTH_LOW,
    widest,
)
from .tables import DEDUCTION, FUNDING, MARK_CLOSE, MARK_HIGH, NO_CALL, RATE, Market, Rates, Table
from .watching import Care, Path, Watch, marked, seen, seen_on

SLACK = 1e-9
STEEP = (
    1e-6  # a ratio whose share of change is less than this share of the price's is a tie, but for rounding
)
BLOCKS = 512  # room for those one leap passes over; twice 7 a level, more where a block could matter and none of its bars does
# A block passed over: where it starts, its level, and what its bars can have been, give or take Sides.room.
BLOCK = np.dtype(
    [
        ("at", np.int64),
        ("level", np.int64),
        ("up", np.float64),  # equity at its best and worst
        ("down", np.float64),
        ("fall", np.float64),  # the deepest fall inside it, in money
        ("needed", np.float64),  # needed / left: the worst margin ratio
        ("left", np.float64),
    ]
)


class Sides(NamedTuple):
    """Columns of Pyramid.nodes by the side of a position, and what turns worth into equity."""

    kind: int  # CF a position gains by
    unkind: int
    up: int  # the better worth
    down: int
    thin: int  # the worst mark less CF
    fall: int  # the largest move of worth against the position
    far: int  # the extreme of the mark at which the margin ratio may be worst besides the adverse one
    base: float  # equity with cash released = base + signed * worth, give or take `room`
    signed: float
    room: float


class Extremes(NamedTuple):
    """Of a block."""

    adverse: float  # of the mark
    far: float
    kind: float
    unkind: float
    down: float
    up: float
    thin: float
    fall: float


class Bounds(NamedTuple):
    """What the bars so far have attained at least."""

    peak: float
    drawdown: float
    worst: float


class Top(NamedTuple):
    """The block with the highest equity so far, and the next highest; level -1 for the path before the blocks."""

    up: float
    second: float
    at: int
    level: int


@part
def ratio_falls_with_price(rates: Rates, position: Position, market: Market) -> bool:
    """Does every better mark mean a better margin ratio, also as rounded? Not for a long with as much margin as notional, or more.

    For a short always. For a long with line r, c: the ratio's slope has the sign of c - r (notional at entry - margin + funding).
    """
    if position.side < 0.0:
        return True
    paid = position.quantity * (market.lowest_funding - position.funding)
    notional = position.quantity * position.entry
    spare = (notional - position.margin + paid) - STEEP * notional
    if rates.entry_maintenance:
        return position.extra * spare > -position.kept
    if rates.whole or growing(rates):  # it leaps where a band ends, or bends
        return False
    for k in range(position.tiers):
        needed = (rates.tiers[k, RATE] + position.extra) * spare
        if not needed > rates.tiers[k, DEDUCTION] * (1.0 + SLACK):
            return False
    return True


@part
def sides_of(market: Market, rates: Rates, watch: Watch, position: Position, released: float) -> Sides:
    """By the side of the position.

    The ratio of a maintenance line to equity, at one CF, rises or falls all the way with the price: over a block it is worst at one
    end. Where no line rises, that is the adverse end.
    """
    signed = position.side * position.quantity
    base = (position.margin + released) - signed * (position.entry - position.funding)
    room = SLACK * (4.0 * position.quantity * market.greatest + position.margin + released)
    if position.side < 0.0:
        return Sides(
            FUNDING_HIGH,
            FUNDING_LOW,
            WORTH_LOW,
            WORTH_HIGH,
            THIN_HIGH,
            RISE,
            watch.adverse,
            base,
            signed,
            room,
        )
    far = watch.adverse if ratio_falls_with_price(rates, position, market) else MARK_HIGH
    return Sides(FUNDING_LOW, FUNDING_HIGH, WORTH_HIGH, WORTH_LOW, THIN_LOW, FALL, far, base, signed, room)


@part
def node_at(market: Market, level: int, i: int) -> np.uint64:
    """The node of a level at bar `i`. Unsigned, as are columns: where an index can be negative, each look takes longer."""
    return np.uint64(market.pyramid.starts[np.uint64(level - 1)] + (i >> (SHIFT * level)))


@part
def extremes_at(market: Market, watch: Watch, sides: Sides, level: int, i: int) -> Extremes:
    """Of the block of this level that starts at bar `i`."""
    if level == 0:
        series, bar = market.series, np.uint64(i)
        adverse, funding = series[np.uint64(watch.adverse), bar], series[FUNDING, bar]
        worth = series[MARK_CLOSE, bar] - funding
        return Extremes(adverse, adverse, funding, funding, worth, worth, adverse - funding, 0.0)
    nodes, node = market.pyramid.nodes, node_at(market, level, i)
    return Extremes(
        nodes[node, np.uint64(watch.adverse)], nodes[node, np.uint64(sides.far)],
        nodes[node, np.uint64(sides.kind)], nodes[node, np.uint64(sides.unkind)],
        nodes[node, np.uint64(sides.down)], nodes[node, np.uint64(sides.up)],
        nodes[node, np.uint64(sides.thin)], nodes[node, np.uint64(sides.fall)],
    )  # fmt: skip


@part
def thinnest(
    rates: Rates, position: Position, sides: Sides, own: float, x: Extremes, thin: float
) -> tuple[float, float]:
    """Two numbers whose ratio no bar's margin ratio exceeds, but for rounding, if no bar's worst mark less CF is worse than `thin`. `own`
    is sides.base without cash released.

    Where the ratio falls with a better mark, it is that of `thin` with the highest CF, for the higher CF, the higher the mark.
    """
    if x.far == x.adverse:
        mark = (thin + max(x.kind, x.unkind)) * (1.0 + SLACK)
        if position.side < 0.0:
            mark = min(mark, x.adverse)
        return requirement(rates, position, mark), (own + sides.signed * thin) - sides.room
    needed, left = requirement(rates, position, x.adverse), equity(position, x.adverse, x.unkind)
    if rates.whole and position.tiers > 0:  # by the rate of the highest band on the way
        needed = (band_rate(rates, position.quantity * x.far) + position.extra) * (
            position.quantity * x.adverse
        )
    other, rest = requirement(rates, position, x.far), equity(position, x.far, x.unkind)
    if other * left > needed * rest or rest <= 0.0:
        return other, rest
    return needed, left


@part
def next_busy(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, sides: Sides,
    i: int, until: int, trace: Table,
) -> tuple[int, int, float, Bounds]:  # fmt: skip
    """The first bar in [i, until) in whose range a threshold could be crossed, or at whose close a margin call be made; or before it
    the bar at which `trace` is full.

    Blocks passed on the way go to `trace`. Also their number, side * the best price for a trailing stop, and what these bars attain
    at least.
    """
    side, own = position.side, sides.base - path.released
    series, nodes, levels = market.series, market.pyramid.nodes, market.pyramid.levels
    stop_at, target_at = np.uint64(watch.stop), np.uint64(watch.target)
    trail_at, best_at = np.uint64(watch.trail), np.uint64(watch.best)
    watched = care.action != NO_CALL and path.calls < care.limit
    trails, extreme = position.trail != 0.0, path.extreme
    # the deepest fall and the worst ratio as fractions: to choose between two takes no branch, and dividing can wait
    peak, fallen, of_peak, thin, of_left = path.peak, path.drawdown, 1.0, path.worst_ratio, 1.0
    trail, best, passed = 0.0, 0.0, 0
    level = widest(i, until, levels)
    size = 1 << (SHIFT * level)
    while i < until and passed < trace.size:
        while i + size > until:
            level, size = level - 1, size >> SHIFT
        x = extremes_at(market, watch, sides, level, i)
        if level > 0:
            node = node_at(market, level, i)
            stop, target, dearest = nodes[node, stop_at], nodes[node, target_at], nodes[node, MARK_HIGH]
            if trails:
                trail, best = nodes[node, trail_at], nodes[node, best_at]
        else:
            bar = np.uint64(i)
            stop, target, dearest = series[stop_at, bar], series[target_at, bar], series[MARK_CLOSE, bar]
            if trails:
                trail, best = series[trail_at, bar], series[best_at, bar]
        busy = (
            (side * ((x.adverse * position.guard_factor) - x.unkind) <= position.guard_level)
            | (side * stop <= position.stop)
            | (side * target >= position.target)
        )
        if trails and not busy:
            busy = side * trail <= max(extreme, side * best) * position.trail
        if watched and not busy:
            left = own + sides.signed * x.down - sides.room
            busy = not requirement(rates, position, dearest) < care.threshold * left
        if busy:
            if level == 0:
                break
            level, size = level - 1, size >> SHIFT
            continue
        if trails:
            extreme = max(extreme, side * best)
        block = trace[np.uint64(passed)]
        passed += 1
        up, down = sides.base + sides.signed * x.up, sides.base + sides.signed * x.down
        fall = position.quantity * x.fall
        block["at"], block["level"] = i, level
        block["up"], block["down"], block["fall"] = up, down, fall
        needed, left = thinnest(rates, position, sides, own, x, x.thin)
        block["needed"], block["left"] = needed, left
        since, inside = (peak - down) - sides.room, fall - sides.room
        if since * of_peak > fallen * peak:
            fallen, of_peak = since, peak
        if inside * of_peak > fallen * (up + sides.room):
            fallen, of_peak = inside, up + sides.room
        peak = max(peak, up - sides.room)
        if needed * of_left > thin * left:
            # at the bar of the worst mark less CF, whose mark is no lower than with the lowest CF
            needed = requirement(rates, position, (x.thin + min(x.kind, x.unkind)) * (1.0 - SLACK))
            left = (own + sides.signed * x.thin) + sides.room
            if needed * of_left > thin * left:
                thin, of_left = needed, left
        i += size
        while level < levels and i & ((size << SHIFT) - 1) == 0:
            level, size = level + 1, size << SHIFT
    return i, passed, extreme, Bounds(peak, fallen / of_peak, thin / of_left)


@part
def highest_value(
    market: Market, position: Position, released: float, sides: Sides, i: int, until: int, known: float,
    attained: float,
) -> float:  # fmt: skip
    """The greatest value of the equity path at the closes of [i, until), exactly as marked bar by bar; at least `known`.

    `attained` is a bound from below: some bar of the range, or `known`, is at least that.
    """
    series, nodes = market.series, market.pyramid.nodes
    starts, levels = market.pyramid.starts, market.pyramid.levels
    highest = known
    while i < until:
        level = widest(i, until, levels)
        while level > 0:
            up = nodes[starts[level - 1] + (i >> (SHIFT * level)), sides.up]
            if (sides.base + sides.signed * up) + sides.room < max(highest, attained):
                break
            level -= 1
        if level == 0:
            highest = max(highest, equity(position, series[MARK_CLOSE, i], series[FUNDING, i]) + released)
        i += 1 << (SHIFT * level)
    return highest


@part
def higher(top: Top, up: float, at: int, level: int) -> Top:
    """The top, one more block included."""
    if up > top.up:
        return Top(up, top.up, at, level)
    return Top(top.up, max(top.second, up), top.at, top.level)


@part
def top_in(market: Market, column: int, beyond: float, level: int, at: int) -> tuple[int, float]:
    """Of the block of `level` at bar `at`, the first bar with the extreme that stands in `column` of its node, and the next to it at bars
    unlike that one; `beyond` all where there is none.
    """
    if level == 0:
        return at, beyond
    tops, node = market.pyramid.tops, market.pyramid.starts[level - 1] + (at >> (SHIFT * level))
    top = 2 * (column - WORTH_LOW)
    return int(tops[node, top]), tops[node, top + 1]


@part
def exact_peak(
    market: Market, position: Position, path: Path, sides: Sides, top: Top, first: int, at: int
) -> float:
    """The peak of equity over the bars [first, at) and the path before, from the blocks it can be in."""
    attained = top.up - 2.0 * sides.room
    if top.second >= attained:  # a tie but for rounding: all have to be looked at
        return highest_value(market, position, path.released, sides, first, at, path.peak, attained)
    if top.level < 0:
        return path.peak
    bar, following = top_in(market, sides.up, -np.inf * sides.signed, top.level, top.at)
    if sides.base + sides.signed * following < attained:
        series = market.series
        value = equity(position, series[MARK_CLOSE, bar], series[FUNDING, bar]) + path.released
        return max(path.peak, value)
    end = top.at + (1 << (SHIFT * top.level))
    return highest_value(market, position, path.released, sides, top.at, end, path.peak, attained)


@part
def fall_attained(market: Market, sides: Sides, level: int, at: int, peak: float, share: float) -> float:
    """The deepest drawdown that the blocks inside that of `level` at bar `at` show, at least `share`; `peak` is attained before."""
    nodes, starts = market.pyramid.nodes, market.pyramid.starts
    first = starts[level - 2] + (at >> (SHIFT * (level - 1)))
    for child in range(first, min(first + (1 << SHIFT), starts[level - 1])):
        up = sides.base + sides.signed * nodes[child, sides.up]
        fall = (peak - (sides.base + sides.signed * nodes[child, sides.down])) - sides.room
        if fall > share * peak:
            share = fall / peak
        fall = abs(sides.signed) * nodes[child, sides.fall] - sides.room
        if fall > share * up:
            share = fall / (up + sides.room)
        peak = max(peak, up - sides.room)
    return share


@part
def passed_over(
    market: Market, rates: Rates, watch: Watch, position: Position, path: Path, sides: Sides,
    until: int, trace: Table, passed: int, extreme: float, least: Bounds,
) -> Path:  # fmt: skip
    """The path after the quiet bars before `until`, as if each had been marked. `trace` holds their blocks, `least` what they attain."""
    released, levels, series = path.released, market.pyramid.levels, market.series
    own = sides.base - released
    fallen, thinned = least.drawdown, least.worst
    drawdown, worst = path.drawdown, path.worst_ratio
    first = trace[0]["at"]
    top = Top(path.peak, -np.inf, 0, -1)
    for k in range(passed):
        block = trace[np.uint64(k)]
        at, level = block["at"], block["level"]
        fall = max(block["fall"], top.up - block["down"]) + 3.0 * sides.room
        may_fall = fall >= fallen * top.up * (1.0 - SLACK)
        may_thin = block["needed"] >= max(thinned, worst) * block["left"] * (1.0 - SLACK)
        if not (may_fall or may_thin):
            top = higher(top, block["up"], at, level)
            continue
        end = at + (1 << (SHIFT * level))
        while at < end:
            while True:
                x = extremes_at(market, watch, sides, level, at)
                up, down = sides.base + sides.signed * x.up, sides.base + sides.signed * x.down
                inside, since = position.quantity * x.fall, top.up - down
                falls = may_fall and max(inside, since) + 3.0 * sides.room >= fallen * top.up * (1.0 - SLACK)
                thins = False
                if may_thin:
                    needed, left = thinnest(rates, position, sides, own, x, x.thin)
                    thins = needed >= max(thinned, worst) * left * (1.0 - SLACK)
                if thins and x.kind == x.unkind and (level == 0 or sides.far == watch.adverse):
                    worst, thins = seen(rates, position, worst, x.adverse, x.kind), False
                elif (
                    thins and sides.far == watch.adverse
                ):  # the one bar, and if others are far from it, no other
                    bar, following = top_in(market, sides.thin, 0.0, level, at)
                    worst = seen(rates, position, worst, series[watch.adverse, bar], series[FUNDING, bar])
                    needed, left = thinnest(rates, position, sides, own, x, following)
                    thins = needed >= max(thinned, worst) * left * (1.0 - SLACK)
                if falls and (level == 0 or inside + 3.0 * sides.room < fallen * top.up * (1.0 - SLACK)):
                    # from before the block: deepest to its lowest bar, and if others are far from that, to no other
                    bar, following = top_in(market, sides.down, np.inf * sides.signed, level, at)
                    peak = exact_peak(market, position, path, sides, top, first, at)
                    value = equity(position, series[MARK_CLOSE, bar], series[FUNDING, bar]) + released
                    peak, drawdown = marked(value, peak, drawdown)
                    fallen = max(fallen, drawdown)
                    since = top.up - (sides.base + sides.signed * following)
                    falls = since + 3.0 * sides.room >= fallen * top.up * (1.0 - SLACK)
                if level == 0 or not (falls or thins):
                    break
                if falls and level > 1:
                    fallen = fall_attained(market, sides, level, at, top.up, fallen)
                level -= 1
            top = higher(top, up, at, level)
            at += 1 << (SHIFT * level)
            level = widest(at, end, levels)
    peak = exact_peak(market, position, path, sides, top, first, until)
    return seen_on(path, extreme, peak, drawdown, worst)


@part
def leap(
    market: Market, rates: Rates, watch: Watch, care: Care, position: Position, path: Path, i: int, until: int,
    trace: Table,
) -> tuple[int, Path]:  # fmt: skip
    """Pass over quiet bars from `i`; the next bar to look at, and the path up to it."""
    sides = sides_of(market, rates, watch, position, path.released)
    busy, passed, extreme, least = next_busy(
        market, rates, watch, care, position, path, sides, i, until, trace
    )
    if passed > 0:
        path = passed_over(market, rates, watch, position, path, sides, busy, trace, passed, extreme, least)
    return busy, path
