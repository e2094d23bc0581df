"""Crowds while positions still change: who leaves or joins one changes the fills of all in it (MODEL §6)."""

from __future__ import annotations

import numpy as np

from perpbt.coupling.flows import Flows
from perpbt.coupling.groups import Group
from perpbt.kernels.accounts import refill
from perpbt.kernels.sums import exact_sums
from perpbt.kernels.tables import LIQUIDATION, TURNOVER, VOLATILITY, Integers, Table


class Crowding:
    """Fills liquidations of the same world, symbol, side and moment against their total."""

    def follow(self, flows: Flows, number: int, members: Integers, before: Table) -> Integers:
        """Fill the crowds that some members were in before their change, or are in now, again; returns the moments touched."""
        group = flows.groups[number]
        crowds: set[tuple[int, int]] = set()
        names = ("reason", "exit_bar", "phase", "side")
        for reason, exit_bar, phase, side in (
            [before[name] for name in names],
            group.of_rows(members, *names),
        ):
            fell = reason == LIQUIDATION
            moments = 3 * exit_bar[fell] + phase[fell]
            crowds |= set(zip(moments.tolist(), side[fell].tolist(), strict=True))
        together = []
        order = np.argsort(group.until, kind="stable")
        until = group.until[order]
        for moment, side in sorted(crowds):
            first, last = np.searchsorted(until, (moment, moment + 1))
            there = order[first:last]
            there = there[
                (group.side[there] == side) & (group.of.rows["reason"][group.at[there]] == LIQUIDATION)
            ]
            if there.size:
                together.append((moment, there))
        everyone = np.concatenate([members[:0], *(there for _, there in together)])  # nobody is in two crowds
        touched = flows.take_back(number, everyone, everyone[:0])
        for moment, there in together:
            fill(group, there, moment)
        return np.concatenate([touched, flows.bring(number, everyone, everyone[:0])])


def fill(group: Group, members: Integers, moment: int) -> None:
    """Fill the liquidations of one crowd against their total."""
    of, at, bar = group.of, group.at[members], moment // 3
    sold = group.weight[members] * (of.rows["exit_quantity"][at] * of.rows["base"][at])
    volume = exact_sums(sold, np.array([0, sold.size]))
    one = np.ones(members.size)
    volatility, turnover = of.market.series[VOLATILITY, bar], of.market.series[TURNOVER, bar]
    refill(of.rates, of.rows, at, volume[0] * one, volatility * one, turnover * one)
