"""Money in settlement currency: what tables say it is in, what it is worth, and that coins are never added to one another."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from made_bars import START, made_bars

import perpbt
from perpbt.config import load_spec
from perpbt.contracts import Contract, currencies
from perpbt.doors.specification import run_spec
from perpbt.errors import InputError
from perpbt.statistics import summarise
from perpbt.venue import PACKAGED, Venue

TIERS = {"default": [(0.0, 1e9, 0.02, 100.0)]}
CONTRACTS = {
    "AAAUSD": {"kind": "inverse", "multiplier": 10.0},
    "BBBUSD": {"kind": "inverse", "multiplier": 1.0},
    "CCCUSD": {"kind": "quanto", "multiplier": 1e-3, "settlement": "AAA"},
    "DDDUSD": {"kind": "linear"},
}
COSTS = {
    "taker_fee": 0.001,
    "liquidation_fee": 0.01,
    "slippage": 0.001,
    "fund_fee_share": 0.25,
    "fund_seed": 5.0,
}
SUMMED = ("surplus", "deficit", "net_fund_flow", "uncovered")


def venue(**fields):
    return Venue(name="made", tiers=TIERS, contract=CONTRACTS, **{**COSTS, **fields})


def bars(*symbols):
    frames = []
    for seed, symbol in enumerate(symbols):
        frame = made_bars(300, mark=True, funding=True, seed=seed).with_columns(symbol=pl.lit(symbol))
        frames.append(frame)
    return pl.concat(frames)


def accounts(*symbols, each=30):
    rows = [
        {
            "account": f"{symbol}{k}", "strategy": ("one", "two")[k % 3 == 0], "symbol": symbol, "side": ("long", "short")[k % 2],
            "entry_time": START + timedelta(minutes=5 * k), "collateral": 1.0 + k % 7, "leverage": (2.0, 10.0, 40.0)[k % 3],
            "stop_loss": (None, 0.005)[k % 4 == 0], "weight": 1.0 + k % 2,
        }
        for symbol in symbols for k in range(each)
    ]  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def test_a_symbol_tells_its_currencies():
    for symbol, told in {
        "BTCUSDT": ("BTC", "USDT"), "BTCUSD": ("BTC", "USD"), "BTCUSD_PERP": ("BTC", "USD"), "BTC-USD-SWAP": ("BTC", "USD"),
        "ETHUSDC": ("ETH", "USDC"), "1000PEPEUSDT": ("1000PEPE", "USDT"), "BTCUSDM": ("BTC", "USD"), "BTC-PERPETUAL": ("", ""),
        "USDT": ("", ""), "AAA": ("", ""),
    }.items():  # fmt: skip
        assert currencies(symbol) == told
    assert Contract("inverse").settled_in("BTCUSD") == "BTC"
    assert Contract("linear").settled_in("BTCUSDT") == "USDT"
    assert Contract("inverse").settled_in("AAA") != Contract("inverse").settled_in("BBB")
    assert Contract("inverse", settlement="XBT").settled_in("BTCUSD") == "XBT"


def test_linear_runs_have_the_tables_they_had():
    result = perpbt.simulate(bars("DDDUSD"), accounts("DDDUSD"), venue=venue())
    for table in (result.accounts, result.fund, result.statistics):
        assert not {"settlement", "conversion", "exit_notional"} & set(table.columns)
    assert result.extra == {}
    assert "contracts" not in result.metadata


@pytest.mark.parametrize("memory", [None, "8GiB"])
def test_one_coin(memory):
    """Columns say the coin and its price; statistics of the tables are those of the run; converted ones are the sums of what moved."""
    market, table = bars("AAAUSD"), accounts("AAAUSD")
    result = perpbt.simulate(market, table, venue=venue(), memory=memory)
    rows, close = result.accounts, dict(market.select("ts", "close").iter_rows())
    opened = rows.filter(pl.col("exit_reason") != "rejected")
    assert (
        set(rows["settlement"])
        == set(result.fund["settlement"])
        == set(result.statistics["settlement"])
        == {"AAA"}
    )
    assert opened["conversion"].to_list() == [close[time] for time in opened["exit_time"]]
    assert (opened["cash_change_quote"] - opened["cash_change"] * opened["conversion"]).abs().max() == 0.0
    value = 10.0 * opened["quantity"] / opened["exit_price"]
    assert np.allclose(opened["exit_notional"], value, rtol=1e-14)
    again = summarise(rows, result.fund)
    for name in ("positions", "liquidated", "pd", "ead", "lgd", *SUMMED):
        gap = (result.statistics[name] - again[name]).abs()
        assert result.statistics[name].null_count() == again[name].null_count(), name
        assert (gap.max() or 0.0) <= 1e-12 * (again[name].abs().max() or 0.0), name
    converted, total = result.extra["converted"], (pl.col("symbol") == "all") & (pl.col("strategy") == "all")
    flows = pl.col("liquidation_fees") + pl.col("surplus") + pl.col("fee_share") - pl.col("deficit")
    moved = math.fsum(result.fund.select(flows * pl.col("conversion")).to_series())
    assert converted.filter(total)["net_fund_flow"].item() == pytest.approx(moved, rel=1e-12)
    assert result.fund["balance"][0] == 5.0


def test_several_coins_are_never_added():
    """Money of totals over coins is null; in quote currency it is there, and is what the symbols' alone add up to."""
    symbols = ("AAAUSD", "BBBUSD", "CCCUSD", "DDDUSD")
    result = perpbt.simulate(bars(*symbols), accounts(*symbols), venue=venue())
    statistics, converted = result.statistics, result.extra["converted"]
    own = pl.col("symbol") != "all"
    assert statistics.filter(~own)["settlement"].null_count() == statistics.filter(~own).height
    for name in (*SUMMED, "ead", "lgd", "expected_loss"):
        assert statistics.filter(~own)[name].null_count() == statistics.filter(~own).height
    assert dict(statistics.filter(own).select("symbol", "settlement").iter_rows()) == {
        "AAAUSD": "AAA", "BBBUSD": "BBB", "CCCUSD": "AAA", "DDDUSD": "USD",
    }  # fmt: skip
    for name in SUMMED:
        every = converted.filter((pl.col("symbol") == "all") & (pl.col("strategy") == "all"))[name].item()
        assert every == pytest.approx(math.fsum(converted.filter(own)[name]), rel=1e-12)
    linear = perpbt.simulate(bars(*symbols), accounts("DDDUSD"), venue=venue()).statistics
    alone = pl.col("symbol") == "DDDUSD"
    for frame in (statistics, converted):
        assert frame.filter(alone).select(linear.columns).equals(linear.filter(alone))
    assert result.metadata["money"] is None
    quanto, coin = (result.accounts.filter(pl.col("symbol") == symbol) for symbol in ("CCCUSD", "AAAUSD"))
    price = dict(coin.select("exit_time", "conversion").iter_rows())
    shared = [
        (price[time], rate)
        for time, rate in quanto.select("exit_time", "conversion").iter_rows()
        if time in price
    ]
    assert shared
    assert all(one == other for one, other in shared)
    seeds = result.fund.filter(pl.col("time") == pl.col("time").min()).sort("symbol")
    worth = seeds.filter(pl.col("deficit") + pl.col("surplus") + pl.col("fee_share") == 0.0)
    assert worth.select((pl.col("balance") * pl.col("conversion") - 5.0).abs().max()).item() < 1e-12


