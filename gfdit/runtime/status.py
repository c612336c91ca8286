"""How a running system is, as data: what `GET /gfdit/status` answers, `gfdit status` prints and `gfdit top` draws.

`StatusBoard` is an observer that keeps the last minutes; `status()` may be asked from any thread. All times are seconds
of the system's clock. `picture_of` turns a detailed status back into a timeline, so that the console draws one kind of
thing only.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gfdit.core.commands import EndRequest
from gfdit.core.events import Event
from gfdit.core.lifecycle import State
from gfdit.core.proposal import Because, WaitReason
from gfdit.core.scheduler import Decision, MoveKind, Scheduler
from gfdit.core.work import Outcome, Request, Stage
from gfdit.runtime.standing import Standing, standing
from gfdit.runtime.timeline import Life, Note, NoteKind, Sample, Stint, Timeline
from gfdit.units import to_ns, to_s

FORMAT: Literal["gfdit-status/1"] = "gfdit-status/1"
WINDOWS_S = (60, 300, 900)
MOST_ENDED = 100_000
MOST_NOTES = 50


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """The policy in charge. `fallback`: it took over from one that was ejected."""

    name: str
    sha: str
    fallback: bool
    version: int = 0


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """Ranks. `busy`: those in a task now."""

    expected: int
    alive: tuple[int, ...]
    busy: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """Live requests: those that have not begun, those that have and have no ranks, those with ranks."""

    waiting: int
    paused: int
    running: int


@dataclass(frozen=True, slots=True)
class Attainment:
    """Requests that ended within the last `seconds` (None: since the start). `share`: None when none did."""

    seconds: int | None
    ended: int
    on_time: int
    share: float | None


@dataclass(frozen=True, slots=True)
class TotalsStatus:
    """Counts since the start."""

    arrived: int
    outcomes: Mapping[Outcome, int]
    moves: Mapping[MoveKind, int]


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """One request. `budget_s`: what it came with; `deadline_s`: by that, or by its class's. `slack_s`: what is left
    until then after the work that remains; None without a deadline.

    `wait_reason`: why it has no ranks. `cap`: the degree it is to shrink to at its next boundary. `letter` and `number`
    tell running ones apart on screens.
    """

    id: str
    model: str
    class_name: str
    width: int
    height: int
    frames: int
    state: State
    stage: Stage | None
    steps_done: int
    steps_total: int
    degree: int
    ranks: tuple[int, ...]
    arrived_s: float
    waited_s: float
    budget_s: float | None
    deadline_s: float | None
    slack_s: float | None
    wait_reason: WaitReason | None
    cap: int | None
    resizes: int
    preemptions: int
    attempts: int
    ended_s: float | None = None
    on_time: bool | None = None
    letter: str = ""
    number: int = -1


@dataclass(frozen=True, slots=True)
class StintStatus:
    """A request on one group for one stage without a break; `end_s` None while a task of it is in flight."""

    request: str
    stage: Stage
    ranks: tuple[int, ...]
    first_step: int
    steps: int
    start_s: float
    end_s: float | None


@dataclass(frozen=True, slots=True)
class NoteStatus:
    """One line for people."""

    at_s: float
    kind: NoteKind
    text: str
    request: str | None
    ranks: tuple[int, ...]
    because: Because | None


@dataclass(frozen=True, slots=True)
class SampleStatus:
    """Counts from `at_s` until the next sample."""

    at_s: float
    busy: int
    workers: int
    waiting: int
    paused: int


@dataclass(frozen=True, slots=True)
class OutageStatus:
    """A rank had no worker; `until_s` None: still."""

    rank: int
    from_s: float
    until_s: float | None


@dataclass(frozen=True, slots=True)
class Recent:
    """What the last `window_s` seconds looked like. `ended`: requests that ended in them."""

    window_s: float
    ended: tuple[RequestStatus, ...]
    stints: tuple[StintStatus, ...]
    notes: tuple[NoteStatus, ...]
    samples: tuple[SampleStatus, ...]
    outages: tuple[OutageStatus, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """The whole answer. `requests`: live ones by arrival; `recent` only when details were asked for."""

    now_s: float
    up_s: float
    model: str
    device: str
    policy: PolicyStatus
    accepting: bool
    workers: WorkerStatus
    queue: QueueStatus
    attainment: tuple[Attainment, ...]
    totals: TotalsStatus
    requests: tuple[RequestStatus, ...]
    recent: Recent | None = None
    format: Literal["gfdit-status/1"] = FORMAT


@dataclass(frozen=True, slots=True)
class About:
    """What does not change while a system runs. `window_s`: how far back details reach."""

    model: str
    device: str
    ranks: int
    window_s: float


class Ends:
    """Which of the requests that ended within the last quarter of an hour were on time."""

    def __init__(self) -> None:
        self._ends: deque[tuple[int, bool]] = deque(maxlen=MOST_ENDED)

    def record(self, now: int, decision: Decision) -> None:
        for command in decision.commands:
            if isinstance(command, EndRequest):
                self._ends.append((command.at, command.on_time))
        while self._ends and self._ends[0][0] < now - to_ns(WINDOWS_S[-1]):
            self._ends.popleft()

    def within(self, seconds: int, now: int) -> Attainment:
        """Of the last `seconds`, which is one of `WINDOWS_S`."""
        ends = [on_time for at, on_time in self._ends if at >= now - to_ns(seconds)]
        return Attainment(seconds, len(ends), sum(ends), sum(ends) / len(ends) if ends else None)


class StatusBoard:
    """See the module. `now`: the system's clock."""

    def __init__(self, about: About, scheduler: Scheduler, now: Callable[[], int]) -> None:
        self._about, self._scheduler, self._now = about, scheduler, now
        self._timeline = Timeline(
            about.ranks, keep_s=1.25 * about.window_s, policy_of=lambda: self._scheduler.policy.name
        )
        self._ends = Ends()
        self._lock = threading.Lock()

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        with self._lock:
            self._timeline.record(now, events, decision, tick_seconds)
            self._ends.record(now, decision)

    def rate(self) -> float | None:
        """Requests that ended a second within the last minute; None when none did."""
        with self._lock:
            now = self._timeline.now
            ended = self._ends.within(WINDOWS_S[0], now).ended
            began = self._timeline.began or 0
        if not ended:
            return None
        return ended / max(1e-3, min(WINDOWS_S[0], to_s(now - began)))

    def status(self, *, accepting: bool, detail: bool = False) -> Status:
        with self._lock:
            return self._status(accepting, detail)

    def _status(self, accepting: bool, detail: bool) -> Status:
        timeline, about, policy = self._timeline, self._about, self._scheduler.policy
        began = timeline.began
        now = timeline.now if began is None else max(timeline.now, self._now())
        live = timeline.live()
        busy = {rank for life in live for rank in life.group}
        running = sum(life.state is State.RUNNING for life in live)
        paused = sum(life.state is State.PAUSED for life in live)
        return Status(
            now_s=to_s(now),
            up_s=to_s(0 if began is None else now - began),
            model=about.model,
            device=about.device,
            policy=PolicyStatus(policy.name, policy.sha, policy is not self._scheduler.appointed, policy.version),
            accepting=accepting,
            workers=WorkerStatus(about.ranks, tuple(sorted(timeline.alive)), tuple(sorted(busy))),
            queue=QueueStatus(len(live) - running - paused, paused, running),
            attainment=self._attainment(now),
            totals=TotalsStatus(
                timeline.totals.arrived, dict(timeline.totals.outcomes), dict(timeline.totals.moves)
            ),
            requests=tuple(_request(life, standing(self._scheduler, life.request.id, now), now) for life in live),
            recent=self._recent() if detail else None,
        )  # fmt: skip

    def _attainment(self, now: int) -> tuple[Attainment, ...]:
        totals = self._timeline.totals
        windows = [self._ends.within(seconds, now) for seconds in WINDOWS_S]
        return (*windows, Attainment(None, totals.ended, totals.on_time, totals.attainment))

    def _recent(self) -> Recent:
        timeline = self._timeline
        stints = {id(stint): stint for lane in timeline.lanes.values() for stint in lane}
        notes = [note for note in timeline.notes if note.life is None or note.life.request.id in timeline.lives]
        return Recent(
            window_s=self._about.window_s,
            ended=tuple(_request(life, None, timeline.now) for life in timeline.ended()),
            stints=tuple(_stint(stint) for stint in stints.values()),
            notes=tuple(_note(note) for note in notes[-MOST_NOTES:]),
            samples=tuple(SampleStatus(to_s(s.at), s.busy, s.workers, s.waiting, s.paused) for s in timeline.samples),
            outages=tuple(
                OutageStatus(rank, to_s(begin), None if end is None else to_s(end))
                for rank, outages in timeline.outages.items()
                for begin, end in outages
            ),
        )


