"""The default waterfall: who pays what when members cannot, layer by layer, and nothing is lost on the way.

defaulter's margin → defaulter's default-fund contribution → own capital of the clearing house → contributions of
the others → a second tranche of own capital → assessments of the others → unpaid. Margin of members that did not
default is never used (Swiss FinMIA Art. 53; EMIR Art. 45; second tranche: Regulation (EU) 2021/23 Art. 9).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from perpbt.errors import InputError, RunError

Floats = npt.NDArray[np.float64]

LAYERS = ("margin", "contribution", "own_capital", "mutualised", "own_capital_second", "assessment", "unpaid")


@dataclass(frozen=True)
class Layers:
    """What stands behind the members of a clearing house, money.

    `margin` and `contribution` (to the default fund): one amount for every member, or a mapping from member to
    amount. `own_capital` (skin in the game) is used before, `own_capital_second` after the others' contributions.
    `assessment`: how many times its contribution a survivor may be called for, once per period. With
    `replenished` every layer is full again at the next period, as after a recapitalisation; without, what is
    used is gone, and who defaulted is no longer a survivor that others can turn to.

    Raises InputError for amounts that are not finite or below 0.
    """

    margin: float | Mapping[Any, float] = 0.0
    contribution: float | Mapping[Any, float] = 0.0
    own_capital: float = 0.0
    own_capital_second: float = 0.0
    assessment: float = 1.0
    replenished: bool = True

    def __post_init__(self) -> None:
        for name in ("margin", "contribution", "own_capital", "own_capital_second", "assessment"):
            given = getattr(self, name)
            by_member = isinstance(given, Mapping) and name in ("margin", "contribution")
            for key, value in (given if by_member else {"": given}).items():
                if not (isinstance(value, Real) and 0.0 <= float(value) < math.inf):
                    place = f"layers: {name}" + (f" of {key!r}" if key != "" else "")
                    raise InputError(f"{place} is {value!r}; allowed: finite numbers of at least 0")
        if not isinstance(self.replenished, bool):
            raise InputError(f"layers: replenished is {self.replenished!r}; allowed: True, False")

    def of(self, name: str, members: Sequence[Any]) -> Floats:
        """Each member's amount of `margin` or `contribution`; 0 for who is not named."""
        given = getattr(self, name)
        if isinstance(given, Mapping):
            unknown = [key for key in given if key not in set(members)]
            if unknown:
                raise InputError(
                    f"layers: {name} names {unknown[0]!r}; allowed: members, {list(members)[:5]}"
                )
            return np.array([float(given.get(member, 0.0)) for member in members])
        return np.full(len(members), float(given))


class House:
    """The resources of a clearing house between periods. `settle` changes them."""

    def __init__(self, members: Sequence[Any], layers: Layers) -> None:
        self.members, self.layers = list(members), layers
        self.alive = np.ones(len(self.members), dtype=np.bool_)
        self.refill()

    def refill(self) -> None:
        """All layers as they were given."""
        self.margin = self.layers.of("margin", self.members)
        self.contribution = self.layers.of("contribution", self.members)
        self.callable = self.layers.assessment * self.contribution
        self.own = [self.layers.own_capital, self.layers.own_capital_second]

    def available(self) -> dict[str, float]:
        """What each layer holds before anybody defaults: margins and contributions of all members together."""
        return {
            "margin": math.fsum(self.margin),
            "contribution": math.fsum(self.contribution),
            "own_capital": self.own[0],
            "mutualised": math.fsum(self.contribution[self.alive]),
            "own_capital_second": self.own[1],
            "assessment": math.fsum(self.callable[self.alive]),
            "unpaid": 0.0,
        }

    def settle(self, losses: npt.ArrayLike) -> Settlement:
        """Meet the losses of one period, money >= 0, one a member."""
        owed = np.asarray(losses, dtype=np.float64)
        if owed.shape != (len(self.members),) or not (np.isfinite(owed) & (owed >= 0.0)).all():
            raise InputError(
                f"losses are {owed.tolist()[:5]}; allowed: {len(self.members)} finite numbers of at least 0"
            )
        if self.layers.replenished:
            self.refill()
            self.alive[:] = True
        met = {name: np.zeros(owed.size) for name in LAYERS}
        given = {"mutualised": np.zeros(owed.size), "assessment": np.zeros(owed.size)}
        met["margin"] = np.minimum(owed, self.margin)
        self.margin = self.margin - met["margin"]
        rest = owed - met["margin"]
        defaulted = rest > 0.0
        met["contribution"] = np.minimum(rest, self.contribution)
        self.contribution = self.contribution - met["contribution"]
        rest = rest - met["contribution"]
        self.alive &= ~defaulted
        for layer in LAYERS[2:-1]:
            rest = self._share(layer, rest, met, given)
        met["unpaid"] = rest
        done = Settlement(owed, met, given, defaulted)
        done.check()
        return done

    def _share(self, layer: str, rest: Floats, met: dict[str, Floats], given: dict[str, Floats]) -> Floats:
        """Take from a layer all share what is left of all defaults together, and say whose loss it met."""
        whole = math.fsum(rest)
        if whole <= 0.0:
            return rest
        if layer.startswith("own_capital"):
            which = 0 if layer == "own_capital" else 1
            used = min(whole, self.own[which])
            self.own[which] = self.own[which] - used
        else:
            store = self.contribution if layer == "mutualised" else self.callable
            pool = np.where(self.alive, store, 0.0)
            held = math.fsum(pool)
            used = min(whole, held)
            given[layer] = pool * (used / held) if held > 0.0 else pool
            store -= given[layer]
        met[layer] = rest.copy() if used >= whole else rest * (used / whole)
        return np.maximum(rest - met[layer], 0.0)


@dataclass(frozen=True)
class Settlement:
    """How one period's losses were met; arrays, one entry a member, money."""

    losses: Floats
    met: Mapping[str, Floats]  # by layer, of each defaulter's loss
    given: Mapping[str, Floats]  # by layer, what each survivor paid for others
    defaulted: npt.NDArray[np.bool_]

    def check(self) -> None:
        """Layers add up to the losses, and what survivors gave to what was received from them."""
        paid, owed = math.fsum(np.concatenate(list(self.met.values()))), math.fsum(self.losses)
        for name, gifts in self.given.items():
            paid_out, received = math.fsum(gifts), math.fsum(self.met[name])
            if abs(paid_out - received) > 1e-12 * max(owed, 1e-300):
                raise RunError(f"clearing: {name} of {paid_out!r} met losses of {received!r}")
        if abs(paid - owed) > 1e-12 * max(owed, 1e-300):
            raise RunError(f"clearing: layers sum to {paid!r}, losses to {owed!r}")


def settle(losses: Mapping[Any, float], layers: Layers) -> dict[str, dict[Any, float]]:
    """One period's losses by member, money → layer → whose loss it met, how much.

    `losses` names every member, with 0 for those that owe nothing.
    """
    members = list(losses)
    done = House(members, layers).settle([losses[member] for member in members])
    return {name: dict(zip(members, met.tolist(), strict=True)) for name, met in done.met.items()}
