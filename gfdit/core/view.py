"""What a policy sees on a tick: one frozen array per attribute, over every live request.

Rows are in `(arrival, id)` order, so a stable sort by any key already ends in the tie-break that the language promises.
Times are float seconds of the driver's clock. Nothing here is computed by the policy; nothing of the policy is in here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gfdit.core.lifecycle import State
from gfdit.core.work import STAGES, Stage

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]
I1 = NDArray[np.int8]
B1 = NDArray[np.bool_]

STATE_CODE: dict[State, int] = {state: code for code, state in enumerate(State)}
STAGE_CODE: dict[Stage, int] = {stage: code for code, stage in enumerate(STAGES)}


@dataclass(frozen=True, slots=True)
class Reservation:
    """`gpus` free ranks that only `request_id` may use until `until_s`."""

    request_id: str
    gpus: int
    until_s: float


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """N rows, D degrees. All arrays are read-only.

    `idle` are the ranks this tick may hand out: those that nobody has and those of `READY` rows (a ready row keeps
    nothing by right); `free` is their number. `ranks` are all live ones; `gpus` is their number.
    `plannable` rows are `WAITING | READY | PAUSED`; `RUNNING` rows are mid-task and can only be capped; `new` rows are
    `ARRIVED | DEFERRED` and await admission.
    """

    now_s: float
    gpus: int
    free: int
    degrees: tuple[int, ...]  # ascending; every degree that some model may use on this cluster
    ids: tuple[str, ...]
    slots: I8  # a small number for each request, the same as long as it lives

    # fixed at arrival or admission
    model: I8  # code into names["model"]; likewise the next three
    class_code: I8  # names["class"]: the class assigned at admission (before it: the one the client named)
    tag: I8
    tenant: I8
    priority: F8
    arrival_s: F8
    deadline_s: F8  # +inf without a budget
    slo_s: F8  # +inf without a budget
    tokens: F8
    text_tokens: F8
    pixels: F8
    width: F8
    height: F8
    frames: F8
    steps_total: F8
    preemptible: B1
    alone_s: F8  # latency alone at the best fixed degree

    # live
    state: I8  # STATE_CODE
    stage: I8  # STAGE_CODE of the next task (of the present one for RUNNING rows)
    steps_done: F8
    sp: I8  # ranks of the group that holds it now; 0 when it has none
    last_sp: I8  # ranks of its latest group
    preemptions: F8
    waited_s: F8  # total time without ranks since arrival
    paused_for_s: F8  # time since it last lost its ranks; 0 while it has some
    group_since_s: F8  # when its present group was formed; nan without one
    started: B1  # some task has finished
    stage_gpu_s: F8  # GPU-seconds of the whole next stage at its cheapest degree; 0 for denoising
    cap: I8  # largest degree it may have at its next boundary (0: must pause); a large number when not capped

    # per degree [N, D]; +inf where the degree is not offered to that row's model
    step_s: F8  # one denoising step
    remaining_s: F8  # from now to the end of its last stage if it ran on at this degree, resharding included
    gpu_s: F8  # GPU-seconds of the same

    ranks: tuple[int, ...]  # ascending, as is `idle`
    idle: tuple[int, ...]
    names: dict[str, tuple[str, ...]]  # "model", "class", "tag", "tenant": code -> string
    reservations: tuple[Reservation, ...] = ()

    # what few policies read is not gathered until one does
    memory_of_slot: F8 | None = (
        None  # [slots, D] bytes on one rank, by `slots`; None: the cost model says nothing of memory
    )
    gpu_memory_bytes: float = float("inf")  # of one rank; unbounded when the cost model does not say
    groups: Callable[[], Mapping[str, tuple[int, ...]]] = dict  # request id -> ordered ranks, of all that have some
    ends: tuple[tuple[str, bool], ...] = ()  # (class, missed) of the requests that ended since the latest plan

    @property
    def size(self) -> int:
        return len(self.ids)

    def memory_of(self, rows: I8) -> F8:
        """`[K, D]`, bytes: the most that a stage needs on one rank; -inf where nobody knows."""
        if self.memory_of_slot is None:
            return np.full((len(rows), len(self.degrees)), -np.inf)
        return self.memory_of_slot.take(self.slots.take(rows), axis=0)

    def row_of(self, request_id: str, arrival_s: float) -> int | None:
        """The row of a request that arrived then; None when it is not live any more. O(log N)."""
        first = int(self.arrival_s.searchsorted(arrival_s, "left"))
        last = int(self.arrival_s.searchsorted(arrival_s, "right"))
        row = bisect_left(self.ids, request_id, first, last)
        return row if row < last and self.ids[row] == request_id else None

    @property
    def load(self) -> float:
        """Demand over capacity: the largest ratio, over all deadlines d still ahead, of the GPU-seconds due by d (each
        request at its cheapest degree) to gpus x (d - now). Above 1, not all can be on time. O(N log N)."""
        ahead = np.flatnonzero(np.isfinite(self.deadline_s) & (self.deadline_s > self.now_s))
        if not len(ahead) or not self.gpus:
            return 0.0
        by_deadline = ahead[np.argsort(self.deadline_s[ahead], kind="stable")]
        due = np.cumsum(self.gpu_s[by_deadline].min(axis=1))
        return float(np.max(due / (self.gpus * (self.deadline_s[by_deadline] - self.now_s))))

    @property
    def running(self) -> B1:
        return self._in(State.RUNNING)

    @property
    def new(self) -> B1:
        return self._in(State.ARRIVED, State.DEFERRED)

    @property
    def plannable(self) -> B1:
        return self._in(State.WAITING, State.READY, State.PAUSED)

    def _in(self, *states: State) -> B1:
        wanted = np.zeros(len(STATE_CODE), dtype=np.bool_)
        wanted[[STATE_CODE[state] for state in states]] = True
        return np.asarray(wanted[self.state], dtype=np.bool_)
