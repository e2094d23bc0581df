"""Every shipped venue, every kind of contract it lists, every margin mode: random positions through the engine.

The price in the table solves equity = what must be kept, to 1e-9 of the money at stake; at the bankruptcy price equity is 0; a bar that
goes to just inside the price leaves the position open, one that goes just beyond it does not.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

import perpbt
from perpbt.contracts import Contract, Position, liquidation_price
from perpbt.venue import PACKAGED

SHIPPED = sorted(path.stem for path in PACKAGED.glob("*.toml"))
START = datetime(2024, 1, 1, tzinfo=UTC)
PRICE = 1_000.0
HAIR = 1e-9
POSITIONS = 40


def moment(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def listed(venue: perpbt.Venue) -> list[str]:
    """One symbol for each kind of contract and rule the venue's file states."""
    found: dict[Any, str] = {}
    for symbol in sorted(venue.tiers, key=lambda name: (name == "default", name)):
        name = "OTHERUSDT" if symbol == "default" else symbol
        found.setdefault((venue.terms("contract", name), venue.terms("maintenance", name)), name)
    return list(found.values())


CASES = [(name, symbol) for name in SHIPPED for symbol in listed(perpbt.load_venue(name))]


def population(venue: perpbt.Venue, symbol: str, seed: int) -> pl.DataFrame:
    """Positions the venue opens, across its tiers: position k enters at bars 2k and 2k + 1 and leaves one bar later."""
    rng = np.random.default_rng(seed)
    contract = venue.terms("contract", symbol) or Contract()
    last = min(venue.brackets(symbol)[-1].cap, 1e9 if contract.kind != "inverse" else 1e4)
    rows = []
    for k in range(POSITIONS):
        notional = float(last * 10 ** rng.uniform(-7, -0.05))
        while (least := needed(venue, symbol, contract, notional)) > 0.8:
            notional *= 0.3
        leverage = float(rng.uniform(max(0.3, 1.01 * least), 0.95) / least)
        rows.append(
            {
                "side": ("long", "short")[k % 2], "leverage": leverage,
                "collateral": notional / leverage * (1 + venue.taker_fee * leverage),
            }
        )  # fmt: skip
    twice = [
        {
            "account": 2 * k + after,
            "entry_time": moment(2 * k + after),
            "exit_time": moment(2 * k + after + 1),
            **row,
        }
        for k, row in enumerate(rows)
        for after in (0, 1)
    ]
    return pl.DataFrame(twice).with_columns(
        pl.col("entry_time", "exit_time").cast(pl.Datetime("ms", "UTC")),
        strategy=pl.lit("s"),
        symbol=pl.lit(symbol),
    )


def needed(venue: perpbt.Venue, symbol: str, contract: Contract, notional: float) -> float:
    """The initial margin rate of a notional at PRICE."""
    size = contract.size(contract.quantity_of(notional, PRICE), PRICE)
    return venue.initial_margin_rate(notional, symbol, quantity=size)


def history(symbol: str, lows: list[float], highs: list[float]) -> pl.DataFrame:
    """Bars that open and close at PRICE."""
    return pl.DataFrame(
        {
            "ts": [moment(k) for k in range(len(lows))], "symbol": symbol, "open": PRICE,
            "high": [max(PRICE, high) for high in highs], "low": [min(PRICE, low) for low in lows], "close": PRICE,
        }
    ).with_columns(pl.col("ts").cast(pl.Datetime("ms", "UTC")))  # fmt: skip


def plain(venue: perpbt.Venue) -> perpbt.Venue:
    """Without slippage, so that a position enters at PRICE."""
    return venue.replace(slippage=0.0)


def beyond(row: dict[str, Any], share: float) -> float:
    """A price this share worse than the liquidation price of a row; as good as none where there is none to reach."""
    price: float = row["liquidation_price"]
    if row["side"] == "long":
        return max(price * (1.0 - share), PRICE * 1e-6)
    return price * (1.0 + share) if price < PRICE * 1e6 else PRICE


