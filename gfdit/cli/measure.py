"""Measures a model on this machine: real workers of the live system, one request at a time, every task's time kept.

What comes out is a cost model through the measured points; sizes left out of it tell how well it fits.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np

from gfdit import __version__
from gfdit.core.commands import RunTask
from gfdit.core.cost import X_OF, CostModel, Curve, Points, StageCost
from gfdit.core.events import Event, TaskFailed, TaskFinished
from gfdit.core.proposal import Fate, Limits, Occasion, Place, Policy, Proposal, Verdict
from gfdit.core.scheduler import Decision
from gfdit.core.view import I8, STAGE_CODE, View
from gfdit.core.work import SINGLE_RANK_STAGES, Request, Stage
from gfdit.errors import FleetError
from gfdit.units import to_s

PROMPT = "a red circle on a blue background"
SWITCHING = "switching"  # the tag of requests whose group changes with every step
ONE_RANK = {STAGE_CODE[stage] for stage in SINGLE_RANK_STAGES}
X_OF_STAGE = {Stage.ENCODE: "one", Stage.PREPARE: "tokens", Stage.DECODE: "pixels", Stage.FINALIZE: "pixels"}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Pixels a side. `held_out` ones are measured and not fitted. `steps` of each, the first not counted."""

    fitted: tuple[int, ...]
    held_out: tuple[int, ...]
    steps: int


FULL = Sizes((64, 96, 128, 256, 384, 512), (192, 320), 6)
QUICK = Sizes((64, 128, 256), (192,), 4)


class OneAtATime:
    """A policy for measuring: one request runs alone, on as many ranks as its `priority` says."""

    name, version, sha = "measure", 1, ""
    limits = Limits()
    fallback: Policy | None = None
    tick_every_s: float | None = None
    tick_on: frozenset[Occasion] | None = None

    def admit(self, view: View, rows: I8) -> list[Verdict]:
        return [Verdict(int(row), Fate.ADMIT, "measure") for row in rows]

    def plan(self, view: View) -> Proposal:
        rows = np.flatnonzero(view.plannable)
        if view.running.any() or not len(rows):
            return Proposal()
        row = int(min(rows, key=lambda row: (not view.started[row], row)))
        narrow = int(view.stage[row]) in ONE_RANK
        narrow |= bool(view.names["tag"][view.tag[row]] == SWITCHING and view.steps_done[row] % 2)
        return Proposal((Place(row, 1 if narrow else int(view.priority[row])),))


@dataclass(frozen=True, slots=True)
class Sample:
    """One task as it went. `busy_s`: compute; `handover_s`: moving state before it; `around_s`: the rest."""

    task: RunTask
    busy_s: float
    handover_s: float
    around_s: float


