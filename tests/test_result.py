"""What a run returns: columns, types, order, identities, equity curves, notes, files."""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from made_bars import START, made_bars, two_symbols, with_value
from polars.testing import assert_frame_equal

import perpbt
from perpbt.errors import RunError
from perpbt.result import Begun, Result, write_table

TIME = pl.Datetime("ms", "UTC")
ACCOUNTS: dict[str, Any] = {
    **{"account": pl.Int64, "position": pl.UInt32},
    **dict.fromkeys(("strategy", "policy", "symbol", "world"), pl.String),
    **{"weight": pl.Float64, "side": pl.String, "leverage": pl.Float64, "collateral": pl.Float64},
    "entry_time": TIME,
    **dict.fromkeys(
        ("entry_price", "quantity", "margin", "liquidation_price", "bankruptcy_price"), pl.Float64
    ),
    **{"exit_time": TIME, "exit_price": pl.Float64, "exit_reason": pl.String, "rejection": pl.String},
    **dict.fromkeys(
        ("pnl", "funding", "fees", "liquidation_fee", "surplus", "deficit", "top_up", "cash_change",
         "total_return", "max_drawdown", "worst_margin_ratio"),
        pl.Float64,
    ),
}  # fmt: skip
FUND: dict[str, Any] = {
    **{"time": TIME, "world": pl.String, "symbol": pl.String},
    **dict.fromkeys(
        ("liquidation_fees", "surplus", "fee_share", "deficit", "uncovered", "balance"), pl.Float64
    ),
}
STATISTICS: dict[str, Any] = {
    **dict.fromkeys(("strategy", "policy", "symbol"), pl.String),
    **dict.fromkeys(("accounts", "positions", "rejected", "liquidated", "defaulted"), pl.Int64),
    **dict.fromkeys(
        ("pd", "ead", "lgd", "expected_loss", "surplus", "deficit", "net_fund_flow", "uncovered",
         "median_return", "mean_return", "max_drawdown"),
        pl.Float64,
    ),
    "time_to_liquidation": pl.Duration("ms"),
}  # fmt: skip
REASONS = {
    *("stop_loss", "take_profit", "trailing_stop", "liquidation"),
    *("signal", "time", "end", "rejected"),
}
HALF = {"kind": "equity", "fraction": 0.5}
CALLS = [
    {"action": "top_up", "threshold": 0.3, "target": 0.15, "max_calls": 3},
    {"action": "deleverage", "threshold": 0.3, "fraction": 0.5, "max_calls": 3},
    "none",
]
SWINGS = {"capital": 1000, "leverage": [5, 20], "sizing": HALF, "margin_call": CALLS}


def turns(*, bars: int = 7) -> dict[str, pl.Expr]:
    """Long at even, short at odd multiples of `bars`; out half-way."""
    number = pl.int_range(pl.len())
    step, leave = number // bars, number % bars == bars - 2
    return {
        "long_entry": (number % bars == 0) & (step % 2 == 0),
        "short_entry": (number % bars == 0) & (step % 2 == 1),
        "long_exit": leave,
        "short_exit": leave,
    }


@pytest.fixture(scope="module")
def market() -> pl.DataFrame:
    return two_symbols(900, mark=True, funding=True)


@pytest.fixture(scope="module")
def result(market: pl.DataFrame) -> Result:
    """Door two, with margin calls, both sides, and equity curves."""
    return perpbt.backtest(
        market,
        [{"name": "hold"}, turns],
        [{**SWINGS, "reentry": {"cool_down": "5m"}}, {"leverage": 2000}],
        offsets=3,
        open_interest=1e7,
        crowding=True,
        equity_every="1h",
    )


# ------------------------------------------------------------------------------------- columns and order
def test_columns_and_types_are_those_documented(result: Result) -> None:
    assert dict(result.accounts.schema) == ACCOUNTS
    assert dict(result.fund.schema) == FUND
    assert dict(result.statistics.schema) == STATISTICS
    assert result.equity is not None
    assert dict(result.equity.schema) == {"time": TIME, "account": pl.Int64, "equity": pl.Float64}
    prices = {"ts": TIME, "symbol": pl.String} | dict.fromkeys(("open", "high", "low", "close"), pl.Float64)
    assert dict(result.prices.schema) == prices
    assert {"policy", "leverage", "stop_kind", "stop_value", "stop"} <= set(result.policies.columns)


