"""How one live request stands in the scheduler's own books: what the console shows and a timeline cannot know.

Read from another thread than the driver's: attributes only, no iteration over anything that the scheduler changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gfdit.core.lifecycle import State
from gfdit.core.proposal import Because, WaitReason
from gfdit.core.scheduler import Scheduler
from gfdit.core.trajectory import Trajectory
from gfdit.core.view import STAGE_CODE
from gfdit.core.work import SINGLE_RANK_STAGES, Stage
from gfdit.units import to_s


@dataclass(frozen=True, slots=True)
class Standing:
    """`slack_s`: deadline - now - remaining, at its present degree (at its best one when it has no ranks); None without
    a deadline. `cap`: the degree it is to shrink to at its next boundary. `deadline_ns`: its own, or its class's."""

    state: State
    class_name: str
    steps_total: int
    slack_s: float | None
    wait_reason: WaitReason | None = None
    because: Because | None = None
    cap: int | None = None
    deadline_ns: int | None = None


def standing(scheduler: Scheduler, request_id: str, now: int) -> Standing | None:
    """None when the request is not live (any more)."""
    t = scheduler.trajectories.get(request_id)
    if t is None:
        return None
    slack = None if t.deadline_ns is None else to_s(t.deadline_ns - now) - _remaining_s(scheduler, t)
    return Standing(t.state, t.class_name, t.steps_total, slack, t.wait_reason, t.because, t.cap, t.deadline_ns)


def _remaining_s(scheduler: Scheduler, t: Trajectory) -> float:
    """From the last boundary to the end of its last stage, per the cost model as corrected so far."""
    estimator = scheduler.estimator
    code = estimator.model_code(t.request.model)
    steps = 0 if STAGE_CODE[t.stage] > STAGE_CODE[Stage.DENOISE] else t.steps_left
    step_s = t.cost.step_s * estimator.correction[code]
    seconds = t.cost.rest_s[STAGE_CODE[t.stage]] + (steps * step_s if steps else 0.0)
    degree = len(t.group)
    if t.state is State.RUNNING and t.stage not in SINGLE_RANK_STAGES and degree in estimator.degrees:
        return float(seconds[estimator.degrees.index(degree)])
    return float(np.min(seconds))
