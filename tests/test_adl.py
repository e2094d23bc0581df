"""Deleveraging on one book: rankings and allocations against worked examples, and what must hold for all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from adl_books import book, books, running_example
from hypothesis import given, settings
from hypothesis import strategies as st

import perpbt
from perpbt import adl, contracts

POLICIES = pytest.mark.parametrize("policy", adl.list_policies())
SHARE = st.one_of(st.floats(1e-6, 1.0), st.sampled_from([0.0, 0.25, 1.0, 1.5]))
settings.register_profile("adl", max_examples=30, deadline=None)
SOME = settings(settings.get_profile("adl"))


def close(left: object, right: object, tolerance: float = 1e-9) -> bool:
    return bool(np.allclose(left, right, rtol=tolerance, atol=tolerance))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ worked examples
def test_bitmex_queue_of_six_longs() -> None:
    """A short of 20 falls at its bankruptcy price 650: BitMEX, Auto-Deleveraging."""
    quantity, score = np.array([10.0, 10, 20, 30, 20, 10]), np.array([3.0, 6, 1, 4, 5, 2])
    accounts = np.arange(1, 7)
    assert accounts[adl.in_order(score, accounts)].tolist() == [2, 5, 4, 1, 6, 3]
    closed = adl.fill_in_order(quantity, score, 20.0, accounts)
    assert closed.tolist() == [0, 10, 0, 0, 10, 0]
    shares = 20 * (6 - adl.lights(score, accounts, quantity))
    assert shares[adl.in_order(score, accounts)].tolist() == [20, 40, 60, 80, 80, 100]
    assert adl.closing_price("bankruptcy", bankruptcy=650.0, mark=655.0) == 650.0


def test_bitmex_queue_from_positions_with_those_scores() -> None:
    """The same six through the formula: at mark twice the entry PnL% is 1, so the score is the leverage."""
    scores = np.array([3.0, 6, 1, 4, 5, 2])
    quantity = np.array([10.0, 10, 20, 30, 20, 10])
    six = book(quantity, entry=325.0, mark=650.0, bankruptcy=650.0 - 650.0 / scores, identifier=range(1, 7))
    assert close(adl.RANKINGS["bitmex"](six), scores)
    assert adl.allocate("bitmex", six, 20.0).tolist() == [0, 10, 0, 0, 10, 0]
    assert adl.winners(six, -1, 650.0).all()
    assert not adl.winners(six, 1, 650.0).any()
    assert not adl.winners(six, -1, 325.0).any()


def test_lights_without_quantities_are_fifths_of_the_positions() -> None:
    lit = adl.lights(np.arange(10.0), np.arange(10))
    assert lit.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_five_accounts_by_queue_and_pro_rata() -> None:
    """arXiv 2512.01112: profits that can be cut are 8, 4, .5, 0, 0; 7.5 is needed."""
    equity = np.array([10.0, 5, 1, -3, -12])
    profit, needed = np.maximum([8, 4, 0.5, -3, -12], 0.0), 0.5 * 15
    order = np.array([2, 1, 3, 5, 4])  # account 2 first
    score = np.empty(5)
    score[order - 1] = np.arange(5.0, 0.0, -1.0)
    queued = adl.fill_in_order(profit, score, needed, np.arange(5))
    assert queued.tolist() == [3.5, 4, 0, 0, 0]
    assert (equity - queued).tolist() == [6.5, 1, 1, -3, -12]
    spread = adl.fill_by_weight(profit, profit, needed)
    assert close(spread, [4.8, 2.4, 0.3, 0, 0], 1e-15)
    assert close((equity - spread)[:3], [5.2, 2.6, 0.7], 1e-15)


@pytest.mark.parametrize(
    ("time", "paid", "gained", "equity", "breach"),
    [
        (1, [-0.4667, -0.4667, 1.8667, -0.4667, 0.4667], [-0.0667, -0.0667, 0.2667, -0.0667, 0.0667], [1.9333, 0.6, 2.9333, 0.0386, 0.1677], "D"),
        (2, [-1.0387, -1.0387, 4.1547, -1.0387, 1.0387], [-0.7387, -0.7387, 2.9547, -0.7387, 0.7387], [1.2613, -0.072, 5.6213, -0.6334, 0.8397], "BD"),
    ],
)  # fmt: skip
def test_running_example(
    time: int, paid: list[float], gained: list[float], equity: list[float], breach: str
) -> None:
    """Funding, PnL, equity and who is below maintenance, to the four digits that are printed."""
    five = running_example(time)
    assert close(-five.funding_paid, paid, 5e-5)
    assert close(five.profit() - five.funding_paid, gained, 5e-5)
    assert close(five.equity(), equity, 5e-5)
    below = five.equity() < five.maintenance
    assert "".join(itertools.compress("ABCDE", below)) == breach


def test_running_example_winners_and_losers() -> None:
    five = running_example(2)
    solvent = five.equity() > 0.0
    worth, owed = math.fsum(five.equity()[solvent]), -math.fsum(five.equity()[~solvent])
    assert worth == pytest.approx(7.722343, abs=1e-5)  # the paper adds figures rounded to six digits
    assert owed == pytest.approx(0.705404, abs=1e-6)
    assert owed / worth == pytest.approx(0.0913458, abs=5e-7)
    assert close(five.leverage()[solvent], [1.031, 0.925, 1.548], 5e-4)
    assert np.isinf(five.leverage()[~solvent]).all()
    # The book is net short 2: what traders gain is what an inventory of 2 long with the venue loses.
    inventory = 2 * (five.mark[0] - 1.0) + math.fsum(five.funding_paid)
    assert math.fsum(five.profit() - five.funding_paid) == pytest.approx(-inventory)


def test_running_example_liquidation_and_bankruptcy_prices() -> None:
    """At 10 % maintenance and without funding, to the four digits that are printed."""
    five = running_example(0)
    bankrupt, liquidated = [], []
    for side, quantity, margin in zip(five.side, five.quantity, five.margin, strict=True):
        one = contracts.Position("long" if side > 0 else "short", 1.0, quantity, margin)
        bankrupt.append(contracts.bankruptcy_price(one).price or 0.0)  # A has none: all its value is margin
        liquidated.append(contracts.liquidation_price(one, contracts.Maintenance.flat(0.1)).price or 0.0)
    assert close(bankrupt, [0, 1 / 3, 5 / 3, 0.8947, 1.1010], 5e-5)
    assert close(liquidated, [0, 0.3704, 1.5152, 0.9942, 1.0010], 5e-5)
    assert close(np.maximum(five.bankruptcy, 0.0), bankrupt)


@pytest.mark.parametrize(
    ("how", "shares"),
    [
        ("pro-rata", (0.163, 0.728, 0.109)),
        ("linear", (0.164, 0.589, 0.246)),
        ("power", (0.155, 0.498, 0.348)),
        ("cvar", (0.149, 0.114, 0.737)),
    ],
)
def test_running_example_risk_aware_shares(how: str, shares: tuple[float, ...]) -> None:
    five = running_example(2)
    three = five.take(five.equity() > 0.0)
    weight = adl.weights(three, "equity") if how == "pro-rata" else adl.risk_weights(three, how)
    # the paper's shares for "power" add up to 1.001: its digits are good to a unit of the last
    assert close(weight / math.fsum(weight), shares, 5.1e-4 if how != "power" else 1e-3)


def test_water_filling_of_five() -> None:
    """arXiv 2603.15963's allocation: quantities 5 3 8 2 4, equities 1 .9 1.5 1.2 .3, 7 to close."""
    quantity, equity = np.array([5.0, 3, 8, 2, 4]), np.array([1, 0.9, 1.5, 1.2, 0.3])
    one = np.ones(5)
    assert adl.level(quantity, equity, one, 7.0) == pytest.approx(25 / 7, rel=1e-15)
    closed = adl.fill_to_level(quantity, equity, one, 7.0)
    assert math.fsum(closed) == pytest.approx(7.0, rel=1e-15)
    assert ((quantity - closed) / equity).max() == pytest.approx(25 / 7, rel=1e-15)
    five = book(quantity, entry=0.5, mark=1.0, margin=equity - 0.5 * quantity)
    assert close(adl.allocate("water_filling", five, 7.0), closed, 1e-13)


