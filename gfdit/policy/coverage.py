"""Which clauses of a policy its tests have tried, and which of their outcomes they have seen.

A clause with a condition has two outcomes, true and false, seen as it is evaluated; a clause without one has been tried
when some decision names it: a pool when a request was placed in it, a state when it has moved, a batch when some
requests shared one, aging when some request has waited for as long. Declarations (`param`, `let`, `allocate greedy`,
`tick`, `fallback`, ...) decide nothing by themselves and are not counted. May not change what a policy decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, get_args

import numpy as np

from gfdit.core.proposal import Because, Proposal, Verdict, WaitReason
from gfdit.core.view import View
from gfdit.core.work import STAGES
from gfdit.lang import program as ir
from gfdit.lang.frozen import Frozen
from gfdit.lang.source import Span
from gfdit.lang.types import Kind
from gfdit.policy.chooser import title_of
from gfdit.policy.takeback import title_of as preempt_title

_EXPRESSIONS = get_args(ir.Expr)
_SOLVERS = (ir.AllocateKind.KNAPSACK.value, ir.AllocateKind.ROLLOUT.value)


class Gap(StrEnum):
    """What the tests have left out of a clause."""

    NONE = ""
    NEVER_EVALUATED = "never evaluated"
    NEVER_TRUE = "never true"
    NEVER_FALSE = "never false"
    SHADOWED = "shadowed"  # true, and yet another clause decided each time


@dataclass(frozen=True, slots=True)
class Covered:
    """One clause. `true`, `false`: evaluations with that outcome for some request (`false` None: it has no condition,
    `true` counts its decisions); `decided`: decisions that name it, None where decisions name none."""

    id: str
    line: int
    text: str
    true: int
    false: int | None
    decided: int | None

    @property
    def evaluated(self) -> bool:
        return self.true > 0 or bool(self.false)

    @property
    def gap(self) -> Gap:
        if not self.evaluated:
            return Gap.NEVER_EVALUATED
        if not self.true:
            return Gap.NEVER_TRUE
        if self.decided == 0:
            return Gap.SHADOWED
        return Gap.NEVER_FALSE if self.false == 0 else Gap.NONE


@dataclass(frozen=True, slots=True)
class _Point:
    """A clause that counts. `condition`: where its condition stands; `named`: how decisions name it, with the line."""

    id: str
    line: int
    text: str
    condition: Span | None
    named: tuple[str, int] | None


class Coverage:
    """Collects over any number of tests of one program: `watch` is for its compiler, `judged` and `planned` for what
    comes out."""

    def __init__(self, program: ir.Program) -> None:
        self._points = tuple(_points(program))
        self._stages = {clause.stage: clause for clause in program.stages}
        self._aging = program.aging
        self._true: Counter[Span] = Counter()
        self._false: Counter[Span] = Counter()
        self._decided: Counter[tuple[str, int]] = Counter()

    def watch(self, expr: ir.Expr, truth: Any) -> None:
        """A condition came to `truth`, in the shape of its level or broadcastable to it."""
        for_some, against_some = _outcomes(np.asarray(truth, dtype=bool))
        self._true[expr.span] += for_some
        self._false[expr.span] += against_some

    def judged(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            self._because(verdict.because)
            self._decided[(f"class {verdict.class_name}", 0)] += 1

    def planned(self, view: View, proposal: Proposal, moved: Iterable[str] = ()) -> None:
        """`moved`: the states that are not where they began."""
        for place in proposal.places:
            self._because(place.because)
            if (clause := self._stages.get(STAGES[view.stage[place.row]])) is not None:
                self._placed(clause, place.because)
        for cap in proposal.caps:
            self._because(cap.because)
        for batch in proposal.batches:
            self._because(batch.because)
        for note in proposal.notes:
            self._decided[(note.partition(":")[0], 0)] += 1
        for state in moved:
            self._decided[(f"state {state}", 0)] += 1
        aside = bool(proposal.turns) or WaitReason.SET_ASIDE in proposal.waits.values()
        self._decided[("triage", aside)] += 1
        self._decided[("order", 0)] += int(view.plannable.sum()) > 1
        if self._aging is not None:
            self._decided[("aging", 0)] += bool((view.waited_s >= self._aging.every).any())

    def clauses(self) -> tuple[Covered, ...]:
        """Every clause that counts, in the order of the text."""
        return tuple(self._covered(point) for point in sorted(self._points, key=lambda point: (point.line, point.id)))

    def _placed(self, clause: ir.StageClause, because: Because | None) -> None:
        """A request got ranks in this stage. A knapsack or a rollout picks among what the stage's clause admits."""
        self._decided[(f"pool {clause.pool}", 0)] += 1
        if because is not None and because.clause not in _SOLVERS:
            return
        if isinstance(clause.degree, ir.FixedDegree):
            self._decided[("sp fixed", clause.degree.clause.line)] += 1
        else:
            for number, alternative in enumerate(clause.degree.alternatives):
                if alternative.where is None:
                    self._decided[(title_of(number), alternative.clause.line)] += 1

    def _because(self, because: Because | None) -> None:
        if because is not None:
            self._decided[(because.clause, because.line)] += 1

    def _covered(self, point: _Point) -> Covered:
        decided = None if point.named is None else self._decided[point.named]
        if point.id == "triage":
            true, false, decided = self._decided[("triage", True)], self._decided[("triage", False)], None
            return Covered(point.id, point.line, point.text, true, false, decided)
        if point.condition is None:
            return Covered(point.id, point.line, point.text, decided or 0, None, decided)
        true, false = self._true[point.condition], self._false[point.condition]
        return Covered(point.id, point.line, point.text, true, false, decided)


