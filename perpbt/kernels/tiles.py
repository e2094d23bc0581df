"""Given positions over the same bars at a time: what keeps the engine that looks at every bar from waiting for memory.

Bars are taken a tile at a time, few enough to stay in the processor's cache; every open position is carried over the tile before the
next tile is begun. In between, a position is kept as one record.
"""

from __future__ import annotations

import numpy as np

from .accounts import (
    bare_market,
    bare_rates,
    care_of,
    fixed_entry,
    term_of,
    write_exit,
    write_opening,
)
from .compile import bare, hold, kernel, part
from .epochs import epoch_at, rates_in, walk_epochs
from .leaping import BLOCK, BLOCKS
from .margin import Position
from .opening import open_position
from .tables import ACCEPTED, Integers, Lane, Market, Plan, Rates, Signals, Table
from .walking import PAUSED, Term
from .watching import Path, start, watch_for

TILE = 4096  # bars: the five series a bar is screened by take 160 KiB
AHEAD, HELD, OVER = 0, 1, 2  # state of a kept position

# A position between two tiles: margin.Position, watching.Path and walking.Term, and the bar to go on from.
KEPT = np.dtype(
    [
        *((name, np.float64) for name in Position._fields if name not in ("lines", "tiers")),
        *((name, np.float64) for name in Path._fields if name not in ("calls", "order")),
        *((name, np.int64) for name in ("lines", "tiers", "calls", "order", *Term._fields, "bar")),
        ("state", np.int8),
    ],
    align=True,
)


@part
def keep(kept: Plan, position: Position, path: Path, term: Term, bar: int) -> None:
    """Put a position down."""
    kept["side"], kept["quantity"], kept["entry"] = position.side, position.quantity, position.entry
    kept["margin"], kept["funding"], kept["kept"] = position.margin, position.funding, position.kept
    kept["extra"] = position.extra
    kept["lines"], kept["tiers"] = position.lines, position.tiers
    kept["guard_factor"], kept["guard_level"] = position.guard_factor, position.guard_level
    kept["stop"], kept["target"], kept["trail"] = position.stop, position.target, position.trail
    kept["extreme"], kept["peak"], kept["drawdown"] = path.extreme, path.peak, path.drawdown
    kept["worst_ratio"], kept["released"], kept["added"] = path.worst_ratio, path.released, path.added
    kept["wallet"], kept["calls"] = path.wallet, path.calls
    kept["order"], kept["amount"] = path.order, path.amount
    kept["entry_bar"], kept["time_bar"], kept["signal_bar"] = term.entry_bar, term.time_bar, term.signal_bar
    kept["bar"], kept["state"] = bar, HELD


@part
def position_of(kept: Plan) -> Position:
    """Pick a position up again."""
    return Position(
        kept["side"], kept["quantity"], kept["entry"], kept["margin"], kept["funding"], kept["lines"],
        kept["tiers"], kept["kept"], kept["extra"], kept["guard_factor"], kept["guard_level"],
        kept["stop"], kept["target"], kept["trail"],
    )  # fmt: skip


@part
def path_of(kept: Plan) -> Path:
    """Pick its path up again."""
    return Path(
        kept["extreme"], kept["peak"], kept["drawdown"], kept["worst_ratio"], kept["released"], kept["added"],
        kept["wallet"], kept["calls"], kept["order"], kept["amount"],
    )  # fmt: skip


@part
def begin(
    market: Market,
    rates: Rates,
    plan: Plan,
    signals: Signals,
    lane: Lane,
    kept: Plan,
    rows: Table,
    number: int,
    at: int,
) -> None:
    """Open the position of a lane, if it can be."""
    side, bar = float(lane["fixed_side"]), lane["bar"]
    now = rates_in(rates, epoch_at(rates, bar))
    opening = open_position(market, now, plan, signals, side, bar, plan["capital"])
    write_opening(now, rows[at], number, bar, side, opening)
    kept["state"] = OVER
    if opening.rejection == ACCEPTED:
        path = start(
            market, now, opening.position, bar, opening.collateral, plan["capital"] - opening.collateral
        )
        term = term_of(market, plan, signals, side, bar, lane["exit_due"])
        keep(kept, opening.position, path, term, bar)


@part
def carry(
    market: Market,
    rates: Rates,
    plan: Plan,
    kept: Plan,
    rows: Table,
    calls: Table,
    trace: Table,
    at: int,
    pause: int,
) -> None:
    """Carry an open position on to bar `pause`, or to its exit."""
    position = position_of(kept)
    watch = watch_for(position.side, plan["stop_on_mark"], plan["target_on_mark"], plan["trail_on_mark"])
    term = Term(kept["entry_bar"], kept["time_bar"], kept["signal_bar"])
    end = walk_epochs(
        market,
        rates,
        watch,
        care_of(plan, at, 0),
        calls,
        position,
        path_of(kept),
        term,
        kept["bar"],
        pause,
        trace,
    )
    if end.reason == PAUSED:
        keep(kept, end.position, end.path, term, end.bar)
    else:
        write_exit(market, rates, rows[at], watch.target_limit, end)
        kept["state"] = OVER


@part
def each_in_tiles(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, places: Integers, rows: Table, calls: Table,
    trace: Table, kept: Table,
) -> None:  # fmt: skip
    """Every lane's position, by the plan of the same number, tile after tile; lane k writes row places[k]."""
    bars = market.time.size
    for k in range(lanes.size):
        kept[k]["state"] = AHEAD
        if lanes[k]["bar"] >= bars:  # refused for want of a bar
            fixed_entry(market, rates, plans[k], signals, lanes[k], rows, calls, trace, places[k], places[k])
            kept[k]["state"] = OVER
    for first in range(0, bars, TILE):
        pause = min(first + TILE, bars)
        for k in range(lanes.size):
            state = kept[k]["state"]
            if state == AHEAD and lanes[k]["bar"] < pause:
                begin(market, rates, plans[k], signals, lanes[k], kept[k], rows, places[k], places[k])
                lanes[k]["done"] = 1
                state = kept[k]["state"]
            if state == HELD:
                carry(market, rates, plans[k], kept[k], rows, calls, trace, places[k], pause)


@kernel
def run_in_tiles(
    market: Market,
    rates: Rates,
    plans: Table,
    signals: Signals,
    lanes: Table,
    places: Integers,
    rows: Table,
    calls: Table,
) -> None:
    """As `run_given`: lane k holds one position, by plan k, and writes row places[k]."""
    held, kept = np.empty(BLOCKS, dtype=BLOCK), np.empty(lanes.size, dtype=KEPT)
    each_in_tiles(
        bare_market(market), bare_rates(rates), bare(plans), Signals(bare(signals.marks), bare(signals.series)),
        bare(lanes), bare(places), bare(rows), bare(calls), bare(held), bare(kept),
    )  # fmt: skip
    hold(held)
    hold(kept)
