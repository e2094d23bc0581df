"""A run's positions, coupled: funds settled in time order, touched positions changed in place, tables made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import polars as pl

from perpbt.coupling.groups import Group, SymbolRows
from perpbt.coupling.ledger import coupled_ledger
from perpbt.coupling.loop import Loop, LoopFund, liquidated_weight
from perpbt.coupling.looped import Looped
from perpbt.coupling.pressure import Views
from perpbt.coupling.refilling import Crowding
from perpbt.coupling.settlement import Fund, Settlement
from perpbt.coupling.telling import cascades, deleveraged, told, told_of_feedback
from perpbt.engines.book import Block, Book, Fills
from perpbt.engines.given import GivenOrder
from perpbt.kernels.tables import Integers, Market
from perpbt.prepare.arrays import no_signals
from perpbt.running.conclude import Coupled, scaled
from perpbt.running.setting import Setting
from perpbt.running.terms import Terms
from perpbt.settling.settled import Transfers


def couple(
    setting: Setting, book: Book, order: GivenOrder, terms: Terms, markets: Mapping[int, Market]
) -> Coupled:
    """Settle all funds in time order and change whom shortfalls touch; the order's blocks hold the new rows."""
    tasks = list(order.tasks())
    weights, crowds = scaled(setting, book, tasks, 1)
    weight = np.ones(order.size)
    for task in tasks:
        chunk = book.chunk(task)
        if crowds is not None:
            crowds.fill(book, task, chunk)
        weight[chunk.to] = weights.of(chunk)
    times = np.unique(book.times)
    symbols = [
        symbol_rows(book, order, number, markets[order.placed[number].block.symbol], times)  # type: ignore[union-attr]
        for number in range(len(order.placed))
    ]
    names = identifiers(order)
    groups = [
        group for of in symbols for group in worlds_of(order, of, weight[of.table_rows], names[of.table_rows])
    ]
    shared = funds(groups, setting.terms.pooled)
    seed, share = setting.terms.seed, setting.terms.fee_share
    settlements: list[Fund]
    pushed: list[Looped] = []
    before = liquidated_weight(groups)
    if terms.spec.kind == "cascade" or setting.engine == "dense":
        pushed, settlements = looped(setting, terms, symbols, groups, times)
    else:
        crowding = Crowding() if setting.crowding else None
        settlements = [Settlement(mine, terms, seed, share, times, crowding) for mine in shared]
        for settlement in settlements:
            settlement.run()  # type: ignore[attr-defined]
    groups = [group for settlement in settlements for group in settlement.groups]
    for placed, of in zip(order.placed, symbols, strict=True):
        placed.block = Block(of.index, of.rows, of.all_calls())
        note_again(book, of)
    adl = deleveraged(order, settlements, times)
    made = Coupled(
        weights=weights,
        transfers=transfers(groups),
        fund=coupled_ledger(book, setting.terms, symbols, groups, settlements, times, weight),
        given_up=math.fsum(math.fsum((group.weight * group.given_up).tolist()) for group in groups),
        extra={"adl": adl},
        metadata={"coupling": told(terms, adl)},
    )
    if terms.spec.kind == "cascade":
        made.extra["cascades"] = cascades(book, pushed)
        made.metadata["coupling"] |= told_of_feedback(
            made.extra["cascades"], before, liquidated_weight(groups)
        )
    return made


def looped(
    setting: Setting, terms: Terms, symbols: list[SymbolRows], groups: list[Group], times: Integers
) -> tuple[list[Looped], list[Fund]]:
    """Everybody through all bars together, in rows of their own."""
    made: list[Looped] = []
    for of in symbols:
        of.rows = of.rows.copy()
        for group in (group for group in groups if group.of is of):
            views = Views(of.market, terms.pressure, of.rates.slippage)
            made.append(Looped(of, group.world, group.at, group.weight, group.identifier, views))
    shared = [
        LoopFund(mine, terms, setting.terms.seed, setting.terms.fee_share, times)
        for mine in funds(made, setting.terms.pooled)
    ]
    Loop(made, shared, setting.crowding).run()
    return made, list(shared)


def note_again(book: Book, of: SymbolRows) -> None:
    """Note the bars in which anybody is liquidated now."""
    fills, part = Fills(of.market), book.parts[of.index]
    fills.note(of.rows)
    now = fills.part(of.rates)
    part.liquidated_bars, part.volatility, part.turnover = now.liquidated_bars, now.volatility, now.turnover
    part.liquidated, part.flat = now.liquidated, now.flat


def symbol_rows(book: Book, order: GivenOrder, number: int, market: Market, times: Integers) -> SymbolRows:
    """The positions of one symbol."""
    placed = order.placed[number]
    assert placed.block is not None
    assert isinstance(placed.block.rows, np.ndarray)  # no bound on memory
    index = placed.block.symbol
    return SymbolRows(
        index=index,
        market=market,
        rates=book.parts[index].rates,
        signals=no_signals(market.time.size),
        wishes=order.wishes,
        rows=placed.block.rows,
        table_rows=placed.rows,
        when=np.searchsorted(times, market.time),
    )


def identifiers(order: GivenOrder) -> Integers:
    """A whole number for each row, ascending with the account and with the position among its own: ties go by it."""
    accounts = order.accounts
    position = pl.col("account").cum_count().over("account")
    ranks = accounts.select(pl.struct("account", position.alias("position")).rank("ordinal"))
    return ranks.to_series().to_numpy().astype(np.int64)


def worlds_of(order: GivenOrder, of: SymbolRows, weight: np.ndarray, names: Integers) -> list[Group]:
    """The positions of a symbol, world by world."""
    world = order.world_of(of.table_rows)
    return [
        Group(of, int(number), at, weight[at], names[at])
        for number in np.unique(world)
        for at in [np.flatnonzero(world == number)]
    ]


AGroup = TypeVar("AGroup", bound=Group)


def funds(groups: list[AGroup], pooled: bool) -> list[list[AGroup]]:
    """The groups that share a fund, symbols in order."""
    if not pooled:
        return [[group] for group in groups]
    return [
        [group for group in groups if group.world == world]
        for world in sorted({group.world for group in groups})
    ]


def transfers(groups: list[Group]) -> Transfers:
    """What rows of the table gave up."""
    touched = [np.flatnonzero((group.given_up > 0.0) | (group.socialised > 0.0)) for group in groups]
    row = [group.of.table_rows[group.at[here]] for group, here in zip(groups, touched, strict=True)]
    given = [group.given_up[here] for group, here in zip(groups, touched, strict=True)]
    socialised = [group.socialised[here] for group, here in zip(groups, touched, strict=True)]
    deficit = [group.of.rows["deficit"][group.at[here]] for group, here in zip(groups, touched, strict=True)]
    everyone = np.concatenate([np.zeros(0, dtype=np.int64), *row])
    order = np.argsort(everyone)
    return Transfers(
        everyone[order],
        *(np.concatenate([np.zeros(0), *part])[order] for part in (given, socialised, deficit)),
    )
