"""What holds for a whole run: venue, fund, rules and options, checked; and what is noted of each symbol on
the way.

In: the options of `simulate` and `backtest`. Out: a `Setting` that goes with the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

import polars as pl

from perpbt.config import Duration, DynamicMargin, FundSpec, Liquidation, Rules, TurnoverInterest
from perpbt.config.fields import Spec
from perpbt.config.memory import parse_memory
from perpbt.contracts import Contract
from perpbt.engines.book import Spool
from perpbt.engines.chunks import Progress, choose_engine, choose_threads, meanwhile
from perpbt.errors import InputError
from perpbt.kernels.tables import Market
from perpbt.load import Bars, SymbolBars, load_bars
from perpbt.load.columns import TIMES_ALLOWED, number_expression, symbol_expression, time_expression
from perpbt.load.windows import collect_in_windows
from perpbt.mapped import MEMORY, Files, Shelf, pieces
from perpbt.prepare.arrays import contract_for
from perpbt.procedures import Asked, Procedures, chosen, refuse_coupling
from perpbt.running.budget import A_KNOWN, A_MARGIN, A_SIGNAL, A_TURNOVER, Budget
from perpbt.running.terms import Terms
from perpbt.settling.currency import CoinPrice, Settlement, settlement_of
from perpbt.settling.settle import FundTerms, TopUp
from perpbt.settling.weights import OpenInterest
from perpbt.venue import Venue, load_venue
from perpbt.venue import tables as venue_tables

PRICE_POINTS = 2000  # of the thinned price path a result carries for pictures


UNSTATED = "venue {} states no ranking of winners: the fund's shortfall closes them as BitMEX does"


@dataclass
class Setting:
    """What holds for a whole run, and what is noted on the way."""

    venue: Venue
    rules: Rules
    terms: FundTerms
    open_interest: OpenInterest | TurnoverInterest | None
    crowding: bool
    engine: str
    engine_reason: str
    threads: int | None
    equity_every: int | None
    progress: Progress | None
    on_accounts: Callable[[pl.DataFrame], object] | None = None  # gets the table as soon as there is one
    budget: Budget | None = None
    procedures: Procedures = field(default_factory=Procedures)
    coupling: Terms | None = None
    notes: list[str] = field(default_factory=list)
    symbols: dict[str, Any] = field(default_factory=dict)
    prices: list[pl.DataFrame] = field(default_factory=list)
    markets: dict[int, Market] = field(default_factory=dict)  # kept where equity curves are wanted
    pushed: dict[tuple[int, int], Market] = field(default_factory=dict)  # as a world's cascades left a symbol
    digests: list[tuple[str, Future[str]]] = field(default_factory=list)
    conversion: Mapping[str, CoinPrice] | None = None
    settlement: Settlement | None = None  # where money is not all in quote currency
    timings: dict[str, float] = field(default_factory=dict)
    dynamic: DynamicMargin | None = None
    margins: list[pl.DataFrame] = field(default_factory=list)  # of each symbol, where rates follow the market
    interest: list[pl.DataFrame] = field(default_factory=list)  # of each symbol, where it goes with turnover
    contracts: dict[str, Contract] = field(default_factory=dict)  # of each symbol

    @property
    def spool(self) -> Spool:
        """Where finished rows are kept."""
        return Spool() if self.budget is None else self.budget.spool

    @property
    def shelf(self) -> Shelf:
        """Where the arrays of a symbol are kept."""
        return MEMORY if self.budget is None else self.budget.shelf

    @property
    def keeps_markets(self) -> bool:
        """Whether bars are needed once all positions are finished: for equity curves, and where accounts or a fund go on from there."""
        return self.equity_every is not None or self.coupling is not None or self.terms.hold is not None

    @property
    def settles_at_once(self) -> bool:
        """Whether a position can be settled as soon as it is finished: nothing that comes later changes it, and nobody asks for its row."""
        waits = (
            self.crowding or self.open_interest is not None or self.keeps_markets or self.budget is not None
        )
        known = self.procedures.plain and self.settlement is None and self.terms.protection
        return known and not waits and all(one.plain for one in self.contracts.values())

    def contract(self, symbol: str) -> Contract:
        """What the venue says a symbol is, noted."""
        return self.contracts.setdefault(symbol, contract_for(self.venue, symbol))

    def settle_in(self, symbols: Sequence[str]) -> None:
        """Find out what currency the money of the run's symbols is in."""
        wanted = self.open_interest
        whole = isinstance(wanted, (int, float)) or (
            isinstance(wanted, pl.DataFrame) and "symbol" not in wanted.columns
        )
        contracts = {symbol: self.contract(symbol) for symbol in symbols}
        self.settlement = settlement_of(
            contracts, self.conversion, self.terms.names(list(symbols)), not whole
        )

    def timed(self, stage: str, since: float) -> float:
        """Add the seconds since `since` to a stage; returns now."""
        now = time.perf_counter()
        self.timings[stage] = self.timings.get(stage, 0.0) + (now - since)
        return now

    def stated_interest(self) -> OpenInterest | None:
        """Open interest to scale to, once all symbols are known."""
        return (
            pl.concat(self.interest)
            if isinstance(self.open_interest, TurnoverInterest)
            else self.open_interest
        )

    def interest_words(self) -> float | dict[str, float] | str | None:
        """Open interest as metadata tell it."""
        wanted = self.open_interest
        if isinstance(wanted, TurnoverInterest):
            return f"{wanted.days_of_turnover:g} days of turnover, mean of {wanted.window} before"
        if isinstance(wanted, pl.DataFrame):
            return f"a series of {wanted.height:,} values"
        return dict(wanted) if isinstance(wanted, Mapping) else wanted


