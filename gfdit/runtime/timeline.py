"""What happened when, for people: who had which ranks, what each request went through, what is worth a line.

One incremental structure behind the console, the reports and traces, fed tick by tick (it is an observer) or from a
journal. It decides nothing, reads no clock, and knows only what events, commands and moves say. All times are the
clock's nanoseconds.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from gfdit.core.commands import AbortTask, Command, EndRequest, RunTask
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
from gfdit.core.lifecycle import TERMINAL, State
from gfdit.core.proposal import Because
from gfdit.core.scheduler import Decision, Move, MoveKind, NewsKind, PolicyNews
from gfdit.core.work import Outcome, Request, Stage
from gfdit.runtime.records import TickRecord
from gfdit.units import human_s, to_ns

if TYPE_CHECKING:
    from gfdit.runtime.journal import JournalReader

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
RESIZES = (MoveKind.GROW, MoveKind.SHRINK, MoveKind.MIGRATE)


@dataclass(slots=True, eq=False)
class Stint:
    """One request on one group for one stage without a break; consecutive steps on the same ranks are one stint.

    `end` is None while a task of it is in flight. `handover_ns`: time spent on moving state at its beginning.
    """

    life: Life
    stage: Stage
    ranks: tuple[int, ...]
    start: int
    first_step: int
    steps: int
    end: int | None = None
    handover_ns: int = 0
    failed: str = ""

    @property
    def degree(self) -> int:
        return len(self.ranks)


@dataclass(slots=True, eq=False)
class Task:
    """One `RunTask` and how it ended. Kept only by an unbounded timeline."""

    command: RunTask
    start: int
    end: int | None = None
    busy_ns: int = 0
    handover_ns: int = 0
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """What one rank did from `start` to `end`: a task, or (`gives`) handing over the state for one it is no member of.

    `handover_end`: when the state was there and the compute began; equal to `start` when nothing had to move.
    """

    rank: int
    task: Task
    start: int
    handover_end: int
    end: int
    gives: bool = False


@dataclass(slots=True, eq=False)
class Life:
    """One request from arrival to end. `letter` tells running ones apart; `number`: order of first start, or -1."""

    request: Request
    state: State = State.WAITING
    number: int = -1
    letter: str = ""
    first_start: int | None = None
    end: EndRequest | None = None
    steps_done: int = 0
    wait_ns: int = 0
    waiting_since: int = 0
    moves: Counter[MoveKind] = field(default_factory=Counter)
    setbacks: int = 0
    because: Because | None = None
    stints: list[Stint] = field(default_factory=list)

    @property
    def deadline_ns(self) -> int | None:
        """Its own, or its class's once the end told."""
        if self.end is not None:
            return self.end.deadline_ns
        return None if self.request.slo_ns is None else self.request.arrival_ns + self.request.slo_ns

    @property
    def latency_ns(self) -> int | None:
        return None if self.end is None else self.end.at - self.request.arrival_ns

    @property
    def resizes(self) -> int:
        return sum(self.moves[kind] for kind in RESIZES)

    @property
    def preemptions(self) -> int:
        return self.moves[MoveKind.PAUSE]

    @property
    def attempts(self) -> int:
        return 1 + self.setbacks

    @property
    def group(self) -> tuple[int, ...]:
        """The ranks it runs on now; () when it runs nowhere."""
        return self.stints[-1].ranks if self.stints and self.stints[-1].end is None else ()

    @property
    def degrees(self) -> list[int]:
        """Degrees of its denoising steps in order, repeats left out."""
        degrees: list[int] = []
        for stint in self.stints:
            if stint.stage is Stage.DENOISE and degrees[-1:] != [stint.degree]:
                degrees.append(stint.degree)
        return degrees


