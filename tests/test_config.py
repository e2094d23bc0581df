"""Run specifications: files, names, overrides, faults, identity, schema; and those that are shipped."""

from __future__ import annotations

import ast
import json
import pickle
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from perpbt.config import (
    Duration,
    Offsets,
    PriceDistance,
    Rules,
    RunSpec,
    VenueSpec,
    json_schema,
    load_spec,
    parse_spec,
)
from perpbt.errors import InputError

STRATEGIES = Path(__file__).parents[1] / "strategies"
SPECS = sorted(path.stem for path in STRATEGIES.glob("*.toml"))
MINIMAL: dict[str, Any] = {"data": {"path": "sample"}, "strategy": [{"name": "hold"}]}


def spec_file(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


# ---- run specifications


def test_a_minimal_specification_takes_every_default() -> None:
    spec = parse_spec(MINIMAL)
    assert spec.venue == VenueSpec()
    assert spec.venue.overrides() == {}
    assert spec.rules == Rules()
    assert spec.offsets == Offsets(count=1)
    assert spec.world.open_interest is None
    assert not spec.world.crowding
    assert spec.strategy[0].label == "hold"
    assert spec.number_of_accounts(3) == 3


def test_only_given_venue_fields_are_overrides() -> None:
    spec = parse_spec({**MINIMAL, "venue": {"name": "x", "slippage": 0, "maintenance_on": "entry"}})
    assert spec.venue.overrides() == {"slippage": 0.0, "maintenance_on": "entry"}


def test_times_are_utc_from_all_that_toml_and_python_have() -> None:
    moment = datetime(2020, 3, 12, tzinfo=UTC)
    for text in ("2020-03-12", '"2020-03-12"', "2020-03-12T00:00:00Z", "2020-03-12T01:00:00+01:00"):
        data = tomllib.loads(f'path = "x"\nstart = {text}')
        assert parse_spec({**MINIMAL, "data": data}).data.start == moment


def test_open_interest_is_a_number_a_table_or_a_path() -> None:
    for interest in (1e9, {"BTCUSDT": 1e9}, "interest.parquet"):
        assert parse_spec({**MINIMAL, "world": {"open_interest": interest}}).world.open_interest == interest
    assert parse_spec({**MINIMAL, "world": {"open_interest": "none"}}).world.open_interest is None


def test_offsets_by_number_and_by_time() -> None:
    minutes = list(range(0, 600_000, 60_000))
    assert parse_spec({**MINIMAL, "offsets": 4}).offsets.starts(minutes) == [0, 2, 5, 7]
    assert parse_spec({**MINIMAL, "offsets": 40}).offsets.starts(minutes) == list(range(10))
    hourly = parse_spec({**MINIMAL, "offsets": "3m"}).offsets
    assert hourly.starts(minutes) == [0, 3, 6, 9]
    assert hourly.number(540_000) == 4
    gap = [0, 60_000, 600_000, 660_000]
    assert hourly.starts(gap) == [0, 2], "the starts an outage swallows are one, at its end"
    assert hourly.starts([]) == []
    with pytest.raises(InputError, match="depends on the length of the data"):
        hourly.number()


def test_all_faults_of_a_file_at_once(tmp_path: Path) -> None:
    path = spec_file(
        tmp_path,
        """
        polcy = 1
        offsets = 0
        threads = 0
        [data]
        start = "2021-13-01"
        symbols = [1]
        [venue]
        taker_fee = 2
        surplus_to_fund = 1.1
        [fund]
        seed = -1
        [world]
        open_interest = {BTCUSDT = -1}
        crowding = "yes"
        [rules]
        intrabar = "hopeful"
        [[strategy]]
        nme = "hold"
        params = {side = [1]}
        [policy]
        leverage = [2, -5]
        stop_loss = {atr = 2, window = 0}
        [output]
        equity_every = 5
        """,
    )
    with pytest.raises(InputError) as caught:
        load_spec(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: 18 errors\n")
    for line in (
        "polcy: unknown key; did you mean 'policy'?",
        "offsets = 0: must be a whole number at least 1",
        "threads = 0: must be a whole number at least 1",
        "data.path: is needed and absent",
        "data.start = '2021-13-01': must be a date or a time such as 2020-03-12",
        "data.symbols.0 = 1: must be a valid string",
        "venue.taker_fee = 2: must be a number at least 0 and below 1",
        "venue.surplus_to_fund = 1.1: must be a number at least 0 and at most 1",
        "fund.seed = -1: must be a number at least 0",
        "world.open_interest.BTCUSDT = -1: must be a number above 0",
        "world.crowding = 'yes': must be true or false",
        "rules.intrabar = 'hopeful': must be 'pessimistic' or 'optimistic'",
        "strategy.0.name: is needed and absent",
        "strategy.0.nme: unknown key; did you mean 'name'?",
        "strategy.0.params.side = [1]: must be a number, a string, true or false",
        "policy.leverage.1 = -5: must be a number above 0",
        "policy.stop_loss.window = 0: must be a whole number at least 1 and at most 10000",
        'output.equity_every = 5: must be a duration such as "90s"',
    ):
        assert f"\n  {line}" in text


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"strategy": [{"name": "hold"}, {"name": "hold"}]}, "label 'hold' occurs 2 times"),
        ({"strategy": []}, "strategy = .*must hold at least one value"),
        ({"offsets": {"count": 3, "every": "1d"}}, "either count .* or every"),
        ({"offsets": {}}, "either count .* or every"),
        (
            {"data": {"path": "x", "start": "2021-01-01", "end": "2021-01-01"}},
            "start = .* must be before end",
        ),
        ({"world": {"open_interest": {}}}, "open_interest"),
        ({"world": {"open_interest": True}}, 'open_interest = True: must be "none", a number above 0'),
        ({"data": "sample"}, "data = 'sample'"),
    ],
)
def test_bad_specifications(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_spec({**MINIMAL, **tables}, where="mine.toml")


def test_a_run_spec_made_in_python_raises_input_errors_too() -> None:
    fields: dict[str, Any] = {**MINIMAL, "theads": 2}
    with pytest.raises(InputError, match="theads: unknown key; did you mean 'threads'"):
        RunSpec(**fields)


# ---- files, names, overrides


def test_overrides_are_toml_values_or_bare_words() -> None:
    spec = load_spec(
        "leverage_vs_stop",
        [
            "policy.leverage=[3, 4]",
            "policy.stop_loss=0.03",
            "strategy.0.params.side=short",
            "strategy.0.label = 'first'",
            "world.crowding=false",
            "policy.max_holding=4h",
            "offsets=1d",
            "data.start=2024-01-02",
            "venue.slippage=1e-4",
            "output.equity_every=1h",
            "fund.seed=5",
        ],
        data="/elsewhere/bars.parquet",
    )
    made = spec.policy.expand()
    assert [p.leverage for p in made] == [3, 4]
    assert {p.stop_loss for p in made} == {PriceDistance(price=0.03)}
    assert {p.max_holding for p in made} == {Duration.parse("4h")}
    assert spec.strategy[0].params["side"] == "short"
    assert spec.strategy[0].label == "first"
    assert spec.world.crowding is False
    assert spec.offsets.every == Duration.parse("1d")
    assert spec.data.start == datetime(2024, 1, 2, tzinfo=UTC)
    assert spec.data.path == "/elsewhere/bars.parquet"
    assert spec.venue.overrides() == {"slippage": 1e-4}
    assert spec.output.equity_every == Duration.parse("1h")
    assert spec.fund.seed == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy.leverage", "must be key=value"),
        ("=3", "must be key=value"),
        ("policy..leverage=3", "must be key=value"),
        ("strategy.7.label=x", "strategy is a list; '7' must be a number from 0 to 0"),
        ("strategy.first.label=x", "strategy is a list; 'first' must be a number from 0 to 0"),
        ("policy.capital.sub=x", "policy.capital = 100 is not a table, so it has no key 'sub'"),
        ("policy.levrage=3", "policy.levrage: unknown key; did you mean 'leverage'"),
        ("polcy.leverage=3", "polcy: unknown key; did you mean 'policy'"),
        ("policy.leverage=high", "policy.leverage = 'high': must be a number above 0"),
        ("policy.leverage=3\ncapital=5", "must be a number above 0"),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_spec("leverage_vs_stop", [override])


def test_a_fault_in_what_was_set_names_what_was_set() -> None:
    given = "policy.leverage=[5, -20]"
    with pytest.raises(
        InputError, match=rf"leverage_vs_stop\.toml with {re.escape(given)}: policy\.leverage\.1 = -20"
    ):
        load_spec("leverage_vs_stop", [given])


@pytest.mark.parametrize("key", ["policy.compounding", "world.crowding", "output.accounts", "dynamic.floor"])
@pytest.mark.parametrize("value", ["yes", "1", '"true"'])
def test_a_switch_is_true_or_false(key: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"{re.escape(key)} = .*: must be true or false"):
        load_spec("leverage_vs_stop", [f"{key}={value}"])


@pytest.mark.parametrize("key", ["data", "fund", "rules"])
def test_a_table_is_a_table(key: str) -> None:
    with pytest.raises(InputError, match=rf"\b{key} = 3: must be a table of keys and values"):
        load_spec("leverage_vs_stop", [f"{key}=3"])


def test_files_that_are_not_there_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nor the name of one in .* did you mean 'leverage_vs_stop'"):
        load_spec("leverage_vs_stops")
    with pytest.raises(InputError, match=r"mine\.toml: not a readable TOML file: Invalid value"):
        load_spec(spec_file(tmp_path, "policy = ["))
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not a readable TOML file"):
        load_spec(tmp_path / "mine.toml")


def test_names_and_paths_are_found_from_here_and_from_the_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "strategies").mkdir(parents=True)
    there.mkdir()
    text = 'strategy = {name = "hold"}\n[data]\npath = "bars.parquet"\n'
    spec_file(here / "strategies", text)
    spec_file(there, text)
    (there / "bars.parquet").touch()
    (there / "part-1.parquet").touch()
    monkeypatch.chdir(here)
    assert load_spec("mine").name == "mine", "a folder named strategies in the working directory comes first"
    spec = load_spec(there / "mine.toml")
    assert spec.resolve(spec.data.path) == str(there / "bars.parquet")
    assert spec.resolve("part-*.parquet") == str(there / "part-*.parquet")
    assert spec.resolve(str(there / "bars.parquet")) == str(there / "bars.parquet")
    assert spec.resolve("sample") == "sample"
    (here / "bars.parquet").touch()
    assert spec.resolve("bars.parquet") == "bars.parquet"


