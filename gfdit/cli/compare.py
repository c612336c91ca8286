"""`gfdit compare`: policies x workloads x cluster sizes, one table and one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.cli.check import parse_settings
from gfdit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gfdit.core.cost import CostModel
    from gfdit.sim.compare import Estimate, Plan, Row

PICTURES = (".png", ".svg", ".pdf")
SHOWN = (("attainment", True), ("mean_latency_s", False), ("p95_latency_s", False), ("makespan_s", False))


def compare(
    policies: Annotated[str, typer.Option("--policies", "-p", help="Files or shipped names, with commas between.")],
    workload: Annotated[
        list[str],
        typer.Option(
            help="A file, a shipped example, or PROFILE:LOAD[+VARIANT] such as shift:0.85+overload. Repeat, or commas."
        ),
    ],
    cost: Annotated[str, typer.Option(help="Cost model: a file or a shipped name.")],
    model: Annotated[str | None, typer.Option(help="Model of made workloads; default: the table's only one.")] = None,
    gpus: Annotated[str, typer.Option(help="Cluster sizes, with commas between.")] = "8",
    gpus_per_node: Annotated[int, typer.Option(min=1, help="Ranks of a node.")] = 8,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="How many seeds (of made workloads, of noise).")] = 1,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    noise: Annotated[float, typer.Option(min=0.0, max=2.0, help="Relative sigma of task durations.")] = 0.0,
    faults: Annotated[str, typer.Option(help="What goes wrong, as `gfdit sim --faults` takes it.")] = "",
    window: Annotated[float | None, typer.Option(min=1.0, help="Seconds to stretch made workloads to.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PARAM=VALUE", help="A param, for all policies.")
    ] = None,
    bound: Annotated[
        bool, typer.Option("--bound", help="Also what no policy can beat (seconds to half a minute each).")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="JSON lines of all results; what it has is not run again.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw it: a .png, .svg or .pdf file.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=256, help="Processes.")] = 1,
    json_: Annotated[bool, typer.Option("--json", help="Print the rows as one JSON object.")] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="A bar on stderr, on a terminal.")] = True,
) -> None:
    """Compare policies on workloads and cluster sizes: means over seeds with 95 % confidence intervals."""
    import dataclasses
    import json

    from gfdit.cli.shipped import find_cost, find_workload
    from gfdit.cli.workload import only_model
    from gfdit.runtime.costfile import load_cost_model
    from gfdit.sim.compare import Plan, workload_source

    if bound and noise:
        raise UsageError("--bound does not go with --noise", hint="the bounds hold for the table's own durations")
    if picture is not None and picture.suffix not in PICTURES:
        raise UsageError(f"--picture `{picture}` is no picture file", hint=f"suffixes are {', '.join(PICTURES)}")
    path = find_cost(cost)
    sources = [workload_source(name, find_workload, window) for given in workload for name in _split(given)]
    table = load_cost_model(path)
    plan = Plan(
        policies=_split(policies),
        workloads=sources,
        cost=path,
        model="" if all(source.path for source in sources) else only_model(table, model),
        gpus=_sizes(gpus),
        seeds=range(first_seed, first_seed + seeds),
        noise=noise,
        gpus_per_node=gpus_per_node,
        params=parse_settings(set_ or []),
        bound=bound,
        faults=faults,
    )
    rows = _run(plan, out, jobs, progress)
    if picture is not None:
        from gfdit.sim.picture import draw

        draw(rows, picture)
    if json_:
        print(json.dumps({"cost_model": table.name, "rows": [dataclasses.asdict(row) for row in rows]}))
    else:
        _print(rows, table)


def _split(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"`{text}` names nothing", hint="names with commas between")
    return names


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(size) for size in _split(text)]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise UsageError(f"--gpus `{text}` is no list of cluster sizes", hint="such as --gpus 4,8,16")
    return sizes


def _run(plan: Plan, out: Path | None, jobs: int, progress: bool) -> list[Row]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from gfdit.sim.compare import compare as compare_all

    terminal = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not (progress and terminal.is_terminal)) as bar:
        task = bar.add_task("comparing", total=sum(1 for _ in plan.tasks()))
        return compare_all(plan, out, jobs, lambda: bar.advance(task))


def _print(rows: Sequence[Row], table: CostModel) -> None:
    import itertools
    import sys

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"{len(rows)} comparisons, cost model {table.name}", title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("", no_wrap=True)
    for name in ("attainment", "mean s", "p95 s", "makespan s"):
        shown.add_column(name, justify="right", no_wrap=True)
    for (workload, gpus), block in itertools.groupby(rows, lambda row: (row.workload, row.gpus)):
        shown.add_section()
        shown.add_row(f"{workload}, {gpus} GPUs", style="bold")
        bound = None
        for row in block:
            bound = row.bound
            shown.add_row(f"  {row.policy}", *(_text(row.figures[name], scale) for name, scale in SHOWN))
        if bound is not None:
            share, latency, makespan = (bound[name] for name in ("attainment_ub", "mean_latency_lb_s", "makespan_lb_s"))
            shown.add_row("  bound", f"{share:.1%}", f"{latency:.4g}", "", f"{makespan:.4g}", style="dim")
    Console(file=sys.stdout, highlight=False).print(shown)


def _text(estimate: Estimate | None, percent: bool) -> str:
    if estimate is None:
        return "-"
    mean, width = estimate.mean, estimate.half_width
    if percent:
        return f"{mean:.1%}" + ("" if width is None else f" ±{100 * width:.1f}")
    return f"{mean:.4g}" + ("" if width is None else f" ±{width:.2g}")
