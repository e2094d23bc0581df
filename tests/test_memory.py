"""A million accounts over a year of minutes, in a process of its own: how much memory, how long.

`python tests/test_memory.py given 1000000` (or `signals`) makes the bars, runs one door and prints what it took; the
test, which is slow, runs both and holds them to 1 GiB, tables written, and to half as much more with the report.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from perpbt.running.budget import peak_memory

REPOSITORY = Path(__file__).parents[1]
ACCOUNTS = 1_000_000
MINUTES = 525_600
START = int(datetime(2023, 1, 1, tzinfo=UTC).timestamp() * 1000)
LIMIT_MIB = {"tables written": 1024, "report": 1536}
UTC_TIME = pl.Datetime("ms", "UTC")
NAMES = ("open", "high", "low", "close")


def year(path: Path) -> None:
    """A year of made minutes: last, mark, volume, funding every eight hours; two crashes in it."""
    random = np.random.default_rng(1)
    steps = random.normal(0, 0.0008, MINUTES)
    for minute in (170_000, 400_000):
        steps[minute : minute + 30] -= 0.008
    close = 30_000.0 * np.exp(np.cumsum(steps))
    first = np.concatenate([[30_000.0], close[:-1]])
    reach = np.abs(random.normal(0, 0.0004, (2, MINUTES)))
    last = (
        first,
        np.maximum(first, close) * (1 + reach[0]),
        np.minimum(first, close) * (1 - reach[1]),
        close,
    )
    pl.DataFrame(
        {
            "ts": START + 60_000 * np.arange(MINUTES),
            "symbol": "AAAUSDT",
            **dict(zip(NAMES, last, strict=True)),
            **{f"mark_{name}": values for name, values in zip(NAMES, last, strict=True)},
            "volume": random.uniform(1, 50, MINUTES),
            "funding_rate": np.where(np.arange(MINUTES) % 480 == 0, 0.0001, np.nan),
        }
    ).with_columns(
        pl.col("ts").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"),
        pl.col("funding_rate").fill_nan(None),
    ).write_parquet(path)


def positions(count: int) -> pl.DataFrame:
    """Positions spread over the year, long and short, leverage 2 to 100, all with a stop."""
    number = pl.int_range(count, dtype=pl.Int64, eager=True)
    return pl.DataFrame({"account": number}).with_columns(
        pl.lit("made").alias("strategy"),
        pl.lit("AAAUSDT").alias("symbol"),
        pl.when(number % 2 == 0).then(pl.lit("long")).otherwise(pl.lit("short")).alias("side"),
        (START + number * MINUTES // count * 60_000).cast(UTC_TIME).alias("entry_time"),
        pl.lit(100.0).alias("collateral"),
        (number % 5).replace_strict([0, 1, 2, 3, 4], [2.0, 5.0, 20.0, 50.0, 100.0]).alias("leverage"),
        (number % 3).replace_strict([0, 1, 2], [0.005, 0.01, 0.02]).alias("stop_loss"),
    )


def peak_mib() -> float:
    """The most memory this process has held so far."""
    peak = peak_memory()
    assert peak is not None, "the system does not say"
    return peak / 2**20


def run(door: str, count: int) -> dict[str, Any]:
    """So many accounts through one door on the year; what it took."""
    import perpbt

    options: dict[str, Any] = {"open_interest": {"days_of_turnover": 0.05}, "crowding": True}
    with tempfile.TemporaryDirectory() as folder:
        bars = Path(folder) / "bars.parquet"
        year(bars)
        before, since = peak_mib(), time.perf_counter()
        if door == "given":
            result = perpbt.simulate(bars, positions(count), **options)
        else:
            policies = {
                "leverage": [2, 5, 10, 20, 50, 75, 100, 125],
                "stop_loss": [0.002, 0.005, 0.01, 0.02, 0.03],
                "max_trades": 1,
                "capital": 100,
            }
            strategy = {"name": "random_entry", "params": {"probability": 0.2}}
            result = perpbt.backtest(bars, strategy, policies, offsets=count // 40, **options)
        ran, seconds = peak_mib(), time.perf_counter() - since
        result.write(Path(folder) / "out", report=False)
        wrote = peak_mib()
        result.report(Path(folder) / "report.html")
    return {
        "door": door,
        "accounts": result.accounts["account"].n_unique(),
        "positions": result.accounts.height,
        "bars": result.metadata["symbols"]["AAAUSDT"]["bars"],
        "liquidated": int((result.accounts["exit_reason"] == "liquidation").sum()),
        "seconds": round(seconds, 1),
        "timings": result.metadata["timings_seconds"],
        "peak_mib": {
            "bars made": round(before),
            "run": round(ran),
            "tables written": round(wrote),
            "report": round(peak_mib()),
        },
    }


@pytest.mark.slow
@pytest.mark.parametrize("door", ["given", "signals"])
def test_a_million_accounts_over_a_year_of_minutes(door: str, capsys: pytest.CaptureFixture[str]) -> None:
    for count in (
        4_000,
        ACCOUNTS,
    ):  # few first: where kernels are not compiled yet, the compiler takes more than a run
        done = subprocess.run(
            [sys.executable, __file__, door, str(count)],
            capture_output=True,
            text=True,
            timeout=900,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with capsys.disabled():
        sys.stdout.write(f"\n{json.dumps(found)}\n")
    assert found["bars"] == MINUTES
    assert found["accounts"] == found["positions"] == ACCOUNTS
    assert found["liquidated"] > 10_000, "crowds and the fund had something to do"
    for stage, limit in LIMIT_MIB.items():
        assert found["peak_mib"][stage] < limit, stage


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(sys.argv[1], int(sys.argv[2]))))
