"""Prices of liquidation and bankruptcy against their definitions, for every contract, rule and side.

The definition is evaluated at the price found and to both sides of it; nothing of the solving is repeated.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perpbt.contracts import (
    Band,
    Contract,
    Maintenance,
    Position,
    bankruptcy_price,
    is_liquidated,
    liquidation_price,
)
from perpbt.errors import InputError
from perpbt.explaining.cross import (
    Held,
    before_liquidation,
    cross_bankruptcy_price,
    cross_equity,
    cross_liquidation_price,
    cross_margin_ratio,
    cross_required,
    hedged_liquidation_prices,
    margin_left,
)

MADE = settings(max_examples=int(os.environ.get("PERPBT_EXAMPLES", "200")), deadline=None)
KINDS = ("linear", "inverse", "quanto")
SIDES = ("long", "short")
FAR = 1e9  # of the entry price: as good as "every price"
kinds, sides = st.sampled_from(KINDS), st.sampled_from(SIDES)


def spread(low: float, high: float) -> st.SearchStrategy[float]:
    """Floats spread evenly over orders of magnitude."""
    return st.floats(math.log(low), math.log(high)).map(math.exp)


@st.composite
def positions(draw: st.DrawFn, kind: str | None = None) -> Position:
    """Any leverage from 1/3 to 200, either side, some with funding paid or received."""
    contract = Contract(kind or draw(kinds), draw(spread(1e-3, 1e2)))
    entry, value = draw(spread(1e-3, 1e5)), draw(spread(1.0, 1e5))
    quantity = contract.quantity_of(value, entry)
    margin = contract.value(quantity, entry) / draw(spread(1 / 3, 200.0))
    paid = draw(st.sampled_from((0.0, 0.2, -0.2))) * margin
    return Position(draw(sides), entry, quantity, margin, contract, paid)


@st.composite
def rising(draw: st.DrawFn) -> list[tuple[float, float, float]]:
    """Rows of a table around the values that `positions` makes: caps and rates rise."""
    count = draw(st.integers(1, 5))
    caps = sorted(draw(st.lists(spread(0.5, 1e6), min_size=count, max_size=count, unique=True)))
    rates = sorted(draw(st.lists(st.floats(0.001, 0.4), min_size=count, max_size=count)))
    return list(zip([0.0, *caps[:-1]], caps, rates, strict=True))


RULES: dict[str, st.SearchStrategy[Maintenance]] = {
    "flat": st.floats(0.0, 0.5).map(Maintenance.flat),
    "brackets": rising().map(Maintenance.brackets),
    "growing": st.builds(Maintenance.growing, st.floats(0.001, 0.1), spread(1e-12, 1e-9)),
    "growing fast": st.builds(Maintenance.growing, st.floats(0.001, 0.1), spread(1e-9, 1e-6)),
    "risk limits": rising().map(lambda rows: Maintenance(tuple(Band(*row) for row in rows), stepped=True)),
}


@st.composite
def rules(draw: st.DrawFn, name: str) -> Maintenance:
    """A rule of a family, with the extras that venues add."""
    return replace(
        draw(RULES[name]),
        on=draw(st.sampled_from(("mark", "entry"))),
        close_out_rate=draw(st.sampled_from((0.0, 0.0006, 0.01))),
        fee_to_close=draw(st.sampled_from((0.0, 0.00075))),
    )


def worse(position: Position, price: float, by: float) -> float:
    """A price that share further in the direction of loss; nearer where `by` is below 0."""
    return price * (1.0 - by if position.side == "long" else 1.0 + by)


def scale(position: Position, price: float) -> float:
    """The money that the equation at a price is made of, to which rounding is relative."""
    return position.value(price) + position.value(position.entry_price) + abs(position.margin)


@pytest.mark.parametrize("family", RULES)
@MADE
@given(st.data())
def test_equity_meets_what_must_be_kept_at_the_liquidation_price(family: str, data: st.DataObject) -> None:
    position, rule = data.draw(positions()), data.draw(rules(family))
    assume(rule.per_size * position.contract.size(position.quantity, position.entry_price) < 0.8)
    found = liquidation_price(position, rule)
    if found.price is None:
        everywhere = "every price" in found.reason
        tried = [worse(position, position.entry_price, by) for by in (0.0, 0.5, 0.999, FAR)]
        if position.contract.kind != "inverse" or not rule.per_size:  # the other side: see liquidation_price
            tried += [worse(position, position.entry_price, by) for by in (-0.5, -0.999, -FAR)]
        assert {is_liquidated(position, rule, price) for price in tried if price > 0.0} == {everywhere}
        return
    assert found.price > 0.0
    gap = position.equity(found.price) - rule.required(position, found.price)
    if found.reason:
        assert "rate rises" in found.reason
        assert gap >= 0.0
    else:
        assert abs(gap) <= 1e-9 * scale(position, found.price)
    if position.value(found.price) > 1e-6 * scale(position, found.price):  # else it drowns in rounding
        assert not is_liquidated(position, rule, worse(position, found.price, -1e-7))
        assert is_liquidated(position, rule, worse(position, found.price, 1e-7))


@MADE
@given(positions(), rules("risk limits"))
def test_the_first_price_that_liquidates_is_found_by_walking(position: Position, rule: Maintenance) -> None:
    """Risk limits: every price between entry and the one found is safe, or, from inside, liquidated."""
    found = liquidation_price(position, rule)
    here = is_liquidated(position, rule, position.entry_price)
    end = found.price if found.price is not None else worse(position, position.entry_price, 0.999)
    for step in range(1, 200):
        price = position.entry_price + (end - position.entry_price) * (step / 200)
        if abs(price / end - 1.0) > 1e-9:
            assert is_liquidated(position, rule, price) == here


@MADE
@given(positions(), st.sampled_from((0.0, 0.00075)))
def test_nothing_is_left_at_the_bankruptcy_price(position: Position, fee: float) -> None:
    found = bankruptcy_price(position, fee)
    if found.price is None:
        outlasts = position.equity(worse(position, position.entry_price, 1 - 1 / FAR)) > 0.0
        assert outlasts == ("stays above zero" in found.reason)
        return
    left = position.equity(found.price) - fee * position.value(found.price)
    assert abs(left) <= 1e-9 * scale(position, found.price)
    if position.value(found.price) > 1e-6 * scale(position, found.price):
        before, after = worse(position, found.price, -1e-7), worse(position, found.price, 1e-7)
        assert position.equity(before) > fee * position.value(before)
        assert position.equity(after) < fee * position.value(after)


@MADE
@given(positions(), st.data())
def test_bankruptcy_lies_beyond_liquidation(position: Position, data: st.DataObject) -> None:
    rule = data.draw(rules("brackets"))
    liquidation, bankruptcy = liquidation_price(position, rule).price, bankruptcy_price(position).price
    if liquidation is not None and bankruptcy is not None:
        loss = liquidation - bankruptcy if position.side == "long" else bankruptcy - liquidation
        assert loss >= -1e-12 * bankruptcy


# ---------------------------------------------------------------- the formulas that venues print, one by one
@MADE
@given(positions("linear"), st.floats(0.001, 0.2), st.floats(0.0, 0.01))
def test_published_linear_formulas(position: Position, rate: float, fee: float) -> None:
    long = position.side == "long"
    s, size = 1.0 if long else -1.0, position.quantity * position.contract.multiplier
    entry, money = position.entry_price, position.margin - position.funding_paid
    deduction = 0.1 * money
    rule = Maintenance((Band(0.0, math.inf, rate, deduction),))
    initial, mark = entry * size, 1.1 * entry
    left = position.equity(mark) - (rate * size * mark - deduction)
    formulas = {
        "Binance": (rule, (money + deduction - s * size * entry) / (size * rate - s * size)),
        "Bybit": (replace(rule, on="entry"), entry - s * (money - (initial * rate - deduction)) / size),
        "Gate, OKX": (
            replace(Maintenance.flat(rate), close_out_rate=fee),
            (entry - s * money / size) / (1 - s * (rate + fee)),
        ),
        "Phemex": (
            replace(rule, close_out_rate=fee),
            (initial - s * (money + deduction)) / (1 - s * (fee + rate)) / size,
        ),
        "Hyperliquid": (rule, mark - s * left / size / (1 - rate * s)),
    }
    for name, (one, expected) in formulas.items():
        found = liquidation_price(position, one).price
        assert (found or 0.0) == pytest.approx(max(expected, 0.0), rel=1e-9, abs=1e-9 * entry), name


@MADE
@given(positions("inverse"), st.floats(0.001, 0.2), st.floats(0.0, 0.01))
def test_published_inverse_formulas(position: Position, rate: float, fee: float) -> None:
    s = 1.0 if position.side == "long" else -1.0
    face, entry = position.contract.multiplier, position.entry_price
    money, number = position.margin - position.funding_paid, position.quantity
    size, deduction = number * face, 0.1 * money
    rule = Maintenance((Band(0.0, math.inf, rate, deduction),))
    kept = size / entry * rate - deduction
    # As the venues print them, a fraction: the sign of what stands below says whether there is a price.
    formulas = {
        "Binance": (rule, number * (rate + s), (money + deduction) / face + s * number / entry),
        "Bybit": (replace(rule, on="entry"), size, size / entry + s * (money - kept)),
        "Gate": (
            replace(Maintenance.flat(rate), close_out_rate=fee),
            size * entry * (1 + s * (rate + fee)),
            size + s * money * entry,
        ),
        "OKX": (Maintenance.flat(rate), 1 + s * rate, 1 / entry + s * money / (face * number)),
    }
    for name, (one, above, below) in formulas.items():
        found = liquidation_price(position, one).price
        if (
            above * below > 0.0 and above / below < FAR * entry
        ):  # the smaller what is below, the less is known
            assert found == pytest.approx(above / below, rel=1e-9 + 1e-14 * above / below / entry), name
        else:
            assert found is None or found > 0.9 * FAR * entry, name


# ------------------------------------------------------------------------------------- contracts and rules
def test_three_contracts_of_the_same_size_part_in_their_profit() -> None:
    """1,000 of notional at 100, price to 110: 10 % in quote, 1/11 in coin, a fixed coin a point in quanto."""
    assert Contract("linear", 0.01).pnl("long", 1_000.0, 100.0, 110.0) == pytest.approx(100.0)
    assert Contract("inverse").pnl("long", 1_000.0, 100.0, 110.0) == pytest.approx(10.0 / 11.0)
    assert Contract("quanto", 1e-6).pnl("short", 1_000.0, 100.0, 110.0) == pytest.approx(-0.01)


@MADE
@given(positions(), spread(0.5, 2.0))
def test_profits_of_both_sides_cancel_and_follow_the_value(position: Position, move: float) -> None:
    contract, price = position.contract, position.entry_price * move
    other = "short" if position.side == "long" else "long"
    asked = (position.quantity, position.entry_price, price)
    assert contract.pnl(position.side, *asked) == -contract.pnl(other, *asked)
    gain = position.value(price) - position.value(position.entry_price)
    assert position.direction * gain == pytest.approx(position.pnl(price), abs=1e-12 * position.value(price))
    value = position.value(price)
    assert contract.quantity_of(value, price) == pytest.approx(position.quantity, rel=1e-12)


def test_ticks_and_lots_round_against_the_holder_without_dust() -> None:
    contract = Contract(tick=0.1, lot=0.001)
    assert contract.round_threshold("long", 0.21) == 0.3
    assert contract.round_threshold("short", 0.39) == 0.3
    assert contract.round_threshold("long", 0.1 + 0.2) == 0.3
    assert contract.round_quantity(0.0029999999999999) == 0.003
    assert contract.round_quantity(0.0029) == 0.002
    assert Contract().round_threshold("long", 0.123) == 0.123
    assert Contract().round_quantity(0.123) == 0.123


def test_risk_limits_add_a_rate_a_step() -> None:
    """BitMEX, XBTUSD: 0.4 % up to 200 XBT, as much again for each further 100; on the whole position."""
    rule = Maintenance.risk_limits(200.0, 100.0, 0.004, 0.004, steps=8)
    assert rule.bands[:3] == (Band(0, 200, 0.004), Band(200, 300, 0.008), Band(300, 400, 0.012))
    contract = Contract("inverse")
    small, large = (
        Position("long", 10_000.0, contracts, 1.0, contract) for contracts in (2_000_000.0, 2_000_001.0)
    )
    assert rule.margin(small, 10_000.0) == 0.8
    assert rule.margin(large, 10_000.0) == pytest.approx(1.6000008)


def test_a_rate_that_outgrows_the_position_is_never_met() -> None:
    """An inverse short worth 1 coin with margin 0.1: at a rate of 100 % and more no fall of its value helps."""
    position = Position("short", 100.0, 100.0, 0.1, Contract("inverse"))
    rule = Maintenance.growing(0.5, 1.0)
    found = liquidation_price(position, rule)
    assert found.price is None
    assert "at every price" in found.reason
    assert all(is_liquidated(position, rule, 100.0 * share) for share in (1e-3, 0.5, 1.0, 1.05, 2.0, 1e3))


def test_a_jump_of_the_rate_can_liquidate() -> None:
    """A short at 100 with margin 10: safe at the cap of 105 under 1 %, not beyond under 10 %."""
    rule = Maintenance((Band(0, 105, 0.01), Band(105, 1_000, 0.1)), stepped=True)
    found = liquidation_price(Position("short", 100.0, 1.0, 10.0), rule)
    assert found.price == 105.0
    assert "0.1" in found.reason
    long = Position("long", 110.0, 1.0, 9.0)
    assert liquidation_price(long, rule).price == pytest.approx(101.0 / 0.9)  # liquidated at its own entry
    assert liquidation_price(long, rule, mark=104.0).price == pytest.approx(101.0 / 0.99)  # safe again here


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Contract("spot"), "contract = 'spot': must be one of linear, inverse, quanto"),
        (lambda: Contract(multiplier=0.0), "multiplier = 0.0: must be in (0, inf)"),
        (lambda: Contract(tick=math.nan), "tick = nan"),
        (lambda: Position("buy", 1.0, 1.0, 1.0), "side = 'buy': must be one of long, short"),
        (lambda: Position("long", -1.0, 1.0, 1.0), "entry_price = -1.0: must be in (0, inf)"),
        (lambda: Position("long", 1.0, 1.0, math.inf), "margin = inf: must be finite"),
        (lambda: Maintenance(()), "must begin with a floor of 0"),
        (lambda: Maintenance.flat(1.0), "bands[0].rate = 1.0: must be in [0, 1)"),
        (lambda: replace(Maintenance.flat(0.5), close_out_rate=0.5), "bands[0].rate = 0.5: must be in [0, 0.5)"),
        (lambda: replace(Maintenance.flat(0.5), on="last"), "maintenance_on = 'last'"),
        (lambda: replace(Maintenance.flat(0.5), fee_to_close=1.0), "fee_to_close = 1.0: must be in [0, 1)"),
        (lambda: Maintenance.brackets([(0, 0, 0.1)]), "bands[0].cap = 0: must be above its floor 0"),
        (lambda: Maintenance.brackets([(0, 1, 0.1), (2, 3, 0.1)]), "bands[1].floor = 2: must be 1"),
        (lambda: Maintenance.brackets([(0, 1, 0.1), (1, 3, 0.05)]), "bands[1].rate = 0.05: must be at least 0.1"),
        (lambda: replace(Maintenance.brackets([(0, 1, 0.1), (1, 3, 0.2)]), per_size=1.0), "per_size = 1.0"),
        (lambda: Maintenance.growing(0.1, 1.0).lines(Position("long", 1.0, 1.0, 1.0)), "rate at this size = 1.1"),
        (lambda: Contract().initial_margin(1.0, 1.0, 0.0), "leverage = 0.0"),
        (lambda: before_liquidation(1.0, 2.0, 1.5), "share = 1.5: must be in [0, 1]"),
        (lambda: cross_margin_ratio(1.0, 0.0, 0.0, 0.0), "value = 0.0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(make: Any, told: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert told in str(caught.value)


# -------------------------------------------------------------------------------------------------- cross
@st.composite
def wallets(draw: st.DrawFn) -> tuple[float, list[Held]]:
    """Up to four positions of one kind of contract, marks up to 20 % from entry."""
    kind = draw(kinds)
    held = [
        Held(replace(one, margin=0.0), draw(RULES["brackets"]), one.entry_price * draw(st.floats(0.8, 1.2)))
        for one in draw(st.lists(positions(kind), min_size=1, max_size=4))
    ]
    return draw(spread(1.0, 1e6)), held


def moved(held: list[Held], index: int, price: float) -> list[Held]:
    return [one._replace(mark=price) if place == index else one for place, one in enumerate(held)]


@MADE
@given(wallets(), st.data())
def test_the_account_meets_its_requirement_where_one_price_takes_it(
    account: tuple[float, list[Held]], data: st.DataObject
) -> None:
    wallet, held = account
    index = data.draw(st.integers(0, len(held) - 1))
    price = cross_liquidation_price(wallet, held, index).price
    if price is not None:
        there = moved(held, index, price)
        money = wallet + sum(scale(one.position, one.mark) for one in there)
        assert abs(cross_equity(wallet, there) - cross_required(there)) <= 1e-9 * money
    others = held[:index] + held[index + 1 :]
    alone = replace(held[index].position, margin=margin_left(wallet, others))
    assert liquidation_price(alone, held[index].maintenance).price == price


@MADE
@given(positions(), positions(), RULES["brackets"], spread(0.05, 5.0), spread(0.3, 3.0))
def test_hedged_legs_are_safe_exactly_between_their_two_prices(
    first: Position, second: Position, rule: Maintenance, backing: float, ratio: float
) -> None:
    contract, entry = first.contract, first.entry_price
    other = "short" if first.side == "long" else "long"
    second = replace(
        second, contract=contract, side=other, entry_price=entry, quantity=first.quantity * ratio
    )
    legs = [Held(replace(one, margin=0.0, funding_paid=0.0), rule, entry) for one in (first, second)]
    wallet = backing * first.value(entry)
    below, above = hedged_liquidation_prices(wallet, legs)
    ends = [0.0 if below.price is None else below.price, math.inf if above.price is None else above.price]
    nowhere = "every price" in below.reason
    tried = [entry * share for share in (1e-6, 0.1, 0.9, 1.0, 1.1, 10.0, 1e6)]
    tried += [price * (1 + by) for price in ends if 0.0 < price < math.inf for by in (-1e-6, 1e-6)]
    for price in tried:
        at = [one._replace(mark=price) for one in legs]
        safe = cross_equity(wallet, at) > cross_required(at)
        assert safe == (not nowhere and ends[0] < price < ends[1])


@MADE
@given(wallets())
def test_one_leg_is_hedged_by_nothing(account: tuple[float, list[Held]]) -> None:
    wallet, held = account
    expected = cross_liquidation_price(wallet, held, 0)
    below, above = hedged_liquidation_prices(wallet, held[:1], held[1:])
    own = below if held[0].position.side == "long" else above
    shares = [one.price / held[0].position.entry_price for one in (own, expected) if one.price is not None]
    if expected.price is not None and 1e-3 < shares[-1] < 1e3:
        assert own.price == pytest.approx(expected.price, rel=1e-9)
    else:  # next to 0 or to infinity rounding decides whether there is a price
        assert all(share <= 2e-3 or share >= 5e2 for share in shares)


@MADE
@given(wallets())
def test_closing_everything_at_its_bankruptcy_price_leaves_nothing(
    account: tuple[float, list[Held]],
) -> None:
    wallet, held = account
    if held[0].position.contract.kind != "linear":
        with pytest.raises(InputError, match="must be linear"):
            cross_bankruptcy_price(wallet, held, 0)
        return
    prices = [cross_bankruptcy_price(wallet, held, index) for index in range(len(held))]
    gone = [one._replace(mark=price) for one, price in zip(held, prices, strict=True)]
    money = abs(wallet) + sum(scale(one.position, abs(one.mark)) for one in [*held, *gone])
    assert abs(cross_equity(wallet, gone)) <= 1e-9 * money


def test_legs_that_share_a_price_share_a_contract_and_a_schedule() -> None:
    rule = Maintenance.flat(0.01)
    one = Held(Position("long", 100.0, 1.0, 0.0), rule, 100.0)
    for leg, told in [
        (Held(Position("short", 100.0, 1.0, 0.0, Contract("inverse")), rule, 100.0), "as the first leg"),
        (one._replace(maintenance=Maintenance(rule.bands, stepped=True)), "straight lines"),
        (one._replace(maintenance=replace(rule, fee_to_close=0.01)), "fee_to_close = 0.01: must be 0"),
    ]:
        with pytest.raises(InputError, match=told):
            hedged_liquidation_prices(10.0, [one, leg])
    with pytest.raises(InputError, match=r"index = 2: must be in \[0, 0\]"):
        cross_liquidation_price(10.0, [one], 2)


def test_bands_are_found_on_the_line_that_decides() -> None:
    rule = Maintenance.brackets([(0, 100, 0.01), (100, 1_000, 0.02)])
    assert [band.deduction for band in rule.bands] == [0.0, 1.0]
    assert all(low.cap == high.floor for low, high in pairwise(rule.bands))
    for quantity, rate in ((0.5, 0.01), (5.0, 0.02)):
        found = liquidation_price(Position("long", 100.0, quantity, quantity * 10.0), rule)
        assert found.line is not None
        assert found.line.rate == rate
