"""What a client holds while its request lives: a ticket. Written by the controller's thread, read by any.

`Tickets` learns how requests fare as an Observer of the loop, so the scheduler keeps nothing for clients.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from gfdit.core.commands import EndRequest, RunTask
from gfdit.core.events import Event, TaskFailed, TaskFinished
from gfdit.core.recent import IDS_REMEMBERED, Recent
from gfdit.core.scheduler import Decision, MoveKind
from gfdit.core.work import Outcome, Request, Stage
from gfdit.errors import InputError


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request is. `degrees`: (first step, ranks) for each run of steps on one degree. Times are the clock's
    ns.
    """

    status: Status = Status.QUEUED
    stage: Stage | None = None
    steps_done: int = 0
    steps_total: int = 0
    cache: float = 0.0
    ranks: tuple[int, ...] = ()
    degrees: tuple[tuple[int, int], ...] = ()
    resizes: int = 0
    preemptions: int = 0
    migrations: int = 0
    failures: int = 0
    arrived_ns: int | None = None
    started_ns: int | None = None
    ended_ns: int | None = None
    deadline_ns: int | None = None
    on_time: bool = False
    outcome: Outcome | None = None
    code: str = ""
    message: str = ""


class Ticket:
    """One request's progress and, at its end, its output. `progress`, `output`: as they were known before."""

    def __init__(self, request: Request, progress: Progress | None = None, output: bytes | None = None) -> None:
        self.request = request
        self._progress = progress or Progress(steps_total=request.steps)
        self._output = output
        self._version = 0
        self._changed = threading.Condition()
        self._callbacks: list[Callable[[Ticket], None]] = []

    @property
    def progress(self) -> Progress:
        return self._progress

    @property
    def output(self) -> bytes | None:
        """The result's bytes once completed."""
        return self._output

    @property
    def ended(self) -> bool:
        return self._progress.status is Status.ENDED

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; False if `timeout` seconds passed before."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ended, timeout)

    def wait_change(self, seen: int, timeout: float | None = None) -> int:
        """Wait until the progress is newer than version `seen` (start with 0); returns its version, `seen` on a
        timeout.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._version > seen, timeout)
            return self._version

    def on_end(self, callback: Callable[[Ticket], None]) -> None:
        """Call back when it ends, from the controller's thread; at once if it has. The callback must be quick."""
        with self._changed:
            if not self.ended:
                self._callbacks.append(callback)
                return
        callback(self)

    def update(self, progress: Progress, output: bytes | None = None) -> None:
        """For the controller's thread alone, but for the end. Nothing changes after that."""
        with self._changed:
            if self.ended:
                return
            self._progress, self._output = progress, output
            self._version += 1
            ready = self._callbacks if progress.status is Status.ENDED else []
            self._changed.notify_all()
        for callback in ready:
            callback(self)


