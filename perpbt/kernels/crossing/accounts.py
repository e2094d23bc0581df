"""What happens to a wallet now and then: a leg opens, an order of its own closes it (MODEL §3, §5); `ending` has the rest.

What each leg comes to goes to its row of the result. A wallet's money is one; a row gets what its own leg earned and cost, so that it
may come to less than nothing, at the cost of the others.
"""

from __future__ import annotations

import numpy as np

from perpbt.kernels.compile import kernel, part
from perpbt.kernels.contracts import in_lots, moved, on_tick
from perpbt.kernels.crossing.margin import (
    equity,
    hold,
    put_under,
    reach,
    required,
    stand_at,
)
from perpbt.kernels.crossing.tables import (
    CLOSE_OUT,
    CLOSED,
    FUNDING_,
    HELD,
    INVERSE,
    LOT_PER,
    LOT_UNITS,
    MAKER,
    MARK_CLOSE_,
    MARK_OPEN_,
    OPEN_,
    PER_UNIT,
    SLIPPAGE,
    TAKER,
    TICK_PER,
    TICK_UNITS,
    Assets,
    Charges,
    Grid,
)
from perpbt.kernels.tables import (
    ABOVE_LAST_TIER,
    ABOVE_MAXIMUM_LEVERAGE,
    ACCEPTED,
    BELOW_ONE_LOT,
    CAP,
    END,
    LIQUIDATED_AT_ENTRY,
    MAX_LEVERAGE,
    OPEN,
    RATE,
    REJECTED,
    STOP_BEYOND_ENTRY,
    Row,
    Table,
    Terms,
)

DOUBLINGS = 60
EVEN = 1e-12  # of what is held: legs whose net is no more cancel, but for rounding


@kernel
def falls_at(
    grid: Grid, charges: Charges, legs: Table, wallet: Table, account: int, held: Table, h: int, funding: float, price: float
) -> bool:  # fmt: skip
    """Is the account liquidated at this mark of holding `h`, the others standing as they do?"""
    one, acc = held[h], wallet[account]
    one["low"], one["high"], one["worth"] = price, price, price - funding
    for k in range(acc["symbols"], acc["held"]):  # assets priced by the same symbol
        if held[k]["symbol"] == one["symbol"]:
            held[k]["low"], held[k]["high"], held[k]["worth"] = price, price, price
    return equity(held, acc) <= required(charges, legs, held, acc)


@kernel
def falls_to(
    grid: Grid, charges: Charges, legs: Table, wallet: Table, account: int, held: Table, h: int, t: int, inside: float,
    beyond: float,
) -> float:  # fmt: skip
    """The mark of holding `h` nearest to `inside` at which the account is liquidated, the others at mark open of bar t.

    Looked for towards `beyond`, NaN: down for a net long, up for the others. 0 or infinity if there is none.
    """
    acc, symbol = wallet[account], held[h]["symbol"]
    stand_at(grid, held, acc, t, MARK_OPEN_)
    funding = grid.series[symbol, FUNDING_, t]
    if np.isnan(beyond):
        beyond = 0.0 if held[h]["net"] > EVEN * held[h]["gross"] else inside
        for _ in range(DOUBLINGS):
            if beyond == 0.0 or falls_at(grid, charges, legs, wallet, account, held, h, funding, beyond):
                break
            beyond = beyond * 2.0
        if not falls_at(grid, charges, legs, wallet, account, held, h, funding, beyond):
            return 0.0 if beyond == 0.0 else np.inf
    if falls_at(grid, charges, legs, wallet, account, held, h, funding, inside):
        return inside
    while True:
        middle = (inside + beyond) / 2.0
        if middle in (inside, beyond):
            return beyond
        if falls_at(grid, charges, legs, wallet, account, held, h, funding, middle):
            beyond = middle
        else:
            inside = middle


