"""What no scheduler can beat: limits on makespan, mean latency and attainment of a workload on so many GPUs.

They hold for every scheduler, also for one that knows the future, preempts at any instant and reshards for nothing, as
long as every step of a request is done at a degree of the table and takes the table's time. They do not hold for noisy
durations, for fewer steps than were asked for, and, but for attainment, when requests were left out (rejected).

A request's work is a chain of blocks (its stages; the denoising steps are one block). A block takes at least
`seconds`, its fastest degree's time, and at least `gpu_seconds`, its cheapest degree's. With L and W their sums over
the chain and N GPUs:

- makespan: the longest of r + L over all requests, and of a + (1/N) (sum of W of what arrives from a on) over all a.
- mean latency: the largest of
    - the mean of L,
    - preemptive SRPT of the W on one machine of speed N, which is optimal there [Schrage 1968],
    - the mean-busy-time relaxation [Goemans, Queyranne, Schulz, Skutella, Wang 2002]: a request ends no sooner than
      the mean time M of its work plus what must follow on average, which is L/2 where all blocks are equally
      parallel; the sum of M is least when whoever has the smallest W goes first, preempting.
- attainment: a linear program, see `attainment_bound`.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from gfdit.core.cost import CostModel
from gfdit.core.work import SINGLE_RANK_STAGES, Request, Stage
from gfdit.errors import CostModelError
from gfdit.units import to_s

MAX_INTERVALS = 300  # of the attainment program; beyond it neighbours are merged: a looser bound, by about 1e-4
TOLERANCE_S = 1e-9


@dataclass(frozen=True, slots=True)
class Block:
    """One stage, or all denoising steps: its least duration, and its least GPU time."""

    seconds: float
    gpu_seconds: float


@dataclass(frozen=True, slots=True)
class Job:
    """A request as the bounds see it. `step_s`: seconds of a denoising step by degree; `deadline_s`: None = none.

    `alone_s` and `gpu_s` are L and W; `auxiliary_s`: the part of L that is not denoising; `after_s`: how long after
    the mean time of its work (weighted by GPU time) a request ends at the soonest.
    """

    release_s: float
    deadline_s: float | None
    steps: int
    step_s: tuple[tuple[int, float], ...]
    alone_s: float
    gpu_s: float
    auxiliary_s: float
    after_s: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """Nothing attains more than `attainment_ub`, nor less than the others. `sustainable_rps`: requests of this mix a
    second that can be served for ever."""

    attainment_ub: float
    mean_latency_lb_s: float
    makespan_lb_s: float
    sustainable_rps: float

    def result(self) -> dict[str, float]:
        """The `bound` of a simulation result."""
        return {
            "attainment_ub": self.attainment_ub,
            "mean_latency_lb_s": self.mean_latency_lb_s,
            "makespan_lb_s": self.makespan_lb_s,
        }


def bounds_of(requests: Sequence[Request], cost: CostModel, gpus: int) -> Bounds:
    """All bounds. A second for a hundred requests, a minute for four hundred in overload. Raises CostModelError."""
    jobs = [job_of(request, cost, gpus) for request in requests]
    work = sum(job.gpu_s for job in jobs)
    return Bounds(
        attainment_ub=attainment_bound(jobs, gpus),
        mean_latency_lb_s=mean_latency_bound(jobs, gpus),
        makespan_lb_s=makespan_bound(jobs, gpus),
        sustainable_rps=gpus * len(jobs) / work if work else float("inf"),
    )


def job_of(request: Request, cost: CostModel, gpus: int) -> Job:
    """`request` with the degrees that fit on `gpus`. Raises CostModelError when none does, or a cost is missing."""
    degrees = [degree for degree in cost.degrees(request.model) if degree <= gpus]
    if not degrees:
        raise CostModelError(f"cost model `{cost.name}` has no degree for `{request.model}` within {gpus} GPUs")
    chain = [_block(request, cost, stage, degrees) for stage in cost.stages(request.model)]
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
        after_s=after / work if work else 0.0,
    )


def _block(request: Request, cost: CostModel, stage: Stage, degrees: Sequence[int]) -> Block:
    repeats = request.steps if stage is Stage.DENOISE else 1
    seconds = {degree: cost.seconds(request, stage, degree) for degree in degrees}
    ranks = {degree: 1 if stage in SINGLE_RANK_STAGES else degree for degree in degrees}
    return Block(repeats * min(seconds.values()), repeats * min(ranks[degree] * seconds[degree] for degree in degrees))


# ---- makespan and mean latency --------------------------------------------------------------------------------------


def makespan_bound(jobs: Sequence[Job], gpus: int) -> float:
    """Seconds from time 0 to the end of the last request."""
    bound = max((job.release_s + job.alone_s for job in jobs), default=0.0)
    still = 0.0
    for job in sorted(jobs, key=lambda job: -job.release_s):
        still += job.gpu_s
        bound = max(bound, job.release_s + still / gpus)
    return bound


def mean_latency_bound(jobs: Sequence[Job], gpus: int) -> float:
    """Seconds; for schedules that complete every request."""
    if not jobs:
        return 0.0
    alone = sum(job.alone_s for job in jobs)
    return max(alone, _shortest_remaining_first(jobs, gpus), _mean_busy_time(jobs, gpus)) / len(jobs)


def _shortest_remaining_first(jobs: Sequence[Job], gpus: int) -> float:
    """Sum of latencies on one machine of speed N that always serves whoever has the least work left."""
    total = 0.0
    for _, end, job, left in _fast_machine(jobs, gpus, by_remaining=True):
        if left <= 0.0:
            total += end - job.release_s
    return total


def _mean_busy_time(jobs: Sequence[Job], gpus: int) -> float:
    """Sum over requests of (least mean busy time + what must follow - arrival)."""
    total = sum(job.after_s - job.release_s for job in jobs)
    for start, end, job, _ in _fast_machine(jobs, gpus, by_remaining=False):
        total += (end - start) * gpus / job.gpu_s * (start + end) / 2
    return total


def _fast_machine(jobs: Sequence[Job], gpus: int, *, by_remaining: bool) -> list[tuple[float, float, Job, float]]:
    """Runs (start, end, job, work left after it) of a preemptive machine of speed N, least work first.

    Least of what remains, or of the whole (a fixed order)."""
    arrivals = sorted((job for job in jobs if job.gpu_s > 0), key=lambda job: job.release_s)
    runs: list[tuple[float, float, Job, float]] = []
    waiting: list[tuple[float, int, float]] = []  # key, index into arrivals, work left
    now, next_in = 0.0, 0
    while waiting or next_in < len(arrivals):
        if not waiting:
            now = max(now, arrivals[next_in].release_s)
        while next_in < len(arrivals) and arrivals[next_in].release_s <= now:
            heapq.heappush(waiting, (arrivals[next_in].gpu_s, next_in, arrivals[next_in].gpu_s))
            next_in += 1
        key, index, left = heapq.heappop(waiting)
        end = now + left / gpus
        if next_in < len(arrivals) and arrivals[next_in].release_s < end:
            end = arrivals[next_in].release_s
            rest = max(left - (end - now) * gpus, np.finfo(float).tiny)
            heapq.heappush(waiting, (rest if by_remaining else key, index, rest))
        else:
            rest = 0.0
        runs.append((now, end, arrivals[index], rest))
        now = end
    return runs


# ---- attainment -----------------------------------------------------------------------------------------------------


def attainment_bound(jobs: Sequence[Job], gpus: int, max_intervals: int = MAX_INTERVALS) -> float:
    """The largest share of requests that can be on time: a linear program over the intervals e between arrivals and
    deadlines, solved with HiGHS.

    u(i, k, e) are the seconds within e that request i denoises on k GPUs, z(i) how much of it is served:
    maximise sum z with  sum u / t(k) >= steps z;  sum_k u(i, k, e) <= |e|;  sum_ik k u(i, k, e) <= N |e|;
    sum u <= deadline - arrival - auxiliary z;  0 <= z <= 1, and z = 0 for who would be late even alone.
    Requests without a deadline count as on time.
    """
    if not jobs:
        return 1.0
    timed = [job for job in jobs if job.deadline_s is not None]
    sure = len(jobs) - len(timed)
    able = [job for job in timed if job.release_s + job.alone_s <= _deadline(job) + TOLERANCE_S]
    if not able:
        return sure / len(jobs)
    return min(1.0, (sure + _most_on_time(able, _cut(able, max_intervals), gpus)) / len(jobs))


def _deadline(job: Job) -> float:
    assert job.deadline_s is not None
    return job.deadline_s


def _cut(jobs: Sequence[Job], most: int) -> list[float]:
    """Ends of the intervals: every arrival and deadline, or an even choice of them."""
    points = sorted({job.release_s for job in jobs} | {_deadline(job) for job in jobs})
    if len(points) <= most + 1:
        return points
    return sorted({points[index] for index in np.linspace(0, len(points) - 1, most + 1).round().astype(int)})


def useful_degrees(step_s: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Degrees on the upper hull of (GPUs, steps a second): mixing these is as good as mixing all."""
    hull: list[tuple[int, float]] = [(0, 0.0)]
    for degree, seconds in sorted(step_s):
        rate = 1.0 / max(seconds, TOLERANCE_S)
        if rate <= hull[-1][1]:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], (degree, rate)):
            hull.pop()
        hull.append((degree, rate))
    return hull[1:]


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _most_on_time(jobs: Sequence[Job], points: Sequence[float], gpus: int) -> float:
    """Rows: progress of each job, its wall time, its time within each interval, the GPUs of each interval."""
    builder = _Rows()
    intervals = list(pairwise(points))
    starts = np.array(points[:-1])
    capacity_row = [builder.row(gpus * (end - begin)) for begin, end in intervals]
    cost: list[float] = []
    for job in jobs:
        deadline = _deadline(job)
        served = len(cost)
        cost.append(-1.0)
        progress = builder.row(0.0)
        wall = builder.row(deadline - job.release_s)
        builder.put(progress, served, float(job.steps))
        builder.put(wall, served, job.auxiliary_s)
        degrees = useful_degrees(job.step_s)
        first = max(0, int(np.searchsorted(starts, job.release_s, side="right")) - 1)
        for interval in range(first, int(np.searchsorted(starts, deadline, side="left"))):
            begin, end = intervals[interval]
            inside = builder.row(min(end, deadline) - max(begin, job.release_s))
            for degree, rate in degrees:
                column = len(cost)
                cost.append(0.0)
                builder.put(progress, column, -rate)
                builder.put(wall, column, 1.0)
                builder.put(inside, column, 1.0)
                builder.put(capacity_row[interval], column, float(degree))
    matrix, limits = builder.matrix(len(cost))
    upper = [1.0 if value else None for value in cost]
    solved = linprog(cost, A_ub=matrix, b_ub=limits, bounds=[(0.0, most) for most in upper], method="highs")
    if not solved.success:
        raise ArithmeticError(f"the attainment program was not solved: {solved.message}")
    return float(-solved.fun)


class _Rows:
    """A sparse system `A x <= b`, collected entry by entry."""

    def __init__(self) -> None:
        self._limits: list[float] = []
        self._rows: list[int] = []
        self._columns: list[int] = []
        self._values: list[float] = []

    def row(self, limit: float) -> int:
        self._limits.append(limit)
        return len(self._limits) - 1

    def put(self, row: int, column: int, value: float) -> None:
        self._rows.append(row)
        self._columns.append(column)
        self._values.append(value)

    def matrix(self, columns: int) -> tuple[csr_array, list[float]]:
        shape = (len(self._limits), columns)
        return csr_array((self._values, (self._rows, self._columns)), shape=shape), self._limits
