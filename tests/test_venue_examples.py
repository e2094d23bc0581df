"""Published worked examples of isolated linear positions: venues' help pages, other projects' tests, primers.

Each names its number in the collection of examples it is from, and its source. The first part asks the venue
alone, the second runs a few hand-made bars through the engine, without costs, and reads accounts and fund.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import polars as pl
import pytest

from perpbt.venue import Venue, load_venue
from perpbt.venue.brackets import Tier, ladder


def flat(rate: float, **fields: Any) -> Venue:
    """One bracket of the given rate, no costs."""
    return Venue(name="example", tiers={"default": [(0, 1e12, rate, 1000)]}, **fields)


def bent(rate: float, deduction: float, **fields: Any) -> Venue:
    """Two brackets, the upper with the published rate and deduction, starting where the recursion puts it."""
    floor = deduction / (rate / 2)
    rows = [(0, floor, rate / 2, 1000), (floor, 1e12, rate, 1000)]
    return Venue(name="example", tiers={"default": rows}, **fields)


BTCUSDT_2021 = [
    (0, 50_000, 0.004, 125),
    (50_000, 250_000, 0.005, 100),
    (250_000, 1_000_000, 0.01, 50),
    (1_000_000, 10_000_000, 0.025, 20),
    (10_000_000, 20_000_000, 0.05, 10),
    (20_000_000, 50_000_000, 0.1, 5),
    (50_000_000, 100_000_000, 0.125, 4),
    (100_000_000, 200_000_000, 0.15, 3),
    (200_000_000, 300_000_000, 0.25, 2),
    (300_000_000, 500_000_000, 0.5, 1),
]


class Price(NamedTuple):
    """A position and its published liquidation price, to the digits printed."""

    number: str
    source: str
    venue: Venue
    side: str
    entry: float
    quantity: float
    margin: float
    expected: float
    tolerance: float


FT = "freqtrade, tests of dry_run_liquidation_price"
BINANCE = "Binance, liquidation price of USD-M futures, isolated"
CROSS = "Binance, liquidation price of USD-M futures, other positions held at their mark"
GATE = "Gate and OKX: taker fee added to the maintenance rate"
BYBIT = "Bybit: maintenance margin at entry"

PRICES = [
    # The printed digits end in a cut, not a rounding (1,114.785 is printed 1,114.78).
    Price("G1", BINANCE, bent(0.1, 135_365), "long", 1456.84, 3683.979, 1_535_443.01, 1114.78, 0.01),
    Price(
        "G2",
        BINANCE,
        Venue(name="2021", tiers={"default": BTCUSDT_2021}),
        "long",
        32_481.98,
        109.488,
        1_535_443.01,
        18_778.73,
        0.01,
    ),
    # Isolated algebra with the wallet net of the other position: balance - its maintenance + its profit.
    Price(
        "G3",
        CROSS,
        bent(0.1, 135_365),
        "long",
        1456.84,
        3683.979,
        1_535_443.01 - 71_200.81 - 56_354.57,
        1153.26,
        0.01,
    ),
    Price("G5", CROSS, flat(0.004), "short", 9451.53, 0.005, 10.72 - 1.3 + 0.47, 11_383.99, 0.01),
    *(
        Price("G8", FT, bent(0.01, 0.01), side, entry, quantity, entry * quantity / leverage, expected, 1e-12)
        for side, leverage, entry, quantity, expected in [
            ("short", 5, 10, 1.0, 11.89108910891089),
            ("short", 3, 10, 1.0, 13.211221122112),
            ("short", 5, 8, 1.0, 9.514851485148514),
            ("short", 5, 10, 0.6, 11.897689768976898),
            ("long", 5, 10, 1.0, 8.070707070707071),
            ("long", 3, 10, 1.0, 6.723905723905723),
            ("long", 5, 8, 1.0, 6.454545454545454),
            ("long", 5, 10, 0.6, 8.063973063973064),
        ]
    ),
    *(
        Price(
            "G9", GATE, flat(0.01, close_out_rate=0.0006), side, entry, 1.0, entry / leverage, expected, 1e-12
        )
        for side, leverage, entry, expected in [
            ("long", 5, 10, 8.085708510208207),
            ("short", 5, 10, 11.87413417771621),
            ("long", 3, 10, 6.738090425173506),
            ("short", 3, 10, 13.193482419684678),
            ("short", 5, 8, 9.499307342172967),
        ]
    ),
    *(
        Price(
            "G10", BYBIT, flat(0.01, maintenance_on="entry"), side, 10.0, 1.0, 10 / leverage, expected, 5e-5
        )
        for side, leverage, expected in [
            ("long", 1, 0.1),
            ("long", 3, 6.7667),
            ("long", 5, 8.1),
            ("long", 10, 9.1),
            ("short", 1, 19.9),
            ("short", 3, 13.2333),
            ("short", 5, 11.9),
            ("short", 10, 10.9),
        ]
    ),
    Price("G11", BYBIT, load_venue("bybit_linear"), "long", 20_000, 1.0, 20_000 / 50, 19_700, 1e-9),
    Price(
        "G15",
        "BitMEX, linear example, one position",
        flat(0.01, maintenance_on="entry"),
        "long",
        1000,
        20.0,
        10_000,
        510,
        1e-9,
    ),
    Price(
        "G26",
        "BitMEX, isolated against cross, linearised",
        flat(0.01, maintenance_on="entry"),
        "long",
        100,
        1.0,
        4,
        97,
        1e-9,
    ),
]


@pytest.mark.parametrize("row", PRICES, ids=lambda row: f"{row.number}-{row.side}-{row.expected}")
def test_published_liquidation_price(row: Price) -> None:
    price = row.venue.liquidation_price(
        side=row.side, entry_price=row.entry, quantity=row.quantity, margin=row.margin, symbol="BTCUSDT"
    )
    assert price == pytest.approx(row.expected, abs=row.tolerance), f"{row.number}: {row.source}"


def test_g7_deductions_printed_by_binance() -> None:
    """G7, Binance FAQ: 250,000 * (1 % - 0.5 %) + 50 = 1,300; 5,000,000 * (5 % - 2.5 %) + 16,300 = 141,300."""
    rows = [*BTCUSDT_2021[:3], (1_000_000, 5_000_000, 0.025, 20), (5_000_000, 20_000_000, 0.05, 10)]
    assert [tier.deduction for tier in ladder(rows)] == pytest.approx(
        [0, 50, 1_300, 16_300, 141_300], rel=1e-12
    )


def test_deductions_of_the_table_of_march_2021() -> None:
    """The BTCUSDT table in force in March 2021 (public gist highfestiva/b71e76f5)."""
    printed = [0, 50, 1_300, 16_300, 266_300, 1_266_300, 2_516_300, 5_016_300, 25_016_300, 100_016_300]
    assert [tier.deduction for tier in ladder(BTCUSDT_2021)] == pytest.approx(printed, rel=1e-12)


def test_gate_largest_position_at_a_leverage() -> None:
    """Gate help centre, Risk Limit Explanation (30 Sep 2025), its explanation of the table for BTCUSDT."""
    tiers = load_venue("gate").brackets("BTCUSDT")
    for leverage, largest in ((90, 100_000), (30, 1_000_000), (2, 3_000_000)):
        assert max(tier.cap for tier in tiers if tier.max_leverage >= leverage) == largest


def test_tiers_of_okx_are_published_in_contracts_and_hold_for_the_whole() -> None:
    """OKX, position tiers of 15 May 2023, ADAUSDT after: caps in contracts, rates, leverage; contracts of 100 ADA, 0.37 USDT."""
    venue = load_venue("okx")
    contract = 100 * 0.37
    for contracts, rate, leverage in (
        (1_500, 0.005, 75),
        (3_000, 0.0075, 50),
        (6_000, 0.01, 40),
        (12_000, 0.015, 1 / 0.03),
        (18_000, 0.02, 1 / 0.035),
    ):
        value = contracts * contract
        without_fee = venue.replace(close_out_rate=0.0)
        assert without_fee.maintenance_margin(value, "ADAUSDT") == pytest.approx(value * rate, rel=1e-12)
        assert venue.max_leverage(value, "ADAUSDT") == pytest.approx(leverage, rel=1e-6)


def test_eth_steps_of_bitmex_are_those_of_its_table() -> None:
    """BitMEX documents of 2020, Risk limits, ETHUSD: base and step of 50 XBT, 0.8 % and 2 %, 0.8 % more a step on both."""
    venue = load_venue("bitmex").replace(close_out_rate=0.0)
    for size, rate, initial in ((50, 0.008, 0.02), (51, 0.016, 0.028), (450, 0.072, 0.084)):
        assert venue.maintenance_margin(size, "ETHUSD") == pytest.approx(size * rate, rel=1e-12)
        assert 1 / venue.max_leverage(size, "ETHUSD") == pytest.approx(initial, rel=1e-6)


# Binance USD-M as shipped by freqtrade on 24 Oct 2024: caps, rates in %, leverages, printed deductions.
PRINTED = {
    "BTCUSDT": (
        [5e4, 6e5, 3e6, 12e6, 70e6, 100e6, 230e6, 480e6, 600e6, 800e6, 1.2e9, 1.8e9],
        [0.4, 0.5, 0.65, 1, 2, 2.5, 5, 10, 12.5, 15, 25, 50],
        [125, 100, 75, 50, 25, 20, 10, 5, 4, 3, 2, 1],
        [
            0,
            50,
            950,
            11_450,
            131_450,
            481_450,
            2_981_450,
            14_481_450,
            26_481_450,
            41_481_450,
            121_481_450,
            421_481_450,
        ],
    ),
    "ETHUSDT": (
        [5e4, 6e5, 3e6, 12e6, 50e6, 65e6, 150e6, 320e6, 400e6, 530e6, 800e6, 1.2e9],
        [0.4, 0.5, 0.65, 1, 2, 2.5, 5, 10, 12.5, 15, 25, 50],
        [125, 100, 75, 50, 25, 20, 10, 5, 4, 3, 2, 1],
        [
            0,
            50,
            950,
            11_450,
            131_450,
            381_450,
            2_006_450,
            9_506_450,
            17_506_450,
            27_506_450,
            80_506_450,
            280_506_450,
        ],
    ),
    "SOLUSDT": (
        [2e4, 1e5, 8e5, 4e6, 8e6, 40e6, 80e6, 100e6, 200e6, 400e6],
        [0.5, 0.65, 1, 2, 2.5, 5, 10, 12.5, 25, 50],
        [100, 75, 50, 25, 20, 10, 5, 4, 2, 1],
        [0, 30, 380, 8_380, 28_380, 228_380, 2_228_380, 4_228_380, 16_728_380, 66_728_380],
    ),
    "DOGEUSDT": (
        [1e4, 5e4, 7.5e5, 8e5, 1.6e6, 8e6, 16e6, 20e6, 40e6, 80e6],
        [0.5, 0.7, 1, 2, 2.5, 5, 10, 12.5, 25, 50],
        [75, 50, 40, 25, 20, 10, 5, 4, 2, 1],
        [0, 20, 170, 7_670, 11_670, 51_670, 451_670, 851_670, 3_351_670, 13_351_670],
    ),
    "1000PEPEUSDT": (
        [2e4, 2e5, 3e5, 1.5e6, 3e6, 15e6, 30e6, 37.5e6, 75e6, 150e6],
        [0.65, 1, 1.5, 2, 2.5, 5, 10, 12.5, 25, 50],
        [75, 50, 40, 25, 20, 10, 5, 4, 2, 1],
        [0, 70, 1_070, 2_570, 10_070, 85_070, 835_070, 1_585_070, 6_272_570, 25_022_570],
    ),
    "POPCATUSDT": (
        [1e4, 6e4, 3e5, 6e5, 3e6, 6e6, 7.5e6, 15e6, 30e6],
        [1, 1.5, 2, 2.5, 5, 10, 12.5, 25, 50],
        [75, 50, 25, 20, 10, 5, 4, 2, 1],
        [0, 50, 350, 1_850, 16_850, 166_850, 316_850, 1_254_350, 5_004_350],
    ),
}


@pytest.mark.parametrize("symbol", PRINTED)
def test_printed_tier_tables(symbol: str) -> None:
    """The recursion gives every printed deduction, and the shipped venue holds these tables."""
    caps, percent, leverages, deductions = PRINTED[symbol]
    floors = [0.0, *caps[:-1]]
    rows = [
        (floor, cap, rate / 100, leverage)
        for floor, cap, rate, leverage in zip(floors, caps, percent, leverages, strict=True)
    ]
    computed = ladder(rows)
    assert [tier.deduction for tier in computed] == pytest.approx(deductions, rel=1e-12)
    venue = load_venue("binance_um")
    shipped = venue.brackets("default" if symbol == "POPCATUSDT" else symbol)
    if symbol != "1000PEPEUSDT":  # not among the symbols shipped
        expected = [Tier(*row, deduction) for row, deduction in zip(rows, deductions, strict=True)]
        assert [tuple(tier) for tier in shipped] == [
            pytest.approx(tuple(tier), rel=1e-12) for tier in expected
        ]


def test_g11_margins_of_bybits_example() -> None:
    """G11, Bybit, Liquidation price (USDT contract): 1 BTC at 20,000, 50x, 0.5 %."""
    venue = load_venue("bybit_linear")
    assert venue.initial_margin(20_000, 50) == 400
    assert venue.maintenance_margin(20_000, "BTCUSDT") == pytest.approx(100, rel=1e-12)


def test_g15_margins_of_bitmexs_linear_example() -> None:
    """G15, BitMEX isolated margin examples: 10,000 USDT, 20 ETHUSDT at 1,000 and 50x."""
    venue = flat(0.01, maintenance_on="entry")
    assert venue.initial_margin(20_000, 50) == 400
    assert venue.maintenance_margin(20_000) == pytest.approx(200, rel=1e-12)
    assert 10_000 - venue.initial_margin(20_000, 50) == 9_600
    assert venue.bankruptcy_price(side="long", entry_price=1000, quantity=20, margin=10_000) == 500


def test_g19_margin_ratio_below_the_requirement_means_liquidated() -> None:
    """G19, OKEx futures documentation of 2020: 1 BTC long at 10,000 and 10x, mark 9,010."""
    venue = flat(0.015, close_out_rate=0.00075)
    unrealised = 1.0 * (9_010 - 10_000)
    equity = 1_000 + unrealised
    assert unrealised == -990
    assert round(100 * equity / 9_010, 2) == 0.11
    required = (venue.maintenance_margin(9_010) + venue.close_out_rate * 9_010) / 9_010
    assert required == pytest.approx(0.01575, rel=1e-12)
    assert equity / 9_010 < required
    assert venue.liquidation_price(side="long", entry_price=10_000, quantity=1, margin=1_000) > 9_010


def test_g30_bankruptcy_and_liquidation_of_bybits_fund_example() -> None:
    """G30, Bybit, Insurance fund: the liquidation price lies before the bankruptcy price of 6,950."""
    venue = flat(0.005)
    asked: dict[str, Any] = {"side": "long", "entry_price": 7_000.0, "quantity": 1.0, "margin": 50.0}
    assert venue.bankruptcy_price(**asked) == 6_950
    assert venue.liquidation_price(**asked) > 6_950


def test_g53_initial_margin() -> None:
    """G53, an exchange's risk-management primer: 10,000 USDT at 10x."""
    assert load_venue("binance_um").initial_margin(10_000, 10) == 1_000


