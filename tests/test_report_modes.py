"""What a report says of wallets, procedures, rates that move and accounts that meet; nothing of what was not run."""

from __future__ import annotations

import pytest
from test_coupled_by_hand import FALL, FALLING, LONG, LONGS, SHORTS
from test_coupled_by_hand import run as coupled
from test_cross_by_hand import TWO
from test_cross_by_hand import run as shared

from perpbt.report import modes, prose

ROOM = {"AAA": [100, 100, (100, 100, 70, 70), 70], "BBB": [50, 50, (50, 50, 46, 46), 46]}


def test_a_wallet_is_not_told_as_isolated() -> None:
    told = " ".join(prose.assumptions(shared(ROOM, TWO)))
    assert "share a wallet, each keeping its own margin" in told
    assert "at the close where it holds several" in told
    assert "isolated" not in told
    assert "loses the margin" not in told
    assert "all its positions are closed, at the last price of that point." in told
    told = " ".join(prose.assumptions(shared(ROOM, TWO, {"mode": "cross", "close": "in_turn"})))
    assert (
        "closed symbol by symbol, those that must keep most first, until it stands, at the last price" in told
    )
    assert "all its positions" not in told
    assert "Stops and trailing stops fill at their threshold" in told
    told = " ".join(
        prose.assumptions(shared(ROOM, TWO, {"mode": "cross", "legs": "one_way", "test": "extremes"}))
    )
    assert "those on one symbol netted" in told
    assert "at all adverse extremes at once" in told


def test_what_winners_gave_up_is_not_income() -> None:
    """The fund's 400 and nothing else meet 1,000; 600 are the winners'."""
    result = coupled(FALL, {"L": LONG, **SHORTS}, seed=400, coupling="adl")
    told = " ".join(prose.headline(result))
    assert "The fund took in 0 from liquidation fees" in told
    assert "a net flow of −400, with what others gave up." in told
    assert "winners that were deleveraged gave up 600" in told
    assert (
        "closed against opposing winners by the policy 'bitmex', at the bankruptcy price: 2 closings"
        in " ".join(prose.assumptions(result))
    )


def test_a_cascade_is_told_and_nothing_is_where_nothing_was_run() -> None:
    pressure = {"law": "linear", "scale": "none", "depth": 400_000.0}
    told = " ".join(
        prose.assumptions(coupled(FALLING, LONGS, coupling={"kind": "cascade", "pressure": pressure}))
    )
    assert "Liquidations push last and mark for everyone" in told
    assert "opposing winners" not in told
    assert modes.changed({"procedure": "full", "close": "market"}, {}, {}) == []
    assert modes.transfers({}) == ""
    assert modes.margined({}) == modes.ISOLATED


@pytest.mark.parametrize(
    ("liquidation", "dynamic", "coupling", "said"),
    [
        ({"procedure": "slice", "close": "market"}, {}, {}, "'slice'; what it leaves to the last is closed on the market"),
        ({"procedure": "ladder", "close": "takeover"}, {}, {}, "taken over at the bankruptcy price"),
        ({}, {"model": "open_interest", "every": "1d"}, {}, "every 1d, by a model (open interest)"),
        ({}, {}, {"kind": "adl", "socialised": "size", "trigger": {"drawdown": 0.3}}, "stops paying before it is empty"),
        ({}, {}, {"kind": "cascade", "socialised": "profit"}, "from those in profit"),
    ],
)  # fmt: skip
def test_what_differs_is_said(
    liquidation: dict[str, str], dynamic: dict[str, str], coupling: dict[str, object], said: str
) -> None:
    assert said in " ".join(modes.changed(liquidation, dynamic, coupling))
