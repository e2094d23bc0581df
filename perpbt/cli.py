"""The command line: run, validate, pack, strategies, venues, liquidation, study, studies, bench.

In: arguments. Out: tables on standard output, progress and errors on standard error, and an exit code: 0
done, 1 the run failed, 2 something given was wrong. What a command does not need is not imported: help and
`validate` stay fast.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import perpbt
from perpbt.errors import PerpbtError

if TYPE_CHECKING:
    from perpbt.result import Result

app = typer.Typer(
    name="perpbt",
    help=(
        "Backtest perpetual futures for many accounts at once: funding, stops, liquidation, and the insurance fund behind them.\n\n"
        "A run is a TOML file: data, venue, strategies, and a grid of policies. Start with the shipped study:\n\n"
        "    perpbt run leverage_vs_stop\n\n"
        "then look at your own prices and run it on them:\n\n"
        "    perpbt validate my_bars.parquet\n\n"
        "    perpbt run leverage_vs_stop --data my_bars.parquet --out runs/mine\n\n"
    ),
    epilog="Exit codes: 0 done, 1 the run failed, 2 something given was wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


# options that several commands take
Symbols = Annotated[list[str] | None, typer.Option("--symbol", metavar="NAME", help="Only this; repeatable.")]
Start = Annotated[str | None, typer.Option(help="First moment, such as 2020-03-01 (UTC).")]
End = Annotated[str | None, typer.Option(help="First moment not used (UTC).")]
Funding = Annotated[str | None, typer.Option(help="A funding file of its own.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        typer.echo(f"perpbt {perpbt.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Perpetual futures, many accounts at once."""


def progress_printer(quiet: bool) -> Any:
    """A progress bar on standard error for a person; nothing when quiet or piped."""
    from contextlib import nullcontext

    if quiet or not sys.stderr.isatty():
        return nullcontext(None)
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    class Shown(Progress):
        def __enter__(self) -> Callable[[str, int, int], None]:  # type: ignore[override]
            super().__enter__()
            tasks: dict[str, Any] = {}

            def report(label: str, done: int, total: int) -> None:
                if label not in tasks or self.tasks[tasks[label]].finished:
                    tasks[label] = self.add_task(label, total=total)
                self.update(tasks[label], completed=done)

            return report

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} of {task.total:,} accounts"),
    )
    return Shown(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)


@app.command()
def run(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC", help="A run specification: a TOML file, or the name of a shipped one."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(help="Prices to use instead of the specification's: file, glob, folder or dataset."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results; default runs/NAME. Replaced if it holds an earlier run."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a key, such as 'policy.leverage=[5,20]'; repeatable."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads; default all cores. Never changes a result.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory the run may take, such as 4GiB; the rest goes to files. Never changes a result.",
        ),
    ] = None,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    quiet: Quiet = False,
) -> None:
    """Run a study and write its tables and report.

    The folder gets accounts.parquet (a row a position), fund.parquet (the insurance fund over time),
    statistics.parquet, policies.parquet, run.json (specification, hashes, versions, timings) and
    report.html.

    Examples:

        perpbt run leverage_vs_stop

        perpbt run leverage_vs_stop --data bars.parquet --set offsets=2000

        perpbt run my_study.toml --out runs/tight --set policy.stop_loss=0.01
    """
    # numpy's linear algebra, which no run calls, would start a thread on every core and let each spin for a tenth of a second
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from perpbt.config import load_spec
    from perpbt.load.specified import begun
    from perpbt.result import check_target

    overrides = list(settings or [])
    if threads is not None:
        overrides.append(f"threads={threads}")
    if memory is not None:
        overrides.append(f"memory={memory}")
    loaded = load_spec(spec, overrides, data=data)
    folder = out if out is not None else Path("runs") / loaded.name
    check_target(folder)  # before hours of work, not after
    try:
        bars = begun(loaded)  # prices are read while the engine is imported
        # the bottom first: deep in a chain of imports Python asks for a page of stack, and gives it back, twenty thousand times
        import perpbt.kernels.compile  # noqa: F401
        from perpbt.doors.specification import run_into

        with progress_printer(quiet) as progress:
            result = run_into(loaded, folder, bars=bars, progress=progress, report=report)
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None
    if not quiet:
        print_summary(result, folder, report)


