"""Who is there, who leaves, and what a leaver brings its fund or asks of it (§5-§7)."""

from __future__ import annotations

from typing import Any

from . import account
from .fund import fund_name
from .position import worst_at_exit
from .shapes import Leaving, Record

HELD = ("side", "entry", "margin", "quantity", "cf_entry")
AFTER = {"B": "C", "C": "end"}  # what deleveraging brings in fees, the fund has in the next phase


def there(m: Record, world: str, symbol: str) -> list[Record]:
    """Who holds a position in the symbol."""
    return [one for one in m["people"] if one["p"] and (one["world"], one["symbol"]) == (world, symbol)]


def leave(
    m: Record, one: Record, i: int, phase: str, bar: Record, left: Leaving | None, crowd: float | None = None
) -> None:
    """§5, §6: the position is over; what it brings its fund or takes from it is noted."""
    symbol, own = one["symbol"], m["of"][one["symbol"]]
    venue = own["venue"]
    bars: Any = {one["entry_bar"]: m["bars"][symbol][one["entry_bar"]], i: bar}
    if left is not None and left[0] == "adl":
        venue = {**venue, "maker_fee": m["options"].get("fee", 0.0)}
    span = one["entry_bar"], i
    p, kept = one["p"], {name: one["p"][name] for name in HELD}
    row = own["book"].closed(
        one["p"], one["at_entry"], bars, m["cf"][symbol], venue, span, left, phase, crowd
    )
    row["worst_margin_ratio"] = worst_at_exit(p["worst_ratio"], p["ratio_at_open"], left, phase)
    one["row"], one["p"], one["pending"] = row, None, None
    step = "end" if left is None else AFTER[phase] if left[0] == "adl" else phase
    credit(m, one, step, bar["ts"], "fee_share", row["closing"]["fee"])
    credit(m, one, step, bar["ts"], "liquidation_fees", row["closing"]["liquidation_fee"])
    credit(m, one, step, bar["ts"], "surplus", row["closing"]["surplus"])
    draw(m, one, step, kept, i, row["closing"]["deficit"])
    if one.get("follow"):
        put_down(one, row)


def put_down(one: Record, row: Record) -> None:
    """An account that follows signals has a position, or a refusal, behind it."""
    follow = one["follow"]
    if account.note(follow["policy"], one["state"], row, one["entry_bar"]):
        one["rows"].append({**finished(one), "position": len(one["rows"]) + 1})
    one["row"], one["given_up"], one["socialised"] = None, 0.0, 0.0


def finished(one: Record) -> Record:
    """The row, with what was given up for others: PnL is that of the market, and the transfer goes to the fund."""
    row: Record = one["row"]
    given, socialised = one["given_up"], one["socialised"]
    if row["exit_reason"] != "rejected":
        row["pnl"] = row["pnl"] + given
        row["surplus"] = row["surplus"] + (given + socialised)
    return {**row, **{name: one[name] for name in ("account", "world", "symbol", "weight")},
            "given_up": given, "socialised": socialised}  # fmt: skip


def fund_of(m: Record, one: Record) -> Record:
    """The fund of somebody's position."""
    found: Record = m["funds"][one["world"], fund_name(m["venue"], one["symbol"])]
    return found


def credit(m: Record, one: Record, step: str, time: int, name: str, money: float) -> None:
    """Something the fund receives in a phase; of fees its share."""
    share = m["venue"]["fund_fee_share"] * one["weight"] if name == "fee_share" else one["weight"]
    if share * money > 0:
        fund_of(m, one)["credits"].append((step, one["symbol"], name, share * money))


def draw(m: Record, one: Record, step: str, last: Record, i: int, deficit: float) -> None:
    """A deficit the fund is asked for; `last` is what was closed."""
    if deficit > 0:
        moved = m["cf"][one["symbol"]][i] - last["cf_entry"]
        fund_of(m, one)["draws"].append({
            "step": step, "symbol": one["symbol"], "side": last["side"], "deficit": one["weight"] * deficit,
            "quantity": one["weight"] * last["quantity"], "price": bankruptcy(m["of"][one["symbol"]], last, moved),
        })  # fmt: skip


def bankruptcy(own: Record, p: Record, moved: float) -> float:
    """The price (of an inverse contract its reading) at which nothing is left, CF having moved since entry."""
    gains = own["counting"].gains
    return float((p["entry"] - (gains * p["side"]) * (p["margin"] / p["quantity"])) + gains * moved)