def test_g54_leverage_falls_and_maintenance_rises_with_size() -> None:
    """G54, same primer: above 150,000 USDT 125x becomes 100x, 0.40 % becomes 0.50 %.

    No dated table at hand has this edge (50,000 in 2024, 300,000 in 2026): the two brackets are written out.
    """
    venue = Venue(name="g54", tiers={"BTCUSDT": [(0, 150_000, 0.004, 125), (150_000, 600_000, 0.005, 100)]})
    below, above = venue.brackets("BTCUSDT")
    assert (below.rate, above.rate) == (0.004, 0.005)
    assert venue.max_leverage(150_000, "BTCUSDT") == 125
    assert venue.max_leverage(150_001, "BTCUSDT") == 100
    step = venue.maintenance_margin(160_000, "BTCUSDT") - venue.maintenance_margin(150_000, "BTCUSDT")
    assert step == pytest.approx(10_000 * 0.005, rel=1e-9)


@pytest.mark.parametrize(("side", "wiped"), [("long", 90.0), ("short", 110.0)])
def test_g56_ten_percent_at_ten_times(side: str, wiped: float) -> None:
    """G56, a margin primer: 10 % against a 10x position takes the whole margin, liquidation comes before."""
    venue = load_venue("binance_um")
    asked: dict[str, Any] = {"side": side, "entry_price": 100.0, "quantity": 5.0, "margin": 50.0}
    assert venue.bankruptcy_price(**asked) == pytest.approx(wiped, rel=1e-12)
    assert abs(venue.liquidation_price(**asked, symbol="BTCUSDT") - 100.0) < 10.0


