"""The positions of one world in one symbol, as arrays that are searched in time, and what they bring their fund.

A moment is three times a bar plus a phase: 0 the open, 1 the range, 2 the end of the data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perpbt.adl import Candidates
from perpbt.engines.given import Wishes
from perpbt.kernels.coupled.deleveraging import change_positions, find_winners, requirements
from perpbt.kernels.coupled.rounds import TOLD, rank_winners
from perpbt.kernels.tables import (
    ACCEPTED,
    CALL,
    FUNDING,
    Floats,
    Integers,
    Market,
    Rates,
    Signals,
    Table,
    unused,
)
from perpbt.kernels.tiles import KEPT

NEVER = 1 << 62


@dataclass
class SymbolRows(ABC):
    """Positions of a symbol that are kept in one table, and what changing them needs."""

    index: int
    market: Market
    rates: Rates
    signals: Signals
    rows: Table
    table_rows: Integers  # which rows of the accounts table they are
    when: Integers  # of each bar, its place among all times of the run
    kept: Table = field(
        default_factory=lambda: np.zeros(0, dtype=KEPT), init=False
    )  # as those changed before were kept
    kept_at: Integers = field(
        default_factory=lambda: np.zeros(0, dtype=np.int64), init=False
    )  # of each row its place there, -1 for none
    used: int = field(default=0, init=False)  # of `kept`
    calls: list[Table] = field(default_factory=list, init=False)

    @abstractmethod
    def asked(self, at: Integers) -> tuple[Table, Signals, Table]:
        """What some positions were asked for: a plan each, signals, a lane each."""

    def change(self, at: Integers, moment: int, change: Changes, fee: float) -> None:
        """Change the positions in rows `at` and let them live on."""
        bar, phase = divmod(moment, 3)
        places = self.places(at)
        kept, calls = self.kept[places], unused(CALL, at.size)
        change_positions(
            self.market, self.rates, *self.asked(at), kept, self.rows,
            np.arange(at.size), at, calls, bar, phase, change.shares, change.taken, change.prices, fee, True,
        )  # fmt: skip
        self.kept[places] = kept
        self.keep_calls(calls)

    def keep_calls(self, calls: Table) -> None:
        """Keep those of a change that were made use of."""
        used = np.flatnonzero(calls["row"] >= 0)
        self.calls.append(calls[used] if used.size else calls[:0])

    def places(self, at: Integers) -> Integers:
        """Where the positions in rows `at` are kept; of those never changed before nothing is known yet."""
        known = self.kept_at.size
        if known < self.rows.size:  # with room for rows to come
            more = np.full(max(self.rows.size, 2 * known) - known, -1)
            self.kept_at = np.concatenate([self.kept_at, more])
        new = at[self.kept_at[at] < 0]
        self.kept_at[new] = self.used + np.arange(new.size)
        self.used += new.size
        if self.used > self.kept.size:
            more = np.zeros(self.used, dtype=KEPT)
            self.kept = np.concatenate([self.kept, more])
        places: Integers = self.kept_at[at]
        return places

    def all_calls(self) -> Table:
        """Parts closed and margins taken, by row and in the order of time."""
        calls = np.empty(sum(part.size for part in self.calls), dtype=CALL)
        written = 0
        for part in self.calls:  # numpy's own way to put records together looks at every field of every part
            calls[written : written + part.size] = part
            written += part.size
        return calls[np.argsort(calls["row"], kind="stable")]


@dataclass
class GivenRows(SymbolRows):
    """The same of a table of positions, in its order."""

    wishes: Wishes

    def asked(self, at: Integers) -> tuple[Table, Signals, Table]:
        """See `SymbolRows.asked`."""
        own = self.table_rows[at]
        return (
            self.wishes.plans(own),
            self.signals,
            self.wishes.lanes(own, self.market, self.rates.terms.inverse),
        )


@dataclass(frozen=True)
class Changes:
    """What happens to some positions at one moment."""

    members: Integers
    shares: Floats  # closed, 1: the whole
    prices: Floats
    taken: Floats  # money out of the margin of what is left


class Group:
    """The positions of one world and symbol; one entry each."""

    def __init__(
        self, of: SymbolRows, world: int, at: Integers, weight: Floats, identifier: Integers
    ) -> None:
        self.known(of, world, at, weight, identifier)
        rejection, entry_bar, exit_bar, phase, side = columns_of(
            of.rows, at, "rejection", "entry_bar", "exit_bar", "phase", "side"
        )
        opened = rejection == ACCEPTED
        self.since = np.where(opened, 3 * entry_bar + 1, NEVER)
        self.until = np.where(opened, 3 * exit_bar + phase, -1)
        self.side = side.astype(np.float64)
        self.entry, self.funding, self.quantity, self.margin = columns_of(
            of.rows, at, "entry", "entry_funding", "quantity", "margin"
        )

    def known(self, of: SymbolRows, world: int, at: Integers, weight: Floats, identifier: Integers) -> None:
        """What holds before anybody looks at what the rows say."""
        self.of, self.world, self.at, self.weight, self.identifier = of, world, at, weight, identifier
        self.given_up, self.socialised = np.zeros(at.size), np.zeros(at.size)
        self.outside = 0.0  # notional an outside counterparty has taken
        self._room, self._told = np.empty(at.size, dtype=np.int64), np.empty((TOLD, 0))
        self._since: Integers | None = None  # ascending; once somebody has been looked for
        self._to_come = self._alive = np.zeros(0, dtype=np.int64)
        self._entered = 0

    def of_rows(self, members: Integers, *names: str) -> list[Any]:
        """Columns of their rows."""
        return columns_of(self.of.rows, self.at[members], *names)

    def key(self, moments: Integers) -> Integers:
        """Moments of this symbol's bars as moments of all times of the run."""
        return self.of.when[moments // 3] * 3 + moments % 3

    def moment(self, key: int) -> int:
        """The other way round, for a time at which the symbol has a bar."""
        return int(np.searchsorted(self.of.when, key // 3)) * 3 + key % 3

    def market(self, side: float) -> Market:
        """The bars as a side sees them."""
        return self.of.market

    def open_at(self, moment: int, side: float, price: float) -> Integers:
        """Who is open at a moment on that side and in profit at a price; with side 0 who is open."""
        found = find_winners(self.since, self.until, self.side, self.entry, moment, side, price, self._room)
        return self._room[:found].copy()

    def winners(
        self, moment: int, side: float, price: float, mark: float, rank: int
    ) -> tuple[Integers, Floats]:
        """Who can be closed at a price for others: open on that side, in profit there and worth something; and what `rank_winners` tells of
        them, in the first columns.
        """
        if self._told.shape[1] < self.at.size:
            self._told = np.empty((TOLD, self.at.size))
        among, count = self.among(moment)
        found = rank_winners(
            self.market(side), self.of.rates, among, count, self.since, self.until, self.side, self.entry, self.funding, self.quantity,
            self.margin, self.weight, moment, side, price, mark, rank, self._room, self._told,
        )  # fmt: skip
        return self._room[:found].copy(), self._told

    def among(self, moment: int) -> tuple[Integers, int]:
        """Among whom anybody open at a moment is to be looked for: the first so many of these, or, below 0, everybody. Moments ascend, so
        that who has left is not looked at again.
        """
        if self._since is None:
            self._to_come = np.argsort(self.since, kind="stable")
            self._since, self._entered = self.since[self._to_come], 0
        entered, self._entered = self._entered, int(np.searchsorted(self._since, moment, side="right"))
        alive = np.concatenate([self._alive, self._to_come[entered : self._entered]])
        self._alive = alive[self.until[alive] > moment]
        return self._alive, self._alive.size

    def paid(self, members: Integers, moment: int) -> tuple[Floats, Floats]:
        """CF since entry, per unit of quantity and of each position."""
        moved = self.of.market.series[FUNDING, moment // 3] - self.funding[members]
        return moved, (self.side[members] * self.quantity[members]) * moved

    def equity(self, members: Integers, moment: int, price: float | Floats) -> Floats:
        """E of MODEL §4."""
        signed = self.side[members] * self.quantity[members]
        _, paid = self.paid(members, moment)
        left: Floats = (self.margin[members] + signed * (price - self.entry[members])) - paid
        return left

    def candidates(self, members: Integers, moment: int, mark: float) -> Candidates:
        """What a ranking may know: of all accounts a row stands for together."""
        weight, quantity, margin = self.weight[members], self.quantity[members], self.margin[members]
        moved, paid = self.paid(members, moment)
        needed, market = np.empty(members.size), self.market(float(self.side[members[0]]))
        requirements(
            market, self.of.rates, self.side[members], quantity, self.entry[members], margin, self.funding[members],
            moment // 3, mark, needed,
        )  # fmt: skip
        return Candidates(
            side=self.side[members], quantity=weight * quantity, entry=self.entry[members], margin=weight * margin,
            funding_paid=weight * paid, mark=np.full(members.size, mark), maintenance=weight * needed,
            bankruptcy=(self.entry[members] - self.side[members] * (margin / quantity)) + moved,
            identifier=self.identifier[members],
        )  # fmt: skip

    def shrink(self, members: Integers, share: Floats, moment: int) -> None:
        """Close a share of positions in the arrays; `carry_out` does it in the rows."""
        self.quantity[members] = self.quantity[members] * (1.0 - share)
        self.margin[members] = self.margin[members] * (1.0 - share)
        self.until[members[share == 1.0]] = moment  # not there any more

    def later(self, members: Integers) -> Integers:
        """The positions that the same accounts take after those of some members."""
        return members[:0]

    def carry_out(self, changes: Changes, moment: int, fee: float) -> Integers:
        """Live the changed positions on and read their new exits; returns the positions that come of it besides."""
        at = self.at[changes.members]
        self.of.change(at, moment, changes, fee)
        rows = self.of.rows[at]
        self.until[changes.members] = 3 * rows["exit_bar"] + rows["phase"]
        return changes.members[:0]


def columns_of(rows: Table, at: Integers, *names: str) -> list[Any]:
    """Columns of some rows, one at a time: whole rows are long, and copied slowly."""
    if at.size == rows.size and bool((at[1:] - at[:-1] == 1).all()):  # all of them, in their order
        return [rows[name].copy() for name in names]
    return [rows[name][at] for name in names]
