"""Why a request waited, ran where it did and got as much as it did: a journal replayed, looking on.

The scheduler that a journal describes is run again from its events, so every reason is the one that decided then,
with the clause, the line and the values it compared. Decides nothing; all times are the clock's nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from gfdit.core.commands import EndRequest, RunTask
from gfdit.core.events import Event, PolicySwapped, RequestArrived, TaskFailed, TaskFinished
from gfdit.core.lifecycle import State
from gfdit.core.proposal import Because, Policy, Proposal, Verdict, WaitReason
from gfdit.core.scheduler import Decision, Scheduler
from gfdit.core.view import I8, View
from gfdit.core.work import SINGLE_RANK_STAGES, STAGES, Outcome, Request
from gfdit.errors import UsageError
from gfdit.lang.diagnostics import did_you_mean
from gfdit.policy.explain import Ranked
from gfdit.policy.planner import CompiledPolicy
from gfdit.runtime.journal import JournalReader
from gfdit.runtime.recipe import recipe_from_json, swapped_in
from gfdit.runtime.records import TickRecord


class EntryKind(StrEnum):
    ARRIVED = "arrived"
    ADMITTED = "admitted"
    WAITS = "waits"
    RUNS = "runs"
    TOOK = "took"  # a preemption takes from others for it
    CAPPED = "gives up"  # a preemption takes from it
    SET_BACK = "set back"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Taken:
    """Ranks that went from this request to another, or the other way round: from so many to so many."""

    request: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a request's life. `until` None: not over. `reason` for WAITS, `because` for what a clause decided.

    `others`: whom ranks were taken from (TOOK), or who got the ranks that it no longer has (WAITS, CAPPED, RUNS on
    fewer).
    """

    at: int
    kind: EntryKind
    text: str = ""
    until: int | None = None
    degree: int = 0
    ranks: tuple[int, ...] = ()
    steps: int = 0
    reason: WaitReason | None = None
    because: Because | None = None
    others: tuple[Taken, ...] = ()


@dataclass(slots=True)
class Life:
    """What became of one request, in order."""

    request: Request
    class_name: str = ""
    deadline: int | None = None
    end: EndRequest | None = None
    entries: list[Entry] = field(default_factory=list)
    lines: dict[tuple[str, int], str] = field(default_factory=dict)
    """(policy, line) -> its text, for every clause that some entry names"""

    @property
    def waited_ns(self) -> int:
        return sum((entry.until or entry.at) - entry.at for entry in self.entries if entry.kind is EntryKind.WAITS)

    @property
    def degrees(self) -> list[int]:
        """Degrees in order, repeats and one-rank stages left out."""
        found: list[int] = []
        for entry in self.entries:
            if entry.kind is EntryKind.RUNS and entry.text not in SINGLE_RANK_STAGES and found[-1:] != [entry.degree]:
                found.append(entry.degree)
        return found


class Spy:
    """A policy that shows what it was asked last and what it answered; otherwise the policy itself."""

    def __init__(self, policy: CompiledPolicy) -> None:
        self.inner = policy
        self.name, self.version, self.sha = policy.name, policy.version, policy.sha
        self.limits, self.tick_every_s, self.tick_on = policy.limits, policy.tick_every_s, policy.tick_on
        self.fallback: Policy | None = Spy(policy.fallback) if isinstance(policy.fallback, CompiledPolicy) else None
        self.view: View | None = None
        self.proposal: Proposal | None = None
        self.verdicts: dict[str, Verdict] = {}

    def admit(self, view: View, rows: I8) -> list[Verdict]:
        verdicts = self.inner.admit(view, rows)
        self.verdicts = {view.ids[verdict.row]: verdict for verdict in verdicts}
        return verdicts

    def plan(self, view: View) -> Proposal:
        self.view, self.proposal = view, self.inner.plan(view)
        return self.proposal


def _spied(event: PolicySwapped, earlier: Policy) -> Spy:
    return Spy(swapped_in(event, earlier.inner if isinstance(earlier, Spy) else earlier))


@dataclass(frozen=True, slots=True)
class Ticked:
    """One tick, replayed. `view` and `proposal` are None when the policy was not asked."""

    now: int
    events: tuple[Event, ...]
    decision: Decision
    policy: Spy
    view: View | None
    proposal: Proposal | None
    verdicts: Mapping[str, Verdict]
    as_recorded: bool


