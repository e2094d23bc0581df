"""Sixteen numbers of half the digits at a time, as `eights` has eight: to compare many bars with a level."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, models, register_model

WIDE = 16
ir: Any = cgutils.ir  # type: ignore[attr-defined]

if config.DISABLE_JIT:  # type: ignore[attr-defined]

    def sixteen(array: Any, at: Any) -> Any:
        """The numbers that stand at the `at`-th of an array's and after it."""
        return array.reshape(-1)[int(at) : int(at) + WIDE]

    def put_sixteen(array: Any, at: Any, values: Any) -> int:
        """Write them there."""
        array.reshape(-1)[int(at) : int(at) + WIDE] = values
        return 0

    def lower(one: Any, other: Any) -> Any:
        """The smaller of each two."""
        return np.where(one < other, one, other)

    def upper(one: Any, other: Any) -> Any:
        """The larger of each two."""
        return np.where(one > other, one, other)

    def everywhere(value: Any) -> Any:
        """Sixteen of one number."""
        return np.full(WIDE, value, dtype=np.float32)

    def only(lanes: Any, values: Any, other: Any) -> Any:
        """The numbers of these lanes, bit k for lane k; elsewhere another."""
        return np.array([values[k] if int(lanes) >> k & 1 else other for k in range(WIDE)], dtype=np.float32)

    def lowest_of(values: Any) -> Any:
        """The smallest."""
        return values.min()

    def highest_of(values: Any) -> Any:
        """The largest."""
        return values.max()

    def lowest_of_each(array: Any, at: Any) -> Any:
        """Of sixteen sixteens, one after the other from the `at`-th number of an array on, the smallest of each."""
        return array.reshape(-1)[int(at) : int(at) + WIDE * WIDE].reshape(WIDE, WIDE).min(axis=1)

    def highest_of_each(array: Any, at: Any) -> Any:
        """The largest of each."""
        return array.reshape(-1)[int(at) : int(at) + WIDE * WIDE].reshape(WIDE, WIDE).max(axis=1)

    def sinks(values: Any, level: Any) -> int:
        """1 if any is at or below the level, else 0."""
        return int((values <= level).any())

    def rises(values: Any, level: Any) -> int:
        """1 if any is at or above the level, else 0."""
        return int((values >= level).any())

    def sunk(values: Any, level: Any) -> int:
        """The lanes at or below the level: bit k for lane k."""
        return sum(1 << k for k in range(WIDE) if values[k] <= level)

    def risen(values: Any, level: Any) -> int:
        """The lanes at or above the level."""
        return sum(1 << k for k in range(WIDE) if values[k] >= level)

