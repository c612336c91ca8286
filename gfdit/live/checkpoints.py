"""The newest state of every live request, kept in the controller's memory so that the loss of all holders loses no
step.

A state is committed only when every member of its task has finished: what is here is always a completed boundary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gfdit.wire.messages import TaskDone, Value
from gfdit.worker.tasks import join_state


@dataclass(slots=True)
class Checkpoint:
    """`inputs`: the client's, for a start from nothing. `touched`: ranks that may hold some state of the request.
    `doubtful`: a task failed since the last commit, so that some ranks may be ahead of this state."""

    inputs: Mapping[str, Value]
    cold: bytes | None = None
    hot: bytes | None = None
    output: bytes | None = None
    doubtful: bool = False
    touched: set[int] = field(default_factory=set)

    def state(self) -> bytes | None:
        """The state as `gfdit.worker.tasks.Task.restore` wants it; None before the first completed stage."""
        return None if self.cold is None else join_state(self.cold, self.hot)


class Checkpoints:
    """By request, from its arrival to its end."""

    def __init__(self) -> None:
        self._kept: dict[str, Checkpoint] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def begin(self, request_id: str, inputs: Mapping[str, Value]) -> None:
        self._kept[request_id] = Checkpoint(inputs)

    def get(self, request_id: str) -> Checkpoint | None:
        return self._kept.get(request_id)

    def commit(self, request_id: str, result: TaskDone) -> bool:
        """Keep what a finished task's leader sent. Returns whether the request can be restored from here."""
        kept = self._kept.get(request_id)
        if kept is None:  # the request ended while its task ran
            return False
        kept.doubtful = False
        if result.cold is not None:
            kept.cold, kept.hot = result.cold, None
        if result.hot is not None:
            kept.hot = result.hot
        if result.output is not None:
            kept.output = result.output
        return kept.cold is not None

    def doubt(self, request_id: str) -> None:
        kept = self._kept.get(request_id)
        if kept is not None:
            kept.doubtful = True

    def end(self, request_id: str) -> Checkpoint | None:
        return self._kept.pop(request_id, None)
