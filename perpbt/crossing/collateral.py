"""Assets that back a wallet besides cash.

In: a table of holdings (account, asset, amount and, where accounts have worlds, world) and prices (ts, asset, price) of assets that no
symbol prices. Out: what kernels read of them, checked. What an asset counts for is in the venue's table [collateral]. Prices are in the currency of
the wallets: of a run of coin-margined contracts in that coin, and no symbol gives one there.

An account brings its assets with the first position it opens; from then on its equity counts them at price after the haircut. They are
sold only where cash runs out: for the fees of a liquidation and what it leaves owing, or when the wallet is flat and below 0, at the
bar's open for what happens there and else at its close; until then
cash may be below 0, without interest. What they earned or lost is in the `pnl` of the row they came with, their value then in its
`top_up`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from perpbt.accounts import EVERYONE
from perpbt.checks import unknown
from perpbt.crossing.grid import Timeline, asset_series
from perpbt.crossing.legs import Owners, Part
from perpbt.errors import InputError
from perpbt.kernels.crossing.tables import Assets
from perpbt.kernels.tables import Floats
from perpbt.load.columns import TIMES_ALLOWED, time_expression
from perpbt.venue import Venue
from perpbt.venue.tables.collateral import CollateralTerms

HOLDINGS = ("account", "asset", "amount")
PRICES = ("ts", "asset", "price")


@dataclass(frozen=True)
class Collateral:
    """What accounts hold besides cash, and the prices of what no symbol prices."""

    holdings: pl.DataFrame
    prices: pl.DataFrame | None = None

    @property
    def assets(self) -> list[str]:
        """What is held, by name; nothing of a frame without such a column, which `make_holdings` refuses."""
        held = self.holdings
        return [str(one) for one in held["asset"].unique().sort()] if "asset" in held.columns else []


def read_collateral(given: Any) -> Collateral | None:
    """What `simulate(collateral=...)` was given: holdings, or a table with holdings and prices."""
    if given is None or isinstance(given, Collateral):
        return given
    if isinstance(given, pl.DataFrame):
        return Collateral(given)
    if not isinstance(given, Mapping):
        raise InputError(
            f"collateral is of type {type(given).__name__}; allowed: a frame with {', '.join(HOLDINGS)}, or a table with holdings, prices"
        )
    for key in given:
        if key not in ("holdings", "prices"):
            raise InputError(unknown(f"collateral.{key}", str(key), ("holdings", "prices")))
    for key in ("holdings", "prices"):
        value = given.get(key)
        if not isinstance(value, pl.DataFrame) and not (key == "prices" and value is None):
            raise InputError(f"collateral.{key} is of type {type(value).__name__}; allowed: a polars frame")
    return Collateral(given["holdings"], given.get("prices"))


def check_frame(
    frame: pl.DataFrame, place: str, names: Sequence[str], number: str, more: Sequence[str] = ()
) -> None:
    """Columns there and known, numbers finite and above 0; the first fault is told. `more` are columns there may be."""
    for name in names:
        if name not in frame.columns:
            raise InputError(f"{place}: column {name!r} missing; found: {', '.join(frame.columns)}")
    for name in frame.columns:
        if name not in (*names, *more):
            raise InputError(unknown(f"{place}: column {name!r}", name, (*names, *more), "column"))
    if frame.height == 0:
        raise InputError(f"{place}: no rows; allowed: at least one")
    if not frame.schema[number].is_numeric():
        raise InputError(f"{place}: column {number!r} is {frame.schema[number]}; allowed: numbers")
    value = pl.col(number)
    for name, right, allowed in (
        *((name, pl.col(name).is_not_null(), "a value") for name in names),
        (number, (value > 0) & value.is_finite(), "finite numbers above 0"),
    ):
        wrong = frame.select((~right.fill_null(False)).arg_true()).to_series()
        if len(wrong):
            row = int(wrong[0])
            raise InputError(f"{place}: row {row}, column {name!r}: {frame[name][row]!r}; allowed: {allowed}")


@dataclass(frozen=True)
class Holdings:
    """Assets of all accounts: what kernels read, the series of those with a price of their own, and the table they are told in."""

    assets: Assets
    series: Sequence[Floats]
    names: Sequence[str]  # of these series
    table: pl.DataFrame  # world, account, asset, amount, counted


def no_holdings(accounts: int) -> Holdings:
    """Nobody holds anything but cash."""
    whole, real = np.zeros(0, dtype=np.int64), np.zeros(0)
    return Holdings(
        Assets(np.zeros(accounts + 1, dtype=np.int64), whole, whole.copy(), real, real.copy(), real.copy()),
        (),
        (),
        pl.DataFrame(),
    )


def held_by(assets: Assets, part: Part) -> Assets:
    """What some accounts hold, in the place where all is kept."""
    first = assets.first[part.first : part.last + 1]
    here = slice(int(first[0]), int(first[-1]))
    return Assets(
        first - first[0],
        assets.symbol[here],
        assets.unit[here],
        assets.amount[here],
        assets.counted[here],
        assets.fee[here],
    )


def make_holdings(
    given: Collateral | None, venue: Venue, owners: Owners, line: Timeline, symbols: Sequence[str], unit: Sequence[int],
) -> Holdings:  # fmt: skip
    """Holdings in the order of accounts and of conversion. `unit` is the risk unit of each symbol."""
    if given is None:
        return no_holdings(owners.size)
    check_frame(given.holdings, "collateral", HOLDINGS, "amount", ("world",))
    mine = numbered(given.holdings, owners)
    terms = {asset: terms_of(venue, str(asset), symbols) for asset in given.holdings["asset"].unique().sort()}
    own = sorted(asset for asset, one in terms.items() if not one.price)
    series = [priced(given.prices, asset, line) for asset in own]
    place = {
        asset: len(symbols) + own.index(asset) if asset in own else symbols.index(one.price)
        for asset, one in terms.items()
    }
    told = [
        {
            "asset": asset, "order": one.order, "symbol": place[asset], "fee": one.conversion_fee,
            "unit": unit[place[asset]] if one.nets else -1,
        }
        for asset, one in terms.items()
    ]  # fmt: skip
    table = mine.join(pl.DataFrame(told), on="asset").sort("number", "order", "asset")
    counted = [terms[asset].counted(amount) for asset, amount in table.select("asset", "amount").rows()]
    first = np.searchsorted(table["number"].to_numpy(), np.arange(owners.size + 1)).astype(np.int64)
    assets = Assets(
        first,
        table["symbol"].to_numpy().astype(np.int64).copy(),
        table["unit"].to_numpy().astype(np.int64).copy(),
        table["amount"].to_numpy().copy(),
        np.array(counted, dtype=np.float64),
        table["fee"].to_numpy().astype(np.float64).copy(),
    )
    shown = table.select("world", "account", "asset", "amount").with_columns(pl.Series("counted", counted))
    return Holdings(assets, series, [f"asset {name}" for name in own], shown)


def terms_of(venue: Venue, asset: str, symbols: Sequence[str]) -> CollateralTerms:
    """What the venue says of an asset."""
    terms: CollateralTerms | None = venue.terms("collateral", asset)
    if terms is None:
        raise InputError(
            f"collateral: venue {venue.name} has no [collateral.{asset}]; allowed: assets it has one for, or "
            f"load_venue(NAME).replace(collateral={{{asset!r}: {{'haircuts': [...]}}}})"
        )
    if terms.price and terms.price not in symbols:
        raise InputError(
            f"venue {venue.name}: collateral.{asset}.price = {terms.price!r}; allowed: a symbol of the accounts ({', '.join(symbols)}), "
            "or none and a series of prices"
        )
    return terms


def numbered(holdings: pl.DataFrame, owners: Owners) -> pl.DataFrame:
    """Holdings with the number of their account; one row an account and asset."""
    frame = holdings if "world" in holdings.columns else holdings.with_columns(world=pl.lit(EVERYONE))
    keys = ["world", "account"]
    if frame.schema["world"] not in (pl.String, pl.Null):
        raise InputError(f"collateral: column 'world' is {frame.schema['world']}; allowed: text")
    frame = frame.with_columns(pl.col("world").cast(pl.String).fill_null(EVERYONE))
    if frame.schema["account"] != owners.accounts.schema["account"]:
        raise InputError(
            f"collateral: column 'account' is {frame.schema['account']}; allowed: {owners.accounts.schema['account']}, as in the accounts"
        )
    if frame.select([*keys, "asset"]).is_duplicated().any():
        row = int(frame.select([*keys, "asset"]).is_duplicated().arg_max() or 0)
        raise InputError(
            f"collateral: row {row}, column 'asset': {frame['asset'][row]!r}; allowed: once an account"
        )
    numbers = owners.accounts.with_row_index("number")
    lost = frame.with_row_index("row").join(numbers, on=keys, how="anti")
    if lost.height:
        row = int(lost["row"].min())  # type: ignore[arg-type]
        raise InputError(
            f"collateral: row {row}, column 'account': {frame['account'][row]!r}; allowed: accounts that have positions"
        )
    return frame.join(numbers, on=keys).with_columns(pl.col("amount").cast(pl.Float64))


def priced(prices: pl.DataFrame | None, asset: str, line: Timeline) -> Floats:
    """An asset's series of prices on the grid. Raises InputError if none is given, or it begins after the bars."""
    if prices is None:
        raise InputError(
            f"collateral: no prices of {asset!r}; allowed: prices with {', '.join(PRICES)}, or a symbol that prices it"
        )
    check_frame(prices, "collateral.prices", PRICES, "price")
    time = prices.select(
        time_expression("ts", prices.schema["ts"], "collateral.prices").dt.epoch("ms").alias("ms"),
        "asset",
        pl.col("price").cast(pl.Float64),
    )
    if time["ms"].null_count():
        row = int(time["ms"].is_null().arg_max() or 0)
        raise InputError(
            f"collateral.prices: row {row}, column 'ts': {prices['ts'][row]!r}; allowed: {TIMES_ALLOWED}"
        )
    twice = time.select("asset", "ms").is_duplicated()
    if twice.any():
        row = int(twice.arg_true()[1])
        raise InputError(
            f"collateral.prices: row {row}, column 'ts': {prices['ts'][row]!r}; allowed: each moment once an asset"
        )
    mine = time.filter(pl.col("asset") == asset).sort("ms", maintain_order=True)
    if not mine.height or mine["ms"][0] > line.time[0]:
        raise InputError(
            f"collateral.prices: {asset!r} has no price at or before the first bar; allowed: a series that begins there"
        )
    return asset_series(line, mine["ms"].to_numpy(), mine["price"].to_numpy())
