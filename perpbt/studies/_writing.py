"""Findings → a folder: a Parquet file a table, a PNG a figure, one page with all of it, and what was run."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from perpbt.errors import InputError, RunError
from perpbt.result import existing_above, put_in_place

if TYPE_CHECKING:
    from perpbt.studies import Findings

RECORD = "study.json"


def write(findings: Findings, target: Path) -> Path:
    """Write aside, then rename; see `Findings.write`."""
    check_folder(target)
    whole = target.resolve()
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{whole.name}-", dir=whole.parent))
        try:
            write_into(findings, aside)
            put_in_place(aside, whole)
        finally:
            shutil.rmtree(aside, ignore_errors=True)  # already gone after a rename
    except OSError as error:
        raise RunError(f"{target}: the findings could not be written: {error}") from error
    return target


def write_into(findings: Findings, folder: Path) -> None:
    """All files of a study."""
    from perpbt.report.page import figure_png, study_page

    files = ["study.html", RECORD]
    for name, table in findings.tables.items():
        files.append(f"{name}.parquet")
        table.write_parquet(folder / files[-1], compression="zstd", compression_level=1)
    for name, figure in findings.figures.items():
        files.append(f"{name}.png")
        (folder / files[-1]).write_bytes(figure_png(figure))
    page = study_page(findings.title, findings.text, findings.tables, findings.figures, findings.metadata)
    (folder / "study.html").write_text(page, encoding="utf-8")
    record = json.dumps({**findings.metadata, "files": sorted(files)}, indent=2, default=str)
    (folder / RECORD).write_text(record + "\n", encoding="utf-8")
    folder.chmod(0o755)


def check_folder(target: Path) -> None:
    """Findings may go to a new or empty folder or over those of an earlier study as it was written, never over anything else."""
    if target.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise InputError(f"{target}: is or holds the working directory; allowed: a directory beside or in it")
    if not target.exists():
        if not existing_above(target).is_dir():
            raise InputError(f"{target}: {existing_above(target)} is a file; allowed: a place in a folder")
        return
    held = sorted(path.name for path in target.iterdir()) if target.is_dir() else [target.name]
    known = json.loads((target / RECORD).read_text())["files"] if (target / RECORD).is_file() else []
    foreign = [name for name in held if name not in known]
    if foreign:
        raise InputError(
            f"{target}: holds {foreign[0]!r}, which no study wrote there and replacing would delete; allowed: a new or empty "
            "directory, or an earlier study's as it was written"
        )
