"""The naive oracle: the rule book read aloud in plain Python; it imports nothing of perpbt.

Section signs (§2, §5 ...) point at the rule book, D1-D13 at the decisions that fill the room it leaves.
Of what computes, only `math` is imported; nothing is fast, nothing is clever. Prices and money are quote currency, times are
integer milliseconds UTC.

What comes in:
  bar    {"ts", "open", "high", "low", "close", "mark_open", "mark_high", "mark_low", "mark_close",
         "volume" (float or None), "sigma" (float: ln(high/low) / (2 sqrt(ln 2)), worked out by the
         caller)}; `bars` is a list of them.
  venue  {"taker_fee", "maker_fee", "slippage", "liquidation_fee", "close_out_rate", "half_spread",
         "impact", "max_slippage", "maintenance_on" ("mark" | "entry"), "surplus_to_fund", "protected" (False: what is lost beyond a margin
         is the trader's debt, money "back" below 0, and no deficit), "fund_seed",
         "fund_fee_share", "fund_scope" ("symbol" | "pooled"; or "fund_groups", symbols that share one, by its name), "fund_hold" (ms, where it
         holds what it takes over: see `holding.py`), "tiers": a list of {"floor", "cap", "rate",
         "max_leverage", "deduction"}}, and where they hold "inverse" (True: see `inverse.py`), the steps "lot" (of
         quantity times multiplier) and "tick" (of the price), each a pair of whole numbers, units / per; "rule"
         ("brackets", "whole": the band's rate for the whole position), "per_unit" (rate added for each base unit
         held), "epochs": pairs of a first bar and the tiers that hold from it on;
         "liquidation", a procedure and its numbers: {"procedure": "full" | "reduce_then_takeover" | "ladder" | "slice" |
         "portion" | "cure" | "optimal", "close" ("market" | "takeover"), "most_steps", ...}, None: all at once on the market.
  rules  {"intrabar": "pessimistic" | "optimistic", "take_profit_fill": "limit" | "open",
         "oversize": "reject" | "clip"}; the first of each is the default.
  order  {"side" (+1 | -1), "collateral", "leverage"} and optional margin_buffer, stop and take_profit
         (each None or a level {"kind": "price" | "margin" | "atr" | "column", "value", "series"}),
         trailing_stop, stop_trigger, trailing_trigger, take_profit_trigger ("last" | "mark"),
         exit_due (ms), exit_signal (a bool per bar), margin_call ({"action": "top_up", "threshold",
         "target", "max_calls"} or {"action": "deleverage", "threshold", "fraction", "max_calls"}),
         wallet (cash before the collateral is taken out of it; default: the collateral, which leaves
         nothing for top-ups).
What goes out: a row (dict) per position, keyed by the result's columns, with entry_bar, exit_bar, phase and
figures the fund and the account need: notional, entry_fee, base, exit_quantity, exit_margin, released and wallet; `closing`, the
waterfall of the last closing alone; `margin_orders`, those carried out, and liquidations of a part ("reduced"), each with its money,
bar, action and the margin and quantity it left; `last_step`, the liquidation of the rest; `before_exit`, peak and drawdown up to
the last close; `refill`, the same position against another crowd.
"""

from . import inverse, living
from .account import run_account
from .fund import settle
from .market import run_market
from .position import cumulative_funding, first_bar, snapped
from .shapes import Bars, Record, Values

__all__ = [
    "cumulative_funding",
    "first_bar",
    "run_account",
    "run_market",
    "run_position",
    "settle",
    "snapped",
]


def run_position(
    bars: Bars, cf: Values, order: Record, venue: Record, rules: Record, entry_bar: int | None
) -> Record:
    """One position by the rules of its contract."""
    rulebook = inverse if venue.get("inverse") else living
    return rulebook.run_position(bars, cf, order, venue, rules, entry_bar)
