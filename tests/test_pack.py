"""Packed bars: whole ticks in plain Parquet that come back with the same bits, or a refusal that says why."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_bars import START, made_bars, two_symbols, with_value
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

import perpbt
from perpbt import cli
from perpbt.errors import InputError, PerpbtError, RunError
from perpbt.load import Bars, describe, load_bars
from perpbt.load import ticks as tick_module
from perpbt.load.columns import INDEX, MARK, PRICES
from perpbt.load.pack import pack
from perpbt.load.ticks import KEY, OffTick, in_ticks, tick_text, ticks_per_unit

REPOSITORY = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("PERPBT_DATA", REPOSITORY.parent / "shared" / "data"))
PACK = sys.modules["perpbt.load.pack"]


def rounded(frame: pl.DataFrame, decimals: int = 2, volume: int = 3) -> pl.DataFrame:
    """The frame with prices, volume and rates as a venue would print them."""
    return frame.with_columns(
        [pl.col(name).round(decimals) for name in (*PRICES, *MARK, *INDEX) if name in frame.columns]
        + [pl.col("volume").round(volume)] * ("volume" in frame.columns)
    )


def market() -> pl.DataFrame:
    """Two symbols with different ticks, marks, and a rate every 8 bars."""
    both = two_symbols(mark=True, funding=True)
    return pl.concat([rounded(both.filter(symbol="AAA"), 1), rounded(both.filter(symbol="BBB"), 5, volume=0)])


def same(bars: Bars, packed: Bars) -> None:
    """Everything a run can see, and the rows behind it, bit for bit."""
    assert packed.symbols == bars.symbols
    for symbol in bars.symbols:
        for one, other in zip(bars.rows(symbol), packed.rows(symbol), strict=True):
            assert_frame_equal(one, other, check_exact=True)
        one, other = bars.collect(symbol), packed.collect(symbol)
        assert_frame_equal(one.frame, other.frame, check_exact=True)
        assert_frame_equal(one.funding, other.funding, check_exact=True)
        assert (one.mark_missing, one.empty_rows) == (other.mark_missing, other.empty_rows)
        assert one.digest() == other.digest()
    assert packed.fingerprint() == bars.fingerprint()


# -- ticks


@settings(max_examples=200, deadline=None)
@example([(2, 11), (855694, 1)])  # 85569.4e11 as a product is one more than the whole number
@given(st.lists(st.tuples(st.integers(-(10**15), 10**15), st.integers(0, 12)), min_size=1, max_size=20))
def test_the_tick_is_the_largest_and_gives_back_every_bit(decimals: list[tuple[int, int]]) -> None:
    """Against fractions: 1/tick is the least common denominator, as long as the ticks stay whole in float64."""
    literals = [Decimal(digits).scaleb(-places) for digits, places in decimals]
    values = pl.Series("x", [float(literal) + 0.0 for literal in literals])
    wanted = math.lcm(*(Fraction(literal).denominator for literal in literals))
    found = ticks_per_unit({"x": values})
    if isinstance(found, OffTick):
        assert found.tick is not None
        assert abs(literals[found.row]) * 10**12 > 2**53  # only size can be what is wrong
        return
    assert found == wanted
    ticks = in_ticks(values, found)
    assert ticks.dtype == pl.Int64
    for number, literal in zip(ticks.to_list(), literals, strict=True):
        meant = int(
            Fraction(literal) * wanted
        )  # a float64 too coarse for its tick has several numbers that give it back
        assert number == meant or number / found == meant / found
    back = ticks.to_numpy() / found
    assert (back.view(np.int64) == values.to_numpy().view(np.int64)).all()


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1.0, 2.0], 1),
        ([0.5, 7.0], 2),
        ([95505.4, 0.25, None], 20),
        ([0.0000001], 10_000_000),
        ([None, None], 1),
        ([], 1),
        ([-0.375, 0.0], 8),
        ([1.0, 0.1 + 0.2], OffTick("x", 1, None)),
        ([0.0, -0.0], OffTick("x", 1, None)),
        ([1e-13], OffTick("x", 0, None)),
        ([1e300], OffTick("x", 0, None)),
        ([0.001, 2.0**53], OffTick("x", 1, "0.001")),
    ],
)
def test_ticks_by_hand(values: list[float | None], found: int | OffTick) -> None:
    assert ticks_per_unit({"x": pl.Series(values, dtype=pl.Float64)}) == found


def test_ticks_are_told_as_exact_decimals() -> None:
    assert [tick_text(n) for n in (1, 2, 10, 20, 10**8)] == ["1", "0.5", "0.1", "0.05", "0.00000001"]


# -- the round trip


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_what_is_packed_comes_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Random decimal prices of one to three symbols, each with a tick of its own, with holes everywhere."""
    frames = []
    for name in ("AAA", "BBB", "CCC")[: data.draw(st.integers(1, 3))]:
        decimals, rows = data.draw(st.integers(0, 8)), data.draw(st.integers(1, 12))
        prices = st.integers(1, 10**7).map(lambda n, places=decimals: float(Decimal(n).scaleb(-places)))
        table: dict[str, list[float | None]] = {
            name: [] for name in (*PRICES, *MARK, "volume", "funding_rate")
        }
        for row in range(rows):
            for series, always in ((PRICES, row == 0), (MARK, False)):
                some = always or data.draw(st.booleans())
                bar = sorted(data.draw(st.lists(prices, min_size=4, max_size=4))) if some else [None] * 4
                for column, value in zip(series, (bar[1], bar[3], bar[0], bar[2]), strict=True):
                    table[column].append(value)
            table["volume"].append(data.draw(st.none() | st.floats(0, 1e9)))
            table["funding_rate"].append(data.draw(st.none() | st.floats(-0.9, 0.9)))
        minutes = [START + timedelta(minutes=m) for m in range(rows)]
        schema = {"ts": pl.Datetime("ms", "UTC"), **dict.fromkeys(table, pl.Float64)}
        frames.append(pl.DataFrame({"ts": minutes, **table}, schema=schema).with_columns(symbol=pl.lit(name)))
    frame = pl.concat(frames).sample(fraction=1, shuffle=True, seed=0).sort("ts", maintain_order=True)
    file = tmp_path_factory.mktemp("packed") / "bars.parquet"
    pack(frame, file)
    same(load_bars(frame), load_bars(file))


