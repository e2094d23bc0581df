"""[adl]: whom a venue closes when its fund cannot pay, and at what price.

`policy` is a name of `perpbt.adl.list_policies()` or a ranking's, `price` one of `perpbt.adl.PRICES`. A coupled run
does as the venue's file says unless told otherwise (`perpbt.simulate(..., coupling="adl")`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from perpbt.adl import find_policy
from perpbt.config.fields import Spec, fault
from perpbt.errors import InputError


def _known(policy: str) -> str:
    try:
        find_policy(policy)
    except InputError as error:
        raise fault(str(error)) from error
    return policy


class AdlTerms(Spec):
    """Auto-deleveraging as a venue does it."""

    policy: Annotated[str, AfterValidator(_known)]
    price: Literal["bankruptcy", "mark", "previous_mark"] = "bankruptcy"
    """Bankruptcy price of the position that is closed, or a mark."""


def parse(values: Mapping[str, Any]) -> AdlTerms:
    """Check [adl]. Raises InputError."""
    return AdlTerms(**values)
