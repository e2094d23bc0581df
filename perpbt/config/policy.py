"""Policies: how an account sizes, protects, tops up and re-enters; and grids of alternatives of them.

In: a table in which any field may be a list of alternatives. Out: a frozen `Policy` for each combination,
with a label that names what varies. Fractions are plain numbers (0.02 is 2 %), durations text such as "3d".
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, PrivateAttr, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo

from perpbt.config.fields import Listed, OrNone, Range, Spec, Truth, fault, input_error, shown
from perpbt.config.forms import (
    CollateralSizing,
    EquitySizing,
    Inner,
    Level,
    MarginCall,
    MarginDistance,
    Positive,
    Reentry,
    RiskSizing,
    Sizing,
    Span,
    TopUp,
    Trigger,
    below_entry,
    percent,
)
from perpbt.errors import InputError


class Policy(Spec):
    """One way to trade a strategy's signals. Money in quote currency; fractions as numbers; durations in ms.

    `label` is filled by whoever puts policies side by side (`PolicyGrid.expand`, `as_policies`).
    """

    leverage: Positive = 1.0
    margin_buffer: Annotated[float, Range(least=0)] = 0.0
    capital: Positive = 10_000.0
    compounding: Truth = False
    sizing: Sizing = EquitySizing()
    stop_loss: Annotated[Annotated[Level, AfterValidator(below_entry)] | None, OrNone()] = None
    take_profit: Annotated[Level | None, OrNone()] = None
    trailing_stop: Annotated[Inner | None, OrNone()] = None
    stop_trigger: Trigger = "last"
    trailing_trigger: Annotated[Trigger | None, OrNone()] = None
    take_profit_trigger: Trigger = "last"
    max_holding: Annotated[Span | None, OrNone()] = None
    max_trades: Annotated[Annotated[int, Range(least=1)] | None, OrNone()] = None
    margin_call: Annotated[MarginCall | None, OrNone()] = None
    reentry: Reentry = Reentry()
    label: str = ""

    @model_validator(mode="before")
    @classmethod
    def _trailing_follows_stop(cls, data: Any) -> Any:
        """`trailing_trigger` left out means that of the stop, so it is never None in a policy."""
        if isinstance(data, Mapping) and data.get("trailing_trigger") in (None, "none"):
            return {**data, "trailing_trigger": data.get("stop_trigger", "last")}
        return data

    @model_validator(mode="after")
    def _parts_fit(self) -> Policy:
        name = f"policy {self.label!r}: " if self.label else ""
        stop, sizing = self.stop_loss, self.sizing
        if isinstance(sizing, RiskSizing) and stop is None:
            raise fault(f'{name}sizing = "risk" needs a stop_loss to measure the risk by')
        if isinstance(stop, MarginDistance) and stop.margin >= self.leverage:
            raise fault(
                f"{name}stop_loss.margin = {stop.margin:g} must be below leverage = {self.leverage:g}: "
                "a long's stop would stand at or under a price of 0"
            )
        whole = (isinstance(sizing, EquitySizing) and sizing.fraction == 1) or (
            isinstance(sizing, CollateralSizing) and not self.compounding and sizing.amount >= self.capital
        )
        if isinstance(self.margin_call, TopUp) and whole:
            raise fault(
                f"{name}margin_call.action = 'top_up' with sizing = {sizing.label!r} leaves nothing in the "
                f"wallet of {self.capital:g} to top up with; size with less of it"
            )
        return self

    def row(self) -> dict[str, str | float | bool | None]:
        """A row of a table of policies: numbers as they are (absent None), all else as text (absent "none").

        `stop_value` is the fraction or the multiple of ATR, None without a stop and for a column.
        """
        texts = {
            name: value if name in _NUMBERS else _field_text(name, value)
            for name, value in self
            if name not in ("label", "stop_loss")
        }
        stop = self.stop_loss
        return {
            "policy": self.label,
            **texts,
            "stop": _field_text("stop_loss", stop),
            "stop_kind": stop.kind if stop else "none",
            "stop_value": stop.value if stop else None,
        }


_NUMBERS = {"leverage", "margin_buffer", "capital", "compounding", "trailing_stop", "max_trades"}


def _field_text(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return percent(value) if name in ("margin_buffer", "trailing_stop") else f"{value:.10g}"
    return str(getattr(value, "label", value))


def labelled(policies: Iterable[Policy]) -> list[Policy]:
    """The same policies; those without a label get one that names the fields in which they differ, or "base".

    Raises `InputError` when two policies or two labels are the same.
    """
    given = list(policies)
    names = [name for name in Policy.model_fields if name != "label"]
    varying = [name for name in names if len({_field_text(name, getattr(p, name)) for p in given}) > 1]
    out = []
    for policy in given:
        text = " ".join(f"{name}={_field_text(name, getattr(policy, name))}" for name in varying)
        out.append(policy if policy.label else policy.model_copy(update={"label": text or "base"}))
    twice = [label for label, count in Counter(policy.label for policy in out).items() if count > 1]
    if twice:
        raise InputError(f"policies: {twice[0]!r} occurs more than once; every policy of a run must differ")
    return out


class _Grid(Spec):
    """Any field of `Policy` as one value or a list of alternatives.

    `expand()` gives their cartesian product. Fields vary in the order written, the first slowest.
    """

    _policies: tuple[Policy, ...] = PrivateAttr(default=())

    @model_validator(mode="wrap")
    @classmethod
    def _expand_once(cls, data: Any, handler: Callable[[Any], Any]) -> Any:
        grid = handler(data)
        written = [name for name in data if name in cls.model_fields] if isinstance(data, Mapping) else []
        if not isinstance(data, cls):
            grid._policies = _product(grid, written)
        return grid

    def expand(self) -> list[Policy]:
        """All policies, labelled."""
        return list(self._policies)

    def __len__(self) -> int:
        return len(self._policies)


def _product(grid: _Grid, written: list[str]) -> tuple[Policy, ...]:
    axes = {name: getattr(grid, name) for name in written}
    varying = [name for name in Policy.model_fields if len(axes.get(name, ())) > 1]
    policies, faults = [], []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        try:
            policies.append(Policy.model_validate(point))
        except ValidationError as error:
            name = " ".join(f"{key}={_field_text(key, point[key])}" for key in varying) or "base"
            faults += [f"policy {name!r}: {entry['msg']}" for entry in error.errors()]
    if faults:
        raise fault(faults[0] + (f" (and {len(faults) - 1} more policies)" if len(faults) > 1 else ""))
    try:
        return tuple(labelled(policies))
    except InputError as error:
        raise fault(str(error)) from error


def _listed(field: FieldInfo) -> Any:
    """The definition of the grid's field that holds alternatives for one of `Policy`."""
    checked = (field.annotation, *field.metadata, "")  # the "" because metadata may be empty
    return Annotated[tuple[Annotated[checked], ...], Listed()], (field.default,)  # type: ignore[valid-type]


