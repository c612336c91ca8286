"""What must hold of the scheduler's books after every tick; tests run it on every tick of every simulation they do."""

from __future__ import annotations

from gfdit.core.lifecycle import TERMINAL, State
from gfdit.core.scheduler import Scheduler
from gfdit.errors import InvariantError


def check(scheduler: Scheduler) -> None:
    """Raises InvariantError, naming the request or rank, when the books do not add up."""
    for rank, epoch in scheduler.owner.items():
        if epoch not in scheduler.flights:
            raise InvariantError(f"rank {rank} is held by epoch {epoch}, which is not in flight")
    in_flight: dict[int, int] = {}
    for epoch, flight in scheduler.flights.items():
        for rank in flight.command.ranks:
            if rank in in_flight:
                raise InvariantError(f"rank {rank} works for epochs {in_flight[rank]} and {epoch} at once")
            in_flight[rank] = epoch
    for t in scheduler.trajectories.values():
        _check_trajectory(scheduler, t.request.id)


def _check_trajectory(scheduler: Scheduler, request_id: str) -> None:
    t = scheduler.trajectories[request_id]
    if t.state in TERMINAL:
        raise InvariantError(f"request `{request_id}` is {t.state} and still live")
    if (t.state is State.RUNNING) != (t.epoch is not None):
        raise InvariantError(f"request `{request_id}` is {t.state} with epoch {t.epoch}")
    if t.epoch is not None and scheduler.flights[t.epoch].trajectory is not t:
        raise InvariantError(f"request `{request_id}` claims epoch {t.epoch} of another request")
    if not 0 <= t.steps_done <= t.steps_total:
        raise InvariantError(f"request `{request_id}` has done {t.steps_done} of {t.steps_total} steps")
    if any(rank not in scheduler.alive for rank in t.holders):
        raise InvariantError(f"request `{request_id}` counts on a lost rank: holders {t.holders}")
    if t.state is State.READY:
        raise InvariantError(f"request `{request_id}` is between tasks after a tick")
