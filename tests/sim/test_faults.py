"""Crashes, stragglers and slow links: every request still ends once, no rank is used twice, and a seed says it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from literal_policies import EdfBestFit, Reckless
from small_worlds import make_cost, make_request, make_workload

from gfdit.core.commands import EndRequest, RunTask
from gfdit.core.events import Event, TaskFailed, TaskFinished, WorkerJoined, WorkerLost
from gfdit.core.proposal import Policy
from gfdit.core.scheduler import Decision
from gfdit.core.work import Outcome
from gfdit.errors import UsageError
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import load_policy
from gfdit.sim.faults import CrashAt, Crashes, FaultPlan, Faults, Slowness, parse_faults
from gfdit.sim.run import SimConfig, SimOutcome, simulate
from gfdit.units import to_ns

STORM = parse_faults("crash 20/min restart 300ms, straggler 3x 20% for 500ms, slow_link 10x 30% for 200ms")


class Books:
    """An observer that keeps its own books of the ranks, from commands and events alone."""

    def __init__(self) -> None:
        self.alive: set[int] = set()
        self.running: dict[int, RunTask] = {}
        self.busy: dict[int, int] = {}  # rank -> epoch
        self.ended: list[EndRequest] = []
        self.told: list[tuple[int, Sequence[Event], Decision]] = []

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        self.told.append((now, events, decision))
        for event in events:
            match event:
                case WorkerJoined(rank=rank):
                    assert rank not in self.alive
                    self.alive.add(rank)
                case WorkerLost(rank=rank):
                    self.alive.remove(rank)
                case TaskFinished(epoch=epoch) | TaskFailed(epoch=epoch):
                    for rank in self.running.pop(epoch).ranks:
                        del self.busy[rank]
                case _:
                    pass
        for command in decision.commands:
            match command:
                case RunTask(epoch=epoch, ranks=ranks, sources=sources):
                    assert self.alive.issuperset(ranks) and self.alive.issuperset(sources)
                    assert not self.busy.keys() & set(ranks), "a rank would work for two tasks at once"
                    self.running[epoch] = command
                    self.busy |= dict.fromkeys(ranks, epoch)
                case EndRequest():
                    self.ended.append(command)
                case _:
                    pass


def run(policy: Policy, seed: int, faults: Faults = STORM, **more: object) -> tuple[SimOutcome, Books]:
    config = SimConfig(policy, make_workload(seed), "made", make_cost(), 5, seed=seed, check=True, faults=faults)
    books = Books()
    return simulate(replace(config, **more), [books]), books  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["reckless", "literal", "slo", "edf_best_fit"])
@pytest.mark.parametrize("seed", range(4))
def test_every_request_ends_once_and_no_rank_is_used_twice(policy: str, seed: int) -> None:
    made = {"reckless": Reckless(seed), "literal": EdfBestFit()}
    outcome, books = run(made.get(policy) or load_policy(policy), seed)
    ids = [end.request_id for end in books.ended]
    assert sorted(ids) == sorted(request.id for request in make_workload(seed)), f"seed {seed}"
    assert {end.outcome for end in books.ended} <= {Outcome.COMPLETED, Outcome.FAILED, Outcome.REJECTED}
    assert not books.running and not books.busy
    counted = outcome.result["faults"]
    assert isinstance(counted, dict) and counted["crashes"] > 0 and counted["slowed_tasks"] > 0, f"seed {seed}"


def test_a_seed_says_it_all() -> None:
    told = [run(EdfBestFit(), seed, noise=0.2)[1].told for seed in (3, 3, 4)]
    assert told[0] == told[1] and told[0] != told[2]


def test_two_policies_meet_the_same_crashes() -> None:
    faults = parse_faults("crash 40/min restart 100ms")
    lost = []
    for policy in (EdfBestFit(), load_policy("fcfs_static")):
        _, books = run(policy, 1, faults)
        events = [event for _, events, _ in books.told for event in events]
        lost.append([(e.at, e.rank) for e in events if isinstance(e, WorkerLost)])
    shorter = min(map(len, lost))
    assert shorter > 3 and lost[0][:shorter] == lost[1][:shorter]


def test_a_crash_costs_the_step_under_way_and_no_more() -> None:
    """One request on one rank: the checkpoint has every finished step."""
    request = make_request(0, tokens=1000, steps=10)
    config = SimConfig(EdfBestFit(), [request], "made", make_cost(), 1, check=True)
    plain = simulate(config).result["makespan_s"]
    books = Books()
    faulty = simulate(replace(config, faults=parse_faults("crash rank 0 at 500ms restart 2s")), [books]).result
    steps = [c.first_step for _, _, d in books.told for c in d.commands if isinstance(c, RunTask)]
    assert faulty["completed"] == 1 and faulty["faults"] == {
        "asked": "crash rank 0 at 500ms restart 2s", "crashes": 1, "failed_tasks": 1,
        "slowed_tasks": 0, "slowed_handovers": 0,
    }  # fmt: skip
    assert sorted(set(steps)) == list(range(11)) and isinstance(plain, float)
    late = float(str(faulty["makespan_s"])) - plain
    assert 2.0 < late < 2.0 + 0.102 + 0.01  # the outage, part of a step again, and the restore


def test_a_lone_request_fails_with_a_worker_that_always_crashes_on_it() -> None:
    request = make_request(0, tokens=100_000, steps=2)  # steps of ten seconds
    crashes = ", ".join(f"crash rank 0 at {second}s restart 1s" for second in range(1, 60, 2))
    config = SimConfig(EdfBestFit(), [request], "made", make_cost(), 1, check=True, faults=parse_faults(crashes))
    outcome = simulate(config)
    assert outcome.result["failed"] == 1 and outcome.result["completed"] == 0


def test_stragglers_are_slow_for_their_share_of_the_time() -> None:
    plan = FaultPlan(Faults(stragglers=(Slowness(2.0, 0.25, 1.0),)), 4, seed=5)
    samples = [plan.slow_ranks.factor((rank,), to_ns(at / 5)) for at in range(10_000) for rank in range(4)]
    assert set(samples) == {1.0, 2.0}
    assert 0.2 < samples.count(2.0) / len(samples) < 0.3
    always = FaultPlan(Faults(slow_links=(Slowness(3.0, 1.0),)), 2, seed=5)
    assert {always.slow_links.factor((0, 1), to_ns(at)) for at in range(500)} == {3.0}


def test_a_group_is_as_slow_as_its_slowest_member() -> None:
    plan = FaultPlan(Faults(stragglers=(Slowness(2.0, 0.4, 1.0), Slowness(3.0, 0.1, 1.0))), 3, seed=1)
    for at in range(300):
        each = [plan.slow_ranks.factor((rank,), to_ns(at / 10)) for rank in range(3)]
        assert plan.slow_ranks.factor((0, 1, 2), to_ns(at / 10)) == max(each)


def test_a_straggler_takes_longer_for_everything() -> None:
    request = make_request(0, tokens=4096, steps=20)
    config = SimConfig(EdfBestFit(), [request], "made", make_cost(), 1)
    plain, slow = (
        simulate(replace(config, faults=faults)).result["mean_latency_s"]
        for faults in (None, parse_faults("straggler 2x 100%"))
    )
    assert isinstance(plain, float) and slow == pytest.approx(2 * plain, rel=0.001)


def test_faults_are_read_from_text() -> None:
    faults = parse_faults(
        "crash 2/h,crash 1 / min restart 5s, crash rank 3 at 1.5min, straggler 1.5x 10%, slow_link 3x 5% for 2s"
    )
    assert faults.crashes == (Crashes(2.0), Crashes(60.0, 5.0)) and faults.crashes_at == (CrashAt(3, 90.0),)
    assert faults.stragglers == (Slowness(1.5, 0.1),) and faults.slow_links == (Slowness(3.0, 0.05, 2.0),)
    for wrong in ("crash", "crash often", "straggler 0.5x 10%", "straggler 2x 0%", "slow_link 2x 101%", "fire 1/h"):
        with pytest.raises(UsageError, match=f"fault `{wrong}`"):
            parse_faults(f"crash 2/h, {wrong}")


def test_a_wrong_table_misleads_the_policy_and_not_the_clock() -> None:
    """What work takes comes from the true table, whatever the policy believes."""
    cost, request = make_cost(), make_request(0, tokens=1000, steps=3, slo_s=60.0)
    policy: CompiledPolicy = load_policy("edf_best_fit")
    truth = replace(cost, dispatch_s=0.1)
    outcome = simulate(SimConfig(policy, [request], "made", cost, 1, truth=truth))
    assert outcome.result["mean_latency_s"] == pytest.approx(0.02 + 0.01 + 3 * (0.1 + 0.002) + 0.03 + 6 * 0.1, abs=1e-6)


def test_state_that_goes_to_another_node_takes_the_longer_way() -> None:
    """Nodes of one rank: whoever grows to two has to reach across."""
    request = make_request(0, tokens=4096, steps=6)
    seconds = {}
    for across_s in (None, 0.001, 0.5):
        cost = replace(make_cost(), reshard_across_s=across_s)
        for per_node in (1, 4):
            config = SimConfig(EdfBestFit(), [request], "made", cost, 2, gpus_per_node=per_node, check=True)
            seconds[across_s, per_node] = float(str(simulate(config).result["makespan_s"]))
    one_node = {seconds[across_s, 4] for across_s in (None, 0.001, 0.5)}
    assert one_node == {seconds[None, 1]} == {seconds[0.001, 1]}  # the usual reshard, wherever it goes
    assert seconds[0.5, 1] - seconds[None, 1] == pytest.approx(0.499)  # once: growing; shrinking stays where it is