@pytest.mark.parametrize(("table", "schema"), [("accounts", ACCOUNTS), ("fund", FUND)])
def test_every_column_is_in_the_docstring(table: str, schema: dict[str, Any]) -> None:
    documented = " ".join((Result.__doc__ or "").split()).replace(".", " ").replace(",", " ").split()
    assert set(schema) <= set(documented)


@pytest.mark.parametrize("rows", [1, 600])
def test_types_do_not_depend_on_what_happens(rows: int) -> None:
    """Nothing opened, everything refused, one bar: the same columns of the same types."""
    bars = made_bars(rows)
    never = perpbt.backtest(bars, lambda: {}, {"leverage": [2, 3]})
    refused = perpbt.backtest(bars, "hold", {"leverage": 5000})
    for one in (never, refused):
        assert dict(one.accounts.schema) == ACCOUNTS
        assert dict(one.fund.schema) == FUND
        assert dict(one.statistics.schema) == STATISTICS
    assert refused.accounts.height == (rows > 1)
    assert set(refused.accounts["exit_reason"]) <= {"rejected"}


def test_a_refused_order_has_no_numbers(result: Result) -> None:
    refused = result.accounts.filter(pl.col("exit_reason") == "rejected")
    assert set(refused["rejection"]) == {"leverage_above_tier_maximum"}
    empty = list(ACCOUNTS)[list(ACCOUNTS).index("entry_price") :]
    for name in empty:
        wanted = 0 if name in ("exit_reason", "rejection") else refused.height
        assert refused[name].null_count() == wanted, name
    opened = result.accounts.filter(pl.col("exit_reason") != "rejected")
    assert opened["rejection"].null_count() == opened.height
    assert opened.drop("rejection").null_count().sum_horizontal().item() == 0


def test_rows_come_by_strategy_policy_symbol_start_and_position(result: Result) -> None:
    accounts = result.accounts
    assert accounts["account"].is_sorted()
    strategies = [one["label"] for one in result.metadata["strategies"]]
    policies = result.policies["policy"].to_list()
    order = accounts.select(
        pl.col("strategy").replace_strict({name: k for k, name in enumerate(strategies)}).alias("strategy"),
        pl.col("policy").replace_strict({name: k for k, name in enumerate(policies)}).alias("policy"),
        "symbol",
        "account",
        "position",
        "entry_time",
    )
    assert_frame_equal(order, order.sort(order.columns))
    for _, rows in accounts.group_by("account"):
        assert rows["position"].to_list() == list(range(1, rows.height + 1))
        assert rows["entry_time"].is_sorted()
    assert accounts["account"].n_unique() <= result.metadata["accounts"] == 2 * 7 * 2 * 3


def test_door_one_keeps_the_order_of_its_table(market: pl.DataFrame) -> None:
    table = many_positions().sample(fraction=1.0, shuffle=True, seed=5)
    found = perpbt.simulate(market, table).accounts
    assert found["account"].to_list() == table["account"].to_list()
    keys = ["strategy", "symbol", "side", "leverage", "collateral"]
    assert_frame_equal(found.select(keys), table.select(keys))
    twice = perpbt.simulate(market, table.with_columns(pl.col("account") % 2)).accounts
    for _, rows in twice.group_by("account", maintain_order=True):
        assert rows["position"].to_list() == list(range(1, rows.height + 1))


def many_positions() -> pl.DataFrame:
    """Positions of every kind on two symbols."""
    rows = [
        {
            "account": k,
            "strategy": ("one", "two")[k % 2],
            "symbol": ("AAA", "BBB")[k % 3 == 0],
            "side": ("long", "short")[k % 2],
            "entry_time": START + timedelta(minutes=7 * k),
            "collateral": 100.0 + k,
            "leverage": (2.0, 10.0, 50.0, 100.0)[k % 4],
            "stop_loss": (None, 0.02)[k % 5 == 0],
            "take_profit": (None, 0.03)[k % 7 == 0],
            "trailing_stop": (None, 0.04)[k % 6 == 0],
            "exit_time": START + timedelta(minutes=7 * k + 90) if k % 4 == 0 else None,
            "world": ("w", "v")[k % 3 == 0],
            "weight": 1.0 + k % 3,
        }
        for k in range(120)
    ]
    return pl.DataFrame(rows, schema_overrides={"entry_time": TIME, "exit_time": TIME})


