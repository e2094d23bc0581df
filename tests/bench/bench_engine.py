"""What the engine costs, against the naive oracle in the same run. Run it by hand:

    python tests/bench/bench_engine.py

Results are compared first; nothing is printed if they differ. Prices are made, so no data are needed.
"""

from __future__ import annotations

import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import oracle

import perpbt

BARS = 525_600
START = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000)
VENUE = {
    "taker_fee": 0.0005, "maker_fee": 0.0002, "slippage": 0.0001, "liquidation_fee": 0.002, "close_out_rate": 0.0,
    "half_spread": 0.0001, "impact": 1.0, "max_slippage": 0.1, "maintenance_on": "mark", "surplus_to_fund": 1.0,
    "fund_seed": 1e6, "fund_fee_share": 0.0, "fund_scope": "symbol",
    "tiers": [{"floor": 0.0, "cap": 1e9, "rate": 0.004, "max_leverage": 125.0, "deduction": 0.0}],
}  # fmt: skip


def made_bars(seed: int = 1) -> pl.DataFrame:
    """A year of minutes: a random walk with funding every eight hours, mark a little smoother than last."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.0006, BARS)))
    opened = np.concatenate([[100.0], close[:-1]])
    up, down = np.exp(np.abs(rng.normal(0.0, 0.0003, (2, BARS))))
    high, low = np.maximum(opened, close) * up, np.minimum(opened, close) / down
    hour = np.arange(BARS) % 480 == 0
    return pl.DataFrame(
        {
            "ts": pl.Series(START + 60_000 * np.arange(BARS)).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"),
            "symbol": ["AAA"] * BARS,
            "open": opened, "high": high, "low": low, "close": close,
            "mark_open": opened, "mark_high": np.maximum(opened, close) * np.sqrt(up),
            "mark_low": np.minimum(opened, close) / np.sqrt(down), "mark_close": close,
            "volume": rng.lognormal(8.0, 1.0, BARS),
            "funding_rate": pl.Series(np.where(hour, 1e-4, np.nan)).fill_nan(None),
        }
    )  # fmt: skip


def population(
    count: int, leverage: float, stop: float | None, trail: float | None = None, seed: int = 2
) -> pl.DataFrame:
    """Positions that start all over the year, half of them short."""
    rng = np.random.default_rng(seed)
    entry = START + 60_000 * rng.integers(0, BARS, count)
    return pl.DataFrame(
        {
            "account": np.arange(count), "strategy": ["bench"] * count, "symbol": ["AAA"] * count,
            "side": np.where(rng.random(count) < 0.5, "long", "short"),
            "entry_time": pl.Series(entry).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"),
            "collateral": np.full(count, 1000.0), "leverage": np.full(count, leverage),
            "stop_loss": pl.Series([stop] * count, dtype=pl.Float64),
            "trailing_stop": pl.Series([trail] * count, dtype=pl.Float64),
        }
    )  # fmt: skip


def venue() -> perpbt.Venue:
    names = ("floor", "cap", "rate", "max_leverage", "deduction")
    tiers = tuple(tuple(tier[name] for name in names) for tier in VENUE["tiers"])
    return perpbt.Venue(**{**VENUE, "name": "bench", "tiers": {"default": tiers}})


def same_as_oracle(frame: pl.DataFrame, table: pl.DataFrame, accounts: pl.DataFrame) -> tuple[float, int]:
    """Compare every row with the oracle; returns the oracle's seconds and account-bars."""
    bars = perpbt.load_bars(frame).collect("AAA").frame
    sigma = np.log(bars["high"].to_numpy() / bars["low"].to_numpy()) / (2 * np.sqrt(np.log(2.0)))
    rows = bars.with_columns(pl.col("ts").dt.epoch("ms"), sigma=pl.Series(sigma)).to_dicts()
    events = [(row["ts"], row["funding_rate"]) for row in rows if row["funding_rate"] is not None]
    funding = oracle.cumulative_funding(rows, events)
    started, seen = time.perf_counter(), 0
    for wish, found in zip(table.iter_rows(named=True), accounts.iter_rows(named=True), strict=True):
        at = (int(wish["entry_time"].timestamp() * 1000) - START) // 60_000
        order = {"side": 1 if wish["side"] == "long" else -1, "collateral": wish["collateral"], "leverage": wish["leverage"],
                 "stop": {"kind": "price", "value": wish["stop_loss"]} if wish["stop_loss"] else None,
                 "trailing_stop": wish["trailing_stop"]}  # fmt: skip
        row = oracle.run_position(rows, funding, order, VENUE, {}, at)
        seen += row["exit_bar"] - row["entry_bar"] + 1
        for name in (
            "exit_reason",
            "exit_price",
            "cash_change",
            "deficit",
            "surplus",
            "max_drawdown",
            "worst_margin_ratio",
        ):
            if row[name] != found[name]:
                raise SystemExit(
                    f"oracle and engine differ in {name}: {row[name]!r} and {found[name]!r}; no timing printed"
                )
    return time.perf_counter() - started, seen


def cost(bars: perpbt.Bars, table: pl.DataFrame, engine: str) -> tuple[float, pl.DataFrame]:
    """Median seconds in the kernels of three runs on one thread, and the accounts."""
    runs = [perpbt.simulate(bars, table, venue=venue(), threads=1, engine=engine) for _ in range(3)]
    seconds = float(np.median([run.metadata["timings_seconds"]["kernels"] for run in runs]))
    return seconds, runs[0].accounts


def main() -> None:
    """Compare, then print a line for each population."""
    frame = made_bars()
    bars = perpbt.load_bars(frame)
    small = population(12, 5.0, 0.05)
    found = perpbt.simulate(bars, small, venue=venue()).accounts
    naive_seconds, naive_bars = same_as_oracle(frame, small, found)
    naive = naive_seconds / naive_bars * 1e9
    print(
        f"{platform.machine()}, Python {platform.python_version()}, perpbt {perpbt.__version__}; one thread"
    )
    print(
        f"{len(small)} positions equal to the oracle in every figure; the oracle: {naive:,.0f} ns an account-bar"
    )
    head = ("population", "positions", "account-bars", "dense M/s", "x oracle", "skip us/pos", "x dense")
    print(("{:<26}" + "{:>15}" * 6).format(*head))
    cases = [("1x, no stop", 500, 1.0, None, None), ("5x, stop 5 %", 3000, 5.0, 0.05, None)]
    cases += [("20x, stop 1 %", 10_000, 20.0, 0.01, None), ("2x, trailing stop 20 %", 1000, 2.0, None, 0.2)]
    cases += [("50x, no stop", 20_000, 50.0, None, None)]
    for name, count, leverage, stop, trail in cases:
        table = population(count, leverage, stop, trail)
        dense, accounts = cost(bars, table, "dense")
        skip, same = cost(bars, table, "skip")
        if not accounts.equals(same):
            raise SystemExit(f"{name}: the engines differ; no timing printed")
        minutes = (pl.col("exit_time") - pl.col("entry_time")).dt.total_minutes() + 1
        held = accounts.select(minutes.sum()).item()
        figures = (
            count,
            held,
            held / dense / 1e6,
            naive / (dense / held * 1e9),
            skip / count * 1e6,
            dense / skip,
        )
        print(f"{name:<26}" + "{:>15,}{:>15,}{:>15,.0f}{:>15,.0f}{:>15,.1f}{:>15,.0f}".format(*figures))


if __name__ == "__main__":
    main()
