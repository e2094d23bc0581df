"""A venue's TOML file, found by name or path and taken apart: values to fields, what stands beside them to their sources.

In: the text of a file. Out: the keyword arguments of `perpbt.venue.Venue`, and the faults found on the way.
A value is written bare or as {value = ..., source = ..., as_of = ..., note = ...}; tiers as a table with
`brackets`, or, dated, as an array of tables each with `from`, the day its brackets begin to hold.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from perpbt.checks import unknown
from perpbt.errors import InputError
from perpbt.venue.tables import TABLES

PACKAGED = Path(__file__).parents[1] / "venues"
SOURCE = ("source", "as_of", "note")


def catalogue() -> dict[str, list[Path]]:
    """Every file a name may mean; two only if the user's folder repeats a shipped name."""
    found: dict[str, list[Path]] = {}
    files = (*Path("venues").glob("*.toml"), *PACKAGED.glob("*.toml"))
    for path in dict.fromkeys(file.resolve() for file in files):
        found.setdefault(path.stem, []).append(path)
    return found


def locate(source: str | Path) -> Path:
    """The file of a name or path. Raises InputError for a name that is unknown, or stands for two files."""
    path = Path(source)
    if isinstance(source, Path) or path.suffix == ".toml" or path.name != source:
        return path
    known = catalogue()
    if source not in known:
        hint = "; or give the path of a .toml file"
        raise InputError(unknown(f"venue {source!r}", source, known, "venue") + hint)
    if len(known[source]) > 1:  # taking either in silence could change a result
        places = " and ".join(str(place) for place in known[source])
        raise InputError(f"venue {source!r}: two files have this name: {places}; give the path of one")
    return known[source][0]


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file. Raises InputError that names it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None


def venue_fields(
    raw: Mapping[str, Any], name: str, needed: Iterable[str]
) -> tuple[dict[str, Any], list[str]]:
    """The arguments of the venue that a file describes, and its faults as lines; `needed` must be in it."""
    fields: dict[str, Any] = {"name": name, "provenance": {}}
    # Python may leave values to their defaults; a file is a statement about a venue and makes all of them.
    values = ("title", *needed)
    lines = [f"{key}: missing" for key in (*values, "tiers") if key not in raw]
    if "provenance" in raw:
        lines.append("provenance: unknown key; sources stand at the values: {value = ..., source = ...}")
    for key, value in raw.items():
        if key == "tiers" and isinstance(value, dict):
            for symbol, entry in value.items():
                lines += _tiers(symbol, entry, fields)
        elif key in TABLES and not isinstance(value, dict):
            lines.append(f"{key} = {value!r}: must be a table [{key}]")
        elif isinstance(value, dict) and "value" not in value and key not in (*values, *TABLES, "provenance"):
            lines.append(unknown(key, key, ("tiers", *TABLES), "table"))
        elif key in TABLES:
            fields.setdefault("tables", {})[key], found = _table(key, value, fields["provenance"])
            lines += found
        elif key != "provenance":
            lines += _unwrap(key, key, value, "value", fields, fields["provenance"])
    if "tiers" in raw and "dated" in fields:
        fields.setdefault("tiers", {})
    return fields, lines


def _tiers(symbol: str, entry: Any, fields: dict[str, Any]) -> list[str]:
    """One symbol's brackets, or its dated ones."""
    sources = fields["provenance"]
    if not isinstance(entry, list) or not all(isinstance(one, dict) for one in entry):
        path = f"tiers.{symbol}"
        return _unwrap(path, symbol, entry, "brackets", fields.setdefault("tiers", {}), sources)
    lines: list[str] = []
    sets = []
    for index, one in enumerate(entry):
        place = f"tiers.{symbol}[{index}]"
        missing = [f"{place}.{key}: missing" for key in ("from", "brackets") if key not in one]
        lines += missing
        if not missing:
            sets.append((one["from"], one["brackets"]))
            rest = {key: value for key, value in one.items() if key not in ("from", "brackets")}
            if rest:
                sources[f"tiers.{symbol}@{one['from']}"] = rest
    if sets:
        fields.setdefault("dated", {})[symbol] = sets
    return lines


def _table(place: str, table: Mapping[str, Any], sources: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The bare values of a table and of its symbols; sources of single values, and of the table as a whole."""
    values: dict[str, Any] = {}
    whole = {key: table[key] for key in SOURCE if key in table and not isinstance(table[key], Mapping)}
    if whole:
        sources[place] = whole
    lines: list[str] = []
    for key, entry in table.items():
        path = f"{place}.{key}"
        if key in whole:
            continue
        says_more = isinstance(entry, Mapping) and bool(set(entry) - set(SOURCE))
        if says_more and "value" not in entry and "." not in place:
            values[key], found = _table(path, entry, sources)
            lines += found
        else:
            lines += _unwrap(path, key, entry, "value", values, sources)
    return values, lines


def _unwrap(
    path: str, key: str, entry: Any, content: str, values: dict[str, Any], provenance: dict[str, Any]
) -> list[str]:
    """Put `{content = ..., source = ..., ...}` or a bare entry where it belongs; return the faults found."""
    if not isinstance(entry, dict):
        values[key] = entry
        return []
    if content not in entry:
        return [f"{path}.{content}: missing"]
    values[key] = entry[content]
    if len(entry) > 1:
        provenance[path] = {name: value for name, value in entry.items() if name != content}
    return []
