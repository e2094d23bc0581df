"""All legs of a wallet closed at once: liquidation and its waterfall (MODEL §6), and the end of the data."""

from __future__ import annotations

import numpy as np

from perpbt.kernels.compile import kernel, part
from perpbt.kernels.contracts import moved
from perpbt.kernels.crossing.accounts import (
    asset_value,
    close_leg,
    contract_of,
    convert,
    kept_value,
    see_value,
    settle_leg,
)
from perpbt.kernels.crossing.margin import (
    equity,
    hold,
    kept_now,
    required,
    stand_at,
    stand_at_worse,
    symbol_kept,
)
from perpbt.kernels.crossing.tables import (
    CLOSE_,
    CLOSED,
    CLOSING,
    FUNDING_,
    HALF_SPREAD,
    HELD,
    IMPACT,
    MARK_CLOSE_,
    MARK_HIGH_,
    MARK_LOW_,
    MARK_OPEN_,
    MAX_SLIPPAGE,
    OPEN_,
    PENALTY,
    SIGMA_,
    SLIPPAGE,
    SURPLUS,
    TAKER,
    TURNOVER_,
    Assets,
    Charges,
    Grid,
)
from perpbt.kernels.tables import ACCEPTED, CLOSE, END, LIQUIDATION, Row, Table


@part
def weigh(charges: Charges, legs: Table, acc: Row, held: Table) -> tuple[float, int]:
    """The weight of each leg in a liquidation, that of all and their number: maintenance at the point; portfolio margin: notional."""
    total, number = 0.0, 0
    for h in range(acc["symbols"]):
        one = held[h]
        price = one["high"]
        kept = 0.0 if charges.portfolio else symbol_kept(charges, legs, held, h, price)
        for j in range(one["first"], one["last"]):
            leg = legs[j]
            if leg["status"] != HELD:
                continue
            if charges.portfolio:
                leg["weight"] = leg["quantity"] * price
            elif charges.one_way:
                leg["weight"] = kept * (leg["quantity"] / one["gross"])
            else:
                leg["weight"] = kept_now(charges, one["ladder"], leg["quantity"], price, leg)
            total = total + leg["weight"]
            number += 1
    return total, number


@part
def divide(charges: Charges, legs: Table, acc: Row, held: Table) -> None:
    """The part of each leg in surplus and deficit: pro rata to its weight (dYdX)."""
    total, number = weigh(charges, legs, acc, held)
    for h in range(acc["symbols"]):
        for j in range(held[h]["first"], held[h]["last"]):
            leg = legs[j]
            if leg["status"] == HELD:
                leg["weight"] = leg["weight"] / total if total > 0.0 else 1.0 / number


@part
def crowd_of(grid: Grid, charges: Charges, world: int, one: Row, t: int, phase: int, own: float) -> float:
    """What the world sells in this symbol, on this side, at this moment; `own` where that is not known."""
    who = (world * charges.numbers.shape[0] + one["symbol"]) * 2 + (1 if one["net"] > 0.0 else 0)
    who = (who * 2 + phase) * (grid.series.shape[2] + 1) + t
    at = np.searchsorted(charges.crowds, who)
    return charges.volumes[at] if at < charges.crowds.size and charges.crowds[at] == who else own


@part
def fill_symbol(grid: Grid, charges: Charges, world: int, one: Row, t: int, phase: int) -> float:
    """The one price at which all legs on a symbol are liquidated: against their net quantity, or all that their world sells with it. Returns
    the notional, below 0 of a net short.
    """
    symbol = one["symbol"]
    own = abs(one["net"]) * one["base"]
    volume = own
    if charges.crowds.size > 0 and own > 0.0:
        volume = crowd_of(grid, charges, world, one, t, phase, own)
    charge, turnover = charges.numbers[symbol], grid.series[symbol, TURNOVER_, t]
    slip = charge[SLIPPAGE]
    if turnover > 0.0:
        impact = (charge[IMPACT] * grid.series[symbol, SIGMA_, t]) * np.sqrt(volume / turnover)
        slip = min(charge[HALF_SPREAD] + impact, charge[MAX_SLIPPAGE])
    side = 0.0
    if one["net"] > 0.0:
        side = 1.0
    elif one["net"] < 0.0:
        side = -1.0
    one["fill"] = moved(contract_of(charges, symbol), one["base"], -(side * slip))
    return side * own


