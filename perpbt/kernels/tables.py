"""The tables kernels read and write: NamedTuples of contiguous arrays (one entry a bar, a plan or a row)
and of numbers.

Codes are small integers because kernels choose behaviour by `if`, never by a function passed in (such code
could not be cached).
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar, get_type_hints

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]

# how a stop or take-profit level is stated (Plans.stop_kind, Plans.target_kind)
NONE, PRICE, MARGIN, ATR, COLUMN = 0, 1, 2, 3, 4
LEVEL_KINDS = ("none", "price", "margin", "atr", "column")
# how collateral is chosen (Plans.sizing_kind)
COLLATERAL, EQUITY, RISK = 0, 1, 2
SIZINGS = ("collateral", "equity", "risk")
# what a margin call does (Plans.call_action)
NO_CALL, TOP_UP, DELEVERAGE = 0, 1, 2
CALLS = ("none", "top_up", "deleverage")
# why a position ended (Rows.reason); the order is that of MODEL §2 B, then what is no exit
LIQUIDATION, STOP_LOSS, TRAILING_STOP, TAKE_PROFIT, TIME, SIGNAL, END, REJECTED = 0, 1, 2, 3, 4, 5, 6, 7
REASONS = ("liquidation", "stop_loss", "trailing_stop", "take_profit", "time", "signal", "end", "rejected")
# why an order was refused (Rows.rejection)
ACCEPTED, NO_BAR, ABOVE_LAST_TIER, ABOVE_MAXIMUM_LEVERAGE, STOP_BEYOND_ENTRY, LIQUIDATED_AT_ENTRY = (
    0,
    1,
    2,
    3,
    4,
    5,
)
REJECTIONS = (
    "",
    "no_bar",
    "notional_above_last_tier",
    "leverage_above_tier_maximum",
    "stop_beyond_entry",
    "liquidated_at_entry",
)
# when inside a bar (Rows.phase): B at the open, C in the range, and the close of the last bar
OPEN, RANGE, CLOSE = 0, 1, 2


class Pyramid(NamedTuple):
    """Nodes of level l start at row starts[l - 1]; `levels` is 0 where bars are to be looked at one by one."""

    nodes: Floats  # (nodes, 8)
    starts: Integers
    levels: int
    near: int  # bars a walk looks at one by one before it leaps


class Market(NamedTuple):
    """One symbol's bars; every array has one entry a bar, prices in quote currency."""

    time: Integers  # bar open, ms UTC
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    mark_open: Floats
    mark_high: Floats
    mark_low: Floats
    mark_close: Floats
    funding: Floats  # CF of MODEL §1: cumulative funding per unit of quantity, this bar's events included
    volatility: Floats  # sigma_i of MODEL §6, NaN without volume
    turnover: Floats  # volume * close, NaN without volume
    highest_mark: float  # over all bars: no position's notional exceeds quantity * this
    lowest_funding: float  # of `funding`, over all bars
    pyramid: Pyramid


class Rates(NamedTuple):
    """What the venue charges and requires; fractions, money in quote currency."""

    taker_fee: float
    maker_fee: float
    slippage: float
    liquidation_fee: float
    close_out_rate: float
    half_spread: float
    impact: float
    max_slippage: float
    surplus_to_fund: float
    entry_maintenance: bool  # maintenance on entry notional instead of mark notional
    optimistic: bool  # favourable before adverse inside a bar
    target_at_open: bool  # a take-profit that the open jumps over fills at the open
    clip: bool  # an order above the last tier is cut to it instead of refused
    floor: Floats  # per tier
    cap: Floats
    rate: Floats
    max_leverage: Floats
    deduction: Floats


class Signals(NamedTuple):
    """One strategy on one symbol. `next_*[i]` is the first bar >= i at whose close the signal is on, or the
    number of bars.
    """

    next_entry: Integers  # exactly one of long and short entry is on
    entry_side: Codes  # +1 or -1 where an entry is on, else 0
    next_long_exit: Integers
    next_short_exit: Integers
    atr: Floats  # (windows, bars)
    columns: Floats  # (columns, bars)


class Plans(NamedTuple):
    """What an account does: one entry a policy (or, for a table of positions, one a position)."""

    leverage: Floats
    margin_buffer: Floats
    sizing_kind: Codes
    sizing_value: Floats
    capital: Floats
    compounding: Codes
    stop_kind: Codes
    stop_value: Floats
    stop_series: Codes  # row of Signals.atr or Signals.columns
    stop_on_mark: Codes
    target_kind: Codes
    target_value: Floats
    target_series: Codes
    target_on_mark: Codes
    trail: Floats  # NaN: none
    trail_on_mark: Codes
    max_holding: Integers  # ms, -1: none
    call_action: Codes
    call_threshold: Floats
    call_value: Floats  # target ratio of a top-up, fraction closed by a deleveraging
    call_count: Integers
    never_after_stop: Codes
    never_after_liquidation: Codes
    cool_down: Integers  # ms
    max_trades: Integers  # -1: no limit


class Rows(NamedTuple):
    """What came of each position: one entry a position, written by its own lane only."""

    lane: Integers
    entry_bar: Integers
    exit_bar: Integers
    side: Codes
    phase: Codes
    reason: Codes
    rejection: Codes
    collateral: Floats
    entry: Floats
    quantity: Floats
    margin: Floats
    notional: Floats
    liquidation_price: Floats
    entry_funding: Floats
    exit_funding: Floats
    exit_quantity: Floats  # after deleveraging
    exit_margin: Floats  # after top-ups and deleveraging
    top_up: Floats
    released: Floats  # cash returned by deleveraging before the exit
    base: Floats  # price before slippage
    fill: Floats
    open_fee: Floats
    close_fee: Floats
    liquidation_fee: Floats
    surplus: Floats
    deficit: Floats
    back: Floats
    pnl: Floats
    funding: Floats
    peak: Floats
    drawdown: Floats  # up to the last close; settle adds the exit
    worst_ratio: Floats


class Calls(NamedTuple):
    """Margin orders that were executed; `row` is -1 in unused entries."""

    row: Integers
    bar: Integers
    action: Codes
    fee: Floats
    deficit: Floats
    back: Floats  # cash to the wallet; negative for a top-up
    pnl: Floats
    funding: Floats
    margin_after: Floats
    quantity_after: Floats


Table = TypeVar("Table", Rows, Calls)
_DTYPES: dict[object, type] = {Floats: np.float64, Integers: np.int64, Codes: np.int8}


def empty_table(table: type[Table], length: int) -> Table:
    """A table of `length` unwritten rows; its key (the first column) starts at -1, everything else at 0."""
    hints = get_type_hints(table)
    made = table(*[np.zeros(length, _DTYPES[hints[name]]) for name in table._fields])
    made[0][:] = -1
    return made
