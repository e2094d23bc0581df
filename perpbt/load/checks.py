"""The rules a bar and a funding event must keep, as vectorised expressions, and the sentence that tells a
break of one.

In: a canonical frame in file order, whole or window by window. Out: nothing, or an `InputError` naming file, row, column, value and what
is allowed. All rules are tested in one pass; the place is looked up only when one is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl

from perpbt.errors import InputError
from perpbt.load.columns import INDEX, MARK, PRICES, TIMES_ALLOWED, stamp

Place = Callable[[int, str], tuple[str, int, object]]
"""(position in the frame, canonical column) -> (file, row in it, value as the file has it)."""


class Rule(NamedTuple):
    """`broken` is true on rows that break it; `shown` are the columns whose values are told; `problem` says
    what is wrong.
    """

    column: str
    broken: pl.Expr
    shown: tuple[str, ...]
    problem: str
    allowed: str


def bar_rules(columns: Collection[str]) -> list[Rule]:
    """MODEL: distinct sorted times; each price series whole or absent on a row, finite, positive, low and
    high outside the body.
    """
    rules = _time_rules()
    for series in (PRICES, MARK, INDEX):
        if series[0] in columns:
            rules += _price_rules(series)
    if "volume" in columns:
        volume = pl.col("volume")
        allowed = "finite and >= 0"
        rules.append(Rule("volume", ~volume.is_finite(), ("volume",), "is not finite", allowed))
        rules.append(Rule("volume", volume < 0, ("volume",), "is negative", allowed))
    if "funding_rate" in columns:
        rules.append(_rate_rule())
    return rules


def funding_rules() -> list[Rule]:
    """The rules of a separate funding table, in which every row is an event."""
    rate = pl.col("funding_rate")
    null = Rule("funding_rate", rate.is_null(), ("funding_rate",), "is null", "a rate on every row")
    return [*_time_rules(), null, _rate_rule()]


def snapped_rules() -> list[Rule]:
    """The rule on the snapped times of funding events (`ts`; `stamp` is the time as given)."""
    ts = pl.col("ts")
    return [
        Rule(
            "ts",
            ts == ts.shift(1),
            ("stamp",),
            "is the same funding event as the one before, once both are snapped to a whole minute",
            "one event a time",
        )
    ]


def _time_rules() -> list[Rule]:
    ts = pl.col("ts")
    return [
        Rule("ts", ts.is_null(), ("ts",), "is not a time", TIMES_ALLOWED),
        Rule(
            "ts",
            ts == ts.shift(1),
            ("ts",),
            "repeats the row before of this symbol",
            "each time once a symbol",
        ),
        Rule(
            "ts",
            ts < ts.shift(1),
            ("ts",),
            "is earlier than {before}, the row before of this symbol",
            "rising times, one series a symbol",
        ),
    ]


def _price_rules(series: tuple[str, ...]) -> list[Rule]:
    first, high, low, last = series
    nulls = pl.sum_horizontal(pl.col(name).is_null() for name in series)
    lesser, greater = pl.min_horizontal(first, last), pl.max_horizontal(first, last)
    allowed = "finite and > 0"
    return [
        *(
            Rule(
                name,
                pl.col(name).is_null() & (nulls < len(series)),
                series,
                f"{name} is null beside prices",
                "all four or none of them null",
            )
            for name in series
        ),
        *(Rule(name, ~pl.col(name).is_finite(), (name,), "is not finite", allowed) for name in series),
        *(Rule(name, pl.col(name) <= 0, (name,), "is not positive", allowed) for name in series),
        Rule(
            low,
            pl.col(low) > lesser,
            (low, first, last),
            f"{low} is above the lesser of {first} and {last}",
            f"{low} <= min({first}, {last})",
        ),
        Rule(
            high,
            pl.col(high) < greater,
            (high, first, last),
            f"{high} is below the greater of {first} and {last}",
            f"{high} >= max({first}, {last})",
        ),
    ]


def _rate_rule() -> Rule:
    rate = pl.col("funding_rate")
    broken = ~rate.is_finite() | (rate.abs() >= 1)
    return Rule(
        "funding_rate",
        broken,
        ("funding_rate",),
        "is not a rate",
        "finite, between -1 and 1 (0.0001 is 0.01 %)",
    )


@dataclass
class Broken:
    """How often a rule is broken, and its first break: the row's number and values, and the time of the row before."""

    rows: int
    position: int
    values: dict[str, Any]
    before: datetime | None


class Faults:
    """Breaks of rules, met table after table of one series."""

    def __init__(self, rules: list[Rule]) -> None:
        self.rules = rules
        self._broken: dict[int, Broken] = {}
        self._rows = 0

    def __bool__(self) -> bool:
        return bool(self._broken)

    def meet(self, table: pl.DataFrame, known: int = 0) -> None:
        """Test the rows of `table`, of which the first `known` were the last ones of the table before."""
        hits = table.select(rule.broken.slice(known).any().alias(str(i)) for i, rule in enumerate(self.rules))
        for i in (i for i, hit in enumerate(hits.row(0)) if hit):
            rows = table.select(self.rules[i].broken.fill_null(False).slice(known).arg_true()).to_series()
            at = int(rows[0]) + known
            values, before = table.row(at, named=True), table["ts"][max(at - 1, 0)]
            found = self._broken.setdefault(i, Broken(0, self._rows + at - known, values, before))
            found.rows += len(rows)
        self._rows += table.height - known

    def tell(self, symbol: str, place: Place) -> None:
        """Raise `InputError` for the first rule that a row breaks, at the first such row."""
        if not self._broken:
            return
        number = min(self._broken)
        rule, found = self.rules[number], self._broken[number]
        file, row, as_found = place(found.position, rule.column)
        values = found.values
        shown = ", ".join(f"{name} = {_show(values[name])}" for name in rule.shown)
        if rule.column == "ts" and values["ts"] is None:
            shown = f"ts = {as_found!r}"
        joint = ": " if len(rule.shown) > 1 else " "
        problem = rule.problem.replace("{before}", stamp(found.before))
        at = f", {stamp(values['ts'])} UTC" if values["ts"] is not None else ""
        more = f" ({found.rows:,} rows of {symbol} break this rule)" if found.rows > 1 else ""
        place_told = f"{file}: row {row}, column {rule.column!r} ({symbol}{at})"
        raise InputError(f"{place_told}: {shown}{joint}{problem}; allowed: {rule.allowed}{more}")


def check(table: pl.DataFrame, rules: list[Rule], symbol: str, place: Place) -> None:
    """Raise `InputError` for the first rule that a row of `table` breaks, at the first such row."""
    faults = Faults(rules)
    faults.meet(table)
    faults.tell(symbol, place)


def _show(value: object) -> str:
    return stamp(value) if isinstance(value, datetime) else "null" if value is None else repr(value)
