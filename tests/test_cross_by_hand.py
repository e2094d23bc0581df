"""Shared wallets against sums done by hand: cross and portfolio margin, collateral, all three engines.

Oracle and kernels share their rules, so that both could be wrong alike; here every number is worked out from MODEL's words in the
docstring above it. No fees and no slippage but where they are named.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

import perpbt

START = datetime(2024, 1, 1, tzinfo=UTC)
TIERS = {"AAA": [(0.0, 1e9, 0.01, 125.0)], "BBB": [(0.0, 1e9, 0.02, 50.0)]}
TWO = {"A": ("AAA", "long", 1_000, 5), "B": ("BBB", "long", 1_000, 5)}  # 50 units at 100, 100 units at 50
NET = {"L": ("AAA", "long", 100, 50), "S": ("AAA", "short", 60, 50)}  # 50 and 30 units at 100


def venue(**fields: Any) -> perpbt.Venue:
    return perpbt.Venue(name="hand", tiers=TIERS, **fields)


def bars_of(prices: dict[str, dict[int, Any] | list[Any]], **columns: list[Any]) -> pl.DataFrame:
    """A bar an hour and symbol: a price stands still, or (open, high, low, close); of a dict only those hours."""
    rows = []
    for symbol, own in prices.items():
        for hour, price in (own if isinstance(own, dict) else dict(enumerate(own))).items():
            four = price if isinstance(price, tuple) else (price,) * 4
            rows.append((START + timedelta(hours=hour), symbol, *map(float, four)))
    frame = pl.DataFrame(rows, schema=["ts", "symbol", "open", "high", "low", "close"], orient="row")
    return frame.with_columns(pl.col("ts").cast(pl.Datetime("ms", "UTC"))).with_columns(
        pl.Series(name, values, dtype=pl.Float64) for name, values in columns.items()
    )


def run(
    prices: Any, legs: dict[str, tuple[Any, ...]], margin: Any = "cross", **options: Any
) -> perpbt.Result:
    """Legs of one account, told apart by `strategy`: symbol, side, collateral, leverage, perhaps the hour of a time exit."""
    table = pl.DataFrame(
        [
            (
                "w", name, symbol, side, START + timedelta(hours=1), float(money), float(leverage),
                START + timedelta(hours=rest[0]) if rest else None,
            )
            for name, (symbol, side, money, leverage, *rest) in legs.items()
        ],
        schema={
            "account": pl.String, "strategy": pl.String, "symbol": pl.String, "side": pl.String,
            "entry_time": pl.Datetime("ms", "UTC"), "collateral": pl.Float64, "leverage": pl.Float64,
            "exit_time": pl.Datetime("ms", "UTC"),
        },
        orient="row",
    )  # fmt: skip
    bars = prices if isinstance(prices, pl.DataFrame) else bars_of(prices)
    rules = options.pop("venue", venue())
    made = [
        perpbt.simulate(bars, table, venue=rules, margin=margin, engine=engine, **options)
        for engine in ("skip", "dense", "oracle")
    ]
    assert made[0].accounts.equals(made[1].accounts)
    assert made[0].accounts.equals(made[2].accounts)
    return made[0]


def told(result: perpbt.Result, name: str) -> dict[str, Any]:
    """A column by leg."""
    return dict(result.accounts.select("strategy", name).rows())


# ---------------------------------------------------------------------------------------------------- cross
@pytest.mark.parametrize(("close", "gone"), [(46.5, False), (46.0, True)])
def test_several_symbols_are_tested_at_the_close(close: float, gone: bool) -> None:
    """At closes of 70 and 46.5 the wallet has 2,000 - 1,500 - 350 = 150 and must keep 35 + 93; at 46 it has 100 against 35 + 92 and is
    closed there. What is left goes to the fund from both, 35 and 92 parts of 127. A wick to 60 on the way changes nothing.
    """
    prices = {"AAA": [100, 100, (100, 100, 60, 70), 70], "BBB": [50, 50, (50, 50, close, close), close]}
    result = run(prices, TWO)
    assert (set(told(result, "exit_reason").values()) == {"liquidation"}) is gone
    if gone:
        assert told(result, "exit_price") == {"A": 70, "B": 46}
        assert told(result, "surplus") == pytest.approx({"A": 100 * 35 / 127, "B": 100 * 92 / 127})
        assert told(result, "cash_change") == pytest.approx(
            {"A": -1_500 - 3_500 / 127, "B": -400 - 9_200 / 127}
        )
        assert result.extra["wallets"]["wallet"][0] == pytest.approx(0, abs=1e-9)


def test_all_extremes_at_once_are_an_upper_bound() -> None:
    """A's wick to 58 costs 2,100 of 2,000: closed at 58 and 50, 100 are missing, 29 and 100 parts of 129. At closes nobody sees it."""
    prices = {"AAA": [100, 100, (100, 100, 58, 100), 100], "BBB": [50, 50, 50, 50]}
    assert set(told(run(prices, TWO), "exit_reason").values()) == {"end"}
    result = run(prices, TWO, {"mode": "cross", "test": "extremes"})
    assert told(result, "exit_price") == {"A": 58, "B": 50}
    assert told(result, "deficit") == pytest.approx({"A": 100 * 29 / 129, "B": 100 * 100 / 129})


