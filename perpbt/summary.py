"""The few tables of a result that a terminal shows.

In: a `Result`. Out: plain text, at most 110 columns wide for the usual grids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise

import polars as pl

from perpbt.result import Result
from perpbt.statistics import TOTAL, exit_reasons, grid, worst_draws

NO_MONEY = 1e-9  # below a coin's smallest part: what rounding leaves where winners pay a deficit exactly
MOST_LEVERAGES = 12
BANDS = (0.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
GRIDS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("liquidated_share", "Liquidated, share of positions", lambda value: f"{value:.1%}"),
    ("defaulted_share", "Defaulted (left a deficit), share of positions", lambda value: f"{value:.1%}"),
    (
        "net_fund_flow",
        "Net fund flow: fees + surplus - deficit, summed over worlds",
        lambda value: money(value if abs(value) >= NO_MONEY else 0.0),
    ),
)


def money(value: float | None) -> str:
    """An amount in few characters: 1.2M, -340k."""
    if value is None or value != value:
        return "-"
    if abs(value) == float("inf"):
        return f"{value:g}"
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}" if abs(value) < 1000 * size else f"{value / size:,.0f}{unit}"
    return f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def plain_table(frame: pl.DataFrame, most: int = 40) -> str:
    """A small frame in few characters: words left, numbers right; of a long one the first rows."""
    words = [name for name, kind in frame.schema.items() if not kind.is_numeric()]
    names = [*words, *(name for name in frame.columns if name not in words)]
    rows = [[short(value) for value in row] for row in frame.select(names).head(most).iter_rows()]
    widths = [max(len(row[k]) for row in [names, *rows]) for k in range(len(names))]
    lines = [
        "  ".join(
            cell.ljust(width) if k < len(words) else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [names, *rows]
    ]
    rest = frame.height - most
    return "\n".join([*lines, f"… and {rest:,} more rows"] if rest > 0 else lines)


def short(value: object) -> str:
    """One value of a plain table."""
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 10 else money(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}".removesuffix(" 00:00")
    return "-" if value is None else str(value)


def render(result: Result) -> str:
    """What was run, how positions ended, the leverage x stop grids, and when the fund was drawn on."""
    result = result.in_one_currency()
    if not result.metadata["positions"]:
        return "\n\n".join(block for block in (no_positions(result), notes(result)) if block)
    blocks = [headline(result), meeting(result), reasons(result)]
    if result.policies.height:
        for value, title, shown in GRIDS:
            blocks.append(f"{title}, by stop (rows) and leverage\n{grid_text(result, value, shown)}")
    blocks += [draws(result), notes(result)]
    return "\n\n".join(block for block in blocks if block)


def no_positions(result: Result) -> str:
    """What to say of a run in which nobody traded."""
    return (
        f"{title(result)}: no positions on {', '.join(result.metadata['symbols'])}: no entry signal could be "
        "filled. Ask the strategy for more, or give it a longer history."
    )


def title(result: Result) -> str:
    """What to call the run."""
    return str(result.metadata.get("title") or result.metadata.get("name") or "Run")


def headline(result: Result) -> str:
    """One paragraph: how much ran, on what, how long it took."""
    total = result.statistics.filter(
        (pl.col("strategy") == TOTAL) & (pl.col("policy") == TOTAL) & (pl.col("symbol") == TOTAL)
    ).row(0, named=True)
    spans = result.metadata["symbols"].values()
    first, last = min(span["first"] for span in spans), max(span["last"] for span in spans)
    seconds = result.metadata["timings_seconds"]["total"]
    return (
        f"{title(result)}: {total['accounts']:,} accounts, "
        f"{total['positions']:,} positions on {', '.join(result.metadata['symbols'])}, "
        f"{first:%Y-%m-%d} to {last:%Y-%m-%d}, venue {result.metadata['venue']['name']}, {seconds:.1f} s.\n"
        f"{total['liquidated']:,} liquidated, {total['defaulted']:,} left a deficit; fund flows over {result.metadata['worlds']} worlds: "
        f"deficits {money(total['deficit'])}, of which uncovered {money(total['uncovered'])}."
    )


def meeting(result: Result) -> str:
    """Where accounts meet: what winners and others gave up, and what liquidations did to prices; empty where they do not."""
    told = result.metadata.get("coupling") or {}
    if told.get("kind") not in ("adl", "cascade"):
        return ""
    sums = result.metadata["money"]
    rows = [
        [f"closings of winners, of {told['deleveraged_accounts']:,} accounts", f"{told['deleveraged']:,}"],
        ["given up by winners", money(sums["adl"])],
        ["taken by an outside counterparty", money(sums["outside"])],
        ["socialised", money(sums["socialised"])],
        ["uncovered", money(sums["uncovered"])],
    ]
    pushes = result.extra.get("cascades")
    if pushes is not None and pushes.height:
        volume, first = math.fsum(pushes["volume"]), math.fsum(pushes["first_volume"])
        largest = pushes.sort(pl.col("displacement").abs()).row(-1, named=True)
        grown = (
            f", {largest['amplification']:.2f} times the bar's own move" if largest["amplification"] else ""
        )
        rows += [
            ["liquidations that feedback caused, by weight", f"{told['share_caused_by_feedback']:.1%}"],
            ["branching ratio, by volume", f"{1.0 - first / volume if volume > 0.0 else 0.0:.1%}"],
            [f"largest push of a price{grown}", f"{abs(largest['displacement']):.2%}"],
        ]
    return "Where accounts meet\n" + table(["", ""], rows).partition("\n")[2]


def reasons(result: Result) -> str:
    """Shares of exit reasons per leverage."""
    found = exit_reasons(result.table)
    levels = sorted(found["leverage"].unique().to_list())
    if len(levels) > MOST_LEVERAGES:  # a column each would be a wall of numbers
        bands = [band(level) for level in levels]
        told = pl.DataFrame({"leverage": levels, "band": bands})
        found = (
            found.join(told, on="leverage")
            .group_by("band", "exit_reason", maintain_order=True)
            .agg(pl.col("positions").sum())
            .with_columns(share=pl.col("positions") / pl.col("positions").sum().over("band"))
        )
        heads = {name: name for name in dict.fromkeys(bands)}
    else:
        found, heads = found.rename({"leverage": "band"}), {level: f"{level:g}x" for level in levels}
    names = found["exit_reason"].unique(maintain_order=True).to_list()
    share = {(row["band"], row["exit_reason"]): row["share"] for row in found.iter_rows(named=True)}
    rows = [[name, *(f"{share.get((head, name), 0.0):.1%}" for head in heads)] for name in names]
    return "How positions ended, by leverage\n" + table(["", *heads.values()], rows)


def band(leverage: float) -> str:
    """Its part of the leverages there are, of many."""
    for least, most in pairwise(BANDS):
        if leverage <= most:
            return f"to {most:g}x" if least == 0.0 else f"{least:g}-{most:g}x"
    return f"over {BANDS[-1]:g}x"


def grid_text(result: Result, value: str, shown: Callable[[float], str]) -> str:
    """One statistic by stop and leverage."""
    cells = grid(result.statistics, result.policies, value)
    rows = [
        [str(row[0]), *("-" if cell is None else shown(cell) for cell in row[1:])]
        for row in cells.iter_rows()
    ]
    return table(["stop", *(f"{name}x" for name in cells.columns[1:])], rows)


def draws(result: Result) -> str:
    """The days that cost the fund most."""
    found = worst_draws(result.fund, limit=5)
    if not found.height:
        return "The insurance fund was never drawn on."
    rows = [
        [
            f"{row['time']:%Y-%m-%d}",
            row["symbol"],
            str(row["worlds"]),
            money(row["deficit"]),
            money(row["uncovered"]),
        ]
        for row in found.iter_rows(named=True)
    ]
    return "Days of the largest draws on the fund, summed over worlds\n" + table(
        ["day", "most on", "worlds", "deficit", "uncovered"], rows
    )


def notes(result: Result) -> str:
    """What the data lacked and what was assumed."""
    lines = [f"  - {note}" for note in result.metadata["notes"]]
    return "Notes\n" + "\n".join(lines) if lines else ""
