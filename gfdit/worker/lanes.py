"""Groups of a task as lanes of its lease, for tensors on any device.

Shared memory carries CPU tensors; those of an accelerator are staged through the host here. Counts what moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from gfdit.collectives import Lane, Lease
from gfdit.core.parallel import Parallel
from gfdit.worker.formation import Formation, Group, SequenceGroups, members_of

ULYSSES, RING, BRANCHES = 1, 2, 3  # lanes of the lease; 0 is the lease itself


@dataclass(slots=True)
class Traffic:
    """Operations that a rank took part in, and the bytes it received in them."""

    collectives: int = 0
    bytes_moved: int = 0

    def count(self, *received: torch.Tensor) -> None:
        self.collectives += 1
        self.bytes_moved += sum(tensor.numel() * tensor.element_size() for tensor in received)


class LaneGroup:
    """A `Group` (see formation) over a lane."""

    def __init__(self, lane: Lane, traffic: Traffic) -> None:
        self._lane = lane
        self._traffic = traffic

    @property
    def index(self) -> int:
        return self._lane.index

    @property
    def size(self) -> int:
        return self._lane.size

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Everyone's tensor, in member order."""
        return self._arrived(self._lane.all_gather(tensor.detach().cpu()), tensor)

    def all_to_all(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What each member sent here, in member order."""
        mine = tensors[self.index]
        return self._arrived(self._lane.all_to_all([tensor.detach().cpu() for tensor in tensors]), mine)

    def stream(self, tensor: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """The other members and their tensors, pulled one at a time from where they are published once."""
        seq = self._lane.publish(tensor.detach().cpu())
        self._traffic.collectives += 1
        for distance in range(1, self.size):
            member = (self.index + distance) % self.size
            block = self._lane.pull(member, seq)
            assert isinstance(block, torch.Tensor)
            self._traffic.bytes_moved += block.numel() * block.element_size()
            yield member, block.to(tensor.device)

    def _arrived(self, received: Sequence[object], mine: torch.Tensor) -> list[torch.Tensor]:
        """`received` with the own part as it was, on the device of `mine`."""
        tensors = [part for part in received if isinstance(part, torch.Tensor)]
        assert len(tensors) == self.size
        self._traffic.count(*(part for i, part in enumerate(tensors) if i != self.index))
        return [mine if i == self.index else part.to(mine.device) for i, part in enumerate(tensors)]


def formation(lease: Lease, ranks: tuple[int, ...], rank: int, parallel: Parallel, traffic: Traffic) -> Formation:
    """What `rank` is in the ordered group `ranks`, all of them members of the lease."""
    members = members_of(ranks, rank, parallel)

    def group(of: tuple[int, ...], lane: int) -> Group | None:
        return LaneGroup(lease.lane(of, lane), traffic) if len(of) > 1 else None

    return Formation(
        sequence=SequenceGroups(members.index, members.size, group(members.ulysses, ULYSSES), group(members.ring, RING))
        if members.size > 1
        else None,
        branches=group(members.branches, BRANCHES),
    )