def test_the_same_bars_through_every_door(tmp_path: Path) -> None:
    frame = market()
    source, file = tmp_path / "bars.parquet", tmp_path / "packed.parquet"
    frame.write_parquet(source, row_group_size=7)
    bars = load_bars(source)
    pack(source, file)
    same(bars, load_bars(file))
    assert_frame_equal(load_bars(file).frame.collect(), bars.frame.collect(), check_exact=True)
    folder = tmp_path / "folder"
    folder.mkdir()
    for symbol in bars.symbols:
        pack(source, folder / f"{symbol}.parquet", symbols=[symbol])
    same(bars, load_bars(folder))
    same(bars, load_bars(f"{folder}/*.parquet"))
    frame.filter(symbol="BBB").write_parquet(folder / "BBB.parquet")  # packed and plain side by side
    same(bars, load_bars(folder))
    assert_frame_equal(load_bars(folder).frame.collect(), bars.frame.collect(), check_exact=True)
    told = describe(load_bars(file)).to_dict()
    assert {**told, "source": ""} == {**describe(bars).to_dict(), "source": ""}


def test_a_part_of_the_bars(tmp_path: Path) -> None:
    frame = market()
    whole, file = tmp_path / "whole.parquet", tmp_path / "part.parquet"
    pack(frame, whole)
    period = {"start": "2024-01-01T00:20", "end": "2024-01-01T00:40"}
    pack(frame, file, symbols=["BBB"], **period)
    wanted = load_bars(frame, symbols=["BBB"], **period)
    same(wanted, load_bars(file))
    same(wanted, load_bars(whole, symbols=["BBB"], **period))
    with pytest.raises(InputError, match="unknown symbol XXX; available: AAA, BBB"):
        load_bars(whole, symbols=["XXX"])
    with pytest.raises(InputError, match="AAA has bars from 2024-01-01 00:00 to 2024-01-01 00:59"):
        load_bars(whole, start="2030-01-01")


