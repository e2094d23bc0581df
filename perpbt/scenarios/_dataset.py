"""A made-up market on disk: a Parquet file per symbol and a manifest that says what it is and how made.

In: a table of bars and the facts about it. Out: files, written aside and renamed, the manifest last.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from perpbt.errors import InputError

COLUMNS: dict[str, tuple[pl.DataType, str]] = {
    "ts": (pl.Datetime("ms", "UTC"), "UTC, open of the bar"),
    "symbol": (pl.String(), "name of the contract"),
    **{
        name: (pl.Float64(), f"quote currency per base unit, {series} price")
        for prefix, series in (("", "last"), ("mark_", "mark"), ("index_", "index"))
        for name in (f"{prefix}open", f"{prefix}high", f"{prefix}low", f"{prefix}close")
    },
    "volume": (pl.Float64(), "base units"),
    "funding_rate": (pl.Float64(), "fraction of notional, longs pay when positive; null where no event"),
}
"""Column -> dtype and unit, in the order of the files and of `content_sha256`."""


def content_sha256(bars: pl.DataFrame) -> str:
    """Hash of the numbers, whatever file format, chunking, compression or library version carries them.

    SHA-256 over the columns in the order of `COLUMNS`, rows sorted by symbol and ts: the column's name in
    UTF-8 and a zero byte, then its values: ts as little-endian int64 milliseconds since 1970, symbol as UTF-8
    with a newline after each, the others as little-endian IEEE doubles, null as the NaN 0x7FF8000000000000.
    """
    digest = hashlib.sha256()
    ordered = bars.sort("symbol", "ts")
    for name in COLUMNS:
        digest.update(name.encode() + b"\0")
        column = ordered[name]
        if name == "symbol":
            digest.update("".join(f"{value}\n" for value in column).encode())
        elif name == "ts":
            digest.update(column.dt.epoch("ms").to_numpy().astype("<i8").tobytes())
        else:
            values = column.to_numpy().astype("<f8")
            digest.update(np.where(np.isnan(values), np.nan, values).astype("<f8").tobytes())
    return digest.hexdigest()


def write_dataset(directory: str | Path, bars: pl.DataFrame, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write `bars` (columns of `COLUMNS`) and `manifest.json` into `directory`; return the manifest.

    `facts` opens the manifest: name, description, command, seed. The directory is made if missing; files
    already there under the same names are replaced.
    Raises `InputError` when `directory` exists and is not a directory.
    """
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise InputError(
            f"{folder}: exists and is not a directory; give a directory to write the dataset into"
        )
    folder.mkdir(parents=True, exist_ok=True)
    symbols = bars["symbol"].unique().sort().to_list()
    files = []
    for symbol in symbols:
        part = bars.filter(pl.col("symbol") == symbol).sort("ts").rechunk()
        path = folder / f"{symbol}.parquet"
        aside = path.with_suffix(".part")
        # One row group a file: one dictionary of ticks a column, which is what makes the file small.
        part.write_parquet(aside, compression="zstd", compression_level=12, row_group_size=part.height)
        content = aside.read_bytes()
        os.replace(aside, path)
        sha256 = hashlib.sha256(content).hexdigest()
        files.append({"path": path.name, "sha256": sha256, "bytes": len(content), "rows": part.height})
    manifest = {
        **facts,
        "made_with": {package: _version(package) for package in ("perpbt", "polars", "numpy")},
        "period": {"first": _stamp(bars["ts"].min()), "last": _stamp(bars["ts"].max())},
        "symbols": symbols,
        "schema": {name: {"dtype": str(dtype), "unit": unit} for name, (dtype, unit) in COLUMNS.items()},
        "content_sha256": content_sha256(bars),
        "files": files,
    }
    aside = folder / "manifest.part"
    aside.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(aside, folder / "manifest.json")
    return manifest


def _stamp(moment: Any) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # perpbt run from a checkout that was never installed has no version to state.
        return "not installed"
