"""Coupled runs against sums done by hand: no fees, no slippage, one maintenance rate of 1 %, bars that jump from price to price.

The oracle shares its rules with the engine, so that both could be wrong alike; here every number is worked out from MODEL's words in the
docstring above it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

import perpbt

START = datetime(2024, 1, 1, tzinfo=UTC)
VENUE = perpbt.Venue(name="hand", tiers={"default": [(0.0, 1e9, 0.01, 125.0)]}, max_slippage=0.5)
FALL = [100, 100, 100, 80, 80]
LONG = ("long", 1, 1_000, 10)  # 100 units at 100, bankrupt at 90
SHORTS = {"S5": ("short", 1, 500, 5), "S20": ("short", 1, 200, 20)}  # 25 and 40 units


def bars_of(prices: list[Any], **columns: list[Any]) -> pl.DataFrame:
    """A bar an hour: a price stands still, or (open, high, low, close)."""
    rows = [price if isinstance(price, tuple) else (price,) * 4 for price in prices]
    ts = [START + timedelta(hours=k) for k in range(len(rows))]
    frame = pl.DataFrame(
        rows, schema=dict.fromkeys(("open", "high", "low", "close"), pl.Float64), orient="row"
    )
    return frame.with_columns(
        pl.Series("ts", ts, dtype=pl.Datetime("ms", "UTC")), symbol=pl.lit("AAA"), volume=pl.lit(1e6)
    ).with_columns(pl.Series(name, values, dtype=pl.Float64) for name, values in columns.items())


def run(
    prices: list[Any] | pl.DataFrame, people: dict[str, tuple[Any, ...]], seed: float = 0.0, **options: Any
) -> perpbt.Result:
    """People are side, hour of entry, collateral, leverage and perhaps a weight; both engines have to agree."""
    bars = prices if isinstance(prices, pl.DataFrame) else bars_of(prices)
    table = pl.DataFrame(
        [
            (
                name,
                "s",
                "AAA",
                side,
                START + timedelta(hours=hour),
                float(money),
                float(leverage),
                *(rest or (1.0,)),
            )
            for name, (side, hour, money, leverage, *rest) in people.items()
        ],
        schema=["account", "strategy", "symbol", "side", "entry_time", "collateral", "leverage", "weight"],
        orient="row",
    )
    made = [
        perpbt.simulate(bars, table, venue=VENUE, fund={"seed": seed}, engine=engine, **options)
        for engine in ("skip", "dense")
    ]
    assert made[0].accounts.equals(made[1].accounts)
    assert made[0].fund.equals(made[1].fund)
    return made[0]


def gained(result: perpbt.Result) -> dict[str, float]:
    """Cash change by account."""
    return dict(result.accounts.select("account", "cash_change").rows())


def totals(result: perpbt.Result, *names: str) -> list[float]:
    """Sums of the fund's columns."""
    return [float(result.fund[name].sum()) for name in names]


# ---------------------------------------------------------------------------------------------- deleveraging
def test_a_queue_and_what_is_left_over() -> None:
    """At 80 the long's equity is 1,000 - 2,000: 1,000 are missing, 10 a unit. S20 goes first: profit 20 % at a leverage of 3,200 / 1,000
    against 2,000 / 1,000. Both are closed at 90 instead of 80: 400 and 250 given up, 35 units and 350 find nobody.
    """
    result = run(FALL, {"L": LONG, **SHORTS}, coupling="adl")
    assert gained(result) == pytest.approx({"L": -1_000, "S5": 250, "S20": 400})
    assert totals(result, "deficit", "adl", "uncovered") == pytest.approx([1_000, 650, 350])
    assert any("venue hand states no ranking of winners" in note for note in result.metadata["notes"])