# ---- identity and schema


def test_identity_ignores_the_order_of_keys_and_what_changes_no_number(tmp_path: Path) -> None:
    head = (
        'strategy = {name = "ma_cross", params = {fast = 2, slow = 3}}\ndata = {path = "x", symbols = "A"}\n'
    )
    tail = 'data = {symbols = ["A"], path = "x"}\nthreads = 2\ntitle = "other"\nengine = "oracle"\n'
    first = load_spec(spec_file(tmp_path, head + "policy = {leverage = [2, 3], stop_loss = 0.10}"))
    second = load_spec(
        spec_file(
            tmp_path,
            tail + 'strategy = [{params = {slow = 3, fast = 2}, name = "ma_cross"}]\n'
            "policy = {stop_loss = [{price = 0.1}], leverage = [3, 2.0]}",
        )
    )
    assert first.identity() == second.identity()
    assert len(first.identity()) == 64


@pytest.mark.parametrize(
    "override",
    [
        "policy.leverage=3",
        "policy.max_holding=3d1s",
        "offsets=65",
        "data.path=x",
        "world.crowding=false",
        "fund.seed=1",
        "rules.intrabar=optimistic",
        "venue.slippage=0",
        "strategy.0.label=x",
        "data.end=2030-01-01",
    ],
)
def test_identity_changes_with_whatever_can_change_a_number(override: str) -> None:
    assert load_spec("leverage_vs_stop", [override]).identity() != load_spec("leverage_vs_stop").identity()


