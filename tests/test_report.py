"""The report: one self-contained page whatever the result; figures that leave matplotlib alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib
import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure
from synthetic import METADATA, SYMBOLS, ledger, policy_table, row, synthetic_result, table

from perpbt import statistics
from perpbt.config import Policy, Reentry, as_policies
from perpbt.report import embed, figures, fund_figures, pictures, prose, tables, words, write_report
from perpbt.report.grouping import grouping
from perpbt.report.html import render
from perpbt.report.policies import policies_in_words
from perpbt.statistics import summarise

pytestmark = [pytest.mark.filterwarnings(f"error::{kind}") for kind in ("UserWarning", "RuntimeWarning")]
VOID = {"meta", "link", "img", "br", "hr", "input"}
PRICES = {"ts": pl.Datetime("ms", "UTC"), "symbol": pl.String} | dict.fromkeys(
    ("open", "high", "low", "close"), pl.Float64
)


class Page(HTMLParser):
    """Tags, ids and words of a page; fails on a tag closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def sections(self) -> list[str | None]:
        return [attributes.get("id") for tag, attributes in self.tags if tag == "section"]


def checked(text: str) -> Page:
    """The page, seen to be whole, self-contained and described."""
    page = Page(text)
    ids = Counter(attributes["id"] for _, attributes in page.tags if attributes.get("id"))
    assert [name for name, times in ids.items() if times > 1] == []
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base"), tag
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,")), attributes
        if (attributes.get("href") or "").startswith("#"):
            assert attributes["href"][1:] in ids
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "img":
            assert attributes["alt"]
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    for target in re.findall(r"url\(#?([^)]*)\)", text):
        assert target in ids
    assert "nan" not in page.text.lower().split()
    assert "None" not in page.text.split()
    return page


@pytest.fixture(scope="module")
def result():
    return synthetic_result(accounts=3_000, hours=5_000)


def by_hand(rows: list[dict], fund: list[dict] = (), policies: pl.DataFrame | None = None) -> SimpleNamespace:
    """A result of a few rows without prices."""
    accounts, kept = table(rows), ledger(fund)
    return SimpleNamespace(
        accounts=accounts,
        fund=kept,
        statistics=summarise(accounts, kept),
        policies=pl.DataFrame(schema={"policy": pl.String, "leverage": pl.Float64})
        if policies is None
        else policies,
        prices=pl.DataFrame(schema=PRICES),
        metadata={},
    )


def test_the_whole_page(result):
    page = checked(render(result))
    assert page.sections == [
        "result", "run", "grids", "defaults", "fund", "exits", "outcomes", "flows", "money", "machine",
    ]  # fmt: skip
    assert sum(tag == "svg" for tag, _ in page.tags) == 12
    for expected in (
        "Leverage against stop loss",
        "42 policies: leverage 2, 3, 5, 10, 20, 50 and 100; stop",
        "1 h bars of ADAUSDT, BNBUSDT, BTCUSDT, ETHUSDT and SOLUSDT, 2019-12-01 to 2021-07-06 07:00 (UTC).",
        "Inside a bar what hurts comes first",
        "scaled to a mean open interest of 250 M",
        "Accounts that share a price path are one observation",
        "SOLUSDT: no mark price; mark = last on every bar",
        "leverage brackets; older table",
        "12 Mar 2020",
    ):
        assert expected in page.text


def test_writing_is_atomic_and_repeatable(result, tmp_path):
    path = tmp_path / "report.html"
    assert write_report(result, path, title="A & B") == path
    first = path.read_bytes()
    assert b"<title>A &amp; B</title>" in first
    broken = SimpleNamespace(**vars(result) | {"accounts": result.accounts.drop("leverage")})
    with pytest.raises(pl.exceptions.PolarsError):
        write_report(broken, path)
    assert path.read_bytes() == first
    write_report(result, str(path), title="A & B")
    assert path.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_nothing_is_left_when_renaming_fails(result, tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OSError, match=r"report\.html"):
        write_report(result, tmp_path / "report.html")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