@kernel
def price_at_entry(
    grid: Grid, charges: Charges, legs: Table, wallet: Table, account: int, held: Table, symbol: int, t: int
) -> float:
    """Where the account is liquidated if only this symbol's mark moves. It may lie beyond all marks, so every line counts."""
    acc, found = wallet[account], 0.0
    for h in range(acc["symbols"]):
        one = held[h]
        if one["symbol"] != symbol:
            continue
        count, near = charges.tier_count[one["ladder"]], one["lines"]
        one["lines"] = count
        for j in range(one["first"], one["last"]):
            legs[j]["lines"] = count
        found = falls_to(
            grid, charges, legs, wallet, account, held, h, t, grid.series[symbol, MARK_OPEN_, t], np.nan
        )
        one["lines"] = near
        for j in range(one["first"], one["last"]):
            leg = legs[j]
            most = leg["quantity"] * max(leg["price"], grid.highest[symbol])
            leg["lines"] = reach(charges, one["ladder"], most)
    return found


@kernel
def bankrupt_at(grid: Grid, wallet: Table, account: int, held: Table, symbol: int, t: int) -> float:
    """The mark of a symbol at which the account's equity is 0, the others at mark open of bar t; 0 or infinity where there is none."""
    acc, slope = wallet[account], 0.0
    stand_at(grid, held, acc, t, MARK_OPEN_)
    for h in range(acc["held"]):
        one = held[h]
        if one["symbol"] == symbol:  # assets priced by it move with it
            slope = slope + one["net"]
            one["worth"] = 0.0 if one["asset"] == 1 else 0.0 - grid.series[symbol, FUNDING_, t]
    rest = equity(held, acc)
    price = (0.0 - rest) / slope if slope != 0.0 else 0.0
    if price > 0.0:
        return price
    return 0.0 if slope > 0.0 else np.inf


# ------------------------------------------------------------------------------------------------------ opening
@part
def contract_of(charges: Charges, symbol: int) -> Terms:
    """What a symbol's contract makes of prices and quantities."""
    numbers = charges.numbers[symbol]
    return Terms(
        numbers[INVERSE] != 0.0, numbers[LOT_UNITS], numbers[LOT_PER], numbers[TICK_UNITS], numbers[TICK_PER]
    )


@part
def asset_value(grid: Grid, assets: Assets, account: int, row: int, t: int) -> float:
    """Assets at their price, without haircut."""
    total = 0.0
    for k in range(assets.first[account], assets.first[account + 1]):
        total = total + assets.amount[k] * grid.series[assets.symbol[k], row, t]
    return total


@part
def allowed(charges: Charges, symbol: int, tier: int, ladder: int, size: float, leverage: float) -> int:
    """Whether a tier allows this leverage; a rate that grows with size adds to the initial margin too."""
    tiers, most = charges.tiers, charges.tiers[ladder, tier, MAX_LEVERAGE]
    grown = charges.numbers[symbol, PER_UNIT] * size
    if grown > 0.0:
        if (tiers[ladder, tier, RATE] + charges.numbers[symbol, CLOSE_OUT]) + grown >= 1.0:
            return ABOVE_LAST_TIER  # no equity is enough
        most = 1.0 / (1.0 / most + grown)
    return ABOVE_MAXIMUM_LEVERAGE if leverage > most else ACCEPTED


