"""A run from its specification: load, backtest, and say what ran on what.

In: a `RunSpec`. Out: a `Result` whose metadata holds the specification and the hashes of spec, data and code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

import perpbt
from perpbt.config import RunSpec, TurnoverInterest
from perpbt.doors.backtesting import backtest
from perpbt.engines.chunks import Progress
from perpbt.errors import InputError
from perpbt.load import Bars
from perpbt.load.specified import bars_of
from perpbt.result import Begun, Result, existing_above
from perpbt.settling.currency import CoinPrice
from perpbt.settling.weights import OpenInterest
from perpbt.venue import Venue, load_venue


def code_sha256() -> str:
    """sha256 of every source file of the package, venue files included."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".toml", ".j2", ".mplstyle"):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def read_open_interest(spec: RunSpec) -> OpenInterest | TurnoverInterest | None:
    """The open interest of the specification; a path is read as a frame."""
    wanted = spec.world.open_interest
    if not isinstance(wanted, str):
        return wanted
    return read_table(spec.resolve(wanted), f"world.open_interest = {wanted!r}: no readable Parquet file")


def read_conversion(spec: RunSpec, symbols: Sequence[str]) -> dict[str, CoinPrice]:
    """What coins are worth, by the specification; what is no number and no symbol is read as a frame."""
    return {
        coin: read_table(
            spec.resolve(worth),
            f"conversion.{coin} = {worth!r}: neither a symbol of the data ({', '.join(symbols)}) nor a readable Parquet file",
        )
        if isinstance(worth, str) and worth not in symbols
        else worth
        for coin, worth in spec.conversion.items()
    }


def read_table(path: str, otherwise: str) -> pl.DataFrame:
    """A Parquet file; `otherwise` begins the sentence if it is none."""
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{otherwise} ({str(error).splitlines()[0]})") from error


def run_spec(
    spec: RunSpec, *, bars: Bars | None = None, progress: Progress | None = None, scratch: Path | None = None,
    on_accounts: Callable[[pl.DataFrame], object] | None = None,
) -> Result:  # fmt: skip
    """Run a specification, on `bars` if they are found already; what does not fit into its `memory` goes to files in the folder
    `scratch`. `on_accounts` as in `backtest`.

    Raises `InputError` for whatever in it, its data or its strategies is wrong.
    """
    venue_name = spec.resolve(spec.venue.name)
    venue = load_venue(venue_name)
    changes = spec.venue.overrides()
    bars = bars_of(spec) if bars is None else bars
    venue = venue.replace(**changes) if changes else venue
    result = backtest(
        bars,
        list(spec.strategy),
        spec.policy,
        offsets=spec.offsets,
        venue=venue,
        tiers_as={symbol: other for symbol, other in spec.venue.tiers_as.items() if symbol in bars.symbols},
        tiers=None if spec.venue.tiers is None else spec.resolve(spec.venue.tiers),
        dynamic=spec.dynamic,
        liquidation=spec.liquidation,
        coupling=spec.coupling,
        fund=spec.fund,
        open_interest=read_open_interest(spec),
        conversion=read_conversion(spec, bars.symbols),
        crowding=spec.world.crowding,
        rules=spec.rules,
        engine=spec.engine,
        threads=spec.threads,
        equity_every=spec.output.equity_every,
        progress=progress,
        memory=spec.memory,
        scratch=scratch,
        on_accounts=on_accounts,
        strategy_folder=spec.folder,
    )
    describe_run(result, spec, bars, venue)
    return result


def run_into(
    spec: RunSpec, folder: Path, *, bars: Bars | None = None, progress: Progress | None = None, report: bool = True
) -> Result:  # fmt: skip
    """Run a specification and write the result, as `run_spec` and `Result.write` would: its accounts while the rest is made."""
    place, accounts = existing_above(folder), spec.output.accounts
    with Begun(place) as begun:
        given = begun.accounts if accounts else None
        result = run_spec(spec, bars=bars, progress=progress, scratch=place, on_accounts=given)
        result.write(folder, report=report, accounts=accounts, begun=begun)
    return result


def input_hashes(spec: RunSpec, venue: Venue, symbols: Sequence[str]) -> dict[str, str]:
    """sha256 of what a specification names by a name or a path, besides prices (of `symbols`) and strategies."""
    rules = venue.model_dump(mode="json", exclude={"title", "provenance", "tiers"})
    text = json.dumps({**rules, "tiers": dict(venue.tiers)}, sort_keys=True)
    hashes = {"venue_sha256": sha256(text.encode())}
    if spec.venue.tiers is not None:
        hashes["tiers_sha256"] = sha256(Path(spec.resolve(spec.venue.tiers)).read_bytes())
    if isinstance(spec.world.open_interest, str):
        file = Path(spec.resolve(spec.world.open_interest))
        hashes["open_interest_sha256"] = sha256(file.read_bytes())
    for coin, worth in spec.conversion.items():
        if isinstance(worth, str) and worth not in symbols:
            hashes[f"conversion_{coin}_sha256"] = sha256(Path(spec.resolve(worth)).read_bytes())
    return hashes


def sha256(content: bytes) -> str:
    """The digest as text."""
    return hashlib.sha256(content).hexdigest()


def describe_run(result: Result, spec: RunSpec, bars: Bars, venue: Venue) -> None:
    """Put the specification and the identity of the run first in its metadata.

    `run_sha256` is one digest of all that can change a number: specification, prices, code, venue, series
    of open interest and of coins' prices, and the sources of the strategies, which may be the user's own.
    """
    code, identity, inputs = code_sha256(), spec.identity(), input_hashes(spec, venue, bars.symbols)
    data = result.metadata["data_sha256"]
    strategies = [one["sha256"] for one in result.metadata["strategies"]]
    everything = " ".join([identity, data, code, *inputs.values(), *strategies])
    head: dict[str, Any] = {
        "name": spec.name,
        "title": spec.title,
        "description": spec.description.strip(),
        "perpbt": perpbt.__version__,
        "run_sha256": sha256(everything.encode()),
        "spec_sha256": identity,
        "data_sha256": data,
        "code_sha256": code,
        **inputs,
        "data": bars.source,
        "spec": spec.canonical(),
    }
    result.metadata = {**head, **{key: value for key, value in result.metadata.items() if key not in head}}
