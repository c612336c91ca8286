"""One request's denoising life: where it is in its chain of stages, which ranks hold its state."""

from __future__ import annotations

from dataclasses import dataclass, field

from gfdit.core.estimate import RequestCost
from gfdit.core.lifecycle import History, State, Trigger, advance
from gfdit.core.proposal import Because, WaitReason
from gfdit.core.work import Request, Stage

HISTORY_KEPT = 32  # transitions that an error message or a snapshot may want to tell


@dataclass(slots=True)
class Trajectory:
    """Mutable, owned by the scheduler alone. `steps_total` may be fewer than asked (degraded at admission).

    `holders`: live ranks that hold the state after the last finished task, in group order. `group`: the ranks of the
    latest task, kept after a pause as a preference.
    """

    request: Request
    cost: RequestCost
    chain: tuple[Stage, ...]
    slot: int
    steps_total: int
    class_name: str
    cache: float = 0.0  # share of the work that cached features may replace: a quality knob of admission
    state: State = State.ARRIVED
    at_stage: int = 0
    steps_done: int = 0
    holders: tuple[int, ...] = ()
    group: tuple[int, ...] = ()
    epoch: int | None = None
    started: bool = False  # some task has finished
    begun: bool = False  # a denoising step was sent to ranks
    restorable: bool = True
    attempts: int = 0
    preemptions: int = 0
    preemptible: bool = True
    deadline_ns: int | None = None
    cap: int | None = None
    wait_reason: WaitReason | None = None
    because: Because | None = None
    history: History = field(default_factory=list)

    @property
    def stage(self) -> Stage:
        return self.chain[self.at_stage]

    @property
    def steps_left(self) -> int:
        return self.steps_total - self.steps_done

    def advance(self, trigger: Trigger, now: int) -> None:
        self.state = advance(self.state, trigger, request_id=self.request.id, history=self.history)
        self.history.append((now, trigger))
        if len(self.history) > 2 * HISTORY_KEPT:
            del self.history[:-HISTORY_KEPT]

    def task_done(self, steps: int) -> bool:
        """Move past the task that just finished. True when that was the last of the chain."""
        self.started = True
        if self.stage is Stage.DENOISE:
            self.steps_done += steps
            if self.steps_left > 0:
                return False
        if self.at_stage + 1 == len(self.chain):
            return True
        self.at_stage += 1
        return False

    def start_over(self) -> None:
        """All state is lost: back to the first stage."""
        self.at_stage = self.steps_done = 0
        self.holders = self.group = ()
        self.started = self.begun = False
