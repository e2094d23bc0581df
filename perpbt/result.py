"""What a run returns: tables of accounts, fund, statistics and policies, and the metadata that says how
they came about.

In: a settled book. Out: polars frames with the columns listed at `Result`, and files written aside and
renamed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import polars as pl

from perpbt.errors import InputError, RunError
from perpbt.stored import AccountsFile, LazyTable

# names of Result.extra
EXTRA = [
    *(
        "adl",
        "adl_rounds",
        "calls",
        "cascades",
        "collateral",
        "converted",
        "inventory",
        "layers",
        "liquidations",
        "margins",
        "measures",
    ),
    "wallets",
]
# money in tables of a run in settlement currency
OF_ACCOUNTS = (
    *("collateral", "margin", "pnl", "funding", "fees", "liquidation_fee", "surplus", "deficit", "top_up"),
    *("cash_change", "exit_notional", "owed"),
)
OF_FUND = (
    *("liquidation_fees", "surplus", "fee_share", "deficit", "top_up"),
    *("adl", "outside", "socialised", "uncovered", "balance"),
)
WRITTEN = (
    *("accounts.parquet", "fund.parquet", "statistics.parquet", "policies.parquet", "equity.parquet"),
    *(f"{name}.parquet" for name in EXTRA),
    *("run.json", "report.html"),
)


def in_quote(table: Any, names: Sequence[str]) -> list[pl.Expr]:
    """Columns of money of a table in settlement currency, converted."""
    return [pl.col(name) * pl.col("conversion") for name in names if name in table.columns]


def write_table(table: pl.DataFrame, path: Path) -> None:
    """A table as one Parquet file."""
    table.write_parquet(path, compression="zstd", compression_level=1)


class Begun:
    """Accounts written while the rest of a result is still being made: its largest table, and the first to be known.

    To be used as a context: a file that no result has taken by its end is removed. `place` is a folder on the disk of the result.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._table: pl.DataFrame | None = None
        self._folder: Future[TemporaryDirectory[str]] | None = None

    def accounts(self, table: pl.DataFrame) -> None:
        """Begin to write them, in a thread of its own."""
        with_one = ThreadPoolExecutor(1)
        self._table, self._folder = table, with_one.submit(self._written, table)
        with_one.shutdown(wait=False)  # the thread ends with its work

    def _written(self, table: pl.DataFrame) -> TemporaryDirectory[str]:
        folder = TemporaryDirectory(prefix=".perpbt-", dir=self._place)
        try:
            write_table(table, Path(folder.name) / "accounts.parquet")
        except BaseException:
            folder.cleanup()
            raise
        return folder

    def has(self, table: object) -> bool:
        """Whether it is this table that is being written."""
        return self._folder is not None and table is self._table

    def put(self, path: Path) -> None:
        """Move the file to where it belongs, once it is whole. Raises what went wrong on the way."""
        assert self._folder is not None
        shutil.move(Path(self._folder.result().name) / "accounts.parquet", path)

    def __enter__(self) -> Begun:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None and self._folder.exception() is None:
            self._folder.result().cleanup()


