"""Plan order with the members of each batch right behind the first of them, found as far as somebody asks.

A tick reaches a few requests of thousands, so that only their batches have to be found. Rows are told apart by a hash
of what makes them alike; whoever shares it with nobody is alone, and the others are compared. What comes out is what
`CompiledBatch.form` gives for everybody. May not decide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np

from gfdit.core import proposal as core
from gfdit.core.view import B1, I8
from gfdit.policy.batching import CompiledBatch, mixed
from gfdit.policy.columns import Array, Frame, Tick
from gfdit.policy.ranking import Hint, Ranking

BLOCK = 16
BUCKETS = 1 << 12


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
        self._block: list[tuple[int, bool, bool]] = []  # come to and not yet placed in the order, last first
        self._taken: set[int] = set()
        self._asked = 0  # rows of the policy's order that were come to
        self._columns: list[Array] | None = None
        self._kinds: dict[tuple[float, ...], tuple[Ranking, int]] = {}  # kind -> its rows, how many are in batches

    def first(self, count: int) -> I8:
        found, taken = self._found, self._taken
        while len(found) < min(count, self.size):
            row, may_join, is_alone = self._block.pop() if self._block else self._next_block()
            if row in taken:
                continue
            members = (row,) if is_alone or not may_join else self._members(row)
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

    def _next_block(self) -> tuple[int, bool, bool]:
        """The next row of the policy's order, whether it may be in a batch, whether it is alone for certain."""
        block = self._order.first(self._asked + BLOCK)[self._asked : self._asked + BLOCK]
        self._asked += len(block)
        joins = self._batch.joins(Frame(self._tick, block), self._apart).tolist()
        self._block = list(zip(block.tolist(), joins, self._alone(block).tolist(), strict=True))[::-1]
        return self._block.pop()

    def _alone(self, block: I8) -> B1:
        """Which rows are like no other for certain."""
        if self._columns is None:
            self._columns = self._batch.kinds(Frame(self._tick, self.rows))
            self._bucket = _hashed(self._columns, self.size)
            self._counts = np.bincount(self._bucket, minlength=BUCKETS)
        alone: B1 = self._counts.take(self._bucket.take(self.rows.searchsorted(block))) == 1
        return alone

    def _members(self, row: int) -> tuple[int, ...]:
        """The batch that `row` opens."""
        assert self._columns is not None
        at = int(self.rows.searchsorted(row))
        kind = tuple(column[at].item() for column in self._columns)
        known = self._kinds.get(kind)
        if known is None:
            same = (self._bucket == self._bucket[at]).nonzero()[0]
            for column, value in zip(self._columns, kind, strict=True):
                same = same.compress(column.take(same) == value)
            rows = self.rows.take(same)
            rows = rows.compress(self._batch.joins(Frame(self._tick, rows), self._apart))
            known = self._order.of(rows), 0
        ranking, begun = known
        ended = begun + self._batch.most
        self._kinds[kind] = ranking, ended
        return tuple(ranking.first(ended)[begun:ended].tolist())


def _hashed(columns: Sequence[Array], size: int) -> I8:
    """`[K]`: a bucket for each row, the same for rows that are equal in all columns."""
    return (mixed(columns, size) & np.uint64(BUCKETS - 1)).astype(np.int64)
