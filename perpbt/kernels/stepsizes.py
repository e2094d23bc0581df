"""How much a step of a liquidation closes, and on what terms: one function a procedure (MODEL §6, options).

Two marks: `mark`, at which the liquidation is met (mark open; in the range the liquidation price), and `worst`, the worst of the phase
(mark open; in the range its adverse extreme), for which whatever is sized by a shortage is sized.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .closing import liquidation_slippage
from .compile import part
from .contracts import in_lots, moved, one_tick_beyond
from .margin import Position, equity, requirement, tier_of
from .tables import (
    CAP,
    CURE,
    DEDUCTION,
    FLOOR,
    LADDER,
    LIQUIDATED,
    OPEN,
    OPTIMAL,
    PORTION,
    RATE,
    REDUCE,
    SLICE,
    TAKEN_OVER,
    TURNOVER,
    VOLATILITY,
    Floats,
    Market,
    Procedure,
    Rates,
)

SAFE = 1.0 + 1e-9  # of a requirement that has to be met and not only touched, whatever rounding does
LOWER = (
    1.0 - 8.881784197001252e-16
)  # 2^-50: of a quantity that must not be above a tier's cap, whatever rounding does
ROUNDS = 64  # of sizing a part by the impact it has itself
HALVINGS = 80


class Moment(NamedTuple):
    """Where a liquidation is met."""

    bar: int
    phase: int
    funding: float  # CF
    mark: float
    worst: float
    highest: float  # mark of the phase
    base: float  # of a fill on the market, before slippage


class Deal(NamedTuple):
    """How a step fills and who gets what."""

    base: float
    slippage: float  # NaN: by the impact of its own volume
    fee: float  # rates
    penalty: float
    share: float  # of the surplus, to the fund
    action: int


class Spell(NamedTuple):
    """What a procedure remembers of a position."""

    steps: int
    reduced_at: int  # bar
    cool_until: int  # ms
    cured_at: int  # bar
    began: int  # ms
    freed: float
    slice: int  # the next of an orderly exit
    slices: int  # 0: none is under way


class Step(NamedTuple):
    """What is to be closed now; nothing if both are 0."""

    sold: float
    kept: float
    deal: Deal
    spell: Spell


@part
def on_market(rates: Rates, base: float) -> Deal:
    """Closed on the market: the venue's fees and its share of the surplus."""
    return Deal(base, np.nan, rates.taker_fee, rates.liquidation_fee, rates.surplus_to_fund, LIQUIDATED)


@part
def by_takeover(base: float) -> Deal:
    """Handed over at the bankruptcy price to the fund, which sells at once: no fee, and what the sale brings or lacks is its own."""
    return Deal(base, np.nan, 0.0, 0.0, 1.0, TAKEN_OVER)


@part
def at_last(rates: Rates, rule: Procedure, base: float) -> Deal:
    """How the last step closes."""
    if rule.takeover:
        return by_takeover(base)
    return on_market(rates, base)


@part
def fill_at(market: Market, rates: Rates, side: float, quantity: float, deal: Deal, i: int) -> float:
    """The fill of so much in bar i."""
    slip = deal.slippage
    if np.isnan(slip):
        slip = liquidation_slippage(
            rates, market.series[VOLATILITY, i], market.series[TURNOVER, i], quantity * deal.base
        )
    return moved(rates.terms, deal.base, -(side * slip))


@part
def with_reduction(spell: Spell, bar: int) -> Spell:
    """A reducing order is sent in this bar."""
    return Spell(
        spell.steps,
        bar,
        spell.cool_until,
        spell.cured_at,
        spell.began,
        spell.freed,
        spell.slice,
        spell.slices,
    )


@part
def down_to_a_band(
    rates: Rates, quantity: float, reference: float, extra: float, have: float, freed: float, scale: float, share: float
) -> float:  # fmt: skip
    """Of risk-limit steps: the least that makes up by its own band's rate, from the band it is in downwards; `freed` is what a unit sold
    leaves.
    """
    top = min(tier_of(rates, quantity * reference), rates.tiers.shape[0] - 1)
    asked = (rates.tiers[top, RATE] * reference + extra) * quantity * scale
    missing, into = (1.0 - share) * max(asked - have, 0.0), 0.0
    for k in range(top, -1, -1):
        unit, floor = rates.tiers[k, RATE] * reference + extra, rates.tiers[k, FLOOR]
        short, gain = (unit * quantity * scale - have) - missing, unit * scale + freed
        sold = into
        if short > 0.0:
            sold = max(into, short / gain) if gain > 0.0 else np.inf
        if (quantity - sold) * reference > floor or floor == 0.0:
            return sold
        into = quantity - (floor / reference) * LOWER
    return np.inf


