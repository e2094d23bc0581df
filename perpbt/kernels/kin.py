"""Positions that differ in nothing but their size: what one did, told from what another did.

Accounts that compound and enter by one plan at one bar have the same fill, stop, target and trail; only their wallets differ. So the first
of them is walked as ever, and `noting` keeps what its first leap found: until which bar, and the bars that answered for the path. The others
begin where that leap ended, with what those bars mean for them. From there on they are walked as ever; or leave as the first did, if it
left in that bar, and not by liquidation. Refusals, openings and closings are each one's own.

Why that is exact. Let p be the position whose leap over bars [a, b) was noted, q the other, and all of an account be told per unit of
quantity: prices and CF are the same for both; margin and collateral are within CLOSE = 1e-14 of each other (`of_one_shape`), some three
times what the rounding of two sizes can come to. G is 4 times the greatest price plus the margin, so that `Sides.room`, per unit, is 1e-9 G.
What an equity comes to is within 1e-15 G of what it stands for, and so what it comes to for p within 3e-14 G of the same for q: thirty
thousand times less than `room`.

1. Bars [a, b) are quiet for q. No stop, target or trailing stop was in reach of p, and those of q are the same numbers. The guard of q
   is not in reach: `out_of_reach` compares it with the guard that p's blocks stayed clear of, or with the least worth passed over.
   Bars before a are looked at for q one by one. Nothing else can happen in a quiet bar: margin calls are left out, and no epoch begins.
2. The peak. p's search looks into every block that comes within `room` of the peak it finds. Whatever it leaves out is lower by that much
   for p, and by nearly as much for q, which no rounding makes up for. Of what it looks at one pair of a price and a CF comes to the most
   and any other to less by `room`, or the answer is a TIE and the leap is of no use. To both is added the peak of the path before, their
   own. So q's peak is the greater of that and of its own equity at that pair, computed as at every bar.
3. The deepest drawdown. The search leaves out what is shallower by 2.9 `room` of money (3, less what rounding takes) over the peak before
   it. What it evaluates is a trough and the peak before it, for which 2. holds again; and the deepest is apart from the next, and
   from none, by 2 `room` over the collateral, below which no peak is (`apart`). So q's deepest is that one, or that of its path before.
4. The worst margin ratio. At the bars passed over nothing but one maintenance line counts, which has no deduction (`on_one_line`), or what
   is kept is of the entry notional and of one shape: then a ratio of p is one of q, but that equity E differs by 3e-14 G, and so the
   ratio by 3e-14 G / E of it. The search leaves out bars whose ratio is below the worst by 1e-9 of it even if E were less by `room`;
   where the ratio does not fall with the price, of E as it is, so there G must not be above STEADY = 1000 times E: 3e-11 of it, against 1e-9.
   What it evaluates is apart from the worst by 4e-9 of it and 2 `room` / E.

5. The exit in bar b, if p's was there, and its guard out of reach there too, as q's then is by 1. (a mark opens inside its range): neither
   is liquidated, and all else that is asked in b, of stops, targets, trails and times, is the same numbers for both.

Bounds decide nothing but that there is nothing to decide. Where a condition does not hold the position is walked as any other.
"""

from __future__ import annotations

import numpy as np

from .blocks import ratio_falls_with_price
from .compile import part
from .epochs import epoch_at
from .looking import look
from .margin import Position, equity
from .noting import (
    CHARGED,
    DEEP,
    DRAWDOWN,
    EXTREME,
    FACTOR,
    FIRST,
    GUARD,
    LEAP,
    PEAK,
    PRICE,
    RIVAL,
    TALLEST,
    THIN,
    THINNEST,
    TIE,
    TOP,
    TOP_CHARGED,
    UNTIL,
    VALUE,
    WORST,
)
from .tables import (
    DEDUCTION,
    END,
    FUNDING,
    LIQUIDATION,
    MARK_HIGH,
    MARK_OPEN,
    NO_CALL,
    RATE,
    Floats,
    Market,
    Places,
    Plan,
    Rates,
    Row,
    Table,
)
from .walking import Exit, with_worst
from .watching import Care, Path, Watch, marked, seen, seen_on

CLOSE = 1e-14
SLACK = 1e-9
STEADY = 1000.0
# A position's first leap. Levels, and what stands `per` unit of quantity, are those of the position that was walked.
KIN = np.dtype(
    [
        ("bar", np.int64),  # of the entry; 0: none, for nobody enters there
        ("plan", np.int64),
        ("first", np.int64),  # the leap is over bars [first, until)
        ("until", np.int64),
        ("extreme", np.float64),
        ("margin_per", np.float64),
        ("collateral_per", np.float64),
        ("kept_per", np.float64),
        ("factor", np.float64),  # the guard all blocks passed over stayed clear of
        ("guard", np.float64),
        ("thinnest", np.float64),  # least of side * (adverse mark - CF)
        ("tallest", np.float64),  # highest mark
        ("peak", np.float64),  # prices and CF of the bars that answer; a price of 0: none but the path before
        ("peak_funding", np.float64),
        ("top", np.float64),
        ("top_funding", np.float64),
        ("trough", np.float64),
        ("trough_funding", np.float64),
        ("thin", np.float64),
        ("thin_funding", np.float64),
        ("base", np.float64),  # of an exit in bar `until`
        ("reason", np.int64),  # -1: there was none, or it may go otherwise for others
        ("phase", np.int64),
    ],
    align=True,
)


