"""The report's sentences: what was run, under which assumptions, and what came out.

Metadata is read by these keys, each optional, at its top or under "spec": `data` (source, start, end, bar,
…), `symbols`, `venue` (a name, or its fields with `provenance`), `rules` (intrabar, take_profit_fill,
oversize, funding_price), `world` (open_interest, crowding), `fund` (seed, scope, fee_share), `notes`
(sentences). What is not stated is not claimed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from perpbt import statistics
from perpbt.report import words
from perpbt.statistics import TOTAL

ONE_PATH = (
    "Accounts that share a price path are one observation: these shares describe the price history that was run, and "
    "their number of accounts says nothing about their accuracy. For an interval run other histories, or resample "
    "blocks of time."
)
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
    (
        "funding_price",
        "mark",
    ): "Funding is charged on the mark price at the open of the first bar at or after its time.",
    (
        "funding_price",
        "index",
    ): "Funding is charged on the index price at the open of the first bar at or after its time.",
}
STANDING = (
    "Positions have isolated margin; liquidation tests the mark price, against maintenance margin by the venue's tiers.",
    "Stops, trailing stops and liquidations fill at their threshold or the last open if that is worse, inside the range "
    "that traded, less slippage.",
    "Signals and margin calls are read at a close and executed at the next open; nothing sees a later bar.",
    "A trader loses the margin and no more: what is below zero after an exit is a deficit of the fund (a default). "
    "Liquidated is not yet bankrupt.",
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
    data, sentences = part(result.metadata, "data"), []
    symbols = result.accounts["symbol"].unique().sort().to_list()
    source = f" from {data['source']}" if data.get("source") else ""
    bar = f"{data['bar']} bars" if data.get("bar") else "Bars"
    sentences.append(f"{bar} of {words.listing(symbols)}{source}{_period(result, data)}.")
    venue = stated(result.metadata, "venue")
    if venue:
        name = (venue.get("title") or venue.get("name")) if isinstance(venue, Mapping) else venue
        sentences.append(f"Venue: {name}.")
    strategies = result.accounts["strategy"].unique().sort().to_list()
    what = "Strategy" if len(strategies) == 1 else "Strategies"
    sentences.append(f"{what}: {words.listing(strategies)}.")
    sentences.append(_policies(result))
    return sentences


def _period(result: Any, data: Mapping[str, Any]) -> str:
    """The period of the data as stated, else of the positions."""
    if data.get("start") and data.get("end"):
        return f", {_day(data['start'])} to {_day(data['end'])} (UTC)"
    held = statistics_period(result.accounts)
    return f", positions from {held[0]} to {held[1]} (UTC)" if held else ""


def _day(stamp: object) -> str:
    """An ISO stamp without its seconds and zone."""
    return str(stamp).replace("T", " ").removesuffix("Z").removesuffix("+00:00")[:16].removesuffix(" 00:00")


def statistics_period(accounts: pl.DataFrame) -> tuple[str, str] | None:
    """First entry and last exit in words; None without positions."""
    opened = accounts.filter(pl.col("exit_reason") != "rejected")
    if opened.is_empty():
        return None
    first, last = opened.select(pl.col("entry_time").min(), pl.col("exit_time").max()).row(0)
    return words.moment(first), words.moment(last)


def _policies(result: Any) -> str:
    """How many policies, and what varies between them."""
    policies = result.policies
    if policies.is_empty():
        return "Accounts were given one by one, without a grid of policies: there are no heat maps."
    fields = [name for name in policies.columns if name not in ("policy", "stop_kind", "stop_value")]
    varying = [name for name in fields if policies[name].n_unique() > 1]
    parts = [
        f"{name.replace('_', ' ')} {words.listing((words.label(v) for v in policies[name].unique(maintain_order=True)), 12)}"
        for name in varying
    ]
    same = [
        f"{name.replace('_', ' ')} {words.label(policies[name][0])}"
        for name in fields
        if name not in varying and policies[name][0] not in (None, "none", False, "false", 0.0)
    ]
    grid = f"{words.plural(policies.height, 'policy').replace('policys', 'policies')}"
    return (
        f"{grid}{': ' + '; '.join(parts) if parts else ''}{'. In all: ' + ', '.join(same) if same else ''}."
    )


def assumptions(result: Any) -> list[str]:
    """What the numbers rest on, a sentence each."""
    metadata = result.metadata
    rules, world, fund = (part(metadata, key) for key in ("rules", "world", "fund"))
    chosen = [text for (key, value), text in RULES.items() if rules.get(key) == value]
    sentences = [*STANDING, *chosen, _meeting(result)]
    if "crowding" in world:
        sentences.append(
            "Crowding is on: what a world liquidates in the same symbol, side and bar shares one impact, so fills worsen together."
            if world["crowding"]
            else "Crowding is off: every liquidation has the impact of its own size alone."
        )
    if world.get("open_interest") is not None:
        interest = world["open_interest"]
        amount = words.money(interest) if isinstance(interest, int | float) else words.plain(interest)
        sentences.append(f"Every world is scaled to a mean open interest of {amount} quote currency.")
    known = [
        f"{key.replace('_', ' ')} {words.plain(fund[key])}"
        for key in ("seed", "scope", "fee_share")
        if fund.get(key) is not None
    ]
    if known:
        sentences.append(f"Insurance fund: {', '.join(known)}.")
    return sentences


def _meeting(result: Any) -> str:
    """Who shares a fund and a crowd."""
    if not result.policies.is_empty():
        return "Every strategy × policy is a world of its own, with its own fund and crowd: they are alternatives."
    number = result.accounts["world"].n_unique()
    return f"Accounts of a world share its fund and crowd; there {'is' if number == 1 else 'are'} {words.plural(number, 'world')}."


def notes(metadata: Mapping[str, Any]) -> list[str]:
    """Notes and warnings of the run."""
    found = metadata.get("notes")
    return [str(note) for note in found] if isinstance(found, list | tuple) else []


def total(result: Any) -> dict[str, Any]:
    """All positions of the run put together: counts, sums and shares of `statistics.combine`; empty without rows."""
    rows = result.statistics.filter((pl.col("symbol") != TOTAL) & (pl.col("strategy") != TOTAL))
    if rows.is_empty():
        return {}
    table = statistics.combine(rows.with_columns(everything=pl.lit(TOTAL)), "everything")
    return table.row(0, named=True)


def headline(result: Any) -> list[str]:
    """The result in a few sentences."""
    row = total(result)
    if not row or not row["positions"]:
        rejected = row.get("rejected", 0)
        return [
            f"No position was opened: {words.count(rejected)} orders were rejected."
            if rejected
            else "No accounts."
        ]
    accounts = result.accounts["account"].n_unique()
    sentences = [
        f"{words.plural(accounts, 'account')} held {words.plural(row['positions'], 'position')}"
        + (f" ({words.count(row['rejected'])} more were rejected)." if row["rejected"] else "."),
        f"{words.count(row['liquidated'])} ({words.share(row['liquidated_share'])}) were liquidated and "
        f"{words.count(row['defaulted'])} ({words.share(row['defaulted_share'])}) ended below zero.",
    ]
    if row["defaulted"]:
        sentences.append(
            f"Defaults left deficits of {words.money(row['deficit'])}, {words.share(row['lgd'])} of the notional in default"
            f"; {_uncovered(row['uncovered'])}."
        )
    sentences.append(
        f"The funds took in {words.money(row['net_fund_flow'] + row['deficit'])} from liquidation fees, surplus and "
        f"their share of fees: a net flow of {words.money(row['net_fund_flow'])}."
    )
    return [*sentences, *_funds(result.fund)]


def _uncovered(amount: float) -> str:
    return f"{words.money(amount)} of them met an empty fund" if amount else "the funds covered all of them"


def _funds(fund: pl.DataFrame) -> list[str]:
    """How many funds ran dry, and the worst day."""
    if fund.is_empty():
        return []
    dry = fund.filter(pl.col("uncovered") > 0)["world"].n_unique()
    worlds = fund["world"].n_unique()
    sentences = [f"{dry:,} of {worlds:,} worlds saw a fund run dry."] if dry and worlds > 1 else []
    worst = statistics.worst_draws(fund, limit=1)
    if worst.height:
        row = worst.row(0, named=True)
        sentences.append(f"The worst day was {words.moment(row['time'])}, in {row['symbol']} above all.")
    return sentences


def figures_in_brief(result: Any) -> list[tuple[str, str]]:
    """Label and value of the key figures."""
    row = total(result)
    if not row:
        return []
    return [
        ("positions", words.count(row["positions"])),
        ("liquidated", words.share(row["liquidated_share"])),
        ("defaulted (PD)", words.share(row["pd"])),
        ("exposure at default", words.money(row["ead"])),
        ("loss given default", words.share(row["lgd"])),
        ("expected loss a position", words.money(row["expected_loss"])),
        ("deficit", words.money(row["deficit"])),
        ("uncovered", words.money(row["uncovered"])),
        ("net fund flow", words.money(row["net_fund_flow"])),
        ("mean return", words.share(row["mean_return"])),
    ]
