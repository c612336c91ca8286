"""The view as the compiled expressions read it: attributes by name, over some rows, each computed at most once.

A `Tick` belongs to one evaluation of a policy on one view; a `Frame` is a choice of its rows. Instants are seconds
relative to the tick (a deadline in three seconds is 3.0), as in `gfdit.lang.program`. Shapes: an attribute of a request
is `[K]`, a table is `[K, D]`. May not decide anything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfdit.core.lifecycle import State
from gfdit.core.view import B1, F8, I8, STATE_CODE, View
from gfdit.core.work import STAGES
from gfdit.lang.program import Aging, ClassRule

Array = NDArray[Any]
Fn = Callable[["Frame"], Any]
"""A compiled expression: a scalar, `[K]`, `[K, D]` or `[K, D, D]` (axis 1: `sp`, axis 2: `next`), by its level."""


@cache
def _as_column(degrees: tuple[int, ...]) -> F8:
    """Not to be written to."""
    column = np.array(degrees, dtype=np.float64)
    column.flags.writeable = False
    return column


def _by_state(*states: State) -> B1:
    table = np.zeros(len(State), dtype=bool)
    table[[STATE_CODE[state] for state in states]] = True
    return table


PLANNABLE = _by_state(State.WAITING, State.READY, State.PAUSED)
WITHOUT_GPUS = _by_state(State.WAITING, State.PAUSED)
WITH_GPUS = _by_state(State.READY, State.RUNNING)
LIVE = PLANNABLE | WITH_GPUS  # admitted
NEW = _by_state(State.ARRIVED, State.DEFERRED)
EVERYBODY = -1
SMALL_VIEW = 1024  # so many rows cost hardly more than a few


class ClassTable:
    """The policy's classes as columns; the last entry stands for a request that no rule matches."""

    def __init__(self, rules: tuple[ClassRule, ...]) -> None:
        self.rules = rules
        self.names = tuple(rule.name for rule in rules)
        self.rank = np.array([float(rule.rank) for rule in rules] + [float(len(rules))])
        self.weight = np.array([rule.weight for rule in rules] + [1.0])
        self.miss = np.array([rule.miss or 0.0 for rule in rules] + [0.0])
        self.slo = np.array([np.inf if rule.slo is None else rule.slo for rule in rules] + [np.inf])
        self.when: tuple[Fn | None, ...] = ()  # compiled conditions, set by the policy
        self._seen: tuple[str, ...] = ()
        self._any_foreign = False
        self._lookup: I8 = np.zeros(0, dtype=np.int64)

    @property
    def unmatched(self) -> int:
        return len(self.rules)

    def of_admitted(self, tick: Tick) -> I8:
        """Index of the class of every row. Names that another policy gave are judged anew by this one's rules."""
        view = tick.view
        if not self.rules:
            return np.zeros(view.size, dtype=np.int64)
        names = view.names["class"]
        if names != self._seen:
            self._lookup = np.array([self.names.index(n) if n in self.names else -1 for n in names], dtype=np.int64)
            self._seen = names
            self._any_foreign = bool((self._lookup < 0).any())
        index: I8 = self._lookup.take(view.class_code)
        if self._any_foreign and len(foreign := np.flatnonzero(index < 0)):
            index[foreign] = self.classify(Frame(tick, foreign))
        return index

    def classify(self, frame: Frame) -> I8:
        """Index of the first rule whose condition holds, for the rows of `frame`."""
        index = np.full(frame.size, self.unmatched, dtype=np.int64)
        for number in range(len(self.rules) - 1, -1, -1):
            when = self.when[number]
            if when is None:
                index[:] = number
            else:
                index[np.broadcast_to(when(frame), index.shape)] = number
        return index


