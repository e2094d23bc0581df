"""What a coupled run tells: a row for each winner deleveraged, and the totals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from perpbt.columns import times as moments_of
from perpbt.coupling.looped import Looped, Push
from perpbt.coupling.settlement import Fund
from perpbt.coupling.witness import Pushed, Told
from perpbt.engines.book import Book
from perpbt.kernels.tables import HIGH, LAST_OPEN, LOW, MARK_CLOSE, MARK_OPEN, Floats, Integers
from perpbt.running.conclude import Labels
from perpbt.running.terms import Terms

PHASES = ("open", "range")
NO_MONEY = 1e-9  # below a coin's smallest part: rounding
KINDS = ("adl", "socialised")
NUMBERS = ("quantity", "fraction", "price", "given_up")


def deleveraged(
    labelled: Labels, lanes: Integers, size: int, settlements: Sequence[Fund | Told], times: Integers
) -> pl.DataFrame:
    """A row for each position that was closed in part or whole for others, or paid for them, and moment.

    Columns: time, world, symbol, phase ("open" or "range" of the bar), kind ("adl", or "socialised": money out of
    the margin), bankrupt_side (of those it was closed against; null for "socialised"), account, position, side, weight, quantity (contracts
    closed of one account, as in `accounts`: base units where a contract is one), fraction (of what it had), price (null for
    "socialised"), notional (quantity at that price), given_up (of one account: what it would have got more at the fills of the bankrupt
    positions). Money in quote currency, or in settlement currency, which two more columns then tell: settlement and its conversion.
    In the order of time; within a moment by symbol and account.
    """
    parts = [
        (np.full(one["member"].size, key), group, one)
        for settlement in settlements
        for key, group, rows in settlement.events
        for one in rows
    ]
    keys = np.concatenate([np.zeros(0, dtype=np.int64), *(key for key, _, _ in parts)])
    table_row = np.concatenate(
        [
            np.zeros(0, dtype=np.int64),
            *(group.of.table_rows[group.at[one["member"]]] for _, group, one in parts),
        ]
    )
    named = np.concatenate(
        [np.zeros(0, dtype=np.int64), *(group.identifier[one["member"]] for _, group, one in parts)]
    )
    numbers = {name: np.concatenate([np.zeros(0), *(one[name] for _, _, one in parts)]) for name in NUMBERS}
    against = np.concatenate([np.zeros(0), *(one["bankrupt_side"] for _, _, one in parts)])
    kind_of = np.array([KINDS.index(one["kind"]) for _, _, one in parts], dtype=np.int64)
    kinds = words(KINDS, np.repeat(kind_of, [key.size for key, _, _ in parts]))
    weight = np.concatenate([np.zeros(0), *(group.weight[one["member"]] for _, group, one in parts)])
    labels = labelled(0, size, lanes)
    picked = pl.Series(table_row.astype(np.uint32))
    own = np.concatenate([np.zeros(0), *(group.side[one["member"]] for _, group, one in parts)])
    told_as = {name: labels[name].gather(picked) for name in ("world", "symbol", "account", "position")}
    frame = pl.DataFrame(
        {
            "time": moments_of(times[keys // 3]),
            "world": told_as["world"], "symbol": told_as["symbol"],
            "phase": words(PHASES, keys % 3),
            "kind": kinds,
            "bankrupt_side": side_words(against),
            "account": told_as["account"], "position": told_as["position"], "side": side_words(own), "weight": weight,
            **numbers,
        }
    ).with_columns(pl.col("price").fill_nan(None))  # fmt: skip
    worth = (pl.col("quantity") * pl.col("price")).alias("notional")
    frame = frame.select(*frame.columns[:-1], worth, frame.columns[-1])
    by_name = pl.DataFrame(
        {
            "key": keys,
            "world": told_as["world"],
            "symbol": told_as["symbol"],
            "kind": kinds,
            "named": named,
        }
    )
    return frame[by_name.with_row_index("row").sort("key", "world", "symbol", "kind", "named")["row"]]


def spreads(book: Book, settlements: Sequence[Fund | Told], times: Integers) -> pl.DataFrame:
    """A row for each round of deleveraging: all that was closed at one moment of one symbol against one side.

    Columns: time, world, symbol, phase, bankrupt_side, winners (who could be closed), and what `perpbt.adl.spread` measures: needed (the
    quantity to be closed times |mark - closing price|), taken, overshoot, largest_share (of a winner's equity at mark), fairness_regret. Money
    in settlement currency. In the order of time.
    """
    names = ("needed", "taken", "overshoot", "largest_share", "fairness_regret")
    rows = [
        {
            "time": int(times[key // 3]), "world": book.worlds[group.world], "symbol": book.symbols[group.of.index],
            "phase": PHASES[key % 3], "bankrupt_side": "long" if (one["side"] > 0.0) != group.of.rates.terms.inverse else "short",
            "winners": one["winners"], **{name: one[name] for name in names},
        }
        for settlement in settlements
        for key, group, measures in settlement.rounds
        for one in measures
    ]  # fmt: skip
    schema: dict[str, Any] = {
        "time": pl.Int64, "world": pl.String, "symbol": pl.String, "phase": pl.String, "bankrupt_side": pl.String,
        "winners": pl.Int64, **dict.fromkeys(names, pl.Float64),
    }  # fmt: skip
    made = pl.DataFrame(rows, schema=schema).sort("time", "world", "symbol", "phase", "bankrupt_side")
    return made.with_columns(pl.col("time").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"))


def side_words(sides: Floats) -> pl.Series:
    """Sides by name; null for neither."""
    return words(("short", None, "long"), sides.astype(np.int64) + 1)


def words(names: Sequence[str | None], codes: Integers) -> pl.Series:
    """A name a code."""
    return pl.Series(names, dtype=pl.String).gather(pl.Series(codes.astype(np.uint32)))


def told(terms: Terms, adl: pl.DataFrame) -> dict[str, Any]:
    """The options of the run and what came of them, as metadata tell it."""
    closed = adl.filter(pl.col("kind") == "adl")
    return {
        **terms.spec.model_dump(mode="json"),
        "adl": None
        if terms.adl is None
        else terms.adl.model_dump(mode="json") | {"policy": terms.policy, "price": terms.price},
        "trigger": None if terms.trigger is None else terms.trigger.model_dump(mode="json"),
        "deleveraged": closed.height,
        "deleveraged_accounts": closed["account"].n_unique(),
        "deleveraging_moments": closed.select("time", "world", "symbol", "phase").n_unique(),
    }


def unpaid(fund: pl.DataFrame) -> list[str]:
    """A note on deficits that winners, outsiders and all others were too few for; none where everything is covered."""
    left = fund.filter(pl.col("uncovered") > NO_MONEY)
    if left.is_empty():
        return []
    return [
        f"deficits of {math.fsum(left['deficit']):,.10g} met too few who could carry them, at {left.height:,} moments: "
        f"{math.fsum(left['uncovered']):,.10g} stay uncovered"
    ]


def cascades(book: Book, groups: Sequence[Looped | Pushed]) -> pl.DataFrame:
    """A row for each push of a price: a moment, world, symbol and side liquidated.

    Columns: time, world, symbol, phase ("open" or "range" of the bar), side (that fell), rounds (times everybody was looked at again),
    liquidations (rows) and of these first (before any push of this phase), volume and first_volume (quote currency at the bar's open, times weight), displacement (of that side's prices, a fraction of the bar's open), shock (adverse move of the bar itself, a fraction:
    in the range from the last open to the extreme, at the open from the mark close before to the mark open), amplification
    ((shock + |displacement|) / shock, null without a shock), branching_ratio (1 - first_volume / volume: of what fell, the share that others' falling
    brought down). In the order of time.
    """
    rows = [push_told(book, group, push) for group in groups for push in group.pushes]
    schema: dict[str, Any] = {
        "time": pl.Int64, "world": pl.String, "symbol": pl.String, "phase": pl.String, "side": pl.String, "rounds": pl.Int64,
        "liquidations": pl.Int64, "first": pl.Int64, **dict.fromkeys(
            ("volume", "first_volume", "displacement", "shock", "amplification", "branching_ratio"), pl.Float64
        ),
    }  # fmt: skip
    made = pl.DataFrame(rows, schema=schema).sort("time", "world", "symbol", "phase", "side")
    return made.with_columns(pl.col("time").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"))


def push_told(book: Book, group: Looped | Pushed, push: Push) -> dict[str, Any]:
    """One push by name."""
    bar, phase = divmod(push.moment, 3)
    shock, inverse = 0.0, group.of.rates.terms.inverse
    low, high = (HIGH, LOW) if inverse else (LOW, HIGH)

    def price(row: int, at: int) -> float:
        seen = float(group.of.market.series[row, at])
        return 1.0 / seen if inverse else seen

    if phase == 1:
        opened = price(LAST_OPEN, bar)
        shock = push.side * (opened - price(low if push.side > 0 else high, bar)) / opened
    elif bar > 0:
        before = price(MARK_CLOSE, bar - 1)
        shock = max(push.side * (before - price(MARK_OPEN, bar)) / before, 0.0)
    volume, first = math.fsum(push.volume), math.fsum(push.first_volume)
    return {
        "time": int(group.of.market.time[bar]), "world": book.worlds[group.world], "symbol": book.symbols[group.of.index],
        "phase": PHASES[phase], "side": "long" if push.side > 0 else "short", "rounds": push.rounds,
        "liquidations": push.liquidations, "first": push.first, "volume": volume, "first_volume": first,
        "displacement": push.displacement, "shock": float(shock),
        "amplification": float((shock + abs(push.displacement)) / shock) if shock > 0.0 else None,
        "branching_ratio": 1.0 - first / volume,
    }  # fmt: skip


def told_of_feedback(pushes: pl.DataFrame, before: float, after: float) -> dict[str, Any]:
    """Liquidations with and without feedback, accounts by weight, and the share that feedback caused: below 0 where it, or deleveraging
    beside it, has closed more positions sooner than it brought down.
    """
    return {
        "pushes": pushes.height,
        "liquidated_without_feedback": before,
        "liquidated_with_feedback": after,
        "share_caused_by_feedback": 1.0 - before / after if after > 0.0 else 0.0,
    }
