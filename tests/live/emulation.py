"""What the tests of this folder run on: a small cost table, requests, and a policy that never leaves a group alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gfdit.core.cost import CostModel
from gfdit.core.events import Event, TaskFailed, WorkerJoined, WorkerLost
from gfdit.core.proposal import Fate, Limits, Occasion, Place, Policy, Proposal, Verdict
from gfdit.core.scheduler import Decision, Move
from gfdit.core.view import I8, STAGE_CODE, View
from gfdit.core.work import SINGLE_RANK_STAGES, Outcome, Request
from gfdit.live.results import Ticket
from gfdit.runtime.costfile import parse_cost_model
from gfdit.worker.emulated import expected_output, inputs_of

SINGLE = {STAGE_CODE[stage] for stage in SINGLE_RANK_STAGES}


def cost_model(step_s: float = 0.4) -> CostModel:
    """Degrees 1, 2 and 4; a step takes `step_s` at degree 1."""

    def stage(seconds: float, per: str = "request", degrees: Sequence[int] = (1,)) -> dict[str, object]:
        curves = {str(d): {"quadratic_s": [0.0, 0.0, seconds / d]} for d in degrees}
        return {"x": "one", "per": per, "degrees": curves}

    stages = {
        "encode": stage(0.1),
        "prepare": stage(0.02, degrees=(1, 2, 4)),
        "denoise": stage(step_s, "step", (1, 2, 4)),
        "decode": stage(0.1),
        "finalize": stage(0.02),
    }
    overheads = {"dispatch": 0.0, "reshard": 0.01}
    text = {"format": "gfdit-cost/1", "name": "tiny", "models": {"tiny": {"stages": stages}}, "overheads_s": overheads}
    return parse_cost_model(json.dumps(text))


def requests(count: int, steps: int = 6, every_s: float = 0.2) -> list[Request]:
    return [
        Request(f"r{n}", "tiny", "any", round(n * every_s * 1e9), 64, 64, steps, 64, prompt=f"prompt {n}", seed=n)
        for n in range(count)
    ]


@dataclass
class Restless:
    """First come, first served, at another degree on every step: 1, 2, 4, 1, ... as far as ranks are free."""

    name: str = "restless"
    version: int = 1
    sha: str = "0"
    limits: Limits = field(default_factory=Limits)
    fallback: Policy | None = None
    tick_every_s: float | None = None
    tick_on: frozenset[Occasion] | None = None

    def admit(self, view: View, rows: I8) -> list[Verdict]:
        return [Verdict(int(row), Fate.ADMIT, "any") for row in rows]

    def plan(self, view: View) -> Proposal:
        free, places = view.free, []
        for row in np.flatnonzero(view.plannable):
            wanted = 1 if view.stage[row] in SINGLE else (1, 2, 4)[(int(view.steps_done[row]) + int(row)) % 3]
            degree = next((d for d in (4, 2, 1) if d <= min(wanted, free)), None)
            if degree is not None:
                free -= degree
                places.append(Place(int(row), degree))
        return Proposal(places=tuple(places))


@dataclass
class Log:
    """An observer that keeps what happened."""

    lost: list[WorkerLost] = field(default_factory=list)
    joined: list[WorkerJoined] = field(default_factory=list)
    failed: list[TaskFailed] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        self.lost += [event for event in events if isinstance(event, WorkerLost)]
        self.joined += [event for event in events if isinstance(event, WorkerJoined)]
        self.failed += [event for event in events if isinstance(event, TaskFailed)]
        self.moves += decision.moves


def assert_all_complete_and_equal(tickets: Sequence[Ticket], cost: CostModel) -> None:
    """Every request ended once, completed, with the result of the run that nothing ever interrupted."""
    for ticket in tickets:
        progress, request = ticket.progress, ticket.request
        assert progress.outcome is Outcome.COMPLETED, progress
        assert progress.steps_done == request.steps
        assert ticket.output == expected_output(inputs_of(request), cost.stages(request.model), request.steps)