# ----------------------------------------------------------------------------------- through the engine

Bar = tuple[float, float, float, float]


def run(
    venue: Venue, last: list[Bar], accounts: list[dict[str, Any]], mark: list[Bar] | None = None
) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    """Minute bars of (open, high, low, close), `mark` where it differs; accounts enter at bar number `entry`.

    Returns the rows of `result.accounts` in the order of `accounts`, and `result.fund`.
    """
    import perpbt

    columns: dict[str, Any] = {"ts": [minute(i) for i in range(len(last))], "symbol": "BTCUSDT"}
    for prefix, series in (("", last), ("mark_", mark or last)):
        for place, name in enumerate(("open", "high", "low", "close")):
            columns[prefix + name] = [float(bar[place]) for bar in series]
    rows = [
        {
            "account": number,
            "strategy": "example",
            "symbol": "BTCUSDT",
            "side": account["side"],
            "entry_time": minute(account["entry"]),
            "exit_time": minute(account["exit"]) if "exit" in account else None,
            "collateral": float(account["collateral"]),
            "leverage": float(account["leverage"]),
            "stop_loss": account.get("stop_loss"),
        }
        for number, account in enumerate(accounts)
    ]
    table = pl.DataFrame(rows).with_columns(
        pl.col("entry_time", "exit_time").cast(pl.Datetime("ms", "UTC")), pl.col("stop_loss").cast(pl.Float64)
    )
    bars = pl.DataFrame(columns).with_columns(pl.col("ts").cast(pl.Datetime("ms", "UTC")))
    result = perpbt.simulate(bars, table, venue=venue)
    return result.accounts.sort("account").to_dicts(), result.fund


