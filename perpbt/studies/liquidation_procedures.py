"""Liquidation procedures: what the way a venue closes positions does to its traders and its fund.

The same positions on the same history under the same fees, tiers and impact, closed in the ways of seven venues: all at once, on the
market or by takeover; one reducing order, then takeover; down the ladder of risk tiers; a fifth at a time; a portion a bar at the
fillable price; as much as cures the shortage; and an orderly exit that spreads the impact over the next bars. Up to its first
liquidation a position lives alike under all, so the traders compared are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

import perpbt
from perpbt.config import Duration
from perpbt.config.settings import Amounts, Number, SpanText
from perpbt.engines.chunks import Progress
from perpbt.load import Bars
from perpbt.studies import Findings
from perpbt.studies._population import sized_positions, with_tiers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROCEDURES: Mapping[str, Mapping[str, Any]] = {
    "full": {"procedure": "full"},
    "full, takeover": {"procedure": "full", "close": "takeover"},
    "reduce, then takeover": {"procedure": "reduce_then_takeover"},
    "ladder": {"procedure": "ladder"},
    "slice": {"procedure": "slice"},
    "portion": {"procedure": "portion", "fraction": 0.25},
    "cure": {
        "procedure": "cure",
        "fee": 0.001,
    },  # less than the lowest maintenance rate, or no cure is possible
    "optimal": {"procedure": "optimal"},
}


def study(
    bars: Bars,
    progress: Progress | None,
    *,
    venue: str = "binance_um",
    leverages: Amounts = (5.0, 10.0, 25.0),
    collaterals: Amounts = (1_000.0, 20_000.0, 200_000.0),
    starts: Number = 100,
    holding: SpanText = "7d",
    slices: Number = 8,
    risk_aversion: float = 0.0,
) -> Findings:
    """Every procedure on the same population. `slices` and `risk_aversion` (1 / money) are those of the orderly exit."""
    span = timedelta(milliseconds=int(Duration.parse(holding)))
    population = sized_positions(
        bars, leverages=leverages, collaterals=collaterals, starts=starts, holding=span
    )
    terms = with_tiers(venue, bars)
    exits = {"optimal": {"slices": slices, "risk_aversion": risk_aversion}}
    rows, each, flows = [], [], []
    for name, spec in PROCEDURES.items():
        wanted = {**spec, **exits.get(name, {})}
        result = perpbt.simulate(bars, population, venue=terms, liquidation=wanted, progress=progress)
        flows.append(flow_in_time(result, name))
        met = first_steps(result)
        rows.append({"procedure": name, **outcome(result, met, "all")})
        each += [
            {"procedure": name, "policy": policy, **outcome(result, met, policy)}
            for policy in population["policy"].unique(maintain_order=True)
        ]
    found = pl.DataFrame(rows, infer_schema_length=None)
    history = pl.concat(flows)
    return Findings(
        {
            "procedures": found,
            "procedures_by_policy": pl.DataFrame(each, infer_schema_length=None),
            "fund_flow": history,
        },
        {"outcomes": drawn_outcomes(found), "fund_in_time": drawn_flows(history)},
        words(found),
    )


def first_steps(result: perpbt.Result) -> pl.DataFrame:
    """Positions that were liquidated, in part or whole, with the steps it took: account steps sold."""
    if "liquidations" in result.extra:
        return (
            result.extra["liquidations"]
            .group_by("account", maintain_order=True)
            .agg(
                pl.len().cast(pl.Int64).alias("steps"),
                (pl.col("quantity") * pl.col("price")).sum().alias("sold"),
            )
        )
    gone = result.accounts.filter(pl.col("exit_reason") == "liquidation")
    return gone.select(
        "account",
        pl.lit(1, dtype=pl.Int64).alias("steps"),
        (pl.col("quantity") * pl.col("exit_price")).alias("sold"),
    )


def outcome(result: perpbt.Result, met: pl.DataFrame, policy: str) -> dict[str, Any]:
    """One procedure in a row: who was liquidated, what it cost traders, what the fund got."""
    rows = result.accounts.filter(pl.col("exit_reason") != "rejected")
    if policy != "all":
        rows = rows.filter(pl.col("policy") == policy)
    theirs = rows.join(met, on="account")
    gone = theirs.filter(pl.col("exit_reason") == "liquidation")
    flows = {name: float(theirs[name].sum()) for name in ("liquidation_fee", "surplus", "deficit")}
    put_in = float(theirs["collateral"].sum())
    return {
        "positions": rows.height,
        "liquidated": theirs.height,
        "closed_whole": gone.height,
        "defaulted": int((theirs["deficit"] > 0).sum()),
        "steps": int(theirs["steps"].sum()),
        "sold": float(theirs["sold"].sum()),
        **flows,
        "fund_flow": flows["liquidation_fee"] + flows["surplus"] - flows["deficit"],
        "traders": float(theirs["cash_change"].sum()),
        "lost_share": -float(theirs["cash_change"].sum()) / put_in if put_in else None,
    }


def flow_in_time(result: perpbt.Result, name: str) -> pl.DataFrame:
    """What liquidations have brought the funds so far, day by day: procedure time fund_flow."""
    gained = pl.col("liquidation_fees") + pl.col("surplus") - pl.col("deficit")
    daily = (
        result.fund.group_by(pl.col("time").dt.truncate("1d"))
        .agg(gained.sum().alias("fund_flow"))
        .sort("time")
        .with_columns(pl.col("fund_flow").cum_sum())
    )
    return daily.select(pl.lit(name).alias("procedure"), "time", "fund_flow")


def drawn_outcomes(found: pl.DataFrame) -> Figure:
    """Share of their collateral that liquidated traders lose, defaults, and what the fund gets."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7))
    axes = figure.subplots(3, 1, sharex=True)
    names = found["procedure"].to_list()
    for ax, column, label, scale in (
        (axes[0], "lost_share", "collateral lost, %", 100.0),
        (axes[1], "defaulted", "defaults", 1.0),
        (axes[2], "fund_flow", "fund flow, million\nof quote currency", 1e-6),
    ):
        ax.bar(names, [scale * (value or 0.0) for value in found[column].to_list()])
        ax.set_ylabel(label)
    axes[2].axhline(0.0, linewidth=0.8, color="black")
    axes[2].tick_params(axis="x", rotation=20)
    for label in axes[2].get_xticklabels():
        label.set_horizontalalignment("right")
    axes[0].set_title("The same positions, liquidated in eight ways")
    return figure