def test_a_single_row_is_divided_not_multiplied(tmp_path: Path) -> None:
    """3 * 0.1 is not 0.3: rows that come alone take the paths on which polars would multiply."""
    prices = pl.DataFrame([[0.3] * 4], schema=list(PRICES), orient="row")
    frame = made_bars(1).drop(PRICES).hstack(prices)
    frame = pl.concat([frame, frame.with_columns(pl.col(PRICES) + 0.02, symbol=pl.lit("BBB"))])
    pack(frame, tmp_path / "one.parquet")
    bars = load_bars(tmp_path / "one.parquet")
    assert bars.collect("AAA").frame["close"].to_list() == [0.3]
    assert bars.frame.collect()["close"].to_list() == [0.3, 0.32]
    assert bars.frame.filter(pl.col("symbol") == "AAA").collect()["close"].to_list() == [0.3]


def test_holes_survive(tmp_path: Path) -> None:
    """Rows without prices that carry a rate, marks and indices that start late, an unknown volume."""
    frame = rounded(made_bars(30, mark=True, funding=True))
    frame = frame.with_columns(pl.col(p).alias(i) for p, i in zip(PRICES, INDEX, strict=True))
    row = pl.int_range(pl.len())
    frame = frame.with_columns(
        [pl.when(~row.is_in([0, 8, 9])).then(pl.col(name)).alias(name) for name in PRICES]
        + [pl.when(row > 5).then(pl.col(name)).alias(name) for name in MARK]
        + [pl.when(row > 7).then(pl.col(name)).alias(name) for name in INDEX]
        + [pl.when(row != 3).then(pl.col("volume")).alias("volume")]
    )
    pack(frame, tmp_path / "packed.parquet")
    same(load_bars(frame), load_bars(tmp_path / "packed.parquet"))


def test_a_column_that_one_symbol_lacks_stays_absent(tmp_path: Path) -> None:
    """Two files, of which one has no volume and no index: neither has the symbol once it is packed."""
    rich = rounded(made_bars(20)).with_columns(pl.col(p).alias(i) for p, i in zip(PRICES, INDEX, strict=True))
    for symbol, frame in (("AAA", rich), ("BBB", rounded(made_bars(20), 1).drop("volume"))):
        (tmp_path / f"symbol={symbol}").mkdir()
        frame.drop("symbol").write_parquet(tmp_path / f"symbol={symbol}" / "0.parquet")
    file = tmp_path.with_suffix(".parquet")
    packed = pack(tmp_path, file)
    same(load_bars(tmp_path), load_bars(file))
    assert "volume" not in load_bars(file).collect("BBB").frame.columns
    assert packed.symbols[1].ticks == {"last": "0.1"}
    assert_frame_equal(load_bars(file).frame.collect(), load_bars(tmp_path).frame.collect(), check_exact=True)


def test_numbers_that_need_not_be_ticks_stay_as_they_are(tmp_path: Path) -> None:
    """A volume on no tick, and the sign of a zero rate, in one symbol of two."""
    frame = market()
    frame = with_value(frame, 3, volume=1 / 3)
    frame = with_value(frame, 8, funding_rate=-0.0)
    file = tmp_path / "packed.parquet"
    packed = pack(frame, file)
    same(load_bars(frame), load_bars(file))
    assert [one.ticks["volume"] for one in packed.symbols] == ["float64", "float64"]
    assert [one.ticks["funding"] for one in packed.symbols] == ["float64", "float64"]
    bits = load_bars(file).collect("AAA").funding["funding_rate"].to_numpy().view(np.int64)
    assert bits[1] == np.array(-0.0).view(np.int64)
    assert {"volume", "funding_rate", "open_ticks"} <= set(pq.read_schema(file).names)
    assert "BYTE_STREAM_SPLIT" in encodings(file)["volume"]


