"""Kernels: the same numbers compiled, bounds-checked and as plain Python; exact sums; how they are compiled.

`python tests/test_kernels.py` prints a digest of every table of a small run through both doors; the tests
run it in other processes with other settings of numba.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_bars import START, made_bars
from numba.core import config

import perpbt
from perpbt.engines.chunks import ENGINES
from perpbt.kernels.compile import cache_folder, sources_hash
from perpbt.kernels.sums import exact_sums, fund_balances

REPOSITORY = Path(__file__).parents[1]
COMPILED = {"NUMBA_DISABLE_JIT": "0", "NUMBA_BOUNDSCHECK": "0"}
BARS = 300
compiled_only = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="kernels are not compiled in this run")
HALF = {"kind": "equity", "fraction": 0.5}
POLICIES: list[dict[str, Any]] = [
    {"leverage": [3, 20, 100], "stop_loss": ["none", {"atr": 2, "window": 5}, {"margin": 0.5}]},
    {"leverage": 15, "trailing_stop": 0.02, "take_profit": 0.03, "trailing_trigger": "mark"},
    {"leverage": 10, "stop_loss": {"column": "low"}, "max_holding": "40m", "compounding": True},
    {"leverage": 8, "stop_loss": 0.05, "sizing": {"kind": "risk", "fraction": 0.02}, "stop_trigger": "mark"},
    {
        "leverage": [10, 25],
        "sizing": HALF,
        "margin_call": [
            {"action": "top_up", "threshold": 0.3, "target": 0.15, "max_calls": 3},
            {"action": "deleverage", "threshold": 0.3, "fraction": 0.5, "max_calls": 3},
        ],
        "reentry": {"cool_down": "9m", "after_liquidation": "never"},
    },
]


def market() -> pl.DataFrame:
    """Bars that part from their mark, leap, and stop trading for a while."""
    random = np.random.default_rng(3)
    bars = made_bars(BARS, mark=True, funding=True, seed=11)
    leap = pl.Series(np.where(random.random(BARS) < 0.03, 0.96, 1.0))
    shifted = [(pl.col(name) * leap).alias(name) for name in ("low", "mark_low")]
    wanted = ~pl.int_range(pl.len()).is_between(200, 204)
    return bars.with_columns(shifted).filter(wanted)


def positions() -> pl.DataFrame:
    """Positions of both sides with every kind of exit."""
    rows = [
        {
            "account": k,
            "strategy": "given",
            "symbol": "AAA",
            "side": ("long", "short")[k % 2],
            "entry_time": START + timedelta(minutes=19 * (k // 4)),
            "collateral": 100.0 + k,
            "leverage": (2.0, 10.0, 25.0, 50.0, 75.0)[k // 4 % 5],
            "stop_loss": (None, 0.02, None)[k % 3],
            "take_profit": (0.03, None)[k % 4 == 0],
            "trailing_stop": (None, 0.025)[k % 7 == 0],
            "exit_time": START + timedelta(minutes=19 * (k // 4) + 60) if k % 6 == 0 else None,
            "stop_trigger": ("last", "mark")[k % 5 == 0],
            "world": ("w", "v")[k % 9 == 0],
        }
        for k in range(60)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def often(*, every: int = 11) -> dict[str, pl.Expr]:
    """In and out at fixed distances, long and short by turns."""
    number = pl.int_range(pl.len())
    return {
        "long_entry": number % (2 * every) == 1,
        "short_entry": number % (2 * every) == every,
        "long_exit": number % every == every - 3,
        "short_exit": number % every == every - 2,
    }


def both_doors(engine: str) -> list[perpbt.Result]:
    """A small run through each door, crowded, with the fund kept short enough to run dry."""
    options: dict[str, Any] = {
        "engine": engine,
        "open_interest": 1e8,
        "crowding": True,
        "fund": {"seed": 1000.0, "fee_share": 0.1},
        "equity_every": "1h",
    }
    bars = market()
    strategies = [{"name": "random_entry", "params": {"probability": 0.05}}, often]
    return [
        perpbt.simulate(bars, positions(), **options),
        perpbt.backtest(bars, strategies, [*POLICIES], offsets=6, **options),
    ]


def digest(result: perpbt.Result) -> dict[str, str]:
    """sha256 of each table, its values and not its layout."""
    tables = {"accounts": result.accounts, "fund": result.fund, "statistics": result.statistics}
    assert result.equity is not None
    tables["equity"] = result.equity
    found = {}
    for name, table in tables.items():
        table.rechunk().write_parquet(buffer := io.BytesIO())
        found[name] = hashlib.sha256(buffer.getvalue()).hexdigest()
    return found


def elsewhere(**environment: str) -> dict[str, Any]:
    """What this file prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def here() -> list[perpbt.Result]:
    return [result for engine in ENGINES[1:] for result in both_doors(engine)]


