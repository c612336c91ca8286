"""The scheduler: `observe(event)` and `tick(now) -> Decision`. No I/O, no clock, no randomness, no callbacks.

A policy proposes over a frozen view; this module checks, picks ranks, commits and keeps the books. Its promises,
checked by
`invariants.check`: a rank works for one task at most; every task belongs to one trajectory; every request ends once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np

from gfdit.core.accept import accept, group, note_move
from gfdit.core.commands import AbortTask, Command, EndRequest, RunTask
from gfdit.core.decision import Admission, Asked, Decision, Move, MoveKind, NewsKind, PolicyNews, Refusal
from gfdit.core.estimate import Estimator
from gfdit.core.events import (
    Event,
    PolicyEjected,
    PolicyOverran,
    PolicySwapped,
    RequestArrived,
    RequestCancelled,
    TaskFailed,
    TaskFinished,
    WorkerJoined,
    WorkerLost,
)
from gfdit.core.glance import Foresight, Lookout
from gfdit.core.lifecycle import TERMINAL, State, Trigger
from gfdit.core.parallel import Parallel, split_degree
from gfdit.core.proposal import Alarm, Because, Fate, Occasion, Place, Policy, Proposal, Verdict, WaitReason
from gfdit.core.recent import IDS_REMEMBERED, Recent
from gfdit.core.table import Table
from gfdit.core.topology import Topology
from gfdit.core.trajectory import Trajectory
from gfdit.core.view import Reservation, View
from gfdit.core.watchdog import EjectCause, Ejection, Strike, StrikeKind, Watchdog, error_strike
from gfdit.core.work import SINGLE_RANK_STAGES, ModelFacts, Outcome, Request, Stage
from gfdit.errors import PolicyError
from gfdit.units import NS_PER_S, human_s, to_ns, to_s

__all__ = ["Admission", "Asked", "Decision", "Move", "MoveKind", "NewsKind", "PolicyNews", "Refusal", "Scheduler"]

RETRY_NS = NS_PER_S // 10  # how soon a policy that failed is asked again
POISON = "poison"  # how a request fails whose last attempts ended with the workers that ran it

_NOTHING_ASKED = Asked()

PolicyLoader = Callable[[PolicySwapped, Policy], Policy]
"""The policy that a swap names, which has taken over what is carried from the one in charge. The same for a replay."""


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """What the policy made of the view of one instant; `proposal` None: it was not due. `view` None: it need not be
    asked, everybody stays where it is."""

    view: View | None
    proposal: Proposal | None


_NOT_ASKED = _Evaluated(None, None)


@dataclass(frozen=True, slots=True)
class Flight:
    """A task that was sent and has not ended."""

    command: RunTask
    trajectory: Trajectory


class Scheduler:
    """See the module. `max_attempts`: failures after which a request is given up as the likely cause. `load`: makes the
    policies that swaps name. `asked`: what the policy was asked on the latest tick, for whoever looks on.

    `always_evaluate`: ask the policy even where it is certain that a plan would change nothing (see glance.py).
    `evaluations`: plans it has made. `ids_remembered`: an arrival with the id of a live request, or of one of so many
    that ended last, is an old event.
    """

    def __init__(
        self,
        policy: Policy,
        topology: Topology,
        estimator: Estimator,
        models: Mapping[str, ModelFacts] | None = None,
        *,
        max_attempts: int = 4,
        load: PolicyLoader | None = None,
        always_evaluate: bool = False,
        ids_remembered: int = IDS_REMEMBERED,
    ) -> None:
        self.policy = policy
        self.appointed = policy  # put in charge on purpose; after an ejection `policy` is one of its fallbacks
        self.asked = Asked()
        self.topology = topology
        self.estimator = estimator
        self.max_attempts = max_attempts
        self.always_evaluate = always_evaluate
        self.evaluations = 0
        self.trajectories: dict[str, Trajectory] = {}  # live ones only
        self.alive: dict[int, int] = {}  # rank -> incarnation
        self.owner: dict[int, int] = {}  # rank -> epoch of the task that holds it
        self.flights: dict[int, Flight] = {}
        self._ranks: tuple[int, ...] = ()  # live ones, ascending
        self._idle: set[int] = set()  # live and held by no task
        self.stale_events = 0
        self.policy_errors = 0
        self._models = dict(models or {})
        self._table = Table(estimator)
        self._lookout = Lookout(estimator)
        self._fresh: list[Trajectory] = []
        self._dirty: dict[str, Trajectory] = {}
        self._ready: dict[str, Trajectory] = {}  # between two tasks since the last tick
        self._outbox: list[Command] = []
        self._reservations: tuple[Reservation, ...] = ()
        self._watchdog = Watchdog()
        self._overruns: list[PolicyOverran] = []
        self._ejection: Ejection | None = None  # to be told with the next decision
        self._evaluated: _Evaluated | None = None
        self._load = load
        self._swapped = False  # since the last tick
        self._news: list[PolicyNews] = []
        self._alarms: tuple[Alarm, ...] = ()
        self._occasions: set[Occasion] = set()
        self._planned_at: int | None = None  # when the policy was last evaluated, and when it wants to be again
        self._plan_again_at: int | None = None
        self._epoch = 0
        self._ended = Recent(ids_remembered)
        self._ends: list[tuple[str, bool]] = []  # (class, missed) since the policy was last asked

    # ---- events -------------------------------------------------------------------------------------------------

    def observe(self, event: Event) -> None:
        """Take note of what happened. Decides nothing: that is `tick`."""
        match event:
            case TaskFinished():
                self._task_finished(event)
            case RequestArrived():
                self._arrived(event)
            case RequestCancelled():
                self._cancelled(event)
            case TaskFailed():
                self._task_failed(event)
            case WorkerJoined(rank=rank, incarnation=incarnation):
                self._occasions.add(Occasion.WORKER)
                self.alive[rank] = incarnation
                self._ranks_changed(rank)
                self._forget_rank(rank)
            case WorkerLost(rank=rank, incarnation=incarnation):
                self._occasions.add(Occasion.WORKER)
                if self.alive.get(rank) == incarnation:
                    del self.alive[rank]
                    self._ranks_changed(rank)
                    self._forget_rank(rank)
                    self._watchdog.lost_worker(event.at)
            case PolicyOverran():
                self._overruns.append(event)
            case PolicySwapped():
                self._swap(event)
            case PolicyEjected(at=at):
                self.eject(EjectCause.OPERATOR, "an operator decided so", at)
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
        seconds = to_s(event.busy_ns) / command.steps
        self.estimator.learn(t.request, t.cost, command.stage, len(command.ranks), seconds)
        t.epoch = None
        t.holders = command.ranks
        if len(self.alive) < self.topology.size:
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
            code = POISON if event.code == "worker_lost" else event.code
            self._end(t, Trigger.FAIL, event.at, Outcome.FAILED, code, message)
            return
        t.advance(Trigger.SET_BACK, event.at)
        t.wait_reason = WaitReason.NO_FREE_GPU
        if t.started and not t.holders and not t.restorable:
            t.start_over()
        self._table.lost_ranks(t, to_s(event.at))
        self._lookout.waits(t)
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
                if rank in self.alive:
                    self._idle.add(rank)
        return flight

    def _ranks_changed(self, rank: int) -> None:
        """It came or went."""
        self._ranks = tuple(sorted(self.alive))
        if rank in self.alive and rank not in self.owner:
            self._idle.add(rank)
        else:
            self._idle.discard(rank)

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
        self._lookout.goes(t)
        self._ended.add(t.request.id)
        self._table.remove(t)
        steps = None if t.steps_total == t.request.steps else t.steps_total
        end = EndRequest(t.request.id, outcome, at, t.deadline_ns, code, message, steps, t.cache)
        self._outbox.append(end)
        if outcome is not Outcome.CANCELLED:
            self._ends.append((t.class_name, not end.on_time))

    # ---- ticks --------------------------------------------------------------------------------------------------

    def evaluate(self, now: int) -> None:
        """The first half of `tick`: admit, freeze, ask the policy if it is due. Whoever measures how long policies take
        calls it before `tick`, and tells of an overrun in between."""
        self.asked = _NOTHING_ASKED
        if self._overruns:
            self._settle_overruns(before=now)
        self._admit(now)
        due = self._is_due(now) and not self._swapped  # a swap alone takes nothing from anybody
        self._swapped = False
        if due and self._stays(now):
            self._evaluated = _NOT_ASKED
            return
        view = self._freeze(now)
        self._evaluated = _Evaluated(view, self._propose(view, now) if due else None)

    def tick(self, now: int) -> Decision:
        """Evaluate the policy once, if it is due, and commit what holds of its proposal."""
        if self._evaluated is None:
            self.evaluate(now)
        assert self._evaluated is not None
        view, proposal = self._evaluated.view, self._evaluated.proposal
        self._evaluated = None
        late = bool(self._overruns) and self._settle_overruns(before=now + 1)
        if late:  # it came too late: as after an error
            proposal, again = None, now + RETRY_NS
            self._plan_again_at = again if self._plan_again_at is None else min(again, self._plan_again_at)
        self._occasions.clear()
        moves: tuple[Move, ...]
        refusals: tuple[Refusal, ...] = ()
        if view is None:
            moves = self._go_on(now)
            self._watchdog.nobody_stalls(now, fresh=not late)
        else:
            moves, refusals = self._commit(view, proposal or self._last_plan(view), now)
            self._look_for_stalls(view, proposal, now)
        commands, self._outbox = tuple(self._outbox), []
        news, self._news = tuple(self._news), []
        ejection, self._ejection = self._ejection, None
        return Decision(commands, self._next_tick(now), moves, refusals, news, ejection)

    def _is_due(self, now: int) -> bool:
        on, every = self.policy.tick_on, self.policy.tick_every_s
        if on is None or self._planned_at is None or self._occasions & on:
            return True
        period_over = every is not None and now >= self._planned_at + to_ns(every)
        return period_over or (self._plan_again_at is not None and now >= self._plan_again_at)

    def _stays(self, now: int) -> bool:
        """Whether the policy need not be asked: at most one request is between two tasks, and a plan would certainly
        leave it and all others as they are. What a plan would have set is set here."""
        keeps: Foresight | None = None if self.always_evaluate else getattr(self.policy, "keeps", None)
        if keeps is None or self._fresh or len(self._ready) > 1:
            return False
        row = next(iter(self._ready.values()), None)
        if row is not None and (row.holders != row.group or (row.stage is Stage.DENOISE and not row.begun)):
            return False  # ranks were lost, or the start is to be told
        if not self._lookout.stays(keeps, to_s(now), len(self.alive), len(self._idle), row):
            return False
        self._planned_at, self._plan_again_at, self._reservations = now, None, ()
        self._ends.clear()
        self._raise_alarms((), now)
        return True

    def _go_on(self, now: int) -> tuple[Move, ...]:
        """Whoever is between two tasks keeps its ranks."""
        moves: list[Move] = []
        for t in self._ready.values():
            self._run(t, t.group, t.because, now, moves)
        self._ready.clear()
        return tuple(moves)

    def _freeze(self, now: int) -> View:
        for t in self._dirty.values():
            self._table.update(t)
        self._dirty.clear()
        self._reservations = tuple(
            r for r in self._reservations if to_ns(r.until_s) > now and r.request_id in self.trajectories
        )
        idle, ends = tuple(sorted(self._idle)), tuple(self._ends)
        return self._table.freeze(to_s(now), self._ranks, idle, self._reservations, self._groups_held, ends)

    def _groups_held(self) -> dict[str, tuple[int, ...]]:
        """The ordered ranks of everybody who runs or is between two tasks."""
        running = {flight.trajectory.request.id: flight.trajectory.group for flight in self.flights.values()}
        return running | {request_id: t.group for request_id, t in self._ready.items()}

    def _admit(self, now: int) -> None:
        if self._fresh:
            self._fresh = [t for t in self._fresh if t.state in (State.ARRIVED, State.DEFERRED)]
        if not self._fresh:
            return
        view = self._freeze(now)
        rows = np.flatnonzero(view.new)
        fresh = [self.trajectories[view.ids[row]] for row in rows]
        try:
            verdicts = self.policy.admit(view, rows)
            self.asked = Asked(Admission(view, rows, tuple(verdicts)))
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
                if verdict.cache is not None:
                    t.cache = min(max(t.cache, verdict.cache), 1.0)
                if verdict.preemptible is not None:
                    t.preemptible = verdict.preemptible
                self._lookout.waits(t)
            case _:
                assert_never(verdict.fate)

    def _propose(self, view: View, now: int) -> Proposal:
        self._planned_at = now
        self.evaluations += 1
        self._watchdog.saw(view)
        try:
            proposal = self.policy.plan(view)
        except Exception as error:  # as above
            # nothing else may ever happen: without being asked again, whoever waits would wait for ever
            proposal = replace(self._last_plan(view), wake_at_s=to_s(now + RETRY_NS))
            self._policy_failed(error, now)
        else:
            self._watchdog.said(proposal)
            self._lookout.told(proposal.waits)
            self.asked = Asked(self.asked.admission, view, proposal)
        self._plan_again_at = None if proposal.wake_at_s is None else to_ns(proposal.wake_at_s)
        self._ends.clear()
        self._news += [PolicyNews(NewsKind.NOTE, text) for text in proposal.notes]
        self._raise_alarms(proposal.alarms, now)
        return proposal

    def _raise_alarms(self, alarms: tuple[Alarm, ...], now: int) -> None:
        """Tell each guard once when it breaks, and again only after it held in between."""
        for alarm in alarms:
            if alarm not in self._alarms:
                self._news.append(PolicyNews(NewsKind.GUARD, f"guard `{alarm.guard}` does not hold"))
        self._alarms = alarms
        broken = [alarm.guard for alarm in alarms if alarm.eject]
        if broken:
            self.eject(EjectCause.GUARD, f"guard `{broken[0]}` does not hold", now)

    def _last_plan(self, view: View) -> Proposal:
        """Whoever is between two tasks goes on with the ranks it has; nothing else changes."""
        rows = ((t, view.row_of(t.request.id, to_s(t.request.arrival_ns))) for t in self._ready.values())
        places = [
            Place(row, 1 if t.stage in SINGLE_RANK_STAGES else len(t.group)) for t, row in rows if row is not None
        ]
        return Proposal(places=tuple(places), reservations=self._reservations)

    def _policy_failed(self, error: Exception, now: int) -> None:
        self.policy_errors += 1
        strike = error_strike(error, now)
        self._news.append(PolicyNews(NewsKind.ERROR, strike.text))
        self._strike(strike)

    def _settle_overruns(self, before: int) -> bool:
        """Count the overruns until then; one of the tick that is about to be evaluated (in a replay) is not due yet.

        True: there was one, and somebody who could do better.
        """
        due = [overrun for overrun in self._overruns if overrun.at < before]
        self._overruns = [overrun for overrun in self._overruns if overrun.at >= before]
        if not due or self.policy.fallback is None or self._ejection is not None:
            return False
        for overrun in due:
            text = f"a tick took {human_s(overrun.seconds)}"
            self._strike(Strike(StrikeKind.OVERRUN, overrun.at, text, (), overrun.seconds, overrun.cpu_seconds))
        return True

    def _strike(self, strike: Strike) -> None:
        """An error or an overrun; enough of them within a minute and the fallback takes over for good."""
        cause = self._watchdog.strike(strike, self.policy.limits)
        if cause is not None:
            self.eject(cause, strike.text, strike.at)

    def eject(self, cause: EjectCause, text: str, at: int) -> None:
        """The fallback, if there is one, takes over for good; the next decision tells of it (`Decision.ejection`)."""
        if self.policy.fallback is None:
            return
        ejected, self.policy = self.policy, self.policy.fallback
        self._ejection = self._watchdog.ejection(ejected, self.policy.name, cause, text, at)
        blame, why = self._ejection.blame, self._ejection.blame_text
        self._news.append(PolicyNews(NewsKind.EJECT, f"ejected, {cause}: {text} ({blame}: {why})"))
        self._watchdog.reset()
        self._alarms, self._planned_at = (), None

    def _swap(self, event: PolicySwapped) -> None:
        """Another policy takes over with a clean slate. It is asked on the tick after the next: until then all go
        on with what it has, and whom the policy would not place gives way at a boundary, not because of the swap."""
        if self._load is None:
            raise PolicyError(f"policy {event.label} cannot take over: nothing here loads policies")
        self.policy = self.appointed = self._load(event, self.policy)
        self._watchdog.reset()
        self._overruns = []
        self._alarms, self._planned_at, self._swapped = (), None, True

    def _look_for_stalls(self, view: View, proposal: Proposal | None, now: int) -> None:
        """Whether the policy lets somebody wait who could run. `proposal` None: it was not asked on this tick."""
        if self.policy.fallback is None or not self._watchdog.wants_sample(now, proposal is not None):
            return
        idle = len(self._idle)
        plannable = np.flatnonzero(view.plannable).tolist() if idle else []
        states = [(row, self.trajectories.get(view.ids[row])) for row in plannable]
        unplanned = [row for row, t in states if t is not None and t.state in (State.WAITING, State.PAUSED)]
        waits = {} if proposal is None else proposal.waits
        self._watchdog.sample(view, waits, unplanned, idle, bool(self.flights), now)
        why = self._watchdog.stalled(self.policy.limits, now)
        if why is not None:
            self.eject(EjectCause.STALL, why, now)

    @property
    def strikes(self) -> tuple[Strike, ...]:
        """What is held against the policy in force; those older than `watchdog.WINDOW_NS` count no more."""
        return tuple(self._watchdog.strikes)

    @property
    def broken_guards(self) -> tuple[str, ...]:
        """The guards that did not hold when the policy was last asked."""
        return tuple(alarm.guard for alarm in self._alarms)

    def _next_tick(self, now: int) -> int | None:
        times = [to_ns(r.until_s) for r in self._reservations]
        if self._plan_again_at is not None:
            times.append(self._plan_again_at)
        stall = self._watchdog.stall_due(self.policy.limits)
        if stall is not None:
            times.append(stall)
        if self._planned_at is None:
            times.append(now + 1)  # a policy that has just taken over is asked as soon as can be
        elif self.policy.tick_every_s is not None and self.trajectories:
            times.append(self._planned_at + to_ns(self.policy.tick_every_s))
        return min([at for at in times if at > now], default=None)

    # ---- committing a proposal ----------------------------------------------------------------------------------

    def _commit(self, view: View, proposal: Proposal, now: int) -> tuple[tuple[Move, ...], tuple[Refusal, ...]]:
        moves: list[Move] = []
        refusals: list[Refusal] = []
        for turn in proposal.turns:
            t = self.trajectories[view.ids[turn.row]]
            if t.state in (State.WAITING, State.READY, State.PAUSED):
                self._end(t, Trigger.REJECT, now, Outcome.REJECTED, "rejected", turn.message)
        accepted = accept(view, proposal.places, self.trajectories, len(self._idle), self.estimator, refusals)
        groups = group(accepted, self._idle, self.topology, refusals)
        self._pause_others([t for _, t, _ in groups], now, moves)
        for place, t, ranks in groups:
            self._run(t, ranks, place.because, now, moves)
        for cap in proposal.caps:
            victim = self.trajectories.get(view.ids[cap.row])
            if victim is not None and victim.state is State.RUNNING:
                victim.cap, victim.because = cap.degree, cap.because
                self._dirty[victim.request.id] = victim
        for row, reason in self._table.new_waits(view, proposal.waits):
            waiting = self.trajectories.get(view.ids[row])
            if waiting is not None and waiting.state is not State.RUNNING:
                waiting.wait_reason = reason
        self._reservations = proposal.reservations
        return tuple(moves), tuple(refusals)

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
            self._lookout.waits(t)
            self._dirty[t.request.id] = t
        self._ready.clear()

    def _run(self, t: Trajectory, ranks: tuple[int, ...], because: Because | None, now: int, moves: list[Move]) -> None:
        self._epoch += 1
        resumed, going_on = t.state is State.PAUSED, t.state is State.READY
        before, t.group = t.group, ranks
        note_move(t, before, resumed, because, moves)
        t.advance(Trigger.RUN, now)
        self._lookout.goes(t)
        regrouped = t.holders != ranks and set(t.holders) != set(ranks)
        # a holder that works for somebody else would keep the whole new group waiting for up to a step
        ready = t.holders
        if regrouped:
            ready = tuple(rank for rank in t.holders if rank in ranks or rank not in self.owner)
        sources = ready if ready or t.restorable else t.holders
        command = RunTask(
            epoch=self._epoch,
            request_id=t.request.id,
            stage=t.stage,
            first_step=t.steps_done,
            steps=1,
            ranks=ranks,
            parallel=self._split(t.request, len(ranks)),
            steps_total=t.steps_total,
            sources=sources if t.started and regrouped else (),
            restore=t.started and not sources,
        )
        t.epoch, t.wait_reason, t.because, t.cap = self._epoch, None, because, None
        self.owner.update(dict.fromkeys(ranks, self._epoch))
        self._idle.difference_update(ranks)
        self.flights[self._epoch] = Flight(command, t)
        if before != ranks or not going_on:
            self._table.took_ranks(t, to_s(now), regrouped=set(before) != set(ranks))
        self._dirty[t.request.id] = t
        self._outbox.append(command)

    def _split(self, request: Request, degree: int) -> Parallel:
        facts = self._models.get(request.model)
        branches = 2 if facts and facts.cfg_parallel and request.cfg else 1
        return split_degree(degree, heads=facts.heads if facts else degree, cfg_branches=branches)
