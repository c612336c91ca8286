"""`gfdit prove`: unsafe policies are refuted by worlds that are tests, safe ones are not."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from gfdit.cli.app import main
from gfdit.core.commands import EndRequest
from gfdit.core.proposal import Policy
from gfdit.core.watchdog import EjectCause
from gfdit.policy import library
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.proving.cases import MOST_GPUS, Case, Plans, Shape, shapes_of, small_cases
from gfdit.policy.proving.findings import Counterexample, Finding, Status
from gfdit.policy.proving.properties import PROPERTIES
from gfdit.policy.proving.reproduce import fails
from gfdit.policy.proving.search import refutation
from gfdit.policy.store import compile_text, load_policy
from gfdit.policy.world import default_cost
from gfdit.runtime.driver import drive
from gfdit.sim.fleet import SimFleet, VirtualClock
from gfdit.sim.proving import TITLES, SecondTicks, Watch, prove, request_of, run_loop, small_workloads
from gfdit.sim.run import build_scheduler
from tests.core.test_watchdog import Kept
from tests.prove import planted


def prove_text(text: str, name: str, seconds: float = 30.0, seed: int = 0) -> Finding:
    program = compile_text(text).program
    (finding,) = prove(lambda: CompiledPolicy(program), (name,), seconds=seconds, seed=seed)
    return finding


def outcome_of(text: str, test: str, tmp_path: Path) -> int:
    """The exit code of `gfdit test` on a policy with one test more."""
    path = tmp_path / "policy.pol"
    path.write_text(f"{text}\n{test}\n")
    return main(["test", str(path)])


# ---- what is unsafe is refuted, by a test that fails until it is mended -----------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "says", "mended"),
    [
        (planted.LEAST_LAXITY, "no-cycle", "the same groups are there 3 times, pausing", planted.STEADY),
        (planted.STARVATION, "starvation", "`victim` has waited for", planted.AGEING),
        (planted.NEVER, "no-cycle", "was left waiting for 30.00 s while GPUs that it fits on were free", None),
    ],
    ids=("least laxity", "starvation", "never served"),
)
def test_an_unsafe_policy_is_refuted_by_a_test_that_fails(
    text: str, name: str, says: str, mended: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = prove_text(text, name)
    assert finding.status is Status.REFUTED and finding.reproduced
    found = finding.counterexample
    assert found is not None and says in found.text
    assert outcome_of(text, found.test_block(), tmp_path) == 1, found.test_block()
    assert "0 failed" not in capsys.readouterr().out
    if mended is not None:
        assert outcome_of(mended, found.test_block(), tmp_path) == 0, found.test_block()


def test_two_classes_that_preempt_each_other_are_a_cycle() -> None:
    program = compile_text(planted.PREEMPTION_CYCLE).program
    requests = [
        request_of("b", Shape(16384, "ui"), 0.0, 10),
        request_of("d", Shape(256), 0.3, 7),
        request_of("e", Shape(256, "ui"), 0.3, 9),
        request_of("f", Shape(256), 0.0, 12),
    ]
    found = run_loop(lambda: CompiledPolicy(program), requests, 2, Watch)
    assert found is not None and "pausing `d` 2 times, `f` 2 times" in found.text
    mended = compile_text(planted.PREEMPTION_CYCLE.replace("preempt for other from ui do pause\n", "")).program
    assert run_loop(lambda: CompiledPolicy(mended), requests, 2, Watch) is None


@pytest.mark.parametrize(
    ("policy", "name", "says"),
    [
        (planted.Greedy, "capacity", "2 GPUs are handed out, 1 are free"),
        (planted.Lazy, "work-conservation", "waits although"),
        (planted.Lazy, "second-tick", "then, with no news"),
        (planted.ByName, "input-order", "listed in the other order"),
        (planted.Wide, "more-gpus", "comes first and has 1 of 1 GPUs; of 2 it has 2 and ends"),
        (planted.Broken, "capacity", "the policy fails: KeyError"),
        (planted.Broken, "no-cycle", "KeyError"),
        (planted.Amnesiac, "no-cycle", "the same groups are there 3 times"),
    ],
)
def test_a_policy_in_python_is_held_to_the_same(policy: type[planted.Native], name: str, says: str) -> None:
    (finding,) = prove(policy, (name,), seconds=30.0)
    assert finding.status is Status.REFUTED and finding.reproduced is None
    assert finding.counterexample is not None and says in finding.counterexample.text


def test_in_the_closed_loop_a_second_tick_is_noticed_too() -> None:
    requests = [request_of("a", Shape(256), 0.0, 2), request_of("b", Shape(256), 0.0, 2)]
    found = run_loop(planted.Lazy, requests, 2, SecondTicks)
    assert found is not None and "runs `b` as well" in found.text
    assert run_loop(planted.Native, requests, 2, SecondTicks) is None


def test_a_policy_in_python_that_does_nothing_wrong_is_not_refuted() -> None:
    kept: list[Policy] = []

    def make() -> Policy:
        kept.append(planted.Native())
        return kept[-1]

    findings = {
        finding.name: finding for finding in prove(make, ("capacity", "second-tick", "starvation"), seconds=1.0)
    }
    assert findings["capacity"].status is not Status.REFUTED and findings["capacity"].small > 0
    assert findings["starvation"].reason == "it plans in Python, so no bound is promised"
    assert len(kept) > findings["capacity"].small / 2  # a fresh one for nearly every world


def test_a_bound_that_holds_is_not_refuted() -> None:
    finding = prove_text(planted.AGEING, "starvation", seconds=300.0)
    assert (finding.status, finding.counterexample) == (Status.PROVED, None)


def test_a_guard_ends_what_would_be_starvation() -> None:
    """The unsafe policy with a guard whose action is `fallback`: ejected before the bound is broken."""
    policy = compile_text(planted.GUARDED)
    victim = request_of("victim", Shape(256), 0.0, 2)
    stream = [request_of(f"s{n}", Shape(4096, "ui"), 2.0 * n, 4) for n in range(20)]
    scheduler, clock, kept = build_scheduler(policy, default_cost(), 1), VirtualClock(), Kept()
    drive(scheduler, clock, SimFleet(clock, default_cost(), 1, [victim, *stream]), (kept,))
    (ejection,) = kept.ejections
    assert (ejection.cause, ejection.text) == (EjectCause.GUARD, "guard `bounded_wait` does not hold")
    assert 20.0 <= ejection.at / 1e9 < 23.0
    ended = [
        command.request_id
        for _, decision in kept.decisions
        for command in decision.commands
        if isinstance(command, EndRequest)
    ]
    assert ended.index("victim") < ended.index("s15")


# ---- the worlds -------------------------------------------------------------------------------------------------


def test_every_small_world_is_tried_once() -> None:
    cases = list(small_cases(load_policy("slo").program))
    assert len(set(cases)) == len(cases)
    assert {len(case.asks) for case in cases} == {1, 2, 3} and {case.gpus for case in cases} == {1, 2, 3, 4}
    # three shapes, each waiting, between two steps or in the middle of one, as far as the groups fit
    expected = 0
    for count in (1, 2, 3):
        for busy in range(count + 1):
            ways = {(1, 0): 1, (1, 1): 2, (2, 0): 1, (2, 1): 4, (2, 2): 4, (3, 0): 1, (3, 1): 6, (3, 2): 12, (3, 3): 8}
            expected += 3**count * ways[count, busy] * (MOST_GPUS - max(busy, 1) + 1)
    assert len(cases) == expected
    assert len(list(small_workloads(None))) == (3 + 9 + 27) * 4


def test_shapes_are_of_the_classes_that_the_policy_tells_apart() -> None:
    assert [shape.tag for shape in shapes_of(load_policy("slo").program)] == ["interactive", "batch", ""]
    assert [shape.tag for shape in shapes_of(load_policy("fcfs").program)] == ["", "", ""]


def test_a_case_written_as_a_test_is_the_same_world() -> None:
    """What the plan of a case gives is what its test block sees."""
    policy = load_policy("slo")
    plans = Plans(lambda: CompiledPolicy(policy.program))
    for case in islice(small_cases(policy.program), 7, None, 331):
        planned = plans.of(case)
        for ask in case.asks:
            if not ask.running and ask.name in planned.view.ids:
                right = planned.degrees.get(ask.name, 0)
                block = [f"{ask.name}.sp == {right} gpu"], [f"{ask.name}.sp == {right + 1} gpu"]
                for expectations, fail in zip(block, (False, True), strict=True):
                    assert _fails(policy, case, expectations) is fail, case


def _fails(policy: CompiledPolicy, case: Case, expectations: list[str]) -> bool:
    return fails(policy, Counterexample("", case, tuple(expectations), "it"))


# ---- shipped policies -------------------------------------------------------------------------------------------


KNOWN = {  # what is refuted of shipped policies, and told in the docs
    "more-gpus": {
        *(
            "clean_edf",
            "dynamic_step",
            "elasticflow",
            "fcfs_static",
            "load_adaptive",
            "lpf",
            "prio_load_adaptive",
            "rssp",
        ),
        *("primal_dual", "slo_triage"),
    },
    "no-cycle": {"primal_dual", "slo_priority"},
}


@pytest.mark.parametrize("name", library.names())
def test_a_sample_of_the_small_worlds_refutes_nothing_else_of_shipped_policies(name: str) -> None:
    program = load_policy(name).program
    plans = Plans(lambda: CompiledPolicy(program))
    for case in islice(small_cases(program), 11, None, 331):
        for one in PROPERTIES:
            if one.excuse(program) is None and name not in KNOWN.get(one.name, ()):
                assert refutation(plans, one, case) is None, (one.name, case)
    short = program.tick.every is None  # one that ticks on a clock needs many ticks for large requests
    workloads = () if name in KNOWN["no-cycle"] else small_workloads(program)
    for gpus, requests in islice(workloads, 15, None if short else 16, 67):
        assert run_loop(lambda: CompiledPolicy(program), requests, gpus, Watch) is None
        if program.pools:
            assert run_loop(lambda: CompiledPolicy(program), requests, gpus, SecondTicks) is None


# ---- the command ------------------------------------------------------------------------------------------------


def test_the_command_prints_the_test_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "never.pol"
    path.write_text(planted.NEVER)
    assert main(["prove", str(path), "--property", "no-cycle", "--property", "starvation", "--budget", "5s"]) == 1
    out = capsys.readouterr().out
    assert 'test "a is not left waiting beside free GPUs" {' in out and "not applicable" in out
    assert out.rstrip().endswith("1 policy, seed 0: 1 refuted")


def test_json_says_how_far_each_property_was_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", "fcfs", "--json", "--budget", "1500ms", "--property", "capacity", "--seed", "7"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["seed"], found["budget_s"]) == (7, 1.5)
    (one,) = found["policies"]
    assert (one["policy"], len(one["sha"])) == ("fcfs", 64)
    (capacity,) = one["properties"]
    assert capacity["name"] == "capacity" and capacity["status"] in ("proved", "searched")
    assert capacity["small_worlds"] > 0 and capacity["counterexample"] is None


def test_an_unknown_property_is_named_with_the_likely_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", "fcfs", "--property", "capasity"]) == 2
    said = capsys.readouterr().err
    assert "no property `capasity`" in said and "`capacity`" in said
    assert set(TITLES) == {
        "capacity", "work-conservation", "input-order", "second-tick", "more-gpus", "no-cycle", "starvation",
    }  # fmt: skip
