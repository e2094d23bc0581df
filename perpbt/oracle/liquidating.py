"""Liquidation in steps (§6, options): how venues reduce a position before, or instead of, closing the whole of it.

`venue["liquidation"]` names the procedure and its numbers; without it a liquidation closes the whole position at once. A part that is
closed takes its share of margin, PnL and funding with it, pays its own fee, liquidation fee and impact, and what is left of its share
stays with the position: m' = m (1 - g) + left of the part, Q' = Q (1 - g), same entry and CF_e. Only the last step, which closes all,
brings surplus or deficit; a part that would fill beyond the bankruptcy price is not closed: the whole goes instead.

Two marks: M, at which the liquidation is met (mark open; in the range the liquidation price), and W, the worst of the phase (mark
open; in the range its adverse extreme), for which whatever is sized by a shortage is sized. With ticks it is sized for a tick beyond W,
or what is left would still be liquidated at W. With lots what is kept is whole lots, rounded down; with less than one, the whole goes.

How a contract counts (`Counting`) is the position's own: marks, bases and fills of an inverse one are readings 1/P, its money is coin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from .shapes import Bars, Leaving, Record, Values
from .steps import whole_lots

SAFE = 1.0 + 1e-9  # of a requirement that has to be met and not only touched, whatever rounding does
LOWER = 1.0 - 2.0**-50  # of a quantity that must not be above a tier's cap, whatever rounding does
ROUNDS = 64  # of sizing a part by the impact it has itself
HALVINGS = 80
Step: TypeAlias = tuple[float, float, Record]  # how much to close, how much to keep, on what terms
ONE_A_BAR = ("portion", "cure")


class Counting(NamedTuple):
    """How a contract counts: the functions of `margin` and `position`, or those of `readings` and `inverse`."""

    read: Callable[[float], float]  # a price of a bar
    gains: int  # +1: a long gains as what is read rises; -1: as it falls
    equity: Callable[[Record, float, float], float]  # position, mark, CF
    required: Callable[[Record, float, Record], float]  # position, mark, venue
    margin_ratio: Callable[[Record, float, float, Record], float]
    liquidation: Callable[
        [Record, float, Record, float, float], float
    ]  # position, CF, venue, two ends of the mark's range
    moved: Callable[[float, float], float]  # what is read of a price higher by a share
    turnover: Callable[[Record], float]  # of a bar, in settlement currency; 0 where it is not known
    slippage_of: Callable[[str, Record, float, Record], float]
    waterfall: Callable[[Record, float, float, float, float, str, float, Record], dict[str, float]]
    # position, margin, quantity, CF, fill, reason, fee, venue


def by_procedure(
    p: Record, find: Callable[[], Leaving | None], phase: str, i: int, bars: Bars, cf: Values, venue: Record
) -> Leaving | None:  # fmt: skip
    """What `find` finds; a liquidation closes all, unless the venue goes by steps (§6, options)."""
    found = find()
    if venue.get("liquidation") is None:
        return found
    return in_steps(p, find, found, phase, i, bars, cf, venue)


def next_slice(p: Record, i: int, bars: Bars, cf: Values, venue: Record) -> Leaving | None:
    """The next slice of an orderly exit."""
    p["ratio_at_open"] = 0.0  # no longer the trader's
    opened = p["counting"].read(bars[i]["open"])
    at = at_open(p, i, bars[i], cf[i])
    return ("liquidation", opened, False) if liquidate(p, opened, at, bars, venue) else None


def in_steps(
    p: Record, find: Callable[[], Leaving | None], found: Leaving | None, phase: str, i: int, bars: Bars, cf: Values, venue: Record
) -> Leaving | None:  # fmt: skip
    """What becomes of `found` (why the position leaves, and so on) when liquidations go by steps; None: it lives on.

    `find` looks again, with what is left.
    """
    bar, worst = bars[i], "mark_low" if p["side"] > 0 else "mark_high"
    while found is not None and found[0] == "liquidation":
        at = at_open(p, i, bar, cf[i])
        if phase == "C":
            read = p["counting"].read
            low, high = sorted((read(bar["mark_low"]), read(bar["mark_high"])))
            met = p["counting"].liquidation(p, cf[i], venue, low, high)
            at |= {"phase": "C", "M": met, "W": read(bar[worst]), "highest": high}
            p["worst_ratio"] = max(p["worst_ratio"], 1.0)
        if i > p["entry_bar"]:
            p["worst_ratio"] = max(p["worst_ratio"], p["ratio_at_open"])
        if liquidate(p, found[1], at, bars, venue):
            return found
        if p["schedule"]:
            return None
        found = find()
    return found


def at_open(p: Record, i: int, bar: Record, cf: float) -> Record:
    """Where a liquidation at the open is met."""
    mark = p["counting"].read(bar["mark_open"])
    return {"bar": i, "phase": "B", "cf": cf, "M": mark, "W": mark, "highest": mark}


def liquidate(p: Record, base: float, at: Record, bars: Bars, venue: Record) -> bool:
    """One step. True: the whole position goes, as `p["final"]` says."""
    rule = venue["liquidation"]
    steps = sum(part["action"] == "reduced" for part in p["margin_orders"])
    wanted = SIZES[rule["procedure"]](p, base, at, bars, venue)
    if wanted is None:  # no order, or none that fills: not again in this bar
        p["spared"] = True
        return False
    sold, kept, terms = in_lots(p, *wanted, base, venue)
    if not sold > 0:
        p["spared"] = True
        return False
    if kept > 0:
        if steps + 1 < rule["most_steps"] and close_part(p, sold, kept, terms, at, bars, venue):
            p["spared"] = rule["procedure"] in ONE_A_BAR
            return False
        terms = terms if terms["slippage"] is not None else last(base, venue)
    p["final"], p["schedule"] = terms, []
    p["last_step"] = {
        "bar": at["bar"], "phase": at["phase"], "action": terms["action"], "sold": p["quantity"], "step": steps + 1,
        "ratio": p["counting"].margin_ratio(p, at["M"], at["cf"], venue), "margin": 0.0, "quantity": 0.0,
    }  # fmt: skip
    return True


def in_lots(
    p: Record, sold: float, kept: float, terms: Record, base: float, venue: Record
) -> tuple[float, float, Record]:
    """What is kept in whole lots, at least one less than there is."""
    if not venue.get("lot") or not (kept > 0 and sold > 0):
        return sold, kept, terms
    units, per = venue["lot"]
    lots = whole_lots(kept, venue)
    if not lots < p["quantity"]:
        lots = whole_lots(p["quantity"] - units / per, venue)
    if lots > 0:
        return p["quantity"] - lots, lots, terms
    return p["quantity"], 0.0, terms if terms["slippage"] is not None else last(base, venue)


def market(base: float, venue: Record) -> Record:
    """Closed on the market: the venue's fees and its share of the surplus."""
    return {
        "base": base, "slippage": None, "fee": venue["taker_fee"], "penalty": venue["liquidation_fee"],
        "share": venue["surplus_to_fund"], "action": "liquidated",
    }  # fmt: skip


