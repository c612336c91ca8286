"""Policies that are unsafe on purpose: what `gfdit prove`, a guard or the watchdog has to catch."""

from __future__ import annotations

import numpy as np

from gfdit.core.proposal import Fate, Limits, Occasion, Place, Policy, Proposal, Verdict
from gfdit.core.view import I8, STAGE_CODE, View
from gfdit.core.work import SINGLE_RANK_STAGES

SINGLE = {STAGE_CODE[stage] for stage in SINGLE_RANK_STAGES}

_REST = """
stage encode, decode { sp fixed 1 gpu }
stage denoise { sp in {1, 2, 4} gpu smallest }
allocate greedy
fallback builtin.fcfs
"""

# each class takes the GPUs of the other, step by step
PREEMPTION_CYCLE = f"""policy cycle version 1 "two classes that preempt each other"
class ui when tag == "ui" {{ rank 0 preemptible }}
class other otherwise {{ rank 0 preemptible }}
order by arrival
preempt for ui from other do pause
preempt for other from ui do pause
{_REST}"""

# the one that has the least time to spare: two of equal laxity take turns
LEAST_LAXITY = f"""policy laxity version 1 "least laxity first"
order by slack(sp_best)
{_REST}"""

STEADY = LEAST_LAXITY.replace("gpu smallest }", "gpu smallest hold until done }")

# `aging` raises the tier, which the order does not read
STARVATION = f"""policy starves version 1 "ages, and orders by rank"
class ui when tag == "ui" {{ rank 0 }}
class other otherwise {{ rank 1 }}
order by rank, arrival
aging every 10s raise 1 until tier 0
{_REST}"""

AGEING = STARVATION.replace("order by rank", "order by tier")

# whoever is large waits, whatever is free
NEVER = """policy never version 1 "leaves the large ones waiting"
order by arrival
stage encode, decode { sp fixed 1 gpu }
stage denoise { sp in {1, 2, 4} gpu smallest where tokens < 10000 tok else wait }
allocate greedy
fallback builtin.fcfs
"""

# the same, with a guard that notices
GUARDED = STARVATION.replace(
    "allocate greedy", "allocate greedy\nguard bounded_wait: longest_wait(any) < 20s else fallback"
)


class Native:
    """First come, first served, on one rank each: the base of policies in Python."""

    name, version, sha = "native", 1, "0"
    fallback: Policy | None = None
    tick_every_s: float | None = None
    tick_on: frozenset[Occasion] | None = None

    def __init__(self) -> None:
        self.limits = Limits()

    def admit(self, view: View, rows: I8) -> list[Verdict]:
        return [Verdict(int(row), Fate.ADMIT, "any") for row in rows]

    def plan(self, view: View) -> Proposal:
        rows = np.flatnonzero(view.plannable).tolist()
        return Proposal(tuple(Place(row, 1) for row in rows[: view.free]))


class Greedy(Native):
    """Hands out one GPU to everybody, however many there are."""

    def plan(self, view: View) -> Proposal:
        return Proposal(tuple(Place(row, 1) for row in np.flatnonzero(view.plannable).tolist()))


class Lazy(Native):
    """Starts one request a tick."""

    def plan(self, view: View) -> Proposal:
        return Proposal(super().plan(view).places[:1])


class ByName(Native):
    """Prefers whoever came with the tag that was seen first."""

    def plan(self, view: View) -> Proposal:
        rows = sorted(np.flatnonzero(view.plannable).tolist(), key=lambda row: (view.tag[row], row))
        return Proposal(tuple(Place(row, 1) for row in rows[: view.free]))


class Wide(Native):
    """Two GPUs for everybody as soon as there are two, even for those that are slower on two."""

    def plan(self, view: View) -> Proposal:
        rows = np.flatnonzero(view.plannable).tolist()
        wide = 2 if view.free >= 2 and rows and int(view.stage[rows[0]]) not in SINGLE else 1
        return Proposal(tuple(Place(row, wide) for row in rows[: view.free // wide]))


class Broken(Native):
    """Fails as soon as two requests wait."""

    def plan(self, view: View) -> Proposal:
        if np.count_nonzero(view.plannable) > 1:
            raise KeyError("second")
        return super().plan(view)


class Amnesiac(Native):
    """Gives its one GPU to another at every step."""

    def plan(self, view: View) -> Proposal:
        rows = sorted(np.flatnonzero(view.plannable).tolist(), key=lambda row: (view.sp[row], row))
        return Proposal(tuple(Place(row, 1) for row in rows[: view.free]))
