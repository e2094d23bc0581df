"""Weights: how many accounts a position stands for, once its world is scaled to a stated open interest (MODEL §7).

In: a book, and open interest as a number, by symbol or as a series. Out: the weight of each position of a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from perpbt.engines.book import Book, Chunk
from perpbt.errors import InputError
from perpbt.kernels.adding import notional_held
from perpbt.kernels.sums import add_exactly, no_sums, rounded_sums
from perpbt.kernels.tables import ACCEPTED, NO_BAR, Floats, Integers

OpenInterest = float | Mapping[str, float] | pl.DataFrame


def interest_at(series: pl.DataFrame, times: Integers) -> Floats:
    """Open interest known at each time: the last value at or before it, else the first."""
    stamps = series["ts"].dt.epoch("ms").to_numpy()
    values = series["open_interest"].cast(pl.Float64).to_numpy()
    at = np.searchsorted(stamps, times, side="right") - 1
    return np.asarray(values[np.maximum(at, 0)], dtype=np.float64)


@dataclass(frozen=True)
class Scaling:
    """What scaling to open interest met: how many positions carry it at a time, on average, where they are fewest; and the
    worlds it could not scale, whose positions were never open at a close.
    """

    fewest: float
    unscaled: tuple[str, ...]


class Weights:
    """Weights of positions, scaled so that each world's mean total notional is the stated open interest.

    The mean is over bar closes. A number is for the whole world and over all times at which any symbol has a bar; a mapping states it
    per symbol, over that symbol's bars; a frame (`ts`, optional `symbol`, `open_interest`) also scales each position by open interest
    at its entry relative to the series' mean. Weights are known once every chunk has been given to `meet`; without open interest at
    once.
    """

    def __init__(self, book: Book, wanted: OpenInterest | None) -> None:
        self.book, self.wanted = book, wanted
        self.series: list[tuple[pl.DataFrame, float]] = []  # of each symbol, with its mean
        self.by_symbol = isinstance(wanted, Mapping)
        if isinstance(wanted, pl.DataFrame):
            self.by_symbol = "symbol" in wanted.columns
            self.series = [self._series(wanted, symbol) for symbol in book.symbols]
            pairs = zip(self.series, book.parts, strict=True)
            self._interest = [interest_at(series, part.time) for (series, _), part in pairs]  # at each bar
        elif isinstance(wanted, Mapping):
            lacking = [symbol for symbol in book.symbols if symbol not in wanted]
            if lacking:
                raise InputError(
                    f"open_interest has no value for symbol {lacking[0]}; it has {', '.join(wanted)}"
                )
        cells = len(book.worlds) * (len(book.symbols) if self.by_symbol else 1)
        self.factor = np.ones(cells)
        self._held, self._closes = no_sums(cells), no_sums(cells)
        self._opened = np.zeros(cells, dtype=np.int64)

    def _series(self, wanted: pl.DataFrame, symbol: str) -> tuple[pl.DataFrame, float]:
        series = wanted.filter(pl.col("symbol") == symbol) if self.by_symbol else wanted
        if series.height == 0:
            raise InputError(f"open_interest has no rows for symbol {symbol}")
        return series.sort("ts"), float(series["open_interest"].cast(pl.Float64).to_numpy().mean())

    def cell(self, chunk: Chunk) -> Integers:
        """What each position is scaled with: its world, or its world and symbol."""
        return chunk.world * len(self.book.symbols) + chunk.symbol if self.by_symbol else chunk.world

    def before(self, chunk: Chunk) -> Floats:
        """Weights before the world is scaled."""
        if not self.series:
            return chunk.of.weight
        weight, rows = chunk.of.weight.copy(), chunk.rows
        for index in np.unique(chunk.symbol):
            here = np.flatnonzero(chunk.symbol == index)
            interest, mean = self._interest[index], self.series[index][1]
            at = interest[np.minimum(rows["entry_bar"][here], interest.size - 1)]
            never = np.flatnonzero(rows["rejection"][here] == NO_BAR)
            at[never] = interest_at(self.series[index][0], chunk.of.requested[here[never]])
            weight[here] *= at / mean
        return weight

    def of(self, chunk: Chunk) -> Floats:
        """Weights as scaled."""
        return (
            self.before(chunk) if self.wanted is None else self.before(chunk) * self.factor[self.cell(chunk)]
        )

    def carried(self, chunk: Chunk, weight: Floats) -> tuple[Floats, Floats]:
        """What each position adds to its cell's mean notional, and to its positions open at a time; 0 for refused orders."""
        held, closes = np.empty(weight.size), np.empty(weight.size)
        bars = np.array([part.time.size if self.by_symbol else self.book.moments for part in self.book.parts])
        notional_held(chunk.rows, weight, bars[chunk.symbol].astype(np.float64), held, closes)
        return held, closes

    def meet(self, chunk: Chunk, held: Floats, closes: Floats) -> None:
        """Take in what a chunk carries; in any order."""
        cell = self.cell(chunk)
        add_exactly(self._held, cell, held)
        add_exactly(self._closes, cell, closes)
        self._opened += np.bincount(cell[chunk.rows["rejection"] == ACCEPTED], minlength=self._opened.size)

    def scale(self) -> Scaling:
        """Settle the factors, once all chunks are met."""
        symbols, book, wanted = len(self.book.symbols), self.book, self.wanted
        if isinstance(wanted, pl.DataFrame):
            targets = [mean for _, mean in self.series]
        else:
            targets = [float(wanted[one] if isinstance(wanted, Mapping) else wanted) for one in book.symbols]  # type: ignore[arg-type]
        target = (
            np.tile(targets, len(book.worlds)) if self.by_symbol else np.repeat(targets[:1], len(book.worlds))
        )
        notional, open_at_a_time = rounded_sums(self._held), rounded_sums(self._closes)
        np.divide(target, notional, out=self.factor, where=notional > 0)
        never_open = np.flatnonzero((self._opened > 0) & ~(notional > 0))
        worlds = np.unique(never_open // symbols if self.by_symbol else never_open)
        return Scaling(
            fewest=float(open_at_a_time[open_at_a_time > 0].min(initial=np.inf)),
            unscaled=tuple(book.worlds[k] for k in worlds),
        )
