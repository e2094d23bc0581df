"""The one place that states how kernels are compiled.

In: a plain function of arrays, numbers and NamedTuples of them. Out: the same function compiled, without
fastmath (it would move events that sit exactly on a threshold) and without the interpreter lock, so that
chunks of accounts run on threads. `kernel` is for functions that are called from Python, `part` for those
that kernels are made of, `aside` for what they seldom need.

Compiled code is kept on disk in a folder named by a hash of every kernel source, and nowhere else. Numba's own cache looks
only at the file that holds the function, and would go on serving old margin code after an edit in a file it
calls.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core import cgutils, config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, UserProvidedCacheLocator
from numba.core.runtime.nrt import rtsys
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])
Array = TypeVar("Array")


def sources_hash() -> str:
    """Sha256 over every kernel source and what else decides what it compiles to: versions, bounds checks."""
    modes = (numba.__version__, np.__version__, sys.version_info[:2], config.BOUNDSCHECK)  # type: ignore[attr-defined]
    digest = hashlib.sha256(repr(modes).encode())
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where compiled kernels are kept: under PERPBT_CACHE if set, else the user's cache folder."""
    home = os.environ.get("PERPBT_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "perpbt" / "kernels" / sources_hash()[:16]


_FOLDER = str(cache_folder())
BROKEN = (EOFError, pickle.UnpicklingError)  # what a file raises that is not all there


class Place(UserProvidedCacheLocator):
    """Our folder, also where nothing can be written to it: numba would turn to folders that no hash names."""

    @classmethod
    def from_function(cls, py_func: Any, py_file: Any) -> Any:
        return cls(py_func, py_file)


class Placed(CompileResultCacheImpl):
    """How numba finds the folder."""

    _locator_classes = [Place]  # noqa: RUF012


@cache
def warn_of(fault: str) -> None:
    """Say once that compiled code is not kept."""
    warnings.warn(
        f"{_FOLDER}: compiled kernels cannot be kept there ({fault}), so that every process compiles them anew, for a minute or two; "
        "allowed: a folder that can be written to, named by PERPBT_CACHE",
        RuntimeWarning,
        stacklevel=2,
    )


class Cache(FunctionCache):
    """What is compiled, on disk.

    Numba imports all it could need for compiling, a quarter of a second's worth, before it so much as looks for what has been compiled
    long ago. Only what it finds nothing for is compiled, and it gets ready for that by itself.
    """

    _impl_class = Placed

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)  # compiled code allocates with it
        try:
            with self._guard_against_spurious_io_errors():
                return super()._load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except (*BROKEN, OSError):  # cut off as the power failed, or not ours to read: compiled again
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            try:
                super().save_overload(sig, data)  # type: ignore[no-untyped-call]
            except BROKEN:
                self.flush()  # type: ignore[no-untyped-call]
                super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except OSError as error:
            warn_of(error.strerror or str(error))

    def found(self) -> list[Any]:
        """Of what is kept: signatures, processors and byte code."""
        try:
            return list(self._cache_file._load_index())  # type: ignore[no-untyped-call]
        except (*BROKEN, OSError):
            return []


def compiled(function: Function, **options: Any) -> Function:
    """Compile on first use; a second process with the same sources loads the result from disk."""
    before = config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES  # type: ignore[attr-defined]
    config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = _FOLDER, ""  # type: ignore[attr-defined]
    # read once, while the function is decorated; other packages keep their own
    try:
        made: Any = numba.njit(nogil=True, error_model="numpy", **options)(function)
        if not config.DISABLE_JIT:  # type: ignore[attr-defined]
            made._cache = Cache(function)  # type: ignore[no-untyped-call]
    finally:
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = before  # type: ignore[attr-defined]
    return made


def kernel(function: Function) -> Function:
    """Compile a function that is called from Python."""
    return compiled(function)


def load(*kernels: Callable[..., Any]) -> None:
    """Load from disk what kernels were compiled to, where they were; on their first call it is there. From any thread."""
    for one in kernels:
        made: Any = one
        if config.DISABLE_JIT or made.signatures:  # type: ignore[attr-defined]
            continue
        kept, target = made._cache, made.targetctx
        for key in kept.found():
            if key == kept._index_key(key[0], target.codegen()):  # for this processor
                made.compile(key[0])


def part(function: Function) -> Function:
    """Compile a function into the kernels that call it: to pass it its tables and positions would cost more than most parts do."""
    return compiled(function, forceinline=True)


def aside(function: Function) -> Function:
    """Compile a function that kernels call now and then: it makes none of them longer, and each of them quicker to compile."""
    return compiled(function)


def bare(array: Array) -> Array:
    """The same array, with its owner forgotten: in compiled code, handing it on counts no references.

    Counting is an atomic operation for each array and call, ten times the work of a short position. Whoever makes an array bare holds
    the array itself until the last use of the bare one: a kernel that made it says `hold` there.
    """
    return array


@part
def hold(array: Any) -> int:
    """Keep an array until here: it is let go of after its last use as a whole.

    To write to one of its records would not do: the record is found, the array let go of, and then written to.
    """
    return int(array.size)


if not config.DISABLE_JIT:  # type: ignore[attr-defined]

    @intrinsic
    def bare(context: Any, array: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            proxy: Any = cgutils
            held = proxy.create_struct_proxy(signature.args[0])(context, builder, value=arguments[0])
            held.meminfo = proxy.get_null_value(held.meminfo.type)
            held.parent = proxy.get_null_value(held.parent.type)
            return held._getvalue()

        return array(array), build