# ---------------------------------------------------------------------- compiled, bounds-checked, plain
def test_the_run_has_everything_a_kernel_can_do(here: list[perpbt.Result]) -> None:
    accounts = pl.concat([result.accounts.with_columns(pl.col("account").cast(pl.String)) for result in here])
    reasons = Counter(accounts["exit_reason"])
    assert set(reasons) >= {
        "liquidation",
        "stop_loss",
        "trailing_stop",
        "take_profit",
        "time",
        "signal",
        "end",
    }
    assert (accounts["top_up"] > 0).any()
    assert (accounts["deficit"] > 0).any()
    assert sum(result.fund["uncovered"].sum() for result in here) > 0
    assert min(result.metadata["largest_crowd"] for result in here) > 1
    assert 150 <= sum(result.accounts["account"].n_unique() for result in here[:2]) <= 300
    digests = [digest(result) for result in here]
    assert digests == digests[:2] * len(ENGINES[1:]), "engines agree to the bit"


@pytest.mark.parametrize("setting", ["NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK"])
def test_plain_and_checked_kernels_give_the_same_tables(setting: str, here: list[perpbt.Result]) -> None:
    """Bounds checks need kernels of their own, kept apart from those without."""
    apart = cache_folder().parents[1] / "bounds-checked"
    found = elsewhere(**COMPILED | {setting: "1", "PERPBT_CACHE": str(apart)})
    assert found["compiled"] is (setting != "NUMBA_DISABLE_JIT")
    assert found["checked"], "reading beyond an array raises"
    assert found["digests"] == [digest(result) for result in here]


@compiled_only
def test_arrays_that_kernels_make_live_until_their_last_use(here: list[perpbt.Result]) -> None:
    """Memory that is let go of is unmapped at once in this process: who still writes to it is killed."""
    unmapping = {"MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_MMAP_MAX_": "100000"}
    assert elsewhere(**unmapping)["digests"] == [digest(result) for result in here]


# --------------------------------------------------------------------------------------- how they compile
def kernel_functions() -> dict[str, Any]:
    """Every compiled function, by module and name."""

    found = {}
    for path in sorted((REPOSITORY / "perpbt" / "kernels").rglob("[a-z]*.py")):
        module = importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
        for value in vars(module).values():
            if hasattr(value, "targetoptions"):
                found[f"{value.__module__}.{value.__name__}"] = value
    assert len(found) > 300
    assert len({name.rpartition(".")[0] for name in found}) > 40
    return found


@compiled_only
def test_no_kernel_is_compiled_with_fastmath() -> None:
    for name, function in kernel_functions().items():
        assert not function.targetoptions.get("fastmath"), name
        assert function.targetoptions["nogil"] is True, name
        assert function.targetoptions["error_model"] == "numpy", name
        assert function.targetoptions["nopython"] is True, name


@compiled_only
def test_both_doors_share_one_compiled_kernel(here: list[perpbt.Result]) -> None:
    """Whole numbers, nulls and several chunks in the input must not make numba compile a second version."""
    whole = market().with_columns(
        pl.col("open", "high", "low", "close").round(0) + 1, pl.col("volume").floor()
    )
    body = whole.with_columns(
        high=pl.max_horizontal("open", "high", "low", "close"),
        low=pl.min_horizontal("open", "high", "low", "close"),
    ).select("ts", "symbol", *(pl.col(name).cast(pl.Int64) for name in ("open", "high", "low", "close")))
    table = positions().with_columns(pl.col("collateral", "leverage").cast(pl.Int64))
    perpbt.simulate(pl.concat([body.head(100), body.slice(100)], rechunk=False), table, equity_every="1h")
    perpbt.simulate(body, table.with_columns(stop_loss=pl.lit(None), exit_time=pl.lit(None)), crowding=True)
    perpbt.backtest(body, "hold", {"leverage": [2, 3], "capital": 100})
    perpbt.simulate(body, table, engine="dense")
    public = {
        name: function
        for name, function in kernel_functions().items()
        if not function.targetoptions.get("forceinline")
    }
    used = {function.__name__ for function in public.values() if function.signatures}
    assert used >= {
        "build",
        "run_given",
        "run_following",
        "run_in_tiles",
        "run_trading",
        "refill",
        "settle_rows",
        "fund_events",
    }
    for name, function in public.items():
        kinds = 2 if function.__name__ == "deal" else 1  # it sorts numbers, and whole numbers
        assert len(function.signatures) <= kinds, f"{name}: {function.signatures}"


