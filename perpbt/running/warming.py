"""Kernels that every run calls, loaded from disk while its prices become arrays: the two need no more than a word of the other.

In: the kernel of the door that is run. Out: nothing; a kernel that is called before it is loaded is waited for, one that has never been
compiled is left to who calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perpbt.engines.chunks import meanwhile
from perpbt.kernels import adding, flowing, lanes, numbering, pyramid, sums, tallying
from perpbt.kernels.compile import load

GIVEN, FOLLOWING = lanes.run_given, lanes.run_following
AFTER = (
    *(lanes.note_fills, adding.settle_rows, adding.fund_events, tallying.sum_chunk, tallying.weigh_fees),
    *(numbering.find_numbers, sums.add_exactly, tallying.sort_chunk, tallying.deal, sums.merge_sums),
    *(sums.exact_sums, sums.fund_balances, sums.rounded_sums, tallying.count_distinct),
)


AT_ONCE = flowing.settle_page
ALONE = (adding.settle_rows, adding.fund_events, tallying.sum_chunk, tallying.weigh_fees, tallying.sort_chunk)


def warm(kernel: Callable[..., Any], engine: str) -> None:
    """Begin to load `kernel` and what is called before and after it."""
    if engine in ("auto", "skip"):
        after = AFTER if kernel is GIVEN else (AT_ONCE, *(one for one in AFTER if one not in ALONE))
        meanwhile(lambda: load(pyramid.build, kernel, *after))
