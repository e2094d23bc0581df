"""A bound on memory: how large pieces may be, and where what does not fit goes.

In: a number of bytes for the whole process. Out: sizes of blocks, chunks and row groups, and a folder for what is on the way, which is
gone when nobody holds it any more, whatever happens.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from perpbt.config.memory import memory_words
from perpbt.engines.book import Spool
from perpbt.errors import InputError
from perpbt.kernels.tables import ROW
from perpbt.mapped import MEMORY, Files, Shelf
from perpbt.stored import AccountsFile

A_BAR = 450  # bytes a bar takes while its symbol is read and made into arrays
A_BAR_FILED = 2  # the same where the arrays are in files
A_SIGNAL = 100  # while signals are found, which look at whole columns, besides
A_TURNOVER = 200  # where open interest goes with turnover, which does so too
A_KNOWN = 50  # where open interest is a series
A_MARGIN = 80  # where margins change with the market
LEAST_WINDOW = 1 << 15  # bars to read and work on at a time
A_THREAD = 64 << 20  # at work
A_POSITION = 24  # kept of each to the end: what medians need
A_FLOW = 160  # a moment at which a fund moves: the event, and its row of the ledger
A_WISH = 80  # the same of a position given, with what orders the rows
A_WORD = 4  # a value of the table it is read from, at least
A_SHARED = 60  # besides, of one that shares a wallet
A_WALLET = 250  # and of each wallet
FIXED = (
    128 << 20
)  # libraries that load late, and what they keep; with arrays in files, their pages (mapped.SLACK) too

PATIENCE = 0.5  # seconds without a change in what is held after which it is not waited for any longer
LITTLE = 1 << 20  # bytes that are no change


def held_memory() -> int:
    """Bytes this process holds now; where the system does not say, the most it has held, or what imports take."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = peak_memory()
        return peak if peak is not None else 300 << 20


def peak_memory() -> int | None:
    """The most bytes this process has held; None where the system does not say (Windows).

    On Linux not from `getrusage`, whose figure a child inherits from the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        held = next(
            line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM")
        )
        return int(held.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def settled_memory(enough: int) -> int:
    """Bytes this process holds; where that is more than `enough`, once it no longer falls: what readers of files and other libraries are
    done with goes back to the system in the course of a second.
    """
    held = held_memory()
    if not held > enough >= 0:
        return held
    since = time.monotonic()
    while time.monotonic() < since + PATIENCE:
        time.sleep(PATIENCE / 50)
        now = held_memory()
        if now < held - LITTLE:
            since = time.monotonic()
        held = min(held, now)
    return held


class Budget:
    """Memory a run may hold, all of its process included, and a folder for its accounts table."""

    def __init__(self, limit: int, scratch: Path | None) -> None:
        self.limit, self.scratch = limit, scratch
        self.room = 0.0  # beyond what is needed at least
        self.spool = Spool(0)
        self.shelf: Shelf = MEMORY
        self.folder: TemporaryDirectory[str] | None = None

    def plan(
        self, bars: int, kept: int, threads: int | None, *, at_once: int = 0, whole: bool = False
    ) -> None:
        """Settle sizes, once it is known how much there is to do.

        `bars` are those of the longest symbol, which are held at once if they fit, else in files; `kept` are bytes that are held to the
        end. In files: `at_once` are bytes needed all the same; not at all if `whole`.

        Raises `InputError` if it cannot be done in so little, or there is no place for what does not fit.
        """
        self.shelf = MEMORY
        busy = kept + (threads or os.cpu_count() or 1) * A_THREAD
        filed = bars * A_BAR_FILED + at_once + LEAST_WINDOW * A_BAR
        in_files = (
            not whole and filed < bars * A_BAR and held_memory() + FIXED + bars * A_BAR + busy > self.limit
        )
        self.check(busy + (filed if in_files else bars * A_BAR), self.why(at_once) if in_files else "")
        self.make_folder()
        assert self.folder is not None
        self.spool = Spool(self.room / 8, Path(self.folder.name))
        if in_files:
            step = min(1 << 20, LEAST_WINDOW + int(self.room / 4 / A_BAR))
            self.shelf = Files(Path(self.folder.name), self.limit, step)

    def why(self, at_once: int) -> str:
        """What keeps a run from less memory than it needs."""
        if not at_once:
            return ""
        return (
            f", of which {memory_words(at_once)} for whole columns: signals, changing margins and open interest of each bar are found from all bars of "
            "a symbol at once; given positions (simulate) against one open interest need none of that"
        )

    def make_folder(self) -> None:
        """A folder for what is on the way."""
        try:
            if self.folder is None:
                self.folder = TemporaryDirectory(prefix=".perpbt-", dir=self.scratch)
        except OSError as error:
            raise InputError(
                f"scratch = {str(self.scratch)!r}: nothing can be kept there: {error.strerror}; allowed: a folder "
                "that can be written to"
            ) from error

    def needed(self, more: int) -> int:
        """Bytes the process holds once it holds so much more than now, and what it cannot do without. Where they are beyond the limit, that is
        what it holds after others have given back what they need no more.
        """
        if isinstance(self.shelf, Files):
            self.shelf.release()
        return settled_memory(self.limit - more) + more

    def check(self, more: int, why: str = "") -> None:
        """Raises `InputError` if so much more than is held now does not fit."""
        least = self.needed(FIXED + more)
        self.room = self.limit - least
        if self.room < 0:
            raise InputError(
                f"memory = {memory_words(self.limit)}: this run needs at least {memory_words(least)}{why}"
            )

    def hold(self, more: int) -> None:
        """Raises `InputError` if so much more than is held now does not fit, without room for anything else."""
        if more > 1 << 20 and (least := self.needed(more)) > self.limit:
            raise InputError(
                f"memory = {memory_words(self.limit)}: this run needs at least {memory_words(least)} for the funding events "
                "and gaps of one symbol"
            )

    def rows(self, most: int, shares: int) -> int:
        """Rows to hold at once, where `shares` such pieces are held: as many as there is room for, at most `most`."""
        fit = (self.room / 4 + A_THREAD) / shares / (3 * ROW.itemsize)
        return int(min(most, max(1 << 12, fit)))

    def stored(self, table: pl.LazyFrame) -> Path:
        """A table written to a file, so that it can be read in slices."""
        assert self.folder is not None
        path = Path(self.folder.name) / "given.parquet"
        try:
            table.sink_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(
                f"accounts: the LazyFrame given cannot be read: {str(error).strip().partition(chr(10))[0]}"
            ) from error
        return path

    def accounts_file(self) -> AccountsFile:
        """Where the accounts table goes."""
        assert self.folder is not None
        return AccountsFile(Path(self.folder.name) / "accounts.parquet", self.folder)

    def close(self) -> None:
        """Leave nothing behind."""
        self.rest()
        self.spool.close()
        if self.folder is not None:
            self.folder.cleanup()

    def rest(self) -> None:
        """The run is over; what it made stays."""
        if isinstance(self.shelf, Files):
            self.shelf.close()


@contextmanager
def cleared(budget: Budget | None) -> Iterator[None]:
    """Leaves nothing behind where a run fails or is interrupted; a finished run has closed its own spool."""
    try:
        yield
    except BaseException:
        if budget is not None:
            budget.close()
        raise
    if budget is not None:
        budget.rest()
