"""Price paths whose law is known, as bars: many independent paths one after the other in a single symbol.

A path starts at 100 and has n bars; then comes one flat bar at its last price, at whose open whoever is still in leaves by time
(so nobody "ends" there, and nobody sees the jump back to 100 where the next path starts). Path p occupies the bars
p(n + 1) ... p(n + 1) + n, so an exit bar tells its path and its age.

Three ways to see the same closes:

* `bridge_bars`: the low is drawn from the exact law of the minimum of a Brownian bridge between open and close, the high from that of
  its maximum, independent of each other. Each alone has the right law, so a barrier on one side is hit with the probability
  of continuous time, at any bar size, and a fill at the barrier is the continuous path stopped there. Their joint law is wrong.
  That matters only to a position that could cross a level on both sides in one bar, so such positions may be tested
  only with levels many standard deviations of a bar apart. A trailing stop stands still inside a bar and moves between bars with
  the high, which is one more piece of randomness that the steps to come do not know of: it stays a stopping time of a martingale.
* `flat_bars`: open = high = low = close, a price looked at once a bar: discrete time, fills at the observed price.
* `body_bars`: high and low are the ends of the body. A biased view, there to show that the tests notice: a stop found crossed
  at the close would be filled at the stop, a price the path did not offer when it was looked at.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

START = 1_704_067_200_000  # 2024-01-01 00:00 UTC
HOUR = 3_600_000
TIME = pl.Datetime("ms", "UTC")
PRICE = 100.0
COLUMNS = ("open", "high", "low", "close")


class Paths(NamedTuple):
    """Bars of `count` paths of `steps` bars (and the flat one), and the closes they were made from: (count, steps + 1)."""

    frame: pl.DataFrame
    count: int
    steps: int


def log_walk(rng, count, steps, sigma, dt, drift=0.0):
    """Log returns of GBM since the start, (count, steps + 1), first column 0; `drift` is that of the price (0: a martingale)."""
    moves = rng.normal((drift - sigma**2 / 2) * dt, sigma * np.sqrt(dt), (count, steps))
    return np.concatenate([np.zeros((count, 1)), np.cumsum(moves, axis=1)], axis=1)


def bridge_low(rng, x, y, variance):
    """Minimum of a Brownian bridge from x to y: P(min <= z) = exp(-2(x - z)(y - z)/variance), inverted."""
    spread = np.sqrt((y - x) ** 2 - 2 * variance * np.log(1 - rng.random(x.shape)))
    return (x + y - spread) / 2


def bridge_bars(rng, walk, variance):
    """Bars with exact lows and exact highs (each by itself); `variance` of a bar's log return."""
    x, y = walk[:, :-1], walk[:, 1:]
    low, high = bridge_low(rng, x, y, variance), -bridge_low(rng, -x, -y, variance)
    return made(x, np.maximum(high, np.maximum(x, y)), np.minimum(low, np.minimum(x, y)), y)


def body_bars(walk):
    """Bars that know only their open and close."""
    x, y = walk[:, :-1], walk[:, 1:]
    return made(x, np.maximum(x, y), np.minimum(x, y), y)


def flat_bars(walk):
    """Bars of one price each."""
    x, y = walk[:, :-1], walk[:, 1:]
    return made(x, x, x, x, last=y[:, -1:])


def made(opened, high, low, close, last=None):
    """Log prices (count, steps) as bars; each path is closed by a flat bar at its last price."""
    last = close[:, -1:] if last is None else last
    columns = [
        (PRICE * np.exp(np.concatenate([column, last], axis=1))).ravel() for column in (opened, high, low, close)
    ]
    frame = bars_frame(dict(zip(COLUMNS, columns, strict=True)))
    return Paths(frame, opened.shape[0], opened.shape[1])


def bars_frame(columns):
    """Hourly bars of the one symbol."""
    length = len(columns["open"])
    return pl.DataFrame(columns).select(
        ts=(START + pl.int_range(length, dtype=pl.Int64) * HOUR).cast(TIME), symbol=pl.lit("PATH"), *map(pl.col, columns)
    )


def positions(paths, policies):
    """An account table: on every path every policy, opened at its first bar, closed by time at its flat bar if not before.

    `policies` {name: columns of the account table}; each is a world of its own. `steps` among the columns: leave earlier.
    """
    ts, parts = paths.frame["ts"], []
    first = np.arange(paths.count) * (paths.steps + 1)
    for name, wishes in policies.items():
        own = {"side": "long", "collateral": 1.0, "leverage": 1.0} | wishes
        leave = own.pop("steps", paths.steps)
        parts.append(
            pl.DataFrame({"entry_time": ts.gather(first), "exit_time": ts.gather(first + leave)}).with_columns(
                pl.lit("martingale").alias("strategy"),
                pl.lit("PATH").alias("symbol"),
                *[pl.lit(name).alias(column) for column in ("policy", "world")],
                *[pl.lit(value).alias(column) for column, value in own.items()],
            )
        )
    table = pl.concat(parts, how="diagonal")
    return table.with_columns(account=pl.int_range(table.height))


def path_of(times, paths):
    """The path that each time belongs to."""
    return (times.dt.epoch("ms").to_numpy() - START) // HOUR // (paths.steps + 1)


def age_of(times, paths):
    """Bars since the path's start."""
    return (times.dt.epoch("ms").to_numpy() - START) // HOUR % (paths.steps + 1)


def score(values, expected=0.0):
    """How many standard errors the mean of one value a path lies from what is expected."""
    values = np.asarray(values, dtype=np.float64)
    return (values.mean() - expected) / (values.std(ddof=1) / np.sqrt(values.size))
