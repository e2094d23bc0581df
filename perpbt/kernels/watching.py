"""What is watched while a position is open: trigger series, the owner's care, and the path so far."""

from __future__ import annotations

from typing import NamedTuple

from .compile import kernel
from .margin import Position, margin_ratio
from .tables import NO_CALL, Floats, Market, Rates


class Watch(NamedTuple):
    """The series a position's thresholds are tested on, by its side and triggers."""

    adverse_mark: Floats
    stop_open: Floats
    stop_adverse: Floats
    target_open: Floats
    target_favourable: Floats
    target_limit: bool  # a resting limit on last, filled at its price
    stop_on_mark: bool
    target_on_mark: bool
    trail_on_mark: bool
    trail_open: Floats
    trail_adverse: Floats
    trail_favourable: Floats


class Care(NamedTuple):
    """What the owner does about a thin margin, and the cash at hand for it."""

    action: int
    threshold: float
    value: float
    limit: int
    row: int  # key written into Calls
    slot: int  # first entry of Calls this position may use


class Path(NamedTuple):
    """What is remembered from bar to bar."""

    extreme: float  # side * best price for a trailing stop
    peak: float
    trough: float  # lowest value since the peak
    drawdown: float
    worst_ratio: float
    released: float  # cash given back by deleveraging
    added: float  # margin topped up
    wallet: float
    calls: int
    order: int  # margin order decided at the last close, to be executed at the next open
    amount: float


@kernel
def watch_for(
    market: Market, side: float, stop_on_mark: bool, target_on_mark: bool, trail_on_mark: bool
) -> Watch:
    """Choose the trigger series once per position."""
    last_low = market.low if side > 0.0 else market.high
    last_high = market.high if side > 0.0 else market.low
    mark_low = market.mark_low if side > 0.0 else market.mark_high
    mark_high = market.mark_high if side > 0.0 else market.mark_low
    return Watch(
        mark_low,
        market.mark_open if stop_on_mark else market.open,
        mark_low if stop_on_mark else last_low,
        market.mark_open if target_on_mark else market.open,
        mark_high if target_on_mark else last_high,
        not target_on_mark,
        stop_on_mark,
        target_on_mark,
        trail_on_mark,
        market.mark_open if trail_on_mark else market.open,
        mark_low if trail_on_mark else last_low,
        mark_high if trail_on_mark else last_high,
    )


@kernel
def start(
    market: Market, rates: Rates, position: Position, bar: int, collateral: float, wallet: float
) -> Path:
    """The path of a position just opened; its equity path starts at the collateral, before the entry fee."""
    ratio = margin_ratio(rates, position, market.mark_open[bar], position.funding)
    best = position.side * position.entry
    return Path(best, collateral, collateral, 0.0, ratio, 0.0, 0.0, wallet, 0, NO_CALL, 0.0)


@kernel
def marked(value: float, peak: float, trough: float, drawdown: float) -> tuple[float, float, float]:
    """Peak, lowest value since the peak, and drawdown, after one more mark of the equity path."""
    if value > peak:
        return value, value, drawdown
    if value < trough:
        return peak, value, max(drawdown, (peak - value) / peak)
    return peak, trough, drawdown