def test_funding_of_its_own(tmp_path: Path) -> None:
    frame = rounded(made_bars(60))
    rates = pl.DataFrame(
        {
            "ts": [START + timedelta(milliseconds=late) for late in (3, 8 * 60_000 - 7, 40 * 60_000)],
            "rate": [0.0001, -0.0002, 0.0003],
        }
    )
    file = tmp_path / "packed.parquet"
    pack(frame, file, funding=rates)
    bars = load_bars(frame, funding=rates)
    found = load_bars(file).collect("AAA")
    assert_frame_equal(found.funding, bars.collect("AAA").funding, check_exact=True)
    assert load_bars(file).fingerprint() == bars.fingerprint()
    late = pl.concat([rates, rates.tail(1).with_columns(ts=START + timedelta(days=1))])
    with pytest.raises(InputError) as refused:
        pack(frame, tmp_path / "other.parquet", funding=late)
    assert str(refused.value) == (
        "the DataFrame given: 1 of 4 funding events of AAA fall on no bar, the first at 2024-01-02 00:00 UTC; "
        "allowed in a packed file: events at the open of a bar. Bound the period to that of the bars, or pack "
        "the bars alone and keep the funding a table of its own"
    )
    pack(frame, tmp_path / "other.parquet", funding=late, end="2024-01-01T12:00")
    assert load_bars(tmp_path / "other.parquet").fingerprint() == bars.fingerprint()
    assert sorted(os.listdir(tmp_path)) == ["other.parquet", "packed.parquet"]


def test_packing_again_gives_the_same_file(tmp_path: Path) -> None:
    file, again = tmp_path / "packed.parquet", tmp_path / "again.parquet"
    pack(market(), file)
    told = pack(file, again)
    assert again.read_bytes() == file.read_bytes()
    assert told.left_out == ()
    pack(again, again)  # onto itself
    assert again.read_bytes() == file.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["again.parquet", "packed.parquet"]


# -- the file


def encodings(file: Path) -> dict[str, tuple[str, ...]]:
    group = pq.read_metadata(file).row_group(0)
    columns = (group.column(i) for i in range(group.num_columns))
    return {column.path_in_schema: column.encodings for column in columns}


def test_any_tool_can_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PACK, "ROW_GROUP", 25)
    frame, file = market(), tmp_path / "packed.parquet"
    pack(frame.reverse().sort("ts"), file)
    schema = pq.read_schema(file)
    ticked = [f"{name}_ticks" for name in (*PRICES, "volume", *MARK, "funding_rate")]
    assert schema.names == ["symbol", "ts", *ticked]
    assert {str(schema.field(name).type) for name in ticked} == {"int64"}
    content = json.loads(schema.metadata[KEY.encode()])
    assert content["ticks_per_unit"]["AAA"]["open"] == 10
    assert content["ticks_per_unit"]["BBB"]["open"] == 100_000
    assert content["ticks_per_unit"]["BBB"]["volume"] == 1
    metadata = pq.read_metadata(file)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [20] * 6
    for group in groups:
        assert [(one.column_index, one.descending) for one in group.sorting_columns] == [
            (0, False),
            (1, False),
        ]
        for column in (group.column(i) for i in range(group.num_columns)):
            assert column.compression == "ZSTD"
            assert column.is_stats_set
            assert column.statistics.has_min_max
        assert group.column(0).statistics.min == group.column(0).statistics.max
    firsts = [(group.column(0).statistics.min, group.column(1).statistics.min) for group in groups]
    assert firsts == sorted(firsts)
    for name in ("ts", *ticked):
        assert set(encodings(file)[name]) == {"DELTA_BINARY_PACKED", "RLE"}, "RLE: which values are null"
    table = pq.read_table(file, filters=[("symbol", "==", "BBB")])
    found = table["open_ticks"].to_numpy() / content["ticks_per_unit"]["BBB"]["open"]
    assert found.tolist() == frame.filter(symbol="BBB")["open"].to_list()


