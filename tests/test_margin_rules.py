"""Maintenance rules and rates in time: three engines agree to the bit, and each does what its venue's page says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import made_markets
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_engine_equals_oracle import DATA, MADE, engine_bars
from test_engines_agree import START, agree, all_agree, population, walk

import perpbt
import perpbt.prepare.arrays
from perpbt.contracts import Contract, Maintenance, Position, is_liquidated, liquidation_price
from perpbt.errors import InputError
from perpbt.venue import PACKAGED, load_venue

BANDS = (
    (0.0, 1e3, 0.004, 125.0),
    (1e3, 5e3, 0.01, 125.0),
    (5e3, 1e4, 0.02, 125.0),
    (1e4, 1e5, 0.05, 125.0),
    (1e5, 1e6, 0.2, 125.0),
)
COSTS: dict[str, Any] = {"taker_fee": 5e-4, "slippage": 1e-4, "liquidation_fee": 0.002, "impact": 1.0}
RULES: dict[str, dict[str, Any]] = {
    "whole": {"maintenance": {"rule": "whole"}, "tiers": {"default": BANDS}},
    "whole with a rate to close": {
        "maintenance": {"rule": "whole"},
        "tiers": {"default": BANDS},
        "close_out_rate": 6e-4,
    },
    "whole on entry": {
        "maintenance": {"rule": "whole"},
        "tiers": {"default": BANDS},
        "maintenance_on": "entry",
    },
    "size": {
        "maintenance": {"rule": "size", "per_unit": 1e-3},
        "tiers": {"default": [(0, 1e6, 0.01, 50)]},
    },
    "size on entry": {
        "maintenance": {"rule": "size", "per_unit": 1e-3},
        "tiers": {"default": [(0, 1e6, 0.01, 50)]},
        "maintenance_on": "entry",
        "close_out_rate": 6e-4,
    },
}


def moment(minute: float) -> datetime:
    """So many minutes after the first bar."""
    return datetime.fromtimestamp(START / 1000 + 60 * minute, UTC)


def dated(*minutes: float, **fields: Any) -> dict[str, Any]:
    """Tiers that change at these minutes, to ladders of different lengths and rates."""
    ladders = [
        BANDS,
        [(0, 2e3, 0.02, 125), (2e3, 1e6, 0.1, 125)],
        [(0, 1e6, 0.003, 125)],
        [(0, 1e3, 0.03, 50), (1e3, 1e4, 0.06, 20), (1e4, 1e6, 0.3, 5)],
    ]
    sets = [(moment(minute), ladders[k % 4]) for k, minute in enumerate(minutes)]
    return {"tiers": {}, "dated": {"AAA": sets}, **fields}


COINS = tuple((floor / 100, cap / 100, rate, top) for floor, cap, rate, top in BANDS)
INVERSE: dict[str, dict[str, Any]] = {
    "inverse steps": {"maintenance": {"rule": "whole"}, "tiers": {"default": COINS}},
    "inverse, dated": {
        "tiers": {},
        "dated": {"AAA": [(moment(-5), COINS), (moment(700), [(0, 1e4, 0.02, 60)]), (moment(1500), COINS)]},
    },
}


CHANGES: dict[str, dict[str, Any]] = {
    "dated": dated(-5, 300, 1201.5, 2000, 2000.25, 2600),
    "dated, at the blocks": dated(0, 64, 512, 520, 521, 522, 1024),
    "dated on entry": dated(-5, 700, 1500, maintenance_on="entry"),
    "dated steps": dated(-5, 700, 1500, maintenance={"rule": "whole"}),
    "after all bars": dated(-5, 1e6),
}


def venue(fields: dict[str, Any]) -> perpbt.Venue:
    return perpbt.Venue(name="made", **COSTS, **fields)


# ------------------------------------------------------------------------------------------ engines agree
@pytest.mark.parametrize("near", [0, 8])
@pytest.mark.parametrize("rule", [*RULES, *CHANGES])
def test_engines_agree_on_given_positions(monkeypatch: pytest.MonkeyPatch, rule: str, near: int) -> None:
    monkeypatch.setattr(perpbt.prepare.arrays, "NEAR", near)
    frame = walk(2500, seed=21, tick=0.5 if near else 0.0, step=0.003)
    fields = {**RULES, **CHANGES}[rule]
    rows = agree(perpbt.load_bars(frame), population(frame, 1000, seed=9), venue=venue(fields))
    assert set(rows["exit_reason"]) >= {"liquidation", "stop_loss", "take_profit", "end"}


@pytest.mark.parametrize("rule", INVERSE)
def test_engines_agree_on_coin_margined_positions(rule: str) -> None:
    frame = walk(2500, seed=21, step=0.003)
    table = population(frame, 800, seed=9).with_columns(pl.col("collateral") / 100)
    inverse = venue({**INVERSE[rule], "contract": {"kind": "inverse"}})
    rows = agree(perpbt.load_bars(frame), table, venue=inverse)
    assert set(rows["exit_reason"]) >= {"liquidation", "stop_loss", "take_profit", "end"}


@pytest.mark.parametrize("rule", ["whole", "size", "dated", "dated steps"])
def test_engines_agree_on_followed_signals(rule: str) -> None:
    """Margin calls, compounding and re-entry: an order decided under one set of tiers is carried out under the next."""
    frame = walk(1500, seed=4, tick=0.5, step=0.004)
    policies = [
        {
            "leverage": [3, 10, 20],
            "sizing": {"kind": "equity", "fraction": 0.5},
            "compounding": True,
            "margin_call": [
                {"action": "top_up", "threshold": 0.3, "target": 0.15, "max_calls": 3},
                {"action": "deleverage", "threshold": 0.3, "fraction": 0.5, "max_calls": 3},
            ],
        },
        {"leverage": [5, 25], "stop_loss": ["none", 0.02], "max_holding": "300m", "capital": 2_000},
    ]
    fields = {**RULES, **CHANGES}[rule]
    result = all_agree(
        perpbt.backtest(
            perpbt.load_bars(frame), "hold", policies, offsets=12, venue=venue(fields), engine=engine
        )
        for engine in ("dense", "skip", "oracle")
    )
    assert (result.accounts["top_up"] > 0).any()
    assert "liquidation" in set(result.accounts["exit_reason"])


@st.composite
def ruled(draw: st.DrawFn) -> dict[str, Any]:
    """A made venue with a rule of its own: steps, a rate that grows with size, tiers of several dates, or two of these."""
    fields = draw(made_markets.venues())
    names = ("floor", "cap", "rate", "max_leverage")
    rows = tuple(tuple(tier[name] for name in names) for tier in fields.pop("tiers"))
    rule = draw(st.sampled_from(("brackets", "whole", "size")))
    if rule == "size":
        rows = rows[:1]
        fields["maintenance"] = {"rule": rule, "per_unit": draw(st.sampled_from((1 / 4096, 1 / 256, 0.0)))}
    elif rule == "whole":
        fields["maintenance"] = {"rule": rule}
    hours = sorted(draw(st.sets(st.integers(1, 60), max_size=4)))
    if not hours:
        return fields | {"tiers": {"default": rows}}
    begin = datetime.fromtimestamp(made_markets.START / 1000, UTC)
    factors = draw(st.lists(st.sampled_from((0.5, 1.0, 2.0)), min_size=len(hours), max_size=len(hours)))
    sets = [(begin, rows)]
    for hour, factor in zip(hours, factors, strict=True):
        changed = [
            (floor, cap, rate * factor, most) for floor, cap, rate, most in rows[: 1 + hour % len(rows)]
        ]
        sets.append((begin + timedelta(hours=hour), changed))
    return fields | {"tiers": {}, "dated": dict.fromkeys(("AAA", "BBB", "CCC"), sets)}


@settings(MADE, max_examples=MADE.max_examples // 2)
@given(made_markets.markets(), ruled(), made_markets.rules())
def test_engines_agree_on_made_bars(
    market: dict[str, Any], fields: dict[str, Any], rules: dict[str, str]
) -> None:
    """Prices on a grid, so that they tie with thresholds and with the ends of bands."""
    bars, made = engine_bars(market), perpbt.Venue(name="made", **fields)
    all_agree(
        perpbt.simulate(bars, market["accounts_frame"], venue=made, rules=rules, engine=engine)
        for engine in ("dense", "skip", "oracle")
    )


def test_tiers_that_change_nothing_change_no_bit() -> None:
    frame = walk(2500, seed=21, tick=0.5, step=0.003)
    table = population(frame, 600, seed=9)
    same = {"tiers": {}, "dated": {"AAA": [(moment(300 * k), BANDS) for k in range(8)]}}
    bars = perpbt.load_bars(frame)
    one, many = (
        perpbt.simulate(bars, table, venue=venue(fields)).accounts
        for fields in ({"tiers": {"AAA": BANDS}}, same)
    )
    assert one.equals(many)


# ------------------------------------------------------------------------- prices against their definition
SHIPPED = sorted(path.stem for path in PACKAGED.glob("*.toml"))


def slack(venue: perpbt.Venue, symbol: str, position: Position, price: float) -> float:
    """Equity less all that must be kept, from the definitions of the venue's rule."""
    return position.equity(price) - venue.maintenance(symbol).required(position, price)