# -------------------------------------------------------------------------------------------- identities
def identities(accounts: pl.DataFrame) -> None:
    """What must hold in every row of an accounts table."""
    assert set(accounts["exit_reason"]) <= REASONS
    for row in accounts.filter(pl.col("rejection").is_null()).iter_rows(named=True):
        sign = 1.0 if row["side"] == "long" else -1.0
        gross = abs(row["pnl"]) + abs(row["cash_change"]) + row["fees"] + row["collateral"] + row["top_up"]
        came = row["cash_change"] + row["fees"] + row["liquidation_fee"] + row["surplus"] - row["deficit"]
        assert abs(came - (row["pnl"] + row["funding"])) <= 1e-12 * gross
        assert row["total_return"] == row["cash_change"] / (row["collateral"] + row["top_up"])
        assert row["bankruptcy_price"] == row["entry_price"] - sign * (row["margin"] / row["quantity"])
        assert sign * row["liquidation_price"] >= sign * row["bankruptcy_price"]
        assert min(row["fees"], row["liquidation_fee"], row["surplus"], row["deficit"], row["top_up"]) >= 0
        assert row["total_return"] >= -1.0 - 1e-12, "an isolated position loses its margin and no more"
        assert 0.0 <= row["max_drawdown"] <= 1.0 + 1e-12 or row["deficit"] > 0
        assert row["exit_time"] >= row["entry_time"]
        assert (row["worst_margin_ratio"] >= 1.0) == (row["exit_reason"] == "liquidation")
        if row["exit_reason"] != "liquidation":
            assert row["liquidation_fee"] == row["surplus"] == 0.0
        if row["deficit"] > 0.0 and row["exit_reason"] == "liquidation":
            assert row["liquidation_fee"] == row["surplus"] == 0.0


def test_identities_of_every_row(result: Result, market: pl.DataFrame) -> None:
    identities(result.accounts)
    given = perpbt.simulate(market, many_positions()).accounts
    identities(given)
    reasons = Counter(given["exit_reason"])
    assert {"liquidation", "stop_loss", "take_profit", "trailing_stop", "time", "end"} <= set(reasons)
    assert (result.accounts["top_up"] > 0).any(), "margin was topped up"
    reasons = Counter(result.accounts["exit_reason"])
    assert {"liquidation", "signal", "end", "rejected"} <= set(reasons)


def test_the_ledger_and_the_statistics_add_up(result: Result) -> None:
    assert result.fund["time"].is_sorted()
    for (_, _), rows in result.fund.group_by("world", "symbol"):
        balance = 0.0
        for number, row in enumerate(rows.iter_rows(named=True)):
            if number == 0:
                assert row["liquidation_fees"] == row["surplus"] == row["fee_share"] == row["deficit"] == 0.0
                balance = result.metadata["fund"]["seed"]
            flow = row["liquidation_fees"] + row["surplus"] + row["fee_share"] - row["deficit"]
            balance += flow + row["uncovered"]
            assert row["balance"] == pytest.approx(balance, rel=1e-9, abs=1e-6)
            assert row["balance"] >= 0.0
            assert 0.0 <= row["uncovered"] <= row["deficit"]
    total = result.statistics.row(-1, named=True)
    assert (total["strategy"], total["policy"], total["symbol"]) == ("all", "all", "all")
    opened = result.accounts.filter(pl.col("rejection").is_null())
    assert total["positions"] == opened.height
    assert total["rejected"] == result.accounts.height - opened.height
    assert total["liquidated"] == (opened["exit_reason"] == "liquidation").sum()
    deficit = math.fsum((opened["deficit"] * opened["weight"]).to_list())
    assert total["deficit"] == pytest.approx(deficit, rel=1e-12)
    assert math.fsum(result.fund["deficit"].to_list()) == pytest.approx(deficit, rel=1e-12)


