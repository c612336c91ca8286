"""A fleet whose workers are entries in a heap: durations come from the cost model, time from the next event.

It keeps the promises of `runtime.ports.Fleet` and the order rules of a real one: ranks carry out tasks in the order
they were sent; a hand-over occupies the union of both groups before the compute of the new one begins; a worker that
crashes takes its tasks with it and comes back with nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np

from gfdit.core.commands import AbortTask, Command, EndRequest, RunTask
from gfdit.core.cost import CostModel
from gfdit.core.events import Event, RequestArrived, TaskFailed, TaskFinished, WorkerJoined, WorkerLost
from gfdit.core.topology import Topology
from gfdit.core.work import Request, Stage
from gfdit.sim.faults import FaultPlan, Faults
from gfdit.units import to_ns

IDLE_TICKS_BEFORE_GIVING_UP = 10_000  # a policy that only ever asks to be woken serves nobody


class VirtualClock:
    """Time is what the simulated fleet says it is."""

    def __init__(self) -> None:
        self.time = 0

    def now(self) -> int:
        return self.time


@dataclass(slots=True)
class FaultCount:
    """What went wrong: workers that crashed, tasks that failed by it, tasks that a straggler made slower, hand-overs
    that a slow link did."""

    crashes: int = 0
    failed_tasks: int = 0
    slowed_tasks: int = 0
    slowed_handovers: int = 0


@dataclass(slots=True)
class _Live:
    """A request in the system, and the seconds of its tasks as far as they were looked up."""

    request: Request
    seconds: dict[tuple[Stage, int], float] = field(default_factory=dict)


@dataclass(slots=True)
class _Running:
    """A task under way. Its sources are free after `handover_end`."""

    command: RunTask
    handover_end: int


class SimFleet:
    """`gpus` ranks that join at time 0, and a workload that arrives. `cost` says what work really takes.

    `noise`: relative sigma of task durations (lognormal). `faults`: what goes wrong; both are drawn from `seed`.
    `topology`: which node each rank lives on, nodes of eight if it is not given.
    """

    def __init__(
        self,
        clock: VirtualClock,
        cost: CostModel,
        gpus: int,
        requests: Iterable[Request],
        *,
        seed: int = 0,
        noise: float = 0.0,
        faults: Faults | None = None,
        topology: Topology | None = None,
    ) -> None:
        self._clock = clock
        self._cost = cost
        self._topology = topology or Topology.uniform(gpus)
        self._noise = noise
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._heap: list[tuple[int, int, Event]] = []
        self._pushed = 0
        self._requests: dict[str, _Live] = {}
        self._free_at = [0] * gpus
        self._alive: dict[int, int] = {}  # rank -> incarnation
        self._lives = [0] * gpus
        self._running: dict[int, _Running] = {}
        self._dispatch_ns = to_ns(cost.dispatch_s)
        self._faults = None if faults is None else FaultPlan(faults, gpus, seed)
        self.fault_count = FaultCount()
        self._idle_ticks = 0
        self._stuck = False
        for rank in range(gpus):
            self._join(rank, 0)
        for request in requests:
            self.submit(request)

    def submit(self, request: Request) -> None:
        """One more request, which arrives at its time or, when that has passed, with the next events."""
        self._requests[request.id] = _Live(request)
        self._push(RequestArrived(max(request.arrival_ns, self._clock.time), request))

    @property
    def done(self) -> bool:
        """Served, or stuck: nothing is under way, and the policy places nothing of what is left."""
        return not self._heap and (not self._requests or self._stuck)

    def poll(self, until: int | None) -> list[Event]:
        heap = self._heap
        if not heap:  # nothing can happen any more, but for what the policy does when it is asked again
            self._idle_ticks += 1
            self._stuck = until is None or self._idle_ticks > IDLE_TICKS_BEFORE_GIVING_UP
            self._clock.time = max(self._clock.time, until or 0)
            return []
        next_at = heap[0][0]
        if self._faults is not None and self._requests and self._faults.crash_at < next_at:
            next_at = self._faults.crash_at
        if until is not None and next_at > until:
            self._clock.time = max(self._clock.time, until)
            return []
        self._idle_ticks = 0
        if next_at < heap[0][0]:
            return self._crash()
        now = self._clock.time = heap[0][0]
        events: list[Event] = []
        while heap and heap[0][0] == now:
            event = heapq.heappop(heap)[2]
            if isinstance(event, TaskFinished):
                if self._running.pop(event.epoch, None) is None:
                    continue
            elif isinstance(event, WorkerJoined):
                self._alive[event.rank] = event.incarnation
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

    def processor_s(self) -> float:
        return 0.0

    def too_slow(self, seconds: float, limit: float | None) -> bool:
        """Virtual time does not pass while a policy thinks."""
        return False

    # ---- tasks ------------------------------------------------------------------------------------------------------

    def _start(self, command: RunTask) -> None:
        ranks, free_at = command.ranks, self._free_at
        begin = self._clock.time
        for rank in command.occupied if command.sources else ranks:
            if free_at[rank] > begin:
                begin = free_at[rank]
        begin += self._dispatch_ns
        handover = self._handover(command, begin) if command.has_handover else 0
        busy = self._duration(command, begin + handover)
        end = begin + handover + busy
        for rank in command.sources:
            free_at[rank] = begin + handover
        for rank in ranks:
            free_at[rank] = end
        self._running[command.epoch] = _Running(command, begin + handover)
        self._push(TaskFinished(end, command.epoch, busy, handover))

    def _handover(self, command: RunTask, at: int) -> int:
        """Nanoseconds until every member has the state. A checkpoint comes from outside of every node."""
        node_of = self._topology.node_of
        nodes = {node_of[rank] for rank in command.sources}
        across = not all(node_of[rank] in nodes for rank in command.ranks)
        seconds = self._cost.reshard_s
        if across and self._cost.reshard_across_s is not None:
            seconds = self._cost.reshard_across_s
        if self._faults is not None:
            factor = self._faults.slow_links.factor(command.occupied, at)
            self.fault_count.slowed_handovers += factor > 1
            seconds *= factor
        return to_ns(seconds)

    def _duration(self, command: RunTask, at: int) -> int:
        live = self._requests[command.request_id]
        key = command.stage, len(command.ranks)
        seconds = live.seconds.get(key)
        if seconds is None:
            seconds = live.seconds[key] = self._cost.seconds(live.request, *key)
        seconds *= command.steps
        if self._noise:
            seconds *= float(np.exp(self._random.normal(0.0, self._noise)))
        if self._faults is not None:
            factor = self._faults.slow_ranks.factor(command.ranks, at)
            self.fault_count.slowed_tasks += factor > 1
            seconds *= factor
        return to_ns(seconds)

    def _abort(self, epoch: int, reason: str) -> None:
        running = self._running.pop(epoch, None)
        if running is None:
            return
        for rank in running.command.ranks:
            self._free_at[rank] = self._clock.time
        self._push(TaskFailed(self._clock.time, epoch, "aborted", reason, blame=False))

    # ---- crashes ----------------------------------------------------------------------------------------------------

    def _crash(self) -> list[Event]:
        """The next crash: the worker is lost, then its tasks fail; it joins again later."""
        assert self._faults is not None
        crash = self._faults.pop_crash()
        now = self._clock.time = max(self._clock.time, crash.at)
        alive = sorted(self._alive)
        rank = crash.rank if crash.rank is not None else alive[int(crash.draw * len(alive))] if alive else None
        if rank is None or rank not in self._alive:
            return []
        self.fault_count.crashes += 1
        events: list[Event] = [WorkerLost(now, rank, self._alive.pop(rank), "crash")]
        for epoch, running in list(self._running.items()):
            command = running.command
            if rank in command.ranks or (rank in command.sources and running.handover_end > now):
                del self._running[epoch]
                self.fault_count.failed_tasks += 1
                for member in command.ranks:
                    self._free_at[member] = now
                blame = rank in command.ranks  # as in a live system, where nobody can tell whose fault it was
                events.append(TaskFailed(now, epoch, "worker_lost", f"rank {rank} crashed", blame))
        self._free_at[rank] = now
        self._join(rank, now + crash.restart_ns)
        return events

    def _join(self, rank: int, at: int) -> None:
        self._push(WorkerJoined(at, rank, self._lives[rank]))
        self._lives[rank] += 1

    def _push(self, event: Event) -> None:
        self._pushed += 1  # events of one instant keep the order they were caused in
        heapq.heappush(self._heap, (event.at, self._pushed, event))
