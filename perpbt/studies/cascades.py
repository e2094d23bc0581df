"""Cascades: how far liquidations push prices, who falls because others fell, and what tiers do about it.

Accounts leveraged as BitMEX's survey of 2018-2019 found them, with positions of very different sizes, trade through the worst months
of a history: by themselves, and with every liquidation pushing the price for all, until nobody more falls. Then once
more under flat margin, the lowest tier's for everyone, in place of tiers that give large positions less leverage; and with deleveraging
of winners inside the cascade.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

import perpbt
from perpbt.config.settings import Above, AtLeastZero, Names, Number
from perpbt.engines.chunks import Progress
from perpbt.errors import InputError
from perpbt.load import Bars
from perpbt.studies import Findings
from perpbt.studies._population import spans, with_tiers
from perpbt.studies._survey import leverages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDES = ("long", "short")
NO_CAP = 1e15
RUNS = ("alone", "cascade", "cascade, deleveraging")


def study(
    bars: Bars,
    progress: Progress | None,
    *,
    months: Names = ("2020-03", "2021-05"),
    starts: Number = 500,
    holding_days: Above = 3.0,
    median_notional: Above = 20_000.0,
    spread: AtLeastZero = 2.0,
    days_of_turnover: Above = 0.1,
    strength: float = 1.0,
    decay: float = 0.5,
    fund: AtLeastZero = 0.0,
    venue: str = "binance_um",
    seed: int = 1,
) -> Findings:
    """`starts` positions a side and symbol, held `holding_days` on average; notionals lognormal with this median and standard deviation
    of their logarithm, weighted to an open interest of `days_of_turnover`. `strength` of 1 is the square-root law as it was measured; `fund` what each symbol's fund begins with.
    """
    tiered = with_tiers(venue, bars)
    rows, pushes = [], []
    for name, first, last in windows(bars, months):
        for margin, terms in (("tiered", tiered), ("flat", flat(tiered, bars))):
            people = population(bars, terms, first, last, starts, holding_days, median_notional, spread, seed)
            weights = interest(bars, people, first, last, days_of_turnover)
            for run in RUNS:
                result = perpbt.simulate(
                    bars,
                    people.join(weights, on="symbol"),
                    venue=terms,
                    progress=progress,
                    fund={"seed": fund},
                    **options(run, strength, decay),
                )
                rows.append({"window": name, "margin": margin, "run": run, **judged(result)})
                if run == "cascade":
                    told = result.extra["cascades"].select(
                        pl.lit(name).alias("window"), pl.lit(margin).alias("margin"), pl.all()
                    )
                    pushes.append(told)
    found, pushed = pl.DataFrame(rows, infer_schema_length=None), pl.concat(pushes)
    figures = {"tiers": compared(found), "amplification": drawn(pushed)}
    return Findings({"runs": found, "cascades": pushed}, figures, words(found))


def options(run: str, strength: float, decay: float) -> Mapping[str, Any]:
    """What a run asks of `simulate`."""
    if run == "alone":
        return {"coupling": "fund"}
    coupling = {"kind": "cascade", "pressure": {"strength": strength, "decay": decay}}
    return {"coupling": coupling, **({"adl": {}} if run == "cascade, deleveraging" else {})}


def windows(bars: Bars, months: Sequence[str]) -> list[tuple[str, datetime, datetime]]:
    """The stretches to look at that the bars have; all they have if none."""
    begins, ends = spans(bars).select(pl.col("first").min(), pl.col("last").max()).row(0)
    chosen = []
    for month in months:
        try:
            first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        except ValueError as error:
            raise InputError(f"months: {month!r}; allowed: YYYY-MM") from error
        last = (first + timedelta(days=32)).replace(day=1)
        if first < ends and last > begins:
            chosen.append((month, max(first, begins), min(last, ends)))
    return chosen or [("all", begins, ends)]


def flat(venue: perpbt.Venue, bars: Bars) -> perpbt.Venue:
    """The same venue with one tier, the lowest, for positions of any size."""
    tiers = {}
    for symbol in bars.symbols:
        lowest = venue.brackets(symbol)[0]
        tiers[symbol] = ((0.0, NO_CAP, lowest.rate, lowest.max_leverage, 0.0),)
    fields = {
        name: getattr(venue, name)
        for name in type(venue).model_fields
        if name not in ("tiers", "dated", "tables", "provenance")
    }
    return perpbt.Venue(**{**fields, "tiers": tiers})


def population(
    bars: Bars, venue: perpbt.Venue, first: datetime, last: datetime, starts: int, holding_days: float, median: float, spread: float,
    seed: int,
) -> pl.DataFrame:  # fmt: skip
    """The same wishes under any venue: who may not have the leverage asked for takes the highest there is for the size."""
    random, parts = np.random.default_rng(seed), []
    for symbol, begins, ends in spans(bars).iter_rows():
        start, end = max(first, begins), min(last, ends)
        for side in SIDES:
            notional = np.minimum(median * np.exp(spread * random.normal(size=starts)), 1e7)
            wanted, held = leverages(side, random.random(starts)), random.exponential(holding_days, starts)
            most = np.array([venue.max_leverage(float(size), symbol) for size in notional])
            leverage = np.maximum(np.minimum(wanted, most), 1.0)
            entry = [start + (end - start) * ((i + 0.5) / starts) for i in range(starts)]
            frame = pl.DataFrame(
                {"entry_time": entry, "leverage": leverage, "held": held, "collateral": notional / leverage}
            )
            hold = pl.duration(milliseconds=(pl.col("held") * 86_400_000).ceil().cast(pl.Int64))
            parts.append(
                frame.select(
                    pl.lit(side).alias("strategy"), pl.lit(symbol).alias("symbol"), pl.lit(side).alias("side"), "entry_time",
                    (pl.col("entry_time") + hold).alias("exit_time"), "collateral", "leverage",
                )
            )  # fmt: skip
    return pl.concat(parts).with_row_index("account")


def interest(
    bars: Bars, people: pl.DataFrame, first: datetime, last: datetime, days_of_turnover: float
) -> pl.DataFrame:
    """A weight a symbol that makes its mean open notional so many days of its turnover in the window."""
    if "volume" not in bars.frame.collect_schema().names():
        raise InputError(
            "cascades need volume, against which liquidations push; the bars have none. Allowed: bars with volume"
        )
    inside = bars.frame.filter(pl.col("ts").is_between(first, last, closed="left"))
    days = (last - first) / timedelta(days=1)
    turnover = (
        inside.group_by("symbol").agg(turnover=(pl.col("volume") * pl.col("close")).sum() / days).collect()
    )
    stays = (
        pl.min_horizontal("exit_time", pl.lit(last)) - pl.col("entry_time")
    ).dt.total_milliseconds() / 86_400_000
    held = people.group_by("symbol").agg(
        held=(pl.col("collateral") * pl.col("leverage") * stays).sum() / days
    )
    weight = days_of_turnover * pl.col("turnover") / pl.col("held")
    return turnover.join(held, on="symbol").select("symbol", weight=weight)


def judged(result: perpbt.Result) -> dict[str, Any]:
    """One run in a row: liquidated and defaulted accounts by weight, money, and how far prices were pushed."""
    table, fund = result.accounts, result.fund
    told = result.metadata.get("coupling", {})
    pushed = result.extra.get("cascades", pl.DataFrame())
    some = pushed.height > 0
    return {
        "rows": table.height,
        "accounts": float(table["weight"].sum()),
        "liquidated": float(table.filter(pl.col("exit_reason") == "liquidation")["weight"].sum()),
        "defaulted": float(table.filter(pl.col("deficit") > 0)["weight"].sum()),
        "deficit": float(fund["deficit"].sum()),
        "uncovered": float(fund["uncovered"].sum()),
        "deleveraged": told.get("deleveraged", 0),
        "caused_by_feedback": told.get("share_caused_by_feedback", 0.0),
        "volume_by_feedback": 1.0 - math.fsum(pushed["first_volume"]) / math.fsum(pushed["volume"])
        if some
        else 0.0,
        "amplification": amplified(pushed) if some else None,
        "branching_ratio": pushed["branching_ratio"].mean() if some else None,
        "worst_displacement": pushed["displacement"].abs().max() if some else 0.0,
        "within_two_percent": near(table),
    }


def amplified(pushed: pl.DataFrame) -> float | None:
    """(market's moves + what they were pushed further by) / market's moves, each push of the price counted by its volume."""
    moved = pushed.filter(pl.col("shock") > 0)
    own = math.fsum(moved["volume"] * moved["shock"])
    return 1.0 + math.fsum(moved["volume"] * moved["displacement"].abs()) / own if own > 0.0 else None


def near(accounts: pl.DataFrame) -> float | None:
    """Share of opened notional that a move of 2 % from its entry liquidates: how densely thresholds lie near the price."""
    held = accounts.filter(pl.col("exit_reason") != "rejected").select(
        notional=pl.col("weight") * pl.col("quantity") * pl.col("entry_price"),
        apart=(pl.col("liquidation_price") / pl.col("entry_price") - 1).abs(),
    )
    whole = math.fsum(held["notional"])
    return math.fsum(held.filter(pl.col("apart") <= 0.02)["notional"]) / whole if whole > 0.0 else None


def compared(found: pl.DataFrame) -> Figure:
    """Deficits of the same people under tiered and flat margin, run by run, a panel a window."""
    from matplotlib.figure import Figure

    from perpbt.report.drawing import DEFICIT, SURPLUS, money_axis

    windows = found["window"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(max(4.5 * len(windows), 6), 4), layout="constrained")
    panels = figure.subplots(1, len(windows), squeeze=False)[0]
    for ax, window in zip(panels, windows, strict=True):
        for offset, (margin, colour) in zip(
            (-0.2, 0.2), (("tiered", SURPLUS), ("flat", DEFICIT)), strict=True
        ):
            own = found.filter((pl.col("window") == window) & (pl.col("margin") == margin))
            places = [place + offset for place in range(len(RUNS))]
            ax.bar(places, own["deficit"].to_list(), 0.38, color=colour, label=f"{margin} margin")
        ax.set_xticks(range(len(RUNS)), [run.replace(", ", ",\n") for run in RUNS])
        ax.set_title(f"Deficits, {window}")
        money_axis(ax, "y")
        ax.margins(y=0.22)  # room for the legend
        ax.legend(loc="upper left", ncols=2)
    panels[0].set_ylabel("all accounts, quote currency")
    return figure


def drawn(pushed: pl.DataFrame) -> Figure:
    """Every push of a price: the market's own move and how far it went, flat and tiered margin side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for ax, margin in zip(axes, ("tiered", "flat"), strict=True):
        for side, colour in (("long", "#d55e00"), ("short", "#0072b2")):
            own = pushed.filter(
                (pl.col("margin") == margin) & (pl.col("side") == side) & (pl.col("shock") > 0)
            )
            ax.scatter(
                own["shock"].to_list(),
                own["displacement"].abs().to_list(),
                s=6,
                color=colour,
                label=f"{side}s fell",
            )
        ax.set(
            title=f"{margin} margin",
            xlabel="the bar's own move, a fraction of the price",
            xscale="log",
            yscale="log",
        )
        ax.legend()
    axes[0].set_ylabel("pushed further by, a fraction of the price")
    return figure


def by_volume(row: Mapping[str, Any]) -> str:
    """How far prices were pushed, and how much of what fell they brought down."""
    if row["amplification"] is None:
        return ""
    return (
        f"By volume, what liquidations did to prices brought down {100 * row['volume_by_feedback']:.1f} % of what fell, and moves that liquidate became "
        f"{row['amplification']:.2f} times as large."
    )


def cure(window: str, tiered: Mapping[str, Any], flat: Mapping[str, Any]) -> str:
    """What tiers do to the same people, in cascades."""
    said = (
        f"{window}, tiers as the cure: the same people default {tiered['defaulted']:,.0f} times with tiers and {flat['defaulted']:,.0f} times under flat "
        f"margin, for deficits of {tiered['deficit']:,.0f} and {flat['deficit']:,.0f}."
    )
    if not (tiered["within_two_percent"] and flat["within_two_percent"]):
        return said
    shares = [row["within_two_percent"] for row in (tiered, flat)]
    said += (
        f" By theory the branching ratio goes with the notional whose threshold lies near the price: a move of 2 % from entry liquidates "
        f"{100 * shares[0]:.1f} % of it with tiers and {100 * shares[1]:.1f} % without, a ratio of {shares[0] / shares[1]:.2f}"
    )
    if not flat["volume_by_feedback"]:
        return said + "."
    return (
        said
        + f"; that of the shares of volume found is {tiered['volume_by_feedback'] / flat['volume_by_feedback']:.2f}."
    )


def words(found: pl.DataFrame) -> str:
    """What the table says."""
    lines = []
    for row in found.filter(pl.col("run") == "cascade").iter_rows(named=True):
        alone = found.filter(
            (pl.col("window") == row["window"])
            & (pl.col("margin") == row["margin"])
            & (pl.col("run") == "alone")
        ).row(0, named=True)
        lines.append(
            f"{row['window']}, {row['margin']} margin: {alone['liquidated']:,.0f} accounts are liquidated by themselves and "
            f"{row['liquidated']:,.0f} in cascades, of which feedback caused {100 * row['caused_by_feedback']:.1f} %; deficits go from "
            f"{alone['deficit']:,.0f} to {row['deficit']:,.0f}. {by_volume(row)}"
        )
    for window in found["window"].unique(maintain_order=True):
        pair = {
            row["margin"]: row
            for row in found.filter((pl.col("window") == window) & (pl.col("run") == "cascade")).to_dicts()
        }
        lines.append(cure(window, pair["tiered"], pair["flat"]))
    lines.append(
        "Accounts are counted by weight, as many as the open interest makes of each row. A deficit need not grow in a cascade: who falls on "
        "the way is closed at its own threshold, sooner than a later gap would have met it, and at the impact of its own size alone "
        "(`crowding` would charge each with all that fall beside it)."
    )
    return "\n\n".join(lines)
