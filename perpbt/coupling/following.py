"""Accounts that follow signals where accounts meet: whoever is touched trades on otherwise than it would have alone.

In: the rows of one strategy and policy on one symbol, a world's part in it, as the engine finished them account by account. A position that is changed in mid-life
is lived on to its new exit, and its account's later positions are taken away and found again from there: what is left of the wallet
sizes them, and when the position ends decides which signals they follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from perpbt.coupling.groups import NEVER, Changes, Group, SymbolRows
from perpbt.engines.chunks import following_pages
from perpbt.kernels.coupled.following import free_lanes
from perpbt.kernels.tables import ACCEPTED, CALL, LANE, ROW, Floats, Integers, Signals, Table, table

GROWING = (
    *("at", "weight", "identifier", "since", "until", "side", "entry", "funding", "quantity", "margin"),
    *("given_up", "socialised", "gone", "_room"),
)


@dataclass
class FollowedRows(SymbolRows):
    """The positions of a world in a symbol, account after account; later finds at the end. `plan` is what all of them follow."""

    plan: Table  # one plan
    starts: Integers  # of each account, the first close it reads
    found: int = field(init=False)  # positions of the independent run
    walked: dict[int, list[int]] = field(
        default_factory=dict, init=False
    )  # of accounts touched, their positions
    after: dict[int, float] = field(
        default_factory=dict, init=False
    )  # the wallet after a position that was touched

    def __post_init__(self) -> None:
        self.found = self.rows.size
        self.lane = self.rows["lane"].copy()

    def positions(self, lane: int) -> list[int]:
        """All of an account's, in time."""
        if lane not in self.walked:
            low, high = np.searchsorted(self.lane, (lane, lane + 1))
            self.walked[lane] = list(range(low, high))
        return self.walked[lane]

    def wallet(self, place: int) -> float:
        """What an account had when it gave the order of a position."""
        capital = float(self.plan["capital"][0])
        if self.plan["compounding"][0] == 0:
            return capital
        before = [k for k in self.positions(int(self.rows["lane"][place])) if k < place]
        known = max((k for k in before if k in self.after), default=-1)
        wallet = self.after.get(known, capital)
        for row in self.rows[[k for k in before if k > known]]:
            if row["rejection"] == ACCEPTED:
                wallet = (wallet - float(row["collateral"])) + float(row["back"])
        return wallet

    def asked(self, at: Integers) -> tuple[Table, Signals, Table]:
        """See `SymbolRows.asked`."""
        plans = np.repeat(self.plan, at.size)
        plans["capital"] = [self.wallet(place) for place in at.tolist()]
        rows = self.rows[at]
        lanes = table(
            LANE, at.size, plan=np.arange(at.size), fixed_side=rows["side"], exit_due=-1, bar=rows["entry_bar"], not_before=-1
        )  # fmt: skip
        return plans, self.signals, lanes

    def change(self, at: Integers, moment: int, change: Changes, fee: float) -> None:
        """Change the positions in rows `at` and let them live on."""
        super().change(at, moment, change, fee)
        for place in at.tolist():
            self.after[place] = float(self.kept["wallet"][self.kept_at[place]]) + float(
                self.rows["back"][place]
            )

    def follow_on(self, at: Integers) -> Table:
        """What the accounts of the positions in rows `at` do once these are over."""
        trades = []
        for place in at.tolist():
            own = self.positions(int(self.rows["lane"][place]))
            del own[own.index(place) + 1 :]
            trades.append(int((self.rows["rejection"][own] == ACCEPTED).sum()) - 1)
        lanes = table(
            LANE, at.size, exit_due=-1, not_before=-1, wallet=[self.after[place] for place in at.tolist()], trades=trades
        )  # fmt: skip
        plans = self.plan
        free_lanes(self.market, plans, lanes, self.rows, at)
        parts = []
        for page in following_pages(self.market, self.rates, plans, self.signals, lanes):
            rows = page.rows.copy()
            rows["lane"] = self.rows["lane"][at[rows["lane"]]]
            parts.append(rows)
        return np.concatenate([np.empty(0, dtype=ROW), *parts])

    def in_order(self, there: np.ndarray) -> tuple[Table, Table, Integers]:
        """The rows that are `there`, account after account and in time; the parts closed of them; and of each old place the new one."""
        order = np.flatnonzero(there)
        order = order[np.argsort(self.rows["lane"][order], kind="stable")]
        place = np.full(there.size, -1, dtype=np.int64)
        place[order] = np.arange(order.size)
        calls = np.concatenate([np.empty(0, dtype=CALL), *self.calls])
        calls["row"] = place[calls["row"]]
        return self.rows[order], calls[np.argsort(calls["row"], kind="stable")], place


class FollowedGroup(Group):
    """Positions that come and go with what happens to others."""

    def __init__(
        self, of: FollowedRows, world: int, weight: Floats, weigh: Callable[[Table], Floats]
    ) -> None:
        # an account has one position at a time: ties go by account
        super().__init__(of, world, np.arange(of.rows.size), weight, of.rows["lane"].copy())
        self.followed, self.weigh = of, weigh
        self.gone = np.zeros(self.at.size, dtype=np.bool_)
        self._stores: dict[str, np.ndarray] = {}

    def among(self, moment: int) -> tuple[Integers, int]:
        """See `Group.among`: positions come and go."""
        return self._room, -1

    def later(self, members: Integers) -> Integers:
        """See `Group.later`."""
        found: list[int] = []
        for place in members.tolist():
            own = self.followed.positions(int(self.of.rows["lane"][place]))
            found += own[own.index(place) + 1 :]
        return np.array(found, dtype=np.int64)

    def carry_out(self, changes: Changes, moment: int, fee: float) -> Integers:
        """See `Group.carry_out`."""
        gone = self.later(changes.members)
        self.gone[gone], self.since[gone], self.until[gone] = True, NEVER, -1
        super().carry_out(changes, moment, fee)
        return self.take_in(self.followed.follow_on(changes.members))

    def take_in(self, rows: Table) -> Integers:
        """Positions found; returns who they are."""
        new = np.arange(self.at.size, self.at.size + rows.size)
        if not rows.size:
            return new
        opened = rows["rejection"] == ACCEPTED
        self.of.rows = grown(self._stores, "rows", self.of.rows, rows)
        nothing = np.zeros(rows.size)
        values = {
            "at": new, "weight": self.weigh(rows), "identifier": rows["lane"],
            "since": np.where(opened, 3 * rows["entry_bar"] + 1, NEVER), "until": np.where(opened, 3 * rows["exit_bar"] + rows["phase"], -1),
            "side": rows["side"], "entry": rows["entry"], "funding": rows["entry_funding"],
            "quantity": rows["quantity"], "margin": rows["margin"], "given_up": nothing, "socialised": nothing,
            "gone": nothing, "_room": nothing,
        }  # fmt: skip
        for name in GROWING:
            setattr(self, name, grown(self._stores, name, getattr(self, name), values[name]))
        for place, lane in zip(new.tolist(), rows["lane"].tolist(), strict=True):
            self.followed.walked[lane].append(place)
        return new


def grown(stores: dict[str, np.ndarray], name: str, array: np.ndarray, values: np.ndarray) -> np.ndarray:
    """An array with values at its end; there is room for more in its store, so that growing again costs little."""
    need, store = array.size + values.size, stores.get(name)
    if store is None or store.size < need:
        store = stores[name] = np.empty(max(2 * array.size, need), dtype=array.dtype)
        store[: array.size] = array
    store[array.size : need] = values
    return store[:need]
