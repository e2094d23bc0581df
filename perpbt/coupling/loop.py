"""The plain coupled loop: time outside, accounts inside (MODEL §7).

In: the positions of a run, as asked for. Out: their rows as everybody lived through the bars together: bar by bar, phase by phase, funds settled
after each, winners deleveraged, the price pushed by who falls. It is the only engine of cascades, and the witness of the one that leaps.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

import numpy as np

from perpbt.coupling.flows import NO_DRAWS, Draws, all_draws
from perpbt.coupling.groups import NEVER, Group
from perpbt.coupling.looped import END, NOBODY, OPEN, RANGE, Looped
from perpbt.coupling.refilling import fill
from perpbt.coupling.settlement import Fund
from perpbt.coupling.shortfall import Shortfall
from perpbt.errors import RunError
from perpbt.kernels.tables import LIQUIDATION, Floats, Integers
from perpbt.running.terms import Terms


class LoopFund(Fund):
    """One fund, settled as time comes to its moments."""

    def __init__(
        self, groups: Sequence[Group], terms: Terms, seed: float, fee_share: float, times: Integers
    ) -> None:
        super().__init__(groups, terms, seed, times)
        self.fee_share = fee_share
        self.credits: dict[int, list[float]] = {}
        self.draws: dict[int, list[Draws]] = {}
        self.payments: list[tuple[int, float]] = []
        self.number = {id(group): number for number, group in enumerate(groups)}

    def fees(self, group: Group, members: Integers, key: int, name: str) -> None:
        """Its share of a fee in the rows of some members."""
        if not members.size:
            return
        value = (self.fee_share * group.weight[members]) * group.of.rows[group.at[members]][name]
        self.credits.setdefault(key, []).extend(value[value > 0.0].tolist())

    def leave(self, group: Group, members: Integers, moment: int) -> None:
        """What exits bring it and ask of it."""
        if not members.size:
            return
        key = int(group.key(np.array([moment]))[0])
        rows, weight = group.of.rows[group.at[members]], group.weight[members]
        self.fees(group, members, key, "close_fee")
        for name in ("liquidation_fee", "surplus"):
            value = weight * rows[name]
            self.credits.setdefault(key, []).extend(value[value > 0.0].tolist())
        owed = weight * rows["deficit"]
        here = np.flatnonzero(owed > 0.0)
        if here.size:
            mine = np.full(here.size, self.number[id(group)])
            self.draws.setdefault(key, []).append(Draws(mine, members[here], owed[here]))

    def pay_in(self, keys: Integers, amounts: Floats) -> None:
        """See `Fund.pay_in`."""
        self.payments = list(zip(keys.tolist(), amounts.tolist(), strict=True))

    def settle(self, key: int) -> None:
        """One moment, and payments of those in between in which nobody was looked at."""
        while self.payments and self.payments[0][0] <= key:
            at, amount = self.payments.pop(0)
            if at < key:
                self.meet(at, amount, 0.0, NO_DRAWS)
            else:
                self.credits.setdefault(key, []).append(amount)
        credits, draws = self.credits.pop(key, []), all_draws(self.draws.pop(key, [NO_DRAWS]))
        if credits or draws.member.size:
            self.meet(key, math.fsum(credits), draws.whole, draws)

    def change(self, number: int, event: Shortfall, key: int) -> None:
        """Change positions where they are; fees on it are the fund's in the next phase."""
        group, changes = self.groups[number], event.changes()
        fee = 0.0 if self.terms.adl is None else self.terms.adl.fee
        before = len(group.of.calls)
        group.carry_out(changes, event.moment, fee)
        if not fee > 0.0:
            return
        member = dict(zip(group.at[changes.members].tolist(), changes.members.tolist(), strict=True))
        for call in (call for calls in group.of.calls[before:] for call in calls):
            value = (self.fee_share * group.weight[member[int(call["row"])]]) * float(call["fee"])
            if value > 0.0:
                self.credits.setdefault(key + 1, []).append(float(value))
        self.fees(group, changes.members[changes.shares == 1.0], key + 1, "close_fee")


