"""How every run ends, whichever door it came in by: money settled and checked, tables made.

In: the book of a run and its setting. Out: a `Result`.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import polars as pl

from perpbt.columns import times
from perpbt.engines.book import CHUNK, Book, Chunk, Task, spans
from perpbt.engines.chunks import Counted, choose_threads, in_threads, meanwhile
from perpbt.errors import InputError
from perpbt.kernels.curves import equity_curves
from perpbt.kernels.tables import REJECTIONS, Floats, Integers, Market, Table
from perpbt.prepare.mirror import restored, restored_steps
from perpbt.result import OF_FUND, Result, in_quote
from perpbt.running.budget import A_FLOW, A_POSITION, Budget, peak_memory
from perpbt.running.setting import Setting
from perpbt.settling.currency import Settlement
from perpbt.settling.frames import accounts_table, step_table
from perpbt.settling.settle import CROWD, Crowds, FundTerms, check_run, ledger, make_crowds, sold_by
from perpbt.settling.settled import Columns, Settled, Settling, Transfers
from perpbt.settling.topping import payments
from perpbt.settling.weights import Scaling, Weights
from perpbt.statistics import TOTAL
from perpbt.stored import AccountsFile, Writer

FEW_POSITIONS = 10
ROW_GROUP = 1 << 17  # rows of the accounts file
SETTLING = "settling"
SERIAL_BELOW = 1 << 16  # rows that one thread settles sooner than several would
Labels = Callable[
    [int, int, Integers], Mapping[str, pl.Series]
]  # first and last row, and lanes: whose rows these are

Curves = Callable[[Chunk], pl.DataFrame | None]  # of all accounts, from all settled rows


@dataclass(frozen=True)
class Walleted:
    """What a run of shared wallets knows of its rows: bankruptcy prices, and of how many wallets the largest crowd is against which they
    are filled already.
    """

    bankruptcy: Floats
    largest_crowd: int


@dataclass(frozen=True)
class Flowed:
    """What a run has that settled its positions as they were finished."""

    found: Callable[[], Settled]
    accounts: Callable[[], pl.DataFrame]
    seconds: float  # that settling took of each thread


@dataclass
class Coupled:
    """What a coupled run adds to its positions."""

    weights: Weights
    transfers: Transfers
    fund: pl.DataFrame
    given_up: float  # of all, times weights: PnL that closing prices took
    of_positions: pl.DataFrame | None = None  # the ledger without what is uncovered of the fund's own sales
    extra: dict[str, pl.DataFrame] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


def equity_table(setting: Setting, chunk: Chunk, owner: Integers, start: Floats) -> pl.DataFrame | None:
    """Equity at the last close before each multiple of the sampling step, if asked for: time, account, equity.

    `owner` is the account of each row of the whole run and `start` the money it began with. A row per owner and time at which its symbol
    has a close: where liquidations push the price, the close of its world. After settling, so that fills are those of the crowd.
    """
    step = setting.equity_every
    if step is None:
        return None
    frames = []
    for market, at in seen_by(setting, chunk):
        slot = market.time // step
        samples = np.flatnonzero(np.append(slot[1:] != slot[:-1], True))
        own, begins, member = np.unique(owner[at], return_index=True, return_inverse=True)
        changes = np.zeros((own.size, samples.size))
        first, last = (np.searchsorted(chunk.calls["row"], at, side=side) for side in ("left", "right"))
        equity_curves(market, chunk.rows[at], chunk.calls, first, last, member, samples, changes)
        frames.append(
            pl.DataFrame(
                {
                    "account": np.repeat(own, samples.size),
                    "equity": (start[at][begins][:, None] + changes).ravel(),
                }
            ).with_columns(times(np.tile((slot[samples] + 1) * step, own.size)).alias("time"))
        )
    return pl.concat(frames).select("time", "account", "equity") if frames else None


def seen_by(setting: Setting, chunk: Chunk) -> Iterator[tuple[Market, Integers]]:
    """The bars of each symbol, and the rows of a chunk that saw them so: of each world its own, where its liquidations pushed them."""
    for index, market in setting.markets.items():
        at = np.flatnonzero(chunk.symbol == index)
        if not setting.pushed:
            yield market, at
            continue
        for world in np.unique(chunk.world[at]).tolist():
            yield setting.pushed[world, index], at[chunk.world[at] == world]


def scaled(
    setting: Setting,
    book: Book,
    tasks: Sequence[Task],
    threads: int,
    known: Weights | None = None,
    filled: bool = False,
) -> tuple[Weights, Crowds | None]:
    """Weights and crowds, from one look at all positions where there are any to find. `known` weights stay as they are; `filled`: so do
    fills.
    """
    crowding = setting.crowding and not filled
    weights = Weights(book, setting.stated_interest()) if known is None else known
    if (weights.wanted is None or known is not None) and not crowding:
        return weights, None
    sold: list[Table] = []

    def look(task: Task) -> tuple[Chunk, Floats, Floats, Table]:
        chunk = book.chunk(task)
        weight = weights.before(chunk)
        own = sold_by(book, chunk, weight, weights.cell(chunk)) if crowding else np.empty(0, CROWD)
        return (chunk, *weights.carried(chunk, weight), own)

    for chunk, held, closes, own in in_threads(look, tasks, threads):
        if known is None:
            weights.meet(chunk, held, closes)
        sold.append(own)
    if weights.wanted is not None and known is None:
        note_scaling(setting, weights.scale())
    return weights, make_crowds(book, tasks, sold, weights.factor) if crowding else None


def check_names(groups: pl.DataFrame) -> None:
    """No symbol, strategy or policy may bear the name of totals."""
    for what in ("symbol", "strategy", "policy"):
        if TOTAL in groups[what].unique():
            raise InputError(
                f"{what} {TOTAL!r}: allowed: any other name; {TOTAL!r} stands for totals in the statistics"
            )


def settle_in_memory(
    setting: Setting, book: Book, tasks: Sequence[Task], settling: Settling, threads: int, equity: Curves
) -> tuple[Columns, pl.DataFrame | None]:
    """All positions settled into one set of columns; and equity curves, if asked for."""
    columns, counted = (
        Columns.of(book.size, setting.terms.protection),
        Counted(setting.progress, SETTLING, book.size),
    )

    def settle(task: Task) -> tuple[Task, pl.DataFrame | None]:
        chunk = settling.settle(task, columns)
        return task, None if setting.equity_every is None else equity(chunk)

    curves = None
    for task, made in in_threads(settle, tasks, threads):
        curves = made
        counted.add(task.last - task.first)
        book.order.release(task)
    return columns, curves


def kept_to_the_end(setting: Setting, book: Book) -> int:
    """Bytes that settling holds on to, at most."""
    moments = 2 * book.times.size * len(book.worlds)  # no fund moves more often than twice a bar
    liquidated = sum(part.liquidated for part in book.parts)
    events = liquidated + (2 * book.size if setting.terms.fee_share > 0.0 else 0)
    return book.size * A_POSITION + min(events, moments) * A_FLOW


def accounts_frame(setting: Setting, columns: Columns, labels: Labels, first: int) -> pl.DataFrame:
    """The accounts table from row `first` on, as traders read it."""
    whose = labels(first, first + columns.size, columns.moment("lane"))
    frame = accounts_table(columns, whose)
    if all(contract.plain for contract in setting.contracts.values()):
        return frame
    frame = restored(frame, setting.contracts, sides="side" not in whose)
    return frame if setting.settlement is None else setting.settlement.accounts(frame)


def handed_on(setting: Setting, accounts: pl.DataFrame) -> pl.DataFrame:
    """The accounts, after whoever waits for them has got them."""
    if setting.on_accounts is not None:
        setting.on_accounts(accounts)
    return accounts


def settle_to_file(
    setting: Setting,
    budget: Budget,
    book: Book,
    tasks: Sequence[Task],
    settling: Settling,
    threads: int,
    labels: Labels,
) -> AccountsFile:
    """All positions settled, and written row group by row group."""
    counted = Counted(setting.progress, SETTLING, book.size)
    file = budget.accounts_file()
    step = max(1, budget.rows(ROW_GROUP, 2 * threads + 2) // CHUNK)
    groups = [tasks[first : first + step] for first in range(0, len(tasks), step)]

    def settle(group: Sequence[Task]) -> tuple[int, Columns]:
        first = group[0].first
        columns = Columns.of(group[-1].last - first, setting.terms.protection)
        for task in group:
            settling.settle(task, columns, first)
        return first, columns

    with Writer(file.path) as writer:
        for first, columns in in_threads(settle, groups, threads):
            writer.append(accounts_frame(setting, columns, labels, first))
            counted.add(columns.size)
    budget.spool.close()
    return file


@dataclass(frozen=True)
class Done:
    """Positions settled: what was found of them, their table in the making, equity curves, and of how many the largest crowd is."""

    found: Callable[[], Settled]
    making: Future[pl.DataFrame | AccountsFile]
    curves: pl.DataFrame | None = None
    largest: int = 0


def settled_book(
    setting: Setting, book: Book, terms: FundTerms, groups: pl.DataFrame, labels: Labels, equity: Curves, threads: int,
    coupled: Coupled | None, walleted: Walleted | None, since: float,
) -> Done:  # fmt: skip
    """All positions of a book settled."""
    # blocks as they are; in the table's order where it is written piece by piece; at once for curves of whole accounts
    step = CHUNK if setting.budget is not None else max(book.size, 1)
    in_order = setting.budget is not None or setting.equity_every is not None
    tasks = list(spans(book.size, step) if in_order else book.order.tasks())
    weights, crowds = scaled(
        setting, book, tasks, threads, None if coupled is None else coupled.weights, walleted is not None
    )
    largest = walleted.largest_crowd if walleted else crowds.largest if crowds else 0
    in_steps = not setting.procedures.plain
    settling = Settling(book, weights, crowds, terms, groups, in_steps, setting.settlement)
    settling.transfers = None if coupled is None else coupled.transfers
    settling.bankruptcy = None if walleted is None else walleted.bankruptcy
    if setting.budget is not None:
        file = settle_to_file(setting, setting.budget, book, tasks, settling, threads, labels)
        setting.timed("settle", since)
        return Done(settling.found, meanwhile(lambda: file, False), largest=largest)
    columns, curves = settle_in_memory(setting, book, tasks, settling, threads, equity)
    since = setting.timed("settle", since)
    making: Future[pl.DataFrame | AccountsFile] = meanwhile(
        lambda: handed_on(setting, accounts_frame(setting, columns, labels, 0)), threads > 1
    )
    setting.timed("tables", since)
    return Done(settling.found, making, curves, largest)


def settled_already(setting: Setting, book: Book, flowed: Flowed, threads: int) -> Done:
    """All positions of a run that settled them as they were finished."""
    Counted(setting.progress, SETTLING, book.size).add(book.size)
    setting.timings["kernels"] = max(setting.timings.get("kernels", 0.0) - flowed.seconds, 0.0)
    setting.timings["settle"] = flowed.seconds
    since = time.perf_counter()
    making: Future[pl.DataFrame | AccountsFile] = meanwhile(
        lambda: handed_on(setting, flowed.accounts()), threads > 1
    )
    setting.timed("tables", since)
    return Done(flowed.found, making)


def conclude(
    setting: Setting,
    book: Book,
    *,
    groups: pl.DataFrame,
    population: pl.DataFrame | None,
    labels: Labels,
    policies: pl.DataFrame,
    equity: Curves,
    started: float,
    coupled: Coupled | None = None,
    walleted: Walleted | None = None,
    flowed: Flowed | None = None,
) -> Result:
    """Settle the book, unless it has `flowed`, check that money is conserved, and make the tables."""
    since = time.perf_counter()
    check_names(groups)
    if setting.budget is not None:
        setting.budget.check(kept_to_the_end(setting, book))
    threads = 1 if book.size < SERIAL_BELOW else choose_threads(setting.threads, book.size, SERIAL_BELOW)
    terms, settlement = setting.terms, setting.settlement
    if settlement is not None and settlement.mixed:
        terms = replace(terms, seeds=settlement.seeds(terms.seed, book.first_time))
    if flowed is None:
        done = settled_book(setting, book, terms, groups, labels, equity, threads, coupled, walleted, since)
    else:
        done = settled_already(setting, book, flowed, threads)
    since, making = time.perf_counter(), done.making
    found = done.found()
    sums = found.totals
    if coupled is None:
        fund = ledger(book, found.all_events(), terms, payments(book, terms))
    else:
        fund, sums["pnl"] = coupled.fund, sums["pnl"] + coupled.given_up
    totals = check_run(sums, found.gross, fund, terms)
    since = setting.timed("settle", since)
    explained = fund if coupled is None or coupled.of_positions is None else coupled.of_positions
    statistics = found.tally.table(explained, population)
    extra = {"margins": pl.concat(setting.margins)} if setting.margins else {}
    if settlement is not None:
        fund, statistics = settlement.columns(fund, "time"), settlement.statistics(statistics)
        if found.converted is not None:
            turned = fund.with_columns(in_quote(fund, OF_FUND))
            extra["converted"] = found.converted.table(turned, population)
        note_settlement(setting, settlement)
    since = setting.timed("statistics", since)
    accounts = making.result()
    setting.timed("tables", since)
    if not setting.procedures.plain:
        lazy = accounts.lazy() if isinstance(accounts, pl.DataFrame) else accounts.scan()
        steps = step_table(found.steps, lazy)
        steps = restored_steps(steps, setting.contracts)
        settled = setting.settlement
        extra["liquidations"] = steps if settled is None else settled.columns(steps, "time")
    note_refusals(setting, book, found)
    note_flat_fills(setting, book)
    setting.timings["total"] = time.perf_counter() - started
    return Result(
        held=accounts,
        fund=fund,
        statistics=statistics,
        policies=policies,
        prices=pl.concat(setting.prices),
        metadata=metadata(setting, book, totals, done.largest)
        | ({} if coupled is None else coupled.metadata),
        equity=done.curves,
        extra=extra | ({} if coupled is None else coupled.extra),
    )


def note_settlement(setting: Setting, settlement: Settlement) -> None:
    """Say what currency money is in, and how it is converted."""
    coins = ", ".join(f"{symbol} {coin}" for symbol, coin in settlement.currencies.items())
    setting.notes.append(
        f"money is in settlement currency: {coins}; a fill worse by a share is a share of the price"
    )
    if not settlement.known:
        lacking = [symbol for symbol in settlement.contracts if settlement.source(symbol) is None]
        setting.notes.append(
            f"{', '.join(lacking)}: no price of its coin is given (conversion), so nothing is converted"
        )
    elif settlement.mixed:
        setting.notes.append(
            "totals over symbols of different settlement currencies are in the table `converted` alone, at the last price of the bar "
            "of each exit and payment; seeds of funds are in quote currency, turned into coin at the first bar"
        )


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


def note_refusals(setting: Setting, book: Book, found: Settled) -> None:
    """Say how many orders were refused, why, and on which symbols."""
    refused = int(found.refused.sum())
    if not refused:
        return
    causes = []
    for cause in np.flatnonzero(found.refused.any(axis=1)):
        symbols = ", ".join(book.symbols[k] for k in np.flatnonzero(found.refused[cause]))
        causes.append(f"{found.refused[cause].sum():,} {REJECTIONS[cause].replace('_', ' ')} on {symbols}")
    setting.notes.append(f"{refused:,} of {book.size:,} orders were refused: {'; '.join(causes)}")


def note_flat_fills(setting: Setting, book: Book) -> None:
    """Say how many liquidations fell into bars without a known turnover: they slip by the flat figure (MODEL §6)."""
    flat, liquidated = (sum(getattr(part, name) for part in book.parts) for name in ("flat", "liquidated"))
    if flat:
        setting.notes.append(
            f"{flat:,} of {liquidated:,} liquidations fell into bars without trades or volume and slipped by the flat "
            f"{setting.venue.slippage:g}"
        )


def metadata(setting: Setting, book: Book, totals: dict[str, float], crowd: int) -> dict[str, Any]:
    """What a reader must know to judge and repeat the run; plain values that JSON can hold."""
    peak = peak_memory()
    digest = "".join(
        f"{name} {text}\n" for name, text in sorted((name, one.result()) for name, one in setting.digests)
    )
    return {
        "engine": setting.engine,
        "engine_reason": setting.engine_reason,
        "venue": setting.venue.model_dump(mode="json", exclude={"tiers", "dated"}),
        "rules": setting.rules.model_dump(),
        "fund": {
            "seed": setting.terms.seed,
            "fee_share": setting.terms.fee_share,
            "scope": setting.terms.scope,
            **(
                {
                    "top_ups": [
                        f"{paid.amount:g} at {paid.time} ms, {paid.fund or 'each fund'}"
                        for paid in setting.terms.top_ups
                    ]
                }
                if setting.terms.top_ups
                else {}
            ),
            **({} if setting.terms.hold is None else {"hold_seconds": setting.terms.hold / 1000}),
            **({} if setting.terms.protection else {"protection": False}),
            **(
                {"groups": {name: list(symbols) for name, symbols in setting.terms.groups}}
                if setting.terms.groups
                else {}
            ),
        },
        "dynamic": None if setting.dynamic is None else setting.dynamic.model_dump(mode="json"),
        "open_interest": setting.interest_words(),
        "crowding": setting.crowding,
        "liquidation": setting.procedures.told(),
        "largest_crowd": crowd,
        "notes": setting.notes,
        "symbols": setting.symbols,
        "positions": book.size,
        "worlds": len(book.worlds),
        "money": None if setting.settlement is not None and setting.settlement.mixed else totals,
        **({} if setting.settlement is None else {"contracts": setting.settlement.words()}),
        "data_sha256": hashlib.sha256(digest.encode()).hexdigest(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numba", "numpy", "polars", "pyarrow")},
        },
        "timings_seconds": {stage: round(seconds, 4) for stage, seconds in setting.timings.items()},
        "peak_memory_mib": None if peak is None else round(peak / 2**20, 1),
    }
