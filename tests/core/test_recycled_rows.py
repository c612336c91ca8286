"""Rows of the table are recycled: a newcomer must not inherit anything of whoever had its row before."""

from __future__ import annotations

import pytest
from literal_policies import EdfBestFit
from small_worlds import make_cost, make_request

from gfdit.core.estimate import Estimator
from gfdit.core.events import RequestArrived, TaskFinished, WorkerJoined
from gfdit.core.proposal import Proposal
from gfdit.core.scheduler import Scheduler
from gfdit.core.topology import Topology
from gfdit.core.view import View
from gfdit.units import to_ns


class Watching(EdfBestFit):
    """Keeps the view that it was last asked about."""

    view: View

    def plan(self, view: View) -> Proposal:
        self.view = view
        return super().plan(view)


def test_a_newcomer_in_a_used_row_waits_from_its_own_arrival() -> None:
    """The one before it ended on a rank: the row must not say that the newcomer has one."""
    policy = Watching()
    scheduler = Scheduler(policy, Topology.uniform(1), Estimator(make_cost(), 1))
    scheduler.observe(WorkerJoined(0, 0, 1))
    scheduler.observe(RequestArrived(0, make_request(0, steps=1)))
    now = 0
    while scheduler.trajectories:
        now += to_ns(1)
        for command in scheduler.tick(now).commands:
            scheduler.observe(TaskFinished(now, command.epoch, busy_ns=1_000_000))
    scheduler.observe(RequestArrived(now, make_request(2, now / 1e9)))  # it has the used row
    scheduler.observe(RequestArrived(now, make_request(1, now / 1e9, slo_s=1.0)))  # and this one the rank
    scheduler.tick(now)
    later = now + to_ns(5)
    scheduler.observe(RequestArrived(later, make_request(3, later / 1e9)))
    scheduler.tick(later)
    view = policy.view
    waiting = view.ids.index("r002")
    assert (int(view.sp[waiting]), int(view.last_sp[waiting])) == (0, 0)
    assert view.waited_s[waiting] == pytest.approx(5.0)
    assert view.waited_s[view.ids.index("r003")] == pytest.approx(0.0)
