"""Runs the `test` blocks of a policy: build the world they describe, admit, plan, and look at what came out.

Between two `at` nothing is planned again: whoever was placed goes on with what it got for as many whole steps as fit,
and the others wait. The world's cost model is the built-in one unless the caller gives another.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np

from gfdit.core.cost import CostModel
from gfdit.core.lifecycle import State
from gfdit.core.proposal import Because, Fate, Proposal, WaitReason
from gfdit.core.view import View
from gfdit.core.work import Stage
from gfdit.errors import PolicyError
from gfdit.lang import nodes
from gfdit.lang.program import Program
from gfdit.lang.units import base_value
from gfdit.policy.coverage import Coverage
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.world import Actor, World, default_cost

Value = float | bool | str
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: float(np.divide(a, b)),
}
_COMPARE: dict[str, Callable[[Value, Value], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Decided:
    """What a request got, and the clause that says so: a Because, or the reason to wait; None when it was not asked."""

    request: str
    degree: int
    because: Because | WaitReason | None


@dataclass(frozen=True, slots=True)
class Failure:
    """An `expect` that does not hold: its line, its text, the values it read, and what decided the requests in it."""

    line: int
    text: str
    values: tuple[tuple[str, str], ...]
    decided: tuple[Decided, ...] = ()

    def __str__(self) -> str:
        found = ", ".join(f"{name} = {value}" for name, value in self.values)
        return f"line {self.line}: expected {self.text}; found {found}"


@dataclass(frozen=True, slots=True)
class TestResult:
    """One `test` block: `failures` is empty when all its `expectations` hold."""

    __test__ = False  # not a test class

    title: str
    line: int
    failures: tuple[Failure, ...]
    expectations: int = 0

    @property
    def passed(self) -> bool:
        return not self.failures


def run_tests(
    policy: CompiledPolicy, cost: CostModel | None = None, coverage: Coverage | None = None
) -> tuple[TestResult, ...]:
    """Run every `test` of the policy, each afresh; `coverage` notes what they try. Raises PolicyError for a world that
    cannot be built."""
    results = []
    for test in policy.program.tests:
        watch = None if coverage is None else coverage.watch
        run = _Run(policy.afresh(watch), cost or default_cost(), coverage)
        for item in test.body.items:
            run.step(item)
        expectations = sum(isinstance(item, nodes.Expect) for item in test.body.items)
        results.append(TestResult(test.title, test.clause.line, tuple(run.failures), expectations))
    return tuple(results)


@dataclass(slots=True)
class _Outcome:
    """What the last plan says of every request."""

    view: View
    proposal: Proposal
    degrees: dict[str, int]


class _Run:
    """One test block, item by item."""

    def __init__(self, policy: CompiledPolicy, cost: CostModel, coverage: Coverage | None) -> None:
        self.policy = policy
        self._coverage = coverage
        self.program: Program = policy.program
        self.world = World(gpus=8, cost=cost)
        self.failures: list[Failure] = []
        self.rejected: dict[str, Because | None] = {}
        self._fresh: set[str] = set()
        self._outcome: _Outcome | None = None

    def step(self, item: nodes.TestItem) -> None:
        match item:
            case nodes.Cluster():
                self.world.gpus = int(_number(self._constant(item.gpus), item.gpus))
                self._outcome = None
            case nodes.Request():
                self._request(item)
            case nodes.At():
                self._advance(_number(self._constant(item.time), item.time))
            case nodes.Expect():
                self._expect(item)
            case _:
                assert_never(item)

    # ---- building the world -----------------------------------------------------------------------------------------

    def _request(self, item: nodes.Request) -> None:
        actor = Actor(item.name.text, arrival_s=self.world.now_s, model=next(iter(self.world.cost.models)))
        builder = _Builder(actor, self.world.now_s)
        for entry in item.fields:
            builder.set(entry.name.text, self._constant(entry.value), self._line(entry.span.start))
        builder.finish()
        self.world.actors.append(actor)
        self._fresh.add(actor.id)
        self._outcome = None

    def _advance(self, until_s: float) -> None:
        """Carry out the last plan until `until_s`, without planning again."""
        if until_s < self.world.now_s:
            raise PolicyError(f"`at {until_s:g}s` goes back: it is {self.world.now_s:g} s already")
        outcome, passed = self._plan(), until_s - self.world.now_s
        for actor in self.world.actors:
            degree = outcome.degrees.get(actor.id, 0)
            if actor.present_state is State.RUNNING:
                degree = actor.sp
            if degree == 0:
                waited = actor.waited_s if actor.waited_s is not None else self.world.now_s - actor.arrival_s
                actor.waited_s, actor.sp = waited + passed, 0
                continue
            actor.waited_s = actor.waited_s if actor.waited_s is not None else self.world.now_s - actor.arrival_s
            if actor.sp != degree or actor.group_since_s is None:
                actor.group_since_s = self.world.now_s
            actor.sp = degree
            if actor.stage is Stage.DENOISE and degree in outcome.view.degrees:
                row, column = outcome.view.ids.index(actor.id), outcome.view.degrees.index(degree)
                whole = float(np.floor(passed / outcome.view.step_s[row, column]))
                actor.steps_done = min(actor.steps_done + whole, actor.steps_total - 1)
        self.world.now_s = until_s
        self._outcome = None

    # ---- planning ---------------------------------------------------------------------------------------------------

    def _plan(self) -> _Outcome:
        if self._outcome is None:
            self._admit()
            view = self.world.view()
            proposal = self.policy.plan(view)
            degrees = {view.ids[place.row]: place.degree for place in proposal.places}
            self._outcome = _Outcome(view, proposal, degrees)
            if self._coverage is not None:
                self._coverage.planned(view, proposal, self.policy.moved_states())
        return self._outcome

    def _admit(self) -> None:
        """Judge the requests that this test has just declared; those given a class have been judged."""
        fresh = [actor for actor in self.world.actors if actor.id in self._fresh and not actor.class_name]
        if fresh:
            states = [actor.state for actor in fresh]
            for actor in fresh:
                actor.state = State.ARRIVED
            view = self.world.view()
            verdicts = self.policy.admit(view, np.flatnonzero(view.new))
            if self._coverage is not None:
                self._coverage.judged(verdicts)
            by_id = {view.ids[verdict.row]: verdict for verdict in verdicts}
            for actor, state in zip(fresh, states, strict=True):
                verdict = by_id[actor.id]
                actor.state, actor.class_name = state, verdict.class_name
                actor.preemptible = actor.preemptible if verdict.preemptible is None else verdict.preemptible
                if verdict.slo_s is not None and actor.deadline_s is None:
                    actor.deadline_s = actor.arrival_s + verdict.slo_s
                if verdict.steps is not None:
                    actor.steps_total = float(verdict.steps)
                actor.cache = verdict.cache or 0.0
                if verdict.fate is not Fate.ADMIT:
                    self.rejected[actor.id] = verdict.because
            self.world.actors = [actor for actor in self.world.actors if actor.id not in self.rejected]
        self._fresh.clear()

    # ---- expressions ------------------------------------------------------------------------------------------------

    def _expect(self, item: nodes.Expect) -> None:
        self._plan()
        reader = _Reader(self)
        if not reader.value(item.condition):
            text = self.program.source.slice(item.condition.span) or "the condition to hold"
            asked = dict.fromkeys(name.partition(".")[0] for name, _ in reader.read)
            decided = tuple(self._decided(request_id) for request_id in asked)
            line = self._line(item.span.start)
            self.failures.append(Failure(line, " ".join(text.split()), tuple(reader.read), decided))

    def _decided(self, request_id: str) -> Decided:
        if request_id in self.rejected:
            return Decided(request_id, 0, self.rejected[request_id])
        outcome = self._plan()
        row = outcome.view.ids.index(request_id)
        for place in outcome.proposal.places:
            if place.row == row:
                return Decided(request_id, place.degree, place.because)
        return Decided(request_id, int(outcome.view.sp[row]), outcome.proposal.waits.get(row))

    def _constant(self, node: nodes.Expr) -> Value:
        return _Reader(self).value(node)

    def _line(self, offset: int) -> int:
        return self.program.source.position(offset)[0] if offset >= 0 else 0

    def field(self, request_id: str, name: str) -> Value:
        """An attribute of a request as the plan leaves it: `sp` is what it got."""
        outcome = self._plan()
        if request_id in self.rejected:
            if name == "sp":
                return 0.0
            raise PolicyError(f"`{request_id}.{name}`: request `{request_id}` was not admitted")
        row = outcome.view.ids.index(request_id)
        running = bool(outcome.view.running[row])
        degree = int(outcome.view.sp[row]) if running else outcome.degrees.get(request_id, 0)
        match name:
            case "sp":
                return float(degree)
            case "waiting":
                return degree == 0
            case "running":
                return degree > 0
            case "why":
                return str(outcome.proposal.waits.get(row, "")) if degree == 0 else ""
            case "cache":
                return self.world.actor(request_id).cache
            case "batch_leader" | "batch_size":
                rows = next((batch.rows for batch in outcome.proposal.batches if row in batch.rows), (row,))
                return outcome.view.ids[rows[0]] if name == "batch_leader" else float(len(rows))
            case _:
                return self.policy.attribute(outcome.view, row, name)

    def name(self, name: str) -> Value:
        """A name outside of any request: the clock, the cluster after the plan, a param, or an enumeration member."""
        for param in self.program.params:
            if param.name == name:
                return param.value
        match name:
            case "now":
                return self.world.now_s
            case "gpus":
                return float(self.world.gpus)
            case "free":
                outcome = self._plan()
                return float(outcome.view.free - sum(outcome.degrees.values()))
            case "load":
                return self._plan().view.load
            case "alerts":
                proposal = self._plan().proposal
                return float(len(proposal.alarms) + sum(note.startswith("react ") for note in proposal.notes))
            case _ if self._carries(name):
                return self._carried(name)
            case _:
                return name

    def _carries(self, name: str) -> bool:
        modes, states = self.program.modes, self.program.states
        return any(mode.name == name for mode in modes) or any(state.name == name for state in states)

    def _carried(self, name: str) -> Value:
        """A mode or state as the last plan left it."""
        self._plan()
        found = self.policy.carried(name)
        if found is None:
            raise PolicyError(f"state `{name}` has a value for each class: a test cannot read it by its name alone")
        return found


@dataclass(slots=True)
class _Reader:
    """Evaluates the syntax of a test; instants are seconds of the world's clock. Remembers the fields it read."""

    run: _Run
    read: list[tuple[str, str]] = field(default_factory=list)

    def value(self, node: nodes.Expr) -> Value:
        match node:
            case nodes.Number():
                return base_value(node)
            case nodes.Text() | nodes.Truth():
                return node.value
            case nodes.Name():
                return self.run.name(node.name)
            case nodes.Field():
                found = self.run.field(node.base.text, node.name.text)
                shown = f"{found:g}" if isinstance(found, float) else str(found)
                self.read.append((f"{node.base.text}.{node.name.text}", shown))
                return found
            case nodes.Unary(op="not"):
                return not self.value(node.operand)
            case nodes.Unary():
                return -self._number(node.operand)
            case nodes.Binary():
                return _ARITHMETIC[node.op](self._number(node.left), self._number(node.right))
            case nodes.Compare():
                return _COMPARE[node.op](self.value(node.left), self.value(node.right))
            case nodes.Member():
                return (self.value(node.value) in [self.value(item) for item in node.items]) != node.negated
            case nodes.BoolOp():
                truths = [bool(self.value(operand)) for operand in node.operands]
                return all(truths) if node.op == "and" else any(truths)
            case nodes.If():
                return self.value(node.then) if self.value(node.condition) else self.value(node.other)
            case nodes.Call():
                return self._call(node)
            case _:
                assert_never(node)

    def _number(self, node: nodes.Expr) -> float:
        return _number(self.value(node), node)

    def _call(self, node: nodes.Call) -> Value:
        args = [self._number(arg) for arg in node.args]
        match node.function.text:
            case "max" if args:
                return max(args)
            case "min" if args:
                return min(args)
            case "abs":
                return abs(args[0])
            case "clamp":
                return min(max(args[0], args[1]), args[2])
            case other:
                raise PolicyError(
                    f"`{other}` cannot be used in a test", hint="compare fields of requests, such as `a.sp`"
                )


