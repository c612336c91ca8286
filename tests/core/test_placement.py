"""Which ranks: aligned blocks inside nodes of any size, whole nodes for what is wider, and the known pathologies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from literal_policies import AdmitAll, EdfBestFit
from small_worlds import make_cost, make_request

from gfdit.core import invariants
from gfdit.core.commands import RunTask
from gfdit.core.cost import CostModel, Quadratic, StageCost
from gfdit.core.estimate import Estimator
from gfdit.core.events import Event, RequestArrived, TaskFinished, WorkerJoined
from gfdit.core.placement import choose_ranks
from gfdit.core.proposal import Place, Prefer, Proposal
from gfdit.core.scheduler import Decision, Scheduler
from gfdit.core.topology import Topology
from gfdit.core.view import View
from gfdit.policy.store import load_policy
from gfdit.sim.run import SimConfig, simulate

LAST_FIRST = (Prefer.LAST_GPUS, Prefer.SAME_NODE)
NODE_FIRST = (Prefer.SAME_NODE, Prefer.LAST_GPUS)


@pytest.mark.parametrize("per_node", [2, 3, 4, 6, 8])
def test_a_group_that_fits_a_node_lies_in_one(per_node: int) -> None:
    topology = Topology.uniform(4 * per_node, per_node)
    for degree in range(1, per_node + 1):
        ranks = choose_ranks(degree, set(range(4 * per_node)), (), topology, LAST_FIRST)
        assert len({topology.node_of[rank] for rank in ranks}) == 1, (degree, ranks)


def test_blocks_are_aligned_within_the_node() -> None:
    topology = Topology.uniform(12, 6)
    assert choose_ranks(4, set(range(12)), (), topology, LAST_FIRST) == (6, 7, 8, 9)  # not 4-7, nor 8-11
    assert choose_ranks(2, {0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11}, (), topology, LAST_FIRST) == (2, 3)


def test_a_group_wider_than_a_node_takes_an_aligned_block_of_whole_nodes() -> None:
    topology = Topology.uniform(32, 8)
    assert choose_ranks(16, set(range(32)), (), topology, LAST_FIRST) == tuple(range(16, 32))
    assert choose_ranks(16, set(range(31)), (), topology, LAST_FIRST) == tuple(range(16))  # rank 31 is busy
    scattered = set(range(32)) - {0, 31}
    assert set(choose_ranks(16, scattered, (), topology, LAST_FIRST)) == set(range(8, 24))  # whole, if not aligned


def test_what_is_preferred_first_decides_between_own_ranks_and_one_node() -> None:
    topology = Topology.uniform(16, 8)
    idle = {0, 1, 8, 9, 10, 11}
    assert set(choose_ranks(4, idle, (0, 1), topology, LAST_FIRST)) == {0, 1, 8, 9}
    assert set(choose_ranks(4, idle, (0, 1), topology, NODE_FIRST)) == {8, 9, 10, 11}
    assert choose_ranks(2, idle, (0, 1), topology, NODE_FIRST) == (0, 1)  # at home already
    assert set(choose_ranks(5, idle, (0, 1), topology, NODE_FIRST)) > {0, 1}  # no node has room


@given(
    per_node=st.sampled_from([1, 3, 4, 6, 8]),
    idle=st.sets(st.integers(0, 23)),
    own=st.lists(st.integers(0, 23), unique=True, max_size=8),
    degree=st.sampled_from([1, 2, 3, 4, 8, 12, 16]),
    prefer=st.sampled_from([LAST_FIRST, NODE_FIRST, (Prefer.PACK,), (Prefer.SPREAD,)]),
)
def test_any_group_is_idle_distinct_and_complete(
    per_node: int, idle: set[int], own: list[int], degree: int, prefer: tuple[Prefer, ...]
) -> None:
    ranks = choose_ranks(degree, idle, own, Topology.uniform(24, per_node), prefer)
    assert (ranks == ()) == (len(idle) < degree)
    assert set(ranks) <= idle and len(ranks) == len(set(ranks)) == (degree if ranks else 0)


# ---- known pathologies, a scenario each ------------------------------------------------------------------------------


def wide_cost() -> CostModel:
    degrees = (1, 2, 4, 8)
    stages = {name: StageCost("one", {1: Quadratic(0, 0, 0.01)}) for name in ("encode", "decode")}
    stages["denoise"] = StageCost("one", {degree: Quadratic(0, 0, 1 / degree) for degree in degrees})
    return CostModel("wide", {"m": stages}, reshard_s=0.003)


class Ruled(AdmitAll):
    """Gives what it is told to: request id -> degree, in that order; one-rank stages get one rank."""

    name = "ruled"

    def __init__(self, prefer: tuple[Prefer, ...] = LAST_FIRST) -> None:
        self.degrees: dict[str, int] = {}
        self.prefer = prefer

    def plan(self, view: View) -> Proposal:
        rows = {view.ids[row]: row for row in range(view.size) if view.plannable[row]}
        single = {row for row in rows.values() if view.stage_gpu_s[row] > 0}
        return Proposal(
            tuple(
                Place(rows[name], 1 if rows[name] in single else degree, self.prefer)
                for name, degree in self.degrees.items()
                if name in rows
            )
        )


class Hall:
    """A scheduler over whole steps: everything that runs ends before the next tick."""

    def __init__(self, policy: Ruled, gpus: int) -> None:
        self.policy = policy
        self.scheduler = Scheduler(policy, Topology.uniform(gpus), Estimator(wide_cost(), gpus))
        self.now = 0
        for rank in range(gpus):
            self.scheduler.observe(WorkerJoined(0, rank, 0))

    def arrive(self, number: int) -> str:
        request = make_request(number, steps=50)
        self.scheduler.observe(RequestArrived(self.now, request))
        return request.id

    def step(self, **degrees: int) -> dict[str, tuple[int, ...]]:
        """One step of everybody; who runs on which ranks after it."""
        self.policy.degrees = degrees
        self.now += 1_000_000
        for epoch in list(self.scheduler.flights):
            self.scheduler.observe(TaskFinished(self.now, epoch, busy_ns=1_000_000))
        commands = self.scheduler.tick(self.now).commands
        invariants.check(self.scheduler)
        return {command.request_id: command.ranks for command in commands if isinstance(command, RunTask)}


def test_demotion_leaves_room_for_a_wide_group_at_once() -> None:
    """Published schedulers shrink a victim onto ranks that the winner's aligned group needs, and the winner waits."""
    hall = Hall(Ruled(), 8)
    for number in range(3):
        hall.arrive(number)
    hall.step(r000=1)
    before = hall.step(r000=8)["r000"]
    demoted = hall.step(r000=1, r001=1)["r000"]
    assert len(demoted) == 1 and set(demoted) < set(before)
    after = hall.step(r000=1, r001=4)  # whatever is free may be a group
    assert after["r000"] == demoted and len(after["r001"]) == 4 and not set(after["r001"]) & set(demoted)
    hall.step(r000=1, r001=4, r002=1)
    again = hall.step(r000=1, r001=4, r002=2)
    assert again["r001"] == after["r001"] and len(again["r002"]) == 2 and not set(again["r002"]) & set(after["r001"])


