"""Strategies: finding, binding, reading, catching look-ahead; and what the shipped ones signal."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from perpbt.config import StrategySpec, load_spec
from perpbt.errors import InputError
from perpbt.load import load_bars
from perpbt.strategy import (
    SIGNALS,
    BoundStrategy,
    as_strategies,
    check_look_ahead,
    evaluate,
    evaluate_columns,
    find_strategy,
    list_strategies,
)

ROOT = Path(__file__).parents[1]
SHIPPED = ("breakout", "funding_carry", "hold", "ma_cross", "random_entry")
SMALL: dict[str, dict[str, Any]] = {
    "breakout": {"entry": 20, "exit": 7},
    "funding_carry": {"threshold": 0.0002, "exit": 0.00005},
    "hold": {"side": "short"},
    "ma_cross": {"fast": 3, "slow": 11},
    "random_entry": {"probability": 0.2},
}
CLOSE = pl.col("close")


def made_frame(bars: int = 300, seed: int = 7) -> pl.DataFrame:
    """A random walk on a coarse price grid, so that ties occur, with funding every eighth bar."""
    random = np.random.default_rng(seed)
    close = 100 + 0.5 * np.cumsum(random.integers(-3, 4, bars))
    close = close - close.min() + 50
    open_ = np.concatenate([close[:1], close[:-1]])
    high = np.maximum(open_, close) + 0.5 * random.integers(0, 3, bars)
    low = np.minimum(open_, close) - 0.5 * random.integers(0, 3, bars)
    rate = [float(random.normal(0, 0.0003)) if bar % 8 == 3 else None for bar in range(bars)]
    start = datetime(2024, 1, 1, tzinfo=UTC)
    frame = pl.DataFrame(
        {
            "ts": [start + timedelta(minutes=bar) for bar in range(bars)],
            "symbol": "TESTUSDT",
            "open": open_,
            "high": high,
            "low": low,
            "close": close,
            "funding_rate": pl.Series(rate, dtype=pl.Float64),
        }
    ).with_columns(pl.col("ts").cast(pl.Datetime("ms", "UTC")))
    return frame.with_columns(pl.col(name).alias(f"mark_{name}") for name in ("open", "high", "low", "close"))


def made(**expressions: Any) -> BoundStrategy:
    """A strategy with these signals."""

    def signals() -> dict[str, pl.Expr]:
        return expressions

    return find_strategy(signals).bind()


def strategy_file(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return path


# ---- finding


def test_all_shipped_strategies_are_listed_and_teach() -> None:
    found = {strategy.name: strategy for strategy in list_strategies()}
    assert set(SHIPPED) <= set(found)
    for name in SHIPPED:
        strategy = found[name]
        assert strategy.summary.endswith(".")
        assert len(strategy.sha256) == 64
        assert strategy.path is not None
        parameters = strategy.doc.partition("Parameters\n")[2]
        assert all(f"{parameter}" in parameters for parameter in strategy.parameters), name


def test_a_file_a_name_and_a_function_are_the_same_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '"""Mine.\n\nMore."""\nimport polars as pl\ndef signals(*, level: float = 60.0):\n'
    text += '    return {"long_entry": pl.col("close") > level}\n'
    (tmp_path / "strategies").mkdir()
    path = strategy_file(tmp_path / "strategies", text)
    strategy_file(tmp_path / "strategies", "raise SystemError", "_private")
    strategy_file(tmp_path / "strategies", "raise SystemError", "no_strategy")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(text, scope)
    frame = made_frame()
    ways = (
        find_strategy(path),
        find_strategy(str(path)),
        find_strategy("mine"),
        find_strategy(scope["signals"]),
    )
    wanted = (frame["close"] > 61).to_numpy()
    for strategy in ways:
        assert np.array_equal(evaluate(strategy.bind(level=61), frame)["long_entry"], wanted)
    assert [strategy.name for strategy in ways] == ["mine", "mine", "mine", "signals"]
    assert ways[0].summary == "Mine."
    assert ways[0].sha256 == ways[2].sha256
    assert "mine" in [strategy.name for strategy in list_strategies()]
    assert "no_strategy" not in [strategy.name for strategy in list_strategies()]
    assert not list(tmp_path.rglob("__pycache__"))
    assert find_strategy("mine.py", folder=path.parent).sha256 == ways[0].sha256


def test_a_file_of_the_same_name_in_the_working_directory_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strategies").mkdir()
    strategy_file(tmp_path / "strategies", '"""Other."""\ndef signals():\n    return {}\n', "hold")
    monkeypatch.chdir(tmp_path)
    assert find_strategy("hold").summary == "Other."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def signals(:\n", r"mine\.py, line 1: SyntaxError"),
        ("import polars\n\nboom = 1 / 0\n", r"mine\.py, line 3: ZeroDivisionError: division by zero"),
        ("import not_a_module_at_all\n", r"mine\.py, line 1: ModuleNotFoundError"),
        ("x = 1\n", r"mine\.py: a strategy needs a function signals"),
        ("def signals(*, n: int): return {}\n", r"signals\(n: int\): every parameter needs a default"),
        (
            "def signals(**params): return {}\n",
            r"signals\(\*\*params\): every parameter must be a named keyword",
        ),
        ("def signals(*, n: 'Nothing' = 1): return {}\n", r"annotations of signals\(\): name 'Nothing'"),
        (
            "def signals(): return {}\ndef columns(*, n: int = 1): return {}\n",
            "columns.* has the parameter 'n'",
        ),
    ],
)
def test_files_that_are_no_strategy(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_strategy(strategy_file(tmp_path, text))


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"hodl: neither a \.py file nor .* did you mean 'hold'\?"):
        find_strategy("hodl")


# ---- binding


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("ma_cross", {"fats": 3}, "parameter fats = 3: unknown; did you mean 'fast'"),
        ("ma_cross", {"fast": "3"}, r"parameter fast = '3': must be a valid integer \(it is int\)"),
        ("ma_cross", {"fast": 3.5}, "parameter fast = 3.5: must be a valid integer"),
        ("ma_cross", {"fast": True}, "parameter fast = True: must be a valid integer"),
        ("ma_cross", {"fast": 30, "slow": 20}, "ValueError: fast = 30 and slow = 20 must satisfy 1 <= fast"),
        ("hold", {"side": "up"}, "parameter side = 'up': must be 'long' or 'short'"),
        ("hold", {"side": "up", "sied": 1}, "side = 'up': .*; parameter sied = 1: unknown"),
        ("breakout", {"exit": 0}, "exit = 0 must be at least 1 bar"),
        ("random_entry", {"probability": 1.5}, "probability = 1.5 must be from 0 to 1"),
        ("funding_carry", {"exit": 0.1}, "exit = 0.1 and threshold = 0.0003 must satisfy"),
    ],
)
def test_bad_parameters(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"strategy {name}: .*{message}"):
        find_strategy(name).bind(**params)


def test_parameters_keep_their_defaults_and_take_numbers_of_numpy() -> None:
    bound = find_strategy("ma_cross").bind(fast=np.int64(5))
    assert bound.params == {"fast": 5, "slow": 1440}
    assert bound.label == "ma_cross fast=5"
    assert find_strategy("random_entry").bind(probability=1).params["probability"] == 1.0


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"long_enter": CLOSE > 1}, "signals.* returns 'long_enter'; did you mean 'long_entry'"),
        ({"long_entry": True}, r"signals\(\)\['long_entry'\] = True: no polars expression"),
        ([CLOSE > 1], "returned .*, not a mapping"),
    ],
)
def test_what_signals_may_not_return(returned: Any, message: str) -> None:
    def signals() -> Any:
        return returned

    with pytest.raises(InputError, match=message):
        find_strategy(signals).bind()


def test_strategies_from_all_a_notebook_may_hold() -> None:
    given = ["hold", {"name": "hold", "params": {"side": "short"}}, find_strategy("ma_cross")]
    spec = StrategySpec(name="hold", label="other")
    assert [b.label for b in as_strategies([*given, find_strategy("breakout").bind(entry=5), spec])] == [
        "hold",
        "hold side=short",
        "ma_cross",
        "breakout entry=5",
        "other",
    ]
    assert [b.label for b in as_strategies(find_strategy("hold"))] == ["hold"]
    for wrong, message in (
        ([], "at least one"),
        (["hold", "hold"], "occurs 2 times"),
        ([3], "3 must be a name"),
    ):
        with pytest.raises(InputError, match=message):
            as_strategies(wrong)


# ---- reading signals


def test_signals_are_four_boolean_arrays_and_null_is_false() -> None:
    frame = made_frame(50)
    bound = made(long_entry=CLOSE.shift(3) > 0, short_entry=pl.lit(True))
    found = evaluate(bound, frame)
    assert tuple(found) == SIGNALS
    assert all(array.dtype == np.bool_ and array.shape == (50,) for array in found.values())
    assert found["long_entry"].tolist() == [False] * 3 + [True] * 47
    assert found["short_entry"].all()
    assert not found["long_exit"].any()
    assert evaluate(bound, frame.head(0))["short_entry"].shape == (0,)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (CLOSE, "is Float64; a signal must be Boolean"),
        (pl.lit(None), "is Null; a signal must be Boolean"),
        (
            pl.col("volume") > 1,
            "needs a column these bars do not have: .*volume.*they have: ts, symbol, open",
        ),
        (CLOSE.filter(CLOSE > 60) > 1, "must have one value for each of 300 bars"),
        (CLOSE.str.len_chars() > 1, "failed: "),
        (CLOSE.map_batches(lambda s: 1 / 0, return_dtype=pl.Boolean), "failed: .*"),
    ],
)
def test_expressions_that_cannot_be_read(expression: pl.Expr, message: str) -> None:
    with pytest.raises(InputError, match=f"strategy 'signals', long_exit, symbol TESTUSDT.* {message}"):
        evaluate(made(long_exit=expression), made_frame())


def test_columns_are_the_strategys_own_then_the_bars() -> None:
    frame = made_frame(30)
    bound = find_strategy("breakout").bind(exit=5)
    own = evaluate_columns(bound, frame)
    assert list(own) == ["channel_low", "channel_high"]
    assert np.isnan(own["channel_low"][:5]).all()
    assert own["channel_low"][5] == frame["low"][:5].min()
    both = evaluate_columns(bound, frame, ["channel_high", "low", "funding_rate"])
    assert both["low"].tolist() == frame["low"].to_list()
    assert np.isnan(both["funding_rate"]).sum() == frame["funding_rate"].null_count()
    with pytest.raises(InputError, match="no such column; did you mean 'channel_low'"):
        evaluate_columns(bound, frame, ["chanel_low"])
    with pytest.raises(InputError, match="must be numeric"):
        evaluate_columns(bound, frame, ["symbol"])


# ---- look-ahead


@pytest.mark.parametrize(
    "expression",
    [
        CLOSE.shift(-1) > CLOSE,
        (CLOSE.shift(-1) > CLOSE).fill_null(False),
        (CLOSE.shift(-1) > CLOSE).fill_null(True),
        (CLOSE.shift(-5) > CLOSE + 3).fill_null(False),
        ((CLOSE.shift(-1) > CLOSE) & (pl.col("ts").dt.minute() % 10 == 7)).fill_null(False),
        CLOSE.rolling_mean(5, center=True) > CLOSE,
        (CLOSE.rolling_mean(5, center=True, min_samples=1) > CLOSE).fill_null(False),
        CLOSE.mean() < CLOSE,
        CLOSE.rank() > 150,
        CLOSE.reverse() > CLOSE,
        CLOSE.max() == CLOSE,
        pl.col("funding_rate").backward_fill() > 0,
        CLOSE.map_batches(lambda s: s > float(np.median(s.to_numpy())), return_dtype=pl.Boolean),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_look_ahead_is_caught(expression: pl.Expr, seed: int) -> None:
    with pytest.raises(InputError, match=r"long_entry, symbol TESTUSDT looks ahead: at bar \d+ \(2024-01-01"):
        check_look_ahead(made(long_entry=expression), made_frame(300, seed))


def test_look_ahead_in_a_column_is_caught(tmp_path: Path) -> None:
    text = "import polars as pl\ndef signals():\n    return {}\n"
    text += 'def columns():\n    return {"floor": pl.col("low").shift(-1)}\n'
    bound = find_strategy(strategy_file(tmp_path, text)).bind()
    with pytest.raises(InputError, match="floor, symbol TESTUSDT looks ahead"):
        check_look_ahead(bound, made_frame())


def test_a_strategy_that_is_not_deterministic_is_caught() -> None:
    random = np.random.default_rng(1)
    noise = CLOSE.map_batches(lambda s: pl.Series(random.random(len(s)) < 0.5), return_dtype=pl.Boolean)
    with pytest.raises(InputError, match="looks ahead"):
        check_look_ahead(made(long_entry=noise), made_frame())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_strategies_pass_at_every_cut(name: str) -> None:
    frame = made_frame(200)
    check_look_ahead(find_strategy(name).bind(**SMALL[name]), frame, cuts=frame.height - 1)


def test_shipped_strategies_pass_on_the_sample_and_trade_there() -> None:
    bars = load_bars("sample")
    frame = bars.collect(bars.symbols[-1]).frame
    for name in SHIPPED:
        for bound in as_strategies(list(load_spec(name).strategy)):
            check_look_ahead(bound, frame)
            found = evaluate(bound, frame)
            assert found["long_entry"].any() or found["short_entry"].any(), bound.label


def test_shipped_strategies_pass_on_real_hours() -> None:
    folder = Path(os.environ.get("PERPBT_DATA", ROOT.parent / "shared" / "data"))
    path = folder / "binance_um_1h_2019_2023.parquet"
    if not path.exists():
        pytest.skip(f"no real data: {path} is absent (set PERPBT_DATA)")
    frame = load_bars(path, symbols=["BTCUSDT"]).collect("BTCUSDT").frame
    for name in SHIPPED:
        bound = find_strategy(name).bind(**SMALL[name])
        check_look_ahead(bound, frame)
        found = evaluate(bound, frame)
        assert found["long_entry"].any() or found["short_entry"].any(), name


# ---- what the shipped ones signal, read aloud bar by bar


def test_hold_always_wants_in_on_its_side() -> None:
    for side, other in (("long", "short"), ("short", "long")):
        found = evaluate(find_strategy("hold").bind(side=side), made_frame())
        assert found[f"{side}_entry"].all()
        assert not any(found[key].any() for key in (f"{other}_entry", "long_exit", "short_exit"))


def test_ma_cross_signals_on_the_bar_of_the_cross_only() -> None:
    frame = made_frame()
    close = frame["close"].to_list()
    found = evaluate(find_strategy("ma_cross").bind(fast=4, slow=8), frame)

    def lead(bar: int) -> float:  # sums of multiples of 0.5 over powers of two are exact
        fast, slow = sum(close[bar - 3 : bar + 1]) / 4, sum(close[bar - 7 : bar + 1]) / 8
        return float(fast - slow)

    for bar in range(len(close)):
        up = bar >= 8 and lead(bar) > 0 and lead(bar - 1) <= 0
        down = bar >= 8 and lead(bar) < 0 and lead(bar - 1) >= 0
        assert (found["long_entry"][bar], found["short_entry"][bar]) == (up, down)
    assert np.array_equal(found["long_entry"], found["short_exit"])
    assert np.array_equal(found["short_entry"], found["long_exit"])
    assert found["long_entry"].sum() > 5


def test_breakout_compares_with_the_bars_before() -> None:
    frame = made_frame()
    close, high, low = (frame[name].to_list() for name in ("close", "high", "low"))
    found = evaluate(find_strategy("breakout").bind(entry=20, exit=7), frame)
    for bar in range(len(close)):
        wanted = (
            bar >= 20 and close[bar] > max(high[bar - 20 : bar]),
            bar >= 7 and close[bar] < min(low[bar - 7 : bar]),
            bar >= 20 and close[bar] < min(low[bar - 20 : bar]),
            bar >= 7 and close[bar] > max(high[bar - 7 : bar]),
        )
        assert tuple(found[key][bar] for key in SIGNALS) == wanted
    assert found["long_entry"].any()
    assert found["short_entry"].any()


def test_funding_carry_acts_on_the_last_known_rate() -> None:
    frame = made_frame()
    found = evaluate(find_strategy("funding_carry").bind(threshold=0.0002, exit=0.00005), frame)
    rate = None
    for bar, event in enumerate(frame["funding_rate"].to_list()):
        rate = rate if event is None else event
        wanted = (False,) * 4
        if rate is not None:
            wanted = (rate <= -0.0002, rate >= -0.00005, rate >= 0.0002, rate <= 0.00005)
        assert tuple(found[key][bar] for key in SIGNALS) == wanted


def test_funding_carry_never_enters_without_funding() -> None:
    bound = find_strategy("funding_carry").bind()
    frame = made_frame()
    silent = frame.with_columns(pl.lit(None, pl.Float64).alias("funding_rate"))
    assert not any(array.any() for array in evaluate(bound, silent).values())
    with pytest.raises(InputError, match=r"needs a column these bars do not have: .*funding_rate"):
        evaluate(bound, frame.drop("funding_rate"))


def splitmix64(number: int) -> int:
    number = (number + 0x9E3779B97F4A7C15) % 2**64
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) % 2**64
    return number ^ (number >> 31)


def test_random_entry_is_the_published_hash_of_time_and_seed() -> None:
    assert splitmix64(0) == 0xE220A8397B1DCDAF, "the generator's first output from state 0"
    frame = made_frame()
    found = evaluate(find_strategy("random_entry").bind(seed=42, probability=0.1), frame)
    for bar, time in enumerate(frame["ts"].dt.epoch("ms").to_list()):
        drawn = splitmix64(splitmix64(time) ^ splitmix64(42))
        enters = (drawn >> 11) / 2**53 < 0.1
        assert found["long_entry"][bar] == (enters and drawn % 2 == 0)
        assert found["short_entry"][bar] == (enters and drawn % 2 == 1)


def entries(**params: Any) -> Callable[[pl.DataFrame], np.ndarray[Any, np.dtype[np.bool_]]]:
    bound = find_strategy("random_entry").bind(**params)
    return lambda frame: np.logical_or(
        *(evaluate(bound, frame)[key] for key in ("long_entry", "short_entry"))
    )


def test_random_entries_come_as_often_as_asked_and_differ_by_seed() -> None:
    frame = made_frame(20_000)
    for probability in (0.0, 0.01, 0.3, 1.0):
        count = entries(probability=probability)(frame).sum()
        spread = 4 * np.sqrt(20_000 * probability * (1 - probability))
        assert abs(count - 20_000 * probability) <= spread
    first = entries(seed=1, probability=0.5)(frame)
    second = entries(seed=-2, probability=0.5)(frame)
    assert 0.48 < (first == second).mean() < 0.52
    sides = evaluate(find_strategy("random_entry").bind(probability=1.0), frame)
    assert abs(sides["long_entry"].sum() - 10_000) < 4 * np.sqrt(5_000)
    assert not (sides["long_entry"] & sides["short_entry"]).any()
    only = evaluate(find_strategy("random_entry").bind(probability=0.5, side="short"), frame)
    assert np.array_equal(only["short_entry"], entries(probability=0.5)(frame))
    assert not only["long_entry"].any()