@part
def close_symbol(
    grid: Grid,
    charges: Charges,
    legs: Table,
    acc: Row,
    one: Row,
    t: int,
    phase: int,
    low: int,
    high: int,
    rows: Table,
) -> None:
    """The open legs of a symbol closed at one price, the last price of the point looked at, which is the row `low` or `high` of the grid;
    they are to be settled.
    """
    symbol = one["symbol"]
    one["base"] = grid.series[symbol, low if one["down"] == 1 else high, t]
    sold = fill_symbol(grid, charges, acc["world"], one, t, phase)
    for j in range(one["first"], one["last"]):
        leg = legs[j]
        if leg["status"] != HELD:
            continue
        close_leg(
            leg,
            rows[leg["place"]],
            t,
            phase,
            LIQUIDATION,
            one["base"],
            one["fill"],
            grid.series[symbol, FUNDING_, t],
        )
        turned = leg["quantity"] * one["fill"]
        if charges.one_way:
            turned = (abs(one["net"]) * one["fill"]) * (leg["quantity"] / one["gross"])
        leg["fee_due"] = charges.numbers[symbol, TAKER] * turned
        leg["penalty_due"] = charges.numbers[symbol, PENALTY] * turned
        leg["status"] = CLOSING
        leg["sold"], sold = sold, 0.0


@part
def heaviest(charges: Charges, legs: Table, acc: Row, held: Table) -> int:
    """The holding whose legs must keep most; of equal ones the first."""
    weigh(charges, legs, acc, held)
    found, most = 0, -np.inf
    for h in range(acc["symbols"]):
        total = 0.0
        for j in range(held[h]["first"], held[h]["last"]):
            if legs[j]["status"] == HELD:
                total = total + legs[j]["weight"]
        if total > most:
            found, most = h, total
    return found


@part
def close_heaviest(
    grid: Grid, charges: Charges, assets: Assets, legs: Table, first: int, last: int, t: int, phase: int, low: int, high: int,
    account: int, wallet: Table, held: Table, rows: Table,
) -> None:  # fmt: skip
    """One symbol of several is closed. Fees are paid in full, for the account goes on; it is looked at again at the same point."""
    acc = wallet[account]
    one = held[heaviest(charges, legs, acc, held)]
    close_symbol(grid, charges, legs, acc, one, t, phase, low, high, rows)
    for j in range(one["first"], one["last"]):
        leg = legs[j]
        if leg["status"] == CLOSING:
            leg["status"], row = CLOSED, rows[leg["place"]]
            fee, penalty = leg["fee_due"], leg["penalty_due"]
            acc["cash"] = (((acc["cash"] + row["funding"]) + row["pnl"]) - fee) - penalty
            settle_leg(leg, row, acc, fee, penalty, 0.0, 0.0)
    hold(grid, charges, assets, legs, first, last, account, wallet, held)
    if low == OPEN_:
        stand_at(grid, held, acc, t, MARK_OPEN_)
    elif low == CLOSE_:
        stand_at(grid, held, acc, t, MARK_CLOSE_)
    else:
        stand_at_worse(grid, charges, legs, held, acc, t, MARK_LOW_, MARK_HIGH_)


@kernel
def liquidate(
    grid: Grid, charges: Charges, assets: Assets, legs: Table, first: int, last: int, t: int, phase: int, low: int, high: int,
    account: int, wallet: Table, held: Table, rows: Table,
) -> None:  # fmt: skip
    """Below what it must keep at the point looked at: everything is closed, or symbols in turn until the account stands there."""
    acc = wallet[account]
    acc["liquidations"] += 1
    if acc["liquidated_at"] == -1:
        acc["liquidated_at"] = t
    while charges.in_turn and acc["symbols"] > 1:
        close_heaviest(
            grid, charges, assets, legs, first, last, t, phase, low, high, account, wallet, held, rows
        )
        if equity(held, acc) > required(charges, legs, held, acc):
            return
    close_all(grid, charges, assets, legs, first, last, t, phase, low, high, account, wallet, held, rows)


