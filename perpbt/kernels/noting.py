"""What a leap looks into, and what is noted of it: the bars that answered for the path, and how near others came.

Who opens the same position in another size may take over these answers: `kin`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .blocks import UP_AT, WORDS, Sides, lanes_of, room_for_blocks
from .compile import bare, hold, part
from .eights import at_most, chosen, eight, larger, minus, most_of, spread, times
from .margin import Position
from .tables import FUNDING, MARK_HIGH, Floats, Market, Table
from .watching import Path, Watch

# Rows of the notes: three answers, each a bar's price and CF, and the leap.
PEAK, DEEP, THIN, LEAP = 0, 1, 2, 3
# What the answer came to, and the next to it of other pairs of a price and a CF; the pair, price 0: none; for the deepest drawdown also the
# pair of the peak before it, price 0: the peak of the path before the leap.
VALUE, RIVAL, PRICE, CHARGED, TOP, TOP_CHARGED = range(6)
# Of the leap: its first bar, or WANTED, or SEEN; the one it ended before; path and position there.
FIRST, UNTIL, EXTREME, DRAWDOWN, WORST, FACTOR, GUARD, THINNEST, TALLEST = range(9)
NOTES = 9
WANTED, SEEN = -1.0, -2.0
TIE = -1.0  # for a price: of several bars none answers alone


class Trace(NamedTuple):
    """Where a leap writes what it passes over."""

    blocks: Table  # of blocks.BLOCK
    notes: Floats  # (4, NOTES), or nothing where nobody reads them


@part
def room_for_trace(noted: bool) -> Trace:
    """A trace to be written, with notes or without."""
    return Trace(room_for_blocks(), np.full((4 if noted else 0, NOTES), SEEN))


@part
def bare_trace(trace: Trace) -> Trace:
    """The trace with bare arrays."""
    return Trace(bare(trace.blocks), bare(trace.notes))


@part
def hold_trace(trace: Trace) -> int:
    """Keep its arrays until here."""
    return hold(trace.blocks) + hold(trace.notes)


@part
def wanted(notes: Floats) -> bool:
    """Is the leap that is about to be answered for the one to note?"""
    return notes.shape[0] > 0 and notes[LEAP, FIRST] == WANTED


@part
def want(notes: Floats) -> None:
    """Note the next leap."""
    notes[LEAP, FIRST] = WANTED


@part
def begin(notes: Floats, position: Position, path: Path, first: int, until: int, extreme: float) -> None:
    """Begin to note a leap over bars [first, until), before which the path was `path`."""
    for answer in range(LEAP):
        for column in range(NOTES):
            notes[answer, column] = 0.0
    notes[THIN, VALUE] = notes[THIN, RIVAL] = -np.inf
    leap = notes[LEAP]
    leap[FIRST], leap[UNTIL], leap[EXTREME] = first, until, extreme
    leap[DRAWDOWN], leap[WORST] = path.drawdown, path.worst_ratio
    leap[FACTOR], leap[GUARD] = position.guard_factor, position.guard_level


@part
def jot(
    notes: Floats, answer: int, value: float, price: float, funding: float, top: float, top_funding: float
) -> None:
    """Note what the bar with this price and CF comes to, if `notes` are kept; `top` with its CF is the bar of the peak before it."""
    if notes.shape[0] == 0:
        return
    one = notes[answer]
    if value > one[VALUE]:
        one[RIVAL] = max(one[RIVAL], one[VALUE])
        one[VALUE], one[PRICE], one[CHARGED] = value, price, funding
        one[TOP], one[TOP_CHARGED] = top, top_funding
    elif price != one[PRICE] or funding != one[CHARGED] or top != one[TOP] or top_funding != one[TOP_CHARGED]:
        one[RIVAL] = max(one[RIVAL], value)


@part
def note_reach(
    market: Market, watch: Watch, position: Position, sides: Sides, blocks: Table, passed: int, notes: Floats
) -> None:
    """Note of the bars passed over the least of side * (adverse mark - CF), and the highest mark."""
    thin, tall, nothing = spread(-np.inf), spread(-np.inf), spread(-np.inf)
    for k in range(passed):
        level, at = blocks[np.uint64(k)]["level"], blocks[np.uint64(k)]["at"]
        lanes = at_most(spread(-1.7e308), eight(blocks, k * WORDS + UP_AT))
        if level == 0:
            worth = minus(lanes_of(market, watch.adverse, 0, 0, at), lanes_of(market, FUNDING, 0, 0, at))
        else:
            worth = lanes_of(market, 0, sides.thin, level, at)
        thin = larger(thin, chosen(lanes, times(spread(-position.side), worth), nothing))
        tall = larger(tall, chosen(lanes, lanes_of(market, MARK_HIGH, MARK_HIGH, level, at), nothing))
    notes[LEAP, THINNEST], notes[LEAP, TALLEST] = -most_of(thin), most_of(tall)
