"""How accounts are margined that share a wallet, and what they hold as collateral besides cash.

In: what a caller writes. Out: frozen, checked terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from perpbt.checks import unknown
from perpbt.errors import InputError

MODES = ("isolated", "cross", "portfolio")
LEGS = ("hedge", "one_way")
TESTS = ("close", "extremes")
CLOSES = ("at_once", "in_turn")


@dataclass(frozen=True)
class Margin:
    """How an account is margined.

    `mode`: "isolated" (each position its own margin), "cross" (one wallet against the sum of what the positions keep) or
    "portfolio" (against the worst of a set of scenarios on net positions). `legs`: "hedge" (positions on one symbol keep margin each) or
    "one_way" (they net). `test`: where in a bar an account on several symbols is tested besides the open, at the "close", or with all
    adverse "extremes" at once, which is an upper bound of its liquidations; one on a single symbol always at the adverse extreme.
    `close`: whether a liquidation closes everything "at_once", or symbols "in_turn", that which must keep most first, until the account
    stands.
    """

    mode: str = "isolated"
    legs: str = "hedge"
    test: str = "close"
    close: str = "at_once"

    def __post_init__(self) -> None:
        for name, allowed in (("mode", MODES), ("legs", LEGS), ("test", TESTS), ("close", CLOSES)):
            if getattr(self, name) not in allowed:
                raise InputError(f"margin.{name} = {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        self._check_alone()
        if self.mode == "portfolio" and self.legs == "one_way":
            raise InputError(
                "margin.legs = 'one_way' with margin.mode = 'portfolio'; allowed: 'hedge', for scenarios net positions anyway"
            )

    def _check_alone(self) -> None:
        """Isolated positions share nothing that these could be about."""
        for name, default in (("legs", "hedge"), ("test", "close"), ("close", "at_once")):
            value = getattr(self, name)
            if self.mode == "isolated" and value != default:
                shared = "cross" if name == "legs" else "cross or portfolio"
                raise InputError(
                    f"margin.{name} = {value!r} with margin.mode = 'isolated'; allowed: {default!r}, or margin.mode = {shared}"
                )


def read_margin(given: str | Mapping[str, Any] | Margin) -> Margin:
    """What `simulate(margin=...)` was given: a mode, or a table with mode, legs, test and close."""
    if isinstance(given, Margin):
        return given
    if isinstance(given, str):
        return Margin(given)
    if not isinstance(given, Mapping):
        raise InputError(
            f"margin is of type {type(given).__name__}; allowed: {', '.join(MODES)} or a table with mode, legs, test, close"
        )
    names = [field.name for field in fields(Margin)]
    for key in given:
        if key not in names:
            raise InputError(unknown(f"margin.{key}", str(key), names))
    return Margin(**given)
