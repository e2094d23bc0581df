"""What a function takes by keyword, read from its signature: names, types and defaults.

In: the `signals` of a strategy, or a study, and the values a user gives. Out: checked values for all of its parameters, or one
`InputError` that lists every fault.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from perpbt.config.fields import nearest, shown
from perpbt.errors import InputError


@dataclass(frozen=True)
class Parameter:
    """One keyword of a function: its annotation, as an object and as text, and its default."""

    name: str
    annotation: Any
    text: str
    default: Any


def parameters_of(
    where: str, function: Callable[..., Any], *, besides: Collection[str] = ()
) -> dict[str, Parameter]:
    """The parameters of a function, without those `besides`; each must be a keyword with a default."""
    name = f"{getattr(function, '__name__', 'function')}()"
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        plain = typing.get_type_hints(function)
    except (NameError, TypeError) as error:
        raise InputError(f"{where}: annotations of {name}: {error}") from error
    parameters = {}
    for key, entry in inspect.signature(function).parameters.items():
        if key in besides:
            continue
        if entry.kind in (entry.VAR_POSITIONAL, entry.VAR_KEYWORD, entry.POSITIONAL_ONLY):
            raise InputError(f"{where}: {name[:-2]}({entry}): every parameter must be a named keyword")
        if entry.default is entry.empty:
            raise InputError(f"{where}: {name[:-2]}({entry}): every parameter needs a default")
        annotation = hints.get(key, type(entry.default))
        text = inspect.formatannotation(plain.get(key, annotation)).replace("typing.", "")
        parameters[key] = Parameter(key, annotation, text, entry.default)
    return parameters


def with_values(where: str, parameters: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults with the values given in their place; a list stands for a tuple."""
    faults, values = [], {name: parameter.default for name, parameter in parameters.items()}
    for name, value in given.items():
        parameter = parameters.get(name)
        if parameter is None:
            tail = nearest(name, parameters) or "; it has none"
            faults.append(f"parameter {name} = {shown(value)}: unknown{tail}")
            continue
        try:
            plain = value.item() if hasattr(value, "item") else value
            plain = (
                tuple(plain) if isinstance(plain, list) and isinstance(parameter.default, tuple) else plain
            )
            values[name] = TypeAdapter(parameter.annotation).validate_python(plain, strict=True)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].replace("Input should be", "must be")
            faults.append(f"parameter {name} = {shown(value)}: {reason} (it is {parameter.text})")
    if faults:
        raise InputError(f"{where}: " + "; ".join(faults))
    return values
