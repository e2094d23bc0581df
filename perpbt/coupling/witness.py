"""The naive coupled oracle as an engine: plain Python behind the same doors, where accounts meet.

In: the positions of a run, as asked for. Out: their rows, and each fund's path, as `perpbt.oracle.run_market` tells them. This module only
translates, as `perpbt.engines.witness` does for accounts that do not meet. Worlds never meet: the oracle goes through one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perpbt import oracle
from perpbt.adl import Candidates, allocate, spread
from perpbt.coupling.following import FollowedGroup, FollowedRows
from perpbt.coupling.groups import Group, SymbolRows
from perpbt.coupling.looped import Push
from perpbt.coupling.settlement import Covered
from perpbt.coupling.shortfall import Cover
from perpbt.engines.book import Book
from perpbt.engines.witness import (
    MOST_ACCOUNT_BARS,
    as_table,
    bars_of,
    call_record,
    orders_of,
    policy_of,
    row_record,
    rules_of,
    series_of,
    signals_of,
    venue_of,
)
from perpbt.errors import InputError
from perpbt.kernels.tables import CALL, FUNDING, MARK_CLOSE, ROW, Floats, Integers, Market
from perpbt.oracle.shapes import Record
from perpbt.procedures import procedure_for
from perpbt.running.setting import Setting
from perpbt.running.terms import Terms

PHASES = {"B": 0, "C": 1, "end": 2}
NUMBERS = ("side", "quantity", "entry", "margin", "funding_paid", "mark", "maintenance", "bankruptcy")


@dataclass
class Told:
    """A fund's path, as `perpbt.coupling.settlement.Fund` keeps it."""

    groups: Sequence[Group]
    keys: list[Integers] = field(default_factory=list)
    balances: list[Floats] = field(default_factory=list)
    covered: list[Covered] = field(default_factory=list)
    events: list[tuple[int, Group, list[dict[str, Any]]]] = field(default_factory=list)
    rounds: list[tuple[int, Group, list[dict[str, Any]]]] = field(default_factory=list)


@dataclass
class Pushed:
    """How often and how far the price of a world and symbol was pushed."""

    of: SymbolRows
    world: int
    pushes: list[Push]
    closes: Floats  # the mark each bar closed at

    def market_as_pushed(self) -> Market:
        """The bars, closing as they were pushed."""
        series = self.of.market.series.copy()
        series[MARK_CLOSE] = 1.0 / self.closes if self.of.rates.terms.inverse else self.closes
        return self.of.market._replace(series=series)


def read_aloud(setting: Setting, book: Book, terms: Terms, groups: Sequence[Group]) -> bool:
    """Whether a run needs plain Python, for what the engines of accounts that meet do not know; said in a note."""
    cascade = terms.spec.kind == "cascade"
    inverse = any(group.of.rates.terms.inverse for group in groups)
    called = any(isinstance(group.of, FollowedRows) and group.of.plan["call_action"][0] for group in groups)
    steps = any(not setting.procedures.of(book.symbols[group.of.index]).plain for group in groups)
    causes = {
        "policies with a margin_call": called,
        "inverse contracts in a cascade": cascade and inverse,
        "liquidation in steps": steps,
    }
    found = [cause for cause, holds in causes.items() if holds]
    if found:
        setting.notes.append(
            f"coupling with {' and '.join(found)}: accounts meet in plain Python, the engine 'oracle', at its speed"
        )
    return bool(found)


def check_size(own: Mapping[str, Group]) -> None:
    """Plain Python looks at each account at each bar. Raises InputError where that is too much."""
    looked = sum(
        (of.starts.size if isinstance(of, FollowedRows) else group.at.size) * of.market.time.size
        for group in own.values()
        for of in [group.of]
    )
    if looked > MOST_ACCOUNT_BARS:
        raise InputError(
            f"accounts that meet in plain Python: {looked:,} accounts x bars of one world; allowed: at most {MOST_ACCOUNT_BARS:,}, or "
            "engine = 'skip' or 'dense' without margin calls, liquidation in steps, or inverse contracts in a cascade"
        )


