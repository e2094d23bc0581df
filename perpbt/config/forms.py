"""The forms a policy's fields take: where a stop stands, how to size, what a margin call does, re-entry.

Each form is a small frozen table with a `label` as results show it. A bare number is a fraction of the price.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from perpbt.config.fields import Duration, Range, Spec, fault

Trigger: TypeAlias = Literal["last", "mark"]
Positive: TypeAlias = Annotated[float, Range(above=0)]
Share: TypeAlias = Annotated[float, Range(above=0, most=1)]
Inner: TypeAlias = Annotated[float, Range(above=0, below=1)]
Name: TypeAlias = Annotated[str, Field(min_length=1)]
Rate: TypeAlias = Annotated[float, Range(least=0, below=1)]
Part: TypeAlias = Annotated[float, Range(least=0, most=1)]
Money: TypeAlias = Annotated[float, Range(least=0)]


def percent(fraction: float) -> str:
    """A fraction as people write it: 0.02 is "2%"."""
    return f"{100 * fraction:.10g}%"


def tagged(key: str | None, forms: Mapping[str, type[Spec]], message: str) -> Discriminator:
    """Choose a form by the value of `key`, or, without one, by which of the forms' own keys the table has."""

    def choose(value: Any) -> str | None:
        if isinstance(value, Spec):
            return next((tag for tag, form in forms.items() if isinstance(value, form)), None)
        if not isinstance(value, Mapping):
            return None
        found = value.get(key) if key else next((tag[1:-1] for tag in forms if tag[1:-1] in value), None)
        return f"<{found}>" if f"<{found}>" in forms else None

    return Discriminator(choose, custom_error_type="form", custom_error_message=message)


class PriceDistance(Spec):
    """A distance from the entry price as a fraction of it."""

    kind: ClassVar[str] = "price"
    price: Positive

    @property
    def value(self) -> float | None:
        return self.price

    @property
    def label(self) -> str:
        return percent(self.price)


class MarginDistance(Spec):
    """A fraction x of the margin: x / leverage of the entry price."""

    kind: ClassVar[str] = "margin"
    margin: Positive

    @property
    def value(self) -> float | None:
        return self.margin

    @property
    def label(self) -> str:
        return f"{percent(self.margin)} of margin"


class AtrDistance(Spec):
    """A multiple of the average true range over `window` bars, as it stands when the entry is decided."""

    kind: ClassVar[str] = "atr"
    atr: Positive
    window: Annotated[int, Range(least=1, most=10_000)] = 14

    @property
    def value(self) -> float | None:
        return self.atr

    @property
    def label(self) -> str:
        return f"{self.atr:.10g} ATR({self.window})"


class ColumnLevel(Spec):
    """An absolute price: the value of a column of the strategy, or of a price column of the bars, when the entry is decided."""

    kind: ClassVar[str] = "column"
    column: Annotated[str, Field(min_length=1)]

    @property
    def value(self) -> float | None:
        return None

    @property
    def label(self) -> str:
        return f"column {self.column}"


def _as_table(value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {"price": value} if number or hasattr(value, "item") else value


_LEVELS = {
    "<price>": PriceDistance,
    "<margin>": MarginDistance,
    "<atr>": AtrDistance,
    "<column>": ColumnLevel,
}
_Table: TypeAlias = PriceDistance | MarginDistance | AtrDistance | ColumnLevel
Level: TypeAlias = Annotated[
    Annotated[PriceDistance, Tag("<price>")]
    | Annotated[MarginDistance, Tag("<margin>")]
    | Annotated[AtrDistance, Tag("<atr>")]
    | Annotated[ColumnLevel, Tag("<column>")],
    tagged(
        None,
        _LEVELS,
        'must be "none", a number (a fraction of the price), {margin = x}, {atr = k, window = n} '
        'or {column = "name"}',
    ),
    BeforeValidator(_as_table, json_schema_input_type=float | _Table),
]


def below_entry(level: Any) -> Any:
    """A stop-loss must leave a price above 0."""
    if isinstance(level, PriceDistance) and level.price >= 1:
        raise fault("must be a number above 0 and below 1: a long's stop would stand at or under 0")
    return level


class CollateralSizing(Spec):
    """`amount` of quote money behind every position, or the wallet if it holds less."""

    kind: Literal["collateral"]
    amount: Positive

    @property
    def label(self) -> str:
        return f"collateral {self.amount:.10g}"


class EquitySizing(Spec):
    """`fraction` of the wallet behind every position."""

    kind: Literal["equity"] = "equity"
    fraction: Share = 1.0

    @property
    def label(self) -> str:
        return f"equity {percent(self.fraction)}"


class RiskSizing(Spec):
    """The notional that loses `fraction` of the wallet when the stop is hit at its level."""

    kind: Literal["risk"]
    fraction: Share

    @property
    def label(self) -> str:
        return f"risk {percent(self.fraction)}"


_SIZINGS = {"<collateral>": CollateralSizing, "<equity>": EquitySizing, "<risk>": RiskSizing}
Sizing: TypeAlias = Annotated[
    Annotated[CollateralSizing, Tag("<collateral>")]
    | Annotated[EquitySizing, Tag("<equity>")]
    | Annotated[RiskSizing, Tag("<risk>")],
    tagged(
        "kind",
        _SIZINGS,
        'must be {kind = "collateral", amount = money}, {kind = "equity", fraction = x} '
        'or {kind = "risk", fraction = x}',
    ),
]


class TopUp(Spec):
    """Maintenance / equity at `threshold` or more at a close: add margin from the wallet down to `target`."""

    action: Literal["top_up"]
    threshold: Inner
    target: Inner
    max_calls: Annotated[int, Range(least=1, most=100)] = 1

    @property
    def label(self) -> str:
        return f"top_up {percent(self.threshold)} to {percent(self.target)} x{self.max_calls}"

    @model_validator(mode="after")
    def _target_is_safer(self) -> TopUp:
        if self.target >= self.threshold:
            raise fault(f"target = {self.target:g} must be below threshold = {self.threshold:g}")
        return self


class Deleverage(Spec):
    """Maintenance / equity at `threshold` or more at a close: close `fraction` of it at the next open."""

    action: Literal["deleverage"]
    threshold: Inner
    fraction: Inner
    max_calls: Annotated[int, Range(least=1, most=100)] = 1

    @property
    def label(self) -> str:
        return f"deleverage {percent(self.fraction)} at {percent(self.threshold)} x{self.max_calls}"


_CALLS = {"<top_up>": TopUp, "<deleverage>": Deleverage}
MarginCall: TypeAlias = Annotated[
    Annotated[TopUp, Tag("<top_up>")] | Annotated[Deleverage, Tag("<deleverage>")],
    tagged(
        "action",
        _CALLS,
        'must be "none", {action = "top_up", threshold, target, max_calls} or '
        '{action = "deleverage", threshold, fraction, max_calls}',
    ),
]


class Reentry(Spec):
    """What follows a stop or a liquidation: another entry after `cool_down`, or out for good."""

    after_stop: Literal["allowed", "never"] = "allowed"
    after_liquidation: Literal["allowed", "never"] = "allowed"
    cool_down: Duration = Duration(0)

    @property
    def label(self) -> str:
        return f"stop {self.after_stop}, liquidation {self.after_liquidation}, cool_down {self.cool_down}"


def some_time(value: Duration) -> Duration:
    """A span must have a length."""
    if value == 0:
        raise fault("must be longer than 0s")
    return value


Span: TypeAlias = Annotated[Duration, AfterValidator(some_time)]