def _outcomes(truth: np.ndarray) -> tuple[bool, bool]:
    """Whether the condition held for some request, and whether it did not. Per degree: whether it held at any degree;
    per pair, only those with `next` wider than `sp` count."""
    if truth.ndim == 3 and truth.shape[1] == truth.shape[2]:
        wider = np.triu(np.ones(truth.shape[1:], dtype=bool), 1)
        if not wider.any():
            return False, False
        pairs = truth[:, wider]
        return bool(pairs.any()), bool((~pairs).any())
    per_request = truth.any(axis=tuple(range(1, truth.ndim))) if truth.ndim > 1 else truth
    return bool(per_request.any()), bool((~per_request).any())


def _points(program: ir.Program) -> Iterator[_Point]:
    """The clauses that count, each once: stages that share a clause share its points."""
    seen: set[Span] = set()
    for clause, conditions, named in _clauses(program):
        text = _text(program, clause.span)
        for field, condition in conditions:
            if condition.span not in seen:
                seen.add(condition.span)
                several = len(conditions) > 1
                own_id = f"{clause.id}.{field}" if several else clause.id
                yield _Point(own_id, clause.line, text, condition.span, None if several else named)
        alone = not conditions or len(conditions) > 1  # a clause with several conditions decides for itself
        if alone and named is not None and clause.span not in seen:
            seen.add(clause.span)
            yield _Point(clause.id, clause.line, text, None, named)


_Conditions = list[tuple[str, ir.Expr]]


def _clauses(program: ir.Program) -> Iterator[tuple[ir.Clause, _Conditions, tuple[str, int] | None]]:
    """Everything with a clause of its own: its conditions, and how decisions name it (None: they do not)."""
    stack: list[object] = [getattr(program, name) for name in reversed(program._fields) if name != "tests"]
    while stack:
        value = stack.pop()
        if isinstance(value, tuple):
            stack.extend(reversed(value))
        elif isinstance(value, ir.ChosenDegree):
            for number, alternative in enumerate(value.alternatives):
                if alternative.pick is not ir.Pick.WAIT:
                    named = title_of(number), alternative.clause.line
                    yield alternative.clause, _conditions(alternative), named
        elif isinstance(value, Frozen) and not isinstance(value, _EXPRESSIONS):
            clause = getattr(value, "clause", None)
            if isinstance(clause, ir.Clause) and not isinstance(value, ir.Let):
                yield clause, _conditions(value), _named(value, clause, program)
            stack.extend(getattr(value, name) for name in reversed(value._fields))


def _named(node: Frozen, clause: ir.Clause, program: ir.Program) -> tuple[str, int] | None:
    """How a decision names a clause: what explanations say, and the line."""
    match node:
        case ir.AdmitRule(verdict=verdict) if verdict is not ir.Verdict.DEGRADE:
            return f"admit, {verdict.value}", clause.line
        case ir.Preempt():
            return preempt_title(program.preempts.index(node)), clause.line
        case ir.Allocate(kind=kind) if kind.value in _SOLVERS:
            return kind.value, clause.line
        case ir.React(event=event):
            return f"react {event}, line {clause.line}", 0
        case ir.ClassRule(name=name) | ir.Pool(name=name) | ir.State(name=name):
            return f"{_WORDS[type(node)]} {name}", 0
        case ir.Order() | ir.Aging():
            return _WORDS[type(node)], 0
        case _:
            word = _WORDS.get(type(node))
            return None if word is None else (word, clause.line)


_WORDS: dict[type, str] = {
    ir.ClassRule: "class",
    ir.Pool: "pool",
    ir.State: "state",
    ir.Order: "order",
    ir.Aging: "aging",
    ir.Triage: "triage",
    ir.FixedDegree: "sp fixed",
    ir.Grow: "grow",
    ir.Hold: "hold",
    ir.Batch: "batch",
}


def _conditions(node: Frozen) -> _Conditions:
    """Its truth-valued expressions, by field name."""
    values = [(name, getattr(node, name)) for name in node._fields]
    return [(name, value) for name, value in values if isinstance(value, _EXPRESSIONS) and value.type.kind is Kind.BOOL]


def _text(program: ir.Program, span: Span) -> str:
    """The clause on one line, without comments."""
    lines = (line if '"' in line else line.partition("#")[0] for line in program.source.slice(span).splitlines())
    return " ".join(" ".join(lines).split())