def run_naively_together(
    setting: Setting, book: Book, terms: Terms, shared: Sequence[Sequence[Group]], times: Integers
) -> tuple[list[Told], list[Pushed]]:
    """Everybody through all bars, world by world; the groups' rows become what they have lived. `shared` are the groups of each fund."""
    told = [Told(groups) for groups in shared]
    groups = [group for one in told for group in one.groups]
    pushed: list[Pushed] = []
    lived: dict[int, list[tuple[Group, list[Record]]]] = {}
    for world in sorted({group.world for group in groups}):
        own = {book.symbols[group.of.index]: group for group in groups if group.world == world}
        check_size(own)
        found, firsts = through(setting, book, terms, own)
        for symbol, group in own.items():
            records = [row for row in found["rows"] if row["symbol"] == symbol]
            lived.setdefault(id(group.of), []).append((group, records))
            closes = np.array([one["mark_close"] for one in found["closes"] if one["symbol"] == symbol])
            pushed.append(Pushed(group.of, world, pushes_of(found, symbol, group), closes))
        for fund in told:
            if fund.groups[0].world == world:
                name = setting.terms.names([book.symbols[fund.groups[0].of.index]])[0]
                follow_fund(fund, name, found, own, firsts, times, terms)
    for of in {id(group.of): group.of for group in groups}.values():
        put_in(of, lived[id(of)])
    return told, pushed


# ----------------------------------------------------------------------------------- what the oracle reads
def through(setting: Setting, book: Book, terms: Terms, own: Mapping[str, Group]) -> tuple[Record, list[int]]:
    """One world through time: what the oracle tells, and of each person which of its symbol's rows is the first."""
    bars: dict[str, list[Record]] = {}
    cf: dict[str, list[float]] = {}
    venues: dict[str, Record] = {}
    people: list[Record] = []
    for symbol, group in own.items():
        of = group.of
        inverse = of.rates.terms.inverse
        bars[symbol] = bars_of(of.market, inverse)
        moved = of.market.series[FUNDING]
        cf[symbol] = (0.0 - moved if inverse else moved).tolist()
        venues[symbol] = venue_of(of.rates, procedure_for(setting.procedures.of(symbol)))
        people += people_of(group, symbol)
    fund = setting.terms
    venue = {
        "own": venues, "fund_seed": fund.seed, "fund_fee_share": fund.fee_share, "fund_scope": "pooled" if fund.pooled else "symbol",
        "fund_groups": {name: list(symbols) for name, symbols in fund.groups},
        "top_ups": [(paid.time, paid.amount, paid.fund) for paid in fund.top_ups],
        "elsewhere": {
            symbol: part.time.tolist()
            for symbol, part in zip(book.symbols, book.parts, strict=True)
            if fund.top_ups and symbol not in own
        },
    }  # fmt: skip
    rules = rules_of(next(iter(own.values())).of.rates)
    found = oracle.run_market(bars, cf, people, venue, rules, options_of(setting, terms), allocation(terms))
    firsts, counts = [], dict.fromkeys(own, 0)
    rows = Counter(row["account"] for row in found["rows"])
    for one in people:
        firsts.append(counts[one["symbol"]])
        counts[one["symbol"]] += rows[one["account"]]
    return found, firsts


