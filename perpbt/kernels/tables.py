"""The tables kernels read and write.

What a bar, a plan, a lane or a row consists of is a record; a table is one array of records, or one array with a row a series. So
that few arrays go from kernel to kernel: handing one on counts a reference, and ninety of them would cost more than a position.

Codes are small integers because kernels choose behaviour by `if`, never by a function passed in (such code
could not be cached).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Coarse = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]
Places = npt.NDArray[np.int32]  # of records in a table that is not large
Table = npt.NDArray[np.void]  # of one of the record types below
Plan: TypeAlias = np.void  # one record of such a table
Lane: TypeAlias = np.void
Row: TypeAlias = np.void

# how a stop or take-profit level is stated (Plans.stop_kind, Plans.target_kind)
NONE, PRICE, MARGIN, ATR, COLUMN = 0, 1, 2, 3, 4
LEVEL_KINDS = ("none", "price", "margin", "atr", "column")
# how collateral is chosen (Plans.sizing_kind)
COLLATERAL, EQUITY, RISK = 0, 1, 2
SIZINGS = ("collateral", "equity", "risk")
# what a margin call does (Plans.call_action)
NO_CALL, TOP_UP, DELEVERAGE = 0, 1, 2
# what else is written among margin orders: liquidation of a part, and of the rest, on the market or by takeover
REDUCED, LIQUIDATED, TAKEN_OVER = 3, 4, 5
CALLS = ("none", "top_up", "deleverage", "reduced", "liquidated", "taken_over")
# how a venue liquidates (Procedure.kind)
FULL, REDUCE, LADDER, SLICE, PORTION, CURE, OPTIMAL = 0, 1, 2, 3, 4, 5, 6
PROCEDURES = ("full", "reduce_then_takeover", "ladder", "slice", "portion", "cure", "optimal")
# why a position ended (Rows.reason); the order is that of MODEL §2 B, then what is no exit
# or happens in coupled markets only
LIQUIDATION, STOP_LOSS, TRAILING_STOP, TAKE_PROFIT, TIME, SIGNAL, END, REJECTED, ADL = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
)
REASONS = (
    "liquidation", "stop_loss", "trailing_stop", "take_profit", "time", "signal", "end", "rejected", "adl",
)  # fmt: skip
# why an order was refused (Rows.rejection)
ACCEPTED, NO_BAR, ABOVE_LAST_TIER, ABOVE_MAXIMUM_LEVERAGE, STOP_BEYOND_ENTRY, LIQUIDATED_AT_ENTRY = (
    0,
    1,
    2,
    3,
    4,
    5,
)
BELOW_ONE_LOT = 6
REJECTIONS = (
    "",
    "no_bar",
    "notional_above_last_tier",
    "leverage_above_tier_maximum",
    "stop_beyond_entry",
    "liquidated_at_entry",
    "below_one_lot",
)
# when inside a bar (Rows.phase): B at the open, C in the range, and the close of the last bar
OPEN, RANGE, CLOSE = 0, 1, 2


# rows of Market.series
LOW, HIGH, MARK_LOW, MARK_HIGH, FUNDING, MARK_CLOSE, LAST_OPEN, MARK_OPEN, VOLATILITY, TURNOVER = range(10)
SERIES = 10
# rows of Signals.marks
NEXT_ENTRY, ENTRY_SIDE, NEXT_LONG_EXIT, NEXT_SHORT_EXIT = range(4)
# columns of Rates.tiers
FLOOR, CAP, RATE, MAX_LEVERAGE, DEDUCTION = range(5)


class Pyramid(NamedTuple):
    """Nodes of level l are numbered from starts[l - 1] on, node n being [n // 8, :, n % 8]; `levels` is 0 where bars are to be looked at
    one by one.
    """

    nodes: Floats  # (groups, 12, 8)
    tops: Floats  # (nodes, 12)
    starts: Integers
    levels: int
    near: int  # a walk looks at bars one by one up to a multiple of this before it leaps; 0: it leaps at once


class Market(NamedTuple):
    """One symbol's bars, prices in quote currency.

    `series` has a row each for: low, high, mark low, mark high, CF of MODEL §1 (cumulative funding per unit of quantity, this bar's
    events included), mark close, last open, mark open, sigma_i of MODEL §6 and turnover (both NaN without volume).
    """

    time: Integers  # bar open, ms UTC
    series: Floats  # (10, bars)
    highest_mark: float  # over all bars: no position's notional exceeds quantity * this
    lowest_funding: float  # CF, over all bars
    greatest: float  # of all prices and |CF|: what rounding errors are relative to
    pyramid: Pyramid
    coarse: Coarse  # of `coarse.py`, empty where no position looks at every bar


class Terms(NamedTuple):
    """What prices and quantities of a contract stand for, and the steps they come in; a step is units / per, none where `per` is 0.

    Of an inverse contract kernels see every price P as 1 / P, the side in the mirror and funding with its sign turned: all that is
    left of it here is that a share of a price is then a share of the reciprocal's reciprocal.
    """

    inverse: bool
    lot_units: float  # of quantity times multiplier
    lot_per: float
    tick_units: float  # of the price in quote currency, of inverse contracts too
    tick_per: float


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
    protected: bool  # what a position loses beyond its margin is the fund's deficit, not the trader's debt
    entry_maintenance: bool  # maintenance on entry notional instead of mark notional
    optimistic: bool  # favourable before adverse inside a bar
    target_at_open: bool  # a take-profit that the open jumps over fills at the open
    clip: bool  # an order above the last tier is cut to it instead of refused
    whole: bool  # risk-limit steps: a band's rate holds for the whole position, and deductions are 0
    per_unit: float  # rate added, for maintenance and for opening, for each base unit held
    tiers: Floats  # (tiers, 5): floor, cap, maintenance rate, maximum leverage, deduction
    ladders: Floats  # (epochs, tiers, 5): `tiers` of each epoch, shorter ones filled up with their last row
    since: Integers  # (epochs): the first bar of each; 0 for the first
    terms: Terms


class Procedure(NamedTuple):
    """How a venue liquidates: `perpbt.config.Liquidation` in numbers, 0 for what its kind does not read."""

    kind: int
    takeover: bool  # of the last step
    most_steps: int
    fraction: float
    target: float
    above: float
    cool_down: int  # ms
    backstop: float
    spread: float
    adjustment: float
    initial: float
    duration_slots: float
    whole_below: float
    fee: float
    fee_max: float
    fee_growth: float
    grace_slots: float
    slot_ms: float
    lowest_tiers: int
    slices: int
    risk_aversion: float


class Signals(NamedTuple):
    """One strategy on one symbol.

    `marks` has a row each for: the first bar >= i at whose close an entry (exactly one of long and short) is decided, its side (+1,
    -1, 0: none here), the first bar >= i with a long exit, and with a short exit; the number of bars where there is none.
    """

    marks: Integers  # (4, bars)
    series: Floats  # (series, bars): indicators and columns that levels read


# What an account does: one entry a policy (or, for a table of positions, one a position).
PLAN = np.dtype(
    [
        ("leverage", np.float64),
        ("margin_buffer", np.float64),
        ("sizing_value", np.float64),
        ("capital", np.float64),
        ("stop_value", np.float64),
        ("target_value", np.float64),
        ("trail", np.float64),  # NaN: none
        ("max_holding", np.int64),  # ms, -1: none
        ("call_threshold", np.float64),
        ("call_value", np.float64),  # target ratio of a top-up, fraction closed by a deleveraging
        ("call_count", np.int64),
        ("cool_down", np.int64),  # ms
        ("max_trades", np.int64),  # -1: no limit
        ("stop_series", np.int64),  # row of Signals.series
        ("target_series", np.int64),
        ("sizing_kind", np.int8),
        ("compounding", np.int8),
        ("stop_kind", np.int8),
        ("stop_on_mark", np.int8),
        ("target_kind", np.int8),
        ("target_on_mark", np.int8),
        ("trail_on_mark", np.int8),
        ("call_action", np.int8),
        ("never_after_stop", np.int8),
        ("never_after_liquidation", np.int8),
    ],
    align=True,
)
# An account and its state. `fixed_side` is 0 for a lane that follows signals.
LANE = np.dtype(
    [
        ("plan", np.int64),
        ("exit_due", np.int64),  # ms, -1: none
        (
            "bar",
            np.int64,
        ),  # next close at which an entry may be decided; for a fixed entry, the bar of the entry itself
        ("not_before", np.int64),  # ms: earliest open of the next entry (cool-down)
        ("wallet", np.float64),
        ("trades", np.int64),  # positions opened
        ("fixed_side", np.int8),
        ("refused", np.int8),  # why the last order was refused, 0 once one is filled
        ("done", np.int8),
    ],
    align=True,
)
# What came of a position; written by its own lane only. `lane` is -1 in unused entries.
ROW = np.dtype(
    [
        ("lane", np.int64),
        ("entry_bar", np.int64),
        ("exit_bar", np.int64),
        ("side", np.int8),
        ("phase", np.int8),
        ("reason", np.int8),
        ("rejection", np.int8),
        ("collateral", np.float64),
        ("entry", np.float64),
        ("quantity", np.float64),
        ("margin", np.float64),
        ("notional", np.float64),
        ("liquidation_price", np.float64),
        ("entry_funding", np.float64),
        ("exit_funding", np.float64),
        ("exit_quantity", np.float64),  # after deleveraging
        ("exit_margin", np.float64),  # after top-ups and deleveraging
        ("top_up", np.float64),
        ("released", np.float64),  # cash returned by deleveraging before the exit
        ("base", np.float64),  # price before slippage
        ("fill", np.float64),
        ("open_fee", np.float64),
        ("close_fee", np.float64),
        ("liquidation_fee", np.float64),
        ("surplus", np.float64),
        ("deficit", np.float64),
        ("back", np.float64),
        ("pnl", np.float64),
        ("funding", np.float64),
        ("peak", np.float64),
        ("drawdown", np.float64),  # up to the last close; settle adds the exit
        ("worst_ratio", np.float64),
    ],
    align=True,
)
# A margin order that was executed, or a step of a liquidation; `row` is -1 in unused entries. Of the step that closes a position (not
# REDUCED) the money is told once more: it is that of the row.
CALL = np.dtype(
    [
        ("row", np.int64),
        ("bar", np.int64),
        ("action", np.int8),
        ("fee", np.float64),
        ("deficit", np.float64),
        ("back", np.float64),  # cash to the wallet; negative for a top-up
        ("pnl", np.float64),
        ("funding", np.float64),
        ("margin_after", np.float64),
        ("quantity_after", np.float64),
        ("phase", np.int8),  # of a step, as all that follows
        ("step", np.int64),  # 1, 2, ...
        ("quantity", np.float64),  # closed
        ("price", np.float64),  # fill
        ("liquidation_fee", np.float64),
        ("surplus", np.float64),
        ("ratio", np.float64),  # margin ratio before the step
    ],
    align=True,
)


def table(kind: np.dtype[np.void], count: int, **columns: npt.ArrayLike) -> Table:
    """A table of `count` records with the columns given, the others 0. What is one number for all is written with the whole record."""
    alike = np.zeros(1, dtype=kind)
    apart = {name: values for name, values in columns.items() if np.ndim(values)}
    for name in columns.keys() - apart.keys():
        alike[name] = columns[name]
    made, whole = np.empty(count, dtype=kind), np.dtype((np.void, kind.itemsize))
    made.view(whole)[:] = alike.view(whole)[0]
    for name, values in apart.items():
        made[name] = values
    return made


def unused(kind: np.dtype[np.void], count: int) -> Table:
    """Records yet to be written: their key, the first column, is -1, everything else 0."""
    made = np.zeros(count, dtype=kind)
    made[kind.names[0]] = -1  # type: ignore[index]
    return made
