"""`gfdit prove`: properties of single plans, and of the closed loop, in which the production scheduler and a simulated
fleet carry the plans out.

The loop runs under the watchdog of a live system, with a fallback that it must not need: a policy that raises, or that
lets somebody wait beside free GPUs, is refuted by being ejected.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from gfdit.core import invariants
from gfdit.core.commands import EndRequest, RunTask
from gfdit.core.estimate import Estimator
from gfdit.core.events import Event, RequestArrived
from gfdit.core.lifecycle import State
from gfdit.core.proposal import Policy
from gfdit.core.scheduler import Decision, MoveKind, Scheduler
from gfdit.core.view import STATE_CODE, View
from gfdit.core.watchdog import EjectCause
from gfdit.core.work import STAGES, Request, Stage
from gfdit.lang.program import Program
from gfdit.policy.builtin import BUILTIN_NAME
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.proving.cases import (
    MOST_GPUS,
    MOST_REQUESTS,
    NAMES,
    Ask,
    Case,
    Maker,
    Plans,
    Shape,
    admit_all,
    shapes_of,
    tags_of,
    written,
)
from gfdit.policy.proving.findings import Counterexample, Finding, Status
from gfdit.policy.proving.properties import PROPERTIES, SECOND_TICK, Property
from gfdit.policy.proving.reproduce import reproduced
from gfdit.policy.proving.search import Budget, Tried, try_random, try_small
from gfdit.policy.store import load_policy
from gfdit.policy.world import DEFAULT_MODEL, World, default_cost
from gfdit.runtime.driver import drive
from gfdit.sim.fleet import SimFleet, VirtualClock
from gfdit.sim.run import build_scheduler
from gfdit.units import human_s, to_ns, to_s

NO_CYCLE, STARVATION = "no-cycle", "starvation"
MOST_TICKS = 4_000  # of one loop: more than any small workload needs
ROUNDS = 3  # how often the same groups come back without news before it is a cycle
_RESIZES = (MoveKind.GROW, MoveKind.SHRINK)
STREAM_LOAD = 1.1  # of the stream that an ageing request has to get past: a little more than there are GPUs for
LATER_S = 30.0  # when that request comes: by then all GPUs are taken and some wait
SPACING_S, STEPS = 0.4, 10  # between the arrivals of a small workload, and of each of its requests


class _Found(Exception):
    """Ends a loop with what was found."""

    def __init__(self, counterexample: Counterexample) -> None:
        self.counterexample = counterexample


class _Enough(Exception):
    """Ends a loop that has shown what there was to see."""


# ---- the loop ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Watch:
    """An observer that looks for a cycle without progress. `groups`: how often each set of groups was there since the
    latest news; news are arrivals, ends, and requests that enter another stage."""

    scheduler: Scheduler
    ticks: int = 0
    groups: Counter[tuple[object, ...]] = field(default_factory=Counter)
    pauses: Counter[str] = field(default_factory=Counter)
    moments: list[tuple[View, str]] = field(default_factory=list)  # who lost its group, and what the policy saw then
    now_running: tuple[object, ...] = ()
    stages: dict[str, Stage] = field(default_factory=dict)
    begun: set[tuple[object, ...]] = field(default_factory=set)

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        self.ticks += 1
        if self.ticks > MOST_TICKS:
            raise _Enough
        self._ejected(decision)
        self._books(decision)
        self._repeated(decision)
        self._cycle(events, decision)

    def _ejected(self, decision: Decision) -> None:
        """What the watchdog says ends the loop: a guard that works is no counterexample, everything else is."""
        ejection = decision.ejection
        if ejection is None:
            return
        if ejection.cause is EjectCause.GUARD or ejection.view is None:
            raise _Enough
        waiting = [ejection.view.ids[row] for row in np.flatnonzero(ejection.view.plannable)]
        name = waiting[0] if waiting else ejection.view.ids[0]
        raise _Found(
            Counterexample(
                f"no step is done any more: {ejection.text}",
                case_of(ejection.view),
                (f"{name}.sp >= 1 gpu",),
                f"{name} is not left waiting beside free GPUs",
            )
        )

    def _books(self, decision: Decision) -> None:
        invariants.check(self.scheduler)
        view = self.scheduler.asked.view
        if not decision.refusals or view is None:
            return
        refusal = decision.refusals[0]
        text = f"the scheduler refuses a place: `{refusal.request_id}` {refusal.why}"
        expected = (f"{refusal.request_id}.sp == 0 gpu",)
        raise _Found(Counterexample(text, case_of(view), expected, f"{refusal.request_id} {refusal.why}"))

    def _repeated(self, decision: Decision) -> None:
        """The same step of the same request is begun again; no task fails here."""
        for command in decision.commands:
            if isinstance(command, RunTask):
                step = command.request_id, command.stage, command.first_step
                view = self.scheduler.asked.view
                if step in self.begun and view is not None:
                    name = command.request_id
                    text = f"`{name}` begins step {command.first_step} again, which it has done"
                    raise _Found(Counterexample(text, case_of(view), (f"{name}.sp == 0 gpu",), text))
                self.begun.add(step)

    def _cycle(self, events: Sequence[Event], decision: Decision) -> None:
        stages = {t.request.id: t.stage for t in self.scheduler.trajectories.values()}
        if _news(events, decision) or stages != self.stages:
            self.groups.clear()
            self.pauses.clear()
            self.moments.clear()
            self.stages = stages
        flights = self.scheduler.flights.values()
        groups = tuple(sorted((f.command.request_id, len(f.command.ranks)) for f in flights))
        lost = [move.request_id for move in decision.moves if move.kind in (MoveKind.PAUSE, *_RESIZES)]
        self.pauses.update(move.request_id for move in decision.moves if move.kind is MoveKind.PAUSE)
        if lost and self.scheduler.asked.view is not None:
            self.moments.append((self.scheduler.asked.view, lost[0]))
        if groups == self.now_running:
            return
        self.now_running = groups
        self.groups[groups] += 1
        if self.groups[groups] >= ROUNDS and groups and self.moments:
            raise _Found(_thrashing(self.moments, dict(self.pauses), self.scheduler.policy))


class SecondTicks(Watch):
    """Ticks again at the same instant: nothing more is to come of it."""

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        self.ticks += 1
        if self.ticks > MOST_TICKS or decision.ejection is not None:
            raise _Enough
        view = self.scheduler.asked.view
        again = [command for command in self.scheduler.tick(now).commands if isinstance(command, RunTask)]
        if again and view is not None:
            names = ", ".join(f"`{command.request_id}`" for command in again)
            text = f"with no news after a tick, a second one at the same instant runs {names} as well"
            expected = tuple(f"{command.request_id}.sp == 0 gpu" for command in again)
            title = "a second tick without news changes nothing"
            raise _Found(Counterexample(text, case_of(self.scheduler.asked.view or view), expected, title))


def _news(events: Sequence[Event], decision: Decision) -> bool:
    ended = any(isinstance(command, EndRequest) for command in decision.commands)
    return ended or any(isinstance(event, RequestArrived) for event in events)


def _thrashing(moments: list[tuple[View, str]], pauses: dict[str, int], policy: Policy) -> Counterexample:
    """Groups that come and go. The moment to show is one in which somebody lost its group against the policy's own
    order, if there is one: the others follow from it."""
    clauses = written(policy)
    against = [] if clauses is None else [(view, name) for view, name in moments if _leads(clauses, view, name)]
    later = [*against[::-1], *moments[::-1]]
    paused = ", ".join(f"`{who}` {count} times" for who, count in sorted(pauses.items()))
    what = f"pausing {paused}" if paused else "at other degrees each time"
    text = f"the same groups are there {ROUNDS} times, {what}, and nothing arrives, ends or changes its stage meanwhile"

    def told(view: View, name: str) -> Counterexample:
        had = max(1, int(view.sp[view.ids.index(name)]))
        title = f"{name} keeps its group until something happens"
        kept = ">=" if pauses else "=="
        return Counterexample(text, case_of(view), (f"{name}.sp {kept} {had} gpu",), title)

    first, *rest = (told(view, name) for view, name in later)
    return replace(first, others=tuple(rest))


def _leads(policy: CompiledPolicy, view: View, name: str) -> bool:
    order = policy.order(view)
    return bool(order) and view.ids[order[0]] == name


def case_of(view: View) -> Case:
    """What a policy was shown, as a case. What it carried there from earlier ticks is not in it."""
    asks = []
    for row in range(view.size):
        slo_s = float(view.slo_s[row])
        tag = view.names["tag"][view.tag[row]]
        shape = Shape(int(view.tokens[row]), tag, slo_s if math.isfinite(slo_s) else None, int(view.priority[row]))
        state = view.state[row]
        has_group = state in (STATE_CODE[State.READY], STATE_CODE[State.RUNNING])
        asks.append(
            Ask(
                view.ids[row],
                shape,
                view.now_s - float(view.arrival_s[row]),
                STAGES[int(view.stage[row])],
                int(view.steps_total[row]),
                int(view.steps_done[row]),
                int(view.sp[row]) if has_group else 0,
                bool(state == STATE_CODE[State.RUNNING]),
                float(view.waited_s[row]),
            )
        )
    return Case(view.gpus, tuple(asks))


def run_loop(
    make: Maker, requests: Iterable[Request], gpus: int, watch: Callable[[Scheduler], Watch]
) -> Counterexample | None:
    """The production scheduler and driver on a simulated fleet, until all is served or the watch has seen something."""
    policy = make()
    if policy.fallback is None:
        policy.fallback = load_policy(BUILTIN_NAME)  # so that the watchdog is on duty
    policy.limits = replace(policy.limits, errors=1)
    cost = default_cost()
    scheduler = build_scheduler(policy, cost, gpus, always_evaluate=True)
    clock = VirtualClock()
    try:
        drive(scheduler, clock, SimFleet(clock, cost, gpus, requests), (watch(scheduler),))
    except _Found as found:
        return found.counterexample
    except _Enough:
        pass
    return None


def request_of(name: str, shape: Shape, arrival_s: float, steps: int) -> Request:
    """A client's request of that shape, for the built-in cost model."""
    return Request(
        id=name,
        model=DEFAULT_MODEL,
        class_name="",
        arrival_ns=to_ns(arrival_s),
        height=shape.side,
        width=shape.side,
        steps=steps,
        tokens=shape.tokens,
        text_tokens=64,
        priority=shape.priority,
        slo_ns=None if shape.slo_s is None else to_ns(shape.slo_s),
        tag=shape.tag,
    )


