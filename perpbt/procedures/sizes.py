"""How much a liquidation closes, as formulas of plain numbers: what liquidation procedures do, for one position.

In: numbers (quote currency, base units, fractions). Out: numbers. Nothing here knows bars or accounts. Each formula names its source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from perpbt.errors import InputError


def reduction_size(
    *, equity: float, quantity: float, side: str, price: float, fill: float, rate: float, fee: float = 0.0, cost: float = 0.0
) -> float:  # fmt: skip
    """Smallest quantity whose sale at `fill` leaves equity = rate x price x what is left: (rate p Q - e + cost) / (s (F - p) - fee p + rate p).

    `equity` is that at mark `price`, `rate` the maintenance rate, `fee` a fraction of price x quantity sold, `cost` a fixed cost. 0 where
    nothing has to be sold, infinite where no sale helps. More than `quantity` means the whole: nothing is left to be above maintenance.
    Source: Chitra, Autodeleveraging (arXiv 2512.01112), rearranged. Raises InputError for a side that is neither "long" nor "short".
    """
    short = rate * price * quantity - equity + cost
    if short <= 0:
        return 0.0
    gain = (_sign(side) * (fill - price) - fee * price) + rate * price
    return short / gain if gain > 0 else math.inf


def reduction_size_with_impact(
    *, equity: float, quantity: float, price: float, rate: float, impact: float, cost: float = 0.0
) -> float:
    """As `reduction_size` where selling x moves the fill by (impact / 2) x against the seller: the smaller root of
    (impact / 2) x^2 - rate p x + (rate p Q - e + cost) = 0; infinite where there is none: reducing is self-defeating.
    """
    short = rate * price * quantity - equity + cost
    if short <= 0:
        return 0.0
    if is_self_defeating(equity=equity, quantity=quantity, price=price, rate=rate, impact=impact, cost=cost):
        return math.inf
    slope = rate * price
    return 2 * short / (slope + math.sqrt(max(slope * slope - 2 * impact * short, 0.0)))


def is_self_defeating(
    *, equity: float, quantity: float, price: float, rate: float, impact: float, cost: float = 0.0
) -> bool:
    """Whether no partial sale can restore maintenance under linear impact: 2 impact (rate p Q - e + cost) > (rate p)^2."""
    return 2 * impact * (rate * price * quantity - equity + cost) > (rate * price) ** 2


def size_to_cover(
    *, shortage: float, margin_ratio: float, price: float, liquidator_fee: float = 0.0, insurance_fee: float = 0.0,
    quote_price: float = 1.0,
) -> float:  # fmt: skip
    """Drift: quantity a liquidator takes over to make up for a margin shortage (in dollars): shortage / (p (MR - fee) - p if_fee), with
    prices in quote currency worth `quote_price` dollars. Infinite where the fees eat up what a sale frees.

    Source: drift-labs/protocol-v2, math/liquidation.rs, calculate_base_asset_amount_to_cover_margin_shortage.
    """
    freed = (price * (margin_ratio - liquidator_fee) - price * insurance_fee) * quote_price
    return shortage / freed if freed > 0 else math.inf


def liquidator_fee(
    *, slots: float, fee: float, fee_max: float, fee_growth: float = 1e-6, grace_slots: int = 1500
) -> float:
    """Drift: the liquidator's fee so many slots into a liquidation: `fee` at first, then fee + slots x growth, at most `fee_max`.

    Source: drift-labs/protocol-v2, get_liquidation_fee.
    """
    return fee if slots < grace_slots else min(fee + slots * fee_growth, fee_max)


def insurance_fee(
    *, most: float, margin_ratio: float, liquidator_fee: float, shortage: float, notional: float
) -> float:
    """Drift: what the insurance fund asks for: min(most, 0.95 (MR - fee - shortage / notional)), at least 0."""
    return max(min(most, 0.95 * (margin_ratio - liquidator_fee - shortage / notional)), 0.0)


def share_to_cure(
    *, shortage: float, freed: float, slots: float, initial: float, duration_slots: float, whole_below: float = 50.0
) -> float:  # fmt: skip
    """Drift: the share of a shortage that may be cured now, what was `freed` before counted; all of a small one. At least 0."""
    if shortage < whole_below or shortage <= 0:
        return 1.0
    ripe = min(initial + (slots / duration_slots if duration_slots > 0 else 1.0), 1.0)
    return max(((shortage + freed) * ripe - freed) / shortage, 0.0)


def fillable_price(
    *, side: str, price: float, quantity: float, equity: float, maintenance: float, spread: float = 0.1, adjustment: float = 1.0,
    position_maintenance: float | None = None,
) -> float:  # fmt: skip
    """dYdX: the worst price a liquidation order takes: (PNNV - ABR SMMR PMMR) / PS with ABR = clip(BA (1 - TNC / TMMR), 0, 1).

    `equity` and `maintenance` are the account's (TNC, TMMR); `position_maintenance` the position's own (PMMR), None where it is alone.
    Source: dydxprotocol/v4-chain, x/clob/keeper/liquidations.go.
    """
    own = maintenance if position_maintenance is None else position_maintenance
    give = min(max(adjustment * (1 - equity / maintenance), 0.0), 1.0)
    return price - _sign(side) * (give * spread * own) / quantity


def fund_delta(*, received: float, bankruptcy: float, notional: float, most: float) -> float:
    """dYdX: what the insurance fund gets of a liquidation: what was received beyond the bankruptcy quote amount, at most `most` x notional;
    what is missing it pays. `received` and `bankruptcy` are signed: money got for a long, paid (negative) for a short.
    """
    delta = received - bankruptcy
    return min(delta, most * notional)


def best_slices(
    *, notional: float, slices: int, volatility: float, turnover: float, impact: float, risk_aversion: float = 0.0
) -> list[float]:  # fmt: skip
    """Slices (money, first to last) that minimise sum(n_j Y sigma sqrt(n_j / T)) + risk_aversion sigma^2 sum(x_j^2), x_j what is left
    after slice j: impact by the square-root law, variance of what is still held over each bar.

    Best is sqrt(n_j) = sqrt(n_j+1) + k x_j with k = 2 A sigma^2 / (1.5 c), c = Y sigma / sqrt(T), whence all slices follow from the last,
    which is found by halving. With no risk aversion all are equal; fine slices follow `best_path`. After Almgren and Chriss (2000) and
    Almgren, Optimal execution with nonlinear impact functions (2003). Raises InputError unless all but risk_aversion are above 0.
    """
    for name, value in {
        "notional": notional,
        "slices": slices,
        "volatility": volatility,
        "turnover": turnover,
        "impact": impact,
    }.items():
        if not value > 0:
            raise InputError(f"{name} = {value!r}; allowed: above 0")
    pull = 2 * risk_aversion * volatility**2 / (1.5 * impact * volatility / math.sqrt(turnover))
    low, high = 0.0, notional / slices
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _backwards(middle, pull, slices)[1] < notional else (low, middle)
    return _backwards(high, pull, slices)[0][::-1]


def cost_of(
    sizes: Sequence[float], *, volatility: float, turnover: float, impact: float, risk_aversion: float = 0.0
) -> float:
    """What `best_slices` minimises, for any slices."""
    left, cost = math.fsum(sizes), 0.0
    for size in sizes:
        left -= size
        cost += size * impact * volatility * math.sqrt(size / turnover)
        cost += risk_aversion * volatility**2 * left**2
    return cost


def best_path(
    time: float, *, notional: float, volatility: float, turnover: float, impact: float, risk_aversion: float
) -> float:
    """What is left at `time` (bars) of a best exit without end in continuous time: X (1 + t / (3 T*))^-3.

    T* = (c / (2 A sigma^2 sqrt(X)))^(2/3), c = Y sigma / sqrt(T): Almgren (2003) for cost per unit of time c v^1.5.
    """
    cost = impact * volatility / math.sqrt(turnover)
    scale = (cost / (2 * risk_aversion * volatility**2 * math.sqrt(notional))) ** (2 / 3)
    return notional / float(1 + time / (3 * scale)) ** 3


def _backwards(smallest: float, pull: float, slices: int) -> tuple[list[float], float]:
    """Slices from the last to the first, and their sum, which may be infinite."""
    sizes, root, left = [smallest], math.sqrt(smallest), smallest
    for _ in range(slices - 1):
        root = root + pull * left
        sizes.append(root * root)
        left += root * root
    return sizes, left


def _sign(side: str) -> float:
    if side not in ("long", "short"):
        raise InputError(f"side = {side!r}; allowed: 'long' or 'short'")
    return 1.0 if side == "long" else -1.0
