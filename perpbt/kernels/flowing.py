"""Rows settled page by page, right after they were written: they are read from the processor's cache, and their page is written anew.

In: a page of rows of one symbol in runs of one group each, and what has been counted so far. Out: their columns in a block, their payments
to funds, and what `adding` and `tallying` would have counted of them, to the bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .adding import COLLATERAL, settle_row, write_events
from .compile import bare, hold, kernel, part
from .sums import TOGETHER, Sums, Waiting, add_often, let_in, make_room, put_bits
from .tables import ACCEPTED, LIQUIDATION, NO_BAR, Codes, Floats, Integers, Row, Table
from .tallying import (
    LIQUIDATED,
    POSITIONS,
    REFUSED,
    RETURN,
    TOTALS,
    WEIGHT,
    Deficits,
    add_default,
    add_seldom,
)


class Block(NamedTuple):
    """Room for settled rows, a row of each array a column; zeros where nothing was written yet."""

    numbers: Floats  # adding.NUMBERS
    moments: Integers  # entry and exit in ms; the account, within its group
    words: Codes  # adding.WORDS
    position: npt.NDArray[np.uint32]  # which of its account's it is: 1, 2, ...
    reasons: Integers  # (entries, 2): the exit reason as Arrow views a word


class Spans(NamedTuple):
    """Runs of rows in a page: run s ends at row ends[s] and is of one group, which has a world and a place in the tally."""

    ends: Integers
    group: Integers
    place: Integers
    world: Integers
    opened: Integers  # positions of each, and liquidated ones: to be found
    liquidated: Integers


class Owner(NamedTuple):
    """Whose the rows of a page are: lane k of a tile is account first + k % width of its group."""

    symbol: int
    first: int
    width: int
    weight: float


class Counted(NamedTuple):
    """What is counted of all pages; and of this one what cannot be summed up."""

    counts: Integers  # (groups, tallying.COUNTS)
    drawdown: Floats
    fees: Sums  # a slot a group
    paid: Integers  # positions of each that paid any
    refused: Integers  # by symbol and cause
    fallen: Codes  # 1 at bars in which anybody was liquidated
    sums: Sums  # slots place * tallying.TOTALS + ...
    totals: Sums  # adding.TOTALS, but for fees
    held: Floats  # times to liquidation, one after the other
    deficits: Deficits
    events: Table
    waiting: Waiting  # WAITING kinds


# kinds of what waits: adding.TOTALS, of which fees are those of a group, and returns
FEES, RETURNS, WAITING = 1, 4, 5


class Settled(NamedTuple):
    """How much a page had, and what did not balance."""

    broken: int
    first: int  # row
    came: float
    gave: float
    moved: float
    events: int
    liquidated: int
    flat: int  # of these, in bars of unknown turnover
    owing: int


@part
def bare_sums(sums: Sums) -> Sums:
    """The sums with bare arrays."""
    return Sums(bare(sums.limbs), bare(sums.used))


@part
def bare_block(block: Block) -> Block:
    """The block with bare arrays."""
    return Block(
        bare(block.numbers), bare(block.moments), bare(block.words), bare(block.position), bare(block.reasons)
    )


@part
def bare_counted(counted: Counted) -> Counted:
    """The same with bare arrays."""
    owed, waiting = counted.deficits, counted.waiting
    return Counted(
        bare(counted.counts), bare(counted.drawdown), bare_sums(counted.fees), bare(counted.paid),
        bare(counted.refused), bare(counted.fallen), bare_sums(counted.sums), bare_sums(counted.totals), bare(counted.held),
        Deficits(bare(owed.group), bare(owed.world), bare(owed.time), bare(owed.amount)), bare(counted.events),
        Waiting(bare(waiting.whole), bare(waiting.keys), bare(waiting.counts)),
    )  # fmt: skip


@part
def let_groups_in(counted: Counted, group: int, slot: int) -> None:
    """Add what waits of sums of a group."""
    let_in(counted.waiting, counted.fees, group, FEES)
    let_in(counted.waiting, counted.sums, slot + RETURN, RETURNS)


@part
def let_totals_in(counted: Counted) -> None:
    """Add what waits of sums of all groups."""
    for kind in range(RETURNS):
        if kind != FEES:
            let_in(counted.waiting, counted.totals, kind, kind)


@part
def write_words(block: Block, to: int, row: Row, views: Integers) -> None:
    """Write side, exit reason and rejection to entry `to`."""
    block.words[0, to] = 1 if row["side"] > 0 else 0
    block.words[1, to] = row["reason"]
    block.words[2, to] = row["rejection"]
    block.reasons[to, 0] = views[row["reason"], 0]
    block.reasons[to, 1] = views[row["reason"], 1]


@part
def each_row(
    rows: Table, calls: Table, spans: Spans, owner: Owner, times: Integers, turnover: Floats, fee_share: float, views: Integers,
    block: Block, at: int, latest: Integers, counted: Counted, terms: Floats, bits: Integers,
) -> Settled:  # fmt: skip
    """`settle_page`, with bare arrays. `terms` has room for the tally's and one more; `bits` are theirs."""
    broken, first, came, gave, moved = 0, -1, 0.0, 0.0, 0.0
    call, told, written, liquidated, flat, owing, begin = 0, 0, 0, 0, 0, 0, 0
    lane, position = latest[0], latest[1]
    account, weight = owner.first + lane % owner.width, owner.weight
    deficits, waiting, together = counted.deficits, counted.waiting, 0
    for run in range(spans.ends.size):
        slot, opened, group, fell = spans.place[run] * TOTALS, 0, spans.group[run], liquidated
        for k in range(begin, spans.ends[run]):
            row, to = rows[k], at + k
            if row["lane"] != lane:
                lane, position = row["lane"], 0
                account = owner.first + lane % owner.width
            position += 1
            block.position[to] = position
            block.moments[2, to] = account
            write_words(block, to, row, views)
            block.numbers[COLLATERAL, to] = row["collateral"]
            if row["rejection"] != NO_BAR:
                block.moments[0, to] = times[row["entry_bar"]]
            if row["rejection"] != ACCEPTED:
                counted.counts[group, REFUSED] += 1
                counted.refused[row["rejection"], owner.symbol] += 1
                continue
            exit_time = times[row["exit_bar"]]
            block.moments[1, to] = exit_time
            done = settle_row(row, calls, call, k, block.numbers, to, True)
            call = done.call
            if done.broken:
                if broken == 0:
                    first, came, gave = k, done.came, done.gave
                broken += 1
            moved += weight * done.moved
            written, told = write_events(
                counted.events, written, row, calls, told, k, times, 0, spans.world[run], owner.symbol, weight, fee_share
            )  # fmt: skip
            opened += 1
            if row["reason"] == LIQUIDATION:
                counted.held[liquidated] = exit_time - block.moments[0, to]
                liquidated += 1
                counted.fallen[row["exit_bar"]] = 1
                flat += not turnover[row["exit_bar"]] > 0.0
            if block.numbers[16, to] > counted.drawdown[group]:
                counted.drawdown[group] = block.numbers[16, to]
            terms[0], terms[1], terms[2], terms[3] = (
                weight * done.cash, weight * done.fees, weight * done.pnl, weight * done.funding
            )  # fmt: skip
            if together == TOGETHER:
                let_groups_in(counted, group, slot)
                let_totals_in(counted)
                together = 0
            together += 1
            put_bits(waiting, counted.totals, 0, 0, bits[0])
            if terms[1] != 0.0:
                put_bits(waiting, counted.fees, group, FEES, bits[1])
                counted.paid[group] += 1
            put_bits(waiting, counted.totals, 2, 2, bits[2])
            put_bits(waiting, counted.totals, 3, 3, bits[3])
            terms[RETURN] = block.numbers[15, to]
            put_bits(waiting, counted.sums, slot + RETURN, RETURNS, bits[RETURN])
            if add_seldom(
                counted.sums, slot, weight, done.liquidation_fee, done.surplus, done.deficit, terms, bits
            ):
                notional = row["quantity"] * row["fill"]
                add_default(counted.sums, counted.counts, group, slot, weight, notional, terms, bits)
                if weight * done.deficit > 0.0:
                    deficits.group[owing], deficits.world[owing] = spans.place[run], spans.world[run]
                    deficits.time[owing], deficits.amount[owing] = exit_time, weight * done.deficit
                    owing += 1
        let_groups_in(counted, group, slot)
        spans.opened[run], spans.liquidated[run] = opened, liquidated - fell
        counted.counts[group, POSITIONS] += opened
        counted.counts[group, LIQUIDATED] += liquidated - fell
        if opened > 0:
            terms[WEIGHT] = weight
            add_often(counted.sums, slot + WEIGHT, bits[WEIGHT], opened)
        begin = spans.ends[run]
    let_totals_in(counted)
    latest[0], latest[1] = lane, position
    return Settled(broken, first, came, gave, moved, written, liquidated, flat, owing)


