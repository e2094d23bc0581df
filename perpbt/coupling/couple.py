"""A run's positions, coupled: funds settled in time order, touched positions changed in place, tables made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from perpbt.coupling.advancing import Advancing, AdvancingFund
from perpbt.coupling.flows import distinct
from perpbt.coupling.following import FollowedGroup
from perpbt.coupling.groups import Group, SymbolRows
from perpbt.coupling.ledger import coupled_ledger
from perpbt.coupling.loop import Loop, LoopFund, liquidated_weight
from perpbt.coupling.looped import Looped
from perpbt.coupling.pressure import Views
from perpbt.coupling.refilling import Crowding
from perpbt.coupling.settlement import Fund, Settlement
from perpbt.coupling.telling import cascades, deleveraged, spreads, told, told_of_feedback, unpaid
from perpbt.coupling.trading import Trading
from perpbt.coupling.witness import Pushed, Told, read_aloud, run_naively_together
from perpbt.engines.book import Book, Fills
from perpbt.kernels.tables import CALL, DELEVERAGE, REDUCED, Floats, Integers, Market
from perpbt.prepare.mirror import restored_closings
from perpbt.running.conclude import Coupled, Labels, scaled
from perpbt.running.setting import Setting
from perpbt.running.terms import Terms
from perpbt.settling.settled import Transfers
from perpbt.settling.topping import payments
from perpbt.settling.weights import Weights


class Door(Protocol):
    """What coupling must know of the door a run came in by."""

    loops: bool  # whether its positions can be taken through the bars together

    def meet(
        self, book: Book, weights: Weights, weight: Floats, times: Integers, markets: Mapping[int, Market]
    ) -> tuple[list[SymbolRows], list[Group]]:
        """All positions, by symbol and by world and symbol; `weight` is that of each row of the table."""

    def put_back(self, book: Book, symbols: list[SymbolRows], groups: list[Group]) -> None:
        """The positions as they have become, in the order of the table; `table_rows` then says which rows they are."""

    def lanes(self) -> Integers:
        """What tells the accounts of rows apart within their group, row by row of the table."""

    @property
    def labels(self) -> Labels:
        """Whose rows they are."""


def couple(setting: Setting, book: Book, door: Door, terms: Terms, markets: Mapping[int, Market]) -> Coupled:
    """Settle all funds in time order and change whom shortfalls touch; the order's blocks hold the new rows."""
    tasks = list(book.order.tasks())
    weights, crowds = scaled(setting, book, tasks, 1)
    weight = np.ones(book.size)
    for task in tasks:
        chunk = book.chunk(task)
        if crowds is not None:
            crowds.fill(book, task, chunk)
        weight[chunk.to] = weights.of(chunk)
    times = distinct(np.sort(book.times))
    symbols, groups = door.meet(book, weights, weight, times, markets)
    _, whose = setting.terms.funds(book.symbols)
    shared = funds(groups, whose)
    seed, share = setting.terms.seed, setting.terms.fee_share
    settlements: Sequence[Fund | Told]
    pushed: Sequence[Looped | Pushed] = []
    cascade = terms.spec.kind == "cascade"
    before = liquidated_weight(groups) if cascade else 0.0
    if setting.engine == "oracle" or read_aloud(setting, book, terms, groups):
        settlements, pushed = run_naively_together(setting, book, terms, shared, times)
    elif cascade:
        pushed, settlements = looped(setting, book, terms, symbols, groups, times, whose)
    elif setting.engine == "dense" and door.loops:
        settlements = advanced(setting, book, terms, symbols, groups, times, whose)
    else:
        crowding = Crowding() if setting.crowding else None
        leaping = [Settlement(mine, terms, seed, share, times, crowding) for mine in shared]
        watched(setting, leaping, times)
        pay(setting, book, leaping, times, whose)
        for settlement in leaping:
            settlement.run()
        settlements = leaping
    groups = [group for one in settlements for group in one.groups]
    door.put_back(book, symbols, groups)
    note_again(book, symbols)
    adl = deleveraged(door.labels, door.lanes(), book.size, settlements, times)
    adl = restored_closings(adl, setting.contracts)
    if setting.settlement is not None:
        adl = setting.settlement.columns(adl, "time")
    rounds = spreads(book, settlements, times)
    if setting.settlement is not None:
        rounds = setting.settlement.columns(rounds, "time")
    made = Coupled(
        weights=weights,
        transfers=transfers(groups),
        fund=coupled_ledger(book, setting.terms, symbols, groups, settlements, times),
        given_up=math.fsum(math.fsum((group.weight * group.given_up).tolist()) for group in groups),
        extra={"adl": adl, "adl_rounds": rounds},
        metadata={"coupling": told(terms, adl)},
    )
    setting.notes += unpaid(made.fund)
    if terms.spec.kind == "cascade":
        if setting.equity_every is not None:
            setting.pushed = {(one.world, one.of.index): one.market_as_pushed() for one in pushed}
        made.extra["cascades"] = cascades(book, pushed)
        made.metadata["coupling"] |= told_of_feedback(
            made.extra["cascades"], before, liquidated_weight(groups)
        )
    return made