# ------------------------------------------------------------------------------------------ equity curves
def equity_at(row: dict[str, Any], frame: pl.DataFrame, bar: int, times: list[datetime]) -> float:
    """What one position without margin calls has changed its account's equity by at the close of a bar."""
    entry, gone = times.index(row["entry_time"]), times.index(row["exit_time"])
    if bar < entry:
        return 0.0
    if bar >= gone:
        return float(row["cash_change"])
    sign = 1.0 if row["side"] == "long" else -1.0
    signed = sign * row["quantity"]
    charged = frame[entry + 1 : bar + 1].filter(pl.col("funding_rate").is_not_null())
    paid = signed * float((charged["funding_rate"] * charged["mark_open"]).sum())
    mark = float(frame["mark_close"][bar])
    return float(row["margin"] + signed * (mark - row["entry_price"]) - paid - row["collateral"])


def sampled_bars(times: list[datetime]) -> dict[datetime, int]:
    """The last bar of every hour, by the hour's end."""
    hours = [time.replace(minute=0) + timedelta(hours=1) for time in times]
    return {hour: bar for bar, hour in enumerate(hours)}


def test_equity_curves_without_margin_calls(result: Result, market: pl.DataFrame) -> None:
    """Recomputed from rows and bars, position by position, for accounts that re-enter many times."""
    plain = result.accounts.filter(
        pl.col("policy").str.contains("margin_call=none"),
        pl.col("leverage") < 100,
        pl.col("strategy") == "turns",
    )
    assert plain["account"].n_unique() == 2 * 2 * 3
    assert plain.height > 100
    assert (plain["exit_reason"] == "liquidation").any()
    for (account, symbol), rows in plain.group_by("account", "symbol", maintain_order=True):
        frame = perpbt.load_bars(market).collect(str(symbol)).frame
        times = frame["ts"].to_list()
        curve = result.equity.filter(pl.col("account") == account)  # type: ignore[union-attr]
        expected = {
            hour: 1000.0 + sum(equity_at(row, frame, bar, times) for row in rows.iter_rows(named=True))
            for hour, bar in sampled_bars(times).items()
        }
        assert curve["time"].to_list() == list(expected)
        assert curve["equity"].to_list() == pytest.approx(list(expected.values()), rel=1e-9)


def test_equity_curves_with_margin_calls() -> None:
    """One long whose price falls for an hour, then recovers: topped up, or half of it sold; by hand."""
    closes = [100.0 - 0.1 * min(k, 65) + 0.05 * max(k - 65, 0) for k in range(130)]
    opens = [100.0, *closes[:-1]]
    bars = made_bars(130).with_columns(
        open=pl.Series(opens),
        close=pl.Series(closes),
        high=pl.max_horizontal(pl.Series(opens), pl.Series(closes)),
        low=pl.min_horizontal(pl.Series(opens), pl.Series(closes)),
    )
    free = perpbt.Venue(name="free", tiers={"default": [[0.0, 1e9, 0.01, 100.0]]})
    once = {"max_calls": 1, "threshold": 0.2}
    calls = [{"action": "top_up", "target": 0.1, **once}, {"action": "deleverage", "fraction": 0.5, **once}]
    policies = {"leverage": 10, "capital": 1000, "sizing": HALF, "max_trades": 1, "margin_call": calls}
    found = perpbt.backtest(bars, "hold", policies, venue=free, equity_every="1h")
    quantity, entry = 500 * 10 / opens[1], opens[1]
    margin = quantity * entry / 10
    equity = [margin + quantity * (close - entry) for close in closes]
    called = next(k for k in range(1, 130) if quantity * closes[k] * 0.01 >= 0.2 * equity[k])
    assert 1 < called < 59
    top_up, sold = found.accounts.rows(named=True)
    assert top_up["top_up"] == pytest.approx(quantity * closes[called] * 0.01 / 0.1 - equity[called])
    assert found.equity is not None
    for row, left in ((top_up, 1.0), (sold, 0.5)):
        curve = found.equity.filter(pl.col("account") == row["account"])
        assert curve["time"].to_list() == [START + timedelta(hours=hour) for hour in (1, 2, 3)]
        gained = [
            quantity * (opens[called + 1] - entry) * (1 - left)
            + quantity * left * (closes[bar] - entry)
            for bar in (59, 119, 129)
        ]  # fmt: skip
        assert curve["equity"].to_list() == pytest.approx([1000 + one for one in gained], rel=1e-12)
        assert curve["equity"][-1] == pytest.approx(1000 + row["cash_change"], rel=1e-12)
    assert sold["top_up"] == 0.0
    assert sold["exit_reason"] == top_up["exit_reason"] == "end"


