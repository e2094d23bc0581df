"""Positions counted and summed by group, chunk by chunk.

In: columns of a chunk of positions, one entry each, and tables that go on from chunk to chunk. Out: those
tables with the chunk in them, and the values medians need, sorted by group. Sums are exact (`sums`), so
neither order nor chunks leave a trace.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compile import bare, hold, kernel, part
from .sums import Sums, add_bits, make_room
from .tables import Codes, Floats, Integers

# columns of a group's counts
POSITIONS, REFUSED, LIQUIDATED, DEFAULTED, OWING = range(5)
COUNTS = 5
# sums of a group, in slots group * TOTALS + ...
WEIGHT, DEFAULTED_WEIGHT, DEFAULTED_NOTIONAL, LIQUIDATION_FEES, SURPLUS, DEFICIT, RETURN = range(7)
TOTALS = 7
HIGHEST = (1 << 63) - 1
KEYS = 1 << 16

Values = Floats | Integers


class Chunk(NamedTuple):
    """Positions, an entry each. Numbers of rejected orders are not looked at."""

    group: Integers
    world: Integers
    reason: Codes
    entry_time: Integers  # ms
    exit_time: Integers
    weight: Floats
    quantity: Floats
    exit_price: Floats
    fees: Floats  # money in quote currency, of the position itself: weights are applied here
    liquidation_fee: Floats
    surplus: Floats
    deficit: Floats
    total_return: Floats
    max_drawdown: Floats


class Words(NamedTuple):
    """Codes of the exit reasons that are told apart."""

    liquidation: int
    rejected: int


class Deficits(NamedTuple):
    """What positions left unpaid, weighted, quote currency, and when (ms)."""

    group: Integers
    world: Integers
    time: Integers
    amount: Floats


@part
def add_seldom(
    sums: Sums, slot: int, weight: float, liquidation_fee: float, surplus: float, deficit: float, terms: Floats, bits: Integers
) -> bool:  # fmt: skip
    """Add what most positions do not come to, weighted, to the sums from `slot` on; returns whether it is a default. `bits` are those of
    `terms`.
    """
    if liquidation_fee != 0.0 or surplus != 0.0:
        terms[LIQUIDATION_FEES] = weight * liquidation_fee
        terms[SURPLUS] = weight * surplus
        add_bits(sums, slot + LIQUIDATION_FEES, bits[LIQUIDATION_FEES])
        add_bits(sums, slot + SURPLUS, bits[SURPLUS])
    if deficit != 0.0:
        terms[DEFICIT] = weight * deficit
        add_bits(sums, slot + DEFICIT, bits[DEFICIT])
    return deficit > 0.0


@part
def add_default(
    sums: Sums, counts: Integers, group: int, slot: int, weight: float, notional: float, terms: Floats, bits: Integers
) -> None:  # fmt: skip
    """Count a default in its group, after `add_seldom`; `notional` is that of its exit."""
    counts[group, DEFAULTED] += 1
    counts[group, OWING] += terms[DEFICIT] > 0.0
    terms[WEIGHT], terms[DEFAULTED_NOTIONAL] = weight, weight * notional
    add_bits(sums, slot + DEFAULTED_WEIGHT, bits[WEIGHT])
    add_bits(sums, slot + DEFAULTED_NOTIONAL, bits[DEFAULTED_NOTIONAL])


@kernel
def sum_chunk(chunk: Chunk, words: Words, counts: Integers, sums: Sums, drawdown: Floats) -> None:
    """Add the chunk to the groups' counts and sums and to the largest drawdown of each."""
    make_room(sums, chunk.group.size)
    terms = np.zeros(TOTALS)
    spare, bits, kept = bare(terms), bare(terms.view(np.int64)), bare(counts)
    into = Sums(bare(sums.limbs), bare(sums.used))
    for j in range(chunk.group.size):
        group = chunk.group[j]
        if chunk.reason[j] == words.rejected:
            counts[group, REFUSED] += 1
            continue
        counts[group, POSITIONS] += 1
        counts[group, LIQUIDATED] += chunk.reason[j] == words.liquidation
        if chunk.max_drawdown[j] > drawdown[group]:
            drawdown[group] = chunk.max_drawdown[j]
        weight, slot = chunk.weight[j], group * TOTALS
        spare[WEIGHT], spare[RETURN] = weight, chunk.total_return[j]
        add_bits(into, slot + WEIGHT, bits[WEIGHT])
        add_bits(into, slot + RETURN, bits[RETURN])
        if add_seldom(
            into, slot, weight, chunk.liquidation_fee[j], chunk.surplus[j], chunk.deficit[j], spare, bits
        ):
            notional = chunk.quantity[j] * chunk.exit_price[j]
            add_default(into, kept, group, slot, weight, notional, spare, bits)
    hold(terms)


