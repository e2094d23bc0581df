"""A run with a bound on memory: the same bytes as one without, nothing left behind, and the bound held.

`python tests/test_out_of_core.py accounts` (or `trades`) makes the bars of the slow tests and runs them in a process of its own.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_bars import START, two_symbols

import perpbt
import perpbt.doors.simulation
import perpbt.engines.book
import perpbt.engines.chunks
import perpbt.engines.given
import perpbt.running.budget
import perpbt.running.conclude
import perpbt.settling.settled
from perpbt import cli
from perpbt.config.memory import memory_words, parse_memory
from perpbt.engines.book import Spool
from perpbt.running import budget

REPOSITORY = Path(__file__).parents[1]
ENOUGH = "16GiB"
TABLES = ("accounts", "fund", "statistics", "policies", "prices")
RANDOM = np.random.default_rng(5)
COUNT = 700


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    return two_symbols(900, mark=True, funding=True)


def positions(bars: pl.DataFrame) -> pl.DataFrame:
    """Positions in no order, on two symbols, in three worlds, some of which are refused."""
    random, size = np.random.default_rng(6), COUNT
    moments = [START + timedelta(minutes=int(k)) for k in random.integers(-10, 1000, size)]
    return pl.DataFrame(
        {
            "account": random.integers(0, 200, size),
            "strategy": random.choice(["b", "a", "c"], size),
            "symbol": random.choice(bars["symbol"].unique().sort().to_list(), size),
            "side": random.choice(["long", "short"], size),
            "entry_time": pl.Series(moments, dtype=pl.Datetime("ms", "UTC")),
            "collateral": random.uniform(10, 1e5, size),
            "leverage": random.choice([2.0, 10.0, 50.0, 125.0, 500.0], size),
            "stop_loss": pl.Series(random.choice([0.01, 0.05, np.nan], size)).fill_nan(None),
            "world": random.choice(["z", "y", "x"], size),
            "weight": random.uniform(0.1, 9, size),
            "policy": pl.Series(random.choice(["p", "q", None], size).tolist(), dtype=pl.String),
        }
    )


def turns() -> dict[str, pl.Expr]:
    """Long and short by turns, out half-way."""
    number = pl.int_range(pl.len())
    step, leave = number // 7, number % 7 == 5
    return {
        "long_entry": (number % 7 == 0) & (step % 2 == 0),
        "short_entry": (number % 7 == 0) & (step % 2 == 1),
        "long_exit": leave,
        "short_exit": leave,
    }


GRID: list[dict[str, Any]] = [
    {
        "capital": 1000,
        "leverage": [5, 20],
        "sizing": {"kind": "equity", "fraction": 0.5},
        "margin_call": [
            {"action": "top_up", "threshold": 0.3, "target": 0.15, "max_calls": 3},
            {"action": "deleverage", "threshold": 0.3, "fraction": 0.5, "max_calls": 3},
        ],
        "reentry": {"cool_down": "5m"},
    },
    {"leverage": [3, 60], "max_trades": 1},
    {"leverage": 2000},
]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "crowding": {"crowding": True, "fund": {"seed": 50.0, "fee_share": 0.2}},
    "interest": {"open_interest": 1e7, "crowding": True, "fund": {"seed": 1000.0, "scope": "pooled"}},
}


def run(door: str, bars: pl.DataFrame, **options: Any) -> perpbt.Result:
    """One door on the bars."""
    if door == "given":
        return perpbt.simulate(bars, positions(bars), **options)
    return perpbt.backtest(bars, [{"name": "hold"}, turns], GRID, offsets=23, **options)


def column_bytes(column: pl.Series) -> bytes:
    """Type, nulls and values to the last bit, however they are laid out."""
    plain = column.to_physical() if column.dtype.is_temporal() else column
    plain = plain.cast(pl.UInt8) if plain.dtype == pl.Boolean else plain
    if plain.dtype == pl.String:
        values = "\0".join(plain.fill_null("")).encode()
    else:
        values = plain.fill_null(0).to_numpy().tobytes()
    return f"{column.dtype} {column.is_null().to_list()}".encode() + values


def contents(result: perpbt.Result) -> dict[str, bytes]:
    """Every table and what is told of the run, to the last bit."""
    found = {}
    for name in TABLES:
        for column in getattr(result, name).iter_columns():
            found[f"{name}.{column.name}"] = column_bytes(column)
    told = {
        key: value for key, value in result.metadata.items() if not key.startswith(("timings", "peak_memory"))
    }
    return {**found, "metadata": json.dumps(told, default=str).encode()}


@pytest.fixture(scope="module")
def in_memory(bars: pl.DataFrame) -> dict[tuple[str, str], dict[str, bytes]]:
    return {
        (door, name): contents(run(door, bars, **options))
        for door in ("given", "signals")
        for name, options in OPTIONS.items()
    }


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a few rows, all of them kept in a file, on threads even for so little."""
    monkeypatch.setattr(perpbt.engines.chunks, "CHUNK", 37)
    monkeypatch.setattr(perpbt.engines.chunks, "PAGE", 5)
    monkeypatch.setattr(perpbt.engines.chunks, "SERIAL_BELOW", 0)
    monkeypatch.setattr(perpbt.doors.simulation, "BLOCK", 101)
    monkeypatch.setattr(perpbt.running.conclude, "CHUNK", 11)
    monkeypatch.setattr(perpbt.engines.given, "CHUNK", 11)
    monkeypatch.setattr(perpbt.running.conclude, "ROW_GROUP", 64)
    monkeypatch.setattr(perpbt.running.conclude, "SERIAL_BELOW", 0)
    monkeypatch.setattr(perpbt.settling.settled, "MOST_EVENTS", 16)
    monkeypatch.setattr(perpbt.running.budget, "Spool", lambda room, folder=None: Spool(0, folder))