LIQUIDATED = {"exit_reason": "liquidation", "total_return": -1.0, "max_drawdown": 1.0}
EDGES = {
    "one account by hand": by_hand([row()]),
    "no liquidation": by_hand(
        [row(account=str(k), total_return=k / 9) for k in range(5)], [{"balance": 5.0}]
    ),
    "liquidations without defaults": by_hand(
        [row(**LIQUIDATED, surplus=3.0)], [{"surplus": 3.0, "balance": 8.0}]
    ),
    "a default without liquidation": by_hand(
        [row(exit_reason="stop_loss", deficit=2.0)], [{"deficit": 2.0, "uncovered": 2.0}]
    ),
    "no fund": by_hand([row(**LIQUIDATED, deficit=2.0)]),
    "only rejected": by_hand([row(exit_reason="rejected"), row(exit_reason="rejected", account="b")]),
    "no rows": by_hand([]),
    "one policy": by_hand(
        [row(policy="L10 stop none", leverage=10.0), row(policy="L10 stop none", exit_reason="rejected")],
        policies=policy_table([10.0], [None]),
    ),
    "a policy of which all is rejected": by_hand(
        [row(policy="L10 stop none"), row(policy="L20 stop none", leverage=20.0, exit_reason="rejected")],
        policies=policy_table([10.0, 20.0], [None]),
    ),
    "many leverages": by_hand([row(account=str(k), leverage=1.0 + k / 3, **LIQUIDATED) for k in range(300)]),
}


@pytest.mark.parametrize("name", EDGES)
def test_pages_at_the_edges(name):
    page = checked(render(EDGES[name]))
    assert ("grids" in page.sections) == (EDGES[name].policies.height > 0)
    assert ("defaults" in page.sections) == (name not in ("only rejected", "no rows"))
    if EDGES[name].policies.is_empty():
        assert "without a grid of policies: there are no heat maps" in page.text
    if name == "only rejected":
        assert "No position was opened; orders rejected: 2." in page.text
        assert "leverage above tier maximum: 2" in page.text
    if name == "no fund":
        assert "No fund was kept in this run." in page.text
    if name == "no liquidation":
        assert "No position was liquidated" in page.text
        assert "No deficit was drawn from any fund." in page.text
    if name == "many leverages":
        assert "rounded down to the step shown" in page.text


def test_names_from_outside_are_escaped():
    name = "<script>alert('x')</script> & \"q\""
    rows = [row(strategy=name, symbol=name, world=name, deficit=1.0)]
    result = by_hand(rows, [{"world": name, "symbol": name, "deficit": 1.0, "balance": 1.0}])
    result.metadata = {"notes": [name], "title": name, "engine": name, "venue": {"title": name}}
    result.prices = pl.DataFrame([[datetime(2020, 1, 1), name, *[1.0] * 4]], schema=PRICES, orient="row")
    page = checked(render(result))
    assert page.text.count(name) >= 6


def test_metadata_under_a_specification_is_found():
    result = by_hand([row()])
    result.metadata = {
        "spec": {"title": "From the spec", "data": {"path": "bars.parquet"}, "world": {"crowding": False}}
    }
    page = checked(render(result))
    assert "From the spec" in page.text
    assert "Bars of X from bars.parquet, positions from" in page.text
    assert "Crowding is off" in page.text


def test_worlds_that_strategies_share_are_drawn_once():
    labels = policy_table([10.0, 20.0], [None])
    rows = [row(account=p, policy=p, deficit=1.0) for p in labels["policy"]]
    result = by_hand(rows, [{"deficit": 2.0, "balance": 1.0}], labels)
    assert [view.labels for view in pictures.fund_views(result)] == [{"w": "w"}]


def test_fund_pictures_show_a_fund_per_leverage_and_the_worst_other(result):
    views = pictures.fund_views(result)
    assert len(views) == 2
    labels = list(views[0].labels.values())
    assert labels[:7] == ["2×", "3×", "5×", "10×", "20×", "50×", "100×"]
    assert "stop" in labels[7]
    assert list(views[0].dashed) == list(views[0].labels)[7:]


def test_heavy_pictures_become_png(result, monkeypatch):
    monkeypatch.setattr(embed, "SVG_LIMIT_BYTES", 1_000)
    page = checked(render(result))
    assert sum(tag == "img" for tag, _ in page.tags) == 12


def test_matplotlib_is_left_as_it_was(result):
    before = dict(matplotlib.rcParams)
    render(result)
    assert dict(matplotlib.rcParams) == before
    code = "import sys, perpbt.report; print('matplotlib.pyplot' in sys.modules, 'numba' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split()[0] == "False"