def test_equity_of_given_positions_adds_up_by_account(market: pl.DataFrame) -> None:
    table = many_positions().with_columns(pl.col("account") // 2)
    found = perpbt.simulate(market, table, equity_every="1d")
    assert found.equity is not None
    assert found.equity["time"].n_unique() == 1
    last = found.equity.group_by("account", maintain_order=True).agg(pl.col("equity").last())
    worth = found.accounts.group_by("account", maintain_order=True).agg(
        equity=(pl.col("collateral") + pl.col("cash_change").fill_null(0.0)).sum()
    )
    assert_frame_equal(last, worth.sort("account"))


def test_without_asking_there_are_no_curves(market: pl.DataFrame) -> None:
    assert perpbt.simulate(market, many_positions()).equity is None


# ------------------------------------------------------------------------------------------------- notes
@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda frame: frame.drop(pl.col("^mark_.*$")), "AAA: no mark price; mark = last on every bar"),
        (
            lambda frame: with_value(frame, 5, mark_open=None, mark_high=None, mark_low=None, mark_close=None),
            "AAA: mark = last on 1 of 60 bars, which have no mark",
        ),
        (lambda frame: frame.drop("funding_rate"), "AAA: no funding events; none is charged"),
        (
            lambda frame: frame.drop("volume"),
            "AAA: no volume; liquidations slip by the flat 0.0002",
        ),
        (
            lambda frame: frame.filter(~pl.int_range(pl.len()).is_in([10, 11, 30])),
            "AAA: 3 bars missing in 2 gaps; positions live on across them",
        ),
        (lambda frame: frame, "AAA: venue binance_um lists no tiers for it; its default tiers apply"),
    ],
)  # fmt: skip
def test_what_data_lack_is_noted(change: Any, note: str) -> None:
    complete = made_bars(60, mark=True, funding=True)
    table = many_positions().filter(pl.col("symbol") == "AAA").head(4)
    notes = perpbt.simulate(change(complete), table).metadata["notes"]
    assert note in notes
    if not note.startswith("AAA: venue"):
        assert note not in perpbt.simulate(complete, table).metadata["notes"]


def test_refused_and_early_orders_are_noted() -> None:
    table = many_positions().filter(pl.col("symbol") == "AAA").head(4)
    early = table.with_columns(pl.col("entry_time") - timedelta(days=1), leverage=pl.lit(9999.0))
    notes = perpbt.simulate(made_bars(60), early).metadata["notes"]
    assert "AAA: 4 entries lie before the first bar and are filled at its open" in notes
    assert "4 of 4 orders were refused: 4 leverage above tier maximum on AAA" in notes


def test_metadata_are_json_and_name_what_ran(result: Result) -> None:
    found = json.loads(json.dumps(result.metadata, default=str, allow_nan=False))
    assert found["symbols"]["AAA"] == {
        "bars": 900,
        "first": str(START),
        "last": str(START + timedelta(minutes=899)),
        "bar_seconds": 60.0,
        "missing_bars": 0,
        "mark": "full",
        "funding_events": 113,
        "volume": True,
        "sources": {"last": "file", "mark": "file", "index": "none", "funding": "file"},
    }
    assert found["positions"] == result.accounts.height
    assert found["worlds"] == 14
    assert found["fund"]["scope"] in ("symbol", "pooled")
    money = found["money"]
    gave = money["price_pnl"] + money["funding"]
    came = money["traders"] + money["venue_fees"] + money["fund_change"] - money["uncovered"]
    assert came == pytest.approx(gave, rel=1e-9)


def test_prices_are_thinned_without_losing_extremes() -> None:
    bars = made_bars(4500)
    found = perpbt.backtest(bars, "hold").prices
    assert found.height == 1500
    assert found["high"].max() == bars["high"].max()
    assert found["low"].min() == bars["low"].min()
    assert found["open"][0] == bars["open"][0]
    assert found["close"][-1] == bars["close"][-1]
    assert perpbt.backtest(bars.head(2000), "hold").prices.height == 2000