def print_summary(result: Result, folder: Path, report: bool) -> None:
    """The tables a person wants to see at once."""
    from perpbt.summary import render

    typer.echo(render(result))
    typer.echo(f"\nResults in {folder}{'/ — open ' + str(folder / 'report.html') if report else '/'}")


@app.command()
def validate(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Prices: a file, glob, folder or shipped dataset.")
    ],
    symbols: Symbols = None,
    start: Start = None,
    end: End = None,
    funding: Funding = None,
) -> None:
    """Check prices and print what is in them; exits with 2 if anything is wrong.

    Example:

        perpbt validate sample
    """
    from perpbt.load import describe, load_bars

    found = describe(load_bars(path, symbols=symbols, start=start, end=end, funding=funding))
    typer.echo(found.render())
    if not found.ok:
        raise typer.Exit(2)


@app.command()
def pack(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Prices: a file, glob, folder or shipped dataset.")
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The Parquet file to write. Only a packed file is replaced."),
    ],
    symbols: Symbols = None,
    start: Start = None,
    end: End = None,
    funding: Annotated[
        str | None, typer.Option(help="A funding file of its own; each event must fall on a bar.")
    ] = None,
) -> None:
    """Rewrite prices as whole ticks into one compact Parquet file, and check that they read back equal.

    The file takes about half the space, opens wherever a file of prices does, and gives the same results,
    bit for bit. Other tools read it as plain Parquet: open_ticks and its like are whole numbers, and the
    metadata perpbt.pack says by which number to divide them. A price that is not a whole number of ticks of
    at most 12 decimals is refused.

    Example:

        perpbt pack sample sample.parquet

        perpbt run leverage_vs_stop --data sample.parquet
    """
    from perpbt.load.pack import pack as packed

    try:
        typer.echo(packed(source, out, symbols=symbols, start=start, end=end, funding=funding).render())
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None


@app.command()
def strategies(name: Annotated[str | None, typer.Argument(help="Show one strategy in full.")] = None) -> None:
    """List the strategies found by name, or explain one."""
    from perpbt.strategy import find_strategy, list_strategies

    if name is None:
        print_list({one.name: one.summary for one in list_strategies()})
        typer.echo("\nperpbt strategies NAME explains one. A file of your own works by its path.")
        return
    one = find_strategy(name)
    typer.echo(f"{one.name} ({one.path})\n\n{one.doc.strip()}\n\nParameters:")
    for parameter in one.parameters.values():
        typer.echo(f"  {parameter.name}: {parameter.text} = {parameter.default!r}")


def print_list(found: Mapping[str, str]) -> None:
    """Names and what is said of each, in two columns."""
    width = max(map(len, found), default=0)
    for name, words in found.items():
        typer.echo(f"{name:<{width}}  {words}")


@app.command()
def venues(name: Annotated[str | None, typer.Argument(help="Show one venue in full.")] = None) -> None:
    """List the venues found by name, or print one with the source of every number."""
    from perpbt.venue import list_venues, load_venue

    if name is not None:
        typer.echo(load_venue(name).describe())
        return
    print_list({one: load_venue(one).title for one in list_venues()})
    typer.echo("\nperpbt venues NAME prints one. A TOML file of your own works by its path.")