# ------------------------------------------------------------------------------- rankings by their formulas
def one(**columns: float) -> adl.Candidates:
    values = {"quantity": 2.0, "entry": 80.0, "mark": 100.0, "margin": 16.0, "bankruptcy": 72.0, **columns}
    return book([values.pop("quantity")], **values)


@pytest.mark.parametrize(
    ("ranking", "winner", "loser"),
    [
        # winner: profit 40 on 160, worth 200, equity 56, maintenance 2; loser: the same entered at 104
        ("bitmex", 0.25 * 200 / 56, (-4 / 104) / (200 / 8)),
        ("binance", (40 / 200) * (200 / 56), (-8 / 200) / (200 / 8)),
        ("binance_2019", 40 / 16 * 2 / 56, 0.0),
        ("okx", 0.25 * 2 / 56, (-4 / 104) * 8 / 2),
        ("bybit", 0.25 * 200 / 56, (-4 / 104) * 200 / 8),
        ("hyperliquid", 1.25 * 200 / 56, (100 / 104) * 200 / 8),
        ("hyperliquid_decompiled", 200 / 56 * 0.25, 200 / 8 * 1e-8),
    ],
)
def test_rankings_by_hand(ranking: str, winner: float, loser: float) -> None:
    score = adl.RANKINGS[ranking]
    assert score(one())[0] == pytest.approx(winner, rel=1e-14)
    assert score(one(entry=104.0, bankruptcy=96.0))[0] == pytest.approx(loser, rel=1e-14)


