"""[liquidation]: how a venue closes a position that has fallen below its maintenance margin.

`procedure` and its numbers, as `perpbt.config.Liquidation` has them. It says what the venue does; a run does so when asked to
(`liquidation="venue"`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perpbt.config.liquidation import VENUE, Liquidation


def parse(values: Mapping[str, Any]) -> Liquidation:
    """Check [liquidation]. Raises InputError; ValueError for a venue that points at itself."""
    if values.get("procedure") == VENUE:
        raise ValueError("procedure = 'venue': must be a procedure")
    return Liquidation(**values)