@kernel
def settle_page(
    rows: Table, calls: Table, spans: Spans, owner: Owner, times: Integers, turnover: Floats, fee_share: float, views: Integers,
    block: Block, at: int, latest: Integers, counted: Counted,
) -> Settled:  # fmt: skip
    """Settle the rows of a page into entries of `block` from `at` on, and count them.

    `times` and `turnover` are those of the symbol's bars, `views` the exit reasons as Arrow views words; `latest` the lane of the row before the first, and
    which of its account's it was. `counted` has room for two events a row and one a margin order.
    """
    make_room(counted.sums, rows.size)
    make_room(counted.totals, rows.size)
    make_room(counted.fees, rows.size)
    terms = np.zeros(TOTALS)
    runs = Spans(
        bare(spans.ends), bare(spans.group), bare(spans.place), bare(spans.world), bare(spans.opened), bare(spans.liquidated)
    )  # fmt: skip
    found = each_row(
        bare(rows), bare(calls), runs, owner, bare(times), bare(turnover), fee_share, bare(views),
        bare_block(block), at, bare(latest), bare_counted(counted), bare(terms), bare(terms.view(np.int64)),
    )  # fmt: skip
    hold(terms)
    return found


@kernel
def move_runs(block: Block, at: int, first: Integers, count: Integers, places: Integers, into: Block) -> None:
    """Copy the runs of a page, which begins at entry `at` of its block, to entries places[run] and on of another, which are zeros: what is
    zero is not written, for pages that nobody writes to take no memory.
    """
    bits, written = block.numbers.view(np.int64), into.numbers.view(np.int64)
    for run in range(first.size):
        begin, to = at + first[run], places[run]
        for column in range(bits.shape[0]):
            for k in range(count[run]):
                if bits[column, begin + k] != 0:
                    written[column, to + k] = bits[column, begin + k]
        for column in range(block.moments.shape[0]):
            for k in range(count[run]):
                into.moments[column, to + k] = block.moments[column, begin + k]
        for column in range(block.words.shape[0]):
            for k in range(count[run]):
                into.words[column, to + k] = block.words[column, begin + k]
        for k in range(count[run]):
            into.position[to + k] = block.position[begin + k]
            into.reasons[to + k, 0] = block.reasons[begin + k, 0]
            into.reasons[to + k, 1] = block.reasons[begin + k, 1]


@kernel
def repeat_runs(values: Integers, count: Integers, into: Integers) -> None:
    """Row k of `values` count[k] times, one after the other."""
    at = 0
    for run in range(count.size):
        for k in range(at, at + count[run]):
            for word in range(values.shape[1]):
                into[k, word] = values[run, word]
        at += count[run]
