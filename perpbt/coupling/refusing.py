"""What accounts that meet cannot be combined with, refused by name."""

from __future__ import annotations

from collections.abc import Sequence

from perpbt.config import Policy
from perpbt.contracts import Contract
from perpbt.errors import InputError
from perpbt.running.setting import Setting


def check_contract(setting: Setting, contract: Contract, symbol: str) -> None:
    """A fund holds linear contracts, liquidated at once; in a cascade who falls goes as a whole. Raises InputError."""
    cascades = setting.coupling is not None and setting.coupling.spec.kind == "cascade"
    holds = setting.terms.hold is not None
    if holds and contract.kind != "linear":
        raise InputError(
            f"fund.hold with {symbol}, a contract of kind {contract.kind!r}; allowed: linear contracts"
        )
    if (holds or cascades) and not setting.procedures.of(symbol).plain:
        what = "fund.hold" if holds else "coupling = cascade"
        raise InputError(
            f"{what} with {symbol}, which is liquidated in steps; allowed: liquidation at once (procedure 'full')"
        )


def check_holding(setting: Setting) -> None:
    """A fund that holds what it takes over stands alone. Raises InputError."""
    if setting.terms.hold is None:
        return
    terms = setting.coupling
    given = {
        "coupling, which closes positions against winners instead": terms is not None and terms.changes_lives,
        "crowding, which fills liquidations together on the market": setting.crowding,
        "memory": setting.budget is not None,
    }
    for name, wanted in given.items():
        if wanted:
            raise InputError(f"fund.hold with {name}: allowed: one of the two")


def check_policies(setting: Setting, policies: Sequence[Policy]) -> None:
    """What a fund that holds does to a fill must not size a later trade. Raises InputError."""
    compounds = any(one.compounding for one in policies)
    if setting.terms.hold is not None and not setting.terms.protection and compounds:
        raise InputError(
            "fund.hold with compounding policies and fund.protection = false: allowed with protection, or without compounding"
        )
    if setting.terms.hold is not None and setting.venue.surplus_to_fund < 1.0 and compounds:
        raise InputError(
            f"fund.hold with compounding policies on venue {setting.venue.name}, which gives back "
            f"{1 - setting.venue.surplus_to_fund:.0%} of a surplus: allowed with surplus_to_fund = 1, or without compounding"
        )
