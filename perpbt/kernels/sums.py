"""Sums that do not depend on the order of what they add, and the path of a fund's balance.

Accounts come in any order, in chunks, on any number of threads; money summed over them must not know. So sums
are exact and rounded once, half to even.

Two methods, the same bits. `Sums` are accumulators as wide as the range of a double, cut into limbs of 32
bits that are held in 64, so that many values are added before a carry has to move (Neal 2015, Fast exact
summation using small and large superaccumulators): whole numbers only, mergeable, the fastest for many
values. A few values are held as a list of floats that do not overlap (Shewchuk 1997, Adaptive Precision
Floating-Point Arithmetic; the method of Python's math.fsum).

Results are those of math.fsum, but where that raises (intermediate overflow; infinities of both signs) they
are what the exact sum is: rounded, infinite beyond the largest double, NaN. A sum of nothing or of zeros is
0.0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compile import kernel, part
from .tables import Floats, Integers

FRACTION = (1 << 52) - 1  # bits of a double below its leading one
LIMB = (1 << 32) - 1
# The lowest bit of a value is at most bit 2045 above the smallest subnormal: limb 63. The value reaches into
# limbs 64 and 65, carries into 66.
LIMBS = 67
INFINITE, MINUS_INFINITE, NOT_A_NUMBER = 1, 2, 4  # in the row after the limbs, what no limb can hold
ROOM = 1 << 30  # values added before carries have to move: each changes a limb by less than 2^32
KEY = 4095  # sign and exponent
TOGETHER = 1 << 10  # values that wait of a kind at most: fewer than 2^53 units each
FEW = 8  # values for which a list of floats is faster than clearing and reading limbs
LARGE = 2040  # exponent above which sums of few are not tried, for a step might overflow


class Sums(NamedTuple):
    """Exact sums, one a slot. limbs[k, slot] counts units of 2^(32 k - 1074); a row more says which
    infinities and NaNs were added.

    A row a limb, so that the memory of magnitudes that never occur is never touched.
    """

    limbs: Integers  # (LIMBS + 1, slots)
    used: Integers  # (3,): lowest and highest limb in which a value began, values added since the last carry


class Waiting(NamedTuple):
    """Values of sums of several kinds that are yet to be added, those of one sign and exponent together (Neal 2015, the large
    superaccumulator).
    """

    whole: Integers  # (kinds, KEY + 1), by sign and exponent: their fractions with the leading ones
    keys: Integers  # (kinds, KEY + 1): which of these are not 0
    counts: Integers  # (kinds,): how many


def nothing_waits(kinds: int) -> Waiting:
    """Room for so many kinds."""
    whole, keys = (np.zeros((kinds, KEY + 1), dtype=np.int64) for _ in range(2))
    return Waiting(whole, keys, np.zeros(kinds, dtype=np.int64))


def no_sums(slots: int) -> Sums:
    """Accumulators that hold 0."""
    return Sums(np.zeros((LIMBS + 1, slots), dtype=np.int64), np.array([LIMBS, -1, 0], dtype=np.int64))


def widened(sums: Sums, slots: int) -> Sums:
    """The same with more slots."""
    wider = no_sums(slots)
    wider.used[:] = sums.used
    for row in (*range(sums.used[0], min(sums.used[1] + 4, LIMBS)), LIMBS):
        wider.limbs[row, : sums.limbs.shape[1]] = sums.limbs[row]
    return wider


def picked(sums: Sums, slots: Integers) -> Sums:
    """Some of them; all as they are."""
    if slots.size == sums.limbs.shape[1]:
        return sums
    return Sums(np.ascontiguousarray(sums.limbs[:, slots]), sums.used.copy())


@part
def add_often(sums: Sums, slot: int, bits: int, count: int) -> None:
    """Add the double with these bits `count` times, at most ROOM."""
    exponent, sign = (bits >> 52) & 2047, bits >> 63
    if exponent == 2047:
        kind = NOT_A_NUMBER if bits & FRACTION else MINUS_INFINITE if sign else INFINITE
        sums.limbs[LIMBS, slot] |= kind
        return
    normal = min(exponent, 1)  # only normal numbers have a leading one that is not written down
    add_whole(sums, slot, (((bits & FRACTION) | (normal << 52)) ^ sign) - sign, exponent - normal, count)


@part
def add_whole(sums: Sums, slot: int, whole: int, place: int, count: int) -> None:
    """Add whole * 2^(place - 1074) `count` times, at most ROOM."""
    limb, shift = place >> 5, place & 31
    rest = whole >> (32 - shift)
    sums.limbs[limb, slot] += count * ((whole & (LIMB >> shift)) << shift)
    sums.limbs[limb + 1, slot] += count * (rest & LIMB)
    sums.limbs[limb + 2, slot] += count * (rest >> 32)
    if limb < sums.used[0]:
        sums.used[0] = limb
    if limb > sums.used[1]:
        sums.used[1] = limb


@part
def add_bits(sums: Sums, slot: int, bits: int) -> None:
    """Add the double with these bits."""
    add_often(sums, slot, bits, 1)


@part
def put_bits(waiting: Waiting, sums: Sums, slot: int, kind: int, bits: int) -> None:
    """As `add_bits`, but that sums of a kind lack what waits until it is let in, after TOGETHER values at the latest."""
    key = (bits >> 52) & KEY
    exponent = key & 2047
    if exponent == 0 or exponent == 2047:
        if bits << 1 != 0:  # nothing comes of a zero
            add_bits(sums, slot, bits)
        return
    whole = waiting.whole[kind, key]
    if whole == 0:
        waiting.keys[kind, waiting.counts[kind]] = key
        waiting.counts[kind] += 1
    waiting.whole[kind, key] = whole + ((bits & FRACTION) | (FRACTION + 1))


@part
def let_in(waiting: Waiting, sums: Sums, slot: int, kind: int) -> None:
    """Add what waits of a kind."""
    for k in range(waiting.counts[kind]):
        key = waiting.keys[kind, k]
        whole = waiting.whole[kind, key]
        waiting.whole[kind, key] = 0
        add_whole(sums, slot, -whole if key > 2047 else whole, (key & 2047) - 1, 1)
    waiting.counts[kind] = 0


@part
def make_room(sums: Sums, count: int) -> None:
    """Call before adding `count` values, at most ROOM: moves carries if the limbs could overflow."""
    if sums.used[2] + count > ROOM:
        carry(sums)
    sums.used[2] += count


@kernel
def carry(sums: Sums) -> None:
    """Bring all limbs in use below 2^32; the one above them takes what is left, and the sign."""
    for row in range(sums.used[0], min(sums.used[1] + 3, LIMBS - 1)):
        for slot in range(sums.limbs.shape[1]):
            over = sums.limbs[row, slot] >> 32
            sums.limbs[row, slot] -= over << 32
            sums.limbs[row + 1, slot] += over
    sums.used[2] = 1


@kernel
def add_exactly(sums: Sums, slots: Integers, values: Floats) -> None:
    """Add values[j] to the sum slots[j]; at most ROOM values a call."""
    make_room(sums, values.size)
    bits = values.view(np.int64)
    for j in range(bits.size):
        add_bits(sums, slots[j], bits[j])


@kernel
def merge_sums(sums: Sums, others: Sums, slots: Integers) -> None:
    """Add others' sum j to the sum slots[j]; carries of `others` move, which changes no sum."""
    carry(others)
    make_room(sums, slots.size)
    for row in range(others.used[0], min(others.used[1] + 4, LIMBS)):
        for j in range(slots.size):
            sums.limbs[row, slots[j]] += others.limbs[row, j]
    for j in range(slots.size):
        sums.limbs[LIMBS, slots[j]] |= others.limbs[LIMBS, j]
    sums.used[0] = min(sums.used[0], others.used[0])
    sums.used[1] = max(sums.used[1], others.used[1])


