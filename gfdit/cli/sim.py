"""`gfdit sim`: a workload, a cost model and a policy through the production scheduler, in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.cli.check import parse_settings
from gfdit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gfdit.core.events import Event
    from gfdit.core.scheduler import Decision


def sim(
    policy: Annotated[str, typer.Option("--policy", "-p", help="A .pol or .py file, or a shipped policy's name.")],
    workload: Annotated[str, typer.Option(help="Workload: a file or a shipped example's name.")],
    cost: Annotated[str, typer.Option(help="Cost model: a file or a shipped name.")],
    gpus: Annotated[int, typer.Option(min=1, max=65536, help="How many ranks.")] = 8,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="Ranks of a node.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    noise: Annotated[float, typer.Option(min=0.0, max=2.0, help="Relative sigma of task durations.")] = 0.0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PARAM=VALUE", help="A value for a policy param.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a one-page HTML report.")] = None,
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

    from gfdit import __version__
    from gfdit.cli.bound import bounds_with_status
    from gfdit.cli.shipped import find_cost, find_workload
    from gfdit.cli.summary_table import summary_table
    from gfdit.core.scheduler import Scheduler
    from gfdit.policy.store import load_policy
    from gfdit.runtime.costfile import load_cost_model
    from gfdit.runtime.geometry import tokens_of
    from gfdit.runtime.journal import Journal
    from gfdit.runtime.recipe import recipe_of
    from gfdit.runtime.workload import load_workload
    from gfdit.sim.run import SimConfig, simulate

    if bound and noise:
        raise UsageError("--bound does not go with --noise", hint="the bounds hold for the table's own durations")
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
        check=check,
    )
    with tempfile.TemporaryDirectory(prefix="gfdit-") as scratch, _Bar(len(config.requests), progress) as bar:
        kept = journal or (Path(scratch) / "journal.sqlite" if report else None)
        journals: list[Journal] = []

        def observers(scheduler: Scheduler) -> list[Journal | _Bar]:
            if kept is not None:
                about: dict[str, str | int | float | None] = {
                    "gfdit": __version__,
                    "device": "simulated",
                    "workload": path.name,
                    "seed": seed,
                }
                recipe = recipe_of(load_policy(policy, params), params, config.cost, gpus, gpus_per_node, None, about)
                journals.append(Journal(kept, recipe.to_json(), scheduler))
            return [*journals, bar]

        try:
            outcome = simulate(config, observers)
        finally:
            for opened in journals:
                opened.close()
        if report is not None and kept is not None:
            from gfdit.report import report_of_journal  # draws with matplotlib: only when asked for

            report_of_journal(kept, report)
    result = dict(outcome.result)
    if bound:
        result["bound"] = bounds_with_status(config.requests, config.cost, gpus, progress).result()
    if json_:
        print(json.dumps(result))
        return
    figures = {**result, "resizes_by_kind": outcome.summary.resizes_by_kind()}
    title = f"policy {config.policy.name} on {gpus} simulated ranks"
    Console(file=sys.stdout, highlight=False).print(summary_table(figures, title=title))


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
