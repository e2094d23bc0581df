"""How well losses were spread: what was needed and what was taken, from whom, and how unevenly.

Arithmetic on one round of deleveraging: arrays of money, one entry a winner (profit and equity before, taken).
The names are those of Chitra, Autodeleveraging: Impossibilities and Optimization, arXiv 2512.01112 v3.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from perpbt.adl.allocations import allocate, list_policies
from perpbt.adl.candidates import Candidates, Floats, quotient
from perpbt.adl.filling import fill_by_weight, total
from perpbt.errors import InputError

_WHOLE = 1e-9  # of a lot: what is nearer to a whole number of lots is one


def _money(values: npt.ArrayLike) -> Floats:
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


def needed_budget(quantity: npt.ArrayLike, mark: npt.ArrayLike, price: npt.ArrayLike) -> float:
    """Money that fills at `price` instead of mark move: sum of |mark - price|·quantity over the fills."""
    return total(np.abs(_money(mark) - _money(price)) * np.abs(_money(quantity)))


def overshoot(taken: npt.ArrayLike, needed: float) -> float:
    """|what was taken - what was needed|, money. A deficit belongs into `needed` once per default (`bad_debt`)."""
    return abs(total(_money(taken)) - needed)


def largest_share(taken: npt.ArrayLike, equity: npt.ArrayLike) -> float:
    """The largest fraction of a winner's equity that was taken; infinite if one without equity gave."""
    return float(np.max(quotient(_money(taken), _money(equity)), initial=0.0))


def least_largest_share(
    amount: float, capacity: npt.ArrayLike, equity: npt.ArrayLike, lot: float | None = None
) -> float:
    """The smallest that `largest_share` can be when `amount` is raised and nobody gives more than `capacity`, exactly.

    What can be divided at will is taken in proportion to equity under the caps. With `lot`, the money that closing one lot moves,
    everybody gives whole lots, as in the source's integer programme: all that fit below the divisible optimum, then lot by lot
    whoever is left with the smallest share. Parts of `amount` and `capacity` below a lot are left out then.
    """
    most, worth = _money(capacity), np.maximum(_money(equity), 0.0)
    spread = fill_by_weight(most, worth, amount)
    if lot is None:
        return largest_share(spread, worth)
    room = np.floor(most / lot + _WHOLE)
    lots = np.minimum(np.floor(spread / lot + _WHOLE), room)
    left = min(math.floor(amount / lot + _WHOLE), int(room.sum())) - int(lots.sum())
    next_share = quotient((lots + 1.0) * lot, worth)
    waiting = [(float(next_share[k]), k) for k in np.flatnonzero(room > lots).tolist()]
    heapq.heapify(waiting)
    for _ in range(left):
        _, k = heapq.heappop(waiting)
        lots[k] += 1.0
        if lots[k] < room[k]:
            heapq.heappush(
                waiting, (float(quotient(np.array([(lots[k] + 1.0) * lot]), worth[k : k + 1])[0]), k)
            )
    return largest_share(lots * lot, worth)


def fairness_regret(
    taken: npt.ArrayLike,
    equity: npt.ArrayLike,
    capacity: npt.ArrayLike,
    needed: float,
    lot: float | None = None,
) -> float:
    """|largest share taken - the smallest it could be for `needed`| · needed, money; `lot` as in `least_largest_share`."""
    best = least_largest_share(needed, capacity, equity, lot)
    return abs(largest_share(taken, equity) - best) * needed


def profit_left(profit: npt.ArrayLike, taken: npt.ArrayLike) -> float:
    """The largest profit that a winner still has, money: max (profit - taken)+."""
    return float(np.max(np.maximum(_money(profit) - _money(taken), 0.0), initial=0.0))


def ptsr(left: npt.ArrayLike, deficit: npt.ArrayLike) -> float:
    """Profit to total shortfall: mean over rounds of `profit_left` / all deficits of the round; NaN without a
    round that has one.
    """
    above, below = _money(left), _money(deficit)
    some = below > 0.0
    return float(np.mean(above[some] / below[some])) if some.any() else float("nan")


def pmr(left: npt.ArrayLike, largest_deficit: npt.ArrayLike) -> float:
    """Profit to maximum shortfall: as `ptsr`, over the largest single deficit of each round."""
    return ptsr(left, largest_deficit)


