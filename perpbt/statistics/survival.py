"""Survival until liquidation, by the product-limit estimator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perpbt.errors import InputError
from perpbt.statistics.common import HELD, IS_LIQUIDATED, names, opened


def survival(
    accounts: pl.DataFrame, by: str | Sequence[str] = "leverage", *, points: int = 400
) -> pl.DataFrame:
    """Kaplan-Meier curve of the time from entry to liquidation, per group of `by`.

    Every other exit (stop, target, signal, time, end of data) censors: the curve answers how long a position
    lasts against liquidation alone, as if those exits told nothing about it. A stop does tell something, so
    read curves of policies with stops as descriptive. Each position counts once, not weighted. At equal times
    liquidations come before censoring.

    Columns: `by`, `time` (Duration since entry), `survival` (fraction), `standard_error` (Greenwood, null
    where nobody is left; over positions as if independent, which positions on one price path are not),
    `at_risk`, `liquidated` (both at that time). Each curve starts at time 0 and survival 1 and ends at the
    longest holding time; of more than `points` steps an even choice is kept, each with its exact value.
    Rejected rows are left out; a group without positions has no curve.

    Source: E. L. Kaplan and P. Meier (1958), JASA 53; M. Greenwood (1926).
    """
    if points < 3:
        raise InputError(f"points is {points}; it has to be at least 3: a start, a step and an end")
    columns = names(by, accounts)
    rows = opened(accounts).select(*columns, time=HELD.dt.total_milliseconds(), event=IS_LIQUIDATED)
    curves = [
        _curve(group["time"].to_numpy(), group["event"].to_numpy(), points).select(
            *(
                pl.lit(value, dtype=rows.schema[column]).alias(column)
                for column, value in zip(columns, key, strict=True)
            ),
            pl.all(),
        )
        for key, group in rows.sort(columns).group_by(columns, maintain_order=True)
    ]
    return (
        pl.concat(curves) if curves else rows.select(columns).clear().hstack(_curve(*_NOBODY, points).clear())
    )


_NOBODY = (np.zeros(1, np.int64), np.zeros(1, np.bool_))


def _curve(time: NDArray[np.int64], event: NDArray[np.bool_], points: int) -> pl.DataFrame:
    """One curve; `time` in milliseconds, `event` true at a liquidation, both of shape (positions,)."""
    moments, place = np.unique(time, return_inverse=True)
    leaving = np.bincount(place, minlength=moments.size)
    died = np.bincount(place, weights=event, minlength=moments.size).astype(np.int64)
    at_risk = time.size - np.concatenate(([0], np.cumsum(leaving)[:-1]))
    curve = np.cumprod(1.0 - died / at_risk)
    left = at_risk - died
    with np.errstate(divide="ignore", invalid="ignore"):
        error = curve * np.sqrt(np.cumsum(died / (at_risk * left.astype(np.float64))))
    steps = np.flatnonzero(died)
    if steps.size > points - 2:
        steps = steps[np.linspace(0, steps.size - 1, points - 2).round().astype(np.int64)]
    kept = np.union1d(steps, [moments.size - 1])
    return pl.DataFrame(
        {
            "time": pl.Series(np.concatenate(([0], moments[kept]))).cast(pl.Duration("ms")),
            "survival": np.concatenate(([1.0], curve[kept])),
            "standard_error": pl.Series(np.concatenate(([0.0], error[kept]))).fill_nan(None),
            "at_risk": np.concatenate(([time.size], at_risk[kept])),
            "liquidated": np.concatenate(([0], died[kept])),
        }
    )