@pytest.mark.parametrize(
    ("rate", "of_a", "of_b", "rest"), [(0.01, 35, 46, 19), (0.02, 100 * 70 / 162, 100 * 92 / 162, 0)]
)
def test_liquidation_fees_come_out_of_what_is_left(
    rate: float, of_a: float, of_b: float, rest: float
) -> None:
    """100 are left of 3,500 and 4,600 turned over: 1 % of both is 81, 2 % is 162, of which each gets the same part."""
    prices = {"AAA": [100, 100, (100, 100, 70, 70), 70], "BBB": [50, 50, (50, 50, 46, 46), 46]}
    result = run(prices, TWO, venue=venue(liquidation_fee=rate))
    assert told(result, "liquidation_fee") == pytest.approx({"A": of_a, "B": of_b})
    assert sum(told(result, "surplus").values()) == pytest.approx(rest)


@pytest.mark.parametrize(("legs", "rate"), [("hedge", 0.8), ("one_way", 0.2)])
def test_opposite_legs_keep_margin_each_or_net(legs: str, rate: float) -> None:
    """160 back 20 net units: 160 - 20 (100 - P) = 1 % of 80 P or of 20 P, at 95.83 or 92.93. One symbol: tested at its adverse extreme."""
    price = 1_840 / (20 - rate)
    low = price - 0.01
    for wick, reason in ((price + 0.01, "end"), (low, "liquidation")):
        result = run({"AAA": [100, 100, (100, 100, wick, 100), 100]}, NET, {"mode": "cross", "legs": legs})
        assert set(told(result, "exit_reason").values()) == {reason}
    assert told(result, "liquidation_price")["S"] == pytest.approx(price, rel=1e-9)
    assert sum(told(result, "surplus").values()) == pytest.approx(160 - 20 * (100 - low))


def test_legs_that_cancel_but_for_rounding_are_liquidated_where_legs_that_cancel_are() -> None:
    """0.1 + 0.2 - 0.3 is 5.6e-17: 6 of cash against 1 % of 0.6 P, at 1,000."""
    two = {"A": ("AAA", "long", 3, 10), "B": ("AAA", "short", 3, 10)}
    three = {"A": ("AAA", "long", 1, 10), "B": ("AAA", "long", 2, 10), "C": ("AAA", "short", 3, 10)}
    for legs in (two, three):
        prices = told(run({"AAA": [100] * 4}, legs), "liquidation_price")
        assert prices == pytest.approx(dict.fromkeys(legs, 1_000.0), rel=1e-9)


def test_a_leg_may_lose_what_others_brought() -> None:
    """A, closed by time at 75, has lost 1,250 of the 1,000 it brought; B still has 750 behind it, and keeps them."""
    result = run({"AAA": [100, 100, 75, 75], "BBB": [50, 50, 50, 50]}, {**TWO, "A": (*TWO["A"], 2)})
    assert told(result, "exit_reason") == {"A": "time", "B": "end"}
    assert told(result, "cash_change") == pytest.approx({"A": -1_250, "B": 0})
    assert result.extra["wallets"]["wallet"][0] == pytest.approx(750)


