"""The oracle against numbers worked out by hand, rule by rule (the section signs are the rule book's).

The usual case: 100 of collateral at leverage 10, opened at 100 on a venue without costs and with a 1 %
maintenance rate, so N = 1000, Q = 10, m = 100, bankruptcy at 90, liquidation at (100 - 10) / .99 = 90.909...
"""

from __future__ import annotations

import math

import made_markets
import pytest
from hypothesis import given, settings

from perpbt import oracle

HOUR = 3_600_000
TIER = {"floor": 0.0, "cap": 1e9, "rate": 0.01, "max_leverage": 125.0, "deduction": 0.0}
FREE = {
    "taker_fee": 0.0, "maker_fee": 0.0, "slippage": 0.0, "liquidation_fee": 0.0, "close_out_rate": 0.0,
    "half_spread": 0.0, "impact": 0.0, "max_slippage": 0.5, "maintenance_on": "mark", "surplus_to_fund": 1.0,
    "fund_seed": 0.0, "fund_fee_share": 0.0, "fund_scope": "symbol", "tiers": [TIER],
}  # fmt: skip
LONG = {"side": 1, "collateral": 100.0, "leverage": 10.0}
SHORT = {**LONG, "side": -1}
QUIET = (100, 101, 99, 100)


def history(*rows):
    """Hourly bars from (open, high, low, close), or from a pair of such: last and mark."""
    bars = []
    for i, row in enumerate(rows):
        last, mark = row if isinstance(row[0], tuple) else (row, row)
        bar = dict(zip(("open", "high", "low", "close"), map(float, last), strict=True))
        bar |= dict(zip(("mark_open", "mark_high", "mark_low", "mark_close"), map(float, mark), strict=True))
        sigma = math.log(bar["high"] / bar["low"]) / (2 * math.sqrt(math.log(2)))
        bars.append({"ts": i * HOUR, "volume": None, "sigma": sigma, **bar})
    return bars


def run(rows, order=LONG, venue=None, rules=None, events=(), entry_bar=0, **wishes):
    bars = history(*rows)
    cf = oracle.cumulative_funding(bars, events)
    return oracle.run_position(bars, cf, order | wishes, FREE | (venue or {}), rules or {}, entry_bar)


def outcome(row):
    return row["exit_reason"], row["exit_bar"], row["phase"], row["exit_price"]


def price(x):
    return {"kind": "price", "value": x}


def check_identity(row):
    """§8, per position."""
    brought = (
        row["cash_change"] + row["fees"] + row["liquidation_fee"] + row["surplus"] - row["deficit"],
        row["pnl"] + row["funding"],
    )
    gross = sum(abs(row[name]) for name in ("collateral", "pnl", "funding", "fees", "deficit", "top_up"))
    assert abs(brought[0] - brought[1]) <= 1e-12 * gross


# ------------------------------------------------------------------------------------------------ §1 funding
def test_event_is_charged_at_the_first_bar_at_or_after_it_on_that_mark_open():
    bars = history(QUIET, QUIET, ((100, 101, 99, 100), (110, 111, 109, 110)), QUIET)
    events = [(HOUR + 1800_000, 0.01), (HOUR, 0.001), (3 * HOUR + 60_000, 0.5)]
    # bar 1: 100 * .001; bar 2 takes the event of half past one: 110 * .01; the last one has no bar any more
    assert oracle.cumulative_funding(bars, events) == [0.0, 0.1, 0.1 + 1.1, 0.1 + 1.1]


def test_jitter_below_five_seconds_is_snapped_to_the_minute():
    assert oracle.snapped(HOUR + 7) == HOUR
    assert oracle.snapped(HOUR - 4_999) == HOUR
    assert oracle.snapped(HOUR + 5_000) == HOUR + 5_000
    bars = history(QUIET, QUIET, QUIET)
    assert oracle.cumulative_funding(bars, [(HOUR + 7, 0.01)]) == [0.0, 1.0, 1.0]


def test_funding_is_paid_after_the_entry_bar_up_to_and_with_the_exit_bar():
    events = [(0, 0.5), (HOUR, 0.001), (2 * HOUR, 0.002), (3 * HOUR, 0.5)]
    row = run([QUIET] * 4, events=events, exit_due=2 * HOUR)
    assert outcome(row) == ("time", 2, "B", 100.0)
    assert row["funding"] == pytest.approx(-10 * (0.1 + 0.2))  # a long pays; bar 0 and bar 3 are not its own
    short = run([QUIET] * 4, SHORT, events=events, exit_due=2 * HOUR)
    assert short["funding"] == pytest.approx(10 * (0.1 + 0.2))
    assert short["cash_change"] == pytest.approx(3.0)


def test_funding_moves_the_liquidation_price():
    # CF = 0.5 after bar 1: (90 + .5) / .99 = 91.414; the low of 91.2 does not reach 90.909 but reaches that
    low = [QUIET, (100, 100, 91.2, 95)]
    assert run(low)["exit_reason"] == "end"
    row = run(low, events=[(HOUR, 0.005)])
    assert row["exit_reason"] == "liquidation"
    assert row["exit_price"] == pytest.approx(90.5 / 0.99)
    assert row["liquidation_price"] == pytest.approx(90 / 0.99)  # the column is as of the entry


# ------------------------------------------------------------------------------------------------ §3 opening
def test_opening_takes_the_fee_out_of_the_collateral():
    # N = 101 * 10 / (1 + .001 * 10) = 1000, fee 1, m = 100
    row = run([QUIET, QUIET], collateral=101.0, venue={"taker_fee": 0.001})
    assert (row["quantity"], row["margin"], row["fees"]) == (10.0, 100.0, 1.0)
    assert row["bankruptcy_price"] == 90.0
    assert row["cash_change"] == -1.0  # marked at the last close, without a closing fee
    assert row["total_return"] == -1.0 / 101.0