def test_the_two_forms_of_hyperliquid_rank_shorts_differently() -> None:
    """The more a short has won, the lower the published score; the decompiled one rises."""
    shorts = book([1.0, 1.0], side=-1.0, entry=[110.0, 200.0], margin=[10.0, 10.0])
    published = adl.RANKINGS["hyperliquid"](shorts.replaced(margin=[10.0, -80.0]))
    decompiled = adl.RANKINGS["hyperliquid_decompiled"](shorts.replaced(margin=[10.0, -80.0]))
    assert published[0] > published[1]
    assert decompiled[0] < decompiled[1]


@pytest.mark.parametrize("ranking", adl.RANKINGS)
@SOME
@given(candidates=books())
def test_rankings_give_a_number_for_anything(ranking: str, candidates: adl.Candidates) -> None:
    score = adl.RANKINGS[ranking](candidates)
    assert score.shape == (len(candidates),)
    assert not np.isnan(score).any()
    assert adl.RANKINGS[ranking].__doc__
    assert "Source:" in str(adl.RANKINGS[ranking].__doc__)


# ------------------------------------------------------------------------------------- every policy, any book
@POLICIES
@SOME
@given(candidates=books(), share=SHARE)
def test_all_is_collected_and_no_more_than_there_is(
    policy: str, candidates: adl.Candidates, share: float
) -> None:
    everything = math.fsum(candidates.quantity)
    wanted = share * everything
    closed = adl.allocate(policy, candidates, wanted)
    assert (closed >= 0.0).all()
    assert (closed <= candidates.quantity).all()
    assert math.fsum(closed) == pytest.approx(min(wanted, everything), rel=1e-12, abs=1e-12 * everything)


