"""Which ranks make a group: keep what it has, stay inside a node, and leave wide aligned blocks whole for others.

Aligned (buddy) blocks: the ranks of a node in blocks of 1, 2, 4, 8. A group taken from the block whose neighbours are
busiest leaves the most room for wide groups later.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from gfdit.core.proposal import Prefer
from gfdit.core.topology import Topology


def choose_ranks(
    degree: int, idle: Set[int], own: Sequence[int], topology: Topology, prefer: Sequence[Prefer]
) -> tuple[int, ...]:
    """An ordered group of `degree` ranks out of `idle` (at least that many), or () when there are too few.

    `own`: ranks of the trajectory's latest group, in order; those still idle come first, so that the least state moves.
    """
    if len(idle) < degree:
        return ()
    kept = [rank for rank in own if rank in idle] if Prefer.LAST_GPUS in prefer else []
    if len(kept) >= degree:
        return tuple(kept[:degree])
    if kept:
        return _grown(degree, idle, kept, topology)
    return _fresh(degree, idle, topology, spread=Prefer.SPREAD in prefer)


def _grown(degree: int, idle: Set[int], kept: list[int], topology: Topology) -> tuple[int, ...]:
    """`kept` and the nearest idle ranks: same node first, then the smallest aligned block shared with the first
    rank."""
    lead = kept[0]
    others = sorted(
        (rank for rank in idle if rank not in kept),
        key=lambda rank: (topology.node_of[rank] != topology.node_of[lead], (rank ^ lead).bit_length(), rank),
    )
    return tuple(kept + others[: degree - len(kept)])


def _fresh(degree: int, idle: Set[int], topology: Topology, *, spread: bool) -> tuple[int, ...]:
    by_node: dict[int, list[int]] = {}
    for rank in sorted(idle):
        by_node.setdefault(topology.node_of[rank], []).append(rank)
    fitting = [ranks for ranks in by_node.values() if len(ranks) >= degree]
    if not fitting:  # no node has enough: take whole nodes' worth, fullest first
        ranked = sorted(by_node.values(), key=lambda ranks: (-len(ranks), -ranks[0]))
        return tuple(rank for ranks in ranked for rank in ranks)[:degree]
    chosen = max(fitting, key=len) if spread else min(fitting, key=lambda ranks: (len(ranks), -ranks[-1]))
    block = _aligned_block(degree, chosen, idle)
    return block or tuple(chosen[-degree:])


def _aligned_block(degree: int, ranks: list[int], idle: Set[int]) -> tuple[int, ...]:
    """The idle aligned block of `degree` ranks whose twin block is busiest; the last of equals; () when there is
    none."""
    best: tuple[int, int] | None = None
    starts = {rank - rank % degree for rank in ranks}
    for start in starts:
        if not all(rank in idle for rank in range(start, start + degree)):
            continue
        twin = start ^ degree
        room = sum(rank in idle for rank in range(twin, twin + degree))
        # a larger free neighbourhood is worth more left alone: count the block of twice the size too
        quad = start - start % (4 * degree)
        room = room * 8 * degree + sum(rank in idle for rank in range(quad, quad + 4 * degree))
        if best is None or (room, -start) < best:
            best = (room, -start)
    if best is None:
        return ()
    return tuple(range(-best[1], -best[1] + degree))