@kernel
def open_leg(
    grid: Grid, charges: Charges, assets: Assets, legs: Table, first: int, last: int, j: int, t: int, account: int,
    wallet: Table, held: Table, rows: Table,
) -> None:  # fmt: skip
    """Size and checks as for an isolated position; then the whole account must stand at mark open."""
    leg, acc, row = legs[j], wallet[account], rows[legs[j]["place"]]
    symbol, side, leverage = leg["symbol"], leg["side"], leg["leverage"]
    ladder = charges.ladder[acc["epoch"], symbol]
    charge, tiers, count = charges.numbers[symbol], charges.tiers, charges.tier_count[ladder]
    contract = contract_of(charges, symbol)
    entry = moved(contract, grid.series[symbol, OPEN_, t], side * charge[SLIPPAGE])
    buffered, collateral = 1.0 + leg["buffer"], leg["collateral"]
    notional = (collateral * leverage) / (buffered + charge[TAKER] * leverage)
    last_cap = tiers[ladder, count - 1, CAP]
    rejection, oversized = ACCEPTED, notional > last_cap
    if oversized and charges.clip:
        notional = last_cap
    elif oversized:
        rejection = ABOVE_LAST_TIER
    quantity, whole = notional / entry, contract.lot_per != 0.0
    if whole:
        quantity = in_lots(contract, quantity)
        notional = min(quantity * entry, notional)  # lots round down; the product may round up
    if rejection == ACCEPTED and not quantity > 0.0:
        rejection = BELOW_ONE_LOT
    margin, fee = (buffered * notional) / leverage, charge[TAKER] * notional
    k = 0
    while k < count - 1 and notional > tiers[ladder, k, CAP]:
        k += 1
    if rejection == ACCEPTED:
        size = notional if contract.inverse else quantity  # in base units
        rejection = allowed(charges, symbol, k, ladder, size, leverage)
    stop = on_tick(contract, side, moved(contract, entry, -(side * leg["stop_value"])))
    target = on_tick(contract, side, moved(contract, entry, side * leg["target_value"]))
    if rejection == ACCEPTED and (side * stop >= side * entry or side * target <= side * entry):
        rejection = STOP_BEYOND_ENTRY  # neither holds of what is not asked for, which is NaN
    if (oversized or whole) and rejection == ACCEPTED:
        collateral = margin + fee
    leg["status"] = CLOSED
    row["lane"], row["entry_bar"], row["exit_bar"], row["side"] = leg["place"], t, t, np.int8(side)
    row["collateral"] = leg["collateral"]
    if rejection == ACCEPTED:
        fresh = acc["carrier"] == -1 and assets.first[account + 1] > assets.first[account]
        before = acc["cash"]
        leg["status"], leg["price"], leg["quantity"] = HELD, entry, quantity
        leg["funding"], leg["stop"], leg["target"] = grid.series[symbol, FUNDING_, t], stop, target
        leg["extreme"], leg["seen"] = side * entry, t
        leg["factor"] = moved(contract, 1.0, -(side * leg["trail"]))
        put_under(grid, charges, leg, ladder)
        acc["cash"] = (before + (collateral + leg["reserve"])) - fee
        if fresh:
            acc["carrier"] = j
        hold(grid, charges, assets, legs, first, last, account, wallet, held)
        stand_at(grid, held, acc, t, MARK_OPEN_)
        left, kept = equity(held, acc), required(charges, legs, held, acc)
        if left > kept:
            brought, worth = collateral + leg["reserve"], 0.0
            if fresh:
                worth = asset_value(grid, assets, account, MARK_OPEN_, t)
                acc["assets_from"] = worth
                brought = brought + worth
            acc["brought"], acc["peak"] = acc["brought"] + brought, acc["peak"] + brought
            row["collateral"], row["top_up"] = collateral, leg["reserve"] + worth
            row["entry"], row["quantity"], row["margin"], row["notional"] = (
                entry,
                leg["quantity"],
                margin,
                notional,
            )
            row["entry_funding"], row["open_fee"] = leg["funding"], fee
            row["exit_quantity"], row["exit_margin"] = leg["quantity"], margin
        else:
            rejection, leg["status"], acc["cash"] = LIQUIDATED_AT_ENTRY, CLOSED, before
            if fresh:
                acc["carrier"] = -1
            hold(grid, charges, assets, legs, first, last, account, wallet, held)
    row["rejection"] = rejection
    row["reason"] = REJECTED if rejection != ACCEPTED else END


# -------------------------------------------------------------------------------------------------------- exits
@part
def see_value(acc: Row, value: float) -> None:
    """The running peak of equity and the deepest fall below it."""
    acc["peak"] = max(acc["peak"], value)
    acc["drawdown"] = max(acc["drawdown"], (acc["peak"] - value) / acc["peak"])


