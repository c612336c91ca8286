"""A workload's request in the words of a pipeline."""

from __future__ import annotations

import pytest

from gfdit.core.work import Request
from gfdit.live.system import GUIDED_SCALE, pipeline_inputs
from gfdit.worker.tasks import ModelFacts


def facts(**changes: object) -> ModelFacts:
    known = {"branches": 2, "video": False, "frame_factor": 1, "defaults": {}, **changes}
    return ModelFacts("m", "f", 4, (1, 2), token_height=8, token_width=8, **known)  # type: ignore[arg-type]


def request(**changes: object) -> Request:
    return Request("r", "m", "any", 0, 64, 32, 4, 32, prompt="a", seed=7, **changes)  # type: ignore[arg-type]


def test_sizes_steps_and_seed() -> None:
    told = pipeline_inputs(request(negative_prompt="b", cfg=True), facts(defaults={"true_cfg_scale": 5.0}))
    assert told == {
        "prompt": "a",
        "negative_prompt": "b",
        "height": 64,
        "width": 32,
        "num_inference_steps": 4,
        "seed": 7,
    }


@pytest.mark.parametrize(
    ("cfg", "defaults", "branches", "scale"),
    [
        (False, {"true_cfg_scale": 5.0}, 2, 1.0),
        (True, {"true_cfg_scale": 5.0}, 2, None),
        (True, {"true_cfg_scale": 1.0}, 2, GUIDED_SCALE),
        (True, {}, 2, GUIDED_SCALE),
        (True, {}, 1, None),
        (False, {}, 1, None),
    ],
)
def test_guidance_is_as_the_request_says(
    cfg: bool, defaults: dict[str, float], branches: int, scale: float | None
) -> None:
    told = pipeline_inputs(request(cfg=cfg), facts(branches=branches, defaults=defaults))
    assert told.get("true_cfg_scale") == scale


def test_a_model_of_videos_is_told_its_frames_even_one() -> None:
    assert pipeline_inputs(request(), facts(video=True))["num_frames"] == 1
    assert pipeline_inputs(request(frames=9), facts(video=True))["num_frames"] == 9
    assert "num_frames" not in pipeline_inputs(request(), facts())
