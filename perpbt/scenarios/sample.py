"""The market behind the shipped dataset `sample`: three invented contracts, minute bars, one bad day.

In: a frozen `Parameters`, seed included. Out: one table of bars (`sample_bars`), and on disk a Parquet file a
symbol with a manifest (`write_sample`; from a shell `python -m perpbt.scenarios.sample OUT_DIR [--seed N]`).

The story is built on a grid of a few seconds, from left to right: volatility (slow and fast autoregressions,
time of day, aftermath of shocks) -> index (correlated Gaussian steps, jumps, the shape of the shocks) -> last
price (index plus premium, dislocation, wick, bid-ask bounce) -> mark (index plus smoothed, guarded premium)
-> bars whose high and low are the true extremes of that grid -> volume and funding, from the rounded bars.

Every price ends on a tick. `exp` and its like differ in their last bit between machines, which moves a path
by some 1e-14 of itself; a tick is 3e-5 or more. So the same seed gives the same numbers everywhere, unless
one of three million prices sits within 1e-9 ticks of a rounding edge (a chance below 1 %); `content_sha256`
in the manifest states them.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perpbt.errors import InputError, PerpbtError
from perpbt.scenarios._dataset import COLUMNS, content_sha256, write_dataset
from perpbt.scenarios._sample_parameters import Contract, Parameters, Shock, Wick

__all__ = ["Contract", "Parameters", "Shock", "Wick", "content_sha256", "main", "sample_bars", "write_sample"]

Floats = NDArray[np.float64]
Minutes = NDArray[np.int64]


def _smooth(values: Floats, half_life: float) -> Floats:
    """Exponential average, `half_life` in steps, started at the first value."""
    return pl.Series(values).ewm_mean(alpha=1 - 0.5 ** (1 / half_life), adjust=False).to_numpy()


def _autoregression(rng: np.random.Generator, size: int, half_life: float) -> Floats:
    """Stationary first-order autoregression with unit variance, `half_life` in steps."""
    decay = 0.5 ** (1 / half_life)
    scale = math.sqrt((1 + decay) / (1 - decay))
    normals = rng.standard_normal(size)
    normals[0] /= scale
    return scale * _smooth(normals, half_life)


def _minutes(p: Parameters, at: datetime) -> float:
    return (at - p.start) / timedelta(minutes=1)


def _grid(p: Parameters) -> Floats:
    """Minutes since the start of every step."""
    return np.arange(p.days * 1440 * p.steps_per_minute) / p.steps_per_minute


def _shape(p: Parameters, shock: Shock, power: float, minutes: float) -> Floats:
    """0 before the shock, t**power up to 1 at its extreme, then a decay with the time constant `minutes`."""
    since = _grid(p) - _minutes(p, shock.start)
    after = np.maximum(since - shock.move_minutes, 0.0)
    return np.clip(since / shock.move_minutes, 0.0, 1.0) ** power * np.exp(-after / minutes)


def _season(p: Parameters) -> Floats:
    """Log volatility by time of day and week, one value a minute."""
    minute = np.arange(p.days * 1440) + (p.start.hour * 60 + p.start.minute)
    day = p.day_season * np.cos(2 * np.pi * (minute / 60 - p.day_peak_hour) / 24)
    weekday = (minute // 1440 + p.start.weekday()) % 7
    return day + np.where(weekday >= 5, p.weekend, 0.0)


def _volatility(p: Parameters, rng: np.random.Generator) -> list[Floats]:
    """Standard deviation of each step's log return, per contract."""
    minutes = p.days * 1440
    slow = p.slow_volatility * _autoregression(rng, minutes, 60 * p.slow_half_life_hours)
    unrest = np.zeros(minutes * p.steps_per_minute)
    for shock in (p.crash, p.squeeze):
        unrest += shock.unrest * _shape(p, shock, shock.move_power, 60 * shock.unrest_hours)
        unrest += shock.panic * _shape(p, shock, shock.panic_power, shock.recovery_minutes)
    out = []
    for contract in p.contracts:
        fast = p.fast_volatility * _autoregression(rng, minutes, p.fast_half_life_minutes)
        level = np.exp(slow + fast + _season(p))
        level *= contract.daily_volatility / math.sqrt(float(np.mean(level**2)) * 1440 * p.steps_per_minute)
        out.append(np.repeat(level, p.steps_per_minute) * np.exp(unrest))
    return out


