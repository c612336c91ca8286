"""What is asked of a server, and when: from a workload, or at a rate. Pure: no sockets, no clock.

Arrivals never wait for answers (an open loop), so a server that stalls is charged for everything that came meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gfdit.core.work import Request
from gfdit.errors import UsageError
from gfdit.units import NS_PER_S, to_ns, to_s

MOST_SHOTS = 1_000_000
NS_PER_MS = NS_PER_S // 1000
PICTURES, VIDEOS = "/v1/images/generations", "/v1/videos"


@dataclass(frozen=True, slots=True)
class Shot:
    """One request: sent `at_s` seconds after the start, whatever became of those before. `budget_s`: within which it is
    on time, None: as the server says. Both are seconds of the client's clock."""

    at_s: float
    path: str
    body: Mapping[str, object]
    class_name: str
    budget_s: float | None

    @property
    def video(self) -> bool:
        return self.path == VIDEOS


@dataclass(frozen=True, slots=True)
class Like:
    """What every request of a rate is like. `budget_s`: in the system's seconds. None: the server's default."""

    model: str | None = None
    size: tuple[int, int] | None = None
    frames: int = 1
    steps: int | None = None
    class_name: str = "standard"
    budget_s: float | None = None


def shots_of(requests: Sequence[Request], speed: float, stream: bool) -> list[Shot]:
    """A workload `speed` times as fast, for a server whose time runs that much faster. Requests with frames are videos.
    Budgets are sent in the system's seconds and judged in ours."""
    first = min(request.arrival_ns for request in requests)
    shots = []
    for request in requests:
        body = {
            "model": request.model,
            "width": request.width,
            "height": request.height,
            "num_inference_steps": request.steps,
            "seed": request.seed,
            "priority": request.priority,
            "preemptible": request.preemptible,
        }
        texts = {"negative_prompt": request.negative_prompt, "tenant": request.tenant}
        body.update({name: text for name, text in texts.items() if text})
        like = Like(
            frames=request.frames,
            class_name=request.tag or request.class_name,
            budget_s=None if request.slo_ns is None else to_s(request.slo_ns),
        )
        at_s = to_s(request.arrival_ns - first) / speed
        shots.append(_shot(at_s, {"prompt": request.prompt or request.id, **body}, like, speed, stream))
    return shots


def shots_at(rate: float, for_s: float, like: Like, seed: int, speed: float, stream: bool) -> list[Shot]:
    """Arrivals of a Poisson process: `rate` a second for `for_s` seconds, both of the client's clock. Equal arguments
    give equal shots. Raises UsageError."""
    if rate * for_s > MOST_SHOTS:
        raise UsageError(f"--rate {rate:g} for {for_s:g} s asks {rate * for_s:.0f} times; at most {MOST_SHOTS}")
    random = np.random.Generator(np.random.PCG64(seed))
    count = int(random.poisson(rate * for_s))
    if count == 0:
        raise UsageError(f"--rate {rate:g} for {for_s:g} s asks nothing", hint="raise either, or choose another --seed")
    wanted: dict[str, object] = {"prompt": "a red circle on a blue background"}
    if like.model is not None:
        wanted["model"] = like.model
    if like.size is not None:
        wanted["width"], wanted["height"] = like.size
    if like.steps is not None:
        wanted["num_inference_steps"] = like.steps
    arrivals = np.sort(random.uniform(0.0, for_s, count))
    return [_shot(float(at_s), {**wanted, "seed": n}, like, speed, stream) for n, at_s in enumerate(arrivals)]


def _shot(at_s: float, body: dict[str, object], like: Like, speed: float, stream: bool) -> Shot:
    video = like.frames > 1
    body["class"] = like.class_name
    if like.budget_s is not None:
        body["deadline_ms"] = to_ns(like.budget_s) / NS_PER_MS
    if video:
        body["num_frames"] = like.frames
    elif stream:
        body["stream"] = True
    budget_s = None if like.budget_s is None else like.budget_s / speed
    return Shot(at_s, VIDEOS if video else PICTURES, body, like.class_name, budget_s)