def test_it_is_smaller_than_what_it_came_from(tmp_path: Path) -> None:
    source, file = tmp_path / "bars.parquet", tmp_path / "packed.parquet"
    frame = rounded(made_bars(20_000)).with_columns(note=pl.lit("x"))
    frame.write_parquet(source, compression="zstd")
    packed = pack(source, file)
    assert packed.bytes_after == file.stat().st_size
    assert packed.bytes_before is not None
    assert packed.bytes_before < source.stat().st_size
    assert packed.bytes_before > 1.5 * packed.bytes_after
    assert packed.left_out == ("note",)
    assert sum(one.bytes for one in packed.symbols) < packed.bytes_after
    assert pack(source, file, end="2024-01-02").bytes_before is None
    text = tmp_path / "bars.csv"
    frame.write_csv(text, datetime_format="%Y-%m-%dT%H:%M:%SZ")
    assert pack(text, file).bytes_before == text.stat().st_size
    same(load_bars(text), load_bars(file))


def test_only_what_is_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups outside the request are destroyed, and never missed."""
    monkeypatch.setattr(PACK, "ROW_GROUP", 1000)
    frame = rounded(pl.concat(made_bars(3000, symbol) for symbol in ("AAA", "BBB", "CCC")))
    file = tmp_path / "packed.parquet"
    pack(frame, file)
    plan = load_bars(file, symbols=["AAA"], start="2024-01-01T10:00").frame.select("ts", "close").explain()
    assert "PROJECT 3/7 COLUMNS" in plan  # the filter's symbol and the two asked for
    selection = next(line for line in plan.splitlines() if "SELECTION" in line)
    assert '"symbol"' in selection
    assert '"ts"' in selection
    content, metadata = bytearray(file.read_bytes()), pq.read_metadata(file)
    for number in (2, 3, 4, 5):  # the last thousand minutes of AAA, and all of BBB
        group = metadata.row_group(number)
        for column in (group.column(i) for i in range(group.num_columns)):
            begin = column.dictionary_page_offset or column.data_page_offset
            content[begin : begin + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(content)
    some = load_bars(file, symbols=["AAA", "CCC"], end=START + timedelta(minutes=2000))
    for symbol in some.symbols:
        wanted = frame.filter(symbol=symbol).head(2000)["close"]
        assert some.collect(symbol).frame["close"].equals(wanted)
    with pytest.raises(InputError, match=r"packed\.parquet: cannot be read"):
        load_bars(file).collect("BBB")


# -- refusals: whole sentences, and nothing left behind


def off_tick(column: str, value: float) -> Callable[[], pl.DataFrame]:
    frame = rounded(made_bars(6, mark=True))
    return lambda: with_value(frame, 4, **{column: value})


REFUSED: dict[str, tuple[Callable[[], pl.DataFrame], str]] = {
    "off any tick": (
        off_tick("high", 1000.1000000000003),
        "bars.parquet: row 4, column 'high' (AAA, 2024-01-01 00:04 UTC): high = 1000.1000000000003 has more than "
        "12 decimals; allowed in a packed file: at most 12",
    ),
    "too many decimals": (
        off_tick("mark_low", 1.5e-13),
        "bars.parquet: row 4, column 'mark_low' (AAA, 2024-01-01 00:04 UTC): mark_low = 1.5e-13 has more than 12 "
        "decimals; allowed in a packed file: at most 12",
    ),
    "too many ticks": (
        off_tick("high", 1e15),
        "bars.parquet: row 4, column 'high' (AAA, 2024-01-01 00:04 UTC): high = 1000000000000000.0 is more than "
        "2^53 = 9,007,199,254,740,992 ticks of 0.01, the tick of the prices beside it; allowed in a packed file: "
        "at most that many",
    ),
    "a price beyond whole numbers": (
        off_tick("high", 1e300),
        "bars.parquet: row 4, column 'high' (AAA, 2024-01-01 00:04 UTC): high = 1e+300 is more than 2^53 = 9,007,199,254,740,992; "
        "allowed in a packed file: at most that many ticks",
    ),
    "a broken bar": (
        off_tick("low", 1000.0),
        "bars.parquet: row 4, column 'low' (AAA, 2024-01-01 00:04 UTC): low = 1000.0, open = 100.74, close = 100.2: "
        "low is above the lesser of open and close; allowed: low <= min(open, close)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bars_that_cannot_be_packed(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, told = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    make().write_parquet("bars.parquet")
    with pytest.raises(InputError) as refused:
        pack("bars.parquet", "deep/packed.parquet")
    assert str(refused.value) == told
    assert os.listdir() == ["bars.parquet"]


def test_places_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    market().write_parquet("data/bars.parquet")
    Path("notes.parquet").write_text("mine")
    Path("folder.parquet").mkdir()
    allowed = "allowed: a new file, or one that pack wrote"
    cases = {
        "data/bars.parquet": f"data/bars.parquet: exists and is not a packed file; {allowed}",
        "notes.parquet": f"notes.parquet: exists and is not a packed file; {allowed}",
        "folder.parquet": f"folder.parquet: exists and is not a packed file; {allowed}",
        "bars.csv": "bars.csv: does not end in .parquet or .pq; allowed: a Parquet file",
        "data/deep/packed.parquet": "data/deep/packed.parquet: is inside the source data, which would then hold the "
        "bars twice; allowed: a place outside it",
    }
    before = sorted(map(str, Path().rglob("*")))
    for out, told in cases.items():
        with pytest.raises(InputError) as refused:
            pack("data", out)
        assert str(refused.value) == told
    for source, out in [
        ("data/*.parquet", "data/packed.parquet"),
        ("data/**/*.parquet", "data/deep/down/packed.parquet"),
        ("**", "any/packed.parquet"),
        ("d?ta/[a-z]*", "data/../data/packed.parquet"),
    ]:
        with pytest.raises(InputError, match=r"is inside the source .* would then hold the bars twice"):
            pack(source, out)
    assert sorted(map(str, Path().rglob("*"))) == before
    assert Path("notes.parquet").read_text() == "mine"
    for source, out in [("data/*.parquet", "beside.parquet"), ("data/b*.parquet", "data/packed.parquet")]:
        same(load_bars("data/bars.parquet"), load_bars(pack(source, out).path))


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_nothing_half_written(error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "packed.parquet"
    pack(market(), file)
    before = file.read_bytes()

    def failing(*_: object, **__: object) -> None:
        raise error

    raised = RunError if isinstance(error, OSError) else KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(PACK, "_compare", failing)
        for out in (file, tmp_path / "new.parquet"):
            with pytest.raises(raised) as caught:
                pack(market(), out, symbols=["AAA"])
            if raised is RunError:
                assert str(caught.value) == f"{out}: the packed file could not be written: disk full"
    assert os.listdir(tmp_path) == ["packed.parquet"]
    assert file.read_bytes() == before


def test_what_does_not_come_back_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is with what the file says, not with what was meant to be written."""

    def off_by_one(column: pl.Series, per_unit: int) -> pl.Series:
        ticks = in_ticks(column, per_unit)
        return ticks if column.name != "close" else ticks + (ticks == ticks[-1]).cast(pl.Int64)

    frame = rounded(made_bars(5))
    monkeypatch.setattr(PACK, "in_ticks", off_by_one)
    close = frame["close"][-1]
    with pytest.raises(RunError) as refused:
        pack(frame, tmp_path / "packed.parquet")
    assert str(refused.value) == (
        f"the DataFrame given: AAA, row 4, column 'close': {close!r} against {round(close + 0.01, 2)!r}: "
        "the packed file does not give it back; nothing was written"
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            '{"version": 2, "rows": 120, "ticks_per_unit": {}}',
            "packed in version 2 of the format; allowed: 1",
        ),
        ("{", "metadata 'perpbt.pack' cannot be read: JSONDecodeError"),
        ('{"version": 1}', "metadata 'perpbt.pack' cannot be read: KeyError"),
        (
            '{"version": 1, "rows": 120, "ticks_per_unit": {"AAA": {"open": 0}}}',
            r"has ticks_per_unit = \{'AAA': \{'open': 0\}\}; allowed: for each symbol and column a whole number > 0",
        ),
        ('{"version": 1, "rows": 120, "ticks_per_unit": {}}', "has ticks_per_unit = {}; allowed: for each"),
        (None, r"required columns 'open', 'high', 'low', 'close' missing; found: symbol, ts, open_ticks"),
    ],
)
def test_metadata_that_was_changed(entry: str | None, told: str, tmp_path: Path) -> None:
    """Ticks without their meaning are no prices."""
    file = tmp_path / "packed.parquet"
    pack(market(), file)
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({KEY: entry} if entry else None), file)
    with pytest.raises(PerpbtError, match=told):
        load_bars(file)


