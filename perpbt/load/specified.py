"""The bars of a run's specification: found before all else that a run needs is imported, and read meanwhile."""

from __future__ import annotations

from perpbt.config import RunSpec
from perpbt.load.bars import Bars, load_bars


def bars_of(spec: RunSpec) -> Bars:
    """The bars a specification asks for. Raises `InputError`."""
    data = spec.data
    return load_bars(
        spec.resolve(data.path),
        symbols=data.symbols,
        start=data.start,
        end=data.end,
        funding=None if data.funding is None else spec.resolve(data.funding),
    )


def begun(spec: RunSpec) -> Bars:
    """The same, and the first symbol is being read; not where memory is bounded, for then there is a plan to it."""
    bars = bars_of(spec)
    if spec.memory is None:
        bars.begin(bars.symbols[0])
    return bars