@POLICIES
@SOME
@given(candidates=books(), share=SHARE, random=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(
    policy: str, candidates: adl.Candidates, share: float, random: object
) -> None:
    wanted = share * math.fsum(candidates.quantity)
    order = np.arange(len(candidates))
    random.shuffle(order)  # type: ignore[attr-defined]
    closed = adl.allocate(policy, candidates, wanted)
    assert (adl.allocate(policy, candidates.take(order), wanted) == closed[order]).all()


@POLICIES
@SOME
@given(candidates=books(), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_who_gives_for_less_gives_no_less_for_more(
    policy: str, candidates: adl.Candidates, shares: tuple[float, float]
) -> None:
    everything = math.fsum(candidates.quantity)
    less, more = (adl.allocate(policy, candidates, share * everything) for share in sorted(shares))
    assert (less <= more + 1e-11 * everything).all()


@POLICIES
@SOME
@given(candidates=books(), share=SHARE, power=st.integers(-3, 12))
def test_contracts_of_another_size_change_nothing(
    policy: str, candidates: adl.Candidates, share: float, power: int
) -> None:
    """Quantities and money k times as large: k times as much is closed of each, exactly for a power of two."""
    if policy == "queue:binance_2019":
        power = max(power, 0)
        candidates = candidates.replaced(margin=candidates.margin + candidates.funding_paid + 1.0)
    scale = 2.0**power
    wanted = share * math.fsum(candidates.quantity)
    scaled = candidates.replaced(
        **{
            name: scale * getattr(candidates, name)
            for name in ("quantity", "margin", "funding_paid", "maintenance")
        }
    )
    larger = adl.allocate(policy, scaled, scale * wanted)
    assert (larger == scale * adl.allocate(policy, candidates, wanted)).all()


# Splitting a position in two of the same leverage leaves ratios as they are: nothing to gain. The 2019
# ranking adds profit in money, and a queue's ties may then fall between the halves.
@POLICIES
@SOME
@given(candidates=books(winners=True), share=SHARE, cut=st.floats(0.05, 0.95))
def test_splitting_an_account_changes_nothing(
    policy: str, candidates: adl.Candidates, share: float, cut: float
) -> None:
    if policy == "queue:binance_2019":
        return
    wanted = share * math.fsum(candidates.quantity)
    whole = adl.allocate(policy, candidates, wanted)
    parted = {
        name: np.concatenate((cut * getattr(candidates, name)[:1], (1 - cut) * getattr(candidates, name)[:1], getattr(candidates, name)[1:]))
        for name in ("quantity", "margin", "funding_paid", "maintenance")
    }  # fmt: skip
    rows = np.concatenate(([0], np.arange(len(candidates))))
    two = candidates.take(rows).replaced(identifier=_beside(candidates.identifier), **parted)
    if policy.startswith("queue"):  # to the last bit equal scores, which splitting may have rounded apart
        score = adl.find_ranking(policy.partition(":")[2])(candidates)[rows]
        split = adl.fill_in_order(two.quantity, score, wanted, two.identifier)
    else:
        split = adl.allocate(policy, two, wanted)
    tolerance = 1e-7 * math.fsum(candidates.quantity)  # equities near 0 are known to few digits
    assert close(np.concatenate(([split[0] + split[1]], split[2:])), whole, max(tolerance, 1e-9))


def _beside(identifier: np.ndarray) -> np.ndarray:
    """Identifiers of a book whose first account is split: the halves next to each other."""
    return np.concatenate(([10 * identifier[0], 10 * identifier[0] + 1], 10 * identifier[1:]))


@POLICIES
@SOME
@given(candidates=books(whole=True), whole=st.integers(0, 300), lot=st.sampled_from([1.0, 0.5, 0.1, 0.001]))
def test_whole_lots_collect_all(policy: str, candidates: adl.Candidates, whole: int, lot: float) -> None:
    """Rounding down alone would collect less; here nothing is lost and nobody gives more than he has."""
    candidates = candidates.replaced(
        quantity=candidates.quantity * lot,
        margin=candidates.margin * lot,
        maintenance=candidates.maintenance * lot,
    )
    everything = math.fsum(candidates.quantity)
    closed = adl.allocate(policy, candidates, whole * lot, lot=lot)
    assert close(closed / lot, np.round(closed / lot))
    assert (closed >= 0.0).all()
    assert (closed <= candidates.quantity).all()
    assert math.fsum(closed) == pytest.approx(min(whole * lot, everything), rel=1e-9, abs=1e-9 * lot)


@POLICIES
@SOME
@given(candidates=books(), share=SHARE)
def test_odd_parts_of_a_lot_come_last_and_are_collected_too(
    policy: str, candidates: adl.Candidates, share: float
) -> None:
    everything = math.fsum(candidates.quantity)
    wanted = share * everything
    closed = adl.allocate(policy, candidates, wanted, lot=10.0)
    assert (closed >= 0.0).all()
    assert (closed <= candidates.quantity).all()
    assert math.fsum(closed) == pytest.approx(min(wanted, everything), rel=1e-9, abs=1e-7)


def test_lots_are_given_to_the_largest_remainders() -> None:
    closed = adl.in_lots(np.array([1.6, 1.7, 1.7]), np.full(3, 9.0), 5.0, 1.0, np.array([3, 2, 1]))
    assert closed.tolist() == [1, 2, 2]
    assert adl.in_lots(np.array([1.5, 1.5]), np.full(2, 9.0), 3.0, 1.0, np.array([7, 3])).tolist() == [1, 2]


@pytest.mark.parametrize("ranking", adl.RANKINGS)
def test_ties_go_by_identifier(ranking: str) -> None:
    same = book([3.0, 3.0, 3.0], entry=80.0, identifier=[9, 4, 6])
    assert adl.allocate(ranking, same, 4.0).tolist() == [0, 3, 1]


# ------------------------------------------------------------------------------------------- optimal shapes
@SOME
@given(candidates=books(winners=True), share=st.floats(0.01, 0.99), push=st.integers(0, 2**32 - 1))
def test_capped_pro_rata_is_the_convex_optimum(candidates: adl.Candidates, share: float, push: int) -> None:
    """Stationarity: whoever is not at his cap gives the same share of his weight, those at it no larger one."""
    weight, cap = adl.weights(candidates, "profit"), 0.5 * candidates.quantity
    wanted = share * math.fsum(cap[weight > 0.0])
    closed = adl.allocate("capped_pro_rata", candidates, wanted, cap=0.5)
    held = weight > 0.0
    if wanted <= 0.0:
        return
    rate = closed[held] / weight[held]
    free = closed[held] < cap[held] * (1 - 1e-9)
    assert (rate <= rate.max() * (1 + 1e-12)).all()
    assert close(rate[free], rate.max(), 1e-9)
    # and no feasible step from there lowers the sum of weight·(given/weight)²
    other = np.random.default_rng(push).random(held.sum()) * cap[held]
    other *= wanted / max(math.fsum(other), 1e-300)
    if (other <= cap[held]).all():
        assert math.fsum(closed[held] ** 2 / weight[held]) <= math.fsum(other**2 / weight[held]) * (1 + 1e-9)


@SOME
@given(candidates=books(winners=True, largest=5), share=st.floats(0.05, 0.95))
def test_capped_pro_rata_equals_a_solver(candidates: adl.Candidates, share: float) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    weight, cap = adl.weights(candidates, "profit"), candidates.quantity
    held = (weight > 1e-3 * weight.max(initial=0.0)) & (cap > 1e-3 * cap.max(initial=0.0))
    if held.sum() < 2:
        return
    weight, cap = weight[held] / weight[held].max(), cap[held] / cap[held].max()
    wanted = share * cap.sum()
    found = optimize.minimize(
        lambda x: float((x * x / weight).sum()),
        cap * share,
        jac=lambda x: 2 * x / weight,
        bounds=[(0.0, one) for one in cap],
        constraints={"type": "eq", "fun": lambda x: x.sum() - wanted, "jac": lambda x: np.ones_like(x)},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    given = adl.fill_by_weight(cap, weight, wanted)
    mine = float((given * given / weight).sum())
    assert mine <= float((found.x * found.x / weight).sum()) * (1 + 1e-6)
    if found.success:
        assert close(given, found.x, 1e-2)
        assert mine == pytest.approx(found.fun, rel=1e-4)


@SOME
@given(candidates=books(), share=st.floats(0.01, 0.99), seed=st.integers(0, 2**32 - 1))
def test_water_filling_leaves_the_lowest_highest_leverage(
    candidates: adl.Candidates, share: float, seed: int
) -> None:
    quantity, equity = candidates.quantity, candidates.equity()
    wanted = share * math.fsum(quantity)
    left = quantity - adl.allocate("water_filling", candidates, wanted)
    other = quantity - adl.fill_by_weight(quantity, np.random.default_rng(seed).random(quantity.size), wanted)

    def highest(kept: np.ndarray) -> float:
        kept = np.where(kept > 1e-11 * quantity.sum(), kept, 0.0)
        return float(np.max(adl.candidates.quotient(kept, np.maximum(equity, 0.0)), initial=0.0))

    assert highest(left) <= highest(other) * (1 + 1e-9)


@SOME
@given(candidates=books(), parts=st.tuples(st.floats(0.0, 0.5), st.floats(0.0, 0.5)))
def test_water_filling_twice_is_water_filling_once(
    candidates: adl.Candidates, parts: tuple[float, float]
) -> None:
    everything = math.fsum(candidates.quantity)
    first, second = (part * everything for part in parts)
    price, equity = candidates.mark, candidates.equity()
    once = adl.fill_to_level(candidates.quantity, equity, price, first)
    left = np.maximum(candidates.quantity - once, 0.0)
    twice = once + adl.fill_to_level(left, equity, price, second)
    assert close(
        twice,
        adl.fill_to_level(candidates.quantity, equity, price, first + second),
        1e-9 * max(everything, 1),
    )


def test_large_books_agree_with_a_plain_loop() -> None:
    """Selection, quick sums and splitting bits are shortcuts: 20,000 positions, compared to the last bit."""
    random = np.random.default_rng(5)
    many = book(
        random.lognormal(0, 2, 20_000),
        entry=random.uniform(60, 99, 20_000).round(0),
        margin=random.lognormal(1, 2, 20_000),
        identifier=random.permutation(20_000),
    )
    for ranking, wanted in itertools.product(("bitmex", "binance_2019"), (0.5, 3_000.0, 60_000.0)):
        score, left = adl.RANKINGS[ranking](many), wanted
        plain = np.zeros(20_000)
        for row in sorted(range(20_000), key=lambda row: (-score[row], many.identifier[row])):
            plain[row] = min(many.quantity[row], left)
            left -= plain[row]
        assert (adl.allocate(ranking, many, wanted) == plain).all()
    assert adl.filling.total(many.margin * 1e-9 - many.quantity) == math.fsum(
        many.margin * 1e-9 - many.quantity
    )


def plain_proportion(room: list[float], weight: list[float], amount: float) -> list[float]:
    """min(room, t·weight) by a loop: whoever is full stays full, until nobody is added."""
    full = [False] * len(room)
    while True:
        rest = amount - math.fsum(one for one, out in zip(room, full, strict=True) if out)
        rate = rest / math.fsum(one for one, out in zip(weight, full, strict=True) if not out)
        more = [out or one <= rate * w for one, w, out in zip(room, weight, full, strict=True)]
        if more == full:
            return [min(one, rate * w) for one, w in zip(room, weight, strict=True)]
        full = more


def plain_level(quantity: list[float], worth: list[float], amount: float) -> list[float]:
    """What is above a common level, by a loop: whoever drops out stays out, until nobody does."""
    touched = [True] * len(quantity)
    while True:
        held = math.fsum(one for one, on in zip(quantity, touched, strict=True) if on)
        level = (held - amount) / math.fsum(one for one, on in zip(worth, touched, strict=True) if on)
        fewer = [on and one > level * w for one, w, on in zip(quantity, worth, touched, strict=True)]
        if fewer == touched:
            return [max(one - level * w, 0.0) for one, w in zip(quantity, worth, strict=True)]
        touched = fewer


@pytest.mark.parametrize("count", [300, 9_000])
@pytest.mark.parametrize("share", [1e-4, 0.3, 0.9])
def test_proportions_and_levels_agree_with_plain_loops(count: int, share: float) -> None:
    random = np.random.default_rng(count)
    room, weight = random.lognormal(0, 2, (2, count))
    amount = share * math.fsum(room)
    spread = adl.fill_by_weight(room, weight, amount)
    assert spread.tolist() == plain_proportion(room.tolist(), weight.tolist(), amount)
    levelled = adl.fill_to_level(room, weight, np.ones(count), amount)
    assert levelled.tolist() == plain_level(room.tolist(), weight.tolist(), amount)


def test_who_has_no_equity_is_closed_first() -> None:
    quantity, equity, one = np.array([4.0, 2.0, 6.0]), np.array([-1.0, 0.0, 3.0]), np.ones(3)
    assert adl.fill_to_level(quantity, equity, one, 3.0).tolist() == [2, 1, 0]
    assert adl.fill_to_level(quantity, equity, one, 9.0).tolist() == [4, 2, 3]
    assert adl.level(quantity, equity, one, 3.0) == math.inf
    assert adl.level(quantity, equity, one, 12.0) == 0.0
    assert adl.level(quantity[1:], equity[1:] + 1.0, one[1:], 0.0) == 2.0
    assert adl.fill_by_weight(quantity, np.array([math.inf, 1.0, 0.0]), 5.0).tolist() == [4, 1, 0]
    assert adl.fill_by_weight(quantity, np.array([math.inf, 1.0, 0.0]), 9.0).tolist() == [4, 2, 3]


@SOME
@given(st.lists(st.floats(-1e300, 1e300), max_size=30), st.integers(0, 2**32 - 1))
def test_sums_of_many_are_rounded_once(values: list[float], seed: int) -> None:
    random = np.random.default_rng(seed)
    many = random.standard_normal(4_500) * 2.0 ** random.integers(-200, 200, 4_500)
    many[: len(values)] = values
    assert adl.filling.total(many) == math.fsum(many)


def test_empty_books_and_nothing_to_close() -> None:
    nobody = book([])
    some = book([1.0, 2.0], entry=80.0)
    for policy in adl.list_policies():
        assert adl.allocate(policy, nobody, 5.0).size == 0
        assert adl.allocate(policy, nobody, 5.0, lot=1.0).size == 0
        assert adl.allocate(policy, some, 0.0).tolist() == [0, 0]
        assert adl.allocate(policy, some, 9.0).tolist() == [1, 2]


# ---------------------------------------------------------------------------------------------------- doors
def test_errors_name_what_is_wrong() -> None:
    some = book([1.0, 2.0], entry=80.0)
    wrong = [
        (lambda: adl.allocate("fifo", some, 1.0), "policy is 'fifo'; allowed: queue:bitmex"),
        (lambda: adl.allocate("pro_rata:size", some, 1.0), "allowed: pro_rata:profit"),
        (lambda: adl.allocate("water_filling:fast", some, 1.0), "allowed: water_filling"),
        (lambda: adl.allocate("pro_rata", some, -1.0), "quantity is -1.0"),
        (lambda: adl.allocate("pro_rata", some, math.nan), "quantity is nan"),
        (lambda: adl.allocate("pro_rata", some, "all"), "quantity is 'all'"),
        (lambda: adl.allocate("pro_rata", some, 1.0, lot=0.0), "lot is 0.0"),
        (lambda: adl.allocate("pro_rata", some, 1.0, cap=0.5), "no option 'cap'; allowed: none"),
        (lambda: adl.allocate("capped_pro_rata", some, 1.0, cap=1.5), "cap is 1.5"),
        (lambda: adl.find_ranking("ftx"), "ranking is 'ftx'"),
        (lambda: adl.closing_price("last", bankruptcy=1.0, mark=1.0), "price is 'last'"),
        (lambda: adl.closing_price("previous_mark", bankruptcy=1.0, mark=1.0), "previous_mark is None"),
        (lambda: adl.winners(some, 0, 1.0), "side is 0"),
        (lambda: some.replaced(side=[1.0, 2.0]), "side is 2.0 in row 1"),
        (lambda: some.replaced(quantity=[1.0, -2.0]), "quantity is -2.0 in row 1"),
        (lambda: some.replaced(mark=[0.0, 1.0]), "mark is 0.0 in row 0"),
        (lambda: some.replaced(margin=[1.0, math.nan]), "margin is nan in row 1"),
        (lambda: some.replaced(bankruptcy=[math.nan, 1.0]), "bankruptcy is nan in row 0"),
        (lambda: some.replaced(entry=[1.0]), r"entry has shape \(1,\)"),
    ]
    for call, message in wrong:
        with pytest.raises(perpbt.InputError, match=message):
            call()


def test_variants_may_be_left_out() -> None:
    some = book([1.0, 2.0, 5.0], entry=[80.0, 70.0, 90.0])
    for short, long in (("okx", "queue:okx"), ("queue", "queue:bitmex"), ("pro_rata", "pro_rata:profit")):
        assert (adl.allocate(short, some, 3.0) == adl.allocate(long, some, 3.0)).all()


def test_amounts_may_be_plain_lists() -> None:
    """G28 and the two examples of arXiv 2512.01112 and 2603.15963, as a reader would type them."""
    assert adl.fill_in_order([10, 10, 20, 30, 20, 10], [3, 6, 1, 4, 5, 2], 20, range(1, 7)).tolist() == [
        0,
        10,
        0,
        0,
        10,
        0,
    ]
    assert adl.in_order([3, 6, 1, 4, 5, 2], range(1, 7)).tolist() == [1, 4, 3, 0, 5, 2]
    assert adl.lights([3, 6, 1, 4, 5, 2], range(1, 7), [10, 10, 20, 30, 20, 10]).tolist() == [
        2,
        5,
        1,
        3,
        4,
        2,
    ]
    assert close(adl.fill_by_weight([8, 4, 0.5, 0, 0], [8, 4, 0.5, 0, 0], 7.5), [4.8, 2.4, 0.3, 0, 0], 1e-15)
    quantity, equity = [5, 3, 8, 2, 4], [1, 0.9, 1.5, 1.2, 0.3]
    assert adl.level(quantity, equity, 1.0, 7) == pytest.approx(25 / 7, rel=1e-15)
    assert adl.fill_to_level(quantity, equity, 1.0, 7).sum() == pytest.approx(7)
    assert adl.in_lots([3.5, 4, 0], [8, 4, 0.5], 7.5, 1.0, range(3)).tolist() == [3.5, 4, 0]
    assert adl.fill_in_order([], [], 1.0, []).size == 0


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: adl.fill_by_weight([8, 4], [8, -4], 3), r"weight\[1\] is -4.0; allowed: numbers of at least 0"),
        (lambda: adl.fill_by_weight([8, 4], [8], 3), r"weight has shape \(1,\); allowed: \(2,\)"),
        (lambda: adl.fill_by_weight([8, 4], [8, 4], -1), r"amount\[0\] is -1.0; allowed: finite numbers of at least 0"),
        (lambda: adl.fill_by_weight([8, 4], [8, 4], math.nan), r"amount\[0\] is nan"),
        (lambda: adl.fill_in_order([8, math.inf], [1, 2], 1, [1, 2]), r"capacity\[1\] is inf; allowed: finite numbers"),
        (lambda: adl.fill_in_order([8, 4], [1, math.nan], 1, [1, 2]), r"score\[1\] is nan; allowed: numbers"),
        (lambda: adl.fill_in_order([8, 4], [1, 2], 1, ["a", "b"]), "identifier is .*allowed: 2 whole numbers"),
        (lambda: adl.fill_in_order(["x"], [1], 1, [1]), r"capacity is \['x'\]; allowed: numbers"),
        (lambda: adl.fill_to_level([1], [1], 0.0, 1), "price is 0.0; allowed: above 0"),
        (lambda: adl.level([[1]], [1], 1.0, 1), r"quantity has shape \(1, 1\)"),
        (lambda: adl.in_lots([1], [1], 1, 0.0, [1]), "lot is 0.0; allowed: finite numbers above 0"),
        (lambda: adl.fund_flow(1, -1.0, 99.0, 98.0), "quantity is -1.0"),
        (lambda: adl.fund_flow(1, 1.0, 99.0, 99.25, fee_cap=-1.0), "fee_cap is -1.0"),
        (lambda: adl.fund_flow(1, 1.0, math.nan, 99.25), "bankruptcy is nan"),
        (lambda: adl.settle_balance(math.nan), "equity is nan"),
        (lambda: adl.clawback("x", 2.0, [5.0]), "loss is 'x'"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_amounts_by_hand_are_checked(call: Callable[[], object], told: str) -> None:
    with pytest.raises(perpbt.InputError, match=told):
        call()


def scores_by_formula(one: adl.Candidates) -> dict[str, float]:
    """What the venues print, for one solvent position, in signed values as BitMEX has them."""
    side, quantity, entry, mark = (
        float(getattr(one, name)[0]) for name in ("side", "quantity", "entry", "mark")
    )
    wallet = float(one.margin[0] - one.funding_paid[0])
    value, at_entry = side * quantity * mark, side * quantity * entry
    bankrupt = side * quantity * float(one.bankruptcy[0])
    profit, size = value - at_entry, abs(value)
    equity, needed = wallet + profit, float(one.maintenance[0])
    on_entry, on_mark, lever = profit / abs(at_entry), profit / size, size / equity
    lever_bm = size / (value - bankrupt)
    ratio = equity / needed if needed > 0.0 else math.inf
    return {
        "bitmex": on_entry * lever_bm if on_entry > 0 else on_entry / lever_bm,
        "binance": on_mark * lever if on_mark >= 0 else on_mark / lever,
        "binance_2019": max(0.0, profit) / max(1.0, wallet) * needed / equity,
        "okx": (on_entry / ratio if on_entry > 0 else on_entry * ratio) if on_entry else 0.0,
        "bybit": on_entry * lever,
        "hyperliquid": mark / entry * lever,
        "hyperliquid_decompiled": max(lever, 1e-8) * max(max(profit, 0.0) / abs(at_entry), 1e-8),
    }


@SOME
@given(books())
def test_rankings_are_the_printed_formulas(candidates: adl.Candidates) -> None:
    """Longs and shorts, winners, losers and those at their entry, as long as something is left of them."""
    told = {name: ranking(candidates) for name, ranking in adl.RANKINGS.items()}
    for row in np.flatnonzero((candidates.equity() > 1e-6) & (candidates.quantity > 0)):
        one = candidates.take(np.array([row]))
        left = float(one.side[0] * one.quantity[0] * (one.mark[0] - one.bankruptcy[0]))
        if left <= 1e-6:
            continue
        for name, expected in scores_by_formula(one).items():
            assert told[name][row] == pytest.approx(expected, rel=1e-6, abs=1e-12), name


def test_ties_caps_and_a_last_lot_by_hand() -> None:
    """Of equal scores the lowest identifier first; 6 of two tens with profits 9 to 1 under caps of 4 each, then 9, beyond the caps; 3 in lots of 1."""
    assert adl.in_order([1, 1, 2], [7, 3, 9]).tolist() == [2, 1, 0]
    two = book(np.array([10.0, 10.0]), entry=np.array([10.0, 90.0]), mark=100.0)  # profits of 900 and 100
    assert close(adl.allocate("capped_pro_rata", two, 6.0, cap=0.4), [4.0, 2.0])
    assert close(adl.allocate("capped_pro_rata", two, 9.0, cap=0.4), [4.9, 4.1])
    assert close(adl.allocate("pro_rata", two, 6.0), [5.4, 0.6])
    assert adl.in_lots([1.5, 1.5], [3, 3], 3, 1.0, [1, 2]).tolist() == [2, 1]
    assert adl.in_lots([1.5, 1.5], [3, 3], 3, 1.0, [2, 1]).tolist() == [1, 2]
