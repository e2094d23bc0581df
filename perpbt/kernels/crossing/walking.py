"""One account from its first opening to its end: what happens inside a bar (MODEL §2), and which bars are looked at."""

from __future__ import annotations

import numpy as np

from perpbt.kernels.compile import bare, kernel, part
from perpbt.kernels.crossing.accounts import bankrupt_at, falls_to, leave, open_leg, price_at_entry, see_value
from perpbt.kernels.crossing.ending import book_wallet, liquidate, mark_out
from perpbt.kernels.crossing.leaping import catch_up, first_exit, leap
from perpbt.kernels.crossing.margin import equity, ratio_of, renew, required, stand_at, stand_at_worse
from perpbt.kernels.crossing.tables import (
    CLOSE_,
    CLOSED,
    HELD,
    HIGH_,
    LOW_,
    MARK_CLOSE_,
    MARK_HIGH_,
    MARK_LOW_,
    MARK_OPEN_,
    OPEN_,
    SIGMA_,
    WAITING,
    Assets,
    Charges,
    Grid,
)
from perpbt.kernels.tables import (
    NO_BAR,
    OPEN,
    RANGE,
    REJECTED,
    STOP_LOSS,
    TAKE_PROFIT,
    TIME,
    TRAILING_STOP,
    Integers,
    Row,
    Table,
)

NOTHING = -1


@part
def trailing_level(grid: Grid, leg: Row, t: int) -> float:
    """side * trailing stop in bar t, from the best of entry, earlier bars and this open. -inf where the symbol has no bar."""
    if np.isnan(grid.series[leg["symbol"], SIGMA_, t]):
        return -np.inf
    opened = grid.series[leg["symbol"], MARK_OPEN_ if leg["trail_on_mark"] == 1 else OPEN_, t]
    return max(leg["extreme"], leg["side"] * opened) * leg["factor"]


@part
def exit_at_open(grid: Grid, charges: Charges, leg: Row, t: int) -> tuple[int, float, bool]:
    """Stop, trailing stop, take-profit and time exit at the open: why, base and whether it is a limit fill."""
    symbol, side = leg["symbol"], leg["side"]
    opened, marked = grid.series[symbol, OPEN_, t], grid.series[symbol, MARK_OPEN_, t]
    if side * (marked if leg["stop_on_mark"] == 1 else opened) <= side * leg["stop"]:
        return STOP_LOSS, opened, False
    trails, seen = not np.isnan(leg["trail"]), marked if leg["trail_on_mark"] == 1 else opened
    if trails and side * seen <= trailing_level(grid, leg, t):
        return TRAILING_STOP, opened, False
    on_mark = leg["target_on_mark"] == 1
    if side * (marked if on_mark else opened) >= side * leg["target"]:
        if on_mark:
            return TAKE_PROFIT, opened, False
        return TAKE_PROFIT, opened if charges.target_at_open else leg["target"], True
    if leg["due"] >= 0 and t >= leg["due"]:
        return TIME, opened, False
    return NOTHING, 0.0, False


@part
def adverse_exit(grid: Grid, leg: Row, t: int) -> tuple[int, float]:
    """Of stop and trailing stop the one met first inside the range, and side * its price; the stop if they are one."""
    symbol, side = leg["symbol"], leg["side"]
    last, mark = (LOW_, MARK_LOW_) if side > 0.0 else (HIGH_, MARK_HIGH_)
    why, nearest = NOTHING, -np.inf
    if side * grid.series[symbol, mark if leg["stop_on_mark"] == 1 else last, t] <= side * leg["stop"]:
        why, nearest = STOP_LOSS, side * leg["stop"]
    if not np.isnan(leg["trail"]):
        trailing = trailing_level(grid, leg, t)
        worst = side * grid.series[symbol, mark if leg["trail_on_mark"] == 1 else last, t]
        if worst <= trailing and trailing > nearest:
            why, nearest = TRAILING_STOP, trailing
    return why, nearest