def test_opening_with_buffer_and_slippage():
    # b = .5: N = 150 * 10 / 1.5 = 1000, m = 150; a short sold at 100 * (1 - .01) = 99
    row = run([QUIET, QUIET], SHORT, collateral=150.0, margin_buffer=0.5, venue={"slippage": 0.01})
    assert (row["entry_price"], row["margin"]) == (99.0, 150.0)
    assert row["quantity"] == 1000 / 99


def test_rejections():
    small = {"tiers": [{**TIER, "cap": 999.0}]}
    assert run([QUIET], venue=small)["rejection"] == "notional_above_last_tier"
    assert (
        run([QUIET], venue={"tiers": [{**TIER, "cap": 1000.0}]})["exit_reason"] == "end"
    )  # on the cap is in
    clipped = run([QUIET], venue=small, rules={"oversize": "clip"})
    assert (clipped["quantity"], clipped["collateral"]) == (9.99, pytest.approx(99.9))
    strict = {"tiers": [{**TIER, "cap": 1000.0}, {**TIER, "floor": 1000.0, "max_leverage": 5.0}]}
    assert run([QUIET], venue=strict)["exit_reason"] == "end"  # N = 1000 still is in the first tier
    above = run([QUIET], venue=strict, collateral=100.1)
    assert above["rejection"] == "leverage_above_tier_maximum"
    assert above["quantity"] is None
    assert above["cash_change"] is None
    beyond = {"kind": "column", "value": None, "series": [100.0, 100.0]}
    assert run([QUIET, QUIET], stop=beyond, entry_bar=1)["rejection"] == "stop_beyond_entry"
    assert run([QUIET, QUIET], take_profit=beyond, entry_bar=1)["rejection"] == "stop_beyond_entry"
    mark_below = ((100, 101, 99, 100), (90, 91, 89, 90))
    assert run([mark_below])["rejection"] == "liquidated_at_entry"
    assert run([mark_below], SHORT)["exit_reason"] == "end"
    assert run([QUIET], entry_bar=None)["rejection"] == "no_bar"


# --------------------------------------------------------------------------------- §4 margin and liquidation
def test_liquidation_in_the_range_and_its_waterfall():
    rows = [QUIET, (100, 100, 90.5, 95)]
    row = run(rows)
    assert outcome(row) == ("liquidation", 1, "C", 90 / 0.99)
    # R = 100 - 10 * 9.0909 = 9.0909, all of it the fund's
    assert row["surplus"] == pytest.approx(100 - 10 * (100 - 90 / 0.99))
    assert row["cash_change"] == -100.0
    assert row["worst_margin_ratio"] == 1.0
    # a closing fee of .1 % and a liquidation fee of .5 % of 909.09 come first; half of the rest each
    row = run(
        rows, venue={"taker_fee": 0.001, "liquidation_fee": 0.005, "surplus_to_fund": 0.5}, collateral=101
    )
    closing, penalty = 0.9090909, 4.5454545
    assert row["fees"] == pytest.approx(1.0 + closing)
    assert row["liquidation_fee"] == pytest.approx(penalty)
    assert row["surplus"] == pytest.approx((9.0909091 - closing - penalty) / 2)
    assert row["cash_change"] == pytest.approx(row["surplus"] - 101)
    # a fee larger than what is left takes what is left
    row = run(rows, venue={"liquidation_fee": 0.5})
    assert (row["surplus"], row["liquidation_fee"]) == (0.0, pytest.approx(9.0909091))


def test_liquidation_of_a_short():
    # (100 + 10) / 1.01 = 108.91
    row = run([QUIET, (100, 109, 100, 105)], SHORT)
    assert outcome(row) == ("liquidation", 1, "C", 110 / 1.01)
    assert row["bankruptcy_price"] == 110.0


def test_touching_the_line_is_enough():
    # rate 0: K = 90 and A = P exactly
    none = {"tiers": [{**TIER, "rate": 0.0}]}
    assert run([QUIET, (100, 100, 90, 95)], venue=none)["exit_reason"] == "liquidation"
    assert run([QUIET, (100, 100, 90.00001, 95)], venue=none)["exit_reason"] == "end"


def test_liquidation_in_the_entry_bar():
    assert outcome(run([(100, 100, 90, 95), QUIET])) == ("liquidation", 0, "C", 90 / 0.99)


def test_liquidation_looks_at_mark_and_fills_at_last():
    # a wick of last that mark did not share does nothing
    assert run([QUIET, ((100, 101, 50, 100), QUIET)])["exit_reason"] == "end"
    # mark falls, last does not: the fill is a price that traded
    assert outcome(run([QUIET, (QUIET, (100, 100, 90, 95))])) == ("liquidation", 1, "C", 99.0)


def test_liquidation_at_the_open_fills_at_the_last_open():
    row = run([QUIET, ((91, 92, 90, 91), (90.5, 92, 90, 91))])
    assert outcome(row) == ("liquidation", 1, "B", 91.0)
    assert row["surplus"] == 10.0
    # E at mark 90.5 = 5, required 9.05: the ratio is 1.81
    assert row["worst_margin_ratio"] == pytest.approx(1.81)


def test_a_gap_beyond_bankruptcy_is_a_deficit():
    row = run([QUIET, (85, 86, 84, 85)], venue={"taker_fee": 0.001}, collateral=101.0)
    assert outcome(row) == ("liquidation", 1, "B", 85.0)
    assert (row["deficit"], row["surplus"], row["cash_change"], row["fees"]) == (50.0, 0.0, -101.0, 1.0)
    assert row["max_drawdown"] == 1.0
    assert math.isinf(row["worst_margin_ratio"])


