"""Statistics rows put together over strategies, symbols or policies, and laid out as a grid for heat maps."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from perpbt.errors import InputError
from perpbt.statistics.common import names, require
from perpbt.statistics.defaults import COUNTS, TOTAL

SUMMED = (*COUNTS, "surplus", "deficit", "net_fund_flow", "uncovered")
MEDIANS = ("median_return", "time_to_liquidation")
STOP_ORDER = ("price", "margin", "atr", "column", "none")


def combine(statistics: pl.DataFrame, by: str | Sequence[str]) -> pl.DataFrame:
    """Rows of `statistics` put together per group of `by`, in order of first appearance.

    Give rows of one level only (say, all with symbol "all" and a named policy), else positions count twice.

    Counts and money (quote currency) are summed. `liquidated_share` and `defaulted_share` are counts over
    opened positions. `pd`, `expected_loss` and `mean_return` are means over rows by positions, `ead` by
    expected defaults, `lgd` by exposure at default, so that expected_loss = pd·ead·lgd still holds.
    `max_drawdown` is the largest. A median of medians is no median: `median_return` and `time_to_liquidation`
    are null unless the group is one row. Nulls (no position, no default) carry no weight.
    """
    columns = names(by, statistics)
    n, pd, ead, lgd = (pl.col(name) for name in ("positions", "pd", "ead", "lgd"))
    defaults = pd * n

    def mean(value: pl.Expr, weight: pl.Expr) -> pl.Expr:
        total = weight.filter(value.is_not_null()).sum()
        return pl.when(total != 0).then((value * weight).sum() / total)

    def share(counted: str) -> pl.Expr:
        return pl.when(n.sum() != 0).then(pl.col(counted).sum() / n.sum())

    return statistics.group_by(columns, maintain_order=True).agg(
        *(pl.col(name).sum() for name in SUMMED),
        liquidated_share=share("liquidated"),
        defaulted_share=share("defaulted"),
        pd=mean(pd, n),
        ead=mean(ead, defaults),
        lgd=mean(lgd, defaults * ead),
        expected_loss=mean(pl.col("expected_loss"), n),
        mean_return=mean(pl.col("mean_return"), n),
        max_drawdown=pl.col("max_drawdown").max(),
        **{name: pl.when(pl.len() == 1).then(pl.col(name).first()) for name in MEDIANS},
    )


def grid(
    statistics: pl.DataFrame,
    policies: pl.DataFrame,
    value: str,
    rows: str = "stop",
    columns: str = "leverage",
    *,
    strategy: str | None = None,
    symbol: str | None = None,
) -> pl.DataFrame:
    """`value` over two policy fields: first column the row labels, then a Float64 column per `columns`
    value.

    `value` is a column of `combine`; cells with several policies, strategies or symbols are put together by
    its rules. `strategy` and `symbol` pick one of each, default all. Rows run from the tightest stop to
    none, other fields by value. A cell without a policy, or whose value has no observation, is null.

    Raises InputError for an unknown value or field, no policies (accounts given one by one have none), or a
    median of several rows.
    """
    if policies.is_empty():
        raise InputError("no policies: accounts given one by one have no leverage × stop grid")
    cells = combine(_per_policy(statistics, policies, (rows, columns), strategy, symbol), (rows, columns))
    if value not in cells.columns:
        raise InputError(f"value {value!r} is not a statistic; known: {', '.join(cells.columns[2:])}")
    if value in MEDIANS and cells.filter(pl.col(value).is_null() & (pl.col("liquidated") > 0)).height:
        raise InputError(
            f"value {value!r} is a median and cells hold several rows: pick one strategy, one policy a cell"
        )
    if cells.schema[value] == pl.Duration:
        cells = cells.with_columns(pl.col(value).dt.total_milliseconds() / 3_600_000.0)
    cells = cells.sort(columns).with_columns(pl.col(value).cast(pl.Float64))
    if cells.schema[columns].is_numeric():
        cells = cells.with_columns(pl.Series(columns, [f"{number:g}" for number in cells[columns]]))
    wide = cells.pivot(columns, index=rows, values=value)
    order = _row_order(policies, rows)
    return order.join(wide, on=rows, how="inner", maintain_order="left", nulls_equal=True)


def _per_policy(
    statistics: pl.DataFrame,
    policies: pl.DataFrame,
    fields: Sequence[str],
    strategy: str | None,
    symbol: str | None,
) -> pl.DataFrame:
    """The strategy × policy rows asked for, with the policy `fields` beside them."""
    require(policies, ("policy", *fields), "policies")
    chosen = pl.col("strategy") != TOTAL if strategy is None else pl.col("strategy") == strategy
    wanted = (pl.col("policy") != TOTAL) & chosen & (pl.col("symbol") == (symbol or TOTAL))
    found = statistics.filter(wanted).join(policies.select("policy", *fields), on="policy")
    if found.is_empty():
        raise InputError(
            f"no statistics for strategy {strategy or 'any'}, symbol {symbol or 'all'} and the given policies"
        )
    return found


def _row_order(policies: pl.DataFrame, field: str) -> pl.DataFrame:
    """The distinct values of a policy field in the order to show them."""
    if field != "stop" or not {"stop_kind", "stop_value"} <= set(policies.columns):
        return policies.select(field).unique().sort(field)
    return pl.DataFrame({"stop": stop_order(policies)}, schema={"stop": policies.schema["stop"]})


def stop_order(policies: pl.DataFrame) -> list[str]:
    """The labels of the stops of policies, each once, from the tightest to none."""
    kinds = {kind: place for place, kind in enumerate(STOP_ORDER)}
    place = pl.col("stop_kind").replace_strict(kinds, default=len(kinds), return_dtype=pl.Int64)
    labels = policies.sort(place, "stop_value", "stop")["stop"]
    return labels.unique(maintain_order=True).to_list()
