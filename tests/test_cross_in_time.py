"""Shared wallets with crowds, worked out once more from MODEL's words: all accounts together, bar after bar, as time goes.

Engines and oracle find crowds by running liquidated wallets again until nothing changes; here who falls at one moment is known when that
moment comes, and no wallet is lived through twice. Linear contracts, positions given, cash alone; hedge and one-way mode.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from datetime import timedelta
from typing import Any

import polars as pl
import pytest
from made_bars import START

import perpbt

SYMBOLS = ("AAA", "BBB", "CCC")
TIERS = ((0.0, 500.0, 0.01, 125.0), (500.0, 2_000.0, 0.03, 50.0), (2_000.0, 1e6, 0.1, 10.0))
TAKER, SLIPPAGE, HALF_SPREAD, MOST, IMPACT, CLOSE_OUT = 5e-4, 1e-3, 1e-3, 0.3, 5.0, 2e-3
HOURS = 14


def made(seed: int) -> tuple[dict[str, dict[int, dict[str, Any]]], list[dict[str, Any]]]:
    """Bars by symbol and hour, some of them missing, and positions of a few wallets in two worlds."""
    rng = random.Random(seed)
    bars: dict[str, dict[int, dict[str, Any]]] = {}
    for symbol in SYMBOLS:
        price, bars[symbol] = 100.0, {}
        for t in range(HOURS):
            if 0 < t < HOURS - 1 and rng.random() < 0.1:
                continue
            first = price * (1 + rng.uniform(-0.03, 0.03))
            price = first * (1 + rng.uniform(-0.12, 0.1))
            last = {
                "open": first, "high": max(first, price) * (1 + rng.uniform(0, 0.03)),
                "low": min(first, price) * (1 - rng.uniform(0, 0.03)), "close": price,
            }  # fmt: skip
            apart = 1 + rng.uniform(-0.004, 0.004)
            marks = {f"mark_{name}": value * apart for name, value in last.items()}
            rate = rng.choice([None, None, 0.01, -0.01])
            bars[symbol][t] = {**last, **marks, "volume": rng.choice([20.0, 500.0]), "funding_rate": rate}
    rows = []
    for account in range(12):
        world, weight = rng.choice("uv"), rng.choice([1.0, 3.0])
        for _ in range(rng.randint(1, 4)):
            rows.append(
                {
                    "account": account, "world": world, "weight": weight, "symbol": rng.choice(SYMBOLS),
                    "side": rng.choice(["long", "long", "short"]), "entry": rng.randint(0, 8),
                    "collateral": rng.choice([10.0, 30.0, 120.0]) * (1 + 0.001 * len(rows)),
                    "leverage": rng.choice([3.0, 8.0, 20.0, 40.0]), "reserve": rng.choice([0.0, 0.0, 20.0]),
                }
            )  # fmt: skip
    return bars, rows


def maintenance(notional: float) -> float:
    """MM(N) of MODEL §4, the close-out rate added."""
    found = deduction = before = 0.0
    for floor, _, rate, _ in TIERS:
        deduction += floor * (rate - before)
        before = rate
        found = max(found, notional * rate - deduction)
    return found + CLOSE_OUT * notional


class Wallet:
    """One account as it stands now."""

    def __init__(self, rows: list[dict[str, Any]], one_way: bool) -> None:
        order = ("symbol", "first", "sign", "leverage", "collateral")
        self.rows = sorted(rows, key=lambda row: tuple(row[key] for key in order))
        self.one_way, self.cash, self.world, self.weight = one_way, 0.0, rows[0]["world"], rows[0]["weight"]

    def held(self, symbol: str | None = None) -> list[dict[str, Any]]:
        return [row for row in self.rows if row.get("open") and symbol in (None, row["symbol"])]

    def symbols(self) -> list[str]:
        return sorted({row["symbol"] for row in self.held()})

    def net(self, symbol: str) -> float:
        return math.fsum(row["sign"] * row["quantity"] for row in self.held(symbol))

    def equity(self, marks: dict[str, float]) -> float:
        gains = [row["sign"] * row["quantity"] * (marks[row["symbol"]] - row["price"]) for row in self.held()]
        return self.cash + math.fsum(gains) + math.fsum(row["funding"] for row in self.held())

    def kept(self, symbol: str, mark: float) -> list[float]:
        """What each position on a symbol must keep; in one-way mode its part of what their net quantity must."""
        sizes = [row["quantity"] for row in self.held(symbol)]
        if not self.one_way:
            return [maintenance(size * mark) for size in sizes]
        whole = maintenance(abs(self.net(symbol)) * mark)
        return [whole * size / math.fsum(sizes) for size in sizes]

    def falls(self, marks: dict[str, float]) -> bool:
        must = math.fsum(one for symbol in self.symbols() for one in self.kept(symbol, marks[symbol]))
        return self.equity(marks) <= must

    def lower_hurts(self, symbol: str, low: float, high: float) -> bool:
        """Whether the lower of two marks leaves less above the requirement."""
        left = [self.net(symbol) * mark - math.fsum(self.kept(symbol, mark)) for mark in (low, high)]
        return left[0] <= left[1]

    def closed(
        self, prices: dict[str, float], reason: str, t: int, shares: list[float], taker: float
    ) -> None:
        """All positions out at these prices; fees out of what is left, and a deficit by their shares."""
        rows, dues = self.held(), []
        for row in rows:
            price = prices[row["symbol"]]
            whole = math.fsum(other["quantity"] for other in self.held(row["symbol"]))
            turned = (
                abs(self.net(row["symbol"])) * row["quantity"] / whole if self.one_way else row["quantity"]
            )
            dues.append(taker * turned * price)
        left, due = self.equity(prices), math.fsum(dues)
        part = 1.0 if due <= left else max(left, 0.0) / due
        for row, fee, share in zip(rows, dues, shares, strict=True):
            row.update(
                open=False, exit_price=prices[row["symbol"]], exit_reason=reason, exit=t, deficit=max(-left, 0.0) * share,
                fees=row["fees"] + fee * part,
            )  # fmt: skip
        self.cash = max(left - due * part, 0.0)


def slipped(bar: dict[str, Any] | None, volume: float) -> float:
    """Half-spread and the square-root law of the bar; flat where nothing trades."""
    if bar is None:
        return SLIPPAGE
    sigma = math.log(bar["high"] / bar["low"]) / (2 * math.sqrt(math.log(2)))
    return min(HALF_SPREAD + IMPACT * sigma * math.sqrt(volume / (bar["volume"] * bar["close"])), MOST)


def meet(bars: Any, t: int, points: list[tuple[Wallet, dict[str, float], dict[str, float]]]) -> None:
    """Wallets at a point of a bar, each with its marks and last prices: who falls is sold together, a world, symbol and side."""
    falling = [point for point in points if point[0].held() and point[0].falls(point[1])]
    crowd: dict[tuple[str, str, bool], float] = defaultdict(float)
    for wallet, _, lasts in falling:
        for symbol in wallet.symbols():
            net = wallet.net(symbol)
            crowd[wallet.world, symbol, net > 0] += wallet.weight * abs(net) * lasts[symbol]
    for wallet, marks, lasts in falling:
        kept = [one for symbol in wallet.symbols() for one in wallet.kept(symbol, marks[symbol])]
        fills = {}
        for symbol in wallet.symbols():
            net, bar = wallet.net(symbol), bars[symbol].get(t)
            slip = slipped(bar, crowd[wallet.world, symbol, net > 0]) if net else 0.0
            fills[symbol] = lasts[symbol] * (1 - math.copysign(slip, net))
        wallet.closed(fills, "liquidation", t, [one / math.fsum(kept) for one in kept], TAKER)


def opened(wallet: Wallet, row: dict[str, Any], bar: dict[str, Any], marks: dict[str, float]) -> None:
    """MODEL §3, and the wallet must stand at mark open with it; what is kept of a surplus backs it too."""
    price = bar["open"] * (1 + row["sign"] * SLIPPAGE)
    notional = row["collateral"] * row["leverage"] / (1 + TAKER * row["leverage"])
    if row["leverage"] > next(most for _, cap, _, most in TIERS if notional <= cap):
        row["rejection"] = "leverage_above_tier_maximum"
        return
    fee, before = TAKER * notional, wallet.cash
    row.update(open=True, price=price, quantity=notional / price, fees=fee, funding=0.0, deficit=0.0)
    wallet.cash += row["collateral"] + row["reserve"] - fee
    if wallet.falls(marks):
        wallet.cash = before
        row.update(open=False, rejection="liquidated_at_entry")


def lived(
    bars: dict[str, dict[int, dict[str, Any]]], rows: list[dict[str, Any]], one_way: bool
) -> list[Wallet]:
    """All wallets, an hour after the other; none gives a surplus to the fund."""
    of = defaultdict(list)
    for row in rows:
        row["sign"] = 1.0 if row["side"] == "long" else -1.0
        row["first"] = min(t for t in bars[row["symbol"]] if t >= row["entry"])
        of[row["account"]].append(row)
    wallets, last = [Wallet(own, one_way) for own in of.values()], {}
    for t in range(HOURS):
        now = {symbol: bars[symbol].get(t) for symbol in SYMBOLS}

        def at(name: str, now: Any = now) -> dict[str, float]:
            """A price of each symbol; of one without a bar its last close."""
            old = "mark_close" if name.startswith("mark") else "close"
            return {s: now[s][name] if now[s] else last[s][old] for s in SYMBOLS if now[s] or s in last}

        for row in rows:
            bar = now[row["symbol"]]
            if row.get("open") and bar and bar["funding_rate"]:
                row["funding"] -= row["sign"] * row["quantity"] * bar["mark_open"] * bar["funding_rate"]
        marks = at("mark_open")
        meet(bars, t, [(wallet, marks, at("open")) for wallet in wallets])
        for wallet in wallets:
            for row in wallet.rows:
                if row["first"] == t:
                    opened(wallet, row, bars[row["symbol"]][t], marks)
        points = []
        for wallet in wallets:
            worst, lasts = at("mark_close"), at("close")
            if len(wallet.symbols()) == 1:
                symbol = wallet.symbols()[0]
                low, high = at("mark_low")[symbol], at("mark_high")[symbol]
                end = "low" if wallet.lower_hurts(symbol, low, high) else "high"
                worst, lasts = at(f"mark_{end}"), at(end)
            points.append((wallet, worst, lasts))
        meet(bars, t, points)
        last.update({symbol: bar for symbol, bar in now.items() if bar})
    marks = {symbol: bars[symbol][HOURS - 1]["mark_close"] for symbol in SYMBOLS}
    for wallet in wallets:
        kept = [one for symbol in wallet.symbols() for one in wallet.kept(symbol, marks[symbol])]
        wallet.closed(marks, "end", HOURS - 1, [one / math.fsum(kept) for one in kept], 0.0)
    return wallets


def asked(
    bars: dict[str, dict[int, dict[str, Any]]], rows: list[dict[str, Any]]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The same as frames."""
    hours = [
        {"ts": START + timedelta(hours=t), "symbol": symbol, **bar} for symbol in SYMBOLS for t, bar in bars[symbol].items()
    ]  # fmt: skip
    names = ("account", "world", "weight", "symbol", "side", "collateral", "leverage", "reserve")
    table = [
        {
            **{name: row[name] for name in names},
            "strategy": f"{k:03d}",
            "entry_time": START + timedelta(hours=row["entry"]),
        }
        for k, row in enumerate(rows)
    ]
    return pl.DataFrame(hours, schema_overrides={"funding_rate": pl.Float64}), pl.DataFrame(table)


