"""Netting: what members owe each other and the clearing house, account by account or all together.

In: claims between members, or positions with the member each belongs to. Out: exposures and losses, money.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from perpbt.errors import InputError

Floats = npt.NDArray[np.float64]
Members = Mapping[Any, Any] | pl.DataFrame | int
Netting = Literal["none", "symbol", "member"]
NETTING = ("none", "symbol", "member")


def bilateral_exposure(claims: npt.ArrayLike) -> Floats:
    """What each member stands to lose if all others failed, netted pair by pair: sum over j of (sum over k of
    claims[k, i, j])+.

    `claims[k, i, j]`: what j owes i in class k, money; antisymmetric in i and j.
    """
    owed = _claims(claims)
    exposure: Floats = np.maximum(owed.sum(axis=0), 0.0).sum(axis=1)
    return exposure


def cleared_exposure(claims: npt.ArrayLike, cleared: npt.ArrayLike | None = None) -> Floats:
    """The same when the classes in `cleared` (indices; default all) are owed by and to a clearing house: netted
    over all members there, pair by pair for the rest.
    """
    owed = _claims(claims)
    chosen = np.zeros(owed.shape[0], dtype=np.bool_)
    chosen[np.arange(owed.shape[0]) if cleared is None else np.asarray(cleared)] = True
    house = np.maximum(owed[chosen].sum(axis=(0, 2)), 0.0)
    exposure: Floats = house + np.maximum(owed[~chosen].sum(axis=0), 0.0).sum(axis=1)
    return exposure


def _claims(claims: npt.ArrayLike) -> Floats:
    owed = np.asarray(claims, dtype=np.float64)
    if owed.ndim != 3 or owed.shape[1] != owed.shape[2]:
        raise InputError(f"claims have shape {owed.shape}; allowed: (classes, members, members)")
    if not np.allclose(owed, -owed.transpose(0, 2, 1), rtol=1e-12, atol=0.0):
        raise InputError("claims: what j owes i is not minus what i owes j; allowed: antisymmetric claims")
    return owed


def expected_bilateral(members: int, classes: int, sigma: float = 1.0) -> float:
    """Expected exposure of one of `members` that net `classes` of independent N(0, sigma²) claims pairwise:
    (N - 1)·sigma·sqrt(K / 2π). Duffie and Zhu 2011, Does a central clearing counterparty reduce risk?
    """
    return (members - 1) * sigma * math.sqrt(classes / (2.0 * math.pi))


def expected_cleared(members: int, classes: int, sigma: float = 1.0) -> float:
    """The same with one of the classes cleared centrally:
    (N - 1)·sigma·sqrt((K - 1) / 2π) + sigma·sqrt((N - 1) / 2π).
    """
    return expected_bilateral(members, classes - 1, sigma) + sigma * math.sqrt(
        (members - 1) / (2.0 * math.pi)
    )


def clearing_reduces_exposure(members: int, classes: int) -> bool:
    """Whether clearing one of K classes among N members lowers expected exposure: K < N² / (4(N - 1))."""
    if members < 2:
        raise InputError(f"members is {members}; allowed: at least 2")
    return classes < members * members / (4.0 * (members - 1))


def with_members(accounts: pl.DataFrame, members: Members) -> pl.DataFrame:
    """The accounts with a column `member`.

    `members`: a mapping from account to member, a frame with `account` and `member`, or a number of members
    to whom the accounts, sorted, are dealt in turn ("member 1", …).

    Raises InputError for accounts without a member.
    """
    kind = accounts.schema["account"]
    if isinstance(members, bool) or not isinstance(members, (int, Mapping, pl.DataFrame)):
        raise InputError(
            f"members is {members!r}; allowed: a mapping from account to member, a frame with account and member, or a number of them"
        )
    if isinstance(members, int):
        if members < 1:
            raise InputError(f"members is {members}; allowed: at least 1")
        names = accounts["account"].unique().sort()
        turn = pl.int_range(len(names), eager=True) % members + 1
        table = pl.DataFrame({"account": names, "member": turn}).with_columns(
            pl.format("member {}", "member").alias("member")
        )
    elif isinstance(members, pl.DataFrame):
        if not {"account", "member"} <= set(members.columns):
            raise InputError(f"members has columns {', '.join(members.columns)}; allowed: account and member")
        table = members.select(pl.col("account").cast(kind), "member")
        if not table["account"].is_unique().all():
            raise InputError("members: an account stands there twice; allowed: every account once")
    else:
        try:
            table = pl.DataFrame({"account": list(members), "member": list(members.values())})
            table = table.with_columns(pl.col("account").cast(kind))
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise InputError(
                f"members: accounts or members of different types; allowed: accounts as in the result ({kind}), members all text or "
                "all numbers"
            ) from error
    joined = accounts.join(table, on="account", how="left")
    lost = joined.filter(pl.col("member").is_null())
    if lost.height:
        raise InputError(
            f"members: none for account {lost['account'].min()!r}; allowed: a member for every account of the result"
        )
    return joined


def netted_positions(
    accounts: pl.DataFrame, members: Members, *, prices: Mapping[str, float] | None = None
) -> pl.DataFrame:
    """What positions come to when they are added up: `member`, `gross` (all notionals), `by_symbol` (long against
    short in each symbol, over the member's accounts) and `net` (all symbols against each other); money times weight.

    `accounts`: open positions with account, symbol, side, quantity, entry_price, weight; `prices` by symbol,
    default each at its entry price.
    """
    owned = with_members(accounts, members)
    price = pl.col("entry_price")
    if prices is not None:
        missing = sorted(set(owned["symbol"].unique()) - set(prices))
        if missing:
            raise InputError(f"prices: none for {missing[0]}; allowed: one for every symbol")
        price = pl.col("symbol").replace_strict(dict(prices), return_dtype=pl.Float64)
    sign = pl.when(pl.col("side") == "long").then(1.0).otherwise(-1.0)
    owned = owned.with_columns(worth=sign * pl.col("weight") * pl.col("quantity") * price)
    by_symbol = owned.group_by("member", "symbol").agg(
        gross=pl.col("worth").abs().sum(), worth=pl.col("worth").sum()
    )
    return (
        by_symbol.group_by("member")
        .agg(
            gross=pl.col("gross").sum(),
            by_symbol=pl.col("worth").abs().sum(),
            net=pl.col("worth").sum().abs(),
        )
        .sort("member")
    )


def member_losses(
    accounts: pl.DataFrame, members: Members, *, every: str = "1d", netting: Netting = "none"
) -> pl.DataFrame:
    """What each member owes the clearing house in each period: `time` (its start), `member`, `loss`, money times weight.

    Rows are a run's positions, in the period of their exit. `netting`: "none", every account's deficit is owed
    (clients are segregated); "symbol", less what the member's accounts gained in that symbol and period;
    "member", less what they gained in all. Gains are cash changes above 0; a loss is never below 0. Periods
    without a deficit are left out.
    """
    if netting not in NETTING:
        raise InputError(f"netting is {netting!r}; allowed: {', '.join(NETTING)}")
    if not re.fullmatch(r"(\d*[1-9]\d*(ns|us|ms|s|m|h|d|w|mo|q|y))+", str(every)):
        raise InputError(f'every is {every!r}; allowed: a polars duration above 0, such as "1h", "1d", "1mo"')
    closed = accounts.filter(pl.col("exit_reason") != "rejected")
    owned = with_members(closed, members).with_columns(
        time=pl.col("exit_time").dt.truncate(every),
        owed=pl.col("weight") * pl.col("deficit"),
        gained=pl.col("weight") * pl.col("cash_change").clip(lower_bound=0.0),
    )
    keys = ["time", "member", "symbol"] if netting == "symbol" else ["time", "member"]
    sums = _summed(owned, keys, ("owed", "gained"))
    off = pl.lit(0.0) if netting == "none" else pl.col("gained")
    losses = sums.with_columns(loss=(pl.col("owed") - off).clip(lower_bound=0.0)).filter(pl.col("owed") > 0.0)
    return _summed(losses, ["time", "member"], ("loss",))


def _summed(frame: pl.DataFrame, by: list[str], values: tuple[str, ...]) -> pl.DataFrame:
    """Sums per group, each rounded once."""
    grouped = frame.group_by(by).agg(pl.col(values))
    return grouped.with_columns(
        pl.Series(value, [math.fsum(terms.to_list()) for terms in grouped[value]], dtype=pl.Float64)
        for value in values
    ).sort(by)
