"""Made markets in which funds run dry: jumpy prices, many high leverages, both sides, few worlds; and the oracle's side of a coupled run.

A book is a market of `made_markets` with more accounts.
"""

from __future__ import annotations

import random

import made_markets as made
import numpy as np
from hypothesis import strategies as st

from perpbt import oracle
from perpbt.adl import Candidates, allocate


@st.composite
def books(draw, max_bars=24, max_accounts=40, symbols=2):
    """A market of 1-2 symbols whose accounts fall together."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    mark = draw(st.sampled_from(("apart", "equal", "absent")))
    place, volume = draw(st.sampled_from(("column", "none"))), draw(st.booleans())
    one_world = draw(st.booleans())
    histories, funding, accounts = {}, {}, []
    tiers = [{"cap": cap, "rate": rate} for cap, rate in zip(made.CAPS, made.RATES[0], strict=True)]
    for symbol in ("AAA", "BBB", "CCC")[: draw(st.integers(1, symbols))]:
        rows = made.made_history(
            rng,
            draw(st.integers(4, max_bars)),
            gaps=rng.random() < 0.3,
            mark=mark,
            volume=volume,
            jumpiness=1,
        )
        histories[symbol], funding[symbol] = rows, made.made_funding(rng, rows, place)
        for j in range(draw(st.integers(2, max_accounts))):
            account = made.made_account(rng, rows, symbol, j, tiers)
            account["leverage"] = rng.choice((1.0, 2.0, 3.0, 8.0, 10.0, 20.0, 50.0, 100.0))
            account["weight"] = rng.choice((1.0, 1.0, 1.0, 0.25, 3.0))
            if rng.random() < 0.5:
                account |= dict.fromkeys(("stop_loss", "take_profit", "trailing_stop", "exit_time"))
            if one_world:
                account["world"] = "a"
            accounts.append(account)
    absent = {"world": "all"} if rng.random() < 0.2 else {}
    accounts = [account | absent for account in accounts]
    rng.shuffle(accounts)
    columns = [name for name in made.WISHES if name not in absent]
    return {
        "bars": {symbol: made.oracle_bars(rows) for symbol, rows in histories.items()},
        "frame": made.bars_frame(histories, funding, mark=mark != "absent", volume=volume),
        "funding": funding,
        "funding_frame": None,
        "accounts": accounts,
        "accounts_frame": made.accounts_frame(accounts, columns),
    }


def people_of(book):
    """The oracle's persons."""
    names = sorted(account["account"] for account in book["accounts"])
    rank = {name: k for k, name in enumerate(names)}
    return [
        {
            **{name: account[name] for name in ("account", "world", "symbol", "weight")},
            "identifier": rank[account["account"]],
            "order": made.order(account),
            "entry_bar": oracle.first_bar(book["bars"][account["symbol"]], account["entry_time"]),
        }
        for account in book["accounts"]
    ]


def policy(name, lot=None, **options):
    """An allocation of `perpbt.adl` as the oracle calls it."""

    def allocation(candidates, quantity):
        names = (
            "side",
            "quantity",
            "entry",
            "margin",
            "funding_paid",
            "mark",
            "maintenance",
            "bankruptcy",
            "identifier",
        )
        told = Candidates(**{name: np.array([one[name] for one in candidates]) for name in names})
        return allocate(name, told, quantity, lot=lot, **options).tolist()

    return allocation


def run_together(book, venue, rules, options, allocation):
    """The oracle's coupled run of a book."""
    cf = {s: oracle.cumulative_funding(bars, book["funding"][s]) for s, bars in book["bars"].items()}
    return oracle.run_market(book["bars"], cf, people_of(book), venue, rules, options, allocation)
