"""A round of deleveraging in one pass: the bits of `perpbt.adl`, column by column, on random books."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perpbt.adl import RANKINGS, Candidates, allocate, fill_in_order, spread
from perpbt.coupling.shortfall import queued, rank_of
from perpbt.kernels.coupled.rounds import (
    DECOMPILED,
    HELD,
    RANKS,
    SCORE,
    TOLD,
    UNRANKED,
    WORTH,
    least_share,
    score_of,
)


def book(seed: int, size: int) -> Candidates:
    """Shorts and longs; some without equity, some that tie, some whose mark is their entry."""
    random = np.random.default_rng(seed)
    entry = random.choice([90.0, 100.0, 110.0, 97.3], size)
    return Candidates(
        side=random.choice([1.0, -1.0]) * np.ones(size),
        quantity=random.choice([0.1, 1.0, 3.0, random.random()], size),
        entry=entry,
        margin=random.choice([0.05, 10.0, 35.0, 0.0], size),
        funding_paid=random.choice([0.0, 1.0, -2.0], size),
        mark=np.full(size, 100.0),
        maintenance=random.random(size),
        bankruptcy=random.choice([80.0, 100.0, 120.0, 103.0], size),
        identifier=random.permutation(size),
    )


def columns(one: Candidates) -> np.ndarray:
    """What `rank_winners` tells of them."""
    told = np.zeros((TOLD, len(one) + 3))  # there may be more room than winners
    told[HELD, : len(one)], told[WORTH, : len(one)] = one.quantity, one.equity()
    return told


@pytest.mark.parametrize("name", sorted(RANKS))
def test_scores_are_those_of_the_rankings(name: str) -> None:
    assert sorted(RANKS.values()) == list(range(DECOMPILED + 1))
    score = getattr(score_of, "py_func", score_of)  # a part of kernels, seen as the function it is
    if name not in RANKINGS:
        pytest.fail(f"{name} is no ranking")
    for seed in range(20):
        one = book(seed, 60)
        wanted = RANKINGS[name](one)
        mine = [
            score(RANKS[name], *(float(value) for value in values))
            for values in zip(
                one.side, one.quantity, one.entry, one.margin, one.funding_paid, one.mark, one.maintenance, one.bankruptcy, strict=True
            )
        ]  # fmt: skip
        assert np.array_equal(wanted, mine)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 700), st.floats(0.0, 1.3), st.sampled_from(sorted(RANKS)))
def test_a_queue_closes_and_spreads_as_the_public_functions_say(
    seed: int, size: int, part: float, name: str
) -> None:
    one = book(seed, size)
    told, wanted, price = columns(one), part * math.fsum(one.quantity), 99.0 + (seed % 3)
    told[SCORE, :size] = RANKINGS[name](one)
    hit, closed, how = queued(one.identifier, np.arange(size), told, wanted, abs(100.0 - price))
    public = allocate(name, one, wanted)
    given = np.zeros(size)
    given[hit] = closed
    assert np.array_equal(given, public)
    said = spread(one, public, wanted, price)
    assert list(how) == list(said)
    assert np.array_equal(list(how.values()), list(said.values()), equal_nan=True)


def test_least_share_of_many_is_that_of_the_exact_search() -> None:
    """More positions than a rough search comes first for, some of whom give all they have."""
    for seed in range(4):
        one = book(seed, 6000)
        for part in (1e-4, 0.3, 0.9, 1.0):
            closed = allocate("pro_rata:equity", one, part * float(one.quantity.sum()))
            how = spread(one, closed, part * float(one.quantity.sum()), 99.0)
            best = least_share(columns(one), len(one), 1.0, how["taken"])
            share = how["largest_share"]
            regret = abs(share - best) * how["taken"]
            assert regret == how["fairness_regret"] or (
                math.isnan(regret) and math.isnan(how["fairness_regret"])
            )


def test_a_long_queue_is_filled_from_a_sample_of_it() -> None:
    """Whatever the sample says, who is given and how much is what sorting everybody gives."""
    random = np.random.default_rng(5)
    for size in (511, 512, 5000, 70_000):
        score, capacity = np.round(random.random(size), 3), random.random(size)
        identifier = random.permutation(size)
        order = np.lexsort((identifier, -score))
        for amount in (0.5, 40.0, 0.2 * size, size):
            left = np.subtract.accumulate(np.concatenate(([amount], capacity[order])))[:-1]
            wanted = np.zeros(size)
            wanted[order] = np.minimum(capacity[order], np.maximum(left, 0.0))
            assert np.array_equal(fill_in_order(capacity, score, amount, identifier), wanted)


def test_other_policies_are_left_to_their_own_functions() -> None:
    assert rank_of("bitmex") == rank_of("queue:bitmex") == rank_of("queue") != UNRANKED
    for name in ("pro_rata", "water_filling", "risk_aware:power"):
        assert rank_of(name) == UNRANKED
