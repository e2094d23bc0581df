"""Prices in: every way of naming them gives the same bars, and no more is read than asked for."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_bars import START, TIME, made_bars, two_symbols
from polars.testing import assert_frame_equal

from perpbt.errors import InputError
from perpbt.load import load_bars
from perpbt.load.funding import snap
from perpbt.load.sources import Source

REPOSITORY = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("PERPBT_DATA", REPOSITORY.parent / "shared" / "data"))


def split(frame: pl.DataFrame, folder: Path, rows: int) -> Path:
    for number, part in enumerate(frame.iter_slices(rows), start=1):
        part.write_parquet(folder / f"part-{number}.parquet", row_group_size=7)
    return folder


# -- every door leads to the same bars


def test_all_sources_give_the_same_bars(tmp_path: Path) -> None:
    frame = two_symbols(mark=True, funding=True)
    file = tmp_path / "bars.parquet"
    frame.write_parquet(file)
    (tmp_path / "folder").mkdir()
    folder = split(frame, tmp_path / "folder", 10)
    text = tmp_path / "bars.csv"
    frame.write_csv(text, datetime_format="%Y-%m-%dT%H:%M:%SZ")
    sources: list[Source] = [frame, frame.lazy(), file, str(file), folder, f"{folder}/part-*.parquet", text]
    wanted = load_bars(frame)
    assert wanted.symbols == ("AAA", "BBB")
    for source in sources:
        bars = load_bars(source)
        assert bars.symbols == wanted.symbols
        for symbol in wanted.symbols:
            assert_frame_equal(bars.collect(symbol).frame, wanted.collect(symbol).frame)
            assert_frame_equal(bars.collect(symbol).funding, wanted.collect(symbol).funding)
        assert bars.fingerprint() == wanted.fingerprint()
        assert_frame_equal(bars.frame.collect(), frame.select(bars.frame.collect_schema().names()))


def test_hive_folder(tmp_path: Path) -> None:
    for symbol in ("AAA", "B/B"):
        for month in (2, 10):  # as text 10 comes before 2
            folder = tmp_path / f"symbol={symbol.replace('/', '%2F')}" / f"date={month}"
            folder.mkdir(parents=True)
            rows = made_bars(5, start=datetime(2024, month, 1, tzinfo=UTC)).drop("symbol")
            rows.write_parquet(folder / "0.parquet")
    (tmp_path / "_temporary").mkdir()
    (tmp_path / "_temporary" / "half.parquet").write_bytes(b"half written")
    bars = load_bars(tmp_path)
    assert bars.symbols == ("AAA", "B/B")
    found = bars.collect("B/B").frame
    assert found["symbol"].unique().to_list() == ["B/B"]
    assert found["ts"].dt.month().to_list() == [2] * 5 + [10] * 5
    assert "symbol=AAA" not in load_bars(tmp_path, symbols=["B/B"]).frame.explain()


def test_name_from_the_caller_where_the_file_has_none() -> None:
    frame = made_bars().drop("symbol")
    assert load_bars(frame, symbols=["XYZ"]).collect("XYZ").frame["symbol"][0] == "XYZ"
    with pytest.raises(InputError, match=r"'symbol' missing; found: ts, open.*one name in symbols"):
        load_bars(frame)


def test_names_and_order_of_columns_do_not_matter() -> None:
    frame = made_bars(mark=True, funding=True)
    capital = {
        "ts": "Open time",
        "symbol": "Ticker",
        "open": "Open",
        "volume": "Volume",
        "mark_low": "markLow",
    }
    renamed = frame.rename({**capital, "funding_rate": "lastFundingRate"})
    renamed = renamed.select(reversed(renamed.columns)).with_columns(close_time=1, ignore=0)
    assert load_bars(renamed).fingerprint() == load_bars(frame).fingerprint()
    for alias in ("timestamp", "open_time", "date", "time", "TIMESTAMP", "ts"):
        assert load_bars(made_bars().rename({"ts": alias})).collect("AAA").frame.height == 60


def test_the_exact_name_wins_and_two_aliases_clash() -> None:
    frame = made_bars()
    other = frame.with_columns(date=pl.col("ts") - timedelta(days=1))
    assert load_bars(other).collect("AAA").frame["ts"][0] == START
    with pytest.raises(InputError, match=r"columns 'timestamp', 'date' could each be 'ts'"):
        load_bars(other.rename({"ts": "timestamp"}))


# -- types


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("as_text", [False, True])
def test_integer_times(unit: str, as_text: bool) -> None:
    frame = made_bars()
    epoch = pl.col("ts").dt.epoch(unit)  # type: ignore[arg-type]
    whole = frame.with_columns(ts=epoch.cast(pl.String) if as_text else epoch)
    part = load_bars(whole, start="2024-01-01T00:10", end="2024-01-01T00:20").collect("AAA").frame
    assert load_bars(whole).fingerprint() == load_bars(frame).fingerprint()
    assert part["ts"].to_list() == frame["ts"].to_list()[10:20]


def test_milliseconds_then_microseconds() -> None:
    """Binance's dumps changed unit in the middle of a series."""
    frame = made_bars()
    ms, us = frame.with_columns(pl.col("ts").dt.epoch("ms")), frame.with_columns(pl.col("ts").dt.epoch("us"))
    mixed = pl.concat([ms.head(30), us.tail(30)])
    assert load_bars(mixed).fingerprint() == load_bars(frame).fingerprint()


