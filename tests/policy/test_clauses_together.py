"""Batches, reactions, demotions, migrations, rollouts and pools in one policy, through the scheduler itself."""

from __future__ import annotations

import heapq
import random
from dataclasses import replace
from functools import cache

import pytest
from small_worlds import make_cost, make_request

from gfdit.core import invariants
from gfdit.core.commands import EndRequest, RunTask
from gfdit.core.estimate import Estimator
from gfdit.core.events import Event, RequestArrived, TaskFailed, TaskFinished, WorkerJoined, WorkerLost
from gfdit.core.scheduler import Decision, MoveKind, Scheduler
from gfdit.core.topology import Topology
from gfdit.core.work import Outcome, Request
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import compile_text
from gfdit.units import to_ns

HEAD = """policy together version 1
class ui when tag == "ui" { slo 1s rank 0 weight 5 }
class bulk otherwise { slo 20s rank 1 weight 1 preemptible }
mode rush when count(where waiting) > 6 for 50ms until count(where waiting) < 2
admit { degrade when rush and class == bulk to cache = 20%, steps = steps - 1 step accept }
batch by tokens, steps_total max 4 window 20ms where class == bulk
order by tier, deadline, arrival
aging every 2s raise 1
preempt for ui from bulk by slack(sp_best) desc do shrink to 1 gpu else demote else migrate else pause
react worker_lost when class == bulk do shrink to 1 gpu for 200ms
react late do raise 1
react rush when class == bulk do pause for 30ms
react preempted do alert
guard fine: miss_rate(any) <= 100% else alert
"""
PLAIN = """stage encode, decode { sp fixed 1 gpu }
stage denoise {
  sp in {1, 2, 4} gpu largest where gain(sp) > 110%
  grow by order where gain(next) > 110%
  reserve for 20ms
}
"""
POOLS = """pool aux = 2 gpu
pool main = rest
stage encode, decode on aux { sp fixed 1 gpu spill to main when backlog(aux) > 20ms }
stage denoise on main { sp in {1, 2, 4} gpu smallest where finish(sp) <= deadline else minimizing finish(sp) }
"""
SHAPES = {
    "greedy": PLAIN,
    "rollout": PLAIN + "allocate rollout horizon 6 beam 4 minimizing weight * remaining(sp)",
    "knapsack": PLAIN + "allocate knapsack maximizing if sp == 0 gpu then 0 else weight / sp * 1 gpu",
    "pools": POOLS,
}


def requests(rng: random.Random) -> list[Request]:
    return [
        replace(
            make_request(
                number, rng.uniform(0, 0.8), tokens=rng.choice((256, 1024, 4096)), steps=rng.randint(2, 6),
                slo_s=rng.choice((None, 0.2, 1.0, 20.0)),
            ),
            tag=rng.choice(("ui", "batch", "batch")),
        )
        for number in range(40)
    ]  # fmt: skip


def served(policy: CompiledPolicy, seed: int) -> list[Decision]:
    """Everything that the scheduler decides until all are through; one worker is lost on the way and comes back."""
    rng = random.Random(seed)
    cost = make_cost()
    scheduler = Scheduler(policy, Topology.uniform(8, 8), Estimator(cost, 8))
    by_id = {request.id: request for request in requests(rng)}
    queue: list[tuple[int, int, Event]] = []

    def put(event: Event) -> None:
        heapq.heappush(queue, (event.at, len(decisions) * 1000 + len(queue), event))

    decisions: list[Decision] = []
    for rank in range(8):
        put(WorkerJoined(0, rank, 1))
    for request in by_id.values():
        put(RequestArrived(request.arrival_ns, request))
    put(WorkerLost(to_ns(0.3), 3, 1, "test"))
    put(WorkerJoined(to_ns(0.6), 3, 2))
    wake: int | None = None
    while queue or scheduler.trajectories:
        now = min([at for at, _, _ in queue[:1]] + ([] if wake is None else [wake]))
        while queue and queue[0][0] <= now:
            event = heapq.heappop(queue)[2]
            if isinstance(event, TaskFinished) and 3 in _ranks(scheduler, event.epoch) and 3 not in scheduler.alive:
                event = TaskFailed(event.at, event.epoch, "worker_lost", blame=False)
            scheduler.observe(event)
        decision = scheduler.tick(now)
        invariants.check(scheduler)
        wake = decision.next_tick_at
        decisions.append(decision)
        assert len(decisions) < 5000, f"seed {seed}: no end in sight"
        for command in decision.commands:
            if isinstance(command, RunTask):
                seconds = cost.seconds(by_id[command.request_id], command.stage, len(command.ranks))
                put(TaskFinished(now + to_ns(seconds * rng.uniform(0.8, 1.3)) + 1, command.epoch, to_ns(seconds)))
    return decisions


def _ranks(scheduler: Scheduler, epoch: int) -> tuple[int, ...]:
    flight = scheduler.flights.get(epoch)
    return () if flight is None else flight.command.ranks


@cache
def decided(shape: str, seed: int) -> list[Decision]:
    return served(compile_text(HEAD + SHAPES[shape], "together.pol"), seed)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_request_ends_and_nothing_is_refused(shape: str, seed: int) -> None:
    decisions = decided(shape, seed)
    ends = [c for decision in decisions for c in decision.commands if isinstance(c, EndRequest)]
    assert len({end.request_id for end in ends}) == len(ends) == 40
    assert {end.outcome for end in ends} == {Outcome.COMPLETED}
    refused = [refusal for decision in decisions for refusal in decision.refusals]
    assert refused == [], f"{shape}, seed {seed}"
    assert not [news for decision in decisions for news in decision.policy_news if news.kind == "error"]


def test_the_clauses_all_take_part() -> None:
    decisions = [decision for shape in SHAPES for seed in (1, 2) for decision in decided(shape, seed)]
    news = " ".join(one.text for decision in decisions for one in decision.policy_news)
    for event in ("worker_lost", "late", "rush", "preempted"):
        assert f"react {event}" in news, event
    ends = [c for decision in decisions for c in decision.commands if isinstance(c, EndRequest)]
    assert any(end.cache == 0.2 for end in ends) and any(end.cache == 0 for end in ends)
    kinds = {move.kind for decision in decisions for move in decision.moves}
    assert {MoveKind.PAUSE, MoveKind.RESUME, MoveKind.SHRINK, MoveKind.GROW, MoveKind.MIGRATE} <= kinds


def test_equal_events_give_equal_decisions() -> None:
    assert served(compile_text(HEAD + PLAIN, "together.pol"), 2) == decided("greedy", 2)
