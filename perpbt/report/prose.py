"""The report's sentences: what was run, under which assumptions, and what came out.

Metadata is read by these keys, each optional, at its top or else under "spec": `title`, `description`, `data`
(path), `symbols` (by symbol: first, last, bar_seconds, …), `venue` (a name, or its fields with `provenance`),
`margin`, `liquidation`, `dynamic`, `coupling` and `money` (see `perpbt.report.modes`),
`rules` (intrabar, take_profit_fill, oversize, funding_price, rounding), `open_interest`, `crowding`, `fund` (seed,
scope, fee_share), `notes` (sentences). What is not stated is not claimed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import polars as pl

from perpbt import statistics
from perpbt.report import modes, words
from perpbt.report.policies import policies_in_words
from perpbt.statistics import TOTAL
from perpbt.statistics.common import IS_DEFAULTED, IS_LIQUIDATED

ONE_PATH = (
    "Accounts that share a price path are one observation: these shares describe the price history that was "
    "run, and the number of accounts says nothing about their accuracy. For an interval run other histories "
    "or resample blocks of time."
)
_LOTS = "Positions are whole lots of the venue's contracts"
_TICKS = (
    "Stops, take-profits and liquidation prices stand on the venue's ticks: up for a long, down for a short"
)
_CHARGED = "at the first open at or after its time."
RULES = {
    (
        "intrabar",
        "pessimistic",
    ): "Inside a bar what hurts comes first: stop or liquidation before take-profit.",
    (
        "intrabar",
        "optimistic",
    ): "Inside a bar what helps comes first: take-profit before stop or liquidation.",
    ("take_profit_fill", "limit"): "A take-profit is a resting limit order and fills at exactly its limit.",
    ("take_profit_fill", "open"): "A take-profit that the open jumps over fills at the open.",
    ("oversize", "reject"): "A position above the last tier of the venue is rejected.",
    ("oversize", "clip"): "A position above the last tier of the venue is cut to it.",
    ("funding_price", "mark"): f"Funding is charged on the mark price, {_CHARGED}",
    ("funding_price", "index"): f"Funding is charged on the index price, {_CHARGED}",
    ("rounding", "lot"): f"{_LOTS}.",
    ("rounding", "tick"): f"{_TICKS}.",
    ("rounding", "both"): f"{_LOTS}; {_TICKS[0].lower()}{_TICKS[1:]}.",
}
SLIGHT = 0.01
"""A surplus below this share of the liquidation fees is called little."""
FUND_SCOPES = {
    "symbol": "one per symbol",
    "pooled": "one pooled over symbols",
    "grouped": "one per group of symbols",
}
STANDING = (
    "{orders} fill at their threshold, or at the last open if that is worse, "
    "inside the range that traded, less slippage.",
    "Signals and margin calls are read at a close and executed at the next open; nothing sees a later bar.",
    "A position still open at the end of the data is marked at the last mark price, without fees.",
)


def stated(metadata: Mapping[str, Any], key: str) -> Any:
    """A key of the metadata, or of the spec inside it; None where neither has it."""
    spec = metadata.get("spec")
    found = metadata.get(key)
    return spec.get(key) if found is None and isinstance(spec, Mapping) else found


def part(metadata: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The same where a mapping is expected: {} for anything else."""
    found = stated(metadata, key)
    return found if isinstance(found, Mapping) else {}


def what_was_run(result: Any) -> list[str]:
    """Data, venue, strategies and policies in words."""
    symbols = result.accounts["symbol"].unique().sort().to_list()
    strategies = result.accounts["strategy"].unique().sort().to_list()
    sentences = [_data(result, symbols)]
    venue = stated(result.metadata, "venue")
    if venue:
        name = (venue.get("title") or venue.get("name")) if isinstance(venue, Mapping) else venue
        sentences.append(f"Venue: {name}.")
    what = "Strategy" if len(strategies) == 1 else "Strategies"
    return [*sentences, f"{what}: {words.listing(strategies)}.", policies_in_words(result.policies)]


