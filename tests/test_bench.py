"""`perpbt bench`: what it prints and writes, and that it prints nothing where two sides differ. No test is
about how long anything took.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import perpbt
import perpbt.bench as benchmarks
from perpbt import cli
from perpbt.bench import peers
from perpbt.bench.made import Population, bars_held, made_bars, made_venue
from perpbt.bench.measures import same
from perpbt.bench.sizes import Sizes

BASELINE = Path(__file__).parent / "bench" / "baseline.json"
TINY = Sizes(
    bars=2_000, repeat=1, engines=40, oracle=1, oracle_bars=400, accounts=(2, 50), histories=(500, 2_000),
    history_accounts=20, dense=1e6, trades=(2, 20), wallets=24, coupled=(60, 500), witnessed=20, natural=40, peer_gib=0.0,
)  # fmt: skip
TOP = {"schema", "taken", "machine", "versions", "options", "tables", "notes"}
INSIDE = ("engines", "scaling", "trades", "coupled")  # sections that start no process


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick sizes, for these tests, take no time at all."""
    monkeypatch.setattr(benchmarks, "QUICK", TINY)


def bench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Exit code, output and errors of `perpbt bench --quick`."""
    monkeypatch.setattr(sys, "argv", ["perpbt", "bench", "--quick", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr()
    return int(caught.value.code or 0), said.out, said.err


def only(*names: str) -> list[str]:
    return [word for name in names for word in ("--only", name)]


def checked(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Tables by name of a report that has the documented keys."""
    assert set(report) == TOP
    assert report["schema"] == 1
    assert {"processor", "cores", "memory_gib", "system", "architecture"} == set(report["machine"])
    assert {"python", "perpbt", "numpy", "numba", "polars"} <= set(report["versions"])
    assert set(report["options"]) == {"sizes", "threads", "sections"}
    for table in report["tables"]:
        assert set(table) == {"name", "title", "columns", "rows", "notes"}
        keys = [column["key"] for column in table["columns"]]
        assert len(set(keys)) == len(keys)
        assert all(set(column) == {"key", "title", "unit", "digits"} for column in table["columns"])
        for row in table["rows"]:
            assert set(row) == {"key", "label", "values"}
            assert set(row["values"]) == set(keys)
    return {table["name"]: table for table in report["tables"]}


def test_tables_are_printed_and_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    words = (
        "--threads",
        "1",
        "--json",
        str(file),
        *only("engines", "scaling", "wallets", "trades", "coupled", "memory", "stages"),
    )
    code, said, progress = bench(monkeypatch, capsys, *words)
    assert (code, progress.splitlines()[0]) == (0, "1 of 7: engines")
    report = json.loads(file.read_text())
    tables = checked(report)
    made = {
        "engines",
        "oracle",
        "accounts",
        "holding",
        "bars",
        "wallets",
        "trades",
        "coupled",
        "meeting",
        "memory",
        "stages",
    }
    assert set(tables) == made
    for table in tables.values():
        assert table["title"] in said
        for row in table["rows"]:
            assert row["label"] in said
    assert [len(tables[name]["rows"]) for name in ("engines", "oracle")] == [6, 6]
    assert [row["values"]["accounts"] for row in tables["accounts"]["rows"]] == [2, 50]
    assert [row["values"]["wallets"] for row in tables["wallets"]["rows"]] == [24] * 5
    assert all(row["values"]["ratio"] > 0 for row in tables["wallets"]["rows"])
    assert all(row["values"]["dense_s"] is not None for row in tables["accounts"]["rows"])
    assert [row["key"] for row in tables["meeting"]["rows"]] == ["apart", "fund", "adl", "dry"]
    assert all(row["values"]["mib"] > 10 for row in tables["memory"]["rows"])
    stages = [row["key"] for row in tables["stages"]["rows"]]
    assert stages[0] == "start"
    assert {"kernels", "statistics"} <= set(stages)
    assert stages[-2:] == ["rest", "wall"]


