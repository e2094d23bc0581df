"""Positions settled page by page as they are finished, against the same positions settled from the book of the whole run."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from test_kernels import POLICIES, market, often

import perpbt
import perpbt.engines.chunks
import perpbt.settling.flowed
import perpbt.settling.flowing
from perpbt.engines.book import Block
from perpbt.engines.followers import FollowingOrder, Page
from perpbt.kernels.sums import (
    TOGETHER,
    add_exactly,
    add_often,
    let_in,
    make_room,
    no_sums,
    nothing_waits,
    put_bits,
    rounded_sums,
)
from perpbt.running.setting import Setting
from perpbt.settling.flowed import pieces
from perpbt.settling.flowing import SettledPage, new_block, row_of
from perpbt.statistics import shelves as shelves_room
from perpbt.statistics.shelves import Shelves, middle

TABLES = ("accounts", "fund", "statistics", "policies", "prices")


def two_symbols() -> pl.DataFrame:
    """One of them without every fifth bar, so that times and numbers of starts differ."""
    gaps = market().with_columns(symbol=pl.lit("BBB")).filter(pl.int_range(pl.len()) % 5 != 3)
    return pl.concat([market(), gaps])


def run(**options: Any) -> perpbt.Result:
    """Strategies that trade often, lose more than they have, and are refused; a fund that runs dry and shares fees."""
    fund = {"seed": 1.0, "fee_share": 0.1}
    return perpbt.backtest(two_symbols(), ["hold", often], POLICIES, fund=fund, **{"offsets": 7, **options})


def assert_same(one: perpbt.Result, other: perpbt.Result) -> None:
    """Every table and what metadata say, but for time and memory taken."""
    for name in TABLES:
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.schema == theirs.schema, name
        assert mine.equals(theirs), name
    said = [
        {
            key: value
            for key, value in each.metadata.items()
            if key not in ("timings_seconds", "peak_memory_mib")
        }
        for each in (one, other)
    ]
    assert said[0] == said[1]


@pytest.fixture(scope="module")
def from_the_book() -> perpbt.Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Setting, "settles_at_once", False)
        result = run()
    reasons = set(result.accounts["exit_reason"])
    assert reasons >= {"liquidation", "stop_loss", "trailing_stop", "time", "signal", "end", "rejected"}
    assert result.fund["uncovered"].sum() > 0.0
    assert result.accounts["rejection"].n_unique() > 2
    return result


@pytest.mark.parametrize("page", [3, 50, 16_384])
@pytest.mark.parametrize(("short", "piece"), [(1 << 13, 1 << 17), (0, 64), (0, 1 << 17)])
@pytest.mark.parametrize("threads", [1, 2])
def test_settled_at_once_or_from_the_book(
    from_the_book: perpbt.Result, page: int, short: int, piece: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Whatever the pages, blocks and pieces, and whatever an earlier page has left in the memory of rows."""
    monkeypatch.setattr(perpbt.engines.chunks, "PAGE", page)
    monkeypatch.setattr(perpbt.engines.chunks, "SERIAL_BELOW", 1)
    monkeypatch.setattr(perpbt.settling.flowing, "LEAST", 64)
    monkeypatch.setattr(perpbt.settling.flowing, "MOST", 256)
    monkeypatch.setattr(perpbt.settling.flowed, "SHORT", short)
    monkeypatch.setattr(perpbt.settling.flowed, "OWN", short)
    monkeypatch.setattr(perpbt.settling.flowed, "PIECE", piece)
    result = run(threads=threads)
    assert_same(result, from_the_book)
    chunks = result.accounts.n_chunks()
    assert chunks == 1 if short else chunks >= len(result.statistics.filter(pl.col("symbol") != "all"))


def test_engines_settle_alike(from_the_book: perpbt.Result) -> None:
    for engine in ("dense", "oracle"):
        result = run(engine=engine)
        result.metadata |= {name: from_the_book.metadata[name] for name in ("engine", "engine_reason")}
        assert_same(result, from_the_book)


def test_nobody_trades(from_the_book: perpbt.Result) -> None:
    """No page at all."""

    def never() -> dict[str, pl.Expr]:
        """No signal."""
        return {"long_entry": pl.lit(False)}

    result = perpbt.backtest(market(), never, offsets=3)
    assert result.accounts.height == 0
    assert result.accounts.schema == from_the_book.accounts.schema
    assert result.statistics["accounts"].to_list() == [3, 3, 3, 3]


