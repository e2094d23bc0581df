"""Hypothesis strategies: small made markets, venues and accounts in which rare things happen often.

Hypothesis draws the sizes, the switches and a seed; the numbers come from `random.Random(seed)`, so that
a failing example is a few integers. Prices lie on a grid of half units around 100, so that thresholds and
prices tie; there are jumps, wicks, outages, bars without mark, and funding off the bars' grid.

A market is a dict: "bars" {symbol: the oracle's bars}, "frame" the same as a polars frame, "funding" {symbol:
[(ms, rate)]}, "funding_frame" (None when the events are in the bars' own column), "accounts" (dicts in the
columns of an account table, times in ms, every value filled in) and "accounts_frame" (what a user would hand
over: nulls, absent columns, datetimes).
"""

from __future__ import annotations

import random

import numpy as np
import polars as pl
from hypothesis import strategies as st

from perpbt import oracle

HOUR = 3_600_000
START = 1_704_067_200_000  # 2024-01-01 00:00 UTC
TIME = pl.Datetime("ms", "UTC")
TICK = 0.5
LAST = ("open", "high", "low", "close")
MARK = tuple("mark_" + name for name in LAST)
WISHES = (
    "stop_loss", "take_profit", "trailing_stop", "exit_time", "stop_trigger", "trailing_trigger",
    "take_profit_trigger", "margin_buffer", "world", "weight",
)  # fmt: skip
CAPS = (1_000.0, 5_000.0, 20_000.0, 1_000_000.0)
RATES = ((1 / 128, 1 / 64, 1 / 32, 1 / 8), (0.004, 0.005, 0.025, 0.1), (0.01, 0.05, 0.1, 0.25))
LEVERAGES = ((125.0, 100.0, 50.0, 10.0), (125.0, 125.0, 125.0, 125.0), (50.0, 20.0, 10.0, 4.0))


# -------------------------------------------------------------------------------------------------- prices
def candle(rng, opened, jumpiness):
    """Open, high, low, close in ticks, from an open."""
    close = max(4, opened + rng.choice((0, 0, 1, -1, 2, -2, 4, -4, 8, -8)) * (1 + jumpiness))
    up, down = (rng.choice((0, 0, 1, 2, 5, 40 if jumpiness else 10)) for _ in range(2))
    return [opened, max(opened, close) + up, max(2, min(opened, close) - down), close]


def mark_of(rng, last, kind):
    """A mark candle in ticks: the last prices, or near them, or apart from them."""
    if kind == "equal" or rng.random() < 0.3:
        return list(last)
    shift = rng.choice((0, 0, 1, -1, 3, -3, 25, -25))
    opened = max(4, last[0] + shift)
    close = max(4, last[3] + rng.choice((0, shift, 1, -1)))
    high, low = max(opened, close), min(opened, close)
    return [opened, high + rng.choice((0, 1, 3, 20)), max(2, low - rng.choice((0, 1, 3, 20))), close]


def made_history(rng, length, *, gaps, mark, volume, jumpiness):
    """Rows with ts, last prices, mark prices (None: no mark on that bar) and volume."""
    rows, ts, at = [], START + HOUR * rng.choice((0, 0, 3)), 200
    for _ in range(length):
        jump = rng.choice((0, 0, 0, 0, 1, -1, 3, -3, 15, -15)) * (1 + 2 * jumpiness)
        last = candle(rng, max(6, at + jump), jumpiness)
        at = last[3]
        missing = mark == "absent" or (mark == "partly" and rng.random() < 0.3)
        marked = None if missing else mark_of(rng, last, mark)
        rows.append(
            {
                "ts": ts,
                **{name: TICK * ticks for name, ticks in zip(LAST, last, strict=True)},
                **{name: TICK * marked[j] if marked else None for j, name in enumerate(MARK)},
                "volume": rng.choice((0.0, 10.0, 1e3, 1e4, 1e6)) if volume else None,
            }
        )
        ts += HOUR * (rng.choice((1, 1, 1, 1, 1, 2, 5)) if gaps else 1)
    return rows


