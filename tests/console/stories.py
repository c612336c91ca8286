"""A run told by hand, with the real events, commands and moves: what console and report must show of it is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gfdit.core.commands import Command, EndRequest, RunTask
from gfdit.core.events import Event, RequestArrived, TaskFailed, TaskFinished, WorkerJoined, WorkerLost
from gfdit.core.parallel import Parallel
from gfdit.core.proposal import Because
from gfdit.core.scheduler import Decision, Move, MoveKind
from gfdit.core.work import Outcome, Request, Stage
from gfdit.units import to_ns

Record = Callable[[int, Sequence[Event], Decision, float], None]


def make_request(request_id: str, at_s: float, class_name: str, side: int, steps: int, slo_s: float | None) -> Request:
    slo_ns = None if slo_s is None else to_ns(slo_s)
    return Request(request_id, "shapes", class_name, to_ns(at_s), side, side, steps, side * side // 256, slo_ns=slo_ns)


class Teller:
    """Collects what happens at one instant and hands it over as one tick."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._epoch = 0
        self._open: dict[str, int] = {}

    def tick(self, at_s: float, *happened: Event | Command | Move) -> None:
        events = [thing for thing in happened if isinstance(thing, Event)]
        commands = tuple(thing for thing in happened if isinstance(thing, Command))
        moves = tuple(thing for thing in happened if isinstance(thing, Move))
        self._record(to_ns(at_s), events, Decision(commands, None, moves), 1e-4)

    def run(
        self, request_id: str, stage: Stage, step: int, ranks: tuple[int, ...], sources: tuple[int, ...] = ()
    ) -> RunTask:
        self._epoch += 1
        self._open[request_id] = self._epoch
        return RunTask(self._epoch, request_id, stage, step, 1, ranks, Parallel(ulysses=len(ranks)), 4, sources)

    def finished(self, at_s: float, request_id: str, busy_s: float, handover_s: float = 0.0) -> TaskFinished:
        return TaskFinished(to_ns(at_s), self._open.pop(request_id), to_ns(busy_s), to_ns(handover_s))

    def failed(self, at_s: float, request_id: str, code: str, message: str) -> TaskFailed:
        return TaskFailed(to_ns(at_s), self._open.pop(request_id), code, message)

    def epoch_of(self, request_id: str) -> int:
        return self._open[request_id]


def move(
    kind: MoveKind, request_id: str, before: tuple[int, ...], after: tuple[int, ...], clause: str = "", line: int = 0
) -> Move:
    because = Because(clause, line) if clause else None
    return Move(kind, request_id, before, after, because)


def ended(request_id: str, at_s: float, deadline_s: float | None, outcome: Outcome = Outcome.COMPLETED) -> EndRequest:
    deadline = None if deadline_s is None else to_ns(deadline_s)
    message = "" if outcome is Outcome.COMPLETED else "the queue is full"
    return EndRequest(request_id, outcome, to_ns(at_s), deadline, "", message)


def tell(record: Record) -> None:
    """Four ranks, until second 24.

    `big-1` starts on rank 0, grows to 4 ranks, shrinks to 2 when `small-2` comes, loses a rank with its worker at 16 s,
    is set back, resumes on one rank and is paused for `small-3`. `small-2` is on time, `late-4` is not, `no-5` is
    rejected.
    """
    t = Teller(record)
    t.tick(0.0, *(WorkerJoined(0, rank, 1) for rank in range(4)))
    big = make_request("big-1", 1.0, "batch", 256, 6, None)
    t.tick(1.0, RequestArrived(to_ns(1.0), big), t.run("big-1", Stage.ENCODE, 0, (0,)))
    t.tick(
        3.0, t.finished(3.0, "big-1", 2.0), t.run("big-1", Stage.DENOISE, 0, (0,)),
        move(MoveKind.START, "big-1", (), (0,), "sp", 4),
    )  # fmt: skip
    t.tick(
        5.0, t.finished(5.0, "big-1", 2.0), t.run("big-1", Stage.DENOISE, 1, (0, 1, 2, 3), (0,)),
        move(MoveKind.GROW, "big-1", (0,), (0, 1, 2, 3), "grow", 7),
    )  # fmt: skip
    t.tick(8.0, t.finished(8.0, "big-1", 2.5, 0.5), t.run("big-1", Stage.DENOISE, 2, (0, 1, 2, 3)))
    small = make_request("small-2", 9.0, "interactive", 64, 2, 6.0)
    t.tick(9.0, RequestArrived(to_ns(9.0), small))
    t.tick(
        11.0, t.finished(11.0, "big-1", 3.0), t.run("big-1", Stage.DENOISE, 3, (0, 1)),
        t.run("small-2", Stage.DENOISE, 0, (2, 3)),
        move(MoveKind.SHRINK, "big-1", (0, 1, 2, 3), (0, 1), "preempt", 11),
        move(MoveKind.START, "small-2", (), (2, 3), "sp", 4),
    )  # fmt: skip
    t.tick(12.5, t.finished(12.5, "small-2", 1.5), t.run("small-2", Stage.DENOISE, 1, (2, 3)))
    t.tick(14.0, t.finished(14.0, "small-2", 1.5), ended("small-2", 14.0, 15.0))
    late = make_request("late-4", 14.5, "interactive", 128, 1, 2.0)
    t.tick(
        14.5, RequestArrived(to_ns(14.5), late), t.run("late-4", Stage.DENOISE, 0, (2,)),
        move(MoveKind.START, "late-4", (), (2,), "sp", 4),
    )  # fmt: skip
    t.tick(
        16.0, WorkerLost(to_ns(16.0), 1, 1, "killed by signal 9"),
        t.failed(16.0, "big-1", "worker_lost", "rank 1 died"),
        t.run("big-1", Stage.DENOISE, 3, (3,), (0,)), move(MoveKind.RESUME, "big-1", (), (3,), "sp", 4),
    )  # fmt: skip
    t.tick(17.0, t.finished(17.0, "late-4", 2.5), ended("late-4", 17.0, 16.5))
    no = make_request("no-5", 17.5, "batch", 256, 6, 1.0)
    t.tick(17.5, RequestArrived(to_ns(17.5), no), ended("no-5", 17.5, 18.5, Outcome.REJECTED))
    urgent = make_request("small-3", 18.0, "interactive", 64, 3, 12.0)
    t.tick(18.0, RequestArrived(to_ns(18.0), urgent))
    t.tick(19.0, WorkerJoined(to_ns(19.0), 1, 2))
    t.tick(
        20.0, t.finished(20.0, "big-1", 4.0), t.run("small-3", Stage.DENOISE, 0, (0, 2, 3)),
        move(MoveKind.PAUSE, "big-1", (3,), ()), move(MoveKind.START, "small-3", (), (0, 2, 3), "sp", 4),
    )  # fmt: skip
    t.tick(22.0, t.finished(22.0, "small-3", 2.0), t.run("small-3", Stage.DENOISE, 1, (0, 2, 3)))
    t.tick(24.0)
