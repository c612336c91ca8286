"""Which ranks make a group: keep what it has, stay inside a node, and leave wide aligned blocks whole for others.

Aligned (buddy) blocks: the ranks of a node in blocks of 1, 2, 4, 8, and nodes in blocks of 1, 2, 4. A group taken from
the block whose neighbours are busiest leaves the most room for wide groups later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache

from gfdit.core.proposal import Prefer
from gfdit.core.topology import Topology


class IdleRanks(Set[int]):
    """Idle ranks by node, so that a group is found without looking at all of them."""

    __slots__ = ("_by_room", "_of_node", "_topology")

    def __init__(self, ranks: Iterable[int], topology: Topology) -> None:
        self._topology = topology
        self._of_node: dict[int, list[int]] = {}  # ascending; nodes that have some
        for rank in sorted(ranks):
            self._of_node.setdefault(topology.node_of[rank], []).append(rank)
        self._by_room: dict[int, set[int]] = {}  # how many idle ranks -> the nodes that have so many
        for node, idle in self._of_node.items():
            self._by_room.setdefault(len(idle), set()).add(node)

    def __contains__(self, rank: object) -> bool:
        return isinstance(rank, int) and rank in self.of_node(self._topology.node_of[rank])

    def __iter__(self) -> Iterator[int]:
        return (rank for ranks in self._of_node.values() for rank in ranks)

    def __len__(self) -> int:
        return sum(room * len(nodes) for room, nodes in self._by_room.items())

    def __and__(self, others: Set[object]) -> set[int]:
        return {rank for rank in self if rank in others}

    @property
    def by_node(self) -> Mapping[int, Sequence[int]]:
        """The idle ranks, ascending, of every node that has some."""
        return self._of_node

    def of_node(self, node: int) -> Sequence[int]:
        """Ascending."""
        return self._of_node.get(node, ())

    def take(self, ranks: Iterable[int]) -> None:
        """They are idle no more."""
        for rank in ranks:
            node = self._topology.node_of[rank]
            idle = self._of_node[node]
            self._by_room[len(idle)].discard(node)
            idle.remove(rank)
            if idle:
                self._by_room.setdefault(len(idle), set()).add(node)
            else:
                del self._of_node[node]

    def node_for(self, degree: int, *, spread: bool) -> Sequence[int] | None:
        """The idle ranks of the fullest node with room for `degree`, the last of equals; with `spread` of the emptiest,
        the first of equals. None when no node has room."""
        rooms = [room for room, nodes in self._by_room.items() if room >= degree and nodes]
        if not rooms:
            return None
        if spread:
            return min((self._of_node[node] for node in self._by_room[max(rooms)]), key=_first)
        return max((self._of_node[node] for node in self._by_room[min(rooms)]), key=_last)


def _first(ranks: Sequence[int]) -> int:
    return ranks[0]


def _last(ranks: Sequence[int]) -> int:
    return ranks[-1]


def choose_ranks(
    degree: int, idle: Set[int], own: Sequence[int], topology: Topology, prefer: Sequence[Prefer]
) -> tuple[int, ...]:
    """An ordered group of `degree` ranks out of `idle` (at least that many), or () when there are too few.

    `own`: ranks of the trajectory's latest group, in order; those still idle come first, so that the least state moves.
    With `same_node` before `last_gpus` the group moves to a node that has room for all of it, if its own has not.
    """
    if len(idle) < degree:
        return ()
    kept = [rank for rank in own if rank in idle] if Prefer.LAST_GPUS in prefer else []
    if kept and _node_first(prefer) and _straddles(degree, idle, kept, topology):
        together = _fresh(degree, idle, topology, spread=False)
        if len({topology.node_of[rank] for rank in together}) == 1:
            return together
    if len(kept) >= degree:
        return tuple(kept[:degree])
    if kept:
        return _grown(degree, idle, kept, topology)
    return _fresh(degree, idle, topology, spread=Prefer.SPREAD in prefer)


def _node_first(prefer: Sequence[Prefer]) -> bool:
    return Prefer.SAME_NODE in prefer and prefer.index(Prefer.SAME_NODE) < prefer.index(Prefer.LAST_GPUS)


def _straddles(degree: int, idle: Set[int], kept: list[int], topology: Topology) -> bool:
    """Whether a group that keeps what it has lies on more than one node."""
    home = topology.node_of[kept[0]]
    if any(topology.node_of[rank] != home for rank in kept[:degree]):
        return True
    return sum(rank in idle for rank in topology.ranks_of[home]) < degree


def _grown(degree: int, idle: Set[int], kept: list[int], topology: Topology) -> tuple[int, ...]:
    """`kept` and the nearest idle ranks: same node first, then the smallest aligned block shared with the first
    rank."""
    lead = kept[0]
    home, place = topology.node_of[lead], topology.place_of[lead]
    near: Iterable[int] = idle
    if isinstance(idle, IdleRanks) and len(idle.of_node(home)) >= degree:
        near = idle.of_node(home)  # nobody elsewhere is as near
    others = sorted(
        (rank for rank in near if rank not in kept),
        key=lambda rank: (
            (topology.node_of[rank] ^ home).bit_length(),
            (topology.place_of[rank] ^ place).bit_length(),
            rank,
        ),
    )
    return tuple(kept + others[: degree - len(kept)])


def _fresh(degree: int, idle: Set[int], topology: Topology, *, spread: bool) -> tuple[int, ...]:
    known = idle if isinstance(idle, IdleRanks) else IdleRanks(idle, topology)
    chosen = known.node_for(degree, spread=spread)
    if chosen is None:
        return _whole_nodes(degree, known.by_node, topology)
    node = topology.ranks_of[topology.node_of[chosen[0]]]
    start = _aligned(degree, tuple(rank in chosen for rank in node))
    return tuple(chosen[-degree:]) if start is None else node[start : start + degree]


def _whole_nodes(degree: int, by_node: Mapping[int, Sequence[int]], topology: Topology) -> tuple[int, ...]:
    """No node has enough: an aligned block of nodes that are free as a whole, else nodes as they are, fullest first."""
    whole = [len(by_node.get(node, ())) == len(ranks) for node, ranks in enumerate(topology.ranks_of)]
    widest = max(len(ranks) for ranks in topology.ranks_of)
    count = -(-degree // widest)
    start = _aligned(count, tuple(whole))
    if start is not None:
        block = [rank for node in range(start, start + count) for rank in topology.ranks_of[node]]
        if len(block) >= degree:
            return tuple(block[:degree])
    ranked = sorted(by_node.values(), key=lambda ranks: (-len(ranks), -ranks[0]))
    return tuple(rank for ranks in ranked for rank in ranks)[:degree]


@lru_cache(maxsize=4096)
def _aligned(size: int, free: tuple[bool, ...]) -> int | None:
    """Where the free aligned block of `size` begins whose twin block is busiest; the last of equals; None: there is
    none."""
    best: tuple[int, int] | None = None
    for start in range(0, len(free) - size + 1, size):
        if not all(free[start : start + size]):
            continue
        twin, quad = (start // size ^ 1) * size, start - start % (4 * size)
        # a larger free neighbourhood is worth more left alone: count the block of twice the size too
        room = sum(free[twin : twin + size]) * 8 * size + sum(free[quad : quad + 4 * size])
        if best is None or (room, -start) < best:
            best = (room, -start)
    return None if best is None else -best[1]
