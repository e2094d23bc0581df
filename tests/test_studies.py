"""Studies: found by name or path, settings checked, findings written whole, and every shipped one runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_bars import two_symbols
from typer.testing import CliRunner

import perpbt
from perpbt import cli
from perpbt.errors import InputError
from perpbt.studies import cascades, find_study
from perpbt.studies._outcomes import drawn_outcomes
from perpbt.studies._population import spread_positions
from perpbt.studies._survey import BANDS, leverages, survey_positions
from perpbt.summary import plain_table

SMALL = '''\
"""Count bars and draw them.

More words.
"""

import polars as pl
from matplotlib.figure import Figure

from perpbt.studies import Findings


def study(bars, progress, *, times: int = 2, names: tuple[str, ...] = ("a",)) -> Findings:
    table = bars.frame.group_by("symbol").len().sort("symbol").collect().with_columns(pl.col("len") * times)
    figure = Figure()
    figure.add_subplot().plot(table["len"].to_numpy())
    return Findings({"counts": table}, {"bars": figure}, "So many bars.\\n\\nAnd no more.", metadata={"who": names})
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with bars and a study of a user's own."""
    monkeypatch.chdir(tmp_path)
    two_symbols(300, mark=True, funding=True).write_parquet("bars.parquet")
    Path("small.py").write_text(SMALL)
    return tmp_path


def invoke(*arguments: str) -> tuple[int, str]:
    """What the command answers; a PerpbtError is what `main` turns into an exit code."""
    outcome = CliRunner().invoke(cli.app, list(arguments))
    if isinstance(outcome.exception, perpbt.PerpbtError):
        return outcome.exception.exit_code, str(outcome.exception)
    return outcome.exit_code, outcome.output


def test_a_file_of_your_own_is_run_and_written(folder: Path) -> None:
    code, said = invoke(
        "study", "small.py", "--data", "bars.parquet", "--set", "times=3", "--set", 'names=["b"]'
    )
    assert code == 0, said
    assert "Count bars and draw them" in said
    assert "So many bars." in said
    out = folder / "runs" / "small"
    assert sorted(path.name for path in out.iterdir()) == [
        "bars.png",
        "counts.parquet",
        "study.html",
        "study.json",
    ]
    assert pl.read_parquet(out / "counts.parquet")["len"].to_list() == [900, 900]
    record = json.loads((out / "study.json").read_text())
    assert record["settings"] == {"times": 3, "names": ["b"]}
    assert record["data_sha256"] == perpbt.load_bars("bars.parquet").fingerprint()
    page = (out / "study.html").read_text()
    for words in ("Count bars and draw them", "And no more.", "900", "<svg"):
        assert words in page


def test_the_same_study_writes_the_same_bytes(folder: Path) -> None:
    for name in ("one", "two"):
        assert invoke("study", "small.py", "--data", "bars.parquet", "--out", name, "-q")[0] == 0
    for path in (folder / "one").iterdir():
        assert path.read_bytes() == (folder / "two" / path.name).read_bytes(), path.name