def _data(result: Any, symbols: list[str]) -> str:
    """Bars, symbols, source and period."""
    described = [entry for entry in part(result.metadata, "symbols").values() if isinstance(entry, Mapping)]
    sizes = sorted({float(entry["bar_seconds"]) for entry in described if entry.get("bar_seconds")})
    bars = (
        f"{words.listing(words.duration(timedelta(seconds=size)) for size in sizes)} bars"
        if sizes
        else "Bars"
    )
    data = stated(result.metadata, "data")
    path = data.get("path") if isinstance(data, Mapping) else data
    source = f" from {words.plain(path)}" if path else ""
    return f"{bars} of {words.listing(symbols)}{source}{_period(result.accounts, described)}."


def _period(accounts: pl.DataFrame, described: list[Mapping[str, Any]]) -> str:
    """The period of the data as stated, else that of the positions."""
    first = [str(entry["first"]) for entry in described if entry.get("first")]
    last = [str(entry["last"]) for entry in described if entry.get("last")]
    if first and last:
        return f", {_day(min(first))} to {_day(max(last))} (UTC)"
    begin, end = accounts.select(pl.col("entry_time").min(), pl.col("exit_time").max()).row(0)
    return f", positions from {words.moment(begin)} to {words.moment(end)} (UTC)" if end else ""


def _day(stamp: str) -> str:
    """An ISO stamp without seconds and zone, and without a time at midnight."""
    return stamp.replace("T", " ")[:16].removesuffix(" 00:00")


def assumptions(result: Any) -> list[str]:
    """What the numbers rest on, a sentence each."""
    metadata = result.metadata
    rules, fund = part(metadata, "rules"), part(metadata, "fund")
    kept = part(metadata, "margin")
    margin, loss = modes.margined(kept, fund.get("protection") is not False)
    fills = STANDING[0].format(orders=modes.filled(kept))
    sentences = [margin, fills, *STANDING[1:-1], loss, STANDING[-1]]
    sentences += modes.changed(*(part(metadata, key) for key in ("liquidation", "dynamic", "coupling")))
    sentences += [text for (key, value), text in RULES.items() if rules.get(key) == value]
    sentences.append(_meeting(result))
    crowding, interest = (_of_world(metadata, key) for key in ("crowding", "open_interest"))
    if crowding is not None:
        sentences.append(
            "Crowding is on: what a world liquidates in one symbol, side and bar shares one market impact."
            if crowding
            else "Crowding is off: every liquidation has the market impact of its own size alone."
        )
    if interest is not None:
        sentences.append(
            f"Every world is scaled to a mean open interest of {words.money(interest)} ({words.CURRENCY.get()})."
            if isinstance(interest, int | float)
            else f"Every world is scaled to an open interest: {words.plain(interest)}."
        )
    terms = [
        FUND_SCOPES.get(str(value)) or f"{key.replace('_', ' ')} {words.plain(value)}"
        for key, value in fund.items()
        if value is not None and key != "protection"
    ]
    return [*sentences, f"Insurance fund: {', '.join(terms)}."] if terms else sentences


def _of_world(metadata: Mapping[str, Any], key: str) -> Any:
    """Crowding or open interest: at the top of the metadata, or in the table `world` of a specification."""
    found = stated(metadata, key)
    return part(metadata, "world").get(key) if found is None else found


def _meeting(result: Any) -> str:
    """Who shares a fund and a crowd."""
    number = result.accounts["world"].n_unique()
    if not result.policies.is_empty() and number > 1:
        return "Every strategy × policy is a world of its own with a fund and a crowd: they are alternatives."
    worlds = "all are in one world" if number == 1 else f"there are {number:,} worlds"
    return f"Accounts of a world share its fund and crowd; {worlds}."


def notes(metadata: Mapping[str, Any]) -> list[str]:
    """Notes and warnings of the run."""
    found = metadata.get("notes")
    return [str(note) for note in found] if isinstance(found, list | tuple) else []


def total(result: Any) -> dict[str, Any]:
    """All positions of the run together, as one row of `statistics.combine`; empty without rows."""
    rows = result.statistics.filter((pl.col("symbol") != TOTAL) & (pl.col("strategy") != TOTAL))
    if rows.is_empty():
        return {}
    return statistics.combine(rows.with_columns(everything=pl.lit(TOTAL)), "everything").row(0, named=True)


