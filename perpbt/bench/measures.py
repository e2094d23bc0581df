"""How time and memory are taken, and how two sides are compared before either is timed.

In: something to call, or two frames. Out: median seconds, mebibytes, or a `RunError` that names the first
difference.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import polars as pl

import perpbt

ENOUGH = 20.0  # seconds after which a measurement is not repeated once more
T = TypeVar("T")


def repeated(call: Callable[[], T], times: int, enough: float = ENOUGH) -> tuple[float, T]:
    """Median seconds of up to `times` calls, and what the last one returned."""
    taken: list[float] = []
    while True:
        since = time.perf_counter()
        found = call()
        taken.append(time.perf_counter() - since)
        if len(taken) >= times or sum(taken) > enough:
            return statistics.median(taken), found
        del found  # results are large; the next one is made without it


@dataclass(frozen=True)
class Cost:
    """Median seconds of a run: in the kernels, and from call to result."""

    kernels: float
    whole: float
    positions: int


def cost(run: Callable[[], perpbt.Result], times: int) -> Cost:
    """What a run takes. Everything it needs is compiled and warm once it has been run before."""
    kernels: list[float] = []

    def once() -> int:
        result = run()
        kernels.append(result.metadata["timings_seconds"]["kernels"])
        return result.accounts.height

    whole, positions = repeated(once, times)
    return Cost(statistics.median(kernels), whole, positions)


def same(what: str, names: tuple[str, str], one: pl.DataFrame, other: pl.DataFrame) -> None:
    """Refuse to go on if two tables differ anywhere. Nulls equal nulls."""
    if one.equals(other):
        return
    place = "their columns or numbers of rows"
    if one.schema == other.schema and one.height == other.height:
        column = next(name for name in one.columns if not one[name].equals(other[name]))
        row = int(one[column].ne_missing(other[column]).arg_true()[0])
        place = f"{column} of row {row}: {one[column][row]!r} and {other[column][row]!r}"
    raise perpbt.RunError(f"{what}: {names[0]} and {names[1]} differ in {place}; no timing is printed")


def peak_mib() -> float:
    """The most memory this process has held, MiB; nan where the system does not say.

    On Linux not from `getrusage`, whose figure a child inherits from the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    if sys.platform == "win32":
        return float("nan")
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def memory_mib(which: str = "MemAvailable") -> float:
    """Memory that could be had now, or "MemTotal", MiB; infinite where the system does not say."""
    file = Path("/proc/meminfo")
    if not file.exists():
        return float("inf")
    line = next(line for line in file.read_text().splitlines() if line.startswith(which))
    return int(line.split()[1]) / 2**10


def short_of(what: str, bytes_wanted: float) -> str | None:
    """A sentence for the table if something does not fit into free memory."""
    wanted, free = bytes_wanted / 2**20, memory_mib()
    return (
        f"  {what} left out: they take some {wanted:,.0f} MiB, {free:,.0f} are free."
        if wanted > free
        else None
    )
