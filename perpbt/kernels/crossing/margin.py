"""Equity of a wallet against what its positions must keep, at a point of a bar or over a block of bars.

A point has one mark a symbol. A block has a least and a greatest, and then equity is bounded from below and the requirement from above:
rounding is monotone, so a block in which these do not meet has no bar in which they do, without any tolerance.
"""

from __future__ import annotations

import numpy as np

from perpbt.kernels.compile import kernel, part
from perpbt.kernels.crossing.tables import (
    BASIS,
    CLOSE_OUT,
    EXTREME_DOWN,
    EXTREME_UP,
    EXTREME_WEIGHT,
    FUNDING_,
    GROWTH,
    HELD,
    INVERSE,
    PER_UNIT,
    SHOCKS,
    WHOLE,
    Assets,
    Charges,
    Grid,
)
from perpbt.kernels.tables import CAP, DEDUCTION, RATE, Row, Table


@part
def kept_of(charges: Charges, symbol: int, ladder: int, notional: float, lines: int) -> float:
    """MM(N) over the first `lines` tiers; of risk-limit steps, at the rate of the band that holds all of N."""
    tiers = charges.tiers
    if charges.steps and charges.numbers[symbol, WHOLE] != 0.0:
        band = 0
        while band < charges.tier_count[ladder] - 1 and notional > tiers[ladder, band, CAP]:
            band += 1
        return notional * tiers[ladder, band, RATE]
    needed = notional * tiers[ladder, 0, RATE] - tiers[ladder, 0, DEDUCTION]
    for k in range(1, lines):
        needed = max(needed, notional * tiers[ladder, k, RATE] - tiers[ladder, k, DEDUCTION])
    return needed


@part
def reach(charges: Charges, ladder: int, notional: float) -> int:
    """How many lines can bind while the notional stays at most this; those within rounding distance count."""
    count, most = charges.tier_count[ladder], notional * (1.0 + 1e-9)
    k = 0
    while k < count and most > charges.tiers[ladder, k, CAP]:
        k += 1
    return min(k + 1, count)


@part
def kept_at_entry(charges: Charges, symbol: int, ladder: int, quantity: float, price: float) -> float:
    """Maintenance of a quantity on its entry notional, for venues that go by that."""
    notional = quantity * price
    grown = charges.numbers[symbol, PER_UNIT] * (
        notional if charges.numbers[symbol, INVERSE] != 0.0 else quantity
    )
    return kept_of(charges, symbol, ladder, notional, charges.tier_count[ladder]) + grown * notional


@part
def extra_of(charges: Charges, symbol: int, quantity: float) -> float:
    """What is asked for beyond the tiers, of mark notional: to close out, and what grows with size that no mark moves."""
    extra = charges.numbers[symbol, CLOSE_OUT]
    if charges.entry_maintenance or charges.numbers[symbol, INVERSE] != 0.0:
        return extra
    return extra + charges.numbers[symbol, PER_UNIT] * quantity


@part
def kept_now(charges: Charges, ladder: int, quantity: float, price: float, of: Row) -> float:
    """What a quantity must keep at a mark, close-out rate included, by the numbers of its leg or holding."""
    notional, kept = quantity * price, of["kept"]
    if not charges.entry_maintenance:
        kept = kept_of(charges, of["symbol"], ladder, notional, of["lines"])
    kept = kept + of["extra"] * notional
    if charges.grows:
        kept = kept + (charges.numbers[of["symbol"], GROWTH] * notional) * notional
    return kept


@part
def put_under(grid: Grid, charges: Charges, leg: Row, ladder: int) -> None:
    """Let a leg be kept by these tiers."""
    quantity, price, symbol = leg["quantity"], leg["price"], leg["symbol"]
    leg["lines"] = reach(charges, ladder, quantity * max(price, grid.highest[symbol]))
    leg["kept"] = kept_at_entry(charges, symbol, ladder, quantity, price)
    leg["extra"] = extra_of(charges, symbol, quantity)


