"""Scores by which venues queue winners: the higher, the earlier one is closed. One function each, found by
its name.

In: `Candidates`. Out: a float64 score each, never NaN. A position without equity has an infinite effective
leverage. Venues that rank whole accounts rank an isolated position by its own wallet.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perpbt.adl.candidates import Candidates, Floats, Integers, quotient
from perpbt.errors import InputError

Ranking = Callable[[Candidates], Floats]
RANKINGS: dict[str, Ranking] = {}


def ranking(function: Ranking) -> Ranking:
    """Make a function known as a ranking under its own name."""
    RANKINGS[function.__name__] = function
    return function


def _times(left: Floats, right: Floats) -> Floats:
    """The product, 0 where either is 0: an infinite leverage does not make a profit out of none."""
    with np.errstate(invalid="ignore"):
        return np.where((left == 0.0) | (right == 0.0), 0.0, left * right)


def _over(left: Floats, right: Floats) -> Floats:
    """left / right, 0 where right is infinite; where right is 0 (nothing is held) left itself."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(right == 0.0, left, left / right)


def _return_on_entry(candidates: Candidates) -> Floats:
    """Profit over value at entry, s·(mark/entry - 1)."""
    return candidates.side * ((candidates.mark - candidates.entry) / candidates.entry)


@ranking
def bitmex(candidates: Candidates) -> Floats:
    """PnL% · leverage for a profit, PnL% / leverage for a loss.

    PnL% = (mark value - entry value) / |entry value|, leverage = |mark value| / (mark value - bankruptcy
    value), values signed by side; longs and shorts are ranked apart. Source: BitMEX, Auto-Deleveraging
    (www.bitmex.com/app/autoDeleveraging).
    """
    gain = _return_on_entry(candidates)
    with np.errstate(invalid="ignore"):  # of nothing, an infinite bankruptcy price is no one's
        left = candidates.side * candidates.quantity * (candidates.mark - candidates.bankruptcy)
    leverage = quotient(candidates.notional(), left)
    return np.where(gain > 0.0, _times(gain, leverage), _over(gain, leverage))


@ranking
def binance(candidates: Candidates) -> Floats:
    """PnL% · leverage for a profit, PnL% / leverage for a loss, on value at mark.

    PnL% = uPnL / |position notional|, leverage = |position notional| / (wallet + uPnL). Source: Binance FAQ
    360033525471, as it reads now.
    """
    profit, notional = candidates.profit(), candidates.notional()
    gain = np.zeros_like(profit)
    np.divide(profit, notional, out=gain, where=notional > 0.0)
    leverage = quotient(notional, candidates.equity())
    return np.where(gain >= 0.0, _times(gain, leverage), _over(gain, leverage))


@ranking
def binance_2019(candidates: Candidates) -> Floats:
    """max(0, uPnL) / max(1, wallet) · maintenance margin / (wallet + uPnL), the last 0 without equity.

    Source: Binance FAQ as of 2019-2023, and Aster. The wallet's floor of one unit of money makes it the one
    ranking that depends on the unit.
    """
    wallet = candidates.margin - candidates.funding_paid
    profit = candidates.profit()
    equity = wallet + profit
    ratio = np.zeros_like(profit)
    np.divide(candidates.maintenance, equity, out=ratio, where=equity > 0.0)
    return np.maximum(0.0, profit) / np.maximum(1.0, wallet) * ratio


@ranking
def okx(candidates: Candidates) -> Floats:
    """PnL% / margin ratio for a profit, PnL% · margin ratio for a loss.

    Margin ratio = equity / maintenance margin (the smaller, the nearer to liquidation), PnL% on value at
    entry. Source: OKX, Introduction to auto-deleveraging (6 March 2025); Bityix, SunX and GRVT rank alike.
    Which value its PnL% is on OKX does not say. A position without equity that still shows a profit goes
    first.
    """
    gain = _return_on_entry(candidates)
    stretched = quotient(candidates.maintenance, candidates.equity())  # 1 / margin ratio
    return np.where(gain > 0.0, _times(gain, stretched), _over(gain, stretched))


@ranking
def bybit(candidates: Candidates) -> Floats:
    """Leveraged return: PnL% · effective leverage, for a profit and for a loss.

    Bybit names profit and effective leverage and prints no formula for a loss; PnL% is on value at entry,
    effective leverage is value at mark over equity. Winners without fees rank as with BitMEX. Source: Bybit
    help, Auto-Deleveraging (900000031623), API documentation /v5/market/adl-alert.
    """
    return _times(_return_on_entry(candidates), candidates.leverage())


@ranking
def hyperliquid(candidates: Candidates) -> Floats:
    """(mark / entry) · (notional / account value), as published; not mirrored for shorts.

    Source: hyperliquid.gitbook.io, Auto-deleveraging. For shorts mark / entry falls as their profit grows.
    """
    return _times(candidates.mark / candidates.entry, candidates.leverage())


@ranking
def hyperliquid_decompiled(candidates: Candidates) -> Floats:
    """max(|notional| / account value, 1e-8) · max(max(profit, 0) / entry notional, 1e-8).

    Source: OtterSec's reading of the risk engine (osec.io/blog/2026-06-22-hyperliquid-risk-engine).
    """
    gain = np.maximum(_return_on_entry(candidates), 0.0)
    return np.maximum(candidates.leverage(), 1e-8) * np.maximum(gain, 1e-8)


def find_ranking(name: str) -> Ranking:
    """The ranking of that name; InputError names those there are."""
    if name not in RANKINGS:
        raise InputError(f"ranking is {name!r}; allowed: {', '.join(sorted(RANKINGS))}")
    return RANKINGS[name]


def in_order(score: Floats, identifier: Integers) -> Integers:
    """Row numbers, the highest score first, of equal ones the lowest identifier."""
    return np.lexsort((identifier, -score))


def lights(score: Floats, identifier: Integers, quantity: Floats | None = None) -> Integers:
    """Lights of BitMEX's indicator, 5 for who is in the first fifth of the queue down to 1.

    A fifth of the `quantity` ranked, each position by where it ends in the queue; without `quantity` a fifth
    of the positions (Binance's quantile, rank over users). The share of the queue in which one is, rounded
    up to 20 %, is (6 - lights) · 20 %. Source: BitMEX, Auto-Deleveraging, where six longs of 10 10 20 30 20
    10 with scores 3 6 1 4 5 2 stand at 80 20 100 60 40 80 %.
    """
    order = in_order(score, identifier)
    held = np.ones(score.size) if quantity is None else quantity[order]
    ends = np.cumsum(held)
    lit = np.empty(score.size, dtype=np.int64)
    total = ends[-1] if ends.size and ends[-1] > 0.0 else 1.0
    fifths = np.ceil(5.0 * ends / total - 1e-9)  # a share of exactly 20 % is in the first fifth
    lit[order] = 6 - np.clip(fifths, 1, 5).astype(np.int64)
    return lit
