"""Passing over quiet bars of a wallet, exactly.

While the same legs are open, equity is base + sum of net quantity * (mark - CF). Over a block of bars it lies between the sums of each
symbol's extremes, and what must be kept is at most that at the greatest marks. Both are rounded as at a bar, and rounding is monotone: a
block whose bounds do not touch holds no bar that does, and needs no tolerance. The first bar of liquidation, the worst margin ratio, the
peak of equity and its deepest fall are each looked for so, descending where a bound leaves it open.
"""

from __future__ import annotations

import numpy as np

from perpbt.kernels.compile import kernel, part
from perpbt.kernels.crossing.margin import (
    equity,
    ratio_of,
    required,
    stand_at,
    stand_at_worse,
    symbol_kept,
    unit_kept,
)
from perpbt.kernels.crossing.tables import (
    BODY_MARK,
    BODY_WORTH,
    CHARGED,
    FUNDING_,
    HIGH_,
    LAST,
    LOW_,
    MARK_CLOSE_,
    MARK_HIGH_,
    MARK_LOW_,
    MARK_OPEN_,
    OPEN_,
    RANGE_MARK,
    RANGE_WORTH,
    SIGMA_,
    WHOLE,
    Charges,
    Grid,
)
from perpbt.kernels.pyramid import SHIFT, widest
from perpbt.kernels.tables import Row, Table

NARROW = 1e-11  # of what is added up: a block this near is looked into
TRIES = 2  # times the bar of the worst ratio is guessed before it is looked for
SLACK = 1e-15  # for the few roundings of a fall, which is not rounded in one step
HIGHEST, LOWEST = 0, 1  # what is looked for: equity at the close, or its opposite


@part
def crosses(leg: Row, low: float, high: float, mark_low: float, mark_high: float) -> bool:
    """Do these extremes reach the leg's stop or take-profit?"""
    side = leg["side"]
    below, above = (mark_low, mark_high) if leg["stop_on_mark"] == 1 else (low, high)
    if side * (below if side > 0.0 else above) <= side * leg["stop"]:
        return True
    below, above = (mark_low, mark_high) if leg["target_on_mark"] == 1 else (low, high)
    return side * (above if side > 0.0 else below) >= side * leg["target"]


@part
def trails(leg: Row, extreme: float, low: float, high: float, mark_low: float, mark_high: float) -> bool:
    """Can these extremes reach the leg's trailing stop, at most that of the best among them?"""
    side = leg["side"]
    below, above = (mark_low, mark_high) if leg["trail_on_mark"] == 1 else (low, high)
    best, worst = max(side * below, side * above), min(side * below, side * above)
    return worst <= max(extreme, best) * leg["factor"]


@part
def bar_trails(grid: Grid, leg: Row, extreme: float, t: int) -> bool:
    """Is the trailing stop met in bar t, at its open or inside? Not where the symbol has no bar of its own."""
    bars, side = grid.series[leg["symbol"]], leg["side"]
    opened, low, high = OPEN_, LOW_, HIGH_
    if leg["trail_on_mark"] == 1:
        opened, low, high = MARK_OPEN_, MARK_LOW_, MARK_HIGH_
    worst = min(side * bars[opened, t], side * bars[low if side > 0.0 else high, t])
    level = max(extreme, side * bars[opened, t]) * leg["factor"]
    return not np.isnan(bars[SIGMA_, t]) and worst <= level


@part
def best_of(grid: Grid, leg: Row, level: int, t: int) -> float:
    """side * best price for a trailing stop, over the block of this level at bar t; of level 0 over the bar."""
    symbol, side, on_mark = leg["symbol"], leg["side"], leg["trail_on_mark"] == 1
    if level > 0:
        node, column = grid.starts[level - 1] + (t >> (SHIFT * level)), RANGE_MARK if on_mark else LAST
        return side * grid.nodes[symbol, node, column + (1 if side > 0.0 else 0)]
    bars, high = grid.series[symbol], side > 0.0
    if on_mark:
        return max(side * bars[MARK_OPEN_, t], side * bars[MARK_HIGH_ if high else MARK_LOW_, t])
    return max(side * bars[OPEN_, t], side * bars[HIGH_ if high else LOW_, t])