def takeover(base: float) -> Record:
    """Handed over at the bankruptcy price to the fund, which sells at once: no fee, and all that the sale brings or lacks is its own."""
    return {"base": base, "slippage": None, "fee": 0.0, "penalty": 0.0, "share": 1.0, "action": "taken_over"}


def last(base: float, venue: Record) -> Record:
    """How the last step closes."""
    return takeover(base) if venue["liquidation"]["close"] == "takeover" else market(base, venue)


def fill_of(p: Record, quantity: float, terms: Record, bar: Record, venue: Record) -> float:
    """The fill of so much: base worsened by the impact of its own volume, or by what the terms say."""
    slip = terms["slippage"]
    if slip is None:
        slip = p["counting"].slippage_of("liquidation", bar, quantity * terms["base"], venue)
    fill: float = p["counting"].moved(terms["base"], -(p["side"] * slip))
    return fill


def shared(
    p: Record, margin: float, quantity: float, fill: float, terms: Record, cf: float, venue: Record
) -> Record:
    """§6: the waterfall of what is closed, by these terms."""
    by_terms = {**venue, "liquidation_fee": terms["penalty"], "surplus_to_fund": terms["share"]}
    found: Record = p["counting"].waterfall(
        p, margin, quantity, cf, fill, "liquidation", terms["fee"], by_terms
    )
    return found


