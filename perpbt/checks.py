"""Checks that a pydantic field or a loader makes on what a user wrote, and the sentences they say.

In: values and words. Out: the value as a float, or the text of an error: what is allowed, the nearest word.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Annotated, SupportsFloat

from pydantic import BeforeValidator


def number(allowed: str, test: Callable[[float], bool]) -> BeforeValidator:
    """A field check that says one sentence for a wrong type, a NaN and a value outside `allowed`."""

    def check(value: object) -> float:
        real = as_float(value)
        if real is None or not test(real):
            raise ValueError(f"must be a number in {allowed}")
        return real

    return BeforeValidator(check)


def as_float(value: object) -> float | None:
    """A number as a float, None for anything else: text and booleans too, which float() would take."""
    if (
        type(value) is float
    ):  # at once: what the general question costs shows in tables of thousands of brackets
        return value
    if isinstance(value, bool | str | bytes) or not isinstance(value, SupportsFloat):
        return None
    return float(value)


# Every comparison is False for NaN.
Fee = Annotated[float, number("[0, 0.1]", lambda x: 0.0 <= x <= 0.1)]
Share = Annotated[float, number("[0, 1]", lambda x: 0.0 <= x <= 1.0)]
BelowOne = Annotated[float, number("[0, 1)", lambda x: 0.0 <= x < 1.0)]
InsideOne = Annotated[float, number("(0, 1)", lambda x: 0.0 < x < 1.0)]
NotNegative = Annotated[float, number("[0, inf)", lambda x: 0.0 <= x < math.inf)]


def unknown(place: str, word: str, known: Iterable[str], what: str = "key") -> str:
    """The sentence for a word that is not among the known ones, with the nearest of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return (
        f"{place}: unknown {what}"
        + (f", did you mean {near[0]!r}?" if near else ";")
        + f" known: {', '.join(names)}"
    )
