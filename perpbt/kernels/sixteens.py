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

    def lower(one: Any, other: Any) -> Any:
        """The smaller of each two."""
        return np.where(one < other, one, other)

    def upper(one: Any, other: Any) -> Any:
        """The larger of each two."""
        return np.where(one > other, one, other)

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

    @intrinsic
    def sixteen(context: Any, array: Any, at: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            data = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=values[0]).data  # type: ignore[no-untyped-call]
            place = builder.bitcast(builder.gep(data, [values[1]]), VECTOR.as_pointer())
            return builder.load(place, align=4)

        return SIXTEEN(array, types.int64), build

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
                empty = ir.Constant(VECTOR, ir.Undefined)
                held = builder.insert_element(empty, values[1], ir.Constant(I32, 0))
                order = ir.Constant(ir.VectorType(I32, WIDE), [0] * WIDE)
                lanes = builder.fcmp_ordered(sign, values[0], builder.shuffle_vector(held, empty, order))
                found = builder.bitcast(lanes, BITS)
                if not lanes_of:
                    found = builder.icmp_unsigned("!=", found, ir.Constant(BITS, 0))
                return builder.zext(found, ir.IntType(64))

            return types.int64(SIXTEEN, types.float32), build

        return intrinsic(typed)

    lower, upper = pairwise("<"), pairwise(">")
    sinks, rises = compared("<=", False), compared(">=", False)
    sunk, risen = compared("<=", True), compared(">=", True)