@st.composite
def held(draw: st.DrawFn) -> tuple[perpbt.Venue, str, Position]:
    """A position some shipped venue would open, of any of its symbols."""
    venue = load_venue(draw(st.sampled_from(SHIPPED)))
    symbol = draw(st.sampled_from(sorted(venue.tiers)))
    contract = venue.terms("contract", symbol) or Contract()
    tiers = venue.brackets(symbol)
    entry = draw(st.floats(1.0, 1e5))
    notional = min(draw(st.floats(1e-6, 0.999)) * tiers[-1].cap, 1e9)
    quantity = contract.quantity_of(notional, entry)
    rule = venue.terms("maintenance", symbol)
    size = contract.size(quantity, entry)
    most = next(tier.max_leverage for tier in tiers if notional <= tier.cap)
    if rule is not None and rule.per_unit > 0.0:
        most = 1.0 / (1.0 / most + rule.per_unit * size)
        assume(venue.maintenance(symbol).bands[0].rate + rule.per_unit * size < 0.9)
    leverage = draw(st.floats(0.05, 1.0)) * most
    margin = contract.value(quantity, entry) / leverage
    side = draw(st.sampled_from(["long", "short"]))
    return venue, symbol, Position(side, entry, quantity, margin, contract)


@settings(max_examples=300, deadline=None)
@given(held())
def test_the_liquidation_price_of_every_venue_solves_equity_equals_maintenance(
    case: tuple[perpbt.Venue, str, Position],
) -> None:
    venue, symbol, position = case
    rule = venue.maintenance(symbol)
    found = liquidation_price(position, rule)
    if found.price is None:
        far = position.entry_price * (1e-9 if position.side == "long" else 1e9)
        assert slack(venue, symbol, position, far) > -1e-6 * abs(position.margin) or position.side == "short"
        return
    scale = position.value(position.entry_price) + position.value(found.price) + position.margin
    if not found.reason:
        assert abs(slack(venue, symbol, position, found.price)) <= 1e-9 * scale
    # Steps of the entry price (of its reciprocal): at leverage 1 the liquidation price is itself of the size of rounding.
    x, entry = (
        1 / one if position.contract.kind == "inverse" else one for one in (found.price, position.entry_price)
    )
    for step, liquidated in ((1e-6, False), (-1e-6, True)):
        at = x + position.direction * step * entry
        if at > 0.0:
            assert (
                is_liquidated(position, rule, 1 / at if position.contract.kind == "inverse" else at)
                is liquidated
            )
    if position.contract.kind == "linear" and position.contract.multiplier == 1.0:
        named = venue.liquidation_price(
            side=position.side, entry_price=position.entry_price, quantity=position.quantity,
            margin=position.margin, symbol=symbol,
        )  # fmt: skip
        assert named == pytest.approx(found.price, rel=1e-9)


