"""Blocks of bars as a position meets them: what their extremes, which the nodes of a pyramid hold, mean for its equity and its margin.

Equity is, but for rounding, base + signed * worth with worth = mark close - CF, whose extremes and largest moves the nodes hold. All
bounds hold but for rounding, of which `Sides.room` and SLACK are far above.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compile import aside, part
from .eights import WIDTH, at_most, before, chosen, eight, larger, minus, one_of, plus, put, spread, times
from .margin import Position, band_rate, equity, growing, requirement
from .pyramid import (
    COLUMNS,
    FALL,
    FUNDING_HIGH,
    FUNDING_LOW,
    RISE,
    SHIFT,
    THIN_HIGH,
    THIN_LOW,
    WORTH_HIGH,
    WORTH_LOW,
)
from .tables import DEDUCTION, FUNDING, MARK_CLOSE, MARK_HIGH, RATE, Market, Rates, Table
from .watching import Watch

SLACK = 1e-9
STEEP = (
    1e-6  # a ratio whose share of change is less than this share of the price's is a tie, but for rounding
)
BLOCKS = 128  # room for the groups one leap passes over; twice one a level, more where a block could matter and none of its bars does
# Blocks of one group passed over, and what their bars can have been, give or take Sides.room; -inf for those of the group that were not.
BLOCK = np.dtype(
    [
        ("at", np.int64),  # the bar the group starts at
        ("level", np.int64),
        ("most", np.float64),  # the highest equity
        ("spare", np.float64, 5),
        ("up", np.float64, WIDTH),  # equity at its best
        ("peak", np.float64, WIDTH),  # and before the block
        ("fall", np.float64, WIDTH),  # to the lowest bar from the highest before it, in money
        ("need", np.float64, WIDTH),  # need / -poor: the worst margin ratio
        ("poor", np.float64, WIDTH),
    ]
)
WORDS, UP_AT, PEAK_AT, FALL_AT, NEED_AT, POOR_AT = 48, 8, 16, 24, 32, 40


@part
def room_for_blocks() -> Table:
    """A trace to be written; it begins where a line of the cache does, so that eight numbers are in one."""
    room = np.empty((BLOCKS + 1) * WORDS * 8, dtype=np.uint8)
    start = -room.ctypes.data % (8 * WIDTH)
    return room[start : start + BLOCKS * WORDS * 8].view(BLOCK)


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


class Group(NamedTuple):
    """Of the blocks of a group, eight at a time."""

    adverse: Any
    kind: Any
    unkind: Any
    down: Any
    up: Any
    thin: Any
    fall: Any


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
def node_at(market: Market, level: int, i: int) -> int:
    """The number of the node of a level at bar `i`."""
    return int(market.pyramid.starts[np.uint64(level - 1)] + (i >> (SHIFT * level)))


@part
def held(market: Market, node: int, column: int) -> float:
    """What a node holds. Unsigned, for where an index can be negative, each look takes longer."""
    return float(
        market.pyramid.nodes[np.uint64(node >> SHIFT), np.uint64(column), np.uint64(node & (WIDTH - 1))]
    )


@part
def lanes_of(market: Market, row: int, column: int, level: int, i: int) -> Any:
    """A column of the group that the node of `level` at bar `i` is in; of bars, a row of the series."""
    if (
        level == 0
    ):  # beyond a row's last bar are the next row's: the last rows of the series are not asked for here
        return eight(market.series, row * market.series.shape[1] + (i & -WIDTH))
    return eight(market.pyramid.nodes, ((node_at(market, level, i) >> SHIFT) * COLUMNS + column) * WIDTH)


@part
def extremes_at(market: Market, watch: Watch, sides: Sides, level: int, i: int) -> Extremes:
    """Of the block of this level that starts at bar `i`."""
    if level == 0:
        series, bar = market.series, np.uint64(i)
        adverse, funding = series[np.uint64(watch.adverse), bar], series[FUNDING, bar]
        worth = series[MARK_CLOSE, bar] - funding
        return Extremes(adverse, adverse, funding, funding, worth, worth, adverse - funding, 0.0)
    node = node_at(market, level, i)
    return Extremes(
        held(market, node, watch.adverse), held(market, node, sides.far), held(market, node, sides.kind),
        held(market, node, sides.unkind), held(market, node, sides.down), held(market, node, sides.up),
        held(market, node, sides.thin), held(market, node, sides.fall),
    )  # fmt: skip


@part
def group_at(market: Market, watch: Watch, sides: Sides, level: int, i: int) -> Group:
    """Of the blocks of one group, that of this level at bar `i` among them."""
    adverse = lanes_of(market, watch.adverse, watch.adverse, level, i)
    kind = lanes_of(market, FUNDING, sides.kind, level, i)
    if level == 0:
        worth = minus(lanes_of(market, MARK_CLOSE, 0, 0, i), kind)
        return Group(adverse, kind, kind, worth, worth, minus(adverse, kind), spread(0.0))
    return Group(
        adverse, kind, lanes_of(market, 0, sides.unkind, level, i), lanes_of(market, 0, sides.down, level, i),
        lanes_of(market, 0, sides.up, level, i), lanes_of(market, 0, sides.thin, level, i),
        lanes_of(market, 0, sides.fall, level, i),
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


@aside
def thin_lanes_apart(
    market: Market,
    rates: Rates,
    watch: Watch,
    position: Position,
    sides: Sides,
    own: float,
    level: int,
    i: int,
) -> tuple[Any, Any]:
    """`thin_lanes` where the ratio goes not by lines, or may be worst at either end."""
    need, money, start = spread(0.0), spread(1.0), i & -(WIDTH << (SHIFT * level))
    for lane in range(WIDTH):
        at = start + (lane << (SHIFT * level))
        if at < market.time.size:
            one = extremes_at(market, watch, sides, level, at)
            needed, left = thinnest(rates, position, sides, own, one, one.thin)
            need, money = chosen(1 << lane, spread(needed), need), chosen(1 << lane, spread(left), money)
    return need, money


@part
def thin_lanes(
    market: Market, rates: Rates, watch: Watch, position: Position, sides: Sides, own: float, x: Group,
    level: int, i: int,
) -> tuple[Any, Any]:  # fmt: skip
    """Of each of a group's blocks the two numbers of `thinnest`."""
    if rates.whole or rates.per_unit > 0.0 or sides.far != watch.adverse:
        return thin_lanes_apart(market, rates, watch, position, sides, own, level, i)
    mark = times(plus(x.thin, larger(x.kind, x.unkind)), spread(1.0 + SLACK))
    if position.side < 0.0:
        mark = chosen(at_most(mark, x.adverse), mark, x.adverse)
    notional = times(mark, spread(position.quantity))
    need = spread(position.kept)
    for k in range(position.tiers):
        need = larger(
            need, minus(times(notional, spread(rates.tiers[k, RATE])), spread(rates.tiers[k, DEDUCTION]))
        )
    need = plus(need, times(notional, spread(position.extra)))
    return need, minus(plus(spread(own), times(spread(sides.signed), x.thin)), spread(sides.room))