def looped(
    setting: Setting,
    book: Book,
    terms: Terms,
    symbols: list[SymbolRows],
    groups: list[Group],
    times: Integers,
    whose: Integers,
) -> tuple[list[Looped], list[Fund]]:
    """Everybody through all bars together, in rows of their own."""
    made: list[Looped] = []
    for of in symbols:
        of.rows = of.rows.copy()
        for group in (group for group in groups if group.of is of):
            views = Views(of.market, terms.pressure, of.rates.slippage)
            if isinstance(group, FollowedGroup):
                made.append(Trading(group.followed, group.world, group.weigh, views))
            else:
                made.append(Looped(of, group.world, group.at, group.weight, group.identifier, views))
    shared = [
        LoopFund(mine, terms, setting.terms.seed, setting.terms.fee_share, times)
        for mine in funds(made, whose)
    ]
    watched(setting, shared, times)
    pay(setting, book, shared, times, whose)
    Loop(made, shared, setting.crowding).run()
    return made, list(shared)


def pay(setting: Setting, book: Book, shared: Sequence[Fund], times: Integers, whose: Integers) -> None:
    """Tell funds what is put into them, and when."""
    events, amounts = payments(book, setting.terms)
    for fund in shared:
        of = fund.groups[0]
        mine = (events["world"] == of.world) & (whose[events["symbol"]] == whose[of.of.index])
        if mine.any():
            fund.pay_in(3 * np.searchsorted(times, events["time"][mine]), amounts[mine])


def watched(setting: Setting, shared: Sequence[Fund], times: Integers) -> None:
    """Whoever watches the run is told how many bars the funds have come through, a hundredth at a time."""
    progress, bars, told = setting.progress, np.zeros(len(shared), dtype=np.int64), [0]
    if progress is None:
        return
    whole, step = len(shared) * times.size, max(len(shared) * times.size // 100, 1)

    def at(number: int, bar: int) -> None:
        bars[number] = bar + 1
        done = int(bars.sum())
        if done - told[0] >= step:
            told[0] = done
            progress("together", done, whole)

    for number, fund in enumerate(shared):
        fund.watch = partial(at, number)


def advanced(
    setting: Setting, book: Book, terms: Terms, symbols: list[SymbolRows], groups: list[Group], times: Integers, whose: Integers
) -> list[Fund]:  # fmt: skip
    """The same where nobody pushes the price."""
    made = [Advancing(group) for of in symbols for group in groups if group.of is of]
    seed, share = setting.terms.seed, setting.terms.fee_share
    shared = [AdvancingFund(mine, terms, seed, share, times, setting.crowding) for mine in funds(made, whose)]
    watched(setting, shared, times)
    pay(setting, book, shared, times, whose)
    for fund in shared:
        fund.run()
    return list(shared)


def note_again(book: Book, symbols: list[SymbolRows]) -> None:
    """Note the bars in which anybody is liquidated now."""
    for index in sorted({of.index for of in symbols}):
        own = [of for of in symbols if of.index == index]
        fills, part = Fills(own[0].market), book.parts[index]
        for of in own:
            fills.note(of.rows)
        now = fills.part(own[0].rates)
        part.liquidated_bars, part.volatility, part.turnover = (
            now.liquidated_bars,
            now.volatility,
            now.turnover,
        )
        part.liquidated, part.flat = now.liquidated, now.flat


AGroup = TypeVar("AGroup", bound=Group)


def funds(groups: list[AGroup], whose: Integers) -> list[list[AGroup]]:
    """The groups that share a fund, symbols in order; `whose` is the number of each symbol's fund."""
    found: dict[tuple[int, int], list[AGroup]] = {}
    for group in groups:
        found.setdefault((group.world, int(whose[group.of.index])), []).append(group)
    return list(found.values())


def owed_to_the_fund(of: SymbolRows) -> Floats:
    """The deficits of rows, those of parts included; money taken out of margins is none."""
    calls = np.concatenate([np.empty(0, dtype=CALL), *of.calls])
    parts = calls[((calls["action"] == DELEVERAGE) | (calls["action"] == REDUCED)) & (calls["deficit"] > 0.0)]
    of_parts = np.zeros(of.rows.size)
    np.add.at(of_parts, parts["row"], parts["deficit"])
    made: Floats = of_parts + of.rows["deficit"]
    return made


def transfers(groups: list[Group]) -> Transfers:
    """What rows of the table gave up."""
    touched = [np.flatnonzero((group.given_up > 0.0) | (group.socialised > 0.0)) for group in groups]
    row = [group.of.table_rows[group.at[here]] for group, here in zip(groups, touched, strict=True)]
    given = [group.given_up[here] for group, here in zip(groups, touched, strict=True)]
    socialised = [group.socialised[here] for group, here in zip(groups, touched, strict=True)]
    owed = {name: owed_to_the_fund(of) for name, of in {id(group.of): group.of for group in groups}.items()}
    deficit = [owed[id(group.of)][group.at[here]] for group, here in zip(groups, touched, strict=True)]
    everyone = np.concatenate([np.zeros(0, dtype=np.int64), *row])
    order = np.argsort(everyone)
    return Transfers(
        everyone[order],
        *(np.concatenate([np.zeros(0), *part])[order] for part in (given, socialised, deficit)),
    )