def test_tiers_crossed_on_the_way():
    tiers = [{**TIER, "cap": 1000.0}, {**TIER, "floor": 1000.0, "rate": 0.05, "deduction": 40.0}]
    # long of 20 at 100, m = 200: tier 2 gives (100 - 240/20) / .95 = 92.63 > 90 / .99, and 20 * 92.63 > 1000
    row = run([QUIET, (100, 100, 92, 95)], venue={"tiers": tiers}, collateral=200.0)
    assert row["liquidation_price"] == 88 / 0.95
    assert outcome(row) == ("liquidation", 1, "C", 88 / 0.95)
    # short of 10, opened in tier 1, grows into tier 2 at 100: (100 + 140/10) / 1.05 = 108.57 < 110 / 1.01
    row = run([QUIET, (100, 108.6, 100, 105)], SHORT, venue={"tiers": tiers})
    assert outcome(row) == ("liquidation", 1, "C", 114 / 1.05)


def test_maintenance_on_entry_and_close_out_rate():
    # MM stays 10: (100 - (100 - 10)/10) = 91
    assert run([QUIET], venue={"maintenance_on": "entry"})["liquidation_price"] == 91.0
    both = {"maintenance_on": "entry", "close_out_rate": 0.01}
    assert run([QUIET], venue=both)["liquidation_price"] == 91 / 0.99
    assert run([QUIET], venue={"close_out_rate": 0.01})["liquidation_price"] == 90 / 0.98


# -------------------------------------------------------------------------------------------------- §5 exits
def test_stop_in_the_range_and_gap_through_it():
    assert outcome(run([QUIET, (100, 101, 94, 96)], stop=price(0.05))) == ("stop_loss", 1, "C", 95.0)
    gap = run([QUIET, (93, 99, 92, 96)], stop=price(0.05))
    assert outcome(gap) == ("stop_loss", 1, "B", 93.0)
    assert (gap["pnl"], gap["cash_change"], gap["surplus"]) == (-70.0, -70.0, 0.0)
    # with .1 % slippage: bought at 100.1, stop at 95.095, gap sold at 93 * .999
    slipped = run([QUIET, (93, 99, 92, 96)], stop=price(0.05), venue={"slippage": 0.001})
    assert slipped["exit_price"] == 93 * (1 - 0.001)
    assert outcome(run([(100, 101, 94, 96), QUIET], stop=price(0.05))) == ("stop_loss", 0, "C", 95.0)
    assert outcome(run([QUIET, (100, 106, 99, 96)], SHORT, stop=price(0.05))) == ("stop_loss", 1, "C", 105.0)


def test_stop_distances():
    assert outcome(run([QUIET, (100, 101, 94, 96)], stop={"kind": "margin", "value": 0.5}))[3] == 95.0
    atr = {"kind": "atr", "value": 2.0, "series": [2.5, 99.0, 99.0]}  # the value of the close before the fill
    assert outcome(run([QUIET, QUIET, (100, 101, 94, 96)], stop=atr, entry_bar=1))[3] == 95.0
    column = {"kind": "column", "value": None, "series": [96.0, 99.0, 99.0]}
    assert outcome(run([QUIET, QUIET, (100, 101, 94, 96)], stop=column, entry_bar=1))[3] == 96.0
    target = {"kind": "column", "value": None, "series": [94.0, 99.0, 99.0]}
    row = run([QUIET, QUIET, (100, 101, 94, 96)], SHORT, take_profit=target, entry_bar=1)
    assert outcome(row) == ("take_profit", 2, "C", 94.0)


def test_stop_past_bankruptcy_is_a_default_but_no_liquidation():
    # mark holds, last gaps to 85 through the stop
    row = run([QUIET, ((85, 100, 85, 99), QUIET)], stop=price(0.05))
    assert outcome(row) == ("stop_loss", 1, "B", 85.0)
    assert row["deficit"] == 50.0


def test_stop_on_mark_never_fills_better_than_the_open_nor_outside_the_range():
    mark = (100, 101, 94, 96)
    on_mark = {"stop": price(0.05), "stop_trigger": "mark"}
    assert outcome(run([QUIET, ((94, 97, 93, 96), mark)], **on_mark))[3] == 94.0  # min(95, open 94)
    assert outcome(run([QUIET, ((98, 99, 96, 97), mark)], **on_mark))[3] == 96.0  # 95 did not trade
    assert (
        run([QUIET, ((98, 99, 92, 97), QUIET)], **on_mark)["exit_reason"] == "end"
    )  # mark did not get there


def test_trailing_stop_follows_closed_bars_and_this_open():
    # bar 0 high 110: 104.5 from bar 1 on; inside bar 0 it still is 95, so the low of 104 is harmless
    rows = [(100, 110, 104 - 4, 109), (109, 109.5, 104, 105)]
    assert outcome(run(rows, trailing_stop=0.05)) == ("trailing_stop", 1, "C", 110 * (1 - 0.05))
    assert outcome(run([rows[0], (104, 105, 103, 104)], trailing_stop=0.05)) == (
        "trailing_stop",
        1,
        "B",
        104.0,
    )
    # the open counts at once: 120 -> 114, and the low of 113 is below it
    assert outcome(run([QUIET, (120, 121, 113, 115)], trailing_stop=0.05)) == ("trailing_stop", 1, "C", 114.0)
    # a short: low 90 -> 94.5
    row = run([(100, 101, 90, 91), (91, 96, 91, 92)], SHORT, trailing_stop=0.05)
    assert outcome(row) == ("trailing_stop", 1, "C", 90 * (1 + 0.05))
    # on mark: the wick of last to 130 does not count
    wick = ((100, 130, 100, 100), QUIET)
    assert run([wick, QUIET], trailing_stop=0.05, trailing_trigger="mark")["exit_reason"] == "end"
    assert run([wick, QUIET], trailing_stop=0.05, stop_trigger="mark")["exit_reason"] == "end"  # the default
    assert run([wick, QUIET], trailing_stop=0.05)["exit_reason"] == "trailing_stop"


