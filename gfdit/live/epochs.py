"""Many members' answers become one event an epoch. Pure bookkeeping: no sockets, no clock.

    sent --all participants answered--> TaskFinished | TaskFailed

A participant that dies counts as having answered. The promise of `events.py` rests on this module: every epoch that is
opened here ends with exactly one event, and an epoch that is not open yields none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gfdit.core.commands import RunTask
from gfdit.wire.messages import Code, TaskDone, TaskFailed

# What is told when members fail for different reasons: causes before consequences.
_GRAVITY: tuple[Code, ...] = ("out_of_memory", "error", "worker_lost", "timeout", "aborted")
# Whether a request may have caused it. An abort was asked for, by the controller or by a member that failed first.
_BLAMED = frozenset({"out_of_memory", "error", "worker_lost", "timeout"})


@dataclass(slots=True)
class OpenEpoch:
    """`waiting`: participants that owe an answer."""

    command: RunTask
    waiting: set[int]
    results: dict[int, TaskDone] = field(default_factory=dict)
    failures: dict[int, TaskFailed] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finished:
    """`result` is the leader's; the times are the slowest member's."""

    command: RunTask
    result: TaskDone
    compute_s: float
    handover_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    command: RunTask
    code: Code
    message: str
    blame: bool


Settled = Finished | Failed


class EpochBook:
    """The open epochs. `open` begins one; `done` and `failed` report one answer and return what it settles."""

    def __init__(self) -> None:
        self._open: dict[int, OpenEpoch] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, command: RunTask, participants: Iterable[int]) -> None:
        """`participants`: the group, and ranks outside it that only give state."""
        self._open[command.epoch] = OpenEpoch(command, set(participants))

    def waiting_on(self, epoch: int) -> tuple[int, ...]:
        entry = self._open.get(epoch)
        return () if entry is None else tuple(sorted(entry.waiting))

    def done(self, rank: int, result: TaskDone) -> Settled | None:
        entry = self._entry(rank, result.epoch)
        if entry is None:
            return None
        entry.results[rank] = result
        return self._answered(rank, entry)

    def failed(self, rank: int, failure: TaskFailed) -> Settled | None:
        entry = self._entry(rank, failure.epoch)
        if entry is None:
            return None
        entry.failures[rank] = failure
        return self._answered(rank, entry)

    def _entry(self, rank: int, epoch: int) -> OpenEpoch | None:
        entry = self._open.get(epoch)
        return entry if entry is not None and rank in entry.waiting else None

    def _answered(self, rank: int, entry: OpenEpoch) -> Settled | None:
        entry.waiting.discard(rank)
        if entry.waiting:
            return None
        del self._open[entry.command.epoch]
        return _failure(entry) if entry.failures else _success(entry)


def _success(entry: OpenEpoch) -> Finished:
    members = [entry.results[rank] for rank in entry.command.ranks]
    return Finished(
        command=entry.command,
        result=members[0],
        compute_s=max(result.compute_s for result in members),
        handover_s=max(result.handover_s for result in members),
    )


def _failure(entry: OpenEpoch) -> Failed:
    rank, worst = min(entry.failures.items(), key=lambda item: (_GRAVITY.index(item[1].code), item[0]))
    blame = worst.code in _BLAMED and rank in entry.command.ranks
    return Failed(entry.command, worst.code, f"rank {rank}: {worst.message}".strip(": "), blame)