def minute(number: int) -> datetime:
    return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=number)


def still(price: float) -> Bar:
    return (price, price, price, price)


def last_balance(fund: pl.DataFrame) -> float:
    return float(fund.sort("time", maintain_order=True)["balance"][-1])


def test_g51_surplus_goes_to_the_fund() -> None:
    """G51, insurance-fund primer: 1 BTC long, bankrupt at 47,800, liquidated and closed at 48,000."""
    rate = 200 / 48_000  # the maintenance rate that puts 200 between the two prices
    margin = 2_200.0
    account = {"side": "long", "entry": 0, "collateral": margin, "leverage": 50_000 / margin}
    bars = [still(50_000), (50_000, 50_000, 47_900, 47_900)]
    (row,), fund = run(flat(rate, fund_seed=1_000), bars, [account])
    assert row["exit_reason"] == "liquidation"
    assert row["liquidation_price"] == pytest.approx(48_000, rel=1e-12)
    assert row["bankruptcy_price"] == pytest.approx(47_800, rel=1e-12)
    assert row["exit_price"] == pytest.approx(48_000, rel=1e-12)
    assert row["surplus"] == pytest.approx(200, rel=1e-9)
    assert row["deficit"] == 0.0
    assert row["cash_change"] == -margin
    assert last_balance(fund) == pytest.approx(1_200, rel=1e-9)