@kernel
def sort_chunk(
    chunk: Chunk,
    words: Words,
    next_return: Integers,
    next_held: Integers,
    returns: Floats,
    held: Floats,
    deficits: Deficits,
) -> None:
    """Put each group's total returns, and times to liquidation (ms), where its next one belongs; deficits in
    the order they come.
    """
    written = 0
    for j in range(chunk.group.size):
        if chunk.reason[j] == words.rejected:
            continue
        group = chunk.group[j]
        returns[next_return[group]] = chunk.total_return[j]
        next_return[group] += 1
        if chunk.reason[j] == words.liquidation:
            held[next_held[group]] = chunk.exit_time[j] - chunk.entry_time[j]
            next_held[group] += 1
        if chunk.deficit[j] > 0.0:
            amount = chunk.weight[j] * chunk.deficit[j]
            if amount > 0.0:
                deficits.group[written], deficits.world[written] = group, chunk.world[j]
                deficits.time[written], deficits.amount[written] = chunk.exit_time[j], amount
                written += 1


@kernel
def deal(values: Values, groups: Integers, starts: Integers, places: Integers, dealt: Values) -> None:
    """Copy values[starts[k]:starts[k + 1]] to dealt[places[groups[k]]:], and move that place behind them."""
    for k in range(groups.size):
        for j in range(starts[k], starts[k + 1]):
            dealt[places[groups[k]] + j - starts[k]] = values[j]
        places[groups[k]] += starts[k + 1] - starts[k]


@kernel
def weigh_fees(chunk: Chunk, words: Words, worlds: int, first: int, keys: Integers, amounts: Floats) -> int:
    """Weighted fees that are not 0 of the positions from `first` on for which `keys` has room, with their
    keys group * worlds + world; returns how many.
    """
    count = 0
    for j in range(first, min(first + keys.size, chunk.group.size)):
        if chunk.reason[j] == words.rejected:
            continue
        keys[count] = chunk.group[j] * worlds + chunk.world[j]
        amounts[count] = chunk.weight[j] * chunk.fees[j]
        count += amounts[count] != 0.0  # if not, the next one takes its entry
    return count


@kernel
def count_accounts(group: Integers, account: Integers, counts: Integers) -> None:
    """Add to each group how many accounts it has, those right after themselves left out."""
    for j in range(group.size):
        if j == 0 or account[j] != account[j - 1] or group[j] != group[j - 1]:
            counts[group[j]] += 1


@kernel
def sort_accounts(group: Integers, account: Integers, places: Integers, accounts: Integers) -> None:
    """Put each account that was counted where its group's next one belongs."""
    for j in range(group.size):
        if j == 0 or account[j] != account[j - 1] or group[j] != group[j - 1]:
            accounts[places[group[j]]] = account[j]
            places[group[j]] += 1


@kernel
def count_distinct(accounts: Integers, starts: Integers, seen: Integers, counts: Integers) -> None:
    """Different values of accounts[starts[k]:starts[k + 1]]; `seen` has an entry of -1 for each account."""
    for k in range(counts.size):
        for j in range(starts[k], starts[k + 1]):
            if seen[accounts[j]] != k:
                seen[accounts[j]] = k
                counts[k] += 1


@kernel
def count_keys(values: Floats, counts: Integers) -> None:
    """Count values by the 16 highest bits of their rank among doubles."""
    bits = values.view(np.int64)
    for j in range(bits.size):
        counts[(bits[j] ^ ((bits[j] >> 63) & HIGHEST)) >> 48] += (
            1  # from -2^15 on: those below 0 count from the end
        )


@kernel
def with_key(values: Floats, key: int, found: Floats, at: int) -> int:
    """Copy values of one such key to found[at:]; returns the end."""
    bits = values.view(np.int64)
    for j in range(bits.size):
        if (bits[j] ^ ((bits[j] >> 63) & HIGHEST)) >> 48 == key:
            found[at] = values[j]
            at += 1
    return at