@pytest.mark.parametrize(
    ("policy", "five", "twenty"), [("bitmex", 20, 40), ("pro_rata:equity", 25, 35), ("pro_rata:profit", 60 * 5 / 13, 60 * 8 / 13)]
)  # fmt: skip
def test_the_fund_first_and_then_a_part_of_the_quantity(policy: str, five: float, twenty: float) -> None:
    """The fund has 400, so 600 of 1,000 are short: 60 of 100 units. Equities are 1,000 each, of which S5 has only 25 units, profits 500
    and 800. What is closed gives up 10 a unit, what is left gains 20.
    """
    result = run(FALL, {"L": LONG, **SHORTS}, seed=400, coupling="adl", adl={"policy": policy})
    assert gained(result)["S5"] == pytest.approx(10 * five + 20 * (25 - five))
    assert gained(result)["S20"] == pytest.approx(10 * twenty + 20 * (40 - twenty))
    assert totals(result, "adl", "uncovered") == pytest.approx([600, 0])
    assert result.fund["balance"][-1] == pytest.approx(0, abs=1e-9)


def test_weights_scale_what_accounts_bring() -> None:
    """Two longs are short 2,000 less the fund's 400: 160 of 200 units; three S20 have 120, one S5 25: 1,450 given up, 150 open."""
    people = {"L": (*LONG, 2.0), "S5": (*SHORTS["S5"], 1.0), "S20": (*SHORTS["S20"], 3.0)}
    result = run(FALL, people, seed=400, coupling="adl")
    assert totals(result, "deficit", "adl", "uncovered") == pytest.approx([2_000, 1_450, 150])
    assert gained(result)["S20"] == pytest.approx(400)


@pytest.mark.parametrize(
    ("price", "at", "each"), [("bankruptcy", 90, 10), ("mark", 85, 5), ("previous_mark", 90, 10)]
)
def test_the_price_winners_are_closed_at(price: str, at: float, each: float) -> None:
    """The mark opens at 85 and the last price at 80, where the long is sold. The mark before was 100, better than the bankruptcy price
    for those who are closed, and worse for nobody but them than the loss asks: 90.
    """
    last, mark = [100.0, 100, 100, 80, 80], [100.0, 100, 100, 85, 85]
    marked = {f"mark_{name}": mark for name in ("open", "high", "low", "close")}
    result = run(bars_of(last, **marked), {"L": LONG, **SHORTS}, coupling="adl", adl={"price": price})
    told = result.extra["adl"]
    assert told["price"].to_list() == pytest.approx([at, at])
    assert totals(result, "adl", "uncovered") == pytest.approx([65 * each, 1_000 - 65 * each])


@pytest.mark.parametrize(
    ("size", "first", "second"), [(4_500, 500, 0), (9_000, 1_000, 0), (13_500, 1_000, 500)]
)
def test_an_outside_counterparty_is_used_up(size: float, first: float, second: float) -> None:
    """L takes 100 units at 90, 9,000 of notional, to place; K, in at 80, 125 units at 72. Whatever of `size` is left takes them over."""
    people = {"L": LONG, "K": ("long", 4, 1_000, 10)}
    result = run([100, 100, 100, 80, 80, 64, 64], people, coupling="adl", adl={"outside": size})
    outside = result.fund.filter(pl.col("deficit") > 0)["outside"].to_list()
    assert outside == pytest.approx([first, second])
    assert totals(result, "uncovered") == pytest.approx([2_000 - first - second])


def test_who_enters_at_the_open_of_a_default_is_no_part_of_it() -> None:
    """N opens at the very open that breaks L, and carries nothing of the loss; in the bar before it would have carried all it had."""
    spec = {"kind": "adl", "socialised": "size"}
    for hour, given in ((3, 0), (2, 100)):
        result = run(FALL, {"L": LONG, "N": ("long", hour, 500, 4)}, coupling=spec)
        assert totals(result, "socialised", "uncovered") == pytest.approx([given, 1_000 - given])


