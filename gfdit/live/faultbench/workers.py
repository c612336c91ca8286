"""Faults of workers: killed, stopped, and sent to their deaths by a request."""

from __future__ import annotations

import os
import signal

from gfdit.core.work import Outcome
from gfdit.live.faultbench.row import Row
from gfdit.live.faultbench.stage import EAGER, SCALE, Setting, Stage, perform
from gfdit.live.fleet import FleetSettings

PHASE_S = 0.08  # some steps long: a kill falls anywhere in a step, a hand-over, a boundary, another stage
IDLE_SHARE = 0.1  # of kills that hit any rank, busy or not
STOPPED = FleetSettings(heartbeat_s=0.2, liveness_s=1.0, restart=EAGER)
_SLOWEST = 20.0


def kills(setting: Setting, count: int) -> Row:
    """`kill -9` of random ranks at random moments. A request that was hit so often that one more would count as its own
    fault is spared: that rule has a row of its own."""

    def act(stage: Stage) -> int:
        for _ in range(count):
            rank = _choose(stage)
            with stage.watch.changed:
                if rank not in stage.watch.alive:
                    rank = next(iter(stage.watch.alive))
                blow = stage.signal(rank, signal.SIGKILL)
                stage.wait(lambda blow=blow: blow.lost_at is not None, f"the loss of rank {rank}")  # type: ignore[misc]
        return count

    return perform("kill -9 of a worker", setting, act)


def _choose(stage: Stage) -> int:
    """A rank at a random moment: mostly one with a task that may still fail."""
    watch, most = stage.watch, stage.system.scheduler.max_attempts - 2

    def targets() -> list[int]:
        return [
            rank
            for task in watch.flights.values()
            if watch.failures[task.request_id] <= most
            for rank in task.ranks
            if rank in watch.alive
        ]

    stage.rest(stage.pick.uniform(0, PHASE_S))
    with watch.changed:
        stage.wait(lambda: bool(targets()), "a task in flight")
        spared = {rank for task in watch.flights.values() for rank in task.ranks} - set(targets())
        idle = sorted(set(watch.alive) - spared)
        return stage.pick.choice(idle if stage.pick.random() < IDLE_SHARE else targets())


def stops(setting: Setting, count: int) -> Row:
    """`SIGSTOP` in the middle of work: one half goes on in time, of the other the silence is noticed and the process is
    ended before its rank is given to another."""

    def act(stage: Stage) -> int:
        for number in range(count):
            rank = _choose(stage)
            with stage.watch.changed:
                if rank not in stage.watch.alive:
                    rank = next(iter(stage.watch.alive))
                pid = stage.system.fleet.supervisor.lives[rank].pid
                blow = stage.signal(rank, signal.SIGSTOP)
            if number % 2:
                stage.rest(stage.pick.uniform(0, STOPPED.liveness_s / 2))
                _go_on(pid)
                continue
            with stage.watch.changed:
                stage.wait(lambda blow=blow: blow.lost_at is not None, f"the loss of rank {rank}")  # type: ignore[misc]
        return count

    return perform("SIGSTOP, every other one with SIGCONT", setting, act, STOPPED)


def _go_on(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass  # on a busy machine it may have been silent for too long already


def poison(setting: Setting, count: int) -> Row:
    """Requests that break whoever takes them: half raise an error in every worker, half end its process. Each is given
    up after its attempts, with its error, and nobody else pays for it."""

    def act(stage: Stage) -> int:
        for number in range(count):
            request = stage.request(f"poison{number:03}")
            inputs = dict(stage.system.inputs_of(request))
            deadly = number % 2 == 1
            if not deadly:
                inputs["tokens"] = "none"
            ticket = stage.system.submit(request, inputs)
            stage.tickets.append(ticket)
            stage.excused.add(request.id)
            if deadly:
                _execute(stage, request.id)
            ticket.wait(_SLOWEST * SCALE)
            stage.unmet += ticket.progress.outcome is not Outcome.FAILED
        return count

    return perform("poison request", setting, act)


def _execute(stage: Stage, request_id: str) -> None:
    """End the process of whoever works for the request, until it is given up."""
    watch = stage.watch

    def group() -> list[int]:
        tasks = [task for task in watch.flights.values() if task.request_id == request_id]
        return [rank for task in tasks for rank in task.ranks if rank in watch.alive]

    with watch.changed:
        while True:
            stage.wait(lambda: bool(group()) or watch.ends[request_id] > 0, "a task of the poison")
            if watch.ends[request_id]:
                return
            blow = stage.signal(group()[0], signal.SIGKILL)
            stage.wait(lambda blow=blow: blow.lost_at is not None, "the loss of a worker")  # type: ignore[misc]