def test_take_profit_is_a_resting_limit():
    fees = {"taker_fee": 0.001, "maker_fee": 0.0005, "slippage": 0.01}
    rows = [QUIET, (100, 112, 99, 105)]
    row = run(rows, collateral=101.0, take_profit=price(0.1), venue=fees)
    limit = 101 * (1 + 0.1)  # the entry was 101
    assert outcome(row) == ("take_profit", 1, "C", limit)
    assert row["fees"] == pytest.approx(1.0 + 0.0005 * 1000 / 101 * limit)
    gap = [QUIET, (120, 121, 119, 120)]
    assert outcome(run(gap, take_profit=price(0.125))) == ("take_profit", 1, "B", 112.5)
    jump = run(gap, take_profit=price(0.125), rules={"take_profit_fill": "open"}, venue={"slippage": 0.0})
    assert outcome(jump) == ("take_profit", 1, "B", 120.0)
    short = run([QUIET, (100, 101, 87, 90)], SHORT, take_profit=price(0.125))
    assert outcome(short) == ("take_profit", 1, "C", 87.5)


def test_take_profit_on_mark_is_a_market_exit():
    on_mark = {"take_profit": price(0.125), "take_profit_trigger": "mark", "venue": {"slippage": 0.01}}
    # entry 101, target 113.625; mark gets there, last only to 110
    row = run([QUIET, ((100, 110, 99, 105), (100, 114, 99, 105))], **on_mark)
    assert outcome(row) == ("take_profit", 1, "C", 110 * (1 - 0.01))
    row = run([QUIET, ((111, 115, 110, 112), (114, 115, 110, 112))], **on_mark)
    assert outcome(row) == ("take_profit", 1, "B", 111 * (1 - 0.01))


@pytest.mark.parametrize(
    ("intrabar", "reason"), [("pessimistic", "stop_loss"), ("optimistic", "take_profit")]
)
def test_both_sides_in_one_bar(intrabar, reason):
    row = run([(100, 113, 94, 100)], stop=price(0.05), take_profit=price(0.125), rules={"intrabar": intrabar})
    assert row["exit_reason"] == reason
    # at the open the order is the page's in both worlds: the stop on mark comes before the target on last
    rows = [QUIET, ((113, 114, 112, 113), (94, 95, 93, 94))]
    row = run(
        rows, stop=price(0.05), stop_trigger="mark", take_profit=price(0.125), rules={"intrabar": intrabar}
    )
    assert outcome(row)[:3] == ("stop_loss", 1, "B")


def test_of_several_adverse_thresholds_the_first_met_goes_and_ties_have_an_order():
    calm = (100, 100, 100, 100)
    deep = [calm, (100, 100, 80, 95)]
    none = {"tiers": [{**TIER, "rate": 0.0, "max_leverage": 100.0}]}
    eight = {"leverage": 8.0, "venue": none}  # bankruptcy and liquidation at 87.5, and 12.5 % is exact
    assert outcome(run(deep, stop=price(0.125), **eight)) == ("liquidation", 1, "C", 87.5)
    assert outcome(run(deep, stop=price(0.1), **eight)) == ("stop_loss", 1, "C", 90.0)
    assert outcome(run(deep, stop=price(0.2), trailing_stop=0.05, **eight)) == ("trailing_stop", 1, "C", 95.0)
    tie = run(deep, stop=price(0.125), trailing_stop=0.125, leverage=2.0)
    assert outcome(tie) == ("stop_loss", 1, "C", 87.5)
    high = [calm, (100, 120, 100, 105)]
    assert outcome(run(high, SHORT, stop=price(0.125), **eight)) == ("liquidation", 1, "C", 112.5)
    assert outcome(run(high, SHORT, stop=price(0.0625), **eight)) == ("stop_loss", 1, "C", 106.25)
    # at the open liquidation is asked first, then the stop
    gap = [calm, (80, 81, 79, 80)]
    assert run(gap, stop=price(0.05), **eight)["exit_reason"] == "liquidation"
    assert run(gap, stop=price(0.05), trailing_stop=0.05, leverage=2.0)["exit_reason"] == "stop_loss"


def test_time_and_signal_exits():
    rows = [QUIET, QUIET, (102, 103, 101, 102), QUIET]
    assert outcome(run(rows, exit_due=HOUR + 1)) == ("time", 2, "B", 102.0)
    assert outcome(run(rows, exit_due=0)) == ("time", 1, "B", 100.0)  # never in the entry bar
    signal = [True, True, False, False]
    assert outcome(run(rows, exit_signal=signal, entry_bar=1)) == (
        "signal",
        2,
        "B",
        102.0,
    )  # bar 0 was before
    assert outcome(run(rows, exit_signal=signal, exit_due=HOUR))[0] == "time"
    assert outcome(run(rows, exit_signal=[False, False, False, True])) == ("end", 3, "C", 100.0)
    # a stop at the same open goes first, and a stop inside the bar never: the order left at the open
    gap = [QUIET, (94, 95, 90, 94)]
    assert outcome(run(gap, stop=price(0.05), exit_due=HOUR))[0] == "stop_loss"
    assert outcome(run([QUIET, (100, 100, 50, 94)], exit_due=HOUR)) == ("time", 1, "B", 100.0)


def test_end_is_marked_without_costs():
    row = run([QUIET, ((100, 110, 99, 109), (100, 111, 99, 108))], venue={"slippage": 0.0, "taker_fee": 0.0})
    assert outcome(row) == ("end", 1, "C", 108.0)
    assert row["cash_change"] == 80.0
    # equity 100 -> 100 at the first close, lowest mark 99 then: 9.9 / 90
    assert row["worst_margin_ratio"] == pytest.approx(9.9 / 90)


