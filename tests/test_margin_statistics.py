"""Coverage and procyclicality of margins: published values, definitions, and samples that are what they should be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perpbt.errors import InputError
from perpbt.statistics.coverage import christoffersen, kupiec, traffic_light
from perpbt.statistics.procyclicality import cost, deviation_of_changes, peak_to_trough, worst_rise


def flags(count: int, *at: int) -> list[bool]:
    """So many observations, exceeded at these, counted from 1."""
    return [k + 1 in at for k in range(count)]


@pytest.mark.parametrize(
    ("count", "hits", "share", "ratio", "p_value"),
    [
        (1043, 57, 0.05, 0.46146640, 0.49693945),  # as the documentation of a known risk toolbox prints it
        (250, 5, 0.01, 1.95680979, 0.16185492),
        (10, 0, 0.01, -20 * math.log(0.99), None),
    ],
)
def test_the_proportion_of_failures(
    count: int, hits: int, share: float, ratio: float, p_value: float | None
) -> None:
    found = kupiec(flags(count, *range(1, hits + 1)), share)
    assert (found.observations, found.exceeded) == (count, hits)
    assert found.ratio == pytest.approx(ratio, abs=1e-8)
    assert p_value is None or found.p_value == pytest.approx(p_value, abs=1e-8)


@pytest.mark.parametrize(
    ("count", "share", "least", "most"),
    [(255, 0.01, 1, 6), (255, 0.05, 7, 20), (510, 0.01, 2, 10), (510, 0.05, 17, 35), (1000, 0.01, 5, 16), (1000, 0.05, 38, 64)],
)  # fmt: skip
def test_the_counts_that_are_not_rejected_at_five_percent(
    count: int, share: float, least: int, most: int
) -> None:
    kept = [n for n in range(100) if kupiec(flags(count, *range(1, n + 1)), share).p_value > 0.05]
    assert (kept[0], kept[-1]) == (least, most)


@settings(deadline=None)
@given(st.integers(1, 300), st.data())
def test_the_exact_p_value_is_that_of_the_binomial_test(count: int, data: st.DataObject) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is a test extra")
    hits, share = data.draw(st.integers(0, count)), data.draw(st.sampled_from([0.01, 0.05, 0.3]))
    expected = stats.binomtest(hits, count, share).pvalue
    assert kupiec(flags(count, *range(1, hits + 1)), share).exact == pytest.approx(
        expected, rel=1e-6, abs=1e-12
    )


def test_independence_of_exceedances() -> None:
    found = christoffersen(flags(250, 10, 11, 12, 100, 180), 0.01)
    assert found.independence == pytest.approx(9.894654433, abs=1e-9)
    assert found.independence_p_value == pytest.approx(0.001657596, abs=1e-9)
    assert found.conditional == pytest.approx(9.894654433 + 1.95680979, abs=1e-7)
    assert found.conditional_p_value == pytest.approx(math.exp(-found.conditional / 2), rel=1e-12)
    none = christoffersen(flags(250), 0.01)
    assert (none.independence, none.independence_p_value) == (0.0, 1.0)
    assert christoffersen([True], 0.01).independence == 0.0
    assert christoffersen([True] * 9, 0.01).independence == pytest.approx(0.0, abs=1e-12)


def test_the_zones_of_the_traffic_light() -> None:
    """250 days at 99 %: green to 4, yellow to 9, red from 10 on."""
    assert [traffic_light(n).cumulative for n in (4, 5, 9)] == pytest.approx(
        [0.8922, 0.9588, 0.9997], abs=5e-5
    )
    assert [traffic_light(n).zone for n in range(11)] == ["green"] * 5 + ["yellow"] * 5 + ["red"]
    with pytest.raises(InputError, match="exceeded = 3 of 2"):
        traffic_light(3, 2)
    with pytest.raises(InputError, match="share = 2"):
        traffic_light(1, 250, 2.0)


def test_measures_of_procyclicality_are_their_definitions() -> None:
    margins = [0.02, 0.02, 0.03, 0.05, 0.04, 0.04, 0.06]
    assert peak_to_trough(margins) == 3.0
    assert worst_rise(margins, 1) == pytest.approx(2 / 3)
    assert worst_rise(margins, 2) == pytest.approx(1.5)
    assert worst_rise(margins, 5) == pytest.approx(2.0)
    assert worst_rise(margins, 7) == 0.0
    assert worst_rise([0.2, 0.1, 0.05]) == 0.0
    assert deviation_of_changes([0.1, 0.1]) == 0.0
    assert deviation_of_changes([0.1, 0.2, 0.1]) == pytest.approx(np.std([1.0, -0.5], ddof=1))
    assert cost(margins, [0.02] * 7) == pytest.approx(sum(margins) / 0.14)


@pytest.mark.parametrize("wrong", [[], [0.1, 0.0], [0.1, float("nan")], [[0.1]]])
def test_margins_that_are_none_are_refused(wrong: list[float]) -> None:
    with pytest.raises(InputError, match=r"margins.*: must be a row of finite numbers above 0"):
        peak_to_trough(wrong)
    with pytest.raises(InputError, match="share = 1"):
        kupiec([True], 1)
    with pytest.raises(InputError, match="no observations"):
        kupiec([], 0.5)
