"""The venue room: files and their faults, brackets, the margin arithmetic against its definition."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perpbt.errors import InputError
from perpbt.venue import PACKAGED, Source, Venue, list_venues, load_venue
from perpbt.venue.brackets import Tier, ladder, maintenance

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = sorted(path.stem for path in PACKAGED.glob("*.toml"))
ROWS = [(0, 50_000, 0.004, 125), (50_000, 600_000, 0.005, 100), (600_000, 3_000_000, 0.0065, 75)]

SCALARS = """
title = "Test"
taker_fee = 0.0005
maker_fee = {value = 0.0002, source = "a page", as_of = 2024-10-24, note = "a remark"}
slippage = 0
liquidation_fee = 0.005
close_out_rate = 0
half_spread = 0
impact = 1
max_slippage = 0.1
maintenance_on = "mark"
surplus_to_fund = 1
fund_seed = 1000
fund_fee_share = 0
fund_scope = "symbol"
"""
TIERS = """
[tiers.default]
source = "a table"
as_of = 2024-10-24
brackets = [[0, 1000, 0.01, 50], [1000, 2000, 0.02, 25, 10]]
"""


def write(folder: Path, text: str, name: str = "test") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


# ----------------------------------------------------------------------------------- files and names


@pytest.mark.parametrize("name", SHIPPED)
def test_every_value_of_a_shipped_venue_has_a_source_and_a_date(name: str) -> None:
    venue = load_venue(name)
    values = set(Venue.model_fields) - {"name", "title", "tiers", "dated", "tables", "provenance"}
    assert venue.name == name
    assert venue.title
    assert venue.has_symbol("default")
    assert values | {f"tiers.{symbol}" for symbol in venue.tiers} <= set(venue.provenance)
    for table, entries in venue.tables.items():
        for key, entry in entries.items():
            for path in (
                [f"{table}.{key}.{one}" for one in entry] if isinstance(entry, dict) else [f"{table}.{key}"]
            ):
                places = {path, path.rpartition(".")[0]}  # stated at the value, or for its table as a whole
                assert places & set(venue.provenance), path
    assert all(entry.as_of for entry in venue.provenance.values())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_venue_is_described_with_all_its_numbers_and_sources(name: str) -> None:
    venue = load_venue(name)
    text = venue.describe()
    joined = " ".join(text.split())
    for key, entry in venue.provenance.items():
        assert key.rpartition(".")[2].partition("@")[0] in text
        assert " ".join(entry.source.split()) in joined
        assert str(entry.as_of) in text
    for symbol, tiers in venue.tiers.items():
        rule = venue.terms("maintenance", symbol)
        for tier in tiers:
            assert f"{tier.cap:,.10g}" in text
            assert f"{tier.deduction:,.10g}" in text or (rule is not None and rule.rule == "whole")
    assert max(map(len, text.splitlines())) <= 110


def test_all_venues_ship() -> None:
    assert set(list_venues()) >= {
        "binance_um", "binance_cm", "bybit_linear", "bybit_inverse", "okx", "bitmex", "deribit", "deribit_inverse", "kraken", "hyperliquid",
        "dydx", "drift", "gate",
    }  # fmt: skip
    assert "deduction" not in load_venue("bitmex").describe()


def test_both_venues_of_the_first_release_ship() -> None:
    assert {"binance_um", "bybit_linear"} <= set(list_venues())
    assert load_venue("binance_um").maintenance_on == "mark"
    assert load_venue("bybit_linear").maintenance_on == "entry"


def test_a_file_is_found_by_path_and_in_the_folder_venues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "venues").mkdir()
    path = write(tmp_path / "venues", SCALARS + TIERS, "mine")
    monkeypatch.chdir(tmp_path)
    by_name = load_venue("mine")
    assert by_name == load_venue(path) == load_venue(str(path)) == load_venue("venues/mine.toml")
    assert by_name.name == "mine"
    assert "mine" in list_venues()
    assert by_name.provenance["maker_fee"].source == "a page"
    assert by_name.brackets("ANY")[1] == Tier(1000.0, 2000.0, 0.02, 25.0, 10.0)


def test_a_venue_object_passes_through() -> None:
    venue = Venue(name="x", tiers={"default": ROWS})
    assert load_venue(venue) is venue


def test_a_name_that_two_files_have_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "venues").mkdir()
    write(tmp_path / "venues", SCALARS + TIERS, "binance_um")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="two files have this name"):
        load_venue("binance_um")


def test_importing_the_venue_stays_cheap() -> None:
    code = (
        "import perpbt.venue, sys; print([m for m in ('numba', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert done.stdout.strip() == "[]"


# -------------------------------------------------------------------------------------------- faults

BAD_FILES = [
    ("taker_fee = 0.0005", "taker_fee = 0.2", r"taker_fee = 0\.2: must be a number in \[0, 0\.1\]"),
    ("taker_fee = 0.0005", "taker_fee = -0.1", r"taker_fee = -0\.1: must be a number in \[0, 0\.1\]"),
    ("taker_fee = 0.0005", "taker_fee = nan", r"taker_fee = nan: must be a number in"),
    ("taker_fee = 0.0005", "taker_fee = true", r"taker_fee = True: must be a number in"),
    ("taker_fee = 0.0005", 'taker_fee = "5 bp"', r"taker_fee = '5 bp': must be a number in"),
    ("taker_fee = 0.0005", "taker_fees = 0.0005", r"taker_fees: unknown key, did you mean 'taker_fee'\?"),
    ("taker_fee = 0.0005", "", r"taker_fee: missing"),
    ("taker_fee = 0.0005", 'taker_fee = {source = "a"}', r"taker_fee\.value: missing"),
    ("taker_fee = 0.0005", "taker_fee = {value = 0, note = 'a'}", r"taker_fee\.source: missing"),
    (
        "taker_fee = 0.0005",
        "taker_fee = {value = 0, sourc = 'a', source = 'b'}",
        r"taker_fee\.sourc: unknown key, did you mean 'source'\?",
    ),
    (
        "taker_fee = 0.0005",
        "taker_fee = {value = 0, source = 'a', as_of = 2024}",
        r"taker_fee\.as_of = 2024: ",
    ),
    ("taker_fee = 0.0005", "taker_fee = ", r"not valid TOML: "),
    ("max_slippage = 0.1", "max_slippage = 1", r"max_slippage = 1: must be a number in \(0, 1\)"),
    ("impact = 1", "impact = inf", r"impact = inf: must be a number in \[0, inf\)"),
    ("fund_seed = 1000", "fund_seed = -1", r"fund_seed = -1: must be a number in \[0, inf\)"),
    ("surplus_to_fund = 1", "surplus_to_fund = 1.5", r"surplus_to_fund = 1\.5: must be a number in \[0, 1\]"),
    ('fund_scope = "symbol"', 'fund_scope = "all"', r"fund_scope = 'all': must be 'symbol' or 'pooled'"),
    (
        'maintenance_on = "mark"',
        'maintenance_on = "last"',
        r"maintenance_on = 'last': must be 'mark' or 'entry'",
    ),
    (
        "close_out_rate = 0",
        "close_out_rate = 0.985",
        r"tiers\.default\.brackets\[1\]\.rate = 0\.02: must stay below 1 together with close_out_rate",
    ),
    ("[0, 1000,", "[5, 1000,", r"tiers\.default\.brackets\[0\]\.floor = 5: must be 0"),
    ("[1000, 2000,", "[1001, 2000,", r"brackets\[1\]\.floor = 1001: must be 1000, the cap below"),
    ("[1000, 2000,", "[1000, 1000,", r"brackets\[1\]\.cap = 1000: must be above its floor 1000"),
    ("0.02, 25, 10", "0.005, 25", r"brackets\[1\]\.rate = 0\.005: must be at least 0\.01"),
    ("0.02, 25, 10", "1.0, 25", r"brackets\[1\]\.rate = 1: must be in \(0, 1\)"),
    ("0.02, 25, 10", "0.02, 60, 10", r"brackets\[1\]\.max_leverage = 60: must be at most 50"),
    ("0.02, 25, 10", "0.02, 0, 10", r"brackets\[1\]\.max_leverage = 0: must be above 0"),
    ("0.02, 25, 10", "0.02, 25, 11", r"brackets\[1\]\.deduction = 11: must be 10 = "),
    ("0.02, 25, 10", "0.02", r"brackets\[1\] = \[1000, 2000, 0\.02\]: must be \[floor, cap,"),
    ("0.02, 25, 10", "0.02, 'x', 10", r"brackets\[1\]\.max_leverage = 'x': must be a finite number"),
    (
        "brackets = [[0, 1000, 0.01, 50], [1000, 2000, 0.02, 25, 10]]",
        "",
        r"tiers\.default\.brackets: missing",
    ),
    ("[[0, 1000, 0.01, 50], [1000, 2000, 0.02, 25, 10]]", "[]", r"brackets = \[\]: must be a non-empty list"),
    (TIERS, "", r"tiers: missing"),
    ("[tiers.default]", "[provenance.taker_fee]", r"provenance: unknown key; sources stand at the values"),
]


@pytest.mark.parametrize(("good", "bad", "said"), BAD_FILES, ids=[bad or said for _, bad, said in BAD_FILES])
def test_a_fault_is_named_with_file_key_value_and_rule(
    tmp_path: Path, good: str, bad: str, said: str
) -> None:
    text = SCALARS + TIERS
    assert good in text
    path = write(tmp_path, text.replace(good, bad))
    with pytest.raises(InputError, match=said) as caught:
        load_venue(path)
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).splitlines())
    assert caught.value.exit_code == 2


def test_all_faults_are_said_at_once(tmp_path: Path) -> None:
    text = (SCALARS + TIERS).replace("taker_fee = 0.0005", "").replace("impact = 1", "impact = -1")
    path = write(
        tmp_path, text.replace('"symbol"', '"x"').replace("[0, 1000", "[1, 1000").replace("fund_seed", "seed")
    )
    with pytest.raises(InputError) as caught:
        load_venue(path)
    keys = [
        line.removeprefix(f"{path}: ").split(" ")[0].rstrip(":") for line in str(caught.value).splitlines()
    ]
    assert sorted(keys) == [
        "fund_scope",
        "fund_seed",
        "impact",
        "seed",
        "taker_fee",
        "tiers.default.brackets[0].floor",
    ]


def test_unknown_names_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"'binance': unknown venue, did you mean 'binance_um'\? known: .*bybit"
    ):
        load_venue("binance")
    with pytest.raises(InputError, match=r"absent\.toml: cannot be read"):
        load_venue(tmp_path / "absent.toml")
    with pytest.raises(InputError, match="cannot be read"):
        load_venue(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not valid TOML"):
        load_venue(binary)


def test_faults_of_a_venue_made_in_python_are_input_errors_too() -> None:
    with pytest.raises(InputError, match=r"venue 'x': taker_fee = 3: must be a number in \[0, 0\.1\]"):
        Venue(name="x", taker_fee=3, tiers={"default": ROWS})
    with pytest.raises(
        InputError, match=r"venue 'x': provenance\.taker: unknown key, did you mean 'taker_fee'\?"
    ):
        Venue(name="x", tiers={"default": ROWS}, provenance={"taker": Source(source="a")})
    with pytest.raises(InputError, match="tiers: missing"):
        Venue(name="x")


# ------------------------------------------------------------------------------------------- changes


def test_replace_checks_again_and_forgets_the_source_of_what_changed() -> None:
    venue = load_venue("binance_um")
    changed = venue.replace(taker_fee=0.001)
    assert changed.taker_fee == 0.001
    assert venue.taker_fee == 0.0005
    assert "taker_fee" not in changed.provenance
    assert changed.provenance["maker_fee"] == venue.provenance["maker_fee"]
    assert venue.replace() == venue
    with pytest.raises(InputError, match="taker_fee = 2"):
        venue.replace(taker_fee=2)
    with pytest.raises(InputError, match="did you mean 'taker_fee'"):
        venue.replace(takerfee=0.001)
    only_default = venue.replace(tiers={"default": ROWS})
    assert not [key for key in only_default.provenance if key.startswith("tiers.")]


def test_a_venue_is_frozen() -> None:
    venue = Venue(name="x", tiers={"default": ROWS})
    with pytest.raises(ValueError, match="frozen"):
        venue.taker_fee = 0.1


def test_tiers_as_lends_the_tiers_of_another_symbol() -> None:
    venue = load_venue("binance_um", tiers_as={"ALFAUSDT": "BTCUSDT", "BETAUSDT": "default"})
    assert venue.brackets("ALFAUSDT") == venue.brackets("BTCUSDT")
    assert venue.brackets("BETAUSDT") == venue.brackets("default") == venue.brackets("ELSEUSDT")
    assert venue.has_symbol("BETAUSDT")
    assert not venue.has_symbol("ELSEUSDT")
    assert "BTCUSDT" in venue.provenance["tiers.ALFAUSDT"].source
    with pytest.raises(InputError, match=r"tiers_as\.X = 'BTCUSD': unknown symbol, did you mean 'BTCUSDT'\?"):
        load_venue("binance_um", tiers_as={"X": "BTCUSD"})


def test_a_venue_without_default_refuses_symbols_it_does_not_list() -> None:
    venue = Venue(name="x", tiers={"BTCUSDT": ROWS})
    assert len(venue.brackets("BTCUSDT")) == 3
    with pytest.raises(InputError, match=r"venue 'x': tiers\.ETHUSDT: unknown symbol.* known: BTCUSDT"):
        venue.brackets("ETHUSDT")


# ----------------------------------------------------------------------------- further tables, dated tiers


def test_a_table_is_read_by_its_module_and_by_symbol(tmp_path: Path) -> None:
    text = """
    [maintenance]
    rule = {value = "size", source = "a page", as_of = 2024-10-24}
    per_unit = 0.00005
    [maintenance.SOL]
    source = "another page"
    per_unit = 0.000005
    """
    venue = load_venue(write(tmp_path, SCALARS + text + TIERS))
    assert venue.terms("maintenance").per_unit == 0.00005
    assert venue.terms("maintenance", "SOL").per_unit == 0.000005
    assert venue.terms("maintenance", "SOL").rule == "size"
    assert venue.provenance["maintenance.rule"].source == "a page"
    assert venue.provenance["maintenance.SOL"].source == "another page"
    assert "per_unit" in venue.describe()
    assert "maintenance of SOL" in venue.describe()
    made = Venue(
        name="test",
        tiers=venue.tiers,
        maintenance={"rule": "size", "per_unit": 5e-5, "SOL": {"per_unit": 5e-6}},
    )
    assert made.tables == venue.tables
    changed = venue.replace(maintenance={"rule": "size", "per_unit": 0.1})
    assert changed.terms("maintenance", "SOL").per_unit == 0.1
    assert "maintenance.rule" in changed.provenance
    assert "maintenance.per_unit" not in changed.provenance
    assert venue.replace(maintenance=None).terms("maintenance") is None
    assert (
        load_venue("binance_um").replace(maintenance={"SOL": {"rule": "whole"}}).terms("maintenance") is None
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[maintenance]\nrule = 'all'", r"maintenance\.rule = 'all': must be 'brackets', 'whole' or 'size'"),
        ("[maintenance]\nrules = 'whole'", r"maintenance\.rules: unknown key; did you mean 'rule'\?"),
        ("[maintenance]\nper_unit = 1", r"maintenance: per_unit: only with rule = \"size\""),
        ("[maintenance.BTC]\nper_unit = -1", r"maintenance\.BTC\.per_unit = -1: must be a number at least 0"),
        ("[maintenance]\nrule = {source = 'x'}", r"maintenance\.rule\.value: missing"),
        ("[[tiers.BTC]]\nbrackets = [[0, 1, 0.1, 5]]", r"tiers\.BTC\[0\]\.from: missing"),
        ("[maintenence]\nrule = 'whole'", r"maintenence: unknown table, did you mean 'maintenance'\?"),
        (
            "[[tiers.BTC]]\nfrom = 5\nbrackets = [[0, 1, 0.1, 5]]",
            r"tiers\.BTC\[0\]\.from = 5: must be a date",
        ),
        (
            "[[tiers.BTC]]\nfrom = 2024-01-01\nbrackets = [[0, 1, 0.1, 5]]\n[[tiers.BTC]]\nfrom = 2023-01-01\n"
            "brackets = [[5, 1, 0.1, 5]]",
            r"tiers\.BTC\[1\]\.brackets\[0\]\.floor = 5: must be 0",
        ),
    ],
)
def test_faults_in_tables_and_dated_tiers_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_venue(write(tmp_path, SCALARS + TIERS + text))


def test_a_venue_of_no_known_kind_is_refused() -> None:
    with pytest.raises(InputError, match="venue is of type int; allowed: a name"):
        load_venue(3)  # type: ignore[arg-type]


def test_a_value_where_a_table_belongs_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"liquidation = 'ladder': must be a table \[liquidation\]"):
        load_venue(write(tmp_path, "liquidation = 'ladder'\n" + SCALARS + TIERS))


def test_dated_tiers_follow_one_another(tmp_path: Path) -> None:
    text = """
    [[tiers.BTC]]
    from = 2024-01-01
    source = "later"
    brackets = [[0, 1000, 0.02, 20]]
    [[tiers.BTC]]
    from = 2022-04-16
    source = "earlier"
    brackets = [[0, 1000, 0.01, 50]]
    """
    venue = load_venue(write(tmp_path, SCALARS + TIERS + text))
    days = [str(since)[:10] for since, _ in venue.schedule("BTC")]
    assert days == ["2022-04-16", "2024-01-01"]
    assert venue.brackets("BTC")[0].rate == 0.02 == venue.schedule("BTC")[1].tiers[0].rate
    assert [since for since, _ in venue.schedule("ETH")] == [None]
    assert venue.provenance["tiers.BTC@2022-04-16"].source == "earlier"
    assert "tiers of BTC from 2022-04-16" in venue.describe()
    assert venue.replace(taker_fee=0.001).dated == venue.dated
    assert venue.replace(taker_fee=0.001).provenance["tiers.BTC@2024-01-01"].source == "later"
    assert venue.replace(tiers={"default": ROWS}).dated == {}
    lent = load_venue(venue, tiers_as={"ETH": "BTC"})
    assert lent.schedule("ETH") == venue.schedule("BTC")


# ------------------------------------------------------------------------------------------ brackets


def test_shipped_deductions_are_those_of_the_file() -> None:
    """A published deduction is used as given, not recomputed."""
    raw = tomllib.loads((PACKAGED / "binance_um.toml").read_text(encoding="utf-8"))
    venue = load_venue("binance_um")
    for symbol, entry in raw["tiers"].items():
        assert [list(tier) for tier in venue.brackets(symbol)] == entry["brackets"]


def test_a_deduction_within_the_tolerance_is_used_as_given() -> None:
    given_ = ladder([(0, 1_000_000, 0.01, 50, 0), (1_000_000, 2_000_000, 0.02, 25, 10_000.009)])
    assert given_[1].deduction == 10_000.009
    with pytest.raises(ValueError, match=r"brackets\[1\]\.deduction = 10000\.02"):
        ladder([(0, 1_000_000, 0.01, 50, 0), (1_000_000, 2_000_000, 0.02, 25, 10_000.02)])


def test_the_tier_of_a_notional_includes_its_cap_and_excludes_its_floor() -> None:
    venue = Venue(name="x", tiers={"default": ROWS})
    assert venue.max_leverage(50_000) == 125
    assert venue.max_leverage(50_000.01) == 100
    assert venue.max_leverage(3_000_000) == 75
    for notional in (0, -1, 3_000_000.01, float("nan")):
        with pytest.raises(InputError, match=r"must be in \(0, 3000000\]"):
            venue.max_leverage(notional)


def test_real_tables_obey_the_recursion_and_are_continuous() -> None:
    """Every bracket of seven dated Binance snapshots, published deductions against the recursion."""
    folder = Path(os.environ.get("PERPBT_DATA", REPOSITORY.parent / "shared" / "data"))
    path = folder / "binance_leverage_tiers.parquet"
    if not path.exists():
        pytest.skip(f"no real tier tables: {path} is absent (set PERPBT_DATA)")
    tables = (
        pl.read_parquet(path)
        .sort("snapshot", "symbol", "tier")
        .group_by("snapshot", "symbol", maintain_order=True)
        .agg(pl.concat_list("min_notional", "max_notional", "mmr", "max_leverage", "cum").alias("rows"))
    )
    pairs = 0
    for rows in tables["rows"].to_list():
        published, computed = ladder(rows), ladder([row[:4] for row in rows])
        for mine, theirs in zip(computed, published, strict=True):
            assert mine.deduction == pytest.approx(theirs.deduction, rel=1e-9, abs=1e-6)
        for below, above in pairwise(published):
            left = below.cap * below.rate - below.deduction
            assert above.floor * above.rate - above.deduction == pytest.approx(left, rel=1e-9)
            assert maintenance(published, below.cap) == pytest.approx(left, rel=1e-9)
            pairs += 1
    assert pairs == 21_710


# --------------------------------------------------------------------- margin against its definition


@st.composite
def ladders(draw: st.DrawFn) -> list[tuple[float, float, float, float]]:
    """A valid table: 1 to 5 brackets, caps growing, rates rising to at most 0.6, leverage falling."""
    count = draw(st.integers(1, 5))
    rates = sorted(draw(st.lists(st.floats(0.001, 0.6), min_size=count, max_size=count)))
    steps = draw(st.lists(st.floats(1.5, 20), min_size=count, max_size=count))
    rows, floor, cap = [], 0.0, draw(st.floats(1e2, 1e6))
    for index, (rate, step) in enumerate(zip(rates, steps, strict=True)):
        rows.append((floor, cap, rate, 125.0 - index))
        floor, cap = cap, cap * step
    return rows


def venue_of(rows: list[Any], basis: str, close_out_rate: float) -> Venue:
    return Venue(name="x", tiers={"default": rows}, maintenance_on=basis, close_out_rate=close_out_rate)


POSITIONS: dict[str, Any] = {
    "venue": st.builds(
        venue_of, ladders(), st.sampled_from(["mark", "entry"]), st.sampled_from([0.0, 0.0006, 0.01])
    ),
    "side": st.sampled_from(["long", "short"]),
    "entry": st.floats(1e-3, 1e5),
    "notional": st.floats(10, 1e8),
    "leverage": st.floats(0.5, 125),
    "funding": st.floats(-0.05, 0.05),
}


def slack(venue: Venue, position: dict[str, Any], price: float) -> float:
    """Equity less requirement, from the definitions: zero at the liquidation price, negative beyond."""
    sign = 1.0 if position["side"] == "long" else -1.0
    size, entry = position["quantity"], position["entry_price"]
    equity = position["margin"] + sign * size * (price - entry) - sign * size * position["funding"]
    basis = price if venue.maintenance_on == "mark" else entry
    return float(equity - venue.maintenance_margin(size * basis) - venue.close_out_rate * size * price)


def position_of(
    side: str, entry: float, notional: float, leverage: float, funding: float
) -> tuple[dict[str, Any], float]:
    """The arguments of a price question, and the scale of money that rounding is measured against."""
    position = {
        "side": side,
        "entry_price": entry,
        "quantity": notional / entry,
        "margin": notional / leverage,
        "funding": funding * entry,
    }
    return position, notional + notional / leverage


@given(**POSITIONS)
def test_liquidation_price_solves_equity_equals_maintenance(
    venue: Venue, side: str, entry: float, notional: float, leverage: float, funding: float
) -> None:
    position, scale = position_of(side, entry, notional, leverage, funding)
    price = venue.liquidation_price(**position)
    if price <= 0.0:  # never: even a worthless coin leaves the position above its maintenance margin
        assert slack(venue, position, entry * 1e-12) > -1e-9 * scale
        return
    scale += position["quantity"] * price
    assert abs(slack(venue, position, price)) <= 1e-9 * scale
    # A step of the entry price: at leverage 1 a long's liquidation price is itself of the size of rounding.
    step = 1e-6 * entry if side == "long" else -1e-6 * entry
    assert slack(venue, position, price + step) > 0.0
    if price > step:  # else there is no price beyond
        assert slack(venue, position, price - step) < 0.0


@given(**POSITIONS)
def test_bankruptcy_price_solves_equity_equals_zero_beyond_liquidation(
    venue: Venue, side: str, entry: float, notional: float, leverage: float, funding: float
) -> None:
    position, scale = position_of(side, entry, notional, leverage, funding)
    price = venue.bankruptcy_price(**position)
    sign = 1.0 if side == "long" else -1.0
    pnl = sign * position["quantity"] * (price - entry - position["funding"])
    assert abs(position["margin"] + pnl) <= 1e-9 * (scale + position["quantity"] * abs(price))
    if price > 0.0:  # liquidation comes no later than bankruptcy
        assert sign * (venue.liquidation_price(**position) - price) >= -1e-9 * entry


@given(**POSITIONS)
def test_more_leverage_never_moves_liquidation_further_away(
    venue: Venue, side: str, entry: float, notional: float, leverage: float, funding: float
) -> None:
    mild, wild = (
        position_of(side, entry, notional, lever, funding)[0] for lever in (leverage, leverage * 1.5)
    )
    sign = 1.0 if side == "long" else -1.0
    assert sign * venue.liquidation_price(**wild) >= sign * venue.liquidation_price(**mild)


@given(rows=ladders(), notional=st.floats(0, 1e9))
def test_maintenance_margin_is_that_of_the_tier_holding_the_notional(
    rows: list[Any], notional: float
) -> None:
    venue = Venue(name="x", tiers={"default": rows})
    tiers = venue.brackets()
    held = next((tier for tier in tiers if notional <= tier.cap), tiers[-1])
    expected = notional * held.rate - held.deduction
    assert venue.maintenance_margin(notional) == pytest.approx(expected, rel=1e-9, abs=1e-9 * notional)
    assert 0.0 <= venue.maintenance_margin(notional) <= notional


BAD_QUESTIONS = [
    ({"side": "buy"}, r"side = 'buy': must be 'long' or 'short'"),
    ({"entry_price": 0.0}, r"entry_price = 0\.0: must be in \(0, inf\)"),
    ({"quantity": -1.0}, r"quantity = -1\.0: must be in \(0, inf\)"),
    ({"margin": float("nan")}, r"margin = nan: must be in \[0, inf\)"),
    ({"funding": float("inf")}, r"funding = inf: must be finite"),
]


@pytest.mark.parametrize(("change", "said"), BAD_QUESTIONS)
def test_price_questions_out_of_range_are_refused(change: dict[str, Any], said: str) -> None:
    venue = Venue(name="x", tiers={"default": ROWS})
    asked: dict[str, Any] = {
        "side": "long",
        "entry_price": 10.0,
        "quantity": 1.0,
        "margin": 1.0,
        "funding": 0.0,
    }
    for question in (venue.liquidation_price, venue.bankruptcy_price):
        with pytest.raises(InputError, match=said):
            question(**{**asked, **change})


def test_margins_out_of_range_are_refused() -> None:
    venue = Venue(name="x", tiers={"default": ROWS})
    with pytest.raises(InputError, match="notional = -1"):
        venue.maintenance_margin(-1)
    with pytest.raises(InputError, match="leverage = 0"):
        venue.initial_margin(100, 0)


def test_a_long_with_more_margin_than_notional_gets_the_raw_price() -> None:
    venue = Venue(name="x", tiers={"default": [(0, 1e9, 0.01, 100)]})
    asked: dict[str, Any] = {"side": "long", "entry_price": 100.0, "quantity": 1.0, "margin": 199.0}
    assert venue.liquidation_price(**asked) == pytest.approx(-100.0)
    assert venue.bankruptcy_price(**asked) == -99.0
