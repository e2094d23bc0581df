"""One run: which data, venue, fund, world, rules, strategies, policies, start offsets and outputs.

In: the tables of a TOML file (`load_spec`) or keyword arguments. Out: a frozen `RunSpec`, its paths
resolved on request, and the hash of all in it that can change a number. The classes are the tables of the
file, their fields its keys.
"""

from __future__ import annotations

import glob
import hashlib
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, PlainValidator, PrivateAttr, Tag, model_validator

from perpbt.config.coupling import Coupling
from perpbt.config.fields import Duration, Listed, OrNone, Range, Spec, Truth, fault
from perpbt.config.forms import Money, Name, Part, Positive, Rate, Span
from perpbt.config.liquidation import Chosen, Liquidation
from perpbt.config.margin import DynamicMargin
from perpbt.config.memory import Memory
from perpbt.config.policy import PolicyGrid
from perpbt.errors import InputError


def _instant(value: Any) -> datetime:
    """A date is its midnight, a time without a zone is UTC."""
    wanted = "must be a date or a time such as 2020-03-12 or 2020-03-12T10:00:00Z"
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    except ValueError as error:
        raise fault(
            f"must be a date or a time such as 2020-03-12 or 2020-03-12T10:00:00Z ({error})"
        ) from error
    raise fault(wanted)


Instant: TypeAlias = Annotated[datetime, BeforeValidator(_instant, json_schema_input_type=str)]


class DataSpec(Spec):
    """Prices: a file, glob, folder or shipped dataset; `start` inclusive, `end` exclusive, both UTC."""

    path: Name
    symbols: Annotated[Annotated[tuple[Name, ...], Listed()] | None, OrNone()] = None
    start: Annotated[Instant | None, OrNone()] = None
    end: Annotated[Instant | None, OrNone()] = None
    funding: Annotated[Name | None, OrNone()] = None

    @model_validator(mode="after")
    def _in_order(self) -> DataSpec:
        if self.start and self.end and self.start >= self.end:
            raise fault(f"start = {self.start} must be before end = {self.end}")
        return self


class VenueSpec(Spec):
    """A venue by name or path, and what of it this run changes. Left out (None): the venue's own value."""

    name: Name = "binance_um"
    tiers_as: dict[Name, Name] = Field(default_factory=dict)
    """Symbol -> symbol whose tiers it gets; entries for symbols that are not in the data mean nothing."""
    tiers: Annotated[Name | None, OrNone()] = None
    """A Parquet file of tier tables, each from its date, in place of the venue's."""
    taker_fee: Rate | None = None
    maker_fee: Rate | None = None
    slippage: Rate | None = None
    liquidation_fee: Rate | None = None
    close_out_rate: Rate | None = None
    half_spread: Rate | None = None
    impact: Money | None = None
    max_slippage: Rate | None = None
    maintenance_on: Literal["mark", "entry"] | None = None
    surplus_to_fund: Part | None = None

    def overrides(self) -> dict[str, float | str]:
        """The venue fields this run sets, by name."""
        return self.model_dump(exclude={"name", "tiers_as", "tiers"}, exclude_none=True)


class TopUpSpec(Spec):
    """Money put into a fund from outside, in its settlement currency, times no weight."""

    at: Instant
    """It is there at the open of the fund's first bar from then on."""
    amount: Positive
    fund: Name | None = None
    """A symbol, a group, or "all" of a pool; None: each fund of each world is paid so much."""


class FundSpec(Spec):
    """The insurance fund of every world. None: the venue's own value. `seed` in quote money."""

    seed: Annotated[Money | None, OrNone()] = None
    """Opening balance of each fund."""
    scope: Literal["symbol", "pooled"] | None = None
    fee_share: Part | None = None
    hold: Annotated[Span | None, OrNone()] = None
    """How long it takes to sell what it takes over at bankruptcy prices; none: who is liquidated is sold on the market at once."""
    groups: dict[Name, Annotated[tuple[Name, ...], Listed()]] = Field(default_factory=dict)
    """Name -> symbols that share a fund of this name; symbols in no group have their own. Entries for symbols that are not in the data
    mean nothing."""
    top_ups: tuple[TopUpSpec, ...] = ()
    """Dated payments from outside. The ledger tells them in a column `top_up`."""
    protection: bool = True
    """Negative-balance protection: a trader loses the margin and no more, and what a position loses beyond it is a deficit of the fund. Off: it is
    the trader's: out of the wallet of an account that compounds, which trades on with what is left, if anything is, and else a debt. The
    fund pays nothing, nobody is deleveraged; accounts tell it in a column `owed`."""

    @model_validator(mode="after")
    def _apart(self) -> FundSpec:
        if self.groups and self.scope is not None:
            raise fault(f"groups with scope = {self.scope!r}: one of the two")
        whose: dict[str, str] = {}
        for group, symbols in self.groups.items():
            if group == "all":
                raise fault("groups.all: must have another name; a fund of all symbols is scope = 'pooled'")
            for symbol in symbols:
                if symbol in whose:
                    raise fault(f"groups.{group}: {symbol} is in group {whose[symbol]!r} already")
                whose[symbol] = group
        return self


