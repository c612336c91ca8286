"""The states of a trajectory and every legal transition, as one table (the docs draw their diagram from it)."""

from __future__ import annotations

from enum import StrEnum

from gfdit.errors import TransitionError


class State(StrEnum):
    ARRIVED = "arrived"  # observed; the policy has not said yes yet
    DEFERRED = "deferred"  # the policy will be asked again
    WAITING = "waiting"  # admitted, nothing done yet
    READY = "ready"  # between two tasks, its ranks still its own until the next tick decides
    RUNNING = "running"  # a task is in flight
    PAUSED = "paused"  # begun, and without ranks
    COMPLETED = "completed"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Trigger(StrEnum):
    ADMIT = "admit"
    DEFER = "defer"
    REJECT = "reject"
    RUN = "run"
    BOUNDARY = "boundary"
    PAUSE = "pause"
    SET_BACK = "set_back"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"


TERMINAL = frozenset({State.COMPLETED, State.REJECTED, State.FAILED, State.CANCELLED})

TRANSITIONS: dict[tuple[State, Trigger], State] = {
    (State.ARRIVED, Trigger.ADMIT): State.WAITING,
    (State.ARRIVED, Trigger.DEFER): State.DEFERRED,
    (State.ARRIVED, Trigger.REJECT): State.REJECTED,
    (State.ARRIVED, Trigger.CANCEL): State.CANCELLED,
    (State.DEFERRED, Trigger.ADMIT): State.WAITING,
    (State.DEFERRED, Trigger.DEFER): State.DEFERRED,
    (State.DEFERRED, Trigger.REJECT): State.REJECTED,
    (State.DEFERRED, Trigger.CANCEL): State.CANCELLED,
    (State.WAITING, Trigger.RUN): State.RUNNING,
    (State.WAITING, Trigger.REJECT): State.REJECTED,
    (State.WAITING, Trigger.CANCEL): State.CANCELLED,
    (State.RUNNING, Trigger.BOUNDARY): State.READY,
    (State.RUNNING, Trigger.SET_BACK): State.PAUSED,
    (State.RUNNING, Trigger.FINISH): State.COMPLETED,
    (State.RUNNING, Trigger.FAIL): State.FAILED,
    (State.RUNNING, Trigger.CANCEL): State.CANCELLED,
    (State.READY, Trigger.RUN): State.RUNNING,
    (State.READY, Trigger.PAUSE): State.PAUSED,
    (State.READY, Trigger.REJECT): State.REJECTED,
    (State.READY, Trigger.CANCEL): State.CANCELLED,
    (State.PAUSED, Trigger.RUN): State.RUNNING,
    (State.PAUSED, Trigger.REJECT): State.REJECTED,
    (State.PAUSED, Trigger.CANCEL): State.CANCELLED,
}


History = list[tuple[int, Trigger]]  # (time in ns, what happened), the latest last


def advance(state: State, trigger: Trigger, *, request_id: str, history: History) -> State:
    """The state after `trigger`. Raises TransitionError, with the request's story, when the table has no such entry."""
    after = TRANSITIONS.get((state, trigger))
    if after is None:
        story = ", ".join(f"{word} at {at} ns" for at, word in history[-6:])
        raise TransitionError(
            f"request `{request_id}` is {state}: it cannot {trigger}", hint=f"so far: {story}" if story else None
        )
    return after
