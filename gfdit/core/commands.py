"""What is to be done, in the imperative. Data only: a `Fleet` carries them out."""

from __future__ import annotations

from dataclasses import dataclass

from gfdit.core.parallel import Parallel
from gfdit.core.work import Outcome, Stage


@dataclass(frozen=True, slots=True)
class RunTask:
    """Run one stage, or `steps` denoising steps from `first_step`, on the ordered group `ranks`.

    `sources`: ranks that hold the newest state when the group differs from the holders, else (). The task begins with a
    hand-over in which those that lack the state get it. Ranks carry out what they are sent in order, so a source may
    already have its next task behind the hand-over. `steps_total`: steps of the whole trajectory, fewer than the client
    asked for when admission degraded it. `restore`: no rank holds the state, or all that do work for somebody else; it
    comes from the checkpoint kept outside the workers.
    """

    epoch: int
    request_id: str
    stage: Stage
    first_step: int
    steps: int
    ranks: tuple[int, ...]
    parallel: Parallel
    steps_total: int
    sources: tuple[int, ...] = ()
    restore: bool = False

    @property
    def occupied(self) -> tuple[int, ...]:
        """Ranks that take part, members first: the union of both groups while the hand-over lasts."""
        return self.ranks + tuple(rank for rank in self.sources if rank not in self.ranks)

    @property
    def has_handover(self) -> bool:
        return bool(self.sources) or self.restore


@dataclass(frozen=True, slots=True)
class AbortTask:
    """Stop this epoch as soon as possible; it still ends with `TaskFinished` or `TaskFailed`."""

    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class EndRequest:
    """The request has reached its terminal state: answer the client, forget its state everywhere.

    `deadline_ns`: the deadline it was held to, its class's if it brought none of its own; `on_time`: completed by then.
    `steps`, `cache`: the quality that admission gave it; None and 0 where it was not degraded.
    """

    request_id: str
    outcome: Outcome
    at: int
    deadline_ns: int | None = None
    code: str = ""
    message: str = ""
    steps: int | None = None
    cache: float = 0.0

    @property
    def on_time(self) -> bool:
        return self.outcome is Outcome.COMPLETED and (self.deadline_ns is None or self.at <= self.deadline_ns)


Command = RunTask | AbortTask | EndRequest
