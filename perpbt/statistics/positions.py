"""What became of the positions: returns, exits, surpluses, deficits, money flows, liquidations in time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from perpbt.errors import InputError
from perpbt.statistics.common import (
    EXIT_REASONS,
    IS_DEFAULTED,
    IS_LIQUIDATED,
    exact_sums,
    exit_notional,
    names,
    opened,
)

QUANTILES = (0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95)
FLOWS = {
    "income": pl.col("liquidation_fee") + pl.col("surplus"),
    "surplus": pl.col("surplus"),
    "deficit": pl.col("deficit"),
}
MONEY = ("pnl", "funding", "fees", "liquidation_fee", "surplus", "deficit", "cash_change")


def return_quantiles(accounts: pl.DataFrame, by: str | Sequence[str] = "leverage") -> pl.DataFrame:
    """Distribution of total return (fraction of collateral and top-ups) over positions, per group of `by`.

    Columns: `by`, `positions`, `mean`, `quantile_05` … `quantile_95` (linear between order statistics). Each
    position counts once, whatever its weight; rejected rows are left out.
    """
    columns = names(by, accounts)
    rows = opened(accounts).select(*columns, mean=pl.col("total_return"))
    spread = rows.group_by(columns).agg(
        positions=pl.len().cast(pl.Int64),
        **{
            f"quantile_{round(q * 100):02d}": pl.col("mean").quantile(q, interpolation="linear")
            for q in QUANTILES
        },
    )
    table = exact_sums(rows, columns, ("mean",)).join(
        spread, on=columns, nulls_equal=True, maintain_order="left"
    )
    return table.select(*columns, "positions", pl.col("mean") / pl.col("positions"), pl.col("^quantile_.*$"))


def exit_reasons(accounts: pl.DataFrame, by: str | Sequence[str] = "leverage") -> pl.DataFrame:
    """How positions ended: `by`, `exit_reason`, `positions` (rows), `share` (of all rows of the group).

    Rejected rows are one of the reasons. Sorted by group, then in a fixed order of reasons; reasons that did
    not occur have no row. Each row counts once.
    """
    columns = names(by, accounts)
    order = {reason: place for place, reason in enumerate(EXIT_REASONS)}
    counts = accounts.group_by(*columns, "exit_reason").agg(positions=pl.len().cast(pl.Int64))
    place = pl.col("exit_reason").replace_strict(order, default=len(order), return_dtype=pl.Int64)
    shares = counts.with_columns(share=pl.col("positions") / pl.col("positions").sum().over(columns))
    return shares.sort(*columns, place, "exit_reason")


def money_flows(accounts: pl.DataFrame, by: str | Sequence[str] = "strategy") -> pl.DataFrame:
    """Where the money went, per group of `by`: weighted sums in quote currency, and `positions`.

    Columns `pnl`, `funding` (received positive), `fees`, `liquidation_fee`, `surplus`, `deficit`,
    `cash_change`, for which cash_change = pnl + funding - fees - liquidation_fee - surplus + deficit.
    Rejected rows are left out.
    """
    columns = names(by, accounts)
    rows = opened(accounts).select(*columns, pl.col(MONEY) * pl.col("weight"))
    counts = rows.group_by(columns).agg(positions=pl.len().cast(pl.Int64))
    return counts.join(exact_sums(rows, columns, MONEY), on=columns, nulls_equal=True).sort(columns)


def flow_histogram(accounts: pl.DataFrame, *, bins: int = 40, decades: float = 6.0) -> pl.DataFrame:
    """What each liquidation (and other default) brought and cost the fund, log-spaced bins, tails.

    Three flows: `income`, the liquidation fee and the surplus together; the `surplus` alone; the `deficit`.

    Two measures: `fraction` of the notional at the exit fill (quantity·exit_price), and `money`, quote
    currency of the position itself. Columns: `flow`, `measure`, `lower`, `upper` (lower <= value < upper,
    the last bin closed), `positions`, and `exceeding`, the share of all liquidations with a value of at
    least `lower`. The first bin starts at 0 and holds what is smaller than `decades` powers of ten below
    the largest value, zeros included. Each position counts once. A flow that is 0 throughout has no rows.
    """
    if bins < 1 or not decades > 0:
        raise InputError(f"bins is {bins} and decades {decades}; both have to be positive")
    ended = opened(accounts).filter(IS_LIQUIDATED | IS_DEFAULTED)
    tables = [
        _histogram((ended.select(value).to_series() / scale).to_numpy(), bins, decades).select(
            pl.lit(flow).alias("flow"), pl.lit(measure).alias("measure"), pl.all()
        )
        for flow, value in FLOWS.items()
        for measure, scale in (("fraction", ended.select(exit_notional(ended)).to_series()), ("money", 1.0))
    ]
    return pl.concat(tables)


def _histogram(
    values: np.ndarray[tuple[int], np.dtype[np.float64]], bins: int, decades: float
) -> pl.DataFrame:
    """Bins, counts and tail of one non-negative quantity."""
    top = float(values.max(initial=0.0))
    edges = (
        np.concatenate(([0.0], np.geomspace(top * 10.0**-decades, top, bins + 1))) if top > 0 else np.zeros(1)
    )
    counts = np.histogram(values, edges)[0] if top > 0 else np.zeros(0, np.int64)
    tail = np.cumsum(counts[::-1])[::-1] / max(values.size, 1)
    return pl.DataFrame(
        {
            "lower": edges[:-1],
            "upper": edges[1:],
            "positions": counts.astype(np.int64),
            "exceeding": tail.astype(np.float64),
        }
    )


def liquidations_in_time(accounts: pl.DataFrame, by: str = "leverage", *, windows: int = 150) -> pl.DataFrame:
    """When positions were liquidated: `by`, `time`, `liquidated`, `share` (of the group's opened positions).

    `time` is the start of a window. The span from first entry to last exit is cut into `windows` equal
    windows; one without a liquidation has no row. Sorted by group and time. Each position counts once.
    """
    if windows < 1:
        raise InputError(f"windows is {windows}; it has to be at least 1")
    rows = opened(accounts).select(*names(by, accounts), "entry_time", "exit_time", "exit_reason")
    first = rows["entry_time"].dt.epoch("ms").min() if rows.height else 0
    last = rows["exit_time"].dt.epoch("ms").max() if rows.height else 0
    assert isinstance(first, int)
    assert isinstance(last, int)
    width = max(1, -(-(last - first + 1) // windows))
    start = first + (pl.col("exit_time").dt.epoch("ms") - first) // width * width
    sizes = rows.group_by(by).agg(size=pl.len())
    counts = (
        rows.filter(IS_LIQUIDATED).group_by(by, start.alias("time")).agg(liquidated=pl.len().cast(pl.Int64))
    )
    shares = counts.join(sizes, on=by, nulls_equal=True).sort(by, "time")
    moment = pl.from_epoch("time", time_unit="ms").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    return shares.select(by, moment, "liquidated", share=pl.col("liquidated") / pl.col("size"))
