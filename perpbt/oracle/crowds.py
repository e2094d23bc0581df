"""Shared wallets whose liquidations are filled against all that their world sells with them (§6, crowding).

A fill decides what is left in a wallet, and so whether what it opens later stands, and when that is liquidated. So the wallets are run again
with the crowds of the run before until nothing that is sold changes: what falls first does so whatever the fills, so its crowds are
right the second time, what they decide the third, and so on in time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .cross import run_wallet
from .shapes import Bars, Record

Who = tuple[Any, ...]  # world, symbol, side of the net quantity, bar, phase


def run_in_crowds(
    bars: Mapping[str, Bars],
    accounts: Sequence[Record],
    venues: Mapping[str, Record],
    rules: Record,
    terms: Record,
) -> list[Record]:
    """All accounts to their end, {"legs", "assets", "world", "weight"} each, in their order. The rest is as for `cross.run_wallet`."""
    crowds: dict[Who, float] = {}
    before: list[tuple[Who, float]] | None = None
    while True:
        done, sold = [], []
        for one in accounts:
            told = {**terms, "assets": one["assets"], "world": one["world"], "crowds": crowds}
            done.append(run_wallet(bars, one["legs"], venues, rules, told))
            sold += [(who, one["weight"] * volume) for who, volume in done[-1]["wallet"]["sold"]]
        if sold == before:
            return done
        before, crowds = sold, added(sold)


def added(sold: Iterable[tuple[Who, float]]) -> dict[Who, float]:
    """What each crowd sells together, whatever the order."""
    volumes: dict[Who, list[float]] = {}
    for who, volume in sold:
        volumes.setdefault(who, []).append(volume)
    return {who: math.fsum(parts) for who, parts in volumes.items()}
