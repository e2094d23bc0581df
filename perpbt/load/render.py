"""The data report as text for a terminal or a log.

In: a `DataReport`. Out: one string, the same for the same data; no colours, no control characters.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from perpbt.load.columns import stamp
from perpbt.load.describe import KEPT, duration

if TYPE_CHECKING:
    from perpbt.load.describe import DataReport, Divergence, Funding, Gap, Move, SymbolReport

LISTED = 15  # rows in each table of largest things, over all symbols

Item = TypeVar("Item")


def render(report: DataReport, width: int) -> str:
    """The whole report, at most `width` characters wide where text can be wrapped."""
    good = [symbol for symbol in report.symbols if symbol.error is None]
    blocks = [_head(report, good, width), _errors(report, width)]
    if good:
        blocks += [
            _bars(good),
            _coverage(good),
            _funding(good),
            _largest(
                "Largest gaps",
                ("symbol", "bars missing", "from the bar at", "to the bar at"),
                "lrll",
                good,
                lambda symbol: symbol.gaps,
                lambda gap: gap.bars,
                _gap_row,
            ),
            _largest(
                "Largest moves, close to close",
                ("symbol", "bar", "change", "from", "to", ""),
                "llrrrl",
                good,
                lambda symbol: symbol.moves,
                lambda move: abs(move.change),
                _move_row,
            ),
            _largest(
                "Last furthest from mark",
                ("symbol", "bar", "at its", "last", "mark", "last vs mark"),
                "lllrrr",
                good,
                lambda symbol: symbol.divergences,
                lambda divergence: abs(divergence.difference),
                _divergence_row,
            ),
            _warnings(good, width),
        ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _head(report: DataReport, good: Sequence[SymbolReport], width: int) -> str:
    names = ", ".join(symbol.symbol for symbol in report.symbols[:12])
    more = f" and {len(report.symbols) - 12:,} more" if len(report.symbols) > 12 else ""
    told = [("Data", report.source), ("Symbols", f"{len(report.symbols)}: {names}{more}")]
    if good:
        first = min(symbol.first for symbol in good if symbol.first)
        last = max(symbol.last for symbol in good if symbol.last)
        sizes = ", ".join(duration(ms) for ms in sorted({symbol.bar_ms for symbol in good}))
        told.append(("Period", f"{stamp(first)} to {stamp(last)} UTC (opens of the first and last bar)"))
        told.append(("Bars", f"{sum(symbol.bars for symbol in good):,} of {sizes}"))
    verdict = "all checks passed"
    if report.errors:
        verdict = f"{len(report.errors)} of {len(report.symbols)} symbols cannot be used (see Errors)"
    warned = len(_grouped(good))
    told.append(("Checks", verdict + (f", {warned} warning{'s' * (warned > 1)}" if warned else "")))
    return "\n".join(_wrapped(f"{label:<9}", text, width) for label, text in told)


def _errors(report: DataReport, width: int) -> str:
    if report.ok:
        return ""
    told = [
        _wrapped("  ", f"{symbol}: {error.removeprefix(report.source + ': ')}", width)
        for symbol, error in report.errors.items()
    ]
    return "\n".join(["Errors (the first of each symbol)", *told])


def _bars(good: Sequence[SymbolReport]) -> str:
    rows = [
        (
            symbol.symbol,
            stamp(symbol.first),
            stamp(symbol.last),
            duration(symbol.bar_ms),
            f"{symbol.bars:,}",
            f"{symbol.missing_bars:,}",
            f"{symbol.gap_count:,}",
            f"{symbol.empty_rows:,}",
        )
        for symbol in good
    ]
    header = ("symbol", "first bar", "last bar", "size", "bars", "missing", "gaps", "empty rows")
    return text_table("Bars", header, "lllrrrrr", rows)


def _coverage(good: Sequence[SymbolReport]) -> str:
    rows = [
        (
            symbol.symbol,
            *(_share(n, symbol.bars) for n in (symbol.mark_bars, symbol.index_bars, symbol.volume_bars)),
        )
        for symbol in good
    ]
    return text_table("Coverage, share of bars", ("symbol", "mark", "index", "volume"), "lrrr", rows)


def _share(count: int, bars: int) -> str:
    # Never round a hole away: 100 % is said only of all, none only of none.
    if count in (0, bars):
        return "all" if count else "none"
    return f"{min(max(100 * count / bars, 0.01), 99.99):.2f} %"


def _funding(good: Sequence[SymbolReport]) -> str:
    rows = []
    for symbol in good:
        funding = symbol.funding
        if funding is not None:
            rates = (f"{100 * rate:+.4f}" for rate in (funding.lowest, funding.mean, funding.highest))
            cells = (
                f"{funding.events:,}",
                stamp(funding.first),
                stamp(funding.last),
                *rates,
                _intervals(funding),
            )
            rows.append((symbol.symbol, *cells))
    header = ("symbol", "events", "first", "last", "min %", "mean %", "max %", "every")
    return text_table("Funding", header, "lrllrrrl", rows) if rows else ""


def _intervals(funding: Funding) -> str:
    """`8h ×4,324, 16h ×1`; the rarest are only counted."""
    told = [f"{duration(ms)} ×{count:,}" for ms, count in funding.intervals[:3]]
    other = sum(count for _, count in funding.intervals[3:])
    return ", ".join([*told, f"other ×{other:,}"] if other else told)


def _largest(
    title: str,
    header: Sequence[str],
    alignment: str,
    good: Sequence[SymbolReport],
    items: Callable[[SymbolReport], Sequence[Item]],
    size: Callable[[Item], float],
    row: Callable[[Item], tuple[str, ...]],
) -> str:
    """The largest things of each symbol; with many symbols, the largest of all."""
    each = max(1, min(KEPT, LISTED // len(good)))
    picked = [(symbol.symbol, item) for symbol in good for item in items(symbol)[:each]]
    if len(picked) > LISTED:
        picked = sorted(picked, key=lambda pair: -size(pair[1]))[:LISTED]
    return (
        text_table(title, header, alignment, [(name, *row(item)) for name, item in picked]) if picked else ""
    )


def _gap_row(gap: Gap) -> tuple[str, ...]:
    return f"{gap.bars:,}", stamp(gap.after), stamp(gap.before)


def _move_row(move: Move) -> tuple[str, ...]:
    note = f"after {move.skipped:,} missing bars" if move.skipped else ""
    return stamp(move.ts), f"{100 * move.change:+.2f} %", _price(move.from_close), _price(move.to_close), note


def _divergence_row(item: Divergence) -> tuple[str, ...]:
    return stamp(item.ts), item.point, _price(item.last), _price(item.mark), f"{100 * item.difference:+.2f} %"


def _price(value: float) -> str:
    return f"{value:,.8g}"


def _grouped(good: Iterable[SymbolReport]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for symbol in good:
        for warning in symbol.warnings:
            grouped.setdefault(warning, []).append(symbol.symbol)
    return grouped


def _warnings(good: Sequence[SymbolReport], width: int) -> str:
    told = [
        _wrapped("  ", f"{'all' if len(names) == len(good) > 1 else ', '.join(names)}: {warning}", width)
        for warning, names in _grouped(good).items()
    ]
    return "\n".join(["Warnings", *told]) if told else ""


def _wrapped(label: str, text: str, width: int) -> str:
    indent = " " * len(label) + ("  " if not label.strip() else "")
    return textwrap.fill(
        text,
        max(width, 40),
        initial_indent=label,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def text_table(title: str, header: Sequence[str], alignment: str, rows: Sequence[Sequence[str]]) -> str:
    """A titled table in columns as wide as their widest cell; `alignment` has an `l` or `r` a column."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(size) if side == "r" else cell.ljust(size)
            for cell, size, side in zip(row, widths, alignment, strict=True)
        ).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join([title, *(f"  {line}" for line in lines)])