def test_drawdown_from_the_running_peak():
    # closes 105, 95, 110: equity 150, 50, 200 -> the worst fall is from 150 to 50
    rows = [(100, 106, 99, 105), (105, 106, 94, 95), (95, 111, 95, 110)]
    assert run(rows)["max_drawdown"] == pytest.approx(100 / 150)
    assert run(rows[:1])["max_drawdown"] == 0.0
    # the worst margin ratio is kept: 9.5 / 50 at the low of 95, though the next bar is calmer
    assert run([(100, 100, 95, 100), QUIET])["worst_margin_ratio"] == pytest.approx(9.5 / 50)


# ------------------------------------------------------------------------------------------- §2 margin orders
def test_top_up_at_the_next_open():
    call = {"action": "top_up", "threshold": 0.4, "target": 0.2, "max_calls": 1}
    rows = [(100, 100, 92, 92), (92, 93, 90, 92), (92, 93, 88, 92), (92, 93, 87, 92)]
    # at 92: E = 20, required 9.2, ratio .46; for .2 E must be 46, so 26 goes in: (100 - 12.6) / .99 = 88.28
    row = run(rows, margin_call=call, wallet=1000.0)
    assert row["top_up"] == pytest.approx(26.0)
    assert outcome(row)[:3] == ("liquidation", 2, "C")
    assert row["exit_price"] == pytest.approx((100 - 12.6) / 0.99)
    assert row["cash_change"] == pytest.approx(-126.0)
    assert row["total_return"] == -1.0
    assert row["wallet"] == pytest.approx(874.0)
    check_identity(row)
    # 26 of own money lifts the peak to 126; at a close of 89.5 the equity is 126 - 105
    assert run([rows[0], (92, 93, 89.5, 89.5)], margin_call=call, wallet=1000.0)[
        "max_drawdown"
    ] == pytest.approx(105 / 126)
    # only ten are there: (100 - 11) / .99 = 89.9 is not hit by 90, but by 88
    poor = run(rows, margin_call=call, wallet=110.0)
    assert (poor["top_up"], poor["exit_bar"], poor["wallet"]) == (10.0, 2, 0.0)
    assert run(rows, margin_call=call)["exit_bar"] == 1  # nothing to add: 90.909 is hit
    # a second call at the close of bar 1: E = 46, required 9.2: the ratio is back at .2, so none
    assert run(rows[:2], margin_call=call | {"max_calls": 9}, wallet=1000.0)["top_up"] == pytest.approx(26.0)
    # the open goes first: at 90 it is too late
    late = run([rows[0], (90, 91, 89, 90)], margin_call=call, wallet=1000.0)
    assert (late["top_up"], *outcome(late)[:3]) == (0.0, "liquidation", 1, "B")


def test_deleverage_closes_a_part():
    call = {"action": "deleverage", "threshold": 0.4, "fraction": 0.5, "max_calls": 1}
    rows = [(100, 100, 92, 92), (94, 96, 93, 95), (95, 101, 95, 100)]
    row = run(rows, margin_call=call, wallet=100.0)
    # half closed at 94: back 50 - 5 * 6 = 20; the rest, 50 and 5, ends at par
    assert row["pnl"] == -30.0
    assert (row["cash_change"], row["wallet"], row["quantity"], row["margin"]) == (-30.0, 70.0, 10.0, 100.0)
    assert row["exit_quantity"] == 5.0
    check_identity(row)
    fees = run(rows, margin_call=call, collateral=101.0, venue={"taker_fee": 0.001})
    assert fees["fees"] == pytest.approx(1.0 + 0.001 * 5 * 94)
    # value at a close of 92: 20 released, and 50 - 5 * 8 still in: no deeper than the 20 of the close before
    assert run([rows[0], (94, 95, 92, 92)], margin_call=call)["max_drawdown"] == pytest.approx(0.8)
    assert run([rows[0], (92, 93, 92, 92), (92, 93, 92, 92)], margin_call=call)["exit_quantity"] == 5.0
    twice = run([rows[0], (92, 93, 92, 92), (92, 93, 92, 92)], margin_call=call | {"max_calls": 2})
    assert twice["exit_quantity"] == 2.5
    # a part that leaves at a loss beyond its margin: mark says 91.5, last opens at 85
    row = run([rows[0], ((85, 92, 85, 92), (92, 93, 91.5, 92))], margin_call=call)
    assert row["deficit"] == 25.0  # 50 - 5 * 15
    assert row["cash_change"] == pytest.approx(-90.0)  # the rest is marked at 92: 50 - 40 = 10
    check_identity(row)


# -------------------------------------------------------------------------------------------- §6 slippage
def test_liquidation_slippage_by_the_square_root_law():
    bars = history(QUIET, (100, 100, 90, 95))
    bars[1] |= {"volume": 100.0, "sigma": 0.02}
    venue = FREE | {"half_spread": 0.001, "impact": 0.5, "slippage": 0.25 / 100}
    row = oracle.run_position(bars, [0.0, 0.0], LONG, venue, {}, 0)
    entry = 100.25
    quantity = 1000 / entry
    line = (entry - 100 / quantity) / 0.99
    slip = 0.001 + 0.5 * 0.02 * math.sqrt(quantity * line / (100 * 95))
    assert row["exit_price"] == pytest.approx(line * (1 - slip), rel=1e-15)
    capped = oracle.run_position(bars, [0.0, 0.0], LONG, venue | {"max_slippage": 0.002}, {}, 0)
    assert capped["exit_price"] == pytest.approx(line * 0.998, rel=1e-15)
    bars[1]["volume"] = 0.0  # nothing traded: no turnover to measure against
    flat = oracle.run_position(bars, [0.0, 0.0], LONG, venue, {}, 0)
    assert flat["exit_price"] == pytest.approx(line * 0.9975, rel=1e-15)


