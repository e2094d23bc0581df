"""The constants of the sample market: data only, each with the reason for its value.

`Parameters` holds everything; the generator in `sample` takes one and returns bars.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Contract:
    """One invented contract. Volatilities are those of a quiet day; times are UTC."""

    name: str
    price: float
    """First index price: sets apart a dear, a middling and a cheap contract, so unit mistakes show."""
    ticks_per_unit: int
    """Ticks of last and mark in one unit of price: whole, so ticks / ticks_per_unit is the nearest double."""
    index_ticks_per_unit: int
    """The same for the index: coarser, because four index columns are a quarter of the file."""
    daily_volatility: float
    """Standard deviation of a day's log return: small coins move more."""
    common_share: float
    """Correlation of the steps with the common factor: coins crash together."""
    half_spread: float
    """Bid-ask bounce of the last price, a fraction: the last price is never quite the fair one."""
    minute_turnover: float
    """Median quote turnover of a minute: square-root impact needs a scale that differs between contracts."""
    lots_per_unit: int
    """Lots in one base unit: volume is a whole number of lots."""
    funding: tuple[tuple[datetime, int], ...]
    """(from, hours): the interval that holds after that stamp. Venues differ and change it."""


@dataclass(frozen=True)
class Shock:
    """A fall (or a rise, when `direction` is 1) of a few minutes, and what it leaves behind.

    Sizes come one per contract, in the order of `Parameters.contracts`.
    """

    start: datetime
    direction: int
    move_minutes: float
    """Time to the extreme, entered ever faster: forced orders feed on themselves."""
    depth: tuple[float, ...]
    """Log move of the index at the extreme: what mark-price liquidation sees."""
    recovered: float
    """Share of the move that comes back: a flash crash is partly undone."""
    recovery_minutes: float
    """Time constant of the way back."""
    dislocation: tuple[float, ...]
    """Further log move of the last price alone at the extreme: the order book is empty, the index is not."""
    dislocation_minutes: float
    """Time constant with which the dislocation closes: minutes, so bars show it."""
    premium: tuple[float, ...]
    """Log premium that stays in the last price after the extreme: it drives funding for days."""
    premium_hours: float
    """Time constant of that premium."""
    unrest: float
    """Rise of log volatility at the extreme: the aftermath of a crash is wild."""
    unrest_hours: float
    """Time constant of the unrest."""
    panic: float
    """Further rise of log volatility around the extreme, gone with the recovery: nobody quotes there."""
    move_power: float = 2.0
    """The way to the extreme goes as time to this power: slow at first, fastest at the end."""
    dislocation_power: float = 4.0
    """The same for the dislocation: the book empties last."""
    panic_power: float = 1.0
    """The same for the panic: it is there from the start."""


@dataclass(frozen=True)
class Wick:
    """A spike of one contract's last price that index, and so mark, never sees: one large market order."""

    symbol: str
    start: datetime
    seconds: float
    depth: float
    """Log distance below the fair price at the tip."""


def _utc(month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2024, month, day, hour, minute, second, tzinfo=UTC)


