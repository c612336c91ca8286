"""`edf_best_fit` as one writes it without a language: objects, a sort, a loop. The yardstick of `gfdit bench tick`.

Nothing schedules with it. It is plain on purpose, and kept to what a careful programmer would write on a first pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gfdit.core.view import View
from gfdit.core.work import SINGLE_RANK_STAGES, STAGES


@dataclass(slots=True)
class Job:
    """A request that may be placed now. Times are seconds; `remaining_s`: by offered degree, ascending."""

    id: str
    arrival_s: float
    deadline_s: float
    priority: float
    one_rank: bool
    remaining_s: dict[int, float]

    def best_degree(self, now_s: float, free: int) -> int | None:
        """The smallest degree that is on time, else the one that ends first; None when none is free."""
        if self.one_rank:
            return 1 if free else None
        fitting = [degree for degree in self.remaining_s if degree <= free]
        if not fitting:
            return None
        for degree in fitting:
            if now_s + self.remaining_s[degree] <= self.deadline_s:
                return degree
        return min(fitting, key=lambda degree: self.remaining_s[degree])


def jobs_of(view: View) -> list[Job]:
    """The requests of a view that may be placed. An ordinary scheduler keeps these objects up to date as it goes."""
    one_rank = [stage in SINGLE_RANK_STAGES for stage in STAGES]
    tables = view.remaining_s.tolist()
    offered = (view.step_s < float("inf")).tolist()
    return [
        Job(
            view.ids[row],
            float(view.arrival_s[row]),
            float(view.deadline_s[row]),
            float(view.priority[row]),
            one_rank[view.stage[row]],
            {d: s for d, s, known in zip(view.degrees, tables[row], offered[row], strict=True) if known},
        )
        for row in view.plannable.nonzero()[0].tolist()
    ]


def edf_best_fit(jobs: Sequence[Job], now_s: float, free: int) -> dict[str, int]:
    """GPUs of every request that gets some: by deadline, each its best degree, then the surplus to the most urgent."""
    chosen: dict[str, int] = {}
    placed: list[Job] = []
    for job in sorted(jobs, key=lambda job: (job.deadline_s, -job.priority, job.arrival_s, job.id)):
        degree = job.best_degree(now_s, free)
        if degree is not None:
            chosen[job.id] = degree
            placed.append(job)
            free -= degree
    for job in placed:
        if job.one_rank:
            continue
        for wider, seconds in job.remaining_s.items():
            extra = wider - chosen[job.id]
            if 0 < extra <= free and seconds < job.remaining_s[chosen[job.id]]:
                chosen[job.id] = wider
                free -= extra
    return chosen