# --------------------------------------------------------------------------------------------- socialised losses
def test_a_loss_is_shared_by_profit_and_never_above_equity() -> None:
    """At the open of 80 shorts pay 10 % of it: 8 a unit. S, 40 units, gains 800, pays 320 and has 200 + 480 left; five longs are short
    1,000 + 2,000 - 1,000 - 800 = 200 each. S gives its 680, less than its profit; 320 stay open.
    """
    bars = bars_of(FALL, funding_rate=[None, None, None, -0.1, None])
    coupling = {"kind": "adl", "adl": {"outside": 0.0}, "socialised": "profit"}
    people = {"L": (*LONG, 5.0), "S": ("short", 1, 200, 20, 1.0)}
    spec = {**coupling, "kind": "cascade", "adl": None, "pressure": {"strength": 0.0}}
    result = run(bars, people, coupling=spec)
    assert totals(result, "deficit", "socialised", "uncovered") == pytest.approx([1_000, 680, 320])
    assert gained(result)["S"] == pytest.approx(-200)


def test_a_loss_is_shared_by_size_and_never_above_equity() -> None:
    """S has 40 units and 1,000, M 20 units and 500 - 400: of 1,000 by size M could not give its third."""
    spec = {"kind": "cascade", "socialised": "size", "pressure": {"strength": 0.0}}
    result = run(FALL, {"L": LONG, "S": SHORTS["S20"], "M": ("long", 1, 500, 4)}, coupling=spec)
    assert totals(result, "socialised", "uncovered") == pytest.approx([100 + 2_000 / 3, 900 - 2_000 / 3])


# ---------------------------------------------------------------------------------------- a fund that stops earlier
TRIGGER = {"drawdown": 0.3, "resume": 0.25, "window": "8h"}
BIG = {
    "L": ("long", 1, 100_000, 10),
    "S": ("short", 1, 100_000, 5),
}  # at 86.5 the long lacks 10,000 units times 3.5


def test_bybits_example_of_a_pool_that_loses_more_than_thirty_percent() -> None:
    """A pool of 100,000 is asked for 35,000 (G31 by ten): it pays down to 70,000, the winner bears 5,000 on a seventh of the quantity."""
    result = run([100, 100, 100, 86.5, 86.5], BIG, 100_000, coupling={"kind": "adl", "trigger": TRIGGER})
    assert totals(result, "deficit", "adl", "uncovered") == pytest.approx([35_000, 5_000, 0])
    assert result.fund["balance"][-1] == pytest.approx(70_000)
    assert result.extra["adl"]["quantity"].to_list() == pytest.approx([10_000 / 7])


def test_a_least_drawdown() -> None:
    """OKX: less the greater of 30 % and 80,000 here: the fund pays down to 20,000 and so the whole of 35,000."""
    trigger = {"drawdown": 0.3, "least": 80_000.0, "window": "8h"}
    result = run([100, 100, 100, 86.5, 86.5], BIG, 100_000, coupling={"kind": "adl", "trigger": trigger})
    assert totals(result, "adl") == [0]
    assert result.fund["balance"][-1] == pytest.approx(65_000)


def test_what_nobody_takes_is_the_funds_after_all() -> None:
    """Without winners the 5,000 that the trigger held back are paid as well."""
    people = {"L": BIG["L"]}
    result = run([100, 100, 100, 86.5, 86.5], people, 100_000, coupling={"kind": "adl", "trigger": TRIGGER})
    assert totals(result, "adl", "uncovered") == [0, 0]
    assert result.fund["balance"][-1] == pytest.approx(65_000)