@part
def note(
    trace: Table,
    number: int,
    sides: Sides,
    position: Position,
    x: Group,
    need: Any,
    left: Any,
    lanes: int,
    highest: float,
) -> float:
    """Write down blocks passed over, the `lanes` of a group; returns the peak of equity after them, before them `highest`."""
    nothing, signed, base = spread(-np.inf), spread(sides.signed), spread(sides.base)
    up = chosen(lanes, plus(base, times(signed, x.up)), nothing)
    reached = larger(up, before(up, -np.inf, 1))
    reached = larger(reached, before(reached, -np.inf, 2))
    reached = larger(reached, before(reached, -np.inf, 4))
    peak = larger(spread(highest), before(reached, -np.inf, 1))
    fall = larger(times(spread(position.quantity), x.fall), minus(peak, plus(base, times(signed, x.down))))
    at = number * WORDS
    put(trace, at + UP_AT, up)
    put(trace, at + PEAK_AT, peak)
    put(trace, at + FALL_AT, chosen(lanes, plus(fall, spread(3.0 * sides.room)), nothing))
    put(trace, at + NEED_AT, chosen(lanes, need, nothing))
    put(trace, at + POOR_AT, chosen(lanes, times(left, spread(-1.0)), nothing))
    most = one_of(reached, WIDTH - 1)
    trace[np.uint64(number)]["most"] = most
    return max(highest, most)
