"""`batch`: which requests would share their tasks, and which wait a little so that more of them do.

Requests are alike when model, stage, step and every `by` are equal. In plan order the first of its kind opens a
batch and the next of its kind join it until it is full. May not place anything: it changes the order, holds rows back,
and says who belongs together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gfdit.core import proposal as core
from gfdit.core.proposal import Because, Place
from gfdit.core.view import B1, F8, I8
from gfdit.lang.program import Batch, Expr
from gfdit.lang.schema import Level
from gfdit.lang.types import Kind
from gfdit.policy.columns import Array, Fn, Frame, Tick, spread, symbols
from gfdit.policy.compile import Compiler
from gfdit.policy.explain import Quoting
from gfdit.policy.memory import TOLERANCE_S
from gfdit.units import human_s

MOST_VALUES = 4
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: neighbours end far apart


@dataclass(frozen=True, slots=True)
class Formed:
    """`order`: every row, the members of a batch behind its first. `held`: rows that wait for company until `until_s`
    at most. `members`: all rows that are in batches, batch by batch; `starts[B]`: where each begins in it, `due_s[B]`:
    until when it waits, -inf when it does not."""

    order: I8
    held: I8
    until_s: float
    members: I8
    starts: I8
    due_s: F8

    def rows(self, number: int) -> tuple[int, ...]:
        """The members of one batch."""
        end = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.members)
        return tuple(self.members[self.starts[number] : end].tolist())

    def around(self, rows: Sequence[int]) -> list[tuple[int, ...]]:
        """The members of every batch that one of `rows` is in."""
        at = np.flatnonzero(np.isin(self.members, rows))
        numbers = np.unique(self.starts.searchsorted(at, "right") - 1)
        return [self.rows(number) for number in numbers.tolist()]


class CompiledBatch:
    """The clause ready to run."""

    def __init__(self, batch: Batch, compiler: Compiler) -> None:
        self.most = batch.most
        self._window = batch.window
        self._line = batch.clause.line
        self._by = tuple(_column(key, compiler) for key in batch.by)
        self._where: Fn | None = None if batch.where is None else compiler.expr(batch.where, Level.REQUEST)

    def form(self, tick: Tick, order: I8, apart: B1) -> Formed:
        """Batches of `order`, all rows of a plan; those in `apart[N]` are in none and keep their places."""
        joins = self.joins(tick, order, apart)
        first = self._first_members(tick, order, joins)
        inside = np.flatnonzero(joins)
        inside = inside[np.argsort(first[inside], kind="stable")]
        opened = first[inside]
        starts = np.flatnonzero(np.concatenate([opened[:1] >= 0, opened[1:] != opened[:-1]]))
        due = self._due(Frame(tick, order), inside, starts)
        waits = due > tick.view.now_s + TOLERANCE_S
        held = order[inside[np.repeat(waits, np.diff(np.append(starts, len(inside))))]]
        until = float(np.min(due, where=waits, initial=np.inf))
        regrouped = order[np.argsort(first, kind="stable")]
        return Formed(regrouped, np.sort(held), until, order[inside], starts, np.where(waits, due, -np.inf))

    def listed(self, formed: Formed, now_s: float) -> tuple[core.Batch, ...]:
        """The batches of two or more, and those that are held."""
        found: list[core.Batch] = []
        for number, due in enumerate(formed.due_s.tolist()):
            rows = formed.rows(number)
            if len(rows) > 1 or due > now_s:
                because = self._because(now_s, len(rows), due if due > now_s else None)
                found.append(core.Batch(rows, due > now_s, because))
        return tuple(found)

    @property
    def holds(self) -> bool:
        """Whether some rows may be made to wait for others."""
        return self._window > 0

    def joins(self, tick: Tick, rows: I8, apart: B1) -> B1:
        """`[K]`: which rows are in a batch, if only their own."""
        joins: B1 = ~apart.take(rows)
        return joins if self._where is None else joins & tick.values(self._where, rows)

    def columns(self, tick: Tick) -> list[Array]:
        """Columns `[N]` of the view: rows that are equal in all of them are alike, and so are those that are nan."""
        view, everybody = tick.view, tick.everybody()
        by = (spread(column(everybody), (view.size,)) for column in self._by)
        return [*by, view.steps_done, view.stage, view.model]  # first what tells most apart

    def kinds(self, tick: Tick, rows: I8) -> list[Array]:
        """Columns `[K]` of numbers: rows that are equal in all of them, bit for bit, are alike."""
        return [_alike(column.take(rows)) for column in self.columns(tick)]

    def _first_members(self, tick: Tick, rows: I8, joins: B1) -> I8:
        """`[K]`: the position of the row that opened the batch of each; its own where it is in none."""
        first = np.arange(len(rows))
        inside = np.flatnonzero(joins)
        if not len(inside):
            return first
        columns = self.kinds(tick, rows.take(inside))
        by_kind = np.argsort(mixed(columns, len(inside)), kind="stable")
        in_line = [column.take(by_kind) for column in columns]
        differs = np.logical_or.reduce([column[1:] != column[:-1] for column in in_line])
        starts = np.flatnonzero(np.concatenate([[True], differs]))
        begin = np.repeat(starts, np.diff(np.append(starts, len(by_kind))))
        place = np.arange(len(by_kind)) - begin  # within its kind
        opener = by_kind[begin + place // self.most * self.most]
        first[inside[by_kind]] = inside[opener]
        return first

    def _due(self, frame: Frame, inside: I8, starts: I8) -> F8:
        """`[B]`: until when each batch waits for more members; -inf where it does not. Members are at `inside`."""
        if not self.holds or not len(inside):
            return np.full(len(starts), -np.inf)
        view, rows = frame.view, frame.rows.take(inside)
        spare = (frame.column("deadline") - frame.column("#remaining").min(axis=1)).take(inside)
        opened = np.minimum.reduceat(view.arrival_s.take(rows), starts) + self._window
        due = np.minimum(opened, view.now_s + np.minimum.reduceat(spare, starts))
        sizes = np.diff(np.append(starts, len(inside)))
        begun = np.logical_or.reduceat(view.started.take(rows), starts)
        return np.where(begun | (sizes >= self.most), -np.inf, due)

    def _because(self, now_s: float, size: int, due: float | None) -> Because:
        values = [("members", f"{size} of {self.most}")]
        if due is not None:
            values.append(("waits for more", human_s(due - now_s)))
        return Because("batch", self._line, tuple(values))


def _alike(column: Array) -> Array:
    """As numbers whose bits are equal where the values are; what is not a number is alike, too."""
    if column.dtype == np.int64:
        return column
    numbers: F8 = column + 0.0  # of the two zeros one
    unknown = np.isnan(numbers)
    return np.where(unknown, -np.inf, numbers) if np.count_nonzero(unknown) else numbers


def mixed(columns: Sequence[Array], size: int) -> NDArray[np.uint64]:
    """`[K]`: a hash of each row, the same for rows that are equal in all columns."""
    found = np.zeros(size, dtype=np.uint64)
    for column in columns:
        found ^= column.view(np.uint64)
        found *= _MIX
        found ^= found >> np.uint64(29)
    return found


def told(places: tuple[Place, ...], groups: Sequence[tuple[int, ...]], ids: tuple[str, ...]) -> tuple[Place, ...]:
    """The places, those of batches with a word about it in their reason. `groups`: the members of each batch."""
    word: dict[int, tuple[str, str]] = {}
    for rows in groups:
        if len(rows) > 1:
            leader, *others = rows
            word[leader] = "batch of", str(len(rows))
            word |= dict.fromkeys(others, ("batch with", ids[leader]))
    return tuple(_with_word(place, word[place.row]) if place.row in word else place for place in places)


def _with_word(place: Place, word: tuple[str, str]) -> Place:
    because = place.because or Because("batch")
    told_of = Quoting(because.clause, because.line, lambda: (*because.values[: MOST_VALUES - 1], word))
    return Place(place.row, place.degree, place.prefer, told_of, place.within)


def _column(expr: Expr, compiler: Compiler) -> Fn:
    """A key as numbers, equal where the values are."""
    if expr.type.kind not in (Kind.ENUM, Kind.STR):
        return compiler.expr(expr, Level.REQUEST)
    name = getattr(expr, "name", "")
    if name:
        return lambda frame: symbols(frame, name)[0]
    values = compiler.expr(expr, Level.REQUEST)

    def codes(frame: Frame) -> F8:
        _, found = np.unique(np.broadcast_to(values(frame), (frame.size,)).astype(str), return_inverse=True)
        return found.astype(np.float64)

    return codes
