"""`gfdit bound`: what no policy can beat on a workload. An offline tool: it takes seconds to half a minute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gfdit.core.cost import CostModel
    from gfdit.core.work import Request
    from gfdit.sim.bounds import Bounds


def bound(
    workload: Annotated[str, typer.Option(help="Workload: a file or a shipped example's name.")],
    cost: Annotated[str, typer.Option(help="Cost model: a file or a shipped name.")],
    gpus: Annotated[int, typer.Option(min=1, max=65536, help="How many ranks.")] = 8,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show on a terminal's stderr.")] = True,
) -> None:
    """Bound what any policy can reach: attainment from above, mean latency and makespan from below."""
    import json

    from gfdit.cli.shipped import find_cost, find_workload
    from gfdit.runtime.costfile import load_cost_model
    from gfdit.runtime.geometry import tokens_of
    from gfdit.runtime.workload import load_workload
    from gfdit.units import human_s

    path = find_workload(workload)
    requests = load_workload(path, tokens_of)
    table = load_cost_model(find_cost(cost))
    found = bounds_with_status(requests, table, gpus, progress)
    about = {"workload": path.name, "cost_model": table.name, "gpus": gpus, "requests": len(requests)}
    if json_:
        print(json.dumps({**about, **found.result(), "sustainable_rps": found.sustainable_rps}))
        return
    print(f"{path.name}: {len(requests)} requests on {gpus} GPUs of {table.name}; no policy does better than")
    print(f"  attainment     {found.attainment_ub:.1%}")
    print(f"  mean latency   {human_s(found.mean_latency_lb_s)}")
    print(f"  makespan       {human_s(found.makespan_lb_s)}")
    print(f"  sustained      {found.sustainable_rps:.3g} requests/s of this mix")


def bounds_with_status(requests: Sequence[Request], cost: CostModel, gpus: int, wanted: bool) -> Bounds:
    """The bounds, with a spinner on standard error where that is a terminal: the solver tells no progress."""
    from contextlib import nullcontext

    from rich.console import Console

    from gfdit.sim.bounds import bounds_of

    terminal = Console(stderr=True)
    shown = wanted and terminal.is_terminal
    with terminal.status(f"bounds of {len(requests)} requests") if shown else nullcontext():
        return bounds_of(requests, cost, gpus)
