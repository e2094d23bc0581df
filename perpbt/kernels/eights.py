"""Eight numbers at a time: what lies side by side in memory, in one register where the processor has such.

Each operation is that of plain numbers, rounded alike, on eight of them; none is left to the compiler to find, which takes such short
loops apart. A set of lanes is an integer, bit k for lane k. Without compilation eight numbers are a list.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, models, register_model

WIDTH = 8
ir: Any = cgutils.ir  # type: ignore[attr-defined]

if config.DISABLE_JIT:  # type: ignore[attr-defined]

    def eight(array: Any, at: Any) -> Any:
        """The numbers that stand at the `at`-th of an array's and after it; what is beyond its end is of no account."""
        flat = array.view(np.float64).reshape(-1)[int(at) : int(at) + WIDTH]
        return np.append(flat, np.zeros(WIDTH - flat.size))

    def put(array: Any, at: Any, values: Any) -> int:
        """Write them there."""
        array.view(np.float64).reshape(-1)[int(at) : int(at) + WIDTH] = values
        return 0

    def spread(value: Any) -> Any:
        """Eight of one number."""
        return np.full(WIDTH, value)

    def plus(one: Any, other: Any) -> Any:
        """Sums."""
        return one + other

    def minus(one: Any, other: Any) -> Any:
        """Differences."""
        return one - other

    def times(one: Any, other: Any) -> Any:
        """Products."""
        with np.errstate(all="ignore"):
            return one * other

    def over(one: Any, other: Any) -> Any:
        """Quotients."""
        with np.errstate(all="ignore"):
            return one / other

    def larger(one: Any, other: Any) -> Any:
        """The larger of each two."""
        return np.where(one > other, one, other)

    def most_of(values: Any) -> float:
        """The largest."""
        return float(values.max())

    def at_most(one: Any, other: Any) -> int:
        """The lanes in which the first is at most the second."""
        return sum(1 << k for k in range(WIDTH) if one[k] <= other[k])

    def chosen(lanes: Any, one: Any, other: Any) -> Any:
        """Of these lanes the first, of the others the second."""
        return np.array([one[k] if int(lanes) >> k & 1 else other[k] for k in range(WIDTH)])

    def before(values: Any, first: Any, away: int) -> Any:
        """Each lane's the one `away` (1, 2 or 4) lanes before it; those without one have `first`."""
        return np.append(np.full(away, first), values[: WIDTH - away])

    def one_of(values: Any, lane: Any) -> float:
        """The number of one lane."""
        return float(values[int(lane)])

    def lowest_lane(lanes: Any) -> int:
        """The first lane of a set that is not empty."""
        return (int(lanes) & -int(lanes)).bit_length() - 1

else:
    VECTOR, SET = ir.VectorType(ir.DoubleType(), WIDTH), ir.VectorType(ir.IntType(1), WIDTH)
    I32 = ir.IntType(32)

    class Eight(types.Type):
        """Of eight numbers."""

        def __init__(self) -> None:
            super().__init__(name="Eight")

    EIGHT = Eight()

    @register_model(Eight)
    class EightModel(models.PrimitiveModel):
        """A register."""

        def __init__(self, manager: Any, kind: Any) -> None:
            super().__init__(manager, kind, VECTOR)  # type: ignore[no-untyped-call]

    def place(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
        """Where the `at`-th number of an array stands."""
        data = cgutils.create_struct_proxy(kind)(context, builder, value=array).data  # type: ignore[no-untyped-call]
        numbers = builder.bitcast(data, ir.DoubleType().as_pointer())
        return builder.bitcast(builder.gep(numbers, [at]), VECTOR.as_pointer())

    def spread_of(builder: Any, value: Any) -> Any:
        """A number in every lane."""
        empty = ir.Constant(VECTOR, ir.Undefined)
        held = builder.insert_element(empty, value, ir.Constant(I32, 0))
        return builder.shuffle_vector(held, empty, ir.Constant(ir.VectorType(I32, WIDTH), [0] * WIDTH))

    def pairwise(operation: str) -> Any:
        """An operation on each two of two eights."""

        def typed(context: Any, one: Any, other: Any) -> Any:
            def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                if operation == "larger":
                    return builder.select(builder.fcmp_ordered(">", *values), *values)
                return getattr(builder, operation)(*values)

            return EIGHT(EIGHT, EIGHT), build

        return intrinsic(typed)

    plus, minus, times, over = pairwise("fadd"), pairwise("fsub"), pairwise("fmul"), pairwise("fdiv")
    larger = pairwise("larger")

    @intrinsic
    def most_of(context: Any, numbers: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            held, away = values[0], WIDTH // 2
            while away:
                lanes = [(k + away) % WIDTH for k in range(WIDTH)]
                order = ir.Constant(ir.VectorType(I32, WIDTH), lanes)
                other = builder.shuffle_vector(held, held, order)
                held = builder.select(builder.fcmp_ordered(">", held, other), held, other)
                away //= 2
            return builder.extract_element(held, ir.Constant(I32, 0))

        return types.float64(EIGHT), build

    @intrinsic
    def eight(context: Any, array: Any, at: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.load(place(context, builder, signature.args[0], *values), align=8)

        return EIGHT(array, types.int64), build

    @intrinsic
    def put(context: Any, array: Any, at: Any, numbers: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            builder.store(values[2], place(context, builder, signature.args[0], *values[:2]), align=8)
            return ir.Constant(ir.IntType(64), 0)

        return types.int64(array, types.int64, EIGHT), build

    @intrinsic
    def spread(context: Any, value: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return spread_of(builder, values[0])

        return EIGHT(types.float64), build

    @intrinsic
    def at_most(context: Any, one: Any, other: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            lanes = builder.bitcast(builder.fcmp_ordered("<=", *values), ir.IntType(WIDTH))
            return builder.zext(lanes, ir.IntType(64))

        return types.int64(EIGHT, EIGHT), build

    @intrinsic
    def chosen(context: Any, lanes: Any, one: Any, other: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            picked = builder.bitcast(builder.trunc(values[0], ir.IntType(WIDTH)), SET)
            return builder.select(picked, values[1], values[2])

        return EIGHT(types.int64, EIGHT, EIGHT), build

    @intrinsic(prefer_literal=True)
    def before(context: Any, numbers: Any, first: Any, away: Any) -> Any:
        steps = away.literal_value

        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            lanes = [WIDTH] * steps + list(range(WIDTH - steps))
            order = ir.Constant(ir.VectorType(I32, WIDTH), lanes)
            return builder.shuffle_vector(values[0], spread_of(builder, values[1]), order)

        return EIGHT(EIGHT, types.float64, away), build

    @intrinsic
    def one_of(context: Any, numbers: Any, lane: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.extract_element(values[0], builder.trunc(values[1], I32))

        return types.float64(EIGHT, types.int64), build

    @intrinsic
    def lowest_lane(context: Any, lanes: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.cttz(values[0], ir.Constant(ir.IntType(1), 0))

        return types.int64(types.int64), build
