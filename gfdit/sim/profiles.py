"""Workload profiles as data: classes of requests, and phases with an arrival rate and a mix of classes each.

`short`, `shift`, `foreground_burst` and `inflight_burst` are piecewise Poisson; `tetriserve` and `tridentserve` have
the constant rates and shapes of those papers' traces; `production` follows a working day of a public trace.

Any of them has variants: `overload` triples the rate in the middle third of the window, so that a queue builds up and
has to be worked off; `failure` says what breaks while it is served.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gfdit.errors import UsageError
from gfdit.runtime.geometry import KNOWN

PRODUCTION = Path(__file__).resolve().parent.parent / "_data" / "production" / "gentd26.json"
REFERENCE_GPUS = 8  # the rates below are meant for a cluster of this size
HOUR_S = 3600.0
VARIANTS = ("overload", "failure")
SURGE = 3.0
FAILURES = "crash 4/h restart 30s, straggler 1.5x 10% for 60s"  # as `gfdit sim --faults` takes it


@dataclass(frozen=True, slots=True)
class RequestClass:
    """What a request of this class looks like. Budget: `alpha` times its seconds alone on one GPU, or `budget_s`."""

    name: str
    height: int
    width: int
    frames: int = 1
    steps: int = 50
    cfg: bool = False
    priority: int = 0
    alpha: float | None = None
    budget_s: float | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """From `start_s` to `end_s`: requests a minute on 8 GPUs, and each class's share of them (they add up to 1)."""

    start_s: float
    end_s: float
    per_minute: float
    mix: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Profile:
    """`gap_cv`: coefficient of variation of the gaps between arrivals at a steady rate (1 = Poisson).

    `steps`, `images`: shares of step counts and of images a request, where a trace tells them; an image is a request
    of its own."""

    name: str
    classes: tuple[RequestClass, ...]
    phases: tuple[Phase, ...]
    gap_cv: float = 1.0
    steps: Mapping[int, float] | None = None
    images: Mapping[int, float] | None = None

    @property
    def window_s(self) -> float:
        return max(phase.end_s for phase in self.phases)

    def stretched_to(self, window_s: float) -> Profile:
        """The same course of rates within another window."""
        factor = window_s / self.window_s
        return replace(
            self, phases=tuple(replace(p, start_s=p.start_s * factor, end_s=p.end_s * factor) for p in self.phases)
        )

    def surged(self, factor: float = SURGE) -> Profile:
        """`factor` times the rate in the middle third."""
        start, end = self.window_s / 3, 2 * self.window_s / 3
        phases: list[Phase] = []
        for phase in self.phases:
            cuts = [phase.start_s, *(at for at in (start, end) if phase.start_s < at < phase.end_s), phase.end_s]
            for left, right in pairwise(cuts):
                more = factor if start <= left < end else 1.0
                phases.append(replace(phase, start_s=left, end_s=right, per_minute=phase.per_minute * more))
        return replace(self, phases=tuple(phases))


def is_video(model: str) -> bool:
    known = KNOWN.get(model)
    return known.frame_factor > 1 if known else "video" in model


IMAGES = tuple(
    RequestClass(name, side, side, priority=priority, alpha=alpha)
    for name, side, priority, alpha in (("S", 512, 100, 1.5), ("M", 1024, 50, 2.0), ("L", 1536, 0, 6.0))
)
VIDEOS = (
    RequestClass("S", 480, 832, 49, cfg=True, priority=100, alpha=2.0),
    RequestClass("M", 480, 832, 81, cfg=True, priority=50, alpha=2.5),
    RequestClass("L", 720, 1280, 81, cfg=True, priority=0, alpha=3.5),
)

