"""A made-up result with the tables a run returns, for tests of statistics and report: no engine.

Random-walk hours with two crashes; every entry is held long or short under every leverage × stop until a
threshold is crossed or 30 days pass. Rows obey cash_change + fees + liquidation_fee + surplus - deficit ==
pnl + funding, and each world's fund is its ledger's sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import polars as pl

from perpbt.statistics import summarise

HOUR = 3_600_000
START = int(datetime(2019, 12, 1, tzinfo=UTC).timestamp() * 1000)
SYMBOLS = ("ADAUSDT", "BNBUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT")
LEVERAGES = (2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
STOPS = (None, 0.005, 0.01, 0.02, 0.05, 0.10)
CRASHES = ((2450, -0.45, 4), (12_800, -0.35, 6))  # hour from the start, log move, hours it takes
MAINTENANCE, FEE, LIQUIDATION_FEE, FUND_SEED, FEE_SHARE = 0.004, 0.0005, 0.005, 50_000.0, 0.1
HORIZON = 30 * 24
DAY = datetime(2020, 1, 1, tzinfo=UTC)


def synthetic_result(
    *,
    accounts: int = 2_000,
    symbols: Sequence[str] = SYMBOLS,
    leverages: Sequence[float] = LEVERAGES,
    stops: Sequence[float | None] = STOPS,
    hours: int = 14_000,
    seed: int = 1,
) -> SimpleNamespace:
    """Tables of about `accounts` accounts (at least one entry per symbol, side and policy)."""
    random = np.random.default_rng(seed)
    policies = policy_table(leverages, stops)
    entries = max(1, accounts // (2 * len(symbols) * policies.height))
    bars = {symbol: _bars(random, hours) for symbol in symbols}
    columns = [_positions(bars[symbol], symbol, policies, entries, random) for symbol in symbols]
    table = pl.concat(columns).with_row_index("account").with_columns(pl.col("account").cast(pl.String))
    table = _settled(table)
    fund = _ledger(table, symbols)
    return SimpleNamespace(
        accounts=table,
        fund=fund,
        statistics=summarise(table, fund),
        policies=policies,
        prices=pl.concat(_thinned(bars[symbol], symbol) for symbol in symbols),
        metadata=METADATA,
    )


def policy_table(
    leverages: Sequence[float] = LEVERAGES, stops: Sequence[float | None] = STOPS
) -> pl.DataFrame:
    rows = [
        {
            "policy": f"L{leverage:g} stop {label(stop)}",
            "leverage": leverage,
            "stop_kind": "none" if stop is None else "price",
            "stop_value": stop,
            "stop": label(stop),
            "take_profit": "none",
        }
        for leverage, stop in itertools.product(leverages, stops)
    ]
    schema = dict.fromkeys(("policy", "stop_kind", "stop", "take_profit"), pl.String)
    return pl.DataFrame(rows, schema_overrides=schema | {"leverage": pl.Float64, "stop_value": pl.Float64})


def label(stop: float | None) -> str:
    return "none" if stop is None else f"{stop * 100:g}%"


def _bars(random: np.random.Generator, hours: int) -> dict[str, np.ndarray]:
    """Hourly open, high, low, close and stamps."""
    steps = 0.008 * random.standard_t(4, hours) + 0.00005
    for hour, move, length in CRASHES:
        steps[hour : hour + length] += move / length
    close = 100.0 * np.exp(np.cumsum(steps))
    opened = np.concatenate(([100.0], close[:-1])) * np.exp(0.0005 * random.standard_normal(hours))
    reach = np.abs(0.006 * random.standard_t(4, (2, hours)))
    high, low = np.maximum(opened, close) * np.exp(reach[0]), np.minimum(opened, close) * np.exp(-reach[1])
    return {"ts": START + HOUR * np.arange(hours), "open": opened, "high": high, "low": low, "close": close}


def _thinned(bars: dict[str, np.ndarray], symbol: str, rows: int = 2000) -> pl.DataFrame:
    frame = pl.DataFrame(bars).with_columns(pl.lit(symbol).alias("symbol"), _time("ts"))
    every = -(-frame.height // rows)
    return frame.gather_every(every).select("ts", "symbol", "open", "high", "low", "close")


def _time(column: str) -> pl.Expr:
    return pl.from_epoch(pl.col(column), time_unit="ms").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def _positions(
    bars: dict[str, np.ndarray],
    symbol: str,
    policies: pl.DataFrame,
    entries: int,
    random: np.random.Generator,
) -> pl.DataFrame:
    """Exits of every entry × side × policy in one symbol."""
    grid = policies.with_columns(pl.col("stop_value").fill_null(np.inf))
    leverage, stop = grid["leverage"].to_numpy(), grid["stop_value"].to_numpy()
    room = (1.0 / leverage - MAINTENANCE) / (1.0 - MAINTENANCE)
    tables = []
    for first in np.sort(random.integers(0, len(bars["ts"]) - HORIZON, entries)):
        window = {name: values[first : first + HORIZON] for name, values in bars.items()}
        price = window["open"][0]
        for side, sign, extreme in (("long", 1.0, window["low"]), ("short", -1.0, window["high"])):
            adverse = np.maximum.accumulate(sign * (1.0 - extreme / price))
            distance = np.minimum(room, stop)
            at = np.searchsorted(adverse, distance)
            ended = at >= HORIZON
            at = np.minimum(at, HORIZON - 1)
            trigger = price * (1.0 - sign * distance)
            base = np.minimum(sign * trigger, sign * window["open"][at]) * sign
            slip = np.where(ended, 0.0, 0.0005 + 0.05 * (np.log(window["high"] / window["low"])[at]))
            reason = np.where(ended, "time", np.where(stop < room, "stop_loss", "liquidation"))
            exit_price = np.where(ended, window["close"][at], base * (1.0 - sign * slip))
            tables.append(
                grid.select("policy", "leverage").with_columns(
                    strategy=pl.lit(f"hold_{side}"),
                    symbol=pl.lit(symbol),
                    side=pl.lit(side),
                    sign=pl.lit(sign),
                    entry_price=pl.lit(price),
                    exit_price=exit_price,
                    exit_reason=reason,
                    entry_time=pl.lit(window["ts"][0]),
                    exit_time=window["ts"][at],
                    hours=pl.lit(at),
                    liquidation_price=price * (1.0 - sign * room),
                    max_drawdown=np.minimum(1.0, leverage * adverse[at]),
                )
            )
    return pl.concat(tables)


def _settled(table: pl.DataFrame) -> pl.DataFrame:
    """Money of every row by the waterfall, and the columns a result has."""
    collateral, q = pl.lit(1_000.0), pl.col("quantity") * pl.col("sign")
    notional = collateral * pl.col("leverage") / (1.0 + FEE * pl.col("leverage"))
    liquidated, closing = pl.col("exit_reason") == "liquidation", pl.col("quantity") * pl.col("exit_price")
    table = table.with_columns(
        world=pl.col("strategy") + " / " + pl.col("policy"),
        weight=pl.lit(30.0),
        position=pl.lit(1, pl.UInt32),
        rejection=pl.lit(None, pl.String),
        collateral=collateral,
        quantity=notional / pl.col("entry_price"),
        margin=notional / pl.col("leverage"),
        entry_fee=FEE * notional,
        top_up=0.0,
        worst_margin_ratio=1.0,
    )
    table = table.with_columns(
        pnl=q * (pl.col("exit_price") - pl.col("entry_price")),
        funding=-q * pl.col("entry_price") * 0.0001 * (pl.col("hours") / 8).floor(),
        bankruptcy_price=pl.col("entry_price") - pl.col("sign") * pl.col("margin") / pl.col("quantity"),
    )
    left = (pl.col("margin") + pl.col("pnl") + pl.col("funding")).alias("left")
    table = table.with_columns(left, close_fee=pl.min_horizontal(FEE * closing, left.clip(0.0)))
    rest = pl.col("left").clip(0.0) - pl.col("close_fee")
    fee = pl.when(liquidated).then(pl.min_horizontal(LIQUIDATION_FEE * closing, rest)).otherwise(0.0)
    table = table.with_columns(liquidation_fee=fee, rest=rest)
    after = pl.col("rest") - pl.col("liquidation_fee")
    table = table.with_columns(
        surplus=pl.when(liquidated).then(after).otherwise(0.0), deficit=(-pl.col("left")).clip(0.0)
    )
    fees = pl.col("entry_fee") + pl.col("close_fee")
    table = table.with_columns(fees=fees, cash_change=after - pl.col("surplus") - pl.col("collateral"))
    table = table.with_columns(
        _time("entry_time"), _time("exit_time"), total_return=pl.col("cash_change") / pl.col("collateral")
    )
    return table.drop("sign", "hours", "entry_fee", "close_fee", "left", "rest")


def _ledger(table: pl.DataFrame, symbols: Sequence[str]) -> pl.DataFrame:
    """One fund per world and symbol."""
    weight, keys = pl.col("weight"), ("time", "world", "symbol")
    flows = table.group_by(pl.col("exit_time").alias("time"), "world", "symbol").agg(
        liquidation_fees=(weight * pl.col("liquidation_fee")).sum(),
        surplus=(weight * pl.col("surplus")).sum(),
        fee_share=(weight * FEE_SHARE * pl.col("fees")).sum(),
        deficit=(weight * pl.col("deficit")).sum(),
    )
    rows = []
    for (world, symbol), group in flows.sort(keys).group_by(["world", "symbol"], maintain_order=True):
        balance = FUND_SEED / len(symbols)
        zero = dict.fromkeys(("liquidation_fees", "surplus", "fee_share", "deficit", "uncovered"), 0.0)
        opening = {"time": datetime.fromtimestamp(START / 1000, UTC), "world": world, "symbol": symbol}
        rows.append(opening | zero | {"balance": balance})
        for row in group.iter_rows(named=True):
            balance += row["liquidation_fees"] + row["surplus"] + row["fee_share"]
            paid = min(balance, row["deficit"])
            balance -= paid
            rows.append(row | {"uncovered": row["deficit"] - paid, "balance": balance})
    return pl.DataFrame(rows).select(
        pl.col("time").cast(pl.Datetime("ms", "UTC")), "world", "symbol", "liquidation_fees", "surplus",
        "fee_share", "deficit", "uncovered", "balance",
    ).sort(keys)  # fmt: skip


def row(**given: object) -> dict[str, object]:
    """One position by hand: a long that ended by time with no gain, changed by what is given."""
    plain: dict[str, object] = {
        "account": "a", "position": 1, "strategy": "s", "policy": "p", "symbol": "X", "world": "w",
        "weight": 1.0, "side": "long", "leverage": 10.0, "collateral": 100.0,
        "entry_time": DAY, "entry_price": 100.0,
        "quantity": 10.0, "margin": 100.0, "exit_time": DAY, "exit_price": 100.0, "exit_reason": "time",
        "rejection": None, "pnl": 0.0,
        "funding": 0.0, "fees": 0.0, "liquidation_fee": 0.0, "surplus": 0.0, "deficit": 0.0, "top_up": 0.0,
        "cash_change": 0.0, "total_return": 0.0, "max_drawdown": 0.0, "worst_margin_ratio": 0.5,
    }  # fmt: skip
    rejected = {name: None for name in list(plain)[11:] if name not in ("exit_reason", "rejection")}
    if given.get("exit_reason") == "rejected":
        plain = plain | rejected | {"rejection": "leverage_above_tier_maximum"}
    return plain | given


def table(rows: Sequence[dict[str, object]]) -> pl.DataFrame:
    """Rows of `row` as an accounts table with its types."""
    times = {name: pl.Datetime("ms", "UTC") for name in ("entry_time", "exit_time")}
    words = dict.fromkeys(
        ("account", "strategy", "policy", "symbol", "world", "side", "exit_reason", "rejection"), pl.String
    )
    numbers = {name: pl.Float64 for name, value in row().items() if isinstance(value, float)}
    schema = {name: (times | words | numbers).get(name) for name in row()}
    return pl.DataFrame(list(rows), schema=schema, infer_schema_length=None)


def ledger(rows: Sequence[dict[str, object]] = ()) -> pl.DataFrame:
    """Fund rows; flows not given are 0."""
    flows = ("liquidation_fees", "surplus", "fee_share", "deficit", "uncovered", "balance")
    schema = {"time": pl.Datetime("ms", "UTC"), "world": pl.String, "symbol": pl.String} | dict.fromkeys(
        flows, pl.Float64
    )
    plain = {"time": DAY, "world": "w", "symbol": "X"} | dict.fromkeys(flows, 0.0)
    return pl.DataFrame([plain | given for given in rows], schema=schema)


METADATA = {
    "title": "Leverage against stop loss",
    "description": "Made-up hours of five symbols with two crashes, held long and short.",
    "engine": "dense",
    "venue": {
        "name": "binance_um",
        "title": "Binance USD-M futures",
        "taker_fee": FEE,
        "maker_fee": 0.0002,
        "provenance": {
            "taker_fee": {"source": "fee schedule, regular user", "as_of": "2025-11-01", "note": ""},
            "tiers.default": {"source": "leverage brackets", "as_of": "2023-08-14", "note": "older table"},
        },
    },
    "rules": {
        "intrabar": "pessimistic",
        "take_profit_fill": "limit",
        "oversize": "reject",
        "funding_price": "mark",
    },
    "fund": {"seed": FUND_SEED, "scope": "symbol", "fee_share": FEE_SHARE},
    "open_interest": 250_000_000.0,
    "crowding": True,
    "symbols": {
        symbol: {
            "bars": 14_000,
            "first": "2019-12-01T00:00:00+00:00",
            "last": "2021-07-06T07:00:00+00:00",
            "bar_seconds": 3600.0,
            "missing_bars": 3,
            "mark": "none" if symbol == "SOLUSDT" else "full",
        }
        for symbol in SYMBOLS
    },
    "notes": ["SOLUSDT: no mark price; mark = last on every bar"],
    "versions": {"python": "3.11", "polars": "2.1.0"},
    "timings_seconds": {"load": 0.4, "simulate": 1.2, "settle": 0.6},
}