def test_g52_deficit_is_drawn_from_the_fund() -> None:
    """G52, same primer: 40,000 USD at 40x, margin 1,000, closed 50 USD beyond bankruptcy."""
    account = {"side": "long", "entry": 0, "collateral": 1_000, "leverage": 40}
    (row,), fund = run(flat(0.004, fund_seed=1_000), [still(40_000), still(38_950)], [account])
    assert row["margin"] == 1_000
    assert row["bankruptcy_price"] == 39_000
    assert row["deficit"] == pytest.approx(50, rel=1e-9)
    assert row["surplus"] == 0.0
    assert row["cash_change"] == -1_000
    assert last_balance(fund) == pytest.approx(950, rel=1e-9)
    assert fund["uncovered"].sum() == 0.0


def test_g55_a_stop_before_liquidation_leaves_the_fund_alone() -> None:
    """G55, same primer: a stop that fills before the liquidation price."""
    account = {"side": "long", "entry": 0, "collateral": 1_000, "leverage": 40, "stop_loss": 0.01}
    bars = [still(40_000), (40_000, 40_000, 38_000, 38_000)]
    (row,), fund = run(flat(0.004, fund_seed=1_000), bars, [account])
    assert row["exit_reason"] == "stop_loss"
    assert row["exit_price"] == pytest.approx(39_600)
    assert row["cash_change"] == pytest.approx(-400)
    assert (row["surplus"], row["deficit"], row["liquidation_fee"]) == (0.0, 0.0, 0.0)
    assert set(fund["balance"].to_list()) == {1_000.0}


