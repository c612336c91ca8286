"""Generated workloads: their course, their mix, their budgets and their load are the profile's."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gfdit.core.work import Request
from gfdit.errors import UsageError
from gfdit.runtime.costfile import load_cost_model
from gfdit.runtime.workload import parse_workload, workload_line
from gfdit.sim.generate import WorkloadSpec, facts_of, generate, single_gpu_s
from gfdit.sim.profiles import PROFILES, profile_named
from gfdit.units import to_s

COSTS = Path(__file__).parents[2] / "gfdit" / "_data" / "cost"
QWEN = load_cost_model(COSTS / "qwen-h20.cost.json")
WAN = load_cost_model(COSTS / "wan5b.cost.json")
SHARED = Path(__file__).parents[3] / "shared" / "data"
PIECEWISE = PROFILES[:4]


def made(profile: str, **more: float) -> list[Request]:
    return generate(WorkloadSpec(profile, "qwen-image", **more), QWEN)  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", PROFILES)
def test_equal_seeds_give_equal_workloads_that_read_back(profile: str) -> None:
    requests = made(profile, load=0.5, window_s=900, seed=4)
    assert requests == made(profile, load=0.5, window_s=900, seed=4)
    assert requests != made(profile, load=0.5, window_s=900, seed=5)
    assert len({request.id for request in requests}) == len(requests)
    back = parse_workload([workload_line(request) for request in requests], "w")
    assert Counter((r.class_name, r.steps, r.tokens, r.slo_ns) for r in back) == Counter(
        (r.class_name, r.steps, r.tokens, r.slo_ns) for r in requests
    )


@pytest.mark.parametrize("profile", PIECEWISE)
def test_rates_and_mixes_of_every_phase_are_the_profiles(profile: str) -> None:
    gpus = 512  # 64 times the rates: shares are sharp
    requests = generate(WorkloadSpec(profile, "qwen-image", gpus, seed=1), QWEN)
    for phase in profile_named(profile, "qwen-image", 1).phases:
        inside = [r for r in requests if phase.start_s <= to_s(r.arrival_ns) < phase.end_s]
        expected = phase.per_minute * gpus / 8 * (phase.end_s - phase.start_s) / 60
        assert len(inside) == pytest.approx(expected, abs=5 * expected**0.5)
        counts = Counter(request.class_name for request in inside)
        for name, share in phase.mix.items():
            spread = (share * (1 - share) / len(inside)) ** 0.5
            assert counts[name] / len(inside) == pytest.approx(share, abs=5 * spread + 1e-12)
    covered = sum(p.start_s <= to_s(r.arrival_ns) <= p.end_s for r in requests
                  for p in profile_named(profile, "qwen-image", 1).phases)  # fmt: skip
    assert covered >= len(requests)


def test_arrivals_of_a_phase_are_poisson_and_those_of_production_a_little_rougher() -> None:
    def gap_cv(requests: list[Request], start: float, end: float) -> float:
        times = np.unique([to_s(r.arrival_ns) for r in requests if start <= to_s(r.arrival_ns) < end])
        gaps = np.diff(times)
        return float(gaps.std() / gaps.mean())

    assert gap_cv(made("tridentserve", load=20.0), 0, 600) == pytest.approx(1.0, abs=0.05)
    day = generate(WorkloadSpec("production", "qwen-image", 64), QWEN)
    assert gap_cv(day, 3600, 7200) == pytest.approx(1.055, abs=0.15)


@pytest.mark.parametrize("load", [0.5, 1.2])
@pytest.mark.parametrize("profile", PROFILES)
def test_load_is_what_was_asked_for(profile: str, load: float) -> None:
    spec = WorkloadSpec(profile, "qwen-image", 64, seed=2, load=load, window_s=3600)
    facts = facts_of(generate(spec, QWEN), QWEN, 64, 3600)
    assert facts.load == pytest.approx(load, rel=0.1)


@pytest.mark.parametrize("profile", PROFILES)
def test_an_overload_has_three_times_the_rate_in_the_middle_third(profile: str) -> None:
    window = 3600.0
    spec = WorkloadSpec(profile, "qwen-image", 32, seed=2, load=0.5, window_s=window)
    calm, surge = generate(spec, QWEN), generate(replace(spec, variant="overload"), QWEN)

    def thirds(requests: list[Request]) -> list[int]:
        return np.histogram([to_s(r.arrival_ns) for r in requests], [0, window / 3, 2 * window / 3, window])[0].tolist()

    for factor, before, after in zip((1, 3, 1), thirds(calm), thirds(surge), strict=True):
        spread = 6 * max(1, factor * before) ** 0.5 * (8 if profile == "production" else 1)  # several images at once
        assert after == pytest.approx(factor * before, abs=spread)
    assert generate(replace(spec, variant="failure"), QWEN) == calm
    with pytest.raises(UsageError, match="no workload variant `storm`"):
        generate(replace(spec, variant="storm"), QWEN)


def test_classes_and_budgets_of_images_and_video() -> None:
    by_class = {request.class_name: request for request in made("shift", load=2.0)}
    assert {name: (r.height, r.tokens, r.steps, r.priority) for name, r in by_class.items()} == {
        "S": (512, 1024, 50, 100), "M": (1024, 4096, 50, 50), "L": (1536, 9216, 50, 0),
    }  # fmt: skip
    for name, alpha in (("S", 1.5), ("M", 2.0), ("L", 6.0)):
        assert to_s(by_class[name].slo_ns or 0) == pytest.approx(alpha * single_gpu_s(by_class[name], QWEN))
    videos = generate(WorkloadSpec("shift", "wan2.2-ti2v-5b", load=2.0, slo_scale=0.5), WAN)
    video = {request.class_name: request for request in videos}
    assert {n: (r.height, r.width, r.frames) for n, r in video.items()} == {
        "S": (480, 832, 49), "M": (480, 832, 81), "L": (720, 1280, 81),
    }  # fmt: skip
    for name, alpha in (("S", 2.0), ("M", 2.5), ("L", 3.5)):
        assert to_s(video[name].slo_ns or 0) == pytest.approx(0.5 * alpha * single_gpu_s(video[name], WAN))


def test_constant_mixes_follow_their_papers() -> None:
    tetri = {r.class_name: r for r in made("tetriserve", window_s=6000)}
    assert {name: to_s(r.slo_ns or 0) for name, r in tetri.items()} == {
        "256": 1.5,
        "512": 2.0,
        "1024": 3.0,
        "2048": 5.0,
    }
    trident = made("tridentserve")
    assert {r.height for r in trident} == {128, 256, 512, 1024, 1536} and {r.steps for r in trident} == {28}
    assert len(trident) / 600 == pytest.approx(1.5, abs=0.25)
    with pytest.raises(UsageError, match="makes video"):
        generate(WorkloadSpec("tetriserve", "wan2.2-ti2v-5b"), WAN)


def test_production_has_the_traces_steps_and_images() -> None:
    requests = made("production", load=5.0, window_s=7200)
    assert sum(r.steps == 30 for r in requests) / len(requests) == pytest.approx(0.915, abs=0.05)
    images = Counter(request.id.partition(".")[0] for request in requests)
    sizes = Counter(images.values())
    for count, share in ((1, 0.58), (2, 0.08), (4, 0.20), (8, 0.15)):
        assert sizes[count] / len(images) == pytest.approx(share, abs=0.06)
    siblings = [r for r in requests if "." in r.id]
    assert len({(r.id.partition(".")[0], r.arrival_ns, r.slo_ns) for r in siblings}) == len(
        {r.id.partition(".")[0] for r in siblings}
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the trace")
def test_the_fitted_numbers_are_the_traces() -> None:
    fitted = json.loads((COSTS.parent / "production" / "gentd26.json").read_text("utf-8"))
    lines = (SHARED / "traces" / "gentd26.csv").read_text("utf-8").splitlines()[1:]
    days = Counter(float(line.split(",")[0]) // 86400 for line in lines)
    busy = [count for count in days.values() if count > len(lines) / 32]
    assert len(lines) == fitted["requests"] and len(busy) == fitted["working_days"]
    assert sum(fitted["working_per_hour"]) == pytest.approx(sum(busy) / len(busy), abs=0.2)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (WorkloadSpec("shfit", "qwen-image"), "no workload profile `shfit`"),
        (WorkloadSpec("short", "qwen-image", load=0.001, window_s=1.0), "no request arrives"),
        (WorkloadSpec("production", "qwen-image", gpus=65536, load=100.0), "would have about"),
    ],
)
def test_what_cannot_be_made_is_refused(spec: WorkloadSpec, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        generate(spec, QWEN)