# --------------------------------------------------------------------------------- D11 one account of door b
NEVER = [False] * 20
POLICY = {"leverage": 10.0, "capital": 1000.0, "sizing": {"kind": "collateral", "amount": 100.0}}


def account(rows, *, enter=(), leave=(), enter_short=(), start_bar=0, venue=None, **wishes):
    bars = history(*rows)
    signals = {
        name: [i in where for i in range(len(bars))]
        for name, where in (
            ("long_entry", enter), ("long_exit", leave), ("short_entry", enter_short), ("short_exit", leave),
        )
    }  # fmt: skip
    cf = [0.0] * len(bars)
    return oracle.run_account(bars, cf, signals, POLICY | wishes, FREE | (venue or {}), {}, start_bar)


def spans(rows):
    return [(row["side"], row["entry_bar"], row["exit_bar"], row["exit_reason"]) for row in rows]


def test_signals_are_filled_at_the_next_open():
    assert spans(account([QUIET] * 6, enter=[1], leave=[3])) == [(1, 2, 4, "signal")]
    assert spans(account([QUIET] * 6, enter=[1], leave=[1])) == [(1, 2, 5, "end")]  # read while flat: no exit
    assert spans(account([QUIET] * 6, enter=[5])) == []  # no next bar
    assert spans(account([QUIET] * 6, enter=[0, 3], start_bar=1)) == [(1, 4, 5, "end")]
    assert spans(account([QUIET] * 6, enter=[1], enter_short=[1])) == []  # both at once: neither


def test_after_a_signal_exit_the_same_close_may_open_again():
    rows = account([QUIET] * 6, enter=[0], leave=[2], enter_short=[2])
    assert spans(rows) == [(1, 1, 3, "signal"), (-1, 3, 5, "end")]
    assert [row["position"] for row in rows] == [1, 2]
    held = account([QUIET] * 6, enter=range(6), max_holding=2 * HOUR)
    assert spans(held) == [(1, 1, 3, "time"), (1, 3, 5, "time"), (1, 5, 5, "end")]
    assert spans(account([QUIET] * 6, enter=range(6), max_holding=HOUR, max_trades=2))[-1] == (
        1,
        2,
        3,
        "time",
    )


def test_after_a_stop():
    fall = (100, 101, 94, 100)
    bars = [QUIET, fall, QUIET, fall, QUIET]
    rows = account(bars, enter=range(5), stop=price(0.05))
    # stopped in bar 1: the next decision is its close, the fill bar 2; stopped again in bar 3
    assert spans(rows) == [(1, 1, 1, "stop_loss"), (1, 2, 3, "stop_loss"), (1, 4, 4, "end")]
    assert spans(account(bars, enter=range(5), stop=price(0.05), after_stop="never")) == [
        (1, 1, 1, "stop_loss")
    ]
    cool = account(bars, enter=range(5), stop=price(0.05), cool_down=2 * HOUR)
    assert spans(cool) == [(1, 1, 1, "stop_loss"), (1, 3, 3, "stop_loss")]  # bar 5 does not exist
    crash = [QUIET, (100, 101, 90, 100), QUIET, QUIET]
    assert spans(account(crash, enter=range(4))) == [(1, 1, 1, "liquidation"), (1, 2, 3, "end")]
    assert spans(account(crash, enter=range(4), after_liquidation="never")) == [(1, 1, 1, "liquidation")]
    assert len(account(crash, enter=range(4), after_stop="never")) == 2


def test_wallet_and_sizing():
    rise = (100, 102, 100, 101)
    twice = {"enter": range(4), "max_holding": HOUR, "max_trades": 2}
    bars = [QUIET, rise, (101, 102, 100, 101), QUIET]
    half = {"kind": "equity", "fraction": 0.5}
    # 500 at 10x: 5000 / 100 = 50 units gain 1 each; compounding then takes half of 1050
    collaterals = [row["collateral"] for row in account(bars, sizing=half, compounding=True, **twice)]
    assert collaterals == [500.0, 525.0]
    assert [row["collateral"] for row in account(bars, sizing=half, **twice)] == [500.0, 500.0]
    # risk: 1 % of 1000 at a stop 5 % away is N = 200, so C = 20; at .05 % it wants 2000 and gets the wallet
    risk = {"kind": "risk", "fraction": 0.01}
    assert account(bars, sizing=risk, stop=price(0.05), **twice)[0]["collateral"] == pytest.approx(20.0)
    wide = account(bars, sizing=risk, stop=price(0.05), margin_buffer=0.5, **twice)
    assert wide[0]["collateral"] == pytest.approx(30.0)  # N = 200 again, behind it half more
    assert account(bars, sizing=risk, stop=price(0.0005), **twice)[0]["collateral"] == 1000.0
    greedy = {"kind": "collateral", "amount": 5000.0}
    crash = [QUIET, (100, 101, 90, 100), QUIET, QUIET]
    ruined = account(crash, enter=range(4), sizing=greedy, compounding=True)
    assert spans(ruined) == [(1, 1, 1, "liquidation")]  # nothing left to trade with
    assert len(account(crash, enter=range(4), sizing=greedy)) == 2


def test_top_up_comes_from_the_wallet():
    call = {"action": "top_up", "threshold": 0.4, "target": 0.2, "max_calls": 1}
    bars = [QUIET, (100, 100, 92, 92), (92, 93, 90, 92), QUIET]
    rows = account(bars, enter=[0], margin_call=call, capital=110.0)
    assert [row["top_up"] for row in rows] == [10.0]