@pytest.mark.parametrize("side", ["long", "short"])
@pytest.mark.parametrize("rule", [*RULES, *CHANGES, *INVERSE])
def test_the_engine_liquidates_just_beyond_the_price_it_states(rule: str, side: str) -> None:
    """One bar to open in, then a mark that stops short of the liquidation price, or goes past it, by a hair."""
    inverse = rule in INVERSE
    fields = {**RULES, **CHANGES, **INVERSE}[rule] | ({"contract": {"kind": "inverse"}} if inverse else {})
    made = venue(fields)
    collaterals = [1.0, 99.0, 480.0, 2000.0]
    accounts = pl.DataFrame(
        {
            "account": range(len(collaterals)),
            "strategy": "s",
            "symbol": "AAA",
            "side": side,
            "entry_time": moment(0),
            "collateral": [money / 100 if inverse else money for money in collaterals],
            "leverage": 10.0,
        }
    )
    flat = pl.DataFrame({"ts": [moment(k) for k in range(2)], "symbol": "AAA"}).with_columns(
        pl.lit(100.0).alias(name) for name in ("open", "high", "low", "close")
    )
    opened = perpbt.simulate(flat, accounts, venue=made).accounts
    checked = 0
    for row in opened.iter_rows(named=True):
        if row["exit_reason"] == "rejected":
            continue
        price = row["liquidation_price"]
        for beyond, reason in ((-1e-9, "end"), (1e-9, "liquidation")):
            at = price * (1.0 - beyond if side == "long" else 1.0 + beyond)
            low, high = min(100.0, at), max(100.0, at)
            second = pl.int_range(pl.len()) == 1
            bars = flat.with_columns(
                pl.when(second).then(low).otherwise("low").alias("low"),
                pl.when(second).then(high).otherwise("high").alias("high"),
            )
            one = accounts.filter(pl.col("account") == row["account"])
            for engine in ("skip", "dense", "oracle"):
                done = perpbt.simulate(bars, one, venue=made, engine=engine).accounts
                assert done["exit_reason"].to_list() == [reason], (row["account"], beyond, engine)
        checked += 1
    assert checked > 2


