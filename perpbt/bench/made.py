"""Made input: prices, a venue, and populations of accounts, the same for every side of a comparison.

In: sizes and seeds. Out: frames as `perpbt.load_bars` and `perpbt.simulate` read them. No data are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

import perpbt

MINUTE = 60_000
START = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000)
SYMBOL = "AAA"
NAMES = ("open", "high", "low", "close")
STEP = 0.0006  # standard deviation of a minute's log return


def utc(milliseconds: np.ndarray) -> pl.Series:
    """Milliseconds as UTC datetimes."""
    return pl.Series(milliseconds, dtype=pl.Int64).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def made_bars(count: int, *, funding: bool = True, volume: bool = True, seed: int = 1) -> pl.DataFrame:
    """`count` minutes of a random walk; funding every eight hours, mark a little smoother than last.

    Each open is the close before it, so that whoever enters at that close and whoever enters at the next open
    pay the same price.
    """
    random = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(random.normal(0.0, STEP, count)))
    first = np.concatenate([[100.0], close[:-1]])
    up, down = np.exp(np.abs(random.normal(0.0, STEP / 2, (2, count))))
    top, bottom = np.maximum(first, close), np.minimum(first, close)
    last = (first, top * up, bottom / down, close)
    mark = (first, top * np.sqrt(up), bottom / np.sqrt(down), close)
    charged = np.where(np.arange(count) % 480 == 0, 1e-4, np.nan)
    columns: dict[str, pl.Series | np.ndarray] = {
        **dict(zip(NAMES, last, strict=True)),
        **{f"mark_{name}": values for name, values in zip(NAMES, mark, strict=True)},
    }
    if volume:
        columns["volume"] = random.lognormal(8.0, 1.0, count)
    if funding:
        columns["funding_rate"] = pl.Series(charged).fill_nan(None)
    times = {"ts": utc(START + MINUTE * np.arange(count)), "symbol": [SYMBOL] * count}
    return pl.DataFrame({**times, **columns})


def made_venue(**changes: float) -> perpbt.Venue:
    """One margin tier, fees, slippage that grows with size, all surplus to the fund."""
    fields = {
        "name": "bench", "taker_fee": 0.0005, "maker_fee": 0.0002, "slippage": 0.0001, "liquidation_fee": 0.002,
        "close_out_rate": 0.0, "half_spread": 0.0001, "impact": 1.0, "max_slippage": 0.1, "maintenance_on": "mark",
        "surplus_to_fund": 1.0, "fund_seed": 1e6, "fund_fee_share": 0.0, "fund_scope": "symbol",
        "tiers": {"default": ((0.0, 1e9, RATE, 125.0, 0.0),)},
    }  # fmt: skip
    return perpbt.Venue(**{**fields, **changes})


RATE = 0.004  # maintenance margin of the made venue, a fraction of notional


@dataclass(frozen=True)
class Population:
    """Positions alike but for side and entry. Levels are fractions of the entry price, None for none."""

    leverage: float
    stop: float | None = None
    target: float | None = None
    trail: float | None = None
    hold: timedelta | None = None
    until: float = 1.0  # entries lie in this first part of the bars

    def table(self, count: int, bars: int, seed: int = 2) -> pl.DataFrame:
        """`count` accounts that enter all over the bars but the first, half of them short."""
        random = np.random.default_rng(seed)
        entry = random.integers(1, max(2, int(bars * self.until)), count)
        side = np.where(random.random(count) < 0.5, "long", "short")
        levels = {"stop_loss": self.stop, "take_profit": self.target, "trailing_stop": self.trail}
        table = pl.DataFrame(
            {
                "account": np.arange(count),
                "strategy": ["bench"] * count,
                "symbol": [SYMBOL] * count,
                "side": side,
                "entry_time": utc(START + MINUTE * entry),
                "collateral": np.full(count, 1000.0),
                "leverage": np.full(count, self.leverage),
                **{
                    name: pl.Series(np.full(count, np.nan if level is None else level)).fill_nan(None)
                    for name, level in levels.items()
                },
            }
        )
        if self.hold is None:
            return table
        return table.with_columns((pl.col("entry_time") + self.hold).alias("exit_time"))


def bar_of(times: pl.Series) -> np.ndarray:
    """The number of the bar that each time opens."""
    return ((times.dt.epoch("ms") - START) // MINUTE).to_numpy()


def bars_held(accounts: pl.DataFrame) -> int:
    """Account-bars: every bar of every position, its first and its last included."""
    opened = accounts.filter(pl.col("exit_time").is_not_null())
    return int((bar_of(opened["exit_time"]) - bar_of(opened["entry_time"]) + 1).sum())
