"""Bad prices are told by file, row, column and value; good ones are described."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bars import START, made_bars, two_symbols, with_value

from perpbt.errors import InputError
from perpbt.load import describe, load_bars

REAL = Path(os.environ.get("PERPBT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
NAN, INF = float("nan"), float("inf")


# column, row, values put into that row, what is told of it
BAD_VALUES: list[tuple[str, int, dict[str, object], str]] = [
    ("close", 7, {"close": NAN}, r"\(AAA, 2024-01-01 00:07 UTC\): close = nan is not finite"),
    ("mark_high", 7, {"mark_high": INF}, "mark_high = inf is not finite; allowed: finite and > 0"),
    ("low", 3, {"low": 0.0}, r"low = 0\.0 is not positive; allowed: finite and > 0"),
    ("mark_open", 3, {"mark_open": -1.0}, r"mark_open = -1\.0 is not positive"),
    ("low", 9, {"low": 1e6, "high": 2e6}, r"low = 1000000\.0, open = .*low <= min\(open, close\)"),
    ("high", 9, {"high": 1.0}, r"high = 1\.0, open = .*high >= max\(open, close\)"),
    ("mark_low", 9, {"mark_low": 1e6}, r"mark_low <= min\(mark_open, mark_close\)"),
    ("high", 5, {"high": None}, "high = null, .*all four or none"),
    ("mark_close", 5, {"mark_close": None}, "mark_close is null beside prices"),
    ("volume", 5, {"volume": -2.0}, r"volume = -2\.0 is negative; allowed: finite and >= 0"),
    ("volume", 5, {"volume": INF}, "volume = inf is not finite"),
    ("funding_rate", 5, {"funding_rate": 1.0}, r"funding_rate = 1\.0 is not a rate"),
    ("funding_rate", 5, {"funding_rate": NAN}, "= nan is not a rate; allowed: finite, between -1 and 1"),
    ("ts", 5, {"ts": None}, r"\(AAA\): ts = None is not a time; allowed: a datetime"),
    ("ts", 5, {"ts": START + timedelta(minutes=4)}, "ts = 2024-01-01 00:04 repeats the row before"),
    ("ts", 5, {"ts": START}, "ts = 2024-01-01 00:00 is earlier than 2024-01-01 00:04, the row before"),
]


@pytest.mark.parametrize(("column", "row", "values", "told"), BAD_VALUES)
def test_bad_values(column: str, row: int, values: dict[str, object], told: str, tmp_path: Path) -> None:
    frame = with_value(made_bars(mark=True, funding=True), row, **values)
    told = f"row {row}, column '{column}' .*{told}"
    with pytest.raises(InputError, match=f"^the DataFrame given: {told}"):
        load_bars(frame).collect("AAA")
    frame.write_parquet(tmp_path / "bad.parquet", row_group_size=4)
    with pytest.raises(InputError, match=rf"bad\.parquet: {told}"):
        load_bars(tmp_path / "bad.parquet").collect("AAA")


FACTORS = {"open": -1.0, "low": 2.0, "high": 0.5, "mark_close": INF, "index_open": NAN, "volume": -1.0}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 59), st.sampled_from(sorted(FACTORS)), st.integers(1, 70), st.booleans())
def test_the_row_told_is_the_row_in_its_file(row: int, column: str, cut: int, late: bool) -> None:
    """Whatever the mix of symbols and the period, file and row are those of the input."""
    names = ("open", "high", "low", "close")
    frame = two_symbols(mark=True).with_columns(pl.col(f"mark_{n}").alias(f"index_{n}") for n in names)
    here = (pl.col("ts") == START + timedelta(minutes=row)) & (pl.col("symbol") == "AAA")
    bad = pl.when(here).then(pl.col(column) * FACTORS[column]).otherwise(pl.col(column))
    mixed = frame.with_columns(bad.alias(column)).sort("ts", maintain_order=True)
    position = int(mixed.select(here.arg_true()).item())
    start = START + timedelta(minutes=row) if late else None
    cut_up = pl.concat([part.lazy() for part in mixed.iter_slices(cut)])
    for source in (mixed, cut_up):
        with pytest.raises(InputError, match=rf"Frame given: row {position}, column '{column}'"):
            load_bars(source, start=start).collect("AAA")
    assert load_bars(mixed).collect("BBB").frame.height == 60


def test_row_and_file_among_many(tmp_path: Path) -> None:
    frame = with_value(made_bars(), 33, close=NAN)
    for number, part in enumerate(frame.iter_slices(20)):
        part.write_parquet(tmp_path / f"{number}.parquet")
    with pytest.raises(InputError, match=r"1\.parquet: row 13, column 'close'"):
        load_bars(tmp_path).collect("AAA")
    made_bars(5).write_parquet(tmp_path / "3.parquet")  # overlaps the first file
    with pytest.raises(InputError, match=r"3\.parquet: row 0, column 'ts' .*earlier than 2024-01-01 00:59"):
        load_bars(made_bars_only(tmp_path)).collect("AAA")


def made_bars_only(folder: Path) -> Path:
    """Mend the broken part so that only the overlap is wrong."""
    made_bars().slice(20, 20).write_parquet(folder / "1.parquet")
    return folder


def csv(folder: Path, text: str) -> Path:
    path = folder / "bars.csv"
    path.write_text("date,open,high,low,close\n2024-01-01,1,2,1,2\n" + text)
    return path


def cast(column: str, value: pl.Expr) -> Callable[[Path], pl.DataFrame]:
    return lambda _: made_bars(1).with_columns(value.alias(column))


OPEN_TEXT = pl.col("open").cast(pl.String)
BAD_SOURCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda d: d / "none.parquet", r"none\.parquet: no such file or folder"),
    "empty folder": (lambda d: d, r"folder holds no data; allowed: files ending in \.parquet"),
    "no match": (lambda d: f"{d}/*.parquet", r"\*\.parquet: the pattern matches no file"),
    "not Parquet": (lambda d: csv(d, "").rename(d / "x.parquet"), r"x\.parquet: cannot be read: .*Parquet"),
    "no such thing": (lambda d: 7, "source is of type int; allowed: a path"),
    "no time": (lambda d: made_bars().drop("high", "ts"), "columns 'ts', 'high' missing; found: symbol, "),
    "half a mark": (
        lambda d: made_bars(mark=True).drop("mark_low"),
        "column 'mark_low' missing beside 'mark_open'.*all four or none",
    ),
    "price as text": (cast("open", OPEN_TEXT), "column 'open' has type String; allowed: integer"),
    "time as fraction": (cast("ts", pl.lit(1.5)), "column 'ts' has type Float64; allowed: a datetime"),
    "symbol as number": (cast("symbol", pl.lit(1)), "column 'symbol' has type Int32; allowed: text"),
    "no symbol": (lambda d: with_value(made_bars(), 4, symbol=None), "row 4, column 'symbol': null"),
    "empty": (lambda d: made_bars().clear(), "no bars: no row has prices"),
    "no number in CSV": (lambda d: csv(d, "2024-01-02,1,2,oops,2\n"), r"\.csv: row 1, column 'low': 'oops'"),
    "no time in CSV": (
        lambda d: csv(d, "1/2/2024,1,2,1,2\n"),
        r"row 1, column 'ts' .*ts = '1/2/2024' is not",
    ),
    "ragged CSV": (lambda d: csv(d, "2024-01-02,1,2,1,2,9,9\n"), r"bars\.csv: cannot be read"),
    "compact date": (cast("ts", pl.lit(20240101)), "row 0, .*ts = 20240101 is not a time.*from 2000 to 2100"),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_bad_sources(case: str, tmp_path: Path) -> None:
    make, told = BAD_SOURCES[case]
    source = make(tmp_path)
    only = ["AAA"] if "CSV" in case else None
    with pytest.raises(InputError, match=told):
        load_bars(source, symbols=only).collect("AAA")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"symbols": ["AAA", "XXX"]}, "unknown symbol XXX; available: AAA, BBB"),
        ({"symbols": []}, r"symbols = \[\]; allowed: one or more names"),
        (
            {"start": "2025-01-01"},
            "no bars from 2025-01-01 00:00 to the end .*AAA has bars from 2024",
        ),
        (
            {"symbols": ["BBB"], "end": "2020-01-01"},
            "no bars from the beginning to 2020-01-01 00:00 .*: BBB has",
        ),
        (
            {"start": "2024-01-02", "end": "2024-01-02"},
            "start 2024-01-02 00:00 is not before end 2024",
        ),
        ({"start": "last week"}, "start = 'last week' is not a time; allowed: ISO 8601"),
        ({"end": 3}, "end = 3 is of type int; allowed: ISO text"),
    ],
)
def test_bad_requests(request_: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_bars(two_symbols(), **request_)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="symbol 'XXX' is not loaded; allowed: AAA, BBB"):
        load_bars(two_symbols()).collect("XXX")


def test_bad_funding() -> None:
    events = pl.DataFrame({"ts": [START, START + timedelta(hours=8)], "funding_rate": [0.0001, 0.0002]})
    late = events.with_columns(ts=pl.col("ts").first() + pl.Series([0, 4_999]).cast(pl.Duration("ms")))
    cases = (
        (
            late,
            r"row 1, column 'ts' .*stamp = 2024-01-01 00:00:04\.999 is the same funding event",
        ),
        (events.reverse(), "row 1, column 'ts' .*is earlier than 2024-01-01 08:00"),
        (
            with_value(events, 1, funding_rate=None),
            "row 1, column 'funding_rate' .* is null; allowed: a rate",
        ),
        (with_value(events, 0, funding_rate=-1.0), "row 0, column 'funding_rate' .*= -1.0 is not a rate"),
        (
            events.drop("funding_rate"),
            "column 'funding_rate' missing; found: ts; .*last_funding_rate",
        ),
    )
    for funding, told in cases:
        with pytest.raises(InputError, match=told):
            load_bars(made_bars(), funding=funding).collect("AAA")
    seconds = made_bars().with_columns(
        ts=START + pl.int_range(pl.len()) * timedelta(seconds=1), funding_rate=0.0
    )
    with pytest.raises(InputError, match=r"row 1, column 'ts' .*stamp = 2024-01-01 00:00:01 is the same"):
        load_bars(seconds).collect("AAA")


# -- the report


def test_report_on_good_and_bad_symbols() -> None:
    frame = two_symbols(mark=True, funding=True)
    frame = with_value(frame, 70, close=NAN).filter(~pl.int_range(pl.len()).is_in([20, 21]))
    frame = with_value(frame, 30, low=50.0)
    report = describe(load_bars(frame))
    assert not report.ok
    assert list(report.errors) == ["BBB"]
    good = report.symbols[0]
    assert (good.bars, good.missing_bars, good.gap_count, good.mark_bars, good.index_bars) == (
        58,
        2,
        1,
        58,
        0,
    )
    assert [(gap.after.minute, gap.before.minute, gap.bars) for gap in good.gaps] == [(19, 22, 2)]
    furthest = good.divergences[0]
    assert (furthest.ts, furthest.point, furthest.last) == (START + timedelta(minutes=32), "low", 50.0)
    assert furthest.difference == 50.0 / furthest.mark - 1.0
    closes = frame["close"].to_list()[:58]
    changes = [later / earlier - 1.0 for earlier, later in pairwise(closes)]
    assert good.moves[0].change == max(changes, key=abs)
    assert good.funding is not None
    assert (good.funding.events, good.funding.intervals) == (8, ((8 * 60_000, 7),))
    text = report.render()
    assert "1 of 2 symbols cannot be used" in text
    assert "row 68, column 'close' (BBB" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 100
    assert max(map(len, report.render(60).split("Bars\n")[0].splitlines())) <= 60
    assert json.loads(json.dumps(report.to_dict()))["symbols"][0]["gaps"][0]["bars"] == 2


def test_report_warns() -> None:
    def warnings(frame: pl.DataFrame) -> str:
        return "\n".join(describe(load_bars(frame)).symbols[0].warnings)

    frame = made_bars(mark=True, funding=True)
    assert warnings(frame) == ""
    assert "a funding event on 60 of 60 bars of 1m: every one will be charged" in warnings(
        frame.with_columns(funding_rate=1e-4)
    )
    assert "funding event on" not in warnings(made_bars(minutes=60).with_columns(funding_rate=1e-4))
    assert "per cent rather than fractions" in warnings(frame.with_columns(pl.col("funding_rate") * 100))
    bare = warnings(made_bars().drop("volume"))
    for told in ("no mark price: mark = last", "volume none: flat slippage", "no funding events"):
        assert told in bare
    days = made_bars(300, minutes=60, mark=True).with_columns(
        funding_rate=pl.when(pl.int_range(pl.len()).is_in([100, 108])).then(1e-4)
    )
    assert "funding starts 4d 4h after the first bar\nfunding ends 7d 23h before the last" in warnings(days)
    shifted = frame.with_columns(
        ts=pl.col("ts")
        + pl.when(pl.int_range(pl.len()) > 50).then(timedelta(seconds=30)).otherwise(timedelta())
    )
    assert "1 of 59 steps between bars are no multiple of the commonest, 1m" in warnings(shifted)
    assert "a single bar" in warnings(frame.head(1))


def test_every_chosen_size_is_rendered() -> None:
    one = describe(load_bars(made_bars(1))).render()
    assert "Largest" not in one
    many = pl.concat(made_bars(20, f"S{i:02}", seed=i) for i in range(30))
    text = describe(load_bars(many)).render()
    assert "S11 and 18 more" in text
    moves = text.split("Largest moves")[1].split("\n\n")[0].splitlines()[2:]
    assert len(moves) == 15
    sizes = [abs(float(line.split()[3])) for line in moves]
    assert sizes == sorted(sizes, reverse=True)


def test_checks_are_fast() -> None:
    """A symbol-year of minutes with marks: well under a second here, so a busy machine does not fail it."""
    frame = made_bars(525_600, mark=True, funding=True)
    bars = load_bars(frame)
    began = time.perf_counter()
    bars.collect("AAA")
    assert time.perf_counter() - began < 1.0


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real prices not found in {REAL}")
def test_report_on_real_prices() -> None:
    report = describe(load_bars(REAL / "binance_um_1h_2019_2023.parquet"))
    assert report.ok
    ada = report.symbols[0]
    assert (ada.divergences[0].ts.isoformat(), ada.divergences[0].point) == (
        "2020-02-28T17:00:00+00:00",
        "low",
    )
    assert (ada.bars, ada.empty_rows, ada.missing_bars) == (34_336, 287, 0)
    spot = describe(load_bars(REAL / "binance_spot_1m_2021_05.parquet")).symbols[0]
    assert (spot.missing_bars, spot.gap_count) == (284, 1)