def turnover_interest(bars: SymbolBars, wanted: TurnoverInterest, contract: Contract) -> pl.DataFrame:
    """Open interest of one symbol that goes with its turnover, in settlement currency; at each bar from bars before and with it."""
    if not bars.has_volume:
        raise InputError(
            f"open_interest.days_of_turnover needs volume; {bars.symbol} has none. Allowed: bars with volume, a number, "
            "or none (--set world.open_interest=none)"
        )
    if not bars.bar_ms:
        raise InputError(
            f"open_interest.days_of_turnover needs more than one bar of {bars.symbol} to know a day's turnover"
        )
    a_day = wanted.days_of_turnover * 86_400_000 / bars.bar_ms
    price = 1.0 / pl.col("close") if contract.kind == "inverse" else pl.col("close")
    traded = pl.col("volume").fill_null(0.0)
    if contract.counts_contracts():
        traded = traded * contract.multiplier * price
    elif contract.kind != "inverse":
        traded = traded * price
    turnover = traded.rolling_mean_by("ts", f"{int(wanted.window)}ms")
    series = bars.frame.select("ts", "symbol", (turnover * a_day).alias("open_interest"))
    return series.filter(pl.col("open_interest") > 0)


def make_setting(
    *,
    venue: str | Path | Venue,
    tiers_as: Mapping[str, str] | None,
    fund: FundSpec | Mapping[str, Any] | None,
    open_interest: OpenInterest | TurnoverInterest | None,
    crowding: bool,
    liquidation: Asked = None,
    rules: Rules | Mapping[str, Any] | None,
    engine: str,
    threads: int | None,
    equity_every: str | timedelta | Duration | None,
    progress: Progress | None,
    memory: int | str | None,
    scratch: str | Path | None,
    tiers: str | Path | None = None,
    dynamic: DynamicMargin | Mapping[str, Any] | None = None,
    coupling: Terms | None = None,
    conversion: Mapping[str, CoinPrice] | None = None,
) -> Setting:
    """Check the options of a run."""
    of_type("venue", venue, (str, Path, Venue), "a name, a path or a Venue")
    of_type("tiers_as", tiers_as, (Mapping, NoneType), "a mapping from symbol to symbol")
    of_type("crowding", crowding, (bool,), "True or False")
    of_type("threads", threads, (int, NoneType), "a whole number, or None for all cores")
    of_type("conversion", conversion, (Mapping, NoneType), "a mapping from coin to its price")
    found = load_venue(venue, tiers_as, tiers)
    wanted = checked(FundSpec, fund, "fund")
    terms = FundTerms(
        seed=found.fund_seed if wanted.seed is None else wanted.seed,
        fee_share=found.fund_fee_share if wanted.fee_share is None else wanted.fee_share,
        pooled=not wanted.groups and (wanted.scope or found.fund_scope) == "pooled",
        hold=None if wanted.hold is None else int(wanted.hold),
        groups=tuple((name, tuple(symbols)) for name, symbols in wanted.groups.items()),
        top_ups=tuple(
            TopUp(int(paid.at.timestamp() * 1000), float(paid.amount), paid.fund) for paid in wanted.top_ups
        ),
        protection=wanted.protection,
    )
    name, reason = choose_engine(engine)
    choose_threads(threads, 0, 0)
    if memory is not None and equity_every is not None:
        raise InputError(
            "equity_every with memory: curves of all accounts are held at once; allowed: one of the two"
        )
    procedures = chosen(liquidation, found.name, procedures_of(found))
    refuse_coupling(procedures, crowding)
    check_coupling(coupling, memory)
    left_open = coupling is not None and coupling.adl is not None and coupling.adl.policy is None
    return Setting(
        notes=[UNSTATED.format(found.name)] if left_open and "adl" not in found.tables else [],
        coupling=None
        if coupling is None
        else coupling.at(own_terms(found, "adl"), own_terms(found, "fund_trigger")),
        venue=found,
        procedures=procedures,
        rules=checked(Rules, rules, "rules"),
        terms=terms,
        open_interest=check_open_interest(open_interest),
        crowding=crowding,
        engine=name,
        engine_reason=reason,
        threads=threads,
        equity_every=None if equity_every is None else duration_ms(equity_every, "equity_every"),
        progress=progress,
        budget=None if memory is None else make_budget(memory, scratch),
        dynamic=None if dynamic is None else checked(DynamicMargin, dynamic, "dynamic"),
        conversion=conversion,
    )