@part
def epoch_at(charges: Charges, epoch: int, t: int) -> int:
    """The epoch that bar t is in, this one or a later one."""
    while epoch + 1 < charges.since.size and charges.since[epoch + 1] <= t:
        epoch += 1
    return epoch


@part
def hold(
    grid: Grid,
    charges: Charges,
    assets: Assets,
    legs: Table,
    first: int,
    last: int,
    account: int,
    wallet: Table,
    held: Table,
) -> None:
    """Tell anew what the account holds, symbol after symbol: after every opening and exit."""
    acc = wallet[account]
    count, open_legs, j, base = 0, 0, first, acc["cash"]
    while j < last:
        symbol, begin = legs[j]["symbol"], j
        net, gross, value = 0.0, 0.0, 0.0
        while j < last and legs[j]["symbol"] == symbol:
            leg = legs[j]
            if leg["status"] == HELD:
                signed = leg["side"] * leg["quantity"]
                net = net + signed
                gross = gross + leg["quantity"]
                value = value + leg["quantity"] * leg["price"]
                base = base - signed * (leg["price"] - leg["funding"])
                open_legs += 1
            j += 1
        if gross > 0.0:
            one = held[count]
            one["symbol"], one["first"], one["last"], one["asset"] = symbol, begin, j, 0
            one["unit"], one["ladder"] = charges.unit[symbol], charges.ladder[acc["epoch"], symbol]
            one["net"], one["delta"], one["gross"] = net, net, gross
            if charges.one_way:
                size, entry = abs(net), value / gross
                one["lines"] = reach(charges, one["ladder"], size * max(entry, grid.highest[symbol]))
                one["kept"] = kept_at_entry(charges, symbol, one["ladder"], size, entry)
                one["extra"] = extra_of(charges, symbol, size)
            count += 1
    acc["base"], acc["open"], acc["symbols"] = base, open_legs, count
    if acc["carrier"] != -1:
        for k in range(assets.first[account], assets.first[account + 1]):
            one = held[count]
            one["symbol"], one["first"], one["last"], one["asset"] = assets.symbol[k], 0, 0, 1
            one["unit"], one["net"], one["delta"], one["gross"] = (
                assets.unit[k],
                assets.counted[k],
                assets.amount[k],
                0.0,
            )
            count += 1
    acc["held"] = count


@kernel
def renew(
    grid: Grid, charges: Charges, assets: Assets, legs: Table, first: int, last: int, t: int, account: int, wallet: Table,
    held: Table,
) -> None:  # fmt: skip
    """Meet the tiers in force from bar t on (MODEL §4)."""
    acc = wallet[account]
    epoch = epoch_at(charges, acc["epoch"], t)
    if epoch == acc["epoch"]:
        return
    acc["epoch"] = epoch
    for j in range(first, last):
        if legs[j]["status"] == HELD:
            put_under(grid, charges, legs[j], charges.ladder[epoch, legs[j]["symbol"]])
    hold(grid, charges, assets, legs, first, last, account, wallet, held)


@part
def symbol_kept(charges: Charges, legs: Table, held: Table, h: int, price: float) -> float:
    """What the open legs on one symbol must keep at a mark."""
    one = held[h]
    ladder = one["ladder"]
    if charges.one_way:
        return kept_now(charges, ladder, abs(one["net"]), price, one)
    total = 0.0
    for j in range(one["first"], one["last"]):
        leg = legs[j]
        if leg["status"] == HELD:
            total = total + kept_now(charges, ladder, leg["quantity"], price, leg)
    return total


@part
def charged(charges: Charges, unit: int, raw: float) -> float:
    """A raw minimum charge, each part of it times the multiplier of its tier."""
    total, floor = 0.0, 0.0
    for k in range(charges.multipliers.shape[1]):
        cap = charges.multipliers[unit, k, 0]
        if raw > floor:
            total = total + (min(raw, cap) - floor) * charges.multipliers[unit, k, 1]
        floor = cap
    return total


