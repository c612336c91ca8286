"""Comparisons: what is run, what is kept, what a confidence interval says, and that a bound stays a bound."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_worlds import make_cost, make_workload

from gfdit.cli.app import main
from gfdit.errors import InputError, UsageError
from gfdit.runtime.costfile import cost_model_to_json, load_cost_model
from gfdit.runtime.workload import workload_line
from gfdit.sim import compare as module
from gfdit.sim import engine
from gfdit.sim.compare import Keys, Plan, Row, Task, WorkloadSource, compare, workload_source
from gfdit.sim.faults import parse_faults
from gfdit.sim.picture import draw
from gfdit.sim.profiles import FAILURES

Capture = pytest.CaptureFixture[str]
POLICIES = ("fcfs", "edf_best_fit")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    cost, workload = tmp_path / "made.cost.json", tmp_path / "w.jsonl"
    cost.write_text(cost_model_to_json(make_cost()), encoding="utf-8")
    workload.write_text("".join(workload_line(r) + "\n" for r in make_workload(1, 12)), encoding="utf-8")
    return cost, workload


def plan_of(files: tuple[Path, Path], **more: object) -> Plan:
    cost, workload = files
    sources = [WorkloadSource("w.jsonl", workload)]
    return Plan(**{"policies": POLICIES, "workloads": sources, "cost": cost, "model": "m", "gpus": (2,), **more})  # type: ignore[arg-type]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Every task that is really run, in order."""
    seen: list[Task] = []
    run = module.run_task

    def noted(task: Task) -> module.Record:
        seen.append(task)
        return run(task)

    monkeypatch.setattr(module, "run_task", noted)
    return seen


def mean(row: Row, name: str) -> float:
    estimate = row.figures[name]
    assert estimate is not None
    return estimate.mean


def test_rows_are_best_first_and_within_their_bound(files: tuple[Path, Path]) -> None:
    rows = compare(plan_of(files, bound=True, gpus=(1, 4)))
    ranks = [[(-mean(row, "attainment"), mean(row, "mean_latency_s")) for row in rows if row.gpus == g] for g in (1, 4)]
    assert all(block == sorted(block) for block in ranks)
    assert sorted((row.gpus, row.policy) for row in rows) == [(g, p) for g in (1, 4) for p in sorted(POLICIES)]
    for row in rows:
        assert row.bound is not None
        assert mean(row, "attainment") <= row.bound["attainment_ub"] + 1e-7
        assert mean(row, "mean_latency_s") >= row.bound["mean_latency_lb_s"] - 1e-7
        assert mean(row, "makespan_s") >= row.bound["makespan_lb_s"] - 1e-7


