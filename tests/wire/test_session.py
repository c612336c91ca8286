"""The rules of the conversation: credit, order, and what a worker may say when."""

from __future__ import annotations

import pytest

from gfdit.core.work import Stage
from gfdit.errors import WireError
from gfdit.wire.messages import (
    Abort,
    Endpoint,
    Forget,
    Goodbye,
    Heartbeat,
    Hello,
    Ready,
    Run,
    Shutdown,
    TaskDone,
    TaskFailed,
    ToController,
)
from gfdit.wire.session import CREDIT, PeerSession, Phase

HERE = Endpoint(rank=3, incarnation=2, pid=100, fd=5, start_time=9)


def run(epoch: int) -> Run:
    return Run(epoch, "a", Stage.DENOISE, (3,), 0, 1, (), (1, 1, 1))


@pytest.fixture
def session() -> PeerSession:
    session = PeerSession(rank=3, incarnation=2, identity=b"3.2.x", now_ns=0)
    session.receive(Hello(100), 10)
    session.receive(Ready(HERE), 20)
    return session


def test_credit_holds_tasks_back_and_an_answer_releases_one(session: PeerSession) -> None:
    assert [len(session.send(run(epoch))) for epoch in (1, 2, 3, 4)] == [1, 1, 0, 0]
    assert session.outstanding == [1, 2, 3, 4]
    assert session.receive(TaskDone(1), 30) == [run(3)]
    assert session.receive(TaskFailed(3, "error"), 40) == [run(4)]
    assert session.outstanding == [2, 4]
    assert CREDIT == 2


def test_forget_keeps_its_place_behind_held_tasks_and_abort_overtakes(session: PeerSession) -> None:
    for epoch in (1, 2, 3):
        session.send(run(epoch))
    assert session.send(Forget("a")) == []
    assert session.send(Abort(3, "why")) == [Abort(3, "why")]
    assert session.receive(TaskDone(1), 30) == [run(3), Forget("a")]


def test_every_message_that_counts_is_word_of_life(session: PeerSession) -> None:
    assert session.heard_ns == 20
    session.receive(Heartbeat(), 77)
    assert session.heard_ns == 77
    with pytest.raises(WireError):
        session.receive(TaskDone(9), 99)
    assert session.heard_ns == 77


@pytest.mark.parametrize("message", [TaskDone(1), TaskFailed(1, "error"), Hello(100), Ready(HERE)])
def test_out_of_turn_when_ready(session: PeerSession, message: ToController) -> None:
    with pytest.raises(WireError, match="rank 3 may not say"):
        session.receive(message, 30)
    assert session.ready
    assert session.outstanding == []


def test_an_answer_counts_once(session: PeerSession) -> None:
    session.send(run(1))
    session.receive(TaskDone(1), 30)
    with pytest.raises(WireError):
        session.receive(TaskDone(1), 31)


def test_no_answer_for_a_task_that_was_held_back(session: PeerSession) -> None:
    for epoch in (1, 2, 3):
        session.send(run(epoch))
    with pytest.raises(WireError):
        session.receive(TaskDone(3), 30)
    assert session.outstanding == [1, 2, 3]


@pytest.mark.parametrize("other", [Endpoint(3, 1, 100, 5, 9), Endpoint(2, 2, 100, 5, 9)])
def test_ready_must_be_of_this_life(other: Endpoint) -> None:
    session = PeerSession(3, 2, b"3.2.x", 0)
    with pytest.raises(WireError):
        session.receive(Ready(other), 1)
    assert session.phase is Phase.STARTING


def test_a_worker_that_starts_is_told_nothing_but_to_leave() -> None:
    session = PeerSession(3, 2, b"3.2.x", 0)
    for message in (run(1), Abort(1, "why"), Forget("a")):
        assert session.send(message) == []
    assert session.outstanding == []
    assert session.send(Shutdown()) == [Shutdown()]


def test_nothing_goes_out_or_counts_after_the_end(session: PeerSession) -> None:
    for epoch in (1, 2, 3):
        session.send(run(epoch))
    assert session.lost() == [1, 2, 3]
    assert session.send(Shutdown()) == []
    for message in (Heartbeat(), TaskDone(1), Goodbye()):
        with pytest.raises(WireError):
            session.receive(message, 50)
