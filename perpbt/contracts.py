"""What a position is worth: linear, inverse and quanto contracts, and the margin a venue makes it keep.

In: one position as plain numbers, and a venue's maintenance rule. Out: value, profit, margins, and the prices
at which equity meets what the position must keep (liquidation) or nothing (bankruptcy), in closed form.

One idea carries all three contracts. Let x be the price, or 1/price for an inverse contract. Then the value
of a position is A*x with A = quantity * multiplier, and its profit is d*A*(x - x_entry), where d is +1 for a
long and -1 for a short, the other way round for an inverse contract. So every question is a straight line
(or, where the rate itself grows with the value, a parabola) in x. Amounts are in the settlement currency:
the quote currency of a linear contract, the coin of an inverse or quanto one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

from perpbt.errors import InputError

KINDS = ("linear", "inverse", "quanto")
SIDES = ("long", "short")
BASES = ("mark", "entry")
VOLUMES = ("base", "contracts")
QUOTES = ("USDT", "USDC", "USD")
SYMBOL = re.compile(rf"([A-Z0-9]+?)[-_/]?({'|'.join(QUOTES)})(?:[-_].*|M)?")
WHOLE = 1e-9
"""A price this share of a tick from a whole number of ticks is on it: binary fractions are not decimal."""


def require(name: str, value: float, allowed: str, fits: bool) -> None:
    """Raise InputError for a number that is not where it must be."""
    if not fits:
        raise InputError(f"{name} = {value!r}: must be {allowed}")


def require_word(name: str, value: str, words: Sequence[str]) -> None:
    """Raise InputError for a word that is none of those."""
    if value not in words:
        raise InputError(f"{name} = {value!r}: must be one of {', '.join(words)}")


def currencies(symbol: str) -> tuple[str, str]:
    """Base and quote currency as a symbol such as BTCUSDT, BTCUSD_PERP or BTC-USD-SWAP tells them, else empty."""
    found = SYMBOL.fullmatch(symbol)
    return (found[1], found[2]) if found else ("", "")


@dataclass(frozen=True)
class Contract:
    """How a contract turns a price into money.

    `multiplier` is the base units of one contract (linear), its face value in quote currency (inverse), or
    the coin that one unit of quote currency is worth by decree (quanto). `tick` and `lot`, the steps of
    prices and quantities, are off unless given. `settlement` names the currency of its money; left out, what
    its symbol says. `volume` is what bars count a volume in: "base" units (coin of an inverse contract), or
    "contracts"; left out, base, and contracts of a quanto.
    """

    kind: str = "linear"
    multiplier: float = 1.0
    tick: float | None = None
    lot: float | None = None
    settlement: str = ""
    volume: str = ""

    def __post_init__(self) -> None:
        require_word("contract", self.kind, KINDS)
        require_word("volume", self.volume, ("", *VOLUMES))
        if self.kind == "quanto" and self.volume == "base":
            raise InputError("volume = 'base': must be contracts, of a quanto contract")
        for name in ("multiplier", "tick", "lot"):
            step = getattr(self, name)
            if step is not None:
                require(name, step, "in (0, inf)", 0.0 < step < math.inf)

    @property
    def plain(self) -> bool:
        """Whether it is one unit of the base currency, settled in the quote currency."""
        return self.kind == "linear" and self.multiplier == 1.0

    def settled_in(self, symbol: str) -> str:
        """The currency of its money: as stated, else what the symbol says, else "quote", or a coin of the symbol's name."""
        base, quote = currencies(symbol)
        named = {"linear": quote or "quote", "inverse": base or symbol, "quanto": f"coin of {symbol}"}
        return self.settlement or named[self.kind]

    def counts_contracts(self) -> bool:
        """Whether a volume is in contracts."""
        return self.volume == "contracts" or self.kind == "quanto"

    def value(self, quantity: float, price: float) -> float:
        """The notional, never negative, in settlement currency."""
        size = quantity * self.multiplier
        return size / price if self.kind == "inverse" else size * price

    def quantity_of(self, value: float, price: float) -> float:
        """The contracts that are worth `value` at a price: `value` undone, not rounded to lots."""
        if self.kind == "inverse":
            return value * price / self.multiplier
        return value / (price * self.multiplier)

    def pnl(self, side: str, quantity: float, entry_price: float, price: float) -> float:
        """Profit from `entry_price` to `price`, in settlement currency; below 0 for a loss."""
        gained = self._reading(price) - self._reading(entry_price)
        return self._direction(side) * (quantity * self.multiplier) * gained

    def size(self, quantity: float, price: float) -> float:
        """What a rate that grows with size reads: base units; of an inverse contract its value in coin."""
        if self.kind == "inverse":
            return self.value(quantity, price)
        return quantity * self.multiplier if self.kind == "linear" else quantity

    def initial_margin(self, quantity: float, price: float, leverage: float) -> float:
        """value / leverage."""
        require("leverage", leverage, "in (0, inf)", 0.0 < leverage < math.inf)
        return self.value(quantity, price) / leverage

    def order_margin(self, side: str, quantity: float, price: float, mark: float, rate: float) -> float:
        """What an order ties up where a price worse than the mark must be paid for in full (BitMEX)."""
        return rate * self.value(quantity, price) + max(0.0, -self.pnl(side, quantity, price, mark))

    def round_quantity(self, quantity: float) -> float:
        """The whole lots in a quantity; as it is without a lot."""
        return quantity if self.lot is None else _in_steps(quantity, self.lot, up=False)

    def round_threshold(self, side: str, price: float) -> float:
        """A price that hurts, on the tick that is met first: up for a long, down for a short (Bybit)."""
        return price if self.tick is None else _in_steps(price, self.tick, up=side == "long")

    def _reading(self, price: float) -> float:
        """x of the module's idea; and its inverse, which is the same."""
        return 1.0 / price if self.kind == "inverse" else price

    def _direction(self, side: str) -> float:
        return 1.0 if (side == "long") != (self.kind == "inverse") else -1.0


