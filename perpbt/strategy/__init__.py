"""Strategies: Python files that say, as polars expressions, at which closes to enter and to leave.

A strategy is a file with a docstring and a function `signals(*, parameter: type = default, ...)` that
returns a mapping with any of the keys `long_entry`, `long_exit`, `short_entry`, `short_exit` (one left out:
never). An optional function `columns`, with the same parameters, returns prices that a policy's `{column =
"name"}` may use. Each expression sees one symbol's bars, sorted: `ts symbol open high low close mark_open
mark_high mark_low mark_close`, `volume` if the data has it, and `funding_rate`, null on bars without a
funding event.

In: a name, a path or a function, parameters, and a symbol's bars. Out: boolean arrays, read at the close of
each bar.
"""

from perpbt.config.parameters import Parameter
from perpbt.strategy.evaluate import check_look_ahead, evaluate, evaluate_columns
from perpbt.strategy.find import (
    SIGNALS,
    BoundStrategy,
    Strategy,
    as_strategies,
    find_strategy,
    list_strategies,
)

__all__ = [
    "SIGNALS",
    "BoundStrategy",
    "Parameter",
    "Strategy",
    "as_strategies",
    "check_look_ahead",
    "evaluate",
    "evaluate_columns",
    "find_strategy",
    "list_strategies",
]