def test_g29_one_liquidations_surplus_pays_anothers_deficit() -> None:
    """G29, a BitMEX-derived venue's documentation: both bankrupt at 99, A fills at 99.25, then B at 98.75."""
    last = [still(100), still(99.25), still(100), still(98.75)]
    mark = [still(100), still(99), still(100), still(98.75)]
    accounts = [{"side": "long", "entry": entry, "collateral": 1, "leverage": 100} for entry in (0, 2)]
    (first, second), fund = run(flat(0.001), last, accounts, mark)
    assert first["bankruptcy_price"] == second["bankruptcy_price"] == 99
    assert first["surplus"] == pytest.approx(0.25)
    assert second["deficit"] == pytest.approx(0.25)
    balances = fund.sort("time", maintain_order=True)["balance"].to_list()
    assert max(balances) == pytest.approx(0.25)
    assert balances[-1] == pytest.approx(0.0, abs=1e-12)
    assert fund["uncovered"].sum() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("fill", "surplus", "deficit"), [(6_980, 30, 0), (6_930, 0, 20)])
def test_g30_fill_better_and_worse_than_bankruptcy(fill: float, surplus: float, deficit: float) -> None:
    """G30, Bybit, Insurance fund: bankruptcy 6,950."""
    account = {"side": "long", "entry": 0, "collateral": 50, "leverage": 140}
    (row,), fund = run(
        flat(0.001, fund_seed=100), [still(7_000), still(fill)], [account], [still(7_000), still(6_930)]
    )
    assert row["exit_reason"] == "liquidation"
    assert row["surplus"] == pytest.approx(surplus, abs=1e-9)
    assert row["deficit"] == pytest.approx(deficit, abs=1e-9)
    assert last_balance(fund) == pytest.approx(100 + surplus - deficit)


def test_g30_two_traders_one_draws_one_adds() -> None:
    """G30, Bybit blog: bankrupt at 8,730 (A) and 8,680 (B), both closed at 8,700: A draws, B adds."""
    accounts = [
        {"side": "long", "entry": 0, "collateral": margin, "leverage": 8_800 / margin} for margin in (70, 120)
    ]
    last, mark = [still(8_800), still(8_700)], [still(8_800), still(8_650)]
    (a, b), fund = run(flat(0.001, fund_seed=100), last, accounts, mark)
    assert (a["bankruptcy_price"], b["bankruptcy_price"]) == (pytest.approx(8_730), pytest.approx(8_680))
    assert (a["surplus"], a["deficit"]) == (0.0, pytest.approx(30))
    assert (b["surplus"], b["deficit"]) == (pytest.approx(20), 0.0)
    assert last_balance(fund) == pytest.approx(90)


