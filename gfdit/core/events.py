"""What happened, in the past tense. The scheduler learns of the world through these and nothing else.

A `Fleet` guarantees exactly one `TaskFinished` or `TaskFailed` for every `RunTask` it was sent, and none for epochs
it was not; stale epochs are ignored and counted. All times are nanoseconds of the driver's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """A tick took longer than the policy's limit: measured outside, recorded so that a replay takes the same turn.

    The tick of the same instant that follows keeps the last plan. `cpu_seconds`: what the thread had a processor for,
    None if nobody measured it.
    """

    at: int
    seconds: float
    cpu_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PolicyText:
    """One policy of a chain of fallbacks: its whole text, and its `name` as messages show it. `native`: it plans in
    Python, which the text does not say."""

    name: str
    text: str
    native: bool = False


@dataclass(frozen=True, slots=True)
class PolicySwapped:
    """Another policy is in charge from here on. `policies`: it and its fallbacks, first to last; `params`: the first
    one's, as text. All that a replay needs to take the same turn is inside.

    `label`: `name@version (sha)`; `how`: what was asked for (push, arm, canary, rollback). Both are for people.
    """

    at: int
    policies: tuple[PolicyText, ...]
    params: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    how: str = ""


@dataclass(frozen=True, slots=True)
class PolicyEjected:
    """An operator takes the policy out of charge: its fallback takes over, for good."""

    at: int


Event = (
    RequestArrived
    | RequestCancelled
    | TaskFinished
    | TaskFailed
    | WorkerJoined
    | WorkerLost
    | PolicyOverran
    | PolicySwapped
    | PolicyEjected
)
