"""Price paths whose law is known, as bars: many independent paths one after the other in a single symbol.

A path starts at 100 and has n bars; then comes one flat bar at its last price, at whose open whoever is still in leaves by
time (so nobody "ends" there, and nobody sees the jump back to 100 where the next path starts). Path p occupies the bars
p(n + 1) ... p(n + 1) + n, so the time of an exit tells its path and its age.

Three ways to see the same closes:

* `bridge_bars`: the low is drawn from the exact law of the minimum of a Brownian bridge from open to close, the high from
  that of its maximum, independently. Each alone has the right law: a barrier on one side is hit with the probability of
  continuous time at any bar size, and a fill at the barrier is the continuous path stopped there. Their joint law is wrong, which
  matters only to a position that could cross a level on both sides within one bar; so such positions are tested only with
  levels many standard deviations of a bar apart. A trailing stop stands still inside a bar and moves between bars with the high,
  whose error is one more piece of randomness that the steps to come do not know of: it stays a stopping time.
* `flat_bars`: open = high = low = close, a price looked at once a bar: discrete time, fills at the observed price.
* `body_bars`: high and low are the ends of the body. A biased view, there to show that the tests notice: a stop found
  crossed at the close is filled at the stop, a price the path did not offer when it was looked at.
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
    """Bars of `count` paths of `steps` bars and a flat one each."""

    frame: pl.DataFrame
    count: int
    steps: int


# ---------------------------------------------------------------------------------------------- log prices
def walk(rng, count, steps, sigma, dt, drift=0.0):
    """Opens and closes, (count, steps) each, of GBM in logs from 0; `drift` is that of the price (0: a martingale)."""
    moves = rng.normal((drift - sigma**2 / 2) * dt, sigma * np.sqrt(dt), (count, steps))
    closed = np.cumsum(moves, axis=1)
    return closed - moves, closed


def jumping_walk(rng, count, steps, sigma, dt, rate, size):
    """As `walk`, with gaps at opens: with probability `rate` a jump, down or up, exponential of mean `size`; a martingale."""
    happens = rng.random((count, steps)) < rate
    jumps = np.where(happens, rng.exponential(size, happens.shape) * rng.choice((-1, 1), happens.shape), 0.0)
    jumps[:, 0] = 0.0
    mean = 1 + rate * ((1 / (1 + size) + 1 / (1 - size)) / 2 - 1)
    jumps[:, 1:] -= np.log(mean)
    moves = rng.normal(-(sigma**2) / 2 * dt, sigma * np.sqrt(dt), (count, steps))
    closed = np.cumsum(moves + jumps, axis=1)
    return closed - moves, closed


# ---------------------------------------------------------------------------------------------------- bars
def bridge_low(rng, x, y, variance):
    """Minimum of a Brownian bridge from x to y: P(min <= z) = exp(-2(x - z)(y - z) / variance), inverted."""
    spread = np.sqrt((y - x) ** 2 - 2 * variance * np.log(1 - rng.random(x.shape)))
    return (x + y - spread) / 2


def bridge_bars(rng, opened, closed, variance):
    """Bars with exact lows and exact highs, each by itself; `variance` of the log return of a bar."""
    low = bridge_low(rng, opened, closed, variance)
    high = -bridge_low(rng, -opened, -closed, variance)
    top, bottom = np.maximum(opened, closed), np.minimum(opened, closed)
    return make_paths(opened, np.maximum(high, top), np.minimum(low, bottom), closed)


def body_bars(opened, closed):
    """Bars that know only their open and close."""
    return make_paths(opened, np.maximum(opened, closed), np.minimum(opened, closed), closed)


def flat_bars(opened, closed):
    """Bars of one price each; the flat bar at the end shows the last close."""
    return make_paths(opened, opened, opened, opened, last=closed[:, -1:])


def make_paths(opened, high, low, closed, last=None):
    """Log prices (count, steps) as hourly bars of one symbol, each path followed by a flat bar at its last price."""
    last = closed[:, -1:] if last is None else last
    series = [np.concatenate([prices, last], axis=1) for prices in (opened, high, low, closed)]
    columns = {name: (PRICE * np.exp(prices)).ravel() for name, prices in zip(COLUMNS, series, strict=True)}
    return Paths(bars_frame(columns), *opened.shape)


def bars_frame(columns):
    """Hourly bars of the one symbol."""
    length = len(columns["open"])
    times = pl.Series(START + np.arange(length) * HOUR).cast(TIME)
    return pl.DataFrame({"ts": times, "symbol": pl.repeat("PATH", length, eager=True), **columns})


# ----------------------------------------------------------------------------------------------- positions
def positions(paths, policies):
    """An account table: on every path every policy, opened at its first bar, closed by time at its flat bar if not before.

    `policies` {name: columns of the account table}; each is a world of its own. The key `steps` means: leave after so many.
    """
    times, parts = paths.frame["ts"], []
    first = np.arange(paths.count) * (paths.steps + 1)
    for name, wishes in policies.items():
        own = {"strategy": "martingale", "symbol": "PATH", "policy": name, "world": name}
        own |= {"side": "long", "collateral": 1.0, "leverage": 1.0} | wishes
        due = first + own.pop("steps", paths.steps)
        table = pl.DataFrame({"entry_time": times.gather(first), "exit_time": times.gather(due)})
        parts.append(table.with_columns(pl.lit(value).alias(column) for column, value in own.items()))
    table = pl.concat(parts, how="diagonal")
    return table.with_columns(account=pl.int_range(table.height))


def bar_of(times):
    """The bar that each time is the open of."""
    return (times.dt.epoch("ms").to_numpy() - START) // HOUR


def path_of(times, paths):
    """The path each time belongs to."""
    return bar_of(times) // (paths.steps + 1)


def age_of(times, paths):
    """Bars since the start of the path."""
    return bar_of(times) % (paths.steps + 1)


def score(values, expected=0.0):
    """How many standard errors the mean of `values`, one a path, lies above what is expected."""
    values = np.asarray(values, dtype=np.float64)
    return float((values.mean() - expected) / (values.std(ddof=1) / np.sqrt(values.size)))