def test_what_the_file_has_is_not_run_again(files: tuple[Path, Path], tmp_path: Path, ran: list[Task]) -> None:
    store, told = tmp_path / "out" / "results.jsonl", []
    first = compare(plan_of(files), store, on_done=lambda: told.append(1))
    assert (len(ran), len(told), len(store.read_text("utf-8").splitlines())) == (2, 2, 2)
    more = compare(plan_of(files, policies=(*POLICIES, "srtf")), store)
    assert [task.policy for task in ran[2:]] == ["srtf"]
    assert [row for row in more if row.policy in POLICIES] == first
    with store.open("a", encoding="utf-8") as file:
        file.write('{"key": "cut sho')
    assert compare(plan_of(files), store) == first and len(ran) == 3
    assert len(store.read_text("utf-8").splitlines()) == 3
    store.write_text("not a result\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"results\.jsonl:1: not a result"):
        compare(plan_of(files), store)


def test_a_changed_input_is_another_key(files: tuple[Path, Path]) -> None:
    cost, workload = files
    task = next(plan_of(files).tasks())
    before = Keys().of(task)
    assert Keys().of(task) == before
    changes: list[dict[str, object]] = [
        {"gpus": (3,)}, {"seeds": (1,)}, {"noise": 0.1}, {"gpus_per_node": 4}, {"policies": ("srtf",)},
    ]  # fmt: skip
    keys = {before, *(Keys().of(next(plan_of(files, **change).tasks())) for change in changes)}
    assert len(keys) == 6
    workload.write_text(workload.read_text("utf-8").replace('"steps": 4', '"steps": 5'), encoding="utf-8")
    keys.add(Keys().of(task))
    cost.write_text(cost.read_text("utf-8").replace("0.02", "0.03"), encoding="utf-8")
    assert len(keys | {Keys().of(task)}) == 8


def test_results_of_other_code_are_not_used(
    files: tuple[Path, Path], tmp_path: Path, ran: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "results.jsonl"
    compare(plan_of(files, bound=True), store)
    assert len(ran) == 3
    monkeypatch.setattr(module, "engine_digest", lambda: "changed")
    compare(plan_of(files, bound=True), store)
    assert [task.policy for task in ran[3:]] == list(POLICIES)  # bounds do not depend on the scheduler
    monkeypatch.setattr(module, "bound_digest", lambda: "changed")
    compare(plan_of(files, bound=True), store)
    assert [task.policy for task in ran[5:]] == [module.BOUND]


def test_the_digest_covers_the_engine_and_not_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gfdit"
    shutil.copytree(engine.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "models", "*.pyc"))

    def digests() -> tuple[str, str]:
        return engine.engine_digest.__wrapped__(), engine.bound_digest.__wrapped__()

    before = digests()
    monkeypatch.setattr(engine, "PACKAGE", package)
    assert digests() == before  # where it is installed does not matter
    changed: dict[str, tuple[bool, bool]] = {}
    for name in ("core/scheduler.py", "policy/planner.py", "lang/build.py", "sim/fleet.py", "sim/generate.py",
                 "sim/bounds.py", "sim/picture.py", "sim/compare.py", "cli/compare.py"):  # fmt: skip
        last = digests()
        with (package / name).open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        now = digests()
        changed[name] = now[0] != last[0], now[1] != last[1]
    assert changed == {
        "core/scheduler.py": (True, False), "policy/planner.py": (True, False), "lang/build.py": (True, False),
        "sim/fleet.py": (True, False), "sim/generate.py": (True, True), "sim/bounds.py": (False, True),
        "sim/picture.py": (False, False), "sim/compare.py": (False, False), "cli/compare.py": (False, False),
    }  # fmt: skip


def test_a_fallback_is_a_part_of_a_policy(files: tuple[Path, Path], tmp_path: Path) -> None:
    first, last = tmp_path / "first.pol", tmp_path / "last.pol"
    rest = "order by arrival\nstage encode, decode, denoise { sp fixed 1 gpu }\nfallback "
    first.write_text(f"policy first version 1\n{rest}last\n", encoding="utf-8")
    last.write_text(f"policy last version 1\n{rest}builtin.fcfs\n", encoding="utf-8")
    task = next(plan_of(files, policies=(str(first),)).tasks())
    before = Keys().of(task)
    last.write_text(last.read_text("utf-8").replace("by arrival", "by deadline"), encoding="utf-8")
    assert Keys().of(task) != before


def test_variants_of_made_workloads(files: tuple[Path, Path]) -> None:
    sources = [workload_source(f"short:4{variant}", Path, 60.0) for variant in ("", "+overload", "+failure")]
    assert [source.label for source in sources] == ["short:4", "short:4+overload", "short:4+failure"]
    cost = load_cost_model(files[0])
    calm, surge, broken = (source.requests(cost, "m", 2, 0) for source in sources)
    assert broken == calm and len(surge) > 1.15 * len(calm)
    plan = plan_of(files, workloads=sources)
    assert [plan.faults_of(source) for source in sources] == ["", "", FAILURES]
    assert len({Keys().of(task) for task in plan.tasks()}) == 2 * 3
    assert plan_of(files, workloads=sources, faults="crash 1/h").faults_of(sources[0]) == "crash 1/h"
    configs = [module.config_of(task) for task in plan.tasks() if task.policy == "fcfs"]
    assert [config.faults for config in configs] == [None, None, parse_faults(FAILURES)]
    assert len(compare(plan_of(files, policies=("fcfs",), workloads=sources[1:], bound=True))) == 2
    with pytest.raises(UsageError, match="no variant `storm`"):
        workload_source("short:4+storm", Path)


def test_seeds_matter_where_something_breaks(files: tuple[Path, Path]) -> None:
    plan = plan_of(files, policies=("fcfs",), seeds=(0, 1, 2), faults="straggler 2x 50% for 1s")
    estimate = compare(plan)[0].figures["mean_latency_s"]
    assert estimate is not None and estimate.seeds == 3 and estimate.half_width


def test_seeds_matter_for_noise_and_for_made_workloads_only(files: tuple[Path, Path]) -> None:
    (alone,) = compare(plan_of(files, policies=("fcfs",), seeds=(0, 1, 2)))
    estimate = alone.figures["mean_latency_s"]
    assert estimate is not None and (estimate.seeds, estimate.half_width) == (1, None)
    (noisy,) = compare(plan_of(files, policies=("fcfs",), seeds=(0, 1, 2), noise=0.2))
    estimate = noisy.figures["mean_latency_s"]
    assert estimate is not None and estimate.seeds == 3 and estimate.half_width is not None and estimate.half_width > 0
    made = [WorkloadSource("short:0.3", None, "short", 0.3, 30.0)]
    (row,) = compare(plan_of(files, policies=("fcfs",), workloads=made, seeds=(0, 1), bound=True))
    estimate = row.figures["makespan_s"]
    assert estimate is not None and estimate.seeds == 2 and row.bound is not None
    assert estimate.mean >= row.bound["makespan_lb_s"]


def test_the_interval_is_students() -> None:
    estimate = module._estimate([1.0, 2.0, 3.0, 4.0])
    assert estimate is not None and estimate.mean == 2.5
    assert estimate.half_width == pytest.approx(3.1824 * 1.29099 / 2, rel=1e-4)  # t(0.975, 3) s / sqrt(n)
    assert module._estimate([None, None]) is None


def test_processes_give_the_same_rows(files: tuple[Path, Path]) -> None:
    plan = plan_of(files, policies=("fcfs",), gpus=(1, 2))

    def figures(rows: list[Row]) -> list[object]:
        return [(row.policy, row.figures) for row in rows]

    assert figures(compare(plan, jobs=2)) == figures(compare(plan))


def test_a_workload_is_a_profile_at_a_load_or_a_file() -> None:
    assert workload_source("shift:0.85", Path) == WorkloadSource("shift:0.85", None, "shift", 0.85)
    assert workload_source("there/w.jsonl", Path).path == Path("there/w.jsonl")
    for text in ("shift", "shift:", "shift:x", "shift:0"):
        with pytest.raises(UsageError, match="needs a load above 0"):
            workload_source(text, Path)


def test_the_picture_is_drawn(files: tuple[Path, Path], tmp_path: Path) -> None:
    rows = compare(plan_of(files, bound=True))
    draw(rows, tmp_path / "new" / "picture.svg")
    text = (tmp_path / "new" / "picture.svg").read_text("utf-8")
    assert text.startswith("<?xml") and all(name in text for name in POLICIES)


def test_commands_agree_about_one_workload(files: tuple[Path, Path], capsys: Capture) -> None:
    cost, workload = map(str, files)
    given = ("--workload", workload, "--cost", cost, "--gpus", "2")

    def printed(*command: str) -> dict[str, object]:
        assert main([*command, *given, "--json"]) == 0
        out = json.loads(capsys.readouterr().out)
        assert isinstance(out, dict)
        return out

    bound = printed("bound")
    names = ("attainment_ub", "mean_latency_lb_s", "makespan_lb_s")
    result = printed("sim", "--policy", "fcfs", "--bound")
    assert result["bound"] == {name: bound[name] for name in names}
    (row,) = printed("compare", "--policies", "fcfs", "--bound")["rows"]  # type: ignore[misc]
    assert row["bound"] == result["bound"]
    assert row["figures"]["mean_latency_s"]["mean"] == result["mean_latency_s"]
    assert main(["compare", "--policies", "fcfs,srtf", *given, "--bound"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.strip().startswith(name) for line in lines) for name in ("fcfs", "srtf", "bound"))


def test_make_and_show_agree(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "w.jsonl"
    make = ("workload", "make", "short", "--cost", "qwen-h20", "--load", "0.5")
    assert main([*make]) == 0
    text = capsys.readouterr().out
    assert main([*make, "--out", str(file), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert file.read_text("utf-8") == text and made["requests"] == len(text.splitlines())
    assert main(["workload", "show", str(file), "--cost", "qwen-h20", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {key: made[key] for key in ("requests", "by_class", "single_gpu_s")} == {
        key: shown[key] for key in ("requests", "by_class", "single_gpu_s")
    }
    assert main(["workload", "show", str(file), "--cost", "qwen-h20"]) == 0
    assert "load" in capsys.readouterr().out
    assert main([*make, "--variant", "failure", "--out", str(file)]) == 0
    assert f"--faults '{FAILURES}'" in capsys.readouterr().out and file.read_text("utf-8") == text
    assert main([*make, "--variant", "overload", "--out", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["requests"] > made["requests"]
    assert main([*make, "--variant", "storm"]) == 2
    assert "no workload variant `storm`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("sim", "--policy", "fcfs", "--bound", "--noise", "0.1"), "--bound does not go with --noise"),
        (("compare", "--policies", "fcfs", "--bound", "--noise", "0.1"), "--bound does not go with --noise"),
        (("compare", "--policies", " , "), "names nothing"),
        (("compare", "--policies", "fcfs", "--gpus", "4,x"), "no list of cluster sizes"),
        (("compare", "--policies", "fcfs", "--picture", "a.gif"), "is no picture file"),
    ],
)
def test_a_wrong_command_line_is_told(command: tuple[str, ...], says: str, capsys: Capture) -> None:
    assert main([*command, "--workload", "burst", "--cost", "qwen-h20"]) == 2
    assert says in capsys.readouterr().err
