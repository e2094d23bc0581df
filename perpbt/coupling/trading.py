"""Accounts that follow signals, on their way through bars whose prices others push (MODEL §7, cascade mode).

Bar by bar as `Looped`, but positions come as they go: whoever is free gives the order that the next close says, is filled or refused at the open
after it, at the price that earlier bars' pressure has left, and reads on when it has left. Signals and what levels are measured by (columns,
average true ranges) read the market as it was recorded: nobody's selling is in them.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Callable

import numpy as np

from perpbt.coupling.following import FollowedRows, grown
from perpbt.coupling.groups import Changes
from perpbt.coupling.looped import NOBODY, Crew, Looped
from perpbt.coupling.pressure import SIDES, Views
from perpbt.kernels.coupled.following import free_lanes, next_orders, refuse_lanes
from perpbt.kernels.coupled.looping import open_positions
from perpbt.kernels.tables import ACCEPTED, ENTRY_SIDE, LANE, ROW, Floats, Integers, Table, table
from perpbt.kernels.tiles import KEPT

GROWING = (
    *("at", "weight", "identifier", "since", "until", "side", "entry", "funding", "quantity", "margin"),
    *("given_up", "socialised", "gone", "_room", "plans", "lanes", "kept", "extreme", "slot", "changed"),
)


class Trading(Looped):
    """The positions of one strategy and policy on one symbol, as they come and go."""

    def __init__(self, of: FollowedRows, world: int, weigh: Callable[[Table], Floats], views: Views) -> None:
        of.rows, of.calls = np.empty(0, dtype=ROW), []
        super().__init__(of, world, NOBODY, np.zeros(0), NOBODY, views)
        self.followed, self.weigh = of, weigh
        self.gone = np.zeros(0, dtype=np.bool_)
        count = of.starts.size
        self.accounts = table(
            LANE, count, exit_due=-1, bar=of.starts, not_before=-1, wallet=of.plan["capital"][0]
        )
        self.crews = {side: Crew.of(2 * count + 1) for side in SIDES}  # at most half of it is of closed ones
        self._found = np.empty(2 * count + 1, dtype=np.int64)
        self._stores: dict[str, np.ndarray] = {}
        self.orders: list[tuple[int, int]] = []  # the bar each is filled in, and whose it is
        self.read_on(np.arange(count))

    def next_entry(self) -> int:
        """See `Looped.next_entry`."""
        return self.orders[0][0] if self.orders else self.bars

    def enter(self, bar: int) -> Integers:
        """Nobody enters before those who leave at the open have left."""
        return NOBODY

    def read_on(self, numbers: Integers) -> None:
        """Free accounts read closes until one says something."""
        bars = np.empty(numbers.size, dtype=np.int64)
        next_orders(self.of.market, self.followed.plan, self.of.signals, self.accounts, numbers, bars)
        for bar, number in zip(bars.tolist(), numbers.tolist(), strict=True):
            if bar < self.bars:
                heapq.heappush(self.orders, (bar, number))

    def follow(self, bar: int) -> Integers:
        """Fill or refuse the orders of this bar, at its prices before anybody fell in it; returns who is in."""
        numbers = []
        while self.orders and self.orders[0][0] == bar:
            numbers.append(heapq.heappop(self.orders)[1])
        if not numbers:
            return NOBODY
        members = self.take_in(np.array(numbers, dtype=np.int64), bar)
        with self.views.as_begun():
            for side in SIDES:
                mine = members[self.side[members] == side]
                if mine.size:
                    open_positions(
                        self.views.of[side], self.of.rates, self.plans, self.of.signals, self.lanes, self.kept, self.of.rows, self.at,
                        mine, self.extreme,
                    )  # fmt: skip
        self.weight[members] = self.weigh(self.of.rows[members])
        refused = members[self.of.rows["rejection"][members] != ACCEPTED]
        if refused.size:
            whose = self.of.rows["lane"][refused]
            kept = np.zeros(refused.size, dtype=np.int8)
            refuse_lanes(self.followed.plan, self.accounts, whose, self.of.rows, refused, kept)
            self.of.rows["lane"][refused] = whose
            self.gone[refused] = kept == 0
            self.read_on(whose)
        opened = self.admit(members, bar)
        self.remember(opened)
        return opened

    def take_in(self, numbers: Integers, bar: int) -> Integers:
        """Room for a position of each account; returns who they are."""
        size = numbers.size
        new = np.arange(self.at.size, self.at.size + size)
        rows = np.zeros(size, dtype=ROW)
        rows["lane"] = numbers
        plans = np.repeat(self.followed.plan, size)
        plans["capital"] = self.accounts["wallet"][numbers]
        sides = self.of.signals.marks[ENTRY_SIDE, bar - 1]
        lanes = table(LANE, size, fixed_side=sides, exit_due=-1, bar=bar, not_before=-1)
        nothing, never = np.zeros(size), np.full(size, -1, dtype=np.int64)
        self.of.rows = grown(self._stores, "rows", self.of.rows, rows)
        values = {
            "at": new, "weight": nothing, "identifier": numbers, "since": never, "until": never, "side": lanes["fixed_side"],
            **dict.fromkeys(("entry", "funding", "quantity", "margin", "given_up", "socialised", "gone", "_room"), nothing),
            "plans": plans, "lanes": lanes, "kept": np.zeros(size, dtype=KEPT),
            **dict.fromkeys(("extreme", "slot", "changed"), nothing),
        }  # fmt: skip
        for name in GROWING:
            setattr(self, name, grown(self._stores, name, getattr(self, name), values[name]))
        return new

    def remember(self, members: Integers) -> None:
        """When positions are due to leave, by time or by signal."""
        due = np.minimum(self.kept["time_bar"][members], self.kept["signal_bar"][members])
        for bar, member in zip(due.tolist(), members.tolist(), strict=True):
            if bar < self.bars:
                if bar not in self.due:
                    insort(self.dues, bar)
                self.due.setdefault(bar, []).append(member)

    def freed(self, members: Integers) -> None:
        """Their accounts are free, with what is left of their wallets."""
        if not members.size:
            return
        numbers = self.of.rows["lane"][members]
        own = self.accounts[numbers]
        own["wallet"] = self.kept["wallet"][members] + self.of.rows["back"][members]
        free_lanes(self.of.market, self.followed.plan, own, self.of.rows, members)
        self.accounts[numbers] = own
        self.read_on(numbers)

    def carry_out(self, changes: Changes, moment: int, fee: float) -> Integers:
        """See `Looped.carry_out`; whoever is closed as a whole trades on."""
        super().carry_out(changes, moment, fee)
        self.freed(changes.members[changes.shares == 1.0])
        return NOBODY