def loaded_copy(folder: Path, name: str) -> ModuleType:
    """The compile module of a copy of the kernels that stands on its own."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(f"{name}.compile")
    finally:
        sys.path.remove(str(folder))


FRESH = """
import sys, numba, numpy
from perpbt.kernels.sums import exact_sums
print(exact_sums(numpy.array([1e300, 1.0, -1e300]), numpy.array([0, 3])))
print(exact_sums.stats.cache_hits, "numba.np.linalg" in sys.modules)
print(numba.njit(lambda x: numpy.cumsum(numpy.full(2, x))[1])(1.0))
"""


@compiled_only
def test_what_compiling_needs_is_imported_by_those_who_compile() -> None:
    """A quarter of a second of each start; and a process that did without can still compile later."""
    exact_sums(np.zeros(2), np.array([0, 2]))
    said = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    (hit,) = said.stdout.splitlines()[1:2]
    assert said.stdout.splitlines()[::2] == ["[1.]", "2.0"]
    assert hit.endswith(": 1}) False")


LOADED = """
import numpy
from perpbt.kernels.compile import load
from perpbt.kernels.sums import exact_sums, make_room
load(exact_sums, make_room)
print(len(exact_sums.signatures), exact_sums.stats.cache_hits)
print(exact_sums(numpy.array([1e300, 1.0, -1e300]), numpy.array([0, 3])), len(exact_sums.signatures), exact_sums.stats.cache_misses)
"""


@compiled_only
def test_kernels_are_loaded_before_they_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact_sums(np.zeros(2), np.array([0, 2]))
    said = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    loaded, called = said.stdout.splitlines()
    assert loaded.startswith("1 ")
    assert loaded.endswith(": 1})")
    assert called == "[1.] 1 Counter()"
    monkeypatch.setenv("PERPBT_CACHE", str(tmp_path / "empty"))
    said = subprocess.run(
        [sys.executable, "-c", LOADED.split("print(exact")[0]], capture_output=True, text=True, check=True
    )
    assert said.stdout == "0 Counter()\n", "what was never compiled is left to who calls it"


def test_the_cache_moves_when_any_kernel_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba's own cache would go on serving old code after an edit in another file."""
    monkeypatch.setenv("PERPBT_CACHE", str(tmp_path / "cache"))
    source = REPOSITORY / "perpbt" / "kernels"
    shutil.copytree(source, tmp_path / "copied_kernels", ignore=shutil.ignore_patterns("__pycache__"))
    copied = loaded_copy(tmp_path, "copied_kernels")
    assert copied.sources_hash() == sources_hash()
    before = copied.cache_folder()
    assert before.parent == tmp_path / "cache" / "perpbt" / "kernels"
    assert cache_folder() == before
    for path in sorted((tmp_path / "copied_kernels").rglob("*.py")):
        text = path.read_text()
        path.write_text(text + "\n# an edit\n")
        assert copied.cache_folder() != before, path.name
        path.write_text(text)
        assert copied.cache_folder() == before
    (tmp_path / "copied_kernels" / "another.py").write_text("")
    assert copied.cache_folder() != before
    monkeypatch.delenv("PERPBT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert copied.cache_folder().is_relative_to(tmp_path / "home" / "perpbt")


SUM = """
from copied_kernels.compile import {decorator}
{also}

@{decorator}
def {name}(x):
    return {value}
"""


@compiled_only
def test_where_nothing_can_be_kept_nothing_old_is_served(tmp_path: Path) -> None:
    """A cache folder that cannot be written to, then one of which files were cut off: an edit in a file that a kernel calls counts, and
    numba's own folders stay empty.
    """
    source, target = REPOSITORY / "perpbt" / "kernels", tmp_path / "copied_kernels"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "caller.py").write_text(
        SUM.format(decorator="kernel", name="caller", value="called(x)", also="from .called import called")
    )
    (tmp_path / "file").write_text("no folder")

    def answer(added: int, cache: str) -> tuple[str, str]:
        text = SUM.format(decorator="part", name="called", value=f"x + {added}", also="")
        (target / "called.py").write_text(text)
        said = subprocess.run(
            [
                sys.executable,
                "-c",
                "from copied_kernels.caller import caller as c; print(c(10), *c.stats.cache_hits)",
            ],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "PERPBT_CACHE": str(tmp_path / cache)},
        )
        return said.stdout.split()[0], said.stderr

    for added in (1, 2):
        told, warned = answer(added, "file")
        assert told == str(10 + added)
        assert warned.count("compiled kernels cannot be kept there (Not a directory)") == 1
    assert not list(target.rglob("*.nb?"))
    assert answer(2, "cache") == answer(2, "cache") == ("12", "")
    for kept in (tmp_path / "cache").rglob("caller*.nbi"):
        os.truncate(kept, 20)
    assert answer(2, "cache") == ("12", "")
    for kept in (tmp_path / "cache").rglob("caller*.nbc"):
        os.truncate(kept, 200)
    assert answer(2, "cache") == ("12", "")