@app.command()
def liquidation(
    side: Annotated[str, typer.Option(help="long or short.")],
    entry: Annotated[float, typer.Option(help="Entry price.")],
    venue: Annotated[
        str | None, typer.Option(help="Whose tiers and fees: a name or a TOML file; default binance_um.")
    ] = None,
    symbol: Annotated[str | None, typer.Option(help="Whose tiers, such as BTCUSDT.")] = None,
    quantity: Annotated[float | None, typer.Option(help="Size in contracts (base units).")] = None,
    notional: Annotated[
        float | None, typer.Option(help="Or: size at entry in the settlement currency.")
    ] = None,
    collateral: Annotated[
        float | None, typer.Option(help="Or: what there is before the fee; with --leverage.")
    ] = None,
    leverage: Annotated[float | None, typer.Option(help="Notional / margin.")] = None,
    margin: Annotated[float | None, typer.Option(help="Or: the margin itself.")] = None,
    wallet: Annotated[float | None, typer.Option(help="Or: the wallet of a cross account.")] = None,
    other_maintenance: Annotated[
        float | None, typer.Option(help="Cross: maintenance margin of the other positions.")
    ] = None,
    other_unrealised: Annotated[
        float | None, typer.Option(help="Cross: unrealised profit of the other positions.")
    ] = None,
    other: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,...",
            help="Cross: another position of the wallet, such as symbol=ETHUSDT,side=long,entry=3000,quantity=2; repeatable.",
        ),
    ] = None,
    mark: Annotated[float | None, typer.Option(help="Mark price now; default the entry price.")] = None,
    funding_paid: Annotated[
        float | None, typer.Option(help="Since entry, in settlement currency; received is below 0.")
    ] = None,
    contract: Annotated[
        str | None,
        typer.Option(
            help="linear, inverse (coin-margined) or quanto; default as the venue says, else linear."
        ),
    ] = None,
    multiplier: Annotated[float | None, typer.Option(help="Contract size; default 1.")] = None,
    tick: Annotated[float | None, typer.Option(help="Step of prices; default none.")] = None,
    lot: Annotated[float | None, typer.Option(help="Step of quantities; default none.")] = None,
    rounding: Annotated[
        str | None, typer.Option(help="none, or to the venue's steps: lot, tick or both.")
    ] = None,
    maintenance_rate: Annotated[
        float | None, typer.Option(help="One maintenance rate in place of the venue's tiers.")
    ] = None,
    maintenance_on: Annotated[
        str | None, typer.Option(help="mark or entry; default as the venue does.")
    ] = None,
    close_out_rate: Annotated[
        float | None, typer.Option(help="Added to the maintenance rate; default as the venue does.")
    ] = None,
    fee_to_close: Annotated[
        float | None, typer.Option(help="Kept too, of the notional at the bankruptcy price; default 0.")
    ] = None,
) -> None:
    """Work out one position's liquidation price, step by step.

    Give the size in one way (--quantity, --notional or --collateral) and what backs it in one way (--leverage,
    --margin or --wallet). Amounts are in the settlement currency: the coin of an inverse or quanto contract,
    which needs --maintenance-rate where the venue's tiers are in quote currency.

    Examples:

    \b
        perpbt liquidation --symbol BTCUSDT --side long --entry 60000 \\
            --quantity 0.5 --leverage 20
        perpbt liquidation --contract inverse --side short --entry 8000 \\
            --quantity 10000 --margin 0.1 --maintenance-rate 0.005
        perpbt liquidation --symbol ETHUSDT --side long --entry 3000 --quantity 10 \\
            --wallet 5000 --other symbol=BTCUSDT,side=short,entry=60000,quantity=0.1
    """
    from perpbt.explaining.asked import in_words
    from perpbt.explaining.explanation import explain

    given = {
        "side": side, "entry_price": entry, "venue": venue, "symbol": symbol, "quantity": quantity,
        "notional": notional, "collateral": collateral, "leverage": leverage, "margin": margin, "wallet": wallet,
        "other_maintenance": other_maintenance, "other_unrealised": other_unrealised, "mark": mark,
        "funding_paid": funding_paid, "contract": contract, "multiplier": multiplier, "tick": tick, "lot": lot,
        "maintenance": maintenance_rate, "maintenance_on": maintenance_on, "close_out_rate": close_out_rate,
        "rounding": rounding, "fee_to_close": fee_to_close,
        "others": [in_words(one) for one in other] if other else None,
    }  # fmt: skip
    typer.echo(explain(given).render())


