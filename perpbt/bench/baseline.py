"""Reports of other days: read, and set side by side with a new one.

In: the JSON that `perpbt bench --json` writes; its schema is told in tests/bench/README.md. Out: text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perpbt import InputError
from perpbt.bench.tables import aligned, shown

SCHEMA = 1
RATIO = "x"  # the unit of figures that machines share


def read(path: Path) -> dict[str, Any]:
    """A report written by `--json` earlier. Raises `InputError` if it is not one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a benchmark report; allowed: a file written by perpbt bench --json")
    return found


def measured(report: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str, str], dict[str, Any], float, Any]]:
    """Every measured value of a report: where it stands, its column, itself, and the counts of its row."""
    for table in report["tables"]:
        counts = [column["key"] for column in table["columns"] if not column["unit"]]
        for row in table["rows"]:
            work = [row["values"].get(key) for key in counts]
            for column in table["columns"]:
                value = row["values"].get(column["key"])
                if column["unit"] and value is not None:
                    yield (table["name"], row["key"], column["key"]), column, float(value), work


def side_by_side(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Old and new side by side: ratios first, which machines share, then times and sizes, which they do not.

    A value is only set beside one that was taken on the same amounts of work.
    """
    before = {place: (value, work) for place, _, value, work in measured(old)}
    lines: dict[bool, list[list[str]]] = {True: [], False: []}
    others = 0
    for place, column, value, work in measured(new):
        if place not in before or before[place][1] != work:
            others += 1
            continue
        was, digits = before[place][0], max(1, column["digits"])
        cells = [" / ".join(place[:2]), column["title"], shown(was, digits), shown(value, digits)]
        change = f"{value / was:.2f}" if was else "-"
        lines[column["unit"] == RATIO].append([*cells, change])
    head = ["", "", "old", "new", "new / old"]
    blocks = [
        f"Ratios beside the baseline of {old['taken']}\n{aligned(head, lines[True])}" if lines[True] else "",
        f"Times and sizes: old on {old['machine']['processor']}, new on {new['machine']['processor']}\n"
        f"{aligned(head, lines[False])}" if lines[False] else "",
        f"{others:,} figures are not in the baseline, or were taken there on other amounts of work." if others else "",
    ]  # fmt: skip
    return "\n\n".join(block for block in blocks if block)
