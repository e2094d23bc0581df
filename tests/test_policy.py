"""Durations, policies and grids: what they accept, expand to and refuse."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perpbt.config import (
    AtrDistance,
    ColumnLevel,
    Duration,
    EquitySizing,
    MarginDistance,
    Policy,
    PolicyGrid,
    PriceDistance,
    TopUp,
    as_policies,
)
from perpbt.errors import InputError


def grid(**fields: Any) -> PolicyGrid:
    return PolicyGrid(**fields)


def policy(**fields: Any) -> Policy:
    return Policy(**fields)


# ---- durations


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("90s", 90_000),
        ("15m", 900_000),
        ("4h", 14_400_000),
        ("7d", 604_800_000),
        ("2w", 1_209_600_000),
        ("1d12h", 129_600_000),
        ("1d 12h", 129_600_000),
        ("0h", 0),
    ],
)
def test_durations_are_milliseconds(text: str, milliseconds: int) -> None:
    assert Duration.parse(text) == milliseconds


@pytest.mark.parametrize("value", ["", "3", "3x", "1.5h", "-1h", "h", "1d1d", 3, 3.0, True, timedelta(-1)])
def test_what_is_not_a_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a duration such as"):
        Duration.parse(value)


@given(st.integers(0, 10**7).map(lambda seconds: Duration(seconds * 1000)))
def test_durations_print_as_they_parse(duration: Duration) -> None:
    assert Duration.parse(str(duration)) == duration
    assert Duration.parse(timedelta(milliseconds=duration)) == duration


# ---- policies and grids


def test_the_default_policy_puts_the_whole_wallet_into_unprotected_positions() -> None:
    plain = policy()
    assert plain.sizing == EquitySizing(kind="equity", fraction=1.0)
    assert (plain.leverage, plain.capital, plain.margin_buffer, plain.compounding) == (1, 10_000, 0, False)
    for name in ("stop_loss", "take_profit", "trailing_stop", "max_holding", "max_trades", "margin_call"):
        assert getattr(plain, name) is None
    assert plain.reentry.model_dump() == {
        "after_stop": "allowed",
        "after_liquidation": "allowed",
        "cool_down": "0s",
    }


@pytest.mark.parametrize(
    ("form", "expected", "kind", "value", "label"),
    [
        (0.02, PriceDistance(price=0.02), "price", 0.02, "2%"),
        (np.float64(0.005), PriceDistance(price=0.005), "price", 0.005, "0.5%"),
        ({"margin": 0.5}, MarginDistance(margin=0.5), "margin", 0.5, "50% of margin"),
        ({"atr": 2, "window": 20}, AtrDistance(atr=2, window=20), "atr", 2.0, "2 ATR(20)"),
        ({"column": "floor"}, ColumnLevel(column="floor"), "column", None, "column floor"),
        ("none", None, "none", None, "none"),
    ],
)
def test_forms_of_a_stop(form: Any, expected: Any, kind: str, value: float | None, label: str) -> None:
    made = policy(leverage=3, stop_loss=form, take_profit=form)
    assert made.stop_loss == made.take_profit == expected
    row = made.row()
    assert (row["stop_kind"], row["stop_value"], row["stop"]) == (kind, value, label)
    assert row["take_profit"] == label


def test_the_trailing_stop_watches_the_series_of_the_stop_unless_told() -> None:
    assert policy(stop_trigger="mark").trailing_trigger == "mark"
    assert policy(stop_trigger="mark", trailing_trigger="none").trailing_trigger == "mark"
    assert policy(stop_trigger="mark", trailing_trigger="last").trailing_trigger == "last"
    assert [p.trailing_trigger for p in grid(stop_trigger=["mark", "last"]).expand()] == ["mark", "last"]


def test_a_grid_is_the_product_in_the_order_written() -> None:
    made = grid(stop_loss=["none", 0.02], leverage=[5, 2], max_trades=1).expand()
    assert [(p.stop_loss, p.leverage) for p in made] == list(
        itertools.product([None, PriceDistance(price=0.02)], [5, 2])
    )
    assert [p.label for p in made] == [
        "leverage=5 stop_loss=none",
        "leverage=2 stop_loss=none",
        "leverage=5 stop_loss=2%",
        "leverage=2 stop_loss=2%",
    ]
    assert {p.max_trades for p in made} == {1}


def test_one_policy_is_called_base() -> None:
    assert [p.label for p in grid(leverage=20).expand()] == ["base"]
    assert len(grid()) == 1


def test_every_field_can_vary_and_shows_in_a_label_of_its_own() -> None:
    top_up = {"action": "top_up", "threshold": 0.5, "target": 0.25}
    deleverage = {"action": "deleverage", "threshold": 0.5, "fraction": 0.5}
    collateral = {"kind": "collateral", "amount": 100}
    fields: dict[str, list[Any]] = {
        "leverage": [2, 2.5],
        "margin_buffer": [0, 0.5],
        "capital": [1000, 2000],
        "compounding": [True, False],
        "sizing": [collateral, {"kind": "equity", "fraction": 0.1}, {"kind": "risk", "fraction": 0.1}],
        "stop_loss": [0.02, {"margin": 0.02}, {"atr": 2}, {"atr": 2, "window": 9}, {"column": "low"}],
        "take_profit": ["none", 0.02, 1.5],
        "trailing_stop": ["none", 0.02],
        "stop_trigger": ["last", "mark"],
        "trailing_trigger": ["last", "mark"],
        "take_profit_trigger": ["last", "mark"],
        "max_holding": ["none", "90s", "1d12h"],
        "max_trades": ["none", 1, 2],
        "margin_call": ["none", top_up, {**top_up, "max_calls": 2}, deleverage],
        "reentry": [{}, {"after_stop": "never"}, {"cool_down": "4h"}],
    }
    assert set(fields) == set(Policy.model_fields) - {"label"} == set(PolicyGrid.model_fields)
    for name, values in fields.items():
        base = {"sizing": collateral, "stop_loss": 0.02} | {name: values}
        labels = [p.label for p in grid(**base).expand()]
        assert len(set(labels)) == len(values), name
        assert all(label.startswith(f"{name}=") for label in labels), name


@given(
    st.lists(st.floats(1, 200, allow_nan=False), min_size=1, max_size=4, unique=True),
    st.lists(st.floats(0.001, 0.9), min_size=1, max_size=4, unique_by=lambda x: f"{100 * x:.10g}"),
)
def test_labels_are_unique_and_policies_survive_their_own_dump(
    leverages: list[float], stops: list[float]
) -> None:
    leverages = [round(leverage, 3) for leverage in leverages]
    if len(set(leverages)) < len(leverages):
        return
    made = grid(leverage=leverages, stop_loss=stops, max_holding="3d").expand()
    assert len({p.label for p in made}) == len(made) == len(leverages) * len(stops)
    for one in made:
        assert Policy.model_validate_json(one.model_dump_json()) == one
        assert Policy.model_validate(one.model_dump()) == one


def test_policies_from_all_a_notebook_may_hold() -> None:
    assert [p.label for p in as_policies(policy(leverage=7))] == ["base"]
    assert [p.leverage for p in as_policies({"leverage": np.array([2, 3])})] == [2, 3]
    assert [p.leverage for p in as_policies(grid(leverage=range(2, 5)))] == [2, 3, 4]
    mixed = as_policies([policy(leverage=2, label="mine"), {"leverage": [3, 4]}, grid(leverage=5)])
    assert [p.label for p in mixed] == ["mine", "leverage=3", "leverage=4", "leverage=5"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "at least one is needed"),
        ([3], r"policies\[0\] = 3: must be a Policy"),
        ([{}, {"levrage": 2}], r"policies\[1\]: levrage: unknown key; did you mean 'leverage'\?"),
        ([policy(leverage=2), policy(leverage=2)], "'base' occurs more than once"),
        ([policy(label="a"), policy(leverage=2, label="a")], "'a' occurs more than once"),
    ],
)
def test_policies_that_cannot_be_told_apart_or_read(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_policies(given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"leverage": 0}, "leverage = 0: must be a number above 0"),
        ({"leverage": [2, -5]}, r"leverage\.1 = -5: must be a number above 0"),
        ({"leverage": "20"}, "leverage = '20': must be a number"),
        ({"leverage": True}, "leverage = True: must be a number"),
        ({"leverage": float("nan")}, "leverage = nan: must be a number"),
        ({"leverage": []}, "must hold at least one value"),
        ({"leverage": [2, 2.0]}, "occurs more than once"),
        ({"levrage": 2}, "levrage: unknown key; did you mean 'leverage'"),
        ({"margin_buffer": -0.1}, "margin_buffer = -0.1: must be a number at least 0"),
        ({"capital": 0}, "capital = 0: must be a number above 0"),
        ({"compounding": 1}, "compounding = 1: must be true or false"),
        ({"sizing": {"kind": "risks"}}, 'sizing = .*must be {kind = "collateral"'),
        ({"sizing": {"kind": "equity", "fraction": 1.5}}, "fraction = 1.5: must be a number .*at most 1"),
        ({"sizing": {"kind": "collateral"}}, "sizing.amount: is needed and absent"),
        ({"stop_loss": 1.0}, "stop_loss = 1.0: must be a number above 0 and below 1"),
        ({"stop_loss": 0}, "stop_loss = 0: must be a number above 0"),
        ({"stop_loss": {"margn": 0.5}}, 'stop_loss = .*must be "none", a number'),
        ({"stop_loss": {"margin": 0.5, "windw": 3}}, r"stop_loss\.windw: unknown key"),
        ({"stop_loss": {"margin": 2}, "leverage": 2}, "stop_loss.margin = 2 must be below leverage = 2"),
        ({"stop_loss": {"atr": 2, "window": 0}}, r"stop_loss\.window = 0: .* at least 1 and at most 10000"),
        ({"stop_loss": [0.1, {"atr": 0}]}, r"stop_loss\.1\.atr = 0: must be a number above 0"),
        ({"stop_loss": {"column": ""}}, r"stop_loss\.column = ''"),
        ({"trailing_stop": 1}, "trailing_stop = 1: must be a number above 0 and below 1"),
        ({"take_profit": -0.1}, "take_profit = -0.1: must be a number above 0"),
        ({"stop_trigger": "index"}, "stop_trigger = 'index': must be 'last' or 'mark'"),
        ({"max_holding": 3}, "max_holding = 3: must be a duration"),
        ({"max_holding": "0h"}, "max_holding = '0h': must be longer than 0s"),
        ({"max_trades": 0}, "max_trades = 0: must be a whole number at least 1"),
        ({"max_trades": 1.5}, "max_trades = 1.5: must be a whole number"),
        ({"margin_call": {"action": "pray"}}, 'margin_call = .*must be "none", {action = "top_up"'),
        (
            {"margin_call": {"action": "top_up", "threshold": 0.5, "target": 0.5}},
            "target = 0.5 must be below threshold = 0.5",
        ),
        (
            {"margin_call": {"action": "deleverage", "threshold": 1, "fraction": 0.5}},
            "threshold = 1: must be a number above 0 and below 1",
        ),
        (
            {"margin_call": {"action": "deleverage", "threshold": 0.5, "fraction": 0.5, "max_calls": 101}},
            "max_calls = 101: must be a whole number at least 1 and at most 100",
        ),
        ({"reentry": {"after_stop": "maybe"}}, "after_stop = 'maybe': must be 'allowed' or 'never'"),
        ({"reentry": {"cooldown": "4h"}}, "reentry.cooldown: unknown key; did you mean 'cool_down'"),
        (
            {"sizing": {"kind": "risk", "fraction": 0.01}, "stop_loss": [0.1, "none"], "leverage": [2, 5]},
            "policy 'leverage=2 stop_loss=none': .*needs a stop_loss .*and 1 more policies",
        ),
        (
            {"margin_call": {"action": "top_up", "threshold": 0.5, "target": 0.2}},
            "policy 'base': .*leaves nothing in the wallet of 10000 to top up with",
        ),
    ],
)
def test_bad_policies_name_key_value_and_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        grid(**fields)
    if not any(isinstance(value, list) for value in fields.values()):
        with pytest.raises(InputError):
            policy(**fields)


def test_a_target_beyond_twice_the_price_is_allowed() -> None:
    assert policy(take_profit=1.5).take_profit == PriceDistance(price=1.5)


def test_specs_are_frozen() -> None:
    with pytest.raises(InputError.__mro__[2], match="frozen"):
        policy().leverage = 3


def test_a_top_up_leaves_its_wallet_something() -> None:
    made = policy(
        sizing={"kind": "collateral", "amount": 500},
        capital=1000,
        margin_call={"action": "top_up", "threshold": 0.5, "target": 0.25},
    )
    assert made.margin_call == TopUp(action="top_up", threshold=0.5, target=0.25, max_calls=1)
