"""What quiet bars passed over by leaps did to the path: the highest equity, the deepest drawdown, the worst margin ratio.

Each exactly as if every bar had been marked, from the bounds that `blocks.note` wrote down. The block with the greatest bound is looked
into first, down to the bar that answers for it, evaluated and rounded as everywhere; what that attains rules out the other blocks, but
for near ties. Tolerances only widen what is looked at, never what is decided.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .ahead import fetch
from .blocks import (
    FALL_AT,
    NEED_AT,
    PEAK_AT,
    POOR_AT,
    SLACK,
    UP_AT,
    WORDS,
    Sides,
    extremes_at,
    held,
    node_at,
    thinnest,
)
from .compile import aside, part
from .eights import WIDTH, at_most, before, eight, larger, lowest_lane, one_of, spread, times
from .margin import Position, equity, margin_ratio, requirement
from .noting import DEEP, PEAK, THIN, TIE, Trace, begin, jot, note_reach, wanted
from .pyramid import SHIFT, TOP, TOPS, WORTH_LOW, widest
from .tables import FUNDING, MARK_CLOSE, Floats, Market, Rates, Table
from .watching import Path, Watch, marked, seen_on


class Top(NamedTuple):
    """The block with the highest equity so far, and the next highest; level -1 for the path before the blocks."""

    up: float
    second: float
    at: int
    level: int


@aside
def highest_value(
    market: Market, position: Position, released: float, sides: Sides, i: int, until: int, known: float,
    attained: float,
) -> tuple[float, float, float]:  # fmt: skip
    """The greatest value of the equity path at the closes of [i, until), exactly as marked bar by bar; at least `known`. Also price and CF
    of the bar that answers for it, the price TIE where bars with others come as near as that.

    `attained` is a bound from below: some bar of the range, or `known`, is at least that.
    """
    series, levels = market.series, market.pyramid.levels
    highest, best, rival, price, funding = known, -np.inf, -np.inf, 0.0, 0.0
    while i < until:
        level = widest(i, until, levels)
        while level > 0:
            up = held(market, node_at(market, level, i), sides.up)
            if (sides.base + sides.signed * up) + sides.room < max(highest, attained):
                break
            level -= 1
        if level == 0:
            mark, paid = series[MARK_CLOSE, i], series[FUNDING, i]
            value = equity(position, mark, paid) + released
            highest = max(highest, value)
            if value > best:
                rival, best, price, funding = best, value, mark, paid
            elif mark != price or paid != funding:
                rival = max(rival, value)
        i += 1 << (SHIFT * level)
    return highest, TIE if rival >= highest - sides.room else price, funding


@part
def higher(top: Top, up: float, at: int, level: int) -> Top:
    """The top, one more block included."""
    if up > top.up:
        return Top(up, top.up, at, level)
    return Top(top.up, max(top.second, up), top.at, top.level)


@part
def top_in(
    market: Market, row: int, column: int, beyond: float, level: int, at: int
) -> tuple[float, float, float]:
    """Of the block of `level` at bar `at`, price and CF of the first bar with the extreme that stands in `column` of its node, of prices
    of `row`, and the next to it at bars unlike that one; `beyond` all where there is none.
    """
    if level == 0:
        bar = np.uint64(at)
        return market.series[np.uint64(row), bar], market.series[FUNDING, bar], beyond
    tops, node, top = market.pyramid.tops, np.uint64(node_at(market, level, at)), TOP * (column - WORTH_LOW)
    return tops[node, np.uint64(top)], tops[node, np.uint64(top + 1)], tops[node, np.uint64(top + 2)]


@part
def exact_peak(
    market: Market, position: Position, path: Path, sides: Sides, top: Top, first: int, at: int
) -> tuple[float, float, float]:
    """The peak of equity over the bars [first, at) and the path before, from the blocks it can be in. Also price and CF of the bar that
    answers for it, as `highest_value` gives them; the price 0 where none comes near the path before.
    """
    attained = top.up - 2.0 * sides.room
    if top.second >= attained:  # a tie but for rounding: all have to be looked at
        return highest_value(market, position, path.released, sides, first, at, path.peak, attained)
    if top.level < 0:
        return path.peak, 0.0, 0.0
    price, funding, following = top_in(
        market, MARK_CLOSE, sides.up, -np.inf * sides.signed, top.level, top.at
    )
    if sides.base + sides.signed * following < attained:
        return max(path.peak, equity(position, price, funding) + path.released), price, funding
    end = top.at + (1 << (SHIFT * top.level))
    return highest_value(market, position, path.released, sides, top.at, end, path.peak, attained)


@aside
def fall_attained(market: Market, sides: Sides, level: int, at: int, peak: float, share: float) -> float:
    """The deepest drawdown that the blocks inside that of `level` at bar `at` show, at least `share`; `peak` is attained before."""
    first = node_at(market, level - 1, at)
    for child in range(first, first + (1 << SHIFT)):
        up = sides.base + sides.signed * held(market, child, sides.up)
        fall = (peak - (sides.base + sides.signed * held(market, child, sides.down))) - sides.room
        if fall > share * peak:
            share = fall / peak
        fall = abs(sides.signed) * held(market, child, sides.fall) - sides.room
        if fall > share * up:
            share = fall / (up + sides.room)
        peak = max(peak, up - sides.room)
    return share


@part
def greatest_in(trace: Table, passed: int, word: int) -> tuple[int, int]:
    """Which group and lane of it has the greatest of these numbers; `word` is where in a block they are."""
    most = eight(trace, word)
    for k in range(1, passed):
        most = larger(most, eight(trace, k * WORDS + word))
    most = larger(most, before(most, -np.inf, 1))
    most = larger(most, before(most, -np.inf, 2))
    most = larger(most, before(most, -np.inf, 4))
    greatest, number, lanes = spread(one_of(most, WIDTH - 1)), 0, 1 << WIDTH
    for k in range(passed):
        here = at_most(greatest, eight(trace, k * WORDS + word))
        number, lanes = (k, here) if here != 0 else (number, lanes)
    return number, int(lowest_lane(lanes)) & (WIDTH - 1)


@part
def top_before(trace: Table, number: int, lane: int, path: Path, sides: Sides) -> Top:
    """The highest of the path before and of the blocks up to a lane of a group, that one left out; of what is lower than a tie nothing."""
    block = trace[np.uint64(number)]
    highest = one_of(eight(trace, number * WORDS + PEAK_AT), min(lane, WIDTH - 1))
    if lane == WIDTH:
        highest = max(highest, block["most"])
    reach = highest - 2.0 * sides.room
    top = Top(path.peak, -np.inf, 0, -1)
    for k in range(number + 1):
        block = trace[np.uint64(k)]
        if block["most"] >= reach:
            ups = eight(trace, k * WORDS + UP_AT)
            lanes = at_most(spread(reach), ups)
            if k == number:
                lanes &= (1 << lane) - 1
            while lanes != 0:
                j = lowest_lane(lanes)
                lanes &= lanes - 1
                top = higher(
                    top, one_of(ups, j), block["at"] + (j << (SHIFT * block["level"])), block["level"]
                )
    return top


@part
def block_at(trace: Table, number: int, lane: int) -> tuple[int, int]:
    """Level and first bar of a block passed over."""
    level = trace[np.uint64(number)]["level"]
    return level, trace[np.uint64(number)]["at"] + (lane << (SHIFT * level))


@aside
def attained(
    market: Market,
    rates: Rates,
    watch: Watch,
    position: Position,
    sides: Sides,
    own: float,
    level: int,
    at: int,
) -> float:
    """What the worst margin ratio in a block is at least."""
    # at the bar of the worst mark less CF, whose mark is no lower than with the lowest CF
    x = extremes_at(market, watch, sides, level, at)
    needed = requirement(rates, position, (x.thin + min(x.kind, x.unkind)) * (1.0 - SLACK))
    left = (own + sides.signed * x.thin) + sides.room
    return needed / left if left > 0.0 else 0.0


@aside
def attained_in(
    market: Market, rates: Rates, watch: Watch, position: Position, sides: Sides, own: float, trace: Table,
    passed: int, worst: float,
) -> float:  # fmt: skip
    """What the worst margin ratio in all blocks is at least, and no less than `worst`; by blocks whose bounds are above what is known."""
    for k in range(passed):
        least = times(spread(-worst * (1.0 - 2.0 * SLACK)), eight(trace, k * WORDS + POOR_AT))
        lanes = at_most(least, eight(trace, k * WORDS + NEED_AT))
        while lanes != 0:
            lane = lowest_lane(lanes)
            lanes &= lanes - 1
            level, at = block_at(trace, k, lane)
            worst = max(worst, attained(market, rates, watch, position, sides, own, level, at))
    return worst


@part
def worst_in(
    market: Market, rates: Rates, watch: Watch, position: Position, sides: Sides, own: float, worst: float,
    sure: float, level: int, at: int, notes: Floats,
) -> float:  # fmt: skip
    """The worst margin ratio so far, the bars of one block included; some bar's is `sure` at least."""
    levels, end = market.pyramid.levels, at + (1 << (SHIFT * level))
    if sides.far != watch.adverse:
        sure = max(sure, attained(market, rates, watch, position, sides, own, level, at))
    while at < end:
        x = extremes_at(market, watch, sides, level, at)
        thin, near, turn = x.thin, True, 0
        while near and turn < 2:
            needed, left = thinnest(rates, position, sides, own, x, thin)
            near = needed >= max(sure, worst) * left * (1.0 - SLACK)
            turn += 1
            alone = x.kind == x.unkind and (level == 0 or sides.far == watch.adverse)
            if near and turn == 1 and (alone or sides.far == watch.adverse):
                price, funding = x.adverse, x.kind
                if not alone:  # the one bar, and if others are far from it, no other
                    price, funding, thin = top_in(market, watch.adverse, sides.thin, 0.0, level, at)
                ratio, near = margin_ratio(rates, position, price, funding), not alone
                worst = max(worst, ratio)
                jot(notes, THIN, ratio, price, funding, 0.0, 0.0)
            elif turn == 1:
                turn = 2
        if near:
            level -= 1
            continue
        at += 1 << (SHIFT * level)
        level = widest(at, end, levels)
    return worst