def test_figures_return_their_axes(result):
    statistic = statistics.grid(result.statistics, result.policies, "pd")
    path = statistics.fund_path(result.fund)
    world = path["world"][0]
    flows = statistics.flow_histogram(result.accounts)
    draws = statistics.draws_in_time(result.fund, result.accounts, every="1d")
    drawn = [
        lambda ax: figures.heat_map(statistic, ax, title="PD"),
        lambda ax: figures.heat_map(statistic, ax, title="PD", unit="money"),
        lambda ax: figures.fund_balances(path, ax, labels={world: "one"}, colours={world: "black"}),
        lambda ax: figures.fund_balances(path.clear(), ax, labels={world: "one"}, colours={world: "black"}),
        lambda ax: figures.fund_draws(draws, ax, every="1d"),
        lambda ax: figures.fund_draws(draws.clear(), ax, every="1d"),
        lambda ax: figures.draw_severity(draws, ax, every="1d"),
        lambda ax: figures.draw_severity(draws.clear(), ax, every="1d"),
        lambda ax: figures.price_paths(result.prices, ax),
        lambda ax: figures.survival_curves(statistics.survival(result.accounts), ax),
        lambda ax: figures.survival_curves(statistics.survival(result.accounts.clear()), ax),
        lambda ax: figures.return_fan(statistics.return_quantiles(result.accounts), ax),
        lambda ax: figures.return_fan(statistics.return_quantiles(result.accounts, by="symbol"), ax),
        lambda ax: figures.exit_reason_bars(statistics.exit_reasons(result.accounts, by="symbol"), ax),
        lambda ax: figures.flow_bars(flows, ax),
        lambda ax: figures.flow_tail(flows.clear(), ax),
        lambda ax: figures.liquidation_map(statistics.liquidations_in_time(result.accounts), ax),
    ]
    for draw in drawn:
        with figures.style():
            figure = Figure()
            ax = figure.subplots()
            assert draw(ax) is ax
            figure.draw_without_rendering()


def days(*stamps: tuple[int, int, int]) -> pl.Series:
    return pl.Series([datetime(*stamp, tzinfo=UTC) for stamp in stamps], dtype=pl.Datetime("ms", "UTC"))


def test_a_long_run_names_the_worst_window_of_every_year():
    times = days((2019, 10, 1), (2020, 3, 9), (2020, 12, 1), (2021, 5, 17), (2021, 5, 24), (2022, 6, 1))
    chosen = fund_figures.peaks(times, np.array([0.1, 3.0, 1.0, 9.0, 8.0, 0.0]), "1w")
    assert [f"{times[place]:%b %Y}" for place in chosen] == ["May 2021", "Mar 2020", "Oct 2019"]


def test_a_short_run_names_three_windows_apart():
    times = days(*((2024, 1, day) for day in (1, 2, 10, 11, 20, 30)))
    assert fund_figures.peaks(times, np.array([5.0, 4.0, 1.0, 2.0, 3.0, 0.5]), "1d") == [0, 4, 3]


def test_windows_have_round_lengths():
    start = datetime(2020, 1, 1)
    lengths = {
        days: fund_figures.window_length(start, start + timedelta(days=days)) for days in (0, 60, 1600, 9999)
    }
    assert list(lengths.values()) == ["1m", "6h", "1w", "4w"]


def test_severity_compares_crashes_of_unlike_markets_and_leaves_out_next_to_nothing():
    draws = pl.DataFrame(
        {
            "time": days((2020, 3, 9), (2021, 5, 17), (2021, 6, 1)),
            "world": ["w"] * 3,
            "deficit": [2.0, 20.0, 1e-6],
            "uncovered": [0.0] * 3,
            "notional": [50.0, 2000.0, 1e-6],
        }
    )
    found = fund_figures.severity(draws)
    assert found["severity"].to_list() == [0.04, 0.01]
    assert fund_figures.severity(draws.with_columns(deficit=0.0)).is_empty()
    assert fund_figures.largest_draws(draws).height == 3


def test_a_run_of_years_tells_the_worst_day_of_each():
    page = checked(
        render(synthetic_result(accounts=1_000, hours=16_000, leverages=(3.0, 10.0), stops=(None,)))
    )
    assert "The worst day of each year." in page.text
    assert page.text.count("Mar 2020") >= 2


