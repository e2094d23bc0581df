"""Numbers and names as a reader wants them: percentages, money, durations, dates, lists."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime, timedelta

MISSING = "–"
CURRENCY: ContextVar[str] = ContextVar("currency", default="quote currency")
"""What the money of the page that is being written is in."""
_STEPS = ((1e12, " T"), (1e9, " bn"), (1e6, " M"), (1e3, " k"))
REASON_NAMES = {
    "liquidation": "liquidation",
    "stop_loss": "stop loss",
    "trailing_stop": "trailing stop",
    "take_profit": "take profit",
    "adl": "auto-deleveraged",
    "signal": "signal",
    "time": "time exit",
    "end": "end of data",
    "rejected": "rejected",
}


def count(value: float | None) -> str:
    """1234567 → 1,234,567."""
    return MISSING if value is None else f"{value:,.0f}"


def share(value: float | None) -> str:
    """A fraction as a percentage in about three digits: 0.1234 → 12.3 %, 0.00012 → 0.012 %, 1 → 100 %."""
    if value is None or not math.isfinite(value):
        return MISSING
    percent = 100.0 * value
    size = abs(percent)
    if size in (0.0, 100.0) or size >= 1000:
        text = f"{percent:,.0f}"
    elif size >= 10:
        text = f"{percent:.1f}"
    elif size >= 0.1:
        text = f"{percent:.2f}"
    else:
        text = f"{percent:.2g}" if size >= 1e-4 else "≈ 0"
    return _minus(text) + " %"


def money(value: float | None) -> str:
    """An amount of quote currency in three digits: 1234567 → 1.23 M, -340 → −340, exact 0 → 0."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    for step, name in _STEPS:
        if size >= 0.9995 * step:
            return _minus(f"{_digits(value / step)}{name}")
    return _minus(_digits(value) if size >= 0.005 or size == 0 else f"{value:.2g}")


def _digits(value: float) -> str:
    size = abs(value)
    if value == 0:
        return "0"
    return f"{value:.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def _minus(text: str) -> str:
    return text.replace("-", "−") if "e" not in text else text


def axis_share(value: float) -> str:
    """A fraction as a round percentage, for axes: 0.1 → 10 %."""
    return _minus(f"{100.0 * value:,.10f}".rstrip("0").rstrip(".")) + " %"


def axis_money(value: float) -> str:
    """A round amount, for axes: 10000000 → 10 M."""
    size = abs(value)
    step, name = next(((step, name) for step, name in _STEPS if size >= step), (1.0, ""))
    return _minus(f"{value / step:.10g}") + name


def duration(value: timedelta | None) -> str:
    """The two largest units: 3 d 4 h, 12 min."""
    if value is None:
        return MISSING
    seconds = round(value.total_seconds())
    parts = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        whole, seconds = divmod(seconds, size)
        if whole:
            parts.append(f"{whole:,} {unit}")
    return " ".join(parts[:2]) or "0 s"


def moment(value: datetime | None) -> str:
    """A time in UTC to the minute; the midnight of a day is the day."""
    if value is None:
        return MISSING
    day = f"{value.day} {value:%b %Y}"
    return day if (value.hour, value.minute) == (0, 0) else f"{day} {value:%H:%M}"


def listing(items: Iterable[object], limit: int = 8) -> str:
    """a, b and c; beyond `limit`: a, b, c and 4 more."""
    words = [str(item) for item in items]
    if len(words) > limit:
        words = [*words[:limit], f"{len(words) - limit} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"


def alternatives(items: Iterable[str]) -> str:
    """a or b; a, b or c."""
    found = list(items)
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"


def plural(number: int, noun: str) -> str:
    """1 position, 2 positions."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def label(value: object) -> str:
    """A group value as an axis label: 10.0 → 10, None → none."""
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def plain(value: object) -> str:
    """Any JSON-like value on one line."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: MISSING}[value]
    if isinstance(value, float):
        return (
            f"{value:,.0f}"
            if value.is_integer()
            else f"{value:,.2f}"
            if abs(value) >= 1e4
            else f"{value:.6g}"
        )
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return (
            "; ".join(f"{str(key).replace('_', ' ')}: {plain(item)}" for key, item in value.items())
            or MISSING
        )
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or MISSING
    return str(value)
