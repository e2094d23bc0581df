"""The coupled market: one fund, opposing winners, one price they push (MODEL §7).

In: the positions of a run as the engine finished them, independent of one another. Out: the same positions as they would have ended
together, what each gave up for others, the fund's ledger, and a row for each deleveraging. "fund" and "adl" settle in time order
and go on coupled only from the first shortfall: winners that are touched are taken up in mid-life and lived on to their new exits, which
take their places in the order of time.
"""

from perpbt.coupling.couple import couple

__all__ = ["couple"]
