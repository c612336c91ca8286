"""How well the simulator foretells a live run: a journal's arrivals, policy and cluster simulated, request by request.

The scheduler of the simulation estimates with the journal's cost table, as the live one did; durations come from the
table that is judged. Where they part is told in two ways: what a request's latency is made of (waiting, computing,
handing over, and what lies around a task: messages, the controller, a busy rank), and every stage's tasks against the
table. `fitted_cost` corrects a table by a journal; judge it by another one.

Not simulated: workers that were lost, cancellations, and policies that were changed on the way. They are counted.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from gfdit.core.commands import Command, EndRequest, RunTask
from gfdit.core.cost import X_OF, CostModel, Curve, Points, Quadratic
from gfdit.core.events import (
    Event,
    PolicyEjected,
    PolicyOverran,
    PolicySwapped,
    RequestArrived,
    RequestCancelled,
    TaskFailed,
    TaskFinished,
    WorkerLost,
)
from gfdit.core.scheduler import Decision
from gfdit.core.work import STAGES, Outcome, Request, Stage
from gfdit.errors import InputError
from gfdit.runtime.costfile import parse_cost_model
from gfdit.runtime.driver import drive
from gfdit.runtime.journal import JournalReader
from gfdit.runtime.recipe import Recipe, recipe_from_json
from gfdit.runtime.records import TickRecord
from gfdit.sim.fleet import SimFleet, VirtualClock
from gfdit.units import to_s

Parts = Mapping[str, float]
PARTS = ("waiting", "compute", "handover", "around")


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One task that finished: `begun` when it was sent, `ended` when the scheduler learnt of its end; nanoseconds."""

    request: Request
    command: RunTask
    begun: int
    ended: int
    busy_ns: int
    handover_ns: int

    @property
    def key(self) -> str:
        """The stage's name in a cost table that tells guided steps apart."""
        guided = self.command.stage is Stage.DENOISE and self.request.cfg
        return "denoise_cfg" if guided else str(self.command.stage)

    @property
    def around_ns(self) -> int:
        return max(0, self.ended - self.begun - self.busy_ns - self.handover_ns)


@dataclass(slots=True)
class Run:
    """An observer that keeps what happened to every request. `troubles`: what a simulation does not repeat."""

    requests: dict[str, Request] = field(default_factory=dict)
    tasks: list[TaskRun] = field(default_factory=list)
    ends: dict[str, EndRequest] = field(default_factory=dict)
    troubles: Counter[str] = field(default_factory=Counter)
    tick_s: float = 0.0
    _open: dict[int, tuple[RunTask, int]] = field(default_factory=dict)

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        self.take(now, events, decision.commands, tick_seconds)

    def take(self, now: int, events: Iterable[Event], commands: Iterable[Command], tick_s: float) -> None:
        """One tick: what it saw and what it ordered."""
        for event in events:
            self._see(event)
        for command in commands:
            match command:
                case RunTask():
                    self._open[command.epoch] = command, now
                case EndRequest():
                    self.ends[command.request_id] = command
                case _:
                    pass
        self.tick_s += tick_s

    def _see(self, event: Event) -> None:
        match event:
            case RequestArrived(request=request):
                self.requests.setdefault(request.id, request)
            case TaskFinished(epoch=epoch) if epoch in self._open:  # else it is stale, and changed nothing
                command, begun = self._open.pop(epoch)
                request = self.requests[command.request_id]
                self.tasks.append(TaskRun(request, command, begun, event.at, event.busy_ns, event.handover_ns))
            case TaskFailed(epoch=epoch):
                self._open.pop(epoch, None)
                self.troubles["failed tasks"] += 1
            case WorkerLost():
                self.troubles["lost workers"] += 1
            case RequestCancelled():
                self.troubles["cancelled requests"] += 1
            case PolicySwapped() | PolicyEjected() | PolicyOverran():
                self.troubles["policy changes and overruns"] += 1
            case _:
                pass

    def latencies(self) -> dict[str, float]:
        """Seconds of the completed requests, by id."""
        return {
            name: to_s(end.at - self.requests[name].arrival_ns)
            for name, end in self.ends.items()
            if end.outcome is Outcome.COMPLETED
        }

    def parts(self, names: Iterable[str]) -> Parts:
        """Mean seconds of `PARTS` over these completed requests; they add up to the mean latency."""
        sums: dict[str, Counter[str]] = defaultdict(Counter)
        for task in self.tasks:
            mine = sums[task.request.id]
            mine["compute"] += task.busy_ns
            mine["handover"] += task.handover_ns
            mine["around"] += task.around_ns
        latencies, chosen = self.latencies(), list(names)
        for name in chosen:
            sums[name]["waiting"] = round(latencies[name] * 1e9) - sums[name].total()
        return {part: sum(to_s(sums[name][part]) for name in chosen) / max(1, len(chosen)) for part in PARTS}


