"""Studies: questions put to price histories by one command, answered by tables and pictures.

A study is a module of this folder (or any Python file) with a docstring, whose first line is its title, and a function
`study(bars, progress, *, ...)` that returns `Findings`; what it takes by keyword are its settings. One added is one file. Files that start
with an underscore are what studies share.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from perpbt.config.fields import nearest
from perpbt.config.parameters import Parameter, parameters_of, with_values
from perpbt.engines.chunks import Progress
from perpbt.errors import InputError
from perpbt.load import Bars, load_bars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Findings:
    """What a study found: tables, the first of which answers its question; figures (matplotlib); and what to make of them in words, a
    paragraph after each empty line. `settings`, `data_sha256` and `title` are filled in by `run_study`.
    """

    tables: Mapping[str, pl.DataFrame]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    text: str = ""
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def write(self, directory: str | Path) -> Path:
        """Write every table (Parquet), every figure (PNG), study.html and study.json into a new `directory`, or over an earlier study's;
        whole or not at all.
        """
        from perpbt.studies._writing import write  # pictures are slow to import and not always wanted

        return write(self, Path(directory))


@dataclass(frozen=True)
class Study:
    """A study that was found; `sha256` is that of its source."""

    name: str
    doc: str
    sha256: str
    parameters: Mapping[str, Parameter]
    function: Callable[..., Findings] = field(repr=False)

    @property
    def title(self) -> str:
        """The first line of the docstring."""
        return self.doc.strip().partition("\n")[0].rstrip(".")


def list_studies() -> list[str]:
    """Names of the studies that come with the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def find_study(given: str | Path) -> Study:
    """A study by name, or by the path of a Python file. Raises `InputError`."""
    path = Path(given).expanduser()
    if str(given) in list_studies():
        path = FOLDER / f"{given}.py"
        module = importlib.import_module(f"perpbt.studies.{given}")
    elif path.suffix == ".py" and path.is_file():
        module = _from_file(path)
    else:
        raise InputError(
            f"study {str(given)!r}: no file and no name of one{nearest(str(given), list_studies())}"
        )
    function = getattr(module, "study", None)
    if not callable(function):
        raise InputError(f"{path}: a study needs a function study(bars, progress, *, ...)")
    where = f"study {path.stem}"
    first = list(inspect.signature(function).parameters)[:2]
    if first != ["bars", "progress"]:
        raise InputError(
            f"{path}: study({', '.join(first)}, ...): its first parameters must be bars and progress"
        )
    parameters = parameters_of(where, function, besides=first)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Study(path.stem, inspect.getdoc(module) or "", digest, parameters, function)


def _from_file(path: Path) -> Any:
    """A user's own file as a module."""
    spec = importlib.util.spec_from_file_location(f"perpbt_study_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file does wrong, the answer is to name the file
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    return module


def run_study(
    given: str | Path,
    bars: Bars | pl.DataFrame | pl.LazyFrame | str | Path = "sample",
    *,
    progress: Progress | None = None,
    **settings: Any,
) -> Findings:
    """Put a study's question to price histories.

    Args:
        given: the name of a study, or the path of one.
        bars: what `load_bars` returns or reads.
        progress: called with a label, the accounts done and their number.
        settings: the study's own; `perpbt studies NAME` lists them.

    Raises:
        InputError: there is no such study or setting, or the bars do not fit.
    """
    from perpbt.report.drawing import style  # matplotlib is slow to import

    study = find_study(given)
    values = with_values(f"study {study.name}", study.parameters, settings)
    loaded = bars if isinstance(bars, Bars) else load_bars(bars)
    with style():
        found = study.function(loaded, progress, **values)
    if not found.tables:
        raise InputError(f"study {study.name}: it returned no table")
    told = {
        "study": study.name,
        "study_sha256": study.sha256,
        "data": loaded.source,
        "data_sha256": loaded.fingerprint(),
        "symbols": list(loaded.symbols),
        "settings": values,
    }
    return Findings(found.tables, found.figures, found.text, study.title, {**told, **found.metadata})