def people_of(group: Group, symbol: str) -> list[Record]:
    """The oracle's persons of a group: given positions, or accounts that follow signals."""
    of = group.of
    inverse = of.rates.terms.inverse
    if isinstance(of, FollowedRows):
        assert isinstance(group, FollowedGroup)
        follow = {
            "signals": signals_of(of.signals, inverse),
            "policy": policy_of(of.plan[0], series_of(of.signals, of.plan, inverse)),
            "weigh": weighing(group.weigh),
        }
        return [
            {
                "account": (symbol, lane), "identifier": lane, "world": group.world, "symbol": symbol, "weight": 1.0,
                "follow": follow | {"start_bar": start},
            }
            for lane, start in enumerate(of.starts.tolist())
        ]  # fmt: skip
    plans, signals, lanes = of.asked(group.at)
    series = series_of(signals, plans, inverse)
    people, bars = [], of.market.time.size
    for k in range(group.at.size):
        policy, lane = policy_of(plans[k], series), lanes[k]
        due, entry = int(lane["exit_due"]), int(lane["bar"])
        order = policy | {
            "side": int(-lane["fixed_side"] if inverse else lane["fixed_side"]),
            "collateral": policy["sizing"]["amount"], "wallet": policy["capital"], "exit_due": due if due >= 0 else None,
        }  # fmt: skip
        people.append({
            "account": (symbol, k), "identifier": int(group.identifier[k]), "world": group.world, "symbol": symbol,
            "weight": float(group.weight[k]), "order": order, "entry_bar": entry if entry < bars else None,
        })  # fmt: skip
    return people


def weighing(weigh: Callable[[Any], Floats]) -> Callable[[int], float]:
    """The weight of a position by the bar it is opened in."""

    def at(bar: int) -> float:
        return float(weigh(as_table(ROW, [{"entry_bar": bar}]))[0])

    return at


def options_of(setting: Setting, terms: Terms) -> Record:
    """How accounts meet, by name."""
    adl, trigger, spec = terms.adl, terms.trigger, terms.pressure
    return {
        "adl": adl is not None, "price": terms.price, "fee": adl.fee if adl else 0.0, "outside": adl.outside if adl else 0.0,
        "socialised": None if terms.spec.socialised == "none" else terms.spec.socialised,
        "trigger": trigger and {
            "drawdown": trigger.drawdown, "least": trigger.least, "window": int(trigger.window),
            "resume": trigger.drawdown if trigger.resume is None else trigger.resume,
        },
        "pressure": spec and spec.model_dump() | {"share": spec.mark_share},
        "crowding": setting.crowding,
    }  # fmt: skip


def candidates_of(told: Sequence[Record]) -> Candidates:
    """The oracle's candidates as policies read them."""
    numbers = {name: np.array([one[name] for one in told], dtype=np.float64) for name in NUMBERS}
    identifier = np.array([one["identifier"] for one in told], dtype=np.int64)
    return Candidates(**numbers, identifier=identifier)


def allocation(terms: Terms) -> Callable[[list[Record], float], list[float]]:
    """The policy, as the oracle calls it."""

    def closed(told: list[Record], quantity: float) -> list[float]:
        assert terms.adl is not None
        made: list[float] = allocate(
            terms.policy, candidates_of(told), quantity, lot=terms.adl.lot, **terms.adl.options
        ).tolist()
        return made

    return closed


# ---------------------------------------------------------------------------------- what the oracle answers
def put_in(of: SymbolRows, parts: Sequence[tuple[Group, list[Record]]]) -> None:
    """The rows of a symbol's table, and the parts closed of them; its groups learn what was given up for others."""
    inverse, funding = of.rates.terms.inverse, of.market.series[FUNDING].tolist()
    rows: dict[int, Record] = {}
    calls: list[Record] = []
    for group, records in parts:
        followed = isinstance(group, FollowedGroup)  # positions that came and went: a group alone has a table
        if followed:
            group.at = np.arange(len(records))
        for row, place in zip(records, group.at.tolist(), strict=True):
            rows[place] = row_record(row, row["account"][1] if followed else 0, funding, inverse)
            calls += [call_record(called(order), place) for order in orders_of(row)]
        group.given_up, group.socialised = (
            np.array([row[name] for row in records], dtype=np.float64) for name in ("given_up", "socialised")
        )
    of.rows = as_table(ROW, [rows[place] for place in range(len(rows))])
    of.calls = [as_table(CALL, calls)]
    for group, _ in parts:
        if isinstance(group, FollowedGroup):
            renew(group)


