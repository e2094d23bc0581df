"""Shared wallets on Binance's hourly history: the oracle against both engines with `==`, through March 2020, May 2021 and March 2023."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_cross import same

import perpbt

DATA = Path(os.environ.get("PERPBT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
HISTORY = DATA / "binance_um_1h_2019_2023.parquet"
pytestmark = pytest.mark.skipif(
    not HISTORY.is_file(), reason=f"no real data at {HISTORY}: set PERPBT_DATA to the folder that holds it"
)
SYMBOLS = ("ADAUSDT", "BTCUSDT", "ETHUSDT", "LTCUSDT", "XRPUSDT")
SPANS = {
    "March 2020": ("2020-02-20", "2020-04-01"),
    "May 2021": ("2021-05-01", "2021-06-10"),
    "March 2023": ("2023-02-20", "2023-04-01"),
}
MARGINS: dict[str, dict[str, Any]] = {
    "hedge": {"mode": "cross", "legs": "hedge"},
    "hedge, all extremes at once": {"mode": "cross", "legs": "hedge", "test": "extremes"},
    "one way": {"mode": "cross", "legs": "one_way"},
    "portfolio": {"mode": "portfolio"},
}
DYNAMIC = {"model": "ewma", "warm_up": 10, "leverage": True}
WALLETS = 36


def wallets(first: datetime, hours: int, seed: int) -> pl.DataFrame:
    """Wallets of one to four positions: alone, on several coins, long and short on one coin, opened together or one after another."""
    rng = np.random.default_rng(seed)
    rows = []
    for wallet in range(WALLETS):
        kind, coins = wallet % 4, rng.permutation(SYMBOLS)
        start = int(rng.integers(0, hours // 2))
        leverage = float(rng.choice([1.0, 2.0, 3.0, 5.0, 8.0, 15.0]))
        for leg in range((1, 2, 3, 2)[kind] + int(rng.random() < 0.3)):
            later = int(rng.integers(0, hours // 4)) if rng.random() < 0.3 else 0
            rows.append(
                {
                    "account": f"{wallet:03d}",
                    "strategy": ("alone", "hedged across coins", "several", "hedged in one coin")[kind],
                    "symbol": str(coins[0 if kind in (0, 3) else leg % 5]),
                    "side": ("long", "short")[leg % 2 if kind in (1, 3) else int(rng.random() < 0.3)],
                    "entry_time": first + timedelta(hours=start + later, minutes=int(rng.integers(0, 2))),
                    "exit_time": None if rng.random() < 0.5 else first + timedelta(hours=hours * 3 // 4),
                    "collateral": float(rng.choice([300.0, 5_000.0, 250_000.0])),
                    "leverage": leverage,
                    "stop_loss": 0.08 if rng.random() < 0.15 else None,
                    "take_profit": 0.15 if rng.random() < 0.15 else None,
                    "trailing_stop": 0.1 if rng.random() < 0.15 else None,
                    "stop_trigger": str(rng.choice(["last", "mark"])),
                    "trailing_trigger": str(rng.choice(["last", "mark"])),
                    "reserve": 50.0 if rng.random() < 0.3 else None,
                }
            )
    return pl.DataFrame(rows, infer_schema_length=None)


def collateral(table: pl.DataFrame, first: datetime, hours: int, seed: int) -> dict[str, pl.DataFrame]:
    """Bitcoin, priced by its perpetual, and a dollar that for two days is worth 0.88, in most wallets."""
    rng = np.random.default_rng(seed)
    held = [
        {"account": name, "asset": asset, "amount": amount}
        for name in table["account"].unique().sort()
        for asset, amount in (("BTC", 0.05), ("USDC", 400.0))
        if rng.random() < 0.6
    ]
    middle = first + timedelta(hours=hours // 2)
    moments = [first - timedelta(days=1), middle, middle + timedelta(hours=30), middle + timedelta(hours=48)]
    prices = pl.DataFrame({"ts": moments, "asset": ["USDC"] * 4, "price": [1.0, 0.97, 0.88, 0.9985]})
    return {"holdings": pl.DataFrame(held), "prices": prices}


def made_venue() -> perpbt.Venue:
    """Binance's fees and tiers, OKX's scenarios, and two assets as collateral."""
    okx, binance = perpbt.load_venue("okx"), perpbt.load_venue("binance_um")
    return binance.replace(
        portfolio=okx.tables["portfolio"],
        collateral={
            "BTC": {"haircuts": [0.02, 0.05], "caps": [0.03], "order": 2, "price": "BTCUSDT", "nets": True},
            "USDC": {"haircuts": [0.01], "order": 1, "conversion_fee": 0.001},
        },
        surplus_to_fund=0.5,
    )


@pytest.mark.parametrize("rule", ["brackets", "whole", "size"])
def test_engines_equal_the_oracle_under_tiers_that_change(rule: str) -> None:
    """Dated tiers, scaled with the volatility of each day; whole positions in steps, and a rate that grows with size."""
    start, end = SPANS["March 2020"]
    first = datetime.fromisoformat(start)
    table = wallets(first, 24 * 41, len(rule)).with_columns(pl.col("collateral") / 10)
    bands = ((0.0, 5e3, 0.004, 125.0), (5e3, 5e4, 0.02, 50.0), (5e4, 1e9, 0.05, 20.0))
    one = ((0.0, 1e9, 0.01, 50.0),)
    old, new = (one, one) if rule == "size" else (bands, tuple((a, b, 2 * r, m / 2) for a, b, r, m in bands))
    venue = perpbt.Venue(
        name="made", taker_fee=4e-4, impact=0.5, max_slippage=0.05, half_spread=2e-4, surplus_to_fund=0.5,
        maintenance={"rule": rule, "per_unit": 1e-6 if rule == "size" else 0.0},
        dated={name: [(first, old), (first + timedelta(days=19, minutes=k), new)] for k, name in enumerate(SYMBOLS)},
    )  # fmt: skip
    bars = perpbt.load_bars(HISTORY, symbols=list(SYMBOLS), start=start, end=end)
    for margin in ("hedge", "one way"):
        done = [
            perpbt.simulate(
                bars, table, venue=venue, margin=MARGINS[margin], dynamic=DYNAMIC, engine=engine, equity_every="6h"
            )
            for engine in ("oracle", "dense", "skip")
        ]  # fmt: skip
        still = perpbt.simulate(bars, table, venue=venue, margin=MARGINS[margin]).extra["wallets"]
        for other in done[1:]:
            same(done[0], other)
            assert done[0].equity is not None
            assert done[0].equity.equals(other.equity)
        assert not still["worst_margin_ratio"].equals(done[0].extra["wallets"]["worst_margin_ratio"])
        assert done[0].accounts["exit_reason"].is_in(["liquidation"]).sum() > 8
        last = done[0].equity.group_by("account").agg(pl.col("equity").last()).sort("account")
        ended = done[0].extra["wallets"].join(last, on="account")
        # a refused order brings nothing, but its curve begins with what it would have brought
        refused = table.filter(done[0].accounts["rejection"].is_not_null())["account"].unique()
        ended = ended.filter(~pl.col("account").is_in(refused.implode()))
        assert ended.height > 20
        assert (ended["wallet"] - ended["equity"]).abs().max() < 1e-6


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("span", SPANS)
def test_engines_equal_the_oracle_on_real_hours(span: str, margin: str) -> None:
    start, end = SPANS[span]
    first = datetime.fromisoformat(start)
    hours = int((datetime.fromisoformat(end) - first).total_seconds()) // 3600
    seed = sorted(SPANS).index(span) * 10 + sorted(MARGINS).index(margin)
    table = wallets(first, hours, seed)
    venue = made_venue()
    bars = perpbt.load_bars(HISTORY, symbols=list(SYMBOLS), start=start, end=end)
    held = collateral(table, first, hours, seed)
    done = [
        perpbt.simulate(
            bars, table, venue=venue, margin=MARGINS[margin], collateral=held, engine=engine,
            rules={"intrabar": "optimistic" if seed % 3 == 0 else "pessimistic"},
        )
        for engine in ("oracle", "dense", "skip")
    ]  # fmt: skip
    for other in done[1:]:
        same(done[0], other)
        assert done[0].extra["collateral"].equals(other.extra["collateral"])
    found = done[0].accounts
    assert found.filter(pl.col("exit_reason") == "liquidation").height > (0 if span == "March 2023" else 8)
    assert set(found["exit_reason"]) >= {"time", "end", "trailing_stop"}
    if margin != "portfolio" and span != "March 2023":  # scenarios ask for more than tiers do
        assert (done[0].extra["wallets"]["deficit"] > 0.0).any()
