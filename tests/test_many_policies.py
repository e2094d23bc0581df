"""Many policies with few starts each: as if every one had been run by itself, row for row."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from test_kernels import market, often

import perpbt
import perpbt.engines.chunks
import perpbt.settling.flowed
import perpbt.settling.flowing
from perpbt.engines.followers import tiles

FIXED: dict[str, Any] = {"leverage": [4, 30, 80], "stop_loss": [0.004, 0.02], "take_profit": 0.01}
GRID = [
    FIXED,
    FIXED | {"sizing": {"kind": "equity", "fraction": 0.5}, "compounding": True},
    {"leverage": 5, "trailing_stop": 0.01, "max_trades": 2},
]
WAYS: dict[str, dict[str, Any]] = {
    "by itself": {},
    "with a bound on memory": {"memory": "16GiB"},
    "from the book": {"fund": {"seed": 5.0, "fee_share": 0.1}, "open_interest": 1e6},
    "fund": {"coupling": "fund"},
    "adl": {"coupling": "adl"},
}


def strategies(symbols: int) -> tuple[pl.DataFrame, list[Any]]:
    """Bars of so many symbols, all unlike one another, and strategies that hold and that trade often."""
    frames = [
        market().with_columns(symbol=pl.lit(f"S{k}")).filter(pl.int_range(pl.len()) % 7 != k + 1)
        for k in range(symbols)
    ]
    return pl.concat(frames), ["hold", often]


def apart(bars: pl.DataFrame, strategy: list[Any], **options: Any) -> pl.DataFrame:
    """Each strategy under each policy by itself, one after the other, and accounts numbered through."""
    found, before = [], 0
    for one in strategy:
        for policy in perpbt.config.as_policies(GRID):
            result = perpbt.backtest(bars, one, policy, offsets=3, **options)
            found.append(result.accounts.with_columns(pl.col("account") + before))
            before += result.metadata["accounts"]
    return pl.concat(found)


@pytest.mark.parametrize("symbols", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_as_one_policy_at_a_time(way: str, symbols: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tiles, in pieces of several groups and of one."""
    bars, strategy = strategies(symbols)
    wanted = apart(bars, strategy, **WAYS[way])
    assert wanted["policy"].n_unique() == len(perpbt.config.as_policies(GRID))
    monkeypatch.setattr(perpbt.engines.chunks, "SERIAL_BELOW", 1)
    sizes = (
        (16_384, 1 << 17, 0, 0),
        (16_384, 1 << 17, 0, 1 << 13),
        (40, 64, 0, 1 << 13),
        (200, 256, 1 << 13, 0),
    )
    for page, piece, short, own in sizes if way == "by itself" else sizes[1:2]:
        monkeypatch.setattr(perpbt.engines.chunks, "PAGE", page)
        monkeypatch.setattr(perpbt.settling.flowed, "PIECE", piece)
        monkeypatch.setattr(perpbt.settling.flowed, "SHORT", short)
        monkeypatch.setattr(perpbt.settling.flowed, "OWN", own)
        result = perpbt.backtest(bars, strategy, GRID, offsets=3, **WAYS[way])
        assert result.accounts.equals(wanted)
        assert result.accounts.schema == wanted.schema


def test_a_piece_has_rows_of_many_groups() -> None:
    """Of one symbol they lie in memory as the table has them: nothing is moved."""
    bars, strategy = strategies(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perpbt.settling.flowed, "SHORT", 1)

        def moved(*_: Any) -> None:
            raise AssertionError("rows are moved")

        patch.setattr(perpbt.settling.flowing.Flow, "columns", moved)
        accounts = perpbt.backtest(bars, strategy, FIXED, offsets=3).accounts
    assert accounts.n_chunks() <= 5 < accounts["policy"].n_unique()


@pytest.mark.parametrize("returning", [True, False])
@pytest.mark.parametrize(
    ("policies", "starts", "size"), [(1, 1, 1), (7, 5, 6), (3, 100, 20), (50, 3, 20), (5, 0, 4), (4, 6, 99)]
)
def test_tiles_are_all_lanes_once(policies: int, starts: int, size: int, returning: bool) -> None:
    """Those of a policy in the order of its starts."""
    seen = np.zeros((policies, starts), dtype=int)
    last = np.zeros(policies, dtype=int)
    for tile in tiles(policies, starts, size, returning):
        assert 0 < tile.size <= max(size, 1)
        assert (last[tile.first_policy : tile.last_policy] == tile.first_start).all()
        last[tile.first_policy : tile.last_policy] = tile.last_start
        seen[tile.first_policy : tile.last_policy, tile.first_start : tile.last_start] += 1
    assert (seen == 1).all()