@pytest.mark.parametrize("legs", ["hedge", "one_way"])
def test_crowds_are_those_of_the_moment(legs: str) -> None:
    """Prices and wallets made at random: what was closed, when, at what price, and what is left."""
    venue = perpbt.Venue(
        name="made", taker_fee=TAKER, slippage=SLIPPAGE, half_spread=HALF_SPREAD, impact=IMPACT, max_slippage=MOST,
        close_out_rate=CLOSE_OUT, surplus_to_fund=0.0, tiers={"default": TIERS},
    )  # fmt: skip
    crowded = refused = 0
    for seed in range(25):
        bars, rows = made(seed)
        frame, table = asked(bars, rows)
        margin = {"mode": "cross", "legs": legs}
        done = perpbt.simulate(frame, table, venue=venue, margin=margin, crowding=True, engine="oracle")
        wallets = lived(bars, rows, legs == "one_way")
        crowded += done.metadata["largest_crowd"] > 1
        for row, told in zip(rows, done.accounts.sort("strategy").iter_rows(named=True), strict=True):
            assert told["rejection"] == row.get("rejection"), (seed, row)
            if told["rejection"]:
                refused += 1
                continue
            assert told["exit_reason"] == row["exit_reason"], (seed, row)
            assert told["exit_time"] == START + timedelta(hours=row["exit"]), (seed, row)
            for name in ("exit_price", "funding", "fees", "deficit"):
                assert told[name] == pytest.approx(row[name], rel=1e-9, abs=1e-9), (seed, name, row)
        left = dict(done.extra["wallets"].select("account", "wallet").rows())
        for wallet in wallets:
            assert wallet.cash == pytest.approx(left[wallet.rows[0]["account"]], rel=1e-9, abs=1e-9), seed
    assert crowded > 10
    assert refused > 10


