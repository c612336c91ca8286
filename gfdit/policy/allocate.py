"""The walk: hand the free ranks out in plan order; each request takes the degree that its clause prefers of what fits.

A `Draft` is the plan in the making. Ranks that `reserve` or a preemption sets apart are withheld from everyone else.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from gfdit.core.lifecycle import State
from gfdit.core.proposal import NO_WAIT, WAIT_CODE, Because, Place, WaitReason
from gfdit.core.view import B1, I1, I8, STAGE_CODE, STATE_CODE, View
from gfdit.core.work import Stage
from gfdit.lang.program import Allocate, AllocateKind
from gfdit.lang.types import DUR
from gfdit.policy.chooser import Choice, Choices, RowChoices, Rules, StageRule
from gfdit.policy.columns import Frame, Tick
from gfdit.policy.explain import Compared, Quoting, quoting, render
from gfdit.policy.ranking import Ranking
from gfdit.policy.rows import Row
from gfdit.policy.triaging import SetAside

READY, RUNNING = STATE_CODE[State.READY], STATE_CODE[State.RUNNING]
_DENOISE, _DECODE = STAGE_CODE[Stage.DENOISE], STAGE_CODE[Stage.DECODE]
SMALLEST_BLOCK = 32
FEW = 8  # so many rows are asked one by one faster than together


Reserving = dict[str, tuple[float, float]]
"""Request id -> when its `reserve` ends, and when it arrived."""


@dataclass(slots=True)
class Draft:
    """The plan of one tick so far.

    `places` is in order of importance. `claims`: row -> ranks that a preemption sets apart for it, withheld from all
    others. `gathering`: row -> (ranks, until): what `reserve` holds, withheld from the rows that come later.
    `gpus`, `within`: the ranks of the pool that this is the plan of, and how many they are; of the cluster and None
    without pools. `stages[6]`: those whose rows are planned here; None: all. `limits`: row -> the most ranks that it
    may have for now. `blocks`: row -> ranks that are kept for its group; `promised`: how many of them are free already,
    while it is not placed.
    """

    tick: Tick
    rules: Rules
    free: int
    gpus: int
    within: frozenset[int] | None = None
    stages: B1 | None = None
    places: dict[int, tuple[int, Because]] = field(default_factory=dict)
    waits: dict[int, WaitReason] = field(default_factory=dict)
    claims: dict[int, int] = field(default_factory=dict)
    gathering: dict[int, tuple[int, float]] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)
    limits: dict[int, int] = field(default_factory=dict)
    blocks: dict[int, frozenset[int]] = field(default_factory=dict)
    promised: dict[int, int] = field(default_factory=dict)
    aside: SetAside | None = None
    unasked: B1 | None = None  # [N]: rows that the walk did not come to, all for one reason
    unasked_reason: WaitReason = WaitReason.NO_FREE_GPU
    withheld: int = 0
    recheck: bool = False  # somebody waits because the policy says so, which time alone may change
    _choices: dict[int, tuple[Choices, int]] = field(default_factory=dict)

    view: View = field(init=False)

    def __post_init__(self) -> None:
        self.view = self.tick.view

    def is_aside(self, row: int) -> bool:
        """Whether triage gave it up for now."""
        return self.aside is not None and row in self.aside

    def plans(self, row: int) -> bool:
        """Whether a row of this stage is planned here."""
        return self.stages is None or bool(self.stages[self.view.stage[row]])

    def lane_is_full(self, row: int) -> bool:
        """Whether as many requests are in the stages of its clause as `lanes` allows."""
        rule = self.rule(row)
        if rule.lanes is None:
            return False
        number, view = self.rules.distinct.index(rule), self.view
        inside = (view.state == RUNNING) & (self.rules.number_of_stage[view.stage] == number)
        placed = sum(self.rule(other) is rule for other in self.places)
        return int(np.count_nonzero(inside)) + placed >= rule.lanes

    def rule(self, row: int) -> StageRule:
        """The clause of its next stage."""
        known = self._choices.get(row)
        return self.rules.of(int(self.view.stage[row])) if known is None else known[0].rule

    def available(self, row: int) -> int:
        """Free ranks that `row` may use. Those with a claim are served in plan order and ignore each other's; a block
        is its owner's alone."""
        claimed = 0 if row in self.claims else sum(self.claims.values())
        if self.promised:
            claimed += sum(count for other, count in self.promised.items() if other != row)
        return max(0, self.free - self.withheld - claimed)

    @property
    def unclaimed(self) -> int:
        """Free ranks that nobody is promised."""
        return self.free - self.withheld - sum(self.claims.values()) - sum(self.promised.values())

    def cap(self, row: int) -> int:
        """The most it may have: for a preemption's sake, while somebody waits for the ranks, and by its own limit."""
        most = int(self.view.cap[row]) if self.claims else self.view.gpus
        return min(most, self.limits.get(row, most)) if self.limits else most

    def most(self, row: int) -> int:
        """The most that it could have if everything were free."""
        return min(self.gpus, self.limits.get(row, self.gpus)) if self.limits else self.gpus

    def place(self, row: int, degree: int, because: Because) -> None:
        self.free -= degree
        self.places[row] = degree, because
        self.claims.pop(row, None)
        self.promised.pop(row, None)
        self.waits.pop(row, None)

    def unplace(self, row: int, reason: WaitReason) -> None:
        degree, _ = self.places.pop(row)
        self.free += degree
        self.waits[row] = reason

    def resize(self, row: int, degree: int, because: Because) -> None:
        self.free += self.places[row][0] - degree
        self.places[row] = degree, because

    def continuing(self, row: int) -> bool:
        """Whether its present group was formed under the clause of its next stage."""
        view = self.view
        if view.state[row] != READY or view.sp[row] == 0:
            return False
        stage = view.stage[row]
        # encode and decode are the first stages of their clauses; a group of several ranks is a denoising group
        return bool(stage > _DECODE or (stage <= _DENOISE and (view.steps_done[row] > 0 or view.sp[row] > 1)))

    def ask(self, rows: I8) -> None:
        """Evaluate the choosers of those of `rows` for which nobody has: of many together, of a few when they are."""
        if len(rows) > FEW:
            unknown = rows if not self._choices else rows[[row not in self._choices for row in rows.tolist()]]
            if len(unknown) > FEW:
                self.evaluate(unknown)

    def evaluate(self, rows: I8) -> None:
        """Evaluate the choosers of `rows`, one frame a clause."""
        number_of = self.rules.number_of_stage[self.view.stage[rows]]
        for number, rule in enumerate(self.rules.distinct):
            mine = rows[number_of == number]
            if len(mine):
                choices = Choices(rule, Frame(self.tick, mine), self.gpus)
                for k, row in enumerate(mine.tolist()):
                    self._choices[row] = choices, k

    def admitted(self, rule: StageRule, rows: I8) -> B1:
        """`[K, D]`, or `[K, 1]` for one rank: the degrees that some alternative of `rows`' clause admits."""
        if rule.single and rule.fixed is not None:
            return np.ones((len(rows), 1), dtype=bool)
        return Choices(rule, Frame(self.tick, rows), self.gpus).admitted()

    def choices(self, row: int) -> tuple[Choices, int]:
        found = self._choices.get(row)
        if found is None:
            rule = self.rule(row)
            if rule.by_row is None or not FEW:
                self.evaluate(np.array([row]))
                return self._choices[row]
            found = self._choices[row] = RowChoices(rule, Row(self.tick, row), self.gpus), 0
        return found

    def pick(self, row: int, limit: int) -> Choice | None:
        """Its preferred degree up to `limit`, its present one if it is sticky and the change not worth it."""
        choices, k = self.choices(row)
        choice = choices.pick(k, limit)
        if choice is None or not self.sticks(row, choice.degree):
            return choice
        present = int(self.view.sp[row])
        return Choice(present, -2) if present <= limit and choices.allows(k, present) else choice

    def sticks(self, row: int, degree: int) -> bool:
        """`sticky`: another degree must improve the finish by the given ratio."""
        ratio = self.rule(row).sticky
        if ratio is None or not self.continuing(row):
            return False
        present = int(self.view.sp[row])
        if degree == present:
            return False
        return bool(self.remaining(row, degree) * (1 + ratio) > self.remaining(row, present))

    def remaining(self, row: int, degree: int) -> float:
        column = self.tick.column_of(degree)
        return float("inf") if column is None else float(self.view.remaining_s[row, column])

    def why(self, row: int, choice: Choice) -> Because:
        if choice.alternative == -2:
            name, value = f"remaining({choice.degree})", self.remaining(row, choice.degree)
            return Quoting("sticky", self.rule(row).clause.clause.line, lambda: ((name, render(DUR, value)),))
        choices, k = self.choices(row)
        return choices.because(k, choice)

    def name_unasked(self) -> None:
        """Have every row that was not asked in `waits`, as those are that were."""
        if self.unasked is not None:
            unasked = np.flatnonzero(self.unasked).tolist()
            rows = [row for row in unasked if row not in self.places and row not in self.waits]
            for row in rows:
                self.waits[row] = WaitReason.SET_ASIDE if self.is_aside(row) else self.unasked_reason
            self.unasked = None

    def write_waits(self, codes: I1) -> None:
        """Put why its rows wait into `codes[N]`, a column over the view."""
        if self.unasked is not None:
            codes[self.unasked] = WAIT_CODE[self.unasked_reason]
            if self.aside is not None and self.aside.any:
                codes[self.unasked & self.aside.mask] = WAIT_CODE[WaitReason.SET_ASIDE]
        for row, reason in self.waits.items():
            codes[row] = WAIT_CODE[reason]
        for row in self.places:
            codes[row] = NO_WAIT

    def listed(self) -> tuple[Place, ...]:
        return tuple(
            Place(row, degree, self.rule(row).prefer, because, self._ranks_for(row, degree))
            for row, (degree, because) in self.places.items()
        )

    def _ranks_for(self, row: int, degree: int) -> frozenset[int] | None:
        """The only ranks that a place may use; None: any."""
        if not self.blocks:
            return self.within
        own = self.blocks.get(row)
        if own is not None and len(own) == degree:
            return own
        others = (block for other, block in self.blocks.items() if other != row)
        return (self.within or frozenset(self.view.ranks)).difference(*others)


