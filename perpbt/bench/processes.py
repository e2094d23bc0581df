"""Whole processes: how much memory a large run takes, and where the time of a run goes from start to report.

In: sizes. Out: two tables. Everything runs in processes of its own, from Parquet files made here.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import perpbt
from perpbt.bench.made import Population, made_bars
from perpbt.bench.sizes import Sizes
from perpbt.bench.tables import Column, Table

LEVERAGES = (2, 3, 5, 10, 20, 50, 75, 100)
STOPS = (0.01, 0.02, 0.03, 0.05, 0.1)
SPEC = """\
title = "A benchmark"
offsets = {offsets}
[data]
path = "{data}"
[world]
crowding = true
[[strategy]]
name = "always.py"
[policy]
capital = 100
leverage = {leverages}
stop_loss = {stops}
max_trades = 1
"""
ALWAYS = '''\
"""Wants to be long at every close."""

import polars as pl


def signals() -> dict[str, pl.Expr]:
    return {"long_entry": pl.lit(True)}
'''
IMPORTS = "import perpbt; perpbt.run_spec"


def ended(command: list[str]) -> tuple[float, str]:
    """Seconds and output of a process; `RunError` with its words if it fails."""
    since = time.perf_counter()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    seconds = time.perf_counter() - since
    if done.returncode:
        said = done.stderr[-2000:].strip()
        raise perpbt.RunError(f"a measured process failed with exit code {done.returncode}: {said}")
    return seconds, done.stdout


def memory(sizes: Sizes, threads: int | None) -> Table:
    """Peak memory of the largest scaling case, by number of accounts."""
    columns = (Column("accounts", "accounts"), Column("bars", "bars"), Column("mib", "peak MiB", "MiB"))
    table = Table("memory", "Peak memory of a process: Parquet in, `simulate`, result held", columns)
    with tempfile.TemporaryDirectory() as folder:
        prices, accounts = Path(folder, "bars.parquet"), Path(folder, "accounts.parquet")
        made_bars(sizes.bars).write_parquet(prices)
        command = ["-m", "perpbt.bench.memory_side", folder, str(threads or 0)]
        for count in (1, *sizes.accounts[-2:]):
            Population(20.0, stop=0.01).table(count, sizes.bars).write_parquet(accounts)
            if count == 1:
                ended(command)  # compiling takes memory too
            _, said = ended(command)
            table.add(
                str(count),
                f"{count:,} account{'s' if count > 1 else ''}",
                accounts=count,
                bars=sizes.bars,
                mib=float(said),
            )
    return table


def stages(sizes: Sizes, threads: int | None) -> Table:
    """`perpbt run` from process start to files, without and with a report, and the least it can take."""
    columns = (
        Column("tables", "tables only: s", "s", 3), Column("report", "with report: s", "s", 3),
        Column("small", "4 accounts, 2,000 bars: s", "s", 3),
    )  # fmt: skip
    offsets = max(1, sizes.natural // (len(LEVERAGES) * len(STOPS)))
    accounts = offsets * len(LEVERAGES) * len(STOPS)
    title = f"Stages of `perpbt run`, {accounts:,} accounts, {sizes.bars:,} bars, from Parquet to files"
    table = Table("stages", title, columns)
    more = [] if threads is None else ["--threads", str(threads)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "always.py").write_text(ALWAYS)
        study(Path(folder, "large.toml"), sizes.bars, offsets, LEVERAGES, STOPS)
        study(Path(folder, "small.toml"), 2_000, 4, (5,), (0.02,))
        bare = statistics.median(ended(["-c", IMPORTS])[0] for _ in range(sizes.repeat))
        found = {
            "tables": one_run(Path(folder, "large.toml"), ["--no-report", *more], sizes.repeat),
            "report": one_run(Path(folder, "large.toml"), ["--report", *more], sizes.repeat),
            "small": one_run(Path(folder, "small.toml"), ["--no-report", *more], sizes.repeat),
        }
    fill(table, found, bare)
    return table


def study(spec: Path, bars: int, offsets: int, leverages: Sequence[int], stops: Sequence[float]) -> None:
    """Write a specification and its prices."""
    prices = spec.with_suffix(".parquet")
    made_bars(bars).write_parquet(prices)
    text = SPEC.format(data=prices.name, offsets=offsets, leverages=list(leverages), stops=list(stops))
    spec.write_text(text)


def one_run(spec: Path, options: list[str], times: int) -> tuple[float, dict[str, float]]:
    """Median wall seconds, and the median seconds of every stage that run.json knows."""
    out = spec.with_suffix("")
    command = ["-m", "perpbt", "run", str(spec), "--quiet", "--out", str(out), *options]
    ended(command)  # what is compiled on first use is compiled now
    walls, told = [], []
    for _ in range(times):
        walls.append(ended(command)[0])
        told.append(json.loads((out / "run.json").read_text())["timings_seconds"])
    stages = {stage: statistics.median(one.get(stage, 0.0) for one in told) for stage in told[-1]}
    return statistics.median(walls), stages


def fill(table: Table, found: dict[str, tuple[float, dict[str, float]]], bare: float) -> None:
    """A row a stage, in the order they run; what no stage accounts for is writing, the report, and leaving.
    Reading, loading kernels and writing go on beside other stages, so that the rest may be below 0.
    """
    known = [stage for stage in found["report"][1] if stage != "total"]
    table.add("start", "start and imports", **dict.fromkeys(found, bare))
    for stage in known:
        table.add(stage, stage, **{name: told.get(stage) for name, (_, told) in found.items()})
    rest = {
        name: wall - bare - sum(told.get(stage, 0.0) for stage in known)
        for name, (wall, told) in found.items()
    }
    table.add(
        "rest",
        "everything else: reading the specification, files, report; less what went on at the same time",
        **rest,
    )
    table.add("wall", "whole process", **{name: wall for name, (wall, _) in found.items()})
