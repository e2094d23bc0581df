"""Maintenance-margin brackets of one symbol: the tax-bracket schedule that venues publish.

In: rows of `floor, cap, rate, max_leverage[, deduction]`, notional in quote currency. Out: a checked tuple of
`Tier`. Knows nothing of files or venues; `perpbt.venue` says where a table came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from perpbt.checks import as_float

DEDUCTION_TOLERANCE = 1e-6
"""How far a published deduction may be from the recursion: absolute below 1, relative above."""


class Tier(NamedTuple):
    """One bracket: it holds a notional N when floor < N <= cap.

    `floor`, `cap` and `deduction` are in quote currency, `rate` is the maintenance margin as a fraction of
    notional, `max_leverage` the highest leverage allowed when a position of that notional is opened.
    """

    floor: float
    cap: float
    rate: float
    max_leverage: float
    deduction: float


def ladder(rows: object) -> tuple[Tier, ...]:
    """Check a table of brackets and complete its deductions.

    `rows` is a non-empty sequence of `Tier` or of numbers `floor, cap, rate, max_leverage[, deduction]`. A
    deduction left out is cum_k = cum_{k-1} + floor_k * (rate_k - rate_{k-1}), cum_1 = 0, which makes
    N * rate - cum continuous (Binance USD-M and Bybit publish the same recursion). One given is checked
    against it to `DEDUCTION_TOLERANCE` and then used as given.

    Raises ValueError with one line per fault, each naming the bracket, the value and what is allowed.
    """
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise ValueError(f"brackets = {rows!r}: must be a non-empty list of [floor, cap, rate, max_leverage]")
    faults = [fault for index, row in enumerate(rows) if (fault := _row_fault(index, row))]
    if faults:  # a row that is not five numbers cannot be compared with its neighbours
        raise ValueError("\n".join(faults))
    tiers: list[Tier] = []
    for index, row in enumerate(rows):
        tier, found = _complete(index, [float(value) for value in row], tiers[-1] if tiers else None)
        tiers.append(tier)
        faults += found
    if faults:
        raise ValueError("\n".join(faults))
    return tuple(tiers)


def maintenance(tiers: Sequence[Tier], notional: float) -> float:
    """max over k of (notional * rate_k - deduction_k): the tier that holds `notional`, by convexity."""
    return max(notional * tier.rate - tier.deduction for tier in tiers)


def table(tiers: Sequence[Tier]) -> list[str]:
    """The brackets as aligned lines of text, a header first."""
    head = ("notional above", "up to", "maintenance rate", "maximum leverage", "deduction")
    body = [
        (
            f"{t.floor:,.10g}",
            f"{t.cap:,.10g}",
            f"{t.rate:.4%}",
            f"{t.max_leverage:g}x",
            f"{t.deduction:,.10g}",
        )
        for t in tiers
    ]
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *body)
    ]


def _row_fault(index: int, row: Any) -> str | None:
    """What keeps a row from being read as four or five finite numbers, if anything."""
    where = f"brackets[{index}]"
    if not isinstance(row, Sequence) or isinstance(row, str) or len(row) not in (4, 5):
        return f"{where} = {row!r}: must be [floor, cap, rate, max_leverage] and optionally a deduction"
    for name, value in zip(Tier._fields, row, strict=False):
        real = as_float(value)
        if real is None or not math.isfinite(real):
            return f"{where}.{name} = {value!r}: must be a finite number"
    return None


def _complete(index: int, row: list[float], before: Tier | None) -> tuple[Tier, list[str]]:
    """The tier of one row of numbers, given the tier below it, and the rules it breaks."""
    floor, cap, rate, max_leverage = row[:4]
    expected = before.deduction + floor * (rate - before.rate) if before else 0.0
    deduction = row[4] if len(row) == 5 else expected
    rules = [
        (
            "floor",
            floor,
            floor == (before.cap if before else 0.0),
            f"{before.cap:g}, the cap below" if before else "0",
        ),
        ("cap", cap, cap > floor, f"above its floor {floor:g}"),
        ("rate", rate, 0.0 < rate < 1.0, "in (0, 1)"),
        ("max_leverage", max_leverage, max_leverage > 0.0, "above 0"),
        (
            "deduction",
            deduction,
            abs(deduction - expected) <= DEDUCTION_TOLERANCE * max(1.0, abs(expected)),
            f"{expected:.12g} = deduction below + floor * (rate - rate below), to {DEDUCTION_TOLERANCE:g}",
        ),
    ]
    if before:
        rules += [
            (
                "rate",
                rate,
                rate >= before.rate,
                f"at least {before.rate:g}, the rate below (rates do not fall)",
            ),
            (
                "max_leverage",
                max_leverage,
                max_leverage <= before.max_leverage,
                f"at most {before.max_leverage:g}, the one below (leverage does not rise)",
            ),
        ]
    faults = [
        f"brackets[{index}].{name} = {value:.12g}: must be {rule}"
        for name, value, ok, rule in rules
        if not ok
    ]
    return Tier(floor, cap, rate, max_leverage, deduction), faults