SymbolName: TypeAlias = Annotated[
    str, Field(min_length=1, json_schema_extra={"not": {"const": "days_of_turnover"}})
]


class TurnoverInterest(Spec):
    """Open interest that goes with the market: this many days of a symbol's mean daily turnover over the
    `window` before.

    Turnover is volume x close. Large venues have carried some 0.02 to 0.5 days of it.
    """

    days_of_turnover: Positive
    window: Span = Duration(30 * 86_400_000)


def _interest_form(value: Any) -> str | None:
    if isinstance(value, TurnoverInterest) or (isinstance(value, Mapping) and "days_of_turnover" in value):
        return "<turnover>"
    forms: dict[str, type] = {"<number>": float, "<table>": Mapping, "<path>": str}
    value = float(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return next((tag for tag, kind in forms.items() if isinstance(value, kind)), None)


OpenInterest: TypeAlias = Annotated[
    Annotated[Positive, Tag("<number>")]
    | Annotated[TurnoverInterest, Tag("<turnover>")]
    | Annotated[dict[SymbolName, Positive], Field(min_length=1), Tag("<table>")]
    | Annotated[Name, Tag("<path>")],
    Discriminator(
        _interest_form,
        custom_error_type="form",
        custom_error_message='must be "none", a number above 0, {SYMBOL = number}, {days_of_turnover = number} or a Parquet file',
    ),
]


def _price_form(value: Any) -> str | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "<number>" if number else "<name>" if isinstance(value, str) else None


CoinWorth: TypeAlias = Annotated[
    Annotated[Positive, Tag("<number>")] | Annotated[Name, Tag("<name>")],
    Discriminator(
        _price_form,
        custom_error_type="form",
        custom_error_message="must be a number above 0, a symbol of the data, or a Parquet file",
    ),
]


class WorldSpec(Spec):
    """What the accounts of one strategy x policy are together."""

    open_interest: Annotated[OpenInterest | None, OrNone()] = None
    """Mean total notional in quote money, of the world or by symbol; days of turnover; or a Parquet file
    of it.

    The file's columns: ts, open_interest and, if by symbol, symbol."""
    crowding: Truth = False


class Rules(Spec):
    """Where a venue or a taste differs from the default rules of a bar."""

    intrabar: Literal["pessimistic", "optimistic"] = "pessimistic"
    take_profit_fill: Literal["limit", "open"] = "limit"
    oversize: Literal["reject", "clip"] = "reject"
    funding_price: Literal["mark", "index"] = "mark"
    rounding: Literal["none", "lot", "tick", "both"] = "none"


Scalar: TypeAlias = bool | int | float | str


def _scalar(value: Any) -> Scalar:
    if not isinstance(value, (bool, int, float, str)):
        raise fault("must be a number, a string, true or false")
    return value


class StrategySpec(Spec):
    """A strategy by name or path, and its parameters; `label` names it in every table."""

    name: Name
    params: dict[Name, Annotated[Scalar, PlainValidator(_scalar, json_schema_input_type=Scalar)]] = Field(
        default_factory=dict
    )
    label: str = ""

    @model_validator(mode="before")
    @classmethod
    def _label(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not data.get("label") and isinstance(data.get("name"), str):
            params = data.get("params", {})
            items = sorted(params.items()) if isinstance(params, Mapping) else []
            words = [f"{key}={value}" for key, value in items]
            return {**data, "label": " ".join([Path(data["name"]).stem, *words])}
        return data


def _offsets(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return {"count": value}
    return {"every": value} if isinstance(value, str) else value


class Offsets(Spec):
    """Where accounts start on a symbol: `count` starts spread evenly over its bars, or one `every` 1d."""

    count: Annotated[int, Range(least=1)] | None = None
    every: Span | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Offsets:
        if (self.count is None) == (self.every is None):
            raise fault(f"needs either count (= {self.count}) or every (= {self.every}), not both")
        return self

    def starts(self, times: Sequence[int]) -> list[int]:
        """Indices of the bars at which accounts start, given a symbol's sorted bar times in ms.

        No bar starts two accounts with the same policy, so a short history gives fewer than `count`.
        """
        if self.every is None:
            count = min(self.count or 1, len(times))
            return [k * len(times) // count for k in range(count)]
        if len(times) == 0:
            return []
        targets = range(int(times[0]), int(times[-1]) + 1, int(self.every))
        return sorted({bisect_left(times, target) for target in targets})

    def number(self, history_ms: int | None = None) -> int:
        """How many starts a symbol gets; `every` needs to know how long its history is, in ms."""
        if self.every is None:
            return self.count or 1
        if history_ms is None:
            raise InputError(
                f"offsets.every = {self.every}: how many starts depends on the length of the data"
            )
        return history_ms // self.every + 1


Starts: TypeAlias = Annotated[Offsets, BeforeValidator(_offsets, json_schema_input_type=int | str | Offsets)]


class OutputSpec(Spec):
    """What the run writes besides its statistics."""

    equity_every: Annotated[Span | None, OrNone()] = None
    accounts: Truth = True


class RunSpec(Spec):
    """A whole run. Paths are kept as written; `resolve` finds them."""

    name: str = ""
    title: str = ""
    description: str = ""
    data: DataSpec
    venue: VenueSpec = VenueSpec()
    dynamic: Annotated[DynamicMargin | None, OrNone()] = None
    """Margin rates that follow the market; none: the venue's as they are."""
    fund: FundSpec = FundSpec()
    world: WorldSpec = WorldSpec()
    rules: Rules = Rules()
    liquidation: Chosen = Liquidation()
    """How positions below maintenance are closed: a procedure by name, "venue", or a table of its numbers."""
    conversion: dict[Name, CoinWorth] = Field(default_factory=dict)
    """What coins that money is settled in are worth in quote currency, by coin: a number, a symbol of the data (its close), or a
    Parquet file with columns ts and price. Left out: the price of an inverse symbol of the data that is settled in it."""
    coupling: Annotated[Coupling | None, OrNone()] = None
    """What accounts of one strategy and policy share beside their fund: "fund", "adl", "cascade", or a table of `CouplingSpec`; none:
    nobody's deficit changes anybody else's position."""
    strategy: Annotated[tuple[StrategySpec, ...], Listed()]
    policy: PolicyGrid = PolicyGrid()
    offsets: Starts = Offsets(count=1)
    output: OutputSpec = OutputSpec()
    engine: Name = "auto"
    threads: Annotated[Annotated[int, Range(least=1)] | None, OrNone()] = None
    """Threads of the engine; None: all cores."""
    memory: Annotated[Memory | None, OrNone()] = None
    """Bytes the process may hold, as a number or such as "4GiB"; what does not fit goes to files. None: no bound."""

    _folder: Path | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path | None:
        """The folder the specification was read from."""
        return self._folder

    @model_validator(mode="after")
    def _labels_differ(self) -> RunSpec:
        for label, count in Counter(strategy.label for strategy in self.strategy).items():
            if count > 1:
                raise fault(f"strategy: label {label!r} occurs {count} times; give each strategy its own")
        return self

    def resolve(self, path: str) -> str:
        """Find a path or glob of this spec: absolute, from the working directory, or from the spec's folder.

        What is found nowhere is returned as written: it may be the name of something shipped.
        """
        for base in (Path(), *([self._folder] if self._folder else [])):
            candidate = base / Path(path).expanduser()
            if candidate.exists() or glob.glob(str(candidate), recursive=True):
                return str(candidate)
        return path

    def number_of_accounts(self, symbols: int, history_ms: int | None = None) -> int:
        """Strategies x policies x symbols x starts (`history_ms` as in `Offsets.number`)."""
        return len(self.strategy) * len(self.policy) * symbols * self.offsets.number(history_ms)

    def canonical(self) -> dict[str, Any]:
        """Everything that can change a number, as JSON values; policies expanded and sorted.

        Left out are titles, and threads, memory and engine, which change no result.
        """
        tables = self.model_dump(
            mode="json", exclude={"name", "title", "description", "policy", "engine", "threads", "memory"}
        )
        policies = (policy.model_dump(mode="json") for policy in self.policy.expand())
        return {**tables, "policy": sorted(policies, key=lambda policy: json.dumps(policy, sort_keys=True))}

    def identity(self) -> str:
        """sha256 of `canonical()`, the same for any order of keys.

        Paths count as written: the same on every machine, but a relative and an absolute spelling differ.
        What the files hold is hashed by `Bars.fingerprint` and `Strategy.sha256`.
        """
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """JSON Schema of a run specification, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **RunSpec.model_json_schema()}