def test_packed_files_joined_by_another_tool(tmp_path: Path) -> None:
    """They keep the metadata of the first, by which the prices of the second would be ten times too high."""
    one, other, both = (tmp_path / f"{name}.parquet" for name in ("one", "other", "both"))
    pack(rounded(made_bars(30), 1), one)
    pack(rounded(made_bars(30, start=START + timedelta(hours=1)), 2), other)
    assert load_bars(tmp_path).collect("AAA").frame.height == 60
    pq.write_table(pa.concat_tables([pq.read_table(one), pq.read_table(other)]), both)
    with pytest.raises(InputError) as refused:
        load_bars(both)
    assert str(refused.value) == (
        f"{both}: has 60 rows, but was packed with 30: another tool changed it, and its ticks may not be what its "
        "metadata says; pack the bars again"
    )


def test_metadata_is_read_only_where_there_are_ticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    market().write_parquet(tmp_path / "bars.parquet")

    def never(path: object) -> None:
        raise AssertionError(path)

    monkeypatch.setattr(tick_module.pl, "read_parquet_metadata", never)
    load_bars(tmp_path / "bars.parquet")


# -- the command


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    market().with_columns(spot=1.0).write_parquet("bars.parquet")
    runner = CliRunner()
    found = runner.invoke(cli.app, ["pack", "bars.parquet", "packed.parquet"])
    assert found.exit_code == 0, found.output
    lines = [line.split() for line in found.output.splitlines()]
    assert lines[1] == ["symbol", "rows", "last", "mark", "volume", "funding", "bytes"]
    assert lines[2][:6] == ["AAA", "60", "0.1", "0.1", "0.001", "0.0001"]
    assert lines[3][:6] == ["BBB", "60", "0.00001", "0.00001", "1", "0.0001"]
    size = Path("packed.parquet").stat().st_size
    assert f"packed.parquet: {size:,} bytes, read back equal to the source, bit for bit" in found.output
    assert "bytes before, " in found.output
    assert found.output.endswith("Not packed, for bars have no such column: spot\n")
    part = ["pack", "bars.parquet", "packed.parquet", "--symbol", "BBB", "--start", "2024-01-01T00:30"]
    assert "BBB       30" in runner.invoke(cli.app, part).output
    assert perpbt.pack is pack
    refused = runner.invoke(cli.app, ["pack", "bars.parquet", "bars.parquet"])
    assert isinstance(refused.exception, InputError)
    said = " ".join(runner.invoke(cli.app, ["pack", "--help"]).output.split())
    assert "perpbt pack sample sample.parquet" in said


