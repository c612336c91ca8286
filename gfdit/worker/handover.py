"""Giving a trajectory's state to the members of a group that lack it.

All participants of a task say what they have; from that table each works out alone who gives what to whom, and one
exchange moves it. A member that has the cold state already (it ran earlier steps) gets the hot one only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gfdit.collectives import Lease
from gfdit.errors import StateError
from gfdit.worker.codec import ALIGNMENT
from gfdit.worker.lanes import Traffic
from gfdit.worker.trajectory import Replica, Trajectory


@dataclass(frozen=True, slots=True)
class Stock:
    """What one participant has: whether it holds the newest state, and which cold one (0: none)."""

    newest: bool
    cold_id: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message of a hand-over, between members named by their index in the lease."""

    source: int
    target: int
    with_cold: bool


def deliveries(stocks: Sequence[Stock], members: int) -> list[Delivery]:
    """Who gives the state to whom, so that the first `members` participants have it; holders take turns.

    Raises StateError if nobody has it.
    """
    holders = [i for i, stock in enumerate(stocks) if stock.newest]
    if not holders:
        raise StateError(
            "no participant holds the state that the task starts from", hint="restore it from a checkpoint"
        )
    lacking = [i for i in range(members) if not stocks[i].newest]
    turns = [holders[turn % len(holders)] for turn in range(len(lacking))]
    return [
        Delivery(source, target, stocks[source].cold_id != stocks[target].cold_id)
        for source, target in zip(turns, lacking, strict=True)
    ]


def hand_over(
    lease: Lease, replica: Replica, trajectory: Trajectory | None, *, newest: bool, members: int, traffic: Traffic
) -> Trajectory | None:
    """Take part in the hand-over of a task whose first `members` participants run it.

    `trajectory`: what is here, `newest` whether that is the state the task starts from. Returns the trajectory in that
    state on members, and `trajectory` on others. Raises StateError on all participants alike if nobody has it.
    """
    mine = torch.tensor([int(newest), trajectory.cold_id if trajectory else 0])
    table = [part for part in lease.all_gather(mine) if isinstance(part, torch.Tensor)]
    traffic.count(*(part for i, part in enumerate(table) if i != lease.index))
    plan = deliveries([Stock(bool(part[0]), int(part[1])) for part in table], members)
    if not plan:
        return trajectory
    sends = {
        step.target: _message(trajectory, step.with_cold) for step in plan if step.source == lease.index and trajectory
    }
    wanted = [step for step in plan if step.target == lease.index]
    received = lease.exchange(sends, [step.source for step in wanted])
    tensors = [part for part in received.values() if isinstance(part, torch.Tensor)]
    traffic.count(*tensors)
    return _accept(replica, trajectory, tensors[0]) if wanted else trajectory


def _message(trajectory: Trajectory, with_cold: bool) -> torch.Tensor:
    """The hot state, behind the cold one if wanted, behind the cold one's length; every part aligned."""
    head = torch.zeros(ALIGNMENT // 8, dtype=torch.int64)
    parts = [head.view(torch.uint8), trajectory.hot()]
    if with_cold and trajectory.cold is not None:
        head[0] = trajectory.cold.numel()
        parts.insert(1, trajectory.cold)
    return torch.cat(parts)


def _accept(replica: Replica, trajectory: Trajectory | None, message: torch.Tensor) -> Trajectory:
    length = int(message[:8].view(torch.int64))
    cold, hot = message[ALIGNMENT : ALIGNMENT + length], message[ALIGNMENT + length :]
    if length:
        return replica.restore(cold, hot)
    assert trajectory is not None  # a holder leaves the cold state out only for those that said they have it
    trajectory.apply_hot(hot, replica.device)
    return trajectory
