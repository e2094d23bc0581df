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
    refuse_for_want_of_a_bar,
    term_of,
    write_exit,
    write_opening,
)
from .coarse import SHIFT
from .compile import bare, hold, kernel, part
from .epochs import epoch_at, rates_in
from .lanes import expect
from .margin import Position
from .opening import open_position
from .riding import ride
from .screening import TOLD, expect_block
from .tables import ACCEPTED, Coarse, Integers, Lane, Market, Plan, Rates, Signals, Table
from .walking import PAUSED, Term
from .watching import Path, start, watch_for

TILE = 8192  # bars: the four coarse numbers of each that a position is compared with take 128 KiB
SOON = 3  # positions, that are asked for before they are opened
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
def expect_opening(
    market: Market, signals: Signals, lanes: Table, places: Integers, rows: Table, order: Integers, at: int
) -> None:
    """Ask for what the lane at this place of `order`, if there is one, is going to look at first."""
    if at >= order.size or order[at] < 0:
        return
    lane = lanes[order[at]]
    expect(market, signals, rows, lane, places[order[at]])
    expect_block(market.coarse, float(lane["fixed_side"]), lane["bar"] >> SHIFT)


@part
def sort_by_tile(lanes: Table, bars: int, starts: Integers, order: Integers) -> None:
    """Put the lanes whose entry is in tile t into order[starts[t]:starts[t + 1]]; those without a bar are left out."""
    starts[:] = 0
    order[:] = -1
    for k in range(lanes.size):
        if lanes[k]["bar"] < bars:
            starts[lanes[k]["bar"] // TILE + 2] += 1
    for tile in range(2, starts.size):
        starts[tile] += starts[tile - 1]
    for k in range(lanes.size):
        if lanes[k]["bar"] < bars:
            tile = lanes[k]["bar"] // TILE + 1
            order[starts[tile]] = k
            starts[tile] += 1


@part
def each_in_tiles(
    market: Market, rates: Rates, plans: Table, signals: Signals, lanes: Table, places: Integers, rows: Table, calls: Table,
    kept: Table, starts: Integers, order: Integers, told: Coarse,
) -> None:  # fmt: skip
    """Every lane's position, by the plan of the same number, tile after tile; lane k writes row places[k]."""
    bars, held = market.time.size, 0
    for k in range(lanes.size):
        lanes[k]["done"] = 1
        if lanes[k]["bar"] >= bars:
            refuse_for_want_of_a_bar(rows[places[k]], places[k], plans[k], lanes[k])
    sort_by_tile(lanes, bars, starts, order)
    for number in range(starts.size - 2):
        last = min((number + 1) * TILE, bars)
        opened, count = starts[number], starts[number + 1] - starts[number]
        for j in range(held + count):
            # positions still open come first: they are put where those stood that have been begun
            k = order[opened - held + j]
            plan, row, side = plans[k], rows[places[k]], float(lanes[k]["fixed_side"])
            if j < held:
                position, path, i = position_of(kept[k]), path_of(kept[k]), kept[k]["bar"]
                term = Term(kept[k]["entry_bar"], kept[k]["time_bar"], kept[k]["signal_bar"])
            else:
                expect_opening(market, signals, lanes, places, rows, order, opened + j - held + SOON)
                i = lanes[k]["bar"]
                now = rates_in(rates, epoch_at(rates, i))
                opening = open_position(market, now, plan, signals, side, i, plan["capital"])
                write_opening(now, row, places[k], i, side, opening)
                kept[k]["state"] = OVER
                if opening.rejection != ACCEPTED:
                    continue
                position, rest = opening.position, plan["capital"] - opening.collateral
                path = start(market, now, position, i, opening.collateral, rest)
                term = term_of(market, plan, signals, side, i, lanes[k]["exit_due"])
            watch = watch_for(side, plan["stop_on_mark"], plan["target_on_mark"], plan["trail_on_mark"])
            care = care_of(plan, places[k], 0)
            end = ride(market, rates, watch, care, calls, position, path, term, i, last, told, j < 2)
            if end.reason == PAUSED:
                keep(kept[k], end.position, end.path, term, end.bar)
            else:
                write_exit(market, rates, row, watch.target_limit, end)
                kept[k]["state"] = OVER
        held = keep_held(kept, order, opened - held, opened + count)


@part
def keep_held(kept: Table, order: Integers, first: int, last: int) -> int:
    """Move the lanes of order[first:last] whose positions are open to its end, in their order; returns how many there are."""
    to = last
    for j in range(last - 1, first - 1, -1):
        if kept[order[j]]["state"] == HELD:
            to -= 1
            order[to] = order[j]
    return last - to


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
    kept, order = np.empty(lanes.size, dtype=KEPT), np.empty(lanes.size, dtype=np.int64)
    told = np.empty(TOLD, dtype=np.float32)
    starts = np.empty((market.time.size + TILE - 1) // TILE + 2, dtype=np.int64)
    each_in_tiles(
        bare_market(market), bare_rates(rates), bare(plans), Signals(bare(signals.marks), bare(signals.series)),
        bare(lanes), bare(places), bare(rows), bare(calls), bare(kept), bare(starts), bare(order), bare(told),
    )  # fmt: skip
    hold(kept)
    hold(starts)
    hold(order)
    hold(told)
