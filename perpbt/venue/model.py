"""The venue: fees, maintenance tiers, who keeps what after a liquidation, and the insurance fund's terms.

In: a name (`perpbt/venues/*.toml`, `./venues/*.toml`), the path of a TOML file, or keyword arguments. Out:
a frozen, checked `Venue`, with the margin arithmetic of one isolated linear position as methods. Adding a
venue is adding a TOML file; how it is read is `perpbt.venue.file`, what tables it may hold `perpbt.venue.tables`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from perpbt import contracts
from perpbt.checks import BelowOne, Fee, InsideOne, NotNegative, Share, unknown
from perpbt.errors import InputError
from perpbt.venue import tables as venue_tables
from perpbt.venue.brackets import Dated, Tier, dated_ladders, ladder, maintenance
from perpbt.venue.file import PACKAGED, catalogue, locate, read_toml, venue_fields
from perpbt.venue.text import described, shown

__all__ = ["PACKAGED", "Dated", "Source", "Tier", "Venue", "list_venues", "load_venue"]


Text = Annotated[str, Field(min_length=1)]


class Source(BaseModel):
    """Where a value is from: the source, the date it held (or was read, for an undated page), remarks."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    source: Text
    as_of: date | None = None
    note: str = ""


class InvalidVenue(InputError):
    """A venue with faults; `lines` holds them one by one, without the place they were found in."""

    def __init__(self, message: str, lines: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.lines = tuple(lines)


class Venue(BaseModel):
    """The rules of one venue, frozen. Only `name` and `tiers` are required: all else defaults to no costs.

    Rates are fractions (0.0005 = 5 basis points), money is quote currency. `tiers` maps a symbol, or
    "default" for every symbol not listed, to rows `floor, cap, rate, max_leverage[, deduction]` (see
    `perpbt.venue.brackets.ladder`). `dated` maps a symbol to pairs (date, rows): brackets and the day they begin to
    hold; its `tiers` are then the last of them. `tables` maps the name of a table of `perpbt.venue.tables` to
    its values; such a name is also an argument of its own: `Venue(..., maintenance={"rule": "whole"})`.
    `provenance` maps a field, "tiers.SYMBOL" or "TABLE.KEY" to its `Source`. Raises InputError that lists every
    fault at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Text
    title: str = ""
    taker_fee: Fee = 0.0
    """Fee on the notional of a market order, and of every close but a take-profit filled at its limit."""
    maker_fee: Fee = 0.0
    """Fee on the notional of a resting limit order."""
    slippage: BelowOne = 0.0
    """How much worse than its base price any market order fills, flat."""
    liquidation_fee: Fee = 0.0
    """Extra fee on the notional liquidated, paid to the fund out of what is left of the margin."""
    close_out_rate: BelowOne = 0.0
    """Added to the maintenance rate in the liquidation test (OKX, Gate: the taker fee)."""
    half_spread: BelowOne = 0.0
    """First term of the slippage of a liquidation, where bars have a volume."""
    impact: NotNegative = 0.0
    """Y of the square-root law: liquidating notional V in a bar of turnover T adds Y*sigma*sqrt(V/T)."""
    max_slippage: InsideOne = 0.1
    """Upper bound of the slippage of a liquidation."""
    maintenance_on: Literal["mark", "entry"] = "mark"
    """Price at which the maintenance margin is taken: the current mark, or fixed at entry (Bybit, BitMEX)."""
    surplus_to_fund: Share = 1.0
    """Share of what a liquidation leaves that the fund keeps; the trader gets the rest."""
    fund_seed: NotNegative = 0.0
    """Opening balance of each fund."""
    fund_fee_share: Share = 0.0
    """Share of trading fees that goes to the fund."""
    fund_scope: Literal["symbol", "pooled"] = "symbol"
    """One fund a symbol, or one for all."""
    tiers: Annotated[Mapping[str, Annotated[tuple[Tier, ...], PlainValidator(ladder)]], Field(min_length=1)]
    dated: Mapping[str, Annotated[tuple[Dated, ...], PlainValidator(dated_ladders)]] = {}
    """Brackets that follow one another in time, for symbols that have them; see `schedule`."""
    tables: Mapping[str, Mapping[str, Any]] = {}
    """Values of further tables, by the name of the table; see `terms`."""
    provenance: Mapping[str, Source] = {}

    def __init__(self, /, **fields: Any) -> None:
        tables = dict(fields.pop("tables", None) or {})
        for name in [key for key in fields if key in venue_tables.TABLES]:
            tables[name] = fields.pop(name)
        fields["tables"] = {name: values for name, values in tables.items() if values is not None}
        try:
            if fields.get("dated"):
                fields["dated"] = {symbol: dated_ladders(sets) for symbol, sets in fields["dated"].items()}
                last = {symbol: sets[-1].tiers for symbol, sets in fields["dated"].items()}
                fields["tiers"] = {**fields.get("tiers", {}), **last}
        except ValueError:
            fields.setdefault(
                "tiers", {"default": [(0, 1, 0.5, 1)]}
            )  # the field's own check says what is wrong
        try:
            super().__init__(**fields)
        except ValidationError as error:
            lines = [line for fault in error.errors() for line in _explain(fault)]
            raise _invalid(f"venue {fields.get('name', '')!r}", lines) from None

    @model_validator(mode="after")
    def _agree(self) -> Venue:
        """What no field can check alone."""
        faults = [
            f"tiers.{symbol}.brackets[{index}].rate = {tier.rate:g}: must stay below 1 together with "
            f"close_out_rate = {self.close_out_rate:g}"
            for symbol in self.tiers
            for _, tiers in self.dated.get(symbol) or ((None, self.tiers[symbol]),)
            for index, tier in enumerate(tiers)
            if not tier.rate + self.close_out_rate < 1.0
        ]
        for name, values in self.tables.items():
            if name in venue_tables.TABLES:
                faults += venue_tables.faults(name, values)
            else:
                faults.append(unknown(f"tables.{name}", name, venue_tables.TABLES, "table"))
        known = self._cited_keys()
        faults += [unknown(f"provenance.{key}", key, known) for key in self.provenance if key not in known]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _cited_keys(self) -> list[str]:
        """What a source can be stated for."""
        keys = [*_VALUES, *(f"tiers.{symbol}" for symbol in self.tiers)]
        for symbol, sets in self.dated.items():
            keys += [f"tiers.{symbol}@{shown(one.since)}" for one in sets]
        for name, values in self.tables.items():
            general, symbols = venue_tables.split(values)
            keys += [name, *(f"{name}.{key}" for key in general)]
            for symbol, own in symbols.items():
                keys += [f"{name}.{symbol}", *(f"{name}.{symbol}.{key}" for key in own)]
        return keys

    def replace(self, /, **fields: Any) -> Venue:
        """A checked copy with some fields changed; sources of changed values are dropped unless given anew.

        New `tiers` take the place of dated ones; a table set to None is dropped. Raises InputError as the
        constructor does, unknown fields included.
        """
        dated = {} if "tiers" in fields else self.dated
        changed = Venue(**{**dict(self), "dated": dated, "provenance": {}, **fields})
        if "provenance" in fields:
            return changed
        known = changed._cited_keys()
        kept = {
            key: source
            for key, source in self.provenance.items()
            if key in known and changed._value(key) == self._value(key)
        }
        return changed.model_copy(update={"provenance": kept})

    def _value(self, key: str) -> object:
        """The value a provenance key speaks of."""
        section, _, rest = key.partition(".")
        if section in self.tables:
            found: Any = self.tables[section]
            for part in rest.split(".", 1) if rest else ():
                found = found[part]
            return found
        symbol, _, since = rest.partition("@")
        if since:
            return [one for one in self.dated[symbol] if shown(one.since) == since]
        return self.tiers.get(symbol) if section == "tiers" else getattr(self, key)

    def terms(self, table: str, symbol: str = "default") -> Any:
        """What a table of `perpbt.venue.tables` says for a symbol, as its module reads it; None without it."""
        if table not in self.tables:
            if table not in venue_tables.TABLES:
                raise InputError(unknown(f"table {table!r}", table, venue_tables.TABLES, "table"))
            return None
        values = venue_tables.values_for(self.tables[table], symbol)
        return None if values is None else venue_tables.parse(table, values)

    def has_symbol(self, symbol: str) -> bool:
        """Whether the symbol has brackets of its own (False: `brackets` answers with "default" or raises)."""
        return symbol in self.tiers

    def schedule(self, symbol: str = "default") -> tuple[Dated, ...]:
        """The brackets of a symbol in time, earliest first; one set that holds from ever where none is dated.

        Before the first date its brackets are not known: whoever asks decides. Raises InputError as `brackets`.
        """
        own = symbol if symbol in self.tiers else "default"
        return self.dated.get(own) or (Dated(None, self.brackets(symbol)),)

    def brackets(self, symbol: str = "default") -> tuple[Tier, ...]:
        """The tiers of a symbol, in order of notional; those of "default" where it has none; the last if dated.

        Raises InputError when the venue lists neither.
        """
        tiers = self.tiers.get(symbol, self.tiers.get("default"))
        if tiers is None:
            raise InputError(unknown(f"venue {self.name!r}: tiers.{symbol}", symbol, self.tiers, "symbol"))
        return tiers

    def maintenance(self, symbol: str = "default") -> contracts.Maintenance:
        """The maintenance rule of a symbol, its latest tiers in it, as `perpbt.contracts` reads one."""
        rule = self.terms("maintenance", symbol)
        tiers = self.brackets(symbol)
        bands = contracts.Maintenance.brackets((t.floor, t.cap, t.rate, t.deduction) for t in tiers)
        on, extra = self.maintenance_on, self.close_out_rate
        if rule is None or rule.rule == "brackets":
            return dataclasses.replace(bands, on=on, close_out_rate=extra)
        steps = tuple(contracts.Band(t.floor, t.cap, t.rate) for t in tiers)
        return contracts.Maintenance(steps, rule.rule == "whole", rule.per_unit, on, extra)

    def maintenance_margin(
        self, notional: float, symbol: str = "default", quantity: float | None = None
    ) -> float:
        """The maintenance margin of a notional N, in quote currency, for N >= 0 (above the last cap too).

        MM(N) = max_k (N * rate_k - deduction_k), the published per-tier form of Binance USD-M and Bybit; with
        risk-limit steps N times the rate of its band; with a rate that grows with size N * (rate + per_unit *
        `quantity`), the quantity in base units. `close_out_rate` is not in it. Raises InputError for a notional
        that is negative or not finite, a missing quantity, or a symbol without brackets.
        """
        rule, size = self.terms("maintenance", symbol), self._money("notional", notional)
        tiers = self.brackets(symbol)
        if rule is None or rule.rule == "brackets":
            return maintenance(tiers, size)
        if rule.rule == "whole":
            return size * next((tier.rate for tier in tiers if size <= tier.cap), tiers[-1].rate)
        if quantity is None:
            raise InputError(f"venue {self.name!r}: quantity: missing; the rate of {symbol} grows with it")
        rate = tiers[0].rate + float(rule.per_unit) * self._money("quantity", quantity)
        return size * rate

    def initial_margin(self, notional: float, leverage: float) -> float:
        """notional / leverage, in quote currency. Raises InputError unless notional >= 0 and leverage > 0."""
        return self._money("notional", notional) / self._money("leverage", leverage, above=True)

    def max_leverage(self, notional: float, symbol: str = "default") -> float:
        """Highest leverage for opening a position of this notional: that of the tier with floor < N <= cap.

        Raises InputError outside (0, last cap]: the venue does not open such a position.
        """
        tiers = self.brackets(symbol)
        for tier in tiers:
            if tier.floor < notional <= tier.cap:
                return tier.max_leverage
        raise InputError(
            f"venue {self.name!r}: notional = {notional!r}: must be in (0, {tiers[-1].cap:.12g}] for {symbol}"
        )

    def initial_margin_rate(
        self,
        notional: float,
        symbol: str = "default",
        *,
        quantity: float = 0.0,
        open_interest: float | None = None,
    ) -> float:
        """The smallest initial margin of a new position, as a share of its notional: 1 / maximum leverage of its tier.

        Where rates grow with size (Deribit) `per_unit` * `quantity` (base units; coin of an inverse contract) is added; where the venue
        states bounds of open interest (dYdX v4: x/perpetuals, liquidity tiers) it rises from the base to 1 between them:
        min(1, base + (OI - lower) / (upper - lower) * (1 - base)). `open_interest` in quote currency; None: it is not known, no rise.
        Raises InputError for a notional no tier holds, or a negative size.
        """
        rate = 1.0 / self.max_leverage(notional, symbol)
        terms = self.terms("maintenance", symbol)
        if terms is None:
            return rate
        rate += float(terms.per_unit) * self._money("quantity", quantity)
        if open_interest is not None and terms.open_interest_upper:
            lower, upper = float(terms.open_interest_lower), float(terms.open_interest_upper)
            above = max(self._money("open_interest", open_interest) - lower, 0.0) / (upper - lower)
            rate += above * (1.0 - rate)
        return min(rate, 1.0)

    def liquidation_price(
        self,
        *,
        side: str,
        entry_price: float,
        quantity: float,
        margin: float,
        symbol: str = "default",
        funding: float = 0.0,
    ) -> float:
        """The mark price at which an isolated position's equity meets its maintenance margin.

        Solves margin + s*Q*(P - entry - funding) = MM + close_out_rate * Q*P, with MM at Q*P, or at Q*entry
        where `maintenance_on` is "entry"; over all tiers, so no iteration: the highest root of a long, the
        lowest of a short. The position is liquidated at this price and beyond. Rules other than brackets, and
        contracts that the venue says are inverse, quanto or of a size other than 1, are solved by
        `perpbt.contracts`, whose answers they are: the first such price from the entry price on; 0.0 (long) or
        infinite (short) where there is none.

        `side` is "long" or "short"; `entry_price` and `quantity` (contracts; base units of a plain one) > 0;
        `margin` >= 0 in settlement currency; `funding` is the cumulative funding a long has paid per unit of
        quantity since entry. The result is the formula's raw value: a long whose margin outweighs its notional
        gets a number <= 0, which means never. Sources: Binance "How to calculate liquidation price of USD-M futures contracts";
        Bybit "Liquidation price (USDT contract)" for the entry basis. Raises InputError for arguments out
        of range.
        """
        long, entry, size, margin = self._position(side, entry_price, quantity, margin, funding)
        rule, contract = self.terms("maintenance", symbol), self._contract(symbol)
        if not contract.plain or (rule is not None and rule.rule != "brackets"):
            paid = size * funding if long else -(size * funding)
            held = contracts.Position(side, entry, size, margin, contract, paid)
            found = contracts.liquidation_price(held, self.maintenance(symbol)).price
            return found if found is not None else 0.0 if long else math.inf
        prices = []
        for rate, deduction in self._lines(symbol, size * entry):
            share = (margin + deduction) / size
            prices.append(
                (entry - share + funding) / (1.0 - rate) if long else (entry + share + funding) / (1.0 + rate)
            )
        return max(prices) if long else min(prices)

    def bankruptcy_price(
        self,
        *,
        side: str,
        entry_price: float,
        quantity: float,
        margin: float,
        funding: float = 0.0,
        symbol: str = "default",
    ) -> float:
        """The price at which the equity is zero: entry - s * margin / Q + funding; of other contracts by `perpbt.contracts`.

        Arguments and errors as in `liquidation_price`; raw as well: <= 0 means a long cannot go bankrupt.
        """
        long, entry, size, margin = self._position(side, entry_price, quantity, margin, funding)
        contract = self._contract(symbol)
        if not contract.plain:
            paid = size * funding if long else -(size * funding)
            found = contracts.bankruptcy_price(
                contracts.Position(side, entry, size, margin, contract, paid)
            ).price
            return found if found is not None else 0.0 if long else math.inf
        return (entry - margin / size if long else entry + margin / size) + funding

    def describe(self) -> str:
        """Readable text: every parameter with its source and date, then the tables, then the tiers."""
        ladders = [
            (symbol, one)
            for symbol, tiers in self.tiers.items()
            for one in self.dated.get(symbol) or (Dated(None, tiers),)
        ]
        values = {key: getattr(self, key) for key in _VALUES}
        head = f"{self.name}: {self.title}" if self.title else self.name
        return described(head, values, self.tables, ladders, self.provenance)

    def _contract(self, symbol: str) -> contracts.Contract:
        """What the venue says a symbol is, without its steps; a plain linear contract where it says nothing."""
        found: contracts.Contract | None = self.terms("contract", symbol)
        return contracts.Contract() if found is None else dataclasses.replace(found, tick=None, lot=None)

    def _lines(self, symbol: str, entry_notional: float) -> list[tuple[float, float]]:
        """The straight lines (slope, deduction) whose upper envelope is what the position must keep."""
        tiers = self.brackets(symbol)
        if self.maintenance_on == "entry":
            return [(self.close_out_rate, -maintenance(tiers, entry_notional))]
        return [(tier.rate + self.close_out_rate, tier.deduction) for tier in tiers]

    def _position(
        self, side: str, entry_price: float, quantity: float, margin: float, funding: float
    ) -> tuple[bool, float, float, float]:
        """The arguments of a price question, checked, side as "is it long"."""
        if side not in ("long", "short"):
            raise InputError(f"venue {self.name!r}: side = {side!r}: must be 'long' or 'short'")
        if not math.isfinite(funding):
            raise InputError(f"venue {self.name!r}: funding = {funding!r}: must be finite")
        entry = self._money("entry_price", entry_price, above=True)
        size = self._money("quantity", quantity, above=True)
        return side == "long", entry, size, self._money("margin", margin)

    def _money(self, name: str, value: float, *, above: bool = False) -> float:
        if not (0.0 < value < math.inf or (value == 0.0 and not above)):
            allowed = "(0, inf)" if above else "[0, inf)"
            raise InputError(f"venue {self.name!r}: {name} = {value!r}: must be in {allowed}")
        return value


_APART = ("name", "title", "tiers", "dated", "tables", "provenance")
_VALUES = [name for name in Venue.model_fields if name not in _APART]


def list_venues() -> tuple[str, ...]:
    """Names `load_venue` knows: the files of `./venues/` and those shipped, sorted."""
    return tuple(sorted(catalogue()))


def load_venue(
    source: str | Path | Venue, tiers_as: Mapping[str, str] | None = None, tiers: str | Path | None = None
) -> Venue:
    """A venue by name, by the path of a TOML file, or as it is.

    A string with a folder in it or ending in ".toml" is a path, any other a name. `tiers` is a Parquet file of
    tier tables, dated or not (`perpbt.venue.tier_files`): those of the symbols in it take the place of the venue's.
    `tiers_as` gives a symbol the tiers of another, for example {"TESTUSDT": "BTCUSDT"}. Raises InputError that
    names the file and lists every fault.
    """
    if not isinstance(source, (str, Path, Venue)):
        raise InputError(
            f"venue is of type {type(source).__name__}; allowed: a name, the path of a TOML file, a Venue"
        )
    venue = source if isinstance(source, Venue) else _read(locate(source))
    if tiers is not None:
        venue = _with_tier_file(venue, tiers)
    if not tiers_as:
        return venue
    ladders, dated, provenance = dict(venue.tiers), dict(venue.dated), dict(venue.provenance)
    for symbol, target in tiers_as.items():
        if target not in venue.tiers:
            place = f"venue {venue.name!r}: tiers_as.{symbol} = {target!r}"
            raise InputError(unknown(place, target, venue.tiers, "symbol"))
        ladders[symbol] = venue.tiers[target]
        dated.pop(symbol, None)
        if target in venue.dated:
            dated[symbol] = venue.dated[target]
        for key in [key for key in provenance if key.startswith(f"tiers.{symbol}@")]:
            del provenance[key]
        provenance[f"tiers.{symbol}"] = Source(source=f"the tiers of {target}, by tiers_as")
    return venue.replace(tiers=ladders, dated=dated, provenance=provenance)


def _with_tier_file(venue: Venue, path: str | Path) -> Venue:
    """The venue with the tier tables of a Parquet file."""
    from perpbt.venue.tier_files import venue_changes

    changes = venue_changes(path)
    kept = {
        key: source
        for key, source in venue.provenance.items()
        if not (key.startswith("tiers.") and key.removeprefix("tiers.").partition("@")[0] in changes["dated"])
    }
    dated = {**venue.dated, **changes["dated"]}
    return venue.replace(tiers=venue.tiers, dated=dated, provenance={**kept, **changes["provenance"]})


def _read(path: Path) -> Venue:
    """The venue a file describes."""
    fields, lines = venue_fields(read_toml(path), path.stem, _VALUES)
    try:
        venue = Venue(**fields)
    except InvalidVenue as error:
        said = {line.partition(":")[0] for line in lines}
        lines += [line for line in error.lines if line.partition(":")[0] not in said]
    if lines:
        raise _invalid(str(path), lines)
    return venue


def _explain(fault: Mapping[str, Any]) -> list[str]:
    """One of pydantic's errors as lines (a table's check may find several): key path, value, rule."""
    place = [str(part) for part in fault["loc"]]
    if place[:1] == ["provenance"] and len(place) > 1:  # in a file these stand beside the value they speak of
        place = place[1:]
    path, kind, value = ".".join(place), fault["type"], fault["input"]
    if kind == "missing":
        return [f"{path}: missing"]
    if kind == "extra_forbidden":
        known = Source.model_fields if len(place) > 1 else Venue.model_fields
        return [unknown(path, place[-1], known)]
    if kind == "value_error":
        lines = str(fault["ctx"]["error"]).splitlines()
        if place[:1] in (["tiers"], ["dated"]):
            path = ".".join(["tiers", *place[1:]])
            return [f"{path}{'' if line.startswith('[') else '.'}{line}" for line in lines]
        return [f"{path} = {value!r}: {line}" for line in lines] if path else lines
    if kind == "literal_error":
        return [f"{path} = {value!r}: must be {fault['ctx']['expected']}"]
    return [f"{path} = {value!r}: {fault['msg']}"]


def _invalid(where: str, lines: list[str]) -> InvalidVenue:
    return InvalidVenue("\n".join(f"{where}: {line}" for line in lines), lines)