@part
def unit_kept(charges: Charges, held: Table, count: int, unit: int) -> float:
    """What a risk unit must keep: the worst scenario on its net value, or the minimum charge; of a block, at most."""
    least, most, long, short, raw = 0.0, 0.0, 0.0, 0.0, 0.0
    for h in range(count):
        one = held[h]
        if one["unit"] == unit:
            low, high = one["delta"] * one["low"], one["delta"] * one["high"]
            least, most = least + min(low, high), most + max(low, high)
            long = long + max(max(low, high), 0.0)
            short = short + max(0.0 - min(low, high), 0.0)
            raw = raw + charges.minimum[one["symbol"]] * (one["gross"] * one["high"])
    row = charges.units[unit]
    shock = 0.0
    for k in range(SHOCKS, row.size):
        shock = max(shock, 0.0 - row[k] * least, 0.0 - row[k] * most)
    up, down = row[EXTREME_UP], row[EXTREME_DOWN]
    extreme = row[EXTREME_WEIGHT] * max(
        max(0.0 - up * least, 0.0 - down * least), max(0.0 - up * most, 0.0 - down * most)
    )
    basis = row[BASIS] * min(long, short)
    return max(max(shock, extreme) + basis, charged(charges, unit, raw))


@part
def required(charges: Charges, legs: Table, held: Table, acc: Row) -> float:
    """What the account must keep at the marks of a point; of a block, at most."""
    total = 0.0
    if charges.portfolio:
        for unit in range(charges.units.shape[0]):
            total = total + unit_kept(charges, held, acc["held"], unit)
        return total
    for h in range(acc["symbols"]):
        total = total + symbol_kept(charges, legs, held, h, held[h]["high"])
    return total


@part
def equity(held: Table, acc: Row) -> float:
    """E at the marks of a point; of a block, at least."""
    total = acc["base"]
    for h in range(acc["held"]):
        total = total + held[h]["net"] * held[h]["worth"]
    return total


@part
def stand_at(grid: Grid, held: Table, acc: Row, t: int, row: int) -> None:
    """Look at all that is held at one kind of mark of bar t."""
    for h in range(acc["held"]):
        one = held[h]
        price = grid.series[one["symbol"], row, t]
        one["low"], one["high"], one["worth"] = price, price, price
        if one["asset"] == 0:
            one["worth"] = price - grid.series[one["symbol"], FUNDING_, t]


@part
def stand_at_worse(
    grid: Grid, charges: Charges, legs: Table, held: Table, acc: Row, t: int, low: int, high: int
) -> None:
    """Look at each symbol at the one of two marks of bar t that leaves less above what it must keep; at assets at the lower."""
    for h in range(acc["held"]):
        one = held[h]
        symbol = one["symbol"]
        below, above = grid.series[symbol, low, t], grid.series[symbol, high, t]
        one["down"] = 1
        if one["asset"] == 0:
            if charges.portfolio:
                down = one["net"] > 0.0
            else:
                spare = one["net"] * below - symbol_kept(charges, legs, held, h, below)
                down = spare <= one["net"] * above - symbol_kept(charges, legs, held, h, above)
            price = below if down else above
            one["down"] = 1 if down else 0
            one["worth"] = price - grid.series[symbol, FUNDING_, t]
        else:
            price = below
            for other in range(acc["symbols"]):  # priced by a symbol that is held: there is one price
                if held[other]["symbol"] == symbol:
                    price = held[other]["low"]
            one["worth"] = price
        one["low"], one["high"] = price, price


@part
def ratio_of(kept: float, left: float) -> float:
    """Requirement over equity: 1 is liquidation, infinite once nothing is left."""
    if left <= 0.0:
        return np.inf
    return kept / left