def _log_index(p: Parameters, rng: np.random.Generator) -> list[Floats]:
    """Log of index over first index price, on the grid, per contract."""
    volatility = _volatility(p, rng)
    size = volatility[0].size
    common = rng.standard_normal(size)
    outage = np.clip((_grid(p) - _minutes(p, p.outage_start)) / p.outage_minutes, 0.0, 1.0)
    out = []
    for k, (contract, level) in enumerate(zip(p.contracts, volatility, strict=True)):
        own = math.sqrt(1 - contract.common_share**2) * rng.standard_normal(size)
        steps = level * (contract.common_share * common + own)
        jumps = rng.random(size) < p.jumps_per_day / (1440 * p.steps_per_minute)
        steps[jumps] += p.jump_volatility * contract.daily_volatility * rng.standard_normal(int(jumps.sum()))
        path = np.cumsum(steps) - steps[0] + p.outage_move[k] * outage
        for shock in (p.crash, p.squeeze):
            returning = _shape(p, shock, shock.move_power, shock.recovery_minutes)
            lasting = _shape(p, shock, shock.move_power, math.inf)
            mixed = shock.recovered * returning + (1 - shock.recovered) * lasting
            path += shock.direction * shock.depth[k] * mixed
        out.append(path)
    return out


def _log_premium(p: Parameters, rng: np.random.Generator, k: int, log_index: Floats) -> Floats:
    """Log of last over index on the grid for contract number k: slow, fast, chasing, shocked, bouncing."""
    contract, minute, size = p.contracts[k], p.steps_per_minute, log_index.size
    slow = _autoregression(rng, size, p.slow_premium_half_life_hours * 60 * minute)
    fast = _autoregression(rng, size, p.fast_premium_half_life_minutes * minute)
    recent = log_index - _smooth(log_index, p.momentum_half_life_minutes * minute)
    premium = p.premium_mean + p.slow_premium * slow + p.fast_premium * fast + p.momentum_premium * recent
    for shock in (p.crash, p.squeeze):
        empty_book = shock.dislocation[k] * _shape(
            p, shock, shock.dislocation_power, shock.dislocation_minutes
        )
        lasting = shock.premium[k] * _shape(p, shock, shock.move_power, 60 * shock.premium_hours)
        premium += shock.direction * (empty_book + lasting)
    if contract.name == p.wick.symbol:
        phase = np.clip((_grid(p) - _minutes(p, p.wick.start)) * 60 / p.wick.seconds, 0.0, 1.0)
        premium -= p.wick.depth * np.sin(np.pi * phase) ** 2
    return premium + contract.half_spread * np.where(rng.random(size) < 0.5, -1.0, 1.0)


def _candles(p: Parameters, prices: Floats, ticks_per_unit: int, prefix: str = "") -> dict[str, Floats]:
    """Prices on the grid -> open, high, low, close of each minute, rounded to ticks."""
    ticks = np.rint(prices * ticks_per_unit).reshape(-1, p.steps_per_minute)
    columns = {"open": ticks[:, 0], "high": ticks.max(1), "low": ticks.min(1), "close": ticks[:, -1]}
    return {prefix + name: values / ticks_per_unit for name, values in columns.items()}


def _volume(p: Parameters, rng: np.random.Generator, contract: Contract, bars: dict[str, Floats]) -> Floats:
    """Base units traded in each minute: range, season and noise around the contract's median turnover."""
    spread = (bars["high"] - bars["low"]) / bars["close"]
    busy = (spread + contract.half_spread) / float(np.median(spread))
    noise = p.volume_noise * rng.standard_normal(spread.size)
    base = contract.minute_turnover / bars["close"]
    activity = busy**p.volume_volatility_power * np.exp(p.volume_season * _season(p) + noise)
    lots = np.rint(contract.lots_per_unit * base * activity)
    lots = np.maximum(lots, 1.0)
    # A table, because powers from a vector library need not be exact; the place in it counts the digits.
    powers = np.array([10.0**n for n in range(19)])
    grain: Floats = powers[np.maximum(np.searchsorted(powers, lots, side="right") - p.volume_digits, 0)]
    return np.rint(lots / grain) * grain / contract.lots_per_unit


def _stamps(p: Parameters, contract: Contract) -> list[tuple[int, int]]:
    """(minute since the start, hours of the interval that ends there) of every funding event."""
    starts = [round(_minutes(p, since)) for since, _ in contract.funding]
    ends = [*starts[1:], p.days * 1440 - 1]
    return [
        (minute, hours)
        for start, end, (_, hours) in zip(starts, ends, contract.funding, strict=True)
        for minute in range(start + 60 * hours, end + 1, 60 * hours)
    ]


