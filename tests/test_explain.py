"""`perpbt.explain` and `perpbt liquidation`: the engine's numbers, steps that add up, errors that name keys."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

import perpbt
from perpbt import cli
from perpbt.contracts import Contract, Maintenance, Position, is_liquidated
from perpbt.errors import InputError
from perpbt.explaining.explanation import Explanation, explain

LONG: dict[str, Any] = {"side": "long", "entry_price": 60_000, "quantity": 0.5, "leverage": 20}
COIN: dict[str, Any] = {**LONG, "contract": "inverse", "quantity": 30_000, "maintenance": 0.005}
START = datetime(2024, 1, 1, tzinfo=UTC)


# --------------------------------------------------------------------------------------------- the engine
def simulated(venue: perpbt.Venue, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of result.accounts for positions opened on a bar that does not move."""
    moments = [START + timedelta(minutes=place) for place in range(2)]
    time = pl.Datetime("ms", "UTC")
    prices = {name: [61_234.5] * 2 for name in ("open", "high", "low", "close")}
    bars = pl.DataFrame({"ts": pl.Series(moments, dtype=time), "symbol": "BTCUSDT", **prices})
    accounts = [
        {"account": number, "strategy": "one", "symbol": "BTCUSDT", "entry_time": START, **one}
        for number, one in enumerate(wanted)
    ]
    table = pl.DataFrame(accounts).with_columns(pl.col("entry_time").cast(time))
    return perpbt.simulate(bars, table, venue=venue).accounts.sort("account").to_dicts()


@pytest.mark.parametrize("name", ["binance_um", "bybit_linear"])
@pytest.mark.parametrize("close_out_rate", [0.0, 0.0007])
def test_linear_isolated_positions_get_the_engines_numbers(name: str, close_out_rate: float) -> None:
    """To the last bit: size, margin, liquidation and bankruptcy price, for sizes in several tiers."""
    venue = perpbt.load_venue(name).replace(close_out_rate=close_out_rate)
    wanted = [
        {"side": side, "collateral": collateral, "leverage": leverage, "margin_buffer": buffer}
        for side in ("long", "short")
        for collateral, leverage in [(100.0, 3.0), (1_234.5, 20.0), (77_777.0, 40.0), (450_000.0, 10.0)]
        for buffer in (0.0, 0.25)
    ]
    rows = simulated(venue, wanted)
    assert len(rows) == len(wanted)
    for asked, row in zip(wanted, rows, strict=True):
        assert row["rejection"] is None
        answer = explain({**asked, "venue": venue, "symbol": "BTCUSDT", "entry_price": row["entry_price"]})
        for key in ("quantity", "margin", "liquidation_price", "bankruptcy_price"):
            assert getattr(answer, key) == row[key], key


def test_what_the_engine_refuses_to_open_is_refused() -> None:
    asked = {"side": "long", "collateral": 5_000.0, "leverage": 110.0}
    (row,) = simulated(perpbt.load_venue("binance_um"), [asked])
    assert row["rejection"] == "leverage_above_tier_maximum"
    with pytest.raises(InputError, match=r"leverage = 110.0: must be at most 100 for a notional of 5"):
        explain({**asked, "entry_price": 61_234.5, "symbol": "BTCUSDT"})


# ------------------------------------------------------------------------------------------------- answers
def test_the_steps_add_up() -> None:
    answer = perpbt.explain({**LONG, "symbol": "BTCUSDT", "mark": 58_000, "funding_paid": 12.5})
    assert isinstance(answer, Explanation)
    results = {step.label: step.result for step in answer.steps}
    assert results["Notional at entry"] == 30_000
    assert results["Initial margin"] == answer.margin == 1_500
    assert results["Notional at mark"] == answer.notional == 29_000
    assert results["Unrealised profit"] == -1_000
    assert results["Equity at mark"] == answer.equity == 487.5
    assert results["Maintenance margin"] == answer.maintenance_margin == answer.required == 116
    assert results["Margin ratio at mark"] == answer.margin_ratio == 116 / 487.5
    assert results["Bankruptcy price"] == answer.bankruptcy_price == 57_025
    assert results["Liquidation price"] == answer.liquidation_price == pytest.approx(57_025 / 0.996)
    assert results["Check: equity at the liquidation price"] == pytest.approx(0.004 * 0.5 * 57_025 / 0.996)
    assert answer.distance == pytest.approx(1 - 57_025 / 0.996 / 58_000)
    assert not answer.liquidated
    assert answer.currency == "USDT"


