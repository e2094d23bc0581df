"""How every run ends, whichever door it came in by: money settled and checked, tables made.

In: the book of a run and its setting. Out: a `Result`.
"""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import polars as pl

from perpbt.book import Book
from perpbt.engine import take
from perpbt.errors import InputError
from perpbt.kernels.curves import equity_curves
from perpbt.kernels.tables import REJECTIONS, Floats, Integers, Rows
from perpbt.result import Result, accounts_table, times
from perpbt.setting import Setting
from perpbt.settle import Scaling, add_up, check_run, fill_with_crowd, ledger, scale_to_open_interest
from perpbt.statistics import TOTAL, summarise

FEW_POSITIONS = 10


def equity_table(
    setting: Setting, book: Book, owner: Integers, names: pl.Series, start: Floats
) -> pl.DataFrame | None:
    """Equity at the last close before each multiple of the sampling step, if asked for: time, account, equity.

    `owner` is each row's index into `names` and `start`, the money each began with. A row per owner and time at which its symbol has
    a close. After settling, so that fills are those of the crowd.
    """
    step = setting.equity_every
    if step is None:
        return None
    frames = []
    for index, market in setting.markets.items():
        at = np.flatnonzero(book.symbol == index)
        slot = market.time // step
        samples = np.flatnonzero(np.append(slot[1:] != slot[:-1], True))
        own, member = np.unique(owner[at], return_inverse=True)
        changes = np.zeros((own.size, samples.size))
        first, last = (np.searchsorted(book.calls.row, at, side=side) for side in ("left", "right"))
        equity_curves(market, Rows(*take(book.rows, at)), book.calls, first, last, member, samples, changes)
        frames.append(
            pl.DataFrame(
                {
                    "account": names.gather(pl.Series(np.repeat(own, samples.size), dtype=pl.UInt32)),
                    "equity": (start[own][:, None] + changes).ravel(),
                }
            ).with_columns(times(np.tile((slot[samples] + 1) * step, own.size)).alias("time"))
        )
    return pl.concat(frames).select("time", "account", "equity") if frames else None


def conclude(
    setting: Setting,
    book: Book,
    *,
    account: pl.Series,
    strategy: pl.Series,
    policy: pl.Series,
    leverage: Floats,
    policies: pl.DataFrame,
    population: pl.DataFrame | None,
    equity: Callable[[], pl.DataFrame | None],
    started: float,
) -> Result:
    """Settle the book, check that money is conserved, and make the tables."""
    since = time.perf_counter()
    for what, names in (
        ("symbol", book.symbols),
        ("strategy", strategy.unique()),
        ("policy", policy.unique()),
    ):
        if TOTAL in names:
            raise InputError(
                f"{what} {TOTAL!r}: allowed: any other name; {TOTAL!r} stands for totals in the statistics"
            )
    interest = setting.stated_interest()
    if interest is not None:
        note_scaling(setting, scale_to_open_interest(book, interest))
    crowd = fill_with_crowd(book) if setting.crowding else 0
    money = add_up(book)
    fund = ledger(book, setting.terms)
    totals = check_run(book, money, fund, setting.terms)
    since = setting.timed("settle", since)
    accounts = accounts_table(book, money, account, strategy, policy, leverage)
    since = setting.timed("tables", since)
    statistics = summarise(accounts, fund, population)
    setting.timed("statistics", since)
    note_refusals(setting, book)
    note_flat_fills(setting, book)
    setting.timings["total"] = time.perf_counter() - started
    return Result(
        accounts=accounts,
        fund=fund,
        statistics=statistics,
        policies=policies,
        prices=pl.concat(setting.prices),
        metadata=metadata(setting, book, totals, crowd),
        equity=equity(),
    )


def peak_memory_mib() -> float | None:
    """The most memory this process has held; None where the system does not say (Windows)."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, others KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def note_scaling(setting: Setting, scaling: Scaling) -> None:
    """Say where open interest was not applied, or is carried by so few positions that each moves as one large block."""
    if scaling.unscaled:
        setting.notes.append(
            f"open interest is not applied to {len(scaling.unscaled):,} worlds, the first {scaling.unscaled[0]!r}: "
            "none of their positions was open at a close"
        )
    if scaling.fewest < FEW_POSITIONS:
        setting.notes.append(
            f"open interest is carried by as few as {scaling.fewest:.2g} positions at a time (mean of the thinnest "
            "world), so that one liquidation there is a large block; more start offsets or longer holding make crowds "
            "smoother"
        )


def note_refusals(setting: Setting, book: Book) -> None:
    """Say how many orders were refused, why, and on which symbols."""
    refused = np.flatnonzero(~book.opened)
    if not refused.size:
        return
    causes = []
    for cause in np.unique(book.rows.rejection[refused]):
        here = refused[book.rows.rejection[refused] == cause]
        symbols = ", ".join(book.symbols[k] for k in np.unique(book.symbol[here]))
        causes.append(f"{here.size:,} {REJECTIONS[cause].replace('_', ' ')} on {symbols}")
    setting.notes.append(f"{refused.size:,} of {book.opened.size:,} orders were refused: {'; '.join(causes)}")


def note_flat_fills(setting: Setting, book: Book) -> None:
    """Say how many liquidations fell into bars without a known turnover: they slip by the flat figure (MODEL §6)."""
    at = book.liquidated
    flat = int((~(book.exit_turnover[at] > 0.0)).sum())
    if flat:
        setting.notes.append(
            f"{flat:,} of {at.size:,} liquidations fell into bars without trades or volume and slipped by the flat "
            f"{setting.venue.slippage:g}"
        )


def metadata(setting: Setting, book: Book, totals: dict[str, float], crowd: int) -> dict[str, Any]:
    """What a reader must know to judge and repeat the run; plain values that JSON can hold."""
    digest = "".join(f"{name} {text}\n" for name, text in sorted(setting.digests))
    return {
        "engine": setting.engine,
        "engine_reason": setting.engine_reason,
        "venue": setting.venue.model_dump(mode="json", exclude={"tiers"}),
        "rules": setting.rules.model_dump(),
        "fund": {
            "seed": setting.terms.seed,
            "fee_share": setting.terms.fee_share,
            "scope": "pooled" if setting.terms.pooled else "symbol",
        },
        "open_interest": setting.interest_words(),
        "crowding": setting.crowding,
        "largest_crowd": crowd,
        "notes": setting.notes,
        "symbols": setting.symbols,
        "positions": int(book.rows.lane.size),
        "worlds": len(book.worlds),
        "money": totals,
        "data_sha256": hashlib.sha256(digest.encode()).hexdigest(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numba", "numpy", "polars", "pyarrow")},
        },
        "timings_seconds": {stage: round(seconds, 4) for stage, seconds in setting.timings.items()},
        "peak_memory_mib": peak_memory_mib(),
    }