def test_risk_limit_steps_liquidate_where_the_band_asks_for_more() -> None:
    """A long safe at the low of its bar, but not in the band above it that the mark went through; and so to the bit."""
    steps = {
        "maintenance": {"rule": "whole"},
        "tiers": {"default": [(0, 950, 0.01, 50), (950, 1e6, 0.08, 12)]},
    }
    made = perpbt.Venue(name="made", **steps)
    bars = pl.DataFrame(
        {
            "ts": [moment(k) for k in range(3)],
            "symbol": "AAA",
            "open": [100.0, 100.0, 100.0],
            "high": [100.0, 100.0, 100.0],
            "low": [100.0, 93.0, 100.0],
            "close": [100.0, 100.0, 100.0],
        }
    )
    account = pl.DataFrame(
        {
            "account": [0],
            "strategy": ["s"],
            "symbol": ["AAA"],
            "side": ["long"],
            "entry_time": [moment(0)],
            "collateral": [100.0],
            "leverage": [10.0],
        }
    )
    # 10 units, margin 100: at 93 equity 30 against 9.3, at 95.0001 equity 50 against 76
    for engine in ("skip", "dense", "oracle"):
        row = perpbt.simulate(bars, account, venue=made, engine=engine).accounts.row(0, named=True)
        assert row["exit_reason"] == "liquidation"
        assert row["liquidation_price"] == pytest.approx(90.0 / 0.92)  # 10 P - 900 = 0.8 P
        assert row["exit_price"] == pytest.approx(90.0 / 0.92)


# ------------------------------------------------------------------------------------- dated tiers, files
TIERS = DATA / "binance_leverage_tiers.parquet"


@pytest.mark.parametrize("since", [3.5, 4.0])
def test_a_position_opened_before_a_change_meets_the_new_rates_at_its_first_bar(since: float) -> None:
    """At 97 with margin 5 a long is safe at 0.4 %, and is liquidated at the open of the bar in which 3 % begin to hold: the first that
    opens at their date or after it.
    """
    made = perpbt.Venue(
        name="made",
        tiers={},
        dated={"AAA": [(moment(-9), [(0, 1e6, 0.004, 50)]), (moment(since), [(0, 1e6, 0.03, 20)])]},
    )
    bars = pl.DataFrame({"ts": [moment(k) for k in range(6)], "symbol": "AAA"}).with_columns(
        pl.Series("open", [100.0] + [97.0] * 5),
        pl.Series("high", [100.0] + [97.0] * 5),
        pl.Series("low", [97.0] * 6),
        pl.lit(97.0).alias("close"),
    )
    account = pl.DataFrame(
        {
            "account": [0, 1],
            "strategy": "s",
            "symbol": "AAA",
            "side": "long",
            "entry_time": [moment(0), moment(4)],
            "collateral": 5.0,
            "leverage": [20.0, 25.0],
        }
    )
    for engine in ("skip", "dense", "oracle"):
        rows = perpbt.simulate(bars, account, venue=made, engine=engine).accounts
        first = rows.row(0, named=True)
        assert (first["exit_reason"], first["exit_time"]) == ("liquidation", moment(4))
        assert first["exit_price"] == 97.0
        assert rows["rejection"][1] == "leverage_above_tier_maximum"


