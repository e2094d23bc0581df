"""What must hold for any market: order, splitting, scale, mirror, monotone leverage and stops, threads, chunks, conservation.

Where the arithmetic allows it (halves, powers of two, exact sums) results are compared with `==`, not to a tolerance.
Made markets and venues come from `made_markets`: ties, gaps, outages, mark apart from last, tiers, crowds.
"""

from __future__ import annotations

import itertools
import math
import os
import random

import made_markets
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from made_markets import HOUR, LAST, MARK, TIME
from polars.testing import assert_frame_equal

import perpbt
import perpbt.engines.chunks
from perpbt.engines.given import first_bars
from perpbt.kernels.tables import table

MADE = settings(
    max_examples=int(os.environ.get("PERPBT_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
PRICES = ("entry_price", "liquidation_price", "bankruptcy_price", "exit_price")
FLOWS = ("pnl", "funding", "fees", "liquidation_fee", "surplus", "deficit", "top_up", "cash_change")
MONEY = ("collateral", "margin", *FLOWS)
RATIOS = ("total_return", "max_drawdown", "worst_margin_ratio")
LEDGER = ("liquidation_fees", "surplus", "fee_share", "deficit", "uncovered", "balance")
CREDITS = ("liquidation_fees", "surplus", "fee_share")
TIERLESS = {"floor": 0.0, "cap": 2.0**60, "rate": 1 / 128, "max_leverage": 1000.0, "deduction": 0.0}


# ----------------------------------------------------------------------------------------------- running
def engine_venue(venue):
    """The oracle's venue as the engine's."""
    names = ("floor", "cap", "rate", "max_leverage", "deduction")
    tiers = [[tier[name] for name in names] for tier in venue["tiers"]]
    return perpbt.Venue(**{**venue, "name": "made", "tiers": {"default": tiers}})


def engine_run(market, venue, accounts=None, **options):
    """Door a on a made market, with its own or other accounts."""
    bars = perpbt.load_bars(market["frame"], funding=market["funding_frame"])
    table = market["accounts_frame"] if accounts is None else accounts
    return perpbt.simulate(bars, table, venue=engine_venue(venue), **options)


def with_defaults(table, **defaults):
    """The table with absent optional columns, and nulls in them, filled in."""
    absent = [pl.lit(value).alias(name) for name, value in defaults.items() if name not in table.columns]
    return table.with_columns(absent).with_columns(pl.col(name).fill_null(v) for name, v in defaults.items())


def same(left, right):
    """Equal frames with something in them, to the last bit."""
    assert_frame_equal(left, right, check_exact=True)
    assert left.height > 0


def scaled(frame, factors):
    """Columns times their factors."""
    return frame.with_columns(
        (pl.col(name) * factor).alias(name) for name, factor in factors.items() if name in frame.columns
    )


def moments(result):
    """Exit times in ms by account: refused as liquidated at entry is before everything, never is after it."""
    moment = (
        pl.when(pl.col("rejection").is_not_null())
        .then(-1)
        .when(pl.col("exit_reason") == "end")
        .then(2**60)
        .otherwise(pl.col("exit_time").dt.epoch("ms"))
    )
    return result.accounts.select("account", "rejection", "exit_reason", at=moment)


options = st.fixed_dictionaries(
    {"crowding": st.booleans(), "open_interest": st.sampled_from((None, None, 2.0**14, 2.0**27))}
)
either = st.sampled_from


# ------------------------------------------------------------------------------- nobody's order matters
@MADE
@given(made_markets.markets(), made_markets.venues(), options, st.integers(0, 2**32))
def test_row_order_does_not_matter(market, venue, wanted, seed):
    table = market["accounts_frame"]
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=seed)
    first, second = (engine_run(market, venue, accounts, **wanted) for accounts in (table, shuffled))
    assert second.accounts["account"].to_list() == shuffled["account"].to_list()
    same(first.accounts.sort("account"), second.accounts.sort("account"))
    same(first.fund, second.fund)
    same(first.statistics, second.statistics)


@MADE
@given(made_markets.markets(), made_markets.venues(), options)
def test_names_of_symbols_and_worlds_do_not_matter(market, venue, wanted):
    symbols = dict(zip(("AAA", "BBB", "CCC"), ("Z", "M", "B"), strict=True)) | {"all": "all"}
    worlds = {"a": "y", "b": "x", "all": "all"}
    table = with_defaults(market["accounts_frame"], world="all")
    renamed = [pl.col("symbol").replace(symbols), pl.col("world").replace(worlds)]
    events = market["funding_frame"]
    other = market | {
        "frame": market["frame"].with_columns(renamed[0]).sort("symbol", "ts"),
        "funding_frame": None if events is None else events.with_columns(renamed[0]),
    }
    first = engine_run(market, venue, table, **wanted)
    second = engine_run(other, venue, table.with_columns(renamed), **wanted)
    same(first.accounts.with_columns(renamed), second.accounts)
    keys = ("time", "world", "symbol")
    ledgers = (first.fund.with_columns(renamed), second.fund)
    same(*(ledger.sort(keys, maintain_order=True) for ledger in ledgers))  # an opening row stays first


@MADE
@given(made_markets.markets(), made_markets.venues(), st.sampled_from((None, 2.0**14, 2.0**27)))
def test_worlds_do_not_meet(market, venue, open_interest):
    """A second world with the same accounts has the same crowds and funds, and the first fares as if it were alone."""
    venue = venue | {"impact": 0.5, "max_slippage": 0.5}
    wanted = {"crowding": True, "open_interest": open_interest}
    table = market["accounts_frame"].with_columns(world=pl.lit("a"))
    twin = table.with_columns(world=pl.lit("b"), account="twin-" + pl.col("account"))
    alone = engine_run(market, venue, table, **wanted)
    both = engine_run(market, venue, pl.concat([table, twin]), **wanted)
    for world in ("a", "b"):
        rows, ledger = (frame.filter(pl.col("world") == world) for frame in (both.accounts, both.fund))
        rows = rows.with_columns(world=pl.lit("a"), account=pl.col("account").str.strip_prefix("twin-"))
        same(rows, alone.accounts)
        same(ledger.with_columns(world=pl.lit("a")), alone.fund)


# ---------------------------------------------------------------------------------- splitting and scale
@MADE
@given(made_markets.markets(), made_markets.venues(), options, either(("collateral", "weight")))
def test_an_account_in_two_halves_is_the_account(market, venue, wanted, halved):
    """Halves of the collateral need one tier, and a crowd or no impact: an account alone moves its own price."""
    if halved == "collateral":
        venue = venue | {"tiers": [TIERLESS]} | ({} if wanted["crowding"] else {"impact": 0.0})
    table = with_defaults(market["accounts_frame"], weight=1.0)
    half = table.with_columns(pl.col(halved) / 2)
    halves = pl.concat([half, half.with_columns(account="second-" + pl.col("account"))])
    whole, split = engine_run(market, venue, table, **wanted), engine_run(market, venue, halves, **wanted)
    same(whole.fund, split.fund)
    size = {"collateral": 2.0, "weight": 1.0}[halved]
    for part in split.accounts.head(table.height), split.accounts.tail(table.height):
        rebuilt = scaled(part, dict.fromkeys((*MONEY, "quantity"), size) | {"weight": 2.0 / size})
        same(rebuilt.drop("account"), whole.accounts.drop("account"))


@MADE
@given(made_markets.markets(), made_markets.venues(), options, either((-3, 0, 2)), either((-5, 0, 4)))
def test_scale(market, venue, wanted, price_power, money_power):
    """Prices in another unit, money in another unit: everything follows, returns stay."""
    price, money = 2.0**price_power, 2.0**money_power
    series = dict.fromkeys((*LAST, *MARK), price) | {"volume": money / price}
    other = market | {"frame": scaled(market["frame"], series)}
    tiers = [
        tier | {name: tier[name] * money for name in ("floor", "cap", "deduction")} for tier in venue["tiers"]
    ]
    bigger = venue | {"tiers": tiers, "fund_seed": venue["fund_seed"] * money}
    interest = wanted["open_interest"] and wanted["open_interest"] * money
    accounts = scaled(market["accounts_frame"], {"collateral": money})
    first = engine_run(market, venue, **wanted)
    second = engine_run(other, bigger, accounts, **wanted | {"open_interest": interest})
    factors = dict.fromkeys(PRICES, price) | dict.fromkeys(MONEY, money) | {"quantity": money / price}
    same(scaled(first.accounts, factors), second.accounts)
    same(scaled(first.fund, dict.fromkeys(LEDGER, money)), second.fund)


@MADE
@given(made_markets.markets(), made_markets.venues(), st.booleans(), either((-4, 1, 7)))
def test_weights_scale_the_ledger(market, venue, crowding, power):
    """A market with 2**k times the weights, fund and volume is the market seen through a glass of 2**k."""
    factor = 2.0**power
    table = with_defaults(market["accounts_frame"], weight=1.0)
    volume = {"volume": factor} if crowding else {}  # alone, an account's own size makes its price
    heavier = market | {"frame": scaled(market["frame"], volume)}
    bigger = venue | {"fund_seed": venue["fund_seed"] * factor}
    first = engine_run(market, venue, table, crowding=crowding)
    second = engine_run(heavier, bigger, scaled(table, {"weight": factor}), crowding=crowding)
    same(scaled(first.accounts, {"weight": factor}), second.accounts)
    same(scaled(first.fund, dict.fromkeys(LEDGER, factor)), second.fund)


# ---------------------------------------------------------------------------------------------- mirror
def mirrored(rows, centre):
    """The bars seen from below: every price P becomes 2 * centre - P, so highs become lows."""
    swap = {"high": "low", "low": "high", "mark_high": "mark_low", "mark_low": "mark_high"}

    def price(row, name):
        value = row[swap.get(name, name)]
        return None if value is None else 2 * centre - value

    return [row | {name: price(row, name) for name in (*LAST, *MARK)} for row in rows]


def paid_at(rows, centre, rng):
    """Funding on some bars, whose mark opens at the centre: there f on a price is -f on its image."""
    events = []
    for row in rows:
        if row["mark_open"] is not None and rng.random() < 0.3:
            low, high = min(row["mark_low"], centre), max(row["mark_high"], centre)
            row.update(mark_open=centre, mark_low=low, mark_high=high)
            events.append((row["ts"], rng.choice((1 / 256, -1 / 256, 1 / 64, -1 / 32))))
    return events


def mirror_accounts(rng, centre, entry_time, count):
    """Positions of 2**k units opened at the centre, all distances dyadic, so that nothing is ever rounded."""
    accounts = []
    for number in range(count):
        leverage, buffer = rng.choice((1.0, 2.0, 4.0, 8.0, 16.0, 32.0)), rng.choice((0.0, 0.5, 1.0))
        quantity = rng.choice((1.0, 4.0, 16.0, 64.0))
        wishes = dict.fromkeys(made_markets.WISHES)
        for name in ("stop_loss", "take_profit"):
            wishes[name] = rng.choice((None, rng.randrange(1, 40) / 128))
        for name in ("stop_trigger", "take_profit_trigger"):
            wishes[name] = rng.choice(("last", "mark"))
        wishes["exit_time"] = rng.choice((None, None, entry_time + HOUR * rng.randrange(1, 40)))
        own = {
            "account": str(number),
            "strategy": "m",
            "symbol": "AAA",
            "side": rng.choice(("long", "short")),
        }
        collateral = quantity * centre * (1 + buffer) / leverage
        own |= {"entry_time": entry_time, "collateral": collateral, "leverage": leverage}
        accounts.append(
            own | wishes | {"margin_buffer": buffer, "world": "all", "weight": rng.choice((1.0, 4.0))}
        )
    return accounts


@MADE
@given(
    st.integers(0, 2**32),
    either(("apart", "equal", "partly", "absent")),
    either((0.0, 25.0, 2048.0)),
    either((0.0, 0.5, 1.0)),
    made_markets.rules(),
)
def test_a_short_is_a_long_in_the_mirror(seed, mark, fund_seed, kept, rules):
    """P -> 2c - P about the entry price c, without costs and with maintenance on entry notional.

    Then everything is a sum of dyadic numbers and the image is exact. A trailing stop is left out: its distance is a fraction of
    a price that the mirror moves.
    """
    rng = random.Random(seed)
    rows = made_markets.made_history(rng, 60, gaps=True, mark=mark, volume=False, jumpiness=rng.randrange(2))
    entry = rng.randrange(20)
    centre = rows[entry]["open"]
    events = paid_at(rows, centre, rng) if mark in ("apart", "partly") else []
    assume(all(row[name] is None or row[name] < 2 * centre for row in rows for name in ("high", "mark_high")))
    accounts = mirror_accounts(rng, centre, rows[entry]["ts"], 12)
    opposite = {"long": "short", "short": "long"}
    venue = {
        "maintenance_on": "entry", "surplus_to_fund": kept, "fund_seed": fund_seed,
        "tiers": made_markets.ladder(made_markets.RATES[0], (125.0,) * 4, 4, 1.0),
    }  # fmt: skip
    results = []
    for history, sign in ((rows, 1), (mirrored(rows, centre), -1)):
        funding = {"AAA": [(time, sign * rate) for time, rate in events]}
        sided = [
            account | {"side": account["side"] if sign > 0 else opposite[account["side"]]}
            for account in accounts
        ]
        market = {
            "frame": made_markets.bars_frame({"AAA": history}, {}, mark=mark != "absent", volume=False),
            "funding_frame": made_markets.funding_frame(funding) if events else None,
            "accounts_frame": made_markets.accounts_frame(sided, made_markets.WISHES),
        }
        results.append(engine_run(market, venue, rules=rules))
    image = results[1].accounts.with_columns(
        pl.col("side").replace(opposite), *[(2 * centre - pl.col(name)).alias(name) for name in PRICES]
    )
    same(results[0].accounts, image)
    same(results[0].fund, results[1].fund)


# ------------------------------------------------------------------------------------------- monotone
def variants(table, name, values):
    """Every row once for each value of a column; `variant` numbers them."""
    parts = [
        table.with_columns(value.cast(pl.Float64).alias(name), account=pl.col("account") + f"|{k}")
        for k, value in enumerate(values)
    ]
    return pl.concat(parts)


def by_variant(result, count):
    """Lists over variants of each account's columns, in the order the variants were made."""
    account, variant = (
        pl.col("account").str.split("|").list.get(0),
        pl.col("account").str.split("|").list.get(1),
    )
    table = result.accounts.join(moments(result).select("account", "at"), on="account")
    table = table.with_columns(original=account, variant=variant.cast(pl.Int32)).sort("original", "variant")
    grouped = table.group_by("original", maintain_order=True).agg(pl.all().exclude("original"))
    assert grouped["variant"].to_list() == [list(range(count))] * grouped.height
    return grouped.to_dicts()


@MADE
@given(made_markets.markets(), made_markets.venues(), either(("notional", "collateral")))
def test_more_leverage_is_never_safer(market, venue, fixed):
    """Of positions that differ in leverage only, the higher has its liquidation price closer and is liquidated no later."""
    tiers = [tier | {"max_leverage": 1000.0} for tier in venue["tiers"]]
    tiers[-1] = tiers[-1] | {"cap": 2.0**60}
    leverages = [2.0**k for k in range(8)]
    table = with_defaults(market["accounts_frame"], margin_buffer=0.0)
    levels = ("stop_loss", "take_profit", "trailing_stop", "exit_time")
    table = table.drop([name for name in levels if name in table.columns])
    table = variants(table, "leverage", [pl.lit(value) for value in leverages])
    if fixed == "notional":
        needed = (1 + pl.col("margin_buffer")) / pl.col("leverage") + venue["taker_fee"]
        table = table.with_columns(collateral=pl.col("collateral") * needed)
    result = engine_run(market, venue | {"tiers": tiers}, table)
    for account in by_variant(result, len(leverages)):
        sign = 1 if account["side"][0] == "long" else -1
        prices = [sign * price for price in account["liquidation_price"] if price is not None]
        assert prices == sorted(prices)
        assert account["at"] == sorted(account["at"], reverse=True)
        assert set(account["exit_reason"]) <= {"liquidation", "end", "rejected"}


@MADE
@given(
    made_markets.markets(),
    made_markets.venues(),
    made_markets.rules(),
    either(("stop_loss", "trailing_stop")),
)
def test_a_tighter_stop_never_exits_later(market, venue, rules, kind):
    table = with_defaults(market["accounts_frame"], **{kind: 0.25})
    distances = [pl.col(kind) * factor for factor in (0.125, 0.5, 0.75, 1.0)] + [pl.lit(None)]
    result = engine_run(market, venue, variants(table, kind, distances), rules=rules)
    for account in by_variant(result, len(distances)):
        assert account["at"] == sorted(account["at"])


@MADE
@given(made_markets.markets(), made_markets.venues(), either(("taker_fee", "maker_fee", "liquidation_fee")))
def test_higher_fees_never_leave_more(market, venue, fee):
    """One tier and no impact, as a fee makes positions smaller; leverages and levels off the grid, as a tie could turn."""
    rng = random.Random(1)
    table = market["accounts_frame"]

    def drawn(*values):
        return pl.Series([rng.choice(values) for _ in range(table.height)], dtype=pl.Float64)

    table = table.with_columns(leverage=drawn(3.7, 7.3, 23.1, 61.7))
    table = table.with_columns(
        drawn(None, 0.0123, 0.1071).alias(name) for name in ("stop_loss", "take_profit")
    )
    venue = venue | {"tiers": [TIERLESS], "impact": 0.0}
    cash = [
        engine_run(market, venue | {fee: rate}, table).accounts["cash_change"] for rate in (0.0, 0.0004, 0.01)
    ]
    for less, more in itertools.pairwise(cash):
        assert (more - less <= 1e-12 * table["collateral"]).all()


# --------------------------------------------------------------------------- time, threads and chunks
def cut_at(market, cut):
    """The market as known when the bar `cut` has closed."""
    return market | {"frame": market["frame"].filter(pl.col("ts") <= cut)}


def check_past(early, whole, cut):
    """Exits up to the cut are those of the whole history, no fewer and no more; returns them."""
    over = (pl.col("exit_reason") != "end") & (pl.col("rejection").fill_null("") != "no_bar")
    by_cut = (pl.col("entry_time") <= cut) & (pl.col("exit_time").fill_null(pl.col("entry_time")) <= cut)
    out = early.accounts.filter(over)
    assert_frame_equal(out, whole.accounts.filter(over & by_cut), check_exact=True)
    return out


@MADE
@given(
    made_markets.markets(), made_markets.venues(), made_markets.rules(), st.booleans(), st.floats(0.2, 0.9)
)
def test_what_comes_later_changes_nothing(market, venue, rules, crowding, part):
    """Cut the bars: exits up to there stay, and the fund of whoever is out by then as well."""
    times = market["frame"]["ts"].unique().sort()
    cut = times[max(5, int(part * times.len())) - 1]
    early = cut_at(market, cut)
    assume(early["frame"].drop_nulls("open")["symbol"].n_unique() == market["frame"]["symbol"].n_unique())
    out = check_past(engine_run(early, venue, rules=rules), engine_run(market, venue, rules=rules), cut)
    assume(out.height > 0)
    table = market["accounts_frame"].join(
        out.select("account"), on="account", how="semi", maintain_order="left"
    )
    short, long = (engine_run(some, venue, table, rules=rules, crowding=crowding) for some in (early, market))
    same(short.accounts, long.accounts)
    same(short.fund, long.fund)


def test_no_exit_knows_the_next_bar(large_market):
    """The same with hundreds of positions open at each cut."""
    times = large_market["frame"]["ts"].unique().sort()
    whole = engine_run(large_market, COSTLY)
    still_in = 0
    for bar in (4, 5, 6, 8, 12, 16, 100, 101, 102, 104, 108, 200):
        early = engine_run(cut_at(large_market, times[bar]), COSTLY)
        still_in += (early.accounts["exit_reason"] == "end").sum()
        check_past(early, whole, times[bar])
    assert still_in > 1000


@pytest.fixture(scope="module")
def large_market():
    """Three symbols, 300 bars, 3,000 accounts: several chunks a symbol."""
    rng = random.Random(20_200_312)
    tiers = [
        {"cap": cap, "rate": rate} for cap, rate in zip(made_markets.CAPS, made_markets.RATES[0], strict=True)
    ]
    histories, funding, accounts = {}, {}, []
    for symbol in ("AAA", "BBB", "CCC"):
        rows = made_markets.made_history(rng, 300, gaps=True, mark="partly", volume=True, jumpiness=0)
        histories[symbol], funding[symbol] = rows, made_markets.made_funding(rng, rows, "table")
        accounts += [made_markets.made_account(rng, rows, symbol, number, tiers) for number in range(1000)]
    return {
        "frame": made_markets.bars_frame(histories, {}, mark=True, volume=True),
        "funding_frame": made_markets.funding_frame(funding),
        "accounts_frame": made_markets.accounts_frame(accounts, made_markets.WISHES),
    }


COSTLY = {
    "taker_fee": 0.0005, "maker_fee": 0.0002, "slippage": 0.0005, "liquidation_fee": 0.005, "half_spread": 0.0005,
    "impact": 0.5, "max_slippage": 0.3, "surplus_to_fund": 0.5, "fund_seed": 500.0, "fund_fee_share": 0.25,
    "fund_scope": "pooled",
    "tiers": made_markets.ladder(made_markets.RATES[0], made_markets.LEVERAGES[0], 4, 1.0),
}  # fmt: skip
DRIVES = [(1, 256, 8), (2, 256, 8), (2, 300, 3), (2, 4096, 1), (1, 1000, 1)]  # threads, chunk, page


def drive(monkeypatch, chunk, page):
    monkeypatch.setattr(perpbt.engines.chunks, "CHUNK", chunk)
    monkeypatch.setattr(perpbt.engines.chunks, "PAGE", page)
    monkeypatch.setattr(perpbt.engines.chunks, "SERIAL_BELOW", 0)


def same_results(results):
    first = results[0]
    assert {"liquidation", "stop_loss"} <= set(first.accounts["exit_reason"])
    assert (first.accounts["deficit"].fill_null(0.0) > 0).any()
    for other in results[1:]:
        for name in ("accounts", "fund", "statistics"):
            same(getattr(first, name), getattr(other, name))


def test_threads_and_chunks_change_nothing_for_accounts(large_market, monkeypatch):
    results = [engine_run(large_market, COSTLY, crowding=True)]
    for threads, chunk, page in DRIVES:
        drive(monkeypatch, chunk, page)
        results.append(engine_run(large_market, COSTLY, crowding=True, threads=threads))
    same_results(results)


def candles():
    return {"long_entry": pl.col("close") > pl.col("open"), "short_entry": pl.col("close") < pl.col("open")}


GRID = {
    "leverage": [4.0, 20.0],
    "stop_loss": ["none", 0.02],
    "compounding": True,
    "sizing": {"kind": "equity", "fraction": 0.5},
    "margin_call": [
        {"action": "top_up", "threshold": 0.25, "target": 0.125, "max_calls": 2},
        {"action": "deleverage", "threshold": 0.25, "fraction": 0.5, "max_calls": 3},
    ],
}


def policies_run(market, **options):
    """Door b on a market: a grid of policies with margin calls, many trades an account."""
    bars = perpbt.load_bars(market["frame"], funding=market["funding_frame"])
    return perpbt.backtest(bars, candles, GRID, venue=engine_venue(COSTLY), offsets=100, **options)


def test_threads_and_chunks_change_nothing_for_policies(large_market, monkeypatch):
    results = [policies_run(large_market)]
    assert results[0].accounts["position"].max() > 8  # more than a page
    for threads, chunk, page in DRIVES:
        drive(monkeypatch, chunk, page)
        results.append(policies_run(large_market, threads=threads))
    same_results(results)


# ---------------------------------------------------------------------------------------- conservation
def check_money(result, fee_share):
    """Money of every row, and of every world, added up again from the tables (MODEL §8)."""
    rows = result.accounts.filter(pl.col("rejection").is_null()).to_dicts()
    for row in rows:
        got = (row["cash_change"], row["fees"], row["liquidation_fee"], row["surplus"], -row["deficit"])
        gross = row["collateral"] + row["top_up"] + sum(abs(row[name]) for name in FLOWS)
        assert abs(math.fsum(got) - (row["pnl"] + row["funding"])) <= 1e-12 * gross
        assert (
            abs(row["total_return"] * (row["collateral"] + row["top_up"]) - row["cash_change"])
            <= 1e-12 * gross
        )
        assert (
            min(row["deficit"], row["surplus"], row["fees"], row["liquidation_fee"], row["max_drawdown"]) >= 0
        )
        assert row["exit_reason"] == "liquidation" or row["surplus"] == row["liquidation_fee"] == 0
    for world in {row["world"] for row in rows}:
        own = [row for row in rows if row["world"] == world]

        def total(name, own=own):
            return math.fsum(row["weight"] * row[name] for row in own)

        fund = result.fund.filter(pl.col("world") == world)
        booked = {name: math.fsum(fund[name]) for name in LEDGER}
        gross = math.fsum(
            row["weight"] * (row["collateral"] + sum(abs(row[n]) for n in FLOWS)) for row in own
        )
        for column, name in (("liquidation_fees", "liquidation_fee"), ("surplus",) * 2, ("deficit",) * 2):
            assert abs(booked[column] - total(name)) <= 1e-12 * gross
        assert abs(booked["fee_share"] - fee_share * total("fees")) <= 1e-12 * gross
        change = math.fsum([*(booked[name] for name in CREDITS), -booked["deficit"], booked["uncovered"]])
        came = math.fsum(
            [total("cash_change"), (1 - fee_share) * total("fees"), change, -booked["uncovered"]]
        )
        assert abs(came - (total("pnl") + total("funding"))) <= 1e-12 * gross


def check_ledger(fund, pooled):
    """Every fund's balance walks from its seed by its own rows, is never negative, and no deficit is lost."""
    assert (fund.select(LEDGER).min().to_numpy() >= 0).all()
    assert (fund["uncovered"] <= fund["deficit"] * (1 + 1e-15)).all()
    assert fund["time"].is_sorted()
    keys = ["world"] if pooled else ["world", "symbol"]
    for _, own in fund.group_by(keys, maintain_order=True):
        opening = own.row(0, named=True)
        assert [opening[name] for name in LEDGER[:-1]] == [0.0] * 5
        gross = opening["balance"] + math.fsum(math.fsum(own[name]) for name in LEDGER[:-1])
        balance = opening["balance"]
        for _, bar in own[1:].group_by("time", maintain_order=True):
            came = [value for name in CREDITS for value in bar[name]]
            balance = math.fsum([balance, *came, *(-bar["deficit"]), *bar["uncovered"]])
            assert abs(balance - bar["balance"][0]) <= 1e-12 * gross
            assert bar["balance"].n_unique() == 1
            short = math.fsum(bar["uncovered"])
            # what is short empties the fund; only credits of the range can come after draws of the open
            assert short == 0 or bar["balance"][0] <= math.fsum(came)
    flows = fund.select(pl.sum_horizontal(LEDGER[:-1])).to_series()
    assert (flows == 0).sum() == fund.select(keys).n_unique()  # but for openings, a row is there for a flow


@MADE
@given(made_markets.markets(), made_markets.venues(), made_markets.rules(), options)
def test_money_is_conserved_for_accounts(market, venue, rules, wanted):
    result = engine_run(market, venue, rules=rules, **wanted)
    check_money(result, venue["fund_fee_share"])
    check_ledger(result.fund, venue["fund_scope"] == "pooled")


@pytest.mark.parametrize("crowding", [False, True])
def test_money_is_conserved_for_policies(large_market, crowding):
    grid = GRID | {"compounding": not crowding}
    bars = perpbt.load_bars(large_market["frame"], funding=large_market["funding_frame"])
    interest = {"AAA": 1e6, "BBB": 2e6, "CCC": 1e5}
    result = perpbt.backtest(
        bars, candles, grid, venue=engine_venue(COSTLY), offsets=20, crowding=crowding, open_interest=interest
    )
    assert result.accounts["top_up"].max() > 0
    assert result.fund["deficit"].max() > 0
    assert (
        result.fund["uncovered"].max() > 0
    ) == crowding  # impact on one account alone does not drain a fund here
    check_money(result, COSTLY["fund_fee_share"])
    check_ledger(result.fund, pooled=True)


def test_the_same_run_twice_is_the_same(large_market):
    first, second = (engine_run(large_market, COSTLY, crowding=True, open_interest=1e8) for _ in range(2))
    for name in ("accounts", "fund", "statistics", "prices"):
        same(getattr(first, name), getattr(second, name))


def test_a_large_crowd_split_in_many_pays_the_same(large_market):
    """1,000 small accounts or one of weight 1,000: one crowd, one fund."""
    frame = large_market["frame"]
    opened = frame.filter(pl.col("symbol") == "AAA")["ts"][0]
    one = pl.DataFrame(
        {
            "account": ["whale"], "strategy": ["s"], "symbol": ["AAA"], "side": ["long"], "entry_time": [opened],
            "collateral": [64.0], "leverage": [16.0], "weight": [1024.0],
        }
    ).with_columns(pl.col("entry_time").cast(TIME))  # fmt: skip
    many = pl.concat([one.with_columns(account=pl.lit(f"fish-{k}"), weight=pl.lit(1.0)) for k in range(1024)])
    whale, fish = (engine_run(large_market, COSTLY, table, crowding=True) for table in (one, many))
    assert whale.accounts["exit_reason"].to_list() == ["liquidation"]
    same(whale.fund, fish.fund)
    assert fish.accounts["cash_change"].unique().to_list() == whale.accounts["cash_change"].to_list()
    alone = engine_run(large_market, COSTLY, one.with_columns(weight=pl.lit(1.0)), crowding=True)
    worse = whale.accounts["exit_price"][0] < alone.accounts["exit_price"][0]
    assert worse, "a crowd of 1,024 sells lower than one account"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_bar_of_a_moment(data: st.DataObject) -> None:
    """Where bars are evenly spaced it is computed, elsewhere looked for."""
    steps = data.draw(st.lists(st.sampled_from((60, 60, 60, 60, 120, 7)), max_size=30))
    times = np.cumsum(np.array([data.draw(st.integers(-100, 100)), *steps], dtype=np.int64))
    moments = data.draw(st.lists(st.integers(int(times[0]) - 130, int(times[-1]) + 130), max_size=12))
    found = first_bars(times, np.array(moments, dtype=np.int64))
    assert found.tolist() == [sum(time < moment for time in times.tolist()) for moment in moments]


def test_a_table_holds_what_it_is_given() -> None:
    """One number for all records or one for each; nothing is left of what was in memory before."""
    kind = np.dtype([("a", np.float64), ("b", np.int8), ("c", np.int64)], align=True)
    made = table(kind, 3, a=np.array(0.5), b=[1, 2, 3])
    assert made.tolist() == [(0.5, 1, 0), (0.5, 2, 0), (0.5, 3, 0)]
    again = np.zeros(3, dtype=kind)
    again["a"], again["b"] = 0.5, (1, 2, 3)
    assert made.tobytes() == again.tobytes()
    assert table(kind, 0, b=1).size == 0


def test_what_all_ask_for_is_what_each_asks_for(large_market) -> None:
    """A column with one value, which is not looked up for each row, gives what it gives beside another value."""
    few = (
        large_market["accounts_frame"]
        .head(40)
        .with_columns(leverage=pl.lit(5.0), collateral=pl.lit(100.0), stop_loss=pl.lit(0.02))
    )
    other = few.head(1).with_columns(
        account=pl.lit(10**6).cast(few.schema["account"]),
        leverage=pl.lit(2.0), collateral=pl.lit(50.0), stop_loss=pl.lit(0.03),
    )  # fmt: skip
    beside = engine_run(large_market, COSTLY, pl.concat([few, other]), crowding=False).accounts
    assert_frame_equal(engine_run(large_market, COSTLY, few, crowding=False).accounts, beside.head(40))
