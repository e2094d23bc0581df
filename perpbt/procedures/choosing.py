"""Which liquidation procedure holds on which symbol of a run.

In: what a run was asked for, and what its venue says. Out: a `perpbt.config.Liquidation` a symbol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from perpbt.config.liquidation import PROCEDURES, VENUE, Liquidation
from perpbt.errors import InputError

Asked = Liquidation | Mapping[str, Any] | str | None


@dataclass(frozen=True)
class Procedures:
    """The procedures of a run: one for all symbols, and those of symbols that have their own."""

    general: Liquidation = field(default_factory=Liquidation)
    own: Mapping[str, Liquidation] = field(default_factory=dict)

    def of(self, symbol: str) -> Liquidation:
        """That of a symbol."""
        return self.own.get(symbol, self.general)

    @property
    def plain(self) -> bool:
        """Whether every position is closed at once on the market."""
        return self.general.plain and all(one.plain for one in self.own.values())

    def told(self) -> dict[str, Any]:
        """For metadata."""
        return {**self.general.told(), **{symbol: one.told() for symbol, one in self.own.items()}}


def chosen(asked: Asked, venue_name: str, of_venue: Procedures | None) -> Procedures:
    """The procedures of a run: None is "full", "venue" that of the venue's file, other words a procedure with its defaults.

    Raises InputError for what is none of these, and for "venue" where the venue states no procedure.
    """
    words = (*PROCEDURES, VENUE)
    if isinstance(asked, str) and asked in words:
        wanted = Liquidation(procedure=asked)
    elif asked is None or isinstance(asked, Mapping):
        wanted = Liquidation(**(asked or {}))
    elif isinstance(asked, Liquidation):
        wanted = asked
    else:
        raise InputError(
            f"liquidation = {asked!r}; allowed: {', '.join(map(repr, words))}, a mapping of their numbers, a Liquidation, or None "
            "for 'full'"
        )
    if wanted.procedure != VENUE:
        return Procedures(wanted)
    if of_venue is None:
        raise InputError(
            f"liquidation = 'venue': venue {venue_name!r} states no [liquidation]; allowed: one of {', '.join(PROCEDURES)}"
        )
    return of_venue


def refuse_coupling(procedures: Procedures, crowding: bool) -> None:
    """Who is liquidated in steps meets the others' fills at each of them: that takes a coupled run."""
    if crowding and not procedures.plain:
        raise InputError(
            f"crowding with liquidation = {procedures.told()}: how much each step of one account sells would depend on the fills of "
            "all the others; allowed: crowding = False, or liquidation = 'full' on the market"
        )
