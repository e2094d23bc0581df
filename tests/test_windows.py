"""Bars window by window: where one symbol's history does not fit into memory, the same bytes and the same errors as where it does.

`python tests/test_windows.py BARS SIZE ACCOUNTS SYMBOL…` runs accounts on a file of bars in a process of its own, for the slow test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as parquet  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_bars import START, made_bars, two_symbols, with_value
from test_out_of_core import GRID, OPTIONS, contents, positions, turns

import perpbt
import perpbt.running.budget
from perpbt import mapped
from perpbt.config import Rules
from perpbt.config.memory import parse_memory
from perpbt.contracts import Contract
from perpbt.load.bars import SymbolBars
from perpbt.load.pack import pack
from perpbt.load.windows import collect_in_windows
from perpbt.mapped import MEMORY, Files, Shelf
from perpbt.prepare.arrays import market_arrays, signal_arrays

REPOSITORY = Path(__file__).parents[1]
STEPS = st.integers(1, 70)
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
TURNOVER = {"open_interest": {"days_of_turnover": 0.5, "window": "1h"}, "crowding": True}
RUNS: dict[str, dict[str, Any]] = {**OPTIONS, "turnover": TURNOVER}
HOLES = [0, 3, 4, 5, 60, 61, 90, 150, 151, 152, 153, 154, 299]


def files(step: int, folder: Path | None = None) -> Files:
    """A shelf with a bound that anything exceeds."""
    return Files(folder, 1, step)


def holding(_: int) -> None:
    """Nothing is too much."""


class Seen:
    """What was told of progress."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.rows = 0

    def add(self, done: int, rows: int) -> None:
        """So many more."""
        self.done.append(done)
        self.rows = rows


def odd_bars(rows: int = 300) -> pl.DataFrame:
    """Two symbols with gaps, rows without prices, marks and index that are missing here and there, volume and rates that come and go."""
    frames = []
    for seed, name in enumerate(("AAA", "BBB")):
        number = pl.int_range(pl.len())
        frame = made_bars(rows, name, seed=seed, mark=True, funding=True).with_columns(
            (pl.col(price) * 0.999).alias(f"index_{price}") for price in ("open", "high", "low", "close")
        )
        nulls = {
            "mark_": number % 11 == seed,
            "index_": (number % 13 == 2) & (number % 8 != 0),
            "volume": number % 17 == 5,
            "": number % 29 == 7,
        }
        for start, where in nulls.items():
            own = [
                c for c in frame.columns if c not in ("ts", "symbol", "funding_rate") and c.startswith(start)
            ]
            frame = frame.with_columns(pl.when(~where).then(pl.col(c)).alias(c) for c in own)
        frame = frame.with_columns(
            pl.when(number % 40 == 9).then(-0.003).otherwise("funding_rate").alias("funding_rate")
        )
        frames.append(frame.filter(~number.is_in([hole + seed for hole in HOLES])))
    return pl.concat(frames)


@pytest.fixture(scope="module")
def odd() -> pl.DataFrame:
    return odd_bars()


def same_bars(one: SymbolBars, other: SymbolBars) -> None:
    """Everything known of a symbol, nulls, bits and types."""
    for part in fields(SymbolBars):
        mine, others = getattr(one, part.name), getattr(other, part.name)
        if isinstance(mine, pl.DataFrame):
            assert mine.schema == others.schema
            assert mine.equals(others, null_equal=True), part.name
        else:
            assert mine == others, part.name
    assert one.digest() == other.digest()


def sources(bars: pl.DataFrame, folder: Path) -> dict[str, Any]:
    """The same bars in all forms that can be read."""
    folder.mkdir(exist_ok=True)
    one, apart = folder / "one.parquet", folder / "apart"
    apart.mkdir()
    bars.write_parquet(one, row_group_size=37)
    mixed = bars.sort("ts", "symbol", maintain_order=True)
    mixed.write_parquet(folder / "mixed.parquet", row_group_size=50)
    bars.write_csv(folder / "text.csv")
    ordered = bars.sort("symbol", "ts")
    for number in range(4):
        some = ordered[number * 140 : (number + 1) * 140 if number < 3 else None]
        some = some.drop("volume") if number == 1 else some
        some.write_parquet(apart / f"part={number}.parquet")
    pack(ordered.with_columns(pl.col(pl.Float64).round(4)), folder / "packed.parquet")
    rates = bars.select("ts", "symbol", "funding_rate").drop_nulls()
    return {
        "frame": perpbt.load_bars(bars),
        "file": perpbt.load_bars(one),
        "interleaved": perpbt.load_bars(folder / "mixed.parquet"),
        "text": perpbt.load_bars(folder / "text.csv"),
        "lazy": perpbt.load_bars(bars.lazy().filter(pl.col("ts").is_not_null())),
        "files, one without volume": perpbt.load_bars(apart),
        "packed": perpbt.load_bars(folder / "packed.parquet"),
        "a period": perpbt.load_bars(
            one, symbols=["BBB"], start=START + timedelta(minutes=40), end=START + timedelta(minutes=222)
        ),
        "rates apart": perpbt.load_bars(bars.drop("funding_rate"), funding=rates),
        "last alone": perpbt.load_bars(bars.select("ts", "symbol", "open", "high", "low", "close")),
    }


