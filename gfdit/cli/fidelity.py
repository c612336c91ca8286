"""`gfdit fidelity`: how well the simulator foretells a run that really happened, and what it is off by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from gfdit.sim.fidelity import Fidelity

PICTURES = (".png", ".svg", ".pdf")
TARGET = 0.05
MOST_SHOWN = 5


def fidelity(
    journal: Annotated[Path, typer.Argument(help="The journal of a live run.")],
    cost: Annotated[
        str | None, typer.Option(help="The cost model to judge: a file or a shipped name; default: the journal's.")
    ] = None,
    target: Annotated[
        float, typer.Option(min=0.0, help="Exit 1 when the median relative error is above this; 0 never does.")
    ] = 0.0,
    fit: Annotated[
        Path | None, typer.Option(help="Write the cost model moved to what this run took; judge it by another run.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw it: a .png, .svg or .pdf file.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Simulate what a journal recorded and compare every request's latency, and every stage with the cost model."""
    import json

    from gfdit.cli.shipped import find_cost
    from gfdit.runtime.costfile import cost_model_to_json, load_cost_model
    from gfdit.sim.fidelity import fidelity as judge
    from gfdit.sim.fidelity import fitted_cost

    if picture is not None and picture.suffix not in PICTURES:
        raise UsageError(f"--picture `{picture}` is no picture file", hint=f"suffixes are {', '.join(PICTURES)}")
    table = None if cost is None else load_cost_model(find_cost(cost))
    found = judge(journal, table)
    if fit is not None:
        fit.parent.mkdir(parents=True, exist_ok=True)
        fit.write_text(cost_model_to_json(fitted_cost(journal, table)), encoding="utf-8")
    if picture is not None:
        from gfdit.sim.picture import draw_fidelity

        draw_fidelity(found, picture)
    if json_:
        print(json.dumps(found.result()))
    else:
        _print(found)
    if target and found.median > target:
        raise typer.Exit(1)


def _print(found: Fidelity) -> None:
    import sys

    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    where = f" on {found.device}" if found.device else ""
    console.print(f"{found.journal}: {len(found.pairs)} requests live{where}, and simulated with {found.cost.name}")
    verdict = "within" if found.median <= TARGET else "above"
    console.print(f"  latency error   median {found.median:.1%} ({verdict} {TARGET:.0%}), 95 % of them {found.p95:.1%}")
    console.print(f"  mean latency    simulated {found.bias:+.1%}")
    console.print(f"  attainment      live {found.attainment_live:.1%}, simulated {found.attainment_simulated:.1%}")
    for missing, where in ((found.only_live, "live"), (found.only_simulated, "in the simulation")):
        if missing:
            console.print(f"  completed {where} only: {missing}")
    if found.troubles:
        said = ", ".join(f"{count} {what}" for what, count in sorted(found.troubles.items()))
        console.print(f"  not simulated   {said}")
    console.print(_parts(found))
    console.print(_stages(found))
    worst = sorted(found.pairs, key=lambda pair: -abs(pair.error))[:MOST_SHOWN]
    console.print("furthest off: " + ", ".join(f"{pair.id} {pair.error:+.0%}" for pair in worst))


def _parts(found: Fidelity) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from gfdit.units import human_s

    table = Table(title="mean latency", title_justify="left", box=SIMPLE_HEAD)
    for name in ("", "live", "simulated", "difference"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for part, live in found.live_parts.items():
        simulated = found.simulated_parts[part]
        table.add_row(part, human_s(live), human_s(simulated), human_s(simulated - live))
    return table


def _stages(found: Fidelity) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from gfdit.units import human_s

    table = Table(title="observed and table", title_justify="left", box=SIMPLE_HEAD)
    for name in ("stage", "ranks", "tasks", "observed", "table", "ratio"):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    for stage in found.stages:
        seconds = (human_s(stage.observed_s), human_s(stage.table_s))
        table.add_row(stage.stage, str(stage.degree), str(stage.tasks), *seconds, f"{stage.ratio:.2f}")
    overheads = (
        ("dispatch", found.dispatch_s, found.cost.dispatch_s),
        ("reshard", found.reshard_s, found.cost.reshard_s),
    )
    for name, observed, known in overheads:
        if observed is not None:
            ratio = f"{observed / known:.2f}" if known else "-"
            table.add_row(f"{name}, each", "", "", human_s(observed), human_s(known), ratio)
    return table
