"""When a policy need not be asked: the plan for one request at a boundary, worked out in plain floats.

Two cases are certain enough to leave a view unmade. Nobody waits: then the one request at a boundary is the whole plan.
Or others wait behind it in an order that time does not change, and it takes every free rank itself. In both the plan
keeps its ranks if its stage's clause comes to as many as it has. Whatever is not certain is left to `plan`.

A policy with pools, modes, states, lanes, reserves, a knapsack or anything unknown here has no such test.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable

from gfdit.core.glance import Glance
from gfdit.core.proposal import Prefer
from gfdit.core.trajectory import Trajectory
from gfdit.core.work import SINGLE_RANK_STAGES, STAGES, Stage
from gfdit.lang.program import (
    Alternative,
    ChosenDegree,
    FixedDegree,
    HoldKind,
    Name,
    OrderKey,
    Pick,
    Program,
    StageClause,
)
from gfdit.policy.columns import LOADERS, SYMBOLS, SYSTEM, ClassTable
from gfdit.policy.scalars import (
    INF,
    RELATIVE,
    Scalar,
    ScalarCompiler,
    Unsupported,
    Unsure,
    present_degree,
)

_WORDS = "max min clamp abs step_time remaining finish slack gain queued longest_wait count sum mean next gpu_time"
_STATELESS = {*LOADERS, *SYMBOLS, *SYSTEM, *_WORDS.split(" ")}
_PROGRAM = frozenset(
    {"name", "version", "title", "sha", "source", "params", "lets", "classes", "admit", "order", "triage", "aging"}
    | {"stages", "preempts", "allocate", "tick", "guards", "fallback", "tests", "uses"}
)
_STAGE = frozenset({"stage", "follows", "degree", "grow", "hold", "sticky", "prefer", "clause"})
_PREFER = (Prefer.LAST_GPUS, Prefer.SAME_NODE)


def steady_test(program: Program, classes: ClassTable, keys: tuple[OrderKey, ...]) -> SteadyTest | None:
    """The test of a policy; None when no tick of it is certain. `keys`: those of its order that decide anything."""
    if _others(program, _PROGRAM) or program.uses - _STATELESS:
        return None
    if program.allocate.value is not None or any(_others(stage, _STAGE) for stage in program.stages):
        return None
    try:
        return SteadyTest(program, classes, keys)
    except Unsupported:
        return None


def _others(node: object, known: frozenset[str]) -> list[str]:
    """Fields with something in them that this module does not know."""
    return [name for name in type(node).__annotations__ if name not in known and getattr(node, name)]


class SteadyTest:
    """See the module."""

    def __init__(self, program: Program, classes: ClassTable, keys: tuple[OrderKey, ...]) -> None:
        compiler = ScalarCompiler(program.lets, classes, program.aging is not None)
        self._guards = tuple(compiler.expr(guard.condition) for guard in program.guards)
        stages = {clause.stage: _StageTest(clause, compiler) for clause in program.stages if not clause.follows}
        for clause in program.stages:
            if clause.follows:
                stages[clause.stage] = stages[clause.follows]
        self._stages = {stage: stages[stage] for stage in STAGES}
        # with these clauses those that wait change the plan for others, too
        self._patient = program.triage is None and not program.preempts
        self._queue = _queue_of(program, classes, keys) if self._patient else None

    def keeps(self, glance: Glance) -> bool:
        """As `core.glance.Foresight`."""
        try:
            return self._keeps(glance)
        except (Unsure, ArithmeticError):
            return False

    def _keeps(self, glance: Glance) -> bool:
        if self._queue is not None:
            self._queue.take_in(glance)
        if (glance.waiting and not self._patient) or not all(guard(glance, 0, 0) for guard in self._guards):
            return False
        t, left = glance.row, glance.free
        if t is not None:
            stage, present = self._stages[t.stage], present_degree(t)
            held = stage.held(t)
            degree = present if held else stage.chosen(glance, t)
            left -= degree
            if glance.waiting and not held and (self._queue is None or not self._queue.is_behind(glance, t)):
                return False
            if not held and not glance.waiting:
                degree = stage.grown(glance, t, degree, left)
            if degree != present or not stage.keeps_ranks:
                return False
        return left == 0 or not glance.waiting


class _StageTest:
    """How many ranks one stage's clause comes to; the counterpart of `chooser.py` and `allocate.grow`."""

    def __init__(self, clause: StageClause, compiler: ScalarCompiler) -> None:
        prefer = tuple(Prefer(name) for name in clause.prefer) or _PREFER
        # a place of the same size on the same ranks: sure only if nothing comes before keeping them
        self.keeps_ranks = prefer[0] is Prefer.LAST_GPUS
        self._known: dict[tuple[str, int], tuple[list[int], list[int]]] = {}
        self._single = Stage(clause.stage) in SINGLE_RANK_STAGES
        if clause.hold is not None and clause.hold.kind is HoldKind.FOR:
            raise Unsupported("hold for")
        self._hold = clause.hold is not None
        self._sticky = clause.sticky
        self._fixed: Scalar | None = None
        self._named: tuple[int, ...] = ()
        self._alternatives: tuple[tuple[Pick, Scalar | None, Scalar | None], ...] = ()
        match clause.degree:
            case FixedDegree(value=value):
                self._fixed = compiler.expr(value)
            case ChosenDegree(degrees=degrees, alternatives=alternatives):
                self._named = degrees
                self._alternatives = tuple(_alternative(item, compiler) for item in alternatives)
        picks = [pick for pick, where, _ in self._alternatives if pick is Pick.WAIT or where is None]
        self._always_runs = bool(picks) and picks[0] is not Pick.WAIT  # at some degree that fits
        grow = None if self._single else clause.grow
        self._grows = grow is not None
        self._where = None if grow is None or grow.where is None else compiler.expr(grow.where)
        self._most = None if grow is None or grow.most is None else compiler.expr(grow.most)

    def held(self, t: Trajectory) -> bool:
        """Whether `hold` keeps it where it is: then it comes before everybody else."""
        return self._hold and _continuing(t) and (not self._single or present_degree(t) == 1)

    def chosen(self, glance: Glance, t: Trajectory) -> int:
        """The degree before growing; 0: it waits."""
        degree = self._picked(glance)
        if degree and self._sticks(glance, t, degree):
            present = present_degree(t)
            return present if present <= glance.free and self._allows(glance, present) else degree
        return degree

    def grown(self, glance: Glance, t: Trajectory, degree: int, left: int) -> int:
        """The degree that it comes to step by step."""
        if not self._grows or left <= 0 or degree not in glance.degrees:
            return degree
        most = glance.gpus if self._most is None else int(self._most(glance, 0, 0))
        limit = min(degree + left, most)
        here = glance.degrees.index(degree)
        for column in range(here + 1, len(glance.degrees)):
            wider = glance.degrees[column]
            if wider > limit:
                break
            if not self._allows(glance, wider) or self._sticks(glance, t, wider):
                continue
            if self._where is None or self._where(glance, here, column):
                return self.grown(glance, t, wider, left - (wider - degree))
        return degree

    def _picked(self, glance: Glance) -> int:
        limit = glance.free
        if limit < 1:
            return 0
        if self._single and self._fixed is not None:
            return 1
        if self._fixed is not None:
            return self._stand_in_for(glance, self._fixed(glance, 0, 0), limit)
        fits = self._columns(glance)[1]
        if not fits:
            return 0
        if not self._single and limit < glance.degrees[fits[-1]]:
            fits = [column for column in fits if glance.degrees[column] <= limit]
        if len(fits) == 1 and self._always_runs:
            return 1 if self._single else glance.degrees[fits[0]]
        for pick, where, key in self._alternatives:
            if pick is Pick.WAIT:
                return 0
            best = _best(glance, pick, fits, where, key)
            if best is not None:
                return 1 if self._single else glance.degrees[best]
        return 0

    def _stand_in_for(self, glance: Glance, wanted: float, limit: int) -> int:
        """`sp fixed`: the widest offered degree up to the wanted one, or the narrowest."""
        offered = [glance.degrees[column] for column in self._columns(glance)[0]]
        exact = [degree for degree in offered if degree == wanted]
        below = [degree for degree in offered if degree < wanted]
        found = exact or below[-1:] or offered[:1]
        return found[0] if found and found[0] <= limit else 0

    def _columns(self, glance: Glance) -> tuple[list[int], list[int]]:
        """Columns of the degrees that the cluster offers to its model, and of those that the clause allows of them:
        those it names, or the nearest one if there is none."""
        assert glance.row is not None
        key = glance.row.request.model, glance.gpus
        known = self._known.get(key)
        if known is None:
            steps, degrees = glance.step_s, glance.degrees
            offered = [c for c, d in enumerate(degrees) if math.isfinite(steps[c]) and d <= glance.gpus]
            allowed = [column for column in offered if degrees[column] in self._named]
            if self._named and not allowed:
                below = [column for column in offered if degrees[column] < self._named[0]]
                allowed = below[-1:] or offered[:1]
            known = self._known[key] = offered, allowed
        return known

    def _allows(self, glance: Glance, degree: int) -> bool:
        if self._single:
            return degree == 1
        if degree not in glance.degrees:
            return False
        return glance.degrees.index(degree) in self._columns(glance)[0 if self._fixed is not None else 1]

    def _sticks(self, glance: Glance, t: Trajectory, degree: int) -> bool:
        present = present_degree(t)
        if self._sticky is None or degree == present or not _continuing(t):
            return False
        return _remaining(glance, degree) * (1 + self._sticky) > _remaining(glance, present)


