"""Tallies: the table of all positions from chunks of them, byte for byte that of a naive sum over rows."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from naive_statistics import naive_statistics
from numba.core import config
from synthetic import ledger, row, synthetic_result, table

from perpbt.errors import InputError, RunError
from perpbt.kernels import numbering, sums, tallying
from perpbt.statistics import TOTAL, summarise
from perpbt.statistics.tally import Tally

REASONS = ("liquidation", "stop_loss", "trailing_stop", "take_profit", "time", "signal", "end", "rejected")
KEYS = ("strategy", "policy", "symbol")
NUMBERS = (
    "quantity",
    "exit_price",
    "fees",
    "liquidation_fee",
    "surplus",
    "deficit",
    "total_return",
    "max_drawdown",
)
START, HOUR = 1_499_997_600_000, 3_600_000


class Made(NamedTuple):
    """Positions as codes, and the same as frames."""

    groups: pl.DataFrame
    worlds: list[str]
    columns: dict[str, np.ndarray]
    accounts: pl.DataFrame
    fund: pl.DataFrame

    def tally(self) -> Tally:
        return Tally(self.groups, self.worlds, REASONS)

    def add_to(self, tally: Tally, rows: Any = slice(None)) -> Tally:
        tally.add(**{name: values[rows] for name, values in self.columns.items()})
        return tally


def made(size: int, groups: tuple[int, int, int], worlds: int, seed: int = 0, scale: float = 1.0) -> Made:
    """Random positions with all exits, rebates, deficits settled at other times, some groups without any."""
    random = np.random.default_rng(seed)
    names = [
        (f"s{a}", f"p{b}" if b else None, f"X{c}")
        for a in range(groups[0]) for b in range(groups[1]) for c in range(groups[2])
    ]  # fmt: skip
    frame = pl.DataFrame(names[::-1], schema=dict.fromkeys(KEYS, pl.String), orient="row")
    reason = random.choice(8, size, p=[0.25, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05, 0.1]).astype(np.int8)
    dead = reason == 0
    entry = START + random.integers(0, 300, size) * HOUR
    deficit = np.where(
        (dead | (reason == 1)) & (random.random(size) < 0.4), random.exponential(50, size), 0.0
    )
    columns = {
        "group": random.integers(0, max(len(names) - 2, 1), size),
        "weight": random.uniform(1, 3, size) * scale,
        "reason": reason,
        "entry_time": entry,
        "exit_time": entry + random.integers(0, 40, size) * HOUR,
        "quantity": random.exponential(3, size),
        "exit_price": random.uniform(50, 150, size),
        "fees": np.where(random.random(size) < 0.1, 0.0, random.normal(1, 0.3, size)),
        "liquidation_fee": np.where(dead, random.exponential(2, size), 0.0),
        "surplus": np.where(dead & (deficit == 0), random.exponential(20, size), 0.0),
        "deficit": deficit,
        "total_return": np.where(dead, -1.0, random.standard_t(3, size) * 0.2),
        "max_drawdown": random.random(size),
        "world": random.integers(0, worlds, size),
        "account": random.integers(0, max(size // 3, 1), size),
    }
    labels = [f"w{k}" for k in range(worlds)]
    accounts = as_frame(frame, labels, columns)
    return Made(frame, labels, columns, accounts, fund_of(accounts))


def as_frame(groups: pl.DataFrame, worlds: list[str], columns: dict[str, np.ndarray]) -> pl.DataFrame:
    """The accounts table of these codes; refused orders have no numbers."""
    moments = {name: pl.Series(columns[name]).cast(pl.Datetime("ms")) for name in ("entry_time", "exit_time")}
    refused = pl.Series(columns["reason"] == 7)
    frame = groups[columns["group"]].with_columns(
        account=columns["account"],
        world=pl.Series(worlds, dtype=pl.String).gather(columns["world"]),
        weight=columns["weight"],
        exit_reason=pl.Series(REASONS).gather(columns["reason"]),
        **{name: values.dt.replace_time_zone("UTC") for name, values in moments.items()},
        **{name: columns[name] for name in NUMBERS},
    )
    return frame.with_columns(
        pl.when(refused).then(None).otherwise(pl.col(name)).alias(name) for name in NUMBERS
    )


def fund_of(accounts: pl.DataFrame) -> pl.DataFrame:
    """A ledger these positions explain; every seventh uncovered deficit is an hour and a bit late."""
    weight, opened = pl.col("weight"), accounts.filter(pl.col("exit_reason") != "rejected")
    rows = opened.group_by("world", "symbol", time="exit_time", maintain_order=True).agg(
        fee_share=(weight * pl.col("fees")).sum() * 0.1,
        uncovered=(weight * pl.col("deficit")).sum() * 0.3,
    )
    late = (pl.int_range(pl.len()) % 7 == 0) * (HOUR + 1)
    return rows.with_columns(pl.col("time") + late.cast(pl.Int64).cast(pl.Duration("ms")))


def population(made: Made) -> pl.DataFrame:
    """More groups than have positions, one of them twice."""
    more = pl.DataFrame([("z", None, "X0"), ("z", "p1", "X0")], schema=made.groups.schema, orient="row")
    every = pl.concat([made.groups, more, made.groups[:1]])
    return every.with_columns(accounts=pl.int_range(1, every.height + 1, dtype=pl.UInt32))


def assert_same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert found.schema == expected.schema
    for name in expected.columns:
        assert found[name].equals(expected[name]), name


SHAPES = [
    (0, (1, 1, 1), 1, 1.0),
    (1, (1, 1, 1), 1, 1.0),
    (300, (1, 1, 1), 1, 1.0),
    (2_000, (2, 3, 3), 4, 1.0),
    (1_500, (3, 5, 4), 300, 1e-280),
    (1_500, (3, 5, 4), 300, 1e280),
    (40, (4, 4, 4), 2, 1.0),
]


@pytest.fixture(scope="module")
def many() -> Made:
    return made(4_000, (3, 4, 3), 700, seed=5)


# ------------------------------------------------------------------------------------- the same as row by row
@pytest.mark.parametrize("shape", SHAPES)
def test_a_tally_equals_the_naive_sums(shape: tuple[int, tuple[int, int, int], int, float]) -> None:
    one = made(*shape[:3], seed=shape[0], scale=shape[3])
    tally = one.add_to(one.tally())
    expected = naive_statistics(one.accounts, one.fund)
    assert_same(tally.table(one.fund), expected)
    assert_same(summarise(one.accounts, one.fund), expected)
    there = population(one)
    expected = naive_statistics(one.accounts, one.fund, there)
    assert_same(tally.table(one.fund, there), expected)
    assert_same(summarise(one.accounts, one.fund, there), expected)


def test_a_run_summed_up_equals_the_naive_sums() -> None:
    result = synthetic_result(accounts=1_000, hours=3_000)
    assert_same(result.statistics, naive_statistics(result.accounts, result.fund))


def test_made_positions_have_all_there_is(many: Made) -> None:
    found = naive_statistics(many.accounts, many.fund).filter(pl.col("symbol") != TOTAL)
    assert found.height == many.groups.height - 2
    assert (found.select("rejected", "liquidated", "defaulted", "uncovered").min_horizontal() > 0).all()
    assert len(set(zip(many.columns["group"], many.columns["world"], strict=True))) > 1024, "the index grows"
    late = many.fund.filter((pl.col("time").dt.epoch("ms") % HOUR == 1) & (pl.col("uncovered") > 0))
    assert late.height > 10


# --------------------------------------------------------------------------------- order, chunks and threads
def test_chunks_order_and_merging_leave_no_trace(many: Made) -> None:
    expected = many.add_to(many.tally()).table(many.fund)
    random = np.random.default_rng(3)
    for parts in (1, 7, 60):
        tallies = [many.tally() for _ in range(3)]
        order = random.permutation(many.accounts.height)
        for k, rows in enumerate([*np.array_split(order, parts), order[:0]]):
            many.add_to(tallies[k % 3], rows)
        tallies[1].merge(tallies[2])
        tallies[0].merge(tallies[1])
        assert_same(tallies[0].table(many.fund), expected)
        assert_same(tallies[0].table(many.fund[::-1]), expected)


def test_a_table_may_be_asked_for_on_the_way(many: Made) -> None:
    tally, half = many.tally(), many.accounts.height // 2
    many.add_to(tally, slice(half))
    first = many.accounts[:half]
    assert_same(tally.table(fund_of(first)), naive_statistics(first, fund_of(first)))
    many.add_to(tally, slice(half, None))
    assert_same(tally.table(many.fund), naive_statistics(many.accounts, many.fund))


def test_threads_with_a_tally_each(many: Made) -> None:
    tallies = [many.tally() for _ in range(4)]

    def work(number: int) -> None:
        for start in range(number * 100, many.accounts.height, 400):
            many.add_to(tallies[number], slice(start, start + 100))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for tally in tallies[1:]:
        tallies[0].merge(tally)
    assert_same(tallies[0].table(many.fund), many.add_to(many.tally()).table(many.fund))


def test_a_group_may_have_several_codes(many: Made) -> None:
    twice = Tally(pl.concat([many.groups, many.groups]), many.worlds, REASONS)
    columns = dict(many.columns)
    columns["group"] = columns["group"] + many.groups.height * (np.arange(many.accounts.height) % 2)
    twice.add(**columns)
    assert_same(twice.table(many.fund), many.add_to(many.tally()).table(many.fund))


def versions() -> dict[str, int]:
    """How often each kernel was compiled for other types in this process."""
    functions = [function for module in (tallying, sums, numbering) for function in vars(module).values()]
    return {f.__name__: len(f.signatures) for f in functions if hasattr(f, "signatures")}


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="kernels are not compiled in this run")
def test_kernels_are_compiled_once_whatever_the_columns_are(many: Made) -> None:
    expected = many.add_to(many.tally()).table(many.fund)
    tally = many.tally()
    tally.merge(many.add_to(many.tally(), slice(0)))
    before = versions()
    many.add_to(tally, slice(None, None, 2))
    tally.add(**{name: values[1::2].tolist() for name, values in many.columns.items()})
    assert_same(tally.table(many.fund), expected)
    assert_same(summarise(many.accounts, many.fund), expected)
    assert versions() == before


def test_whoever_only_reads_tables_loads_no_compiler() -> None:
    code = "import sys, perpbt.statistics, perpbt.report; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


# ------------------------------------------------------------------------------------------------ edges
def test_numbers_of_refused_orders_may_be_anything() -> None:
    one = made(200, (2, 2, 2), 3)
    expected = one.add_to(one.tally()).table(one.fund)
    refused = one.columns["reason"] == 7
    for anything in (np.nan, np.inf, -1e300):
        columns = dict(one.columns)
        for name in (*NUMBERS, "weight"):
            columns[name] = np.where(refused, anything, columns[name])
        tally = one.tally()
        tally.add(**columns)
        assert_same(tally.table(one.fund), expected)


def test_fees_that_cancel_out_are_no_claim_but_a_place() -> None:
    rows = [row(account="a", fees=1.0), row(account="b", fees=-1.0), row(account="c", strategy="t", fees=2.0)]
    found = summarise(table(rows), ledger([{"fee_share": 0.5}]))
    assert found["net_fund_flow"][:2].to_list() == [0.0, 0.5]


def test_a_claim_of_a_refused_order_explains_nothing() -> None:
    one = made(50, (1, 1, 1), 1)
    columns = {**one.columns, "reason": np.full(50, 7, dtype=np.int8)}
    tally = one.tally()
    tally.add(**columns)
    with pytest.raises(RunError, match="no position explains world w0, symbol X0"):
        tally.table(one.fund)


def test_a_deficit_that_its_weight_makes_nothing_is_a_default_without_a_claim() -> None:
    accounts = table([row(weight=1e-300, deficit=1e-300), row(deficit=2.0)])
    fund = ledger([{"uncovered": 1.0}])
    assert_same(summarise(accounts, fund), naive_statistics(accounts, fund))
    with pytest.raises(RunError, match="no position explains world w, symbol X"):
        summarise(accounts[:1], fund)


def test_an_infinite_deficit_is_an_error_of_the_run() -> None:
    with pytest.raises(RunError, match=r"pd·ead·lgd"):
        summarise(table([row(deficit=1e308, weight=1e308)]), ledger())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": [0, 9]}, "group has codes from 0 to 9; allowed: 0 to 0"),
        ({"group": [-1, 0]}, "group has codes from -1 to 0; allowed: 0 to 0"),
        ({"world": [0, 2]}, "world has codes from 0 to 2; allowed: 0 to 1"),
        ({"reason": [0, 8]}, "reason has codes from 0 to 8; allowed: 0 to 7"),
        ({"reason": [0, 256]}, "reason has codes from 0 to 256; allowed: 0 to 7"),
        ({"account": [-1, 0]}, "account has codes from -1 to 0; allowed: 0 to"),
        ({"account": [0]}, r"account has shape \(1,\); it has to be \(2,\)"),
        ({"fees": [[0.0, 0.0]]}, r"fees has shape \(1, 2\); it has to be \(2,\)"),
    ],
)
def test_bad_chunks_are_refused_whole(change: dict[str, Any], message: str) -> None:
    one = made(2, (1, 1, 1), 2)
    tally = one.add_to(one.tally())
    expected = tally.table(one.fund)
    with pytest.raises(InputError, match=message):
        tally.add(**{**one.columns, **change})
    assert_same(tally.table(one.fund), expected)


def test_accounts_are_counted_or_given(many: Made) -> None:
    columns = {name: values for name, values in many.columns.items() if name != "account"}
    tally, other = many.tally(), many.tally()
    tally.add(**columns)
    other.merge(tally)
    for one in (tally, other):
        with pytest.raises(InputError, match="accounts cannot be counted"):
            one.table(many.fund)
        there = population(many)
        assert_same(one.table(many.fund, there), naive_statistics(many.accounts, many.fund, there))


def test_only_equal_tallies_merge(many: Made) -> None:
    for other in (
        Tally(many.groups[1:], many.worlds, REASONS),
        Tally(many.groups, many.worlds[1:], REASONS),
        Tally(many.groups, many.worlds, REASONS[::-1]),
    ):
        with pytest.raises(InputError, match="cannot be merged"):
            many.tally().merge(other)


def test_a_number_that_an_opened_position_lacks_is_named() -> None:
    with pytest.raises(InputError, match="accounts: fees is null in 1 positions that were opened"):
        summarise(table([row(fees=None), row()]), ledger())