# ---- no cycle without progress -------------------------------------------------------------------------------


def small_workloads(program: Program | None) -> Iterator[tuple[int, tuple[Request, ...]]]:
    """(GPUs, requests): every workload of up to 3 requests of 3 shapes on 1 to 4 GPUs, one after the other."""
    for count in range(1, MOST_REQUESTS + 1):
        for kinds in product(shapes_of(program), repeat=count):
            requests = tuple(request_of(NAMES[n], kind, SPACING_S * n, STEPS) for n, kind in enumerate(kinds))
            for gpus in range(1, MOST_GPUS + 1):
                yield gpus, requests


def random_workload(program: Program | None, seed: str) -> tuple[int, tuple[Request, ...]]:
    """Up to 8 requests that arrive within some seconds, on up to 8 GPUs."""
    rng = np.random.Generator(np.random.PCG64([int.from_bytes(seed.encode(), "big") % (1 << 63)]))
    tags = tags_of(program)
    requests = []
    for n in range(int(rng.integers(2, len(NAMES) + 1))):
        slo_s = (None, 30.0, 8.0, 3.0)[rng.integers(4)]
        size = (256, 1024, 4096, 16384)[rng.integers(4)]
        shape = Shape(size, tags[rng.integers(len(tags))], slo_s, int(rng.integers(3)))
        requests.append(request_of(NAMES[n], shape, float(rng.choice((0.0, 0.3, 1.0, 4.0))), int(rng.integers(1, 13))))
    return int(rng.integers(1, 9)), tuple(requests)


