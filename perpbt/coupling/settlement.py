"""One fund through time, from shortfall to shortfall (MODEL §7).

In: the groups of positions that share it. Out: its balance after each moment with a flow, and who covered what; the positions
that were touched have changed. Between shortfalls nothing is looked at but sums.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perpbt.config import TriggerSpec
from perpbt.coupling.flows import Draws, Flows
from perpbt.coupling.groups import Group
from perpbt.coupling.refilling import Crowding
from perpbt.coupling.shortfall import Bankrupt, Cover, Shortfall
from perpbt.kernels.sums import fund_balances
from perpbt.kernels.tables import Floats, Integers
from perpbt.running.terms import Terms


@dataclass
class Floor:
    """How low a fund with a trigger lets itself be drawn."""

    spec: TriggerSpec
    seed: float
    times: list[int] = field(default_factory=list)
    balances: list[float] = field(default_factory=list)
    tripped: bool = False
    first: int = 0  # the last entry at or before the window

    def see(self, time: int, balance: float) -> None:
        """Remember a balance."""
        self.times.append(time)
        self.balances.append(balance)

    def allowed(self, time: int, balance: float, drawn: float) -> float:
        """What the fund may pay of what it has."""
        if drawn == 0.0:
            return balance
        start = time - int(self.spec.window)
        while self.first < len(self.times) and self.times[self.first] <= start:
            self.first += 1
        before = self.balances[self.first - 1] if self.first else self.seed
        level = max([before, *self.balances[self.first :], balance])
        resume = self.spec.drawdown if self.spec.resume is None else self.spec.resume
        floor = level - max(self.spec.drawdown * level, self.spec.least)
        if self.tripped and balance < level - resume * level:
            return 0.0
        room = max(balance - floor, 0.0)
        self.tripped = drawn > room
        return min(room, balance)


@dataclass
class Covered:
    """Who covered a shortfall in one symbol, and when."""

    key: int
    group: Group
    cover: Cover


def unwatched(bar: int) -> None:
    """Nobody wants to know."""


class Fund(ABC):
    """One fund on its way through time: what every way of settling has in common."""

    def __init__(self, groups: Sequence[Group], terms: Terms, seed: float, times: Integers) -> None:
        self.groups, self.terms, self.times = groups, terms, times
        self.balance = seed
        self.floor = None if terms.trigger is None else Floor(terms.trigger, seed)
        self.keys: list[Integers] = []
        self.balances: list[Floats] = []
        self.covered: list[Covered] = []
        self.events: list[tuple[int, Group, list[dict[str, Any]]]] = []
        self.rounds: list[tuple[int, Group, list[dict[str, Any]]]] = []
        self.watch: Callable[[int], None] = unwatched  # told the bar, among all times, it has come to

    @abstractmethod
    def pay_in(self, keys: Integers, amounts: Floats) -> None:
        """Money from outside, at moments in the order of time; before anything else."""

    def after(self, key: int, balance: float) -> None:
        """Note the balance after a moment."""
        self.balance = balance
        self.keys.append(np.array([key]))
        self.balances.append(np.array([balance]))
        if self.floor is not None:
            self.floor.see(int(self.times[key // 3]), balance)

    def meet(self, key: int, credit: float, drawn: float, draws: Draws) -> None:
        """A moment with its flows: credits, then draws, then whoever covers what the fund cannot or may not pay."""
        self.watch(key // 3)
        balance = self.balance + credit
        may = balance if self.floor is None else self.floor.allowed(int(self.times[key // 3]), balance, drawn)
        paid = min(may, drawn)
        balance = balance - paid
        covers = self.cover(key, drawn, drawn - paid, draws) if drawn > paid else []
        still = math.fsum(one.cover.uncovered for one in covers)
        more = min(balance, still)
        if more > 0.0:  # what a trigger held back
            for one in covers:
                one.cover.uncovered = one.cover.uncovered - more * (one.cover.uncovered / still)
        self.covered += covers
        self.after(key, balance - more)

    def cover(self, key: int, drawn: float, short: float, draws: Draws) -> list[Covered]:
        """Symbol by symbol, in order."""
        covers = []
        for number in sorted(set(draws.group.tolist())):
            group, mine = self.groups[number], draws.group == number
            members, deficits = draws.member[mine], draws.deficit[mine]
            first = (
                -1.0 if group.of.rates.terms.inverse else 1.0
            )  # longs first; those of the mirror are short there
            sides = [side for side in (first, -first) if (group.side[members] == side).any()]
            event = Shortfall(group, self.terms, group.moment(key))
            bankrupt = [Bankrupt.of(group, members, deficits, side) for side in sides]
            covers.append(Covered(key, group, event.meet(bankrupt, drawn, short)))
            if event.measures:
                self.rounds.append((key, group, event.measures))
            if event.rows:
                self.change(number, event, key)
                self.events.append((key, group, event.rows))
        return covers

    @abstractmethod
    def change(self, number: int, event: Shortfall, key: int) -> None:
        """Change the positions a shortfall has touched: by walking them again, or in a loop's own state."""


