"""Exact sums: those of math.fsum, whatever the order, the chunks, the merging and the compiler; and numbering.

`python tests/test_sums.py` prints sums of some thousand values; a test runs it without a compiler.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perpbt.kernels.numbering import no_index, numbered
from perpbt.kernels.sums import (
    FEW,
    LIMBS,
    ROOM,
    Sums,
    add_exactly,
    carry,
    exact_sums,
    merge_sums,
    no_sums,
    rounded_sums,
    widened,
)

LARGEST, SMALLEST, TINY = sys.float_info.max, sys.float_info.min, 5e-324
EDGES = (0.0, -0.0, TINY, SMALLEST, SMALLEST - TINY, 2.0**-54, 2.0**-53, 3 * 2.0**-53, 0.1, 1.0, 1 + 2.0**-52)
EDGES += (2.0**53 - 1, 2.0**53, 2.0**53 + 2, 1e16, 1e300, 2.0**969, 2.0**970, 2.0**1023, LARGEST)
ANY = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=64),
    st.sampled_from([sign * size for size in EDGES for sign in (1, -1)]),
)


def exact(values: list[float]) -> float:
    """The correctly rounded sum: math.fsum's, or by fractions where a step of that is too large."""
    try:
        return math.fsum(values)
    except OverflowError:
        total = sum(map(Fraction, values))
        try:
            return float(total)
        except OverflowError:
            return math.inf if total > 0 else -math.inf


def floats(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def summed(values: list[float], slots: list[int] | None = None, count: int = 1) -> Sums:
    sums = no_sums(count)
    add_exactly(sums, np.array([0] * len(values) if slots is None else slots, dtype=np.int64), floats(values))
    return sums


def bits(values: np.ndarray | list[float]) -> list[bytes]:
    return [struct.pack("d", value) for value in values]


# ------------------------------------------------------------------------------------------ the same as fsum
@settings(max_examples=400, deadline=None)
@given(st.lists(ANY, max_size=3 * FEW))
@example([1.0, 2.0**-53, 2.0**-106])
@example([2.0**53, 1.0, -TINY])
@example([2.0**53 + 2, 1.0])
@example([LARGEST, 2.0**969])
@example([LARGEST, 2.0**970])
@example([-LARGEST, -LARGEST, LARGEST])
@example([SMALLEST, -TINY])
@example([-0.0, -0.0])
@example([])
def test_sums_are_those_of_fsum(values: list[float]) -> None:
    expected = bits([exact(values)])
    assert bits(rounded_sums(summed(values))) == expected
    assert bits(exact_sums(floats(values), np.array([0, len(values)]))) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(ANY, max_size=80), st.randoms(use_true_random=False))
def test_neither_order_nor_chunks_nor_merging_change_a_bit(values: list[float], random) -> None:
    slots = [random.randrange(3) for _ in values]
    expected = bits(
        [exact([v for v, s in zip(values, slots, strict=True) if s == slot]) for slot in range(3)]
    )
    together = list(zip(values, slots, strict=True))
    random.shuffle(together)
    cuts = sorted(random.randrange(len(values) + 1) for _ in range(4))
    merged = no_sums(3)
    for first, end in zip([0, *cuts], [*cuts, len(values)], strict=True):
        chunk = together[first:end]
        order = [2, 0, 1]  # where the part's slots are in the whole
        part = summed([v for v, _ in chunk], [order.index(s) for _, s in chunk], 3)
        if random.random() < 0.5:
            carry(part)
        merge_sums(merged, part, np.array(order))
    assert bits(rounded_sums(merged)) == expected


def test_each_group_has_a_sum_of_its_own() -> None:
    random = np.random.default_rng(1)
    sizes = [0, 1, 2, 3, FEW - 1, FEW, FEW + 1, 4 * FEW, 0, 500, 1]
    values = random.standard_normal(sum(sizes)) * 10.0 ** random.integers(-30, 30, sum(sizes))
    starts = np.cumsum([0, *sizes])
    expected = [math.fsum(values[a:b]) for a, b in itertools.pairwise(starts)]
    assert bits(exact_sums(values, starts)) == bits(expected)
    slots = np.repeat(np.arange(len(sizes)), sizes)
    sums = no_sums(len(sizes))
    add_exactly(sums, slots, values)
    assert bits(rounded_sums(sums)) == bits(expected)


def test_ties_go_to_even_at_every_place() -> None:
    """A half added to an odd and to an even number, and a bit more and less than a half, in every limb."""
    values = []
    for place in range(-1020, 960, 7):
        unit = math.ldexp(1.0, place)
        for whole in (2.0**52 + 1, 2.0**52 + 2, 2.0**53 - 1):
            for bit in (0.0, math.ldexp(unit, -40), -math.ldexp(unit, -40)):
                values.append([whole * unit, unit / 2, bit])
                values.append([-whole * unit, -unit / 2, bit])
    flat = floats([value for three in values for value in three])
    expected = bits([math.fsum(three) for three in values])
    assert bits(exact_sums(flat, np.arange(0, flat.size + 1, 3))) == expected
    sums = no_sums(len(values))
    add_exactly(sums, np.repeat(np.arange(len(values)), 3), flat)
    assert bits(rounded_sums(sums)) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, math.inf], math.inf),
        ([-math.inf, LARGEST], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([math.nan, 1.0], math.nan),
        ([math.inf, math.nan], math.nan),
        ([math.inf, math.inf], math.inf),
        ([LARGEST] * 4, math.inf),
        ([-LARGEST] * 4, -math.inf),
        ([LARGEST] * 4 + [-LARGEST] * 3, LARGEST),
    ],
)
@pytest.mark.parametrize("more", [0, 3 * FEW])
def test_what_no_limb_can_hold(values: list[float], expected: float, more: int) -> None:
    values = values + [0.0] * more
    half = summed(values[::2])
    merge_sums(half, summed(values[1::2]), np.array([0]))
    found = [rounded_sums(summed(values))[0], rounded_sums(half)[0]]
    found.append(exact_sums(floats(values), np.array([0, len(values)]))[0])
    np.testing.assert_array_equal(found, expected)