@kernel
def catch_up(grid: Grid, leg: Row, t: int) -> None:
    """Let the extreme behind a trailing stop take in all bars before t."""
    seen, extreme = leg["seen"], leg["extreme"]
    while seen < t:
        level = widest(seen, t, grid.levels)
        extreme = max(extreme, best_of(grid, leg, level, seen))
        seen += 1 << (SHIFT * level)
    leg["seen"], leg["extreme"] = seen, extreme


@kernel
def first_exit(grid: Grid, leg: Row, t: int) -> int:
    """The first bar from t on in which an order of the leg's own closes it; the number of bars if none does."""
    symbol, count, trailing = leg["symbol"], grid.series.shape[2], not np.isnan(leg["trail"])
    end = leg["due"] if leg["due"] >= 0 else count
    if np.isnan(leg["stop"]) and np.isnan(leg["target"]) and not trailing:
        return end
    nodes, bars, extreme = grid.nodes[symbol], grid.series[symbol], leg["extreme"]
    while t < end:
        level = widest(t, end, grid.levels)
        while level > 0:
            node = nodes[grid.starts[level - 1] + (t >> (SHIFT * level))]
            low, high, below, above = node[LAST], node[LAST + 1], node[RANGE_MARK], node[RANGE_MARK + 1]
            if not crosses(leg, low, high, below, above) and not (
                trailing and trails(leg, extreme, low, high, below, above)
            ):
                break
            level -= 1
        if level == 0:
            low, high = min(bars[OPEN_, t], bars[LOW_, t]), max(bars[OPEN_, t], bars[HIGH_, t])
            below, above = (
                min(bars[MARK_OPEN_, t], bars[MARK_LOW_, t]),
                max(bars[MARK_OPEN_, t], bars[MARK_HIGH_, t]),
            )
            if crosses(leg, low, high, below, above) or (trailing and bar_trails(grid, leg, extreme, t)):
                return t
        if trailing:
            extreme = max(extreme, best_of(grid, leg, level, t))
        t += 1 << (SHIFT * level)
    return end


# ------------------------------------------------------------------------------------------------- of a block
@part
def stand_over(grid: Grid, held: Table, acc: Row, level: int, i: int, ranged: bool) -> None:
    """Look at all that is held over the block of this level (at least 1) that starts at bar i."""
    node = grid.starts[level - 1] + (i >> (SHIFT * level))
    worth, mark = (RANGE_WORTH, RANGE_MARK) if ranged else (BODY_WORTH, BODY_MARK)
    for h in range(acc["held"]):
        one = held[h]
        symbol = one["symbol"]
        low, high = grid.nodes[symbol, node, mark], grid.nodes[symbol, node, mark + 1]
        one["low"], one["high"] = low, high
        if one["asset"] == 0:
            low, high = grid.nodes[symbol, node, worth], grid.nodes[symbol, node, worth + 1]
        one["worth"] = low if one["net"] > 0.0 else high
        low, high = grid.nodes[symbol, node, CHARGED], grid.nodes[symbol, node, CHARGED + 1]
        one["paid"] = max(one["net"] * low, one["net"] * high)


@part
def equity_over(grid: Grid, held: Table, acc: Row, level: int, i: int, most: bool) -> float:
    """Equity at the closes of the block of this level that starts at bar i: at most, or at least; of level 0 that of the bar."""
    total = acc["base"]
    if level == 0:
        for h in range(acc["held"]):
            one = held[h]
            worth = grid.series[one["symbol"], MARK_CLOSE_, i]
            if one["asset"] == 0:
                worth = worth - grid.series[one["symbol"], FUNDING_, i]
            total = total + one["net"] * worth
        return total
    node = grid.starts[level - 1] + (i >> (SHIFT * level))
    for h in range(acc["held"]):
        one = held[h]
        column = BODY_WORTH if one["asset"] == 0 else BODY_MARK
        if (one["net"] > 0.0) == most:
            column += 1
        total = total + one["net"] * grid.nodes[one["symbol"], node, column]
    return total