def test_g26_an_isolated_position_loses_its_margin_and_no_more() -> None:
    """G26, BitMEX, isolated against cross (linearised): 100 at 100 with margin 4, price 94."""
    account = {"side": "long", "entry": 0, "collateral": 4, "leverage": 25}
    (row,), _ = run(flat(0.01, maintenance_on="entry"), [still(100), still(94)], [account])
    assert row["liquidation_price"] == pytest.approx(97)
    assert row["cash_change"] == -4
    assert row["deficit"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("side", "quantity", "expected"), [("long", 100 * 0.0001, 50), ("short", 800 * 0.0001, -400)]
)
def test_g20_linear_profit_and_loss(side: str, quantity: float, expected: float) -> None:
    """G20, OKEx futures documentation of 2020: contracts of .0001 BTC opened at 5,000, closed at 10,000."""
    notional = quantity * 5_000
    account = {"side": side, "entry": 0, "exit": 1, "collateral": 2 * notional, "leverage": 0.5}
    (row,), _ = run(flat(0.004), [still(5_000), still(10_000), still(10_000)], [account])
    assert row["exit_reason"] == "time"
    assert row["quantity"] == pytest.approx(quantity)
    assert row["pnl"] == pytest.approx(expected)
    assert row["cash_change"] == pytest.approx(expected)


# Fill price; rate of the liquidation fee; fee and rest, or a negative rest for what the fund pays.
LIQUIDATIONS = [
    ("long", 56_100, 0.005, 28.05, 510 - 28.05),
    ("long", 56_100, 0.025, 140.25, 510 - 140.25),
    ("long", 51_051, 0.005, 5.10, 0),
    ("long", 51_000, 0.005, 0, 0),
    ("long", 50_490, 0.005, 0, -51),
    ("short", 44_100, 0.005, 22.05, 490 - 22.05),
    ("short", 44_100, 0.025, 110.25, 490 - 110.25),
    ("short", 48_951, 0.005, 4.90, 0),
    ("short", 49_490, 0.005, 0, -49),
]


@pytest.mark.parametrize(("side", "fill", "rate", "fee", "rest"), LIQUIDATIONS)
def test_g41_liquidation_fee_is_capped_by_what_is_left(
    side: str, fill: float, rate: float, fee: float, rest: float
) -> None:
    """G41, dYdX v4, tests of the insurance fund delta: .1 BTC bankrupt at 51,000 (long), 49,000 (short).

    The fee goes to the fund, the rest to the trader, a deficit is the fund's. A fee of 100 % is a
    venue that keeps all: `test_g41_everything_kept`.
    """
    row, fund = _g41(side, fill, liquidation_fee=rate, surplus_to_fund=0)
    assert row["liquidation_fee"] == pytest.approx(fee, abs=0.005)
    assert row["cash_change"] + row["collateral"] == pytest.approx(max(rest, 0), abs=0.005)
    assert row["deficit"] == pytest.approx(max(-rest, 0), abs=1e-9)
    assert last_balance(fund) == pytest.approx(1_000 + fee - max(-rest, 0), abs=0.005)


@pytest.mark.parametrize(("side", "fill", "kept"), [("long", 56_100, 510), ("short", 44_100, 490)])
def test_g41_everything_kept(side: str, fill: float, kept: float) -> None:
    """G41 with a fee of 100 %, capped by what is left: the fund gets all of it."""
    row, fund = _g41(side, fill, surplus_to_fund=1)
    assert row["surplus"] == pytest.approx(kept)
    assert last_balance(fund) == pytest.approx(1_000 + kept)


def _g41(side: str, fill: float, **fields: Any) -> tuple[dict[str, Any], pl.DataFrame]:
    """.1 BTC entered at 60,000 (long) or 40,000 (short), margin 900; the mark passes bankruptcy."""
    entry, through = (60_000, 50_000) if side == "long" else (40_000, 50_000)
    account = {"side": side, "entry": 0, "collateral": 900, "leverage": 0.1 * entry / 900}
    (row,), fund = run(
        flat(0.004, fund_seed=1_000, **fields),
        [still(entry), still(fill)],
        [account],
        [still(entry), still(through)],
    )
    assert row["exit_reason"] == "liquidation"
    assert row["bankruptcy_price"] == pytest.approx(51_000 if side == "long" else 49_000)
    assert row["exit_price"] == fill
    return row, fund