@part
def deepest_in(
    market: Market, watch: Watch, position: Position, path: Path, sides: Sides, top: Top, drawdown: float,
    level: int, first: int, at: int, notes: Floats,
) -> float:  # fmt: skip
    """The deepest drawdown so far, the bars of one block included; `top` is of those in [first, at)."""
    end, room, fallen = at + (1 << (SHIFT * level)), 3.0 * sides.room, drawdown
    while at < end:
        while True:
            x = extremes_at(market, watch, sides, level, at)
            up, since = sides.base + sides.signed * x.up, top.up - (sides.base + sides.signed * x.down)
            inside = position.quantity * x.fall + room
            fallen = max(fallen, (since - room) / (top.up + room))  # attained at least
            fallen = max(fallen, (inside - 2.0 * room) / (max(top.up, up) + room))
            enough = fallen * top.up * (1.0 - SLACK)
            falls = max(inside, since + room) >= enough
            if falls and (level == 0 or inside < enough):
                # from before the block: deepest to its lowest bar, and if others are far from that, to no other
                price, funding, following = top_in(
                    market, MARK_CLOSE, sides.down, np.inf * sides.signed, level, at
                )
                peak, dear, charged = exact_peak(market, position, path, sides, top, first, at)
                value = equity(position, price, funding) + path.released
                if value <= peak:
                    jot(notes, DEEP, (peak - value) / peak, price, funding, dear, charged)
                peak, drawdown = marked(value, peak, drawdown)
                fallen = max(fallen, drawdown)
                since = top.up - (sides.base + sides.signed * following)
                falls = since + room >= fallen * top.up * (1.0 - SLACK)
            if level == 0 or not falls:
                break
            if level > 1:
                fallen = fall_attained(market, sides, level, at, top.up, fallen)
            level -= 1
        top = higher(top, up, at, level)
        at += 1 << (SHIFT * level)
        level = widest(at, end, market.pyramid.levels)
    return drawdown