def test_demoted_groups_pack_onto_one_node_where_the_policy_says_so() -> None:
    hall = Hall(Ruled((Prefer.PACK,)), 16)
    for number in range(3):
        hall.arrive(number)
    hall.step(r000=1, r001=1)
    both = hall.step(r000=8, r001=8)
    assert {rank // 8 for rank in both["r000"]} != {rank // 8 for rank in both["r001"]}
    hall.step(r000=1, r001=1, r002=1)
    wide = hall.step(r000=1, r001=1, r002=8)
    assert len({rank // 8 for rank in wide["r002"]}) == 1  # a whole node, although both were demoted on their own


class Watching:
    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        self.decisions.append(decision)


def test_pausing_starves_nobody() -> None:
    """A stream of urgent requests that alone is more than the cluster can do: whoever is paused still ends."""
    background = [
        replace(make_request(n, tokens=4096, steps=20, slo_s=30.0), tag="batch", class_name="batch") for n in range(2)
    ]
    urgent = [
        replace(make_request(10 + n, 1.0 + 1.8 * n, tokens=4096, steps=10), tag="ui", class_name="ui")
        for n in range(100)
    ]
    policy = load_policy("step_preempt_pause")
    outcome = simulate(SimConfig(policy, [*background, *urgent], "made", make_cost(), 2))
    ends = {ended.request.id: ended.end.at / 1e9 for ended in outcome.summary.ended}
    assert outcome.result["completed"] == 102 and outcome.result["preemptions"] != 0
    last_urgent = max(at for name, at in ends.items() if name >= "r010")
    assert max(ends[request.id] for request in background) < last_urgent - 30


def test_ties_are_broken_by_arrival_and_id_and_nothing_else() -> None:
    """Equal requests, told of in any order: the same decisions."""
    requests = [make_request(number, 0.1 * (number // 8), slo_s=1.0, steps=3) for number in range(32)]
    told = []
    for seed in (None, 1, 2):
        shuffled = list(requests)
        if seed is not None:
            random.Random(seed).shuffle(shuffled)
        for policy in (EdfBestFit(), load_policy("edf_best_fit")):
            watching = Watching()
            simulate(SimConfig(policy, shuffled, "made", make_cost(), 4), [watching])
            told.append([d.commands for d in watching.decisions])
    assert told[0] == told[2] == told[4] and told[1] == told[3] == told[5]
    first = [command.request_id for command in told[1][1] if isinstance(command, RunTask)]
    assert first == sorted(first)
