"""Tables a venue file may hold besides its plain values: one module a table, found by the name of its file.

A module `perpbt/venue/tables/NAME.py` makes `[NAME]` a table of venue files. It offers

    def parse(values: Mapping[str, Any]) -> Any

which checks the values of one table (keys as in the file, sources taken off) and returns what they mean, a
frozen object. A fault is a ValueError with a line each, that begins with the key; a `perpbt.config.fields.Spec`
says its own. `[NAME.SYMBOL]` changes some values for one symbol: `parse` then gets the general values with
those of the symbol over them. A value is a number, a word, a truth value, a date or a list; a table inside
stands for a symbol. Such a module must not import `perpbt.venue`. Without a table a venue behaves by default.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from perpbt.errors import InputError

TABLES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py")))


def parse(name: str, values: Mapping[str, Any]) -> Any:
    """What the values of table `name` mean. Raises ValueError or InputError as its module does."""
    return importlib.import_module(f"{__name__}.{name}").parse(values)


def split(table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The values of a table, and those of each symbol it names."""
    general = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    return general, {key: dict(value) for key, value in table.items() if isinstance(value, Mapping)}


def values_for(table: Mapping[str, Any], symbol: str) -> dict[str, Any] | None:
    """The values that hold for a symbol; None where the table says nothing of it."""
    general, symbols = split(table)
    if symbol not in symbols:
        return general if general or not symbols else None
    return general | symbols[symbol]


def faults(name: str, table: Mapping[str, Any]) -> list[str]:
    """What is wrong with a table, a line each, that begins with its key path."""
    general, symbols = split(table)
    found = _faults(name, name, general) if general or not symbols else []
    for symbol, own in symbols.items():
        lines = _faults(f"{name}.{symbol}", name, general | own)
        said = {line.removeprefix(name) for line in found}
        found += [line for line in lines if line.removeprefix(f"{name}.{symbol}") not in said]
    return found


def _faults(place: str, name: str, values: Mapping[str, Any]) -> list[str]:
    try:
        parse(name, values)
    except (ValueError, InputError) as error:
        cause = error if isinstance(error, ValidationError) else error.__cause__
        if isinstance(cause, ValidationError):
            return [f"{place}{line}" for line in _told(cause)]
        return [f"{place}.{line}" for line in str(error).splitlines()]
    return []


def _told(error: ValidationError) -> Iterable[str]:
    for entry in error.errors(include_url=False):
        path = "".join(f".{part}" for part in entry["loc"] if not str(part).startswith("<"))
        given = (
            "" if entry["type"] in ("missing", "extra_forbidden") or not path else f" = {entry['input']!r}"
        )
        yield f"{path}{given}: {entry['msg']}"
