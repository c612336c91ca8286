"""What controller and workers say to each other, by direction: frozen dataclasses, nothing else.

Every number and text has a bound, checked where bytes become messages (`gfdit.wire.codec`). Fields of type `Blob`
travel as frames of their own beside the JSON header, never inside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from gfdit.core.work import Stage

MAX_RANKS = 128  # of one group


def _only_as_frame(value: object) -> None:
    """A blob inside the header is a forged one: its field must be absent or null there."""
    if value is not None:
        raise ValueError("raw bytes travel as frames beside the header, not inside it")


Blob = Annotated[bytes | None, BeforeValidator(_only_as_frame)]
Rank = Annotated[int, Field(ge=0, lt=1 << 16)]
Epoch = Annotated[int, Field(gt=0, lt=1 << 40)]
Incarnation = Annotated[int, Field(gt=0, lt=1 << 32)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Seconds = Annotated[float, Field(ge=0.0, lt=1e9, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
RequestId = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(max_length=4096)]
Degree = Annotated[int, Field(ge=1, le=MAX_RANKS)]
Value = Annotated[str, Field(max_length=1 << 16)] | int | float | bool | None
Values = Annotated[Mapping[Name, Value], Field(max_length=64)]
Ranks = Annotated[tuple[Rank, ...], Field(max_length=MAX_RANKS)]

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a rank's shared memory is: the plain integers of `gfdit.collectives.Endpoint`."""

    __pydantic_config__ = _STRICT

    rank: Rank
    incarnation: Incarnation
    pid: Count
    fd: Count
    start_time: Count


@dataclass(frozen=True, slots=True)
class Facts:
    """What a worker knows of its model: the fields of `gfdit.worker.tasks.ModelFacts`."""

    __pydantic_config__ = _STRICT

    name: Name
    family: Name
    heads: Degree
    degrees: Annotated[tuple[Degree, ...], Field(min_length=1, max_length=MAX_RANKS)]
    branches: Annotated[int, Field(ge=1, le=4)]
    token_height: Annotated[int, Field(ge=1, le=1 << 12)]
    token_width: Annotated[int, Field(ge=1, le=1 << 12)]
    frame_factor: Annotated[int, Field(ge=1, le=1 << 12)]
    defaults: Values
    video: bool = False


# --- from the controller to a worker ---


@dataclass(frozen=True, slots=True)
class Run:
    """Run one task. `endpoints`: those of all its participants, so that no rank ever has to ask for a peer."""

    __pydantic_config__ = _STRICT

    epoch: Epoch
    request_id: RequestId
    stage: Stage
    ranks: Annotated[Ranks, Field(min_length=1)]
    first_step: Count
    steps: Count
    sources: Ranks
    parallel: tuple[Degree, Degree, Degree]  # cfg, ulysses, ring
    endpoints: Annotated[tuple[Endpoint, ...], Field(max_length=2 * MAX_RANKS)] = ()
    inputs: Values = field(default_factory=dict)
    restore: Blob = None
    type: Literal["run"] = "run"


@dataclass(frozen=True, slots=True)
class Abort:
    """Give this epoch up as soon as possible. May overtake its `Run`."""

    __pydantic_config__ = _STRICT

    epoch: Epoch
    reason: Text
    type: Literal["abort"] = "abort"


@dataclass(frozen=True, slots=True)
class Forget:
    """The request has ended: drop its state."""

    __pydantic_config__ = _STRICT

    request_id: RequestId
    type: Literal["forget"] = "forget"


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Finish what runs, then exit."""

    __pydantic_config__ = _STRICT

    type: Literal["shutdown"] = "shutdown"


# --- from a worker to the controller ---


@dataclass(frozen=True, slots=True)
class Hello:
    """The process is up and loads its model."""

    __pydantic_config__ = _STRICT

    pid: Count
    type: Literal["hello"] = "hello"


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded and the shared memory is there: tasks may come. `facts` is None for emulated devices."""

    __pydantic_config__ = _STRICT

    endpoint: Endpoint
    facts: Facts | None = None
    type: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True)
class Unfit:
    """The worker cannot start (no such model, wrong device) and exits."""

    __pydantic_config__ = _STRICT

    message: Text
    type: Literal["unfit"] = "unfit"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The process lives. `busy_epoch`: the task it works on, 0 when idle."""

    __pydantic_config__ = _STRICT

    busy_epoch: Count = 0
    type: Literal["heartbeat"] = "heartbeat"


@dataclass(frozen=True, slots=True)
class TaskDone:
    """This rank finished its part; on one that only gave state, the giving. States and output come from the group's
    first rank.
    """

    __pydantic_config__ = _STRICT

    epoch: Epoch
    done: Count = 0
    total: Count | None = None
    handover_s: Seconds = 0.0
    compute_s: Seconds = 0.0
    collectives: Count = 0
    bytes_moved: Count = 0
    cold: Blob = None
    hot: Blob = None
    output: Blob = None
    type: Literal["task_done"] = "task_done"


Code = Literal["worker_lost", "error", "out_of_memory", "aborted", "timeout"]


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """This rank gave its part up; what it held before the task is intact."""

    __pydantic_config__ = _STRICT

    epoch: Epoch
    code: Code
    message: Text = ""
    type: Literal["task_failed"] = "task_failed"


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The last message of an orderly exit."""

    __pydantic_config__ = _STRICT

    type: Literal["goodbye"] = "goodbye"


ToWorker = Run | Abort | Forget | Shutdown
ToController = Hello | Ready | Unfit | Heartbeat | TaskDone | TaskFailed | Goodbye
