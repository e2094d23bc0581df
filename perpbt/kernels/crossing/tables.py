"""What kernels of shared wallets read and write: bars of all symbols on one grid of times, legs, wallets.

Symbols share one union of times; where a symbol has no bar it keeps its last mark and last price, and has neither volatility nor
turnover. Assets held as collateral are further symbols of the grid, with their price as mark. An inverse contract is seen in the mirror
(`kernels.contracts`), as everywhere in kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from perpbt.kernels.tables import Floats, Integers

# rows of Grid.series, a symbol
OPEN_, LOW_, HIGH_, CLOSE_, MARK_OPEN_, MARK_LOW_, MARK_HIGH_, MARK_CLOSE_, FUNDING_, SIGMA_, TURNOVER_ = (
    range(11)
)
GRID_SERIES = 11
# columns of Grid.nodes, lows and highs in turn: worth = mark - CF and mark, of opens and closes; the same of the whole range; last price;
# CF
BODY_WORTH, BODY_MARK, RANGE_WORTH, RANGE_MARK, LAST, CHARGED = 0, 2, 4, 6, 8, 10
NODE = 12
# columns of Charges.numbers
(
    TAKER, MAKER, SLIPPAGE, PENALTY, CLOSE_OUT, HALF_SPREAD, IMPACT, MAX_SLIPPAGE, SURPLUS, WHOLE, PER_UNIT, INVERSE,
    LOT_UNITS, LOT_PER, TICK_UNITS, TICK_PER, GROWTH,
) = range(17)  # fmt: skip
# columns of Charges.units, before the shocks
EXTREME_UP, EXTREME_DOWN, EXTREME_WEIGHT, BASIS, SHOCKS = 0, 1, 2, 3, 4
WAITING, HELD, CLOSED, CLOSING = 0, 1, 2, 3  # LEG status; CLOSING: closed, not yet settled


class Grid(NamedTuple):
    """Bars of all symbols on one grid of times."""

    series: Floats  # (symbols, GRID_SERIES, times)
    highest: Floats  # mark, a symbol
    nodes: Floats  # (symbols, nodes, NODE)
    starts: Integers  # where each level starts among the nodes
    levels: int  # 0: look at every bar


class Charges(NamedTuple):
    """What the venue charges and requires, a row a symbol, and how accounts are kept."""

    numbers: Floats  # (symbols, 17)
    tiers: Floats  # (ladders, most tiers, 5): columns of tables.Rates.tiers; the last one repeated
    tier_count: Integers
    since: (
        Integers  # first bar of each epoch, ascending, 0 for the first: where the tiers of any symbol change
    )
    ladder: Integers  # (epochs, symbols): which of the tiers
    unit: Integers  # risk unit of each symbol
    minimum: Floats  # raw minimum charge on gross value, a symbol
    units: Floats  # (units, 4 + shocks); moves are those of what prices kernels see
    multipliers: Floats  # (units, tiers, 2): upper end of raw charge, multiplier
    portfolio: bool
    one_way: bool
    extremes: bool  # all adverse extremes at once instead of the close
    entry_maintenance: bool
    optimistic: bool
    target_at_open: bool
    clip: bool
    steps: bool  # are any symbol's tiers steps of the whole position?
    grows: bool  # does any symbol's rate grow with its value in coin at the mark?
    in_turn: bool  # is an account liquidated symbol by symbol?
    crowds: Integers  # who is liquidated together, ascending, and what they sell
    volumes: Floats


class Assets(NamedTuple):
    """What accounts hold as collateral besides cash: entries [first[a], first[a + 1]) of account a, in the order of conversion."""

    first: Integers
    symbol: Integers  # of the grid
    unit: Integers  # risk unit it is netted in, -1: none
    amount: Floats
    counted: Floats  # amount after the haircut
    fee: Floats  # of a conversion, by asset


# A leg: a position of an account that shares its wallet. What is asked for, then what became of it.
LEG = np.dtype(
    [
        ("place", np.int64),  # row of the result
        ("symbol", np.int64),
        ("entry", np.int64),  # bar of the grid; its number of bars: none
        ("due", np.int64),  # bar of the time exit, -1: none
        ("side", np.float64),
        ("leverage", np.float64),
        ("buffer", np.float64),
        ("collateral", np.float64),
        ("reserve", np.float64),
        ("stop_value", np.float64),  # fractions of the entry price, NaN: none
        ("target_value", np.float64),
        ("trail", np.float64),  # of the best price; NaN: none
        ("stop_on_mark", np.int8),
        ("target_on_mark", np.int8),
        ("trail_on_mark", np.int8),
        ("status", np.int8),
        ("price", np.float64),  # of entry
        ("quantity", np.float64),
        ("funding", np.float64),  # CF at entry
        ("lines", np.int64),  # maintenance lines its notional can reach
        ("exit_at", np.int64),  # bar in which an order of its own closes it, if it gets so far
        ("stop", np.float64),  # price
        ("target", np.float64),
        ("factor", np.float64),  # a trailing stop stands at this times the best price
        ("extreme", np.float64),  # side * best price of bars before `seen`
        ("seen", np.int64),
        ("kept", np.float64),  # maintenance of the entry notional, where that is what counts
        ("extra", np.float64),  # asked for beyond the tiers, of mark notional
        ("bankruptcy", np.float64),  # the wallet's, on its symbol, as it opens
        ("weight", np.float64),  # of its part in a liquidation
        (
            "sold",
            np.float64,
        ),  # of the first leg of a symbol when it is liquidated: notional of all, below 0 for a net short
        ("fee_due", np.float64),
        ("penalty_due", np.float64),
    ],
    align=True,
)
# What came of a wallet.
WALLET = np.dtype(
    [
        ("world", np.int64),
        ("cash", np.float64),
        ("base", np.float64),  # of equity, while the same legs are open
        ("peak", np.float64),
        ("drawdown", np.float64),
        ("worst", np.float64),
        ("brought", np.float64),
        ("surplus", np.float64),
        ("deficit", np.float64),
        ("liquidations", np.int64),
        ("liquidated_at", np.int64),  # bar of the first, -1: none
        ("open", np.int64),  # legs
        ("symbols", np.int64),  # they are on
        ("held", np.int64),  # entries in use of the table of held symbols, assets included
        ("next_entry", np.int64),  # bar of the next opening
        ("epoch", np.int64),
        ("trails", np.int64),  # does any leg have a trailing stop?
        ("carrier", np.int64),  # leg with which assets came, -1: none
        ("assets_from", np.float64),  # their value then
        ("assets_worth", np.float64),  # at the end
        ("asset_pnl", np.float64),
        ("converted", np.float64),
    ],
    align=True,
)
# A symbol the account holds, and a point or block of bars it is looked at in.
HOLDING = np.dtype(
    [
        ("symbol", np.int64),
        ("first", np.int64),  # of its legs
        ("last", np.int64),
        ("unit", np.int64),  # risk unit; -1 none
        ("ladder", np.int64),  # its tiers in force
        ("asset", np.int8),
        ("down", np.int8),  # is the lower mark the worse one?
        (
            "net",
            np.float64,
        ),  # what equity moves by with the mark: signed quantity, or amount counted of an asset
        ("delta", np.float64),  # what scenarios move: signed quantity, or amount
        ("gross", np.float64),
        ("lines", np.int64),  # of the net quantity
        ("kept", np.float64),  # maintenance of the net quantity at its entry price
        ("extra", np.float64),  # asked of it beyond the tiers
        ("low", np.float64),  # marks of the point: one, or a block's least and greatest
        ("high", np.float64),
        ("worth", np.float64),  # the least it can be worth a unit of net
        ("paid", np.float64),  # net quantity * CF, at most over a block
        ("base", np.float64),  # last price before slippage
        ("fill", np.float64),
    ],
    align=True,
)
