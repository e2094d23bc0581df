"""Positions that may be deleveraged, as columns, and the figures rankings and allocations are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from perpbt.errors import InputError

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Candidates:
    """Isolated positions in one symbol at one moment; every field an array of the same length.

    `side` +1 long, -1 short; `quantity` in base units, >= 0; `entry` its price; `margin` the wallet of the
    position, money; `funding_paid` since entry (received < 0), money; `mark` the price now; `maintenance` its
    maintenance margin, money; `bankruptcy` its own bankruptcy price; `identifier` whole numbers that differ,
    by which ties are broken. Values are taken as float64 (identifier int64) and are not changed.

    Raises InputError for unequal lengths, for anything that is not finite (a bankruptcy price may be
    infinite), a side other than +1 and -1, a negative quantity, an entry or mark that is not positive.
    """

    side: Floats
    quantity: Floats
    entry: Floats
    margin: Floats
    funding_paid: Floats
    mark: Floats
    maintenance: Floats
    bankruptcy: Floats
    identifier: Integers

    def __post_init__(self) -> None:
        length = np.size(self.side)
        for column in fields(self):
            kind = np.int64 if column.name == "identifier" else np.float64
            values = np.ascontiguousarray(getattr(self, column.name), dtype=kind)
            if values.shape != (length,):
                raise InputError(
                    f"candidates: {column.name} has shape {values.shape}; allowed: ({length},), that of side"
                )
            object.__setattr__(self, column.name, values)
        if length:
            self._check()

    def _check(self) -> None:
        """Whole columns at once; only a column that has something wrong is searched for where it is."""
        for name in ("side", "quantity", "entry", "margin", "funding_paid", "mark", "maintenance"):
            values = getattr(self, name)
            if not np.isfinite(values.sum()):  # an overflowing sum of finite values is not an error
                _refuse_first(~np.isfinite(values), name, values, "finite numbers")
        if np.isnan(self.bankruptcy.sum()):
            _refuse_first(np.isnan(self.bankruptcy), "bankruptcy", self.bankruptcy, "a price")
        if not np.all(self.side * self.side == 1.0):
            _refuse_first(np.abs(self.side) != 1.0, "side", self.side, "1 (long) and -1 (short)")
        for name in ("quantity", "maintenance"):
            if getattr(self, name).min() < 0.0:
                _refuse_first(getattr(self, name) < 0.0, name, getattr(self, name), "at least 0")
        for name in ("entry", "mark"):
            if getattr(self, name).min() <= 0.0:
                _refuse_first(getattr(self, name) <= 0.0, name, getattr(self, name), "more than 0")

    def __len__(self) -> int:
        return int(self.side.size)

    def take(self, rows: npt.NDArray[Any]) -> Candidates:
        """The same of some rows (indices or flags)."""
        return Candidates(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})

    def replaced(self, **columns: npt.ArrayLike) -> Candidates:
        """The same with other columns."""
        own: Mapping[str, Any] = {column.name: getattr(self, column.name) for column in fields(self)}
        return Candidates(**{**own, **columns})

    def notional(self) -> Floats:
        """Quantity at mark, money."""
        return self.quantity * self.mark

    def profit(self, price: npt.ArrayLike | None = None) -> Floats:
        """Unrealised profit at `price` (default mark), money, funding apart."""
        at = self.mark if price is None else np.asarray(price, dtype=np.float64)
        return self.side * self.quantity * (at - self.entry)

    def equity(self) -> Floats:
        """margin - funding_paid + profit at mark, money."""
        return (self.margin - self.funding_paid) + self.profit()

    def leverage(self) -> Floats:
        """Notional at mark over equity; infinite without equity, 0 without a position."""
        return quotient(self.notional(), self.equity())


def _refuse_first(wrong: Flags, name: str, values: Floats, allowed: str) -> None:
    rows = np.flatnonzero(wrong)
    if rows.size:
        raise InputError(
            f"candidates: {name} is {float(values[rows[0]])} in row {rows[0]}; allowed: {allowed}"
        )


def quotient(above: Floats, below: Floats) -> Floats:
    """above / below for above >= 0, infinite where below is not positive, and 0 where above is 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(above == 0.0, 0.0, np.where(below > 0.0, above / below, np.inf))


def winners(candidates: Candidates, side: int, price: float) -> Flags:
    """Which of them a bankrupt position on `side` (+1 long, -1 short) may be closed against at `price`: those
    on the other side that are in profit at that price.
    """
    if side not in (1, -1):
        raise InputError(f"side is {side!r}; allowed: 1 (long), -1 (short)")
    picked: Flags = (candidates.side == -side) & (candidates.profit(price) > 0.0)
    return picked


def closing_price(rule: str, *, bankruptcy: float, mark: float, previous_mark: float | None = None) -> float:
    """The price at which positions are closed against a bankrupt one.

    `rule` is "bankruptcy" (the bankrupt position's own; BitMEX, Binance, Bybit, dYdX), "mark" (OKX, GRVT) or
    "previous_mark" (Hyperliquid).
    """
    prices = {"bankruptcy": bankruptcy, "mark": mark, "previous_mark": previous_mark}
    if rule not in prices:
        raise InputError(f"price is {rule!r}; allowed: {', '.join(prices)}")
    price = prices[rule]
    if price is None or not np.isfinite(price) or price < 0.0:
        raise InputError(f"price: {rule} is {price!r}; allowed: a finite price of at least 0")
    return float(price)


PRICES = ("bankruptcy", "mark", "previous_mark")
