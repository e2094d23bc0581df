"""Clean made bars for tests of what comes in, and small edits that break them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

START = datetime(2024, 1, 1, tzinfo=UTC)
TIME = pl.Datetime("ms", "UTC")


def made_bars(
    rows: int = 60,
    symbol: str = "AAA",
    *,
    seed: int = 0,
    minutes: int = 1,
    start: datetime = START,
    mark: bool = False,
    funding: bool = False,
) -> pl.DataFrame:
    """Clean bars of one symbol: a seeded walk with volume; if asked, mark prices and a rate every 8 bars."""
    random = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(random.normal(0, 0.01, rows)))
    first = np.concatenate([[100.0], close[:-1]])
    columns = {
        "open": first,
        "high": np.maximum(first, close) * 1.002,
        "low": np.minimum(first, close) * 0.998,
        "close": close,
    }
    frame = pl.DataFrame(
        {
            "ts": pl.Series([start + timedelta(minutes=minutes * i) for i in range(rows)], dtype=TIME),
            "symbol": [symbol] * rows,
            **columns,
            "volume": random.uniform(1, 2, rows),
        }
    )
    if mark:
        frame = frame.with_columns(
            (pl.col(name) * 1.001).alias(f"mark_{name}") for name in ("open", "high", "low", "close")
        )
    if funding:
        on = pl.int_range(pl.len()) % 8 == 0
        frame = frame.with_columns(funding_rate=pl.when(on).then(0.0001))
    return frame


def two_symbols(rows: int = 60, *, mark: bool = False, funding: bool = False) -> pl.DataFrame:
    names = enumerate(("AAA", "BBB"))
    return pl.concat(made_bars(rows, name, seed=seed, mark=mark, funding=funding) for seed, name in names)


def with_value(frame: pl.DataFrame, row: int, **values: object) -> pl.DataFrame:
    """The frame with other values in one row."""
    here = pl.int_range(pl.len()) == row
    return frame.with_columns(
        pl.when(here).then(pl.lit(value, dtype=frame.schema[name])).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )
