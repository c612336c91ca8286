"""A candidate that plans beside the policy in charge, on the same views, after each plan has been sent.

It is asked whenever the policy in charge was, lives in the world that the other one makes, and decides nothing. What it
would have done otherwise is counted. One that fails, or takes longer than its limit, as often as
would cost it its place is not asked any more.

`record` runs in the driver's thread, `report` in any.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from gfdit.core.proposal import Policy, Proposal
from gfdit.core.scheduler import Asked
from gfdit.core.view import STAGE_CODE, View
from gfdit.core.work import SINGLE_RANK_STAGES
from gfdit.policy.differ import Aspect, Disagreement, degree_differences, fate_differences, order_differences
from gfdit.policy.planner import CompiledPolicy
from gfdit.units import human_s

LONGEST_S = 0.05  # of a candidate that names no limit of its own
COSTS_KEPT = 1000
EXAMPLES_KEPT = 8
_ONE_RANK = np.array([STAGE_CODE[stage] for stage in SINGLE_RANK_STAGES])


@dataclass(frozen=True, slots=True)
class Example:
    """One disagreement: what the policy in charge said of a request, and what the candidate would have."""

    at_s: float
    request: str
    aspect: Aspect
    live: str
    shadow: str


@dataclass(frozen=True, slots=True)
class Lateness:
    """Means over the compared ticks: requests predicted to miss their deadline, and by how many seconds together."""

    requests: float
    seconds: float


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """`ticks` compared, `differing` of them in order or degree. `requests`: how many were concerned, by aspect.
    `cost_us`: percentiles of one evaluation. `stopped`: why it is not asked any more, empty while it is."""

    ticks: int
    differing: int
    requests: dict[Literal["fate", "order", "degree"], int]
    live_late: Lateness
    shadow_late: Lateness
    cost_us: dict[Literal["p50", "p99", "max"], float]
    errors: int
    stopped: str
    examples: tuple[Example, ...]


@dataclass(slots=True)
class _Late:
    requests: int = 0
    seconds: float = 0.0

    def add(self, view: View, proposal: Proposal) -> None:
        requests, seconds = predicted_lateness(view, proposal)
        self.requests += requests
        self.seconds += seconds

    def mean(self, ticks: int) -> Lateness:
        return Lateness(self.requests / max(1, ticks), self.seconds / max(1, ticks))


@dataclass(slots=True)
class _Counts:
    ticks: int = 0
    differing: int = 0
    errors: int = 0
    stopped: str = ""
    concerned: dict[Aspect, set[str]] = field(default_factory=lambda: {aspect: set() for aspect in Aspect})
    live: _Late = field(default_factory=_Late)
    shadow: _Late = field(default_factory=_Late)
    examples: deque[Example] = field(default_factory=lambda: deque(maxlen=EXAMPLES_KEPT))
    costs: deque[float] = field(default_factory=lambda: deque(maxlen=COSTS_KEPT))


class Shadow:
    """See the module. `policy`: a fresh one; on its first tick it takes over what is carried, as in a swap."""

    def __init__(self, policy: CompiledPolicy) -> None:
        self._policy = policy
        self._began = False
        self._counts = _Counts()
        self._lock = threading.Lock()

    def record(self, asked: Asked, live: Policy) -> None:
        """One tick of the system: what the policy in charge was asked and said."""
        nothing = asked.admission is None and asked.view is None
        if self._counts.stopped or (self._began and nothing):
            return
        with self._lock:
            try:
                if self._began:
                    self._compare(asked, live)
                else:
                    self._join(live)
            except Exception as error:  # a candidate may be anyone's: its failure is a figure of the report
                self._failed(f"{type(error).__name__}: {error}")

    def _failed(self, why: str) -> None:
        self._counts.errors += 1
        if self._counts.errors >= self._policy.limits.errors:
            self._counts.stopped = why

    def _join(self, live: Policy) -> None:
        """Take over what is carried. It has moved on to this instant already, so the comparison begins on the next."""
        self._began = True
        if isinstance(live, CompiledPolicy):
            self._policy.inherit(live)

    def _compare(self, asked: Asked, live: Policy) -> None:
        begin, computing = time.perf_counter(), time.thread_time()
        admission, view = asked.admission, asked.view
        verdicts = None if admission is None else self._policy.admit(admission.view, admission.rows)
        plan = None if view is None else self._policy.plan(view)
        self._counts.costs.append(time.perf_counter() - begin)
        spent, limit = time.thread_time() - computing, self._policy.limits.tick_s or LONGEST_S
        if spent > limit:  # the next tick waits for it
            self._failed(f"a tick of it took {human_s(spent)}, its limit is {human_s(limit)}")
        if admission is not None and verdicts is not None:
            self._note(list(fate_differences(admission.view, list(admission.verdicts), verdicts)))
        if view is None or plan is None or asked.proposal is None:
            return
        self._counts.ticks += 1
        found = list(degree_differences(view, asked.proposal, plan))
        if isinstance(live, CompiledPolicy):
            found = [*order_differences(view, live.order(view), self._policy.order(view)), *found]
        self._counts.differing += bool(found)
        self._note(found)
        self._counts.live.add(view, asked.proposal)
        self._counts.shadow.add(view, plan)

    def _note(self, found: list[Disagreement]) -> None:
        for one in found:
            self._counts.concerned[one.aspect].add(one.request)
        # what people look at first is who gets what; places in the order come last
        for one in sorted(found, key=lambda one: one.aspect is Aspect.ORDER)[:1]:
            self._counts.examples.append(Example(one.at_s, one.request, one.aspect, one.a.text, one.b.text))

    def report(self) -> ShadowReport:
        with self._lock:
            counts = self._counts
            costs = np.array(counts.costs or [0.0]) * 1e6
            p50, p99 = np.percentile(costs, [50, 99]).tolist()
            return ShadowReport(
                ticks=counts.ticks,
                differing=counts.differing,
                requests={aspect.value: len(requests) for aspect, requests in counts.concerned.items()},
                live_late=counts.live.mean(counts.ticks),
                shadow_late=counts.shadow.mean(counts.ticks),
                cost_us={"p50": p50, "p99": p99, "max": float(costs.max())},
                errors=counts.errors,
                stopped=counts.stopped,
                examples=tuple(counts.examples),
            )


def predicted_lateness(view: View, proposal: Proposal) -> tuple[int, float]:
    """How many requests would miss their deadline, and their seconds of lateness together, if this plan stood.

    A placed or running request goes on at its degree; one that waits is taken to begin now at its best degree, which is
    the least that it can be late.
    """
    if not view.size:
        return 0, 0.0
    remaining = np.min(view.remaining_s, axis=1, initial=np.inf)
    column = {degree: number for number, degree in enumerate(view.degrees)}
    placed = [(place.row, place.degree) for place in proposal.places]
    running = [(int(row), int(view.sp[row])) for row in np.flatnonzero(view.running)]
    for row, degree in (*placed, *running):
        if degree in column and view.stage[row] not in _ONE_RANK:
            remaining[row] = view.remaining_s[row, column[degree]]
    late = np.maximum(view.now_s + remaining - view.deadline_s, 0.0)
    late = late[np.isfinite(late) & (late > 0)]
    return len(late), float(late.sum())
