"""The other side of the comparison: the same positions through vectorbt, in a process of its own.

In: a file of arrays written by `peers`. Out: a file with each position's exit and the seconds it took.
Run as `python -m perpbt.bench.vectorbt_side IN OUT`; the only module that needs the extra `perpbt[bench]`.

vectorbt fills at most one order a bar and column, so a position that perpbt opens at the open of bar e is
opened here at bar e - 1 for the same price; the stop is then looked at from bar e on, as there.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt

from perpbt.bench.measures import peak_mib, repeated

vectorbt: Any = importlib.import_module("vectorbt")  # untyped
order_nb: Any = importlib.import_module("vectorbt.portfolio.nb").order_nb
nothing_nb: Any = importlib.import_module("vectorbt.portfolio.nb").order_nothing_nb

Arrays = Mapping[str, Any]
Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
NEVER = -1


def engines() -> list[str]:
    """The engines of `from_signals` that are installed."""
    return ["numba", "rust"] if importlib.util.find_spec("vectorbt_rust") else ["numba"]


def stop_only(given: Arrays, engine: str) -> dict[str, np.ndarray]:
    """`from_signals`: an entry and a stop each. Arrays lie in the order the loop reads them, and no more
    orders are allowed for than there can be, which makes it fastest and smallest.
    """
    bars, count = given["open"].size, given["entry"].size
    entries = np.zeros((bars, count), dtype=bool, order="F")
    entries[given["entry"] - 1, np.arange(count)] = True
    portfolio = vectorbt.Portfolio.from_signals(
        given["close"][:, None], entries, engine=engine,
        open=given["open"][:, None], high=given["high"][:, None], low=given["low"][:, None],
        direction=np.where(given["side"] > 0, 0, 1)[None, :],
        sl_stop=given["stop"][None, :], size=given["quantity"][None, :], init_cash=np.inf, max_orders=2 * count,
        broadcast_kwargs={"require_kwargs": {"requirements": ["W", "F"]}},
    )  # fmt: skip
    return exits(portfolio, count)


def exits(portfolio: Any, count: int) -> dict[str, np.ndarray]:
    """Bar and price of each column's second order, its exit; `NEVER` and nan if it has none."""
    orders = portfolio.orders.values
    bar, price = np.full(count, NEVER), np.full(count, np.nan)
    again = np.flatnonzero(orders["col"][1:] == orders["col"][:-1]) + 1
    bar[orders["col"][again]] = orders["idx"][again]
    price[orders["col"][again]] = orders["price"][again]
    return {"exit_bar": bar, "exit_price": price}


@numba.njit
def same_physics(
    c: Any,
    entry: Integers, side: Floats, quantity: Floats, margin: Floats, stop: Floats,
    rate: float, fee: float, slippage: float,
    first: Floats, high: Floats, low: Floats, mark_open: Floats, mark_high: Floats, mark_low: Floats, carried: Floats,
    level: Floats, floor: Floats, liquidated: npt.NDArray[np.bool_], funding: Floats,
) -> Any:  # fmt: skip
    """One account at one bar: funding since entry, liquidation and stop at the open, then in the range.

    `carried` is cumulative funding per unit. `level` (stop price), `floor` (what the market is compared with
    for liquidation), `liquidated` and `funding` are this account's state.
    """
    i, col = c.i, c.col
    s = side[col]
    if c.position_now == 0.0:
        if i != entry[col] - 1:
            return nothing_nb()
        fill = first[i + 1] * (1.0 + s * slippage)
        level[col] = fill * (1.0 - s * stop[col])
        floor[col] = (fill - carried[i + 1]) - s * (margin[col] / quantity[col])
        return order_nb(size=s * quantity[col], price=first[i + 1], fees=fee, slippage=slippage)
    base = np.nan
    worst, worst_mark = (low[i], mark_low[i]) if s > 0 else (high[i], mark_high[i])
    if i > entry[col]:
        if s * (mark_open[i] * (1.0 - s * rate) - carried[i] - floor[col]) <= 0.0:
            base, liquidated[col] = first[i], True
        elif s * (first[i] - level[col]) <= 0.0:
            base = first[i]
    if np.isnan(base):
        fallen = s * (worst_mark * (1.0 - s * rate) - carried[i] - floor[col]) <= 0.0
        stopped = s * (worst - level[col]) <= 0.0
        threshold = level[col]
        if fallen:
            price = (floor[col] + carried[i]) / (1.0 - s * rate)
            if not stopped or s * (price - level[col]) >= 0.0:
                threshold, liquidated[col] = price, True
        if not (fallen or stopped):
            return nothing_nb()
        base = s * min(s * threshold, s * first[i])
        base = min(max(base, low[i]), high[i])
    funding[col] = -((s * quantity[col]) * (carried[i] - carried[entry[col]]))
    return order_nb(size=-c.position_now, price=base, fees=fee, slippage=slippage)


def all_physics(given: Arrays) -> dict[str, np.ndarray]:
    """`from_order_func` with stop, liquidation and funding kept in arrays of the user's own."""
    bars, count = given["open"].size, given["entry"].size
    level, floor, funding = np.full((3, count), np.nan)
    liquidated = np.zeros(count, dtype=bool)
    columns = ("entry", "side", "quantity", "margin", "stop")
    prices = ("open", "high", "low", "mark_open", "mark_high", "mark_low", "carried")
    portfolio = vectorbt.Portfolio.from_order_func(
        np.broadcast_to(given["close"][:, None], (bars, count)), same_physics,
        *[given[name] for name in columns], float(given["rate"]), float(given["fee"]), float(given["slippage"]),
        *[given[name] for name in prices], level, floor, liquidated, funding,
        init_cash=np.inf, max_orders=2 * count, max_logs=1, fill_pos_record=False,
        broadcast_kwargs={"require_kwargs": {"requirements": ["W", "F"]}},
    )  # fmt: skip
    return {**exits(portfolio, count), "liquidated": liquidated, "funding": funding}


def few(given: Arrays, count: int = 2) -> dict[str, Any]:
    """The first accounts only: enough to have everything compiled."""
    columns = ("entry", "side", "quantity", "margin", "stop")
    return {name: value[:count] if name in columns else value for name, value in given.items()}


def measured(way: Callable[[Arrays], dict[str, Any]], given: Arrays) -> tuple[float, dict[str, Any]]:
    """Median seconds once everything is compiled, and what came out."""
    way(few(given))
    gc.collect()  # what pandas leaves behind holds large arrays
    return repeated(lambda: way(given), int(given["repeat"]))


def main(source: Path, target: Path) -> None:
    """Run every way there is and write the exits and seconds of the fastest."""
    given = dict(np.load(source))
    ways: dict[str, Callable[[Arrays], dict[str, Any]]] = {"numba": all_physics}
    if given["mode"] == "stop_only":
        ways = {engine: partial(stop_only, engine=engine) for engine in engines()}
    found = {name: measured(way, given) for name, way in ways.items()}
    best = min(found, key=lambda name: found[name][0])
    seconds, left = found[best]
    told: dict[str, Any] = {
        "seconds": seconds,
        "way": best,
        "peak_mib": peak_mib(),
        "version": vectorbt.__version__,
    }
    np.savez(target, **told, **left)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
