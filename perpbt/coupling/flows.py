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


class Draws(NamedTuple):
    """Deficits, times weight, with what deleveraging must know of the positions."""

    group: Integers
    member: Integers
    deficit: Floats

    @property
    def whole(self) -> float:
        """All of them."""
        return math.fsum(self.deficit.tolist())


NO_DRAWS = Draws(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))


def all_draws(parts: Sequence[Draws]) -> Draws:
    """One after the other."""
    if len(parts) == 1:
        return parts[0]
    return Draws(*(np.concatenate(columns) for columns in zip(NO_DRAWS, *parts, strict=True)))


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

    def without(self, number: int, *brought: tuple[Integers, Integers]) -> Listed:
        """Without what members of a group bring at the moments that go with them; of entries in no order."""
        whose = np.flatnonzero((self.owner >= 0) & (self.owner >> MEMBER_BITS == number))
        member, key = self.owner[whose] & ((1 << MEMBER_BITS) - 1), self.key[whose]
        stays = np.ones(self.key.size, dtype=np.bool_)
        for members, keys in brought:
            if members.size:
                order = np.argsort(members)
                place = order[np.minimum(np.searchsorted(members, member, sorter=order), members.size - 1)]
                stays[whose[(members[place] == member) & (keys[place] == key)]] = False
        return Listed(self.key[stays], self.owner[stays], self.value[stays])

    def slice(self, key: int) -> slice:
        """The entries of a moment."""
        low, high = np.searchsorted(self.key, (key, key + 1))
        return slice(int(low), int(high))


NOTHING = Listed(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))


def together(first: Listed, second: Listed) -> Listed:
    """One after the other."""
    return Listed(
        *(
            np.concatenate([getattr(one, name) for one in (first, second)])
            for name in ("key", "owner", "value")
        )
    )


class Flows:
    """Credits and draws of one fund."""

    def __init__(self, groups: Sequence[Group], fee_share: float) -> None:
        self.groups, self.fee_share = groups, fee_share
        self.late_credits = self.late_draws = NOTHING  # of those that have changed, in no order
        parts = [self._flows(number, np.arange(group.at.size)) for number, group in enumerate(groups)]
        entries = [self._entries(number, np.arange(group.at.size)) for number, group in enumerate(groups)]
        self.credits = listed([*(credit for credit, _ in parts), *entries])
        self.draws = listed([draw for _, draw in parts])
        self.keys = distinct(np.sort(np.concatenate([distinct(self.credits.key), distinct(self.draws.key)])))
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
        open_fee, rejection, entry_bar = group.of_rows(members, "open_fee", "rejection", "entry_bar")
        value = (self.fee_share * group.weight[members]) * open_fee
        here = np.flatnonzero((rejection == ACCEPTED) & (value > 0.0))
        return Listed(group.key(3 * entry_bar[here]), owners(number, members[here]), value[here])

    def _flows(self, number: int, members: Integers) -> tuple[Listed, Listed]:
        """What the exits of some members bring and ask."""
        group = self.groups[number]
        rejection, exit_bar, phase, reason = group.of_rows(
            members, "rejection", "exit_bar", "phase", "reason"
        )
        liquidation_fee, surplus, close_fee, deficit = group.of_rows(
            members, "liquidation_fee", "surplus", "close_fee", "deficit"
        )
        weight = group.weight[members]
        key = np.zeros(members.size, dtype=np.int64)
        accepted = np.flatnonzero(rejection == ACCEPTED)
        moment = 3 * exit_bar.astype(np.int64) + phase
        key[accepted] = group.key((moment + (reason == ADL))[accepted])
        owner = owners(number, members)
        kinds = (weight * liquidation_fee, weight * surplus, (self.fee_share * weight) * close_fee)
        credits = listed([kept(key, owner, value, accepted) for value in kinds])
        return credits, kept(key, owner, weight * deficit, accepted)

    def drawn(self, key: int) -> Draws:
        """Every deficit of a moment."""
        early, late = self.draws.slice(key), np.flatnonzero(self.late_draws.key == key)
        owner = np.concatenate([self.draws.owner[early], self.late_draws.owner[late]])
        value = np.concatenate([self.draws.value[early], self.late_draws.value[late]])
        owner, value = owner[value > 0.0], value[value > 0.0]
        return Draws(owner >> MEMBER_BITS, owner & ((1 << MEMBER_BITS) - 1), value)

    def take_back(self, number: int, members: Integers, never: Integers) -> Integers:
        """Forget what the exits of some members bring, and of those who will `never` have been also what their entries bring; before
        they change. Returns the moments that are touched.
        """
        group = self.groups[number]
        exit_bar, phase, reason = group.of_rows(members, "exit_bar", "phase", "reason")
        moments = 3 * exit_bar.astype(np.int64) + phase + (reason == ADL)
        opened = 3 * group.of.rows["entry_bar"][group.at[never]].astype(np.int64)
        keys = group.key(np.concatenate([moments, opened]))
        whose = owners(number, np.concatenate([members, never]))
        for early in (self.credits, self.draws):
            early.forget(keys, whose)
        of_exits, of_entries = (members, keys[: members.size]), (never, keys[members.size :])
        self.late_credits = self.late_credits.without(number, of_exits, of_entries)
        self.late_draws = self.late_draws.without(number, of_exits, of_entries)
        return keys

    def bring(self, number: int, members: Integers, new: Integers) -> Integers:
        """What the new exits of some members bring, and of the `new` ones the entries too; after they have changed. Returns the moments."""
        credits, draws = self._flows(number, members)
        credits = together(credits, self._entries(number, new))
        self.late_credits = together(self.late_credits, credits)
        self.late_draws = together(self.late_draws, draws)
        return np.concatenate([credits.key, draws.key])

    def add_fee(self, number: int, member: int, key: int, fee: float) -> None:
        """The share of a fee paid at a moment, which no later change takes back."""
        value = (self.fee_share * self.groups[number].weight[member]) * fee
        if value > 0.0:
            one = Listed(np.array([key]), np.array([-1]), np.array([float(value)]))
            self.late_credits = together(self.late_credits, one)

    def add_up(self, touched: Integers) -> None:
        """Sum moments again that have been touched, and make room for new ones."""
        touched = np.unique(touched)
        new = np.setdiff1d(touched, self.keys, assume_unique=True)
        if new.size:
            at = np.searchsorted(self.keys, new)
            self.keys = np.insert(self.keys, at, new)
            self.credit, self.draw = np.insert(self.credit, at, 0.0), np.insert(self.draw, at, 0.0)
        place = np.searchsorted(self.keys, touched)
        self.credit[place] = sums_of(touched, self.credits, self.late_credits)
        self.draw[place] = sums_of(touched, self.draws, self.late_draws)


def distinct(ascending: Integers) -> Integers:
    """Each value once."""
    new = np.ones(ascending.size, dtype=np.bool_)
    new[1:] = ascending[1:] != ascending[:-1]
    return ascending[new]


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


def sums_of(keys: Integers, early: Listed, late: Listed) -> Floats:
    """The exact sums of some moments, ascending, of entries sorted by moment and of others in no order."""
    low, high = (np.searchsorted(early.key, keys, side=side) for side in ("left", "right"))
    count = high - low
    where = np.repeat(low - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
    here = np.searchsorted(keys, late.key)
    mine = np.flatnonzero(keys[np.minimum(here, keys.size - 1)] == late.key) if keys.size else here[:0]
    place = np.concatenate([np.repeat(np.arange(keys.size), count), here[mine]])
    value = np.concatenate([early.value[where], late.value[mine]])
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(keys.size + 1))
    return exact_sums(value[order], starts)
