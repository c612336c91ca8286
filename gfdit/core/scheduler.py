"""The scheduler: `observe(event)` and `tick(now) -> Decision`. No I/O, no clock, no randomness, no callbacks.

A policy proposes over a frozen view; this module checks, picks ranks, commits and keeps the books. Its promises,
checked by
`invariants.check`: a rank works for one task at most; every task belongs to one trajectory; every request ends once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

import numpy as np

from gfdit.core.commands import AbortTask, Command, EndRequest, RunTask
from gfdit.core.estimate import Estimator
from gfdit.core.events import (
    Event,
    PolicyOverran,
    RequestArrived,
    RequestCancelled,
    TaskFailed,
    TaskFinished,
    WorkerJoined,
    WorkerLost,
)
from gfdit.core.lifecycle import TERMINAL, State, Trigger
from gfdit.core.parallel import split_degree
from gfdit.core.placement import choose_ranks
from gfdit.core.proposal import Alarm, Because, Fate, Occasion, Place, Policy, Proposal, Verdict, WaitReason
from gfdit.core.table import Table
from gfdit.core.topology import Topology
from gfdit.core.trajectory import Trajectory
from gfdit.core.view import Reservation, View
from gfdit.core.work import SINGLE_RANK_STAGES, ModelFacts, Outcome, Stage
from gfdit.units import NS_PER_S, to_ns, to_s

STRIKE_WINDOW_NS = 60 * NS_PER_S
RETRY_NS = NS_PER_S // 10  # how soon a policy that failed is asked again


class MoveKind(StrEnum):
    START = "start"
    GROW = "grow"
    SHRINK = "shrink"
    MIGRATE = "migrate"
    PAUSE = "pause"
    RESUME = "resume"


# Fewer things disturbed first: who keeps its group, who gives some up, who gets more, who moves, who begins.
_PLACING_ORDER = {
    kind: n for n, kind in enumerate((None, MoveKind.SHRINK, MoveKind.GROW, MoveKind.RESUME, MoveKind.START))
}


@dataclass(frozen=True, slots=True)
class Move:
    """A group changed. `before` and `after` are ordered ranks; one of them is () for start, resume and pause."""

    kind: MoveKind
    request_id: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    because: Because | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Part of a proposal that the core did not carry out, and why."""

    request_id: str
    why: str


class NewsKind(StrEnum):
    ERROR = "error"
    GUARD = "guard"