# ------------------------------------------------------------------------------------------------- files
def test_written_tables_read_back_the_same(result: Result, tmp_path: Path) -> None:
    place = result.write(tmp_path / "deep" / "one", report=False)
    assert place == tmp_path / "deep" / "one"
    for name in ("accounts", "fund", "statistics", "policies", "equity"):
        assert_frame_equal(pl.read_parquet(place / f"{name}.parquet"), getattr(result, name))
    told = json.loads((place / "run.json").read_text())
    assert told["positions"] == result.accounts.height
    assert sorted(path.name for path in place.iterdir()) == [
        "accounts.parquet",
        "equity.parquet",
        "fund.parquet",
        "policies.parquet",
        "run.json",
        "statistics.parquet",
    ]
    assert place.stat().st_mode & 0o777 == 0o755, "others may read it"
    assert [path.name for path in place.parent.iterdir()] == ["one"]


def test_accounts_are_written_while_the_rest_is_made(
    market: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def noted(table: pl.DataFrame, path: Path) -> None:
        written.append(path.name)
        write_table(table, path)

    monkeypatch.setattr("perpbt.result.write_table", noted)
    for name, others in (("same", False), ("others", True)):
        written.clear()
        with Begun(tmp_path) as begun:
            result = perpbt.backtest(
                market, "hold", {"leverage": [2, 20]}, offsets=9, on_accounts=begun.accounts
            )
            assert begun.has(result.accounts)
            if others:  # what was begun is not what is asked for any more
                result.accounts = result.accounts.head(3)
            result.write(tmp_path / name, report=False, begun=begun)
        assert written.count("accounts.parquet") == 1 + others
        assert_frame_equal(pl.read_parquet(tmp_path / name / "accounts.parquet"), result.accounts)
        modes = {path.stat().st_mode for path in (tmp_path / name).glob("*.parquet")}
        assert len(modes) == 1
    with Begun(tmp_path) as begun:  # a run that comes to nothing
        begun.accounts(result.accounts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["others", "same"]
    with Begun(tmp_path / "absent") as begun:
        begun.accounts(result.accounts)
        with pytest.raises(RunError, match="could not be written"):
            result.write(tmp_path / "none", report=False, begun=begun)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["others", "same"]


def test_a_link_to_a_result_is_followed(result: Result, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    result.write(tmp_path / "link", report=False, accounts=False)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "run.json").is_file()
    assert not (tmp_path / "real" / "accounts.parquet").exists()


def test_the_report_of_a_result(result: Result, tmp_path: Path) -> None:
    place = result.report(tmp_path / "report.html", title="Two ways to trade")
    assert place == tmp_path / "report.html"
    assert "<title>Two ways to trade</title>" in place.read_text()


FREE = perpbt.Venue(name="free", tiers={"default": ((0.0, 1e9, 0.004, 125.0, 0.0),)})


def test_equity_of_an_account_on_symbols_with_different_histories() -> None:
    """The position whose bars begin later counts with its collateral from the start."""
    hour = timedelta(hours=1)
    start = datetime(2024, 1, 1, tzinfo=UTC)

    def bars(symbol: str, first: int) -> pl.DataFrame:
        times = [start + k * hour for k in range(first, 12)]
        price = {name: [100.0] * len(times) for name in ("open", "high", "low", "close")}
        return pl.DataFrame({"ts": times, "symbol": [symbol] * len(times), **price})

    accounts = pl.DataFrame(
        {
            "account": ["one", "one"], "strategy": ["s", "s"], "symbol": ["AAA", "BBB"], "side": ["long", "long"],
            "entry_time": [start, start + 5 * hour], "collateral": [100.0, 1000.0], "leverage": [2.0, 2.0],
        }
    )  # fmt: skip
    both = pl.concat([bars("AAA", 0), bars("BBB", 5)])
    result = perpbt.simulate(both, accounts, venue=FREE, equity_every="1h")
    assert result.equity is not None
    assert result.equity["time"].is_sorted()
    assert result.equity["equity"].to_list() == [1100.0] * 12


def test_equity_ends_where_the_crowd_left_the_account() -> None:
    """Curves are drawn after liquidations are filled against their crowd."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    price = {"open": [100.0, 100.0, 92.0], "high": [100.0, 100.0, 92.0]}
    price |= {"low": [100.0, 85.0, 92.0], "close": [100.0, 92.0, 92.0], "volume": [1000.0] * 3}
    bars = pl.DataFrame(
        {"ts": [start + timedelta(minutes=k) for k in range(3)], "symbol": ["AAA"] * 3, **price}
    )
    accounts = pl.DataFrame(
        {
            "account": ["a", "b"], "strategy": ["s"] * 2, "symbol": ["AAA"] * 2, "side": ["long"] * 2,
            "entry_time": [start] * 2, "collateral": [100.0] * 2, "leverage": [10.0] * 2, "weight": [1.0, 30.0],
        }
    )  # fmt: skip
    venue = perpbt.Venue(
        name="v",
        tiers={"default": ((0.0, 1e9, 0.02, 125.0, 0.0),)},
        impact=0.05,
        half_spread=1e-4,
        surplus_to_fund=0.2,
    )
    result = perpbt.simulate(bars, accounts, venue=venue, crowding=True, equity_every="1m")
    assert result.equity is not None
    last = result.equity.group_by("account").agg(pl.col("equity").last()).sort("account")["equity"]
    assert result.accounts["exit_reason"].to_list() == ["liquidation"] * 2
    assert (last - (result.accounts["collateral"] + result.accounts["cash_change"])).abs().max() < 1e-9


def test_statistics_have_a_row_for_those_who_never_traded() -> None:
    def only_on_aaa() -> dict[str, pl.Expr]:
        return {"long_entry": pl.col("symbol") == "AAA"}

    result = perpbt.backtest(two_symbols(), only_on_aaa, {"leverage": [2, 3]}, offsets=2, venue=FREE)
    rows = result.statistics.filter(pl.col("symbol") == "BBB")
    assert rows["accounts"].to_list() == [2, 2]
    assert rows["positions"].to_list() == [0, 0]
    total = result.statistics.filter(pl.col("strategy") == "all")
    assert total["accounts"].to_list() == [8]


def test_a_refused_order_is_tried_again_and_told_once() -> None:
    """Mark far below last: every entry would be liquidated at once, until it is not."""
    bars = made_bars(40).with_columns(
        mark_open=pl.col("open"), mark_high=pl.col("high"), mark_low=pl.col("low"), mark_close=pl.col("close")
    )
    far = pl.int_range(pl.len()) < 20
    marks = [
        pl.when(far).then(pl.col(name) * 0.5).otherwise(pl.col(name)).alias(name)
        for name in bars.columns
        if "mark" in name
    ]
    result = perpbt.backtest(bars.with_columns(marks), "hold", {"leverage": 10, "max_trades": 1}, venue=FREE)
    assert result.accounts["rejection"].to_list() == ["liquidated_at_entry", None]
    assert result.accounts["position"].to_list() == [1, 2]


def test_a_folder_with_something_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    result = perpbt.backtest(made_bars(40), "hold", {"leverage": 2}, venue=FREE)
    target = result.write(tmp_path / "run", report=False)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(perpbt.InputError, match=r"holds 'notes\.txt', which no run writes"):
        result.write(target, report=False)
    assert (target / "notes.txt").read_text() == "mine"
    (target / "notes.txt").unlink()
    result.write(target, report=False)


@pytest.mark.parametrize("memory", [None, "16GiB"])
def test_a_result_shown_says_which_tables_it_has(memory: str | None) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    prices = [100.0, 101.0, 99.0, 100.0]
    bars = pl.DataFrame(
        {"ts": [start + timedelta(hours=k) for k in range(4)], "symbol": "AAA",
         "open": prices, "high": prices, "low": prices, "close": prices}
    )  # fmt: skip
    table = pl.DataFrame(
        {"account": ["a", "b", "c"], "strategy": "hand", "symbol": "AAA", "side": "long", "leverage": 5.0,
         "collateral": 10.0, "entry_time": start}
    )  # fmt: skip
    run = perpbt.simulate(bars, table, memory=memory)
    lines = repr(run).splitlines()
    assert lines[0] == "Result (engine 'skip')"
    assert lines[1].split() == ["accounts", "3", "rows,", str(len(run.accounts.columns)), "columns"]
    assert [line.split()[0] for line in lines[1:6]] == [
        "accounts", "fund", "statistics", "policies", "prices",
    ]  # fmt: skip
    assert [line.removeprefix("  note: ") for line in lines if line.startswith("  note: ")] == run.metadata[
        "notes"
    ]
    assert len(lines) < 20