def close_part(
    p: Record, sold: float, kept: float, terms: Record, at: Record, bars: Bars, venue: Record
) -> bool:
    """Close `sold` and keep `kept`; False, and nothing is done, if that would fill beyond the bankruptcy price.

    In an orderly exit the fund holds the position already, and whatever is lost is lost by it at the end.
    """
    i, cf = at["bar"], at["cf"]
    fill = fill_of(p, sold, terms, bars[i], venue)
    own = p["margin"] * (sold / p["quantity"])
    part = shared(p, own, sold, fill, terms, cf, venue)
    left = (part["surplus"] + part["back"]) - part["deficit"]
    if not left > 0 and not p["schedule"]:
        return False
    ratio = p["counting"].margin_ratio(p, at["M"], cf, venue)
    p["margin"], p["quantity"] = (p["margin"] - own) + left, kept
    p["margin_orders"].append(
        {
            **part, "surplus": 0.0, "deficit": 0.0, "back": 0.0, "bar": i, "phase": at["phase"], "action": "reduced",
            "sold": sold, "price": fill, "ratio": ratio, "margin": p["margin"], "quantity": kept,
            "step": sum(one["action"] == "reduced" for one in p["margin_orders"]) + 1,
        }
    )  # fmt: skip
    return True


def final(p: Record, bar: Record, cf: float, venue: Record) -> tuple[float, float, Record]:
    """Base, fill and waterfall of the step that closes all."""
    terms = p["final"]
    fill = fill_of(p, p["quantity"], terms, bar, venue)
    money = shared(p, p["margin"], p["quantity"], fill, terms, cf, venue)
    p["last_step"] |= {**money, "price": fill}
    return terms["base"], fill, money


# ------------------------------------------------------------------------------------------- the procedures
def whole(p: Record, base: float, at: Record, bars: Bars, venue: Record) -> Step:
    """All at once; here for the sake of takeover."""
    return p["quantity"], 0.0, last(base, venue)


def reduce_then_takeover(p: Record, base: float, at: Record, bars: Bars, venue: Record) -> Step:
    """Binance: one reducing order in a bar, a fraction or as much as puts the rest above maintenance at W; then the rest."""
    rule, quantity = venue["liquidation"], p["quantity"]
    if p["reduced_at"] == at["bar"]:
        return quantity, 0.0, last(base, venue)
    p["reduced_at"] = at["bar"]
    fraction = rule["fraction"]
    if fraction > 0:
        return quantity * fraction, quantity * (1 - fraction), market(base, venue)
    sold = enough(p, market(base, venue), at, bars, venue)
    if sold < quantity:
        return sold, quantity - sold, market(base, venue)
    return quantity, 0.0, last(base, venue)


def enough(p: Record, terms: Record, at: Record, bars: Bars, venue: Record) -> float:
    """The smallest quantity that, sold with the impact it has itself, leaves the rest above maintenance at W: from below, round by round."""
    sold = 0.0
    for _ in range(ROUNDS):
        fill = fill_of(p, sold, terms, bars[at["bar"]], venue)
        sold = size_to_cover(p, fill, (terms["fee"] + terms["penalty"]) * fill, 1.0, at, venue)
        if not sold < p["quantity"]:
            break
    return sold


