"""One run in a process of its own, for its peak memory: `python -m perpbt.bench.memory_side FOLDER THREADS`.

In: a folder with bars.parquet and accounts.parquet; threads, 0 for all cores. Out: MiB on
standard output.
"""

from __future__ import annotations

import sys
from pathlib import Path

import perpbt
from perpbt.bench.made import made_venue
from perpbt.bench.measures import peak_mib


def main(folder: Path, threads: int) -> None:
    """Run and tell."""
    prices, accounts = folder / "bars.parquet", folder / "accounts.parquet"
    result = perpbt.simulate(prices, accounts, venue=made_venue(), threads=threads or None)
    assert result.accounts.height
    sys.stdout.write(f"{peak_mib()}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
