"""Moving-average cross: with the trend, from one cross to the next.

Enters long at the close where the fast average of closes passes above the slow one, short where it passes
below; each side leaves at the opposite cross. It acts on the bar of the cross only, so an account that was
stopped out waits for the next one.

Parameters
    fast, slow: lengths of the averages in bars, 1 <= fast < slow.
"""

import polars as pl


def signals(*, fast: int = 240, slow: int = 1440) -> dict[str, pl.Expr]:
    if not 1 <= fast < slow:
        raise ValueError(f"fast = {fast} and slow = {slow} must satisfy 1 <= fast < slow")
    close = pl.col("close")
    lead = close.rolling_mean(fast) - close.rolling_mean(slow)
    before = lead.shift(1)
    up = (lead > 0) & (before <= 0)
    down = (lead < 0) & (before >= 0)
    return {"long_entry": up, "long_exit": down, "short_entry": down, "short_exit": up}
