"""What settings of studies may be: types that refuse a wrong value by name before anything runs."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from perpbt.config.fields import Duration, Range, fault


def _span(text: str) -> str:
    try:
        if int(Duration.parse(text)) > 0:
            return text
    except ValueError as error:
        raise fault(str(error)) from error
    raise fault("must be longer than 0s")


def _some(values: tuple[object, ...]) -> tuple[object, ...]:
    if not values:
        raise fault("must hold at least one value")
    return values


Number: TypeAlias = Annotated[int, Range(least=1)]
Above: TypeAlias = Annotated[float, Range(above=0)]
AtLeastZero: TypeAlias = Annotated[float, Range(least=0)]
Amounts: TypeAlias = Annotated[tuple[Above, ...], AfterValidator(_some)]
"""Leverages or sums of money, one at least."""
Names: TypeAlias = Annotated[tuple[str, ...], AfterValidator(_some)]
SpanText: TypeAlias = Annotated[str, AfterValidator(_span)]
"""A duration above 0, such as 7d."""