# start, end, requests a minute at 8 GPUs, shares of S, M, L
_PIECEWISE: dict[str, tuple[tuple[float, float, float, tuple[float, float, float]], ...]] = {
    "short": (
        (0, 60, 0.8, (0.50, 0.35, 0.15)),
        (60, 360, 1.5, (0.55, 0.35, 0.10)),
        (360, 540, 2.5, (0.70, 0.25, 0.05)),
    ),
    "shift": (
        (0, 600, 0.8, (0.50, 0.35, 0.15)),
        (600, 1500, 1.4, (0.35, 0.40, 0.25)),
        (1500, 2400, 2.4, (0.50, 0.30, 0.20)),
        (2400, 3000, 1.2, (0.20, 0.35, 0.45)),
        (3000, 3600, 0.6, (0.55, 0.35, 0.10)),
    ),
    "foreground_burst": (
        (0, 180, 0.5, (0.0, 0.4, 0.6)),
        (180, 360, 3.0, (0.85, 0.10, 0.05)),
        (360, 900, 0.8, (0.30, 0.30, 0.40)),
        (900, 1080, 3.0, (0.85, 0.10, 0.05)),
        (1080, 1800, 0.5, (0.40, 0.30, 0.30)),
    ),
    "inflight_burst": (
        (0, 300, 0.6, (0.0, 0.0, 1.0)),
        (600, 780, 4.0, (1.0, 0.0, 0.0)),
    ),
}

# The five resolutions that TridentServe publishes step times for; the budget is ours, the paper's is relative too.
_TRIDENT = tuple(RequestClass(str(s), s, s, steps=28, alpha=2.0) for s in (128, 256, 512, 1024, 1536))
_TETRI = tuple(
    RequestClass(str(side), side, side, budget_s=budget)
    for side, budget in ((256, 1.5), (512, 2.0), (1024, 3.0), (2048, 5.0))
)
_CONSTANT = {"tridentserve": (90.0, _TRIDENT), "tetriserve": (12.0, _TETRI)}
_CONSTANT_WINDOW_S = 600.0
_PRODUCTION_MIX = {"S": 0.5, "M": 0.35, "L": 0.15}  # the trace does not tell resolutions

PROFILES = (*_PIECEWISE, *_CONSTANT, "production")


def profile_named(name: str, model: str, seed: int) -> Profile:
    """The profile for requests of `model`; `seed` draws the hours of `production`. Raises UsageError."""
    classes = VIDEOS if is_video(model) else IMAGES
    if name in _PIECEWISE:
        phases = tuple(
            Phase(start, end, rate, {c.name: share for c, share in zip(classes, mix, strict=True)})
            for start, end, rate, mix in _PIECEWISE[name]
        )
        return Profile(name, classes, phases)
    if name in _CONSTANT:
        rate, own = _CONSTANT[name]
        if is_video(model):
            raise UsageError(f"profile `{name}` is about images, `{model}` makes video", hint="pick another profile")
        share = dict.fromkeys((c.name for c in own), 1 / len(own))
        return Profile(name, own, (Phase(0, _CONSTANT_WINDOW_S, rate, share),))
    if name == "production":
        return _production(classes, seed)
    raise UsageError(f"no workload profile `{name}`", hint=f"profiles are {', '.join(PROFILES)}")


def _production(classes: tuple[RequestClass, ...], seed: int) -> Profile:
    """A working day: each hour's mean rate, times a gamma factor as uneven as the trace's."""
    fitted = _fitted()
    shape = fitted["hour_gamma_shape"]
    factors = np.random.Generator(np.random.PCG64([seed, 1])).gamma(shape, 1 / shape, size=24)
    phases = tuple(
        Phase(hour * HOUR_S, (hour + 1) * HOUR_S, rate * factor / 60, _PRODUCTION_MIX)
        for hour, (rate, factor) in enumerate(zip(fitted["working_per_hour"], factors.tolist(), strict=True))
    )
    steps, images = ({int(n): share for n, share in fitted[key].items()} for key in ("steps", "images"))
    return Profile("production", classes, phases, fitted["gap_cv"], steps, images)


@cache
def _fitted() -> dict[str, Any]:
    """The fields are explained in benchmarks/fit_trace.py, which wrote them."""
    fitted: dict[str, Any] = json.loads(PRODUCTION.read_text("utf-8"))
    return fitted
