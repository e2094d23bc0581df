"""Run specifications from TOML files, by path or by name, with overrides from the command line.

In: a path or a name, and `key.sub=value` texts. Out: a valid `RunSpec`, or one `InputError` with all faults.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from perpbt.config.fields import input_error, nearest, shown
from perpbt.config.run import RunSpec
from perpbt.errors import InputError


def shipped_folders(kind: str) -> list[Path]:
    """Where files of a kind ("strategies", "datasets") are looked for by name, first found first taken."""
    checkout = Path(__file__).resolve().parents[2]
    return [Path(kind), checkout / kind, Path(sys.prefix) / "share" / "perpbt" / kind]


def shipped_files(kind: str, suffix: str) -> dict[str, Path]:
    """Files of a kind by name, without those hidden by a file of the same name in an earlier folder."""
    found: dict[str, Path] = {}
    for folder in shipped_folders(kind):
        for path in sorted(folder.glob(f"*{suffix}")):
            if not path.name.startswith(("_", ".")):
                found.setdefault(path.stem, path)
    return found


def find_file(path_or_name: str | Path, kind: str, suffix: str, folder: Path | None = None) -> Path:
    """The file at a path (from the working directory, then `folder`), or the shipped one of that name."""
    text = str(path_or_name)
    for base in (Path(), *([folder] if folder else [])):
        path = base / Path(text).expanduser()
        if path.suffix == suffix and path.is_file():
            return path
    shipped = shipped_files(kind, suffix)
    found = shipped.get(text.removesuffix(suffix))
    if found is None:
        folders = ", ".join(str(place) for place in shipped_folders(kind))
        raise InputError(
            f"{text}: neither a {suffix} file nor the name of one in {folders}{nearest(text, shipped)}"
        )
    return found


def load_spec(
    path_or_name: str | Path, overrides: Sequence[str] = (), *, data: str | Path | None = None
) -> RunSpec:
    """Read, override and validate a run specification.

    `overrides` are `key.sub=value`, the value as in TOML (a bare word is a string), list items by number:
    `strategy.0.params.side=short`, `policy.leverage=[2, 5]`. `data` replaces `data.path`.
    Raises `InputError` for a file that is not there or not TOML, and for any fault in it, all at once.
    """
    path = find_file(path_or_name, "strategies", ".toml")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a readable TOML file: {error}") from error
    for override in overrides:
        apply_override(tables, override)
    if data is not None:
        _put(tables, ["data", "path"], str(data), f"data = {data}")
    # A fault may be in what was set, not in the file: the message names both.
    where = f"{path} with {', '.join(overrides)}" if overrides else str(path)
    return parse_spec(tables, where=where, name=path.stem, folder=path.parent)


def parse_spec(
    tables: dict[str, Any], *, where: str = "spec", name: str = "", folder: Path | None = None
) -> RunSpec:
    """Validate the tables of a run specification; relative paths in it may start at `folder`."""
    try:
        spec = RunSpec.model_validate({"name": name, **tables})
    except ValidationError as error:
        raise input_error(error, where, tables) from error
    spec._folder = folder
    return spec


def apply_override(tables: dict[str, Any], override: str) -> None:
    """Set one `key.sub=value` in the raw tables, in place."""
    key, sign, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not sign or not all(parts):
        raise InputError(f"--set {override}: must be key=value or key.sub=value")
    _put(tables, parts, _toml_value(text.strip()), f"--set {override}")


def _toml_value(text: str) -> Any:
    """A TOML value; what TOML does not read as one value is a bare word, so a string."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if set(parsed) == {"value"} else text


def _put(tables: dict[str, Any], parts: list[str], value: Any, where: str) -> None:
    place: Any = tables
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        here = ".".join(parts[:depth]) or "the specification"
        if isinstance(place, list):
            if not part.isdecimal() or int(part) >= len(place):
                raise InputError(
                    f"{where}: {here} is a list; {part!r} must be a number from 0 to {len(place) - 1}"
                )
            if last:
                place[int(part)] = value
            place = place[int(part)]
        elif isinstance(place, dict):
            if last:
                place[part] = value
            place = place.setdefault(part, {})
        else:
            raise InputError(f"{where}: {here} = {shown(place)} is not a table, so it has no key {part!r}")