def test_an_earlier_study_is_replaced_and_nothing_else(folder: Path) -> None:
    assert invoke("study", "small.py", "--data", "bars.parquet", "--out", "mine")[0] == 0
    assert invoke("study", "small.py", "--data", "bars.parquet", "--out", "mine")[0] == 0
    (folder / "mine" / "notes.txt").write_text("precious")
    code, said = invoke("study", "small.py", "--data", "bars.parquet", "--out", "mine")
    assert code == 2
    assert "notes.txt" in said
    assert (folder / "mine" / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("times=x",), "study small: parameter times = 'x': must be a valid integer (it is int)"),
        (("time=1",), "study small: parameter time = 1: unknown; did you mean 'times'? known: names, times"),
    ],
)
def test_a_wrong_setting_is_named(folder: Path, settings: tuple[str, ...], message: str) -> None:
    code, said = invoke("study", "small.py", "--data", "bars.parquet", *(f"--set={one}" for one in settings))
    assert (code, said) == (2, message)
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"starts": 0}, "parameter starts = 0: must be a whole number at least 1"),
        ({"leverages": []}, r"parameter leverages = \[\]: must hold at least one value"),
        ({"leverages": [3.0, -1.0]}, "parameter leverages = .*: must be a number above 0"),
        ({"holding": "week"}, "parameter holding = 'week': must be a duration such as"),
        ({"holding": "0s"}, "parameter holding = '0s': must be longer than 0s"),
    ],
)
def test_a_setting_of_a_shipped_study_out_of_range_is_named(setting: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        perpbt.run_study("liquidation_procedures", "sample", **setting)


def test_a_study_that_is_not_there(folder: Path) -> None:
    with pytest.raises(InputError, match=r"^study 'nothing': no file and no name of one"):
        find_study("nothing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "bad.py: a study needs a function study(bars, progress, *, ...)"),
        (
            "def study(prices): ...",
            "bad.py: study(prices, ...): its first parameters must be bars and progress",
        ),
        ("def study(bars, progress, *, a): ...", "study bad: study(a): every parameter needs a default"),
        ("import nowhere_at_all", "bad.py: ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ],
)
def test_a_file_that_is_no_study(folder: Path, text: str, message: str) -> None:
    Path("bad.py").write_text(text)
    with pytest.raises(InputError) as error:
        find_study("bad.py")
    assert str(error.value) == message


def test_positions_are_spread_over_each_symbols_own_history(folder: Path) -> None:
    bars = perpbt.load_bars("bars.parquet")
    table = spread_positions(bars, leverages=(5, 10), starts=3, sides=("long",))
    assert table.height == 2 * 3 * 2
    first = bars.frame.select(pl.col("ts").min()).collect().item()
    assert table["entry_time"].min() == first
    assert table["account"].n_unique() == table.height
    assert perpbt.simulate(bars, table, tiers_as=dict.fromkeys(bars.symbols, "BTCUSDT")).accounts.height == 12


def test_the_survey_population_has_the_published_leverages(folder: Path) -> None:
    """BitMEX, May 2018: four fifths of longs hold at most 54x, of shorts 47x; the means, not asked for, 29x and 26x."""
    shares = (np.arange(100_000) + 0.5) / 100_000
    for side, most, mean in (("long", 54.0, 29.0), ("short", 47.0, 26.0)):
        drawn = leverages(side, shares)
        assert np.quantile(drawn, 0.8) == pytest.approx(most, rel=1e-3)
        assert drawn.mean() == pytest.approx(mean, abs=1.0)
        assert 1.0 <= drawn.min() < drawn.max() <= 100.0
    bars = perpbt.load_bars("bars.parquet")
    first, last = (
        bars.frame.select(pl.col("ts").min().alias("a"), pl.col("ts").max().alias("b")).collect().row(0)
    )
    venue = perpbt.load_venue("binance_um")
    table = survey_positions(bars, venue, first=first, last=last, starts=50, holding=last - first, seed=1)
    assert table.height == 2 * 2 * 50
    assert table["leverage"].max() <= venue.max_leverage(2_000.0, "AAA")
    assert (table["leverage"] * table["collateral"]).to_numpy() == pytest.approx(2_000.0)
    assert set(table["policy"]) <= set(BANDS)


def test_the_picture_of_outcomes_shows_all_income_and_all_deficits() -> None:
    """A net flow of -30 after deficits of 100, of which 20 were not covered: 70 came in."""
    found = pl.DataFrame(
        {
            "rule": ["a"],
            "liquidated": [5],
            "defaulted": [2],
            "deficit": [100.0],
            "uncovered": [20.0],
            "net_fund_flow": [-30.0],
        }
    )
    bars = [patch.get_width() for patch in drawn_outcomes(found, "rule").axes[1].patches]
    assert bars == [70.0, -100.0]


def test_a_plain_table_says_every_number_in_few_characters() -> None:
    table = pl.DataFrame({"days": [float("inf"), float("nan"), 12_345.0, 0.25], "who": ["a", "b", None, "d"]})
    words = [line.split() for line in plain_table(table).splitlines()]
    assert words == [["who", "days"], ["a", "inf"], ["b", "-"], ["-", "12.3k"], ["d", "0.2500"]]


@pytest.mark.parametrize("name", perpbt.list_studies())
def test_every_shipped_study_answers_on_a_few_days_of_the_sample(name: str, tmp_path: Path) -> None:
    """With three starts where a study takes that many; it must find something, draw it, and say what it means."""
    bars = perpbt.load_bars("sample", start="2024-01-02", end="2024-01-06")
    small = {"starts": 3} if "starts" in find_study(name).parameters else {}
    found = perpbt.run_study(name, bars, **small)
    assert all(table.height for table in list(found.tables.values())[:1])
    assert found.figures
    assert len(found.text) > 40
    assert (found.write(tmp_path / "out") / "study.html").is_file()


def test_cascades_say_what_feedback_and_tiers_did() -> None:
    """A push that doubles a move of 1 %, and one of three times its volume that makes 11 % of 10 %: 2 % + 3 times 11 % over 1 % + 3 times 10 %."""
    pushed = pl.DataFrame(
        {"shock": [0.01, 0.1, 0.0], "displacement": [-0.01, 0.01, 0.02], "volume": [1.0, 3.0, 9.0]}
    )
    assert cascades.amplified(pushed) == pytest.approx(0.35 / 0.31)
    assert cascades.amplified(pushed.head(0)) is None
    accounts = pl.DataFrame(
        {
            "exit_reason": ["end", "liquidation", "rejected"], "weight": [1.0, 3.0, 1.0], "quantity": [1.0] * 3,
            "entry_price": [100.0] * 3, "liquidation_price": [99.0, 50.0, 99.0],
        }
    )  # fmt: skip
    assert cascades.near(accounts) == 0.25
    assert cascades.near(accounts.head(0)) is None


def test_a_clearing_houses_layers_are_told_day_by_day() -> None:
    """Of the study's shipped run: what each layer has used so far ends in its total, and no day uses more than is there."""
    found = perpbt.run_study(
        "when_the_fund_runs_dry", perpbt.load_bars("sample"), starts=40, policies=("bitmex",)
    )
    days, totals = found.tables["clearing_over_time"], found.tables["clearing"]
    keys = ["window", "netting", "layer"]
    ends = days.group_by(keys, maintain_order=True).agg(pl.col("used_so_far").last(), pl.col("used").sum())
    both = totals.join(ends.rename({"used": "summed"}), on=keys)
    assert both.height > 0
    assert (both["used"] - both["used_so_far"]).abs().max() == 0.0
    assert days.filter(
        (pl.col("layer") != "unpaid") & (pl.col("used") > pl.col("available") * (1 + 1e-12))
    ).is_empty()
    assert {"overshoot", "fairness_regret", "waves", "ptsr", "pmr", "cost"} <= set(
        found.tables["policies"].columns
    )
    assert any(name.startswith("clearing_") for name in found.figures)
