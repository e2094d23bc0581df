"""How liquidations push the price of their world and symbol (MODEL §7, cascade mode; theory of fire sales).

A displacement is a fraction of the bar's unmoved last open, added to its prices; the mark takes its share, the index and funding none.
Each side is tested against its own pressure: longs against what their sales took off, shorts against what their purchases added. After
the bar both are netted, and a part of it is left for the next. Volume counts at the bar's unmoved open, so that more falling is never
less volume: looked at again and again from below, the bar comes to its least fixed point, whatever the order of accounts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from perpbt.config import PressureSpec
from perpbt.kernels.coarse import no_coarse
from perpbt.kernels.coupled.looping import ADVERSE, HIGHEST, LOWEST, PAID, SEEN
from perpbt.kernels.pyramid import no_pyramid
from perpbt.kernels.tables import (
    FUNDING,
    HIGH,
    LAST_OPEN,
    LOW,
    MARK_CLOSE,
    MARK_HIGH,
    MARK_LOW,
    MARK_OPEN,
    TURNOVER,
    VOLATILITY,
    Floats,
    Market,
)

LEAST = 0.01  # of a price is left whatever pushes it
NOTHING = 1e-9  # a displacement below this is none
SIDES = (1, -1)


def moved(price: float, by: float, reference: float) -> float:
    """A price displaced by a fraction of the reference."""
    return max(price + by * reference, price * LEAST)


def along(curve: Sequence[tuple[float, float]], ratio: float) -> float:
    """What a curve of pairs gives at a ratio, straight between them and beyond the last."""
    at, reached = 0.0, 0.0
    slope = 0.0
    for volume, move in curve:
        slope = (move - reached) / (volume - at)
        if ratio <= volume:
            break
        at, reached = volume, move
    else:
        return reached + slope * (ratio - at)
    return min(reached + slope * (ratio - at), move)


class Views:
    """A symbol's bars as each side of a world sees them; without a spec both see the market."""

    def __init__(self, market: Market, spec: PressureSpec | None, flat: float) -> None:
        self.market, self.spec, self.flat = market, spec, flat
        self.start, self.bar = 0.0, -1
        self.shaped = 0  # how often prices have been moved
        self.now = dict.fromkeys(SIDES, 0.0)
        self.at_open = dict.fromkeys(SIDES, 0.0)
        self.sold: dict[int, list[float]] = {side: [] for side in SIDES}
        self.of = dict.fromkeys(SIDES, market)
        if spec is not None:
            bound = market.highest_mark + spec.mark_share * (spec.most / spec.decay) * market.greatest
            for side in SIDES:
                self.of[side] = market._replace(
                    series=market.series.copy(),
                    highest_mark=bound,
                    greatest=4.0 * market.greatest,
                    pyramid=no_pyramid(),
                    coarse=no_coarse(),
                )
        self.seen = {side: self._seen(side) for side in SIDES}

    def _seen(self, side: int) -> Floats:
        """What positions of a side are screened by, at all bars."""
        series = self.of[side].series
        seen = np.empty((SEEN, series.shape[1]))
        seen[LOWEST] = np.minimum(series[LOW], series[MARK_LOW])
        seen[HIGHEST] = np.maximum(series[HIGH], series[MARK_HIGH])
        seen[ADVERSE] = series[MARK_LOW if side > 0 else MARK_HIGH]
        seen[PAID] = series[FUNDING]
        return seen

    @property
    def disturbed(self) -> bool:
        """Whether the next bar opens away from the market's."""
        return self.start != 0.0

    def begin(self, bar: int) -> None:
        """Come to a bar."""
        self.bar = bar
        for side in SIDES:
            self.now[side] = self.at_open[side] = self.start
            self.sold[side] = []
        if self.spec is not None and self.disturbed:
            self.shape()

    def push(self, phase: int, sold: dict[int, list[float]]) -> None:
        """Take in the volume of those who fell, by side."""
        for side in SIDES:
            self.sold[side] += sold[side]
            self.now[side] = self.start - side * self.impact(math.fsum(self.sold[side]))
            if phase == 0:
                self.at_open[side] = self.now[side]
        self.shape()

    @contextmanager
    def as_begun(self) -> Iterator[None]:
        """The bar as it was before anybody fell in it: what whoever enters at its open pays."""
        now, at_open, begun = self.now, self.at_open, dict.fromkeys(SIDES, self.start)
        if self.spec is None or now == begun == at_open:
            yield
            return
        self.now = self.at_open = begun
        self.shape()
        yield
        self.now, self.at_open = now, at_open
        self.shape()

    def impact(self, volume: float) -> float:
        """The fraction a volume (quote currency) moves the price by."""
        spec = self.spec
        assert spec is not None
        depth = float(self.market.series[TURNOVER, self.bar]) if spec.depth is None else spec.depth
        if not depth > 0.0:
            return min(self.flat, spec.most) if volume > 0.0 else 0.0
        strength = spec.strength
        if spec.scale == "volatility":
            strength = strength * float(self.market.series[VOLATILITY, self.bar])
        ratio = volume / depth
        if spec.curve is not None:
            grown = along(spec.curve, ratio)
        else:
            grown = math.sqrt(ratio) if spec.law == "square_root" else ratio
        return min(strength * grown, spec.most)

    def net(self) -> float:
        """The displacement after the bar: both sides' pressure on top of what there was."""
        return (self.start + (self.now[1] - self.start)) + (self.now[-1] - self.start)

    def shape(self) -> None:
        """Both sides' bar from the displacements."""
        assert self.spec is not None
        self.shaped += 1
        unmoved, bar, share = self.market.series, self.bar, self.spec.mark_share
        reference, closing = float(unmoved[LAST_OPEN, bar]), self.net()
        for side in SIDES:
            series, at_open, now = self.of[side].series, self.at_open[side], self.now[side]
            low, high = (now, at_open) if side > 0 else (at_open, now)
            for row, by in ((LAST_OPEN, at_open), (LOW, low), (HIGH, high)):
                series[row, bar] = moved(float(unmoved[row, bar]), by, reference)
            for row, by in ((MARK_OPEN, at_open), (MARK_LOW, low), (MARK_HIGH, high), (MARK_CLOSE, closing)):
                series[row, bar] = moved(float(unmoved[row, bar]), share * by, reference)
            seen = self.seen[side]
            seen[LOWEST, bar] = min(series[LOW, bar], series[MARK_LOW, bar])
            seen[HIGHEST, bar] = max(series[HIGH, bar], series[MARK_HIGH, bar])
            seen[ADVERSE, bar] = series[MARK_LOW if side > 0 else MARK_HIGH, bar]

    def end(self) -> None:
        """Leave the bar: what of its pressure is left for the next."""
        if self.spec is not None:
            left = (1.0 - self.spec.decay) * self.net()
            self.start = left if abs(left) >= NOTHING else 0.0