@part
def rounded_bits(limbs: Integers, low: int, top: int) -> int:
    """Bits of the double nearest to what limbs[low:top + 1] hold, half to even; not negative, every limb
    below 2^32, limbs below `low` zero.
    """
    while top >= low and limbs[top] == 0:
        top -= 1
    if top < low:
        return 0
    length = 0
    while limbs[top] >> length:
        length += 1
    last = 32 * top + length - 53  # place of the last bit that is kept
    if last <= 0:
        return limbs[0] | (limbs[1] << 32)  # all are kept: below 2^53 bits and number are the same
    if last > 2045:
        return 2047 << 52
    limb, shift = last >> 5, last & 31
    whole = (limbs[limb] >> shift) | (limbs[limb + 1] << (32 - shift))
    if shift > 11:
        whole |= limbs[limb + 2] << (64 - shift)
    limb, shift = (last - 1) >> 5, (last - 1) & 31
    half = (limbs[limb] >> shift) & 1
    below = limbs[limb] & ((1 << shift) - 1)
    for k in range(low, limb):
        below |= limbs[k]
    if half and (below or whole & 1):
        whole += 1  # up to 2^53 it stays right: the exponent's bits are next
    return (last << 52) + whole


@kernel
def rounded_sums(sums: Sums) -> Floats:
    """Every sum as the nearest double."""
    rounded = np.zeros(sums.limbs.shape[1])
    bits = rounded.view(np.int64)
    low, top = sums.used[0], min(sums.used[1] + 4, LIMBS) - 1
    limbs = np.zeros(LIMBS + 2, dtype=np.int64)
    for slot in range(bits.size):
        kind = sums.limbs[LIMBS, slot]
        if kind:
            rounded[slot] = np.inf if kind == INFINITE else -np.inf if kind == MINUS_INFINITE else np.nan
            continue
        over = 0
        for row in range(low, top + 1):
            held = sums.limbs[row, slot] + over
            over = held >> 32
            limbs[row] = held & LIMB
        if over < 0:
            borrow = 1
            for row in range(low, top + 1):
                limbs[row] = (limbs[row] ^ LIMB) + borrow
                borrow = limbs[row] >> 32
                limbs[row] &= LIMB
        bits[slot] = rounded_bits(limbs, low, top)
        if over < 0:
            rounded[slot] = -rounded[slot]
    return rounded