class Tick:
    """One evaluation: the view, and what the policy derives from it once. `offered`: the degrees under test. `watched`:
    somebody counts what conditions come to, so that none is evaluated for rows that it is not asked about."""

    __slots__ = ("aging", "classes", "columns", "degrees", "known", "offered", "part", "scalars", "view", "watched")

    def __init__(self, view: View, classes: ClassTable, aging: Aging | None) -> None:
        self.view = view
        self.watched = False
        self.part = EVERYBODY  # the class that aggregates run over
        self.classes = classes
        self.aging = aging
        self.offered: tuple[int, ...] = view.degrees
        self.degrees: F8 = _as_column(view.degrees)
        self.scalars: dict[str, Any] = {}
        self.columns: dict[str, Array] = {}
        self.known: dict[Fn, Array] = {}

    def class_index(self) -> I8:
        found = self.columns.get("class")
        if found is None:
            found = self.columns["class"] = self.classes.of_admitted(self)
        return found

    def admitted(self) -> B1:
        """`[N]`: which rows are no longer new."""
        found: B1 | None = self.scalars.get("admitted")
        if found is None:
            found = self.scalars["admitted"] = LIVE.take(self.view.state)
        return found

    def of_class(self, number: int) -> Tick:
        """The same tick, its aggregates over the requests of one class only."""
        part = Tick(self.view, self.classes, self.aging)
        part.part, part.columns = number, self.columns
        live = self.live()
        part.scalars["live"] = Frame(part, live.rows[live.column("class") == number])
        return part

    def live(self) -> Frame:
        """All admitted rows: what aggregates run over."""
        found: Frame | None = self.scalars.get("live")
        if found is None:
            rows = self.admitted().nonzero()[0]
            found = self.scalars["live"] = self.everybody() if len(rows) == self.view.size else Frame(self, rows)
        return found

    def everybody(self) -> Frame:
        """All rows of the view. What several clauses read is computed for all of them once."""
        found: Frame | None = self.scalars.get("everybody")
        if found is None:
            found = self.scalars["everybody"] = Frame(self, np.arange(self.view.size), whole=True)
        return found

    def values(self, fn: Fn, rows: I8) -> Array:
        """`[K]`: what `fn` is at `rows`; computed for everybody, and remembered, unless there are many more."""
        known = self.known.get(fn)
        if known is None:
            if self.watched or 2 * len(rows) < self.view.size > SMALL_VIEW:
                return spread(fn(Frame(self, rows)), rows.shape)
            known = self.known[fn] = spread(fn(self.everybody()), (self.view.size,))
        return known.take(rows)

    def column_of(self, degree: float) -> int | None:
        """Column of a degree in the tables; None when the cluster does not offer it."""
        return self.offered.index(int(degree)) if degree in self.offered else None

    def with_none(self) -> Tick:
        """The same tick with 0 as the first degree under test: not to run."""
        other = Tick(self.view, self.classes, self.aging)
        other.offered = (0, *self.offered)
        other.degrees = _as_column(other.offered)
        other.scalars, other.columns, other.part = self.scalars, self.columns, self.part
        other.watched = self.watched
        return other


class Frame:
    """Some rows of a tick, and every column that was read of them so far (`preset` replaces columns by name).

    `whole`: these are all rows of the view, so that its columns need not be copied.
    """

    __slots__ = ("_known", "rows", "size", "tick", "view", "whole")

    def __init__(self, tick: Tick, rows: I8, preset: dict[str, Array] | None = None, *, whole: bool = False) -> None:
        self.tick = tick
        self.whole = whole
        self.view = tick.view
        self.rows = rows
        self.size = len(rows)
        self._known: dict[str, Array] = preset or {}

    def of(self, values: Array) -> Array:
        """A column or table of the view at these rows; not to be written to."""
        return values if self.whole else values.take(self.rows, axis=0)

    def column(self, name: str) -> Array:
        """`[K]`, or `[K, D]` for names that start with `#`."""
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = LOADERS[name](self)
        return found

    def remember(self, name: str, make: Fn) -> Any:
        """The value of `make`, computed once for this frame."""
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = make(self)
        return found


_AT_NONE = {"#step": np.inf, "#remaining": np.inf, "#gpu": np.inf, "#slack": -np.inf, "#gain": 0.0}


class FrameWithNone(Frame):
    """The rows of a frame in the tick's `with_none`: at degree 0 a request never ends and gains nothing."""

    __slots__ = ("_plain",)

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame.tick.with_none(), frame.rows)
        self._plain = frame

    def column(self, name: str) -> Array:
        if name not in _AT_NONE or name in self._known:
            return super().column(name)
        table = self._plain.column(name)
        padded = self._known[name] = np.empty((self.size, table.shape[1] + 1))
        padded[:, 0] = _AT_NONE[name]
        padded[:, 1:] = table
        return padded


FIELDS = {
    "priority": "priority",
    "slo": "slo_s",
    "tokens": "tokens",
    "text_tokens": "text_tokens",
    "pixels": "pixels",
    "width": "width",
    "height": "height",
    "frames": "frames",
    "steps_total": "steps_total",
    "steps": "steps_total",  # the knob's present value, in `degrade`
    "alone": "alone_s",
    "waited": "waited_s",
    "paused_for": "paused_for_s",
    "steps_done": "steps_done",
    "preemptions": "preemptions",
    "last_gpus": "last_sp",
    "sp": "sp",
    "#step": "step_s",
    "#remaining": "remaining_s",
    "#gpu": "gpu_s",
}
"""Attributes and tables that stand in the view as they are."""


def _plain(field: str) -> Callable[[Frame], Array]:
    def load(frame: Frame) -> Array:
        return frame.of(getattr(frame.view, field))

    return load


def _tier(frame: Frame) -> F8:
    rank = frame.column("rank")
    aging, reactions = frame.tick.aging, frame.tick.columns.get("raised")
    if aging is None and reactions is None:
        return rank
    raised = rank if aging is None else rank - aging.raise_by * np.floor(frame.column("waited") / aging.every)
    if reactions is not None:
        raised = raised - frame.of(reactions)
    tier: F8 = np.maximum(raised, np.minimum(rank, 0.0 if aging is None else aging.until))
    return tier