@pytest.mark.parametrize("name", SPECS)
def test_shipped_specs_fit_the_exported_schema(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="comes with nbformat, of the extra 'test'")
    schema = json.loads(json.dumps(json_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    tables = tomllib.loads((STRATEGIES / f"{name}.toml").read_text(encoding="utf-8"))
    jsonschema.validate(tables, schema)
    faults: tuple[dict[str, Any], ...] = (
        {"polcy": {}},
        {"policy": {"leverage": "high"}},
        {"policy": {"stop_loss": {"x": 1}}},
    )
    for broken in faults:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**tables, **broken}, schema)


def test_the_main_job_is_the_study_it_says_it_is() -> None:
    spec = load_spec("leverage_vs_stop")
    made = spec.policy.expand()
    assert [s.label for s in spec.strategy] == ["coin"]
    assert {p.leverage for p in made} == {2, 3, 5, 10, 20, 50, 75, 100}
    assert {p.row()["stop"] for p in made} == {"none", "1%", "2%", "5%", "10%"}
    assert spec.world.crowding
    assert spec.world.open_interest
    assert spec.data.symbols is None, "it must run on other data unchanged"
    assert spec.number_of_accounts(3) == 120_000
    assert spec.number_of_accounts(5) == 200_000


@pytest.mark.parametrize("name", SPECS)
def test_specs_can_be_sent_to_another_process(name: str) -> None:
    spec = load_spec(name)
    again = pickle.loads(pickle.dumps(spec))
    assert again.identity() == spec.identity()
    assert again.policy.expand() == spec.policy.expand()


def test_importing_specifications_stays_cheap() -> None:
    code = (
        "import sys, perpbt.config; print([m for m in ('numba', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_specifications_import_no_other_room() -> None:
    allowed = {*sys.stdlib_module_names, "pydantic", "pydantic_core", "perpbt.config", "perpbt.errors"}
    for path in (STRATEGIES.parent / "perpbt" / "config").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                room = ".".join(name.split(".")[: 2 if name.startswith("perpbt") else 1])
                assert room in allowed, f"{path.name} imports {name}"
