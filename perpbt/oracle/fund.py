"""The crowd that falls together and the insurance fund behind it: §6 crowding, §7, D12 and D13."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from . import holding
from .shapes import Bars, Record, Values

Crowd: TypeAlias = tuple[str, str, int, int, str]
Flow: TypeAlias = tuple[str, int, str, str, float]  # symbol, time, phase, name, money


def settle(
    rows: list[Record], bars: Mapping[str, Bars], venue: Record, crowding: bool = False,
    open_interest: float | None = None, cf: Mapping[str, Values] | None = None,
) -> tuple[list[Record], list[Record]]:  # fmt: skip
    """D12, D13: (rows with their final fills and weights, the fund's ledger).

    Each row of `rows` also carries "world", "symbol", "weight"; `bars` maps a symbol to its bars. The ledger
    is a list of {"time", "world", "symbol", "liquidation_fees", "surplus", "fee_share", "deficit",
    "uncovered", "balance"}, one opening row per fund first; a pooled fund's opening row has the symbol "all". `cf` (CF at each bar, by
    symbol) is needed where the venue's fund holds what it takes over ("fund_hold", ms).
    """
    weights = [row["weight"] for row in rows]
    if open_interest is not None:
        weights = scaled_weights(rows, bars, open_interest)
    rows = [{**row, "weight": weight} for row, weight in zip(rows, weights, strict=True)]
    if crowding:
        crowds: dict[Crowd | None, list[float]] = {}
        for row in rows:
            if row["exit_reason"] == "liquidation":
                crowds.setdefault(crowd_of(row), []).append(
                    row["weight"] * (row["exit_quantity"] * row["base"])
                )
        rows = [
            {**row, **row["refill"](math.fsum(crowds[crowd_of(row)]))} if crowd_of(row) in crowds else row
            for row in rows
        ]
    sold = (
        holding.sales(rows, bars, cf, venue) if cf is not None and venue.get("fund_hold") is not None else []
    )
    return rows, ledger(rows, bars, venue, sold)


def crowd_of(row: Record) -> Crowd | None:
    """Those who fall together: world, symbol, side, bar, phase; None for a row that was not liquidated."""
    if row["exit_reason"] != "liquidation":
        return None
    return row["world"], row["symbol"], row["side"], row["exit_bar"], row["phase"]


def scaled_weights(rows: list[Record], bars: Mapping[str, Bars], open_interest: float) -> list[float]:
    """D12: weights times (open interest / the world's mean notional over all times at which there is a bar)."""
    notionals: dict[str, list[float]] = {}
    times = len({bar["ts"] for row in rows for bar in bars[row["symbol"]]})
    for row in rows:
        if row["exit_reason"] == "rejected":
            continue
        closes = row["exit_bar"] - row["entry_bar"] + (row["exit_reason"] == "end")
        mean = row["weight"] * row["notional"] * closes / times
        notionals.setdefault(row["world"], []).append(mean)
    result = []
    for row in rows:
        mean = math.fsum(notionals.get(row["world"], []))
        result.append(row["weight"] * (open_interest / mean) if mean > 0 else row["weight"])
    return result


def flows(row: Record, bars: Bars, venue: Record) -> list[tuple[int, str, str, float]]:
    """What a row brings to or takes from the fund: (time, phase, name, money), times its weight."""
    share, weight, times = venue["fund_fee_share"], row["weight"], [bar["ts"] for bar in bars]
    out = [(times[row["entry_bar"]], "B", "fee_share", share * row["entry_fee"])]
    for part in row["margin_orders"]:
        then = (times[part["bar"]], part.get("phase", "B"))
        out.append((*then, "fee_share", share * part["fee"]))
        out.append((*then, "liquidation_fees", part["liquidation_fee"]))
        out.append((*then, "deficit", part["deficit"]))
    left = (row["exit_time"], row["phase"])
    out.append((*left, "fee_share", share * row["closing"]["fee"]))
    out.append((*left, "liquidation_fees", row["closing"]["liquidation_fee"]))
    out.append((*left, "surplus", row["closing"]["surplus"]))
    out.append((*left, "deficit", row["closing"]["deficit"]))
    return [(time, phase, name, weight * money) for time, phase, name, money in out if money != 0]


def fund_name(venue: Record, symbol: str) -> str:
    """The fund behind a symbol: everybody's, its group's ("fund_groups": name -> symbols), or its own."""
    if venue.get("fund_groups"):
        return next((name for name, symbols in venue["fund_groups"].items() if symbol in symbols), symbol)
    return "all" if venue["fund_scope"] == "pooled" else symbol


def ledger(
    rows: list[Record], bars: Mapping[str, Bars], venue: Record, sold: Sequence[Record] = ()
) -> list[Record]:
    """§7: per fund in time order, B before C, all credits, then draws; what is short is shared pro rata."""
    result = []
    funds: dict[tuple[str, str], list[Flow]] = {}
    for row in rows:
        fund = funds.setdefault((row["world"], fund_name(venue, row["symbol"])), [])
        if row["exit_reason"] != "rejected":
            fund.extend((row["symbol"], *flow) for flow in flows(row, bars[row["symbol"]], venue))
    for one in sold:  # what the fund has held: profits are surplus, losses deficits
        flow = "surplus" if one["pnl"] > 0 else "deficit"
        if one["pnl"] != 0:
            funds[one["world"], fund_name(venue, one["symbol"])].append(
                (one["symbol"], one["time"], one["phase"], flow, abs(one["pnl"]))
            )
    for (world, name), fund in sorted(funds.items()):
        fund += [(symbol, at, "B", "top_up", money) for symbol, at, money in paid_in(bars, venue, name)]
        balance = venue["fund_seed"]
        start = min(bars[symbol][0]["ts"] for symbol in bars if fund_name(venue, symbol) == name)
        result.append(ledger_row(start, world, name, [], {}, balance))
        for time in sorted({flow[1] for flow in fund}):
            now = [flow for flow in fund if flow[1] == time]
            uncovered: dict[str, list[float]] = {}
            for phase in ("B", "C"):
                credits = math.fsum(f[4] for f in now if f[2] == phase and f[3] != "deficit")
                draws = [f for f in now if f[2] == phase and f[3] == "deficit"]
                drawn = math.fsum(f[4] for f in draws)
                balance = balance + credits
                paid = min(balance, drawn)
                balance = balance - paid
                for symbol, *_, deficit in draws:
                    uncovered.setdefault(symbol, []).append((drawn - paid) * (deficit / drawn))
            for symbol in sorted({flow[0] for flow in now}):
                mine = [flow for flow in now if flow[0] == symbol]
                result.append(ledger_row(time, world, symbol, mine, uncovered, balance))
    return result


def paid_in(bars: Mapping[str, Bars], venue: Record, name: str) -> list[tuple[str, int, float]]:
    """What is put into a fund from outside ("top_ups": (time, money, fund's name or None)): (symbol, time, money), there at the open of
    the first bar of any of its symbols from its time on; "elsewhere" are the times of bars on which nobody is ({symbol: times}).
    """
    found = []
    elsewhere = venue.get("elsewhere") or {}
    for time, money, fund in venue.get("top_ups") or ():
        opens = [
            (bar["ts"], symbol)
            for symbol in bars
            if fund_name(venue, symbol) == name
            for bar in bars[symbol]
            if bar["ts"] >= time
        ]
        opens += [
            (at, symbol)
            for symbol, times in elsewhere.items()
            if fund_name(venue, symbol) == name
            for at in times
            if at >= time
        ]
        if opens and fund in (None, name):
            found.append((min(opens)[1], min(opens)[0], money))
    return found


def ledger_row(
    time: int, world: str, symbol: str, now: list[Flow], uncovered: dict[str, list[float]], balance: float
) -> Record:
    """One row of the ledger."""
    row = {"time": time, "world": world, "symbol": symbol}
    for name in ("liquidation_fees", "surplus", "fee_share", "deficit", "top_up"):
        row[name] = math.fsum(flow[4] for flow in now if flow[3] == name)
    return {**row, "uncovered": math.fsum(uncovered.get(symbol, [])), "balance": balance}