@app.command()
def study(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="A study: its name, or a Python file.")],
    data: Annotated[str, typer.Option(help="Prices: file, glob, folder or dataset.")] = "sample",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for tables and pictures; default runs/STUDY. Replaced if it holds an earlier study."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the study; repeatable."),
    ] = None,
    symbols: Symbols = None,
    start: Start = None,
    end: End = None,
    funding: Funding = None,
    quiet: Quiet = False,
) -> None:
    """Put a study's question to price histories: a table, a picture, a page.

    Example:

        perpbt study dynamic_margin --data my_bars.parquet --out runs/mine
    """
    from perpbt.config.toml import apply_override
    from perpbt.load import load_bars
    from perpbt.studies import find_study, run_study
    from perpbt.studies._writing import check_folder

    values: dict[str, Any] = {}
    for setting in settings or []:
        apply_override(values, setting)
    folder = out if out is not None else Path("runs") / find_study(name).name
    check_folder(folder)  # before hours of work, not after
    bars = load_bars(data, symbols=symbols, start=start, end=end, funding=funding)
    try:
        with progress_printer(quiet) as progress:
            found = run_study(name, bars, progress=progress, **values)
        found.write(folder)
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None
    if not quiet:
        from perpbt.summary import plain_table

        typer.echo(f"{found.title}\n\n{plain_table(next(iter(found.tables.values())))}")
        typer.echo(f"\n{found.text.strip()}\n\nFindings in {folder}/ — open {folder / 'study.html'}")


@app.command()
def studies(name: Annotated[str | None, typer.Argument(help="Show one study in full.")] = None) -> None:
    """List the studies found by name, or explain one."""
    from perpbt.studies import find_study, list_studies

    if name is None:
        print_list({name: find_study(name).title for name in list_studies()})
        typer.echo("\nperpbt studies NAME explains one. A file of your own works by its path.")
        return
    one = find_study(name)
    typer.echo(f"{one.name}\n\n{one.doc.strip()}\n\nSettings:")
    for parameter in one.parameters.values():
        typer.echo(f"  {parameter.name}: {parameter.text} = {parameter.default!r}")


@app.command()
def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller sizes: a minute instead of a long while.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(help="vectorbt or none; default vectorbt if installed (pip install 'perpbt[bench]')."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of perpbt; default all cores.")] = None,
    vectorbt_memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", help="Memory that vectorbt may fill with accounts; default 6."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help="engines, scaling, wallets, trades, coupled, vectorbt, memory or stages; repeatable; default all.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures here.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Figures of an earlier --json to set these beside.")
    ] = None,
) -> None:
    """Measure what perpbt costs on this machine, on made prices, and against vectorbt.

    Results of both sides are compared first. If any differ, it exits with 1 and prints no timing at all.

    Examples:

        perpbt bench --quick

        perpbt bench --json figures.json --baseline tests/bench/baseline.json
    """
    import perpbt.bench as benchmarks

    report = benchmarks.bench(
        benchmarks.QUICK if quick else benchmarks.FULL,
        threads=threads,
        against=against,
        peer_gib=vectorbt_memory,
        only=only or (),
        baseline=baseline,
        target=json_file,
        progress=lambda words: typer.echo(words, err=True),
    )
    typer.echo(report["text"])


def main() -> None:
    """Entry point of the console script."""
    # What is imported lives as long as the process, and results hold few objects: to look for garbage among them, again and again
    # and once more at the end, takes a tenth of a run.
    gc.set_threshold(300_000, 50, 100)
    atexit.register(gc.freeze)
    try:
        app()
    except PerpbtError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
