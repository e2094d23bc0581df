"""Which column is which: names and aliases, times, numbers.

In: the schema of a file or frame as found. Out: polars expressions that turn it into canonical columns (`ts`
in milliseconds UTC, `symbol` as text, everything else Float64) and predicates on the raw columns, so that
polars can skip row groups that are not asked for. Nothing is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime

import polars as pl

from perpbt.errors import InputError

PRICES = ("open", "high", "low", "close")
MARK = tuple(f"mark_{name}" for name in PRICES)
INDEX = tuple(f"index_{name}" for name in PRICES)
BAR_COLUMNS = ("ts", "symbol", *PRICES, "volume", *MARK, *INDEX, "funding_rate")
BAR_REQUIRED = ("ts", *PRICES)
FUNDING_COLUMNS = ("ts", "symbol", "funding_rate")
FUNDING_REQUIRED = ("ts", "funding_rate")
TIME = pl.Datetime("ms", "UTC")

# Compared without case, spaces, hyphens and underscores: "Open time", "openTime" and "open_time" are one
# name.
BAR_ALIASES: Mapping[str, tuple[str, ...]] = {
    "ts": ("timestamp", "open_time", "date", "datetime", "time"),
    "symbol": ("ticker", "instrument", "pair", "coin"),
    "funding_rate": ("last_funding_rate",),
}
FUNDING_ALIASES: Mapping[str, tuple[str, ...]] = {
    **BAR_ALIASES,
    "ts": (*BAR_ALIASES["ts"], "calc_time", "funding_time"),
    "funding_rate": (*BAR_ALIASES["funding_rate"], "rate"),
}

# An integer time is told by its size: between these two dates the four units cannot be mistaken for one
# another.
EPOCH_FROM = datetime(2000, 1, 1, tzinfo=UTC)
EPOCH_TO = datetime(2100, 1, 1, tzinfo=UTC)
_TICKS_PER_SECOND = (1, 1_000, 1_000_000, 1_000_000_000)
TIMES_ALLOWED = (
    "a datetime (without zone: UTC), a date, ISO 8601 text, or an integer epoch in s, ms, us or ns "
    f"from {EPOCH_FROM:%Y} to {EPOCH_TO:%Y}"
)
_TEXT_FORMATS = ("%+", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]+", "", name).lower()


def resolve(
    found: Iterable[str],
    wanted: Sequence[str],
    required: Sequence[str],
    aliases: Mapping[str, Sequence[str]],
    where: str,
) -> dict[str, str]:
    """Map canonical names to the names found. The exact canonical name wins; two other spellings of one
    column clash.
    """
    names = list(found)
    columns: dict[str, str] = {}
    for canonical in wanted:
        accepted = {_plain(spelling) for spelling in (canonical, *aliases.get(canonical, ()))}
        spellings = [name for name in names if _plain(name) in accepted]
        if canonical in spellings:
            columns[canonical] = canonical
        elif len(spellings) > 1:
            raise InputError(
                f"{where}: columns {', '.join(map(repr, spellings))} could each be {canonical!r}; "
                f"allowed: one of them, or a column named exactly {canonical!r}"
            )
        elif spellings:
            columns[canonical] = spellings[0]
    absent = [name for name in required if name not in columns]
    if absent:
        accepted_names = "; ".join(
            f"{name!r} may also be called {', '.join(aliases[name])}" for name in absent if name in aliases
        )
        raise InputError(
            f"{where}: required column{'s' * (len(absent) > 1)} {', '.join(map(repr, absent))} missing; "
            f"found: {', '.join(names) or 'no columns'}; names are matched without case"
            + (f"; {accepted_names}" if accepted_names else "")
        )
    for group in (MARK, INDEX):
        present = [name for name in group if name in columns]
        if present and len(present) < len(group):
            lacking = ", ".join(repr(name) for name in group if name not in columns)
            raise InputError(
                f"{where}: column{'s' * (len(group) - len(present) > 1)} {lacking} missing beside "
                f"{', '.join(map(repr, present))}; allowed: all four or none"
            )
    return columns


def time_expression(name: str, dtype: pl.DataType, where: str) -> pl.Expr:
    """The column as `ts`; null where a text or an integer is not a time."""
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is None:
            return column.dt.replace_time_zone("UTC").cast(TIME)
        return column.dt.convert_time_zone("UTC").cast(TIME)
    if dtype == pl.Date:
        return column.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    if dtype.is_integer():
        return _epoch(column.cast(pl.Int64))
    if dtype == pl.String:
        text = column.str.strip_chars()
        spaced = text.str.replace("T", " ", literal=True)
        parsed = (
            spaced.str.to_datetime(form, time_unit="ms", time_zone="UTC", strict=False)
            for form in _TEXT_FORMATS
        )
        return pl.coalesce(*parsed, _epoch(text.cast(pl.Int64, strict=False)))
    raise InputError(f"{where}: column {name!r} has type {dtype}; allowed: {TIMES_ALLOWED}")


def _epoch(column: pl.Expr) -> pl.Expr:
    milliseconds = (
        pl.when(column < 10**11)
        .then(column * 1_000)
        .when(column < 10**14)
        .then(column)
        .when(column < 10**17)
        .then(column // 1_000)
        .otherwise(column // 1_000_000)
    )
    sane = (milliseconds >= to_ms(EPOCH_FROM)) & (milliseconds < to_ms(EPOCH_TO))
    return pl.when(sane).then(milliseconds).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def within(
    name: str, dtype: pl.DataType, start: datetime | None, end: datetime | None, where: str
) -> pl.Expr:
    """`start <= time < end` said of the raw column where its type allows, which lets polars skip row groups.

    A time that cannot be read is kept, so that the checks see it instead of losing the row.
    """
    if dtype.is_integer():
        column = pl.col(name) if dtype == pl.Int64 else pl.col(name).cast(pl.Int64)
        low = to_ms(max(start or EPOCH_FROM, EPOCH_FROM))
        high = to_ms(min(end or EPOCH_TO, EPOCH_TO))
        bands = [
            (column >= -(-low * ticks // 1_000)) & (column < -(-high * ticks // 1_000))
            for ticks in _TICKS_PER_SECOND
        ]
        return pl.any_horizontal(column.is_null(), *bands)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone in (None, "UTC"):
        column, zone = pl.col(name), dtype.time_zone
        bounds = [None if t is None else t if zone else t.replace(tzinfo=None) for t in (start, end)]
        literals = [None if t is None else pl.lit(t, dtype=dtype) for t in bounds]
    else:
        column = time_expression(name, dtype, where)
        literals = [None if t is None else pl.lit(t, dtype=TIME) for t in (start, end)]
    inside = pl.lit(True)
    if literals[0] is not None:
        inside = inside & (column >= literals[0])
    if literals[1] is not None:
        inside = inside & (column < literals[1])
    return column.is_null() | inside


def number_expression(name: str, dtype: pl.DataType, where: str, *, text: bool) -> pl.Expr:
    """The column as Float64; text only where the file format has nothing else (`text`)."""
    if dtype == pl.Float64:
        return pl.col(name)
    if dtype.is_numeric() or dtype == pl.Null:
        return pl.col(name).cast(pl.Float64)
    if text and dtype == pl.String:
        return pl.col(name).str.strip_chars().cast(pl.Float64)
    raise InputError(f"{where}: column {name!r} has type {dtype}; allowed: integer, float or decimal")


def symbol_expression(name: str, dtype: pl.DataType, where: str) -> pl.Expr:
    """The column as text; `InputError` names a column of another type."""
    if dtype == pl.String:
        return pl.col(name)
    if isinstance(dtype, (pl.Categorical, pl.Enum)):
        return pl.col(name).cast(pl.String)
    raise InputError(f"{where}: column {name!r} has type {dtype}; allowed: text or categories")


def parse_time(value: str | date | datetime | None, name: str) -> datetime | None:
    """A bound of the period as an aware UTC datetime; a naive one is UTC, a date its midnight."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise InputError(
                f"{name} = {value!r} is not a time; allowed: ISO 8601, such as 2021-05-19 or 2021-05-19T13:00"
            ) from None
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise InputError(
        f"{name} = {value!r} is of type {type(value).__name__}; allowed: ISO text, date or datetime"
    )


def to_ms(time: datetime) -> int:
    """Milliseconds since 1970, exact (a float timestamp would not be)."""
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000


def stamp(time: datetime | None) -> str:
    """A time as people read it; seconds only where there are any."""
    if time is None:
        return "null"
    form = "%Y-%m-%d %H:%M" if not (time.second or time.microsecond) else "%Y-%m-%d %H:%M:%S"
    fraction = f".{time.microsecond // 1000:03d}" if time.microsecond else ""
    return time.strftime(form) + fraction
