"""What the fund got and lost → the groups of positions it came from.

In: the ledger, and what each group paid or owed in each world. Out: an amount a group, quote currency. A
place is a world and a symbol; the ledger knows no finer one, so groups share an amount there in proportion to
their claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from perpbt.errors import RunError
from perpbt.kernels.numbering import no_index, numbered
from perpbt.kernels.sums import add_exactly, no_sums, rounded_sums
from perpbt.statistics import common
from perpbt.statistics.common import Floats, Integers

NEVER = np.iinfo(np.int64).max  # a moment of no ledger row


class Claims(NamedTuple):
    """What groups paid or owed, one entry each: a part of any ledger row with the same key."""

    key: Integers
    group: Integers
    amount: Floats  # > 0 unless fees were negative


def fee_shares(fund: pl.DataFrame, places: Integers, claims: Claims, groups: int) -> Floats:
    """The ledger's trading-fee share of each group: a constant share of fees, so pro rata to the fees paid.

    `places` is the place of each row of `fund`, -1 for one that no position is in; claims are keyed by place.
    """
    flow, at, amount = _moved(fund, places, "fee_share")
    own, of, known = _numbers(claims.key, at)
    _check_explained(flow, of < known, ("world", "symbol"), "fee_share")
    paid = np.flatnonzero(np.bincount(of, minlength=known))
    return _by_group(
        [_shares(paid, _totals(of, amount, known)[paid], claims._replace(key=own), groups)], groups
    )


def uncovered(fund: pl.DataFrame, places: Integers, claims: Claims, times: Integers, groups: int) -> Floats:
    """The ledger's uncovered deficits of each group, pro rata to the deficits of the same time and place.

    A deficit of a part closed by deleveraging stands in the row of its position, whose exit time is another:
    such an amount is given to the deficits of that place whenever they were. `places` as above; claims are
    deficits keyed by place, at `times` (ms).
    """
    flow, at, amount = _moved(fund, places, "uncovered")
    own, of, known = _numbers(claims.key, at)
    _check_explained(flow, of < known, ("world", "symbol", "time"), "uncovered")
    when, then, moments = _numbers(np.array(flow["time"].dt.epoch("ms")), times)
    moment, same, rows = _numbers(of * moments + when, np.where(then < moments, own * moments + then, NEVER))
    amount, where = _totals(moment, amount, rows), np.zeros(rows, dtype=np.int64)
    where[moment] = of
    dated = same < rows
    found = np.bincount(same[dated], minlength=rows) > 0
    named = Claims(same[dated], claims.group[dated], claims.amount[dated])
    shares = [
        _shares(np.flatnonzero(found), amount[found], named, groups),
        _shares(where[~found], amount[~found], claims._replace(key=own), groups),
    ]
    return _by_group(shares, groups)


def _moved(fund: pl.DataFrame, places: Integers, amount: str) -> tuple[pl.DataFrame, Integers, Floats]:
    """The ledger's rows that have such an amount, their places, and it."""
    moved = (fund[amount] != 0).fill_null(False).to_numpy()
    return fund.filter(moved), places[moved], fund[amount].to_numpy()[moved]


def _check_explained(
    flow: pl.DataFrame, explained: npt.NDArray[np.bool_], on: Sequence[str], amount: str
) -> None:
    """RunError if the ledger has an amount in a place in which no position has a claim."""
    if explained.all():
        return
    lost = common.exact_sums(flow.filter(~explained), on, (amount,))
    first = ", ".join(f"{name} {value}" for name, value in lost.row(0, named=True).items())
    raise RunError(
        f"fund and accounts disagree: no position explains {first}, nor {lost.height - 1} other rows"
    )


def _numbers(first: Integers, second: Integers) -> tuple[Integers, Integers, int]:
    """Equal keys of two arrays get equal numbers, from 0 on; also returns how many different ones there are
    in the first.
    """
    index, numbers = numbered(no_index(), first)
    different = int(index.given[0])
    return numbers, numbered(index, second)[1], different


def _totals(numbers: Integers, values: Floats, count: int) -> Floats:
    """Exact sum of the values of each number."""
    sums = no_sums(count)
    add_exactly(sums, numbers, values)
    return rounded_sums(sums)


def _shares(flow: Integers, amount: Floats, claims: Claims, groups: int) -> tuple[Integers, Floats]:
    """Each amount split over the groups with a claim on its number in `flow`: group and share, one entry a
    share.
    """
    rows = np.bincount(flow, minlength=int(claims.key.max(initial=-1)) + 1)  # of each number
    wanted = rows[claims.key] > 0
    index, pair = numbered(no_index(), claims.key[wanted] * groups + claims.group[wanted])
    number, group = np.divmod(index.known, max(groups, 1))
    own = _totals(pair, claims.amount[wanted], number.size)
    whole = _totals(number, own, rows.size)
    heir = np.repeat(np.arange(number.size), rows[number])
    starts, ends = np.cumsum(rows) - rows, np.cumsum(rows[number])
    row = np.argsort(flow)[starts[number][heir] + np.arange(heir.size) - (ends - rows[number])[heir]]
    with np.errstate(divide="ignore", invalid="ignore"):  # fees and rebates that cancel out have no shares
        return group[heir], amount[row] * (own / whole[number])[heir]


def _by_group(shares: Sequence[tuple[Integers, Floats]], groups: int) -> Floats:
    """Exact sum of all shares of each group."""
    group, share = (np.concatenate(parts) for parts in zip(*shares, strict=True))
    return _totals(group, share, groups)
