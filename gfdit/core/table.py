"""The scheduler's columns: one row a live request, one array an attribute, frozen into a `View` on each tick.

Rows are recycled; `order` keeps the live ones by (arrival, id). Arrays are stored attribute-major so that freezing is
one gather for all float columns, one for all integer columns, and one for each cost table.
"""

from __future__ import annotations

from bisect import insort

import numpy as np

from gfdit.core.estimate import Estimator
from gfdit.core.trajectory import Trajectory
from gfdit.core.view import I8, STAGE_CODE, STATE_CODE, Reservation, View
from gfdit.core.work import Stage
from gfdit.units import to_s

_FLOATS = [
    "priority",
    "arrival_s",
    "deadline_s",
    "slo_s",
    "tokens",
    "text_tokens",
    "pixels",
    "width",
    "height",
    "frames",
    "steps_total",
    "alone_s",
    "steps_done",
    "preemptions",
    "waited_s",
    "group_since_s",
    "idle_since_s",
    "stage_gpu_s",
]
_INTS = ["model", "class_code", "tag", "tenant", "preemptible", "state", "stage", "sp", "last_sp", "started", "cap"]
_F = {name: row for row, name in enumerate(_FLOATS)}
_I = {name: row for row, name in enumerate(_INTS)}
NO_CAP = 1 << 30


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
        self._free_slots: list[int] = []
        self._capacity = 0
        self._order: list[tuple[int, str, int]] = []  # (arrival_ns, id, slot)
        self._slots: I8 | None = None
        self._ids: tuple[str, ...] = ()
        self._names = {kind: Names() for kind in ("class", "tag", "tenant")}
        self._model_names = Names()
        degrees = len(estimator.degrees)
        self._f = np.zeros((len(_FLOATS), 0))
        self._i = np.zeros((len(_INTS), 0), dtype=np.int64)
        self._step = np.zeros((0, degrees))
        self._rest = np.zeros((0, degrees))
        self._rest_gpu = np.zeros((0, degrees))

    def _grow(self) -> None:
        more = max(64, self._capacity)
        self._free_slots.extend(range(self._capacity + more - 1, self._capacity - 1, -1))
        self._f = np.pad(self._f, ((0, 0), (0, more)))
        self._i = np.pad(self._i, ((0, 0), (0, more)))
        self._step, self._rest, self._rest_gpu = (
            np.pad(table, ((0, more), (0, 0))) for table in (self._step, self._rest, self._rest_gpu)
        )
        self._capacity += more

    def reserve_slot(self) -> int:
        if not self._free_slots:
            self._grow()
        return self._free_slots.pop()

    def insert(self, t: Trajectory) -> None:
        """A new row for `t`, in the slot it was given."""
        request, slot = t.request, t.slot
        f, i = self._f[:, slot], self._i[:, slot]
        f[_F["priority"]], f[_F["arrival_s"]] = request.priority, to_s(request.arrival_ns)
        f[_F["tokens"]], f[_F["text_tokens"]] = request.tokens, request.text_tokens
        f[_F["pixels"]], f[_F["width"]], f[_F["height"]] = request.pixels, request.width, request.height
        f[_F["frames"]], f[_F["alone_s"]] = request.frames, t.cost.alone_s
        f[_F["waited_s"]], f[_F["idle_since_s"]], f[_F["group_since_s"]] = 0.0, to_s(request.arrival_ns), np.nan
        code = self._estimator.model_code(request.model)
        assert self._model_names.code(request.model) == code
        i[_I["model"]] = code
        i[_I["tag"]] = self._names["tag"].code(request.tag or request.class_name)
        i[_I["tenant"]] = self._names["tenant"].code(request.tenant)
        i[_I["last_sp"]] = 0
        self._step[slot] = t.cost.step_s
        insort(self._order, (request.arrival_ns, request.id, slot))
        self._slots = None
        self.update(t)

    def remove(self, t: Trajectory) -> None:
        self._order.remove((t.request.arrival_ns, t.request.id, t.slot))
        self._free_slots.append(t.slot)
        self._slots = None

    def update(self, t: Trajectory) -> None:
        """Copy what can change of `t` into its row."""
        f, i = self._f[:, t.slot], self._i[:, t.slot]
        f[_F["deadline_s"]] = np.inf if t.deadline_ns is None else to_s(t.deadline_ns)
        f[_F["slo_s"]] = np.inf if t.deadline_ns is None else to_s(t.deadline_ns - t.request.arrival_ns)
        f[_F["steps_total"]], f[_F["steps_done"]], f[_F["preemptions"]] = t.steps_total, t.steps_done, t.preemptions
        i[_I["class_code"]], i[_I["preemptible"]] = self._names["class"].code(t.class_name), t.preemptible
        i[_I["state"]], i[_I["stage"]], i[_I["started"]] = STATE_CODE[t.state], STAGE_CODE[t.stage], t.started
        i[_I["cap"]] = NO_CAP if t.cap is None else t.cap
        f[_F["stage_gpu_s"]] = t.cost.stage_gpu_s[STAGE_CODE[t.stage]]
        self._rest[t.slot] = t.cost.rest_s[STAGE_CODE[t.stage]]
        self._rest_gpu[t.slot] = t.cost.rest_gpu_s[STAGE_CODE[t.stage]]

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

    def freeze(
        self, now_s: float, ranks: tuple[int, ...], idle: tuple[int, ...], reservations: tuple[Reservation, ...]
    ) -> View:
        """The view of this instant: all live ranks, and those of them that may be handed out. O(live rows)."""
        if self._slots is None:
            self._slots = np.fromiter((slot for _, _, slot in self._order), dtype=np.int64, count=len(self._order))
            self._ids = tuple(request_id for _, request_id, _ in self._order)
        slots = self._slots
        f, i = self._f[:, slots], self._i[:, slots]
        sp, started = i[_I["sp"]], i[_I["started"]].astype(bool)
        step = self._estimator.correct(i[_I["model"]], self._step[slots])
        degrees = np.asarray(self._estimator.degrees)
        left = np.where(i[_I["stage"]] > STAGE_CODE[Stage.DENOISE], 0.0, f[_F["steps_total"]] - f[_F["steps_done"]])
        with np.errstate(invalid="ignore"):
            stepping = np.where(left[:, None] > 0, left[:, None] * step, np.where(np.isinf(step), np.inf, 0.0))
        # a state that exists and lies on another number of ranks has to move first
        moves = (started & (i[_I["last_sp"]] > 0))[:, None] & (degrees[None, :] != i[_I["last_sp"]][:, None])
        remaining = self._rest[slots] + stepping + np.where(moves, self._estimator.cost.reshard_s, 0.0)
        gpu = self._rest_gpu[slots] + stepping * degrees
        idle_for = np.where(sp == 0, now_s - f[_F["idle_since_s"]], 0.0)
        for array in (f, i, step, remaining, gpu, sp, started):
            array.setflags(write=False)
        columns = {name: f[row] for name, row in _F.items() if name not in ("waited_s", "idle_since_s")}
        columns |= {name: i[row] for name, row in _I.items() if name not in ("started", "preemptible")}
        return View(
            now_s=now_s,
            gpus=len(ranks),
            free=len(idle),
            degrees=self._estimator.degrees,
            ids=self._ids,
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
            **columns,
        )