# ------------------------------------------------------------------------------------------- exact sums
HUGE = st.floats(allow_nan=False, allow_infinity=False, width=64, max_value=1e300, min_value=-1e300)
SIZES = (0.0, 5e-324, 2.0**-1022, 1e-16, 2.0**-54, 2.0**-53, 3 * 2.0**-53, 0.1, 1.0, 2.0**53, 1e16, 1e300)
TIES = st.sampled_from([sign * size for sign in (1, -1) for size in SIZES])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.lists(st.one_of(HUGE, TIES), max_size=60), max_size=6))
@example([[1.0, 2.0**-53, 2.0**-106], [1.0, 2.0**-53, -(2.0**-106)], [], [1e300, 1.0, -1e300]])
@example([[2.0**53, 1.0, 2.0**-1074], [2.0**53, -1.0, -(2.0**-1074)], [2.0**53 + 2, 1.0]])
def test_exact_sums_are_those_of_fsum(groups: list[list[float]]) -> None:
    values = np.array([x for group in groups for x in group], dtype=np.float64)
    starts = np.cumsum([0, *map(len, groups)]).astype(np.int64)
    expected = [math.fsum(group) for group in groups]
    assert exact_sums(values, starts).tolist() == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(HUGE, TIES), min_size=1, max_size=200), st.randoms(use_true_random=False))
def test_exact_sums_do_not_depend_on_order(values: list[float], random: Any) -> None:
    mixed = list(values)
    random.shuffle(mixed)
    starts = np.array([0, len(values)])
    first, second = (exact_sums(np.array(one, dtype=np.float64), starts)[0] for one in (values, mixed))
    assert first == second


def test_exact_sums_of_many_magnitudes_need_few_partials() -> None:
    """Every power of two a double has, twice: more partials than the kernel has room for would break it."""
    powers = [math.ldexp(1.0, k) for k in range(-1074, 1000)]
    values = np.array([*powers, *(-x * 1.0000000000000002 for x in reversed(powers)), *powers])
    assert exact_sums(values, np.array([0, values.size])).tolist() == [math.fsum(values.tolist())]


def test_a_fund_is_paid_into_before_it_is_drawn_on() -> None:
    fund = np.array([0, 0, 0, 1, 1])
    credits, draws = np.array([5.0, 0.0, 1.0, 0.0, 0.0]), np.array([12.0, 4.0, 0.0, 3.0, 0.0])
    balances, uncovered = fund_balances(fund, credits, draws, np.array([10.0, 2.0]))
    assert balances.tolist() == [3.0, 0.0, 1.0, 0.0, 0.0]
    assert uncovered.tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]


def beyond_the_end_raises() -> bool:
    """Whether kernels check bounds; called only where they should, for else anything may happen."""
    try:
        exact_sums(np.zeros(1), np.array([0, 9]))
    except IndexError:
        return True
    return False


if __name__ == "__main__":
    told = {
        "compiled": hasattr(exact_sums, "targetoptions"),
        "checked": beyond_the_end_raises(),
        "digests": [digest(result) for engine in ENGINES[1:] for result in both_doors(engine)],
    }
    sys.stdout.write(json.dumps(told))