def test_an_interrupted_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    market().write_parquet("bars.parquet")

    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PACK, "_write", press)
    found = CliRunner().invoke(cli.app, ["pack", "bars.parquet", "packed.parquet"])
    assert (found.exit_code, found.output) == (130, "interrupted; nothing was written\n")
    assert os.listdir() == ["bars.parquet"]


# -- real prices


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real prices not found in {REAL}")
@pytest.mark.parametrize(
    ("name", "ticks"),
    [
        ("binance_um_1h_2019_2023", {"last": "0.00001", "mark": "0.00000001", "volume": "1"}),
        ("binance_um_1m_2025_05_06", {"last": "0.1", "volume": "0.001"}),
        ("binance_spot_1m_2021_05", {"last": "0.01", "volume": "0.000001"}),
        ("hyperliquid_1h_2024_2025", {"last": "1", "volume": "0.00001"}),
    ],
)
def test_real_prices(name: str, ticks: dict[str, str], tmp_path: Path) -> None:
    source, file = REAL / f"{name}.parquet", tmp_path / "packed.parquet"
    packed = pack(source, file)
    assert packed.symbols[0].ticks.items() >= ticks.items()
    assert packed.bytes_before is not None
    assert packed.bytes_before > 1.5 * packed.bytes_after
    same(load_bars(source), load_bars(file))