@part
def has_kin(rates: Rates, plan: Plan, known: Table) -> bool:
    """May positions of this plan be told from each other, and is there room to keep what one did?"""
    return (
        known.size > 0
        and plan["compounding"] != 0
        and plan["call_action"] == NO_CALL
        and not rates.whole
        and not rates.per_unit > 0.0
    )


@part
def scaled(amount: float, per: float, quantity: float) -> bool:
    """Is an amount that which stands `per` unit of quantity, but for rounding?"""
    return abs(amount - per * quantity) <= CLOSE * amount


@part
def of_one_shape(kin: Row, position: Position, collateral: float) -> bool:
    """Does a position differ from the one that was walked by nothing but its size?"""
    return (
        scaled(position.margin, kin["margin_per"], position.quantity)
        and scaled(collateral, kin["collateral_per"], position.quantity)
        and (position.tiers > 0 or scaled(position.kept, kin["kept_per"], position.quantity))
    )


@part
def on_one_line(rates: Rates, position: Position, tallest: float) -> bool:
    """Is the first maintenance line, without a deduction, above the others at every mark up to `tallest`, also as rounded?

    The others are steeper: what is clear of the first at the highest mark is clear of it below.
    """
    if position.tiers <= 1:
        return position.tiers == 0 or rates.tiers[0, DEDUCTION] == 0.0
    notional, clear = position.quantity * tallest, rates.tiers[0, DEDUCTION] == 0.0
    for k in range(1, position.tiers):
        steep = notional * rates.tiers[k, RATE]
        clear &= steep - rates.tiers[k, DEDUCTION] <= notional * rates.tiers[0, RATE] - SLACK * steep
        clear &= rates.tiers[k, RATE] >= rates.tiers[0, RATE]
    return clear


@part
def out_of_reach(market: Market, kin: Row, position: Position) -> bool:
    """Did no bar passed over come to the guard of a position?

    With the same slope what p's guard stayed clear of; else side * (mark * factor - CF) = side * (mark - CF) - steepest * mark, which is
    not below the least of the first less the most of the second.
    """
    if position.guard_factor == kin["factor"] and position.guard_level <= kin["guard"]:
        return True
    steepest = position.side * (1.0 - position.guard_factor)
    return (
        kin["thinnest"] - steepest * kin["tallest"]
    ) - SLACK * 4.0 * market.greatest > position.guard_level


@part
def wary(market: Market, position: Position) -> Position:
    """A position whose guard stands a little nearer, so that its blocks stay clear of the guards of others; it decides nothing."""
    nearer = SLACK * ((position.entry + market.greatest) + position.margin / position.quantity)
    return Position(
        position.side, position.quantity, position.entry, position.margin, position.funding, position.lines,
        position.tiers, position.kept, position.extra, position.guard_factor, position.guard_level + nearer,
        position.stop, position.target, position.trail,
    )  # fmt: skip


@part
def found_in(known: Table, places: Places, plan: int, bar: int) -> int:
    """Where in `known` the leap of a position is that was opened in `bar` by a plan; -1 if it is not there."""
    at = places[np.uint64(bar)] - 1
    if at < 0 or known[at]["bar"] != bar or known[at]["plan"] != plan:
        return -1
    return int(at)


@part
def leapt(market: Market, rates: Rates, kin: Row, position: Position, path: Path) -> Path:
    """The path after the leap that `kin` tells of."""
    peak, top = path.peak, path.peak
    drawdown, worst = path.drawdown, path.worst_ratio
    if kin["peak"] > 0.0:
        peak = max(peak, equity(position, kin["peak"], kin["peak_funding"]))
    if kin["trough"] > 0.0:
        if kin["top"] > 0.0:
            top = max(top, equity(position, kin["top"], kin["top_funding"]))
        drawdown = marked(equity(position, kin["trough"], kin["trough_funding"]), top, drawdown)[1]
    if kin["thin"] > 0.0:
        worst = seen(rates, position, worst, kin["thin"], kin["thin_funding"])
    return seen_on(path, kin["extreme"], peak, drawdown, worst)


@part
def told(
    market: Market, rates: Rates, watch: Watch, care: Care, kin: Row, position: Position, path: Path, collateral: float, bar: int
) -> tuple[int, Path]:  # fmt: skip
    """From the opening in `bar` to where the leap of another ended, if it tells how that went: the next bar to look at, and the path."""
    i = bar
    if (
        of_one_shape(kin, position, collateral)
        and out_of_reach(market, kin, position)
        and on_one_line(rates, position, kin["tallest"])
    ):
        i, path = look(market, rates, watch, care, position, path, i, kin["first"])
        if i == kin["first"]:
            i, path = kin["until"], leapt(market, rates, kin, position, path)
    return i, path