class Replay:
    """A journal's run, tick by tick. `scheduler` is as it was right after the latest tick."""

    def __init__(self, reader: JournalReader) -> None:
        self._reader = reader
        self.recipe = recipe_from_json(reader.meta)
        self.scheduler: Scheduler = self.recipe.scheduler(_spied)
        assert isinstance(self.scheduler.policy, CompiledPolicy)
        self.scheduler.policy = Spy(self.scheduler.policy)
        self.began: int | None = None

    def ticks(self, until: int | None = None) -> Iterator[Ticked]:
        """Every tick, up to and including time `until`."""
        events: list[Event] = []
        for record in self._reader.records():
            if not isinstance(record, TickRecord):
                events.append(record)
                continue
            if self.began is None:
                self.began = record.now
            if until is not None and record.now > self.began + until:
                return
            yield self._tick(record, tuple(events))
            events = []

    def _tick(self, record: TickRecord, events: tuple[Event, ...]) -> Ticked:
        for event in events:
            self.scheduler.observe(event)
        asked = self.scheduler.policy
        assert isinstance(asked, Spy)
        asked.view, asked.proposal, asked.verdicts = None, None, {}
        decision = self.scheduler.tick(record.now)
        same = record.same_decision(decision)
        return Ticked(record.now, events, decision, asked, asked.view, asked.proposal, asked.verdicts, same)


def _withheld(view: View, proposal: Proposal) -> dict[str, Because | None]:
    """Request id -> the clause that makes it wait: members of batches that are not full, and what else was told."""
    held = {view.ids[row]: batch.because for batch in proposal.batches if batch.held for row in batch.rows}
    return held | {view.ids[row]: because for row, because in proposal.reasons.items()}


