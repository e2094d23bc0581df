"""A venue's numbers for several symbols at once, as kernels of shared wallets read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from perpbt.crossing.grid import Timeline
from perpbt.crossing.terms import Margin
from perpbt.errors import InputError
from perpbt.kernels.crossing.tables import SHOCKS, Charges
from perpbt.kernels.tables import Floats, Integers, Rates
from perpbt.venue import Venue
from perpbt.venue.tables.portfolio import PortfolioTerms


def begun_on(line: Timeline, symbol: int, rates: Rates) -> Integers:
    """The bar of the grid at which each epoch of a symbol's tiers begins: the symbol's own, 0 for the first."""
    begun = line.own[symbol][rates.since].astype(np.int64)
    begun[0] = 0
    return begun


def make_charges(
    venue: Venue, rates: Sequence[Rates], symbols: Sequence[str], margin: Margin, line: Timeline
) -> Charges:
    """Rates of each symbol side by side; scenarios of each risk unit where that is how accounts are kept."""
    first, most = rates[0], max(one.ladders.shape[1] for one in rates)
    numbers = [
        (
            one.taker_fee, one.maker_fee, one.slippage, one.liquidation_fee, one.close_out_rate, one.half_spread, one.impact,
            one.max_slippage, one.surplus_to_fund, float(one.whole), one.per_unit, float(one.terms.inverse), one.terms.lot_units,
            one.terms.lot_per, one.terms.tick_units, one.terms.tick_per, growth_of(one),
        )
        for one in rates
    ]  # fmt: skip
    filled = [
        np.concatenate(
            [one.ladders, np.repeat(one.ladders[:, -1:], most - one.ladders.shape[1], axis=1)], axis=1
        )
        for one in rates
    ]
    begun = [begun_on(line, k, one) for k, one in enumerate(rates)]
    since = np.unique(np.concatenate(begun))
    offsets = np.cumsum([0, *[one.size for one in begun]])
    ladder = [
        at + np.searchsorted(own, since, side="right") - 1 for at, own in zip(offsets, begun, strict=False)
    ]
    units = risk_units(venue, symbols, rates) if margin.mode == "portfolio" else RiskUnits((), (), ())
    return Charges(
        numbers=np.array(numbers, dtype=np.float64),
        tiers=np.ascontiguousarray(np.concatenate(filled)),
        tier_count=np.repeat(
            np.array([one.ladders.shape[1] for one in rates], dtype=np.int64), [one.size for one in begun]
        ),
        since=since,
        ladder=np.ascontiguousarray(np.stack(ladder, axis=1), dtype=np.int64),
        unit=np.array(units.of_symbol or [0] * len(symbols), dtype=np.int64),
        minimum=np.array(units.minimum or [0.0] * len(symbols), dtype=np.float64),
        units=unit_numbers(units.units),
        multipliers=unit_multipliers([one.terms for one in units.units]),
        portfolio=margin.mode == "portfolio",
        one_way=margin.legs == "one_way",
        extremes=margin.test == "extremes",
        entry_maintenance=bool(first.entry_maintenance),
        optimistic=bool(first.optimistic),
        target_at_open=bool(first.target_at_open),
        clip=bool(first.clip),
        steps=any(bool(one.whole) for one in rates),
        grows=any(growth_of(one) > 0.0 for one in rates),
        in_turn=margin.close == "in_turn",
        crowds=np.empty(0, dtype=np.int64),
        volumes=np.empty(0),
    )


def growth_of(rates: Rates) -> float:
    """What the rate grows by with the value in coin at the mark; that of other contracts grows with their quantity, which no mark moves."""
    return rates.per_unit if rates.terms.inverse and not rates.entry_maintenance else 0.0


class RiskUnit(NamedTuple):
    """The scenarios of a risk unit, and whether what is in it is worth a multiple of 1 / P."""

    terms: PortfolioTerms
    inverse: bool


class RiskUnits(NamedTuple):
    """Symbols put together whose opposite legs net."""

    of_symbol: Sequence[int]
    minimum: Sequence[float]  # raw charge on gross value, a symbol
    units: Sequence[RiskUnit]


def unit_of(scan: PortfolioTerms, symbol: str) -> str:
    """The name of a symbol's risk unit."""
    return scan.unit or symbol


