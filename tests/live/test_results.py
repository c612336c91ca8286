"""What a ticket tells its holder, step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gfdit.core.commands import EndRequest, RunTask
from gfdit.core.events import TaskFailed, TaskFinished
from gfdit.core.parallel import Parallel
from gfdit.core.scheduler import Decision, Move, MoveKind
from gfdit.core.work import Outcome, Request, Stage
from gfdit.errors import InputError
from gfdit.live.results import Status, Ticket, Tickets

REQUEST = Request("a", "m", "c", 0, 64, 64, 4, 16)


def task(epoch: int, stage: Stage, *ranks: int, step: int = 0) -> RunTask:
    return RunTask(epoch, "a", stage, step, 1, ranks, Parallel(1, len(ranks), 1), 4)


def decided(*commands: RunTask, moves: tuple[Move, ...] = ()) -> Decision:
    return Decision(commands, None, moves)


def test_a_life_with_a_resize_a_failure_and_a_pause() -> None:
    tickets = Tickets()
    ticket = tickets.open(REQUEST)
    tickets.arrived("a", 5)
    assert (ticket.progress.status, ticket.progress.arrived_ns) == (Status.QUEUED, 5)

    tickets.record(10, [], decided(task(1, Stage.ENCODE, 0)), 0)
    assert (ticket.progress.status, ticket.progress.stage, ticket.progress.started_ns) == (
        Status.RUNNING,
        Stage.ENCODE,
        10,
    )

    tickets.record(20, [TaskFinished(20, 1, 9)], decided(task(2, Stage.DENOISE, 0)), 0)
    grown = Move(MoveKind.GROW, "a", (0,), (0, 1))
    tickets.record(30, [TaskFinished(30, 2, 9)], decided(task(3, Stage.DENOISE, 0, 1, step=1), moves=(grown,)), 0)
    assert (ticket.progress.steps_done, ticket.progress.ranks, ticket.progress.resizes) == (1, (0, 1), 1)
    assert ticket.progress.degrees == ((0, 1), (1, 2))

    tickets.record(40, [TaskFailed(40, 3, "worker_lost")], decided(), 0)
    assert (ticket.progress.status, ticket.progress.steps_done, ticket.progress.failures) == (Status.PAUSED, 1, 1)

    # the step runs again on one rank: the two ranks it never finished on are not part of its history
    tickets.record(50, [], decided(task(4, Stage.DENOISE, 1, step=1)), 0)
    assert ticket.progress.degrees == ((0, 1),)

    paused = Move(MoveKind.PAUSE, "a", (1,), ())
    tickets.record(60, [TaskFinished(60, 4, 9)], decided(moves=(paused,)), 0)
    assert (ticket.progress.status, ticket.progress.steps_done) == (Status.PAUSED, 2)
    assert (ticket.progress.preemptions, ticket.progress.ranks) == (1, ())

    tickets.end(EndRequest("a", Outcome.COMPLETED, 70, deadline_ns=75), b"picture")
    assert (ticket.progress.outcome, ticket.progress.ended_ns, ticket.progress.on_time) == (Outcome.COMPLETED, 70, True)
    assert ticket.output == b"picture"
    assert len(tickets) == 0


def test_the_end_is_told_once_and_nothing_changes_after_it() -> None:
    tickets, told = Tickets(), []
    ticket = tickets.open(REQUEST)
    ticket.on_end(told.append)
    tickets.end(EndRequest("a", Outcome.CANCELLED, 7, code="cancelled"), None)
    tickets.end(EndRequest("a", Outcome.COMPLETED, 8), b"late")
    tickets.record(9, [], decided(task(1, Stage.ENCODE, 0)), 0)
    assert told == [ticket]
    assert (ticket.progress.outcome, ticket.output) == (Outcome.CANCELLED, None)
    assert ticket.wait(0)
    ticket.on_end(told.append)
    assert told == [ticket, ticket]


def test_wait_change_returns_at_once_when_there_is_something_new() -> None:
    ticket = Ticket(REQUEST)
    assert ticket.wait_change(0, timeout=0) == 0
    ticket.update(ticket.progress)
    assert ticket.wait_change(0, timeout=0) == 1


def test_an_id_is_taken_while_its_request_lives_and_for_a_good_while_after() -> None:
    tickets = Tickets(remembered=2)
    for name in ("a", "b", "c"):
        tickets.open(replace(REQUEST, id=name))
    for name in ("a", "b", "c"):
        with pytest.raises(InputError, match=f"`{name}` is taken"):
            tickets.open(replace(REQUEST, id=name))
        tickets.end(EndRequest(name, Outcome.COMPLETED, 70), b"")
    for name in ("b", "c"):  # the latest two
        with pytest.raises(InputError, match=f"`{name}` is taken"):
            tickets.open(replace(REQUEST, id=name))
    assert tickets.open(replace(REQUEST, id="a")).request.id == "a"
