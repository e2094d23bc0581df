"""Fixed against dynamic margin: what rates that follow volatility do to liquidations, defaults and the fund.

The same positions on the same history, under a venue's maintenance rates as they stand, and scaled day by day by a model of
volatility that saw only the days before: exponentially weighted, GARCH(1,1), an empirical quantile; and the first of them with each
tool against procyclicality of Regulation (EU) 153/2013, Article 28(1). A margin that follows the market covers its moves better, and
asks for more just when that hurts most; the tools trade one for the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

import perpbt
from perpbt.config import Duration
from perpbt.config.settings import Above, Amounts, Number, SpanText
from perpbt.engines.chunks import Progress
from perpbt.load import Bars
from perpbt.statistics.coverage import christoffersen, kupiec, traffic_light
from perpbt.statistics.procyclicality import cost, deviation_of_changes, peak_to_trough, worst_rise
from perpbt.studies import Findings
from perpbt.studies._population import spread_positions, with_tiers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BUFFER, WEIGHT = 0.25, 0.25  # the least that the article asks for
RULES: Mapping[str, Mapping[str, Any]] = {
    "fixed": {"lowest": 1.0, "highest": 1.0},
    "EWMA": {},
    "GARCH": {"model": "garch"},
    "quantile": {"model": "quantile"},
    "EWMA, buffer": {"buffer": BUFFER},
    "EWMA, stressed": {"stressed_weight": WEIGHT},
    "EWMA, floor": {"floor": True},
    "EWMA, all tools": {"buffer": BUFFER, "stressed_weight": WEIGHT, "floor": True},
}
COUNTS = ("positions", "liquidated", "defaulted", "surplus", "deficit", "net_fund_flow", "uncovered")


def study(
    bars: Bars,
    progress: Progress | None,
    *,
    venue: str = "binance_um",
    leverages: Amounts = (3.0, 10.0, 25.0),
    starts: Number = 150,
    holding: SpanText = "7d",
    every: SpanText = "1d",
    warm_up: int = 90,
    confidence: float = 0.99,
    days_of_turnover: Above = 0.02,
) -> Findings:
    """Every rule on the same population. `holding` and `every` are durations; `warm_up` counts epochs of `every`."""
    from perpbt.studies._outcomes import drawn_outcomes

    table = spread_positions(
        bars,
        leverages=leverages,
        starts=starts,
        holding=timedelta(milliseconds=int(Duration.parse(holding))),
    )
    terms, rows, by_symbol, margins = with_tiers(venue, bars), [], [], []
    common = {"every": every, "warm_up": warm_up, "confidence": confidence}
    for name, spec in RULES.items():
        result = perpbt.simulate(
            bars,
            table,
            venue=terms,
            dynamic={**common, **spec},
            crowding=True,
            open_interest={"days_of_turnover": days_of_turnover},
            progress=progress,
        )
        asked = margins_asked(result, name)
        margins.append(asked)
        one, each = judged(name, result, moves(bars, asked), 1.0 - confidence)
        rows.append(one)
        by_symbol += each
    found = pl.DataFrame(rows, infer_schema_length=None)
    history = pl.concat(margins)
    return Findings(
        {
            "rules": found,
            "rules_by_symbol": pl.DataFrame(by_symbol, infer_schema_length=None),
            "margins": history,
        },
        {
            "margins_in_time": drawn_margins(history),
            "liquidations_and_deficits": drawn_outcomes(found, "rule"),
        },
        words(found, confidence),
    )


def margins_asked(result: perpbt.Result, name: str) -> pl.DataFrame:
    """The margin in force at each epoch, bounds of the scale included; a fixed one is that of the warm-up, and stays."""
    known = result.extra["margins"].drop_nulls("margin").with_columns(pl.lit(name).alias("rule"))
    in_force = (pl.col("reference") * pl.col("scale")).alias("margin")
    return known.select("rule", "symbol", "time", in_force, "scale")


def moves(bars: Bars, asked: pl.DataFrame) -> pl.DataFrame:
    """Beside each margin the absolute log return of the mark until the next epoch: symbol time margin scale move."""
    price = (
        pl.coalesce("mark_close", "close") if "mark_close" in bars.frame.collect_schema() else pl.col("close")
    )
    closes = bars.frame.select("symbol", "ts", price.alias("price")).drop_nulls("price").sort("ts").collect()
    at = asked.sort("time").join_asof(
        closes,
        left_on="time",
        right_on="ts",
        by="symbol",
        strategy="backward",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    later = pl.col("price").shift(-1).over("symbol", order_by="time")
    return at.with_columns((later / pl.col("price")).log().abs().alias("move")).drop_nulls("move")


def judged(
    name: str, result: perpbt.Result, covered: pl.DataFrame, share: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One rule in a row: outcomes, procyclicality, coverage; and the last two symbol by symbol."""
    total = result.statistics.filter(
        (pl.col("strategy") == "all") & (pl.col("policy") == "all") & (pl.col("symbol") == "all")
    ).row(0, named=True)
    each = [
        {"rule": name, "symbol": str(key[0]), **measured(own, share)}
        for key, own in covered.sort("time").group_by("symbol", maintain_order=True)
    ]
    each.sort(key=lambda one: one["symbol"])
    row = {"rule": name, **{key: total[key] for key in COUNTS}}
    if each:
        hits, count = (sum(one[key] for one in each) for key in ("exceeded", "epochs"))
        row |= {
            "peak_to_trough": max(one["peak_to_trough"] for one in each),
            "worst_5_epoch_rise": max(one["worst_5_epoch_rise"] for one in each),
            "cost": float(np.mean([one["cost"] for one in each])),
            "exceeded_share": hits / count,
            "lowest_kupiec_p": min(one["kupiec_p"] for one in each),
            "lowest_christoffersen_p": min(one["christoffersen_p"] for one in each),
            "zones": " ".join(one["zone"] for one in each),
        }
    return row, each