def _alternative(item: Alternative, compiler: ScalarCompiler) -> tuple[Pick, Scalar | None, Scalar | None]:
    where = None if item.where is None else compiler.expr(item.where)
    return item.pick, where, None if item.key is None else compiler.expr(item.key)


def _best(glance: Glance, pick: Pick, columns: list[int], where: Scalar | None, key: Scalar | None) -> int | None:
    """The column that `pick` prefers; of equal keys the narrower degree."""
    best: int | None = None
    least = INF
    for column in columns:
        if where is not None and not where(glance, column, 0):
            continue
        if pick is Pick.SMALLEST:
            return column
        if pick is Pick.LARGEST:
            best = column
            continue
        assert key is not None
        value = float(key(glance, column, 0))
        value = INF if value != value else -value if pick is Pick.MAXIMIZING else value
        if best is None or value < least:
            best, least = column, value
    return best


def _remaining(glance: Glance, degree: int) -> float:
    return glance.remaining_s[glance.degrees.index(degree)] if degree in glance.degrees else INF


def _continuing(t: Trajectory) -> bool:
    """As `Draft.continuing`, of one at a boundary."""
    if t.stage is Stage.FINALIZE:
        return True
    return t.stage is not Stage.DECODE and (t.steps_done > 0 or present_degree(t) > 1)


