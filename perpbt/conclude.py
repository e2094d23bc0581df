"""How every run ends, whichever door it came in by: money settled and checked, tables made.

In: the book of a run and its setting. Out: a `Result`.
"""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import polars as pl

from perpbt.book import Book
from perpbt.engine import Outcome
from perpbt.errors import InputError
from perpbt.kernels.curves import equity_curves
from perpbt.kernels.tables import Floats, Integers, Market
from perpbt.result import Result, accounts_table, times
from perpbt.setting import Setting
from perpbt.settle import add_up, check_run, fill_with_crowd, ledger, scale_to_open_interest
from perpbt.statistics import TOTAL, summarise

FEW_POSITIONS = 10


def sample_equity(setting: Setting, market: Market, outcome: Outcome, account: Integers) -> None:
    """Equity changes of this symbol's accounts at the last close before each multiple of the sampling step."""
    if setting.equity_every is None:
        return
    slot = market.time // setting.equity_every
    samples = np.flatnonzero(np.append(slot[1:] != slot[:-1], True))
    own, index = np.unique(account[outcome.rows.lane], return_inverse=True)
    changes = np.zeros((own.size, samples.size))
    first_call = np.searchsorted(outcome.calls.row, np.arange(outcome.rows.lane.size + 1))
    equity_curves(market, outcome.rows, outcome.calls, first_call, index, samples, changes)
    setting.curves.append((own, (slot[samples] + 1) * setting.equity_every, changes))


def equity_table(setting: Setting, accounts: pl.Series, start: Floats) -> pl.DataFrame | None:
    """The equity curves asked for: a row per account and sampling time, `start` being each account's money
    at first.
    """
    if setting.equity_every is None:
        return None
    frames = []
    for own, moments, changes in setting.curves:
        count = moments.size
        frames.append(
            pl.DataFrame(
                {
                    "account": accounts.gather(pl.Series(np.repeat(own, count), dtype=pl.UInt32)),
                    "equity": (start[own][:, None] + changes).ravel(),
                }
            ).with_columns(times(np.tile(moments, own.size)).alias("time"))
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
    equity: pl.DataFrame | None,
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
        note_blocks(setting, scale_to_open_interest(book, interest))
    crowd = fill_with_crowd(book) if setting.crowding else 0
    money = add_up(book)
    fund = ledger(book, setting.terms)
    totals = check_run(book, money, fund, setting.terms)
    since = setting.timed("settle", since)
    accounts = accounts_table(book, money, account, strategy, policy, leverage)
    since = setting.timed("tables", since)
    statistics = summarise(accounts, fund)
    setting.timed("statistics", since)
    refused = int((~book.opened).sum())
    if refused:
        setting.notes.append(
            f"{refused:,} of {book.opened.size:,} orders were refused; see the column rejection"
        )
    setting.timings["total"] = time.perf_counter() - started
    return Result(
        accounts=accounts,
        fund=fund,
        statistics=statistics,
        policies=policies,
        prices=pl.concat(setting.prices),
        metadata=metadata(setting, book, totals, crowd),
        equity=equity,
    )


def peak_memory_mib() -> float | None:
    """The most memory this process has held; None where the system does not say (Windows)."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, others KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def note_blocks(setting: Setting, fewest: float) -> None:
    """Say so where few positions carry the open interest: each then moves as one large block."""
    if fewest < FEW_POSITIONS:
        setting.notes.append(
            f"open interest is carried by as few as {fewest:.2g} positions at a time (mean of the thinnest world), so that "
            "one liquidation there is a large block; more start offsets or longer holding make crowds smoother"
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
