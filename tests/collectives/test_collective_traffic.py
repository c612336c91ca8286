"""Random overlapping groups on real processes, byte for byte; and the same while a member is killed."""

from __future__ import annotations

import pytest

from tests.collectives.ranks import run, start
from tests.collectives.traffic import KINDS, groups, traffic, traffic_with_victim


@pytest.mark.parametrize(("seed", "n", "arena"), [(1, 2, 4 << 20), (2, 4, 4 << 20), (3, 4, 1 << 16)])
def test_random_overlapping_groups_move_every_byte(seed: int, n: int, arena: int) -> None:
    """With a 64 KiB arena nearly everything is chunked through the small stages."""
    count, big, kinds = 40, 300_000, KINDS
    if arena < 1 << 20:
        big, kinds = 40_000, tuple(kind for kind in KINDS if kind not in ("publish", "lanes"))
    results = run(n, traffic, seed, n, count, big, kinds, arena=arena)
    for rank, (operations, checked) in enumerate(results):
        assert operations == sum(len(group.seeds) for group in groups(seed, n, count) if rank in group.ranks)
        assert checked > operations / 2


def test_killed_member_is_seen_and_later_groups_work() -> None:
    n, count, victim = 4, 90, 2
    workers = start([traffic_with_victim] * n, 7, n, count, victim)
    survivors = [worker for worker in workers if worker.rank != victim]
    assert workers[victim].hear() == "under way"
    workers[victim].end()
    for worker in survivors:
        good, errors = worker.result()
        mine = [group for group in groups(7, n, count) if worker.rank in group.ranks]
        assert good == sum(victim not in group.ranks for group in mine)
        assert errors and "PeerDead" in errors
        worker.end(let=True)