@pytest.fixture(scope="module")
def one_leverage():
    return synthetic_result(accounts=600, hours=4_000, leverages=(20.0,))


def test_one_leverage_is_told_apart_by_stop(one_leverage):
    groups = grouping(one_leverage)
    assert groups.by == "stop loss"
    kinds = statistics.survival(groups.accounts, groups.by)["stop loss"].unique(maintain_order=True)
    assert kinds.to_list() == ["0.5%", "1%", "2%", "5%", "10%", "none"]
    page = checked(render(one_leverage))
    assert "Survival until liquidation by stop loss" in page.text
    view = pictures.fund_views(one_leverage)[0]
    assert list(view.labels.values()) == kinds.to_list()
    assert view.note.startswith("Strategy hold_long: one fund per stop loss, leverage 20×.")


@pytest.mark.parametrize(
    ("rows", "by"),
    [
        ([row(), row(leverage=2.0, symbol="Y")], "leverage"),
        ([row(), row(symbol="Y")], "symbol"),
        ([row(), row(symbol="Y", strategy="t")], "strategy"),
        ([row()], "leverage"),
        ([row(symbol=str(k)) for k in range(13)], "leverage"),
    ],
)
def test_accounts_are_told_apart_by_what_differs(rows, by):
    result = by_hand(rows)
    assert grouping(result).by == by
    checked(render(result))


FULL = {
    "policy": "p", "leverage": 2.0, "margin_buffer": 0.0, "capital": 100.0, "compounding": False,
    "sizing": "equity 100%", "take_profit": "none", "trailing_stop": None, "stop_trigger": "last",
    "trailing_trigger": "last", "take_profit_trigger": "last", "max_holding": "30d", "max_trades": None,
    "margin_call": "none", "reentry": "stop allowed, liquidation allowed, cool_down 0s", "stop": "2%",
    "stop_kind": "price", "stop_value": 0.02,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([{}], "One policy. It has: leverage 2, capital 100 an account, all equity in a position, stops watch the "
               "last price, held for at most 30d, re-entry at the next signal, stop loss 2%."),
        ([{"max_trades": 1, "stop": "none", "max_holding": "none", "sizing": "collateral 50"}],
         "One policy. It has: leverage 2, capital 100 an account, collateral 50 a position, at most 1 position an "
         "account, no stop loss."),
        ([{"compounding": True, "sizing": "risk 2%", "margin_buffer": 0.1, "trailing_stop": 0.05, "stop": "none",
           "take_profit": "4%", "max_holding": "none", "margin_call": "top_up 80% to 50% x3",
           "reentry": "stop never, liquidation never, cool_down 0s"}],
         "One policy. It has: leverage 2, margin 10.0 % above the initial margin, capital 100 an account, results "
         "carried into the next position, 2% of equity at risk to the stop, take profit 4%, trailing stop 5.00 %, "
         "trailing stops watch the last price, take-profits watch the last price, on a margin call top up 80% to "
         "50% x3, no re-entry after a stop or a liquidation, no stop loss."),
        ([{"leverage": 3.0, "reentry": "stop allowed, liquidation never, cool_down 4h"},
          {"reentry": "stop allowed, liquidation allowed, cool_down 1d"}],
         "2 policies: leverage 3 and 2; no re-entry after a liquidation, otherwise after 4h or re-entry 1d after a "
         "stop or a liquidation. In all of them: capital 100 an account, all equity in a position, stops watch the "
         "last price, held for at most 30d, stop loss 2%."),
    ],
)  # fmt: skip
def test_policies_are_told_in_words(changes, expected):
    policies = pl.DataFrame([FULL | change for change in changes], infer_schema_length=None)
    told = policies_in_words(policies)
    assert told == expected
    assert "_" not in told


def test_the_policy_labels_of_the_package_are_understood():
    rows = [policy.row() for policy in as_policies([Policy(), Policy(reentry=Reentry(after_stop="never"))])]
    told = policies_in_words(pl.DataFrame(rows, infer_schema_length=None))
    assert "re-entry at the next signal or no re-entry after a stop" in told
    assert "all equity in a position" in told
    assert "_" not in told


