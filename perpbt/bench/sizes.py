"""How much of everything is measured: in full, and in seconds.

In: nothing. Out: frozen sizes that every measurement reads.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Amounts of work. Memory in GiB, everything else counted."""

    bars: int  # minutes of the made year
    repeat: int  # runs of which the median is taken
    engines: int  # accounts of the largest population that both engines go through
    oracle: int  # accounts that the naive engine goes through
    oracle_bars: int
    accounts: tuple[int, ...]  # scaling over accounts
    histories: tuple[int, ...]  # scaling over bars
    history_accounts: int
    dense: float  # account-bars up to which the dense engine is run too
    trades: tuple[int, ...]  # accounts that trade again and again
    wallets: int  # accounts on three symbols that share a wallet
    coupled: tuple[int, int]  # accounts that meet, and bars
    witnessed: int  # of the natural population, those that meet in the loop over every bar too
    natural: int  # the population perpbt is made for
    peer_gib: float  # memory that vectorbt may take


FULL = Sizes(
    bars=525_600,
    repeat=5,
    engines=20_000,
    oracle=12,
    oracle_bars=52_560,
    accounts=(1_000, 10_000, 100_000, 1_000_000),
    histories=(52_560, 525_600, 5_256_000),
    history_accounts=100_000,
    dense=1.5e10,
    trades=(10_000, 100_000, 850_000),
    wallets=100_000,
    coupled=(100_000, 8_760),
    witnessed=5_000,
    natural=1_000_000,
    peer_gib=6.0,
)
QUICK = Sizes(
    bars=52_560,
    repeat=3,
    engines=4_000,
    oracle=4,
    oracle_bars=5_256,
    accounts=(1_000, 10_000, 100_000),
    histories=(5_256, 52_560),
    history_accounts=10_000,
    dense=1e8,
    trades=(1_000, 10_000),
    wallets=2_000,
    coupled=(10_000, 8_760),
    witnessed=1_000,
    natural=100_000,
    peer_gib=0.05,
)
