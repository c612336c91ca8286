"""`gfdit tune`: the values of a policy's params that serve best on workloads, confirmed on others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gfdit.sim.compare import Task
    from gfdit.sim.tuning import Gain, Tuned, TunePlan

OBJECTIVES = ("attainment", "worst_class_attainment", "mean_latency", "p95_latency")
TRIALS_FILE, RESULT_FILE, PICTURE_FILE = "trials.jsonl", "tuned.json", "tuned.png"


def tune(
    policy: Annotated[str, typer.Option("--policy", "-p", help="A .pol or .py file, or a shipped policy's name.")],
    workload: Annotated[
        list[str],
        typer.Option(help="To train on: a file, a shipped example, or PROFILE:LOAD. Repeat, or commas."),
    ],
    cost: Annotated[list[str], typer.Option(help="Cost models: files or shipped names. Repeat, or commas.")],
    validate: Annotated[
        list[str] | None,
        typer.Option(help="To confirm on, likewise; default: the made training workloads with other seeds."),
    ] = None,
    objective: Annotated[str, typer.Option(help=f"{', '.join(OBJECTIVES)}.")] = "attainment",
    trials: Annotated[int, typer.Option(min=1, max=100_000, help="Settings to try, the default among them.")] = 50,
    param: Annotated[list[str] | None, typer.Option("--param", help="Tune only this one. Repeat, or commas.")] = None,
    gpus: Annotated[str, typer.Option(help="Cluster sizes, with commas between.")] = "8",
    gpus_per_node: Annotated[int, typer.Option(min=1, help="Ranks of a node.")] = 8,
    model: Annotated[str | None, typer.Option(help="Model of made workloads; default: the table's only one.")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="How many seeds of every made workload.")] = 2,
    window: Annotated[float | None, typer.Option(min=1.0, help="Seconds to stretch made workloads to.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search, and the first of the workloads' seeds.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for results and picture; a search in it is continued.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, max=256, help="Processes; default: cores.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="A bar on stderr, on a terminal.")] = True,
) -> None:
    """Search the ranges of a policy's params, and recommend what was found if held-out workloads confirm it."""
    import json
    import os

    from gfdit.sim.tuning import Objective, TunePlan

    if objective not in OBJECTIVES:
        raise UsageError(f"no objective `{objective}`", hint=f"objectives are {', '.join(OBJECTIVES)}")
    sizes = _sizes(gpus)
    costs = _split(cost)
    training = _tasks(policy, _split(workload), costs, sizes, gpus_per_node, model, window, range(seed, seed + seeds))
    held_out = _tasks(
        policy,
        _split(validate) if validate else _made_again(_split(workload)),
        costs,
        sizes,
        gpus_per_node,
        model,
        window,
        range(seed + seeds, seed + 2 * seeds),
    )
    plan = TunePlan(policy, training, held_out, Objective(objective), trials, seed, _split(param) if param else ())
    found = _run(plan, out, jobs or len(os.sched_getaffinity(0)), progress)
    if out is not None:
        from gfdit.sim.picture import draw_tuning

        (out / RESULT_FILE).write_text(json.dumps(found.result(), indent=1) + "\n", encoding="utf-8")
        draw_tuning(found, out / PICTURE_FILE)
    if json_:
        print(json.dumps(found.result()))
    else:
        _print(found, out)


def _split(given: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for text in given for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"`{','.join(given)}` names nothing", hint="names with commas between")
    return names


def _sizes(text: str) -> list[int]:
    from gfdit.cli.compare import _sizes as sizes

    return sizes(text)


def _made_again(names: Sequence[str]) -> list[str]:
    """The training workloads that other seeds make anew. Raises UsageError when there is none."""
    from gfdit.sim.profiles import PROFILES

    made = [name for name in names if name.partition(":")[0] in PROFILES]
    if not made:
        raise UsageError(
            "nothing to confirm on: every training workload is a file",
            hint="--validate OTHER.jsonl, or --validate PROFILE:LOAD",
        )
    return made


def _tasks(
    policy: str,
    names: Sequence[str],
    costs: Sequence[str],
    sizes: Sequence[int],
    gpus_per_node: int,
    model: str | None,
    window: float | None,
    seeds: range,
) -> list[Task]:
    """Every workload with every cost model, cluster size and seed (a file has one)."""
    from gfdit.cli.shipped import find_cost, find_workload
    from gfdit.cli.workload import only_model
    from gfdit.runtime.costfile import load_cost_model
    from gfdit.sim.compare import Plan, workload_source

    sources = [workload_source(name, find_workload, window) for name in names]
    tasks: list[Task] = []
    for path in map(find_cost, costs):
        made = any(source.path is None for source in sources)
        asked = only_model(load_cost_model(path), model) if made else ""
        tasks += Plan([policy], sources, path, asked, sizes, seeds, gpus_per_node=gpus_per_node).tasks()
    return tasks


def _run(plan: TunePlan, out: Path | None, jobs: int, progress: bool) -> Tuned:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from gfdit.sim.tuning import tune as search

    terminal = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not (progress and terminal.is_terminal)) as bar:
        task = bar.add_task("tuning", total=plan.simulations)
        return search(plan, None if out is None else out / TRIALS_FILE, jobs, lambda n: bar.advance(task, n))


def _print(found: Tuned, out: Path | None) -> None:
    import sys

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    table = Table(title=f"{found.policy}: {len(found.trials)} settings for {found.objective}", box=SIMPLE_HEAD)
    table.title_justify = "left"
    for name in ("param", "default", "best in training"):
        table.add_column(name, no_wrap=True)
    for name, value in found.setting.items():
        table.add_row(name, found.default[name], value)
    console.print(table)
    what = "of latency saved" if found.objective.of_time else "of attainment"
    console.print(f"training   {found.training_gain():+.2%} {what} over the default")
    if found.gain is not None:
        console.print(f"held out   {_interval(found.gain)} {what}, in {len(found.held_out)} cells")
    if found.recommended:
        console.print(f"\nuse it: {found.line}", style="bold")
    else:
        console.print(f"\nkeep the default: {_why(found)}", style="bold")
    if out is not None:
        console.print(f"written to {out}/: {RESULT_FILE}, {PICTURE_FILE}, {TRIALS_FILE}")


def _interval(gain: Gain) -> str:
    return f"{gain.mean:+.2%} (95 %: {gain.low:+.2%} to {gain.high:+.2%})"


def _why(found: Tuned) -> str:
    if found.gain is None:
        return "no other setting was better in training"
    return "on held-out workloads the gain is not sure"