def ratio(*factors: float | None) -> tuple[float, float]:
    """The product of decimal numbers as one whole number over another, both as floats; (0, 0) where one is None."""
    product = Decimal(1)
    for factor in factors:
        if factor is None:
            return 0.0, 0.0
        product *= Decimal(repr(float(factor)))
    units, per = product.as_integer_ratio()
    return float(units), float(per)


def _in_steps(number: float, step: float, *, up: bool) -> float:
    """The nearest whole number of steps above or below, without the dust of binary fractions."""
    steps = number / step
    whole = math.ceil(steps - WHOLE) if up else math.floor(steps + WHOLE)
    return float(whole * Decimal(repr(float(step))))


@dataclass(frozen=True)
class Position:
    """One open position. `margin` is what backs it alone, in settlement currency; `funding_paid` since entry.

    In a cross account `margin` is the wallet less what the other positions keep (`perpbt.explaining.cross`), and may be
    negative. Prices in quote currency, `quantity` in contracts, always positive.
    """

    side: str
    entry_price: float
    quantity: float
    margin: float
    contract: Contract = Contract()
    funding_paid: float = 0.0

    def __post_init__(self) -> None:
        require_word("side", self.side, SIDES)
        for name in ("entry_price", "quantity"):
            number = getattr(self, name)
            require(name, number, "in (0, inf)", 0.0 < number < math.inf)
        for name in ("margin", "funding_paid"):
            number = getattr(self, name)
            require(name, number, "finite", math.isfinite(number))

    @property
    def direction(self) -> float:
        """d of the module's idea: +1 where a falling x loses, -1 where a rising x does."""
        return self.contract._direction(self.side)

    def value(self, price: float) -> float:
        """Notional at a price."""
        return self.contract.value(self.quantity, price)

    def pnl(self, price: float) -> float:
        """Unrealised profit at a price, funding apart."""
        return self.contract.pnl(self.side, self.quantity, self.entry_price, price)

    def equity(self, price: float) -> float:
        """margin + profit - funding paid."""
        return self.margin + self.pnl(price) - self.funding_paid


class Band(NamedTuple):
    """A stretch of notional, floor < N <= cap, in settlement currency; it asks for N * rate - deduction."""

    floor: float
    cap: float
    rate: float
    deduction: float = 0.0


class Line(NamedTuple):
    """All a position must keep while its value V is in (floor, cap]: growth*V*V + rate*V - deduction."""

    floor: float
    cap: float
    rate: float
    deduction: float
    growth: float = 0.0


