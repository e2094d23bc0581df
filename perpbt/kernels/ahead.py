"""Asking for memory ahead of its use, so that it is there when its turn comes: nothing is read, and no result depends on it.

A position reads some fifty lines of memory, of which few are in the cache where the history is long and positions are far between. One
read tells where the next has to be, so they wait for each other; what can be known earlier is asked for earlier.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

ir: Any = cgutils.ir  # type: ignore[attr-defined]
LINE = 8  # numbers to a line of the cache

if config.DISABLE_JIT:  # type: ignore[attr-defined]

    def fetch(array: Any, at: Any) -> int:
        """Ask for the line of the `at`-th number of an array, to be read."""
        return 0

    def claim(array: Any, at: Any) -> int:
        """The same, to be written."""
        return 0

else:

    def asked(to_write: int) -> Any:
        """The processor's own way to ask for a line: into the second cache, for the first can wait for few lines at a time."""

        def typed(context: Any, array: Any, at: Any) -> Any:
            def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                proxy: Any = cgutils
                data = proxy.create_struct_proxy(signature.args[0])(context, builder, value=values[0]).data
                numbers = builder.bitcast(data, ir.DoubleType().as_pointer())
                byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
                place = builder.bitcast(builder.gep(numbers, [values[1]]), byte)
                kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
                ask = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
                builder.call(ask, [place, *(ir.Constant(i32, k) for k in (to_write, 2, 1))])
                return ir.Constant(ir.IntType(64), 0)

            return types.int64(array, types.int64), build

        return intrinsic(typed)

    fetch, claim = asked(0), asked(1)