def test_written_alike_in_any_pieces(
    from_the_book: perpbt.Result, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """The file of a table tells neither threads nor tiles."""
    monkeypatch.setattr(perpbt.engines.chunks, "SERIAL_BELOW", 1)
    monkeypatch.setattr(perpbt.settling.flowed, "SHORT", 0)
    monkeypatch.setattr(perpbt.settling.flowed, "OWN", 0)
    files = []
    for threads in (1, 2, 3):
        run(threads=threads).write(tmp_path / str(threads), report=False)
        files.append((tmp_path / str(threads) / "accounts.parquet").read_bytes())
        assert pl.read_parquet(tmp_path / str(threads) / "accounts.parquet").equals(from_the_book.accounts)
    assert files[0] == files[1] == files[2]


def test_money_that_does_not_balance_is_told_by_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    settle = perpbt.settling.flowing.settle_page

    def lossy(rows: Any, *others: Any) -> Any:
        """Half way through a page, as if the engine had kept a dollar of two positions of each account on one symbol."""
        if others[2].symbol == 1:
            picked = np.flatnonzero(rows["rejection"] == 0)[3:5]
            rows["back"][picked] -= 1.0
        return settle(rows, *others)

    monkeypatch.setattr(perpbt.engines.chunks, "PAGE", 1 << 14)
    monkeypatch.setattr(perpbt.settling.flowing, "settle_page", lossy)
    with pytest.raises(perpbt.RunError) as told:
        perpbt.backtest(two_symbols(), often, {"leverage": [2, 3]}, offsets=2)
    monkeypatch.undo()
    whole = perpbt.backtest(two_symbols(), often, {"leverage": [2, 3]}, offsets=2).accounts
    first = whole.with_row_index().filter(pl.col("symbol") == "BBB", pl.col("rejection").is_null())["index"][
        3
    ]
    assert f"8 positions, first in row {first} of the accounts (BBB)" in str(told.value)


def test_row_of_a_page() -> None:
    """Rows of two groups that lie apart in the table."""
    none = np.zeros(0, dtype=np.int64)
    block = Block(0, none, none)
    page = Page(block, np.array([0, 3]), np.array([0, 5]), np.array([5, 2]))
    assert [row_of(page, np.array([10, 100]), k) for k in (0, 4, 5, 6)] == [10, 14, 100, 101]


def test_pieces_join_what_follows_one_another() -> None:
    """Runs side by side in memory and in the table are one piece, of one group or several; a piece ends at each multiple."""
    order = FollowingOrder(("s",), ("p",), ("AAA", "BBB", "CCC"), np.zeros(1), starts=[1, 1, 1])
    room, other = new_block(300), new_block(300)
    none = Block(0, np.zeros(0), np.zeros(0))

    def page(columns: Any, at: int, *runs: tuple[int, int, int]) -> SettledPage:
        """A page of runs: group, first row and count."""
        return SettledPage(none, *(np.array(each) for each in zip(*runs, strict=True)), columns, at)

    order.pages = [
        page(room, 0, (0, 0, 40)),
        page(room, 40, (0, 0, 60), (1, 60, 20)),
        page(other, 7, (0, 0, 10)),
        page(room, 120, (2, 0, 30)),
    ]
    order.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perpbt.settling.flowed, "PIECE", 64)
        found = pieces(order)
    told = [
        (piece.columns is room, piece.first, piece.size, piece.group.tolist(), piece.counts.tolist())
        for piece in found
    ]
    assert told == [
        (True, 0, 64, [0, 0], [40, 24]),
        (True, 64, 36, [0], [36]),
        (False, 7, 10, [0], [10]),
        (True, 100, 18, [1], [18]),
        (True, 118, 32, [1, 2], [2, 30]),
    ]


@pytest.mark.parametrize("value", [0.1, -1e300, 5e-324, -0.0, 1.0, -2.5e-310, 2.0**40 + 1e-9])
@pytest.mark.parametrize("count", [1, 3, 1 << 20])
def test_a_value_added_often(value: float, count: int) -> None:
    """As if it had been added one time after the other."""
    one, other = no_sums(1), no_sums(1)
    add_exactly(one, np.zeros(3, dtype=np.int64), np.array([value, 7.0, 1e-200]))
    for _ in range(count - 1 if count < 10 else 0):
        add_exactly(one, np.zeros(1, dtype=np.int64), np.array([value]))
    if count > 10:
        values = np.full(count - 1, value)
        add_exactly(one, np.zeros(values.size, dtype=np.int64), values)
    add_exactly(other, np.zeros(2, dtype=np.int64), np.array([7.0, 1e-200]))
    add_some(other, value, count)
    assert rounded_sums(one)[0] == rounded_sums(other)[0]


