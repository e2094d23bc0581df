"""The positions of one world in one symbol on their way through time, bar by bar.

A `Looped` is a `Group` whose positions are opened, asked and closed as time comes to them; it knows which bar is next in which anything
can happen. What a position was between two looks is worked out when it ends, or is changed, by walking over the bars as its side has seen them.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np

from perpbt.coupling.groups import NEVER, Changes, Group, SymbolRows
from perpbt.coupling.pressure import SIDES, Views
from perpbt.kernels.coupled.deleveraging import change_positions
from perpbt.kernels.coupled.looping import (
    ADVERSE,
    CEILING,
    FACTOR,
    FLOOR,
    GUARD,
    HIGHEST,
    LEVELS,
    LOWEST,
    PAID,
    all_crossed,
    decide,
    levels_of,
    next_crossed,
    open_positions,
    stretch,
)
from perpbt.kernels.tables import (
    ACCEPTED,
    CALL,
    LAST_OPEN,
    LIQUIDATION,
    Floats,
    Integers,
    Market,
    Table,
    unused,
)
from perpbt.kernels.tiles import KEPT

OPEN, RANGE, END = 0, 1, 2
NOBODY = np.zeros(0, dtype=np.int64)
AHEAD = 128  # bars looked over at a time: where something happens soon, not much is looked at in vain


@dataclass
class Crew:
    """Open positions of one side: levels, a column each, and whose column it is (-1: closed)."""

    levels: Floats
    member: Integers
    count: int = 0
    closed: int = 0

    @classmethod
    def of(cls, size: int) -> Crew:
        """Room for so many."""
        return cls(np.empty((LEVELS, size)), np.full(size, -1, dtype=np.int64))

    def add(self, members: Integers, levels: Floats, slot: Integers) -> None:
        """Take in positions; `slot` learns where they are."""
        if self.closed > self.count // 2:
            self.tidy(slot)
        here = np.arange(self.count, self.count + members.size)
        self.levels[:, here], self.member[here], slot[members] = levels, members, here
        self.count += members.size

    def drop(self, slots: Integers) -> None:
        """These are closed."""
        self.member[slots] = -1
        self.levels[FLOOR, slots], self.levels[CEILING, slots] = -np.inf, np.inf
        self.levels[FACTOR, slots], self.levels[GUARD, slots] = 0.0, -np.inf
        self.closed += slots.size

    def tidy(self, slot: Integers) -> None:
        """Leave no columns of closed positions between those of open ones."""
        open_ = np.flatnonzero(self.member[: self.count] >= 0)
        self.levels[:, : open_.size] = self.levels[:, open_]
        self.member[: open_.size] = self.member[open_]
        self.count, self.closed = open_.size, 0
        slot[self.member[: open_.size]] = np.arange(open_.size)


@dataclass
class Push:
    """What one phase of a bar did to the price, on one side."""

    moment: int
    side: int
    rounds: int
    liquidations: int
    first: int
    volume: list[float] = field(default_factory=list)
    first_volume: list[float] = field(default_factory=list)
    displacement: float = 0.0


class Looped(Group):
    """See the module's docstring."""

    def __init__(
        self, of: SymbolRows, world: int, at: Integers, weight: Floats, identifier: Integers, views: Views
    ) -> None:
        super().__init__(of, world, at, weight, identifier)
        size = at.size
        self.since[:], self.until[:] = NEVER, -1
        self.plans, _, self.lanes = of.asked(at)
        self.views = views
        self.kept, self.extreme = np.zeros(size, dtype=KEPT), np.zeros(size)
        self.slot = np.zeros(size, dtype=np.int64)
        self.crews = {side: Crew.of(int((self.side == side).sum())) for side in SIDES}
        entry = self.lanes["bar"]
        self.entering = np.argsort(entry, kind="stable")
        self.entry_bars = entry[self.entering]
        self.entered = 0
        self.due: dict[int, list[int]] = {}
        self.dues: list[int] = []  # ascending
        self.epochs = of.rates.since
        self.bars = of.market.time.size
        self.pushes: list[Push] = []
        self.looked_at: list[Integers] = []  # whose levels were crossed when a phase was looked at last
        self.changed, self.any_changed = np.zeros(size, dtype=np.bool_), False
        self.leveled = 0  # how often levels have been written
        self._crossed: dict[int, tuple[tuple[int, int, int], Integers]] = {}  # of each side, when and who
        self._found = np.empty(size, dtype=np.int64)
        self._none = np.zeros(1, dtype=CALL)
        exits = self.lanes["exit_due"]
        for j in np.flatnonzero(exits >= 0):
            bar = max(int(np.searchsorted(of.market.time, exits[j])), int(entry[j]) + 1)
            self.due.setdefault(bar, []).append(int(j))
        self.dues = sorted(self.due)

    # ------------------------------------------------------------------ as `Group`, but each side sees its own
    def market(self, side: float) -> Market:
        """The bars as a side sees them."""
        return self.views.of[1 if side > 0.0 else -1]

    def among(self, moment: int) -> tuple[Integers, int]:
        """See `Group.among`: who comes is not known beforehand."""
        return self._room, -1

    def market_as_pushed(self) -> Market:
        """The bars, closing as they were pushed; at a close both sides see the same."""
        return self.views.of[1]

    # --------------------------------------------------------------------------------------------- in time
    def next_bar(self, bar: int) -> int:
        """The first bar from `bar` on in which anything can happen; the number of bars if there is none."""
        if bar >= self.bars or self.views.disturbed:
            return min(bar, self.bars)
        until = min(self.bars - 1, self.next_entry())  # the last is looked at: positions end there
        at = bisect_left(self.dues, bar)
        if at < len(self.dues):
            until = min(until, self.dues[at])
        later = np.searchsorted(self.epochs, bar)
        if later < self.epochs.size:
            until = min(until, int(self.epochs[later]))
        for first in range(bar, until, AHEAD):
            end = last = min(first + AHEAD, until)
            for side in SIDES:
                crew = self.crews[side]
                last = int(
                    next_crossed(crew.levels, crew.count, self.views.seen[side], float(side), first, last)
                )
            if last < end:
                return last
        return max(until, bar)

    def next_entry(self) -> int:
        """The bar in which the next position is opened."""
        return int(self.entry_bars[self.entered]) if self.entered < self.entry_bars.size else self.bars

    def follow(self, bar: int) -> Integers:
        """Who enters once those who leave at the open have left: of given positions nobody."""
        return NOBODY

    def freed(self, members: Integers) -> None:
        """These are closed: given positions stay so."""

    def enter(self, bar: int) -> Integers:
        """Open whose bar has come; returns those that were filled."""
        first = self.entered
        self.entered = int(np.searchsorted(self.entry_bars, bar, side="right"))
        members: Integers = self.entering[first : self.entered]
        if not members.size:
            return NOBODY
        for side in SIDES:
            mine = members[self.side[members] == side]
            if not mine.size:
                continue
            open_positions(
                self.views.of[side], self.of.rates, self.plans, self.of.signals, self.lanes, self.kept, self.of.rows, self.at,
                mine, self.extreme,
            )  # fmt: skip
        return self.admit(members, bar)

    def admit(self, members: Integers, bar: int) -> Integers:
        """Who of those that gave an order is in from now on."""
        rows = self.of.rows[self.at[members]]
        opened = rows["rejection"] == ACCEPTED
        members, rows = members[opened], rows[opened]
        self.since[members], self.until[members] = 3 * bar + 1, NEVER
        self.entry[members], self.funding[members] = rows["entry"], rows["entry_funding"]
        self.quantity[members], self.margin[members] = rows["quantity"], rows["margin"]
        for side in SIDES:
            mine = members[self.side[members] == side]
            if mine.size:
                self.crews[side].add(mine, self.levels(mine, bar), self.slot)
        return members

    def levels(self, members: Integers, bar: int) -> Floats:
        """Their levels from a bar on, to be written down."""
        self.leveled += 1
        levels = np.empty((LEVELS, members.size))
        if members.size:
            side = int(self.side[members[0]])
            levels_of(self.views.of[side], self.of.rates, self.kept, members, self.extreme, bar, levels)
        return levels

    def crossed(self, bar: int, side: int) -> Integers:
        """Members of a side with a level crossed at the bar's prices, of whom some may have left since these were looked at."""
        crew, seen = self.crews[side], self.views.seen[side]
        state = (bar, self.views.shaped, self.leveled)
        known = self._crossed.get(side)
        if known is not None and known[0] == state:
            still: Integers = known[1][self.until[known[1]] == NEVER]
            return still
        found = all_crossed(
            crew.levels, crew.count, seen[LOWEST, bar], seen[HIGHEST, bar], seen[ADVERSE, bar], seen[PAID, bar], float(side),
            self._found,
        )  # fmt: skip
        members = crew.member[self._found[:found]]
        self._crossed[side] = (state, members)
        return members

    def asked(self, bar: int, side: int, also: Integers) -> Integers:
        """Whom to ask: whose levels are crossed, and those of the side among others who are open."""
        crossed = self.crossed(bar, side)
        if not also.size:
            return np.sort(crossed)
        also = also[(self.side[also] == side) & (self.until[also] == NEVER)]
        everyone: Integers = np.union1d(crossed, also)
        return everyone

    def reasons(self, members: Integers, side: int, bar: int, phase: int) -> np.ndarray:
        """Why members of a side leave, -1 if they stay."""
        reasons = np.full(members.size, -1, dtype=np.int8)
        if members.size:
            decide(
                self.views.of[side],
                self.of.rates,
                self.plans,
                self.kept,
                members,
                self.extreme,
                bar,
                phase,
                reasons,
            )
        return reasons

    def phase(self, bar: int, phase: int, also: Integers) -> Integers:
        """One phase of a bar: the price is pushed until nobody more falls; returns who leaves then. `also` are asked in any case."""
        fallen: dict[int, list[Integers]] = {side: [] for side in SIDES}
        reference = float(self.of.market.series[LAST_OPEN, bar])
        rounds = 0
        while True:
            leaving, sold = [NOBODY], {side: [0.0] * 0 for side in SIDES}
            self.looked_at = []
            for side in SIDES:
                members = self.asked(bar, side, also)
                if not members.size:
                    fallen[side].append(NOBODY)
                    continue
                self.looked_at.append(members)
                why = self.reasons(members, side, bar, phase)
                leaving.append(members[why >= 0])
                new = members[why == LIQUIDATION]
                if rounds:
                    new = np.setdiff1d(new, np.concatenate(fallen[side]))
                if self.views.spec is not None and new.size:
                    fallen[side].append(new)
                    sold[side] = (self.weight[new] * (self.quantity[new] * reference)).tolist()
                elif self.views.spec is not None:
                    fallen[side].append(NOBODY)
            if self.views.spec is None or not any(sold.values()):
                break
            rounds += 1
            self.views.push(phase, sold)
        if rounds:
            self.record(bar, phase, rounds, fallen)
        return np.concatenate(leaving)

    def record(self, bar: int, phase: int, rounds: int, fallen: dict[int, list[Integers]]) -> None:
        """Note a push of the price."""
        reference = float(self.of.market.series[LAST_OPEN, bar])
        for side in SIDES:
            turns = [(self.weight[new] * (self.quantity[new] * reference)).tolist() for new in fallen[side]]
            if any(turns):
                self.pushes.append(
                    Push(
                        3 * bar + phase, side, rounds, sum(len(new) for new in turns), len(turns[0]),
                        [value for new in turns for value in new], turns[0], self.views.now[side] - self.views.start,
                    )
                )  # fmt: skip

    def close(self, members: Integers, moment: int) -> None:
        """Live members to their exits, which are at `moment`."""
        for side in SIDES:
            mine = members[self.side[members] == side]
            if mine.size:
                self.live(
                    mine,
                    -1,
                    0,
                    Changes(mine, np.zeros(mine.size), np.zeros(mine.size), np.zeros(mine.size)),
                    0.0,
                    True,
                )
                self.crews[side].drop(self.slot[mine])
        self.until[members] = moment

    def live(
        self, members: Integers, bar: int, phase: int, changes: Changes, fee: float, to_the_end: bool
    ) -> Table:
        """Change members of one side in a bar (-1: not at all) and let them live on to their exits, or leave them there."""
        side, at = int(self.side[members[0]]), self.at[members]
        calls = unused(CALL, members.size)
        change_positions(
            self.views.of[side], self.of.rates, self.plans, self.of.signals, self.lanes, self.kept, self.of.rows, members, at,
            calls, bar, phase, changes.shares, changes.taken, changes.prices, fee, to_the_end,
        )  # fmt: skip
        return calls[calls["row"] >= 0]

    def carry_out(self, changes: Changes, moment: int, fee: float) -> Integers:
        """Change positions where they are; the time of their exits will come."""
        bar, phase = divmod(moment, 3)
        for side in SIDES:
            mine = self.side[changes.members] == side
            members = changes.members[mine]
            if not members.size:
                continue
            own = Changes(members, changes.shares[mine], changes.prices[mine], changes.taken[mine])
            self.of.calls.append(self.live(members, bar, phase, own, fee, False))
            gone = own.shares == 1.0
            self.crews[side].drop(self.slot[members[gone]])
            left = members[~gone]
            self.changed[left] = self.any_changed = True
            if phase == RANGE:
                stretch(self.views.of[side], self.plans, self.kept, left, bar, self.extreme)
            self.crews[side].levels[:, self.slot[left]] = self.levels(left, bar)
        return NOBODY

    def settle_levels(self, members: Integers, bar: int) -> None:
        """After the close: best prices of those who were asked and are open, and their levels."""
        members = members[self.until[members] == NEVER]
        if not members.size:
            return
        for side in SIDES:
            mine = members[(self.side[members] == side) & (self.kept["trail"][members] != 0.0)]
            if mine.size:
                stretch(self.views.of[side], self.plans, self.kept, mine, bar, self.extreme)
                self.crews[side].levels[:, self.slot[mine]] = self.levels(mine, bar)

    def renew(self, bar: int) -> None:
        """Other tiers are in force from a bar on."""
        for side in SIDES:
            crew = self.crews[side]
            crew.tidy(self.slot)
            crew.levels[:, : crew.count] = self.levels(crew.member[: crew.count], bar)

    def everybody(self) -> Integers:
        """All who are open."""
        return np.flatnonzero(self.until == NEVER)
