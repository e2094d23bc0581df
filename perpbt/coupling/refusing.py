"""What accounts that meet cannot be combined with, refused by name."""

from __future__ import annotations

from collections.abc import Sequence

from perpbt.config import Policy
from perpbt.contracts import Contract
from perpbt.errors import InputError
from perpbt.running.setting import Setting


def check_contract(setting: Setting, contract: Contract, symbol: str) -> None:
    """Accounts meet in linear contracts that are liquidated at once only. Raises InputError."""
    terms = setting.coupling
    if terms is None or not terms.changes_lives:
        return
    if contract.kind != "linear":
        raise InputError(
            f"coupling with {symbol}, a contract of kind {contract.kind!r}; allowed: linear contracts"
        )
    if not setting.procedures.of(symbol).plain:
        raise InputError(
            f"coupling with {symbol}, which is liquidated in steps; allowed: liquidation at once (procedure 'full')"
        )


def check_policies(setting: Setting, policies: Sequence[Policy]) -> None:
    """Accounts that follow signals meet in funds and in deleveraging, without margin calls. Raises InputError."""
    terms = setting.coupling
    if terms is None or not terms.changes_lives:
        return
    if terms.spec.kind == "cascade":
        raise InputError(
            "coupling = 'cascade' with strategies, whose later trades would follow prices that others have pushed; allowed: 'fund' and "
            "'adl' here, or a table of positions in perpbt.simulate"
        )
    for policy in policies:
        if policy.margin_call is not None:
            raise InputError(
                f"coupling with policy {policy.label!r}, whose margin_call changes positions; allowed: policies without margin_call"
            )