@part
def less_of_a_size(
    quantity: float, unit: float, growth: float, have: float, freed: float, scale: float, share: float
) -> float:
    """Of a rate that grows with size: down to the root of scale (growth q^2 + unit q) = what the account is worth with q left."""
    missing = (1.0 - share) * max((unit * quantity + growth * quantity * quantity) * scale - have, 0.0)
    worth = (have + quantity * freed) + missing
    if worth <= 0.0:
        return np.inf
    slope, bend = unit * scale + freed, growth * scale
    return max(quantity - (2.0 * worth) / (slope + np.sqrt(slope * slope + (4.0 * bend) * worth)), 0.0)


@part
def size_to_cover(
    rates: Rates, rule: Procedure, position: Position, at: Moment, fill: float, cost: float, share: float
) -> float:
    """Quantity that makes up for `share` of the shortage at `worst` at `cost` per unit; infinite if none does.

    With risk-limit steps at `mark` too: on the way to `worst` the position may fall into a band that asks for less.
    """
    size = size_at(rates, rule, position, at.worst, at.funding, fill, cost, share)
    if rates.whole and not rates.entry_maintenance:
        size = max(size, size_at(rates, rule, position, at.mark, at.funding, fill, cost, share))
    return size


@part
def size_at(
    rates: Rates, rule: Procedure, position: Position, mark: float, funding: float, fill: float, cost: float, share: float
) -> float:  # fmt: skip
    """`size_to_cover` at one mark, on every maintenance line.

    With ticks at a tick beyond it, or what is left would be liquidated there. Where a band's rate holds for the whole position, or the
    rate grows with its size, what is left is asked for less: see `down_to_a_band` and `less_of_a_size`.
    """
    worst = one_tick_beyond(rates.terms, position.side, mark)
    if worst == np.inf:  # no price is a tick beyond
        return np.inf
    reference = position.entry if rates.entry_maintenance else worst
    scale, size, have = SAFE / rule.target, 0.0, equity(position, worst, funding)
    freed, extra = position.side * (fill - worst) - cost, rates.close_out_rate * worst
    if rates.whole:
        return down_to_a_band(rates, position.quantity, reference, extra, have, freed, scale, share)
    if rates.per_unit > 0.0:
        growth = rates.per_unit * reference * (reference if rates.terms.inverse else 1.0)
        unit = rates.tiers[0, RATE] * reference + extra
        return less_of_a_size(position.quantity, unit, growth, have, freed, scale, share)
    for k in range(rates.tiers.shape[0]):
        unit = rates.tiers[k, RATE] * reference + extra
        short = (unit * position.quantity - rates.tiers[k, DEDUCTION]) * scale - have
        if short > 0.0:
            gain = (unit * scale + position.side * (fill - worst)) - cost
            size = max(size, (short * share) / gain) if gain > 0.0 else np.inf
    return size


@part
def reducing(
    market: Market, rates: Rates, rule: Procedure, position: Position, at: Moment, spell: Spell
) -> Step:
    """Binance: one reducing order in a bar, a fraction or as much as puts the rest above maintenance at `worst`; then the rest."""
    quantity, deal = position.quantity, on_market(rates, at.base)
    if spell.reduced_at == at.bar:
        return Step(quantity, 0.0, at_last(rates, rule, at.base), spell)
    spell = with_reduction(spell, at.bar)
    if rule.fraction > 0.0:
        return Step(quantity * rule.fraction, quantity * (1.0 - rule.fraction), deal, spell)
    sold = 0.0
    for _ in range(ROUNDS):  # from below, by the impact of the round before
        fill = fill_at(market, rates, position.side, sold, deal, at.bar)
        sold = size_to_cover(rates, rule, position, at, fill, (deal.fee + deal.penalty) * fill, 1.0)
        if not sold < quantity:
            return Step(quantity, 0.0, at_last(rates, rule, at.base), spell)
    return Step(sold, quantity - sold, deal, spell)


@part
def down_the_ladder(rates: Rates, rule: Procedure, position: Position, at: Moment, spell: Spell) -> Step:
    """BitMEX, Bybit: down to the cap of the next lower tier; from the lowest ones, the whole.

    Where a tier's rate holds for the whole position, down to where it stays in the lower tier at the highest mark of the phase.
    """
    price = at.highest if rates.whole else at.mark
    if rates.entry_maintenance:
        price = position.entry
    k = tier_of(rates, position.quantity * price)
    if k < rule.lowest_tiers:
        return Step(position.quantity, 0.0, at_last(rates, rule, at.base), spell)
    kept = (rates.tiers[k - 1, CAP] / price) * LOWER
    return Step(position.quantity - kept, kept, on_market(rates, at.base), spell)


