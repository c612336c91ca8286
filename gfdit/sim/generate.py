"""Requests from a profile: arrivals, classes, budgets. Equal arguments give equal workloads, line for line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from gfdit.core.cost import CostModel
from gfdit.core.work import SINGLE_RANK_STAGES, Request, Stage
from gfdit.errors import UsageError
from gfdit.runtime.geometry import Geometry, tokens_of
from gfdit.sim.profiles import REFERENCE_GPUS, VARIANTS, Profile, RequestClass, is_video, profile_named
from gfdit.units import to_ns, to_s

TEXT_TOKENS = 512
MAX_REQUESTS = 1_000_000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """What to make. `load`: GPU-seconds asked for (alone on one GPU) per GPU-second of the window; None keeps the
    profile's rates, which grow with `gpus`. `window_s`: stretch or squeeze the profile's course. `slo_scale`: factor
    on all budgets. `steps`: instead of the profile's. `variant`: "" or one of `profiles.VARIANTS`; the load of an
    overload is that outside of its surge."""

    profile: str
    model: str
    gpus: int = 8
    seed: int = 0
    load: float | None = None
    window_s: float | None = None
    slo_scale: float = 1.0
    steps: int | None = None
    variant: str = ""


@dataclass(frozen=True, slots=True)
class WorkloadFacts:
    """What a workload asks of a cluster. `load` relates to the time until the last arrival, or to the window."""

    requests: int
    by_class: Mapping[str, int]
    window_s: float
    rate_rps: float
    gap_cv: float | None
    single_gpu_s: float
    load: float


def generate(spec: WorkloadSpec, cost: CostModel) -> list[Request]:
    """Requests in order of arrival. Raises UsageError, and CostModelError when `cost` does not know the model."""
    profile = profile_named(spec.profile, spec.model, spec.seed)
    if spec.window_s is not None:
        profile = profile.stretched_to(spec.window_s)
    if spec.steps is not None:
        profile = replace(profile, steps=None, classes=tuple(replace(c, steps=spec.steps) for c in profile.classes))
    random = np.random.Generator(np.random.PCG64([spec.seed, 0]))
    scale = _rate_scale(profile, spec, cost)
    if spec.variant == "overload":
        profile = profile.surged()
    elif spec.variant not in ("", *VARIANTS):
        raise UsageError(f"no workload variant `{spec.variant}`", hint=f"variants are {', '.join(VARIANTS)}")
    _check_size(profile, scale)
    classes = {kind.name: kind for kind in profile.classes}
    counts: Counter[str] = Counter()
    made: list[Request] = []
    for arrival_s in _arrivals(profile, scale, random):
        kind = classes[_pick(_mix_at(profile, arrival_s), random)]
        if profile.steps is not None:
            kind = replace(kind, steps=_pick(profile.steps, random))
        images = 1 if profile.images is None else _pick(profile.images, random)
        number = counts[kind.name]
        counts[kind.name] += 1
        name = f"{kind.name}_{number:06}"
        for image in range(images):
            own = name if images == 1 else f"{name}.{image}"
            made.append(_request(own, arrival_s, kind, spec, cost, seed=len(made)))
    if not made:
        raise UsageError("no request arrives in this workload", hint="use a higher --load or a longer --window")
    return made


def facts_of(requests: Sequence[Request], cost: CostModel, gpus: int, window_s: float | None = None) -> WorkloadFacts:
    """Raises CostModelError."""
    arrivals = np.array([to_s(request.arrival_ns) for request in requests])
    window = max(window_s or float(arrivals.max()), 1e-9)
    gaps = np.diff(np.unique(arrivals))
    seconds = sum(single_gpu_s(request, cost) for request in requests)
    return WorkloadFacts(
        requests=len(requests),
        by_class=dict(sorted(Counter(request.class_name for request in requests).items())),
        window_s=window,
        rate_rps=len(requests) / window,
        gap_cv=float(gaps.std() / gaps.mean()) if len(gaps) > 1 else None,
        single_gpu_s=seconds,
        load=seconds / (gpus * window),
    )


def single_gpu_s(request: Request, cost: CostModel) -> float:
    """GPU-seconds of `request` alone on one GPU (on the fewest that the table knows), without overheads."""
    degree = min(cost.degrees(request.model))
    total = 0.0
    for stage in cost.stages(request.model):
        ranks = 1 if stage in SINGLE_RANK_STAGES else degree
        repeats = request.steps if stage is Stage.DENOISE else 1
        total += ranks * repeats * cost.seconds(request, stage, degree)
    return total


def _rate_scale(profile: Profile, spec: WorkloadSpec, cost: CostModel) -> float:
    """Factor on the profile's rates: for the cluster's size, or such that the expected load is the asked one."""
    if spec.load is None:
        return spec.gpus / REFERENCE_GPUS
    images = 1.0 if profile.images is None else sum(n * share for n, share in profile.images.items())
    seconds = {kind.name: _mean_single_gpu_s(kind, profile, spec, cost) * images for kind in profile.classes}
    asked = sum(
        (phase.end_s - phase.start_s) * phase.per_minute / 60 * sum(s * seconds[c] for c, s in phase.mix.items())
        for phase in profile.phases
    )
    return spec.load * spec.gpus * profile.window_s / asked


def _mean_single_gpu_s(kind: RequestClass, profile: Profile, spec: WorkloadSpec, cost: CostModel) -> float:
    steps = profile.steps or {kind.steps: 1.0}
    total = sum(steps.values())
    return sum(
        share / total * single_gpu_s(_request("", 0.0, replace(kind, steps=count), spec, cost, seed=0), cost)
        for count, share in steps.items()
    )


def _check_size(profile: Profile, scale: float) -> None:
    expected = scale * sum((p.end_s - p.start_s) * p.per_minute / 60 for p in profile.phases)
    if expected > MAX_REQUESTS:
        raise UsageError(
            f"this workload would have about {expected:.3g} requests, more than {MAX_REQUESTS}",
            hint="use a lower --load or a shorter --window",
        )


def _arrivals(profile: Profile, scale: float, random: np.random.Generator) -> list[float]:
    """Seconds. A renewal process of rate 1 (gamma gaps of the profile's CV), bent by the cumulative rate."""
    times, total = [0.0], [0.0]
    for phase in profile.phases:
        if phase.start_s > times[-1]:
            times.append(phase.start_s)
            total.append(total[-1])
        times.append(phase.end_s)
        total.append(total[-1] + scale * phase.per_minute / 60 * (phase.end_s - phase.start_s))
    shape = profile.gap_cv**-2
    spread = profile.gap_cv * total[-1] ** 0.5
    gaps = random.gamma(shape, 1 / shape, size=int(total[-1] + 8 * spread) + 16)
    events = np.cumsum(gaps)
    found: list[float] = np.interp(events[events < total[-1]], total, times).round(6).tolist()
    return found


def _mix_at(profile: Profile, arrival_s: float) -> Mapping[str, float]:
    for phase in profile.phases:
        if arrival_s < phase.end_s:
            return phase.mix
    return profile.phases[-1].mix


def _pick(shares: Mapping[T, float], random: np.random.Generator) -> T:
    at = random.random() * sum(shares.values())
    for value, share in shares.items():
        at -= share
        if at < 0:
            return value
    return max(shares, key=lambda value: shares[value])


def _request(
    name: str, arrival_s: float, kind: RequestClass, spec: WorkloadSpec, cost: CostModel, *, seed: int
) -> Request:
    tokens = tokens_of(spec.model, kind.height, kind.width, kind.frames)
    if tokens is None:
        tokens = Geometry(16, 16, 4 if is_video(spec.model) else 1).tokens(kind.height, kind.width, kind.frames)
    request = Request(
        id=name,
        model=spec.model,
        class_name=kind.name,
        arrival_ns=to_ns(arrival_s),
        height=kind.height,
        width=kind.width,
        frames=kind.frames,
        steps=kind.steps,
        tokens=tokens,
        text_tokens=TEXT_TOKENS,
        cfg=kind.cfg,
        priority=kind.priority,
        tag=kind.name,
        seed=seed,
    )
    budget = kind.budget_s if kind.alpha is None else kind.alpha * single_gpu_s(request, cost)
    return request if budget is None else replace(request, slo_ns=to_ns(budget * spec.slo_scale))
