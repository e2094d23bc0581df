"""How accounts meet in a coupled run: what happens when a fund runs short, and how liquidations push the price.

In: keyword arguments or tables of a TOML file. Out: frozen, checked specifications.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from perpbt.config.fields import Duration, OrNone, Range, Spec, fault
from perpbt.config.forms import Money, Name, Part, Positive, Rate, Share, Span


class AdlSpec(Spec):
    """Auto-deleveraging: who is closed when the fund runs short, at what price, and who steps in when winners are too few."""

    policy: Annotated[Name | None, OrNone()] = None
    """A ranking or an allocation of `perpbt.adl.list_policies()`. None: the venue's own, or "bitmex" where its file states none."""
    options: dict[Name, Annotated[float, Range()]] = Field(default_factory=dict)
    """The policy's own numbers, such as `cap`."""
    price: Literal["bankruptcy", "mark", "previous_mark"] | None = None
    """None: the venue's own, or the bankruptcy price. What winners are closed at: the mean bankruptcy price of those they are closed against, the mark of the
    moment, or the one before it; never worse for them than the loss needs, nor better than the bankrupt fills."""
    lot: Annotated[Positive | None, OrNone()] = None
    """Whole lots of so many base units; None: any quantity."""
    fee: Rate = 0.0
    """Trading fee winners pay on what is closed of them."""
    outside: Money = 0.0
    """Notional (settlement currency, a world and symbol, the whole run) that a counterparty outside the simulation takes of what
    simulated winners are too few for."""


class TriggerSpec(Spec):
    """A fund that stops paying before it is empty: when it has lost a share of its level, the highest balance of the last `window`.

    Bybit: drawdown 0.3, window 8h, resume 0.25. OKX: drawdown 0.3, least 50_000, window 8h.
    """

    drawdown: Share
    """It pays down to level - max(drawdown * level, least), and deleveraging takes the rest."""
    window: Span = Duration(8 * 3_600_000)
    least: Money = 0.0
    """Quote currency."""
    resume: Part | None = None
    """Once it has stopped it pays nothing until its balance is above level * (1 - resume). None: as `drawdown`."""

    @model_validator(mode="after")
    def _agree(self) -> TriggerSpec:
        if self.resume is not None and self.resume > self.drawdown:
            raise fault(f"resume = {self.resume}: at most drawdown, {self.drawdown}")
        return self


class PressureSpec(Spec):
    """How a world's liquidation volume V (money at the bar's open, added up inside a bar) moves the price for everyone.

    The move is a fraction of the bar's open: strength * sigma * g(V / depth), where g is the square root, the identity, or a `curve`: a
    cumulative depth table.

    A liquidation is filled at the threshold it met on the way, inside the range as it was moved, less the slippage of its own size. `crowding`
    beside a cascade lets others' volume count twice, in the price and in the fill.
    """

    law: Literal["square_root", "linear", "curve"] = "square_root"
    curve: Annotated[tuple[tuple[Positive, Money], ...] | None, OrNone()] = None
    """Of law "curve": pairs of V / depth and how far that much moves the price, both rising, straight between them, from (0, 0) on and beyond
    the last as before it. With depth = 1 the first of a pair is money; with scale = "none" the second is a fraction of the price."""
    strength: Annotated[float, Range(least=0)] = 1.0
    scale: Literal["volatility", "none"] = "volatility"
    """sigma: the bar's own range volatility, or 1."""
    depth: Annotated[Positive | None, OrNone()] = None
    """Money; None: the bar's turnover (a bar without: the venue's flat slippage is the move)."""
    most: Annotated[float, Range(above=0, below=1)] = 0.5
    """Of one side in one bar."""
    mark_share: Part = 1.0
    """How much of it the mark takes part in; the index and funding do not move."""
    decay: Share = 0.5
    """Share of the displacement that is gone by the next bar."""

    @model_validator(mode="after")
    def _curve_rises(self) -> PressureSpec:
        if (self.curve is not None) != (self.law == "curve"):
            raise fault(f"curve goes with law = 'curve', which needs one; law = {self.law!r}")
        points = self.curve or ()
        if self.curve is not None and not points:
            raise fault("curve: must have at least one pair")
        for k, ((volume, move), (before, moved)) in enumerate(zip(points[1:], points[:-1], strict=True)):
            if volume <= before or move < moved:
                raise fault(
                    f"curve[{k + 1}] = [{volume:g}, {move:g}]: must lie beyond [{before:g}, {moved:g}]"
                )
        return self


Trigger: TypeAlias = Annotated[
    Annotated[TriggerSpec, Tag("<numbers>")] | Annotated[Literal["venue"], Tag("<venue>")],
    Discriminator(
        lambda value: "<venue>" if isinstance(value, str) else "<numbers>",
    ),
]


class CouplingSpec(Spec):
    """What accounts of one world share beside their fund."""

    kind: Literal["fund", "adl", "cascade"]
    adl: AdlSpec | None = None
    """None: the default for kind "adl", and no deleveraging for "cascade"."""
    socialised: Literal["none", "profit", "size"] = "none"
    """Who carries what is still not covered: those in profit pro rata to it (at most all of it), or all pro rata to size (at
    most their equity); out of their margins, so that they are liquidated sooner."""
    trigger: Trigger | None = None
    """When the fund stops paying before it is empty; "venue": when the venue's does, by its file."""
    pressure: PressureSpec = PressureSpec()

    @model_validator(mode="after")
    def _fits_together(self) -> CouplingSpec:
        if self.kind == "fund" and self.adl is not None:
            raise fault('adl goes with kind = "adl" or "cascade", not with "fund"')
        if self.kind != "cascade" and self.pressure != PressureSpec():
            raise fault('pressure goes with kind = "cascade"')
        if self.trigger is not None and not self.deleverages:
            raise fault('trigger goes with kind = "adl", or with "cascade" and adl')
        return self

    @property
    def deleverages(self) -> bool:
        """Whether winners are closed when the fund runs short."""
        return self.kind == "adl" or self.adl is not None


def _by_kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Coupling: TypeAlias = Annotated[
    CouplingSpec, BeforeValidator(_by_kind, json_schema_input_type=str | CouplingSpec)
]