# ------------------------------------------------------------------------------------------ the same bytes
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("door", ["given", "signals"])
def test_a_bound_on_memory_changes_nothing(
    door: str,
    name: str,
    threads: int,
    bars: pl.DataFrame,
    tiny: None,
    tmp_path: Path,
    in_memory: dict[tuple[str, str], dict[str, bytes]],
) -> None:
    result = run(door, bars, memory=ENOUGH, scratch=tmp_path, threads=threads, **OPTIONS[name])
    assert contents(result) == in_memory[door, name]
    assert set(result.accounts["exit_reason"]) >= {"liquidation", "rejected"}
    assert result.scan().select(pl.len()).collect().item() == result.metadata["positions"] > 64
    del result
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("door", ["given", "signals"])
def test_small_pieces_in_memory_change_nothing(
    door: str, bars: pl.DataFrame, tiny: None, in_memory: dict[tuple[str, str], dict[str, bytes]]
) -> None:
    for name, options in OPTIONS.items():
        assert contents(run(door, bars, threads=2, **options)) == in_memory[door, name]


def test_rows_stay_in_memory_while_there_is_room(bars: pl.DataFrame, in_memory: Any) -> None:
    assert contents(run("signals", bars, memory=ENOUGH)) == in_memory["signals", "plain"]
    assert contents(run("given", bars, memory=2**33)) == in_memory["given", "plain"]


@pytest.mark.parametrize("source", ["frame", "file", "lazy"])
def test_the_order_of_the_table_is_kept(source: str, bars: pl.DataFrame, tiny: None, tmp_path: Path) -> None:
    table = (
        positions(bars)
        .with_columns(account=pl.int_range(pl.len()).cast(pl.String))
        .sample(fraction=1, shuffle=True, seed=1)
    )
    table.write_parquet(tmp_path / "accounts.parquet", row_group_size=50)
    given = {"frame": table, "file": tmp_path / "accounts.parquet", "lazy": table.lazy()}[source]
    result = perpbt.simulate(bars, given, memory=ENOUGH, crowding=True)
    assert result.accounts["account"].equals(table["account"])
    assert contents(result) == contents(perpbt.simulate(bars, table, crowding=True))


def test_nothing_traded_is_a_table_without_rows(bars: pl.DataFrame, tiny: None) -> None:
    never = perpbt.backtest(bars, lambda: {}, {"leverage": [2, 3]}, memory=ENOUGH)
    assert never.accounts.equals(perpbt.backtest(bars, lambda: {}, {"leverage": [2, 3]}).accounts)
    assert never.accounts.height == 0


