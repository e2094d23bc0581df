"""Positions counted chunk by chunk → the table of `result.statistics`.

In: integer codes and columns of one chunk of positions after the other; any order, any chunks, any number of
threads with a `Tally` each give the same bytes. Out: the statistics frame.

A chunk may be forgotten once it is added. Kept are sums, and for exact medians 8 bytes a position and 8 more
a liquidated one (`table` takes as much again while it sorts), 32 bytes a default, 16 bytes a group of each
chunk and, where accounts are counted by their codes, 8 bytes a position, those right after one of the same
account and group left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from perpbt.errors import InputError
from perpbt.kernels import tallying
from perpbt.kernels.numbering import no_index, numbered
from perpbt.kernels.sums import (
    Sums,
    add_exactly,
    exact_sums,
    merge_sums,
    no_sums,
    picked,
    rounded_sums,
    widened,
)
from perpbt.kernels.tallying import DEFAULTED, LIQUIDATED, OWING, POSITIONS, REFUSED, TOTALS
from perpbt.statistics.attribution import Claims, fee_shares, uncovered
from perpbt.statistics.common import Floats, Integers, codes_in, require
from perpbt.statistics.defaults import FUND_COLUMNS, KEYS, LEVELS, SUMS, TOTAL, TOTALLED, finished
from perpbt.statistics.shelves import Shelves, distinct

MOST_ACCOUNTS = 1 << 40
STRETCH = 1 << 15  # positions whose fees are looked at together: short arrays stay in the processor's cache


class Tally:
    """Counts and sums of positions by strategy, policy and symbol.

    `groups` has a row for each code of a group: strategy, policy, symbol (String; rows may repeat a group).
    `worlds` are the names of the codes of worlds; `reasons` are the exit reasons by their codes,
    "liquidation" and "rejected" among them. One thread at a time may call a Tally's methods: give each thread
    its own, and `merge` them.
    """

    def __init__(
        self, groups: pl.DataFrame, worlds: Sequence[str | None] | pl.Series, reasons: Sequence[str]
    ) -> None:
        require(groups, KEYS, "groups")
        self._groups = groups.select(KEYS).unique().sort(KEYS)
        self._place = np.array(
            groups.join(
                self._groups.with_row_index("place"),
                on=KEYS,
                how="left",
                nulls_equal=True,
                maintain_order="left",
            )["place"],
            dtype=np.int64,
        )
        self._worlds = pl.Series("world", worlds, dtype=pl.String)
        self._reasons = tuple(reasons)
        self._words = tallying.Words(self._reasons.index("liquidation"), self._reasons.index("rejected"))
        count = self._groups.height
        self._counts = np.zeros((count, tallying.COUNTS), dtype=np.int64)
        self._drawdown = np.full(count, -np.inf)
        self._sums = no_sums(count * TOTALS)
        self._payers = no_index()  # group * worlds + world, where fees were paid
        self._fees = no_sums(self._payers.keys.size)
        self._returns, self._held = Shelves(count, np.float64), Shelves(count, np.float64)
        self._accounts = Shelves(count, np.int64)
        self._nameless = False  # some account has no code
        self._deficits: list[tallying.Deficits] = []

    def add(
        self,
        group: npt.ArrayLike,
        weight: npt.ArrayLike,
        reason: npt.ArrayLike,
        entry_time: npt.ArrayLike,
        exit_time: npt.ArrayLike,
        quantity: npt.ArrayLike,
        exit_price: npt.ArrayLike,
        fees: npt.ArrayLike,
        liquidation_fee: npt.ArrayLike,
        surplus: npt.ArrayLike,
        deficit: npt.ArrayLike,
        total_return: npt.ArrayLike,
        max_drawdown: npt.ArrayLike,
        world: npt.ArrayLike,
        account: npt.ArrayLike | None = None,
    ) -> None:
        """Add a chunk of positions: one entry each, units of `result.accounts`, times in ms.

        `group`, `world`, `reason` are codes as given to the Tally; `account` are whole numbers from 0 on,
        best without gaps, needed if `table` gets no population. Of rejected orders only group and account
        count; their numbers may be anything. A chunk holds at most 2^30 positions. Contiguous columns of
        int64, int8 (reason) and float64 are taken as they are, others are copied.

        Raises InputError for columns of different lengths and codes out of range.
        """
        number = np.shape(group)[0]
        codes = _column("group", group, np.int64, number, self._place.size)
        chunk = tallying.Chunk(
            group=_locked(self._place[codes]),
            world=_column("world", world, np.int64, number, self._worlds.len()),
            reason=_column("reason", reason, np.int8, number, len(self._reasons)),
            entry_time=_column("entry_time", entry_time, np.int64, number),
            exit_time=_column("exit_time", exit_time, np.int64, number),
            weight=_column("weight", weight, np.float64, number),
            quantity=_column("quantity", quantity, np.float64, number),
            exit_price=_column("exit_price", exit_price, np.float64, number),
            fees=_column("fees", fees, np.float64, number),
            liquidation_fee=_column("liquidation_fee", liquidation_fee, np.float64, number),
            surplus=_column("surplus", surplus, np.float64, number),
            deficit=_column("deficit", deficit, np.float64, number),
            total_return=_column("total_return", total_return, np.float64, number),
            max_drawdown=_column("max_drawdown", max_drawdown, np.float64, number),
        )
        accounts = None if account is None else _column("account", account, np.int64, number, MOST_ACCOUNTS)
        counts = np.zeros_like(self._counts)
        tallying.sum_chunk(chunk, self._words, counts, self._sums, self._drawdown)
        self._counts += counts
        self._add_fees(chunk)
        self._keep(chunk, counts)
        if accounts is None:
            self._nameless |= number > 0
        else:
            self._keep_accounts(chunk.group, accounts)

    @property
    def places(self) -> Integers:
        """Where the tally counts each code of a group."""
        return self._place

    @property
    def sums(self) -> Sums:
        """What whoever counts pages adds to: slots place * tallying.TOTALS + ..."""
        return self._sums

    def keep(
        self, place: Integers, returns: Floats, opened: Integers, held: Floats, liquidated: Integers
    ) -> None:
        """Keep what cannot be summed up of positions counted elsewhere, without a copy: returns and times to liquidation, so many of each
        place, those of one place after those of the other.
        """
        self._returns.put(returns, place, opened)
        if held.size:
            self._held.put(held, place, liquidated)
        self._nameless = True

    def owe(self, owed: tallying.Deficits, count: int) -> None:
        """Keep a copy of the first deficits, of positions counted elsewhere."""
        group, world, time = (each[:count].copy() for each in (owed.group, owed.world, owed.time))
        self._deficits.append(tallying.Deficits(group, world, time, owed.amount[:count].copy()))

    def add_counted(
        self, world: Integers, counts: Integers, drawdown: Floats, fees: Sums, paid: Integers
    ) -> None:
        """Add what was counted elsewhere, but for `sums`, of each code of a group, each of one world: counts, largest drawdown, exact fees
        and how many positions paid any.
        """
        np.add.at(self._counts, self._place, counts)
        np.maximum.at(self._drawdown, self._place, drawdown)
        payers = np.flatnonzero(paid)
        if payers.size:
            slots = self._slots(self._place[payers] * self._worlds.len() + world[payers])
            merge_sums(self._fees, picked(fees, payers), slots)

    def _add_fees(self, chunk: tallying.Chunk) -> None:
        """Fees by group and world."""
        number = chunk.group.size
        size = min(STRETCH, number)
        keys, amounts = np.empty(size, dtype=np.int64), np.empty(size)
        for first in range(0, number, STRETCH):
            paid = tallying.weigh_fees(chunk, self._words, self._worlds.len(), first, keys, amounts)
            slots = self._slots(keys[:paid])  # first: it may put wider sums in place
            add_exactly(self._fees, slots, amounts[:paid])

    def _slots(self, keys: Integers) -> Integers:
        """Where the fees of each key are summed."""
        self._payers, slots = numbered(self._payers, keys)
        if self._payers.keys.size > self._fees.limbs.shape[1]:
            self._fees = widened(self._fees, self._payers.keys.size)
        return slots

    def _keep(self, chunk: tallying.Chunk, counts: Integers) -> None:
        """What medians and the split of uncovered deficits need."""
        returns, next_return = self._returns.room(counts[:, POSITIONS])
        held, next_held = self._held.room(counts[:, LIQUIDATED])
        owing = int(counts[:, OWING].sum())
        group, world, time = (np.empty(owing, dtype=np.int64) for _ in range(3))
        deficits = tallying.Deficits(group, world, time, np.empty(owing))
        tallying.sort_chunk(chunk, self._words, next_return, next_held, returns, held, deficits)
        self._deficits.append(deficits)

    def _keep_accounts(self, group: Integers, account: Integers) -> None:
        counts = np.zeros(self._groups.height, dtype=np.int64)
        tallying.count_accounts(group, account, counts)
        accounts, places = self._accounts.room(counts)
        tallying.sort_accounts(group, account, places, accounts)

    def merge(self, other: Tally) -> None:
        """Add all that `other` was given, which is not to be used again.

        Raises InputError unless it was made with equal groups, worlds and reasons.
        """
        same = self._groups.equals(other._groups) and self._worlds.equals(other._worlds)
        if not same or self._reasons != other._reasons:
            raise InputError("tallies of different groups, worlds or reasons cannot be merged")
        self._counts += other._counts
        np.maximum(self._drawdown, other._drawdown, out=self._drawdown)
        merge_sums(self._sums, other._sums, np.arange(self._sums.limbs.shape[1]))
        slots = self._slots(other._payers.known)
        merge_sums(self._fees, other._fees, slots)
        self._returns.take(other._returns)
        self._held.take(other._held)
        self._accounts.take(other._accounts)
        self._nameless |= other._nameless
        self._deficits += other._deficits

    def table(self, fund: pl.DataFrame, population: pl.DataFrame | None = None) -> pl.DataFrame:
        """The statistics of all that was added so far; columns, nulls and errors are those of `summarise`.

        Also raises InputError if there is neither a population nor a code for every account.
        """
        require(fund, FUND_COLUMNS, "fund")
        if population is None and self._nameless:
            raise InputError("accounts cannot be counted: give their codes to add, or a population to table")
        sums = dict(zip(TOTALLED, rounded_sums(self._sums).reshape(-1, TOTALS).T, strict=True))
        sums["fee_share"], sums["uncovered"] = self._attributed(fund)
        seen = np.flatnonzero(self._counts[:, [POSITIONS, REFUSED]].any(axis=1))
        groups, counts, pairs = self._groups[seen], self._counts[seen], self._accounts.sizes[seen]
        accounts = self._accounts.sorted()
        levels = []
        for keys in LEVELS:
            starts = _starts(groups, keys)
            of, first, last = _reduced(np.add, counts, starts), seen[starts[:-1]], seen[starts[1:] - 1]
            level = {
                "accounts": distinct(accounts, _reduced(np.add, pairs, starts)),
                "positions": of[:, POSITIONS],
                "rejected": of[:, REFUSED],
                "liquidated": of[:, LIQUIDATED],
                "defaulted": of[:, DEFAULTED],
                "median_return": self._returns.medians(first, last),
                "max_drawdown": _reduced(np.maximum, self._drawdown[seen], starts),
                "time_to_liquidation": self._held.medians(first, last),
                **{name: exact_sums(sums[name][seen], starts) for name in SUMS},
            }
            blank = [pl.lit(TOTAL).alias(key) for key in KEYS if key not in keys]
            levels.append(groups[starts[:-1]].with_columns(blank).hstack(pl.DataFrame(level)))
        return finished(levels, population)

    def _attributed(self, fund: pl.DataFrame) -> tuple[Floats, Floats]:
        """Fee shares and uncovered deficits of each group."""
        number, symbols = self._groups.height, self._groups["symbol"].unique().sort()
        symbol = codes_in(symbols, self._groups["symbol"])
        world, own = codes_in(self._worlds, fund["world"]), codes_in(symbols, fund["symbol"])
        places = np.where((world >= 0) & (own >= 0), world * symbols.len() + own, -1)
        group, at = np.divmod(self._payers.known, max(self._worlds.len(), 1))
        paid = Claims(at * symbols.len() + symbol[group], group, rounded_sums(self._fees)[: group.size])
        group, at, times, amount = (
            np.concatenate([np.zeros(0, dtype=dtype), *(deficits[k] for deficits in self._deficits)])
            for k, dtype in enumerate((np.int64, np.int64, np.int64, np.float64))
        )
        owed = Claims(at * symbols.len() + symbol[group], group, amount)
        return fee_shares(fund, places, paid, number), uncovered(fund, places, owed, times, number)


def _starts(groups: pl.DataFrame, keys: Sequence[str]) -> Integers:
    """Where each combination of `keys` starts in `groups`, which are sorted, and the end."""
    changed = np.zeros(groups.height, dtype=bool)
    changed[:1] = True
    for key in keys:
        changed[1:] |= groups[key].ne_missing(groups[key].shift(1)).to_numpy()[1:]
    return np.append(np.flatnonzero(changed), groups.height)


def _reduced(how: np.ufunc, values: npt.NDArray[Any], starts: Integers) -> npt.NDArray[Any]:
    """One value for each run values[starts[k]:starts[k + 1]]."""
    return np.asarray(how.reduceat(values, starts[:-1]) if values.size else values)


def _locked(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A read-only view: whatever the caller's array is, kernels see one type and are compiled once."""
    view = array.view()
    view.flags.writeable = False
    return view


def _column(
    name: str, values: npt.ArrayLike, dtype: npt.DTypeLike, number: int, codes: int | None = None
) -> npt.NDArray[Any]:
    """Values as kernels take them; InputError unless there are `number`, all of them codes below `codes`."""
    array = np.ascontiguousarray(values)
    if array.shape != (number,):
        raise InputError(f"{name} has shape {array.shape}; it has to be ({number},), as many as group")
    if codes is not None and number and not (array.min() >= 0 and array.max() < codes):
        raise InputError(f"{name} has codes from {array.min()} to {array.max()}; allowed: 0 to {codes - 1}")
    return _locked(array.astype(dtype, copy=False))
