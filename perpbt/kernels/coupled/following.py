"""Accounts that follow signals, one of whose positions has ended otherwise than it would have alone: where they stand then."""

from __future__ import annotations

from perpbt.kernels.accounts import after_exit
from perpbt.kernels.compile import kernel
from perpbt.kernels.tables import Integers, Market, Table


@kernel
def free_lanes(market: Market, plans: Table, lanes: Table, rows: Table, places: Integers) -> None:
    """Put each lane where it stands once the position in row places[k] is over: out for good, cooling down, or free at once."""
    for k in range(lanes.size):
        after_exit(market, plans[lanes[k]["plan"]], lanes[k], rows[places[k]])
