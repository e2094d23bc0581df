"""Crowds of shared wallets: liquidations filled against all that their world sells with them (MODEL §6).

A fill decides what is left in a wallet, and so whether what it opens later stands, and when that is liquidated. So wallets that were
liquidated are run again with the crowds of the run before until nothing that is sold changes. What falls first does so whatever the fills: its
crowds are right the second time, what they decide the third, and so on in time; it ends after at most as many runs as any account has
liquidations, and two more. Where weights are scaled to an open interest, what lives later counts for what falls now, and it ends where
that, too, no longer changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from perpbt.crossing.legs import Legs
from perpbt.engines.book import Book
from perpbt.errors import RunError
from perpbt.kernels.crossing.tables import Assets, Charges
from perpbt.kernels.sums import exact_sums
from perpbt.kernels.tables import Floats, Integers, Table
from perpbt.settling.weights import OpenInterest, Weights

MOST = 1_000  # runs


@dataclass(frozen=True)
class Members:
    """Who is in a crowd: the world of each account by number and its weight, the open interest it is scaled to, and by `weigh` what each
    row of the table counts for then, where all rows are as given.
    """

    world: Integers
    weight: Floats
    interest: float | Mapping[str, float] | None
    weigh: Callable[[Table], Floats]


@dataclass(frozen=True)
class Sold:
    """What was sold by wallets that were liquidated: a row a wallet, symbol and liquidation, in the order of legs."""

    who: Integers  # world, symbol, side, phase and bar in one number
    volume: Floats  # notional before slippage, times weight

    def same(self, other: Sold) -> bool:
        """To the bit."""
        return np.array_equal(self.who, other.who) and np.array_equal(self.volume, other.volume)


def sold_by(members: Members, symbols: int, bars: int, legs: Legs, rows: Table) -> Sold:
    """What the legs say was sold; `kernels.crossing.ending.crowd_of` has the same numbers for crowds."""
    at = np.flatnonzero(legs.legs["sold"])
    account = np.searchsorted(legs.first, at, side="right") - 1
    mine, place = legs.legs[at], legs.legs["place"][at]
    own, weight = rows[place], members.weigh(rows)[place]
    who = (members.world[account] * symbols + mine["symbol"]) * 2 + (mine["sold"] > 0.0)
    who = (who * 2 + own["phase"]) * (bars + 1) + own["exit_bar"]
    return Sold(who.astype(np.int64), weight * np.abs(mine["sold"]))


def in_crowds(charges: Charges, sold: Sold) -> tuple[Charges, int]:
    """The charges with the volume of each crowd, and how many wallets the largest one has."""
    order = np.argsort(sold.who, kind="stable")
    who, starts = np.unique(sold.who[order], return_index=True)
    ends = np.append(starts, order.size).astype(np.int64)
    volumes = exact_sums(sold.volume[order], ends)
    return charges._replace(crowds=who, volumes=volumes), int(np.diff(ends).max(initial=0))


def run_with_crowds(
    run: Callable[[Charges, Integers], None], charges: Charges, assets: Assets, members: Members, bars: int, legs: Legs, rows: Table,
    wallets: Table,
) -> int:  # fmt: skip
    """All accounts to their end; returns how many wallets the largest crowd has. `run` runs the accounts of these numbers."""
    fresh, amount, counted = legs.legs.copy(), assets.amount.copy(), assets.counted.copy()
    symbols = charges.numbers.shape[0]
    run(charges, np.arange(legs.size))
    sold, again = sold_by(members, symbols, bars, legs, rows), np.flatnonzero(wallets["liquidations"] > 0)
    of_legs = np.isin(np.searchsorted(legs.first, np.arange(fresh.size), side="right") - 1, again)
    of_assets = np.isin(np.searchsorted(assets.first, np.arange(amount.size), side="right") - 1, again)
    crowded, largest = in_crowds(charges, sold)
    for _ in range(MOST if again.size else 0):
        legs.legs[of_legs], rows[fresh["place"][of_legs]] = fresh[of_legs], np.zeros((), dtype=rows.dtype)
        assets.amount[of_assets], assets.counted[of_assets] = amount[of_assets], counted[of_assets]
        wallets[again] = np.zeros((), dtype=wallets.dtype)
        wallets["world"] = members.world
        run(crowded, again)
        found = sold_by(members, symbols, bars, legs, rows)
        if found.same(sold):
            return largest
        sold = found
        crowded, largest = in_crowds(charges, sold)
    if again.size:
        raise RunError(
            f"crowds of shared wallets still change after {MOST} runs: what their fills leave decides how open interest scales them"
        )
    return largest


def scaled_weights(book: Book, wanted: OpenInterest) -> Floats:
    """The weight of each row of the table, scaled to an open interest as settling does."""
    weights, found, tasks = Weights(book, wanted), np.empty(book.size), list(book.order.tasks())
    for task in tasks:
        chunk = book.chunk(task)
        weights.meet(chunk, *weights.carried(chunk, weights.before(chunk)))
    weights.scale()
    for task in tasks:
        chunk = book.chunk(task)
        found[chunk.to] = weights.of(chunk)
    return found
