"""`@policy.native`: a function that plans, watched like every policy, and refused where only texts may go."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from gfdit.cli.app import main
from gfdit.cli.shipped import find_cost, find_workload
from gfdit.core.events import Event
from gfdit.core.lifecycle import State
from gfdit.core.proposal import Proposal, WaitReason
from gfdit.core.scheduler import Decision
from gfdit.core.work import Stage
from gfdit.errors import PolicyError
from gfdit.policy import gpu, order_by, policy, stages, tokens
from gfdit.policy.decorators import TracedPolicy
from gfdit.policy.native import Columns, NativePolicy
from gfdit.policy.store import checked_program, load_policy, read_policy, read_text
from gfdit.policy.world import Actor, World
from gfdit.runtime.costfile import load_cost_model
from gfdit.runtime.geometry import tokens_of
from gfdit.runtime.workload import load_workload
from gfdit.sim.run import SimConfig, simulate

Capture = pytest.CaptureFixture[str]

FILE = """
from gfdit.policy import admit, accept, ms, policy, reject, tokens, tok, pol

@policy(version=1, title="Shortest first, in Python", fallback="fcfs", tick_limit=500 * ms)
class Mine:
    intake = admit(reject(tokens > 100_000 * tok, because="too large"), accept())

    @policy.native
    def plan(columns, free, deadline):
        chosen = {}
        for k in sorted(range(len(columns)), key=lambda k: (columns["remaining"][k].min(), columns.ids[k])):
            if free == 0:
                break
            chosen[columns.ids[k]] = 1
            free -= 1
        return chosen

    shown = pol('test "the shorter one goes first" { cluster 1 gpu\\n'
        'request a { stage = "denoise", steps_left = 20 step }\\n'
        'request b { stage = "denoise", steps_left = 4 step }\\n'
        'expect b.sp == 1 gpu and a.waiting }')
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE, encoding="utf-8")
    return path


def world() -> World:
    """Three requests that wait on four GPUs, one of them to be encoded; a fourth is in the middle of a step."""
    waiting = [Actor(f"r{age}", arrival_s=-float(age), stage=Stage.DENOISE, tag="ui") for age in (3, 2)]
    running = Actor("busy", arrival_s=-9.0, stage=Stage.DENOISE, sp=2, state=State.RUNNING)
    return World(4).add([*waiting, Actor("new", arrival_s=-1.0, deadline_s=4.0), running])


def planned(function: Callable[[Columns, int, float], object]) -> Proposal:
    @policy(version=1)
    class Mine:
        plan = policy.native(function)  # type: ignore[arg-type]

    assert isinstance(Mine, TracedPolicy) and Mine.native is not None
    return NativePolicy(checked_program(Mine.text), Mine.native).plan(world().view())


# ---- what it is given, and what it gives ----------------------------------------------------------------------------


def test_columns_are_the_words_of_the_language() -> None:
    seen: list[Columns] = []

    def plan(columns: Columns, free: int, deadline: float) -> Mapping[str, int]:
        seen.append(columns)
        assert free == 2 and deadline > time.monotonic()
        return {}

    planned(plan)
    (columns,) = seen
    assert columns.ids == ("r3", "r2", "new") and len(columns) == 3 and columns.gpus == 4
    assert columns["age"].tolist() == [3.0, 2.0, 1.0] and columns["arrival"].tolist() == [-3.0, -2.0, -1.0]
    assert columns["deadline"].tolist() == [np.inf, np.inf, 4.0]
    assert columns["tag"].tolist() == ["ui", "ui", ""] and columns["stage"].tolist() == ["denoise", "denoise", "encode"]
    assert columns.single.tolist() == [False, False, True]
    assert columns["step_time"].shape == columns["slack"].shape == (3, len(columns.degrees))
    assert {"steps_left", "waited", "class", "finish"} <= set(columns)
    for name in columns:
        with pytest.raises(ValueError, match="read-only"):
            columns[name][0] = columns[name][0]
    with pytest.raises(KeyError, match="no column `colour`"):
        columns["colour"]


