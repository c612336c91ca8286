"""`allocate rollout`: look ahead over the first requests, and begin what the best plan found begins now.

A plan gives the requests degrees one after the other, in plan order; each begins as soon as so many ranks are free:
now, or when requests that run or were planned before it end. A beam search keeps the plans with the smallest sums of
the policy's value. It models no boundaries between steps: what it plans for later is planned anew before it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gfdit.core.proposal import Because
from gfdit.core.view import F8, I8
from gfdit.lang.program import Allocate
from gfdit.lang.schema import Level
from gfdit.lang.types import NUM
from gfdit.policy.allocate import RUNNING, Draft
from gfdit.policy.columns import Frame
from gfdit.policy.compile import Compiler
from gfdit.policy.explain import render
from gfdit.policy.knapsack import LARGEST, candidates, permitted
from gfdit.policy.ranking import Ranking

Cost = Callable[[F8], F8]
"""`[B, O]`, seconds from now at which each option would begin in each plan -> `[B, O]`, what that costs."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request to be planned: its options, as ranks `widths[O]` (ascending) for `lasts[O]` seconds."""

    widths: I8
    lasts: F8
    cost: Cost


@dataclass(frozen=True, slots=True)
class Planned:
    """What the best plan does with one request: the option, when it begins (seconds from now), what that costs."""

    option: int
    begins_s: float
    cost: float


def search(turns: Sequence[Turn], free_at: F8, beam: int) -> list[Planned | None]:
    """The plan with the smallest sum of costs that a beam of `beam` plans finds; None for a turn without options.

    `free_at[G]`: seconds from now at which each rank is free, ascending. Of equal sums: the earlier plan, the narrower
    option. O(turns x beam x (options + G log G)) in vector operations.
    """
    sums = np.zeros(1)
    times = free_at[None, :]
    steps: list[tuple[I8, I8, F8, F8] | None] = []  # by plan kept: the plan it extends, option, begin, cost
    for turn in turns:
        fits = np.flatnonzero(turn.widths <= times.shape[1])
        if not len(fits):
            steps.append(None)
            continue
        begins = times[:, turn.widths[fits] - 1]
        costs = turn.cost(_spread(begins, fits, len(turn.widths)))[:, fits]
        total = (sums[:, None] + costs).ravel()
        kept = np.argsort(total, kind="stable")[:beam]
        plan, at = kept // len(fits), kept % len(fits)
        option, begin = fits[at], begins[plan, at]
        steps.append((plan, option, begin, costs[plan, at]))
        sums, times = total[kept], _taken(times[plan], turn.widths[option], begin + turn.lasts[option])
    return _traced(steps)


def _spread(begins: F8, fits: I8, options: int) -> F8:
    """Begins of the options that fit, in the place of all; the others never begin."""
    if len(fits) == options:
        return begins
    whole = np.full((len(begins), options), np.inf)
    whole[:, fits] = begins
    return whole


def _taken(times: F8, widths: I8, ends: F8) -> F8:
    """The ranks that are free first are taken until `ends`."""
    first = np.arange(times.shape[1])[None, :] < widths[:, None]
    after: F8 = np.where(first, ends[:, None], times)
    after.sort(axis=1)
    return after


def _traced(steps: Sequence[tuple[I8, I8, F8, F8] | None]) -> list[Planned | None]:
    """The first plan that was kept last, from its end to its beginning."""
    found: list[Planned | None] = []
    plan = 0
    for step in reversed(steps):
        if step is None:
            found.append(None)
            continue
        before, option, begin, cost = step
        found.append(Planned(int(option[plan]), float(begin[plan]), float(cost[plan])))
        plan = int(before[plan])
    return found[::-1]


class CompiledRollout:
    """The clause ready to run."""

    def __init__(self, allocate: Allocate, compiler: Compiler) -> None:
        assert allocate.value is not None and allocate.clause is not None
        self._value = compiler.expr(allocate.value, Level.DEGREE)
        self._sign = -1.0 if allocate.maximizing else 1.0
        self._horizon, self._beam = allocate.horizon, allocate.beam
        self._line = allocate.clause.line

    def run(self, draft: Draft, order: Ranking) -> None:
        """Place what the best plan begins now, in plan order."""
        capacity = draft.unclaimed
        if capacity < 1:
            return
        rows = candidates(draft, order, self._horizon)
        if not len(rows):
            return
        weights = np.array(sorted({1, *draft.view.degrees}), dtype=np.int64)
        allowed = permitted(draft, rows, weights)
        most = len(rows) * int(weights[-1])  # ranks that are free later than so many others are never needed
        free_at = np.sort(np.concatenate([np.zeros(capacity), _busy_until(draft)]))[:most]
        turns = [self._turn(draft, row, weights, allowed[k]) for k, row in enumerate(rows.tolist())]
        plan = search(turns, free_at, self._beam)
        for row, turn, planned in zip(rows.tolist(), turns, plan, strict=True):
            if planned is not None and planned.begins_s <= 0:
                shown = (
                    ("value", render(NUM, self._sign * planned.cost)),
                    ("sum of the plan", render(NUM, self._sign * sum(one.cost for one in plan if one is not None))),
                )
                draft.place(row, int(turn.widths[planned.option]), Because("rollout", self._line, shown))

    def _turn(self, draft: Draft, row: int, weights: I8, allowed: np.ndarray) -> Turn:
        view = draft.view
        widths = weights[allowed]
        if draft.rule(row).single:
            stage_s = np.full(len(widths), view.stage_gpu_s[row])  # of one rank: seconds
            return Turn(widths, stage_s, lambda begins: self._of_stage(draft, row, begins))
        columns = np.searchsorted(view.degrees, widths)
        remaining_s: F8 = view.remaining_s[row, columns]
        return Turn(widths, remaining_s, lambda begins: self._of_degrees(draft, row, columns, begins))

    def _of_degrees(self, draft: Draft, row: int, columns: I8, begins: F8) -> F8:
        delays = np.zeros((len(begins), len(draft.view.degrees)))
        delays[:, columns] = begins
        found: F8 = self._costs(draft, row, delays)[:, columns]
        return found

    def _of_stage(self, draft: Draft, row: int, begins: F8) -> F8:
        """A stage of one rank costs what the best degree of the rest may still come to."""
        delays = np.broadcast_to(begins[:, :1], (len(begins), len(draft.view.degrees)))
        offered = np.isfinite(draft.view.step_s[row])
        best: F8 = np.min(self._costs(draft, row, delays), axis=1, where=offered, initial=LARGEST)
        return best[:, None]

    def _costs(self, draft: Draft, row: int, delays: F8) -> F8:
        """`[B, D]`: the value, smaller is better, if the row began so much later."""
        remaining = draft.view.remaining_s[row] + delays
        frame = Frame(draft.tick, np.full(len(delays), row), {"#remaining": remaining})
        found = self._sign * np.broadcast_to(self._value(frame), delays.shape)
        return np.clip(np.where(np.isnan(found), LARGEST, found), -LARGEST, LARGEST)


def _busy_until(draft: Draft) -> F8:
    """Seconds from now at which each rank in use is free again, if its request runs on to its end."""
    view = draft.view
    running = [(row, int(view.sp[row])) for row in np.flatnonzero(view.state == RUNNING).tolist() if draft.plans(row)]
    groups = running + [(row, degree) for row, (degree, _) in draft.places.items()]
    ends: list[float] = []
    for row, degree in groups:
        single = draft.rules.of(int(view.stage[row])).single
        ends += [float(view.stage_gpu_s[row]) if single else draft.remaining(row, degree)] * degree
    return np.array(ends)