def test_the_history_of_binance_tiers_is_read_from_its_file() -> None:
    if not TIERS.exists():
        pytest.skip(f"no real tier tables: {TIERS} is absent (set PERPBT_DATA)")
    found = load_venue("binance_um", tiers=TIERS)
    days = [str(since)[:10] for since, _ in found.schedule("BTCUSDT")]
    assert days == [
        "2022-04-16", "2022-09-27", "2023-12-12", "2024-10-24", "2025-06-22", "2026-05-01", "2026-09-01",
    ]  # fmt: skip
    assert found.schedule("BTCUSDT")[3].tiers == load_venue("binance_um").brackets("BTCUSDT")
    assert found.schedule("BTCUSDT")[0].tiers[3] == (1e6, 7.5e6, 0.025, 20.0, 16_300.0)
    assert sum(len(one.tiers) for sets in found.dated.values() for one in sets) == 24_828
    assert found.brackets("NOSUCH") == load_venue("binance_um").brackets("NOSUCH")
    assert "freqtrade" in found.provenance["tiers.BTCUSDT@2024-10-24"].source
    lent = load_venue("binance_um", tiers_as={"AAA": "ETHUSDT"}, tiers=TIERS)
    assert lent.schedule("AAA") == found.schedule("ETHUSDT")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mmr": None}, "column 'mmr' missing"),
        ({"snapshot": pl.lit("soon")}, "'soon' is no date"),
        ({"max_notional": pl.lit(None, dtype=pl.Float64)}, "row 0: null"),
        ({"mmr": pl.lit(2.0)}, r"tiers\.AUSDT\[0\]\.brackets\[0\]\.rate = 2: must be in \(0, 1\)"),
    ],
)
def test_faults_of_a_tier_file_are_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    frame = pl.DataFrame(
        {
            "snapshot": ["2024-10"],
            "symbol": ["A/USDT"],
            "min_notional": [0.0],
            "max_notional": [10.0],
            "mmr": [0.1],
            "max_leverage": [5.0],
        }
    )
    for name, value in changed.items():
        frame = frame.drop(name) if value is None else frame.with_columns(value.alias(name))
    frame.write_parquet(tmp_path / "tiers.parquet")
    with pytest.raises(InputError, match=said):
        load_venue("binance_um", tiers=tmp_path / "tiers.parquet")
    with pytest.raises(InputError, match="no readable Parquet file"):
        load_venue("binance_um", tiers=tmp_path / "absent.parquet")


# ------------------------------------------------------------------------------------ what venues publish
def test_hyperliquid_deductions_follow_from_the_maximum_leverages() -> None:
    """BTC 40x to 150 million, then 20x; ETH 25x to 100 million, then 15x (Hyperliquid documents, Margin tiers)."""
    venue_ = load_venue("hyperliquid")
    assert venue_.brackets("BTC")[1].deduction == 1_875_000
    assert venue_.brackets("ETH")[1].deduction == pytest.approx(1_333_333.33, abs=0.005)
    assert venue_.brackets("BTC")[0].rate == 1 / 80
    assert venue_.maintenance_margin(200e6, "BTC") == 200e6 / 40 - 1_875_000


@pytest.mark.parametrize(
    ("symbol", "price", "size", "maintenance"),
    [("BTC_USDC", 100_000, 25, 28_125), ("SOL_USDC", 200, 25, 100.625)],
)
def test_deribit_margins_grow_with_size(symbol: str, price: float, size: float, maintenance: float) -> None:
    """Deribit support, Linear Perpetual (G37)."""
    venue_ = load_venue("deribit")
    assert venue_.maintenance_margin(size * price, symbol, quantity=size) == pytest.approx(
        maintenance, rel=1e-12
    )
    with pytest.raises(InputError, match="quantity: missing"):
        venue_.maintenance_margin(size * price, symbol)


