"""The shipped dataset keeps what it promises, and the generator makes it again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from perpbt.errors import InputError
from perpbt.scenarios.sample import Parameters, content_sha256, main, sample_bars, write_sample

SHIPPED = Path(__file__).parents[1] / "datasets" / "sample"
SERIES = ("", "mark_", "index_")
LARGE, MID, SMALL = "ALFAUSDT", "BRAVOUSDT", "CETAUSDT"
MINUTE = timedelta(minutes=1)
PARAMETERS = Parameters()


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SHIPPED / "manifest.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def bars(manifest: dict[str, Any]) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(SHIPPED / file["path"]) for file in manifest["files"])


def between(bars: pl.DataFrame, symbol: str, start: datetime, minutes: float) -> pl.DataFrame:
    inside = pl.col("ts").is_between(start, start + minutes * MINUTE, closed="left")
    return bars.filter(inside, pl.col("symbol") == symbol)


def at(bars: pl.DataFrame, symbol: str, ts: datetime) -> dict[str, Any]:
    return between(bars, symbol, ts, 1).row(0, named=True)


def interval_hours(bars: pl.DataFrame, symbol: str) -> pl.DataFrame:
    events = bars.filter(pl.col("symbol") == symbol).drop_nulls("funding_rate")
    return events.select("ts", hours=pl.col("ts").diff().dt.total_hours()).drop_nulls()


def test_files_are_those_of_the_manifest(manifest: dict[str, Any], bars: pl.DataFrame) -> None:
    for file in manifest["files"]:
        content = (SHIPPED / file["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert len(content) == file["bytes"]
        assert pl.read_parquet(content).height == file["rows"]
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 8_000_000
    assert {path.name for path in SHIPPED.iterdir()} == {f["path"] for f in manifest["files"]} | {
        "manifest.json"
    }
    assert {name: str(dtype) for name, dtype in bars.schema.items()} == {
        name: column["dtype"] for name, column in manifest["schema"].items()
    }
    assert bars["symbol"].unique().sort().to_list() == manifest["symbols"] == [LARGE, MID, SMALL]
    assert content_sha256(bars) == manifest["content_sha256"]


def test_regeneration_gives_the_shipped_dataset(manifest: dict[str, Any], tmp_path: Path) -> None:
    again = write_sample(tmp_path, replace(PARAMETERS, seed=manifest["seed"]))
    assert again["content_sha256"] == manifest["content_sha256"]
    assert [file["rows"] for file in again["files"]] == [file["rows"] for file in manifest["files"]]
    if importlib.metadata.version("polars") == manifest["made_with"]["polars"]:
        assert again["files"] == manifest["files"]


def test_content_hash_sees_values_and_not_their_packing(bars: pl.DataFrame) -> None:
    head = bars.head(2000)
    assert content_sha256(head.reverse()) == content_sha256(pl.concat([head[:7], head[7:]], rechunk=False))
    nulls_as_nan = head.with_columns(pl.col("funding_rate").fill_null(float("nan")))
    assert content_sha256(nulls_as_nan) == content_sha256(head)
    moved = head.with_columns(pl.when(pl.col("ts") == head["ts"][5]).then(1.0).otherwise("low").alias("low"))
    assert content_sha256(moved) != content_sha256(head)


def test_another_seed_is_another_market_with_the_same_story() -> None:
    other = sample_bars(replace(PARAMETERS, seed=PARAMETERS.seed + 1))
    start = PARAMETERS.crash.start
    assert at(other, LARGE, start)["open"] != PARAMETERS.contracts[0].price
    fall = between(other, SMALL, start, 30)["low"].to_numpy().min() / at(other, SMALL, start)["open"] - 1
    assert -0.40 < fall < -0.20


@pytest.mark.parametrize("series", SERIES)
def test_bars_are_well_formed(bars: pl.DataFrame, series: str) -> None:
    open_, high, low, close = (pl.col(f"{series}{name}") for name in ("open", "high", "low", "close"))
    assert bars.select(((low > 0) & low.is_finite() & high.is_finite()).all()).item()
    assert bars.select((low <= pl.min_horizontal(open_, close)).all()).item()
    assert bars.select((high >= pl.max_horizontal(open_, close)).all()).item()
    # Honest extremes: nearly every bar moves beyond its own open and close.
    assert bars.select((high > pl.max_horizontal(open_, close)).mean()).item() > 0.5


def test_prices_are_on_their_ticks(bars: pl.DataFrame) -> None:
    for contract in PARAMETERS.contracts:
        for series in SERIES:
            per_unit = contract.index_ticks_per_unit if series == "index_" else contract.ticks_per_unit
            for name in ("open", "high", "low", "close"):
                prices = bars.filter(pl.col("symbol") == contract.name)[f"{series}{name}"].to_numpy()
                np.testing.assert_array_equal(prices, np.rint(prices * per_unit) / per_unit)


def test_rows_are_sorted_unique_and_complete_but_for_the_gaps(bars: pl.DataFrame) -> None:
    required = bars.drop("funding_rate")
    assert sum(required.null_count().row(0)) == 0
    assert (bars["volume"] > 0).all()
    everything = PARAMETERS.days * 1440
    outage, lone = PARAMETERS.outage_minutes, PARAMETERS.lone_gaps
    for symbol, absent in ((LARGE, outage), (MID, outage), (SMALL, outage + lone)):
        ts = bars.filter(pl.col("symbol") == symbol)["ts"]
        assert ts.diff().drop_nulls().min() == MINUTE
        assert ts.len() == everything - absent
        assert ts[0] == PARAMETERS.start
        assert ts[-1] == PARAMETERS.start + (everything - 1) * MINUTE
        steps = (ts.diff().drop_nulls().dt.total_minutes().value_counts().sort("ts"))["ts"].to_list()
        assert steps == [1, 2, outage + 1] if symbol == SMALL else [1, outage + 1]


def test_outage_follows_the_crash_and_prices_gap_across_it(bars: pl.DataFrame) -> None:
    closed, reopened = datetime(2024, 1, 25, 14, 15, tzinfo=UTC), datetime(2024, 1, 25, 15, 50, tzinfo=UTC)
    for symbol in (LARGE, MID, SMALL):
        assert between(bars, symbol, closed, 95).is_empty()
        before, after = at(bars, symbol, closed - MINUTE), at(bars, symbol, reopened)
        assert after["open"] / before["close"] < 0.985
        assert after["mark_open"] / before["mark_close"] < 0.985


@pytest.mark.parametrize(
    ("symbol", "deepest", "mildest", "apart"),
    [(LARGE, -0.20, -0.15, -0.02), (MID, -0.27, -0.19, -0.04), (SMALL, -0.35, -0.25, -0.08)],
)
def test_flash_crash(bars: pl.DataFrame, symbol: str, deepest: float, mildest: float, apart: float) -> None:
    start = datetime(2024, 1, 25, 13, 10, tzinfo=UTC)
    before, crash = at(bars, symbol, start)["open"], between(bars, symbol, start, 30)
    fall = crash["low"].to_numpy().min() / before - 1
    assert deepest <= fall <= mildest
    # The last price leaves the mark, for minutes, and the mark falls with the index all the same.
    assert (crash["low"] / crash["mark_low"] - 1 < apart).any()
    assert (crash["close"] / crash["mark_close"] - 1 < apart / 2).sum() >= 3
    assert fall < crash["mark_low"].to_numpy().min() / before - 1 < -0.12
    # Partly back before the outage.
    back = at(bars, symbol, datetime(2024, 1, 25, 14, 14, tzinfo=UTC))["close"] / before - 1
    assert fall * 0.7 < back < fall * 0.15


def test_wick_is_the_last_price_alone(bars: pl.DataFrame) -> None:
    tip = at(bars, MID, datetime(2024, 1, 25, 17, 21, tzinfo=UTC))
    assert tip["low"] < 0.90 * tip["open"]
    assert tip["mark_low"] > 0.99 * tip["mark_open"]
    assert tip["index_low"] > 0.99 * tip["index_open"]
    for symbol in (LARGE, SMALL):
        quiet = at(bars, symbol, datetime(2024, 1, 25, 17, 21, tzinfo=UTC))
        assert quiet["low"] > 0.98 * quiet["open"]


@pytest.mark.parametrize(("symbol", "least"), [(LARGE, 0.05), (MID, 0.08), (SMALL, 0.15)])
def test_squeeze_hurts_shorts(bars: pl.DataFrame, symbol: str, least: float) -> None:
    start = datetime(2024, 2, 16, 8, 20, tzinfo=UTC)
    squeeze, before = between(bars, symbol, start, 20), at(bars, symbol, start)["open"]
    assert squeeze["high"].to_numpy().max() / before - 1 > least
    assert squeeze["mark_high"].to_numpy().max() / before - 1 > least


def test_funding_intervals_change(bars: pl.DataFrame) -> None:
    assert set(interval_hours(bars, LARGE)["hours"]) == {8}
    mid, small = interval_hours(bars, MID), interval_hours(bars, SMALL)
    four = pl.col("ts") > datetime(2024, 2, 5, tzinfo=UTC)
    assert set(mid.filter(~four)["hours"]) == {8}
    assert set(mid.filter(four)["hours"]) == {4}
    hourly = pl.col("ts").is_between(
        datetime(2024, 1, 25, 16, tzinfo=UTC), datetime(2024, 1, 28, tzinfo=UTC), closed="right"
    )
    assert set(small.filter(hourly)["hours"]) == {1}
    assert set(small.filter(~hourly)["hours"]) == {8}


def test_funding_follows_the_published_premium_clamped_and_capped(bars: pl.DataFrame) -> None:
    for symbol in (LARGE, MID, SMALL):
        own = bars.filter(pl.col("symbol") == symbol)
        premium = (own["close"] / own["index_close"] - 1).to_numpy()
        ts = own["ts"]
        events = own.drop_nulls("funding_rate").select("ts", "funding_rate")
        previous = PARAMETERS.start
        for stamp, rate in events.iter_rows():
            mean = premium[ts.search_sorted(previous) : ts.search_sorted(stamp)].mean()
            lean = min(max(0.0001 - mean, -0.0005), 0.0005)
            eighth = (stamp - previous) / timedelta(hours=8)
            assert rate == pytest.approx(min(max(mean + lean, -0.002), 0.002) * eighth, abs=1e-8)
            previous = stamp
        assert events["funding_rate"].n_unique() > 15
        assert (events["funding_rate"] < 0).any()
    crash = at(bars, SMALL, datetime(2024, 1, 25, 16, tzinfo=UTC))
    assert crash["funding_rate"] == -0.002


@pytest.mark.parametrize("symbol", [LARGE, MID, SMALL])
def test_volatility_clusters_and_volume_rises_with_it(bars: pl.DataFrame, symbol: str) -> None:
    # Before the crash, so that no single event makes the figure.
    calm = bars.filter(pl.col("symbol") == symbol, pl.col("ts") < PARAMETERS.crash.start - timedelta(days=1))
    size = np.abs(np.log(calm["close"].to_numpy() / calm["open"].to_numpy()))
    for lag in (1, 10, 60):
        assert np.corrcoef(size[lag:], size[:-lag])[0, 1] > 0.08
    spread = np.log(calm["high"].to_numpy() / calm["low"].to_numpy())
    volume = np.log(calm["volume"].to_numpy())
    assert np.corrcoef(volume, np.log(spread + 1e-4))[0, 1] > 0.6
    by_hour = calm.group_by(pl.col("ts").dt.hour()).agg(pl.col("volume").median()).sort("ts")["volume"]
    assert by_hour[15] > 1.3 * by_hour[3]


def test_symbols_move_together_and_tails_are_fat(bars: pl.DataFrame) -> None:
    hours = (
        bars.with_columns(hour=pl.col("ts").dt.truncate("1h"))
        .group_by("symbol", "hour")
        .agg(pl.col("open").sort_by("ts").first(), pl.col("close").sort_by("ts").last())
    )
    wide = hours.with_columns(r=(pl.col("close") / pl.col("open")).log()).pivot(
        "symbol", index="hour", values="r"
    )
    returns = wide.drop_nulls().select(LARGE, MID, SMALL).to_numpy()
    correlation = np.corrcoef(returns.T)
    assert correlation[~np.eye(3, dtype=bool)].min() > 0.4
    centred = returns - returns.mean(0)
    assert ((centred**4).mean(0) / (centred**2).mean(0) ** 2).min() > 6


def test_funding_stamp_inside_the_outage_is_an_error() -> None:
    later = replace(PARAMETERS, outage_start=datetime(2024, 1, 25, 15, 0, tzinfo=UTC))
    with pytest.raises(InputError, match=r"2024-01-25 16:00.*ALFAUSDT has no bar"):
        sample_bars(later)


def test_command_line(tmp_path: Path, manifest: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "new" / "folder")]) == 0
    assert manifest["content_sha256"] in capsys.readouterr().out
    assert not list((tmp_path / "new" / "folder").glob("*.part"))
    (tmp_path / "file").write_text("not a folder")
    assert main([str(tmp_path / "file")]) == 2
    assert "exists and is not a directory" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), "--seed", "-1"])
    assert stop.value.code == 2