def headline(result: Any) -> list[str]:
    """The result in a few sentences."""
    row = total(result)
    if not row or not row["positions"]:
        rejected = row.get("rejected", 0)
        return [f"No position was opened; orders rejected: {words.count(rejected)}."]
    accounts = words.plural(result.accounts["account"].n_unique(), "account")
    more = f" ({words.count(row['rejected'])} more were rejected)" if row["rejected"] else ""
    sentences = [
        f"{accounts} opened {words.plural(row['positions'], 'position')}{more}.",
        f"{words.count(row['liquidated'])} ({words.share(row['liquidated_share'])}) were liquidated and "
        f"{words.count(row['defaulted'])} ({words.share(row['defaulted_share'])}) ended below zero.",
    ]
    moved = part(result.metadata, "money")
    gains = words.money(row["net_fund_flow"] + row["deficit"] - modes.given_up(moved))
    worlds = result.accounts["world"].n_unique()
    funds = f"Over all {worlds:,} worlds, funds" if worlds > 1 else "The fund"
    took = f"{funds} took in {gains} from liquidation fees, surplus and a share of trading fees"
    if row["defaulted"]:
        covered = f", {words.money(row['uncovered'])} of it when it was empty" if row["uncovered"] else ""
        took += (
            f", and defaults drew {words.money(row['deficit'])}{covered}: a net flow of "
            f"{words.money(row['net_fund_flow'])}{', with what others gave up' if modes.given_up(moved) else ''}"
        )
    met = modes.transfers(moved)
    return [*sentences, f"{took}.", *([met] if met else []), *_funds(result.fund)]


def _funds(fund: pl.DataFrame) -> list[str]:
    """How many funds ran dry, and the worst day."""
    worst = statistics.worst_draws(fund, limit=1, rank="worst_deficit")
    if worst.is_empty():
        return []
    dry, worlds = fund.filter(pl.col("uncovered") > 0)["world"].n_unique(), fund["world"].n_unique()
    sentences = [f"In {dry:,} of {worlds:,} worlds a fund ran dry."] if dry and worlds > 1 else []
    row = worst.row(0, named=True)
    return [
        *sentences,
        f"The day of the largest deficit{' of one world' if worlds > 1 else ''} was "
        f"{words.moment(row['time'])}, most in {row['symbol']}.",
    ]


def flows(accounts: pl.DataFrame) -> list[str]:
    """What liquidations and defaults brought and cost the fund, in numbers and in money."""
    ended = accounts.filter(IS_LIQUIDATED | IS_DEFAULTED)
    if ended.is_empty():
        return ["No position was liquidated, and none ended below zero."]
    names = ("liquidation_fee", "surplus", "deficit")
    paid = [ended[name] > 0 for name in names]
    counted = [int(which.sum()) for which in (*paid, ~(paid[0] | paid[1] | paid[2]))]
    told = [f"{number:,} ({words.share(number / ended.height)})" for number in counted]
    sums = [math.fsum((ended[name] * ended["weight"]).to_list()) for name in names]
    fees, surplus, deficit = (words.money(value) for value in sums)
    sentence = (
        f"Of {ended.height:,} liquidations and other exits below zero, {told[0]} paid the fund a liquidation "
        f"fee, {told[1]} left a surplus beyond it, {told[2]} a deficit, and {told[3]} nothing. In money, "
        f"times the positions' weights: fees {fees}, surplus {surplus}, deficit {deficit}."
    )
    if sums[0] > 0 and sums[1] < SLIGHT * sums[0]:
        sentence += " The fee took nearly all that liquidations left, so that next to nothing became surplus."
    return [sentence]


def figures_in_brief(result: Any) -> list[tuple[str, str]]:
    """Label and value of the key figures."""
    row = total(result)
    if not row:
        return []
    return [
        ("positions", words.count(row["positions"])),
        ("liquidated", words.share(row["liquidated_share"])),
        ("PD, by size", words.share(row["pd"])),
        ("exposure at default", words.money(row["ead"])),
        ("loss given default", words.share(row["lgd"])),
        ("expected loss, a position", words.money(row["expected_loss"])),
        ("deficit", words.money(row["deficit"])),
        ("uncovered", words.money(row["uncovered"])),
        ("net fund flow", words.money(row["net_fund_flow"])),
        ("mean return", words.share(row["mean_return"])),
    ]
