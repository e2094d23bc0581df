"""How a venue liquidates: at once, or in steps (options of MODEL §6).

A part that is closed takes its share of margin, PnL and funding with it and pays its own fee, liquidation fee and impact; what is left
of its share stays with the position, whose entry price and funding index do not change. Only the step that closes the last of it
brings the fund a surplus or a deficit. A part that would fill beyond the bankruptcy price is not closed: the whole goes instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, model_validator

from perpbt.config.fields import Duration, Range, Spec, fault

Fraction = Annotated[float, Range(above=0, most=1)]
Share = Annotated[float, Range(least=0, most=1)]
NotNegative = Annotated[float, Range(least=0)]
VENUE = "venue"  # the procedure that the venue's file states
PROCEDURES = ("full", "reduce_then_takeover", "ladder", "slice", "portion", "cure", "optimal")

# What each procedure reads besides `close` and `most_steps`, and its own defaults.
NUMBERS: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "reduce_then_takeover": {"fraction": None, "target": 1.0},
    "ladder": {"lowest_tiers": 1},
    "slice": {"fraction": 0.2, "above": 100_000.0, "cool_down": "30s", "backstop": 2.0 / 3.0},
    "portion": {"fraction": 1.0, "spread": 0.1, "adjustment": 1.0},
    "cure": {
        "target": 1.0, "initial": 1.0, "duration_slots": 0, "whole_below": 50.0, "fee": 0.0, "fee_max": 0.05,
        "fee_growth": 1e-6, "grace_slots": 1500, "slot_ms": 400,
    },
    "optimal": {"slices": 8, "risk_aversion": 0.0},
    VENUE: {},
}  # fmt: skip
CLOSES = {"reduce_then_takeover": "takeover", "ladder": "takeover", "optimal": "takeover"}  # others: market


class Liquidation(Spec):
    """How a position that falls below its maintenance margin is closed. Money is settlement currency (`above` and `whole_below` of an
    inverse contract are coin), fractions are of 1.

    `procedure`:
        full: the whole at once. venue: as the venue's file says in its table [liquidation].
        reduce_then_takeover (Binance): one reducing order on the market in a bar, of `fraction` of the position, or (None) of as much as
            brings maintenance / equity down to `target`; if that does not do, the rest.
        ladder (BitMEX, Bybit, OKX): down to the cap of the next lower risk tier, tested again, and so on; from the `lowest_tiers` lowest,
            the whole.
        slice (Hyperliquid): `fraction` of a position whose notional is above `above`, and the whole of any other. From a slice to the
            first bar that opens `cool_down` or more after the opening of its bar, the whole. Where equity is below `backstop` x
            maintenance the venue's backstop takes the position and all its margin: after a jump to an open, for inside a bar a position
            is met at the price at which its equity is its maintenance.
        portion (dYdX): once a bar at most `fraction` of the position, at the fillable price P (1 -+ a spread MM / N) or better, else
            not in this bar; a = adjustment (1 - equity / MM) kept inside [0, 1]. What has no equity left is taken over.
        cure (Drift): once a bar a liquidator takes over, at the mark it is met at less his fee, what makes up for a share of the shortage:
            `initial` + slots / `duration_slots` of it (all of one below `whole_below`). His fee is `fee`, and from `grace_slots` on
            `fee` + slots x `fee_growth`, at most `fee_max`. Slots of `slot_ms` count from the first step of a spell below maintenance.
            The venue's liquidation fee is what the insurance fund asks for at most; a cure pays no trading fee.
        optimal: the fund takes the position over and sells it in `slices`, one now and one at each following open, their sizes fixed
            beforehand to minimise expected impact plus `risk_aversion` (1 / money) times variance, by the turnover and range of the bar
            before (Almgren and Chriss 2000, with the square-root impact of the venue: Almgren 2003).

    `close`: how the last step closes. "market": fees of the venue, and its share of the surplus. "takeover": handed over to the fund at
    the bankruptcy price; the fund sells at once, keeps what that brings beyond it and bears what it lacks; no fees.
    `most_steps`: after so many steps less one the next closes the whole.

    Sizes by a shortage (reduce_then_takeover, cure) and the fillable price are taken at the mark open, or in the range of a bar at its
    adverse extreme: the bar does not tell how far the price has gone when the order is sent. With ticks they make up for a tick more, or
    what is left would be liquidated at that mark. With lots what a step keeps is whole lots, rounded down. Raises InputError.
    """

    procedure: Literal[
        "full", "reduce_then_takeover", "ladder", "slice", "portion", "cure", "optimal", "venue"
    ] = "full"
    close: Literal["market", "takeover"] | None = None
    most_steps: Annotated[int, Range(least=1, most=1000)] = 100
    fraction: Fraction | None = None
    target: Fraction | None = None
    above: NotNegative | None = None
    cool_down: Duration | None = None
    backstop: Share | None = None
    spread: Share | None = None
    adjustment: NotNegative | None = None
    initial: Share | None = None
    duration_slots: Annotated[int, Range(least=0)] | None = None
    whole_below: NotNegative | None = None
    fee: Annotated[float, Range(least=0, below=0.5)] | None = None
    fee_max: Annotated[float, Range(least=0, below=0.5)] | None = None
    fee_growth: NotNegative | None = None
    grace_slots: Annotated[int, Range(least=0)] | None = None
    slot_ms: Annotated[int, Range(above=0)] | None = None
    lowest_tiers: Annotated[int, Range(least=1)] | None = None
    slices: Annotated[int, Range(least=1, most=1000)] | None = None
    risk_aversion: NotNegative | None = None

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Fill in what the procedure reads and is not given; refuse what it does not read."""
        if not isinstance(given, Mapping):
            return given
        own = NUMBERS.get(given.get("procedure", "full"))
        if own is None:  # told by the field itself
            return given
        general = () if given.get("procedure") == VENUE else ("close", "most_steps")
        for key in given:
            if key in cls.model_fields and key not in (*own, *general, "procedure"):
                allowed = ", ".join((*general, *own)) or "nothing else"
                raise fault(
                    f"{key}: not read by procedure {given.get('procedure', 'full')!r}; it reads {allowed}"
                )
        made = {**own, **{key: value for key, value in given.items() if value is not None}}
        made.setdefault("close", CLOSES.get(made.get("procedure", "full"), "market"))
        return made

    @model_validator(mode="after")
    def _agree(self) -> Liquidation:
        """What no field can check alone."""
        if self.procedure == "reduce_then_takeover" and self.fraction == 1:
            raise fault("fraction = 1: must be below 1, or absent for as much as is needed")
        if self.procedure == "cure" and (self.fee_max or 0.0) < (self.fee or 0.0):
            raise fault(f"fee_max = {self.fee_max}: must be at least fee = {self.fee}")
        if self.procedure == "optimal" and self.most_steps < (self.slices or 0):
            raise fault(f"most_steps = {self.most_steps}: must be at least slices = {self.slices}")
        return self

    @property
    def plain(self) -> bool:
        """Whether this is the rule of the book: the whole position at once, on the market."""
        return self.procedure == "full" and self.close == "market"

    def numbers(self) -> dict[str, Any]:
        """Every number, 0 where the procedure reads none; durations in ms."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: 0 if value is None else value for name, value in values.items()}

    def told(self) -> dict[str, Any]:
        """What was chosen, for metadata: only what the procedure reads."""
        return self.model_dump(mode="json", exclude_none=True)


def _by_name(value: Any) -> Any:
    return {"procedure": value} if isinstance(value, str) else value


Chosen: TypeAlias = Annotated[
    Liquidation, BeforeValidator(_by_name, json_schema_input_type=str | Liquidation)
]
