"""`allocate knapsack`: of all ways to hand the free ranks out, one with the largest sum of values.

Every candidate runs on one of the degrees that its stage clause admits, or not at all; the value of each is an
expression of the policy. Exact: dynamic programming over candidates x ranks. What stays free goes by the walk.
"""

from __future__ import annotations

from functools import cache, reduce

import numpy as np

from gfdit.core.proposal import Because
from gfdit.core.view import B1, F8, I8
from gfdit.lang.program import Allocate
from gfdit.lang.schema import Level
from gfdit.lang.types import NUM
from gfdit.policy.allocate import SMALLEST_BLOCK, Draft
from gfdit.policy.columns import Frame, FrameWithNone, spread
from gfdit.policy.compile import Compiler
from gfdit.policy.explain import Quoting, render
from gfdit.policy.ranking import Ranking

CANDIDATES_A_RANK = 4
LARGEST = 1e12  # stands for an unbounded value


class CompiledKnapsack:
    """The clause ready to run."""

    def __init__(self, allocate: Allocate, compiler: Compiler) -> None:
        assert allocate.value is not None and allocate.clause is not None
        self._value = compiler.expr(allocate.value, Level.DEGREE)
        self._sign = 1.0 if allocate.maximizing else -1.0
        self._line = allocate.clause.line

    def run(self, draft: Draft, order: Ranking) -> None:
        """Place the chosen in plan order. The walk serves those set aside, those of a preemption, and lanes."""
        capacity = draft.unclaimed
        if capacity < 1:
            return
        rows = candidates(draft, order, max(SMALLEST_BLOCK, CANDIDATES_A_RANK * capacity))
        if not len(rows):
            return
        weights = options(draft.view.degrees)
        values, none = self._values(draft, rows)
        gains = self._gains(draft, rows, values - none[:, None], weights)
        for k, option in enumerate(solve(gains, weights, capacity)):
            if option is not None:
                because = self._because(float(gains[k, option]), float(none[k]))
                draft.place(int(rows[k]), int(weights[option]), because)

    def _because(self, gain: float, none: float) -> Because:
        return Quoting(
            "knapsack",
            self._line,
            lambda: (
                ("value", render(NUM, self._sign * (gain + none))),
                ("value of waiting", render(NUM, self._sign * none)),
            ),
        )

    def _values(self, draft: Draft, rows: I8) -> tuple[F8, F8]:
        """`[K, D]`: larger is better, at each degree; `[K]`: not to run."""
        value = self._value(FrameWithNone(Frame(draft.tick, rows)))
        found = self._sign * spread(value, (len(rows), len(draft.view.degrees) + 1))
        found = np.fmin(np.fmax(found, -LARGEST), LARGEST)  # what is not a number is worth least
        return found[:, 1:], found[:, 0]

    @staticmethod
    def _gains(draft: Draft, rows: I8, better: F8, weights: I8) -> F8:
        """`[K, W]`: how much better each degree is than not to run; -inf where the row may not have it."""
        gains = better
        if len(weights) > better.shape[1]:
            gains = np.full((len(rows), len(weights)), -np.inf)
            gains[:, weights.searchsorted(draft.view.degrees)] = better
        single = draft.rules.single_of_stage.take(draft.view.stage.take(rows)).nonzero()[0]
        if len(single):  # one rank, and the best value that the request may still come to
            offered = np.isfinite(draft.view.step_s.take(rows.take(single), axis=0))
            gains[single, 0] = reduce(np.maximum, np.where(offered, better.take(single, axis=0), -np.inf).T)
        return np.where(permitted(draft, rows, weights), gains, -np.inf)


@cache
def options(degrees: tuple[int, ...]) -> I8:
    """The numbers of ranks that a request may have, ascending: one always is among them."""
    return np.array(sorted({1, *degrees}), dtype=np.int64)


def candidates(draft: Draft, order: Ranking, most: int) -> I8:
    """The first `most` rows of `order` that an allocator may place: those set aside, those that a preemption serves,
    and those with lanes are left to the walk."""
    apart = draft.places.keys() | draft.claims.keys() | draft.promised.keys()
    rows = order.first(most + len(apart))[: most + len(apart)]  # those set aside come last
    if apart or (draft.aside is not None and draft.aside.any):
        open_to_all = [row not in apart and not draft.is_aside(row) for row in rows.tolist()]
        rows = rows[np.array(open_to_all, dtype=bool)][:most]
    if any(rule.lanes is not None for rule in draft.rules.distinct):
        rows = rows[[draft.rule(row).lanes is None for row in rows.tolist()]]
    return rows


