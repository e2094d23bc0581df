"""The command line: help that teaches, what a run writes, silence, repeats, interruptions, exit codes."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from made_bars import two_symbols, with_value
from typer.testing import CliRunner

import perpbt
from perpbt import cli
from perpbt.config import load_spec
from perpbt.doors import specification as running
from perpbt.engines.chunks import ENGINES
from perpbt.errors import RunError
from perpbt.result import Result

REPOSITORY = Path(__file__).parents[1]
SPEC = """\
title = "A small study"
description = "Two symbols."
offsets = 4
[data]
path = "bars.parquet"
[venue]
taker_fee = 0.001
[world]
open_interest = 1e6
crowding = true
[[strategy]]
name = "random_entry"
label = "coin"
params = {probability = 0.2, seed = 3}
[policy]
capital = 100
leverage = [10, 50]
stop_loss = ["none", 0.02]
max_holding = "30m"
"""
TABLES = ["accounts.parquet", "fund.parquet", "policies.parquet", "statistics.parquet"]
RUN = ("run", "study.toml", "--out", "runs/one")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a small dataset and a study of it."""
    monkeypatch.chdir(tmp_path)
    two_symbols(600, mark=True, funding=True).write_parquet("bars.parquet")
    Path("study.toml").write_text(SPEC)
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of the command line; anything but SystemExit is a traceback, and fails the test."""
    monkeypatch.setattr(sys, "argv", ["perpbt", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones included."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else b"" for name, path in found.items()}


def python(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds this checkout."""
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        **options,
    )


# ------------------------------------------------------------------------------------------- what is said
@pytest.mark.parametrize(
    ("words", "taught"),
    [
        ([], ["perpbt run leverage_vs_stop", "perpbt validate my_bars.parquet", "Exit codes: 0 done", "venues"]),
        (["run"], ["perpbt run my_study.toml --out", "--set policy.stop_loss=0.01", "accounts.parquet", "KEY=VALUE"]),
        (["validate"], ["perpbt validate sample", "exits with 2", "--symbol"]),
        (["strategies"], ["List the strategies found by name"]),
        (["venues"], ["source of every number"]),
    ],
)  # fmt: skip
def test_help_teaches(words: list[str], taught: list[str]) -> None:
    found = CliRunner().invoke(cli.app, [*words, "--help"])
    assert found.exit_code == 0
    said = " ".join(found.output.split())
    for words_taught in taught:
        assert words_taught in said
    assert "\x1b" not in found.output