def oracle_bars(rows):
    """Canonical rows as the oracle's bars: mark = last where it is absent, sigma by numpy as engines do."""
    high, low = (np.array([row[name] for row in rows], dtype=np.float64) for name in ("high", "low"))
    sigma = np.log(high / low) / (2 * np.sqrt(np.log(2.0)))
    filled = []
    for row, spread in zip(rows, sigma.tolist(), strict=True):
        absent = row.get("mark_open") is None
        mark = {m: row[name] if absent else row[m] for m, name in zip(MARK, LAST, strict=True)}
        filled.append({**row, **mark, "volume": row.get("volume"), "sigma": spread})
    return filled


def made_funding(rng, rows, place):
    """Events on the hour, also where a bar is missing, or off the grid at changing intervals with jitter."""
    if place == "none":
        return []
    rates = (0.0, 0.0001, -0.0003, 0.003, -0.003, 0.0075, -0.02, 0.0078125)
    if place == "column":
        times = [row["ts"] for row in rows] + [row["ts"] + HOUR for row in rows[:-1]]
        return [(time, rng.choice(rates)) for time in sorted(set(times)) if rng.random() < 0.3]
    minute, events = rows[0]["ts"] // 60_000 + 1, []
    while minute * 60_000 < rows[-1]["ts"] + 2 * HOUR:
        events.append((minute * 60_000 + rng.choice((0, 0, 7, 999, -3, 4_999, -4_999)), rng.choice(rates)))
        minute += rng.choice((7, 59, 60, 60, 90, 240, 480))
    return events


