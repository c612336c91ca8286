"""The escape hatch of the Python form: a function of the operator's own that plans, in the place of clauses.

    @policy.native
    def plan(columns, free, deadline):
        first = sorted(range(len(columns)), key=lambda k: columns["arrival"][k])
        return {columns.ids[k]: 1 for k in first[:free]}

It runs once a plan over all rows, under the watchdog and the invariants of every policy: what it raises, what it gives
that cannot be, and the time it takes are strikes. It is opaque: nothing can be said of its cost before it runs, or of
why it chose what it did; and it is code, so that neither a journal nor a bundle holds it. May not read anything but
what it is given, or plans are not the same twice.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gfdit.core.proposal import Because, Place, Policy, Proposal, WaitReason
from gfdit.core.view import I8, View
from gfdit.core.work import SINGLE_RANK_STAGES, STAGES
from gfdit.errors import PolicyError
from gfdit.lang.program import Program
from gfdit.policy.columns import LOADERS, PLANNABLE, SYMBOLS, Array, Frame, Tick, symbols
from gfdit.policy.compile import Watch
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.vocabulary import schema

_TABLES = {"step_time": "#step", "remaining": "#remaining", "finish": "#remaining", "slack": "#slack", "gain": "#gain"}
_SINGLE = np.array([stage in SINGLE_RANK_STAGES for stage in STAGES])


class Columns(Mapping[str, Array]):
    """What a native plan sees: the requests that may be planned now, by (arrival, id), as read-only columns.

    By the names of the language: attributes of a request are `[K]` (numbers in base units; `class`, `stage`, `tag`,
    `model`, `tenant` as strings; instants in seconds from now), functions of a degree are `[K, D]` over `degrees`.
    `ids` are the requests' ids, `single` says who is at a stage of one GPU, `gpus` is the size of the cluster.
    `len()` is the number of requests.
    """

    def __init__(self, tick: Tick, rows: I8) -> None:
        view = tick.view
        self._frame = Frame(tick, rows)
        self.ids = tuple(view.ids[row] for row in rows.tolist())
        self.degrees = view.degrees
        self.gpus = view.gpus
        self.single = _SINGLE[view.stage[rows]]

    def __getitem__(self, name: str) -> Array:
        if name not in _NAMES:
            raise KeyError(f"no column `{name}`; there are {', '.join(_NAMES)}")
        if name in SYMBOLS:
            codes, names = symbols(self._frame, name)
            found = np.array([*names, ""], dtype=str)[codes]  # the last: of no class
        else:
            found = self._frame.column(_TABLES.get(name, name)).view()
        found.setflags(write=False)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(self.ids)

    def __bool__(self) -> bool:
        return bool(self.ids)


_NAMES = (*(name for name in schema().attributes if name in LOADERS or name in SYMBOLS), *_TABLES)

Plan = Callable[[Columns, int, float], Mapping[str, int]]
"""(columns, free GPUs, instant of `time.monotonic()` by which to answer) -> id to degree, most important first."""


class NativePlan:
    """What `@policy.native` leaves of a function; `sha` is that of the file that it stands in, helpers and all."""

    def __init__(self, function: Plan) -> None:
        self.function = function
        self.name = getattr(function, "__name__", "plan")
        self.sha = hashlib.sha256(_source(function).encode()).hexdigest()


def _source(function: Plan) -> str:
    code = getattr(function, "__code__", None)
    try:
        return Path(code.co_filename).read_text("utf-8") if code is not None else inspect.getsource(type(function))
    except (OSError, TypeError, UnicodeDecodeError):  # typed at a prompt
        return repr(getattr(code, "co_code", function))


class NativePolicy(CompiledPolicy):
    """A policy whose plan is a function. Classes, admission, modes, states, ticks, guards and the fallback are those of
    its clauses; order, stages and allocation are not used."""

    native = True

    def __init__(
        self, program: Program, plan: NativePlan, fallback: Policy | None = None, watch: Watch | None = None
    ) -> None:
        super().__init__(program, fallback, watch)
        self.keeps = None  # nothing is known of a function before it is asked
        self.sha = hashlib.sha256(f"{program.sha} {plan.sha}".encode()).hexdigest()
        self._native = plan

    @property
    def function(self) -> NativePlan:
        """What plans."""
        return self._native

    def afresh(self, watch: Watch | None = None) -> NativePolicy:
        return NativePolicy(self.program, self._native, self.fallback, watch)

    def _plan(self, tick: Tick) -> Proposal:
        view = tick.view
        rows = np.flatnonzero(PLANNABLE[view.state])
        columns = Columns(tick, rows)
        given: object = self._native.function(columns, view.free, time.monotonic() + (self.limits.tick_s or np.inf))
        if not isinstance(given, Mapping):
            raise PolicyError(f"native plan `{self._native.name}` gave `{given!r}`, expected ids to degrees")
        row_of = dict(zip(columns.ids, rows.tolist(), strict=True))
        places = tuple(self._place(view, row_of, key, degree) for key, degree in given.items())
        used = sum(place.degree for place in places)
        if used > view.free:
            raise PolicyError(f"native plan `{self._native.name}` uses {used} GPUs, and {view.free} are free")
        placed = {place.row for place in places}
        why = WaitReason.POLICY_WAITS if used < view.free else WaitReason.NO_FREE_GPU
        waits = {row: why for row in rows.tolist() if row not in placed}
        wake = self._wake(view, recheck=bool(waits) and used < view.free, held_until_s=np.inf)
        return Proposal(places, waits=waits, wake_at_s=wake, alarms=self._alarms(tick))

    def _place(self, view: View, row_of: Mapping[str, int], key: Any, degree: Any) -> Place:
        """One entry of the plan. Raises PolicyError for one that cannot be."""
        row = row_of.get(key)
        if row is None:
            raise PolicyError(f"native plan `{self._native.name}` places `{key}`, which cannot be planned now")
        if isinstance(degree, bool) or not isinstance(degree, int | np.integer) or degree < 1:
            raise PolicyError(f"native plan `{self._native.name}` gives `{key}` `{degree!r}` GPUs")
        if _SINGLE[view.stage[row]]:
            return Place(row, 1, because=Because(f"native, {self._native.name}"))
        wide = int(degree)
        if wide not in view.degrees or not np.isfinite(view.step_s[row, view.degrees.index(wide)]):
            offered = ", ".join(str(one) for c, one in enumerate(view.degrees) if np.isfinite(view.step_s[row, c]))
            raise PolicyError(
                f"native plan `{self._native.name}` gives `{key}` {degree} GPUs", hint=f"offered are {offered}"
            )
        return Place(row, wide, because=Because(f"native, {self._native.name}"))


def compiled(
    program: Program, native: NativePlan | None, fallback: Policy | None = None, watch: Watch | None = None
) -> CompiledPolicy:
    """A policy from its program, and from its native plan if it has one."""
    return (
        CompiledPolicy(program, fallback, watch) if native is None else NativePolicy(program, native, fallback, watch)
    )
