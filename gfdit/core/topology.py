"""The cluster as the scheduler sees it: ranks, and which node each lives on."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Topology:
    """`node_of[rank]` is the node index of each rank the cluster can have; ranks join and leave by events.

    `ranks_of[node]`: its ranks, ascending. `place_of[rank]`: its place among those.
    """

    node_of: tuple[int, ...]
    ranks_of: tuple[tuple[int, ...], ...] = field(init=False, compare=False, repr=False)
    place_of: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        nodes: list[list[int]] = [[] for _ in range(max(self.node_of, default=-1) + 1)]
        places: list[int] = []
        for rank, node in enumerate(self.node_of):
            places.append(len(nodes[node]))
            nodes[node].append(rank)
        object.__setattr__(self, "ranks_of", tuple(map(tuple, nodes)))
        object.__setattr__(self, "place_of", tuple(places))

    @classmethod
    def uniform(cls, gpus: int, gpus_per_node: int = 8) -> Topology:
        """`gpus` ranks, numbered node by node."""
        return cls(tuple(rank // gpus_per_node for rank in range(gpus)))

    @property
    def size(self) -> int:
        return len(self.node_of)