# ------------------------------------------------------------------------------------------------ accounts
def made_account(rng, rows, symbol, number, tiers):
    """One position of an account table; thresholds often lie on prices that were attained later."""
    bars = oracle_bars(rows)
    e = rng.choice((0, len(bars) // 3, rng.randrange(len(bars))))  # together often enough to make a crowd
    entry_time = bars[e]["ts"] + rng.choice((0, 0, 0, 0, -1, 1, HOUR // 2))
    if rng.random() < 0.03:
        entry_time = bars[-1]["ts"] + 1  # no bar any more
    side = rng.choice(("long", "short"))
    leverage = rng.choice(
        (1.0, 2.0, 3.0, 4.0, 4.0, 7.3, 8.0, 8.0, 10.0, 10.0, 16.0, 20.0, 32.0, 50.0, 100.0, 125.0)
    )
    edge, rate = rng.choice(tiers)["cap"], rng.choice(tiers)["rate"]

    def distance(up, below_one):
        """To a turning price met later on that side, to bankruptcy, to liquidation, or a round one."""
        turn = rng.choice(("high", "mark_high") if up else ("low", "mark_low"))
        moves = [bar[turn] / bars[e]["open"] - 1 for bar in bars[e : e + 12]]
        moves = [abs(move) for move in moves if move * (1 if up else -1) > 0] or [0.03125]
        gone = (1 / leverage, 1 / leverage - rate, (1 / leverage - rate) / (1 - rate))
        x = rng.choice((*rng.choices(moves, k=5), *gone, 0.01, 0.0625, 0.125, 0.3))
        return x if x > 0 and (x < 0.99 or not below_one) else 0.0625

    def sometimes(value, chance=0.5):
        return value if rng.random() < chance else None

    return {
        "account": f"{symbol}-{number:03d}",
        "strategy": rng.choice(("one", "two")),
        "symbol": symbol,
        "side": side,
        "entry_time": entry_time,
        # notionals around the edges of the tiers, and on them where there are no fees
        "collateral": rng.choice((100.0, 50.0, 137.5, 1000.0, edge / leverage, edge / 128)),
        "leverage": leverage,
        "stop_loss": sometimes(distance(side == "short", side == "long")),
        "take_profit": sometimes(distance(side == "long", side == "short")),
        "trailing_stop": sometimes(distance(side == "short", True), 0.3),
        "exit_time": sometimes(entry_time + rng.choice((0, 1, HOUR, 2 * HOUR, 7 * HOUR, HOUR * 3 // 2)), 0.3),
        "stop_trigger": sometimes(rng.choice(("last", "mark"))),
        "trailing_trigger": sometimes(rng.choice(("last", "mark"))),
        "take_profit_trigger": sometimes(rng.choice(("last", "mark"))),
        "margin_buffer": sometimes(rng.choice((0.0, 0.25, 0.5, 1.0)), 0.3),
        "world": rng.choice(("a", "b")),
        "weight": rng.choice((1.0, 0.25, 3.0, 100.0)),
    }


def order(account):
    """The oracle's order for a row of an account table."""
    fractions = ("stop_loss", "take_profit")
    levels = {name: account[name] and {"kind": "price", "value": account[name]} for name in fractions}
    kept = ("collateral", "leverage", "margin_buffer", "trailing_stop", "stop_trigger", "trailing_trigger")
    return {
        "side": 1 if account["side"] == "long" else -1,
        **{name: account[name] for name in kept},
        "take_profit_trigger": account["take_profit_trigger"],
        "stop": levels["stop_loss"],
        "take_profit": levels["take_profit"],
        "exit_due": account["exit_time"],
    }


def run_accounts(market, venue, rules):
    """The oracle's row of every account of a market, in the table's order, ready for `oracle.settle`."""
    rows, price = [], rules.get("funding_price", "mark") + "_open"
    cf = {
        s: oracle.cumulative_funding(bars, market["funding"][s], price) for s, bars in market["bars"].items()
    }
    for account in market["accounts"]:
        bars = market["bars"][account["symbol"]]
        start = oracle.first_bar(bars, account["entry_time"])
        row = oracle.run_position(bars, cf[account["symbol"]], order(account), venue, rules, start)
        rows.append(row | {name: account[name] for name in ("account", "world", "symbol", "weight")})
    return rows


# --------------------------------------------------------------------------------------------------- frames
def timed(columns, schema):
    """A frame whose "TIME" columns are given in ms."""
    times = [name for name, kind in schema.items() if kind == TIME]
    raw = {name: pl.Int64 if name in times else kind for name, kind in schema.items()}
    return pl.DataFrame(columns, schema=raw).with_columns(pl.col(name).cast(TIME) for name in times)


def accounts_frame(accounts, columns):
    """The table a user hands over, with `columns` of the optional ones."""
    texts = (
        "account",
        "strategy",
        "symbol",
        "side",
        "stop_trigger",
        "trailing_trigger",
        "take_profit_trigger",
    )
    kinds = dict.fromkeys((*texts, "world"), pl.String) | dict.fromkeys(("entry_time", "exit_time"), TIME)
    required = ("account", "strategy", "symbol", "side", "entry_time", "collateral", "leverage")
    schema = {name: kinds.get(name, pl.Float64) for name in (*required, *columns)}
    return timed({name: [account[name] for account in accounts] for name in schema}, schema)


def bars_frame(histories, events, *, mark, volume):
    """Canonical columns; `events` {symbol: [(ms, rate)]} go into funding_rate, also on rows without price."""
    rows = []
    for symbol, history in histories.items():
        rates = {time: {"funding_rate": rate} for time, rate in events.get(symbol, ())}
        known = {row["ts"]: row for row in history}
        for time in sorted({*known, *rates}):
            rows.append({"ts": time, "symbol": symbol} | known.get(time, {}) | rates.get(time, {}))
    names = [*LAST, *(MARK if mark else ()), *(["volume"] if volume else [])]
    names += ["funding_rate"] if any(events.values()) else []
    schema = {"ts": TIME, "symbol": pl.String} | dict.fromkeys(names, pl.Float64)
    return timed({name: [row.get(name) for row in rows] for name in schema}, schema)


def funding_frame(funding):
    """A funding table of its own."""
    rows = [(time, symbol, rate) for symbol, events in funding.items() for time, rate in events]
    names = ("ts", "symbol", "funding_rate")
    columns = {name: [row[j] for row in rows] for j, name in enumerate(names)}
    return timed(columns, dict(zip(names, (TIME, pl.String, pl.Float64), strict=True)))


# ---------------------------------------------------------------------------------------------- strategies
@st.composite
def markets(draw, max_bars=60, max_accounts=12):
    """A market of 1-3 symbols with its accounts; see the module's docstring."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    mark = draw(st.sampled_from(("apart", "equal", "partly", "absent")))
    place = draw(st.sampled_from(("column", "table", "none")))
    volume, gaps, jumpiness = draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 1))
    symbols = ("AAA", "BBB", "CCC")[: draw(st.integers(1, 3))]
    histories, funding, accounts = {}, {}, []
    tiers = [{"cap": cap, "rate": rate} for cap, rate in zip(CAPS, RATES[0], strict=True)]
    for symbol in symbols:
        length = draw(st.integers(5, max_bars))
        rows = made_history(rng, length, gaps=gaps, mark=mark, volume=volume, jumpiness=jumpiness)
        histories[symbol] = rows
        funding[symbol] = made_funding(rng, rows, place)
        count = draw(st.integers(1, max_accounts))
        accounts += [made_account(rng, rows, symbol, j, tiers) for j in range(count)]
    columns = [name for name in WISHES if rng.random() < 0.8]
    absent = {name: {"world": "all", "weight": 1.0}.get(name) for name in WISHES if name not in columns}
    accounts = [account | absent for account in accounts]
    rng.shuffle(accounts)
    in_bars = {} if place == "table" else funding
    return {
        "bars": {symbol: oracle_bars(rows) for symbol, rows in histories.items()},
        "frame": bars_frame(histories, in_bars, mark=mark != "absent", volume=volume),
        "funding": funding,
        "funding_frame": funding_frame(funding) if place == "table" else None,
        "accounts": accounts,
        "accounts_frame": accounts_frame(accounts, columns),
    }


def ladder(rates, leverages, count, scale):
    """The first `count` tiers, deductions by the recursion of §4."""
    tiers, floor, cum, before = [], 0.0, 0.0, rates[0]
    for cap, rate, leverage in list(zip(CAPS, rates, leverages, strict=True))[:count]:
        cum = cum + floor * (rate - before)
        top = cap * scale
        tiers.append({"floor": floor, "cap": top, "rate": rate, "max_leverage": leverage, "deduction": cum})
        floor, before = top, rate
    return tiers


@st.composite
def venues(draw):
    """The oracle's venue: 1-4 tiers that small accounts cross, costs or none, every switch."""
    rates, leverages = draw(st.sampled_from(RATES)), draw(st.sampled_from(LEVERAGES))
    tiers = ladder(rates, leverages, draw(st.integers(1, 4)), draw(st.sampled_from((1.0, 1.0, 4.0))))
    free = draw(st.booleans())

    def cost(*values):
        return 0.0 if free else draw(st.sampled_from(values))

    return {
        "taker_fee": cost(0.0, 0.0005, 0.001, 1 / 1024),
        "maker_fee": cost(0.0, 0.0002, 1 / 4096),
        "slippage": cost(0.0, 0.001, 1 / 128),
        "liquidation_fee": cost(0.0, 0.005, 0.0125),
        "close_out_rate": cost(0.0, 0.0005, 1 / 256),
        "half_spread": cost(0.0, 0.0005),
        "impact": cost(0.1, 0.5, 2.0),
        "max_slippage": draw(st.sampled_from((0.01, 0.1, 0.5))),
        "maintenance_on": draw(st.sampled_from(("mark", "entry"))),
        "surplus_to_fund": draw(st.sampled_from((1.0, 0.0, 0.5, 0.3))),
        "fund_seed": draw(st.sampled_from((0.0, 25.0, 10_000.0))),
        "fund_fee_share": draw(st.sampled_from((0.0, 0.5, 1.0))),
        "fund_scope": draw(st.sampled_from(("symbol", "pooled"))),
        "tiers": tiers,
    }


def rules():
    """Every option of a run's rules."""
    return st.fixed_dictionaries(
        {
            "intrabar": st.sampled_from(("pessimistic", "optimistic")),
            "take_profit_fill": st.sampled_from(("limit", "open")),
            "oversize": st.sampled_from(("reject", "clip")),
        }
    )


LEVELS = (
    None,
    {"kind": "price", "value": 0.02},
    {"kind": "price", "value": 0.125},
    {"kind": "margin", "value": 0.5},
    {"kind": "atr", "value": 1.5, "window": 3},
)
CALLS = (
    None,
    {"action": "top_up", "threshold": 0.5, "target": 0.25, "max_calls": 2},
    {"action": "top_up", "threshold": 0.125, "target": 0.0625, "max_calls": 1},
    {"action": "deleverage", "threshold": 0.125, "fraction": 0.5, "max_calls": 3},
    {"action": "deleverage", "threshold": 0.5, "fraction": 0.3, "max_calls": 1},
)


@st.composite
def policies(draw):
    """The oracle's policy of door b; the test that has the bars adds the series of ATR and column levels."""

    def one_of(*values):
        return draw(st.sampled_from(values))

    stop = one_of(None, None, *LEVELS, {"kind": "column", "value": None, "name": "floor"})
    sizings = [
        {"kind": "collateral", "amount": one_of(50.0, 400.0)},
        {"kind": "equity", "fraction": one_of(0.1, 0.5)},
        *([{"kind": "risk", "fraction": one_of(0.01, 0.5)}] if stop else []),
    ]
    return {
        "leverage": one_of(1.0, 4.0, 8.0, 10.0, 20.0, 50.0, 125.0),
        "margin_buffer": one_of(0.0, 0.0, 0.5),
        "capital": 1000.0,
        "compounding": draw(st.booleans()),
        "sizing": one_of(*sizings),
        "stop": stop,
        "take_profit": one_of(*[None] * 6, *LEVELS, {"kind": "column", "value": None, "name": "ceiling"}),
        "trailing_stop": one_of(*[None] * 5, 0.02, 0.125),
        "stop_trigger": one_of("last", "mark"),
        "trailing_trigger": one_of(None, "last", "mark"),
        "take_profit_trigger": one_of("last", "mark"),
        "max_holding": one_of(None, None, None, HOUR, 5 * HOUR),
        "max_trades": one_of(None, None, 1, 3),
        "margin_call": one_of(*CALLS),
        "after_stop": one_of("allowed", "allowed", "never"),
        "after_liquidation": one_of("allowed", "allowed", "never"),
        "cool_down": one_of(0, 0, HOUR, 3 * HOUR),
    }


@st.composite
def signals(draw, bars):
    """Entries and exits on random closes, and for column levels a price per close, some of them unknown."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    often = draw(st.sampled_from((0.2, 0.5, 1.0)))
    chances = {"long_entry": often, "short_entry": often / 2, "long_exit": 0.05, "short_exit": 0.1}
    made = {name: [rng.random() < chance for _ in bars] for name, chance in chances.items()}
    for name, s in (("floor", -1), ("ceiling", 1)):
        steps = [s * step for step in (16.0, 8.0, 8.0, 4.0, 1.0, 0.0, -4.0)]
        made[name] = [None if rng.random() < 0.1 else bar["close"] + rng.choice(steps) for bar in bars]
    return made
