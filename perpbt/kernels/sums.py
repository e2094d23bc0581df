"""Sums that do not depend on the order of what they add, and the path of a fund's balance.

Accounts come in any order, on any number of threads; money summed over them must not. So groups are summed
exactly and rounded once (Shewchuk 1997, Adaptive Precision Floating-Point Arithmetic; the method of
Python's math.fsum).
"""

from __future__ import annotations

import numpy as np

from .compile import kernel
from .tables import Floats, Integers


@kernel
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


@kernel
def exact_sums(values: Floats, starts: Integers) -> Floats:
    """Sum of values[starts[g]:starts[g + 1]] for each group g, each correctly rounded; `starts` has one
    entry more than groups.
    """
    sums = np.zeros(starts.size - 1)
    partials = np.zeros(64)  # doubles span 2098 bits; non-overlapping partials of 53 bits are at most 40
    for group in range(sums.size):
        count = 0
        for j in range(starts[group], starts[group + 1]):
            x = values[j]
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
            count = kept + 1
        sums[group] = rounded(partials, count)
    return sums


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