@part
def expect_top(market: Market, column: int, level: int, at: int) -> None:
    """`top_in` is going to be asked for."""
    if level > 0:
        fetch(market.pyramid.tops, node_at(market, level, at) * TOPS + TOP * (column - WORTH_LOW))


@part
def passed_over(
    market: Market, rates: Rates, watch: Watch, position: Position, path: Path, sides: Sides,
    first: int, until: int, traced: Trace, passed: int, extreme: float,
) -> Path:  # fmt: skip
    """The path after the quiet bars [first, until), as if each had been marked. `traced` holds their blocks, and is told what answered.

    The block with the deepest fall and the one with the least equity go first: what they attain rules out all others, or nearly so.
    """
    trace, notes, noting = traced.blocks, traced.notes[:0], wanted(traced.notes)
    if noting:
        notes = traced.notes
        begin(notes, position, path, first, until, extreme)
        note_reach(market, watch, position, sides, trace, passed, notes)
    own, drawdown, worst = sides.base - path.released, path.drawdown, path.worst_ratio
    deepest, fall_lane = greatest_in(trace, passed, FALL_AT)
    poorest, thin_lane = greatest_in(trace, passed, POOR_AT)
    highest = top_before(trace, passed - 1, WIDTH, path, sides)
    expect_top(market, sides.down, *block_at(trace, deepest, fall_lane))
    expect_top(market, sides.thin, *block_at(trace, poorest, thin_lane))
    expect_top(market, sides.up, highest.level, highest.at)
    sure = worst
    if (
        sides.far != watch.adverse
    ):  # least equity may be far from the worst ratio: a 1x long's hardly moves with the price
        sure = attained_in(market, rates, watch, position, sides, own, trace, passed, worst)
    for turn in range(-1, passed):
        k, lanes = deepest, 1 << fall_lane
        if turn >= 0:
            least = times(spread(drawdown * (1.0 - 2.0 * SLACK)), eight(trace, turn * WORDS + PEAK_AT))
            k, lanes = turn, at_most(least, eight(trace, turn * WORDS + FALL_AT))
            if turn == deepest:
                lanes &= ~(1 << fall_lane)
        while lanes != 0:
            lane = lowest_lane(lanes)
            lanes &= lanes - 1
            level, at = block_at(trace, k, lane)
            top = top_before(trace, k, lane, path, sides)
            drawdown = deepest_in(
                market, watch, position, path, sides, top, drawdown, level, first, at, notes
            )
    for turn in range(-1, passed):
        k, lanes = poorest, 1 << thin_lane
        if turn >= 0:
            least = times(
                spread(-max(sure, worst) * (1.0 - 2.0 * SLACK)), eight(trace, turn * WORDS + POOR_AT)
            )
            k, lanes = turn, at_most(least, eight(trace, turn * WORDS + NEED_AT))
            if turn == poorest:
                lanes &= ~(1 << thin_lane)
        while lanes != 0:
            lane = lowest_lane(lanes)
            lanes &= lanes - 1
            level, at = block_at(trace, k, lane)
            worst = worst_in(market, rates, watch, position, sides, own, worst, sure, level, at, notes)
    peak, price, funding = exact_peak(market, position, path, sides, highest, first, until)
    if noting:
        jot(notes, PEAK, peak, price, funding, 0.0, 0.0)
    return seen_on(path, extreme, peak, drawdown, worst)