@dataclass(frozen=True, slots=True)
class StageError:
    """All tasks of one stage at one degree: seconds observed, and what the table says for the same tasks. `ratio`: the
    median task's observed / table."""

    model: str
    stage: str
    degree: int
    tasks: int
    observed_s: float
    table_s: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Pair:
    """One request that was completed live and in the simulation."""

    id: str
    class_name: str
    live_s: float
    simulated_s: float

    @property
    def error(self) -> float:
        """Signed: (simulated - live) / live."""
        return (self.simulated_s - self.live_s) / self.live_s


@dataclass(frozen=True, slots=True)
class Fidelity:
    """`only_live`, `only_simulated`: completed in one of the worlds only. `live_parts`, `simulated_parts`: of the mean
    latency, see `Run.parts`. `dispatch_s`, `reshard_s`: what was observed; the table's are in `cost`."""

    journal: str
    device: str
    cost: CostModel
    gpus: int
    pairs: tuple[Pair, ...]
    only_live: int
    only_simulated: int
    attainment_live: float
    attainment_simulated: float
    live_parts: Parts
    simulated_parts: Parts
    stages: tuple[StageError, ...]
    dispatch_s: float | None
    reshard_s: float | None
    troubles: Mapping[str, int]

    @property
    def median(self) -> float:
        """Of the requests' absolute relative errors."""
        return float(np.median([abs(pair.error) for pair in self.pairs]))

    @property
    def p95(self) -> float:
        return float(np.percentile([abs(pair.error) for pair in self.pairs], 95))

    @property
    def bias(self) -> float:
        """Of the mean latency: (simulated - live) / live."""
        live = sum(pair.live_s for pair in self.pairs)
        return sum(pair.simulated_s - pair.live_s for pair in self.pairs) / live

    def result(self) -> dict[str, object]:
        """The object that `gfdit fidelity --json` prints."""
        return {
            "journal": self.journal,
            "device": self.device,
            "cost_model": self.cost.name,
            "gpus": self.gpus,
            "requests": len(self.pairs),
            "only_live": self.only_live,
            "only_simulated": self.only_simulated,
            "error_median": self.median,
            "error_p95": self.p95,
            "mean_latency_bias": self.bias,
            "attainment": {"live": self.attainment_live, "simulated": self.attainment_simulated},
            "mean_latency_s": {"live": dict(self.live_parts), "simulated": dict(self.simulated_parts)},
            "stages": [asdict(stage) for stage in self.stages],
            "overheads_s": {
                "dispatch": {"observed": self.dispatch_s, "table": self.cost.dispatch_s},
                "reshard": {"observed": self.reshard_s, "table": self.cost.reshard_s},
            },
            "not_simulated": dict(self.troubles),
            "errors": {pair.id: pair.error for pair in self.pairs},
        }


def fidelity(journal: Path, cost: CostModel | None = None) -> Fidelity:
    """Simulate what `journal` recorded. `cost`: the table to judge; default: the journal's own.

    Raises JournalError, CostModelError for a table that lacks what was run, and InputError when no request was
    completed in both worlds.
    """
    recipe, live = read_run(journal)
    judged = cost or parse_cost_model(recipe.cost)
    stages = stage_errors(live, judged)
    simulated = simulate_run(recipe, judged, live.requests.values())
    ours, theirs = live.latencies(), simulated.latencies()
    both = [name for name in ours if name in theirs]
    if not both:
        raise InputError(f"{journal}: no request was completed both live and in the simulation")
    return Fidelity(
        journal=str(journal),
        device=str(recipe.about.get("device") or ""),
        cost=judged,
        gpus=recipe.gpus,
        pairs=tuple(Pair(name, live.requests[name].class_name, ours[name], theirs[name]) for name in both),
        only_live=len(ours) - len(both),
        only_simulated=len(theirs) - len(both),
        attainment_live=_attainment(live),
        attainment_simulated=_attainment(simulated),
        live_parts=live.parts(both),
        simulated_parts=simulated.parts(both),
        stages=stages,
        dispatch_s=_mean(task.around_ns for task in live.tasks if not task.command.has_handover),
        reshard_s=_mean(task.handover_ns for task in live.tasks if task.command.has_handover),
        troubles=dict(live.troubles),
    )