def test_every_figure_shown_gives_its_result() -> None:
    """The figures of each step are an expression: evaluated, they give the number that stands after them."""
    rows = [[0, 10_000, 0.01, 50], [10_000, 1e6, 0.02, 25]]
    cases = [
        LONG,
        {**LONG, "side": "short", "mark": 61_000, "funding_paid": -3.0, "margin_buffer": 0.1},
        {**LONG, "venue": "bybit_linear", "symbol": "BTCUSDT", "close_out_rate": 0.0006},
        {**COIN, "multiplier": 100, "quantity": 300, "mark": 59_000},
        {**COIN, "side": "short", "maintenance_on": "entry"},
        {**LONG, "tiers": rows, "symbol": "XUSDT"},
        {**LONG, "contract": "quanto", "multiplier": 1e-6, "quantity": 10_000, "tiers": rows, "leverage": 2},
        {**COIN, "leverage": None, "wallet": 1.0, "other_maintenance": 0.2, "other_unrealised": -0.3},
        {**COIN, "quantity": None, "notional": 0.5, "lot": 1, "maintenance": Maintenance.growing(0.01, 5e-5)},
        {**LONG, "quantity": None, "collateral": 1_000, "lot": 0.001, "multiplier": 0.1},
        {**LONG, "maintenance": replace(Maintenance.flat(0.01), fee_to_close=0.001)},
    ]
    for case in cases:
        answer = explain(case)
        for step in answer.steps:
            figures = step.figures.replace(",", "").replace("[", "(").replace("]", ")")
            if not figures or step.label == "Quantity, in whole lots":
                continue
            value = eval(figures, {"__builtins__": {}})  # digits and signs that we printed
            assert value == pytest.approx(step.result, rel=1e-5, abs=1e-6), (case, step)
        text = answer.render()
        assert re.search(r"^1\. ", text, re.MULTILINE)
        assert not re.search(r"\bnan\b", text)
        assert "-0 " not in text


def test_a_position_that_cannot_be_liquidated_says_why() -> None:
    for case, way in [
        ({**LONG, "leverage": 0.5}, "falls"),
        ({**COIN, "side": "short", "leverage": 0.5}, "rises"),
    ]:
        answer = explain(case)
        assert answer.liquidation_price is answer.bankruptcy_price is answer.distance is None
        assert (
            answer.liquidation_reason == f"equity stays above what it must keep however far the price {way}"
        )
        assert f"Never liquidated: {answer.liquidation_reason}." in " ".join(answer.render().split())


def test_a_position_that_is_liquidated_now_says_so() -> None:
    answer = explain({**LONG, "mark": 56_000})
    assert answer.liquidated
    assert answer.margin_ratio == math.inf
    assert answer.distance is not None
    assert answer.distance < 0.0
    assert "At a mark of 56,000 this position is liquidated." in answer.render()
    lost = explain({**LONG, "leverage": None, "wallet": 5, "other_unrealised": -50_000, "side": "short"})
    assert lost.liquidated
    assert lost.liquidation_price is None
    assert "at every price" in lost.liquidation_reason
    assert "is liquidated" in lost.render()


def test_prices_on_ticks_come_before_the_exact_ones() -> None:
    exact, long = explain(COIN), explain({**COIN, "tick": 10})
    assert exact.liquidation_price is not None
    assert long.liquidation_price == math.ceil(exact.liquidation_price / 10) * 10
    exact, short = explain({**COIN, "side": "short"}), explain({**COIN, "side": "short", "tick": 10})
    assert exact.liquidation_price is not None
    assert short.liquidation_price == math.floor(exact.liquidation_price / 10) * 10
    assert "Before rounding to ticks of 10: " in short.render()


