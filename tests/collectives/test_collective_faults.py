"""Death, silence, disagreement, misuse: every member learns of it, nothing hangs, and the world goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.collectives import fault_programs as programs
from tests.collectives.ranks import Worker, run, start


@pytest.mark.parametrize("ranks", [(0, 1, 3), (3, 1, 0)])
def test_order_is_semantic(ranks: tuple[int, ...]) -> None:
    want = [f"{rank}@{place}" for place, rank in enumerate(ranks)]
    for rank, got in enumerate(run(4, programs.order, ranks)):
        assert got == ([*want, want[0]] if rank in ranks else [])


@pytest.mark.parametrize("after_publish", [False, True])
def test_kill_is_seen_by_all_and_the_rest_goes_on(after_publish: bool) -> None:
    """What the victim had published is still valid; what it had not raises `PeerDead`."""
    workers = start([programs.dies_inside] * 4, 2, after_publish)
    for rank in (0, 1, 3):
        assert workers[rank].result() == (("dead", 2), True)
    for worker in workers:
        worker.end(let=worker.rank != 2)


def test_timeout_names_who_is_missing() -> None:
    workers = start([programs.never_arrives] * 3, 1)
    workers[0].hear(), workers[2].hear()
    workers[1].tell()
    raised = [worker.result() for worker in workers]
    assert all(fine for _, fine in raised)
    assert raised[1][0] is None
    for why, _ in (raised[0], raised[2]):  # whoever is later may see the abort of the other instead
        assert why == ("timeout", [1]) or (why[0] == "aborted" and "waiting on ranks [1]" in why[1][1])
    assert ("timeout", [1]) in (raised[0][0], raised[2][0])
    for worker in workers:
        worker.end(let=True)


def test_an_exception_inside_a_lease_aborts_it_everywhere() -> None:
    results = _aborting(from_thread=False)
    assert results[1] == ("KeyError", True)
    reason = "KeyError: 'no such latent'"
    for rank in (0, 2):  # whoever polls later may see the other one, which passes the reason on
        assert results[rank] in [(("aborted", (by, reason)), True) for by in (0, 1, 2)]


def test_abort_from_another_thread_reaches_all() -> None:
    results = _aborting(from_thread=True)
    assert results[2] == (("LeaseFenced", "enough"), True)
    for rank in (0, 1):
        assert results[rank] in [(("aborted", (by, "enough")), True) for by in (0, 2)]


def _aborting(from_thread: bool) -> list:
    workers = start([programs.aborts] * 3, from_thread)
    for rank in (0, 2):
        workers[rank].hear()
    if from_thread:
        workers[1].tell()
        workers[1].hear()
    results = [worker.result() for worker in workers]
    for worker in workers:
        worker.end(let=True)
    return results


@pytest.mark.parametrize(
    ("what", "field"),
    [
        ("group", "group"),
        ("lane group", "group"),
        ("op", "op"),
        ("dtype", "dtype"),
        ("layout", "layout"),
        ("nbytes", "nbytes"),
        ("operations", "operations"),
        ("chunks", "layout"),
    ],
)
def test_disagreement_is_a_mismatch_on_all(what: str, field: str) -> None:
    """The member that stopped early has nothing left to raise; everybody else does."""
    for rank, (raised, fine) in enumerate(run(3, programs.disagrees, what)):
        if not (what == "operations" and rank == 2):
            assert raised == ("mismatch", field)
        assert fine


def test_wrong_calls_change_nothing() -> None:
    want = [
        "NotMember", "UnknownPeer", "SlotBusy", "ValueError", "ValueError", "TypeError", "ValueError", "ValueError",
        "NotMember", "ValueError", "ab", "LeaseFenced", "LeaseFenced",
    ]  # fmt: skip
    assert run(2, programs.refuses) == [want, want]


def test_a_member_that_died_before_it_was_mapped() -> None:
    workers = start([programs.meets_the_dead] * 3)
    assert workers[2].result() is None
    workers[2].end()
    for worker in workers[:2]:
        worker.tell()
    for worker in workers[:2]:
        assert worker.result() == ([2, 2], True)
        worker.end(let=True)


def test_a_slot_that_drains_is_busy_not_a_hang() -> None:
    workers = start([programs.holds_the_slot] * 2)
    workers[0].hear()
    workers[1].tell()
    assert workers[0].result() == (("busy", [1]), True)
    assert workers[1].result() is True
    for worker in workers:
        worker.end(let=True)


def test_a_new_incarnation_replaces_a_killed_one() -> None:
    first, second = start([programs.comes_back] * 2, 1)
    first.hear()
    second.end()
    assert first.hear() == 1
    again = Worker(1, programs.comes_back, 2, incarnation=2)
    again.tell([first.endpoint])
    first.tell([again.endpoint])
    assert first.result() and again.result()
    first.end(let=True)
    again.end(let=True)


def test_a_stopped_member_is_fenced_when_it_wakes() -> None:
    workers = start([programs.sleeps_through] * 3)
    for worker in workers:
        worker.hear()
    pid = workers[2].endpoint.pid
    workers[2].tell()
    _wait_for_state(pid, "T")
    results = [workers[0].result(), workers[1].result()]
    os.kill(pid, signal.SIGCONT)
    assert all(fine for _, fine in results)
    assert all(why[0] in ("timeout", "aborted") for why, _ in results)
    assert workers[2].result()[0][0] == "LeaseFenced"
    for worker in workers:
        worker.end(let=True)


def _wait_for_state(pid: int, state: str) -> None:
    until = time.monotonic() + 20
    while (now := Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]) != state:
        assert time.monotonic() < until, f"process {pid} is {now}, not {state}"
        time.sleep(0.005)


def test_messages_larger_than_stage_chunk_and_arena() -> None:
    """Around the small stage (16 KiB less the table), around the 1 MiB chunk, and twice a 2 MiB arena."""
    stage, chunk, arena = (16 << 10) - 88, 1 << 20, 2 << 20
    around = [edge + more for edge in (stage, chunk, arena) for more in (-1, 0, 1)]
    sizes = [0, 1, *around, 2 * arena + 77]
    assert run(2, programs.sizes_around_the_chunk, sizes, arena=arena) == [True, True]
    assert run(2, programs.sizes_around_the_chunk, sizes[:7], arena=4096) == [True, True]


def test_arena_tensors_are_published_in_place() -> None:
    workers = start([programs.in_place] * 2, arena=16 << 20)
    for worker in workers:
        worker.hear()
    for worker in workers:
        worker.tell()
    for worker in workers:
        fine, taken, staged, too_large, leaked = worker.result()
        assert fine and too_large == "ArenaFull"
        assert taken == 3 << 20
        assert staged == 0 and leaked == 0
    for worker in workers:
        worker.end(let=True)


def test_two_threads_of_a_rank_hold_leases_at_a_time() -> None:
    assert run(3, programs.from_two_threads, 40) == [240, 240, 240]


def test_lives_of_a_peer_leave_no_descriptor_behind() -> None:
    lives = 12
    steady = Worker(0, programs.counts_descriptors, lives)
    steady.tell([])
    for life in range(1, lives + 1):
        other = Worker(1, programs.lives_once, life, incarnation=life)
        other.tell([steady.endpoint])
        steady.tell([other.endpoint])
        steady.hear()
        other.result()
        other.end(let=life % 2 == 0)
    second, last = steady.result()
    assert second == last
    steady.end(let=True)


def test_a_fork_does_not_keep_a_dead_rank_alive() -> None:
    workers = start([programs.forks] * 2)
    told = {workers[1].hear(), workers[1].hear()}
    assert "refused" in told
    (child,) = told - {"refused"}
    workers[1].tell()
    assert workers[0].result() == 1
    os.kill(child, signal.SIGKILL)
    workers[0].end(let=True)
    workers[1].end()