class Stopwatch:
    """An observer that keeps every task's times. Raises FleetError when a task fails."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._open: dict[int, tuple[RunTask, int]] = {}

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        for event in events:
            match event:
                case TaskFinished():
                    task, begun = self._open.pop(event.epoch)
                    around = event.at - begun - event.busy_ns - event.handover_ns
                    times = (event.busy_ns, event.handover_ns, max(0, around))
                    self.samples.append(Sample(task, *map(to_s, times)))
                case TaskFailed(code=code, message=message):
                    raise FleetError(f"a measurement failed: {code}: {message}")
                case _:
                    pass
        for command in decision.commands:
            if isinstance(command, RunTask):
                self._open[command.epoch] = (command, now)


def requests_for(
    model: str, sizes: Sizes, degrees: Iterable[int], guided: bool, token: tuple[int, int]
) -> list[Request]:
    """All that is to be measured, in order. `token`: height and width of a latent token in pixels."""
    requests: list[Request] = []

    def add(side: int, degree: int, cfg: bool, steps: int, tag: str = "") -> None:
        tokens = (side // token[0]) * (side // token[1])
        requests.append(
            Request(
                id=f"{len(requests):04d}",
                model=model,
                class_name="measure",
                arrival_ns=0,
                height=side,
                width=side,
                steps=steps,
                tokens=tokens,
                cfg=cfg,
                priority=degree,
                tag=tag,
                prompt=PROMPT,
            )
        )

    for degree in degrees:
        for cfg in (False, True) if guided else (False,):
            for side in sorted((*sizes.fitted, *sizes.held_out)):
                add(side, degree, cfg, sizes.steps)
    for degree in degrees:
        if degree > 1:
            add(sizes.fitted[-1], degree, False, 2 * sizes.steps, SWITCHING)
    return requests


def bootstrap(model: str, degrees: Sequence[int], guided: bool) -> CostModel:
    """A table that says only which degrees there are: the measuring policy asks for no estimate."""
    flat: Curve = Points(((1.0, 1e-3),))
    stages = {str(stage): StageCost("one", {1: flat}) for stage in X_OF_STAGE}
    stages[str(Stage.DENOISE)] = StageCost("tokens", dict.fromkeys(degrees, flat))
    if guided:
        stages["denoise_cfg"] = stages[str(Stage.DENOISE)]
    return CostModel(f"{model}-bootstrap", {model: stages})


def cost_from(
    samples: Sequence[Sample], requests: Sequence[Request], sizes: Sizes, device: str, name: str
) -> CostModel:
    """The table through the medians of what was measured."""
    by_id = {request.id: request for request in requests}
    model = requests[0].model
    fitted = [sample for sample in samples if by_id[sample.task.request_id].width in sizes.fitted]
    stages = {
        str(stage): StageCost(x, {1: _curve(_stage_points(fitted, by_id, stage, x))}) for stage, x in X_OF_STAGE.items()
    }
    steps = _steps(samples, by_id)
    for key in sorted({key for key, _ in steps}):
        degrees = sorted({degree for known, degree in steps if known == key})
        stages[key] = StageCost(
            "tokens", {degree: _curve(_fitted(steps[key, degree], by_id, sizes)) for degree in degrees}
        )
    single = [
        sample.around_s for sample in samples if sample.task.stage is Stage.DENOISE and len(sample.task.ranks) == 1
    ]
    moved = [sample.handover_s for sample in samples if sample.task.has_handover and sample.handover_s > 0]
    return CostModel(
        name=name,
        models={model: {stage: stages[stage] for stage in _in_order(stages)}},
        dispatch_s=median(single),
        reshard_s=median(moved) if moved else 0.0,
        device=device,
        source="gfdit profile",
        extra={"versions": _versions(), "fit_error": _fit_error(stages, steps, by_id, sizes)},
    )


Steps = dict[tuple[str, int], dict[str, float]]  # (stage key, degree) -> request id -> seconds of a step


def _steps(samples: Sequence[Sample], by_id: dict[str, Request]) -> Steps:
    """The median step of each request that kept its group, without the first one."""
    times: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        request = by_id[sample.task.request_id]
        if sample.task.stage is Stage.DENOISE and sample.task.first_step > 0 and request.tag != SWITCHING:
            key = "denoise_cfg" if request.cfg else "denoise"
            times[key, len(sample.task.ranks)][request.id].append(sample.busy_s / sample.task.steps)
    return {key: {name: median(values) for name, values in rows.items()} for key, rows in times.items()}


def _fitted(steps: dict[str, float], by_id: dict[str, Request], sizes: Sizes) -> list[tuple[float, float]]:
    return [(by_id[name].tokens, seconds) for name, seconds in steps.items() if by_id[name].width in sizes.fitted]


def _stage_points(
    samples: Sequence[Sample], by_id: dict[str, Request], stage: Stage, x: str
) -> list[tuple[float, float]]:
    return [(X_OF[x](by_id[s.task.request_id]), s.busy_s) for s in samples if s.task.stage is stage]


def _curve(points: Iterable[tuple[float, float]]) -> Points:
    """Through the median at each x."""
    at: dict[float, list[float]] = defaultdict(list)
    for x, seconds in points:
        at[x].append(seconds)
    return Points(tuple((float(x), round(median(at[x]), 7)) for x in sorted(at)))


def _fit_error(
    stages: dict[str, StageCost], steps: Steps, by_id: dict[str, Request], sizes: Sizes
) -> dict[str, object]:
    """How far the table is off at sizes that are not in it: |table - measured| / measured."""
    errors = [
        abs(stages[key].degrees[degree].at(by_id[name].tokens) - seconds) / seconds
        for (key, degree), rows in steps.items()
        for name, seconds in rows.items()
        if by_id[name].width in sizes.held_out
    ]
    held = [f"{side}x{side}" for side in sizes.held_out]
    return (
        {"held_out": held, "median": round(median(errors), 4), "max": round(max(errors), 4)}
        if errors
        else {"held_out": held}
    )


def _in_order(stages: dict[str, StageCost]) -> list[str]:
    order = [
        *map(str, (Stage.ENCODE, Stage.PREPARE, Stage.DENOISE)),
        "denoise_cfg",
        *map(str, (Stage.DECODE, Stage.FINALIZE)),
    ]
    return [name for name in order if name in stages]


def _versions() -> dict[str, str]:
    libraries = ("torch", "diffusers", "transformers")
    return {"gfdit": __version__, "python": platform.python_version(), **{name: version(name) for name in libraries}}


def cpu_name() -> str:
    """What the kernel calls this processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.machine()