def test_open_interest_is_a_number_that_weights_are_multiplied_by() -> None:
    """Crowds scaled to an open interest are those of wallets that are given the weights it comes to."""
    venue = perpbt.Venue(
        name="made", half_spread=HALF_SPREAD, impact=IMPACT, max_slippage=MOST, surplus_to_fund=0.5,
        tiers={"default": TIERS},
    )  # fmt: skip
    fell = other = 0
    for seed in range(12):
        frame, table = asked(*made(seed))
        options: dict[str, Any] = {"venue": venue, "margin": "cross", "crowding": True, "engine": "oracle"}
        scaled = perpbt.simulate(frame, table, open_interest=20_000.0, **options).accounts.sort("strategy")
        given = perpbt.simulate(frame, table.with_columns(scaled["weight"]), **options).accounts.sort(
            "strategy"
        )
        assert given["exit_reason"].equals(scaled["exit_reason"])
        ended = pl.col("rejection").is_null()
        for name in ("exit_price", "cash_change", "deficit", "surplus"):
            assert given.filter(ended)[name].to_list() == pytest.approx(
                scaled.filter(ended)[name].to_list(), rel=1e-9, abs=1e-9
            ), (
                seed,
                name,
            )
        fell += (scaled["exit_reason"] == "liquidation").sum()
        plain = perpbt.simulate(frame, table, **options).accounts.sort("strategy")
        other += not plain["exit_price"].equals(scaled["exit_price"])
    assert fell > 20
    assert other > 6
