"""Sentences of the report on how accounts are margined, how they are liquidated, and what they do to each other.

In: the parts `margin`, `liquidation`, `dynamic`, `coupling` and `money` of a run's metadata, empty where it states none. What is not
stated is as by default: isolated margin, closed at once, nobody's deficit anybody else's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perpbt.report import words

ISOLATED = (
    "Positions have isolated margin. Liquidation tests the mark price against maintenance margin by the tiers of the venue.",
    "A trader loses the margin and no more: what is below zero after an exit is a deficit of the fund, a default. Liquidated is not yet "
    "bankrupt.",
)
UNPROTECTED = (
    "Nothing protects a trader from a negative balance: what a position loses beyond its margin comes out of the wallet of an account that "
    "compounds, and is owed where there is none; the fund pays nothing."
)
WALLETS = (
    "The positions of an account share a wallet{legs}. It is tested on the mark at every open, then at the adverse extreme where it holds "
    "one symbol and {test} where it holds several; where its equity falls to {kept}, {closed}, at the last price of "
    "that point.",
    "A trader loses the wallet and no more: what is below zero once all is closed is a deficit of the fund, a default, shared out over the "
    "positions. Liquidated is not yet bankrupt.",
)
LEGS = {"hedge": ", each keeping its own margin", "one_way": ", those on one symbol netted"}
TESTS = {"close": "at the close", "extremes": "at all adverse extremes at once"}
CLOSES = {
    "at_once": "all its positions are closed",
    "in_turn": "its positions are closed symbol by symbol, those {heaviest} first, until it stands",
}
HEAVIEST = {"cross": "that must keep most", "portfolio": "of the greatest value"}
KEPT = {
    "cross": "the sum of what they must keep",
    "portfolio": "the worst of the venue's scenarios on net positions, or its minimum charge",
}
PRICES = {"bankruptcy": "the bankruptcy price", "mark": "the mark", "previous_mark": "the mark before"}
CARRIED = {
    "profit": "What is still open is taken from those in profit, pro rata to it.",
    "size": "What is still open is taken from all, pro rata to size.",
}


def margined(margin: Mapping[str, Any], protected: bool = True) -> tuple[str, str]:
    """Against what an account is held, and what it can lose."""
    mode = str(margin.get("mode", "isolated"))
    if mode not in KEPT:
        return ISOLATED if protected else (ISOLATED[0], UNPROTECTED)
    legs = LEGS.get(str(margin.get("legs")), "") if mode == "cross" else ""
    test = TESTS.get(str(margin.get("test")), TESTS["close"])
    closed = CLOSES.get(str(margin.get("close")), CLOSES["at_once"]).format(heaviest=HEAVIEST[mode])
    return WALLETS[0].format(legs=legs, test=test, kept=KEPT[mode], closed=closed), WALLETS[1]


def filled(margin: Mapping[str, Any]) -> str:
    """What fills at a threshold of its own: a wallet is liquidated at the point tested."""
    shared = margin.get("mode", "isolated") in KEPT
    return "Stops and trailing stops" if shared else "Stops, trailing stops and liquidations"


def changed(
    liquidation: Mapping[str, Any], dynamic: Mapping[str, Any], coupling: Mapping[str, Any]
) -> list[str]:
    """What differs from closing at once at rates that stay, and from accounts that do not meet."""
    sentences = []
    procedure, close = liquidation.get("procedure", "full"), liquidation.get("close", "market")
    if (procedure, close) != ("full", "market"):
        last = "taken over at the bankruptcy price" if close == "takeover" else "closed on the market"
        sentences.append(
            f"Liquidations go by the procedure {procedure!r}; what it leaves to the last is {last}."
        )
    if dynamic:
        model = str(dynamic.get("model")).replace("_", " ")
        sentences.append(
            f"Maintenance rates are scaled anew every {dynamic.get('every')}, by a model ({model}) of what was seen before."
        )
    return [*sentences, *coupled(coupling)]


def coupled(coupling: Mapping[str, Any]) -> list[str]:
    """Who pays for whom, and who moves whose price."""
    sentences, adl = [], coupling.get("adl")
    if coupling.get("kind") == "cascade":
        sentences.append(
            "Liquidations push last and mark for everyone in their world and symbol, until nobody more falls."
        )
    if coupling.get("trigger"):
        sentences.append(
            "The fund stops paying before it is empty, when it has lost too much of its recent level."
        )
    if isinstance(adl, Mapping):
        price = PRICES.get(str(adl.get("price")), "a price of their own")
        sentences.append(
            f"What the fund does not pay is closed against opposing winners by the policy {adl.get('policy')!r}, at {price}: "
            f"{words.plural(int(coupling.get('deleveraged', 0)), 'closing')}. What they give up counts in their surplus."
        )
    carried = CARRIED.get(str(coupling.get("socialised")))
    return [*sentences, carried] if carried else sentences


def given_up(money: Mapping[str, Any]) -> float:
    """What winners and all others gave up for defaults, money: a part of what the fund's income is made of."""
    return float(money.get("adl") or 0.0) + float(money.get("socialised") or 0.0)


def transfers(money: Mapping[str, Any]) -> str:
    """The same in a sentence; empty without any."""
    amounts = {
        "winners that were deleveraged gave up": money.get("adl"),
        "an outside counterparty": money.get("outside"),
        "socialised losses": money.get("socialised"),
    }
    told = [f"{name} {words.money(float(value))}" for name, value in amounts.items() if value]
    return f"For what the fund did not pay: {', '.join(told)}." if told else ""