@part
def stopped_at(grid: Grid, leg: Row, t: int, threshold: float) -> float:
    """The price before slippage of a stop at side * `threshold` inside the range: one that traded, no better than the open."""
    symbol, price, opened = leg["symbol"], leg["side"] * threshold, grid.series[leg["symbol"], OPEN_, t]
    base = min(price, opened) if leg["side"] > 0.0 else max(price, opened)
    return min(max(base, grid.series[symbol, LOW_, t]), grid.series[symbol, HIGH_, t])


@part
def favourable_exit(grid: Grid, leg: Row, t: int) -> tuple[int, float, bool]:
    """The take-profit inside the range."""
    symbol, side, on_mark = leg["symbol"], leg["side"], leg["target_on_mark"] == 1
    low, high = LOW_, HIGH_
    if on_mark:
        low, high = MARK_LOW_, MARK_HIGH_
    best = grid.series[symbol, high if side > 0.0 else low, t]
    if not side * best >= side * leg["target"]:
        return NOTHING, 0.0, False
    if on_mark:
        target = min(max(leg["target"], grid.series[symbol, LOW_, t]), grid.series[symbol, HIGH_, t])
        return TAKE_PROFIT, target, False
    return TAKE_PROFIT, leg["target"], True


@kernel
def nearest_stop(
    grid: Grid, charges: Charges, legs: Table, t: int, account: int, wallet: Table, held: Table
) -> int:
    """The leg whose stop is met before the liquidation price on the way to the adverse extreme; -1: none."""
    one, nearest, beyond, first = held[0], NOTHING, held[0]["low"], -np.inf
    way = 1.0 if one["down"] == 1 else -1.0
    inside, limit = grid.series[one["symbol"], MARK_OPEN_, t], np.nan
    for j in range(one["first"], one["last"]):
        leg = legs[j]
        if leg["status"] != HELD or leg["side"] != way:
            continue
        why, met = adverse_exit(grid, leg, t)
        if why == NOTHING:
            continue
        if np.isnan(limit):
            limit = falls_to(grid, charges, legs, wallet, account, held, 0, t, inside, beyond)
        if met > way * limit and met > first:
            nearest, first = j, met
    return nearest


@kernel
def meet_extremes(
    grid: Grid, charges: Charges, assets: Assets, legs: Table, first: int, last: int, t: int, account: int, wallet: Table,
    held: Table, rows: Table,
) -> None:  # fmt: skip
    """The adverse extremes have been reached: on one symbol stops nearer than the liquidation price go first; then all, if it must be."""
    acc, one = wallet[account], wallet[account]["symbols"] == 1
    while acc["open"] > 0:
        stand_at_worse(grid, charges, legs, held, acc, t, MARK_LOW_, MARK_HIGH_)
        if equity(held, acc) > required(charges, legs, held, acc):
            return
        j = nearest_stop(grid, charges, legs, t, account, wallet, held) if one else NOTHING
        if j == NOTHING:
            acc["worst"] = max(acc["worst"], 1.0)
            stand_at_worse(grid, charges, legs, held, acc, t, MARK_LOW_, MARK_HIGH_)
            liquidate(
                grid, charges, assets, legs, first, last, t, RANGE, LOW_, HIGH_, account, wallet, held, rows
            )
            return
        why, met = adverse_exit(grid, legs[j], t)
        leave(
            grid, charges, assets, legs, first, last, j, t, RANGE, why, stopped_at(grid, legs[j], t, met), False, account, wallet,
            held, rows,
        )  # fmt: skip


