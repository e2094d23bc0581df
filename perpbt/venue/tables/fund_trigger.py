"""[fund_trigger]: when a venue's fund stops paying before it is empty.

It pays down to its level, the highest balance of the last `window`, less max(`drawdown` of the level, `least`); once it
has stopped it pays again above level·(1 - `resume`). `perpbt.adl.drawdown_trigger` and `level_trigger` read such
rules off a finished ledger. It says what the venue does; a run does so when asked to (`coupling={"kind": "adl", "trigger": "venue"}`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from perpbt.config.fields import Duration, Spec, fault
from perpbt.config.forms import Money, Part, Share, Span


class FundTriggerTerms(Spec):
    """A fund's drawdown rule."""

    drawdown: Share
    window: Span = Duration(8 * 3_600_000)
    least: Money = 0.0
    """Quote currency."""
    resume: Part | None = None
    """None: as `drawdown`."""

    @model_validator(mode="after")
    def _agree(self) -> FundTriggerTerms:
        if self.resume is not None and self.resume > self.drawdown:
            raise fault(f"resume = {self.resume}: at most drawdown, {self.drawdown}")
        return self


def parse(values: Mapping[str, Any]) -> FundTriggerTerms:
    """Check [fund_trigger]. Raises InputError."""
    return FundTriggerTerms(**values)
