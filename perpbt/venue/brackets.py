"""Maintenance-margin brackets of one symbol: the tax-bracket schedule that venues publish.

In: rows of `floor, cap, rate, max_leverage[, deduction]`, or of `cap, max_leverage`, notional in quote currency.
Out: a checked tuple of `Tier`; for tables that follow one another in time, a tuple of `Dated`. Knows nothing of files or venues; `perpbt.venue` says where a table came from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any, NamedTuple, cast

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
    against it to `DEDUCTION_TOLERANCE` and then used as given. A row of two numbers is `cap, max_leverage`: its
    floor is the cap below, its rate half the initial margin at the maximum leverage, 1 / (2 * max_leverage)
    (Hyperliquid).

    Raises ValueError with one line per fault, each naming the bracket, the value and what is allowed.
    """
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise ValueError(f"brackets = {rows!r}: must be a non-empty list of [floor, cap, rate, max_leverage]")
    faults = [fault for index, row in enumerate(rows) if (fault := _row_fault(index, row))]
    if faults:  # a row that is not five numbers cannot be compared with its neighbours
        raise ValueError("\n".join(faults))
    tiers: list[Tier] = []
    for index, row in enumerate(rows):
        below = tiers[-1] if tiers else None
        numbers = [float(value) for value in row]
        if len(numbers) == 2:
            numbers = _from_leverage(numbers[0], numbers[1], below)
        tier, found = _complete(index, numbers, below)
        tiers.append(tier)
        faults += found
    if faults:
        raise ValueError("\n".join(faults))
    return tuple(tiers)


def maintenance(tiers: Sequence[Tier], notional: float) -> float:
    """max over k of (notional * rate_k - deduction_k): the tier that holds `notional`, by convexity."""
    return max(notional * tier.rate - tier.deduction for tier in tiers)


def table(tiers: Sequence[Tier], *, whole: bool = False) -> list[str]:
    """The brackets as aligned lines of text, a header first; without deductions where a rate holds for the whole position."""
    head = ("notional above", "up to", "maintenance rate", "maximum leverage", "deduction")
    columns = len(head) - whole
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
    rows = [row[:columns] for row in (head, *body)]
    widths = [max(len(row[column]) for row in rows) for column in range(columns)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _row_fault(index: int, row: Any) -> str | None:
    """What keeps a row from being read as four or five finite numbers, if anything."""
    where = f"brackets[{index}]"
    if not isinstance(row, Sequence) or isinstance(row, str) or len(row) not in (2, 4, 5):
        forms = "[floor, cap, rate, max_leverage] and optionally a deduction, or [cap, max_leverage]"
        return f"{where} = {row!r}: must be {forms}"
    for name, value in zip(("cap", "max_leverage") if len(row) == 2 else Tier._fields, row, strict=False):
        real = as_float(value)
        if real is None or not math.isfinite(real):
            return f"{where}.{name} = {value!r}: must be a finite number"
    return None


def _from_leverage(cap: float, max_leverage: float, below: Tier | None) -> list[float]:
    """A whole row from the highest leverage up to `cap`; a leverage that is none is left for the checks to refuse."""
    rate = 1.0 / (2.0 * max_leverage) if max_leverage > 0.0 else math.nan
    return [below.cap if below else 0.0, cap, rate, max_leverage]


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


class Dated(NamedTuple):
    """Brackets and the moment (UTC) from which they hold; None: from ever."""

    since: datetime | None
    tiers: tuple[Tier, ...]


def moment(value: object) -> datetime:
    """A date or datetime, or the ISO text of one, as a moment in UTC. Raises ValueError for anything else."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if isinstance(found, datetime):
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    if isinstance(found, date):
        return datetime(found.year, found.month, found.day, tzinfo=UTC)
    raise ValueError(f"from = {value!r}: must be a date")


def dated_ladders(sets: Iterable[tuple[object, object]]) -> tuple[Dated, ...]:
    """Brackets each with the moment they begin to hold, checked and in order. Raises ValueError, a line a fault."""
    found: list[Dated] = []
    lines: list[str] = []
    for index, (since, rows) in enumerate(sets):
        try:
            known = isinstance(rows, tuple) and all(isinstance(row, Tier) for row in rows)
            found.append(Dated(moment(since), cast(tuple[Tier, ...], rows) if known else ladder(rows)))
        except ValueError as error:
            lines += [f"[{index}].{line}" for line in str(error).splitlines()]
    found.sort(key=lambda one: str(one.since))
    twice = [one.since for one, other in pairwise(found) if one.since == other.since]
    lines += [f"from = {since}: stands twice" for since in twice]
    if lines or not found:
        raise ValueError("\n".join(lines or ["brackets: missing"]))
    return tuple(found)
