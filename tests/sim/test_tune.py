"""Tuning: finds what there is, the same each time, resumes, and believes nothing that held-out cells do not say."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_worlds import make_cost, make_workload

from gfdit.cli.app import main
from gfdit.errors import UsageError
from gfdit.policy.store import load_policy
from gfdit.runtime.costfile import cost_model_to_json
from gfdit.runtime.workload import workload_line
from gfdit.sim import tuning as module
from gfdit.sim.compare import Plan, Record, Task, WorkloadSource
from gfdit.sim.picture import draw_tuning
from gfdit.sim.tuning import (
    BATCH,
    Objective,
    SearchSpace,
    Served,
    Tuned,
    TunePlan,
    bootstrap,
    merit,
    served_by,
    tune,
)

Capture = pytest.CaptureFixture[str]

KNOBS = """policy knobs version 1 "Params of all kinds"
param group: gpu = 4 gpu within 1 gpu .. 4 gpu  # narrower groups waste less
param patience: dur = 30s within 1s .. 10min
param much: tok = 2048 tok within 256 tok .. 4096 tok
param share: ratio = 50% within 20% .. 100%
param small_first: bool = false
param unbounded: num = 1
order by waited > patience * unbounded desc, small_first and tokens < much desc, arrival
stage encode, decode { sp fixed 1 gpu }
stage denoise { sp fixed group }
fallback builtin.fcfs
"""


@pytest.fixture
def cost(tmp_path: Path) -> Path:
    path = tmp_path / "made.cost.json"
    path.write_text(cost_model_to_json(make_cost()), encoding="utf-8")
    return path


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "knobs.pol"
    path.write_text(KNOBS, encoding="utf-8")
    return str(path)


def workload(folder: Path, seed: int, count: int = 24) -> WorkloadSource:
    path = folder / f"w{seed}.jsonl"
    path.write_text("".join(workload_line(r) + "\n" for r in make_workload(seed, count)), encoding="utf-8")
    return WorkloadSource(path.name, path)


def plan_of(policy: str, cost: Path, **more: object) -> TunePlan:
    folder = cost.parent

    def tasks(*seeds: int) -> list[Task]:
        return list(Plan([policy], [workload(folder, seed) for seed in seeds], cost, "m", [4]).tasks())

    made: dict[str, object] = {"objective": Objective.MEAN_LATENCY, "trials": 12, "only": ("group",)}
    return TunePlan(policy, tasks(1, 2), tasks(3, 4), **(made | more))  # type: ignore[arg-type]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Every cell that is really simulated, in order."""
    seen: list[Task] = []
    serve = module.served_by

    def noted(task: Task) -> Served:
        seen.append(task)
        return serve(task)

    monkeypatch.setattr(module, "served_by", noted)
    return seen


def test_a_better_setting_is_found_and_confirmed(policy: str, cost: Path) -> None:
    found = tune(plan_of(policy, cost))
    assert found.trials[0].setting == found.default == {"group": "4 gpu"}
    assert found.setting == {"group": "1 gpu"}  # groups of four lose 24 % of each GPU
    assert found.recommended and found.gain is not None and 0 < found.gain.low <= found.gain.mean <= found.gain.high
    assert found.line == "--set 'group=1 gpu'" and found.params == found.setting
    assert all(cell.tuned < cell.default for cell in found.held_out)
    assert load_policy(policy, found.params).program.params[0].value == 1.0


def test_equal_seeds_search_equally_also_in_processes(policy: str, cost: Path) -> None:
    plan = plan_of(policy, cost, only=("patience", "share", "group"), trials=BATCH + 1)
    first = tune(plan)
    assert tune(plan, jobs=2) == first
    other = tune(replace(plan, seed=5))
    assert [t.setting for t in other.trials] != [t.setting for t in first.trials]
    assert other.trials[0] == first.trials[0]  # the default


def test_a_search_that_was_interrupted_goes_on(policy: str, cost: Path, tmp_path: Path, ran: list[Task]) -> None:
    plan, store = plan_of(policy, cost, trials=10, only=("group", "patience")), tmp_path / "out" / "trials.jsonl"
    told: list[int] = []
    whole = tune(plan, store, on_done=told.append)
    simulated = len(ran)
    assert sum(told) == plan.simulations or whole.gain is None
    lines = store.read_text("utf-8").splitlines(keepends=True)
    assert len(lines) == simulated == len(set(ran))  # a setting that comes again is not simulated again
    store.write_text("".join(lines[:7]) + lines[7][:20], encoding="utf-8")
    ran.clear()
    assert tune(plan, store) == whole and len(ran) == simulated - 7
    ran.clear()
    assert tune(plan, store) == whole and not ran
    tune(replace(plan, trials=12), store)
    assert len(ran) <= 2 * 2 + 4
    ran.clear()
    tune(replace(plan, objective=Objective.ATTAINMENT, trials=1), store)
    assert not ran  # every objective of a cell is known