def add_some(sums: Any, value: float, count: int) -> None:
    """`add_often` is made into kernels; here its plain Python."""
    plain = getattr(add_often, "py_func", add_often)
    room = getattr(make_room, "py_func", make_room)
    room(sums, count)
    plain(sums, 0, int(np.array(value).view(np.int64)), count)


@pytest.mark.parametrize("kind", ["most", "all sizes", "infinite", "ties", "zeros", "smallest", "nothing"])
def test_values_that_wait_to_be_added(kind: str) -> None:
    """As if each had been added by itself, though as many wait as may."""
    most = np.nextafter(2.0, 1.0)
    known = {
        "most": np.repeat([most, -most, most * 2.0**900, -most * 2.0**-1000], TOGETHER // 4 + 7),
        "smallest": np.tile([5e-324, -1.5e-310, 2.2250738585072014e-308, 1.0, -0.0], 300), "nothing": np.full(9, np.nan),
    }  # fmt: skip
    values = known[kind] if kind in known else spread(kind, 2 * TOGETHER + 11)
    one, other, waiting = no_sums(3), no_sums(3), nothing_waits(2)
    slots = np.arange(values.size) // 400 % 3
    add_exactly(one, slots, values)
    put, let = (getattr(each, "py_func", each) for each in (put_bits, let_in))
    getattr(make_room, "py_func", make_room)(other, values.size)
    for k, value in enumerate(values.view(np.int64)):
        if k and (slots[k] != slots[k - 1] or k % TOGETHER == 0):
            let(waiting, other, slots[k - 1], 1)
        put(waiting, other, slots[k], 1, value)
    let(waiting, other, slots[-1], 1)
    assert not waiting.whole.any()
    assert not waiting.counts.any()
    assert rounded_sums(one).tobytes() == rounded_sums(other).tobytes()


def spread(kind: str, size: int) -> np.ndarray:
    """Values that lie together, apart, at ties, on both sides of zero, or beyond all bounds."""
    random = np.random.default_rng(size)
    values = {
        "together": 0.25 + 1e-12 * random.random(size), "apart": np.where(random.random(size) < 0.5, -1.0, 1.0) * random.random(size),
        "ties": random.integers(-2, 3, size) * 0.5, "zeros": np.where(random.random(size) < 0.5, -0.0, 0.0),
        "all sizes": 10.0 ** random.uniform(-300, 300, size) * np.where(random.random(size) < 0.5, -1, 1),
        "infinite": np.where(random.random(size) < 0.1, np.inf, random.random(size)),
    }  # fmt: skip
    return values[kind]


@pytest.mark.parametrize("kind", ["together", "apart", "ties", "zeros", "all sizes", "infinite"])
@pytest.mark.parametrize("size", [1, 2, 3, 4095, 4096, 4097, 20_000])
def test_the_median_of_pieces(kind: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of all values sorted, on either way to it."""
    monkeypatch.setattr(shelves_room, "MANY", 4096)
    values = spread(kind, size)
    ordered = np.sort(values)
    lower, upper = float(ordered[(size - 1) // 2]), float(ordered[size // 2])
    wanted = lower + 0.5 * (upper - lower)
    for cuts in ([], [size // 3], [0, size // 2, size // 2, size]):
        pieces = [piece.copy() for piece in np.split(values, cuts)]
        found = middle(pieces, False)
        assert found == wanted
        assert np.signbit(found) == np.signbit(wanted)
    assert middle([values.copy()], True) == wanted


@pytest.mark.parametrize("many", [1, 1 << 17])
@pytest.mark.parametrize("few", [1, 32])
def test_medians_of_groups_in_any_shelves(many: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long shelves are read where they are, short ones put together first; groups are given together and apart."""
    monkeypatch.setattr(shelves_room, "MANY", many)
    monkeypatch.setattr(shelves_room, "FEW", few)
    random = np.random.default_rng(5)
    for size in (7, 5_000):
        shelves, values = Shelves(4, np.float64), [np.empty(0)] * 4
        for groups in ([0, 2], [2], [0, 1, 2], [1]):
            own = [random.random(size) for _ in groups]
            shelves.put(np.concatenate(own), np.array(groups), np.full(len(groups), size))
            for group, more in zip(groups, own, strict=True):
                values[group] = np.append(values[group], more)
        spans = [(0, 0), (1, 1), (3, 3), (0, 1), (2, 3), (0, 3)]
        found = shelves.medians(*(np.array(each) for each in zip(*spans, strict=True)))
        wanted = [float(np.median(np.concatenate(values[a : b + 1]))) if a < 3 else None for a, b in spans]
        assert [None if one is None else round(one, 12) for one in found] == [
            None if one is None else round(one, 12) for one in wanted
        ]
