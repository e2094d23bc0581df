"""Hours of 2020 in which last and mark parted ways, on Binance's hourly history: stops look at last, liquidation at mark."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import perpbt

DATA = Path(os.environ.get("PERPBT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
HISTORY = DATA / "binance_um_1h_2019_2023.parquet"
pytestmark = pytest.mark.skipif(
    not HISTORY.is_file(), reason=f"no real data at {HISTORY}: set PERPBT_DATA to the folder that holds it"
)


def hours(symbol: str, first: str, last: str) -> perpbt.Bars:
    return perpbt.load_bars(HISTORY, symbols=[symbol], start=first, end=last)


def longs(symbol: str, entries: list[datetime], leverages: list[float], **wishes: object) -> pl.DataFrame:
    rows = [
        {"account": f"{entry:%d-%H} {leverage:g}x", "strategy": "hold", "symbol": symbol, "side": "long"}
        | {"entry_time": entry, "collateral": 100.0, "leverage": leverage, **wishes}
        for entry in entries
        for leverage in leverages
    ]
    return pl.DataFrame(rows)


ADA_HOUR = datetime(2020, 2, 28, 17)
ADA_ENTRIES = [ADA_HOUR - timedelta(hours=back) for back in range(9)]
ADA_LEVERAGES = [2.0, 3.0, 5.0, 10.0, 15.0, 20.0, 25.0, 50.0, 75.0]


def test_no_long_is_liquidated_by_a_wick_its_mark_did_not_share() -> None:
    """ADA, 28 Feb 2020 17:00: last 0.02286, mark no lower than 0.047685."""
    bars = hours("ADAUSDT", "2020-02-28", "2020-02-29")
    bar = bars.collect("ADAUSDT").frame.filter(pl.col("ts") == pl.lit(ADA_HOUR).dt.replace_time_zone("UTC"))
    last_low, mark_low = bar["low"][0], bar["mark_low"][0]
    assert (last_low, round(mark_low, 6)) == (0.02286, 0.047685)
    accounts = perpbt.simulate(bars, longs("ADAUSDT", ADA_ENTRIES, ADA_LEVERAGES)).accounts
    in_reach_of_the_wick = accounts.filter(
        pl.col("liquidation_price").is_between(last_low, mark_low, closed="left")
        & (pl.col("exit_time").dt.replace_time_zone(None) >= ADA_HOUR)
    )
    assert in_reach_of_the_wick.height > 40
    hit = accounts.filter(
        (pl.col("exit_reason") == "liquidation")
        & (pl.col("exit_time").dt.replace_time_zone(None) == ADA_HOUR)
    )
    # who is liquidated in that hour is so by mark: funding moves the level by less than 0.1 %
    assert hit.filter(pl.col("liquidation_price") < mark_low * 0.999).height == 0
    assert in_reach_of_the_wick.filter(pl.col("leverage") <= 25)["exit_reason"].unique().to_list() == ["end"]


@pytest.mark.parametrize("distance", [0.05, 0.1, 0.3, 0.5])
def test_a_stop_on_last_does_fire_in_that_wick_and_one_on_mark_does_not(distance: float) -> None:
    bars = hours("ADAUSDT", "2020-02-28", "2020-02-29")
    table = longs("ADAUSDT", ADA_ENTRIES, [1.0], stop_loss=distance)
    on_last = perpbt.simulate(bars, table).accounts
    assert on_last["exit_reason"].unique().to_list() == ["stop_loss"]
    assert on_last["exit_time"].dt.replace_time_zone(None).unique().to_list() == [ADA_HOUR]
    venue = perpbt.load_venue("binance_um")
    wanted = on_last["entry_price"] * (1.0 - distance) * (1.0 - venue.slippage)
    assert (on_last["exit_price"] / wanted - 1.0).abs().max() < 1e-12  # at the level, inside the wick
    on_mark = perpbt.simulate(bars, table.with_columns(stop_trigger=pl.lit("mark"))).accounts
    assert on_mark["exit_reason"].unique().to_list() == ["end"]


def test_a_stop_on_last_fires_far_below_mark() -> None:
    """BTC, 12 Mar 2020 10:00: last low 5,199.17, mark low 5,620.86; a stop at 5,200 fires 7.5 % below the lowest mark."""
    bars = hours("BTCUSDT", "2020-03-12", "2020-03-13")
    entered = 7382.85  # the open of 09:00
    venue = perpbt.load_venue("binance_um").replace(slippage=0.0)
    table = longs("BTCUSDT", [datetime(2020, 3, 12, 9)], [2.0], stop_loss=1.0 - 5200.0 / entered)
    row = perpbt.simulate(bars, table, venue=venue).accounts.row(0, named=True)
    assert (row["entry_price"], row["exit_reason"]) == (entered, "stop_loss")
    assert row["exit_time"].replace(tzinfo=None) == datetime(2020, 3, 12, 10)
    assert row["exit_price"] == pytest.approx(5200.0, rel=1e-12)
    mark_low = 5620.85628
    assert 0.07 < 1.0 - row["exit_price"] / mark_low < 0.08
    on_mark = perpbt.simulate(bars, table.with_columns(stop_trigger=pl.lit("mark")), venue=venue).accounts
    assert on_mark["exit_time"][0].replace(tzinfo=None) > datetime(
        2020, 3, 12, 20
    )  # the mark got there in the evening


def test_may_2021_short_of_mark_liquidations_use_mark_and_fill_at_last() -> None:
    """ETH, 19 May 2021 13:00: last low 1,400.73, mark low 1,764.26: who lies between is not liquidated then."""
    bars = hours("ETHUSDT", "2021-05-19", "2021-05-20")
    moment = datetime(2021, 5, 19, 13)
    accounts = perpbt.simulate(bars, longs("ETHUSDT", [moment], [2.0, 2.5, 3.0, 4.0, 5.0, 10.0])).accounts
    for row in accounts.iter_rows(named=True):
        by_mark = row["liquidation_price"] >= 1764.258181
        assert (row["exit_reason"] == "liquidation") == by_mark, row
    assert accounts["exit_reason"].n_unique() == 2