def try_loops(
    program: Program | None, make: Maker, budget: Budget, watch: Callable[[Scheduler], Watch] = Watch
) -> Tried:
    """Every small workload."""
    tried = Tried()
    for gpus, requests in small_workloads(program):
        if budget.over:
            return tried
        tried.small += 1
        tried.counterexample = run_loop(make, requests, gpus, watch)
        if tried.counterexample is not None:
            return tried
    tried.complete = True
    return tried


def try_random_loops(
    program: Program | None, make: Maker, tried: Tried, budget: Budget, seed: int, share_s: float
) -> None:
    """Random workloads for `share_s` seconds; the requests that a counterexample does not need are left out."""
    until = budget.spent + share_s
    while not budget.over and budget.spent < until and tried.counterexample is None:
        gpus, requests = random_workload(program, f"{seed} {tried.searched}")
        tried.searched += 1
        found = run_loop(make, requests, gpus, Watch)
        while found is not None:
            tried.counterexample = found
            fewer = ((gpus, requests[:n] + requests[n + 1 :]) for n in range(len(requests)))
            smaller = ((rest, run_loop(make, rest, gpus, Watch)) for gpus, rest in fewer)
            requests, found = next(((rest, again) for rest, again in smaller if again is not None), (requests, None))


# ---- starvation ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class AgeingWatch(Watch):
    """Whether request `victim` starts in time. `raised_s`: how long its class takes to reach the last tier."""

    victim: str = ""
    arrival_s: float = 0.0
    raised_s: float = 0.0
    bound_s: float | None = None

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        self.ticks += 1
        if self.ticks > 4 * MOST_TICKS:
            raise _Enough
        if any(isinstance(command, RunTask) and command.request_id == self.victim for command in decision.commands):
            raise _Enough
        if decision.ejection is not None or any(
            isinstance(command, EndRequest) and command.request_id == self.victim for command in decision.commands
        ):
            raise _Enough  # a guard took over, or it was turned away: it does not wait for ever
        view = self.scheduler.asked.view
        if view is None or self.victim not in view.ids:
            return
        waited_s = to_s(now) - self.arrival_s
        if self.bound_s is None and waited_s >= self.raised_s:
            self.bound_s = waited_s + self._ahead(view)
        if self.bound_s is not None and waited_s > self.bound_s and self._somebody_else(decision):
            raise _Found(self._starved(view, waited_s))

    def _ahead(self, view: View) -> float:
        """How long all that are there now need on one GPU, one after the other."""
        others = [row for row, name in enumerate(view.ids) if name != self.victim]
        return float(view.remaining_s[others, 0].sum()) if others else 0.0

    def _somebody_else(self, decision: Decision) -> bool:
        return any(isinstance(command, RunTask) for command in decision.commands)

    def _starved(self, view: View, waited_s: float) -> Counterexample:
        bound = human_s(self.bound_s or 0.0)
        text = (
            f"`{self.victim}` has waited for {human_s(waited_s)}: it was on its last tier after "
            f"{human_s(self.raised_s)}, and all that were there then could have been served by {bound}"
        )
        case = case_of(view)
        title = f"{self.victim} has waited longer than `aging` allows and runs"
        return Counterexample(text, case, (f"{self.victim}.sp >= 1 gpu",), title)