_fields = {name: _listed(field) for name, field in Policy.model_fields.items() if name != "label"}
if TYPE_CHECKING:  # its users call only the methods
    PolicyGrid = _Grid
else:
    PolicyGrid = create_model(
        "PolicyGrid", __base__=_Grid, __module__=__name__, __doc__=_Grid.__doc__, **_fields
    )


def as_policies(given: Any) -> list[Policy]:
    """Labelled policies from a `Policy`, a `PolicyGrid`, a table like a grid's, or a list of these."""
    single = isinstance(given, (Policy, _Grid, Mapping)) or not isinstance(given, Iterable)
    items = [given] if single else list(given)
    policies: list[Policy] = []
    for number, item in enumerate(items):
        if isinstance(item, Policy):
            policies.append(item)
            continue
        if not isinstance(item, (_Grid, Mapping)):
            raise InputError(
                f"policies[{number}] = {shown(item)}: must be a Policy, a PolicyGrid or a table of fields"
            )
        try:
            grid = item if isinstance(item, _Grid) else PolicyGrid.model_validate(item)
        except ValidationError as error:
            raise input_error(error, f"policies[{number}]", item) from error
        policies += [policy.model_copy(update={"label": ""}) for policy in grid.expand()]
    if not policies:
        raise InputError("policies: at least one is needed")
    return labelled(policies)