def risk_units(venue: Venue, symbols: Sequence[str], rates: Sequence[Rates]) -> RiskUnits:
    """The risk units of a run. Raises InputError as `scenarios`, and for a unit of both inverse and other contracts: one move of the price
    changes their values by different shares.
    """
    scans = scenarios(venue, symbols)
    of = [unit_of(scan, symbol) for scan, symbol in zip(scans, symbols, strict=True)]
    names = sorted(set(of))
    firsts = [of.index(name) for name in names]
    for symbol, name, own in zip(symbols, of, rates, strict=True):
        other = firsts[names.index(name)]
        if own.terms.inverse != rates[other].terms.inverse:
            raise InputError(
                f"venue {venue.name}: portfolio: {symbols[other]} and {symbol} are in one risk unit ({name}), and one of them is an inverse "
                "contract; allowed in a unit: inverse contracts alone, or none"
            )
    return RiskUnits(
        [names.index(name) for name in of],
        [scan.minimum for scan in scans],
        [RiskUnit(scans[k], rates[k].terms.inverse) for k in firsts],
    )


def scenarios(venue: Venue, symbols: Sequence[str]) -> list[PortfolioTerms]:
    """The scenarios of each symbol. Raises InputError where a venue has none, and where symbols of a unit differ in them."""
    found: list[PortfolioTerms] = []
    units: dict[str, tuple[str, PortfolioTerms]] = {}
    for symbol in symbols:
        scan: PortfolioTerms | None = venue.terms("portfolio", symbol)
        if scan is None:
            raise InputError(
                f"margin = 'portfolio': venue {venue.name} has no table [portfolio] for {symbol}; allowed: a venue with one, or "
                "load_venue(NAME).replace(portfolio={'shocks': [...], ...})"
            )
        other, same = units.setdefault(unit_of(scan, symbol), (symbol, scan))
        if same.of_unit() != scan.of_unit():
            raise InputError(
                f"venue {venue.name}: portfolio.{symbol}: its numbers differ from those of {other}; allowed in one risk unit "
                f"({unit_of(scan, symbol)}): the same shocks, extreme, extreme_weight, basis, minimum_caps and minimum_multipliers"
            )
        found.append(scan)
    return found


def reading_move(move: float, inverse: bool) -> float:
    """A move of the price, as one of what kernels see of it."""
    return 1.0 / (1.0 + move) - 1.0 if inverse else move


def unit_numbers(units: Sequence[RiskUnit]) -> Floats:
    """Extreme moves, their weight, basis, and shocks up and down; a row a risk unit."""
    shocks = [
        [reading_move(sign * move, one.inverse) for move in one.terms.shocks for sign in (1.0, -1.0)]
        for one in units
    ]
    width = SHOCKS + max((len(row) for row in shocks), default=1)
    made = np.zeros((max(len(units), 1), width))
    for row, one, moves in zip(made, units, shocks, strict=False):
        up, down = (reading_move(sign * one.terms.extreme, one.inverse) for sign in (1.0, -1.0))
        row[:SHOCKS] = up, down, one.terms.extreme_weight, one.terms.basis
        row[SHOCKS : SHOCKS + len(moves)] = moves
    return made


def unit_multipliers(of_unit: Sequence[PortfolioTerms]) -> Floats:
    """Tiers of the minimum charge: upper end and multiplier; a row a risk unit, what is beyond the last tier infinite."""
    most = max((len(one.minimum_multipliers) for one in of_unit), default=1)
    made = np.full((max(len(of_unit), 1), most, 2), np.inf)
    for row, one in zip(made, of_unit, strict=False):
        row[: len(one.minimum_caps), 0] = one.minimum_caps
        row[: len(one.minimum_multipliers), 1] = one.minimum_multipliers
        row[len(one.minimum_multipliers) :, 1] = 0.0
    return made
