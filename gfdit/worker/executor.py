"""Runs tasks on one rank: finds or receives the state, works, keeps the result.

One executor per worker process; `run` blocks and is called by one thread, `abort` by any. What a rank keeps of a
trajectory is its state after the last completed task and the one before it, so that a task whose result was lost, or
that failed on some member only, can be run again from where it started.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gfdit.collectives import Key, Lease, World
from gfdit.core.work import Stage
from gfdit.errors import ModelError, StateError, TaskAborted
from gfdit.worker.cfg_parallel import can_divide, divide
from gfdit.worker.codec import to_bytes
from gfdit.worker.context_parallel import install, plan_of
from gfdit.worker.facts import denoisers, facts_of
from gfdit.worker.formation import use_formation
from gfdit.worker.handover import hand_over
from gfdit.worker.inputs import Intake
from gfdit.worker.lanes import Traffic, formation
from gfdit.worker.loading import Loaded, load, set_threads
from gfdit.worker.memory import can_tile, one_kind, tiled
from gfdit.worker.outputs import encode_output
from gfdit.worker.tasks import ModelFacts, Task, TaskResult, split_state
from gfdit.worker.trajectory import Mark, Replica, Trajectory

TIMEOUT_S = 30.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Held:
    """A trajectory that this rank has, and where it was before its last task."""

    trajectory: Trajectory
    before: Mark | None = None


class Executor:
    """A model on a device, the trajectories this rank has a part of, and the way to the other ranks.

    `world` None: this rank works alone. `threads`: CPU threads of torch in this process. `timeout_s`: how long a
    collective waits for members that are alive but do not come. `dtype`: see `load`.
    """

    def __init__(
        self,
        model: Path | str | Loaded,
        *,
        device: str = "cpu",
        world: World | None = None,
        threads: int = 1,
        timeout_s: float = TIMEOUT_S,
        dtype: str = "",
    ) -> None:
        set_threads(threads)
        loaded = model if isinstance(model, Loaded) else load(model, device=device, dtype=dtype)
        self._world = world
        self._timeout_s = timeout_s
        self._replica = Replica(loaded.pipe)
        for transformer in denoisers(loaded.pipe):
            if plan_of(transformer) is not None:
                install(transformer)
        for guider in self._replica.guiders().values():
            if can_divide(guider):
                divide(guider)
        self._facts = facts_of(loaded, self._replica)
        self.intake = Intake(self._replica, self._facts, loaded.limits)
        self._held: dict[str, Held] = {}
        self._lock = threading.Lock()  # guards the three below
        self._epoch = 0
        self._lease: Lease | None = None
        self._abort_reason: str | None = None

    def describe(self) -> ModelFacts:
        """Facts of the model for schedulers and clients."""
        return self._facts

    def held(self) -> dict[str, tuple[Stage, int]]:
        """Last completed stage and number of completed steps of every trajectory kept here."""
        positions = {name: (held.trajectory.stage, held.trajectory.done) for name, held in self._held.items()}
        return {name: (stage, done) for name, (stage, done) in positions.items() if stage is not None}

    def drop(self, request_id: str) -> None:
        """Forget a trajectory; nothing happens if it is not here."""
        self._held.pop(request_id, None)

    def abort(self, epoch: int, reason: str) -> bool:
        """Stop the task of this epoch as soon as possible, from any thread; False if it is not running here."""
        with self._lock:
            if self._epoch != epoch:
                return False
            self._abort_reason = reason
            if self._lease is not None:
                self._lease.abort(reason)
            return True

    def run(self, task: Task) -> TaskResult:
        """Carry out this rank's part of a task.

        Raises InputError (the client's fault), StateError (the state is not here), TaskAborted, ModelError, a
        CollectiveError, MemoryError whatever the device calls it, or whatever the model raises. Afterwards the
        trajectory is where it was before the step that failed.
        """
        rank = task.participants[0] if self._world is None else self._world.rank
        if rank not in task.participants:
            return TaskResult(task.epoch, task.request_id)
        traffic = Traffic()
        with self._running(task) as lease:
            start = time.perf_counter()
            held = self._ready(task, lease, traffic)
            ready = time.perf_counter()
            result = TaskResult(task.epoch, task.request_id)
            if held is not None:
                with one_kind():
                    result = self._perform(task, held.trajectory, lease, traffic)
            if rank != task.members[0]:
                result = replace(result, cold=None, hot=None, output=None)
        return replace(
            result,
            handover_s=ready - start,
            compute_s=time.perf_counter() - ready,
            collectives=traffic.collectives,
            bytes_moved=traffic.bytes_moved,
        )

    @contextmanager
    def _running(self, task: Task) -> Iterator[Lease | None]:
        """The lease of a task that more than one rank takes part in, aborted on any error so that nobody waits for
        us.
        """
        lease = None
        if _needs_lease(task):
            if self._world is None:
                raise ModelError(f"epoch {task.epoch} needs ranks {task.participants}; this worker runs alone")
            lease = self._world.open(Key(task.participants, task.epoch), timeout=self._timeout_s)
        with self._lock:
            self._epoch, self._lease, self._abort_reason = task.epoch, lease, None
        try:
            yield lease
        except BaseException as error:
            if lease is not None:
                lease.abort(f"{type(error).__name__}: {error}")
            if isinstance(error, Exception):
                self._stop_if_aborted(task, error)
            raise
        finally:
            with self._lock:
                self._epoch, self._lease = 0, None
            if lease is not None:
                lease.close()

    def _stop_if_aborted(self, task: Task, error: Exception | None = None) -> None:
        """Raise TaskAborted if `abort` was called; `error` is what that broke off."""
        with self._lock:
            reason = self._abort_reason
        if reason is not None:
            raise TaskAborted(f"epoch {task.epoch} was stopped: {reason}") from error

    def _ready(self, task: Task, lease: Lease | None, traffic: Traffic) -> Held | None:
        """The trajectory where the task starts, with a mark to come back to; None on a rank that only gives it away."""
        if task.stage is Stage.ENCODE:
            self._held[task.request_id] = Held(self.intake.start(task.inputs))
            return self._held[task.request_id]
        held = self._settled(task)
        if task.has_handover:
            assert lease is not None  # a hand-over has at least two participants
            trajectory = hand_over(
                lease,
                self._replica,
                held.trajectory if held else None,
                newest=held is not None and _starts(task, held.trajectory),
                members=len(task.members),
                traffic=traffic,
            )
            if lease.index >= len(task.members):
                return None
            assert trajectory is not None
            held = self._held[task.request_id] = Held(trajectory)
        if held is None or not _starts(task, held.trajectory):
            have = self.held().get(task.request_id)
            where = f"is at {have[0]} with {have[1]} steps done" if have else "is not here"
            raise StateError(f"`{task.stage}` of request `{task.request_id}` cannot start: the trajectory {where}")
        held.before = Mark.of(held.trajectory)
        return held

    def _settled(self, task: Task) -> Held | None:
        """What is here of the request: as the task restores it, or back before its last task if that is the start."""
        held = self._held.get(task.request_id)
        if task.restore is not None and (held is None or not _starts(task, held.trajectory)):
            cold, hot = split_state(task.restore)
            held = self._held[task.request_id] = Held(self._replica.restore(cold, hot))
        if held is not None and held.before is not None and not _starts(task, held.trajectory):
            after = Mark.of(held.trajectory)
            held.before.restore(held.trajectory)
            if not _starts(task, held.trajectory):
                after.restore(held.trajectory)
        return held

    def _perform(self, task: Task, trajectory: Trajectory, lease: Lease | None, traffic: Traffic) -> TaskResult:
        result = TaskResult(task.epoch, task.request_id)
        match task.stage:
            case Stage.ENCODE:
                self._replica.encode(trajectory, task.epoch)
            case Stage.PREPARE:
                self._replica.prepare(trajectory, task.epoch)
            case Stage.DENOISE:
                self._denoise(task, trajectory, lease, traffic)
                result = replace(result, hot=to_bytes(trajectory.hot()))
            case Stage.DECODE:
                self._decode(trajectory)
            case Stage.FINALIZE:
                if trajectory.stage is not Stage.DECODE:  # restored from a checkpoint, which is taken before decoding
                    self._decode(trajectory)
                result = replace(result, output=encode_output(trajectory.state.values))
            case _:
                raise ModelError(f"a worker has no stage `{task.stage}`")
        if task.stage in (Stage.ENCODE, Stage.PREPARE) and trajectory.cold is not None:
            result = replace(result, cold=to_bytes(trajectory.cold))
        return replace(result, done=trajectory.done, total=trajectory.total)

    def _decode(self, trajectory: Trajectory) -> None:
        """At once, or in tiles when there is not memory enough for that."""
        pipe = self._replica.pipe
        try:
            with one_kind():
                return self._replica.decode(trajectory)
        except MemoryError as error:
            if not can_tile(pipe):
                raise
            _log.warning("decoding ran out of memory and is done again in tiles: %s", error)
        with tiled(pipe):
            self._replica.decode(trajectory)

    def _denoise(self, task: Task, trajectory: Trajectory, lease: Lease | None, traffic: Traffic) -> None:
        total = trajectory.total
        if total is None or not 0 < task.steps <= total - trajectory.done:
            raise StateError(
                f"{task.steps} steps from step {trajectory.done} on do not fit into a trajectory of {total}"
            )
        groups = None
        if lease is not None and len(task.ranks) > 1:
            groups = formation(lease, task.ranks, lease.ranks[lease.index], task.parallel, traffic)
        with use_formation(groups):
            for _ in range(task.steps):
                self._stop_if_aborted(task)
                self._replica.step(trajectory)
        if self._replica.device.type == "cuda":
            torch.cuda.synchronize(self._replica.device)


def _needs_lease(task: Task) -> bool:
    return len(task.participants) > 1 and (task.has_handover or task.stage is Stage.DENOISE)


def _starts(task: Task, trajectory: Trajectory) -> bool:
    """Whether the trajectory is where the task begins."""
    whole = trajectory.stage in (Stage.PREPARE, Stage.DENOISE) and trajectory.done == trajectory.total
    match task.stage:
        case Stage.PREPARE:
            return trajectory.stage is Stage.ENCODE
        case Stage.DENOISE:
            return trajectory.stage in (Stage.PREPARE, Stage.DENOISE) and trajectory.done == task.first_step
        case Stage.DECODE:
            return whole
        case Stage.FINALIZE:
            return whole or trajectory.stage is Stage.DECODE
        case _:
            return False
