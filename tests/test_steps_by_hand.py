"""Liquidation in steps against sums done by hand, in all three engines: one long, no fees and no slippage but where they are named.

Oracle and kernels share their rules, so that both could be wrong alike; here every number is worked out from what
`perpbt.Liquidation` says of its procedures.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

import perpbt

START = datetime(2024, 1, 1, tzinfo=UTC)
ONE = [(0.0, 1e9, 0.01, 125.0)]
THREE = [(0.0, 2_000.0, 0.01, 50.0), (2_000.0, 5_000.0, 0.02, 25.0), (5_000.0, 1e6, 0.04, 10.0)]


def run(
    opens: list[float], spec: dict[str, Any], money: float = 1_000.0, tiers: Any = ONE, **fields: Any
) -> tuple[dict[str, Any], pl.DataFrame]:
    """A long at 10x, in at 100 in the second hour; bars that stand still at these prices. Its row, and its steps."""
    bars = pl.DataFrame(
        {
            "ts": [START + timedelta(hours=k) for k in range(len(opens))],
            "symbol": "AAA",
            **{name: [float(price) for price in opens] for name in ("open", "high", "low", "close")},
        }
    ).with_columns(pl.col("ts").cast(pl.Datetime("ms", "UTC")))
    table = pl.DataFrame(
        {
            "account": ["L"], "strategy": "s", "symbol": "AAA", "side": "long", "entry_time": [START + timedelta(hours=1)],
            "collateral": [money], "leverage": [10.0],
        }
    )  # fmt: skip
    venue = perpbt.Venue(name="hand", tiers={"default": tiers}, **fields)
    made = [
        perpbt.simulate(bars, table, venue=venue, liquidation=spec, engine=engine)
        for engine in ("skip", "dense", "oracle")
    ]
    steps = [one.extra["liquidations"] for one in made]
    for other, its in zip(made[1:], steps[1:], strict=True):
        assert made[0].accounts.equals(other.accounts)
        assert steps[0].equals(its)
    return made[0].accounts.row(0, named=True), steps[0]


def test_down_the_ladder_tier_by_tier() -> None:
    """60 units, at 91 worth 5,460 in the third tier: equity 60 against 0.04 * 5,460 - 120 = 98.4. Down to the second tier, 5,000 / 91
    units, 80 are to be kept; down to the first, 2,000 / 91, 20: it lives on 60.
    """
    row, steps = run([100, 100, 91, 91], {"procedure": "ladder"}, 600, THREE)
    assert steps["kind"].to_list() == ["reduced", "reduced"]
    assert steps["quantity"].to_list() == pytest.approx([60 - 5_000 / 91, 3_000 / 91])
    assert steps["price"].to_list() == [91, 91]
    assert (row["exit_reason"], row["surplus"]) == ("end", 0)
    assert row["cash_change"] == pytest.approx(60 - 600)


@pytest.mark.parametrize(("lowest", "kinds"), [(2, ["reduced", "taken_over"]), (3, ["taken_over"])])
def test_from_the_lowest_tiers_the_whole_is_taken_over(lowest: int, kinds: list[str]) -> None:
    """OKX: of the two lowest tiers nothing is reduced. All 60 that are left are the fund's."""
    row, steps = run([100, 100, 91, 91], {"procedure": "ladder", "lowest_tiers": lowest}, 600, THREE)
    assert steps["kind"].to_list() == kinds
    assert (row["exit_reason"], row["surplus"]) == ("liquidation", pytest.approx(60))


def test_one_reducing_order_a_bar_and_then_the_rest() -> None:
    """At 90.5 there are 50 against 90.5: half sold, 50 against 45.25. At 90.2 in the next bar, 35 against 45.1: half of it again. Opened
    at 90.2 at once, 20 stand against 90.2, then against 45.1 in the same bar: the rest is taken over, with the 20.
    """
    spec = {"procedure": "reduce_then_takeover", "fraction": 0.5}
    row, steps = run([100, 100, 90.5, 90.2, 90.2], spec)
    assert steps["quantity"].to_list() == pytest.approx([50, 25])
    assert row["exit_reason"] == "end"
    assert row["cash_change"] == pytest.approx(35 - 1_000)
    row, steps = run([100, 100, 90.2, 90.2], spec)
    assert list(zip(steps["kind"], steps["quantity"], strict=True)) == [("reduced", 50), ("taken_over", 50)]
    assert row["surplus"] == pytest.approx(20)