def test_funding_is_paid_out_of_the_wallet() -> None:
    """1 % of 100 for 50 units, and received for 100 units of B at -1 % of 50: nothing, in sum."""
    columns = {"funding_rate": [None, None, 0.01, None, None, None, -0.02, None]}
    result = run(bars_of({"AAA": [100] * 4, "BBB": [50] * 4}, **columns), TWO)
    assert told(result, "funding") == pytest.approx({"A": -50, "B": 100})
    assert result.extra["wallets"]["wallet"][0] == pytest.approx(2_050)


def test_a_symbol_without_a_bar_stands_where_it_was() -> None:
    """B has no bar while A opens at 62: 2,000 - 1,900 against 31 + 100. Both go at that open, B at its last price."""
    prices = {"AAA": [100, 100, 70, 62, 62], "BBB": {0: 50, 1: 50, 4: 45}}
    result = run(prices, TWO)
    assert set(told(result, "exit_time").values()) == {START + timedelta(hours=3)}
    assert told(result, "exit_price") == {"A": 62, "B": 50}
    assert told(result, "surplus") == pytest.approx({"A": 100 * 31 / 131, "B": 100 * 100 / 131})


@pytest.mark.parametrize(("money", "refused"), [(25, False), (20, True)])
def test_a_position_is_refused_with_which_the_account_would_not_stand(money: float, refused: bool) -> None:
    """L's 40 for 5,000 do not stand alone. Behind the short's 25 for 1,250, in just before it, 65 stand against 62.5; 60 do not against 60."""
    legs = {"L": ("AAA", "long", 40, 125), "S": ("AAA", "short", money, 50)}
    result = run({"AAA": [100, 100, 100]}, legs)
    assert (told(result, "rejection")["L"] == "liquidated_at_entry") is refused
    assert told(result, "rejection")["S"] is None


# ------------------------------------------------------------------------------------------------- portfolio
SCAN = {
    "shocks": [0.04, 0.08, 0.12],
    "extreme": 0.24,
    "extreme_weight": 0.5,
    "basis": 0.012,
    "minimum": 0.0045,
}


@pytest.mark.parametrize(
    ("changed", "rate"),
    [
        ({}, 20 * 0.12),
        ({"extreme": 0.3}, 20 * 0.15),
        ({"minimum": 0.05}, 80 * 0.05),
        ({"minimum": 0.05, "minimum_caps": [50.0], "minimum_multipliers": [1.0, 2.0]}, None),
    ],
)
def test_a_scan_of_a_net_position_and_its_least_charge(changed: dict[str, Any], rate: float | None) -> None:
    """1,600 back 50 units long and 30 short: the worst shock, or half the extreme, on 20 net units (legs of one symbol net whole); or the
    minimum charge on 80. 1,600 - 20 (100 - P) is what must be kept at 400 / (20 - rate). In tiers the charge is 50 + 2 (4 P - 50).
    """
    price = 400 / (20 - rate) if rate is not None else 350 / (20 - 8)
    legs = {"L": ("AAA", "long", 1_000, 5), "S": ("AAA", "short", 600, 5)}
    rules = venue(portfolio={**SCAN, **changed})
    for wick, reason in ((price + 0.01, "end"), (price - 0.01, "liquidation")):
        prices = {"AAA": [100, 100, (100, 100, wick, 100), 100]}
        result = run(prices, legs, "portfolio", venue=rules)
        assert set(told(result, "exit_reason").values()) == {reason}
    assert told(result, "liquidation_price")["S"] == pytest.approx(price, rel=1e-9)
    left = 1_600 - 20 * (100 - (price - 0.01))
    assert told(result, "surplus") == pytest.approx({"L": left * 50 / 80, "S": left * 30 / 80})


@pytest.mark.parametrize(("unit", "kept"), [("", 0.12 * 5_000 + 0.12 * 5_000), ("one", 0.012 * 5_000)])
def test_symbols_offset_each_other_within_a_unit_only(unit: str, kept: float) -> None:
    """5,000 long of A against 5,000 short of B: two scans, or a basis. The worst ratio of a run in which nothing moves is kept / 2,000."""
    legs = {"A": ("AAA", "long", 1_000, 5), "B": ("BBB", "short", 1_000, 5)}
    rules = venue(portfolio={**SCAN, "unit": unit})
    result = run({"AAA": [100] * 3, "BBB": [50] * 3}, legs, "portfolio", venue=rules)
    assert told(result, "worst_margin_ratio") == pytest.approx({"A": kept / 2_000, "B": kept / 2_000})