def procedures_of(venue: Venue) -> Procedures | None:
    """What the venue's file says of liquidations; None if nothing."""
    if "liquidation" not in venue.tables:
        return None
    _, symbols = venue_tables.split(venue.tables["liquidation"])
    general = venue.terms("liquidation")
    own = {symbol: venue.terms("liquidation", symbol) for symbol in symbols}
    return Procedures(Liquidation() if general is None else general, own)


def own_terms(venue: Venue, table: str) -> dict[str, Any] | None:
    """What the venue's file states in a table, None if nothing."""
    stated = venue.terms(table) if table in venue.tables else None
    return None if stated is None else dict(stated)


def check_coupling(coupling: Terms | None, memory: int | str | None) -> None:
    """Refuse what a coupled run cannot be combined with."""
    if coupling is None or not coupling.changes_lives:
        return
    if memory is not None:
        raise InputError(
            "memory with coupling: positions that meet are held at once; allowed: one of the two"
        )


def make_budget(memory: int | str, scratch: str | Path | None) -> Budget:
    """The bound on memory."""
    of_type("scratch", scratch, (str, Path, NoneType), "a folder, or None for the system's")
    try:
        return Budget(parse_memory(memory), None if scratch is None else Path(scratch))
    except ValueError as error:
        raise InputError(f"memory = {memory!r}: {error}") from error


def of_type(name: str, given: object, kinds: tuple[type, ...], allowed: str) -> None:
    """Refuse an option of another type; True is no number."""
    if not isinstance(given, kinds) or (isinstance(given, bool) and bool not in kinds):
        raise InputError(f"{name} = {given!r} is of type {type(given).__name__}; allowed: {allowed}")


Table = TypeVar("Table", bound=Spec)


