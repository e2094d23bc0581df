"""Books of positions for the tests of deleveraging: worked ones, and random ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from perpbt.adl import Candidates


def book(
    quantity: Any,
    *,
    entry: Any = 100.0,
    mark: Any = 100.0,
    margin: Any = 10.0,
    side: Any = 1.0,
    **columns: Any,
) -> Candidates:
    """Candidates from few columns: no funding, 1 % maintenance, bankruptcy where margin and profit end."""
    quantity = np.asarray(quantity, dtype=np.float64)
    whole = {"entry": entry, "mark": mark, "margin": margin, "side": side, "funding_paid": 0.0, **columns}
    full = {
        name: np.broadcast_to(np.asarray(value, np.float64), quantity.shape) for name, value in whole.items()
    }
    full.setdefault("maintenance", 0.01 * quantity * full["mark"])
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.where(quantity > 0.0, (full["margin"] - full["funding_paid"]) / quantity, np.inf)
    full.setdefault("bankruptcy", full["entry"] - full["side"] * apart)
    identifier = full.pop("identifier", np.arange(quantity.size))
    return Candidates(quantity=quantity, identifier=np.asarray(identifier, dtype=np.int64), **full)


def running_example(time: int) -> Candidates:
    """Chitra's running example after `time` (1 or 2) steps: positions A to E, arXiv 2512.01112.

    Entry at 1, marks 1.4 and 1.3, oracle 1.5 and 1.25, funding of .6 - mark / oracle that longs receive
    where it is positive.
    """
    side = np.array([1.0, 1.0, -1.0, 1.0, -1.0])
    quantity = np.array([1.0, 1.0, 4.0, 1.0, 1.0])
    paid, mark = np.zeros(5), 1.0
    for mark, oracle in ((1.4, 1.5), (1.3, 1.25))[:time]:
        paid = paid - (0.6 - mark / oracle) * mark * side * quantity
    margin = np.array([2.0, 2 / 3, 8 / 3, 2 / 19, 10 / 99])
    return book(
        quantity,
        entry=1.0,
        mark=mark,
        margin=margin,
        side=side,
        funding_paid=paid,
        maintenance=0.1 * quantity * mark,
    )


@st.composite
def books(draw: st.DrawFn, *, whole: bool = False, winners: bool = False, largest: int = 12) -> Candidates:
    """Random candidates, longs at a mark of 100: ties, positions of nothing and without equity among them."""
    count = draw(st.integers(1, largest))
    many = {"min_size": count, "max_size": count}
    sizes = st.integers(0, 50).map(float) if whole else st.floats(0.0, 1e4).map(lambda size: round(size, 4))
    margins = st.one_of(st.floats(0.5, 5e3), st.just(0.0), st.just(100.0))
    lowest = 60.0 if winners else 40.0
    identifiers = draw(st.permutations(range(10, 10 + count)))
    return book(
        draw(st.lists(sizes, **many)),
        entry=draw(st.lists(st.floats(lowest, 99.5 if winners else 160.0), **many)),
        margin=draw(st.lists(margins, **many)),
        funding_paid=draw(st.lists(st.one_of(st.just(0.0), st.floats(-50, 50)), **many)),
        identifier=identifiers,
    )
