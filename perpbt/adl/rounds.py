"""Deleveraging round by round in a finished run: what was owed, who stood against it, what the winners kept.

In: a run's accounts and its deleveragings (`Result.extra["adl"]`). Out: a row a round, all closings at one moment of one
symbol against one side; and their averages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from perpbt.adl.candidates import Floats
from perpbt.contracts import Contract

_COLUMNS = ("owed", "largest_owed", "notional", "given_up", "profit", "top_winner_left", "profit_left")


def rounds(
    accounts: pl.DataFrame, adl: pl.DataFrame, contracts: Mapping[str, Contract] | None = None
) -> pl.DataFrame:
    """The rounds of a run, in order of time.

    `contracts`: those of symbols that are not one base unit settled in quote currency (`perpbt.contracts.Contract`). Where `adl` tells
    a `conversion`, money is in quote currency at that of the moment.

    Columns: `time`, `world`, `symbol`, `phase`, `bankrupt_side`; `winners` (opposing positions in profit at the
    closing price), `closed` (how many of them lose some); `owed`, `largest_owed` (deficits of that moment, symbol
    and side: all, the largest); `notional` closed, `given_up`; `profit` (all winners', before, at the closing
    price), `top_winner_left` (what is still open of it of whoever had the largest), `profit_left` (the largest that
    is still open), `ptsr` = profit_left / owed and `pmr` = profit_left / largest_owed, null where nothing is
    owed. Money times weight, a row of the table counting as one account. Parts closed by margin calls are
    not known here and count as held.
    """
    closings = adl.filter(pl.col("kind") == "adl") if "kind" in adl.columns else adl
    moments = ["time", "world", "symbol", "phase", "bankrupt_side"]
    schema = {name: adl.schema[name] for name in moments}
    full: dict[str, Any] = {
        **schema,
        "winners": pl.Int64,
        "closed": pl.Int64,
        **dict.fromkeys((*_COLUMNS, "ptsr", "pmr"), pl.Float64),
    }
    books: dict[tuple[Any, Any], _Book] = {}
    held = accounts.filter(pl.col("exit_reason") != "rejected")
    rows = []
    for key, closed in closings.sort("time", "phase", maintain_order=True).group_by(
        moments, maintain_order=True
    ):
        time, world, symbol, phase, side = key
        if (world, symbol) not in books:
            own = held.filter(pl.col("world").eq_missing(pl.lit(world)) & (pl.col("symbol") == symbol))
            books[world, symbol] = _Book(own, (contracts or {}).get(symbol, Contract()))
        told = books[world, symbol].round(time, phase == "range", side, closed)
        if "conversion" in closed.columns:
            rate = closed["conversion"][0]
            told |= {name: told[name] * rate if rate is not None else None for name in _COLUMNS}
        rows.append({**dict(zip(moments, key, strict=True)), **told})
    return pl.DataFrame(rows, schema=full)


class _Book:
    """Positions of one world and symbol, and how much of each is still there."""

    def __init__(self, accounts: pl.DataFrame, contract: Contract) -> None:
        self.contract = contract
        self.accounts = accounts.select(
            *("account", "position", "side", "entry_time", "exit_time", "exit_reason", "deficit", "weight")
        ).with_row_index("row")
        self.worth = (accounts["weight"] * accounts["quantity"] * contract.multiplier).to_numpy()
        self.entry, self.weight = accounts["entry_price"].to_numpy(), accounts["weight"].to_numpy()
        self.deficit = self.weight * accounts["deficit"].to_numpy()
        self.left = np.ones(self.worth.size)

    def round(self, time: Any, in_range: bool, side: str, closed: pl.DataFrame) -> dict[str, Any]:
        """One round, after which less is left."""
        entered = pl.col("entry_time") <= time if in_range else pl.col("entry_time") < time
        stays = (pl.col("exit_time") > time) | (
            (pl.col("exit_time") == time) & (pl.col("exit_reason") == "adl")
        )
        rows = self._rows(entered & stays & (pl.col("side") != side))
        fell = self._rows((pl.col("exit_time") == time) & (pl.col("side") == side) & (pl.col("deficit") > 0))
        price = float(closed["price"][0])
        sign = 1.0 if side == "short" else -1.0
        inverse = self.contract.kind == "inverse"
        each = sign * ((1.0 / self.entry[rows] - 1.0 / price) if inverse else (price - self.entry[rows]))
        before = np.maximum(self.left[rows] * self.worth[rows] * each, 0.0)
        hit = closed.join(self.accounts.select("account", "position", "row"), on=["account", "position"])
        at = hit["row"].to_numpy()
        self.left[at] *= 1.0 - np.minimum(hit["fraction"].to_numpy(), 1.0)
        after = np.maximum(self.left[rows] * self.worth[rows] * each, 0.0)
        worth = [self.contract.value(one, price) for one in hit["quantity"].to_list()]
        return _told(
            before, after, self.deficit[fell], hit.with_columns(worth=pl.Series(worth, dtype=pl.Float64))
        )

    def _rows(self, which: pl.Expr) -> npt.NDArray[np.uint32]:
        return self.accounts.filter(which)["row"].to_numpy()


def _told(before: Floats, after: Floats, owed: Floats, hit: pl.DataFrame) -> dict[str, Any]:
    whole, most = math.fsum(owed), float(owed.max(initial=0.0))
    left = float(after.max(initial=0.0))
    weight = hit["weight"]
    return {
        "winners": int((before > 0.0).sum()),
        "closed": hit.height,
        "owed": whole,
        "largest_owed": most,
        "notional": math.fsum(weight * hit["worth"]),
        "given_up": math.fsum(weight * hit["given_up"]),
        "profit": math.fsum(before),
        "top_winner_left": float(after[np.argmax(before)]) if before.size else 0.0,
        "profit_left": left,
        "ptsr": left / whole if whole > 0.0 else None,
        "pmr": left / most if most > 0.0 else None,
    }


def round_measures(table: pl.DataFrame, by: Sequence[str] = ("world",)) -> pl.DataFrame:
    """Averages of `rounds`: `by`, `rounds`, `ptsr` and `pmr` (means over rounds that owe something), `owed`,
    `given_up`, `share_given` (given_up / profit of all winners, both summed).

    In a grid of strategies and policies each is a world of its own, so `by` world is by strategy and policy.
    """
    return (
        table.group_by(by)
        .agg(
            rounds=pl.len().cast(pl.Int64),
            ptsr=pl.col("ptsr").mean(),
            pmr=pl.col("pmr").mean(),
            owed=pl.col("owed").sum(),
            given_up=pl.col("given_up").sum(),
            profit=pl.col("profit").sum(),
        )
        .with_columns(share_given=pl.when(pl.col("profit") > 0.0).then(pl.col("given_up") / pl.col("profit")))
        .drop("profit")
        .sort(by)
    )