class Lives:
    """Collects the life of every request, or of those in `wanted` only."""

    def __init__(self, scheduler: Scheduler, wanted: frozenset[str] | None = None) -> None:
        self._scheduler = scheduler
        self._wanted = wanted
        self._tasks: dict[int, str] = {}  # epoch -> request
        self._groups: dict[str, tuple[int, ...]] = {}  # of every live request: the ranks of its latest task
        self._judged: dict[str, Because | None] = {}  # by admission, or by triage when it turns somebody away
        self._withheld: dict[str, Because | None] = {}  # those whom one clause makes wait
        self._open: dict[str, Life] = {}
        self.lives: dict[str, Life] = {}
        self.differing = 0

    def take(self, tick: Ticked) -> None:
        """One more tick, in order."""
        self.differing += not tick.as_recorded
        self._judged |= {request_id: verdict.because for request_id, verdict in tick.verdicts.items()}
        for event in tick.events:
            self._event(event)
        taken = self._taken(tick)
        if tick.view is not None and tick.proposal is not None:
            self._judged |= {tick.view.ids[turn.row]: turn.because for turn in tick.proposal.turns}
            self._withheld = _withheld(tick.view, tick.proposal)
            self._caps(tick.now, tick.view, tick.proposal)
        for command in tick.decision.commands:
            if isinstance(command, RunTask):
                self._run(tick.now, command, taken.get(command.request_id, ()))
            elif isinstance(command, EndRequest):
                self._end(command)
        for request_id, life in list(self._open.items()):
            self._wait(tick.now, request_id, life, taken.get(request_id, ()))
            self._quote(life, tick.policy.inner)
            if life.end is not None:
                del self._open[request_id]

    @staticmethod
    def _quote(life: Life, policy: CompiledPolicy) -> None:
        """The text of the lines that the latest entries name."""
        for entry in life.entries[-3:]:
            if entry.because is not None and entry.because.line:
                key = policy.name, entry.because.line
                if key not in life.lines:
                    life.lines[key] = policy.program.source.line_text(entry.because.line).strip()

    def _event(self, event: Event) -> None:
        match event:
            case RequestArrived(at=at, request=request):
                if (self._wanted is None or request.id in self._wanted) and request.id not in self.lives:
                    life = self.lives[request.id] = self._open[request.id] = Life(request, request.class_name)
                    life.entries.append(Entry(at, EntryKind.ARRIVED, request.class_name))
            case TaskFinished(at=at, epoch=epoch):
                self._stop(epoch, at, None)
            case TaskFailed(at=at, epoch=epoch):
                self._stop(epoch, at, event)
            case _:
                pass

    def _stop(self, epoch: int, at: int, failure: TaskFailed | None) -> None:
        life = self.lives.get(self._tasks.pop(epoch, ""))
        if life is None:
            return
        for index in range(len(life.entries) - 1, -1, -1):
            if life.entries[index].kind is EntryKind.RUNS:
                life.entries[index] = replace(life.entries[index], until=at)
                break
        if failure is not None and life.end is None:
            text = f"{failure.code} {failure.message}".strip()
            life.entries.append(Entry(at, EntryKind.SET_BACK, text))

    def _taken(self, tick: Ticked) -> dict[str, tuple[Taken, ...]]:
        """Who got the ranks that a request no longer has, of all whose group shrank or went on this tick."""
        got = {command.request_id: command.ranks for command in tick.decision.commands if isinstance(command, RunTask)}
        lost = {
            request_id: set(ranks) - set(got.get(request_id, ()))
            for request_id, ranks in self._groups.items()
            if request_id in got or self._idle(request_id)
        }
        found: dict[str, tuple[Taken, ...]] = {}
        for request_id, ranks in lost.items():
            winners = [
                Taken(other, len(set(self._groups.get(other, ()))), len(theirs))
                for other, theirs in got.items()
                if other != request_id and ranks & set(theirs)
            ]
            if ranks and winners:
                found[request_id] = tuple(winners)
        for command in tick.decision.commands:
            if isinstance(command, EndRequest):
                self._groups.pop(command.request_id, None)
        for request_id in [key for key in self._groups if key not in got and self._idle(key)]:
            del self._groups[request_id]
        self._groups |= got
        return found

    def _idle(self, request_id: str) -> bool:
        t = self._scheduler.trajectories.get(request_id)
        return t is not None and t.state is State.PAUSED

    def _caps(self, now: int, view: View, proposal: Proposal) -> None:
        for cap in proposal.caps:
            victim, winner, has = view.ids[cap.row], view.ids[cap.winner], int(view.sp[cap.row])
            self._add(winner, Entry(now, EntryKind.TOOK, because=cap.because, others=(Taken(victim, has, cap.degree),)))
            own = Entry(now, EntryKind.CAPPED, degree=cap.degree, because=cap.because, others=(Taken(winner, 0, 0),))
            self._add(victim, own)

    def _add(self, request_id: str, entry: Entry) -> None:
        """A line that is told once, however often the policy repeats it."""
        life = self.lives.get(request_id)
        if life is None:
            return
        if request_id in self._scheduler.trajectories:
            self._admitted(entry.at, life)
        for other in reversed(life.entries):
            if other.kind is entry.kind and (other.degree, other.others) == (entry.degree, entry.others):
                return
            if other.kind is EntryKind.RUNS and entry.kind is not EntryKind.CAPPED:
                break
        life.entries.append(entry)

    def _run(self, now: int, command: RunTask, others: tuple[Taken, ...]) -> None:
        life = self.lives.get(command.request_id)
        if life is None:
            return
        self._admitted(now, life)
        self._tasks[command.epoch] = command.request_id
        t = self._scheduler.trajectories.get(command.request_id)
        because = None if t is None else t.because
        last = life.entries[-1]
        same = last.kind is EntryKind.RUNS and (last.text, last.ranks) == (command.stage.value, command.ranks)
        if same and _clause(last.because) == _clause(because):
            life.entries[-1] = replace(last, steps=last.steps + command.steps, until=None)
            return
        self._close_wait(life, now)
        entry = Entry(now, EntryKind.RUNS, command.stage.value, None, len(command.ranks), command.ranks, command.steps)
        life.entries.append(replace(entry, because=because, others=others))

    def _wait(self, now: int, request_id: str, life: Life, others: tuple[Taken, ...]) -> None:
        t = self._scheduler.trajectories.get(request_id)
        if t is None or t.state not in (State.WAITING, State.PAUSED, State.DEFERRED):
            return
        if t.state is not State.DEFERRED:
            self._admitted(now, life)
        last = life.entries[-1]
        if last.kind is EntryKind.WAITS and last.reason is t.wait_reason:
            return
        self._close_wait(life, now)
        because = (self._judged if t.state is State.DEFERRED else self._withheld).get(request_id)
        life.entries.append(Entry(now, EntryKind.WAITS, reason=t.wait_reason, because=because, others=others))

    def _admitted(self, now: int, life: Life) -> None:
        if any(entry.kind is EntryKind.ADMITTED for entry in life.entries):
            return
        t = self._scheduler.trajectories[life.request.id]
        life.class_name, life.deadline = t.class_name, t.deadline_ns
        self._close_wait(life, now)
        degraded = "" if t.steps_total == t.request.steps else f", {t.steps_total} of {t.request.steps} steps"
        degraded += f", cache {t.cache:.0%}" if t.cache else ""
        because = self._judged.get(life.request.id)
        life.entries.append(Entry(now, EntryKind.ADMITTED, f"class {t.class_name}{degraded}", because=because))

    @staticmethod
    def _close_wait(life: Life, now: int) -> None:
        for index in range(len(life.entries) - 1, -1, -1):
            if life.entries[index].kind is EntryKind.WAITS:
                if life.entries[index].until is None:
                    life.entries[index] = replace(life.entries[index], until=now)
                return

    def _end(self, command: EndRequest) -> None:
        self._groups.pop(command.request_id, None)
        life = self.lives.get(command.request_id)
        if life is None or life.end is not None:
            return
        self._close_wait(life, command.at)
        life.end, life.deadline = command, command.deadline_ns
        text = str(command.outcome)
        if command.outcome is Outcome.COMPLETED:
            text += ", on time" if command.on_time else ", late"
        elif command.message:
            text += f": {command.message}"
        because = self._judged.get(command.request_id) if command.outcome is Outcome.REJECTED else None
        life.entries.append(Entry(command.at, EntryKind.ENDED, text, because=because))


