"""What positions bring a fund and ask of it, in the order of time, while positions still change.

In: groups of positions. Out: exact sums of credits and draws at each moment of the run. A position that changes takes its old flows
back and brings new ones; only the moments it touches are added up again, with sums that are rounded once, so that the result is that
of adding everything up at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from perpbt.coupling.groups import Group
from perpbt.kernels.sums import exact_sums
from perpbt.kernels.tables import ACCEPTED, ADL, Floats, Integers

MEMBER_BITS = 40  # of an owner; above them the group's number


class Draw(NamedTuple):
    """A deficit, times weight, with what deleveraging must know of the position."""

    group: int
    member: int
    deficit: float


@dataclass
class Listed:
    """Values by moment: sorted, the slices of each moment findable."""

    key: Integers
    owner: Integers  # group and member as one number
    value: Floats  # 0 once taken back

    @cached_property
    def by_owner(self) -> tuple[Integers, Integers]:
        """An order in which owners ascend, and the owners in it."""
        order = np.argsort(self.owner, kind="stable")
        return order, self.owner[order]

    def forget(self, keys: Integers, owners: Integers) -> None:
        """Take back what each owner brings at the moment that goes with it."""
        order, ascending = self.by_owner
        low, high = (np.searchsorted(ascending, owners, side=side) for side in ("left", "right"))
        count = high - low
        place = np.repeat(low - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
        here = order[place]
        self.value[here[self.key[here] == np.repeat(keys, count)]] = 0.0

    def slice(self, key: int) -> slice:
        """The entries of a moment."""
        low, high = np.searchsorted(self.key, (key, key + 1))
        return slice(int(low), int(high))


class Flows:
    """Credits and draws of one fund."""

    def __init__(self, groups: Sequence[Group], fee_share: float) -> None:
        self.groups, self.fee_share = groups, fee_share
        self.late_credits: dict[int, dict[int, list[float]]] = {}  # by moment and owner
        self.late_draws: dict[int, dict[int, float]] = {}
        parts = [self._flows(number, np.arange(group.at.size)) for number, group in enumerate(groups)]
        entries = [self._entries(number, np.arange(group.at.size)) for number, group in enumerate(groups)]
        self.credits = listed([*(credit for credit, _ in parts), *entries])
        self.draws = listed([draw for _, draw in parts])
        self.keys = np.unique(np.concatenate([self.credits.key, self.draws.key]))
        self.credit = sums_at(self.credits, self.keys)
        self.draw = sums_at(self.draws, self.keys)

    def pay_in(self, keys: Integers, amounts: Floats) -> None:
        """Money from outside, which nothing takes back; before anything changes."""
        self.credits = listed([self.credits, Listed(keys, -1 - np.arange(keys.size), amounts)])
        self.keys = np.union1d(self.keys, keys)
        self.credit, self.draw = sums_at(self.credits, self.keys), sums_at(self.draws, self.keys)

    def _entries(self, number: int, members: Integers) -> Listed:
        """Some members' shares of entry fees."""
        group = self.groups[number]
        rows = group.of.rows[group.at[members]]
        value = (self.fee_share * group.weight[members]) * rows["open_fee"]
        here = np.flatnonzero((rows["rejection"] == ACCEPTED) & (value > 0.0))
        return Listed(group.key(3 * rows["entry_bar"][here]), owners(number, members[here]), value[here])

    def _flows(self, number: int, members: Integers) -> tuple[Listed, Listed]:
        """What the exits of some members bring and ask."""
        group = self.groups[number]
        rows = group.of.rows[group.at[members]]
        weight = group.weight[members]
        key = np.zeros(members.size, dtype=np.int64)
        accepted = np.flatnonzero(rows["rejection"] == ACCEPTED)
        moment = 3 * rows["exit_bar"].astype(np.int64) + rows["phase"]
        key[accepted] = group.key((moment + (rows["reason"] == ADL))[accepted])
        owner = owners(number, members)
        kinds = (
            weight * rows["liquidation_fee"],
            weight * rows["surplus"],
            (self.fee_share * weight) * rows["close_fee"],
        )
        credits = listed([kept(key, owner, value, accepted) for value in kinds])
        return credits, kept(key, owner, weight * rows["deficit"], accepted)

    def drawn(self, key: int) -> list[Draw]:
        """Every deficit of a moment."""
        here = self.draws.slice(key)
        found = [
            (int(owner), float(value))
            for owner, value in zip(self.draws.owner[here], self.draws.value[here], strict=True)
            if value > 0.0
        ]
        found += list(self.late_draws.get(key, {}).items())
        return [Draw(owner >> MEMBER_BITS, owner & ((1 << MEMBER_BITS) - 1), value) for owner, value in found]

    def take_back(self, number: int, members: Integers, never: Integers) -> set[int]:
        """Forget what the exits of some members bring, and of those who will `never` have been also what their entries bring; before
        they change. Returns the moments that are touched.
        """
        group = self.groups[number]
        rows = group.of.rows[group.at[members]]
        moments = 3 * rows["exit_bar"].astype(np.int64) + rows["phase"] + (rows["reason"] == ADL)
        opened = 3 * group.of.rows["entry_bar"][group.at[never]].astype(np.int64)
        keys = group.key(np.concatenate([moments, opened]))
        whose = owners(number, np.concatenate([members, never]))
        for early in (self.credits, self.draws):
            early.forget(keys, whose)
        for owner, key in zip(whose.tolist(), keys.tolist(), strict=True):
            for late in (self.late_credits, self.late_draws):
                if key in late:
                    late[key].pop(owner, None)
        return set(keys.tolist())

    def bring(self, number: int, members: Integers, new: Integers) -> set[int]:
        """What the new exits of some members bring, and of the `new` ones the entries too; after they have changed."""
        credits, draws = self._flows(number, members)
        credits = listed([credits, self._entries(number, new)])
        for owner, key, value in zip(
            credits.owner.tolist(), credits.key.tolist(), credits.value.tolist(), strict=True
        ):
            self.late_credits.setdefault(key, {}).setdefault(owner, []).append(value)
        for owner, key, value in zip(
            draws.owner.tolist(), draws.key.tolist(), draws.value.tolist(), strict=True
        ):
            self.late_draws.setdefault(key, {})[owner] = value
        return {*credits.key.tolist(), *draws.key.tolist()}

    def add_fee(self, number: int, member: int, key: int, fee: float) -> None:
        """The share of a fee paid at a moment, which no later change takes back."""
        value = (self.fee_share * self.groups[number].weight[member]) * fee
        if value > 0.0:
            self.late_credits.setdefault(key, {}).setdefault(
                -1 - len(self.late_credits.get(key, {})), []
            ).append(float(value))

    def add_up(self, touched: set[int]) -> None:
        """Sum moments again that have been touched, and make room for new ones."""
        new = np.setdiff1d(np.array(sorted(touched), dtype=np.int64), self.keys)
        if new.size:
            at = np.searchsorted(self.keys, new)
            self.keys = np.insert(self.keys, at, new)
            self.credit, self.draw = np.insert(self.credit, at, 0.0), np.insert(self.draw, at, 0.0)
        for key in touched:
            place = int(np.searchsorted(self.keys, key))
            late = [value for values in self.late_credits.get(key, {}).values() for value in values]
            self.credit[place] = math.fsum([*self.credits.value[self.credits.slice(key)].tolist(), *late])
            late = list(self.late_draws.get(key, {}).values())
            self.draw[place] = math.fsum([*self.draws.value[self.draws.slice(key)].tolist(), *late])


def owners(number: int, members: Integers) -> Integers:
    """A group's members as owners of flows; there may come more of them."""
    made: Integers = (number << MEMBER_BITS) + members
    return made


def kept(key: Integers, owner: Integers, value: Floats, accepted: Integers) -> Listed:
    """Entries of accepted positions that are not 0."""
    here = accepted[value[accepted] > 0.0]
    return Listed(key[here], owner[here], value[here])


def listed(parts: list[Listed]) -> Listed:
    """Parts as one, sorted by moment."""
    key = np.concatenate([np.zeros(0, dtype=np.int64), *(part.key for part in parts)])
    owner = np.concatenate([np.zeros(0, dtype=np.int64), *(part.owner for part in parts)])
    value = np.concatenate([np.zeros(0), *(part.value for part in parts)])
    order = np.argsort(key, kind="stable")
    return Listed(key[order], owner[order], value[order])


def sums_at(values: Listed, keys: Integers) -> Floats:
    """The exact sum of each moment."""
    starts = np.append(np.searchsorted(values.key, keys), values.key.size)
    return exact_sums(values.value, starts)