# ------------------------------------------------------------------------------------ what reads the result
def test_reports_and_tables_read_the_file(bars: pl.DataFrame, tiny: None, tmp_path: Path) -> None:
    from perpbt.summary import render

    free, bound = (
        run("signals", bars, crowding=True),
        run("signals", bars, crowding=True, memory=ENOUGH, scratch=tmp_path),
    )
    bound.metadata = free.metadata
    assert render(bound) == render(free)
    assert (
        bound.report(tmp_path / "bound.html").read_bytes() == free.report(tmp_path / "free.html").read_bytes()
    )
    bound.write(tmp_path / "bound", report=False)
    free.write(tmp_path / "free", report=False)
    for name in ("accounts", "fund", "statistics", "policies"):
        assert pl.read_parquet(tmp_path / f"bound/{name}.parquet").equals(
            pl.read_parquet(tmp_path / f"free/{name}.parquet")
        )
    assert oct((tmp_path / "bound" / "accounts.parquet").stat().st_mode) == oct(
        (tmp_path / "bound" / "fund.parquet").stat().st_mode
    )
    del bound
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bound", "bound.html", "free", "free.html"]


def test_progress_has_a_label_for_each_pass(bars: pl.DataFrame, tiny: None) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    run(
        "given",
        bars,
        memory=ENOUGH,
        progress=lambda label, done, total: seen.setdefault(label, []).append((done, total)),
    )
    assert list(seen) == [*bars["symbol"].unique().sort(), "settling"]
    for steps in seen.values():
        assert len(steps) > 2
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert steps[-1][0] == steps[-1][1]


# ------------------------------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        ("100", 100),
        ("4GiB", 4 * 2**30),
        ("512 MiB", 512 * 2**20),
        ("2.5GB", 2_500_000_000),
        ("1kib", 1024),
    ],
)
def test_sizes_are_read(text: int | str, size: int) -> None:
    assert parse_memory(text) == size


def test_sizes_are_told_rounded_up() -> None:
    assert memory_words(2**30) == "1 GiB"
    assert memory_words(2**30 + 1) == "1.1 GiB"
    assert parse_memory(memory_words(123_456_789)) >= 123_456_789


@pytest.mark.parametrize("wrong", ["4 giraffes", "", "-1", 0, -5, True, 2.5, "GiB", "1e9", "0.1"])
def test_sizes_that_are_none_are_refused(wrong: Any, bars: pl.DataFrame) -> None:
    with pytest.raises(perpbt.InputError, match=r"memory = .*must be a number of bytes"):
        run("given", bars, memory=wrong)


