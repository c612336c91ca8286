"""A tick in plain numbers: what a policy needs to say, without a whole `View`, that its plan would change nothing.

Most ticks are the end of one step of one request while no rank is idle, and end in that request going on with the ranks
it has. A view of everybody is frozen and a plan made only when that is not certain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from gfdit.core.estimate import Estimator
from gfdit.core.proposal import WaitReason, Waits
from gfdit.core.trajectory import Trajectory
from gfdit.core.view import STAGE_CODE
from gfdit.core.work import Stage

_DENOISE = STAGE_CODE[Stage.DENOISE]


@dataclass(slots=True)
class Glance:
    """`row`: the one request between two tasks, or None; read-only. `waiting`: all that wait or are paused, by id;
    `newly`: those of them that were not in the glance before, all of them if it is the first (`anew`). `free`, `gpus`,
    `degrees`, `now_s`: as in the view."""

    now_s: float
    gpus: int
    free: int
    row: Trajectory | None
    estimator: Estimator
    waiting: Mapping[str, Trajectory]
    newly: Sequence[Trajectory] = ()
    anew: bool = False
    _remaining_s: Sequence[float] | None = None

    @property
    def degrees(self) -> tuple[int, ...]:
        return self.estimator.degrees

    @property
    def step_s(self) -> Sequence[float]:
        """[D]: the row's in `View.step_s`."""
        assert self.row is not None
        return self.estimator.correct_one(self.row.request.model, self.row.cost.step_s_plain)

    @property
    def remaining_s(self) -> Sequence[float]:
        """[D]: the row's in `View.remaining_s`, to the last bit: computed in the same order as there."""
        if self._remaining_s is None:
            assert self.row is not None
            self._remaining_s = _remaining_s(self.row, self.step_s, self.estimator)
        return self._remaining_s


def _remaining_s(t: Trajectory, step_s: Sequence[float], estimator: Estimator) -> list[float]:
    stage, present, reshard_s = STAGE_CODE[t.stage], len(t.group), estimator.cost.reshard_s
    left = 0 if stage > _DENOISE else t.steps_total - t.steps_done
    stepping_s = [left * step for step in step_s] if left > 0 else [inf if step == inf else 0.0 for step in step_s]
    columns = zip(estimator.degrees, t.cost.rest_s_plain[stage], stepping_s, strict=True)
    return [rest + steps + (0.0 if degree == present else reshard_s) for degree, rest, steps in columns]


Foresight = Callable[[Glance], bool]
"""`policy.keeps`, of a policy that can tell when it need not be asked. True only if `plan` would certainly place the
glance's row, on as many ranks as it has, and nothing else: no other place, no cap, turn, reservation, alarm or wish to
be woken; and if whoever waits, waits for a free rank."""


class Lookout:
    """Knows who waits, and asks a policy by a glance. The scheduler tells it of every change."""

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator
        self._waiting: dict[str, Trajectory] = {}
        self._newly: list[Trajectory] = []
        self._asked: Foresight | None = None
        self._reasons: Mapping[int, WaitReason] = {}
        self._for_a_rank: bool | None = True  # None: not looked at yet

    def waits(self, t: Trajectory) -> None:
        """It is admitted, paused or set back."""
        self._waiting[t.request.id] = t
        self._newly.append(t)
        if len(self._newly) > 2 * len(self._waiting) + 64:  # nobody looks: begin anew if somebody does
            self._newly, self._asked = [], None

    def goes(self, t: Trajectory) -> None:
        """It runs, or has ended."""
        self._waiting.pop(t.request.id, None)

    def told(self, waits: Mapping[int, WaitReason]) -> None:
        """The reasons of the latest plan: other ones than a free rank may pass with time."""
        self._reasons, self._for_a_rank = waits, None

    def stays(self, keeps: Foresight, now_s: float, gpus: int, free: int, row: Trajectory | None) -> bool:
        """Whether the policy of `keeps` need not be asked."""
        anew = keeps is not self._asked
        newly = list(self._waiting.values()) if anew else self._newly
        self._asked, self._newly = keeps, []
        glance = Glance(now_s, gpus, free, row, self._estimator, self._waiting, newly, anew)
        return keeps(glance) and (not self._waiting or self._all_wait_for_a_rank())

    def _all_wait_for_a_rank(self) -> bool:
        if self._for_a_rank is None:
            waits, self._reasons = self._reasons, {}
            reasons = waits.reasons() if isinstance(waits, Waits) else frozenset(waits.values())
            self._for_a_rank = reasons <= {WaitReason.NO_FREE_GPU}
        return self._for_a_rank