def bad_debt(marks: pl.DataFrame) -> pl.DataFrame:
    """Bad debt counted once per default: `account`, `default` (its number), `time` (when it began), `debt`.

    `marks`: `account`, `time`, `equity`, what accounts were worth whenever somebody looked. A default lasts
    from the first equity below 0 to the next that is not; its debt is the deepest, so marking an insolvent
    account again adds only what it has lost since. Adding up looks instead counts one account many times.
    """
    lacking = [name for name in ("account", "time", "equity") if name not in marks.columns]
    if lacking:
        raise InputError(f"marks: column {lacking[0]!r} missing; found: {', '.join(marks.columns)}")
    below = pl.col("equity") < 0.0
    return (
        marks.sort("account", "time", maintain_order=True)
        .with_columns(begins=below & ~below.shift(1, fill_value=False).over("account"))
        .with_columns(default=pl.col("begins").cast(pl.Int64).cum_sum().over("account"))
        .filter(below)
        .group_by("account", "default", maintain_order=True)
        .agg(pl.col("time").first(), debt=-pl.col("equity").min())
    )


def compare(
    candidates: Candidates,
    quantity: float,
    price: float,
    *,
    deficits: Iterable[float] = (),
    policies: Sequence[str] | None = None,
    lot: float | None = None,
) -> pl.DataFrame:
    """What each policy would do to the same winners: a row a policy.

    `quantity` (base units) is closed at `price`; `deficits` are those of the bankrupt accounts, money.
    Columns: `policy`; `touched`, `closed_out` (how many winners lose some, all); `quantity`; `taken` (money
    moved, price against mark); `overshoot` (against `quantity`·|mark - price|); `largest_share` of equity;
    `fairness_regret` (with `lot` against the best in whole lots); `top_winner_left` (profit the winner with the largest had and keeps); `profit_left`;
    `ptsr`, `pmr` (null without deficits); `largest_leverage` left open, at mark.

    Raises InputError as `allocate` does.
    """
    marks = np.unique(candidates.mark)
    if marks.size > 1:
        raise InputError(f"candidates: marks {marks[0]} and {marks[1]}; allowed: one symbol at one moment")
    owed = _money(list(deficits))
    names = list_policies() if policies is None else list(policies)
    rows = [_row(name, candidates, quantity, price, owed, lot) for name in names]
    schema = dict.fromkeys(_COLUMNS, pl.Float64) | {"touched": pl.Int64, "closed_out": pl.Int64}
    return pl.DataFrame(rows, schema={"policy": pl.String, **schema})


_COLUMNS: tuple[str, ...] = (
    "touched",
    "closed_out",
    "quantity",
    "taken",
    "overshoot",
    "largest_share",
    "fairness_regret",
)
_COLUMNS += ("top_winner_left", "profit_left", "ptsr", "pmr", "largest_leverage")


def spread(
    candidates: Candidates, closed: Floats, quantity: float, price: float, lot: float | None = None
) -> dict[str, float]:
    """How well one round was spread: `needed` (`quantity`·|mark - price|), `taken` of the winners' worth at mark, `overshoot`,
    `largest_share` of equity, `fairness_regret`; money.
    """
    gap = abs(float(candidates.mark[0]) - price)
    taken, equity, needed = closed * gap, candidates.equity(), quantity * gap
    a_lot = lot * gap if lot is not None and needed > 0.0 else None
    regret = fairness_regret(taken, equity, candidates.quantity * gap, total(taken), a_lot)
    return {
        "needed": needed, "taken": total(taken), "overshoot": overshoot(taken, needed),
        "largest_share": largest_share(taken, equity), "fairness_regret": regret,
    }  # fmt: skip


def _row(
    policy: str, candidates: Candidates, quantity: float, price: float, owed: Floats, lot: float | None
) -> dict[str, object]:
    closed = allocate(policy, candidates, quantity, lot=lot)
    gap = np.abs(candidates.mark - price)
    taken = closed * gap
    needed = quantity * float(gap[0]) if gap.size else 0.0
    profit, equity = np.maximum(candidates.profit(), 0.0), candidates.equity()
    a_lot = lot * float(gap[0]) if lot is not None and needed > 0.0 else None
    left, top = profit_left(profit, taken), int(np.argmax(profit)) if profit.size else None
    open_notional = (candidates.quantity - closed) * candidates.mark
    return {
        "policy": policy,
        "touched": int((closed > 0.0).sum()),
        "closed_out": int(((closed >= candidates.quantity) & (closed > 0.0)).sum()),
        "quantity": total(closed),
        "taken": total(taken),
        "overshoot": overshoot(taken, needed),
        "largest_share": largest_share(taken, equity),
        "fairness_regret": fairness_regret(taken, equity, candidates.quantity * gap, total(taken), a_lot),
        "top_winner_left": None if top is None else float(max(profit[top] - taken[top], 0.0)),
        "profit_left": left,
        "ptsr": ptsr(left, total(owed)) if total(owed) > 0.0 else None,
        "pmr": pmr(left, float(owed.max())) if total(owed) > 0.0 else None,
        "largest_leverage": float(np.max(quotient(open_notional, equity - taken), initial=0.0)),
    }
