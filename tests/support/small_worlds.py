"""A small cost model and workloads for it, shared by tests."""

from __future__ import annotations

import random

from gfdit.core.cost import CostModel, Quadratic, StageCost
from gfdit.core.work import Request
from gfdit.units import to_ns


def make_cost() -> CostModel:
    def flat(seconds: float, *degrees: int) -> StageCost:
        return StageCost("one", {degree: Quadratic(0, 0, seconds / degree**0.8) for degree in degrees})

    stages = {
        "encode": flat(0.02, 1),
        "prepare": flat(0.01, 1, 2, 4),
        "denoise": StageCost("tokens", {d: Quadratic(0, 1e-4 / d**0.8, 0.002) for d in (1, 2, 4)}),
        "decode": flat(0.03, 1),
    }
    return CostModel("made", {"m": stages}, dispatch_s=1e-5, reshard_s=0.001)


def make_request(
    number: int, arrival_s: float = 0.0, *, tokens: int = 1024, steps: int = 4, slo_s: float | None = None
) -> Request:
    return Request(
        id=f"r{number:03}",
        model="m",
        class_name="c",
        arrival_ns=to_ns(arrival_s),
        height=64,
        width=64,
        steps=steps,
        tokens=tokens,
        slo_ns=None if slo_s is None else to_ns(slo_s),
    )


def make_workload(seed: int, count: int = 40) -> list[Request]:
    pick = random.Random(seed)
    return [
        make_request(
            n, pick.uniform(0, 3), tokens=pick.choice((256, 1024, 4096)), steps=pick.randint(1, 6),
            slo_s=pick.choice((None, 0.3, 1.0, 5.0)),
        )
        for n in range(count)
    ]  # fmt: skip
