"""The plain coupled loop where nobody pushes the price: time outside, accounts inside, bar after bar in compiled code.

In: the positions of a run, as asked for. Out: their rows as everybody lived through the bars together. A world's positions in a symbol
change only by a shortfall in which some of them owe something: so each group is taken on to the next moment at which somebody does, and
its fund is settled there, in the order of time. This is what engine = "dense" runs, and the witness of the leaps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perpbt.coupling.flows import Draws, all_draws
from perpbt.coupling.groups import Changes, Group
from perpbt.coupling.refilling import fill
from perpbt.coupling.settlement import Fund
from perpbt.coupling.shortfall import Shortfall
from perpbt.errors import RunError
from perpbt.kernels.coupled.advancing import (
    COUNT,
    ENTERED,
    LEFT,
    NOWHERE,
    REST,
    STATE,
    WINDOW,
    WRONG,
    advance,
    among_open,
    live_on,
)
from perpbt.kernels.coupled.deleveraging import change_positions
from perpbt.kernels.coupled.looping import LEVELS
from perpbt.kernels.sums import exact_sums, fund_balances
from perpbt.kernels.tables import ACCEPTED, CALL, LIQUIDATION, Floats, Integers, unused
from perpbt.kernels.tiles import KEPT
from perpbt.running.terms import Terms

OVER = 1 << 62  # a moment after all others


class Advancing(Group):
    """The positions of one world in one symbol on their way through time."""

    def __init__(self, group: Group) -> None:
        # who enters together is open together, and stands together in memory
        of, order = group.of, np.argsort(group.since, kind="stable")
        at, size = group.at[order], order.size
        self.known(of, group.world, at, group.weight[order], group.identifier[order])
        self.side = group.side[order]
        self.moments, self.money = np.zeros((2, size), dtype=np.int64), np.zeros((4, size))
        self.moments[0], self.moments[1] = NOWHERE, -1
        self.since, self.until = self.moments
        self.entry, self.funding, self.quantity, self.margin = self.money
        self.plans, self.signals, self.lanes = of.asked(at)
        self.kept, self.extreme = np.zeros(size, dtype=KEPT), np.zeros(size)
        self.levels = np.zeros((size, LEVELS))
        entry, due = self.lanes["bar"], self.lanes["exit_due"]
        self.entering = np.argsort(entry, kind="stable")
        self.entry_bars = entry[self.entering]
        due_bar = np.maximum(np.searchsorted(of.market.time, due), entry + 1)
        with_due = np.flatnonzero(due >= 0)
        self.dues = with_due[np.argsort(due_bar[with_due], kind="stable")]
        self.due_bars = due_bar[self.dues]
        self.open, self.slot = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        self.near = np.zeros(2 * size, dtype=np.int64)
        self.chosen, self.changed, self.touched, self.past = (np.zeros(size, dtype=np.int8) for _ in range(4))
        self.left, self.leaving = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        self.rest, self.state = np.zeros((WINDOW, REST)), np.zeros(STATE, dtype=np.int64)
        self.paused = -1  # the moment it waits at; below 0: it does not wait
        self.over = False
        self._none = np.zeros(1, dtype=CALL)

    def run(self, crowding: bool) -> tuple[Integers, Integers]:
        """On to the next moment at which somebody owes something, or to the end; returns who has entered and who has left since."""
        entered, left = int(self.state[ENTERED]), int(self.state[LEFT])
        while True:
            moment = advance(
                self.of.market, self.of.rates, self.plans, self.signals, self.lanes, self.kept, self.of.rows, self.at, self.entering,
                self.entry_bars, self.dues, self.due_bars, self.moments, self.money, self.side, self.extreme, self.levels, self.open,
                self.slot, self.near, self.chosen, self.changed, self.touched, self.left, self.leaving, self.past, self.rest, self._none,
                self.state, crowding,
            )  # fmt: skip
            if moment == WRONG:
                row = int(self.of.table_rows[self.state[LEFT]])
                raise RunError(
                    f"row {row} of the accounts: its bars say it ended at another moment than the loop found"
                )
            self.over = moment < 0
            self.paused = moment
            if self.over or not crowding or self.filled(moment):
                return self.entering[entered : self.state[ENTERED]], self.left[left : self.state[LEFT]]

    def last(self, moment: int) -> Integers:
        """Who left at a moment, after which nobody has."""
        end = first = int(self.state[LEFT])
        back = 16  # they are in the order of time
        while first > 0 and int(self.until[self.left[first - 1]]) == moment:
            first, back = max(end - back, 0), 2 * back
        here = self.left[first:end]
        leavers: Integers = here[self.until[here] == moment]
        return leavers

    def filled(self, moment: int) -> bool:
        """Fill who was liquidated at a moment against all of them; says whether anybody who left then owes something."""
        leavers = self.last(moment)
        for side in (1.0, -1.0):
            crowd = leavers[
                (self.of.rows["reason"][self.at[leavers]] == LIQUIDATION) & (self.side[leavers] == side)
            ]
            if crowd.size:
                fill(self, crowd, moment)
        return bool((self.of.rows["deficit"][self.at[leavers]] > 0.0).any())

    def carry_out(self, changes: Changes, moment: int, fee: float) -> Integers:
        """Change positions where they are; the time of their exits will come."""
        bar, phase = divmod(moment, 3)
        members, at, calls = changes.members, self.at[changes.members], unused(CALL, changes.members.size)
        change_positions(
            self.of.market, self.of.rates, self.plans, self.signals, self.lanes, self.kept, self.of.rows, members, at, calls, bar, phase,
            changes.shares, changes.taken, changes.prices, fee, False,
        )  # fmt: skip
        self.of.keep_calls(calls)
        live_on(
            self.of.market, self.of.rates, self.plans, self.signals, self.lanes, self.kept, self.of.rows, self.at, members, changes.shares, self.extreme, self.levels, self.open, self.slot,
            self.near, self.chosen, self.changed, self.touched, bar, phase, self.state,
        )  # fmt: skip
        return members[:0]

    def among(self, moment: int) -> tuple[Integers, int]:
        """See `Group.among`."""
        return self.open, int(self.state[COUNT])

    def open_at(self, moment: int, side: float, price: float) -> Integers:
        """See `Group.open_at`; who waits at a moment is met at no other."""
        found = among_open(self.open, self.state[COUNT], self.since, self.until, moment, self._room)
        members = np.sort(self._room[:found])
        if side != 0.0:
            members = members[(self.side[members] == side) & (side * (price - self.entry[members]) > 0.0)]
        return members


class AdvancingFund(Fund):
    """One fund, settled in the order of time while its groups are on their way."""

    groups: Sequence[Advancing]

    def __init__(
        self, groups: Sequence[Advancing], terms: Terms, seed: float, fee_share: float, times: Integers, crowding: bool
    ) -> None:  # fmt: skip
        super().__init__(groups, terms, seed, times)
        self.fee_share, self.crowding = fee_share, crowding
        self.waiting: list[list[tuple[Integers, Floats]]] = [
            [] for _ in groups
        ]  # credits to come, in the order of time

    def run(self) -> None:
        """To the end of the data."""
        while True:
            for number, group in enumerate(self.groups):
                if group.paused < 0 and not group.over:
                    self.bring(number, *group.run(self.crowding))
            keys = [
                OVER if group.paused < 0 else int(group.key(np.array([group.paused]))[0]) for group in self.groups
            ]  # fmt: skip
            key = min(keys, default=OVER)
            credit = self.quiet(key)
            if key == OVER:
                return
            draws = all_draws(
                [
                    self.owed(number, self.groups[number].paused)
                    for number, when in enumerate(keys)
                    if when == key
                ]
            )
            self.meet(key, credit, draws.whole, draws)
            for group, when in zip(self.groups, keys, strict=True):
                if when == key:
                    group.paused = -1

    def pay_in(self, keys: Integers, amounts: Floats) -> None:
        """See `Fund.pay_in`."""
        self.put(0, keys, amounts)

    def bring(self, number: int, entered: Integers, left: Integers) -> None:
        """What positions that were opened and closed bring the fund."""
        group, rows = self.groups[number], self.groups[number].of.rows
        opened, gone, weight = group.at[entered], group.at[left], group.weight[left]
        fee = (self.fee_share * group.weight[entered]) * rows["open_fee"][opened]
        key = group.key(group.until[left])
        keys = [group.key(3 * rows["entry_bar"][opened].astype(np.int64)), key, key, key]
        values = [
            np.where(rows["rejection"][opened] == ACCEPTED, fee, 0.0),
            weight * rows["liquidation_fee"][gone],
            weight * rows["surplus"][gone],
            (self.fee_share * weight) * rows["close_fee"][gone],
        ]
        self.put(number, np.concatenate(keys), np.concatenate(values))

    def put(self, number: int, keys: Integers, values: Floats) -> None:
        """Credits of a group for later."""
        some = np.flatnonzero(values > 0.0)
        if some.size:
            some = some[np.argsort(keys[some], kind="stable")]
            self.waiting[number].append((keys[some], values[some]))

    def owed(self, number: int, moment: int) -> Draws:
        """The deficits of a group at the moment it waits at."""
        group = self.groups[number]
        leavers = group.last(moment)
        deficit = group.weight[leavers] * group.of.rows["deficit"][group.at[leavers]]
        here = np.flatnonzero(deficit > 0.0)
        return Draws(np.full(here.size, number), leavers[here], deficit[here])

    def quiet(self, until: int) -> float:
        """Settle all moments before `until`, in which the fund only receives; returns what it receives at `until` itself."""
        found = []
        for number, batches in enumerate(self.waiting):
            rest = []
            for keys, values in batches:
                cut = int(np.searchsorted(keys, until, side="right"))
                found.append((keys[:cut], values[:cut]))
                if cut < keys.size:
                    rest.append((keys[cut:], values[cut:]))
            self.waiting[number] = rest
        keys = np.concatenate([np.zeros(0, dtype=np.int64), *(keys for keys, _ in found)])
        values = np.concatenate([np.zeros(0), *(values for _, values in found)])
        order = np.argsort(keys, kind="stable")
        moments, first = np.unique(keys[order], return_index=True)
        sums = exact_sums(values[order], np.append(first, keys.size))
        last = bool(moments.size) and int(moments[-1]) == until
        moments, credits, at_last = (
            (moments[:-1], sums[:-1], float(sums[-1])) if last else (moments, sums, 0.0)
        )
        if moments.size:
            none = np.zeros(moments.size, dtype=np.int64)
            balances, _ = fund_balances(none, credits, np.zeros(moments.size), np.array([self.balance]))
            self.keys.append(moments)
            self.balances.append(balances)
            self.balance = float(balances[-1])
            if self.floor is not None:
                for moment, balance in zip(moments.tolist(), balances.tolist(), strict=True):
                    self.floor.see(int(self.times[moment // 3]), balance)
        return at_last

    def change(self, number: int, event: Shortfall, key: int) -> None:
        """Change positions where they are; fees on it are the fund's in the next phase."""
        group, changes = self.groups[number], event.changes()
        fee = 0.0 if self.terms.adl is None else self.terms.adl.fee
        before = len(group.of.calls)
        group.carry_out(changes, event.moment, fee)
        if not fee > 0.0:
            return
        member = dict(zip(group.at[changes.members].tolist(), changes.members.tolist(), strict=True))
        calls = [call for calls in group.of.calls[before:] for call in calls]
        paid = [
            (self.fee_share * group.weight[member[int(call["row"])]]) * float(call["fee"]) for call in calls
        ]
        whole = changes.members[changes.shares == 1.0]
        paid += (
            (self.fee_share * group.weight[whole]) * group.of.rows["close_fee"][group.at[whole]]
        ).tolist()
        self.put(number, np.full(len(paid), key + 1), np.array(paid, dtype=np.float64))
