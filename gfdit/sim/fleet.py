"""A fleet whose workers are entries in a heap: durations come from the cost model, time from the next event.

It keeps the promises of `runtime.ports.Fleet` and the order rules of a real one: ranks carry out tasks in the order
they were sent; a hand-over occupies the union of both groups before the compute of the new one begins.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import assert_never

import numpy as np

from gfdit.core.commands import AbortTask, Command, EndRequest, RunTask
from gfdit.core.cost import CostModel
from gfdit.core.events import Event, RequestArrived, TaskFailed, TaskFinished, WorkerJoined
from gfdit.core.work import Request
from gfdit.units import to_ns

IDLE_TICKS_BEFORE_GIVING_UP = 10_000  # a policy that only ever asks to be woken serves nobody


class VirtualClock:
    """Time is what the simulated fleet says it is."""

    def __init__(self) -> None:
        self.time = 0

    def now(self) -> int:
        return self.time


class SimFleet:
    """`gpus` ranks that join at time 0, and a workload that arrives. `noise`: relative sigma of task durations
    (lognormal)."""

    def __init__(
        self,
        clock: VirtualClock,
        cost: CostModel,
        gpus: int,
        requests: Iterable[Request],
        *,
        seed: int = 0,
        noise: float = 0.0,
    ) -> None:
        self._clock = clock
        self._cost = cost
        self._noise = noise
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._heap: list[tuple[int, int, Event]] = []
        self._pushed = 0
        self._requests: dict[str, Request] = {}
        self._free_at = dict.fromkeys(range(gpus), 0)
        self._running: dict[int, RunTask] = {}
        self._idle_ticks = 0
        self._stuck = False
        for rank in range(gpus):
            self._push(WorkerJoined(0, rank, 0))
        for request in requests:
            self._requests[request.id] = request
            self._push(RequestArrived(request.arrival_ns, request))

    @property
    def done(self) -> bool:
        """Served, or stuck: nothing is under way, and the policy places nothing of what is left."""
        return not self._heap and (not self._requests or self._stuck)

    def poll(self, until: int | None) -> list[Event]:
        if not self._heap or (until is not None and self._heap[0][0] > until):
            if until is not None:
                self._clock.time = max(self._clock.time, until)
            self._idle_ticks += not self._heap
            self._stuck = until is None or self._idle_ticks > IDLE_TICKS_BEFORE_GIVING_UP
            return []
        self._idle_ticks = 0
        self._clock.time = self._heap[0][0]
        events: list[Event] = []
        while self._heap and self._heap[0][0] == self._clock.time:
            event = heapq.heappop(self._heap)[2]
            if not (isinstance(event, TaskFinished) and self._running.pop(event.epoch, None) is None):
                events.append(event)
        return events

    def send(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case RunTask():
                    self._start(command)
                case AbortTask(epoch=epoch, reason=reason):
                    self._abort(epoch, reason)
                case EndRequest(request_id=request_id):
                    self._requests.pop(request_id, None)
                case _:
                    assert_never(command)

    def tick_took(self, seconds: float, limit: float | None) -> None:
        """Virtual time does not pass while a policy thinks."""

    def _start(self, command: RunTask) -> None:
        occupied = command.occupied
        begin = max([self._clock.time, *(self._free_at[rank] for rank in occupied)]) + to_ns(self._cost.dispatch_s)
        handover = to_ns(self._cost.reshard_s) if command.has_handover else 0
        for rank in occupied:
            self._free_at[rank] = begin + handover
        busy = self._duration(command)
        end = begin + handover + busy
        for rank in command.ranks:
            self._free_at[rank] = end
        self._running[command.epoch] = command
        self._push(TaskFinished(end, command.epoch, busy_ns=busy, handover_ns=handover))

    def _duration(self, command: RunTask) -> int:
        request = self._requests[command.request_id]
        seconds = self._cost.seconds(request, command.stage, command.parallel.degree) * command.steps
        if self._noise:
            seconds *= float(np.exp(self._random.normal(0.0, self._noise)))
        return to_ns(seconds)

    def _abort(self, epoch: int, reason: str) -> None:
        command = self._running.pop(epoch, None)
        if command is None:
            return
        for rank in command.ranks:
            self._free_at[rank] = self._clock.time
        self._push(TaskFailed(self._clock.time, epoch, "aborted", reason, blame=False))

    def _push(self, event: Event) -> None:
        self._pushed += 1  # events of one instant keep the order they were caused in
        heapq.heappush(self._heap, (event.at, self._pushed, event))