@part
def run_range(
    grid: Grid, charges: Charges, assets: Assets, legs: Table, first: int, last: int, t: int, account: int, wallet: Table,
    held: Table, rows: Table,
) -> None:  # fmt: skip
    """MODEL §2 C: the adverse extreme, orders inside the range, or the close."""
    acc = wallet[account]
    at_extremes = acc["symbols"] == 1 or charges.extremes
    if charges.optimistic and at_extremes:
        for j in range(first, last):
            if legs[j]["status"] == HELD:
                why, base, limit = favourable_exit(grid, legs[j], t)
                if why != NOTHING:
                    leave(
                        grid, charges, assets, legs, first, last, j, t, RANGE, why, base, limit, account, wallet, held, rows
                    )  # fmt: skip
    if at_extremes and acc["open"] > 0:
        stand_at_worse(grid, charges, legs, held, acc, t, MARK_LOW_, MARK_HIGH_)
        if equity(held, acc) <= required(charges, legs, held, acc):
            meet_extremes(grid, charges, assets, legs, first, last, t, account, wallet, held, rows)
    for j in range(first, last):
        if legs[j]["status"] != HELD:
            continue
        why, met = adverse_exit(grid, legs[j], t)
        base, limit = 0.0, False
        if why != NOTHING:
            base = stopped_at(grid, legs[j], t, met)
        if why == NOTHING or charges.optimistic:
            other, at, resting = favourable_exit(grid, legs[j], t)
            if other != NOTHING:
                why, base, limit = other, at, resting
        if why != NOTHING:
            leave(
                grid, charges, assets, legs, first, last, j, t, RANGE, why, base, limit, account, wallet, held, rows
            )  # fmt: skip
    if acc["open"] == 0:
        return
    if at_extremes:
        stand_at_worse(grid, charges, legs, held, acc, t, MARK_LOW_, MARK_HIGH_)
    else:
        stand_at(grid, held, acc, t, MARK_CLOSE_)
    left, kept = equity(held, acc), required(charges, legs, held, acc)
    acc["worst"] = max(acc["worst"], ratio_of(kept, left))
    if left <= kept and not at_extremes:
        liquidate(
            grid, charges, assets, legs, first, last, t, RANGE, CLOSE_, CLOSE_, account, wallet, held, rows
        )


@part
def run_open(
    grid: Grid, charges: Charges, assets: Assets, legs: Table, first: int, last: int, t: int, account: int, wallet: Table,
    held: Table, rows: Table,
) -> None:  # fmt: skip
    """MODEL §2 B: of what is carried in, liquidation, then orders; then openings."""
    acc = wallet[account]
    if acc["open"] > 0:
        if acc["trails"] == 1:
            for j in range(first, last):
                if legs[j]["status"] == HELD and not np.isnan(legs[j]["trail"]):
                    catch_up(grid, legs[j], t)
        stand_at(grid, held, acc, t, MARK_OPEN_)
        left, kept = equity(held, acc), required(charges, legs, held, acc)
        acc["worst"] = max(acc["worst"], ratio_of(kept, left))
        if left <= kept:
            liquidate(
                grid, charges, assets, legs, first, last, t, OPEN, OPEN_, OPEN_, account, wallet, held, rows
            )
        for j in range(first, last):
            if legs[j]["status"] == HELD:
                why, base, limit = exit_at_open(grid, charges, legs[j], t)
                if why != NOTHING:
                    leave(
                        grid, charges, assets, legs, first, last, j, t, OPEN, why, base, limit, account, wallet, held, rows
                    )  # fmt: skip
    if t == acc["next_entry"]:
        soonest = grid.series.shape[2]
        for j in range(first, last):
            if legs[j]["status"] == WAITING:
                if legs[j]["entry"] == t:
                    open_leg(grid, charges, assets, legs, first, last, j, t, account, wallet, held, rows)
                    if legs[j]["status"] == HELD and grid.levels > 0:
                        legs[j]["exit_at"] = first_exit(grid, legs[j], t)
                else:
                    soonest = min(soonest, legs[j]["entry"])
        acc["next_entry"] = soonest
        opened = False
        for j in range(first, last):
            if legs[j]["status"] == HELD and legs[j]["entry"] == t:  # all that open now are open
                if not opened:
                    stand_at(grid, held, acc, t, MARK_OPEN_)
                    acc["worst"] = max(
                        acc["worst"], ratio_of(required(charges, legs, held, acc), equity(held, acc))
                    )
                    opened = True
                rows[legs[j]["place"]]["liquidation_price"] = price_at_entry(
                    grid, charges, legs, wallet, account, held, legs[j]["symbol"], t
                )
                legs[j]["bankruptcy"] = bankrupt_at(grid, wallet, account, held, legs[j]["symbol"], t)


