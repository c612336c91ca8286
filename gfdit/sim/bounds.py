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
      parallel; the sum of M is least when whoever has the smallest W goes first, preempting,
    - the requests one by one, each at its best while GPU time has a price, see `prices.py`: nearly always the largest.
- attainment: a linear program, see `attainment_bound`.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from gfdit.core.cost import CostModel
from gfdit.core.work import Request
from gfdit.sim.jobs import Job, job_of, useful_degrees
from gfdit.sim.prices import priced_latency

MAX_INTERVALS = 300  # of the attainment program; beyond it neighbours are merged: a looser bound, by about 1e-3
MAX_COLUMNS = 100_000  # of the attainment program: under half a minute
TOLERANCE_S = 1e-9
WHOLE = 1e-5  # requests: what the solver's arithmetic may leave below a whole number


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
    """All bounds: seconds for a few hundred requests, half a minute for thousands. Raises CostModelError."""
    jobs = [job_of(request, cost, gpus) for request in requests]
    work = sum(job.gpu_s for job in jobs)
    return Bounds(
        attainment_ub=attainment_bound(jobs, gpus),
        mean_latency_lb_s=mean_latency_bound(jobs, gpus),
        makespan_lb_s=makespan_bound(jobs, gpus),
        sustainable_rps=gpus * len(jobs) / work if work else float("inf"),
    )


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
    simple = max(alone, _shortest_remaining_first(jobs, gpus), _mean_busy_time(jobs, gpus))
    return max(simple, priced_latency(jobs, gpus, simple)) / len(jobs)


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


def attainment_bound(
    jobs: Sequence[Job], gpus: int, max_intervals: int = MAX_INTERVALS, max_columns: int = MAX_COLUMNS
) -> float:
    """The largest share of requests that can be on time: a linear program over the intervals e between arrivals and
    deadlines, solved with HiGHS.

    u(i, k, e) are the seconds within e that request i denoises on k GPUs, v(i, e) those of its other stages, z(i) how
    much of it is served: maximise sum z with  sum u / t(k) >= steps z;  sum v >= auxiliary z;
    sum_k u(i, k, e) + v(i, e) <= |e| within [arrival, deadline];  sum_i (sum_k k u(i, k, e) + v(i, e)) <= N |e|;
    sum u + sum v <= deadline - arrival;  0 <= z <= 1, and z = 0 for who would be late even alone. Requests without a
    deadline count as on time. As requests are whole, the sum is rounded down.

    What keeps it small only loosens it. Neighbouring intervals are merged until there are at most `max_intervals`, and
    fewer while the program has more than `max_columns`; the rows of requests that look alike and have their arrival and
    deadline in the same two intervals are added up. There is no limit in time, so a bound is the same everywhere. The
    solver is not trusted either: the bound is computed from its dual prices, and holds for any prices (weak duality).
    """
    if not jobs:
        return 1.0
    timed = [job for job in jobs if job.deadline_s is not None]
    sure = len(jobs) - len(timed)
    able = [job for job in timed if job.release_s + job.alone_s <= _deadline(job) + TOLERANCE_S]
    if not able:
        return sure / len(jobs)
    served = _most_on_time(*_merged(able, max_intervals, max_columns), gpus)
    return min(1.0, (sure + math.floor(served + WHOLE)) / len(jobs))


def _deadline(job: Job) -> float:
    assert job.deadline_s is not None
    return job.deadline_s


@dataclass(frozen=True, slots=True)
class _Alike:
    """Jobs of one shape whose arrivals lie in interval `first` and whose deadlines in `last`."""

    jobs: tuple[Job, ...]
    first: int
    last: int

    @property
    def degrees(self) -> list[tuple[int, float]]:
        return useful_degrees(self.jobs[0].step_s)

    @property
    def columns(self) -> int:
        return 1 + (self.last - self.first + 1) * (len(self.degrees) + 1)

    def seconds_in(self, begin: float, end: float) -> float:
        """How much of [begin, end] lies between arrival and deadline, summed over the jobs."""
        return sum(max(0.0, min(end, _deadline(job)) - max(begin, job.release_s)) for job in self.jobs)