@dataclass(frozen=True)
class Maintenance:
    """A venue's maintenance rule for one contract.

    `stepped`: the band's rate holds for the whole position (risk limits: what must be kept jumps at a cap);
    otherwise bands are a continuous schedule with deductions. `per_size` adds rate per unit of size. `on` is
    the price the margin is taken at. `close_out_rate` is asked for on top, on the notional at mark;
    `fee_to_close` too, but on the notional at the bankruptcy price, so a fixed sum. Make one with `flat`,
    `brackets`, `risk_limits` or `growing`, and vary it with `dataclasses.replace`.
    """

    bands: tuple[Band, ...]
    stepped: bool = False
    per_size: float = 0.0
    on: str = "mark"
    close_out_rate: float = 0.0
    fee_to_close: float = 0.0

    def __post_init__(self) -> None:
        require_word("maintenance_on", self.on, BASES)
        require("per_size", self.per_size, "in [0, inf)", 0.0 <= self.per_size < math.inf)
        for name in ("close_out_rate", "fee_to_close"):
            number = getattr(self, name)
            require(name, number, "in [0, 1)", 0.0 <= number < 1.0)
        if self.per_size and len(self.bands) != 1:
            raise InputError(f"per_size = {self.per_size!r}: must be 0 with more than one band")
        if not self.bands or self.bands[0].floor != 0.0:
            raise InputError(f"bands = {self.bands!r}: must begin with a floor of 0")
        for index, band in enumerate(self.bands):
            where = f"bands[{index}]"
            require(f"{where}.cap", band.cap, f"above its floor {band.floor:g}", band.cap > band.floor)
            most = 1.0 - self.close_out_rate
            allowed = f"in [0, {most:g}), 1 less close_out_rate"
            require(f"{where}.rate", band.rate, allowed, 0.0 <= band.rate < most)
            require(f"{where}.deduction", band.deduction, "finite", math.isfinite(band.deduction))
        for index, (low, high) in enumerate(pairwise(self.bands), 1):
            where = f"bands[{index}]"
            require(f"{where}.floor", high.floor, f"{low.cap:g}, the cap below", high.floor == low.cap)
            require(
                f"{where}.rate", high.rate, f"at least {low.rate:g}, the rate below", high.rate >= low.rate
            )

    @classmethod
    def flat(cls, rate: float) -> Maintenance:
        """One rate at every size."""
        return cls((Band(0.0, math.inf, rate),))

    @classmethod
    def brackets(cls, rows: Iterable[Sequence[float]]) -> Maintenance:
        """Rows floor, cap, rate[, deduction]: a tax schedule (Binance, Bybit, Hyperliquid).

        A deduction left out is deduction_below + floor * (rate - rate_below), which makes it continuous.
        """
        bands: list[Band] = []
        for floor, cap, rate, *given in rows:
            below = bands[-1] if bands else Band(0.0, 0.0, rate)
            deduction = given[0] if given else below.deduction + floor * (rate - below.rate)
            bands.append(Band(floor, cap, rate, deduction))
        return cls(tuple(bands))

    @classmethod
    def risk_limits(
        cls, base_limit: float, step: float, base_rate: float, rate_step: float, steps: int
    ) -> Maintenance:
        """`base_rate` up to `base_limit`; each further `step` of notional adds `rate_step` (BitMEX)."""
        caps = [base_limit + step * index for index in range(steps + 1)]
        floors = [0.0, *caps[:-1]]
        rows = zip(floors, caps, strict=True)
        return cls(
            tuple(Band(floor, cap, base_rate + rate_step * k) for k, (floor, cap) in enumerate(rows)), True
        )

    @classmethod
    def growing(cls, base_rate: float, per_size: float) -> Maintenance:
        """base_rate + per_size * size, size in base units (Deribit)."""
        return cls((Band(0.0, math.inf, base_rate),), per_size=per_size)

    def margin(self, position: Position, price: float) -> float:
        """The maintenance margin with the mark at `price`, without close-out rate and fee to close."""
        at = price if self.on == "mark" else position.entry_price
        rate, deduction = self.terms(position, at)
        return position.value(at) * rate - deduction

    def terms(self, position: Position, price: float) -> tuple[float, float]:
        """The rate and the deduction that hold for the notional at `price`."""
        value = position.value(price)
        grown = self.per_size * position.contract.size(position.quantity, price)
        if self.stepped:
            last = len(self.bands) - 1
            index = next((k for k, band in enumerate(self.bands) if value <= band.cap), last)
            return self.bands[index].rate, 0.0
        band = max(self.bands, key=lambda one: value * one.rate - one.deduction)
        return band.rate + grown, band.deduction

    def required(self, position: Position, price: float) -> float:
        """Everything equity is compared with at `price`."""
        extra = self.close_out_rate * position.value(price) + self.closing_fee(position)
        return self.margin(position, price) + extra

    def closing_fee(self, position: Position) -> float:
        """fee_to_close on the notional at the bankruptcy price; 0 where there is no such price."""
        price = bankruptcy_price(position, self.fee_to_close).price if self.fee_to_close else None
        return 0.0 if price is None else self.fee_to_close * position.value(price)

    def lines(self, position: Position) -> tuple[Line, ...]:
        """`required` as a function of the position's value."""
        fee, extra = self.closing_fee(position), self.close_out_rate
        if self.on == "entry":
            return (Line(0.0, math.inf, extra, -(self.margin(position, position.entry_price) + fee)),)
        grown, growth = 0.0, self.per_size
        if growth and position.contract.kind != "inverse":  # the size does not move with the price
            grown, growth = growth * position.contract.size(position.quantity, position.entry_price), 0.0
            rate = self.bands[0].rate + grown + extra
            require("rate at this size", rate, "below 1, or equity is never enough", rate < 1.0)
        return tuple(
            Line(band.floor, band.cap, band.rate + grown + extra, band.deduction - fee, growth)
            for band in self.bands
        )


