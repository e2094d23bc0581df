"""Tables of measurements.

In: rows of numbers. Out: text for a person, and plain values for JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Column:
    """`unit`: "x" for a ratio of two measurements of one machine, "" for a count, else that of the number."""

    key: str
    title: str
    unit: str = ""
    digits: int = 0


@dataclass(frozen=True)
class Row:
    """`key` stays the same from one version to the next; `label` is for people. None: not measured."""

    key: str
    label: str
    values: Mapping[str, float | None]


@dataclass
class Table:
    """Rows of measurements under one title, with sentences below it."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, key: str, label: str, **values: float | None) -> None:
        """A row; every value belongs to a column."""
        known = {column.key for column in self.columns}
        assert set(values) <= known, set(values) - known
        self.rows.append(Row(key, label, {name: values.get(name) for name in known}))

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def render(table: Mapping[str, Any]) -> str:
    """A table as JSON holds it, for a person: title, aligned columns, notes."""
    columns = table["columns"]
    head = ["", *(column["title"] for column in columns)]
    body = [
        [row["label"], *(shown(row["values"][column["key"]], column["digits"]) for column in columns)]
        for row in table["rows"]
    ]
    return "\n".join([table["title"], *([aligned(head, body)] if body else []), *table["notes"]])


def shown(value: float | None, digits: int) -> str:
    """A number with thousands separators; a dash for none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def aligned(head: list[str], body: list[list[str]]) -> str:
    """Columns of text, the first to the left and the others to the right."""
    rows = [head, *body]
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
