"""One round of deleveraging: who may be closed, in what order, and how well it was spread.

In: positions as arrays and a moment. Out: the winners with what a queue ranks them by, and the measures of `perpbt.adl`: the same bits that
`perpbt.adl` computes column by column, in one pass, because a run has thousands of rounds and a market hundreds of thousands of winners.
"""

from __future__ import annotations

import numpy as np

from perpbt.kernels.compile import kernel, part
from perpbt.kernels.epochs import epoch_at, rates_in
from perpbt.kernels.margin import make_position, requirement
from perpbt.kernels.sums import LIMBS, Sums, add_bits, rounded_sums
from perpbt.kernels.tables import FUNDING, Floats, Integers, Market, Rates

# rankings, by the names of `perpbt.adl`; a queue by another one is made by `perpbt.adl` itself
RANKS = {
    "bitmex": 0,
    "binance": 1,
    "binance_2019": 2,
    "okx": 3,
    "bybit": 4,
    "hyperliquid": 5,
    "hyperliquid_decompiled": 6,
}
UNRANKED = -1
BITMEX, BINANCE, BINANCE_2019, OKX, BYBIT, HYPERLIQUID, DECOMPILED = range(7)
# rows of what is told of each winner: contracts and equity at mark of all accounts it stands for, and its place's score
HELD, WORTH, SCORE = range(3)
TOLD = 3
BRINK = 1.001


@part
def quotient(above: float, below: float) -> float:
    """above / below for above >= 0, infinite where below is not positive, and 0 where above is 0."""
    if above == 0.0:
        return 0.0
    return above / below if below > 0.0 else np.inf


@part
def stretched(gain: float, by: float, winning: bool) -> float:
    """A gain times a leverage that may be infinite; a loss over it."""
    if winning:
        return 0.0 if gain == 0.0 or by == 0.0 else gain * by
    return gain if by == 0.0 else gain / by


@part
def score_of(
    rank: int, side: float, quantity: float, entry: float, margin: float, paid: float, mark: float, needed: float, bankruptcy: float
) -> float:  # fmt: skip
    """The score of `perpbt.adl.rankings`, of all accounts a position stands for together."""
    profit = (side * quantity) * (mark - entry)
    equity = (margin - paid) + profit
    notional = quantity * mark
    gain = side * ((mark - entry) / entry)
    if rank == BITMEX:
        left = (side * quantity) * (mark - bankruptcy)
        return stretched(gain, quotient(notional, left), gain > 0.0)
    if rank == BINANCE:
        gain = profit / notional if notional > 0.0 else 0.0
        return stretched(gain, quotient(notional, equity), gain >= 0.0)
    if rank == BINANCE_2019:
        ratio = needed / equity if equity > 0.0 else 0.0
        return (max(0.0, profit) / max(1.0, margin - paid)) * ratio
    if rank == OKX:
        return stretched(gain, quotient(needed, equity), gain > 0.0)
    leverage = quotient(notional, equity)
    if rank == BYBIT:
        return stretched(gain, leverage, True)
    if rank == HYPERLIQUID:
        return stretched(mark / entry, leverage, True)
    return max(leverage, 1e-8) * max(max(gain, 0.0), 1e-8)


