"""Measuring: what `gfdit profile` concludes from a machine whose times are known, a simulated one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gfdit.cli.measure import QUICK, OneAtATime, Sizes, Stopwatch, cost_from, requests_for
from gfdit.cli.shipped import find_cost
from gfdit.core.cost import CostModel
from gfdit.core.work import Request, Stage
from gfdit.runtime.costfile import cost_model_to_json, load_cost_model, parse_cost_model
from gfdit.sim.run import SimConfig, simulate

TOKEN = (8, 8)
SIZES = Sizes((64, 128, 256, 512), (192,), 3)


def truth() -> CostModel:
    return replace(load_cost_model(find_cost("shapes")), dispatch_s=0.002, reshard_s=0.007)


def measured(sizes: Sizes, degrees: list[int], guided: bool) -> tuple[CostModel, list[Request], int]:
    requests = requests_for("shapes", sizes, degrees, guided, TOKEN)
    watch = Stopwatch()
    outcome = simulate(SimConfig(OneAtATime(), requests, "measure", truth(), max(degrees), check=True), [watch])
    assert outcome.result["completed"] == len(requests)
    return cost_from(watch.samples, requests, sizes, "simulated", "found"), requests, len(watch.samples)


def test_it_finds_the_costs_of_the_machine_at_every_size_it_measured() -> None:
    found, requests, _ = measured(SIZES, [1, 2], guided=True)
    assert found.degrees("shapes") == (1, 2)
    assert found.stages("shapes") == tuple(s for s in Stage if s is not Stage.TIMESTEPS)
    for request in requests:
        if request.width not in SIZES.fitted:
            continue
        for stage in found.stages("shapes"):
            degree = request.priority
            expected = truth().seconds(request, stage, degree)
            assert found.seconds(request, stage, degree) == pytest.approx(expected, abs=2e-6), (request.id, stage)
    assert found.dispatch_s == pytest.approx(0.002, abs=1e-6)
    assert found.reshard_s == pytest.approx(0.007, abs=1e-6)


def test_the_fit_error_is_how_far_the_table_is_off_where_it_was_not_measured() -> None:
    found, requests, _ = measured(Sizes((64, 512), (256,), 3), [1], guided=False)
    (held,) = [request for request in requests if request.width == 256]
    actual, table = (model.seconds(held, Stage.DENOISE, 1) for model in (truth(), found))
    error = found.extra["fit_error"]
    assert isinstance(error, dict)
    assert error["median"] == error["max"] == pytest.approx(abs(table - actual) / actual, abs=1e-4)
    assert error["max"] > 0.2 and error["held_out"] == ["256x256"]


def test_only_one_request_runs_at_a_time_on_as_many_ranks_as_asked() -> None:
    _, requests, samples = measured(QUICK, [1, 2, 4], guided=False)
    assert samples == sum(request.steps + 4 for request in requests)  # encode, prepare, decode, finalize and the steps


def test_the_file_reads_back_as_the_same_model() -> None:
    found, _, _ = measured(SIZES, [1, 2], guided=True)
    assert parse_cost_model(cost_model_to_json(found)) == found
