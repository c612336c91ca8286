"""Plan order, sorted as far as somebody asks: a tick places a handful of requests, and thousands may wait.

A head of the order is found by selecting, not by sorting: the rows up to a threshold of the first key, and of those
that tie on it the best by the next. It is a prefix of the order that a stable sort of everything would give, whatever
the threshold; where it comes from decides only how much is sorted. May not decide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gfdit.core.view import B1, F8, I8
from gfdit.policy.columns import Fn, Tick

SMALL = 64  # so few rows are sorted whole
LONG = 2048  # from so many on, guessing an order is cheaper than sorting
SPARE = 4  # times what is needed, that a threshold may let through


class Hint:
    """The threshold of the last tick: with nearly the same requests, nearly the same number passes it again."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = np.nan


class Ranking:
    """Rows of a tick, ascending, in plan order: by the keys, then by row. Those that are true in `late[N]` come after
    all others, in an order of their own."""

    def __init__(
        self,
        tick: Tick,
        rows: I8,
        keys: tuple[Fn, ...],
        hint: Hint,
        late: B1 | None = None,
        sort_late: Callable[[I8], I8] = lambda rows: rows,
    ) -> None:
        self.rows = rows
        self.size = len(rows)
        self._tick = tick
        self._late = late
        self._ahead = rows if late is None else rows.compress(~late.take(rows))
        self._sort_late = sort_late
        self._keys = keys
        self._hint = hint
        self._head: I8 = rows[:0]  # a prefix of the order

    def first(self, count: int) -> I8:
        """At least the first `count` rows in order, or all when there are fewer."""
        if len(self._head) < min(count, self.size):
            self._head = self._find(count)
        return self._head

    def all(self) -> I8:
        return self.first(self.size)

    def mask(self) -> B1:
        """`[N]`: which rows of the view are in it."""
        mask = np.zeros(self._tick.view.size, dtype=bool)
        mask[self.rows] = True
        return mask

    def after(self, count: int) -> B1:
        """`[N]`: the rows behind the first `count`."""
        rest = self.mask()
        if count:
            rest[self.first(count)[:count]] = False
        return rest

    def sorted(self, rows: I8) -> I8:
        """Some of the rows (ascending) in plan order."""
        if self._late is None:
            return sort(self._tick, rows, self._keys)
        late = self._late.take(rows)
        in_time = sort(self._tick, rows.compress(~late), self._keys)
        return np.concatenate([in_time, self._sort_late(rows.compress(late))])

    def part(self, wanted: B1) -> Ranking:
        """The same order of those rows that are true in `wanted[N]`."""
        return self.of(self.rows.compress(wanted.take(self.rows)))

    def of(self, rows: I8) -> Ranking:
        """The same order of some of the rows (ascending)."""
        return Ranking(self._tick, rows, self._keys, Hint(), self._late, self._sort_late)

    def _find(self, count: int) -> I8:
        if count < len(self._ahead):
            return head(self._tick, self._ahead, self._keys, count, self._hint)
        return self.sorted(self.rows)


def sort(tick: Tick, rows: I8, keys: Sequence[Fn], count: int | None = None) -> I8:
    """All of `rows` (ascending) by the keys, then by row; at least the first `count` where that is given."""
    if not keys or len(rows) < 2:
        return rows
    first = tick.values(keys[0], rows)
    by_first = first.argsort(kind="stable")
    if len(keys) > 1:
        asked = by_first if count is None else by_first[: count + 1]
        sorted_ = first.take(asked)
        if np.count_nonzero(sorted_[:-1] < sorted_[1:]) < len(asked) - 1:
            by_first = np.lexsort([*(tick.values(key, rows) for key in reversed(keys[1:])), first])
        elif len(asked) < len(rows):  # where nobody ties, the other keys decide nothing
            by_first = asked[:-1]
    found: I8 = rows.take(by_first)
    return found


def head(tick: Tick, rows: I8, keys: Sequence[Fn], count: int, hint: Hint | None = None) -> I8:
    """At least the first `count` of `sort(tick, rows, keys)`, as if all had been sorted."""
    if not keys:
        return rows
    spare = SMALL + SPARE * count
    if len(rows) <= spare:
        return sort(tick, rows, keys, count)
    column: F8 = tick.values(keys[0], rows)
    limit = _threshold(column, count, spare, hint)
    if limit != limit:  # what is not a number comes last, and there are not enough others
        return sort(tick, rows, keys)
    below = column <= limit
    if np.count_nonzero(below) <= spare:
        return sort(tick, rows.compress(below), keys, count)
    clear, tied = rows.compress(column < limit), rows.compress(column == limit)
    return np.concatenate([sort(tick, clear, keys), head(tick, tied, keys[1:], count - len(clear))])


def _threshold(column: F8, count: int, spare: int, hint: Hint | None) -> float:
    """A value that at least `count` of the column do not exceed: the hint, if it lets no more than `spare` through or
    those above `count` tie on it; else the smallest there is, nan when those are too few."""
    if hint is not None:
        passing = np.count_nonzero(column <= hint.value)
        if passing >= count and (passing <= spare or np.count_nonzero(column < hint.value) < count):
            return hint.value
    parts = np.partition(column, (count - 1, 2 * count - 1))
    if hint is not None and not np.isnan(parts[count - 1]):
        hint.value = float(parts[2 * count - 1])
    return float(parts[count - 1])


class Presorted:
    """The order of the last tick as a guess for this one: few requests come, go, or change their key in between.

    What the guess says is checked; where it is wrong in more than a few places, everything is sorted.
    """

    def __init__(self) -> None:
        self._slots: I8 = np.zeros(0, dtype=np.int64)

    def argsort(self, key: F8, slots: I8, rows: I8) -> I8:
        """A stable argsort of `key[K]`, a column over `rows[K]`; `slots[N]`: what tells requests apart over ticks."""
        if len(rows) < LONG:
            return key.argsort(kind="stable")
        own = slots.take(rows)
        found = None if len(self._slots) < LONG else self._repaired(key, own)
        if found is None:
            found = key.argsort(kind="stable")
        self._slots = own.take(found)
        return found

    def _repaired(self, key: F8, own: I8) -> I8 | None:
        position = np.full(1 + int(max(own.max(), self._slots.max())), -1)
        position[own] = np.arange(len(own))
        guess = position.take(self._slots)
        guess = guess.compress(guess >= 0)
        if len(guess) == len(own):
            sorted_ = key.take(guess)
            if (sorted_[:-1] < sorted_[1:]).all():
                return guess
        loose = np.ones(len(own), dtype=bool)  # to be put in their places one by one
        loose[guess] = False
        falls = np.flatnonzero(~_in_order(key.take(guess), guess))
        loose[guess.take(falls)] = loose[guess.take(falls + 1)] = True
        single = np.flatnonzero(loose)
        if len(single) > len(own) // SPARE:
            return None
        if len(single):
            kept = guess.compress(~loose.take(guess))
            single = single.take(key.take(single).argsort(kind="stable"))
            guess = np.insert(kept, key.take(kept).searchsorted(key.take(single), "right"), single)
        return guess if bool(_in_order(key.take(guess), guess).all()) else None


def _in_order(key: F8, position: I8) -> B1:
    """Whether each is to stand before the next: by the key, then by position."""
    ordered: B1 = (key[:-1] < key[1:]) | ((key[:-1] == key[1:]) & (position[:-1] < position[1:]))
    return ordered
