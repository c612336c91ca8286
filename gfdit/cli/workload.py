"""`gfdit workload make|show`: workloads from profiles, and what a workload asks of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gfdit.core.cost import CostModel
    from gfdit.core.work import Request
    from gfdit.sim.generate import WorkloadFacts

BARS = "▁▂▃▄▅▆▇█"
COLUMNS = 60

workload = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Make workloads, or look at one."
)


@workload.command()
def make(
    profile: Annotated[
        str,
        typer.Argument(help="short, shift, foreground_burst, inflight_burst, tetriserve, tridentserve or production."),
    ],
    cost: Annotated[str, typer.Option(help="Cost model: a file or a shipped name. Budgets and load depend on it.")],
    model: Annotated[str | None, typer.Option(help="A model of the cost model; default: its only one.")] = None,
    gpus: Annotated[int, typer.Option(min=1, max=65536, help="Cluster that the rates are for.")] = 8,
    load: Annotated[
        float | None,
        typer.Option(min=0.001, max=100, help="GPU-seconds asked for per GPU-second; default: the profile's."),
    ] = None,
    window: Annotated[
        float | None, typer.Option(min=1.0, help="Seconds to stretch or squeeze the profile's course to.")
    ] = None,
    slo_scale: Annotated[float, typer.Option(min=0.01, max=1000, help="Factor on all budgets.")] = 1.0,
    steps: Annotated[int | None, typer.Option(min=1, max=10_000, help="Steps of every request.")] = None,
    variant: Annotated[
        str, typer.Option(help="overload: three times the rate in the middle third; failure: prints what breaks.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Equal seed, equal workload.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File; default: standard output.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="With --out: print what was made as one JSON object.")] = False,
) -> None:
    """Make a workload of a profile: JSON lines, one request a line."""
    from gfdit.cli.shipped import find_cost
    from gfdit.runtime.costfile import load_cost_model
    from gfdit.runtime.workload import workload_line
    from gfdit.sim.generate import WorkloadSpec, facts_of, generate
    from gfdit.sim.profiles import FAILURES, profile_named

    table = load_cost_model(find_cost(cost))
    spec = WorkloadSpec(profile, only_model(table, model), gpus, seed, load, window, slo_scale, steps, variant)
    requests = generate(spec, table)
    text = "".join(workload_line(request) + "\n" for request in requests)
    if out is None:
        if json_:
            raise UsageError("--json goes with --out", hint="the workload itself is JSON lines already")
        typer.echo(text, nl=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    span = window or profile_named(profile, spec.model, seed).window_s
    _show(out.name, requests, facts_of(requests, table, gpus, span), json_, FAILURES if variant == "failure" else "")


@workload.command()
def show(
    workload: Annotated[str, typer.Argument(help="Workload: a file or a shipped example's name.")],
    cost: Annotated[str, typer.Option(help="Cost model: a file or a shipped name.")],
    gpus: Annotated[int, typer.Option(min=1, max=65536, help="Cluster that the load is for.")] = 8,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a workload asks of a cluster: classes, arrival rate, load, and arrivals over time."""
    from gfdit.cli.shipped import find_cost, find_workload
    from gfdit.runtime.costfile import load_cost_model
    from gfdit.runtime.geometry import tokens_of
    from gfdit.runtime.workload import load_workload
    from gfdit.sim.generate import facts_of

    path = find_workload(workload)
    requests = load_workload(path, tokens_of)
    _show(path.name, requests, facts_of(requests, load_cost_model(find_cost(cost)), gpus), json_)


def only_model(table: CostModel, wanted: str | None) -> str:
    """The model to make requests for: the wanted one, or the table's only one. Raises UsageError."""
    known = sorted(table.models)
    if wanted is None and len(known) > 1:
        raise UsageError(f"cost model `{table.name}` has several models", hint=f"--model {' or '.join(known)}")
    if wanted is not None and wanted not in known:
        raise UsageError(f"cost model `{table.name}` has no model `{wanted}`", hint=f"it has {', '.join(known)}")
    return wanted or known[0]


def _show(name: str, requests: Sequence[Request], facts: WorkloadFacts, as_json: bool, faults: str = "") -> None:
    import dataclasses
    import json

    from gfdit.units import human_s, to_s

    if as_json:
        print(json.dumps({"workload": name, **dataclasses.asdict(facts), **({"faults": faults} if faults else {})}))
        return
    print(f"{name}: {facts.requests} requests in {human_s(facts.window_s)}")
    for kind, count in facts.by_class.items():
        budgets = [to_s(r.slo_ns) for r in requests if r.class_name == kind and r.slo_ns is not None]
        budget = f"budget {human_s(min(budgets))} to {human_s(max(budgets))}" if budgets else "no budget"
        print(f"  {kind:<12} {count:>7}  {count / facts.requests:>6.1%}  {budget}")
    print(f"  rate         {facts.rate_rps:.3g} requests/s" + _spread(facts.gap_cv))
    print(f"  load         {facts.load:.3f} ({human_s(facts.single_gpu_s)} on one GPU)")
    print(f"  arrivals     {_skyline([to_s(r.arrival_ns) for r in requests], facts.window_s)}")
    if faults:
        print(f"  simulate it with  --faults '{faults}'")


def _spread(gap_cv: float | None) -> str:
    return "" if gap_cv is None else f", gaps vary by {gap_cv:.2f} of their mean"


def _skyline(arrivals: Sequence[float], window_s: float) -> str:
    """Arrivals over the window as a row of bars, the highest for the busiest stretch."""
    counts = [0] * COLUMNS
    for arrival in arrivals:
        counts[min(COLUMNS - 1, int(arrival / window_s * COLUMNS))] += 1
    top = max(counts)
    return "".join(BARS[round(count / top * (len(BARS) - 1))] if count else " " for count in counts)
