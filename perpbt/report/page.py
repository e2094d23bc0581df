"""The page of a study: title, words, figures and tables in one HTML file, in the report's own dress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING, Any

import polars as pl

from perpbt.report import tables, words
from perpbt.report.drawing import style
from perpbt.report.embed import fix_layout, picture
from perpbt.report.html import Section, page
from perpbt.report.tables import MOST_ROWS, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_png(figure: Figure) -> bytes:
    """A figure as PNG on white; the same figure gives the same bytes."""
    with style():
        fix_layout(figure)
        image = BytesIO()
        figure.savefig(image, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return image.getvalue()


def study_page(
    title: str,
    text: str,
    found: Mapping[str, pl.DataFrame],
    figures: Mapping[str, Figure],
    metadata: Mapping[str, Any],
) -> str:
    """The whole page as text; of a long table its first rows."""
    lead, *more = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()] or [""]
    with style():
        drawn = [
            picture(figure, f"figure-{number}", spelled(name), spelled(name), wide=True)
            for number, (name, figure) in enumerate(figures.items())
        ]
    sections = [Section("findings", "Findings", more, drawn)]
    sections += [
        Section(f"table-{number}", spelled(name), tables=[as_table(name, table)])
        for number, (name, table) in enumerate(found.items())
    ]
    sections.append(Section("run", "What was run", tables=[tables.facts_table("Study and data.", metadata)]))
    return page(title=title, lead=[lead] if lead else [], sections=sections)


def spelled(name: str) -> str:
    """fund_path → Fund path."""
    return name.replace("_", " ").capitalize()


def as_table(name: str, frame: pl.DataFrame) -> Table:
    """A frame as a table to print: words left, numbers right."""
    order = sorted(frame.columns, key=lambda column: not is_text(frame.schema[column]))
    shown = frame.select(order).head(MOST_ROWS)
    texts = sum(is_text(frame.schema[column]) for column in order)
    caption = (
        f"{frame.height:,} rows"
        if frame.height <= MOST_ROWS
        else f"The first {MOST_ROWS} of {frame.height:,} rows"
    )
    rows = tuple(tuple(cell(value) for value in row) for row in shown.iter_rows())
    head = tuple(column.replace("_", " ") for column in order)
    return Table(f"{caption}; {name}.parquet has them in full.", head, rows, texts)


def is_text(kind: pl.DataType) -> bool:
    """Whether a column holds words or times."""
    return not (kind.is_numeric() or kind == pl.Boolean)


WORDS: tuple[tuple[type | tuple[type, ...], Callable[[Any], str]], ...] = (
    (bool, words.plain),
    (datetime, words.moment),
    (timedelta, words.duration),
    (int, words.count),
    (float, lambda value: words.plain(float(f"{value:.5g}"))),
)


def cell(value: object) -> str:
    """One value in the words of the report."""
    for kind, told in WORDS:
        if isinstance(value, kind):
            return told(value)
    return words.MISSING if value is None else str(value)