@part
def left_alike(market: Market, rates: Rates, kin: Row, position: Position, path: Path) -> Exit:
    """The exit in the bar the leap ended before, `path` being that up to it."""
    bar, worst = kin["until"], path.worst_ratio
    if kin["reason"] == END:
        bar -= 1
    else:
        mark, funding = market.series[MARK_OPEN, bar], market.series[FUNDING, bar]
        worst = seen(rates, position, worst, mark, funding)
    return Exit(bar, kin["phase"], kin["reason"], kin["base"], position, with_worst(path, worst))


@part
def apart(market: Market, rates: Rates, notes: Floats, position: Position, collateral: float) -> bool:
    """Does one bar answer for each figure of the path after the leap that is noted, as it would for any size?"""
    leap, deep, thin = notes[LEAP], notes[DEEP], notes[THIN]
    if leap[FIRST] < 0.0 or notes[PEAK, PRICE] == TIE or deep[TOP] == TIE:
        return False
    room = SLACK * (4.0 * position.quantity * market.greatest + position.margin)
    if max(deep[RIVAL], 0.0) > max(deep[VALUE], leap[DRAWDOWN]) - 2.0 * room / collateral:
        return False
    left, worst = position.margin, max(thin[VALUE], leap[WORST])
    if thin[PRICE] > 0.0:
        left = equity(position, thin[PRICE], thin[CHARGED])
    if not left > 0.0 or thin[RIVAL] > worst * ((1.0 - 4.0 * SLACK) - 2.0 * room / left):
        return False
    return room <= STEADY * SLACK * left or ratio_falls_with_price(rates, position, market)


@part
def keep(
    market: Market, rates: Rates, notes: Floats, watch: Watch, position: Position, collateral: float, plan: int, row: Row,
    known: Table, places: Places,
) -> None:  # fmt: skip
    """Keep the first leap of the position in `row`, if it is of use to others, in the place of the oldest, which the last of `places`
    tells. `rates` are those of the opening.
    """
    bar = row["entry_bar"]
    epoch = epoch_at(rates, bar) + 1
    if (
        not apart(market, rates, notes, position, collateral)
        or not on_one_line(rates, position, notes[LEAP, TALLEST])
        or (epoch < rates.since.size and notes[LEAP, UNTIL] > rates.since[epoch])
    ):
        return
    at = places[places.size - 1]
    kin, leap = known[at], notes[LEAP]
    kin["bar"], kin["plan"] = bar, plan
    kin["first"], kin["until"], kin["extreme"] = int(leap[FIRST]), int(leap[UNTIL]), leap[EXTREME]
    kin["margin_per"] = position.margin / position.quantity
    kin["collateral_per"] = collateral / position.quantity
    kin["kept_per"] = position.kept / position.quantity
    kin["factor"], kin["guard"] = leap[FACTOR], leap[GUARD]
    kin["thinnest"], kin["tallest"] = leap[THINNEST], leap[TALLEST]
    kin["peak"], kin["peak_funding"] = notes[PEAK, PRICE], notes[PEAK, CHARGED]
    kin["top"], kin["top_funding"] = notes[DEEP, TOP], notes[DEEP, TOP_CHARGED]
    kin["trough"], kin["trough_funding"] = notes[DEEP, PRICE], notes[DEEP, CHARGED]
    kin["thin"], kin["thin_funding"] = notes[THIN, PRICE], notes[THIN, CHARGED]
    keep_exit(
        market,
        watch,
        position,
        row,
        kin,
        market.time.size if epoch == rates.since.size else rates.since[epoch],
    )
    places[np.uint64(bar)] = at + 1
    places[places.size - 1] = (at + 1) % known.size


@part
def keep_exit(market: Market, watch: Watch, position: Position, row: Row, kin: Row, end: int) -> None:
    """Keep also how the position in `row` left, if others leave alike: by what is not liquidation, in the bar its leap ended before, and
    in the epoch of margin rates, which ends at bar `end`.
    """
    kin["reason"], kin["phase"], kin["base"] = -1, row["phase"], row["base"]
    bar, bars = kin["until"], market.time.size
    if bar == bars:
        if row["reason"] == END and end == bars:
            kin["reason"] = END
    elif bar < end and row["exit_bar"] == bar and row["reason"] != LIQUIDATION:
        adverse, funding = market.series[watch.adverse, bar], market.series[FUNDING, bar]
        if position.side * ((adverse * kin["factor"]) - funding) > kin["guard"]:
            kin["reason"] = row["reason"]
            kin["thinnest"] = min(kin["thinnest"], position.side * (adverse - funding))
            kin["tallest"] = max(kin["tallest"], market.series[MARK_HIGH, bar])