def keep_held(draft: Draft, order: Ranking) -> None:
    """`hold`: groups that must not change are placed first, on what they have. A cap comes before a hold."""
    if not draft.rules.any_hold:
        return
    view = draft.view
    ready = order.rows.compress(view.state.take(order.rows) == READY)
    for row in order.sorted(ready).tolist():
        rule = draft.rule(row)
        until = rule.holds_until()
        if until is None or not draft.continuing(row) or not view.now_s - view.group_since_s[row] < until:
            continue
        degree = 1 if rule.single else int(view.sp[row])
        if degree <= min(draft.free, draft.cap(row)):
            draft.place(row, degree, rule.because_hold)
            draft.held.add(row)


class Walk:
    """One pass over the plan order. `reserving` is kept by the policy over ticks."""

    def __init__(self, draft: Draft, allocate: Allocate, reserving: Reserving) -> None:
        self.draft = draft
        self._reserving = reserving
        self._beside: int | None = allocate.depth if allocate.kind is AllocateKind.BACKFILL else None
        self._blocked = False

    def run(self, order: Ranking) -> None:
        """Blocks of rows, so that choosers are evaluated for those only that may get something."""
        draft = self.draft
        size = min(SMALLEST_BLOCK, draft.free)
        start = 0
        while start < order.size and self._goes_on():
            block = order.first(start + size)[start : start + size]
            draft.ask(block)
            for row in block.tolist():
                if not self._goes_on():
                    break
                start += 1
                if row not in draft.places:
                    self._visit(row)
            size = max(SMALLEST_BLOCK, draft.free, 2 * size)
        self._pass_over(order, start)

    def _pass_over(self, order: Ranking, start: int) -> None:
        """The reason of all that were not even asked."""
        draft = self.draft
        draft.unasked = order.after(start)
        draft.unasked_reason = WaitReason.RESERVED if draft.withheld else WaitReason.NO_FREE_GPU
        for row in draft.waits:
            if draft.is_aside(row):
                draft.waits[row] = WaitReason.SET_ASIDE

    def _goes_on(self) -> bool:
        exhausted = self._beside is not None and self._blocked and self._beside <= 0
        return self.draft.free > self.draft.withheld and not exhausted

    def _visit(self, row: int) -> None:
        draft = self.draft
        if draft.lane_is_full(row):
            draft.waits[row] = WaitReason.LANE_FULL
            return
        limit = min(draft.available(row), draft.cap(row))
        choice = draft.pick(row, limit)
        if draft.rule(row).reserve_s is not None and self._gathers(row, choice):
            return
        if choice is None:
            draft.waits[row] = self._reason(row)
            self._blocked = self._blocked or draft.waits[row] is WaitReason.NO_FREE_GPU
            return
        if self._blocked and self._beside is not None:
            self._beside -= 1
        draft.place(row, choice.degree, draft.why(row, choice))

    def _gathers(self, row: int, choice: Choice | None) -> bool:
        """`reserve for t`: hold what is free until the preferred degree fits or t has passed. True: it waits meanwhile.

        A request that has a group goes on with what fits and holds only the rest.
        """
        draft, view = self.draft, self.draft.view
        request_id = view.ids[row]
        first = draft.pick(row, draft.most(row))
        if first is None or (choice is not None and choice.degree >= first.degree):
            self._reserving.pop(request_id, None)
            return False
        mine = view.now_s + (draft.rule(row).reserve_s or 0.0), float(view.arrival_s[row])
        until, _ = self._reserving.setdefault(request_id, mine)
        if view.now_s >= until:
            return False
        own = 0
        if choice is not None and draft.continuing(row):
            draft.place(row, choice.degree, draft.why(row, choice))
            own = choice.degree
        else:
            draft.waits[row] = WaitReason.HOLDING
        hold = min(first.degree - own, draft.available(row))
        if hold > 0:
            draft.withheld += hold
            draft.gathering[row] = hold, until
        return True

    def _reason(self, row: int) -> WaitReason:
        draft = self.draft
        choices, k = draft.choices(row)
        if not choices.any_offered(k):
            return WaitReason.NEVER_FITS
        if choices.pick(k, draft.gpus) is None:
            draft.recheck = True
            return WaitReason.POLICY_WAITS
        return WaitReason.RESERVED if choices.pick(k, draft.free) is not None else WaitReason.NO_FREE_GPU