def _merged(jobs: Sequence[Job], most: int, columns: int) -> tuple[list[_Alike], list[float]]:
    """Jobs that are added up, and the ends of the intervals: few enough of both."""
    while True:
        points = _cut(jobs, most)
        alike = _alike(jobs, points)
        if most == 1 or sum(group.columns for group in alike) <= columns:
            return alike, points
        most = max(1, most * 2 // 3)


def _cut(jobs: Sequence[Job], most: int) -> list[float]:
    """Ends of the intervals: every arrival and deadline, or an even choice of them."""
    points = sorted({job.release_s for job in jobs} | {_deadline(job) for job in jobs})
    if len(points) <= most + 1:
        return points
    return sorted({points[index] for index in np.linspace(0, len(points) - 1, most + 1).round().astype(int)})


def _alike(jobs: Sequence[Job], points: Sequence[float]) -> list[_Alike]:
    starts = np.array(points[:-1])
    firsts = np.maximum(0, np.searchsorted(starts, [job.release_s for job in jobs], side="right") - 1)
    lasts = np.maximum(firsts, np.searchsorted(starts, [_deadline(job) for job in jobs], side="left") - 1)
    groups: dict[tuple[object, ...], list[Job]] = defaultdict(list)
    for job, first, last in zip(jobs, firsts.tolist(), lasts.tolist(), strict=True):
        groups[job.steps, job.step_s, job.auxiliary_s, first, last].append(job)
    return [_Alike(tuple(found), int(str(key[-2])), int(str(key[-1]))) for key, found in groups.items()]


def _most_on_time(groups: Sequence[_Alike], points: Sequence[float], gpus: int) -> float:
    """Rows: GPUs of each interval; of each group its progress, its other stages, its time in all and by interval."""
    program = _Program()
    intervals = list(pairwise(points))
    capacity_row = [program.row(gpus * (end - begin)) for begin, end in intervals]
    for group in groups:
        one, count = group.jobs[0], len(group.jobs)
        served = program.column(1.0, float(count))
        progress, auxiliary = program.row(0.0), program.row(0.0)
        wall = program.row(sum(_deadline(job) - job.release_s for job in group.jobs))
        program.put(progress, served, float(one.steps))
        program.put(auxiliary, served, one.auxiliary_s)
        ways = [(degree, progress, rate) for degree, rate in group.degrees] + [(1, auxiliary, 1.0)]
        for interval in range(group.first, group.last + 1):
            available = group.seconds_in(*intervals[interval])
            inside = program.row(available)
            for degree, row, rate in ways:
                column = program.column(0.0, available)
                program.put(row, column, -rate)
                program.put(wall, column, 1.0)
                program.put(inside, column, 1.0)
                program.put(capacity_row[interval], column, float(degree))
    return program.bound()


class _Program:
    """Maximise `c x` with `A x <= b` and `0 <= x <= top`, collected entry by entry."""

    def __init__(self) -> None:
        self._limits: list[float] = []
        self._worth: list[float] = []
        self._tops: list[float] = []
        self._rows: list[int] = []
        self._columns: list[int] = []
        self._values: list[float] = []

    def row(self, limit: float) -> int:
        self._limits.append(limit)
        return len(self._limits) - 1

    def column(self, worth: float, top: float) -> int:
        self._worth.append(worth)
        self._tops.append(top)
        return len(self._worth) - 1

    def put(self, row: int, column: int, value: float) -> None:
        self._rows.append(row)
        self._columns.append(column)
        self._values.append(value)

    def bound(self) -> float:
        """No x is worth more. With prices y >= 0 of the rows: `b y + sum max(0, c - A' y) top`, least for the optimal
        ones. Raises ArithmeticError when the solver gives none."""
        worth, tops, limits = np.array(self._worth), np.array(self._tops), np.array(self._limits)
        matrix = csr_array((self._values, (self._rows, self._columns)), shape=(len(limits), len(worth)))
        for method in ("highs-ipm", "highs-ds"):
            solved = linprog(-worth, A_ub=matrix, b_ub=limits, bounds=np.column_stack([0 * tops, tops]), method=method)
            if solved.ineqlin is not None and solved.ineqlin.marginals is not None:
                prices = np.maximum(0.0, -np.asarray(solved.ineqlin.marginals))
                return float(limits @ prices + np.maximum(0.0, worth - matrix.T @ prices) @ tops)
        raise ArithmeticError(f"the attainment program was not solved: {solved.message}")