def ages(policy: Policy) -> str | None:
    """Why no bound on waiting is promised, or None."""
    clauses = written(policy)
    if clauses is None:
        return "it plans in Python, so no bound is promised"
    program = clauses.program
    if program.aging is None:
        return "it has no `aging`, so no bound is promised"
    if not any(rule.rank > program.aging.until for rule in program.classes):
        return "no class has a rank that `aging` could raise"
    return None


def try_ageing(program: Program, make: Maker, budget: Budget) -> Tried:
    """A request of every lower class, of every size, against a stream of the first class that never ends."""
    tried, aging = Tried(), program.aging
    assert aging is not None
    ranks = _ranks_by_tag(program, make)
    first = min(ranks, key=lambda tag: (ranks[tag], tag), default="")  # none: all of them are turned away
    for tag, rank in ranks.items():
        raised_s = aging.every * math.ceil(max(0.0, rank - aging.until) / aging.raise_by)
        if not raised_s:
            continue
        for tokens, gpus in product((256, 4096, 16384), (1, 2)):
            if budget.over:
                return tried
            tried.small += 1
            victim = request_of("victim", Shape(tokens, tag), LATER_S, 2)
            requests = [victim, *_stream(Shape(4096, first), gpus, LATER_S + 3 * raised_s + 60.0)]

            def watch(scheduler: Scheduler, raised_s: float = raised_s) -> AgeingWatch:
                return AgeingWatch(scheduler, victim="victim", arrival_s=LATER_S, raised_s=raised_s)

            tried.counterexample = run_loop(make, requests, gpus, watch)
            if tried.counterexample is not None:
                return tried
    tried.complete = True
    return tried


