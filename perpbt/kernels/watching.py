"""What is watched while a position is open: trigger series, the owner's care, and the path so far."""

from __future__ import annotations

from typing import NamedTuple

from .compile import part
from .margin import Position, margin_ratio
from .tables import HIGH, LAST_OPEN, LOW, MARK_HIGH, MARK_LOW, MARK_OPEN, NO_CALL, Market, Rates


class Watch(NamedTuple):
    """The rows of Market.series a position's thresholds are tested on, by its side and triggers.

    Rows of extremes are also the columns of Pyramid.nodes that hold the extremes of blocks.
    """

    adverse: int  # of the mark
    favourable: int
    stop_open: int
    stop: int
    target_open: int
    target: int
    trail_open: int
    trail: int
    best: int  # favourable extreme for a trailing stop
    target_limit: bool  # a resting limit on last, filled at its price


class Care(NamedTuple):
    """What the owner does about a thin margin, and the cash at hand for it."""

    action: int
    threshold: float
    value: float
    limit: int
    row: int  # key written into calls
    slot: int  # first entry of calls this position may use


class Path(NamedTuple):
    """What is remembered from bar to bar."""

    extreme: float  # side * best price for a trailing stop
    peak: float
    drawdown: float
    worst_ratio: float
    released: float  # cash given back by deleveraging
    added: float  # margin topped up
    wallet: float
    calls: int
    order: int  # margin order decided at the last close, to be executed at the next open
    amount: float


@part
def watch_for(side: float, stop_on_mark: int, target_on_mark: int, trail_on_mark: int) -> Watch:
    """Choose the trigger series once per position."""
    last_low, last_high, mark_low, mark_high = LOW, HIGH, MARK_LOW, MARK_HIGH
    if side < 0.0:
        last_low, last_high, mark_low, mark_high = HIGH, LOW, MARK_HIGH, MARK_LOW
    return Watch(
        mark_low,
        mark_high,
        MARK_OPEN if stop_on_mark != 0 else LAST_OPEN,
        mark_low if stop_on_mark != 0 else last_low,
        MARK_OPEN if target_on_mark != 0 else LAST_OPEN,
        mark_high if target_on_mark != 0 else last_high,
        MARK_OPEN if trail_on_mark != 0 else LAST_OPEN,
        mark_low if trail_on_mark != 0 else last_low,
        mark_high if trail_on_mark != 0 else last_high,
        target_on_mark == 0,
    )


@part
def start(
    market: Market, rates: Rates, position: Position, bar: int, collateral: float, wallet: float
) -> Path:
    """The path of a position just opened; its equity path starts at the collateral, before the entry fee."""
    ratio = margin_ratio(rates, position, market.series[MARK_OPEN, bar], position.funding)
    best = position.side * position.entry
    return Path(best, collateral, 0.0, ratio, 0.0, 0.0, wallet, 0, NO_CALL, 0.0)


@part
def seen_on(path: Path, extreme: float, peak: float, drawdown: float, worst: float) -> Path:
    """The path some quiet bars on."""
    return Path(
        extreme, peak, drawdown, worst, path.released, path.added, path.wallet, path.calls, NO_CALL, 0.0
    )


@part
def marked(value: float, peak: float, drawdown: float) -> tuple[float, float]:
    """Peak and drawdown of the equity path after one more mark."""
    if value > peak:
        return value, drawdown
    return peak, max(drawdown, (peak - value) / peak)


@part
def seen(rates: Rates, position: Position, worst: float, price: float, funding: float) -> float:
    """The worst margin ratio, this mark price included."""
    return max(worst, margin_ratio(rates, position, price, funding))
