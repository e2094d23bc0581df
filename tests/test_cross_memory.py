"""Shared wallets under a bound on memory: some whole accounts at a time, the same tables to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from made_bars import START
from test_cross import many
from test_out_of_core import column_bytes, contents

import perpbt
import perpbt.crossing.door
import perpbt.engines.given
import perpbt.running.budget
import perpbt.running.conclude
from perpbt.engines.book import Spool
from perpbt.errors import InputError

ENOUGH = "16GiB"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few accounts, all of whose rows are kept in a file."""
    monkeypatch.setattr(perpbt.crossing.door, "BLOCK", 17)
    monkeypatch.setattr(perpbt.running.conclude, "CHUNK", 11)
    monkeypatch.setattr(perpbt.engines.given, "CHUNK", 11)
    monkeypatch.setattr(perpbt.running.conclude, "ROW_GROUP", 64)
    monkeypatch.setattr(perpbt.running.budget, "Spool", lambda room, folder=None: Spool(0, folder))


def everything(result: perpbt.Result) -> dict[str, bytes]:
    """Every table, those of wallets included."""
    more = {
        f"{name}.{column.name}": column_bytes(column)
        for name in ("wallets", "collateral")
        if name in result.extra
        for column in result.extra[name].iter_columns()
    }
    return {**contents(result), **more}


def population() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Accounts of several worlds, their rows apart from each other in the table."""
    bars, table = many(400, 60)
    table = table.with_columns(
        world=pl.when(pl.col("account") % 3 == 0).then(pl.lit("z")).otherwise(pl.lit("a")),
        weight=1.0 + pl.col("account") % 4, leverage=pl.col("leverage") * 2.0,
    )  # fmt: skip
    return bars, table.sample(fraction=1.0, shuffle=True, seed=2)


@pytest.mark.parametrize("source", ["frame", "file", "lazy"])
def test_a_bound_on_memory_changes_nothing(source: str, tiny: None, tmp_path: Path) -> None:
    bars, table = population()
    path = tmp_path / "accounts.parquet"
    table.write_parquet(path)
    given: Any = {"frame": table, "file": path, "lazy": table.lazy()}[source]
    asked = {"margin": "cross", "fund": {"seed": 100.0, "fee_share": 0.1}, "open_interest": 1e5}
    whole = everything(perpbt.simulate(bars, table, **asked))
    bounded = perpbt.simulate(bars, given, memory=ENOUGH, **asked)
    found = everything(bounded)
    assert whole.keys() == found.keys()
    for name, told in whole.items():
        assert found[name] == told, name
    assert bounded.extra["wallets"].height == 60


def test_what_wallets_hold_stays_theirs(tiny: None) -> None:
    bars, table = population()
    accounts = table.select("world", "account").unique().sort("account")
    held = accounts.with_columns(asset=pl.lit("USDX"), amount=10.0 + pl.col("account"))
    prices = pl.DataFrame({"ts": [START], "asset": ["USDX"], "price": [0.5]})
    venue = perpbt.Venue(
        name="made", tiers={"default": ((0.0, 1e9, 0.01, 125.0),)}, collateral={"USDX": {"haircuts": [0.1]}}
    )
    asked = {"margin": "cross", "venue": venue, "collateral": {"holdings": held, "prices": prices}}
    whole, bounded = (perpbt.simulate(bars, table, **asked, **more) for more in ({}, {"memory": ENOUGH}))
    assert whole.extra["collateral"].equals(bounded.extra["collateral"])
    assert whole.extra["wallets"].equals(bounded.extra["wallets"])
    assert (whole.extra["collateral"]["left"] < whole.extra["collateral"]["amount"]).any()
    for name in ("cash_change", "bankruptcy_price", "liquidation_price"):
        assert column_bytes(whole.accounts[name]) == column_bytes(bounded.accounts[name])


def test_the_least_is_told() -> None:
    bars, table = population()
    with pytest.raises(InputError, match="this run needs at least"):
        perpbt.simulate(bars, table, margin="cross", memory="64MiB")
    with pytest.raises(InputError, match="crowding with memory does not go with margin"):
        perpbt.simulate(bars, table, margin="cross", memory=ENOUGH, crowding=True)
