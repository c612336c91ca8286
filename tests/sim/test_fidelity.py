"""Fidelity: a world that is known to be off by so much is found to be off by so much, and where."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_worlds import make_cost, make_request, make_workload

from gfdit.cli.app import main
from gfdit.core.cost import CostModel, Points, Quadratic, StageCost
from gfdit.core.events import PolicyOverran, RequestCancelled, TaskFailed, TaskFinished, WorkerLost
from gfdit.core.work import Request
from gfdit.errors import InputError, JournalError
from gfdit.policy.store import load_policy
from gfdit.runtime.costfile import cost_model_to_json, load_cost_model
from gfdit.runtime.driver import drive
from gfdit.runtime.journal import Journal
from gfdit.runtime.recipe import recipe_of
from gfdit.sim.fidelity import PARTS, Run, fidelity, fitted_cost, read_run
from gfdit.sim.fleet import SimFleet, VirtualClock
from gfdit.sim.picture import draw_fidelity

Capture = pytest.CaptureFixture[str]
GPUS = 4


def lived(path: Path, requests: list[Request], truth: CostModel, believed: CostModel, policy: str = "srtf") -> Path:
    """A journal of a run whose scheduler believes one table, in a world that follows another."""
    recipe = recipe_of(load_policy(policy), {}, believed, GPUS, about={"device": "made up"})
    scheduler, clock = recipe.scheduler(), VirtualClock()
    journal = Journal(path, recipe.to_json(), scheduler)
    drive(scheduler, clock, SimFleet(clock, truth, GPUS, requests, seed=1), (journal,))
    journal.close()
    return path


def slower(cost: CostModel, factor: float, dispatch_s: float = 0.0, reshard_s: float = 0.0) -> CostModel:
    """Denoising `factor` times as long, other overheads."""
    stages = dict(cost.models["m"])
    stages["denoise"] = StageCost(
        "tokens",
        {k: Quadratic(c.a * factor, c.b * factor, c.c * factor) for k, c in stages["denoise"].degrees.items()
         if isinstance(c, Quadratic)},
    )  # fmt: skip
    return replace(cost, models={"m": stages}, dispatch_s=dispatch_s, reshard_s=reshard_s)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Steps take half as long again, and every task 5 ms more, than the journal's table says."""
    believed = make_cost()
    return lived(tmp_path / "journal.sqlite", make_workload(4, 30), slower(believed, 1.5, 0.005, 0.004), believed)


def test_a_world_as_the_table_says_is_foretold_exactly(tmp_path: Path) -> None:
    found = fidelity(lived(tmp_path / "j.sqlite", make_workload(2, 30), make_cost(), make_cost()))
    assert len(found.pairs) == 30 and (found.only_live, found.only_simulated) == (0, 0)
    assert (found.median, found.p95, found.bias) == (0.0, 0.0, 0.0)
    assert all(stage.ratio == pytest.approx(1.0, abs=1e-6) for stage in found.stages)
    assert found.live_parts == found.simulated_parts


def test_what_is_off_is_named(journal: Path) -> None:
    found = fidelity(journal)
    assert found.median > 0.05 and found.bias < -0.05  # the table is too fast
    ratios = {(stage.stage, stage.degree): stage.ratio for stage in found.stages}
    assert {degree for name, degree in ratios if name == "denoise"} >= {1, 2}
    for (name, _), ratio in ratios.items():
        assert ratio == pytest.approx(1.5 if name == "denoise" else 1.0, rel=1e-3)
    assert found.dispatch_s == pytest.approx(0.005, rel=0.01) and found.cost.dispatch_s == 1e-5
    assert found.reshard_s == pytest.approx(0.004, rel=0.01)
    assert found.live_parts["compute"] > found.simulated_parts["compute"]
    assert found.live_parts["around"] > found.simulated_parts["around"]
    mean = sum(pair.live_s for pair in found.pairs) / len(found.pairs)
    assert sum(found.live_parts[part] for part in PARTS) == pytest.approx(mean)


def test_the_true_table_foretells_although_the_scheduler_believed_another(journal: Path) -> None:
    assert fidelity(journal, slower(make_cost(), 1.5, 0.005, 0.004)).p95 == 0.0


def test_a_fitted_table_foretells_another_run(journal: Path, tmp_path: Path) -> None:
    truth, believed = slower(make_cost(), 1.5, 0.005, 0.004), make_cost()
    other = lived(tmp_path / "other.sqlite", make_workload(9, 30), truth, believed)
    fitted = fitted_cost(journal)
    before, after = fidelity(other), fidelity(other, fitted)
    assert after.median < 0.01 < 0.05 < before.median
    assert all(stage.ratio == pytest.approx(1.0, rel=1e-3) for stage in after.stages)