def _request(life: Life, stands: Standing | None, now: int) -> RequestStatus:
    request = life.request
    waits = life.end is None and life.state is not State.RUNNING
    deadline = life.deadline_ns if stands is None else stands.deadline_ns
    slack = None if stands is None or stands.slack_s is None or not math.isfinite(stands.slack_s) else stands.slack_s
    return RequestStatus(
        id=request.id,
        model=request.model,
        class_name=request.class_name if stands is None else stands.class_name,
        width=request.width,
        height=request.height,
        frames=request.frames,
        state=life.state,
        stage=life.stints[-1].stage if life.stints else None,
        steps_done=life.steps_done,
        steps_total=request.steps if stands is None else stands.steps_total,
        degree=len(life.group),
        ranks=life.group,
        arrived_s=to_s(request.arrival_ns),
        waited_s=to_s(life.wait_ns + (max(0, now - life.waiting_since) if waits else 0)),
        budget_s=None if request.slo_ns is None else to_s(request.slo_ns),
        deadline_s=None if deadline is None else to_s(deadline),
        slack_s=slack,
        wait_reason=stands.wait_reason if stands is not None and waits else None,
        cap=None if stands is None else stands.cap,
        resizes=life.resizes,
        preemptions=life.preemptions,
        attempts=life.attempts,
        ended_s=None if life.end is None else to_s(life.end.at),
        on_time=None if life.end is None else life.end.on_time,
        letter=life.letter,
        number=life.number,
    )