class Found(NamedTuple):
    """A price, or None and the reason; `line` is the part of the rule that decides it.

    With a price a reason stands only where the price is not a solution but the edge of a jump.
    """

    price: float | None
    line: Line | None = None
    reason: str = ""


def is_liquidated(position: Position, maintenance: Maintenance, price: float) -> bool:
    """Equity at or below all it must keep."""
    return position.equity(price) <= maintenance.required(position, price)


def bankruptcy_price(position: Position, fee: float = 0.0) -> Found:
    """Where equity is zero; with a `fee`, where it just pays that share of the notional (Bybit, inverse)."""
    line = Line(0.0, math.inf, fee, 0.0)
    return _found(position, _root(position, line), line, "zero")


def liquidation_price(position: Position, maintenance: Maintenance, mark: float | None = None) -> Found:
    """The price at which equity meets what the position must keep; liquidated there and beyond.

    With risk limits a loss also shrinks a long, into a band that asks for less: it can then be liquidated in
    a stretch of prices with safe ones on both sides. The answer is the first such price from `mark` (default:
    the entry price) in the direction of loss, or, from inside the stretch, its better end. Where what must be
    kept jumps past the equity, the price is that of the jump, and the reason says so. A short whose rate grows
    with its inverse size meets a second price, far on the winning side, where the rate nears 1: not given.
    """
    lines = maintenance.lines(position)
    if maintenance.stepped and len(lines) > 1:
        return _stepped(position, lines, position.entry_price if mark is None else mark)
    roots = [(_root(position, line), line) for line in lines]
    pick = max if position.direction > 0.0 else min  # convex: the line that is met first
    reading, line = pick(roots, key=lambda pair: pair[0])
    return _found(position, reading, line)


def _stepped(position: Position, lines: Sequence[Line], mark: float) -> Found:
    """Walk the bands; a jump at a cap belongs to the band below it."""
    size = position.quantity * position.contract.multiplier
    roots = [_root(position, line) for line in lines]
    edges = [line.cap / size for line in lines[:-1]] + [math.inf]
    if position.direction < 0.0:  # a loss grows the value: equity falls, what it must keep only rises
        index = next(k for k, edge in enumerate(edges) if roots[k] <= edge)
        if index and roots[index] <= edges[index - 1]:
            reason = f"the rate rises to {lines[index].rate:g} at this price, past the equity"
            return _found(position, edges[index - 1], lines[index], reason=reason)
        return _found(position, roots[index], lines[index])
    here = position.contract._reading(mark)
    index = next(k for k, edge in enumerate(edges) if here <= edge)
    if here > roots[index]:  # safe now: into bands that ask for less
        while index and roots[index] <= edges[index - 1]:
            index -= 1
    else:
        while roots[index] > edges[index]:
            index += 1
    return _found(position, roots[index], lines[index])


def _root(position: Position, line: Line) -> float:
    """The x at which equity is what one line asks for.

    At or below 0 there is none; inf where, with growth, equity is nowhere enough.
    """
    contract = position.contract
    size, entry = position.quantity * contract.multiplier, contract._reading(position.entry_price)
    share = (position.margin - position.funding_paid + line.deduction) / size
    level, slope = (
        (entry - share, 1.0 - line.rate) if position.direction > 0.0 else (entry + share, 1.0 + line.rate)
    )
    if line.growth == 0.0 or level <= 0.0:
        return level / slope
    square = slope * slope - position.direction * 4.0 * (line.growth * size) * level
    return math.inf if square < 0.0 else 2.0 * level / (slope + math.sqrt(square))


def _found(
    position: Position, reading: float, line: Line, target: str = "what it must keep", reason: str = ""
) -> Found:
    """From x to a price, or to the words for there being none."""
    if 0.0 < reading < math.inf:
        return Found(position.contract._reading(reading), line, reason)
    if reading <= 0.0 and position.direction > 0.0:
        way = "falls" if position.side == "long" else "rises"
        return Found(None, None, f"equity stays above {target} however far the price {way}")
    return Found(None, None, f"equity is at or below {target} at every price")