def called(order: Record) -> Record:
    """A change by others, as the margin order it resembles: a part closed, or money gone without a return, as a debt that was paid."""
    if order["action"] == "adl":
        return order | {"action": "deleverage"}
    return (
        order | {"action": "deleverage", "deficit": -order["taken"]}
        if order["action"] == "socialised"
        else order
    )


def renew(group: FollowedGroup) -> None:
    """A group of the positions that its accounts have had in the end."""
    rows = group.of.rows
    group.gone = np.zeros(rows.size, dtype=np.bool_)
    group.identifier, group.side = rows["lane"].copy(), rows["side"].astype(np.float64)
    group.weight = group.weigh(rows)


def pushes_of(found: Record, symbol: str, group: Group) -> list[Push]:
    """The pushes of a symbol's price."""
    bar = {time: i for i, time in enumerate(group.of.market.time.tolist())}
    return [
        Push(
            3 * bar[one["time"]] + PHASES[one["phase"]], one["side"], one["rounds"], one["liquidations"], one["first"],
            [one["volume"]], [one["first_volume"]], one["displacement"],
        )
        for one in found["cascades"]
        if one["symbol"] == symbol
    ]  # fmt: skip


def follow_fund(
    fund: Told, name: str, found: Record, own: Mapping[str, Group], firsts: Sequence[int], times: Integers, terms: Terms
) -> None:  # fmt: skip
    """A fund's path, and what shortfalls did, out of what the oracle tells."""
    place = {time: 3 * i for i, time in enumerate(times.tolist())}
    mine = [symbol for symbol, group in own.items() if any(group is one for one in fund.groups)]
    for step in found["steps"]:
        if step["fund"] != name:
            continue
        key = place[step["time"]] + PHASES[step["phase"]]
        fund.keys.append(np.array([key]))
        fund.balances.append(np.array([step["balance"]]))
        fund.covered += [
            Covered(key, own[symbol], Cover(**cover)) for symbol, cover in step["covers"].items()
        ]
    for one in (one for one in found["adl"] + found["socialised"] if one["symbol"] in mine):
        group, key = own[one["symbol"]], place[one["time"]] + PHASES[one["phase"]]
        fund.events.append((key, group, [event_of(one, firsts, group)]))
    for one in (one for one in found["rounds"] if one["symbol"] in mine):
        key, candidates = place[one["time"]] + PHASES[one["phase"]], candidates_of(one["candidates"])
        lot = None if terms.adl is None else terms.adl.lot
        measured = spread(
            candidates, np.array(one["closed"], dtype=np.float64), one["wanted"], one["price"], lot
        )
        told = {"side": one["side"], "winners": len(one["closed"])} | measured
        fund.rounds.append((key, own[one["symbol"]], [told]))


def event_of(one: Record, firsts: Sequence[int], group: Group) -> dict[str, Any]:
    """What was closed of one position, or taken out of its margin, as a shortfall tells it."""
    closed = "quantity" in one
    turned = -1.0 if group.of.rates.terms.inverse else 1.0
    numbers = (
        {
            "bankrupt_side": turned * one["bankrupt_side"], "quantity": one["quantity"], "fraction": one["fraction"],
            "price": one["reading"], "given_up": one["given_up"],
        }
        if closed
        else {"bankrupt_side": 0.0, "quantity": 0.0, "fraction": 0.0, "price": np.nan, "given_up": one["taken"]}
    )  # fmt: skip
    return {
        "member": np.array([firsts[one["who"]] + one["position"]]),
        "kind": np.array(["adl" if closed else "socialised"]),
        **{name: np.array([value], dtype=np.float64) for name, value in numbers.items()},
    }