def _number(value: Value, node: nodes.Expr) -> float:
    if isinstance(value, str):
        raise PolicyError(
            f"`{value}` is not a number", hint=f"a test reads numbers, `now` and params, not `{type(node).__name__}`"
        )
    return float(value)


_PLAIN_FIELDS = {
    "model": "model",
    "tag": "tag",
    "tenant": "tenant",
    "class": "class_name",
    "priority": "priority",
    "tokens": "tokens",
    "text_tokens": "text_tokens",
    "pixels": "pixels",
    "width": "width",
    "height": "height",
    "frames": "frames",
    "alone": "alone_s",
    "waited": "waited_s",
    "paused_for": "paused_for_s",
    "preemptions": "preemptions",
    "steps_done": "steps_done",
    "last_gpus": "last_sp",
}


class _Builder:
    """Attributes of the language to those of an actor."""

    def __init__(self, actor: Actor, now_s: float) -> None:
        self._actor = actor
        self._now_s = now_s
        self._slo: float | None = None
        self._left: float | None = None
        self._total: float | None = None
        self._running: bool | None = None

    def set(self, name: str, value: Value, line: int) -> None:
        actor = self._actor
        match name, value:
            case "stage", str():
                actor.stage = Stage(value)
            case "arrival", float():
                actor.arrival_s = value
            case "age", float():
                actor.arrival_s = self._now_s - value
            case "deadline", float():
                actor.deadline_s = value
            case "slo", float():
                self._slo = value
            case "steps_left", float():
                self._left = value
            case "steps_total", float():
                self._total = value
            case "sp", float():
                actor.sp = int(value)
            case "running", bool():
                self._running = value
            case _ if name in _PLAIN_FIELDS:
                setattr(actor, _PLAIN_FIELDS[name], value)
            case _:
                raise PolicyError(
                    f"line {line}: a test cannot set `{name}` of a request: it follows from other attributes",
                    hint=f"it can set {', '.join(sorted([*_PLAIN_FIELDS, *_OTHER_FIELDS]))}",
                )

    def finish(self) -> None:
        """What follows from several attributes together."""
        actor = self._actor
        if self._slo is not None:
            actor.deadline_s = actor.arrival_s + self._slo
        if self._total is not None:
            actor.steps_total = self._total
        elif self._left is not None:
            actor.steps_total = actor.steps_done + self._left
        if self._left is not None:
            actor.steps_done = actor.steps_total - self._left
        if self._running:
            actor.state = State.RUNNING
            actor.sp = actor.sp or 1


_OTHER_FIELDS = ("stage", "arrival", "age", "deadline", "slo", "steps_left", "steps_total", "sp", "running")