def test_what_only_training_shows_is_not_believed(policy: str, cost: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A world where every setting but the default looks better on the training cells, and is as good elsewhere."""
    seen = {task.workload.label for task in plan_of(policy, cost).cells}

    def biased(task: Task) -> Served:
        served = served_by(replace(task, params=()))
        lucky = task.workload.label in seen and dict(task.params)["share"] != "0.5"
        return replace(served, latency_s=served.latency_s * 0.9) if lucky else served

    monkeypatch.setattr(module, "served_by", biased)
    found = tune(plan_of(policy, cost, only=("share",)))
    assert found.setting != found.default and found.training_gain() == pytest.approx(0.1)
    assert found.gain is not None and found.gain.mean == found.gain.low == found.gain.high == 0.0
    assert not found.recommended and found.params == {} and found.line == ""


def test_the_default_is_kept_when_nothing_is_better(policy: str, cost: Path) -> None:
    found = tune(plan_of(policy, cost, only=("share",)))  # nothing reads it
    assert found.setting == found.default and found.gain is None and not found.recommended
    assert not found.held_out


def test_params_are_searched_in_their_types_and_units(policy: str) -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space = SearchSpace.of(load_policy(policy), (), 4)
    assert space.distributions == {
        "group": IntDistribution(0, 2),  # powers of two
        "patience": FloatDistribution(1.0, 600.0, log=True),
        "much": IntDistribution(256, 4096),
        "share": FloatDistribution(0.2, 1.0),
        "small_first": CategoricalDistribution([False, True]),
    }
    assert space.default == {
        "group": "4 gpu", "patience": "30s", "much": "2048 tok", "share": "0.5", "small_first": "false",
    }  # fmt: skip
    assert space.setting(space.start()) == space.default
    odd = {"group": 1, "patience": 599.9999, "much": 4096, "share": 0.2000001, "small_first": True}
    texts = space.setting(odd)
    assert texts == {"group": "2 gpu", "patience": "600s", "much": "4096 tok", "share": "0.2", "small_first": "true"}
    assert load_policy(policy, texts).program.params[0].value == 2.0  # and every text is taken back
    assert SearchSpace.of(load_policy(policy), ("group",), 2).distributions == {"group": IntDistribution(0, 1)}


@pytest.mark.parametrize(
    ("only", "says"), [("missing", "has no param `missing`"), ("unbounded", "`unbounded` of policy .* has no range")]
)
def test_what_cannot_be_tuned_is_told(policy: str, only: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        SearchSpace.of(load_policy(policy), (only,), 8)
    with pytest.raises(UsageError, match="no param with a range"):
        SearchSpace.of(load_policy("edf_greedy"), (), 8)


def test_a_training_workload_cannot_be_held_out(policy: str, cost: Path, tmp_path: Path) -> None:
    plan = plan_of(policy, cost)
    copied = tmp_path / "copy.jsonl"
    copied.write_bytes((tmp_path / "w1.jsonl").read_bytes())
    again = list(Plan([policy], [WorkloadSource("copy.jsonl", copied)], cost, "m", [4]).tasks())
    with pytest.raises(UsageError, match=r"`copy\.jsonl` .* is a training one"):
        tune(replace(plan, held_out=again))


# ---- figures --------------------------------------------------------------------------------------------------------


def made(latencies: list[float], on_time: list[float]) -> Served:
    return Served(np.array(on_time), np.array(latencies), np.array([0.0, 1.0] * (len(on_time) // 2)))


def test_objectives_and_merits() -> None:
    served = made([1.0, 2.0, 3.0, 10.0], [1.0, 0.0, 1.0, 1.0])
    assert [served.value(o) for o in Objective] == pytest.approx([0.75, 0.5, 4.0, 8.95])
    assert served.values(Objective.MEAN_LATENCY, np.array([[0, 0], [0, 2]])).tolist() == [1.0, 2.0]
    assert float(merit(Objective.MEAN_LATENCY, np.array([1.0, 100.0]))) == pytest.approx(-math.log(10))
    assert float(merit(Objective.ATTAINMENT, np.array([0.5, 1.0]))) == 0.75


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Cells whose requests gain 2 % on average, with noise: 95 % of the intervals hold it, within binomial luck."""
    random = np.random.default_rng(3)
    hits = trials = 0
    for seed in range(40):
        before = [made((b := random.gamma(4, 1, 120)).tolist(), [1.0] * 120) for _ in range(4)]
        after = [replace(cell, latency_s=cell.latency_s * random.normal(0.98, 0.05, 120)) for cell in before]
        gain = bootstrap(Objective.MEAN_LATENCY, before, after, seed)
        hits += gain.low <= 0.02 <= gain.high
        trials += 1
    assert b.size and hits / trials >= 0.8


def test_an_unfinished_request_counts_as_long_as_the_run(cost: Path, tmp_path: Path) -> None:
    path = tmp_path / "reject.pol"
    path.write_text(
        'policy reject version 1 "Refuses large ones"\nadmit { reject when tokens > 2048 tok because "large" accept }\n'
        "order by arrival\nstage encode, decode, denoise { sp fixed 1 gpu }\nfallback builtin.fcfs\n",
        encoding="utf-8",
    )
    (task,) = Plan([str(path)], [workload(tmp_path, 1)], cost, "m", [4]).tasks()
    served = served_by(task)
    large = np.array([r.tokens > 2048 for r in sorted(make_workload(1, 24), key=lambda r: (r.arrival_ns, r.id))])
    assert large.any() and (served.on_time[large] == 0).all()
    assert len(set(served.latency_s[large])) == 1 and served.latency_s[large][0] >= served.latency_s.max()


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_writes_what_to_use(policy: str, cost: Path, tmp_path: Path, capsys: Capture) -> None:
    files = [str(workload(tmp_path, seed).path) for seed in (1, 2, 3, 4)]
    train, held = ",".join(files[:2]), ",".join(files[2:])
    out = tmp_path / "tuned"
    given = ("tune", "--policy", policy, "--workload", train, "--validate", held, "--cost", str(cost), "--gpus", "4")
    more = ("--objective", "mean_latency", "--trials", "10", "--param", "group", "--jobs", "1", "--out", str(out))
    assert main([*given, *more]) == 0
    printed = capsys.readouterr().out
    assert "use it: --set 'group=1 gpu'" in printed and "held out" in printed
    result = json.loads((out / "tuned.json").read_text("utf-8"))
    assert result["params"] == {"group": "1 gpu"} and result["recommended"] and result["held_out_gain"]["low"] > 0
    assert (out / "tuned.png").stat().st_size > 5000
    assert main([*given, *more, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert main(["tune", "--policy", policy, "--workload", train, "--cost", str(cost)]) == 2
    assert "nothing to confirm on" in capsys.readouterr().err
    assert main([*given, "--objective", "speed"]) == 2
    assert "no objective `speed`" in capsys.readouterr().err


def test_made_workloads_are_confirmed_with_other_seeds(
    cost: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[TunePlan] = []

    def noted(plan: TunePlan, *_: object) -> Tuned:
        plans.append(plan)
        return Tuned(plan.policy, "", plan.objective, {}, {}, ())

    monkeypatch.setattr("gfdit.cli.tune._run", noted)
    monkeypatch.setattr("gfdit.cli.tune._print", lambda *_: None)
    given = ("tune", "--policy", "slo", "--workload", "short:0.5,shift:1.2", "--cost", "qwen-h20,wan5b")
    assert main([*given, "--gpus", "4,8", "--seeds", "3", "--seed", "7"]) == 0
    (plan,) = plans
    assert len(plan.cells) == len(plan.held_out) == 2 * 2 * 2 * 3
    assert {task.seed for task in plan.cells} == {7, 8, 9} and {task.seed for task in plan.held_out} == {10, 11, 12}
    assert {task.model for task in plan.cells} == {"qwen-image", "wan2.2-ti2v-5b"}


def test_the_picture_is_drawn_also_of_nothing_held_out(policy: str, cost: Path, tmp_path: Path) -> None:
    for name, only in (("a.svg", ("group",)), ("b.svg", ("share",))):
        draw_tuning(tune(plan_of(policy, cost, only=only, trials=3)), tmp_path / name)
        assert (tmp_path / name).read_text("utf-8").startswith("<?xml")


def test_a_record_is_plain_json(policy: str, cost: Path) -> None:
    record: Record = module._measure_each(plan_of(policy, cost).cells[0])
    assert json.loads(json.dumps(record)) == record