def _memory(frame: Frame) -> F8:
    """`[K, D]` bytes; at degree 0, where that is under test, nothing is known to be needed."""
    known = frame.view.memory_of(frame.rows)
    if frame.tick.offered == frame.view.degrees:
        return known
    return np.concatenate([np.full((frame.size, 1), -np.inf), known], axis=1)


def _present_column(frame: Frame) -> I8:
    """Column of the present degree; -1 for rows without GPUs, or with a number of them that is not offered."""
    present = frame.column("sp")
    degrees = frame.tick.degrees
    index = np.minimum(np.searchsorted(degrees, present), len(degrees) - 1)
    return np.where(degrees[index] == present, index, -1)


def _best_at(frame: Frame) -> I8:
    """Where the entry of the best degree lies in a table, row after row."""
    size = frame.column("#step").size
    places: I8 = np.arange(0, size, size // frame.size) + frame.column("best") if size else np.zeros(0, dtype=np.int64)
    return places


def spread(values: Any, shape: tuple[int, ...]) -> Array:
    """`values` in `shape`, which they broadcast to; not to be written to."""
    if isinstance(values, np.ndarray) and values.shape == shape:
        return values
    return np.broadcast_to(values, shape)


def gather(table: F8, columns: I8, missing: float) -> F8:
    """`table[k, columns[k]]`; `missing` where the column is -1."""
    return np.where(columns < 0, missing, at(table, columns))


def at(table: F8, columns: I8) -> F8:
    """`table[k, columns[k]]`; a negative column gives some value of the table."""
    rows, width = table.shape
    values: F8 = table.ravel().take(np.arange(0, rows * width, width) + columns, mode="wrap")
    return values


def symbols(frame: Frame, name: str) -> tuple[I8, tuple[str, ...]]:
    """Codes `[K]` of an attribute that has names for values, and the names."""
    view = frame.view
    match name:
        case "class" if frame.tick.classes.rules:
            return frame.column("class"), frame.tick.classes.names
        case "class":
            return frame.of(view.class_code), view.names["class"]
        case "stage":
            return frame.of(view.stage), tuple(STAGES)
        case "tag":
            return frame.of(view.tag), view.names["tag"]
        case "model":
            return frame.of(view.model), view.names["model"]
        case "tenant":
            return frame.of(view.tenant), view.names["tenant"]
        case _:
            raise KeyError(name)


def _gain(frame: Frame) -> F8:
    """`[K, D]`: remaining at the best narrower degree over remaining at this one; unbounded at the narrowest."""
    remaining = frame.column("#remaining")
    narrower = np.full_like(remaining, np.inf)
    narrower[:, 1:] = np.minimum.accumulate(remaining, axis=1)[:, :-1]
    return narrower / remaining


LOADERS: dict[str, Callable[[Frame], Array]] = {
    **{name: _plain(field) for name, field in FIELDS.items()},
    "arrival": lambda frame: frame.of(frame.view.arrival_s) - frame.view.now_s,
    "deadline": lambda frame: frame.of(frame.view.deadline_s) - frame.view.now_s,
    "class": lambda frame: frame.of(frame.tick.class_index()),
    "rank": lambda frame: frame.tick.classes.rank.take(frame.column("class")),
    "weight": lambda frame: frame.tick.classes.weight.take(frame.column("class")),
    "miss": lambda frame: frame.tick.classes.miss.take(frame.column("class")),
    "tier": _tier,
    "age": lambda frame: -frame.column("arrival"),
    "steps_left": lambda frame: frame.column("steps_total") - frame.column("steps_done"),
    "cache": lambda frame: np.zeros(frame.size),  # the knob's present value, in `degrade`
    "waiting": lambda frame: WITHOUT_GPUS.take(frame.of(frame.view.state)),
    "running": lambda frame: WITH_GPUS.take(frame.of(frame.view.state)),
    "late": lambda frame: frame.column("deadline") < 0,
    "lateness": lambda frame: -frame.column("deadline"),
    "sp_best": lambda frame: frame.tick.degrees[frame.column("best")],
    # columns of the tables, and the tables
    "best": lambda frame: np.argmin(frame.column("#step"), axis=1),
    "best at": _best_at,
    "present": _present_column,
    "#slack": lambda frame: frame.column("deadline")[:, None] - frame.column("#remaining"),
    "#gain": _gain,
    "#mem": _memory,
}

SYMBOLS = frozenset({"class", "stage", "tag", "model", "tenant"})
INSTANTS = frozenset({"arrival", "deadline"})

SYSTEM: dict[str, Callable[[View], float]] = {
    "now": lambda view: 0.0,
    "gpus": lambda view: float(view.gpus),
    "free": lambda view: float(view.free),
    "load": lambda view: view.load,
    "gpu_mem": lambda view: view.gpu_memory_bytes,
}
"""Attributes with one value a tick."""

ARRIVALS = frozenset({"arrival_gap", "arrival_rate"})
"""Attributes of the whole system that the policy itself keeps, as it does modes and states."""
