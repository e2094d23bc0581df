"""Every notebook runs from top to bottom in a fresh kernel, draws its pictures, and its own asserts hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed (extra 'notebooks')")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra 'notebooks')")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


def executed(path: Path) -> Any:
    """The notebook with its outputs; raises CellExecutionError at the first cell that fails."""
    notebook = jupytext.read(path)
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return client.execute(env={**os.environ, "PYTHONPATH": search})


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    code = [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    claims = [line for cell in code for line in cell.splitlines() if line.lstrip().startswith("assert ")]
    shows = sum(cell.count("plt.show()") for cell in code)
    assert "format_name: percent" in source
    assert claims, "a study states nothing that could be false"
    assert shows

    notebook = executed(path)
    pictures = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    assert len(pictures) == shows
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
