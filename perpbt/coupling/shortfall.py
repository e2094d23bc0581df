"""What a shortfall of one moment does in one symbol: winners closed, an outside counterparty, a loss socialised (MODEL §7).

The bankrupt positions of a symbol and side in one phase stand together: one quantity, the uncovered part of theirs, and one price,
the mean of their bankruptcy prices by quantity. Winners are closed there instead of where the bankrupt positions were filled, and so give up, for each unit, the mean deficit of a unit: together exactly what is not covered. The bankrupt positions' rows stay as they are; a winner's PnL is that at the fills, and what it gave up is a transfer to the fund, counted in its `surplus` and in the fund's column `adl`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perpbt.adl import allocate, spread
from perpbt.adl.allocations import find_policy
from perpbt.adl.candidates import quotient
from perpbt.adl.filling import head, in_turn
from perpbt.coupling.groups import Changes, Group
from perpbt.kernels.coupled.rounds import HELD, RANKS, SCORE, UNRANKED, WORTH, least_share
from perpbt.kernels.tables import MARK_CLOSE, MARK_HIGH, MARK_LOW, MARK_OPEN, Floats, Integers
from perpbt.running.terms import Terms

DUST = 1e-12  # of a quantity: what is less than that short is placed; of a notional: a deficit below is rounding and closes nobody
OPEN, RANGE, END = 0, 1, 2


@dataclass
class Bankrupt:
    """The bankrupt positions of one symbol, side and phase: their deficits (times weight), and of those that are more than rounding
    deficits, quantities and bankruptcy prices.
    """

    side: float
    owed: float
    missing: float
    quantity: float
    price: float

    @classmethod
    def of(cls, group: Group, members: Integers, deficits: Floats, side: float) -> Bankrupt:
        """Those of one side among the bankrupt of a group."""
        mine = group.side[members] == side
        members, deficits = members[mine], deficits[mine]
        held, margin, entry, charged, before = group.of_rows(
            members, "exit_quantity", "exit_margin", "entry", "exit_funding", "entry_funding"
        )
        quantity = group.weight[members] * held
        price = (entry - side * (margin / held)) + (charged - before)
        worth = quantity * price
        real = deficits > DUST * worth
        whole = math.fsum(quantity[real].tolist())
        at = math.fsum(worth[real].tolist()) / whole if whole else 0.0
        return cls(side, math.fsum(deficits.tolist()), math.fsum(deficits[real].tolist()), whole, at)


@dataclass
class Cover:
    """Who covered a shortfall in a symbol at a moment; money of all accounts together."""

    adl: float = 0.0
    outside: float = 0.0
    socialised: float = 0.0
    uncovered: float = 0.0


@dataclass
class Shortfall:
    """One symbol's part of a shortfall at one moment."""

    group: Group
    terms: Terms
    moment: int
    members: list[Integers] = field(default_factory=list)
    shares: list[Floats] = field(default_factory=list)
    prices: list[Floats] = field(default_factory=list)
    taken: dict[int, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    measures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def phase(self) -> int:
        """OPEN, RANGE or END."""
        return self.moment % 3

    def meet(self, bankrupt: list[Bankrupt], drawn: float, short: float) -> Cover:
        """Close winners and socialise; what is changed is noted, and carried out by `changes`."""
        cover, left = Cover(), []
        for one in bankrupt:
            part = short * (one.owed / drawn)
            adl, outside = 0.0, 0.0
            if self.terms.adl is not None and self.phase != END and one.quantity > 0.0:
                adl, outside = self.deleverage(one, short / drawn, short * (one.missing / drawn))
            cover.adl = cover.adl + adl
            cover.outside = cover.outside + outside
            left.append((part - adl) - outside)
        rest = math.fsum(left)
        if self.terms.spec.socialised != "none" and self.phase != END and rest > 0.0:
            cover.socialised = self.socialise(rest)
        cover.uncovered = rest - cover.socialised
        return cover

    def marks(self, side: float) -> tuple[float, float]:
        """The mark of the moment and the one before it: in the range, the extreme the bankrupt side was tested at."""
        series, bar = self.group.market(side).series, self.moment // 3
        if self.phase == RANGE:
            return float(series[MARK_LOW if side > 0.0 else MARK_HIGH, bar]), float(series[MARK_OPEN, bar])
        return float(series[MARK_OPEN, bar]), float(
            series[MARK_CLOSE, bar - 1] if bar else series[MARK_OPEN, bar]
        )

    def price(self, bankrupt: Bankrupt) -> tuple[float, float]:
        """What winners are closed at, and what that makes them give up per unit."""
        assert self.terms.adl is not None
        side, each = bankrupt.side, bankrupt.missing / bankrupt.quantity
        if self.terms.price == "bankruptcy":
            return bankrupt.price, each
        mark, previous = self.marks(side)
        price = mark if self.terms.price == "mark" else previous
        filled = bankrupt.price - side * each  # nobody gives up more than the loss, nor gains by it
        price = side * min(max(side * price, side * filled), side * bankrupt.price)
        return price, side * (price - filled)

    def deleverage(self, bankrupt: Bankrupt, fraction: float, part: float) -> tuple[float, float]:
        """Close the uncovered part of the bankrupt quantity; returns what winners and the outside counterparty gave up."""
        adl, group = self.terms.adl, self.group
        assert adl is not None
        price, each = self.price(bankrupt)
        wanted = fraction * bankrupt.quantity
        mark, _ = self.marks(bankrupt.side)
        rank = rank_of(self.terms.policy) if adl.lot is None else UNRANKED
        winners, told = group.winners(self.moment, -bankrupt.side, price, mark, rank)
        placed, given = 0.0, 0.0
        if winners.size:
            if rank == UNRANKED:
                hit, closed, how = self.allocated(winners, wanted, price, mark)
            else:
                hit, closed, how = queued(group.identifier, winners, told, wanted, abs(mark - price))
            placed = math.fsum(closed.tolist())
            self.measures.append({"side": bankrupt.side, "winners": winners.size} | how)
            self.note(winners[hit], closed, told[HELD, hit], price, each, bankrupt.side)
            given = min(math.fsum((closed * each).tolist()), part)
        if self.terms.price == "bankruptcy" and placed >= wanted * (1.0 - DUST):
            return part, 0.0
        return given, self.outsider(wanted - placed, wanted, price, each, part - given)

    def allocated(
        self, winners: Integers, wanted: float, price: float, mark: float
    ) -> tuple[Integers, Floats, dict[str, float]]:
        """Which of the winners a policy of any kind closes, how much of each, and how well it was spread."""
        adl, told = self.terms.adl, self.group.candidates(winners, self.moment, mark)
        assert adl is not None
        closed = allocate(self.terms.policy, told, wanted, lot=adl.lot, **adl.options)
        hit = np.flatnonzero(closed > 0.0)
        return hit, closed[hit], spread(told, closed, wanted, price, adl.lot)

    def note(
        self, members: Integers, closed: Floats, held: Floats, price: float, each: float, side: float
    ) -> None:
        """What is closed of winners: in the arrays now, in the rows with the moment's other changes."""
        group = self.group
        share = np.where(closed >= held, 1.0, closed / held)
        mine = (closed / group.weight[members]) * each
        self.rows.append(
            {
                "member": members, "kind": "adl", "bankrupt_side": np.full(members.size, side),
                "quantity": closed / group.weight[members], "fraction": share, "price": np.full(members.size, price),
                "given_up": mine,
            }
        )  # fmt: skip
        group.given_up[members] = group.given_up[members] + mine
        group.shrink(members, share, self.moment)
        self.members.append(members)
        self.shares.append(share)
        self.prices.append(np.full(members.size, price))

    def outsider(self, quantity: float, wanted: float, price: float, each: float, left: float) -> float:
        """What a counterparty outside the simulation takes, up to its size."""
        assert self.terms.adl is not None
        if not quantity > wanted * DUST:
            return 0.0
        size = self.terms.adl.outside - self.group.outside
        taken = min(quantity, max(size, 0.0) / price)
        self.group.outside += taken * price
        return min(taken * each, left)

    def socialise(self, loss: float) -> float:
        """Take a loss out of margins; returns how much of it was taken."""
        group, bar = self.group, self.moment // 3
        row = MARK_OPEN if self.phase == OPEN else MARK_CLOSE
        members = group.open_at(self.moment, 0.0, 0.0)
        seen = [float(group.market(side).series[row, bar]) for side in (1.0, -1.0)]
        mark = np.where(group.side[members] > 0.0, *seen)
        weight = group.weight[members]
        left = np.maximum(group.equity(members, self.moment, mark), 0.0)
        signed = group.side[members] * group.quantity[members]
        profit = np.maximum(signed * (mark - group.entry[members]), 0.0)
        if self.terms.spec.socialised == "profit":
            limit = np.minimum(profit, left)
            base = weight * limit
        else:
            limit, base = left, np.where(left > 0.0, weight * group.quantity[members], 0.0)
        whole = math.fsum(base.tolist())
        if not whole > 0.0:
            return 0.0
        mine = np.minimum((loss * (base / whole)) / weight, limit)
        hit = np.flatnonzero(mine > 0.0)
        members, mine = members[hit], mine[hit]
        group.margin[members] = group.margin[members] - mine
        group.socialised[members] = group.socialised[members] + mine
        self.taken.update(zip(members.tolist(), mine.tolist(), strict=True))
        nothing = np.full(hit.size, np.nan)
        self.rows.append(
            {
                "member": members, "kind": "socialised", "bankrupt_side": np.zeros(hit.size),
                "quantity": np.zeros(hit.size), "fraction": np.zeros(hit.size), "price": nothing, "given_up": mine,
            }
        )  # fmt: skip
        return min(math.fsum((weight[hit] * mine).tolist()), loss)

    def changes(self) -> Changes:
        """What happens to whom, once."""
        if not self.taken and len(self.members) == 1:
            order = np.argsort(self.members[0])
            return Changes(
                self.members[0][order], self.shares[0][order], self.prices[0][order], np.zeros(order.size)
            )
        members = np.concatenate([np.zeros(0, dtype=np.int64), *self.members])
        also = np.setdiff1d(np.array(list(self.taken), dtype=np.int64), members)
        everyone = np.concatenate([members, also])
        shares = np.concatenate([*self.shares, np.zeros(also.size)])
        prices = np.concatenate([*self.prices, np.zeros(also.size)])
        taken = np.array([self.taken.get(int(member), 0.0) for member in everyone], dtype=np.float64)
        order = np.argsort(everyone, kind="stable")
        return Changes(everyone[order], shares[order], prices[order], taken[order])


def rank_of(policy: str) -> int:
    """The number of the ranking a policy queues by; UNRANKED for what is left to `perpbt.adl`."""
    allocation, variant = find_policy(policy)
    return RANKS.get(variant, UNRANKED) if allocation.function.__name__ == "queue" else UNRANKED


def queued(
    identifier: Integers, winners: Integers, told: Floats, wanted: float, gap: float
) -> tuple[Integers, Floats, dict[str, float]]:
    """The same of a queue: what `allocate` and `spread` of `perpbt.adl` say, without a look at those who are not closed."""
    held, score = told[HELD, : winners.size], told[SCORE, : winners.size]
    hit = head(held, score, wanted)
    closed = in_turn(held[hit], score[hit], wanted, identifier[winners[hit]])
    hit, closed = hit[closed > 0.0], closed[closed > 0.0]
    taken, needed = closed * gap, wanted * gap
    whole = math.fsum(taken.tolist())
    largest = float(np.max(quotient(taken, told[WORTH, hit]), initial=0.0))
    best = float(least_share(told, winners.size, gap, whole))
    return hit, closed, {
        "needed": needed, "taken": whole, "overshoot": abs(whole - needed), "largest_share": largest,
        "fairness_regret": abs(largest - best) * whole,
    }  # fmt: skip
