"""Published formulas through public calls: `perpbt.explain` with the other positions of a wallet, `perpbt.formulas`, and those examples
that were formulas only through the engine: G13, G26, G39. Sources stand beside each number.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

import perpbt
from perpbt import cli, formulas
from perpbt.errors import InputError
from perpbt.explaining.asked import in_words

BINANCE = "Binance, How to calculate liquidation price of USD-M futures contracts (numbers also in freqtrade, tests/exchange/test_binance.py)"
DYDX = "dydxprotocol/v4-chain, x/clob/keeper/liquidations_test.go"
WALLET = 1_535_443.01
ETHER_TIERS = [
    (0, 2_707_300, 0.05, 10),
    (2_707_300, 1e9, 0.1, 5),
]  # the page gives 10 % and its deduction, 135,365
BITCOIN_TIERS = [
    (0, 50_000, 0.004, 125), (50_000, 250_000, 0.005, 100), (250_000, 1e6, 0.01, 50), (1e6, 1e7, 0.025, 20), (1e7, 2e7, 0.05, 10),
]  # fmt: skip
ETHER = {
    "symbol": "ETHUSDT",
    "side": "long",
    "entry_price": 1456.84,
    "quantity": 3683.979,
    "tiers": ETHER_TIERS,
}
BITCOIN = {
    "symbol": "BTCUSDT",
    "side": "long",
    "entry_price": 32_481.98,
    "quantity": 109.488,
    "tiers": BITCOIN_TIERS,
}


# ------------------------------------------------------------------------------- a wallet with other positions
@pytest.mark.parametrize(
    ("own", "other", "mark", "expected"),
    [(ETHER, BITCOIN, 31_967.27, 1_153.26), (BITCOIN, ETHER, 1_335.18, 26_316.89)],
    ids=["ETH beside BTC (G3)", "BTC beside ETH"],
)
def test_the_others_of_a_wallet_are_said_as_positions(
    own: dict[str, Any], other: dict[str, Any], mark: float, expected: float
) -> None:
    """Both prices of the page; ETH's mark of 1,335.18 is that at which it has lost the printed 448,192.89."""
    answer = perpbt.explain({**own, "wallet": WALLET, "others": [{**other, "mark": mark}]})
    assert answer.liquidation_price == pytest.approx(expected, abs=0.01), BINANCE
    if own is ETHER:
        said = {step.label: step.result for step in answer.steps}
        assert said["Kept by the long BTCUSDT"] == pytest.approx(71_200.81, abs=0.005)
        assert said["Profit of the long BTCUSDT"] == pytest.approx(-56_354.57, abs=0.005)
    sums = [one.result for one in answer.steps[:2]]
    by_sums = perpbt.explain(
        {**own, "wallet": WALLET, "other_maintenance": sums[0], "other_unrealised": sums[1]}
    )
    assert by_sums.liquidation_price == answer.liquidation_price


def test_legs_of_one_contract_share_their_prices() -> None:
    """Hedge mode: with the price where it says, all the wallet has is what all its positions must keep."""
    other = {"symbol": "BTCUSDT", "side": "short", "entry_price": 60_000, "quantity": 0.1, "mark": 61_000}
    leg = {"side": "short", "entry_price": 3_100, "quantity": 4, "mark": 3_000}
    own = {"symbol": "ETHUSDT", "side": "long", "entry_price": 3_000, "quantity": 10}
    answer = perpbt.explain({**own, "wallet": 5_000, "others": [leg, other]})
    price = answer.liquidation_price
    assert price is not None
    rule = perpbt.load_venue("binance_um").maintenance
    kept = 10 * price * 0.004 + 4 * price * 0.004 + 0.1 * 61_000 * 0.004
    worth = 5_000 + 10 * (price - 3_000) - 4 * (price - 3_100) - 0.1 * 1_000
    assert rule("ETHUSDT").bands[0].rate == 0.004
    assert worth == pytest.approx(kept, rel=1e-9)
    gone = answer.bankruptcy_price
    assert gone is not None
    left = 5_000 + 10 * (gone - 3_000) - 4 * (gone - 3_100) - 0.1 * 1_000
    assert left == pytest.approx(0.0, abs=1e-6)
    assert (
        "the 2 positions on this contract are liquidated together where the price falls to" in answer.notes[0]
    )
    flipped = perpbt.explain(
        {**leg, "symbol": "ETHUSDT", "wallet": 5_000, "others": [{**own, "mark": 3_000}, other]}
    )
    assert flipped.liquidation_price == pytest.approx(price, rel=1e-12)
    even = perpbt.explain({**own, "wallet": 5_000, "others": [{**leg, "quantity": 10}]})
    assert even.liquidation_price is not None
    assert even.liquidation_price > 3_100