def permitted(draft: Draft, rows: I8, weights: I8) -> B1:
    """`[K, W]`: the numbers of ranks that each row may have: some alternative of its clause admits it (one rank where
    its stage takes one), no cap forbids it, and a group that is sticky is not changed for little."""
    allowed = np.zeros((len(rows), len(weights)), dtype=bool)
    columns = weights.searchsorted(draft.view.degrees)
    numbers = draft.rules.number_of_stage.take(draft.view.stage.take(rows))
    for number, rule in enumerate(draft.rules.distinct):
        mine = (numbers == number).nonzero()[0]
        if not len(mine):
            continue
        admitted = draft.admitted(rule, rows.take(mine))
        if rule.single:
            allowed[mine, 0] = admitted[:, 0]
        else:
            if len(columns) == len(weights):
                allowed[mine] = admitted
            else:
                allowed[mine[:, None], columns] = admitted
            if rule.sticky is not None:
                _keep_present(draft, rows, mine, allowed, weights)
    if draft.claims or draft.limits:
        caps = np.array([draft.cap(row) for row in rows.tolist()])
        allowed &= weights[None, :] <= caps[:, None]
    return allowed


def _keep_present(draft: Draft, rows: I8, mine: I8, allowed: B1, weights: I8) -> None:
    """`sticky`: degrees that are not worth a change are no options."""
    for k in mine.tolist():
        for option, degree in enumerate(weights.tolist()):
            if allowed[k, option] and draft.sticks(int(rows[k]), degree):
                allowed[k, option] = False


def solve(gains: F8, weights: I8, capacity: int) -> list[int | None]:
    """The option of each row, or None, with the largest sum of gains within `capacity`.

    `gains[K, W]`: only those above zero count; `weights[W]` ascending. Of equal sums: earlier rows, lighter options.
    O(rows kept) vector operations of size W x `capacity`.
    """
    gains = np.where((weights <= capacity)[None, :] & (gains > 0), gains, 0.0)
    chosen: list[int | None] = [None] * len(gains)
    if capacity < 2:  # one row at the most: the first of the best
        row = int(gains[:, 0].argmax())
        chosen[row] = 0 if gains[row, 0] > 0 else None
        return chosen
    best = np.argmax(gains, axis=1)
    wanted = gains.max(axis=1, initial=0.0) > 0
    if int(weights[best[wanted]].sum()) <= capacity:
        return [int(option) if wants else None for option, wants in zip(best, wanted, strict=True)]
    kept = _worth_a_look(gains, weights, capacity)
    sums = _best_sums(gains[kept], weights, capacity)
    left = capacity
    for i, row in enumerate(kept):
        here, after = float(sums[i, left]), sums[i + 1]
        for option, (weight, gain) in enumerate(zip(weights.tolist(), gains[row].tolist(), strict=True)):
            if gain > 0 and weight <= left and float(after[left - weight]) + gain == here:
                chosen[row], left = option, left - weight
                break
    return chosen


def _best_sums(gains: F8, weights: I8, capacity: int) -> F8:
    """`[K + 1, capacity + 1]`: the largest sum of gains of the rows from k on, on c ranks."""
    widest = int(weights[-1])
    # to the left of no ranks at all lies what cannot be had
    sums = np.full((len(gains) + 1, widest + capacity + 1), -np.inf)
    sums[:, widest:] = 0.0
    steps = np.concatenate([[0], weights])
    places = widest + np.arange(capacity + 1)[None, :] - steps[:, None]  # where c less an option's weight lies
    worth = np.concatenate([np.zeros((len(gains), 1)), np.where(gains > 0, gains, -np.inf)], axis=1)[:, :, None]
    options = np.empty(places.shape)
    for k in range(len(gains) - 1, -1, -1):
        sums[k + 1].take(places, out=options, mode="clip")
        np.add(options, worth[k], out=options)
        np.maximum.reduce(options, axis=0, out=sums[k, widest:])
    return sums[:, widest:]


def _worth_a_look(gains: F8, weights: I8, capacity: int) -> list[int]:
    """Rows that some best choice is made of: beside an option of weight w at most capacity - w others run, so that one
    behind more than those in every option it has could be swapped for one that does not run."""
    keep = np.zeros(len(gains), dtype=bool)
    for option, weight in enumerate(weights.tolist()):
        if weight <= capacity:
            ranked = np.argsort(-gains[:, option], kind="stable")[: capacity - weight + 1]
            keep[ranked] |= gains[ranked, option] > 0
    return np.flatnonzero(keep).tolist()