def test_what_others_give_back_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What readers of files are done with is not counted as needed, though it goes back to the system a little later."""
    held = [900 << 20] * 3 + [int(share * 2**20) for share in np.linspace(900.0, 300.0, 12)]
    monkeypatch.setattr(budget, "held_memory", lambda: held.pop(0) if len(held) > 1 else held[0])
    plan = budget.Budget(640 << 20, tmp_path)
    plan.check(100 << 20)
    assert plan.room == (640 - 300 - 100 << 20) - budget.FIXED
    plan.hold(340 << 20)
    held[:] = [900 << 20] * 5 + [350 << 20]
    with pytest.raises(perpbt.InputError, match=r"memory = 640 MiB: this run needs at least 690 MiB for the"):
        plan.hold(340 << 20)


def test_what_never_fits_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """However much others may give back, or if they give back nothing."""
    asked: list[int] = []
    monkeypatch.setattr(budget, "held_memory", lambda: asked.append(1) or 600 << 20)
    monkeypatch.setattr(budget, "PATIENCE", 0.05)
    plan = budget.Budget(640 << 20, tmp_path)
    with pytest.raises(perpbt.InputError, match=r"needs at least 1\.3 GiB"):
        plan.check(513 << 20)
    assert len(asked) == 1
    with pytest.raises(perpbt.InputError, match="needs at least 828 MiB"):
        plan.check(100 << 20)
    assert len(asked) > 2


def test_a_bound_too_small_names_the_least(bars: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(
        perpbt.InputError, match=r"memory = 1 MiB: this run needs at least [\d.]+ [MG]iB"
    ) as caught:
        run("signals", bars, memory="1MiB", scratch=tmp_path)
    least = str(caught.value).rpartition("at least ")[2]
    assert parse_memory(least) > 100 * 2**20
    assert run("signals", bars, memory=parse_memory(least) + 2**24, scratch=tmp_path).accounts.height
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_kept_within_a_bound_is_refused(bars: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(perpbt.InputError, match=r"equity_every with memory"):
        run("given", bars, memory=ENOUGH, equity_every="1h")
    with pytest.raises(perpbt.InputError, match=r"scratch = .*nothing can be kept there"):
        run("given", bars, memory=ENOUGH, scratch=tmp_path / "absent")


# ------------------------------------------------------------------------------------- nothing is left behind
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize(
    "place",
    [
        "perpbt.running.conclude.ledger",
        "perpbt.stored.Writer.append",
        "perpbt.engines.book.note_fills",
        "perpbt.settling.settled.settle_rows",
    ],
)
@pytest.mark.parametrize("door", ["given", "signals"])
def test_a_run_that_ends_early_leaves_nothing(
    door: str,
    place: str,
    error: Any,
    bars: pl.DataFrame,
    tiny: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(place, fail)
    with pytest.raises((KeyboardInterrupt, OSError)):
        run(door, bars, memory=ENOUGH, scratch=tmp_path, threads=2)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(
    bars: pl.DataFrame, tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.RawIOBase):
        def seek(self, *_: object) -> int:
            return 0

        def write(self, *_: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(perpbt.RunError, match=r"no room for what memory has no room for.*No space left"):
        run("given", bars, memory=ENOUGH, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []


STUDY = """
[data]
path = "bars.parquet"
[venue]
tiers_as = {AAA = "BTCUSDT", BBB = "ETHUSDT"}
[[strategy]]
name = "hold"
[policy]
leverage = [5, 50]
"""


@pytest.fixture
def folder(bars: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    bars.write_parquet(tmp_path / "bars.parquet")
    (tmp_path / "study.toml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The command line in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["perpbt", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def test_the_command_takes_a_bound(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "run", "study.toml", "--out", "free", "--quiet") == 0
    assert command(monkeypatch, "run", "study.toml", "--out", "bound", "--quiet", "--memory", "16 GiB") == 0
    assert sorted(path.name for path in folder.iterdir()) == ["bars.parquet", "bound", "free", "study.toml"]
    free, bound = (json.loads((folder / name / "run.json").read_text()) for name in ("free", "bound"))
    assert free["run_sha256"] == bound["run_sha256"]
    assert pl.read_parquet("free/accounts.parquet").equals(pl.read_parquet("bound/accounts.parquet"))
    assert command(monkeypatch, "run", "study.toml", "--out", "other", "--memory", "lots") == 2
    assert "memory = 'lots': must be a number of bytes" in capsys.readouterr().err
    assert command(monkeypatch, "run", "study.toml", "--out", "other", "--memory", "1MB") == 2
    assert "this run needs at least" in capsys.readouterr().err
    assert not (folder / "other").exists()


# ------------------------------------------------------------------------------------------------- large runs
HOURS = 43_800
HOURLY = ("AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT", "EEEUSDT")
LIMIT = "4GiB"


def hourly(path: Path) -> None:
    """Five years of made hours of five symbols, with crashes."""
    begin = int(datetime(2019, 1, 1, tzinfo=UTC).timestamp() * 1000)
    frames = []
    for number, symbol in enumerate(HOURLY):
        random = np.random.default_rng(number)
        steps = random.normal(0, 0.006, HOURS)
        steps[[9_000, 20_000, 30_000]] -= 0.15
        close = 1000.0 * np.exp(np.cumsum(steps - steps.mean()))
        first = np.concatenate([[1000.0], close[:-1]])
        reach = np.exp(np.abs(random.normal(0, 0.003, (2, HOURS))))
        last = (first, np.maximum(first, close) * reach[0], np.minimum(first, close) / reach[1], close)
        names = ("open", "high", "low", "close")
        frames.append(
            pl.DataFrame(
                {
                    "ts": begin + 3_600_000 * np.arange(HOURS),
                    "symbol": [symbol] * HOURS,
                    **dict(zip(names, last, strict=True)),
                    "volume": random.uniform(50, 5000, HOURS),
                    "funding_rate": np.where(np.arange(HOURS) % 8 == 0, 0.0001, np.nan),
                }
            )
        )
    moments = pl.col("ts").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    pl.concat(frames).with_columns(moments, pl.col("funding_rate").fill_nan(None)).write_parquet(path)


def often() -> dict[str, pl.Expr]:
    """In for two bars, out for two."""
    place = pl.int_range(pl.len()) % 4
    return {"long_entry": place == 0, "long_exit": place == 2}


def large(what: str, source: str | None = None) -> dict[str, Any]:
    """A run too large to hold: 20 million accounts of one position each, or few that trade 30 million times."""
    from perpbt.running.budget import peak_memory

    with tempfile.TemporaryDirectory() as folder:
        path = Path(source) if source else Path(folder) / "bars.parquet"
        if not source:
            hourly(path)
        bars = perpbt.load_bars(path, symbols=None if not source else real_symbols(path))
        policies: dict[str, Any] = {
            "leverage": [2, 3, 4, 5, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 75],
            "capital": 100,
        }
        if what == "accounts":
            policies |= {"stop_loss": ["none", 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15], "max_trades": 1}
            options: dict[str, Any] = {"offsets": 40_000, "crowding": True, "open_interest": 1e9}
        else:
            policies |= {"stop_loss": [0.01, 0.02]}
            options = {"offsets": 40}
        strategy: Any = (
            often if what == "trades" else {"name": "random_entry", "params": {"probability": 0.2}}
        )
        labels: list[str] = []
        since = time.perf_counter()
        result = perpbt.backtest(
            bars, strategy, policies, memory=LIMIT, scratch=folder,
            progress=lambda label, done, total: None if label in labels[-1:] else labels.append(label), **options,
        )  # fmt: skip
        seconds = time.perf_counter() - since
        result.write(Path(folder) / "out", report=False)
        return {
            "accounts": result.metadata["accounts"],
            "positions": result.metadata["positions"],
            "written": pl.scan_parquet(Path(folder) / "out/accounts.parquet")
            .select(pl.len())
            .collect()
            .item(),
            "symbols": list(result.metadata["symbols"]),
            "labels": labels,
            "seconds": round(seconds, 1),
            "timings": result.metadata["timings_seconds"],
            "peak": peak_memory(),
        }


def real_symbols(path: Path) -> list[str]:
    """The five symbols with the longest history."""
    counts = pl.scan_parquet(path).group_by("symbol").len().sort("len", "symbol", descending=[True, False])
    return counts.head(5).collect()["symbol"].to_list()


def in_process(*words: str) -> dict[str, Any]:
    """What this file prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, *words], capture_output=True, text=True, timeout=3000,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_large(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{json.dumps(found)}\n")
    assert found["written"] == found["positions"]
    assert found["labels"] == [*found["symbols"], "settling"]
    assert found["peak"] < parse_memory(LIMIT)


@pytest.mark.slow
def test_twenty_million_accounts_fit(capsys: pytest.CaptureFixture[str]) -> None:
    found = in_process("accounts")
    assert found["accounts"] > 20_000_000
    check_large(found, capsys)


@pytest.mark.slow
def test_thirty_million_trades_fit(capsys: pytest.CaptureFixture[str]) -> None:
    found = in_process("trades")
    assert found["positions"] > 30_000_000
    check_large(found, capsys)


@pytest.mark.slow
def test_twenty_million_accounts_on_real_hours_fit(capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(os.environ.get("PERPBT_DATA", REPOSITORY.parent / "shared" / "data"))
    path = data / "binance_um_1h_2019_2023.parquet"
    if not path.exists():
        pytest.skip(f"no {path.name} in {data}")
    found = in_process("accounts", str(path))
    assert found["accounts"] > 20_000_000
    check_large(found, capsys)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(large(*sys.argv[1:])))