def drawn_flows(history: pl.DataFrame) -> Figure:
    """What liquidations have brought the funds so far."""
    from matplotlib.figure import Figure

    from perpbt.report.drawing import ramp

    figure = Figure(figsize=(9, 4.5))
    ax = figure.add_subplot()
    for number, (color, name) in enumerate(zip(ramp(len(PROCEDURES)), PROCEDURES, strict=True)):
        own = history.filter(pl.col("procedure") == name)
        ax.step(
            own["time"].to_numpy(), own["fund_flow"].to_numpy() / 1e6, where="post", color=color, label=name,
            linestyle=("-", "--")[number % 2],
        )  # fmt: skip
    ax.axhline(0.0, linewidth=0.8, color="black")
    ax.set_ylabel("fund flow so far, million of quote currency")
    ax.legend(ncols=2, fontsize=8)
    figure.autofmt_xdate()
    return figure


def words(found: pl.DataFrame) -> str:
    """What the table says."""
    rows = {row["procedure"]: row for row in found.iter_rows(named=True)}
    full = rows["full"]
    if not full["liquidated"]:
        return "Nobody was liquidated in this history: there is nothing to compare. Longer histories or higher leverages have more to say."
    kindest = min(rows.values(), key=lambda row: row["lost_share"])
    richest = max(rows.values(), key=lambda row: row["fund_flow"])
    fewest = min(rows.values(), key=lambda row: row["defaulted"])
    whole = {name: row["closed_whole"] for name, row in rows.items()}
    kept = min(whole, key=lambda name: whole[name])
    others = "no other way leaves fewer"
    if fewest["defaulted"] < full["defaulted"]:
        others = f"with '{fewest['procedure']}' {fewest['defaulted']:,} do"
    return (
        f"{full['liquidated']:,} of {full['positions']:,} positions fall below their maintenance margin. Closed at once on the market, "
        f"{full['defaulted']:,} of them end beyond bankruptcy; {others}. '{kept}' closes the fewest of them whole: {whole[kept]:,}.\n\n"
        f"Their traders lose {full['lost_share']:.1%} of their collateral when closed at once on the market, least with "
        f"'{kindest['procedure']}': {kindest['lost_share']:.1%}. The fund gets most with '{richest['procedure']}' "
        f"({richest['fund_flow']:,.0f}, against {full['fund_flow']:,.0f}).\n\n"
        "A part that is closed early sells when the price has not yet come back, and what is kept can fall further: a procedure that "
        "spares traders in one crash may cost them, or the fund, more in the next. Sizes by a shortage are taken at the worst mark of a "
        "bar, and a portion or a cure acts once a bar: coarse bars make both act later and larger than a venue does. Accounts do not "
        "move each other's prices here."
    )