@pytest.mark.parametrize(
    "ts",
    [
        pl.col("ts").dt.replace_time_zone(None),
        pl.col("ts").dt.convert_time_zone("America/New_York"),
        pl.col("ts").dt.cast_time_unit("ns"),
        pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        pl.col("ts").dt.strftime("%Y-%m-%d %H:%M:%S"),
        pl.col("ts").dt.strftime("%Y-%m-%d %H:%M"),
        pl.col("ts").dt.convert_time_zone("Asia/Tokyo").dt.strftime("%Y-%m-%dT%H:%M:%S%:z"),
    ],
)
def test_datetimes_and_text(ts: pl.Expr) -> None:
    frame = made_bars()
    bars = load_bars(frame.with_columns(ts=ts), start="2024-01-01T00:10", end="2024-01-01T00:20")
    assert bars.collect("AAA").frame["ts"].to_list() == frame["ts"].to_list()[10:20]


def test_dates_and_number_types() -> None:
    days = made_bars(5, minutes=1440)
    whole = days.with_columns(pl.col("open", "high", "low", "close").round())
    cast = whole.with_columns(
        pl.col("ts").dt.date(),
        pl.col("symbol").cast(pl.Categorical),
        pl.col("open").cast(pl.Int64),
        pl.col("high").cast(pl.Float32),
        pl.col("low").cast(pl.Decimal(20, 4)),
        volume=pl.lit(None),
    )
    frame = load_bars(cast).collect("AAA").frame
    assert frame.drop("volume").equals(load_bars(whole.drop("volume")).collect("AAA").frame)
    assert frame.schema["volume"] == pl.Float64
    assert not load_bars(cast).collect("AAA").has_volume
    assert Decimal(frame["low"][0]) == whole["low"][0]


def test_bounds_of_the_period() -> None:
    frame = made_bars(4, minutes=1440)
    for start in ("2024-01-02", date(2024, 1, 2), datetime(2024, 1, 2), datetime(2024, 1, 2, tzinfo=UTC)):
        assert load_bars(frame, start=start, end="2024-01-04").collect("AAA").frame[
            "ts"
        ].dt.day().to_list() == [2, 3]
    east = datetime(2024, 1, 2, 9, tzinfo=timezone(timedelta(hours=9)))
    assert load_bars(frame, start=east).collect("AAA").frame.height == 3


# -- laziness


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    file = tmp_path / "bars.parquet"
    wide = two_symbols().with_columns(unused=1.0, another=2.0).rename({"ts": "open_time"})
    wide.write_parquet(file)
    plan = load_bars(file, symbols=["AAA"], start="2024-01-01T00:10").frame.select("ts", "close").explain()
    assert "PROJECT 3/9 COLUMNS" in plan  # the filter's symbol and the two asked for
    selection = next(line for line in plan.splitlines() if "SELECTION" in line)
    assert '"symbol"' in selection
    assert '"open_time"' in selection


