"""Enter at random: what a policy does to trades that know nothing.

Each close draws from a hash of its time and the seed (SplitMix64: Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014), so a bar's draw depends on nothing before or after it, and is
the same on every machine and for every symbol. It never leaves of its own accord: give the policy a time
limit.

Parameters
    seed: any whole number; another seed gives other entries.
    probability: of an entry at a close, from 0 to 1.
    side: "long", "short", or "both" (a second draw decides).
"""

from typing import Any, Literal

import numpy as np
import polars as pl


def _hash(numbers: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """One SplitMix64 step of each number, modulo 2**64."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def signals(
    *, seed: int = 1, probability: float = 0.001, side: Literal["long", "short", "both"] = "both"
) -> dict[str, pl.Expr]:
    if not 0 <= probability <= 1:
        raise ValueError(f"probability = {probability} must be from 0 to 1")

    def draw(times: pl.Series) -> pl.Series:
        salt = _hash(np.array([seed % 2**64], dtype=np.uint64))
        return pl.Series(times.name, _hash(_hash(times.to_numpy().astype(np.uint64)) ^ salt))

    drawn = pl.col("ts").dt.epoch("ms").map_batches(draw, return_dtype=pl.UInt64)
    # The highest 53 bits are the chance of an entry, the lowest one the side.
    enters = (drawn // 2**11).cast(pl.Float64) < probability * 2.0**53
    if side != "both":
        return {f"{side}_entry": enters}
    long = drawn % 2 == 0
    return {"long_entry": enters & long, "short_entry": enters & ~long}
