"""`perpbt bench`: what perpbt costs on this machine, and against vectorbt.

In: options. Out: tables, as text and as values for JSON. Prices and accounts are made, so no data are
needed. Every measurement first compares results, and nothing is printed if any of them differ. Only public
names of perpbt are used: what is timed is what a user would call.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import perpbt
from perpbt import InputError
from perpbt.bench import coupled, engines, peers, processes, scaling, trades, wallets
from perpbt.bench.baseline import SCHEMA, read, side_by_side
from perpbt.bench.measures import memory_mib
from perpbt.bench.sizes import FULL, QUICK, Sizes
from perpbt.bench.tables import Table, render

__all__ = ["FULL", "QUICK", "SECTIONS", "Sizes", "bench"]

Section = Callable[[Sizes, int | None], list[Table]]
SECTIONS: dict[str, Section] = {
    "engines": lambda sizes, threads: engines.compared(sizes),
    "scaling": scaling.compared,
    "wallets": lambda sizes, threads: [wallets.compared(sizes)],
    "trades": lambda sizes, threads: [trades.compared(sizes, threads)],
    "coupled": lambda sizes, threads: coupled.compared(sizes),
    "vectorbt": lambda sizes, threads: [peers.compared(sizes, threads)],
    "memory": lambda sizes, threads: [processes.memory(sizes, threads)],
    "stages": lambda sizes, threads: [processes.stages(sizes, threads)],
}
LIBRARIES = ("numpy", "numba", "polars", "vectorbt", "vectorbt-rust")


def bench(
    sizes: Sizes,
    *,
    threads: int | None = None,
    against: str | None = None,
    peer_gib: float | None = None,
    only: Sequence[str] = (),
    target: Path | None = None,
    baseline: Path | None = None,
    progress: Callable[[str], None] = lambda words: None,
) -> dict[str, Any]:
    """Measure, and return the report, with `text` for a person.

    Args:
        threads: of perpbt; default all cores. The engines are compared on one.
        against: "vectorbt", which must then be installed; "none"; or None: vectorbt if it is installed.
        peer_gib: memory that vectorbt may fill with accounts; default that of `sizes`.
        only: names of SECTIONS; default all.
        target: a JSON file to write the report to; its folder exists.
        baseline: such a file, which the text sets this report beside.
        progress: told what is being done.

    Raises:
        InputError: an option is wrong. RunError: two sides differ; there is no report then.
    """
    wanted, notes = chosen(against, only)
    if threads is not None and threads < 1:
        raise InputError(f"--threads {threads}: allowed: at least 1")
    before = None if baseline is None else read(baseline)
    if target is not None and (target.is_dir() or not target.parent.is_dir()):
        raise InputError(f"--json {target}: allowed: a file in a folder that exists")
    if peer_gib is not None:
        if not 0 < peer_gib < math.inf:
            raise InputError(f"--vectorbt-memory {peer_gib}: allowed: a number of GiB above 0")
        sizes = replace(sizes, peer_gib=peer_gib)
    found: list[Table] = []
    for number, name in enumerate(wanted, start=1):
        progress(f"{number} of {len(wanted)}: {name}")
        found += SECTIONS[name](sizes, threads)
    report = {
        "schema": SCHEMA,
        "taken": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "options": {"sizes": asdict(sizes), "threads": threads, "sections": wanted},
        "tables": [table.plain() for table in found],
        "notes": notes,
    }
    if target is not None:
        target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    beside = [] if before is None else [side_by_side(before, report)]
    return {**report, "text": "\n\n".join([written(report), *beside])}


def chosen(against: str | None, only: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sections to run, and what is to be said of those that are not."""
    if against not in (None, "vectorbt", "none"):
        raise InputError(f"--against {against}: allowed: vectorbt, none")
    for name in only:
        if name not in SECTIONS:
            raise InputError(f"--only {name}: allowed: {', '.join(SECTIONS)}")
    wanted = [name for name in SECTIONS if name in only or not only]
    if "vectorbt" not in wanted or peers.installed():
        return [name for name in wanted if name != "vectorbt" or against != "none"], []
    if against == "vectorbt":
        raise InputError(f"--against vectorbt: {peers.MISSING}")
    return [name for name in wanted if name != "vectorbt"], [] if against == "none" else [peers.MISSING]


def machine() -> dict[str, Any]:
    """What this ran on."""
    memory = memory_mib("MemTotal") / 2**10
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1) if math.isfinite(memory) else None,
        "system": platform.system(),
        "architecture": platform.machine(),
    }


def processor() -> str:
    """The processor's name where the system tells it."""
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Python, perpbt and what was installed of the libraries that decide speed."""
    found = {"python": platform.python_version(), "perpbt": perpbt.__version__}
    installed = {one.metadata["Name"].lower() for one in metadata.distributions()}
    return found | {name: metadata.version(name) for name in LIBRARIES if name in installed}


def written(report: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    on, by = report["machine"], report["versions"]
    memory = f"{on['memory_gib']:.0f} GiB, " if on["memory_gib"] else ""
    place = f"{on['processor']}, {on['cores']} cores, {memory}{on['system']}"
    head = f"{place}; {', '.join(f'{name} {number}' for name, number in by.items())}"
    return "\n\n".join([head, *(render(table) for table in report["tables"]), *report["notes"]])
