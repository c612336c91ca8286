"""`allocate knapsack`: of all ways to hand the free ranks out, one with the largest sum of values.

Every candidate runs on one of the degrees that its stage clause admits, or not at all; the value of each is an
expression of the policy. Exact: dynamic programming over candidates x ranks. What stays free goes by the walk.
"""

from __future__ import annotations

import numpy as np

from gfdit.core.proposal import Because
from gfdit.core.view import F8, I8
from gfdit.lang.program import Allocate
from gfdit.lang.schema import Level
from gfdit.lang.types import NUM
from gfdit.policy.allocate import SMALLEST_BLOCK, Draft
from gfdit.policy.chooser import StageRule
from gfdit.policy.columns import Frame, frame_with_none
from gfdit.policy.compile import Compiler
from gfdit.policy.explain import render

CANDIDATES_A_RANK = 4
LARGEST = 1e12  # stands for an unbounded value


class CompiledKnapsack:
    """The clause ready to run."""

    def __init__(self, allocate: Allocate, compiler: Compiler) -> None:
        assert allocate.value is not None and allocate.clause is not None
        self._value = compiler.expr(allocate.value, Level.DEGREE)
        self._sign = 1.0 if allocate.maximizing else -1.0
        self._line = allocate.clause.line

    def run(self, draft: Draft, order: I8) -> None:
        """Place the chosen in plan order. The walk serves those set aside, those of a preemption, and lanes."""
        capacity = draft.free - draft.withheld - sum(draft.claims.values())
        if capacity < 1:
            return
        most = max(SMALLEST_BLOCK, CANDIDATES_A_RANK * capacity)
        apart = draft.places.keys() | draft.aside.keys() | draft.claims.keys()
        rows = order[[row not in apart for row in order.tolist()]][:most] if apart else order[:most]
        if any(rule.lanes is not None for rule in draft.rules.distinct):
            rows = rows[[draft.rule(row).lanes is None for row in rows.tolist()]]
        if not len(rows):
            return
        weights = np.array(sorted({1, *draft.view.degrees}), dtype=np.int64)
        values, none = self._values(draft, rows)
        gains = self._gains(draft, rows, values - none[:, None], weights)
        for k, option in enumerate(solve(gains, weights, capacity)):
            if option is not None:
                shown = (
                    ("value", render(NUM, self._sign * (gains[k, option] + none[k]))),
                    ("value of waiting", render(NUM, self._sign * none[k])),
                )
                draft.place(int(rows[k]), int(weights[option]), Because("knapsack", self._line, shown))

    def _values(self, draft: Draft, rows: I8) -> tuple[F8, F8]:
        """`[K, D]`: larger is better, at each degree; `[K]`: not to run."""
        frame = frame_with_none(draft.tick.with_none(), Frame(draft.tick, rows))
        found = self._sign * np.broadcast_to(self._value(frame), (len(rows), len(draft.view.degrees) + 1))
        found = np.clip(np.where(np.isnan(found), -LARGEST, found), -LARGEST, LARGEST)
        return found[:, 1:], found[:, 0]

    def _gains(self, draft: Draft, rows: I8, better: F8, weights: I8) -> F8:
        """`[K, W]`: how much better each degree is than not to run; -inf where the row may not have it."""
        gains = np.full((len(rows), len(weights)), -np.inf)
        columns = np.searchsorted(weights, draft.view.degrees)
        draft.evaluate(rows)
        numbers = draft.rules.number_of_stage[draft.view.stage[rows]]
        for number, rule in enumerate(draft.rules.distinct):
            mine = np.flatnonzero(numbers == number)
            if not len(mine):
                continue
            admitted = draft.choices(int(rows[mine[0]]))[0].admitted()
            if rule.single:
                # one rank, and the best value that the request may still come to
                offered = np.isfinite(draft.view.step_s[rows[mine]])
                best = np.max(better[mine], axis=1, where=offered, initial=-np.inf)
                gains[mine, 0] = np.where(admitted.any(axis=1), best, -np.inf)
            else:
                gains[np.ix_(mine, columns)] = np.where(admitted, better[mine], -np.inf)
                self._keep_present(draft, rule, rows, mine, gains, weights)
        if draft.claims:
            caps = np.array([draft.cap(row) for row in rows.tolist()])
            gains[weights[None, :] > caps[:, None]] = -np.inf
        return gains

    @staticmethod
    def _keep_present(draft: Draft, rule: StageRule, rows: I8, mine: I8, gains: F8, weights: I8) -> None:
        """`sticky`: degrees that are not worth a change are no options."""
        if rule.sticky is None:
            return
        for k in mine.tolist():
            for option, degree in enumerate(weights.tolist()):
                if gains[k, option] > -np.inf and draft.sticks(int(rows[k]), degree):
                    gains[k, option] = -np.inf


def solve(gains: F8, weights: I8, capacity: int) -> list[int | None]:
    """The option of each row, or None, with the largest sum of gains within `capacity`.

    `gains[K, W]`: only those above zero count; `weights[W]` ascending. Of equal sums: earlier rows, lighter options.
    O(rows kept x W) vector operations of length `capacity`.
    """
    gains = np.where((weights <= capacity)[None, :] & (gains > 0), gains, 0.0)
    chosen: list[int | None] = [None] * len(gains)
    best = np.argmax(gains, axis=1)
    wanted = gains.max(axis=1, initial=0.0) > 0
    if int(weights[best[wanted]].sum()) <= capacity:
        return [int(option) if wants else None for option, wants in zip(best, wanted, strict=True)]
    kept = _worth_a_look(gains, weights, capacity)
    options = [[(o, int(weights[o]), g) for o, g in enumerate(gains[row].tolist()) if g > 0] for row in kept]
    sums = np.zeros((len(kept) + 1, capacity + 1))  # sums[i, c]: the best of rows i.. on c ranks
    room = np.empty(capacity + 1)
    for i in range(len(kept) - 1, -1, -1):
        after, here = sums[i + 1], sums[i]
        here[:] = after
        for _, weight, gain in options[i]:
            with_it = np.add(after[: capacity + 1 - weight], gain, out=room[: capacity + 1 - weight])
            np.maximum(here[weight:], with_it, out=here[weight:])
    left = capacity
    for i, row in enumerate(kept):
        for option, weight, gain in options[i]:
            if weight <= left and sums[i + 1, left - weight] + gain == sums[i, left]:
                chosen[row], left = option, left - weight
                break
    return chosen


def _worth_a_look(gains: F8, weights: I8, capacity: int) -> list[int]:
    """Rows that some best choice is made of: beside an option of weight w at most capacity - w others run, so that one
    behind more than those in every option it has could be swapped for one that does not run."""
    keep = np.zeros(len(gains), dtype=bool)
    for option, weight in enumerate(weights.tolist()):
        if weight <= capacity:
            ranked = np.argsort(-gains[:, option], kind="stable")[: capacity - weight + 1]
            keep[ranked] |= gains[ranked, option] > 0
    return np.flatnonzero(keep).tolist()