def test_what_liquidations_bring_and_cost_is_told():
    left = {"exit_reason": "liquidation", "weight": 2.0}
    rows = [
        row(liquidation_fee=500.0, **left),
        row(surplus=1.0, **left),
        row(deficit=30.0, **left),
        row(**left),
    ]
    (told,) = prose.flows(table(rows))
    assert told == (
        "Of 4 liquidations and other exits below zero, 1 (25.0 %) paid the fund a liquidation fee, 1 (25.0 %) left a "
        "surplus beyond it, 1 (25.0 %) a deficit, and 1 (25.0 %) nothing. In money, times the positions' weights: "
        "fees 1.00 k, surplus 2.00, deficit 60.0. The fee took nearly all that liquidations left, so that next to "
        "nothing became surplus."
    )
    assert prose.flows(table([row()])) == ["No position was liquidated, and none ended below zero."]


def test_long_tables_are_folded(result):
    page = render(result)
    assert page.count("<details>") == 4
    assert "<summary>By leverage and stop loss, over all strategies and symbols: 42 rows.</summary>" in page
    assert not tables.group_table(result, "symbol").folded


def test_a_draw_is_never_thinned_away():
    from perpbt.report.fund_figures import _thinned

    balances = [100.0] * 20_000
    balances[12_345] = 0.0
    path = pl.DataFrame({"time": range(20_000), "balance": balances})
    kept = _thinned(path)
    assert kept.height < 2_000
    assert kept.filter(pl.col("balance") == 0.0)["time"].to_list() == [12_345]
    assert kept["time"].is_sorted()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (words.share(None), "–"),
        (words.share(float("nan")), "–"),
        (words.share(0.0), "0 %"),
        (words.share(1.0), "100 %"),
        (words.share(0.12345), "12.3 %"),
        (words.share(-0.0123), "−1.23 %"),
        (words.share(0.00012), "0.012 %"),
        (words.share(1e-9), "≈ 0 %"),
        (words.money(0.0), "0"),
        (words.money(-340.4), "−340"),
        (words.money(999.9), "1.00 k"),
        (words.money(1_234_567), "1.23 M"),
        (words.money(5e12), "5.00 T"),
        (words.money(None), "–"),
        (words.axis_money(20_000), "20 k"),
        (words.axis_share(0.001), "0.1 %"),
        (words.duration(timedelta(days=3, hours=4, minutes=5)), "3 d 4 h"),
        (words.duration(timedelta(0)), "0 s"),
        (words.duration(None), "–"),
        (words.listing([]), "none"),
        (words.listing("ab"), "a and b"),
        (words.listing(range(10), 3), "0, 1, 2 and 7 more"),
        (words.alternatives(["a"]), "a"),
        (words.alternatives("abc"), "a, b or c"),
        (words.plural(1, "account"), "1 account"),
        (words.plain(21_005_900.0), "21,005,900"),
        (words.plain(datetime(2020, 3, 12, 10)), "2020-03-12 10:00"),
        (words.plain({"a_b": [1, True, None, 0.5]}), "a b: 1, yes, –, 0.5"),
    ],
)
def test_words(text, expected):
    assert text == expected


def test_long_tables_say_what_they_leave_out(result, monkeypatch):
    monkeypatch.setattr(tables, "MOST_ROWS", 3)
    assert len(tables.policy_table(result).rows) == 3
    assert "the 3 largest deficits of 42 rows" in tables.policy_table(result).caption
    assert "the 3 largest deficits of 5" in tables.group_table(result, "symbol").caption


def test_many_symbols_show_those_that_lost_most(result, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_SYMBOLS", 2)
    lost = result.fund.group_by("symbol").agg(pl.col("deficit").sum()).sort("deficit", descending=True)
    assert pictures.drawn_symbols(result) == sorted(lost["symbol"][:2])
    assert set(SYMBOLS) == set(METADATA["symbols"])


def test_total_row_keeps_the_identity(result):
    row = prose.total(result)
    assert row["expected_loss"] == pytest.approx(row["pd"] * row["ead"] * row["lgd"], rel=1e-12)
    assert row["positions"] == result.accounts.height


@pytest.mark.slow
def test_a_report_of_many_accounts_stays_small(tmp_path):
    path = write_report(synthetic_result(accounts=200_000), tmp_path / "report.html")
    assert path.stat().st_size < 6_000_000