class Tickets:
    """The tickets of live requests; an Observer. `remembered`: how many ids of ended requests stay taken. More than the
    scheduler remembers, which would take a request of an id that it knows for an old event."""

    def __init__(self, remembered: int = 2 * IDS_REMEMBERED) -> None:
        self._live: dict[str, Ticket] = {}
        self._used = Recent(remembered)
        self._lock = threading.Lock()
        self._tasks: dict[int, RunTask] = {}

    def __len__(self) -> int:
        return len(self._live)

    def open(self, request: Request) -> Ticket:
        """Raises InputError for an id that a live request has, or one of the latest that ended."""
        ticket = Ticket(request)
        with self._lock:
            if request.id in self._live or request.id in self._used:
                raise InputError(f"request id `{request.id}` is taken", hint="give every request an id of its own")
            self._live[request.id] = ticket
        return ticket

    def __contains__(self, request_id: str) -> bool:
        """Whether the id is taken."""
        return request_id in self._live or request_id in self._used

    def remember(self, ended: Iterable[str]) -> None:
        """Ids of requests that ended before: they are taken."""
        with self._lock:
            for request_id in ended:
                self._used.add(request_id)

    def discard(self, request_id: str) -> None:
        """It was not accepted after all: as if `open` had never been called."""
        with self._lock:
            self._live.pop(request_id, None)

    def get(self, request_id: str) -> Ticket | None:
        return self._live.get(request_id)

    def live(self) -> list[Ticket]:
        with self._lock:
            return list(self._live.values())

    def arrived(self, request_id: str, now: int) -> None:
        self._update(request_id, arrived_ns=now)

    def end(self, command: EndRequest, output: bytes | None) -> None:
        """Any thread: one that lives ends with `output`."""
        last = self.final(command)
        with self._lock:
            ticket = self._live.pop(command.request_id, None)
            self._used.add(command.request_id)
        if ticket is not None and last is not None:
            ticket.update(last, output)

    def final(self, command: EndRequest) -> Progress | None:
        """What its progress is once it has ended so; None for one that does not live."""
        ticket = self._live.get(command.request_id)
        if ticket is None:
            return None
        return replace(
            ticket.progress,
            status=Status.ENDED,
            ranks=(),
            ended_ns=command.at,
            deadline_ns=command.deadline_ns,
            on_time=command.on_time,
            outcome=command.outcome,
            code=command.code,
            message=command.message,
            cache=command.cache,
        )

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        for event in events:
            match event:
                case TaskFinished(epoch=epoch):
                    self._task_ended(epoch, failed=False)
                case TaskFailed(epoch=epoch):
                    self._task_ended(epoch, failed=True)
                case _:
                    pass
        for move in decision.moves:
            self._moved(move.request_id, move.kind)
        for command in decision.commands:
            if isinstance(command, RunTask):
                self._task_began(command, now)

    def _task_began(self, task: RunTask, now: int) -> None:
        ticket = self._live.get(task.request_id)
        if ticket is None:
            return
        self._tasks[task.epoch] = task
        before = ticket.progress
        degrees = before.degrees
        if task.stage is Stage.DENOISE:  # a step that runs again takes its first attempt out of the history
            degrees = tuple(entry for entry in degrees if entry[0] < task.first_step)
            if not degrees or degrees[-1][1] != len(task.ranks):
                degrees = (*degrees, (task.first_step, len(task.ranks)))
        started = now if before.started_ns is None else before.started_ns
        ticket.update(
            replace(
                before,
                status=Status.RUNNING,
                stage=task.stage,
                ranks=task.ranks,
                degrees=degrees,
                started_ns=started,
            )
        )

    def _task_ended(self, epoch: int, *, failed: bool) -> None:
        task = self._tasks.pop(epoch, None)
        ticket = None if task is None else self._live.get(task.request_id)
        if task is None or ticket is None:
            return
        if failed:
            self._update(task.request_id, status=Status.PAUSED, ranks=(), failures=ticket.progress.failures + 1)
        elif task.stage is Stage.DENOISE:
            self._update(task.request_id, steps_done=task.first_step + task.steps)

    def _moved(self, request_id: str, kind: MoveKind) -> None:
        ticket = self._live.get(request_id)
        if ticket is None:
            return
        progress = ticket.progress
        match kind:
            case MoveKind.GROW | MoveKind.SHRINK:
                self._update(request_id, resizes=progress.resizes + 1)
            case MoveKind.MIGRATE:
                self._update(request_id, migrations=progress.migrations + 1)
            case MoveKind.PAUSE:
                self._update(request_id, status=Status.PAUSED, ranks=(), preemptions=progress.preemptions + 1)
            case MoveKind.START | MoveKind.RESUME:
                pass

    def _update(self, request_id: str, **changes: object) -> None:
        ticket = self._live.get(request_id)
        if ticket is not None:
            ticket.update(replace(ticket.progress, **changes))  # type: ignore[arg-type]
