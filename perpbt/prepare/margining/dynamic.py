"""Margin rates that follow the market: a scale for each epoch, from what was known before it.

In: bars' opening times and mark closes, or open interest, and a `DynamicMargin`. Out: where epochs begin and by what
every tier's rate and deduction is multiplied in them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from perpbt.config import DynamicMargin
from perpbt.prepare.margining.epochs import COLUMNS, Epochs, stacked
from perpbt.prepare.margining.tools import buffered, floored, stressed
from perpbt.prepare.margining.volatility import floor_margin, model_margin, reference_margin

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
HIGHEST_RATE = 0.99  # a rate and the close-out rate stay below 1: a position could otherwise never be safe
CAP, RATE, MAX_LEVERAGE, DEDUCTION = (COLUMNS.index(name) for name in COLUMNS[1:])
FLOOR = COLUMNS.index("floor")


class Scales(NamedTuple):
    """Per epoch: its first bar; the model's margin M and what the tools make of it, fractions of the price, NaN where
    there is none yet; and the scale of the rates. `reference` is the margin at which the scale is 1, NaN if never known.
    """

    since: Integers
    model: Floats
    asked: Floats
    scale: Floats
    reference: float = float("nan")


def boundaries(times: Integers, every: int) -> Integers:
    """The first bars of epochs after the first one: each at or after a whole multiple of `every` ms, none twice."""
    numbers = times // every
    return np.flatnonzero(numbers[1:] > numbers[:-1]) + 1


def volatility_scales(times: Integers, mark_close: Floats, spec: DynamicMargin) -> Scales:
    """Scales by a model of the mark's moves. An epoch's return is that between the last closes before it and before the
    epoch before; where bars are missing epochs are longer.
    """
    starts = boundaries(times, int(spec.every))
    closes = mark_close[starts - 1]
    returns = np.diff(np.log(closes)) if closes.size else np.empty(0)
    model = model_margin(returns, spec)[: starts.size]
    asked = model
    if spec.stressed_weight > 0.0:
        asked = stressed(asked, spec.stressed_weight, spec.stressed)
    if spec.floor:
        asked = floored(asked, floor_margin(returns, spec)[: starts.size])
    if spec.buffer > 0.0:
        asked = buffered(asked, spec.buffer, spec.rising)
    scale = np.ones(starts.size)
    known = np.isfinite(asked)
    reference = reference_margin(returns, spec) if known.any() else float("nan")
    if reference > 0.0:
        scale[known] = np.clip(asked[known] / reference, spec.lowest, spec.highest)
    nothing = np.full(1, np.nan)
    return Scales(
        np.concatenate([np.zeros(1, dtype=np.int64), starts]),
        np.concatenate([nothing, model]),
        np.concatenate([nothing, asked]),
        np.concatenate([np.ones(1), scale]),
        reference,
    )


def interest_share(interest: Floats, lower: float, upper: float) -> Floats:
    """How far open interest is from `lower` to `upper`, within [0, 1]; 0 where it is not known.

    (OI - lower) / (upper - lower), as dYdX v4 scales initial margins (x/perpetuals, liquidity tiers).
    """
    share: Floats = np.clip((interest - lower) / (upper - lower), 0.0, 1.0)
    return np.where(np.isfinite(share), share, 0.0)


def interest_scales(times: Integers, interest: Floats, spec: DynamicMargin) -> Scales:
    """Scales by open interest: 1 up to `lower`, `highest` from `upper` on. `interest` is that known before each bar."""
    since = np.concatenate([np.zeros(1, dtype=np.int64), boundaries(times, int(spec.every))])
    share = interest_share(interest[since], float(spec.lower or 0.0), float(spec.upper or 1.0))
    nothing = np.full(since.size, np.nan)
    return Scales(since, nothing, nothing, 1.0 + share * (spec.highest - 1.0))


def joined(first: Integers, second: Integers) -> tuple[Integers, Integers, Integers]:
    """All first bars of two sequences of epochs, and at each the epoch of either that is in force."""
    since = np.union1d(first, second).astype(np.int64)
    of_first, of_second = (np.searchsorted(one, since, side="right") - 1 for one in (first, second))
    return since, of_first, of_second


def scaled(rows: Floats, scale: float, close_out_rate: float, leverage: bool) -> Floats:
    """One ladder with rates and deductions multiplied; 1 leaves every bit as it is.

    Where a rate would not stay below 1 together with the close-out rate it is held there, with the deduction that keeps the
    schedule continuous.
    """
    found = rows.copy()
    if scale == 1.0:
        return found
    steps = not rows[:, DEDUCTION].any()  # one band, or risk-limit steps
    found[:, RATE] = rows[:, RATE] * scale
    found[:, DEDUCTION] = rows[:, DEDUCTION] * scale
    most = HIGHEST_RATE - close_out_rate
    for k in np.flatnonzero(found[:, RATE] > most):
        found[k, RATE] = most
        if k and not steps:
            rise = found[k, RATE] - found[k - 1, RATE]
            found[k, DEDUCTION] = found[k - 1, DEDUCTION] + found[k, FLOOR] * rise
    if leverage:
        found[:, MAX_LEVERAGE] = rows[:, MAX_LEVERAGE] / scale
    return found


def scaled_epochs(epochs: Epochs, scales: Scales, close_out_rate: float, leverage: bool) -> Epochs:
    """Tiers in time, each scaled by what is in force."""
    since, ladder, scale = joined(epochs.since, scales.since)
    rows = [
        scaled(epochs.ladders[k], float(scales.scale[s]), close_out_rate, leverage)
        for k, s in zip(ladder, scale, strict=True)
    ]
    return Epochs(stacked(rows), since)


def initial_epochs(epochs: Epochs, since: Integers, share: Floats) -> Epochs:
    """Tiers in time with the initial margin risen by a share of what is left to 1: base + share * (1 - base), base = 1 /
    maximum leverage. Maintenance stays (dYdX v4).
    """
    starts, ladder, at = joined(epochs.since, since)
    rows = [epochs.ladders[k].copy() for k in ladder]
    for table, one in zip(rows, share[at], strict=True):
        base = 1.0 / table[:, MAX_LEVERAGE]
        table[:, MAX_LEVERAGE] = np.where(
            one > 0.0, 1.0 / (base + one * (1.0 - base)), table[:, MAX_LEVERAGE]
        )
    return Epochs(stacked(rows), starts)
