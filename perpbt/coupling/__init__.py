"""The coupled market: one fund, opposing winners, one price they push (MODEL §7).

In: the positions of a run as the engine finished them, independent of one another. Out: the same positions as they would have ended
together, what each gave up for others, the fund's ledger, and a row for each deleveraging. "fund" and "adl" settle in time order
and go on coupled only from the first shortfall: winners that are touched are taken up in mid-life and lived on to their new exits, which
take their places in the order of time.

What winners give up by being closed at the bankruptcy price, not at the fills of the bankrupt positions, is a transfer to the fund: it
is in their `pnl` (which is the market's) and in their `surplus`, so that every row and every run still balances as it does without. "cascade" goes
bar by bar (`Loop`), with prices that each world's liquidations have moved. Without pressure all bars are gone through in compiled code
(`Advancing`): the witness of the leaps, and what engine = "dense" runs.

Names are imported from its modules: of a run without coupling only `refusing` is asked.
"""