@pytest.mark.parametrize(("resume", "wait", "paid"), [(0.25, 1, 0), (0.3, 1, 2_000), (0.25, 12, 10_000)])
def test_a_fund_that_has_stopped_begins_again(resume: float, wait: int, paid: float) -> None:
    """Stopped at 70,000, the fund gets 2,000 of surplus: G, 10,000 units at 86.5, bankrupt at 83.8, is sold at 84. Then K lacks 10,000: as
    many units, bankrupt at 77.85, sold at 76.85. Resuming at -30 % the fund may pay the 2,000 above its floor; resuming at -25 %, at
    75,000, nothing; and when the fall is more than eight hours old its level is 72,000 and it pays all. The winner bears the rest.
    """
    prices = [100, 100, 100, 86.5, 86.5, 84, *[84] * wait, 76.85, 76.85]
    people = {
        "L": BIG["L"],
        "S": ("short", 1, 1_000_000, 5),
        "G": ("long", 4, 27_000, 865 / 27),
        "K": ("long", 4, 86_500, 10),
    }
    spec = {"kind": "adl", "trigger": {**TRIGGER, "resume": resume}}
    result = run(prices, people, 100_000, coupling=spec)
    rows = result.fund.filter(pl.col("deficit") > 0)
    assert rows["deficit"].to_list() == pytest.approx([35_000, 10_000])
    assert rows["adl"].to_list() == pytest.approx([5_000, 10_000 - paid])
    assert rows["balance"].to_list() == pytest.approx([70_000, 72_000 - paid])


# ------------------------------------------------------------------------------------------------------- cascades
FALLING = [100, 100, (100, 100, 90.5, 95), 95, 95, 95]
LONGS = {"A": ("long", 1, 1_000, 10), "B": ("long", 1, 1_000, 8), "C": ("long", 1, 1_000, 5)}


@pytest.mark.parametrize(
    ("changed", "fallen", "moved", "share", "kept"),
    [
        ({}, "AB", 0.045, 1.0, 0.5),
        ({"decay": 0.25}, "AB", 0.045, 1.0, 0.75),
        ({"mark_share": 0.5}, "A", 0.025, 0.5, 0.5),
        ({"most": 0.02}, "A", 0.02, 1.0, 0.5),
        ({"strength": 0.5}, "A", 0.0125, 1.0, 0.5),
    ],
)
def test_a_cascade_and_what_is_left_of_it(
    changed: dict[str, float], fallen: str, moved: float, share: float, kept: float
) -> None:
    """A, 10,000 of notional, falls at 90 / 0.99 = 90.91, above the low of 90.5; B, 8,000, at 87.5 / 0.99 = 88.38; C at 80.81. Against a
    depth of 400,000 the first volume moves the price by 2.5 of 100, to 88, and B falls too: 18,000 move it by 4.5. A mark that takes half
    of it stands at 89.25, one of at most 2 % at 88.5, half the strength at 89.25: B lives. Three bars later what the decay has left of
    the move is in the last mark, 95.
    """
    pressure = {"law": "linear", "scale": "none", "strength": 1.0, "depth": 400_000.0, **changed}
    result = run(FALLING, LONGS, coupling={"kind": "cascade", "pressure": pressure})
    gone = result.accounts.filter(pl.col("exit_reason") == "liquidation")["account"].to_list()
    assert "".join(sorted(gone)) == fallen
    row = result.extra["cascades"].row(0, named=True)
    assert row["displacement"] == pytest.approx(-moved)
    assert row["amplification"] == pytest.approx((0.095 + moved) / 0.095)
    assert row["branching_ratio"] == pytest.approx(1 - 10_000 / (18_000 if fallen == "AB" else 10_000))
    last = dict(result.accounts.select("account", "exit_price").rows())["C"]
    assert last == pytest.approx(95 * (1 - share * moved * kept**3))
    assert result.metadata["coupling"]["share_caused_by_feedback"] == pytest.approx(1 - 1 / len(fallen))


def test_fills_are_at_the_thresholds_met_on_the_way() -> None:
    """A and B are sold at their own liquidation prices: 1 % of them is left of each."""
    pressure = {"law": "linear", "scale": "none", "depth": 400_000.0}
    result = run(FALLING, LONGS, coupling={"kind": "cascade", "pressure": pressure})
    told = {row["account"]: row for row in result.accounts.iter_rows(named=True)}
    assert [told[name]["exit_price"] for name in "AB"] == pytest.approx([90 / 0.99, 87.5 / 0.99])
    assert [told[name]["surplus"] for name in "AB"] == pytest.approx([9_000 / 99, 80 * 87.5 / 99])
