"""One position worked out step by step: value, margins, bankruptcy price, liquidation price.

In: a mapping of what a person knows about a position. Out: an `Explanation`, with the numbers as fields and
every step as words, formula, figures and result. The arithmetic is that of `perpbt.contracts`; a linear
isolated position gets the numbers that the engines use. Reading and checking the mapping is `perpbt.explaining.asked`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from perpbt.contracts import (
    Found,
    Line,
    Maintenance,
    Position,
    bankruptcy_price,
    is_liquidated,
    liquidation_price,
)
from perpbt.explaining.asked import Asked, read
from perpbt.explaining.cross import Held, hedged_liquidation_prices

WIDTH = 100


@dataclass(frozen=True)
class Step:
    """One line of the working: what, by which formula, with which figures, and what comes out."""

    label: str
    formula: str
    figures: str
    result: float | None
    unit: str
    note: str = ""

    def render(self) -> str:
        """Two to four lines of text."""
        outcome = "none" if self.result is None else f"{_said(self.result)} {self.unit}".rstrip()
        lines = [self.label, f"    {self.formula}"]
        lines.append(f"    = {self.figures} = {outcome}" if self.figures else f"    = {outcome}")
        lines += textwrap.wrap(self.note, WIDTH, initial_indent="    ", subsequent_indent="    ")
        return "\n".join(lines)


@dataclass(frozen=True)
class Explanation:
    """What a position comes to. Money in `currency`, prices in quote currency, shares as fractions.

    `notional`, `equity`, `maintenance_margin`, `required` (with everything a venue asks for on top) and
    `margin_ratio` (required / equity: 1 is liquidation, inf without equity) are at `mark`; `distance` is how
    far the mark is from the liquidation price, as a share of the mark, below 0 beyond it. A price that does
    not exist is None and the reason is given.
    """

    title: str
    side: str
    entry_price: float
    quantity: float
    mark: float
    currency: str
    margin: float
    notional: float
    equity: float
    maintenance_margin: float
    required: float
    margin_ratio: float
    liquidated: bool
    liquidation_price: float | None
    liquidation_reason: str
    bankruptcy_price: float | None
    bankruptcy_reason: str
    distance: float | None
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    def render(self) -> str:
        """The steps, numbered, and what they come to, as text."""
        parts = [self.title]
        parts += [f"{number}. {step.render()}" for number, step in enumerate(self.steps, 1)]
        parts.append(self._conclusion())
        parts += [textwrap.fill(f"Note: {note}", WIDTH) for note in self.notes]
        return "\n\n".join(parts)

    def _conclusion(self) -> str:
        if self.liquidated:
            return textwrap.fill(f"At a mark of {_said(self.mark)} this position is liquidated.", WIDTH)
        if self.liquidation_price is None or self.distance is None:
            return textwrap.fill(f"Never liquidated: {self.liquidation_reason}.", WIDTH)
        way = "down" if self.side == "long" else "up"
        price = _said(self.liquidation_price)
        return textwrap.fill(
            f"Liquidated when the mark reaches {price}: {abs(self.distance):.4%} {way} from {_said(self.mark)}.",
            WIDTH,
        )


def explain(position: Mapping[str, Any] | object) -> Explanation:
    """Work out what a position must keep, and where it is liquidated and bankrupt.

    `position` is a mapping, or a dataclass with such fields. None means left out.

    - venue: name, path or Venue (default binance_um for a linear contract without a rule of its own);
      symbol: whose tiers hold.
    - contract: linear, inverse, quanto or a `Contract`, by default what the venue's table [contract] says of the
      symbol, else linear; multiplier, tick, lot; currency: its name. rounding: none (default), lot, tick or both,
      to the venue's steps.
    - side: long or short; entry_price; mark (default: the entry price).
    - How large, one of: quantity, in contracts; notional at entry, in settlement currency; collateral, out of
      which the opening fee is paid first, as in a backtest (needs leverage).
    - What backs it, one of: leverage (with margin_buffer); margin; wallet, for a cross account, with others, a list of its
      other positions (such mappings, without what backs them, each at its mark), or with the sums of these,
      other_maintenance and other_unrealised. Others of the same symbol (hedge mode) share the liquidation price: what is given
      is that on the side of the net loss, the other one is in the notes. The bankruptcy price is the wallet's: the price of this
      symbol at which nothing of it is left, the others at their marks.
    - funding_paid since entry; received is below 0.
    - The rule, if not the venue's: maintenance, a flat rate or a `Maintenance`; or tiers, rows of floor, cap,
      rate, max_leverage[, deduction] in settlement currency (one of these is needed where the venue's tiers are of
      another kind of contract); maintenance_on, mark or entry; close_out_rate, of the notional at mark; fee_to_close, of
      the notional at the bankruptcy price, where equity then just pays that fee (Bybit, inverse).

    Raises InputError for a key that is unknown, missing or at odds with another, and for a value out of range.

    Example:
        >>> import perpbt
        >>> answer = perpbt.explain({"symbol": "BTCUSDT", "side": "long", "entry_price": 60_000,
        ...                          "quantity": 0.5, "leverage": 20})
        >>> round(answer.liquidation_price, 2)
        57228.92
    """
    asked = read(position)
    held, mark, kept = asked.position, asked.mark, asked.maintenance
    bankruptcy = bankruptcy_price(_all_behind(asked), kept.fee_to_close)
    liquidation, notes = liquidation_price(held, kept, mark), list(asked.notes)
    if asked.legs:
        liquidation, bankruptcy = _shared_prices(asked, notes)
    equity, required = held.equity(mark), kept.required(held, mark)
    shown = {"bankruptcy": _rounded(held, bankruptcy), "liquidation": _rounded(held, liquidation)}
    price = shown["liquidation"]
    away = None if price is None else (mark - price) / mark * (1.0 if held.side == "long" else -1.0)
    return Explanation(
        title=_title(asked),
        side=held.side,
        entry_price=held.entry_price,
        quantity=held.quantity,
        mark=mark,
        currency=asked.currency,
        margin=held.margin,
        notional=held.value(mark),
        equity=equity,
        maintenance_margin=kept.margin(held, mark),
        required=required,
        margin_ratio=required / equity if equity > 0.0 else math.inf,
        liquidated=is_liquidated(held, kept, mark),
        liquidation_price=price,
        liquidation_reason=liquidation.reason,
        bankruptcy_price=shown["bankruptcy"],
        bankruptcy_reason=bankruptcy.reason,
        distance=away,
        steps=tuple(_steps(asked, bankruptcy, liquidation, shown)),
        notes=tuple(notes),
    )


def _all_behind(asked: Asked) -> Position:
    """The position with all that stands behind it until nothing is left: what the others of its wallet must keep, too."""
    if asked.maintenance.fee_to_close:  # charged at the price at which its own margin is gone
        return asked.position
    return replace(asked.position, margin=asked.position.margin + asked.kept_beside)


def _shared_prices(asked: Asked, notes: list[str]) -> tuple[Found, Found]:
    """Where all legs on one contract are liquidated, and bankrupt, together: on the side of the net loss; the other side goes to the
    notes.
    """
    own = Held(replace(asked.position, margin=0.0), asked.maintenance, asked.mark)
    legs = [own, *asked.legs]
    below, above = hedged_liquidation_prices(asked.wallet, legs, asked.others)
    net = math.fsum(one.position.direction * one.position.quantity for one in legs)
    falls = (net > 0.0) != (own.position.contract.kind == "inverse") if net else below.price is not None
    chosen, other = (below, above) if falls else (above, below)
    way, back = ("falls to", "rises to") if falls else ("rises to", "falls to")
    told = f"the {len(legs)} positions on this contract are liquidated together"
    notes.append(f"{told} where the price {way} {_price_said(chosen)}, or {back} {_price_said(other)}")
    flat = Maintenance.flat(0.0)
    nothing, apart = ([one._replace(maintenance=flat) for one in each] for each in (legs, asked.others))
    gone = hedged_liquidation_prices(asked.wallet, nothing, apart)
    return chosen, gone[0] if falls else gone[1]


def _price_said(found: Found) -> str:
    return "no price" if found.price is None else _said(found.price)


def _steps(
    asked: Asked, bankruptcy: Found, liquidation: Found, shown: Mapping[str, float | None]
) -> list[Step]:
    """The working, in the order a person would do it by hand."""
    held, mark, kept, unit = asked.position, asked.mark, asked.maintenance, asked.currency
    steps = [Step(*one[:4], unit if one.money else asked.counted) for one in asked.working]
    steps.append(_value_step("Notional at mark", held, mark, unit))
    steps.append(_profit_step(held, mark, unit))
    funding = f" - {_term(held.funding_paid)}" if held.funding_paid else ""
    equity, required = held.equity(mark), kept.required(held, mark)
    profit = _term(held.pnl(mark))
    steps.append(
        Step(
            "Equity at mark",
            "margin + profit" + (" - funding paid" if funding else ""),
            f"{_term(held.margin)} + {profit}{funding}",
            equity,
            unit,
        )
    )
    steps += _maintenance_steps(asked)
    steps.append(
        Step(
            "Margin ratio at mark",
            "what must be kept / equity; liquidated at 1",
            f"{_term(required)} / {_term(equity)}",
            required / equity if equity > 0.0 else math.inf,
            "",
        )
    )
    gone = "equity is the fee to close" if kept.fee_to_close else "equity is 0"
    gone += ", of all positions on the contract" if asked.legs else ""
    whole = _all_behind(asked)
    if whole.margin != held.margin:
        gone = "equity of the wallet is 0, which needs nothing for the others then; margin is wallet + their profit"
    steps.append(_price_step("Bankruptcy price", gone, whole, bankruptcy, shown["bankruptcy"]))
    met = "equity is what must be kept" + (", of all positions on the contract" if asked.legs else "")
    steps.append(_price_step("Liquidation price", met, held, liquidation, shown["liquidation"]))
    if liquidation.price is not None and not asked.legs:
        steps.append(
            Step(
                "Check: equity at the liquidation price",
                f"margin + profit{' - funding paid' if funding else ''}, against what must be kept there",
                f"{_term(held.margin)} + {_term(held.pnl(liquidation.price))}{funding}",
                held.equity(liquidation.price),
                unit,
                f"What must be kept there: {_said(kept.required(held, liquidation.price))} {unit}.",
            )
        )
    return steps


def _value_step(label: str, held: Position, price: float, unit: str) -> Step:
    contract, count, factor = held.contract, _said(held.quantity), _said(held.contract.multiplier)
    many = contract.multiplier != 1.0
    sign = "/" if contract.kind == "inverse" else "*"
    return Step(
        label,
        f"quantity{' * multiplier' if many else ''} {sign} price",
        f"{count}{f' * {factor}' if many else ''} {sign} {_said(price)}",
        held.value(price),
        unit,
    )


def _profit_step(held: Position, mark: float, unit: str) -> Step:
    """Inverse profit is the difference of reciprocals, in which a long gains as they fall."""
    contract, long = held.contract, held.side == "long"
    inverse = contract.kind == "inverse"
    names = ("mark", "entry") if long != inverse else ("entry", "mark")
    numbers = {"mark": _said(mark), "entry": _said(held.entry_price)}
    over = "1 / " if inverse else ""
    many = f" * {_said(contract.multiplier)}" if contract.multiplier != 1.0 else ""
    return Step(
        "Unrealised profit",
        f"quantity{' * multiplier' if many else ''} * ({over}{names[0]} - {over}{names[1]})",
        f"{_said(held.quantity)}{many} * ({over}{numbers[names[0]]} - {over}{numbers[names[1]]})",
        held.pnl(mark),
        unit,
    )


def _maintenance_steps(asked: Asked) -> list[Step]:
    """The margin of the rule, then what is asked for on top of it."""
    held, mark, kept, unit = asked.position, asked.mark, asked.maintenance, asked.currency
    at = mark if kept.on == "mark" else held.entry_price
    value, margin = held.value(at), kept.margin(held, mark)
    rate, deduction = kept.terms(held, at)
    where = f"notional at {kept.on} * rate"
    steps = [
        Step(
            "Maintenance margin",
            f"{where} - deduction" if deduction else where,
            f"{_said(value)} * {rate:.6g}" + (f" - {_term(deduction)}" if deduction else ""),
            margin,
            unit,
            asked.rule,
        )
    ]
    if kept.close_out_rate or kept.fee_to_close:
        formula, figures = "maintenance margin", _said(margin)
        if kept.close_out_rate:
            formula += " + notional at mark * close-out rate"
            figures += f" + {_said(held.value(mark))} * {kept.close_out_rate:.6g}"
        if kept.fee_to_close:
            formula += " + fee to close at the bankruptcy price"
            figures += f" + {_said(kept.closing_fee(held))}"
        steps.append(Step("What must be kept", formula, figures, kept.required(held, mark), unit))
    return steps


def _price_step(label: str, when: str, held: Position, found: Found, shown: float | None) -> Step:
    """The equation solved: its formula and figures, or the reason why there is nothing to solve."""
    if found.price is None:
        reason = found.reason
        return Step(label, f"where {when}", "", None, "", f"{reason[0].upper()}{reason[1:]}.")
    formula, figures = ("", "") if found.reason or found.line is None else _solution(held, found.line)
    note = f"{found.reason[0].upper()}{found.reason[1:]}." if found.reason else ""
    if found.line is not None and (found.line.floor > 0.0 or found.line.cap < math.inf):
        note += f" In the tier of a notional of {_said(found.line.floor)} to {_said(found.line.cap)}."
    if shown != found.price:
        note += f" Before rounding to ticks of {held.contract.tick:g}: {_said(found.price)}."
    return Step(label, f"where {when}{formula}", figures, shown, "", note.strip())


def _solution(held: Position, line: Line) -> tuple[str, str]:
    """The closed form in the price, with the terms that are 0 left out."""
    contract = held.contract
    if line.growth:
        return ": the root of a quadratic, as the rate grows with the value in coin", ""
    words, numbers = "margin", _term(held.margin)
    if held.funding_paid:
        words, numbers = f"{words} - funding paid", f"{numbers} - {_term(held.funding_paid)}"
    if line.deduction:  # below 0: something to keep whatever the mark
        fixed = line.deduction < 0.0
        words += " - fixed sum to keep" if fixed else " + deduction"
        numbers += f" - {_said(-line.deduction)}" if fixed else f" + {_said(line.deduction)}"
    if words != "margin":
        words, numbers = f"({words})", f"({numbers})"
    quantity, size = "quantity", _said(held.quantity)
    if contract.multiplier != 1.0:
        quantity, size = "(quantity * multiplier)", f"({size} * {_said(contract.multiplier)})"
    sign, one = "-" if held.direction > 0.0 else "+", "1 / " if contract.kind == "inverse" else ""
    formula = f"{one}entry {sign} {words} / {quantity}"
    figures = f"{one}{_said(held.entry_price)} {sign} {numbers} / {size}"
    if line.rate:
        formula, figures = f"({formula}) / (1 {sign} rate)", f"({figures}) / (1 {sign} {line.rate:.6g})"
    return f": {one}price = {formula}", f"1 / [{figures}]" if one else figures


def _title(asked: Asked) -> str:
    held = asked.position
    mode = "cross" if asked.cross else "isolated"
    what = f" in {asked.symbol}" if asked.symbol != "default" else ""
    place = f", {asked.place}" if asked.place else ""
    return f"A {held.side}{what}: {held.contract.kind} contract, {mode} margin{place}"


def _rounded(held: Position, found: Found) -> float | None:
    return None if found.price is None else held.contract.round_threshold(held.side, found.price)


def _said(number: float) -> str:
    """A number for reading: ten digits, thousands apart, no -0."""
    return f"{number + 0.0:,.10g}"


def _term(number: float) -> str:
    """A number inside a formula: in brackets if below 0."""
    return f"({_said(number)})" if number < 0.0 else _said(number)
