"""The scheduler's columns: one row a live request, one array an attribute, frozen into a `View` on each tick.

Rows are recycled; `order` keeps the live ones by (arrival, id). Arrays are stored attribute-major so that freezing is
one gather for all float columns, one for all integer columns, and one for each cost table.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Mapping

import numpy as np

from gfdit.core.estimate import Estimator
from gfdit.core.proposal import NO_WAIT, WAIT_CODE, WAIT_REASONS, WaitReason, Waits
from gfdit.core.trajectory import Trajectory
from gfdit.core.view import F8, I8, STAGE_CODE, STATE_CODE, Reservation, View
from gfdit.core.work import Stage
from gfdit.units import to_s

# What never changes is gathered when a request comes or goes; what does, on every tick.
_FIXED_FLOATS = ["priority", "arrival_s", "tokens", "text_tokens", "pixels", "width", "height", "frames", "alone_s"]
_FIXED_INTS = ["model", "tag", "tenant"]
_COPIED_FLOATS = ["deadline_s", "slo_s", "steps_total", "steps_done", "preemptions", "stage_gpu_s"]  # by `update`
_COPIED_INTS = ["class_code", "preemptible", "state", "stage", "started", "cap"]
_FLOATS = [*_COPIED_FLOATS, "waited_s", "group_since_s", "idle_since_s"]
_INTS = [*_COPIED_INTS, "sp", "last_sp"]
_FF, _FI, _F, _I = ({name: row for row, name in enumerate(names)} for names in (
    _FIXED_FLOATS, _FIXED_INTS, _FLOATS, _INTS,
))  # fmt: skip
_SHOWN_F = [(name, row) for name, row in _F.items() if name not in ("waited_s", "idle_since_s")]
_SHOWN_I = [(name, row) for name, row in _I.items() if name not in ("started", "preemptible")]
NO_CAP = 1 << 30
_DENOISE = STAGE_CODE[Stage.DENOISE]


class Names:
    """Strings as small integers, in order of first appearance."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._names: tuple[str, ...] = ()

    def code(self, name: str) -> int:
        if name not in self._codes:
            self._codes[name] = len(self._codes)
            self._names = tuple(self._codes)
        return self._codes[name]

    @property
    def all(self) -> tuple[str, ...]:
        return self._names