def test_rejected_signals_and_unknown_levels():
    apart = ((100, 101, 99, 100), (90, 91, 89, 90))
    rows = account([QUIET, apart, QUIET, QUIET], enter=range(4))
    assert spans(rows) == [(1, 1, None, "rejected"), (1, 2, 3, "end")]
    capped = {"tiers": [{**TIER, "cap": 500.0}]}
    rows = account([QUIET] * 4, enter=range(4), venue=capped)
    assert [row["rejection"] for row in rows] == ["notional_above_last_tier"]
    atr = {"kind": "atr", "value": 1.0, "series": [math.nan, None, 5.0, 5.0]}
    assert spans(account([QUIET] * 4, enter=range(4), stop=atr)) == [(1, 3, 3, "end")]


# ------------------------------------------------------------------------------ §6 crowding and §7 the fund
def world(bars, venue, *orders, events=(), weights=None, symbols=None, **options):
    """Settle orders (pairs of entry bar and order) that share a world; `bars` maps symbols to bars."""
    rows = []
    for j, (entry_bar, order) in enumerate(orders):
        symbol = (symbols or ["X"] * len(orders))[j]
        cf = oracle.cumulative_funding(bars[symbol], events)
        row = oracle.run_position(bars[symbol], cf, order, venue, {}, entry_bar)
        rows.append({**row, "world": "w", "symbol": symbol, "weight": (weights or [1.0] * len(orders))[j]})
    return oracle.settle(rows, bars, venue, **options)


def test_crowding_makes_fills_worse_together():
    bars = history(QUIET, (100, 100, 90, 95), QUIET)
    bars[1] |= {"volume": 100.0, "sigma": 0.02}
    venue = FREE | {"impact": 1.0}
    line = 90 / 0.99
    alone, _ = world({"X": bars}, venue, (0, LONG), (0, LONG), crowding=False)
    slip = 0.02 * math.sqrt(10 * line / 9500)
    assert [row["exit_price"] for row in alone] == pytest.approx([line * (1 - slip)] * 2)
    # three accounts stand behind the second; a short and one that entered later do not fall with them
    rows, _ = world(
        {"X": bars}, venue, (0, LONG), (0, LONG), (0, SHORT), (2, LONG), weights=[1, 3, 9, 9], crowding=True
    )
    slip = 0.02 * math.sqrt(4 * 10 * line / 9500)
    assert [row["exit_price"] for row in rows[:2]] == pytest.approx([line * (1 - slip)] * 2)
    assert rows[0]["quantity"] == alone[0]["quantity"]  # the weight does not scale the account's own outcome
    assert rows[2]["exit_reason"] == "end"
    for row in rows:
        check_identity(row)


def test_a_crowd_has_one_side_and_one_phase():
    # bar 1 opens at 90.5, beyond the 90.909 of leverage 10 (B), then falls past the 89.79 of leverage 9 and
    # rises past the 108.9 of the short (both C)
    bars = history(QUIET, (90.5, 109, 89, 95))
    bars[1] |= {"volume": 100.0, "sigma": 0.02}
    orders = ((0, LONG), (0, LONG | {"leverage": 9.0}), (0, SHORT))
    alone, _ = world({"X": bars}, FREE | {"impact": 1.0}, *orders)
    rows, _ = world({"X": bars}, FREE | {"impact": 1.0}, *orders, crowding=True)
    assert [outcome(row)[:3] for row in rows] == [("liquidation", 1, phase) for phase in "BCC"]
    assert [row["exit_price"] for row in rows] == [row["exit_price"] for row in alone]
    more, _ = world({"X": bars}, FREE | {"impact": 1.0}, *orders, (0, LONG), crowding=True)
    assert more[0]["exit_price"] < rows[0]["exit_price"]
    assert [row["exit_price"] for row in more[1:3]] == [row["exit_price"] for row in rows[1:]]


def test_open_interest_scales_the_weights():
    bars = {"X": history(*[QUIET] * 4)}
    # N = 1000 open at 4 of 4 closes and 1000 at 2 of 4: the mean is 1500
    orders = ((0, LONG), (1, LONG | {"exit_due": 3 * HOUR}))
    rows, _ = world(bars, FREE, *orders, open_interest=3e6)
    assert [row["weight"] for row in rows] == [2000.0, 2000.0]


def test_fund_flows_in_time_order():
    # bar 1 liquidates at 90.909 with surplus 9.09; bar 3 opens at 85: a deficit of 50
    bars = {"X": history(QUIET, (100, 100, 90, 100), QUIET, (85, 86, 84, 85))}
    venue = FREE | {"fund_seed": 5.0, "liquidation_fee": 0.001}
    rows, fund = world(bars, venue, (0, LONG), (2, LONG))
    surplus = rows[0]["surplus"]
    assert surplus == pytest.approx(100 / 11 - 10 / 11)
    assert [(line["time"], line["symbol"]) for line in fund] == [(0, "X"), (HOUR, "X"), (3 * HOUR, "X")]
    assert [line["balance"] for line in fund] == pytest.approx([5.0, 5 + 100 / 11, 0.0])
    assert fund[1]["liquidation_fees"] == pytest.approx(10 / 11)
    assert fund[2]["deficit"] == 50.0
    assert fund[2]["uncovered"] == pytest.approx(50 - 5 - 100 / 11)
    # a share of the trading fees: half of .1 % of the two entries (the close of a default pays none)
    fees = venue | {"fund_fee_share": 0.5, "taker_fee": 0.001}
    big = LONG | {"collateral": 101.0}
    _, fund = world(bars, fees, (0, big), (2, big))
    assert [line["fee_share"] for line in fund] == pytest.approx([0, 0.5, 0.4545454, 0.5, 0])


