"""Small worlds as plain values: they can be enumerated, drawn at random, made smaller, and written as a `test` block.

A case becomes a plan exactly as a `test` block does: requests are admitted together, then planned once. So what is
refuted in a case is refuted by the test that is printed of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np

from gfdit.core.estimate import Estimator, RequestCost
from gfdit.core.lifecycle import State
from gfdit.core.proposal import Fate, Policy, Proposal
from gfdit.core.view import View
from gfdit.core.work import Request, Stage
from gfdit.lang.nodes import walk
from gfdit.lang.program import Compare, Const, Member, Name, Program
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.world import Actor, World, default_cost

NOW_S = 1000.0  # old enough for every age
MOST_GPUS = 4
MOST_REQUESTS = 3
MOST_KEPT = 16  # plans

Maker = Callable[[], Policy]
"""A fresh instance of the policy on trial, which carries nothing from one world to the next."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A size, with what a client of that size asks for."""

    tokens: int
    tag: str = ""
    slo_s: float | None = None
    priority: int = 0

    @property
    def side(self) -> int:
        """Pixels of a square picture of so many tokens."""
        return round(16 * math.sqrt(self.tokens))


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a case. `sp`: GPUs of its group; `running`: it is in the middle of a step. `waited_s` None: since
    it arrived if it has no GPUs, else 0."""

    name: str
    shape: Shape
    age_s: float = 0.0
    stage: Stage = Stage.DENOISE
    steps_total: int = 4
    steps_done: int = 0
    sp: int = 0
    running: bool = False
    waited_s: float | None = None

    def actor(self, now_s: float) -> Actor:
        shape = self.shape
        return Actor(
            self.name,
            tag=shape.tag,
            priority=float(shape.priority),
            arrival_s=now_s - self.age_s,
            deadline_s=None if shape.slo_s is None else now_s - self.age_s + shape.slo_s,
            tokens=float(shape.tokens),
            width=float(shape.side),
            height=float(shape.side),
            steps_total=float(self.steps_total),
            steps_done=float(self.steps_done),
            stage=self.stage,
            state=State.RUNNING if self.running else None,
            sp=self.sp,
            waited_s=self.waited_s,
        )

    def line(self) -> str:
        """The request as an item of a test block."""
        shape = self.shape
        fields = [f"age = {_seconds(self.age_s)}"]
        fields += [f'tag = "{shape.tag}"'] if shape.tag else []
        fields += [f"priority = {shape.priority}"] if shape.priority else []
        fields += [f"slo = {_seconds(shape.slo_s)}"] if shape.slo_s is not None else []
        fields += [f'stage = "{self.stage}"', f"tokens = {shape.tokens} tok"]
        fields += [f"width = {shape.side} px", f"height = {shape.side} px"]
        fields += [f"steps_total = {self.steps_total} step"]
        fields += [f"steps_done = {self.steps_done} step"] if self.steps_done else []
        fields += [f"sp = {self.sp} gpu"] if self.sp else []
        fields += ["running = true"] if self.running else []
        fields += [f"waited = {_seconds(self.waited_s)}"] if self.waited_s is not None else []
        return f"request {self.name} {{ {', '.join(fields)} }}"


def _seconds(value: float) -> str:
    text = f"{value:.9f}".rstrip("0").rstrip(".")
    return f"{text}s"


@dataclass(frozen=True, slots=True)
class Planned:
    """A case, what the policy saw of it, and what it proposed. `policy` has seen this one world."""

    case: Case
    policy: Policy
    world: World
    view: View
    proposal: Proposal
    turned_away: frozenset[str]

    @property
    def degrees(self) -> dict[str, int]:
        """GPUs by request, for those placed."""
        return {self.view.ids[place.row]: place.degree for place in self.proposal.places}


@dataclass(frozen=True, slots=True)
class Case:
    """A cluster and the requests in it, oldest first."""

    gpus: int
    asks: tuple[Ask, ...]

    @property
    def possible(self) -> bool:
        """Whether the groups that it begins with fit into the cluster."""
        return sum(ask.sp for ask in self.asks) <= self.gpus

    def with_gpus(self, gpus: int) -> Case:
        return replace(self, gpus=gpus)

    def plan(self, make: Maker, *, backwards: bool = False) -> Planned:
        """Admit and plan with a fresh policy; `backwards`: the requests are listed the other way round."""
        policy = make()
        asks = self.asks[::-1] if backwards else self.asks
        estimator = _estimator(self.gpus)
        world = World(self.gpus, [ask.actor(NOW_S) for ask in asks], NOW_S, estimator.cost, estimator=estimator)
        turned_away = admit_all(policy, world)
        view = world.view()
        return Planned(self, policy, world, view, policy.plan(view), turned_away)

    def test_block(self, title: str, expectations: Iterable[str]) -> str:
        """The case as a `test` block of a policy."""
        lines = [f'test "{title}" {{', f"  cluster {self.gpus} gpu"]
        lines += [f"  {ask.line()}" for ask in self.asks]
        lines += [f"  expect {text}" for text in expectations]
        return "\n".join([*lines, "}"])


class _SharedEstimator(Estimator):
    """Expands equal requests once: cases are many, and what they ask for is not."""

    def __init__(self, gpus: int) -> None:
        super().__init__(default_cost(), gpus)
        self._known: dict[tuple[int, int, int, int], RequestCost] = {}

    def expand(self, request: Request) -> RequestCost:
        key = request.tokens, request.text_tokens, request.pixels, request.steps
        if key not in self._known:
            self._known[key] = super().expand(request)
        return self._known[key]


@cache
def _estimator(gpus: int) -> Estimator:
    return _SharedEstimator(gpus)


def admit_all(policy: Policy, world: World) -> frozenset[str]:
    """Have the policy judge every request of the world, as a `test` block does. Those it does not admit are removed."""
    program = policy.program if isinstance(policy, CompiledPolicy) else None
    if not world.actors or (program is not None and not program.admit and not program.classes):
        return frozenset()
    states = {actor.id: actor.state for actor in world.actors}
    for actor in world.actors:
        actor.state = State.ARRIVED
    view = world.view()
    away = set()
    for verdict in policy.admit(view, np.flatnonzero(view.new)):
        actor = world.actor(view.ids[verdict.row])
        actor.state, actor.class_name = states[actor.id], verdict.class_name
        actor.preemptible = actor.preemptible if verdict.preemptible is None else verdict.preemptible
        if verdict.slo_s is not None and actor.deadline_s is None:
            actor.deadline_s = actor.arrival_s + verdict.slo_s
        if verdict.steps is not None:
            actor.steps_total = float(verdict.steps)
        if verdict.fate is not Fate.ADMIT:
            away.add(actor.id)
    world.actors = [actor for actor in world.actors if actor.id not in away]
    return frozenset(away)


class Plans:
    """Plans of one policy, the latest few kept: properties and neighbouring cases ask for the same ones."""

    def __init__(self, make: Maker) -> None:
        self._make = make
        self._kept: dict[tuple[Case, bool], Planned] = {}

    def of(self, case: Case, *, backwards: bool = False) -> Planned:
        """What a fresh policy makes of the case. Raises whatever the policy raises."""
        key = case, backwards
        if key not in self._kept:
            if len(self._kept) >= MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = case.plan(self._make, backwards=backwards)
        return self._kept[key]


# ---- which worlds ---------------------------------------------------------------------------------------------------


def written(policy: Policy) -> CompiledPolicy | None:
    """The policy if its plans follow from its clauses; None for one that plans in Python."""
    return policy if isinstance(policy, CompiledPolicy) and not policy.native else None


def tags_of(program: Program | None) -> tuple[str, ...]:
    """Tags that the policy's conditions name, in the order of the text, and the empty one; usual ones when nobody can
    look into it."""
    if program is None:
        return "ui", "batch", ""
    tags: list[str] = []
    for node, _ in walk((program.classes, program.admit, program.lets)):
        match node:
            case Compare(left=Name(name="tag"), right=Const(value=str(tag))):
                tags.append(tag)
            case Member(value=Name(name="tag"), items=items) if items:
                tags.append(str(items[0].value))
    return tuple(dict.fromkeys([*tags, ""]))


def shapes_of(program: Program | None) -> tuple[Shape, ...]:
    """Three shapes: small and urgent, medium and patient, large and without a budget; of different classes if the
    policy tells them apart by their tags."""
    tags = tags_of(program)
    budgets = (3.0, 30.0, None)
    sizes = (256, 4096, 16384)
    return tuple(
        Shape(tokens, tags[min(n, len(tags) - 1)], slo_s)
        for n, (tokens, slo_s) in enumerate(zip(sizes, budgets, strict=True))
    )


NAMES = ("a", "b", "c", "d", "e", "f", "g", "h")


def small_cases(program: Program | None) -> Iterator[Case]:
    """Every case of up to 3 requests, 4 GPUs and 3 shapes, each request waiting, between two steps, or in the middle of
    one; few requests first, so that the first counterexample is a smallest one."""
    shapes = shapes_of(program)
    situations = ((0, False), (1, False), (1, True))
    for count in range(1, MOST_REQUESTS + 1):
        for kinds in product(product(shapes, situations), repeat=count):
            asks = tuple(
                Ask(NAMES[n], shape, float(count - n), steps_done=min(sp, 1), sp=sp, running=running)
                for n, (shape, (sp, running)) in enumerate(kinds)
            )
            for gpus in range(1, MOST_GPUS + 1):
                case = Case(gpus, asks)
                if case.possible:
                    yield case