@part
def bare_grid(grid: Grid) -> Grid:
    """The same, handed on without counting references."""
    return Grid(bare(grid.series), bare(grid.highest), bare(grid.nodes), bare(grid.starts), grid.levels)


@part
def bare_charges(of: Charges) -> Charges:
    """The same, handed on without counting references."""
    return Charges(
        bare(of.numbers), bare(of.tiers), bare(of.tier_count), bare(of.since), bare(of.ladder), bare(of.unit), bare(of.minimum), bare(of.units),
        bare(of.multipliers), of.portfolio, of.one_way, of.extremes, of.entry_maintenance, of.optimistic, of.target_at_open,
        of.clip, of.steps, of.grows, of.in_turn, bare(of.crowds), bare(of.volumes),
    )  # fmt: skip


@part
def bare_assets(of: Assets) -> Assets:
    """The same, handed on without counting references."""
    return Assets(
        bare(of.first), bare(of.symbol), bare(of.unit), bare(of.amount), bare(of.counted), bare(of.fee)
    )


@kernel
def run_wallets(
    whole_grid: Grid, all_charges: Charges, all_assets: Assets, all_legs: Table, first_leg: Integers, which: Integers, begin: int,
    end: int, wallets: Table, all_rows: Table, holdings: Table,
) -> None:  # fmt: skip
    """Accounts which[begin : end] to their end: legs [first_leg[a], first_leg[a + 1]) in their order are those of account a.

    `all_rows` begin as zeros; every leg writes its own. `holdings` is room for what one account holds. With a pyramid quiet bars are
    passed over, without one every bar is looked at.
    """
    grid, charges, assets = bare_grid(whole_grid), bare_charges(all_charges), bare_assets(all_assets)
    legs, wallet, rows, held = bare(all_legs), bare(wallets), bare(all_rows), bare(holdings)
    count = grid.series.shape[2]
    for number in range(begin, end):
        account = which[number]
        acc, first, last = wallet[account], first_leg[account], first_leg[account + 1]
        acc["carrier"], acc["liquidated_at"], acc["next_entry"] = -1, -1, count
        for j in range(first, last):
            leg = legs[j]
            if not np.isnan(leg["trail"]):
                acc["trails"] = 1
            if leg["entry"] < count:
                acc["next_entry"] = min(acc["next_entry"], leg["entry"])
            else:
                row = rows[leg["place"]]
                leg["status"], row["rejection"], row["reason"] = CLOSED, NO_BAR, REJECTED
                row["lane"], row["side"], row["collateral"] = (
                    leg["place"],
                    np.int8(leg["side"]),
                    leg["collateral"],
                )
        t = acc["next_entry"]
        while t < count:
            later = acc["epoch"] + 1
            if later < charges.since.size and charges.since[later] <= t:
                renew(grid, charges, assets, legs, first, last, t, account, wallet, held)
            run_open(grid, charges, assets, legs, first, last, t, account, wallet, held, rows)
            if acc["open"] > 0:
                run_range(grid, charges, assets, legs, first, last, t, account, wallet, held, rows)
            if acc["open"] > 0:
                stand_at(grid, held, acc, t, MARK_CLOSE_)
                see_value(acc, equity(held, acc))
            t += 1
            if acc["open"] == 0:
                t = max(t, acc["next_entry"])
            elif grid.levels > 0:
                until = min(count, acc["next_entry"])
                if acc["epoch"] + 1 < charges.since.size:
                    until = min(until, charges.since[acc["epoch"] + 1])
                for j in range(first, last):
                    if legs[j]["status"] == HELD:
                        until = min(until, legs[j]["exit_at"])
                t = leap(grid, charges, legs, held, wallet, account, t, until)
        if acc["open"] > 0:
            mark_out(grid, charges, assets, legs, first, last, account, wallet, held, rows)
        book_wallet(grid, assets, legs, first, last, account, wallet, rows)