def checked(kind: type[Table], given: Table | Mapping[str, Any] | None, name: str) -> Table:
    """An option given as its table, as a mapping of its keys, or not at all."""
    if isinstance(given, kind):
        return given
    if given is None or isinstance(given, Mapping):
        return kind(**(given or {}))
    raise InputError(
        f"{name} = {given!r}; allowed: {kind.__name__} or a mapping with keys {', '.join(kind.model_fields)}"
    )


def duration_ms(given: str | timedelta | Duration, name: str) -> int:
    """A duration such as "1d" in milliseconds."""
    try:
        span = int(Duration.parse(given))
    except ValueError as error:
        raise InputError(f"{name} = {given!r}: {error}") from error
    if span == 0:
        raise InputError(f"{name} = {given!r}: must be longer than 0s")
    return span


def check_open_interest(
    wanted: OpenInterest | TurnoverInterest | None,
) -> OpenInterest | TurnoverInterest | None:
    """A positive number, one per symbol, a frame of them, or days of turnover."""
    if isinstance(wanted, TurnoverInterest):
        return wanted
    if isinstance(wanted, Mapping) and "days_of_turnover" in wanted:
        return TurnoverInterest(**wanted)
    if isinstance(wanted, pl.DataFrame):
        return check_interest_series(wanted)
    values = wanted if isinstance(wanted, Mapping) else {} if wanted is None else {"": wanted}
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            place = f"open_interest[{key!r}]" if key else "open_interest"
            raise InputError(f"{place} = {value!r}; allowed: a number above 0, in quote currency")
    return wanted


def check_interest_series(wanted: pl.DataFrame) -> pl.DataFrame:
    """The columns of a series of open interest, checked: ts, open_interest and, if by symbol, symbol."""
    place = "open_interest"
    lacking = [name for name in ("ts", place) if name not in wanted.columns]
    if lacking:
        raise InputError(f"{place}: column {lacking[0]!r} missing; found: {', '.join(wanted.columns)}")
    columns = [
        time_expression("ts", wanted.schema["ts"], place).alias("ts"),
        number_expression(place, wanted.schema[place], place, text=False),
    ]
    if "symbol" in wanted.columns:
        columns.append(symbol_expression("symbol", wanted.schema["symbol"], place))
    series = wanted.select(columns)
    value = pl.col(place)
    for name, right, allowed in (
        ("ts", pl.col("ts").is_not_null(), TIMES_ALLOWED),
        (place, (value > 0) & value.is_finite(), "finite numbers above 0"),
    ):
        wrong = series.select((~right.fill_null(False)).arg_true()).to_series()
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"{place}: row {row}, column {name!r}: {wanted[name][row]!r}; allowed: {allowed}"
            )
    return series


def open_bars(bars: Bars | Any) -> Bars:
    """Bars as loaded, or whatever `load_bars` reads."""
    return bars if isinstance(bars, Bars) else load_bars(bars)


def bar_counts(bars: Bars) -> tuple[int, int]:
    """Rows of the symbol that has most, and of all symbols."""
    counts = bars.frame.group_by("symbol").len().collect(engine="streaming")["len"]
    return int(counts.max() or 0), int(counts.sum())  # type: ignore[arg-type]


def plan_memory(
    setting: Setting, bars: int, every: int, kept: int, *, signals: bool = False, whole: bool = False
) -> None:
    """Settle what is held and what waits in files. `bars` are those of the longest symbol, `every` those of all, `kept` bytes held to
    the end. Signals, margins that change with the market, and open interest that goes with turnover, are read from whole columns; all is if `whole`.

    Raises InputError where even the least does not fit.
    """
    assert setting.budget is not None
    known = 0
    if isinstance(setting.open_interest, TurnoverInterest):
        known = every * A_TURNOVER
    elif isinstance(setting.open_interest, pl.DataFrame):
        known = every * A_KNOWN
    if setting.dynamic is not None or (
        setting.open_interest is not None and "maintenance" in setting.venue.tables
    ):
        known += bars * A_MARGIN
    setting.budget.plan(
        bars,
        kept,
        setting.threads,
        at_once=bars * A_SIGNAL * signals + known,
        whole=whole or setting.engine == "oracle",
    )