@part
def close_all(
    grid: Grid, charges: Charges, assets: Assets, legs: Table, first: int, last: int, t: int, phase: int, low: int, high: int,
    account: int, wallet: Table, held: Table, rows: Table,
) -> None:  # fmt: skip
    """All open legs closed at once; then the waterfall of the account."""
    acc = wallet[account]
    divide(charges, legs, acc, held)
    fees, penalties, left = 0.0, 0.0, acc["cash"]
    for h in range(acc["symbols"]):
        close_symbol(grid, charges, legs, acc, held[h], t, phase, low, high, rows)
    for j in range(first, last):
        leg = legs[j]
        if leg["status"] == CLOSING:
            row = rows[leg["place"]]
            left = (left + row["funding"]) + row["pnl"]
            fees, penalties = fees + leg["fee_due"], penalties + leg["penalty_due"]
    acc["cash"] = left
    convert(grid, assets, account, acc, t, phase, fees + penalties)
    left = acc["cash"]
    after_fees = left if not left > 0.0 else (left - fees if fees <= left else 0.0)
    rest = after_fees
    if after_fees > 0.0:
        rest = after_fees - penalties if penalties <= after_fees else 0.0
    surplus, deficit, keeps = 0.0, 0.0, 0.0
    if rest > 0.0:
        surplus = charges.numbers[held[0]["symbol"], SURPLUS] * rest
        keeps = rest - surplus
    else:
        deficit = 0.0 - rest
    for j in range(first, last):
        leg = legs[j]
        if leg["status"] != CLOSING:
            continue
        leg["status"] = CLOSED
        fee, penalty = (
            share_of(leg["fee_due"], fees, left),
            share_of(leg["penalty_due"], penalties, after_fees),
        )
        settle_leg(
            leg, rows[leg["place"]], acc, fee, penalty, surplus * leg["weight"], deficit * leg["weight"]
        )
    acc["cash"] = keeps
    see_value(acc, acc["cash"] + kept_value(grid, assets, account, acc, t, phase))
    hold(grid, charges, assets, legs, first, last, account, wallet, held)


@part
def share_of(due: float, total: float, left: float) -> float:
    """What is due out of what is left: in full, or the same part of it as the others get."""
    if not left > 0.0:
        return 0.0
    if total <= left:
        return due
    return left * (due / total)


@kernel
def mark_out(
    grid: Grid, charges: Charges, assets: Assets, legs: Table, first: int, last: int, account: int, wallet: Table, held: Table,
    rows: Table,
) -> None:  # fmt: skip
    """The end of the data: marked at the last mark close, without fee or slippage."""
    acc, t = wallet[account], grid.series.shape[2] - 1
    stand_at(grid, held, acc, t, MARK_CLOSE_)
    divide(charges, legs, acc, held)
    left = acc["cash"]
    for h in range(acc["symbols"]):
        one = held[h]
        for j in range(one["first"], one["last"]):
            leg = legs[j]
            if leg["status"] == HELD:
                row, price = rows[leg["place"]], one["high"]
                close_leg(leg, row, t, CLOSE, END, price, price, grid.series[one["symbol"], FUNDING_, t])
                left = (left + row["funding"]) + row["pnl"]
                leg["status"] = CLOSING
    acc["cash"] = left
    convert(grid, assets, account, acc, t, CLOSE, 0.0)
    deficit = 0.0
    if acc["cash"] < 0.0:
        deficit, acc["cash"] = 0.0 - acc["cash"], 0.0
    for j in range(first, last):
        leg = legs[j]
        if leg["status"] == CLOSING:
            leg["status"] = CLOSED
            settle_leg(leg, rows[leg["place"]], acc, 0.0, 0.0, 0.0, deficit * leg["weight"])
    see_value(acc, acc["cash"] + kept_value(grid, assets, account, acc, t, CLOSE))
    hold(grid, charges, assets, legs, first, last, account, wallet, held)


@kernel
def book_wallet(
    grid: Grid, assets: Assets, legs: Table, first: int, last: int, account: int, wallet: Table, rows: Table
) -> None:
    """What the assets earned goes to the leg with which they came; and each row gets the figures of its wallet."""
    acc = wallet[account]
    if acc["carrier"] != -1:
        row = rows[legs[acc["carrier"]]["place"]]
        worth = asset_value(grid, assets, account, MARK_CLOSE_, grid.series.shape[2] - 1)
        acc["assets_worth"], acc["asset_pnl"] = worth, (acc["converted"] + worth) - acc["assets_from"]
        row["pnl"] = row["pnl"] + acc["asset_pnl"]
        row["back"] = (row["back"] + acc["assets_from"]) + acc["asset_pnl"]
    for j in range(first, last):
        row = rows[legs[j]["place"]]
        if row["rejection"] == ACCEPTED:
            row["drawdown"], row["worst_ratio"] = acc["drawdown"], acc["worst"]
            row["peak"] = 0.0  # the drawdown is whole: settling adds no exit