class NoteKind(StrEnum):
    """Kinds of things worth a line. The first six are the scheduler's moves."""

    START = "start"
    GROW = "grow"
    SHRINK = "shrink"
    MIGRATE = "migrate"
    PAUSE = "pause"
    RESUME = "resume"
    ARRIVED = "arrived"
    DONE = "done"
    MISSED = "missed"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SET_BACK = "set back"
    JOINED = "joined"
    LOST = "lost"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class Note:
    """One line for people. `life`: the request it is about; `ranks`: the group's, or those that came or went."""

    at: int
    kind: NoteKind
    text: str
    life: Life | None = None
    ranks: tuple[int, ...] = ()
    because: Because | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Counts from `at` until the next sample: busy ranks, live workers, requests without ranks (new, and paused)."""

    at: int
    busy: int
    workers: int
    waiting: int
    paused: int

    @property
    def queue(self) -> int:
        return self.waiting + self.paused


@dataclass(slots=True)
class Totals:
    """Counts since the beginning, whatever a bounded timeline has forgotten since."""

    arrived: int = 0
    on_time: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    moves: Counter[MoveKind] = field(default_factory=Counter)
    clauses: Counter[tuple[str, int]] = field(default_factory=Counter)

    @property
    def ended(self) -> int:
        return self.outcomes.total()

    @property
    def attainment(self) -> float | None:
        """Share of ended requests that were on time."""
        return self.on_time / self.ended if self.ended else None


def rank_ranges(ranks: Iterable[int]) -> str:
    """`(0, 1, 2, 5)` as `0-2,5`."""
    runs = rank_runs(ranks)
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def counted(count: int, noun: str) -> str:
    """`1 step`, `2 steps`"""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def named_ranks(ranks: Sequence[int]) -> str:
    """`rank 3`, or `ranks 0-2,5`."""
    return f"rank{'' if len(ranks) == 1 else 's'} {rank_ranges(ranks)}"


def rank_runs(ranks: Iterable[int]) -> list[tuple[int, int]]:
    """Maximal runs of neighbouring ranks, as (first, last), ascending."""
    runs: list[tuple[int, int]] = []
    for rank in sorted(ranks):
        if runs and runs[-1][1] == rank - 1:
            runs[-1] = (runs[-1][0], rank)
        else:
            runs.append((rank, rank))
    return runs


class Timeline:
    """See the module. A bounded one (`keep_s`) forgets everything older than that, and does not keep single tasks.

    `ranks`: how many the cluster will have (else those that join). `policy_of`: the name of the policy in force, asked
    for on each record; a journal has it written down.
    """

    def __init__(
        self, ranks: int = 0, *, keep_s: float | None = None, policy_of: Callable[[], str] | None = None
    ) -> None:
        self.began: int | None = None
        self.now = 0
        self.totals = Totals()
        self.policy = ""
        self.swapped_to = ""  # `name@version (sha)` of the latest swap, empty before the first
        self.ticks = 0
        self.alive: dict[int, int] = {}  # rank -> incarnation
        self.lanes: dict[int, deque[Stint]] = {rank: deque() for rank in range(ranks)}
        self.outages: dict[int, list[tuple[int, int | None]]] = {rank: [(0, None)] for rank in range(ranks)}
        self.lives: dict[str, Life] = {}
        self.samples: deque[Sample] = deque()
        self.notes: deque[Note] = deque()
        self.tasks: list[Task] = []
        self._keep_ns = None if keep_s is None else to_ns(keep_s)
        self._policy_of = policy_of
        self._open: dict[int, tuple[Life, Task, Stint]] = {}  # epoch -> what is in flight
        self._settling: dict[str, Life] = {}  # had a task end in this update; what becomes of it the commands tell
        self._live: dict[str, Life] = {}
        self._ended: deque[Life] = deque()
        self._states: Counter[State] = Counter()  # of live requests
        self._started = 0
        self._letter = -1
        self._forget_at = 0

    @classmethod
    def from_journal(cls, reader: JournalReader, ranks: int = 0) -> Timeline:
        """The whole run that a journal recorded. Raises JournalError for a damaged one."""
        timeline = cls(ranks)
        events: list[Event] = []
        for record in reader.records():
            if isinstance(record, TickRecord):
                timeline.update(record.now, events, record.commands, record.moves, record.policy, record.policy_news)
                events = []
            else:
                events.append(record)
        return timeline

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        """The observer's interface."""
        self.record_notes(now, events, decision)

    def record_notes(self, now: int, events: Sequence[Event], decision: Decision) -> list[Note]:
        """As `record`, and returns the lines that the tick was worth."""
        policy = self._policy_of() if self._policy_of else self.policy
        return self.update(now, events, decision.commands, decision.moves, policy, decision.policy_news)

    def update(
        self,
        now: int,
        events: Sequence[Event],
        commands: Sequence[Command],
        moves: Sequence[Move],
        policy: str = "",
        policy_news: Sequence[PolicyNews] = (),
    ) -> list[Note]:
        """Take in one tick; the lines it is worth, which are also appended to `notes`."""
        if self.began is None:
            self.began = now
        self.now = now
        self.ticks += 1
        notes: list[Note] = []
        self._events(events, notes)
        self._policy_news(now, policy, policy_news, notes)
        self._commands(now, commands, notes)
        self._settle()
        self._moves(now, moves, notes)
        notes.sort(key=lambda note: note.at)
        self.notes.extend(notes)
        self._sample(now)
        if self._keep_ns is not None and now >= self._forget_at:
            self._forget(now - self._keep_ns)
            self._forget_at = now + self._keep_ns // 16
        return notes

    def live(self) -> list[Life]:
        """Requests that have not ended, by arrival."""
        return list(self._live.values())

    def ended(self) -> list[Life]:
        """Requests that have, in that order (the recent ones, when bounded)."""
        return list(self._ended)

    def restore(self, lives: Iterable[Life]) -> None:
        """Take in requests that another timeline knew, ended ones in the order of their ends."""
        for life in lives:
            self.lives[life.request.id] = life
            if life.state in TERMINAL:
                self._ended.append(life)
            else:
                self._live[life.request.id] = life
                self._states[life.state] += 1

    @property
    def ranks(self) -> list[int]:
        return sorted(self.lanes)

    def spans(self) -> dict[int, list[Span]]:
        """What each rank did, task by task, without overlaps: ranks carry out what they are sent in order.

        Needs an unbounded timeline; a task in flight lasts until the latest tick.
        """
        spans: dict[int, list[Span]] = {rank: [] for rank in self.ranks}
        for task in self.tasks:
            end = self.now if task.end is None else task.end
            begin = task.start
            moved = max(begin, end - task.busy_ns) if task.handover_ns else begin
            for rank in task.command.occupied:
                gives = rank not in task.command.ranks
                lane = spans.setdefault(rank, [])
                free = lane[-1].end if lane else 0
                start = max(begin, free)
                lane.append(Span(rank, task, start, max(start, moved), max(start, moved if gives else end), gives))
        return spans

    # ---- events -------------------------------------------------------------------------------------------------

    def _events(self, events: Sequence[Event], notes: list[Note]) -> None:
        joined: list[int] = []
        for event in events:
            match event:
                case RequestArrived(at=at, request=request):
                    self._arrived(at, request, notes)
                case TaskFinished():
                    self._finished(event)
                case TaskFailed():
                    self._failed(event, notes)
                case WorkerJoined(at=at, rank=rank, incarnation=incarnation):
                    self._joined(at, rank, incarnation)
                    joined.append(rank)
                case WorkerLost():
                    self._lost(event, notes)
                case PolicyOverran(at=at, seconds=seconds):
                    notes.append(Note(at, NoteKind.POLICY, f"a tick took {human_s(seconds)}, over the policy's limit"))
                case PolicySwapped(at=at, label=label, how=how):
                    notes.append(Note(at, NoteKind.POLICY, f"{label} takes over{how and f' ({how})'}"))
                    self.policy, self.swapped_to = "", label  # the note above says it
                case RequestCancelled() | PolicyEjected():
                    pass  # the command that ends the request, and the news of the ejection, tell it
                case _:
                    assert_never(event)
        if joined:
            at = max(event.at for event in events if isinstance(event, WorkerJoined))
            text = named_ranks(joined) if len(joined) == 1 else f"{len(joined)} workers: {named_ranks(joined)}"
            notes.append(Note(at, NoteKind.JOINED, text, ranks=tuple(joined)))

    def _arrived(self, at: int, request: Request, notes: list[Note]) -> None:
        if request.id in self.lives:
            return
        life = Life(request, waiting_since=request.arrival_ns)
        self.lives[request.id] = self._live[request.id] = life
        self._states[life.state] += 1
        self.totals.arrived += 1
        frames = "" if request.frames == 1 else f"x{request.frames}"
        text = f"{request.class_name}, {request.width}x{request.height}{frames}, {counted(request.steps, 'step')}"
        notes.append(Note(at, NoteKind.ARRIVED, text, life))

    def _finished(self, event: TaskFinished) -> None:
        if (flight := self._open.pop(event.epoch, None)) is None:
            return
        life, task, stint = flight
        task.end, task.busy_ns, task.handover_ns = event.at, event.busy_ns, event.handover_ns
        stint.end = event.at
        stint.handover_ns += event.handover_ns
        if task.command.stage is Stage.DENOISE:
            life.steps_done = task.command.first_step + task.command.steps
        self._settling[life.request.id] = life

    def _failed(self, event: TaskFailed, notes: list[Note]) -> None:
        if (flight := self._open.pop(event.epoch, None)) is None:
            return
        life, task, stint = flight
        task.end = stint.end = event.at
        task.failed = stint.failed = event.code
        if life.end is not None:
            return
        life.setbacks += 1
        self._settling[life.request.id] = life
        where = f"{task.command.stage} on {named_ranks(task.command.ranks)}"
        text = f"{event.code} during {where}" + (f": {event.message}" if event.message else "")
        notes.append(Note(event.at, NoteKind.SET_BACK, text, life, task.command.ranks))

    def _joined(self, at: int, rank: int, incarnation: int) -> None:
        self.alive[rank] = incarnation
        self.lanes.setdefault(rank, deque())
        outages = self.outages.setdefault(rank, [])
        if outages and outages[-1][1] is None:
            outages[-1] = (outages[-1][0], at)

    def _lost(self, event: WorkerLost, notes: list[Note]) -> None:
        if self.alive.get(event.rank) != event.incarnation:
            return
        del self.alive[event.rank]
        self.outages[event.rank].append((event.at, None))
        notes.append(Note(event.at, NoteKind.LOST, f"rank {event.rank}: {event.cause}", ranks=(event.rank,)))

    # ---- commands and moves -------------------------------------------------------------------------------------

    def _policy_news(self, now: int, policy: str, news: Sequence[PolicyNews], notes: list[Note]) -> None:
        for one in news:
            notes.append(Note(now, NoteKind.POLICY, f"error: {one.text}" if one.kind is NewsKind.ERROR else one.text))
        if policy and self.policy and policy != self.policy:
            notes.append(Note(now, NoteKind.POLICY, f"{self.policy} -> {policy}"))
        self.policy = policy or self.policy

    def _commands(self, now: int, commands: Sequence[Command], notes: list[Note]) -> None:
        for command in commands:
            match command:
                case RunTask():
                    self._run(now, command)
                case EndRequest():
                    self._end(command, notes)
                case AbortTask():
                    pass  # the task ends by an event of its own
                case _:
                    assert_never(command)

    def _run(self, now: int, command: RunTask) -> None:
        life = self.lives[command.request_id]
        task = Task(command, now)
        if life.number < 0:
            self._name(life, now)
        unbroken = self._settling.pop(command.request_id, None) is not None
        last = life.stints[-1] if life.stints else None
        same = last is not None and (last.stage, last.ranks) == (command.stage, command.ranks)
        if unbroken and last is not None and same and not last.failed:
            last.end = None
            last.steps += command.steps
        else:
            last = Stint(life, command.stage, command.ranks, now, command.first_step, command.steps)
            life.stints.append(last)
            for rank in command.ranks:
                self.lanes.setdefault(rank, deque()).append(last)
        if not unbroken:
            life.wait_ns += max(0, now - life.waiting_since)
        self._change(life, State.RUNNING)
        self._open[command.epoch] = (life, task, last)
        if self._keep_ns is None:
            self.tasks.append(task)

    def _name(self, life: Life, now: int) -> None:
        """Its number, and the next letter that no running request has (any, when all 26 are taken)."""
        life.number = self._started
        life.first_start = now
        taken = {other.letter for other in self._live.values()}
        for ahead in range(1, len(LETTERS) + 1):
            if LETTERS[(self._letter + ahead) % len(LETTERS)] not in taken:
                self._letter = (self._letter + ahead) % len(LETTERS)
                break
        else:
            self._letter = (self._letter + 1) % len(LETTERS)
        life.letter = LETTERS[self._letter]
        self._started += 1

    def _end(self, command: EndRequest, notes: list[Note]) -> None:
        life = self.lives[command.request_id]
        self._settling.pop(command.request_id, None)
        if life.state is not State.RUNNING:
            life.wait_ns += max(0, command.at - life.waiting_since)
        life.end = command
        self._change(life, State(command.outcome.value))
        self._live.pop(command.request_id, None)
        self._ended.append(life)
        self.totals.outcomes[command.outcome] += 1
        self.totals.on_time += command.on_time
        notes.append(Note(command.at, _ending(command), _end_text(life, command), life))

    def _settle(self) -> None:
        """Whose task ended, and who got no other: it waits from then on."""
        for life in self._settling.values():
            if life.state not in TERMINAL:
                self._change(life, State.PAUSED)
                life.waiting_since = life.stints[-1].end or self.now
        self._settling.clear()

    def _change(self, life: Life, state: State) -> None:
        self._states[life.state] -= 1
        life.state = state
        if state not in TERMINAL:
            self._states[state] += 1

    def _moves(self, now: int, moves: Sequence[Move], notes: list[Note]) -> None:
        for move in moves:
            life = self.lives[move.request_id]
            life.moves[move.kind] += 1
            life.because = move.because
            self.totals.moves[move.kind] += 1
            if move.because is not None:
                self.totals.clauses[(move.because.clause, move.because.line)] += 1
            notes.append(Note(now, NoteKind(move.kind.value), _move_text(move), life, move.after, move.because))

    # ---- upkeep -------------------------------------------------------------------------------------------------

    def _sample(self, now: int) -> None:
        busy = sum(len(task.command.ranks) for _, task, _ in self._open.values())
        sample = Sample(now, busy, len(self.alive), self._states[State.WAITING], self._states[State.PAUSED])
        last = self.samples[-1] if self.samples else None
        if last is not None and last.at == now:
            self.samples[-1] = sample
        elif last is None or (last.busy, last.workers, last.waiting, last.paused) != (
            sample.busy, sample.workers, sample.waiting, sample.paused,
        ):  # fmt: skip
            self.samples.append(sample)

    def _forget(self, before: int) -> None:
        for lane in self.lanes.values():
            while lane and lane[0].end is not None and lane[0].end < before:
                lane.popleft()
        while self._ended and self._ended[0].end is not None and self._ended[0].end.at < before:
            self.lives.pop(self._ended.popleft().request.id, None)
        while len(self.samples) > 1 and self.samples[1].at < before:
            self.samples.popleft()
        while len(self.notes) > 50 and self.notes[0].at < before:
            self.notes.popleft()
        for outages in self.outages.values():
            while outages and outages[0][1] is not None and outages[0][1] < before:
                del outages[0]


