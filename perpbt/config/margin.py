"""Dynamic margin: how far a venue's rates move with the market, and what keeps them from moving too far.

The tools against procyclicality are those of Regulation (EU) 153/2013, Article 28(1): a buffer that may be used
up in stress, a weight on stressed observations, a floor by long-run volatility.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import model_validator

from perpbt.config.fields import Duration, OrNone, Range, Spec, Truth, fault
from perpbt.config.forms import Positive

Span: TypeAlias = Duration
BelowOne: TypeAlias = Annotated[float, Range(least=0, below=1)]
Part: TypeAlias = Annotated[float, Range(least=0, most=1)]
DAY = 86_400_000


class DynamicMargin(Spec):
    """Maintenance rates that are set anew at every epoch by what was known before it.

    A model gives a margin M, a fraction of the price: the move over `horizon` that is exceeded with probability
    1 - `confidence`, up or down. After the tools against procyclicality, M over the `reference` is the scale of
    the epoch: every tier's rate and deduction is multiplied by it. In bars before `warm_up` the scale is 1.
    """

    model: Literal["ewma", "garch", "quantile", "open_interest"] = "ewma"
    every: Span = Duration(DAY)
    """Length of an epoch; epochs begin at whole multiples of it since 1970, UTC, and models see one return each."""
    horizon: Annotated[int, Range(least=1)] = 1
    """Epochs over which a margin is to hold."""
    confidence: Annotated[float, Range(above=0.5, below=1)] = 0.99
    warm_up: Annotated[int, Range(least=2)] = 60
    """Returns seen before rates move; a GARCH model that is fitted is fitted on these alone."""
    decay: BelowOne = 0.94
    """Weight of the past in an exponentially weighted variance, per epoch."""
    alpha: Annotated[BelowOne | None, OrNone()] = None
    """GARCH(1,1): weight of the last squared return; given with `beta`, or both are fitted."""
    beta: Annotated[BelowOne | None, OrNone()] = None
    """GARCH(1,1): weight of the last variance."""
    long_run: Annotated[Positive | None, OrNone()] = None
    """Long-run volatility per epoch, which sets the constant of a GARCH model and the start of both; none: that of the warm-up."""
    window: Annotated[int, Range(least=10)] = 365
    """Returns that an empirical quantile looks back on, at most."""
    reference: Annotated[Positive | None, OrNone()] = None
    """The margin at which the venue's rates hold as they stand; none: that of the warm-up, by the same model."""
    lower: Annotated[Positive | None, OrNone()] = None
    """Open interest up to which the scale is 1; only with model "open_interest", as is `upper`."""
    upper: Annotated[Positive | None, OrNone()] = None
    """Open interest from which the scale is `highest`; straight in between."""
    lowest: Positive = 0.25
    highest: Positive = 4.0
    """Bounds of the scale."""
    buffer: BelowOne = 0.0
    """Share added to the margin, and used up while it rises: Article 28(1)(a) asks for at least 0.25."""
    rising: BelowOne = 0.0
    """Rise of M from one epoch to the next above which the buffer may be used."""
    stressed_weight: Part = 0.0
    """Weight of the stressed margin: Article 28(1)(b) asks for at least 0.25."""
    stressed: Annotated[Positive | None, OrNone()] = None
    """The stressed margin; none: the highest M so far."""
    floor: Truth = False
    """Never below the margin by the volatility of all returns so far, ten years at most: Article 28(1)(c)."""
    leverage: Truth = False
    """Whether the maximum leverage of a tier is divided by the scale too."""

    @model_validator(mode="after")
    def _agree(self) -> DynamicMargin:
        if (self.alpha is None) != (self.beta is None):
            raise fault("alpha, beta: give both or none")
        if self.alpha is not None and self.beta is not None and not self.alpha + self.beta < 1.0:
            raise fault(f"alpha + beta = {self.alpha + self.beta:g}: must be below 1")
        if self.lowest > 1.0 or self.highest < 1.0:
            raise fault("lowest, highest: 1 must lie between them")
        bounds = (self.lower, self.upper)
        if self.model == "open_interest":
            if self.lower is None or self.upper is None or not self.lower < self.upper:
                raise fault('lower, upper: model = "open_interest" needs both, lower below upper')
        elif bounds != (None, None):
            raise fault('lower, upper: only with model = "open_interest"')
        if int(self.every) <= 0:
            raise fault("every: must be longer than 0s")
        return self