@kernel
def rank_winners(
    market: Market, rates: Rates, open_: Integers, count: int, since: Integers, until: Integers, side: Floats, entry: Floats,
    funding: Floats, quantity: Floats, margin: Floats, weight: Floats, moment: int, wanted: float, price: float, mark: float,
    rank: int, found: Integers, told: Floats,
) -> int:  # fmt: skip
    """Write to `found` which positions on side `wanted` are open at a moment, in profit at `price` and worth something there, and to the
    columns of `told` what they are; returns how many. Among the first `count` in `open_`, in their order; with a `count` below 0 among all.

    Scores are those of `rank` at `mark`; of UNRANKED there are none.
    """
    written, bar = 0, moment // 3
    now, charged = rates_in(rates, epoch_at(rates, bar)), market.series[FUNDING, bar]
    for k in range(side.size if count < 0 else count):
        j = k if count < 0 else open_[k]
        if side[j] != wanted or not since[j] <= moment < until[j] or not wanted * (price - entry[j]) > 0.0:
            continue
        moved = charged - funding[j]
        signed = side[j] * quantity[j]
        if not (margin[j] + signed * (price - entry[j])) - signed * moved > 0.0:
            continue
        held, own, paid = weight[j] * quantity[j], weight[j] * margin[j], weight[j] * (signed * moved)
        found[written] = j
        told[HELD, written] = held
        told[WORTH, written] = (own - paid) + (side[j] * held) * (mark - entry[j])
        if rank != UNRANKED:
            needed, bankruptcy = 0.0, 0.0
            if rank in (BINANCE_2019, OKX):
                position = make_position(
                    now, side[j], quantity[j], entry[j], margin[j], funding[j], market.highest_mark, -np.inf, np.inf, 0.0
                )  # fmt: skip
                needed = weight[j] * requirement(now, position, mark)
            elif rank == BITMEX:
                bankruptcy = (entry[j] - side[j] * (margin[j] / quantity[j])) + moved
            told[SCORE, written] = score_of(
                rank, side[j], held, entry[j], own, paid, mark, needed, bankruptcy
            )
        written += 1
    return written


@part
def summed(
    held: Floats, gap: float, worth: Floats, reach: float, count: int, full: bool, equity: bool
) -> float:
    """The exact sum over those of the first `count` with a worth whose room, held * gap, is at most reach * worth (`full`), or over the
    others: of their rooms, or of their `equity`.
    """
    wide = Sums(np.zeros((LIMBS + 1, 1), dtype=np.int64), np.zeros(3, dtype=np.int64))
    wide.used[0], wide.used[1] = LIMBS, -1
    one = np.zeros(1)
    bits = one.view(np.int64)
    for k in range(count):
        if worth[k] > 0.0 and (held[k] * gap <= reach * worth[k]) == full:
            one[0] = worth[k] if equity else held[k] * gap
            add_bits(wide, 0, bits[0])
    return rounded_sums(wide)[0]


@part
def common_rate(held: Floats, gap: float, worth: Floats, amount: float, count: int) -> float:
    """The t at which min(held * gap, t * worth) sums to `amount`, which is less than all there is: of who gives all he has a little more
    is known at every pass. Infinite where everybody does.
    """
    reach, rate, full, given = -1.0, -1.0, 0, 0.0
    among = summed(held, gap, worth, reach, count, False, True)
    while among > 0.0:
        rate = (amount - given) / among
        reach, more = max(reach, rate), 0
        for k in range(count):
            if worth[k] > 0.0 and held[k] * gap <= reach * worth[k]:
                more += 1
        if more == full:
            return max(rate, 0.0)
        full = more
        given = summed(held, gap, worth, reach, count, True, False)
        among = summed(held, gap, worth, reach, count, False, True)
    return np.inf


@kernel
def least_share(told: Floats, count: int, gap: float, amount: float) -> float:
    """`perpbt.adl.least_largest_share` of what can be divided at will: the smallest that the largest share of a winner's equity can be
    when `amount` is raised of the first `count`, none giving more than his contracts times `gap`.
    """
    held, worth = told[HELD], told[WORTH]
    best, rough, others = 0.0, 0.0, False
    if not amount > 0.0:
        return best
    for k in range(count):
        if worth[k] > 0.0:
            rough += held[k] * gap
        else:
            others |= held[k] * gap > 0.0
    everything = rough
    if rough <= amount * BRINK:  # or so much more that no rounding matters
        everything = summed(held, gap, worth, np.inf, count, True, False)
    rate = np.inf if everything <= amount else common_rate(held, gap, worth, amount, count)
    for k in range(count):
        if worth[k] > 0.0:
            best = max(best, quotient(min(held[k] * gap, rate * worth[k]), worth[k]))
    return np.inf if others and amount - everything > 0.0 else best