def test_a_fitted_curve_goes_through_what_was_seen_and_keeps_its_course_elsewhere(tmp_path: Path) -> None:
    def cost(*points: tuple[float, float]) -> CostModel:
        return CostModel("p", {"m": {"denoise": StageCost("tokens", {1: Points(points), 2: Points(points)})}})

    believed = cost((100, 1.0), (200, 2.0), (400, 4.0))
    truth = cost((100, 1.0), (150, 3.0), (300, 3.0), (400, 4.0))
    requests = [make_request(0, 0, tokens=150, steps=2), make_request(1, 9, tokens=300, steps=2)]
    path = lived(tmp_path / "p.sqlite", requests, truth, believed, "builtin.fcfs")
    fitted = fitted_cost(path).models["m"]["denoise"].degrees[1]
    assert isinstance(fitted, Points)
    # seen: 3 s instead of 1.5 at 150, 3 s as foretold at 300; 100 is nearest to 150, 400 to 300, 200 lies between
    assert dict(fitted.points) == pytest.approx({100: 2.0, 150: 3.0, 200: 2.0 * (2 - 1 / 3), 300: 3.0, 400: 4.0})
    assert fitted_cost(path).models["m"]["denoise"].degrees[2] == believed.models["m"]["denoise"].degrees[2]


def test_what_a_simulation_does_not_repeat_is_counted(tmp_path: Path) -> None:
    cost, requests = make_cost(), make_workload(5, 12)
    recipe = recipe_of(load_policy("fcfs"), {}, cost, GPUS)
    scheduler, clock = recipe.scheduler(), VirtualClock()
    journal = Journal(tmp_path / "j.sqlite", recipe.to_json(), scheduler)
    fleet = _Unlucky(clock, cost, GPUS, requests)
    drive(scheduler, clock, fleet, (journal,))
    journal.close()
    found = fidelity(tmp_path / "j.sqlite")
    assert found.troubles == {"cancelled requests": 1} and found.only_simulated == 1
    assert len(found.pairs) == 11


class _Unlucky(SimFleet):
    """Its last client gives up at once."""

    def __init__(self, clock: VirtualClock, cost: CostModel, gpus: int, requests: list[Request]) -> None:
        super().__init__(clock, cost, gpus, requests)
        last = max(requests, key=lambda request: request.arrival_ns)
        self._push(RequestCancelled(last.arrival_ns, last.id))


def test_losses_and_failures_are_troubles() -> None:
    run = Run()
    lost, failed, slow = WorkerLost(0, 1, 0, "gone"), TaskFailed(0, 7, "worker_lost"), PolicyOverran(0, 1.0)
    run.take(0, [lost, failed, slow, TaskFinished(0, 99, busy_ns=1)], (), 0.0)
    assert run.troubles == {"lost workers": 1, "failed tasks": 1, "policy changes and overruns": 1}
    assert run.latencies() == {} and run.tasks == []


def test_nothing_in_common_and_no_journal_are_told(tmp_path: Path) -> None:
    empty = lived(tmp_path / "j.sqlite", [], make_cost(), make_cost())
    assert read_run(empty)[1].requests == {}
    with pytest.raises(InputError, match="no request was completed both live and in the simulation"):
        fidelity(empty)
    with pytest.raises(JournalError, match="no journal"):
        fidelity(tmp_path / "none.sqlite")


def test_the_command_prints_judges_and_fits(journal: Path, tmp_path: Path, capsys: Capture) -> None:
    table, picture = tmp_path / "fitted.cost.json", tmp_path / "f.svg"
    assert main(["fidelity", str(journal), "--fit", str(table), "--picture", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "30 requests live on made up" in out and "denoise" in out and "dispatch, each" in out
    assert picture.read_text("utf-8").startswith("<?xml")
    assert load_cost_model(table).name == "made-fitted"
    assert main(["fidelity", str(journal), "--json", "--target", "0.05"]) == 1
    before = json.loads(capsys.readouterr().out)
    assert main(["fidelity", str(journal), "--cost", str(table), "--json", "--target", "0.05"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert before["requests"] == after["requests"] == len(after["errors"]) == 30
    assert after["error_median"] < 0.01 < before["error_median"]
    assert main(["fidelity", str(journal), "--picture", "f.gif"]) == 2
    assert "is no picture file" in capsys.readouterr().err


def test_a_table_without_the_model_is_an_error(journal: Path, tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "other.cost.json"
    models = {"another": make_cost().models["m"]}
    other.write_text(cost_model_to_json(replace(make_cost(), models=models)), encoding="utf-8")
    assert main(["fidelity", str(journal), "--cost", str(other)]) == 1
    assert "has no model `m`" in capsys.readouterr().err


def test_the_picture_is_drawn(journal: Path, tmp_path: Path) -> None:
    draw_fidelity(fidelity(journal), tmp_path / "new" / "f.png")
    assert (tmp_path / "new" / "f.png").stat().st_size > 5000
