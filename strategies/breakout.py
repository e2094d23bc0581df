"""Donchian breakout: enter where price leaves its recent range, leave at the other end of a shorter one.

Enters long at a close above the highest high of the `entry` bars before it, short at a close below their
lowest low; leaves a long at a close below the lowest low of the `exit` bars before it, a short above their
highest high. The bar itself is never part of the range. `channel_low` and `channel_high`, the ends of the
exit range, are columns: a policy may put its stop of a long at {column = "channel_low"}.

Parameters
    entry, exit: lengths of the ranges in bars, at least 1.
"""

import polars as pl


def _highest(bars: int) -> pl.Expr:
    return pl.col("high").rolling_max(bars).shift(1)


def _lowest(bars: int) -> pl.Expr:
    return pl.col("low").rolling_min(bars).shift(1)


def signals(*, entry: int = 1440, exit: int = 480) -> dict[str, pl.Expr]:
    for name, bars in (("entry", entry), ("exit", exit)):
        if bars < 1:
            raise ValueError(f"{name} = {bars} must be at least 1 bar")
    close = pl.col("close")
    return {
        "long_entry": close > _highest(entry),
        "long_exit": close < _lowest(exit),
        "short_entry": close < _lowest(entry),
        "short_exit": close > _highest(exit),
    }


def columns(*, exit: int = 480) -> dict[str, pl.Expr]:
    return {"channel_low": _lowest(exit), "channel_high": _highest(exit)}
