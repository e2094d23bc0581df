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
    interest: float | Mapping[str, float] | None = None,
) -> list[Record]:
    """All accounts to their end, {"legs", "assets", "world", "weight"} each, in their order. The rest is as for `cross.run_wallet`.

    `interest` scales the weights of a world to this mean total notional, or, a number a symbol, those of each of its symbols.
    """
    crowds: dict[Who, float] = {}
    before: list[tuple[Who, float]] | None = None
    while True:
        done = [
            run_wallet(
                bars,
                one["legs"],
                venues,
                rules,
                {**terms, "assets": one["assets"], "world": one["world"], "crowds": crowds},
            )
            for one in accounts
        ]
        factors = scaled(done, accounts, len(next(iter(bars.values()))), interest)
        sold = [
            (who, (one["weight"] * factors[cell(who[0], who[1], interest)]) * volume)
            for one, life in zip(accounts, done, strict=True)
            for who, volume in life["wallet"]["sold"]
        ]
        if sold == before:
            return done
        before, crowds = sold, added(sold)


def cell(world: Any, symbol: str, interest: float | Mapping[str, float] | None) -> tuple[Any, str]:
    """What is scaled together: a world, or a symbol of it."""
    return world, symbol if isinstance(interest, Mapping) else ""


def scaled(
    done: Sequence[Record],
    accounts: Sequence[Record],
    bars: int,
    interest: float | Mapping[str, float] | None,
) -> dict[tuple[Any, str], float]:
    """By what the weights of each cell are multiplied: stated over mean notional, the mean over closes (D12); 1 where that is 0."""
    held: dict[tuple[Any, str], list[float]] = {}
    for one, life in zip(accounts, done, strict=True):
        for leg in life["legs"]:
            parts = held.setdefault(cell(one["world"], leg["symbol"], interest), [])
            if leg["status"] != "rejected":
                closes = leg["exit_bar"] - leg["entry"] + (1 if leg["exit_reason"] == "end" else 0)
                parts.append(one["weight"] * leg["notional"] * closes / bars)
    found = {}
    for of, parts in held.items():
        stated = interest[of[1]] if isinstance(interest, Mapping) else interest
        mean = math.fsum(parts)
        found[of] = 1.0 if stated is None or not mean > 0 else stated / mean
    return found


def added(sold: Iterable[tuple[Who, float]]) -> dict[Who, float]:
    """What each crowd sells together, whatever the order."""
    volumes: dict[Who, list[float]] = {}
    for who, volume in sold:
        volumes.setdefault(who, []).append(volume)
    return {who: math.fsum(parts) for who, parts in volumes.items()}