def _ranks_by_tag(program: Program, make: Maker) -> dict[str, int]:
    """The rank of the class that a request with each of the policy's tags is put into."""
    ranks = {rule.name: rule.rank for rule in program.classes}
    found: dict[str, int] = {}
    for tag in tags_of(program):
        world = World(1, [Ask("a", Shape(4096, tag)).actor(0.0)])
        admit_all(make(), world)
        for actor in world.actors:
            found[tag] = ranks.get(actor.class_name, len(ranks))
    return found


def _stream(shape: Shape, gpus: int, seconds: float) -> list[Request]:
    """Requests of one shape, a little faster than `gpus` GPUs serve them."""
    alone = request_of("s", shape, 0.0, 4)
    every_s = Estimator(default_cost(), 1).expand(alone).alone_s / gpus / STREAM_LOAD
    return [request_of(f"s{n}", shape, n * every_s, 4) for n in range(math.ceil(seconds / every_s))]


# ---- all of it -----------------------------------------------------------------------------------------------

TITLES = {one.name: one.title for one in PROPERTIES} | {
    NO_CYCLE: "the closed loop never goes round without progress",
    STARVATION: "every request starts within the bound that `aging` implies",
}


def prove(
    make: Maker,
    wanted: Sequence[str] = tuple(TITLES),
    *,
    seconds: float = 20.0,
    seed: int = 0,
    tell: Callable[[float], None] = lambda share: None,
) -> list[Finding]:
    """Each wanted property: small worlds one by one, then random ones until `seconds` have passed.

    `make` gives a fresh policy. `tell` hears the share of the time that is spent. Equal seeds try equal worlds.
    """
    policy = make()
    program = policy.program if isinstance(policy, CompiledPolicy) else None
    budget = Budget(seconds, tell)
    excuses = {one.name: one.excuse(program) if program is not None else None for one in PROPERTIES}
    excuses |= {NO_CYCLE: None, STARVATION: ages(policy)}
    due = [name for name in wanted if excuses[name] is None]
    plans = tuple(one for one in PROPERTIES if one.name in due)
    tried = try_small(program, Plans(make), plans, budget.part(0.5)) if plans else {}
    if NO_CYCLE in due:
        tried[NO_CYCLE] = try_loops(program, make, budget.part(0.5))
    if SECOND_TICK in wanted and excuses[SECOND_TICK] is not None:
        tried[SECOND_TICK] = try_loops(program, make, budget.part(0.5), SecondTicks)
    if STARVATION in due and program is not None:
        tried[STARVATION] = try_ageing(program, make, budget.part(0.7))
    _search(program, make, plans, tried, budget, seed)
    return [_finding(name, excuses[name], tried.get(name), policy) for name in wanted]


def _search(
    program: Program | None,
    make: Maker,
    plans: tuple[Property, ...],
    tried: dict[str, Tried],
    budget: Budget,
    seed: int,
) -> None:
    """Spend what is left of the budget on random worlds, in equal shares."""
    standing = [one for one in plans if tried[one.name].counterexample is None]
    loops = NO_CYCLE in tried and tried[NO_CYCLE].counterexample is None
    shares = len(standing) + loops
    for one in standing:
        share_s = max(0.0, budget.seconds - budget.spent) / shares
        try_random(program, Plans(make), one, tried[one.name], budget, seed, share_s)
        shares -= 1
    if loops:
        try_random_loops(program, make, tried[NO_CYCLE], budget, seed, max(0.0, budget.seconds - budget.spent))


def _finding(name: str, excuse: str | None, tried: Tried | None, policy: Policy) -> Finding:
    if tried is None:
        return Finding(name, TITLES[name], Status.NOT_APPLICABLE, reason=excuse or "")
    if tried.counterexample is not None:
        found, again = reproduced(tried.counterexample, policy)
        return Finding(name, TITLES[name], Status.REFUTED, tried.small, tried.searched, "", found, again)
    status = Status.PROVED if tried.complete else Status.SEARCHED
    return Finding(name, TITLES[name], status, tried.small, tried.searched)