@dataclass(frozen=True, slots=True)
class PairTests:
    """`grow` of one clause over its placed rows: `passes[k][sp][next]`, what was compared, the most for one row."""

    passes: list[list[list[bool]]]
    compared: Compared
    most: int

    def because(self, line: int, at: tuple[int, int, int], degrees: tuple[int, ...]) -> Because:
        """Why the row `at[0]` goes from the degree in column `at[1]` to that in `at[2]`."""
        _, here, wider = at
        return quoting("grow", line, self.compared, at, degrees[here], degrees[wider])


def grow(draft: Draft) -> None:
    """Surplus to the placed, most urgent first, in one pass: every wider degree that the pair test admits, in turn."""
    if not draft.rules.any_grow or draft.free <= draft.withheld:
        return
    by_rule: dict[StageRule, list[int]] = {}
    for row in draft.places:
        rule = draft.rule(row)
        if rule.grows and row not in draft.held:
            by_rule.setdefault(rule, []).append(row)
    tests = {row: (test, k) for rule, rows in by_rule.items() for k, row, test in _pair_tests(draft, rule, rows)}
    for row in list(draft.places):
        if row in tests and not draft.rule(row).grow_by:
            _grow_one(draft, row, *tests[row])
    for rule, rows in by_rule.items():
        if rule.grow_by:
            _grow_by_keys(draft, rule, rows, [tests[row] for row in rows])