@part
def of_unit(held: Table, count: int, unit: int) -> int:
    """How many of the first `count` holdings are of a risk unit."""
    found = 0
    for h in range(count):
        if held[h]["unit"] == unit:
            found += 1
    return found


@part
def kept_at(charges: Charges, legs: Table, held: Table, acc: Row, h: int, price: float) -> float:
    """What a holding must keep at one mark; in portfolio margin its risk unit, of which it is the only one."""
    if not charges.portfolio:
        return symbol_kept(charges, legs, held, h, price)
    one = held[h]
    low, high = one["low"], one["high"]
    one["low"], one["high"] = price, price
    kept = unit_kept(charges, held, acc["held"], one["unit"])
    one["low"], one["high"] = low, high
    return kept


@part
def excess(charges: Charges, legs: Table, held: Table, acc: Row, ratio: float) -> tuple[float, float]:
    """What must be kept less `ratio` times equity, at most over the block looked at, both moving with the same marks; and the size of
    what was added up.

    What a symbol must keep less `ratio` times what it is worth is convex in its mark: greatest at one of the block's ends.
    """
    total = 0.0 - ratio * acc["base"]
    scale = abs(total)
    for h in range(acc["held"]):
        one = held[h]
        low, high = one["low"], one["high"]
        at_low, at_high = 0.0 - ratio * (one["net"] * low), 0.0 - ratio * (one["net"] * high)
        scale = scale + ratio * (abs(one["net"]) * high)
        if one["asset"] == 0:
            scale = scale + ratio * abs(one["paid"])
            total = total + ratio * one["paid"]
        unit, by_itself = one["unit"], one["asset"] == 0 and charges.numbers[one["symbol"], WHOLE] == 0.0
        if charges.portfolio:
            by_itself = unit >= 0 and of_unit(held, acc["held"], unit) == 1
        if by_itself:
            kept = kept_at(charges, legs, held, acc, h, high)
            at_low, at_high = at_low + kept_at(charges, legs, held, acc, h, low), at_high + kept
            scale = scale + kept
        elif charges.portfolio and unit >= 0 and of_unit(held, h, unit) == 0:
            kept = unit_kept(charges, held, acc["held"], unit)
            total, scale = total + kept, scale + kept
        elif (
            not charges.portfolio and one["asset"] == 0
        ):  # steps of a whole position: not convex, but most at the top
            kept = symbol_kept(charges, legs, held, h, high)
            total, scale = total + kept, scale + kept
        total = total + max(at_low, at_high)
    return total, scale


@part
def tested(
    grid: Grid, charges: Charges, legs: Table, held: Table, acc: Row, t: int, ranged: bool
) -> tuple[float, bool]:
    """The worse margin ratio of the points of bar t that are tested, and whether one of them liquidates."""
    stand_at(grid, held, acc, t, MARK_OPEN_)
    left, kept = equity(held, acc), required(charges, legs, held, acc)
    worst, falls = ratio_of(kept, left), left <= kept
    if ranged:
        stand_at_worse(grid, charges, legs, held, acc, t, MARK_LOW_, MARK_HIGH_)
    else:
        stand_at(grid, held, acc, t, MARK_CLOSE_)
    left, kept = equity(held, acc), required(charges, legs, held, acc)
    return max(worst, ratio_of(kept, left)), falls or left <= kept