@part
def slicing(
    market: Market, rates: Rates, rule: Procedure, position: Position, at: Moment, spell: Spell
) -> Step:
    """Hyperliquid: a fraction of a position above a notional, the whole below it or during the cool-down; far below maintenance the
    backstop takes it.
    """
    quantity, time = position.quantity, market.time[at.bar]
    if equity(position, at.mark, at.funding) < rule.backstop * requirement(rates, position, at.mark):
        return Step(quantity, 0.0, by_takeover(at.base), spell)
    if quantity * at.mark > rule.above and time >= spell.cool_until:
        cooled = Spell(
            spell.steps, spell.reduced_at, time + rule.cool_down, spell.cured_at, spell.began, spell.freed,
            spell.slice, spell.slices,
        )  # fmt: skip
        return Step(
            quantity * rule.fraction, quantity * (1.0 - rule.fraction), on_market(rates, at.base), cooled
        )
    return Step(quantity, 0.0, at_last(rates, rule, at.base), spell)


@part
def portioning(
    market: Market, rates: Rates, rule: Procedure, position: Position, at: Moment, spell: Spell
) -> Step:
    """dYdX: once a bar at most a portion, at the fillable price or better; what is bankrupt is taken over."""
    quantity, side = position.quantity, position.side
    have, need = equity(position, at.worst, at.funding), requirement(rates, position, at.worst)
    if have <= 0.0:
        return Step(quantity, 0.0, by_takeover(at.base), spell)
    sold, kept, deal = quantity, 0.0, at_last(rates, rule, at.base)
    if rule.fraction < 1.0:
        sold, kept = quantity * rule.fraction, quantity * (1.0 - rule.fraction)
        deal = on_market(rates, at.base)
    give = min(max(rule.adjustment * (1.0 - have / need), 0.0), 1.0)
    fillable = at.worst - side * ((give * rule.spread) * need) / quantity
    if rates.terms.inverse:  # as much further in price
        fillable = moved(
            rates.terms, at.worst, -(side * (((give * rule.spread) * need) / (quantity * at.worst)))
        )
    if side * fill_at(market, rates, side, sold, deal, at.bar) < side * fillable:
        return Step(0.0, 0.0, deal, spell)
    return Step(sold, kept, deal, spell)


@part
def curing(
    market: Market, rates: Rates, rule: Procedure, position: Position, at: Moment, spell: Spell
) -> Step:
    """Drift: a liquidator takes over at `mark` less his fee what makes up for a growing part of the shortage at `worst`."""
    quantity, worst, time = position.quantity, at.worst, market.time[at.bar]
    began, freed = time, 0.0
    if at.phase == OPEN and spell.cured_at == at.bar - 1:
        began, freed = spell.began, spell.freed
    slots = (time - began) / rule.slot_ms
    reward = rule.fee
    if slots >= rule.grace_slots:
        reward = min(rule.fee + slots * rule.fee_growth, rule.fee_max)
    have, need = equity(position, worst, at.funding), requirement(rates, position, worst)
    short = need * (SAFE / rule.target) - have
    notional = quantity * worst
    room = 0.95 * ((need / notional - reward) - short / notional)
    penalty = max(min(rates.liquidation_fee, room), 0.0) * worst  # per unit, of the mark and not of the fill
    fill = moved(rates.terms, at.mark, -(position.side * reward))
    deal = Deal(at.mark, reward, 0.0, penalty / fill, rates.surplus_to_fund, LIQUIDATED)
    share = 1.0
    if short >= rule.whole_below and short > 0.0:
        ripe = min(rule.initial + (slots / rule.duration_slots if rule.duration_slots > 0.0 else 1.0), 1.0)
        share = ((short + freed) * ripe - freed) / short
    sold = 0.0
    if share > 0.0:
        sold = size_to_cover(rates, rule, position, at, fill, penalty, share)
        if sold < quantity:
            freed = freed + short * share
    spell = Spell(
        spell.steps, spell.reduced_at, spell.cool_until, at.bar, began, freed, spell.slice, spell.slices
    )
    if not share > 0.0:
        return Step(0.0, 0.0, deal, spell)
    if not sold < quantity:
        return Step(quantity, 0.0, deal, spell)
    return Step(sold, quantity - sold, deal, spell)