def _pair_tests(draft: Draft, rule: StageRule, rows: list[int]) -> Iterator[tuple[int, int, PairTests]]:
    frame = Frame(draft.tick, np.array(rows))
    degrees = len(draft.view.degrees)
    truth: B1 | bool = True
    compared: Compared = []
    if rule.grow_where is not None:
        truth, compared = rule.grow_where.evaluate(frame)
    passes = np.broadcast_to(truth, (len(rows), degrees, degrees)).tolist()
    most = draft.view.gpus if rule.grow_most is None else int(rule.grow_most(frame))
    tests = PairTests(passes, compared, most)
    return ((k, row, tests) for k, row in enumerate(rows))


def _grow_by_keys(draft: Draft, rule: StageRule, rows: list[int], tests: list[tuple[PairTests, int]]) -> None:
    """One step to a wider degree at a time, the best by the keys first; of equals the earlier in the plan."""
    size = len(draft.view.degrees)
    frame = Frame(draft.tick, np.array(rows))
    shape = (len(rows), size, size)
    found = [np.broadcast_to(np.asarray(key(frame), dtype=np.float64), shape) for key in rule.grow_by]
    keys = [np.where(np.isnan(key), np.inf, key).tolist() for key in found]
    heap: list[tuple[list[float], int, int, int]] = []

    def offer(at: int) -> None:
        """The next step of a row, if it has one."""
        step = _next_step(draft, rows[at], *tests[at])
        if step is not None:
            here, wider = step
            heapq.heappush(heap, ([key[at][here][wider] for key in keys], at, here, wider))

    for at in range(len(rows)):
        offer(at)
    while heap:
        _, at, here, wider = heapq.heappop(heap)
        if _next_step(draft, rows[at], *tests[at]) == (here, wider):  # what is left may have become too little
            degrees, (test, k) = draft.view.degrees, tests[at]
            because = test.because(rule.grow_line, (k, here, wider), degrees)
            draft.resize(rows[at], degrees[wider], because)
        offer(at)


def _next_step(draft: Draft, row: int, tests: PairTests, k: int) -> tuple[int, int] | None:
    """Columns of its present degree and of the narrowest wider one that it may grow to now."""
    degrees = draft.view.degrees
    choices, at = draft.choices(row)
    degree, _ = draft.places[row]
    if degree not in degrees:
        return None
    here = degrees.index(degree)
    limit = min(degree + draft.available(row), tests.most, draft.cap(row))
    for column in range(here + 1, len(degrees)):
        wider = degrees[column]
        if wider > limit:
            break
        if choices.allows(at, wider) and tests.passes[k][here][column] and not draft.sticks(row, wider):
            return here, column
    return None


def _grow_one(draft: Draft, row: int, tests: PairTests, k: int) -> None:
    """To the widest degree that it comes to step by step."""
    degrees = draft.view.degrees
    line = draft.rule(row).grow_line
    while (step := _next_step(draft, row, tests, k)) is not None:
        here, wider = step
        draft.resize(row, degrees[wider], tests.because(line, (k, here, wider), degrees))