@part
def rounded(partials: Floats, count: int) -> float:
    """The exact sum of non-overlapping partials, increasing in size, rounded half to even."""
    if count == 0:
        return 0.0
    count -= 1
    high, low = partials[count], 0.0
    while count > 0:
        count -= 1
        before, part = high, partials[count]
        high = before + part
        low = part - (high - before)
        if low != 0.0:
            break
    # a tie is broken by what lies below it
    if count > 0 and ((low < 0.0 and partials[count - 1] < 0.0) or (low > 0.0 and partials[count - 1] > 0.0)):
        twice = low * 2.0
        up = high + twice
        if twice == up - high:
            high = up
    return high


@part
def grow(partials: Floats, count: int, x: float) -> int:
    """Add `x` to partials that do not overlap, exactly (Shewchuk 1997); returns how many there are now."""
    kept = 0
    for k in range(count):
        y = partials[k]
        if abs(x) < abs(y):
            x, y = y, x
        high = x + y
        low = y - (high - x)
        if low != 0.0:
            partials[kept] = low
            kept += 1
        x = high
    partials[kept] = x
    return kept + 1


@part
def sum_of_few(values: Floats, first: int, end: int, partials: Floats) -> float:
    """The sum of values[first:end] by a list of floats, for which `partials` has room."""
    if end - first == 1:
        return values[first]
    if end - first == 2:
        return values[first] + values[first + 1]
    count = 0
    for j in range(first, end):
        count = grow(partials, count, values[j])
    return rounded(partials, count)


@kernel
def exact_sums(values: Floats, starts: Integers) -> Floats:
    """Sum of values[starts[g]:starts[g + 1]] for each group g, each correctly rounded; `starts` has one entry
    more than groups.
    """
    totals = np.zeros(starts.size - 1)
    bits = values.view(np.int64)
    partials = np.zeros(FEW)
    wide = Sums(np.zeros((LIMBS + 1, 1), dtype=np.int64), np.zeros(3, dtype=np.int64))
    for group in range(totals.size):
        first, end = starts[group], starts[group + 1]
        few = end - first <= FEW
        for j in range(first, end if few else first):
            few &= ((bits[j] >> 52) & 2047) < LARGE
        if few:
            totals[group] = sum_of_few(values, first, end, partials) + 0.0  # which makes -0.0 0.0
            continue
        wide.limbs[:] = 0
        wide.used[0], wide.used[1] = LIMBS, -1
        for j in range(first, end):
            add_bits(wide, 0, bits[j])
        totals[group] = rounded_sums(wide)[0]
    return totals


@kernel
def fund_balances(fund: Integers, credits: Floats, draws: Floats, seeds: Floats) -> tuple[Floats, Floats]:
    """Balance after each step and what it left uncovered; steps sorted by fund, then time and phase (MODEL
    §7).

    Within a step credits come first, then draws, which take the balance to zero at the lowest.
    """
    balances, uncovered = np.zeros(fund.size), np.zeros(fund.size)
    balance = 0.0
    for k in range(fund.size):
        if k == 0 or fund[k] != fund[k - 1]:
            balance = seeds[fund[k]]
        balance += credits[k]
        paid = min(balance, draws[k])
        uncovered[k] = draws[k] - paid
        balance -= paid
        balances[k] = balance
    return balances, uncovered
