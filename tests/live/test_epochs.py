"""Members' answers become exactly one event an epoch, whatever their order."""

from __future__ import annotations

import itertools

import pytest

from gfdit.core.commands import RunTask
from gfdit.core.parallel import Parallel
from gfdit.core.work import Stage
from gfdit.live.epochs import EpochBook, Failed, Finished
from gfdit.wire.messages import Code, TaskDone, TaskFailed


def task(*ranks: int, sources: tuple[int, ...] = ()) -> RunTask:
    return RunTask(7, "a", Stage.DENOISE, 0, 1, ranks, Parallel(1, len(ranks), 1), 4, sources)


@pytest.mark.parametrize("order", list(itertools.permutations((0, 1, 2))))
def test_finishes_once_with_the_leaders_result_and_the_slowest_times(order: tuple[int, ...]) -> None:
    book, command = EpochBook(), task(2, 0, 1)
    book.open(command, command.ranks)
    said = {rank: TaskDone(7, done=rank, compute_s=rank + 0.5, handover_s=9.0 - rank) for rank in order}
    settled = [book.done(rank, said[rank]) for rank in order]
    assert settled == [None, None, Finished(command, said[2], compute_s=2.5, handover_s=9.0)]
    assert len(book) == 0
    assert book.done(0, TaskDone(7)) is None


def test_a_giver_is_waited_for_and_its_time_does_not_count() -> None:
    book, command = EpochBook(), task(0, 1, sources=(4,))
    book.open(command, (0, 1, 4))
    assert book.done(0, TaskDone(7, compute_s=1.0)) is None
    assert book.done(1, TaskDone(7, compute_s=2.0)) is None
    assert book.done(4, TaskDone(7, compute_s=9.0)) == Finished(command, TaskDone(7, compute_s=1.0), 2.0, 0.0)


@pytest.mark.parametrize(
    ("codes", "told", "blame"),
    [
        (("worker_lost", "aborted"), "worker_lost", True),
        (("aborted", "error"), "error", True),
        (("worker_lost", "out_of_memory"), "out_of_memory", True),
        (("aborted", "aborted"), "aborted", False),
        (("timeout", "aborted"), "timeout", True),
    ],
)
def test_fails_once_with_the_cause(codes: tuple[Code, Code], told: Code, blame: bool) -> None:
    book, command = EpochBook(), task(0, 1, 2)
    book.open(command, command.ranks)
    assert book.done(2, TaskDone(7)) is None
    assert book.failed(0, TaskFailed(7, codes[0], "x")) is None
    failed = book.failed(1, TaskFailed(7, codes[1], "y"))
    assert isinstance(failed, Failed)
    assert (failed.code, failed.blame) == (told, blame)


def test_a_lost_giver_is_not_the_requests_fault() -> None:
    book, command = EpochBook(), task(0, sources=(3,))
    book.open(command, (0, 3))
    assert book.failed(3, TaskFailed(7, "worker_lost", "killed")) is None
    failed = book.failed(0, TaskFailed(7, "aborted", ""))
    assert failed == Failed(command, "worker_lost", "rank 3: killed", blame=False)


def test_answers_of_strangers_and_unknown_epochs_change_nothing() -> None:
    book, command = EpochBook(), task(0, 1)
    book.open(command, command.ranks)
    assert book.done(5, TaskDone(7)) is None
    assert book.failed(0, TaskFailed(8, "error")) is None
    assert book.waiting_on(7) == (0, 1)
