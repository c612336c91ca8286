"""An emulated device: same tasks, same collectives, same hand-overs; the compute is the time that a cost table says.

A trajectory's state is a chain of hashes over everything that was done to it, so a result equals the uninterrupted
chain exactly when no stage or step was lost, doubled or taken out of order. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace

from gfdit.collectives import Key, Lane, Lease, World
from gfdit.core.cost import CostModel
from gfdit.core.work import Request, Stage
from gfdit.errors import StateError
from gfdit.runtime.costfile import parse_cost_model
from gfdit.worker.aborts import AbortBoard
from gfdit.worker.tasks import Input, Task, TaskResult, join_state, split_state

LATENT_BYTES = 4096

_INPUTS = tuple(
    field.name
    for field in fields(Request)
    if field.name not in ("id", "class_name", "arrival_ns", "priority", "slo_ns", "tag")
)


def inputs_of(request: Request) -> dict[str, Input]:
    """What an emulated worker reads of a request: enough to look up its costs."""
    return {name: getattr(request, name) for name in _INPUTS}


def start_digest(inputs: Mapping[str, Input]) -> bytes:
    return hashlib.sha256(json.dumps(dict(inputs), sort_keys=True).encode()).digest()


def next_digest(digest: bytes, stage: Stage, index: int) -> bytes:
    """The chain after one more stage, or one more step (`index` counts the steps; 0 for other stages)."""
    return hashlib.sha256(digest + f"{stage}:{index}".encode()).digest()


def expected_output(inputs: Mapping[str, Input], stages: Iterable[Stage], steps: int) -> bytes:
    """The output of a trajectory that ran `stages` in order, each once, and `steps` denoising steps."""
    digest = start_digest(inputs)
    for stage in stages:
        for index in range(steps if stage is Stage.DENOISE else 1):
            digest = next_digest(digest, stage, index)
    return digest.hex().encode()


@dataclass(frozen=True, slots=True)
class Emulated:
    """The state of one trajectory: its inputs (cold), and the chain so far (hot)."""

    inputs: Mapping[str, Input]
    digest: bytes
    done: int = 0

    @property
    def latent(self) -> bytes:
        """Bytes to move and to check, as a real latent would be."""
        return hashlib.shake_256(self.digest).digest(LATENT_BYTES)

    @property
    def cold(self) -> bytes:
        return json.dumps(dict(self.inputs), sort_keys=True).encode()

    @property
    def hot(self) -> bytes:
        return self.digest + self.done.to_bytes(8, "little") + self.latent

    @classmethod
    def from_bytes(cls, restore: bytes) -> Emulated:
        """Raises StateError for bytes that are not a whole state."""
        cold, hot = split_state(restore)
        if hot is None or len(hot) != 40 + LATENT_BYTES:
            raise StateError("an emulated state has no hot part of the right length")
        state = cls(json.loads(cold), hot[:32], int.from_bytes(hot[32:40], "little"))
        if hot[40:] != state.latent:
            raise StateError("an emulated latent does not belong to its chain: bytes were lost on the way")
        return state


class EmulatedExecutor:
    """Runs tasks on the ranks' shared memory and a table's time; one thread."""

    def __init__(self, cost_model_json: str, time_scale: float, world: World, aborts: AbortBoard) -> None:
        self._cost: CostModel = parse_cost_model(cost_model_json)
        self._scale = time_scale
        self._world = world
        self._aborts = aborts
        self._rank = world.rank
        self._held: dict[str, Emulated] = {}

    def run(self, task: Task) -> TaskResult:
        """Raises TaskAborted, StateError or a CollectiveError; the state held before is then still held."""
        with ExitStack() as stack:
            lease: Lease | None = None
            if len(task.participants) > 1:
                lease = stack.enter_context(self._world.open(Key(task.participants, task.epoch)))
            begin = time.perf_counter()
            state = self._take_over(task, lease)
            if task.has_handover or task.restore is not None:
                self._aborts.sleep(task.epoch, self._cost.reshard_s / self._scale - (time.perf_counter() - begin))
            handover_s = time.perf_counter() - begin
            if self._rank not in task.members:
                return TaskResult(task.epoch, task.request_id, done=state.done, handover_s=handover_s, collectives=1)
            lane: Lane | None = lease
            if lease is not None and task.participants != task.members:
                lane = lease.lane(task.members, 1) if len(task.members) > 1 else None
            begin = time.perf_counter()
            after = self._compute(task, state, lane)
        self._held[task.request_id] = after
        return self._result(task, after, handover_s, time.perf_counter() - begin)

    def abort(self, epoch: int, reason: str) -> bool:
        """The sleeps look at the board themselves."""
        return epoch in self._aborts

    def drop(self, request_id: str) -> None:
        self._held.pop(request_id, None)

    def _take_over(self, task: Task, lane: Lane | None) -> Emulated:
        """The state that the task begins with, from wherever the task says."""
        if task.restore is not None:
            return Emulated.from_bytes(task.restore)
        held = self._held.get(task.request_id)
        if not task.has_handover or lane is None:
            return held if held is not None and not task.inputs else _fresh(task)
        holders = [index for index, rank in enumerate(task.participants) if rank in task.sources]
        if self._rank not in task.sources:
            return Emulated.from_bytes(bytes(lane.handover(None, holders)))
        if held is None:
            raise StateError(f"rank {self._rank} is to give the state of request `{task.request_id}` and has none")
        lane.handover(join_state(held.cold, held.hot), holders)
        return held

    def _compute(self, task: Task, state: Emulated, lane: Lane | None) -> Emulated:
        request = _request(task.request_id, state.inputs)
        seconds = self._cost.seconds(request, task.stage, len(task.members)) / self._scale
        for index in range(task.first_step, task.first_step + task.steps):
            if task.stage is Stage.DENOISE and state.done != index:
                raise StateError(f"step {index} of request `{task.request_id}` is asked for after {state.done} steps")
            if lane is not None:
                self._check_shards(state, lane)
            self._aborts.sleep(task.epoch, seconds)
            if lane is not None:
                lane.barrier()
            position = index if task.stage is Stage.DENOISE else 0
            state = replace(
                state,
                digest=next_digest(state.digest, task.stage, position),
                done=state.done + (task.stage is Stage.DENOISE),
            )
        return state

    @staticmethod
    def _check_shards(state: Emulated, lane: Lane) -> None:
        """Each member gives its shard of the latent; together they must be the whole one."""
        latent, size = state.latent, lane.size
        bounds = [LATENT_BYTES * i // size for i in range(size + 1)]
        shards = lane.all_gather(latent[bounds[lane.index] : bounds[lane.index + 1]])
        if b"".join(bytes(shard) for shard in shards) != latent:
            raise StateError("members of the group hold different latents")

    def _result(self, task: Task, after: Emulated, handover_s: float, compute_s: float) -> TaskResult:
        leads = self._rank == task.members[0]
        chain = self._cost.stages(str(after.inputs["model"]))
        shared = len(task.members) > 1
        return TaskResult(
            epoch=task.epoch,
            request_id=task.request_id,
            done=after.done,
            total=_integer(after.inputs, "steps"),
            cold=after.cold if leads and task.inputs else None,
            hot=after.hot if leads else None,
            output=after.digest.hex().encode() if leads and task.stage is chain[-1] else None,
            handover_s=handover_s,
            compute_s=compute_s,
            collectives=task.has_handover + 2 * task.steps * shared,
            bytes_moved=(LATENT_BYTES - LATENT_BYTES // len(task.members)) * task.steps,
        )


def _fresh(task: Task) -> Emulated:
    if not task.inputs:
        raise StateError(f"no state of request `{task.request_id}` is held here, and no inputs came to start it")
    return Emulated(task.inputs, start_digest(task.inputs))


def _integer(inputs: Mapping[str, Input], name: str) -> int:
    value = inputs.get(name)
    if not isinstance(value, int):
        raise StateError(f"input `{name}` of an emulated request must be an integer, not {value!r}")
    return value


def _request(request_id: str, inputs: Mapping[str, Input]) -> Request:
    """The request again, as far as costs are concerned."""
    return Request(
        id=request_id,
        model=str(inputs["model"]),
        class_name="",
        arrival_ns=0,
        height=_integer(inputs, "height"),
        width=_integer(inputs, "width"),
        steps=_integer(inputs, "steps"),
        tokens=_integer(inputs, "tokens"),
        frames=_integer(inputs, "frames"),
        text_tokens=_integer(inputs, "text_tokens"),
        cfg=bool(inputs.get("cfg")),
    )