@dataclass(frozen=True)
class Parameters:
    """Every constant of the sample market, with the reason for it. Times are UTC, rates are fractions."""

    seed: int = 7
    """Of PCG64. This one gives a contract that recovers, one that keeps falling, one that goes sideways."""
    start: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    """A Monday at midnight: weekends and funding stamps are easy to find."""
    days: int = 62
    """Two months: room for calm weeks on either side of the crash within the size limit."""
    steps_per_minute: int = 12
    """Five seconds a step: lows and highs are extremes of a path, not decorations of a bar."""
    contracts: tuple[Contract, ...] = (
        Contract("ALFAUSDT", 30_000.0, 1, 1, 0.024, 0.90, 0.5e-4, 4e6, 1_000, ((_utc(1, 1), 8),)),
        Contract(
            "BRAVOUSDT", 2_000.0, 10, 5, 0.032, 0.85, 1e-4, 1.5e6, 100, ((_utc(1, 1), 8), (_utc(2, 5), 4))
        ),
        Contract(
            "CETAUSDT",
            0.5,
            20_000,
            10_000,
            0.048,
            0.70,
            2e-4,
            1.5e5,
            1,
            ((_utc(1, 1), 8), (_utc(1, 25, 16), 1), (_utc(1, 28), 8)),
        ),
    )
    slow_volatility: float = 0.35
    """Standard deviation of the slow part of log volatility, common to all: regimes of days."""
    slow_half_life_hours: float = 36.0
    """Half-life of that part."""
    fast_volatility: float = 0.40
    """Standard deviation of the fast part, own to each contract: bursts within a day."""
    fast_half_life_minutes: float = 45.0
    """Half-life of that part."""
    day_season: float = 0.35
    """Amplitude of log volatility over the day: markets sleep."""
    day_peak_hour: float = 15.0
    """Hour of the peak: both American and European desks are open."""
    weekend: float = -0.30
    """Shift of log volatility at weekends."""
    jumps_per_day: float = 0.8
    """Rate of jumps of one contract: tails that no volatility process makes."""
    jump_volatility: float = 0.35
    """Standard deviation of a jump, in units of the contract's daily volatility."""
    premium_mean: float = 2e-4
    """Long-run log premium of last over index: longs pay on average, as on most venues."""
    slow_premium: float = 4e-4
    """Standard deviation of the slow premium: enough to leave the funding clamp at times."""
    slow_premium_half_life_hours: float = 16.0
    """Half-life of the slow premium: longer than a funding interval, so neighbouring rates are alike."""
    fast_premium: float = 1.5e-4
    """Standard deviation of the fast premium: what the mark's smoothing takes out."""
    fast_premium_half_life_minutes: float = 4.0
    """Half-life of the fast premium."""
    momentum_premium: float = 0.025
    """Premium per unit of recent log move: traders chase, so the premium leans with the trend."""
    momentum_half_life_minutes: float = 90.0
    """What recent means."""
    mark_guard: float = 0.01
    """Largest premium one step may carry into the mark: why a wick does not liquidate."""
    mark_half_life_seconds: float = 60.0
    """Half-life of the mark's premium average: venues average over a few minutes."""
    crash: Shock = Shock(
        start=_utc(1, 25, 13, 10),
        direction=-1,
        move_minutes=22.0,
        depth=(0.150, 0.190, 0.260),
        recovered=0.45,
        recovery_minutes=25.0,
        dislocation=(0.035, 0.060, 0.110),
        dislocation_minutes=4.0,
        premium=(0.0008, 0.0015, 0.0050),
        premium_hours=16.0,
        unrest=1.2,
        unrest_hours=14.0,
        panic=1.6,
    )
    """The bad day: index down 14 to 23 %, last price further, both partly back before the outage."""
    squeeze: Shock = Shock(
        start=_utc(2, 16, 8, 20),
        direction=1,
        move_minutes=12.0,
        depth=(0.060, 0.085, 0.150),
        recovered=0.5,
        recovery_minutes=40.0,
        dislocation=(0.012, 0.020, 0.050),
        dislocation_minutes=3.0,
        premium=(0.0006, 0.0010, 0.0025),
        premium_hours=12.0,
        unrest=0.8,
        unrest_hours=6.0,
        panic=1.3,
    )
    """The mirror for shorts, shorter and smaller."""
    wick: Wick = Wick("BRAVOUSDT", _utc(1, 25, 17, 21, 10), 50.0, 0.13)
    """Four hours after the crash: stops on last fire in it, liquidations on mark do not."""
    outage_start: datetime = datetime(2024, 1, 25, 14, 15, tzinfo=UTC)
    """Soon after the crash, between two funding stamps: engines fail when everyone trades."""
    outage_minutes: int = 95
    """Long enough that the market is elsewhere afterwards."""
    outage_move: tuple[float, ...] = (-0.040, -0.055, -0.080)
    """Log move of the index while nobody can trade: the first bar afterwards opens below many a stop."""
    lone_gaps: int = 9
    """Single minutes without a trade, in the last (smallest) contract: gaps need not be common to all."""
    volume_volatility_power: float = 1.1
    """Elasticity of volume to the bar's range: volume rises with volatility."""
    volume_season: float = 0.5
    """Log volume per unit of seasonal log volatility, beyond what the range brings: depth has hours too."""
    volume_noise: float = 0.35
    """Standard deviation of what is left of log volume: range does not determine volume."""
    volume_digits: int = 3
    """Significant digits of volume: the fourth carries no information and costs bytes."""
    interest: float = 1e-4
    """Interest part of funding for 8 hours: the usual 0.01 %."""
    funding_clamp: float = 5e-4
    """How far interest may lean against the premium: while that is small, the rate is the interest."""
    funding_cap: float = 2e-3
    """Largest rate for 8 hours, in proportion for shorter ones: the crash meets it."""
    funding_digits: int = 8
    """Decimals of a published rate."""