def collect_bars(setting: Setting, bars: Bars, symbol: str) -> SymbolBars:
    """One symbol read and checked; window by window into files where it would not fit into memory."""
    shelf, budget = setting.shelf, setting.budget
    if budget is None or not isinstance(shelf, Files):
        return bars.collect(symbol)
    progress, label = setting.progress, f"{symbol}, bars"
    told = None if progress is None else lambda done, rows: progress(label, done, rows)
    return collect_in_windows(bars, symbol, shelf, budget.hold, told)


def sources_of(bars: SymbolBars, told: Mapping[str, str] | None) -> dict[str, str]:
    """Where each series of a symbol is from: as whoever made it says, else the file, or what stands in for it."""
    if told is not None:
        return dict(told)
    mark = "file, last where it has none" if bars.mark_missing else "file"
    return {
        "last": "file",
        "mark": mark if bars.has_mark else "last",
        "index": "file" if "index_open" in bars.frame.columns else "none",
        "funding": "file" if bars.has_funding else "none",
    }


def describe_symbol(setting: Setting, bars: SymbolBars, told: Mapping[str, str] | None = None) -> None:
    """Note what is known and missing of a symbol and who says so (`told`), and thin its prices for pictures."""
    name, count = bars.symbol, bars.frame.height
    if not bars.has_mark:
        setting.notes.append(f"{name}: no mark price; mark = last on every bar")
    elif bars.mark_missing:
        setting.notes.append(
            f"{name}: mark = last on {bars.mark_missing:,} of {count:,} bars, which have no mark"
        )
    if not bars.has_funding:
        setting.notes.append(f"{name}: no funding events; none is charged")
    if not bars.has_volume:
        setting.notes.append(f"{name}: no volume; liquidations slip by the flat {setting.venue.slippage:g}")
    lost = int(bars.missing["bars"].sum())
    if lost:
        gaps = bars.missing.height
        setting.notes.append(
            f"{name}: {lost:,} bar{'s' * (lost != 1)} missing in {gaps:,} gap{'s' * (gaps != 1)}; positions live on across "
            + ("them" if gaps != 1 else "it")
        )
    if not setting.venue.has_symbol(name):
        setting.notes.append(
            f"{name}: venue {setting.venue.name} lists no tiers for it; its default tiers apply"
        )
    first, last = bars.frame["ts"][0], bars.frame["ts"][-1]
    setting.symbols[name] = {
        "bars": count,
        "first": first,
        "last": last,
        "bar_seconds": bars.bar_ms / 1000,
        "missing_bars": lost,
        "mark": "none" if not bars.has_mark else "partial" if bars.mark_missing else "full",
        "funding_events": bars.funding.height,
        "volume": bars.has_volume,
        "sources": sources_of(bars, told),
    }
    setting.prices.append(thinned(bars.frame, setting.shelf))
    apart = setting.budget is None and setting.threads != 1
    setting.digests.append((name, meanwhile(bars.digest, apart)))
    if isinstance(setting.open_interest, TurnoverInterest):
        setting.interest.append(turnover_interest(bars, setting.open_interest, setting.contract(name)))


def thinned(frame: pl.DataFrame, shelf: Shelf) -> pl.DataFrame:
    """Prices for pictures: some bars together as one, at most PRICE_POINTS of these."""
    step = max(1, -(-frame.height // PRICE_POINTS))
    size = max(step, (shelf.step or frame.height) // step * step)
    return pl.concat(
        frame.slice(first, last - first)
        .with_row_index("_bar")
        .group_by(pl.col("_bar") // step, maintain_order=True)
        .agg(
            pl.col("ts").first(),
            pl.col("symbol").first(),
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
        )
        .drop("_bar")
        for first, last in pieces(frame.height, size)
    )