@part
def backwards(smallest: float, pull: float, schedule: Floats, slices: int) -> float:
    """Slices from the last, which is given, to the first, each as a share of what it finds; returns what the first finds."""
    root, found = np.sqrt(smallest), smallest
    schedule[slices - 1] = 1.0
    for j in range(slices - 2, -1, -1):
        root = root + pull * found
        sold = root * root
        found = found + sold
        schedule[j] = sold / found
    return found


@part
def planned(market: Market, rates: Rates, rule: Procedure, money: float, i: int, schedule: Floats) -> int:
    """Write the shares of an orderly exit that begins in bar i, by what is known of the bar before; returns how many.

    Least cost c sum(n^1.5) plus risk aversion times variance, c = Y sigma / sqrt(T): sqrt(n_j) = sqrt(n_j+1) + (2 A sigma^2 / 1.5 c) x_j
    with x_j what is left after slice j. Where c is not known, or 0, all at once.
    """
    slices = min(rule.slices, market.time.size - i)
    schedule[0] = 1.0
    if i == 0 or slices < 2:
        return 1
    volatility, turnover = market.series[VOLATILITY, i - 1], market.series[TURNOVER, i - 1]
    if not (turnover > 0.0 and volatility > 0.0 and rates.impact > 0.0):
        return 1
    cost = (rates.impact * volatility) / np.sqrt(turnover)
    pull = (2.0 * rule.risk_aversion * (volatility * volatility)) / (1.5 * cost)
    low, high = 0.0, money / slices
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if backwards(middle, pull, schedule, slices) < money:
            low = middle
        else:
            high = middle
    backwards(high, pull, schedule, slices)
    return slices


@part
def exiting(
    market: Market, rates: Rates, rule: Procedure, position: Position, at: Moment, spell: Spell, schedule: Floats
) -> Step:  # fmt: skip
    """Slices at this moment and the next opens, of sizes fixed beforehand."""
    quantity, number, slices = position.quantity, spell.slice, spell.slices
    if slices == 0:
        number, slices = 0, planned(market, rates, rule, quantity * at.base, at.bar, schedule)
    deal = at_last(rates, rule, at.base)
    spell = Spell(
        spell.steps, spell.reduced_at, spell.cool_until, spell.cured_at, spell.began, spell.freed,
        number + 1, slices,
    )  # fmt: skip
    if number + 1 == slices:
        return Step(quantity, 0.0, deal, spell)
    return Step(quantity * schedule[number], quantity * (1.0 - schedule[number]), deal, spell)


@part
def in_whole_lots(rates: Rates, rule: Procedure, position: Position, base: float, step: Step) -> Step:
    """What is kept in whole lots, at least one less than there is."""
    if rates.terms.lot_per == 0.0 or not (step.kept > 0.0 and step.sold > 0.0):
        return step
    kept = in_lots(rates.terms, step.kept)
    if not kept < position.quantity:
        kept = in_lots(rates.terms, position.quantity - rates.terms.lot_units / rates.terms.lot_per)
    if kept > 0.0:
        return Step(position.quantity - kept, kept, step.deal, step.spell)
    deal = at_last(rates, rule, base) if np.isnan(step.deal.slippage) else step.deal
    return Step(position.quantity, 0.0, deal, step.spell)


@part
def next_step(
    market: Market, rates: Rates, rule: Procedure, position: Position, at: Moment, spell: Spell, schedule: Floats
) -> Step:  # fmt: skip
    """What the procedure closes now."""
    wanted = step_wanted(market, rates, rule, position, at, spell, schedule)
    return in_whole_lots(rates, rule, position, at.base, wanted)


@part
def step_wanted(
    market: Market, rates: Rates, rule: Procedure, position: Position, at: Moment, spell: Spell, schedule: Floats
) -> Step:  # fmt: skip
    """What the procedure would close now, lots apart."""
    if rule.kind == REDUCE:
        return reducing(market, rates, rule, position, at, spell)
    if rule.kind == LADDER:
        return down_the_ladder(rates, rule, position, at, spell)
    if rule.kind == SLICE:
        return slicing(market, rates, rule, position, at, spell)
    if rule.kind == PORTION:
        return portioning(market, rates, rule, position, at, spell)
    if rule.kind == CURE:
        return curing(market, rates, rule, position, at, spell)
    if rule.kind == OPTIMAL:
        return exiting(market, rates, rule, position, at, spell, schedule)
    return Step(position.quantity, 0.0, at_last(rates, rule, at.base), spell)