@pytest.fixture(scope="module")
def forms(odd: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> dict[str, perpbt.Bars]:
    return sources(odd, tmp_path_factory.mktemp("forms") / "bars")


# --------------------------------------------------------------------------------------------------- what is read
FORMS = ("frame", "file", "interleaved", "text", "lazy", "files, one without volume", "packed", "a period", "rates apart", "last alone")  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_source_reads_the_same_in_windows(
    form: str, forms: dict[str, perpbt.Bars], tmp_path: Path
) -> None:
    bars = forms[form]
    for symbol in bars.symbols:
        for step in (1 if form in ("frame", "file") else 7, 64, 10_000):
            shelf, seen = files(step, tmp_path), Seen()
            same_bars(collect_in_windows(bars, symbol, shelf, holding, seen.add), bars.collect(symbol))
            assert seen.done == sorted(seen.done)
            assert seen.done[-1] == seen.rows
            shelf.close()
    assert list(tmp_path.iterdir()) == []


def test_all_forms_are_tried(forms: dict[str, perpbt.Bars]) -> None:
    assert tuple(forms) == FORMS
    missing = forms["frame"].collect("AAA")
    counts = [missing.mark_missing, missing.empty_rows, missing.missing.height]
    assert min(counts + [missing.frame[name].null_count() for name in ("volume", "index_open")]) > 3


@QUICK
@given(step=STEPS, keep=st.lists(st.booleans(), min_size=120, max_size=120), seed=st.integers(0, 9))
def test_gaps_anywhere_and_windows_anywhere(step: int, keep: list[bool], seed: int) -> None:
    frame = made_bars(120, seed=seed, mark=seed % 2 == 0, funding=True).filter(pl.Series([True, *keep[1:]]))
    bars, shelf = perpbt.load_bars(frame), files(step)
    same_bars(collect_in_windows(bars, "AAA", shelf, holding), bars.collect("AAA"))
    shelf.close()


BREAKS: dict[str, Any] = {
    "repeated": lambda f, k: pl.concat([f[: k + 1], f[k:]]),
    "unsorted": lambda f, k: pl.concat([f[:k], f[k + 1 : k + 2], f[k : k + 1], f[k + 2 :]]),
    "no time": lambda f, k: with_value(f, k, ts=None),
    "half null": lambda f, k: with_value(f, k, high=None),
    "infinite": lambda f, k: with_value(f, k, close=float("inf")),
    "low too high": lambda f, k: with_value(with_value(f, k, low=1e9), k + 3, low=1e9),
    "negative volume": lambda f, k: with_value(f, k, volume=-1.0),
    "no rate": lambda f, k: with_value(f, k, funding_rate=1.5),
    "two rules": lambda f, k: with_value(with_value(f, k, volume=-1.0), min(k + 20, f.height - 1), close=-3.0),
    "one event twice": lambda f, k: with_value(
        with_value(f, k, funding_rate=0.001, ts=START + timedelta(minutes=k, seconds=-1)),
        k - 1, funding_rate=0.001, ts=START + timedelta(minutes=k, seconds=-2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
@QUICK
@given(step=st.integers(1, 40), at=st.integers(3, 70))
def test_a_broken_rule_is_told_as_in_memory(name: str, step: int, at: int) -> None:
    frame = BREAKS[name](made_bars(80, mark=True, funding=True), at)
    bars, shelf = perpbt.load_bars(frame), files(step)
    with pytest.raises(perpbt.InputError) as expected:
        bars.collect("AAA")
    with pytest.raises(perpbt.InputError) as found:
        collect_in_windows(bars, "AAA", shelf, holding)
    assert str(found.value) == str(expected.value)
    shelf.close()


def test_a_fault_names_its_file_and_row_across_files(odd: pl.DataFrame, tmp_path: Path) -> None:
    frame = odd.filter(pl.col("symbol") == "AAA")
    frame[:100].write_parquet(tmp_path / "1.parquet")
    frame[99:].write_parquet(tmp_path / "2.parquet")  # begins with the row the other ended with
    bars = perpbt.load_bars(tmp_path)
    with pytest.raises(
        perpbt.InputError, match=r"2\.parquet: row 0, column 'ts'.*repeats the row before"
    ) as expected:
        bars.collect("AAA")
    for step in (1, 50, 100, 1000):
        shelf = files(step)
        with pytest.raises(perpbt.InputError) as found:
            collect_in_windows(bars, "AAA", shelf, holding)
        assert str(found.value) == str(expected.value)
        shelf.close()


def test_text_that_is_no_number_and_rows_without_prices(tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    made_bars(50).with_columns(pl.col("close").cast(pl.String)).write_csv(path)
    path.write_text(path.read_text().replace("\n", "\n", 1).replace(",1.9", ",many", 1))
    empty = made_bars(20).with_columns(open=None, high=None, low=None)
    for source in (
        path,
        pl.concat([made_bars(5, "BBB"), with_value(empty, 3, close=None)], how="vertical_relaxed"),
    ):
        bars, shelf = perpbt.load_bars(source), files(6, tmp_path)
        symbol = bars.symbols[0]
        with pytest.raises(perpbt.InputError) as expected:
            bars.collect(symbol)
        with pytest.raises(perpbt.InputError) as found:
            collect_in_windows(bars, symbol, shelf, holding)
        assert str(found.value) == str(expected.value)
        shelf.close()
    assert [one.name for one in tmp_path.iterdir()] == ["bars.csv"]


# ---------------------------------------------------------------------------------------------------- what is made
def same_arrays(one: Any, other: Any) -> None:
    for mine, others in zip(one, other, strict=True):
        if isinstance(mine, tuple):
            same_arrays(mine, others)
        elif isinstance(mine, np.ndarray):
            assert type(mine) is type(others)
            assert (mine.dtype, mine.shape, mine.flags.c_contiguous) == (others.dtype, others.shape, True)
            assert mine.flags.writeable == others.flags.writeable
            assert mine.tobytes() == others.tobytes()
        else:
            assert mine == others


@QUICK
@given(
    step=STEPS,
    kind=st.sampled_from(["linear", "inverse"]),
    price=st.sampled_from(["mark", "index"]),
    engine=st.sampled_from(["skip", "dense"]),
)
def test_arrays_are_the_same_to_the_bit(step: int, kind: str, price: str, engine: str) -> None:
    frame = odd_bars().filter(pl.col("ts") < START + timedelta(minutes=140))
    bars = perpbt.load_bars(frame)
    rules = Rules(funding_price="mark" if price == "mark" else "index")
    shelf = files(step)
    windows = collect_in_windows(bars, "AAA", shelf, holding)
    made = {"rules": rules, "engine": engine, "contract": Contract(kind=kind)}
    same_arrays(market_arrays(windows, shelf=shelf, **made), market_arrays(bars.collect("AAA"), **made))
    shelf.close()


@QUICK
@given(
    step=STEPS,
    flags=st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=90),
    series=st.integers(0, 2),
)
def test_signals_are_the_same_to_the_bit(step: int, flags: list[Any], series: int) -> None:
    frame = made_bars(len(flags))
    names = ("long_entry", "short_entry", "long_exit", "short_exit")
    signals = {name: np.array([row[k] for row in flags]) for k, name in enumerate(names)}
    columns = [frame["close"].to_numpy()] * series
    shelf = files(step)

    def made(on: Shelf) -> Any:
        return signal_arrays(frame, signals, [3, 5][:series], columns, on)

    same_arrays(made(shelf), made(MEMORY))
    shelf.close()


# -------------------------------------------------------------------------------------------------------- whole runs
@contextmanager
def in_files(step: int) -> Iterator[int]:
    """A bound in which `step` bars fit and one more, but not all; pages are given back all the time."""
    with pytest.MonkeyPatch.context() as patch:
        memory = (step + 1) << 40
        patch.setattr(perpbt.running.budget, "A_BAR", 1 << 40)
        patch.setattr(perpbt.running.budget, "LEAST_WINDOW", step)
        patch.setattr("perpbt.mapped.SLACK", memory)
        patch.setattr("perpbt.mapped.AT_LEAST", -1)
        yield memory


FREE: dict[tuple[str, str], dict[str, bytes]] = {}


def run(door: str, bars: Any, **options: Any) -> perpbt.Result:
    """One door on the bars."""
    if door == "given":
        return perpbt.simulate(bars, positions(two_symbols()), **options)
    return perpbt.backtest(bars, [{"name": "hold"}, turns, {"name": "ma_cross"}], GRID, offsets=11, **options)


@pytest.fixture(scope="module")
def in_memory(odd: pl.DataFrame) -> dict[tuple[str, str], dict[str, bytes]]:
    return {
        (door, name): contents(run(door, odd, **RUNS[name])) for door in ("given", "signals") for name in RUNS
    }


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("door", ["given", "signals"])
def test_a_run_in_windows_changes_nothing(
    door: str,
    name: str,
    odd: pl.DataFrame,
    in_memory: dict[tuple[str, str], dict[str, bytes]],
    tmp_path: Path,
) -> None:
    odd.sort("ts", "symbol").write_parquet(tmp_path / "bars.parquet", row_group_size=100)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for step, source in ((13, odd), (101, tmp_path / "bars.parquet")):
        with in_files(step) as memory:
            result = run(door, source, memory=memory, scratch=scratch, threads=2, **RUNS[name])
        assert contents(result) == in_memory[door, name]
        del result
        assert list(scratch.iterdir()) == []


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(step=STEPS, engine=st.sampled_from(["skip", "dense"]), door=st.sampled_from(["given", "signals"]))
def test_any_window_and_either_engine(step: int, engine: str, door: str) -> None:
    bars = two_symbols(150, mark=True, funding=True)
    free = FREE.setdefault((door, engine), contents(run(door, bars, engine=engine)))
    with in_files(step) as memory:
        assert contents(run(door, bars, memory=memory, engine=engine)) == free


def test_inverse_contracts_and_index_funding_in_windows(odd: pl.DataFrame) -> None:
    shipped = perpbt.load_venue("binance_um")
    venue = shipped.model_copy(update={"tables": {"contract": {"kind": "inverse"}}})
    options: dict[str, Any] = {"venue": venue, "rules": {"funding_price": "index"}}
    odd = odd.with_columns(
        (pl.col(name) * 0.998).alias(f"index_{name}") for name in ("open", "high", "low", "close")
    )
    for door in ("given", "signals"):
        free = contents(run(door, odd, **options))
        with in_files(29) as memory:
            assert contents(run(door, odd, memory=memory, **options)) == free


def test_progress_is_shown_while_bars_are_read(odd: pl.DataFrame) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    with in_files(50) as memory:
        run(
            "given", odd, memory=memory,
            progress=lambda label, done, total: seen.setdefault(label, []).append((done, total)),
        )  # fmt: skip
    assert list(seen) == ["AAA, bars", "AAA", "BBB, bars", "BBB", "settling"]
    for steps in seen.values():
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]
    assert len(seen["AAA, bars"]) > 4


# ---------------------------------------------------------------------------------- what does not fit, what is left
def least(run_so: Any, **options: Any) -> tuple[int, str]:
    """What a run says it needs at least, and the whole sentence."""
    with pytest.raises(
        perpbt.InputError, match=r"memory = .*: this run needs at least [\d.]+ [MGT]iB"
    ) as caught:
        run_so(memory="1MiB", threads=1, **options)
    words = str(caught.value).partition("at least ")[2]
    return parse_memory(" ".join(words.split(",")[0].split()[:2])), str(caught.value)


def test_given_positions_need_little_of_a_long_history_and_signals_say_why(
    odd: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perpbt.running.setting.bar_counts", lambda bars: (100_000_000, 100_000_000))
    for module in ("simulation", "backtesting"):
        monkeypatch.setattr(f"perpbt.doors.{module}.bar_counts", lambda bars: (100_000_000, 100_000_000))
    given_least, told = least(lambda **options: run("given", odd, **options))
    assert given_least < perpbt.running.budget.held_memory() + (1 << 30), (
        "450 bytes a bar in memory would be 42 GiB"
    )
    assert "whole columns" not in told
    signals_least, told = least(lambda **options: run("signals", odd, **options))
    assert signals_least > 100_000_000 * 100
    assert "signals" in told
    assert "given positions (simulate)" in told
    turnover_least, told = least(lambda **options: run("given", odd, **options), **TURNOVER)
    assert turnover_least > 100_000_000 * 200
    oracle_least, told = least(lambda **options: run("given", odd, **options), engine="oracle")
    assert oracle_least > 40 << 30, "plain Python holds all bars"


def test_the_least_that_is_told_of_accounts_in_a_file_is_enough(
    odd: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told before they are read."""
    monkeypatch.setattr("perpbt.running.budget.held_memory", lambda: 300 << 20)
    monkeypatch.setattr("perpbt.accounts.SLICE", 1000)
    table = positions(two_symbols())
    path = tmp_path / "accounts.parquet"
    pl.concat([table] * (20_000 // table.height)).write_parquet(path)
    told, _ = least(lambda **options: perpbt.simulate(odd, path, **options))
    result = perpbt.simulate(odd, path, memory=told, threads=1)
    assert told > (300 << 20) + perpbt.running.budget.FIXED + result.metadata["positions"] * 100


def test_funding_on_every_bar_is_held_and_counted(odd: pl.DataFrame) -> None:
    bars = perpbt.load_bars(made_bars(60).with_columns(funding_rate=1e-4))
    asked: list[int] = []
    shelf = files(20)
    collect_in_windows(bars, "AAA", shelf, asked.append)
    shelf.close()
    assert max(asked) == 60 * 100

    def refuse(more: int) -> None:
        raise perpbt.InputError("too much")

    with pytest.raises(perpbt.InputError, match="too much"):
        collect_in_windows(bars, "AAA", files(20), refuse)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize(
    "place", ["perpbt.load.windows.with_marks", "perpbt.prepare.arrays.series_of", "perpbt.kernels.pyramid.build", "perpbt.engines.book.note_fills", "perpbt.running.conclude.ledger"]
)  # fmt: skip
@pytest.mark.parametrize("door", ["given", "signals"])
def test_a_run_that_ends_early_leaves_nothing(
    door: str, place: str, error: Any, odd: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    before = threading.active_count()
    monkeypatch.setattr(place, fail)
    with in_files(40) as memory, pytest.raises((KeyboardInterrupt, OSError)):
        run(door, odd.lazy(), memory=memory, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


def test_a_full_disk_is_told(odd: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("perpbt.mapped.mapping", full)
    with (
        in_files(40) as memory,
        pytest.raises(perpbt.RunError, match=r"no room for what memory has no room for.*No space left"),
    ):
        run("given", odd, memory=memory, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_arrays_in_files_keep_what_is_written_and_let_go_of_their_files(tmp_path: Path) -> None:
    shelf = files(1000, tmp_path)
    array = shelf.array((3, 5000), np.float64)
    values = np.random.default_rng(1).random((3, 5000))
    for first, last in shelf.windows(5000):
        for row in range(3):
            shelf.write(array, (row, first), values[row, first:last])
        shelf.release()
    array[1, 7] = values[1, 7] = 5.0  # through the mapping
    shelf.release()
    assert array.tobytes() == values.tobytes()
    assert list(tmp_path.iterdir()) == [], "its file has no name"
    open_files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    del array
    if open_files:
        assert len(os.listdir("/proc/self/fd")) < open_files
    assert shelf.array((0,), np.int64).size == 0
    shelf.close()


@pytest.mark.skipif(not mapped.STATM.exists(), reason="the system does not say what a process holds")
def test_pages_are_given_back_while_arrays_are_read(tmp_path: Path) -> None:
    size = 16 << 20  # 128 MiB
    held = mapped.resident()[0]
    shelf = Files(tmp_path, held + (150 << 20), 1 << 18)
    array = shelf.array((size,), np.int64)
    for first, last in shelf.windows(size):
        shelf.write(array, (first,), np.arange(first, last))
    most = total = 0
    for first, last in mapped.pieces(size, 1 << 18):
        total += int(array[first:last].sum())
        most = max(most, mapped.resident()[0] - held)
    assert total == size * (size - 1) // 2
    assert most < 100 << 20, "150 MiB less the slack, and what came since somebody looked"
    shelf.close()


# ------------------------------------------------------------------------------------------------------- large runs
BARS, ACCOUNTS, LIMIT = 10_000_000, 20_000, "640MiB"


def seconds(path: Path, count: int) -> None:
    """Made seconds of one symbol, written piece by piece: last, mark, volume, a rate every eight hours."""
    random, price, writer = np.random.default_rng(1), 30_000.0, None
    begin = int(datetime(2023, 1, 1, tzinfo=UTC).timestamp() * 1000)
    for first in range(0, count, 500_000):
        number = np.arange(first, min(first + 500_000, count))
        close = price * np.exp(np.cumsum(random.normal(0, 2e-4, number.size)))
        opening = np.concatenate([[price], close[:-1]])
        price = float(close[-1])
        reach = 1.0 + np.abs(random.normal(0, 1e-4, (2, number.size)))
        names = ("open", "high", "low", "close")
        last = (opening, np.maximum(opening, close) * reach[0], np.minimum(opening, close) / reach[1], close)
        frame = pl.DataFrame(
            {
                "ts": begin + 1000 * number,
                "symbol": "AAAUSDT",
                **dict(zip(names, last, strict=True)),
                **{f"mark_{name}": values for name, values in zip(names, last, strict=True)},
                "volume": random.uniform(0, 9, number.size),
                "funding_rate": np.where(number % 28_800 == 0, 1e-4, np.nan),
            }
        ).with_columns(
            pl.col("ts").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"),
            pl.col("funding_rate").fill_nan(None),
        )
        table = frame.to_arrow()
        writer = writer or parquet.ParquetWriter(path, table.schema, compression="zstd", compression_level=1)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def large(path: str, limit: str, count: str) -> dict[str, Any]:
    """So many positions over all of a file of bars; what it took, and what came out as one number."""
    bars = (
        pl.scan_parquet(path)
        .select(pl.col("ts").min().alias("first"), pl.col("ts").max().alias("last"))
        .collect()
    )
    size, number = int(count), pl.int_range(int(count), eager=True)
    first, last = (bars[name].dt.epoch("ms")[0] for name in ("first", "last"))
    table = pl.DataFrame({"account": number}).with_columns(
        pl.lit("made").alias("strategy"),
        pl.lit("AAAUSDT").alias("symbol"),
        pl.when(number % 2 == 0).then(pl.lit("long")).otherwise(pl.lit("short")).alias("side"),
        (first + number * ((last - first) // size)).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").alias("entry_time"),
        pl.lit(100.0).alias("collateral"),
        (number % 5).replace_strict([0, 1, 2, 3, 4], [2.0, 5.0, 20.0, 50.0, 100.0]).alias("leverage"),
        (number % 3).replace_strict([0, 1, 2], [0.005, 0.01, None], return_dtype=pl.Float64).alias("stop_loss"),
    )  # fmt: skip
    labels: list[str] = []
    options: dict[str, Any] = {
        "crowding": True,
        "open_interest": 1e7,
        "fund": {"seed": 1e4, "scope": "pooled"},
    }
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as scratch:
        result = perpbt.simulate(
            path, table, memory=None if limit == "none" else limit, scratch=scratch,
            progress=lambda label, done, total: None if label in labels[-1:] else labels.append(label), **options,
        )  # fmt: skip
        peak = perpbt.running.budget.peak_memory()
        digest = sha256()
        for key, value in sorted(contents(result).items()):
            digest.update(key.encode() + value)
        reasons = dict(result.accounts["exit_reason"].value_counts().iter_rows())
    return {
        "peak": peak,
        "contents": digest.hexdigest(),
        "labels": labels,
        "bars": result.metadata["symbols"]["AAAUSDT"]["bars"],
        "reasons": reasons,
        "timings": result.metadata["timings_seconds"],
    }


def in_process(*words: str) -> dict[str, Any]:
    """What this file prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, *words], capture_output=True, text=True, timeout=1500,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_a_history_several_times_the_bound_stays_under_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bars.parquet"
    seconds(path, BARS)
    small = tmp_path / "few.parquet"
    seconds(small, 5000)
    in_process(
        str(small), "none", "100"
    )  # where kernels are not compiled yet, the compiler takes more than a run
    bound, free = (in_process(str(path), limit, str(ACCOUNTS)) for limit in (LIMIT, "none"))
    with capsys.disabled():
        sys.stdout.write(f"\n{json.dumps([bound, free])}\n")
    assert bound["bars"] == BARS
    assert bound["reasons"]["liquidation"] > 1000
    assert bound["labels"] == ["AAAUSDT, bars", "AAAUSDT", "settling"]
    assert bound["contents"] == free["contents"]
    assert bound["peak"] < parse_memory(LIMIT) < free["peak"] / 3
    assert [one.name for one in sorted(tmp_path.iterdir())] == ["bars.parquet", "few.parquet"]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(large(*sys.argv[1:])))