# ---------------------------------------------------------------------------------------------------- searches
@kernel
def next_fall(
    grid: Grid,
    charges: Charges,
    legs: Table,
    held: Table,
    wallet: Table,
    account: int,
    t: int,
    until: int,
    ranged: bool,
) -> int:
    """The first bar in [t, until) at a tested point of which the account is liquidated; `until` if there is none."""
    acc = wallet[account]
    while t < until:
        level = widest(t, until, grid.levels)
        while level > 0:
            stand_over(grid, held, acc, level, t, ranged)
            if equity(held, acc) > required(charges, legs, held, acc):
                break
            level -= 1
        if level == 0 and tested(grid, charges, legs, held, acc, t, ranged)[1]:
            return t
        t += 1 << (SHIFT * level)
    return until


@part
def bound_of(grid: Grid, held: Table, acc: Row, level: int, t: int, kind: int) -> float:
    """What no close of a block exceeds, of what is looked for; of level 0 that of the bar."""
    value = equity_over(grid, held, acc, level, t, kind == HIGHEST)
    return value if kind == HIGHEST else -value


@kernel
def greatest(
    grid: Grid, held: Table, wallet: Table, account: int, first: int, until: int, kind: int, known: float
) -> tuple[float, int]:
    """The greatest over the closes of bars [first, until) of what is looked for, and the bar; `known` and -1 where none exceeds that."""
    acc, at = wallet[account], -1
    likely, likely_level, most = first, -1, known
    t = first
    while t < until:  # down to the likeliest bar, for a start
        level = widest(t, until, grid.levels)
        bound = bound_of(grid, held, acc, level, t, kind)
        if bound > most:
            likely, likely_level, most = t, level, bound
        t += 1 << (SHIFT * level)
    if likely_level == -1:
        return known, -1
    while likely_level > 0:
        likely_level -= 1
        most, t = -np.inf, likely
        end = min(until, likely + (1 << (SHIFT * (likely_level + 1))))
        while t < end:
            bound = bound_of(grid, held, acc, likely_level, t, kind)
            if bound > most:
                likely, most = t, bound
            t += 1 << (SHIFT * likely_level)
    bound = bound_of(grid, held, acc, 0, likely, kind)
    if bound > known:
        known, at = bound, likely
    t = first
    while t < until:  # then wherever it could be exceeded
        level = widest(t, until, grid.levels)
        while True:
            bound = bound_of(grid, held, acc, level, t, kind)
            if level == 0 or not bound > known:
                break
            level -= 1
        if level == 0 and bound > known:
            known, at = bound, t
        t += 1 << (SHIFT * level)
    return known, at


@kernel
def likeliest(
    grid: Grid,
    charges: Charges,
    legs: Table,
    held: Table,
    acc: Row,
    first: int,
    until: int,
    ranged: bool,
    known: float,
) -> float:
    """The worst margin ratio among the eight bars that look most like exceeding `known`, or `known`."""
    at, at_level, most = first, -1, -np.inf
    t = first
    while t < until:
        level = widest(t, until, grid.levels)
        if level > 0:
            stand_over(grid, held, acc, level, t, ranged)
            value = excess(charges, legs, held, acc, known)[0]
            if value > most:
                at, at_level, most = t, level, value
        t += 1 << (SHIFT * level)
    while at_level > 1:
        at_level -= 1
        most, t, end = -np.inf, at, at + (1 << (SHIFT * (at_level + 1)))
        while t < end:
            stand_over(grid, held, acc, at_level, t, ranged)
            value = excess(charges, legs, held, acc, known)[0]
            if value > most:
                at, most = t, value
            t += 1 << (SHIFT * at_level)
    for t in range(at, min(until, at + (1 << SHIFT))):
        known = max(known, tested(grid, charges, legs, held, acc, t, ranged)[0])
    return known


