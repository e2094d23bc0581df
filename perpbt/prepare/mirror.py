"""Inverse contracts in the mirror, the way kernels see them: 1 / price for every price, the other side, funding with its sign turned.

With n = quantity * multiplier in quote currency and y = 1 / P, a long earns n (1/entry - 1/P) = -n (y - y_entry): what a short of n
units earns at the price y. Its value n / P is n y; its funding f n / mark is, for that short, -f n y received. So every rule of a
linear position holds, with the side, the sign of rates, and low and high exchanged. Reciprocals are rounded once, here.

In: bars as columns, signals, settled tables. Out: the same in the mirror, or back from it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from perpbt.contracts import Contract, ratio
from perpbt.kernels.tables import (
    ENTRY_SIDE,
    NEXT_LONG_EXIT,
    NEXT_SHORT_EXIT,
    Floats,
    Signals,
)

SWAPPED = {"low": "high", "high": "low", "mark_low": "mark_high", "mark_high": "mark_low"}
SLICE = 1 << 20  # bars turned at a time
PRICED = ("open", "high", "low", "close")
PRICES = ("entry_price", "liquidation_price", "bankruptcy_price", "exit_price")


def is_price(name: str) -> bool:
    """Whether a column of bars holds prices."""
    return name.removeprefix("mark_").removeprefix("index_") in PRICED


def reciprocal_bars(columns: Mapping[str, Floats]) -> dict[str, Floats]:
    """Columns of bars with every price turned over, lows and highs exchanged; others as they are."""
    return {
        SWAPPED.get(name, name): 1.0 / values if is_price(name) else values
        for name, values in columns.items()
    }


def mirror_signals(signals: Signals, first_column: int) -> None:
    """Turn signals to the other side; of `series`, those from `first_column` on are prices. One not above 0 is not known."""
    marks, series = signals.marks, signals.series
    for first in range(0, marks.shape[1], SLICE):
        here = slice(first, first + SLICE)
        marks[ENTRY_SIDE, here] *= -1
        exits = [NEXT_LONG_EXIT, NEXT_SHORT_EXIT]
        marks[exits, here] = marks[exits[::-1], here]
        prices = series[first_column:, here]
        with np.errstate(divide="ignore", invalid="ignore"):
            prices[...] = np.where(prices > 0.0, 1.0 / prices, np.nan)


def prices_behind(readings: Floats) -> Floats:
    """Prices whose reciprocals are the readings, to the bit, where there are such."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = 1.0 / readings
        for way in (0.0, np.inf):
            near = np.nextafter(1.0 / readings, way)
            for _ in range(2):
                found = np.where((1.0 / found != readings) & (1.0 / near == readings), near, found)
                near = np.nextafter(near, way)
    return found


def restored(accounts: pl.DataFrame, contracts: Mapping[str, Contract], *, sides: bool) -> pl.DataFrame:
    """An accounts table as traders read it: prices of inverse contracts turned back, quantities in contracts.

    `sides`: whether the column `side` comes from the mirror too. A price no market reaches is infinite.
    """
    inverse = [symbol for symbol, contract in contracts.items() if contract.kind == "inverse"]
    symbol = pl.col("symbol")
    if inverse:
        here = symbol.is_in(inverse)

        def turned(name: str) -> pl.Expr:
            back = pl.when(pl.col(name) > 0.0).then(1.0 / pl.col(name)).otherwise(float("inf"))
            back = pl.when(pl.col(name).is_not_null()).then(back)
            return pl.when(here).then(back).otherwise(pl.col(name)).alias(name)

        accounts = accounts.with_columns(turned(name) for name in PRICES)
        if sides:
            other = pl.when(pl.col("side") == "long").then(pl.lit("short")).otherwise(pl.lit("long"))
            accounts = accounts.with_columns(pl.when(here).then(other).otherwise("side").alias("side"))
    return in_contracts(accounts, contracts, "quantity")


def restored_steps(steps: pl.DataFrame, contracts: Mapping[str, Contract]) -> pl.DataFrame:
    """The table of liquidations in steps as traders read it: fills of inverse contracts turned back, quantities in contracts."""
    inverse = [symbol for symbol, contract in contracts.items() if contract.kind == "inverse"]
    price = pl.when(pl.col("symbol").is_in(inverse)).then(1.0 / pl.col("price")).otherwise("price")
    table = steps.with_columns(price.alias("price")) if inverse else steps
    return in_contracts(table, contracts, "quantity", "quantity_after")


def restored_closings(adl: pl.DataFrame, contracts: Mapping[str, Contract]) -> pl.DataFrame:
    """The table of deleveragings as traders read it: sides and prices of inverse contracts turned back, quantities in contracts."""
    inverse = [symbol for symbol, contract in contracts.items() if contract.kind == "inverse"]
    if inverse:
        here = pl.col("symbol").is_in(inverse)

        def other(name: str) -> pl.Expr:
            turned = pl.col(name).replace_strict(
                {"long": "short", "short": "long"}, default=None, return_dtype=pl.String
            )
            return pl.when(here).then(turned).otherwise(name).alias(name)

        price = pl.when(here).then(1.0 / pl.col("price")).otherwise("price").alias("price")
        adl = adl.with_columns(other("side"), other("bankrupt_side"), price)
    return in_contracts(adl, contracts, "quantity")


def in_contracts(table: pl.DataFrame, contracts: Mapping[str, Contract], *columns: str) -> pl.DataFrame:
    """A table whose quantities are counted in contracts."""
    for name, contract in contracts.items():
        if contract.multiplier != 1.0:
            units, per = ratio(contract.multiplier)
            table = table.with_columns(
                pl.when(pl.col("symbol") == name)
                .then(pl.col(column) * per / units)
                .otherwise(column)
                .alias(column)
                for column in columns
            )
    return table
