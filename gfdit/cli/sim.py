"""`gfdit sim`: a workload, a cost model and a policy through the production scheduler, in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.cli.check import parse_settings
from gfdit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gfdit.core.events import Event
    from gfdit.core.scheduler import Decision, Scheduler
    from gfdit.policy.planner import CompiledPolicy
    from gfdit.runtime.recipe import Recipe
    from gfdit.sim.run import SimConfig, SimOutcome


def sim(
    policy: Annotated[str, typer.Option("--policy", "-p", help="A .pol or .py file, or a shipped policy's name.")],
    workload: Annotated[str, typer.Option(help="Workload: a file or a shipped example's name.")],
    cost: Annotated[str, typer.Option(help="Cost model: a file or a shipped name.")],
    gpus: Annotated[int, typer.Option(min=1, max=65536, help="How many ranks.")] = 8,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="Ranks of a node.")] = 8,
    nodes: Annotated[
        str | None, typer.Option(metavar="NxM", help="N nodes of M ranks, instead of the two options above.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise and the faults.")] = 0,
    noise: Annotated[float, typer.Option(min=0.0, max=2.0, help="Relative sigma of task durations.")] = 0.0,
    faults: Annotated[
        str | None,
        typer.Option(help="What goes wrong, such as `crash 2/h, straggler 1.5x 10% for 60s, slow_link 3x 5%`."),
    ] = None,
    truth: Annotated[
        str | None, typer.Option(help="What work really takes, if not what --cost says: another cost model.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PARAM=VALUE", help="A value for a policy param.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a one-page HTML report.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write a Chrome trace for the Perfetto UI.")] = None,
    journal: Annotated[Path | None, typer.Option(help="Keep the journal (`gfdit replay` reads it).")] = None,
    check: Annotated[bool, typer.Option("--check", help="Verify the scheduler's invariants on every tick.")] = False,
    bound: Annotated[
        bool, typer.Option("--bound", help="Also compute what no policy can beat (offline: may take minutes).")
    ] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="A bar on stderr, on a terminal.")] = True,
) -> None:
    """Simulate a policy on a workload: the scheduler is the live one, durations come from the cost model."""
    import json
    import sys
    import tempfile

    from rich.console import Console

    from gfdit.cli.bound import bounds_with_status
    from gfdit.cli.shipped import find_cost, find_workload
    from gfdit.cli.summary_table import summary_table
    from gfdit.policy.store import load_policy
    from gfdit.runtime.costfile import load_cost_model
    from gfdit.runtime.geometry import tokens_of
    from gfdit.runtime.workload import load_workload
    from gfdit.sim.faults import parse_faults
    from gfdit.sim.run import SimConfig

    if bound and (noise or truth):
        option = "--noise" if noise else "--truth"
        raise UsageError(f"--bound does not go with {option}", hint="the bounds hold for the table's own durations")
    if nodes is not None:
        gpus, gpus_per_node = _cluster(nodes)
    params = parse_settings(set_ or [])
    path = find_workload(workload)
    config = SimConfig(
        policy=load_policy(policy, params),
        requests=load_workload(path, tokens_of),
        workload=path.name,
        cost=load_cost_model(find_cost(cost)),
        gpus=gpus,
        gpus_per_node=gpus_per_node,
        seed=seed,
        noise=noise,
        faults=None if faults is None else parse_faults(faults),
        truth=None if truth is None else load_cost_model(find_cost(truth)),
        check=check,
    )
    with tempfile.TemporaryDirectory(prefix="gfdit-") as scratch, _Bar(len(config.requests), progress) as bar:
        kept = journal or (Path(scratch) / "journal.sqlite" if report or trace else None)
        # the journal's policy is loaded afresh: what is carried from tick to tick begins with it
        recipe = None if kept is None else _recipe(config, load_policy(policy, params), params)
        outcome = _simulate(config, bar, kept, recipe)
        if kept is not None and report is not None:
            from gfdit.report import report_of_journal  # draws with matplotlib: only when asked for

            report_of_journal(kept, report)
        if kept is not None and trace is not None:
            from gfdit.report.perfetto import trace_of_journal

            trace_of_journal(kept, trace)
    result = dict(outcome.result)
    if bound:
        result["bound"] = bounds_with_status(config.requests, config.cost, gpus, progress).result()
    if json_:
        print(json.dumps(result))
        return
    figures = {**result, "resizes_by_kind": outcome.summary.resizes_by_kind()}
    title = f"policy {config.policy.name} on {gpus} simulated ranks"
    Console(file=sys.stdout, highlight=False).print(summary_table(figures, title=title))


def _cluster(nodes: str) -> tuple[int, int]:
    """`8x8`: ranks, and ranks a node."""
    count, _, each = nodes.partition("x")
    if not (count.isdecimal() and each.isdecimal() and int(count) * int(each) > 0):
        raise UsageError(f"--nodes `{nodes}` is not a number of nodes and of ranks each", hint="such as --nodes 8x8")
    return int(count) * int(each), int(each)


def _recipe(config: SimConfig, policy: CompiledPolicy, params: Mapping[str, str]) -> Recipe:
    """What the journal says its scheduler was made from, and of what run."""
    from gfdit import __version__
    from gfdit.runtime.recipe import recipe_of

    about: dict[str, str | int | float | None] = {
        "gfdit": __version__,
        "device": "simulated",
        "workload": config.workload,
        "seed": config.seed,
        "faults": None if config.faults is None else config.faults.text,
        "truth": None if config.truth is None else config.truth.name,
    }
    return recipe_of(policy, params, config.cost, config.gpus, config.gpus_per_node, None, about)


def _simulate(config: SimConfig, bar: _Bar, kept: Path | None, recipe: Recipe | None) -> SimOutcome:
    """Run it under the bar, and with a journal if one is wanted."""
    from gfdit.runtime.ejections import EjectionFiles
    from gfdit.runtime.journal import Journal
    from gfdit.sim.run import simulate

    if kept is None or recipe is None:
        return simulate(config, [bar])
    journals: list[Journal] = []

    def observers(scheduler: Scheduler) -> list[Journal | EjectionFiles | _Bar]:
        journals.append(Journal(kept, recipe.to_json(), scheduler))
        return [*journals, EjectionFiles(kept.with_name(f"{kept.name}.ejections")), bar]

    try:
        return simulate(config, observers)
    finally:
        for opened in journals:
            opened.close()


class _Bar:
    """An observer that shows how many requests have ended; silent when standard error is no terminal."""

    def __init__(self, requests: int, wanted: bool) -> None:
        from rich.console import Console
        from rich.progress import Progress

        terminal = Console(stderr=True)
        self._bar = Progress(console=terminal, transient=True, disable=not (wanted and terminal.is_terminal))
        self._task = self._bar.add_task("requests", total=requests)

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        from gfdit.core.commands import EndRequest

        ended = sum(isinstance(command, EndRequest) for command in decision.commands)
        if ended:
            self._bar.advance(self._task, ended)
