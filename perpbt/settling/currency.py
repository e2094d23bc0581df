"""Which currency the money of each symbol is in, and what it is worth in quote currency when it moves.

In: the contracts of a run's symbols, and prices of coins as the user gives them or the bars hold them. Out: columns `settlement` and
`conversion` for the tables of a run, totals that never add one coin to another, and the same statistics in quote currency.

A linear contract is settled in its quote currency: its conversion is 1. An inverse contract is settled in the coin it is of, so the
symbol's own last price converts it: the close of the bar in which money moves. A quanto contract is settled in a coin whose price must
be given, unless an inverse symbol of the run is settled in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import polars as pl

from perpbt.contracts import Contract
from perpbt.errors import InputError
from perpbt.kernels.tables import Floats, Integers
from perpbt.load.columns import TIMES_ALLOWED, number_expression, time_expression

CoinPrice: TypeAlias = float | str | pl.DataFrame
MONEY = ("surplus", "deficit", "net_fund_flow", "uncovered", "ead", "lgd", "expected_loss")


class Prices(NamedTuple):
    """A price in quote currency at each time, ms, ascending."""

    times: Integers
    values: Floats

    def at(self, moments: Integers) -> Floats:
        """The last known at or before each moment, else the first."""
        found: Floats = self.values[np.maximum(np.searchsorted(self.times, moments, side="right") - 1, 0)]
        return found


@dataclass
class Settlement:
    """The currencies of a run whose money is not all in quote currency."""

    contracts: Mapping[str, Contract]  # of each symbol, in the order of the run's symbols
    given: Mapping[str, float | str | Prices]  # by coin
    closes: dict[str, Prices] = field(default_factory=dict)  # of symbols, noted as they are run

    @property
    def currencies(self) -> dict[str, str]:
        """Of each symbol."""
        return {symbol: contract.settled_in(symbol) for symbol, contract in self.contracts.items()}

    @property
    def mixed(self) -> bool:
        """Whether the money of the run is of more than one currency."""
        return len(set(self.currencies.values())) > 1

    def source(self, symbol: str) -> float | str | Prices | None:
        """What converts a symbol's money: a number, a symbol whose close does, prices, or nothing known."""
        coin = self.currencies[symbol]
        if coin in self.given:
            return self.given[coin]
        kind = self.contracts[symbol].kind
        if kind == "linear":
            return 1.0
        others = (
            one
            for one, other in self.currencies.items()
            if other == coin and self.contracts[one].kind == "inverse"
        )
        return symbol if kind == "inverse" else next(others, None)

    def note(self, symbol: str, times: Integers, frame: pl.DataFrame) -> None:
        """Keep a symbol's closes if they convert anything."""
        if any(self.source(one) == symbol for one in self.contracts if isinstance(self.source(one), str)):
            close = frame["close"].cast(pl.Float64).to_numpy()
            self.closes[symbol] = Prices(times, np.array(close))

    def rates(self, symbol: str, moments: Integers) -> Floats:
        """Quote currency per unit of a symbol's settlement currency; NaN where nothing is known."""
        source = self.source(symbol)
        if isinstance(source, str):
            source = self.closes[source]
        if isinstance(source, Prices):
            return source.at(moments)
        return np.full(moments.size, np.nan if source is None else float(source))

    @property
    def known(self) -> bool:
        """Whether all money can be converted."""
        return all(self.source(symbol) is not None for symbol in self.contracts)

    def of_rows(self, symbols: Sequence[str], symbol: Integers, moments: Integers) -> Floats:
        """The conversion of rows, whose symbols are given by number."""
        found = np.full(symbol.size, np.nan)
        for number in np.unique(symbol):
            here = symbol == number
            found[here] = self.rates(symbols[number], moments[here])
        return found

    def columns(self, frame: pl.DataFrame, time: str) -> pl.DataFrame:
        """A table with columns `settlement` and `conversion` behind the others; null for what is not of one symbol."""
        names = list(self.contracts)
        codes = frame["symbol"].replace_strict(names, range(len(names)), default=-1, return_dtype=pl.Int64)
        moments = frame[time].dt.epoch("ms")
        rates = np.full(frame.height, np.nan)
        known = np.flatnonzero(((codes >= 0) & moments.is_not_null()).to_numpy())
        rates[known] = self.of_rows(names, codes.to_numpy()[known], moments.fill_null(0).to_numpy()[known])
        common = None if self.mixed else next(iter(self.currencies.values()))
        return frame.with_columns(
            settlement=pl.col("symbol").replace_strict(
                self.currencies, default=common, return_dtype=pl.String
            ),
            conversion=pl.Series(rates).fill_nan(None),
        )

    def accounts(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The accounts table with what its money is in: `settlement`, the value closed `exit_notional`, the `conversion` at the exit,
        and `cash_change` in quote currency.
        """
        table = pl.DataFrame(
            {
                "symbol": list(self.contracts),
                "_factor": [contract.multiplier for contract in self.contracts.values()],
                "_inverse": [contract.kind == "inverse" for contract in self.contracts.values()],
            }
        )
        size = pl.col("quantity") * pl.col("_factor")
        closed = pl.when("_inverse").then(size / pl.col("exit_price")).otherwise(size * pl.col("exit_price"))
        frame = frame.join(table, on="symbol", how="left", maintain_order="left")
        frame = frame.with_columns(exit_notional=closed).drop("_factor", "_inverse")
        return self.columns(frame, "exit_time").with_columns(
            cash_change_quote=pl.col("cash_change") * pl.col("conversion")
        )

    def statistics(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Statistics with `settlement`; money of rows that sum over several currencies is null."""
        common = None if self.mixed else next(iter(self.currencies.values()))
        settled = pl.col("symbol").replace_strict(self.currencies, default=common, return_dtype=pl.String)
        frame = frame.with_columns(settlement=settled)
        if not self.mixed:
            return frame
        return frame.with_columns(
            pl.when(pl.col("settlement").is_not_null()).then(pl.col(name)).alias(name) for name in MONEY
        )

    def seeds(self, seed: float, first: int) -> tuple[float, ...]:
        """What each symbol's fund begins with: `seed` in its own currency, or where there are several, worth `seed` at the first bar."""
        if not self.mixed:
            return (seed,) * len(self.contracts)
        moment = np.array([first])
        return tuple(seed / float(self.rates(symbol, moment)[0]) for symbol in self.contracts)

    def words(self) -> dict[str, dict[str, str]]:
        """Each symbol's contract, for metadata."""
        return {
            symbol: {"kind": contract.kind, "settlement": contract.settled_in(symbol)}
            for symbol, contract in self.contracts.items()
        }


def settlement_of(
    contracts: Mapping[str, Contract],
    given: Mapping[str, CoinPrice] | None,
    funds: Sequence[str],
    by_symbol: bool,
) -> Settlement | None:
    """The currencies of a run; None where all symbols are linear. Raises InputError for what cannot be added up or converted.

    `funds`: the name of each symbol's fund. `by_symbol`: open interest, if it is stated, is stated symbol by symbol.
    """
    prices = {coin: checked_price(coin, price, contracts) for coin, price in (given or {}).items()}
    made = Settlement(contracts, prices)
    coins = sorted(set(made.currencies.values()))
    for coin in prices:
        if coin not in coins:
            raise InputError(
                f"conversion[{coin!r}]: no symbol is settled in {coin}; settled in: {', '.join(coins)}"
            )
    if all(contract.kind == "linear" for contract in contracts.values()):
        return None
    if made.mixed:
        unknown = [symbol for symbol in contracts if made.source(symbol) is None]
        if unknown:
            coin = made.currencies[unknown[0]]
            raise InputError(
                f"{unknown[0]} is settled in {coin}, others in other currencies: conversion[{coin!r}] is missing; allowed: a number, a "
                "symbol of the bars, or a frame with ts and price"
            )
        for fund in dict.fromkeys(funds):
            shared = sorted(
                {made.currencies[one] for one, name in zip(contracts, funds, strict=True) if name == fund}
            )
            if len(shared) > 1:
                which = "scope 'pooled'" if fund == "all" else f"group {fund!r}"
                raise InputError(
                    f"fund {which} over symbols settled in {', '.join(shared)}; allowed: fund scope 'symbol', or groups of one currency"
                )
        if not by_symbol:
            raise InputError(
                f"open_interest is one number for symbols settled in {', '.join(coins)}; allowed: a number a symbol, in its currency"
            )
    return made


def checked_price(coin: str, price: CoinPrice, symbols: Mapping[str, Contract]) -> float | str | Prices:
    """What a user says a coin is worth in quote currency."""
    place = f"conversion[{coin!r}]"
    if isinstance(price, pl.DataFrame):
        return price_series(place, price)
    if isinstance(price, str):
        if price not in symbols:
            raise InputError(f"{place} = {price!r}: must be a symbol of the bars: {', '.join(symbols)}")
        return price
    if isinstance(price, bool) or not isinstance(price, (int, float)) or not 0 < price < float("inf"):
        raise InputError(f"{place} = {price!r}; allowed: a number above 0, a symbol of the bars, or a frame")
    return float(price)


def price_series(place: str, frame: pl.DataFrame) -> Prices:
    """A frame of ts and price, checked."""
    lacking = [name for name in ("ts", "price") if name not in frame.columns]
    if lacking or not frame.height:
        what = f"column {lacking[0]!r} missing" if lacking else "no rows"
        raise InputError(f"{place}: {what}; found: {', '.join(frame.columns)}")
    series = frame.select(
        time_expression("ts", frame.schema["ts"], place).alias("ts"),
        number_expression("price", frame.schema["price"], place, text=False),
    )
    for name, right, allowed in (
        ("ts", pl.col("ts").is_not_null(), TIMES_ALLOWED),
        ("price", (pl.col("price") > 0) & pl.col("price").is_finite(), "finite numbers above 0"),
    ):
        wrong = series.select((~right.fill_null(False)).arg_true()).to_series()
        if len(wrong):
            row = int(wrong[0])
            raise InputError(f"{place}: row {row}, column {name!r}: {frame[name][row]!r}; allowed: {allowed}")
    series = series.sort("ts")
    return Prices(series["ts"].dt.epoch("ms").to_numpy(), series["price"].cast(pl.Float64).to_numpy())