def _clause(because: Because | None) -> tuple[str, int] | None:
    return None if because is None else (because.clause, because.line)


@dataclass(frozen=True, slots=True)
class DegreeAt:
    """One degree that was open to a request: seconds of a step, to its end, and to spare (None: no deadline)."""

    degree: int
    step_s: float
    remaining_s: float
    slack_s: float | None


@dataclass(frozen=True, slots=True)
class Asked:
    """One request at one tick. `place`: its place in the plan's order from 1, 0 when it was mid-task; `gets`: the
    degree it runs at from this tick on, 0 when it waits."""

    request: str
    class_name: str
    state: str
    stage: str
    place: int
    keys: tuple[tuple[str, str], ...]
    aside: bool
    had: int
    gets: int
    because: Because | None
    reason: WaitReason | None
    degrees: tuple[DegreeAt, ...]


def asked(tick: Ticked, scheduler: Scheduler) -> list[Asked]:
    """Everybody that the policy was asked about on this tick, in plan order, those mid-task last."""
    if tick.view is None or tick.proposal is None:
        return []
    view = tick.view
    ranked = {one.row: (place, one) for place, one in enumerate(tick.policy.inner.ranking(view), 1)}
    places = {place.row: place for place in tick.proposal.places}
    found: list[Asked] = []
    for row, request_id in enumerate(view.ids):
        place, one = ranked.get(row, (0, Ranked(row, (), False)))
        t = scheduler.trajectories.get(request_id)
        chosen = places.get(row)
        running = int(view.sp[row]) if bool(view.running[row]) else 0
        found.append(
            Asked(
                request=request_id,
                class_name=view.names["class"][view.class_code[row]],
                state=list(State)[int(view.state[row])],
                stage=STAGES[int(view.stage[row])],
                place=place,
                keys=one.keys,
                aside=one.aside,
                had=int(view.sp[row]),
                gets=running if chosen is None else chosen.degree,
                because=chosen.because if chosen is not None else (t.because if t is not None and running else None),
                reason=tick.proposal.waits.get(row),
                degrees=_degrees(view, row),
            )
        )
    return sorted(found, key=lambda one: (one.place == 0, one.place))


def _degrees(view: View, row: int) -> tuple[DegreeAt, ...]:
    deadline = float(view.deadline_s[row])
    return tuple(
        DegreeAt(
            degree,
            float(view.step_s[row, column]),
            float(view.remaining_s[row, column]),
            deadline - view.now_s - float(view.remaining_s[row, column]) if np.isfinite(deadline) else None,
        )
        for column, degree in enumerate(view.degrees)
        if np.isfinite(view.step_s[row, column])
    )


def known(lives: dict[str, Life], request_id: str) -> Life:
    """The life of one request. Raises UsageError naming the nearest id when the journal has none."""
    if request_id not in lives:
        near = did_you_mean(request_id, lives)
        hint = " ".join([*near, f"the journal has {len(lives)} requests: `gfdit explain JOURNAL` lists them"])
        raise UsageError(f"no request `{request_id}` in this journal", hint=hint)
    return lives[request_id]