def test_the_commands_and_keys_that_help_shows_are_real(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every example of the help, as far as it can be run here, is read without complaint."""
    said = " ".join(CliRunner().invoke(cli.app, ["run", "--help"]).output.split())
    settings = re.findall(r"--set (\S+=\S+)", said)
    assert len(settings) >= 3
    load_spec("leverage_vs_stop", [one for one in settings if one != "KEY=VALUE"])


def test_without_a_command_it_shows_the_way() -> None:
    found = CliRunner().invoke(cli.app, [])
    assert "perpbt run leverage_vs_stop" in found.output
    assert found.exit_code in (0, 2)  # versions of typer differ


def test_version() -> None:
    found = CliRunner().invoke(cli.app, ["--version"])
    assert (found.exit_code, found.output) == (0, f"perpbt {perpbt.__version__}\n")


def test_strategies_are_listed_and_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "strategies") == 0
    listed = capsys.readouterr().out
    for name in ("breakout", "funding_carry", "hold", "ma_cross", "random_entry"):
        assert re.search(rf"^{name} +\S.*\S$", listed, re.MULTILINE)
    assert command(monkeypatch, "strategies", "random_entry") == 0
    explained = capsys.readouterr().out
    assert "probability: float = 0.001" in explained
    assert "SplitMix64" in explained


def test_venues_are_listed_and_shown_with_sources(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "venues") == 0
    listed = capsys.readouterr().out
    assert re.search(r"^binance_um +\S", listed, re.MULTILINE)
    assert re.search(r"^bybit_linear +\S", listed, re.MULTILINE)
    assert command(monkeypatch, "venues", "binance_um") == 0
    shown = capsys.readouterr().out
    assert re.search(r"taker_fee +0\.0005\n +\S", shown)
    assert "tiers of BTCUSDT" in shown


def test_validate_says_what_is_there_and_what_is_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "validate", "bars.parquet") == 0
    good = capsys.readouterr()
    assert "all checks passed" in good.out
    assert "2: AAA, BBB" in good.out
    with_value(two_symbols(600), 7, close=-1.0).write_parquet("bars.parquet")
    assert command(monkeypatch, "validate", "bars.parquet") == 2
    bad = capsys.readouterr()
    assert "1 of 2 symbols cannot be used" in bad.out
    assert "row 7, column 'close'" in " ".join(bad.out.split())
    assert command(monkeypatch, "validate", "bars.parquet", "--symbol", "BBB") == 0
    assert good.err == bad.err == ""


# ---------------------------------------------------------------------------------------------- fast start
def typer_loads_rich_for_help() -> bool:
    """Older versions of typer import rich for the help of any program; what they load is not ours to avoid."""
    code = """
import sys, typer
def program(word: str = "x") -> None: ...
sys.argv = ["program", "--help"]
try:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(program)
    app()
except SystemExit:
    print("LOADED", "rich" in sys.modules)
"""
    return python("-c", code).stdout.splitlines()[-1] == "LOADED True"


@pytest.mark.parametrize("words", ["--help", "run --help", "validate bars.parquet", "venues", "--version"])
def test_what_a_command_does_not_need_is_not_imported(words: str, folder: Path) -> None:
    heavy = ["numba", "matplotlib", "scipy"]
    if not (words == "run --help" and typer_loads_rich_for_help()):
        heavy.append("rich")
    code = f"""
import sys
sys.argv = ["perpbt", *{words.split()!r}]
from perpbt.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("LOADED", [name for name in {heavy!r} if name in sys.modules])
"""
    found = python("-c", code, cwd=folder)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "LOADED []"


def test_a_run_imports_what_it_needs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what compiles kernels that are compiled already, nor what other kinds of runs need."""
    assert command(monkeypatch, *RUN, "--no-report", "--quiet") == 0  # from here on they are
    others = ["matplotlib", "scipy.linalg", "numba.np.linalg", "pyarrow.parquet"]
    others += ["perpbt.oracle", "perpbt.coupling.couple", "perpbt.kernels.stepping", "perpbt.crossing"]
    code = f"""
import sys
sys.argv = ["perpbt", *{[*RUN]!r}, "--no-report", "--quiet"]
from perpbt.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("LOADED", [name for name in {others!r} if name in sys.modules])
"""
    found = python("-c", code, cwd=folder)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "LOADED []"


# -------------------------------------------------------------------------------------------------- a run
def test_a_run_writes_these_files_and_says_what_matters(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, *RUN) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert sorted(path.name for path in Path("runs/one").iterdir()) == sorted(
        [*TABLES, "report.html", "run.json"]
    )
    assert [path.name for path in Path("runs").iterdir()] == ["one"]
    assert re.match(
        r"A small study: 32 accounts, \d+ positions on AAA, BBB, 2024-01-01 to 2024-01-01, venue binance_um",
        out,
    )
    for told in ("How positions ended, by leverage", "Liquidated, share of", "10x", "50x", "2%", "Notes"):
        assert told in out
    assert out.endswith("Results in runs/one/ — open runs/one/report.html\n")
    assert "\x1b" not in out
    report = Path("runs/one/report.html").read_text()
    assert "A small study" in report
    assert not re.search(r"""(src|href)=["']https?:""", report), "the report stands alone"


def test_run_json_says_what_ran_on_what(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, *RUN, "--quiet", "--no-report", "--set", "policy.leverage=[5, 10]") == 0
    found = json.loads(Path("runs/one/run.json").read_text())
    spec = load_spec("study.toml", ["policy.leverage=[5, 10]"])
    assert found["name"] == "study"
    assert found["title"] == "A small study"
    assert found["perpbt"] == perpbt.__version__
    assert found["spec"] == spec.canonical()
    assert found["spec_sha256"] == spec.identity()
    assert found["data_sha256"] == perpbt.load_bars("bars.parquet").fingerprint()
    assert found["code_sha256"] == running.code_sha256()
    assert re.fullmatch("[0-9a-f]{64}", found["run_sha256"])
    assert found["data"] == "bars.parquet"
    assert found["venue"]["name"] == "binance_um"
    assert found["venue"]["taker_fee"] == 0.001
    assert found["open_interest"] == 1e6
    assert found["crowding"] is True
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["polars"] == pl.__version__
    assert set(found["versions"]) == {"python", "numba", "numpy", "polars", "pyarrow"}
    timings = found["timings_seconds"]
    assert {"load", "prepare", "signals", "kernels", "settle", "tables", "statistics", "total"} <= set(
        timings
    )
    assert sum(timings.values()) - timings["total"] <= timings["total"] + 0.01
    assert 10 < found["peak_memory_mib"] < 100_000
    assert found["accounts"] == 32
    assert found["positions"] == pl.read_parquet("runs/one/accounts.parquet").height
    assert found["symbols"]["AAA"]["bars"] == 600
    assert found["strategies"][0]["label"] == "coin"
    assert found["engine"] in ENGINES[1:]
    assert found["engine_reason"]


def test_quiet_is_silent_and_pipes_get_no_progress(folder: Path) -> None:
    quiet = python("-m", "perpbt", *RUN, "--no-report", "--quiet", cwd=folder)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    piped = python("-m", "perpbt", *RUN, "--no-report", cwd=folder)
    assert piped.returncode == 0
    assert piped.stderr == ""
    assert "Results in runs/one/" in piped.stdout
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", piped.stdout), "no escape codes, no carriage returns"


def test_a_person_sees_progress(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the bar is drawn from the engine's own reports, and is gone afterwards."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with cli.progress_printer(quiet=False) as progress:
        for done in (1, 2, 2):
            progress("AAA", done, 2)
        progress("AAA", 1, 2)  # another strategy on the same symbol starts over
    with cli.progress_printer(quiet=True) as nothing:
        assert nothing is None


def test_a_second_run_replaces_the_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, *RUN, "--quiet", "--no-report", "--set", "output.equity_every=1h") == 0
    assert "equity.parquet" in contents(Path("runs/one"))
    assert command(monkeypatch, *RUN, "--quiet", "--no-report", "--set", "output.accounts=false") == 0
    assert sorted(contents(Path("runs"))) == sorted(
        ["one", "one/run.json", *(f"one/{name}" for name in TABLES if name != "accounts.parquet")]
    )


def test_without_out_the_result_is_named_after_the_study(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(monkeypatch, "run", "study.toml", "--quiet", "--no-report") == 0
    assert Path("runs/study/run.json").is_file()


def test_runs_threads_and_engines_give_the_same_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perpbt.engines.chunks.SERIAL_BELOW", 0)  # threads even for so little work
    monkeypatch.setattr("perpbt.engines.chunks.CHUNK", 4)
    found = []
    ways = [("one", "1", "auto"), ("again", "1", "auto"), ("two", "2", "auto")]
    for name, threads, engine in [*ways, *((engine, "2", engine) for engine in ENGINES[1:])]:
        words = ("--out", f"runs/{name}", "--threads", threads, "--set", f"engine={engine}")
        study = ("run", "study.toml", "--set", "offsets=300", "--quiet", "--no-report")
        assert command(monkeypatch, *study, *words) == 0
        files = contents(Path("runs") / name)
        told = json.loads(files.pop("run.json"))
        found.append((files, told["run_sha256"], told["money"], told["largest_crowd"]))
    assert sorted(found[0][0]) == TABLES
    assert all(one == found[0] for one in found)


def test_what_runs_decides_the_hash_of_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not titles, threads and remarks, but prices, a key, the strategy's source, the venue and a series."""
    source = (REPOSITORY / "strategies" / "random_entry.py").read_text()
    Path("own.py").write_text(source)
    Path("mine.toml").write_text((REPOSITORY / "perpbt" / "venues" / "bybit_linear.toml").read_text())
    bars = two_symbols(600)
    interest = bars.select("ts", open_interest=pl.lit(1e6))
    interest.write_parquet("interest.parquet")
    files = ("strategy.0.name=own.py", "venue.name=mine.toml", "world.open_interest=interest.parquet")

    def identity(*overrides: str) -> str:
        words = [word for one in (*files, *overrides) for word in ("--set", one)]
        assert command(monkeypatch, *RUN, "--quiet", "--no-report", *words) == 0
        return str(json.loads(Path("runs/one/run.json").read_text())["run_sha256"])

    first = identity()
    assert identity("threads=2", "title=Other", "engine=dense") == first
    others = [identity("policy.capital=101"), identity("data.end=2024-01-01T09:00")]
    Path("own.py").write_text(source + "\n# other\n")
    others.append(identity())
    venue = Path("mine.toml").read_text()
    Path("mine.toml").write_text(f"# A remark.\n{venue}")
    assert identity() == others[-1]
    changed, count = re.subn(r"(?m)^(slippage *= *\{ *value *= *)[0-9.]+", r"\g<1>0.00077", venue)
    assert count == 1
    Path("mine.toml").write_text(changed)
    others.append(identity())
    interest.with_columns(open_interest=pl.lit(2e6)).write_parquet("interest.parquet")
    others.append(identity())
    assert len({first, *others}) == 1 + len(others)


def test_a_run_without_any_position_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, *RUN, "--set", "strategy.0.params.probability=0.0") == 0
    assert "A small study: no positions on AAA, BBB" in capsys.readouterr().out
    assert pl.read_parquet("runs/one/accounts.parquet").height == 0
    assert Path("runs/one/report.html").is_file()


# ------------------------------------------------------------------------------- runs that come to no end
def earlier_result(folder: Path) -> dict[str, bytes]:
    """A result that stands where the next one is to go."""
    place = folder / "runs" / "one"
    place.mkdir(parents=True)
    (place / "run.json").write_text("{}")
    (place / "accounts.parquet").write_bytes(b"earlier")
    return contents(folder)


def test_an_interrupted_run_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the key is pressed while accounts run, while the tables are written, or during the report."""
    before = contents(folder)

    class Pressed:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __call__(self, label: str, done: int, total: int) -> None:
            assert (label, done <= total) == ("AAA", True)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli, "progress_printer", lambda quiet: Pressed())
        assert command(patch, *RUN) == 130
    assert capsys.readouterr() == ("", "interrupted; nothing was written\n")
    assert contents(folder) == before

    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place in ("write_parquet", "report"):
        with monkeypatch.context() as patch:
            patch.setattr(pl.DataFrame if place == "write_parquet" else Result, place, press)
            assert command(patch, *RUN) == 130
        assert contents(folder) == {**before, "runs": b""}
    kept = earlier_result(folder / "deep")
    with monkeypatch.context() as patch:
        patch.setattr(Result, "report", press)
        assert command(patch, "run", "study.toml", "--out", "deep/runs/one") == 130
    assert contents(folder / "deep") == kept


def test_a_run_that_fails_exits_with_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = earlier_result(folder)

    def broken(*_: object, **__: object) -> None:
        raise RunError("money of the run does not balance")

    with monkeypatch.context() as patch:
        patch.setattr("perpbt.running.conclude.check_run", broken)
        assert command(patch, *RUN) == 1
    assert capsys.readouterr() == ("", "error: money of the run does not balance\n")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_parquet", full)
        assert command(patch, *RUN) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("error: runs/one: the result could not be written: [Errno 28] No space left on device\n")
    assert contents(folder) == before


def test_a_result_that_cannot_be_put_in_place_leaves_the_earlier_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = earlier_result(folder)
    rename = perpbt.result.os.rename

    def refuses(source: Any, target: Any) -> None:
        if Path(target).name == "one" and Path(source).name != "run":  # bringing the earlier one back works
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr("perpbt.result.os.rename", refuses)
    assert command(monkeypatch, *RUN, "--quiet", "--no-report") == 1
    assert contents(folder) == before
