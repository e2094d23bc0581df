"""Types of what the oracle is given and gives: plain dicts and lists, whose keys the room's front page lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]  # a bar, a venue, rules, an order, a policy, a position, a row
Bars: TypeAlias = Sequence[Record]
Values: TypeAlias = Sequence[float]  # one a bar
Leaving: TypeAlias = tuple[str, float, bool]  # why, base, is it a limit fill
