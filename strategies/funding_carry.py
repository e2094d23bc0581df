"""Funding carry: stand on the side that is paid.

The last known funding rate, carried forward from its event, decides: at `threshold` or more longs pay, so it
goes short; at minus `threshold` or less it goes long. It leaves when the rate no longer pays more than
`exit`, which with the default of 0 is when it changes sign. The position's own price risk is not hedged.

A symbol without funding in its data is never entered (an all-null rate); data without a `funding_rate` column
at all is an error.

Parameters
    threshold: rate per funding event, whatever its interval, as a fraction (0.0003 is 3 basis points), above
    0. exit: rate per event at or below which the carry is over, 0 <= exit < threshold.
"""

import polars as pl


def signals(*, threshold: float = 0.0003, exit: float = 0.0) -> dict[str, pl.Expr]:
    if not 0 <= exit < threshold:
        raise ValueError(f"exit = {exit} and threshold = {threshold} must satisfy 0 <= exit < threshold")
    rate = pl.col("funding_rate").forward_fill()
    return {
        "long_entry": rate <= -threshold,
        "long_exit": rate >= -exit,
        "short_entry": rate >= threshold,
        "short_exit": rate <= exit,
    }
