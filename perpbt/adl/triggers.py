"""When a venue starts to deleverage although its fund is not empty: rules on the fund's recent past.

In: a ledger of one fund, a frame with `time` (rising) and `balance`, the money in it from that moment on. Out: a
row for every row of the ledger. A row knows nothing of later ones.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl

from perpbt.errors import InputError

EIGHT_HOURS = timedelta(hours=8)


def highest_within(ledger: pl.DataFrame, column: str, window: timedelta) -> pl.Series:
    """The highest value of a step function in the `window` up to each time: the values set within it, and the
    one that held as it began. Times have to rise.
    """
    if window <= timedelta(0):
        raise InputError(f"window is {window}; allowed: above 0")
    steps = ledger.select("time", value=pl.col(column))
    span = f"{window // timedelta(microseconds=1)}us"
    inside = steps.select(pl.col("value").rolling_max_by("time", span, closed="right")).to_series()
    began = steps.select((pl.col("time") - window).cast(ledger.schema["time"])).join_asof(
        steps, on="time", strategy="backward"
    )["value"]
    return pl.DataFrame({"in": inside, "began": began}).select(pl.max_horizontal("in", "began")).to_series()


def _checked(ledger: pl.DataFrame, *columns: str) -> pl.DataFrame:
    lacking = [name for name in ("time", *columns) if name not in ledger.columns]
    if lacking:
        raise InputError(
            f"ledger: no column {lacking[0]!r}; it has {', '.join(ledger.columns)}; allowed: a frame with time and "
            + ", ".join(columns)
        )
    if not (ledger["time"].is_sorted() and ledger["time"].is_unique().all()):
        raise InputError(
            "ledger: column time does not rise from row to row; allowed: sorted times, each once"
        )
    if ledger.select(pl.any_horizontal(pl.col(columns).is_null().any())).item():
        raise InputError(f"ledger: null in {', '.join(columns)}; allowed: finite numbers")
    return ledger


def _hysteresis(on: pl.Expr, off: pl.Expr) -> pl.Expr:
    """True from a row that switches on until one that switches off; false before."""
    return pl.when(on).then(pl.lit(True)).when(off).then(pl.lit(False)).forward_fill().fill_null(False)


def drawdown_trigger(
    ledger: pl.DataFrame,
    *,
    drawdown: float = 0.30,
    resume: float = 0.25,
    window: timedelta = EIGHT_HOURS,
    least_balance: float = 0.0,
) -> pl.DataFrame:
    """Bybit: a contract that has cost its pool more than 30 % in 8 hours is deleveraged, until it is above -25 %.

    `ledger`: `time`, `balance` (the pool's) and, where several contracts share it, `result` (what this contract
    has brought the pool in sum up to then; default the balance itself). Columns: `time`; `ratio` = (result -
    highest result of the window) / highest balance of the window; `triggered`: since the ratio fell below
    -`drawdown` and until it is above -`resume`, while the balance is above `least_balance`, or while the pool
    is empty; `amount`: what the contract has lost beyond `drawdown`, money that winners are to bear instead.

    Source: Bybit API documentation /v5/market/adl-alert (pool of 1,000,000, loss of 350,000: -35 %, 50,000
    are deleveraged).
    """
    if not 0.0 <= resume <= drawdown <= 1.0:
        raise InputError(
            f"resume is {resume!r} and drawdown {drawdown!r}; allowed: 0 <= resume <= drawdown <= 1"
        )
    result = "result" if "result" in ledger.columns else "balance"
    table = _checked(ledger, "balance", result).with_columns(
        best=highest_within(ledger, result, window), pool=highest_within(ledger, "balance", window)
    )
    lost = pl.col("best") - pl.col(result)
    ratio = pl.when(pl.col("pool") > 0.0).then(-lost / pl.col("pool")).otherwise(0.0)
    empty = pl.col("balance") <= 0.0
    table = table.with_columns(ratio=ratio).with_columns(
        falling=_hysteresis(
            (pl.col("ratio") < -drawdown) & (pl.col("balance") > least_balance), pl.col("ratio") > -resume
        )
    )
    return table.select(
        "time",
        "ratio",
        triggered=pl.col("falling") | empty,
        amount=(lost - drawdown * pl.col("pool")).clip(lower_bound=0.0),
    )


def level_trigger(
    ledger: pl.DataFrame,
    *,
    drawdown: float = 0.30,
    floor: float = 50_000.0,
    window: timedelta = EIGHT_HOURS,
    level: str = "highest",
) -> pl.DataFrame:
    """OKX: positions are deleveraged while the fund is below its level of 8 hours less max(30 %, a floor).

    `level` is the "highest" balance of the `window`, or what it was as the window "began" (the page says "8 h
    level" and not which). Columns: `time`, `level`, `threshold` = level - max(drawdown·level, floor),
    `triggered` (balance < threshold, or an empty fund) and `amount` (threshold - balance)+, money. SunX does
    likewise with windows of 1, 2, 4 and 8 hours.

    Source: OKX, Introduction to auto-deleveraging; example: 400,000 eight hours ago, threshold 280,000, fund
    200,000.
    """
    if not (0.0 <= drawdown <= 1.0 and floor >= 0.0):
        raise InputError(
            f"drawdown is {drawdown!r} and floor {floor!r}; allowed: 0 <= drawdown <= 1, floor >= 0"
        )
    if level not in ("highest", "began"):
        raise InputError(f"level is {level!r}; allowed: highest, began")
    table = _checked(ledger, "balance")
    if level == "highest":
        stood = highest_within(table, "balance", window)
    else:
        held = table.select("time", "balance")
        earlier = table.select((pl.col("time") - window).cast(table.schema["time"]))
        stood = earlier.join_asof(held, on="time", strategy="backward")["balance"]
        stood = stood.fill_null(table["balance"][0]) if len(stood) else stood
    share = pl.max_horizontal(drawdown * pl.col("level"), pl.lit(floor))
    threshold = (pl.col("level") - share).clip(lower_bound=0.0)
    table = table.with_columns(level=stood).with_columns(threshold=threshold)
    return table.select(
        "time",
        "level",
        "threshold",
        triggered=(pl.col("balance") < pl.col("threshold")) | (pl.col("balance") <= 0.0),
        amount=(pl.col("threshold") - pl.col("balance")).clip(lower_bound=0.0),
    )


def empty_trigger(ledger: pl.DataFrame) -> pl.DataFrame:
    """BitMEX, Binance: only an empty fund. `time`, `triggered` (balance <= 0), `amount` (what a balance below 0
    lacks, money).
    """
    table = _checked(ledger, "balance")
    return table.select(
        "time",
        triggered=pl.col("balance") <= 0.0,
        amount=(-pl.col("balance")).clip(lower_bound=0.0),
    )


def contract_ledger(fund: pl.DataFrame, symbol: str, *, world: Any = None) -> pl.DataFrame:
    """`time`, `balance` and `result` of one contract from a run's ledger (`Result.fund`), for `drawdown_trigger`.

    `balance` is the contract's own fund's, or that of the symbols that share it; `result` sums fees, surplus
    and shares less the deficits that it paid. `world` may be left out where there is one.

    Raises InputError for a symbol or world the ledger does not have.
    """
    mine = fund if world is None else fund.filter(pl.col("world") == world)
    if world is None and fund["world"].n_unique() > 1:
        raise InputError(f"world is None; allowed: one of {fund['world'].unique().sort().to_list()[:5]}")
    symbols = mine["symbol"].unique().sort().to_list()
    if symbol not in symbols:
        raise InputError(f"symbol is {symbol!r}; allowed: {', '.join(symbols) or 'none'}")
    others = [pl.col(name) for name in ("adl", "outside", "socialised", "uncovered") if name in fund.columns]
    paid = pl.col("deficit") - pl.sum_horizontal(others)
    mine = mine.sort("time", maintain_order=True).with_columns(
        brought=pl.col("liquidation_fees") + pl.col("surplus") + pl.col("fee_share") - paid
    )
    own = pl.col("symbol") == symbol
    if "fund" in mine.columns:
        table = mine.filter(pl.col("fund").is_in(mine.filter(own)["fund"].unique().to_list()))
    else:
        table = mine if "all" in symbols else mine.filter(own)
    return (
        table.with_columns(result=pl.when(own).then(pl.col("brought")).otherwise(0.0).cum_sum())
        .group_by("time", maintain_order=True)
        .agg(pl.col("balance", "result").last())
    )