def _funding(p: Parameters, contract: Contract, minute: Minutes, premium: Floats) -> Floats:
    """Rate on the bars that carry an event, NaN elsewhere; `premium` is close / index_close - 1 of the bars.

    Mean premium of the interval plus interest leaning towards it, capped, all for 8 hours, then in proportion
    to the interval. A reader of the files can recompute every rate: only published bars enter.
    """
    rates = np.full(minute.size, np.nan)
    for stamp, hours in _stamps(p, contract):
        first, at = np.searchsorted(minute, [stamp - 60 * hours, stamp])
        if at == minute.size or minute[at] != stamp:
            moment = p.start + timedelta(minutes=stamp)
            raise InputError(
                f"parameters: funding stamp {moment} of {contract.name} has no bar (outage or end)"
            )
        mean = float(np.mean(premium[first:at]))
        rate = mean + min(max(p.interest - mean, -p.funding_clamp), p.funding_clamp)
        rates[at] = round(min(max(rate, -p.funding_cap), p.funding_cap) * hours / 8, p.funding_digits)
    return rates


def _existing(p: Parameters, rng: np.random.Generator, contract: Contract) -> Minutes:
    """Minutes since the start that have a bar."""
    minute = np.arange(p.days * 1440)
    outage = minute - round(_minutes(p, p.outage_start))
    exists = (outage < 0) | (outage >= p.outage_minutes)
    if contract is p.contracts[-1]:
        # Minutes that end in 7: no two are neighbours, and no funding stamp is lost.
        exists[rng.choice(minute[7::10], p.lone_gaps, replace=False)] = False
    return minute[exists]


def sample_bars(parameters: Parameters | None = None) -> pl.DataFrame:
    """Bars of all contracts, sorted by symbol and time, columns and units as in `COLUMNS`.

    Raises `InputError` when a funding stamp falls on a bar that does not exist.
    """
    p = Parameters() if parameters is None else parameters
    rng = np.random.Generator(np.random.PCG64(p.seed))
    frames = []
    for k, log_index in enumerate(_log_index(p, rng)):
        contract = p.contracts[k]
        index = contract.price * np.exp(log_index)
        premium = np.exp(_log_premium(p, rng, k, log_index))
        guarded = np.clip(premium - 1, -p.mark_guard, p.mark_guard)
        mark = index * (1 + _smooth(guarded, p.mark_half_life_seconds / 60 * p.steps_per_minute))
        bars = _candles(p, index * premium, contract.ticks_per_unit)
        bars |= _candles(p, mark, contract.ticks_per_unit, "mark_")
        bars |= _candles(p, index, contract.index_ticks_per_unit, "index_")
        bars["volume"] = _volume(p, rng, contract, bars)
        minute = _existing(p, rng, contract)
        kept = {name: values[minute] for name, values in bars.items()}
        kept["funding_rate"] = _funding(p, contract, minute, kept["close"] / kept["index_close"] - 1)
        ts = round(p.start.timestamp() * 1000) + 60_000 * minute
        frames.append(pl.DataFrame({"ts": ts, "symbol": [contract.name] * minute.size, **kept}))
    schema = {name: dtype for name, (dtype, _) in COLUMNS.items()}
    return pl.concat(frames).select(
        pl.col("ts").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"),
        *(pl.col(name).cast(dtype) for name, dtype in schema.items() if name not in ("ts", "funding_rate")),
        pl.col("funding_rate").fill_nan(None),
    )


def write_sample(directory: str | Path, parameters: Parameters | None = None) -> dict[str, Any]:
    """Write the dataset (a file per symbol, manifest.json) into `directory` and return the manifest."""
    p = Parameters() if parameters is None else parameters
    facts = {
        "name": "sample",
        "description": "Invented market: three contracts, minute bars of last, mark and index, volume and "
        "funding; a flash crash, a wick of the last price alone, an outage, a squeeze.",
        "made_by": f"python -m perpbt.scenarios.sample OUT_DIR --seed {p.seed}",
        "seed": p.seed,
    }
    return write_dataset(directory, sample_bars(p), facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: write the sample dataset; returns the exit code, 2 when an argument is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m perpbt.scenarios.sample",
        description="Write the sample dataset: Parquet and manifest.json.",
    )
    parser.add_argument("out_dir", type=Path, help="directory to write into, made if missing")
    parser.add_argument(
        "--seed", type=int, default=Parameters.seed, help="of the random numbers (default %(default)s)"
    )
    given = parser.parse_args(arguments)
    if given.seed < 0:
        parser.error(f"--seed {given.seed}: must be 0 or more")
    try:
        manifest = write_sample(given.out_dir, replace(Parameters(), seed=given.seed))
    except PerpbtError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    for file in manifest["files"]:
        sys.stdout.write(f"{given.out_dir / file['path']}: {file['rows']} bars, {file['bytes']} bytes\n")
    sys.stdout.write(f"content sha256 {manifest['content_sha256']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