@dataclass(repr=False)
class Result:
    """The outcome of `simulate` or `backtest`. Money in quote currency, times UTC.

    `accounts`: a row a position. account position strategy policy symbol world weight side leverage
    collateral entry_time entry_price quantity margin liquidation_price bankruptcy_price (both as of entry)
    exit_time exit_price exit_reason rejection pnl (of the price, before costs) funding (received > 0) fees
    liquidation_fee surplus (to the fund) deficit top_up cash_change total_return max_drawdown
    worst_margin_ratio. Rejected orders have nulls from entry_price on. For every row
    cash_change + fees + liquidation_fee + surplus - deficit = pnl + funding. With `fund.protection` off also owed, after deficit: what the
    trader owes, lost beyond the position's margin; it is in cash_change, and deficit is 0.

    `max_drawdown` is a fraction of peak equity, marked at the closes the position was open at and at its
    exit. `worst_margin_ratio` is requirement / equity (1 is liquidation, infinite: opened beyond bankruptcy)
    at the worst mark of every bar it survived and at the mark open of the bar it left in; the range of that
    last bar is not in it, for nobody knows what came before the exit.

    `fund`: the ledger: time world symbol liquidation_fees surplus fee_share deficit uncovered balance. Where
    accounts meet (`coupling`) also adl outside socialised: what others than the fund paid of deficits; with `fund.top_ups`
    also top_up: what was put in from outside.
    `statistics`: a row per strategy, policy and symbol, and totals named "all". `policies`: what each policy
    label stands for. `equity`: time account equity, if asked for; an account of several worlds is added up. `prices`: a thinned price path per symbol.
    In a run with inverse or quanto contracts (venue table `[contract]`) money is in settlement currency, which the column
    `settlement` of accounts, fund and statistics names; prices stay in quote currency, `quantity` counts contracts. `conversion`
    is the price of one unit of it in quote currency, the last of the bar in which money moved; accounts also have
    `exit_notional`, the value closed, and `cash_change_quote`. `extra["converted"]` is `statistics` in quote currency, every
    amount converted when it moved. Totals over symbols of different settlement currencies stand there alone; in `statistics`
    they are null.

    `extra`: tables that only some kinds of run make, by name (`result.extra["adl"]`); the kind says what is in them.

    With a bound on memory `accounts` are in a file that goes with the result, unless `write` has put them elsewhere; `scan()` reads of
    them what a query asks for.
    """

    held: pl.DataFrame | AccountsFile  # the accounts: ask for `accounts`, `scan()` or `table`
    fund: pl.DataFrame
    statistics: pl.DataFrame
    policies: pl.DataFrame
    prices: pl.DataFrame
    metadata: dict[str, Any]
    equity: pl.DataFrame | None = None
    extra: dict[str, pl.DataFrame] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Which tables there are, how long and wide, and the notes; not what is in them."""
        tables = {"accounts": self.scan(), "fund": self.fund.lazy(), "statistics": self.statistics.lazy()}
        tables |= {"policies": self.policies.lazy(), "prices": self.prices.lazy()}
        tables |= {} if self.equity is None else {"equity": self.equity.lazy()}
        tables |= {f"extra[{name!r}]": table.lazy() for name, table in self.extra.items()}
        width = max(map(len, tables))
        lines = [
            f"  {name:<{width}}  {table.select(pl.len()).collect().item():>13,} rows, "
            f"{len(table.collect_schema())} columns"
            for name, table in tables.items()
        ]
        notes = [f"  note: {note}" for note in self.metadata.get("notes", ())]
        return "\n".join([f"Result (engine {self.metadata.get('engine')!r})", *lines, *notes])

    @property
    def accounts(self) -> pl.DataFrame:
        """A row a position. Of a run with a bound on memory it is read whole from its file at every call: prefer `scan`."""
        return self.held if isinstance(self.held, pl.DataFrame) else self.scan().collect()

    @accounts.setter
    def accounts(self, table: pl.DataFrame) -> None:
        self.held = table

    def scan(self) -> pl.LazyFrame:
        """The accounts, lazily: what a query does not ask for is not read."""
        return self.held.lazy() if isinstance(self.held, pl.DataFrame) else self.held.scan()

    @property
    def table(self) -> Any:
        """The accounts as statistics take them: a frame, or what answers like one a few columns at a time."""
        return self.held if isinstance(self.held, pl.DataFrame) else LazyTable(self.scan())

    def in_one_currency(self) -> Any:
        """What a page or a terminal shows: the tables of this result, its accounts also as `table`; where they are of several
        settlement currencies, all money in quote currency.
        """
        shown = SimpleNamespace(**{**vars(self), "accounts": self.table})
        if "converted" in self.extra and self.metadata.get("money") is None:
            shown.accounts = shown.accounts.with_columns(in_quote(shown.accounts, OF_ACCOUNTS))
            shown.fund = self.fund.with_columns(in_quote(self.fund, OF_FUND))
            shown.statistics = self.extra["converted"]
        shown.table = shown.accounts
        return shown

    def report(self, path: str | Path, *, title: str | None = None) -> Path:
        """Write a self-contained HTML report; returns its path."""
        from perpbt.report import write_report  # pictures are slow to import and not always wanted

        write_report(self.in_one_currency(), path, title=title)
        return Path(path)

    def write(
        self, directory: str | Path, *, report: bool = True, accounts: bool = True, begun: Begun | None = None
    ) -> Path:
        """Write all tables, run.json and report.html into a new `directory`, or replace one this method
        wrote before.

        Everything is written beside it first and put in place by renaming, so a directory is either whole
        or absent. Accounts that are `begun` are not written again.
        """
        check_target(Path(directory))
        target = Path(directory).resolve()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            try:
                self._write_into(aside, report, accounts, begun)
                put_in_place(aside, target)
            finally:
                shutil.rmtree(aside, ignore_errors=True)  # already gone after a rename
        except OSError as error:
            raise RunError(f"{directory}: the result could not be written: {error}") from error
        return Path(directory)

    def _write_into(self, folder: Path, report: bool, accounts: bool, begun: Begun | None) -> None:
        tables = {"fund": self.fund, "statistics": self.statistics, "policies": self.policies}
        written = accounts and begun is not None and begun.has(self.held)
        if accounts and not isinstance(self.held, pl.DataFrame):
            self.held.copy_to(folder / "accounts.parquet")
        elif accounts and not written:
            tables["accounts"] = self.held  # type: ignore[assignment]
        if self.equity is not None:
            tables["equity"] = self.equity
        tables.update(self.extra)
        for name, table in tables.items():
            write_table(table, folder / f"{name}.parquet")
        if report:
            self.report(folder / "report.html")
        text = json.dumps(self.metadata, indent=2, default=str)
        (folder / "run.json").write_text(text + "\n", encoding="utf-8")
        if begun is not None and written:
            begun.put(folder / "accounts.parquet")
        folder.chmod(0o755)


def check_target(target: Path) -> None:
    """A result may be written to a new or empty directory, or over that of an earlier run; never over
    anything else. Also told here: a place in which nothing can be made.
    """
    whole, here = target.resolve(), Path.cwd()
    if whole == here or whole in here.parents:  # replacing it would take the ground from under the caller
        raise InputError(f"{target}: is or holds the working directory; allowed: a directory beside or in it")
    exists = target.exists() or target.is_symlink()
    held = sorted(entry.name for entry in target.iterdir()) if target.is_dir() else []
    if exists and (not target.is_dir() or (held and "run.json" not in held)):
        raise InputError(
            f"{target}: exists and is not the result of an earlier run; allowed: a new or empty directory"
        )
    foreign = [name for name in held if name not in WRITTEN]
    if foreign:
        raise InputError(
            f"{target}: holds {foreign[0]!r}, which no run writes and replacing would delete; allowed: a new or empty "
            "directory, or an earlier result as it was written"
        )
    above = existing_above(target)
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what = "cannot be written to" if above.is_dir() else "is a file"
        raise InputError(f"{target}: {above} {what}; allowed: a place in a folder that can be written to")


def existing_above(target: Path) -> Path:
    """The nearest folder above that exists."""
    return next(folder for folder in target.resolve().parents if folder.exists())


def put_in_place(aside: Path, target: Path) -> None:
    """Rename `aside` to `target`; what stood there is removed only once the new directory is in its place,
    and comes back if it cannot be put there.
    """
    if not target.exists():
        os.rename(aside, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    try:
        os.rename(target, old / "run")
        os.rename(aside, target)
    except BaseException:
        if not target.exists():
            os.rename(old / "run", target)
        old.rmdir()
        raise
    shutil.rmtree(old)
