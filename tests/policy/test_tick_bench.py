"""`gfdit bench tick`: what it reports, and that the world it measures in is busy and steady."""

from __future__ import annotations

import gc
import json

import pytest

from gfdit.cli.app import main
from gfdit.core.proposal import Proposal
from gfdit.core.view import View
from gfdit.policy.store import load_policy
from gfdit.sim.tickbench import CELLS, POLICIES, WARMUP_S, WINDOW_S, Measured, SteadyWorld, shipped_cost


def test_the_report_has_a_row_for_every_policy_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--size", "60/8", "--size", "100/8", "--policies", "edf_best_fit,slo", "--json"]
    assert main(["bench", "tick", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bench"] == "tick"
    found = [(row["policy"], row["requests"], row["gpus"], row["target_us"]) for row in report["rows"]]
    targets = {(60, 8): None, (100, 8): CELLS[0].target_us}
    assert found == [(name, *size, targets[size]) for size in targets for name in ("edf_best_fit", "slo")]
    for row in report["rows"]:
        assert 0 < row["p50_us"] <= row["p99_us"] and row["yardstick_p50_us"] > 0, row
        assert row["p50_us"] < row["tick_p50_us"] and row["ticks"] > 10, row
    assert all(report[name] > 0 for name in ("check_ms", "cli_cold_ms", "knapsack_ms"))


def test_a_size_that_is_none_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "tick", "--size", "100x8"]) == 2
    assert "requests/GPUs" in capsys.readouterr().err


@pytest.mark.parametrize("name", POLICIES)
def test_the_measured_world_is_steady_and_busy(name: str) -> None:
    policy = Measured(load_policy(name).program)
    world = SteadyWorld(policy, 150, 16, shipped_cost())
    for _ in range(12):
        world.move_on(WARMUP_S)
    busy, live = [], []
    policy.clear()
    for _ in range(20):
        world.move_on(WINDOW_S)
        busy.append(len(world.scheduler.owner))
        live.append(len(world.scheduler.trajectories))
    assert sum(busy) / len(busy) > 0.8 * 16, f"{name}: busy GPUs tick by tick: {busy}"
    assert min(live) > 150 - 8, f"{name}: live requests tick by tick: {live}"  # those that ended arrive anew
    assert 0 < sum(policy.placed) < 20 * 8, f"{name}: placed tick by tick: {policy.placed}"


def test_no_garbage_is_collected_while_a_policy_is_asked() -> None:
    collecting: list[bool] = []

    class Watching(Measured):
        def plan(self, view: View) -> Proposal:
            collecting.append(gc.isenabled())
            return super().plan(view)

    world = SteadyWorld(Watching(load_policy("fcfs").program), 20, 4, shipped_cost())
    world.move_on(WINDOW_S)
    assert collecting and not any(collecting) and gc.isenabled()
