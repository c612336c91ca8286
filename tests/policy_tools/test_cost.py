"""`gfdit cost`: a bound that holds, that never rises when a clause goes, and that names the dearest lines."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from gfdit.cli.app import main
from gfdit.core.lifecycle import State
from gfdit.core.view import View
from gfdit.core.work import Stage
from gfdit.errors import PolicyError
from gfdit.lang import nodes
from gfdit.lang.format import format_tree
from gfdit.lang.frozen import changed
from gfdit.lang.parser import parse
from gfdit.lang.source import Source
from gfdit.policy import library, store
from gfdit.policy.calibrating import calibrate
from gfdit.policy.checking import check_policy
from gfdit.policy.cluster import Cluster
from gfdit.policy.costing import CALIBRATED, bound
from gfdit.policy.decorators import unplaced
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.world import Actor, World
from tests.policy_tools.test_tests_of_policies import ALL

Capture = pytest.CaptureFixture[str]
REQUESTS, GPUS = 300, 16
SLACK = 2.0  # what a measurement on a busy machine may exceed the bound by
NAMED = ("fcfs_static", "edf_best_fit", "srtf", "stage_aware", "throughput", "slo", "fcfs", "tetriserve", "primal_dual")


def crowd(new: bool) -> View:
    """Many requests, most of them waiting, some with groups; or all of them new."""
    pick = random.Random(7)
    left, actors = GPUS, []
    for number in range(REQUESTS):
        sp = 0 if new or left < 2 or pick.random() < 0.5 else pick.choice((1, 2))
        left -= sp
        state = State.ARRIVED if new else State.RUNNING if sp and pick.random() < 0.5 else None
        actors.append(
            Actor(
                f"r{number:04}",
                tag=pick.choice(("batch", "interactive", "other")),
                arrival_s=-pick.uniform(0, 100),
                deadline_s=pick.choice((None, 1.0, 20.0, 200.0)),
                stage=Stage.DENOISE if sp else pick.choice((Stage.ENCODE, Stage.DENOISE, Stage.DECODE)),
                tokens=pick.choice((1024.0, 4096.0, 9216.0)),
                state=state,
                sp=sp,
            )
        )
    return World(GPUS, actors).view()


def worst_measured(program_name: str, crowded: View, new: View) -> float:
    """Seconds of this thread: admission of all plus a plan; the best of several fresh policies."""
    program, rows = store.load_policy(program_name).program, np.flatnonzero(new.new)
    found = []
    for _ in range(5):
        policy = CompiledPolicy(program)
        begin = time.thread_time()
        policy.admit(new, rows)
        policy.plan(crowded)
        found.append(time.thread_time() - begin)
    return min(found)


def test_the_bound_holds_against_measurement() -> None:
    constants, crowded, new = calibrate(), crowd(new=False), crowd(new=True)
    for name in NAMED:
        limit = bound(store.load_policy(name).program, REQUESTS, GPUS, constants).seconds
        assert worst_measured(name, crowded, new) <= SLACK * limit, name


def shortened(tree: nodes.Policy) -> list[nodes.Policy]:
    """The policy with one clause, rule, alternative or option less, for each of them."""
    found: list[nodes.Policy] = []
    for index, item in enumerate(tree.items):
        rest = (*tree.items[:index], *tree.items[index + 1 :])
        found.append(changed(tree, items=rest))
        smaller: list[nodes.Item] = []
        if isinstance(item, nodes.Admit):
            smaller = [
                changed(item, rules=_without(item.rules, n)) for n in range(len(item.rules)) if n or item.rules[1:]
            ]
        elif isinstance(item, nodes.Order):
            smaller = [changed(item, keys=_without(item.keys, n)) for n in range(len(item.keys)) if item.keys[1:]]
        elif isinstance(item, nodes.Stage):
            smaller = [changed(item, items=_without(item.items, n)) for n in range(1, len(item.items))]
            for at, part in enumerate(item.items):
                if isinstance(part, nodes.SpChoice):
                    for n in range(len(part.alternatives)):
                        fewer = changed(part, alternatives=_without(part.alternatives, n))
                        smaller.append(changed(item, items=(*item.items[:at], fewer, *item.items[at + 1 :])))
        found += [changed(tree, items=(*tree.items[:index], one, *tree.items[index + 1 :])) for one in smaller]
    return found


def _without(values: tuple[object, ...], index: int) -> tuple[object, ...]:
    return values[:index] + values[index + 1 :]


@pytest.mark.parametrize("name", [*library.names(), "every kind of clause"])
def test_deleting_a_clause_never_raises_the_bound(name: str) -> None:
    text = store.read_text(name)[0] if name in library.names() else ALL
    whole = bound(store.checked_program(text), 1000, 64).seconds
    tried = 0
    for tree in shortened(unplaced(parse(Source(text)).tree)):
        try:
            program = store.checked_program(format_tree(tree))
        except PolicyError:
            continue  # it is needed
        tried += 1
        assert bound(program, 1000, 64).seconds <= whole
    assert tried >= 3


def test_every_kind_of_clause_has_a_price() -> None:
    ids = {part.id for part in bound(store.checked_program(ALL), 100, 8).parts if part.work.seconds(CALIBRATED) > 0}
    assert ids >= {
        "tick", "order", "class.fast", "mode.busy", "state.price", "pool.aux", "batch", "aging", "stage.decode.spill",
        "stage.denoise.hold", "resize.1", "preempt.1", "react.1", "react.2", "guard.calm",
    }  # fmt: skip


@pytest.mark.parametrize("name", library.names())
def test_shipped_policies_keep_their_limits_on_a_cluster_of_64(name: str) -> None:
    """With what was calibrated for a slow machine."""
    cluster = Cluster((8,) * 8, requests=1000)
    text = library.shipped_policy(name).read_text("utf-8")
    checked = check_policy(Source(text, name), cluster=cluster, policies=library.names())
    assert checked.ok and not checked.diagnostics


def test_the_bound_grows_with_requests_and_ranks() -> None:
    for name in NAMED:
        program = store.load_policy(name).program
        sizes = [(10, 8), (100, 8), (100, 64), (10_000, 64), (10_000, 1024)]
        seconds = [bound(program, *size).seconds for size in sizes]
        assert seconds == sorted(seconds) and seconds[0] < seconds[-1]


def test_parts_name_every_line_that_computes() -> None:
    program = store.load_policy("slo").program
    found = bound(program, 100, 8)
    ids = {part.id for part in found.parts}
    assert {"tick", "order", "triage", "aging", "preempt.1", "guard.no_starvation", "stage.denoise.grow"} <= ids
    assert found.seconds == pytest.approx(sum(part.work.seconds(CALIBRATED) for part in found.parts))
    costs = [part.work.seconds(CALIBRATED) for part in found.parts]
    assert costs == sorted(costs, reverse=True)


def test_the_command(tmp_path: Path, capsys: Capture) -> None:
    assert main(["cost", "edf_best_fit", "--requests", "100", "--gpus", "8", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["requests"], result["gpus"], result["degrees"]) == (100, 8, 4)
    assert result["within_budget"] and result["budget_s"] == 0.05
    assert main(["cost", "edf_best_fit", "--requests", "10000", "--gpus", "64", "--budget", "1us"]) == 1
    assert "over its limit; the dearest:" in capsys.readouterr().out
    assert main(["cost"]) == 2
    assert main(["cost", "--calibrate"]) == 0
    constants = tmp_path / "here.json"
    constants.write_text(capsys.readouterr().out, "utf-8")
    assert all(value > 0 for value in json.loads(constants.read_text("utf-8")).values())
    assert main(["cost", "fcfs", "--constants", str(constants), "--requests", "10", "--budget", "1s"]) == 0
    constants.write_text("{}", "utf-8")
    assert main(["cost", "fcfs", "--constants", str(constants)]) == 1
    assert "--calibrate" in capsys.readouterr().err


def in_vain(requests: int, gpus: int) -> View:
    """Urgent requests that find every rank in use by requests that would be late if they paused."""
    busy = [
        Actor(f"b{n}", tag="batch", arrival_s=-100, deadline_s=26.0, stage=Stage.DENOISE, sp=1, state=State.RUNNING,
              steps_total=40, preemptible=False, group_since_s=-50.0)
        for n in range(gpus)
    ]  # fmt: skip
    urgent = [
        Actor(f"u{n}", tag="ui", arrival_s=-1, deadline_s=14.0, stage=Stage.DENOISE) for n in range(requests - gpus)
    ]
    return World(gpus, [*busy, *urgent]).view()


def test_the_bound_holds_where_everybody_asks_for_victims_in_vain() -> None:
    program, constants, view = store.load_policy("step_preempt_pause").program, calibrate(), in_vain(REQUESTS, GPUS)
    found = []
    for _ in range(3):
        policy = CompiledPolicy(program)
        begin = time.thread_time()
        assert not policy.plan(view).places
        found.append(time.thread_time() - begin)
    assert min(found) <= SLACK * bound(program, REQUESTS, GPUS, constants).seconds


def test_victims_are_judged_once_for_all_who_ask_in_vain() -> None:
    """Twice the winners cost about twice as much, not twice for each of the victims."""
    program = store.load_policy("step_preempt_pause").program

    def seconds(requests: int, gpus: int) -> float:
        view, found = in_vain(requests, gpus), []
        for _ in range(5):
            policy = CompiledPolicy(program)
            begin = time.thread_time()
            policy.plan(view)
            found.append(time.thread_time() - begin)
        return min(found)

    assert seconds(400, 64) < 4 * seconds(200, 16)  # 336 winners and 64 victims against 184 and 16
