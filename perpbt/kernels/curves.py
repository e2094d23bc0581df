"""Equity of accounts at chosen bars, from their finished rows."""

from __future__ import annotations

from .compile import kernel
from .tables import ACCEPTED, TOP_UP, Calls, Floats, Integers, Market, Rows


@kernel
def equity_curves(
    market: Market,
    rows: Rows,
    calls: Calls,
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
    `calls[first_call[row]:last_call[row]]` are the margin orders of a row; `samples` ascend.
    """
    for row in range(rows.lane.size):
        if rows.rejection[row] != ACCEPTED:
            continue
        side, entry = float(rows.side[row]), rows.entry[row]
        quantity, margin = rows.quantity[row], rows.margin[row]
        put_in, released = rows.collateral[row], 0.0
        call, last = first_call[row], last_call[row]
        final = (rows.released[row] + rows.back[row]) - (rows.collateral[row] + rows.top_up[row])
        for k in range(samples.size):
            bar = samples[k]
            if bar < rows.entry_bar[row]:
                continue
            if bar >= rows.exit_bar[row]:
                out[account[row], k] += final
                continue
            while call < last and calls.bar[call] <= bar:
                if calls.action[call] == TOP_UP:
                    put_in -= calls.back[call]
                else:
                    released += calls.back[call]
                margin, quantity = calls.margin_after[call], calls.quantity_after[call]
                call += 1
            signed = side * quantity
            value = (margin + signed * (market.mark_close[bar] - entry)) - signed * (
                market.funding[bar] - rows.entry_funding[row]
            )
            out[account[row], k] += (value + released) - put_in