@part
def close_leg(
    leg: Row, row: Row, t: int, phase: int, reason: int, base: float, fill: float, funding: float
) -> None:
    """PnL and funding of a leg closed at `fill`."""
    signed = leg["side"] * leg["quantity"]
    leg["status"] = CLOSED
    row["exit_bar"], row["phase"], row["reason"], row["base"], row["fill"] = t, phase, reason, base, fill
    row["exit_funding"], row["pnl"] = funding, signed * (fill - leg["price"])
    row["funding"] = -(signed * (funding - leg["funding"]))


@part
def settle_leg(
    leg: Row, row: Row, acc: Row, fee: float, penalty: float, surplus: float, deficit: float
) -> None:
    """What a leg came to; negative where the rest of the wallet paid for it."""
    row["close_fee"], row["liquidation_fee"], row["surplus"], row["deficit"] = fee, penalty, surplus, deficit
    brought = (row["collateral"] + leg["reserve"]) - row["open_fee"]
    row["back"] = ((((brought + row["funding"]) + row["pnl"]) - fee) - penalty) - surplus + deficit
    acc["surplus"], acc["deficit"] = acc["surplus"] + surplus, acc["deficit"] + deficit


@part
def convert(grid: Grid, assets: Assets, account: int, acc: Row, t: int, phase: int, needed: float) -> None:
    """Sell assets in their order, at the open of the bar or else at its close, less the conversion fee, until there is as much cash as
    needed.
    """
    price = MARK_OPEN_ if phase == OPEN else MARK_CLOSE_
    if acc["carrier"] == -1:
        return
    for k in range(assets.first[account], assets.first[account + 1]):
        if acc["cash"] < needed and assets.amount[k] > 0.0:
            worth = grid.series[assets.symbol[k], price, t] * (1.0 - assets.fee[k])
            amount = min(assets.amount[k], (needed - acc["cash"]) / worth)
            rest = assets.amount[k] - amount
            proceeds = amount * worth
            acc["cash"] = needed if rest > 0.0 else acc["cash"] + proceeds
            acc["converted"] = acc["converted"] + proceeds
            assets.counted[k] = assets.counted[k] * (rest / assets.amount[k])
            assets.amount[k] = rest


@part
def kept_value(grid: Grid, assets: Assets, account: int, acc: Row, t: int, phase: int) -> float:
    """Assets the account has brought, at the open of the bar or else at its close."""
    price = MARK_OPEN_ if phase == OPEN else MARK_CLOSE_
    return 0.0 if acc["carrier"] == -1 else asset_value(grid, assets, account, price, t)


@kernel
def leave(
    grid: Grid, charges: Charges, assets: Assets, legs: Table, first: int, last: int, j: int, t: int, phase: int, reason: int,
    base: float, limit: bool, account: int, wallet: Table, held: Table, rows: Table,
) -> None:  # fmt: skip
    """A leg closed by an order of its own. Its fee is cut to what is left only where it leaves the account flat."""
    leg, acc, row = legs[j], wallet[account], rows[legs[j]["place"]]
    symbol = leg["symbol"]
    charge = charges.numbers[symbol]
    fill = base
    if not limit:
        fill = moved(contract_of(charges, symbol), base, -(leg["side"] * charge[SLIPPAGE]))
    close_leg(leg, row, t, phase, reason, base, fill, grid.series[symbol, FUNDING_, t])
    acc["cash"] = (acc["cash"] + row["funding"]) + row["pnl"]
    fee = (charge[MAKER] if limit else charge[TAKER]) * (leg["quantity"] * fill)
    flat = True
    for other in range(first, last):
        flat = flat and legs[other]["status"] != HELD
    if flat:
        fee = min(fee, max(acc["cash"], 0.0))
    acc["cash"] = acc["cash"] - fee
    deficit = 0.0
    if flat and acc["cash"] < 0.0:
        convert(grid, assets, account, acc, t, phase, 0.0)
        if acc["cash"] < 0.0:
            deficit, acc["cash"] = 0.0 - acc["cash"], 0.0
    settle_leg(leg, row, acc, fee, 0.0, 0.0, deficit)
    if flat:
        see_value(acc, acc["cash"] + kept_value(grid, assets, account, acc, t, phase))
    hold(grid, charges, assets, legs, first, last, account, wallet, held)