def size_to_cover(p: Record, fill: float, cost: float, share: float, at: Record, venue: Record) -> float:
    """Quantity that makes up for `share` of the shortage at W at `cost` per unit; infinite if none does.

    With risk-limit steps at M too: on the way to W the position may fall into a band that asks for less.
    """
    size = size_at(p, at["W"], fill, cost, share, at, venue)
    if venue.get("rule") == "whole" and venue["maintenance_on"] == "mark":
        size = max(size, size_at(p, at["M"], fill, cost, share, at, venue))
    return size


def size_at(
    p: Record, mark: float, fill: float, cost: float, share: float, at: Record, venue: Record
) -> float:
    """`size_to_cover` at one mark, on every maintenance line.

    Where a band's rate holds for the whole position, or the rate grows with its size, what is left is asked for less: see `down_to_a_band`
    and `less_of_a_size`.
    """
    worst, gains = one_tick_beyond(p, mark, venue), p["side"] * p["counting"].gains
    if worst == math.inf:  # no price is a tick beyond
        return math.inf
    reference = p["entry"] if venue["maintenance_on"] == "entry" else worst
    have, scale = p["counting"].equity(p, worst, at["cf"]), SAFE / venue["liquidation"]["target"]
    freed, extra = gains * (fill - worst) - cost, venue["close_out_rate"] * worst
    if venue.get("rule") == "whole":
        return down_to_a_band(p["quantity"], reference, extra, have, freed, scale, share, venue["tiers"])
    if venue.get("per_unit", 0.0) > 0:
        unit = venue["tiers"][0]["rate"] * reference + extra
        growth = venue["per_unit"] * reference * (1.0 if p["counting"].gains > 0 else reference)
        return less_of_a_size(p["quantity"], unit, growth, have, freed, scale, share)
    size = 0.0
    for tier in venue["tiers"]:
        unit = tier["rate"] * reference + extra
        short = (unit * p["quantity"] - tier["deduction"]) * scale - have
        if short > 0:
            gain = (unit * scale + gains * (fill - worst)) - cost
            size = max(size, (short * share) / gain) if gain > 0 else math.inf
    return size


def down_to_a_band(
    quantity: float, reference: float, extra: float, have: float, freed: float, scale: float, share: float, tiers: list[Record]
) -> float:  # fmt: skip
    """Of risk-limit steps: the least that makes up by its own band's rate, from the band it is in downwards; `freed` is what a unit sold
    leaves.
    """
    k = next((k for k, tier in enumerate(tiers) if quantity * reference <= tier["cap"]), len(tiers) - 1)
    missing = (1 - share) * max((tiers[k]["rate"] * reference + extra) * quantity * scale - have, 0.0)
    into = 0.0
    for tier in reversed(tiers[: k + 1]):
        unit = tier["rate"] * reference + extra
        short, gain = (unit * quantity * scale - have) - missing, unit * scale + freed
        sold = into
        if short > 0:
            sold = max(into, short / gain) if gain > 0 else math.inf
        if (quantity - sold) * reference > tier["floor"] or tier["floor"] == 0:
            return sold
        into = quantity - (tier["floor"] / reference) * LOWER
    return math.inf


def less_of_a_size(
    quantity: float, unit: float, growth: float, have: float, freed: float, scale: float, share: float
) -> float:
    """Of a rate that grows with size: down to the root of scale (growth q^2 + unit q) = what the account is worth with q left."""
    missing = (1 - share) * max((unit * quantity + growth * quantity * quantity) * scale - have, 0.0)
    worth = (have + quantity * freed) + missing
    if worth <= 0:
        return math.inf
    slope, bend = unit * scale + freed, growth * scale
    return max(quantity - (2 * worth) / (slope + math.sqrt(slope * slope + (4 * bend) * worth)), 0.0)