def test_credits_of_a_phase_come_before_its_draws_but_after_those_of_an_earlier_phase():
    # bar 1, open: last at 85 stops the first long 50 beyond its margin, with an empty fund. In its range the
    # second long, opened at that very 85, is liquidated: (85 - 8.5) / .99 = 77.27, which leaves 100/11
    bars = {"X": history(QUIET, ((85, 91, 77, 90), (95, 96, 77, 95)))}
    rows, fund = world(bars, FREE, (0, LONG | {"stop": price(0.05)}), (1, LONG))
    assert outcome(rows[0])[:3] == ("stop_loss", 1, "B")
    assert outcome(rows[1])[:3] == ("liquidation", 1, "C")
    assert (fund[-1]["deficit"], fund[-1]["uncovered"]) == (50.0, 50.0)
    assert fund[-1]["balance"] == fund[-1]["surplus"] == pytest.approx(100 / 11)
    # in one and the same phase the credit comes first: the open jumps to 112, past one's bankruptcy at 110
    bars = {"X": history((100, 102, 99, 102), (112, 113, 111, 112))}
    better = SHORT | {"leverage": 8.0}  # m = 100, N = 800: liquidated at 112.5 / 1.01 = 111.4, 4 are left
    rows, fund = world(bars, FREE, (0, SHORT), (0, better))
    assert [row["exit_reason"] for row in rows] == ["liquidation"] * 2
    assert (fund[-1]["deficit"], fund[-1]["surplus"]) == (20.0, 4.0)
    assert (fund[-1]["uncovered"], fund[-1]["balance"]) == (16.0, 0.0)


def test_a_part_closed_at_a_loss_draws_at_the_open():
    # half closed at 85 lacks 25; a short opened there is liquidated in the range at 92 and leaves 100 - 7 * Q
    bars = {"X": history((100, 100, 92, 92), ((85, 92, 85, 92), (92, 93, 91.5, 92)))}
    call = {"action": "deleverage", "threshold": 0.4, "fraction": 0.5, "max_calls": 1}
    rows, fund = world(bars, FREE, (0, LONG | {"margin_call": call}), (1, SHORT))
    assert [outcome(row)[:3] for row in rows] == [("end", 1, "C"), ("liquidation", 1, "C")]
    assert (fund[-1]["deficit"], fund[-1]["uncovered"]) == (25.0, 25.0)
    assert fund[-1]["balance"] == pytest.approx(100 - 7 * 1000 / 85)


def test_a_dry_pool_is_shared_pro_rata():
    crash = history(QUIET, (85, 86, 84, 85))
    worse = history(QUIET, (80, 81, 79, 80))
    bars = {"X": crash, "Y": worse}
    venue = FREE | {"fund_seed": 60.0, "fund_scope": "pooled"}
    _, fund = world(bars, venue, (0, LONG), (0, LONG), symbols=["X", "Y"])
    # deficits 50 and 100 against 60: 90 are missing, 30 of X and 60 of Y
    assert [(line["symbol"], line["deficit"], line["balance"]) for line in fund] == [
        ("all", 0.0, 60.0), ("X", 50.0, 0.0), ("Y", 100.0, 0.0),
    ]  # fmt: skip
    assert [line["uncovered"] for line in fund] == pytest.approx([0, 30, 60])
    apart = venue | {"fund_scope": "symbol"}
    _, fund = world(bars, apart, (0, LONG), (0, LONG), symbols=["X", "Y"])
    assert [line["uncovered"] for line in fund] == pytest.approx([0, 0, 0, 40])
    assert [line["balance"] for line in fund] == pytest.approx([60, 10, 60, 0])
    _, fund = world(bars, apart, (0, LONG), (0, LONG), symbols=["X", "Y"], weights=[2, 1])
    assert [line["deficit"] for line in fund] == [0, 100, 0, 100]


def test_published_examples_of_a_fund():
    """BitMEX, unit 1: bankrupt at 99, filled at 99.25, then at 98.75: the fund gets and gives a quarter."""
    for fill, balance in ((99.25, 0.25), (98.75, 0.0)):
        bars = {"X": history((100, 100, 100, 100), (fill, 100, 98, 99))}
        order = LONG | {"leverage": 100.0, "collateral": 1.0}
        none = FREE | {"tiers": [{**TIER, "rate": 0.005}], "fund_seed": 0.0 if fill > 99 else 0.25}
        _, fund = world(bars, none, (0, order))
        assert fund[-1]["balance"] == pytest.approx(balance)
        assert fund[-1]["uncovered"] == pytest.approx(0.0)


# ------------------------------------------------------------------------------------------ §8 conservation
@settings(max_examples=60, deadline=None)
@given(made_markets.markets(), made_markets.venues(), made_markets.rules())
def test_conservation(market, venue, rules):
    histories = market["bars"]
    rows = made_markets.run_accounts(market, venue, rules)
    for crowding in (False, True):
        settled, fund = oracle.settle(rows, histories, venue, crowding=crowding, open_interest=1e5)
        taken = [row for row in settled if row["exit_reason"] != "rejected"]
        for row in taken:
            check_identity(row)
            assert row["cash_change"] >= -row["collateral"]  # the trader loses the margin and no more
            assert 0 <= row["max_drawdown"] <= 1
        gross = math.fsum(
            abs(row["weight"] * row[name])
            for row in taken
            for name in ("pnl", "fees", "collateral", "deficit")
        )
        traders = math.fsum(row["weight"] * row["cash_change"] for row in taken)
        fees = math.fsum(row["weight"] * row["fees"] for row in taken)
        won = math.fsum(row["weight"] * (row["pnl"] + row["funding"]) for row in taken)
        shared, uncovered = (math.fsum(line[name] for line in fund) for name in ("fee_share", "uncovered"))
        # the pool's balance is written once per symbol and time: the last line of each fund is what is left
        last = {
            (line["world"], venue["fund_scope"] == "pooled" or line["symbol"]): line["balance"]
            for line in fund
        }
        change = math.fsum(balance - venue["fund_seed"] for balance in last.values())
        assert abs(traders + (fees - shared) + change - uncovered - won) <= 1e-12 * gross + 1e-12 * len(fund)
