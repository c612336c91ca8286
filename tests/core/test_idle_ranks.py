"""Idle ranks by node give the groups that looking at all of them gives."""

from __future__ import annotations

import random
from collections.abc import Set

import pytest

from gfdit.core.placement import IdleRanks, choose_ranks
from gfdit.core.proposal import Prefer
from gfdit.core.topology import Topology


def best_node(degree: int, idle: Set[int], topology: Topology, spread: bool) -> list[int] | None:
    """By looking at every rank: the fullest node with room, the last of equals; to spread, the emptiest, the first."""
    by_node: dict[int, list[int]] = {}
    for rank in sorted(idle):
        by_node.setdefault(topology.node_of[rank], []).append(rank)
    fitting = [ranks for ranks in by_node.values() if len(ranks) >= degree]
    if not fitting:
        return None
    return max(fitting, key=len) if spread else min(fitting, key=lambda ranks: (len(ranks), -ranks[-1]))


@pytest.mark.parametrize("seed", range(40))
def test_groups_from_idle_ranks_by_node_are_those_from_a_set(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(20):
        size = rng.choice((4, 8, 16, 40))
        scattered = Topology(tuple(rng.randrange(3) for _ in range(size)))
        topology = rng.choice((scattered, Topology.uniform(size, rng.choice((4, 8)))))
        plain = set(rng.sample(range(size), rng.randrange(size + 1)))
        idle = IdleRanks(plain, topology)
        while plain:
            assert set(idle) == plain and len(idle) == len(plain) and set(idle & {1, 2}) == plain & {1, 2}
            degree, spread = rng.choice((1, 1, 2, 4, 8)), rng.random() < 0.5
            node = idle.node_for(degree, spread=spread)
            assert (None if node is None else list(node)) == best_node(degree, plain, topology, spread), f"seed {seed}"
            own = tuple(rng.sample(range(size), min(size, 2)))
            prefer = rng.choice(
                ((Prefer.LAST_GPUS, Prefer.SAME_NODE), (Prefer.SAME_NODE, Prefer.LAST_GPUS), (Prefer.SPREAD,))
            )
            group = choose_ranks(degree, idle, own, topology, prefer)
            assert group == choose_ranks(degree, plain, own, topology, prefer), f"seed {seed}"
            taken = group or tuple(rng.sample(sorted(plain), 1))
            idle.take(taken)
            plain.difference_update(taken)