@pytest.mark.parametrize("section", INSIDE)
def test_a_difference_stops_it_before_any_timing_is_shown(
    section: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The dense engine, made to be wrong in the last bit of one number."""
    door = "backtest" if section == "trades" else "simulate"
    right = getattr(perpbt, door)

    def wrong(*given: Any, engine: str = "auto", **options: Any) -> perpbt.Result:
        result = right(*given, engine=engine, **options)
        if engine == "dense":
            cash = result.accounts["cash_change"].to_numpy().copy()
            cash[0] = np.nextafter(cash[0], np.inf)
            result.accounts = result.accounts.with_columns(pl.Series("cash_change", cash))
        assert isinstance(result, perpbt.Result)
        return result

    monkeypatch.setattr(perpbt, door, wrong)
    file = tmp_path / "figures.json"
    code, said, errors = bench(monkeypatch, capsys, "--json", str(file), *only(section))
    assert (code, said) == (1, "")
    assert "skip and dense differ in cash_change of row 0" in errors
    assert not file.exists()


def test_tables_of_other_shape_differ() -> None:
    table = pl.DataFrame({"a": [1.0, None]})
    same("two tables", ("one", "other"), table, table.clone())
    with pytest.raises(perpbt.RunError, match=r"a of row 1: None and 2\.0"):
        same("two tables", ("one", "other"), table, pl.DataFrame({"a": [1.0, 2.0]}))
    with pytest.raises(perpbt.RunError, match="numbers of rows"):
        same("two tables", ("one", "other"), table, table.head(1))


def test_made_bars_and_populations_are_what_they_say() -> None:
    frame = made_bars(1000)
    assert np.array_equal(frame["open"].to_numpy()[1:], frame["close"].to_numpy()[:-1])
    assert frame["funding_rate"].count() == 3
    result = perpbt.simulate(frame, Population(20.0, stop=0.002).table(30, 1000), venue=made_venue())
    assert result.accounts["exit_reason"].is_in(["stop_loss", "end"]).all()
    minutes = (pl.col("exit_time") - pl.col("entry_time")).dt.total_minutes()
    assert bars_held(result.accounts) == result.accounts.select((minutes + 1).sum()).item()


# ---------------------------------------------------------------------------------------- the other side
def test_without_vectorbt_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "installed", lambda: False)
    code, said, _ = bench(monkeypatch, capsys, *only("vectorbt"))
    assert (code, peers.MISSING in said, "pip install 'perpbt[bench]'" in said) == (0, True, True)
    code, said, errors = bench(monkeypatch, capsys, "--against", "vectorbt", *only("vectorbt"))
    assert (code, said, peers.MISSING in errors) == (2, "", True)
    code, said, _ = bench(monkeypatch, capsys, "--against", "none", *only("vectorbt"))
    assert (code, peers.MISSING in said) == (0, False)


@pytest.mark.skipif(not peers.installed(), reason="the extra perpbt[bench] is not installed")
def test_vectorbt_finds_the_same_exits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    monkeypatch.setattr(benchmarks, "QUICK", Sizes(**{**vars(TINY), "bars": 20_000, "peer_gib": 0.03}))
    code, said, _ = bench(monkeypatch, capsys, "--json", str(file), *only("vectorbt"))
    table = checked(json.loads(file.read_text()))["vectorbt"]
    assert (code, table["title"] in said) == (0, True)
    assert [row["key"] for row in table["rows"]] == ["stop_only", "same_physics"]
    assert all(row["values"]["exits"] > 0 for row in table["rows"])
    assert table["rows"][1]["values"]["liquidated"] > 0


@pytest.mark.parametrize(
    ("what", "name"), [("exit bar", "exit_bar"), ("exit price", "exit_price"), ("funding", "funding")]
)
def test_an_exit_that_differs_is_named(what: str, name: str) -> None:
    frame = made_bars(5000)
    ours = perpbt.simulate(frame, Population(20.0, stop=0.01).table(10, 5000), venue=made_venue()).accounts
    left = (ours["exit_reason"] != "end").to_numpy()
    theirs = {
        "exit_bar": np.where(left, peers.bar_of(ours["exit_time"]), -1),
        "exit_price": np.where(left, ours["exit_price"].to_numpy(), np.nan),
        "liquidated": (ours["exit_reason"] == "liquidation").to_numpy(),
        "funding": np.where(left, ours["funding"].to_numpy(), np.nan),
    }
    assert peers.same_exits("made", ours, theirs, True) == left.sum()
    row = int(np.flatnonzero(left)[0])
    theirs[name][row] += 1
    with pytest.raises(
        perpbt.RunError, match=rf"{what} of 1 of 10 accounts, the first in row {row}: .*no timing"
    ):
        peers.same_exits("made", ours, theirs, True)


# ------------------------------------------------------------------------------------ baselines and options
def test_a_baseline_is_set_beside_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "old.json"
    bench(monkeypatch, capsys, "--json", str(file), *only("trades"))
    old = json.loads(file.read_text())
    old["tables"][0]["rows"][0]["values"]["kernels_s"] = 4.0
    old["tables"][0]["rows"][1]["values"]["trades"] = 1
    file.write_text(json.dumps(old))
    code, said, _ = bench(monkeypatch, capsys, "--baseline", str(file), *only("trades"))
    assert code == 0
    beside = said.partition("Times and sizes: old on")[2]
    assert "trades / 2" in beside
    assert " 4.000 " in beside
    assert "trades / 20" not in beside
    assert "taken there on other amounts of work" in beside


def test_what_is_given_wrong_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    other.write_text("[]")
    for words, told in (
        (("--only", "speed"), "--only speed: allowed: engines, scaling"),
        (("--against", "zipline"), "--against zipline: allowed: vectorbt, none"),
        (("--json", str(tmp_path / "no" / "file.json")), "a file in a folder that exists"),
        (("--baseline", str(tmp_path / "none.json")), "cannot be read"),
        (("--baseline", str(other)), "not a benchmark report"),
        (("--vectorbt-memory", "0"), "--vectorbt-memory 0.0: allowed: a number of GiB above 0"),
        (("--threads", "0", "--only", "engines"), "--threads 0: allowed: at least 1"),
    ):
        code, said, errors = bench(monkeypatch, capsys, *words)
        assert (code, said) == (2, "")
        assert told in errors


def test_the_committed_baseline_can_be_read() -> None:
    tables = checked(json.loads(BASELINE.read_text()))
    assert {"engines", "accounts", "holding", "bars", "trades", "vectorbt", "memory", "stages"} <= set(tables)
