"""What a person says about one position, read and checked.

In: a mapping or dataclass of the keys that `perpbt.explain` lists. Out: `Asked`, a position, a maintenance
rule and a mark, with the working that led from what was said to them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from perpbt.checks import as_float, unknown
from perpbt.contracts import (
    BASES,
    KINDS,
    SIDES,
    Contract,
    Maintenance,
    Position,
    currencies,
    require,
    require_word,
)
from perpbt.errors import InputError
from perpbt.explaining.cross import Held, cross_equity, cross_required
from perpbt.venue import Venue, load_venue
from perpbt.venue.brackets import Tier, ladder

SIZES = ("quantity", "notional", "collateral")
BACKINGS = ("leverage", "margin", "wallet")
OWN_RULES = ("maintenance", "tiers")
ROUNDINGS = ("none", "lot", "tick", "both")
KEYS = (
    "venue", "symbol", "contract", "multiplier", "tick", "lot", "currency", "side", "entry_price", *SIZES,
    *BACKINGS, "margin_buffer", "other_maintenance", "other_unrealised", "others", "mark", "funding_paid", "maintenance",
    "tiers", "maintenance_on", "close_out_rate", "fee_to_close", "rounding",
)  # fmt: skip
ONLY_WITH = {
    "margin_buffer": "leverage", "other_maintenance": "wallet", "other_unrealised": "wallet", "others": "wallet",
}  # fmt: skip


class Working(NamedTuple):
    """One step from what was said to the position: in money, or in contracts."""

    label: str
    formula: str
    figures: str
    result: float
    money: bool = True


@dataclass(frozen=True)
class Asked:
    """A question about one position, complete and consistent."""

    position: Position
    maintenance: Maintenance
    mark: float
    symbol: str
    currency: str
    counted: str
    place: str
    rule: str
    cross: bool
    working: tuple[Working, ...]
    notes: tuple[str, ...]
    wallet: float = 0.0
    legs: tuple[Held, ...] = ()
    """Others of the wallet on the same contract, which its price moves too."""
    others: tuple[Held, ...] = ()
    """Those on other contracts, which stay at their marks."""
    kept_beside: float = 0.0
    """What the others of the wallet must keep, which is not in the position's margin."""


