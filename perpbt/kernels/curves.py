"""Equity of accounts at chosen bars, from their finished rows."""

from __future__ import annotations

from .compile import kernel
from .tables import ACCEPTED, FUNDING, MARK_CLOSE, TOP_UP, Floats, Integers, Market, Table


@kernel
def equity_curves(
    market: Market,
    rows: Table,
    calls: Table,
    first_call: Integers,
    last_call: Integers,
    account: Integers,
    samples: Integers,
    out: Floats,
) -> None:
    """Add to out[account, k] what each position has changed the account's equity by at the close of bar
    samples[k].

    Before the entry nothing; while open margin + PnL - funding + cash released - cash put in; after the
    exit the cash result.
    `calls[first_call[at]:last_call[at]]` are the margin orders of a row; `samples` ascend.
    """
    for at in range(rows.size):
        row = rows[at]
        if row["rejection"] != ACCEPTED:
            continue
        side, entry = float(row["side"]), row["entry"]
        quantity, margin = row["quantity"], row["margin"]
        put_in, released = row["collateral"], 0.0
        call, last = first_call[at], last_call[at]
        final = (row["released"] + row["back"]) - (row["collateral"] + row["top_up"])
        for k in range(samples.size):
            bar = samples[k]
            if bar < row["entry_bar"]:
                continue
            if bar >= row["exit_bar"]:
                out[account[at], k] += final
                continue
            while call < last and calls[call]["bar"] <= bar:
                if calls[call]["action"] == TOP_UP:
                    put_in -= calls[call]["back"]
                else:
                    released += calls[call]["back"]
                margin, quantity = calls[call]["margin_after"], calls[call]["quantity_after"]
                call += 1
            signed = side * quantity
            value = (margin + signed * (market.series[MARK_CLOSE, bar] - entry)) - signed * (
                market.series[FUNDING, bar] - row["entry_funding"]
            )
            out[account[at], k] += (value + released) - put_in