def one_tick_beyond(p: Record, worst: float, venue: Record) -> float:
    """The price a tick worse than W; infinite where that of an inverse contract is no price."""
    if not venue.get("tick"):
        return worst
    units, per = venue["tick"]
    if p["counting"].gains > 0:
        return worst - p["side"] * (units / per)
    price = 1 / worst - p["side"] * (units / per)
    return 1 / price if price > 0 else math.inf


def ladder(p: Record, base: float, at: Record, bars: Bars, venue: Record) -> Step:
    """BitMEX, Bybit: down to the cap of the next lower tier; from the lowest ones, the whole.

    Where a tier's rate holds for the whole position, down to where it stays in the lower tier at the highest mark of the phase.
    """
    price = at["highest"] if venue.get("rule") == "whole" else at["M"]
    if venue["maintenance_on"] == "entry":
        price = p["entry"]
    tiers = venue["tiers"]
    k = 0
    while k < len(tiers) and p["quantity"] * price > tiers[k]["cap"]:
        k += 1
    if k < venue["liquidation"]["lowest_tiers"]:
        return p["quantity"], 0.0, last(base, venue)
    kept = (tiers[k - 1]["cap"] / price) * LOWER
    return p["quantity"] - kept, kept, market(base, venue)


def slice_of(p: Record, base: float, at: Record, bars: Bars, venue: Record) -> Step:
    """Hyperliquid: a fraction of a position above a notional, the whole below it or during the cool-down; far below maintenance the
    backstop takes it.
    """
    rule, quantity, time = venue["liquidation"], p["quantity"], bars[at["bar"]]["ts"]
    counting = p["counting"]
    if counting.equity(p, at["M"], at["cf"]) < rule["backstop"] * counting.required(p, at["M"], venue):
        return quantity, 0.0, takeover(base)
    if quantity * at["M"] > rule["above"] and time >= p["cool_until"]:
        p["cool_until"] = time + rule["cool_down"]
        fraction = rule["fraction"]
        return quantity * fraction, quantity * (1 - fraction), market(base, venue)
    return quantity, 0.0, last(base, venue)


def portion(p: Record, base: float, at: Record, bars: Bars, venue: Record) -> Step | None:
    """dYdX: once a bar at most a portion, at the fillable price or better; what is bankrupt is taken over."""
    rule, quantity, worst, counting = venue["liquidation"], p["quantity"], at["W"], p["counting"]
    have, need = counting.equity(p, worst, at["cf"]), counting.required(p, worst, venue)
    if have <= 0:
        return quantity, 0.0, takeover(base)
    terms = last(base, venue)
    sold, kept = quantity, 0.0
    if rule["fraction"] < 1:
        sold, kept, terms = (
            quantity * rule["fraction"],
            quantity * (1 - rule["fraction"]),
            market(base, venue),
        )
    give = min(max(rule["adjustment"] * (1 - have / need), 0.0), 1.0)
    gains = p["side"] * counting.gains
    if counting.gains > 0:
        fillable = worst - gains * ((give * rule["spread"]) * need) / quantity
    else:  # as much further in price
        fillable = counting.moved(
            worst, -(p["side"] * (((give * rule["spread"]) * need) / (quantity * worst)))
        )
    if gains * fill_of(p, sold, terms, bars[at["bar"]], venue) < gains * fillable:
        return None
    return sold, kept, terms