def test_a_plan_becomes_places_in_its_order_and_the_rest_waits() -> None:
    found = planned(lambda columns, free, deadline: {"new": 4, "r2": 1})
    ids = world().view().ids
    assert [(ids[place.row], place.degree) for place in found.places] == [("new", 1), ("r2", 1)]  # encoding takes one
    assert {ids[row]: reason for row, reason in found.waits.items()} == {"r3": WaitReason.NO_FREE_GPU}
    alone = planned(lambda columns, free, deadline: {"r2": 1})
    assert set(alone.waits.values()) == {WaitReason.POLICY_WAITS} and alone.wake_at_s is not None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("r3", 1)], "expected ids to degrees"),
        ({"r9": 1}, "places `r9`"),
        ({"busy": 2}, "places `busy`"),
        ({"r3": 3}, "gives `r3` 3 GPUs"),
        ({"r3": 0}, "gives `r3` `0` GPUs"),
        ({"r3": True}, "gives `r3` `True` GPUs"),
        ({"r3": 2, "r2": 1}, "uses 3 GPUs, and 2 are free"),
    ],
)
def test_a_plan_that_cannot_be_is_an_error_that_says_so(given: object, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        planned(lambda columns, free, deadline: given)


def test_every_command_that_runs_a_policy_takes_it(file: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["check", str(file)]) == 0
    assert main(["test", str(file)]) == 0
    common = ["--workload", "mixed", "--cost", "shapes", "--gpus", "4", "--json"]
    capsys.readouterr()
    outputs = []
    for _ in range(2):
        assert main(["sim", "--policy", str(file), "--check", *common]) == 0
        outputs.append(json.loads(capsys.readouterr().out))
    first, second = ({key: value for key, value in one.items() if "tick_p" not in key} for one in outputs)
    assert first == second and first["completed"] == 30
    assert main(["compare", "--policies", f"{file},fcfs", *common]) == 0
    assert "mine" in capsys.readouterr().out


def test_its_hash_follows_its_source(file: Path) -> None:
    first = load_policy(str(file))
    assert first.native and not load_policy("fcfs").native
    file.write_text(FILE.replace("chosen[columns.ids[k]] = 1", "chosen[columns.ids[k]] = 1  # one"), encoding="utf-8")
    assert load_policy(str(file)).sha != first.sha
    assert load_policy(str(file)).program.sha == first.program.sha


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_no_text_journal_or_bundle_pretends_to_hold_it(file: Path, tmp_path: Path, capsys: Capture) -> None:
    assert read_policy(str(file)).native is not None
    with pytest.raises(PolicyError, match="no text says what it does"):
        read_text(str(file))
    assert main(["convert", str(file)]) == 1
    assert main(["cost", str(file)]) == 1
    journal = tmp_path / "run.journal"
    sim = ["sim", "--policy", str(file), "--workload", "mixed", "--cost", "shapes", "--gpus", "4"]
    assert main([*sim, "--journal", str(journal), "--json"]) == 0
    capsys.readouterr()
    assert main(["replay", str(journal)]) == 1
    assert "a journal holds no code" in capsys.readouterr().err


def test_own_clauses_stand_and_only_what_is_missing_is_added() -> None:
    @policy(version=1)
    class Mine:
        single = stages("encode", sp=1 * gpu)
        order = order_by(tokens)
        plan = policy.native(lambda columns, free, deadline: {})

    assert isinstance(Mine, TracedPolicy)
    assert [line.partition(" {")[0] for line in Mine.text.splitlines()[2:]] == [
        "stage encode",
        "order by tokens",
        "stage decode",
        "stage denoise",
    ]
    assert checked_program(Mine.text).stage("encode")


def test_two_plans_are_one_too_many() -> None:
    with pytest.raises(PolicyError, match="2 native plans"):

        @policy(version=1)
        class Two:
            one = policy.native(lambda columns, free, deadline: {})
            two = policy.native(lambda columns, free, deadline: {})


class News:
    """Keeps what the scheduler said of the policy."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        self.said += [str(news) for news in decision.policy_news]


@pytest.mark.parametrize("wrong", ["free / 0", "return {columns.ids[0]: free + 1} if len(columns) else {}"])
def test_a_failing_plan_is_ejected_and_the_fallback_serves_everyone(wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(FILE.replace("chosen = {}\n", f"chosen = {{}}\n        {wrong}\n"), encoding="utf-8")
    news = News()
    requests = load_workload(find_workload("mixed"), tokens_of)
    config = SimConfig(load_policy(str(path)), requests, "mixed", load_cost_model(find_cost("shapes")), 4, check=True)
    outcome = simulate(config, [news])
    assert outcome.result["completed"] == len(requests)
    strikes = [text for text in news.said if "ZeroDivisionError" in text or "gives" in text]
    assert len(strikes) >= 3 and any("EJECT" in text.upper() for text in news.said)
