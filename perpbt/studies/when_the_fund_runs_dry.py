"""When the fund runs dry: who pays after the margin is gone.

Accounts leveraged as BitMEX's survey of 2018-2019 found them trade through the worst months of a history. Their
liquidations meet a fund of a venue's size: isolated by symbol or pooled, with prices that take the liquidations
or that give way to them. Then the fund is taken away, and the same deficits are put on the winners by every
ADL policy, and on the members of a clearing house.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

import perpbt
from perpbt import adl
from perpbt.config.settings import Above, AtLeastZero, Names, Number
from perpbt.engines.chunks import Progress
from perpbt.load import Bars
from perpbt.result import Result
from perpbt.studies import Findings
from perpbt.studies._population import spans, with_tiers
from perpbt.studies._survey import exponent, survey_positions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POLICIES = (
    *("bitmex", "binance", "okx", "hyperliquid", "hyperliquid_decompiled"),
    *("pro_rata:profit", "pro_rata:equity", "pro_rata:contracts", "capped_pro_rata:profit"),
    *("risk_aware:linear", "water_filling"),
)
FLOWS = ("liquidation_fees", "surplus", "fee_share", "deficit", "uncovered")

PRESS = (
    ("2020-03", "BitMEX, BTC", 35_508.0, 33_881.0, "11 to 12 March; 36,493 on the 13th"),
    ("2020-03", "Deribit, BTC", 391.0, 183.0, "10 to 13 March; 500 injected"),
    ("2020-03", "Binance, USDT", 12_864_000.0, 6_227_000.0, "12 to 13 March, in the source's thousands"),
    ("2020-05", "Binance, USDT", 21_005_925.0, 7_731_989.0, "10 to 11 May 2020, BTCUSDT"),
)
"""Window, fund, before, after, when: as reported by Cointelegraph and blog.bitmex.com, through reposts."""


def study(
    bars: Bars,
    progress: Progress | None,
    *,
    months: Names = ("2020-03", "2021-05"),
    starts: Number = 3000,
    holding_days: Above = 3.0,
    days_of_turnover: Above = 0.1,
    fund_of_interest: AtLeastZero = 0.05,
    policies: Names = POLICIES,
    members: Number = 20,
    venue: str = "binance_um",
    seed: int = 1,
) -> Findings:
    """Run every month of `months` (YYYY-MM) that the bars have, or all they have if none.

    `starts` positions a side and symbol are held for `holding_days` on average, weighted to an open interest of
    `days_of_turnover`; the fund begins with `fund_of_interest` of that (Binance's held 12.9 million USDT in March
    2020, where a tenth of a day's turnover in five symbols is 267 million). `members` share the accounts in
    the clearing house, which holds as much as the fund: half of it their margins, a quarter their
    contributions, a quarter its own.
    """
    found: dict[str, list[pl.DataFrame]] = {}
    figures: dict[str, Figure] = {}
    for name, first, last in windows(bars, months):
        month = Window(bars, name, first, last, venue, progress)
        month.populate(starts, timedelta(days=holding_days), days_of_turnover, fund_of_interest, seed)
        month.run(policies)
        tables = month.tables(members)
        for table, rows in tables.items():
            if rows.is_empty():
                continue
            found.setdefault(table, []).append(rows.select(pl.lit(name).alias("window"), pl.all()))
        figures |= month.figures(tables)
    tables = {table: pl.concat(rows, how="vertical_relaxed") for table, rows in found.items()}
    tables["press"] = pl.DataFrame(
        PRESS, schema=["window", "fund", "before", "after", "when"], orient="row"
    ).with_columns(change=pl.col("after") / pl.col("before") - 1)
    return Findings(tables, figures, words(tables, fund_of_interest))


def windows(bars: Bars, months: Sequence[str]) -> list[tuple[str, datetime, datetime]]:
    """The stretches to look at: name, first moment, end."""
    begins, ends = spans(bars).select(pl.col("first").min(), pl.col("last").max()).row(0)
    chosen = []
    for month in months:
        try:
            first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        except ValueError as error:
            raise perpbt.InputError(f"months: {month!r}; allowed: YYYY-MM") from error
        last = (first + timedelta(days=32)).replace(day=1)
        if first < ends and last > begins:
            chosen.append((month, max(first, begins), min(last, ends)))
    return chosen or [("all", begins, ends)]


class Window:
    """One stretch of history and what is run on it."""

    def __init__(
        self,
        bars: Bars,
        name: str,
        first: datetime,
        last: datetime,
        venue: str,
        progress: Progress | None,
    ) -> None:
        frame = bars.frame.filter(pl.col("ts").is_between(first, last, closed="left")).collect()
        self.bars = perpbt.load_bars(frame)
        self.frame, self.name, self.first, self.last = frame, name, first, last
        self.venue, self.progress = with_tiers(venue, self.bars), progress
        self.runs: dict[str, Result] = {}

    def populate(
        self, starts: int, holding: timedelta, turnover_days: float, fund_of_interest: float, seed: int
    ) -> None:
        """Who trades, and how large venue and fund are."""
        self.accounts = survey_positions(
            self.bars, self.venue, first=self.first, last=self.last, starts=starts, holding=holding, seed=seed
        )
        days = max((self.last - self.first) / timedelta(days=1), 1.0)
        turnover = (
            (self.frame["volume"] * self.frame["close"]).sum() if "volume" in self.frame.columns else 0.0
        )
        self.symbols = self.accounts["symbol"].n_unique()
        self.interest = float(turnover) / days * turnover_days
        self.seed = fund_of_interest * self.interest
        self.by_symbol = {
            symbol: float(amount) / days * turnover_days
            for symbol, amount in self.frame.group_by("symbol")
            .agg((pl.col("volume") * pl.col("close")).sum())
            .iter_rows()
        } if turnover else None  # fmt: skip

    def simulate(self, label: str, fund: dict[str, Any], **options: Any) -> None:
        """One run of everybody."""
        self.runs[label] = perpbt.simulate(
            self.bars,
            self.accounts,
            venue=self.venue,
            fund=fund,
            open_interest=self.by_symbol,
            progress=self.progress,
            **{"crowding": True, **options},
        )

    def run(self, policies: Sequence[str]) -> None:
        """The fund in its forms, then no fund and each policy."""
        pooled = {"scope": "pooled", "seed": self.seed}
        isolated = {"scope": "symbol", "seed": self.seed / self.symbols}
        self.simulate("pooled fund", pooled)
        self.simulate("isolated funds", isolated)
        self.simulate("pooled fund, each fill alone", pooled, crowding=False)
        self.simulate("pooled fund, cascade", pooled, coupling="cascade")
        self.simulate("isolated funds, cascade", isolated, coupling="cascade")
        empty = {"scope": "pooled", "seed": 0.0, "fee_share": 0.0}
        self.simulate("no fund", empty)
        for policy in policies:
            self.simulate(f"ADL {policy}", empty, coupling="adl", adl={"policy": policy})

    def tables(self, members: int) -> dict[str, pl.DataFrame]:
        """What came of it."""
        return {
            "outcomes": pl.DataFrame(
                [outcome(label, run, self.interest) for label, run in self.runs.items()]
            ),
            "policies": pl.concat([self.policy(label) for label in self.runs if label.startswith("ADL ")]),
            "worst_moment": worst_moment(self.runs["no fund"], self.frame, self.venue),
            **self.clearing(members),
            "fund_paths": pl.concat(
                [
                    path(label, run)
                    for label, run in self.runs.items()
                    if "fund" in label and label != "no fund"
                ]
            ),
        }

    def policy(self, label: str) -> pl.DataFrame:
        """Whom one policy touched, and what two passes say it cost."""
        run, alone = self.runs[label], self.runs["no fund"]
        closed = closings(run)
        whole = run.accounts.with_columns(everybody=pl.lit("all"))
        hit = adl.deleveraged(whole, closed, by=("everybody",)).drop("everybody", "positions")
        two = adl.counterfactual(run.accounts, alone.accounts, by=())
        rounds, spread = adl.rounds(run.accounts, closed), run.extra["adl_rounds"]
        waves = adl.deleveraging_waves(closed, gap=timedelta(hours=1))
        return hit.select(
            pl.lit(label.removeprefix("ADL ")).alias("policy"),
            pl.all(),
            pl.lit(rounds.height).alias("rounds"),
            *(pl.lit(rounds[name].mean(), pl.Float64).alias(name) for name in ("ptsr", "pmr")),
            pl.lit(two["cost"][0]).alias("cost"),
            pl.lit(two["spared"][0]).alias("spared"),
            pl.lit(waves.height).alias("waves"),
            *(pl.lit(math.fsum(spread[name])).alias(name) for name in ("overshoot", "fairness_regret")),
            pl.lit(spread["largest_share"].max(), pl.Float64).alias("largest_share_of_equity"),
        )

    def clearing(self, members: int) -> dict[str, pl.DataFrame]:
        """The deficits of the run without a fund, through a clearing house as large as the fund was: by layer, in all and day by day."""
        layers = {
            "margin": 0.5 * self.seed / members,
            "contribution": 0.25 * self.seed / members,
            "own_capital": 0.25 * self.seed,
            "replenished": False,
        }
        totals, days = [], []
        for netting in ("none", "member"):
            cleared = perpbt.clear(self.runs["no fund"], members=members, layers=layers, netting=netting)
            how = pl.lit(netting).alias("netting")
            totals.append(cleared.totals.select(how, pl.all()))
            days.append(cleared.layers.select(how, pl.all()))
        return {"clearing": pl.concat(totals), "clearing_over_time": pl.concat(days)}

    def figures(self, tables: Mapping[str, pl.DataFrame]) -> dict[str, Figure]:
        """Fund paths; policies side by side; layers of the clearing house over time."""
        from perpbt.studies._dry_pictures import clearing_picture, fund_picture, policy_picture

        return {
            f"clearing_{self.name}": clearing_picture(self.name, tables["clearing_over_time"]),
            f"fund_{self.name}": fund_picture(self.name, tables["fund_paths"], self.seed),
            f"policies_{self.name}": policy_picture(self.name, tables["policies"]),
        }


def worst_moment(run: Result, frame: pl.DataFrame, venue: perpbt.Venue) -> pl.DataFrame:
    """Every policy on one book: the winners that stood against the largest deficit of a moment, symbol and side.

    They are closed at the mean bankruptcy price of those they stand against, the mark is the worst of the bar.
    Empty without a default, or without winners. See `perpbt.adl.compare`.
    """
    accounts = run.accounts.filter(pl.col("exit_reason") != "rejected")
    keys = ("exit_time", "symbol", "side")
    sums = accounts.group_by(keys).agg(owed=(pl.col("weight") * pl.col("deficit")).sum()).sort("owed", *keys)
    time, symbol, side, owed = sums.row(-1)
    there = (pl.col("exit_time") == time) & (pl.col("side") == side) & (pl.col("symbol") == symbol)
    fallen = accounts.filter(there & (pl.col("deficit") > 0))
    if fallen.is_empty():
        return pl.DataFrame()
    sizes = fallen["weight"] * fallen["quantity"]
    quantity = math.fsum(sizes)
    price = math.fsum(sizes * fallen["bankruptcy_price"]) / quantity
    bar = frame.filter((pl.col("symbol") == symbol) & (pl.col("ts") == time))
    column = "low" if side == "long" else "high"
    mark = bar[f"mark_{column}" if f"mark_{column}" in bar.columns else column][0]
    against = accounts.filter(
        (pl.col("symbol") == symbol)
        & (pl.col("side") != side)
        & (pl.col("entry_time") < time)
        & (pl.col("exit_time") > time)
    )
    book = candidates(against, mark, venue, symbol)
    book = book.take(adl.winners(book, 1 if side == "long" else -1, price))
    if not len(book):
        return pl.DataFrame()
    table = adl.compare(book, quantity, price, deficits=(fallen["weight"] * fallen["deficit"]).to_list())
    return table.select(
        pl.lit(time).alias("time"),
        pl.lit(symbol).alias("symbol"),
        pl.lit(side).alias("bankrupt_side"),
        pl.lit(owed).alias("deficit"),
        pl.lit(len(book)).alias("winners"),
        pl.all(),
    )


def candidates(accounts: pl.DataFrame, mark: float, venue: perpbt.Venue, symbol: str) -> adl.Candidates:
    """Open positions of one symbol as deleveraging sees them, each row all the accounts it stands for; funding apart."""
    weight, quantity = accounts["weight"].to_numpy(), accounts["quantity"].to_numpy()
    needed = [venue.maintenance_margin(float(one) * mark, symbol=symbol) for one in quantity]
    return adl.Candidates(
        side=accounts.select(pl.when(pl.col("side") == "long").then(1.0).otherwise(-1.0))
        .to_series()
        .to_numpy(),
        quantity=weight * quantity,
        entry=accounts["entry_price"].to_numpy(),
        margin=weight * accounts["margin"].to_numpy(),
        funding_paid=0.0 * weight,
        mark=0.0 * weight + mark,
        maintenance=weight * needed,
        bankruptcy=accounts["bankruptcy_price"].to_numpy(),
        identifier=accounts["account"].to_numpy(),
    )


def closings(run: Result) -> pl.DataFrame:
    """The deleveragings of a run."""
    return run.extra["adl"].filter(pl.col("kind") == "adl")


def path(label: str, run: Result) -> pl.DataFrame:
    """The run's funds, added up: run time balance drawdown."""
    from perpbt.statistics import fund_path

    top = pl.col("balance").cum_max()
    return fund_path(run.fund).select(
        pl.lit(label).alias("run"),
        "time",
        "balance",
        drawdown=pl.when(top > 0).then(1 - pl.col("balance") / top),
    )


def outcome(label: str, run: Result, interest: float) -> dict[str, Any]:
    """One line of the first table: money in quote currency, scaled to the venue's open interest."""
    accounts = run.accounts.filter(pl.col("exit_reason") != "rejected")
    way = path(label, run)
    sums = {name: math.fsum(run.fund[name]) for name in FLOWS}
    adl_sum = math.fsum(run.fund["adl"]) if "adl" in run.fund.columns else 0.0
    deepest, opening = way["drawdown"].max(), float(way["balance"][0])
    feedback = run.metadata.get("coupling", {}).get("share_caused_by_feedback")
    return {
        "run": label,
        "positions": accounts.height,
        "liquidated": int((accounts["exit_reason"] == "liquidation").sum()),
        "defaulted": int((accounts["deficit"] > 0).sum()),
        "income": sums["liquidation_fees"] + sums["surplus"] + sums["fee_share"],
        "deficit": sums["deficit"],
        "adl": adl_sum,
        "uncovered": sums["uncovered"],
        "opening": opening,
        "lowest": float(way["balance"].min()),  # type: ignore[arg-type]
        "deepest_drawdown": deepest if opening > 0 else None,
        "days_to_recover": adl.days_to_recover(way) if opening > 0 else None,
        "deficit_of_interest": sums["deficit"] / interest if interest > 0 else None,
        "caused_by_feedback": feedback,
    }


def words(tables: dict[str, pl.DataFrame], fund_of_interest: float) -> str:
    """What to make of it."""
    parts = [
        "Leverage is drawn so that, as in BitMEX's survey, four fifths of longs hold at most 54x and of shorts 47x: P(ln L / ln 100 <= x) = x^k "
        f"with k = {exponent('long'):.3f} and {exponent('short'):.3f}, whose means, 29x and 25x, are the survey's too. The fund begins with "
        f"{100 * fund_of_interest:g} % of the mean open interest. Liquidations of a bar are filled against their total. Sizes are assumptions; nothing "
        "was fitted to what the press reported."
    ]
    outcomes = tables["outcomes"]
    for name in outcomes["window"].unique(maintain_order=True):
        rows = {row["run"]: row for row in outcomes.filter(pl.col("window") == name).to_dicts()}
        pooled, isolated = rows["pooled fund"], rows["isolated funds"]
        parts.append(
            f"{name}: {pooled['defaulted']:,} of {pooled['liquidated']:,} liquidated positions ended in default. Against an opening "
            f"balance of {money(pooled['opening'])} their deficits are {money(pooled['deficit'])} and its income {money(pooled['income'])}; it falls by "
            f"{100 * (pooled['deepest_drawdown'] or 0.0):.0f} %. A pooled fund leaves {money(pooled['uncovered'])} uncovered, isolated funds of the same sum "
            f"{money(isolated['uncovered'])}."
        )
        alone, cascade = rows["pooled fund, each fill alone"], rows["pooled fund, cascade"]
        parts.append(
            f"{name}: were every liquidation filled as if it were the only one, deficits would be {money(alone['deficit'])}. Where liquidations also push the "
            f"price for everyone until nobody more falls, {cascade['liquidated']:,} positions are liquidated, {100 * (cascade['caused_by_feedback'] or 0.0):.0f} % of "
            f"them by others' liquidations, and deficits are {money(cascade['deficit'])}; the pooled fund leaves {money(cascade['uncovered'])} uncovered."
        )
        policies = tables["policies"].filter(pl.col("window") == name).sort("deleveraged", "policy")
        if policies["deleveraged"].sum() > 0:
            few, many = policies.row(0, named=True), policies.row(-1, named=True)
            parts.append(
                f"{name}, without a fund: {few['policy']} closes {few['deleveraged']:,} winners to cover {money(few['given_up'])}, {many['policy']} "
                f"{many['deleveraged']:,} for {money(many['given_up'])}; the most that one row of accounts gives up is {money(few['largest'])} against "
                f"{money(many['largest'])}. Whoever is closed early leaves the market, so deficits themselves differ by policy, and what a closed winner is "
                "spared later can exceed what it gave up (cost and spared, against the run without deleveraging)."
            )
        clearing = tables["clearing"].filter(pl.col("window") == name)
        used = {
            key: dict(own.select("layer", "used").iter_rows()) for (key,), own in clearing.group_by("netting")
        }
        losses = {key: math.fsum(layers.values()) for key, layers in used.items()}
        parts.append(
            f"{name}: a clearing house that holds what the fund held owes {money(losses['none'])} of those deficits when every account is its own, of which "
            f"margins of members meet {money(used['none']['margin'])} and {money(used['none']['unpaid'])} stay unpaid; what a member's other accounts gained on "
            f"the day brings that to {money(losses['member'])} and {money(used['member']['unpaid'])}."
        )
    parts.append(
        "Some policies are one: for winners BitMEX's score and Hyperliquid's decompiled one are the same product of profit at entry and leverage, and OKX's "
        "ranks as they do while all positions are in one tier."
    )
    parts.append(
        "A row stands for many accounts of the same leverage and moment, which fall together: with few `starts` crowds are lumpy and deficits too large "
        "(5 % of the interest of May 2021 in minutes at 200, 1.4 % from 3,000 on, where they settle)."
    )
    parts.append(
        "The press (table press): in March 2020 BitMEX's fund fell by 4.6 % and Deribit's by 53 %, Binance's by about half; in May 2020 Binance used 63 % of "
        "one fund in a day. A simulated fund depends on the size it was given, on the open interest and on what share of positions is "
        "leveraged how; compare shapes, not levels. Nor has a bar of an hour an order book: how far liquidations move a fill is the square-root law."
    )
    return "\n\n".join(parts)


def money(value: float) -> str:
    """A sum in words short enough for a sentence."""
    for size, unit in ((1e9, " bn"), (1e6, " m"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:,.1f}{unit}"
    return f"{value:,.0f}"
