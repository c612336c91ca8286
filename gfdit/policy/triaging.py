"""Triage: the largest set of requests that can still be on time (Moore-Hodgson on GPU-seconds).

Walk the requests in `by` order and add up the GPU-seconds each still needs at the cheapest degree that meets its
deadline. Where the sum passes margin x GPUs x (deadline - now), set aside the one walked so far whose `shed` key is
largest (or smallest). A request that no degree brings home in time is set aside too; one without a deadline never is,
and needs no room. May not place anything.
"""

from __future__ import annotations

import heapq
from functools import reduce

import numpy as np

from gfdit.core.view import B1, F8
from gfdit.lang.program import Triage
from gfdit.lang.schema import Level
from gfdit.policy.columns import Frame, Tick, spread
from gfdit.policy.compile import Compiler
from gfdit.policy.ranking import Presorted

FEW = 64  # candidates for setting aside that are looked at without a reason to


class SetAside:
    """Rows given up for now, and by how many GPU-seconds each broke its limit (+inf: no degree is on time).

    `mask[N]`: which rows of the view; `over[N]`: by how much, read at those rows only.
    """

    __slots__ = ("any", "mask", "over")

    def __init__(self, mask: B1, over: F8) -> None:
        self.mask = mask
        self.over = over
        self.any = bool(np.count_nonzero(mask))

    @classmethod
    def nobody(cls, size: int) -> SetAside:
        return cls(np.zeros(size, dtype=bool), np.zeros(size))

    def __contains__(self, row: int) -> bool:
        return self.any and bool(self.mask[row])


class Likely:
    """How many the last walk set aside, and how heavy one must be to be among so many: where the next one looks first.
    Right or wrong, the walk comes to the same."""

    __slots__ = ("count", "least")

    def __init__(self) -> None:
        self.least = np.nan
        self.count = 0

    def heavy(self, shed: F8) -> B1 | None:
        """Those with the largest keys, at least as many as the last walk took; None: all of them."""
        enough = FEW + self.count
        if len(shed) <= 2 * enough:
            return None
        found: B1 = shed >= self.least
        if not enough <= np.count_nonzero(found) <= 2 * enough:
            place = len(shed) - enough - enough // 2
            self.least = float(np.partition(shed, place)[place])
            found = shed >= self.least
        return found


def moore_hodgson(need: F8, room: F8, shed: F8, likely: Likely | None = None) -> dict[int, float]:
    """Positions to set aside, with the GPU-seconds by which the sum passed the room when each was given up.

    `need[i]` in walking order, `room[i]` (not below 0) what may be used up to and including i, `shed[i]` larger goes
    first; of equals the later one.
    """
    excess = need.cumsum() - room
    return given_up(need, excess, shed, likely) if len(need) and excess.max() > 0 else {}


def given_up(need: F8, excess: F8, shed: F8, likely: Likely | None = None) -> dict[int, float]:
    """`moore_hodgson` from what all together need in `excess[i]` of the room, where that is above 0 somewhere.

    The walk stops where the excess is larger than ever before, which is the only place where it can be more than was
    given up so far; it looks at light rows only where no heavy one is left. O(n) in vector operations, O(1) for each
    stop and O(log n) for each that is set aside.
    """
    worst = np.empty(len(excess) + 1)  # so far, and nothing before all
    worst[0], worst[1:] = 0.0, excess
    np.maximum.accumulate(worst, out=worst)
    stops = (worst[:-1] < worst[1:]).nonzero()[0]
    mask = None if likely is None else likely.heavy(shed)
    heavy, light = _Walked(shed, mask), None
    aside: dict[int, float] = {}
    given = 0.0  # by those set aside so far
    for at, over in zip(stops.tolist(), excess.take(stops).tolist(), strict=True):
        if over <= given:
            continue
        kept = heavy.until(at)
        while over > given:
            if not kept and mask is not None:
                light = _Walked(shed, ~mask) if light is None else light
                kept = light.until(at)
                if not kept:
                    given = over  # nobody is left: what remains is rounding
                    break
            gone = -heapq.heappop(kept)[1]
            aside[gone] = over - given
            given += float(need[gone])
    if likely is not None:
        likely.count = len(aside)
    return aside


class _Walked:
    """Some of the positions, as far as the walk has come: a heap, largest key first; of equal keys the later one."""

    __slots__ = ("_entries", "_heap", "_next")

    def __init__(self, shed: F8, mask: B1 | None) -> None:
        if mask is None:
            self._entries = list(zip((-shed).tolist(), range(0, -len(shed), -1), strict=True))
        else:
            positions = mask.nonzero()[0]
            self._entries = list(zip((-shed.take(positions)).tolist(), (-positions).tolist(), strict=True))
        self._next = 0
        self._heap: list[tuple[float, int]] = []

    def until(self, at: int) -> list[tuple[float, int]]:
        """The heap of those up to and including `at` that have not been taken from it."""
        entries, heap, next_ = self._entries, self._heap, self._next
        if not heap:  # what is sorted is a heap
            while next_ < len(entries) and entries[next_][1] >= -at:
                next_ += 1
            heap += sorted(entries[self._next : next_])
        while next_ < len(entries) and entries[next_][1] >= -at:
            heapq.heappush(heap, entries[next_])
            next_ += 1
        self._next = next_
        return heap


class CompiledTriage:
    """`triage` ready to run on a tick."""

    def __init__(self, triage: Triage, compiler: Compiler) -> None:
        self.clause = triage.clause
        self.message = triage.reject_because
        self._margin = triage.margin
        self._by = compiler.key(triage.by)
        self._shed = compiler.expr(triage.shed, Level.REQUEST)
        self._sign = 1.0 if triage.shed_most else -1.0
        self._presorted = Presorted()
        self._likely = Likely()

    def evaluate(self, tick: Tick) -> SetAside:
        """Every admitted request is walked, running ones too: their work needs room like any other."""
        view = tick.view
        walked: B1 = tick.admitted() & (view.deadline_s < np.inf)
        deadline = tick.everybody().column("deadline")
        need = _cheapest_on_time(view.remaining_s, view.gpu_s, deadline)
        on_time: B1 = walked & (need < np.inf)
        aside: B1 = walked ^ on_time
        over = np.empty(view.size)
        over.fill(np.inf)
        rows = on_time.nonzero()[0]
        if len(rows):
            needed = need.take(rows)
            by = spread(self._by(Frame(tick, rows, {"gpu_time": needed})), rows.shape)
            walk = self._presorted.argsort(by, view.slots, rows)
            in_turn = rows.take(walk)
            needed = needed.take(walk)
            excess = needed.cumsum() - self._margin * view.gpus * deadline.take(in_turn)
            if np.maximum.reduce(excess) > 0:
                shed = self._sign * spread(self._shed(Frame(tick, in_turn, {"gpu_time": needed})), in_turn.shape)
                found = given_up(needed, excess, shed, self._likely)
                gone = in_turn.take(np.fromiter(found, dtype=np.int64, count=len(found)))
                aside[gone] = True
                over[gone] = np.fromiter(found.values(), dtype=np.float64, count=len(found))
        return SetAside(aside, over)


def _cheapest_on_time(remaining: F8, gpu: F8, deadline: F8) -> F8:
    """`[N]`: GPU-seconds at the cheapest degree that meets the deadline; +inf where none does. Column by column: tables
    are much longer than wide."""
    costs = np.where(remaining <= deadline[:, None], gpu, np.inf)
    return reduce(np.minimum, costs.T) if costs.shape[1] else np.full(len(costs), np.inf)
