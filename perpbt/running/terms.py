"""What holds for a coupled run: the options `coupling` and `adl`, checked.

In: what `simulate` is given. Out: `Terms`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perpbt.adl import Candidates, allocate, find_policy
from perpbt.config import AdlSpec, CouplingSpec, PressureSpec, TriggerSpec
from perpbt.errors import InputError

KINDS = ("fund", "adl", "cascade")
NOTHING = np.empty(0)
NOBODY = Candidates(
    *(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING), np.empty(0, dtype=np.int64)
)


@dataclass(frozen=True)
class Terms:
    """A checked `CouplingSpec`."""

    spec: CouplingSpec
    adl: AdlSpec | None  # None: no deleveraging
    policy: str = "bitmex"
    price: str = "bankruptcy"
    trigger: TriggerSpec | None = None

    @property
    def changes_lives(self) -> bool:
        """Whether anybody's position depends on others'."""
        return self.adl is not None or self.spec.socialised != "none" or self.spec.kind == "cascade"

    def at(self, adl: Mapping[str, Any] | None, trigger: Mapping[str, Any] | None) -> Terms:
        """The same at a venue: what is left open is as the venue does it. `adl` and `trigger` are its tables, None for none.

        Raises InputError for a trigger that is the venue's where it has none, and for options the policy does not take.
        """
        if self.adl is None:
            return self
        own, wanted = adl or {}, self.spec.trigger
        policy = self.adl.policy or own.get("policy") or self.policy
        check_policy(policy, self.adl)
        if wanted == "venue":
            if trigger is None:
                raise InputError(
                    "coupling.trigger = 'venue', but the venue's file has no table [fund_trigger]; allowed: numbers, or none"
                )
            wanted = TriggerSpec(**trigger)
        price = self.adl.price or own.get("price") or self.price
        return replace(self, policy=policy, price=price, trigger=wanted)

    @property
    def pressure(self) -> PressureSpec | None:
        """How liquidations push the price; None: they do not."""
        return self.spec.pressure if self.spec.kind == "cascade" else None


def terms_of(
    coupling: str | CouplingSpec | Mapping[str, Any] | None, adl: AdlSpec | Mapping[str, Any] | None
) -> Terms | None:
    """The options `coupling` and `adl` of a run, checked; None: accounts are independent.

    Raises InputError for unknown kinds, keys, policies and numbers out of range, and for options that do not go together.
    """
    if coupling is None:
        if adl is not None:
            raise InputError("adl without coupling; allowed: coupling = 'adl' or 'cascade' with it")
        return None
    if isinstance(coupling, str):
        if coupling not in KINDS:
            known = ", ".join(map(repr, KINDS))
            raise InputError(f"coupling = {coupling!r}; allowed: None, {known} or a CouplingSpec")
        coupling = {"kind": coupling}
    if not isinstance(coupling, (CouplingSpec, Mapping)):
        raise InputError(
            f"coupling is of type {type(coupling).__name__}; allowed: {', '.join(KINDS)}, a CouplingSpec or a mapping of its keys"
        )
    keys = dict(coupling)
    if adl is not None:
        if not isinstance(adl, (AdlSpec, Mapping)):
            raise InputError(
                f"adl is of type {type(adl).__name__}; allowed: an AdlSpec or a mapping of its keys"
            )
        if keys.get("adl") is not None:
            raise InputError("adl is given twice, in coupling and beside it; allowed: one of the two")
        keys["adl"] = adl if isinstance(adl, AdlSpec) else AdlSpec(**adl)
    coupling = CouplingSpec(**keys)
    return Terms(coupling, coupling.adl or (AdlSpec() if coupling.kind == "adl" else None))


def check_policy(name: str, adl: AdlSpec) -> None:
    """The policy is known and takes its options."""
    try:
        policy, _ = find_policy(name)
    except InputError as error:
        raise InputError(f"adl.{error}") from error
    for option in adl.options:
        if option not in policy.options:
            known = ", ".join(policy.options) or "none"
            raise InputError(f"adl.options: {name} takes no {option!r}; allowed: {known}")
    try:  # of nobody nothing is closed, but numbers are looked at: now, and not at the first shortfall
        allocate(name, NOBODY, 0.0, **adl.options)
    except InputError as error:
        raise InputError(f"adl.options: {error}") from error