def _ending(command: EndRequest) -> NoteKind:
    match command.outcome:
        case Outcome.COMPLETED:
            return NoteKind.DONE if command.on_time else NoteKind.MISSED
        case Outcome.REJECTED:
            return NoteKind.REJECTED
        case Outcome.FAILED:
            return NoteKind.FAILED
        case Outcome.CANCELLED:
            return NoteKind.CANCELLED
        case _:
            assert_never(command.outcome)


def _end_text(life: Life, command: EndRequest) -> str:
    if command.outcome is not Outcome.COMPLETED:
        return command.message or command.code
    text = f"in {human_s((command.at - life.request.arrival_ns) / 1e9)}"
    if command.deadline_ns is None:
        return text
    spare = (command.deadline_ns - command.at) / 1e9
    return f"{text}, {human_s(spare)} to spare" if spare >= 0 else f"{text}, {human_s(-spare)} late"


def _move_text(move: Move) -> str:
    match move.kind:
        case MoveKind.START | MoveKind.RESUME:
            return f"sp {len(move.after)} on {named_ranks(move.after)}"
        case MoveKind.GROW | MoveKind.SHRINK:
            return f"sp {len(move.before)} -> {len(move.after)} on {named_ranks(move.after)}"
        case MoveKind.MIGRATE:
            return f"{named_ranks(move.before)} -> {rank_ranges(move.after)}"
        case MoveKind.PAUSE:
            return f"gives up {named_ranks(move.before)}"
        case _:
            assert_never(move.kind)