class Table:
    """Columns of all live requests. Only the scheduler writes it."""

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator
        known = estimator.cost.gpu_memory_bytes
        self._gpu_memory_bytes = float("inf") if known is None else known
        self._free_slots: list[int] = []
        self._capacity = 0
        self._order: list[tuple[int, str, int]] = []  # (arrival_ns, id, slot)
        self._slots: I8 | None = None  # in row order; None: a request came or went
        self._fixed_floats: dict[str, F8] = {}
        self._fixed_ints: dict[str, I8] = {}
        self._fixed_step = self._no_step = np.zeros((0, len(estimator.degrees)))
        self._ids: tuple[str, ...] = ()
        self._names = {kind: Names() for kind in ("class", "tag", "tenant")}
        self._model_names = Names()
        degrees = len(estimator.degrees)
        self._degrees = np.asarray(estimator.degrees)
        self._fixed_f = np.zeros((len(_FIXED_FLOATS), 0))
        self._fixed_i = np.zeros((len(_FIXED_INTS), 0), dtype=np.int64)
        self._f = np.zeros((len(_FLOATS), 0))
        self._i = np.zeros((len(_INTS), 0), dtype=np.int64)
        self._step = np.zeros((0, degrees))
        self._rest = np.zeros((0, degrees))
        self._rest_gpu = np.zeros((0, degrees))
        self._reshard = np.zeros((0, degrees))  # seconds until the state is on so many ranks
        self._reshard_rows: dict[int, F8] = {}
        self._wait = np.zeros(0, dtype=np.int8)  # WAIT_CODE of the trajectory's reason
        self._memory = np.zeros((0, degrees)) if estimator.cost.knows_memory else None

    def _grow(self) -> None:
        more = max(64, self._capacity)
        self._free_slots.extend(range(self._capacity + more - 1, self._capacity - 1, -1))
        self._fixed_f, self._f = (np.pad(columns, ((0, 0), (0, more))) for columns in (self._fixed_f, self._f))
        self._fixed_i, self._i = (np.pad(columns, ((0, 0), (0, more))) for columns in (self._fixed_i, self._i))
        self._wait = np.pad(self._wait, (0, more))
        self._step, self._rest, self._rest_gpu, self._reshard = (
            np.pad(table, ((0, more), (0, 0))) for table in (self._step, self._rest, self._rest_gpu, self._reshard)
        )
        if self._memory is not None:
            self._memory = np.pad(self._memory, ((0, more), (0, 0)))
        self._capacity += more

    def reserve_slot(self) -> int:
        if not self._free_slots:
            self._grow()
        return self._free_slots.pop()

    def insert(self, t: Trajectory) -> None:
        """A new row for `t`, in the slot it was given."""
        request, slot = t.request, t.slot
        arrival_s = to_s(request.arrival_ns)
        fixed: dict[str, float] = {
            "priority": request.priority,
            "arrival_s": arrival_s,
            "tokens": request.tokens,
            "text_tokens": request.text_tokens,
            "pixels": request.pixels,
            "width": request.width,
            "height": request.height,
            "frames": request.frames,
            "alone_s": t.cost.alone_s,
        }
        self._fixed_f[:, slot] = [fixed[name] for name in _FIXED_FLOATS]
        f, i = self._f[:, slot], self._fixed_i[:, slot]
        f[_F["waited_s"]], f[_F["idle_since_s"]], f[_F["group_since_s"]] = 0.0, arrival_s, np.nan
        code = self._estimator.model_code(request.model)
        assert self._model_names.code(request.model) == code
        i[_FI["model"]] = code
        i[_FI["tag"]] = self._names["tag"].code(request.tag or request.class_name)
        i[_FI["tenant"]] = self._names["tenant"].code(request.tenant)
        self._i[_I["sp"], slot] = self._i[_I["last_sp"], slot] = 0  # a recycled row is of somebody who has ended
        self._step[slot] = t.cost.step_s
        if self._memory is not None:
            self._memory[slot] = -np.inf if t.cost.memory_bytes is None else t.cost.memory_bytes
        insort(self._order, (request.arrival_ns, request.id, slot))
        self._slots = None
        self.update(t)

    def remove(self, t: Trajectory) -> None:
        self._order.remove((t.request.arrival_ns, t.request.id, t.slot))
        self._free_slots.append(t.slot)
        self._slots = None

    def update(self, t: Trajectory) -> None:
        """Copy what can change of `t` into its row."""
        slot, stage, deadline_s, slo_s = t.slot, STAGE_CODE[t.stage], np.inf, np.inf
        if t.deadline_ns is not None:
            deadline_s, slo_s = to_s(t.deadline_ns), to_s(t.deadline_ns - t.request.arrival_ns)
        self._f[: len(_COPIED_FLOATS), slot] = (
            deadline_s, slo_s, t.steps_total, t.steps_done, t.preemptions, t.cost.stage_gpu_s[stage],
        )  # fmt: skip
        code, cap = self._names["class"].code(t.class_name), NO_CAP if t.cap is None else t.cap
        self._i[: len(_COPIED_INTS), slot] = code, t.preemptible, STATE_CODE[t.state], stage, t.started, cap
        self._wait[slot] = NO_WAIT if t.wait_reason is None else WAIT_CODE[t.wait_reason]
        last_sp = int(self._i[_I["last_sp"], slot]) if t.started else 0
        self._reshard[slot] = self._reshard_from(last_sp)
        self._rest[slot] = t.cost.rest_s[stage]
        self._rest_gpu[slot] = t.cost.rest_gpu_s[stage]

    def _reshard_from(self, last_sp: int) -> F8:
        """[D]: a state that exists and lies on another number of ranks has to move first."""
        row = self._reshard_rows.get(last_sp)
        if row is None:
            moves = (last_sp > 0) & (self._degrees != last_sp)
            row = self._reshard_rows[last_sp] = np.where(moves, self._estimator.cost.reshard_s, 0.0)
        return row

    def took_ranks(self, t: Trajectory, now_s: float, *, regrouped: bool) -> None:
        """`t` runs on `t.group` from now; `regrouped`: it is another group than before."""
        f, i = self._f[:, t.slot], self._i[:, t.slot]
        if i[_I["sp"]] == 0:
            f[_F["waited_s"]] += now_s - f[_F["idle_since_s"]]
        if regrouped or i[_I["sp"]] == 0:
            f[_F["group_since_s"]] = now_s
        i[_I["sp"]] = i[_I["last_sp"]] = len(t.group)

    def lost_ranks(self, t: Trajectory, now_s: float) -> None:
        self._f[_F["idle_since_s"], t.slot] = now_s
        self._f[_F["group_since_s"], t.slot] = np.nan
        self._i[_I["sp"], t.slot] = 0

    def new_waits(self, view: View, waits: Mapping[int, WaitReason]) -> list[tuple[int, WaitReason]]:
        """Rows of the latest view that wait for another reason than before; from now on that is the known one."""
        if not isinstance(waits, Waits):
            return list(waits.items())
        changed = np.flatnonzero((waits.codes != NO_WAIT) & (waits.codes != self._wait.take(view.slots)))
        self._wait[view.slots.take(changed)] = waits.codes.take(changed)
        codes = waits.codes.take(changed).tolist()
        return [(row, WAIT_REASONS[code]) for row, code in zip(changed.tolist(), codes, strict=True)]

    def _gather_fixed(self) -> I8:
        """The slots in row order; what is fixed of those rows is gathered anew if one came or went."""
        if self._slots is not None:
            return self._slots
        slots = np.fromiter((slot for _, _, slot in self._order), dtype=np.int64, count=len(self._order))
        self._ids = tuple(request_id for _, request_id, _ in self._order)
        f, i = self._fixed_f.take(slots, axis=1), self._fixed_i.take(slots, axis=1)
        self._fixed_step = self._step.take(slots, axis=0)
        self._no_step = np.where(np.isinf(self._fixed_step), np.inf, 0.0)
        for array in (slots, f, i, self._fixed_step):
            array.setflags(write=False)
        self._fixed_floats = {name: f[row] for name, row in _FF.items()}
        self._fixed_ints = {name: i[row] for name, row in _FI.items()}
        self._slots = slots
        return slots

    def freeze(
        self,
        now_s: float,
        ranks: tuple[int, ...],
        idle: tuple[int, ...],
        reservations: tuple[Reservation, ...],
        groups: Callable[[], Mapping[str, tuple[int, ...]]] = dict,
        ends: tuple[tuple[str, bool], ...] = (),
    ) -> View:
        """The view of this instant: all live ranks, and those of them that may be handed out. O(live rows)."""
        slots = self._gather_fixed()
        f, i = self._f.take(slots, axis=1), self._i.take(slots, axis=1)
        sp, started = i[_I["sp"]], i[_I["started"]].astype(bool)
        step = self._estimator.correct(self._fixed_ints["model"], self._fixed_step)
        left = np.where(i[_I["stage"]] > _DENOISE, 0.0, f[_F["steps_total"]] - f[_F["steps_done"]])[:, None]
        some = left > 0
        stepping = np.where(some, np.where(some, left, 1.0) * step, self._no_step)
        remaining = self._rest.take(slots, axis=0) + stepping + self._reshard.take(slots, axis=0)
        gpu = self._rest_gpu.take(slots, axis=0) + stepping * self._degrees
        idle_for = np.where(sp == 0, now_s - f[_F["idle_since_s"]], 0.0)
        for array in (f, i, step, remaining, gpu, started):
            array.setflags(write=False)
        floats = self._fixed_floats | {name: f[row] for name, row in _SHOWN_F}
        ints = self._fixed_ints | {name: i[row] for name, row in _SHOWN_I}
        return View(
            now_s=now_s,
            gpus=len(ranks),
            free=len(idle),
            degrees=self._estimator.degrees,
            ids=self._ids,
            slots=slots,
            waited_s=f[_F["waited_s"]] + idle_for,
            paused_for_s=np.where(started, idle_for, 0.0),
            started=started,
            preemptible=i[_I["preemptible"]].astype(bool),
            step_s=step,
            remaining_s=remaining,
            gpu_s=gpu,
            ranks=ranks,
            idle=idle,
            names={kind: names.all for kind, names in self._names.items()} | {"model": self._model_names.all},
            reservations=reservations,
            memory_of_slot=self._memory,
            gpu_memory_bytes=self._gpu_memory_bytes,
            groups=groups,
            ends=ends,
            **floats,
            **ints,
        )
