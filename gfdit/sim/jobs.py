"""Requests as bounds see them: how long and how much GPU time each needs at the least, at whatever degrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gfdit.core.cost import CostModel
from gfdit.core.work import SINGLE_RANK_STAGES, Request, Stage
from gfdit.errors import CostModelError
from gfdit.units import to_s

TINY_S = 1e-9


@dataclass(frozen=True, slots=True)
class Block:
    """One stage, or all denoising steps: its least duration, and its least GPU time."""

    seconds: float
    gpu_seconds: float


@dataclass(frozen=True, slots=True)
class Job:
    """A request as the bounds see it. `step_s`: seconds of a denoising step by degree; `deadline_s`: None = none.

    `alone_s`: the sum of its blocks' least durations, `gpu_s`: of their least GPU times; `auxiliary_s`: the part of
    `alone_s` that is not denoising, `before_s` of it before the first step; `after_s`: how long after the mean time of
    its work (weighted by GPU time) a request ends at the soonest.
    """

    release_s: float
    deadline_s: float | None
    steps: int
    step_s: tuple[tuple[int, float], ...]
    alone_s: float
    gpu_s: float
    auxiliary_s: float
    before_s: float
    after_s: float


def job_of(request: Request, cost: CostModel, gpus: int) -> Job:
    """`request` with the degrees that fit on `gpus`. Raises CostModelError when none does, or a cost is missing."""
    degrees = [degree for degree in cost.degrees(request.model) if degree <= gpus]
    if not degrees:
        raise CostModelError(f"cost model `{cost.name}` has no degree for `{request.model}` within {gpus} GPUs")
    stages = cost.stages(request.model)
    chain = [_block(request, cost, stage, degrees) for stage in stages]
    alone, work = sum(block.seconds for block in chain), sum(block.gpu_seconds for block in chain)
    after = following = 0.0
    for block in reversed(chain):
        after += block.gpu_seconds * (following + block.seconds / 2)
        following += block.seconds
    step_s = tuple((degree, cost.seconds(request, Stage.DENOISE, degree)) for degree in degrees)
    release = to_s(request.arrival_ns)
    return Job(
        release_s=release,
        deadline_s=None if request.slo_ns is None else to_s(request.arrival_ns + request.slo_ns),
        steps=request.steps,
        step_s=step_s,
        alone_s=alone,
        gpu_s=work,
        auxiliary_s=alone - request.steps * min(seconds for _, seconds in step_s),
        before_s=sum(block.seconds for block in chain[: stages.index(Stage.DENOISE)]),
        after_s=after / work if work else 0.0,
    )


def _block(request: Request, cost: CostModel, stage: Stage, degrees: Sequence[int]) -> Block:
    repeats = request.steps if stage is Stage.DENOISE else 1
    seconds = {degree: cost.seconds(request, stage, degree) for degree in degrees}
    ranks = {degree: 1 if stage in SINGLE_RANK_STAGES else degree for degree in degrees}
    return Block(repeats * min(seconds.values()), repeats * min(ranks[degree] * seconds[degree] for degree in degrees))


def useful_degrees(step_s: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Degrees on the upper hull of (GPUs, steps a second): mixing these is as good as mixing all."""
    hull: list[tuple[int, float]] = [(0, 0.0)]
    for degree, seconds in sorted(step_s):
        rate = 1.0 / max(seconds, TINY_S)
        if rate <= hull[-1][1]:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], (degree, rate)):
            hull.pop()
        hull.append((degree, rate))
    return hull[1:]


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