def test_deribit_refuses_more_than_the_initial_margin_allows() -> None:
    """350 BTC ask for 3.75 %: 26x is allowed, 27x is not (G37: 1,312,500 of 35 million)."""
    bars = pl.DataFrame(
        {"ts": [moment(0), moment(1)], "symbol": "BTC_USDC"}
        | dict.fromkeys(("open", "high", "low", "close"), 1e5)
    )
    made = load_venue("deribit").replace(taker_fee=0.0, slippage=0.0)
    for leverage, rejection in ((26.6, None), (26.7, "leverage_above_tier_maximum")):
        account = pl.DataFrame(
            {
                "account": [0],
                "strategy": ["s"],
                "symbol": ["BTC_USDC"],
                "side": ["long"],
                "entry_time": [moment(0)],
                "collateral": [350 * 1e5 / leverage],
                "leverage": [leverage],
            }
        )
        for engine in ("skip", "dense", "oracle"):
            row = perpbt.simulate(bars, account, venue=made, engine=engine).accounts
            assert row["rejection"].to_list() == [rejection]


def test_bitmex_steps_are_those_of_its_page() -> None:
    """Base 200 XBT at 0.4 % and 1 %, each 100 XBT more add 0.4 % to both, on the whole position."""
    venue_ = load_venue("bitmex")
    for size, rate, initial in (
        (150, 0.004, 0.01),
        (200, 0.004, 0.01),
        (201, 0.008, 0.014),
        (650, 0.024, 0.03),
    ):
        assert venue_.maintenance_margin(size, "XBTUSD") == pytest.approx(size * rate, rel=1e-12)
        assert 1 / venue_.max_leverage(size, "XBTUSD") == pytest.approx(initial, rel=1e-6)
    limits = Maintenance.risk_limits(200, 100, 0.004, 0.004, 8)
    assert [band.rate for band in venue_.maintenance("XBTUSD").bands] == pytest.approx(
        [band.rate for band in limits.bands]
    )


@pytest.mark.parametrize(
    ("fields", "rules", "said"),
    [
        (
            {
                **RULES["size"],
                "tiers": {"default": [(0, 1e3, 0.01, 50), (1e3, 1e6, 0.02, 25)]},
                "contract": {"kind": "inverse"},
            },
            {},
            "per_unit = 0.001 with 2 tiers",
        ),
    ],
)
def test_what_engines_do_not_combine_is_refused(
    fields: dict[str, Any], rules: dict[str, Any], said: str
) -> None:
    frame = walk(50, seed=1)
    with pytest.raises(InputError, match=said):
        perpbt.simulate(frame, population(frame, 5, seed=1), venue=venue(fields), rules=rules)


def test_a_price_worked_out_step_by_step_follows_the_rule_of_the_venue() -> None:
    asked = {"venue": "deribit", "symbol": "BTC_USDC", "side": "long", "entry_price": 1e5, "quantity": 350.0}
    found = perpbt.explain({**asked, "leverage": 20.0})
    made = load_venue("deribit")
    expected = made.liquidation_price(
        side="long", entry_price=1e5, quantity=350.0, margin=350 * 1e5 / 20, symbol="BTC_USDC"
    )
    assert found.liquidation_price == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx((1e5 - 5_000) / (1 - 0.0275), rel=1e-12)  # 1 % + 350 x 0.005 %
    with pytest.raises(InputError, match=r"leverage = 27\.0: must be at most 26\.66"):
        perpbt.explain({**asked, "leverage": 27.0})
    coin = perpbt.explain(
        {
            "venue": "bitmex",
            "symbol": "XBTUSD",
            "side": "short",
            "entry_price": 1e4,
            "quantity": 3e6,
            "leverage": 10.0,
        }
    )
    assert "on the whole" in str(coin)
    # 300 XBT: the second step, 0.8 % of 300 at entry, and 0.075 % of the value at mark to close
    assert 30 + 3e6 * (1 / coin.liquidation_price - 1e-4) == pytest.approx(
        2.4 + 0.00075 * 3e6 / coin.liquidation_price
    )