@pytest.mark.parametrize("mode", ["isolated", "cross"])
@pytest.mark.parametrize(("name", "symbol"), CASES, ids=[f"{name}-{symbol}" for name, symbol in CASES])
def test_the_price_in_the_table_is_where_it_happens(name: str, symbol: str, mode: str) -> None:
    """Cross: one position of a wallet that holds as much again besides its margin."""
    venue = plain(perpbt.load_venue(name))
    table, count = population(venue, symbol, seed=len(name)), 2 * POSITIONS + 1
    if mode == "cross":
        table = table.with_columns(reserve=pl.col("collateral"))
    flat = history(symbol, [PRICE] * count, [PRICE] * count)
    made = perpbt.simulate(flat, table, venue=venue, margin=mode)
    opened = made.accounts.sort("account").to_dicts()
    held = [row for row in opened if row["rejection"] is None]
    assert len(held) > 0.8 * len(opened)
    rule, contract = venue.maintenance(symbol), venue.terms("contract", symbol) or Contract()
    reached = {True: 0, False: 0}
    for row in held:
        more = table["reserve"][int(row["account"])] if mode == "cross" else 0.0
        position = Position(row["side"], row["entry_price"], row["quantity"], row["margin"] + more, contract)
        price, gone = row["liquidation_price"], row["bankruptcy_price"]
        stake = position.value(PRICE) + position.margin
        if 0.0 < price < PRICE * 1e6 and not liquidation_price(position, rule).reason:
            money = stake + position.value(price)
            assert abs(position.equity(price) - rule.required(position, price)) <= 1e-9 * money
        if 0.0 < gone < PRICE * 1e6:
            assert abs(position.equity(gone)) <= 1e-9 * (stake + position.value(gone))
            loss = price - gone if row["side"] == "long" else gone - price
            assert loss >= -1e-9 * gone
    rows = {int(row["account"]): row for row in held}
    shares = [-HAIR if k % 2 == 0 else HAIR for k in range(count)]
    worst = [beyond(rows[k], shares[k]) if k in rows else PRICE for k in range(count)]
    run = perpbt.simulate(history(symbol, worst, worst), table, venue=venue, margin=mode).accounts
    for row in run.iter_rows(named=True):
        number = int(row["account"])
        if number not in rows:
            continue
        there = rows[number]["liquidation_price"]
        inside = shares[number] < 0.0 or not PRICE * 1e-6 < there < PRICE * 1e6
        assert row["exit_reason"] == ("time" if inside else "liquidation"), (row, there)
        reached[inside] += 1
    assert min(reached.values()) > 0.2 * len(held)


@pytest.mark.parametrize("name", [name for name in SHIPPED if "portfolio" in perpbt.load_venue(name).tables])
def test_portfolio_margin_is_lost_where_the_table_says(name: str) -> None:
    """One contract behind a wallet: what must be kept is the worst scenario of its value, or the minimum charge."""
    venue = plain(perpbt.load_venue(name))
    symbol = listed(venue)[0]
    contract = venue.terms("contract", symbol) or Contract()
    assert contract.kind == "linear"
    table, count = population(venue, symbol, seed=7), 2 * POSITIONS + 1
    terms = venue.terms("portfolio", symbol)
    table = table.with_columns(leverage=pl.min_horizontal("leverage", 0.5 / max(terms.shocks)))
    flat = history(symbol, [PRICE] * count, [PRICE] * count)
    opened = perpbt.simulate(flat, table, venue=venue, margin="portfolio").accounts.sort("account").to_dicts()
    rows = {int(row["account"]): row for row in opened if row["rejection"] is None}
    assert len(rows) > 0.8 * len(opened)
    for row in rows.values():
        price = row["liquidation_price"]
        if 0.0 < price < math.inf:
            position = Position(row["side"], row["entry_price"], row["quantity"], row["margin"], contract)
            sign = 1.0 if row["side"] == "long" else -1.0
            kept = perpbt.formulas.portfolio_margin({symbol: sign * position.value(price)}, venue).required
            assert abs(position.equity(price) - kept) <= 1e-9 * (
                position.value(PRICE) + position.value(price)
            )
        if 0.0 < row["bankruptcy_price"] < math.inf:
            position = Position(row["side"], row["entry_price"], row["quantity"], row["margin"], contract)
            assert abs(position.equity(row["bankruptcy_price"])) <= 1e-9 * position.value(
                row["bankruptcy_price"]
            )
    worst = [beyond(rows[k], -HAIR if k % 2 == 0 else HAIR) if k in rows else PRICE for k in range(count)]
    run = perpbt.simulate(history(symbol, worst, worst), table, venue=venue, margin="portfolio").accounts
    for row in run.filter(pl.col("rejection").is_null()).iter_rows(named=True):
        there = rows[int(row["account"])]["liquidation_price"]
        inside = int(row["account"]) % 2 == 0 or not PRICE * 1e-6 < there < PRICE * 1e6
        assert row["exit_reason"] == ("time" if inside else "liquidation"), (row, there)
