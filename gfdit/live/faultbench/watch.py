"""An observer that knows what is in flight, how often each request ended, and how long faults took to be noticed.

Written by the controller's thread, read and waited on by the one that does the faults.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gfdit.core.commands import EndRequest, RunTask
from gfdit.core.events import Event, RequestArrived, TaskFailed, TaskFinished, WorkerJoined, WorkerLost
from gfdit.core.scheduler import Decision
from gfdit.core.work import Request
from gfdit.runtime.ports import Observer


@dataclass(slots=True)
class Blow:
    """One fault: done to the incarnation of a rank at `at`, on the system's clock. `hurt`: epochs in flight on
    it then. `lost_at`: when the controller knew; `back_at`: when each request that lost its task ran again."""

    rank: int
    incarnation: int
    at: int
    hurt: dict[int, str]
    lost_at: int | None = None
    back_at: dict[str, int] = field(default_factory=dict)


class Watch:
    """See the module. Everything that is asked is asked under `changed`. `guest`: another observer, for a while."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.flights: dict[int, RunTask] = {}
        self.alive: dict[int, int] = {}  # rank -> incarnation
        self.failures: Counter[str] = Counter()  # of requests, that count against them
        self.ends: Counter[str] = Counter()
        self.requests: dict[str, Request] = {}
        self.blows: list[Blow] = []
        self.guest: Observer | None = None
        self._latest: dict[tuple[int, int], Blow] = {}
        self._missing: dict[str, Blow] = {}  # requests that lost a task and do not run again yet

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        with self.changed:
            for event in events:
                self._happened(event)
            for command in decision.commands:
                self._ordered(command, now)
            self.changed.notify_all()
        if (guest := self.guest) is not None:
            guest.record(now, events, decision, tick_seconds)

    def _happened(self, event: Event) -> None:
        match event:
            case RequestArrived(request=request):
                self.requests[request.id] = request
            case WorkerJoined(rank=rank, incarnation=incarnation):
                self.alive[rank] = incarnation
            case WorkerLost(at=at, rank=rank, incarnation=incarnation):
                self.alive.pop(rank, None)
                blow = self._latest.pop((rank, incarnation), None)
                if blow is not None:
                    blow.lost_at = at
            case TaskFinished(epoch=epoch):
                self.flights.pop(epoch, None)
            case TaskFailed(epoch=epoch, blame=blame):
                task = self.flights.pop(epoch, None)
                if task is None:
                    return
                self.failures[task.request_id] += blame
                for blow in reversed(self.blows[-8:]):
                    if epoch in blow.hurt:
                        self._missing[task.request_id] = blow
                        break
            case _:
                pass

    def _ordered(self, command: object, now: int) -> None:
        match command:
            case RunTask():
                self.flights[command.epoch] = command
                blow = self._missing.pop(command.request_id, None)
                if blow is not None:
                    blow.back_at[command.request_id] = now
            case EndRequest():
                self.ends[command.request_id] += 1
                self._missing.pop(command.request_id, None)
            case _:
                pass

    def strike(self, rank: int, now: Callable[[], int], hit: Callable[[], None]) -> Blow:
        """Do `hit` to the worker of `rank`, which is alive, and remember what it hurts. Call under `changed`."""
        hurt = {epoch: task.request_id for epoch, task in self.flights.items() if rank in task.ranks}
        blow = Blow(rank, self.alive[rank], now(), hurt)
        self.blows.append(blow)
        self._latest[rank, blow.incarnation] = blow
        hit()
        return blow
