"""What data a run used: fingerprints and verified datasets; and what an import of the room costs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bars import START, made_bars, two_symbols

from perpbt.errors import InputError
from perpbt.load import describe, fingerprint, load_bars

REPOSITORY = Path(__file__).resolve().parents[1]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 200), st.booleans())
def test_fingerprint_ignores_the_cut_and_the_mix(rows: int, group: int, by_time: bool) -> None:
    frame = two_symbols(40, mark=True, funding=True)
    ordered = frame.sort("ts", maintain_order=True) if by_time else frame
    cut = pl.concat([part.lazy() for part in ordered.iter_slices(rows)])
    assert load_bars(cut).fingerprint() == load_bars(frame).fingerprint()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["open", "volume", "mark_close", "funding_rate"]), st.integers(0, 39))
def test_fingerprint_sees_every_value(column: str, row: int) -> None:
    frame = made_bars(40, mark=True, funding=True)
    here = (pl.int_range(pl.len()) == row) & pl.col(column).is_not_null()
    changed = frame.with_columns(
        pl.when(here).then(pl.col(column) * (1 + 2**-52)).otherwise(pl.col(column)).alias(column)
    )
    same = changed.equals(frame)
    assert (load_bars(changed).fingerprint() == load_bars(frame).fingerprint()) is same


def test_fingerprint_from_symbols_already_read() -> None:
    bars = load_bars(two_symbols())
    assert fingerprint(bars.collect(symbol) for symbol in reversed(bars.symbols)) == bars.fingerprint()
    assert load_bars(two_symbols(), symbols=["AAA"]).fingerprint() != bars.fingerprint()


# -- shipped datasets


def test_dataset_by_name_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "datasets" / "tiny"
    folder.mkdir(parents=True)
    made_bars().write_parquet(folder / "bars.parquet")
    pl.DataFrame({"ts": [START], "funding_rate": [0.0001]}).write_parquet(folder / "rates.parquet")

    def entry(name: str) -> dict[str, str]:
        return {"path": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}

    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"files": [entry("bars.parquet")], "funding": entry("rates.parquet")}))
    monkeypatch.chdir(tmp_path)
    bars = load_bars("tiny")
    assert bars.collect("AAA").funding.height == 1
    assert load_bars(folder).fingerprint() == bars.fingerprint()
    with pytest.raises(InputError, match=r"no dataset of that name; datasets: .*tiny"):
        load_bars("tinny")
    made_bars(seed=5).write_parquet(folder / "bars.parquet")
    with pytest.raises(
        InputError, match=r"bars\.parquet: sha256 is [0-9a-f]{64}, but .*manifest\.json says [0-9a-f]{64}"
    ):
        load_bars("tiny")
    (folder / "bars.parquet").unlink()
    with pytest.raises(InputError, match=r"bars\.parquet: missing"):
        load_bars("tiny")
    for content, told in (
        ("{", "is not JSON"),
        ("{}", "key 'files' = None"),
        ('{"files": ["a"]}', "entry 'a'"),
    ):
        manifest.write_text(content)
        with pytest.raises(InputError, match=told):
            load_bars("tiny")


def test_shipped_sample_passes_all_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # found in the checkout or the installation, not only beside the user
    report = describe(load_bars("sample"))
    assert report.ok
    assert len(report.symbols) == 3
    assert all(symbol.mark_bars == symbol.bars > 60 * 1440 for symbol in report.symbols)


def test_import_is_cheap() -> None:
    heavy = "{'numba', 'scipy', 'matplotlib', 'pandas', 'pyarrow', 'pydantic'}"
    code = f"import sys, perpbt.load; sys.exit(','.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert done.returncode == 0, done.stderr