def _stint(stint: Stint) -> StintStatus:
    end = None if stint.end is None else to_s(stint.end)
    request = stint.life.request.id
    return StintStatus(request, stint.stage, stint.ranks, stint.first_step, stint.steps, to_s(stint.start), end)


def _note(note: Note) -> NoteStatus:
    request = None if note.life is None else note.life.request.id
    return NoteStatus(to_s(note.at), note.kind, note.text, request, note.ranks, note.because)


# ---- and back -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Picture:
    """A status as the console draws it."""

    timeline: Timeline
    standings: Mapping[str, Standing] = field(default_factory=dict)


def picture_of(status: Status) -> Picture:
    """The timeline that a detailed status tells of, and how its live requests stand."""
    timeline = Timeline(status.workers.expected)
    timeline.began, timeline.now = to_ns(status.now_s - status.up_s), to_ns(status.now_s)
    timeline.policy = status.policy.name
    timeline.alive = dict.fromkeys(status.workers.alive, 0)
    totals = timeline.totals
    totals.arrived, totals.on_time = status.totals.arrived, status.attainment[-1].on_time
    totals.outcomes, totals.moves = Counter(status.totals.outcomes), Counter(status.totals.moves)
    recent = status.recent
    timeline.restore([_life(row) for row in (*(recent.ended if recent else ()), *status.requests)])
    if recent is not None:
        _restore_recent(timeline, recent)
    standings = {
        row.id: Standing(row.state, row.class_name, row.steps_total, row.slack_s, row.wait_reason, cap=row.cap)
        for row in status.requests
    }  # fmt: skip
    return Picture(timeline, standings)


def _life(row: RequestStatus) -> Life:
    arrival = to_ns(row.arrived_s)
    request = Request(
        row.id, row.model, row.class_name, arrival, row.height, row.width, row.steps_total, tokens=0,
        frames=row.frames, slo_ns=None if row.budget_s is None else to_ns(row.budget_s),
    )  # fmt: skip
    life = Life(request, row.state, row.number, row.letter, steps_done=row.steps_done, wait_ns=to_ns(row.waited_s))
    if row.ended_s is not None:
        deadline = None if row.deadline_s is None else to_ns(row.deadline_s)
        life.end = EndRequest(row.id, Outcome(row.state.value), to_ns(row.ended_s), deadline)
    return life


def _restore_recent(timeline: Timeline, recent: Recent) -> None:
    for one in sorted(recent.stints, key=lambda one: one.start_s):
        life = timeline.lives.get(one.request)
        if life is None:
            continue
        end = None if one.end_s is None else to_ns(one.end_s)
        stint = Stint(life, one.stage, one.ranks, to_ns(one.start_s), one.first_step, one.steps, end)
        life.stints.append(stint)
        for rank in one.ranks:
            timeline.lanes.setdefault(rank, deque()).append(stint)
    timeline.notes.extend(
        Note(to_ns(n.at_s), n.kind, n.text, timeline.lives.get(n.request or ""), n.ranks, n.because)
        for n in recent.notes
    )
    timeline.samples.extend(Sample(to_ns(s.at_s), s.busy, s.workers, s.waiting, s.paused) for s in recent.samples)
    timeline.outages = {rank: [] for rank in timeline.outages}
    for outage in recent.outages:
        until = None if outage.until_s is None else to_ns(outage.until_s)
        timeline.outages.setdefault(outage.rank, []).append((to_ns(outage.from_s), until))