@kernel
def worst_ratio(
    grid: Grid, charges: Charges, legs: Table, held: Table, wallet: Table, account: int, first: int, until: int, ranged: bool,
    likely: int, known: float,
) -> float:  # fmt: skip
    """The worst margin ratio of the tested points of bars [first, until), or `known` if none exceeds that; `likely` is looked at first."""
    acc = wallet[account]
    if known == np.inf:
        return known
    known = max(known, tested(grid, charges, legs, held, acc, likely, ranged)[0])
    for _ in range(TRIES):
        known = likeliest(grid, charges, legs, held, acc, first, until, ranged, known)
    t = first
    while t < until:
        level = widest(t, until, grid.levels)
        while level > 0:
            stand_over(grid, held, acc, level, t, ranged)
            most, scale = excess(charges, legs, held, acc, known)
            if most < 0.0 - NARROW * scale:
                break
            if not ratio_of(required(charges, legs, held, acc), equity(held, acc)) > known:
                break
            level -= 1
        if level == 0:
            known = max(known, tested(grid, charges, legs, held, acc, t, ranged)[0])
        t += 1 << (SHIFT * level)
    return known


@part
def fall(peak: float, value: float) -> float:
    """A drawdown, as a fraction of the peak."""
    return (peak - value) / peak


@kernel
def deepest(grid: Grid, held: Table, wallet: Table, account: int, first: int, until: int) -> int:
    """Take in the closes of bars [first, until): the peak of equity and the deepest fall from a peak to what comes after. Returns the
    bar of the lowest.
    """
    acc = wallet[account]
    peak, drawdown = acc["peak"], acc["drawdown"]
    lowest, lowest_at = greatest(grid, held, wallet, account, first, until, LOWEST, -np.inf)
    highest, at = greatest(grid, held, wallet, account, first, until, HIGHEST, peak)
    if at != -1 and at <= lowest_at:
        drawdown = max(drawdown, fall(highest, -lowest))
    else:
        before = greatest(grid, held, wallet, account, first, lowest_at, HIGHEST, peak)[0]
        drawdown = max(drawdown, fall(before, -lowest))
        if at != -1:
            lowest = greatest(grid, held, wallet, account, at, until, LOWEST, -highest)[0]
            drawdown = max(drawdown, fall(highest, -lowest))
    # `peak` is that of the closes before `seen`, `top` at least that of those before t
    t, seen, top = first, first, peak
    while t < until:
        level = widest(t, until, grid.levels)
        while True:
            low = equity_over(grid, held, acc, level, t, False)
            high = low if level == 0 else equity_over(grid, held, acc, level, t, True)
            most = max(top, high)
            deep = fall(most, low) if low >= 0.0 else fall(peak, low)
            quiet = most <= low or deep * (1.0 + SLACK) + SLACK <= drawdown
            if not quiet and seen < t:  # perhaps only for want of the exact peak
                peak = greatest(grid, held, wallet, account, seen, t, HIGHEST, peak)[0]
                seen, top = t, peak
            elif quiet or level == 0 or low == high:
                break
            else:
                level -= 1
        size = 1 << (SHIFT * level)
        if quiet:
            top = most
        else:  # one value, at a bar or all over a block
            peak = max(peak, low)
            drawdown, seen, top = max(drawdown, fall(peak, low)), t + size, peak
        t += size
    acc["peak"], acc["drawdown"] = max(acc["peak"], highest), drawdown
    return lowest_at


@kernel
def leap(
    grid: Grid, charges: Charges, legs: Table, held: Table, wallet: Table, account: int, t: int, until: int
) -> int:
    """Pass over the quiet bars from t on; returns the next one to look at."""
    acc = wallet[account]
    ranged = acc["symbols"] == 1 or charges.extremes
    end = next_fall(grid, charges, legs, held, wallet, account, t, until, ranged)
    if end > t:
        lowest_at = deepest(
            grid, held, wallet, account, t, end
        )  # where the ratio, too, is likely to be worst
        acc["worst"] = worst_ratio(
            grid, charges, legs, held, wallet, account, t, end, ranged, lowest_at, acc["worst"]
        )
    return end
