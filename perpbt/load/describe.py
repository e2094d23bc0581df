"""What is in the bars, symbol by symbol: extent, holes, coverage, and the hours worth looking at.

In: `Bars`. Out: `DataReport`, plain data, with a readable text (`render`) and a table of plain values
(`to_dict`). A symbol that breaks a rule is reported with its first error; the others are described all the
same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from perpbt.errors import InputError
from perpbt.load.bars import Bars, SymbolBars
from perpbt.load.columns import INDEX

HOUR_MS = 3_600_000
KEPT = 5  # gaps, moves and divergences kept a symbol


@dataclass(frozen=True)
class Gap:
    """`bars` bars are missing between the bars that open at `after` and `before`."""

    after: datetime
    before: datetime
    bars: int


@dataclass(frozen=True)
class Move:
    """Close against the close before: `change` is a fraction; `skipped` bars were missing in between."""

    ts: datetime
    change: float
    from_close: float
    to_close: float
    skipped: int


@dataclass(frozen=True)
class Divergence:
    """Last against mark at one point (low, high, close) of a bar: `difference` = last / mark - 1."""

    ts: datetime
    point: str
    last: float
    mark: float
    difference: float


@dataclass(frozen=True)
class Funding:
    """Funding events; `intervals` are (milliseconds between events, how often), commonest first; rates are
    fractions.
    """

    events: int
    first: datetime
    last: datetime
    intervals: tuple[tuple[int, int], ...]
    lowest: float
    mean: float
    highest: float


@dataclass(frozen=True)
class SymbolReport:
    """One symbol. Where `error` is set the counts are zero. Coverages count bars; `empty_rows` are rows
    without prices.
    """

    symbol: str
    error: str | None = None
    first: datetime | None = None
    last: datetime | None = None
    bar_ms: int = 0
    bars: int = 0
    empty_rows: int = 0
    missing_bars: int = 0
    gap_count: int = 0
    mark_bars: int = 0
    index_bars: int = 0
    volume_bars: int = 0
    funding: Funding | None = None
    gaps: tuple[Gap, ...] = ()
    moves: tuple[Move, ...] = ()
    divergences: tuple[Divergence, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataReport:
    """All symbols of `source`; `ok` if none breaks a rule."""

    source: str
    symbols: tuple[SymbolReport, ...]

    @property
    def errors(self) -> dict[str, str]:
        """The first error of every symbol that has one."""
        return {report.symbol: report.error for report in self.symbols if report.error is not None}

    @property
    def ok(self) -> bool:
        return not self.errors

    def render(self, width: int = 100) -> str:
        """The report as text; prose is wrapped at `width` characters, tables take what they need (at most
        100).
        """
        from perpbt.load.render import render

        return render(self, width)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; times as ISO 8601 text."""
        plain: dict[str, Any] = _plain(asdict(self))
        return {**plain, "ok": self.ok}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def describe(bars: Bars) -> DataReport:
    """Read every symbol once and report on it."""
    return DataReport(bars.source, tuple(_symbol_report(bars, symbol) for symbol in bars.symbols))


def _symbol_report(bars: Bars, symbol: str) -> SymbolReport:
    try:
        data = bars.collect(symbol)
    except InputError as error:
        return SymbolReport(symbol, error=str(error))
    frame = data.frame
    funding = _funding(data.funding)
    return SymbolReport(
        symbol=symbol,
        first=frame["ts"][0],
        last=frame["ts"][-1],
        bar_ms=data.bar_ms,
        bars=frame.height,
        empty_rows=data.empty_rows,
        missing_bars=int(data.missing["bars"].sum()),
        gap_count=data.missing.height,
        mark_bars=frame.height - data.mark_missing,
        index_bars=_known(frame, INDEX[0]),
        volume_bars=_known(frame, "volume"),
        funding=funding,
        gaps=tuple(Gap(*row) for row in _largest(data.missing, pl.col("bars")).iter_rows()),
        moves=_moves(frame, data.bar_ms),
        divergences=_divergences(frame),
        warnings=tuple(_warnings(data, funding)),
    )


def _known(frame: pl.DataFrame, column: str) -> int:
    return frame.height - frame[column].null_count() if column in frame.columns else 0


def _largest(table: pl.DataFrame, size: pl.Expr) -> pl.DataFrame:
    """The `KEPT` largest rows, largest first; of equals the earlier, so that the report never changes."""
    return table.sort(size, descending=True, maintain_order=True).head(KEPT)


