"""`gfdit bench`: measures gfdit itself on this machine. One member a thing that is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.cli.bench_faults import faults
from gfdit.cli.bench_serve import serve

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

    from gfdit.collectives.bench import Report as CollectivesReport
    from gfdit.sim.tickbench import Cell
    from gfdit.sim.tickbench import Report as TickReport

bench = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Measure gfdit itself on this machine."
)


bench.command()(serve)
bench.command()(faults)


@bench.callback()
def family() -> None:
    """Measure gfdit itself on this machine."""


@bench.command()
def tick(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer ticks of each: under 40 s on two cores.")] = False,
    policies: Annotated[
        str | None, typer.Option("--policies", "-p", help="Shipped names or files, with commas between.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option("--size", metavar="REQUESTS/GPUS", help="Instead of all sizes that have targets; repeat."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the requests and of the noise of their durations.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="A bar on stderr, on a terminal.")] = True,
) -> None:
    """What a tick of a policy costs in a steady busy system, by requests and GPUs, beside its target."""
    import json

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from gfdit.sim.tickbench import CELLS, FULL, POLICIES, QUICK, measure_all

    cells = CELLS if not size else tuple(_cell(text) for text in size)
    names = POLICIES if policies is None else tuple(dict.fromkeys(filter(None, policies.split(","))))
    terminal = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not (progress and terminal.is_terminal)) as bar:
        task = bar.add_task("measuring", total=len(names) * len(cells))
        report = measure_all(QUICK if quick else FULL, names, seed, lambda row: bar.advance(task), cells)
    if json_:
        print(json.dumps(report.as_json()))
    else:
        _print_ticks(report)


@bench.command()
def collectives(
    quick: Annotated[bool, typer.Option("--quick", help="Two ranks and fewer repetitions: under 40 s.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """The group-free collectives beside gloo's, measured by the same processes in the same run."""
    import json
    import sys
    from contextlib import nullcontext

    from rich.console import Console

    from gfdit.collectives.bench import bench_collectives

    terminal = Console(stderr=True)
    with terminal.status("measuring") if terminal.is_terminal else nullcontext():
        report = bench_collectives(quick)
    if json_:
        print(json.dumps(report))
        return
    _print_collectives(report, Console(file=sys.stdout, highlight=False))


def _print_collectives(report: CollectivesReport, out: RichConsole) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = Table(title="Collectives beside gloo, microseconds", title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("operation", no_wrap=True)
    for name in ("ranks", "bytes a rank", "p50", "p99", "gloo p50", "memcpy"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in report["rows"]:
        times = (row["p50_us"], row["p99_us"], row["gloo_p50_us"], row["memcpy_us"])
        shown.add_row(row["op"], str(row["ranks"]), f"{row['bytes']:,}", *(f"{time:.1f}" for time in times))
    out.print(shown)
    out.print(
        f"a new group takes {report['formation_p50_us']:.1f} us, with its first barrier "
        f"{report['formation_barrier_p50_us']:.1f} us; with gloo {report['gloo_new_group_p50_us']:.1f} us"
    )


def _cell(text: str) -> Cell:
    """A size as people write it: `1000/64`."""
    from gfdit.errors import UsageError
    from gfdit.sim.tickbench import CELLS, Cell

    requests, _, gpus = text.partition("/")
    if not (requests.isdigit() and gpus.isdigit() and int(requests) > 0 and int(gpus) > 0):
        raise UsageError(f"--size `{text}` is no size", hint="requests/GPUs, such as --size 1000/64")
    known = {(cell.requests, cell.gpus): cell for cell in CELLS}
    wanted = int(requests), int(gpus)
    return known.get(wanted, Cell(*wanted))


def _print_ticks(report: TickReport) -> None:
    import itertools
    import sys

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="A tick of a policy, milliseconds of CPU time", title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("requests / GPUs", no_wrap=True)
    for name in ("p50", "target", "p99", "whole tick", "yardstick"):
        shown.add_column(name, justify="right", no_wrap=True)
    for (requests, gpus), block in itertools.groupby(report.rows, lambda row: (row.requests, row.gpus)):
        shown.add_section()
        shown.add_row(f"{requests:,} / {gpus:,}", style="bold")
        for row in block:
            target = "-" if row.target_us is None else _ms(row.target_us)
            times = (_ms(row.p50_us), target, _ms(row.p99_us), _ms(row.tick_p50_us), _ms(row.yardstick_p50_us))
            shown.add_row(f"  {row.policy}", *times, style=None if row.met else "red")
    out = Console(file=sys.stdout, highlight=False)
    out.print(shown)
    for what, value, limit in report.others():
        out.print(f"{what}: {value:.3g} ms, target {limit:g} ms{'' if value <= limit else ': missed'}")
    missed = sum(not row.met for row in report.rows)
    out.print(f"{len(report.rows) - missed} of {len(report.rows)} ticks within their targets")


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1e3:.3f}" if microseconds < 1e4 else f"{microseconds / 1e3:.1f}"
