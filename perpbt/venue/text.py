"""A venue as readable text: every number with where it is from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from perpbt.venue.brackets import Dated, table
from perpbt.venue.tables import split, values_for


def shown(since: datetime | None) -> str:
    """A moment as a file would say it: the day alone at midnight."""
    if since is None:
        return ""
    return since.strftime("%Y-%m-%d") if since.timestamp() % 86_400 == 0 else since.isoformat()


def described(
    head: str,
    values: Mapping[str, object],
    tables: Mapping[str, Mapping[str, Any]],
    ladders: Iterable[tuple[str, Dated]],
    sources: Mapping[str, Any],
) -> str:
    """Plain values, further tables, and the tiers of each symbol; `sources` by key."""
    lines = [head, ""]
    for key, value in values.items():
        lines += [f"  {key:<16} {told(value):<12}", *cited(sources, key)]
    for name, entries in tables.items():
        general, symbols = split(entries)
        lines += table_lines(f"  {name}", name, general, sources)
        for symbol, own in symbols.items():
            lines += table_lines(f"  {name} of {symbol}", f"{name}.{symbol}", own, sources)
    for symbol, (since, tiers) in ladders:
        day = shown(since)
        title = f"  tiers of {symbol}" + (f" from {day}" if day else "")
        key = f"tiers.{symbol}" + (f"@{day}" if day else "")
        whole = (values_for(tables.get("maintenance", {}), symbol) or {}).get("rule") == "whole"
        lines += ["", title, *cited(sources, key), *(f"    {row}" for row in table(tiers, whole=whole))]
    return "\n".join(line.rstrip() for line in lines)


def table_lines(head: str, place: str, values: Mapping[str, Any], sources: Mapping[str, Any]) -> list[str]:
    """The values of one table, or of a symbol in it."""
    if not values:
        return []
    lines = ["", head, *cited(sources, place)]
    for key, value in values.items():
        lines += [f"    {key:<22} {told(value)}", *cited(sources, f"{place}.{key}")]
    return lines


def cited(sources: Mapping[str, Any], key: str) -> list[str]:
    """The source of one value, wrapped and indented."""
    entry = sources.get(key)
    if entry is None:
        return []
    text = f"{entry.source} ({entry.as_of or 'undated'})" + (f"; {entry.note}" if entry.note else "")
    return textwrap.wrap(text, 100, initial_indent="      ", subsequent_indent="      ")


def told(value: object) -> str:
    """A value as text."""
    if isinstance(value, list | tuple):
        return ", ".join(told(one) for one in value)
    return f"{value:,.10g}" if isinstance(value, float | int) and not isinstance(value, bool) else str(value)