def read_run(journal: Path) -> tuple[Recipe, Run]:
    """What a journal's scheduler was made from, and what happened. Raises JournalError."""
    reader = JournalReader(journal)
    run = Run()
    try:
        events: list[Event] = []
        for record in reader.records():
            if isinstance(record, TickRecord):
                run.take(record.now, events, record.commands, record.seconds)
                events = []
            else:
                events.append(record)
        return recipe_from_json(reader.meta), run
    finally:
        reader.close()


def simulate_run(recipe: Recipe, cost: CostModel, requests: Iterable[Request]) -> Run:
    """The recipe's scheduler, with its own table, in a world where work takes what `cost` says."""
    clock = VirtualClock()
    fleet = SimFleet(clock, cost, recipe.gpus, sorted(requests, key=lambda request: request.arrival_ns))
    run = Run()
    drive(recipe.scheduler(), clock, fleet, (run,))
    return run


def stage_errors(run: Run, cost: CostModel) -> tuple[StageError, ...]:
    """In the order of a table's chain. Raises CostModelError."""
    groups: dict[tuple[str, str, int], list[tuple[float, float]]] = defaultdict(list)
    for task in run.tasks:
        table = cost.seconds(task.request, task.command.stage, _degree(task)) * task.command.steps
        groups[task.request.model, task.key, _degree(task)].append((to_s(task.busy_ns), table))
    order = [*map(str, STAGES), "denoise_cfg"]
    found: list[StageError] = []
    for (model, stage, degree), times in sorted(groups.items(), key=lambda g: (g[0][0], order.index(g[0][1]), g[0][2])):
        ratios = [observed / table for observed, table in times if table > 0]
        observed_s, table_s = (float(sum(column)) for column in zip(*times, strict=True))
        ratio = float(np.median(ratios)) if ratios else float("inf")
        found.append(StageError(model, stage, degree, len(times), observed_s, table_s, ratio))
    return tuple(found)


# ---- a table corrected by a journal ---------------------------------------------------------------------------------


def fitted_cost(journal: Path, cost: CostModel | None = None, name: str | None = None) -> CostModel:
    """`cost` (default: the journal's own) moved to what the journal's tasks took on average.

    Curves through points go through the observed sizes and keep their course elsewhere, times the nearest observed
    ratio; others are scaled. What did not run stays. The overheads are the observed means.
    """
    recipe, run = read_run(journal)
    table = cost or parse_cost_model(recipe.cost)
    seen: dict[tuple[str, str, int], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for task in run.tasks:
        stage = _table_key(table, task)
        x = float(X_OF[table.models[task.request.model][stage].x](task.request))
        seen[task.request.model, stage, _degree(task)][x].append(to_s(task.busy_ns) / task.command.steps)
    models = {
        model: {
            stage: replace(entry, degrees={k: _moved(c, seen.get((model, stage, k))) for k, c in entry.degrees.items()})
            for stage, entry in stages.items()
        }
        for model, stages in table.models.items()
    }
    dispatch = _mean(task.around_ns for task in run.tasks if not task.command.has_handover)
    reshard = _mean(task.handover_ns for task in run.tasks if task.command.has_handover)
    return replace(
        table,
        name=name or f"{table.name}-fitted",
        models=models,
        dispatch_s=table.dispatch_s if dispatch is None else dispatch,
        reshard_s=table.reshard_s if reshard is None else reshard,
        source=f"{table.source}; fitted to a journal of {len(run.tasks)} tasks by gfdit fidelity",
        extra=json.loads(json.dumps({key: value for key, value in table.extra.items() if key != "fit_error"})),
    )


def _moved(curve: Curve, seen: Mapping[float, Sequence[float]] | None) -> Curve:
    if not seen:
        return curve
    means = {x: float(np.mean(values)) for x, values in seen.items()}
    match curve:
        case Quadratic(a, b, c):
            table = sum(curve.at(x) * len(seen[x]) for x in means)
            ratio = sum(means[x] * len(seen[x]) for x in means) / table if table > 0 else 1.0
            return Quadratic(a * ratio, b * ratio, c * ratio)
        case Points(points):
            known = sorted(x for x in means if curve.at(x) > 0)
            ratios = [means[x] / curve.at(x) for x in known] or [1.0]
            moved = {x: seconds * float(np.interp(x, known or [0.0], ratios)) for x, seconds in points}
            return Points(tuple(sorted((moved | means).items())))


def _table_key(table: CostModel, task: TaskRun) -> str:
    return task.key if task.key in table.models[task.request.model] else str(task.command.stage)


def _degree(task: TaskRun) -> int:
    return task.command.parallel.degree


def _mean(values_ns: Iterable[int]) -> float | None:
    known = list(values_ns)
    return float(np.mean(known)) / 1e9 if known else None


def _attainment(run: Run) -> float:
    return sum(end.on_time for end in run.ends.values()) / max(1, len(run.requests))