else:
    VECTOR, BITS, I32 = ir.VectorType(ir.FloatType(), WIDE), ir.IntType(WIDE), ir.IntType(32)
    SET = ir.VectorType(ir.IntType(1), WIDE)

    class Sixteen(types.Type):
        """Of sixteen numbers."""

        def __init__(self) -> None:
            super().__init__(name="Sixteen")

    SIXTEEN = Sixteen()

    @register_model(Sixteen)
    class SixteenModel(models.PrimitiveModel):
        """A register."""

        def __init__(self, manager: Any, kind: Any) -> None:
            super().__init__(manager, kind, VECTOR)  # type: ignore[no-untyped-call]

    def place(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
        """Where the `at`-th number of an array stands."""
        data = cgutils.create_struct_proxy(kind)(context, builder, value=array).data  # type: ignore[no-untyped-call]
        return builder.bitcast(builder.gep(data, [at]), VECTOR.as_pointer())

    @intrinsic
    def sixteen(context: Any, array: Any, at: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.load(place(context, builder, signature.args[0], *values), align=4)

        return SIXTEEN(array, types.int64), build

    @intrinsic
    def put_sixteen(context: Any, array: Any, at: Any, numbers: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            builder.store(values[2], place(context, builder, signature.args[0], *values[:2]), align=4)
            return ir.Constant(ir.IntType(64), 0)

        return types.int64(array, types.int64, SIXTEEN), build

    def spread_of(builder: Any, value: Any) -> Any:
        """A number in every lane."""
        empty = ir.Constant(VECTOR, ir.Undefined)
        held = builder.insert_element(empty, value, ir.Constant(I32, 0))
        return builder.shuffle_vector(held, empty, ir.Constant(ir.VectorType(I32, WIDE), [0] * WIDE))

    @intrinsic
    def everywhere(context: Any, value: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return spread_of(builder, values[0])

        return SIXTEEN(types.float32), build

    @intrinsic
    def only(context: Any, lanes: Any, numbers: Any, other: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            picked = builder.bitcast(builder.trunc(values[0], BITS), SET)
            return builder.select(picked, values[1], spread_of(builder, values[2]))

        return SIXTEEN(types.int64, SIXTEEN, types.float32), build

    def one_left(sign: str) -> Any:
        """Of all sixteen the one that compares so with every other."""

        def typed(context: Any, numbers: Any) -> Any:
            def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                held, size = values[0], WIDE
                while size > 1:  # one half against the other
                    size //= 2
                    first, second = (
                        builder.shuffle_vector(
                            held,
                            held,
                            ir.Constant(ir.VectorType(I32, size), [start + k for k in range(size)]),
                        )
                        for start in (0, size)
                    )
                    held = builder.select(builder.fcmp_ordered(sign, first, second), first, second)
                return builder.extract_element(held, ir.Constant(I32, 0))

            return types.float32(SIXTEEN), build

        return intrinsic(typed)

    lowest_of, highest_of = one_left("<"), one_left(">")

    def halves(size: int) -> tuple[list[int], list[int]]:
        """Of two sixteens made of groups of this size: where the first halves of all groups stand, and the second; one's group, the
        other's, one's.
        """
        first = [
            source + group + k
            for group in range(0, WIDE, size)
            for source in (0, WIDE)
            for k in range(size // 2)
        ]
        return first, [k + size // 2 for k in first]

    def whose() -> list[int]:
        """Which of sixteen sixteens each lane is of once they are halved and put together, pair by pair, until one is left."""
        held = [[k] * WIDE for k in range(WIDE)]
        while len(held) > 1:
            first, _ = halves(len(held))
            half = len(held) // 2
            held = [[(held[k] + held[half + k])[lane] for lane in first] for k in range(half)]
        return held[0]

    def each_left(sign: str) -> Any:
        """Of each of sixteen sixteens the one that compares so with all of its."""

        def typed(context: Any, array: Any, at: Any) -> Any:
            def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                held: list[Any] = [None] * WIDE
                for lane, source in enumerate(whose()):
                    away = builder.add(values[1], ir.Constant(ir.IntType(64), lane * WIDE))
                    held[source] = builder.load(
                        place(context, builder, signature.args[0], values[0], away), align=4
                    )
                while len(held) > 1:
                    half = len(held) // 2
                    orders = [ir.Constant(ir.VectorType(I32, WIDE), order) for order in halves(len(held))]
                    pairs = [
                        [builder.shuffle_vector(held[k], held[half + k], order) for order in orders]
                        for k in range(half)
                    ]
                    held = [builder.select(builder.fcmp_ordered(sign, *pair), *pair) for pair in pairs]
                return held[0]

            return SIXTEEN(array, types.int64), build

        return intrinsic(typed)

    lowest_of_each, highest_of_each = each_left("<"), each_left(">")

    def pairwise(sign: str) -> Any:
        """Of each two the one that compares so with the other."""

        def typed(context: Any, one: Any, other: Any) -> Any:
            def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                return builder.select(builder.fcmp_ordered(sign, *values), *values)

            return SIXTEEN(SIXTEEN, SIXTEEN), build

        return intrinsic(typed)

    def compared(sign: str, lanes_of: bool) -> Any:
        """Which lanes compare so with a level; or does any?"""

        def typed(context: Any, numbers: Any, level: Any) -> Any:
            def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                lanes = builder.fcmp_ordered(sign, values[0], spread_of(builder, values[1]))
                found = builder.bitcast(lanes, BITS)
                if not lanes_of:
                    found = builder.icmp_unsigned("!=", found, ir.Constant(BITS, 0))
                return builder.zext(found, ir.IntType(64))

            return types.int64(SIXTEEN, types.float32), build

        return intrinsic(typed)

    lower, upper = pairwise("<"), pairwise(">")
    sinks, rises = compared("<=", False), compared(">=", False)
    sunk, risen = compared("<=", True), compared(">=", True)