class Said(dict[str, Any]):
    """The keys given, with the questions asked of them."""

    def number(self, key: str, default: float | None = None, least: float = -math.inf) -> float:
        """A finite number, at or above `least`."""
        value = self.get(key, default)
        if value is None:
            raise InputError(f"{key}: missing")
        real = as_float(value)
        low = "(-inf" if least == -math.inf else f"[{least:g}"
        if real is None or not (math.isfinite(real) and real >= least):
            raise InputError(f"{key} = {value!r}: must be a number in {low}, inf)")
        return real

    def positive(self, key: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self.get(key, default)
        if value is None:
            raise InputError(f"{key}: missing")
        real = as_float(value)
        if real is None or not 0.0 < real < math.inf:
            raise InputError(f"{key} = {value!r}: must be a number in (0, inf)")
        return real

    def one_of(self, keys: tuple[str, ...]) -> str:
        """Which of these was given; it must be one alone."""
        given = [key for key in keys if key in self]
        if len(given) != 1:
            found = " and ".join(f"{key} = {self[key]!r}" for key in given) or "nothing"
            raise InputError(f"{', '.join(keys)}: give exactly one of them, not {found}")
        return given[0]

    def word(self, key: str, words: tuple[str, ...], default: str | None = None) -> str:
        """One of a few words."""
        value = self.get(key, default)
        if value is None:
            raise InputError(f"{key}: missing; one of {', '.join(words)}")
        require_word(key, value, words)
        return str(value)


def read(position: Mapping[str, Any] | object) -> Asked:
    """Check what was said and make a position of it. Raises InputError."""
    said = _said(position)
    own = [key for key in OWN_RULES if key in said]
    venue, symbol = _venue(said, default=None if own else "binance_um"), _text(said, "symbol", "default")
    stated = venue.terms("contract", symbol) if venue is not None else None
    contract = _contract(said, stated)
    venue, maintenance, tiers, rule = _rules(said, contract, venue, stated)
    working: list[Working] = []
    notes: list[str] = []
    base, quote = currencies(symbol)
    settled = {"linear": quote or "quote currency", "inverse": base or "coin", "quanto": "coin"}
    currency = _text(said, "currency", contract.settlement or settled[contract.kind])
    legs, others = _beside(said, symbol, currency, working)
    held = _position(said, contract, venue, maintenance, tiers, working, notes)
    whole = contract.kind == "linear" and contract.multiplier == 1.0
    counted = (base or "base units") if whole else "contracts"
    mark = said.positive("mark", held.entry_price)
    last = tiers[-1].cap if tiers else math.inf
    if held.value(mark) > last:
        notes.append(f"the notional at mark is above the last cap, {last:,.10g}: the last rate goes on")
    place = (venue.title or venue.name) if venue else ""
    return Asked(
        held,
        maintenance,
        mark,
        symbol,
        currency,
        counted,
        place,
        rule,
        "wallet" in said,
        tuple(working),
        tuple(notes),
        said.number("wallet", 0.0),
        legs,
        others,
        said.number("other_maintenance", 0.0),
    )


def in_words(text: str) -> dict[str, Any]:
    """A position said in one line, "symbol=ETHUSDT,side=long,entry=3000,quantity=2": `entry` is its entry_price."""
    found: dict[str, Any] = {}
    for part in text.split(","):
        key, sign, value = (word.strip() for word in part.partition("="))
        if not (key and sign and value):
            raise InputError(f"{text!r}: {part.strip()!r} must be KEY=VALUE, several parted by commas")
        try:
            found["entry_price" if key == "entry" else key] = float(value)
        except ValueError:
            found[key] = value
    return found


def _beside(
    said: Said, symbol: str, currency: str, working: list[Working]
) -> tuple[tuple[Held, ...], tuple[Held, ...]]:
    """The other positions of a wallet: those on the same contract, and those on others. Says what they keep and have gained."""
    if "others" not in said:
        return (), ()
    given = said["others"]
    for key in ("other_maintenance", "other_unrealised"):
        if key in said:
            raise InputError(f"{key} = {said[key]!r}: only without others, whose sum it is")
    if isinstance(given, Mapping) or not isinstance(given, Sequence) or not given:
        raise InputError(f"others = {given!r}: must be a list of positions of the same wallet")
    legs: list[Held] = []
    apart: list[Held] = []
    for number, one in enumerate(given):
        place = f"others[{number}]"
        known = _said(one, place)
        for key in ("leverage", "margin", "wallet", "others"):
            if key in known:
                raise InputError(f"{place}.{key} = {known[key]!r}: one wallet backs all positions")
        own = {"venue": said.get("venue"), "symbol": symbol, **known, "wallet": 0.0}
        try:
            asked = read(own)
        except InputError as error:
            raise InputError("\n".join(f"{place}.{line}" for line in str(error).splitlines())) from None
        if asked.currency != currency:
            raise InputError(f"{place}: settled in {asked.currency}; must be in {currency}, as the wallet is")
        held = Held(dataclasses.replace(asked.position, margin=0.0), asked.maintenance, asked.mark)
        (legs if asked.symbol == symbol else apart).append(held)
        working += _worth(held, f"{asked.position.side} {asked.symbol}")
    every = [*legs, *apart]
    said["other_maintenance"], said["other_unrealised"] = cross_required(every), cross_equity(0.0, every)
    return tuple(legs), tuple(apart)


def _worth(held: Held, what: str) -> list[Working]:
    """What another position of the wallet keeps, and has gained, at its mark."""
    position, rule, mark = held
    at = mark if rule.on == "mark" else position.entry_price
    rate, deduction = rule.terms(position, at)
    formula, figures = f"notional at {rule.on} * rate", f"{position.value(at):,.10g} * {rate:.6g}"
    if deduction:
        formula, figures = f"{formula} - deduction", f"{figures} - {deduction:,.10g}"
    if rule.close_out_rate:
        formula = f"{formula} + notional at mark * close-out rate"
        figures = f"{figures} + {position.value(mark):,.10g} * {rule.close_out_rate:.6g}"
    paid = f" - {position.funding_paid:,.10g} of funding" if position.funding_paid else ""
    gained = f"from {position.entry_price:,.10g} to {mark:,.10g}{paid}"
    return [
        Working(f"Kept by the {what}", formula, figures, rule.required(position, mark)),
        Working(f"Profit of the {what}", f"of {position.quantity:,.10g}", gained, cross_equity(0.0, [held])),
    ]


def _said(position: Mapping[str, Any] | object, place: str = "position") -> Said:
    if dataclasses.is_dataclass(position) and not isinstance(position, type):
        given: Mapping[Any, Any] = {
            field.name: getattr(position, field.name) for field in dataclasses.fields(position)
        }
    elif isinstance(position, Mapping):
        given = position
    else:
        raise InputError(f"{place} = {position!r}: must be a mapping of {', '.join(KEYS)}")
    for key in given:
        if key not in KEYS:
            raise InputError(unknown(f"{place}[{key!r}]", str(key), KEYS))
    said = Said((key, value) for key, value in given.items() if value is not None)
    for key, other in ONLY_WITH.items():
        if key in said and other not in said:
            raise InputError(f"{key} = {said[key]!r}: only with {other}")
    return said


def _contract(said: Said, stated: Contract | None) -> Contract:
    """The contract given, else what the venue says of the symbol; its tick and lot only where rounding is asked for."""
    given, rounding = said.get("contract"), said.word("rounding", ROUNDINGS, "none")
    steps: dict[str, Any] = {key: said.positive(key) for key in ("multiplier", "tick", "lot") if key in said}
    if isinstance(given, Contract):
        return dataclasses.replace(given, **steps)
    kind = said.word("contract", KINDS, stated.kind if stated else "linear")
    if stated is None or stated.kind != kind:
        return Contract(kind, **steps)
    off = {name: None for name in ("tick", "lot") if rounding not in (name, "both")}
    return dataclasses.replace(stated, **{**off, **steps})


def _rules(
    said: Said, contract: Contract, venue: Venue | None, stated: Contract | None
) -> tuple[Venue | None, Maintenance, tuple[Tier, ...], str]:
    """The venue, if any; the maintenance rule; its tiers where it has some; and words for where it is from."""
    own = [key for key in OWN_RULES if key in said]
    if len(own) > 1:
        raise InputError("maintenance, tiers: give one of them, not both")
    listed_as = stated.kind if stated else "linear"
    if not own and contract.kind != listed_as:
        name = venue.name if venue is not None else ""
        raise InputError(
            f"contract = {contract.kind!r}: give maintenance or tiers, in its settlement currency: the tiers of venue {name} are"
            f" those of {listed_as} contracts"
        )
    symbol, tiers = _text(said, "symbol", "default"), tuple[Tier, ...]()
    if "maintenance" in said:
        maintenance = _given_rule(said)
        rule = "The rate is the one given" + (
            ", that of the band, on the whole." if maintenance.stepped else "."
        )
    else:
        if venue is not None and not own:
            tiers = venue.brackets(symbol)
            listed = symbol != "default" and venue.has_symbol(symbol)
            named = symbol if listed else "every symbol not listed"
            maintenance = venue.maintenance(symbol)
            rule = f"By the tier that holds the notional, of the venue's for {named}" + (
                ", on the whole." if maintenance.stepped else "."
            )
        else:
            tiers, rule = _ladder(said["tiers"]), "By the tier that holds the notional, of those given."
            maintenance = Maintenance.brackets((t.floor, t.cap, t.rate, t.deduction) for t in tiers)
    on, extra = maintenance.on, maintenance.close_out_rate
    if venue is not None and not isinstance(said.get("maintenance"), Maintenance):
        on, extra = venue.maintenance_on, venue.close_out_rate
    on, extra = said.word("maintenance_on", BASES, on), said.number("close_out_rate", extra, least=0.0)
    fee = said.number("fee_to_close", maintenance.fee_to_close, least=0.0)
    kept = dataclasses.replace(maintenance, on=on, close_out_rate=extra, fee_to_close=fee)
    return venue, kept, tiers, rule


def _venue(said: Said, default: str | None) -> Venue | None:
    given = said.get("venue", default)
    if given is None:
        return None
    if not isinstance(given, str | Path | Venue):
        raise InputError(f"venue = {given!r}: must be a name, a path or a Venue")
    return load_venue(given)


def _given_rule(said: Said) -> Maintenance:
    given = said["maintenance"]
    if isinstance(given, Maintenance):
        return given
    rate = said.number("maintenance", least=0.0)
    require("maintenance", rate, "in [0, 1) or a Maintenance", rate < 1.0)
    return Maintenance.flat(rate)


def _ladder(rows: object) -> tuple[Tier, ...]:
    try:
        return ladder(rows)
    except ValueError as error:
        raise InputError("\n".join(f"tiers: {line}" for line in str(error).splitlines())) from None


def _position(
    said: Said,
    contract: Contract,
    venue: Venue | None,
    maintenance: Maintenance,
    tiers: tuple[Tier, ...],
    working: list[Working],
    notes: list[str],
) -> Position:
    """Size and margin, in the order and rounding in which the engines open a position."""
    side, entry = said.word("side", SIDES), said.positive("entry_price")
    size, backing = said.one_of(SIZES), said.one_of(BACKINGS)
    buffer = said.number("margin_buffer", 0.0, least=0.0)
    if size == "collateral":
        if backing != "leverage":
            raise InputError(f"collateral = {said['collateral']!r}: needs leverage, not {backing}")
        notional = _affordable(said, buffer, venue.taker_fee if venue else 0.0, working)
    if size == "quantity":
        quantity = contract.round_quantity(said.positive("quantity"))
    else:
        notional = notional if size == "collateral" else said.positive("notional")
        quantity = contract.round_quantity(contract.quantity_of(notional, entry))
        working.append(_counted(contract, notional, entry, quantity))
    if quantity <= 0.0:
        raise InputError(f"{size} = {said[size]!r}: less than one lot of {contract.lot:g}")
    if size == "quantity" or contract.lot is not None:
        notional = contract.value(quantity, entry)
        sign = "/" if contract.kind == "inverse" else "*"
        many = contract.multiplier != 1.0
        count = f"{quantity:,.10g}" + (f" * {contract.multiplier:,.10g}" if many else "")
        named = f"quantity{' * multiplier' if many else ''} {sign} entry"
        label = "Notional at entry" if size == "quantity" else "Notional of the whole lots"
        working.append(Working(label, named, f"{count} {sign} {entry:,.10g}", notional))
    margin = _margin(said, backing, notional, buffer, working)
    if backing == "leverage":
        _allowed_leverage(said, notional, tiers, maintenance.per_size * contract.size(quantity, entry))
    elif tiers and notional > tiers[-1].cap:
        cap = f"{tiers[-1].cap:,.10g}"
        notes.append(f"the notional at entry is above the last cap, {cap}: the tiers open no such position")
    return Position(side, entry, quantity, margin, contract, said.number("funding_paid", 0.0))


def _affordable(said: Said, buffer: float, fee: float, working: list[Working]) -> float:
    """The notional that collateral opens when the taker fee comes out of it."""
    collateral, leverage = said.positive("collateral"), said.positive("leverage")
    notional = (collateral * leverage) / ((1.0 + buffer) + fee * leverage)
    spare = f" + {buffer:.6g}" if buffer else ""
    working.append(
        Working(
            "Notional at entry",
            f"collateral * leverage / (1{' + margin buffer' if buffer else ''} + taker fee * leverage)",
            f"{collateral:,.10g} * {leverage:,.10g} / (1{spare} + {fee:.6g} * {leverage:,.10g})",
            notional,
        )
    )
    return notional


def _counted(contract: Contract, notional: float, entry: float, quantity: float) -> Working:
    many = contract.multiplier != 1.0
    if contract.kind == "inverse":
        formula = "notional * entry" + (" / multiplier" if many else "")
        figures = f"{notional:,.10g} * {entry:,.10g}" + (f" / {contract.multiplier:,.10g}" if many else "")
    else:
        formula = "notional / entry" + (" / multiplier" if many else "")
        figures = f"{notional:,.10g} / {entry:,.10g}" + (f" / {contract.multiplier:,.10g}" if many else "")
    label = "Quantity, in whole lots" if contract.lot else "Quantity"
    return Working(label, formula, figures, quantity, money=False)


def _margin(said: Said, backing: str, notional: float, buffer: float, working: list[Working]) -> float:
    if backing == "margin":
        return said.number("margin", least=0.0)
    if backing == "wallet":
        wallet = said.number("wallet")
        kept, gained = said.number("other_maintenance", 0.0, least=0.0), said.number("other_unrealised", 0.0)
        margin = wallet - kept + gained
        if kept or gained:
            formula = "wallet - maintenance of the others + their profit"
            figures = f"{wallet:,.10g} - {kept:,.10g} + {gained:,.10g}"
            working.append(Working("Margin for this position", formula, figures, margin))
        return margin
    leverage = said.positive("leverage")
    margin = ((1.0 + buffer) * notional) / leverage
    formula = "(1 + margin buffer) * notional / leverage" if buffer else "notional / leverage"
    figures = f"(1 + {buffer:.6g}) * " if buffer else ""
    working.append(
        Working("Initial margin", formula, f"{figures}{notional:,.10g} / {leverage:,.10g}", margin)
    )
    return margin


def _allowed_leverage(said: Said, notional: float, tiers: tuple[Tier, ...], grown: float) -> None:
    """What the tier at this size allows for opening, as the engines refuse it; `grown` is added to the initial margin."""
    if not tiers:
        return
    leverage, last = said.positive("leverage"), tiers[-1].cap
    require(
        "notional at entry", notional, f"in (0, {last:,.10g}], the last cap of the tiers", notional <= last
    )
    most = next(tier.max_leverage for tier in tiers if notional <= tier.cap)
    most = 1.0 / (1.0 / most + grown) if grown > 0.0 else most
    allowed = (
        f"at most {most:g} for a notional of {notional:,.10g}; for a position opened before, give margin"
    )
    require("leverage", leverage, allowed, leverage <= most)


def _text(said: Said, key: str, default: str) -> str:
    value = said.get(key, default)
    if not isinstance(value, str) or not value:
        raise InputError(f"{key} = {value!r}: must be text")
    return value