def test_row_groups_outside_the_request_are_not_touched(tmp_path: Path) -> None:
    """The middle of the file is destroyed; a request that does not need it succeeds."""
    file = tmp_path / "bars.parquet"
    frame = pl.concat(
        made_bars(3000, symbol, start=START + timedelta(days=10 * i))
        for i, symbol in enumerate(("AAA", "BBB", "CCC"))
    )
    frame.write_parquet(file, row_group_size=3000, compression="uncompressed")
    content = bytearray(file.read_bytes())
    middle = slice(len(content) * 40 // 100, len(content) * 60 // 100)
    content[middle] = b"\xff" * (middle.stop - middle.start)
    file.write_bytes(content)
    some = load_bars(file, symbols=["AAA", "CCC"])
    assert some.collect("AAA").frame.height == 3000
    assert some.collect("CCC").frame["close"].equals(frame["close"].tail(3000))
    early = load_bars(file, end=START + timedelta(days=9))
    assert early.symbols == ("AAA",)
    assert early.collect("AAA").frame.height == 3000
    with pytest.raises(InputError, match=r"bars\.parquet: "):
        load_bars(file).collect("BBB")


# -- missing bars, marks, funding


def test_gaps_are_counted_not_filled() -> None:
    frame = made_bars(30)
    kept = frame.filter(~pl.int_range(pl.len()).is_in([10, 11, 20]))
    bars = load_bars(kept).collect("AAA")
    assert bars.bar_ms == 60_000
    assert bars.frame.height == 27
    minute = timedelta(minutes=1)
    assert bars.missing.rows() == [
        (START + 9 * minute, START + 12 * minute, 2),
        (START + 19 * minute, START + 21 * minute, 1),
    ]
    assert load_bars(frame.head(1)).collect("AAA").bar_ms == 0


def test_rows_without_prices_are_no_bars_but_keep_their_funding() -> None:
    frame = made_bars(30, mark=True, funding=True)
    empty = pl.int_range(pl.len()).is_in([0, 8, 9])
    prices = [pl.when(~empty).then(pl.col(name)).alias(name) for name in ("open", "high", "low", "close")]
    bars = load_bars(frame.with_columns(prices)).collect("AAA")
    assert (bars.frame.height, bars.empty_rows, bars.missing["bars"].to_list()) == (27, 3, [2])
    assert bars.funding["ts"].to_list() == [START + timedelta(minutes=m) for m in (0, 8, 16, 24)]
    charged = bars.frame.filter(pl.col("funding_rate").is_not_null())["ts"].dt.minute().to_list()
    assert charged == [10, 16, 24]  # minute 0 is before the first bar; 8 falls in the gap that ends at 10


def test_mark_falls_back_to_last() -> None:
    none = load_bars(made_bars()).collect("AAA")
    assert (none.has_mark, none.mark_missing) == (False, 60)
    assert none.frame["mark_low"].equals(none.frame["low"])
    frame = made_bars(mark=True)
    holes = pl.int_range(pl.len()) < 5
    marks = [
        pl.when(~holes).then(pl.col(f"mark_{n}")).alias(f"mark_{n}") for n in ("open", "high", "low", "close")
    ]
    some = load_bars(frame.with_columns(marks)).collect("AAA")
    assert (some.has_mark, some.mark_missing) == (True, 5)
    assert (
        some.frame["mark_close"].to_list() == frame["close"].to_list()[:5] + frame["mark_close"].to_list()[5:]
    )


def test_collected_frame_is_one_chunk_of_canonical_columns(tmp_path: Path) -> None:
    bars = load_bars(split(made_bars(mark=True), tmp_path, 7)).collect("AAA")
    assert bars.frame.n_chunks("all") == [1] * bars.frame.width
    assert bars.frame.schema["ts"] == TIME
    assert (bars.has_volume, bars.has_funding) == (True, False)
    assert bars.frame["funding_rate"].null_count() == 60


@given(st.integers(0, 60_000 - 1))
def test_snapping(late: int) -> None:
    told = (
        pl.DataFrame({"ts": pl.Series([START + timedelta(milliseconds=late)], dtype=TIME)})
        .select(snap(pl.col("ts")))
        .item()
    )
    if late < 5_000:
        assert told == START
    elif late > 55_000:
        assert told == START + timedelta(minutes=1)
    else:
        assert told == START + timedelta(milliseconds=late)


def test_funding_of_its_own(tmp_path: Path) -> None:
    rates = pl.DataFrame(
        {
            "calc_time": [1704067200003, 1704067200000 + 8 * 60_000 - 7, 1704067200000 + 100 * 60_000],
            "funding_interval_hours": [8, 8, 8],
            "last_funding_rate": [0.0001, -0.0002, 0.0003],
        }
    )
    file = tmp_path / "funding.csv"
    rates.write_csv(file)
    frame = made_bars(funding=True)
    for source in (rates, rates.lazy(), file):
        bars = load_bars(frame, funding=source).collect("AAA")
        assert bars.funding["funding_rate"].to_list() == [0.0001, -0.0002, 0.0003]
        assert bars.funding["ts"].dt.minute().to_list() == [0, 8, 40]
        assert bars.frame["funding_rate"].drop_nulls().to_list() == [0.0001, -0.0002]
    part = load_bars(frame, funding=rates, start="2024-01-01T00:08").collect("AAA")
    assert part.funding["funding_rate"].to_list() == [-0.0002, 0.0003]
    several = rates.with_columns(symbol=pl.Series(["BBB", "BBB", "CCC"]))
    both = load_bars(two_symbols(), funding=several)
    assert [both.collect(s).funding.height for s in both.symbols] == [0, 2]
    with pytest.raises(InputError, match="'symbol' missing"):
        load_bars(two_symbols(), funding=rates)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real prices not found in {REAL}")
def test_real_hours() -> None:
    bars = load_bars(REAL / "binance_um_1h_2019_2023.parquet", symbols=["ADAUSDT"], end="2020-04-01").collect(
        "ADAUSDT"
    )
    wick = bars.frame.row(by_predicate=pl.col("ts") == datetime(2020, 2, 28, 17, tzinfo=UTC), named=True)
    assert (wick["low"], round(wick["mark_low"], 6)) == (0.02286, 0.047685)
    assert bars.funding["ts"].diff().drop_nulls().unique().to_list() == [timedelta(hours=8)]
    assert bars.funding["ts"][0] < bars.frame["ts"][0]  # rows before the listing carry rates
