"""What a venue's index, mark and funding are made by, as data: `terms.toml`, or values of one's own.

In: a venue's name or keyword arguments. Out: frozen, checked `IndexTerms`, `MarkTerms`, `FundingTerms`. Every
set carries its source and the date it held.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from perpbt.checks import as_float, unknown
from perpbt.errors import InputError

SHIPPED = Path(__file__).parent / "terms.toml"
COMPONENTS = ("index", "fair", "basis_mean", "basis_ema", "last", "last_ema", "others")


@dataclass(frozen=True, kw_only=True)
class _Sourced:
    """What every set of terms has: a name, where it is from and when it held."""

    name: str = "given"
    source: str = "given by the user"
    as_of: date | None = None
    note: str = ""

    def told(self) -> str:
        """Name and parameters, as provenance says them."""
        skipped = {item.name for item in fields(_Sourced)} | {"symbols"}
        values = (
            f"{item.name} = {_shown(getattr(self, item.name))}"
            for item in fields(self)
            if item.name not in skipped and getattr(self, item.name) not in (None, (), {})
        )
        since = f", as of {self.as_of}" if self.as_of else ""
        return f"{self.name} ({', '.join(values)}; {self.source}{since})"

    def _number(self, key: str, allowed: str, low: float, high: float = math.inf) -> None:
        value = as_float(getattr(self, key))
        if value is None or not low <= value <= high or math.isinf(value):
            raise InputError(f"{self.name}: {key} = {getattr(self, key)!r}; allowed: {allowed}")

    def _word(self, key: str, *words: str) -> None:
        if getattr(self, key) not in words:
            raise InputError(f"{self.name}: {key} = {getattr(self, key)!r}; allowed: {', '.join(words)}")


@dataclass(frozen=True, kw_only=True)
class IndexTerms(_Sourced):
    """A composite of several venues' prices.

    kind: weighted "mean" or "median". weights: a venue's weight (1 where it is not named). A source further
    than max_deviation (fraction) from the median of all is dropped (outlier = "drop") or held at that bound
    ("clip"); several_outliers = "median" takes the median itself once more than one is. A source counts
    for stale_seconds after its last bar's close (0: only on bars it has). two_equal: of two live sources each
    counts half.
    """

    kind: str = "mean"
    weights: Mapping[str, float] = field(default_factory=dict)
    max_deviation: float | None = None
    outlier: str = "drop"
    several_outliers: str = "drop"
    stale_seconds: float = 0.0
    two_equal: bool = False

    def __post_init__(self) -> None:
        self._word("kind", "mean", "median")
        self._word("outlier", "drop", "clip")
        self._word("several_outliers", "drop", "median")
        self._number("stale_seconds", "seconds >= 0", 0.0)
        if self.max_deviation is not None:
            self._number("max_deviation", "a fraction in [0, 1]", 0.0, 1.0)
        for venue, weight in self.weights.items():
            value = as_float(weight)
            if value is None or not 0.0 <= value < math.inf:
                raise InputError(f"{self.name}: weights.{venue} = {weight!r}; allowed: a number >= 0")


@dataclass(frozen=True, kw_only=True)
class MarkTerms(_Sourced):
    """The mark as the median of one or more prices.

    components: "index"; "fair" = index * (1 + last rate * time left / interval); "basis_mean" = index + mean
    of last - index over basis_seconds; "basis_ema" = index + its exponential average over ema_seconds; "last";
    "last_ema" = the last price averaged over last_ema_seconds; "others" = other venues' prices, for which
    `instead` stands in on bars that lack them. interval_hours: funding interval until two events are known.
    """

    components: tuple[str, ...] = ("index",)
    basis_seconds: float | None = None
    ema_seconds: float | None = None
    last_ema_seconds: float | None = None
    instead: str | None = None
    interval_hours: float = 8.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", tuple(self.components))
        if not self.components:
            raise InputError(f"{self.name}: components is empty; allowed: {', '.join(COMPONENTS)}")
        self._number("interval_hours", "hours > 0", 1e-6)
        for word in (*self.components, *([self.instead] if self.instead else [])):
            if word not in COMPONENTS:
                raise InputError(unknown(f"{self.name}: components: {word!r}", word, COMPONENTS, "component"))
            needed = {
                "basis_mean": "basis_seconds",
                "basis_ema": "ema_seconds",
                "last_ema": "last_ema_seconds",
            }
            if word in needed:
                self._number(needed[word], "seconds > 0", 1e-6)


@dataclass(frozen=True, kw_only=True)
class FundingTerms(_Sourced):
    """A funding rate from the premium P, the interest I and a band d, all per base_hours.

    rule: "clamped": P + clamp(I - P, -d, d); "sum": P + I; "dead_band": max(d, P) + min(-d, P). scaling: the
    "rate" goes with interval_hours / base_hours, or only the "interest" does. cap and floor (-cap if not
    given) bound the rate of an "interval", or that of the "base" before scaling (cap_on). Events are due at
    offset_hours and every interval_hours from there, counted from midnight UTC; interval_hours None accrues
    continuously, which is an event a sample. changes: (from when, hours) for intervals that change in time: the
    first event under new hours is the first of their multiples after that moment. P is the mean over the
    interval of premiums, or of prices (average) in which later ones weigh more ("rising") or not ("equal");
    premium_from: the "last" or "mark" close against the index. charged_on: notional at "mark" or "index".
    symbols: other values of any of these for one symbol.
    """

    rule: str = "clamped"
    interest: float = 0.0
    band: float = 0.0
    base_hours: float = 8.0
    interval_hours: float | None = 8.0
    offset_hours: float = 0.0
    changes: tuple[tuple[datetime, float], ...] = ()
    scaling: str = "rate"
    cap: float | None = None
    floor: float | None = None
    cap_on: str = "interval"
    weights: str = "equal"
    average: str = "premiums"
    premium_from: str = "last"
    charged_on: str = "mark"
    symbols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._word("rule", "clamped", "sum", "dead_band")
        self._word("scaling", "rate", "interest")
        self._word("cap_on", "interval", "base")
        self._word("weights", "equal", "rising")
        self._word("average", "premiums", "prices")
        self._word("premium_from", "last", "mark")
        self._word("charged_on", "mark", "index")
        self._number("interest", "a rate in (-1, 1)", -1.0, 1.0)
        self._number("band", "a rate in [0, 1]", 0.0, 1.0)
        self._number("base_hours", "hours > 0", 1e-6)
        self._number("offset_hours", "hours >= 0", 0.0)
        if self.cap is not None:
            self._number("cap", "a rate in [0, 1]", 0.0, 1.0)
        if self.floor is not None:
            self._number(
                "floor", "a rate in [-1, 1], at most cap", -1.0, 1.0 if self.cap is None else self.cap
            )
        if self.interval_hours is not None:
            self._number("interval_hours", "hours > 0, or None for continuous", 1e-6)
        object.__setattr__(self, "changes", self._in_order(self.changes))

    def _in_order(self, changes: Any) -> tuple[tuple[datetime, float], ...]:
        if changes and self.interval_hours is None:
            raise InputError(
                f"{self.name}: changes with interval_hours = None; allowed: hours to change from"
            )
        read: list[tuple[datetime, float]] = []
        for since, hours in changes:
            value = as_float(hours)
            if not isinstance(since, datetime) or value is None or not 0 < value < math.inf:
                raise InputError(
                    f"{self.name}: changes: ({since!r}, {hours!r}); allowed: a datetime and hours > 0"
                )
            moment = since.replace(tzinfo=UTC) if since.tzinfo is None else since.astimezone(UTC)
            if read and moment <= read[-1][0]:
                raise InputError(
                    f"{self.name}: changes: {moment} is not after {read[-1][0]}; allowed: rising"
                )
            read.append((moment, value))
        return tuple(read)

    def of(self, symbol: str) -> FundingTerms:
        """The terms of one symbol."""
        own = self.symbols.get(symbol, {})
        known = {item.name for item in fields(self)} - {"symbols"}
        for key in own:
            if key not in known:
                raise InputError(unknown(f"{self.name}: symbols.{symbol}.{key}", key, known))
        return replace(self, **own, symbols={})


Terms = TypeVar("Terms", IndexTerms, MarkTerms, FundingTerms)
_SECTIONS = {IndexTerms: "index", MarkTerms: "mark", FundingTerms: "funding"}


@cache
def _shipped() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads(SHIPPED.read_text(encoding="utf-8"))


def list_terms(kind: type[Terms]) -> list[str]:
    """Names of the venues whose terms of a kind are shipped."""
    return sorted(name for name, sections in _shipped().items() if _SECTIONS[kind] in sections)


def load_terms(kind: type[Terms], given: str | Terms) -> Terms:
    """The shipped terms of a venue by name; terms given as values pass through. Raises `InputError`."""
    if isinstance(given, kind):
        return given
    section = _SECTIONS[kind]
    if not isinstance(given, str):
        raise InputError(
            f"{section} = {given!r} is of type {type(given).__name__}; allowed: a venue's name, or {kind.__name__}"
        )
    if given not in list_terms(kind):
        raise InputError(unknown(f"{section} = {given!r}", given, list_terms(kind), "venue"))
    values = dict(_shipped()[given][section])
    if values.get("interval_hours") == "continuous":  # TOML has no null
        values["interval_hours"] = None
    return kind(name=given, **values)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(one)}" for key, one in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_shown(one) for one in value) + "]"
    return str(value)
