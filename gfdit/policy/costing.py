"""The worst-case tick of a policy, line by line, from what its clauses compute: before it ever runs.

Every node of an expression is one NumPy call over requests, degrees or pairs of degrees; what a clause adds around its
expressions (sorting, walking, taking back) is counted in the same four units: calls, elements, values that become
Python objects, and steps of a Python loop. The bound takes every request as new and plannable, every condition as
evaluated and every rank as handed out, so that deleting a clause never raises it. Units are turned into seconds by
constants that were measured:

    gfdit cost --calibrate

May not run a policy; imports neither NumPy nor the scheduler, so that `gfdit check` may ask it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import assert_never

from gfdit.lang import program as ir
from gfdit.lang.schema import Level

COMMON_DEGREES = (1, 2, 4, 8)
MOST_QUOTED = 4  # values that a decision quotes
STEPS_A_QUOTE = 1.5  # to pick a value out of its column; it is printed when somebody asks


@dataclass(frozen=True, slots=True)
class Constants:
    """Seconds of one NumPy call through a compiled expression, of one element in it, of one value made a Python object,
    and of one step of a Python loop (a request visited, a place or a verdict made)."""

    call_s: float
    element_s: float
    object_s: float
    step_s: float


# Measured by `gfdit cost --calibrate` on a cloud machine's CPU, NumPy 2 and Python 3.11; the largest of several runs.
CALIBRATED = Constants(call_s=5.1e-7, element_s=2.7e-10, object_s=2.0e-8, step_s=1.3e-6)


@dataclass(frozen=True, slots=True)
class Size:
    """The largest tick: requests, ranks, and the degrees that the cluster offers."""

    requests: int
    gpus: int
    degrees: int

    @property
    def placed(self) -> int:
        return min(self.requests, self.gpus)


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done, in the four units."""

    calls: float = 0.0
    elements: float = 0.0
    objects: float = 0.0
    steps: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.calls + other.calls,
            self.elements + other.elements,
            self.objects + other.objects,
            self.steps + other.steps,
        )

    def times(self, count: float) -> Work:
        return Work(self.calls * count, self.elements * count, self.objects * count, self.steps * count)

    def seconds(self, constants: Constants) -> float:
        return (
            self.calls * constants.call_s
            + self.elements * constants.element_s
            + self.objects * constants.object_s
            + self.steps * constants.step_s
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One clause. `scale` says what its work grows with; line 0 is what every policy does."""

    id: str
    line: int
    text: str
    scale: str
    work: Work


@dataclass(frozen=True, slots=True)
class Bound:
    """`budget_s`: the policy's own limit of a tick, None without one."""

    size: Size
    parts: tuple[Part, ...]
    constants: Constants
    budget_s: float | None

    @property
    def seconds(self) -> float:
        return sum(part.work.seconds(self.constants) for part in self.parts)


def bound(program: ir.Program, requests: int, gpus: int, constants: Constants = CALIBRATED) -> Bound:
    """The worst tick with so many live requests on so many ranks; dearest parts first."""
    named = {
        degree
        for stage in program.stages
        if isinstance(stage.degree, ir.ChosenDegree)
        for degree in stage.degree.degrees
    }
    offered = [degree for degree in {*COMMON_DEGREES, *named} if degree <= gpus]
    size = Size(requests, gpus, len(offered))
    counted = _Counter(program, size)
    merged: dict[tuple[int, str], Part] = {}
    for part in counted.parts():  # stages that share a clause are evaluated one by one
        before = merged.get((part.line, part.text))
        merged[part.line, part.text] = part if before is None else replace(before, work=before.work + part.work)
    parts = sorted(merged.values(), key=lambda part: -part.work.seconds(constants))
    return Bound(size, tuple(parts), constants, program.fallback.tick)


def _calls(count: float, elements: float) -> Work:
    """`count` NumPy calls over so many elements each."""
    return Work(calls=count, elements=count * elements)


@dataclass(frozen=True, slots=True)
class _Counter:
    program: ir.Program
    size: Size

    def parts(self) -> Iterator[Part]:
        n = self.size.requests
        yield Part("tick", 0, "freeze, frames, the walk and the proposal", "N", self._always())
        for rule in self.program.classes:
            yield self._part(rule.clause, "N", self._condition(rule.when, n) + _calls(2, n))
        yield from self._admissions()
        keys = sum((self._expr(key.value, n) for key in self.program.order.keys), Work())
        yield self._part(self.program.order.clause, "N log N", keys + self._sort(len(self.program.order.keys)))
        if self.program.triage is not None:
            yield self._part(self.program.triage.clause, "N log N", self._triage(self.program.triage))
        if self.program.aging is not None:
            yield self._part(self.program.aging.clause, "N", _calls(8, n) + self._sort(1))
        for stage in self.program.stages:
            if not stage.follows:
                yield from self._stage(stage)
        for preempt in self.program.preempts:
            yield self._part(preempt.clause, "N x P", self._preempt(preempt))
        if self.program.batch is not None:
            yield self._part(self.program.batch.clause, "N", self._batch(self.program.batch))
        yield from self._solver(self.program.allocate)
        yield from self._whole_system()

    def _whole_system(self) -> Iterator[Part]:
        """What is evaluated once a tick over everybody: pools, modes, states, reactions, guards."""
        n = self.size.requests
        if self.program.pools:  # each pool has a plan of its own, over the rows of its stages
            shares = (_calls(40, n) + Work(objects=self.size.gpus, steps=20 + n)).times(len(self.program.pools))
            yield self._part(self.program.pools[0].clause, "N", shares)
        for resize in self.program.resizes:
            yield self._part(resize.clause, "N", self._expr(resize.when, n) + Work(objects=n, steps=6))
        for stage in self.program.stages:
            if stage.spill is not None and not stage.follows:
                again = _calls(4, n) + Work(objects=n, steps=n)
                yield self._part(stage.spill.clause, "N", self._expr(stage.spill.when, n) + again)
        for mode in self.program.modes:
            both = self._expr(mode.when, n) + self._expr(mode.until, n)
            yield self._part(mode.clause, "N", both + Work(steps=4))
        for state in self.program.states:
            classes = len(self.program.classes) + 1 if state.per_class else 1
            one = self._expr(state.next, n) + _calls(4, n) + Work(steps=4)
            yield self._part(state.clause, "N", one.times(classes))
        for react in self.program.reacts:
            work = self._condition(react.when, n) + _calls(6, n) + Work(objects=n, steps=2 * n + 4)
            yield self._part(react.clause, "N", work + self._quotes(react.when, n))
        for guard in self.program.guards:
            yield self._part(guard.clause, "N", self._expr(guard.condition, n) + Work(steps=1))

    def _part(self, clause: ir.Clause, scale: str, work: Work) -> Part:
        lines = self.program.source.slice(clause.span).splitlines()
        text = " ".join(" ".join(line.partition("#")[0] for line in lines).split())
        return Part(clause.id, clause.line, text, scale, work)

    # ---- clauses ----------------------------------------------------------------------------------------------------

    def _always(self) -> Work:
        """What no clause can save: columns, verdicts and waits of all, a visit of each, a place for each rank."""
        n, placed = self.size.requests, self.size.placed
        return _calls(200, n) + Work(objects=10 * n, steps=2.5 * n + 4 * placed)

    def _sort(self, keys: int) -> Work:
        n = self.size.requests
        return Work(calls=2 * keys, elements=8 * keys * n * math.log2(max(n, 2)))

    def _admissions(self) -> Iterator[Part]:
        """Every rule is asked about everybody; a request has one verdict, which the dearest rule may have to give."""
        n, table = self.size.requests, self.size.requests * self.size.degrees
        quotes = [self._quotes(rule.when, n) for rule in self.program.admit]
        dearest = max(range(len(quotes)), key=lambda number: quotes[number].steps, default=0)
        for number, rule in enumerate(self.program.admit):
            work = self._condition(rule.when, n) + _calls(6, n) + Work(objects=2 * n)
            for change in rule.changes:
                work += self._expr(change.value, n) + _calls(6, n) + _calls(6, table)
            if number == dearest:
                work += Work(steps=n) + quotes[number]
            yield self._part(rule.clause, "N", work)

    def _triage(self, triage: ir.Triage) -> Work:
        n, table = self.size.requests, self.size.requests * self.size.degrees
        keys = self._expr(triage.by.value, n) + self._expr(triage.shed, n)
        return keys + _calls(12, n) + _calls(6, table) + self._sort(3) + Work(objects=4 * n, steps=n)

    def _stage(self, stage: ir.StageClause) -> Iterator[Part]:
        n, s, placed = self.size.requests, self.size.degrees, self.size.placed
        base = _calls(8, n * s) + Work(objects=n * s)
        if stage.sticky is not None:
            base += Work(steps=3 * placed)
        if stage.reserve is not None:
            base += Work(objects=3 * n * s, steps=n)
        degree = stage.degree
        if isinstance(degree, ir.FixedDegree):
            yield self._part(degree.clause, "N x S", base + self._expr(degree.value, n))
        else:
            for number, alternative in enumerate(degree.alternatives):
                own = self._condition(alternative.where, n) + self._condition(alternative.key, n)
                own += (
                    _calls(4, n * s) + Work(objects=5 * n * s, steps=0.2 * n) + self._quotes(alternative.where, placed)
                )
                yield self._part(alternative.clause, "N x S", own if number else own + base)
        if stage.hold is not None:
            yield self._part(stage.hold.clause, "P", _calls(3, n) + Work(steps=4 * placed))
        if stage.grow is not None:
            yield self._part(stage.grow.clause, "P x S x S", self._grow(stage.grow))

    def _grow(self, grow: ir.Grow) -> Work:
        placed, s = self.size.placed, self.size.degrees
        pairs = placed * s * s
        work = self._condition(grow.where, placed) + self._condition(grow.most, placed) + _calls(4, pairs)
        work += Work(objects=pairs, steps=2 * placed * s) + self._quotes(grow.where, placed)
        for key in grow.by:
            work += self._expr(key.value, placed) + _calls(2, pairs) + Work(objects=pairs, steps=2 * placed * s)
        return work

    def _preempt(self, preempt: ir.Preempt) -> Work:
        """Every request may be a winner for whom all victims are looked through in vain; the victims are judged anew
        whenever some were taken."""
        n, placed = self.size.requests, self.size.placed
        once = self._condition(preempt.when, n) + _calls(4, n) + Work(objects=n, steps=n)
        keys = sum((self._expr(key.value, placed) for key in preempt.by), Work())
        judged = self._condition(preempt.where, placed) + keys + _calls(16, placed)
        judged += Work(steps=4 + placed * (4 + 2 * len(preempt.takes)))
        takings = min(n, placed, preempt.limit or placed)
        once += self._quotes(preempt.when, takings)
        return once + judged.times(takings + 1) + Work(steps=5 + 0.12 * placed).times(n)

    def _batch(self, batch: ir.Batch) -> Work:
        """Keys and condition of everybody, and a walk that gathers those with equal keys."""
        n = self.size.requests
        keys = sum((self._expr(key, n) for key in batch.by), Work())
        gathered = Work(objects=(2 + len(batch.by)) * n, steps=n)
        return keys + self._condition(batch.where, n) + _calls(6, n) + gathered + self._sort(1)

    def _solver(self, allocate: ir.Allocate) -> Iterator[Part]:
        value, clause = allocate.value, allocate.clause
        if value is None or clause is None:
            return
        match allocate.kind:
            case ir.AllocateKind.KNAPSACK:
                yield self._part(clause, "G x S x G", self._knapsack(value))
            case ir.AllocateKind.ROLLOUT:
                yield self._part(clause, "H x B x G", self._rollout(value, allocate.horizon, allocate.beam))
            case ir.AllocateKind.GREEDY | ir.AllocateKind.BACKFILL:
                return
            case _:
                assert_never(allocate.kind)

    def _knapsack(self, value: ir.Expr) -> Work:
        n, gpus, s = self.size.requests, self.size.gpus, self.size.degrees
        candidates = min(n, max(32, 4 * gpus))
        table = _calls(2 * s, gpus).times(candidates)
        return self._expr(value, candidates) + table + _calls(20, n) + Work(objects=n, steps=candidates * s)

    def _rollout(self, value: ir.Expr, horizon: int, beam: int) -> Work:
        """For each of the first requests, every plan kept meets every degree, and the ranks' times are sorted anew."""
        gpus, s = self.size.gpus, self.size.degrees
        requests = min(horizon, self.size.requests)
        sorting = _calls(1, beam * gpus * math.log2(max(gpus, 2)))
        turn = self._expr(value, beam) + _calls(16, beam * s) + _calls(4, beam * gpus) + sorting + Work(steps=8 + s)
        return turn.times(requests) + _calls(20, self.size.requests) + Work(objects=gpus, steps=4 * requests * s)

    def _quotes(self, condition: ir.Expr | None, times: float) -> Work:
        """Decisions quote both sides of the comparisons in their condition, constants left out."""
        parts = condition.operands if isinstance(condition, ir.BoolOp) else (condition,)
        sides = [side for part in parts if isinstance(part, ir.Compare) for side in (part.left, part.right)]
        quoted = min(MOST_QUOTED, sum(side.level is not Level.CONST for side in sides))
        return Work(steps=STEPS_A_QUOTE * quoted * times)

    # ---- expressions ------------------------------------------------------------------------------------------------

    def _condition(self, expr: ir.Expr | None, rows: int) -> Work:
        return Work() if expr is None else self._expr(expr, rows)

    def _expr(self, expr: ir.Expr, rows: int) -> Work:
        """The expression over `rows` requests; a `let` counts wherever it is used."""
        here = self._elements(expr.level, rows)
        match expr:
            case ir.Const():
                return Work()
            case ir.Name(name="load"):
                return _calls(16, self.size.requests) + self._sort(2)
            case ir.Name():
                return _calls(3, rows if expr.level <= Level.REQUEST else here)
            case ir.LetRef(name=name):
                inner = next((let.value for let in self.program.lets if let.name == name), None)
                return _calls(1, here) if inner is None else self._expr(inner, rows) + _calls(1, 0)
            case ir.Aggregate(value=value, where=where):
                everybody = self.size.requests
                inside = self._condition(value, everybody) + self._condition(where, everybody)
                return inside + _calls(4, everybody)
            case ir.Call(args=args) if expr.level <= Level.TICK:
                inside = sum((self._expr(arg, self.size.requests) for arg in args), Work())
                return inside + _calls(8, self.size.requests) + Work(steps=1)
            case ir.Call(args=args):
                table = rows * self.size.degrees
                return sum((self._expr(arg, rows) for arg in args), Work()) + _calls(4, table) + _calls(2, here)
            case ir.Unary(operand=operand):
                return self._expr(operand, rows) + _calls(1, here)
            case ir.Binary(left=left, right=right) | ir.Compare(left=left, right=right):
                return self._expr(left, rows) + self._expr(right, rows) + _calls(1, here)
            case ir.Member(value=value):
                return self._expr(value, rows) + _calls(2, here)
            case ir.BoolOp(operands=operands):
                return sum((self._expr(operand, rows) + _calls(1, here) for operand in operands), Work())
            case ir.If(condition=condition, then=then, other=other):
                return sum((self._expr(part, rows) for part in (condition, then, other)), Work()) + _calls(1, here)

    def _elements(self, level: Level, rows: int) -> float:
        match level:
            case Level.DEGREE:
                return rows * self.size.degrees
            case Level.PAIR:
                return rows * self.size.degrees**2
            case Level.REQUEST:
                return rows
            case _:
                return 1


__all__ = ["CALIBRATED", "Bound", "Constants", "Part", "Size", "Work", "bound"]
