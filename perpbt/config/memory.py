"""A number of bytes, as people write it."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field

from perpbt.config.fields import fault

UNITS = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
ALLOWED = 'must be a number of bytes, at least 1, or text such as "4GiB", "512 MiB" or "2.5GB"'


def parse_memory(given: object) -> int:
    """Bytes from a whole number or from text with a unit. Raises `ValueError`."""
    number = given
    if isinstance(given, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", given.strip())
        if found is not None and found[2].upper() in UNITS:
            number = int(float(found[1]) * UNITS[found[2].upper()])
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(ALLOWED)
    return number


def memory_words(size: float) -> str:
    """Bytes for a reader, such as 1.5 GiB; rounded up, so that what is told suffices."""
    unit, name = (2**30, "GiB") if size >= 2**30 else (2**20, "MiB")
    return f"{-int(-size * 10 // unit) / 10:g} {name}"


def _bytes(given: Any) -> int:
    try:
        return parse_memory(given)
    except ValueError as error:
        raise fault(str(error)) from error


Memory: TypeAlias = Annotated[int, BeforeValidator(_bytes, json_schema_input_type=int | str), Field(ge=1)]
