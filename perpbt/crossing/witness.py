"""The naive oracle as an engine for shared wallets: this module only translates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from perpbt.crossing.charges import RiskUnits, begun_on, risk_units
from perpbt.crossing.crowds import Members
from perpbt.crossing.legs import Legs
from perpbt.crossing.terms import Margin
from perpbt.engines.chunks import Counted
from perpbt.engines.witness import SWAPPED, rules_of, step_of, tiers_of
from perpbt.errors import InputError
from perpbt.kernels.crossing import tables as shared
from perpbt.kernels.tables import CLOSE, OPEN, RANGE, REASONS, REJECTIONS, Floats, Integers, Rates, Row, Table
from perpbt.oracle.cross import run_wallet
from perpbt.oracle.crowds import run_in_crowds
from perpbt.prepare.mirror import prices_behind

if TYPE_CHECKING:
    from perpbt.crossing.door import Prepared

MOST = 20_000_000  # legs x bars: some minutes
BAR = {
    "open": shared.OPEN_, "low": shared.LOW_, "high": shared.HIGH_, "close": shared.CLOSE_, "mark_open": shared.MARK_OPEN_,
    "mark_low": shared.MARK_LOW_, "mark_high": shared.MARK_HIGH_, "mark_close": shared.MARK_CLOSE_, "cf": shared.FUNDING_,
    "sigma": shared.SIGMA_,
}  # fmt: skip
RENAMED = {
    "entry": "entry_price", "fill": "exit_price", "open_fee": "entry_fee", "entry_funding": "cf_entry", "exit_funding": "cf_exit",
    "exit_quantity": "quantity", "exit_margin": "margin",
}  # fmt: skip
SAME = (
    "collateral", "quantity", "margin", "notional", "liquidation_price", "top_up", "base", "close_fee", "liquidation_fee", "surplus",
    "deficit", "back", "pnl", "funding", "exit_bar",
)  # fmt: skip


CHARGES = (
    "taker_fee", "maker_fee", "slippage", "liquidation_fee", "close_out_rate", "half_spread", "impact", "max_slippage",
    "surplus_to_fund",
)  # fmt: skip


def bars_of(series: Floats, time: np.ndarray, inverse: bool) -> list[dict[str, Any]]:
    """A dict a bar; of an inverse contract, which kernels see in the mirror, the prices and funding themselves."""
    columns: dict[str, list[Any]] = {name: series[row].tolist() for name, row in BAR.items()}
    if inverse:
        for name in (name for name in BAR if name not in ("cf", "sigma")):
            columns[name] = prices_behind(series[BAR[SWAPPED.get(name, name)]]).tolist()
        columns["cf"] = (0.0 - series[shared.FUNDING_]).tolist()
    turnover = series[shared.TURNOVER_].tolist()
    columns["turnover"] = [None if one != one else one for one in turnover]
    columns["ts"] = time.tolist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def venue_of(rates: Rates, begun: Integers) -> dict[str, Any]:
    """What a venue charges and requires, by name; `begun` is the bar of the grid at which each set of its tiers does."""
    return {
        **{name: getattr(rates, name) for name in CHARGES},
        "maintenance_on": "entry" if rates.entry_maintenance else "mark",
        "rule": "whole" if rates.whole else "brackets",
        "inverse": rates.terms.inverse,
        "lot": step_of(rates.terms.lot_units, rates.terms.lot_per),
        "tick": step_of(rates.terms.tick_units, rates.terms.tick_per),
        "per_unit": rates.per_unit,
        "tiers": tiers_of(rates.tiers),
        "epochs": [(bar, tiers_of(tiers)) for bar, tiers in zip(begun.tolist(), rates.ladders, strict=True)],
    }


def leg_of(leg: Row, symbols: Sequence[str], rates: Sequence[Rates], count: int) -> dict[str, Any]:
    """A leg by name."""
    mirrored = rates[leg["symbol"]].terms.inverse

    def level(name: str) -> float | None:
        return None if np.isnan(leg[name]) else float(leg[name])

    return {
        "place": int(leg["place"]), "symbol": symbols[leg["symbol"]],
        "side": int(-leg["side"] if mirrored else leg["side"]),
        "entry": int(leg["entry"]) if leg["entry"] < count else None, "due": int(leg["due"]) if leg["due"] >= 0 else None,
        "collateral": float(leg["collateral"]), "reserve": float(leg["reserve"]), "leverage": float(leg["leverage"]),
        "margin_buffer": float(leg["buffer"]), "stop": level("stop_value"), "take_profit": level("target_value"),
        "trailing": level("trail"), "stop_trigger": "mark" if leg["stop_on_mark"] else "last",
        "trailing_trigger": "mark" if leg["trail_on_mark"] else "last",
        "take_profit_trigger": "mark" if leg["target_on_mark"] else "last",
    }  # fmt: skip


def write_row(row: Row, leg: dict[str, Any], wallet: dict[str, Any]) -> None:
    """The columns of ROW. A refused order has no more than its bar, side, collateral and cause."""
    row["lane"], row["side"], row["collateral"] = leg["place"], leg["side"], leg["collateral"]
    if leg["status"] == "rejected":
        row["rejection"], row["reason"] = REJECTIONS.index(leg["rejection"]), REASONS.index("rejected")
        row["entry_bar"] = row["exit_bar"] = leg["entry"] or 0
        return
    for name in SAME:
        row[name] = leg[name]
    for name, other in RENAMED.items():
        row[name] = leg[other]
    row["entry_bar"], row["reason"] = leg["entry"], REASONS.index(leg["exit_reason"])
    row["phase"] = CLOSE if leg["exit_reason"] == "end" else {"B": OPEN, "C": RANGE}[leg["phase"]]
    row["drawdown"], row["worst_ratio"] = wallet["drawdown"], wallet["worst"]
    row["peak"] = 0.0  # the drawdown is whole: settling adds no exit


def write_wallet(into: Row, wallet: dict[str, Any]) -> None:
    """The columns of WALLET that a result shows."""
    for name in (
        "cash",
        "peak",
        "drawdown",
        "worst",
        "brought",
        "surplus",
        "deficit",
        "liquidations",
        "asset_pnl",
        "assets_worth",
    ):
        into[name] = wallet[name]
    into["liquidated_at"] = -1 if wallet["liquidated_at"] is None else wallet["liquidated_at"]


def terms_of(prepared: Prepared, margin: Margin, symbols: Sequence[str]) -> dict[str, Any]:
    """How accounts are kept, by name."""
    charges, told = prepared.charges, RiskUnits((), (), ())
    if margin.mode == "portfolio":
        told = risk_units(prepared.venue, symbols, prepared.rates)
    units = {
        f"{u:06d}": {
            "extreme": one.terms.extreme, "extreme_weight": one.terms.extreme_weight, "basis": one.terms.basis,
            "shocks": [sign * move for move in one.terms.shocks for sign in (1.0, -1.0)], "inverse": one.inverse,
            "multipliers": [tuple(tier) for tier in charges.multipliers[u].tolist()],
        }
        for u, one in enumerate(told.units)
    }  # fmt: skip
    spec = {
        "unit_of": {name: f"{charges.unit[k]:06d}" for k, name in enumerate(symbols)},
        "units": units,
        "minimum": dict(zip(symbols, charges.minimum.tolist(), strict=False)),
    }
    return {
        "mode": margin.mode,
        "legs": margin.legs,
        "extremes": margin.test == "extremes",
        "in_turn": margin.close == "in_turn",
        "portfolio": spec,
    }


def assets_of(prepared: Prepared, account: int) -> list[dict[str, Any]]:
    """What an account holds besides cash."""
    held, names = prepared.assets, prepared.names
    return [
        {
            "name": names[held.symbol[k]], "amount": float(held.amount[k]), "counted": float(held.counted[k]),
            "unit": f"{held.unit[k]:06d}" if held.unit[k] >= 0 else None, "conversion_fee": float(held.fee[k]),
        }
        for k in range(held.first[account], held.first[account + 1])
    ]  # fmt: skip


def run_wallets_naively(
    prepared: Prepared, symbols: Sequence[str], margin: Margin, legs: Legs, rows: Table, wallets: Table,
    counted: Counted, members: Members | None,
) -> int:  # fmt: skip
    """All accounts to their end, on one thread; with `members`, against their crowds. Returns how many wallets the largest has."""
    count = prepared.line.time.size
    if legs.legs.size * count > MOST:
        raise InputError(
            f"engine = 'oracle': {legs.legs.size:,} positions x {count:,} bars = {legs.legs.size * count:,}; allowed: at most "
            f"{MOST:,}, for plain Python looks at each; the engines skip and dense give the same result"
        )
    inverse = {name for name, rates in zip(symbols, prepared.rates, strict=True) if rates.terms.inverse}
    bars = {
        name: bars_of(prepared.grid.series[k], prepared.line.time, name in inverse)
        for k, name in enumerate(prepared.names)
    }
    venues = {
        name: venue_of(rates, begun_on(prepared.line, k, rates))
        for k, (name, rates) in enumerate(zip(symbols, prepared.rates, strict=True))
    }
    rules, terms = rules_of(prepared.rates[0]), terms_of(prepared, margin, symbols)
    asked = [
        {
            "legs": [
                leg_of(leg, symbols, prepared.rates, count)
                for leg in legs.legs[legs.first[account] : legs.first[account + 1]]
            ],
            "assets": assets_of(prepared, account),
        }
        for account in range(legs.size)
    ]
    finished: Iterable[dict[str, Any]]
    if members is None:
        finished = (
            run_wallet(bars, one["legs"], venues, rules, {**terms, "assets": one["assets"]}) for one in asked
        )
    else:
        whose = zip(asked, members.world.tolist(), members.weight.tolist(), strict=True)
        every = [{**one, "world": world, "weight": weight} for one, world, weight in whose]
        finished = run_in_crowds(bars, every, venues, rules, terms, members.interest)
    sizes: Counter[Any] = Counter()
    for account, done in enumerate(finished):
        sizes.update(who for who, _ in done["wallet"]["sold"])
        for k, leg in enumerate(done["legs"], legs.first[account]):
            write_row(rows[leg["place"]], leg, done["wallet"])
            legs.legs[k]["bankruptcy"] = leg.get("bankruptcy_price", 0.0)
        write_wallet(wallets[account], done["wallet"])
        left = [asset["amount"] for asset in done["wallet"]["assets"]]
        if left:
            first = prepared.assets.first[account]
            prepared.assets.amount[first : first + len(left)] = left
        counted.add(1)
    return max(sizes.values(), default=0)
