"""Every shipped venue and kind of contract behind a wallet: random positions beside each other, through the engine.

The liquidation price in the table solves equity of the wallet = what it must keep, the bankruptcy price equity = 0, to 1e-9 of the money
at stake; a wick to just inside the one leaves the account open and to just beyond does not; just inside the other nothing is owed after
it is closed, just beyond something is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_liquidation_prices import CASES, HAIR, PRICE, SHIPPED, history, listed, moment, needed, plain

import perpbt
from perpbt.contracts import Contract, Maintenance, Position
from perpbt.explaining.cross import Held, hedged_liquidation_prices

MATE = "MATEUSDT"
WALLETS = 24
FAR = PRICE * 1e6
SIGNS = {"long": 1.0, "short": -1.0}


def with_mate(name: str, symbol: str) -> perpbt.Venue:
    """A venue that lists another symbol with the terms of this one, both settled in one coin."""
    venue = perpbt.load_venue(name)
    venue = plain(perpbt.load_venue(name, {MATE: symbol if symbol in venue.tiers else "default"}))
    contract = venue.terms("contract", symbol) or Contract()
    coin = contract.settled_in(symbol)
    told = {"kind": contract.kind, "multiplier": contract.multiplier, "settlement": coin}
    tables: dict[str, Any] = {"contract": {symbol: told, MATE: told}}
    for table in ("maintenance", "portfolio"):
        values = {
            key: value for key, value in venue.tables.get(table, {}).items() if not isinstance(value, dict)
        }
        own = venue.tables.get(table, {}).get(symbol, {})
        if values or own:
            tables[table] = {**values, **own}
    return venue.replace(**tables)


def positions(venue: perpbt.Venue, symbol: str, seed: int, most: float) -> pl.DataFrame:
    """Wallets of two or three positions: one on the symbol, one on its mate, and often another on the symbol. Wallet k enters at bar k
    and leaves at the next one. No leverage above `most`.
    """
    rng = np.random.default_rng(seed)
    contract = venue.terms("contract", symbol) or Contract()
    last = min(venue.brackets(symbol)[-1].cap, 1e9 if contract.kind != "inverse" else 1e4)
    rows = []
    for k in range(WALLETS):
        main = float(last * 10 ** rng.uniform(-6, -1))
        sides = rng.permutation(["long", "short"])
        legs = [(symbol, sides[0], 1.0), (MATE, sides[rng.integers(2)], 10 ** rng.uniform(-1, 0.5))]
        if k % 3:
            legs.append((symbol, sides[k % 2], rng.uniform(0.1, 0.8)))
        for name, side, share in legs:
            notional = main * share
            while (least := needed(venue, symbol, contract, notional)) > 0.8:
                notional *= 0.3
            leverage = min(most, float(rng.uniform(max(0.3, 1.01 * least), 0.95) / least))
            rows.append(
                {
                    "account": k, "symbol": name, "side": str(side), "leverage": leverage,
                    "collateral": notional / leverage * (1 + venue.taker_fee * leverage),
                    "entry_time": moment(k), "exit_time": moment(k + 1), "reserve": notional * float(rng.uniform(0.0, 0.05)),
                }
            )  # fmt: skip
    return pl.DataFrame(rows).with_columns(
        pl.col("entry_time", "exit_time").cast(pl.Datetime("ms", "UTC")), strategy=pl.lit("s")
    )


class Wallet:
    """What one account holds, worked out apart from the engine: a position a row of the accounts table."""

    def __init__(
        self, venue: perpbt.Venue, rows: list[dict[str, Any]], symbol: str, margin: dict[str, str]
    ) -> None:
        self.venue, self.rows, self.symbol, self.margin = venue, rows, symbol, margin
        self.contract = venue.terms("contract", symbol)
        self.cash = math.fsum(row["margin"] + row["top_up"] for row in rows)
        self.own = [row for row in rows if row["symbol"] == symbol]
        self.net = math.fsum(SIGNS[row["side"]] * row["quantity"] for row in self.own)

    def position(self, row: dict[str, Any]) -> Position:
        return Position(row["side"], row["entry_price"], row["quantity"], 0.0, self.contract)

    def price(self, row: dict[str, Any], moved: float) -> float:
        return moved if row["symbol"] == self.symbol else PRICE

    def equity(self, moved: float) -> float:
        return self.cash + math.fsum(self.position(row).pnl(self.price(row, moved)) for row in self.rows)

    def value(self, moved: float) -> float:
        """All that is added up."""
        gross = [
            self.position(row).value(PRICE) + self.position(row).value(self.price(row, moved))
            for row in self.rows
        ]
        return self.cash + math.fsum(gross)

    def required(self, moved: float) -> float:
        if self.margin["mode"] == "portfolio":
            net, gross = ({self.symbol: 0.0, MATE: 0.0} for _ in range(2))
            for row in self.rows:
                worth = self.position(row).value(self.price(row, moved))
                net[row["symbol"]] += SIGNS[row["side"]] * worth
                gross[row["symbol"]] += worth
            scan = perpbt.formulas.portfolio_margin
            parts = [(scan({s: net[s]}, self.venue), scan({s: gross[s]}, self.venue)) for s in net]
            return math.fsum(max(worst.required, charge.minimum) for worst, charge in parts)
        rule = self.venue.maintenance(self.symbol)
        if self.margin["legs"] == "hedge":
            return math.fsum(rule.required(self.position(row), self.price(row, moved)) for row in self.rows)
        total = 0.0
        for name in (self.symbol, MATE):
            legs = [row for row in self.rows if row["symbol"] == name]
            net = math.fsum(SIGNS[row["side"]] * row["quantity"] for row in legs)
            if legs and net:
                row = {**legs[0], "quantity": abs(net), "side": "long" if net > 0 else "short"}
                total += rule.required(self.position(row), self.price(row, moved))
        return total

    def beyond(self, price: float, share: float) -> float:
        """A price this share worse than another."""
        return price * (1.0 - share) if self.net > 0.0 else price * (1.0 + share)


def opened(
    venue: perpbt.Venue, symbol: str, margin: dict[str, str], table: pl.DataFrame
) -> dict[int, Wallet]:
    """The wallets of a run on bars that do not move, all of whose positions were opened."""
    flat = bars_of(symbol, [PRICE] * (WALLETS + 1))
    rows = perpbt.simulate(flat, table, venue=venue, margin=margin).accounts.to_dicts()
    made = {}
    for k in range(WALLETS):
        mine = [row for row in rows if int(row["account"]) == k and row["rejection"] is None]
        wallet = Wallet(venue, mine, symbol, margin)
        if wallet.own and wallet.net:
            made[k] = wallet
    assert len(made) > 0.8 * WALLETS
    return made


def bars_of(symbol: str, worst: list[float]) -> pl.DataFrame:
    """Bars of the symbol with wicks, and of its mate, which stays where it is."""
    return pl.concat(
        [history(symbol, worst, worst), history(MATE, [PRICE] * len(worst), [PRICE] * len(worst))]
    )


def there(price: float) -> bool:
    return PRICE * 1e-6 < price < FAR


def solves(wallet: Wallet) -> None:
    """The prices in the table, one for all positions on the symbol."""
    assert len({(row["liquidation_price"], row["bankruptcy_price"]) for row in wallet.own}) == 1
    price, gone = wallet.own[0]["liquidation_price"], wallet.own[0]["bankruptcy_price"]
    if there(price):
        spare = [wallet.equity(at) - wallet.required(at) for at in (price, wallet.beyond(price, -1e-10))]
        jumps = wallet.venue.maintenance(wallet.symbol).stepped and spare[0] <= 0.0 < spare[1]
        assert jumps or abs(spare[0]) <= 1e-9 * wallet.value(price)
    if there(gone):
        assert abs(wallet.equity(gone)) <= 1e-9 * wallet.value(gone)
    if there(price) and there(gone):
        assert (price - gone) * (1.0 if wallet.net > 0.0 else -1.0) >= -1e-9 * gone


MARGINS = [("cross", "hedge"), ("cross", "one_way"), ("portfolio", "hedge")]
RUNS = [
    (name, symbol, mode, legs)
    for name, symbol in CASES
    for mode, legs in MARGINS
    if mode == "cross" or "portfolio" in perpbt.load_venue(name).tables
]


@pytest.mark.parametrize(("name", "symbol", "mode", "legs"), RUNS, ids=["-".join(one) for one in RUNS])
def test_prices_of_a_wallet_are_where_it_happens(name: str, symbol: str, mode: str, legs: str) -> None:
    venue = with_mate(name, symbol)
    margin = {"mode": mode, "legs": legs, "test": "extremes"}
    most = 0.5 / max(venue.terms("portfolio", symbol).shocks) if mode == "portfolio" else math.inf
    table = positions(venue, symbol, len(name), most)
    wallets = opened(venue, symbol, margin, table)
    for wallet in wallets.values():
        solves(wallet)
    reached = 0
    for kind in ("liquidation_price", "bankruptcy_price"):
        for share in (-HAIR, HAIR):
            moved = {
                k: one.beyond(one.own[0][kind], share)
                for k, one in wallets.items()
                if there(one.own[0][kind])
            }
            worst = [moved.get(k, PRICE) for k in range(WALLETS + 1)]
            run = perpbt.simulate(bars_of(symbol, worst), table, venue=venue, margin=margin).extra["wallets"]
            for row in run.iter_rows(named=True):
                k = int(row["account"])
                if k not in moved:
                    continue
                reached += 1
                if kind == "liquidation_price":
                    assert row["liquidations"] == (1 if share > 0.0 else 0), (k, moved[k])
                else:
                    assert (row["deficit"] > 0.0) == (share > 0.0), (k, moved[k], row)
    assert reached > WALLETS


@pytest.mark.parametrize("mode", ["cross", "portfolio"])
def test_assets_that_back_a_wallet_move_with_their_price(mode: str) -> None:
    """A short beside the coin it is priced in, held at a haircut, and beside one with a price of its own."""
    venue = plain(perpbt.load_venue("okx", {"AAAUSDT": "default", MATE: "default"})).replace(
        collateral={
            "AAA": {"haircuts": [0.1], "price": "AAAUSDT", "nets": True, "order": 1},
            "USDX": {"haircuts": [0.05], "order": 2},
        }
    )
    for amount, quantity in ((1.0, 4.0), (3.0, 2.5), (0.0, 4.0)):
        row = {"account": 1, "strategy": "s", "symbol": "AAAUSDT", "side": "short", "entry_time": moment(0),
               "leverage": 4.0, "collateral": quantity * PRICE / 4.0 * (1.0 + 4.0 * venue.taker_fee)}  # fmt: skip
        held = pl.DataFrame(
            {"account": [1, 1], "asset": ["AAA", "USDX"], "amount": [max(amount, 1e-9), 500.0]}
        )
        prices = pl.DataFrame({"ts": [moment(0)], "asset": ["USDX"], "price": [0.8]})
        asked = {
            "margin": {"mode": mode, "test": "extremes"}, "venue": venue,
            "collateral": {"holdings": held, "prices": prices},
        }  # fmt: skip
        table = pl.DataFrame([row]).with_columns(pl.col("entry_time").cast(pl.Datetime("ms", "UTC")))
        done = perpbt.simulate(history("AAAUSDT", [PRICE] * 2, [PRICE] * 2), table, **asked)
        found = done.accounts.row(0, named=True)
        rest = found["margin"] + quantity * PRICE + 0.95 * 500.0 * 0.8
        slope = 0.9 * max(amount, 1e-9) - quantity
        price, gone = found["liquidation_price"], found["bankruptcy_price"]
        if slope > 0.0:  # more coin than is sold: nothing is owed at any price
            assert gone == 0.0
            continue
        assert gone == pytest.approx(-rest / slope, rel=1e-9)
        assert PRICE < price < gone
        for share in (-HAIR, HAIR):
            bars = history("AAAUSDT", [PRICE] * 2, [price * (1.0 + share), PRICE])
            wallets = perpbt.simulate(bars, table, **asked).extra["wallets"]
            assert wallets["liquidations"][0] == (1 if share > 0.0 else 0)


def straight(name: str) -> bool:
    """Whether what must be kept is a schedule of straight lines: neither steps nor a rate that grows in coin."""
    venue = perpbt.load_venue(name)
    symbol = listed(venue)[0]
    rule, contract = venue.maintenance(symbol), venue.terms("contract", symbol) or Contract()
    return not rule.stepped and not (rule.per_size and contract.kind == "inverse")


@pytest.mark.parametrize("name", [name for name in SHIPPED if straight(name)])
def test_the_closed_form_gives_the_same_prices(name: str) -> None:
    """Legs on one contract beside another one: `hedged_liquidation_prices`, and `perpbt.explain`."""
    symbol = listed(perpbt.load_venue(name))[0]
    venue = with_mate(name, symbol)
    margin = {"mode": "cross", "legs": "hedge", "test": "close"}
    rule, nothing = venue.maintenance(symbol), Maintenance.flat(0.0)
    for wallet in opened(venue, symbol, margin, positions(venue, symbol, 3, math.inf)).values():
        told = {"liquidation_price": rule, "bankruptcy_price": nothing}
        for kind, kept in told.items():
            parts = [
                [
                    Held(wallet.position(row), kept, PRICE)
                    for row in wallet.rows
                    if (row["symbol"] == symbol) == own
                ]
                for own in (True, False)
            ]
            found = hedged_liquidation_prices(wallet.cash, *parts)[0 if wallet.net > 0.0 else 1].price
            price = wallet.own[0][kind]
            if there(price) and found is not None:
                assert price == pytest.approx(found, rel=1e-9)
            asked = [
                {
                    "venue": venue, "symbol": row["symbol"], "side": row["side"], "entry_price": row["entry_price"],
                    "quantity": row["quantity"], "mark": PRICE,
                }
                for row in sorted(wallet.rows, key=lambda row: row["symbol"] != symbol)
            ]  # fmt: skip
            answer = getattr(perpbt.explain({**asked[0], "wallet": wallet.cash, "others": asked[1:]}), kind)
            if there(price):
                assert price == pytest.approx(answer, rel=1e-9)
