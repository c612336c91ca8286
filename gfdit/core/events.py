"""What happened, in the past tense. The scheduler learns of the world through these and nothing else.

A `Fleet` guarantees exactly one `TaskFinished` or `TaskFailed` for every `RunTask` it was sent, and none for epochs
it was not; stale epochs are ignored and counted. All times are nanoseconds of the driver's clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from gfdit.core.work import Request


@dataclass(frozen=True, slots=True)
class RequestArrived:
    at: int
    request: Request


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """The client gave up (`cause="client"`), or an operator cancelled (`cause="operator"`)."""

    at: int
    request_id: str
    cause: str = "client"


@dataclass(frozen=True, slots=True)
class TaskFinished:
    """All members finished. `busy_ns` is the compute time of the task (the slowest member's), `handover_ns` what its
    hand-over took before that.

    `checkpointed`: the newest state is also kept outside the workers, so losing every holder loses no step.
    """

    at: int
    epoch: int
    busy_ns: int
    handover_ns: int = 0
    checkpointed: bool = True


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """The task did not finish and no member works on it any more; the state of the step before is intact.

    `code`: worker_lost | error | out_of_memory | aborted | timeout. `blame`: whether the request may be the cause.
    """

    at: int
    epoch: int
    code: str
    message: str = ""
    blame: bool = True


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A rank is ready for work; a new incarnation holds no state."""

    at: int
    rank: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A rank is gone, and all state it held. Its tasks end with `TaskFailed` of their own."""

    at: int
    rank: int
    incarnation: int
    cause: str


@dataclass(frozen=True, slots=True)
class PolicyOverran:
    """A tick took longer than the policy's limit: measured outside, recorded so that a replay takes the same turn."""

    at: int
    seconds: float


Event = RequestArrived | RequestCancelled | TaskFinished | TaskFailed | WorkerJoined | WorkerLost | PolicyOverran