Entry = tuple[tuple[float, ...], int, str]  # keys, then arrival and id


class _Queue:
    """Those that wait, first to last by keys that do not change while they do. `signs`: 1 or -1 for keys that are
    instants, read relative to the tick, ascending or descending; 0 for others."""

    def __init__(self, keys: tuple[Scalar, ...], signs: tuple[int, ...]) -> None:
        self._keys = keys
        self._signs = signs
        self._heap: list[Entry] = []
        self._entries: dict[str, tuple[Entry, Trajectory]] = {}
        self._unsure: set[str] = set()  # waiting, and not known where

    def take_in(self, glance: Glance) -> None:
        newly: Iterable[Trajectory] = glance.newly
        if glance.anew:
            self._entries.clear()
        if glance.anew or len(self._heap) + len(glance.newly) > 2 * len(glance.waiting) + 64:
            self._heap, newly = [], glance.waiting.values()
        for t in newly:
            try:
                heapq.heappush(self._heap, self._entry(glance, t))
            except Unsure:
                self._unsure.add(t.request.id)

    def is_behind(self, glance: Glance, t: Trajectory) -> bool:
        """Whether everybody who waits certainly comes after `t`."""
        self._unsure.intersection_update(glance.waiting)
        while self._heap and self._heap[0][2] not in glance.waiting:
            heapq.heappop(self._heap)
        if self._unsure or not self._heap:
            return False
        mine, first = self._entry(glance, t), self._heap[0]
        for sign, a, b in zip(self._signs, mine[0], first[0], strict=True):
            if sign == 0:
                if a != b:
                    return a < b
            elif not a == b == math.copysign(INF, a):
                # the order subtracts `now` from both, after which neighbours may be equal: only a lead is certain
                return a - sign * glance.now_s < b - sign * glance.now_s
        return mine[1:] < first[1:]

    def _entry(self, glance: Glance, t: Trajectory) -> Entry:
        """Its place. Looked up once a request."""
        known = self._entries.get(t.request.id)
        if known is not None and known[1] is t:
            return known[0]
        sight = Glance(glance.now_s, glance.gpus, glance.free, t, glance.estimator, glance.waiting)
        values = tuple([key(sight, 0, 0) for key in self._keys])
        if any(map(math.isnan, values)):
            raise Unsure
        if len(self._entries) > 2 * len(self._heap) + 4096:
            self._entries.clear()
        entry = values, t.request.arrival_ns, t.request.id
        self._entries[t.request.id] = entry, t
        return entry


def _queue_of(program: Program, classes: ClassTable, deciding: tuple[OrderKey, ...]) -> _Queue | None:
    """None: time changes the order."""
    compiler = ScalarCompiler(program.lets, classes, program.aging is not None, fixed_only=True)
    keys: list[Scalar] = []
    signs: list[int] = []
    for key in deciding:
        instant = RELATIVE.get(key.value.name) if isinstance(key.value, Name) else None
        try:
            keys.append(compiler.key(key) if instant is None else _instant(instant, key.descending))
        except Unsupported:
            return None
        signs.append(0 if instant is None else -1 if key.descending else 1)
    return _Queue(tuple(keys), tuple(signs))


def _instant(read: Callable[[Trajectory], float], descending: bool) -> Scalar:
    sign = -1.0 if descending else 1.0

    def value(glance: Glance, here: int, wider: int) -> float:
        assert glance.row is not None
        return sign * read(glance.row)

    return value