class Settlement(Fund):
    """A fund of positions that are finished already: it leaps from shortfall to shortfall, and the touched live on."""

    def __init__(
        self,
        groups: Sequence[Group],
        terms: Terms,
        seed: float,
        fee_share: float,
        times: Integers,
        crowding: Crowding | None,
    ) -> None:
        super().__init__(groups, terms, seed, times)
        self.flows, self.crowding = Flows(groups, fee_share), crowding

    def run(self) -> None:
        """To the end of the data."""
        at = 0
        while at < self.flows.keys.size:
            at = self.quiet(at)
            if at < self.flows.keys.size:
                self.short(at)
                at += 1

    def pay_in(self, keys: Integers, amounts: Floats) -> None:
        """See `Fund.pay_in`."""
        self.flows.pay_in(keys, amounts)

    def quiet(self, at: int) -> int:
        """On to the next moment the fund cannot pay for."""
        flows = self.flows
        if self.floor is not None:
            return self.watched(at)
        none = np.zeros(flows.keys.size - at, dtype=np.int64)
        balances, uncovered = fund_balances(
            none, flows.credit[at:], flows.draw[at:], np.array([self.balance])
        )
        short = np.flatnonzero(uncovered > 0.0)
        until = int(short[0]) if short.size else none.size
        self.keys.append(flows.keys[at : at + until].copy())
        self.balances.append(balances[:until])
        self.balance = float(balances[until - 1]) if until else self.balance
        return at + until

    def watched(self, at: int) -> int:
        """The same for a fund with a trigger, moment by moment."""
        assert self.floor is not None
        while at < self.flows.keys.size:
            key, draw = int(self.flows.keys[at]), float(self.flows.draw[at])
            balance = self.balance + float(self.flows.credit[at])
            tripped = self.floor.tripped
            if draw > self.floor.allowed(int(self.times[key // 3]), balance, draw):
                self.floor.tripped = tripped  # `short` asks again
                return at
            self.after(key, balance - draw)
            at += 1
        return at

    def short(self, at: int) -> None:
        """A moment the fund cannot or may not pay for alone."""
        key = int(self.flows.keys[at])
        self.meet(key, float(self.flows.credit[at]), float(self.flows.draw[at]), self.flows.drawn(key))

    def change(self, number: int, event: Shortfall, key: int) -> None:
        """Let those who were touched live on, and bring their new flows into the order of time."""
        assert event.rows
        group, changes = self.groups[number], event.changes()
        members, fee = changes.members, 0.0 if self.terms.adl is None else self.terms.adl.fee
        never = group.later(members)  # what they did after, they will not have done
        all_of_them = np.concatenate([members, never])
        before = None if self.crowding is None else group.of.rows[group.at[all_of_them]].copy()
        touched = [self.flows.take_back(number, all_of_them, never)]
        new = group.carry_out(changes, event.moment, fee)
        everyone = np.concatenate([members, new])
        touched.append(self.flows.bring(number, everyone, new))
        if self.crowding is not None and before is not None:
            touched.append(self.crowding.follow(self.flows, number, everyone, before))
        if fee > 0.0:
            touched.append(self.fees(number, event, key))
        self.flows.add_up(np.concatenate(touched))

    def fees(self, number: int, event: Shortfall, key: int) -> Integers:
        """Shares of fees paid on parts; the fund has them in the next phase."""
        group = self.groups[number]
        calls = group.of.calls[-1]
        where = dict(
            zip(group.at[event.changes().members].tolist(), event.changes().members.tolist(), strict=True)
        )
        for call in calls[calls["fee"] > 0.0]:
            self.flows.add_fee(number, where[int(call["row"])], key + 1, float(call["fee"]))
        return np.array([key + 1])