# ------------------------------------------------------------------------------------------------ collateral
@pytest.mark.parametrize(
    ("price", "gone", "left", "deficit"),
    [(1.0, False, 100 - 50 / 0.98, 0), (0.6, True, 100 - 50 / 0.588, 0), (0.4, True, 0, 10.8)],
)
def test_a_haircut_and_a_forced_sale(price: float, gone: bool, left: float, deficit: float) -> None:
    """10 units at 100, backed by 100 of cash and 100 coins that count nine tenths. At 85 cash is worth -50: with coins at 1 the wallet has
    40 against 8.5, and only the end of the data makes it sell 50; at 0.6 it has 4 and is closed, and 50 are raised at 0.6 less 2 %; at 0.4
    all coins bring 39.2.
    """
    held = pl.DataFrame({"account": ["w"], "asset": ["COIN"], "amount": [100.0]})
    moments = [START, START + timedelta(hours=2)]
    prices = pl.DataFrame({"ts": moments, "asset": "COIN", "price": [1.0, price]}).with_columns(
        pl.col("ts").cast(pl.Datetime("ms", "UTC"))
    )
    result = run(
        {"AAA": [100, 100, (100, 100, 85, 85), 85]},
        {"L": ("AAA", "long", 100, 10)},
        venue=venue(collateral={"COIN": {"haircuts": [0.1], "conversion_fee": 0.02}}),
        collateral={"holdings": held, "prices": prices},
    )
    assert (told(result, "exit_reason")["L"] == "liquidation") is gone
    assert result.extra["collateral"]["counted"].to_list() == [90]
    assert result.extra["collateral"]["left"].to_list() == pytest.approx([left], abs=1e-9)
    assert told(result, "deficit")["L"] == pytest.approx(deficit, abs=1e-9)


def test_a_forced_sale_raises_the_fees_too() -> None:
    """As at 0.6 above, with a liquidation fee of 1 % of 850: 58.5 are raised at 0.588."""
    held = pl.DataFrame({"account": ["w"], "asset": ["COIN"], "amount": [100.0]})
    prices = pl.DataFrame(
        {"ts": [START, START + timedelta(hours=2)], "asset": "COIN", "price": [1.0, 0.6]}
    ).with_columns(pl.col("ts").cast(pl.Datetime("ms", "UTC")))
    result = run(
        {"AAA": [100, 100, (100, 100, 85, 85), 85]},
        {"L": ("AAA", "long", 100, 10)},
        venue=venue(collateral={"COIN": {"haircuts": [0.1], "conversion_fee": 0.02}}, liquidation_fee=0.01),
        collateral={"holdings": held, "prices": prices},
    )
    assert told(result, "liquidation_fee")["L"] == pytest.approx(8.5)
    assert result.extra["collateral"]["left"].to_list() == pytest.approx([100 - 58.5 / 0.588])


def test_a_sale_at_the_open_knows_nothing_of_the_close() -> None:
    """2 coins at B's price back 10 units of A and 0.1 of B. A opens at 80 and B at 25: 105 - 200 - 2.5 are owed, and the coins bring 49 at
    the open; that B closes at 10, nobody knows yet.
    """
    result = run(
        {"AAA": [100, 100, 80, 80], "BBB": [50, 50, (25, 25, 10, 10), 10]},
        {"L": ("AAA", "long", 100, 10), "T": ("BBB", "long", 5, 1)},
        venue=venue(collateral={"COIN": {"haircuts": [0.1], "conversion_fee": 0.02, "price": "BBB"}}),
        collateral=pl.DataFrame({"account": ["w"], "asset": ["COIN"], "amount": [2.0]}),
    )
    assert set(told(result, "exit_time").values()) == {START + timedelta(hours=2)}
    assert sum(told(result, "deficit").values()) == pytest.approx(97.5 - 49)
    assert result.extra["collateral"]["left"].to_list() == [0]
