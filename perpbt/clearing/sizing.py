"""How large a default fund has to be: Cover-1, Cover-2, and how concentrated exposures are.

In: losses of members under scenarios, or open positions and price scenarios. Out: a size and where it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from perpbt.clearing.netting import NETTING, Members, Netting, with_members
from perpbt.errors import InputError

Floats = npt.NDArray[np.float64]


class Cover(NamedTuple):
    """A default fund and the scenario that sizes it."""

    size: float  # money
    scenario: int  # its row
    members: tuple[int, ...]  # columns of those that fail in it, the largest first
    uncovered: Floats  # (scenarios,): what each scenario would need


def cover(losses: npt.ArrayLike, margin: npt.ArrayLike = 0.0, *, failing: int = 2) -> Cover:
    """Default fund that covers the `failing` members with the largest losses in the worst scenario:
    max over scenarios of the sum of the largest (loss - margin)+.

    `losses` (scenarios, members), money; `margin` one amount or one a member. Cover-1 and Cover-2 are `failing`
    1 and 2 (PFMI principle 4; ADGM MIR 4.6.4). Ties go to the first scenario and member.
    """
    stressed = np.asarray(losses, dtype=np.float64)
    if stressed.ndim != 2 or 0 in stressed.shape:
        raise InputError(f"losses have shape {stressed.shape}; allowed: (scenarios, members)")
    if not 1 <= failing <= stressed.shape[1]:
        raise InputError(f"failing is {failing}; allowed: 1 to {stressed.shape[1]}, the members")
    held = np.asarray(margin, dtype=np.float64)
    if held.shape not in ((), (stressed.shape[1],)):
        raise InputError(
            f"margin has shape {held.shape}; allowed: one amount, or ({stressed.shape[1]},), one a member"
        )
    for name, values in (("losses", stressed), ("margin", held)):
        if not np.isfinite(values).all():
            at = tuple(int(place) for place in np.argwhere(~np.isfinite(values))[0])
            raise InputError(f"{name}{list(at) or ''} is {float(values[at])!r}; allowed: finite numbers")
    beyond = np.maximum(stressed - held, 0.0)
    order = np.argsort(-beyond, axis=1, kind="stable")[:, :failing]
    needs = np.array([math.fsum(row) for row in np.take_along_axis(beyond, order, axis=1)])
    worst = int(np.argmax(needs))
    failed = tuple(int(member) for member in order[worst] if beyond[worst, member] > 0.0)
    return Cover(float(needs[worst]), worst, failed, needs)


def concentration_factor(exposures: npt.ArrayLike) -> float:
    """Share of the two largest exposures in all: (PCE_1 + PCE_2) / sum of PCE (EMIR Art. 50d); NaN for none."""
    values = np.sort(np.asarray(exposures, dtype=np.float64))[::-1]
    if values.size and values[-1] < 0.0:
        raise InputError(f"exposures hold {float(values[-1])}; allowed: at least 0")
    whole = math.fsum(values)
    return math.fsum(values[:2]) / whole if whole > 0.0 else math.nan


def stressed_losses(
    positions: pl.DataFrame,
    scenarios: Mapping[str, Mapping[str, float]] | Sequence[Mapping[str, float]],
    members: Members,
    *,
    prices: Mapping[str, float] | None = None,
    netting: Netting = "none",
) -> tuple[Floats, list[str], list[Any]]:
    """What members would owe beyond the margins of their accounts: (scenarios, members) money, and both names.

    `positions`: open ones, with account, symbol, side, quantity, entry_price, margin, weight. A scenario maps
    symbols to relative moves of their price (-.3: down 30 %; absent: none) from `prices`, default each
    position's entry price. `netting` as for `member_losses`: "none", each position's shortfall is owed;
    "symbol", "member": what a member's other positions are still worth stands for it.
    """
    if netting not in NETTING:
        raise InputError(f"netting is {netting!r}; allowed: {', '.join(NETTING)}")
    named = (
        dict(scenarios)
        if isinstance(scenarios, Mapping)
        else {f"scenario {i + 1}": one for i, one in enumerate(scenarios)}
    )
    if not named:
        raise InputError("scenarios: none; allowed: at least one")
    owned = with_members(positions, members)
    who = owned["member"].unique().sort().to_list()
    price = owned["entry_price"].to_numpy()
    symbols = owned["symbol"].to_list()
    if prices is not None:
        missing = sorted(set(symbols) - set(prices))
        if missing:
            raise InputError(f"prices: none for {missing[0]}; allowed: one for every symbol")
        price = np.array([prices[symbol] for symbol in symbols])
    losses = np.zeros((len(named), len(who)))
    for row, (name, moves) in enumerate(named.items()):
        unknown = sorted(set(moves) - set(symbols))
        if unknown:
            raise InputError(
                f"scenarios: {name} moves {unknown[0]}; allowed: symbols of positions, {sorted(set(symbols))[:5]}"
            )
        for symbol, move in moves.items():
            if not (isinstance(move, Real) and -1.0 <= move < math.inf):
                raise InputError(
                    f"scenarios: {name} moves {symbol} by {move!r}; allowed: numbers of at least -1"
                )
        moved = price * (1.0 + np.array([moves.get(symbol, 0.0) for symbol in symbols]))
        losses[row] = _losses(owned, moved, who, netting)
    return losses, list(named), who


def _losses(owned: pl.DataFrame, price: Floats, who: list[Any], netting: str) -> Floats:
    sign = np.where(owned["side"].to_numpy() == "long", 1.0, -1.0)
    gain = sign * owned["quantity"].to_numpy() * (price - owned["entry_price"].to_numpy())
    worth = owned["weight"].to_numpy() * (owned["margin"].to_numpy() + gain)
    groups = {"none": [], "symbol": ["member", "symbol"], "member": ["member"]}[netting]
    rows = owned.select("member", "symbol").with_columns(worth=pl.Series(worth))
    if groups:
        rows = rows.group_by(groups, maintain_order=True).agg(pl.col("worth").sum())
    short = rows.with_columns(short=(-pl.col("worth")).clip(lower_bound=0.0))
    by_member = dict(short.group_by("member").agg(pl.col("short")).iter_rows())
    return np.array([math.fsum(by_member.get(member, [])) for member in who])
