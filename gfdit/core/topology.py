"""The cluster as the scheduler sees it: ranks, and which node each lives on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topology:
    """`node_of[rank]` is the node index of each rank the cluster can have; ranks join and leave by events."""

    node_of: tuple[int, ...]

    @classmethod
    def uniform(cls, gpus: int, gpus_per_node: int = 8) -> Topology:
        """`gpus` ranks, numbered node by node."""
        return cls(tuple(rank // gpus_per_node for rank in range(gpus)))

    @property
    def size(self) -> int:
        return len(self.node_of)