def cure(p: Record, base: float, at: Record, bars: Bars, venue: Record) -> Step | None:
    """Drift: a liquidator takes over at M less his fee what makes up for a growing part of the shortage at W."""
    rule, quantity, worst, i = venue["liquidation"], p["quantity"], at["W"], at["bar"]
    if not (at["phase"] == "B" and p["cured_at"] == i - 1):
        p["began"], p["freed"] = bars[i]["ts"], 0.0
    p["cured_at"] = i
    slots = (bars[i]["ts"] - p["began"]) / rule["slot_ms"]
    reward = rule["fee"]
    if slots >= rule["grace_slots"]:
        reward = min(rule["fee"] + slots * rule["fee_growth"], rule["fee_max"])
    need = p["counting"].required(p, worst, venue)
    short = need * (SAFE / rule["target"]) - p["counting"].equity(p, worst, at["cf"])
    notional = quantity * worst
    room = 0.95 * ((need / notional - reward) - short / notional)
    penalty = (
        max(min(venue["liquidation_fee"], room), 0.0) * worst
    )  # per unit, of the mark and not of the fill
    fill = p["counting"].moved(at["M"], -(p["side"] * reward))
    terms = {
        "base": at["M"], "slippage": reward, "fee": 0.0, "penalty": penalty / fill, "share": venue["surplus_to_fund"],
        "action": "liquidated",
    }  # fmt: skip
    share = 1.0
    if short >= rule["whole_below"] and short > 0:
        ripe = min(
            rule["initial"] + (slots / rule["duration_slots"] if rule["duration_slots"] > 0 else 1.0), 1.0
        )
        share = ((short + p["freed"]) * ripe - p["freed"]) / short
    if not share > 0:
        return None
    sold = size_to_cover(p, fill, penalty, share, at, venue)
    if not sold < quantity:
        return quantity, 0.0, terms
    p["freed"] = p["freed"] + short * share
    return sold, quantity - sold, terms


def optimal(p: Record, base: float, at: Record, bars: Bars, venue: Record) -> Step:
    """Slices at this moment and the next opens, of sizes fixed now by what is known of the bar before."""
    quantity = p["quantity"]
    if not p["schedule"]:
        before = bars[at["bar"] - 1] if at["bar"] > 0 else None
        slices = min(venue["liquidation"]["slices"], len(bars) - at["bar"])
        turnover = 0.0 if before is None else p["counting"].turnover(before)
        sigma = 0.0 if before is None else before["sigma"]
        p["schedule"] = planned(quantity * base, slices, turnover, sigma, venue)
    share = p["schedule"].pop(0)
    if not p["schedule"]:
        return quantity, 0.0, last(base, venue)
    return quantity * share, quantity * (1 - share), last(base, venue)


def planned(money: float, slices: int, turnover: float, sigma: float, venue: Record) -> list[float]:
    """Each slice as a share of what it finds: least cost c sum(n^1.5) plus risk aversion times variance, c = Y sigma / sqrt(T).

    Where c is not known, or 0, all at once. For the slices to be best, sqrt(n_j) = sqrt(n_j+1) + (2 A sigma^2 / 1.5 c) x_j with x_j
    what is left after slice j: from the last slice backwards, and the last one by halving.
    """
    if slices < 2 or not (turnover > 0 and sigma > 0 and venue["impact"] > 0):
        return [1.0]
    cost = (venue["impact"] * sigma) / math.sqrt(turnover)
    pull = (2 * venue["liquidation"]["risk_aversion"] * (sigma * sigma)) / (1.5 * cost)
    low, high = 0.0, money / slices
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if backwards(middle, pull, slices)[0][1] < money:
            low = middle
        else:
            high = middle
    return [sold / found for sold, found in backwards(high, pull, slices)]


def backwards(smallest: float, pull: float, slices: int) -> list[tuple[float, float]]:
    """(slice, what it finds) from the first to the last, which is `smallest`."""
    root, found = math.sqrt(smallest), smallest
    made = [(smallest, smallest)]
    for _ in range(slices - 1):
        root = root + pull * found
        sold = root * root
        found = found + sold
        made.insert(0, (sold, found))
    return made


SIZES = {
    "full": whole, "reduce_then_takeover": reduce_then_takeover, "ladder": ladder, "slice": slice_of,
    "portion": portion, "cure": cure, "optimal": optimal,
}  # fmt: skip
