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
    kept: dict[int, Table] = field(
        default_factory=dict, init=False
    )  # those changed before, by place in `rows`
    calls: list[Table] = field(default_factory=list, init=False)

    @abstractmethod
    def asked(self, at: Integers) -> tuple[Table, Signals, Table]:
        """What some positions were asked for: a plan each, signals, a lane each."""

    def change(self, at: Integers, moment: int, change: Changes, fee: float) -> None:
        """Change the positions in rows `at` and let them live on."""
        bar, phase = divmod(moment, 3)
        kept = np.zeros(at.size, dtype=KEPT)
        for k, place in enumerate(at.tolist()):
            if place in self.kept:
                kept[k] = self.kept[place][0]
        calls = unused(CALL, at.size)
        change_positions(
            self.market, self.rates, *self.asked(at), kept, self.rows,
            at, calls, bar, phase, change.shares, change.taken, change.prices, fee, True,
        )  # fmt: skip
        for k, place in enumerate(at.tolist()):
            self.kept[place] = kept[k : k + 1]
        self.calls.append(calls[calls["row"] >= 0])

    def all_calls(self) -> Table:
        """Parts closed and margins taken, by row and in the order of time."""
        calls = np.concatenate([np.empty(0, dtype=CALL), *self.calls])
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
        self.of, self.world, self.at, self.weight, self.identifier = of, world, at, weight, identifier
        rows = of.rows  # a column at a time: whole rows would be copied
        opened = rows["rejection"][at] == ACCEPTED
        self.since = np.where(opened, 3 * rows["entry_bar"][at] + 1, NEVER)
        self.until = np.where(opened, 3 * rows["exit_bar"][at] + rows["phase"][at], -1)
        self.side = rows["side"][at].astype(np.float64)
        self.entry, self.funding = rows["entry"][at], rows["entry_funding"][at]
        self.quantity, self.margin = rows["quantity"][at], rows["margin"][at]
        self.given_up, self.socialised = np.zeros(at.size), np.zeros(at.size)
        self.outside = 0.0  # notional an outside counterparty has taken
        self._room = np.empty(at.size, dtype=np.int64)

    def of_rows(self, members: Integers, *names: str) -> list[Any]:
        """Columns of their rows: whole rows are long, and copied slowly."""
        at = self.at[members]
        return [self.of.rows[name][at] for name in names]

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