def test_a_size_above_the_last_cap_is_noted_where_it_is_not_refused() -> None:
    rows = [[0, 10_000, 0.01, 50]]
    assert (
        "above the last cap, 10,000"
        in explain({**LONG, "leverage": None, "margin": 9, "tiers": rows}).render()
    )
    with pytest.raises(InputError, match=r"notional at entry = 30000.0: must be in \(0, 10,000\]"):
        explain({**LONG, "tiers": rows})


def test_dataclasses_are_read_by_their_fields() -> None:
    held = Position("short", 60_000.0, 0.5, 1_500.0, Contract(), 5.0)
    answer = explain(held)
    tiers = perpbt.load_venue("binance_um").brackets()
    rule = Maintenance.brackets((tier.floor, tier.cap, tier.rate, tier.deduction) for tier in tiers)
    assert answer.liquidation_price is not None
    assert is_liquidated(held, rule, answer.liquidation_price * (1 + 1e-9))
    assert not is_liquidated(held, rule, answer.liquidation_price * (1 - 1e-9))

    @dataclass
    class Own:
        side: str
        entry_price: float
        quantity: float
        leverage: float
        mark: float | None = None

    assert explain(Own(**LONG)) == explain(LONG)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"sid": "long"}, "position['sid']: unknown key, did you mean 'side'?"),
        ({"side": None}, "side: missing; one of long, short"),
        ({"side": "buy"}, "side = 'buy': must be one of long, short"),
        ({"entry_price": None}, "entry_price: missing"),
        ({"entry_price": 0}, "entry_price = 0: must be a number in (0, inf)"),
        ({"entry_price": math.nan}, "entry_price = nan: must be"),
        ({"entry_price": "60000"}, "entry_price = '60000': must be a number"),
        ({"mark": -1.0}, "mark = -1.0: must be"),
        ({"quantity": True}, "quantity = True: must be a number"),
        ({"quantity": None}, "quantity, notional, collateral: give exactly one of them, not nothing"),
        ({"notional": 5.0}, "not quantity = 0.5 and notional = 5.0"),
        ({"leverage": None}, "leverage, margin, wallet: give exactly one of them, not nothing"),
        ({"leverage": 0}, "leverage = 0: must be a number in (0, inf)"),
        ({"leverage": 500}, "leverage = 500.0: must be at most"),
        ({"margin": 5.0}, "not leverage = 20 and margin = 5.0"),
        ({"leverage": None, "margin": -5.0}, "margin = -5.0: must be a number in [0, inf)"),
        ({"leverage": None, "margin": 5.0, "quantity": None, "collateral": 9.0}, "collateral = 9.0: needs leverage"),
        ({"leverage": None, "margin": 5.0, "margin_buffer": 0.1}, "margin_buffer = 0.1: only with leverage"),
        ({"other_maintenance": 5.0}, "other_maintenance = 5.0: only with wallet"),
        ({"funding_paid": math.inf}, "funding_paid = inf: must be a number in (-inf, inf)"),
        ({"lot": 1}, "quantity = 0.5: less than one lot of 1"),
        ({"tick": 0}, "tick = 0: must be a number in (0, inf)"),
        ({"contract": "spot"}, "contract = 'spot': must be one of linear, inverse, quanto"),
        ({"contract": "inverse"}, "contract = 'inverse': give maintenance or tiers, in its settlement currency"),
        ({"maintenance": 1.0}, "maintenance = 1.0: must be in [0, 1)"),
        ({"maintenance": 0.5, "close_out_rate": 0.5}, "bands[0].rate = 0.5: must be in [0, 0.5)"),
        ({"maintenance": 0.5, "tiers": []}, "maintenance, tiers: give one of them, not both"),
        ({"tiers": [[0, 10, 0.1]]}, "tiers: brackets[0] = [0, 10, 0.1]: must be [floor, cap, rate, max_leverage]"),
        ({"maintenance_on": "last"}, "maintenance_on = 'last': must be one of mark, entry"),
        ({"close_out_rate": -0.1}, "close_out_rate = -0.1: must be a number in [0, inf)"),
        ({"venue": "binance"}, "venue 'binance': unknown venue, did you mean 'binance_um'?"),
        ({"venue": 5}, "venue = 5: must be a name, a path or a Venue"),
        ({"symbol": 5}, "symbol = 5: must be text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        explain({**LONG, **changed})
    assert told in str(caught.value)


def test_only_mappings_and_dataclasses_are_read() -> None:
    with pytest.raises(InputError, match="must be a mapping of venue, symbol"):
        explain([1, 2])


# ----------------------------------------------------------------------------------------- the command line
def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["perpbt", "liquidation", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


WORDS = ("--side", "long", "--entry", "60000", "--quantity", "0.5", "--leverage", "20")


def test_the_command_prints_the_explanation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "--venue", "binance_um", "--symbol", "BTCUSDT", *WORDS) == 0
    out, err = capsys.readouterr()
    assert out == explain({**LONG, "symbol": "BTCUSDT"}).render() + "\n"
    assert "(60,000 - 1,500 / 0.5) / (1 - 0.004) = 57,228.91566" in out
    assert err == ""


def test_the_commands_of_its_help_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "--help") == 0
    said = " ".join(capsys.readouterr().out.replace("\\\n", " ").split())  # lines go on as in a shell
    examples = re.findall(r"perpbt liquidation (--\S+ \S+(?: --\S+ [\w.=,]+)+)", said)
    assert len(examples) == 3
    for example in examples:
        assert command(monkeypatch, *example.split()) == 0
        assert "Liquidated when the mark reaches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*WORDS, "--venue", "nowhere"), "error: venue 'nowhere': unknown venue"),
        ((*WORDS, "--margin", "5"), "error: leverage, margin, wallet: give exactly one of them"),
        ((*WORDS, "--contract", "inverse"), "error: contract = 'inverse': give maintenance or tiers"),
        ((*WORDS, "--mark", "0"), "error: mark = 0.0: must be a number in (0, inf)"),
        (WORDS[:4], "error: quantity, notional, collateral: give exactly one of them, not nothing"),
        (WORDS[2:], "Missing option '--side'"),
    ],
)
def test_mistakes_exit_with_2(
    words: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, *words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err


def test_the_venue_says_what_the_contract_is() -> None:
    """Kind, multiplier and coin by its table [contract], steps where rounding is asked for; prices as the engines find them."""
    import polars as pl

    import perpbt
    from perpbt.venue import Venue

    table = {"BTCUSD": {"kind": "inverse", "multiplier": 100.0, "settlement": "XBT", "tick": 0.5, "lot": 1.0}}
    venue = Venue(
        name="made", tiers={"default": [(0.0, 1e6, 0.005, 100.0)]}, contract=table, taker_fee=0.0005
    )
    asked = {
        "venue": venue,
        "symbol": "BTCUSD",
        "side": "long",
        "entry_price": 8_000.0,
        "collateral": 0.1,
        "leverage": 20.0,
    }
    bars = pl.DataFrame(
        {"ts": [0, 60_000], "symbol": "BTCUSD", **dict.fromkeys(("open", "high", "low", "close"), 8_000.0)}
    )
    row = {
        "account": "a",
        "strategy": "s",
        "symbol": "BTCUSD",
        "side": "long",
        "entry_time": 0,
        "collateral": 0.1,
        "leverage": 20.0,
    }
    bars = bars.with_columns(pl.col("ts").cast(pl.Datetime("ms", "UTC")))
    accounts = pl.DataFrame([row]).with_columns(pl.col("entry_time").cast(pl.Datetime("ms", "UTC")))
    for rounding in ("none", "both"):
        answer = explain({**asked, "rounding": rounding})
        run = perpbt.simulate(bars, accounts, venue=venue, rules={"rounding": rounding}).accounts
        assert answer.liquidation_price == pytest.approx(run["liquidation_price"][0], rel=1e-12)
        assert "XBT" in answer.render()
        assert "inverse contract" in answer.render()
    assert explain({**asked, "rounding": "both"}).liquidation_price % 0.5 == 0.0
