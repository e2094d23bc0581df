"""The accounts table from arrays, without copying what need not be copied, and the table of liquidations in steps.

In: settled columns, and labels that say whose each row is. Out: a frame in the columns of `perpbt.result.Result.accounts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]

from perpbt.columns import MOMENT, bits, held, times, words
from perpbt.kernels.adding import NUMBERS
from perpbt.kernels.tables import ACCEPTED, CALL, CALLS, REASONS, REJECTIONS, Integers, Table
from perpbt.settling.settled import Columns

ORDER = [
    "account",
    "position",
    "strategy",
    "policy",
    "symbol",
    "world",
    "weight",
    "side",
    "leverage",
    "collateral",
    "entry_time",
    "entry_price",
    "quantity",
    "margin",
    "liquidation_price",
    "bankruptcy_price",
    "exit_time",
    "exit_price",
    "exit_reason",
    "rejection",
    "pnl",
    "funding",
    "fees",
    "liquidation_fee",
    "surplus",
    "deficit",
    "top_up",
    "cash_change",
    "total_return",
    "max_drawdown",
    "worst_margin_ratio",
]
PHASES = ("open", "range")
MONEY = (
    "quantity", "price", "fee", "liquidation_fee", "surplus", "deficit", "margin_after", "quantity_after", "ratio",
)  # fmt: skip


def accounts_table(columns: Columns, labels: Mapping[str, pl.Series]) -> pl.DataFrame:
    """The frame. `labels` are account, position, strategy, policy, symbol, world and leverage, a row each; side where it is at hand."""
    rejection = columns.word("rejection")
    opened = rejection == ACCEPTED
    known = bits(opened)
    made = {name: held(columns.number(name), pa.float64(), known) for name in NUMBERS[1:]}
    made |= {
        "weight": held(columns.weight, pa.float64()),
        "collateral": held(columns.number("collateral"), pa.float64()),
        "entry_time": held(columns.moment("entry_time"), MOMENT),
        "exit_time": held(columns.moment("exit_time"), MOMENT, known),
        "exit_reason": words(REASONS, columns.word("exit_reason")),
        "rejection": pl.repeat(None, columns.size, dtype=pl.String, eager=True)
        if known is None
        else words(REJECTIONS, rejection, known=bits(~opened)),
    }
    if "side" not in labels:
        made["side"] = words(("short", "long"), columns.word("side"))
    order = list(ORDER)
    if columns.owed is not None:
        made["owed"] = held(columns.owed, pa.float64(), known)
        order.insert(order.index("deficit") + 1, "owed")
    return pl.DataFrame([{**made, **labels}[name].alias(name) for name in order])


def step_table(parts: Sequence[tuple[Table, Integers]], accounts: pl.LazyFrame) -> pl.DataFrame:
    """A row a step, in the order of the accounts table.

    account position symbol time phase ("open" or "range") step (1, 2, ...) kind ("reduced": a part; "liquidated", "taken_over": the
    rest) quantity (closed) price (its fill) fee liquidation_fee surplus deficit margin_after quantity_after ratio (requirement /
    equity at the mark the step was met at), and where not all money is in quote currency settlement and conversion. Money is of the position
    itself, in settlement currency: weights are not applied.
    """
    table = np.concatenate([part for part, _ in parts]) if parts else np.zeros(0, dtype=CALL)
    when = np.concatenate([at for _, at in parts]) if parts else np.zeros(0, dtype=np.int64)
    order = np.lexsort((table["step"], table["row"]))
    table, when = table[order], when[order]
    steps = pl.DataFrame(
        {
            "row": pl.Series(table["row"].astype(np.uint32)),
            "time": times(np.ascontiguousarray(when)),
            "phase": words(PHASES, table["phase"]),
            "step": pl.Series(table["step"].astype(np.uint32)),
            "kind": words(CALLS, table["action"]),
            **{name: pl.Series(np.ascontiguousarray(table[name])) for name in MONEY},
        }
    )
    owners = (
        accounts.select("account", "position", "symbol")
        .with_row_index("row")
        .join(steps.lazy().select("row").unique(), on="row", how="semi")
        .collect()
    )
    joined = steps.join(owners, on="row", how="left", maintain_order="left")
    return joined.select("account", "position", "symbol", pl.exclude("account", "position", "symbol", "row"))