@pytest.mark.parametrize("symbols", [("AAAUSD",), ("AAAUSD", "BBBUSD", "DDDUSD")])
def test_pages_and_summaries_of_such_runs(tmp_path, symbols):
    result = perpbt.simulate(bars(*symbols), accounts(*symbols), venue=venue())
    page = result.write(tmp_path / "run") / "report.html"
    text = page.read_text(encoding="utf-8")
    coin = "AAA" if len(symbols) == 1 else "quote currency"
    assert f"in {coin} a position" in text
    assert (tmp_path / "run" / "converted.parquet").exists()
    from perpbt.summary import render

    assert "liquidated" in render(result)


def test_signals_trade_inverse_contracts():
    """Door b: rows on the trader's side, prices in quote currency, money in coin."""

    def once():
        number = pl.int_range(pl.len())
        return {"long_entry": number % 40 == 1, "short_entry": number % 40 == 21}

    result = perpbt.backtest(
        bars("AAAUSD"), once, {"leverage": [5, 30], "capital": 2.0, "stop_loss": 0.01}, venue=venue()
    )
    rows = result.accounts.filter(pl.col("exit_reason") != "rejected")
    assert set(rows["side"]) == {"long", "short"}
    side = pl.when(pl.col("side") == "long").then(1.0).otherwise(-1.0)
    profit = side * pl.col("quantity") * 10.0 * (1 / pl.col("entry_price") - 1 / pl.col("exit_price"))
    assert rows.select((profit - pl.col("pnl")).abs().max()).item() < 1e-10
    assert set(rows["settlement"]) == {"AAA"}


