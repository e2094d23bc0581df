"""Statistics: the tables of a result → numbers.

In come the accounts table (one row a position), the fund ledger and the policy table, all polars frames;
out go small polars frames that the report draws and prints. Nothing here simulates or draws. Only
`tally`, which is loaded when a run is summed up, adds with compiled code.
`coverage` and `procyclicality` judge a series of margins: is it exceeded as often as it says, and how does it move.

Accounts that share a price path are one observation: every share in these tables describes the paths that
were run. An interval has to come from other paths or from blocks of time, never from the number of
accounts.

Every sum of money or weights is correctly rounded (`exact_sums`), so no number depends on row order,
threads or chunks.
"""

from perpbt.statistics.coverage import christoffersen, kupiec, traffic_light
from perpbt.statistics.defaults import TOTAL, summarise
from perpbt.statistics.fund import draws_in_time, fund_path, worst_draws
from perpbt.statistics.grids import combine, grid
from perpbt.statistics.positions import (
    exit_reasons,
    flow_histogram,
    liquidations_in_time,
    money_flows,
    return_quantiles,
)
from perpbt.statistics.procyclicality import cost, deviation_of_changes, peak_to_trough, worst_rise
from perpbt.statistics.survival import survival

__all__ = [
    "TOTAL",
    "christoffersen",
    "combine",
    "cost",
    "deviation_of_changes",
    "draws_in_time",
    "exit_reasons",
    "flow_histogram",
    "fund_path",
    "grid",
    "kupiec",
    "liquidations_in_time",
    "money_flows",
    "peak_to_trough",
    "return_quantiles",
    "summarise",
    "survival",
    "traffic_light",
    "worst_draws",
    "worst_rise",
]