class Loop:
    """All groups of a run through time."""

    def __init__(self, groups: list[Looped], funds: Sequence[LoopFund], crowding: bool) -> None:
        self.groups, self.funds, self.crowding = groups, funds, crowding
        self.fund_of = {id(group): fund for fund in funds for group in fund.groups}
        self.bar = {id(group): 0 for group in groups}

    def run(self) -> None:
        """To the end of the data."""
        waiting: list[tuple[int, int]] = []
        for number, group in enumerate(self.groups):
            self.wait(waiting, number, group.next_bar(0))
        while waiting:
            when = waiting[0][0]
            numbers = []
            while waiting and waiting[0][0] == when:
                numbers.append(heapq.heappop(waiting)[1])
            self.moment(when, [self.groups[number] for number in sorted(numbers)])
            for fund in self.funds:
                fund.watch(when)
            for number in numbers:
                group = self.groups[number]
                self.wait(waiting, number, group.next_bar(self.bar[id(group)] + 1))
        for fund in self.funds:
            fund.settle(NEVER)

    def wait(self, waiting: list[tuple[int, int]], number: int, bar: int) -> None:
        """Note when a group's turn comes next."""
        group = self.groups[number]
        if bar < group.bars:
            self.bar[id(group)] = bar
            heapq.heappush(waiting, (int(group.of.when[bar]), number))

    def moment(self, when: int, groups: list[Looped]) -> None:
        """One time, for the groups in which something can happen then."""
        entered = [self.begin(group, 3 * when) for group in groups]
        for number, group in enumerate(groups):
            bar = self.bar[id(group)]
            self.phase(group, OPEN, np.array(group.due.get(bar, []), dtype=np.int64))
            free = group.follow(bar)
            self.fund_of[id(group)].fees(group, free, 3 * when, "open_fee")
            entered[number] = np.concatenate([entered[number], free])
        self.settle(groups, 3 * when)
        for group, new in zip(groups, entered, strict=True):
            self.phase(group, RANGE, new)
        self.settle(groups, 3 * when + 1)
        for group, new in zip(groups, entered, strict=True):
            self.end(group, new)
        self.settle(groups, 3 * when + 2)

    def begin(self, group: Looped, key: int) -> Integers:
        """Come to a bar and open whose bar it is."""
        bar = self.bar[id(group)]
        group.views.begin(bar)
        if bar > 0 and bar in group.epochs:
            group.renew(bar)
        new = group.enter(bar)
        self.fund_of[id(group)].fees(group, new, key, "open_fee")
        return new

    def phase(self, group: Looped, phase: int, also: Integers) -> None:
        """One phase of a group's bar."""
        bar = self.bar[id(group)]
        self.close(group, group.phase(bar, phase, also), 3 * bar + phase)

    def close(self, group: Looped, members: Integers, moment: int) -> None:
        """Exits of a moment: rows, fills against the crowd, flows."""
        if not members.size:
            return
        group.close(members, moment)
        rows = group.of.rows[group.at[members]]
        wrong = np.flatnonzero(3 * rows["exit_bar"] + rows["phase"] != moment)
        if wrong.size:
            row = int(group.of.table_rows[group.at[members[wrong[0]]]])
            raise RunError(
                f"row {row} of the accounts: its bars say it ended at another moment than the loop found"
            )
        if self.crowding:
            for side in (1.0, -1.0):
                crowd = members[(rows["reason"] == LIQUIDATION) & (group.side[members] == side)]
                if crowd.size:
                    fill(group, crowd, moment)
        self.fund_of[id(group)].leave(group, members, moment)
        group.freed(members)

    def settle(self, groups: Iterable[Looped], key: int) -> None:
        """Their funds, at a moment."""
        for fund in {id(fund): fund for fund in (self.fund_of[id(group)] for group in groups)}.values():
            fund.settle(key)

    def end(self, group: Looped, new: Integers) -> None:
        """The close of a bar, and of the data."""
        bar = self.bar[id(group)]
        changed = NOBODY
        if group.any_changed:
            changed, group.any_changed = np.flatnonzero(group.changed), False
            group.changed[changed] = False
        asked = np.concatenate([*group.looked_at, new, changed])
        if asked.size:
            group.settle_levels(np.unique(asked), bar)
        if bar == group.bars - 1:
            self.close(group, group.everybody(), 3 * bar + END)
        group.views.end()


def liquidated_weight(groups: Iterable[Group]) -> float:
    """How many accounts are liquidated in the rows as they are now."""
    fell = [
        group.weight[there][group.of.rows["reason"][group.at[there]] == LIQUIDATION]
        for group in groups
        for there in [group.at >= 0]
    ]
    return math.fsum(np.concatenate([np.zeros(0), *fell]).tolist())
