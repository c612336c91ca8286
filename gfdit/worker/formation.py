"""The groups that a task runs in, as a value that lives exactly as long as the task.

A formation of cfg x ring x ulysses ranks, in that order of significance: consecutive ranks exchange heads (Ulysses),
ranks `ulysses` apart exchange keys and values (ring), halves compute one guidance branch each (cfg). `use_formation`
makes one current in this thread of control; attention, split hooks and guiders ask for it and run alone when there is
none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import torch

from gfdit.core.parallel import Parallel


class Group(Protocol):
    """Ordered members that call the same operations in the same order; sizes may differ from member to member."""

    @property
    def index(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Everyone's tensor, in member order."""

    def all_to_all(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What each member sent here, in member order; `tensors[i]` goes to member i."""

    def stream(self, tensor: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """The other members and their tensors, one after the other, starting with the next member."""


@dataclass(frozen=True, slots=True)
class SequenceGroups:
    """A rank's share `index` of `size` of the sequence, and its row and column of the ring x ulysses grid of shares.

    None for a row or column of one.
    """

    index: int
    size: int
    ulysses: Group | None
    ring: Group | None

    def split(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """This rank's share of a tensor that every rank has whole. Shares differ by one at most."""
        return tensor.tensor_split(self.size, dim=dim)[self.index]

    def gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """The whole of a tensor of which every rank has a share: first along rows, then along columns."""
        for group in (self.ulysses, self.ring):
            if group is not None:
                tensor = torch.cat(group.all_gather(tensor), dim=dim)
        return tensor


@dataclass(frozen=True, slots=True)
class Formation:
    """This rank's part in a task; None for a kind of parallelism that the task does not use."""

    sequence: SequenceGroups | None = None
    branches: Group | None = None


_current: ContextVar[Formation | None] = ContextVar("gfdit_formation", default=None)


@contextmanager
def use_formation(formation: Formation | None) -> Iterator[None]:
    """Make `formation` current inside the block."""
    token = _current.set(formation)
    try:
        yield
    finally:
        _current.reset(token)


def sequence_groups() -> SequenceGroups | None:
    """The current task's sequence groups, None when the sequence is not split."""
    formation = _current.get()
    return None if formation is None else formation.sequence


def branch_group() -> Group | None:
    """The ranks that hold the other guidance branches of this rank's tokens, None when all branches run here."""
    formation = _current.get()
    return None if formation is None else formation.branches


@dataclass(frozen=True, slots=True)
class Members:
    """Where a rank is in a group, and the ranks it works with for each kind of parallelism (itself alone: none)."""

    index: int
    size: int
    ulysses: tuple[int, ...]
    ring: tuple[int, ...]
    branches: tuple[int, ...]


def members_of(ranks: tuple[int, ...], rank: int, parallel: Parallel) -> Members:
    """The place of `rank` in the ordered `ranks`. Raises ValueError if the degrees do not multiply to their number."""
    if parallel.degree != len(ranks):
        raise ValueError(f"{parallel} needs {parallel.degree} ranks, not the {len(ranks)} of {ranks}")
    size = parallel.ulysses * parallel.ring
    branch, index = divmod(ranks.index(rank), size)
    row, column = divmod(index, parallel.ulysses)
    shares = ranks[branch * size : (branch + 1) * size]
    return Members(
        index=index,
        size=size,
        ulysses=shares[row * parallel.ulysses : (row + 1) * parallel.ulysses],
        ring=shares[column :: parallel.ulysses],
        branches=ranks[index::size],
    )