# ------------------------------------------------------------------------------------------------- carries
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_carries_move_before_limbs_overflow(sign: float) -> None:
    """Values of which each fills a limb, with the count of those since the last carry set close to its end."""
    value = sign * math.ldexp(2.0**53 - 1, 3)
    sums, slots, values = no_sums(1), np.zeros(1000, dtype=np.int64), np.full(1000, value)
    for _ in range(50):
        sums.used[2] = ROOM - 500
        add_exactly(sums, slots, values)
    assert sums.used[2] <= 1001
    assert bits(rounded_sums(sums)) == bits([math.fsum([value] * 50_000)])
    add_exactly(sums, slots[:1], np.array([-sign * 1e300]))
    carry(sums)
    carry(sums)
    add_exactly(sums, slots[:1], np.array([sign * 1e300]))
    assert bits(rounded_sums(sums)) == bits([math.fsum([value] * 50_000)])


def test_full_limbs_are_merged_without_overflow() -> None:
    """As they are after as many values as may be added between two carries."""
    whole = no_sums(1)
    for _ in range(5):
        full = no_sums(1)
        full.limbs[40, 0], full.used[:] = 2**62, (40, 40, ROOM)
        merge_sums(whole, full, np.array([0]))
    assert rounded_sums(whole).tolist() == [5 * math.ldexp(1.0, 62 + 32 * 40 - 1074)]


def test_a_carry_leaves_limbs_below_their_size() -> None:
    random = np.random.default_rng(2)
    sums = no_sums(5)
    add_exactly(sums, random.integers(0, 5, 4000), random.standard_normal(4000) * 1e9)
    before = rounded_sums(sums)
    carry(sums)
    low, high = sums.used[:2]
    assert ((sums.limbs[low : high + 3] >= 0) & (sums.limbs[low : high + 3] < 2**32)).all()
    assert np.array_equal(rounded_sums(sums), before)
    assert not sums.limbs[:low].any()
    assert not sums.limbs[high + 4 :].any(), "memory of magnitudes that did not occur stays untouched"


def test_wider_sums_are_the_same_sums() -> None:
    values = [LARGEST, 1.0, -LARGEST, TINY, math.inf]
    sums = widened(summed(values, [0, 0, 1, 2, 3], 4), 9)
    assert sums.limbs.shape == (LIMBS + 1, 9)
    assert rounded_sums(sums).tolist() == [LARGEST, -LARGEST, TINY, math.inf, *[0.0] * 5]
    assert rounded_sums(widened(no_sums(0), 2)).tolist() == [0.0, 0.0]


# ---------------------------------------------------------------------------------------------- numbering
@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(st.integers(-(2**62), 2**63 - 1), st.integers(0, 9), st.integers(0, 2**31 - 1)), max_size=90
    ),
    st.integers(0, 90),
)
def test_keys_are_numbered_in_order_of_appearance(keys: list[int], cut: int) -> None:
    order: dict[int, int] = {}
    expected = [order.setdefault(key, len(order)) for key in keys]
    index, numbers = no_index(4), []
    for part in (keys[:cut], keys[cut:]):
        index, more = numbered(index, np.array(part, dtype=np.int64))
        numbers += more.tolist()
    assert numbers == expected
    assert index.known.tolist() == list(order)


@pytest.mark.parametrize("step", [1, 2**10, 2**20, 2**31, 2**40, 300_000, 2**31 - 1, -3])
def test_regular_keys_do_not_crowd(step: int) -> None:
    keys = np.arange(20_000) * step
    index, numbers = numbered(no_index(), np.concatenate([keys, keys[::-1]]))
    assert np.array_equal(index.known, keys)
    assert np.array_equal(numbers[20_000:], np.arange(20_000)[::-1])
    taken = np.flatnonzero(index.table >= 0)
    runs = np.diff(np.flatnonzero(np.diff(taken, prepend=-2) != 1), append=taken.size)
    assert runs.max() < 2_000, "the longest search"


# ------------------------------------------------------------------------------------- without a compiler
def some_sums() -> dict[str, list[str]]:
    """Sums by every way there is, exact to the bit."""
    random = np.random.default_rng(7)
    values = random.standard_normal(3000) * 2.0 ** random.integers(-1000, 900, 3000)
    values[::50] = np.resize([TINY, LARGEST, -LARGEST, 0.0, -0.0, SMALLEST], 60)
    starts = np.append(0, np.cumsum(random.integers(0, 25, 200)))
    slots = random.integers(0, 40, values.size)
    whole, part = no_sums(40), no_sums(40)
    add_exactly(whole, slots[:2000], values[:2000])
    add_exactly(part, slots[2000:], values[2000:])
    carry(whole)
    merge_sums(whole, part, np.arange(40))
    huge = np.full(40, LARGEST)
    return {
        "groups": [value.hex() for value in exact_sums(values, starts).tolist()],
        "slots": [value.hex() for value in rounded_sums(whole).tolist()],
        "huge": [value.hex() for value in exact_sums(huge, np.array([0, 3, 40])).tolist()],
        "numbers": [str(number) for number in numbered(no_index(8), slots * 2**45 - 9)[1].tolist()],
    }


def test_sums_are_the_same_compiled_and_not_and_nothing_warns() -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(root), "NUMBA_DISABLE_JIT": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == some_sums()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(some_sums()))
