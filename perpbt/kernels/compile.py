"""The one place that states how kernels are compiled.

In: a plain function of arrays, numbers and NamedTuples of them. Out: the same function compiled, without
fastmath (it would move events that sit exactly on a threshold) and without the interpreter lock, so that
chunks of accounts run on threads.

Compiled code is kept on disk in a folder named by a hash of every kernel source. Numba's own cache looks
only at the file that holds the function, and would go on serving old margin code after an edit in a file it
calls.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core import config

Function = TypeVar("Function", bound=Callable[..., Any])


def sources_hash() -> str:
    """Sha256 over every kernel source and what else decides what it compiles to: versions, bounds checks."""
    modes = (numba.__version__, np.__version__, sys.version_info[:2], config.BOUNDSCHECK)  # type: ignore[attr-defined]
    digest = hashlib.sha256(repr(modes).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where compiled kernels are kept: under PERPBT_CACHE if set, else the user's cache folder."""
    home = os.environ.get("PERPBT_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "perpbt" / "kernels" / sources_hash()[:16]


_FOLDER = str(cache_folder())


def kernel(function: Function) -> Function:
    """Compile on first use; a second process with the same sources loads the result from disk."""
    before = config.CACHE_DIR  # type: ignore[attr-defined]
    config.CACHE_DIR = _FOLDER  # type: ignore[attr-defined]
    # read once, while the function is decorated; other packages keep their own
    try:
        compiled = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = before  # type: ignore[attr-defined]
    return compiled  # type: ignore[return-value]
