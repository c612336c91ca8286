"""Plan order with the members of each batch right behind the first of them, found as far as somebody asks.

A tick reaches a few requests of thousands, so that only their batches have to be found. Of many, rows are told apart by
a hash of what makes them alike: whoever shares it with nobody is alone, and only the others are compared. What comes
out is what `CompiledBatch.form` gives for everybody. May not decide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np

from gfdit.core import proposal as core
from gfdit.core.view import B1, I8
from gfdit.policy.batching import CompiledBatch, mixed
from gfdit.policy.columns import Array, Tick
from gfdit.policy.ranking import Hint, Ranking

BLOCK = 16
FEW = 1024  # rows that are looked through for each batch: hashing them takes longer
A_FEW = 6  # rows that are compared one by one faster than as columns
BUCKETS = 1 << 12


Kind = tuple[float | None, ...]
"""What makes rows alike; None where it is not a number."""


class Batches(Sequence[core.Batch]):
    """All batches of a plan, formed when somebody reads them."""

    def __init__(self, form: Callable[[], tuple[core.Batch, ...]]) -> None:
        self._form = form
        self._formed: tuple[core.Batch, ...] | None = None

    def _all(self) -> tuple[core.Batch, ...]:
        if self._formed is None:
            self._formed = self._form()
        return self._formed

    @overload
    def __getitem__(self, index: int) -> core.Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[core.Batch]: ...
    def __getitem__(self, index: int | slice) -> core.Batch | Sequence[core.Batch]:
        return self._all()[index]

    def __len__(self) -> int:
        return len(self._all())

    def __eq__(self, other: object) -> bool:
        return self._all() == (other._all() if isinstance(other, Batches) else other)

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


class Regrouped(Ranking):
    """See the module. `order` is that of the policy; rows that are true in `apart[N]` are in no batch.

    `groups`: the members of every batch of two or more that was come to so far.
    """

    def __init__(self, tick: Tick, order: Ranking, batch: CompiledBatch, apart: B1) -> None:
        self.rows = order.rows
        self.size = order.size
        self.groups: list[tuple[int, ...]] = []
        self._tick = tick
        self._order = order
        self._batch = batch
        self._apart = apart
        self._found: list[int] = []
        self._block: list[tuple[int, bool]] = []  # come to and not yet placed in the order, last first
        self._taken: set[int] = set()
        self._asked = 0  # rows of the policy's order that were come to
        self._columns: list[Array] = []
        self._buckets: Buckets | None = None
        self._kinds: dict[Kind, tuple[Ranking, int]] = {}  # kind -> its rows, how many in batches

    def first(self, count: int) -> I8:
        found, taken = self._found, self._taken
        while len(found) < min(count, self.size):
            row, may_join = self._block.pop() if self._block else self._next_block()
            if row in taken:
                continue
            members = self._members(row) if may_join else (row,)
            found += members
            if len(members) > 1:
                taken.update(members)
                self.groups.append(members)
        return np.array(found, dtype=np.int64)

    def sorted(self, rows: I8) -> I8:
        return self._written().sorted(rows)

    def part(self, wanted: B1) -> Ranking:
        return self._written().part(wanted)

    def _written(self) -> Ranking:
        """The same order, every position written down."""
        position = np.zeros(self._tick.view.size)
        position[self.all()] = np.arange(self.size)
        return Ranking(self._tick, self.rows, (lambda frame: position.take(frame.rows),), Hint())

    def _next_block(self) -> tuple[int, bool]:
        """The next row of the policy's order, and whether it may be in a batch with others."""
        block = self._order.first(self._asked + BLOCK)[self._asked : self._asked + BLOCK]
        self._asked += len(block)
        joins = self._batch.joins(self._tick, block, self._apart)
        if not self._columns:
            self._columns = self._batch.columns(self._tick)
            if self.size > FEW:
                self._buckets = Buckets(self._batch.kinds(self._tick, self.rows), self.rows)
        if self._buckets is not None:
            joins &= self._buckets.shared(block)
        self._block = list(zip(block.tolist(), joins.tolist(), strict=True))[::-1]
        return self._block.pop()

    def _members(self, row: int) -> tuple[int, ...]:
        """The batch that `row` opens."""
        kind = self._kind(row)
        known = self._kinds.get(kind)
        if known is None:
            same = self._alike(kind, self.rows if self._buckets is None else self._buckets.around(row))
            if len(same) == 1:
                return (row,)
            same = same.compress(self._batch.joins(self._tick, same, self._apart))
            known = self._order.of(same), 0
        ranking, begun = known
        ended = begun + self._batch.most
        self._kinds[kind] = ranking, ended
        return tuple(ranking.first(ended)[begun:ended].tolist())

    def _kind(self, row: int) -> Kind:
        values = [column.item(row) for column in self._columns]
        return tuple(value if value == value else None for value in values)

    def _alike(self, kind: Kind, rows: I8) -> I8:
        """Those of `rows` that are of this kind, which some are."""
        for column, value in zip(self._columns, kind, strict=True):
            if len(rows) <= A_FEW:
                return np.array([row for row in rows.tolist() if self._kind(row) == kind], dtype=np.int64)
            there = column.take(rows)
            rows = rows.compress(there != there if value is None else there == value)
        return rows


class Buckets:
    """Rows by a hash of what makes them alike; `columns[K]` are those of `rows[K]`, ascending."""

    def __init__(self, columns: Sequence[Array], rows: I8) -> None:
        self._rows = rows
        self._of_row = (mixed(columns, len(rows)) & np.uint64(BUCKETS - 1)).astype(np.int64)
        self._counts = np.bincount(self._of_row, minlength=BUCKETS)

    def shared(self, rows: I8) -> B1:
        """Which of `rows` are not alone in their bucket; whoever is is like no other."""
        shared: B1 = self._counts.take(self._of_row.take(self._rows.searchsorted(rows))) > 1
        return shared

    def around(self, row: int) -> I8:
        """All rows of its bucket."""
        return self._rows.compress(self._of_row == self._of_row[self._rows.searchsorted(row)])