def test_the_command_takes_other_positions_too() -> None:
    words = [
        "liquidation",
        "--symbol",
        "ETHUSDT",
        "--side",
        "long",
        "--entry",
        "3000",
        "--quantity",
        "10",
        "--wallet",
        "5000",
    ]
    one = "symbol=BTCUSDT,side=short,entry=60000,quantity=0.1,mark=61000"
    found = CliRunner().invoke(
        cli.app, [*words, "--other", one, "--other", "side=short,entry=3100,quantity=4"]
    )
    assert found.exit_code == 0
    assert "Kept by the short BTCUSDT" in found.output
    assert "liquidated together" in " ".join(found.output.split())
    assert in_words(one) == {"symbol": "BTCUSDT", "side": "short", "entry_price": 60_000, "quantity": 0.1, "mark": 61_000}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"others": []}, "must be a list of positions"),
        ({"others": [{"side": "long"}], "other_maintenance": 1.0}, "only without others"),
        ({"others": [{**BITCOIN, "leverage": 5}]}, r"others\[0\].leverage = 5: one wallet backs all"),
        ({"others": [{**BITCOIN, "mrk": 5}]}, r"others\[0\]\['mrk'\]: unknown key"),
        ({"others": [{**BITCOIN, "side": "up"}]}, r"others\[0\]\.side = 'up'"),
        ({"others": [{**BITCOIN, "contract": "inverse"}]}, r"others\[0\]: settled in BTC; must be in USDT"),
    ],
)
def test_what_is_wrong_with_the_others_is_named(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        perpbt.explain({**ETHER, "wallet": 1e6, **given})
    with pytest.raises(InputError, match="must be KEY=VALUE"):
        in_words("side:long")
    with pytest.raises(InputError, match="only with wallet"):
        perpbt.explain({**ETHER, "leverage": 2, "others": [BITCOIN]})


# --------------------------------------------------------------------------------- formulas venue by venue
def test_bybits_inverse_example_is_one_call() -> None:
    """G13, help.bybit.com 360039261334: 10,000 USD long at 8,000 with 0.5 BTC: bankrupt at 5,718.57, liquidated at 5,739.50."""
    asked = {
        "contract": "inverse", "side": "long", "entry_price": 8_000, "quantity": 10_000, "wallet": 0.5, "maintenance": 0.005,
        "maintenance_on": "entry", "fee_to_close": 0.00075,
    }  # fmt: skip
    assert perpbt.explain(asked).bankruptcy_price == pytest.approx(5_718.57, abs=0.005)
    assert perpbt.explain({**asked, "tick": 0.5}).liquidation_price == 5_739.5
    assert "equity is the fee to close" in perpbt.explain(asked).render()


@pytest.mark.parametrize(("side", "s"), [("long", 1), ("short", -1)])
def test_formulas_that_venues_print_are_one_call(side: str, s: int) -> None:
    """Phemex, Hyperliquid, OKX and Gate (coin-margined), Bybit (isolated inverse, two texts): as printed against `explain`."""
    entry, quantity, rate, fee, deduction = 8_000.0, 3.0, 0.01, 0.0006, 120.0
    margin = entry * quantity / 5
    tiers = [(0, 24_000 / 2, 0.005, 100), (12_000, 1e9, 0.015, 50)]  # deduction 120
    linear = {
        "side": side,
        "entry_price": entry,
        "quantity": quantity,
        "margin": margin,
        "maintenance_on": "mark",
    }
    phemex = (entry * quantity - s * (margin + deduction)) / (1 - s * (fee + 0.015)) / quantity
    asked = {**linear, "tiers": tiers, "close_out_rate": fee}
    assert perpbt.explain(asked).liquidation_price == pytest.approx(phemex, rel=1e-12)
    # Hyperliquid: from the mark, with what is left above maintenance there
    mark, leverage = 8_100.0, 40
    held = {"venue": "hyperliquid", "symbol": "BTC", "side": side, "entry_price": entry, "quantity": quantity}
    told = perpbt.explain({**held, "wallet": 5_000.0, "mark": mark})
    available, share = told.equity - told.maintenance_margin, 1 / (2 * leverage)
    printed = mark - s * available / quantity / (1 - share * s)
    assert told.liquidation_price == pytest.approx(printed, rel=1e-12)
    coin = {"contract": "inverse", "side": side, "entry_price": entry, "quantity": 24_000.0, "margin": 0.5}
    okx = (1 + s * rate) / (1 / entry + s * 0.5 / 24_000)
    assert perpbt.explain({**coin, "maintenance": rate}).liquidation_price == pytest.approx(okx, rel=1e-12)
    gate = 24_000 * entry * (1 + s * (rate + fee)) / (24_000 + s * 0.5 * entry)
    gated = perpbt.explain({**coin, "maintenance": rate, "close_out_rate": fee}).liquidation_price
    assert gated == pytest.approx(gate, rel=1e-12)
    bybit = 24_000 / (3 + s * (0.5 - 3 * rate))
    older = perpbt.explain({**coin, "maintenance": rate, "maintenance_on": "entry"}).liquidation_price
    assert older == pytest.approx(bybit, rel=1e-12)


def test_initial_margins_by_size_and_by_open_interest() -> None:
    """Deribit support, Linear Perpetual (G37); dydxprotocol/v4-chain, x/perpetuals liquidity tiers: Small-Cap 10 %, 20 to 50 million."""
    deribit, dydx = perpbt.load_venue("deribit"), perpbt.load_venue("dydx")
    for size, price, symbol, kept in (
        (25.0, 1e5, "BTC_USDC", 53_125), (350.0, 1e5, "BTC_USDC", 1_312_500), (25.0, 200.0, "SOL_USDC", 200.625),
        (6_000.0, 200.0, "SOL_USDC", 84_000),
    ):  # fmt: skip
        rate = deribit.initial_margin_rate(size * price, symbol, quantity=size)
        assert rate * size * price == pytest.approx(kept, rel=1e-12)
    for interest, rate in ((None, 0.1), (1e7, 0.1), (2e7, 0.1), (3.5e7, 0.55), (5e7, 1.0), (9e9, 1.0)):
        assert dydx.initial_margin_rate(1e4, open_interest=interest) == pytest.approx(rate, rel=1e-12)
    assert dydx.initial_margin_rate(1e4, "BTC-USD", open_interest=9e9) == pytest.approx(0.02)
    assert perpbt.load_venue("binance_um").initial_margin_rate(1e4, "BTCUSDT") == 1 / 125
    with pytest.raises(InputError, match="open_interest = -1"):
        dydx.initial_margin_rate(1e4, open_interest=-1)


@pytest.mark.parametrize(
    ("side", "usdc", "price"),
    [
        ("long", -4_501, 49_999),
        ("long", -5_000, 49_500),
        ("short", 5_499, 50_001),
        ("short", 5_000, 50_500),
        ("long", -5_100, 49_500),
    ],
)
def test_dydx_fillable_price(side: str, usdc: float, price: float) -> None:
    """0.1 BTC at 50,000, maintenance 10 %: the worst price of the liquidation order falls with the account's health."""
    equity = usdc + (5_000 if side == "long" else -5_000)
    asked = {"side": side, "price": 50_000.0, "quantity": 0.1, "equity": equity, "maintenance": 500.0}
    assert formulas.fillable_price(**asked) == pytest.approx(price, rel=1e-12), DYDX
    twice = formulas.fillable_price(
        **{**asked, "equity": 2 * equity, "maintenance": 1_000.0}, position_maintenance=500.0
    )
    assert twice == pytest.approx(price, rel=1e-12)


def test_portfolio_margin_of_okx() -> None:
    """G47, OKX: MR4 8,053.32 and MR7 3,020.17 make 8,053.32; MR 40,000 and a raw charge of 30,000 make 50,000."""
    assert formulas.portfolio_requirement(mr4=8_053.32, mr7=3_020.17) == 8_053.32
    assert formulas.portfolio_requirement(mr4=0.0, mr7=3_020.87) == 3_020.87
    least = formulas.tiered_minimum(30_000.0, [(10_000.0, 1.0), (70_000.0, 2.0)])
    assert least == 50_000.0
    assert formulas.portfolio_requirement(mr1=40_000.0, mr7=least) == 50_000.0
    okx = perpbt.load_venue("okx")
    terms = okx.terms("portfolio", "BTC-USDT-SWAP")
    alone = formulas.portfolio_margin({"BTC-USDT-SWAP": 1e6}, okx)
    assert alone.spot_shock == pytest.approx(max(terms.shocks) * 1e6)
    assert alone.basis == 0.0
    assert alone.required == max(max(alone.spot_shock, alone.extreme), alone.minimum)
    hedged = formulas.portfolio_margin([("", 1e6), ("BTC-USDT-SWAP", -1e6)], okx)
    assert (hedged.spot_shock, hedged.extreme) == (0.0, 0.0)
    assert hedged.required == max(terms.basis * 1e6, hedged.minimum)
    with pytest.raises(InputError, match=r"states no \[portfolio\]"):
        formulas.portfolio_margin({"BTCUSDT": 1.0}, "binance_um")
    with pytest.raises(InputError, match="at least one of a contract"):
        formulas.portfolio_margin([("", 1.0)], okx)


def test_mark_and_premium_of_one_moment() -> None:
    """G38, Binance FAQ of 2020: 10,001.5; G34, Hyperliquid: a premium of 1 %, then 0.95 % in eight hours."""
    assert formulas.mark_by_funding(10_000, 0.0003, 4) == pytest.approx(10_001.5, rel=1e-15)
    assert formulas.mark_by_basis(10_000, -3.5) == 9_996.5
    assert (
        formulas.median_mark(3, 1, 2) == formulas.median_mark(2, 3, 1) == formulas.median_mark(2, 2, 9) == 2
    )
    sample = formulas.premium(10_100.0, 10_110.0, 10_000.0)
    assert sample == pytest.approx(0.01, rel=1e-15)
    terms = formulas.load_terms(formulas.FundingTerms, "hyperliquid")
    assert formulas.funding_rate(sample, terms, 8.0) == pytest.approx(0.0095)
    assert formulas.premium(9_900.0, 9_950.0, 10_000.0) == pytest.approx(-0.005)
    assert formulas.premium(10_060.0, 10_080.0, 10_000.0, mark=10_050.0) == pytest.approx(0.001 + 0.005)


# ----------------------------------------------------------------------------------------- through the engine
START = datetime(2024, 1, 1, tzinfo=UTC)


def still(symbol: str, *prices: float) -> pl.DataFrame:
    """A bar a minute that does not move."""
    columns = {name: [float(price) for price in prices] for name in ("open", "high", "low", "close")}
    times = [START + timedelta(minutes=k) for k in range(len(prices))]
    return pl.DataFrame({"ts": times, "symbol": symbol, **columns}).with_columns(
        pl.col("ts").cast(pl.Datetime("ms", "UTC")), pl.col(*columns).cast(pl.Float64)
    )


def opened(*rows: dict[str, Any]) -> pl.DataFrame:
    """Rows of one account that enter at the first bar."""
    base = {"account": "a", "strategy": "s", "entry_time": START}
    return pl.DataFrame([{**base, **row} for row in rows], infer_schema_length=None).with_columns(
        pl.col("^(entry|exit)_time$").cast(pl.Datetime("ms", "UTC")),
        pl.col("collateral", "leverage").cast(pl.Float64),
    )


@pytest.mark.parametrize(
    ("price", "left"), [(5_718.571428571, 0.0), (5_750.0, 0.5 - 0.4891304348 - 0.00075 * 1.7391304348)]
)
def test_g13_at_its_bankruptcy_price_the_fee_to_close_takes_all(price: float, left: float) -> None:
    """Bybit, inverse cross: 10,000 USD from 8,000 with 0.5 BTC and a fee of 0.075 %: closed at 5,718.57, nothing is left."""
    venue = perpbt.Venue(
        name="bybit", taker_fee=0.00075, contract={"kind": "inverse"}, maintenance_on="entry", tiers={"default": [(0, 1e6, 1e-6, 100)]}
    )  # fmt: skip
    leverage = 2.5
    row = {
        "symbol": "BTCUSD", "side": "long", "leverage": leverage, "collateral": 0.5 * (1 + 0.00075 * leverage),
        "exit_time": START + timedelta(minutes=1),
    }  # fmt: skip
    found = perpbt.simulate(still("BTCUSD", 8_000, price, price), opened(row), venue=venue)
    closed = found.accounts.row(0, named=True)
    assert closed["quantity"] == pytest.approx(10_000.0, rel=1e-12)
    assert closed["margin"] == pytest.approx(0.5, rel=1e-12)
    assert closed["exit_reason"] == "time"
    assert closed["cash_change"] + closed["collateral"] == pytest.approx(left, abs=1e-10)


def test_g26_cross_carries_the_loss_that_isolated_ends() -> None:
    """BitMEX: 1 at 100 with 4 of margin, price 94: isolated loses 4, cross is down 6 and open (linearised)."""
    bars = still("XBTUSD", 100, 94, 94)
    row = {"symbol": "XBTUSD", "side": "long", "leverage": 25.0, "collateral": 4.0, "reserve": 16.0}
    venue = perpbt.Venue(name="bitmex", tiers={"default": [(0, 1e6, 0.01, 100)]})
    crossed = perpbt.simulate(bars, opened(row), venue=venue, margin="cross").accounts.row(0, named=True)
    assert (crossed["exit_reason"], crossed["pnl"]) == ("end", -6.0)
    del row["reserve"]
    alone = perpbt.simulate(bars, opened(row), venue=venue).accounts.row(0, named=True)
    assert (alone["exit_reason"], alone["cash_change"]) == ("liquidation", -4.0)


@pytest.mark.parametrize(
    ("quote", "sizes", "closed", "expected"),
    [
        (-4_501.0, {"BTC": 0.1}, "BTC", 4_501.0),
        (5_499.0, {"BTC": -0.1}, "BTC", -5_499.0),
        (-5_000.0, {"BTC": 0.1}, "BTC", 5_000.0),
        (4_900.0, {"BTC": -0.1}, "BTC", -4_900.0),
        (-490.0, {"BTC": 0.004, "ETH": 0.1}, "ETH", 294.0),
        (510.0, {"BTC": -0.004, "ETH": -0.1}, "ETH", -306.0),
        (110.0, {"BTC": 0.004, "ETH": -0.1}, "ETH", -306.0),
    ],
)
def test_g39_a_wallet_pays_or_owes_the_bankruptcy_quote(
    quote: float, sizes: dict[str, float], closed: str, expected: float
) -> None:
    """dYdX v4: what closing a position pays at bankruptcy is its worth less its part, by maintenance, of what the account is worth.

    A shared wallet liquidated at 50,000 and 3,000 splits its surplus or deficit that way. It opened where prices were kinder.
    """
    marks = {"BTC": 50_000.0, "ETH": 3_000.0}
    kinder = {name: marks[name] * (1.2 if sizes.get(name, 0.0) > 0 else 0.8) for name in marks}
    used = [name for name in marks if name in sizes]
    equity = quote + sum(size * marks[name] for name, size in sizes.items())
    wallet = equity - sum(size * (marks[name] - kinder[name]) for name, size in sizes.items())
    backing = wallet / len(used)
    rows = [
        {
            "symbol": name, "side": "long" if sizes[name] > 0 else "short", "collateral": backing,
            "leverage": abs(sizes[name]) * kinder[name] / backing,
        }
        for name in used
    ]  # fmt: skip
    venue = perpbt.Venue(name="dydx", tiers={"default": [(0, 1e9, 0.1, 100)]}, surplus_to_fund=1.0)
    bars = pl.concat([still(name, kinder[name], marks[name], marks[name]) for name in used])
    found = perpbt.simulate(bars, opened(*rows), venue=venue, margin="cross").accounts
    assert set(found["exit_reason"]) == {"liquidation"}
    row = found.filter(pl.col("symbol") == closed).row(0, named=True)
    worth = sizes[closed] * marks[closed]
    assert worth - row["surplus"] + row["deficit"] == pytest.approx(expected, rel=1e-9), DYDX


def test_the_prices_of_a_venue_are_those_of_its_contracts() -> None:
    """G18, Binance COIN-M: 33,578.859744834; and whatever a symbol is, `explain` says the same."""
    asked = {
        "side": "long",
        "entry_price": 45_000.0,
        "quantity": 100_000.0,
        "margin": 101.0,
        "symbol": "BTCUSD",
    }
    tiers = {"BTCUSD": [(0, 94.48, 1e-12, 125, 0.0), (94.48, 1e6, 0.125, 125, 11.81)]}
    coin_m = perpbt.load_venue("binance_cm").replace(tiers=tiers)
    assert coin_m.liquidation_price(**asked) == pytest.approx(33_578.859744834, abs=5e-9)
    for name in perpbt.list_venues():
        venue = perpbt.load_venue(name)
        for symbol in venue.tiers:
            for side in ("long", "short"):
                contract = venue.terms("contract", symbol) or formulas.Contract()
                notional = 0.9 * min(venue.brackets(symbol)[0].cap, 1e6)
                held = {
                    "side": side, "entry_price": 2_000.0, "quantity": contract.quantity_of(notional, 2_000.0), "margin": notional / 8,
                    "symbol": symbol,
                }  # fmt: skip
                told = perpbt.explain({**held, "venue": venue})
                for one in ("liquidation_price", "bankruptcy_price"):
                    found, expected = getattr(venue, one)(**held), getattr(told, one)
                    if (
                        expected is None
                    ):  # a coin-margined short without leverage, or a long that owes nothing
                        assert found <= 0.0 or found == float("inf"), (name, symbol, one)
                    else:
                        assert found == pytest.approx(expected, rel=1e-9), (name, symbol, one)
    never = {**asked, "side": "short", "quantity": 100.0}
    assert coin_m.liquidation_price(**never) == coin_m.bankruptcy_price(**never) == float("inf")


def test_where_cascades_come_to_rest() -> None:
    """A first fall of 5 %: linear impact at branching ratios of .3 and .7, square-root impact of .15 on a density of 1."""
    assert formulas.linear_cascade(0.05, 0.3) == pytest.approx(0.0714286, abs=5e-8)
    assert formulas.linear_cascade(0.05, formulas.branching_ratio(1.4, 1.0, 0.5)) == pytest.approx(
        0.1666667, abs=5e-8
    )
    assert formulas.linear_cascade(0.05, 1.0) == math.inf
    assert formulas.square_root_cascade(0.05, 0.15, 1.0) == pytest.approx(0.0966274292, abs=5e-11)
    assert formulas.square_root_cascade(0.0, 0.15, 2.0) == pytest.approx(0.15**2 * 2)
    with pytest.raises(perpbt.InputError, match=r"shock is -0\.1"):
        formulas.linear_cascade(-0.1, 0.3)