def _moves(frame: pl.DataFrame, bar_ms: int) -> tuple[Move, ...]:
    close, before = pl.col("close"), pl.col("close").shift(1)
    spacing = pl.col("ts").diff().dt.total_milliseconds()
    changes = frame.select(
        "ts",
        change=close / before - 1.0,
        from_close=before,
        to_close=close,
        skipped=(spacing // max(bar_ms, 1) - 1).clip(0),
    )
    return tuple(Move(*row) for row in _largest(changes.slice(1), pl.col("change").abs()).iter_rows())


def _divergences(frame: pl.DataFrame) -> tuple[Divergence, ...]:
    points = [
        frame.select(
            "ts",
            point=pl.lit(point),
            last=point,
            mark=f"mark_{point}",
            difference=pl.col(point) / pl.col(f"mark_{point}") - 1.0,
        )
        for point in ("low", "high", "close")
    ]
    # Bars without a mark of their own carry mark = last and drop out here.
    apart = pl.concat(
        _largest(table.filter(pl.col("difference") != 0), pl.col("difference").abs()) for table in points
    )
    # A bar once, at its furthest point; one of the furthest bars is among the furthest at that point.
    bars = apart.sort(pl.col("difference").abs(), descending=True, maintain_order=True).unique(
        "ts", keep="first", maintain_order=True
    )
    return tuple(Divergence(*row) for row in bars.head(KEPT).iter_rows())


def _funding(events: pl.DataFrame) -> Funding | None:
    if events.is_empty():
        return None
    ts, rate = events["ts"], events["funding_rate"].to_list()
    spacing = ts.diff().dt.total_milliseconds().drop_nulls().alias("ms")
    counted = spacing.value_counts(name="n").sort("n", "ms", descending=[True, False])
    return Funding(
        events=len(rate),
        first=ts[0],
        last=ts[-1],
        intervals=tuple((int(ms), int(n)) for ms, n in counted.iter_rows()),
        lowest=min(rate),
        mean=sum(rate) / len(rate),
        highest=max(rate),
    )


def _warnings(data: SymbolBars, funding: Funding | None) -> Iterator[str]:
    frame, bars = data.frame, data.frame.height
    if bars == 1:
        yield "a single bar: nothing can be held over it"
    if not data.has_mark:
        yield "no mark price: mark = last, so liquidations look at last"
    elif data.mark_missing:
        yield f"mark missing on {data.mark_missing:,} of {bars:,} bars, where mark = last"
    volume = _known(frame, "volume")
    if volume < bars:
        told = f"missing on {bars - volume:,} of {bars:,} bars" if volume else "none"
        yield f"volume {told}: flat slippage for liquidations there"
    irregular = _irregular(frame["ts"], data.bar_ms)
    if irregular:
        steps = f"{irregular:,} of {bars - 1:,} steps between bars"
        yield f"{steps} are no multiple of the commonest, {duration(data.bar_ms)}"
    yield from _funding_warnings(data, funding)


def _irregular(ts: pl.Series, bar_ms: int) -> int:
    return int((ts.diff().dt.total_milliseconds() % bar_ms != 0).sum()) if bar_ms else 0


def _funding_warnings(data: SymbolBars, funding: Funding | None) -> Iterator[str]:
    if funding is None:
        yield "no funding events: positions pay and receive none"
        return
    frame = data.frame
    first, last = frame["ts"][0], frame["ts"][-1]
    on_bars = frame["funding_rate"].count()
    if 0 < data.bar_ms < HOUR_MS and on_bars >= 0.9 * frame.height:
        yield (
            f"a funding event on {on_bars:,} of {frame.height:,} bars of {duration(data.bar_ms)}: every one "
            "will be charged. If the column repeats a rate between settlements, keep it on settlements only"
        )
    rates = data.funding["funding_rate"].abs()
    if float(rates.sort()[len(rates) // 2]) > 0.003:
        yield "half of all funding rates are above 0.3 % in size: are they per cent rather than fractions?"
    for late, told in (
        (funding.first - first, "starts {} after the first bar"),
        (last - funding.last, "ends {} before the last"),
    ):
        if late > timedelta(days=1):
            yield "funding " + told.format(duration(round(late.total_seconds() * 1000)))


def duration(milliseconds: int) -> str:
    """A length of time in its largest units: `1m`, `8h`, `1d 3h`."""
    told: list[str] = []
    left = milliseconds
    for unit, size in (("d", 86_400_000), ("h", HOUR_MS), ("m", 60_000), ("s", 1_000), ("ms", 1)):
        count, left = divmod(left, size)
        if count:
            told.append(f"{count:,}{unit}")
    return " ".join(told[:2]) or "0"
