"""Shipped datasets: found by name, verified against their manifest before use.

In: a name, or a folder that holds a `manifest.json`. Out: the paths of its files, each with the sha256 its
manifest says.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perpbt.errors import InputError


@dataclass(frozen=True)
class Dataset:
    """Verified files of a dataset: bars in reading order, and a funding file if it has one of its own."""

    label: str
    files: tuple[Path, ...]
    funding: Path | None


def dataset_folders() -> tuple[Path, ...]:
    """Where datasets are looked for: beside the user, in a checkout, where an installation put them."""
    checkout = Path(__file__).resolve().parents[2]
    return (
        Path.cwd() / "datasets",
        checkout / "datasets",
        Path(sys.prefix) / "share" / "perpbt" / "datasets",
    )


def find_dataset(source: str | Path) -> Dataset | None:
    """The dataset meant by `source`, verified; None if `source` is an ordinary path.

    A path that exists is taken as such before a name. Raises `InputError` for an unknown name and for a
    broken manifest or file.
    """
    path = Path(source)
    if path.is_dir():
        manifest = path / "manifest.json"
        return _read(path.name, manifest) if manifest.is_file() else None
    name = str(source)
    if path.exists() or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        return None
    for folder in dataset_folders():
        for manifest in (folder / name / "manifest.json", folder / f"{name}.json"):
            if manifest.is_file():
                return _read(name, manifest)
    searched = ", ".join(str(folder) for folder in dict.fromkeys(dataset_folders()))
    raise InputError(
        f"{name}: no such file or folder, and no dataset of that name; "
        f"datasets: {', '.join(dataset_names()) or 'none'} (looked in {searched})"
    )


def dataset_names() -> list[str]:
    """Names of all datasets that can be found."""
    manifests = [
        m for folder in dataset_folders() for m in (*folder.glob("*/manifest.json"), *folder.glob("*.json"))
    ]
    return sorted({m.parent.name if m.name == "manifest.json" else m.stem for m in manifests})


def _read(name: str, manifest: Path) -> Dataset:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{manifest}: is not JSON: {error}") from error
    entries = content.get("files") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(
            f"{manifest}: key 'files' = {entries!r}; allowed: a list of {{path, sha256}}, at least one"
        )
    funding = content.get("funding")
    paths = [_verified(manifest, entry) for entry in entries]
    funding_path = None if funding is None else _verified(manifest, funding)
    bars = tuple(path for path in paths if path != funding_path)
    if not bars:
        raise InputError(
            f"{manifest}: key 'files' lists no bars; allowed: at least one file beside the funding"
        )
    return Dataset(f"dataset {name} ({manifest.parent})", bars, funding_path)


def _verified(manifest: Path, entry: Any) -> Path:
    if not isinstance(entry, Mapping) or not all(
        isinstance(entry.get(key), str) for key in ("path", "sha256")
    ):
        raise InputError(f"{manifest}: entry {entry!r}; allowed: a table with the texts 'path' and 'sha256'")
    path = manifest.parent / str(entry["path"])
    if not path.is_file():
        raise InputError(f"{path}: missing, though {manifest} lists it; restore it or make the dataset again")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != str(entry["sha256"]).lower():
        raise InputError(
            f"{path}: sha256 is {found}, but {manifest} says {entry['sha256']}: the file was changed "
            "or is damaged; restore it or make the dataset again"
        )
    return path