@dataclass(frozen=True, slots=True)
class PolicyNews:
    """The policy failed, or one of its guards has just broken."""

    kind: NewsKind
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What one tick settled. `next_tick_at`: tick again by then (ns), `None` when events alone decide."""

    commands: tuple[Command, ...]
    next_tick_at: int | None
    moves: tuple[Move, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    policy_news: tuple[PolicyNews, ...] = ()


@dataclass(frozen=True, slots=True)
class Flight:
    """A task that was sent and has not ended."""

    command: RunTask
    trajectory: Trajectory


class Scheduler:
    """See the module. `max_attempts`: failures after which a request is given up as the likely cause."""

    def __init__(
        self,
        policy: Policy,
        topology: Topology,
        estimator: Estimator,
        models: Mapping[str, ModelFacts] | None = None,
        *,
        max_attempts: int = 4,
    ) -> None:
        self.policy = policy
        self.topology = topology
        self.estimator = estimator
        self.max_attempts = max_attempts
        self.trajectories: dict[str, Trajectory] = {}  # live ones only
        self.alive: dict[int, int] = {}  # rank -> incarnation
        self.owner: dict[int, int] = {}  # rank -> epoch of the task that holds it
        self.flights: dict[int, Flight] = {}
        self.stale_events = 0
        self.policy_errors = 0
        self._models = dict(models or {})
        self._table = Table(estimator)
        self._fresh: list[Trajectory] = []
        self._dirty: dict[str, Trajectory] = {}
        self._ready: dict[str, Trajectory] = {}  # between two tasks since the last tick
        self._outbox: list[Command] = []
        self._reservations: tuple[Reservation, ...] = ()
        self._strikes: list[int] = []
        self._news: list[PolicyNews] = []
        self._alarms: tuple[Alarm, ...] = ()
        self._occasions: set[Occasion] = set()
        self._planned_at: int | None = None  # when the policy was last evaluated, and when it wants to be again
        self._plan_again_at: int | None = None
        self._epoch = 0
        self._ended: set[str] = set()

    # ---- events -------------------------------------------------------------------------------------------------

    def observe(self, event: Event) -> None:
        """Take note of what happened. Decides nothing: that is `tick`."""
        match event:
            case RequestArrived():
                self._arrived(event)
            case RequestCancelled():
                self._cancelled(event)
            case TaskFinished():
                self._task_finished(event)
            case TaskFailed():
                self._task_failed(event)
            case WorkerJoined(rank=rank, incarnation=incarnation):
                self._occasions.add(Occasion.WORKER)
                self.alive[rank] = incarnation
                self._forget_rank(rank)
            case WorkerLost(rank=rank, incarnation=incarnation):
                self._occasions.add(Occasion.WORKER)
                if self.alive.get(rank) == incarnation:
                    del self.alive[rank]
                    self._forget_rank(rank)
            case PolicyOverran(at=at):
                self._strike(at)
            case _:
                assert_never(event)

    def _arrived(self, event: RequestArrived) -> None:
        self._occasions.add(Occasion.ARRIVAL)
        request = event.request
        if request.id in self.trajectories or request.id in self._ended:
            self.stale_events += 1
            return
        trajectory = Trajectory(
            request=request,
            cost=self.estimator.expand(request),
            chain=self.estimator.cost.stages(request.model),
            slot=self._table.reserve_slot(),
            steps_total=request.steps,
            class_name=request.class_name,
            preemptible=request.preemptible,
            deadline_ns=None if request.slo_ns is None else request.arrival_ns + request.slo_ns,
        )
        self.trajectories[request.id] = trajectory
        self._table.insert(trajectory)
        self._fresh.append(trajectory)

    def _cancelled(self, event: RequestCancelled) -> None:
        self._occasions.add(Occasion.CANCEL)
        t = self.trajectories.get(event.request_id)
        if t is None:
            self.stale_events += 1
            return
        if t.epoch is not None:
            self._outbox.append(AbortTask(t.epoch, f"cancelled by the {event.cause}"))
        self._end(t, Trigger.CANCEL, event.at, Outcome.CANCELLED, "cancelled", f"cancelled by the {event.cause}")

    def _task_finished(self, event: TaskFinished) -> None:
        flight = self._land(event.epoch)
        if flight is None:
            return
        t, command = flight.trajectory, flight.command
        if t.state in TERMINAL:
            return
        self.estimator.learn(t.request, command.stage, command.parallel.degree, to_s(event.busy_ns) / command.steps)
        t.epoch = None
        t.holders = tuple(rank for rank in command.ranks if rank in self.alive)
        t.restorable = event.checkpointed
        if t.task_done(command.steps):
            self._end(t, Trigger.FINISH, event.at, Outcome.COMPLETED)
            return
        t.advance(Trigger.BOUNDARY, event.at)
        self._ready[t.request.id] = self._dirty[t.request.id] = t

    def _task_failed(self, event: TaskFailed) -> None:
        flight = self._land(event.epoch)
        if flight is None:
            return
        t = flight.trajectory
        if t.state in TERMINAL:
            return
        t.epoch = None
        t.attempts += event.blame
        if t.attempts >= self.max_attempts:
            message = f"gave up after {t.attempts} attempts; the last: {event.code} {event.message}".strip()
            self._end(t, Trigger.FAIL, event.at, Outcome.FAILED, event.code, message)
            return
        t.advance(Trigger.SET_BACK, event.at)
        t.wait_reason = WaitReason.NO_FREE_GPU
        if t.started and not t.holders and not t.restorable:
            t.start_over()
        self._table.lost_ranks(t, to_s(event.at))
        self._dirty[t.request.id] = t

    def _land(self, epoch: int) -> Flight | None:
        flight = self.flights.pop(epoch, None)
        if flight is None:
            self.stale_events += 1
            return None
        stage = flight.command.stage
        self._occasions.add(Occasion.STEP_END if stage is Stage.DENOISE else Occasion.STAGE_END)
        if stage is Stage.DENOISE and flight.command.first_step + flight.command.steps == flight.command.steps_total:
            self._occasions.add(Occasion.STAGE_END)
        for rank in flight.command.ranks:
            if self.owner.get(rank) == epoch:
                del self.owner[rank]
        return flight

    def _forget_rank(self, rank: int) -> None:
        """The state that a lost or new worker held is gone. Its task, if any, ends by an event of its own."""
        for t in self.trajectories.values():
            if rank in t.holders:
                t.holders = tuple(holder for holder in t.holders if holder != rank)
                if t.started and not t.holders and not t.restorable and t.epoch is None:
                    t.start_over()
                    self._dirty[t.request.id] = t

    def _end(
        self, t: Trajectory, trigger: Trigger, at: int, outcome: Outcome, code: str = "", message: str = ""
    ) -> None:
        t.advance(trigger, at)
        del self.trajectories[t.request.id]
        self._dirty.pop(t.request.id, None)
        self._ready.pop(t.request.id, None)
        self._ended.add(t.request.id)
        self._table.remove(t)
        self._outbox.append(EndRequest(t.request.id, outcome, at, t.deadline_ns, code, message))

    # ---- ticks --------------------------------------------------------------------------------------------------

    def tick(self, now: int) -> Decision:
        """Evaluate the policy once, if it is due, and commit what holds of its proposal."""
        self._admit(now)
        view = self._freeze(now)
        proposal = self._propose(view, now) if self._is_due(now) else self._last_plan(view)
        self._occasions.clear()
        moves, refusals = self._commit(view, proposal, now)
        commands, self._outbox = tuple(self._outbox), []
        news, self._news = tuple(self._news), []
        return Decision(commands, self._next_tick(now), moves, refusals, news)

    def _is_due(self, now: int) -> bool:
        on, every = self.policy.tick_on, self.policy.tick_every_s
        if on is None or self._planned_at is None or self._occasions & on:
            return True
        period_over = every is not None and now >= self._planned_at + to_ns(every)
        return period_over or (self._plan_again_at is not None and now >= self._plan_again_at)

    def _freeze(self, now: int) -> View:
        for t in self._dirty.values():
            self._table.update(t)
        self._dirty.clear()
        self._reservations = tuple(
            r for r in self._reservations if to_ns(r.until_s) > now and r.request_id in self.trajectories
        )
        ranks = tuple(sorted(self.alive))
        return self._table.freeze(to_s(now), ranks, self._idle(ranks), self._reservations)

    def _idle(self, ranks: Iterable[int]) -> tuple[int, ...]:
        """Those of `ranks` that no task holds."""
        return tuple(rank for rank in ranks if rank not in self.owner)

    def _admit(self, now: int) -> None:
        self._fresh = [t for t in self._fresh if t.state in (State.ARRIVED, State.DEFERRED)]
        if not self._fresh:
            return
        view = self._freeze(now)
        rows = np.flatnonzero(view.new)
        fresh = [self.trajectories[view.ids[row]] for row in rows]
        try:
            verdicts = self.policy.admit(view, rows)
        except Exception as error:  # a policy may be anyone's code: its failure must not stop the system
            self._policy_failed(error, now)
            verdicts = [Verdict(int(row), Fate.ADMIT, t.class_name) for row, t in zip(rows, fresh, strict=True)]
        for verdict, t in zip(verdicts, fresh, strict=True):
            self._apply_verdict(verdict, t, now)
        self._fresh = [t for t in fresh if t.state is State.DEFERRED]

    def _apply_verdict(self, verdict: Verdict, t: Trajectory, now: int) -> None:
        t.class_name, t.because = verdict.class_name, verdict.because
        self._dirty[t.request.id] = t
        match verdict.fate:
            case Fate.REJECT:
                self._end(t, Trigger.REJECT, now, Outcome.REJECTED, "rejected", verdict.message)
            case Fate.DEFER:
                t.advance(Trigger.DEFER, now)
                t.wait_reason = WaitReason.DEFERRED
            case Fate.ADMIT:
                t.advance(Trigger.ADMIT, now)
                t.wait_reason = WaitReason.NO_FREE_GPU
                if t.deadline_ns is None and verdict.slo_s is not None:
                    t.deadline_ns = t.request.arrival_ns + to_ns(verdict.slo_s)
                if verdict.steps is not None:
                    t.steps_total = max(1, min(t.request.steps, verdict.steps))
                if verdict.preemptible is not None:
                    t.preemptible = verdict.preemptible
            case _:
                assert_never(verdict.fate)

    def _propose(self, view: View, now: int) -> Proposal:
        self._planned_at = now
        try:
            proposal = self.policy.plan(view)
        except Exception as error:  # as above
            self._policy_failed(error, now)
            # nothing else may ever happen: without being asked again, whoever waits would wait for ever
            proposal = replace(self._last_plan(view), wake_at_s=to_s(now + RETRY_NS))
        self._plan_again_at = None if proposal.wake_at_s is None else to_ns(proposal.wake_at_s)
        self._raise_alarms(proposal.alarms)
        return proposal

    def _raise_alarms(self, alarms: tuple[Alarm, ...]) -> None:
        """Tell each guard once when it breaks, and again only after it held in between."""
        for alarm in alarms:
            if alarm not in self._alarms:
                self._news.append(PolicyNews(NewsKind.GUARD, f"guard `{alarm.guard}` does not hold"))
        self._alarms = alarms
        if any(alarm.eject for alarm in alarms):
            self._eject()

    def _last_plan(self, view: View) -> Proposal:
        """Whoever is between two tasks goes on with the ranks it has; nothing else changes."""
        row_of = {request_id: row for row, request_id in enumerate(view.ids)}
        places = [
            Place(row_of[t.request.id], 1 if t.stage in SINGLE_RANK_STAGES else len(t.group))
            for t in self._ready.values()
        ]
        return Proposal(places=tuple(places), reservations=self._reservations)

    def _policy_failed(self, error: Exception, now: int) -> None:
        self.policy_errors += 1
        self._news.append(PolicyNews(NewsKind.ERROR, f"{type(error).__name__}: {error}"))
        self._strike(now)

    def _strike(self, at: int) -> None:
        """An error or an overrun; enough of them within a minute and the fallback takes over for good."""
        self._strikes = [strike for strike in self._strikes if at - strike < STRIKE_WINDOW_NS] + [at]
        if len(self._strikes) >= self.policy.limits.errors:
            self._eject()

    def _eject(self) -> None:
        """The fallback, if there is one, takes over for good."""
        if self.policy.fallback is not None:
            self.policy = self.policy.fallback
            self._strikes, self._alarms, self._planned_at = [], (), None

    def _next_tick(self, now: int) -> int | None:
        times = [to_ns(r.until_s) for r in self._reservations]
        if self._plan_again_at is not None:
            times.append(self._plan_again_at)
        if self._planned_at is None:
            times.append(now + 1)  # a policy that has just taken over is asked as soon as can be
        elif self.policy.tick_every_s is not None and self.trajectories:
            times.append(self._planned_at + to_ns(self.policy.tick_every_s))
        ahead = [at for at in times if at > now]
        return min(ahead) if ahead else None

    # ---- committing a proposal ----------------------------------------------------------------------------------

    def _commit(self, view: View, proposal: Proposal, now: int) -> tuple[tuple[Move, ...], tuple[Refusal, ...]]:
        moves: list[Move] = []
        refusals: list[Refusal] = []
        for turn in proposal.turns:
            t = self.trajectories[view.ids[turn.row]]
            if t.state in (State.WAITING, State.READY, State.PAUSED):
                self._end(t, Trigger.REJECT, now, Outcome.REJECTED, "rejected", turn.message)
        groups = self._groups(self._accept(view, proposal.places, refusals), refusals)
        self._pause_others([t for _, t, _ in groups], now, moves)
        for place, t, ranks in groups:
            self._run(t, ranks, place.because, now, moves)
        for cap in proposal.caps:
            victim = self.trajectories.get(view.ids[cap.row])
            if victim is not None and victim.state is State.RUNNING:
                victim.cap, victim.because = cap.degree, cap.because
                self._dirty[victim.request.id] = victim
        for row, reason in proposal.waits.items():
            waiting = self.trajectories.get(view.ids[row])
            if waiting is not None and waiting.state is not State.RUNNING:
                waiting.wait_reason = reason
        self._reservations = proposal.reservations
        return tuple(moves), tuple(refusals)

    def _accept(self, view: View, places: Sequence[Place], refusals: list[Refusal]) -> list[tuple[Place, Trajectory]]:
        """The places that can be carried out together, checked one by one in the policy's order."""
        free = len(self._idle(self.alive))
        accepted: list[tuple[Place, Trajectory]] = []
        seen: set[int] = set()
        for place in places:
            request_id = view.ids[place.row]
            t = self.trajectories.get(request_id)
            why = self._why_not(place, t, free, place.row in seen)
            if why is not None or t is None:
                refusals.append(Refusal(request_id, why or "has ended"))
                continue
            seen.add(place.row)
            free -= place.degree
            accepted.append((place, t))
        return accepted

    def _groups(
        self, accepted: list[tuple[Place, Trajectory]], refusals: list[Refusal]
    ) -> list[tuple[Place, Trajectory, tuple[int, ...]]]:
        """Ranks for each, who is disturbed least first. Those that must stay within some ranks may find too few."""
        idle = set(self._idle(self.alive))
        groups: list[tuple[Place, Trajectory, tuple[int, ...]]] = []
        for place, t in sorted(accepted, key=lambda pair: _PLACING_ORDER[self._intent(pair[1], pair[0])]):
            usable = idle if place.within is None else idle & place.within
            ranks = choose_ranks(place.degree, usable, t.group, self.topology, place.prefer)
            if not ranks:
                text = f"wants {place.degree} ranks, {len(usable)} of those it may use are free"
                refusals.append(Refusal(t.request.id, text))
                continue
            idle.difference_update(ranks)
            groups.append((place, t, ranks))
        return groups

    def _why_not(self, place: Place, t: Trajectory | None, free: int, again: bool) -> str | None:
        if t is None:
            return "has ended"
        if again:
            return "is placed twice"
        if t.state not in (State.WAITING, State.READY, State.PAUSED):
            return f"is {t.state}: it cannot be placed"
        if place.degree > free:
            return f"wants {place.degree} ranks, {free} are free"
        if t.stage in SINGLE_RANK_STAGES:
            return None if place.degree == 1 else f"{t.stage} runs on 1 rank, not {place.degree}"
        if place.degree not in self.estimator.offered(t.request.model):
            return f"degree {place.degree} is not offered for model {t.request.model}"
        return None

    @staticmethod
    def _intent(t: Trajectory, place: Place) -> MoveKind | None:
        if t.state is State.READY:
            if len(t.group) == place.degree:
                return None
            return MoveKind.SHRINK if place.degree < len(t.group) else MoveKind.GROW
        return MoveKind.RESUME if t.started else MoveKind.START

    def _pause_others(self, placed: list[Trajectory], now: int, moves: list[Move]) -> None:
        """Whoever is between two tasks and was not placed again gives its ranks up."""
        for t in placed:
            self._ready.pop(t.request.id, None)
        for t in self._ready.values():
            t.advance(Trigger.PAUSE, now)
            if t.stage is Stage.DENOISE and t.steps_done > 0:
                t.preemptions += 1
                moves.append(Move(MoveKind.PAUSE, t.request.id, t.group, ()))
            t.cap = None
            t.wait_reason = WaitReason.NO_FREE_GPU
            self._table.lost_ranks(t, to_s(now))
            self._dirty[t.request.id] = t
        self._ready.clear()

    def _run(self, t: Trajectory, ranks: tuple[int, ...], because: Because | None, now: int, moves: list[Move]) -> None:
        self._epoch += 1
        resumed = t.state is State.PAUSED
        before, t.group = t.group, ranks
        self._note_move(t, before, resumed, because, moves)
        t.advance(Trigger.RUN, now)
        facts = self._models.get(t.request.model)
        regrouped = set(t.holders) != set(ranks)
        # a holder that works for somebody else would keep the whole new group waiting for up to a step
        ready = tuple(rank for rank in t.holders if rank in ranks or rank not in self.owner)
        sources = ready if ready or t.restorable else t.holders
        command = RunTask(
            epoch=self._epoch,
            request_id=t.request.id,
            stage=t.stage,
            first_step=t.steps_done,
            steps=1,
            ranks=ranks,
            parallel=split_degree(
                len(ranks),
                heads=facts.heads if facts else len(ranks),
                cfg_branches=2 if facts and facts.cfg_parallel and t.request.cfg else 1,
            ),
            steps_total=t.steps_total,
            sources=sources if t.started and regrouped else (),
            restore=t.started and not sources,
        )
        t.epoch, t.wait_reason, t.because, t.cap = self._epoch, None, because, None
        for rank in ranks:
            self.owner[rank] = self._epoch
        self.flights[self._epoch] = Flight(command, t)
        self._table.took_ranks(t, to_s(now), regrouped=set(before) != set(ranks))
        self._dirty[t.request.id] = t
        self._outbox.append(command)

    @staticmethod
    def _note_move(
        t: Trajectory, before: tuple[int, ...], resumed: bool, because: Because | None, moves: list[Move]
    ) -> None:
        """Group changes while denoising are what people call resizes; the one-rank stages around them are not."""
        if t.stage is not Stage.DENOISE:
            return
        after = t.group
        begun, t.begun = t.begun, True
        if not begun:
            moves.append(Move(MoveKind.START, t.request.id, (), after, because))
        elif resumed:
            moves.append(Move(MoveKind.RESUME, t.request.id, (), after, because))
        elif len(after) != len(before):
            kind = MoveKind.GROW if len(after) > len(before) else MoveKind.SHRINK
            moves.append(Move(kind, t.request.id, before, after, because))
        elif set(after) != set(before):
            moves.append(Move(MoveKind.MIGRATE, t.request.id, before, after, because))
