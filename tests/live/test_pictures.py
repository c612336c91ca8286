"""The same system with the embedded model on CPU workers: groups change, a worker dies, the picture stays the same."""

from __future__ import annotations

import io
import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from gfdit.core.cost import CostModel
from gfdit.core.work import Outcome, Request
from gfdit.live.system import LiveConfig, start_live
from gfdit.models import embedded_model_path
from gfdit.runtime.costfile import parse_cost_model
from tests.live.emulation import Log, Restless
from tests.live.test_system import When, in_flight


def cost() -> CostModel:
    def stage(per: str, degrees: tuple[int, ...]) -> dict[str, object]:
        return {"x": "one", "per": per, "degrees": {str(d): {"quadratic_s": [0, 0, 0.1]} for d in degrees}}

    single = {name: stage("request", (1,)) for name in ("encode", "decode", "finalize")}
    stages = {**single, "prepare": stage("request", (1, 2)), "denoise": stage("step", (1, 2))}
    models = {"shapes": {"stages": stages}}
    return parse_cost_model(json.dumps({"format": "gfdit-cost/1", "name": "t", "models": models}))


def request(name: str) -> Request:
    prompt = "a red circle on a blue background"
    return Request(name, "shapes", "any", 0, 64, 64, 6, 64, prompt=prompt, seed=3, cfg=True)


@pytest.mark.slow
def test_a_picture_is_the_same_whatever_happens_to_its_group() -> None:
    pictures: dict[str, np.ndarray] = {}

    def pixels(png: bytes | None) -> np.ndarray:
        assert png is not None
        return np.asarray(Image.open(io.BytesIO(png)), dtype=np.int16)

    for workers in (1, 2):
        config = LiveConfig(Restless(), cost(), device="cpu", model=embedded_model_path(), workers=workers)
        with start_live(config) as system:
            log = Log()

            def kill(system: object = system) -> None:
                rank = in_flight(system, 2)[0]  # type: ignore[arg-type]
                os.kill(system.fleet.supervisor.lives[rank].pid, signal.SIGKILL)  # type: ignore[attr-defined]

            (ticket,) = system.feed([request(f"on {workers}")])
            system.close_intake()
            system.run([log, When(lambda system=system: bool(in_flight(system, 2)), kill)])
            assert ticket.progress.outcome is Outcome.COMPLETED, ticket.progress
            assert ticket.progress.steps_done == 6
            assert len(log.lost) == workers - 1
            pictures[f"on {workers}"] = pixels(ticket.output)
    assert pictures["on 1"].shape == (64, 64, 3)
    assert pictures["on 1"].std() > 0
    # 1e-4 of full scale may fall on either side of a rounding
    assert np.abs(pictures["on 1"] - pictures["on 2"]).max() <= 1