def test_what_cannot_be_added_or_converted_is_refused():
    def told(pattern, *symbols, market=None, fields=None, **options):
        with pytest.raises(InputError, match=pattern):
            perpbt.simulate(bars(*symbols), accounts(*symbols), venue=venue(**(fields or {})), **options)

    told("scope 'pooled'", "AAAUSD", "BBBUSD", fields={"fund_scope": "pooled"})
    told("open_interest is one number", "AAAUSD", "BBBUSD", open_interest=1e6)
    told(r"conversion\['AAA'\] is missing", "CCCUSD", "DDDUSD")
    told("no symbol is settled in ZZZ", "AAAUSD", conversion={"ZZZ": 1.0})
    told("must be a symbol of the bars", "CCCUSD", conversion={"AAA": "AAAUSD"})
    told("a number above 0", "CCCUSD", conversion={"AAA": -1.0})
    told("column 'price' missing", "CCCUSD", conversion={"AAA": pl.DataFrame({"ts": [START]})})
    told("equity_every", "AAAUSD", "BBBUSD", equity_every="1h")


def test_prices_of_coins_may_be_given():
    """A number, a symbol, or a series of which the last value known holds."""
    series = pl.DataFrame({"ts": [START, START + timedelta(minutes=90)], "price": [7.0, 8.0]})
    table = accounts("CCCUSD")
    for given, price in (
        (3.0, lambda time: 3.0),
        (series, lambda time: 7.0 if time < series["ts"][1] else 8.0),
    ):
        rows = perpbt.simulate(bars("CCCUSD"), table, venue=venue(), conversion={"AAA": given}).accounts
        rows = rows.filter(pl.col("exit_reason") != "rejected")
        assert rows["conversion"].to_list() == [price(time) for time in rows["exit_time"]]
    alone = perpbt.simulate(bars("CCCUSD"), table, venue=venue())
    assert alone.accounts["conversion"].null_count() == alone.accounts.height
    assert "converted" not in alone.extra
    assert any("nothing is converted" in note for note in alone.metadata["notes"])


def test_open_interest_of_inverse_contracts_is_in_coin():
    """Scaled to a mean notional in coin, and by turnover that a volume in contracts makes."""
    market = bars("AAAUSD").with_columns(volume=pl.lit(1_000.0))
    result = perpbt.simulate(market, accounts("AAAUSD"), venue=venue(), open_interest={"AAAUSD": 64.0})
    plain = perpbt.simulate(market, accounts("AAAUSD"), venue=venue())
    assert (result.accounts["pnl"] == plain.accounts["pnl"]).all()
    assert (result.accounts["weight"] != plain.accounts["weight"]).any()
    turned = perpbt.simulate(
        market, accounts("AAAUSD"), venue=venue(), open_interest={"days_of_turnover": 1.0}
    )
    assert turned.accounts["weight"].is_finite().all()


A_QUANTO = """
[contract.CCCUSD]
source = "made"
kind = "quanto"
multiplier = 0.001
settlement = "AAA"
"""
RUN_FILE = """\
offsets = 6
[data]
path = "bars.parquet"
[venue]
name = "made.toml"
[conversion]
AAA = WORTH
[[strategy]]
name = "hold"
[policy]
leverage = [5, 25]
"""


def test_a_run_file_says_what_coins_are_worth(tmp_path, monkeypatch):
    """As in `simulate`: a number, a symbol of the data, or a file of prices, which is part of the run's identity."""
    monkeypatch.chdir(tmp_path)
    frame = bars("CCCUSD", "DDDUSD")
    frame.write_parquet("bars.parquet")
    shipped = PACKAGED / "kraken.toml"
    (tmp_path / "made.toml").write_text(shipped.read_text(encoding="utf-8") + A_QUANTO, encoding="utf-8")
    coin = frame.filter(pl.col("symbol") == "CCCUSD").select("ts", (pl.col("close") / 7.0).alias("price"))
    coin.write_parquet("coin.parquet")

    def made(worth):
        (tmp_path / "run.toml").write_text(RUN_FILE.replace("WORTH", worth))
        return run_spec(load_spec("run.toml"))

    for worth, conversion in (("2.5", 2.5), ('"DDDUSD"', "DDDUSD"), ('"coin.parquet"', coin)):
        found = made(worth)
        direct = perpbt.backtest(
            frame, "hold", {"leverage": [5, 25]}, offsets=6, venue="made.toml", conversion={"AAA": conversion}
        )
        assert found.accounts.equals(direct.accounts)
        assert found.extra["converted"].equals(direct.extra["converted"])
        assert found.accounts.filter(pl.col("symbol") == "CCCUSD")["conversion"].null_count() == 0
    before = found.metadata
    coin.with_columns(pl.col("price") * 2.0).write_parquet("coin.parquet")
    after = made('"coin.parquet"').metadata
    assert before["conversion_AAA_sha256"] != after["conversion_AAA_sha256"]
    assert before["run_sha256"] != after["run_sha256"]
    with pytest.raises(
        InputError, match=r"conversion\.AAA = 'ZZZ': neither a symbol of the data \(CCCUSD, DDDUSD\) nor"
    ):
        made('"ZZZ"')
    with pytest.raises(InputError, match=r"conversion\.AAA = True: must be a number above 0, a symbol"):
        made("true")
