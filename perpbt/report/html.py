"""The report page: one HTML file with everything in it, no script, no request to anywhere."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from perpbt.report import figures, pictures, prose, tables, words
from perpbt.report.embed import Picture
from perpbt.report.grouping import grouping
from perpbt.report.tables import Table
from perpbt.statistics.common import IS_REJECTED

TOLD = (
    *(
        "title",
        "description",
        "data",
        "symbols",
        "venue",
        "rules",
        "open_interest",
        "crowding",
        "fund",
        "notes",
    ),
    *("world", "spec"),
)
"""Metadata that has its place in the page; the rest is listed under the run."""


@dataclass(frozen=True)
class Section:
    """A part of the page: sentences, then pictures, then tables, then remarks."""

    name: str
    title: str
    sentences: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table | None] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    points_title: str = ""
    warning: str = ""


def write_report(result: Any, path: str | os.PathLike[str], *, title: str | None = None) -> Path:
    """Write the report of a result as one HTML file and return its path.

    `result` has the tables `accounts`, `fund`, `statistics`, `policies` and `prices`, and `metadata` (see
    `perpbt.report.prose` for the keys that are read). `title` defaults to the one in the metadata. The file
    is written beside its place and renamed, so a reader never sees half of one; its folder has to exist.
    Same result, same bytes.
    """
    page = render(result, title=title)
    target = Path(path)
    handle, aside = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(page)
        Path(aside).chmod(0o644)
        Path(aside).replace(target)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return target


def render(result: Any, *, title: str | None = None) -> str:
    """The page as text."""
    metadata = result.metadata
    coins = {str(one["settlement"]) for one in prose.part(metadata, "contracts").values()}
    words.CURRENCY.set(coins.pop() if len(coins) == 1 else "quote currency")
    with figures.style():
        sections = [section for section in _sections(result) if _filled(section)]
    return page(
        title=title or prose.stated(metadata, "title") or "Perpetual futures risk report",
        description=prose.stated(metadata, "description") or "",
        lead=prose.headline(result),
        key_figures=prose.figures_in_brief(result),
        notes=prose.notes(metadata),
        sections=sections,
    )


def page(
    *,
    title: str,
    lead: Sequence[str],
    sections: Sequence[Section],
    description: str = "",
    key_figures: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> str:
    """A page in the report's dress."""
    environment = Environment(
        loader=PackageLoader("perpbt.report", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["together"] = _together
    return environment.get_template("report.html.j2").render(
        title=title,
        description=description,
        lead=lead,
        key_figures=key_figures,
        notes=notes,
        sections=sections,
    )


def _together(sentence: str) -> str:
    """The sentence with numbers kept on one line with their unit."""
    return re.sub(r"(?<=\d) (?=(?:%|k|M|bn|T)(?:\W|$))", "\N{NO-BREAK SPACE}", sentence)


def _filled(section: Section) -> bool:
    return bool(section.sentences or section.pictures or any(section.tables) or section.points)


def _sections(result: Any) -> list[Section]:
    """All sections in order; those without content are dropped by the caller."""
    metadata = result.metadata
    run = Section(
        "run",
        "What was run",
        sentences=prose.what_was_run(result),
        points=prose.assumptions(result),
        points_title="Assumptions",
        tables=[tables.venue_table(metadata), tables.symbol_table(metadata)],
    )
    after = [_rejections(result), _machine(metadata)]
    if not prose.total(result).get("positions"):
        return [run, *after]
    return [run, _grids(result), _defaults(result), _fund(result), *_positions(result), *after]


def _grids(result: Any) -> Section:
    return Section("grids", "Leverage × stop loss", pictures=pictures.grid_pictures(result))


def _defaults(result: Any) -> Section:
    sentences = [
        "PD: defaults over opened positions. EAD: mean notional at the exit of a default. LGD: deficit over "
        f"that notional. Expected loss = PD × EAD × LGD, in {words.CURRENCY.get()} a position. These four weigh "
        "positions where open interest is stated; liquidated counts them. Income of the fund: liquidation "
        "fees, surplus and the share of trading fees; less the deficit it is the net flow. Rows of "
        "many worlds add their sums and average their shares by positions; statistics.parquet has every "
        "strategy, policy and symbol."
    ]
    rows = [
        tables.group_table(result, "strategy"),
        tables.group_table(result, "symbol"),
        tables.policy_table(result),
    ]
    return Section("defaults", "Default statistics", sentences, tables=rows, warning=prose.ONE_PATH)


def _fund(result: Any) -> Section:
    if result.fund.is_empty():
        return Section("fund", "Insurance fund", ["No fund was kept in this run."])
    draws = tables.draw_tables(result)
    sentences = [] if draws else ["No deficit was drawn from any fund."]
    return Section("fund", "Insurance fund", sentences, pictures.fund_pictures(result), [*draws])


def _positions(result: Any) -> list[Section]:
    """What became of the positions, and of the money."""
    liquidated = prose.total(result)["liquidated"] > 0
    none = [] if liquidated else ["No position was liquidated: there is no survival to estimate."]
    groups = grouping(result)
    return [
        Section("exits", "How positions ended", pictures=pictures.exit_pictures(groups)),
        Section("outcomes", "Survival and returns", none, pictures.outcome_pictures(groups)),
        Section(
            "flows",
            "Liquidation fee, surplus and deficit",
            prose.flows(result.accounts),
            pictures.flow_pictures(result.accounts),
        ),
        Section("money", "Where the money went", tables=[tables.money_table(result)]),
    ]


def _rejections(result: Any) -> Section:
    """Why orders were rejected."""
    rejected = result.accounts.filter(IS_REJECTED)
    counts = rejected.group_by("rejection").len().sort("len", "rejection", descending=[True, False])
    points = [f"{str(reason).replace('_', ' ')}: {number:,}" for reason, number in counts.iter_rows()]
    return Section("rejected", "Rejected orders", points=points)


def _machine(metadata: Mapping[str, Any]) -> Section:
    """Versions, hashes, timings, and the specification as it was."""
    facts = {key: value for key, value in metadata.items() if key not in TOLD}
    spec = tables.facts_table("Specification.", prose.part(metadata, "spec"))
    return Section(
        "machine",
        "Run",
        tables=[tables.facts_table("Engine, versions, hashes, timings.", facts), spec],
    )