def measured(own: pl.DataFrame, share: float) -> dict[str, Any]:
    """Procyclicality and coverage of one symbol's margins; cost is over the margin of fixed rates."""
    margin = own["margin"].to_numpy()
    hits = (own["move"] > own["margin"]).to_list()
    found, alone = kupiec(hits, share), christoffersen(hits, share)
    return {
        "epochs": found.observations,
        "exceeded": found.exceeded,
        "peak_to_trough": peak_to_trough(margin),
        "worst_5_epoch_rise": worst_rise(margin, 5),
        "deviation_of_changes": deviation_of_changes(margin),
        "cost": cost(margin, (own["margin"] / own["scale"]).to_numpy()),
        "kupiec_ratio": found.ratio,
        "kupiec_p": found.exact,
        "christoffersen_p": alone.independence_p_value,
        "zone": traffic_light(found.exceeded, found.observations, share).zone,
    }


def drawn_margins(history: pl.DataFrame) -> Figure:
    """The margins of the first symbol: the models above, the tools below."""
    from matplotlib.figure import Figure

    from perpbt.report.drawing import date_axis, date_numbers, nothing, ramp

    figure = Figure(figsize=(9, 7))
    if history.is_empty():
        nothing(figure.add_subplot(), "The history is shorter than the warm-up: rates never moved.")
        return figure
    symbol = str(history["symbol"].sort()[0])
    tools = [name for name in RULES if name.startswith("EWMA")]
    groups = ([name for name in RULES if name not in tools] + tools[:1], tools)
    for ax, names in zip(figure.subplots(2, 1, sharex=True, sharey=True), groups, strict=True):
        for color, name in zip(ramp(len(names)), names, strict=True):
            one = history.filter((pl.col("rule") == name) & (pl.col("symbol") == symbol))
            ax.plot(date_numbers(one["time"]), 100 * one["margin"].to_numpy(), color=color, label=name, lw=1)
        date_axis(ax)
        ax.set_ylabel("margin, % of the price")
        ax.legend(ncols=2, fontsize="small")
    figure.axes[0].set_title(f"Margin in force, {symbol}")
    return figure


def words(found: pl.DataFrame, confidence: float) -> str:
    """What the table says."""
    fixed, *others = found.iter_rows(named=True)
    most = max(others, key=lambda row: row["liquidated"])
    least = min(found.iter_rows(named=True), key=lambda row: row["deficit"])
    text = (
        f"Under fixed rates {fixed['liquidated']:,} of {fixed['positions']:,} positions are liquidated and {fixed['defaulted']:,} "
        f"default; {most['rule']} liquidates most, {most['liquidated']:,}. Deficits are smallest under {least['rule']}: "
        f"{least['deficit']:,.0f} against {fixed['deficit']:,.0f} under fixed rates."
    )
    if "peak_to_trough" in found.columns:
        told = f"{1 - confidence:.2%}"
        text += (
            f"\n\nA margin at {confidence:.2%} is to be exceeded on {told} of the epochs. Peak to trough and the worst rise over five "
            "epochs are those of the worst symbol, p-values those of the lowest; a fixed margin moves nothing and is judged by its "
            "coverage alone. Kupiec's p-values are those of the exact binomial test. Cost is the mean margin over the fixed one. Symbols move "
            "together: their p-values are not independent. Rates are the venue's, scaled by a margin over that of each symbol's own "
            "warm-up by the same model: one whose warm-up holds a crash asks for less ever after, most of all an empirical quantile."
        )
    return text + ranking(found)


def ranking(found: pl.DataFrame, columns: Sequence[str] = ("worst_5_epoch_rise", "exceeded_share")) -> str:
    """Which of the tools calms margins most, and what that leaves uncovered."""
    if not set(columns) <= set(found.columns):
        return "\n\nThe history is shorter than the warm-up: rates never moved."
    tools = found.filter(pl.col("rule").str.starts_with("EWMA")).sort(columns[0])
    calm, wild = tools.row(0, named=True), tools.row(-1, named=True)
    return (
        f"\n\nOf the exponentially weighted margins {calm['rule']} rises least in five epochs ({calm[columns[0]]:.0%}) and "
        f"{wild['rule']} most ({wild[columns[0]]:.0%}); they are exceeded on {calm[columns[1]]:.2%} and {wild[columns[1]]:.2%} of epochs."
    )