def test_an_order_as_large_as_is_needed() -> None:
    """At 90.5 equity 50 is what 50 / 0.905 units must keep. A fee of 0.1 % takes 0.0905 a unit sold: (90.5 - 50) / (0.905 - 0.0905) are
    sold then. 0.1 % of the entry leave 10,000 / 1.01 of notional.
    """
    row, steps = run([100, 100, 90.5, 90.5], {"procedure": "reduce_then_takeover"})
    assert steps["quantity"].to_list() == pytest.approx([100 - 50 / 0.905], rel=1e-6)
    assert row["exit_reason"] == "end"
    units = 100 / 1.01
    _, steps = run([100, 100, 90.5, 90.5], {"procedure": "reduce_then_takeover"}, taker_fee=0.001)
    assert steps["quantity"].to_list() == pytest.approx([units * 40.5 / (90.5 - 9.05)], rel=1e-6)
    assert steps["fee"].to_list() == pytest.approx([0.001 * 90.5 * units * 40.5 / 81.45], rel=1e-6)


@pytest.mark.parametrize(
    ("price", "kinds"), [(90.85, ["reduced"]), (90.5, ["reduced", "liquidated"]), (90.2, ["taken_over"])]
)
def test_slices_a_cool_down_and_the_backstop(price: float, kinds: list[str]) -> None:
    """2,000 units, 20,000 of margin. At 90.85 there are 1,700 against 1,817: a fifth is sold, 1,453.6 are to be kept. At 90.5 there are
    1,000 against 1,810, and still against 1,448 after a fifth: within the cool-down the whole. At 90.2 there are 400, less than half
    of 1,804: the backstop takes it with the 400.
    """
    spec = {"procedure": "slice", "backstop": 0.5}
    row, steps = run([100, 100, price, price], spec, 20_000, surplus_to_fund=0.0)
    assert steps["kind"].to_list() == kinds
    if kinds[0] == "reduced":
        assert steps["quantity"][0] == pytest.approx(400)
    assert row["surplus"] == pytest.approx(400 if kinds == ["taken_over"] else 0)
    assert row["cash_change"] == pytest.approx((price - 90) * 2_000 - row["surplus"] - 20_000)


@pytest.mark.parametrize(("whole_below", "share"), [(50.0, 0.25), (51.0, 1.0)])
def test_a_quarter_of_a_shortage_or_all_of_a_small_one(whole_below: float, share: float) -> None:
    """At 90.4 there are 40 against 90.4: 50.4 short, 0.904 of which a unit makes up for. In the first slot a quarter, all of less than 51."""
    spec = {"procedure": "cure", "initial": 0.25, "duration_slots": 600, "whole_below": whole_below}
    _, steps = run([100, 100, 90.4], spec)
    assert steps["quantity"].to_list() == pytest.approx([50.4 * share / 0.904], rel=1e-6)


def test_the_insurance_fund_asks_for_no_more_than_a_cure_leaves_room_for() -> None:
    """Asked for 1 % it gets 0.95 (1 % - 50.4 / 9,040) of the value that changes hands, so that a unit still makes up for something."""
    rate = 0.95 * (0.01 - 50.4 / 9_040)
    row, steps = run([100, 100, 90.4], {"procedure": "cure"}, liquidation_fee=0.01)
    sold = 50.4 / (0.904 - rate * 90.4)
    assert steps["kind"].to_list() == ["reduced"]
    assert steps["quantity"].to_list() == pytest.approx([sold], rel=1e-6)
    assert row["liquidation_fee"] == pytest.approx(sold * rate * 90.4, rel=1e-6)
    assert row["cash_change"] == pytest.approx(40 - sold * rate * 90.4 - 1_000, rel=1e-9)


@pytest.mark.parametrize(("spread", "filled"), [(0.1, False), (0.5, True)])
def test_a_portion_fills_at_the_fillable_price_or_better(spread: float, filled: bool) -> None:
    """Bought 0.1 % above 100: 100 / 1.001 units, with 40.96 at 90.5 against 90.41: a = 0.547. The fillable price is a * spread * 0.905
    below: 0.050 at a tenth, 0.247 at a half. Sold 0.1 % below 90.5, by 0.0905, a half of the position finds a taker at the wider one only.
    """
    spec = {"procedure": "portion", "fraction": 0.5, "spread": spread}
    units = 100 / 1.001
    below = (1 - (1_000 - units * (100.1 - 90.5)) / (0.905 * units)) * spread * 0.905
    assert (below >= 0.0905) is filled
    row, steps = run([100, 100, 90.5], spec, slippage=0.001)
    assert steps.height == int(filled)
    if filled:
        assert steps["quantity"].to_list() == pytest.approx([units / 2])
        assert steps["price"].to_list() == pytest.approx([90.5 * 0.999])
    assert row["exit_reason"] == "end"
