"""Accounts leveraged as BitMEX's traders were: a population with a published distribution.

BitMEX's survey of May 2018 to April 2019: four fifths of longs held at most 54x, of shorts at most 47x, and the means
were 29x and 26x in May 2018 (effective leverage, |mark value| / (mark value - bankruptcy value)).

Parametrisation, for want of the data: u = ln L / ln 100 for leverages L from 1x to 100x, and P(u <= x) = x^k. One number a
side, taken from the survey's quantile; its means, 29.1x and 25.1x, were not asked for and agree with the survey's. (No
lognormal has both: four fifths of one lie below 1.4 times its mean at most, and 54 is 1.9 times 29.)
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

import perpbt
from perpbt.load import Bars
from perpbt.studies._population import spans

HIGHEST = 100.0
FOUR_FIFTHS = {"long": 54.0, "short": 47.0}
"""Leverage that four fifths of a side do not exceed."""
BANDS = {"1x-5x": 5.0, "5x-20x": 20.0, "20x-50x": 50.0, "50x-100x": HIGHEST}


def exponent(side: str) -> float:
    """k of the module's distribution: 0.8 = (ln 54 / ln 100)^k for longs."""
    return math.log(0.8) / math.log(math.log(FOUR_FIFTHS[side]) / math.log(HIGHEST))


def leverages(side: str, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The leverages below which these shares of a side are."""
    return np.asarray(HIGHEST ** (shares ** (1.0 / exponent(side))), dtype=np.float64)


def survey_positions(
    bars: Bars,
    venue: perpbt.Venue,
    *,
    first: datetime,
    last: datetime,
    starts: int,
    holding: timedelta,
    seed: int,
    notional: float = 2_000.0,
) -> pl.DataFrame:
    """A table for `simulate`: `starts` positions a side and symbol of the same `notional`, opened evenly over [first, last) and held for
    exponential times of mean `holding`.

    Leverages go up to the highest that the venue's first tier lets. `strategy` is the side, `policy` the band of leverages.
    """
    random = np.random.default_rng(seed)
    parts = []
    for symbol, begins, ends in spans(bars).iter_rows():
        start, end = max(first, begins), min(last, ends)
        for side in FOUR_FIFTHS:
            leverage = np.minimum(
                leverages(side, random.random(starts)), venue.max_leverage(notional, symbol)
            )
            held = random.exponential(holding / timedelta(milliseconds=1), starts)
            entry = [start + (end - start) * ((i + 0.5) / starts) for i in range(starts)]
            parts.append(_part(symbol, side, entry, held, leverage, notional))
    return pl.concat(parts).with_row_index("account")


def _part(
    symbol: str, side: str, entry: list[datetime], held: Any, leverage: Any, notional: float
) -> pl.DataFrame:
    frame = pl.DataFrame({"entry_time": entry, "leverage": leverage, "held": held})
    held_in = [pl.when(pl.col("leverage") <= most).then(pl.lit(band)) for band, most in BANDS.items()]
    return frame.select(
        *("entry_time", "leverage"),
        exit_time=pl.col("entry_time") + pl.duration(milliseconds=pl.col("held").ceil().cast(pl.Int64)),
        collateral=notional / pl.col("leverage"),
        symbol=pl.lit(symbol),
        side=pl.lit(side),
        strategy=pl.lit(side),
        policy=pl.coalesce(held_in),
    )
